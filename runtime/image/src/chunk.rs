//! Pieces of a stream that several threads work on at once, and sha256 on a thread of its own.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

/// Bytes of a piece, but for the last one of a stream. gzip members have as many, see
/// [`crate::layer::Compressor`].
pub(crate) const CHUNK: usize = 1 << 20;
/// Pieces that may wait for one thread.
pub(crate) const QUEUE: usize = 3;

/// Buffers go round: new memory costs more than what is done with it.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// An empty buffer with room for a piece.
    pub(crate) fn take(&self) -> Vec<u8> {
        let mut buf = self.old().unwrap_or_else(|| Vec::with_capacity(CHUNK));
        buf.clear();
        buf
    }

    /// A buffer of `len` bytes, whatever they are.
    pub(crate) fn take_filled(&self, len: usize) -> Vec<u8> {
        let mut buf = self.old().unwrap_or_default();
        buf.resize(len, 0);
        buf
    }

    fn old(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// A piece whose buffer comes back when everybody is done with it.
    pub(crate) fn piece(&self, bytes: Vec<u8>) -> Chunk {
        let len = bytes.len();
        self.front(bytes, len)
    }

    /// As [`Self::piece`], of the first `len` bytes of a buffer.
    pub(crate) fn front(&self, bytes: Vec<u8>, len: usize) -> Chunk {
        Chunk(Arc::new(Piece { bytes, len, pool: self.clone() }))
    }
}

/// A piece of a stream.
#[derive(Clone)]
pub(crate) struct Chunk(Arc<Piece>);

struct Piece {
    bytes: Vec<u8>,
    len: usize,
    pool: Pool,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes[..self.0.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

/// Digest and number of bytes.
pub(crate) type Sum = ([u8; 32], u64);

/// sha256 of pieces. A thread is started when there is as much as [`CHUNK`]; a short stream needs none.
#[derive(Default)]
pub(crate) struct Hasher {
    hash: Sha256,
    size: u64,
    beside: Option<(SyncSender<Chunk>, JoinHandle<Sha256>)>,
}

impl Hasher {
    /// Takes the next piece.
    ///
    /// # Errors
    /// No thread could be started.
    pub(crate) fn push(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.size += chunk.len() as u64;
        if self.beside.is_none() {
            if self.size < CHUNK as u64 {
                self.hash.update(&chunk[..]);
                return Ok(());
            }
            let (send, receive) = sync_channel::<Chunk>(QUEUE);
            let start = self.hash.clone();
            let body = move || sum(start, &receive);
            let thread = std::thread::Builder::new().name("sha256".to_owned()).spawn(body)?;
            self.beside = Some((send, thread));
        }
        if let Some((send, _)) = &self.beside {
            send.send(chunk.clone()).map_err(|_| io::Error::other("the hashing thread is gone"))?;
        }
        Ok(())
    }

    /// Waits for the thread.
    pub(crate) fn finish(self) -> Sum {
        let hash = match self.beside {
            None => self.hash,
            Some((send, thread)) => {
                drop(send);
                thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p))
            }
        };
        (hash.finalize().into(), self.size)
    }
}

fn sum(mut hash: Sha256, chunks: &Receiver<Chunk>) -> Sha256 {
    for chunk in chunks {
        hash.update(&chunk[..]);
    }
    hash
}

/// Passes writes on in pieces and hashes them beside. What was not finished is not passed on.
pub(crate) struct HashBeside<W> {
    inner: W,
    buf: Vec<u8>,
    pool: Pool,
    hasher: Hasher,
}

impl<W: Write> HashBeside<W> {
    pub(crate) fn new(inner: W) -> Self {
        // Most streams are short.
        Self { inner, buf: Vec::new(), pool: Pool::default(), hasher: Hasher::default() }
    }

    fn pass(&mut self, next: Vec<u8>) -> io::Result<()> {
        let chunk = self.pool.piece(std::mem::replace(&mut self.buf, next));
        self.hasher.push(&chunk)?;
        self.inner.write_all(&chunk)
    }

