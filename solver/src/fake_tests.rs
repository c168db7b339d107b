//! What the machine and the driver must hold to, on scripted and on thousands of random graphs.

use std::collections::HashSet;

use rgraph_ir::{Edge, Graph, GraphBuilder, Op, Ttl, VertexId, VertexMeta};

use crate::fake::*;
use crate::ports::{Ports, TaskError, Tree};
use crate::{CancelToken, Policy, Solution, SolveError, solve_edges};

fn meta(name: &str) -> VertexMeta {
    VertexMeta { name: name.to_owned(), ..VertexMeta::default() }
}

fn set_sources(w: &FakeWorker, rng: &mut Rng) {
    for s in 0..4 {
        // Two pins may be one tree.
        w.set_source(&format!("s{s}"), rng.draw() % 4 + 100 * (rng.draw() % 2));
    }
}

fn right(w: &FakeWorker, g: &Graph, s: &Solution, seed: u64) {
    let want = w.oracle(g);
    for (e, t) in &s.trees {
        // A hit is lazy: whether the target itself is still there is the exporter's to find out.
        if let Some(got) = w.content(*t) {
            assert_eq!(got, want[e.vertex.at()], "seed {seed}, {e:?}");
        }
    }
}

fn no_step_twice(w: &FakeWorker, g: &Graph, seed: u64) {
    let runs = w.take_runs();
    let vertices: HashSet<_> = runs.iter().map(|r| r.0).collect();
    assert_eq!(vertices.len(), runs.len(), "seed {seed}: a vertex ran twice");
    let steps: Vec<_> =
        runs.iter().filter(|r| !matches!(g.vertex(r.0).op, Op::Source(_))).collect();
    let keys: HashSet<_> = steps.iter().map(|r| r.1).collect();
    assert_eq!(keys.len(), steps.len(), "seed {seed}: a key ran twice");
}

/// Two definitions, one key: the second waits and takes the first one's result.
#[test]
fn equal_keys_run_once() {
    for seed in 0..200 {
        let mut g = GraphBuilder::new();
        let (a, b) = (image("a"), image("b"));
        let a = g.add(a, vec![], None, meta("a"));
        let b = g.add(b, vec![], None, meta("b"));
        let x = g.add(exec("x", true, &[]), vec![Edge::main(a)], None, meta("x"));
        let y = g.add(exec("x", true, &[]), vec![Edge::main(b)], None, meta("y"));
        let g = g.finish();
        let w = FakeWorker::default();
        w.set_source("a", 3);
        w.set_source("b", 3);
        let cache = FakeCache::new(&w);
        let s = simulate(&g, &[Edge::main(x), Edge::main(y)], &w, &cache, &mut Rng(seed), None)
            .unwrap();
        right(&w, &g, &s, seed);
        assert_eq!(w.take_steps().len(), 1, "seed {seed}");
        assert_eq!(s.keys[&x], s.keys[&y]);
    }
}

/// Before a build no step is held, after it all are; looking runs nothing.
#[test]
fn a_look_tells_what_a_build_left() {
    for seed in 0..300 {
        let mut rng = Rng(seed);
        let (g, targets) = random_graph(&mut rng, false);
        let w = FakeWorker::default();
        set_sources(&w, &mut rng);
        let cache = FakeCache::new(&w);
        let all: Vec<VertexId> = g.iter().map(|(id, _)| id).collect();
        let look = || {
            let clock = FakeClock::default();
            let ports = Ports { worker: &w, cache: &cache, clock: &clock };
            crate::look(&g, &all, &ports, &Policy::default(), &CancelToken::new(), &()).unwrap()
        };
        // Opening a live folder is a run too, and all that a look may do.
        let ran = || -> HashSet<VertexId> {
            let all = w.take_runs().into_iter().map(|r| r.0);
            all.filter(|v| !matches!(g.vertex(*v).op, Op::Source(_))).collect()
        };
        assert!(look().values().all(|held| !held), "seed {seed}");
        assert_eq!(ran(), HashSet::new(), "seed {seed}");
        simulate(&g, &targets, &w, &cache, &mut rng, None).unwrap();
        let built = ran();
        for (id, held) in look() {
            assert!(held || !built.contains(&id), "seed {seed}: {id:?} ran and is not held");
        }
        assert_eq!(ran(), HashSet::new(), "seed {seed}");
    }
}

