//! A world in memory for tests: a tree is a number, an op a function of the numbers it looks at, and
//! answers come in whatever order a seed says. Deterministic throughout.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rgraph_ir::op::{
    CacheMount, CacheSharing, ExecOp, ImageSource, Keying, LocalSource, Mount, MountKind,
    NetworkMode, ResolveMode, SecurityMode, Selector, SourceOp,
};
use rgraph_ir::{
    CacheKey, Edge, Env, Graph, GraphBuilder, InputIndex, Op, Platform, SnapshotId, TreeDigest,
    VertexId, VertexMeta,
};

use crate::event::Timestamp;
use crate::explain::{Explainer, PastBuild, Question};
use crate::key::{KeyRecipe, Slot};
use crate::machine::{Action, Input, Machine};
use crate::outcome::{Solution, SolveError};
use crate::policy::Policy;
use crate::ports::{
    CacheError, Clock, Hit, Origin, Pin, Query, Record, ResultCache, Task, TaskCx, TaskError, Tree,
    Worker,
};

/// A small generator (SplitMix64).
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash(parts: &[u64]) -> u64 {
    parts.iter().fold(7, |h, p| mix(h ^ p.wrapping_mul(0x2545_f491_4f6c_dd1d)).wrapping_add(1))
}

/// An image vertex's op.
pub fn image(name: &str) -> Op {
    let reference = name.to_owned();
    Op::Source(SourceOp::Image(ImageSource { reference, resolve: ResolveMode::Default }))
}

/// A live folder's op.
pub fn local(name: &str) -> Op {
    Op::Source(SourceOp::Local(Box::new(LocalSource {
        name: name.to_owned(),
        follow_paths: None,
        include: Vec::new(),
        exclude: Vec::new(),
        shared_key_hint: None,
    })))
}

/// An exec op: input 0 is the root when `root`; the following inputs are mounted at these paths of
/// theirs, an empty path standing for a cache mount's seed.
pub fn exec(command: &str, root: bool, binds: &[&str]) -> Op {
    let first = u32::from(root);
    let mounts = binds.iter().zip(first..).map(|(path, i)| {
        let (from, selector) = (Some(InputIndex(i)), (*path).to_owned());
        let kind = if path.is_empty() {
            let (id, sharing) = (String::new(), CacheSharing::Shared);
            MountKind::Cache(CacheMount { id, sharing, from, selector, readonly: false })
        } else {
            MountKind::Bind { from, selector, readonly: true }
        };
        Mount { dest: format!("/m{i}"), kind }
    });
    Op::from(ExecOp {
        args: vec![command.to_owned()],
        env: Env::new(),
        cwd: "/".into(),
        user: String::new(),
        root: root.then_some(InputIndex(0)),
        mounts: mounts.collect(),
        network: NetworkMode::None,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        devices: Vec::new(),
        proxy_env: None,
        extra_hosts: Vec::new(),
        hostname: None,
        ulimits: Vec::new(),
        cgroup_parent: None,
        services: Vec::new(),
    })
}

/// What of a tree a selector shows: all of it, or its lowest bit.
fn part(tree: u64, sel: &Selector) -> u64 {
    if sel.paths.iter().any(|p| p.path == "/") { tree } else { tree & 1 }
}

/// The op's function. Few results, so that other inputs often give an equal tree.
fn result(op: &Op, seen: &[u64], salt: u64) -> u64 {
    let Op::Exec(e) = op else { return 0 };
    let name = e.args[0].bytes().fold(0, |h, b| hash(&[h, u64::from(b)]));
    hash(&[name, salt, hash(seen)]) % 3 + 4 * (name % 1000)
}

/// One tree, in numbers: what an op looks at of its inputs.
fn seen(op: &Op, inputs: &[u64]) -> Vec<u64> {
    let look = |(i, t): (usize, &u64)| match op.keying(InputIndex(i as u32)) {
        Keying::Chain => *t,
        Keying::Content(sel) => part(*t, &sel),
        Keying::Ignored => 0,
    };
    inputs.iter().enumerate().map(look).collect()
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<String, u64>,
    snapshots: BTreeMap<u64, u64>,
    contexts: Vec<u64>,
    next: u64,
    salts: HashMap<String, u64>,
    failing: HashSet<String>,
    delay: Duration,
    runs: Vec<(VertexId, CacheKey)>,
    steps: Vec<(String, Vec<u64>)>,
    digests: usize,
}

