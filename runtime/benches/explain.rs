//! What it costs to say why a step runs: `cargo bench -p rgraph-runtime --bench explain`.
//!
//! A build of 100 steps with a variable that changed, and a context of which one file did. First the
//! times are printed beside what they are measured by (reading the recipe alone; the bare scan of the
//! context), so that numbers of two machines compare. Then divan measures the same.

#![allow(clippy::print_stdout, reason = "a benchmark's output is its result")]

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use rgraph_image::layer::Owners;
use rgraph_ir::op::{ExecOp, InputIndex, NetworkMode, SecurityMode, Selector};
use rgraph_ir::{Edge, Env, Graph, GraphBuilder, Op, SnapshotId, VertexId, VertexMeta};
use rgraph_runtime::builds::{BuildRecord, BuildStatus, Journal};
use rgraph_runtime::cache::files::FileLists;
use rgraph_runtime::cache::flight::Flight;
use rgraph_runtime::cache::local::{InBuild, LocalCache};
use rgraph_runtime::context::{Scan, scan};
use rgraph_solver::explain::{Explainer, PastBuild, PastStep, Question};
use rgraph_solver::key::{InputKey, KeyRecipe, Slot, fields, op_digest};
use rgraph_solver::{Record, ResultCache, Timestamp, Tree};
use rgraph_store::{NewSnapshot, OpenOptions, Store};

const STEPS: usize = 100;
const FILES: usize = 1000;

/// A chain of steps; each sees `V`.
fn graph(v: &str) -> Graph {
    let env = Env::from_iter([("PATH", "/usr/local/sbin:/usr/local/bin:/usr/bin:/bin"), ("V", v)]);
    let mut g = GraphBuilder::new();
    let mut on: Option<VertexId> = None;
    for i in 0..STEPS {
        let op = Op::Exec(Box::new(ExecOp {
            args: ["/bin/sh", "-c", &format!("make part-{i}")].map(str::to_owned).to_vec(),
            env: env.clone(),
            cwd: "/src".to_owned(),
            user: String::new(),
            root: on.map(|_| InputIndex(0)),
            mounts: Vec::new(),
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            secret_env: Vec::new(),
            devices: Vec::new(),
            proxy_env: None,
            extra_hosts: Vec::new(),
            hostname: None,
            ulimits: Vec::new(),
            cgroup_parent: None,
            services: Vec::new(),
        }));
        let meta = VertexMeta {
            name: format!("[s {}/{STEPS}] RUN make part-{i}", i + 1),
            command: Some(format!("RUN make part-{i}").into()),
            stage: Some("s".into()),
            ..VertexMeta::default()
        };
        on = Some(g.add(op, on.map(Edge::main).into_iter().collect(), None, meta));
    }
    g.finish()
}

fn recipes(graph: &Graph) -> Vec<KeyRecipe> {
    let mut all: Vec<KeyRecipe> = Vec::new();
    for (_, v) in graph.iter() {
        let inputs = v.inputs.iter().map(|e| InputKey::Chain(all[e.vertex.at()].key()));
        let inputs = inputs.collect();
        let (fields, op) = (fields(&v.op, None), op_digest(&v.op, None));
        all.push(KeyRecipe { fields, op, pin: None, inputs });
    }
    all
}

/// A store that has built the old graph, and a context before and after an edit.
struct World {
    _dir: tempfile::TempDir,
    store: Store,
    new: Graph,
    recipes: Vec<KeyRecipe>,
    /// Results of the new steps: layers of their own from the first on.
    tops: Vec<SnapshotId>,
    before: tempfile::TempDir,
    after: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), OpenOptions::default()).expect("a store");
        let old = graph("1");
        let journal = Journal::new(&store, "");
        let mut steps = Vec::new();
        {
            let lease = store.lease().expect("a lease");
            let cache = LocalCache::new(&store);
            let mut parent = None;
            for ((vertex, v), recipe) in old.iter().zip(recipes(&old)) {
                let p = store.prepare(&lease).expect("a layer");
                std::fs::write(p.fs().join(format!("part-{}", vertex.0)), "made").expect("a file");
                let new = NewSnapshot { parent, layer: None, description: String::new() };
                let outputs = [store.commit(p, new).expect("a snapshot")];
                parent = Some(outputs[0]);
                let slot = Slot(format!("0://1:s/exec#{}", vertex.0 + 1));
                let key = recipe.key();
                let at = Timestamp::default();
                let rec = Record {
                    vertex,
                    key,
                    recipe: &recipe,
                    shows_content: false,
                    slot: &slot,
                    outputs: &outputs,
                    at,
                };
                cache.record(&rec).expect("a record");
                let op = op_digest(&v.op, None);
                let name = v.meta.name.clone();
                steps.push(PastStep { slot, op, key, canonical: key, name });
            }
        }
        let mut tops = Vec::new();
        {
            let lease = store.lease().expect("a lease");
            for i in 0..STEPS {
                let p = store.prepare(&lease).expect("a layer");
                std::fs::write(p.fs().join(format!("part-{i}")), "other").expect("a file");
                let parent = tops.last().copied();
                let new = NewSnapshot { parent, layer: None, description: String::new() };
                tops.push(store.commit(p, new).expect("a snapshot"));
            }
        }
        journal.remember(PastBuild { steps, args: BTreeSet::from(["V".to_owned()]) });
        journal.end(record()).expect("a record");
        let context = |text: &str| {
            let dir = tempfile::tempdir().expect("a folder");
            for i in 0..FILES {
                let at = dir.path().join(format!("part-{:02}", i / 50));
                std::fs::create_dir_all(&at).expect("folders");
                std::fs::write(at.join(format!("file-{i:04}.c")), text).expect("a file");
            }
            dir
        };
        let new = graph("2");
        let recipes = recipes(&new);
        let (before, after) = (context("text"), context("text"));
        std::fs::write(after.path().join("part-03/file-0150.c"), "edited").expect("a file");
        Self { _dir: dir, store, new, recipes, tops, before, after }
    }

    fn scan(&self, of: &tempfile::TempDir) -> Scan {
        let root = std::fs::File::open(of.path()).expect("a folder");
        scan(root.as_fd(), &Selector::all(), None, None, Owners::Kernel).expect("a scan")
    }
}

