//! Layers laid over each other in one folder, bottom first.
//!
//! The result is in overlayfs's form when there is something below it: a mark that deletes something
//! stays only where that has it. With nothing below it is a plain folder.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rgraph_image::layer::is_whiteout;
use rgraph_sys::tree as root;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, XattrFlags};

use super::exact::{copy_exactly, give_attributes, times};
use super::{TreeError, open_dir, remove};

/// How the files of a layer get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// As further names of the layer's: nobody may write to them.
    Linked,
    /// As files of their own, several names of one staying that.
    Copied,
    /// As files of their own, one for each name, so that who writes by one name changes no other: what
    /// overlayfs does with the names of a lower file.
    Apart,
}

/// Lays layers on a folder.
pub(crate) struct Lay<'a> {
    /// How files get there.
    pub files: Files,
    /// Overlay's marks are in `user.*` attributes.
    pub userxattr: bool,
    /// Polled often; true ends it.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// One layer on its way.
struct Layer<'a> {
    lay: &'a Lay<'a>,
    to: &'a OwnedFd,
    /// Files with several names, and where the first of them is.
    links: RefCell<HashMap<(u64, u64), PathBuf>>,
}

impl Lay<'_> {
    /// Lays what is in the folder `dir` over what is in `to`. `below`: a tree that the result will lie
    /// on.
    pub(crate) fn layer(
        &self,
        dir: &Path,
        to: &OwnedFd,
        below: Option<&OwnedFd>,
    ) -> Result<(), TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from =
            rustix::fs::open(dir, flags, Mode::empty()).map_err(TreeError::io("open", "layer"))?;
        let layer = Layer { lay: self, to, links: RefCell::default() };
        layer.level(&from, to, below, Path::new(""))?;
        let stat = rustix::fs::fstat(&from).map_err(TreeError::io("look at", "/"))?;
        clear_xattrs(to, "/")?;
        give_attributes(&from, to, &stat, "/")
    }

    fn opaque(&self) -> &'static str {
        if self.userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" }
    }

    fn is_opaque(&self, dir: impl AsFd) -> bool {
        let mut value = [0u8; 2];
        matches!(rustix::fs::fgetxattr(dir, self.opaque(), &mut value[..]), Ok(1) if value[0] == b'y')
    }
}

impl Layer<'_> {
    fn level(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        below: Option<&OwnedFd>,
        place: &Path,
    ) -> Result<(), TreeError> {
        let shown = place.to_string_lossy();
        let mut names: Vec<OsString> = Vec::new();
        for e in Dir::read_from(from).map_err(TreeError::io("read", &*shown))? {
            let e = e.map_err(TreeError::io("read", &*shown))?;
            let n = e.file_name().to_bytes();
            if n != b"." && n != b".." {
                names.push(OsStr::from_bytes(n).to_owned());
            }
        }
        for name in names {
            if (self.lay.cancelled)() {
                return Err(TreeError::Cancelled);
            }
            let path = place.join(&name);
            let shown = path.to_string_lossy();
            let look = |dir: &OwnedFd| rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = look(from).map_err(TreeError::io("look at", &*shown))?;
            let old = look(to).ok();
            let under = below.and_then(|b| look(b).ok());
            if kind(&stat) == FileType::Directory {
                self.folder(from, to, below, &path, &stat, old.as_ref(), under.as_ref())?;
                continue;
            }
            if old.is_some() {
                remove(to, &name, &shown)?;
            }
            if !is_whiteout(&stat) || under.is_some() {
                self.file(from, to, &path, &stat)?;
            }
        }
        Ok(())
    }

    fn file(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), TreeError> {
        let shown = path.to_string_lossy();
        let name = path.file_name().unwrap_or_default();
        if self.lay.files == Files::Linked {
            return rustix::fs::linkat(from, name, to, name, AtFlags::empty())
                .map_err(TreeError::io("link", &*shown));
        }
        if stat.st_nlink == 1 || self.lay.files == Files::Apart {
            return copy_exactly(from, name, stat, to, &shown);
        }
        let id = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.borrow().get(&id) {
            let parent = first.parent().unwrap_or(Path::new(""));
            let there = root::find_plain(self.to, parent, root::As::Handle)
                .map_err(TreeError::std("open", &*shown))?;
            let first = first.file_name().unwrap_or_default();
            return rustix::fs::linkat(&there, first, to, name, AtFlags::empty())
                .map_err(TreeError::io("link", &*shown));
        }
        copy_exactly(from, name, stat, to, &shown)?;
        if kind(stat) != FileType::Socket {
            self.links.borrow_mut().insert(id, path.to_owned());
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "three views of one name")]
    fn folder(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        below: Option<&OwnedFd>,
        path: &Path,
        stat: &Stat,
        old: Option<&Stat>,
        under: Option<&Stat>,
    ) -> Result<(), TreeError> {
        let shown = path.to_string_lossy();
        let name = path.file_name().unwrap_or_default();
        let a = open_dir(from, name).map_err(TreeError::io("open", &*shown))?;
        let is_dir = |s: Option<&Stat>| s.is_some_and(|s| kind(s) == FileType::Directory);
        let opaque = self.lay.is_opaque(&a);
        let joins = is_dir(old) && !opaque;
        // What was in the way hid what is below, and goes on hiding it.
        let mut hides = opaque || (old.is_some() && !is_dir(old));
        if !joins {
            if old.is_some() {
                remove(to, name, &shown)?;
            }
            copy_exactly(from, name, stat, to, &shown)?;
        }
        let b = open_dir(to, name).map_err(TreeError::io("open", &*shown))?;
        hides |= joins && self.lay.is_opaque(&b);
        let seen = match below.filter(|_| !hides && is_dir(under)) {
            Some(below) => Some(open_dir(below, name).map_err(TreeError::io("open", &*shown))?),
            None => None,
        };
        self.level(&a, &b, seen.as_ref(), path)?;
        clear_xattrs(&b, &shown)?;
        give_attributes(&a, &b, stat, &shown)?;
        if hides && is_dir(under) {
            rustix::fs::fsetxattr(&b, self.lay.opaque(), b"y", XattrFlags::empty())
                .map_err(TreeError::io("mark", &*shown))?;
            rustix::fs::futimens(&b, &times(stat))
                .map_err(TreeError::io("set times of", &*shown))?;
        }
        Ok(())
    }
}

/// Takes away what an earlier layer's folder had.
fn clear_xattrs(dir: &OwnedFd, shown: &str) -> Result<(), TreeError> {
    let mut names = vec![0u8; 64 << 10];
    let n = rustix::fs::flistxattr(dir, &mut names[..]).unwrap_or(0);
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        // Those of the host's own stay: they cannot be taken away, nor are they of the layer.
        if !name.starts_with(b"security.selinux") {
            rustix::fs::fremovexattr(dir, OsStr::from_bytes(name))
                .map_err(TreeError::io("remove attributes of", shown))?;
        }
    }
    Ok(())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
