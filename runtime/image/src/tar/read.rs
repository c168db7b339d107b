//! Reads a hostile tar as a stream.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use rgraph_ir::limits::{MAX_PAX_HEADER, MAX_TAR_MEMBERS, MAX_TAR_PATH};

use super::pax::{Pax, Sparse};
use super::{BLOCK, Kind, Member, Mtime, TarError, show};

const BUFFER: usize = 256 << 10;
/// Most pieces of one sparse file.
const MAX_PIECES: u64 = 1 << 20;

/// A piece of a member's content.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Where it goes in the file; what no chunk covers is a hole.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
}

/// Members of a tar, in order. Contents not asked for are skipped.
#[derive(Debug)]
pub struct TarReader<R> {
    src: R,
    /// Bytes of the archive taken so far.
    offset: u64,
    /// Bytes of the current member still in the archive.
    left: u64,
    /// Padding after them.
    pad: u64,
    /// Bytes handed out by `chunk` and not yet taken from the buffer.
    lent: usize,
    /// Pieces of the current member, next last: (offset, length).
    pieces: Vec<(u64, u64)>,
    members: u64,
    done: bool,
}

/// What a header block says before extensions.
struct Raw {
    flag: u8,
    member: Member,
    size: u64,
    gnu: bool,
}

impl<R: Read> TarReader<BufReader<R>> {
    /// Starts at the first header.
    pub fn new(src: R) -> Self {
        Self::buffered(BufReader::with_capacity(BUFFER, src))
    }
}

impl<R: BufRead> TarReader<R> {
    /// Starts at the first header of what has its bytes in large pieces already.
    pub fn buffered(src: R) -> Self {
        Self {
            src,
            offset: 0,
            left: 0,
            pad: 0,
            lent: 0,
            pieces: Vec::new(),
            members: 0,
            done: false,
        }
    }

