//! Whether a folder stayed as it was between two scans.
//!
//! Equal digests do not say so: a file may have been changed and changed back while it was copied in
//! between. The kernel sets a change time on every write, to a moment that comes once, so equal
//! stamps of all that was scanned do say it; but for two writes within one tick of that clock, the
//! first before the first scan. Who copies waits until [`Moment::settles_at`], so that the second
//! one comes before the copy.
//!
//! Of folders that are only gone through, what happens beside the way does not count. One that is
//! renamed away and back has another change time, and so has the folder it lies in; a file that is
//! made in it changes the first alone.

use std::collections::BTreeMap;

use super::Scan;
use super::stat_cache::Stamp;

/// All that a scan saw, by the stamps of files, folders and links.
#[derive(Debug, Clone)]
pub struct Moment {
    all: [u8; 32],
    folders: BTreeMap<Vec<u8>, Stamp>,
    settles_at: i64,
}

impl Moment {
    /// When what was scanned had rested for a tick, ns since 1970: a change after it has other
    /// stamps.
    pub fn settles_at(&self) -> i64 {
        self.settles_at
    }

    /// Whether nothing of what was scanned was changed or put elsewhere until `later`, not even for
    /// a while. A folder on the way counts as moved when files were made in it and beside it.
    pub fn lasted_until(&self, later: &Self) -> bool {
        self.all == later.all
            && self.folders.len() == later.folders.len()
            && self.folders.iter().all(|(path, was)| {
                let stayed = |path: &[u8]| {
                    let (was, is) = (self.folders.get(path), later.folders.get(path));
                    was.is_some() && was.map(|s| s.ctime) == is.map(|s| s.ctime)
                };
                let up = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
                let is = later.folders.get(path);
                is.is_some_and(|is| (is.dev, is.ino) == (was.dev, was.ino))
                    // The root is the same handle's folder, wherever that lies.
                    && (path.is_empty() || stayed(path) || stayed(&path[..up]))
            })
    }
}

impl Scan {
    /// The moment of this scan.
    pub fn moment(&self) -> Moment {
        let entries = self.parts.iter().flatten().flat_map(|p| &p.entries);
        let mut h = blake3::Hasher::new();
        let mut settles_at = 0;
        let mut rest = |s: &Stamp| {
            settles_at = settles_at.max(s.ctime.saturating_add(s.tick()));
        };
        let mut bytes = Vec::new();
        for s in entries.map(|e| &e.stamp).chain(&self.ways.passed) {
            for word in [s.dev, s.ino, s.size, s.mtime as u64, s.ctime as u64] {
                bytes.extend(word.to_le_bytes());
            }
            rest(s);
        }
        self.ways.folders.values().for_each(rest);
        h.update_rayon(&bytes);
        let folders = self.ways.folders.clone();
        Moment { all: *h.finalize().as_bytes(), folders, settles_at }
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
    use crate::context::{Owners, scan};

    fn away_and_back(dir: &Path) {
        let away = dir.with_file_name("away");
        fs::rename(dir, &away).unwrap();
        fs::rename(&away, dir).unwrap();
    }

    #[test]
    fn what_changes_back_is_seen_all_the_same() {
        type Edit = fn(&Path);
        let edits: &[(&str, Edit, bool)] = &[
            ("nothing", |_| {}, true),
            ("a file beside it", |d| fs::write(d.join("beside"), "").unwrap(), true),
            ("a file on the way", |d| fs::write(d.join("way/beside"), "").unwrap(), true),
            ("a folder on the way", |d| away_and_back(&d.join("way")), false),
            ("a deeper one", |d| away_and_back(&d.join("way/on")), false),
            ("one that a link leads through", |d| away_and_back(&d.join("real")), false),
            ("a folder beside the way", |d| away_and_back(&d.join("way/off")), true),
            (
                "another one in its place",
                |d| {
                    fs::rename(d.join("way"), d.join("old")).unwrap();
                    fs::create_dir_all(d.join("way/on")).unwrap();
                    fs::hard_link(d.join("old/on/f"), d.join("way/on/f")).unwrap();
                },
                false,
            ),
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
            for sub in ["real", "dir", "wild", "way/on", "way/off"] {
                fs::create_dir_all(d.join(sub)).unwrap();
            }
            fs::write(d.join("way/on/f"), "").unwrap();
            fs::write(d.join("real/f"), "old").unwrap();
            symlink("real", d.join("link")).unwrap();
            let path = |p: &str| Selector::path(p).paths.remove(0);
            let wild = SelectedPath { wildcard: true, ..path("wild/*.c") };
            let paths = vec![path("link/f"), path("dir"), path("way/on/f"), wild];
            let sel = Selector { paths, owner: false, mode: true };
            let root = fs::File::open(d).unwrap();
            let look = || {
                let scan = scan(root.as_fd(), &sel, None, None, Owners::Kernel).unwrap();
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
            assert_eq!(moment.lasted_until(&moment_now), *same, "{what}");
        }
    }

    #[test]
    fn young_files_settle_after_a_tick() {
        let stamp = |ctime| Stamp { dev: 1, ino: 1, size: 1, mtime: i64::MAX, ctime };
        assert!((10_000_000..50_000_000).contains(&stamp(7).tick()));
        assert_eq!(stamp(3_000_000_000).tick(), 2_000_000_000);
    }
}
