//! Splitting of arguments: at blanks, or at blanks outside quotes. Quotes stay.

use compact_str::CompactString;

use super::Line;
use crate::ast::Word;

/// What separates words outside quotes: Go's `[\t\v\f\r ]`.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Every run of non-blanks from byte `at`.
pub(super) fn plain(line: &Line<'_>, at: usize) -> Vec<Word> {
    let text = line.text[at..].trim_end();
    // Nearly always two; a list that grows by itself makes room for four.
    let mut words = Vec::with_capacity(2);
    let mut pos = 0;
    while let Some(start) = text[pos..].find(|c| !is_blank(c)).map(|i| pos + i) {
        let end = text[start..].find(is_blank).map_or(text.len(), |i| start + i);
        words.push(line.word(&text[start..end], at + start, at + end));
        pos = end;
    }
    words
}

/// Words that may hold blanks in quotes or behind the escape character; both stay.
pub(super) fn quoted(line: &Line<'_>, at: usize) -> Vec<Word> {
    let text = line.text[at..].trim_end();
    let mut words = Vec::new();
    let mut pos = 0;
    while let Some(start) = text[pos..].find(|c: char| !c.is_whitespace()).map(|i| pos + i) {
        let (word, end) = match unquoted(text, start, line.escape) {
            Some(word) => (CompactString::new(word), start + word.len()),
            None => one(text, start, line.escape),
        };
        if !word.is_empty() {
            words.push(line.word(word, at + start, at + end));
        }
        pos = end;
    }
    words
}

/// The word at `start`, when nothing in it has a meaning: most are taken as they stand.
pub(super) fn unquoted(text: &str, start: usize, escape: char) -> Option<&str> {
    let rest = &text[start..];
    let special = |c: char| c.is_whitespace() || matches!(c, '\'' | '"') || c == escape;
    let end = rest.find(special).unwrap_or(rest.len());
    rest[end..].chars().next().is_none_or(char::is_whitespace).then(|| &rest[..end])
}

/// The word at `start`, and where it ends.
fn one(text: &str, start: usize, escape: char) -> (CompactString, usize) {
    let mut out = CompactString::default();
    let mut quote = None;
    let mut chars = text[start..].char_indices();
    while let Some((i, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return (out, start + i);
        }
        if c == escape && quote != Some('\'') {
            // The escape and what follows stay; a last escape is dropped.
            if let Some((_, next)) = chars.next() {
                out.push(c);
                out.push(next);
            }
            continue;
        }
        match quote {
            Some(q) if q == c => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
        out.push(c);
    }
    (out, text.len())
}
