//! `store check`: names what is damaged, missing or not referenced, and mends it: what can be made
//! again is dropped, so that the next use misses it.

mod records;

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;

use rgraph_ir::{BlobDigest, SnapshotId};

use crate::blob::hash_file;
use crate::error::{Result, StoreError};
use crate::gc::world::{Live, World};
use crate::gc::{list, needs_repair};
use crate::index::{bytes32, int, params, size};
use crate::layout::open_nofollow;
use crate::lock::Mode;
use crate::record::{ImageFile, RefFile, read_record};
use crate::store::{Session, Store};
use crate::tree;

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not what its name or the index says.
    Damaged,
    /// Named and not there.
    Missing,
    /// There, and nothing names it: no damage, only room.
    Unreferenced,
}

/// One object with which something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub object: String,
    /// What.
    pub kind: Kind,
    /// It was dropped or made again.
    pub repaired: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Damaged => "is damaged",
            Kind::Missing => "is missing",
            Kind::Unreferenced => "is not referenced",
        };
        write!(f, "{} {what}", self.object)
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// In the order they were found.
    pub findings: Vec<Finding>,
    /// Blobs looked at.
    pub blobs: u64,
    /// Snapshots looked at.
    pub snapshots: u64,
}

impl CheckReport {
    pub(crate) fn add(&mut self, object: impl Into<String>, kind: Kind, repaired: bool) {
        self.findings.push(Finding { object: object.into(), kind, repaired });
    }

    /// How much damage is left: what is not referenced harms nobody.
    pub fn left(&self) -> usize {
        let bad = |f: &&Finding| f.kind != Kind::Unreferenced && !f.repaired;
        self.findings.iter().filter(bad).count()
    }
}

/// Everything that has a row, and every file without one, at one moment.
#[derive(Debug, Default)]
struct Inventory {
    world: World,
    blobs: Vec<([u8; 32], u64)>,
    snaps: Vec<(SnapshotId, Option<u64>, bool)>,
    strays: Vec<PathBuf>,
    /// Objects with a row that nothing needs.
    unneeded: Vec<String>,
}

