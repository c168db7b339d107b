//! Opening a store, and how every operation reaches the index.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::ThreadId;

use crate::error::{Result, StoreError};
use crate::index::{self, Connection, Transaction};
use crate::layout::Layout;
use crate::lease::{Lease, LeaseInner};
use crate::lock::{self, GcGuard, Mode};

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Nothing is written or made, no lock taken; works on a read-only medium.
    pub read_only: bool,
    /// Stands for the kernel's boot id, for tests of a power loss.
    pub boot_id: Option<[u8; 16]>,
}

/// An open store. Every method blocks; all may be called from many threads.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    boot: [u8; 16],
    /// `None`: read-only.
    gc: Option<File>,
    index: Mutex<Index>,
    pub(crate) leases: Mutex<Vec<Weak<LeaseInner>>>,
    /// Tells two handles apart, in one process or in two with one number.
    nonce: u32,
    serial: AtomicU64,
    /// Rows were written since the last commit that synced.
    pub(crate) unsynced: AtomicBool,
    /// Rows were written by this handle.
    pub(crate) wrote: AtomicBool,
    /// This handle's place in the order of all that wrote: a clock that no one can set.
    tick: OnceLock<i64>,
}

/// The connection, and who reads through it without asking for locks again and again.
#[derive(Debug)]
struct Index {
    conn: Connection,
    /// Its reads see one state of the index, and gc waits. See [`Store::at_once`].
    reader: Option<ThreadId>,
}

/// A failure inside a transaction.
#[derive(Debug)]
pub(crate) enum TxError {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for TxError {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

impl From<StoreError> for TxError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// The connection, with the gc lock held shared: gc can be at most before or after.
pub(crate) struct Session<'a> {
    store: &'a Store,
    // Before `index`: the lock is given back before the next thread can ask for it.
    _gc: Option<GcGuard<'a>>,
    index: MutexGuard<'a, Index>,
}

impl Session<'_> {
    /// Reads.
    pub(crate) fn read<T>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        f(&self.index.conn).map_err(index::sql(&self.store.layout, what))
    }

    /// Writes, all or nothing.
    pub(crate) fn write<T>(
        &mut self,
        what: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, TxError>,
    ) -> Result<T> {
        self.store.need_write()?;
        let layout = &self.store.layout;
        let t = index::write(&mut self.index.conn).map_err(index::sql(layout, what))?;
        let out = f(&t).map_err(|e| match e {
            TxError::Sql(e) => index::sql(layout, what)(e),
            TxError::Store(e) => e,
        })?;
        t.commit().map_err(index::sql(layout, what))?;
        self.store.unsynced.store(true, Ordering::Relaxed);
        self.store.wrote.store(true, Ordering::Relaxed);
        Ok(out)
    }

    pub(crate) fn conn(&mut self) -> &mut Connection {
        &mut self.index.conn
    }
}

impl Store {
    /// Opens the store at `root`, making it when it does not exist and writing is allowed. Costs no
    /// sync and no write when the store exists.
    pub fn open(root: &Path, options: OpenOptions) -> Result<Self> {
        let layout = Layout::new(root.to_owned());
        let boot = match options.boot_id {
            Some(b) => b,
            None => read_boot_id(&layout)?,
        };
        layout.open(!options.read_only)?;
        let (gc, conn) = if options.read_only {
            (None, index::open_read_only(&layout)?)
        } else {
            let path = layout.gc_lock();
            let gc = lock::open_lock_file(&path).map_err(|e| layout.err("open", &path, e))?;
            // As root a read-only mount is noticed here only if the lock file is there already.
            match rustix::fs::access(root, rustix::fs::Access::WRITE_OK) {
                Ok(()) => {}
                Err(e) => return Err(layout.err("write to", root, e.into())),
            }
            {
                let conn = index::open(&layout, &gc)?;
                (Some(gc), conn)
            }
        };
        Ok(Self {
            layout,
            boot,
            gc,
            index: Mutex::new(Index { conn, reader: None }),
            leases: Mutex::new(Vec::new()),
            nonce: RandomState::new().build_hasher().finish() as u32,
            serial: AtomicU64::new(0),
            unsynced: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
            tick: OnceLock::new(),
        })
    }

    /// The state root.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// The paths of this store.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Names the running boot of the machine.
    pub fn boot_id(&self) -> [u8; 16] {
        self.boot
    }

