//! `rgraph exec`: one more program in a container that runs.

use rgraph_runtime::container::{Attach, ContainerError, Containers, Exec};
use rgraph_sys::terminal;

use super::attach::{Forward, Manner, ended, follow, outcome, until_begun};
use super::{Context, container_error};
use crate::args::ExecArgs;
use crate::options::ExecOptions;
use crate::report::CliError;
use crate::session;

/// Runs the command. Its end is the program's.
pub fn exec(cx: &Context, args: ExecArgs) -> Result<(), CliError> {
    let cwd = std::env::current_dir()
        .map_err(|e| CliError::failed("the working folder is gone").because(e))?;
    let opts = ExecOptions::new(args, &cx.env, &cwd)?;
    if opts.tty && opts.interactive && !cx.terminals.stdin {
        return Err(CliError::failed("the input device is not a TTY")
            .help("leave `-t` out when standard input is a pipe or a file"));
    }
    let forward = Forward::watch(&cx.cancel);
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let failed = |e: ContainerError| container_error(&e);
    let record = containers.find(&opts.container).map_err(failed)?;
    let Some(connection) = containers.connect(&record).map_err(failed)? else {
        return Err(failed(ContainerError::NotRunning(record.short().to_owned()))
            .help(format!("start it first: `rgraph start {}`", record.name)));
    };
    let attach = Attach { input: opts.interactive, output: !opts.detach };
    let settings = record.settings;
    let mut env = settings.env;
    let has = |env: &[String], name: &str| env.iter().any(|v| v.starts_with(name));
    if !has(&env, "HOSTNAME=") {
        let short = record.id.get(..12).unwrap_or(&record.id);
        let name = if settings.hostname.is_empty() { short } else { &settings.hostname };
        env.push(format!("HOSTNAME={name}"));
    }
    if opts.tty && !has(&env, "TERM=") {
        env.push("TERM=xterm".to_owned());
    }
    for (key, value) in &opts.env {
        env.retain(|v| v.split_once('=').is_none_or(|(k, _)| k != key));
        env.push(format!("{key}={value}"));
    }
    let exec = Exec {
        args: opts.args,
        env,
        cwd: opts.workdir.unwrap_or(settings.cwd),
        user: opts.user.unwrap_or(settings.user),
        terminal: opts.tty,
        open_input: opts.interactive,
        size: terminal::size(std::io::stdin()).unwrap_or((24, 80)),
        attach,
    };
    connection.exec(&exec).map_err(failed)?;
    if let Some(end) = until_begun(&connection, Some(&forward))? {
        return ended(end);
    }
    if opts.detach {
        return Ok(());
    }
    let manner = Manner {
        input: opts.interactive,
        terminal: opts.tty,
        signals: false,
        keys: opts.detach_keys,
    };
    outcome(follow(connection, None, manner, &forward)?)
}
