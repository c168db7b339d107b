//! The mark of a deletion in an upper folder (kernel, filesystems/overlayfs.rst, "whiteouts").
//!
//! It is a character device without a number. Some file systems let nobody make that, overlayfs itself
//! among them; there a socket without permissions stands for it. No layer has sockets, and overlayfs,
//! to which this would be no mark, cannot have its upper folder on such a file system.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Whether this marks a deletion.
#[allow(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
pub fn is_whiteout(stat: &Stat) -> bool {
    means_deleted(stat.st_mode as u32, stat.st_rdev as u64)
}

/// As [`is_whiteout`], of a mode with the kind, and of the number if it is a device.
pub fn means_deleted(mode: u32, device: u64) -> bool {
    match FileType::from_raw_mode(mode) {
        FileType::CharacterDevice => device == 0,
        FileType::Socket => mode & 0o7777 == 0,
        _ => false,
    }
}

/// Marks `name` of the folder `dir` as deleted. Nothing may be there.
///
/// # Errors
/// That of `mknodat(2)`.
pub fn make_whiteout(dir: impl AsFd, name: impl Arg + Copy) -> io::Result<()> {
    let make = |kind| rustix::fs::mknodat(&dir, name, kind, Mode::empty(), 0);
    match make(FileType::CharacterDevice) {
        Err(Errno::PERM | Errno::NOTSUP) => Ok(make(FileType::Socket)?),
        made => Ok(made?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_deleted() {
        let (device, socket) = (0o020_000, 0o140_000);
        assert!(means_deleted(device | 0o600, 0) && means_deleted(socket, 0));
        for (mode, number) in
            [(device, 259), (0o060_000, 0), (socket | 0o644, 0), (0o100_000, 0), (0o010_000, 0)]
        {
            assert!(!means_deleted(mode, number), "{mode:o} {number}");
        }
    }

    #[test]
    fn what_is_made_is_known_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(tmp.path()).unwrap();
        make_whiteout(&dir, "gone").unwrap();
        let stat = rustix::fs::statat(&dir, "gone", rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert!(is_whiteout(&stat));
    }
}
