//! `--progress tty`: finished steps scroll up, running ones stay below with their time and last
//! lines.
//!
//! ```text
//!  => CACHED [build 1/4] FROM busybox                      0.0s
//! [+] Building 3.2s (1/4)
//!  => [build 2/4] RUN make                                 3.1s
//!     # compiling b.c
//! ```
//!
//! Only the lines below are ever redrawn, and they never wrap: each is cut to the width of the
//! terminal, all of them to its height. Nothing is drawn in the first [`QUIET`].

use std::collections::{HashMap, VecDeque};

use rgraph_solver::event::{Event, EventKind, Step, Timestamp};

use super::sanitize::{harmless, sanitize};
use super::{Book, Entered, Settings, StepInfo, StepState, View};
use crate::table::{duration, size_moving};

/// A build that is over sooner does not flicker.
const QUIET: u64 = 250_000_000;
/// Redraws are at least so far apart.
const FRAME: u64 = 80_000_000;
/// Most bytes of a log line that are kept for the screen.
const LINE: usize = 1000;

const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const CYAN: &str = "\x1b[36m";
const OFF: &str = "\x1b[0m";

/// Columns and rows of the terminal behind stderr.
pub fn window() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

#[derive(Default)]
struct Live {
    logs: VecDeque<String>,
    transfer: Option<String>,
}

/// See the module.
pub struct Tty {
    colours: bool,
    log_lines: usize,
    window: fn() -> Option<(u16, u16)>,
    live: HashMap<Step, Live>,
    /// Lines that stay, not yet drawn.
    above: String,
    /// Lines on the screen that the next redraw takes away.
    drawn: usize,
    began: Option<Timestamp>,
    last: Timestamp,
}

