//! `build` and `graph`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::shared::SharedArgs;

/// `context ls`.
#[derive(Debug, Args)]
pub struct ContextLsArgs {
    /// Folder with the files to build from
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,
    /// Dockerfile, whose own ignore file counts [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// table or json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// The flags of a build.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Input")]
pub struct BuildArgs {
    /// Folder with the files to build from
    #[arg(value_name = "CONTEXT")]
    pub context: OsString,
    /// Dockerfile [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Stage to build; repeated: several, in one graph
    #[arg(long, value_name = "STAGE")]
    pub target: Vec<String>,
    /// Value of an ARG; a name alone takes it from the environment
    #[arg(long, value_name = "NAME[=VALUE]", allow_hyphen_values = true)]
    pub build_arg: Vec<String>,
    /// Another context: folder, URL, git repository, docker-image://REF, oci-layout://FOLDER[:TAG][@DIGEST], or target:STAGE of this file
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_context: Vec<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub label: Vec<String>,
    /// Platform, or several with commas
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Vec<String>,
    /// Build for all platforms that every base has
    #[arg(long)]
    pub all_platforms: bool,
    /// Secret for RUN --mount=type=secret: id=NAME[,src=FILE|,env=VAR]
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    /// Agent for RUN --mount=type=ssh and sources by ssh: default, ID=SOCKET, or ID=KEY[,KEY] with key files
    #[arg(long, value_name = "SPEC")]
    pub ssh: Vec<String>,
    /// Bases mean what the lock file says [default FILE: rgraph.lock beside the Dockerfile]
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    pub locked: Option<OsString>,

    /// Name of the image
    #[arg(short, long, value_name = "REF", help_heading = "Output")]
    pub tag: Vec<String>,
    /// Where the result goes: type=oci|docker|tar|local|image|registry|cacheonly,dest=...
    #[arg(short, long, value_name = "SPEC", help_heading = "Output")]
    pub output: Vec<String>,
    /// File to write the image id to
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub iidfile: Option<PathBuf>,
    /// Annotation of the image; TYPE: manifest, index, manifest-descriptor, index-descriptor
    #[arg(long, value_name = "[TYPE:]NAME=VALUE", help_heading = "Output")]
    pub annotation: Vec<String>,
    /// Time of the image in seconds since 1970; later times of files in archives and pushes become it
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, help_heading = "Output")]
    pub timestamp: Option<String>,
    /// Leave out of the image how it was made
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    pub omit_history: Option<bool>,
    /// =false: labels of bases are not the image's
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    pub inherit_labels: Option<bool>,
    /// `--inherit-annotations`; `false` is what happens anyway.
    #[arg(
        hide = true,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub inherit_annotations: Option<bool>,
    /// What is said of the image beside it: type=provenance[,mode=min|max][,version=v1|v0.2], type=sbom
    #[arg(long, value_name = "SPEC", help_heading = "Output")]
    pub attest: Vec<String>,

    /// Ask no cache for these stages: names or numbers
    #[arg(long, value_name = "STAGE", help_heading = "Cache")]
    pub no_cache_filter: Vec<String>,
    /// Use no result that is older: 24h, 7d
    #[arg(long, value_name = "TIME", help_heading = "Cache")]
    pub cache_ttl: Option<String>,
    /// Cache to read: type=local,src=DIR, type=registry,ref=REF, or REF alone; also an image with an inline cache. ,key=PUBKEY: signed entries only
    #[arg(long, value_name = "SPEC", help_heading = "Cache")]
    pub cache_from: Vec<String>,
    /// Cache to write: type=local,dest=DIR, type=registry,ref=REF, type=inline; with ,mode=min|max, compression=, ignore-error, reset, sign-key=FILE
    #[arg(long, value_name = "SPEC", help_heading = "Cache")]
    pub cache_to: Vec<String>,

    /// Network of RUN: default, none, host
    #[arg(long, value_name = "MODE", help_heading = "Steps")]
    pub network: Option<String>,
    /// Grant: network.host, security.insecure, device[=NAME]
    #[arg(long, value_name = "NAME", help_heading = "Steps")]
    pub allow: Vec<String>,
    /// Folder of device specs (CDI) for RUN --device [default: /etc/cdi, /var/run/cdi]
    #[arg(long, value_name = "FOLDER", help_heading = "Steps")]
    pub cdi_spec_dir: Vec<PathBuf>,
    /// Line of /etc/hosts
    #[arg(long, value_name = "HOST:IP", help_heading = "Steps")]
    pub add_host: Vec<String>,
    /// Container that runs beside the steps, which reach it by NAME: NAME=IMAGE[,env=KEY=VALUE][,stage=STAGE][,port=N[/udp]][,wait=TIME]
    #[arg(long, value_name = "NAME=IMAGE", help_heading = "Steps")]
    pub service: Vec<String>,
    /// Resource limit
    #[arg(long, value_name = "TYPE=SOFT[:HARD]", help_heading = "Steps")]
    pub ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", help_heading = "Steps")]
    pub shm_size: Option<String>,
    /// Control group that those of the steps are made in, from the root of all
    #[arg(long, value_name = "PATH", help_heading = "Steps")]
    pub cgroup_parent: Option<String>,
    /// Limits of a step.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Try a failed RUN again, so often, on a clean layer
    #[arg(long, value_name = "N", help_heading = "Steps")]
    pub retry: Option<String>,
    /// Shell in the failed step
    #[arg(hide = true, long, help_heading = "Steps")]
    pub debug_on_error: bool,

    /// How many layers the image has: auto or a number
    #[arg(hide = true, long, value_name = "auto|N", help_heading = "Layers")]
    pub layers: Option<String>,
    /// One layer above the base; all: one layer in all
    #[arg(
        long,
        value_name = "all",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Layers"
    )]
    pub squash: Option<String>,

    /// What `bake` has too.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// Flags that mean nothing here.
    #[command(flatten)]
    pub legacy: LegacyArgs,
    /// Flags of Docker that are refused by name until they are built.
    #[command(flatten)]
    pub refused: RefusedArgs,
}

