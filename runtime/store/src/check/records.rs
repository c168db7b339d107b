//! Records beside the objects: each says what the index says, or one of the two is wrong.

use std::collections::HashSet;

use rgraph_ir::{BlobDigest, CacheKey, ManifestDigest, SnapshotId};

use super::{CheckReport, Inventory, Kind};
use crate::error::Result;
use crate::image::ImageRow;
use crate::index::{OptionalExtension as _, int, opt_size, params};
use crate::mounts::{delete_mounts, dir_name, is_unnamed, spoken};
use crate::record::{
    BlobFile, CacheMountFile, ImageFile, RECORD_FORMAT, RefFile, ResultFile, SnapshotFile,
    read_whole_record, to_hex,
};
use crate::store::Store;

impl Store {
    pub(super) fn record_agrees(&self, id: SnapshotId, parent: Option<u64>) -> bool {
        let path = self.layout().snapshot(id).join("record.json");
        let Some(f) = read_whole_record::<SnapshotFile>(&path) else { return false };
        let Ok(Some(row)) = self.read("look up a snapshot", |c| self.load(c, id)) else {
            return true;
        };
        let layer = row.record.layer.as_ref().map(|l| l.diff_id);
        let tar_size = row.record.layer.as_ref().and_then(|l| l.tar_size);
        f.id == id.0
            && f.parent == parent
            && f.description == row.record.description
            && self.boot_of(id).is_ok_and(|b| f.boot == b)
            && f.layer.as_ref().is_none_or(|l| {
                let known = self.layer_blobs(&l.diff_id).unwrap_or_default();
                let known = |b: &BlobFile| {
                    known.iter().any(|k| {
                        (k.digest, k.size, &k.media_type) == (b.digest, b.size, &b.media_type)
                    })
                };
                Some(l.diff_id) == layer
                    && l.tar_size.is_none_or(|n| Some(n) == tar_size)
                    && l.blobs.iter().all(known)
            })
    }

    /// The boot a snapshot was made in.
    fn boot_of(&self, id: SnapshotId) -> Result<String> {
        self.read("look up a snapshot", |c| {
            c.prepare_cached("SELECT boot FROM snapshots WHERE id = ?1")?
                .query_row(params![int(id.0)], |r| Ok(to_hex(&r.get::<_, Vec<u8>>(0)?)))
        })
    }

    /// The index knows all that the file says.
    pub(super) fn rewrite_record(&self, id: SnapshotId) -> Result<bool> {
        let Some(row) = self.read("look up a snapshot", |c| self.load(c, id))? else {
            return Ok(false);
        };
        let r = row.record;
        let mut file = self.snapshot_file(id, r.parent, &r.description, r.layer.as_ref());
        file.boot = self.boot_of(id)?;
        self.write_record(&self.layout().snapshot(id).join("record.json"), &file, false)?;
        Ok(true)
    }

    /// The files of results say what the index says.
    pub(super) fn check_results(
        &self,
        i: &Inventory,
        repair: bool,
        report: &mut CheckReport,
    ) -> Result<()> {
        for (id, ..) in i.snaps.iter().filter(|s| s.2) {
            let path = self.layout().snapshot(*id).join("result.json");
            if !path.exists() {
                continue;
            }
            let file = read_whole_record::<ResultFile>(&path);
            let row = match &file {
                Some(f) => self.known_result(&f.key)?,
                None => None,
            };
            let agrees = match (&file, &row) {
                (Some(f), Some(r)) => {
                    let same = self.result_file(r);
                    // A key may have come to mean another snapshot since.
                    r.outputs.first() != Some(id)
                        || (f.canonical == same.canonical
                            && f.op == same.op
                            && f.outputs == same.outputs
                            && f.recipe == same.recipe
                            && f.slot == same.slot)
                }
                // Removed by gc, the snapshot kept for others.
                (Some(f), None) => {
                    !i.world.results.iter().any(|r| r.outputs.contains(&id.0))
                        || f.outputs.contains(&id.0)
                }
                (None, _) => false,
            };
            if agrees {
                continue;
            }
            if repair {
                // The index is whole; where the two differ, neither is believed.
                let keys: Vec<CacheKey> = i
                    .world
                    .results
                    .iter()
                    .filter(|r| r.outputs.contains(&id.0))
                    .map(|r| CacheKey::from_bytes(r.key))
                    .collect();
                self.write("drop results", |t| {
                    for k in &keys {
                        t.execute("DELETE FROM results WHERE key = ?1", params![k.as_bytes()])?;
                    }
                    Ok(())
                })?;
                std::fs::remove_file(&path).map_err(|e| self.layout().err("remove", &path, e))?;
            }
            report.add(format!("result of snapshot {id}"), Kind::Damaged, repair);
        }
        Ok(())
    }

