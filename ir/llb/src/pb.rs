//! The protobuf messages of a definition, with BuildKit's field numbers. `BuildOp`,
//! `PassthroughOp` and source maps are left out: the Dockerfile frontend emits none of the first
//! two, and source maps are not needed to run a definition.
//!
//! The length of this file is that of the schema: one declaration per message, no code but
//! [`Op::to_bytes`].
//!
//! Numbers that stand for "none": [`NO_INPUT`], [`NO_OUTPUT`], [`KEEP`].

use std::collections::BTreeMap;

use prost::{Message, Oneof};

/// Input of a mount or action that starts from nothing.
pub const NO_INPUT: i64 = -1;
/// Output of a mount or action that gives none.
pub const NO_OUTPUT: i64 = -1;
/// A mode or time that is left as it is.
pub const KEEP: i64 = -1;

/// A whole graph.
#[derive(Clone, PartialEq, Message)]
pub struct Definition {
    /// Serialised [`Op`]s, inputs first, the terminal op last.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub def: Vec<Vec<u8>>,
    /// By the digest of the op.
    #[prost(btree_map = "string, message", tag = "2")]
    pub metadata: BTreeMap<String, OpMetadata>,
}

/// What belongs to an op without being part of its name.
#[derive(Clone, PartialEq, Message)]
pub struct OpMetadata {
    /// The cache is not asked.
    #[prost(bool, tag = "1")]
    pub ignore_cache: bool,
    /// For people: `llb.customname`, `com.docker.dockerfile.v1.command`.
    #[prost(btree_map = "string, string", tag = "2")]
    pub description: BTreeMap<String, String>,
    /// What the daemon must be able to do.
    #[prost(btree_map = "string, bool", tag = "5")]
    pub caps: BTreeMap<String, bool>,
    /// Shown inside another line.
    #[prost(message, optional, tag = "6")]
    pub progress_group: Option<ProgressGroup>,
    /// Kernel limits of the step.
    #[prost(message, optional, tag = "7")]
    pub linux_resources: Option<LinuxResources>,
}

/// A group of progress lines.
#[derive(Clone, PartialEq, Message)]
pub struct ProgressGroup {
    /// Its name for programs.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its name for people.
    #[prost(string, tag = "2")]
    pub name: String,
    /// It gives way to another group.
    #[prost(bool, tag = "3")]
    pub weak: bool,
}

/// Kernel limits of a step.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxResources {
    /// Bytes.
    #[prost(int64, tag = "1")]
    pub memory: i64,
    /// Bytes.
    #[prost(int64, tag = "2")]
    pub memory_swap: i64,
    /// Relative weight.
    #[prost(uint64, tag = "3")]
    pub cpu_shares: u64,
    /// Microseconds.
    #[prost(uint64, tag = "4")]
    pub cpu_period: u64,
    /// Microseconds.
    #[prost(int64, tag = "5")]
    pub cpu_quota: i64,
    /// Kernel list form.
    #[prost(string, tag = "6")]
    pub cpuset_cpus: String,
    /// Kernel list form.
    #[prost(string, tag = "7")]
    pub cpuset_mems: String,
}

/// One vertex.
#[derive(Clone, PartialEq, Message)]
pub struct Op {
    /// What it works on.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<Input>,
    /// What it does; `None`: the terminal op.
    #[prost(oneof = "Kind", tags = "2, 3, 4, 6, 7")]
    pub kind: Option<Kind>,
    /// What it runs on.
    #[prost(message, optional, tag = "10")]
    pub platform: Option<Platform>,
    /// Empty, but there.
    #[prost(message, optional, tag = "11")]
    pub constraints: Option<WorkerConstraints>,
}

