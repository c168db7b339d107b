//! `--progress legacy`: the lines of Docker's classic builder.
//!
//! ```text
//! Step 2/3 : RUN make
//!  ---> Running in 4f2a07be1c55
//! text
//! Removing intermediate container 4f2a07be1c55
//!  ---> 4f2a07be1c55
//! ```
//!
//! One line of the Dockerfile after the other, whatever runs beside it: what a later step prints is
//! held back until it is its turn. The ids are the beginnings of cache keys: by them a result is
//! found again. They name no image and no container, for there is none between the steps.

use std::collections::HashMap;

use rgraph_ir::VertexId;
use rgraph_solver::event::{Event, EventKind, Step, Timestamp};

use super::sanitize::{harmless, sanitize};
use super::{Book, Entered, Settings, StepInfo, StepState, View};

/// So many bytes are held back for a step at most, and for all.
const HELD: usize = 256 << 10;
const HELD_IN_ALL: usize = 8 << 20;

/// A line of the Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScriptLine {
    /// The instruction.
    pub text: String,
    /// It begins a stage.
    pub from: bool,
    /// Of such a line: the earlier one that has the same files, when nothing is done for this one.
    pub stands_on: Option<usize>,
    /// It runs a program.
    pub run: bool,
    /// What is done for it, inputs first; empty: settings only, or done for an equal line.
    pub vertices: Vec<VertexId>,
}

/// How far the vertices of a line are.
enum Come {
    Waiting,
    Running,
    Cached,
    Done,
    Failed,
}

#[derive(Default)]
struct Output {
    /// Lines that wait for their turn.
    held: String,
    /// Bytes shown or held so far.
    logged: usize,
    clipped: bool,
}

/// See the module.
pub struct Legacy {
    colours: bool,
    clip: usize,
    log_hint: Option<String>,
    script: Vec<ScriptLine>,
    line_of: HashMap<VertexId, usize>,
    /// The line whose turn it is.
    at: usize,
    /// Its heading, and that it runs, have been said.
    headed: bool,
    running: bool,
    /// The last id, those of all lines, and those of lines by what they stand on.
    id: String,
    shown: Vec<String>,
    ids: HashMap<(String, String), String>,
    output: HashMap<usize, Output>,
    held: usize,
}

