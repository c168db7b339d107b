//! `ADD` of a local archive: unpacked into a merged tree, as `tar -x` in a chroot of it would.
//!
//! Names that mean deletions in layers are ordinary names here. Links on the way to a member are
//! followed inside the root; the last part of a name never is.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use super::LayerError;
use super::compress::decompress;
use super::fs::{self, Meta};
use super::owner::Owners;
use super::put::{DirMeta, Put, UnpackStats, clean, split};
use super::resolve::join;
use crate::tar::{Kind, Mtime, TarReader};

/// Handles kept of folders found before.
const CACHE: usize = 128;

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveOptions {
    /// Owner and group of everything, whatever the archive says (`ADD --chown`). `None`: the
    /// archive's; folders that it does not list are root's.
    pub owner: Option<(u32, u32)>,
    /// Time of those.
    pub mtime: Mtime,
    /// Owners that do not exist in this user's map are left out instead of failing.
    pub ignore_owner: bool,
    /// Where owners are kept.
    pub owners: Owners,
    /// Most bytes of file content.
    pub max_content: u64,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        let mtime = Mtime::default();
        Self {
            owner: None,
            mtime,
            ignore_owner: false,
            owners: Owners::Kernel,
            max_content: u64::MAX,
        }
    }
}

/// True when the file is a tar, plain or in gzip, bzip2, xz or zstd, with at least one member. Told
/// by its content: a compressed file of another kind is none.
pub fn is_archive(file: impl Read) -> bool {
    decompress(file).is_ok_and(|r| matches!(TarReader::new(r).next_member(), Ok(Some(_))))
}

/// Unpacks `file` into the folder `dest` of the tree at `root`, which is made when it is not
/// there. After an error a part is there: the caller throws the tree away.
pub fn unpack_archive(
    file: impl Read,
    root: BorrowedFd<'_>,
    dest: &[u8],
    opts: &ArchiveOptions,
) -> Result<UnpackStats, LayerError> {
    let content = decompress(file).map_err(|e| LayerError::Tar(crate::tar::TarError::Io(e)))?;
    let mut put = Put::new(opts.ignore_owner, opts.owners, opts.max_content);
    let dest = dest.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b"."));
    let dest = dest.collect::<Vec<_>>().join(&b'/');
    let mut tree = InRoot { root, opts, cache: HashMap::new(), made: Vec::new() };
    tree.dir(&dest)?;
    let mut tar = TarReader::new(content);
    while let Some(mut m) = tar.next_member()? {
        if let Some(owner) = opts.owner {
            (m.uid, m.gid) = owner;
        }
        put.stats.members += 1;
        let path = clean(&m.path)?;
        if path.is_empty() {
            if m.kind != Kind::Dir {
                return Err(LayerError::refused(&m.path, "the root is a folder"));
            }
            // The destination keeps what it has.
            continue;
        }
        let (parent, name) = split(&path);
        let dir = tree.dir(&below(&dest, parent))?;
        let old = if m.kind == Kind::Hardlink {
            let target = clean(&m.link)?;
            let (parent, base) = split(&target);
            if base.is_empty() || target == path {
                return Err(LayerError::refused(&m.path, "it is a hard link to itself"));
            }
            let from = tree.dir(&below(&dest, parent))?;
            hardlink(&m, &from, base, &dir, name, &mut put)?
        } else {
            put.member(dir.as_fd(), name, &m, &mut tar)?
        };
        if m.kind == Kind::Dir {
            put.later(&path, DirMeta::of(&m))?;
        }
        if old.is_some_and(|o| o.is_dir() != (m.kind == Kind::Dir) || o.kind == Some(Kind::Symlink))
        {
            tree.cache.clear();
            put.forget_below(&path);
        }
    }
    // The rest of the file is read, so that what is cut or damaged there is told.
    tar.drain()?;
    put.stats.implied_dirs = tree.made.len() as u64;
    tree.finish()?;
    put.finish(|path| {
        let (parent, name) = split(path);
        fs::open_dir(fs::dir_in_root(root, &below(&dest, parent))?, name)
    })?;
    Ok(put.stats)
}

/// `path` below `dest`; either may be empty.
fn below(dest: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() { dest.to_vec() } else { join(dest, path) }
}

