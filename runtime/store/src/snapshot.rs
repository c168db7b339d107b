//! Snapshots: file system states. Each is an overlay upper directory on its parent's; a lazy one is
//! known by its layer alone and gets its folder when somebody needs it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rgraph_ir::{BlobDigest, DiffId, SnapshotId};

use crate::error::{Result, StoreError};
use crate::index::{
    Connection, OptionalExtension as _, Row, Transaction, int, opt_bytes32, opt_size, params, size,
};
use crate::layer::{BlobRef, LayerInfo, insert_layer_blob, layer_blobs};
use crate::lease::{Lease, LeaseInner};
use crate::store::{Store, TxError};
use crate::tree;

/// A longer chain of parents is damage: images stop at 127 layers, steps at some thousands.
const MAX_CHAIN: usize = 100_000;

/// A snapshot to be.
#[derive(Debug, Clone, Default)]
pub struct NewSnapshot {
    /// What it lies on.
    pub parent: Option<SnapshotId>,
    /// Its layer, when known already.
    pub layer: Option<LayerInfo>,
    /// For people.
    pub description: String,
}

/// A snapshot in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its name.
    pub id: SnapshotId,
    /// What it lies on.
    pub parent: Option<SnapshotId>,
    /// The upper directory; `None`: lazy.
    pub dir: Option<PathBuf>,
    /// Its layer, when known.
    pub layer: Option<LayerInfo>,
    /// Bytes on disk, when counted.
    pub size: Option<u64>,
    /// For people.
    pub description: String,
    /// Seconds since 1970, as the clock stood; orders nothing.
    pub created: i64,
}

/// A snapshot in progress: an upper and an overlay work directory on the store's file system.
/// Dropped without [`Store::commit`], both are removed.
#[derive(Debug)]
pub struct Prepared {
    dir: PathBuf,
    fs: PathBuf,
    work: PathBuf,
    done: bool,
    // Its own folder goes when these have.
    lease: Arc<LeaseInner>,
}

impl Prepared {
    /// The upper directory, empty, mode 0755.
    pub fn fs(&self) -> &Path {
        &self.fs
    }

    /// The overlay work directory.
    pub fn work(&self) -> &Path {
        &self.work
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.done {
            // A failure leaves rubbish under the lease's name, which goes with the lease.
            let _ = tree::remove(&self.dir);
        }
        // The kernel's own leavings: four folders, each a wait for the disk where it discards.
        self.lease.sweep(std::mem::take(&mut self.work));
    }
}

/// A row as it is, before anybody looked at the disk.
pub(crate) struct SnapRow {
    pub(crate) record: SnapshotRecord,
    pub(crate) on_disk: bool,
    trusted: bool,
}

const COLUMNS: &str = "id, parent, diff_id, tar_size, on_disk, durable OR boot = ?2, size, \
                       description, created";

impl Store {
    fn snap_row(&self, r: &Row<'_>) -> rusqlite::Result<SnapRow> {
        let id = SnapshotId(size(r, 0)?);
        let tar_size = opt_size(r, 3)?;
        let layer = opt_bytes32(r, 2)?.map(|d| LayerInfo {
            diff_id: DiffId::from_bytes(d),
            tar_size,
            blob: None,
        });
        let on_disk = r.get(4)?;
        Ok(SnapRow {
            record: SnapshotRecord {
                id,
                parent: opt_size(r, 1)?.map(SnapshotId),
                dir: None,
                layer,
                size: opt_size(r, 6)?,
                description: r.get(7)?,
                created: r.get(8)?,
            },
            on_disk,
            trusted: r.get(5)?,
        })
    }

    pub(crate) fn load(&self, c: &Connection, id: SnapshotId) -> rusqlite::Result<Option<SnapRow>> {
        let mut row = self.load_bare(c, id)?;
        if let Some(SnapRow { record: SnapshotRecord { layer: Some(l), .. }, .. }) = &mut row {
            l.blob = layer_blobs(c, &l.diff_id)?.into_iter().next();
        }
        Ok(row)
    }

    /// The same without the form that the layer may be had in.
    fn load_bare(&self, c: &Connection, id: SnapshotId) -> rusqlite::Result<Option<SnapRow>> {
        c.prepare_cached(&format!("SELECT {COLUMNS} FROM snapshots WHERE id = ?1"))?
            .query_row(params![int(id.0), self.boot_id()], |r| self.snap_row(r))
            .optional()
    }

