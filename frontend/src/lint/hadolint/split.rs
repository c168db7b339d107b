//! Reads shell text byte by byte: quotes, brackets, substitutions. What ends a word or a command is in
//! [`ends`]. See [`super::shell`] for what this promises.

mod ends;

use super::shell::Script;

/// Most brackets within one another.
pub(super) const DEPTH: usize = 200;

#[derive(Debug, Default)]
struct Word {
    text: String,
    /// A part is quoted, so the word is no keyword.
    quoted: bool,
}

/// What a word is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nest {
    /// `"`.
    Double,
    /// `${`.
    Param,
    /// `((`, with brackets open inside.
    Arith(usize),
    /// `name(`: a list of values, a pattern or a function's head.
    Group(usize),
}

/// What commands are inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Top,
    /// `(`.
    Group,
    /// `$(`, `<(`, `>(`.
    Subst,
    /// A backtick.
    Backtick,
    /// `case x in`; true: before the `)` of a pattern.
    Case(bool),
}

/// What the next word is, when it is not the command's.
#[derive(Debug, Clone, Copy)]
enum Target {
    File,
    Heredoc { chomp: bool },
}

#[derive(Debug)]
struct Frame {
    kind: Kind,
    words: Vec<Word>,
    word: Option<Word>,
    nest: Vec<Nest>,
    target: Option<Target>,
    /// The command reads a heredoc.
    fed: bool,
}

impl Frame {
    fn new(kind: Kind) -> Self {
        Self { kind, words: Vec::new(), word: None, nest: Vec::new(), target: None, fed: false }
    }

    fn word(&mut self) -> &mut Word {
        self.word.get_or_insert_default()
    }

    /// Inside `[[`, where operators are words.
    fn in_test(&self) -> bool {
        self.words.first().is_some_and(|w| w.text == "[[" && !w.quoted)
            && self.words.last().is_some_and(|w| w.text != "]]")
    }
}

struct Heredoc {
    name: String,
    chomp: bool,
    /// A shell reads it.
    script: bool,
}

/// Reads one text into a script.
pub(super) struct Splitter<'t, 's> {
    text: &'t str,
    at: usize,
    level: usize,
    /// The last one is being read; never empty.
    frames: Vec<Frame>,
    /// Open brackets of all kinds.
    depth: usize,
    heredocs: Vec<Heredoc>,
    out: &'s mut Script,
}

impl<'t, 's> Splitter<'t, 's> {
    /// `level` scripts are around the text.
    pub(super) fn new(text: &'t str, level: usize, out: &'s mut Script) -> Self {
        let frames = vec![Frame::new(Kind::Top)];
        Self { text, at: 0, level, frames, depth: 0, heredocs: Vec::new(), out }
    }

