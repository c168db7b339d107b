//! What of the cache goes: pure, on a [`World`].
//!
//! The unit is a snapshot that nothing kept lies on (a leaf), or a cache mount. The next to go is
//! the one that frees most bytes per second it would take to make again, the more so the longer ago
//! it was used. Time of use is counted in builds, not by the clock.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::world::{Live, Snap, World};
use super::{Policy, Rule};
use crate::entry::{Entry, Kind};
use crate::lease::Holds;

/// Bytes a second at which a layer comes again when nothing says how long its step took, and the
/// most that any step is taken to make.
const LAYER_RATE: f64 = 50e6;
/// The same for a cache mount, whose content nobody timed.
const MOUNT_RATE: f64 = 20e6;
/// What any step takes, seconds.
const STEP: f64 = 0.05;

/// What stays, and which cache mounts go.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) live: Live,
    /// Folders of cache mounts that go.
    pub(crate) mounts: Vec<String>,
}

/// A snapshot that results need and images do not.
#[derive(Debug)]
struct Node<'w> {
    snap: &'w Snap,
    /// Kept snapshots that lie on it.
    children: usize,
    /// Indices of the results that name it.
    results: Vec<usize>,
    used: i64,
    tick: i64,
    seconds: f64,
    /// A live build has it.
    held: bool,
    gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Snap(u64),
    Mount(usize),
}

#[derive(Debug)]
struct Ranked {
    worth: f64,
    unit: Unit,
}

impl Ord for Ranked {
    /// Of equal worth the older goes first.
    fn cmp(&self, other: &Self) -> Ordering {
        let age = |u: &Unit| match u {
            Unit::Snap(id) => std::cmp::Reverse(*id),
            Unit::Mount(n) => std::cmp::Reverse(*n as u64),
        };
        self.worth.total_cmp(&other.worth).then_with(|| age(&self.unit).cmp(&age(&other.unit)))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

/// Bytes a blob takes on disk, about.
pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096)
}

/// The cache as it is, while rules take from it.
struct Cache<'w> {
    w: &'w World,
    nodes: HashMap<u64, Node<'w>>,
    /// How many kept snapshots need a blob that only the cache needs.
    blobs: HashMap<[u8; 32], usize>,
    mounts_gone: HashSet<usize>,
    mounts_held: HashSet<&'w str>,
    dead_results: HashSet<usize>,
    /// Bytes the cache takes.
    used: u64,
    freed: u64,
}

impl<'w> Cache<'w> {
    fn new(w: &'w World, by_image: &Live, held: &Live, holds: &'w [Holds]) -> Self {
        let mut kept = by_image.clone();
        kept.snaps.extend(&held.snaps);
        kept.blobs.extend(&held.blobs);
        for r in w.results.iter().filter(|r| w.complete(r)) {
            for o in &r.outputs {
                kept.snap(w, *o);
            }
        }
        let mut this = Self {
            w,
            nodes: HashMap::new(),
            blobs: HashMap::new(),
            mounts_gone: HashSet::new(),
            mounts_held: holds.iter().flat_map(|h| &h.mounts).map(String::as_str).collect(),
            dead_results: HashSet::new(),
            used: w.mounts.iter().filter_map(|m| m.size).sum(),
            freed: 0,
        };
        for id in kept.snaps.difference(&by_image.snaps) {
            let Some(snap) = w.snaps.get(id) else { continue };
            this.used += snap.size.unwrap_or(0);
            for b in w.layer_blobs(snap).filter(|b| !by_image.blobs.contains(*b)) {
                let count = this.blobs.entry(*b).or_default();
                *count += 1;
                if *count == 1 {
                    this.used += w.blobs.get(b).map_or(0, |b| blocks(b.1));
                }
            }
            this.nodes.insert(
                *id,
                Node {
                    snap,
                    children: 0,
                    results: Vec::new(),
                    used: i64::MIN,
                    tick: 0,
                    seconds: 0.0,
                    held: held.snaps.contains(id),
                    gone: false,
                },
            );
        }
        // A blob that a live build holds goes with nothing.
        for b in &held.blobs {
            if let Some(count) = this.blobs.get_mut(b) {
                *count += 1;
            }
        }
        for id in &kept.snaps {
            let parent = w.snaps.get(id).and_then(|s| s.parent);
            if let Some(p) = parent.and_then(|p| this.nodes.get_mut(&p)) {
                p.children += 1;
            }
        }
        for (n, r) in w.results.iter().enumerate().filter(|(_, r)| w.complete(r)) {
            for o in &r.outputs {
                let Some(node) = this.nodes.get_mut(o) else { continue };
                node.results.push(n);
                node.used = node.used.max(r.used);
                node.tick = node.tick.max(r.tick);
                let took = r.took_ms.map_or(0.0, |ms| ms as f64 / 1e3);
                node.seconds = node.seconds.max(took);
            }
        }
        this
    }

