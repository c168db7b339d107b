//! The kernel's own file systems in a step: `/proc`, `/sys`, `/dev`, and what is hidden of them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rgraph_sys::mount::{self, Attr, AttrFlags, MountError};
use rgraph_sys::tree::{self, As, Kind};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::InitError;
use super::mounts::INERT;
use super::rootfs::Root;
use super::spec::{Network, SandboxSpec, Security};

/// Files of `/proc` and `/sys` that say too much about the host, or let it be changed.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where other file systems are mounted in a host's `/sys`; in one of its own there is nothing.
const WITHIN_SYS: [&str; 7] = [
    "/sys/fs/bpf",
    "/sys/fs/cgroup",
    "/sys/fs/fuse/connections",
    "/sys/fs/pstore",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
];

/// Mounts `/proc`, `/sys` and `/dev`, and reserves them. `empty` is a folder of a parked file system that nobody
/// writes to.
pub(super) fn mount_all(
    spec: &SandboxSpec,
    root: &mut Root,
    empty: &OwnedFd,
) -> Result<(), InitError> {
    let proc = mount::filesystem("proc", &[], INERT).map_err(InitError::at("mount proc"))?;
    let proc = at_root(root, "proc", proc)?;
    if let Some(most) = spec.processes {
        limit_processes(&proc, most).map_err(InitError::at("limit processes"))?;
    }
    let sys_attr = match spec.security {
        Security::Sandbox => INERT.with(AttrFlags::RDONLY),
        Security::Insecure => INERT,
    };
    let (sys, is_hosts) = sysfs(spec, sys_attr).map_err(InitError::at("mount sysfs"))?;
    at_root(root, "sys", sys)?;
    if is_hosts {
        for path in WITHIN_SYS {
            cover(root, path, empty).map_err(InitError::at(format!("cover `{path}`")))?;
        }
    }
    let dev = at_root(root, "dev", dev().map_err(InitError::at("mount /dev"))?)?;
    fill_dev(root, &dev, spec.security)?;
    for (name, tree) in below_dev(spec).map_err(InitError::at("mount below /dev"))? {
        let target = tree::make_dir(&dev, OsStr::new(name), 0o755)
            .map_err(InitError::at(format!("make `/dev/{name}`")))?;
        mount::attach(&tree, &target, name).map_err(InitError::at("mount"))?;
        if name != "shm" {
            root.reserve(&tree).map_err(InitError::at(format!("look at `/dev/{name}`")))?;
        }
    }
    Ok(())
}

/// The first kernel in which a process namespace has a highest number of its own (pid_namespaces(7)).
const OWN_PID_MAX: (u32, u32) = (6, 14);
/// What a new namespace has there: no limit. In an older kernel the file is the machine's.
const NO_PID_MAX: &[u8] = b"4194304";

/// Gives the process namespace of this process so few numbers that it can have no more processes.
fn limit_processes(proc: &OwnedFd, most: u32) -> io::Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    if version(&release).is_none_or(|v| v < OWN_PID_MAX) {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(proc, "sys/kernel/pid_max", flags, Mode::empty()) {
        // Not everybody who can make namespaces may.
        Err(Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::ROFS) => return Ok(()),
        file => file?,
    };
    let mut now = [0; 32];
    let n = rustix::io::pread(&file, &mut now, 0)?;
    if now[..n].trim_ascii() == NO_PID_MAX {
        // The number itself is no process's.
        rustix::io::pwrite(&file, most.saturating_add(1).to_string().as_bytes(), 0)?;
    }
    Ok(())
}

/// The first two numbers of a kernel's version.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Mounts a tree at a folder of the root, and reserves it.
fn at_root(root: &mut Root, name: &'static str, tree: OwnedFd) -> Result<OwnedFd, InitError> {
    let target =
        root.place_plain(name).map_err(InitError::at(format!("make mount point `/{name}`")))?;
    mount::attach(&tree, &target, name).map_err(InitError::at("mount"))?;
    root.reserve(&tree).map_err(InitError::at(format!("look at `/{name}`")))?;
    Ok(tree)
}

/// A `/sys`; true: it is the host's, with all that is mounted there.
fn sysfs(spec: &SandboxSpec, attrs: AttrFlags) -> Result<(OwnedFd, bool), MountError> {
    match mount::filesystem("sysfs", &[], attrs) {
        // The network namespace belongs to somebody with more rights; what we see may be shown.
        Err(e)
            if spec.network == Network::Host
                && e.source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let tree = mount::clone_path(Path::new("/sys"), true)?;
            mount::set_attr(&tree, true, Attr { set: attrs, private: true, ..Attr::default() })?;
            Ok((tree, true))
        }
        mounted => Ok((mounted?, false)),
    }
}

/// An empty `/dev`.
fn dev() -> Result<OwnedFd, MountError> {
    let options = [("mode", Some("755")), ("size", Some("65536k"))];
    mount::filesystem("tmpfs", &options, AttrFlags::NOSUID.with(AttrFlags::STRICTATIME))
}

