//! Makes one member of an archive in a folder held by handle.
//!
//! Order for each: content, owner, mode (a change of owner clears setuid), attributes
//! (`security.capability` is cleared by a change of owner too), times. Folders get theirs at the
//! very end, as every entry made in them changes their time.
//!
//! Most files of a layer belong to who unpacks it and have plain permissions: where that is known to
//! come with making them ([`Born`]) it is not set again, as each call costs a tenth of a small file.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd};

use super::LayerError;
use super::device;
use super::fs::{self, Meta, Xattrs};
use super::overlay::is_overlay_xattr;
use super::owner::{OWNER_ATTRIBUTE, Owners};
use crate::tar::{Kind, Member, Mtime, TarError, TarReader};

/// Claims from here on are checked against the free space first.
const LARGE: u64 = 16 << 20;
/// So many zeros and more become a hole.
const HOLE: usize = 64 << 10;
/// Bytes of paths and attributes of folders kept for the end.
const MAX_FOLDERS: u64 = 256 << 20;

/// What unpacking did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnpackStats {
    /// Members read.
    pub members: u64,
    /// Bytes of file content, holes included.
    pub content: u64,
    /// Whiteouts and opaque marks.
    pub whiteouts: u64,
    /// Folders made because a member lies in them and the archive does not list them.
    pub implied_dirs: u64,
    /// Devices this user may not make, for which files stand.
    pub noted_devices: u64,
    /// Attributes this user or file system cannot keep.
    pub skipped_xattrs: u64,
    /// Members whose owner does not exist in this user's map (only with `ignore_owner`).
    pub skipped_owners: u64,
}

/// What a folder gets at the end.
pub(super) struct DirMeta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    pub xattrs: Xattrs,
}

impl DirMeta {
    pub fn of(m: &Member) -> Self {
        let (mode, uid, gid, mtime) = (m.mode, m.uid, m.gid, m.mtime);
        Self { mode, uid, gid, mtime, xattrs: m.xattrs.clone() }
    }

    /// For folders that nothing describes.
    pub fn plain() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() }
    }
}

/// What files have when they are made, before anything is set.
#[derive(Debug, Clone, Copy)]
struct Born {
    owner: (u32, u32),
    /// Permissions that they do not get.
    masked: u32,
}

/// Permissions that are given when a file is made.
const PERMISSIONS: u32 = 0o777;

/// The state of unpacking one archive.
pub(super) struct Put {
    pub stats: UnpackStats,
    pub ignore_owner: bool,
    pub owners: Owners,
    /// Most bytes of content.
    pub max_content: u64,
    /// Every folder was made here and has no owner and no bits of its own yet, so all files are born
    /// alike.
    fresh: bool,
    /// As the first file was.
    born: Option<Born>,
    dirs: BTreeMap<Vec<u8>, DirMeta>,
    dirs_size: u64,
}

impl Put {
    pub fn new(ignore_owner: bool, owners: Owners, max_content: u64) -> Self {
        Self {
            stats: UnpackStats::default(),
            ignore_owner,
            owners,
            max_content,
            fresh: false,
            born: None,
            dirs: BTreeMap::new(),
            dirs_size: 0,
        }
    }

