//! `store check`: names what is damaged, missing or not referenced, and makes the index again from
//! the files beside the objects (`robustness.md`, rule 5).

use std::fs;
use std::path::Path;

use rgraph_ir::{BlobDigest, SnapshotId};

use crate::blob::hash_file;
use crate::error::Result;
use crate::gc::needs_repair;
use crate::index::{bytes32, int, params, size};
use crate::layout::{Layout, open_nofollow};
use crate::lock::Mode;
use crate::record::{ImageFile, RefFile, ResultFile, SnapshotFile, from_hex, read_record, to_hex};
use crate::result::pack;
use crate::store::{OpenOptions, Session, Store};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// One line per finding.
    pub problems: Vec<String>,
    /// How many of these were mended.
    pub repaired: usize,
    /// Blobs looked at.
    pub blobs: u64,
    /// Snapshots looked at.
    pub snapshots: u64,
}

impl Store {
    /// Sets a damaged or lost index aside and makes it again from the files. Nobody else may use the
    /// store meanwhile.
    pub fn rebuild(root: &Path, options: OpenOptions) -> Result<(Self, CheckReport)> {
        let layout = Layout::new(root.to_owned());
        layout.open(true)?;
        for name in ["index.db", "index.db-wal", "index.db-shm"] {
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
        Ok((store, report))
    }

    /// Looks at every object; at the bytes of blobs only with `read_data`. With `repair`, what is
    /// damaged is dropped, and a lost index is made again.
    pub fn check(&self, read_data: bool, repair: bool) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let mode = if repair { Mode::Exclusive } else { Mode::Shared };
        let mut session = self.session_as(mode)?;
        if needs_repair(&session)? {
            report.problems.push("the index was lost".to_owned());
            if repair {
                self.import(&mut session, &mut report)?;
                report.repaired += 1;
            }
        }
        let blobs: Vec<([u8; 32], u64)> = session.read("list blobs", |c| {
            c.prepare("SELECT digest, size FROM blobs")?
                .query_map([], |r| Ok((bytes32(r, 0)?, size(r, 1)?)))?
                .collect()
        })?;
        let snaps: Vec<u64> = session.read("list snapshots", |c| {
            c.prepare("SELECT id FROM snapshots WHERE on_disk")?
                .query_map([], |r| size(r, 0))?
                .collect()
        })?;
        drop(session);
        for (bytes, size) in blobs {
            let d = BlobDigest::from_bytes(bytes);
            report.blobs += 1;
            let path = self.layout().blob(&d);
            let found = match open_nofollow(&path) {
                Err(_) => Some("is missing"),
                Ok(f) => {
                    let wrong = f.metadata().map_or(true, |m| !m.is_file() || m.len() != size)
                        || (read_data && hash_file(&f).map_or(true, |h| h != bytes));
                    wrong.then_some("is damaged")
                }
            };
            if let Some(what) = found {
                report.problems.push(format!("blob {d} {what}"));
                if repair {
                    self.forget_blob(&d)?;
                    report.repaired += 1;
                }
            }
        }
        for id in snaps.into_iter().map(SnapshotId) {
            report.snapshots += 1;
            if !self.layout().snapshot(id).join("fs").is_dir() {
                report.problems.push(format!("snapshot {id} is missing"));
                if repair {
                    self.snapshot(id)?;
                    report.repaired += 1;
                }
            }
        }
        for t in self.tags()? {
            let known = self.read("look up a blob", |c| {
                c.prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1")?
                    .exists(params![t.manifest.as_bytes()])
            })?;
            if !known {
                report
                    .problems
                    .push(format!("tag {} names {}, which is missing", t.name, t.manifest));
                if repair {
                    self.untag(&t.name)?;
                    report.repaired += 1;
                }
            }
        }
        Ok(report)
    }

    /// Rows from files. Parents and outputs that did not come back make theirs a miss, as always.
    fn import(&self, session: &mut Session<'_>, report: &mut CheckReport) -> Result<()> {
        let names = |dir: &Path| -> Result<Vec<std::path::PathBuf>> {
            let at = |e| self.layout().err("read", dir, e);
            fs::read_dir(dir).map_err(at)?.map(|e| e.map(|e| e.path()).map_err(at)).collect()
        };
        let boot = to_hex(&self.boot_id());
        let blobs = names(&self.layout().blobs())?;
        let snaps = names(&self.layout().snapshots())?;
        let refs = names(&self.layout().refs())?;
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
                    _ => report.problems.push(format!("blob {d} is damaged")),
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
                let trusted = durable || f.boot == boot;
                t.execute(
                    "INSERT OR IGNORE INTO
                       snapshots(id, parent, diff_id, tar_size, on_disk, boot, durable, description)
                     VALUES(?1, ?2, ?3, ?4, 1, ?5, ?6, ?7)",
                    params![
                        int(f.id),
                        f.parent.map(int),
                        f.layer.as_ref().map(|l| *l.diff_id.as_bytes()),
                        f.layer.as_ref().and_then(|l| l.tar_size).map(int),
                        if trusted { self.boot_id().to_vec() } else { Vec::new() },
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
                       results(key, canonical, op, tree, outputs, recipe, slot, created)
                     VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    params![
                        f.key.as_bytes(),
                        f.canonical.as_bytes(),
                        f.op.as_bytes(),
                        f.tree.map(|x| *x.as_bytes()),
                        pack(&outputs),
                        recipe,
                        f.slot,
                        f.created
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
            t.execute("DELETE FROM meta WHERE name = 'needs_repair'", [])?;
            Ok(())
        })
    }
}
