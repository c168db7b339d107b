//! Making processes, from threaded and from single-threaded ones, and learning how they ended.
//!
//! A threaded process must not fork: the copy would hold locks that nobody frees. So there are two
//! ways: [`spawn_self`] runs the own binary again and works anywhere; [`clone_child`] copies the
//! calling process into new namespaces and insists on there being one thread only.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::mount::{self, Attr, AttrFlags};
use crate::ns;

/// Where a process started by [`spawn_self`] finds what was given to it.
pub const INHERITED_FD: RawFd = 3;

/// A process that was started here; not waited for when dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
}

/// Runs this program's own binary again as `argv0`, with an empty environment, `given` as
/// descriptor 3, standard error kept, a session of its own and default signals.
///
/// The binary is run through a read-only view of itself: a step that is tricked into running
/// `/proc/self/exe` gets hold of this binary, and must not be able to write to it.
///
/// # Errors
/// The error of the call that failed.
pub fn spawn_self(argv0: &CStr, given: impl AsFd) -> io::Result<Child> {
    let exe = own_binary()?;
    let attr = Attr { set: AttrFlags::RDONLY, ..Attr::default() };
    mount::set_attr(&exe, false, attr).map_err(|e| e.source)?;
    let path = CString::new(format!("/proc/self/fd/{}", exe.as_raw_fd()))?;
    // Above 3, or giving it the number 3 would leave it closed on exec.
    let given = rustix::io::fcntl_dupfd_cloexec(given.as_fd(), INHERITED_FD + 1)?;

    let check = |code: libc::c_int| match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    };
    let argv = [argv0.as_ptr().cast_mut(), std::ptr::null_mut()];
    let envp = [std::ptr::null_mut()];
    let mut pid: libc::pid_t = 0;
    let mut actions = std::mem::MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    let mut attr = std::mem::MaybeUninit::<libc::posix_spawnattr_t>::uninit();
    // SAFETY: both structures are initialised by their init functions before any other use and
    // destroyed once; `path`, `argv`, `envp` and the literal are NUL-terminated (lists
    // NULL-terminated) and outlive the calls; the signal sets are initialised before use.
    let spawned = unsafe {
        check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
        check(libc::posix_spawnattr_init(attr.as_mut_ptr()))?;
        let (actions, attr) = (actions.as_mut_ptr(), attr.as_mut_ptr());
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let flags = libc::POSIX_SPAWN_SETSIGDEF
            | libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSID as libc::c_int;
        let null = c"/dev/null".as_ptr();
        let spawned =
            check(libc::posix_spawn_file_actions_addopen(actions, 0, null, libc::O_RDONLY, 0))
                .and_then(|()| {
                    check(libc::posix_spawn_file_actions_addopen(
                        actions,
                        1,
                        null,
                        libc::O_WRONLY,
                        0,
                    ))
                })
                .and_then(|()| {
                    let fd = given.as_raw_fd();
                    check(libc::posix_spawn_file_actions_adddup2(actions, fd, INHERITED_FD))
                })
                .and_then(|()| {
                    libc::sigemptyset(set.as_mut_ptr());
                    check(libc::posix_spawnattr_setsigmask(attr, set.as_ptr()))
                })
                .and_then(|()| {
                    libc::sigfillset(set.as_mut_ptr());
                    check(libc::posix_spawnattr_setsigdefault(attr, set.as_ptr()))
                })
                .and_then(|()| check(libc::posix_spawnattr_setflags(attr, flags as libc::c_short)))
                .and_then(|()| {
                    check(libc::posix_spawn(
                        &raw mut pid,
                        path.as_ptr(),
                        actions,
                        attr,
                        argv.as_ptr(),
                        envp.as_ptr(),
                    ))
                });
        libc::posix_spawn_file_actions_destroy(actions);
        libc::posix_spawnattr_destroy(attr);
        spawned
    };
    spawned?;
    Pid::from_raw(pid).map(|pid| Child { pid }).ok_or_else(|| io::Error::other("no process id"))
}

