//! Blobs on their way out into a file: copied within the kernel, or shared where the file system can,
//! while a thread beside reads and hashes the same file: what is damaged in the store is found, a fault of
//! the copying itself only by its length.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::blob::VerifyReader;

/// Smaller ones are read once and written: no thread is started for them.
const LARGE: u64 = 1 << 20;
/// Bytes that are copied at once. The disk begins with each while the next is copied.
const PIECE: usize = 8 << 20;

impl VerifyReader<'_> {
    /// Copies the blob into `to`, an empty file, and gives its size. Nothing was read of it before. Who
    /// syncs `to` waits for little: the disk has begun with it.
    ///
    /// # Errors
    /// Of writing; of reading; [`io::ErrorKind::InvalidData`] when the bytes are not those of the
    /// digest, and then the store forgets the blob. After each `to` has a part of the bytes.
    pub fn copy_to(mut self, to: &File) -> io::Result<u64> {
        if self.size < LARGE {
            let mut bytes = Vec::with_capacity(self.size as usize);
            self.read_to_end(&mut bytes)?;
            (&*to).write_all(&bytes)?;
            return Ok(self.size);
        }
        let (from, size) = (&self.file, self.size);
        let (sum, copied) = std::thread::scope(|s| {
            let sum = s.spawn(|| hash_at(from));
            let copied = copy_all(from, to, size);
            (sum.join().unwrap_or_else(|p| std::panic::resume_unwind(p)), copied)
        });
        copied?;
        match sum? {
            (n, digest) if n == size && digest == *self.digest.as_bytes() => {}
            _ => return Err(self.damaged()),
        }
        match to.metadata()?.len() {
            n if n == size => Ok(size),
            n => Err(io::Error::other(format!("the copy has {n} of {size} bytes"))),
        }
    }
}

/// Length and sha256 of a file, whatever its position.
fn hash_at(file: &File) -> io::Result<(u64, [u8; 32])> {
    let (mut hasher, mut at, mut buf) = (Sha256::new(), 0, vec![0; 512 << 10]);
    loop {
        match file.read_at(&mut buf, at) {
            Ok(0) => return Ok((at, hasher.finalize().into())),
            Ok(n) => {
                hasher.update(&buf[..n]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn copy_all(from: &File, to: &File, size: u64) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut done = 0;
    while done < size {
        let (mut at, mut there) = (done, done);
        let n = match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut there), PIECE)
        {
            Err(Errno::INTR) => continue,
            // Some file systems say so by ending early, and some filters of system calls by EPERM.
            Ok(0)
            | Err(
                Errno::XDEV
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::BADF
                | Errno::PERM,
            ) => return by_hand(from, to, done),
            n => n? as u64,
        };
        rgraph_sys::file::start_writing(to.as_fd(), done, n);
        done += n;
    }
    Ok(())
}

/// The rest from `at` on, through memory.
fn by_hand(from: &File, to: &File, mut at: u64) -> io::Result<()> {
    let mut buf = vec![0; 512 << 10];
    loop {
        match from.read_at(&mut buf, at) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all_at(&buf[..n], at)?;
                rgraph_sys::file::start_writing(to.as_fd(), at, n as u64);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use rgraph_ir::BlobDigest;

    use super::*;
    use crate::{OpenOptions, Store};

    #[test]
    fn copies_are_whole_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), OpenOptions::default()).unwrap();
        let _lease = store.lease().unwrap();
        for size in [0, 1, LARGE as usize - 1, LARGE as usize, PIECE + 7, 3 * PIECE] {
            let bytes: Vec<u8> = (0..size).map(|i| (i / 7) as u8).collect();
            let digest = store.put_blob(&bytes).unwrap().digest;
            let path = dir.path().join("copy");
            let copy = || {
                let to = File::create(&path).unwrap();
                store.open_blob_verified(&digest).unwrap().unwrap().copy_to(&to)
            };
            assert_eq!(copy().unwrap(), size as u64);
            assert!(std::fs::read(&path).unwrap() == bytes, "{size}");
            if size == 0 {
                continue;
            }
            let blob = store.layout().blob(&digest);
            let mut other = bytes.clone();
            other[size / 2] ^= 1;
            std::fs::write(&blob, &other).unwrap();
            assert_eq!(copy().unwrap_err().kind(), io::ErrorKind::InvalidData, "{size}");
            assert!(!store.has_blob(&digest).unwrap(), "it is forgotten");
            assert_eq!(BlobDigest::of(&bytes), digest);
        }
    }

    #[test]
    fn a_full_target_is_an_error_of_writing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), OpenOptions::default()).unwrap();
        let _lease = store.lease().unwrap();
        for size in [10, 2 * LARGE as usize] {
            let digest = store.put_blob(&vec![7; size]).unwrap().digest;
            let full = File::options().write(true).open("/dev/full").unwrap();
            let e = store.open_blob_verified(&digest).unwrap().unwrap().copy_to(&full);
            assert_eq!(e.unwrap_err().kind(), io::ErrorKind::StorageFull, "{size}");
            assert!(store.has_blob(&digest).unwrap(), "it is not the blob's fault");
        }
    }
}
