//! What one definition may cost. Doubling a value forty times is a line of text each time; here it
//! ends when the value, or all values together, pass a bound.

use std::cell::Cell;
use std::ops::Range;

use rgraph_ir::limits::{MAX_BAKE_BYTES, MAX_BAKE_STEPS, MAX_BAKE_VALUE};
use rgraph_ir::{Diagnostic, FileId, Severity, Span};

/// Deepest nesting of evaluation: expressions, variables that need variables, functions that call
/// functions, all together.
pub const MAX_DEPTH: usize = 2_000;

/// An error in a bake file.
#[derive(Debug, Clone)]
pub struct Error {
    pub message: String,
    pub span: Option<Span>,
    pub help: Option<String>,
    /// More of the same would only cost more: `try` and `can` do not take it.
    pub is_limit: bool,
}

/// What everything here gives.
pub type Result<T> = std::result::Result<T, Box<Error>>;

impl Error {
    /// An error whose place is not known yet.
    pub fn new(message: impl Into<String>) -> Box<Self> {
        Box::new(Self { message: message.into(), span: None, help: None, is_limit: false })
    }

    /// A bound that was passed.
    pub fn limit(message: impl Into<String>) -> Box<Self> {
        Box::new(Self { is_limit: true, ..*Self::new(message) })
    }

    /// Adds what to do.
    pub fn help(mut self: Box<Self>, help: impl Into<String>) -> Box<Self> {
        self.help.get_or_insert_with(|| help.into());
        self
    }

    /// Adds the place, unless a more exact one is known.
    pub fn at(mut self: Box<Self>, file: FileId, range: Option<Range<usize>>) -> Box<Self> {
        if let (None, Some(r)) = (self.span, range) {
            let end = r.end.max(r.start);
            self.span = Some(Span { file, start: r.start as u32, end: end as u32 });
        }
        self
    }

    /// Adds in front what the error is about.
    pub fn about(mut self: Box<Self>, what: &str) -> Box<Self> {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// As the caller sees it.
    pub fn into_diagnostic(self) -> Diagnostic {
        self.diagnostic(Severity::Error)
    }

    /// The same as what may go on.
    pub fn into_warning(self) -> Diagnostic {
        self.diagnostic(Severity::Warning)
    }

    fn diagnostic(self, severity: Severity) -> Diagnostic {
        let mut d = Diagnostic::new(severity, "bake", self.span, self.message);
        d.help = self.help;
        d
    }
}

/// What is left to spend.
#[derive(Debug)]
pub struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    depth: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            steps: Cell::new(MAX_BAKE_STEPS),
            bytes: Cell::new(MAX_BAKE_BYTES),
            depth: Cell::new(0),
        }
    }
}

impl Budget {
    /// Pays for work.
    pub fn steps(&self, n: usize) -> Result<()> {
        match self.steps.get().checked_sub(n as u64) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(Error::limit(format!(
                "this takes more than {MAX_BAKE_STEPS} steps to evaluate, which no bake file needs"
            ))),
        }
    }

    /// Pays for a value of this weight before it is made.
    pub fn value(&self, weight: usize) -> Result<()> {
        if weight > MAX_BAKE_VALUE {
            return Err(Error::limit(format!(
                "a value would be larger than {MAX_BAKE_VALUE} bytes"
            )));
        }
        match self.bytes.get().checked_sub(weight as u64) {
            Some(left) => {
                self.bytes.set(left);
                self.steps(1)
            }
            None => Err(Error::limit(format!(
                "all values together would be larger than {MAX_BAKE_BYTES} bytes"
            ))),
        }
    }

    /// One level deeper, as long as the result lives.
    pub fn deeper(&self) -> Result<Level<'_>> {
        self.steps(1)?;
        if self.depth.get() >= MAX_DEPTH {
            return Err(Error::limit(format!(
                "values need each other over more than {MAX_DEPTH} levels"
            )));
        }
        self.depth.set(self.depth.get() + 1);
        Ok(Level(self))
    }
}

/// A level of evaluation.
pub struct Level<'a>(&'a Budget);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.depth.set(self.0.depth.get() - 1);
    }
}
