//! Mounts through the file-descriptor interface (`fsopen`, `open_tree`, `move_mount`).
//!
//! Every mount is made *detached*: it is a file descriptor first, has no place in any tree, can be
//! walked with `openat2`, and is gone when the descriptor is closed. What shall be seen by a
//! process is then attached to a directory that is itself given by descriptor, never by a path
//! that somebody could have swapped.

mod overlay;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};
use rustix::mount as rx;

pub use overlay::{MAX_LOWERS, OverlaySpec, overlay};

/// A failed step on the way to a mount.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} `{what}`{}", kernel.as_deref().map(|k| format!(" (kernel: {k})")).unwrap_or_default())]
pub struct MountError {
    /// What was tried, as a verb phrase.
    pub step: &'static str,
    /// On what: a path, an option or the name of a file system.
    pub what: String,
    /// The kernel's own sentence, when it left one.
    pub kernel: Option<String>,
    /// The error code.
    #[source]
    pub source: io::Error,
}

impl MountError {
    fn new(step: &'static str, what: impl AsRef<OsStr>, source: impl Into<io::Error>) -> Self {
        let what = what.as_ref().to_string_lossy().into_owned();
        Self { step, what, kernel: None, source: source.into() }
    }

    /// A handle of a mount could not be copied.
    pub fn of_handle(what: &str, source: io::Error) -> Self {
        Self::new("copy a handle of", what, source)
    }

    fn from_context(
        fs: &OwnedFd,
        step: &'static str,
        what: impl AsRef<OsStr>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self { kernel: kernel_message(fs), ..Self::new(step, what, source) }
    }
}

/// Reads what the kernel wrote about a failed `fsconfig`: records `e text`, `w text`, `i text`.
/// The last error counts; without one, the last of any kind.
fn kernel_message(fs: &OwnedFd) -> Option<String> {
    let mut last: Option<(bool, String)> = None;
    // At most eight records are kept by the kernel; the bound guards against a surprise.
    for _ in 0..16 {
        let mut buf = [0u8; 1024];
        let Ok(n) = rustix::io::read(fs, &mut buf[..]) else { break };
        let text = String::from_utf8_lossy(&buf[..n]);
        let text = text.trim_end();
        let (is_error, text) = match text.split_once(' ') {
            Some(("e", t)) => (true, t),
            Some(("w" | "i", t)) => (false, t),
            _ => (false, text),
        };
        if is_error || last.as_ref().is_none_or(|(e, _)| !e) {
            last = Some((is_error, text.to_owned()));
        }
    }
    last.map(|(_, text)| text)
}

/// A file system being configured.
struct Context {
    fd: OwnedFd,
    name: &'static str,
}

impl Context {
    fn open(name: &'static str) -> Result<Self, MountError> {
        let fd = rx::fsopen(name, rx::FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| MountError::new("open file system", name, e))?;
        let fs = Self { fd, name };
        // Only for those who read the mount table.
        fs.string("source", OsStr::new(name))?;
        Ok(fs)
    }

    fn string(&self, key: &'static str, value: &OsStr) -> Result<(), MountError> {
        rx::fsconfig_set_string(&self.fd, key, value).map_err(|e| {
            let mut what = std::ffi::OsString::from(format!("{}: {key}=", self.name));
            what.push(value);
            MountError::from_context(&self.fd, "set option", what, e)
        })
    }

    fn flag(&self, key: &'static str) -> Result<(), MountError> {
        rx::fsconfig_set_flag(&self.fd, key).map_err(|e| {
            MountError::from_context(&self.fd, "set option", format!("{}: {key}", self.name), e)
        })
    }

    fn finish(self, attrs: AttrFlags) -> Result<OwnedFd, MountError> {
        rx::fsconfig_create(&self.fd)
            .map_err(|e| MountError::from_context(&self.fd, "create file system", self.name, e))?;
        rx::fsmount(
            &self.fd,
            rx::FsMountFlags::FSMOUNT_CLOEXEC,
            rx::MountAttrFlags::from_bits_retain(attrs.0 as u32),
        )
        .map_err(|e| MountError::from_context(&self.fd, "mount", self.name, e))
    }
}

/// Mounts a file system without a backing directory (`proc`, `sysfs`, `tmpfs`, ...), detached.
/// An option without value is a flag.
///
/// # Errors
/// [`MountError`], with the kernel's sentence.
pub fn filesystem(
    name: &'static str,
    options: &[(&'static str, Option<&str>)],
    attrs: AttrFlags,
) -> Result<OwnedFd, MountError> {
    let fs = Context::open(name)?;
    for (key, value) in options {
        match value {
            Some(value) => fs.string(key, OsStr::new(value))?,
            None => fs.flag(key)?,
        }
    }
    fs.finish(attrs)
}

/// Properties of a mount, as `mount_setattr(2)` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttrFlags(u64);

impl AttrFlags {
    /// No writes.
    pub const RDONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    /// setuid bits and file capabilities have no effect.
    pub const NOSUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    /// Device files cannot be opened.
    pub const NODEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    /// Files cannot be executed.
    pub const NOEXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    /// Every access changes the access time.
    pub const STRICTATIME: Self = Self(libc::MOUNT_ATTR_STRICTATIME);

    /// No property.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A change of a mount's properties.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attr {
    /// Properties to set.
    pub set: AttrFlags,
    /// Properties to clear.
    pub clear: AttrFlags,
    /// Take the mount out of its peer group.
    pub private: bool,
}

/// Changes the properties of a mount, and with `recursive` of all below it.
///
/// # Errors
/// [`MountError`].
pub fn set_attr(mount: impl AsFd, recursive: bool, attr: Attr) -> Result<(), MountError> {
    let raw = libc::mount_attr {
        attr_set: attr.set.0,
        attr_clr: attr.clear.0,
        propagation: if attr.private { libc::MS_PRIVATE } else { 0 },
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is borrowed for the call, the path is a NUL-terminated literal, and
    // `raw` is a live `mount_attr` of the size passed; the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(MountError::new(
            "change mount attributes of",
            "a detached mount",
            io::Error::last_os_error(),
        ))
    }
}

