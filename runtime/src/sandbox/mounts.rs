//! Everything that is mounted on the step's root, in the child, before it becomes the root.
//!
//! First all sources are made and *parked*: put on top of the host's root, which nobody looks at
//! any more and which goes away as a whole. Before Linux 6.15 a part of a mount can be bound only
//! when it is somewhere in the own namespace. Then the kernel's file systems, the step's mounts,
//! the two name files, and at last what hides.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rgraph_sys::mount::{self, Attr, AttrFlags, MountError, OverlaySpec};
use rgraph_sys::tree::{self, As, Kind};

use super::error::InitError;
use super::network;
use super::rootfs::{PlaceError, Root};
use super::spec::{MountSource, Network, SandboxMount, SandboxMountKind, SandboxSpec, Security};

const INERT: AttrFlags = AttrFlags::NOSUID.with(AttrFlags::NODEV).with(AttrFlags::NOEXEC);

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

/// Largest file handed over for a mount, bytes: room for a secret of the largest allowed size.
const MAX_FILE: u64 = 1 << 20;
/// Largest `/etc/resolv.conf` of the host that is read, bytes.
const MAX_RESOLV: u64 = 64 << 10;

/// A mount ready to be put on its target.
struct Ready<'a> {
    dest: &'a str,
    tree: OwnedFd,
    kind: Kind,
    /// A target that cannot be made is no error: the tree around it is read-only.
    optional: bool,
}

/// Mounts it all; afterwards `root` is attached and complete.
pub(super) fn mount_all(
    spec: &SandboxSpec,
    root: &mut Root,
    fds: &mut [Option<OwnedFd>],
) -> Result<(), InitError> {
    let parking = mount::open_dir(Path::new("/")).map_err(InitError::at("open the host's root"))?;
    let park = |tree: &OwnedFd| mount::attach(tree, &parking, "source");

    let mut order: Vec<&SandboxMount> = spec.mounts.iter().collect();
    // Parents first, or they would hide what is mounted in them.
    order.sort_by(|a, b| a.dest.cmp(&b.dest));
    let files = memory_files(&park)?;
    let mut ready = Vec::new();
    for (at, m) in order.into_iter().enumerate() {
        if is_reserved(&m.dest, &m.kind) {
            return Err(InitError::ReservedTarget { dest: m.dest.clone() });
        }
        ready.push(prepare(m, at, &files, &park, fds)?);
    }
    ready.extend(name_files(spec, &files)?);

    mount::attach(root.fd(), &parking, "root").map_err(InitError::at("attach the root"))?;
    kernel_file_systems(spec, root)?;
    for m in ready {
        put(root, m)?;
    }
    if spec.security == Security::Sandbox {
        hide(root).map_err(InitError::at("hide parts of /proc and /sys"))?;
    }
    Ok(())
}

