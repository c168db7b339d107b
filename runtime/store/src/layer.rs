//! Layers: what a snapshot is to a registry, and in which forms its bytes are known.

use rgraph_ir::{BlobDigest, DiffId, SnapshotId};

use crate::error::{Result, StoreError};
use crate::index::{Connection, Transaction, bytes32, int, params, size};
use crate::record::overwrite_record;
use crate::store::Store;

/// One form (one compression) of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRef {
    /// The bytes as a registry has them.
    pub digest: BlobDigest,
    /// Their number.
    pub size: u64,
    /// What they are.
    pub media_type: String,
}

/// What is known of a snapshot as a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// The uncompressed tar.
    pub diff_id: DiffId,
    /// Its size in bytes.
    pub tar_size: Option<u64>,
    /// One form of it; [`Store::layer_blobs`] has all. The blob need not be in the store.
    pub blob: Option<BlobRef>,
}

impl Store {
    /// Records what a snapshot is as a layer.
    pub fn set_layer(&self, id: SnapshotId, layer: LayerInfo) -> Result<()> {
        self.set_layers(&[(id, layer)])
    }

    /// As [`Store::set_layer`], for many in one transaction.
    pub fn set_layers(&self, layers: &[(SnapshotId, LayerInfo)]) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        let rows = self.write("record a layer", |t| {
            let mut rows = Vec::with_capacity(layers.len());
            for (id, layer) in layers {
                let n = t
                    .prepare_cached(
                        "UPDATE snapshots SET diff_id = ?2, tar_size = ifnull(?3, tar_size)
                         WHERE id = ?1",
                    )?
                    .execute(params![
                        int(id.0),
                        layer.diff_id.as_bytes(),
                        layer.tar_size.map(int)
                    ])?;
                if n == 0 {
                    return Err(StoreError::NoSnapshot { id: *id }.into());
                }
                if let Some(b) = &layer.blob {
                    insert_layer_blob(t, &layer.diff_id, b)?;
                }
                rows.extend(self.load(t, *id)?);
            }
            Ok(rows)
        })?;
        for r in rows.iter().filter(|r| r.on_disk).map(|r| &r.record) {
            let file = self.snapshot_file(r.id, r.parent, &r.description, r.layer.as_ref());
            let path = self.layout().snapshot(r.id).join("record.json");
            let written = overwrite_record(&path, &file);
            if !written.map_err(|e| self.layout().err("write", &path, e))? {
                self.write_record(&path, &file, false)?;
            }
        }
        Ok(())
    }

    /// All known forms of a layer.
    pub fn layer_blobs(&self, diff_id: &DiffId) -> Result<Vec<BlobRef>> {
        self.read("look up a layer", |c| layer_blobs(c, diff_id))
    }

    /// Adds a form of a layer.
    pub fn add_layer_blob(&self, diff_id: &DiffId, blob: &BlobRef) -> Result<()> {
        if self.layer_blobs(diff_id)?.contains(blob) {
            return Ok(());
        }
        self.write("record a layer", |t| Ok(insert_layer_blob(t, diff_id, blob)?))
    }

    /// Takes a form of a layer away: its bytes turned out to be of another one.
    pub fn drop_layer_blob(&self, diff_id: &DiffId, blob: &BlobDigest) -> Result<()> {
        self.write("drop a layer's form", |t| {
            t.prepare_cached("DELETE FROM layer_blobs WHERE diff_id = ?1 AND digest = ?2")?
                .execute(params![diff_id.as_bytes(), blob.as_bytes()])?;
            Ok(())
        })
    }
}

pub(crate) fn insert_layer_blob(
    t: &Transaction<'_>,
    d: &DiffId,
    b: &BlobRef,
) -> rusqlite::Result<()> {
    t.prepare_cached("INSERT OR IGNORE INTO layer_blobs VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![d.as_bytes(), b.digest.as_bytes(), int(b.size), b.media_type])
        .map(drop)
}

/// Those that are in the store first.
pub(crate) fn layer_blobs(c: &Connection, d: &DiffId) -> rusqlite::Result<Vec<BlobRef>> {
    c.prepare_cached(
        "SELECT l.digest, l.size, l.media_type FROM layer_blobs l
         LEFT JOIN blobs b ON b.digest = l.digest WHERE l.diff_id = ?1
         ORDER BY b.digest IS NULL, l.digest",
    )?
    .query_map(params![d.as_bytes()], |r| {
        Ok(BlobRef {
            digest: BlobDigest::from_bytes(bytes32(r, 0)?),
            size: size(r, 1)?,
            media_type: r.get(2)?,
        })
    })?
    .collect()
}
