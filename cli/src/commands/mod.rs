//! One file per command, thin: options in, a call below, text out.

mod bake;
mod build;
mod cache_mount;
mod call;
mod check;
mod container;
mod context;
mod doctor;
mod du;
mod explain;
mod fetch;
mod graph;
mod history;
mod images;
mod import;
mod inspect;
mod load;
mod lock;
mod login;
mod logs;
mod prune;
mod pull;
mod push;
mod rmi;
mod save;
mod search;
mod tag;
mod version;
mod volume;

use std::io::Write;
use std::path::PathBuf;

use rgraph_image::registry::TransferEvent;
use rgraph_ir::SourceMap;
use rgraph_runtime::host::{Host, Level};
use rgraph_solver::CancelToken;

use crate::args::{Cli, Command, Environment};
use crate::options::{CacheMountOptions, ContextLsOptions, StateDirs, Terminals};
use crate::pipeline::CompileError;
use crate::report::{CliError, ErrorKind, Reporter, Style, chain_text};
use crate::session::{self, Signals};

/// What every command is given.
pub struct Context {
    /// The environment, read once.
    pub env: Environment,
    /// Where state lies.
    pub dirs: StateDirs,
    /// What is a terminal.
    pub terminals: Terminals,
    /// How reports are drawn.
    pub style: Style,
    /// Cancelled by a signal.
    pub cancel: CancelToken,
    /// Which signal it was.
    pub signals: Signals,
    /// What this host allows; `None` for commands that need no rights.
    pub host: Option<Host>,
}

impl Context {
    /// The state root.
    pub fn root(&self) -> &PathBuf {
        &self.dirs.root
    }

    /// What this host allows.
    pub fn host(&self) -> Result<&Host, CliError> {
        self.host.as_ref().ok_or_else(|| CliError::internal("a command without rights wants them"))
    }

    /// Draws on stderr. A closed stderr is nobody's loss.
    pub fn report(&self, draw: impl FnOnce(&mut Reporter<'_>) -> std::io::Result<()>) {
        // One write: other processes may share the terminal.
        let mut text = Vec::new();
        draw(&mut Reporter::new(&mut text, self.style)).unwrap_or(());
        std::io::stderr().write_all(&text).unwrap_or(());
    }

    /// Draws why there is no plan; gives the error that remains.
    pub fn compile_error(&self, e: CompileError) -> CliError {
        match e {
            CompileError::Cli(e) => e,
            CompileError::Text(diags, sources) => {
                self.diagnostics(&diags, &sources);
                CliError::reported(ErrorKind::Failed)
            }
        }
    }

    fn diagnostics(&self, diags: &[rgraph_ir::Diagnostic], sources: &SourceMap) {
        self.report(|r| r.diagnostics(diags, sources));
    }
}

/// An error of a command on images, with its causes.
pub fn images_error(e: &rgraph_runtime::images::ImagesError) -> CliError {
    let lost = e.is_loss();
    let e: &dyn std::error::Error = e;
    let error = CliError {
        source: e.source().map(|s| rgraph_runtime::report(s).into()),
        ..CliError::failed(e.to_string())
    };
    match lost {
        true => error.help(
            "`rgraph store check --read-data --repair` drops what is damaged; building or pulling the \
             image again then makes it anew",
        ),
        false => error,
    }
}

/// One line on stderr: what a person wants to know of a transfer.
pub fn note(text: &str) {
    let mut out = std::io::stderr().lock();
    writeln!(out, "{}", crate::progress::sanitize::harmless(text)).unwrap_or(());
}

/// An error that does not stop the command, with what to do about it.
pub fn note_error(e: &CliError) {
    note(&format!("error: {}", chain_text(e)));
    if let Some(help) = &e.help {
        note(&format!("help: {help}"));
    }
}

/// What a transfer has to say beside its layers: retries, resumed downloads, mirrors that failed.
pub fn transfer_note(e: &TransferEvent, quiet: bool) {
    match e {
        TransferEvent::Exists { .. } | TransferEvent::Mounted { .. } => {}
        e if !quiet => note(&e.to_string()),
        _ => {}
    }
}

/// Writes data to stdout.
pub fn print(text: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        // `rgraph images | head`: the reader has what it wanted.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        r => r.map_err(|e| CliError::failed("cannot write to standard output").because(e)),
    }
}

