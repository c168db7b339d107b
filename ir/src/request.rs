//! What a backend is asked to do: a plan and where its parts come from and go to. Strings of the
//! command line end before this.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::annotation::Annotations;
use crate::attest::{Asked, Attestations};
use crate::cdi::CdiDevices;
use crate::digest::ManifestDigest;
use crate::plan::BuildPlan;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::ttl::Ttl;

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// What to make.
    pub plan: Arc<BuildPlan>,
    /// Folders by the name their [`crate::op::LocalSource`] gives.
    pub contexts: BTreeMap<String, LocalContext>,
    /// What is made of the plan's targets.
    pub exports: Vec<Export>,
    /// Caches to read, in order.
    pub cache_from: Vec<CacheFrom>,
    /// Caches to write.
    pub cache_to: Vec<CacheTo>,
    /// How long any cached result is good for.
    pub cache_ttl: Option<Ttl>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Agent sockets by id.
    pub ssh: BTreeMap<String, SshSource>,
    /// What the caller grants beyond a plain step.
    pub allow: Entitlements,
    /// Devices of the host, by name.
    pub devices: CdiDevices,
    /// Instead of a private network.
    pub network_fallback: NetworkFallback,
    /// Steps at once; `None`: chosen by the machine.
    pub jobs: Option<usize>,
    /// How long each `RUN` may take.
    pub step_timeout: Option<Duration>,
    /// How often a `RUN` that failed is tried again.
    pub retries: u32,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Limits of each `RUN`.
    pub resources: Resources,
    /// Platform of this machine.
    pub host_platform: Platform,
    /// Tells this build's places from another's with equal stage names: Dockerfile and target.
    pub place: String,
    /// Names of build arguments, for explanations.
    pub args: BTreeSet<String>,
}

/// What is made of some targets of a plan: one image, or an index of several platforms.
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// Tells it from others of the build; empty: it is the only one.
    pub name: String,
    /// The targets, by their place in the plan: one per platform.
    pub targets: Range<usize>,
    /// Where results go; empty: the local image store.
    pub outputs: Vec<OutputSpec>,
    /// Names for the result, normalised with tag.
    pub tags: Vec<String>,
    /// Seconds since 1970 that replace "now" in the image.
    pub source_date_epoch: Option<i64>,
    /// Which layers become one.
    pub squash: Squash,
    /// Configs do not tell how images were made.
    pub omit_history: bool,
    /// What is said of the result.
    pub attest: Attestations,
    /// What was asked, for what is said.
    pub asked: Asked,
}

/// A folder of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalContext {
    /// Where it lies.
    pub path: PathBuf,
}

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputSpec {
    /// An OCI layout, as one tar or as a folder.
    Oci(ArchiveOutput),
    /// A Docker archive.
    Docker(ArchiveOutput),
    /// The files, into a folder.
    Local {
        /// The folder.
        dest: PathBuf,
        /// How they lie there.
        form: FilesForm,
    },
    /// The files, as one tar.
    Tar {
        /// The file.
        dest: Dest,
        /// How they lie there.
        form: FilesForm,
    },
    /// The local image store.
    Image(ImageOutput),
    /// A registry.
    Registry(ImageOutput),
    /// Nowhere: only the cache is filled.
    CacheOnly,
}

/// How the files of a result lie in a folder or a tar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilesForm {
    /// A folder for each platform; `None`: when there are several.
    pub split: Option<bool>,
    /// What the names of statements about the files begin with.
    pub prefix: String,
}

/// An archive to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveOutput {
    /// The file.
    pub dest: Dest,
    /// False: a folder instead of one tar (OCI only).
    pub tar: bool,
    /// Names written into it; empty: the build's tags.
    pub names: Vec<String>,
    /// How new layers are packed.
    pub layers: LayerOptions,
    /// Added to its documents.
    pub annotations: Annotations,
    /// Statements are in the form of OCI's artifacts.
    pub artifact: bool,
}

/// An image to keep or push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOutput {
    /// Names; empty: the build's tags.
    pub names: Vec<String>,
    /// Push it.
    pub push: bool,
    /// How new layers are packed.
    pub layers: LayerOptions,
    /// Plain HTTP or an unknown certificate is taken.
    pub insecure: bool,
    /// Pushed without its tag: it is found by its digest only.
    pub by_digest: bool,
    /// Kept under each name with its digest too.
    pub canonical: bool,
    /// Added to its documents.
    pub annotations: Annotations,
    /// Statements are in the form of OCI's artifacts.
    pub artifact: bool,
    /// Without any name it is called `PREFIX@DIGEST`.
    pub dangling_prefix: Option<String>,
}

