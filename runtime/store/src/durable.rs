//! The commit point: the only syncs of the store (`robustness.md`, rule 3).

use std::fs::File;

use rgraph_ir::{BlobDigest, SnapshotId};

use crate::error::{Result, StoreError};
use crate::index::{OptionalExtension as _, checkpoint, int, params, sql};
use crate::store::{Session, Store};

/// From this length of the log on, closing the store moves it into the file, bytes: builds without a tag
/// or output add up.
const LONG_LOG: u64 = 1 << 20;
/// So does a commit point, which has synced the log already. Every process that finds the store unused
/// reads all of the log before it reads anything else.
const LONG_LOG_SYNCED: u64 = 128 << 10;

impl Store {
    /// Makes bytes survive a power loss: one `fdatasync` per blob that is not durable yet and one
    /// `fsync` of their folder, or one `syncfs` for everything when snapshot folders are among them
    /// (give every snapshot of the chain). Then their rows say so. Those rows reach the disk with
    /// the next [`Store::tag`]; lost, they cost a check. Costs nothing when all is durable.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::NoSnapshot`]: it is not in the store. A failed sync is
    /// final: the object is not durable and its row does not say so.
    pub fn make_durable(&self, blobs: &[BlobDigest], snapshots: &[SnapshotId]) -> Result<()> {
        self.need_write()?;
        let (new_blobs, new_snapshots) = self.not_durable(blobs, snapshots)?;
        if new_blobs.is_empty() && new_snapshots.is_empty() {
            return Ok(());
        }
        let root = self.root();
        if new_snapshots.is_empty() {
            for d in &new_blobs {
                let Some((file, _)) = self.open_blob(d)? else {
                    return Err(StoreError::NoBlob { digest: *d });
                };
                let path = self.layout().blob(d);
                file.sync_data().map_err(|e| self.layout().err("sync", &path, e))?;
            }
            let dir = self.layout().blobs();
            File::open(&dir)
                .and_then(|f| f.sync_all())
                .map_err(|e| self.layout().err("sync", &dir, e))?;
        } else {
            // Looked at first: what another boot left half is not to be called durable.
            for d in &new_blobs {
                if !self.has_blob(d)? {
                    return Err(StoreError::NoBlob { digest: *d });
                }
            }
            for id in &new_snapshots {
                if self.snapshot(*id)?.is_none() {
                    return Err(StoreError::NoSnapshot { id: *id });
                }
            }
            let f = File::open(root).map_err(|e| self.layout().err("open", root, e))?;
            rustix::fs::syncfs(&f).map_err(|e| self.layout().err("sync", root, e.into()))?;
        }
        self.write("mark as durable", |t| {
            let mut b = t.prepare_cached("UPDATE blobs SET durable = 1 WHERE digest = ?1")?;
            for d in &new_blobs {
                b.execute(params![d.as_bytes()])?;
            }
            // Lazy ones are not on disk: nothing of them can be lost.
            let mut s = t.prepare_cached(
                "UPDATE snapshots SET durable = 1 WHERE id = ?1 AND on_disk AND boot = ?2",
            )?;
            for id in &new_snapshots {
                s.execute(params![int(id.0), self.boot_id()])?;
            }
            Ok(())
        })?;
        self.mark_durable_files(&new_snapshots)
    }

    fn not_durable(
        &self,
        blobs: &[BlobDigest],
        snapshots: &[SnapshotId],
    ) -> Result<(Vec<BlobDigest>, Vec<SnapshotId>)> {
        let session = self.session()?;
        // One read of the index for all: a chain has a hundred links.
        let found = session.read("look up what is durable", |c| {
            let all = c.unchecked_transaction()?;
            let mut of = all.prepare_cached("SELECT durable FROM blobs WHERE digest = ?1")?;
            let blobs: Vec<Option<bool>> = blobs
                .iter()
                .map(|d| of.query_row(params![d.as_bytes()], |r| r.get(0)).optional())
                .collect::<rusqlite::Result<_>>()?;
            let sql = "SELECT durable OR NOT on_disk FROM snapshots WHERE id = ?1";
            let mut of = all.prepare_cached(sql)?;
            let snapshots: Vec<Option<bool>> = snapshots
                .iter()
                .map(|id| of.query_row(params![int(id.0)], |r| r.get(0)).optional())
                .collect::<rusqlite::Result<_>>()?;
            Ok((blobs, snapshots))
        })?;
        let mut out = (Vec::new(), Vec::new());
        for (d, durable) in blobs.iter().zip(found.0) {
            match durable {
                None => return Err(StoreError::NoBlob { digest: *d }),
                Some(true) => {}
                Some(false) => out.0.push(*d),
            }
        }
        for (id, durable) in snapshots.iter().zip(found.1) {
            match durable {
                None => return Err(StoreError::NoSnapshot { id: *id }),
                Some(true) => {}
                Some(false) => out.1.push(*id),
            }
        }
        Ok(out)
    }

    /// Keeps the log from growing without end, where a sync was paid anyway.
    pub(crate) fn checkpoint_if_long(&self, session: &mut Session<'_>) -> Result<()> {
        if self.log_length() > LONG_LOG_SYNCED {
            checkpoint(session.conn()).map_err(sql(self.layout(), "move the log"))?;
        }
        Ok(())
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(self.root().join("index.db-wal")).map_or(0, |m| m.len())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.is_read_only()
            && self.log_length() > LONG_LOG
            && let Ok(session) = self.session()
        {
            // Nobody is left to tell; the next one tries again.
            let _ = session.read("move the log", checkpoint);
        }
    }
}