/// A detached second view of the tree at `path`; with `recursive` the mounts below it too.
///
/// # Errors
/// [`MountError`].
pub fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd, MountError> {
    open_tree(CWD, path, recursive, rx::OpenTreeFlags::empty())
}

/// A detached second view of what `fd` is open on, be it directory or file; a mount on top of it
/// is not taken.
///
/// # Errors
/// [`MountError`].
pub fn clone_fd(fd: impl AsFd, recursive: bool) -> Result<OwnedFd, MountError> {
    open_tree(fd.as_fd(), Path::new(""), recursive, rx::OpenTreeFlags::AT_EMPTY_PATH)
}

/// A detached view of the tree at `path` through which nobody writes.
///
/// # Errors
/// [`MountError`].
pub fn read_only(path: &Path) -> Result<OwnedFd, MountError> {
    let tree = clone_path(path, false)?;
    set_attr(&tree, false, Attr { set: AttrFlags::RDONLY, ..Attr::default() })?;
    Ok(tree)
}

fn open_tree(
    dir: BorrowedFd<'_>,
    path: &Path,
    recursive: bool,
    extra: rx::OpenTreeFlags,
) -> Result<OwnedFd, MountError> {
    let mut flags =
        rx::OpenTreeFlags::OPEN_TREE_CLONE | rx::OpenTreeFlags::OPEN_TREE_CLOEXEC | extra;
    if recursive {
        flags |= rx::OpenTreeFlags::AT_RECURSIVE;
    }
    rx::open_tree(dir, path, flags).map_err(|e| MountError::new("clone mount of", path, e))
}

/// Puts a detached mount on the file or directory that `target` is open on.
///
/// # Errors
/// [`MountError`]; `name` says what is mounted.
pub fn attach(mount: impl AsFd, target: impl AsFd, name: &str) -> Result<(), MountError> {
    let flags =
        rx::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | rx::MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rx::move_mount(mount.as_fd(), c"", target.as_fd(), c"", flags)
        .map_err(|e| MountError::new("attach mount", name, e))
}

/// Cuts the whole mount namespace off from the one it was copied from: nothing mounted here is
/// seen there, nor the other way round.
///
/// # Errors
/// [`MountError`].
pub fn make_all_private() -> Result<(), MountError> {
    let change = rx::MountPropagationFlags::PRIVATE | rx::MountPropagationFlags::REC;
    rx::mount_change(c"/", change).map_err(|e| MountError::new("make private", "/", e))
}

/// Makes `root` the root of this process's mount namespace and its working directory, and drops
/// the old root with all that is mounted in it or on it.
///
/// # Errors
/// [`MountError`]; the namespace is then in an unknown state and must not be used.
pub fn pivot_into(root: impl AsFd) -> Result<(), MountError> {
    let root = root.as_fd();
    let fail = |step| move |e| MountError::new(step, "/", e);
    let id = |stat: rustix::io::Result<rustix::fs::Statx>| stat.map(|s| s.stx_mnt_id);
    let want = StatxFlags::MNT_ID;
    let own = id(statx(root, c"", AtFlags::EMPTY_PATH, want)).map_err(fail("look at new root"))?;
    rustix::process::fchdir(root).map_err(fail("enter new root"))?;
    // The same directory twice puts the old root on top of the new one, so that no directory for
    // it is needed. What was mounted on the old root lies on top of that.
    rustix::process::pivot_root(c".", c".").map_err(fail("pivot to new root"))?;
    for _ in 0..MAX_STACK {
        // `/..` is `/` with whatever is mounted on top of it.
        let top = id(statx(CWD, c"/..", AtFlags::empty(), want)).map_err(fail("look at"))?;
        if top == own {
            return rustix::process::chdir(c"/").map_err(fail("change to"));
        }
        rx::unmount(c".", rx::UnmountFlags::DETACH).map_err(fail("drop old root"))?;
    }
    let left = io::Error::other("the old root is still there");
    Err(MountError::new("drop old root", "/", left))
}

/// More mounts than this on top of each other at one place are not taken apart.
const MAX_STACK: usize = 10_000;

/// Detaches whatever is mounted at `path`.
///
/// # Errors
/// [`MountError`].
pub fn detach(path: &Path) -> Result<(), MountError> {
    rx::unmount(path, rx::UnmountFlags::DETACH).map_err(|e| MountError::new("unmount", path, e))
}

/// Opens a directory as a place to mount on or walk from, without reading it.
///
/// # Errors
/// The error of `open(2)`.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
