//! What the store takes on disk: every block below the state root, counted once, as `du -s` does,
//! and said to belong to something.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rgraph_ir::BlobDigest;

use crate::entry::{Entry, Kind};
use crate::error::Result;
use crate::gc::plan::cache_bytes;
use crate::gc::world::{Live, Snap, World};
use crate::gc::{Sizes, list};
use crate::store::Store;
use crate::tree::Counter;

/// Bytes, and how many of them `prune` would free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How many things.
    pub count: u64,
    /// How many of them something needs.
    pub active: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that nothing needs.
    pub reclaimable: u64,
}

/// What the store takes on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Images, with all the layers they need.
    pub images: Share,
    /// Results of steps, without what images need of them.
    pub cache: Share,
    /// Cache mounts.
    pub mounts: Share,
    /// Objects that nothing names, files of no object, and what is being made or deleted.
    pub leftovers: Share,
    /// Everything else by the name it has below the root: the index, logs, records of builds, locks.
    pub rest: BTreeMap<String, u64>,
    /// All of it.
    pub total: u64,
    /// Layers and cache mounts, one by one.
    pub entries: Vec<Entry>,
}

/// Bytes by owner, as the walk finds them.
#[derive(Debug, Default)]
struct Walk {
    snaps: HashMap<u64, u64>,
    blobs: HashMap<[u8; 32], u64>,
    mounts: HashMap<String, u64>,
    strays: u64,
    rest: BTreeMap<String, u64>,
    total: u64,
}

impl Walk {
    /// Writing down what was found has made the index longer.
    fn recount_index(&mut self, root: &Path) {
        let files = ["index.db", "index.db-wal", "index.db-shm"];
        let now: u64 = files.iter().map(|f| own_blocks(&root.join(f))).sum();
        let old = self.rest.insert("index".to_owned(), now).unwrap_or(0);
        self.total = self.total.saturating_sub(old) + now;
    }
}

impl Store {
    /// Walks the whole root. What it finds is kept for gc.
    pub fn du(&self) -> Result<DiskUsage> {
        let mut walk = self.walk()?;
        let session = self.session()?;
        let w = session.read("read all of it", World::read)?;
        drop(session);
        if !self.is_read_only() {
            let new = |known: Option<u64>, n: u64| known.is_some_and(|k| k != n);
            let snap = |id: &u64| w.snaps.get(id).map(|s| s.size.unwrap_or(u64::MAX));
            let mounts = w.mounts.iter().map(|m| (&m.dir, m.size.unwrap_or(u64::MAX)));
            let mounts: HashMap<_, _> = mounts.collect();
            let snaps = walk.snaps.iter().map(|(id, n)| (*id, *n));
            let dirs = walk.mounts.iter().map(|(dir, n)| (dir.clone(), *n));
            self.record_sizes(&Sizes {
                snaps: snaps.filter(|(id, n)| new(snap(id), *n)).collect(),
                mounts: dirs.filter(|(d, n)| new(mounts.get(d).copied(), *n)).collect(),
            })?;
            walk.recount_index(self.root());
        }
        let session = self.session()?;
        let holds = if self.is_read_only() { Vec::new() } else { self.all_holds()? };
        drop(session);
        let mut held = Live::default();
        held.holds(&w, &holds);
        let mut named = Live::default();
        named.images(&w, &held, Some(0));
        let mut image = Live::default();
        image.images(&w, &held, None);
        let mut all = held.clone();
        all.merge(&image);
        for r in w.results.iter().filter(|r| w.complete(r)) {
            for o in &r.outputs {
                all.snap(&w, *o);
            }
        }
        let mut du = DiskUsage { total: walk.total, rest: walk.rest, ..DiskUsage::default() };
        du.leftovers.bytes = walk.strays;
        du.leftovers.reclaimable = walk.strays;
        // Blobs first: what is left of them belongs to no layer.
        let mut blobs = walk.blobs;
        let mut snaps: Vec<&Snap> = w.snaps.values().collect();
        snaps.sort_by_key(|s| s.id);
        let uses = uses(&w);
        for s in snaps {
            let of_blobs: u64 = w
                .layers
                .get(&s.diff.unwrap_or_default())
                .into_iter()
                .flatten()
                .filter(|b| all.blobs.contains(*b))
                .filter_map(|b| blobs.remove(b))
                .sum();
            let bytes = walk.snaps.get(&s.id).copied().unwrap_or(0) + of_blobs;
            let in_use = held.snaps.contains(&s.id);
            let shared = image.snaps.contains(&s.id);
            let share = match (shared, all.snaps.contains(&s.id)) {
                (true, _) => &mut du.images,
                (false, true) => &mut du.cache,
                (false, false) => &mut du.leftovers,
            };
            let needed = named.snaps.contains(&s.id) || in_use;
            share.bytes += bytes;
            share.reclaimable += if needed { 0 } else { bytes };
            du.entries.push(Entry {
                id: s.id.to_string(),
                kind: Kind::Regular,
                size: bytes,
                created: s.created,
                used: uses.get(&s.id).copied(),
                parents: s.parent.map(|p| p.to_string()).into_iter().collect(),
                description: s.description.clone(),
                in_use,
                shared,
                reclaimable: !needed,
            });
        }
        for (d, bytes) in blobs {
            let share = if image.blobs.contains(&d) {
                &mut du.images
            } else if all.blobs.contains(&d) {
                &mut du.cache
            } else {
                &mut du.leftovers
            };
            share.bytes += bytes;
            let needed = named.blobs.contains(&d) || held.blobs.contains(&d);
            share.reclaimable += if needed { 0 } else { bytes };
        }
        let mut mounts = walk.mounts;
        for m in &w.mounts {
            let bytes = mounts.remove(&m.dir).unwrap_or(0);
            let in_use = holds.iter().any(|h| h.mounts.contains(&m.dir));
            du.mounts.count += 1;
            du.mounts.active += u64::from(in_use);
            du.mounts.bytes += bytes;
            du.mounts.reclaimable += if in_use { 0 } else { bytes };
            du.entries.push(m.entry(bytes, in_use));
        }
        for bytes in mounts.into_values() {
            du.leftovers.bytes += bytes;
            du.leftovers.reclaimable += bytes;
        }
        let needed = |outputs: &[u64]| outputs.iter().all(|o| named.snaps.contains(o));
        du.images.count = w.images.len() as u64;
        du.images.active = named.images.len() as u64;
        du.cache.count = w.results.len() as u64;
        du.cache.active = w.results.iter().filter(|r| needed(&r.outputs)).count() as u64;
        Ok(du)
    }

