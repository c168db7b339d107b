//! The flags that `build` and `bake` have in common.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::image::RegistryArgs;

/// When a base image is asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PullArg {
    /// At every build.
    #[value(alias = "true")]
    Always,
    /// When the store has no such tag.
    #[value(alias = "false")]
    Missing,
    /// When the registry's is newer.
    Newer,
    /// Never.
    Never,
}

/// What is said of a build, whatever file it is of.
#[derive(Debug, Clone, Default, Args)]
pub struct SharedArgs {
    /// Ask registries what bases mean now: always, missing, newer, never [default: missing]
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        hide_possible_values = true,
        help_heading = "Input"
    )]
    pub pull: Option<PullArg>,
    /// Use no network: sources come from the store
    #[arg(long, help_heading = "Input")]
    pub offline: bool,

    /// Push the image: an output type=registry
    #[arg(long, help_heading = "Output")]
    pub push: bool,
    /// Keep the image in the local store: an output type=image, beside any other
    #[arg(long, help_heading = "Output")]
    pub load: bool,
    /// File to write facts about the result to
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub metadata_file: Option<PathBuf>,
    /// How the image was made, beside it: true, false, or keys such as mode=min|max,version=v1|v0.2
    #[arg(
        long,
        value_name = "SPEC",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Output"
    )]
    pub provenance: Option<String>,
    /// The packages in the image, beside it: true, false
    #[arg(
        long,
        value_name = "SPEC",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Output"
    )]
    pub sbom: Option<String>,

    /// Ask no cache
    #[arg(long, help_heading = "Cache")]
    pub no_cache: bool,

    /// Steps at once [default: by the machine]
    #[arg(long, value_name = "N", help_heading = "Steps")]
    pub jobs: Option<String>,
    /// Longest time of each RUN, such as 90s or 1h30m; build=TIME: of the whole build
    #[arg(long, value_name = "TIME", help_heading = "Steps")]
    pub timeout: Vec<String>,

    /// auto, tty, plain, rawjson, legacy, quiet
    #[arg(long, value_name = "MODE", help_heading = "Screen")]
    pub progress: Option<String>,
    /// Print image ids only
    #[arg(short, long, help_heading = "Screen")]
    pub quiet: bool,
    /// Check every Dockerfile asked for; runs nothing. Exit code 1 if anything is found
    #[arg(long, help_heading = "Screen")]
    pub check: bool,
    /// check, outline, targets; with ,format=json (of several targets one object, by name)
    #[arg(long, value_name = "METHOD", help_heading = "Screen")]
    pub call: Option<String>,

    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
