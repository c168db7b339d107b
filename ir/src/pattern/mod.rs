//! Path patterns: ignore files, `--exclude`, `--parents` and the wildcards of `COPY`.
//!
//! Two dialects, as in Docker: [`PatternSet`] follows moby's `patternmatcher` (`**`, `!`, the last
//! match wins, a match of a folder covers what is below), [`Glob`] follows Go's `filepath.Match`.
//! Both run on one automaton ([`nfa`]) that reads a name once and never goes back, so the time is
//! at most the length of the pattern times the length of the name, whatever the sender wrote.
//!
//! Names are bytes; a byte that is no UTF-8 counts as U+FFFD, as in Go.

mod glob;
mod ignore;
mod nfa;
mod translate;

use std::fmt;

pub use glob::{Glob, glob_match};
pub use ignore::{Pattern, PatternSet, Verdict};

/// Why a text is not a pattern, or a list of them too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    /// The line it stands on, from 1; for a list, its position from 1.
    pub line: u32,
    /// The pattern, cut.
    pub pattern: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl PatternError {
    fn new(line: u32, pattern: &str, why: &'static str) -> Self {
        Self { line, pattern: pattern.chars().take(128).collect(), why }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}` is not a pattern: {}", self.line, self.pattern, self.why)
    }
}

impl std::error::Error for PatternError {}

/// Go's `path.Clean`: no empty components, no `.`, `..` resolved by text; `.` for nothing.
pub fn clean(path: &str) -> String {
    if is_clean(path) {
        return path.to_owned();
    }
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// [`clean`] of a text that is nobody else's.
pub fn cleaned(path: String) -> String {
    if is_clean(&path) { path } else { clean(&path) }
}

/// True when [`clean`] surely changes nothing: most paths that people write. One that begins with a
/// dot in a component may be clean too.
pub fn is_clean(path: &str) -> bool {
    let mut at_start = true;
    let simple = path.bytes().enumerate().all(|(at, b)| {
        let good = !at_start || b != b'.' && (b != b'/' || at == 0);
        at_start = b == b'/';
        good
    });
    simple && !path.is_empty() && (!at_start || path == "/")
}

#[cfg(test)]
mod tests;
