//! The other end of a filter that asks: calls of another process that wait for an answer
//! (seccomp_unotify(2)).
//!
//! Who answers must take nothing for granted: the process may be gone and its number another's
//! ([`Question::still_asked`]), and what its arguments point to may change at any time.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::asked::Call;
use super::compile::{Arch, MKNOD, MKNODAT};
use crate::other;

// _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1, struct seccomp_notif_resp), _IOW('!', 2, u64)
const RECEIVE: libc::Ioctl = 0xc050_2100u32 as libc::Ioctl;
const SEND: libc::Ioctl = 0xc018_2101u32 as libc::Ioctl;
const IS_VALID: libc::Ioctl = 0x4008_2102u32 as libc::Ioctl;
// _IOW('!', 3, struct seccomp_notif_addfd), _IOW('!', 4, __u64)
const ADD_FD: libc::Ioctl = 0x4018_2103u32 as libc::Ioctl;
const SET_FLAGS: libc::Ioctl = 0x4008_2104u32 as libc::Ioctl;
/// The listener is woken on the processor of who asks.
const SYNC_WAKE_UP: libc::c_ulong = 1;
/// The descriptor's number is the answer.
const AND_ANSWER: u32 = 1 << 1;

/// Longest path the kernel takes, bytes, with its end.
const PATH_MAX: usize = 4096;
/// What a call means by "relative to the working folder".
pub const AT_FDCWD: i32 = libc::AT_FDCWD;

/// What there is to hear.
#[derive(Debug)]
pub enum Heard {
    /// A call that waits.
    Question(Question),
    /// Nothing now.
    Nothing,
    /// Nobody is left who could ask.
    Over,
}

/// A call that waits for an answer.
#[derive(Debug)]
pub struct Question {
    id: u64,
    /// The thread that calls, in this process's namespace.
    pub thread: u32,
    /// The device it wants to make, with the filter that asks about those alone.
    pub call: Option<MakeNode>,
    arch: u32,
    number: u32,
    args: [u64; 6],
}

/// The answer to a call.
#[derive(Debug)]
pub enum Reply {
    /// It gives this.
    Value(i64),
    /// It fails with this error number.
    Error(i32),
    /// The kernel does it after all. What its arguments point to may have changed since.
    LetKernel,
}

/// A call of `mknod` or `mknodat` for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MakeNode {
    /// The folder that a relative path starts in: a descriptor of the caller's, or [`AT_FDCWD`].
    pub folder: i32,
    /// Address of the path in the caller.
    pub path: u64,
    /// Permission bits, the caller's mask not yet applied.
    pub mode: u32,
    /// A block device; otherwise a character device.
    pub block: bool,
    /// Major and minor number.
    pub device: (u32, u32),
}

/// What [`hear`] would come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// A call waits.
    Question,
    /// None does now.
    Nothing,
    /// Nobody is left who could ask.
    Over,
}

/// Looks whether a call waits, and leaves it waiting.
///
/// # Errors
/// That of `poll(2)`.
pub fn look(listener: &OwnedFd) -> io::Result<Waits> {
    let mut polls = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    rustix::event::poll(&mut polls, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let found = polls[0].revents();
    Ok(match () {
        () if found.contains(PollFlags::IN) => Waits::Question,
        () if found.intersects(PollFlags::HUP | PollFlags::ERR) => Waits::Over,
        () => Waits::Nothing,
    })
}

/// Hears the next call that waits.
///
/// # Errors
/// Those of `poll(2)` and of receiving.
pub fn hear(listener: &OwnedFd) -> io::Result<Heard> {
    match look(listener)? {
        Waits::Question => {}
        Waits::Nothing => return Ok(Heard::Nothing),
        Waits::Over => return Ok(Heard::Over),
    }
    // SAFETY: `seccomp_notif` is plain data, for which all zeroes is a value (and the one that the
    // kernel wants to find).
    let mut got: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: RECEIVE writes one `seccomp_notif`, which lives until the call returns.
    let done = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut got) };
    if done != 0 {
        let e = io::Error::last_os_error();
        // Who asked was killed meanwhile.
        let gone = matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR));
        return if gone { Ok(Heard::Nothing) } else { Err(e) };
    }
    let call = make_node(got.data.arch, got.data.nr as u32, &got.data.args);
    let (arch, number, args) = (got.data.arch, got.data.nr as u32, got.data.args);
    Ok(Heard::Question(Question { id: got.id, thread: got.pid, call, arch, number, args }))
}

/// Makes answers quicker where one process asks and another answers in turn (Linux 6.6).
pub fn answer_quickly(listener: &OwnedFd) {
    // SAFETY: SET_FLAGS takes its argument by value and changes the listener only. An older kernel
    // refuses, and then nothing is different.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
}

fn make_node(arch: u32, number: u32, args: &[u64; 6]) -> Option<MakeNode> {
    let column = Arch::column(arch)?;
    let is = |of: Option<u32>| of == Some(number);
    let (folder, rest) = match () {
        () if is(MKNOD[column]) => (AT_FDCWD, &args[0..3]),
        () if is(MKNODAT[column]) => (args[0] as i32, &args[1..4]),
        () => return None,
    };
    let (mode, dev) = (rest[1] as u32, rest[2] as u32);
    let device = device_numbers(dev);
    let block = mode & libc::S_IFMT == libc::S_IFBLK;
    Some(MakeNode { folder, path: rest[0], mode: mode & 0o7777, block, device })
}

