//! Which goes first, and what never goes.

use proptest::prelude::*;

use super::super::world::{Mount, Res};
use super::super::{Limits, Rule};
use super::*;
use crate::filter::Filter;

fn snap(id: u64, parent: Option<u64>, size: u64) -> Snap {
    Snap {
        id,
        parent,
        diff: None,
        on_disk: true,
        size: Some(size),
        description: format!("step {id}"),
        created: 0,
    }
}

/// The result of snapshot `id`.
fn result(id: u64, took_ms: u64, tick: i64) -> Res {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&id.to_be_bytes());
    Res { key, outputs: vec![id], used: 0, tick, took_ms: Some(took_ms) }
}

fn mount(name: &str, size: u64, tick: i64) -> Mount {
    let (dir, id) = (name.to_owned(), name.to_owned());
    Mount { dir, id, size: Some(size), created: 0, used: 0, tick }
}

fn world(snaps: Vec<Snap>, results: Vec<Res>) -> World {
    let snaps = snaps.into_iter().map(|s| (s.id, s)).collect();
    World { snaps, results, tick: 100, now: 1_000_000, ..World::default() }
}

fn capped(max: u64) -> Policy {
    let limits = Limits { max_used: Some(max), ..Limits::default() };
    Policy { untagged: None, cache: vec![Rule { limits, ..Rule::default() }], dry_run: false }
}

fn kept(w: &World, policy: &Policy) -> Vec<u64> {
    let mut ids: Vec<u64> = plan(w, &[], policy, 0).live.snaps.into_iter().collect();
    ids.sort_unstable();
    ids
}

const MB: u64 = 1_000_000;

#[test]
fn what_frees_most_per_second_goes_first() {
    // 100 MB made in 0.1 s, in 100 s; 1 MB in 0.1 s.
    let w = world(
        vec![snap(1, None, 100 * MB), snap(2, None, 100 * MB), snap(3, None, MB)],
        vec![result(1, 100, 100), result(2, 100_000, 100), result(3, 100, 100)],
    );
    assert_eq!(kept(&w, &capped(150 * MB)), [2, 3]);
    assert_eq!(kept(&w, &capped(100 * MB)), [2], "one MB in a blink before 100 in 100 s");
    assert_eq!(kept(&w, &capped(10 * MB)), Vec::<u64>::new());
    assert_eq!(kept(&w, &capped(500 * MB)), [1, 2, 3]);
}

#[test]
fn of_equals_the_one_not_used_for_longest_goes_first() {
    let mut w = world(
        vec![snap(1, None, MB), snap(2, None, MB), snap(3, None, MB)],
        vec![result(1, 100, 99), result(2, 100, 3), result(3, 100, 50)],
    );
    assert_eq!(kept(&w, &capped(2 * MB)), [1, 3]);
    assert_eq!(kept(&w, &capped(MB)), [1]);
    // The clock said otherwise: nothing changes, whatever it says.
    for times in [[4_102_444_800, -1, 0], [-1, 4_102_444_800, i64::MAX], [i64::MIN, 0, 0]] {
        for (r, t) in w.results.iter_mut().zip(times) {
            r.used = t;
        }
        assert_eq!(kept(&w, &capped(2 * MB)), [1, 3], "{times:?}");
    }
}

#[test]
fn a_small_step_on_top_does_not_keep_what_is_below() {
    // 2 lies on 1: 100 MB in 1 s. 3 is of middling worth.
    let w = world(
        vec![snap(1, None, 100 * MB), snap(2, Some(1), 10_000), snap(3, None, 10 * MB)],
        vec![result(1, 1000, 100), result(2, 2000, 100), result(3, 1000, 100)],
    );
    assert_eq!(kept(&w, &capped(20 * MB)), [3]);
}

#[test]
fn a_shared_parent_stays_as_long_as_a_child_does() {
    let w = world(
        vec![snap(1, None, 10 * MB), snap(2, Some(1), 5 * MB), snap(3, Some(1), 5 * MB)],
        vec![result(1, 1, 1), result(2, 10, 1), result(3, 10_000, 100)],
    );
    assert_eq!(kept(&w, &capped(17 * MB)), [1, 3]);
    assert_eq!(kept(&w, &capped(12 * MB)), [1]);
}

#[test]
fn what_nobody_names_goes_with_what_lies_on_it() {
    // 1 and 2 are layers of a base; only its top has a result.
    let w = world(
        vec![snap(1, None, MB), snap(2, Some(1), MB), snap(3, None, MB)],
        vec![result(2, 5, 1), result(3, 5, 100)],
    );
    assert_eq!(kept(&w, &capped(2 * MB)), [3]);
}

