//! `RUN`.

use std::sync::Arc;

use crate::env::Env;
use crate::fields::{FieldVisitor, KeyFields};
use crate::op::{InputIndex, Keying, Role, Selector, Service};

/// Runs a process. The result is the root file system after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecOp {
    /// Program and arguments; a shell form is already wrapped in its shell.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Env,
    /// Working directory, absolute, not cleaned.
    pub cwd: String,
    /// `USER` as written; empty: root.
    pub user: String,
    /// The root file system; `None`: empty.
    pub root: Option<InputIndex>,
    /// Mounts in the order of their flags.
    pub mounts: Vec<Mount>,
    /// Network of the step.
    pub network: NetworkMode,
    /// Rights of the step.
    pub security: SecurityMode,
    /// Secrets given as variables.
    pub secret_env: Vec<SecretEnv>,
    /// CDI devices.
    pub devices: Vec<Device>,
    /// Proxy variables that are passed but no part of the key.
    pub proxy_env: Option<Arc<ProxyEnv>>,
    /// Additions to `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// Host name; `None`: `buildkitsandbox`.
    pub hostname: Option<String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Parent control group.
    pub cgroup_parent: Option<String>,
    /// Containers beside it, in the order in which they are started.
    pub services: Vec<Service>,
}

/// Something mounted while the process runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// Absolute path inside.
    pub dest: String,
    /// What.
    pub kind: MountKind,
}

/// What a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// A tree of another vertex.
    Bind {
        /// The tree; `None`: empty.
        from: Option<InputIndex>,
        /// Path within it, `/` for all.
        selector: String,
        /// False: writable, and what is written is thrown away.
        readonly: bool,
    },
    /// A folder kept between builds.
    Cache(CacheMount),
    /// Memory.
    Tmpfs {
        /// Limit in bytes; 0: the kernel's default.
        size: u64,
    },
    /// A secret as a file.
    Secret(SecretMount),
    /// An agent's socket.
    Ssh(SshMount),
}

/// A folder kept between builds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheMount {
    /// Its name, namespace included.
    pub id: String,
    /// Who may use it at once.
    pub sharing: CacheSharing,
    /// What it starts with; `None`: empty.
    pub from: Option<InputIndex>,
    /// Path within `from`.
    pub selector: String,
    /// Read-only.
    pub readonly: bool,
}

/// Who may use a cache mount at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheSharing {
    /// Everybody.
    #[default]
    Shared,
    /// A second user gets a folder of its own.
    Private,
    /// A second user waits.
    Locked,
}

/// A secret as a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretMount {
    /// Its name on the command line.
    pub id: String,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// The build fails without it.
    pub required: bool,
}

/// An agent's socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SshMount {
    /// Its name on the command line; empty: `default`.
    pub id: String,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// The build fails without it.
    pub required: bool,
}

/// A secret as a variable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretEnv {
    /// Its name on the command line.
    pub id: String,
    /// The variable.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
}

/// A CDI device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device {
    /// Qualified name.
    pub name: String,
    /// The build fails without it.
    pub required: bool,
}

/// The network of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub enum NetworkMode {
    /// Its own, with a way out.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's; needs `--allow network.host`.
    Host,
}

/// The rights of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub enum SecurityMode {
    /// Docker's default profile.
    #[default]
    Sandbox,
    /// All capabilities; needs `--allow security.insecure`.
    Insecure,
}

/// Proxy variables.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ProxyEnv {
    /// `http_proxy`.
    pub http: String,
    /// `https_proxy`.
    pub https: String,
    /// `ftp_proxy`.
    pub ftp: String,
    /// `no_proxy`.
    pub no: String,
    /// `all_proxy`.
    pub all: String,
}

/// One line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostIp {
    /// Name.
    pub host: String,
    /// Address, canonical text.
    pub ip: String,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ulimit {
    /// `nofile`, ...
    pub name: String,
    /// Soft limit; -1: unlimited.
    pub soft: i64,
    /// Hard limit; -1: unlimited.
    pub hard: i64,
}

