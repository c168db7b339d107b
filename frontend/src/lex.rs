//! Physical lines to logical ones: continuations joined, comments dropped, places kept.

use std::borrow::Cow;

use rgraph_ir::limits::MAX_LINE;
use rgraph_ir::span::{FileId, SourceFile};
use rgraph_ir::{Diagnostic, Span};

use crate::directive::{Directive, DirectiveReader};

/// Translates a place in a logical line to the file.
#[derive(Debug, Clone)]
pub enum Places {
    /// One piece that starts here, which is the usual case.
    One(FileId, u32),
    /// `(start in the logical line, start in the file)` of each piece, ascending.
    Pieces(FileId, Vec<(u32, u32)>),
    /// The text stands nowhere in the file (an `ONBUILD` trigger): everything is here.
    Fixed(Span),
}

impl Places {
    /// The place of a range of the logical line.
    pub fn span(&self, start: usize, end: usize) -> Span {
        match self {
            Self::Fixed(span) => *span,
            Self::One(file, at) => {
                Span { file: *file, start: at + start as u32, end: at + end.max(start) as u32 }
            }
            Self::Pieces(file, pieces) => {
                let at = |n: usize| {
                    let i = pieces.partition_point(|(l, _)| *l as usize <= n).saturating_sub(1);
                    pieces.get(i).map_or(0, |(l, s)| s + (n as u32).saturating_sub(*l))
                };
                let from = at(start);
                // The end belongs to the piece of the last byte.
                let to = if end > start { at(end - 1) + 1 } else { from };
                Span { file: *file, start: from, end: to.max(from) }
            }
        }
    }
}

/// One instruction's text without heredoc bodies.
#[derive(Debug, Clone)]
pub struct Logical<'a> {
    /// Joined text.
    pub text: Cow<'a, str>,
    /// Where its parts come from.
    pub places: Places,
    /// From the first to the last line.
    pub span: Span,
    /// Comment lines directly above.
    pub comments: Vec<String>,
}

/// Reads a file line by line.
pub struct Lines<'a> {
    file: FileId,
    text: &'a str,
    pos: usize,
    /// Set once a line is too long: nothing after it is read.
    stopped: bool,
    directives: DirectiveReader,
    /// A directive was indented: those that may not be are not looked for any more.
    indented: bool,
    /// The escape character in force.
    pub escape: char,
    /// Directives that were found.
    pub found: Vec<Directive>,
    /// Where instructions end that are continued over empty lines.
    pub empty_continuations: Vec<Span>,
    /// What went wrong.
    pub diags: Vec<Diagnostic>,
}

struct Physical<'a> {
    /// Without its line end.
    text: &'a str,
    /// With its line end.
    whole: &'a str,
    start: usize,
}

impl<'a> Lines<'a> {
    /// At the start of `src`; a byte order mark is skipped.
    pub fn new(src: &'a SourceFile) -> Self {
        let pos = if src.text.starts_with('\u{feff}') { 3 } else { 0 };
        Self {
            file: src.id,
            text: &src.text,
            pos,
            stopped: false,
            directives: DirectiveReader::default(),
            indented: false,
            escape: '\\',
            found: Vec::new(),
            empty_continuations: Vec::new(),
            diags: Vec::new(),
        }
    }

