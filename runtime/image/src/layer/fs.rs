//! The system calls of this crate: everything below a root by folder handles, never by a path of
//! the host. Links are never followed unless a function says so.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use rustix::path::Arg;

use super::whiteout::is_whiteout;
use crate::tar::{Kind, Mtime};

/// Name and value of extended attributes.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What `stat` says, in this crate's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// `None`: a socket.
    pub kind: Option<Kind>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Mtime,
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    pub major: u32,
    pub minor: u32,
    whiteout: bool,
}

impl Meta {
    /// The mark for "deleted here".
    pub fn is_whiteout(&self) -> bool {
        self.whiteout
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Some(Kind::Dir)
    }
}

#[allow(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
fn meta(s: &Stat) -> Meta {
    let kind = match FileType::from_raw_mode(s.st_mode as u32) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::CharacterDevice => Some(Kind::Char),
        FileType::BlockDevice => Some(Kind::Block),
        _ => None,
    };
    Meta {
        kind,
        mode: s.st_mode as u32 & 0o7777,
        uid: s.st_uid,
        gid: s.st_gid,
        size: s.st_size as u64,
        mtime: Mtime { secs: s.st_mtime as i64, nanos: s.st_mtime_nsec as u32 },
        dev: s.st_dev as u64,
        ino: s.st_ino as u64,
        nlink: s.st_nlink as u64,
        major: rustix::fs::major(s.st_rdev as u64),
        minor: rustix::fs::minor(s.st_rdev as u64),
        whiteout: is_whiteout(s),
    }
}

/// Opens a folder of the host that the caller owns.
pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

pub(crate) fn stat(fd: impl AsFd) -> io::Result<Meta> {
    Ok(meta(&rustix::fs::fstat(fd)?))
}

pub(crate) fn stat_at(dir: impl AsFd, name: &[u8]) -> io::Result<Meta> {
    Ok(meta(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
}

/// `None`: there is nothing of that name.
pub(crate) fn exists_at(dir: impl AsFd, name: &[u8]) -> io::Result<Option<Meta>> {
    match stat_at(dir, name) {
        Ok(m) => Ok(Some(m)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Names in a folder, sorted by their bytes.
pub(crate) fn list(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a folder for reading its names.
pub(crate) fn open_dir(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens a file for reading; does not hang on a pipe that took its place.
pub(crate) fn open_file(dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Makes a file that must not be there. `mode`: its permissions, of which the process's mask takes some.
pub(crate) fn create_file(dir: impl AsFd, name: &[u8], mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))?)
}

fn openat2(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(dir, path, flags, Mode::empty(), how) {
            // A rename somewhere made `..` unsafe to judge; it is worth another try.
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
}

/// A handle on a folder at `path` below `root`, no link on the way.
pub(crate) fn dir_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, OFlags::PATH | OFlags::DIRECTORY, how)
}

/// A handle on whatever is at `path` below `root`, no link on the way and none followed at its end.
pub(crate) fn handle_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, OFlags::PATH | OFlags::NOFOLLOW, how)
}

/// A file or folder at `path` below `root` for reading, no link on the way.
pub(crate) fn read_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, OFlags::RDONLY | OFlags::NONBLOCK, how)
}

/// A handle on the folder that `path` means to a process whose root is `root`.
pub(crate) fn dir_in_root(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::PATH | OFlags::DIRECTORY, how)
}

pub(crate) fn mkdir(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?)
}

pub(crate) fn symlink(target: &[u8], dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, dir, name)?)
}

/// Another name for what `from_name` is, a link itself if it is one.
pub(crate) fn link(
    from: impl AsFd,
    from_name: &[u8],
    to: impl AsFd,
    to_name: &[u8],
) -> io::Result<()> {
    Ok(rustix::fs::linkat(from, from_name, to, to_name, AtFlags::empty())?)
}

/// Makes a device or pipe.
pub(crate) fn mknod(
    dir: impl AsFd,
    name: &[u8],
    kind: Kind,
    major: u32,
    minor: u32,
) -> io::Result<()> {
    let kind = match kind {
        Kind::Char => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let dev = rustix::fs::makedev(major, minor);
    Ok(rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), dev)?)
}

