//! Whole trees inside the store: removal and size. Links are never followed and descriptors are
//! held relative to their parents; a tree comes from inside a container and may be hostile: deep,
//! or with folders of mode 000.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chmodat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

/// Deeper folders are moved up first, so that neither descriptors nor the stack run out.
const MAX_DEPTH: usize = 48;

fn open_dir<P: rustix::path::Arg + Copy>(at: impl AsFd + Copy, name: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(at, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // `O_NOFOLLOW | O_PATH` first, so that a link is not what gets the mode.
            let st = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(st.st_mode) != FileType::Directory {
                return Err(Errno::NOTDIR.into());
            }
            chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            Ok(openat(at, name, flags, Mode::empty())?)
        }
        r => Ok(r?),
    }
}

fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut out = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            out.push(name.to_owned());
        }
    }
    Ok(out)
}

/// Somebody else removing the same thing is as good.
fn gone(r: Result<(), Errno>) -> io::Result<()> {
    match r {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

struct Remover<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Remover<'_> {
    fn entry(&mut self, at: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        match unlinkat(at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(Errno::ACCESS) => {
                chmod_self(at)?;
                if unlinkat(at, name, AtFlags::empty()).is_ok() {
                    return Ok(());
                }
            }
            Err(e) => return Err(e.into()),
        }
        if unlinkat(at, name, AtFlags::REMOVEDIR).is_ok() {
            return Ok(());
        }
        if depth >= MAX_DEPTH {
            loop {
                self.moved += 1;
                let to = format!("deep-{}-{}-{:p}", std::process::id(), self.moved, self);
                match renameat(at, name, self.top, to) {
                    // An earlier process of this number left one.
                    Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                    r => return gone(r),
                }
            }
        }
        let dir = match open_dir(at, name) {
            Ok(d) => d,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for child in names(&dir)? {
            self.entry(dir.as_fd(), &child, depth + 1)?;
        }
        gone(unlinkat(at, name, AtFlags::REMOVEDIR))
    }
}

fn chmod_self(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fchmod(dir, Mode::RWXU)?)
}

/// Removes everything inside `dir`, not `dir` itself.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    let top = open_dir(CWD, dir)?;
    let mut r = Remover { top: top.as_fd(), moved: 0 };
    loop {
        let before = r.moved;
        let list = names(&top)?;
        if list.is_empty() {
            return Ok(());
        }
        for name in list {
            r.entry(top.as_fd(), &name, 0)?;
        }
        if r.moved == before {
            return Ok(());
        }
    }
}

/// Removes `path`, whatever it is. Nothing there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => {
            clear(path)?;
            gone(unlinkat(CWD, path, AtFlags::REMOVEDIR))
        }
        Ok(_) => gone(unlinkat(CWD, path, AtFlags::empty())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Bytes on disk of `path` and what is below (`st_blocks`). Hard links inside count once.
pub(crate) fn disk_usage(path: &Path) -> io::Result<u64> {
    Counter::default().tree(path)
}

/// Counts bytes on disk; a file with several names counts once for all trees of one counter.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    seen: std::collections::HashSet<(u64, u64)>,
}

impl Counter {
    /// Bytes of `path` and what is below that were not counted yet.
    pub(crate) fn tree(&mut self, path: &Path) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        let m = std::fs::symlink_metadata(path)?;
        if !m.is_dir() {
            let new = m.nlink() < 2 || self.seen.insert((m.dev(), m.ino()));
            return Ok(if new { m.blocks() * 512 } else { 0 });
        }
        let mut total = m.blocks() * 512;
        // Each level is (its folder, its folders yet to visit): one descriptor per level.
        let mut stack: Vec<(OwnedFd, Vec<CString>)> = Vec::new();
        let mut next = Some(open_dir(CWD, path)?);
        loop {
            if let Some(dir) = next.take() {
                let mut folders = Vec::new();
                for name in names(&dir)? {
                    let Ok(st) = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                    let is_dir = FileType::from_raw_mode(st.st_mode) == FileType::Directory;
                    if is_dir || st.st_nlink < 2 || self.seen.insert((st.st_dev, st.st_ino)) {
                        total += u64::try_from(st.st_blocks).unwrap_or(0) * 512;
                    }
                    if is_dir {
                        folders.push(name);
                    }
                }
                stack.push((dir, folders));
            }
            // What lies deeper than this is left out of the estimate.
            let too_deep = stack.len() > 4 * MAX_DEPTH;
            let Some((dir, folders)) = stack.last_mut() else { return Ok(total) };
            match folders.pop() {
                Some(name) if !too_deep => next = open_dir(&*dir, name.as_c_str()).ok(),
                Some(_) => {}
                None => {
                    stack.pop();
                }
            }
        }
    }
}
