//! Files as a process of the step sees them: its root, its folders, its paths.
//!
//! All is found by handles on what the process itself has, and by walks of the kernel from there,
//! within the step's mounts. No link of `/proc` that leads to an open file is followed: it would
//! lead to files of this process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rgraph_sys::ns;
use rgraph_sys::other::Memory;
use rgraph_sys::seccomp::asked::At;
use rgraph_sys::seccomp::notify::{self, AT_FDCWD};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Asked;
use super::people::errno;

/// Links followed at the end of a path before it is called a loop.
const MAX_LINKS: usize = 40;

/// The way to the step's files.
pub(super) struct View {
    /// The `/proc` of this process, which knows the step's by the numbers it asks with. It is the
    /// working folder: attributes are reached by paths below it.
    proc: OwnedFd,
    /// The step's root.
    root: OwnedFd,
    /// Some process may have another root.
    many_roots: bool,
}

/// A folder, and a name in it that is no path.
pub(super) struct Entry {
    pub folder: OwnedFd,
    pub name: Vec<u8>,
}

impl View {
    /// `proc` is a handle; this process's root is the step's already.
    pub fn new(proc: OwnedFd) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty())?;
        rustix::process::fchdir(&proc)?;
        Ok(Self { proc, root, many_roots: false })
    }

    /// From now on roots are looked at.
    pub fn expect_roots(&mut self) {
        self.many_roots = true;
    }

    /// A file of a thread's in `/proc`.
    pub fn of_thread(&self, thread: u32, what: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = format!("{thread}/{what}");
        rustix::fs::openat(&self.proc, path, flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Writes parts to addresses of the thread's process, which must be the one that is `asked` for.
    pub fn tell<'a>(
        &self,
        thread: u32,
        parts: impl IntoIterator<Item = (u64, &'a [u8])>,
        asked: Asked<'_>,
    ) -> Result<(), Errno> {
        let memory = Memory::open(&self.proc, thread).map_err(errno)?;
        asked()?;
        parts.into_iter().try_for_each(|(to, bytes)| memory.write(to, bytes).map_err(errno))
    }

    /// The path by which this process reaches what `fd` is open on.
    pub fn path(fd: impl AsFd) -> String {
        format!("self/fd/{}", fd.as_fd().as_raw_fd())
    }

    /// Does `body` with the root of the thread's process.
    pub fn within<T>(
        &self,
        thread: u32,
        body: impl FnOnce(&Self) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if !self.many_roots {
            return body(self);
        }
        let root = self.of_thread(thread, "root", OFlags::PATH | OFlags::DIRECTORY)?;
        self.change_root(root.as_fd())?;
        let result = body(self);
        self.change_root(self.root.as_fd())?;
        result
    }

    fn change_root(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        ns::change_dir(root).map_err(errno)?;
        let changed = rustix::process::chroot(c".");
        ns::change_dir(&self.proc).map_err(errno)?;
        changed
    }

    /// A handle on what a call's arguments stand for.
    pub fn handle(&self, thread: u32, at: At) -> Result<OwnedFd, Errno> {
        let Some(address) = at.path else {
            return self.of_thread(thread, &format!("fd/{}", at.folder), OFlags::PATH);
        };
        // Newer kernels take none for an empty one.
        let path = match address {
            0 if at.empty => Vec::new(),
            address => notify::read_path(thread, address).map_err(errno)?,
        };
        if path.is_empty() {
            return match at.empty {
                true if at.folder == AT_FDCWD => self.of_thread(thread, "cwd", OFlags::PATH),
                true => self.of_thread(thread, &format!("fd/{}", at.folder), OFlags::PATH),
                false => Err(Errno::NOENT),
            };
        }
        if let Some(fd) = descriptor(&path).filter(|_| at.follow) {
            return self.of_thread(thread, &format!("fd/{fd}"), OFlags::PATH);
        }
        let flags = if at.follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
        if path.starts_with(b"/") {
            return open(self.root.as_fd(), &path, flags);
        }
        open(self.folder(thread, at.folder)?.as_fd(), &path, flags)
    }

    /// A handle on the program that a call would run; `None`: there may be one, which this process does
    /// not reach.
    ///
    /// # Errors
    /// There is none.
    pub fn program(&self, thread: u32, at: At) -> Result<Option<OwnedFd>, Errno> {
        match self.handle(thread, at) {
            Ok(file) => Ok(Some(file)),
            Err(e @ (Errno::NOENT | Errno::NOTDIR | Errno::ACCESS))
                if !self.may_pass_proc(thread, at) =>
            {
                Err(e)
            }
            Err(_) => {
                let path = at.path.and_then(|address| notify::read_path(thread, address).ok());
                let own = path.filter(|p| is_own_program(p));
                Ok(own.and_then(|_| self.of_thread(thread, "exe", OFlags::PATH).ok()))
            }
        }
    }

    /// Whether a call's path may lead through `/proc`, which shows each process something else: it
    /// begins there, or it enters a mount.
    fn may_pass_proc(&self, thread: u32, at: At) -> bool {
        let passes = || -> Result<bool, Errno> {
            let path = notify::read_path(thread, at.path.ok_or(Errno::FAULT)?).map_err(errno)?;
            if path.is_empty() {
                return Ok(false);
            }
            let base = match path.starts_with(b"/") {
                true => None,
                false => Some(self.folder(thread, at.folder)?),
            };
            if let Some(base) = &base
                && rustix::fs::fstatfs(base)?.f_type == rustix::fs::PROC_SUPER_MAGIC
            {
                return Ok(true);
            }
            let base = base.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let how = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            Ok(matches!(resolve(base, &path, OFlags::PATH, how), Err(Errno::XDEV | Errno::LOOP)))
        };
        passes().unwrap_or(false)
    }

    /// Where a call would make something: the folder and the name.
    pub fn entry(&self, thread: u32, at: At) -> Result<Entry, Errno> {
        let path = notify::read_path(thread, at.path.ok_or(Errno::FAULT)?).map_err(errno)?;
        let base = match path.first() {
            None => return Err(Errno::NOENT),
            Some(b'/') => None,
            Some(_) => Some(self.folder(thread, at.folder)?),
        };
        self.entry_at(base.as_ref().map_or(self.root.as_fd(), AsFd::as_fd), &path)
    }

    fn entry_at(&self, base: BorrowedFd<'_>, path: &[u8]) -> Result<Entry, Errno> {
        let end = path.iter().rposition(|b| *b != b'/').ok_or(Errno::EXIST)? + 1;
        let at = path[..end].iter().rposition(|b| *b == b'/').map_or(0, |i| i + 1);
        let name = path[at..end].to_vec();
        if name == b"." || name == b".." {
            return Err(Errno::EXIST);
        }
        let parent: &[u8] = if at == 0 { b"." } else { &path[..at] };
        let folder = open(base, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Entry { folder, name })
    }

    /// Where a link that leads to nothing wants it to be.
    pub fn behind_links(&self, mut entry: Entry) -> Result<Entry, Errno> {
        for _ in 0..MAX_LINKS {
            match rustix::fs::readlinkat(&entry.folder, entry.name.as_slice(), Vec::new()) {
                Ok(target) => entry = self.entry_at(entry.folder.as_fd(), target.to_bytes())?,
                Err(Errno::NOENT) => return Ok(entry),
                Err(_) => return Err(Errno::EXIST),
            }
        }
        Err(Errno::LOOP)
    }

    fn folder(&self, thread: u32, folder: i32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match folder {
            AT_FDCWD => self.of_thread(thread, "cwd", flags),
            fd => self.of_thread(thread, &format!("fd/{fd}"), flags),
        }
    }

    /// The mask that the thread's process makes files with.
    pub fn umask(&self, thread: u32) -> Result<u32, Errno> {
        self.status(thread, "Umask", 8)
    }

    /// True when programs give the thread's process no rights.
    pub fn gets_no_rights(&self, thread: u32) -> Result<bool, Errno> {
        Ok(self.status(thread, "NoNewPrivs", 10)? != 0)
    }

    fn status(&self, thread: u32, field: &str, radix: u32) -> Result<u32, Errno> {
        let file = self.of_thread(thread, "status", OFlags::RDONLY)?;
        let text = std::io::read_to_string(std::fs::File::from(file)).map_err(errno)?;
        text.lines()
            .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))
            .and_then(|v| u32::from_str_radix(v.trim(), radix).ok())
            .ok_or(Errno::SRCH)
    }
}

fn open(base: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(base, path, flags, ResolveFlags::NO_MAGICLINKS)
}

fn resolve(
    base: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    how: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    for _ in 0..128 {
        match rustix::fs::openat2(base, path, flags, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Whether a path is another name for the program that the caller runs.
fn is_own_program(path: &[u8]) -> bool {
    matches!(path, b"/proc/self/exe" | b"/proc/thread-self/exe")
}

/// The descriptor of the caller's that a path is another name for.
fn descriptor(path: &[u8]) -> Option<u32> {
    let name = match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        path => path
            .strip_prefix(b"/dev/fd/")
            .or_else(|| path.strip_prefix(b"/proc/self/fd/"))
            .or_else(|| path.strip_prefix(b"/proc/thread-self/fd/"))?,
    };
    std::str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_names_of_descriptors() {
        for (path, want) in [
            ("/dev/stdout", Some(1)),
            ("/dev/fd/63", Some(63)),
            ("/proc/self/fd/5", Some(5)),
            ("/proc/self/fd/5/x", None),
            ("/proc/1/fd/5", None),
            ("dev/fd/1", None),
        ] {
            assert_eq!(descriptor(path.as_bytes()), want, "{path}");
        }
    }
}