impl ExecOp {
    /// How input `at` counts: the root by its key; read-only binds by what they show; writable
    /// binds likewise (their writes are thrown away); cache seeds and roots of services not at all.
    pub fn keying(&self, at: InputIndex) -> Keying {
        match self.role(at) {
            Role::Chain => Keying::Chain,
            Role::Ignored => Keying::Ignored,
            Role::Content => {
                let paths = self.binds(at).flat_map(|path| Selector::path(path).paths);
                Keying::Content(Selector { paths: paths.collect(), owner: true, mode: true })
            }
        }
    }

    pub(super) fn role(&self, at: InputIndex) -> Role {
        match self.binds(at).next() {
            _ if self.root == Some(at) => Role::Chain,
            Some(_) => Role::Content,
            None => Role::Ignored,
        }
    }

    /// What is bound of input `at`, in the order of the mounts.
    pub(super) fn binds(&self, at: InputIndex) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(move |m| match &m.kind {
            MountKind::Bind { from, selector, .. } if *from == Some(at) => Some(&**selector),
            _ => None,
        })
    }
}

impl KeyFields for ExecOp {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self {
            args,
            env,
            cwd,
            user,
            root,
            mounts,
            network,
            security,
            secret_env,
            devices,
            proxy_env: _, // passed through, no part of what the step is (LANG-29)
            extra_hosts,
            hostname,
            ulimits,
            cgroup_parent: _, // where the kernel accounts it does not change what it does
            services,
        } = self;
        v.strs("args", args);
        v.one("env", env);
        v.str("cwd", cwd);
        v.str("user", user);
        v.opt_int("root", root.map(|r| r.0));
        v.list("mounts", mounts);
        v.str("network", network.name());
        v.str("security", security.name());
        v.open("secret_env", secret_env.len());
        for SecretEnv { id, name, required } in secret_env {
            v.str("id", id);
            v.str("name", name);
            v.bool("required", *required);
        }
        v.close();
        v.open("devices", devices.len());
        for Device { name, required } in devices {
            v.str("name", name);
            v.bool("required", *required);
        }
        v.close();
        v.open("extra_hosts", extra_hosts.len());
        for HostIp { host, ip } in extra_hosts {
            v.str("host", host);
            v.str("ip", ip);
        }
        v.close();
        v.opt_str("hostname", hostname.as_deref());
        v.open("ulimits", ulimits.len());
        for Ulimit { name, soft, hard } in ulimits {
            v.str("name", name);
            v.int("soft", *soft);
            v.int("hard", *hard);
        }
        v.close();
        // Steps without any keep the keys they had before there were any.
        if !services.is_empty() {
            v.list("services", services);
        }
    }
}

impl NetworkMode {
    /// `default`, `none`, `host`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

impl SecurityMode {
    /// `sandbox`, `insecure`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Insecure => "insecure",
        }
    }
}

impl CacheSharing {
    /// `shared`, `private`, `locked`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }
}

impl KeyFields for Mount {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self { dest, kind } = self;
        v.str("dest", dest);
        match kind {
            MountKind::Bind { from, selector, readonly } => {
                v.opt_int("bind", from.map(|f| f.0));
                v.str("selector", selector);
                v.bool("readonly", *readonly);
            }
            MountKind::Cache(CacheMount { id, sharing, from, selector, readonly }) => {
                v.str("cache", id);
                v.str("sharing", sharing.name());
                v.opt_int("from", from.map(|f| f.0));
                v.str("selector", selector);
                v.bool("readonly", *readonly);
            }
            MountKind::Tmpfs { size } => v.int("tmpfs", *size as i64),
            MountKind::Secret(SecretMount { id, uid, gid, mode, required }) => {
                v.str("secret", id);
                v.int("uid", *uid);
                v.int("gid", *gid);
                v.int("mode", *mode);
                v.bool("required", *required);
            }
            MountKind::Ssh(SshMount { id, uid, gid, mode, required }) => {
                v.str("ssh", id);
                v.int("uid", *uid);
                v.int("gid", *gid);
                v.int("mode", *mode);
                v.bool("required", *required);
            }
        }
    }
}
