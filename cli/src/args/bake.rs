//! `bake`.

use std::path::PathBuf;

use clap::Args;

use super::PullArg;
use super::image::RegistryArgs;

/// The flags of `bake`.
#[derive(Debug, Args)]
pub struct BakeArgs {
    /// Targets, groups or patterns [default: default]; before them, a repository or URL with the file
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Bake file: HCL, JSON or compose; `-` for stdin [default: those in this folder]
    #[arg(short, long, value_name = "FILE", help_heading = "Input")]
    pub file: Vec<PathBuf>,
    /// Replace an attribute of targets; `+=` adds to a list
    #[arg(
        long,
        value_name = "TARGET.KEY=VALUE",
        allow_hyphen_values = true,
        help_heading = "Input"
    )]
    pub set: Vec<String>,
    /// Set a variable; beats the environment
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true, help_heading = "Input")]
    pub var: Vec<String>,
    /// Print what would be built, as JSON
    #[arg(long, help_heading = "Input")]
    pub print: bool,
    /// List targets or variables; type=targets,format=json for JSON
    #[arg(long, value_name = "WHAT", help_heading = "Input")]
    pub list: Option<String>,

    /// Push every image
    #[arg(long, help_heading = "Output")]
    pub push: bool,
    /// Keep every image in the local store, beside other outputs
    #[arg(long, help_heading = "Output")]
    pub load: bool,
    /// Same as --set '*.attest=type=provenance'
    #[arg(
        long,
        value_name = "SPEC",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Output"
    )]
    pub provenance: Option<String>,
    /// Same as --set '*.attest=type=sbom'
    #[arg(
        long,
        value_name = "SPEC",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Output"
    )]
    pub sbom: Option<String>,
    /// File to write facts about the results to
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub metadata_file: Option<PathBuf>,

    /// Ask no cache
    #[arg(long, help_heading = "Cache")]
    pub no_cache: bool,
    /// Ask registries what bases mean now: always, missing, newer, never [default: missing]
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        hide_possible_values = true,
        help_heading = "Cache"
    )]
    pub pull: Option<PullArg>,
    /// Use no network: sources come from the store
    #[arg(long, help_heading = "Cache")]
    pub offline: bool,

    /// Grant: network.host, security.insecure, device[=NAME], ssh, fs=PATH, fs.read=PATH, fs.write=PATH
    #[arg(long, value_name = "NAME", help_heading = "Steps")]
    pub allow: Vec<String>,
    /// Steps at once [default: by the machine]
    #[arg(long, value_name = "N", help_heading = "Steps")]
    pub jobs: Option<String>,
    /// Longest time of each RUN, such as 90s or 1h30m; build=TIME: of everything
    #[arg(long, value_name = "TIME", help_heading = "Steps")]
    pub timeout: Vec<String>,

    /// auto, tty, plain, rawjson, quiet
    #[arg(long, value_name = "MODE", help_heading = "Screen")]
    pub progress: Option<String>,
    /// Say nothing but errors
    #[arg(short, long, help_heading = "Screen")]
    pub quiet: bool,
    /// Check the Dockerfiles; runs nothing. Exit code 1 if anything is found
    #[arg(long, help_heading = "Screen")]
    pub check: bool,
    /// check, outline, targets
    #[arg(long, value_name = "METHOD", help_heading = "Screen")]
    pub call: Option<String>,

    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Docker's builder: there is one here.
    #[arg(long, hide = true)]
    pub builder: Option<String>,
}
