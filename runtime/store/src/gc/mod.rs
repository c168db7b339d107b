//! Removing what is not needed.
//!
//! Mark: tags and images, the results the policy keeps ([`plan`]), and what live leases hold; then
//! parents, layers and links of all that. Sweep, under the exclusive gc lock: rows first, then the
//! files into the trash, which is emptied after the lock is given back. On a full disk a
//! transaction has no room: then the files go first, and rows without a file are misses.

mod auto;
mod limits;
pub(crate) mod plan;
pub(crate) mod world;

use std::fs;
use std::path::{Path, PathBuf};

use rgraph_ir::{BlobDigest, ManifestDigest, SnapshotId};

pub use limits::{Amount, Disk, Limits};

use crate::error::{Result, StoreError};
use crate::filter::Filter;
use crate::index::{checkpoint, int, params, size};
use crate::lock::Mode;
use crate::mounts::delete_mounts;
use crate::store::{Session, Store};
use crate::tree;
use plan::Plan;
use world::World;

/// What may go besides garbage (objects nothing names), which always goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Images without a tag that came at least so many seconds ago.
    pub untagged: Option<u64>,
    /// What of the cache: one rule after the other.
    pub cache: Vec<Rule>,
    /// Only count.
    pub dry_run: bool,
}

impl Policy {
    /// All that no tag and no live build needs.
    pub fn all() -> Self {
        Self { untagged: Some(0), cache: vec![Rule::default()], dry_run: false }
    }
}

/// Some of the cache may go, until the rest is within bounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Which records.
    pub filter: Filter,
    /// Of those, only what was not used for so many seconds.
    pub unused_for: Option<u64>,
    /// How many of them.
    pub limits: Limits,
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
    /// Cache mounts.
    pub mounts: u64,
    /// Bytes on disk of these.
    pub bytes: u64,
}

/// Where files of things that go are.
#[derive(Debug, Default)]
struct Files {
    paths: Vec<PathBuf>,
}

impl Store {
    /// Removes what is not needed. Safe beside running builds of any process: what they made or
    /// looked up under a lease stays.
    ///
    /// # Errors
    /// [`StoreError::NeedsRepair`] when the index was lost and not made again yet.
    pub fn gc(&self, policy: &Policy) -> Result<Report> {
        self.gc_until(policy, &|| false)
    }

    /// As [`Self::gc`], until `stop`: what was taken out of the store by then is deleted by the next
    /// build, and is not in the report's bytes.
    pub fn gc_until(&self, policy: &Policy, stop: &dyn Fn() -> bool) -> Result<Report> {
        self.need_write()?;
        let needs_sizes = policy.cache.iter().any(|r| r.limits != Limits::default());
        if needs_sizes {
            self.count_sizes(true, stop)?;
        }
        if stop() {
            return Ok(Report::default());
        }
        let mut bytes = 0;
        if !policy.dry_run {
            self.collect_leftovers()?;
            self.remove_parts();
        }
        let mut session = self.session_as(Mode::Exclusive)?;
        if needs_repair(&session)? {
            return Err(StoreError::NeedsRepair { root: self.root().to_owned() });
        }
        let world = session.read("read all of it", World::read)?;
        let plan = plan::plan(&world, &self.all_holds()?, policy, self.disk()?.free);
        let live = &plan.live;
        let mut report = Report {
            results: (world.results.len() - live.results.len()) as u64,
            images: (world.images.len() - live.images.len()) as u64,
            snapshots: world.snaps.keys().filter(|id| !live.snaps.contains(id)).count() as u64,
            blobs: world.blobs.keys().filter(|d| !live.blobs.contains(*d)).count() as u64,
            mounts: plan.mounts.len() as u64,
            bytes: 0,
        };
        let files = self.files_of(&world, &plan);
        if policy.dry_run {
            drop(session);
            report.bytes = files.paths.iter().filter_map(|p| tree::disk_usage(p).ok()).sum();
            return Ok(report);
        }
        match delete_rows(&mut session, &world, &plan) {
            Err(StoreError::NoSpace { .. }) => {
                self.to_trash(&files);
                bytes += self.empty_trash_until(stop)?;
                delete_rows(&mut session, &world, &plan)?;
            }
            r => {
                r?;
                self.to_trash(&files);
            }
        }
        drop(session);
        report.bytes = bytes + self.empty_trash_until(stop)?;
        // Only to give the log's space back: a failure costs nothing else.
        let _ = self.session()?.read("shorten the log", checkpoint);
        Ok(report)
    }