/// Scripted worker: source contents, failures, delays; it counts what it does.
#[derive(Debug, Default)]
pub struct FakeWorker(Mutex<State>);

impl FakeWorker {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives a source its content. An image's pin changes with it, except for its lowest bit's
    /// copy: contents 10 and 110 are the same tree under two pins.
    pub fn set_source(&self, name: &str, content: u64) {
        self.state().sources.insert(name.to_owned(), content);
    }

    /// Makes a command give other results.
    pub fn set_salt(&self, command: &str, salt: u64) {
        self.state().salts.insert(command.to_owned(), salt);
    }

    /// Makes a command fail with exit code 1.
    pub fn set_failing(&self, command: &str) {
        self.state().failing.insert(command.to_owned());
    }

    /// How long every command takes when run by threads.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// The vertices that ran since the last call, with the keys they ran for.
    pub fn take_runs(&self) -> Vec<(VertexId, CacheKey)> {
        std::mem::take(&mut self.state().runs)
    }

    /// The commands that ran since the last call, mounts included, with what they saw of their inputs.
    pub fn take_steps(&self) -> Vec<(String, Vec<u64>)> {
        std::mem::take(&mut self.state().steps)
    }

    /// How many digests were computed since the last call.
    pub fn take_digests(&self) -> usize {
        std::mem::take(&mut self.state().digests)
    }

    /// Loses a snapshot without telling the cache.
    pub fn lose(&self, id: SnapshotId) {
        self.state().snapshots.remove(&id.0);
    }

    /// The ids of all snapshots.
    pub fn snapshots(&self) -> Vec<SnapshotId> {
        self.state().snapshots.keys().map(|k| SnapshotId(*k)).collect()
    }

    /// A tree's content, if it is there.
    pub fn content(&self, tree: Tree) -> Option<u64> {
        let s = self.state();
        match tree {
            Tree::Snapshot(id) => s.snapshots.get(&id.0).copied(),
            Tree::Context(n) => s.contexts.get(n as usize).copied(),
        }
    }

    /// What every vertex's tree has to be now.
    pub fn oracle(&self, graph: &Graph) -> Vec<u64> {
        let s = self.state();
        let mut trees: Vec<u64> = Vec::new();
        for (_, v) in graph.iter() {
            let inputs: Vec<u64> = v.inputs.iter().map(|e| trees[e.vertex.at()]).collect();
            trees.push(match &v.op {
                Op::Source(op) => s.source(op) % 100,
                op => result(op, &seen(op, &inputs), s.salt(op)),
            });
        }
        trees
    }

    fn read(&self, tree: Tree) -> Result<u64, TaskError> {
        self.content(tree).ok_or(match tree {
            Tree::Snapshot(id) => TaskError::Lost(id),
            Tree::Context(_) => TaskError::failed("no such context"),
        })
    }
}

impl State {
    fn source(&self, op: &SourceOp) -> u64 {
        let name = match op {
            SourceOp::Image(i) => &i.reference,
            SourceOp::Local(l) => &l.name,
            _ => return 0,
        };
        self.sources.get(name).copied().unwrap_or(0)
    }

    fn salt(&self, op: &Op) -> u64 {
        let Op::Exec(e) = op else { return 0 };
        self.salts.get(&e.args[0]).copied().unwrap_or(0)
    }
}

impl Worker for FakeWorker {
    fn pin(&self, op: &SourceOp, _: Option<&Platform>, _: &TaskCx<'_>) -> Result<Pin, TaskError> {
        Ok(match op {
            SourceOp::Local(_) => Pin::Live,
            _ => Pin::Fixed(format!("pin:{}", self.state().source(op))),
        })
    }