#[test]
fn blobs_count_for_the_last_layer_that_needs_them() {
    let blob = [7; 32];
    let mut w = world(
        vec![snap(1, None, MB), snap(2, None, MB), snap(3, None, MB)],
        vec![result(1, 1, 1), result(2, 1, 2), result(3, 1, 100)],
    );
    for id in [1, 2] {
        w.snaps.get_mut(&id).unwrap().diff = Some([1; 32]);
    }
    w.layers.insert([1; 32], vec![blob]);
    w.blobs.insert(blob, (1, 5 * MB));
    assert_eq!(cache_bytes(&w, &[]), 3 * MB + blocks(5 * MB));
    assert_eq!(kept(&w, &capped(2 * MB)), [3], "one alone does not free the blob");
    assert!(!plan(&w, &[], &capped(2 * MB), 0).live.blobs.contains(&blob));
}

#[test]
fn mounts_and_filters() {
    let mut w = world(vec![snap(1, None, MB)], vec![result(1, 60_000, 100)]);
    w.mounts = vec![mount("/a", 3 * MB, 1), mount("/b", 3 * MB, 100)];
    let gone = |policy: &Policy, holds: &[Holds]| plan(&w, holds, policy, 0).mounts;
    assert_eq!(gone(&capped(5 * MB), &[]), ["/a"]);
    assert_eq!(gone(&capped(MB), &[]), ["/a", "/b"]);
    let held = Holds { mounts: vec!["/a".to_owned()], ..held_nothing() };
    assert_eq!(gone(&capped(5 * MB), std::slice::from_ref(&held)), ["/b"]);
    let only = |filter: &str| Policy {
        cache: vec![Rule { filter: filter.parse().unwrap(), ..Rule::default() }],
        ..Policy::default()
    };
    assert_eq!(gone(&only("type=exec.cachemount,id=/b"), &[]), ["/b"]);
    assert_eq!(kept(&w, &only("type=exec.cachemount")), [1]);
    assert_eq!(kept(&w, &only("description~=step 1")), Vec::<u64>::new());
    assert!(gone(&only("immutable"), &[]).is_empty());
}

#[test]
fn rules_apply_in_order_and_age_counts() {
    let mut w = world(
        vec![snap(1, None, MB), snap(2, None, MB)],
        vec![result(1, 100, 100), result(2, 100, 1)],
    );
    w.results[0].used = w.now - 1000;
    w.results[1].used = w.now - 10;
    let old = Rule { unused_for: Some(500), ..Rule::default() };
    let policy = Policy { cache: vec![old.clone()], ..Policy::default() };
    assert_eq!(kept(&w, &policy), [2]);
    let limits = Limits { max_used: Some(0), ..Limits::default() };
    let policy = Policy { cache: vec![Rule { limits, ..old }], ..Policy::default() };
    assert_eq!(kept(&w, &policy), [2], "the bound is about what may go");
    let enough = Limits { min_free: Some(2 * MB), ..Limits::default() };
    let policy = Policy { cache: vec![Rule { limits: enough, ..Rule::default() }], ..policy };
    let with = |free| plan(&w, &[], &policy, free).live.snaps.len();
    assert_eq!((with(2 * MB), with(MB), with(0)), (2, 1, 0));
}

/// Of a process that began after all.
fn held_nothing() -> Holds {
    Holds { after_snapshot: u64::MAX, after_blob: u64::MAX, ..Holds::default() }
}

#[derive(Debug)]
struct Case {
    world: World,
    holds: Vec<Holds>,
    max: u64,
    filter: Filter,
}

prop_compose! {
    fn case()(
        snaps in proptest::collection::vec(
            (any::<proptest::sample::Index>(), any::<bool>(), 0..50u64, 0..4u8), 1..25),
        results in proptest::collection::vec(
            (any::<proptest::sample::Index>(), 0..100_000u64, 0..100i64, any::<i32>()), 0..25),
        mounts in proptest::collection::vec((0..50u64, 0..100i64), 0..4),
        blobs in proptest::collection::vec(0..50u64, 4),
        held in proptest::option::of(any::<proptest::sample::Index>()),
        images in proptest::collection::vec(any::<proptest::sample::Index>(), 0..3),
        max in 0..600u64,
        mounts_only in any::<bool>(),
    ) -> Case {
        let mut w = World { tick: 100, now: 1_000_000, ..World::default() };
        for (n, (parent, root, size, diff)) in snaps.iter().enumerate() {
            let id = n as u64 + 1;
            let parent = (!root && n > 0).then(|| parent.index(n) as u64 + 1);
            let mut s = snap(id, parent, size * 4096);
            s.diff = (*diff > 0).then_some([*diff; 32]);
            w.snaps.insert(id, s);
        }
        let count = w.snaps.len();
        for d in 1..4u8 {
            w.layers.insert([d; 32], vec![[d + 100; 32]]);
            w.blobs.insert([d + 100; 32], (u64::from(d), blobs[usize::from(d)] * 4096));
        }
        for (n, (on, took, tick, used)) in results.iter().enumerate() {
            let mut r = result(on.index(count) as u64 + 1, *took, *tick);
            r.key[31] = n as u8;
            r.used = i64::from(*used);
            w.results.push(r);
        }
        for (n, (size, tick)) in mounts.iter().enumerate() {
            w.mounts.push(mount(&format!("/{n}"), size * 4096, *tick));
        }
        for (n, i) in images.iter().enumerate() {
            w.add_image([n as u8 + 200; 32], i.index(count) as u64 + 1);
        }
        let holds = held.map(|h| Holds {
            snapshots: vec![rgraph_ir::SnapshotId(h.index(count) as u64 + 1)],
            mounts: vec!["/0".to_owned()],
            ..held_nothing()
        });
        let filter = if mounts_only { "type=exec.cachemount" } else { "" };
        Case {
            world: w,
            holds: holds.into_iter().collect(),
            max: max * 4096,
            filter: filter.parse().unwrap(),
        }
    }
}

