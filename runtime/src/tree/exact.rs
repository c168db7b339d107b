//! One file of a layer made again, as it is: holes, owner, mode, attributes, times. Owners that are
//! recorded are attributes like others.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rgraph_image::layer::chmod_at;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::TreeError;
use super::copy::copy_bytes;

/// Makes `name` of `from` again in `to`, where nothing of that name is. A folder is made empty, with the
/// attributes that it has before anything is made in it.
pub(crate) fn copy_exactly(
    from: &OwnedFd,
    name: &OsStr,
    stat: &Stat,
    to: &OwnedFd,
    shown: &str,
) -> Result<(), TreeError> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())
                .map_err(TreeError::io("open", shown))?;
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))
                .map_err(TreeError::io("create", shown))?;
            copy_data(&source, &target, stat).map_err(TreeError::std("copy", shown))?;
            give_attributes(&source, &target, stat, shown)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())
                .map_err(TreeError::io("read link", shown))?;
            rustix::fs::symlinkat(&target, to, name).map_err(TreeError::io("make link", shown))?;
            named(from, name, stat, to, shown)
        }
        // Nobody listens on a copy.
        FileType::Socket => Ok(()),
        FileType::Directory => rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))
            .map_err(TreeError::io("make folder", shown)),
        kind => {
            rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
                .map_err(TreeError::io("make device", shown))?;
            named(from, name, stat, to, shown)
        }
    }
}

/// What is in a file, and nothing where nothing is: a file may say to be larger than the disk.
fn copy_data(source: &OwnedFd, target: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let size = stat.st_size as u64;
    // In units of 512 bytes, whatever the file system's own are (stat(2)).
    if stat.st_blocks as u64 * 512 >= size {
        return copy_bytes(source, target, size);
    }
    rustix::fs::ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let from = match rustix::fs::seek(source, SeekFrom::Data(at as _)) {
            Ok(from) => from,
            // Nothing but a hole.
            Err(Errno::NXIO) => return Ok(()),
            // A file system that does not know: by hand, zeros and all.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        let end = match rustix::fs::seek(source, SeekFrom::Hole(from as _)) {
            Ok(end) => end,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(e) => return Err(e.into()),
        };
        copy_part(source, target, from, end)?;
        at = end;
    }
    Ok(())
}

fn copy_part(source: &OwnedFd, target: &OwnedFd, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let n = rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut buffer[..most], at))?;
        if n == 0 {
            return Ok(());
        }
        let mut left = &buffer[..n];
        while !left.is_empty() {
            let done = rustix::io::retry_on_intr(|| rustix::io::pwrite(target, left, at))?;
            left = &left[done..];
            at += done as u64;
        }
    }
    Ok(())
}

/// The attributes of what cannot be opened, or does things when it is.
fn named(
    from: &OwnedFd,
    name: &OsStr,
    stat: &Stat,
    to: &OwnedFd,
    shown: &str,
) -> Result<(), TreeError> {
    let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(TreeError::io("chown", shown))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        chmod_at(to, name, stat.st_mode & 0o7777).map_err(TreeError::std("chmod", shown))?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = |dir| {
        rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(TreeError::io("open", shown))
    };
    copy_xattrs(&handle(from)?, &handle(to)?, shown)?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(TreeError::io("set times of", shown))
}

/// Owner, then mode (a change of owner clears setuid), then attributes (and capabilities), then times.
pub(crate) fn give_attributes(
    from: &OwnedFd,
    to: &OwnedFd,
    stat: &Stat,
    shown: &str,
) -> Result<(), TreeError> {
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
        .map_err(TreeError::io("chown", shown))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .map_err(TreeError::io("chmod", shown))?;
    copy_xattrs(from, to, shown)?;
    rustix::fs::futimens(to, &times(stat)).map_err(TreeError::io("set times of", shown))
}

/// The modification time as both times of a file.
pub(crate) fn times(stat: &Stat) -> Timestamps {
    let t = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: t, last_modification: t }
}

/// What overlayfs keeps with a file for itself, by either name.
fn is_overlays(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"user.fuseoverlayfs."]
        .iter()
        .any(|own| name.starts_with(own))
}

/// All attributes but those of overlayfs and of the host's security modules.
fn copy_xattrs(from: &OwnedFd, to: &OwnedFd, shown: &str) -> Result<(), TreeError> {
    let failed = |e| TreeError::io("copy attributes of", shown)(e);
    let (from, to) = (own_path(from), own_path(to));
    for name in xattr_names(&from).map_err(failed)? {
        if is_overlays(&name) || name.starts_with(b"security.selinux") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let key = OsStr::from_bytes(&name);
        let len = match rustix::fs::getxattr(&from, key, &mut value[..]) {
            Ok(len) => len,
            // Listed, but not for this user.
            Err(Errno::NODATA | Errno::PERM) => continue,
            Err(e) => return Err(failed(e)),
        };
        match rustix::fs::setxattr(&to, key, &value[..len], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

/// Takes away what means something to overlayfs: a step that works in a plain folder may have put it there.
pub(crate) fn drop_overlays_xattrs(file: &OwnedFd, shown: &str) -> Result<(), TreeError> {
    let failed = |e| TreeError::io("clean the attributes of", shown)(e);
    let path = own_path(file);
    for name in xattr_names(&path).map_err(failed)?.iter().filter(|n| is_overlays(n)) {
        rustix::fs::removexattr(&path, OsStr::from_bytes(name)).map_err(failed)?;
    }
    Ok(())
}

/// No name of a tree is looked up again by it, and it works for handles of all kinds.
fn own_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn xattr_names(path: &str) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = [0u8; 512];
    let mut all;
    let list = match rustix::fs::listxattr(path, &mut names[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(n) => &names[..n],
        Err(Errno::RANGE) => {
            // The kernel's limit.
            all = vec![0; 64 << 10];
            let n = rustix::fs::listxattr(path, &mut all[..])?;
            &all[..n]
        }
        Err(e) => return Err(e),
    };
    Ok(list.split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
}
