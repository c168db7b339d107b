//! The cache never lies and never runs what it need not: random edits, each build compared with one
//! that knows no cache. `RGRAPH_SOUNDNESS_EDITS` and `RGRAPH_SOUNDNESS_SEED` change the run.

mod racing;
pub mod random;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use random::Random;
use rgraph_tests::{Case, Entry, Run, need, setting, unpack_tar};
use world::World;

/// All of a tree but its times.
type Files = BTreeMap<String, Entry>;

fn build(case: &Case, context: &Case, world: &World, flags: &[&str]) -> (Run, Option<Files>) {
    let tar = case.out("tree.tar");
    let out = format!("type=tar,dest={}", tar.display());
    let dockerfile = context.dir().join("Dockerfile").display().to_string();
    let arg = format!("V={}", world.arg);
    let folder = context.context().display().to_string();
    let mut args =
        vec!["build", "--progress=plain", "-f", &dockerfile, "--build-arg", &arg, "-o", &out];
    args.extend(flags);
    args.push(&folder);
    let run = case.rgraph(&args);
    let files = (run.code == 0).then(|| files(&tar));
    (run, files)
}

fn files(tar: &Path) -> Files {
    let bytes = std::fs::read(tar).expect("the output");
    let entries = unpack_tar(&bytes).0.into_iter();
    entries.map(|e| (e.path.clone(), Entry { mtime: 0, ..e })).collect()
}

/// The lines that ran, by the last `oNNN` of their steps' names.
fn ran(run: &Run) -> BTreeSet<usize> {
    let done = run.steps().into_iter().filter(|(_, end)| end == "DONE");
    let id = |name: String| {
        let mut words = name.rsplit(|c: char| !c.is_ascii_alphanumeric());
        words.find_map(|w| w.strip_prefix('o').filter(|n| n.len() == 3)?.parse().ok())
    };
    done.filter_map(|(name, _)| id(name)).collect()
}

fn differing(a: &Files, b: &Files) -> Vec<String> {
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|n| a.get(*n) != b.get(*n)).cloned().collect()
}

struct Counts {
    edits: u32,
    failed: u32,
    nothing_ran: u32,
    steps: usize,
}

/// A walk of edits through one long-lived root.
fn walk(seed: u64, edits: u64) -> Counts {
    let mut r = Random(seed);
    let live = Case::with_base();
    let mut world = World::new(&mut r);
    world.write(None, &live.context());
    let mut seen: Vec<World> = Vec::new();
    let mut before: Option<World> = None;
    let mut counts = Counts { edits: 0, failed: 0, nothing_ran: 0, steps: 0 };
    let mut name = "the first build".to_owned();
    loop {
        let told = |run: &Run| {
            format!(
                "seed {seed}, edit {}: {name}\n{}\n{}",
                counts.edits,
                world.dockerfile(),
                run.stderr
            )
        };
        std::fs::write(live.dir().join("Dockerfile"), world.dockerfile()).expect("a file");
        let (run, tree) = build(&live, &live, &world, &[]);
        let fresh = Case::with_base();
        let (clean, want) = build(&fresh, &live, &world, &["--no-cache"]);
        assert_eq!(run.code, clean.code, "{}\nwithout cache:\n{}", told(&run), clean.stderr);
        match (&tree, &want) {
            (Some(tree), Some(want)) => {
                assert_eq!(differing(tree, want), Vec::<String>::new(), "{}", told(&run));
                let ran = ran(&run);
                counts.steps += ran.len();
                counts.nothing_ran += u32::from(ran.is_empty());
                if let Some(before) = &before {
                    let may = world.touched_since(before);
                    let unneeded: Vec<_> = ran.difference(&may).collect();
                    assert!(unneeded.is_empty(), "ran: {unneeded:?}; {}", told(&run));
                }
                if seen.contains(&world) {
                    assert!(ran.is_empty(), "built before: {}", told(&run));
                }
                let (again, tree) = build(&live, &live, &world, &[]);
                again.all_cached();
                assert_eq!(tree, want.clone().into(), "{}", told(&again));
                if !seen.contains(&world) {
                    seen.push(world.clone());
                }
            }
            _ => counts.failed += 1,
        }
        if counts.edits == u32::try_from(edits).expect("few") {
            return counts;
        }
        let broken = tree.is_none() && before.is_some();
        let last = before.replace(world.clone());
        if let Some(last) = last.filter(|_| broken || r.chance(5)) {
            name = format!("undo of {name}");
            world = last;
        } else {
            name = loop {
                if let Some(name) = world.edit(&mut r, &live.context()) {
                    break name;
                }
            };
        }
        world.write(before.as_ref(), &live.context());
        counts.edits += 1;
    }
}

#[test]
fn random_edits_give_what_a_build_without_cache_gives() {
    need!(Root);
    let edits = setting("RGRAPH_SOUNDNESS_EDITS", 20);
    let seed = setting("RGRAPH_SOUNDNESS_SEED", 1);
    let c = walk(seed, edits);
    eprintln!(
        "seed {seed}: {} edits, {} that do not build, {} builds in which nothing ran, {} steps ran",
        c.edits, c.failed, c.nothing_ran, c.steps
    );
    assert!(c.edits > 2 * c.failed, "most edits broke the build");
}
