//! `--progress plain`: BuildKit's lines.
//!
//! ```text
//! #5 [build 2/4] RUN make
//! #5 why: src/a.c changed
//! #5 0.123 text
//! #5 DONE 0.4s
//! ```
//!
//! A step gets its number when it is first shown. Steps that run beside each other take turns: the
//! lines of the one on the screen come at once, those of others are held back until it pauses, has
//! had its turn or they grow too many; `#5 ...` marks a change in the middle. The `why:` line is
//! rgraph's own: up to [`REASONS`] reasons for which no cache had the step.

use std::collections::{BTreeMap, HashMap};

use rgraph_solver::event::{Event, EventKind, Step, Timestamp};

use super::sanitize::{harmless, sanitize};
use super::{Book, Entered, LogLine, Settings, View};
use crate::table::size_moving;

/// Reasons of a miss that are named.
const REASONS: usize = 3;
/// A step that has printed nothing for so long makes room for another.
const PAUSE: u64 = 500_000_000;
/// A step makes room after so long in any case.
const TURN: u64 = 3_000_000_000;
/// So many bytes are held back for a step at most.
const HELD: usize = 64 << 10;
/// A transfer is shown this often.
const TRANSFER_EVERY: u64 = 5_000_000_000;
/// A transfer that is done sooner is shown only as done.
const TRANSFER_FIRST: u64 = 1_000_000_000;