impl Op {
    /// Serialises as BuildKit's Go client does. Go writes the members of a oneof after all plain
    /// fields, prost by number; the digest of the op depends on it.
    pub fn to_bytes(mut self) -> Vec<u8> {
        let kind = self.kind.take();
        let mut out =
            Vec::with_capacity(self.encoded_len() + kind.as_ref().map_or(0, |k| k.encoded_len()));
        self.encode_raw(&mut out);
        if let Some(kind) = kind {
            kind.encode(&mut out);
        }
        out
    }
}

/// What an op does.
#[derive(Clone, PartialEq, Oneof)]
#[expect(clippy::large_enum_variant, reason = "lives for one op at a time, and most are execs")]
pub enum Kind {
    /// Runs a process.
    #[prost(message, tag = "2")]
    Exec(ExecOp),
    /// Brings a tree from outside.
    #[prost(message, tag = "3")]
    Source(SourceOp),
    /// Changes files.
    #[prost(message, tag = "4")]
    File(FileOp),
    /// Stacks layers.
    #[prost(message, tag = "6")]
    Merge(MergeOp),
    /// Takes what changed.
    #[prost(message, tag = "7")]
    Diff(DiffOp),
}

/// An operating system and a processor.
#[derive(Clone, PartialEq, Message)]
pub struct Platform {
    /// GOARCH.
    #[prost(string, tag = "1")]
    pub architecture: String,
    /// GOOS.
    #[prost(string, tag = "2")]
    pub os: String,
    /// `v7`, ...
    #[prost(string, tag = "3")]
    pub variant: String,
    /// Windows build.
    #[prost(string, tag = "4")]
    pub os_version: String,
    /// Not used by BuildKit.
    #[prost(string, repeated, tag = "5")]
    pub os_features: Vec<String>,
}

/// One output of another op.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Input {
    /// Name of the op.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Which output.
    #[prost(int64, tag = "2")]
    pub index: i64,
}

/// Which workers may run an op.
#[derive(Clone, PartialEq, Message)]
pub struct WorkerConstraints {
    /// Filters in containerd's language.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
}

/// `RUN`.
#[derive(Clone, PartialEq, Message)]
pub struct ExecOp {
    /// The process.
    #[prost(message, optional, tag = "1")]
    pub meta: Option<Meta>,
    /// Root, binds, caches and memory by path; then secrets; then agents.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// See [`NetMode`].
    #[prost(enumeration = "NetMode", tag = "3")]
    pub network: i32,
    /// See [`SecurityMode`].
    #[prost(enumeration = "SecurityMode", tag = "4")]
    pub security: i32,
    /// Secrets as variables.
    #[prost(message, repeated, tag = "5")]
    pub secretenv: Vec<SecretEnv>,
    /// Devices.
    #[prost(message, repeated, tag = "6")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// A process.
#[derive(Clone, PartialEq, Message)]
pub struct Meta {
    /// Program and arguments.
    #[prost(string, repeated, tag = "1")]
    pub args: Vec<String>,
    /// `KEY=VALUE`, in order.
    #[prost(string, repeated, tag = "2")]
    pub env: Vec<String>,
    /// Working directory.
    #[prost(string, tag = "3")]
    pub cwd: String,
    /// User as written.
    #[prost(string, tag = "4")]
    pub user: String,
    /// Proxies, not part of BuildKit's cache key.
    #[prost(message, optional, tag = "5")]
    pub proxy_env: Option<ProxyEnv>,
    /// Additions to `/etc/hosts`.
    #[prost(message, repeated, tag = "6")]
    pub extra_hosts: Vec<HostIp>,
    /// Host name.
    #[prost(string, tag = "7")]
    pub hostname: String,
    /// Limits.
    #[prost(message, repeated, tag = "9")]
    pub ulimit: Vec<Ulimit>,
    /// Parent control group.
    #[prost(string, tag = "10")]
    pub cgroup_parent: String,
    /// Mount points that the daemon made are removed, with their parents.
    #[prost(bool, tag = "11")]
    pub remove_mount_stubs_recursive: bool,
    /// Statuses that are no failure; empty: only 0.
    #[prost(int32, repeated, tag = "12")]
    pub valid_exit_codes: Vec<i32>,
}

/// Proxies.
#[derive(Clone, PartialEq, Message)]
pub struct ProxyEnv {
    /// `http_proxy`.
    #[prost(string, tag = "1")]
    pub http_proxy: String,
    /// `https_proxy`.
    #[prost(string, tag = "2")]
    pub https_proxy: String,
    /// `ftp_proxy`.
    #[prost(string, tag = "3")]
    pub ftp_proxy: String,
    /// `no_proxy`.
    #[prost(string, tag = "4")]
    pub no_proxy: String,
    /// `all_proxy`.
    #[prost(string, tag = "5")]
    pub all_proxy: String,
}

/// A line of `/etc/hosts`.
#[derive(Clone, PartialEq, Message)]
pub struct HostIp {
    /// Name.
    #[prost(string, tag = "1")]
    pub host: String,
    /// Address.
    #[prost(string, tag = "2")]
    pub ip: String,
}

/// A limit.
#[derive(Clone, PartialEq, Message)]
pub struct Ulimit {
    /// Which.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Soft.
    #[prost(int64, tag = "2")]
    pub soft: i64,
    /// Hard.
    #[prost(int64, tag = "3")]
    pub hard: i64,
}

/// A secret as a variable.
#[derive(Clone, PartialEq, Message)]
pub struct SecretEnv {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The variable.
    #[prost(string, tag = "2")]
    pub name: String,
    /// It may be missing.
    #[prost(bool, tag = "3")]
    pub optional: bool,
}

/// A device.
#[derive(Clone, PartialEq, Message)]
pub struct CdiDevice {
    /// Qualified name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// It may be missing.
    #[prost(bool, tag = "2")]
    pub optional: bool,
}

/// The network of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum NetMode {
    /// Its own.
    Unset = 0,
    /// The host's.
    Host = 1,
    /// None.
    None = 2,
}

