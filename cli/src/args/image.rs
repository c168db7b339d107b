//! Commands on images.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Flags of every command that talks to a registry.
#[derive(Debug, Clone, Default, Args)]
pub struct RegistryArgs {
    /// Registry to reach over plain HTTP or with an unknown certificate
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Registry")]
    pub insecure_registry: Vec<String>,
}

/// `images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Only this repository or image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
    /// Intermediate images too
    #[arg(short, long)]
    pub all: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// dangling=, label=, before=, since=, reference=
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
}

/// `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Tar of a root file system, plain or compressed; `-` is stdin
    #[arg(value_name = "FILE|-")]
    pub source: OsString,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
    /// Instruction to apply: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ...
    #[arg(short, long, value_name = "INSTRUCTION", allow_hyphen_values = true)]
    pub change: Vec<String>,
    /// Comment in the history
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<String>,
    /// Platform of the image
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
}

/// `tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Image
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Further name
    #[arg(value_name = "TARGET")]
    pub target: String,
}

/// `rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Also with several names or stopped containers
    #[arg(short, long)]
    pub force: bool,
    /// Keep untagged parents
    #[arg(long)]
    pub no_prune: bool,
}

/// `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Nothing is cut
    #[arg(long)]
    pub no_trunc: bool,
    /// Sizes and times for people (`--human=false` for exact ones)
    #[arg(
        short = 'H',
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = super::switch,
        value_name = "BOOL"
    )]
    pub human: Option<bool>,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// What `inspect` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InspectKind {
    /// Images.
    Image,
    /// Containers.
    Container,
}

/// `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Images or containers
    #[arg(value_name = "NAME|ID", required = true)]
    pub names: Vec<String>,
    /// json, or a template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only of this kind: image, container
    #[arg(long = "type", value_name = "KIND", hide_possible_values = true)]
    pub kind: Option<InspectKind>,
    /// Show sizes
    #[arg(short, long)]
    pub size: bool,
}

/// `save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// File to write [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
}

/// `load`.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// File to read [default: stdin]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Only this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
}

/// `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
    /// Every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// The name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Image
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
    /// Every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// No progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Layers that are plain go as they are, not as gzip
    #[arg(long)]
    pub disable_compression: bool,
    /// Layers that are plain go as gzip, those that a registry gave us plain too
    #[arg(long)]
    pub force_compression: bool,
    /// Only this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