/// A result that is gone is found missing while it is digested, not while something runs on it.
#[test]
fn a_loss_found_by_a_digest_is_healed() {
    for seed in 0..50 {
        let mut g = GraphBuilder::new();
        let a = g.add(image("a"), vec![], None, meta("a"));
        let x = g.add(exec("x", true, &[]), vec![Edge::main(a)], None, meta("x"));
        let g1 = {
            let mut g = GraphBuilder::new();
            let a = g.add(image("a"), vec![], None, meta("a"));
            g.add(exec("x", true, &[]), vec![Edge::main(a)], None, meta("x"));
            g.finish()
        };
        let y = g.add(exec("y", false, &["/low"]), vec![Edge::main(x)], None, meta("y"));
        let g = g.finish();
        let w = FakeWorker::default();
        let cache = FakeCache::new(&w);
        let mut rng = Rng(seed);
        let s = simulate(&g1, &[Edge::main(x)], &w, &cache, &mut rng, None).unwrap();
        let Tree::Snapshot(id) = s.trees[&Edge::main(x)] else { panic!("no snapshot") };
        w.lose(id);
        w.take_steps();
        let s = simulate(&g, &[Edge::main(y)], &w, &cache, &mut rng, None).unwrap();
        right(&w, &g, &s, seed);
        let steps = w.take_steps();
        let names: Vec<_> = steps.iter().map(|s| &s.0[..1]).collect();
        assert_eq!(names, ["x", "y"], "seed {seed}");
    }
}

#[test]
fn sequences_of_builds_are_right_and_repeat_nothing() {
    for seed in 0..1500 {
        let mut rng = Rng(seed);
        let (g, targets) = random_graph(&mut rng, false);
        let w = FakeWorker::default();
        let cache = FakeCache::new(&w);
        let mut ever: HashSet<(String, Vec<u64>)> = HashSet::new();
        for _ in 0..4 {
            set_sources(&w, &mut rng);
            let s = simulate(&g, &targets, &w, &cache, &mut rng, None).unwrap();
            right(&w, &g, &s, seed);
            no_step_twice(&w, &g, seed);
            let steps = w.take_steps();
            for step in &steps {
                assert!(!ever.contains(step), "seed {seed}: {step:?} again");
            }
            ever.extend(steps);
        }
        // Warm, and warm when only the targets' results are left.
        for min in [false, true] {
            if min {
                let s = simulate(&g, &targets, &w, &cache, &mut rng, None).unwrap();
                let keep: HashSet<_> =
                    targets.iter().filter_map(|e| s.keys.get(&e.vertex).copied()).collect();
                cache.retain(|k| keep.contains(&k));
            }
            w.take_runs();
            let s = simulate(&g, &targets, &w, &cache, &mut rng, None).unwrap();
            right(&w, &g, &s, seed);
            // An image that is itself a target has no record worth asking for.
            let ran = w.take_runs();
            let is_target = |v: VertexId| targets.iter().any(|e| e.vertex == v);
            let ran: Vec<_> = ran
                .iter()
                .filter(|r| !(is_target(r.0) && matches!(g.vertex(r.0).op, Op::Source(_))))
                .collect();
            assert!(ran.is_empty(), "seed {seed}, min {min}: {ran:?}");
        }
    }
}

#[test]
fn losses_evictions_and_cancellation_never_give_a_wrong_tree() {
    let (mut ended, mut healed) = (0, 0);
    for seed in 0..1500 {
        let mut rng = Rng(seed ^ 0xabcd_0000);
        let (g, targets) = random_graph(&mut rng, false);
        let w = FakeWorker::default();
        let cache = FakeCache::new(&w);
        for _ in 0..5 {
            if rng.one_in(2) {
                set_sources(&w, &mut rng);
            }
            let mut lost = 0;
            for id in w.snapshots() {
                if rng.one_in(6) {
                    w.lose(id);
                    lost += 1;
                }
            }
            if rng.one_in(2) {
                let mut r = rng.clone();
                cache.retain(|_| !r.one_in(4));
            }
            let cancel = rng.one_in(4).then(|| rng.below(40));
            match simulate(&g, &targets, &w, &cache, &mut rng, cancel) {
                Ok(s) => {
                    right(&w, &g, &s, seed);
                    healed += usize::from(lost > 0);
                }
                Err(SolveError { vertex: None, cause: TaskError::Cancelled }) => {
                    assert!(cancel.is_some(), "seed {seed}");
                    ended += 1;
                }
                Err(e) => panic!("seed {seed}: {e}: {}", e.cause),
            }
        }
    }
    assert!(ended > 300 && healed > 300, "{ended} {healed}");
}

