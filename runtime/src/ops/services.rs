//! Containers beside steps: started when the first step that reaches them is about to run, gone when
//! nothing of the build runs any more.
//!
//! ```text
//! step's thread ── reach ──→ Services ── launch ──→ Runner
//!                    │          └── Follow ──→ a thread per service: its output, its end
//!                    └─ waits until it listens, or has ended, or its time is over
//! ```
//! A service is one container for all steps that reach the same services; what they do to it, the next
//! one finds. Nothing of it is kept: its root is thrown away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rgraph_ir::op::{ExecOp, InputIndex, NetworkMode, Port, Service};
use rgraph_ir::{SnapshotId, limits};
use rgraph_solver::event::{Event, EventKind, EventSink, Step};
use rgraph_solver::{CancelToken, Clock, Stream, Task, TaskCx, TaskError};
use rgraph_sys::spawn::PidFd;

use crate::local_backend::SystemClock;
use crate::sandbox::{
    Network, Outcome, Rootfs, Running, SandboxSpec, Stopped, Stream as SandboxStream, listening,
};
use crate::snapshot::{Scratch, SnapshotError};
use crate::worker::{LocalWorker, report};

/// How often is looked whether a service listens.
const TICK: Duration = Duration::from_millis(20);
/// Most ports named in a message: an image may expose all that there are.
const MAX_NAMED: usize = 10;
/// How much of its output an error shows, bytes.
const TAIL: usize = 4096;

/// Why a step has no service.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    /// It needs a network.
    #[error(
        "service `{name}` needs a network that steps have to themselves, and there is none here: see \
         the warning above, or `rgraph doctor`"
    )]
    NoNetwork {
        /// The service.
        name: String,
    },
    /// It has ended.
    #[error("service `{name}` {how}{when}{tail}")]
    Ended {
        /// The service.
        name: String,
        /// `ended with exit code 1`.
        how: String,
        /// ` before it listened on 80/tcp`; empty: it did.
        when: String,
        /// What it said last, on lines of its own.
        tail: String,
    },
    /// It does not listen.
    #[error(
        "service `{name}` does not listen on {ports} after {seconds} s{hint}; `port=` of --service says \
         on what it does, `wait=` how long it may take, or `no`{tail}"
    )]
    Silent {
        /// The service.
        name: String,
        /// On which ports.
        ports: String,
        /// How long was waited.
        seconds: u64,
        /// It listens where nobody reaches it.
        hint: &'static str,
        /// What it said last.
        tail: String,
    },
    /// It could not be started.
    #[error("service `{name}` cannot be started: {why}")]
    NotStarted {
        /// The service.
        name: String,
        /// Why.
        why: String,
    },
}

/// The services of a build.
pub struct Services<'a> {
    next_step: &'a AtomicU32,
    all: Mutex<Vec<Arc<Entry>>>,
    followers: Mutex<Option<Sender<Follow>>>,
}

/// What one container is: steps for which all of it is equal share it.
struct Entry {
    service: Service,
    root: SnapshotId,
    /// Those that it reaches itself.
    before: Vec<(u32, String)>,
    number: u32,
    state: Mutex<State>,
}

enum State {
    /// No step needed it yet.
    Idle,
    /// It was ready.
    Up(Arc<Shared>),
    /// It will not be.
    Failed(ServiceError),
}

/// What its thread tells.
#[derive(Default)]
struct Shared {
    stop: CancelToken,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    /// The last of its output.
    tail: Vec<u8>,
    /// How it ended.
    ended: Option<String>,
}

/// A service that runs, for its thread.
struct Follow {
    running: Running,
    /// Its root, thrown away when it has ended.
    _scratch: Vec<Scratch>,
    shared: Arc<Shared>,
    step: Step,
    name: String,
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Services<'a> {
    /// None runs. `next_step` gives numbers for their lines of progress.
    pub fn new(next_step: &'a AtomicU32) -> Self {
        Self { next_step, all: Mutex::default(), followers: Mutex::default() }
    }

