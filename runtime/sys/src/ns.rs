//! What a process changes about itself on its way into a sandbox: namespaces, identity, limits.
//!
//! All of it concerns the calling process (a few things only the calling thread), so it belongs
//! into single-threaded processes: the runner and its children.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::Signal;
use rustix::thread::{Gid, Uid, UnshareFlags};

use crate::caps::{self, CapSet};

/// Gives this process a mount namespace of its own.
///
/// # Errors
/// The error of `unshare(2)`.
pub fn unshare_mounts() -> io::Result<()> {
    single_threaded()?;
    // SAFETY: only the mount namespace is unshared; what makes `unshare` unsafe is CLONE_FILES,
    // which would give threads different descriptor tables, and there is only one thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Makes this process see the control groups that it is in now as the root of all.
///
/// # Errors
/// The error of `unshare(2)`.
pub fn unshare_cgroups() -> io::Result<()> {
    single_threaded()?;
    // SAFETY: only the cgroup namespace is unshared; what makes `unshare` unsafe is CLONE_FILES,
    // which would give threads different descriptor tables, and there is only one thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }?)
}

/// Moves this process into the mount, IPC, UTS and control group namespaces of another, and its network's
/// when `network`. Its next children are born into the other's process namespace. Root and working folder
/// are the other's root then.
///
/// # Errors
/// `Other` with several threads; that of `setns(2)`; nothing has changed then.
pub fn join(process: &crate::spawn::PidFd, network: bool) -> io::Result<()> {
    use rustix::thread::ThreadNameSpaceType as N;
    single_threaded()?;
    let mut which = N::MOUNT
        | N::INTER_PROCESS_COMMUNICATION
        | N::HOST_NAME_AND_NIS_DOMAIN_NAME
        | N::CONTROL_GROUP
        | N::PROCESS_ID;
    if network {
        which |= N::NETWORK;
    }
    Ok(rustix::thread::move_into_thread_name_spaces(process.as_fd(), which)?)
}

/// Nobody of the same rights may look into this process until it executes a program.
///
/// # Errors
/// The error of `prctl(2)`.
pub fn hide() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Refuses when this process has more than one thread.
///
/// # Errors
/// `Other` with that reason, or the error of looking.
pub fn single_threaded() -> io::Result<()> {
    // One link per thread besides `.` and `..`.
    let stat = rustix::fs::stat(c"/proc/self/task")?;
    if stat.st_nlink == 3 {
        Ok(())
    } else {
        Err(io::Error::other("the process has more than one thread"))
    }
}

/// Kills this process when the thread that made it dies. Changing the user id undoes it.
///
/// # Errors
/// The error of `prctl(2)`.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Starts a session without terminal.
///
/// # Errors
/// The error of `setsid(2)`.
pub fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Switches the loopback interface of this network namespace on.
///
/// # Errors
/// The error of `socket(2)` or `ioctl(2)`.
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives until the call returns.
    let done = unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Names the host of this UTS namespace.
///
/// # Errors
/// The error of `sethostname(2)`.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// Becomes another user, for good: real, effective and saved ids.
///
/// # Errors
/// The error of the call that failed; nothing is undone.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // -1 means "leave as it is" to the kernel: that would keep root.
    if uid == u32::MAX || gid == u32::MAX || groups.contains(&u32::MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "id 4294967295 is reserved"));
    }
    let groups: Vec<Gid> = groups.iter().map(|&g| Gid::from_raw(g)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // The groups first: without the user's rights they could not be set any more.
    match rustix::thread::set_thread_groups(&groups) {
        // In a user namespace of one id nobody may set groups; those of the user stay, as nobody's.
        Err(rustix::io::Errno::PERM) if groups_are_denied() => {}
        set => set?,
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Deals with files as another user from now on, until it is done as somebody else: the ids that count for
/// them alone, further groups, and `caps`, as far as they are held. The process's own ids stay. It can be
/// undone with [`files_as_root`]. [`die_with_parent`] is undone by it.
///
/// # Errors
/// The error of the call that failed. What was changed until then stays, so `files_as_root` must follow.
pub fn files_as(uid: u32, gid: u32, groups: &[u32], caps: CapSet) -> io::Result<()> {
    if groups.contains(&u32::MAX) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "id 4294967295 is reserved"));
    }
    let groups: Vec<Gid> = groups.iter().map(|&g| Gid::from_raw(g)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        Err(rustix::io::Errno::PERM) if groups_are_denied() => {}
        set => set?,
    }
    file_id(libc::SYS_setfsgid, gid)?;
    file_id(libc::SYS_setfsuid, uid)?;
    caps::use_only(caps)
}