    /// Every file that no live row names: what goes now, and what a crash left between a rename and
    /// its row. Under the exclusive lock nobody is between the two.
    fn files_of(&self, w: &World, plan: &Plan) -> Files {
        let live = &plan.live;
        let mut paths = Vec::new();
        for path in list(&self.layout().blobs()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if let Ok(d) = BlobDigest::from_hex(name)
                && !(live.blobs.contains(d.as_bytes()) && w.blobs.contains_key(d.as_bytes()))
            {
                paths.push(path);
            }
        }
        for path in list(&self.layout().snapshots()) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if let Ok(id) = name.parse::<u64>()
                && !live.snaps.contains(&id)
            {
                paths.push(path);
            }
        }
        for i in w.images.iter().filter(|i| !live.images.contains(&i.manifest)) {
            paths.push(self.layout().image_file(&ManifestDigest::from_bytes(i.manifest)));
        }
        for dir in &plan.mounts {
            let dir = self.layout().cache_mounts().join(dir);
            paths.push(self.mount_record(&dir));
            paths.push(dir);
        }
        Files { paths }
    }

    fn to_trash(&self, files: &Files) {
        let trash = self.layout().trash();
        for path in &files.paths {
            match fs::rename(path, trash.join(self.unique())) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    // On a full disk even a rename may fail; then it is deleted where it is.
                    let _ = tree::remove(path);
                }
                _ => {}
            }
        }
    }

    /// Deletes what lies in the trash; gives its bytes.
    pub(crate) fn empty_trash(&self) -> Result<u64> {
        self.empty_trash_until(&|| false)
    }

    fn empty_trash_until(&self, stop: &dyn Fn() -> bool) -> Result<u64> {
        let trash = self.layout().trash();
        let mut bytes = 0;
        let mut failed = Ok(bytes);
        for path in list(&trash) {
            if stop() {
                break;
            }
            let own = tree::disk_usage(&path).unwrap_or(0);
            match tree::remove(&path) {
                Ok(()) => bytes += own,
                Err(e) => failed = Err(self.layout().err("empty", &trash, e)),
            }
        }
        failed.map(|_| bytes)
    }

    /// Counts the bytes of snapshots and cache mounts not counted yet; with `again`, those of cache
    /// mounts too that were used since.
    pub(crate) fn count_sizes(&self, again: bool, stop: &dyn Fn() -> bool) -> Result<()> {
        let (snaps, mounts): (Vec<u64>, Vec<String>) = self.read("list what takes space", |c| {
            let ids = c
                .prepare("SELECT id FROM snapshots WHERE on_disk AND size IS NULL")?
                .query_map([], |r| size(r, 0))?
                .collect::<Result<_, _>>()?;
            let dirs = c
                .prepare(
                    "SELECT dir FROM cache_mounts WHERE size IS NULL OR (?1 AND sized < tick)",
                )?
                .query_map(params![again], |r| r.get(0))?
                .collect::<Result<_, _>>()?;
            Ok((ids, dirs))
        })?;
        let mut sizes = Sizes::default();
        for id in snaps {
            if stop() {
                break;
            }
            if let Ok(n) = tree::disk_usage(&self.layout().snapshot(SnapshotId(id))) {
                sizes.snaps.push((id, n));
            }
        }
        for dir in mounts {
            if stop() {
                break;
            }
            if let Ok(n) = tree::disk_usage(&self.layout().cache_mounts().join(&dir)) {
                sizes.mounts.push((dir, n));
            }
        }
        self.record_sizes(&sizes)
    }

    pub(crate) fn record_sizes(&self, sizes: &Sizes) -> Result<()> {
        if sizes.snaps.is_empty() && sizes.mounts.is_empty() {
            return Ok(());
        }
        let done = self.write("record sizes", |t| {
            let mut s = t.prepare("UPDATE snapshots SET size = ?2 WHERE id = ?1")?;
            for (id, n) in &sizes.snaps {
                s.execute(params![int(*id), int(*n)])?;
            }
            let mut s =
                t.prepare("UPDATE cache_mounts SET size = ?2, sized = tick WHERE dir = ?1")?;
            for (dir, n) in &sizes.mounts {
                s.execute(params![dir, int(*n)])?;
            }
            Ok(())
        });
        match done {
            // Only an estimate is lost.
            Err(StoreError::NoSpace { .. }) => Ok(()),
            r => r,
        }
    }
}

/// Bytes as they were counted.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) snaps: Vec<(u64, u64)>,
    pub(crate) mounts: Vec<(String, u64)>,
}

pub(crate) fn list(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

pub(crate) fn needs_repair(s: &Session<'_>) -> Result<bool> {
    s.read("read its state", |c| {
        c.prepare("SELECT 1 FROM meta WHERE name = 'needs_repair'")?.exists([])
    })
}

fn delete_rows(session: &mut Session<'_>, w: &World, plan: &Plan) -> Result<()> {
    let live = &plan.live;
    session.write("remove rows", |t| {
        let mut s = t.prepare("DELETE FROM snapshots WHERE id = ?1")?;
        for id in w.snaps.keys().filter(|id| !live.snaps.contains(id)) {
            s.execute(params![int(*id)])?;
        }
        let mut s = t.prepare("DELETE FROM blobs WHERE digest = ?1")?;
        for d in w.blobs.keys().filter(|d| !live.blobs.contains(*d)) {
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
        delete_mounts(t, &plan.mounts)?;
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
