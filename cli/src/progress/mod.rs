//! The screen: readers of the event stream.
//!
//! Events come from many threads into one [`Progress`]. It keeps the [`Book`] (what every step is
//! doing, whole log lines with secrets hidden, the last lines for the failure report) and hands
//! event and lines to one [`View`]. A view only draws. Everything goes to the writer it is given,
//! which is stderr: stdout is data.
//!
//! A writer that fails (a closed pipe) is written to no more; the build goes on.

pub mod sanitize;

mod book;
mod legacy;
mod lines;
mod plain;
mod quiet;
mod rawjson;
mod recorder;
mod redact;
mod summary;
mod tty;

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rgraph_solver::event::{Event, EventKind, EventSink, Step, Timestamp};

pub use book::{Book, Counts, Entered, LogLine, StepInfo, StepState};
pub use legacy::ScriptLine;
pub use recorder::Recorder;
pub use redact::Redactor;
pub use summary::{Summary, write_classic, write_summary};

use crate::options::{BuildOptions, ProgressMode};

/// Bytes of a step's output that reach the screen.
pub const CLIP: usize = 2 << 20;

/// How to draw.
#[derive(Clone)]
pub struct Settings {
    /// Which view.
    pub mode: ProgressMode,
    /// Colours of steps are passed on, and the live view uses some.
    pub colours: bool,
    /// Log lines under a running step of the live view.
    pub log_lines: usize,
    /// Bytes of a step's output that reach the screen.
    pub clip: usize,
    /// What shows all of a clipped output, the step's name left out: `rgraph logs BUILD`.
    pub log_hint: Option<String>,
    /// What must not be shown.
    pub secrets: Redactor,
    /// Columns and rows of the terminal, asked at every redraw.
    pub window: fn() -> Option<(u16, u16)>,
}

impl Settings {
    /// The defaults of a mode.
    pub fn new(mode: ProgressMode) -> Self {
        Self {
            mode,
            colours: false,
            log_lines: 6,
            clip: CLIP,
            log_hint: None,
            secrets: Redactor::default(),
            window: tty::window,
        }
    }

    /// How the screen of a build is drawn.
    pub fn for_build(options: &BuildOptions, colours: bool) -> Self {
        Self {
            colours,
            log_lines: options.tty_log_lines,
            secrets: Redactor::new(options.secrets.values().map(|s| s.expose())),
            ..Self::new(options.progress)
        }
    }
}

/// Draws what the book says.
trait View: Send {
    /// The lines of the Dockerfile are known.
    fn script(&mut self, _lines: Vec<ScriptLine>) {}

    /// An event has been entered in the book.
    fn event(&mut self, book: &Book, event: &Event, entered: &Entered, out: &mut String);

    /// Time has passed without an event.
    fn tick(&mut self, _book: &Book, _now: Timestamp, _out: &mut String) {}

    /// Something to say that is about no step.
    fn message(&mut self, text: &str, out: &mut String);

    /// No event will follow.
    fn close(&mut self, book: &Book, now: Timestamp, out: &mut String);
}

struct State {
    book: Book,
    view: Box<dyn View>,
    out: Option<Box<dyn Write + Send>>,
    last: (Timestamp, Instant),
    closed: bool,
    /// Somebody looks every [`TICK`].
    ticks: bool,
    /// What was not written yet.
    text: String,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// The screen of one build. Cheap to share by reference; dropped, it closes itself.
pub struct Progress {
    shared: Arc<Shared>,
    ticker: Mutex<Option<JoinHandle<()>>>,
}

/// The live view is redrawn, and held back lines of the plain view are shown, this often.
const TICK: Duration = Duration::from_millis(100);

impl Progress {
    /// Opens a screen on `out`.
    pub fn new(settings: &Settings, out: Box<dyn Write + Send>) -> Self {
        let (view, tail, ticks): (Box<dyn View>, _, _) = match settings.mode {
            ProgressMode::Plain => (Box::new(plain::Plain::new(settings)), 20, true),
            ProgressMode::Tty => (Box::new(tty::Tty::new(settings)), 20, true),
            ProgressMode::Legacy => (Box::new(legacy::Legacy::new(settings)), 20, false),
            ProgressMode::RawJson => (Box::new(rawjson::RawJson), 20, false),
            // Nothing of the step was on the screen: a failure shows more of it.
            ProgressMode::Quiet => (Box::new(quiet::Quiet), 1000, false),
        };
        let state = State {
            book: Book::new(settings.secrets.clone(), tail),
            view,
            out: Some(out),
            last: (Timestamp(0), Instant::now()),
            closed: false,
            ticks,
            text: String::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let ticker = ticks.then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.tick())
        });
        Self { shared, ticker: Mutex::new(ticker) }
    }

    /// Says which lines there are, before the first vertex.
    pub fn script(&self, lines: Vec<ScriptLine>) {
        self.shared.lock().view.script(lines);
    }

    /// Says something that is about no step, such as a warning, between the lines.
    pub fn message(&self, text: &str) {
        let mut state = self.shared.lock();
        let State { view, text: buffer, .. } = &mut *state;
        view.message(text, buffer);
        state.flush();
    }

    /// Shows what is held back and takes the live lines away. Later events are counted, not drawn.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        if !state.closed {
            state.closed = true;
            let now = state.now();
            let State { view, book, text, .. } = &mut *state;
            view.close(book, now, text);
            state.flush();
        }
        drop(state);
        self.shared.wake.notify_all();
        let ticker = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(t) = ticker {
            // It ends at once; a panic in it was reported by the hook.
            let _ = t.join();
        }
    }

    /// The last lines a step printed, harmless and with secrets hidden, for the failure report.
    pub fn tail(&self, step: Step) -> Vec<String> {
        self.shared.lock().book.tail(step)
    }

    /// The progress line of a step.
    pub fn name(&self, step: Step) -> Option<String> {
        self.shared.lock().book.get(step).map(|s| s.name.clone())
    }

    /// Looks at every step.
    pub fn each(&self, mut look: impl FnMut(Step, &StepInfo)) {
        for (step, info) in self.shared.lock().book.steps() {
            look(step, info);
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.shared.lock().book.counts()
    }
}