    fn run(&self, task: &Task<'_>, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
        let inputs = task.inputs.iter().map(|t| self.read(*t)).collect::<Result<Vec<u64>, _>>()?;
        let delay = self.state().delay;
        if !delay.is_zero() && matches!(task.op, Op::Exec(_)) {
            std::thread::sleep(delay);
        }
        cx.check()?;
        let mut s = self.state();
        let tree = match task.op {
            Op::Source(op @ SourceOp::Local(_)) => {
                let tree = s.source(op) % 100;
                s.contexts.push(tree);
                return Ok(vec![Tree::Context(s.contexts.len() as u32 - 1)]);
            }
            Op::Source(op) => s.source(op) % 100,
            op => {
                let looked = seen(op, &inputs);
                let Op::Exec(e) = op else {
                    return Err(TaskError::failed("the fake worker has no such op"));
                };
                if s.failing.contains(&e.args[0]) {
                    return Err(TaskError::Exit { code: 1, why: None });
                }
                let tree = result(op, &looked, s.salt(op));
                let mounts: Vec<&MountKind> = e.mounts.iter().map(|m| &m.kind).collect();
                // A live root is keyed by content, any other by its key: two different steps.
                let live = e.root.is_some() && matches!(task.inputs[0], Tree::Context(_));
                let what = format!("{} {:?} {live} {mounts:?}", e.args[0], e.root);
                s.steps.push((what, looked));
                tree
            }
        };
        s.runs.push((task.vertex, task.key));
        s.next += 1;
        let id = s.next;
        s.snapshots.insert(id, tree);
        Ok(vec![Tree::Snapshot(SnapshotId(id))])
    }

    fn digest(&self, of: Tree, sel: &Selector, _: &TaskCx<'_>) -> Result<TreeDigest, TaskError> {
        let tree = self.read(of)?;
        self.state().digests += 1;
        Ok(TreeDigest::of(&part(tree, sel).to_le_bytes()))
    }
}

#[derive(Debug, Default)]
struct Kept {
    results: HashMap<CacheKey, (Vec<SnapshotId>, u64)>,
    /// What a key stood for, kept when its result is not.
    trees: HashMap<CacheKey, u64>,
    first: HashMap<u64, CacheKey>,
    canonical: HashMap<CacheKey, CacheKey>,
    contents: HashMap<(CacheKey, Selector), TreeDigest>,
    created: HashMap<CacheKey, Timestamp>,
    recipes: HashMap<Slot, KeyRecipe>,
    by_key: HashMap<CacheKey, KeyRecipe>,
    last_build: PastBuild,
}

/// A cache that keeps everything until told otherwise.
#[derive(Debug)]
pub struct FakeCache<'w> {
    worker: &'w FakeWorker,
    kept: Mutex<Kept>,
}

impl<'w> FakeCache<'w> {
    /// An empty cache that compares trees by looking at `worker`'s.
    pub fn new(worker: &'w FakeWorker) -> Self {
        Self { worker, kept: Mutex::default() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Forgets results; digests and canonical keys stay.
    pub fn retain(&self, mut keep: impl FnMut(CacheKey) -> bool) {
        let mut all: Vec<CacheKey> = self.kept().results.keys().copied().collect();
        all.sort_unstable(); // so that a seed means one thing
        let gone: Vec<_> = all.into_iter().filter(|k| !keep(*k)).collect();
        self.kept().results.retain(|k, _| !gone.contains(k));
    }
}

impl ResultCache for FakeCache<'_> {
    fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        let canonical = self.canonical(q.key);
        let kept = self.kept();
        let outputs = kept.results.get(&q.key).map(|(o, _)| o.clone());
        Ok(outputs.map(|outputs| Hit { outputs, canonical, origin: Origin::Local }))
    }

    fn content(&self, key: CacheKey, sel: &Selector) -> Result<Option<TreeDigest>, CacheError> {
        Ok(self.kept().contents.get(&(key, sel.clone())).copied())
    }

    fn record_content(
        &self,
        key: CacheKey,
        sel: &Selector,
        digest: TreeDigest,
    ) -> Result<(), CacheError> {
        self.kept().contents.insert((key, sel.clone()), digest);
        Ok(())
    }

    fn canonical(&self, key: CacheKey) -> CacheKey {
        self.kept().canonical.get(&key).copied().unwrap_or(key)
    }

    fn created(&self, q: &Query<'_>) -> Result<Option<Timestamp>, CacheError> {
        let kept = self.kept();
        Ok(kept.results.get(&q.key).and_then(|_| kept.created.get(&q.key)).copied())
    }

    fn last_recipe(&self, slot: &Slot) -> Result<Option<KeyRecipe>, CacheError> {
        Ok(self.kept().recipes.get(slot).cloned())
    }

    fn recipe(&self, key: CacheKey) -> Result<Option<KeyRecipe>, CacheError> {
        Ok(self.kept().by_key.get(&key).cloned())
    }