/// Whether a command may meet files of others than this user: all that make, pack, remove or count
/// file systems. To get the rights for that takes a few milliseconds.
fn needs_rights(command: &Command) -> bool {
    match command {
        Command::Build(_)
        | Command::Fetch(_)
        | Command::Import(_)
        | Command::Rmi(_)
        | Command::Save(_)
        | Command::Load(_)
        | Command::Pull(_)
        | Command::Push(_)
        | Command::Run(_)
        | Command::Start(_)
        | Command::Restart(_)
        | Command::Rm(_)
        | Command::Diff(_)
        | Command::Commit(_)
        | Command::Cp(_)
        | Command::Export(_)
        | Command::ContainerPrune(_)
        | Command::SystemPrune(_)
        | Command::Volume(_)
        | Command::Prune(_)
        | Command::Du(_)
        | Command::Doctor(_)
        | Command::StoreCheck(_)
        | Command::CacheMountLs(_)
        | Command::CacheMountClear(_)
        | Command::CacheMountSeed(_) => true,
        Command::Graph(a) => a.cached,
        Command::Ps(a) => a.size || a.format.as_deref().is_some_and(|f| f.contains(".Size")),
        Command::Inspect(a) => a.size,
        Command::Bake(a) => !a.print && a.list.is_none(),
        Command::Lock(_)
        | Command::Explain(_)
        | Command::Builds(_)
        | Command::Logs(_)
        | Command::Images(_)
        | Command::Exec(_)
        | Command::Stop(_)
        | Command::Kill(_)
        | Command::Wait(_)
        | Command::Attach(_)
        | Command::Tag(_)
        | Command::History(_)
        | Command::Version(_)
        | Command::ContextLs(_)
        | Command::Rename(_)
        | Command::Port(_)
        | Command::Top(_)
        | Command::Stats(_)
        | Command::Search(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Later(_) => false,
    }
}

/// Runs one command.
pub fn run(cli: Cli, env: Environment) -> Result<(), CliError> {
    let terminals = Terminals::detect();
    let colours = terminals.colours(&env);
    let cwd = std::env::current_dir()
        .map_err(|e| CliError::failed("the working folder is gone").because(e))?;
    let uid = rustix::process::geteuid().as_raw();
    let dirs = StateDirs::resolve(cli.root.as_deref(), &env, uid, &cwd)?;
    // Before there is a second thread.
    let host = if needs_rights(&cli.command) { Some(session::enter_host(&env)?) } else { None };
    let cancel = CancelToken::new();
    let signals = match &cli.command {
        // Nothing to clean up: a signal may end it at once.
        Command::Graph(a) if a.build.shared.offline && !a.cached => Signals::default(),
        // The container's, not ours.
        Command::Run(_) | Command::Start(_) | Command::Exec(_) | Command::Attach(_) => {
            Signals::default()
        }
        // They wait, and have nothing to clean up.
        Command::Wait(_)
        | Command::Stop(_)
        | Command::Kill(_)
        | Command::Logs(_)
        | Command::Top(_)
        | Command::Stats(_) => Signals::default(),
        _ => Signals::watch(&cancel),
    };
    let style = Style { colours, debug: cli.debug };
    let cx = Context { env, dirs, terminals, style, cancel, signals, host };
    if let (Some(Level::SingleId { why }), false) =
        (cx.host.as_ref().map(|h| &h.level), matches!(cli.command, Command::Doctor(_)))
    {
        let text = format!(
            "there is one user and one group here, so owners are recorded: {why}: {}",
            why.help
        );
        cx.report(|r| r.warning(&text));
    }
    if let (Some(host), false) = (&cx.host, matches!(cli.command, Command::Doctor(_))) {
        session::claim(host, cx.root())?;
    }
    let result = match cli.command {
        Command::Build(a) => build::run(&cx, *a),
        Command::Bake(a) => bake::run(&cx, *a),
        Command::Graph(a) => graph::run(&cx, *a),
        Command::Lock(a) => lock::run(&cx, *a),
        Command::Fetch(a) => fetch::run(&cx, *a),
        Command::Explain(a) => explain::run(&cx, a),
        Command::Builds(a) => explain::list(&cx, a),
        Command::Logs(a) => logs::run(&cx, a),
        Command::Run(a) => container::run(&cx, *a),
        Command::Ps(a) => container::list(&cx, a),
        Command::Exec(a) => container::exec(&cx, a),
        Command::Start(a) => container::start(&cx, a),
        Command::Stop(a) => container::stop(&cx, a),
        Command::Restart(a) => container::restart(&cx, a),
        Command::Kill(a) => container::kill(&cx, a),
        Command::Wait(a) => container::wait(&cx, &a),
        Command::Attach(a) => container::attach(&cx, a),
        Command::Rm(a) => container::remove(&cx, &a),
        Command::ContainerPrune(a) => container::prune(&cx, a),
        Command::SystemPrune(a) => prune::all(&cx, a),
        Command::Volume(c) => volume::run(&cx, c),
        Command::Rename(a) => container::rename(&cx, &a),
        Command::Diff(a) => container::diff(&cx, &a),
        Command::Commit(a) => container::commit(&cx, a),
        Command::Cp(a) => container::copy(&cx, a),
        Command::Export(a) => container::export(&cx, a),
        Command::Port(a) => container::port(&cx, &a),
        Command::Top(a) => container::top(&cx, &a),
        Command::Stats(a) => container::stats(&cx, a),
        Command::Images(a) => images::run(&cx, a),
        Command::Import(a) => import::run(&cx, a),
        Command::Tag(a) => tag::run(&cx, a),
        Command::Rmi(a) => rmi::run(&cx, a),
        Command::History(a) => history::run(&cx, a),
        Command::Version(a) => version::run(&a),
        Command::Inspect(a) => inspect::run(&cx, a),
        Command::Save(a) => save::run(&cx, a),
        Command::Load(a) => load::run(&cx, a),
        Command::Pull(a) => pull::run(&cx, a),
        Command::Push(a) => push::run(&cx, a),
        Command::Search(a) => search::run(&cx, a),
        Command::Login(a) => login::login(&cx, a),
        Command::Logout(a) => login::logout(&cx, a),
        Command::Prune(a) => prune::run(&cx, a),
        Command::Du(a) => du::run(&cx, a),
        Command::Doctor(a) => doctor::run(&cx, a),
        Command::StoreCheck(a) => check::run(&cx, a),
        Command::CacheMountLs(a) => cache_mount::run(&cx, CacheMountOptions::ls(a)?),
        Command::CacheMountClear(a) => cache_mount::run(&cx, CacheMountOptions::clear(a)?),
        Command::CacheMountSeed(a) => cache_mount::run(&cx, CacheMountOptions::seed(a)?),
        Command::ContextLs(a) => context::ls(&ContextLsOptions::new(a)?),
        Command::Later(l) => Err(CliError::not_yet(format!("`rgraph {}`", l.name()))),
    };
    // Whatever it said: a signal ended it.
    match (result, cx.signals.kind()) {
        (Err(e), Some(kind)) => Err(CliError { kind, ..e }),
        (r, _) => r,
    }
}
