//! Go's `filepath.Match`, for the wildcards of `COPY` and `ADD`.

use super::PatternError;
use super::nfa::{Nfa, Set, State};

/// A compiled pattern of `filepath.Match`: `*` and `?` stop at `/`, `[a-z]` and `[^a-z]`, `\x` is
/// `x`. `**` means no more than `*`; who walks folders gives it a meaning component by component.
#[derive(Debug, Clone)]
pub struct Glob(Nfa);

impl Glob {
    /// Compiles `pattern`.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let states = states(pattern).map_err(|why| PatternError::new(1, pattern, why))?;
        Ok(Self(Nfa::new(states)))
    }

    /// True when the whole of `name` matches.
    pub fn matches(&self, name: impl AsRef<[u8]>) -> bool {
        self.0.run(name.as_ref()).whole
    }
}

/// `filepath.Match(pattern, name)`; an error for what Go calls a bad pattern, whatever the name.
pub fn glob_match(pattern: &str, name: impl AsRef<[u8]>) -> Result<bool, PatternError> {
    Ok(Glob::new(pattern)?.matches(name))
}

/// Reads a pattern, or says why it is none.
pub(super) fn states(pattern: &str) -> Result<Vec<State>, &'static str> {
    let mut out = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        out.push(match c {
            '*' => {
                if out.last() == Some(&State::Star(Set::NotSlash)) {
                    continue;
                }
                State::Star(Set::NotSlash)
            }
            '?' => State::One(Set::NotSlash),
            '[' => State::One(class(&mut rest)?),
            '\\' => {
                let c = rest.chars().next().ok_or("a lone `\\` at the end")?;
                rest = &rest[c.len_utf8()..];
                State::One(Set::Char(c))
            }
            c => State::One(Set::Char(c)),
        });
    }
    Ok(out)
}

fn class(rest: &mut &str) -> Result<Set, &'static str> {
    let negated = rest.starts_with('^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty()
            && let Some(r) = rest.strip_prefix(']')
        {
            *rest = r;
            return Ok(Set::Class { negated, ranges });
        }
        let lo = class_char(rest)?;
        let hi = match rest.strip_prefix('-') {
            Some(r) => {
                *rest = r;
                class_char(rest)?
            }
            None => lo,
        };
        ranges.push((lo, hi));
    }
}

fn class_char(rest: &mut &str) -> Result<char, &'static str> {
    const OPEN: &str = "`[` without `]`";
    let mut it = rest.chars();
    let c = match it.next().ok_or(OPEN)? {
        '-' | ']' => {
            return Err("a `-` or `]` that does not stand for itself (write `\\-`, `\\]`)");
        }
        '\\' => it.next().ok_or(OPEN)?,
        c => c,
    };
    *rest = it.as_str();
    if rest.is_empty() { Err(OPEN) } else { Ok(c) }
}