    fn last_build(&self) -> PastBuild {
        self.kept().last_build.clone()
    }

    fn remember_build(&self, build: PastBuild) {
        self.kept().last_build = build;
    }

    fn record(&self, rec: &Record<'_>) -> Result<Option<CacheKey>, CacheError> {
        let tree = rec.outputs.first().and_then(|s| self.worker.content(Tree::Snapshot(*s)));
        let Some(tree) = tree else { return Err(CacheError("the result is gone".into())) };
        let mut kept = self.kept();
        kept.recipes.insert(rec.slot.clone(), rec.recipe.clone());
        kept.by_key.insert(rec.key, rec.recipe.clone());
        kept.results.insert(rec.key, (rec.outputs.to_vec(), tree));
        kept.created.insert(rec.key, rec.at);
        let before = kept.trees.insert(rec.key, tree);
        let known = kept.first.get(&tree).copied();
        let canonical = match (known, before) {
            (Some(k), _) => k,
            // The key has stood for another tree: its users need another name.
            (None, Some(_)) => {
                let text = format!("{} {tree}", rec.key);
                CacheKey::of(text.as_bytes())
            }
            (None, None) => rec.key,
        };
        kept.first.insert(tree, canonical);
        kept.canonical.insert(rec.key, canonical);
        Ok((known.is_some() || before.is_some()).then_some(canonical))
    }
}

/// Counts up, by a nanosecond a look.
#[derive(Debug, Default)]
pub struct FakeClock(AtomicU64);