/// The rights of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum SecurityMode {
    /// Few.
    Sandbox = 0,
    /// All.
    Insecure = 1,
}

/// A mount of a step.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Position in the op's inputs, or [`NO_INPUT`].
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// Path within the input; empty: all.
    #[prost(string, tag = "2")]
    pub selector: String,
    /// Where it is mounted.
    #[prost(string, tag = "3")]
    pub dest: String,
    /// Number of the output, or [`NO_OUTPUT`].
    #[prost(int64, tag = "4")]
    pub output: i64,
    /// Not writable.
    #[prost(bool, tag = "5")]
    pub readonly: bool,
    /// See [`MountType`].
    #[prost(enumeration = "MountType", tag = "6")]
    pub mount_type: i32,
    /// For [`MountType::Tmpfs`].
    #[prost(message, optional, tag = "19")]
    pub tmpfs_opt: Option<TmpfsOpt>,
    /// For [`MountType::Cache`].
    #[prost(message, optional, tag = "20")]
    pub cache_opt: Option<CacheOpt>,
    /// For [`MountType::Secret`].
    #[prost(message, optional, tag = "21")]
    pub secret_opt: Option<SecretOpt>,
    /// For [`MountType::Ssh`].
    #[prost(message, optional, tag = "22")]
    pub ssh_opt: Option<SecretOpt>,
    /// Not used by the frontend.
    #[prost(string, tag = "23")]
    pub result_id: String,
    /// 0: default, 1: on, 2: off.
    #[prost(int32, tag = "24")]
    pub content_cache: i32,
}

/// What a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum MountType {
    /// A tree.
    Bind = 0,
    /// A secret as a file.
    Secret = 1,
    /// An agent's socket.
    Ssh = 2,
    /// A folder kept between builds.
    Cache = 3,
    /// Memory.
    Tmpfs = 4,
}