impl Store {
    /// Looks at every object; at the bytes of blobs only with `read_data`. With `repair`, what is
    /// damaged is dropped, what nothing names removed, and a lost index made again.
    ///
    /// # Errors
    /// [`StoreError::IndexDamaged`]: [`Store::rebuild`] mends that.
    pub fn check(&self, read_data: bool, repair: bool) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        // Exclusive: nobody is between an object and its row.
        let mode = if self.is_read_only() { Mode::Shared } else { Mode::Exclusive };
        let mut session = self.session_as(mode)?;
        self.check_index(&session)?;
        if needs_repair(&session)? {
            if repair {
                self.import(&mut session, &mut report)?;
            }
            report.add("the index", Kind::Missing, repair);
            if !repair {
                // Without it everything else would be called unreferenced.
                return Ok(report);
            }
        }
        let inventory = self.inventory(&session)?;
        if repair {
            for path in &inventory.strays {
                self.remove_stray(path);
            }
        }
        drop(session);
        for path in &inventory.strays {
            let path = path.strip_prefix(self.root()).unwrap_or(path);
            report.add(format!("file {}", path.display()), Kind::Unreferenced, repair);
        }
        self.check_blobs(&inventory, read_data, repair, &mut report)?;
        let lost = self.check_snapshots(&inventory, repair, &mut report)?;
        self.check_results(&inventory, repair, &mut report)?;
        self.check_names(&lost, repair, &mut report)?;
        self.check_mounts(&inventory, repair, &mut report)?;
        for object in inventory.unneeded {
            report.add(object, Kind::Unreferenced, repair);
        }
        if repair {
            // What nothing needs, and what hung on what was dropped.
            self.gc(&crate::gc::Policy::default())?;
            self.empty_trash()?;
        }
        Ok(report)
    }

    fn check_index(&self, session: &Session<'_>) -> Result<()> {
        let found: Vec<String> = session.read("check it", |c| {
            c.prepare("PRAGMA integrity_check(10)")?.query_map([], |r| r.get(0))?.collect()
        })?;
        if found == ["ok"] {
            return Ok(());
        }
        let source = found.join("; ").into();
        Err(StoreError::IndexDamaged { root: self.root().to_owned(), source })
    }

    fn inventory(&self, session: &Session<'_>) -> Result<Inventory> {
        let w = session.read("read all of it", World::read)?;
        let l = self.layout();
        let mut out = Inventory {
            blobs: session.read("list blobs", |c| {
                c.prepare("SELECT digest, size FROM blobs ORDER BY digest")?
                    .query_map([], |r| Ok((bytes32(r, 0)?, size(r, 1)?)))?
                    .collect()
            })?,
            ..Inventory::default()
        };
        let tags: BTreeSet<String> = session.read("list tags", |c| {
            c.prepare("SELECT name FROM tags")?.query_map([], |r| r.get(0))?.collect()
        })?;
        let name = |p: &PathBuf| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in list(&l.blobs()) {
            match BlobDigest::from_hex(&name(&path)) {
                Ok(d) if w.blobs.contains_key(d.as_bytes()) => {}
                _ => out.strays.push(path),
            }
        }
        for path in list(&l.snapshots()) {
            match name(&path).parse::<u64>().ok().and_then(|id| w.snaps.get(&id)) {
                Some(s) if s.on_disk => {}
                _ => out.strays.push(path),
            }
        }
        for path in list(&l.refs()) {
            let manifest = read_record::<ImageFile>(&path).map(|f| f.manifest);
            let known = match (manifest, read_record::<RefFile>(&path)) {
                (Some(m), _) => w.images.iter().any(|i| i.manifest == *m.as_bytes()),
                // Whether it says what the index says is looked at there.
                (_, Some(f)) => tags.contains(&f.name),
                // What cannot be read is damage of a name, and is found there.
                (None, None) => true,
            };
            if !known {
                out.strays.push(path);
            }
        }
        for path in list(&l.cache_mounts()) {
            let dir = name(&path);
            let dir = dir.trim_end_matches(".json");
            if !w.mounts.iter().any(|m| m.dir == dir) {
                out.strays.push(path);
            }
        }
        let mut live = Live::default();
        if !self.is_read_only() {
            live.holds(&w, &self.all_holds()?);
        }
        let held = live.clone();
        live.images(&w, &held, None);
        for r in w.results.iter().filter(|r| w.complete(r)) {
            for o in &r.outputs {
                live.snap(&w, *o);
            }
        }
        out.snaps = w.snaps.values().map(|s| (SnapshotId(s.id), s.parent, s.on_disk)).collect();
        out.snaps.sort();
        for (id, ..) in out.snaps.iter().filter(|s| !live.snaps.contains(&s.0.0)) {
            out.unneeded.push(format!("snapshot {id}"));
        }
        for (d, _) in out.blobs.iter().filter(|b| !live.blobs.contains(&b.0)) {
            out.unneeded.push(format!("blob {}", BlobDigest::from_bytes(*d)));
        }
        out.world = w;
        Ok(out)
    }

    fn remove_stray(&self, path: &PathBuf) {
        if std::fs::rename(path, self.layout().trash().join(self.unique())).is_err() {
            let _ = tree::remove(path);
        }
    }

    fn check_blobs(
        &self,
        i: &Inventory,
        read_data: bool,
        repair: bool,
        report: &mut CheckReport,
    ) -> Result<()> {
        for (bytes, size) in &i.blobs {
            let d = BlobDigest::from_bytes(*bytes);
            report.blobs += 1;
            let found = match open_nofollow(&self.layout().blob(&d)) {
                Err(_) => Some(Kind::Missing),
                Ok(f) => {
                    let wrong = f.metadata().map_or(true, |m| !m.is_file() || m.len() != *size)
                        || (read_data && hash_file(&f).map_or(true, |h| h != *bytes));
                    wrong.then_some(Kind::Damaged)
                }
            };
            let Some(kind) = found else { continue };
            // Another process may have taken it out meanwhile.
            if kind == Kind::Missing && !self.has_row("blobs", "digest", bytes.as_slice())? {
                continue;
            }
            if repair {
                self.forget_blob(&d)?;
            }
            report.add(format!("blob {d}"), kind, repair);
        }
        Ok(())
    }

    fn has_row(&self, table: &str, column: &str, v: impl rusqlite::ToSql) -> Result<bool> {
        self.read("look up a row", |c| {
            c.prepare_cached(&format!("SELECT 1 FROM {table} WHERE {column} = ?1"))?.exists([v])
        })
    }

    /// Gives those that nothing can make again but the steps they are of.
    fn check_snapshots(
        &self,
        i: &Inventory,
        repair: bool,
        report: &mut CheckReport,
    ) -> Result<HashSet<u64>> {
        let mut lost: HashSet<u64> = HashSet::new();
        for (id, parent, on_disk) in &i.snaps {
            report.snapshots += u64::from(*on_disk);
            let dir = self.layout().snapshot(*id);
            let orphan =
                parent.is_some_and(|p| lost.contains(&p) || !i.world.snaps.contains_key(&p));
            let (kind, what) = if orphan {
                (Kind::Missing, format!("what snapshot {id} lies on"))
            } else if *on_disk && !dir.join("fs").symlink_metadata().is_ok_and(|m| m.is_dir()) {
                (Kind::Missing, format!("snapshot {id}"))
            } else if *on_disk && !self.record_agrees(*id, *parent) {
                if repair && self.rewrite_record(*id)? {
                    report.add(format!("record of snapshot {id}"), Kind::Damaged, true);
                    continue;
                }
                (Kind::Damaged, format!("record of snapshot {id}"))
            } else {
                continue;
            };
            if kind == Kind::Missing && !self.has_row("snapshots", "id", int(id.0))? {
                continue;
            }
            if repair {
                self.forget_snapshot(*id)?;
                if !self.has_row("snapshots", "id", int(id.0))? || orphan {
                    lost.insert(id.0);
                }
                if orphan {
                    self.write("drop a snapshot", |t| {
                        t.execute("DELETE FROM snapshots WHERE id = ?1", params![int(id.0)])?;
                        Ok(())
                    })?;
                }
            } else if orphan || (kind == Kind::Missing && !i.world.has_form(id.0)) {
                lost.insert(id.0);
            }
            report.add(what, kind, repair);
        }
        Ok(lost)
    }
}
