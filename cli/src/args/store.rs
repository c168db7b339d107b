//! Commands on the store and the host.

use clap::Args;

/// `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also images that no container uses
    #[arg(short, long)]
    pub all: bool,
    /// until=, label=, id=, ...
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// Keep this much of the cache
    #[arg(long, value_name = "BYTES")]
    pub keep_storage: Option<String>,
    /// Most the cache may use
    #[arg(long, value_name = "BYTES")]
    pub max_used_space: Option<String>,
    /// Least that stays free on the disk
    #[arg(long, value_name = "BYTES")]
    pub min_free_space: Option<String>,
    /// Never go below this
    #[arg(long, value_name = "BYTES")]
    pub reserved_space: Option<String>,
    /// Show every record
    #[arg(long)]
    pub verbose: bool,
}

/// `du`, `system df`.
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Every record
    #[arg(short, long)]
    pub verbose: bool,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// text or json
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