#[derive(Default)]
struct Shown {
    number: u32,
    /// Lines that wait for their turn.
    held: String,
    /// Log bytes shown or held so far; the clip note was given when over.
    logged: usize,
    clipped: bool,
    why_shown: bool,
    transfers: HashMap<(String, &'static str), Transfer>,
}

#[derive(Default)]
struct Transfer {
    first: Timestamp,
    shown: Option<Timestamp>,
    done: bool,
}

/// See the module.
pub struct Plain {
    colours: bool,
    clip: usize,
    log_hint: Option<String>,
    steps: HashMap<Step, Shown>,
    /// Steps that want the screen, oldest first.
    waiting: BTreeMap<u64, Step>,
    next_ticket: u64,
    next_number: u32,
    current: Option<Step>,
    turn_began: Timestamp,
    last_line: Timestamp,
    blank: bool,
}

impl Plain {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            colours: settings.colours,
            clip: settings.clip,
            log_hint: settings.log_hint.clone(),
            steps: HashMap::new(),
            waiting: BTreeMap::new(),
            next_ticket: 0,
            next_number: 0,
            current: None,
            turn_began: Timestamp(0),
            last_line: Timestamp(0),
            blank: false,
        }
    }

    fn number(&mut self, step: Step) -> u32 {
        let shown = self.steps.entry(step).or_default();
        if shown.number == 0 {
            self.next_number += 1;
            shown.number = self.next_number;
        }
        shown.number
    }

    /// Gives `step` the screen: heading, then what was held back for it.
    fn switch(&mut self, book: &Book, step: Step, now: Timestamp, out: &mut String) {
        self.waiting.retain(|_, s| *s != step);
        if self.current == Some(step) {
            return;
        }
        if let Some(old) = self.current {
            let n = self.number(old);
            out.push_str(&format!("#{n} ...\n"));
            self.blank = true;
            // It comes back by itself only with new lines.
        }
        if self.blank {
            out.push('\n');
            self.blank = false;
        }
        let n = self.number(step);
        let name = book.get(step).map_or("", |i| i.name.as_str());
        out.push_str(&format!("#{n} {name}\n"));
        if let Some(shown) = self.steps.get_mut(&step) {
            // Lines were held back without their number, which they only get now.
            for line in shown.held.split_terminator('\n') {
                out.push_str(&format!("#{n} {line}\n"));
            }
            shown.held = String::new();
        }
        self.current = Some(step);
        self.turn_began = now;
        self.last_line = now;
    }

    /// Shows a line of a step now, or holds it back. `line` has no line end.
    fn put(&mut self, book: &Book, step: Step, line: &str, now: Timestamp, out: &mut String) {
        if self.current == Some(step) {
            let n = self.number(step);
            out.push_str(&format!("#{n} {line}\n"));
            self.last_line = now;
            return;
        }
        let shown = self.steps.entry(step).or_default();
        shown.held.push_str(line);
        shown.held.push('\n');
        if shown.held.len() > HELD {
            self.switch(book, step, now, out);
        } else {
            self.want(step);
            self.turn(book, now, out);
        }
    }

    fn want(&mut self, step: Step) {
        if self.current != Some(step) && !self.waiting.values().any(|s| *s == step) {
            self.waiting.insert(self.next_ticket, step);
            self.next_ticket += 1;
        }
    }

    /// Gives the screen to the next in line when the one that has it should make room.
    fn turn(&mut self, book: &Book, now: Timestamp, out: &mut String) {
        let free = self.current.is_none()
            || now.0.saturating_sub(self.last_line.0) >= PAUSE
            || now.0.saturating_sub(self.turn_began.0) >= TURN;
        if free && let Some((_, step)) = self.waiting.pop_first() {
            self.switch(book, step, now, out);
        }
    }

    /// The last line of a step; it leaves the screen.
    fn end(&mut self, book: &Book, step: Step, line: &str, now: Timestamp, out: &mut String) {
        self.switch(book, step, now, out);
        self.put(book, step, line, now, out);
        self.current = None;
        self.blank = true;
        if let Some(shown) = self.steps.get_mut(&step) {
            shown.transfers = HashMap::new();
        }
        self.turn(book, now, out);
    }

    fn log(&mut self, book: &Book, event: &Event, line: &LogLine, out: &mut String) {
        let (clip, colours) = (self.clip, self.colours);
        let shown = self.steps.entry(event.step).or_default();
        if shown.clipped {
            return;
        }
        shown.logged += line.bytes.len() + 1;
        if shown.logged > clip {
            shown.clipped = true;
            let most = if clip >= 1 << 20 {
                format!("{} MiB", clip >> 20)
            } else {
                format!("{clip} bytes")
            };
            let note = match &self.log_hint {
                Some(hint) => {
                    let step = book.get(event.step).map_or("", |i| short(&i.name));
                    format!("[output clipped at {most}; all of it: {hint} '{step}']")
                }
                None => format!("[output clipped at {most}]"),
            };
            self.put(book, event.step, &note, event.at, out);
            return;
        }
        let since = book
            .get(event.step)
            .map_or(0, |i| i.started.map_or(0, |s| event.at.0.saturating_sub(s.0)));
        let mut text = format!("{}.{:03} ", since / 1_000_000_000, since / 1_000_000 % 1000);
        sanitize(&line.bytes, colours, &mut text);
        self.put(book, event.step, text.trim_end_matches(' '), event.at, out);
    }

    fn why(&mut self, book: &Book, step: Step, now: Timestamp, out: &mut String) {
        let Some(info) = book.get(step) else { return };
        let shown = self.steps.entry(step).or_default();
        if info.reasons.is_empty() || shown.why_shown || info.started.is_none() {
            return;
        }
        shown.why_shown = true;
        let named: Vec<String> =
            info.reasons.iter().take(REASONS).map(ToString::to_string).collect();
        let mut text = format!("why: {}", named.join("; "));
        if info.reasons.len() > REASONS {
            text.push_str(&format!("; and {} more", info.reasons.len() - REASONS));
        }
        let text = harmless(&text).replace('\n', " ");
        self.put(book, step, &text, now, out);
    }

    fn transfer(&mut self, step: Step, kind: &EventKind, now: Timestamp) -> Option<String> {
        let EventKind::Progress { id, action, current, total } = kind else { return None };
        let transfers = &mut self.steps.entry(step).or_default().transfers;
        let t = transfers
            .entry((id.clone(), action))
            .or_insert_with(|| Transfer { first: now, ..Transfer::default() });
        let done = *total > 0 && current >= total;
        let since = now.0.saturating_sub(t.first.0);
        let due = match t.shown {
            None => since >= TRANSFER_FIRST,
            Some(last) => now.0.saturating_sub(last.0) >= TRANSFER_EVERY,
        };
        if t.done || !(done || due) {
            return None;
        }
        t.shown = Some(now);
        t.done = done;
        let mut line = format!("{action} {}", harmless(id).replace('\n', " "));
        match total {
            0 => line.push_str(&format!(" {}", size_moving(*current))),
            _ => line.push_str(&format!(" {} / {}", size_moving(*current), size_moving(*total))),
        }
        if since > 10_000_000 {
            line.push_str(&format!(" {}", crate::table::duration(since)));
        }
        if done {
            line.push_str(" done");
        }
        Some(line)
    }
}

