//! What the steps of a build printed: one file per step, `logs/BUILD/VERTEX.log`, made when a step
//! prints its first byte, and kept as long as the record of the build ([`crate::builds`]).
//!
//! A file is a row of records: a letter that says what it is, the number of bytes in four bytes,
//! the lowest first, and these bytes. `o` is standard output, `e` standard error, and `!`, once and
//! last, that the rest was left out. So the streams stay apart and in order. Each record is one
//! write, and none is synced: a killed build leaves all it heard, but for a cut record at the end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rgraph_solver::Stream;
use rgraph_store::Store;

use crate::cache::files::now;

/// Most of a step's output that is kept unless the config says otherwise, bytes.
pub const STEP_MAX: u64 = 1 << 30;
/// Most that all builds' logs may take, bytes; the oldest go first.
const TOTAL_MAX: u64 = 4 << 30;
/// Logs that no build has told of for so long are a killed one's.
const UNCLAIMED: Duration = Duration::from_secs(24 * 3600);
/// Largest record that is read, bytes; written ones are smaller.
const MAX_RECORD: u32 = 16 << 20;

/// The logs of one build.
#[derive(Debug, Clone)]
pub struct BuildLogs {
    dir: PathBuf,
    most: u64,
}

impl BuildLogs {
    /// Those of the build with this id, at most `most` bytes for each step.
    pub fn new(store: &Store, build: &str, most: u64) -> Self {
        Self { dir: store.layout().logs().join(build), most }
    }

    fn path(&self, vertex: u32) -> PathBuf {
        self.dir.join(format!("{vertex}.log"))
    }

    /// True when the step printed anything.
    pub fn has(&self, vertex: u32) -> bool {
        self.path(vertex).exists()
    }

    /// The steps that printed anything.
    pub fn steps(&self) -> BTreeSet<u32> {
        let number = |e: fs::DirEntry| e.file_name().to_str()?.strip_suffix(".log")?.parse().ok();
        let entries = fs::read_dir(&self.dir).into_iter().flatten();
        entries.filter_map(|e| number(e.ok()?)).collect()
    }

