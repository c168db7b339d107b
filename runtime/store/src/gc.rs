//! What is in the store, what is needed, and removing the rest.
//!
//! Mark: tags and images, the results the policy keeps, and what live leases hold; then parents,
//! layers and links of all that. Sweep, under the exclusive gc lock: rows first, then the files
//! into the trash, which is emptied after the lock is given back. On a full disk a transaction has
//! no room: then the files go first, and rows without a file are misses.

use std::collections::{HashMap, HashSet};
use std::fs;

use rgraph_ir::{BlobDigest, SnapshotId};

use crate::error::{Result, StoreError};
use crate::index::{Connection, bytes32, checkpoint, int, opt_bytes32, opt_size, params, size};
use crate::lease::Holds;
use crate::lock::Mode;
use crate::store::{Session, Store};
use crate::tree;

/// What may go besides garbage (objects nothing names), which always goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Cache results that no image needs.
    pub results: bool,
    /// Images without a tag.
    pub untagged: bool,
    /// Of those results, only what was not used for so many seconds.
    pub unused_for: Option<u64>,
    /// Of those results, the last used ones stay up to so many bytes.
    pub keep_bytes: Option<u64>,
    /// Only count.
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Cache results.
    pub results: u64,
    /// Images.
    pub images: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes on disk of these.
    pub bytes: u64,
}

/// What the store takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Snapshots, lazy ones too.
    pub snapshots: u64,
    /// Their bytes on disk.
    pub snapshot_bytes: u64,
    /// Cache results.
    pub results: u64,
    /// Images.
    pub images: u64,
    /// Bytes of cache mounts.
    pub cache_mount_bytes: u64,
    /// Bytes that [`Store::gc`] with `results` and `untagged` would free.
    pub reclaimable_bytes: u64,
}

#[derive(Debug)]
struct Snap {
    id: u64,
    parent: Option<u64>,
    diff: Option<[u8; 32]>,
    on_disk: bool,
    size: Option<u64>,
}

#[derive(Debug)]
struct Res {
    key: [u8; 32],
    outputs: Vec<u64>,
    /// Seconds since it was used.
    idle: i64,
}

#[derive(Debug)]
struct Img {
    manifest: [u8; 32],
    config: [u8; 32],
    layers: Vec<[u8; 32]>,
    snapshot: Option<u64>,
}

/// All rows that matter, read once.
#[derive(Debug, Default)]
struct World {
    snaps: HashMap<u64, Snap>,
    /// Digest to (seq, size).
    blobs: HashMap<[u8; 32], (u64, u64)>,
    links: HashMap<[u8; 32], Vec<[u8; 32]>>,
    layers: HashMap<[u8; 32], Vec<[u8; 32]>>,
    /// Last used first.
    results: Vec<Res>,
    images: Vec<Img>,
    tags: HashSet<[u8; 32]>,
    /// What registries said that names mean.
    remote: HashSet<[u8; 32]>,
}

impl World {
    fn read(c: &Connection) -> rusqlite::Result<Self> {
        let mut w = Self::default();
        let mut s = c.prepare("SELECT id, parent, diff_id, on_disk, size FROM snapshots")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let snap = Snap {
                id: size(r, 0)?,
                parent: opt_size(r, 1)?,
                diff: opt_bytes32(r, 2)?,
                on_disk: r.get(3)?,
                size: opt_size(r, 4)?,
            };
            w.snaps.insert(snap.id, snap);
        }
        let mut s = c.prepare("SELECT digest, seq, size FROM blobs")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            w.blobs.insert(bytes32(r, 0)?, (size(r, 1)?, size(r, 2)?));
        }
        for (sql, map) in [
            ("SELECT parent, child FROM blob_links", &mut w.links),
            ("SELECT diff_id, digest FROM layer_blobs", &mut w.layers),
        ] {
            let mut s = c.prepare(sql)?;
            let mut rows = s.query([])?;
            while let Some(r) = rows.next()? {
                map.entry(bytes32(r, 0)?).or_default().push(bytes32(r, 1)?);
            }
        }
        let mut s = c.prepare(
            "SELECT key, outputs, unixepoch() - used FROM results ORDER BY used DESC, seq DESC",
        )?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let packed: Vec<u8> = r.get(1)?;
            let outputs =
                packed.as_chunks::<8>().0.iter().map(|c| u64::from_be_bytes(*c)).collect();
            w.results.push(Res { key: bytes32(r, 0)?, outputs, idle: r.get(2)? });
        }
        let mut s = c.prepare("SELECT manifest, config, layers, snapshot FROM images")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            let layers: Vec<u8> = r.get(2)?;
            w.images.push(Img {
                manifest: bytes32(r, 0)?,
                config: bytes32(r, 1)?,
                layers: layers.as_chunks::<32>().0.to_vec(),
                snapshot: opt_size(r, 3)?,
            });
        }
        let mut s = c.prepare("SELECT manifest FROM tags")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            w.tags.insert(bytes32(r, 0)?);
        }
        let mut s = c.prepare("SELECT manifest FROM remote_tags")?;
        let mut rows = s.query([])?;
        while let Some(r) = rows.next()? {
            w.remote.insert(bytes32(r, 0)?);
        }
        Ok(w)
    }
}

