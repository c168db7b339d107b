//! Where in a text something stands.

use std::sync::Arc;

/// A file of one compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// A range of bytes of one file, end excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The smallest span that holds both. Both must be of one file.
    pub fn to(self, other: Self) -> Self {
        debug_assert_eq!(self.file, other.file);
        Self { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A position for people: both count from 1; `col` counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineCol {
    /// Line, from 1.
    pub line: u32,
    /// Character within the line, from 1.
    pub col: u32,
}

/// A text with its name and line starts.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Its id in the [`SourceMap`].
    pub id: FileId,
    /// The name shown in errors, as the user gave it (`Dockerfile`, `sub/My.Dockerfile`).
    pub name: String,
    /// The whole text.
    pub text: Arc<str>,
    lines: Arc<[u32]>,
}

impl SourceFile {
    /// Indexes `text`. Texts over 4 GiB do not occur: readers refuse long before.
    pub fn new(id: FileId, name: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        let text: Arc<str> = text.into();
        let starts =
            text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i as u32 + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        Self { id, name: name.into(), text, lines }
    }

    /// The position of byte `at`; past the end gives the end.
    pub fn line_col(&self, at: u32) -> LineCol {
        let at = (at as usize).min(self.text.len());
        let line = self.lines.partition_point(|s| *s as usize <= at);
        let start = self.lines[line - 1] as usize;
        let col = self.text.get(start..at).map_or(0, |s| s.chars().count());
        LineCol { line: line as u32, col: col as u32 + 1 }
    }

    /// The line of byte `at`, from 1, as in [`Self::line_col`]. Places are mostly asked for in their
    /// order, so the line of the last one and the line behind it are looked at first.
    pub fn line_near(&self, at: u32, last: u32) -> u32 {
        let at = at.min(self.text.len() as u32);
        let start = |line: u32| self.lines.get(line.wrapping_sub(1) as usize).copied();
        for line in [last, last.saturating_add(1)] {
            if start(line).is_some_and(|s| s <= at) && start(line + 1).is_none_or(|next| at < next)
            {
                return line;
            }
        }
        self.lines.partition_point(|s| *s <= at) as u32
    }

    /// The text of `line` (from 1) without its line end.
    pub fn line(&self, line: u32) -> &str {
        let Some(start) = self.lines.get(line.wrapping_sub(1) as usize) else { return "" };
        let end = self.lines.get(line as usize).map_or(self.text.len(), |e| *e as usize);
        self.text[*start as usize..end].trim_end_matches(['\n', '\r'])
    }
}

/// The texts of one compilation.
#[derive(Debug, Clone, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Adds a text and gives its id.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> FileId {
        let id = FileId(self.files.len() as u32);
        self.files.push(SourceFile::new(id, name, text));
        id
    }

    /// The file of an id this map gave.
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// `NAME:LINE` of a span's start, the form every error carries.
    pub fn locate(&self, span: Span) -> String {
        let f = self.file(span.file);
        format!("{}:{}", f.name, f.line_col(span.start).line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let f = SourceFile::new(FileId(0), "D", "a\néb\r\nc");
        for (at, line, col) in [(0, 1, 1), (1, 1, 2), (2, 2, 1), (4, 2, 2), (7, 3, 1), (99, 3, 2)] {
            assert_eq!(f.line_col(at), LineCol { line, col }, "at {at}");
            for last in (0..6).chain([u32::MAX]) {
                assert_eq!(f.line_near(at, last), line, "at {at} after line {last}");
            }
        }
        assert_eq!(f.line(2), "éb");
        assert_eq!(f.line(9), "");
    }
}
