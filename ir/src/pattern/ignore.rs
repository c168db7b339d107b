//! Lists of patterns: ignore files, `--exclude`, include patterns.

use super::nfa::Nfa;
use super::translate::{Shape, shape, states};
use super::{PatternError, clean, glob};
use crate::limits::{MAX_IGNORE_FILE, MAX_LINE, MAX_PATTERNS};

/// One pattern of a list.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    /// What it was made of, where that differs from how it prints.
    written: Option<Box<str>>,
    negated: bool,
    line: u32,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    Exact,
    Prefix(String),
    Suffix(String),
    Automaton(Nfa),
}

/// A list of patterns. The last pattern that matches a path, or a folder above it, decides.
#[derive(Debug, Clone, Default)]
pub struct PatternSet {
    patterns: Vec<Pattern>,
}

/// Which pattern decided, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Position in the list.
    pub index: usize,
    /// Line in the ignore file, from 1.
    pub line: u32,
    /// True: the path is matched (an ignore file hides it); false: a `!` pattern took it back.
    pub matched: bool,
}

impl PatternSet {
    /// Compiles a list in order; blank ones are left out. `line` of an error and of a [`Verdict`]
    /// is the position from 1.
    pub fn new<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Result<Self, PatternError> {
        let mut set = Self::default();
        for (i, text) in list.into_iter().enumerate() {
            set.push(i as u32 + 1, text.as_ref())?;
        }
        Ok(set)
    }

    /// Reads an ignore file: one pattern per line, `#` in the first column starts a comment, a byte
    /// order mark and carriage returns are dropped, blanks around are trimmed, a leading `/` means
    /// nothing.
    pub fn parse(file: &[u8]) -> Result<Self, PatternError> {
        if file.len() > MAX_IGNORE_FILE {
            return Err(PatternError::new(1, "", "the ignore file is over 1 MiB"));
        }
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let mut set = Self::default();
        for (i, line) in file.split(|b| *b == b'\n').enumerate() {
            let number = i as u32 + 1;
            if line.len() > MAX_LINE {
                let start = String::from_utf8_lossy(&line[..64]);
                return Err(PatternError::new(number, &start, "the line is over 64 KiB"));
            }
            let line = String::from_utf8_lossy(line);
            if line.starts_with('#') {
                continue;
            }
            let mut text = line.trim();
            let negated = text.starts_with('!');
            if negated {
                text = text[1..].trim();
            }
            let mut cleaned = if text.is_empty() { String::new() } else { clean(text) };
            if cleaned.len() > 1 && cleaned.starts_with('/') {
                cleaned.remove(0);
            }
            if negated {
                cleaned.insert(0, '!');
            }
            set.push(number, &cleaned)?;
        }
        Ok(set)
    }

    fn push(&mut self, line: u32, text: &str) -> Result<(), PatternError> {
        let written = text;
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        let err = |why| PatternError::new(line, text, why);
        if self.patterns.len() == MAX_PATTERNS {
            return Err(err("there are more than 10000 patterns"));
        }
        let cleaned = clean(text);
        let (negated, body) = match cleaned.strip_prefix('!') {
            Some("") => return Err(err("nothing follows the `!`")),
            Some(body) => (true, body),
            None => (false, cleaned.as_str()),
        };
        // moby asks filepath.Match first whether the pattern is well formed, then uses other rules.
        glob::states(body).map_err(err)?;
        let matcher = match shape(body) {
            Shape::Exact => Matcher::Exact,
            Shape::Prefix(p) => Matcher::Prefix(p),
            Shape::Suffix(s) => Matcher::Suffix(s),
            Shape::Regex(re) => Matcher::Automaton(Nfa::new(states(&re).map_err(err)?)),
        };
        let written = (written != cleaned).then(|| written.into());
        self.patterns.push(Pattern { text: body.to_owned(), written, negated, line, matcher });
        Ok(())
    }

    /// The patterns in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// True when nothing is matched.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The patterns as BuildKit passes them on, and as [`Self::new`] takes them: of an ignore file's
    /// lines cleaned, without the leading `/`, `!` in front. Blanks that this uncovers stay.
    pub fn to_strings(&self) -> Vec<String> {
        let text = |p: &Pattern| p.written.as_deref().map_or_else(|| p.to_string(), str::to_owned);
        self.patterns.iter().map(text).collect()
    }

