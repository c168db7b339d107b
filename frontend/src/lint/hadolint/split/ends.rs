//! What ends a word or a command, and what follows from the word or command that ended.

use super::{Heredoc, Kind, Splitter, Target, Word};
use crate::lint::hadolint::command;
use crate::lint::hadolint::shell::LEVELS;

impl Splitter<'_, '_> {
    pub(super) fn operator(&mut self, b: u8) {
        if matches!(b, b'<' | b'>') {
            return self.redirect(b);
        }
        self.finish_word();
        if self.frame().in_test() && b != b';' {
            self.at += 1;
            return;
        }
        let next = self.peek(1);
        match (b, next) {
            (b'&', Some(b'>')) => {
                self.at += 1;
                return self.redirect(b'>');
            }
            (b')', _) => return self.closing(),
            _ => {}
        }
        let in_pattern = self.frame().kind == Kind::Case(true);
        self.out.pipes |= b == b'|' && next != Some(b'|') && !in_pattern;
        self.finish_command();
        while let Some(c @ (b'|' | b'&' | b';')) = self.peek(0) {
            if c == b'&' && self.peek(1) == Some(b'>') {
                break;
            }
            self.at += 1;
        }
        if b == b';' && matches!(next, Some(b';' | b'&')) && self.frame().kind == Kind::Case(false)
        {
            self.frame().kind = Kind::Case(true);
        }
    }

    /// `)` between commands.
    fn closing(&mut self) {
        self.at += 1;
        if self.frame().kind == Kind::Case(true) {
            self.frame().words.clear();
            self.frame().kind = Kind::Case(false);
            return;
        }
        // A `case` without its end does not hide the bracket around it.
        let opened = self.frames.iter().rposition(|f| !matches!(f.kind, Kind::Case(_)));
        let bracket = opened.filter(|n| matches!(self.frames[*n].kind, Kind::Group | Kind::Subst));
        match bracket {
            Some(n) => {
                while self.frames.len() > n {
                    self.close();
                }
            }
            None => self.finish_command(),
        }
    }

    fn redirect(&mut self, b: u8) {
        let fd = |w: &Word| !w.quoted && w.text.bytes().all(|b| b.is_ascii_digit());
        if self.frame().word.as_ref().is_some_and(fd) {
            self.frame().word = None;
        }
        self.finish_word();
        if self.frame().in_test() {
            self.at += 1;
            return;
        }
        let rest = &self.text[self.at..];
        self.at += 1;
        let (more, target) = match (b, self.peek(0)) {
            (_, Some(b'(')) => {
                self.at += 1;
                self.push("$()");
                return self.open(Kind::Subst);
            }
            (b'<', Some(b'<')) if rest.starts_with("<<<") => (2, Target::File),
            (b'<', Some(b'<')) if rest.starts_with("<<-") => (2, Target::Heredoc { chomp: true }),
            (b'<', Some(b'<')) => (1, Target::Heredoc { chomp: false }),
            (_, Some(b'>' | b'&' | b'|')) => (1, Target::File),
            _ => (0, Target::File),
        };
        self.at += more;
        self.frame().target = Some(target);
    }

    pub(super) fn finish_word(&mut self) {
        let frame = self.frame();
        let Some(word) = frame.word.take() else { return };
        match frame.target.take() {
            Some(Target::File) => return,
            Some(Target::Heredoc { chomp }) => {
                frame.fed = true;
                self.heredocs.push(Heredoc { name: word.text, chomp, script: false });
                return;
            }
            None => {}
        }
        frame.words.push(word);
        let bare = |n: usize, text: &str| {
            frame.words.get(n).is_some_and(|w: &Word| !w.quoted && w.text == text)
        };
        match frame.words.len() {
            1 if bare(0, "esac") && matches!(frame.kind, Kind::Case(_)) => {
                frame.words.clear();
                self.close();
            }
            1 => {
                const WORDS: [&str; 12] = [
                    "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "{", "}",
                    "!",
                ];
                let text = &frame.words[0].text;
                let head = text.ends_with("()") && !text.ends_with("$()");
                if head || WORDS.iter().any(|w| bare(0, w)) {
                    frame.words.clear();
                }
            }
            2 if bare(0, "function") => frame.words.clear(),
            3 if bare(0, "case") && bare(2, "in") => {
                frame.words.clear();
                self.open(Kind::Case(true));
            }
            _ => {}
        }
    }

    pub(super) fn finish_command(&mut self) {
        self.finish_word();
        let frame = self.frame();
        frame.target = None;
        let fed = std::mem::take(&mut frame.fed);
        let words = std::mem::take(&mut frame.words);
        let in_pattern = frame.kind == Kind::Case(true);
        let open = std::mem::take(&mut frame.nest).len();
        self.depth = self.depth.saturating_sub(open);
        let Some(first) = words.first().filter(|_| !in_pattern) else { return };
        if !first.quoted && matches!(first.text.as_str(), "for" | "select" | "case" | "function") {
            return;
        }
        let words: Vec<String> = words.into_iter().map(|w| w.text).collect();
        if fed
            && command::reads_script(&words)
            && let Some(h) = self.heredocs.last_mut()
        {
            h.script = true;
        }
        self.out.add(words, self.level);
    }

    /// Goes past the bodies of the heredocs that the line before opened.
    pub(super) fn skip_heredocs(&mut self) {
        for h in std::mem::take(&mut self.heredocs) {
            let from = self.at;
            let mut to = self.text.len();
            while self.at < self.text.len() {
                let end = self.line_end();
                let line = &self.text[self.at..end];
                let line = if h.chomp { line.trim_start_matches('\t') } else { line };
                if line.trim_end_matches('\r') == h.name {
                    to = self.at;
                    self.at = (end + 1).min(self.text.len());
                    break;
                }
                self.at = (end + 1).min(self.text.len());
            }
            if h.script && self.level < LEVELS {
                Splitter::new(&self.text[from..to], self.level + 1, self.out).run();
            }
        }
    }
}
