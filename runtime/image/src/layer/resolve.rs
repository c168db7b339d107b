//! Finds the folder of an overlay upper that a member of a layer goes into, as a process would in
//! the merged tree, without that tree being mounted: folders the layer does not list are made with
//! the metadata they have below, links are followed inside the root.

use std::cell::OnceCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use super::LayerError;
use super::fs;
use super::overlay::{Found, Lowers, Merged, is_opaque, opaque_name};
use super::owner::Owners;
use super::put::{DirMeta, Put, split};
use super::read::Below;
use crate::tar::Kind;

/// Handles kept of folders found before.
const CACHE: usize = 128;
/// Links followed for one name, as the kernel's limit.
const MAX_LINKS: u32 = 40;

/// A folder of the upper.
pub(super) struct Place {
    /// For use as a parent only.
    pub dir: OwnedFd,
    /// Its path below the upper's root; no part of it is a link.
    pub path: Vec<u8>,
}

/// The upper being filled and what lies below it.
pub(super) struct Upper<'a> {
    root: OwnedFd,
    below: Below<'a>,
    /// Opened at the first question.
    lowers: OnceCell<Lowers>,
    userxattr: bool,
    owners: Owners,
    cache: HashMap<Vec<u8>, Rc<Place>>,
}

/// What the merged tree has at a path.
enum Seen {
    Upper(OwnedFd, Kind),
    /// A whiteout of this layer.
    Deleted,
    Lower(usize, Kind),
    Nothing,
}

/// A folder of the merged tree that is gone down to step by step, so that a deep one costs no more
/// than its path is long.
struct Walk {
    /// No part of it is a link.
    real: Vec<u8>,
    /// The upper's folder, if it has one.
    upper: Option<OwnedFd>,
    /// What of the layers below is seen there; `None`: nobody asked. Asking may have to wait.
    below: Option<Merged>,
}