/// Limits of all processes of a RUN, or of a container, together, by control groups.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct ResourceArgs {
    /// Memory
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Memory and swap together; -1: all swap [default: twice the memory]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processors: 1.5
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpus: Option<String>,
    /// Weight against others; 1024 is usual
    #[arg(short = 'c', long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_shares: Option<String>,
    /// Period of --cpu-quota, microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_period: Option<String>,
    /// Processor time in each period, microseconds
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpu_quota: Option<String>,
    /// Processors that may be used: 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1: no limit. Of a RUN usually 4096, where the kernel can (Linux 6.14)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// The same limits as NAME=VALUE, with commas
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    pub resource: Vec<String>,
}

/// Flags that Docker's older builders needed: taken, with one warning.
#[derive(Debug, Default, Args)]
pub struct LegacyArgs {
    /// `--rm`.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rm: Option<String>,
    /// `--force-rm`.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub force_rm: Option<String>,
    /// `--compress`.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub compress: Option<String>,
    /// `--disable-content-trust`.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_content_trust: Option<String>,
    /// `--isolation`.
    #[arg(long, hide = true)]
    pub isolation: Option<String>,
    /// `--builder`.
    #[arg(long, hide = true)]
    pub builder: Option<String>,
}

/// Flags that would change the result.
#[derive(Debug, Default, Args)]
pub struct RefusedArgs {
    /// `--security-opt`.
    #[arg(long, hide = true)]
    pub security_opt: Vec<String>,
}

/// How a graph is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum GraphFormat {
    /// Graphviz.
    #[default]
    Dot,
    /// The stable JSON.
    Json,
    /// One serialised `pb.Definition`.
    Llb,
    /// Mermaid.
    Mermaid,
    /// A drawing.
    Svg,
}

/// The flags of `lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Any flag of a build; `-o` and `--check` are about the lock file.
    #[command(flatten)]
    pub build: BuildArgs,
}

/// The flags of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Any flag of a build.
    #[command(flatten)]
    pub build: BuildArgs,
}

/// The flags of `graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// dot, json, llb, mermaid, svg (needs Graphviz)
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "FORMAT")]
    pub format: GraphFormat,
    /// Mark what the cache holds
    #[arg(long)]
    pub cached: bool,
    /// Any flag of a build.
    #[command(flatten)]
    pub build: BuildArgs,
}
