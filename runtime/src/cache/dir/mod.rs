//! A cache in a folder that several machines may share.
//!
//! The folder is an OCI layout (`oci-layout`, `index.json`, `blobs/sha256/`). The truth is one small
//! file per key beside it, `rgraph/v1/records/KEY.json`, and one per content digest,
//! `rgraph/v1/content/KEY-SELECTOR`; caches under another tag than `latest` have both below
//! `rgraph/v1/tags/TAG`. Every file is written under a temporary name and renamed, so that writers
//! need no lock and readers see whole files only. The artifact that `index.json` names is derived
//! from the records and may lag behind.
//!
//! What is read is untrusted: sizes are bounded, links are not followed, digests are checked when
//! the bytes are used, and whatever does not fit is a miss.

mod platforms;
mod read;
mod write;

pub use read::{DirEntries, open_artifact};
pub use write::{CacheDirError, CacheDirWriter};

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rgraph_ir::{BlobDigest, CacheKey, TreeDigest};
use rustix::fs::{Mode, OFlags};

/// Largest content digest with its signature, bytes.
const MAX_CONTENT: u64 = 512;
/// The tag whose entries are not below `tags`.
const LATEST: &str = "latest";

/// Where things lie in a cache folder.
struct Paths {
    dir: PathBuf,
    tag: String,
}

impl Paths {
    fn new(dir: &Path, tag: &str) -> Self {
        Self { dir: dir.to_owned(), tag: tag.to_owned() }
    }

    fn tags(&self) -> PathBuf {
        self.dir.join("rgraph/v1/tags")
    }

    fn entries(&self) -> PathBuf {
        match self.tag.as_str() {
            LATEST => self.dir.join("rgraph/v1"),
            tag => self.tags().join(tag),
        }
    }

    fn records(&self) -> PathBuf {
        self.entries().join("records")
    }

    fn contents(&self) -> PathBuf {
        self.entries().join("content")
    }

    /// For which platforms steps are known; only explanations read that.
    fn ops(&self) -> PathBuf {
        self.entries().join("ops")
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    fn record(&self, key: CacheKey) -> PathBuf {
        self.records().join(format!("{}.json", key.hex()))
    }

    fn content(&self, key: CacheKey, selector: TreeDigest) -> PathBuf {
        self.contents().join(format!("{}-{}", key.hex(), selector.hex()))
    }

    fn blob(&self, digest: &BlobDigest) -> PathBuf {
        self.blobs().join(digest.hex())
    }
}

/// Reads a regular file of at most `max` bytes without following a link at its name.
fn read_small(path: &Path, max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let Some((file, size)) = open_regular(path)? else { return Ok(None) };
    if size > max {
        return Err(std::io::Error::other("too large"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn open_regular(path: &Path) -> std::io::Result<Option<(File, u64)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Err(std::io::Error::other("it is a link")),
        Err(e) => return Err(e.into()),
    };
    let file = File::from(fd);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    Ok(Some((file, meta.len())))
}
