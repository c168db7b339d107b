//! One diagnostic as text: message, excerpt, underlines, help. The only file that knows miette.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};
use rgraph_ir::{Diagnostic, Severity, SourceFile, SourceMap, Span};

use crate::progress::sanitize::{blank, harmless};

/// Draws a finding, without a line end at the end. `NAME:LINE` stands in its message.
pub(super) fn draw(d: &Diagnostic, map: &SourceMap, colours: bool) -> io::Result<String> {
    let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        // A message must stay in one piece: tools look for `NAME:LINE` and for its words.
        .with_wrap_lines(false)
        .with_context_lines(1)
        .render_report(&mut text, &Drawing::new(d, map))
        .map_err(|_| io::Error::other("cannot draw a diagnostic"))?;
    Ok(text.trim_end().trim_start_matches('\n').to_owned())
}

/// Of more places about which there is nothing to say, half as many are drawn, the first ones.
const MOST_SILENT: usize = 8;

/// A diagnostic with its source, as miette wants it: owned and harmless.
#[derive(Debug)]
struct Drawing {
    message: String,
    code: &'static str,
    severity: miette::Severity,
    help: Option<String>,
    url: Option<&'static str>,
    source: Option<Excerpt>,
    labels: Vec<LabeledSpan>,
}

impl Drawing {
    fn new(d: &Diagnostic, map: &SourceMap) -> Self {
        let place = d.span();
        let message = harmless(&d.message);
        let message = match place {
            Some(span) => format!("{}: {message}", harmless(&map.locate(span))),
            None => message,
        };
        let mut help: Vec<String> = d.help.iter().map(|h| harmless(h)).collect();
        let mut labels = Vec::new();
        let silent = d.labels.iter().filter(|l| l.text.is_empty()).count();
        let mut nth = 0;
        for label in &d.labels {
            nth += usize::from(label.text.is_empty());
            let drawn = nth <= MOST_SILENT / 2 || !label.text.is_empty();
            if silent > MOST_SILENT && !drawn {
                continue;
            }
            if Some(label.span.file) != place.map(|p| p.file) {
                // miette draws one source: places in others are named.
                help.push(format!(
                    "see {}: {}",
                    harmless(&map.locate(label.span)),
                    harmless(&label.text)
                ));
                continue;
            }
            let text = Some(harmless(&label.text)).filter(|t| !t.is_empty());
            let range = visible(map.file(label.span.file), label.span);
            labels.push(if labels.is_empty() {
                LabeledSpan::new_primary_with_span(text, range)
            } else {
                LabeledSpan::new_with_span(text, range)
            });
        }
        let source = place.map(|p| Excerpt::new(map.file(p.file), &labels));
        Self {
            message,
            code: d.code,
            severity: match d.severity {
                Severity::Note => miette::Severity::Advice,
                Severity::Warning => miette::Severity::Warning,
                Severity::Error => miette::Severity::Error,
            },
            help: (!help.is_empty()).then(|| help.join("\n")),
            url: d.url,
            source,
            labels,
        }
    }
}

/// The lines around all labels of one file, harmless, at their positions in the whole text: a large
/// file is neither copied nor searched for every finding.
#[derive(Debug)]
struct Excerpt {
    name: String,
    text: String,
    /// Byte of the whole text that `text` begins at: the beginning of a line.
    start: usize,
    /// Lines before it.
    lines_before: usize,
}

impl Excerpt {
    fn new(file: &SourceFile, labels: &[LabeledSpan]) -> Self {
        let low = labels.iter().map(LabeledSpan::offset).min().unwrap_or(0);
        let high = labels.iter().map(|l| l.offset() + l.len()).max().unwrap_or(0);
        let bytes = file.text.as_bytes();
        let line_start =
            |at: usize| bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let line_end = |at: usize| {
            bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| at + i + 1)
        };
        let start = line_start(line_start(low).saturating_sub(1));
        let end = line_end(line_end(high));
        Self {
            name: harmless(&file.name),
            text: blank(&file.text[start..end]),
            start,
            lines_before: file.line_col(start as u32).line as usize - 1,
        }
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let at = span.offset().checked_sub(self.start).ok_or(MietteError::OutOfBounds)?;
        let c = self.text.read_span(&(at, span.len()).into(), before, after)?;
        let span = (c.span().offset() + self.start, c.span().len()).into();
        let line = c.line() + self.lines_before;
        let name = self.name.clone();
        let c =
            MietteSpanContents::new_named(name, c.data(), span, line, c.column(), c.line_count());
        Ok(Box::new(c))
    }
}

/// Start and length of what is underlined: inside the text, on whole characters, and no more than
/// the first line of an instruction of many.
fn visible(file: &SourceFile, span: Span) -> (usize, usize) {
    let text = &file.text;
    let edge = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (start, end) = (edge(span.start as usize), edge(span.end as usize));
    let part = text.get(start..end).unwrap_or_default();
    let first = part.split('\n').next().unwrap_or_default().trim_end();
    (start, first.len())
}

impl fmt::Display for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Drawing {}

impl miette::Diagnostic for Drawing {
    fn code(&self) -> Option<Box<dyn fmt::Display + '_>> {
        let word = match self.severity {
            miette::Severity::Error => "error",
            miette::Severity::Warning => "warning",
            miette::Severity::Advice => "note",
        };
        Some(Box::new(format!("{word}[{}]", self.code)))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        let text = match (&self.help, self.url) {
            (Some(h), Some(u)) => format!("{h}\n{u}"),
            (Some(h), None) => h.clone(),
            (None, Some(u)) => u.to_owned(),
            (None, None) => return None,
        };
        Some(Box::new(text))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|s| s as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}