/// Bytes of the cache when `plan` has been carried out, counted afresh.
fn after(w: &World, plan: &Plan, by_image: &Live) -> u64 {
    let snaps = plan.live.snaps.difference(&by_image.snaps).filter_map(|id| w.snaps.get(id));
    let mut blobs = HashSet::new();
    let mut sum = 0;
    for s in snaps {
        sum += s.size.unwrap();
        blobs.extend(w.layer_blobs(s).filter(|b| !by_image.blobs.contains(*b)).copied());
    }
    sum += blobs.iter().map(|b| blocks(w.blobs[b].1)).sum::<u64>();
    let mounts = w.mounts.iter().filter(|m| !plan.mounts.contains(&m.dir));
    sum + mounts.map(|m| m.size.unwrap()).sum::<u64>()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_cap_is_a_cap_and_nothing_in_use_goes(c in case()) {
        let limits = Limits { max_used: Some(c.max), ..Limits::default() };
        let rule = Rule { filter: c.filter.clone(), unused_for: None, limits };
        let policy = Policy { untagged: None, cache: vec![rule], dry_run: false };
        let w = &c.world;
        let p = plan(w, &c.holds, &policy, 0);
        let (mut held, mut by_image) = (Live::default(), Live::default());
        held.holds(w, &c.holds);
        by_image.images(w, &held, None);
        // What a build or an image needs stays, with all it lies on and all its blobs.
        prop_assert!(held.snaps.is_subset(&p.live.snaps));
        prop_assert!(held.blobs.is_subset(&p.live.blobs));
        prop_assert!(by_image.snaps.is_subset(&p.live.snaps));
        prop_assert!(by_image.blobs.is_subset(&p.live.blobs));
        prop_assert!(c.holds.is_empty() || !p.mounts.contains(&"/0".to_owned()));
        // Whatever stays lies on what stays.
        for id in &p.live.snaps {
            let parent = w.snaps[id].parent;
            prop_assert!(parent.is_none_or(|p2| p.live.snaps.contains(&p2)));
        }
        for r in w.results.iter().filter(|r| p.live.results.contains(&r.key)) {
            prop_assert!(r.outputs.iter().all(|o| p.live.snaps.contains(o)));
        }
        // Within the bound, or nothing is left that may go.
        let left = after(w, &p, &by_image);
        let may_go = p.live.snaps.iter().any(|id| {
            c.filter.is_empty() && !held.snaps.contains(id) && !by_image.snaps.contains(id)
        }) || w.mounts.iter().any(|m| {
            !p.mounts.contains(&m.dir) && !c.holds.iter().any(|h| h.mounts.contains(&m.dir))
        });
        prop_assert!(left <= c.max || !may_go, "{} of {}", left, c.max);
        // And not more than needed: within it from the start, nothing goes.
        if cache_bytes(w, &c.holds) <= c.max {
            let all = plan(w, &c.holds, &Policy::default(), 0);
            prop_assert_eq!(&p.live.snaps, &all.live.snaps);
            prop_assert!(p.mounts.is_empty());
        }
    }

    /// Times of the clock decide nothing.
    #[test]
    fn the_order_is_the_same_whatever_the_clock_says(c in case(), times in any::<[i64; 4]>()) {
        let before = plan(&c.world, &c.holds, &capped(c.max), 0);
        let mut w = c.world.clone();
        w.now = times[0];
        for (n, r) in w.results.iter_mut().enumerate() {
            r.used = times[n % 3 + 1];
        }
        let later = plan(&w, &c.holds, &capped(c.max), 0);
        prop_assert_eq!(before.live.snaps, later.live.snaps);
        prop_assert_eq!(before.mounts, later.mounts);
    }

    /// The next to go is always one of the best that could go then.
    #[test]
    fn a_tighter_bound_takes_the_same_and_more(c in case(), less in 0..600u64) {
        let tight = c.max.min(less * 4096);
        let loose = plan(&c.world, &c.holds, &capped(c.max), 0);
        let tight = plan(&c.world, &c.holds, &capped(tight), 0);
        prop_assert!(tight.live.snaps.is_subset(&loose.live.snaps));
        prop_assert!(loose.mounts.iter().all(|m| tight.mounts.contains(m)));
    }
}
