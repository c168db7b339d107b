//! The step's root: made from layers, given mount points where it lacks them, and freed from those
//! again when the step has ended, so that they are in no layer.
//!
//! The runner makes the overlay and keeps its handle; the child creates what is missing through
//! that handle and reports it ([`Stub`]); after the child's end the runner removes it again,
//! first through the overlay (so that no whiteout is left), then what the overlay copied up only
//! because of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rgraph_sys::mount::{self, MountError, OverlaySpec};
use rgraph_sys::tree::{self, As, Kind, Stat};
use serde::{Deserialize, Serialize};

use super::spec::{Rootfs, Union};

/// Links followed before giving up: the kernel's own number.
const MAX_LINKS: u32 = 40;

/// Mounts the layers, detached. `fds`: what was handed over with the step.
pub(super) fn assemble(rootfs: &Rootfs, fds: &[OwnedFd]) -> Result<OwnedFd, MountError> {
    if let Union::Mounted(at) = rootfs.union {
        let missing = || io::Error::other("it was not handed over");
        let again = fds.get(at).ok_or_else(missing).and_then(OwnedFd::try_clone);
        return again.map_err(|e| MountError::of_handle("the step's root", e));
    }
    let mut lowers = rootfs.lowers.clone();
    // From scratch there is no overlay, but the upper itself.
    if !lowers.is_empty() && lowers.len() < mount::MAX_LOWERS {
        lowers.extend(rootfs.below.clone());
    }
    mount::overlay(&OverlaySpec {
        lowers: &lowers,
        upper: Some((&rootfs.upper, &rootfs.work)),
        // What a crash leaves is thrown away anyway, and the step's own syncs cost nothing.
        volatile: true,
        userxattr: rootfs.userxattr,
    })
}

/// Makes the mount points that every step has, for [`Rootfs::below`].
///
/// # Errors
/// What the file system says; `dir` may be half full then.
pub fn fill_mount_points(dir: &Path) -> io::Result<()> {
    let root = mount::open_dir(dir)?;
    for name in ["dev", "etc", "proc", "sys"] {
        drop(tree::make_dir(&root, OsStr::new(name), 0o755)?);
    }
    let etc = tree::find_plain(&root, Path::new("etc"), As::Handle)?;
    for name in ["hosts", "resolv.conf"] {
        drop(tree::make_file(&etc, OsStr::new(name), 0o644)?);
    }
    Ok(())
}

/// A mount point that was created in the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stub {
    /// Real path of the directory it is in, from the root. Bytes, as an image may use any.
    parent: Vec<u8>,
    name: Vec<u8>,
    directory: bool,
    ino: u64,
    /// The parent's modification time without and with the stub.
    before: (i64, u32),
    after: (i64, u32),
}

/// The root while mounts are put on it.
pub(super) struct Root {
    fd: OwnedFd,
    stat: Stat,
    /// Mounts on which nothing may be put.
    reserved: Vec<u64>,
    /// Created so far, in that order.
    pub(super) stubs: Vec<Stub>,
}

/// Why there is no mount point.
#[derive(Debug)]
pub(super) enum PlaceError {
    /// The path leads into a reserved mount, or to the root itself.
    Reserved,
    /// Anything else.
    Io(io::Error),
}

impl From<io::Error> for PlaceError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl Root {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = tree::stat(&fd)?;
        Ok(Self { fd, stat, reserved: Vec::new(), stubs: Vec::new() })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// From now on nothing may be put on `mount`.
    pub(super) fn reserve(&mut self, mount: &OwnedFd) -> io::Result<()> {
        self.reserved.push(tree::stat(mount)?.mount);
        Ok(())
    }

