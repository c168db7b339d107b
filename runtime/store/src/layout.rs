//! What lies where below the state root.
//!
//! ```text
//! version                     the format's number
//! index.db                    SQLite in WAL mode; can be made again from the files
//! blobs/sha256/<hex>          bytes by digest
//! snapshots/<id>/fs           an overlay upper directory (whiteouts are 0/0 devices, or sockets of mode 0)
//! snapshots/<id>/record.json  what the index knows of it, for repair
//! snapshots/<id>/durable      empty; the folder was synced
//! snapshots/<id>/result.json  the cache record that made it, for repair
//! refs/<hash of the name>     one small file per tag, for repair; image-<hex>: one per image
//! work/<lease>/<n>/fs         snapshots in progress
//! work/<lease>.overlay/<n>    overlayfs's own folders for them
//! tmp/                        blobs in progress (locked by their writer), and rubbish
//! locks/{gc,keys/,leases/,steps}  OFD locks: they die with their process
//! cache-mounts/<id>/, logs/
//! containers/<id>/            not the store's own but for `holds`, which gc reads as a lease's file
//! builds/                     one small record per build, the newest ones
//! file-lists/                 which files content digests were made of; to explain misses
//! fixed/<name>/               trees that never change, made when first asked for
//! ```
//!
//! The root is mode 0700 and belongs to the caller: upper directories hold setuid files of images.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rgraph_ir::{BlobDigest, ManifestDigest, SnapshotId};

use crate::error::{Result, StoreError};

/// The format this program reads and writes.
pub const FORMAT: u32 = 1;

const FOLDERS: [&str; 14] = [
    "blobs",
    "blobs/sha256",
    "snapshots",
    "refs",
    "work",
    "tmp",
    "locks",
    "locks/keys",
    "locks/leases",
    "cache-mounts",
    "logs",
    "builds",
    "file-lists",
    // Last, so that its presence says that the others are there.
    "tmp/trash",
];

