//! The tar format: ustar with PAX and GNU extensions in, ustar with PAX where needed out
//! (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual,
//! "Tar Internals").
//!
//! Invariants: reading holds at most one header block, its extensions (bounded by
//! `ir::limits`) and one buffer; writing the same members gives the same bytes.

mod pax;
mod read;
mod write;

use std::io;

pub use read::{Chunk, TarReader};
pub use write::TarWriter;

/// Size of a header and unit of padding, bytes.
pub const BLOCK: usize = 512;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier member.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A folder.
    Dir,
    /// A named pipe.
    Fifo,
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mtime {
    /// Seconds since 1970, rounded down.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1 000 000 000.
    pub nanos: u32,
}

/// One member's header, extensions applied. Names are bytes as found: nothing is normalised here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub path: Vec<u8>,
    /// What a hard or symbolic link names; empty otherwise.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content, holes included; 0 unless a file.
    pub size: u64,
    /// Time of the last change.
    pub mtime: Mtime,
    /// Major number of a device.
    pub dev_major: u32,
    /// Minor number of a device.
    pub dev_minor: u32,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    /// An empty member with nothing set but its name and kind.
    pub fn new(path: Vec<u8>, kind: Kind) -> Self {
        Self {
            path,
            link: Vec::new(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Mtime::default(),
            dev_major: 0,
            dev_minor: 0,
            xattrs: Vec::new(),
        }
    }
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source failed.
    #[error("cannot read the archive")]
    Io(#[source] io::Error),
    /// It ends inside a member.
    #[error("the archive is cut: it ends inside {0}")]
    Cut(&'static str),
    /// A header's sum is wrong: this is no tar, or it is damaged.
    #[error("byte {offset} is not a tar header: wrong checksum")]
    Checksum {
        /// Where the header starts.
        offset: u64,
    },
    /// A field of a header cannot be read.
    #[error("bad {field} in a tar header")]
    Field {
        /// Its name.
        field: &'static str,
    },
    /// Something is larger than the limit for it.
    #[error("{what} of {got} is over the limit of {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// What was found or claimed.
        got: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// A member of a kind that is not supported.
    #[error("member `{path}` has the unsupported type `{kind}`")]
    Kind {
        /// Its name.
        path: String,
        /// Its type flag.
        kind: String,
    },
    /// A sparse file whose map contradicts itself.
    #[error("member `{path}` has a broken sparse map")]
    Sparse {
        /// Its name.
        path: String,
    },
}

/// A name for people: UTF-8 where it is, control characters escaped.
pub fn show(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for c in String::from_utf8_lossy(name).chars().take(512) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
