//! Keeps what steps print, whole, beside what is shown of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rgraph_ir::VertexId;
use rgraph_runtime::logs::{BuildLogs, StepLog};
use rgraph_solver::event::{Event, EventKind, EventSink};
use rgraph_solver::{Step, Stream};

use super::Redactor;

/// Passes events on, and writes output of steps to their logs, with secrets hidden.
pub struct Recorder<'a> {
    next: &'a dyn EventSink,
    logs: BuildLogs,
    hide: Redactor,
    steps: Mutex<HashMap<VertexId, Arc<Mutex<Open>>>>,
}

/// A step that has printed something and has not ended.
struct Open {
    /// `None`: it cannot be written, which was said.
    log: Option<StepLog>,
    /// The end of what each stream gave: it may be the beginning of a secret.
    held: [Vec<u8>; 2],
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Recorder<'a> {
    /// Passes on to `next`.
    pub fn new(next: &'a dyn EventSink, logs: BuildLogs, hide: Redactor) -> Self {
        Self { next, logs, hide, steps: Mutex::default() }
    }

    /// Says what went wrong or was left out, once for a step.
    fn warn(&self, event: &Event, text: String) {
        let kind = EventKind::Warning { text };
        self.next.emit(Event { at: event.at, step: event.step, kind });
    }

    fn add(&self, v: VertexId, event: &Event, stream: Stream, data: &[u8]) {
        let step = {
            let mut steps = locked(&self.steps);
            let open = || {
                let log = self.logs.write(v.0);
                let log = log.map_err(|e| self.warn(event, format!("no log of this step: {e}")));
                Arc::new(Mutex::new(Open { log: log.ok(), held: Default::default() }))
            };
            steps.entry(v).or_insert_with(open).clone()
        };
        let mut open = locked(&step);
        let held = &mut open.held[stream as usize];
        if self.hide.hold_back() == 0 {
            return self.write(&mut open, event, stream, data);
        }
        held.extend_from_slice(data);
        self.hide.redact(held);
        let ready = held.len().saturating_sub(self.hide.hold_back());
        let ready: Vec<u8> = held.drain(..ready).collect();
        self.write(&mut open, event, stream, &ready);
    }

    fn write(&self, open: &mut Open, event: &Event, stream: Stream, data: &[u8]) {
        let Some(log) = &mut open.log else { return };
        match log.append(stream, data) {
            Ok(false) => {}
            Ok(true) => {
                self.warn(event, "the log of this step is full: the rest is not kept".to_owned());
            }
            Err(e) => {
                open.log = None;
                self.warn(event, format!("the log of this step is not whole: {e}"));
            }
        }
    }

    fn end(&self, v: VertexId, event: &Event) {
        let Some(step) = locked(&self.steps).remove(&v) else { return };
        let mut open = locked(&step);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut open.held[stream as usize]);
            self.write(&mut open, event, stream, &rest);
        }
    }
}

impl EventSink for Recorder<'_> {
    fn emit(&self, event: Event) {
        if let Step::Vertex(v) = event.step {
            match &event.kind {
                EventKind::Log { stream, data } => self.add(v, &event, *stream, data),
                EventKind::Finished | EventKind::Failed { .. } | EventKind::Cancelled => {
                    self.end(v, &event);
                }
                _ => {}
            }
        }
        self.next.emit(event);
    }
}

#[cfg(test)]
mod tests {
    use rgraph_runtime::logs::Piece;
    use rgraph_solver::event::Timestamp;
    use rgraph_store::{OpenOptions, Store};

    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_are_cut() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let text = b"a hunter2 b\nhunter3 hunt";
        for size in 1..text.len() {
            let logs = BuildLogs::new(&store, &format!("b{size}"), 1 << 20);
            let recorder = Recorder::new(&(), logs.clone(), Redactor::new([&b"hunter2"[..]]));
            let step = Step::Vertex(VertexId(3));
            let emit = |kind| recorder.emit(Event { at: Timestamp(0), step, kind });
            for stream in [Stream::Stdout, Stream::Stderr] {
                for part in text.chunks(size) {
                    emit(EventKind::Log { stream, data: part.to_vec() });
                }
            }
            emit(EventKind::Finished);
            let mut streams: [Vec<u8>; 2] = Default::default();
            let give = &mut |p: Piece<'_>| {
                if let Piece::Output(s, b) = p {
                    streams[s as usize].extend_from_slice(b);
                }
                Ok(())
            };
            logs.read(3, give).unwrap();
            for stream in streams {
                assert_eq!(String::from_utf8(stream).unwrap(), "a *** b\nhunter3 hunt", "{size}");
            }
        }
    }
}