impl Legacy {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            colours: settings.colours,
            clip: settings.clip,
            log_hint: settings.log_hint.clone(),
            script: Vec::new(),
            line_of: HashMap::new(),
            at: 0,
            headed: false,
            running: false,
            id: String::new(),
            shown: Vec::new(),
            ids: HashMap::new(),
            output: HashMap::new(),
            held: 0,
        }
    }

    fn come(&self, book: &Book, line: usize) -> Come {
        let states: Vec<StepState> = self.script[line]
            .vertices
            .iter()
            .map(|v| book.get(Step::Vertex(*v)).map_or(StepState::Waiting, |i| i.state))
            .collect();
        let all = |f: fn(StepState) -> bool| states.iter().all(|s| f(*s));
        if states.contains(&StepState::Failed) {
            Come::Failed
        } else if all(|s| s == StepState::Cached) {
            Come::Cached
        } else if all(|s| matches!(s, StepState::Cached | StepState::Done)) {
            Come::Done
        } else if all(|s| s == StepState::Waiting) {
            Come::Waiting
        } else {
            Come::Running
        }
    }

    /// The id of a line: that of the last thing done for it.
    fn id_of(&self, book: &Book, line: usize) -> Option<String> {
        let last = self.script[line].vertices.last()?;
        book.get(Step::Vertex(*last)).and_then(id)
    }

    fn head(&mut self, out: &mut String) {
        if !std::mem::replace(&mut self.headed, true) {
            let text = harmless(&self.script[self.at].text).replace('\n', " ");
            out.push_str(&format!("Step {}/{} : {text}\n", self.at + 1, self.script.len()));
        }
    }

    /// Says that the line runs, and what it has printed so far.
    fn run(&mut self, book: &Book, out: &mut String) {
        if self.script[self.at].run && !std::mem::replace(&mut self.running, true) {
            let id = self.id_of(book, self.at).unwrap_or_default();
            out.push_str(&format!(" ---> Running in {id}\n"));
        }
        if let Some(o) = self.output.get_mut(&self.at) {
            self.held -= o.held.len();
            out.push_str(&std::mem::take(&mut o.held));
        }
    }

    /// Shows all that is known by now.
    fn advance(&mut self, book: &Book, out: &mut String) {
        while self.at < self.script.len() {
            self.head(out);
            let line = &self.script[self.at];
            let place = (self.id.clone(), line.text.clone());
            let run = line.run;
            let mut cached = false;
            if line.vertices.is_empty() {
                let below = line.stands_on.and_then(|at| self.shown.get(at));
                match (line.from, self.ids.get(&place)) {
                    (true, _) => self.id = below.cloned().unwrap_or_default(),
                    (false, Some(id)) => (cached, self.id) = (true, id.clone()),
                    (false, None) => {}
                }
            } else {
                match self.come(book, self.at) {
                    Come::Waiting => return,
                    Come::Running | Come::Failed => return self.run(book, out),
                    Come::Cached => cached = !line.from,
                    Come::Done => self.run(book, out),
                }
                self.id = self.id_of(book, self.at).unwrap_or_default();
                if self.running && run {
                    out.push_str(&format!("Removing intermediate container {}\n", self.id));
                }
            }
            if cached {
                out.push_str(" ---> Using cache\n");
            }
            // Nothing lies below the settings of an empty image.
            if !self.id.is_empty() {
                out.push_str(&format!(" ---> {}\n", self.id));
            }
            self.ids.insert(place, self.id.clone());
            self.shown.push(self.id.clone());
            self.output.remove(&self.at);
            self.at += 1;
            (self.headed, self.running) = (false, false);
        }
    }

    /// A line of output, or a warning.
    fn put(&mut self, book: &Book, line: usize, text: &str, out: &mut String) {
        let now = line == self.at;
        let o = self.output.entry(line).or_default();
        if o.clipped {
            return;
        }
        o.logged += text.len();
        let full = !now && (o.held.len() + text.len() > HELD || self.held > HELD_IN_ALL);
        let mut cut = String::new();
        if o.logged > self.clip || full {
            o.clipped = true;
            cut = match &self.log_hint {
                Some(hint) => format!("[output clipped; all of it: {hint}]\n"),
                None => "[output clipped]\n".to_owned(),
            };
        }
        let text = if o.clipped { &cut } else { text };
        if now {
            self.head(out);
            self.run(book, out);
            out.push_str(text);
        } else {
            o.held.push_str(text);
            self.held += text.len();
        }
    }
}

fn id(info: &StepInfo) -> Option<String> {
    info.key.map(|k| k.hex().chars().take(12).collect())
}

impl View for Legacy {
    fn script(&mut self, lines: Vec<ScriptLine>) {
        let lines_of = lines.iter().enumerate();
        self.line_of =
            lines_of.flat_map(|(at, l)| l.vertices.iter().map(move |v| (*v, at))).collect();
        self.script = lines;
    }

    fn event(&mut self, book: &Book, event: &Event, entered: &Entered, out: &mut String) {
        let line = match event.step {
            Step::Vertex(v) => self.line_of.get(&v).copied(),
            Step::Other(_) => None,
        };
        if let Some(line) = line {
            for l in &entered.lines {
                let mut text = String::new();
                sanitize(&l.bytes, self.colours, &mut text);
                text.push('\n');
                self.put(book, line, &text, out);
            }
        }
        if let EventKind::Warning { text } = &event.kind {
            let text: String =
                harmless(text).lines().map(|l| format!(" ---> [Warning] {l}\n")).collect();
            match line.filter(|l| *l >= self.at) {
                Some(line) => self.put(book, line, &text, out),
                None => out.push_str(&text),
            }
        }
        if line.is_some() && !matches!(event.kind, EventKind::Log { .. }) {
            self.advance(book, out);
        }
    }

    fn message(&mut self, text: &str, out: &mut String) {
        out.push_str(&harmless(text));
        out.push('\n');
    }

    fn close(&mut self, book: &Book, _now: Timestamp, out: &mut String) {
        // Settings alone have no event.
        if self.at == 0 || book.counts().failed == 0 {
            self.advance(book, out);
        }
        // What failed may stand below what was waited for.
        let failed = (self.at..self.script.len())
            .find(|line| matches!(self.come(book, *line), Come::Failed));
        if let Some(line) = failed.filter(|line| *line != self.at) {
            self.at = line;
            (self.headed, self.running) = (false, false);
            self.head(out);
            self.run(book, out);
        }
    }
}

#[cfg(test)]
mod tests;
