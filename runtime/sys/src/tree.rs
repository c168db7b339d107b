//! Looking into a root file system that may be hostile: by handle, never out of it.
//!
//! Absolute symbolic links are resolved within the root, as a process inside would; links of
//! `/proc` that lead anywhere are refused.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps};
use rustix::io::Errno;

/// What [`find`] and [`entry`] open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// A handle for walking, mounting and asking.
    Handle,
    /// A directory to be read.
    Directory,
    /// A file to be read; opening never waits, whatever it is.
    File,
}

impl As {
    fn flags(self) -> OFlags {
        OFlags::CLOEXEC
            | match self {
                Self::Handle => OFlags::PATH,
                Self::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
                Self::File => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
            }
    }
}

/// Opens `path` below `root`, following links but never out of it.
///
/// # Errors
/// The error of `openat2(2)`.
pub fn find(root: impl AsFd, path: &Path, how: As) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    open2(&root, path, how.flags(), resolve)
}

/// Opens `path` below `root` when nothing on the way is a link or another mount.
///
/// # Errors
/// The error of `openat2(2)`.
pub fn find_plain(root: impl AsFd, path: &Path, how: As) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    open2(&root, path, how.flags(), resolve)
}

fn open2(dir: impl AsFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    // EAGAIN: something was renamed meanwhile and the kernel could not be sure. The bound is for
    // somebody who renames all the time.
    for _ in 0..128 {
        match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens the entry `name` of `dir`, a link itself and not what it leads to.
///
/// # Errors
/// The error of `openat(2)`; `InvalidInput` for a name that is a path.
pub fn entry(dir: impl AsFd, name: &OsStr, how: As) -> io::Result<OwnedFd> {
    single(name)?;
    Ok(rustix::fs::openat(dir, name, how.flags() | OFlags::NOFOLLOW, Mode::empty())?)
}

fn single(name: &OsStr) -> io::Result<()> {
    let bytes = name.as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&b'/') || bytes == b"." || bytes == b".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain name"));
    }
    Ok(())
}

/// What kind of thing a [`Stat`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// Device, pipe or socket.
    Other,
}

/// What is known about an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Kind.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Inode number.
    pub ino: u64,
    /// Which mount it was reached through.
    pub mount: u64,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, u32),
}

/// Asks about an open file or handle.
///
/// # Errors
/// The error of `statx(2)`.
pub fn stat(fd: impl AsFd) -> io::Result<Stat> {
    let want = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let s = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, want)?;
    let kind = match FileType::from_raw_mode(s.stx_mode.into()) {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    Ok(Stat {
        kind,
        mode: u32::from(s.stx_mode) & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        size: s.stx_size,
        ino: s.stx_ino,
        mount: s.stx_mnt_id,
        mtime: (s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec),
    })
}

/// Where the link that `handle` is open on leads.
///
/// # Errors
/// The error of `readlinkat(2)`.
pub fn link_target(handle: impl AsFd) -> io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(handle, c"", Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

/// The path of what `fd` is open on, as the kernel names it.
///
/// # Errors
/// The error of reading `/proc/self/fd`.
pub fn path_of(fd: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Makes a directory, whatever the umask.
///
/// # Errors
/// The error of `mkdirat(2)`.
pub fn make_dir(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    single(name)?;
    rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode))?;
    let fd = entry(&dir, name, As::Directory)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
    Ok(fd)
}

/// Makes an empty file, whatever the umask; it must not exist.
///
/// # Errors
/// The error of `openat(2)`.
pub fn make_file(dir: impl AsFd, name: &OsStr, mode: u32) -> io::Result<std::fs::File> {
    single(name)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(mode & 0o777))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
    Ok(fd.into())
}

/// Makes a symbolic link.
///
/// # Errors
/// The error of `symlinkat(2)`.
pub fn make_link(dir: impl AsFd, name: &str, target: &str) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, dir, name)?)
}

/// Makes a device, whatever the umask; `numbers`: major and minor, `owner`: user and group.
///
/// # Errors
/// The error of `mknodat(2)`.
pub fn make_device(
    dir: impl AsFd,
    name: &str,
    block: bool,
    numbers: (u32, u32),
    mode: u32,
    owner: (u32, u32),
) -> io::Result<()> {
    let dev = rustix::fs::makedev(numbers.0, numbers.1);
    let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
    let kind = if block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::mknodat(&dir, name, kind, mode, dev)?;
    rustix::fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::chmodat(&dir, name, mode, AtFlags::empty())?)
}

/// Changes the owner of an open file.
///
/// # Errors
/// The error of `fchown(2)`.
pub fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(rustix::fs::fchown(fd, Some(uid), Some(gid))?)
}

/// Sets the modification time of an open file or directory and leaves the access time.
///
/// # Errors
/// The error of `futimens(2)`.
pub fn set_mtime(fd: impl AsFd, mtime: (i64, u32)) -> io::Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let last_modification = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    Ok(rustix::fs::futimens(fd, &Timestamps { last_access: omit, last_modification })?)
}

/// Removes the entry `name`, a directory only when it is empty.
///
/// # Errors
/// The error of `unlinkat(2)`.
pub fn remove(dir: impl AsFd, name: &OsStr, kind: Kind) -> io::Result<()> {
    single(name)?;
    let flags = if kind == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    Ok(rustix::fs::unlinkat(dir, name, flags)?)
}

/// The names in an open directory.
///
/// # Errors
/// The error of `getdents64(2)`.
pub fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            out.push(OsString::from_vec(name));
        }
    }
    Ok(out)
}

/// Reads a regular file below `root`, at most `limit` bytes. `None`: there is no such file.
///
/// # Errors
/// `InvalidData` when it is longer or not a regular file; otherwise that of opening or reading.
pub fn read_small(root: impl AsFd, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    // The handle first: opening a device for reading may already do something.
    let handle = match find(&root, path, As::Handle) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        handle => handle?,
    };
    let stat = stat(&handle)?;
    if stat.kind != Kind::File {
        return refuse("not a regular file".into());
    }
    if stat.size > limit {
        return refuse(format!("longer than {limit} bytes"));
    }
    let name = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let fd = rustix::fs::open(name, As::File.flags(), Mode::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return refuse(format!("longer than {limit} bytes"));
    }
    Ok(Some(bytes))
}

/// True when an open directory of an overlay's upper has attributes that mean something to others
/// than overlayfs, or says that it hides what is below it.
///
/// # Errors
/// The error of `flistxattr(2)` or `fgetxattr(2)`.
pub fn has_meaningful_xattr(dir: impl AsFd) -> io::Result<bool> {
    let mut list = vec![0u8; 64 << 10];
    let used = rustix::fs::flistxattr(&dir, &mut list[..])?;
    let own = [&b"trusted.overlay."[..], b"user.overlay."];
    Ok(list[..used].split(|b| *b == 0).filter(|n| !n.is_empty()).any(|name| {
        !own.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with(b".opaque")
    }))
}