impl<'a> Upper<'a> {
    pub fn new(root: OwnedFd, below: Below<'a>, userxattr: bool, owners: Owners) -> Self {
        Self { root, below, lowers: OnceCell::new(), userxattr, owners, cache: HashMap::new() }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What lies below; waits for it where it is made at the same time.
    pub fn lowers(&self) -> Result<&Lowers, LayerError> {
        if let Some(lowers) = self.lowers.get() {
            return Ok(lowers);
        }
        let open = |paths: &[PathBuf]| Lowers::open(paths, self.userxattr, self.owners);
        let opened = match self.below {
            Below::Known(paths) => open(paths)?,
            Below::Later(ask) => open(&ask().map_err(LayerError::Below)?)?,
        };
        Ok(self.lowers.get_or_init(|| opened))
    }

    /// To be called when a folder was removed.
    pub fn forget_places(&mut self) {
        self.cache.clear();
    }

    /// Opens the folder at `path` for changing it.
    pub fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let fd = fs::read_beneath(self.root(), path)?;
        if fs::stat(&fd)?.is_dir() { Ok(fd) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Makes the folder `name` in `dir` hide what is below it.
    pub fn set_opaque(&self, dir: impl AsFd, path: &[u8]) -> Result<(), LayerError> {
        fs::set_xattr(dir, opaque_name(self.userxattr).as_bytes(), b"y")
            .map_err(LayerError::io("mark as opaque", path))
    }

    /// The folder that the clean path `path` means; missing ones are made.
    pub fn dir(&mut self, path: &[u8], put: &mut Put) -> Result<Rc<Place>, LayerError> {
        if let Some(place) = self.cache.get(path) {
            return Ok(place.clone());
        }
        let place = match fs::dir_beneath(self.root(), path) {
            Ok(dir) => Place { dir, path: path.to_vec() },
            Err(e) if e.kind() == io::ErrorKind::NotFound || fs::not_a_dir(&e) => {
                let real = self.resolve(path)?;
                self.make(&real, put)?
            }
            Err(e) => return Err(LayerError::io("open", path)(e)),
        };
        let place = Rc::new(place);
        // What a link leads to may change with any later member, so only real paths are kept.
        if place.path == path {
            if self.cache.len() >= CACHE {
                self.cache.clear();
            }
            self.cache.insert(path.to_vec(), place.clone());
        }
        Ok(place)
    }

    /// What the layers below have as `name` in the folder `at` of the merged tree, unless this layer
    /// hides them there.
    pub fn below(&self, at: &[u8], name: &[u8]) -> Result<Found, LayerError> {
        let err = || LayerError::io("look at", at);
        let merged = self.merged(at)?;
        self.lowers()?.look(&merged, name).map_err(err())
    }

    /// What is seen of the layers below in the folder at `path`.
    fn merged(&self, path: &[u8]) -> Result<Merged, LayerError> {
        let lowers = self.lowers()?;
        let mut at = Walk { real: Vec::new(), upper: None, below: Some(lowers.top()) };
        at.upper = Some(fs::dir_beneath(self.root(), b"").map_err(LayerError::io("open", path))?);
        for part in parts(path) {
            if at.below.as_ref().is_none_or(Merged::is_nothing) {
                break;
            }
            self.enter(&mut at, &part)?;
        }
        Ok(at.below.unwrap_or_else(Merged::nothing))
    }

    fn start(&self, path: &[u8]) -> Result<Walk, LayerError> {
        let upper = match fs::dir_beneath(self.root(), path) {
            Ok(dir) => Some(dir),
            Err(e) if e.kind() == io::ErrorKind::NotFound || fs::not_a_dir(&e) => None,
            Err(e) => return Err(LayerError::io("open", path)(e)),
        };
        Ok(Walk { real: path.to_vec(), upper, below: None })
    }

    /// Goes down to `name`, which is no link.
    fn enter(&self, at: &mut Walk, name: &[u8]) -> Result<(), LayerError> {
        let err = || LayerError::io("open", &at.real);
        let (mut upper, mut hides) = (None, false);
        if let Some(dir) = &at.upper {
            match fs::dir_beneath(dir.as_fd(), name) {
                Ok(fd) => upper = Some(fd),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // Below a whiteout of this layer there is nothing.
                Err(e) if fs::not_a_dir(&e) => hides = true,
                Err(e) => return Err(err()(e)),
            }
        }
        if let (Some(dir), true) = (&upper, at.below.as_ref().is_some_and(|b| !b.is_nothing())) {
            let dir = fs::open_dir(dir, b".").map_err(err())?;
            hides = is_opaque(dir, self.userxattr).map_err(err())?;
        }
        if hides {
            at.below = Some(Merged::nothing());
        } else if let Some(below) = &mut at.below {
            self.lowers()?.enter(below, name).map_err(err())?;
        }
        at.upper = upper;
        at.real = join(&at.real, name);
        Ok(())
    }

    /// What the merged tree has there as `name`.
    fn look(&self, at: &mut Walk, name: &[u8]) -> Result<Seen, LayerError> {
        let path = join(&at.real, name);
        let err = || LayerError::io("look at", &path);
        if let Some(dir) = &at.upper {
            match fs::handle_beneath(dir.as_fd(), name) {
                Ok(fd) => {
                    let meta = fs::stat(&fd).map_err(err())?;
                    return match meta.kind {
                        _ if meta.is_whiteout() => Ok(Seen::Deleted),
                        Some(kind) => Ok(Seen::Upper(fd, kind)),
                        None => Err(LayerError::refused(&path, "a parent of it is not a folder")),
                    };
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(err()(e)),
            }
        }
        if at.below.is_none() {
            at.below = Some(self.merged(&at.real)?);
        }
        let found = match &at.below {
            Some(below) => self.lowers()?.look(below, name).map_err(err())?,
            None => Found::Nothing,
        };
        Ok(match found {
            Found::Some(layer, m) => m.kind.map_or(Seen::Nothing, |k| Seen::Lower(layer, k)),
            Found::Nothing => Seen::Nothing,
        })
    }

    /// The path without links of the folder that `path` means. It need not exist.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, LayerError> {
        let mut todo: VecDeque<Vec<u8>> = parts(path).collect();
        let mut at = self.start(b"")?;
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                at = self.start(split(&at.real).0)?;
                continue;
            }
            let target = match self.look(&mut at, &part)? {
                Seen::Upper(_, Kind::Dir)
                | Seen::Lower(_, Kind::Dir)
                | Seen::Deleted
                | Seen::Nothing => {
                    self.enter(&mut at, &part)?;
                    continue;
                }
                Seen::Upper(fd, Kind::Symlink) => {
                    fs::readlink(&fd, b"").map_err(LayerError::io("read", path))?
                }
                Seen::Lower(layer, Kind::Symlink) => {
                    let next = join(&at.real, &part);
                    self.lowers()?.link(layer, &next).map_err(LayerError::io("read", &next))?
                }
                _ => return Err(LayerError::refused(path, "a parent of it is not a folder")),
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(LayerError::refused(path, "too many links on the way to it"));
            }
            if target.starts_with(b"/") {
                at = self.start(b"")?;
            }
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                todo.push_front(part);
            }
        }
        Ok(at.real)
    }

    /// Makes the folders of `path` that the upper lacks; none of them is a link.
    fn make(&self, path: &[u8], put: &mut Put) -> Result<Place, LayerError> {
        let err = |what| LayerError::io(what, path);
        let gone = || LayerError::refused(path, "a parent of it is not a folder");
        let mut at = self.start(b"")?;
        for part in parts(path) {
            let dir = at.upper.as_ref().ok_or_else(gone)?;
            let old = fs::exists_at(dir, &part).map_err(err("look at"))?;
            if old.as_ref().is_some_and(fs::Meta::is_dir) {
                self.enter(&mut at, &part)?;
                continue;
            }
            let below = match &old {
                Some(_) => Seen::Deleted,
                None => self.look(&mut at, &part)?,
            };
            let dir = at.upper.as_ref().ok_or_else(gone)?;
            if old.is_some() {
                fs::remove(dir, &part).map_err(err("replace"))?;
            }
            fs::mkdir(dir, &part).map_err(err("make"))?;
            put.stats.implied_dirs += 1;
            let next = join(&at.real, &part);
            let meta = match below {
                Seen::Lower(layer, Kind::Dir) => {
                    let found = self.lowers()?.dir_meta(layer, &next);
                    let (m, xattrs) = found.map_err(err("read"))?;
                    let (mode, uid, gid, mtime) = (m.mode, m.uid, m.gid, m.mtime);
                    DirMeta { mode, uid, gid, mtime, xattrs }
                }
                _ => DirMeta::plain(),
            };
            put.later(&next, meta)?;
            if old.is_some() {
                let fd = fs::open_dir(dir, &part).map_err(err("open"))?;
                self.set_opaque(&fd, &next)?;
            }
            self.enter(&mut at, &part)?;
        }
        Ok(Place { dir: at.upper.ok_or_else(gone)?, path: at.real })
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/').filter(|p| !matches!(*p, b"" | b".")).map(<[u8]>::to_vec)
}

/// `a/b` of `a` and `b`; `b` at the root.
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