    /// Bytes that go with a snapshot now.
    fn bytes(&self, s: &Snap) -> u64 {
        let blobs = self.w.layer_blobs(s).filter(|b| self.blobs.get(*b) == Some(&1));
        let blobs = blobs.filter_map(|b| self.w.blobs.get(b)).map(|b| blocks(b.1));
        s.size.unwrap_or(0) + blobs.sum::<u64>()
    }

    /// Uses since.
    fn lag(&self, tick: i64) -> f64 {
        self.w.tick.saturating_sub(tick).max(0) as f64
    }

    /// What going brings: of the leaf and as much of what lies below as goes best with it. Without
    /// that a small step on top would keep what is below it.
    fn worth_of_snap(&self, id: u64, may: &dyn Fn(u64) -> bool) -> f64 {
        let (mut bytes, mut seconds, mut lag, mut best) = (0.0, 0.0, f64::MAX, 0.0f64);
        let mut next = Some(id);
        while let Some(n) = next.and_then(|id| self.nodes.get(&id)) {
            if (n.snap.id != id && n.children > 1) || !may(n.snap.id) {
                break;
            }
            let own = self.bytes(n.snap) as f64;
            bytes += own;
            seconds += n.seconds.max(own / LAYER_RATE) + STEP;
            // What no result names is used when what lies on it is.
            if !n.results.is_empty() {
                lag = f64::min(lag, self.lag(n.tick));
            }
            let known = if lag == f64::MAX { self.lag(0) } else { lag };
            best = best.max(bytes / seconds * (1.0 + known));
            next = n.snap.parent;
        }
        best
    }

    fn worth_of_mount(&self, n: usize) -> f64 {
        let m = &self.w.mounts[n];
        let bytes = m.size.unwrap_or(0) as f64;
        bytes / (bytes / MOUNT_RATE + STEP) * (1.0 + self.lag(m.tick))
    }

    fn remove_snap(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.gone = true;
        let snap = node.snap;
        self.dead_results.extend(&node.results);
        let bytes = self.bytes(snap);
        self.used = self.used.saturating_sub(bytes);
        self.freed += bytes;
        for b in self.w.layer_blobs(snap) {
            if let Some(count) = self.blobs.get_mut(b) {
                *count -= 1;
            }
        }
        if let Some(p) = snap.parent.and_then(|p| self.nodes.get_mut(&p)) {
            p.children -= 1;
        }
    }

    fn remove_mount(&mut self, n: usize) {
        let bytes = self.w.mounts[n].size.unwrap_or(0);
        self.mounts_gone.insert(n);
        self.used = self.used.saturating_sub(bytes);
        self.freed += bytes;
    }

    fn entry(&self, n: &Node<'_>) -> Entry {
        Entry {
            id: n.snap.id.to_string(),
            kind: Kind::Regular,
            size: n.snap.size.unwrap_or(0),
            created: n.snap.created,
            used: Some(n.used),
            parents: n.snap.parent.map(|p| p.to_string()).into_iter().collect(),
            description: n.snap.description.clone(),
            in_use: n.held,
            shared: false,
            reclaimable: !n.held,
        }
    }

