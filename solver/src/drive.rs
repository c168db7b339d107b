//! Carries out the machine's actions: cache questions on the caller's thread, where a local answer
//! takes microseconds; tasks on a few threads per lane, made when first needed and used again.
//! These are the only threads of this crate, and all of them end before [`solve`] returns.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{Builder, Scope};

use rgraph_ir::op::Selector;
use rgraph_ir::{BuildPlan, CacheKey, Edge, Graph, Op, SnapshotId, Ttl, VertexId};

use crate::cancel::CancelToken;
use crate::event::{EventSink, Timestamp};
use crate::explain::{Explainer, PastBuild, Question};
use crate::key::{KeyRecipe, Slot};
use crate::machine::{Action, ContentId, Input, Machine};
use crate::outcome::{Solution, SolveError};
use crate::policy::Policy;
use crate::ports::{CacheError, Lane, Ports, Query, Record, Task, TaskCx, TaskError, Tree};

/// Makes every target's root file system. Blocks until all is done, or until everything that ran
/// has stopped after the first failure or `cancel`.
///
/// # Errors
/// The first failure; `vertex` is `None` when `cancel` ended it.
pub fn solve(
    plan: &BuildPlan,
    ports: &Ports<'_>,
    policy: &Policy,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> Result<Solution, SolveError> {
    let mut targets: Vec<Edge> = plan.targets.iter().filter_map(|t| t.root).collect();
    targets.sort_unstable();
    targets.dedup();
    solve_edges(&plan.graph, &targets, ports, policy, cancel, sink)
}

/// As [`solve`], for any edges of a graph.
///
/// # Errors
/// As [`solve`].
pub fn solve_edges(
    graph: &Graph,
    targets: &[Edge],
    ports: &Ports<'_>,
    policy: &Policy,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> Result<Solution, SolveError> {
    let (tx, rx) = channel();
    let stop = CancelToken::new();
    // Remembering a result may compare trees, and so may the explanation of a miss: no work for the
    // caller's thread, nor should it wait behind copies.
    let lanes = [policy.exec, policy.fetch, policy.cpu, policy.cpu.max(2)].map(Pool::new);
    let explainer = Explainer::new(graph, ports.cache, &policy.place, &policy.args);
    let shared = Shared { graph, ports, sink, stop: &stop, lanes: &lanes, explainer: &explainer };
    let wake = Mutex::new(tx.clone());
    let _wake = cancel.on_cancel({
        let tx = wake.into_inner().unwrap_or_else(|e| e.into_inner());
        move || {
            // Nobody listens any more: the build is over, and so is what there was to cancel.
            let _ = tx.send(Input::Cancel);
        }
    });
    std::thread::scope(|scope| {
        // Also when a port panics here: the scope waits for its threads, and they for this.
        let _closing = Closing(&shared);
        let (mut machine, actions) = Machine::new(graph, targets, policy);
        let mut todo = VecDeque::from(actions);
        let mut sent = 0usize;
        loop {
            let mut next = |only_names: bool| {
                while let Some(action) = todo.pop_front() {
                    if only_names && !matches!(action, Action::Canonical { .. }) {
                        todo.push_front(action);
                        break;
                    }
                    let answer = shared.inline(action, &mut |lane, job| {
                        sent += 1;
                        shared.send(scope, &tx, lane, job);
                    });
                    if let Some(answer) = answer {
                        todo.extend(machine.on(answer, ports.clock.now()));
                    }
                    if !only_names && matches!(todo.front(), Some(Action::Canonical { .. })) {
                        break;
                    }
                }
                !todo.is_empty()
            };
            // One name is part of the next key, up a chain of hundreds of steps: they are asked for
            // in one go.
            while next(false) {
                ports.cache.at_once(&mut || {
                    next(true);
                });
            }
            if machine.is_over() {
                let (steps, args) = (machine.steps(), policy.args.clone());
                ports.cache.remember_build(PastBuild { steps, args });
                return machine.finish();
            }
            if sent == 0 {
                let cause = TaskError::failed("internal error: an answer is missing");
                return Err(SolveError { vertex: None, cause });
            }
            let Ok(answer) = rx.recv() else {
                let cause = TaskError::failed("internal error: the workers are gone");
                return Err(SolveError { vertex: None, cause });
            };
            if !matches!(answer, Input::Cancel) {
                sent -= 1;
            }
            todo.extend(machine.on(answer, ports.clock.now()));
        }
    })
}

/// Work for a thread.
enum Job {
    Pin(VertexId),
    Digest {
        content: ContentId,
        vertex: VertexId,
        tree: Tree,
        selector: Arc<Selector>,
    },
    Run {
        vertex: VertexId,
        key: Option<CacheKey>,
        inputs: Vec<Tree>,
    },
    Explain {
        vertex: VertexId,
        recipe: Arc<KeyRecipe>,
        inputs: Vec<(Tree, Option<String>)>,
        expired: Option<Ttl>,
    },
    Record(Box<RecordJob>),
}

struct RecordJob {
    vertex: VertexId,
    key: CacheKey,
    recipe: Arc<KeyRecipe>,
    slot: Slot,
    outputs: Vec<SnapshotId>,
    at: Timestamp,
}

/// The threads of one lane and what waits for them.
struct Pool {
    width: usize,
    state: Mutex<PoolState>,
    more: Condvar,
}

#[derive(Default)]
struct PoolState {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pool {
    fn new(width: usize) -> Self {
        Self { width: width.max(1), state: Mutex::default(), more: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.more.wait(state).unwrap_or_else(|e| e.into_inner());
            state.idle -= 1;
        }
    }
}

struct Shared<'a> {
    graph: &'a Graph,
    ports: &'a Ports<'a>,
    sink: &'a dyn EventSink,
    stop: &'a CancelToken,
    lanes: &'a [Pool; 4],
    explainer: &'a Explainer<'a>,
}

struct Closing<'a>(&'a Shared<'a>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        // Only a panic finds anything still running.
        self.0.stop.cancel();
        for pool in self.0.lanes {
            let mut state = pool.lock();
            state.closed = true;
            state.jobs.clear();
            pool.more.notify_all();
        }
    }
}