    /// Opens a step's log; what a first try of the step printed stays.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, vertex: u32) -> io::Result<StepLog> {
        fs::create_dir_all(&self.dir)?;
        let path = self.path(vertex);
        let file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let left = self.most.saturating_sub(file.metadata()?.len());
        Ok(StepLog { file, left, cut: false })
    }

    /// Reads a step's log. One that is not there is empty: the step printed nothing.
    ///
    /// # Errors
    /// The file system's, or what `give` says.
    pub fn read(
        &self,
        vertex: u32,
        give: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        match File::open(self.path(vertex)) {
            Ok(file) => read(BufReader::new(file), give),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// A log that is written.
#[derive(Debug)]
pub struct StepLog {
    file: File,
    left: u64,
    cut: bool,
}

impl StepLog {
    /// Adds output. Gives true once: when this is where the log is cut.
    ///
    /// # Errors
    /// The file system's.
    pub fn append(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<bool> {
        if self.cut || bytes.is_empty() {
            return Ok(false);
        }
        let letter = match stream {
            Stream::Stdout => b'o',
            Stream::Stderr => b'e',
        };
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= fits as u64;
        for part in bytes[..fits].chunks(MAX_RECORD as usize) {
            self.record(letter, part)?;
        }
        self.cut = fits < bytes.len();
        if self.cut {
            self.record(b'!', &[])?;
        }
        Ok(self.cut)
    }

    fn record(&mut self, letter: u8, bytes: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(5 + bytes.len());
        record.push(letter);
        record.extend((bytes.len() as u32).to_le_bytes());
        record.extend(bytes);
        self.file.write_all(&record)
    }
}

/// A piece of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Output.
    Output(Stream, &'a [u8]),
    /// The rest was left out.
    Cut,
}

fn read(mut from: impl Read, give: &mut dyn FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; 5];
        match from.read_exact(&mut head) {
            // Also the middle of a record: whoever wrote it was killed.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            done => done?,
        }
        let [letter, length @ ..] = head;
        let length = u32::from_le_bytes(length);
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the log is damaged");
        if length > MAX_RECORD {
            return Err(damaged());
        }
        bytes.clear();
        from.by_ref().take(length.into()).read_to_end(&mut bytes)?;
        match letter {
            b'o' => give(Piece::Output(Stream::Stdout, &bytes))?,
            b'e' => give(Piece::Output(Stream::Stderr, &bytes))?,
            b'!' => give(Piece::Cut)?,
            _ => return Err(damaged()),
        }
    }
}

/// Removes the logs of builds that are not known any more, and the oldest when all take too much.
pub(crate) fn tidy(store: &Store, known: &BTreeSet<String>, own: &str) {
    let Ok(dirs) = fs::read_dir(store.layout().logs()) else { return };
    let mut all: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for dir in dirs.flatten() {
        let (newest, size) = facts(&dir.path());
        let name = dir.file_name();
        let named = name.to_str().is_some_and(|n| n == own || known.contains(n));
        // A build that runs is not known either, and writes.
        let idle = now().duration_since(newest).unwrap_or_default() > UNCLAIMED;
        if !named && idle {
            fs::remove_dir_all(dir.path()).unwrap_or(());
        } else if name != own {
            all.push((newest, size, dir.path()));
        }
    }
    all.sort_unstable();
    let mut total: u64 = all.iter().map(|(_, size, _)| size).sum();
    for (_, size, path) in all {
        if total <= TOTAL_MAX {
            return;
        }
        total -= size;
        fs::remove_dir_all(path).unwrap_or(());
    }
}

/// When anything was written last, and how much there is.
fn facts(dir: &Path) -> (SystemTime, u64) {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut facts = (SystemTime::UNIX_EPOCH, 0);
    for m in files.filter_map(|f| f.metadata().ok()).chain(fs::metadata(dir).ok()) {
        facts.0 = facts.0.max(m.modified().unwrap_or(facts.0));
        facts.1 += m.len();
    }
    facts
}

/// Removes the logs of a build.
pub(crate) fn remove(store: &Store, build: &str) {
    fs::remove_dir_all(store.layout().logs().join(build)).unwrap_or(());
}

#[cfg(test)]
mod tests {
    use rgraph_store::OpenOptions;

    use super::*;

    fn text(logs: &BuildLogs, vertex: u32) -> String {
        let mut out = String::new();
        let give = &mut |p: Piece<'_>| {
            match p {
                Piece::Output(Stream::Stdout, b) => {
                    out.push_str(&format!("o[{}]", String::from_utf8_lossy(b)));
                }
                Piece::Output(Stream::Stderr, b) => {
                    out.push_str(&format!("e[{}]", String::from_utf8_lossy(b)));
                }
                Piece::Cut => out.push('!'),
            }
            Ok(())
        };
        logs.read(vertex, give).unwrap();
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let logs = BuildLogs::new(&store, "b", 10);
        assert!(!logs.has(1));
        assert_eq!(text(&logs, 1), "");
        let mut log = logs.write(1).unwrap();
        assert!(!log.append(Stream::Stdout, b"ab\n").unwrap());
        assert!(!log.append(Stream::Stderr, b"cd").unwrap());
        assert!(!log.append(Stream::Stderr, b"").unwrap());
        assert_eq!(text(&logs, 1), "o[ab\n]e[cd]");
        assert!(log.append(Stream::Stdout, b"0123456789").unwrap());
        assert!(!log.append(Stream::Stdout, b"more").unwrap());
        assert_eq!(text(&logs, 1), "o[ab\n]e[cd]o[01234]!");
        assert!(logs.has(1));
        assert_eq!(logs.steps(), BTreeSet::from([1]));
    }

    #[test]
    fn cut_and_damaged_files() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let logs = BuildLogs::new(&store, "b", 100);
        logs.write(1).unwrap().append(Stream::Stdout, b"abc").unwrap();
        let path = logs.path(1);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let want =
                format!("o[{}]", String::from_utf8_lossy(whole.get(5..length).unwrap_or(b"")));
            assert_eq!(text(&logs, 1), if length < 5 { "" } else { &want });
        }
        for bad in [&b"x\0\0\0\0"[..], b"o\xff\xff\xff\xff"] {
            fs::write(&path, bad).unwrap();
            assert!(logs.read(1, &mut |_| Ok(())).is_err());
        }
    }

    #[test]
    fn old_logs_go() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let old = now() - UNCLAIMED * 2;
        for (name, age) in [("known", old), ("dead", old), ("running", now()), ("own", old)] {
            let logs = BuildLogs::new(&store, name, 9);
            logs.write(1).unwrap().append(Stream::Stdout, b"x").unwrap();
            File::open(logs.path(1)).unwrap().set_modified(age).unwrap();
            File::open(&logs.dir).unwrap().set_modified(age).unwrap();
        }
        tidy(&store, &BTreeSet::from(["known".to_owned()]), "own");
        let there = |n: &str| BuildLogs::new(&store, n, 9).has(1);
        assert_eq!(["known", "dead", "running", "own"].map(there), [true, false, true, true]);
        remove(&store, "known");
        assert!(!there("known"));
    }
}
