//! A live build's hold on objects.
//!
//! A lease is a file in `locks/leases/` whose lock its process holds: it dies with the process. Its
//! first line says which objects existed when it began (everything newer is held without a word);
//! each further line names an older object the build looked up. Lines are appended under the
//! shared gc lock and read by gc under the exclusive one. Taking a lease writes no row.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rgraph_ir::{BlobDigest, SnapshotId};

use crate::error::Result;
use crate::lock::{self, Mode};
use crate::store::Store;
use crate::tree;

/// Ends the name of a lease's second folder.
const OVERLAY: &str = ".overlay";

/// Holds what a build makes and looks up until dropped. Anything prepared under it holds it too.
#[derive(Debug, Clone)]
pub struct Lease(pub(crate) Arc<LeaseInner>);

impl Lease {
    /// A name for messages and folders.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

#[derive(Debug)]
pub(crate) struct LeaseInner {
    pub(crate) name: String,
    pub(crate) work: PathBuf,
    /// Where overlayfs has its own folders, away from `work`: what is removed in a folder makes it
    /// dear to create in it (ext4).
    pub(crate) overlay: PathBuf,
    path: PathBuf,
    file: Mutex<Held>,
    /// Keys of results that were used and whose time of use is old.
    pub(crate) touched: Mutex<Vec<[u8; 32]>>,
    sweeper: Mutex<Option<Sweeper>>,
}

/// Removes folders beside the build's own work: where freed blocks are discarded at once, each
/// removed folder waits for the disk.
#[derive(Debug)]
struct Sweeper {
    send: Sender<PathBuf>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
struct Held {
    file: File,
    snapshots: HashSet<u64>,
    /// Those that were looked at with everything below them.
    usable: HashSet<u64>,
    blobs: HashSet<BlobDigest>,
    /// Folders of cache mounts.
    mounts: HashSet<String>,
}

impl LeaseInner {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_usable(&self, id: SnapshotId) -> bool {
        self.held().usable.contains(&id.0)
    }

    pub(crate) fn set_usable(&self, ids: &[SnapshotId]) {
        self.held().usable.extend(ids.iter().map(|i| i.0));
    }

    pub(crate) fn hold_snapshot(&self, id: SnapshotId) -> io::Result<()> {
        let mut h = self.held();
        if h.snapshots.contains(&id.0) {
            return Ok(());
        }
        h.file.write_all(format!("S{id}\n").as_bytes())?;
        h.snapshots.insert(id.0);
        Ok(())
    }

    pub(crate) fn hold_blob(&self, d: &BlobDigest) -> io::Result<()> {
        let mut h = self.held();
        if h.blobs.contains(d) {
            return Ok(());
        }
        h.file.write_all(format!("B{}\n", d.hex()).as_bytes())?;
        h.blobs.insert(*d);
        Ok(())
    }

    pub(crate) fn hold_mount(&self, dir: &str) -> io::Result<()> {
        let mut h = self.held();
        if h.mounts.contains(dir) {
            return Ok(());
        }
        h.file.write_all(format!("M{dir}\n").as_bytes())?;
        h.mounts.insert(dir.to_owned());
        Ok(())
    }

    /// Removes a folder of this lease's soon, at the latest when the lease ends. A failure leaves
    /// rubbish under the lease's name, which goes with the lease.
    pub(crate) fn sweep(&self, dir: PathBuf) {
        let mut sweeper = self.sweeper.lock().unwrap_or_else(PoisonError::into_inner);
        if sweeper.is_none() {
            let (send, receive) = channel::<PathBuf>();
            let body = move || {
                for dir in receive {
                    let _ = tree::remove(&dir);
                }
            };
            let thread = std::thread::Builder::new().name("sweep".to_owned()).spawn(body);
            *sweeper = thread.ok().map(|thread| Sweeper { send, thread });
        }
        let left = match &*sweeper {
            Some(s) => s.send.send(dir).err().map(|e| e.0),
            None => Some(dir),
        };
        if let Some(dir) = left {
            let _ = tree::remove(&dir);
        }
    }

    /// A snapshot is gone: what lies on it must be looked at again.
    pub(crate) fn forget_usable(&self) {
        self.held().usable.clear();
    }
}

impl Drop for LeaseInner {
    fn drop(&mut self) {
        let sweeper = self.sweeper.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Sweeper { send, thread }) = sweeper {
            drop(send);
            // It removes folders and nothing else: a panic has left some behind.
            let _ = thread.join();
        }
        // What fails here is left for the next lease to clean.
        let _ = fs::remove_dir(&self.work);
        let _ = fs::remove_dir(&self.overlay);
        let _ = fs::remove_file(&self.path);
    }
}

/// What the lease of another process holds.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    pub(crate) after_snapshot: u64,
    pub(crate) after_blob: u64,
    pub(crate) snapshots: Vec<SnapshotId>,
    pub(crate) blobs: Vec<BlobDigest>,
    pub(crate) mounts: Vec<String>,
}

fn parse_holds(text: &str) -> Holds {
    let mut lines = text.lines();
    let mut h = Holds::default();
    if let Some((s, b)) = lines.next().and_then(|l| l.split_once(' ')) {
        // A malformed number stays 0: then everything counts as newer, and is held.
        h.after_snapshot = s.parse().unwrap_or(0);
        h.after_blob = b.parse().unwrap_or(0);
    }
    for line in lines {
        match line.split_at_checked(1) {
            Some(("S", n)) => h.snapshots.extend(n.parse().ok().map(SnapshotId)),
            Some(("B", hex)) => h.blobs.extend(BlobDigest::from_hex(hex).ok()),
            Some(("M", dir)) => h.mounts.push(dir.to_owned()),
            _ => {}
        }
    }
    h
}

