//! Open file description locks: they belong to an open file, so threads exclude each other too,
//! and they end with the process whatever happens to it (no stale pid files).
//!
//! A lock file is unlinked by its holder, so a waiter that gets the lock checks that the name still
//! leads to its file and starts again otherwise.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rgraph_ir::CacheKey;

use crate::error::{Result, StoreError};
use crate::store::Store;

/// How a lock is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
    Unlock,
}

/// All of a file.
const WHOLE: (i64, i64) = (0, 0);

/// `range`: start and length, bytes; a length of 0 reaches to the end.
fn flock(mode: Mode, range: (i64, i64)) -> libc::flock {
    let l_type = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
        Mode::Unlock => libc::F_UNLCK,
    };
    libc::flock {
        l_type: l_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.0,
        l_len: range.1,
        l_pid: 0,
    }
}

/// Takes the lock of `file` if nobody has it.
pub(crate) fn try_lock(file: &File, mode: Mode) -> io::Result<bool> {
    try_lock_range(file, mode, WHOLE)
}

fn try_lock_range(file: &File, mode: Mode, range: (i64, i64)) -> io::Result<bool> {
    let l = flock(mode, range);
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&l)) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether somebody has the lock of `file`, through another opening of it.
fn is_locked(file: &File) -> io::Result<bool> {
    let mut l = flock(Mode::Exclusive, WHOLE);
    loop {
        match fcntl(file, FcntlArg::F_OFD_GETLK(&mut l)) {
            Ok(_) => return Ok(i32::from(l.l_type) != libc::F_UNLCK),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits for the lock of `file`. Only for locks held for moments.
pub(crate) fn lock(file: &File, mode: Mode) -> io::Result<()> {
    let l = flock(mode, WHOLE);
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&l)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

pub(crate) fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The gc lock held shared or exclusively until dropped.
#[derive(Debug)]
pub(crate) struct GcGuard<'a>(&'a File);

impl<'a> GcGuard<'a> {
    pub(crate) fn take(file: &'a File, mode: Mode) -> io::Result<Self> {
        lock(file, mode)?;
        Ok(Self(file))
    }
}

impl Drop for GcGuard<'_> {
    fn drop(&mut self) {
        // Unlocking an open file cannot fail in a way that leaves the lock.
        let _ = try_lock(self.0, Mode::Unlock);
    }
}

/// One look of somebody who waits for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The holder's process id as it wrote it, for a message.
    pub holder: Option<u32>,
    /// The first look: say that one waits.
    pub first: bool,
}

/// A named lock held until dropped, or until the process ends.
#[derive(Debug)]
pub struct KeyLock {
    /// `None` only when it was handed over.
    file: Option<File>,
    path: PathBuf,
}

impl KeyLock {
    /// What another process needs to hold it from now on: the lock is the open file's. It is free when
    /// the last copy of the file is closed.
    pub fn hand_over(mut self) -> (File, PathBuf) {
        let file = self.file.take().expect("taken only here");
        (file, std::mem::take(&mut self.path))
    }

