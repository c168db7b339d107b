//! What was typed, raw: clap structs, and the environment. [`crate::options`] is the only reader
//! of the fields; nothing after it sees a raw flag.
//!
//! Docker's spellings hold everywhere: `-t=v`, `-tv`, `--flag=true`, `--flag=false`, flags and
//! operands mixed, the last of a repeated single flag wins, and a flag with an optional value takes
//! it only with `=`.

mod bake;
mod build;
mod container;
mod environment;
mod image;
mod later;
mod registry;
mod shared;
mod store;
mod volume;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{Resettable, StyledStr, ValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use bake::BakeArgs;
pub use build::{
    BuildArgs, ContextLsArgs, FetchArgs, GraphArgs, GraphFormat, LockArgs, ResourceArgs,
};
pub use container::{
    AttachArgs, CommitArgs, ContainerPruneArgs, CpArgs, DiffArgs, ExecArgs, ExportArgs, KillArgs,
    PortArgs, PsArgs, RenameArgs, RmArgs, RunArgs, StartArgs, StatsArgs, StopArgs, TopArgs,
    WaitArgs,
};
pub use environment::Environment;
pub use image::{
    HistoryArgs, ImagesArgs, ImportArgs, InspectArgs, InspectKind, LoadArgs, PullArgs, PushArgs,
    RegistryArgs, RmiArgs, SaveArgs, TagArgs,
};
pub use later::{Later, Rest};
pub use registry::{LoginArgs, LogoutArgs, SearchArgs};
pub use shared::{PullArg, SharedArgs};
pub use store::{
    BuildsArgs, CacheMountClearArgs, CacheMountLsArgs, CacheMountSeedArgs, CheckArgs, DfArgs,
    DoctorArgs, ExplainArgs, ImagePruneArgs, LogsArgs, PruneArgs, SystemPruneArgs, VersionArgs,
};

pub use volume::{
    VolumeCommand, VolumeCreateArgs, VolumeInspectArgs, VolumeLsArgs, VolumePruneArgs, VolumeRmArgs,
};

/// The whole command line.
#[derive(Debug)]
pub struct Cli {
    /// `--root DIR`.
    pub root: Option<PathBuf>,
    /// `-D`: warnings and error chains in full.
    pub debug: bool,
    /// What to do, under its plain name (`image build` is `build`).
    pub command: Command,
}

/// What clap fills in.
#[derive(Debug, Parser)]
#[command(
    name = "rgraph",
    bin_name = "rgraph",
    version,
    about = "Compile Dockerfiles to a graph, and run it",
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    args_override_self = true,
    max_term_width = 100
)]
struct Raw {
    #[command(flatten)]
    global: Global,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Top,
}

