//! Commands on containers.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{RegistryArgs, ResourceArgs};

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run in the background; print the id
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave it without ending it [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Pass signals on to it [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub sig_proxy: Option<bool>,
    /// Run a small process 1, which waits for orphans and passes signals on
    #[arg(long)]
    pub init: bool,
    /// Control group to make its group in
    #[arg(long, value_name = "PATH")]
    pub cgroup_parent: Option<String>,
    /// Let a port of the host lead to one of its own
    #[arg(short, long, value_name = "[[IP:]HOST:]PORT[/udp]")]
    pub publish: Vec<String>,
    /// As --publish for all ports that the image names, with free ports of the host
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Remove it when it ends
    #[arg(long)]
    pub rm: bool,
    /// Its name
    #[arg(long)]
    pub name: Option<String>,
    /// Set a variable; without a value it is the caller's
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Mount a volume, or a folder or file of the host
    #[arg(short, long, value_name = "[NAME:|HOST:]PATH[:ro]")]
    pub volume: Vec<String>,
    /// Mount something: type=bind|volume|tmpfs,source=...,target=...[,readonly]
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub mount: Vec<String>,
    /// Mount memory
    #[arg(long, value_name = "PATH[:size=N]")]
    pub tmpfs: Vec<String>,
    /// Signal that `stop` sends [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Working folder
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// User
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Program to run instead of the image's
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// default, host, none
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Option<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Line of /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,
    /// Resource limit of each process
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Limits.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Image, program, and arguments
    #[arg(value_name = "IMAGE [COMMAND...]", required = true, trailing_var_arg = true)]
    pub words: Vec<OsString>,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave it without ending it [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Set a variable; without a value it is the caller's
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working folder
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// User
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Container, program, and arguments
    #[arg(value_name = "CONTAINER COMMAND...", required = true, num_args = 2..,
          trailing_var_arg = true)]
    pub words: Vec<OsString>,
}

/// `start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Show what it prints, and pass signals on to it
    #[arg(short, long)]
    pub attach: bool,
    /// Pass standard input on to it
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that leave it without ending it [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `stop` and `restart`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Seconds until it is killed; -1: never [default: 10]
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_hyphen_values = true)]
    pub timeout: Option<i64>,
    /// Signal that asks it to end [default: the image's, or TERM]
    #[arg(short, long, value_name = "SIGNAL")]
    pub signal: Option<String>,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `kill`.
#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Pass no input on
    #[arg(long)]
    pub no_stdin: bool,
    /// Keys that leave it without ending it [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Pass signals on to it [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub sig_proxy: Option<bool>,
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Nothing is cut
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only those: id, name, label, exited, status, ancestor, before, since, volume, network, until
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
    /// So many of the newest, whatever they do
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    pub last: Option<i64>,
    /// The newest, whatever it does
    #[arg(short, long)]
    pub latest: bool,
    /// What they take on disk
    #[arg(short, long)]
    pub size: bool,
}

/// `port`.
#[derive(Debug, Args)]
pub struct PortArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Only this one of its ports
    #[arg(value_name = "PORT[/tcp|/udp]")]
    pub port: Option<String>,
}

/// `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Options of ps(1), which then draws the list [default: -ef]
    #[arg(value_name = "PS_OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

/// `stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Once, not every second
    #[arg(long)]
    pub no_stream: bool,
    /// Nothing is cut
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Containers [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// `rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    pub name: String,
}

/// `cp`.
#[derive(Debug, Args)]
pub struct CpArgs {
    /// Keep owners
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a link at the source
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// What: CONTAINER:PATH, a path, or - for an archive on standard input
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    pub source: PathBuf,
    /// Where: CONTAINER:PATH, a path, or - for an archive on standard output
    #[arg(value_name = "DEST", allow_hyphen_values = true)]
    pub dest: PathBuf,
}

/// `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// File to write [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `container prune`.
#[derive(Debug, Args)]
pub struct ContainerPruneArgs {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Only those: until, label, label!
    #[arg(long, value_name = "NAME=VALUE")]
    pub filter: Vec<String>,
}

/// `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
    /// Kill those that run
    #[arg(short, long)]
    pub force: bool,
    /// Their volumes without a name go too
    #[arg(short, long)]
    pub volumes: bool,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// `commit`.
#[derive(Debug, Args)]
pub struct CommitArgs {
    /// All its processes stand still meanwhile [default: true]
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub pause: Option<bool>,
    /// It goes on meanwhile
    #[arg(long)]
    pub no_pause: bool,
    /// Container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
    /// Author in the history
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub author: Option<String>,
    /// Comment in the history
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<String>,
    /// Instruction to apply: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ...
    #[arg(short, long, value_name = "INSTRUCTION", allow_hyphen_values = true)]
    pub change: Vec<String>,
}
