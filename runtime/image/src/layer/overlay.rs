//! What overlayfs writes into an upper folder, and the merged view of folders below it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::LayerError;
use super::fs::{self, Meta, Xattrs};
use super::owner::Owners;
use super::put::split;
use super::resolve::join;
use crate::tar::Kind;

/// A folder's kind as part of a mode.
const DIR_MODE: u32 = 0o040_000;

/// Attributes that belong to overlayfs itself, in either name space. They are never content: one
/// in a layer would let it redirect a lookup to any file below.
pub(super) fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// The attribute that makes a folder hide what is below it.
pub(super) fn opaque_name(userxattr: bool) -> &'static str {
    if userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" }
}

/// True when the folder hides what is below it.
pub(super) fn is_opaque(dir: impl AsFd, userxattr: bool) -> io::Result<bool> {
    Ok(fs::xattr(dir, opaque_name(userxattr))?.as_deref() == Some(b"y"))
}

/// Folders in overlay form, top first, seen merged and read only.
#[derive(Default)]
pub(super) struct Lowers {
    roots: Vec<OwnedFd>,
    userxattr: bool,
    owners: Owners,
}

/// What the merged view has at a path.
pub(super) enum Found {
    Nothing,
    /// Kind and place: the layer's number for [`Lowers::open`].
    Some(usize, Meta),
}

