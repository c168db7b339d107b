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
        words.push(line.word(text[start..end].to_owned(), at + start, at + end));
        pos = end;
    }
    words
}

/// Words that may hold blanks in quotes or behind the escape character; both stay.
pub(super) fn quoted(line: &Line<'_>, at: usize) -> Vec<Word> {
    let text = line.text[at..].trim_end();
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some(&(start, c)) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        let mut out = CompactString::default();
        let mut quote = None;
        let mut end = text.len();
        while let Some((i, c)) = chars.next() {
            if quote.is_none() && c.is_whitespace() {
                end = i;
                break;
            }
            if c == line.escape && quote != Some('\'') {
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
        if !out.is_empty() {
            words.push(line.word(out, at + start, at + end));
        }
    }
    words
}