    /// The pattern that decides about `path` (relative, cleaned, `/` between components); `None`
    /// when none matches. Of `.` and of nothing, no pattern decides.
    ///
    /// This is moby's `MatchesOrParentMatches`: a pattern matches a path when it matches the path
    /// itself or any folder above it.
    pub fn verdict(&self, path: impl AsRef<[u8]>) -> Option<Verdict> {
        let path = trim(path.as_ref());
        if path.is_empty() || path == b"." {
            return None;
        }
        let last = self.patterns.iter().enumerate().rev().find(|(_, p)| p.covers(path));
        last.map(|(index, p)| Verdict { index, line: p.line, matched: !p.negated })
    }

    /// True when the list matches `path` or a folder above it and no later `!` takes it back.
    pub fn matches_or_parent(&self, path: impl AsRef<[u8]>) -> bool {
        self.verdict(path).is_some_and(|v| v.matched)
    }

    /// The last rule that matches `path` (cleaned) or a folder above it, of a list without `!`. Other than
    /// in `verdict`, a leading `/` counts: such a path is in a nameless folder, which `*` matches and a
    /// name does not.
    pub fn rule_as_written(&self, path: &str) -> Option<&Pattern> {
        let parents: Vec<usize> = match path.rfind('/') {
            None => Vec::new(),
            Some(0) => vec![0, 1],
            Some(_) => path.match_indices('/').map(|(i, _)| i).collect(),
        };
        let parts = || parents.iter().copied().chain([path.len()]).map(|end| &path[..end]);
        self.patterns.iter().rfind(|p| parts().any(|part| p.is(part.as_bytes())))
    }

    /// True when something below the folder `dir` may be free although `dir` is matched, so that a
    /// walk must go on. When false, nothing below is.
    pub fn may_free_below(&self, dir: impl AsRef<[u8]>) -> bool {
        let dir = trim(dir.as_ref());
        if dir.is_empty() || dir == b"." {
            return true;
        }
        // The last pattern that hides the folder hides all below; only a later `!` undoes that.
        for p in self.patterns.iter().rev() {
            if !p.negated && p.covers(dir) {
                return false;
            }
            if p.negated && (p.covers(dir) || p.may_match_below(dir)) {
                return true;
            }
        }
        true
    }

    /// True when the list (of include patterns) may match something below the folder `dir`, or
    /// matches `dir` or a folder above it.
    pub fn may_match_below(&self, dir: impl AsRef<[u8]>) -> bool {
        let dir = trim(dir.as_ref());
        dir.is_empty()
            || dir == b"."
            || self.patterns.iter().any(|p| !p.negated && (p.covers(dir) || p.may_match_below(dir)))
    }
}

fn trim(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.strip_suffix(b"/").unwrap_or(path)
}

impl Pattern {
    /// The pattern without `!`, cleaned.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True for a `!` pattern.
    pub fn negated(&self) -> bool {
        self.negated
    }

    /// Line in the ignore file, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// Matches `path` itself.
    fn is(&self, path: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact => path == self.text.as_bytes(),
            Matcher::Prefix(p) => path.starts_with(p.as_bytes()),
            Matcher::Suffix(s) => {
                path.ends_with(s.as_bytes())
                    || s.strip_prefix('/').is_some_and(|s| path == s.as_bytes())
            }
            Matcher::Automaton(nfa) => nfa.run(path).whole,
        }
    }

    /// Matches `path` or a folder above it.
    fn covers(&self, path: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match &self.matcher {
            Matcher::Exact => path.strip_prefix(text).is_some_and(|r| matches!(r, [] | [b'/', ..])),
            Matcher::Prefix(p) => path.starts_with(p.as_bytes()),
            Matcher::Suffix(s) => {
                let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
                ends.chain([path.len()]).any(|end| {
                    let part = &path[..end];
                    part.ends_with(s.as_bytes())
                        || s.strip_prefix('/').is_some_and(|s| part == s.as_bytes())
                })
            }
            Matcher::Automaton(nfa) => nfa.covers(path),
        }
    }

    /// May match a path below `dir`, itself or by a folder on the way.
    fn may_match_below(&self, dir: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact => self
                .text
                .as_bytes()
                .strip_prefix(dir)
                .is_some_and(|rest| rest.len() > 1 && rest[0] == b'/'),
            Matcher::Prefix(p) => {
                let p = p.as_bytes();
                let common = p.len().min(dir.len());
                p[..common] == dir[..common] && (p.len() <= dir.len() || p[dir.len()] == b'/')
            }
            Matcher::Suffix(_) => true,
            Matcher::Automaton(nfa) => {
                let below = [dir, b"/"].concat();
                let pass = nfa.run(&below);
                pass.alive || pass.parent
            }
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.negated {
            f.write_str("!")?;
        }
        f.write_str(&self.text)
    }
}