    /// Does something, during which services may be started; they are gone when this returns.
    pub fn during<T>(&self, sink: &dyn EventSink, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let (sender, jobs) = channel::<Follow>();
            *locked(&self.followers) = Some(sender);
            scope.spawn(move || {
                for job in jobs {
                    scope.spawn(move || job.follow(sink));
                }
            });
            // Also when something panics: the scope waits for the threads.
            let _end = Ending(self);
            work()
        })
    }
}

struct Ending<'s, 'a>(&'s Services<'a>);

impl Drop for Ending<'_, '_> {
    fn drop(&mut self) {
        *locked(&self.0.followers) = None;
        for entry in locked(&self.0.all).drain(..) {
            if let State::Up(shared) = &*locked(&entry.state) {
                shared.stop.cancel();
            }
        }
    }
}

/// Makes the services of a step run. Gives how the step's network reaches them: number and name.
pub fn reach(
    w: &LocalWorker<'_>,
    op: &ExecOp,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
) -> Result<Vec<(u32, String)>, TaskError> {
    let mut reached = Vec::new();
    for service in &op.services {
        let root = w.as_snapshot(task.inputs[service.root.at()], cx)?;
        let entry = w.services.entry(service, root, &reached);
        let mut state = locked(&entry.state);
        if let State::Idle = *state {
            *state = start(w, &entry, cx)?;
        }
        match &*state {
            State::Failed(e) => return Err(TaskError::failed(e.clone())),
            State::Up(shared) => {
                if let Some(e) = entry.ended(shared, String::new()) {
                    return Err(TaskError::failed(e));
                }
            }
            State::Idle => {}
        }
        reached.push((entry.number, service.name.clone()));
    }
    Ok(reached)
}

impl Services<'_> {
    fn entry(&self, service: &Service, root: SnapshotId, before: &[(u32, String)]) -> Arc<Entry> {
        // Which input of a step it is does not count.
        let service = Service { root: InputIndex(0), ..service.clone() };
        let mut all = locked(&self.all);
        let is_it = |e: &&Arc<Entry>| e.service == service && e.root == root && e.before == before;
        if let Some(known) = all.iter().find(is_it) {
            return known.clone();
        }
        let number = self.next_step.fetch_add(1, Ordering::Relaxed);
        let (before, state) = (before.to_vec(), Mutex::new(State::Idle));
        let entry = Arc::new(Entry { service, root, before, number, state });
        all.push(entry.clone());
        entry
    }
}

impl Entry {
    fn ended(&self, shared: &Shared, when: String) -> Option<ServiceError> {
        let said = locked(&shared.said);
        let how = said.ended.clone()?;
        let name = self.service.name.clone();
        Some(ServiceError::Ended { name, how, when, tail: said.tail() })
    }

    fn spec(&self, rootfs: Rootfs) -> SandboxSpec {
        let run = &self.service.run;
        SandboxSpec {
            env: run.env.clone(),
            cwd: run.cwd.clone(),
            user: run.user.clone(),
            hostname: self.service.name.clone(),
            network: Network::Private,
            serves: Some(self.number),
            reaches: self.before.clone(),
            processes: Some(limits::STEP_PROCESSES),
            // Nothing of it is kept, so there is nothing to end well.
            grace: Duration::ZERO,
            ..SandboxSpec::new(rootfs, run.args.clone())
        }
    }
}

/// Starts a service and waits until it is ready. The error is one of the build or the caller's wish to
/// stop; one of the service is a state.
fn start(w: &LocalWorker<'_>, entry: &Entry, cx: &TaskCx<'_>) -> Result<State, TaskError> {
    let name = &entry.service.name;
    if super::network::of_step(w, NetworkMode::Default, cx)? != Network::Private {
        return Ok(State::Failed(ServiceError::NoNetwork { name: name.clone() }));
    }
    let layer = w.begin_layer(Some(entry.root), cx)?;
    let mut fds = Vec::new();
    let rootfs = layer.rootfs(w.mount_points(), cx, &mut fds).map_err(SnapshotError::into_task)?;
    let running = match w.runner()?.launch(&entry.spec(rootfs), fds) {
        Ok(running) => running,
        Err(e) => {
            let why = report(&e);
            return Ok(State::Failed(ServiceError::NotStarted { name: name.clone(), why }));
        }
    };
    let pid = running.pidfd().try_clone().map_err(TaskError::failed)?;
    let shared = Arc::new(Shared::default());
    let follow = Follow {
        running,
        _scratch: layer.into_scratch(),
        shared: shared.clone(),
        step: Step::Other(entry.number),
        name: name.clone(),
    };
    let sent = locked(&w.services.followers).as_ref().is_some_and(|f| f.send(follow).is_ok());
    if !sent {
        return Err(TaskError::Cancelled); // the build is over
    }
    let state = wait(entry, &shared, &pid, cx);
    if !matches!(state, Ok(State::Up(_))) {
        shared.stop.cancel();
    }
    state
}