    /// For an empty folder that nobody else knows.
    pub fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }

    /// Remembers what the folder at `path` gets at the end.
    pub fn later(&mut self, path: &[u8], meta: DirMeta) -> Result<(), LayerError> {
        let attributes: usize = meta.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.dirs_size += (path.len() + attributes + 128) as u64;
        if self.dirs_size > MAX_FOLDERS {
            let (got, limit) = (self.dirs_size, MAX_FOLDERS);
            return Err(TarError::Limit { what: "size of all folder headers", got, limit }.into());
        }
        self.dirs.insert(path.to_vec(), meta);
        Ok(())
    }

    /// Whether it is known what the folder at `path` gets.
    pub fn describes(&self, path: &[u8]) -> bool {
        self.dirs.contains_key(path)
    }

    /// Forgets the folder at `path` and those below: they were removed.
    pub fn forget(&mut self, path: &[u8]) {
        self.dirs.remove(path);
        self.forget_below(path);
    }

    /// Forgets the folders below `path`.
    pub fn forget_below(&mut self, path: &[u8]) {
        let prefix = [path, b"/"].concat();
        let below: Vec<_> = self
            .dirs
            .range(prefix.clone()..)
            .take_while(|(p, _)| p.starts_with(&prefix))
            .map(|(p, _)| p.clone())
            .collect();
        for p in below {
            self.dirs.remove(&p);
        }
    }

    /// Gives folders what they were to get, the deepest first.
    pub fn finish(
        &mut self,
        open: impl Fn(&[u8]) -> io::Result<std::os::fd::OwnedFd>,
    ) -> Result<(), LayerError> {
        let dirs = std::mem::take(&mut self.dirs);
        for (path, meta) in dirs.iter().rev() {
            let fd = match open(path) {
                Ok(fd) => fd,
                // Something else took its place later in the archive.
                Err(e) if e.kind() == io::ErrorKind::NotFound || fs::not_a_dir(&e) => continue,
                Err(e) => return Err(LayerError::io("open", path)(e)),
            };
            self.owner(self.owners.give(&fd, meta.uid, meta.gid), path)?;
            fs::chmod_fd(&fd, meta.mode).map_err(LayerError::io("set the mode of", path))?;
            self.xattrs(path, Kind::Dir, &meta.xattrs, |n, v| fs::set_xattr(&fd, n, v))?;
            fs::utime_fd(&fd, meta.mtime).map_err(LayerError::io("set the time of", path))?;
        }
        Ok(())
    }

    fn owner(&mut self, result: io::Result<()>, path: &[u8]) -> Result<(), LayerError> {
        match result {
            Err(e) if self.ignore_owner && fs::owner_unsupported(&e) => {
                self.stats.skipped_owners += 1;
                Ok(())
            }
            other => other.map_err(LayerError::io("set the owner of", path)),
        }
    }

    fn xattrs(
        &mut self,
        path: &[u8],
        kind: Kind,
        xattrs: &Xattrs,
        set: impl Fn(&[u8], &[u8]) -> io::Result<()>,
    ) -> Result<(), LayerError> {
        for (name, value) in xattrs {
            // A record is written by this program alone, never taken from an archive.
            let record = self.owners == Owners::Recorded
                && (name == OWNER_ATTRIBUTE.as_bytes() || !matches!(kind, Kind::File | Kind::Dir));
            if is_overlay_xattr(name) || record {
                self.stats.skipped_xattrs += 1;
                continue;
            }
            match set(name, value) {
                Ok(()) => {}
                Err(e) if fs::xattr_unsupported(&e) => self.stats.skipped_xattrs += 1,
                Err(e) => return Err(LayerError::io("set an attribute of", path)(e)),
            }
        }
        Ok(())
    }

    /// Makes `m`, which is no hard link, as `name` in `dir`. What is there goes away, except that a
    /// folder stays when `m` is one. Returns what was there.
    pub fn member<R: BufRead>(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        m: &Member,
        tar: &mut TarReader<R>,
    ) -> Result<Option<Meta>, LayerError> {
        let err = |what| LayerError::io(what, &m.path);
        match m.kind {
            Kind::Dir => match fs::mkdir(dir, name) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let old = self.make_room(dir, name, m)?;
                    if !old.as_ref().is_some_and(Meta::is_dir) {
                        fs::mkdir(dir, name).map_err(err("make"))?;
                    }
                    Ok(old)
                }
                made => made.map(|()| None).map_err(err("make")),
            },
            Kind::File => self.file(dir, name, m, tar),
            Kind::Symlink => {
                if m.link.is_empty() || m.link.contains(&0) {
                    return Err(LayerError::refused(&m.path, "its link target is empty"));
                }
                let ((), old) = self.anew(dir, name, m, || fs::symlink(&m.link, dir, name))?;
                if !self.born_of(m) {
                    self.owner(self.owners.give_at(dir, name, m.uid, m.gid), &m.path)?;
                }
                self.xattrs(&m.path, m.kind, &m.xattrs, |n, v| fs::set_xattr_at(dir, name, n, v))?;
                fs::utime_at(dir, name, m.mtime).map_err(err("set the time of"))?;
                Ok(old)
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                if m.kind == Kind::Char && (m.dev_major, m.dev_minor) == (0, 0) {
                    return Err(LayerError::refused(
                        &m.path,
                        "device 0/0 means a deletion to overlayfs",
                    ));
                }
                let make = || match fs::mknod(dir, name, m.kind, m.dev_major, m.dev_minor) {
                    Err(e)
                        if m.kind != Kind::Fifo && e.kind() == io::ErrorKind::PermissionDenied =>
                    {
                        device::stand_in(dir, name, m).map(|()| 1)
                    }
                    made => made.map(|()| 0),
                };
                let (noted, old) = self.anew(dir, name, m, make)?;
                self.stats.noted_devices += noted;
                self.owner(self.owners.give_at(dir, name, m.uid, m.gid), &m.path)?;
                fs::chmod_at(dir, name, m.mode).map_err(err("set the mode of"))?;
                self.xattrs(&m.path, m.kind, &m.xattrs, |n, v| fs::set_xattr_at(dir, name, n, v))?;
                fs::utime_at(dir, name, m.mtime).map_err(err("set the time of"))?;
                Ok(old)
            }
            Kind::Hardlink => Err(LayerError::refused(&m.path, "a hard link has no content")),
        }
    }

    /// Makes `m`, which is no folder, where mostly nothing is; what is there goes away. Returns that
    /// too.
    fn anew<T>(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        m: &Member,
        make: impl Fn() -> io::Result<T>,
    ) -> Result<(T, Option<Meta>), LayerError> {
        let err = LayerError::io("make", &m.path);
        match make() {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let old = self.make_room(dir, name, m)?;
                Ok((make().map_err(err)?, old))
            }
            made => Ok((made.map_err(err)?, None)),
        }
    }

    /// Whether files have the owner of `m` when they are made.
    fn born_of(&self, m: &Member) -> bool {
        self.born.is_some_and(|b| b.owner == (m.uid, m.gid))
    }

    /// Removes what is at the place of `m` unless both are folders; returns what was there.
    pub fn make_room(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        m: &Member,
    ) -> Result<Option<Meta>, LayerError> {
        let old = fs::exists_at(dir, name).map_err(LayerError::io("look at", &m.path))?;
        if let Some(old) = &old
            && !(old.is_dir() && m.kind == Kind::Dir)
        {
            fs::remove(dir, name).map_err(LayerError::io("replace", &m.path))?;
        }
        Ok(old)
    }

    fn file<R: BufRead>(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        m: &Member,
        tar: &mut TarReader<R>,
    ) -> Result<Option<Meta>, LayerError> {
        let err = |what| LayerError::io(what, &m.path);
        let total = self.stats.content.saturating_add(m.size);
        if total > self.max_content {
            let (got, limit) = (total, self.max_content);
            return Err(TarError::Limit { what: "size of all files", got, limit }.into());
        }
        if m.size >= LARGE {
            let free = fs::available(dir).map_err(err("look at the free space for"))?;
            if m.size > free {
                return Err(LayerError::refused(
                    &m.path,
                    format!("it claims {} bytes, {free} are free", m.size),
                ));
            }
        }
        let learn = self.fresh && self.owners == Owners::Kernel && self.born.is_none();
        let given = if learn { PERMISSIONS } else { m.mode & PERMISSIONS };
        let (fd, old) = self.anew(dir, name, m, || fs::create_file(dir, name, given))?;
        if learn {
            let made = fs::stat(&fd).map_err(err("look at"))?;
            let masked = PERMISSIONS & !made.mode;
            self.born = Some(Born { owner: (made.uid, made.gid), masked });
        }
        let mut end = 0;
        while let Some(chunk) = tar.chunk()? {
            // A bomb of zeros takes no room.
            if chunk.data.len() >= HOLE && chunk.data.iter().all(|b| *b == 0) {
                continue;
            }
            fs::write_at(&fd, chunk.data, chunk.offset).map_err(err("write"))?;
            end = chunk.offset + chunk.data.len() as u64;
        }
        if end < m.size {
            fs::truncate(&fd, m.size).map_err(err("write"))?;
        }
        self.stats.content = total;
        if !self.born_of(m) {
            self.owner(self.owners.give(&fd, m.uid, m.gid), &m.path)?;
        }
        let has_mode = self.born.is_some_and(|b| m.mode == given & !b.masked);
        if !has_mode {
            fs::chmod_fd(&fd, m.mode).map_err(err("set the mode of"))?;
        }
        self.xattrs(&m.path, m.kind, &m.xattrs, |n, v| fs::set_xattr(fd.as_fd(), n, v))?;
        fs::utime_fd(&fd, m.mtime).map_err(err("set the time of"))?;
        Ok(old)
    }
}

/// A member's name as a relative path without empty parts and `.`; empty: the root. A leading
/// slash is dropped, as tar and Docker do; `..` is refused everywhere.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, LayerError> {
    if path.contains(&0) {
        return Err(LayerError::refused(path, "its name holds a NUL"));
    }
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(LayerError::refused(path, "its name holds `..`")),
            _ => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
            }
        }
    }
    Ok(out)
}

/// Parent and last part of a clean path that is not the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}
