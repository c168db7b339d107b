//! A scripted event stream and a writer that remembers.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use rgraph_ir::VertexId;
use rgraph_solver::event::{Event, EventKind, EventSink, Step, Stream, Timestamp};

use super::{Progress, Settings};
use crate::options::ProgressMode;

/// A writer whose text can be read.
#[derive(Clone, Default)]
pub struct Paper(pub Arc<Mutex<Vec<u8>>>);

impl Paper {
    /// What was written.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Paper {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `vertex` as a step.
pub fn step(vertex: u32) -> Step {
    Step::Vertex(VertexId(vertex))
}

/// An event `ms` milliseconds after the start.
pub fn at(ms: u64, vertex: u32, kind: EventKind) -> Event {
    Event { at: Timestamp(1_700_000_000_000_000_000 + ms * 1_000_000), step: step(vertex), kind }
}

/// `name` is announced.
pub fn announced(vertex: u32, name: &str) -> Event {
    at(0, vertex, EventKind::Announced { name: name.to_owned() })
}

/// Text on stdout.
pub fn log(ms: u64, vertex: u32, text: &str) -> Event {
    let kind = EventKind::Log { stream: Stream::Stdout, data: text.as_bytes().to_vec() };
    at(ms, vertex, kind)
}

/// The settings with one thing changed.
pub fn settings(mode: ProgressMode, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut s = Settings::new(mode);
    s.window = || Some((60, 20));
    change(&mut s);
    s
}

/// Everything that a stream of events puts on the screen.
pub fn play(settings: &Settings, events: impl IntoIterator<Item = Event>) -> String {
    let paper = Paper::default();
    let progress = Progress::new(settings, Box::new(paper.clone()));
    for e in events {
        progress.emit(e);
    }
    progress.close();
    paper.text()
}
