//! Everything that is mounted on the step's root, in the child, before it becomes the root.
//!
//! First all sources are made and *parked*: put on top of the host's root, which nobody looks at
//! any more and which goes away as a whole. Before Linux 6.15 a part of a mount can be bound only
//! when it is somewhere in the own namespace. Then the kernel's file systems, the step's mounts,
//! the two name files, and at last what hides.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rgraph_image::layer::Owners;
use rgraph_sys::mount::{self, Attr, AttrFlags, MountError, OverlaySpec};
use rgraph_sys::tree::{self, As, Kind};

use super::error::InitError;
use super::rootfs::{PlaceError, Root};
use super::spec::{HostDevice, MountSource, SandboxMount, SandboxMountKind, SandboxSpec, Security};
use super::{kernelfs, network};

/// For what holds data only.
pub(super) const INERT: AttrFlags =
    AttrFlags::NOSUID.with(AttrFlags::NODEV).with(AttrFlags::NOEXEC);

/// Largest file handed over for a mount, bytes: room for a secret of the largest allowed size.
const MAX_FILE: u64 = 1 << 20;
/// Largest list of the host's name servers that is read, bytes.
const MAX_RESOLV: u64 = 64 << 10;

/// A mount ready to be put on its target.
struct Ready<'a> {
    dest: &'a str,
    tree: OwnedFd,
    kind: Kind,
    /// A target that cannot be made is no error: the tree around it is read-only.
    optional: bool,
    /// It is a device, which has its place in `/dev`.
    device: bool,
}

/// Mounts it all; afterwards `root` is attached and complete.
pub(super) fn mount_all(
    spec: &SandboxSpec,
    root: &mut Root,
    fds: &mut [Option<OwnedFd>],
    facts: Option<&network::Facts>,
) -> Result<(), InitError> {
    let parking = mount::open_dir(Path::new("/")).map_err(InitError::at("open the host's root"))?;
    let park = |tree: &OwnedFd| mount::attach(tree, &parking, "source");

    let mut order: Vec<&SandboxMount> = spec.mounts.iter().collect();
    // Parents first, or they would hide what is mounted in them.
    order.sort_by(|a, b| a.dest.cmp(&b.dest));
    let (files, nodes) = (memory_files(&park)?, node_files(spec, &park)?);
    let mut ready = Vec::new();
    for (at, m) in order.into_iter().enumerate() {
        if is_reserved(&m.dest, &m.kind) {
            return Err(InitError::ReservedTarget { dest: m.dest.clone() });
        }
        ready.push(match (&m.kind, &nodes) {
            (SandboxMountKind::Device(device), Some(nodes)) => {
                let tree = node(device, nodes, &format!("n{at}"));
                let tree = tree.map_err(InitError::at(format!("give the device `{}`", m.dest)))?;
                Ready { dest: &m.dest, tree, kind: Kind::File, optional: false, device: true }
            }
            _ => prepare(m, at, (&files, spec.rootfs.owners), &park, fds)?,
        });
    }
    ready.extend(name_files(spec, &files, facts)?);

    mount::attach(root.fd(), &parking, "root").map_err(InitError::at("attach the root"))?;
    let empty = tree::make_dir(&files, OsStr::new("empty"), 0o555)
        .map_err(InitError::at("make an empty folder"))?;
    kernelfs::mount_all(spec, root, &empty)?;
    for m in ready {
        put(root, m)?;
    }
    if spec.security == Security::Sandbox {
        kernelfs::hide(root, &empty).map_err(InitError::at("hide parts of /proc and /sys"))?;
        // Steps may make device nodes (and images hold them), but not open them: with the right
        // numbers one is the host's disk. Those in /dev are mounts of their own.
        let set = AttrFlags::NODEV;
        mount::set_attr(root.fd(), false, Attr { set, ..Attr::default() })
            .map_err(InitError::at("close the image's device nodes"))?;
    }
    Ok(())
}

