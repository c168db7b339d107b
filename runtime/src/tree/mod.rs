//! Trees of files below a held directory: resolving paths in them, finding what a pattern names,
//! copying between them.
//!
//! Invariant: no path of an image, a step or a context is ever resolved with the host's meaning.
//! Everything starts from a directory handle, goes one component at a time without following
//! links, and reads links itself, with `/` meaning the handle.

pub mod copy;
pub mod earlier;
pub(crate) mod exact;
pub mod find;
pub(crate) mod lay;
pub mod resolve;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Why a tree could not be read or changed. `path` is the path within the tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The kernel said no.
    #[error("cannot {verb} `{path}`")]
    Io {
        /// `open`, `copy`, ...
        verb: &'static str,
        /// Within the tree.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nothing there.
    #[error("`{path}` not found")]
    NotFound {
        /// Within the tree.
        path: String,
    },
    /// A file in place of a folder, or the reverse.
    #[error("cannot replace {what}: `{path}`")]
    WrongKind {
        /// `a folder by a file`, `a file by a folder`.
        what: &'static str,
        /// Within the tree.
        path: String,
    },
    /// A device node where there must be none.
    #[error("`{path}` is a device, which is not copied")]
    Device {
        /// Within the tree.
        path: String,
    },
    /// A symbolic mode that is none.
    #[error(transparent)]
    Mode(#[from] rgraph_ir::op::FileModeError),
    /// Patterns that are none.
    #[error("pattern `{pattern}`: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        why: String,
    },
    /// The build is to stop.
    #[error("canceled")]
    Cancelled,
}

impl TreeError {
    /// The path is made text only when there is an error.
    pub(crate) fn io(
        verb: &'static str,
        path: impl AsRef<OsStr>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |e| match e {
            rustix::io::Errno::NOENT => Self::NotFound { path: text(path) },
            e => Self::Io { verb, path: text(path), source: e.into() },
        }
    }

    pub(crate) fn std(
        verb: &'static str,
        path: impl AsRef<OsStr>,
    ) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { verb, path: text(path), source }
    }
}

fn text(path: impl AsRef<OsStr>) -> String {
    path.as_ref().to_string_lossy().into_owned()
}

/// Opens `name` of `dir` as a directory, without following a link, for use with the `*at` calls and
/// for reading.
pub(crate) fn open_dir(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Removes a name and all below it, without following links.
pub(crate) fn remove(parent: &OwnedFd, name: &OsStr, shown: &str) -> Result<(), TreeError> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(TreeError::io("remove", shown)(e)),
    }
    let dir = open_dir(parent, name).map_err(TreeError::io("open", shown))?;
    let names: Vec<_> = rustix::fs::Dir::read_from(&dir)
        .map_err(TreeError::io("read", shown))?
        .filter_map(|e| e.ok().map(|e| OsStr::from_bytes(e.file_name().to_bytes()).to_owned()))
        .filter(|n| n != "." && n != "..")
        .collect();
    for n in names {
        remove(&dir, &n, shown)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(TreeError::io("remove", shown))
}