const RECORDS: usize = 3;

fn lane(lane: Lane) -> usize {
    match lane {
        Lane::Exec => 0,
        Lane::Fetch => 1,
        Lane::Cpu => 2,
    }
}

impl<'a> Shared<'a> {
    /// Does what is cheap and gives the answer; hands the rest to `send` with its lane.
    fn inline(&self, action: Action, send: &mut dyn FnMut(usize, Job)) -> Option<Input> {
        let cache = self.ports.cache;
        Some(match action {
            Action::Canonical { vertex, key } => {
                Input::Canonical { vertex, key: cache.canonical(key) }
            }
            Action::Created { vertex, key, recipe } => {
                let result = cache.created(&Query { vertex, key, recipe: &recipe });
                Input::Created { vertex, result }
            }
            Action::KnownContent { content, key, selector } => {
                Input::KnownContent { content, result: cache.content(key, &selector) }
            }
            Action::Probe { vertex, key, recipe } => {
                let result = cache.lookup(&Query { vertex, key, recipe: &recipe });
                Input::Probed { vertex, result }
            }
            Action::RecordContent { content, key, selector, digest } => {
                let result = cache.record_content(key, &selector, digest);
                Input::ContentRecorded { content, result }
            }
            Action::Pin { vertex } if self.is_pin_known(vertex) => self.work(Job::Pin(vertex)),
            Action::Pin { vertex } => {
                send(lane(Lane::Fetch), Job::Pin(vertex));
                return None;
            }
            Action::Digest { content, vertex, tree, selector } => {
                send(lane(Lane::Cpu), Job::Digest { content, vertex, tree, selector });
                return None;
            }
            Action::Run { vertex, key, inputs } => {
                let at = lane(self.ports.worker.lane(&self.graph.vertex(vertex).op));
                send(at, Job::Run { vertex, key, inputs });
                return None;
            }
            Action::Explain { vertex, recipe, inputs, expired } => {
                send(RECORDS, Job::Explain { vertex, recipe, inputs, expired });
                return None;
            }
            Action::Record { vertex, key, recipe, slot, outputs } => {
                let at = self.ports.clock.now();
                let job = RecordJob { vertex, key, recipe, slot, outputs, at };
                send(RECORDS, Job::Record(Box::new(job)));
                return None;
            }
            Action::Emit(event) => {
                self.sink.emit(event);
                return None;
            }
            Action::StopTasks => {
                self.stop.cancel();
                return None;
            }
        })
    }

