//! One file per command, thin: options in, a call below, text out.

mod build;
mod call;
mod graph;
mod images;
mod import;
mod tag;

use std::io::Write;
use std::path::PathBuf;

use rgraph_ir::SourceMap;
use rgraph_solver::CancelToken;

use crate::args::{Cli, Command, Environment};
use crate::options::{StateDirs, Terminals};
use crate::pipeline::CompileError;
use crate::report::{CliError, ErrorKind, Reporter, Style};
use crate::session::Signals;

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
}

impl Context {
    /// The state root.
    pub fn root(&self) -> &PathBuf {
        &self.dirs.root
    }

    /// Draws on stderr. A closed stderr is nobody's loss.
    pub fn report(&self, draw: impl FnOnce(&mut Reporter<'_>) -> std::io::Result<()>) {
        let mut out = std::io::stderr().lock();
        draw(&mut Reporter::new(&mut out, self.style)).unwrap_or(());
        out.flush().unwrap_or(());
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

/// Writes data to stdout.
pub fn print(text: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        // `rgraph images | head`: the reader has what it wanted.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        r => r.map_err(|e| CliError::failed("cannot write to standard output").because(e)),
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
    let cancel = CancelToken::new();
    let signals = Signals::watch(&cancel);
    let style = Style { colours, debug: cli.debug };
    let cx = Context { env, dirs, terminals, style, cancel, signals };
    let result = match cli.command {
        Command::Build(a) => build::run(&cx, *a),
        Command::Graph(a) => graph::run(&cx, *a),
        Command::Images(a) => images::run(&cx, a),
        Command::Import(a) => import::run(&cx, a),
        Command::Tag(a) => tag::run(&cx, a),
        Command::Rmi(_) => Err(CliError::not_yet("`rgraph rmi`")),
        Command::History(_) => Err(CliError::not_yet("`rgraph history`")),
        Command::Version(_) => {
            print(concat!("rgraph ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())
        }
        Command::Inspect(_) => Err(CliError::not_yet("`rgraph inspect`")),
        Command::Save(_) => Err(CliError::not_yet("`rgraph save`")
            .help("`rgraph build -o type=docker,dest=FILE` writes one")),
        Command::Load(_) => Err(CliError::not_yet("`rgraph load`")),
        Command::Pull(_) => {
            Err(CliError::not_yet("`rgraph pull`").help("`FROM` pulls what a build needs"))
        }
        Command::Push(_) => {
            Err(CliError::not_yet("`rgraph push`").help("`rgraph build --push -t NAME` pushes"))
        }
        Command::Prune(_) => Err(CliError::not_yet("`rgraph prune`")),
        Command::Du(_) => Err(CliError::not_yet("`rgraph du`")),
        Command::Doctor(_) => Err(CliError::not_yet("`rgraph doctor`")),
        Command::StoreCheck(_) => Err(CliError::not_yet("`rgraph store check`")),
        Command::Later(l) => Err(CliError::not_yet(format!("`rgraph {}`", l.name()))),
    };
    // Whatever it said: a signal ended it.
    match (result, cx.signals.kind()) {
        (Err(e), Some(kind)) => Err(CliError { kind, ..e }),
        (r, _) => r,
    }
}
