//! Blobs: the one door through which bytes enter the store.
//!
//! A writer hashes and counts while it writes to `tmp/`; commit checks, renames, and adds a row
//! with the boot id. Bytes that were hashed on their way here are only counted ([`crate::download`]). Nothing is synced here ([`crate::durable`]).

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write};
use std::path::{Path, PathBuf};

use rgraph_ir::BlobDigest;
use sha2::{Digest as _, Sha256};

use crate::error::{Result, StoreError};
use crate::index::{OptionalExtension as _, int, params, size};
use crate::layout::open_nofollow;
use crate::store::Store;

/// What a blob is announced to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expect {
    /// Its digest.
    pub digest: Option<BlobDigest>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// What a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
}

/// A blob in the making. Dropped without [`Self::commit`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    size: u64,
    limit: Option<u64>,
}

impl BlobWriter<'_> {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.size
    }

    /// Fails at the first byte past `max`: a sender must not fill the disk before it is caught.
    pub fn limit(mut self, max: u64) -> Self {
        self.limit = Some(max);
        self
    }

    /// Checks against what was announced and gives the blob its name. On a mismatch nothing stays.
    pub fn commit(self, expect: Expect) -> Result<BlobInfo> {
        let info = BlobInfo {
            digest: BlobDigest::from_bytes(self.hasher.clone().finalize().into()),
            size: self.size,
        };
        if let Some(want) = expect.size.filter(|w| *w != info.size) {
            return Err(StoreError::SizeMismatch { want, got: info.size });
        }
        if let Some(want) = expect.digest.filter(|w| *w != info.digest) {
            return Err(StoreError::DigestMismatch { want, got: info.digest });
        }
        self.store.name_blob(&self.path, info)?;
        Ok(info)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(max) = self.limit
            && self.size.saturating_add(buf.len() as u64) > max
        {
            let got = self.size.saturating_add(buf.len() as u64);
            return Err(io::Error::other(StoreError::SizeMismatch { want: max, got }));
        }
        let n = self.file.write(buf).map_err(|e| no_space(e, self.store.root()))?;
        self.hasher.update(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says of a full disk that it is the store's.
pub(crate) fn no_space(e: io::Error, root: &Path) -> io::Error {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            io::Error::new(e.kind(), StoreError::NoSpace { root: root.to_owned() })
        }
        _ => e,
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        // After a commit the name is gone already, and nobody else makes one like it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads a blob and compares the digest at its end: the last read fails with
/// [`io::ErrorKind::InvalidData`] when it differs, and then the store forgets the blob.
#[derive(Debug)]
pub struct VerifyReader<'a> {
    store: &'a Store,
    pub(crate) file: File,
    hasher: Sha256,
    pub(crate) digest: BlobDigest,
    left: u64,
    pub(crate) size: u64,
}

impl VerifyReader<'_> {
    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Has the store forget the blob; what to tell whoever reads it.
    pub(crate) fn damaged(&self) -> io::Error {
        let _ = self.store.forget_blob(&self.digest);
        let e = StoreError::BlobDamaged { digest: self.digest };
        io::Error::new(io::ErrorKind::InvalidData, e)
    }
}

impl Read for VerifyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.file.read(buf)?;
        self.hasher.update(&buf[..n]);
        let damaged = match self.left.checked_sub(n as u64) {
            None => true,
            Some(left) => {
                self.left = left;
                // Checked with the last bytes, not after them: a reader of a known length never
                // asks again.
                if n == 0 && left > 0 {
                    true
                } else {
                    left == 0
                        && <[u8; 32]>::from(self.hasher.clone().finalize())
                            != *self.digest.as_bytes()
                }
            }
        };
        if damaged {
            return Err(self.damaged());
        }
        Ok(n)
    }
}

/// A blob's row.
struct BlobRow {
    size: u64,
    trusted: bool,
}