/// Which layers of an image become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Squash {
    /// None.
    #[default]
    No,
    /// Those above the base.
    Own,
    /// All.
    All,
}

/// How new layers are packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOptions {
    /// How.
    pub compression: Compression,
    /// `None`: the method's default.
    pub level: Option<i32>,
    /// Layers that exist in another form are packed again.
    pub force: bool,
    /// OCI media types; false: Docker's.
    pub oci_media_types: bool,
    /// File times later than `SOURCE_DATE_EPOCH` become it.
    pub rewrite_timestamp: bool,
}

/// A layer's compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// gzip.
    #[default]
    Gzip,
    /// zstd.
    Zstd,
}

impl Default for ImageOutput {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            push: false,
            layers: LayerOptions::default(),
            insecure: false,
            by_digest: false,
            canonical: false,
            annotations: Annotations::default(),
            artifact: true,
            dangling_prefix: None,
        }
    }
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            level: None,
            force: false,
            oci_media_types: true,
            rewrite_timestamp: false,
        }
    }
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// By path; appears whole or not at all.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}

/// A cache to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFrom {
    /// Where it is.
    pub source: CacheSource,
    /// Whose signatures count; empty: entries need none.
    pub keys: Vec<PublicKey>,
}

/// Where a cache is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// A folder.
    Local {
        /// The folder.
        dir: PathBuf,
        /// Which of its caches.
        tag: String,
        /// Its state at one time instead of now: the artifact manifest.
        digest: Option<ManifestDigest>,
    },
    /// A registry: a cache artifact, or an image with a cache in its config.
    Registry(Reference),
}

/// A cache to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheTo {
    /// Keys in the config of the images that are made.
    Inline {
        /// Signs the entries: an ed25519 seed.
        sign: Option<Secret>,
    },
    /// Entries and blobs somewhere else.
    Store(CacheStore),
}

/// A cache outside of this machine's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStore {
    /// Where.
    pub place: CachePlace,
    /// Blobs of every step, not only of the result.
    pub max: bool,
    /// How new layers are packed.
    pub layers: LayerOptions,
    /// The list of its blobs is an image manifest; false: an index.
    pub image_manifest: bool,
    /// A failure is a warning.
    pub ignore_error: bool,
    /// What was there and this build did not use goes, when the build succeeds.
    pub reset: bool,
    /// Signs the entries: an ed25519 seed.
    pub sign: Option<Secret>,
}

/// Where a cache is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A folder.
    Local {
        /// The folder.
        dir: PathBuf,
        /// Which of its caches.
        tag: String,
    },
    /// A registry.
    Registry(Reference),
}

/// An ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// A secret's bytes: printed as `***`, zeroed when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the step that mounts it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

/// Where an agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshSource {
    /// Its socket.
    pub socket: PathBuf,
}

/// Limits of all processes of a `RUN` together. They change no result, so they are in no key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Memory.
    pub memory: Option<MemoryLimit>,
    /// Weight against other steps and programs; 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Processor time.
    pub cpu_time: Option<CpuTime>,
    /// Processors, in the kernel's form: `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, in the kernel's form.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Processes,
}

/// A limit of processes and threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Processes {
    /// [`crate::limits::STEP_PROCESSES`], where the kernel limits that without a control group.
    #[default]
    Usual,
    /// None.
    Unlimited,
    /// This many.
    AtMost(u64),
}

/// A limit of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes of memory.
    pub bytes: u64,
    /// What may be swapped out beside it.
    pub swap: SwapLimit,
}

/// A limit of swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapLimit {
    /// As much as of memory, where the kernel counts it.
    Usual,
    /// Bytes.
    Bytes(u64),
    /// All there is.
    Unlimited,
}

/// A share of the processors' time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    /// Microseconds in each period; `None`: no limit.
    pub quota: Option<u64>,
    /// Microseconds.
    pub period: u64,
}

/// What steps get where this machine can give them no private network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NetworkFallback {
    /// The host's network, with a warning.
    #[default]
    Host,
    /// Loopback alone, with a warning.
    None,
    /// They are not run.
    Error,
}

/// What the caller grants beyond a plain step. Only the command line and the user's or system's
/// config grant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entitlements {
    /// `network.host`.
    pub network_host: bool,
    /// `security.insecure`.
    pub security_insecure: bool,
    /// `device`, with names; `Some(vec![])`: all.
    pub devices: Option<Vec<String>>,
}