/// A file system in memory for files that are bound one by one.
fn memory_files(park: &dyn Fn(&OwnedFd) -> Result<(), MountError>) -> Result<OwnedFd, InitError> {
    let make =
        |options: &[(&'static str, Option<&str>)]| mount::filesystem("tmpfs", options, INERT);
    let plain = [("mode", Some("0755")), ("size", Some("16m"))];
    // Secrets must not reach a swap device; kernels before 6.4 cannot promise it.
    let files = make(&[plain[0], plain[1], ("noswap", None)])
        .or_else(|_| make(&plain))
        .map_err(InitError::at("make memory for files"))?;
    park(&files).map_err(InitError::at("park memory for files"))?;
    Ok(files)
}

fn memory_file(
    files: &OwnedFd,
    name: &str,
    bytes: &[u8],
    mode: u32,
    owner: (u32, u32),
) -> Result<OwnedFd, InitError> {
    let name = OsStr::new(name);
    let write = || -> io::Result<OwnedFd> {
        let mut file = tree::make_file(files, name, mode)?;
        file.write_all(bytes)?;
        tree::set_owner(&file, owner.0, owner.1)?;
        tree::entry(files, name, As::Handle)
    };
    let handle = write().map_err(InitError::at("write a file in memory"))?;
    let bind = || -> Result<OwnedFd, MountError> {
        let tree = mount::clone_fd(&handle, false)?;
        let set = INERT.with(AttrFlags::RDONLY);
        mount::set_attr(&tree, false, Attr { set, ..Attr::default() })?;
        Ok(tree)
    };
    bind().map_err(InitError::at("bind a file in memory"))
}

/// By its text alone. What links lead to is looked at when the target has been opened.
fn is_reserved(dest: &str, kind: &SandboxMountKind) -> bool {
    let mut clean: Vec<&str> = Vec::new();
    for part in dest.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    match clean.as_slice() {
        [] => true,
        ["dev", "shm"] => !matches!(kind, SandboxMountKind::Tmpfs { .. }),
        [first, ..] => matches!(*first, "proc" | "sys" | "dev"),
    }
}

fn prepare<'a>(
    m: &'a SandboxMount,
    at: usize,
    files: &OwnedFd,
    park: &dyn Fn(&OwnedFd) -> Result<(), MountError>,
    fds: &mut [Option<OwnedFd>],
) -> Result<Ready<'a>, InitError> {
    let step = |what: &str| format!("{what} for `{}`", m.dest);
    let (tree, kind) = match &m.kind {
        SandboxMountKind::Tmpfs { size } => {
            let size = size.to_string();
            let options: &[_] = if size == "0" { &[] } else { &[("size", Some(size.as_str()))] };
            let tree = mount::filesystem("tmpfs", options, INERT)
                .map_err(InitError::at(step("make memory")))?;
            (tree, Kind::Directory)
        }
        SandboxMountKind::File { data, mode, uid, gid } => {
            let fd =
                fds.get_mut(*data).and_then(Option::take).ok_or_else(|| missing_fd(&m.dest))?;
            let bytes = rgraph_sys::channel::unpack(fd, MAX_FILE)
                .map_err(InitError::at(step("read the content")))?;
            (memory_file(files, &format!("m{at}"), &bytes, *mode, (*uid, *gid))?, Kind::File)
        }
        SandboxMountKind::Socket { source } => {
            let tree =
                mount::clone_path(source, false).map_err(InitError::at(step("bind the socket")))?;
            (tree, Kind::Other)
        }
        SandboxMountKind::Bind { source, selector, readonly } => {
            let base = match source {
                MountSource::Path(path) => {
                    mount::open_dir(path).map_err(InitError::at(step("open the source")))?
                }
                MountSource::Fd(at) => {
                    let fd = fds.get_mut(*at).and_then(Option::take);
                    let fd = fd.ok_or_else(|| missing_fd(&m.dest))?;
                    park(&fd).map_err(InitError::at(step("park the source")))?;
                    fd
                }
                MountSource::Overlay { lowers, upper, userxattr } => {
                    let union = mount::overlay(&OverlaySpec {
                        lowers,
                        upper: upper.as_ref().map(|(u, w)| (u.as_path(), w.as_path())),
                        volatile: true,
                        userxattr: *userxattr,
                    })
                    .map_err(InitError::at(step("mount the source")))?;
                    park(&union).map_err(InitError::at(step("park the source")))?;
                    union
                }
            };
            select(&base, m, selector, *readonly)?
        }
    };
    Ok(Ready { dest: &m.dest, tree, kind, optional: false })
}

fn missing_fd(dest: &str) -> InitError {
    let reason = "no open file was handed over for it, or another mount took it".into();
    InitError::Setup { step: format!("mount on `{dest}`"), reason }
}