impl View for Plain {
    fn event(&mut self, book: &Book, event: &Event, entered: &Entered, out: &mut String) {
        let (step, now) = (event.step, event.at);
        let Some(info) = book.get(step) else { return };
        for line in &entered.lines {
            self.log(book, event, line, out);
        }
        match &event.kind {
            EventKind::Announced { .. } | EventKind::Log { .. } | EventKind::Keyed { .. } => {}
            EventKind::Started => {
                self.want(step);
                self.turn(book, now, out);
                self.why(book, step, now, out);
            }
            EventKind::Missed { .. } => self.why(book, step, now, out),
            EventKind::Pinned { what } => {
                let line = format!("resolved {}", harmless(what).replace('\n', " "));
                self.put(book, step, &line, now, out);
            }
            kind @ EventKind::Progress { .. } => {
                if let Some(line) = self.transfer(step, kind, now) {
                    self.put(book, step, &line, now, out);
                }
            }
            EventKind::Warning { text } => {
                for line in harmless(text).lines() {
                    self.put(book, step, &format!("WARN: {line}"), now, out);
                }
            }
            EventKind::Cached { .. }
            | EventKind::Finished
            | EventKind::Failed { .. }
            | EventKind::Cancelled
                if !entered.ended => {}
            EventKind::Cached { .. } => self.end(book, step, "CACHED", now, out),
            EventKind::Finished => {
                let line = format!("DONE {}", crate::table::duration(info.elapsed(now)));
                self.end(book, step, &line, now, out);
            }
            EventKind::Failed { message } => {
                let line = format!("ERROR: {}", harmless(message).replace('\n', " "));
                self.end(book, step, &line, now, out);
            }
            // A step that was never shown has nothing to be stopped.
            EventKind::Cancelled if info.started.is_none() => {}
            EventKind::Cancelled => self.end(book, step, "CANCELED", now, out),
        }
    }

    fn tick(&mut self, book: &Book, now: Timestamp, out: &mut String) {
        self.turn(book, now, out);
    }

    fn message(&mut self, text: &str, out: &mut String) {
        if let Some(old) = self.current.take() {
            let n = self.number(old);
            out.push_str(&format!("#{n} ...\n"));
            self.blank = true;
        }
        if self.blank {
            out.push('\n');
        }
        out.push_str(&harmless(text));
        out.push('\n');
        self.blank = true;
    }

    fn close(&mut self, book: &Book, now: Timestamp, out: &mut String) {
        while let Some((_, step)) = self.waiting.pop_first() {
            self.switch(book, step, now, out);
        }
        if self.blank || self.current.is_some() {
            out.push('\n');
        }
        self.current = None;
        self.blank = false;
    }
}

/// The part of a step's line by which `rgraph logs` finds it: `[build 2/4]`.
fn short(name: &str) -> &str {
    match name.find(']') {
        Some(end) if name.starts_with('[') => &name[..=end],
        _ => name,
    }
}

#[cfg(test)]
mod tests;