    fn send<'s, 'e>(&'s self, scope: &'s Scope<'s, 'e>, tx: &Sender<Input>, lane: usize, job: Job) {
        let pool = &self.lanes[lane];
        let mut state = pool.lock();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle || state.threads >= pool.width {
            pool.more.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let answers = tx.clone();
        let body = move || {
            while let Some(job) = pool.next() {
                // Nobody listens after a panic on the caller's thread.
                let _ = answers.send(self.work(job));
            }
        };
        if Builder::new().spawn_scoped(scope, body).is_err() {
            // No thread to be had: another of the lane will come to it, or this one does it.
            let mut state = pool.lock();
            state.threads -= 1;
            if state.threads == 0
                && let Some(job) = state.jobs.pop_front()
            {
                drop(state);
                let _ = tx.send(self.work(job));
            }
        }
    }

    fn work(&self, job: Job) -> Input {
        match job {
            Job::Pin(vertex) => Input::Pinned { vertex, result: self.pin(vertex) },
            Job::Digest { content, vertex, tree, selector } => {
                let worker = self.ports.worker;
                let result = self.guarded(vertex, |cx| worker.digest(tree, &selector, cx));
                Input::Digested { content, result }
            }
            Job::Run { vertex, key, inputs } => {
                Input::Ran { vertex, result: self.run(vertex, key, &inputs) }
            }
            Job::Explain { vertex, recipe, inputs, expired } => {
                let question = Question { vertex, recipe: &recipe, inputs: &inputs, expired };
                let call = catch_unwind(AssertUnwindSafe(|| self.explainer.explain(&question)));
                // A line that nobody can tell is no reason to fail.
                Input::Explained { vertex, reasons: call.unwrap_or_default() }
            }
            Job::Record(job) => {
                let RecordJob { vertex, key, recipe, slot, outputs, at } = &*job;
                let (vertex, key, at) = (*vertex, *key, *at);
                let shows_content = self.graph.vertex(vertex).op.shows_content();
                let rec = Record { vertex, key, recipe, shows_content, slot, outputs, at };
                let call = catch_unwind(AssertUnwindSafe(|| self.ports.cache.record(&rec)));
                let result = call.unwrap_or_else(|p| Err(CacheError(panicked(&*p).into())));
                Input::Recorded { vertex, result }
            }
        }
    }

    fn pin(&self, vertex: VertexId) -> Result<crate::ports::Pin, TaskError> {
        let v = self.graph.vertex(vertex);
        let Op::Source(op) = &v.op else {
            return Err(TaskError::failed("internal error: only a source has a pin"));
        };
        self.guarded(vertex, |cx| self.ports.worker.pin(op, v.platform.as_deref(), cx))
    }

    fn is_pin_known(&self, vertex: VertexId) -> bool {
        let v = self.graph.vertex(vertex);
        let known = |op| self.ports.worker.is_pin_known(op, v.platform.as_deref());
        matches!(&v.op, Op::Source(op) if known(op))
    }

    fn run(
        &self,
        vertex: VertexId,
        key: Option<CacheKey>,
        inputs: &[Tree],
    ) -> Result<Vec<Tree>, TaskError> {
        let v = self.graph.vertex(vertex);
        // A live source has no key; its task gets one that no result is recorded under.
        let key = key.unwrap_or_else(|| CacheKey::from_bytes([0; 32]));
        let platform = v.platform.as_deref();
        let task = Task { vertex, op: &v.op, platform, meta: &v.meta, inputs, key };
        self.guarded(vertex, |cx| self.ports.worker.run(&task, cx))
    }

    fn guarded<T>(
        &self,
        vertex: VertexId,
        call: impl FnOnce(&TaskCx<'_>) -> Result<T, TaskError>,
    ) -> Result<T, TaskError> {
        let cx = TaskCx { vertex, cancel: self.stop, sink: self.sink, clock: self.ports.clock };
        cx.check()?;
        catch_unwind(AssertUnwindSafe(|| call(&cx)))
            .unwrap_or_else(|p| Err(TaskError::failed(panicked(&*p))))
    }
}

fn panicked(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("internal error: a task panicked: {text}")
}
