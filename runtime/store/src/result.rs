//! Cache records. Keys, recipes and slots are opaque: the solver and the runtime give them their
//! meaning.

use std::sync::PoisonError;

use rgraph_ir::{CacheKey, SnapshotId, TreeDigest};

use crate::error::{Result, StoreError};
use crate::index::{OptionalExtension as _, Row, bytes32, opt_bytes32, params};
use crate::record::{RECORD_FORMAT, ResultFile, overwrite_record, to_hex};
use crate::store::Store;

/// A result remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRow {
    /// Its key.
    pub key: CacheKey,
    /// The key under which an equal tree was first seen.
    pub canonical: CacheKey,
    /// Digest of the op alone, to find equal trees of one op.
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
}

const COLUMNS: &str =
    "key, canonical, op, tree, outputs, recipe, slot, unixepoch() - used, created";

fn row(r: &Row<'_>) -> rusqlite::Result<(ResultRow, i64)> {
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
        created: r.get(8)?,
    };
    Ok((row, r.get(7)?))
}

/// Outputs as one column: 8 bytes each, big end first.
pub(crate) fn pack(outputs: &[SnapshotId]) -> Vec<u8> {
    outputs.iter().flat_map(|s| s.0.to_be_bytes()).collect()
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
                if !s.exists(params![crate::index::int(id.0)])? {
                    return Err(StoreError::NoSnapshot { id: *id }.into());
                }
            }
            t.prepare_cached(
                "INSERT INTO results(key, canonical, op, tree, outputs, recipe, slot, created)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT(key) DO UPDATE SET canonical=?2, op=?3, tree=?4, outputs=?5,
                   recipe=?6, slot=?7, created=?8, used=unixepoch()",
            )?
            .execute(params![
                r.key.as_bytes(),
                r.canonical.as_bytes(),
                r.op,
                r.tree.map(|t| *t.as_bytes()),
                pack(&r.outputs),
                r.recipe,
                r.slot,
                r.created,
            ])?;
            t.prepare_cached("INSERT OR REPLACE INTO slots VALUES(?1, ?2)")?
                .execute(params![r.slot, r.key.as_bytes()])?;
            Ok(())
        })?;
        self.write_result_file(r)
    }

    /// Repair's copy, beside the first output that has a folder.
    fn write_result_file(&self, r: &ResultRow) -> Result<()> {
        let dirs = r.outputs.iter().map(|id| self.layout().snapshot(*id));
        let Some(dir) = dirs.into_iter().find(|d| d.is_dir()) else { return Ok(()) };
        let file = ResultFile {
            format: RECORD_FORMAT,
            key: r.key,
            canonical: r.canonical,
            op: TreeDigest::from_bytes(r.op),
            tree: r.tree,
            outputs: r.outputs.iter().map(|s| s.0).collect(),
            slot: r.slot.clone(),
            recipe: to_hex(&r.recipe),
            created: r.created,
        };
        let path = dir.join("result.json");
        let written = overwrite_record(&path, &file);
        match written.map_err(|e| self.layout().err("write", &path, e))? {
            true => Ok(()),
            false => self.write_record(&path, &file, false),
        }
    }

    /// The result of a key. A result whose snapshots are not all here is a miss.
    pub fn result(&self, key: &CacheKey) -> Result<Option<ResultRow>> {
        let found = self.read("look up a result", |c| {
            c.prepare_cached(&format!("SELECT {COLUMNS} FROM results WHERE key = ?1"))?
                .query_row(params![key.as_bytes()], row)
                .optional()
        })?;
        let Some((r, age)) = found else { return Ok(None) };
        for id in &r.outputs {
            if !self.usable(*id)? {
                return Ok(None);
            }
        }
        // Its time of use is for gc alone; a build that changes nothing writes nothing.
        if age > 3600 {
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
    /// when there is one whose time of use is more than an hour old.
    pub fn flush_uses(&self, lease: &crate::Lease) -> Result<()> {
        let keys =
            std::mem::take(&mut *lease.0.touched.lock().unwrap_or_else(PoisonError::into_inner));
        if keys.is_empty() {
            return Ok(());
        }
        self.write("record uses", |t| {
            let mut s = t.prepare_cached("UPDATE results SET used = unixepoch() WHERE key = ?1")?;
            for k in &keys {
                s.execute(params![k])?;
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

    /// The canonical key of the oldest result of this op with this tree.
    pub fn find_by_op_and_tree(
        &self,
        op: &[u8; 32],
        tree: &TreeDigest,
    ) -> Result<Option<CacheKey>> {
        self.read("look up a tree", |c| {
            c.prepare_cached(
                "SELECT canonical FROM results WHERE op = ?1 AND tree = ?2 ORDER BY seq LIMIT 1",
            )?
            .query_row(params![op, tree.as_bytes()], |r| bytes32(r, 0))
            .optional()
        })
        .map(|o| o.map(CacheKey::from_bytes))
    }

    /// Whether any result of this op is known: only then a tree is worth hashing.
    pub fn has_op(&self, op: &[u8; 32]) -> Result<bool> {
        self.read("look up an op", |c| {
            c.prepare_cached("SELECT 1 FROM results WHERE op = ?1")?.exists(params![op])
        })
    }

    /// The outputs of all results of this op, newest first, at most `max`: their trees can be
    /// hashed late, when a second one comes.
    pub fn results_of_op(&self, op: &[u8; 32], max: u32) -> Result<Vec<ResultRow>> {
        self.read("look up an op", |c| {
            c.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM results WHERE op = ?1 ORDER BY seq DESC LIMIT ?2"
            ))?
            .query_map(params![op, max], |r| Ok(row(r)?.0))?
            .collect()
        })
    }

    /// Adds the digest of a result's main output when it is computed later.
    pub fn set_result_tree(&self, key: &CacheKey, tree: &TreeDigest) -> Result<()> {
        self.write("record a tree", |t| {
            t.execute(
                "UPDATE results SET tree = ?2 WHERE key = ?1",
                params![key.as_bytes(), tree.as_bytes()],
            )?;
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