impl EventSink for Progress {
    /// Draws under a lock and writes before it returns: a slow terminal makes the step that prints
    /// wait, memory stays as it is.
    fn emit(&self, event: Event) {
        let mut state = self.shared.lock();
        state.last = (event.at, Instant::now());
        let State { book, view, text, closed, .. } = &mut *state;
        let entered = book.enter(&event);
        let before = text.len();
        if !*closed {
            view.event(book, &event, &entered, text);
        }
        // Cached steps come by the hundred within a millisecond: they are written with what comes
        // next, or at the next tick.
        let waits = matches!(event.kind, EventKind::Cached { .. }) || text.len() == before;
        if !(waits && state.ticks) {
            state.flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        let mut state = self.lock();
        while !state.closed {
            state = self.wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
            if !state.closed {
                let now = state.now();
                let State { view, book, text, .. } = &mut *state;
                view.tick(book, now, text);
                state.flush();
            }
        }
    }
}

impl State {
    /// Event time, carried on by this process's clock.
    fn now(&self) -> Timestamp {
        let (at, seen) = self.last;
        if at.0 == 0 { at } else { Timestamp(at.0 + seen.elapsed().as_nanos() as u64) }
    }

    /// One write for whole lines, so that those of other processes on the same terminal do not cut ours.
    fn flush(&mut self) {
        if self.text.is_empty() {
            return;
        }
        if let Some(out) = &mut self.out
            && out.write_all(self.text.as_bytes()).and_then(|()| out.flush()).is_err()
        {
            self.out = None;
        }
        self.text.clear();
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rgraph_solver::ports::Origin;

    use super::testing::{Paper, announced, at, log, settings, step};
    use super::*;

    #[test]
    fn many_threads_one_screen() {
        let paper = Paper::default();
        let p = Progress::new(&settings(ProgressMode::Plain, |_| ()), Box::new(paper.clone()));
        std::thread::scope(|s| {
            for v in 0..8u32 {
                let p = &p;
                s.spawn(move || {
                    p.emit(announced(v, &format!("step {v}")));
                    p.emit(at(0, v, EventKind::Started));
                    for i in 0..100 {
                        p.emit(log(i, v, &format!("{v}{v}{v}")));
                        p.emit(log(i, v, &format!("{v}{v}{v}\n")));
                    }
                    p.emit(at(200, v, EventKind::Finished));
                });
            }
        });
        p.close();
        let text = paper.text();
        for v in 0..8 {
            assert_eq!(text.matches(&format!(" {}\n", format!("{v}").repeat(6))).count(), 100);
        }
        assert_eq!(text.matches(" DONE ").count(), 8);
        assert_eq!(p.counts().ran, 8);
    }

    #[test]
    fn quiet_is_quiet_and_keeps_what_a_failure_needs() {
        let paper = Paper::default();
        let p = Progress::new(&settings(ProgressMode::Quiet, |_| ()), Box::new(paper.clone()));
        p.emit(announced(1, "RUN x"));
        for i in 0..500 {
            p.emit(log(i, 1, &format!("line {i}\n")));
        }
        p.message("not shown");
        p.emit(at(600, 1, EventKind::Failed { message: String::new() }));
        p.close();
        assert_eq!(paper.text(), "");
        assert_eq!((p.tail(step(1)).len(), p.name(step(1)).as_deref()), (500, Some("RUN x")));
    }

    /// Counts writes.
    struct Counted(Arc<AtomicUsize>);

    impl Write for Counted {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn cached_steps_are_written_together() {
        let writes = Arc::new(AtomicUsize::new(0));
        let s = settings(ProgressMode::Plain, |_| ());
        let p = Progress::new(&s, Box::new(Counted(writes.clone())));
        // The ticker may come once or twice in between, on a slow machine.
        for v in 0..400 {
            p.emit(announced(v, "RUN x"));
            p.emit(at(0, v, EventKind::Cached { origin: Origin::Local }));
        }
        p.emit(at(1, 1000, EventKind::Started));
        p.close();
        assert!(writes.load(Ordering::SeqCst) < 100, "{writes:?}");
    }

    /// Fails after the first write.
    struct Closed(Arc<AtomicUsize>);

    impl Write for Closed {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(data.len()),
                _ => Err(std::io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_left_alone() {
        let writes = Arc::new(AtomicUsize::new(0));
        let s = settings(ProgressMode::RawJson, |_| ());
        let p = Progress::new(&s, Box::new(Closed(writes.clone())));
        for i in 0..10 {
            p.emit(at(i, 1, EventKind::Started));
        }
        assert_eq!(writes.load(Ordering::SeqCst), 2);
    }
}
