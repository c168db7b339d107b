//! Digests of files that were read before.
//!
//! A file is recognised by device, inode, size, modification and change time. The change time is
//! set by the kernel on every write and cannot be set back by a program, so an edit that keeps size
//! and modification time is seen. One hole is left: a write within the same tick of the file
//! system's clock as the one before it. So an entry counts only when the file had rested for
//! [`REST_NS`] when it was read (git's "racy" rule).

use std::collections::HashMap;
use std::sync::Mutex;

use rustix::fs::Statx;

/// A tick of the kernel's clock is 10 ms at most.
pub(super) const TICK_NS: i64 = 12_000_000;
/// A few of them.
const REST_NS: i64 = 50_000_000;
/// File systems that keep whole seconds (or two, as FAT does).
const COARSE_REST_NS: i64 = 2_000_000_000;

/// blake3 over a file's bytes and the extended attributes that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileDigest(pub [u8; 32]);

/// By what a file is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// ns since 1970.
    pub mtime: i64,
    /// ns since 1970.
    pub ctime: i64,
}

impl Stamp {
    pub(super) fn of(s: &Statx) -> Self {
        let ns = |t: rustix::fs::StatxTimestamp| {
            t.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(t.tv_nsec))
        };
        Self {
            dev: u64::from(s.stx_dev_major) << 32 | u64::from(s.stx_dev_minor),
            ino: s.stx_ino,
            size: s.stx_size,
            mtime: ns(s.stx_mtime),
            ctime: ns(s.stx_ctime),
        }
    }

    /// True when the file had rested long enough at `read_at` (ns since 1970, taken before its
    /// first byte was read) for its stamp to stand for its content.
    pub fn is_settled(&self, read_at: i64) -> bool {
        let newest = self.ctime.max(self.mtime);
        let rest = if self.is_coarse() { COARSE_REST_NS } else { REST_NS };
        newest.saturating_add(rest) <= read_at
    }

    /// How long two writes may have the same change time.
    pub(super) fn tick(&self) -> i64 {
        if self.is_coarse() { COARSE_REST_NS } else { TICK_NS }
    }

    fn is_coarse(&self) -> bool {
        self.ctime % 1_000_000_000 == 0
    }
}

/// Remembers digests of files between builds. Called from many threads at once.
pub trait StatCache: Sync {
    /// The digest recorded for a file with this stamp.
    fn lookup(&self, stamp: &Stamp) -> Option<FileDigest>;

    /// The digests recorded for many files, one answer each, in order. Worth its own code where one
    /// question for many is cheaper than many questions.
    fn lookup_all(&self, stamps: &[Stamp]) -> Vec<Option<FileDigest>> {
        stamps.iter().map(|s| self.lookup(s)).collect()
    }

    /// Records a digest. Only settled stamps come here.
    fn record(&self, stamp: Stamp, digest: FileDigest);

    /// The machine's clock, ns since 1970.
    fn now(&self) -> i64;
}

/// A [`StatCache`] in memory that can be kept as one file.
pub struct MemoryStatCache {
    known: HashMap<(u64, u64), (Stamp, FileDigest)>,
    state: Mutex<State>,
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
}

#[derive(Default)]
struct State {
    fresh: HashMap<(u64, u64), (Stamp, FileDigest)>,
}

/// Bytes that are no kept cache. Throw them away and start empty.
#[derive(Debug, thiserror::Error)]
#[error("stat cache is damaged or of another version")]
pub struct StatCacheError;

const MAGIC: &[u8; 16] = b"rgraph-stat 0001";
const RECORD: usize = 5 * 8 + 32;

impl MemoryStatCache {
    /// An empty cache; `clock` gives ns since 1970.
    pub fn new(clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { known: HashMap::new(), state: Mutex::default(), clock: Box::new(clock) }
    }

