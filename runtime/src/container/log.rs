//! What a container printed, in two files of bounded size: the older one goes when the newer is full.
//!
//! A file is a row of frames: the stream (1 or 2), milliseconds since 1970 (8 bytes), the length of
//! the text (4 bytes), both little-endian, the text. What a crash cut off at the end is not read.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
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

/// What was printed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where.
    pub stream: Stream,
    /// Milliseconds since 1970.
    pub time: i64,
    /// What.
    pub text: Vec<u8>,
}

/// Reads a container's log from its beginning, also while it is written.
pub struct Reader {
    folder: PathBuf,
    /// What is read now, and the inode by which it is known when it has another name.
    file: Option<(BufReader<File>, u64)>,
}

impl Reader {
    /// Of the container in this folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), file: None }
    }

    /// The next frame; `None`: there is none yet.
    ///
    /// # Errors
    /// That of reading, or `InvalidData`.
    pub fn take(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some((file, _)) = &mut self.file
                && let Some(frame) = frame(file)?
            {
                return Ok(Some(frame));
            }
            if !self.turn_over()? {
                return Ok(None);
            }
        }
    }

    /// Goes on to the file that follows the one that was read to its end; false: none does.
    fn turn_over(&mut self) -> io::Result<bool> {
        let open = |name: &str| match File::open(self.folder.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.and_then(|f| Ok(Some((f.metadata()?.ino(), f)))),
        };
        let (old, new) = (open("log.1")?, open("log")?);
        let now = self.file.as_ref().map(|(_, inode)| *inode);
        let is = |file: &Option<(u64, File)>| now.is_some() && file.as_ref().map(|f| f.0) == now;
        // In between the older one may have gone, and what was the newer be the older.
        let next = if is(&new) {
            None
        } else if is(&old) {
            new
        } else {
            old.or(new)
        };
        let Some((inode, file)) = next else { return Ok(false) };
        self.file = Some((BufReader::new(file), inode));
        Ok(true)
    }
}

/// A frame; `None`: there is not yet a whole one, and nothing is taken.
fn frame(from: &mut BufReader<File>) -> io::Result<Option<Frame>> {
    let start = from.stream_position()?;
    let mut head = [0; 13];
    let whole = |from: &mut BufReader<File>, to: &mut [u8]| match from.read_exact(to) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            from.seek(io::SeekFrom::Start(start)).map(|_| false)
        }
        r => r.map(|()| true),
    };
    if !whole(from, &mut head)? {
        return Ok(None);
    }
    let [stream, time @ .., a, b, c, d] = head;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the log is damaged");
    let stream = match stream {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Err(damaged()),
    };
    let length = u32::from_le_bytes([a, b, c, d]);
    if length > MAX_FRAME {
        return Err(damaged());
    }
    let mut text = vec![0; length as usize];
    let time = i64::from_le_bytes(time);
    Ok(whole(from, &mut text)?.then_some(Frame { stream, time, text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dir: &Path) -> Vec<(Stream, Vec<u8>)> {
        let mut reader = Reader::new(dir);
        std::iter::from_fn(|| reader.take().unwrap()).map(|f| (f.stream, f.text)).collect()
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

    #[test]
    fn a_reader_follows_the_writer_into_the_next_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::new(dir.path());
        assert_eq!(reader.take().unwrap(), None);
        let mut w = Writer::open(dir.path()).unwrap();
        let text = vec![b'x'; MAX_FRAME as usize];
        for n in 0..40u8 {
            w.write(Stream::Stdout, &[&[n], &text[1..]].concat()).unwrap();
            let frame = reader.take().unwrap().unwrap();
            assert_eq!((frame.text[0], frame.text.len()), (n, text.len()));
            assert_eq!(reader.take().unwrap(), None);
        }
    }
}
