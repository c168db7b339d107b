//! Errors and warnings about a text, as data. Only the command line draws them.

use crate::span::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Something to know.
    Note,
    /// The build goes on.
    Warning,
    /// The build does not start.
    Error,
}

/// A place in a text, and what is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The place to underline.
    pub span: Span,
    /// Said beside the underline; may be empty.
    pub text: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// A stable name: a lint rule (`StageNameCasing`) or an error code (`unknown-instruction`).
    pub code: &'static str,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// Where; the first one is the place itself. Empty only when no text is concerned.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
    /// Where to read more.
    pub url: Option<&'static str>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, Some(span), message)
    }

    /// A warning at `span`.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, Some(span), message)
    }

    /// A finding, at a place or about no text at all.
    pub fn new(
        severity: Severity,
        code: &'static str,
        span: Option<Span>,
        message: impl Into<String>,
    ) -> Self {
        let labels = span.map(|span| Label { span, text: String::new() }).into_iter().collect();
        Self { severity, code, message: message.into(), labels, help: None, url: None }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a further place, or says more about one.
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// The place itself.
    pub fn span(&self) -> Option<Span> {
        self.labels.first().map(|l| l.span)
    }
}
