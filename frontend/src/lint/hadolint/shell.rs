//! Shell text to the commands in it: enough to tell which programs a step runs with which words, and no
//! more. Nothing is expanded or run.
//!
//! Total and linear: every text gives an answer, each byte is looked at a fixed number of times, and no
//! function calls itself deeper than [`LEVELS`]. Parsers made for running scripts end the process on a
//! few thousand open brackets, and a Dockerfile may hold them.
//!
//! Limits: what stands deeper than [`DEPTH`](super::split::DEPTH) brackets is not looked at, nor is
//! what follows it. `((` is arithmetic, never two subshells. Aliases, functions and variables that hold
//! commands are not followed. A variable stays as written; a substitution inside a word becomes `$()`,
//! and its commands come before the one it stands in.

use std::ops::Range;

use super::command::Command;
use super::split::Splitter;

/// Most scripts within one another: `sh -c`, `eval`, a heredoc for a shell.
pub(super) const LEVELS: usize = 4;

/// The commands of a text, in order.
#[derive(Debug, Default)]
pub(super) struct Script {
    words: Vec<String>,
    commands: Vec<Range<usize>>,
    assigned: Vec<String>,
    /// A `|` joins two commands.
    pub pipes: bool,
}

impl Script {
    /// Reads a text for a shell.
    pub fn of_text(text: &str) -> Self {
        let mut script = Self::default();
        Splitter::new(text, 0, &mut script).run();
        script
    }

    /// One command as a list of words.
    pub fn of_words(words: &[String]) -> Self {
        let mut script = Self::default();
        script.add(words.to_vec(), 0);
        script
    }

    /// All commands.
    pub fn commands(&self) -> impl Iterator<Item = Command<'_>> {
        self.commands.iter().filter_map(|r| Command::new(&self.words[r.clone()]))
    }

    /// What the text sets a variable to, the last time.
    pub fn sets(&self, name: &str) -> Option<&str> {
        let mut all = self.assigned.iter().rev().filter_map(|a| a.split_once('='));
        all.find(|(k, _)| *k == name).map(|(_, v)| v)
    }

    /// Adds a command, those it starts itself, and the script it is given.
    pub(super) fn add(&mut self, words: Vec<String>, level: usize) {
        let mut start = self.words.len();
        self.words.extend(words);
        let end = self.words.len();
        let mut inner = None;
        loop {
            while self.words[start..end].first().is_some_and(|w| is_assignment(w)) {
                self.assigned.push(self.words[start].clone());
                start += 1;
            }
            let Some(command) = Command::new(&self.words[start..end]) else { break };
            let (skip, text) = (command.wrapped(), command.script());
            if command.name() == "export" {
                let set = command.args().iter().filter(|w| is_assignment(w));
                self.assigned.extend(set.cloned());
            }
            self.commands.push(start..end);
            match skip {
                Some(n) => start += n,
                None => {
                    inner = text;
                    break;
                }
            }
        }
        if let Some(text) = inner.filter(|_| level < LEVELS) {
            Splitter::new(&text, level + 1, self).run();
        }
    }
}

/// `NAME=...`.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let name = name.strip_suffix('+').unwrap_or(name);
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}
