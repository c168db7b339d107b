//! Whether folders of layers still are what their digests say.

use rgraph_ir::SnapshotId;

use super::{ImagesError, World};

/// What reading all layers found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadLayers {
    /// Folders that give another tar than they gave.
    pub damaged: Vec<SnapshotId>,
    /// Folders that were never packed, or are of another tool's tar: no digest is of them.
    pub unknown: u64,
}

/// Packs every layer on disk whose folder was packed before, and compares the digests.
pub fn read_layers(w: &World<'_>) -> Result<ReadLayers, ImagesError> {
    let mut out = ReadLayers::default();
    w.exporting(|e| {
        for id in w.store.snapshots_on_disk()? {
            w.check()?;
            let Ok(chain) = w.store.chain(id) else { continue };
            match e.still_itself(&chain)? {
                Some(true) => {}
                Some(false) => out.damaged.push(id),
                None => out.unknown += 1,
            }
        }
        Ok(())
    })?;
    Ok(out)
}
