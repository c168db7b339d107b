//! What a container changed: its upper directory, told against the image below.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rgraph_image::layer::means_deleted;
use rustix::fs::{AtFlags, Mode, OFlags, statat};

use super::{ContainerError, at};

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It, or something in it, is another.
    Changed,
    /// It is gone.
    Deleted,
}

impl Change {
    /// `A`, `C` or `D`.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// What an upper directory changes of `below`, a mount of what it lies on (`None`: nothing), by
/// path. Folders with changes in them count as changed.
///
/// # Errors
/// Something cannot be read.
pub fn changes(
    upper: &Path,
    below: Option<&OwnedFd>,
    userxattr: bool,
) -> Result<BTreeMap<PathBuf, Change>, ContainerError> {
    let mut out = BTreeMap::new();
    walk(upper, Path::new("/"), below.map(AsFd::as_fd), userxattr, &mut out)?;
    Ok(out)
}

fn walk(
    dir: &Path,
    shown: &Path,
    below: Option<BorrowedFd<'_>>,
    userxattr: bool,
    out: &mut BTreeMap<PathBuf, Change>,
) -> Result<(), ContainerError> {
    let entries = fs::read_dir(dir).map_err(at("read", dir))?;
    let mut kept = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at("read", dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        let meta = entry.metadata().map_err(at("look at", &path))?;
        let was = below.and_then(|b| statat(b, &name, AtFlags::SYMLINK_NOFOLLOW).ok());
        let place = shown.join(&name);
        if means_deleted(meta.mode(), meta.rdev()) {
            if was.is_some() {
                out.insert(place, Change::Deleted);
            }
            continue;
        }
        let change = if was.is_some() { Change::Changed } else { Change::Added };
        out.insert(place.clone(), change);
        if meta.is_dir() {
            let inner = below.and_then(|b| {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(b, &name, flags, Mode::empty()).ok()
            });
            walk(&path, &place, inner.as_ref().map(AsFd::as_fd), userxattr, out)?;
        }
        kept.push(name);
    }
    if let Some(below) = below.filter(|_| is_opaque(dir, userxattr)) {
        let names = rgraph_sys::tree::names(below).map_err(at("read", dir))?;
        for name in names.into_iter().filter(|n| !kept.contains(n)) {
            out.insert(shown.join(name), Change::Deleted);
        }
    }
    Ok(())
}

/// It hides all that lies below it.
fn is_opaque(dir: &Path, userxattr: bool) -> bool {
    let name = if userxattr { c"user.overlay.opaque" } else { c"trusted.overlay.opaque" };
    let mut value = [0; 4];
    let Ok(path) = std::ffi::CString::new(dir.as_os_str().as_bytes()) else { return false };
    matches!(rustix::fs::lgetxattr(path.as_c_str(), name, &mut value), Ok(1) if value[0] == b'y')
}