    /// Tags and images, and the files that keep them for repair.
    /// `lost`: snapshots that cannot be had again.
    pub(super) fn check_names(
        &self,
        lost: &HashSet<u64>,
        repair: bool,
        report: &mut CheckReport,
    ) -> Result<()> {
        for t in self.tags()? {
            if !self.has_row("blobs", "digest", t.manifest.as_bytes().as_slice())? {
                if repair {
                    self.untag(&t.name)?;
                }
                report.add(
                    format!("tag {}: manifest {}", t.name, t.manifest),
                    Kind::Missing,
                    repair,
                );
                continue;
            }
            let path = self.layout().ref_file(&t.name);
            let file = read_whole_record::<RefFile>(&path).filter(|f| f.name == t.name);
            let good = file.as_ref().is_some_and(|f| f.manifest == t.manifest);
            if !good {
                // The file comes before the row. A process that was killed in between leaves one
                // that names an image of this store: no damage.
                let ahead = match file {
                    Some(f) => self.has_row("blobs", "digest", f.manifest.as_bytes().as_slice())?,
                    None => false,
                };
                let kind = if ahead { Kind::Unreferenced } else { Kind::Damaged };
                if repair {
                    let (name, manifest) = (t.name.clone(), t.manifest);
                    let file = RefFile { format: RECORD_FORMAT, name, manifest };
                    self.write_record(&path, &file, true)?;
                }
                report.add(format!("record of tag {}", t.name), kind, repair);
            }
        }
        for row in self.images()? {
            let m: ManifestDigest = row.manifest;
            let parts = [BlobDigest::from(m), row.config.into()];
            let mut whole = true;
            for d in parts {
                whole &= self.has_row("blobs", "digest", d.as_bytes().as_slice())?;
            }
            if !whole {
                let image = self.drop_image(&m, repair)?;
                report.add(format!("manifest or config of {image}"), Kind::Missing, repair);
                continue;
            }
            if self.lacks_layers(&row, lost)? {
                let image = self.drop_image(&m, repair)?;
                report.add(format!("a layer of {image}"), Kind::Missing, repair);
                continue;
            }
            let path = self.layout().image_file(&m);
            let want = self.image_file_of(&row);
            let good = read_whole_record::<ImageFile>(&path).is_some_and(|f| f.same(&want));
            if !good {
                if repair {
                    self.write_record(&path, &want, false)?;
                }
                report.add(format!("record of image {m}"), Kind::Damaged, repair);
            }
        }
        Ok(())
    }

    /// A folder of an image is gone, and its layers are not all known as blobs.
    fn lacks_layers(&self, row: &ImageRow, lost: &HashSet<u64>) -> Result<bool> {
        let mut next = row.snapshot;
        let broken = loop {
            let Some(id) = next else { break false };
            let parent = self.read("look up a snapshot", |c| {
                c.prepare_cached("SELECT parent FROM snapshots WHERE id = ?1")?
                    .query_row(params![int(id.0)], |r| opt_size(r, 0))
                    .optional()
            })?;
            match parent {
                Some(parent) if !lost.contains(&id.0) => next = parent.map(SnapshotId),
                _ => break true,
            }
        };
        if !broken || row.layers.is_empty() {
            return Ok(broken);
        }
        for d in &row.layers {
            if self.layer_blobs(d)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names an image by its tags. With `repair` it goes, and with it the tags that name no other.
    fn drop_image(&self, m: &ManifestDigest, repair: bool) -> Result<String> {
        let others: Vec<BlobDigest> = self
            .images()?
            .iter()
            .map(|i| BlobDigest::from(i.manifest))
            .filter(|i| *i != BlobDigest::from(*m))
            .collect();
        let mut names = Vec::new();
        for t in self.tags()? {
            let mut means = self.linked_blobs(&t.manifest.into())?;
            means.push(t.manifest.into());
            if !means.contains(&(*m).into()) {
                continue;
            }
            if repair && !means.iter().any(|b| others.contains(b)) {
                self.untag(&t.name)?;
            }
            names.push(t.name);
        }
        if repair {
            self.forget_image(m)?;
        }
        Ok(match names.as_slice() {
            [] => format!("image {m}"),
            names => format!("image {} ({m})", names.join(", ")),
        })
    }

    pub(super) fn check_mounts(
        &self,
        i: &Inventory,
        repair: bool,
        report: &mut CheckReport,
    ) -> Result<()> {
        for m in &i.world.mounts {
            let dir = self.layout().cache_mounts().join(&m.dir);
            let name = spoken(&m.id).0;
            if !dir.is_dir() {
                if !self.has_row("cache_mounts", "dir", &m.dir)? {
                    continue;
                }
                if repair {
                    self.write("drop a cache mount", |t| {
                        delete_mounts(t, std::slice::from_ref(&m.dir))
                    })?;
                }
                report.add(format!("cache mount {name}"), Kind::Missing, repair);
                continue;
            }
            let path = self.mount_record(&dir);
            let good = read_whole_record::<CacheMountFile>(&path).is_some_and(|f| f.id == m.id);
            if !is_unnamed(&m.id) && (!good || dir_name(&m.id) != m.dir) {
                if repair {
                    let file = CacheMountFile { format: RECORD_FORMAT, id: m.id.clone() };
                    self.write_record(&path, &file, false)?;
                }
                report.add(format!("record of cache mount {name}"), Kind::Damaged, repair);
            }
        }
        Ok(())
    }
}
