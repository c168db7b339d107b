//! The passes between a folder and a blob, each over the bytes once, with the stages overlapped:
//! tar, diff ID, compression, blob digest on the way out; the reverse on the way in. The bytes never
//! depend on how many threads there are.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use rgraph_ir::request::Compression;
use rgraph_ir::{BlobDigest, DiffId};

use super::LayerError;
use super::compress::{Compressor, decompress_layer};
use super::read::{UnpackOptions, UnpackStats, unpack};
use crate::chunk::{CHUNK, Chunk, HashBeside, Hasher, Pool, QUEUE, Sum};
use crate::hash::HashWriter;
use crate::tar::{TarError, TarReader};

/// Content bytes of a piece that waits to be unpacked, and how many may wait.
const AHEAD: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;

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

/// Unpacks a layer blob (gzip, zstd or plain) into the empty folder `dest` and tells its diff ID.
/// `blob` is read to its end on another thread, so that a digest over it is complete after
/// success; the caller compares the diff ID before the folder is used. Content is made, hashed and
/// unpacked at the same time, a thread each.
pub fn unpack_blob(
    blob: impl Read + Send,
    dest: &Path,
    opts: &UnpackOptions<'_>,
) -> Result<(UnpackStats, DiffId), LayerError> {
    let (send, read) = sync_channel(PIECES_AHEAD);
    let (pass_on, receive) = sync_channel(PIECES_AHEAD);
    let (used, back) = channel();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read_ahead(blob, &send, &back));
        let hasher = scope.spawn(move || hash_between(&read, &pass_on));
        let pieces = Received { receive, used, piece: Piece::default(), at: 0, ended: false };
        let made = unpack(TarReader::buffered(pieces), dest, opts);
        match (hasher.join(), reader.join()) {
            (Ok(digest), Ok(())) => Ok((made?, DiffId::from_bytes(digest))),
            (Err(panic), _) | (_, Err(panic)) => std::panic::resume_unwind(panic),
        }
    })
}

/// Bytes at the front of a buffer, which goes back to its filler: new memory costs as much as what is
/// done with it.
#[derive(Default)]
struct Piece {
    buf: Vec<u8>,
    len: usize,
}

/// Passes pieces on and gives the digest of all; stops when nobody takes them.
fn hash_between(
    from: &Receiver<io::Result<Piece>>,
    to: &SyncSender<io::Result<Piece>>,
) -> [u8; 32] {
    let mut hash = HashWriter::new(io::sink());
    for piece in from {
        if let Ok(Piece { buf, len }) = &piece {
            // A sink takes all.
            let _ = hash.write_all(&buf[..*len]);
        }
        if to.send(piece).is_err() {
            break;
        }
    }
    hash.finish().0
}

/// Sends the content of `blob`; stops when nobody takes it.
fn read_ahead(mut blob: impl Read, send: &SyncSender<io::Result<Piece>>, back: &Receiver<Vec<u8>>) {
    let mut run = || -> io::Result<()> {
        let mut content = decompress_layer(&mut blob)?;
        loop {
            let mut buf = back.try_recv().unwrap_or_default();
            buf.resize(AHEAD, 0);
            // Whole pieces: a decompressor keeps a copy of its window after each call.
            let mut len = 0;
            while len < AHEAD {
                match content.read(&mut buf[len..]) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if len == 0 {
                break;
            }
            if send.send(Ok(Piece { buf, len })).is_err() {
                return Ok(());
            }
        }
        drop(content);
        io::copy(&mut blob, &mut io::sink()).map(drop)
    };
    if let Err(e) = run() {
        // The other side is gone only after an error of its own.
        let _ = send.send(Err(e));
    }
}

struct Received {
    receive: Receiver<io::Result<Piece>>,
    used: Sender<Vec<u8>>,
    piece: Piece,
    at: usize,
    ended: bool,
}

impl BufRead for Received {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.piece.len && !self.ended {
            match self.receive.recv() {
                Ok(next) => {
                    let old = std::mem::replace(&mut self.piece, next?);
                    self.at = 0;
                    // The filler may have ended.
                    let _ = self.used.send(old.buf);
                }
                Err(_) => self.ended = true,
            }
        }
        Ok(&self.piece.buf[self.at..self.piece.len])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}

impl Read for Received {
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
