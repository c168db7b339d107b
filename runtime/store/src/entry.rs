//! One thing of the store that takes space, as `du` lists it and filters choose it.

use std::fmt;

/// What a record is, in BuildKit's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A layer: of a step, or of an image that was pulled.
    Regular,
    /// The folder of a `RUN --mount=type=cache`.
    CacheMount,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regular => "regular",
            Self::CacheMount => "exec.cachemount",
        })
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The snapshot's number, or the cache mount's id.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes on disk; what several records share counts for the first.
    pub size: u64,
    /// Seconds since 1970, as the clock stood.
    pub created: i64,
    /// The same, of the last use that was written down.
    pub used: Option<i64>,
    /// What it lies on.
    pub parents: Vec<String>,
    /// For people.
    pub description: String,
    /// A live build has it.
    pub in_use: bool,
    /// An image needs it too.
    pub shared: bool,
    /// Nothing keeps `prune` from taking it.
    pub reclaimable: bool,
}