/// Major and minor number of an argument, as the kernel reads it (include/linux/kdev_t.h).
pub fn device_numbers(dev: u32) -> (u32, u32) {
    ((dev & 0xf_ff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xf_ff00))
}

impl Question {
    /// True while the call waits: what was found out about its thread is then about that thread.
    pub fn still_asked(&self, listener: BorrowedFd<'_>) -> bool {
        // SAFETY: IS_VALID reads one `u64`, which lives until the call returns.
        unsafe { libc::ioctl(listener.as_raw_fd(), IS_VALID, &raw const self.id) == 0 }
    }

    /// The call by its meaning, with the filter that asks about owners; `None`: another.
    pub fn meaning(&self) -> Option<Call> {
        Call::read(Arch::column(self.arch)?, self.number, &self.args)
    }

    /// Ends the call with success, or with an error number. One that nobody waits for any more is
    /// no error.
    ///
    /// # Errors
    /// That of sending.
    pub fn answer(self, listener: &OwnedFd, result: Result<(), i32>) -> io::Result<()> {
        self.reply(listener, &result.map_or_else(Reply::Error, |()| Reply::Value(0)))
    }

    /// Ends the call. One that nobody waits for any more is no error.
    ///
    /// # Errors
    /// That of sending.
    pub fn reply(self, listener: &OwnedFd, reply: &Reply) -> io::Result<()> {
        let (val, error, flags) = match reply {
            Reply::Value(value) => (*value, 0, 0),
            Reply::Error(error) => (0, -error, 0),
            Reply::LetKernel => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        };
        let answer = libc::seccomp_notif_resp { id: self.id, val, error, flags };
        // SAFETY: SEND reads one `seccomp_notif_resp`, which lives until the call returns.
        sent(unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const answer) })
    }

    /// Ends the call with a descriptor of the caller's for `file`. The error is the caller's: that it
    /// has too many, or that the kernel is older than 5.14. The call still waits then.
    ///
    /// # Errors
    /// That of adding the descriptor; one that nobody waits for any more is no error.
    pub fn give(&self, listener: &OwnedFd, file: impl AsFd, cloexec: bool) -> io::Result<()> {
        let give = libc::seccomp_notif_addfd {
            id: self.id,
            flags: AND_ANSWER,
            srcfd: file.as_fd().as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: ADD_FD reads one `seccomp_notif_addfd`, which lives until the call returns, and
        // makes a descriptor in the other process.
        sent(unsafe { libc::ioctl(listener.as_raw_fd(), ADD_FD, &raw const give) })
    }
}

fn sent(done: libc::c_int) -> io::Result<()> {
    match done {
        -1 => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            e => Err(e),
        },
        _ => Ok(()),
    }
}

/// Reads a path out of another process.
///
/// # Errors
/// `ENAMETOOLONG`, or those of reading its memory.
pub fn read_path(thread: u32, address: u64) -> io::Result<Vec<u8>> {
    let mut path = Vec::new();
    let mut part = [0; 256];
    while path.len() < PATH_MAX {
        // Not over the end of a page: the next may not be there.
        let at = address
            .checked_add(path.len() as u64)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        let room = (4096 - at % 4096).min(part.len() as u64) as usize;
        let n = other::read(thread, at, &mut part[..room])?;
        match part[..n].iter().position(|b| *b == 0) {
            Some(end) => {
                path.extend_from_slice(&part[..end]);
                return Ok(path);
            }
            None if n == 0 => return Err(io::Error::from_raw_os_error(libc::EFAULT)),
            None => path.extend_from_slice(&part[..n]),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_the_kernel_reads_them() {
        let node = |folder, path, mode, block, device| {
            Some(MakeNode { folder, path, mode, block, device })
        };
        let big = (0x123 << 8) | 0x45 | (0x678 << 20);
        for (arch, number, args, want) in [
            (
                0xc000_003e,
                133,
                [9, 0o020_640, 0x103, 0, 0, 0],
                node(AT_FDCWD, 9, 0o640, false, (1, 3)),
            ),
            (0xc000_003e, 259, [5, 9, 0o060_644, 0x700, 0, 0], node(5, 9, 0o644, true, (7, 0))),
            (
                0xc000_003e,
                259,
                [0xffff_ff9c, 9, 0o024_755, big, 0, 0],
                node(AT_FDCWD, 9, 0o4755, false, (0x123, 0x67845)),
            ),
            (
                0x4000_0003,
                14,
                [9, 0o020_640, 0x103, 0, 0, 0],
                node(AT_FDCWD, 9, 0o640, false, (1, 3)),
            ),
            (0x4000_0003, 133, [9, 0o020_640, 0x103, 0, 0, 0], None),
            (1, 133, [9, 0o020_640, 0x103, 0, 0, 0], None),
        ] {
            assert_eq!(make_node(arch, number, &args), want, "{arch:#x} {number}");
        }
    }

    #[test]
    fn a_path_ends_at_its_zero() {
        let text = std::ffi::CString::new("x".repeat(5000)).unwrap();
        let (own, at) = (std::process::id(), text.as_ptr() as u64);
        assert_eq!(read_path(own, at + 4990).unwrap(), b"x".repeat(10));
        let long = read_path(own, at).unwrap_err();
        assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
        assert!(read_path(own, 8).is_err());
    }
}
