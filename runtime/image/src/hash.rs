//! sha256 on the way through: what is written, and what is read against a promise.

use std::io::{self, Read, Write};

use rgraph_ir::BlobDigest;
use sha2::{Digest as _, Sha256};

/// Hashes and counts what is written through it.
pub(crate) struct HashWriter<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> HashWriter<W> {
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    /// Digest and number of the bytes so far.
    pub fn finish(self) -> ([u8; 32], u64) {
        (self.hash.finalize().into(), self.size)
    }
}

impl<W: Write> Write for HashWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(data)?;
        self.hash.update(&data[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The bytes are not those that were promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another digest.
    #[error("digest mismatch: want {want}, got {got}")]
    Digest {
        /// Promised.
        want: BlobDigest,
        /// Found.
        got: BlobDigest,
    },
    /// Another size.
    #[error("size mismatch: want {want} bytes of {digest}, got {got}")]
    Size {
        /// Of what.
        digest: BlobDigest,
        /// Promised.
        want: u64,
        /// Found; one more than promised when reading stopped there.
        got: u64,
    },
}

/// Reads at most the promised number of bytes, and fails with a [`Mismatch`] inside an
/// [`io::Error`] of the kind `InvalidData` instead of ending when they are not the promised ones.
#[derive(Debug)]
pub struct VerifyReader<R> {
    inner: R,
    want: BlobDigest,
    size: u64,
    hash: Sha256,
    read: u64,
    checked: bool,
}

impl<R: Read> VerifyReader<R> {
    /// Wraps `inner`, which promises `size` bytes with the digest `want`.
    pub fn new(inner: R, want: BlobDigest, size: u64) -> Self {
        Self { inner, want, size, hash: Sha256::new(), read: 0, checked: false }
    }

    /// Reads what is left and checks it.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    fn check(&mut self) -> io::Result<usize> {
        if self.checked {
            return Ok(0);
        }
        let got = BlobDigest::from_bytes(self.hash.clone().finalize().into());
        let bad = if self.read != self.size {
            Mismatch::Size { digest: self.want, want: self.size, got: self.read }
        } else if got != self.want {
            Mismatch::Digest { want: self.want, got }
        } else {
            self.checked = true;
            return Ok(0);
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, bad))
    }
}

impl<R: Read> Read for VerifyReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buf)?;
        if n == 0 {
            return self.check();
        }
        self.read += n as u64;
        if self.read > self.size {
            let got = self.size + 1;
            let bad = Mismatch::Size { digest: self.want, want: self.size, got };
            return Err(io::Error::new(io::ErrorKind::InvalidData, bad));
        }
        self.hash.update(&buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_promised_bytes_pass() {
        let digest = BlobDigest::of(b"abc");
        let read = |data: &[u8], size| {
            let mut out = Vec::new();
            VerifyReader::new(data, digest, size).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(b"abc", 3).unwrap(), b"abc");
        for (data, size) in [(&b"abd"[..], 3), (b"abc", 4), (b"abcd", 3), (b"ab", 3), (b"", 3)] {
            let e = read(data, size).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::InvalidData, "{data:?} {size}");
            assert!(e.get_ref().unwrap().downcast_ref::<Mismatch>().is_some());
        }
    }
}
