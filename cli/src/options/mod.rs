//! Raw flags to typed options: the one conversion, and every error of the command line.
//!
//! [`BuildOptions::new`] reads what must be read at once (secrets) and touches nothing else of the
//! world. Strings of the command line end here.

pub mod csv;
mod device;

mod annotation;
mod attest;
mod bake;
mod build;
mod cache;
mod config;
mod container;
mod context;
mod dirs;
mod error;
mod format;
mod image;
mod life;
mod lock;
mod mounts;
mod output;
mod ports;
mod registry;
mod resources;
mod service;
mod signal;
mod size;
mod source;
mod steps;
mod store;
mod volume;

pub use attest::attestations;
pub use bake::{BakeMode, BakeOptions, Grants};
pub use build::{BuildOptions, Call, GraphOptions, Platforms, Timeouts, host_platform};
pub use cache::{cache_from, cache_to};
pub use config::{Config, ConfigError};
pub use container::{
    CommitOptions, ContainerPruneOptions, CopyEnd, CpOptions, ExportOptions, LabelFilter,
    PsOptions, RunOptions, container_name,
};
pub use context::{ContextLsOptions, ContextSpec, FileSpec, NamedContext, named};
pub use device::{SPEC_DIRS, devices};
pub use dirs::StateDirs;
pub use error::OptionsError;
pub use format::{Format, Layout};
pub use image::{
    HistoryOptions, ImageName, ImagesOptions, ImportOptions, ImportSource, InspectOptions,
    LoadOptions, PullOptions, PushOptions, RmiOptions, SaveOptions, TagOptions, template_or_json,
    version_template,
};
pub use life::{AttachOptions, ExecOptions, LogsOptions, StartOptions, StatsOptions, StopOptions};
pub use lock::{FetchOptions, LockDest, LockOptions};
pub use mounts::{Mounts, NamedVolume};
pub use output::{normal_tag, parse_output};
pub use registry::{LoginOptions, Password, SearchOptions, logout_server};
pub use resources::resources;
pub use service::services;
pub use signal::{TERM, signal};
pub use size::{parse_amount, parse_seconds, parse_size};
pub use source::{SshOption, agents, secrets};
pub use steps::{HOST_GATEWAY, entitlements, host, network, shm_size, ulimit};
pub use store::{Bounds, CacheMountOptions, CheckOptions, DfOptions, PruneOptions};
pub use volume::{VolumeCreateOptions, VolumeLsOptions, VolumePruneOptions};

use std::io::IsTerminal as _;

use rgraph_ir::near::nearest;

use crate::args::{Environment, PullArg};

/// Which of the standard streams are terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terminals {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Terminals {
    /// Asks the process.
    pub fn detect() -> Self {
        Self {
            stdin: std::io::stdin().is_terminal(),
            stdout: std::io::stdout().is_terminal(),
            stderr: std::io::stderr().is_terminal(),
        }
    }

    /// Colours may be written to stderr.
    pub fn colours(self, env: &Environment) -> bool {
        self.stderr && !env.no_color && !env.dumb_terminal
    }

    /// Someone is there to answer a question.
    pub fn can_ask(self) -> bool {
        self.stdin && self.stderr
    }
}

/// When a base image is asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pull {
    /// At every build.
    Always,
    /// When the store has no such tag.
    #[default]
    Missing,
    /// When the registry's is newer.
    Newer,
    /// Never.
    Never,
}

impl From<PullArg> for Pull {
    fn from(p: PullArg) -> Self {
        match p {
            PullArg::Always => Self::Always,
            PullArg::Missing => Self::Missing,
            PullArg::Newer => Self::Newer,
            PullArg::Never => Self::Never,
        }
    }
}

/// How progress is shown, decided: `auto` is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressMode {
    /// Live lines.
    Tty,
    /// BuildKit's lines.
    Plain,
    /// One JSON object per line.
    RawJson,
    /// The lines of Docker's classic builder.
    Legacy,
    /// Nothing; the id on stdout.
    Quiet,
}

impl ProgressMode {
    /// Decides from `-q`, `--progress`, the environment and whether stderr is a terminal.
    pub fn choose(
        quiet: bool,
        flag: Option<&str>,
        env: &Environment,
        stderr_is_terminal: bool,
    ) -> Result<Self, OptionsError> {
        let known = ["auto", "tty", "plain", "rawjson", "quiet", "legacy"];
        let live = stderr_is_terminal && !env.dumb_terminal;
        let auto = if live { Self::Tty } else { Self::Plain };
        let (name, word) = match (flag, &env.progress) {
            (Some(f), _) => ("--progress", f),
            (None, Some(e)) => ("BUILDKIT_PROGRESS", e.as_str()),
            (None, None) => ("--progress", "auto"),
        };
        let mode = match word {
            // A pipe cannot be redrawn.
            "auto" | "tty" => auto,
            "plain" => Self::Plain,
            "rawjson" => Self::RawJson,
            "quiet" | "none" => Self::Quiet,
            "legacy" => Self::Legacy,
            _ => return Err(OptionsError::word(name, word, "mode", &known)),
        };
        Ok(if quiet { Self::Quiet } else { mode })
    }
}

/// Reads `NAME=VALUE` filters; a name that is not in `known` is refused with the nearest.
pub fn filters(lines: &[String], known: &[&str]) -> Result<Vec<(String, String)>, OptionsError> {
    const FLAG: &str = "--filter";
    let mut out = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once('=') else {
            return Err(OptionsError::value(FLAG, line, "expected NAME=VALUE"));
        };
        let name = name.trim().to_ascii_lowercase();
        if !known.contains(&name.as_str()) {
            let e = OptionsError::value(FLAG, line, format!("unknown filter `{name}`"));
            return Err(match nearest(&name, known.iter().copied()) {
                Some(near) => e.with_help(format!("did you mean `{near}`?")),
                None => e.with_help(format!("known: {}", known.join(", "))),
            });
        }
        out.push((name, value.to_owned()));
    }
    Ok(out)
}

/// An on-off value, as flags and filters have it.
pub fn switch_value(text: &str) -> Result<bool, String> {
    csv::switch(Some(text))
}

/// `HOST[:PORT]`, without a scheme.
fn is_registry(host: &str) -> bool {
    // The reference grammar knows what a registry is.
    let reads_as_host = format!("{host}/x")
        .parse::<rgraph_ir::Reference>()
        .is_ok_and(|r| r.registry == *host || host.parse::<std::net::IpAddr>().is_ok());
    let bare = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    reads_as_host || bare
}

/// Registries reached over plain HTTP or with an unknown certificate: those of the flags and of the
/// environment, checked to be `HOST[:PORT]`.
pub fn insecure_registries(
    flags: &[String],
    env: &Environment,
) -> Result<Vec<String>, OptionsError> {
    let flags = flags.iter().map(|f| ("--insecure-registry", f));
    let env = env.insecure_registries.iter().map(|h| ("RGRAPH_INSECURE_REGISTRIES", h));
    let mut out = Vec::new();
    for (from, host) in flags.chain(env) {
        if !is_registry(host) {
            return Err(OptionsError::value(from, host, "expected HOST[:PORT], without a scheme"));
        }
        if !out.contains(host) {
            out.push(host.clone());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