/// The paths of one store.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The paths of the store at `root`; nothing is looked at.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The state root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The index.
    pub fn index(&self) -> PathBuf {
        self.root.join("index.db")
    }

    /// The folder of all blobs.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Where a blob lies.
    pub fn blob(&self, d: &BlobDigest) -> PathBuf {
        self.root.join("blobs/sha256").join(d.hex())
    }

    /// The folder of all snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// The folder of a snapshot; its tree is `fs` below.
    pub fn snapshot(&self, id: SnapshotId) -> PathBuf {
        self.root.join("snapshots").join(id.0.to_string())
    }

    /// The files that repair reads tags from.
    pub fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    /// The file of one tag. Names are hashed: they may be longer than a file name may be.
    pub fn ref_file(&self, name: &str) -> PathBuf {
        self.root.join("refs").join(blake3::hash(name.as_bytes()).to_hex().as_str())
    }

    /// The file of one image, for repair.
    pub fn image_file(&self, m: &ManifestDigest) -> PathBuf {
        self.root.join("refs").join(format!("image-{}", m.hex()))
    }

    /// Snapshots in progress.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Blobs in progress.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What is to be deleted, already without a name.
    pub fn trash(&self) -> PathBuf {
        self.root.join("tmp/trash")
    }

    /// The gc lock.
    pub fn gc_lock(&self) -> PathBuf {
        self.root.join("locks/gc")
    }

    /// Locks by name.
    pub fn key_locks(&self) -> PathBuf {
        self.root.join("locks/keys")
    }

    /// The locks of steps, a byte of this file each.
    pub fn step_locks(&self) -> PathBuf {
        self.root.join("locks/steps")
    }

    /// One locked file per live lease.
    pub fn leases(&self) -> PathBuf {
        self.root.join("locks/leases")
    }

    /// Folders of `RUN --mount=type=cache`.
    pub fn cache_mounts(&self) -> PathBuf {
        self.root.join("cache-mounts")
    }

    /// Records of builds.
    pub fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }

    /// Lists of files, by what they are of.
    pub fn file_lists(&self) -> PathBuf {
        self.root.join("file-lists")
    }

    /// A tree that never changes.
    pub fn fixed(&self, name: &str) -> PathBuf {
        self.root.join("fixed").join(name)
    }

    /// Logs of steps.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn err(&self, what: &'static str, path: &Path, e: io::Error) -> StoreError {
        StoreError::io(&self.root, what, path, e)
    }

    fn refuse(&self, why: impl Into<String>) -> StoreError {
        StoreError::Root { root: self.root.clone(), why: why.into() }
    }

    /// Checks the root, or makes it when `create`. `true`: it was made just now.
    pub(crate) fn open(&self, create: bool) -> Result<bool> {
        match fs::symlink_metadata(&self.root) {
            Ok(m) => self.check_root(&m)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.root)
                    .map_err(|e| self.err("create", &self.root, e))?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(self.refuse("it does not exist"));
            }
            Err(e) => return Err(self.err("look at", &self.root, e)),
        }
        let version = self.root.join("version");
        match fs::read_to_string(&version) {
            Ok(text) if text.trim() == FORMAT.to_string() => self.check_folders().map(|()| false),
            Ok(text) => {
                let found = text.trim().chars().take(16).collect();
                Err(StoreError::Format { root: self.root.clone(), found, want: FORMAT })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
                self.create(&version).map(|()| true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(self.refuse("it is no store (it has no `version` file)"))
            }
            Err(e) => Err(self.err("read", &version, e)),
        }
    }

    fn check_root(&self, m: &fs::Metadata) -> Result<()> {
        let me = rustix::process::geteuid().as_raw();
        let m = if m.file_type().is_symlink() {
            if m.uid() != me {
                return Err(self.refuse("it is a symbolic link of another user"));
            }
            &fs::metadata(&self.root).map_err(|e| self.err("look at", &self.root, e))?
        } else {
            m
        };
        if !m.is_dir() {
            return Err(self.refuse("it is not a directory"));
        }
        if m.uid() != me {
            return Err(self.refuse(format!("it belongs to user {}, not {me}", m.uid())));
        }
        if m.mode() & 0o022 != 0 {
            let why = format!("others may write to it (mode {:o}, want 700)", m.mode() & 0o7777);
            return Err(self.refuse(why));
        }
        Ok(())
    }

    /// The folders that a name is made in must be our own: a planted link would lead outside.
    fn check_folders(&self) -> Result<()> {
        for name in ["blobs", "blobs/sha256", "snapshots", "work", "tmp/trash", "locks"] {
            let path = self.root.join(name);
            match fs::symlink_metadata(&path) {
                Ok(m) if m.is_dir() => {}
                Ok(_) => return Err(self.refuse(format!("`{name}` in it is not a directory"))),
                Err(e) => return Err(self.err("look at", &path, e)),
            }
        }
        Ok(())
    }

    fn create(&self, version: &Path) -> Result<()> {
        let at = |e| self.err("create", &self.root, e);
        for entry in fs::read_dir(&self.root).map_err(at)? {
            let name = entry.map_err(at)?.file_name();
            // `lost+found`: the root of a file system of its own. The rest: another process is
            // making the same store now.
            let known = name == "lost+found"
                || name.to_str().is_some_and(|n| {
                    FOLDERS.contains(&n) || n.starts_with("version") || n.starts_with("index.db")
                });
            if !known {
                return Err(self.refuse(format!(
                    "it is no store and not empty (`{}`)",
                    name.to_string_lossy()
                )));
            }
        }
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)).map_err(at)?;
        for name in FOLDERS {
            let path = self.root.join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(self.err("create", &path, e));
                }
                _ => {}
            }
        }
        self.check_folders()?;
        spread(&self.work());
        let tmp = self.root.join(format!("version.{}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut f = fs::File::create(&tmp)?;
            writeln!(f, "{FORMAT}")?;
            f.sync_data()?;
            // Once in a store's life: a tag made durable later must not hang on an unsynced parent, and
            // what has a version must have its folders, whenever the power goes.
            for name in ["blobs", "tmp", "locks", ""] {
                fs::File::open(self.root.join(name))?.sync_all()?;
            }
            fs::rename(&tmp, version)?;
            fs::File::open(&self.root)?.sync_all()?;
            if let Some(parent) = self.root.parent().filter(|p| !p.as_os_str().is_empty()) {
                fs::File::open(parent)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|e| self.err("write", version, e))
    }
}

/// Asks ext4 to place the folders made in this one away from each other (`chattr +T`). It steps over
/// the inodes that were freed in the same place a short while ago, one by one, at every file that is
/// made: a build would pay for what builds before it have removed.
fn spread(dir: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let set = |dir: fs::File| ioctl_setflags(&dir, ioctl_getflags(&dir)? | IFlags::TOPDIR);
    // Others have no such flag, and nothing but time is lost.
    let _ = fs::File::open(dir).map(set);
}

/// Opens for reading without following a link in the last component.
pub(crate) fn open_nofollow(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}