    fn apply(&mut self, rule: &Rule, free: u64) {
        let keep = rule.limits.keep(self.used, free.saturating_add(self.freed));
        let over = |used: u64| keep.is_none_or(|k| used > k);
        if !over(self.used) {
            return;
        }
        let old = |used: i64| rule.unused_for.is_none_or(|s| self.w.idle(used) >= s);
        // A snapshot that no result names goes with what lies on it.
        let chosen: HashSet<u64> = self
            .nodes
            .values()
            .filter(|n| !n.held && !n.gone)
            .filter(|n| n.results.is_empty() || old(n.used))
            .filter(|n| rule.filter.is_empty() || rule.filter.matches(&self.entry(n)))
            .map(|n| n.snap.id)
            .collect();
        let may = |id: u64| chosen.contains(&id);
        let mut heap = BinaryHeap::new();
        for n in self.nodes.values().filter(|n| n.children == 0 && may(n.snap.id)) {
            let unit = Unit::Snap(n.snap.id);
            heap.push(Ranked { worth: self.worth_of_snap(n.snap.id, &may), unit });
        }
        for (i, m) in self.w.mounts.iter().enumerate() {
            let held = self.mounts_held.contains(m.dir.as_str());
            let entry = || m.entry(m.size.unwrap_or(0), held);
            let meant = rule.filter.is_empty() || rule.filter.matches(&entry());
            if !held && !self.mounts_gone.contains(&i) && old(m.used) && meant {
                heap.push(Ranked { worth: self.worth_of_mount(i), unit: Unit::Mount(i) });
            }
        }
        while over(self.used)
            && let Some(next) = heap.pop()
        {
            match next.unit {
                Unit::Mount(n) => self.remove_mount(n),
                Unit::Snap(id) => {
                    self.remove_snap(id);
                    let mut parent = self.nodes[&id].snap.parent;
                    while let Some(p) = parent.and_then(|p| self.nodes.get(&p)) {
                        if p.children > 0 || p.gone || p.held {
                            break;
                        }
                        let id = p.snap.id;
                        if !p.results.is_empty() {
                            if may(id) {
                                let worth = self.worth_of_snap(id, &may);
                                heap.push(Ranked { worth, unit: Unit::Snap(id) });
                            }
                            break;
                        }
                        // Nothing names it, and nothing lies on it any more.
                        parent = p.snap.parent;
                        self.remove_snap(id);
                    }
                }
            }
        }
    }
}

/// What the cache of `w` takes beyond what images need, bytes.
pub(crate) fn cache_bytes(w: &World, holds: &[Holds]) -> u64 {
    let (mut by_image, mut held) = (Live::default(), Live::default());
    held.holds(w, holds);
    by_image.images(w, &held, None);
    Cache::new(w, &by_image, &held, holds).used
}

/// Decides. `free`: bytes free on the disk now.
pub(crate) fn plan(w: &World, holds: &[Holds], policy: &Policy, free: u64) -> Plan {
    let mut held = Live::default();
    held.holds(w, holds);
    let mut by_image = Live::default();
    by_image.images(w, &held, policy.untagged);
    let mut live = held.clone();
    live.merge(&by_image);
    let mut cache = Cache::new(w, &by_image, &held, holds);
    for rule in &policy.cache {
        cache.apply(rule, free);
    }
    for (n, r) in w.results.iter().enumerate().filter(|(_, r)| w.complete(r)) {
        if !cache.dead_results.contains(&n) {
            live.results.insert(r.key);
            for o in &r.outputs {
                live.snap(w, *o);
            }
        }
    }
    // A result whose snapshots stay anyway costs nothing.
    for r in w.results.iter().filter(|r| w.complete(r)) {
        if r.outputs.iter().all(|o| live.snaps.contains(o)) {
            live.results.insert(r.key);
        }
    }
    let mut mounts: Vec<String> =
        cache.mounts_gone.iter().map(|n| w.mounts[*n].dir.clone()).collect();
    mounts.sort();
    Plan { live, mounts }
}

#[cfg(test)]
mod tests;