#[test]
fn what_ignores_the_cache_runs_once_and_its_users_follow_its_tree() {
    for seed in 0..1500 {
        let mut rng = Rng(seed ^ 0x1234_0000);
        let (mut g, mut targets) = random_graph(&mut rng, true);
        while g.iter().all(|(_, v)| !v.meta.ignore_cache) {
            (g, targets) = random_graph(&mut rng, true);
        }
        // What gives another tree at every run is only what ignores the cache wherever it stands.
        let command = |op: &Op| match op {
            Op::Exec(e) => e.args[0].clone(),
            _ => String::new(),
        };
        let kept: HashSet<String> =
            g.iter().filter(|(_, v)| !v.meta.ignore_cache).map(|(_, v)| command(&v.op)).collect();
        let w = FakeWorker::default();
        let cache = FakeCache::new(&w);
        for _ in 0..4 {
            if rng.one_in(3) {
                set_sources(&w, &mut rng);
            }
            for (_, v) in g.iter() {
                if !kept.contains(&command(&v.op)) {
                    w.set_salt(&command(&v.op), rng.draw() % 3);
                }
            }
            let cancel = rng.one_in(4).then(|| rng.below(40));
            let Ok(s) = simulate(&g, &targets, &w, &cache, &mut rng, cancel) else {
                assert!(cancel.is_some(), "seed {seed}");
                w.take_runs();
                continue;
            };
            right(&w, &g, &s, seed);
            no_step_twice(&w, &g, seed);
        }
    }
}

fn drive(
    g: &Graph,
    target: VertexId,
    w: &FakeWorker,
    cache: &FakeCache<'_>,
    cancel: &CancelToken,
) -> Result<Solution, SolveError> {
    let ports = Ports { worker: w, cache, clock: &FakeClock::default() };
    solve_edges(g, &[Edge::main(target)], &ports, &Policy::default(), cancel, &())
}

#[test]
fn threads_solve_as_the_simulation_does() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let (g, targets) = random_graph(&mut rng, false);
        let w = FakeWorker::default();
        set_sources(&w, &mut rng);
        let cache = FakeCache::new(&w);
        let target = targets[0].vertex;
        let cold = drive(&g, target, &w, &cache, &CancelToken::new()).unwrap();
        right(&w, &g, &cold, seed);
        no_step_twice(&w, &g, seed);
        w.take_steps();
        let warm = drive(&g, target, &w, &cache, &CancelToken::new()).unwrap();
        right(&w, &g, &warm, seed);
        assert_eq!(w.take_steps(), [], "seed {seed}");
    }
}

#[test]
fn the_first_failure_is_the_answer_and_finished_steps_are_kept() {
    let mut g = GraphBuilder::new();
    let a = g.add(image("a"), vec![], None, meta("a"));
    let x = g.add(exec("x", true, &[]), vec![Edge::main(a)], None, meta("x"));
    let y = g.add(exec("y", true, &[]), vec![Edge::main(x)], None, meta("y"));
    let g = g.finish();
    let w = FakeWorker::default();
    let cache = FakeCache::new(&w);
    w.set_failing("y");
    for ran in [1, 0] {
        let e = drive(&g, y, &w, &cache, &CancelToken::new()).unwrap_err();
        assert_eq!(e.vertex, Some(y));
        assert!(matches!(e.cause, TaskError::Exit { code: 1, .. }));
        assert_eq!(w.take_steps().len(), ran);
    }
    let cancelled = CancelToken::new();
    cancelled.cancel();
    let e = drive(&g, y, &w, &cache, &cancelled).unwrap_err();
    assert!(e.vertex.is_none() && matches!(e.cause, TaskError::Cancelled));
}

