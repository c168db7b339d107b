//! Who files belong to where the kernel knows but one user and one group: the owner is written down
//! beside the file, and in a tar it is the owner.
//!
//! A regular file or folder has it in an attribute of its own. The kernel keeps no such attributes of
//! links, pipes and sockets; those have it in the form of file capabilities, which mean something for
//! programs alone. Both are the file's own: they follow it through renames, further names and
//! overlayfs's copies. What has no record belongs to root.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::path::Arg;
use serde::{Deserialize, Serialize};

/// The attribute of files and folders: `33:33`.
pub const OWNER_ATTRIBUTE: &str = "user.rgraph.owner";
/// The attribute of all others.
const CAPABILITY: &str = "security.capability";
/// `VFS_CAP_REVISION_2` without flags, as the kernel shows what was set in the same namespace.
const REVISION: u32 = 0x0200_0000;
/// Where capabilities have their upper halves, which are of no use in a record.
const MARK: [u32; 2] = [0x7267_7261, 0x7068_6f77];

/// Where the owners of files are kept. Decided once, with the rights of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Owners {
    /// The kernel keeps them.
    #[default]
    Kernel,
    /// They are recorded; to the kernel all files are of one user.
    Recorded,
}

impl Owners {
    /// Gives what `fd` is open on to a user and a group.
    ///
    /// # Errors
    /// Those of `fchown(2)`, or of `fsetxattr(2)`.
    pub fn give(self, fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
        match self {
            Self::Kernel => {
                Ok(rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
            }
            Self::Recorded => {
                let plain = is_plain(rustix::fs::fstat(&fd)?.st_mode);
                Ok(record(own_path(&fd).as_str(), plain, (uid, gid))?)
            }
        }
    }

    /// Gives `name` in `dir` to a user and a group, a link itself if it is one.
    ///
    /// # Errors
    /// Those of `fchownat(2)`, or of opening a handle and `setxattr(2)`.
    pub fn give_at(self, dir: impl AsFd, name: impl Arg, uid: u32, gid: u32) -> io::Result<()> {
        match self {
            Self::Kernel => {
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                Ok(rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            Self::Recorded => self.give(handle(dir, name)?, uid, gid),
        }
    }

    /// The recorded owner and group of what `fd` is open on; `None`: what the kernel says is right.
    ///
    /// # Errors
    /// Those of `fstat(2)` and `getxattr(2)`.
    pub fn recorded(self, fd: impl AsFd) -> io::Result<Option<(u32, u32)>> {
        if self == Self::Kernel {
            return Ok(None);
        }
        let plain = is_plain(rustix::fs::fstat(&fd)?.st_mode);
        Ok(recorded(own_path(&fd).as_str(), plain)?)
    }

    /// As [`Self::recorded`] for `name` in `dir`, a link itself if it is one.
    ///
    /// # Errors
    /// Those of opening a handle, and of [`Self::recorded`].
    pub fn recorded_at(self, dir: impl AsFd, name: impl Arg) -> io::Result<Option<(u32, u32)>> {
        match self {
            Self::Kernel => Ok(None),
            Self::Recorded => self.recorded(handle(dir, name)?),
        }
    }

    /// True for the attribute that holds the record of a file of this mode: it is no content.
    pub fn is_record(self, attribute: &[u8], mode: u32) -> bool {
        self == Self::Recorded && attribute == attribute_of(is_plain(mode)).as_bytes()
    }
}

fn handle(dir: impl AsFd, name: impl Arg) -> rustix::io::Result<std::os::fd::OwnedFd> {
    rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn own_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// True for what can have attributes of a user's: by its mode with the kind.
pub fn is_plain(mode: u32) -> bool {
    matches!(FileType::from_raw_mode(mode), FileType::RegularFile | FileType::Directory)
}

fn attribute_of(plain: bool) -> &'static str {
    if plain { OWNER_ATTRIBUTE } else { CAPABILITY }
}

/// Records the owner of the file that `path` leads to. `plain` as [`is_plain`] says.
///
/// # Errors
/// Those of `setxattr(2)`.
pub fn record(path: impl Arg + Copy, plain: bool, owner: (u32, u32)) -> rustix::io::Result<()> {
    let name = attribute_of(plain);
    if owner == (0, 0) {
        return match rustix::fs::removexattr(path, name) {
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            done => done,
        };
    }
    let set = |value: &[u8]| rustix::fs::setxattr(path, name, value, XattrFlags::empty());
    if plain { set(format!("{}:{}", owner.0, owner.1).as_bytes()) } else { set(&packed(owner)) }
}

/// The recorded owner and group of the file that `path` leads to.
///
/// # Errors
/// Those of `getxattr(2)`.
pub fn recorded(path: impl Arg, plain: bool) -> rustix::io::Result<Option<(u32, u32)>> {
    let mut value = [0; 32];
    match rustix::fs::getxattr(path, attribute_of(plain), &mut value) {
        Ok(n) => Ok(if plain { parse(&value[..n]) } else { unpacked(&value[..n]) }),
        // Too long, or not to be had: nothing that was written here.
        Err(
            Errno::NODATA
            | Errno::NOTSUP
            | Errno::RANGE
            | Errno::PERM
            | Errno::INVAL
            | Errno::OVERFLOW,
        ) => Ok(None),
        Err(e) => Err(e),
    }
}

fn parse(text: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
    let id = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
    Some((id(uid)?, id(gid)?))
}

/// `struct vfs_cap_data`: each set of 64 bits in halves, the lower ones first.
fn packed(owner: (u32, u32)) -> Vec<u8> {
    let words = [REVISION, owner.0, owner.1, MARK[0], MARK[1]];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn unpacked(bytes: &[u8]) -> Option<(u32, u32)> {
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|w| u32::from_le_bytes(w.try_into().expect("four bytes")))
        .collect();
    match words[..] {
        // The third revision has a word more: whose namespace it was set in.
        [_, uid, gid, a, b] | [_, uid, gid, a, b, _] if [a, b] == MARK => Some((uid, gid)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        for owner in [(0, 1), (33, 33), (u32::MAX - 1, 65_534)] {
            assert_eq!(parse(format!("{}:{}", owner.0, owner.1).as_bytes()), Some(owner));
            let mut bytes = packed(owner);
            assert_eq!(unpacked(&bytes), Some(owner));
            bytes.extend([0; 4]);
            assert_eq!(unpacked(&bytes), Some(owner));
        }
        for bad in ["", "1", "1:", ":1", "1:2:3", "-1:2", "4294967295:1", "a:b"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        // Capabilities as others set them.
        for bad in [&[][..], &[0; 20], &[0; 24], &[1; 12]] {
            assert_eq!(unpacked(bad), None);
        }
    }

    #[test]
    fn files_and_folders_keep_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        let owners = Owners::Recorded;
        for name in ["f", "d"] {
            assert_eq!(owners.recorded_at(&root, name).unwrap(), None);
            owners.give_at(&root, name, 7, 8).unwrap();
            assert_eq!(owners.recorded_at(&root, name).unwrap(), Some((7, 8)));
            assert_eq!(Owners::Kernel.recorded_at(&root, name).unwrap(), None);
            std::fs::rename(dir.path().join(name), dir.path().join("other")).unwrap();
            assert_eq!(owners.recorded_at(&root, "other").unwrap(), Some((7, 8)));
            owners.give_at(&root, "other", 0, 0).unwrap();
            assert_eq!(owners.recorded_at(&root, "other").unwrap(), None);
            std::fs::rename(dir.path().join("other"), dir.path().join(name)).unwrap();
        }
    }

    #[test]
    fn the_record_is_no_content() {
        let (file, link) = (0o100_644, 0o120_777);
        let own = OWNER_ATTRIBUTE.as_bytes();
        assert!(Owners::Recorded.is_record(own, file) && !Owners::Kernel.is_record(own, file));
        assert!(Owners::Recorded.is_record(CAPABILITY.as_bytes(), link));
        assert!(!Owners::Recorded.is_record(CAPABILITY.as_bytes(), file));
    }
}
