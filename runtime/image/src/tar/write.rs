//! Writes a tar, byte for byte the same for the same members (REPRO-04): ustar, and a PAX header
//! only for what ustar cannot hold.

use std::io::{self, Write};

use super::{BLOCK, Kind, Member, pax};

/// Largest value of an octal field of 12 and of 8 bytes.
const OCTAL_11: u64 = 0o77_777_777_777;
const OCTAL_7: u32 = 0o7_777_777;

/// A tar being written. Owners are numbers, never names.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    written: u64,
    /// Content bytes the current member still owes.
    owed: u64,
    pad: usize,
}

impl<W: Write> TarWriter<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, owed: 0, pad: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes a member's header; `m.size` bytes of content follow by [`Self::data`].
    pub fn begin(&mut self, m: &Member) -> io::Result<()> {
        self.end_member()?;
        let mut records = Vec::new();
        let mut head = [0u8; BLOCK];
        let fits = put_path(&mut head, &m.path);
        // Sorted by key, so that equal members give equal bytes.
        let mut list: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut extra = |k: &[u8], v: Vec<u8>| list.push((k.to_vec(), v));
        if !fits {
            extra(b"path", m.path.clone());
        }
        if m.link.len() > 100 {
            extra(b"linkpath", m.link.clone());
        }
        if m.size > OCTAL_11 {
            extra(b"size", m.size.to_string().into_bytes());
        }
        if m.uid > OCTAL_7 {
            extra(b"uid", m.uid.to_string().into_bytes());
        }
        if m.gid > OCTAL_7 {
            extra(b"gid", m.gid.to_string().into_bytes());
        }
        let plain_time = u64::try_from(m.mtime.secs).ok().filter(|s| *s <= OCTAL_11);
        if plain_time.is_none() || m.mtime.nanos != 0 {
            extra(b"mtime", pax::time_text(m.mtime).into_bytes());
        }
        for (name, value) in &m.xattrs {
            if name.contains(&b'=') {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "an extended attribute's name holds `=`, which tar cannot keep",
                ));
            }
            extra(&[b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
        }
        list.sort();
        for (k, v) in &list {
            pax::push(&mut records, k, v);
        }
        if !records.is_empty() {
            self.extension(&m.path, &records)?;
        }

        head[157..157 + m.link.len().min(100)].copy_from_slice(&m.link[..m.link.len().min(100)]);
        octal(&mut head[100..108], u64::from(m.mode & 0o7777));
        octal(&mut head[108..116], u64::from(if m.uid > OCTAL_7 { 0 } else { m.uid }));
        octal(&mut head[116..124], u64::from(if m.gid > OCTAL_7 { 0 } else { m.gid }));
        octal(&mut head[124..136], if m.size > OCTAL_11 { 0 } else { m.size });
        octal(&mut head[136..148], plain_time.unwrap_or(0));
        head[156] = match m.kind {
            Kind::File => b'0',
            Kind::Hardlink => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
        };
        if matches!(m.kind, Kind::Char | Kind::Block) {
            octal(&mut head[329..337], u64::from(m.dev_major));
            octal(&mut head[337..345], u64::from(m.dev_minor));
        }
        self.head(head)?;
        self.owed = m.size;
        self.pad = pad(m.size);
        Ok(())
    }

    /// The current member's content, to be written to.
    pub(crate) fn content(&mut self) -> Content<'_, W> {
        Content(self)
    }

    /// Writes a piece of the current member's content.
    pub fn data(&mut self, data: &[u8]) -> io::Result<()> {
        self.owed = self.owed.checked_sub(data.len() as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "more content than the header says")
        })?;
        self.raw(data)
    }

    /// Writes a whole member.
    pub fn member(&mut self, m: &Member, content: &[u8]) -> io::Result<()> {
        self.begin(m)?;
        self.data(content)
    }

    /// Writes the end marker; the bytes of the whole archive.
    pub fn finish(mut self) -> io::Result<u64> {
        self.end_member()?;
        self.raw(&[0; 2 * BLOCK])?;
        Ok(self.written)
    }

    fn end_member(&mut self) -> io::Result<()> {
        if self.owed != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "less content than the header says",
            ));
        }
        let n = std::mem::take(&mut self.pad);
        self.raw(&[0; BLOCK][..n])
    }

    fn raw(&mut self, data: &[u8]) -> io::Result<()> {
        self.out.write_all(data)?;
        self.written += data.len() as u64;
        Ok(())
    }

    fn head(&mut self, mut head: [u8; BLOCK]) -> io::Result<()> {
        head[257..265].copy_from_slice(b"ustar\x0000");
        head[148..156].fill(b' ');
        let sum: u64 = head.iter().map(|b| u64::from(*b)).sum();
        head[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        head[154] = 0;
        self.raw(&head)
    }

    fn extension(&mut self, path: &[u8], records: &[u8]) -> io::Result<()> {
        let mut head = [0u8; BLOCK];
        let base = path.strip_suffix(b"/").unwrap_or(path);
        let base = base.rsplit(|b| *b == b'/').next().unwrap_or(base);
        let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
        head[..name.len()].copy_from_slice(&name);
        octal(&mut head[100..108], 0o644);
        octal(&mut head[108..116], 0);
        octal(&mut head[116..124], 0);
        octal(&mut head[124..136], records.len() as u64);
        octal(&mut head[136..148], 0);
        head[156] = b'x';
        self.head(head)?;
        self.raw(records)?;
        self.raw(&[0; BLOCK][..pad(records.len() as u64)])
    }
}

fn pad(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Zero-padded octal that leaves the last byte NUL.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let text = format!("{value:0width$o}");
    field[..width].copy_from_slice(&text.as_bytes()[text.len() - width..]);
}

/// Puts the path into name and prefix; false when it does not fit (then its start stands there).
fn put_path(head: &mut [u8; BLOCK], path: &[u8]) -> bool {
    if path.len() <= 100 {
        head[..path.len()].copy_from_slice(path);
        return true;
    }
    // The last slash that leaves both a name of up to 100 and a prefix of up to 155 bytes.
    let body = path.strip_suffix(b"/").unwrap_or(path);
    let cut = (1..body.len().min(156))
        .rev()
        .find(|i| body[*i] == b'/' && path.len() - i - 1 <= 100 && *i <= 155);
    if let Some(i) = cut {
        head[345..345 + i].copy_from_slice(&path[..i]);
        head[..path.len() - i - 1].copy_from_slice(&path[i + 1..]);
        return true;
    }
    head[..100].copy_from_slice(&path[..100]);
    false
}
/// See [`TarWriter::content`].
pub(crate) struct Content<'a, W>(&'a mut TarWriter<W>);

impl<W: Write> Write for Content<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.data(data)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