#[derive(Default)]
struct Lines(std::sync::Mutex<Vec<String>>);

impl crate::EventSink for Lines {
    fn emit(&self, e: crate::Event) {
        let crate::Step::Vertex(v) = e.step else { return };
        let kind = match e.kind {
            crate::EventKind::Announced { name } => name,
            crate::EventKind::Missed { reasons } => {
                let lines: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                lines.join("; ")
            }
            kind => format!("{kind:?}").split(' ').next().unwrap_or("").to_owned(),
        };
        self.0.lock().unwrap().push(format!("{} {kind}", v.0));
    }
}

/// A cached build shows every step, inputs first; an edited one says what runs and why.
#[test]
fn steps_are_shown_in_order_with_reasons() {
    let build = |command: &str| {
        let mut g = GraphBuilder::new();
        let a = g.add(image("a"), vec![], None, meta("from"));
        let x = g.add(exec("x", true, &[]), vec![Edge::main(a)], None, meta("x"));
        let y = g.add(exec(command, true, &[]), vec![Edge::main(x)], None, meta("y"));
        (g.finish(), y)
    };
    let w = FakeWorker::default();
    let cache = FakeCache::new(&w);
    let show = |command: &str| {
        let (g, y) = build(command);
        let lines = Lines::default();
        let ports = Ports { worker: &w, cache: &cache, clock: &FakeClock::default() };
        let policy = Policy::default();
        solve_edges(&g, &[Edge::main(y)], &ports, &policy, &CancelToken::new(), &lines).unwrap();
        let mut lines = lines.0.into_inner().unwrap();
        // The key of a step comes directly before its end, and before it begins to run.
        for pair in lines.windows(2) {
            let [now, next] = pair else { continue };
            let keyed = [" Started", " Finished", " Cached"].iter().any(|w| next.ends_with(w));
            assert_eq!(now.ends_with(" Keyed"), keyed, "{now}, {next}");
        }
        lines.retain(|l| !l.ends_with(" Keyed"));
        lines
    };
    let never = "not built here before";
    let cold = show("y");
    let want = ["0 from", "0 Pinned", "0 Started", "0 Finished", "1 x", &format!("1 {never}")];
    assert_eq!(cold[..6], want);
    assert_eq!(
        cold[6..],
        ["1 Started", "1 Finished", "2 y", &format!("2 {never}"), "2 Started", "2 Finished"]
    );
    let warm = show("y");
    assert_eq!(warm, ["0 from", "0 Pinned", "0 Cached", "1 x", "1 Cached", "2 y", "2 Cached"]);
    let edited = show("z");
    assert_eq!(edited[..5], ["0 from", "0 Pinned", "0 Cached", "1 x", "1 Cached"]);
    assert_eq!(edited[5..], ["2 y", "2 command: `y` to `z`", "2 Started", "2 Finished"]);
}

/// Meets all others of its kind in `run`, or panics.
struct Meeting(FakeWorker, std::sync::Barrier);

impl crate::Worker for Meeting {
    fn pin(
        &self,
        op: &rgraph_ir::op::SourceOp,
        platform: Option<&rgraph_ir::Platform>,
        cx: &crate::TaskCx<'_>,
    ) -> Result<crate::Pin, TaskError> {
        self.0.pin(op, platform, cx)
    }

    fn run(&self, task: &crate::Task<'_>, cx: &crate::TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
        if let Op::Exec(e) = task.op {
            assert!(e.args[0] != "panic", "told to");
            if e.args[0] != "last" {
                self.1.wait();
            }
        }
        self.0.run(task, cx)
    }

    fn digest(
        &self,
        of: Tree,
        sel: &rgraph_ir::op::Selector,
        cx: &crate::TaskCx<'_>,
    ) -> Result<rgraph_ir::TreeDigest, TaskError> {
        self.0.digest(of, sel, cx)
    }
}

