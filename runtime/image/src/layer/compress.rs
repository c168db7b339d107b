//! The compressed forms of layers, as streams.
//!
//! gzip is written as independent members of 1 MiB of content each, compressed in parallel: the
//! bytes depend on the content and the level only, never on the number of threads (REPRO-04).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Deref;
use std::sync::mpsc::{Receiver, sync_channel};

use libdeflater::{CompressionLvl, Compressor as Deflate};
use rgraph_ir::request::Compression;
use zstd::stream::raw::CParameter;

use crate::chunk::{CHUNK, Chunk};

/// Content bytes of one gzip member: it is in the bytes of every layer.
const MEMBER: usize = 1 << 20;
const _: () = assert!(MEMBER == CHUNK, "a piece of a stream is a gzip member");
/// Most gzip members in the works; with content and output each takes about 2 MiB.
const MAX_IN_FLIGHT: usize = 8;
/// Memory an xz stream may ask for, bytes (`xz -9` asks for 65 MiB).
const XZ_MEMORY: u64 = 256 << 20;

/// gzip's level when none is given.
pub const GZIP_LEVEL: i32 = 6;
/// zstd's level when none is given.
pub const ZSTD_LEVEL: i32 = 3;

/// Content bytes of one zstd job at the levels with several workers: it is in the bytes of every layer.
/// An encoder holds about four jobs and three for each worker; twice as much content in each makes
/// layers smaller by half a percent.
const ZSTD_JOB: u32 = 1 << 20;
/// Most workers: each takes about 4 MiB.
const ZSTD_WORKERS: usize = 3;

/// A compressor into `W`. [`Self::finish`] must be called.
pub struct Compressor<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Plain(W),
    Gzip(Gzip<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Compressor<W> {
    /// Starts a stream. `level`: the method's own scale (gzip 1 to 9, zstd 1 to 22); out of it is an
    /// error.
    pub fn new(out: W, how: Compression, level: Option<i32>) -> io::Result<Self> {
        let check = |level: i32, most: i32| {
            if (1..=most).contains(&level) {
                return Ok(level);
            }
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("compression level {level} is not between 1 and {most}"),
            ))
        };
        Ok(Self(match how {
            Compression::Uncompressed => Inner::Plain(out),
            Compression::Gzip => {
                Inner::Gzip(Gzip::new(out, check(level.unwrap_or(GZIP_LEVEL), 9)?))
            }
            Compression::Zstd => {
                let level = check(level.unwrap_or(ZSTD_LEVEL), 22)?;
                let mut enc = zstd::stream::write::Encoder::new(out, level)?;
                // The output depends on there being workers, not on how many; higher levels take
                // memory per worker.
                let most = if level > 9 { 1 } else { ZSTD_WORKERS };
                let workers = rayon::current_num_threads().clamp(1, most);
                enc.multithread(u32::try_from(workers).unwrap_or(1))?;
                if level <= 9 {
                    // Its own choice is four windows each, of which it keeps several per worker.
                    enc.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
                }
                Inner::Zstd(Box::new(enc))
            }
        }))
    }

    /// Takes the next piece; only the last one of a stream may be shorter than [`CHUNK`], and nothing
    /// goes another way.
    pub(crate) fn chunk(&mut self, chunk: Chunk) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(w) => w.write_all(&chunk),
            Inner::Gzip(g) => g.member(chunk),
            Inner::Zstd(z) => z.write_all(&chunk),
        }
    }

    /// Writes what is left and gives the target back.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Plain(w) => Ok(w),
            Inner::Gzip(g) => g.finish(),
            Inner::Zstd(z) => z.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(w) => w.write(data),
            Inner::Gzip(g) => g.write(data),
            Inner::Zstd(z) => z.write(data),
        }
    }

    /// Does not end a gzip member: where the caller flushes must not show in the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Gzip<W> {
    out: W,
    level: i32,
    content: Vec<u8>,
    in_flight: VecDeque<Receiver<io::Result<Member>>>,
    /// Buffers of members that are written: new memory costs as much as storing what does not compress.
    spare: Vec<Vec<u8>>,
    most: usize,
    started: bool,
}

/// A member at the front of a buffer.
struct Member {
    buf: Vec<u8>,
    len: usize,
}

impl<W: Write> Gzip<W> {
    fn new(out: W, level: i32) -> Self {
        let most = (rayon::current_num_threads() * 2).clamp(2, MAX_IN_FLIGHT);
        let (in_flight, spare) = (VecDeque::new(), Vec::new());
        Self { out, level, content: Vec::new(), in_flight, spare, most, started: false }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(MEMBER - self.content.len());
        self.content.extend_from_slice(&data[..n]);
        if self.content.len() == MEMBER {
            let content = std::mem::replace(&mut self.content, Vec::with_capacity(MEMBER));
            self.member(content)?;
        }
        Ok(n)
    }

