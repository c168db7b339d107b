//! `# key=value` lines at the top of a file: `syntax`, `escape`, `check`.

use rgraph_ir::{Diagnostic, Span};

use crate::ast::Word;

/// One directive.
#[derive(Debug, Clone)]
pub struct Directive {
    /// Lower case.
    pub key: &'static str,
    /// What it says.
    pub value: Word,
}

/// Reads directives until the first line that is none.
#[derive(Debug, Default)]
pub struct DirectiveReader {
    done: bool,
    after_shebang: bool,
    seen: Vec<&'static str>,
}

const KNOWN: [&str; 3] = ["syntax", "escape", "check"];

impl DirectiveReader {
    /// Reads one line whose leading blanks are gone.
    pub fn read(&mut self, line: &str, span: Span) -> Result<Option<Directive>, Box<Diagnostic>> {
        if self.done {
            return Ok(None);
        }
        if line.starts_with("#!") && self.seen.is_empty() && !self.after_shebang {
            self.after_shebang = true;
            return Ok(None);
        }
        let Some((key, value)) = line.strip_prefix('#').and_then(split) else {
            self.done = true;
            return Ok(None);
        };
        let Some(key) = KNOWN.into_iter().find(|k| k.eq_ignore_ascii_case(key)) else {
            self.done = true;
            return Ok(None);
        };
        // Below a `#!` line BuildKit looks for `syntax` and `check` only.
        if self.after_shebang && key == "escape" {
            self.done = true;
            return Ok(None);
        }
        if self.seen.contains(&key) {
            return Err(Box::new(Diagnostic::error(
                "repeated-directive",
                span,
                format!("only one {key} parser directive can be used"),
            )));
        }
        self.seen.push(key);
        Ok(Some(Directive { key, value: Word { text: value.to_owned(), span } }))
    }
}

/// `key = value`, both trimmed.
pub(crate) fn split(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.trim_start().split_once('=')?;
    let key = key.trim_end();
    let value = value.trim();
    let named = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric());
    (named && !value.is_empty()).then_some((key, value))
}
