//! Commands on volumes.

use clap::{Args, Subcommand};

/// `volume ...`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum VolumeCommand {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(VolumeLsArgs),
    /// Make a volume
    Create(VolumeCreateArgs),
    /// Show everything about volumes as JSON
    Inspect(VolumeInspectArgs),
    /// Remove volumes that no container uses
    #[command(visible_alias = "remove")]
    Rm(VolumeRmArgs),
    /// Remove all volumes without a name that no container uses
    Prune(VolumePruneArgs),
}

/// `volume ls`.
#[derive(Debug, Args)]
pub struct VolumeLsArgs {
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
    /// Only those: name, label, dangling, driver
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `volume create`.
#[derive(Debug, Args)]
pub struct VolumeCreateArgs {
    /// Its name [default: a random one]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Label
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Driver: local
    #[arg(short, long, value_name = "DRIVER")]
    pub driver: Option<String>,
}

/// `volume inspect`.
#[derive(Debug, Args)]
pub struct VolumeInspectArgs {
    /// Volumes
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// json, or a template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `volume rm`.
#[derive(Debug, Args)]
pub struct VolumeRmArgs {
    /// Volumes
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// What is not there need not go
    #[arg(short, long)]
    pub force: bool,
}

/// `volume prune`.
#[derive(Debug, Args)]
pub struct VolumePruneArgs {
    /// Also those with a name
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only those: label, label!
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
}
