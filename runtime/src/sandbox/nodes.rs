//! `mknod` in a user namespace, where the kernel makes no devices: a file stands for the node, and
//! becomes the device in the layer's tar ([`rgraph_image::layer::DEVICE_ATTRIBUTE`]).
//!
//! The step's call waits while a copy of the runner makes the file as the kernel would have made the
//! node: in the caller's root and folder, as its user, with its mask. So the kernel itself finds
//! the path, and nothing is to be had that way which the step could not have made itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_image::layer::{DEVICE_ATTRIBUTE, Owners, device_note};
use rgraph_sys::caps::{self, Cap, CapSet};
use rgraph_sys::seccomp::notify::{self, AT_FDCWD, Heard, MakeNode, Question};
use rgraph_sys::spawn::{self, Ended, PidFd};
use rgraph_sys::{channel, ns};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::owners;

/// Where a step's questions are heard.
#[derive(Debug)]
pub(super) enum Desk {
    /// It asks none, or no more.
    Closed,
    /// The child has yet to send what they are heard by.
    Awaited(OwnedFd, Owners),
    /// They are heard by this.
    Open(OwnedFd),
    /// Another process hears and answers them.
    Elsewhere(PidFd),
}

impl Desk {
    /// Readable when there is something to attend to.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Closed => None,
            Self::Awaited(fd, _) | Self::Open(fd) => Some(fd.as_fd()),
            Self::Elsewhere(process) => Some(process.as_fd()),
        }
    }

    /// Does what there is to do for the process `step`, without waiting.
    pub fn attend(&mut self, step: &PidFd) {
        let open = match self {
            Self::Closed => true,
            Self::Awaited(socket, owners) => {
                // A child that failed before has closed its end.
                let sent = channel::receive(&*socket).ok().flatten();
                let listener = sent.and_then(|(_, fds)| fds.into_iter().next());
                let desk = match (listener, owners) {
                    (Some(listener), Owners::Kernel) => Some(Self::Open(listener)),
                    (Some(listener), Owners::Recorded) => {
                        owners::start(listener, step).ok().map(Self::Elsewhere)
                    }
                    (None, _) => None,
                };
                desk.map(|desk| *self = desk).is_some()
            }
            Self::Elsewhere(process) => {
                // It has ended.
                let _ = process.wait();
                false
            }
            Self::Open(listener) => match notify::hear(listener) {
                Ok(Heard::Question(question)) => {
                    let result = make(&question, listener.as_fd());
                    question.answer(listener, result.map_err(Errno::raw_os_error)).is_ok()
                }
                Ok(Heard::Nothing) => true,
                Ok(Heard::Over) | Err(_) => false,
            },
        };
        if !open {
            *self = Self::Closed;
        }
    }
}

impl Drop for Desk {
    /// Once the step has ended: nothing of it may be left.
    fn drop(&mut self) {
        if let Self::Elsewhere(process) = self {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Answers a call by doing it in a copy of this process.
fn make(question: &Question, listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let Some(call) = question.call else { return Err(Errno::NOSYS) };
    let made = spawn::copy_self(|| match stand_in(question, call, listener) {
        Ok(()) => 0,
        Err(e) => e.raw_os_error(),
    });
    match made.and_then(|copy| copy.wait()) {
        Ok(Ended::Exited(0)) => Ok(()),
        Ok(Ended::Exited(code)) => Err(Errno::from_raw_os_error(code)),
        Ok(Ended::Signalled(_)) => Err(Errno::IO),
        Err(_) => Err(Errno::AGAIN),
    }
}

/// In the copy: becomes the caller as far as files are concerned, and makes the file.
fn stand_in(question: &Question, call: MakeNode, listener: BorrowedFd<'_>) -> Result<(), Errno> {
    let thread = question.thread;
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
    let who = status.ok().and_then(|text| Caller::read(&text)).ok_or(Errno::SRCH)?;
    let open = |what: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(format!("/proc/{thread}/{what}"), flags, Mode::empty())
    };
    let path = notify::read_path(thread, call.path).map_err(errno)?;
    let root = open("root")?;
    let folder = match call.folder {
        _ if path.starts_with(b"/") => open("root")?,
        AT_FDCWD => open("cwd")?,
        fd => open(&format!("fd/{fd}"))?,
    };
    if !question.still_asked(listener) {
        return Err(Errno::SRCH);
    }
    let is_whiteout = !call.block && call.device == (0, 0);
    if !who.may_make_nodes || is_whiteout {
        return Err(Errno::PERM);
    }
    ns::change_dir(&root).map_err(errno)?;
    rustix::process::chroot(c".")?;
    ns::change_dir(&folder).map_err(errno)?;
    ns::set_umask(who.umask);
    ns::become_user(who.uid, who.gid, &who.groups).map_err(errno)?;
    caps::limit(CapSet::DOCKER).map_err(errno)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.as_slice(), flags, Mode::from_raw_mode(call.mode))?;
    let note = device_note(call.block, call.device.0, call.device.1);
    rustix::fs::fsetxattr(&file, DEVICE_ATTRIBUTE, note.as_bytes(), XattrFlags::empty()).map_err(
        |_| {
            // A file system that keeps no notes; without one it would be an ordinary file.
            let _ = rustix::fs::unlinkat(CWD, path.as_slice(), AtFlags::empty());
            Errno::PERM
        },
    )
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

/// Who calls.
#[derive(Debug, PartialEq, Eq)]
struct Caller {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    may_make_nodes: bool,
}

impl Caller {
    /// From `/proc/PID/status`.
    fn read(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        // Real, effective, saved, of the file system.
        let id = |name| field(name)?.split_whitespace().nth(3)?.parse().ok();
        let groups = field("Groups")?.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        let caps = u64::from_str_radix(field("CapEff")?, 16).ok()?;
        Some(Self {
            uid: id("Uid")?,
            gid: id("Gid")?,
            groups: groups.ok()?,
            umask: u32::from_str_radix(field("Umask")?, 8).ok()?,
            may_make_nodes: caps & (1 << Cap::MKNOD as u8) != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_read() {
        let text = "Name:\tmknod\nUmask:\t0027\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n\
                    Groups:\t9 10 \nCapEff:\t00000000a80425fb\n";
        let want =
            Caller { uid: 4, gid: 8, groups: vec![9, 10], umask: 0o27, may_make_nodes: true };
        assert_eq!(Caller::read(text), Some(want));
        let less = text.replace("a80425fb", "a00425fb");
        assert!(!Caller::read(&less).unwrap().may_make_nodes);
        assert_eq!(Caller::read("Uid:\t1\t2\t3\n"), None);
    }
}