    /// Reads what [`Self::to_bytes`] gave.
    pub fn from_bytes(
        bytes: &[u8],
        clock: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Result<Self, StatCacheError> {
        let body = bytes.strip_prefix(MAGIC).ok_or(StatCacheError)?;
        let (sum, records) = body.split_at_checked(32).ok_or(StatCacheError)?;
        if blake3::hash(records).as_bytes() != sum || records.len() % RECORD != 0 {
            return Err(StatCacheError);
        }
        let mut this = Self::new(clock);
        this.known.reserve(records.len() / RECORD);
        for r in records.chunks_exact(RECORD) {
            let word = |i: usize| {
                let mut b = [0; 8];
                b.copy_from_slice(&r[i * 8..i * 8 + 8]);
                u64::from_le_bytes(b)
            };
            let stamp = Stamp {
                dev: word(0),
                ino: word(1),
                size: word(2),
                mtime: word(3) as i64,
                ctime: word(4) as i64,
            };
            let mut digest = [0; 32];
            digest.copy_from_slice(&r[40..]);
            this.known.insert((stamp.dev, stamp.ino), (stamp, FileDigest(digest)));
        }
        Ok(this)
    }

    /// All entries, the newer one of each inode, in a stable order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let mut all = self.known.clone();
        all.extend(state.fresh.iter().map(|(k, v)| (*k, *v)));
        let mut keys: Vec<_> = all.keys().copied().collect();
        keys.sort_unstable();
        let mut records = Vec::with_capacity(keys.len() * RECORD);
        for key in keys {
            let (s, d) = &all[&key];
            for word in [s.dev, s.ino, s.size, s.mtime as u64, s.ctime as u64] {
                records.extend(word.to_le_bytes());
            }
            records.extend(d.0);
        }
        let mut out = MAGIC.to_vec();
        out.extend(blake3::hash(&records).as_bytes());
        out.extend(records);
        out
    }

    /// True when something was recorded since it was made.
    pub fn is_changed(&self) -> bool {
        !self.state.lock().unwrap_or_else(|e| e.into_inner()).fresh.is_empty()
    }
}

impl StatCache for MemoryStatCache {
    fn lookup(&self, stamp: &Stamp) -> Option<FileDigest> {
        let key = (stamp.dev, stamp.ino);
        if let Some((s, d)) = self.known.get(&key)
            && s == stamp
        {
            return Some(*d);
        }
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.fresh.get(&key).filter(|(s, _)| s == stamp).map(|(_, d)| *d)
    }

    fn record(&self, stamp: Stamp, digest: FileDigest) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.fresh.insert((stamp.dev, stamp.ino), (stamp, digest));
    }

    fn now(&self) -> i64 {
        (self.clock)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(ino: u64, ctime: i64) -> Stamp {
        Stamp { dev: 1, ino, size: 3, mtime: 5, ctime }
    }

    #[test]
    fn only_rested_files_are_trusted() {
        let fine = stamp(1, 1_000_000_007);
        assert!(!fine.is_settled(1_000_000_007));
        assert!(!fine.is_settled(1_000_000_007 + REST_NS - 1));
        assert!(fine.is_settled(1_000_000_007 + REST_NS));
        let coarse = stamp(1, 3_000_000_000);
        assert!(!coarse.is_settled(3_000_000_000 + REST_NS));
        assert!(coarse.is_settled(3_000_000_000 + COARSE_REST_NS));
        let future = Stamp { mtime: i64::MAX, ..fine };
        assert!(!future.is_settled(4_000_000_000));
    }

    #[test]
    fn is_kept_whole_or_not_at_all() {
        let cache = MemoryStatCache::new(|| 0);
        assert!(!cache.is_changed());
        for i in 0..5 {
            cache.record(stamp(i, 7), FileDigest([i as u8; 32]));
        }
        let bytes = cache.to_bytes();
        let read = MemoryStatCache::from_bytes(&bytes, || 0).unwrap();
        assert_eq!(read.lookup(&stamp(3, 7)), Some(FileDigest([3; 32])));
        assert_eq!(read.lookup(&stamp(3, 8)), None);
        assert_eq!(read.to_bytes(), bytes);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(MemoryStatCache::from_bytes(&bad, || 0).is_err(), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert!(MemoryStatCache::from_bytes(&bytes[..len], || 0).is_err(), "{len} bytes");
        }
    }
}
