//! Variables and quotes in one word: `$v`, `${v}`, `${v:-w}`, `${v#p}`, `${v/p/r}`, `'..'`, `".."`.
//!
//! Facts are those of BuildKit's `shell/lex.go`: what a Dockerfile means there it means here. Input is
//! hostile: nesting and the size of results are limited, patterns never blow up.

mod pattern;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use rgraph_ir::limits::{MAX_EXPANSION, MAX_NESTING};

use pattern::Pattern;

/// Where values come from.
pub trait Lookup {
    /// The value of `name`; `None`: not set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variables at all.
pub struct Nothing;

impl Lookup for Nothing {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// How a word is read.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// The escape character.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes mean nothing (heredoc bodies).
    pub ignore_quotes: bool,
    /// Variables that are not set stay as written.
    pub keep_unset: bool,
    /// The result is split at blanks too.
    pub split: bool,
}

impl Mode {
    /// The plain mode with the file's escape character.
    pub fn plain(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            ignore_quotes: false,
            keep_unset: false,
            split: false,
        }
    }

    /// With the result split at blanks.
    pub fn split(self) -> Self {
        Self { split: true, ..self }
    }

    /// For heredoc bodies: only variables, always with `\`.
    pub fn body() -> Self {
        Self { ignore_quotes: true, ..Self::plain('\\') }
    }

    /// For texts that are shown: quotes and unknown variables stay.
    pub fn display(escape: char) -> Self {
        Self { raw_quotes: true, keep_unset: true, ..Self::plain(escape) }
    }
}

/// An expanded word. Another type than [`crate::ast::Word`], so that nothing is expanded twice.
#[derive(Debug, Clone, Default)]
pub struct Expanded {
    /// The result.
    pub text: String,
    /// The result split at blanks outside quotes, in a mode that splits.
    pub words: Vec<String>,
    /// Variables that were set.
    pub matched: BTreeSet<String>,
    /// Variables that were not.
    pub unmatched: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process `{word}`: {why}")]
pub struct ExpandError {
    /// The word, cut.
    pub word: String,
    /// What is wrong.
    pub why: String,
}

/// Expands `word` with the values of `env`.
pub fn expand(word: &str, env: &dyn Lookup, mode: Mode) -> Result<Expanded, ExpandError> {
    if is_plain(word, mode.escape) && !(mode.split && word.contains(char::is_whitespace)) {
        let words = Some(word.to_owned()).filter(|w| mode.split && !w.is_empty());
        let words = words.into_iter().collect();
        return Ok(Expanded { text: word.to_owned(), words, ..Expanded::default() });
    }
    let mut lexer = Lexer {
        rest: word,
        env,
        mode,
        raw_escapes: mode.raw_escapes,
        open: String::new(),
        depth: 0,
        spent: 0,
        matched: BTreeSet::new(),
        unmatched: BTreeSet::new(),
    };
    match lexer.until(None, mode.raw_escapes) {
        Ok((text, words)) => {
            Ok(Expanded { text, words, matched: lexer.matched, unmatched: lexer.unmatched })
        }
        Err(why) => Err(ExpandError { word: word.chars().take(200).collect(), why }),
    }
}

/// True when nothing in `word` can change by expansion.
pub fn is_plain(word: &str, escape: char) -> bool {
    !word.contains(['$', '\'', '"', escape])
}

struct Lexer<'a> {
    rest: &'a str,
    env: &'a dyn Lookup,
    mode: Mode,
    raw_escapes: bool,
    /// The word that is being split off. A substitution within a word starts it anew.
    open: String,
    depth: usize,
    spent: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// Splits what is added into words, if somebody wants them.
struct Words {
    wanted: bool,
    done: Vec<String>,
    inside: bool,
}

impl Words {
    fn new(wanted: bool) -> Self {
        Self { wanted, done: Vec::new(), inside: false }
    }

