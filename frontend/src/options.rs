//! What the caller asks of lowering. The command line's strings end before this.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rgraph_ir::op::{HostIp, NetworkMode, Port, Ulimit};
use rgraph_ir::pattern::PatternSet;
use rgraph_ir::{BuildPlan, Platform, Reference};

/// See the module.
#[derive(Debug, Clone)]
pub struct LowerOptions {
    /// `--target`; `None`: the last stage.
    pub target: Option<String>,
    /// `--platform`; empty: the build platform.
    pub platforms: Vec<Platform>,
    /// What steps can run on without emulation.
    pub build_platform: Platform,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// Labels of bases from outside are the result's too.
    pub inherit_labels: bool,
    /// `--no-cache`, `--no-cache-filter`.
    pub no_cache: NoCache,
    /// `--network`, for every step that does not say otherwise.
    pub network: NetworkMode,
    /// `--add-host`.
    pub add_hosts: Vec<HostIp>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--shm-size`, bytes.
    pub shm_size: Option<u64>,
    /// `--cgroup-parent`.
    pub cgroup_parent: Option<String>,
    /// Host name of the steps; the build arg `BUILDKIT_SANDBOX_HOSTNAME` gives it too.
    pub hostname: Option<String>,
    /// `--service`, in order.
    pub services: Vec<ServiceOption>,
    /// `--build-context` by name (or `name::platform`).
    pub build_contexts: BTreeMap<String, NamedContext>,
    /// What folders are called in the graph, by the name of their context, where that is another one:
    /// plans that become one graph must not call two folders the same.
    pub folders: BTreeMap<String, String>,
    /// The main context's ignore file.
    pub ignore: IgnoreFile,
    /// `--pull`.
    pub pull: bool,
    /// Seconds since 1970 that replace "now".
    pub source_date_epoch: Option<i64>,
    /// When the main context was last changed, seconds since 1970; `None`: it is a folder.
    pub context_time: Option<i64>,
    /// `RUN --device` and the like are taken.
    pub allow_labs: bool,
    /// Most layers the image may have, base included; more is an error.
    pub max_layers: usize,
    /// Warnings are read by somebody. Without a reader, rules are looked at only where the file makes
    /// errors of them (`# check=error=true`).
    pub warnings: bool,
    /// Every stage is lowered, not only what the target needs (`--check`).
    pub all_stages: bool,
}

/// An ignore file, read.
#[derive(Debug, Clone)]
pub struct IgnoreFile {
    /// As messages call it.
    pub name: String,
    /// Its rules, with their lines.
    pub rules: PatternSet,
}

impl Default for IgnoreFile {
    fn default() -> Self {
        Self { name: ".dockerignore".to_owned(), rules: PatternSet::default() }
    }
}

/// A container beside steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceOption {
    /// The host name by which steps reach it.
    pub name: String,
    /// Its image.
    pub image: Reference,
    /// Variables set for it; the last of equal names counts.
    pub env: Vec<(String, String)>,
    /// It is ready when it listens on these; `None`: on those that the image exposes.
    pub ports: Option<Vec<Port>>,
    /// How long that may take.
    pub patience: Duration,
    /// Names or numbers of the stages whose steps reach it; empty: all.
    pub stages: Vec<String>,
}

/// Which steps do not look into the cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NoCache {
    /// All look.
    #[default]
    None,
    /// None looks.
    All,
    /// Those of these stages do not.
    Stages(Vec<String>),
}

/// What a `--build-context` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A folder; the caller knows where it lies by the context's name.
    Local {
        /// Its own ignore file, in file order.
        ignore_patterns: Vec<String>,
    },
    /// `docker-image://`.
    Image {
        /// What follows.
        reference: String,
    },
    /// `oci-layout://`.
    OciLayout {
        /// What follows: path or name, with `:tag` or `@digest`.
        reference: String,
    },
    /// A file by URL.
    Http {
        /// The URL.
        url: String,
    },
    /// A repository.
    Git {
        /// The URL with its fragment.
        url: String,
    },
    /// A stage of the same file.
    Target {
        /// Its name.
        name: String,
    },
    /// The result of another build.
    Result(Linked),
}

/// A plan whose targets are a context: the one for the platform, or the only one.
#[derive(Debug, Clone)]
pub struct Linked(pub Arc<BuildPlan>);

impl PartialEq for Linked {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Linked {}

impl Default for LowerOptions {
    fn default() -> Self {
        Self {
            target: None,
            platforms: Vec::new(),
            build_platform: Platform::linux_amd64(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            inherit_labels: true,
            no_cache: NoCache::None,
            network: NetworkMode::Default,
            add_hosts: Vec::new(),
            ulimits: Vec::new(),
            shm_size: None,
            cgroup_parent: None,
            hostname: None,
            services: Vec::new(),
            build_contexts: BTreeMap::new(),
            folders: BTreeMap::new(),
            ignore: IgnoreFile::default(),
            pull: false,
            source_date_epoch: None,
            context_time: None,
            allow_labs: true,
            max_layers: rgraph_ir::limits::MAX_LAYERS,
            warnings: true,
            all_stages: false,
        }
    }
}
