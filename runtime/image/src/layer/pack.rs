//! The passes between a folder and a blob, each over the bytes once, with the stages overlapped:
//! tar, diff ID, compression, blob digest on the way out; the reverse on the way in.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rgraph_ir::request::Compression;
use rgraph_ir::{BlobDigest, DiffId};

use super::LayerError;
use super::compress::{Compressor, decompress_layer};
use super::read::{UnpackOptions, UnpackStats, unpack_layer};
use crate::hash::HashWriter;
use crate::tar::TarError;

/// Bytes handed from one stage to the next at a time.
const CHUNK: usize = 512 << 10;
/// Chunks between two stages.
const QUEUE: usize = 8;

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

/// Compresses what `source` writes into `sink`. `source` runs on the caller's thread, everything
/// after it on others; memory is bounded by about 50 MiB. Do not call it from a rayon job.
pub fn pack<T>(
    source: impl FnOnce(&mut dyn Write) -> Result<T, LayerError>,
    how: Compression,
    level: Option<i32>,
    sink: &mut (dyn Write + Send),
) -> Result<(T, Packed), LayerError> {
    let (send, receive) = sync_channel::<Vec<u8>>(QUEUE);
    std::thread::scope(|scope| {
        let stages = scope.spawn(move || compress(&receive, how, level, sink));
        let mut writer = Chunks { send, buf: Vec::with_capacity(CHUNK) };
        let made = source(&mut writer);
        let sent = if made.is_ok() { writer.flush() } else { Ok(()) };
        drop(writer);
        // When the sink failed, the source saw no more than a broken pipe.
        let packed = match stages.join() {
            Ok(packed) => packed.map_err(LayerError::Write)?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let made = made?;
        sent.map_err(LayerError::Write)?;
        Ok((made, packed))
    })
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

fn compress(
    chunks: &Receiver<Vec<u8>>,
    how: Compression,
    level: Option<i32>,
    sink: &mut (dyn Write + Send),
) -> io::Result<Packed> {
    let mut diff = HashWriter::new(io::sink());
    if how == Compression::Uncompressed {
        for chunk in chunks {
            diff.write_all(&chunk)?;
            sink.write_all(&chunk)?;
        }
        sink.flush()?;
        let (digest, size) = diff.finish();
        return Ok(Packed {
            diff_id: DiffId::from_bytes(digest),
            diff_size: size,
            blob: BlobDigest::from_bytes(digest),
            size,
        });
    }
    let mut out = Compressor::new(HashWriter::new(&mut *sink), how, level)?;
    for chunk in chunks {
        out.write_all(&chunk)?;
        diff.write_all(&chunk)?;
    }
    let (blob, size) = out.finish()?.finish();
    sink.flush()?;
    let (digest, diff_size) = diff.finish();
    Ok(Packed {
        diff_id: DiffId::from_bytes(digest),
        diff_size,
        blob: BlobDigest::from_bytes(blob),
        size,
    })
}

/// Collects what is written into chunks for another thread.
struct Chunks {
    send: SyncSender<Vec<u8>>,
    buf: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(CHUNK - self.buf.len());
        self.buf.extend_from_slice(&data[..n]);
        if self.buf.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buf, Vec::with_capacity(CHUNK));
        self.send.send(full).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Unpacks a layer blob (gzip, zstd or plain) into the empty folder `dest` and tells its diff ID.
/// `blob` is read to its end on another thread, so that a digest over it is complete after
/// success; the caller compares the diff ID before the folder is used.
pub fn unpack_blob(
    blob: impl Read + Send,
    dest: &Path,
    opts: &UnpackOptions<'_>,
) -> Result<(UnpackStats, DiffId), LayerError> {
    let (send, receive) = sync_channel::<io::Result<Vec<u8>>>(QUEUE);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read_ahead(blob, &send));
        let mut hash = HashWriter::new(io::sink());
        let chunks = Received { receive, chunk: Vec::new(), at: 0, ended: false };
        let made = unpack_layer(Tee { from: chunks, to: &mut hash }, dest, opts);
        if let Err(panic) = reader.join() {
            std::panic::resume_unwind(panic);
        }
        Ok((made?, DiffId::from_bytes(hash.finish().0)))
    })
}

/// Sends the content of `blob`; stops when nobody takes it.
fn read_ahead(mut blob: impl Read, send: &SyncSender<io::Result<Vec<u8>>>) {
    let mut run = || -> io::Result<()> {
        let mut content = decompress_layer(&mut blob)?;
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let n = (&mut content).take(CHUNK as u64).read_to_end(&mut chunk)?;
            if n == 0 {
                break;
            }
            if send.send(Ok(chunk)).is_err() {
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
    receive: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Received {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.ended {
                return Ok(0);
            }
            match self.receive.recv() {
                Ok(next) => {
                    self.chunk = next?;
                    self.at = 0;
                }
                Err(_) => self.ended = true,
            }
        }
        let n = buf.len().min(self.chunk.len() - self.at);
        buf[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

struct Tee<'a, R, W> {
    from: R,
    to: &'a mut W,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.to.write_all(&buf[..n])?;
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
