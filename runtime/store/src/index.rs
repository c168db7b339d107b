//! The index: one SQLite file in WAL mode.
//!
//! WAL with `synchronous=NORMAL` syncs at checkpoints only, and those are ours to choose
//! (`wal_autocheckpoint=0`, none at close): a step's rows cost no sync. A commit with
//! `synchronous=FULL` syncs the log, and with it every row written before.
//!
//! SQLite's own locks on the file are POSIX locks: nothing else in this process may open and close
//! `index.db` while a connection lives.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
pub(crate) use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use rusqlite::{ErrorCode, OpenFlags};

use crate::error::{Result, StoreError};
use crate::layout::Layout;
use crate::lock::{GcGuard, Mode};

/// `PRAGMA user_version` of the schema below.
const SCHEMA_VERSION: i64 = 2;

/// How long a write waits for the writes of others.
const BUSY: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE blobs(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, size INTEGER NOT NULL,
  boot BLOB NOT NULL, durable INTEGER NOT NULL DEFAULT 0,
  created INTEGER NOT NULL DEFAULT (unixepoch()));
CREATE TABLE blob_links(
  parent BLOB NOT NULL, child BLOB NOT NULL, PRIMARY KEY(parent, child)) WITHOUT ROWID;
CREATE TABLE snapshots(
  id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, diff_id BLOB, tar_size INTEGER,
  on_disk INTEGER NOT NULL, boot BLOB NOT NULL, durable INTEGER NOT NULL DEFAULT 0, size INTEGER,
  description TEXT NOT NULL, created INTEGER NOT NULL DEFAULT (unixepoch()));
CREATE INDEX snapshots_layer ON snapshots(diff_id, parent) WHERE diff_id IS NOT NULL;
CREATE TABLE layer_blobs(
  diff_id BLOB NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL,
  PRIMARY KEY(diff_id, digest, media_type)) WITHOUT ROWID;
CREATE TABLE results(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, canonical BLOB NOT NULL,
  op BLOB NOT NULL, tree BLOB, outputs BLOB NOT NULL, recipe BLOB NOT NULL, slot TEXT NOT NULL,
  created INTEGER NOT NULL DEFAULT (unixepoch()), used INTEGER NOT NULL DEFAULT (unixepoch()),
  took_ms INTEGER, tick INTEGER NOT NULL DEFAULT 0);
CREATE TABLE slots(slot TEXT PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE contents(
  key BLOB NOT NULL, selector BLOB NOT NULL, tree BLOB NOT NULL,
  PRIMARY KEY(key, selector)) WITHOUT ROWID;
CREATE TABLE stats(
  dev INTEGER NOT NULL, ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
  ctime INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY(dev, ino)) WITHOUT ROWID;
CREATE TABLE images(
  manifest BLOB PRIMARY KEY, config BLOB NOT NULL, platform TEXT NOT NULL, size INTEGER NOT NULL,
  created TEXT, layers BLOB NOT NULL, snapshot INTEGER,
  added INTEGER NOT NULL DEFAULT (unixepoch())) WITHOUT ROWID;
CREATE TABLE tags(
  name TEXT PRIMARY KEY, manifest BLOB NOT NULL,
  updated INTEGER NOT NULL DEFAULT (unixepoch())) WITHOUT ROWID;
-- platform: always '' (a name means one index or manifest).
CREATE TABLE remote_tags(
  name TEXT NOT NULL, platform TEXT NOT NULL, manifest BLOB NOT NULL,
  updated INTEGER NOT NULL DEFAULT (unixepoch()), PRIMARY KEY(name, platform)) WITHOUT ROWID;
CREATE TABLE cache_mounts(
  dir TEXT PRIMARY KEY, id TEXT NOT NULL, size INTEGER, sized INTEGER NOT NULL DEFAULT 0,
  tick INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL DEFAULT (unixepoch()),
  used INTEGER NOT NULL DEFAULT (unixepoch())) WITHOUT ROWID;
";

/// What each version lacked, from 1 on: the steps from it to the next.
const MIGRATIONS: [&str; 1] = ["
ALTER TABLE results ADD COLUMN took_ms INTEGER;
ALTER TABLE results ADD COLUMN tick INTEGER NOT NULL DEFAULT 0;
DROP INDEX IF EXISTS results_tree;
CREATE TABLE cache_mounts(
  dir TEXT PRIMARY KEY, id TEXT NOT NULL, size INTEGER, sized INTEGER NOT NULL DEFAULT 0,
  tick INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL DEFAULT (unixepoch()),
  used INTEGER NOT NULL DEFAULT (unixepoch())) WITHOUT ROWID;
"];

/// Sorts SQLite's errors.
pub(crate) fn sql(
    layout: &Layout,
    what: &'static str,
) -> impl FnOnce(rusqlite::Error) -> StoreError {
    let root = layout.root().to_owned();
    move |e| match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::NoSpace { root },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { root },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::IndexDamaged { root, source: Box::new(e) }
        }
        _ => StoreError::Index { what, source: Box::new(e) },
    }
}