pub(crate) fn readlink(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// Removes a file, link, device or a whole folder.
pub(crate) fn remove(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let inner = open_dir(dir.as_fd(), name)?;
    for child in list(&inner)? {
        remove(&inner, child.to_bytes())?;
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

pub(crate) fn chmod_fd(fd: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?)
}

/// Sets the permission bits of `name` in `dir`: a device or pipe that the caller has just made. A link
/// that took its place meanwhile is not followed.
///
/// # Errors
/// `ELOOP`: it is a link; the errors of `openat(2)` and `chmod(2)`.
pub fn chmod_at(dir: impl AsFd, name: impl Arg, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    // A handle for walking has no call of its own for this.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

fn times(t: Mtime) -> Timestamps {
    let t = Timespec { tv_sec: t.secs, tv_nsec: i64::from(t.nanos) };
    Timestamps { last_access: t, last_modification: t }
}

pub(crate) fn utime_fd(fd: impl AsFd, t: Mtime) -> io::Result<()> {
    Ok(rustix::fs::futimens(fd, &times(t))?)
}

pub(crate) fn utime_at(dir: impl AsFd, name: &[u8], t: Mtime) -> io::Result<()> {
    Ok(rustix::fs::utimensat(dir, name, &times(t), AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(crate) fn truncate(fd: impl AsFd, size: u64) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(fd, size)?)
}

pub(crate) fn write_at(fd: impl AsFd, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(&fd, data, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                data = &data[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

pub(crate) fn read(fd: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut *buf))?)
}

/// Bytes that can still be written to the file system of `fd`.
pub(crate) fn available(fd: impl AsFd) -> io::Result<u64> {
    let s = rustix::fs::fstatvfs(fd)?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}

/// One attribute of an open file or folder; `None` when it is not set.
pub(crate) fn xattr(fd: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut buf = vec![0u8; 64];
    loop {
        match rustix::fs::fgetxattr(&fd, name, &mut buf[..]) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(Some(buf));
            }
            Err(Errno::RANGE) => buf = vec![0; 64 << 10],
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

/// All attributes of an open file or folder, sorted by name.
pub(crate) fn xattrs(fd: impl AsFd) -> io::Result<Xattrs> {
    collect(
        |buf| rustix::fs::flistxattr(&fd, buf),
        |name, buf| rustix::fs::fgetxattr(&fd, name, buf),
    )
}

/// All attributes of what cannot be opened: links, devices, pipes. Goes through the handle's entry
/// in `/proc`, so that no name of the tree is looked up again.
pub(crate) fn xattrs_at(dir: impl AsFd, name: &[u8]) -> io::Result<Xattrs> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    collect(
        |buf| rustix::fs::listxattr(&path, buf),
        |name, buf| rustix::fs::getxattr(&path, name, buf),
    )
}

fn collect(
    names: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    value: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    /// The kernel's limit for the list and for each value.
    const MAX: usize = 64 << 10;
    let mut small = [0u8; 512];
    let mut big;
    let list = match names(&mut small) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(n) => &small[..n],
        Err(Errno::RANGE) => {
            big = vec![0; MAX];
            let n = names(&mut big)?;
            &big[..n]
        }
        Err(e) => return Err(e.into()),
    };
    let mut out = Vec::new();
    let mut buf = vec![0; MAX];
    for name in list.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match value(name, &mut buf) {
            Ok(n) => out.push((name.to_vec(), buf[..n].to_vec())),
            // Listed but not readable for this user (`trusted.*`), or gone since.
            Err(Errno::NODATA | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    out.sort();
    Ok(out)
}

pub(crate) fn set_xattr(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())?)
}

/// As [`set_xattr`] for what cannot be opened.
pub(crate) fn set_xattr_at(
    dir: impl AsFd,
    file: &[u8],
    name: &[u8],
    value: &[u8],
) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::setxattr(&path, name, value, XattrFlags::empty())?)
}

/// True for errors that say "this file system or user cannot keep this attribute".
pub(crate) fn xattr_unsupported(e: &io::Error) -> bool {
    let e = e.raw_os_error();
    e == Some(Errno::NOTSUP.raw_os_error()) || e == Some(Errno::PERM.raw_os_error())
}

/// True for errors that say "this id does not exist here" or "you may not give it away".
pub(crate) fn owner_unsupported(e: &io::Error) -> bool {
    let e = e.raw_os_error();
    e == Some(Errno::INVAL.raw_os_error()) || e == Some(Errno::PERM.raw_os_error())
}

/// True when a path walk met something that is no folder.
pub(crate) fn not_a_dir(e: &io::Error) -> bool {
    let e = e.raw_os_error();
    e == Some(Errno::NOTDIR.raw_os_error()) || e == Some(Errno::LOOP.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_took_the_place_of_a_pipe_is_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(tmp.path()).unwrap();
        let mode = |name: &str| stat_at(&dir, name.as_bytes()).unwrap().mode;
        mknod(&dir, b"pipe", Kind::Fifo, 0, 0).unwrap();
        chmod_at(&dir, "pipe", 0o666).unwrap();
        assert_eq!(mode("pipe"), 0o666);
        std::fs::write(tmp.path().join("host"), "").unwrap();
        chmod_at(&dir, "host", 0o600).unwrap();
        std::os::unix::fs::symlink("host", tmp.path().join("link")).unwrap();
        let e = chmod_at(&dir, "link", 0o666).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(mode("host"), 0o600);
    }
}