/// Where this program's binary is, as it was called before this process left its first mount
/// namespace. The link in `/proc` goes on standing in that one.
static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Takes down where the binary is. To be called before a mount namespace is left for another.
///
/// # Errors
/// That of reading the link.
pub fn remember_binary() -> io::Result<()> {
    let path = std::fs::read_link(EXE)?;
    BINARY.get_or_init(|| path);
    Ok(())
}

const EXE: &str = "/proc/self/exe";

/// A mount of this program's own binary.
fn own_binary() -> io::Result<OwnedFd> {
    let Some(path) = BINARY.get() else {
        return mount::clone_path(Path::new(EXE), false).map_err(|e| e.source);
    };
    let here = mount::clone_path(path, false).map_err(|e| e.source)?;
    let (found, own) = (rustix::fs::fstat(&here)?, rustix::fs::stat(EXE)?);
    if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino) {
        Ok(here)
    } else {
        Err(io::Error::other("the file of this program has been replaced"))
    }
}

impl Child {
    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// The error of `waitid(2)`.
    pub fn wait(&self) -> io::Result<Ended> {
        wait_on(WaitId::Pid(self.pid))
    }
}

/// What was given to this process has an owner.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over what [`spawn_self`] gave to this process, before anything else is opened; `None` when
/// descriptor 3 is not a socket, or the second time.
pub fn take_inherited() -> Option<OwnedFd> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return None;
    }
    // SAFETY: `borrow_raw` needs an open descriptor for the length of the borrow; for a closed
    // one the only use below is a system call that then says so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(INHERITED_FD) };
    if !crate::channel::is_socket(borrowed) {
        return None;
    }
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).ok()?;
    // SAFETY: the descriptor is open (just asked), and by this function's contract nobody else in
    // this process, which has just begun, owns it.
    Some(unsafe { OwnedFd::from_raw_fd(INHERITED_FD) })
}

/// As [`take_inherited`], and closes every other descriptor above the standard streams: whoever called
/// this program may have left some open, and would wait for their end. `None` also when that fails.
pub fn take_inherited_alone() -> Option<OwnedFd> {
    let given = take_inherited()?;
    // SAFETY: what was given is owned by `given`, which is kept; this happens once, before anything else
    // is opened, so no other descriptor has an owner.
    unsafe { keep_only(vec![given]) }.ok()?.pop()
}

