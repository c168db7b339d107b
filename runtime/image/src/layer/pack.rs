//! The passes between a folder and a blob, each over the bytes once, with the stages overlapped:
//! tar, diff ID, compression, blob digest on the way out; the reverse on the way in. The bytes never
//! depend on how many threads there are.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rgraph_ir::request::Compression;
use rgraph_ir::{BlobDigest, DiffId};

use super::LayerError;
use super::compress::{Compressor, LayerContent, decompress_layer};
use super::read::{UnpackOptions, UnpackStats, unpack};
use crate::chunk::{CHUNK, Chunk, HashBeside, Hasher, Pool, QUEUE, Sum};
use crate::tar::{TarError, TarReader};

/// Content bytes of a piece that waits to be unpacked, and how many may wait.
const AHEAD: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;
/// Pieces that are read before a thread is started: many layers have no more.
const PIECES_BEFORE: usize = 4;

/// Digests and sizes of a layer that was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Of the tar.
    pub diff_id: DiffId,
    /// Bytes of the tar.
    pub diff_size: u64,
    /// Of what was written.
    pub blob: BlobDigest,
    /// Bytes written.
    pub size: u64,
}

/// Compresses what `source` writes into `sink`. `source` runs on the caller's thread; the digest of
/// the tar, compression with `sink`, and the digest of the blob have a thread each. Memory is bounded
/// by about 30 MiB. Do not call it from a rayon job.
pub fn pack<T>(
    source: impl FnOnce(&mut dyn Write) -> Result<T, LayerError>,
    how: Compression,
    level: Option<i32>,
    sink: &mut (dyn Write + Send),
) -> Result<(T, Packed), LayerError> {
    let (send, receive) = sync_channel::<Chunk>(QUEUE);
    std::thread::scope(|scope| {
        let stages = scope.spawn(move || compress(&receive, how, level, sink));
        let mut writer = Chunks::new(send);
        let made = source(&mut writer);
        let sent = if made.is_ok() { writer.end() } else { Ok(()) };
        let diff = writer.finish();
        // When the sink failed, the source saw no more than a broken pipe.
        let blob = match stages.join() {
            Ok(blob) => blob.map_err(LayerError::Write)?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let made = made?;
        sent.map_err(LayerError::Write)?;
        let (digest, diff_size) = diff;
        // Uncompressed they are the same bytes.
        let (blob, size) = blob.unwrap_or(diff);
        let diff_id = DiffId::from_bytes(digest);
        let packed = Packed { diff_id, diff_size, blob: BlobDigest::from_bytes(blob), size };
        Ok((made, packed))
    })
}

/// Passes what `source` writes on to `out`, both on the caller's thread, and hashes it beside: digest
/// and number of the bytes. After an error `out` has a part of them.
pub fn hashed<T, E: From<LayerError>>(
    source: impl FnOnce(&mut dyn Write) -> Result<T, E>,
    out: &mut dyn Write,
) -> Result<(T, BlobDigest, u64), E> {
    let mut beside = HashBeside::new(out);
    let made = source(&mut beside)?;
    let (_, (digest, size)) = beside.finish().map_err(LayerError::Write)?;
    Ok((made, BlobDigest::from_bytes(digest), size))
}

/// Packs a layer blob again in another way, or only counts and hashes it with a `sink` that keeps
/// nothing. `blob` is read to its end.
pub fn repack(
    mut blob: impl Read,
    how: Compression,
    level: Option<i32>,
    sink: &mut (dyn Write + Send),
) -> Result<Packed, LayerError> {
    let broken = |e| LayerError::Tar(TarError::Io(e));
    let source = |out: &mut dyn Write| {
        let mut content = decompress_layer(&mut blob).map_err(broken)?;
        io::copy(&mut content, out).map_err(broken)?;
        drop(content);
        io::copy(&mut blob, &mut io::sink()).map_err(broken)
    };
    pack(source, how, level, sink).map(|(_, packed)| packed)
}

/// Digest and size of the blob, unless that is the tar itself.
fn compress(
    chunks: &Receiver<Chunk>,
    how: Compression,
    level: Option<i32>,
    sink: &mut (dyn Write + Send),
) -> io::Result<Option<Sum>> {
    if how == Compression::Uncompressed {
        for chunk in chunks {
            sink.write_all(&chunk)?;
        }
        sink.flush()?;
        return Ok(None);
    }
    let mut out = Compressor::new(HashBeside::new(&mut *sink), how, level)?;
    for chunk in chunks {
        out.chunk(chunk)?;
    }
    let (_, sum) = out.finish()?.finish()?;
    Ok(Some(sum))
}

/// Collects what is written into pieces, for the thread that hashes and the one that compresses.
struct Chunks {
    send: SyncSender<Chunk>,
    buf: Vec<u8>,
    pool: Pool,
    hasher: Hasher,
}

impl Chunks {
    fn new(send: SyncSender<Chunk>) -> Self {
        // Most layers are small.
        Self { send, buf: Vec::new(), pool: Pool::default(), hasher: Hasher::default() }
    }

    fn pass(&mut self, next: Vec<u8>) -> io::Result<()> {
        let chunk = self.pool.piece(std::mem::replace(&mut self.buf, next));
        self.hasher.push(&chunk)?;
        self.send.send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Passes the rest on.
    fn end(&mut self) -> io::Result<()> {
        if self.buf.is_empty() { Ok(()) } else { self.pass(Vec::new()) }
    }

    fn finish(self) -> Sum {
        drop(self.send);
        self.hasher.finish()
    }
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(CHUNK - self.buf.len());
        self.buf.extend_from_slice(&data[..n]);
        if self.buf.len() == CHUNK {
            let next = self.pool.take();
            self.pass(next)?;
        }
        Ok(n)
    }

    /// Where the caller flushes must not show in the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks a layer blob (gzip, zstd or plain) into the empty folder `dest` and tells its diff ID; the
/// caller compares it before the folder is used. `blob` is read to its end, so that a digest over it
/// is complete after success. The start of it is read by the caller's thread, which then unpacks; the
/// rest of a long one by another, and the diff ID is computed by a third.
pub fn unpack_blob(
    blob: impl Read + Send,
    dest: &Path,
    opts: &UnpackOptions<'_>,
) -> Result<(UnpackStats, DiffId), LayerError> {
    let broken = |e| LayerError::Tar(TarError::Io(e));
    let mut ahead = ReadAhead::new(blob).map_err(broken)?;
    let mut start = VecDeque::new();
    while start.len() < PIECES_BEFORE
        && let Some(piece) = ahead.next().map_err(broken)?
    {
        start.push_back(piece);
    }
    if start.len() < PIECES_BEFORE {
        let digest = ahead.finish().map_err(broken)?;
        let made = unpack(TarReader::buffered(Pieces::new(start, None)), dest, opts)?;
        return Ok((made, DiffId::from_bytes(digest)));
    }
    let (send, receive) = sync_channel(PIECES_AHEAD);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || ahead.send(&send));
        let made = unpack(TarReader::buffered(Pieces::new(start, Some(receive))), dest, opts);
        let digest = match reader.join() {
            Ok(digest) => digest,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let made = made?;
        let cut = || broken(io::Error::other("the blob was not read to its end"));
        Ok((made, DiffId::from_bytes(digest.ok_or_else(cut)?)))
    })
}