fn configure(c: &Connection) -> rusqlite::Result<()> {
    c.busy_timeout(BUSY)?;
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A plan is good for every value: otherwise a statement that looks for one value after the other is
    // compiled anew for each.
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    c.set_prepared_statement_cache_capacity(64);
    c.pragma_update(None, "synchronous", "NORMAL")?;
    // A row with no effect: the answer is read and dropped.
    c.query_row("PRAGMA wal_autocheckpoint=0", [], |_| Ok(()))
}

fn user_version(c: &Connection) -> rusqlite::Result<i64> {
    c.query_row("PRAGMA user_version", [], |r| r.get(0))
}

/// Opens for reading and writing; makes the schema when there is none.
pub(crate) fn open(layout: &Layout, gc: &File) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut c =
        Connection::open_with_flags(layout.index(), flags).map_err(sql(layout, "open it"))?;
    configure(&c).map_err(sql(layout, "configure it"))?;
    let version = user_version(&c).map_err(sql(layout, "read it"))?;
    match version {
        SCHEMA_VERSION => {}
        0 => {
            // The switch to WAL does not wait for others by itself.
            let path = layout.gc_lock();
            let _guard =
                GcGuard::take(gc, Mode::Exclusive).map_err(|e| layout.err("lock", &path, e))?;
            create(layout, &mut c)?;
        }
        1..SCHEMA_VERSION => migrate(layout, &mut c)?,
        other => return Err(wrong_version(layout, other)),
    }
    Ok(c)
}

fn wrong_version(layout: &Layout, found: i64) -> StoreError {
    StoreError::Format {
        root: layout.root().to_owned(),
        found: format!("{} (index {found})", crate::layout::FORMAT),
        want: crate::layout::FORMAT,
    }
}

fn create(layout: &Layout, c: &mut Connection) -> Result<()> {
    let e = || sql(layout, "create it");
    c.pragma_update(None, "journal_mode", "WAL").map_err(e())?;
    let t = write(c).map_err(e())?;
    // Another process may have been faster.
    if user_version(&t).map_err(e())? == 0 {
        t.execute_batch(SCHEMA).map_err(e())?;
        t.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(e())?;
        if has_objects(layout) {
            t.execute("INSERT INTO meta VALUES('needs_repair', 1)", []).map_err(e())?;
        }
    }
    t.commit().map_err(e())
}

/// An older index becomes this version's, in one transaction: a crash leaves the old one. Processes
/// of the older version that have it open go on: what they name is still there.
fn migrate(layout: &Layout, c: &mut Connection) -> Result<()> {
    let e = || sql(layout, "bring it to this version");
    let t = write(c).map_err(e())?;
    // Another process may have been faster.
    let from = user_version(&t).map_err(e())?;
    for step in MIGRATIONS.iter().skip(usize::try_from(from - 1).unwrap_or(0)) {
        t.execute_batch(step).map_err(e())?;
    }
    for dir in crate::gc::list(&layout.cache_mounts()) {
        let dir = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        t.execute(
            "INSERT OR IGNORE INTO cache_mounts(dir, id) VALUES(?1, ?2)",
            params![dir, crate::mounts::unnamed(&dir)],
        )
        .map_err(e())?;
    }
    t.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(e())?;
    t.commit().map_err(e())
}

/// Objects without an index: it was lost.
fn has_objects(layout: &Layout) -> bool {
    [layout.blobs(), layout.snapshots(), layout.refs()]
        .iter()
        .any(|p| fs::read_dir(p).is_ok_and(|mut d| d.next().is_some()))
}