/// Closes every descriptor above the standard streams but these.
///
/// # Safety
/// No other descriptor is used or dropped in this process from now on, whoever owns it.
///
/// # Errors
/// The error of `close_range(2)`.
pub(crate) unsafe fn keep_only(mut kept: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let mut numbers: Vec<libc::c_uint> =
        kept.iter().filter_map(|fd| libc::c_uint::try_from(fd.as_raw_fd()).ok()).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers.into_iter().chain([libc::c_uint::MAX]) {
        if number > first {
            // SAFETY: what is closed is, by this function's contract, neither used nor dropped any more.
            let done = unsafe { libc::syscall(libc::SYS_close_range, first, number - 1, 0u32) };
            if done != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = first.max(number.saturating_add(1));
    }
    kept.shrink_to_fit();
    Ok(kept)
}

/// The namespaces of a child.
#[derive(Debug, Clone, Copy, Default)]
pub struct Namespaces {
    /// A network of its own.
    pub network: bool,
    /// It sees the control groups that it will be in, not the caller's: it has to make its own
    /// namespace for that, once it is there.
    pub later_cgroup: bool,
}

/// Copies this process into new mount, process, IPC, UTS and cgroup namespaces; the copy runs
/// `body` and leaves with its result as exit code.
///
/// # Errors
/// `Other` when this process has several threads; otherwise the error of `clone3(2)`.
pub fn clone_child(namespaces: Namespaces, body: impl FnOnce() -> i32) -> io::Result<PidFd> {
    let mut flags =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if !namespaces.later_cgroup {
        flags |= libc::CLONE_NEWCGROUP;
    }
    if namespaces.network {
        flags |= libc::CLONE_NEWNET;
    }
    clone_with(flags, body)
}

/// As [`clone_child`], but the copy stays in this process's namespaces.
///
/// # Errors
/// As [`clone_child`].
pub fn copy_self(body: impl FnOnce() -> i32) -> io::Result<PidFd> {
    clone_with(0, body)
}

/// Moves this process into another's namespaces ([`ns::join`]) and copies it there: the copy is in the
/// other's process namespace, and a child of this process's parent.
///
/// # Errors
/// As [`ns::join`] and [`clone_child`].
pub fn copy_into(process: &PidFd, network: bool, body: impl FnOnce() -> i32) -> io::Result<PidFd> {
    // That there is one thread is seen there; afterwards `/proc` does not show this process.
    ns::join(process, network)?;
    clone_alone(libc::CLONE_PARENT, body)
}

/// As [`copy_self`], but the copy has no files beside its standard streams and `files`, and keeps
/// nothing of what this process was doing: `body` must bring no other file with it.
///
/// # Errors
/// As [`copy_self`].
pub fn copy_with_only<const N: usize>(
    files: [OwnedFd; N],
    body: impl FnOnce([OwnedFd; N]) -> i32 + 'static,
) -> io::Result<PidFd> {
    copy_with_files(files.into(), |files| files.try_into().map_or(1, body))
}

/// As [`copy_with_only`], for any number of files.
///
/// # Errors
/// As [`copy_self`].
pub fn copy_with_files(
    files: Vec<OwnedFd>,
    body: impl FnOnce(Vec<OwnedFd>) -> i32 + 'static,
) -> io::Result<PidFd> {
    copy_self(move || {
        // SAFETY: the copy runs `body` and ends without dropping anything of the process that was
        // copied; `body` borrows nothing of that, and by this function's contract owns no file.
        let kept = unsafe { keep_only(files) };
        kept.map_or(1, body)
    })
}

fn clone_with(flags: libc::c_int, body: impl FnOnce() -> i32) -> io::Result<PidFd> {
    ns::single_threaded()?;
    clone_alone(flags, body)
}

/// To be called only where there is one thread.
fn clone_alone(flags: libc::c_int, body: impl FnOnce() -> i32) -> io::Result<PidFd> {
    let mut pidfd: RawFd = -1;
    // SAFETY: `clone_args` is plain data, for which all zeroes is a value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (flags | libc::CLONE_PIDFD) as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    // A sibling tells its end as this process does.
    if flags & libc::CLONE_PARENT == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    // SAFETY: without CLONE_VM and without a stack this is a fork: the child gets its own copy of
    // the memory and goes on at the same place. There is no second thread (the callers look), so no
    // lock can be held by somebody who is not there in the copy. `args` has the size passed and
    // `pidfd` lives until the call returns.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // A panic must not unwind into the parent's stack frames, which the copy has too.
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(125);
            exit_now(code)
        }
        // SAFETY: the kernel stored a new descriptor there that nobody else knows.
        _ => Ok(PidFd(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Ends this process at once: nothing is flushed, no exit handler runs.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` may be called at any time.
    unsafe { libc::_exit(code) }
}

/// When a process began, in the kernel's ticks since the machine did; `None`: there is no such process,
/// or it has ended and waits to be waited for. Numbers are used again, number and time together are not.
pub fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; the last parenthesis ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With an exit code.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
}

/// A process by descriptor: the number may be used again, this may not.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// One that was received from another process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Kills it; one that has ended already is no error.
    ///
    /// # Errors
    /// The error of `pidfd_send_signal(2)`.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Asks it to end; one that has ended already is no error.
    ///
    /// # Errors
    /// The error of `pidfd_send_signal(2)`.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends it a signal by number; one that has ended already is no error.
    ///
    /// # Errors
    /// `InvalidInput` for a number that no signal has, or the error of `pidfd_send_signal(2)`.
    pub fn send(&self, signal: i32) -> io::Result<()> {
        if !(1..=64).contains(&signal) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no such signal"));
        }
        // SAFETY: the descriptor is open for the length of the call, and without further information
        // (the null pointer) the kernel reads nothing of this process. Not through rustix, which takes
        // no real-time signals.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0u32,
            )
        };
        match (sent, io::Error::last_os_error()) {
            (0, _) => Ok(()),
            (_, e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            (_, e) => Err(e),
        }
    }

    /// A process by its number, for as long as this is kept.
    ///
    /// # Errors
    /// The error of `pidfd_open(2)`: `ESRCH` when there is none.
    pub fn open(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?))
    }

    /// Its number in `/proc`; `None` when it has been waited for.
    pub fn number(&self) -> Option<i32> {
        let info = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let info = std::fs::read_to_string(info).ok()?;
        let number = info.lines().find_map(|l| l.strip_prefix("Pid:"))?.trim().parse().ok()?;
        (number > 0).then_some(number)
    }

    /// Another handle of the same process.
    ///
    /// # Errors
    /// That of duplicating a descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for its end; only the process that made it may.
    ///
    /// # Errors
    /// The error of `waitid(2)`.
    pub fn wait(&self) -> io::Result<Ended> {
        wait_on(WaitId::PidFd(self.0.as_fd()))
    }

    /// True when the process has a handler for SIGTERM. A process 1 without one never sees the
    /// signal: the kernel drops it. Not known counts as no.
    pub fn handles_terminate(&self) -> bool {
        let field = |text: &str, name: &str| {
            text.lines().find_map(|l| l.strip_prefix(name).map(|v| v.trim().to_owned()))
        };
        let info = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let Ok(info) = std::fs::read_to_string(info) else { return false };
        let Some(pid) = field(&info, "Pid:").and_then(|p| p.parse::<u32>().ok()) else {
            return false;
        };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            return false;
        };
        let caught = field(&status, "SigCgt:").and_then(|m| u64::from_str_radix(&m, 16).ok());
        caught.is_some_and(|mask| mask & (1 << (libc::SIGTERM - 1)) != 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn wait_on(id: WaitId<'_>) -> io::Result<Ended> {
    loop {
        let status = match rustix::process::waitid(id.clone(), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => continue,
            status => status?,
        };
        let Some(status) = status else { continue };
        if let Some(code) = status.exit_status() {
            return Ok(Ended::Exited(code));
        }
        if let Some(signal) = status.terminating_signal() {
            return Ok(Ended::Signalled(signal));
        }
    }
}

/// Gives all signals their default meaning and lets them all through: what is executed next
/// inherits both, and the Rust runtime ignores SIGPIPE.
///
/// # Errors
/// The error of `sigprocmask(2)`.
pub fn default_signals() -> io::Result<()> {
    // The kernel's `sigaction`, four words: no handler, no flags, no restorer, an empty mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads `default`, which has the structure's size, and writes nothing.
        // The default action is no function, so nothing of this process can be called by it. Not
        // through libc, which hides its own two signals: `posix_spawn` left them ignored. Signals
        // that cannot be changed make the call fail, which is what is wanted.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal as libc::c_int,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before `sigprocmask` reads it; the old mask is
    // not asked for.
    let done = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `fd` this process's descriptor 0, 1 or 2.
///
/// # Errors
/// The error of `dup2(2)`.
pub fn set_stdio(number: u8, fd: impl AsFd) -> io::Result<()> {
    match number {
        0 => rustix::stdio::dup2_stdin(fd)?,
        1 => rustix::stdio::dup2_stdout(fd)?,
        _ => rustix::stdio::dup2_stderr(fd)?,
    }
    Ok(())
}

/// Every descriptor from 3 on is closed on exec, whoever opened it.
///
/// # Errors
/// The error of `close_range(2)`.
pub fn seal_fds() -> io::Result<()> {
    // SAFETY: nothing is closed here; a flag is set, and only an exec acts on it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3 as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Replaces this process by a program. Returns only when that fails.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    match nix::unistd::execve(path, args, env) {
        Ok(never) => match never {},
        Err(e) => io::Error::from_raw_os_error(e as i32),
    }
}

/// Makes `fd` a second standard input instead of what it was, in a copied process that must not
/// keep the latter open. (Closing it is no choice: its owner would still be there.)
///
/// # Errors
/// The error of `dup2(2)`.
pub fn disarm(fd: &mut OwnedFd) -> io::Result<()> {
    Ok(rustix::io::dup2(std::io::stdin(), fd)?)
}