/// What stays.
#[derive(Debug, Default)]
struct Live {
    snaps: HashSet<u64>,
    blobs: HashSet<[u8; 32]>,
    diffs: HashSet<[u8; 32]>,
    results: HashSet<[u8; 32]>,
    images: HashSet<[u8; 32]>,
}

impl Live {
    fn snap(&mut self, w: &World, id: u64) {
        let mut next = Some(id);
        while let Some(s) = next.and_then(|id| w.snaps.get(&id)) {
            if !self.snaps.insert(s.id) {
                return;
            }
            if let Some(d) = s.diff {
                self.diff(w, d);
            }
            next = s.parent;
        }
    }

    fn diff(&mut self, w: &World, d: [u8; 32]) {
        if self.diffs.insert(d) {
            for b in w.layers.get(&d).into_iter().flatten() {
                self.blob(w, *b);
            }
        }
    }

    fn blob(&mut self, w: &World, d: [u8; 32]) {
        let mut todo = vec![d];
        while let Some(d) = todo.pop() {
            if self.blobs.insert(d) {
                todo.extend(w.links.get(&d).into_iter().flatten());
            }
        }
    }

    fn image(&mut self, w: &World, i: &Img) {
        self.images.insert(i.manifest);
        self.blob(w, i.manifest);
        self.blob(w, i.config);
        for d in &i.layers {
            self.diff(w, *d);
        }
        if let Some(s) = i.snapshot {
            self.snap(w, s);
        }
    }
}

fn mark(w: &World, holds: &[Holds], policy: &Policy) -> Live {
    let mut live = Live::default();
    for h in holds {
        for id in w.snaps.keys().filter(|id| **id > h.after_snapshot) {
            live.snap(w, *id);
        }
        for id in &h.snapshots {
            live.snap(w, id.0);
        }
        for (d, _) in w.blobs.iter().filter(|(_, (seq, _))| *seq > h.after_blob) {
            live.blob(w, *d);
        }
        for d in &h.blobs {
            live.blob(w, *d.as_bytes());
        }
    }
    for t in &w.tags {
        live.blob(w, *t);
    }
    // Bases, with what was fetched of them: images without a name.
    for t in w.remote.iter().filter(|_| !policy.untagged) {
        live.blob(w, *t);
    }
    for i in &w.images {
        // Named by a tag, by an index that is, or by a live build.
        if !policy.untagged || live.blobs.contains(&i.manifest) {
            live.image(w, i);
        }
    }
    let complete = |r: &Res| r.outputs.iter().all(|o| w.snaps.contains_key(o));
    let mut kept = 0u64;
    for r in w.results.iter().filter(|r| complete(r)) {
        let needed = r.outputs.iter().all(|o| live.snaps.contains(o));
        let young = policy.unused_for.is_some_and(|s| r.idle < int(s));
        let keep = !policy.results || needed || young || {
            policy.keep_bytes.is_some_and(|max| {
                let new: u64 = r.outputs.iter().map(|o| new_bytes(w, &live, *o)).sum();
                let fits = kept.saturating_add(new) <= max;
                kept = if fits { kept + new } else { kept };
                fits
            })
        };
        if keep {
            live.results.insert(r.key);
            for o in &r.outputs {
                live.snap(w, *o);
            }
        }
    }
    live
}