    /// Reads all.
    pub(super) fn run(mut self) {
        while let Some(b) = self.peek(0) {
            match self.frame().nest.last().copied() {
                None => self.command_byte(b),
                Some(nest) => self.nested_byte(b, nest),
            }
        }
        while self.frames.len() > 1 {
            self.close();
        }
        self.finish_command();
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn frame(&mut self) -> &mut Frame {
        if self.frames.is_empty() {
            self.frames.push(Frame::new(Kind::Top));
        }
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// Counts a bracket; too many end the reading.
    fn deeper(&mut self) -> bool {
        self.depth += 1;
        if self.depth > DEPTH {
            self.at = self.text.len();
        }
        self.depth <= DEPTH
    }

    fn open(&mut self, kind: Kind) {
        if self.deeper() {
            self.frames.push(Frame::new(kind));
        }
    }

    fn enter(&mut self, nest: Nest) {
        if self.deeper() {
            self.frame().nest.push(nest);
        }
    }

    fn leave(&mut self) {
        self.frame().nest.pop();
        self.depth = self.depth.saturating_sub(1);
    }

    /// Ends the innermost frame with its last command.
    fn close(&mut self) {
        self.finish_command();
        if self.frames.pop().is_some() {
            self.depth = self.depth.saturating_sub(1);
        }
    }

    fn push(&mut self, text: &str) {
        self.frame().word().text.push_str(text);
    }

    /// Takes `n` bytes and all up to the next one that may mean something.
    fn literal(&mut self, n: usize) {
        let bytes = self.text.as_bytes();
        let mut end = (self.at + n).min(bytes.len());
        while end < bytes.len() && !b" \t\r\n\\'\"`$(){}<>|&;#".contains(&bytes[end]) {
            end += 1;
        }
        let from = self.at;
        self.at = end;
        let text = self.text;
        self.push(text.get(from..end).unwrap_or_default());
    }

    fn nested_byte(&mut self, b: u8, nest: Nest) {
        let in_double = self.frame().nest.contains(&Nest::Double);
        match (b, nest) {
            (b'"', Nest::Double) => {
                self.at += 1;
                self.leave();
            }
            (b'}', Nest::Param) => {
                self.leave();
                self.literal(1);
            }
            (b'(', Nest::Arith(n)) => self.count(Nest::Arith(n + 1)),
            (b')', Nest::Arith(0)) => {
                self.at += if self.peek(1) == Some(b')') { 2 } else { 1 };
                self.leave();
            }
            (b')', Nest::Arith(n)) => self.count(Nest::Arith(n - 1)),
            (b'(', Nest::Group(n)) => {
                self.push("(");
                self.count(Nest::Group(n + 1));
            }
            (b')', Nest::Group(0)) => {
                self.leave();
                self.literal(1);
            }
            (b')', Nest::Group(n)) => {
                self.push(")");
                self.count(Nest::Group(n - 1));
            }
            (b'$', _) => self.dollar(),
            (b'`', _) => self.backtick(),
            (b'\\', Nest::Double) => match self.peek(1) {
                Some(b'$' | b'`' | b'"' | b'\\' | b'\n') => self.escaped(),
                _ => self.literal(1),
            },
            (b'\\', _) => self.escaped(),
            (b'\'', Nest::Param | Nest::Group(_)) if !in_double => self.single(),
            (b'"', Nest::Param | Nest::Group(_)) => {
                self.at += 1;
                self.enter(Nest::Double);
            }
            (_, Nest::Arith(_)) => self.at += 1,
            _ => self.literal(1),
        }
    }

    fn count(&mut self, nest: Nest) {
        self.at += 1;
        if let Some(last) = self.frame().nest.last_mut() {
            *last = nest;
        }
    }

    fn command_byte(&mut self, b: u8) {
        match b {
            b' ' | b'\t' | b'\r' => {
                self.at += 1;
                self.finish_word();
            }
            b'\n' => {
                self.at += 1;
                self.finish_command();
                self.skip_heredocs();
            }
            b'#' if self.frame().word.is_none() => self.at = self.line_end(),
            b'\\' => self.escaped(),
            b'\'' => self.single(),
            b'"' => {
                self.at += 1;
                self.frame().word().quoted = true;
                self.enter(Nest::Double);
            }
            b'$' => self.dollar(),
            b'`' => self.backtick(),
            b'(' => self.bracket(),
            b'|' | b'&' | b';' | b')' | b'<' | b'>' => self.operator(b),
            _ => self.literal(1),
        }
    }

    fn bracket(&mut self) {
        if self.frame().word.is_some() {
            self.push("(");
            self.at += 1;
            self.enter(Nest::Group(0));
        } else if self.frame().in_test() || self.frame().kind == Kind::Case(true) {
            self.at += 1;
        } else if self.peek(1) == Some(b'(') {
            self.push("$()");
            self.at += 2;
            self.enter(Nest::Arith(0));
        } else {
            self.at += 1;
            self.finish_command();
            self.open(Kind::Group);
        }
    }

    fn escaped(&mut self) {
        self.at += 1;
        match self.text[self.at..].chars().next() {
            Some('\n') => self.at += 1,
            Some(c) => {
                self.frame().word().quoted = true;
                self.frame().word().text.push(c);
                self.at += c.len_utf8();
            }
            None => {}
        }
    }

    fn single(&mut self) {
        let rest = &self.text[self.at + 1..];
        let end = rest.find('\'').unwrap_or(rest.len());
        self.frame().word().quoted = true;
        self.push(&rest[..end]);
        self.at = (self.at + end + 2).min(self.text.len());
    }

    fn dollar(&mut self) {
        let rest = &self.text[self.at..];
        let bare = self.frame().nest.is_empty();
        if rest.starts_with("$((") {
            self.push("$()");
            self.at += 3;
            self.enter(Nest::Arith(0));
        } else if rest.starts_with("$(") {
            self.push("$()");
            self.at += 2;
            self.open(Kind::Subst);
        } else if rest.starts_with("${") {
            self.push("${");
            self.at += 2;
            self.enter(Nest::Param);
        } else if bare && rest.starts_with("$'") {
            self.ansi();
        } else if bare && rest.starts_with("$\"") {
            self.at += 1;
        } else {
            self.literal(1);
        }
    }

    /// `$'...'`, where a backslash keeps a quote.
    fn ansi(&mut self) {
        self.at += 2;
        self.frame().word().quoted = true;
        while let Some(b) = self.peek(0) {
            match b {
                b'\'' => {
                    self.at += 1;
                    return;
                }
                b'\\' => self.escaped(),
                _ => self.literal(1),
            }
        }
    }

    fn backtick(&mut self) {
        self.at += 1;
        match self.frames.iter().rposition(|f| f.kind == Kind::Backtick) {
            Some(n) => {
                while self.frames.len() > n {
                    self.close();
                }
            }
            None => {
                self.push("$()");
                self.open(Kind::Backtick);
            }
        }
    }

    fn line_end(&self) -> usize {
        self.text[self.at..].find('\n').map_or(self.text.len(), |n| self.at + n)
    }
}
