//! What every step is doing, for all views.

use std::collections::{HashMap, VecDeque};

use rgraph_ir::CacheKey;
use rgraph_solver::MissReason;
use rgraph_solver::event::{Event, EventKind, Step, Stream, Timestamp};

use super::lines::LineBuffer;
use super::redact::Redactor;
use super::sanitize::sanitize;

/// Most bytes of a step's last lines that are kept.
const TAIL_BYTES: usize = 256 << 10;
/// Most bytes of one line of these.
const TAIL_LINE: usize = 4 << 10;

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StepState {
    /// Announced only.
    #[default]
    Waiting,
    /// At work.
    Running,
    /// Answered by a cache.
    Cached,
    /// Ran.
    Done,
    /// Failed.
    Failed,
    /// Stopped.
    Cancelled,
}

impl StepState {
    /// Nothing more will come.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// One step.
#[derive(Default)]
pub struct StepInfo {
    /// Its progress line, harmless.
    pub name: String,
    /// How far it is.
    pub state: StepState,
    /// When work began.
    pub started: Option<Timestamp>,
    /// When it was over.
    pub ended: Option<Timestamp>,
    /// What its result is found by.
    pub key: Option<CacheKey>,
    /// Why no cache had it.
    pub reasons: Vec<MissReason>,
    buffers: [LineBuffer; 2],
    tail: VecDeque<String>,
    tail_bytes: usize,
}

impl StepInfo {
    /// Nanoseconds of work until `now`.
    pub fn elapsed(&self, now: Timestamp) -> u64 {
        let end = self.ended.unwrap_or(now);
        self.started.map_or(0, |s| end.0.saturating_sub(s.0))
    }
}

/// One whole line of a step's output: secrets hidden, control bytes still in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Which stream.
    pub stream: Stream,
    /// Without its end.
    pub bytes: Vec<u8>,
}

/// What happened so far. Steps that are no vertices are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Known.
    pub announced: usize,
    /// Answered by a cache.
    pub cached: usize,
    /// Ran to the end.
    pub ran: usize,
    /// Failed.
    pub failed: usize,
    /// Stopped.
    pub cancelled: usize,
    /// Warnings of steps.
    pub warnings: usize,
}

/// What an event changed.
#[derive(Debug, Default)]
pub struct Entered {
    /// Log lines that became whole by it.
    pub lines: Vec<LogLine>,
    /// The step was over with it, and was not before.
    pub ended: bool,
}

/// See the module.
pub struct Book {
    steps: HashMap<Step, StepInfo>,
    order: Vec<Step>,
    hide: Redactor,
    tail_lines: usize,
    counts: Counts,
}

impl Book {
    pub(super) fn new(hide: Redactor, tail_lines: usize) -> Self {
        Self {
            steps: HashMap::new(),
            order: Vec::new(),
            hide,
            tail_lines,
            counts: Counts::default(),
        }
    }

    /// A step that was announced.
    pub fn get(&self, step: Step) -> Option<&StepInfo> {
        self.steps.get(&step)
    }