fn select(
    base: &OwnedFd,
    m: &SandboxMount,
    selector: &str,
    readonly: bool,
) -> Result<(OwnedFd, Kind), InitError> {
    let path = if selector.is_empty() { "/" } else { selector };
    let found = match tree::find(base, Path::new(path), As::Handle) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            let (dest, selector) = (m.dest.clone(), selector.to_owned());
            return Err(InitError::NoSuchSource { dest, selector });
        }
        found => found.map_err(InitError::at(format!("open `{path}` for `{}`", m.dest)))?,
    };
    let kind = tree::stat(&found).map_err(InitError::at("look at the source"))?.kind;
    let bind = || -> Result<OwnedFd, MountError> {
        let tree = mount::clone_fd(&found, false)?;
        let mut set = AttrFlags::NOSUID.with(AttrFlags::NODEV);
        if readonly {
            set = set.with(AttrFlags::RDONLY);
        }
        mount::set_attr(&tree, false, Attr { set, ..Attr::default() })?;
        Ok(tree)
    };
    Ok((bind().map_err(InitError::at(format!("bind `{path}` for `{}`", m.dest)))?, kind))
}

fn name_files<'a>(spec: &'a SandboxSpec, files: &OwnedFd) -> Result<Vec<Ready<'a>>, InitError> {
    // Where the step mounts its own, it means it.
    let wanted = |dest: &str| !spec.mounts.iter().any(|m| m.dest == dest);
    let mut out = Vec::new();
    let mut add = |dest: &'static str, name: &str, text: &str| -> Result<(), InitError> {
        let tree = memory_file(files, name, text.as_bytes(), 0o644, (0, 0))?;
        out.push(Ready { dest, tree, kind: Kind::File, optional: true });
        Ok(())
    };
    if wanted("/etc/resolv.conf") {
        let host_root =
            mount::open_dir(Path::new("/")).map_err(InitError::at("open the host's root"))?;
        let host = tree::read_small(&host_root, Path::new("/etc/resolv.conf"), MAX_RESOLV)
            .map_err(InitError::at("read the host's /etc/resolv.conf"))?;
        let host = String::from_utf8_lossy(&host.unwrap_or_default()).into_owned();
        add("/etc/resolv.conf", "resolv", &network::resolv_conf(spec.network, &spec.dns, &host))?;
    }
    if wanted("/etc/hosts") {
        let text = network::hosts(network::hostname(spec), &spec.extra_hosts);
        add("/etc/hosts", "hosts", &text)?;
    }
    Ok(out)
}

fn put(root: &mut Root, m: Ready<'_>) -> Result<(), InitError> {
    let target = match root.place(m.dest, m.kind) {
        Ok(target) => target,
        Err(PlaceError::Reserved) => {
            return Err(InitError::ReservedTarget { dest: m.dest.to_owned() });
        }
        Err(PlaceError::Io(e)) if m.optional && e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            return Ok(());
        }
        Err(PlaceError::Io(e)) => {
            return Err(InitError::at(format!("make mount point `{}`", m.dest))(e));
        }
    };
    mount::attach(&m.tree, &target, m.dest).map_err(InitError::at("mount"))
}

fn kernel_file_systems(spec: &SandboxSpec, root: &mut Root) -> Result<(), InitError> {
    let mut at_root = |name: &'static str, tree: OwnedFd| -> Result<OwnedFd, InitError> {
        let target =
            root.place_plain(name).map_err(InitError::at(format!("make mount point `/{name}`")))?;
        mount::attach(&tree, &target, name).map_err(InitError::at("mount"))?;
        root.reserve(&tree).map_err(InitError::at(format!("look at `/{name}`")))?;
        Ok(tree)
    };
    let proc = mount::filesystem("proc", &[], INERT).map_err(InitError::at("mount proc"))?;
    at_root("proc", proc)?;
    let sys_attr = match spec.security {
        Security::Sandbox => INERT.with(AttrFlags::RDONLY),
        Security::Insecure => INERT,
    };
    at_root("sys", sysfs(spec, sys_attr).map_err(InitError::at("mount sysfs"))?)?;
    let dev = at_root("dev", dev().map_err(InitError::at("mount /dev"))?)?;
    fill_dev(&dev)?;
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