    /// Opens the mount point `dest`, which links in the root may redirect within it; what is
    /// missing is created.
    pub(super) fn place(&mut self, dest: &str, kind: Kind) -> Result<OwnedFd, PlaceError> {
        let target = match tree::find(&self.fd, Path::new(dest), As::Handle) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.create(dest, kind)?,
            found => found?,
        };
        self.check(&tree::stat(&target)?)?;
        Ok(target)
    }

    /// Opens or makes the directory `name` of the root itself; a link there is refused, as the
    /// kernel's own file systems must not end up where an image wants them.
    pub(super) fn place_plain(&mut self, name: &str) -> io::Result<OwnedFd> {
        let target = match tree::entry(&self.fd, OsStr::new(name), As::Handle) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let root = tree::find(&self.fd, Path::new("."), As::Handle)?;
                self.make(&root, OsStr::new(name), Kind::Directory)?
            }
            found => found?,
        };
        if tree::stat(&target)?.kind == Kind::Directory {
            Ok(target)
        } else {
            Err(io::Error::other(format!("`/{name}` of the image is not a directory")))
        }
    }

    fn check(&self, target: &Stat) -> Result<(), PlaceError> {
        let is_root = target.mount == self.stat.mount && target.ino == self.stat.ino;
        if is_root || self.reserved.contains(&target.mount) {
            return Err(PlaceError::Reserved);
        }
        Ok(())
    }

    /// Walks `dest` one name at a time, following links as a process inside would (the last one
    /// too: it may lead to something that does not exist yet), and makes what is missing.
    fn create(&mut self, dest: &str, kind: Kind) -> Result<OwnedFd, PlaceError> {
        // From the root down; `..` at the root stays there.
        let mut walked: Vec<OwnedFd> = Vec::new();
        let mut ahead: VecDeque<OsString> = names(Path::new(dest));
        let mut links = 0;
        let root = tree::find(&self.fd, Path::new("."), As::Handle)?;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                walked.pop();
                continue;
            }
            let dir = walked.last().unwrap_or(&root);
            let last = ahead.is_empty();
            match tree::entry(dir, &name, As::Handle) {
                Ok(found) => match tree::stat(&found)?.kind {
                    Kind::Link => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(io::Error::other("too many symbolic links").into());
                        }
                        let target = tree::link_target(&found)?;
                        if target.is_absolute() {
                            walked.clear();
                        }
                        for name in names(&target).into_iter().rev() {
                            ahead.push_front(name);
                        }
                    }
                    Kind::Directory => walked.push(found),
                    _ if last => return Ok(found),
                    _ => return Err(io::Error::from(io::ErrorKind::NotADirectory).into()),
                },
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let here = tree::stat(dir)?;
                    if self.reserved.contains(&here.mount) {
                        return Err(PlaceError::Reserved);
                    }
                    let kind = if last { kind } else { Kind::Directory };
                    let made = self.make(dir, &name, kind)?;
                    if last {
                        return Ok(made);
                    }
                    walked.push(made);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(walked.pop().unwrap_or(root))
    }

    /// Makes one entry, and notes it when it is in the root and not in something mounted there.
    fn make(&mut self, dir: &OwnedFd, name: &OsStr, kind: Kind) -> io::Result<OwnedFd> {
        let before = tree::stat(dir)?;
        match kind {
            Kind::Directory => drop(tree::make_dir(dir, name, 0o755)?),
            _ => drop(tree::make_file(dir, name, 0o644)?),
        }
        let made = tree::entry(dir, name, As::Handle)?;
        if before.mount == self.stat.mount {
            let base = tree::path_of(&self.fd)?;
            let path = tree::path_of(dir)?;
            let parent = path.strip_prefix(&base).map_or(path.as_path(), |p| p);
            self.stubs.push(Stub {
                parent: parent.as_os_str().as_bytes().to_vec(),
                name: name.as_bytes().to_vec(),
                directory: kind == Kind::Directory,
                ino: tree::stat(&made)?.ino,
                before: before.mtime,
                after: tree::stat(dir)?.mtime,
            });
        }
        Ok(made)
    }
}

/// The names of a path; `.` and the root are nothing, `..` stays.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Removes the stubs that nobody has used for something else, and what was copied up for them.
/// `root` is closed; after that nothing holds the overlay.
///
/// Whatever cannot be removed is left: it is an empty file or directory, and then the step has
/// done something to it or around it.
pub(super) fn clean(root: OwnedFd, stubs: &[Stub], rootfs: &Rootfs) {
    for stub in stubs.iter().rev() {
        let _ = remove(&root, stub);
    }
    drop(root);
    for stub in stubs.iter().rev() {
        let _ = forget_copied_up(Path::new(OsStr::from_bytes(&stub.parent)), rootfs);
    }
}

fn remove(root: &OwnedFd, stub: &Stub) -> io::Result<()> {
    let parent = Path::new(OsStr::from_bytes(&stub.parent));
    let dir = tree::find_plain(root, parent, As::Directory)?;
    let name = OsString::from_vec(stub.name.clone());
    let kind = if stub.directory { Kind::Directory } else { Kind::File };
    let now = tree::stat(tree::entry(&dir, &name, As::Handle)?)?;
    if now.ino != stub.ino || now.kind != kind || (kind == Kind::File && now.size != 0) {
        return Ok(());
    }
    let mtime = tree::stat(&dir)?.mtime;
    tree::remove(&dir, &name, kind)?;
    // What the step itself did in the directory keeps its time.
    tree::set_mtime(&dir, if mtime == stub.after { stub.before } else { mtime })
}

/// Takes directories out of the upper that are empty there and say the same as the lower's: from
/// `path` upwards, up to the first that is different.
fn forget_copied_up(path: &Path, rootfs: &Rootfs) -> io::Result<()> {
    let upper = mount::open_dir(&rootfs.upper)?;
    let mut path: PathBuf = path.strip_prefix("/").unwrap_or(path).to_owned();
    while let (Some(parent), Some(name)) = (path.parent().map(Path::to_owned), path.file_name()) {
        let dir = tree::find_plain(&upper, &path, As::Directory)?;
        let mut below = None;
        for lower in rootfs.lowers.iter().chain(&rootfs.below) {
            below = tree::find_plain(mount::open_dir(lower)?, &path, As::Handle).ok();
            if below.is_some() {
                break;
            }
        }
        let Some(below) = below else { return Ok(()) };
        let (a, b) = (tree::stat(&dir)?, tree::stat(&below)?);
        let same =
            (a.kind, a.mode, a.uid, a.gid, a.mtime) == (b.kind, b.mode, b.uid, b.gid, b.mtime);
        if !same || tree::has_meaningful_xattr(&dir)? || !tree::names(&dir)?.is_empty() {
            return Ok(());
        }
        let above = tree::find_plain(&upper, &parent, As::Directory)?;
        let mtime = tree::stat(&above)?.mtime;
        tree::remove(&above, name, Kind::Directory)?;
        tree::set_mtime(&above, mtime)?;
        path = parent;
    }
    Ok(())
}
