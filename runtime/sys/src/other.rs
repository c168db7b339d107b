//! What is read and changed of another process, by the number of one of its threads.
//!
//! A number may be another's by the time it is used. What was read counts only when the process is seen to wait
//! for it afterwards (`seccomp::notify::Question::still_asked`); what is written goes through a handle from
//! before that ([`Memory`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::ThreadNameSpaceType;

use crate::spawn::PidFd;

/// Reads memory; gives how much, which is less where what follows is not there.
///
/// # Errors
/// The error of `process_vm_readv(2)`.
pub fn read(thread: u32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`, which lives until the call
    // returns; the other address is the other process's, and the kernel checks it.
    let done = unsafe {
        libc::process_vm_readv(thread as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Reads memory that must all be there.
///
/// # Errors
/// `EFAULT` when it is not, or the error of `process_vm_readv(2)`.
pub fn read_exact(thread: u32, address: u64, into: &mut [u8]) -> io::Result<()> {
    if into.is_empty() || read(thread, address, into)? == into.len() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EFAULT))
    }
}

/// The memory of one process, and of no other that has its number later: what is written goes there or
/// nowhere.
#[derive(Debug)]
pub struct Memory(OwnedFd);

impl Memory {
    /// That of the process which a thread is in now. `proc` is a `/proc` that knows it by this number. Whether
    /// it is the right one is to be found out between this and the first [`Memory::write`].
    ///
    /// # Errors
    /// That of `open(2)`: the rights are those of `ptrace(2)`.
    pub fn open(proc: impl AsFd, thread: u32) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(proc, format!("{thread}/mem"), flags, Mode::empty())?))
    }

    /// Writes to it, also where the process itself may only read.
    ///
    /// # Errors
    /// `EFAULT` when it is not all there, as it is when the process has ended.
    pub fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::io::pwrite(&self.0, bytes, address) {
            Ok(n) if n == bytes.len() => Ok(()),
            // The file has no other errors for an address that there is not.
            Ok(_) | Err(Errno::IO | Errno::INVAL) => Err(Errno::FAULT.into()),
            Err(e) => Err(e.into()),
        }
    }
}

/// The soft limit on file locks: a number that the kernel keeps for each process, hands on to its
/// children and leaves alone through exec, and has not looked at since Linux 2.4.25. So it can carry
/// a mark.
///
/// # Errors
/// The error of `prlimit(2)`.
pub fn mark(thread: u32) -> io::Result<u64> {
    Ok(locks(thread, None)?.rlim_cur)
}

/// Sets what [`mark`] gives, where it is still `before`. `is_right` says whether the thread is still the one
/// that is meant: there is no other handle on a limit than a number. What was done to another process is undone.
///
/// # Errors
/// `ESRCH` when it was another's, or the error of `prlimit(2)`: `EINVAL` above the hard limit of the process.
pub fn set_mark(
    thread: u32,
    before: u64,
    mark: u64,
    is_right: impl FnOnce() -> bool,
) -> io::Result<()> {
    let rlim_max = locks(thread, None)?.rlim_max;
    let old = locks(thread, Some(libc::rlimit { rlim_cur: mark, rlim_max }))?;
    if old.rlim_cur == before && old.rlim_max == rlim_max && is_right() {
        return Ok(());
    }
    if locks(thread, None)?.rlim_cur == mark {
        locks(thread, Some(old))?;
    }
    Err(io::Error::from_raw_os_error(libc::ESRCH))
}

fn locks(thread: u32, new: Option<libc::rlimit>) -> io::Result<libc::rlimit> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel reads `new` unless it is null and writes `old`; both live until the call
    // returns.
    let done =
        unsafe { libc::prlimit(thread as libc::pid_t, libc::RLIMIT_LOCKS, new, &raw mut old) };
    if done == 0 { Ok(old) } else { Err(io::Error::last_os_error()) }
}

/// Moves this process into the mount namespace of another; its root and working folder become the
/// root of that.
///
/// # Errors
/// The error of `setns(2)`.
pub fn enter_mounts(process: &PidFd) -> io::Result<()> {
    crate::ns::single_threaded()?;
    let what = ThreadNameSpaceType::MOUNT;
    Ok(rustix::thread::move_into_thread_name_spaces(process.as_fd(), what)?)
}

/// What `stat` says of an open file or handle with another owner, as the C library of this machine
/// lays it out.
///
/// # Errors
/// The error of `fstatat(2)`.
pub fn stat_bytes(fd: impl AsFd, owner: (u32, u32)) -> io::Result<Vec<u8>> {
    // SAFETY: `stat` is plain data, for which all zeroes is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `stat`, which lives until the call returns; the path is empty
    // and ends with its zero.
    let done = unsafe {
        let fd = fd.as_fd().as_raw_fd();
        libc::fstatat(fd, c"".as_ptr(), &raw mut stat, libc::AT_EMPTY_PATH)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    (stat.st_uid, stat.st_gid) = owner;
    Ok(bytes_of(&stat))
}

/// What `statx` says of an open file or handle with another owner. `flags` and `mask` are the
/// caller's; of the flags only those about synchronising count.
///
/// # Errors
/// The error of `statx(2)`.
pub fn statx_bytes(
    fd: BorrowedFd<'_>,
    flags: i32,
    mask: u32,
    owner: (u32, u32),
) -> io::Result<Vec<u8>> {
    let flags = libc::AT_EMPTY_PATH | (flags & libc::AT_STATX_SYNC_TYPE);
    // SAFETY: `statx` is plain data, for which all zeroes is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `statx`, which lives until the call returns; the path is empty
    // and ends with its zero.
    let done = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, &raw mut stat) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    (stat.stx_uid, stat.stx_gid) = owner;
    Ok(bytes_of(&stat))
}

fn bytes_of<T: Copy>(plain: &T) -> Vec<u8> {
    // SAFETY: `plain` is borrowed for the length of the copy, and both structures that come here were
    // zeroed as a whole before the kernel filled them, so that every byte has a value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(plain).cast::<u8>(), size_of::<T>()) }
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_written() {
        let own = std::process::id();
        let from = *b"some bytes";
        let mut to = [0; 10];
        read_exact(own, from.as_ptr() as u64, &mut to).unwrap();
        assert_eq!(to, from);
        assert!(read_exact(own, 8, &mut to).is_err());
        let mut target = Box::new([0u8; 4]);
        let memory = Memory::open(std::fs::File::open("/proc").unwrap(), own).unwrap();
        memory.write(target.as_mut_ptr() as u64, b"abcd").unwrap();
        assert_eq!(&std::hint::black_box(target)[..], b"abcd");
        for nowhere in [8, u64::MAX - 8] {
            let e = memory.write(nowhere, b"a").unwrap_err();
            assert_eq!(e.raw_os_error(), Some(libc::EFAULT));
        }
    }

    #[test]
    fn memory_is_not_the_next_processs() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("`cat`");
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        let stack = maps.lines().find(|l| l.ends_with("[stack]")).expect("a stack");
        let at = u64::from_str_radix(stack.split_once('-').expect("a range").0, 16).unwrap();
        let proc = std::fs::File::open("/proc").unwrap();
        let memory = Memory::open(&proc, child.id()).unwrap();
        memory.write(at, b"a").unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(memory.write(at, b"a").is_err());
        assert!(Memory::open(&proc, child.id()).is_err());
    }

    #[test]
    fn a_mark_is_kept_and_inherited() {
        let own = std::process::id();
        let before = mark(own).unwrap();
        let set = |from, to, right| set_mark(own, from, to, || right);
        set(before, 77, true).unwrap();
        let child = std::process::Command::new("sh").args(["-c", "ulimit -a"]).output();
        let seen = mark(own).unwrap();
        // Another process than was meant: it keeps what it has.
        for (from, right) in [(78, true), (77, false)] {
            let e = set(from, 79, right).unwrap_err();
            assert_eq!((e.raw_os_error(), mark(own).unwrap()), (Some(libc::ESRCH), 77));
        }
        set(77, before, true).unwrap();
        assert_eq!(seen, 77);
        assert!(child.unwrap().status.success());
    }

    #[test]
    fn owners_are_put_in() {
        let file = tempfile::tempfile().unwrap();
        let bytes = stat_bytes(&file, (7, 8)).unwrap();
        assert_eq!(bytes.len(), size_of::<libc::stat>());
        let has = |bytes: &[u8], n: u32| bytes.windows(4).any(|w| w == n.to_ne_bytes());
        assert!(has(&bytes, 7) && has(&bytes, 8));
        let bytes = statx_bytes(file.as_fd(), 0, 0x7ff, (0x1234_5678, 9)).unwrap();
        assert_eq!(bytes.len(), 256);
        assert!(has(&bytes, 0x1234_5678));
    }
}