fn sysfs(spec: &SandboxSpec, attrs: AttrFlags) -> Result<OwnedFd, MountError> {
    match mount::filesystem("sysfs", &[], attrs) {
        // The network namespace belongs to somebody with more rights; what we see may be shown.
        Err(e)
            if spec.network == Network::Host
                && e.source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let tree = mount::clone_path(Path::new("/sys"), true)?;
            mount::set_attr(&tree, true, Attr { set: attrs, private: true, ..Attr::default() })?;
            Ok(tree)
        }
        mounted => mounted,
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
        0 => "65536k".to_owned(),
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
fn fill_dev(dev: &OwnedFd) -> Result<(), InitError> {
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
        match tree::make_device(dev, name, major, minor, 0o666) {
            Ok(()) => {}
            // In a user namespace nodes cannot be made, but the host's can be shown.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                borrow_node(dev, name)?;
            }
            Err(e) => return Err(InitError::at(format!("make `/dev/{name}`"))(e)),
        }
    }
    for (name, target) in LINKS {
        tree::make_link(dev, name, target).map_err(InitError::at(format!("make `/dev/{name}`")))?;
    }
    Ok(())
}

fn borrow_node(dev: &OwnedFd, name: &str) -> Result<(), InitError> {
    let step = || format!("bind `/dev/{name}`");
    let name = OsStr::new(name);
    tree::make_file(dev, name, 0o666).map_err(InitError::at(step()))?;
    let target = tree::entry(dev, name, As::Handle).map_err(InitError::at(step()))?;
    let host = mount::open_dir(Path::new("/dev")).map_err(InitError::at(step()))?;
    let source = tree::entry(&host, name, As::Handle).map_err(InitError::at(step()))?;
    let tree = mount::clone_fd(&source, false).map_err(InitError::at(step()))?;
    mount::attach(&tree, &target, "device").map_err(InitError::at(step()))
}

/// Covers what a step must not see and makes read-only what it must not change.
fn hide(root: &Root) -> Result<(), HideError> {
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
    let empty = INERT.with(AttrFlags::RDONLY);
    for path in MASKED.into_iter().chain(throttles.iter().map(String::as_str)) {
        let Some(target) = existing(root, path)? else { continue };
        let cover = if tree::stat(&target)?.kind == Kind::Directory {
            mount::filesystem("tmpfs", &[("size", Some("0k"))], empty)?
        } else {
            mount::clone_fd(&null, false)?
        };
        mount::attach(&cover, &target, path)?;
    }
    for path in READ_ONLY {
        let Some(target) = existing(root, path)? else { continue };
        let tree = mount::clone_fd(target.as_fd(), true)?;
        mount::set_attr(&tree, true, Attr { set: empty, ..Attr::default() })?;
        mount::attach(&tree, &target, path)?;
    }
    Ok(())
}

fn existing(root: &Root, path: &str) -> io::Result<Option<OwnedFd>> {
    match tree::find(root.fd(), Path::new(path), As::Handle) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[derive(Debug, thiserror::Error)]
enum HideError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Mount(#[from] MountError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_targets() {
        let tmpfs = SandboxMountKind::Tmpfs { size: 0 };
        let bind = SandboxMountKind::Bind {
            source: MountSource::Path("/x".into()),
            selector: "/".into(),
            readonly: true,
        };
        for (dest, kind, want) in [
            ("/", &bind, true),
            ("/..", &bind, true),
            ("/proc", &bind, true),
            ("/proc/", &tmpfs, true),
            ("//proc/self/x", &bind, true),
            ("/a/../sys/fs/cgroup", &bind, true),
            ("/dev", &tmpfs, true),
            ("/dev/null", &bind, true),
            ("/dev/shm", &tmpfs, false),
            ("/dev/shm/.", &tmpfs, false),
            ("/dev/shm", &bind, true),
            ("/dev/shm/x", &tmpfs, true),
            ("/devel", &bind, false),
            ("/a/proc", &bind, false),
        ] {
            assert_eq!(is_reserved(dest, kind), want, "{dest}");
        }
    }
}
