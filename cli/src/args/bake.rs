//! `bake`.

use std::path::PathBuf;

use clap::Args;

use super::shared::SharedArgs;

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

    /// Grant: network.host, security.insecure, device[=NAME], ssh, fs=PATH, fs.read=PATH, fs.write=PATH
    #[arg(long, value_name = "NAME", help_heading = "Steps")]
    pub allow: Vec<String>,

    /// What `build` has too.
    #[command(flatten)]
    pub shared: SharedArgs,
    /// Docker's builder: there is one here.
    #[arg(long, hide = true)]
    pub builder: Option<String>,
}