    /// Bytes of the cache that images do not need, as gc's limits see them.
    pub fn cache_size(&self) -> Result<u64> {
        if !self.is_read_only() {
            self.count_sizes(true, &|| false)?;
        }
        let session = self.session()?;
        let w = session.read("read all of it", World::read)?;
        let holds = if self.is_read_only() { Vec::new() } else { self.all_holds()? };
        Ok(cache_bytes(&w, &holds))
    }

    fn walk(&self) -> Result<Walk> {
        let mut walk = Walk::default();
        let mut counter = Counter::default();
        let mut bytes = |path: &Path| counter.tree(path).unwrap_or(0);
        let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let l = self.layout();
        walk.rest.insert("folders".to_owned(), own_blocks(l.root()));
        for top in list(l.root()) {
            let rest = match name(&top).as_str() {
                "blobs" => {
                    for path in list(&l.blobs()) {
                        match BlobDigest::from_hex(&name(&path)) {
                            Ok(d) => *walk.blobs.entry(*d.as_bytes()).or_default() += bytes(&path),
                            Err(_) => walk.strays += bytes(&path),
                        }
                    }
                    own_blocks(&l.blobs()) + own_blocks(&top)
                }
                "snapshots" => {
                    for path in list(&top) {
                        match name(&path).parse() {
                            Ok(id) => *walk.snaps.entry(id).or_default() += bytes(&path),
                            Err(_) => walk.strays += bytes(&path),
                        }
                    }
                    own_blocks(&top)
                }
                "cache-mounts" => {
                    for path in list(&top) {
                        let dir = name(&path).trim_end_matches(".json").to_owned();
                        *walk.mounts.entry(dir).or_default() += bytes(&path);
                    }
                    own_blocks(&top)
                }
                "work" => {
                    walk.strays += bytes(&top) - own_blocks(&top);
                    own_blocks(&top)
                }
                "tmp" => {
                    let folders = own_blocks(&top) + own_blocks(&l.trash());
                    walk.strays += bytes(&top).saturating_sub(folders);
                    folders
                }
                other => {
                    let line = match other {
                        "index.db" | "index.db-wal" | "index.db-shm" => "index",
                        _ => other,
                    };
                    *walk.rest.entry(line.to_owned()).or_default() += bytes(&top);
                    continue;
                }
            };
            *walk.rest.entry("folders".to_owned()).or_default() += rest;
        }
        walk.total = walk.strays
            + walk.snaps.values().sum::<u64>()
            + walk.blobs.values().sum::<u64>()
            + walk.mounts.values().sum::<u64>()
            + walk.rest.values().sum::<u64>();
        // Folders of objects without a row count too, as left-overs.
        let known: Vec<u64> = self.read("list snapshots", |c| {
            c.prepare("SELECT id FROM snapshots")?
                .query_map([], |r| crate::index::size(r, 0))?
                .collect()
        })?;
        let known: std::collections::HashSet<u64> = known.into_iter().collect();
        walk.snaps.retain(|id, n| {
            let keep = known.contains(id);
            walk.strays += if keep { 0 } else { *n };
            keep
        });
        Ok(walk)
    }
}

/// The blocks of a folder without what is in it.
fn own_blocks(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).map_or(0, |m| m.blocks() * 512)
}

/// The last use of each snapshot by a result.
fn uses(w: &World) -> HashMap<u64, i64> {
    let mut out: HashMap<u64, i64> = HashMap::new();
    for r in &w.results {
        for o in &r.outputs {
            let used = out.entry(*o).or_insert(r.used);
            *used = (*used).max(r.used);
        }
    }
    out
}