impl Lowers {
    pub fn open(paths: &[PathBuf], userxattr: bool, owners: Owners) -> Result<Self, LayerError> {
        let roots = paths
            .iter()
            .map(|p| {
                fs::open_root(p).map_err(LayerError::io("open", p.as_os_str().as_encoded_bytes()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { roots, userxattr, owners })
    }

    /// The numbers of all layers.
    pub fn all(&self) -> Vec<usize> {
        (0..self.roots.len()).collect()
    }

    /// Metadata and attributes of the folder at `path` in one layer.
    pub fn dir_meta(&self, layer: usize, path: &[u8]) -> io::Result<(Meta, Xattrs)> {
        let fd = fs::read_beneath(self.roots[layer].as_fd(), path)?;
        let mut xattrs = fs::xattrs(&fd)?;
        xattrs.retain(|(n, _)| !is_overlay_xattr(n) && !self.owners.is_record(n, DIR_MODE));
        let mut meta = fs::stat(&fd)?;
        if let Some(owner) = self.owners.recorded(&fd)? {
            (meta.uid, meta.gid) = owner;
        }
        Ok((meta, xattrs))
    }

    /// Opens what is at `path` in one layer for reading.
    pub fn file(&self, layer: usize, path: &[u8]) -> io::Result<OwnedFd> {
        fs::read_beneath(self.roots[layer].as_fd(), path)
    }

    /// The target of the link at `path` in one layer.
    pub fn link(&self, layer: usize, path: &[u8]) -> io::Result<Vec<u8>> {
        fs::readlink(fs::handle_beneath(self.roots[layer].as_fd(), path)?, b"")
    }

    /// Which of `live` (the layers whose folder at the parent of `path` takes part in the merge)
    /// take part in the merge of the folder at `path`.
    pub fn merge(&self, live: &[usize], path: &[u8]) -> io::Result<Vec<usize>> {
        let mut out = Vec::new();
        for layer in live {
            match fs::read_beneath(self.roots[*layer].as_fd(), path) {
                Ok(fd) if fs::stat(&fd)?.is_dir() => {
                    out.push(*layer);
                    if is_opaque(&fd, self.userxattr)? {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // A whiteout, link or file hides everything below it. Opening a device for
                // reading fails in its own ways.
                Ok(_) => break,
                Err(e) if fs::not_a_dir(&e) => break,
                Err(e) => match fs::handle_beneath(self.roots[*layer].as_fd(), path) {
                    Ok(fd) if !fs::stat(&fd)?.is_dir() => break,
                    _ => return Err(e),
                },
            }
        }
        Ok(out)
    }

    /// What the merged view has at `path`, none of whose parents is a link.
    pub fn find(&self, path: &[u8]) -> io::Result<Found> {
        let (parent, name) = split(path);
        let mut at = self.top();
        for part in parent.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
            self.enter(&mut at, part)?;
        }
        self.look(&at, name)
    }

    /// The root, where all layers are merged.
    pub fn top(&self) -> Merged {
        Merged { path: Vec::new(), live: self.all().into_iter().map(|n| (n, None)).collect() }
    }

    /// Goes down to the folder `name`.
    pub fn enter(&self, at: &mut Merged, name: &[u8]) -> io::Result<()> {
        let mut live = Vec::new();
        for (layer, dir) in std::mem::take(&mut at.live) {
            let opened = match &dir {
                Some(dir) => fs::open_dir(dir, name),
                None => fs::open_dir(self.folder(layer, &at.path)?, name),
            };
            match opened {
                Ok(fd) => {
                    let opaque = is_opaque(&fd, self.userxattr)?;
                    live.push((layer, Some(fd).filter(|_| live.len() < HANDLES)));
                    if opaque {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // A whiteout, link or file hides everything below it.
                Err(e) if fs::not_a_dir(&e) => break,
                Err(e) => return Err(e),
            }
        }
        *at = Merged { path: join(&at.path, name), live };
        Ok(())
    }

    /// What the merged view has as `name` there.
    pub fn look(&self, at: &Merged, name: &[u8]) -> io::Result<Found> {
        for (layer, dir) in &at.live {
            let found = match dir {
                Some(dir) => fs::exists_at(dir, name)?,
                None => fs::exists_at(self.folder(*layer, &at.path)?, name)?,
            };
            if let Some(m) = found {
                return Ok(if m.is_whiteout() { Found::Nothing } else { Found::Some(*layer, m) });
            }
        }
        Ok(Found::Nothing)
    }

    /// A handle for walking on the folder at `path` of a layer.
    fn folder(&self, layer: usize, path: &[u8]) -> io::Result<OwnedFd> {
        fs::dir_beneath(self.roots[layer].as_fd(), path)
    }
}

/// Handles that one [`Merged`] keeps; of more layers the folders are found by their paths.
const HANDLES: usize = 16;

/// A folder of the merged view.
pub(super) struct Merged {
    path: Vec<u8>,
    /// The layers that take part in it, top first.
    live: Vec<(usize, Option<OwnedFd>)>,
}

impl Merged {
    /// One that nothing takes part in.
    pub fn nothing() -> Self {
        Self { path: Vec::new(), live: Vec::new() }
    }

    /// Whether it is not there at all.
    pub fn is_nothing(&self) -> bool {
        self.live.is_empty()
    }
}

impl Found {
    /// The kind of what was found.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Nothing => None,
            Self::Some(_, m) => m.kind,
        }
    }
}

/// Folders in overlay form, top first, as they are seen merged.
pub struct MergedLayers(Lowers);

impl MergedLayers {
    /// Opens them. `userxattr`: overlay's marks are in `user.*` attributes.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn open(paths: &[PathBuf], userxattr: bool) -> Result<Self, LayerError> {
        Lowers::open(paths, userxattr, Owners::Kernel).map(Self)
    }

    /// Whether there is anything at `path`, none of whose parents is a link.
    ///
    /// # Errors
    /// That of looking.
    pub fn shows(&self, path: &Path) -> io::Result<bool> {
        Ok(matches!(self.0.find(path.as_os_str().as_bytes())?, Found::Some(..)))
    }
}

/// Whether a layer's folder, laid over `below`, changes nothing of what is seen: it is empty, and its
/// root has the attributes of the root below but for the time.
///
/// # Errors
/// One of them is not there, or cannot be read.
pub fn shows_nothing(upper: &Path, below: &Path, owners: Owners) -> io::Result<bool> {
    let (upper, below) = (fs::open_root(upper)?, fs::open_root(below)?);
    if !fs::list(&upper)?.is_empty() {
        return Ok(false);
    }
    let root = |dir: &OwnedFd| -> io::Result<_> {
        let meta = fs::stat(dir)?;
        let owner = owners.recorded(dir)?.unwrap_or((meta.uid, meta.gid));
        let mut attributes = fs::xattrs(dir)?;
        attributes.retain(|(name, _)| {
            let marks = is_overlay_xattr(name) && !name.ends_with(b".opaque");
            !marks && !owners.is_record(name, DIR_MODE | meta.mode)
        });
        attributes.sort();
        Ok((meta.mode, owner, attributes))
    };
    Ok(root(&upper)? == root(&below)?)
}