/// Memory.
#[derive(Clone, PartialEq, Message)]
pub struct TmpfsOpt {
    /// Bytes; 0: the default.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// A folder kept between builds.
#[derive(Clone, PartialEq, Message)]
pub struct CacheOpt {
    /// Its name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// See [`CacheSharingOpt`].
    #[prost(enumeration = "CacheSharingOpt", tag = "2")]
    pub sharing: i32,
}

/// Who may use a cache at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CacheSharingOpt {
    /// Everybody.
    Shared = 0,
    /// A second user gets its own.
    Private = 1,
    /// A second user waits.
    Locked = 2,
}

/// A secret as a file, or an agent's socket: both messages have these fields.
#[derive(Clone, PartialEq, Message)]
pub struct SecretOpt {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Owner.
    #[prost(uint32, tag = "2")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "3")]
    pub gid: u32,
    /// Permission bits.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// It may be missing.
    #[prost(bool, tag = "5")]
    pub optional: bool,
}

/// A tree from outside.
#[derive(Clone, PartialEq, Message)]
pub struct SourceOp {
    /// `docker-image://...`, `local://...`, a URL.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// Options by name.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

/// A chain of file actions.
#[derive(Clone, PartialEq, Message)]
pub struct FileOp {
    /// In order.
    #[prost(message, repeated, tag = "2")]
    pub actions: Vec<FileAction>,
}

/// One file action. Numbers below the count of inputs are inputs, the others earlier actions.
#[derive(Clone, PartialEq, Message)]
pub struct FileAction {
    /// The tree it changes.
    #[prost(int64, tag = "1")]
    pub input: i64,
    /// The tree it reads.
    #[prost(int64, tag = "2")]
    pub secondary_input: i64,
    /// Number of the output, or [`NO_OUTPUT`].
    #[prost(int64, tag = "3")]
    pub output: i64,
    /// What it does.
    #[prost(oneof = "Action", tags = "4, 5, 6, 7, 8")]
    pub action: Option<Action>,
}

/// What a file action does.
#[derive(Clone, PartialEq, Oneof)]
pub enum Action {
    /// Copies.
    #[prost(message, tag = "4")]
    Copy(FileActionCopy),
    /// Writes a file.
    #[prost(message, tag = "5")]
    Mkfile(FileActionMkFile),
    /// Makes a folder.
    #[prost(message, tag = "6")]
    Mkdir(FileActionMkDir),
    /// Removes.
    #[prost(message, tag = "7")]
    Rm(FileActionRm),
    /// Makes a symbolic link.
    #[prost(message, tag = "8")]
    Symlink(FileActionSymlink),
}

/// Copies.
#[derive(Clone, PartialEq, Message)]
pub struct FileActionCopy {
    /// What.
    #[prost(string, tag = "1")]
    pub src: String,
    /// Where to.
    #[prost(string, tag = "2")]
    pub dest: String,
    /// New owner.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// Permission bits, or [`KEEP`].
    #[prost(int32, tag = "4")]
    pub mode: i32,
    /// A link at `src` is followed.
    #[prost(bool, tag = "5")]
    pub follow_symlink: bool,
    /// Of a folder, the content.
    #[prost(bool, tag = "6")]
    pub dir_copy_contents: bool,
    /// A local archive is unpacked.
    #[prost(bool, tag = "7")]
    pub attempt_unpack: bool,
    /// Missing parents of `dest` are made.
    #[prost(bool, tag = "8")]
    pub create_dest_path: bool,
    /// `src` may hold wildcards.
    #[prost(bool, tag = "9")]
    pub allow_wildcard: bool,
    /// A wildcard may match nothing.
    #[prost(bool, tag = "10")]
    pub allow_empty_wildcard: bool,
    /// ns since 1970, or [`KEEP`].
    #[prost(int64, tag = "11")]
    pub timestamp: i64,
    /// Only these.
    #[prost(string, repeated, tag = "12")]
    pub include_patterns: Vec<String>,
    /// Not these.
    #[prost(string, repeated, tag = "13")]
    pub exclude_patterns: Vec<String>,
    /// What stands at `dest` gives way, whatever its type.
    #[prost(bool, tag = "14")]
    pub always_replace: bool,
    /// Permission bits in words.
    #[prost(string, tag = "15")]
    pub mode_str: String,
    /// Must exist.
    #[prost(string, repeated, tag = "16")]
    pub required_paths: Vec<String>,
}

/// Writes a file.
#[derive(Clone, PartialEq, Message)]
pub struct FileActionMkFile {
    /// Where.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// Content.
    #[prost(bytes = "vec", tag = "3")]
    pub data: Vec<u8>,
    /// Owner.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// ns since 1970, or [`KEEP`].
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

/// Makes a folder.
#[derive(Clone, PartialEq, Message)]
pub struct FileActionMkDir {
    /// Where.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(int32, tag = "2")]
    pub mode: i32,
    /// Missing parents are made.
    #[prost(bool, tag = "3")]
    pub make_parents: bool,
    /// Owner.
    #[prost(message, optional, tag = "4")]
    pub owner: Option<ChownOpt>,
    /// ns since 1970, or [`KEEP`].
    #[prost(int64, tag = "5")]
    pub timestamp: i64,
}

/// Removes.
#[derive(Clone, PartialEq, Message)]
pub struct FileActionRm {
    /// What.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Nothing there is no error.
    #[prost(bool, tag = "2")]
    pub allow_not_found: bool,
    /// `path` may hold wildcards.
    #[prost(bool, tag = "3")]
    pub allow_wildcard: bool,
}

/// Makes a symbolic link.
#[derive(Clone, PartialEq, Message)]
pub struct FileActionSymlink {
    /// What it says.
    #[prost(string, tag = "1")]
    pub oldpath: String,
    /// Where it stands.
    #[prost(string, tag = "2")]
    pub newpath: String,
    /// Owner.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<ChownOpt>,
    /// ns since 1970, or [`KEEP`].
    #[prost(int64, tag = "4")]
    pub timestamp: i64,
}

/// An owner.
#[derive(Clone, PartialEq, Message)]
pub struct ChownOpt {
    /// User.
    #[prost(message, optional, tag = "1")]
    pub user: Option<UserOpt>,
    /// Group.
    #[prost(message, optional, tag = "2")]
    pub group: Option<UserOpt>,
}

/// A user or group.
#[derive(Clone, PartialEq, Message)]
pub struct UserOpt {
    /// By name or number.
    #[prost(oneof = "User", tags = "1, 2")]
    pub user: Option<User>,
}

/// A user or group by name or number.
#[derive(Clone, PartialEq, Oneof)]
pub enum User {
    /// Looked up in a tree.
    #[prost(message, tag = "1")]
    ByName(NamedUserOpt),
    /// As it is, 0 included.
    #[prost(uint32, tag = "2")]
    ById(u32),
}

/// A name to look up.
#[derive(Clone, PartialEq, Message)]
pub struct NamedUserOpt {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The tree, numbered as in [`FileAction`].
    #[prost(int64, tag = "2")]
    pub input: i64,
}

/// Stacks layers.
#[derive(Clone, PartialEq, Message)]
pub struct MergeOp {
    /// In order.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<OneInput>,
}

/// Takes what changed.
#[derive(Clone, PartialEq, Message)]
pub struct DiffOp {
    /// Before.
    #[prost(message, optional, tag = "1")]
    pub lower: Option<OneInput>,
    /// After.
    #[prost(message, optional, tag = "2")]
    pub upper: Option<OneInput>,
}

/// BuildKit's `MergeInput`, `LowerDiffInput` and `UpperDiffInput`.
#[derive(Clone, PartialEq, Message)]
pub struct OneInput {
    /// Position in the op's inputs, or [`NO_INPUT`].
    #[prost(int64, tag = "1")]
    pub input: i64,
}
