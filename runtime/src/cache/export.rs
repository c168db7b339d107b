//! Writes what a build found out to a cache folder: the small records of every vertex, and blobs of
//! the results (`mode=min`) or of every step (`mode=max`).

use std::collections::BTreeSet;
use std::path::Path;

use rgraph_ir::request::{Compression, LayerOptions};
use rgraph_ir::{BuildPlan, VertexId};
use rgraph_solver::Solution;

use super::dir::{BlobFile, CacheDirError, CacheDirWriter, LayerFile};
use crate::export::{ExportError, Exporter};

impl From<CacheDirError> for ExportError {
    fn from(e: CacheDirError) -> Self {
        Self::Cache(e)
    }
}

/// See the module.
pub fn export_cache(
    exporter: &Exporter<'_>,
    dir: &Path,
    max: bool,
    plan: &BuildPlan,
    solution: &Solution,
) -> Result<(), ExportError> {
    let nonce = format!("{:x}-{:x}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
    let mut out = CacheDirWriter::open(dir, &nonce)?;
    let roots: BTreeSet<VertexId> =
        plan.targets.iter().filter_map(|t| t.root).map(|e| e.vertex).collect();
    // zstd: three times gzip's speed, and only rgraph reads these blobs.
    let opts = LayerOptions { compression: Compression::Zstd, ..LayerOptions::default() };
    for (vertex, key) in &solution.keys {
        exporter.check()?;
        let Some(row) = exporter.store.result(key)? else { continue };
        let Some(top) = row.outputs.first() else { continue };
        let with_blobs = max || roots.contains(vertex);
        let mut layers = Vec::new();
        for layer in exporter.named_layers(Some(*top))? {
            let mut blob = None;
            if with_blobs {
                let b = exporter.packed(&layer, &opts)?;
                if !out.has_blob(&b.digest, b.size) {
                    let mut file = exporter
                        .store
                        .open_blob_verified(&b.digest)?
                        .ok_or(rgraph_store::StoreError::NoBlob { digest: b.digest })?;
                    out.put_blob(&b.digest, b.size, &mut file)?;
                }
                blob = Some(BlobFile::from(&b));
            }
            layers.push(LayerFile { diff_id: layer.diff_id, blob });
        }
        let name = &plan.graph.vertex(*vertex).meta.name;
        out.put_record(*key, row.canonical, layers, name, row.created)?;
        // After the record: a new one drops what was said of an older tree. Users ask under the
        // canonical key.
        for k in BTreeSet::from([*key, row.canonical]) {
            for (selector, digest) in exporter.store.contents_of(&k)? {
                out.put_content(k, selector, digest)?;
            }
        }
    }
    out.finish()?;
    exporter.say(&format!(
        "exported the cache to {}: {} bytes are new",
        dir.display(),
        out.written
    ));
    Ok(())
}
