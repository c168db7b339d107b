//! Folders of `RUN --mount=type=cache`: what is in them outlives builds and belongs to no image.
//!
//! A folder is named by the hash of its id; beside it lies a file with the id, for repair. A live
//! lease that was given a folder holds it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};
use crate::index::{OptionalExtension as _, Transaction, params};
use crate::lock::Mode;
use crate::record::{CacheMountFile, RECORD_FORMAT};
use crate::snapshot::Prepared;
use crate::store::{Store, TxError};

/// The name of the folder of `id`.
pub(crate) fn dir_name(id: &str) -> String {
    blake3::hash(id.as_bytes()).to_hex().to_string()
}

/// What a person calls a cache mount, and which of several of that name it is: steps that share
/// nothing (`sharing=private`) and other seeds (`from=`) have folders of their own.
pub(crate) fn spoken(id: &str) -> (&str, Option<&str>) {
    match id.split_once('\0') {
        Some((name, rest)) => (name, Some(rest)),
        None => (id, None),
    }
}

/// Stands for the id of a folder whose id is not known: an older version made it and wrote none. The
/// next step that uses it says.
pub(crate) fn unnamed(dir: &str) -> String {
    format!("dir:{}", dir.get(..12).unwrap_or(dir))
}

pub(crate) fn is_unnamed(id: &str) -> bool {
    id.starts_with("dir:")
}

impl Store {
    /// The folder of a cache mount, made when it is not there, held by every lease of this handle.
    /// Hold a [`Store::key_lock`] on it where sharing is `locked`.
    pub fn cache_mount(&self, id: &str) -> Result<PathBuf> {
        self.need_write()?;
        let dir = dir_name(id);
        let path = self.layout().cache_mounts().join(&dir);
        let mut session = self.session()?;
        self.hold_mount(&dir)?;
        let new = match fs::create_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
            r => r.map(|()| true).map_err(|e| self.layout().err("create", &path, e))?,
        };
        // Its size is counted again after some uses: how much a step puts there nobody tells.
        session.write("record a cache mount", |t| {
            let tick = self.tick(t)?;
            t.prepare_cached(
                "INSERT INTO cache_mounts(dir, id, tick, sized) VALUES(?1, ?2, ?3, ?3)
                 ON CONFLICT(dir) DO UPDATE SET id = ?2, used = unixepoch(), tick = ?3,
                   size = CASE WHEN ?3 - sized BETWEEN 0 AND 8 THEN size END",
            )?
            .execute(params![dir, id, tick])?;
            Ok(())
        })?;
        let record = self.mount_record(&path);
        if new || !record.exists() {
            let file = CacheMountFile { format: RECORD_FORMAT, id: id.to_owned() };
            self.write_record(&record, &file, false)?;
        }
        Ok(path)
    }

    pub(crate) fn mount_record(&self, dir: &Path) -> PathBuf {
        dir.with_extension("json")
    }

    /// Gives a cache mount a first content, in place of none or, with `replace`, of any. `false`: it
    /// has one already.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when a live build has it.
    pub fn seed_cache_mount(&self, id: &str, p: Prepared, replace: bool) -> Result<bool> {
        self.need_write()?;
        let dir = dir_name(id);
        let path = self.layout().cache_mounts().join(&dir);
        let mut session = self.session_as(Mode::Exclusive)?;
        if self.all_holds()?.iter().any(|h| h.mounts.contains(&dir)) {
            return Err(StoreError::Busy { what: format!("cache mount {}", spoken(id).0) });
        }
        let full = fs::read_dir(&path).is_ok_and(|mut d| d.next().is_some());
        if full && !replace {
            return Ok(false);
        }
        session.write("record a cache mount", |t| {
            let tick = self.tick(t)?;
            t.execute(
                "INSERT OR REPLACE INTO cache_mounts(dir, id, tick, sized) VALUES(?1, ?2, ?3, ?3)",
                params![dir, id, tick],
            )?;
            Ok(self.swap_in(p.fs(), &path)?)
        })?;
        let file = CacheMountFile { format: RECORD_FORMAT, id: id.to_owned() };
        self.write_record(&self.mount_record(&path), &file, false)?;
        drop(session);
        self.empty_trash()?;
        Ok(true)
    }

    fn swap_in(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        match fs::rename(to, self.layout().trash().join(self.unique())) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.layout().err("rename", to, e));
            }
            _ => {}
        }
        fs::rename(from, to).map_err(|e| self.layout().err("rename", to, e))
    }

    /// Whether a cache mount of this id has a folder.
    pub fn has_cache_mount(&self, id: &str) -> Result<bool> {
        self.read("look up a cache mount", |c| {
            c.prepare_cached("SELECT 1 FROM cache_mounts WHERE dir = ?1")?
                .query_row(params![dir_name(id)], |_| Ok(()))
                .optional()
        })
        .map(|o| o.is_some())
    }
}

/// Rows of folders that are gone.
pub(crate) fn delete_mounts(t: &Transaction<'_>, dirs: &[String]) -> Result<(), TxError> {
    let mut s = t.prepare("DELETE FROM cache_mounts WHERE dir = ?1")?;
    for d in dirs {
        s.execute(params![d])?;
    }
    Ok(())
}