/// A file system in memory for files that are bound one by one.
fn memory_files(park: &dyn Fn(&OwnedFd) -> Result<(), MountError>) -> Result<OwnedFd, InitError> {
    let make =
        |options: &[(&'static str, Option<&str>)]| mount::filesystem("tmpfs", options, INERT);
    let plain = [("mode", Some("0755")), ("size", Some("256m"))];
    // Secrets must not reach a swap device; kernels before 6.4 cannot promise it.
    let files = make(&[plain[0], plain[1], ("noswap", None)])
        .or_else(|_| make(&plain))
        .map_err(InitError::at("make memory for files"))?;
    park(&files).map_err(InitError::at("park memory for files"))?;
    Ok(files)
}

/// A file system in memory for device nodes, for a step that gets some.
fn node_files(
    spec: &SandboxSpec,
    park: &dyn Fn(&OwnedFd) -> Result<(), MountError>,
) -> Result<Option<OwnedFd>, InitError> {
    if !spec.mounts.iter().any(|m| matches!(m.kind, SandboxMountKind::Device(_))) {
        return Ok(None);
    }
    let options = [("mode", Some("0755")), ("size", Some("1m"))];
    let attrs = AttrFlags::NOSUID.with(AttrFlags::NOEXEC);
    let files = mount::filesystem("tmpfs", &options, attrs)
        .and_then(|files| park(&files).map(|()| files))
        .map_err(InitError::at("make memory for device nodes"))?;
    Ok(Some(files))
}

/// Why a device cannot be given.
#[derive(Debug, thiserror::Error)]
enum NodeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// A node of its own, or where nodes cannot be made the host's.
fn node(device: &HostDevice, nodes: &OwnedFd, name: &str) -> Result<OwnedFd, NodeError> {
    let HostDevice { source, block, major, minor, mode, uid, gid } = device;
    match tree::make_device(nodes, name, *block, (*major, *minor), *mode, (*uid, *gid)) {
        Ok(()) => Ok(mount::clone_fd(&tree::entry(nodes, OsStr::new(name), As::Handle)?, false)?),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Ok(mount::clone_path(source, false)?)
        }
        Err(e) => Err(e.into()),
    }
}

fn memory_file(
    files: &OwnedFd,
    name: &str,
    bytes: &[u8],
    mode: u32,
    (owner, owners): ((u32, u32), Owners),
) -> Result<OwnedFd, InitError> {
    let name = OsStr::new(name);
    let write = || -> io::Result<OwnedFd> {
        let mut file = tree::make_file(files, name, mode)?;
        file.write_all(bytes)?;
        owners.give(&file, owner.0, owner.1)?;
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
        ["dev", name] => OWN_DEV.contains(name),
        ["dev", name, ..] if matches!(kind, SandboxMountKind::Device(_)) => OWN_DEV.contains(name),
        [first, ..] => matches!(*first, "proc" | "sys" | "dev"),
    }
}

/// What the step's own /dev holds; nothing may cover it. A new name beside them harms nothing, and
/// scripts of heredocs are mounted under one.
const OWN_DEV: [&str; 16] = [
    "null", "zero", "full", "random", "urandom", "tty", "console", "fd", "stdin", "stdout",
    "stderr", "core", "ptmx", "pts", "mqueue", "shm",
];

/// The name of a target directly below /dev.
fn dev_name(dest: &str) -> Option<&OsStr> {
    let name = dest.strip_prefix("/dev/")?.trim_end_matches('/');
    let plain = !name.is_empty() && !name.contains('/') && !matches!(name, "." | "..");
    (plain && !OWN_DEV.contains(&name)).then(|| OsStr::new(name))
}

fn prepare<'a>(
    m: &'a SandboxMount,
    at: usize,
    (files, owners): (&OwnedFd, Owners),
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
            let owner = ((*uid, *gid), owners);
            (memory_file(files, &format!("m{at}"), &bytes, *mode, owner)?, Kind::File)
        }
        SandboxMountKind::Device(_) => return Err(missing_fd(&m.dest)),
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
    Ok(Ready { dest: &m.dest, tree, kind, optional: false, device: false })
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

