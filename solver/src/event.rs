//! The progress stream: one enum, many readers. Nothing a user must know travels another way.

use std::time::Duration;

use rgraph_ir::{CacheKey, VertexId};

use crate::explain::MissReason;
use crate::ports::Origin;

/// Nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Made of whole seconds since 1970. Before that: 0, which is "nobody knows".
    pub fn from_seconds(seconds: i64) -> Self {
        Self(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000))
    }

    /// In whole seconds.
    pub fn seconds(self) -> i64 {
        i64::try_from(self.0 / 1_000_000_000).unwrap_or(i64::MAX)
    }

    /// How old something made at this time is. `None`: the time is not known, or lies ahead: one of
    /// two clocks is wrong.
    pub fn age(self, now: Self) -> Option<Duration> {
        if self.0 == 0 { None } else { now.0.checked_sub(self.0).map(Duration::from_nanos) }
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// A vertex of the plan.
    Vertex(VertexId),
    /// Work that is no vertex (loading the Dockerfile, exporting), numbered by who announces it.
    Other(u32),
}

/// Which stream of a step a log chunk is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of the progress stream.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// About what.
    pub step: Step,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum EventKind {
    /// First event of every step: its progress line.
    Announced {
        /// `[build 2/4] RUN make`.
        name: String,
    },
    /// Work began.
    Started,
    /// A mutable source was looked up.
    Pinned {
        /// What it means now.
        what: String,
    },
    /// What its result is found by; comes before it runs, and again when another key stands for it.
    Keyed {
        /// The key.
        key: CacheKey,
    },
    /// Answered by a cache; nothing runs.
    Cached {
        /// Which cache.
        origin: Origin,
    },
    /// Every cache was asked and none had it: one line per reason.
    Missed {
        /// `src/a.c changed`, `not built here before`.
        reasons: Vec<MissReason>,
    },
    /// Output of the step.
    Log {
        /// Which stream.
        stream: Stream,
        /// Raw bytes; renderers make them harmless.
        data: Vec<u8>,
    },
    /// Progress of long work within the step.
    Progress {
        /// What is worked on: a digest, a file.
        id: String,
        /// `downloading`, `unpacking`, `exporting`.
        action: &'static str,
        /// Done so far (bytes or items).
        current: u64,
        /// In all; 0: unknown.
        total: u64,
    },
    /// Something the user should know; the build goes on.
    Warning {
        /// The text.
        text: String,
    },
    /// Done.
    Finished,
    /// Failed; details are in the build's error.
    Failed {
        /// One sentence.
        message: String,
    },
    /// Stopped because something else failed or the user said so.
    Cancelled,
}

/// Takes events from any thread. State events are never dropped; a sink may make the sender of log
/// chunks wait, so that a slow reader slows the step and does not fill memory.
pub trait EventSink: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: Event);
}

/// Drops everything.
impl EventSink for () {
    fn emit(&self, _: Event) {}
}
