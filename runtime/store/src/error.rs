//! What can go wrong in the store, one variant per thing a person or a caller can act on.

use std::io;
use std::path::{Path, PathBuf};

use rgraph_ir::{BlobDigest, SnapshotId};

/// The result of store calls.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system of the state root is full, or a quota is used up.
    #[error("no space left in store `{root}` (see `rgraph du`, `rgraph prune`)", root = root.display())]
    NoSpace {
        /// The state root.
        root: PathBuf,
    },
    /// The store was opened, or is mounted, read-only.
    #[error("store is read-only: `{root}`", root = root.display())]
    ReadOnly {
        /// The state root.
        root: PathBuf,
    },
    /// The process or the system has no file descriptor left.
    #[error("too many open files (see `ulimit -n`) on `{path}`", path = path.display())]
    TooManyFiles {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Any other failure of a system call.
    #[error("cannot {what} `{path}`", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state root cannot be used as it is.
    #[error("cannot use state root `{root}`: {why}", root = root.display())]
    Root {
        /// The state root.
        root: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The store was written by another version.
    #[error("store `{root}` is format {found}, this rgraph writes format {want}", root = root.display())]
    Format {
        /// The state root.
        root: PathBuf,
        /// What the `version` file or the index says.
        found: String,
        /// The format of this program.
        want: u32,
    },
    /// The index file is not a database any more.
    #[error("the index of store `{root}` is damaged; `rgraph store check --repair` makes it again", root = root.display())]
    IndexDamaged {
        /// The state root.
        root: PathBuf,
        /// What SQLite says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The index was lost and files remain: deleting would lose what it named.
    #[error("the index of store `{root}` was lost; run `rgraph store check --repair` before anything is deleted", root = root.display())]
    NeedsRepair {
        /// The state root.
        root: PathBuf,
    },
    /// The index failed otherwise.
    #[error("index of the store: cannot {what}")]
    Index {
        /// The verb.
        what: &'static str,
        /// What SQLite says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Bytes came with another digest than announced.
    #[error("digest mismatch: want {want}, got {got}")]
    DigestMismatch {
        /// Announced.
        want: BlobDigest,
        /// Counted.
        got: BlobDigest,
    },
    /// Bytes came in another number than announced. A writer stops at the first byte too many.
    #[error("size mismatch: want {want} bytes, got {got}")]
    SizeMismatch {
        /// Announced.
        want: u64,
        /// Counted so far.
        got: u64,
    },
    /// A blob is larger than the caller allows.
    #[error("blob {digest} has {size} bytes, more than {max}")]
    TooLarge {
        /// Which blob.
        digest: BlobDigest,
        /// Its size.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// A blob on disk is not what its name says.
    #[error("blob {digest} is damaged")]
    BlobDamaged {
        /// Which blob.
        digest: BlobDigest,
    },
    /// A blob is needed and not here.
    #[error("blob {digest} is not in the store")]
    NoBlob {
        /// Which blob.
        digest: BlobDigest,
    },
    /// A snapshot is needed and not here.
    #[error("snapshot {id} is not in the store")]
    NoSnapshot {
        /// Which snapshot.
        id: SnapshotId,
    },
    /// The caller's wait function said stop.
    #[error("canceled while waiting for a lock")]
    Cancelled,
    /// A live build has it.
    #[error("{what} is in use by a build that runs now")]
    Busy {
        /// What.
        what: String,
    },
    /// A record does not have the form this version writes.
    #[error("record in the index is malformed: {what}")]
    Malformed {
        /// Which.
        what: &'static str,
    },
}

impl StoreError {
    /// Sorts a failed system call on `path`, a file of the store at `root`.
    pub(crate) fn io(root: &Path, what: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { root: root.to_owned() }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { root: root.to_owned() },
            _ if matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                Self::TooManyFiles { path: path.to_owned() }
            }
            _ => Self::Io { what, path: path.to_owned(), source },
        }
    }
}
