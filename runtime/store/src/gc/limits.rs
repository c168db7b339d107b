//! How much room the cache may take.

use crate::error::Result;
use crate::store::Store;

/// A number of bytes, or a part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of the whole file system.
    Percent(u8),
}

impl Amount {
    /// In bytes, on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(n) => n,
            Self::Percent(p) => total / 100 * u64::from(p),
        }
    }
}

/// Bounds of the cache. Without any, all that may go goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// So many bytes of the cache stay in any case.
    pub reserved: Option<u64>,
    /// Most bytes the cache may take.
    pub max_used: Option<u64>,
    /// So many bytes of the file system are to be free.
    pub min_free: Option<u64>,
}

/// The file system of the state root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Its bytes.
    pub total: u64,
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes that anything on it takes.
    pub used: u64,
}

impl Limits {
    /// How much may stay of `used` bytes with `free` bytes free; `None`: there is no limit.
    pub(crate) fn keep(&self, used: u64, free: u64) -> Option<u64> {
        if *self == Self::default() {
            return None;
        }
        let mut keep = self.max_used.unwrap_or(u64::MAX);
        if let Some(want) = self.min_free {
            keep = keep.min(used.saturating_sub(want.saturating_sub(free)));
        } else if self.max_used.is_none() {
            keep = 0;
        }
        Some(keep.max(self.reserved.unwrap_or(0)))
    }

    /// What nobody configured: BuildKit's bounds. A tenth of the disk, 10 GB at most, is the
    /// cache's; it may take four fifths, 100 GB at most; a fifth is to be free.
    pub fn of_disk(total: u64) -> Self {
        let part = |percent, most: u64| Amount::Percent(percent).of(total).min(most);
        Self {
            reserved: Some(part(10, 10_000_000_000)),
            max_used: Some(part(80, 100_000_000_000)),
            min_free: Some(part(20, u64::MAX)),
        }
    }
}

impl Store {
    /// Asks the file system.
    pub fn disk(&self) -> Result<Disk> {
        let s = rustix::fs::statvfs(self.root())
            .map_err(|e| self.layout().err("ask for the free space of", self.root(), e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
        Ok(Disk {
            total: bytes(s.f_blocks),
            free: bytes(s.f_bavail),
            used: bytes(s.f_blocks.saturating_sub(s.f_bfree)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_stays() {
        let limits = |reserved, max_used, min_free| Limits { reserved, max_used, min_free };
        for (l, used, free, want) in [
            (limits(None, None, None), 100, 0, None),
            (limits(Some(30), None, None), 100, 0, Some(30)),
            (limits(None, Some(60), None), 100, 0, Some(60)),
            (limits(Some(70), Some(60), None), 100, 0, Some(70)),
            // Free enough: all of it stays.
            (limits(None, None, Some(50)), 100, 50, Some(100)),
            (limits(None, None, Some(50)), 100, 20, Some(70)),
            (limits(None, None, Some(500)), 100, 20, Some(0)),
            (limits(Some(10), Some(90), Some(500)), 100, 20, Some(10)),
            (limits(None, Some(60), Some(50)), 100, 20, Some(60)),
            (limits(None, Some(80), Some(50)), 100, 20, Some(70)),
        ] {
            assert_eq!(l.keep(used, free), want, "{l:?} {used} {free}");
        }
    }

    #[test]
    fn bounds_of_a_disk() {
        let gb = 1_000_000_000u64;
        for (total, want) in [(1000 * gb, (10, 100, 200)), (50 * gb, (5, 40, 10))] {
            let l = Limits::of_disk(total);
            let got = (l.reserved, l.max_used, l.min_free);
            assert_eq!(got, (Some(want.0 * gb), Some(want.1 * gb), Some(want.2 * gb)));
        }
        assert_eq!(Amount::Percent(7).of(1000), 70);
        assert_eq!(Amount::Bytes(7).of(1000), 7);
    }
}