impl Tty {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            colours: settings.colours,
            log_lines: settings.log_lines,
            window: settings.window,
            live: HashMap::new(),
            above: String::new(),
            drawn: 0,
            began: None,
            last: Timestamp(0),
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours && !colour.is_empty() {
            format!("{colour}{text}{OFF}")
        } else {
            text.to_owned()
        }
    }

    /// A line with its time at the right edge.
    fn row(&self, colour: &str, text: &str, time: &str, columns: usize) -> String {
        if columns < 20 {
            return format!("{}\n", cut(text, columns.saturating_sub(1)));
        }
        // The last column stays free: some terminals wrap when it is filled.
        let room = columns.saturating_sub(width(time) + 2);
        let text = cut(text, room);
        let fill = " ".repeat(room - width(&text) + 1);
        format!("{}{fill}{time}\n", self.paint(colour, &text))
    }

    fn header(&self, book: &Book, now: Timestamp, end: &str, columns: usize) -> String {
        let over = book.steps().filter(|(_, s)| s.state.is_over()).count();
        let all = book.steps().count();
        let elapsed = self.began.map_or(0, |b| now.0.saturating_sub(b.0));
        let text = format!("[+] Building {} ({over}/{all}){end}", duration(elapsed));
        format!("{}\n", cut(&text, columns.saturating_sub(1)))
    }

    fn finished(&self, info: &StepInfo, columns: usize) -> Option<String> {
        let (colour, word) = match info.state {
            StepState::Cached => (CYAN, "CACHED "),
            StepState::Done => (GREEN, ""),
            StepState::Failed => (RED, "ERROR "),
            StepState::Cancelled if info.started.is_some() => (DIM, "CANCELED "),
            _ => return None,
        };
        let time = duration(info.elapsed(Timestamp(0)));
        Some(self.row(colour, &format!(" => {word}{}", info.name), &time, columns))
    }

    fn erase(&mut self, out: &mut String) {
        if self.drawn > 0 {
            out.push_str(&format!("\r\x1b[{}A\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn draw(&mut self, book: &Book, now: Timestamp, out: &mut String) {
        self.last = now;
        self.erase(out);
        out.push_str(&std::mem::take(&mut self.above));
        let (columns, rows) = self.size();
        let mut running: Vec<_> =
            book.steps().filter(|(_, s)| s.state == StepState::Running).collect();
        running.sort_by_key(|(_, s)| s.started);
        let mut lines = vec![self.header(book, now, "", columns)];
        // The cursor needs a row of its own.
        let room = rows.saturating_sub(2);
        let (shown, hidden) = running.split_at(running.len().min(room.saturating_sub(1).max(1)));
        let spare = room.saturating_sub(shown.len() + usize::from(!hidden.is_empty()));
        let share = (spare / shown.len().max(1)).min(self.log_lines);
        for (step, info) in shown {
            let live = self.live.get(step);
            let transfer = live.and_then(|l| l.transfer.as_deref()).unwrap_or_default();
            let text = format!(" => {} {transfer}", info.name);
            lines.push(self.row("", text.trim_end(), &duration(info.elapsed(now)), columns));
            for log in live.iter().flat_map(|l| l.logs.iter().rev().take(share).rev()) {
                let text = cut(&format!("    # {log}"), columns.saturating_sub(1));
                lines.push(format!("{}\n", self.paint(DIM, &text)));
            }
        }
        if !hidden.is_empty() {
            let text = format!(" => and {} more", hidden.len());
            lines.push(format!("{}\n", cut(&text, columns.saturating_sub(1))));
        }
        lines.truncate(rows.saturating_sub(1).max(1));
        self.drawn = lines.len();
        out.extend(lines);
    }

    fn size(&self) -> (usize, usize) {
        let (columns, rows) = (self.window)().unwrap_or((80, 24));
        (usize::from(columns), usize::from(rows))
    }

    /// Draws when it is time.
    fn frame(&mut self, book: &Book, now: Timestamp, out: &mut String) {
        let Some(began) = self.began else { return };
        if now.0.saturating_sub(began.0) >= QUIET && now.0.saturating_sub(self.last.0) >= FRAME {
            self.draw(book, now, out);
        }
    }
}

impl View for Tty {
    fn event(&mut self, book: &Book, event: &Event, entered: &Entered, out: &mut String) {
        self.began.get_or_insert(event.at);
        let Some(info) = book.get(event.step) else { return };
        let (most, columns) = (self.log_lines, self.size().0);
        if !info.state.is_over() {
            let live = self.live.entry(event.step).or_default();
            for line in &entered.lines {
                let mut text = String::new();
                sanitize(&line.bytes[..line.bytes.len().min(LINE)], false, &mut text);
                live.logs.push_back(text.replace('\t', " "));
                if live.logs.len() > most {
                    live.logs.pop_front();
                }
            }
        }
        match &event.kind {
            EventKind::Progress { id, action, current, total } => {
                let id: String = harmless(id).chars().take(19).collect();
                let of = match total {
                    0 => String::new(),
                    _ => format!(" / {}", size_moving(*total)),
                };
                let text = format!("{action} {id} {}{of}", size_moving(*current));
                self.live.entry(event.step).or_default().transfer = Some(text);
            }
            EventKind::Warning { text } => {
                let text = harmless(text).replace('\n', " ");
                self.above.push_str(&format!(" => WARN: {text}\n"));
            }
            _ if entered.ended => {
                self.live.remove(&event.step);
                self.above.extend(self.finished(info, columns));
            }
            _ => {}
        }
        self.frame(book, event.at, out);
    }

    fn tick(&mut self, book: &Book, now: Timestamp, out: &mut String) {
        self.frame(book, now, out);
    }

    fn message(&mut self, text: &str, out: &mut String) {
        self.erase(out);
        out.push_str(&std::mem::take(&mut self.above));
        out.push_str(&harmless(text));
        out.push('\n');
    }

    fn close(&mut self, book: &Book, now: Timestamp, out: &mut String) {
        self.erase(out);
        out.push_str(&std::mem::take(&mut self.above));
        if self.began.is_some() {
            let end = if book.counts().failed > 0 { " FAILED" } else { " FINISHED" };
            let header = self.header(book, now, end, self.size().0);
            out.push_str(&header);
        }
    }
}

/// Columns of a text at most: wide characters count two, and what is unsure counts as wide.
fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    if (c as u32) < 0x1100 { 1 } else { 2 }
}

/// The front of a text that fits.
fn cut(text: &str, most: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|c| {
            used += columns(*c);
            used <= most
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{announced, at, log, play, settings};
    use super::*;
    use crate::options::ProgressMode;
    use rgraph_solver::ports::Origin;

    /// What a terminal shows in the end: understands the two sequences that are written.
    fn terminal(text: &str) -> String {
        let mut lines: Vec<&str> = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(r) = rest.strip_prefix("\r\x1b[") {
                let (n, r) = r.split_once('A').unwrap();
                let up: usize = n.parse().unwrap();
                assert!(up <= lines.len(), "moves above its own lines");
                lines.truncate(lines.len() - up);
                rest = r.strip_prefix("\x1b[J").unwrap();
            } else {
                let (line, r) = rest.split_once('\n').unwrap();
                assert!(line.chars().count() < 60, "wraps: {line:?}");
                lines.push(line.trim_end());
                rest = r;
            }
        }
        lines.join("\n")
    }

    fn events() -> Vec<Event> {
        let mut all = vec![
            announced(1, "[build 1/3] FROM docker.io/library/busybox:latest@sha256:0123456789"),
            announced(2, "[build 2/3] RUN make"),
            announced(3, "[build 3/3] COPY a b"),
            at(10, 1, EventKind::Cached { origin: Origin::Local }),
            at(20, 2, EventKind::Started),
        ];
        all.extend(
            (0..20u64).map(|i| log(300 + i * 100, 2, &format!("line {i} \x1b[2J\u{8}日本\n"))),
        );
        all
    }

    #[test]
    fn running_steps_stay_below() {
        let s = settings(ProgressMode::Tty, |_| ());
        let mut view = Tty::new(&s);
        let mut book = Book::new(s.secrets.clone(), 5);
        let mut out = String::new();
        for e in events() {
            let lines = book.enter(&e);
            view.event(&book, &e, &lines, &mut out);
        }
        insta::assert_snapshot!(terminal(&out), @r##"
         => CACHED [build 1/3] FROM docker.io/library/busybox: 0.0s
        [+] Building 2.2s (1/3)
         => [build 2/3] RUN make                               2.2s
            # line 14 ^[[2J^H日本
            # line 15 ^[[2J^H日本
            # line 16 ^[[2J^H日本
            # line 17 ^[[2J^H日本
            # line 18 ^[[2J^H日本
            # line 19 ^[[2J^H日本
        "##);
    }

    #[test]
    fn the_end_is_collapsed() {
        let mut all = events();
        all.push(at(2500, 2, EventKind::Failed { message: "exit code: 1".into() }));
        all.push(at(2500, 3, EventKind::Cancelled));
        let text = play(&settings(ProgressMode::Tty, |_| ()), all);
        let shown = terminal(&text);
        // The clock of the test adds a little to the total.
        let (steps, total) = shown.rsplit_once('\n').unwrap();
        assert!(total.starts_with("[+] Building 2.") && total.ends_with("(3/3) FAILED"), "{total}");
        insta::assert_snapshot!(steps, @r##"
        => CACHED [build 1/3] FROM docker.io/library/busybox: 0.0s
        => ERROR [build 2/3] RUN make                         2.5s
        "##);
    }

    #[test]
    fn nothing_is_drawn_at_once_and_small_windows_hold() {
        let s = settings(ProgressMode::Tty, |_| ());
        let mut view = Tty::new(&s);
        let mut book = Book::new(s.secrets.clone(), 5);
        let mut out = String::new();
        for e in events().into_iter().take(5) {
            let lines = book.enter(&e);
            view.event(&book, &e, &lines, &mut out);
        }
        assert_eq!(out, "");
        let s = settings(ProgressMode::Tty, |s| s.window = || Some((21, 5)));
        let many = (0..50)
            .flat_map(|v| [announced(v, "RUN x"), at(300 + u64::from(v), v, EventKind::Started)]);
        let text = play(&s, many.chain([log(2000, 3, "x\n")]));
        for screen in text.split("\r\x1b[") {
            let screen = screen.split_once("\x1b[J").map_or(screen, |(_, s)| s);
            assert!(screen.lines().count() < 5, "{screen:?}");
            assert!(screen.lines().all(|l| l.chars().count() < 21), "{screen:?}");
        }
        assert!(text.contains(" => and 48 more"), "{text:?}");
    }
}
