//! A copy whose files an earlier layer holds already: those that did not change become further names
//! of the earlier layer's files instead of being read and written again.
//!
//! Layers are never written to after they are committed, so two may share a file. What is shared is
//! decided by the digests of what was found (the caller says which paths are the same), and by what the
//! earlier file looks like: size, time, owner, mode. The names are made in the layer's own folder once
//! its overlay is gone, because an overlay makes no links to files outside of it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rgraph_image::layer::Owners;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, fstat, futimens,
    linkat, openat2, statat,
};

/// See the module.
pub struct Earlier {
    /// The earlier layer's folder.
    layer: OwnedFd,
    /// Files of the source, by real path, that are what they were when it was copied from.
    same: HashSet<Vec<u8>>,
    /// Where owners are kept.
    owners: Owners,
    /// The folder of `layer` that was looked into last.
    looked: RefCell<Option<(OsString, OwnedFd)>>,
    links: RefCell<Links>,
}

#[derive(Default)]
struct Links {
    /// Paths in the layer, in the order of the copy.
    paths: Vec<OsString>,
    /// Files of the earlier layer that have a name in the new one: two files must not become one.
    taken: HashSet<u64>,
}

/// What a copied file looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Bytes.
    pub size: i64,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time: seconds and nanoseconds since 1970.
    pub time: (i64, i64),
}

impl Look {
    fn of(s: &Stat) -> Option<Self> {
        (FileType::from_raw_mode(s.st_mode) == FileType::RegularFile).then_some(Self {
            size: s.st_size,
            mode: s.st_mode & 0o7777,
            owner: (s.st_uid, s.st_gid),
            time: (s.st_mtime, s.st_mtime_nsec as i64),
        })
    }
}

impl Earlier {
    /// The earlier layer in the folder `layer`, and the paths of the source that did not change since.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn open(layer: &Path, same: HashSet<Vec<u8>>, owners: Owners) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let layer = rustix::fs::open(layer, flags, Mode::empty())?;
        Ok(Self { layer, same, owners, looked: RefCell::default(), links: RefCell::default() })
    }

    /// Whether the file that would be copied from `real` to `path` is there already; if so, `path` gets
    /// it when [`Self::make_links`] is called.
    pub fn takes(&self, real: &str, path: &OsStr, look: &Look) -> bool {
        // A name that is no text has another spelling in `real`.
        if !self.same.contains(real.as_bytes()) || real.contains(char::REPLACEMENT_CHARACTER) {
            return false;
        }
        let (dir, name) = split(path);
        let mut looked = self.looked.borrow_mut();
        if looked.as_ref().is_none_or(|(of, _)| of != dir) {
            *looked = beneath(&self.layer, dir, OFlags::PATH).ok().map(|fd| (dir.to_owned(), fd));
        }
        let Some((_, fd)) = looked.as_ref() else { return false };
        let Ok(mut stat) = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
        match self.owners.recorded_at(fd, name) {
            Ok(Some(owner)) => (stat.st_uid, stat.st_gid) = owner,
            Ok(None) => {}
            Err(_) => return false,
        }
        let mut links = self.links.borrow_mut();
        if Look::of(&stat) != Some(*look) || !links.taken.insert(stat.st_ino) {
            return false;
        }
        links.paths.push(path.to_owned());
        true
    }

    /// Gives the new layer, whose folder is `layer` and which is not mounted, its names of earlier files.
    /// The times of the folders they are in stay.
    ///
    /// # Errors
    /// When one cannot be made, as when the earlier layer was removed meanwhile. The new layer is not
    /// whole then.
    pub fn make_links(&self, layer: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let layer = rustix::fs::open(layer, flags, Mode::empty())?;
        let links = self.links.take();
        for group in links.paths.chunk_by(|a, b| split(a).0 == split(b).0) {
            let (dir, _) = split(&group[0]);
            let from = beneath(&self.layer, dir, OFlags::PATH)?;
            let to = beneath(&layer, dir, OFlags::RDONLY)?;
            let before = fstat(&to)?;
            for path in group {
                let (_, name) = split(path);
                linkat(&from, name, &to, name, AtFlags::empty())?;
            }
            futimens(&to, &times_of(&before))?;
        }
        Ok(())
    }
}