    /// The next member; `None` at the end marker or where the source ends between members.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.finish_member()?;
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        let mut extended = false;
        loop {
            if self.done {
                return Ok(None);
            }
            let at = self.offset;
            let Some(block) = self.header_block()? else {
                self.done = true;
                return if extended { Err(TarError::Cut("a header")) } else { Ok(None) };
            };
            if block.iter().all(|b| *b == 0) {
                self.done = true;
                return if extended { Err(TarError::Cut("a header")) } else { Ok(None) };
            }
            self.members += 1;
            limit("number of members", self.members, MAX_TAR_MEMBERS)?;
            let raw = parse(&block, at)?;
            match raw.flag {
                b'x' => {
                    let data = self.extension("PAX header", raw.size, MAX_PAX_HEADER)?;
                    pax.add(&data)?;
                }
                // Defaults for all that follows: what Docker ignores, and git only comments with.
                b'g' => {
                    self.extension("PAX header", raw.size, MAX_PAX_HEADER)?;
                    continue;
                }
                b'L' => long_path = Some(self.long_name("path", raw.size)?),
                b'K' => long_link = Some(self.long_name("link target", raw.size)?),
                _ => {
                    return self.member(raw, &block, pax, long_path, long_link).map(Some);
                }
            }
            extended = true;
        }
    }

    fn member(
        &mut self,
        raw: Raw,
        block: &[u8; BLOCK],
        mut pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member, TarError> {
        let mut m = raw.member;
        let mut size = raw.size;
        if let Some(path) = pax.path.take().or(long_path) {
            m.path = path;
        }
        if let Some(link) = pax.link.take().or(long_link) {
            m.link = link;
        }
        if let Some(name) = pax.sparse.name.take() {
            m.path = name;
        }
        if let Some(s) = pax.size {
            size = s;
        }
        if let Some(v) = pax.uid {
            m.uid = id(v)?;
        }
        if let Some(v) = pax.gid {
            m.gid = id(v)?;
        }
        if let Some(t) = pax.mtime {
            m.mtime = t;
        }
        pax.xattrs.sort();
        m.xattrs = pax.xattrs;
        for (what, name) in [("length of a path", &m.path), ("length of a link target", &m.link)] {
            limit(what, name.len() as u64, MAX_TAR_PATH as u64)?;
        }
        m.kind = match raw.flag {
            // Before POSIX a folder was a file whose name ends with a slash.
            b'0' | 0 | b'7' if m.path.ends_with(b"/") => Kind::Dir,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                return Err(TarError::Kind {
                    path: show(&m.path),
                    kind: char::from(other).escape_default().to_string(),
                });
            }
        };
        if !matches!(m.kind, Kind::Symlink | Kind::Hardlink) {
            m.link.clear();
        }
        // The other kinds are headers only, whatever their size field says.
        if m.kind != Kind::File && matches!(raw.flag, b'1'..=b'6') {
            return Ok(m);
        }
        self.left = size;
        self.pad = padding(size);
        if m.kind != Kind::File {
            return Ok(m);
        }
        m.size = size;
        if raw.flag == b'S' {
            if !raw.gnu {
                return Err(TarError::Sparse { path: show(&m.path) });
            }
            self.old_sparse(block, &mut m)?;
        } else if pax.sparse.is_set() {
            self.pax_sparse(pax.sparse, &mut m)?;
        } else {
            self.pieces = vec![(0, size)];
        }
        Ok(m)
    }

    /// The next piece of the current member's content.
    pub fn chunk(&mut self) -> Result<Option<Chunk<'_>>, TarError> {
        self.take_lent();
        while self.pieces.last().is_some_and(|p| p.1 == 0) {
            self.pieces.pop();
        }
        let Some(piece) = self.pieces.last_mut() else { return Ok(None) };
        while let Err(e) = self.src.fill_buf() {
            if e.kind() != ErrorKind::Interrupted {
                return Err(TarError::Io(e));
            }
        }
        // What is there already.
        let buf = self.src.fill_buf().map_err(TarError::Io)?;
        if buf.is_empty() {
            return Err(TarError::Cut("a member's content"));
        }
        let n = buf.len().min(usize::try_from(piece.1).unwrap_or(usize::MAX));
        let offset = piece.0;
        *piece = (piece.0 + n as u64, piece.1 - n as u64);
        self.left -= n as u64;
        self.lent = n;
        Ok(Some(Chunk { offset, data: &buf[..n] }))
    }

    /// Where the current member's content starts in the archive.
    pub fn content_offset(&self) -> u64 {
        self.offset
    }

    /// Reads the source to its end, so that a digest over it is complete.
    pub fn drain(mut self) -> Result<(), TarError> {
        self.take_lent();
        loop {
            match self.src.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(buf) => {
                    let n = buf.len();
                    self.src.consume(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(TarError::Io(e)),
            }
        }
    }

    fn take_lent(&mut self) {
        self.src.consume(self.lent);
        self.offset += self.lent as u64;
        self.lent = 0;
    }

    fn finish_member(&mut self) -> Result<(), TarError> {
        self.take_lent();
        self.pieces.clear();
        let (left, pad) = (self.left, self.pad);
        self.left = 0;
        self.pad = 0;
        let mut rest = left.checked_add(pad).ok_or(TarError::Field { field: "size" })?;
        while rest > 0 {
            let got = match self.src.fill_buf() {
                Ok(buf) => buf.len(),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(TarError::Io(e)),
            };
            if got == 0 {
                // A last member without its padding is complete.
                return if rest <= pad { Ok(()) } else { Err(TarError::Cut("a member's content")) };
            }
            let n = got.min(usize::try_from(rest).unwrap_or(usize::MAX));
            self.src.consume(n);
            self.offset += n as u64;
            rest -= n as u64;
        }
        Ok(())
    }

    /// `None`: the source ended before the block's first byte.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0u8; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.src.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Cut("a header")),
                Ok(n) => have += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(TarError::Io(e)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn extension(&mut self, what: &'static str, size: u64, most: u64) -> Result<Vec<u8>, TarError> {
        limit(what, size, most)?;
        let mut data = Vec::new();
        let n = (&mut self.src).take(size).read_to_end(&mut data).map_err(TarError::Io)?;
        self.offset += n as u64;
        if n as u64 != size {
            return Err(TarError::Cut("a header"));
        }
        self.pad = padding(size);
        let cut = self.pad;
        self.finish_member()?;
        debug_assert!(cut < BLOCK as u64);
        Ok(data)
    }

    fn long_name(&mut self, what: &'static str, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(what, size, MAX_TAR_PATH as u64 + 1)?;
        if let Some(nul) = name.iter().position(|b| *b == 0) {
            name.truncate(nul);
        }
        Ok(name)
    }

    /// Old GNU form: four pieces in the header, more in blocks behind it.
    fn old_sparse(&mut self, block: &[u8; BLOCK], m: &mut Member) -> Result<(), TarError> {
        let mut map = Vec::new();
        sparse_fields(&block[386..482], &mut map)?;
        m.size = number(&block[483..495], "sparse size")?;
        let mut more = block[482] != 0;
        while more {
            let Some(ext) = self.header_block()? else {
                return Err(TarError::Cut("a sparse map"));
            };
            sparse_fields(&ext[..504], &mut map)?;
            limit("number of sparse pieces", map.len() as u64 / 2, MAX_PIECES)?;
            more = ext[504] != 0;
        }
        self.set_pieces(&map, m)
    }

    fn pax_sparse(&mut self, mut sparse: Sparse, m: &mut Member) -> Result<(), TarError> {
        m.size = sparse.real_size.ok_or_else(|| TarError::Sparse { path: show(&m.path) })?;
        if sparse.major == Some(1) {
            sparse.map = self.sparse_text(m)?;
        }
        self.set_pieces(&sparse.map, m)
    }

    /// Format 1.0: the map is decimal lines in front of the content, padded to a block.
    fn sparse_text(&mut self, m: &Member) -> Result<Vec<u64>, TarError> {
        let broken = || TarError::Sparse { path: show(&m.path) };
        let mut map = Vec::new();
        let mut want = None;
        let (mut value, mut digits) = (0u64, 0);
        loop {
            if self.left < BLOCK as u64 {
                return Err(broken());
            }
            let Some(block) = self.header_block()? else {
                return Err(TarError::Cut("a sparse map"));
            };
            self.left -= BLOCK as u64;
            for b in block {
                match b {
                    b'0'..=b'9' if digits < 19 => {
                        value = value * 10 + u64::from(b - b'0');
                        digits += 1;
                    }
                    b'\n' if digits > 0 => {
                        match want {
                            None => {
                                limit("number of sparse pieces", value, MAX_PIECES)?;
                                want = Some(value * 2);
                            }
                            Some(_) => map.push(value),
                        }
                        (value, digits) = (0, 0);
                        if want == Some(map.len() as u64) {
                            return Ok(map);
                        }
                    }
                    _ => return Err(broken()),
                }
            }
        }
    }

    fn set_pieces(&mut self, map: &[u64], m: &Member) -> Result<(), TarError> {
        let broken = || TarError::Sparse { path: show(&m.path) };
        let (pairs, odd) = map.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(broken());
        }
        let (mut end, mut stored) = (0u64, 0u64);
        for [offset, len] in pairs {
            if *offset < end {
                return Err(broken());
            }
            end = offset.checked_add(*len).filter(|e| *e <= m.size).ok_or_else(broken)?;
            stored += len;
        }
        if stored != self.left {
            return Err(broken());
        }
        self.pieces = pairs.iter().rev().map(|[o, l]| (*o, *l)).collect();
        Ok(())
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn limit(what: &'static str, got: u64, limit: u64) -> Result<(), TarError> {
    if got > limit { Err(TarError::Limit { what, got, limit }) } else { Ok(()) }
}

/// u32::MAX means "leave as it is" to the kernel, so it is no owner.
fn id(v: u64) -> Result<u32, TarError> {
    u32::try_from(v).ok().filter(|v| *v != u32::MAX).ok_or(TarError::Field { field: "owner" })
}

fn sparse_fields(fields: &[u8], map: &mut Vec<u64>) -> Result<(), TarError> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        map.push(number(&pair[..12], "sparse map")?);
        map.push(number(&pair[12..], "sparse map")?);
    }
    Ok(())
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().take_while(|b| **b != 0).copied().collect()
}