    fn member<C>(&mut self, content: C) -> io::Result<()>
    where
        C: Deref<Target = [u8]> + Send + 'static,
    {
        self.started = true;
        let level = self.level;
        // A job of the pool must not wait for another job of the pool.
        if rayon::current_thread_index().is_some() {
            let made = gzip_member(&content, level, self.spare.pop().unwrap_or_default())?;
            return self.write_member(made);
        }
        while self.in_flight.len() >= self.most {
            self.oldest()?;
        }
        let (send, receive) = sync_channel(1);
        let buf = self.spare.pop().unwrap_or_default();
        rayon::spawn(move || {
            let made = gzip_member(&content, level, buf);
            drop(content);
            // Nobody waits any more when the writer failed meanwhile.
            let _ = send.send(made);
        });
        self.in_flight.push_back(receive);
        Ok(())
    }

    fn oldest(&mut self) -> io::Result<()> {
        let Some(next) = self.in_flight.pop_front() else { return Ok(()) };
        let made = next.recv().map_err(|_| io::Error::other("a compression job was lost"))??;
        self.write_member(made)
    }

    fn write_member(&mut self, made: Member) -> io::Result<()> {
        self.out.write_all(&made.buf[..made.len])?;
        self.spare.push(made.buf);
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        if !self.content.is_empty() || !self.started {
            let content = std::mem::take(&mut self.content);
            self.member(content)?;
        }
        while !self.in_flight.is_empty() {
            self.oldest()?;
        }
        Ok(self.out)
    }
}

/// One gzip member, in `buf`; its header holds no time and no name.
fn gzip_member(content: &[u8], level: i32, mut buf: Vec<u8>) -> io::Result<Member> {
    // Archives, pictures and random bytes take deflate's whole time for nothing: they are stored.
    let level = if compresses(content)? { level } else { 0 };
    let len = deflate(content, level, &mut buf)?;
    Ok(Member { buf, len })
}

thread_local! {
    /// Compressors by level: making one costs as much as what it does for a small member.
    static DEFLATE: RefCell<BTreeMap<i32, Deflate>> = const { RefCell::new(BTreeMap::new()) };
}

/// Makes `out` as large as is needed at most, and fills the front of it: as many bytes as it returns.
fn deflate(content: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<usize> {
    let known = CompressionLvl::new(level)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no such compression level"))?;
    DEFLATE.with_borrow_mut(|all| {
        let deflate = all.entry(level).or_insert_with(|| Deflate::new(known));
        let most = deflate.gzip_compress_bound(content.len());
        if out.len() < most {
            out.resize(most, 0);
        }
        deflate
            .gzip_compress(content, out)
            .map_err(|_| io::Error::other("compressed content is larger than its bound"))
    })
}

/// Pieces of a member that are tried, and the bytes of each.
const PROBES: usize = 32;
const PROBE: usize = 2 << 10;

/// Whether compressing is worth it, told by pieces from all over the content: if a tenth of it can
/// be made smaller, some of the pieces are of that tenth.
fn compresses(content: &[u8]) -> io::Result<bool> {
    if content.len() < 2 * PROBES * PROBE {
        return Ok(true);
    }
    let mut sample = Vec::with_capacity(PROBES * PROBE);
    for piece in content.chunks(content.len().div_ceil(PROBES)) {
        sample.extend_from_slice(&piece[..piece.len().min(PROBE)]);
    }
    let mut out = Vec::new();
    let len = deflate(&sample, 1, &mut out)?;
    Ok(len < sample.len() - sample.len() / 128)
}

/// How bytes are compressed, told by how they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Not at all, or in a way that is not known.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl Format {
    /// Looks at the first bytes; 10 are enough.
    pub fn of(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b, 0x08]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18])
        {
            // The second form is a frame to be skipped, which may come first.
            Self::Zstd
        } else if start.starts_with(b"BZh") {
            Self::Bzip2
        } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Self::Xz
        } else {
            Self::Plain
        }
    }
}

/// The content of a layer blob; gzip, zstd and plain tar are told by their first bytes, as media
/// types are often wrong about it.
pub fn decompress_layer<'a>(blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(Box::new(LayerContent::of(blob)?))
}