fn record() -> BuildRecord {
    BuildRecord {
        id: String::new(),
        started: String::new(),
        millis: 0,
        dockerfile: String::new(),
        target: None,
        args: BTreeSet::new(),
        tags: Vec::new(),
        status: BuildStatus::Done,
        error: None,
        image: None,
        steps: Vec::new(),
    }
}

/// Explains every step of the edited graph, as one build does; gives how many said that `V` changed.
fn explain_all(w: &World) -> usize {
    let (files, flight) = (FileLists::new(&w.store), Flight::new(&w.store));
    let journal = Journal::new(&w.store, "");
    let (owners, next_step) = (Owners::Kernel, AtomicU32::new(0));
    let known = InBuild {
        flight: &flight,
        files: &files,
        journal: &journal,
        owners,
        next_step: &next_step,
    };
    let cache = LocalCache::of_build(&w.store, known);
    let args = BTreeSet::from(["V".to_owned()]);
    let explainer = Explainer::new(&w.new, &cache, "", &args);
    let one = |i: usize| {
        let inputs = w.recipes[i].inputs.iter().map(|_| (Tree::Snapshot(w.tops[i - 1]), None));
        let inputs: Vec<_> = inputs.collect();
        let vertex = VertexId(i as u32);
        let q = Question { vertex, recipe: &w.recipes[i], inputs: &inputs, expired: None };
        explainer.explain(&q).iter().any(|r| r.to_string() == "ARG V: 1 to 2")
    };
    (0..STEPS).filter(|i| one(*i)).count()
}

fn time(rounds: u32, mut work: impl FnMut()) -> Duration {
    work();
    let started = Instant::now();
    for _ in 0..rounds {
        work();
    }
    started.elapsed() / rounds
}

fn main() {
    let w = World::new();
    assert_eq!(explain_all(&w), STEPS, "a step was not explained");
    let steps = STEPS as u32;
    let cache = LocalCache::new(&w.store);
    let old = recipes(&graph("1"));
    let read = time(5, || {
        for r in &old {
            black_box(cache.recipe(r.key()).expect("a recipe"));
        }
    }) / steps;
    let explained = time(5, || {
        black_box(explain_all(&w));
    }) / steps;
    println!(
        "a step of {STEPS}: {explained:?}, {:.1} times reading its recipe ({read:?})",
        explained.as_secs_f64() / read.as_secs_f64()
    );
    let (old, new) = (w.scan(&w.before), w.scan(&w.after));
    let (files, digests) = (FileLists::new(&w.store), (old.digest(), new.digest()));
    files.saw(&Selector::all(), digests.0, w.scan(&w.before), None);
    files.keep(&Selector::all(), digests.0);
    let lists = FileLists::new(&w.store);
    lists.saw(&Selector::all(), digests.1, w.scan(&w.after), None);
    let changes = lists.changed(&Selector::all(), digests.0, digests.1);
    assert_eq!(changes.expect("both are known").to_string(), "part-03/file-0150.c changed");
    let walk = time(5, || drop(black_box(w.scan(&w.after))));
    let named = time(20, || {
        black_box(lists.changed(&Selector::all(), digests.0, digests.1));
    });
    println!(
        "a file of {FILES}: {named:?}, {:.3} times a scan of them ({walk:?})",
        named.as_secs_f64() / walk.as_secs_f64()
    );
    divan::main();
}

#[divan::bench]
fn steps_of_one_build(b: Bencher<'_, '_>) {
    let w = World::new();
    b.counter(divan::counter::ItemsCount::new(STEPS)).bench_local(|| explain_all(&w));
}