fn hardlink(
    m: &crate::tar::Member,
    from: &OwnedFd,
    base: &[u8],
    dir: &OwnedFd,
    name: &[u8],
    put: &mut Put,
) -> Result<Option<Meta>, LayerError> {
    let err = |what| LayerError::io(what, &m.path);
    let target = fs::stat_at(from, base).map_err(err("find the target of"))?;
    if target.is_dir() {
        return Err(LayerError::refused(&m.path, "it is a hard link to a folder"));
    }
    // Removing the name first would lose the content when both are the same file already.
    if let Some(old) = fs::exists_at(dir, name).map_err(err("look at"))?
        && (old.dev, old.ino) == (target.dev, target.ino)
    {
        return Ok(None);
    }
    let old = put.make_room(dir.as_fd(), name, m)?;
    fs::link(from, base, dir, name).map_err(err("link"))?;
    Ok(old)
}

/// Folders of a merged tree, found as a process with this root would.
struct InRoot<'a> {
    root: BorrowedFd<'a>,
    opts: &'a ArchiveOptions,
    cache: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Folders made on the way, for their times.
    made: Vec<Vec<u8>>,
}

impl InRoot<'_> {
    /// The folder at `path`; it and those above it are made where they are missing.
    fn dir(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, LayerError> {
        // Not by recursion: an archive says how deep.
        let mut missing = Vec::new();
        let mut at = path;
        let mut dir = loop {
            if let Some(dir) = self.cache.get(at) {
                break dir.clone();
            }
            match fs::dir_in_root(self.root, at) {
                Ok(dir) => break self.keep(at, dir),
                Err(e) if e.kind() == io::ErrorKind::NotFound && !at.is_empty() => {
                    missing.push(at);
                    at = split(at).0;
                }
                Err(e) if fs::not_a_dir(&e) => {
                    return Err(LayerError::refused(path, "a parent of it is not a folder"));
                }
                Err(e) => return Err(LayerError::io("open", path)(e)),
            }
        };
        while let Some(next) = missing.pop() {
            let made = self.make(&dir, next)?;
            dir = self.keep(next, made);
        }
        Ok(dir)
    }

    fn keep(&mut self, path: &[u8], dir: OwnedFd) -> Rc<OwnedFd> {
        let dir = Rc::new(dir);
        if self.cache.len() >= CACHE {
            self.cache.clear();
        }
        self.cache.insert(path.to_vec(), dir.clone());
        dir
    }

    /// Makes the folder at `path` in `parent`, which is that of its parent.
    fn make(&mut self, parent: &OwnedFd, path: &[u8]) -> Result<OwnedFd, LayerError> {
        let name = split(path).1;
        if name.is_empty() || matches!(name, b"." | b"..") {
            return Err(LayerError::refused(path, "it is no name for a new folder"));
        }
        match fs::mkdir(parent, name) {
            Ok(()) => {}
            // It is there and yet it is not: a link to nowhere.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(LayerError::refused(path, "a parent of it is a link to nowhere"));
            }
            Err(e) => return Err(LayerError::io("make", path)(e)),
        }
        let dir = fs::open_dir(parent, name).map_err(LayerError::io("open", path))?;
        let (uid, gid) = self.opts.owner.unwrap_or((0, 0));
        match self.opts.owners.give(&dir, uid, gid) {
            Err(e) if self.opts.ignore_owner && fs::owner_unsupported(&e) => {}
            other => other.map_err(LayerError::io("set the owner of", path))?,
        }
        fs::chmod_fd(&dir, 0o755).map_err(LayerError::io("set the mode of", path))?;
        self.made.push(path.to_vec());
        Ok(dir)
    }

    fn finish(&mut self) -> Result<(), LayerError> {
        for path in self.made.drain(..) {
            let set = || {
                let dir = fs::open_dir(fs::dir_in_root(self.root, &path)?, b".")?;
                fs::utime_fd(&dir, self.opts.mtime)
            };
            match set() {
                // The archive put something else there later.
                Err(e) if e.kind() == io::ErrorKind::NotFound || fs::not_a_dir(&e) => {}
                other => other.map_err(LayerError::io("set the time of", &path))?,
            }
        }
        Ok(())
    }
}