/// The content of a blob in pieces, which are hashed.
struct ReadAhead<R: Read> {
    content: LayerContent<R>,
    pool: Pool,
    hasher: Hasher,
}

impl<R: Read> ReadAhead<R> {
    fn new(blob: R) -> io::Result<Self> {
        let content = LayerContent::of(blob)?;
        Ok(Self { content, pool: Pool::default(), hasher: Hasher::default() })
    }

    /// `None`: the content is at its end.
    fn next(&mut self) -> io::Result<Option<Chunk>> {
        let mut buf = self.pool.take_filled(AHEAD);
        // Whole pieces: a decompressor keeps a copy of its window after each call.
        let mut len = 0;
        while len < AHEAD {
            match self.content.read(&mut buf[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if len == 0 {
            return Ok(None);
        }
        let piece = self.pool.front(buf, len);
        self.hasher.push(&piece)?;
        Ok(Some(piece))
    }

    /// Reads what stands behind the content and gives the digest of that.
    fn finish(self) -> io::Result<[u8; 32]> {
        io::copy(&mut self.content.into_rest(), &mut io::sink())?;
        Ok(self.hasher.finish().0)
    }

    /// Sends the rest of the content; stops when nobody takes it.
    fn send(mut self, to: &SyncSender<io::Result<Chunk>>) -> Option<[u8; 32]> {
        let end = loop {
            match self.next() {
                Ok(Some(piece)) => to.send(Ok(piece)).ok()?,
                Ok(None) => break self.finish(),
                Err(e) => break Err(e),
            }
        };
        // The other side is gone only after an error of its own.
        end.map_err(|e| to.send(Err(e))).ok()
    }
}

/// Pieces as one stream: those that are there, then those that come.
struct Pieces {
    ready: VecDeque<Chunk>,
    coming: Option<Receiver<io::Result<Chunk>>>,
    piece: Option<Chunk>,
    at: usize,
}

impl Pieces {
    fn new(ready: VecDeque<Chunk>, coming: Option<Receiver<io::Result<Chunk>>>) -> Self {
        Self { ready, coming, piece: None, at: 0 }
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.as_ref().is_none_or(|piece| self.at == piece.len()) {
            // Its buffer is needed again.
            self.piece = None;
            self.at = 0;
            self.piece = match (self.ready.pop_front(), &self.coming) {
                (Some(piece), _) => Some(piece),
                (None, Some(coming)) => coming.recv().ok().transpose()?,
                (None, None) => None,
            };
        }
        Ok(self.piece.as_ref().map_or(&[], |piece| &piece[self.at..]))
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

/// The promise behind a stream was broken, if that is why reading it failed.
pub fn mismatch(e: &LayerError) -> Option<&crate::hash::Mismatch> {
    match e {
        LayerError::Tar(TarError::Io(e)) => e.get_ref()?.downcast_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::tar::{Kind, Member, TarWriter};

    /// A layer of one file, which does not compress well.
    fn layer(name: &str, size: usize) -> Vec<u8> {
        let mut state = 1u32;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x3f
        })
        .take(size)
        .collect();
        let mut m = Member::new(name.as_bytes().to_vec(), Kind::File);
        m.mode = 0o644;
        (m.uid, m.gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        m.size = size as u64;
        let mut out = Vec::new();
        let mut tar = TarWriter::new(&mut out);
        tar.member(&m, &content).unwrap();
        tar.finish().unwrap();
        out
    }

    fn packed(tar: &[u8], how: Compression) -> Vec<u8> {
        let mut blob = Vec::new();
        let write = |out: &mut dyn Write| {
            out.write_all(tar).unwrap();
            Ok(())
        };
        pack(write, how, None, &mut blob).unwrap();
        blob
    }

    /// Counts what is read.
    struct Reads<'a>(&'a [u8], &'a AtomicUsize);

    impl Read for Reads<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(buf)?;
            self.1.fetch_add(n, Ordering::Relaxed);
            Ok(n)
        }
    }

    #[test]
    fn long_and_short_layers_are_unpacked_whole() {
        let before = PIECES_BEFORE * AHEAD;
        for size in [0, 1, AHEAD, before - 1536, before - 1024, before, 3 * before + 7] {
            let tar = layer("file", size);
            for how in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
                let blob = packed(&tar, how);
                let dir = tempfile::tempdir().unwrap();
                let opts = UnpackOptions::default();
                let (stats, diff_id) = unpack_blob(blob.as_slice(), dir.path(), &opts).unwrap();
                assert_eq!((stats.content, diff_id), (size as u64, DiffId::of(&tar)), "{how:?}");
                let file = std::fs::read(dir.path().join("file")).unwrap();
                assert!(file == tar[512..512 + size], "{how:?} {size}");
                let dir = tempfile::tempdir().unwrap();
                let cut = &blob[..blob.len() / 5];
                assert!(unpack_blob(cut, dir.path(), &opts).is_err(), "{how:?} {size}");
            }
        }
    }

    #[test]
    fn a_blob_is_read_to_its_end_and_a_refused_one_ends() {
        for size in [10, 9 * PIECES_BEFORE * AHEAD] {
            // Behind the end of the archive, and of the stream.
            for how in [Compression::Uncompressed, Compression::Zstd] {
                let mut tar = layer("file", size);
                tar.resize(tar.len() + 4 * AHEAD, 0);
                let blob = packed(&tar, how);
                let read = AtomicUsize::new(0);
                let dir = tempfile::tempdir().unwrap();
                let counted = Reads(&blob, &read);
                unpack_blob(counted, dir.path(), &UnpackOptions::default()).unwrap();
                assert_eq!(read.into_inner(), blob.len(), "{how:?} {size}");
            }
            let blob = packed(&layer("../file", size), Compression::Gzip);
            let dir = tempfile::tempdir().unwrap();
            let e = unpack_blob(blob.as_slice(), dir.path(), &UnpackOptions::default());
            assert!(matches!(e, Err(LayerError::Refused { .. })), "{size}");
        }
    }
}
