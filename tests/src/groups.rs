//! Control groups of one test: other tests have some at the same time.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder for groups, in every tree in which something is limited there. It goes with this.
pub struct OwnGroups {
    name: String,
}

impl OwnGroups {
    /// A name that no other test has. Nothing is made yet.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("rgraph-test-{}-{next}", std::process::id()) }
    }

    /// The flag of a command that makes its groups there.
    pub fn flag(&self) -> String {
        format!("--cgroup-parent={}", self.name)
    }

    /// The groups that there are.
    pub fn all(&self) -> Vec<PathBuf> {
        let below = |p: PathBuf| fs::read_dir(p.join("rgraph")).into_iter().flatten().flatten();
        self.places().flat_map(below).map(|e| e.path()).filter(|p| p.is_dir()).collect()
    }

    fn places(&self) -> impl Iterator<Item = PathBuf> {
        let top = PathBuf::from("/sys/fs/cgroup");
        let trees = fs::read_dir(&top).into_iter().flatten().flatten().map(|e| e.path());
        trees.chain([top]).map(|tree| tree.join(&self.name))
    }
}

impl Default for OwnGroups {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for OwnGroups {
    fn drop(&mut self) {
        for place in self.places() {
            for dir in [place.join("rgraph"), place] {
                // Most trees do not have it; one with groups in it is what a test complains of.
                fs::remove_dir(dir).unwrap_or(());
            }
        }
    }
}