    /// Whether the store was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.gc.is_none()
    }

    /// A tree that never changes, on the file system of the snapshots. `make` fills it when it is
    /// not there; the name stands for the content.
    pub fn fixed_tree(
        &self,
        name: &str,
        lease: &Lease,
        make: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Result<PathBuf> {
        let path = self.layout.fixed(name);
        if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            return Ok(path);
        }
        let new = self.prepare(lease)?;
        make(new.fs()).map_err(|e| self.layout.err("fill", new.fs(), e))?;
        let parent = self.layout.fixed("");
        match fs::create_dir(&parent) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(self.layout.err("create", &parent, e));
            }
            _ => {}
        }
        match fs::rename(new.fs(), &path) {
            // Another process was faster.
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(path)
            }
            r => r.map(|()| path.clone()).map_err(|e| self.layout.err("rename", &path, e)),
        }
    }

    pub(crate) fn need_write(&self) -> Result<()> {
        match self.gc {
            Some(_) => Ok(()),
            None => Err(StoreError::ReadOnly { root: self.layout.root().to_owned() }),
        }
    }

    pub(crate) fn session(&self) -> Result<Session<'_>> {
        self.session_as(Mode::Shared)
    }

    pub(crate) fn session_as(&self, mode: Mode) -> Result<Session<'_>> {
        let mut index = self.index();
        self.end_reading(&mut index);
        let gc = match &self.gc {
            Some(file) => Some(
                GcGuard::take(file, mode)
                    .map_err(|e| self.layout.err("lock", &self.layout.gc_lock(), e))?,
            ),
            None => None,
        };
        Ok(Session { store: self, _gc: gc, index })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work`, once. What this thread reads meanwhile is of one moment and costs no locks, until
    /// something is written or another thread comes. For many small reads that follow each other and
    /// wait for nothing, since gc waits too.
    pub fn at_once(&self, work: &mut dyn FnMut()) {
        struct End<'a>(&'a Store);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end_reading(&mut self.0.index());
            }
        }
        let _end = End(self);
        {
            let mut index = self.index();
            self.end_reading(&mut index);
            let locked = match &self.gc {
                Some(file) => lock::lock(file, Mode::Shared).is_ok(),
                None => true,
            };
            // Otherwise each read takes its own, and says what is wrong.
            if locked {
                index.reader = Some(std::thread::current().id());
                if index::begin_read(&index.conn).is_err() {
                    self.end_reading(&mut index);
                }
            }
        }
        work();
    }

    fn end_reading(&self, index: &mut Index) {
        if index.reader.take().is_some() {
            index::end_read(&index.conn);
            if let Some(file) = &self.gc {
                // As in `GcGuard`.
                let _ = lock::try_lock(file, Mode::Unlock);
            }
        }
    }

    /// Runs `f` on a session.
    pub(crate) fn read<T>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        {
            let index = self.index();
            if index.reader == Some(std::thread::current().id()) {
                return f(&index.conn).map_err(index::sql(&self.layout, what));
            }
        }
        self.session()?.read(what, f)
    }

    /// Runs `f` in a write transaction.
    pub(crate) fn write<T>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, TxError>,
    ) -> Result<T> {
        self.need_write()?;
        self.session()?.write(what, f)
    }

    /// The number under which this handle's uses are written down; each handle that writes down
    /// any gets the next.
    pub(crate) fn tick(&self, t: &Transaction<'_>) -> rusqlite::Result<i64> {
        if let Some(n) = self.tick.get() {
            return Ok(*n);
        }
        let n = t.query_row(
            "INSERT INTO meta VALUES('tick', 1)
             ON CONFLICT(name) DO UPDATE SET value = value + 1 RETURNING value",
            [],
            |r| r.get(0),
        )?;
        Ok(*self.tick.get_or_init(|| n))
    }

    /// A file name that no other call of any handle gives.
    pub(crate) fn unique(&self) -> String {
        let n = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{}-{:08x}-{n}", std::process::id(), self.nonce)
    }

    /// Makes a new file in `dir` with its lock held, so that only a dead writer's can be removed.
    pub(crate) fn create_locked(&self, dir: &Path) -> Result<(File, PathBuf)> {
        use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
        self.need_write()?;
        loop {
            let path = dir.join(self.unique());
            let opened = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            let file = match opened {
                Ok(f) => f,
                // A left-over of a dead process of the same number.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(self.layout.err("create", &path, e)),
            };
            let locked = lock::try_lock(&file, Mode::Exclusive)
                .and_then(|ok| Ok(ok && file.metadata()?.nlink() > 0))
                .map_err(|e| self.layout.err("lock", &path, e))?;
            // Otherwise a cleaner found the file between our two calls.
            if locked {
                return Ok((file, path));
            }
        }
    }

    /// The live leases of this handle.
    pub(crate) fn live_leases(&self) -> Vec<Arc<LeaseInner>> {
        let mut list = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|w| w.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).collect()
    }
}

fn read_boot_id(layout: &Layout) -> Result<[u8; 16]> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|e| layout.err("read", path, e))?;
    let digits: Vec<u8> =
        text.bytes().filter_map(|b| (b as char).to_digit(16)).map(|d| d as u8).collect();
    let mut out = [0u8; 16];
    if digits.len() != 32 {
        return Err(StoreError::Malformed { what: "the kernel's boot id" });
    }
    for (slot, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *slot = pair[0] << 4 | pair[1];
    }
    Ok(out)
}