/// Undoes [`files_as`] in a process whose own user is root.
///
/// # Errors
/// The error of the call that failed; nothing more may be done for anybody then.
pub fn files_as_root() -> io::Result<()> {
    caps::use_all()?;
    files_as(0, 0, &[], CapSet::from_bits(u64::MAX))
}

/// Sets an id that counts for files alone. The kernel gives the one before, whether it was set or not.
fn file_id(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: both calls take a number and touch no memory of this process. The second changes nothing: -1 is
    // no id.
    let now = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX)
    };
    if now as u32 == id && id != u32::MAX {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

fn groups_are_denied() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

/// Sets the file mode mask.
pub fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// A limit by its Docker name (`nofile`, `nproc`, ...); `None`: no such limit.
pub fn limit_by_name(name: &str) -> Option<Limit> {
    use rustix::process::Resource as R;
    Some(Limit(match name {
        "as" => R::As,
        "core" => R::Core,
        "cpu" => R::Cpu,
        "data" => R::Data,
        "fsize" => R::Fsize,
        "locks" => R::Locks,
        "memlock" => R::Memlock,
        "msgqueue" => R::Msgqueue,
        "nice" => R::Nice,
        "nofile" => R::Nofile,
        "nproc" => R::Nproc,
        "rss" => R::Rss,
        "rtprio" => R::Rtprio,
        "rttime" => R::Rttime,
        "sigpending" => R::Sigpending,
        "stack" => R::Stack,
        _ => return None,
    }))
}

/// Which limit of a process.
#[derive(Debug, Clone, Copy)]
pub struct Limit(rustix::process::Resource);

/// Sets a limit of this process; -1 is unlimited. Without the right to raise the hard limit the
/// nearest allowed values are taken.
///
/// # Errors
/// The error of `setrlimit(2)`.
pub fn set_limit(limit: Limit, soft: i64, hard: i64) -> io::Result<()> {
    use rustix::process::{Rlimit, getrlimit, setrlimit};
    let value = |v: i64| u64::try_from(v).ok();
    let want = Rlimit { current: value(soft), maximum: value(hard) };
    match setrlimit(limit.0, want) {
        Err(rustix::io::Errno::PERM) => {
            // `None` is unlimited, so it is the larger one.
            let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, None) | (None, one) => one,
            };
            let most = getrlimit(limit.0).maximum;
            let maximum = least(want.maximum, most);
            Ok(setrlimit(limit.0, Rlimit { current: least(want.current, maximum), maximum })?)
        }
        other => Ok(other?),
    }
}

/// Makes `fd` the working directory.
///
/// # Errors
/// The error of `fchdir(2)`.
pub fn change_dir(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::fchdir(fd)?)
}

/// The path of the working directory as the kernel sees it; one outside the root is `Other`.
///
/// # Errors
/// The error of `getcwd(2)`.
pub fn current_dir() -> io::Result<Vec<u8>> {
    let path = rustix::process::getcwd(Vec::new())?.into_bytes();
    if path.first() == Some(&b'/') {
        Ok(path)
    } else {
        Err(io::Error::other("the working directory is outside the root"))
    }
}

/// From now on no program that is executed gives more rights than there are.
///
/// # Errors
/// The error of `prctl(2)`.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}