/// File systems below `/dev`.
fn below_dev(spec: &SandboxSpec) -> Result<Vec<(&'static str, OwnedFd)>, MountError> {
    let mut out = Vec::new();
    let pts = [("ptmxmode", Some("0666")), ("mode", Some("0620"))];
    let attrs = AttrFlags::NOSUID.with(AttrFlags::NOEXEC);
    let with_tty = [pts[0], pts[1], ("gid", Some("5"))];
    // Group 5 may not exist in a user namespace.
    let tree = mount::filesystem("devpts", &with_tty, attrs)
        .or_else(|_| mount::filesystem("devpts", &pts, attrs))?;
    out.push(("pts", tree));
    let size = match spec.shm_size {
        0 => SandboxSpec::SHM_SIZE.to_string(),
        n => n.to_string(),
    };
    let shm = [("mode", Some("1777")), ("size", Some(size.as_str()))];
    out.push(("shm", mount::filesystem("tmpfs", &shm, INERT)?));
    match mount::filesystem("mqueue", &[], INERT) {
        Ok(tree) => out.push(("mqueue", tree)),
        // A kernel without message queues: nothing to show.
        Err(e) if e.source.raw_os_error() == Some(NODEV) => {}
        Err(e) => return Err(e),
    }
    Ok(out)
}

/// `ENODEV`: no such file system.
const NODEV: i32 = 19;

/// Makes the nodes and links of `/dev`.
///
/// A step may make more nodes, and must not be able to open them; so `/dev` as a whole has no
/// working nodes, and each of these is a mount of itself from before that was so.
fn fill_dev(root: &mut Root, dev: &OwnedFd, security: Security) -> Result<(), InitError> {
    const NODES: [(&str, u32, u32); 6] = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    const LINKS: [(&str, &str); 6] = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, major, minor) in NODES {
        match tree::make_device(dev, name, false, (major, minor), 0o666, (0, 0)) {
            Ok(()) if security == Security::Sandbox => show_node(root, dev, dev, name)?,
            Ok(()) => {}
            // In a user namespace nodes cannot be made, but the host's can be shown.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let step = || format!("bind `/dev/{name}`");
                let host = mount::open_dir(Path::new("/dev")).map_err(InitError::at(step()))?;
                tree::make_file(dev, OsStr::new(name), 0o666).map_err(InitError::at(step()))?;
                show_node(root, dev, &host, name)?;
            }
            Err(e) => return Err(InitError::at(format!("make `/dev/{name}`"))(e)),
        }
    }
    for (name, target) in LINKS {
        tree::make_link(dev, name, target).map_err(InitError::at(format!("make `/dev/{name}`")))?;
    }
    if security == Security::Sandbox {
        let attr = Attr { set: AttrFlags::NODEV, ..Attr::default() };
        mount::set_attr(dev, false, attr).map_err(InitError::at("close /dev"))?;
    }
    Ok(())
}

/// Mounts the node `name` of `from` on the entry of the same name in `dev`.
fn show_node(root: &mut Root, dev: &OwnedFd, from: &OwnedFd, name: &str) -> Result<(), InitError> {
    let step = || format!("bind `/dev/{name}`");
    let target = tree::entry(dev, OsStr::new(name), As::Handle).map_err(InitError::at(step()))?;
    let source = tree::entry(from, OsStr::new(name), As::Handle).map_err(InitError::at(step()))?;
    let tree = mount::clone_fd(&source, false).map_err(InitError::at(step()))?;
    mount::attach(&tree, &target, name).map_err(InitError::at(step()))?;
    root.reserve(&tree).map_err(InitError::at(step()))
}

/// Covers what a step must not see and makes read-only what it must not change. `empty` as in [`mount_all`].
pub(super) fn hide(root: &Root, empty: &OwnedFd) -> Result<(), HideError> {
    let null = tree::find(root.fd(), Path::new("/dev/null"), As::Handle)?;
    let throttles = match tree::find(root.fd(), Path::new("/sys/devices/system/cpu"), As::Directory)
    {
        Ok(dir) => tree::names(dir)?
            .into_iter()
            .filter_map(|n| n.into_string().ok())
            .filter(|n| n.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()))
            .map(|n| format!("/sys/devices/system/cpu/{n}/thermal_throttle"))
            .collect(),
        Err(_) => Vec::new(),
    };
    for path in MASKED.into_iter().chain(throttles.iter().map(String::as_str)) {
        let Some(target) = existing(root, path)? else { continue };
        if tree::stat(&target)?.kind == Kind::Directory {
            cover(root, path, empty)?;
        } else {
            mount::attach(&mount::clone_fd(&null, false)?, &target, path)?;
        }
    }
    for path in READ_ONLY {
        let Some(target) = existing(root, path)? else { continue };
        let tree = mount::clone_fd(target.as_fd(), true)?;
        mount::set_attr(&tree, true, Attr { set: SHUT, ..Attr::default() })?;
        mount::attach(&tree, &target, path)?;
    }
    Ok(())
}

/// What may be looked at, and nothing else.
const SHUT: AttrFlags = INERT.with(AttrFlags::RDONLY);

/// Puts an empty folder over one that is there: always the same, as a file system for each would cost more than all
/// else that is hidden.
fn cover(root: &Root, path: &str, empty: &OwnedFd) -> Result<(), HideError> {
    let Some(target) = existing(root, path)? else { return Ok(()) };
    let tree = mount::clone_fd(empty, false)?;
    mount::set_attr(&tree, false, Attr { set: SHUT, ..Attr::default() })?;
    Ok(mount::attach(&tree, &target, path)?)
}

fn existing(root: &Root, path: &str) -> io::Result<Option<OwnedFd>> {
    match tree::find(root.fd(), Path::new(path), As::Handle) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// What stood in the way of [`hide`].
#[derive(Debug, thiserror::Error)]
pub(super) enum HideError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Mount(#[from] MountError),
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_of_kernels() {
        for (release, want) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("6.1.0-37-amd64", Some((6, 1))),
            ("5.15.0", Some((5, 15))),
            ("7.0", Some((7, 0))),
            ("7", None),
            ("next", None),
        ] {
            assert_eq!(version(release), want, "{release}");
        }
    }
}