#[derive(Debug, Args)]
struct Global {
    /// Folder for all state [default: /var/lib/rgraph, or below the user's home]
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show warnings and error causes in full
    #[arg(short = 'D', long, global = true)]
    debug: bool,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Top {
    #[command(flatten)]
    Plain(Command),
    /// Images of the local store
    #[command(subcommand)]
    Image(ImageGroup),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Containers
    #[command(subcommand)]
    Container(ContainerGroup),
    /// Docker's other name for `build` and `prune`
    #[command(subcommand, hide = true)]
    Builder(BuilderGroup),
    /// Docker's other name for `build`, `du` and `prune`
    #[command(subcommand, hide = true)]
    Buildx(BuilderGroup),
    /// Disk usage
    #[command(subcommand, hide = true)]
    System(SystemGroup),
    /// The store's own tools
    #[command(subcommand)]
    Store(StoreGroup),
    /// Folders of RUN --mount=type=cache
    #[command(subcommand)]
    CacheMount(CacheMountGroup),
    /// What a build may read
    #[command(subcommand)]
    Context(ContextGroup),
    #[command(flatten)]
    Later(Later),
}

/// What to do.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Build the targets of a bake or compose file together
    Bake(Box<BakeArgs>),
    /// Print the build graph; runs nothing
    Graph(Box<GraphArgs>),
    /// Write down what the sources of a build mean
    Lock(Box<LockArgs>),
    /// Get the sources of a build, to build without a network later
    Fetch(Box<FetchArgs>),
    /// Show why the steps of a build ran
    Explain(ExplainArgs),
    /// List the newest builds
    Builds(BuildsArgs),
    /// Print what a container or the steps of a build printed, whole
    Logs(LogsArgs),
    /// Run a program in a new container
    #[command(disable_help_flag = true)]
    Run(Box<RunArgs>),
    /// Run a program in a container that runs
    Exec(ExecArgs),
    /// List containers
    Ps(PsArgs),
    /// Start containers again
    Start(StartArgs),
    /// Ask containers to end, and kill those that do not
    Stop(StopArgs),
    /// Stop containers and start them again
    Restart(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Wait until containers have ended; print their exit codes
    Wait(WaitArgs),
    /// Stand in front of a container that runs
    Attach(AttachArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// Show what a container changed
    Diff(DiffArgs),
    /// Make an image of a container
    Commit(CommitArgs),
    /// Copy files into a container or out of it
    Cp(CpArgs),
    /// Write the files of a container to an archive
    Export(ExportArgs),
    /// Show the ports of a container on the host
    Port(PortArgs),
    /// Show the processes of a container
    Top(TopArgs),
    /// Show what containers use
    Stats(StatsArgs),
    /// List images
    Images(ImagesArgs),
    /// Make an image from a file system archive
    Import(ImportArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Show everything about images as JSON
    Inspect(InspectArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Get an image from a registry
    Pull(PullArgs),
    /// Send an image to a registry
    Push(PushArgs),
    /// Look for images in a registry
    Search(SearchArgs),
    /// Keep the credentials of a registry
    Login(LoginArgs),
    /// Forget the credentials of a registry
    Logout(LogoutArgs),
    /// Remove what nothing needs
    Prune(PruneArgs),
    /// Show disk usage
    Du(DfArgs),
    /// Show what this host allows
    Doctor(DoctorArgs),
    /// Check the store (`store check`)
    #[command(skip)]
    StoreCheck(CheckArgs),
    /// List cache mounts (`cache-mount ls`)
    #[command(skip)]
    CacheMountLs(CacheMountLsArgs),
    /// Empty cache mounts (`cache-mount clear`)
    #[command(skip)]
    CacheMountClear(CacheMountClearArgs),
    /// Fill a cache mount (`cache-mount seed`)
    #[command(skip)]
    CacheMountSeed(CacheMountSeedArgs),
    /// List what a context holds (`context ls`)
    #[command(skip)]
    ContextLs(ContextLsArgs),
    /// Remove containers that do not run (`container prune`)
    #[command(skip)]
    ContainerPrune(ContainerPruneArgs),
    /// Remove all of it (`system prune`)
    #[command(skip)]
    SystemPrune(SystemPruneArgs),
    /// Work on volumes (`volume ls`, ...)
    #[command(skip)]
    Volume(VolumeCommand),
    /// Show the version
    Version(VersionArgs),
    /// A name of the contract that nobody wrote yet
    #[command(skip)]
    Later(Later),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum ImageGroup {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Make an image from a file system archive
    Import(ImportArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Remove images without a name
    Prune(ImagePruneArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Show everything about images as JSON
    Inspect(InspectArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive
    Load(LoadArgs),
    /// Get an image from a registry
    Pull(PullArgs),
    /// Send an image to a registry
    Push(PushArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum ContainerGroup {
    /// Run a program in a new container
    #[command(disable_help_flag = true)]
    Run(Box<RunArgs>),
    /// List containers
    #[command(visible_alias = "list", alias = "ps")]
    Ls(PsArgs),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove containers that do not run
    Prune(ContainerPruneArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// Show everything about containers as JSON
    Inspect(InspectArgs),
    /// Print what a container printed
    Logs(LogsArgs),
    /// Show what a container changed
    Diff(DiffArgs),
    /// Make an image of a container
    Commit(CommitArgs),
    /// Copy files into a container or out of it
    Cp(CpArgs),
    /// Write the files of a container to an archive
    Export(ExportArgs),
    /// Show the ports of a container on the host
    Port(PortArgs),
    /// Run a program in a container that runs
    Exec(ExecArgs),
    /// Start containers again
    Start(StartArgs),
    /// Ask containers to end, and kill those that do not
    Stop(StopArgs),
    /// Stop containers and start them again
    Restart(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Wait until containers have ended; print their exit codes
    Wait(WaitArgs),
    /// Stand in front of a container that runs
    Attach(AttachArgs),
    /// Show the processes of a container
    Top(TopArgs),
    /// Show what containers use
    Stats(StatsArgs),
    #[command(flatten)]
    Later(Later),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum BuilderGroup {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Build the targets of a bake or compose file together
    #[command(alias = "f")]
    Bake(Box<BakeArgs>),
    /// Remove what nothing needs
    Prune(PruneArgs),
    /// Show disk usage
    Du(DfArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum SystemGroup {
    /// Show disk usage
    Df(DfArgs),
    /// Remove containers that do not run, and what nothing needs
    Prune(SystemPruneArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum StoreGroup {
    /// Name every damaged, missing or unreferenced object
    Check(CheckArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum ContextGroup {
    /// List the largest paths of a context, and what the ignore file hides
    #[command(visible_alias = "list")]
    Ls(ContextLsArgs),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum CacheMountGroup {
    /// List cache mounts with their sizes
    #[command(visible_alias = "list")]
    Ls(CacheMountLsArgs),
    /// Remove what cache mounts hold
    #[command(visible_alias = "rm")]
    Clear(CacheMountClearArgs),
    /// Give a cache mount a first content
    Seed(CacheMountSeedArgs),
}

impl From<Top> for Command {
    fn from(top: Top) -> Self {
        match top {
            Top::Plain(c) => c,
            Top::Image(g) => match g {
                ImageGroup::Build(a) => Self::Build(a),
                ImageGroup::Ls(a) => Self::Images(a),
                ImageGroup::Import(a) => Self::Import(a),
                ImageGroup::Tag(a) => Self::Tag(a),
                ImageGroup::Rm(a) => Self::Rmi(a),
                ImageGroup::Prune(a) => Self::Prune(PruneArgs {
                    force: a.force,
                    all: a.all,
                    filter: a.filter,
                    images_only: true,
                    ..PruneArgs::default()
                }),
                ImageGroup::History(a) => Self::History(a),
                ImageGroup::Inspect(mut a) => {
                    a.kind = Some(InspectKind::Image);
                    Self::Inspect(a)
                }
                ImageGroup::Save(a) => Self::Save(a),
                ImageGroup::Load(a) => Self::Load(a),
                ImageGroup::Pull(a) => Self::Pull(a),
                ImageGroup::Push(a) => Self::Push(a),
            },
            Top::Volume(c) => Self::Volume(c),
            Top::Container(g) => match g {
                ContainerGroup::Run(a) => Self::Run(a),
                ContainerGroup::Ls(a) => Self::Ps(a),
                ContainerGroup::Rm(a) => Self::Rm(a),
                ContainerGroup::Prune(a) => Self::ContainerPrune(a),
                ContainerGroup::Rename(a) => Self::Rename(a),
                ContainerGroup::Inspect(mut a) => {
                    a.kind = Some(InspectKind::Container);
                    Self::Inspect(a)
                }
                ContainerGroup::Logs(a) => Self::Logs(a),
                ContainerGroup::Diff(a) => Self::Diff(a),
                ContainerGroup::Commit(a) => Self::Commit(a),
                ContainerGroup::Cp(a) => Self::Cp(a),
                ContainerGroup::Export(a) => Self::Export(a),
                ContainerGroup::Port(a) => Self::Port(a),
                ContainerGroup::Exec(a) => Self::Exec(a),
                ContainerGroup::Start(a) => Self::Start(a),
                ContainerGroup::Stop(a) => Self::Stop(a),
                ContainerGroup::Restart(a) => Self::Restart(a),
                ContainerGroup::Kill(a) => Self::Kill(a),
                ContainerGroup::Wait(a) => Self::Wait(a),
                ContainerGroup::Attach(a) => Self::Attach(a),
                ContainerGroup::Top(a) => Self::Top(a),
                ContainerGroup::Stats(a) => Self::Stats(a),
                ContainerGroup::Later(l) => Self::Later(l),
            },
            Top::Builder(g) | Top::Buildx(g) => match g {
                BuilderGroup::Build(a) => Self::Build(a),
                BuilderGroup::Bake(a) => Self::Bake(a),
                BuilderGroup::Prune(a) => Self::Prune(a),
                BuilderGroup::Du(a) => Self::Du(a),
            },
            Top::System(SystemGroup::Df(a)) => Self::Du(a),
            Top::System(SystemGroup::Prune(a)) => Self::SystemPrune(a),
            Top::Store(StoreGroup::Check(a)) => Self::StoreCheck(a),
            Top::CacheMount(CacheMountGroup::Ls(a)) => Self::CacheMountLs(a),
            Top::CacheMount(CacheMountGroup::Clear(a)) => Self::CacheMountClear(a),
            Top::CacheMount(CacheMountGroup::Seed(a)) => Self::CacheMountSeed(a),
            Top::Context(ContextGroup::Ls(a)) => Self::ContextLs(a),
            Top::Later(l) => Self::Later(l),
        }
    }
}

/// Reads a command line; the first word is the program's name.
///
/// An `Err` also stands for `--help` and `--version`: [`clap::Error::use_stderr`] tells them apart,
/// and [`clap::Error::exit_code`] is 2 for wrong use, 0 for the two.
pub fn parse<I>(words: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = OsString>,
{
    let words: Vec<OsString> = words.into_iter().collect();
    if let Some(cli) = parse_short(&words) {
        return Ok(cli);
    }
    let matches = match late_grammar().try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(e) if e.kind() == ErrorKind::DisplayVersion => return Err(e),
        // One text for each mistake and each help: that of the whole grammar.
        Err(_) => match grammar().try_get_matches_from(&words) {
            // `--rm=false`: only then are on-off flags given an optional value, so that the help stays
            // readable.
            Err(e) if e.kind() == ErrorKind::TooManyValues => {
                lenient(grammar()).try_get_matches_from(&words)?
            }
            other => other?,
        },
    };
    let raw = Raw::from_arg_matches(&matches)?;
    Ok(Cli { root: raw.global.root, debug: raw.global.debug, command: raw.command.into() })
}

/// What is typed often, each as a grammar of its own: the whole one costs more than all else a cached
/// build does before its first step, or a container before its first process. What these do not take
/// is read by the whole one, so that there is one text for each mistake.
fn parse_short(words: &[OsString]) -> Option<Cli> {
    let name = plain_words(words).next()?;
    match name {
        "build" => short(name, words, |a| Command::Build(Box::new(a))),
        "graph" => short(name, words, |a| Command::Graph(Box::new(a))),
        "run" => short(name, words, |a| Command::Run(Box::new(a))),
        "exec" => short(name, words, Command::Exec),
        "ps" => short(name, words, Command::Ps),
        "start" => short(name, words, Command::Start),
        "stop" => short(name, words, Command::Stop),
        "restart" => short(name, words, Command::Restart),
        "kill" => short(name, words, Command::Kill),
        "wait" => short(name, words, Command::Wait),
        "rm" => short(name, words, Command::Rm),
        "logs" => short(name, words, Command::Logs),
        _ => None,
    }
}

/// The grammar of one command, with the flags that all have.
fn short_grammar<A: Args>(name: &str) -> clap::Command {
    let command = A::augment_args(clap::Command::new(name.to_owned())).disable_help_flag(true);
    Global::augment_args(clap::Command::new("rgraph"))
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .subcommand_required(true)
        .subcommand(command)
}

fn short<A: Args>(name: &str, words: &[OsString], command: fn(A) -> Command) -> Option<Cli> {
    let mut grammar = short_grammar::<A>(name);
    let matches = grammar.try_get_matches_from_mut(words);
    // To take it apart costs as much as to make it, and it is made once.
    std::mem::forget(grammar);
    let matches = matches.ok()?;
    let global = Global::from_arg_matches(&matches).ok()?;
    let args = A::from_arg_matches(matches.subcommand_matches(name)?).ok()?;
    Some(Cli { root: global.root, debug: global.debug, command: command(args) })
}

/// The words of a line that are neither flags nor the value of `--root`, as long as only flags that all
/// commands have come before them.
fn plain_words(words: &[OsString]) -> impl Iterator<Item = &str> {
    let mut words = words.iter().skip(1).map(|w| w.to_str().unwrap_or_default());
    std::iter::from_fn(move || {
        loop {
            match words.next()? {
                "--root" => drop(words.next()),
                flag if flag.starts_with('-') => {}
                word => return Some(word),
            }
        }
    })
}

/// Whether the line is one of `run`, whose wrong use has an exit code of its own.
pub fn is_run(words: &[OsString]) -> bool {
    plain_words(words).find(|word| *word != "container") == Some("run")
}

/// The grammar, for completions, man pages and tests.
pub fn grammar() -> clap::Command {
    let mut whole = late_grammar();
    let told = Told::of(&whole);
    whole.build();
    told.restore(&mut whole);
    whole
}

/// The grammar, in which a command's own is put together only when the command is named.
fn late_grammar() -> clap::Command {
    Raw::command()
        .mut_subcommand("lock", |c| c.defer(lock_grammar))
        .mut_subcommand("fetch", |c| c.defer(fetch_grammar))
}

/// What is told of a command, and of those below it. Where it is put together later, the words about
/// its flags take the place of those about itself.
struct Told(Option<StyledStr>, Option<StyledStr>, Vec<Self>);

impl Told {
    fn of(c: &clap::Command) -> Self {
        let below = c.get_subcommands().map(Self::of).collect();
        Self(c.get_about().cloned(), c.get_long_about().cloned(), below)
    }

    fn restore(self, c: &mut clap::Command) {
        let Self(about, long, below) = self;
        *c = std::mem::take(c).about(Resettable::from(about)).long_about(Resettable::from(long));
        for (told, c) in below.into_iter().zip(c.get_subcommands_mut()) {
            told.restore(c);
        }
    }
}

fn lock_grammar(command: clap::Command) -> clap::Command {
    sources_only(LockArgs::augment_args(command))
        .mut_arg("output", |a| {
            a.value_name("FILE")
                .help_heading("Lock")
                .help("Lock file, `-` for stdout [default: rgraph.lock beside the Dockerfile]")
        })
        .mut_arg("check", |a| {
            a.help_heading("Lock")
                .help("Ask the registries, compare, write nothing. Exit code 1 if it differs")
        })
        .mut_arg("locked", |a| a.hide(true))
}

fn fetch_grammar(command: clap::Command) -> clap::Command {
    sources_only(FetchArgs::augment_args(command))
        .mut_arg("output", |a| a.hide(true))
        .mut_arg("check", |a| a.hide(true))
}

/// Flags of a build that are taken, so that one word turns a build into another command, and say
/// nothing about its sources.
fn sources_only(command: clap::Command) -> clap::Command {
    const OTHER: [&str; 34] = [
        "add_host",
        "allow",
        "cache_from",
        "cache_to",
        "cache_ttl",
        "call",
        "cgroup_parent",
        "iidfile",
        "jobs",
        "label",
        "load",
        "metadata_file",
        "network",
        "no_cache",
        "no_cache_filter",
        "push",
        "secret",
        "shm_size",
        "ssh",
        "tag",
        "ulimit",
        "annotation",
        "memory",
        "memory_swap",
        "cpus",
        "cpu_shares",
        "cpu_period",
        "cpu_quota",
        "cpuset_cpus",
        "cpuset_mems",
        "pids_limit",
        "retry",
        "timeout",
        "debug_on_error",
    ];
    command
        .mut_args(|a| match OTHER.contains(&a.get_id().as_str()) {
            true => a.hide(true),
            false => a,
        })
        .mut_arg("quiet", |a| a.help("Say nothing but errors"))
}

/// Every on-off flag also as `--flag=true` and `--flag=false`.
fn lenient(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            if !matches!(arg.get_action(), ArgAction::SetTrue) {
                return arg;
            }
            arg.action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
                .value_parser(ValueParser::from(switch))
        })
        .mut_subcommands(lenient)
}

/// An on-off value as Go's `strconv.ParseBool` takes it.
fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected `true` or `false`".to_owned()),
    }
}

#[cfg(test)]
mod tests;
