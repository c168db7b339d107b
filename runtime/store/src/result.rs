//! Cache records. Keys, recipes and slots are opaque: the solver and the runtime give them their
//! meaning.

use std::sync::PoisonError;
use std::time::Duration;

use rgraph_ir::{CacheKey, SnapshotId, TreeDigest};

use crate::error::{Result, StoreError};
use crate::index::{OptionalExtension as _, Row, bytes32, int, opt_bytes32, opt_size, params};
use crate::record::{RECORD_FORMAT, ResultFile, overwrite_record, to_hex};
use crate::store::Store;

/// A result remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRow {
    /// Its key.
    pub key: CacheKey,
    /// The key under which an equal tree was first seen.
    pub canonical: CacheKey,
    /// Digest of the op alone.
    pub op: [u8; 32],
    /// The outputs, the main one first.
    pub outputs: Vec<SnapshotId>,
    /// The key's parts, in the caller's encoding.
    pub recipe: Vec<u8>,
    /// The place in the Dockerfile.
    pub slot: String,
    /// Digest of the main output, when it was computed.
    pub tree: Option<TreeDigest>,
    /// When it was made, seconds since 1970; 0: nobody knows.
    pub created: i64,
    /// How long the step ran; `None`: it did not run here.
    pub took: Option<Duration>,
}

const COLUMNS: &str = "key, canonical, op, tree, outputs, recipe, slot, took_ms,
  used NOT BETWEEN unixepoch() - 3600 AND unixepoch()
  OR (SELECT ifnull(max(value), 0) FROM meta WHERE name = 'tick') - tick >= 16, created";

/// A row, and whether its time of use is so old that a use is worth writing down.
fn row(r: &Row<'_>) -> rusqlite::Result<(ResultRow, bool)> {
    let outputs: Vec<u8> = r.get(4)?;
    let outputs = outputs
        .chunks_exact(8)
        .map(|c| SnapshotId(c.iter().fold(0, |n, b| n << 8 | u64::from(*b))))
        .collect();
    let row = ResultRow {
        key: CacheKey::from_bytes(bytes32(r, 0)?),
        canonical: CacheKey::from_bytes(bytes32(r, 1)?),
        op: bytes32(r, 2)?,
        tree: opt_bytes32(r, 3)?.map(TreeDigest::from_bytes),
        outputs,
        recipe: r.get(5)?,
        slot: r.get(6)?,
        created: r.get(9)?,
        took: opt_size(r, 7)?.map(Duration::from_millis),
    };
    Ok((row, r.get(8)?))
}

/// Outputs as one column: 8 bytes each, big end first.
pub(crate) fn pack(outputs: &[SnapshotId]) -> Vec<u8> {
    outputs.iter().flat_map(|s| s.0.to_be_bytes()).collect()
}

fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Remembers a result in place of an earlier one of its key.
    ///
    /// # Errors
    /// [`StoreError::NoSnapshot`] when an output is not in the store.
    pub fn put_result(&self, r: &ResultRow) -> Result<()> {
        self.write("record a result", |t| {
            for id in &r.outputs {
                let mut s = t.prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")?;
                if !s.exists(params![int(id.0)])? {
                    return Err(StoreError::NoSnapshot { id: *id }.into());
                }
            }
            t.prepare_cached(
                "INSERT INTO results(key, canonical, op, tree, outputs, recipe, slot, took_ms, tick,
                   created)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT(key) DO UPDATE SET canonical=?2, op=?3, tree=?4, outputs=?5,
                   recipe=?6, slot=?7, took_ms=ifnull(?8, took_ms), tick=?9, created=?10,
                   used=unixepoch()",
            )?
            .execute(params![
                r.key.as_bytes(),
                r.canonical.as_bytes(),
                r.op,
                r.tree.map(|t| *t.as_bytes()),
                pack(&r.outputs),
                r.recipe,
                r.slot,
                r.took.map(millis),
                self.tick(t)?,
                r.created,
            ])?;
            t.prepare_cached("INSERT OR REPLACE INTO slots VALUES(?1, ?2)")?
                .execute(params![r.slot, r.key.as_bytes()])?;
            // Before others can write: of several that record one key, row and file are of the same.
            Ok(self.write_result_file(r)?)
        })
    }

    /// Repair's copy, beside the first output that has a folder.
    fn write_result_file(&self, r: &ResultRow) -> Result<()> {
        let dirs = r.outputs.iter().map(|id| self.layout().snapshot(*id));
        let Some(dir) = dirs.into_iter().find(|d| d.is_dir()) else { return Ok(()) };
        let file = self.result_file(r);
        let path = dir.join("result.json");
        let written = overwrite_record(&path, &file);
        match written.map_err(|e| self.layout().err("write", &path, e))? {
            true => Ok(()),
            false => self.write_record(&path, &file, false),
        }
    }

    /// What that file says.
    pub(crate) fn result_file(&self, r: &ResultRow) -> ResultFile {
        ResultFile {
            format: RECORD_FORMAT,
            key: r.key,
            canonical: r.canonical,
            op: TreeDigest::from_bytes(r.op),
            tree: r.tree,
            outputs: r.outputs.iter().map(|s| s.0).collect(),
            slot: r.slot.clone(),
            recipe: to_hex(&r.recipe),
            created: r.created,
            took_ms: r.took.map(millis).and_then(|n| u64::try_from(n).ok()),
        }
    }

    /// The result of a key. A result whose snapshots are not all here is a miss.
    pub fn result(&self, key: &CacheKey) -> Result<Option<ResultRow>> {
        let found = self.read("look up a result", |c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM results WHERE key = ?1"))?
                .query_row(params![key.as_bytes()], row)
                .optional()
        })?;
        let Some((r, stale)) = found else { return Ok(None) };
        for id in &r.outputs {
            if !self.usable(*id)? {
                return Ok(None);
            }
        }
        // Its time of use is for gc alone; a build that changes nothing writes nothing.
        if stale {
            for l in self.live_leases() {
                l.touched.lock().unwrap_or_else(PoisonError::into_inner).push(*key.as_bytes());
            }
        }
        Ok(Some(r))
    }

    /// The last result recorded under a key, its snapshots there or not.
    pub fn known_result(&self, key: &CacheKey) -> Result<Option<ResultRow>> {
        self.read("look up a result", |c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM results WHERE key = ?1"))?
                .query_row(params![key.as_bytes()], row)
                .optional()
        })
        .map(|o| o.map(|(r, _)| r))
    }

    /// Drops the content digests of a key that has come to mean another tree.
    pub fn forget_contents(&self, key: &CacheKey) -> Result<()> {
        self.write("forget content digests", |t| {
            t.prepare_cached("DELETE FROM contents WHERE key = ?1")?
                .execute(params![key.as_bytes()])?;
            Ok(())
        })
    }

    /// Writes down which old results were used. Called once, at the end of a build; writes only
    /// when there is one whose time of use is more than an hour or 16 builds old.
    pub fn flush_uses(&self, lease: &crate::Lease) -> Result<()> {
        let keys =
            std::mem::take(&mut *lease.0.touched.lock().unwrap_or_else(PoisonError::into_inner));
        if keys.is_empty() {
            return Ok(());
        }
        self.write("record uses", |t| {
            let tick = self.tick(t)?;
            let mut s = t.prepare_cached(
                "UPDATE results SET used = unixepoch(), tick = ?2 WHERE key = ?1",
            )?;
            for k in &keys {
                s.execute(params![k, tick])?;
            }
            Ok(())
        })
    }

    /// The key under which the result of `key` was first seen. Reads one row, looks at no snapshot.
    pub fn canonical(&self, key: &CacheKey) -> Result<Option<CacheKey>> {
        self.read("look up a result", |c| {
            c.prepare_cached("SELECT canonical FROM results WHERE key = ?1")?
                .query_row(params![key.as_bytes()], |r| bytes32(r, 0))
                .optional()
        })
        .map(|o| o.map(CacheKey::from_bytes))
    }

    /// When the result of a key was made, its snapshots there or not.
    pub fn created(&self, key: &CacheKey) -> Result<Option<i64>> {
        self.read("look up a result", |c| {
            c.prepare_cached("SELECT created FROM results WHERE key = ?1")?
                .query_row(params![key.as_bytes()], |r| r.get(0))
                .optional()
        })
    }

    /// The last result recorded at a place, its snapshots there or not: it explains a miss.
    pub fn last_in_slot(&self, slot: &str) -> Result<Option<ResultRow>> {
        self.read("look up a slot", |c| {
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM results
                 WHERE key = (SELECT s.key FROM slots s WHERE s.slot = ?1)"
            ))?
            .query_row(params![slot], row)
            .optional()
        })
        .map(|o| o.map(|(r, _)| r))
    }

    /// The places whose names begin with `prefix`, by name, at most `max`.
    pub fn slots_below(&self, prefix: &str, max: u32) -> Result<Vec<String>> {
        // The first text after all that begin so: no text has the last code point in it.
        let end = format!("{prefix}\u{10ffff}");
        self.read("look up slots", |c| {
            c.prepare_cached(
                "SELECT slot FROM slots WHERE slot >= ?1 AND slot < ?2 ORDER BY slot LIMIT ?3",
            )?
            .query_map(params![prefix, end, max], |r| r.get(0))?
            .collect()
        })
    }

    /// Adds the digest of a result's main output when it is computed later; does nothing when the key
    /// means another result by now. Repair's copy stays as it is: it would be computed again.
    pub fn set_result_tree(&self, r: &ResultRow, tree: &TreeDigest) -> Result<()> {
        self.write("record a tree", |t| {
            t.prepare_cached("UPDATE results SET tree = ?3 WHERE key = ?1 AND outputs = ?2")?
                .execute(params![r.key.as_bytes(), pack(&r.outputs), tree.as_bytes()])?;
            Ok(())
        })
    }

    /// The digest of the selected part of the result of `key`, when it was ever computed.
    pub fn content(&self, key: &CacheKey, selector: &[u8; 32]) -> Result<Option<TreeDigest>> {
        self.read("look up a content digest", |c| {
            c.prepare_cached("SELECT tree FROM contents WHERE key = ?1 AND selector = ?2")?
                .query_row(params![key.as_bytes(), selector], |r| bytes32(r, 0))
                .optional()
        })
        .map(|o| o.map(TreeDigest::from_bytes))
    }

    /// All content digests of a result, with the names of their selectors, by name.
    pub fn contents_of(&self, key: &CacheKey) -> Result<Vec<([u8; 32], TreeDigest)>> {
        self.read("look up content", |c| {
            c.prepare_cached(
                "SELECT selector, tree FROM contents WHERE key = ?1 ORDER BY selector",
            )?
            .query_map(params![key.as_bytes()], |r| {
                Ok((bytes32(r, 0)?, TreeDigest::from_bytes(bytes32(r, 1)?)))
            })?
            .collect()
        })
    }

    /// Remembers such a digest.
    pub fn put_content(
        &self,
        key: &CacheKey,
        selector: &[u8; 32],
        tree: &TreeDigest,
    ) -> Result<()> {
        self.write("record a content digest", |t| {
            t.prepare_cached("INSERT OR REPLACE INTO contents VALUES(?1, ?2, ?3)")?
                .execute(params![key.as_bytes(), selector, tree.as_bytes()])?;
            Ok(())
        })
    }
}
