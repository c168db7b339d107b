//! Mounts through the file-descriptor interface (`fsopen`, `open_tree`, `move_mount`).
//!
//! Every mount is made *detached*: it is a file descriptor first, has no place in any tree, can be
//! walked with `openat2`, and is gone when the descriptor is closed. What shall be seen by a
//! process is then attached to a directory that is itself given by descriptor, never by a path
//! that somebody could have swapped.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};
use rustix::mount as rx;

/// The most lower directories the kernel takes in one overlay.
pub const MAX_LOWERS: usize = 500;

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

/// The parts of an overlay.
#[derive(Debug, Clone, Copy)]
pub struct OverlaySpec<'a> {
    /// Read-only directories, the **top** layer first.
    pub lowers: &'a [PathBuf],
    /// Where changes go, and the kernel's scratch directory beside it; `None`: read-only.
    pub upper: Option<(&'a Path, &'a Path)>,
    /// No syncs at all for the upper directory: right for what is thrown away after a crash.
    pub volatile: bool,
    /// Keep overlay's marks in `user.*` attributes, as a user namespace must.
    pub userxattr: bool,
}

/// Mounts the union of the directories, detached.
///
/// overlayfs itself wants two lowers, or a lower and an upper. The cases below that are answered
/// with a bind of the single directory (read-only when it is a lower), so that callers need not
/// know. Inode and device numbers then are those of the directory itself.
///
/// # Errors
/// [`MountError`], with the kernel's sentence. No directory at all, or more than [`MAX_LOWERS`],
/// is `InvalidInput`.
pub fn overlay(layers: &OverlaySpec<'_>) -> Result<OwnedFd, MountError> {
    let refuse = |why| {
        MountError::new("mount overlay", "", io::Error::new(io::ErrorKind::InvalidInput, why))
    };
    match (layers.lowers, layers.upper) {
        ([], None) => Err(refuse("no directory given")),
        ([], Some((upper, _))) => clone_path(upper, false),
        ([only], None) => {
            let tree = clone_path(only, false)?;
            set_attr(&tree, false, Attr { set: AttrFlags::RDONLY, ..Attr::default() })?;
            Ok(tree)
        }
        (lowers, _) if lowers.len() > MAX_LOWERS => Err(refuse("more than 500 lower directories")),
        (lowers, upper) => union(lowers, upper, layers),
    }
}

fn union(
    lowers: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    spec: &OverlaySpec<'_>,
) -> Result<OwnedFd, MountError> {
    let fs = Context::open("overlay")?;
    for dir in lowers {
        fs.string("lowerdir+", dir.as_os_str())?;
    }
    if let Some((upper, work)) = upper {
        fs.string("upperdir", &unescaped(upper))?;
        fs.string("workdir", &unescaped(work))?;
        if spec.volatile {
            fs.flag("volatile")?;
        }
    }
    if spec.userxattr {
        // The kernel forces the safe values of the options below itself, and refuses to be told.
        fs.flag("userxattr")?;
    } else {
        // Distributions change these defaults; each would make the upper say less than the tree.
        for (key, value) in [("redirect_dir", "nofollow"), ("index", "off"), ("metacopy", "off")] {
            fs.string(key, OsStr::new(value))?;
        }
    }
    fs.finish(AttrFlags::empty())
}