    /// A span of the file.
    pub fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.file, start: start as u32, end: end as u32 }
    }

    fn physical(&mut self) -> Option<Physical<'a>> {
        if self.stopped || self.pos >= self.text.len() {
            return None;
        }
        let start = self.pos;
        let rest = &self.text[start..];
        let whole = rest.find('\n').map_or(rest, |i| &rest[..=i]);
        if whole.len() > MAX_LINE {
            self.stopped = true;
            let span = self.span(start, start);
            self.diags.push(
                Diagnostic::error(
                    "line-too-long",
                    span,
                    format!("dockerfile line greater than max allowed size of {MAX_LINE}"),
                )
                .help("break the line with a continuation, or copy the text in from a file"),
            );
            return None;
        }
        self.pos += whole.len();
        Some(Physical { text: whole.trim_end_matches(['\r', '\n']), whole, start })
    }

    /// The part before a trailing continuation character.
    fn continued(&self, line: &'a str) -> Option<&'a str> {
        let line = line.trim_end_matches([' ', '\t']);
        let before = line.strip_suffix(self.escape)?;
        (!before.ends_with(self.escape)).then_some(before)
    }

    /// The next instruction's text.
    pub fn logical(&mut self) -> Option<Logical<'a>> {
        let mut comments = Vec::new();
        loop {
            let line = self.physical()?;
            let trimmed = line.text.trim_start();
            let start = line.start + (line.text.len() - trimmed.len());
            if let Some(found) = self.directive(trimmed, start) {
                // Only `escape` may be indented.
                self.indented |= start != line.start;
                if !self.indented || found.key == "escape" {
                    self.found.push(found);
                }
                // Below a `#!` line it is a comment besides.
                if !self.directives.after_shebang() {
                    continue;
                }
            }
            if trimmed.starts_with('#') {
                // What is indented keeps its `#`, so it steers and describes nothing.
                let mut comment = line.text.chars();
                comment.next();
                let comment = comment.as_str().trim();
                if comment.is_empty() {
                    comments.clear();
                } else {
                    comments.push(comment.to_owned());
                }
                continue;
            }
            let Some(before) = self.continued(trimmed) else {
                if trimmed.is_empty() {
                    continue;
                }
                return Some(Logical {
                    text: Cow::Borrowed(trimmed),
                    places: Places::One(self.file, start as u32),
                    span: self.span(start, line.start + line.text.len()),
                    comments,
                });
            };
            let (mut text, mut open) = (before.to_owned(), true);
            let mut pieces = vec![(0, start as u32)];
            let mut end = line.start + line.text.len();
            let (mut empty, mut last) = (false, (0, 0));
            while open {
                let Some(line) = self.physical() else { break };
                last = (line.start, line.start + line.text.len());
                if line.text.is_empty() {
                    // A place needs a character.
                    last.1 = line.start + line.whole.len();
                }
                let first = line.text.trim_start();
                if first.starts_with('#') {
                    continue;
                }
                if first.is_empty() {
                    empty = true;
                    continue;
                }
                pieces.push((text.len() as u32, line.start as u32));
                match self.continued(line.text) {
                    Some(before) => text.push_str(before),
                    None => {
                        text.push_str(line.text);
                        open = false;
                    }
                }
                end = line.start + line.text.len();
            }
            // What the file ends in is read up to its end.
            end = end.max(last.1);
            if empty {
                self.empty_continuations.push(self.span(last.0, last.1));
            }
            let span = self.span(start, end);
            let places = Places::Pieces(self.file, pieces);
            return Some(Logical { text: Cow::Owned(text), places, span, comments });
        }
    }

    fn directive(&mut self, line: &str, start: usize) -> Option<Directive> {
        let span = self.span(start, start + line.len());
        match self.directives.read(line, span) {
            Ok(None) => None,
            Ok(Some(d)) => {
                if d.key == "escape" {
                    match d.value.text.as_str() {
                        "\\" => self.escape = '\\',
                        "`" => self.escape = '`',
                        other => self.diags.push(Diagnostic::error(
                            "invalid-escape",
                            span,
                            format!("invalid escape token '{other}' does not match ` or \\"),
                        )),
                    }
                }
                Some(d)
            }
            Err(diag) => {
                self.diags.push(*diag);
                None
            }
        }
    }

    /// The lines up to one that is `name`, as written. `None`: the file ends first.
    pub fn heredoc(&mut self, name: &str, chomp: bool) -> Option<(&'a str, usize)> {
        let start = self.pos;
        while let Some(line) = self.physical() {
            let candidate = line.whole.trim_end_matches(['\r', '\n']);
            let candidate = if chomp { candidate.trim_start_matches('\t') } else { candidate };
            if candidate == name {
                return Some((&self.text[start..line.start], line.start + line.text.len()));
            }
        }
        None
    }
}