    /// Starts a snapshot.
    pub fn prepare(&self, lease: &Lease) -> Result<Prepared> {
        self.need_write()?;
        let name = self.unique();
        let dir = lease.0.work.join(&name);
        let p = Prepared {
            fs: dir.join("fs"),
            work: lease.0.overlay.join(name),
            dir,
            done: false,
            lease: lease.0.clone(),
        };
        let make = || -> io::Result<()> {
            create_below(&p.dir)?;
            fs::create_dir(&p.fs)?;
            fs::set_permissions(&p.fs, fs::Permissions::from_mode(0o755))?;
            create_below(&p.work)
        };
        make().map_err(|e| self.layout().err("create", &p.dir, e))?;
        Ok(p)
    }

    /// Makes a prepared tree a snapshot: into place, then its row. Nothing is synced.
    pub fn commit(&self, mut p: Prepared, new: NewSnapshot) -> Result<SnapshotId> {
        let id = self.write("record a snapshot", |t| {
            need_parent(t, new.parent)?;
            let id = self.insert(t, &new, true)?;
            self.place(&p, id, &new)?;
            Ok(id)
        })?;
        p.done = true;
        Ok(id)
    }

    fn insert(
        &self,
        t: &Transaction<'_>,
        new: &NewSnapshot,
        on_disk: bool,
    ) -> rusqlite::Result<SnapshotId> {
        t.prepare_cached(
            "INSERT INTO snapshots(parent, diff_id, tar_size, on_disk, boot, description)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            new.parent.map(|p| int(p.0)),
            new.layer.as_ref().map(|l| *l.diff_id.as_bytes()),
            new.layer.as_ref().and_then(|l| l.tar_size).map(int),
            on_disk,
            self.boot_id(),
            new.description,
        ])?;
        let id = SnapshotId(u64::try_from(t.last_insert_rowid()).unwrap_or(0));
        if let Some(LayerInfo { diff_id, blob: Some(b), .. }) = &new.layer {
            insert_layer_blob(t, diff_id, b)?;
        }
        Ok(id)
    }

    /// Moves a prepared folder to its name. Inside a write transaction: a folder that is there
    /// without a row is what a crash left, and no one can be making it.
    fn place(&self, p: &Prepared, id: SnapshotId, new: &NewSnapshot) -> Result<()> {
        let to = self.layout().snapshot(id);
        let file = self.snapshot_file(id, new.parent, &new.description, new.layer.as_ref());
        let record = p.dir.join("record.json");
        let data = serde_json::to_vec(&file)
            .map_err(|e| self.layout().err("write", &record, io::Error::other(e)))?;
        fs::write(&record, data).map_err(|e| self.layout().err("write", &record, e))?;
        let rename = || match fs::rename(&p.dir, &to) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                fs::rename(&to, self.layout().trash().join(self.unique()))?;
                fs::rename(&p.dir, &to)
            }
            r => r,
        };
        rename().map_err(|e| self.layout().err("rename", &to, e))
    }

    /// A snapshot known by its layer and not on disk. The same layer on the same parent gives the
    /// same id, on disk or not.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] without a layer.
    pub fn add_lazy(&self, new: NewSnapshot) -> Result<SnapshotId> {
        let Some(layer) = &new.layer else {
            return Err(StoreError::Malformed { what: "a lazy snapshot without a layer" });
        };
        let find = |c: &Connection| {
            c.prepare_cached(
                "SELECT id FROM snapshots WHERE diff_id = ?1 AND parent IS ?2
                 ORDER BY on_disk DESC, id LIMIT 1",
            )?
            .query_row(params![layer.diff_id.as_bytes(), new.parent.map(|p| int(p.0))], |r| {
                size(r, 0)
            })
            .optional()
        };
        // An image of this machine names a layer by the plain tar that its folder would give. That
        // is no blob somebody else has: to note it as one would send readers to a registry.
        let noted = |c: &Connection, id: u64, b: &BlobRef| -> rusqlite::Result<bool> {
            let forms = layer_blobs(c, &layer.diff_id)?;
            let own = forms.is_empty()
                && b.digest == BlobDigest::from(layer.diff_id)
                && c.prepare_cached("SELECT on_disk FROM snapshots WHERE id = ?1")?
                    .query_row(params![int(id)], |r| r.get(0))?;
            Ok(own || forms.contains(b))
        };
        let known = |c: &Connection| -> rusqlite::Result<Option<u64>> {
            let Some(id) = find(c)? else { return Ok(None) };
            let Some(b) = &layer.blob else { return Ok(Some(id)) };
            Ok(noted(c, id, b)?.then_some(id))
        };
        let mut session = self.session()?;
        let id = match session.read("look up a layer", known)? {
            Some(id) => SnapshotId(id),
            None => session.write("record a layer", |t| {
                need_parent(t, new.parent)?;
                match find(t)? {
                    Some(id) => {
                        if let Some(b) = &layer.blob
                            && !noted(t, id, b)?
                        {
                            insert_layer_blob(t, &layer.diff_id, b)?;
                        }
                        Ok(SnapshotId(id))
                    }
                    None => Ok(self.insert(t, &new, false)?),
                }
            })?,
        };
        self.hold_snapshot(id)?;
        Ok(id)
    }

    /// Gives a lazy snapshot its folder. When it has one by now, `p` is dropped.
    pub fn materialise(&self, id: SnapshotId, mut p: Prepared) -> Result<()> {
        let placed = self.write("record a folder", |t| {
            let Some(row) = self.load(t, id)? else {
                return Err(StoreError::NoSnapshot { id }.into());
            };
            if row.on_disk && row.trusted && self.layout().snapshot(id).join("fs").is_dir() {
                return Ok(false);
            }
            let r = row.record;
            let new = NewSnapshot { parent: r.parent, layer: r.layer, description: r.description };
            self.place(&p, id, &new)?;
            t.execute(
                "UPDATE snapshots SET on_disk = 1, boot = ?2, durable = 0, size = NULL
                 WHERE id = ?1",
                params![int(id.0), self.boot_id()],
            )?;
            Ok(true)
        })?;
        p.done = placed;
        Ok(())
    }

    /// What the store has under `id`. A folder that a power loss may have hurt is dropped here: the
    /// snapshot is lazy then, or gone.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<SnapshotRecord>> {
        self.look(id, true)
    }

    /// Without `hold` for what lies below something held: gc keeps that with it.
    fn look(&self, id: SnapshotId, hold: bool) -> Result<Option<SnapshotRecord>> {
        let session = self.session()?;
        let Some(row) = session.read("look up a snapshot", |c| self.load(c, id))? else {
            return Ok(None);
        };
        if hold {
            self.hold_snapshot(id)?;
        }
        drop(session);
        let mut record = row.record;
        if row.on_disk {
            let fs = self.layout().snapshot(id).join("fs");
            if row.trusted && fs.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                record.dir = Some(fs);
            } else {
                let lazy = record.layer.as_ref().is_some_and(|l| l.blob.is_some());
                self.drop_folder(id, lazy)?;
                if !lazy {
                    return Ok(None);
                }
                record.size = None;
            }
        }
        Ok(Some(record))
    }

    /// Takes a folder that cannot be trusted out of the store.
    fn drop_folder(&self, id: SnapshotId, lazy: bool) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        for l in self.live_leases() {
            l.forget_usable();
        }
        let dir = self.layout().snapshot(id);
        self.write("drop a folder", |t| {
            // Another process may have re-made it meanwhile.
            match self.load(t, id)? {
                Some(r) if !(r.on_disk && r.trusted && dir.join("fs").is_dir()) => {}
                _ => return Ok(()),
            }
            match fs::rename(&dir, self.layout().trash().join(self.unique())) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(self.layout().err("rename", &dir, e).into());
                }
                _ => {}
            }
            if lazy {
                t.execute(
                    "UPDATE snapshots SET on_disk = 0, size = NULL WHERE id = ?1",
                    params![int(id.0)],
                )?;
            } else {
                t.execute("DELETE FROM snapshots WHERE id = ?1", params![int(id.0)])?;
            }
            Ok(())
        })
        // What was renamed is deleted by the next lease, off this path.
    }

    /// Snapshots that have a folder, by age.
    pub fn snapshots_on_disk(&self) -> Result<Vec<SnapshotId>> {
        self.read("list snapshots", |c| {
            c.prepare("SELECT id FROM snapshots WHERE on_disk ORDER BY id")?
                .query_map([], |r| size(r, 0).map(SnapshotId))?
                .collect()
        })
    }

    /// Forgets the folder of a snapshot found damaged: lazy again when a layer blob is known, else
    /// gone.
    pub fn forget_snapshot(&self, id: SnapshotId) -> Result<()> {
        self.need_write()?;
        self.write("forget a snapshot", |t| {
            t.execute(
                "UPDATE snapshots SET boot = x'', durable = 0 WHERE id = ?1",
                params![int(id.0)],
            )?;
            Ok(())
        })?;
        self.snapshot(id).map(drop)
    }

    /// `id` and what it lies on, bottom first.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] names the first that is missing.
    pub fn chain(&self, id: SnapshotId) -> Result<Vec<SnapshotRecord>> {
        if let Some(mut out) = self.intact(id, &|_| false, Self::load)? {
            out.reverse();
            return Ok(out);
        }
        let mut out = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let r = self.look(id, out.is_empty())?.ok_or(StoreError::NoSnapshot { id })?;
            next = r.parent;
            out.push(r);
            if out.len() > MAX_CHAIN {
                return Err(StoreError::Malformed { what: "parents of a snapshot" });
            }
        }
        out.reverse();
        Ok(out)
    }

    /// `id` and what it lies on, top first, down to the first that `known` knows, without the forms
    /// that layers may be had in. `None`: something is missing or cannot be trusted, and
    /// [`Self::chain`] says what.
    pub fn intact_above(
        &self,
        id: SnapshotId,
        known: &dyn Fn(SnapshotId) -> bool,
    ) -> Result<Option<Vec<SnapshotRecord>>> {
        self.intact(id, known, Self::load_bare)
    }

    /// `id` and what it lies on, top first, down to the first that `known` knows: one read of the
    /// index for all, as a chain has a hundred links and every step and look-up asks for one.
    /// `None`: something is missing or cannot be trusted, and has to be looked at singly.
    fn intact(
        &self,
        id: SnapshotId,
        known: &dyn Fn(SnapshotId) -> bool,
        load: fn(&Self, &Connection, SnapshotId) -> rusqlite::Result<Option<SnapRow>>,
    ) -> Result<Option<Vec<SnapshotRecord>>> {
        let session = self.session()?;
        let rows = session.read("look up snapshots", |c| {
            let all = c.unchecked_transaction()?;
            let mut rows: Vec<SnapRow> = Vec::new();
            let mut next = Some(id);
            while let Some(id) = next.filter(|id| !known(*id)) {
                let Some(row) = load(self, &all, id)? else { return Ok(None) };
                next = row.record.parent;
                rows.push(row);
                if rows.len() > MAX_CHAIN {
                    return Ok(None);
                }
            }
            all.commit()?;
            Ok(Some(rows))
        })?;
        let Some(rows) = rows else { return Ok(None) };
        if !rows.is_empty() {
            self.hold_snapshot(id)?;
        }
        drop(session);
        let leases = self.live_leases();
        let seen = |id| leases.iter().any(|l| l.is_usable(id));
        let mut out = Vec::with_capacity(rows.len());
        for SnapRow { mut record, on_disk, trusted } in rows {
            if on_disk {
                let fs = self.layout().snapshot(record.id).join("fs");
                let is_there = || fs.symlink_metadata().is_ok_and(|m| m.is_dir());
                if !trusted || !(seen(record.id) || is_there()) {
                    return Ok(None);
                }
                record.dir = Some(fs);
            }
            out.push(record);
        }
        Ok(Some(out))
    }

    /// Whether `id` and everything below is here. What a lease of this handle holds and was looked
    /// at once is not looked at again.
    pub(crate) fn usable(&self, id: SnapshotId) -> Result<bool> {
        let leases = self.live_leases();
        let known = |id| leases.iter().any(|l| l.is_usable(id));
        if known(id) {
            return Ok(true);
        }
        if let Some(seen) = self.intact(id, &known, Self::load_bare)? {
            let seen: Vec<SnapshotId> = seen.into_iter().map(|r| r.id).collect();
            for l in &leases {
                l.set_usable(&seen);
            }
            return Ok(true);
        }
        let mut next = Some(id);
        let mut seen = Vec::new();
        while let Some(id) = next.filter(|id| !known(*id)) {
            let Some(r) = self.look(id, seen.is_empty())? else { return Ok(false) };
            next = r.parent;
            seen.push(id);
            if seen.len() > MAX_CHAIN {
                return Err(StoreError::Malformed { what: "parents of a snapshot" });
            }
        }
        for l in &leases {
            l.set_usable(&seen);
        }
        Ok(true)
    }

    /// Says beside the records that the folders survive a power loss, for repair. One file with
    /// many names: a new inode is the dear part of an empty file.
    pub(crate) fn mark_durable_files(&self, ids: &[SnapshotId]) -> Result<()> {
        let mut first: Option<PathBuf> = None;
        for id in ids {
            let path = self.layout().snapshot(*id).join("durable");
            let linked = first.as_ref().map(|f| fs::hard_link(f, &path));
            match linked {
                Some(Ok(())) => continue,
                Some(Err(e)) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                // No such folder, or no more names to be had.
                _ => {}
            }
            match fs::File::create(&path) {
                Ok(_) => first = Some(path),
                // A lazy snapshot has no folder.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(self.layout().err("create", &path, e)),
            }
        }
        Ok(())
    }
}

/// Makes a folder, and the one it is in when it is the first there.
fn create_below(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(dir),
        made => made,
    }
}

fn need_parent(t: &Transaction<'_>, parent: Option<SnapshotId>) -> Result<(), TxError> {
    let Some(id) = parent else { return Ok(()) };
    let there =
        t.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?.exists(params![int(id.0)])?;
    if there { Ok(()) } else { Err(StoreError::NoSnapshot { id }.into()) }
}
