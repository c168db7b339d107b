//! `mknod` in a user namespace, where the kernel makes no devices: a file stands for the node, and
//! becomes the device in the layer's tar ([`rgraph_image::layer::DEVICE_ATTRIBUTE`]).
//!
//! The step's call waits while a process beside the step makes the file as the kernel would have made the
//! node: in the caller's root and folder, as its user, with its mask and its rights. So the kernel itself finds
//! the path, and nothing is to be had that way which the step could not have made itself. Each step
//! has a process of its own, from the first such call on: what one of them waits for holds up no other step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_image::layer::{DEVICE_ATTRIBUTE, Owners, device_note};
use rgraph_sys::caps::{self, Cap, CapSet};
use rgraph_sys::seccomp::notify::{self, AT_FDCWD, Heard, Question, Waits};
use rgraph_sys::spawn::{self, PidFd};
use rgraph_sys::{channel, ns, other, wait};
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
    /// They are heard by this, and there was none yet.
    Open(OwnedFd),
    /// Another process hears and answers them.
    Elsewhere(Beside),
}

/// A process that answers. Dropped once the step has ended: nothing of it may be left then.
#[derive(Debug)]
pub(super) struct Beside(PidFd);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Desk {
    /// Readable when there is something to attend to.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Closed => None,
            Self::Awaited(fd, _) | Self::Open(fd) => Some(fd.as_fd()),
            Self::Elsewhere(process) => Some(process.0.as_fd()),
        }
    }

    /// Does what there is to do for the process `step`, without waiting. What cannot be answered fails in
    /// the step, with ENOSYS, as soon as nobody listens.
    pub fn attend(&mut self, step: &PidFd) {
        *self = match std::mem::replace(self, Self::Closed) {
            Self::Closed => Self::Closed,
            Self::Awaited(socket, owners) => {
                // A child that failed before has closed its end.
                let sent = channel::receive(&socket).ok().flatten();
                match (sent.and_then(|(_, fds)| fds.into_iter().next()), owners) {
                    (Some(listener), Owners::Kernel) => Self::Open(listener),
                    (Some(listener), Owners::Recorded) => {
                        Self::beside(owners::start(listener, step))
                    }
                    (None, _) => Self::Closed,
                }
            }
            Self::Open(listener) => match notify::look(&listener) {
                Ok(Waits::Question) => Self::beside(start(listener, step)),
                Ok(Waits::Nothing) => Self::Open(listener),
                Ok(Waits::Over) | Err(_) => Self::Closed,
            },
            // It has ended.
            Self::Elsewhere(_) => Self::Closed,
        };
    }

    fn beside(started: std::io::Result<PidFd>) -> Self {
        started.map_or(Self::Closed, |process| Self::Elsewhere(Beside(process)))
    }
}

/// Starts answering for the step whose process is `step`.
fn start(listener: OwnedFd, step: &PidFd) -> std::io::Result<PidFd> {
    let step = step.as_fd().try_clone_to_owned()?;
    spawn::copy_with_only([listener, step], |[listener, step]| {
        i32::from(serve(&listener, PidFd::from_fd(step)).is_err())
    })
}

fn serve(listener: &OwnedFd, step: PidFd) -> std::io::Result<()> {
    let open = |path: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
    };
    ns::die_with_parent()?;
    let proc = open("/proc")?;
    // Where the step's mounts are the only ones, no path can lead elsewhere.
    other::enter_mounts(&step)?;
    drop(step);
    let root = open("/")?;
    // Those of the step, and to look into its processes.
    caps::limit(CapSet::DOCKER.with(Cap::SYS_PTRACE))?;
    loop {
        wait::readable(&[listener.as_fd()], None)?;
        match notify::hear(listener)? {
            Heard::Question(question) => {
                let made = make(&question, listener.as_fd(), &proc);
                // Whoever cannot become itself again must do nothing more.
                ns::files_as_root()?;
                ns::die_with_parent()?;
                ns::change_dir(&root)?;
                rustix::process::chroot(c".")?;
                question.answer(listener, made.map_err(Errno::raw_os_error))?;
            }
            Heard::Nothing => {}
            Heard::Over => return Ok(()),
        }
    }
}

/// Becomes the caller as far as files are concerned, and makes the file.
fn make(question: &Question, listener: BorrowedFd<'_>, proc: &OwnedFd) -> Result<(), Errno> {
    let call = question.call.ok_or(Errno::NOSYS)?;
    let thread = question.thread;
    let of_thread = |what: &str, flags: OFlags| {
        rustix::fs::openat(proc, format!("{thread}/{what}"), flags | OFlags::CLOEXEC, Mode::empty())
    };
    let open = |what: &str| of_thread(what, OFlags::PATH | OFlags::DIRECTORY);
    let status = of_thread("status", OFlags::RDONLY)?;
    let status = std::io::read_to_string(std::fs::File::from(status)).map_err(errno)?;
    let who = Caller::read(&status).ok_or(Errno::SRCH)?;
    let path = notify::read_path(thread, call.path).map_err(errno)?;
    let root = open("root")?;
    let folder = match call.folder {
        _ if path.starts_with(b"/") => open("root")?,
        AT_FDCWD => open("cwd")?,
        fd => open(&format!("fd/{fd}"))?,
    };
    // All of that was about whoever calls, or it is not used.
    if !question.still_asked(listener) {
        return Err(Errno::SRCH);
    }
    let is_whiteout = !call.block && call.device == (0, 0);
    if !who.rights.has(Cap::MKNOD) || is_whiteout {
        return Err(Errno::PERM);
    }
    ns::change_dir(&root).map_err(errno)?;
    rustix::process::chroot(c".")?;
    ns::change_dir(&folder).map_err(errno)?;
    // Whoever may not pass over modes writes the note while the owner may write.
    let writable = call.mode & !who.umask & OWNER_WRITES != 0;
    ns::set_umask(who.umask & !OWNER_WRITES);
    ns::files_as(who.uid, who.gid, &who.groups, who.rights.and(CapSet::DOCKER)).map_err(errno)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(call.mode | OWNER_WRITES);
    let file = rustix::fs::open(path.as_slice(), flags, mode)?;
    note(&file, &device_note(call.block, call.device.0, call.device.1), writable).map_err(|_| {
        // A file system that keeps no notes; without one it would be an ordinary file.
        let _ = rustix::fs::unlinkat(CWD, path.as_slice(), AtFlags::empty());
        Errno::PERM
    })
}

/// The owner's right to write, of a mode.
const OWNER_WRITES: u32 = 0o200;

/// Notes on a new file what it stands for; its owner may write to it then, or not.
fn note(file: &OwnedFd, text: &str, writable: bool) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, DEVICE_ATTRIBUTE, text.as_bytes(), XattrFlags::empty())?;
    if writable {
        return Ok(());
    }
    // What the folder's access control list made of the mode stays.
    let mode = rustix::fs::fstat(file)?.st_mode & 0o7777 & !OWNER_WRITES;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
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
    rights: CapSet,
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
            rights: CapSet::from_bits(caps),
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
        let rights = CapSet::DOCKER;
        let want = Caller { uid: 4, gid: 8, groups: vec![9, 10], umask: 0o27, rights };
        assert_eq!(Caller::read(text), Some(want));
        let less = text.replace("a80425fb", "a00425fb");
        assert!(!Caller::read(&less).unwrap().rights.has(Cap::MKNOD));
        assert_eq!(Caller::read("Uid:\t1\t2\t3\n"), None);
    }
}