/// Octal text, or base 256 with the top bit set (GNU).
fn signed(field: &[u8], name: &'static str) -> Result<i64, TarError> {
    let bad = || TarError::Field { field: name };
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut v: i128 = if negative { -1 } else { 0 };
        for (i, b) in field.iter().enumerate() {
            let b = if i == 0 && !negative { b & 0x7f } else { *b };
            v = v << 8 | i128::from(b);
            if i64::try_from(v).is_err() {
                return Err(bad());
            }
        }
        return i64::try_from(v).map_err(|_| bad());
    }
    let trimmed = field.trim_ascii_start();
    let end = trimmed.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(trimmed.len());
    trimmed[..end].iter().try_fold(0i64, |v, b| match b {
        b'0'..=b'7' => v.checked_mul(8).map(|v| v + i64::from(b - b'0')).ok_or_else(bad),
        _ => Err(bad()),
    })
}

fn number(field: &[u8], name: &'static str) -> Result<u64, TarError> {
    u64::try_from(signed(field, name)?).map_err(|_| TarError::Field { field: name })
}

fn parse(block: &[u8; BLOCK], offset: u64) -> Result<Raw, TarError> {
    let want = signed(&block[148..156], "checksum").unwrap_or(-1);
    let sum = |value: fn(u8) -> i64| -> i64 {
        let blank = 8 * i64::from(b' ');
        let bytes = block[..148].iter().chain(&block[156..]);
        bytes.map(|b| value(*b)).sum::<i64>() + blank
    };
    // Some old writers summed signed bytes.
    if want != sum(i64::from) && want != sum(|b| i64::from(b.cast_signed())) {
        return Err(TarError::Checksum { offset });
    }
    let posix = block[257..263] == *b"ustar\0";
    let gnu = block[257..265] == *b"ustar  \0";
    let mut path = text(&block[..100]);
    if posix {
        let prefix = text(&block[345..500]);
        if !prefix.is_empty() {
            path = [prefix.as_slice(), b"/", &path].concat();
        }
    }
    let flag = block[156];
    let mut member = Member::new(path, Kind::File);
    member.link = text(&block[157..257]);
    // Extensions often leave these empty or odd, and nobody reads them there.
    if !matches!(flag, b'x' | b'g' | b'L' | b'K') {
        member.mode = u32::try_from(signed(&block[100..108], "mode")? & 0o7777).unwrap_or(0);
        member.uid = id(number(&block[108..116], "owner")?)?;
        member.gid = id(number(&block[116..124], "owner")?)?;
        member.mtime = Mtime { secs: signed(&block[136..148], "time")?, nanos: 0 };
    }
    if matches!(flag, b'3' | b'4') {
        let dev = |f: &[u8]| {
            u32::try_from(number(f, "device")?).map_err(|_| TarError::Field { field: "device" })
        };
        member.dev_major = dev(&block[329..337])?;
        member.dev_minor = dev(&block[337..345])?;
    }
    Ok(Raw { flag, member, size: number(&block[124..136], "size")?, gnu })
}