/// `upperdir` and `workdir` have backslashes taken out of them by the kernel, `lowerdir+` has not.
fn unescaped(path: &Path) -> std::ffi::OsString {
    let bytes = path.as_os_str().as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    for &b in bytes {
        if b == b'\\' {
            out.push(b'\\');
        }
        out.push(b);
    }
    std::ffi::OsString::from_vec(out)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// These need the right to mount; without it the test says so where nobody can miss it.
    fn root() -> bool {
        let may = rustix::process::geteuid().is_root();
        if !may {
            eprintln!("\n*** SKIPPED, NOT TESTED: mounting needs root ***\n");
        }
        may
    }

    fn read(tree: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
        let fd = rustix::fs::openat(tree, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buf = [0; 64];
        let n = rustix::io::read(&fd, &mut buf[..])?;
        Ok(buf[..n].to_vec())
    }

    fn write(tree: &OwnedFd, name: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(tree, name, flags, Mode::from_raw_mode(0o644))?;
        rustix::io::write(&fd, b"new")?;
        Ok(())
    }

    /// Three directories `a`, `b`, `c` with a file `who` each, and `u`, `w`; all below a name that
    /// mount option strings would trip over.
    fn trees() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("odd,:=\\ \"name");
        for d in ["a", "b", "c", "u", "w"] {
            fs::create_dir_all(base.join(d)).unwrap();
        }
        for d in ["a", "b", "c"] {
            fs::write(base.join(d).join("who"), d).unwrap();
            fs::write(base.join(d).join(format!("only-{d}")), d).unwrap();
        }
        (dir, move |d| base.join(d))
    }

    #[test]
    fn union_shows_the_first_lower_on_top_and_writes_go_to_the_upper() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        let lowers = [at("a"), at("b"), at("c")];
        let upper = (at("u"), at("w"));
        let spec = OverlaySpec {
            lowers: &lowers,
            upper: Some((&upper.0, &upper.1)),
            volatile: true,
            userxattr: false,
        };
        let tree = overlay(&spec).unwrap();
        assert_eq!(read(&tree, "who").unwrap(), b"a");
        assert_eq!(read(&tree, "only-c").unwrap(), b"c");
        write(&tree, "fresh").unwrap();
        assert_eq!(fs::read(at("u").join("fresh")).unwrap(), b"new");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("odd,"), "a detached mount must have no place: {mounts}");
    }

    #[test]
    fn without_upper_nothing_can_be_written() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        for lowers in [vec![at("b")], vec![at("b"), at("c")]] {
            let spec =
                OverlaySpec { lowers: &lowers, upper: None, volatile: false, userxattr: false };
            let tree = overlay(&spec).unwrap();
            assert_eq!(read(&tree, "who").unwrap(), b"b");
            let err = write(&tree, "fresh").unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::ReadOnlyFilesystem, "{} lowers", lowers.len());
        }
    }

    #[test]
    fn no_lower_is_the_upper_itself() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        let upper = (at("u"), at("w"));
        let spec = OverlaySpec {
            lowers: &[],
            upper: Some((&upper.0, &upper.1)),
            volatile: true,
            userxattr: false,
        };
        let tree = overlay(&spec).unwrap();
        write(&tree, "fresh").unwrap();
        assert_eq!(fs::read(at("u").join("fresh")).unwrap(), b"new");
    }

    #[test]
    fn errors_carry_the_kernels_sentence() {
        if !root() {
            return;
        }
        let (_dir, at) = trees();
        let lowers = [at("a"), at("missing")];
        let spec = OverlaySpec { lowers: &lowers, upper: None, volatile: false, userxattr: false };
        let err = overlay(&spec).unwrap_err();
        assert_eq!(err.source.kind(), io::ErrorKind::NotFound);
        assert!(err.to_string().contains("missing"), "{err}");

        // Not a directory for the work folder: overlayfs says so itself.
        let lowers = [at("a")];
        let upper = (at("u"), at("a").join("who"));
        let spec = OverlaySpec {
            lowers: &lowers,
            upper: Some((&upper.0, &upper.1)),
            volatile: false,
            userxattr: false,
        };
        let err = overlay(&spec).unwrap_err();
        assert!(err.kernel.is_some(), "{err:?}");
    }

    #[test]
    fn impossible_specs_are_refused_before_the_kernel_sees_them() {
        let many = vec![PathBuf::from("/nowhere"); MAX_LOWERS + 1];
        for lowers in [&[][..], &many[..]] {
            let spec = OverlaySpec { lowers, upper: None, volatile: false, userxattr: false };
            assert_eq!(overlay(&spec).unwrap_err().source.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
