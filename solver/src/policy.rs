//! How a solve goes about its work. Nothing here enters a key.

use std::collections::BTreeSet;

use rgraph_ir::{SnapshotId, Ttl};

/// See the module.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Containers at once. Most of them wait (for a network, a compiler's own children, a timer),
    /// so this is no matter of cores.
    pub exec: usize,
    /// Transfers at once, looking up what mutable sources mean included.
    pub fetch: usize,
    /// Hashing and copying at once.
    pub cpu: usize,
    /// What tells this build's places from another's with equal stage names (file and target), for
    /// [`crate::key::Slot`].
    pub place: String,
    /// Say why a vertex runs ([`crate::EventKind::Missed`]).
    pub explain: bool,
    /// Names of variables that are build arguments, so that an explanation calls them `ARG`.
    pub args: BTreeSet<String>,
    /// Snapshots known to be gone or damaged: a hit that holds one is a miss. An exporter that finds
    /// a loss solves once more with it.
    pub lost: Vec<SnapshotId>,
    /// How long any result is good for; a vertex may say less.
    pub ttl: Option<Ttl>,
}

impl Default for Policy {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            exec: 32.max(cores),
            fetch: 8,
            cpu: cores,
            place: String::new(),
            explain: true,
            args: BTreeSet::new(),
            lost: Vec::new(),
            ttl: None,
        }
    }
}
