//! Commands on the store and the host.

use std::path::PathBuf;

use clap::Args;

/// `prune`.
#[derive(Debug, Default, Args)]
pub struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also images that no container uses
    #[arg(short, long)]
    pub all: bool,
    /// until=24h, type=, id=, description~=, inuse, shared, private, mutable, immutable
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// Only what was not used for so long (such as 48h); same as --filter until=
    #[arg(long, value_name = "DURATION")]
    pub keep_duration: Option<String>,
    /// Older name of --reserved-space
    #[arg(long, value_name = "BYTES|%")]
    pub keep_storage: Option<String>,
    /// Most the cache may use
    #[arg(long, value_name = "BYTES|%")]
    pub max_used_space: Option<String>,
    /// Least that stays free on the disk
    #[arg(long, value_name = "BYTES|%")]
    pub min_free_space: Option<String>,
    /// This much of the cache stays in any case
    #[arg(long, value_name = "BYTES|%")]
    pub reserved_space: Option<String>,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Count what went
    #[arg(long)]
    pub verbose: bool,
    /// `image prune`: the build cache stays.
    #[arg(skip)]
    pub images_only: bool,
}

/// `image prune`.
#[derive(Debug, Args)]
pub struct ImagePruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also images with a name that no container uses
    #[arg(short, long)]
    pub all: bool,
    /// Only those: until
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
}

/// `system prune`.
#[derive(Debug, Args)]
pub struct SystemPruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also images that no container uses
    #[arg(short, long)]
    pub all: bool,
    /// Also volumes without a name that no container uses
    #[arg(long)]
    pub volumes: bool,
    /// Only what is older: until
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
}

/// `du`, `system df`.
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Every record
    #[arg(short, long)]
    pub verbose: bool,
    /// Only these records (with -v): type=, id=, description~=, inuse, shared, private, ...
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// table or json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `cache-mount ls`.
#[derive(Debug, Args)]
pub struct CacheMountLsArgs {
    /// table or json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `cache-mount clear`.
#[derive(Debug, Args)]
pub struct CacheMountClearArgs {
    /// Ids, as in `--mount=type=cache,id=`; without one there, the mount's target
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub ids: Vec<String>,
    /// All that no build uses now
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
}

/// `cache-mount seed`.
#[derive(Debug, Args)]
pub struct CacheMountSeedArgs {
    /// The id, as in `--mount=type=cache,id=`; without one there, the mount's target
    #[arg(value_name = "ID")]
    pub id: String,
    /// The folder whose content it gets; owners, modes and times are kept
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// In place of what it has
    #[arg(long)]
    pub replace: bool,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Container, or build by the start of its id [default: the newest build]
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
    /// Which step: its number in the list, or a part of its line
    #[arg(value_name = "STEP")]
    pub step: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Wait for what is printed next (containers)
    #[arg(short, long)]
    pub follow: bool,
    /// Only so many lines from the end (containers)
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<String>,
    /// Only what was printed since then: a time, or how long ago (containers)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only what was printed until then (containers)
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// The time before each line (containers)
    #[arg(short, long)]
    pub timestamps: bool,
    /// Which build, by the start of its id [default: the newest]
    #[arg(value_name = "CONTAINER|BUILD")]
    pub build: Option<String>,
    /// Which step: its number in `rgraph explain`, or a part of its line [default: all]
    #[arg(value_name = "STEP")]
    pub step: Option<String>,
}

/// `builds`.
#[derive(Debug, Args)]
pub struct BuildsArgs {
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// table or json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `store check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read and hash every byte
    #[arg(long)]
    pub read_data: bool,
    /// Drop or re-make what is damaged
    #[arg(long)]
    pub repair: bool,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// text, json, or a template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}
