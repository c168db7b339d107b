//! What a container printed, in two files of bounded size: the older one goes when the newer is full.
//!
//! A file is a row of frames: the stream (1 or 2), milliseconds since 1970 (8 bytes), the length of
//! the text (4 bytes), both little-endian, the text. What a crash cut off at the end is not read.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::sandbox::Stream;

/// A file larger than this is put aside, bytes.
const MAX_FILE: u64 = 16 << 20;
/// No frame is longer, bytes.
const MAX_FRAME: u32 = 1 << 20;

/// The log of a container, being written.
pub struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Writer {
    /// Goes on with the log in a container's folder.
    ///
    /// # Errors
    /// That of opening it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("log");
        let file = File::options().append(true).create(true).open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size })
    }

    /// Adds what was printed now.
    ///
    /// # Errors
    /// That of writing.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let now = jiff::Timestamp::now().as_millisecond();
        for part in bytes.chunks(MAX_FRAME as usize) {
            if self.size > MAX_FILE {
                std::fs::rename(&self.path, self.path.with_extension("1"))?;
                self.file = File::options().append(true).create(true).open(&self.path)?;
                self.size = 0;
            }
            let mut frame = vec![match stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            }];
            frame.extend(now.to_le_bytes());
            frame.extend((part.len() as u32).to_le_bytes());
            frame.extend_from_slice(part);
            self.file.write_all(&frame)?;
            self.size += frame.len() as u64;
        }
        Ok(())
    }
}

/// What is given each frame: stream, milliseconds since 1970, text.
pub type Reader<'a> = dyn FnMut(Stream, i64, &[u8]) -> io::Result<()> + 'a;

/// Gives every frame of a container's log, oldest first: stream, milliseconds since 1970, text.
///
/// # Errors
/// That of reading a file, or `f`'s.
pub fn read(folder: &Path, f: &mut Reader<'_>) -> io::Result<()> {
    for name in ["log.1", "log"] {
        let file = match File::open(folder.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let mut from = BufReader::new(file);
        while let Some((stream, time, text)) = frame(&mut from)? {
            f(stream, time, &text)?;
        }
    }
    Ok(())
}

fn frame(from: &mut impl Read) -> io::Result<Option<(Stream, i64, Vec<u8>)>> {
    let mut head = [0; 13];
    let whole = |r: io::Result<()>| match r {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        r => r.map(|()| true),
    };
    if !whole(from.read_exact(&mut head))? {
        return Ok(None);
    }
    let [stream, time @ .., a, b, c, d] = head;
    let length = u32::from_le_bytes([a, b, c, d]);
    let stream = match stream {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the log is damaged")),
    };
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the log is damaged"));
    }
    let mut text = vec![0; length as usize];
    Ok(whole(from.read_exact(&mut text))?.then_some((stream, i64::from_le_bytes(time), text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dir: &Path) -> Vec<(Stream, Vec<u8>)> {
        let mut out = Vec::new();
        read(dir, &mut |s, _, t| {
            out.push((s, t.to_vec()));
            Ok(())
        })
        .unwrap();
        out
    }

    #[test]
    fn what_is_written_is_read_and_a_cut_end_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(all(dir.path()), []);
        let mut w = Writer::open(dir.path()).unwrap();
        w.write(Stream::Stdout, b"a\n").unwrap();
        w.write(Stream::Stderr, b"\xff").unwrap();
        drop(w);
        Writer::open(dir.path()).unwrap().write(Stream::Stdout, b"b").unwrap();
        let want = [
            (Stream::Stdout, b"a\n".to_vec()),
            (Stream::Stderr, b"\xff".to_vec()),
            (Stream::Stdout, b"b".to_vec()),
        ];
        assert_eq!(all(dir.path()), want);
        let file = File::options().write(true).open(dir.path().join("log")).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        assert_eq!(all(dir.path()), want[..2]);
    }

    #[test]
    fn two_files_hold_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Writer::open(dir.path()).unwrap();
        let text = vec![b'x'; MAX_FRAME as usize];
        for _ in 0..40 {
            w.write(Stream::Stdout, &text).unwrap();
        }
        let frames = all(dir.path()).len();
        assert!((17..=34).contains(&frames), "{frames}");
    }
}
