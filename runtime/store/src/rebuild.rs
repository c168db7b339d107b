//! The index made again from the files beside the objects (`robustness.md`, rule 5).

use std::fs;
use std::path::Path;

use rgraph_ir::{BlobDigest, SnapshotId};

use crate::blob::hash_file;
use crate::check::{CheckReport, Kind};
use crate::error::Result;
use crate::index::{int, params};
use crate::layout::{Layout, open_nofollow};
use crate::mounts::{dir_name, unnamed};
use crate::record::{
    CacheMountFile, ImageFile, RefFile, ResultFile, SnapshotFile, from_hex, read_record,
};
use crate::result::pack;
use crate::store::{OpenOptions, Session, Store};

impl Store {
    /// Sets a damaged or lost index aside and makes it again from the files. Nobody else may use the
    /// store meanwhile. What was set aside goes when all is mended.
    pub fn rebuild(root: &Path, options: OpenOptions) -> Result<(Self, CheckReport)> {
        let layout = Layout::new(root.to_owned());
        layout.open(true)?;
        let names = ["index.db", "index.db-wal", "index.db-shm"];
        for name in names {
            let from = root.join(name);
            match fs::rename(&from, root.join(format!("{name}.damaged"))) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(layout.err("rename", &from, e));
                }
                _ => {}
            }
        }
        let store = Self::open(root, options)?;
        let report = store.check(true, true)?;
        if report.left() == 0 {
            for name in names {
                // A left-over of some kilobytes if not.
                let _ = fs::remove_file(root.join(format!("{name}.damaged")));
            }
        }
        Ok((store, report))
    }

    /// Rows from files. Parents and outputs that did not come back make theirs a miss, as always.
    pub(crate) fn import(&self, session: &mut Session<'_>, report: &mut CheckReport) -> Result<()> {
        let names = |dir: &Path| -> Result<Vec<std::path::PathBuf>> {
            let at = |e| self.layout().err("read", dir, e);
            fs::read_dir(dir).map_err(at)?.map(|e| e.map(|e| e.path()).map_err(at)).collect()
        };
        let blobs = names(&self.layout().blobs())?;
        let snaps = names(&self.layout().snapshots())?;
        let refs = names(&self.layout().refs())?;
        let mounts = names(&self.layout().cache_mounts())?;
        session.write("make it again", |t| {
            for path in &blobs {
                let digest = path.file_name().and_then(|n| n.to_str()).map(BlobDigest::from_hex);
                let Some(Ok(d)) = digest else { continue };
                let right = open_nofollow(path).and_then(|f| {
                    let same = hash_file(&f)? == *d.as_bytes();
                    Ok(same.then_some(f.metadata()?.len()))
                });
                match right {
                    Ok(Some(n)) => {
                        t.execute(
                            "INSERT OR IGNORE INTO blobs(digest, size, boot) VALUES(?1, ?2, ?3)",
                            params![d.as_bytes(), int(n), self.boot_id()],
                        )?;
                    }
                    _ => report.add(format!("blob {d}"), Kind::Damaged, false),
                }
            }
            for path in &snaps {
                let Some(f) = read_record::<SnapshotFile>(&path.join("record.json")) else {
                    continue;
                };
                let named = path.file_name().is_some_and(|n| n == f.id.to_string().as_str());
                // A parent is older: a cycle cannot come in.
                if !named || f.parent.is_some_and(|p| p >= f.id) {
                    continue;
                }
                let durable = path.join("durable").exists();
                t.execute(
                    "INSERT OR IGNORE INTO
                       snapshots(id, parent, diff_id, tar_size, on_disk, boot, durable, description)
                     VALUES(?1, ?2, ?3, ?4, 1, ?5, ?6, ?7)",
                    params![
                        int(f.id),
                        f.parent.map(int),
                        f.layer.as_ref().map(|l| *l.diff_id.as_bytes()),
                        f.layer.as_ref().and_then(|l| l.tar_size).map(int),
                        from_hex(&f.boot).unwrap_or_default(),
                        durable,
                        f.description,
                    ],
                )?;
                if let Some(l) = &f.layer {
                    for b in &l.blobs {
                        t.execute(
                            "INSERT OR IGNORE INTO layer_blobs VALUES(?1, ?2, ?3, ?4)",
                            params![
                                l.diff_id.as_bytes(),
                                b.digest.as_bytes(),
                                int(b.size),
                                b.media_type
                            ],
                        )?;
                    }
                }
            }
            for path in &snaps {
                let Some(f) = read_record::<ResultFile>(&path.join("result.json")) else {
                    continue;
                };
                let Some(recipe) = from_hex(&f.recipe) else { continue };
                let outputs: Vec<_> = f.outputs.iter().copied().map(SnapshotId).collect();
                t.execute(
                    "INSERT OR IGNORE INTO
                       results(key, canonical, op, tree, outputs, recipe, slot, took_ms, created)
                     VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        f.key.as_bytes(),
                        f.canonical.as_bytes(),
                        f.op.as_bytes(),
                        f.tree.map(|x| *x.as_bytes()),
                        pack(&outputs),
                        recipe,
                        f.slot,
                        f.took_ms.map(int),
                        f.created,
                    ],
                )?;
                t.execute(
                    "INSERT OR IGNORE INTO slots VALUES(?1, ?2)",
                    params![f.slot, f.key.as_bytes()],
                )?;
            }
            for path in &refs {
                if let Some(f) = read_record::<RefFile>(path) {
                    t.execute(
                        "INSERT OR IGNORE INTO tags(name, manifest) VALUES(?1, ?2)",
                        params![f.name, f.manifest.as_bytes()],
                    )?;
                } else if let Some(f) = read_record::<ImageFile>(path) {
                    let layers: Vec<u8> = f.layers.iter().flat_map(|d| *d.as_bytes()).collect();
                    t.execute(
                        "INSERT OR IGNORE INTO images
                           (manifest, config, platform, size, created, layers, snapshot)
                         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                        params![
                            f.manifest.as_bytes(),
                            f.config.as_bytes(),
                            f.platform,
                            int(f.size),
                            f.created,
                            layers,
                            f.snapshot.map(int)
                        ],
                    )?;
                }
            }
            for path in mounts.iter().filter(|p| p.is_dir()) {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let record = read_record::<CacheMountFile>(&self.mount_record(path));
                let id = record.map(|f| f.id).filter(|id| dir_name(id) == name);
                t.execute(
                    "INSERT OR IGNORE INTO cache_mounts(dir, id) VALUES(?1, ?2)",
                    params![name, id.unwrap_or_else(|| unnamed(name))],
                )?;
            }
            t.execute("DELETE FROM meta WHERE name = 'needs_repair'", [])?;
            Ok(())
        })
    }
}