/// Ends only when all sixteen are at work at once; a panic is that vertex's failure.
#[test]
fn containers_run_side_by_side_and_a_panic_is_a_failure() {
    let mut g = GraphBuilder::new();
    let a = g.add(image("a"), vec![], None, meta("a"));
    let all: Vec<Edge> = (0..16)
        .map(|i| exec(&format!("c{i}"), true, &[]))
        .map(|op| Edge::main(g.add(op, vec![Edge::main(a)], None, meta("c"))))
        .collect();
    let last = g.add(exec("last", false, &["/"; 16]), all, None, meta("last"));
    let bad = g.add(exec("panic", true, &[]), vec![Edge::main(a)], None, meta("bad"));
    let g = g.finish();
    let w = Meeting(FakeWorker::default(), std::sync::Barrier::new(16));
    let cache = FakeCache::new(&w.0);
    let ports = Ports { worker: &w, cache: &cache, clock: &FakeClock::default() };
    let policy = Policy::default();
    let run = |v| solve_edges(&g, &[Edge::main(v)], &ports, &policy, &CancelToken::new(), &());
    assert_eq!(run(last).unwrap().ran, 18);
    let e = run(bad).unwrap_err();
    assert_eq!(e.vertex, Some(bad));
    assert_eq!(e.cause.to_string(), "internal error: a task panicked: told to");
}

/// One build of `g` at a time, in seconds; gives the commands that ran.
fn ran_at(
    w: &FakeWorker,
    cache: &FakeCache<'_>,
    (g, target): (&Graph, VertexId),
    policy: &Policy,
    (seconds, seed): (i64, u64),
) -> Vec<String> {
    let clock = FakeClock::default();
    clock.set(seconds);
    let targets = [Edge::main(target)];
    let s = simulate_with(g, &targets, w, cache, policy, &clock, &mut Rng(seed), None).unwrap();
    right(w, g, &s, seed);
    w.take_runs();
    w.take_steps().into_iter().map(|s| s.0[..1].to_owned()).collect()
}