fn name_files<'a>(
    spec: &'a SandboxSpec,
    files: &OwnedFd,
    facts: Option<&network::Facts>,
) -> Result<Vec<Ready<'a>>, InitError> {
    // Where the step mounts its own, it means it.
    let wanted = |dest: &str| !spec.mounts.iter().any(|m| m.dest == dest);
    let mut out = Vec::new();
    let mut add = |dest: &'static str, name: &str, text: &str| -> Result<(), InitError> {
        let tree = memory_file(files, name, text.as_bytes(), 0o644, ((0, 0), Owners::Kernel))?;
        out.push(Ready { dest, tree, kind: Kind::File, optional: true, device: false });
        Ok(())
    };
    if wanted("/etc/resolv.conf") {
        let host_root =
            mount::open_dir(Path::new("/")).map_err(InitError::at("open the host's root"))?;
        let read = |path: &str| {
            let text = tree::read_small(&host_root, Path::new(path), MAX_RESOLV)
                .map_err(InitError::at(format!("read the host's {path}")))?;
            Ok(String::from_utf8_lossy(&text.unwrap_or_default()).into_owned())
        };
        let text = network::resolv_conf(spec.network, facts, &spec.dns, read)?;
        add("/etc/resolv.conf", "resolv", &text)?;
    }
    if wanted("/etc/hosts") {
        let text = network::hosts(network::hostname(spec), &spec.extra_hosts, spec.network, facts);
        add("/etc/hosts", "hosts", &text)?;
    }
    Ok(out)
}

/// Makes the place of a device below the step's own `/dev`, folders included.
fn place_device(root: &mut Root, below: &str) -> io::Result<OwnedFd> {
    let mut dir = root.place_plain("dev")?;
    let mut parts = below.split('/').filter(|p| !matches!(*p, "" | ".")).peekable();
    while let Some(part) = parts.next() {
        let name = OsStr::new(part);
        if part == ".." {
            return Err(io::Error::other("`..` in the path of a device"));
        }
        if parts.peek().is_none() {
            drop(tree::make_file(&dir, name, 0o644)?);
            return tree::entry(&dir, name, As::Handle);
        }
        dir = match tree::make_dir(&dir, name, 0o755) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                tree::entry(&dir, name, As::Directory)?
            }
            made => made?,
        };
    }
    Err(io::Error::other("the path of the device is `/dev`"))
}

fn put(root: &mut Root, m: Ready<'_>) -> Result<(), InitError> {
    if let Some(below) = m.dest.strip_prefix("/dev/").filter(|_| m.device) {
        let target = place_device(root, below)
            .map_err(InitError::at(format!("make mount point `{}`", m.dest)))?;
        return mount::attach(&m.tree, &target, m.dest).map_err(InitError::at("mount"));
    }
    if let Some(name) = dev_name(m.dest) {
        // The step's own /dev, gone with it: no stub to clean up.
        let at = |e| InitError::at(format!("make mount point `{}`", m.dest))(e);
        let dev = root.place_plain("dev").map_err(at)?;
        match m.kind {
            Kind::Directory => drop(tree::make_dir(&dev, name, 0o755).map_err(at)?),
            _ => drop(tree::make_file(&dev, name, 0o644).map_err(at)?),
        }
        let target = tree::entry(&dev, name, As::Handle).map_err(at)?;
        return mount::attach(&m.tree, &target, m.dest).map_err(InitError::at("mount"));
    }
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
        let device = SandboxMountKind::Device(HostDevice {
            source: "/dev/x".into(),
            block: false,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
        });
        for (dest, kind, want) in [
            ("/dev/x", &device, false),
            ("/dev/dri/card0", &device, false),
            ("/dev/null", &device, true),
            ("/dev/pts/9", &device, true),
            ("/dev//../dev/null", &device, true),
            ("/proc/x", &device, true),
            ("/opt/x", &device, false),
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
            ("/dev/pipes/", &bind, false),
            ("/dev/pts", &bind, true),
            ("/devel", &bind, false),
            ("/a/proc", &bind, false),
        ] {
            assert_eq!(is_reserved(dest, kind), want, "{dest}");
        }
    }
}
