//! Digests of files outside the store, remembered by what `stat` says of them.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::index::{bytes32, params};
use crate::store::Store;

/// What names one state of a file. A change of content without a change of these is not seen; the
/// caller leaves out files whose times are too young to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatKey {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of content, nanoseconds since 1970, maybe negative.
    pub mtime_ns: i64,
    /// Time of the last change of anything, nanoseconds since 1970.
    pub ctime_ns: i64,
}

/// From here on one scan of a device's rows is cheaper than a look-up for each.
const SCAN_FROM: usize = 256;

impl StatKey {
    // SQLite's integers are signed; only equality and one order matter here.
    fn place(&self) -> (i64, i64) {
        (self.dev.cast_signed(), self.ino.cast_signed())
    }

    fn state(&self) -> (i64, i64, i64) {
        (self.size.cast_signed(), self.mtime_ns, self.ctime_ns)
    }
}

impl Store {
    /// The remembered digests, one answer per key, in order.
    pub fn stats(&self, keys: &[StatKey]) -> Result<Vec<Option<[u8; 32]>>> {
        let mut out = vec![None; keys.len()];
        let mut devices: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (i, k) in keys.iter().enumerate() {
            devices.entry(k.place().0).or_default().push(i);
        }
        self.read("look up file digests", |c| {
            for (dev, mut list) in devices {
                list.sort_by_key(|i| keys[*i].place());
                if list.len() < SCAN_FROM {
                    let mut s = c.prepare_cached(
                        "SELECT size, mtime, ctime, digest FROM stats WHERE dev = ?1 AND ino = ?2",
                    )?;
                    for i in list {
                        let mut rows = s.query(params![dev, keys[i].place().1])?;
                        if let Some(r) = rows.next()?
                            && (r.get(0)?, r.get(1)?, r.get(2)?) == keys[i].state()
                        {
                            out[i] = Some(bytes32(r, 3)?);
                        }
                    }
                    continue;
                }
                let ends = (keys[list[0]].place().1, keys[list[list.len() - 1]].place().1);
                let mut s = c.prepare_cached(
                    "SELECT ino, size, mtime, ctime, digest FROM stats
                     WHERE dev = ?1 AND ino BETWEEN ?2 AND ?3 ORDER BY ino",
                )?;
                let mut rows = s.query(params![dev, ends.0, ends.1])?;
                let mut at = 0;
                while let Some(r) = rows.next()? {
                    let ino: i64 = r.get(0)?;
                    while at < list.len() && keys[list[at]].place().1 < ino {
                        at += 1;
                    }
                    // Several keys may have one inode: hard links.
                    let mut same = at;
                    while same < list.len() && keys[list[same]].place().1 == ino {
                        let i = list[same];
                        if (r.get(1)?, r.get(2)?, r.get(3)?) == keys[i].state() {
                            out[i] = Some(bytes32(r, 4)?);
                        }
                        same += 1;
                    }
                    if at >= list.len() {
                        break;
                    }
                }
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// Remembers digests, in one transaction.
    pub fn put_stats(&self, rows: &[(StatKey, [u8; 32])]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.write("record file digests", |t| {
            let mut s =
                t.prepare_cached("INSERT OR REPLACE INTO stats VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?;
            for (k, d) in rows {
                let ((dev, ino), (size, mtime, ctime)) = (k.place(), k.state());
                s.execute(params![dev, ino, size, mtime, ctime, d])?;
            }
            Ok(())
        })
    }
}