impl FakeClock {
    /// Sets it to so many seconds after 1970.
    pub fn set(&self, seconds: i64) {
        self.0.store(Timestamp::from_seconds(seconds).0, Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A graph of images, live folders and commands, and its targets.
pub fn random_graph(rng: &mut Rng, ignoring: bool) -> (Graph, Vec<Edge>) {
    let mut g = GraphBuilder::new();
    let mut ids: Vec<VertexId> = Vec::new();
    let size = 3 + rng.below(12);
    for i in 0..size {
        let source = i == 0 || rng.one_in(5);
        let mut meta = VertexMeta { name: format!("v{i}"), ..VertexMeta::default() };
        let id = if source {
            let name = format!("s{}", rng.below(4));
            let op = if rng.one_in(3) { local(&name) } else { image(&name) };
            g.add(op, Vec::new(), None, meta)
        } else {
            meta.ignore_cache = ignoring && rng.one_in(5);
            let count = 1 + rng.below(3);
            // The most recent ones more often, for depth.
            let near = |rng: &mut Rng| ids[ids.len() - 1 - rng.below(ids.len().min(4))];
            let inputs: Vec<Edge> = (0..count).map(|_| Edge::main(near(rng))).collect();
            let root = !rng.one_in(4);
            let binds: Vec<&str> = (usize::from(root)..count)
                .map(|_| ["/", "/low", "/low", ""][rng.below(4)])
                .collect();
            // Few commands, so that different definitions meet in one key.
            let op = exec(&format!("c{}", rng.below(6)), root, &binds);
            g.add(op, inputs, None, meta)
        };
        ids.push(id);
    }
    let mut targets = vec![Edge::main(*ids.last().unwrap_or(&VertexId(0)))];
    if rng.one_in(3) {
        targets.push(Edge::main(ids[rng.below(ids.len())]));
    }
    (g.finish(), targets)
}

/// Solves by a machine whose answers come in random order, one at a time; stops it after
/// `cancel_after` answers.
///
/// # Panics
/// When the machine breaks one of its invariants.
pub fn simulate(
    graph: &Graph,
    targets: &[Edge],
    worker: &FakeWorker,
    cache: &FakeCache<'_>,
    rng: &mut Rng,
    cancel_after: Option<usize>,
) -> Result<Solution, SolveError> {
    let (policy, clock) = (Policy::default(), FakeClock::default());
    simulate_with(graph, targets, worker, cache, &policy, &clock, rng, cancel_after)
}

/// As [`simulate`], by a policy, at a time.
///
/// # Panics
/// As [`simulate`].
#[allow(clippy::too_many_arguments)] // a test's whole world
pub fn simulate_with(
    graph: &Graph,
    targets: &[Edge],
    worker: &FakeWorker,
    cache: &FakeCache<'_>,
    policy: &Policy,
    clock: &FakeClock,
    rng: &mut Rng,
    cancel_after: Option<usize>,
) -> Result<Solution, SolveError> {
    let token = crate::CancelToken::new();
    let explainer = Explainer::new(graph, cache, &policy.place, &policy.args);
    let (mut machine, mut todo) = Machine::new(graph, targets, policy);
    let (mut pending, mut answers) = (Vec::new(), 0);
    let mut working: HashSet<VertexId> = HashSet::new();
    let mut announced: HashSet<crate::Step> = HashSet::new();
    loop {
        for a in todo.drain(..) {
            match a {
                Action::Emit(e) => match e.kind {
                    crate::EventKind::Announced { .. } => assert!(announced.insert(e.step)),
                    _ => assert!(announced.contains(&e.step), "{e:?} before its line"),
                },
                Action::StopTasks => token.cancel(),
                Action::Run { vertex, ref inputs, .. } => {
                    assert!(!token.is_cancelled(), "started after the end");
                    assert!(working.insert(vertex), "{vertex:?} runs beside itself");
                    assert_eq!(inputs.len(), graph.vertex(vertex).inputs.len());
                    pending.push(a);
                }
                a => pending.push(a),
            }
        }
        assert_eq!(machine.outstanding(), pending.len());
        if machine.is_over() {
            assert!(pending.is_empty(), "left outstanding: {pending:?}");
            cache.remember_build(PastBuild { steps: machine.steps(), ..PastBuild::default() });
            return machine.finish();
        }
        assert!(answers < 10_000, "no end");
        if cancel_after == Some(answers) && !token.is_cancelled() {
            todo = machine.on(Input::Cancel, clock.now());
            continue;
        }
        answers += 1;
        let action = pending.swap_remove(rng.below(pending.len()));
        let cx = |vertex| TaskCx { vertex, cancel: &token, sink: &(), clock };
        let input = match action {
            Action::Pin { vertex } => {
                let Op::Source(op) = &graph.vertex(vertex).op else { panic!("no source") };
                Input::Pinned { vertex, result: worker.pin(op, None, &cx(vertex)) }
            }
            Action::Created { vertex, key, recipe } => {
                let result = cache.created(&Query { vertex, key, recipe: &recipe });
                Input::Created { vertex, result }
            }
            Action::Canonical { vertex, key } => {
                Input::Canonical { vertex, key: cache.canonical(key) }
            }
            Action::KnownContent { content, key, selector } => {
                Input::KnownContent { content, result: cache.content(key, &selector) }
            }
            Action::Probe { vertex, key, recipe } => {
                let result = cache.lookup(&Query { vertex, key, recipe: &recipe });
                Input::Probed { vertex, result }
            }
            Action::Digest { content, vertex, tree, selector } => {
                let result = worker.digest(tree, &selector, &cx(vertex));
                Input::Digested { content, result }
            }
            Action::RecordContent { content, key, selector, digest } => {
                let result = cache.record_content(key, &selector, digest);
                Input::ContentRecorded { content, result }
            }
            Action::Explain { vertex, recipe, inputs, expired } => {
                let question = Question { vertex, recipe: &recipe, inputs: &inputs, expired };
                let reasons = explainer.explain(&question);
                assert!(!reasons.is_empty(), "a step without a reason");
                Input::Explained { vertex, reasons }
            }
            Action::Run { vertex, key, inputs } => {
                working.remove(&vertex);
                let v = graph.vertex(vertex);
                let key = key.unwrap_or_else(|| CacheKey::from_bytes([0; 32]));
                let task =
                    Task { vertex, op: &v.op, platform: None, meta: &v.meta, inputs: &inputs, key };
                Input::Ran { vertex, result: worker.run(&task, &cx(vertex)) }
            }
            Action::Record { vertex, key, recipe, slot, outputs } => {
                let (recipe, slot, outputs) = (&*recipe, &slot, &outputs[..]);
                let shows_content = graph.vertex(vertex).op.shows_content();
                let at = clock.now();
                let rec = Record { vertex, key, recipe, shows_content, slot, outputs, at };
                let result = cache.record(&rec);
                Input::Recorded { vertex, result }
            }
            Action::Emit(_) | Action::StopTasks => continue,
        };
        todo = machine.on(input, clock.now());
    }
}