/// Bytes that keeping `id` costs beyond what is kept already.
fn new_bytes(w: &World, live: &Live, id: u64) -> u64 {
    let mut sum = 0;
    let mut next = Some(id);
    while let Some(s) = next.and_then(|id| w.snaps.get(&id)) {
        if live.snaps.contains(&s.id) {
            break;
        }
        sum += s.size.unwrap_or(0);
        let blobs = s.diff.and_then(|d| w.layers.get(&d));
        sum += blobs.into_iter().flatten().filter_map(|b| w.blobs.get(b)).map(|b| b.1).sum::<u64>();
        next = s.parent;
    }
    sum
}

impl Store {
    /// Removes what is not needed. Safe beside running builds of any process: what they made or
    /// looked up under a lease stays.
    ///
    /// # Errors
    /// [`StoreError::NeedsRepair`] when the index was lost and not made again yet.
    pub fn gc(&self, policy: &Policy) -> Result<Report> {
        self.need_write()?;
        if policy.keep_bytes.is_some() {
            self.count_sizes()?;
        }
        self.clean_leftovers()?;
        let mut session = self.session_as(Mode::Exclusive)?;
        if needs_repair(&session)? {
            return Err(StoreError::NeedsRepair { root: self.root().to_owned() });
        }
        let world = session.read("read all of it", World::read)?;
        let live = mark(&world, &self.all_holds()?, policy);
        let mut report = Report {
            results: (world.results.len() - live.results.len()) as u64,
            images: (world.images.len() - live.images.len()) as u64,
            ..Report::default()
        };
        let snaps: Vec<&Snap> =
            world.snaps.values().filter(|s| !live.snaps.contains(&s.id)).collect();
        for s in &snaps {
            report.snapshots += 1;
            if s.on_disk {
                let dir = self.layout().snapshot(SnapshotId(s.id));
                report.bytes += tree::disk_usage(&dir).unwrap_or(0);
            }
        }
        let blobs: Vec<[u8; 32]> =
            world.blobs.keys().filter(|d| !live.blobs.contains(*d)).copied().collect();
        report.blobs = blobs.len() as u64;
        report.bytes += blobs.iter().map(|d| world.blobs[d].1).sum::<u64>();
        if policy.dry_run {
            return Ok(report);
        }
        match delete_rows(&mut session, &world, &live, &snaps, &blobs) {
            Err(StoreError::NoSpace { .. }) => {
                self.sweep(&world, &live);
                self.empty_trash()?;
                delete_rows(&mut session, &world, &live, &snaps, &blobs)?;
            }
            r => {
                r?;
                self.sweep(&world, &live);
            }
        }
        drop(session);
        self.empty_trash()?;
        // Only to give the log's space back: a failure costs nothing else.
        let _ = self.session()?.read("shorten the log", checkpoint);
        Ok(report)
    }

    /// Takes away every file that no live row names: what was removed now, and what a crash left
    /// between a rename and its row. Under the exclusive lock nobody is between the two.
    fn sweep(&self, w: &World, live: &Live) {
        let trash = self.layout().trash();
        let drop_it = |path: &std::path::Path| {
            // On a full disk even a rename may fail; then it is deleted where it is.
            if fs::rename(path, trash.join(self.unique())).is_err() {
                let _ = tree::remove(path);
            }
        };
        for path in list(&self.layout().blobs()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if let Ok(d) = BlobDigest::from_hex(name)
                && !(live.blobs.contains(d.as_bytes()) && w.blobs.contains_key(d.as_bytes()))
            {
                drop_it(&path);
            }
        }
        for path in list(&self.layout().snapshots()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if let Ok(id) = name.parse::<u64>()
                && !live.snaps.contains(&id)
            {
                drop_it(&path);
            }
        }
        for i in w.images.iter().filter(|i| !live.images.contains(&i.manifest)) {
            let m = rgraph_ir::ManifestDigest::from_bytes(i.manifest);
            let _ = fs::remove_file(self.layout().image_file(&m));
        }
    }