    /// Steps in the order of their announcement.
    pub fn steps(&self) -> impl Iterator<Item = (Step, &StepInfo)> {
        self.order.iter().filter_map(|s| Some((*s, self.steps.get(s)?)))
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The last lines of a step.
    pub fn tail(&self, step: Step) -> Vec<String> {
        self.steps.get(&step).map(|s| s.tail.iter().cloned().collect()).unwrap_or_default()
    }

    /// Enters an event.
    pub(super) fn enter(&mut self, event: &Event) -> Entered {
        let Self { steps, order, hide, tail_lines, counts } = self;
        let is_vertex = matches!(event.step, Step::Vertex(_));
        let info = steps.entry(event.step).or_insert_with(|| {
            order.push(event.step);
            counts.announced += usize::from(is_vertex);
            StepInfo::default()
        });
        let Entered { mut lines, mut ended } = Entered::default();
        match &event.kind {
            EventKind::Announced { name } => {
                info.name.clear();
                sanitize(name.as_bytes(), false, &mut info.name);
                // Heredocs and continued lines come with their line ends.
                info.name = info.name.replace('\n', " ");
            }
            EventKind::Started => {
                info.started.get_or_insert(event.at);
                if !info.state.is_over() {
                    info.state = StepState::Running;
                }
            }
            EventKind::Missed { reasons } => info.reasons.clone_from(reasons),
            EventKind::Log { stream, data } => {
                let buffer = &mut info.buffers[usize::from(*stream == Stream::Stderr)];
                let give = &mut |bytes| lines.push(LogLine { stream: *stream, bytes });
                buffer.push(data, event.at, hide, give);
            }
            EventKind::Warning { .. } => counts.warnings += 1,
            EventKind::Keyed { key } => info.key = Some(*key),
            EventKind::Pinned { .. } | EventKind::Progress { .. } => {}
            EventKind::Cached { .. }
            | EventKind::Finished
            | EventKind::Failed { .. }
            | EventKind::Cancelled => {
                for (stream, buffer) in
                    [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut info.buffers)
                {
                    buffer.finish(hide, &mut |bytes| lines.push(LogLine { stream, bytes }));
                }
                if !info.state.is_over() {
                    info.ended = Some(event.at);
                    ended = true;
                    let (state, count) = match &event.kind {
                        EventKind::Cached { .. } => (StepState::Cached, &mut counts.cached),
                        EventKind::Failed { .. } => (StepState::Failed, &mut counts.failed),
                        EventKind::Cancelled => (StepState::Cancelled, &mut counts.cancelled),
                        _ => (StepState::Done, &mut counts.ran),
                    };
                    info.state = state;
                    *count += usize::from(is_vertex && !is_internal(&info.name));
                }
            }
        }
        for line in &lines {
            info.remember(line, *tail_lines);
        }
        if matches!(info.state, StepState::Done | StepState::Cached) {
            info.tail = VecDeque::new();
            info.tail_bytes = 0;
        }
        Entered { lines, ended }
    }
}

/// What the Dockerfile does not say: looking at a folder of the caller, and what goes before a step.
fn is_internal(name: &str) -> bool {
    let Some((head, rest)) = name.strip_prefix('[').and_then(|n| n.split_once(']')) else {
        return false;
    };
    head.split_whitespace().next_back() == Some("internal") || rest == " load from client"
}

impl StepInfo {
    fn remember(&mut self, line: &LogLine, most: usize) {
        let mut text = String::new();
        let cut = line.bytes.len().min(TAIL_LINE);
        sanitize(&line.bytes[..cut], false, &mut text);
        if cut < line.bytes.len() {
            text.push_str(" [...]");
        }
        self.tail_bytes += text.len();
        self.tail.push_back(text);
        while self.tail.len() > most || self.tail_bytes > TAIL_BYTES {
            let Some(old) = self.tail.pop_front() else { break };
            self.tail_bytes -= old.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{announced, at, log, step};
    use super::*;

    #[test]
    fn counts_each_end_once() {
        let mut b = Book::new(Redactor::default(), 2);
        for e in [
            announced(1, "a"),
            announced(2, "b"),
            announced(3, "c"),
            at(1, 1, EventKind::Started),
            at(2, 1, EventKind::Finished),
            at(3, 1, EventKind::Cancelled),
            at(3, 2, EventKind::Started),
            at(3, 2, EventKind::Failed { message: String::new() }),
            at(3, 3, EventKind::Cancelled),
        ] {
            b.enter(&e);
        }
        let want = Counts { announced: 3, ran: 1, failed: 1, cancelled: 1, ..Counts::default() };
        assert_eq!(b.counts(), want);
        assert_eq!(b.get(step(1)).unwrap().elapsed(Timestamp(0)), 1_000_000);
    }

    #[test]
    fn looking_at_folders_is_no_step() {
        let mut b = Book::new(Redactor::default(), 2);
        for (n, name) in [
            "[internal] load build context",
            "[app internal] load build context",
            "[internal] preparing inline document",
            "[app internal] setting cache mount permissions",
            "[context lib] load from client",
            "[app context lib] load from client",
            "[2/3] RUN echo [x] load from client",
        ]
        .into_iter()
        .enumerate()
        {
            b.enter(&announced(n as u32, name));
            b.enter(&at(1, n as u32, EventKind::Finished));
        }
        assert_eq!(b.counts().ran, 1);
    }

    #[test]
    fn keeps_the_last_lines_of_what_did_not_succeed() {
        let mut b = Book::new(Redactor::new([&b"secret"[..]]), 2);
        b.enter(&log(0, 1, "one\ntwo secret\nth\x1b[2Jree"));
        b.enter(&log(0, 2, "one\n"));
        b.enter(&at(1, 1, EventKind::Failed { message: String::new() }));
        b.enter(&at(1, 2, EventKind::Finished));
        assert_eq!(b.tail(step(1)), ["two ***", "th^[[2Jree"]);
        assert!(b.tail(step(2)).is_empty());
        b.enter(&log(0, 3, &format!("{}\n", "x".repeat(10_000))));
        assert_eq!(b.tail(step(3))[0].len(), TAIL_LINE + 6);
    }
}