fn times_of(s: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: s.st_atime, tv_nsec: s.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: s.st_mtime, tv_nsec: s.st_mtime_nsec as _ },
    }
}

/// Folder (empty: the root) and name.
fn split(path: &OsStr) -> (&OsStr, &OsStr) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|b| *b == b'/') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])),
        None => (OsStr::new(""), path),
    }
}

/// Opens a folder below `root` without following a link.
fn beneath(root: &OwnedFd, dir: &OsStr, how: OFlags) -> rustix::io::Result<OwnedFd> {
    let dir = if dir.is_empty() { OsStr::new(".") } else { dir };
    let flags = how | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(root, dir, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    fn look(path: &Path) -> Look {
        let m = fs::metadata(path).unwrap();
        Look {
            size: m.len() as i64,
            mode: m.mode() & 0o7777,
            owner: (m.uid(), m.gid()),
            time: (m.mtime(), m.mtime_nsec()),
        }
    }

    #[test]
    fn only_what_is_the_same_and_looks_so_is_shared() {
        let tmp = tempfile::tempdir().unwrap();
        let (old, new) = (tmp.path().join("old"), tmp.path().join("new"));
        fs::create_dir_all(old.join("d/e")).unwrap();
        fs::create_dir_all(new.join("d/e")).unwrap();
        for name in ["d/a", "d/b", "d/e/c", "d/twin", "top"] {
            fs::write(old.join(name), name).unwrap();
        }
        fs::hard_link(old.join("d/twin"), old.join("d/twin2")).unwrap();
        std::os::unix::fs::symlink("d", old.join("way")).unwrap();
        let names = ["d/a", "d/e/c", "d/twin", "d/twin2", "top", "gone", "way/a", "d/\u{fffd}"];
        let same = names.iter().map(|n| format!("s/{n}").into_bytes()).collect();
        let e = Earlier::open(&old, same, Owners::Kernel).unwrap();
        let takes = |n: &str, l: &Look| e.takes(&format!("s/{n}"), OsStr::new(n), l);
        let is = |n: &str| look(&old.join(n));
        assert!(takes("top", &is("top")));
        assert!(takes("d/a", &is("d/a")));
        assert!(!takes("d/b", &is("d/b")), "it changed");
        assert!(!takes("gone", &is("d/a")));
        assert!(!takes("way/a", &is("d/a")), "a link on the way");
        assert!(!takes("d/\u{fffd}", &is("d/a")));
        for other in [
            Look { size: 9, ..is("d/e/c") },
            Look { mode: 0o4755, ..is("d/e/c") },
            Look { owner: (7, 7), ..is("d/e/c") },
            Look { time: (1, 1), ..is("d/e/c") },
        ] {
            assert!(!takes("d/e/c", &other), "{other:?}");
        }
        assert!(takes("d/e/c", &is("d/e/c")));
        assert!(takes("d/twin", &is("d/twin")));
        assert!(!takes("d/twin2", &is("d/twin")), "two files would become one");

        let before = fs::metadata(new.join("d/e")).unwrap();
        e.make_links(&new).unwrap();
        for name in ["top", "d/a", "d/e/c", "d/twin"] {
            let ino = |at: &Path| fs::metadata(at.join(name)).unwrap().ino();
            assert_eq!(ino(&old), ino(&new), "{name}");
        }
        let after = fs::metadata(new.join("d/e")).unwrap();
        assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
    }

    #[test]
    fn an_earlier_layer_that_goes_away_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let (old, new) = (tmp.path().join("old"), tmp.path().join("new"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&new).unwrap();
        fs::write(old.join("a"), "a").unwrap();
        let e = Earlier::open(&old, HashSet::from([b"a".to_vec()]), Owners::Kernel).unwrap();
        assert!(e.takes("a", OsStr::new("a"), &look(&old.join("a"))));
        fs::remove_file(old.join("a")).unwrap();
        assert!(e.make_links(&new).is_err());
    }
}