    /// Passes the rest on and gives the digest and number of all bytes.
    pub(crate) fn finish(mut self) -> io::Result<(W, Sum)> {
        self.pass(Vec::new())?;
        self.inner.flush()?;
        Ok((self.inner, self.hasher.finish()))
    }
}

impl<W: Write> Write for HashBeside<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(CHUNK - self.buf.len());
        self.buf.extend_from_slice(&data[..n]);
        if self.buf.len() == CHUNK {
            let next = self.pool.take();
            self.pass(next)?;
        }
        Ok(n)
    }

    /// Where the caller flushes is no end of a piece.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why bytes could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// They could not be read, or are not what was promised.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// They could not be written.
    #[error("cannot write it")]
    Write(#[source] io::Error),
}

impl From<CopyFault> for io::Error {
    fn from(e: CopyFault) -> Self {
        match e {
            CopyFault::Read(e) | CopyFault::Write(e) => e,
        }
    }
}

/// Copies all of `from`, which a thread of its own reads and so checks or unpacks while this one
/// writes. `size`: how many bytes are expected; of few, no thread is started.
///
/// # Errors
/// Of reading, then of writing. After one `to` has a part of the bytes.
pub fn copy_beside(
    from: &mut (dyn Read + Send),
    size: u64,
    to: &mut dyn Write,
) -> Result<u64, CopyFault> {
    if size < CHUNK as u64 {
        let mut piece = Vec::with_capacity(size as usize);
        let mut written = 0;
        loop {
            from.take(CHUNK as u64).read_to_end(&mut piece).map_err(CopyFault::Read)?;
            if piece.is_empty() {
                return Ok(written);
            }
            to.write_all(&piece).map_err(CopyFault::Write)?;
            written += piece.len() as u64;
            piece.clear();
        }
    }
    std::thread::scope(|scope| {
        let (send, pieces) = sync_channel::<Chunk>(QUEUE);
        let reader = scope.spawn(move || -> io::Result<()> {
            let pool = Pool::default();
            loop {
                let mut piece = pool.take();
                from.take(CHUNK as u64).read_to_end(&mut piece)?;
                // Nobody listens any more: writing has failed.
                if piece.is_empty() || send.send(pool.piece(piece)).is_err() {
                    return Ok(());
                }
            }
        });
        let mut written = 0;
        let mut done = Ok(());
        for piece in pieces {
            done = to.write_all(&piece);
            if done.is_err() {
                break;
            }
            written += piece.len() as u64;
        }
        let read = reader.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
        read.map_err(CopyFault::Read)?;
        done.map(|()| written).map_err(CopyFault::Write)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails after so many bytes.
    struct Ends(usize);

    impl Read for Ends {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(self.0);
            self.0 -= n;
            if n == 0 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(n) }
        }
    }

    impl Write for Ends {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(buf.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn copies_all_or_says_what_failed() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK + 7] {
            let data: Vec<u8> = (0..size).map(|i| (i / 3) as u8).collect();
            for told in [0, size as u64] {
                let mut out = Vec::new();
                assert_eq!(copy_beside(&mut &data[..], told, &mut out).unwrap(), size as u64);
                assert!(out == data, "{size}");
            }
        }
        let large = 20 * CHUNK;
        for told in [0, large as u64] {
            let e = copy_beside(&mut Ends(large), told, &mut io::sink()).unwrap_err();
            assert!(matches!(e, CopyFault::Read(e) if e.kind() == io::ErrorKind::InvalidData));
            let data = vec![7; large];
            let e = copy_beside(&mut &data[..], told, &mut Ends(CHUNK)).unwrap_err();
            assert!(matches!(e, CopyFault::Write(e) if e.kind() == io::ErrorKind::StorageFull));
        }
    }

    #[test]
    fn short_and_long_streams_have_their_digests() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7] {
            let data: Vec<u8> = (0..size).map(|i| (i / 3) as u8).collect();
            let mut out = HashBeside::new(Vec::new());
            for part in data.chunks(300_001) {
                out.write_all(part).unwrap();
            }
            let (got, (digest, n)) = out.finish().unwrap();
            assert!(got == data, "{size}");
            assert_eq!((digest, n), (Sha256::digest(&data).into(), size as u64));
        }
    }
}