    fn soft(&mut self, open: &mut String, s: &str) {
        for c in s.chars().take_while(|_| self.wanted) {
            if !c.is_whitespace() {
                open.push(c);
                self.inside = true;
            } else if self.inside && !open.is_empty() {
                self.done.push(std::mem::take(open));
                self.inside = false;
            }
        }
    }

    fn hard(&mut self, open: &mut String, s: &str) {
        if self.wanted {
            open.push_str(s);
            self.inside = true;
        }
    }

    fn finish(mut self, open: &mut String) -> Vec<String> {
        if !open.is_empty() {
            self.done.push(std::mem::take(open));
        }
        self.done
    }
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn spend(&mut self, n: usize) -> Result<(), String> {
        self.spent += n;
        if self.spent > MAX_EXPANSION {
            return Err(format!("the result is longer than {MAX_EXPANSION} bytes"));
        }
        Ok(())
    }

    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
    ) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(format!("substitutions are nested more than {MAX_NESTING} deep"));
        }
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let out = self.scan(stop);
        self.raw_escapes = before;
        self.depth -= 1;
        out
    }

    fn scan(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        let mut out = String::with_capacity(if stop.is_none() { self.rest.len() } else { 0 });
        let mut words = Words::new(self.mode.split);
        self.open.clear();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok((out, words.finish(&mut self.open)));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.spend(value.len())?;
                    words.soft(&mut self.open, &value);
                    out.push_str(&value);
                }
                '<' => {
                    let s = self.angle();
                    words.hard(&mut self.open, &s);
                    out.push_str(&s);
                }
                '\'' if !self.mode.ignore_quotes => {
                    let s = self.single()?;
                    words.hard(&mut self.open, &s);
                    out.push_str(&s);
                }
                '"' if !self.mode.ignore_quotes => {
                    let s = self.double()?;
                    words.hard(&mut self.open, &s);
                    out.push_str(&s);
                }
                _ if c != self.mode.escape => {
                    let special = ['$', '<', '\'', '"', self.mode.escape, stop.unwrap_or('$')];
                    let rest = &self.rest[c.len_utf8()..];
                    let end = rest.find(special).map_or(self.rest.len(), |at| at + c.len_utf8());
                    let (text, rest) = self.rest.split_at(end);
                    words.soft(&mut self.open, text);
                    out.push_str(text);
                    self.rest = rest;
                }
                _ => {
                    self.next();
                    if self.raw_escapes {
                        words.hard(&mut self.open, c.encode_utf8(&mut [0; 4]));
                        out.push(c);
                    }
                    // The escape takes the next character as it is; at the very end it is dropped.
                    let Some(c) = self.next() else { break };
                    words.hard(&mut self.open, c.encode_utf8(&mut [0; 4]));
                    out.push(c);
                }
            }
        }
        if let Some(stop) = stop {
            return Err(format!("unexpected end of statement while looking for matching {stop}"));
        }
        Ok((out, words.finish(&mut self.open)))
    }

    fn angle(&mut self) -> String {
        self.next();
        if self.peek() != Some('<') {
            return "<".to_owned();
        }
        self.next();
        let mut s = "<<".to_owned();
        while let Some(c @ ('\t' | '\r' | ' ')) = self.peek() {
            s.push(c);
            self.next();
        }
        s
    }

    fn single(&mut self) -> Result<String, String> {
        let rest = &self.rest[1..];
        let Some(end) = rest.find('\'') else {
            self.rest = "";
            return Err(
                "unexpected end of statement while looking for matching single-quote".to_owned()
            );
        };
        let s = if self.mode.raw_quotes { &self.rest[..end + 2] } else { &rest[..end] };
        self.rest = &rest[end + 1..];
        Ok(s.to_owned())
    }

    fn double(&mut self) -> Result<String, String> {
        let mut out = String::new();
        self.next();
        if self.mode.raw_quotes {
            out.push('"');
        }
        loop {
            match self.peek() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
                Some('"') => {
                    self.next();
                    if self.mode.raw_quotes {
                        out.push('"');
                    }
                    return Ok(out);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.spend(value.len())?;
                    out.push_str(&value);
                }
                Some(mut c) => {
                    self.next();
                    if c == self.mode.escape {
                        if self.raw_escapes {
                            out.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            Some(n) if n == '"' || n == '$' || n == self.mode.escape => {
                                self.next();
                                c = n;
                            }
                            Some(_) => {}
                        }
                    }
                    out.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(name) {
                Some(v) => v,
                None if self.mode.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        let Some(mut op) = self.next() else {
            return Err("syntax error: missing '}'".to_owned());
        };
        let mut empty_is_unset = false;
        if op == '}' {
            return Ok(match self.get(name) {
                Some(v) => v,
                None if self.mode.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            });
        }
        if op == '/' {
            return self.replace(name);
        }
        let mut shown = op.to_string();
        if op == ':' {
            empty_is_unset = true;
            let Some(c) = self.next() else {
                return Err("syntax error: missing '}'".to_owned());
            };
            op = c;
            shown.push(c);
        }
        let trims = matches!(op, '#' | '%');
        let known = matches!(op, '+' | '-' | '?' | '#' | '%');
        let unsupported = || Err(format!("unsupported modifier ({shown}) in substitution"));
        if !(known || empty_is_unset) || (empty_is_unset && trims) {
            return unsupported();
        }
        let word = self.inner('}', trims, "}")?;
        let value = self.get(name);
        if self.mode.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{shown}{word}}}"));
        }
        // What stays as written may say anything behind its colon.
        if !known {
            return unsupported();
        }
        let value = value.filter(|v| !(empty_is_unset && v.is_empty() && !trims)).ok_or(());
        match (op, value) {
            ('-', Ok(v)) => Ok(v),
            ('-', Err(())) => Ok(word),
            ('+', Ok(_)) => Ok(word),
            ('+', Err(())) => Ok(String::new()),
            ('?', Ok(v)) => Ok(v),
            ('?', Err(())) => {
                let unset = self.env.get(name).is_none();
                let message = match (word.is_empty(), unset) {
                    (false, _) => word,
                    (true, true) => "is not allowed to be unset".to_owned(),
                    (true, false) => "is not allowed to be empty".to_owned(),
                };
                Err(format!("{name}: {message}"))
            }
            (_, value) => {
                let value = value.unwrap_or_default();
                let (longest, text) = match word.strip_prefix(op) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                if op == '#' {
                    Pattern::parse(text)?.trim_start(&value, longest).map(str::to_owned)
                } else {
                    Pattern::trim_end(text, &value, longest)
                }
            }
        }
    }

    fn inner(&mut self, stop: char, raw_escapes: bool, missing: &str) -> Result<String, String> {
        match self.until(Some(stop), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.rest.is_empty() && self.depth < MAX_NESTING => {
                Err(format!("syntax error: missing '{missing}'"))
            }
            Err(e) => Err(e),
        }
    }

    fn replace(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self
            .inner('/', true, "/")
            .map_err(|e| if e.ends_with("'/'") { format!("{e} in ${{}}") } else { e })?;
        let replacement = self.inner('}', true, "}")?;
        let value = self.get(name);
        if self.mode.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        Pattern::parse(&pattern)?.replace(&value.unwrap_or_default(), &replacement, all)
    }

    fn name(&mut self) -> &'a str {
        let Some(first) = self.peek() else { return "" };
        if first.is_numeric() {
            return self.take_while(char::is_numeric);
        }
        if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            return self.take(first.len_utf8());
        }
        self.take_while(|c| c.is_alphanumeric() || c == '_')
    }

    fn take_while(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        self.take(self.rest.find(|c| !f(c)).unwrap_or(self.rest.len()))
    }

    fn take(&mut self, end: usize) -> &'a str {
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text
    }

    fn get(&mut self, name: &str) -> Option<String> {
        match self.env.get(name) {
            Some(v) => {
                self.matched.insert(name.to_owned());
                Some(v.to_owned())
            }
            None => {
                self.unmatched.insert(name.to_owned());
                None
            }
        }
    }
}