    /// Counts the bytes of snapshots not counted yet.
    fn count_sizes(&self) -> Result<()> {
        let ids: Vec<u64> = self.read("list snapshots", |c| {
            c.prepare("SELECT id FROM snapshots WHERE on_disk AND size IS NULL")?
                .query_map([], |r| size(r, 0))?
                .collect()
        })?;
        let mut sizes = Vec::new();
        for id in ids {
            let dir = self.layout().snapshot(SnapshotId(id));
            if let Ok(n) = tree::disk_usage(&dir) {
                sizes.push((id, n));
            }
        }
        if sizes.is_empty() {
            return Ok(());
        }
        let done = self.write("record sizes", |t| {
            let mut s = t.prepare("UPDATE snapshots SET size = ?2 WHERE id = ?1")?;
            for (id, n) in sizes {
                s.execute(params![int(id), int(n)])?;
            }
            Ok(())
        });
        match done {
            // Only an estimate is lost.
            Err(StoreError::NoSpace { .. }) => Ok(()),
            r => r,
        }
    }

    /// What the store takes on disk and how much of it could go.
    pub fn du(&self) -> Result<DiskUsage> {
        if !self.is_read_only() {
            self.count_sizes()?;
        }
        let session = self.session()?;
        let w = session.read("read all of it", World::read)?;
        let holds = if self.is_read_only() { Vec::new() } else { self.all_holds()? };
        drop(session);
        let live = mark(&w, &holds, &Policy { results: true, untagged: true, ..Policy::default() });
        let dead_snaps = w.snaps.values().filter(|s| !live.snaps.contains(&s.id));
        let dead_blobs = w.blobs.iter().filter(|(d, _)| !live.blobs.contains(*d));
        let mounts = list(&self.layout().cache_mounts());
        Ok(DiskUsage {
            blobs: w.blobs.len() as u64,
            blob_bytes: w.blobs.values().map(|b| b.1).sum(),
            snapshots: w.snaps.len() as u64,
            snapshot_bytes: w.snaps.values().filter_map(|s| s.size).sum(),
            results: w.results.len() as u64,
            images: w.images.len() as u64,
            cache_mount_bytes: mounts.iter().filter_map(|p| tree::disk_usage(p).ok()).sum(),
            reclaimable_bytes: dead_snaps.filter_map(|s| s.size).sum::<u64>()
                + dead_blobs.map(|(_, b)| b.1).sum::<u64>(),
        })
    }
}

fn list(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

pub(crate) fn needs_repair(s: &Session<'_>) -> Result<bool> {
    s.read("read its state", |c| {
        c.prepare("SELECT 1 FROM meta WHERE name = 'needs_repair'")?.exists([])
    })
}

fn delete_rows(
    session: &mut Session<'_>,
    w: &World,
    live: &Live,
    snaps: &[&Snap],
    blobs: &[[u8; 32]],
) -> Result<()> {
    session.write("remove rows", |t| {
        let mut s = t.prepare("DELETE FROM snapshots WHERE id = ?1")?;
        for snap in snaps {
            s.execute(params![int(snap.id)])?;
        }
        let mut s = t.prepare("DELETE FROM blobs WHERE digest = ?1")?;
        for d in blobs {
            s.execute(params![d])?;
        }
        let mut s = t.prepare("DELETE FROM results WHERE key = ?1")?;
        for r in w.results.iter().filter(|r| !live.results.contains(&r.key)) {
            s.execute(params![r.key])?;
        }
        let mut s = t.prepare("DELETE FROM images WHERE manifest = ?1")?;
        for i in w.images.iter().filter(|i| !live.images.contains(&i.manifest)) {
            s.execute(params![i.manifest])?;
        }
        let mut s = t.prepare("DELETE FROM layer_blobs WHERE diff_id = ?1")?;
        for d in w.layers.keys().filter(|d| !live.diffs.contains(*d)) {
            s.execute(params![d])?;
        }
        // What belongs to rows that are gone.
        t.execute_batch(
            "DELETE FROM blob_links WHERE parent NOT IN (SELECT digest FROM blobs);
             DELETE FROM slots WHERE key NOT IN (SELECT key FROM results);
             DELETE FROM contents WHERE key NOT IN (SELECT key FROM results);
             DELETE FROM remote_tags WHERE manifest NOT IN (SELECT digest FROM blobs);",
        )?;
        Ok(())
    })
}
