//! `# key=value` lines at the top of a file: `syntax`, `escape`, `check`; and `# cache=ttl=24h` above
//! an instruction, which is a comment to everybody else.

use rgraph_ir::ttl::TtlError;
use rgraph_ir::{Diagnostic, Span, Ttl};

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
    /// True below a `#!` line.
    pub fn after_shebang(&self) -> bool {
        self.after_shebang
    }

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
        if self.seen.contains(&key) && self.after_shebang {
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
        // Below a `#!` line BuildKit looks for `syntax` and `check` only.
        if self.after_shebang && key == "escape" {
            return Ok(None);
        }
        Ok(Some(Directive { key, value: Word { text: value.into(), span } }))
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

/// How long the result of an instruction is good for, by the comments directly above it. `None`: they
/// do not say.
pub(crate) fn ttl(comments: &[String]) -> Option<Result<Ttl, TtlError>> {
    comments.iter().rev().find_map(|c| {
        let (_, value) = split(c).filter(|(key, _)| key.eq_ignore_ascii_case("cache"))?;
        let text = value.strip_prefix("ttl=")?;
        Some(text.split(' ').next().unwrap_or_default().parse())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls() {
        let day = Some(Ok(Ttl::seconds(86_400)));
        for (comments, want) in [
            (&["cache=ttl=24h"][..], day),
            (&["Cache = ttl=24h because it moves"], day),
            (&["cache=ttl=1h", "cache=ttl=24h"], day),
            (&["cache=ttl=24h", "the next line installs"], day),
            (&["cache=ttl=soon"], Some(Err(TtlError))),
            (&["cache=ttl="], Some(Err(TtlError))),
            (&["cache=warm", "the cache: ttl=24h", "check=skip=ttl=24h"], None),
            (&[], None),
        ] {
            let comments: Vec<String> = comments.iter().map(|c| (*c).to_owned()).collect();
            assert_eq!(ttl(&comments), want, "{comments:?}");
        }
    }
}
