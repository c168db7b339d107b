//! File digests by what `stat` says, kept in the store's index.

use std::sync::Mutex;

use rgraph_store::{StatKey, Store};

use crate::context::{FileDigest, Stamp, StatCache};

/// Reads one by one, writes in batches: the rest when dropped.
pub struct StoreStatCache<'a> {
    store: &'a Store,
    new: Mutex<Vec<(StatKey, [u8; 32])>>,
}

/// Rows written at a time.
const BATCH: usize = 10_000;

impl<'a> StoreStatCache<'a> {
    /// The index of `store`.
    pub fn new(store: &'a Store) -> Self {
        Self { store, new: Mutex::default() }
    }

    /// An index that takes no rows means that files are hashed again, nothing worse.
    fn write(&self, rows: &[(StatKey, [u8; 32])]) {
        if let Err(e) = self.store.put_stats(rows) {
            tracing::debug!(error = %e, "stat cache not written");
        }
    }
}

fn key(s: &Stamp) -> StatKey {
    StatKey { dev: s.dev, ino: s.ino, size: s.size, mtime_ns: s.mtime, ctime_ns: s.ctime }
}

impl StatCache for StoreStatCache<'_> {
    fn lookup(&self, stamp: &Stamp) -> Option<FileDigest> {
        let found = self.store.stats(&[key(stamp)]).ok()?;
        found.into_iter().next().flatten().map(FileDigest)
    }

    fn lookup_all(&self, stamps: &[Stamp]) -> Vec<Option<FileDigest>> {
        let keys: Vec<StatKey> = stamps.iter().map(key).collect();
        match self.store.stats(&keys) {
            Ok(found) => found.into_iter().map(|d| d.map(FileDigest)).collect(),
            Err(_) => vec![None; stamps.len()],
        }
    }

    fn record(&self, stamp: Stamp, digest: FileDigest) {
        let full = {
            let mut new = self.new.lock().unwrap_or_else(|e| e.into_inner());
            new.push((key(&stamp), digest.0));
            (new.len() >= BATCH).then(|| std::mem::take(&mut *new))
        };
        if let Some(rows) = full {
            self.write(&rows);
        }
    }

    fn now(&self) -> i64 {
        i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
    }
}

impl Drop for StoreStatCache<'_> {
    fn drop(&mut self) {
        let rows = std::mem::take(self.new.get_mut().unwrap_or_else(|e| e.into_inner()));
        if !rows.is_empty() {
            self.write(&rows);
        }
    }
}
