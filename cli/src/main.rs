//! The program.

use std::process::ExitCode;

use rgraph_cli::args::{self, Environment};
use rgraph_cli::commands;
use rgraph_cli::report::{CliError, ErrorKind, Reporter, Style, install_panic_hook};

fn main() -> ExitCode {
    // The sandbox runner, and the supervisor of a container, are this program run again; they must
    // not see a thread.
    rgraph_runtime::sandbox::runner_main_if_asked();
    rgraph_runtime::container::supervisor_main_if_asked();
    rgraph_sys::memory::give_back();
    let panicked = install_panic_hook();
    let words: Vec<_> = std::env::args_os().collect();
    // As in Docker: what `run` gives is the program's code, and 125 is none of a program.
    let of_run = args::is_run(&words);
    let cli = match args::parse(words) {
        Ok(cli) => cli,
        Err(e) => {
            // Help goes to stdout, wrong use to stderr; a closed one is nobody's loss.
            e.print().unwrap_or(());
            let code = u8::try_from(e.exit_code()).unwrap_or(2);
            return ExitCode::from(if of_run && code != 0 { NOT_STARTED } else { code });
        }
    };
    let debug = cli.debug;
    let env = Environment::capture();
    if let Some(filter) = &env.log {
        tracing_subscriber::fmt()
            .with_env_filter(filter.as_str())
            .with_writer(std::io::stderr)
            .init();
    }
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| commands::run(cli, env)));
    if panicked.is_set() {
        return ExitCode::from(ErrorKind::Internal.exit_code());
    }
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(e)) => {
            let style = Style { colours: false, debug };
            draw(&e, style);
            match e.kind {
                ErrorKind::Failed | ErrorKind::Usage if of_run => ExitCode::from(NOT_STARTED),
                kind => ExitCode::from(kind.exit_code()),
            }
        }
        Err(_) => ExitCode::from(ErrorKind::Internal.exit_code()),
    }
}

/// A container could not be started.
const NOT_STARTED: u8 = 125;

fn draw(e: &CliError, style: Style) {
    let mut out = std::io::stderr().lock();
    Reporter::new(&mut out, style).error(e).unwrap_or(());
}