/// Opens for reading only. On a medium that takes no writes SQLite cannot make its shared memory
/// file, so index and log are copied and the copy is read.
pub(crate) fn open_read_only(layout: &Layout) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = |path: &Path| -> rusqlite::Result<(Connection, i64)> {
        let c = Connection::open_with_flags(path, flags)?;
        configure(&c)?;
        let v = user_version(&c)?;
        Ok((c, v))
    };
    let (c, version) = match open(&layout.index()) {
        Ok(x) => x,
        Err(e)
            if matches!(
                e.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
            ) && layout.index().exists() =>
        {
            open_copy(layout)?
        }
        Err(e) => return Err(sql(layout, "open it")(e)),
    };
    if version != SCHEMA_VERSION {
        return Err(wrong_version(layout, version));
    }
    Ok(c)
}

fn open_copy(layout: &Layout) -> Result<(Connection, i64)> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut last = None;
    for base in ["/dev/shm", "/tmp", "/var/tmp"] {
        let dir = Path::new(base).join(format!("rgraph-index.{}", std::process::id()));
        let Ok(()) = fs::DirBuilder::new().mode(0o700).create(&dir) else { continue };
        let copy = || -> std::io::Result<()> {
            fs::copy(layout.index(), dir.join("index.db"))?;
            let wal = layout.root().join("index.db-wal");
            if wal.exists() {
                fs::copy(&wal, dir.join("index.db-wal"))?;
            }
            Ok(())
        };
        let opened = copy().map_err(|e| layout.err("copy", &layout.index(), e)).and_then(|()| {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let c = Connection::open_with_flags(dir.join("index.db"), flags)
                .map_err(sql(layout, "open a copy of it"))?;
            configure(&c).map_err(sql(layout, "configure it"))?;
            // This read opens the log too: from here on the names are not needed.
            let v = user_version(&c).map_err(sql(layout, "read it"))?;
            Ok((c, v))
        });
        let _ = fs::remove_dir_all(&dir);
        match opened {
            Ok(x) => return Ok(x),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| StoreError::ReadOnly { root: layout.root().to_owned() }))
}

/// Starts a write transaction: waits for other writers here, not at the first write.
pub(crate) fn write(c: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
}

/// Starts a transaction that only reads: its first read says which state it sees.
pub(crate) fn begin_read(c: &Connection) -> rusqlite::Result<()> {
    c.prepare_cached("BEGIN DEFERRED")?.execute([]).map(|_| ())
}

/// Ends it, if there is one.
pub(crate) fn end_read(c: &Connection) {
    if !c.is_autocommit() {
        // Of a transaction that wrote nothing nothing can be lost.
        let _ = c.prepare_cached("COMMIT").and_then(|mut s| s.execute([]));
    }
}

/// Runs `f` with commits that sync the log.
pub(crate) fn full_sync<T>(
    c: &mut Connection,
    f: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    c.pragma_update(None, "synchronous", "FULL")?;
    let out = f(c);
    let back = c.pragma_update(None, "synchronous", "NORMAL");
    out.and_then(|v| back.map(|()| v))
}

/// Moves the log into the file and empties it, unless somebody uses it now. Syncs twice.
///
/// The log is read whole by the first process that opens the store after nobody had it open, so its
/// length is paid at every start.
pub(crate) fn checkpoint(c: &Connection) -> rusqlite::Result<()> {
    c.busy_timeout(Duration::ZERO)?;
    let done = c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    c.busy_timeout(BUSY)?;
    match done {
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
        r => r,
    }
}

/// Reads 32 bytes of column `i`.
pub(crate) fn bytes32(r: &Row<'_>, i: usize) -> rusqlite::Result<[u8; 32]> {
    r.get(i)
}

/// Reads 32 bytes or NULL.
pub(crate) fn opt_bytes32(r: &Row<'_>, i: usize) -> rusqlite::Result<Option<[u8; 32]>> {
    r.get(i)
}

/// Reads a size: SQLite's integers are signed.
pub(crate) fn size(r: &Row<'_>, i: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(r.get::<_, i64>(i)?).unwrap_or(0))
}

/// Reads a size or NULL.
pub(crate) fn opt_size(r: &Row<'_>, i: usize) -> rusqlite::Result<Option<u64>> {
    Ok(r.get::<_, Option<i64>>(i)?.map(|v| u64::try_from(v).unwrap_or(0)))
}

/// Stores a size.
pub(crate) fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}