/// As [`decompress_layer`], and the blob can be had back.
pub(super) enum LayerContent<R: Read> {
    Plain(Sniffed<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Sniffed<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Sniffed<R>>),
}

impl<R: Read> LayerContent<R> {
    pub fn of(blob: R) -> io::Result<Self> {
        let (format, blob) = sniff(blob)?;
        match format {
            Format::Gzip => Ok(Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(blob)))),
            Format::Zstd => Ok(Self::Zstd(zstd::stream::read::Decoder::with_buffer(blob)?)),
            Format::Plain => Ok(Self::Plain(blob)),
            Format::Bzip2 | Format::Xz => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a layer is gzip, zstd or a plain tar, not bzip2 or xz",
            )),
        }
    }

    /// What stands behind the content.
    pub fn into_rest(self) -> impl Read {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(gzip) => gzip.into_inner(),
            Self::Zstd(zstd) => zstd.finish(),
        }
    }
}

impl<R: Read> Read for LayerContent<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(buf),
            Self::Gzip(gzip) => gzip.read(buf),
            Self::Zstd(zstd) => zstd.read(buf),
        }
    }
}

/// The content of a file in any of the formats.
pub fn decompress<'a>(file: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let (format, file) = sniff(file)?;
    Ok(match format {
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Format::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Format::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        Format::Plain => Box::new(file),
    })
}

pub(super) type Sniffed<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

fn sniff<R: Read>(mut src: R) -> io::Result<(Format, Sniffed<R>)> {
    let mut start = Vec::new();
    (&mut src).take(10).read_to_end(&mut start)?;
    let format = Format::of(&start);
    let mut rest = BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(src));
    rest.fill_buf()?;
    Ok((format, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: usize) -> Vec<u8> {
        let mut x = 1u32;
        (0..n)
            .map(|i| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3 == 0 { b'a' } else { (x >> 28) as u8 }
            })
            .collect()
    }

    fn pack(data: &[u8], how: Compression, pieces: usize) -> Vec<u8> {
        let mut c = Compressor::new(Vec::new(), how, None).unwrap();
        for piece in data.chunks(pieces) {
            c.write_all(piece).unwrap();
        }
        c.finish().unwrap()
    }

    #[test]
    fn every_method_gives_the_content_back_and_the_same_bytes_each_time() {
        for how in [Compression::Uncompressed, Compression::Gzip, Compression::Zstd] {
            for n in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, 3 * MEMBER + 17] {
                let data = sample(n);
                let a = pack(&data, how, 100_000);
                let mut back = Vec::new();
                decompress_layer(a.as_slice()).unwrap().read_to_end(&mut back).unwrap();
                assert!(back == data, "{how:?} {n}");
                assert!(a == pack(&data, how, 7777), "{how:?} {n}: pieces show");
                let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
                assert!(a == one.install(|| pack(&data, how, 7777)), "{how:?} {n}: threads show");
            }
        }
    }

    #[test]
    fn what_does_not_compress_is_stored_and_a_tenth_of_text_is_found() {
        let mut x = 7u64;
        let mut random: Vec<u8> = (0..3 * MEMBER)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (x >> 56) as u8
            })
            .collect();
        assert!(!compresses(&random[..MEMBER]).unwrap());
        let packed = pack(&random, Compression::Gzip, 1 << 16);
        assert!(packed.len() > random.len());
        let mut back = Vec::new();
        decompress_layer(packed.as_slice()).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == random);
        random[MEMBER / 2..MEMBER / 2 + MEMBER / 10].fill(b'a');
        assert!(compresses(&random[..MEMBER]).unwrap());
    }

    #[test]
    fn levels_are_checked() {
        for (how, level, ok) in [
            (Compression::Gzip, 1, true),
            (Compression::Gzip, 9, true),
            (Compression::Gzip, 0, false),
            (Compression::Gzip, 10, false),
            (Compression::Zstd, 22, true),
            (Compression::Zstd, 23, false),
        ] {
            let made = Compressor::new(Vec::new(), how, Some(level));
            assert_eq!(made.is_ok(), ok, "{how:?} {level}");
        }
    }

    #[test]
    fn cut_streams_are_errors() {
        let data = sample(MEMBER + 5);
        for how in [Compression::Gzip, Compression::Zstd] {
            let whole = pack(&data, how, 1 << 16);
            for cut in [whole.len() - 1, whole.len() / 2, 20] {
                let mut out = Vec::new();
                let got = decompress_layer(&whole[..cut])
                    .and_then(|mut r| r.read_to_end(&mut out).map(drop));
                assert!(got.is_err(), "{how:?} cut at {cut}");
            }
        }
    }
}