impl Store {
    /// Starts a blob.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>> {
        let (file, path) = self.create_locked(&self.layout().tmp())?;
        Ok(BlobWriter { store: self, file, path, hasher: Sha256::new(), size: 0, limit: None })
    }

    /// Stores `data`.
    pub fn put_blob(&self, data: &[u8]) -> Result<BlobInfo> {
        let info = BlobInfo { digest: BlobDigest::of(data), size: data.len() as u64 };
        if self.has_blob(&info.digest)? {
            return Ok(info);
        }
        let mut w = self.blob_writer()?;
        w.write_all(data).map_err(|e| self.layout().err("write", &w.path, e))?;
        w.commit(Expect { digest: Some(info.digest), size: Some(info.size) })
    }

    /// From `tmp/` to its name, then the row.
    pub(crate) fn name_blob(&self, from: &Path, info: BlobInfo) -> Result<()> {
        let to = self.layout().blob(&info.digest);
        let mut session = self.session()?;
        // The same bytes are here already: keep those, they may be durable.
        if let Some(row) = session.read("look up a blob", |c| self.blob_row(c, &info.digest))?
            && row.trusted
            && row.size == info.size
            && fs::symlink_metadata(&to).is_ok_and(|m| m.is_file() && m.len() == info.size)
        {
            let _ = fs::remove_file(from);
            return self.hold_blob(&info.digest);
        }
        fs::rename(from, &to).map_err(|e| self.layout().err("rename", &to, e))?;
        session.write("record a blob", |t| {
            t.prepare_cached(
                "INSERT INTO blobs(digest, size, boot) VALUES(?1, ?2, ?3)
                 ON CONFLICT(digest) DO UPDATE SET size=?2, boot=?3, durable=0",
            )?
            .execute(params![
                info.digest.as_bytes(),
                int(info.size),
                self.boot_id()
            ])?;
            Ok(())
        })?;
        self.hold_blob(&info.digest)
    }

    fn blob_row(
        &self,
        c: &crate::index::Connection,
        d: &BlobDigest,
    ) -> rusqlite::Result<Option<BlobRow>> {
        c.prepare_cached("SELECT size, durable OR boot = ?2 FROM blobs WHERE digest = ?1")?
            .query_row(params![d.as_bytes(), self.boot_id()], |r| {
                Ok(BlobRow { size: size(r, 0)?, trusted: r.get(1)? })
            })
            .optional()
    }

    /// Opens a blob for reading; gives its size too. `None`: not here, or it was damaged and is now
    /// forgotten. The bytes are compared with the digest only when a boot lies between and the blob
    /// was never made durable.
    pub fn open_blob(&self, d: &BlobDigest) -> Result<Option<(File, u64)>> {
        let session = self.session()?;
        let Some(row) = session.read("look up a blob", |c| self.blob_row(c, d))? else {
            return Ok(None);
        };
        let path = self.layout().blob(d);
        let file = match open_nofollow(&path) {
            Ok(f) => Some(f),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(self.layout().err("open", &path, e)),
        };
        self.hold_blob(d)?;
        drop(session);
        let good = match &file {
            None => false,
            Some(f) => {
                let m = f.metadata().map_err(|e| self.layout().err("look at", &path, e))?;
                let same = m.is_file() && m.len() == row.size;
                same && (row.trusted || self.check_blob(f, d, &path)?)
            }
        };
        if !good {
            self.forget_blob(d)?;
            return Ok(None);
        }
        Ok(file.map(|f| (f, row.size)))
    }

    /// Hashes an untrusted blob; trusts it in this boot when it is right.
    fn check_blob(&self, file: &File, d: &BlobDigest, path: &Path) -> Result<bool> {
        let at = |e| self.layout().err("read", path, e);
        if hash_file(file).map_err(at)? != *d.as_bytes() {
            return Ok(false);
        }
        (&*file).rewind().map_err(at)?;
        if !self.is_read_only() {
            self.write("trust a blob", |t| {
                t.execute(
                    "UPDATE blobs SET boot = ?2 WHERE digest = ?1",
                    params![d.as_bytes(), self.boot_id()],
                )?;
                Ok(())
            })?;
        }
        Ok(true)
    }

    /// Whether a blob is here, as [`Self::open_blob`] would find it.
    pub fn has_blob(&self, d: &BlobDigest) -> Result<bool> {
        Ok(self.open_blob(d)?.is_some())
    }

    /// Opens a blob such that its bytes are compared with its digest while they are read.
    pub fn open_blob_verified(&self, d: &BlobDigest) -> Result<Option<VerifyReader<'_>>> {
        Ok(self.open_blob(d)?.map(|(file, size)| VerifyReader {
            store: self,
            file,
            hasher: Sha256::new(),
            digest: *d,
            left: size,
            size,
        }))
    }

    /// Reads a whole blob of at most `max` bytes and checks its digest.
    pub fn read_blob_verified(&self, d: &BlobDigest, max: u64) -> Result<Vec<u8>> {
        let Some((file, size)) = self.open_blob(d)? else {
            return Err(StoreError::NoBlob { digest: *d });
        };
        if size > max {
            return Err(StoreError::TooLarge { digest: *d, size, max });
        }
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        // One byte more than it should have: growth is damage too.
        file.take(size + 1)
            .read_to_end(&mut data)
            .map_err(|e| self.layout().err("read", &self.layout().blob(d), e))?;
        if BlobDigest::of(&data) != *d {
            self.forget_blob(d)?;
            return Err(StoreError::BlobDamaged { digest: *d });
        }
        Ok(data)
    }

    /// Drops a blob that is not what its name says, so that it is fetched or made again.
    pub fn forget_blob(&self, d: &BlobDigest) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let path = self.layout().blob(d);
        self.write("forget a blob", |t| {
            t.execute("DELETE FROM blobs WHERE digest = ?1", params![d.as_bytes()])?;
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Err(self.layout().err("remove", &path, e).into())
                }
                _ => Ok(()),
            }
        })
    }

    /// Says that `child` is needed as long as `parent` is (an index and its manifests).
    pub fn link_blobs(&self, parent: &BlobDigest, children: &[BlobDigest]) -> Result<()> {
        // A build that changes nothing writes nothing.
        let known = self.linked_blobs(parent)?;
        let new: Vec<&BlobDigest> = children.iter().filter(|c| !known.contains(c)).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.write("link blobs", |t| {
            let mut s = t.prepare_cached("INSERT OR IGNORE INTO blob_links VALUES(?1, ?2)")?;
            for c in new {
                s.execute(params![parent.as_bytes(), c.as_bytes()])?;
            }
            Ok(())
        })
    }
}

/// The sha256 of what is left of `file`.
pub(crate) fn hash_file(mut file: &File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buf = vec![0u8; 128 << 10];
    loop {
        match file.read(&mut buf) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(n) => hasher.update(&buf[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
