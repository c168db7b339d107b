//! What to run and in which surroundings, as plain data that travels to the runner.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rgraph_image::layer::Owners;
use serde::{Deserialize, Serialize};

use super::cgroup::Limits;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Where its standard input comes from.
    pub input: Input,
    /// Program and arguments. Without a slash the program is looked for in the step's `PATH`.
    pub args: Vec<String>,
    /// The whole environment, `KEY=VALUE`. `HOME` is added when it is missing.
    pub env: Vec<String>,
    /// Working directory; made when it is missing.
    pub cwd: String,
    /// `""`, `name[:group]` or `uid[:gid]`, looked up in the root's own files.
    pub user: String,
    /// Host name; empty: `buildkitsandbox`.
    pub hostname: String,
    /// The root file system.
    pub rootfs: Rootfs,
    /// What is mounted besides the usual; parents are mounted before what is in them.
    pub mounts: Vec<SandboxMount>,
    /// Network.
    pub network: Network,
    /// By which number later steps name it to reach its network, which must be a private one.
    pub serves: Option<u32>,
    /// Steps whose networks this one reaches: the number of each, and what it is called here.
    pub reaches: Vec<(u32, String)>,
    /// Rights.
    pub security: Security,
    /// Lines added to `/etc/hosts`.
    pub extra_hosts: Vec<ExtraHost>,
    /// Groups of the process beside those of its user.
    pub groups: Vec<u32>,
    /// Resource limits of each process.
    pub ulimits: Vec<Ulimit>,
    /// Limits of all processes together.
    pub limits: Limits,
    /// Most processes and threads, where the kernel counts them without a control group (Linux 6.14); elsewhere
    /// it says nothing. `limits` can do the same, and tells when it was reached.
    pub processes: Option<u32>,
    /// Size of `/dev/shm` in bytes; 0: 64 MiB.
    pub shm_size: u64,
    /// Name resolution.
    pub dns: Dns,
    /// Set `no_new_privs`: setuid programs give no rights.
    pub no_new_privileges: bool,
    /// Process 1 is one of ours, which waits for orphans and passes signals on to the program.
    pub init: bool,
    /// How long the step may take to end by itself when it is cancelled.
    pub grace: Duration,
}

impl SandboxSpec {
    /// The host name of a step that asks for none.
    pub const HOSTNAME: &str = "buildkitsandbox";
    /// The usual size of `/dev/shm`, bytes.
    pub const SHM_SIZE: u64 = 64 << 20;
    /// The usual time between asking to end and killing.
    pub const GRACE: Duration = Duration::from_secs(10);

    /// `args` as root in `/` of `rootfs`, with nothing else.
    pub fn new(rootfs: Rootfs, args: Vec<String>) -> Self {
        Self {
            input: Input::Null,
            args,
            env: Vec::new(),
            cwd: "/".into(),
            user: String::new(),
            hostname: String::new(),
            rootfs,
            mounts: Vec::new(),
            network: Network::Host,
            serves: None,
            reaches: Vec::new(),
            security: Security::Sandbox,
            extra_hosts: Vec::new(),
            groups: Vec::new(),
            ulimits: Vec::new(),
            limits: Limits::default(),
            processes: None,
            shm_size: 0,
            dns: Dns::default(),
            no_new_privileges: false,
            init: false,
            grace: Self::GRACE,
        }
    }
}

/// Where standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The end of a file.
    Null,
    /// Index of the reading end of a pipe (see [`super::Runner::launch`]).
    Pipe(usize),
    /// A terminal of the step's own is all three streams. The other side of it is sent to the
    /// socket of this index.
    Terminal {
        /// Index of the socket.
        socket: usize,
        /// Its height, lines.
        rows: u16,
        /// Its width, columns.
        columns: u16,
    },
}

/// The directories of a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// Read-only layers, the top one first; empty: from scratch.
    pub lowers: Vec<PathBuf>,
    /// Where changes go. Its own mode and owner are those of `/` in the step.
    pub upper: PathBuf,
    /// Empty directory on the same file system, for the kernel. Of no use afterwards: a second
    /// step needs a new one, even on the same upper.
    pub work: PathBuf,
    /// Who makes one tree of them.
    pub union: Union,
    /// Overlay's marks are in `user.*` attributes (in a user namespace).
    pub userxattr: bool,
    /// Where the owners of files are kept. Recorded ones need [`Self::userxattr`].
    pub owners: Owners,
    /// A tree below all layers, on the same file system, with the mount points that a root may
    /// lack: they need not be made in the upper then, and taken out of it again.
    pub below: Option<PathBuf>,
}

/// Who lays the directories of a root over each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Union {
    /// The kernel's overlayfs, mounted for the step.
    Kernel,
    /// It was done: index of the detached mount (see [`super::Runner::launch`]).
    Mounted(usize),
}

/// Something mounted for the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxMount {
    /// Absolute path in the step.
    pub dest: String,
    /// What.
    pub kind: SandboxMountKind,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxMountKind {
    /// A directory or file of a tree.
    Bind {
        /// The tree.
        source: MountSource,
        /// Path in the tree; its links do not lead out of the tree.
        selector: String,
        /// No writes.
        readonly: bool,
    },
    /// Memory.
    Tmpfs {
        /// Limit in bytes; 0: the kernel's default.
        size: u64,
    },
    /// A read-only file in memory, for secrets.
    File {
        /// Index of the open file with the content (see [`super::Runner::launch`]).
        data: usize,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A device node of the host, also below `/dev`.
    Device(HostDevice),
    /// A socket of the host; owner and mode are its own.
    Socket {
        /// Where it is.
        source: PathBuf,
    },
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDevice {
    /// Where it is on the host: bound where nodes cannot be made, with the mode and owner that it has
    /// there.
    pub source: PathBuf,
    /// A block device; else a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Where a bound tree is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory of the host.
    Path(PathBuf),
    /// Index of a detached mount (see [`super::Runner::launch`]), such as `rgraph_sys::mount`
    /// makes them; an ordinary open directory does not do.
    Fd(usize),
    /// The union of directories.
    Overlay {
        /// Read-only layers, the top one first.
        lowers: Vec<PathBuf>,
        /// Where changes go, and the kernel's directory beside it; `None`: read-only.
        upper: Option<(PathBuf, PathBuf)>,
        /// As in [`Rootfs`].
        userxattr: bool,
    },
}

impl MountSource {
    /// A file or folder of the host, and the selector with it. A file is found in its folder.
    pub fn of_host(path: &Path) -> (Self, String) {
        match (path.is_dir(), path.parent(), path.file_name()) {
            (false, Some(dir), Some(name)) => {
                (Self::Path(dir.to_owned()), format!("/{}", name.to_string_lossy()))
            }
            _ => (Self::Path(path.to_owned()), "/".to_owned()),
        }
    }
}

/// The network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The host's.
    Host,
    /// Its own, with a way out; the host's loopback is not in it.
    Private,
    /// Its own, with loopback only.
    None,
}

/// The rights of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    /// Docker's default capabilities, system call filter and hidden paths.
    Sandbox,
    /// All rights of this process, no filter, nothing hidden.
    Insecure,
}

/// One name with its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// Name.
    pub host: String,
    /// Address.
    pub ip: String,
}

/// One resource limit; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, ...
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// Name resolution. A part that is empty is taken from the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}