fn wait(
    entry: &Entry,
    shared: &Arc<Shared>,
    pid: &PidFd,
    cx: &TaskCx<'_>,
) -> Result<State, TaskError> {
    let Service { name, run, .. } = &entry.service;
    let list = |ports: &[Port]| {
        let named: Vec<_> = ports.iter().take(MAX_NAMED).map(Port::to_string).collect();
        match ports.len() - named.len() {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    };
    let since = Instant::now();
    loop {
        cx.check()?;
        // One that has ended is told by its thread, a moment later.
        // True: others reach it.
        let mut listens = HashMap::new();
        for l in listening(pid).unwrap_or_default() {
            *listens.entry(l.port).or_insert(false) |= !l.address.is_loopback();
        }
        let (mut missing, mut local) = (run.ports.clone(), false);
        missing.retain(|p| {
            let here = listens.get(p).copied();
            local |= here == Some(false);
            here != Some(true)
        });
        let when = match &missing[..] {
            [] => String::new(),
            ports => format!(" before it listened on {}", list(ports)),
        };
        if let Some(e) = entry.ended(shared, when) {
            return Ok(State::Failed(e));
        }
        if missing.is_empty() {
            return Ok(State::Up(shared.clone()));
        }
        if since.elapsed() >= run.patience {
            return Ok(State::Failed(ServiceError::Silent {
                name: name.clone(),
                ports: list(&missing),
                seconds: run.patience.as_secs(),
                hint: if local { ", only for itself (on loopback)" } else { "" },
                tail: locked(&shared.said).tail(),
            }));
        }
        std::thread::sleep(TICK);
    }
}

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let more = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..more);
    }

    /// Its last lines, for the end of an error.
    fn tail(&self) -> String {
        const LINES: usize = 10;
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        match lines.len() {
            0 => "; it said nothing".to_owned(),
            n => format!("; it said:\n{}", lines[n.saturating_sub(LINES)..].join("\n")),
        }
    }
}

impl Follow {
    fn follow(self, sink: &dyn EventSink) {
        let Self { running, _scratch, shared, step, name } = self;
        let emit = |kind| sink.emit(Event { at: SystemClock.now(), step, kind });
        emit(EventKind::Announced { name: format!("[service {name}] running") });
        emit(EventKind::Started);
        let finished = running.wait(&shared.stop, None, &mut |stream, bytes| {
            locked(&shared.said).add(bytes);
            let stream = match stream {
                SandboxStream::Stdout => Stream::Stdout,
                SandboxStream::Stderr => Stream::Stderr,
            };
            emit(EventKind::Log { stream, data: bytes.to_vec() });
        });
        let how = match &finished {
            Ok(f) if f.stopped == Some(Stopped::Cancelled) => return emit(EventKind::Finished),
            Ok(f) => match &f.outcome {
                Outcome::Exited(code) => format!("ended with exit code {code}"),
                Outcome::Signalled(signal) => format!("was killed by signal {signal}"),
                Outcome::NotStarted(e) => format!("cannot be started: {e}"),
            },
            Err(e) => format!("is lost: {}", report(e)),
        };
        // Before anybody hears of the end, so that they hear why.
        locked(&shared.said).ended = Some(how.clone());
        emit(EventKind::Failed { message: format!("service `{name}` {how}") });
    }
}