/// `a` → `x` → `y`, where `x` is good for ten seconds.
fn short_lived() -> (Graph, VertexId) {
    let mut g = GraphBuilder::new();
    let a = g.add(image("a"), vec![], None, meta("a"));
    let ttl = Some(Ttl::seconds(10));
    let x = VertexMeta { ttl, ..meta("x") };
    let x = g.add(exec("x", true, &[]), vec![Edge::main(a)], None, x);
    let y = g.add(exec("y", true, &[]), vec![Edge::main(x)], None, meta("y"));
    (g.finish(), y)
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_result_that_has_outlived_its_time_is_made_again() {
    for seed in 0..50 {
        let (g, y) = short_lived();
        let (w, policy) = (FakeWorker::default(), Policy::default());
        let cache = FakeCache::new(&w);
        let at = |seconds| ran_at(&w, &cache, (&g, y), &policy, (seconds, seed));
        assert_eq!(at(100), ["x", "y"]);
        assert_eq!(at(105), NOTHING);
        // Too old, though nobody but `y` asks for it, and `y` has a result. The tree is equal.
        assert_eq!(at(111), ["x"], "seed {seed}");
        assert_eq!(at(120), NOTHING);
        w.set_salt("x", 1);
        assert_eq!(at(122), ["x", "y"], "seed {seed}");
        assert_eq!(at(131), NOTHING);
    }
}

#[test]
fn a_look_sees_what_is_too_old() {
    let (g, y) = short_lived();
    let (w, policy) = (FakeWorker::default(), Policy::default());
    let cache = FakeCache::new(&w);
    ran_at(&w, &cache, (&g, y), &policy, (100, 1));
    let all: Vec<VertexId> = g.iter().map(|(id, _)| id).collect();
    for (seconds, want) in [(105, [true, true]), (111, [false, false])] {
        let clock = FakeClock::default();
        clock.set(seconds);
        let ports = Ports { worker: &w, cache: &cache, clock: &clock };
        let held = crate::look(&g, &all, &ports, &policy, &CancelToken::new(), &()).unwrap();
        assert!(held.values().copied().eq(want), "{seconds}: {held:?}");
    }
}

#[test]
fn a_clock_that_went_back_makes_a_result_too_old_once() {
    for seed in 0..50 {
        let (g, y) = short_lived();
        let (w, policy) = (FakeWorker::default(), Policy::default());
        let cache = FakeCache::new(&w);
        let at = |seconds| ran_at(&w, &cache, (&g, y), &policy, (seconds, seed));
        assert_eq!(at(1_000_000), ["x", "y"]);
        assert_eq!(at(500), ["x"], "seed {seed}");
        assert_eq!(at(505), NOTHING);
        assert_eq!(at(1_000_000), ["x"]);
    }
}

#[test]
fn a_result_whose_age_is_lost_is_made_again() {
    for seed in 0..50 {
        let (g, y) = short_lived();
        let (w, policy) = (FakeWorker::default(), Policy::default());
        let cache = FakeCache::new(&w);
        let clock = FakeClock::default();
        clock.set(100);
        let targets = [Edge::main(y)];
        let mut rng = Rng(seed);
        let s = simulate_with(&g, &targets, &w, &cache, &policy, &clock, &mut rng, None).unwrap();
        w.take_steps();
        // `y` was made on some `x`; when, its own record does not say.
        cache.retain(|k| k == s.keys[&y]);
        w.set_salt("x", 1);
        assert_eq!(ran_at(&w, &cache, (&g, y), &policy, (101, seed)), ["x", "y"], "seed {seed}");
    }
}

#[test]
fn a_whole_cache_can_outlive_its_time() {
    for seed in 0..500 {
        let mut rng = Rng(seed);
        let (g, targets) = random_graph(&mut rng, false);
        let w = FakeWorker::default();
        let cache = FakeCache::new(&w);
        let policy = Policy { ttl: Some(Ttl::seconds(60)), ..Policy::default() };
        for round in 0..4 {
            set_sources(&w, &mut rng);
            // What no key sees: only age can find it out.
            for c in 0..6 {
                w.set_salt(&format!("c{c}"), rng.draw() % 3);
            }
            let clock = FakeClock::default();
            clock.set(1000 + 61 * round);
            let s = simulate_with(&g, &targets, &w, &cache, &policy, &clock, &mut rng, None);
            right(&w, &g, &s.unwrap(), seed);
            no_step_twice(&w, &g, seed);
            w.take_steps();
            clock.set(1059 + 61 * round);
            let s = simulate_with(&g, &targets, &w, &cache, &policy, &clock, &mut rng, None);
            right(&w, &g, &s.unwrap(), seed);
            assert!(w.take_steps().is_empty(), "seed {seed}: ran again while it was young");
            w.take_runs();
        }
    }
}

/// Whatever expires, is lost or forgotten, and whenever it is stopped: the right trees, and an end.
#[test]
fn expiry_beside_everything_else() {
    let mut expired = 0;
    for seed in 0..500 {
        let mut rng = Rng(seed ^ 0x77_0000);
        let (plain, targets) = random_graph(&mut rng, seed % 4 == 0);
        let mut g = GraphBuilder::new();
        for (_, v) in plain.iter() {
            let ttl = rng.one_in(3).then(|| Ttl::seconds(rng.draw() % 20));
            let meta = VertexMeta { ttl, ..v.meta.clone() };
            g.add(v.op.clone(), v.inputs.clone(), v.platform.clone(), meta);
        }
        let g = g.finish();
        if g.len() != plain.len() {
            continue;
        }
        let w = FakeWorker::default();
        let cache = FakeCache::new(&w);
        let mut now = 1000;
        for _ in 0..6 {
            if rng.one_in(2) {
                set_sources(&w, &mut rng);
            }
            for id in w.snapshots() {
                if rng.one_in(8) {
                    w.lose(id);
                }
            }
            if rng.one_in(3) {
                let mut r = rng.clone();
                cache.retain(|_| !r.one_in(4));
            }
            now += (rng.draw() % 30) as i64 - 5;
            let clock = FakeClock::default();
            clock.set(now);
            let cancel = rng.one_in(5).then(|| rng.below(40));
            let policy = Policy::default();
            match simulate_with(&g, &targets, &w, &cache, &policy, &clock, &mut rng, cancel) {
                Ok(s) => {
                    right(&w, &g, &s, seed);
                    expired += s.ran;
                }
                Err(SolveError { vertex: None, cause: TaskError::Cancelled }) => {
                    assert!(cancel.is_some(), "seed {seed}");
                }
                Err(e) => panic!("seed {seed}: {e}: {}", e.cause),
            }
        }
    }
    assert!(expired > 1000, "{expired}");
}
