//! Commands on registries.

use clap::Args;

use super::RegistryArgs;

/// `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Registry [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
    /// Name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password or token; others may see it among the processes
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub password: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Registry [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

/// `search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look for; `HOST[:PORT]/WORD` asks that registry
    #[arg(value_name = "TERM")]
    pub term: String,
    /// Most results
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub limit: usize,
    /// stars=N, is-official=true|false
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// Whole descriptions
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
}
