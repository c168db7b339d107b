//! Whether a folder stayed as it was between two scans.
//!
//! Equal digests do not say so: a file may have been changed and changed back while it was copied in
//! between. The kernel sets a change time on every write, to a moment that comes once, so equal
//! stamps of all that was scanned do say it; but for two writes within one tick of that clock, the
//! first before the first scan. Who copies waits until [`Moment::settles_at`], so that the second
//! one comes before the copy.

use std::collections::BTreeSet;

use super::Scan;
use super::stat_cache::Stamp;

/// All that a scan saw, by the stamps of files, folders and links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    all: [u8; 32],
    settles_at: i64,
}

impl Moment {
    /// When what was scanned had rested for a tick, ns since 1970: a change after it has other
    /// stamps.
    pub fn settles_at(&self) -> i64 {
        self.settles_at
    }
}

impl Scan {
    /// The moment of this scan.
    pub fn moment(&self) -> Moment {
        let entries = self.parts.iter().flatten().flat_map(|p| &p.entries);
        let mut h = blake3::Hasher::new();
        let mut settles_at = 0;
        // The order of links on the way says nothing.
        let ways: BTreeSet<&Stamp> = self.ways.iter().collect();
        let mut bytes = Vec::new();
        for s in entries.map(|e| &e.stamp).chain(ways) {
            for word in [s.dev, s.ino, s.size, s.mtime as u64, s.ctime as u64] {
                bytes.extend(word.to_le_bytes());
            }
            settles_at = settles_at.max(s.ctime.saturating_add(s.tick()));
        }
        h.update_rayon(&bytes);
        Moment { all: *h.finalize().as_bytes(), settles_at }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Duration;

    use rgraph_ir::op::{SelectedPath, Selector};

    use super::*;
    use crate::context::scan;

    #[test]
    fn what_changes_back_is_seen_all_the_same() {
        type Edit = fn(&Path);
        let edits: &[(&str, Edit, bool)] = &[
            ("nothing", |_| {}, true),
            ("a file beside it", |d| fs::write(d.join("beside"), "").unwrap(), true),
            ("its content", |d| fs::write(d.join("real/f"), "new").unwrap(), false),
            ("a name in a folder", |d| fs::write(d.join("dir/x"), "").unwrap(), false),
            ("a match of a wildcard", |d| fs::write(d.join("wild/x.c"), "").unwrap(), false),
            (
                "the link on the way",
                |d| {
                    fs::remove_file(d.join("link")).unwrap();
                    symlink("dir", d.join("link")).unwrap();
                },
                false,
            ),
        ];
        for (what, edit, same) in edits {
            let dir = tempfile::tempdir().unwrap();
            let d = dir.path();
            for sub in ["real", "dir", "wild"] {
                fs::create_dir(d.join(sub)).unwrap();
            }
            fs::write(d.join("real/f"), "old").unwrap();
            symlink("real", d.join("link")).unwrap();
            let path = |p: &str| Selector::path(p).paths.remove(0);
            let wild = SelectedPath { wildcard: true, ..path("wild/*.c") };
            let paths = vec![path("link/f"), path("dir"), wild];
            let sel = Selector { paths, owner: false, mode: true };
            let root = fs::File::open(d).unwrap();
            let look = || {
                let scan = scan(root.as_fd(), &sel, None, None).unwrap();
                (scan.digest(), scan.moment())
            };
            let (digest, moment) = look();
            // A tick of any kernel's clock.
            std::thread::sleep(Duration::from_nanos(super::super::stat_cache::TICK_NS as u64));
            edit(d);
            // Back to what it was.
            if *what == "its content" {
                fs::write(d.join("real/f"), "old").unwrap();
            }
            for extra in ["dir/x", "wild/x.c"] {
                fs::remove_file(d.join(extra)).unwrap_or(());
            }
            if *what == "the link on the way" {
                fs::remove_file(d.join("link")).unwrap();
                symlink("real", d.join("link")).unwrap();
            }
            let (digest_now, moment_now) = look();
            assert_eq!(digest_now, digest, "{what}");
            assert_eq!(moment_now == moment, *same, "{what}");
        }
    }

    #[test]
    fn young_files_settle_after_a_tick() {
        let stamp = |ctime| Stamp { dev: 1, ino: 1, size: 1, mtime: i64::MAX, ctime };
        assert!((10_000_000..50_000_000).contains(&stamp(7).tick()));
        assert_eq!(stamp(3_000_000_000).tick(), 2_000_000_000);
    }
}