    /// Holds what another process handed over.
    pub fn taken_over(file: File, path: PathBuf) -> Self {
        Self { file: Some(file), path }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        if self.file.is_some() {
            // While we hold it: nobody else can have taken a lock on this name in between.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The lock of a step's key held until dropped, or until the process ends.
///
/// All keys are bytes of one file: a file for each would be made and removed at every step, which
/// costs more than all the rest of the lock.
#[derive(Debug)]
pub struct StepLock {
    _file: File,
}

/// Where holders of step locks say who they are, bytes apart; for the waiters' message only.
const SLOT: u64 = 8;
/// How many may say so.
const SLOTS: u64 = 512;

enum Try {
    Got(KeyLock),
    Held(File),
}

fn attempt(path: &Path) -> io::Result<Try> {
    loop {
        let file = open_lock_file(path)?;
        if !try_lock(&file, Mode::Exclusive)? {
            return Ok(Try::Held(file));
        }
        let own = file.metadata()?;
        let same = match std::fs::symlink_metadata(path) {
            Ok(m) => m.ino() == own.ino(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        if same {
            let pid = std::process::id().to_string();
            // ext4 writes out at once what is put into a file that was cut.
            if own.len() > 0 {
                file.set_len(0)?;
            }
            // For the waiters' message only; a full disk must not cost the lock.
            let _ = file.write_all_at(pid.as_bytes(), 0);
            return Ok(Try::Got(KeyLock { file: Some(file), path: path.to_owned() }));
        }
    }
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.by_ref().take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn step_holder(file: &File, slot: u64) -> Option<u32> {
    let mut pid = [0; SLOT as usize];
    file.read_exact_at(&mut pid, slot).ok()?;
    u32::try_from(u64::from_le_bytes(pid)).ok().filter(|pid| *pid != 0)
}

/// Asks for a lock until it is had; `Err`: who has it.
fn wait_for<T>(
    on_wait: &mut dyn FnMut(Wait) -> bool,
    mut attempt: impl FnMut() -> Result<std::result::Result<T, Option<u32>>>,
) -> Result<T> {
    let mut pause = Duration::from_micros(200);
    let mut first = true;
    loop {
        match attempt()? {
            Ok(got) => return Ok(got),
            Err(holder) => {
                if !on_wait(Wait { holder, first }) {
                    return Err(StoreError::Cancelled);
                }
            }
        }
        first = false;
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

impl Store {
    fn key_lock_path(&self, name: &str) -> PathBuf {
        self.layout().key_locks().join(blake3::hash(name.as_bytes()).to_hex().as_str())
    }

    /// Takes the lock `name`, waiting as long as somebody else (another process or thread, however
    /// stopped) has it. `on_wait` is called at every look, at most 10 ms apart; `false` gives up with
    /// [`StoreError::Cancelled`].
    pub fn key_lock(&self, name: &str, on_wait: &mut dyn FnMut(Wait) -> bool) -> Result<KeyLock> {
        self.need_write()?;
        let path = self.key_lock_path(name);
        wait_for(on_wait, || {
            match attempt(&path).map_err(|e| self.layout().err("lock", &path, e))? {
                Try::Got(lock) => Ok(Ok(lock)),
                Try::Held(file) => Ok(Err(holder(&file))),
            }
        })
    }

    /// Takes the lock of a step's key, as [`Self::key_lock`] does; and whether somebody else had it.
    pub fn step_lock(
        &self,
        key: &CacheKey,
        on_wait: &mut dyn FnMut(Wait) -> bool,
    ) -> Result<(StepLock, bool)> {
        self.need_write()?;
        let path = self.layout().step_locks();
        let failed = |e| self.layout().err("lock", &path, e);
        let file = open_lock_file(&path).map_err(failed)?;
        let [a, b, c, d, e, f, g, h, ..] = *key.as_bytes();
        // Two keys of one byte would wait for each other, and no more.
        let at = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let slot = (at % SLOTS) * SLOT;
        let byte = (i64::try_from(at >> 2).unwrap_or(0), 1);
        let mut waited = false;
        wait_for(on_wait, || {
            if try_lock_range(&file, Mode::Exclusive, byte).map_err(failed)? {
                return Ok(Ok(()));
            }
            waited = true;
            Ok(Err(step_holder(&file, slot)))
        })?;
        // A full disk must not cost the lock.
        let _ = file.write_all_at(&u64::from(std::process::id()).to_le_bytes(), slot);
        Ok((StepLock { _file: file }, waited))
    }

    /// Whether somebody has the lock `name`. Unlike taking it, asking is in nobody's way.
    pub fn key_lock_is_held(&self, name: &str) -> Result<bool> {
        let path = self.key_lock_path(name);
        let failed = |e| self.layout().err("look at", &path, e);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(failed)?,
        };
        is_locked(&file).map_err(failed)
    }

    /// Takes the lock `name` if it is free.
    pub fn try_key_lock(&self, name: &str) -> Result<Option<KeyLock>> {
        self.need_write()?;
        let path = self.key_lock_path(name);
        match attempt(&path).map_err(|e| self.layout().err("lock", &path, e))? {
            Try::Got(lock) => Ok(Some(lock)),
            Try::Held(_) => Ok(None),
        }
    }
}
