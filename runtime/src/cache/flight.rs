//! Steps between their start and their record: what the worker knows and the cache must.
//!
//! Several processes on one store run a step once: whoever starts it holds its key's lock until the
//! result is recorded (or the step failed), others wait and take the result. Only steps that run a
//! program are locked, and no step waits for another one's lock while it holds its own.
//!
//! A step that copied from the caller's folder while that was being changed has a result that its
//! key does not describe. It is used by this build and remembered by none.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rgraph_ir::CacheKey;
use rgraph_store::{Result, StepLock, Store, Wait};

/// See the module.
pub struct Flight<'a> {
    store: &'a Store,
    locks: Mutex<HashMap<CacheKey, StepLock>>,
    unsettled: Mutex<HashSet<CacheKey>>,
    /// Keys without a result when the store was asked.
    missing: Mutex<HashSet<CacheKey>>,
    took: Mutex<HashMap<CacheKey, Duration>>,
}

fn guard<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Flight<'a> {
    /// Nothing in flight yet.
    pub fn new(store: &'a Store) -> Self {
        Self {
            store,
            locks: Mutex::default(),
            unsettled: Mutex::default(),
            missing: Mutex::default(),
            took: Mutex::default(),
        }
    }

    /// Takes the lock of a key until [`Self::end`]. True: somebody else had it until now, and may
    /// have left a result.
    ///
    /// # Errors
    /// [`rgraph_store::StoreError::Cancelled`] when `on_wait` gives up.
    pub fn begin(&self, key: CacheKey, on_wait: &mut dyn FnMut(Wait) -> bool) -> Result<bool> {
        let (lock, waited) = self.store.step_lock(&key, on_wait)?;
        guard(&self.locks).insert(key, lock);
        Ok(waited)
    }

    /// The result of a key is recorded, or there will be none.
    pub fn end(&self, key: CacheKey) {
        guard(&self.missing).remove(&key);
        guard(&self.locks).remove(&key);
    }

    /// Says that the store had no result of a key when it was asked.
    pub fn missing(&self, key: CacheKey) {
        guard(&self.missing).insert(key);
    }

    /// Whether that was said and the step has not ended since: a result that is there now is news.
    pub fn was_missing(&self, key: CacheKey) -> bool {
        guard(&self.missing).contains(&key)
    }

    /// Says that the result of a key is not what the key describes.
    pub fn unsettle(&self, key: CacheKey) {
        guard(&self.unsettled).insert(key);
    }

    /// Says how long a step ran: what its result costs to make again.
    pub fn ran_for(&self, key: CacheKey, time: Duration) {
        guard(&self.took).insert(key, time);
    }

    /// How long it ran in this build.
    pub fn took(&self, key: CacheKey) -> Option<Duration> {
        guard(&self.took).get(&key).copied()
    }

    /// Whether that was said.
    pub fn is_unsettled(&self, key: CacheKey) -> bool {
        guard(&self.unsettled).contains(&key)
    }
}

/// One line for people: who is waited for.
pub fn waiting(what: &str, wait: Wait) -> String {
    match wait.holder {
        Some(pid) => format!("waiting for process {pid}: {what}\n"),
        None => format!("waiting for another process: {what}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_store::{OpenOptions, StoreError};

    #[test]
    fn one_at_a_time_until_the_end() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let (a, b) = (Flight::new(&store), Flight::new(&store));
        let key = CacheKey::of(b"k");
        assert!(!a.begin(key, &mut |_| true).unwrap());
        assert!(matches!(b.begin(key, &mut |_| false), Err(StoreError::Cancelled)));
        let mut looks = 0;
        let waited = b.begin(key, &mut |_| {
            looks += 1;
            a.end(key);
            true
        });
        assert!(waited.unwrap());
        assert!(looks > 0);
        b.end(key);
        assert!(!a.begin(key, &mut |_| false).unwrap());
    }
}