impl Store {
    /// Takes a lease, and removes what dead ones left.
    pub fn lease(&self) -> Result<Lease> {
        self.need_write()?;
        let session = self.session()?;
        let (s, b): (i64, i64) = session.read("take a lease", |c| {
            c.prepare_cached(
                "SELECT (SELECT ifnull(max(id),0) FROM snapshots),
                        (SELECT ifnull(max(seq),0) FROM blobs)",
            )?
            .query_row([], |r| Ok((r.get(0)?, r.get(1)?)))
        })?;
        let (mut file, path) = self.create_locked(&self.layout().leases())?;
        file.write_all(format!("{s} {b}\n").as_bytes())
            .map_err(|e| self.layout().err("write", &path, e))?;
        drop(session);
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let inner = Arc::new(LeaseInner {
            work: self.layout().work().join(&name),
            overlay: self.layout().work().join(format!("{name}{OVERLAY}")),
            name,
            path,
            file: Mutex::new(Held {
                file,
                snapshots: HashSet::new(),
                usable: HashSet::new(),
                blobs: HashSet::new(),
                mounts: HashSet::new(),
            }),
            touched: Mutex::new(Vec::new()),
            sweeper: Mutex::new(None),
        });
        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&inner));
        // A left-over that cannot be removed (of another user's ids) is no reason not to build, and
        // a large one no reason to wait.
        let _ = self.collect_leftovers();
        for path in entries(&self.layout().trash()).into_iter().flatten() {
            inner.sweep(path);
        }
        Ok(Lease(inner))
    }

    /// What the containers of this store hold: files in the form of a lease's that nobody locks.
    fn container_holds(&self) -> Result<Vec<Holds>> {
        let dir = self.layout().root().join("containers");
        let all = match entries(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            r => r.map_err(|e| self.layout().err("read", &dir, e))?,
        };
        let mut out = Vec::new();
        for path in all.into_iter().map(|c| c.join("holds")) {
            match fs::read_to_string(&path) {
                Ok(text) => out.push(parse_holds(&text)),
                // One in the making, whose maker has a lease.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(self.layout().err("read", &path, e)),
            }
        }
        Ok(out)
    }

    /// Holds of all live leases of all processes, and of containers. Needs the exclusive gc lock.
    pub(crate) fn all_holds(&self) -> Result<Vec<Holds>> {
        let dir = self.layout().leases();
        let mut out = self.container_holds()?;
        for path in entries(&dir).map_err(|e| self.layout().err("read", &dir, e))? {
            let file = match crate::layout::open_nofollow(&path) {
                Ok(f) => f,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(self.layout().err("read", &path, e)),
            };
            // Asking for a shared lock needs a readable file only; the holder's is exclusive.
            if lock::try_lock(&file, Mode::Shared)
                .map_err(|e| self.layout().err("lock", &path, e))?
            {
                continue;
            }
            let mut text = String::new();
            (&file).read_to_string(&mut text).map_err(|e| self.layout().err("read", &path, e))?;
            out.push(parse_holds(&text));
        }
        Ok(out)
    }

    /// Remembers, in every lease of this handle, that `id` is in use. Call with a session open.
    pub(crate) fn hold_snapshot(&self, id: SnapshotId) -> Result<()> {
        for l in self.live_leases() {
            l.hold_snapshot(id).map_err(|e| self.layout().err("write", &l.path, e))?;
        }
        Ok(())
    }

    /// As [`Self::hold_snapshot`], for a blob.
    pub(crate) fn hold_blob(&self, d: &BlobDigest) -> Result<()> {
        for l in self.live_leases() {
            l.hold_blob(d).map_err(|e| self.layout().err("write", &l.path, e))?;
        }
        Ok(())
    }

    /// As [`Self::hold_snapshot`], for the folder of a cache mount.
    pub(crate) fn hold_mount(&self, dir: &str) -> Result<()> {
        for l in self.live_leases() {
            l.hold_mount(dir).map_err(|e| self.layout().err("write", &l.path, e))?;
        }
        Ok(())
    }

    /// Puts what dead processes left in `work/`, `tmp/` and `locks/` into the trash. Three empty
    /// folders to look at when there is nothing.
    pub(crate) fn collect_leftovers(&self) -> Result<()> {
        let l = self.layout();
        let list = |dir: &Path| entries(dir).map_err(|e| l.err("read", dir, e));
        for path in list(&l.work())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let lease = name.strip_suffix(OVERLAY).unwrap_or(&name);
            if !is_live(&l.leases().join(lease)) {
                let _ = fs::rename(&path, l.trash().join(self.unique()));
            }
        }
        for path in list(&l.leases())?.into_iter().chain(list(&l.tmp())?) {
            // What a download left is for the next one; gc takes it.
            if path != l.trash() && !crate::download::is_part(&path) {
                remove_if_dead(&path);
            }
        }
        Ok(())
    }
}

fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect()
}

fn is_live(lease: &Path) -> bool {
    match crate::layout::open_nofollow(lease) {
        Ok(f) => !lock::try_lock(&f, Mode::Shared).unwrap_or(false),
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

pub(crate) fn remove_if_dead(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let open =
        fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path);
    if let Ok(f) = open
        && lock::try_lock(&f, Mode::Exclusive).unwrap_or(false)
    {
        // The lock is held: its maker will see the missing name and make another.
        let _ = fs::remove_file(path);
    }
}
