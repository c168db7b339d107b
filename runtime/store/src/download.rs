//! Blobs whose bytes somebody else hashes on their way in: downloads, and layers packed here.
//!
//! What a transfer that broke off has brought stays in `tmp/part-<hex>`, also when its process was
//! killed, and the next one goes on from there. Nothing says that these bytes are right: they are read
//! and hashed again from the first one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rgraph_ir::BlobDigest;
use rgraph_sys::file::start_writing;

use crate::blob::{BlobInfo, no_space};
use crate::error::{Result, StoreError};
use crate::lock::{self, Mode};
use crate::store::Store;

/// How the names of parts begin.
const PREFIX: &str = "part-";
/// Most parts that wait for a next try. With one more all of them go.
const MAX_PARTS: usize = 8;
/// So many bytes of a download are given to the disk together. What names it waits for all of them.
const TO_DISK: u64 = 8 << 20;

/// A blob in the making that the store only counts. Its maker hashes it and says at the end what it
/// is. Dropped without [`Self::commit`], a download leaves its part, anything else nothing.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a Store,
    file: File,
    path: PathBuf,
    written: u64,
    /// Bytes that the disk was told to begin with.
    begun: u64,
    /// Bytes of an earlier try.
    before: u64,
    end: End,
}

/// What becomes of the file when its writer is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Remove,
    /// It waits for the next try.
    Stay,
    /// It has its name. Under the old one the next download may have begun.
    Named,
}

impl Incoming<'_> {
    /// Bytes written so far, those of earlier tries left out.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What an earlier try left, from its first byte; `None`: nothing.
    ///
    /// # Errors
    /// The file could not be opened a second time.
    pub fn front(&self) -> Result<Option<Part>> {
        if self.before == 0 {
            return Ok(None);
        }
        let file = self.file.try_clone();
        let file = file.map_err(|e| self.store.layout().err("read", &self.path, e))?;
        Ok(Some(Part { file, at: 0, end: self.before }))
    }

    /// Nothing of it stays: its bytes were wrong.
    pub fn discard(mut self) {
        self.end = End::Remove;
    }

    /// Gives the blob its name. `info` is what its maker found, who has written all of it.
    ///
    /// # Errors
    /// Another number of bytes was written; then nothing stays.
    pub fn commit(mut self, info: BlobInfo) -> Result<BlobInfo> {
        if self.written != info.size {
            self.end = End::Remove;
            return Err(StoreError::SizeMismatch { want: info.size, got: self.written });
        }
        if self.before > info.size {
            let cut = self.file.set_len(info.size);
            cut.map_err(|e| self.store.layout().err("cut", &self.path, e))?;
        }
        self.store.name_blob(&self.path, info)?;
        self.end = End::Named;
        Ok(info)
    }
}

impl Write for Incoming<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // Over what an earlier try left: the same bytes, or they were wrong.
        let n =
            self.file.write_at(buf, self.written).map_err(|e| no_space(e, self.store.root()))?;
        self.written += n as u64;
        if self.end == End::Stay && self.written - self.begun >= TO_DISK {
            start_writing(self.file.as_fd(), self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        let empty = self.before == 0 && self.written == 0;
        if self.end == End::Remove || (self.end == End::Stay && empty) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Reads what an earlier try left. Not checked.
#[derive(Debug)]
pub struct Part {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Store {
    /// Starts a blob that its maker hashes.
    pub fn incoming(&self) -> Result<Incoming<'_>> {
        let (file, path) = self.create_locked(&self.layout().tmp())?;
        Ok(Incoming { store: self, file, path, written: 0, begun: 0, before: 0, end: End::Remove })
    }

    /// Starts the download of a blob, or goes on with one that broke off. When another process brings
    /// the same blob right now, this is a download of its own.
    pub fn download(&self, digest: &BlobDigest) -> Result<Incoming<'_>> {
        self.need_write()?;
        let tmp = self.layout().tmp();
        let path = tmp.join(format!("{PREFIX}{}", digest.hex()));
        if parts(&tmp).len() > MAX_PARTS {
            self.remove_parts();
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|e| self.layout().err("create", &path, e))?;
        let ours = lock::try_lock(&file, Mode::Exclusive)
            .and_then(|ok| {
                let meta = file.metadata()?;
                // Between opening and locking it may have become a blob, under its own name.
                let same = |m: fs::Metadata| (m.dev(), m.ino()) == (meta.dev(), meta.ino());
                let named = fs::symlink_metadata(&path).is_ok_and(same);
                Ok((ok && meta.is_file() && named).then_some(meta.len()))
            })
            .map_err(|e| self.layout().err("lock", &path, e))?;
        match ours {
            Some(before) => Ok(Incoming {
                store: self,
                file,
                path,
                written: 0,
                begun: 0,
                before,
                end: End::Stay,
            }),
            None => self.incoming(),
        }
    }

    /// Removes the parts that nobody goes on with right now.
    pub(crate) fn remove_parts(&self) {
        for path in parts(&self.layout().tmp()) {
            crate::lease::remove_if_dead(&path);
        }
    }
}

/// Whether a file of `tmp/` waits for its download to go on.
pub(crate) fn is_part(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(PREFIX))
}

fn parts(tmp: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(tmp).into_iter().flatten().flatten();
    all.map(|e| e.path()).filter(|p| is_part(p)).collect()
}
