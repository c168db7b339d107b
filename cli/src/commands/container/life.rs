//! `rgraph start`, `stop`, `restart`, `kill`, `wait`, `attach`: what happens to a container that was made
//! before.

use std::time::Duration;

use rgraph_runtime::container::{
    Attach, Connection, ContainerError, Containers, Record, Start, StartingSupervisor, State,
    Waited, start as begin,
};
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_store::Store;
use rgraph_sys::terminal;

use super::attach::{Forward, Manner, follow, not_begun, outcome, until_begun};
use super::{Context, container_error, print};
use crate::args::{AttachArgs, KillArgs, StartArgs, StopArgs, WaitArgs};
use crate::commands::{note, note_error};
use crate::options::{AttachOptions, StartOptions, StopOptions, TERM, signal};
use crate::progress::sanitize::harmless;
use crate::report::{CliError, ErrorKind};
use crate::session::{self, store_error};

const KILL: i32 = 9;

/// Does it to each; one that fails does not stop the rest. Each that went well is printed.
fn each(words: &[String], mut f: impl FnMut(&str) -> Result<(), CliError>) -> Result<(), CliError> {
    let mut failed = false;
    for word in words {
        match f(word) {
            Ok(()) => print(format!("{}\n", harmless(word)).as_bytes())?,
            Err(e) => {
                failed = true;
                note_error(&e);
            }
        }
    }
    if failed { Err(CliError::reported(ErrorKind::Failed)) } else { Ok(()) }
}

/// `rgraph start`.
pub fn start(cx: &Context, args: StartArgs) -> Result<(), CliError> {
    let opts = StartOptions::new(args)?;
    let forward = opts.attach.then(|| Forward::watch(&cx.cancel));
    forward.iter().for_each(Forward::listen);
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let (Some(forward), [word]) = (forward, opts.containers.as_slice()) else {
        return each(&opts.containers, |word| {
            let record = containers.find(word).map_err(|e| container_error(&e))?;
            again(cx, &store, &containers, &record)
        });
    };
    let record = containers.find(word).map_err(|e| container_error(&e))?;
    let attach = Attach { input: opts.interactive && record.settings.open_input, output: true };
    let connection = match launch(cx, &store, &containers, &record, attach)? {
        Some(connection) => connection,
        None => join(&containers, &record.id, attach)?,
    };
    let terminal = record.settings.terminal;
    // As in Docker: at a terminal only `run` passes them on.
    let (input, signals) = (attach.input, !terminal);
    let manner = Manner { input, terminal, signals, keys: opts.detach_keys };
    outcome(follow(connection, Some(&containers.folder(&record)), manner, &forward)?)
}

/// Starts one in the background. One that runs is no error.
fn again(
    cx: &Context,
    store: &Store,
    containers: &Containers<'_>,
    record: &Record,
) -> Result<(), CliError> {
    match record.state {
        State::Running { .. } => Ok(()),
        _ => launch(cx, store, containers, record, Attach::default()).map(drop),
    }
}

/// Stands in front of one that runs.
fn join(containers: &Containers<'_>, id: &str, attach: Attach) -> Result<Connection, CliError> {
    let failed = |e: ContainerError| container_error(&e);
    let record = containers.find(id).map_err(failed)?;
    let not_running = || failed(ContainerError::NotRunning(record.short().to_owned()));
    let connection = containers.connect(&record).map_err(failed)?.ok_or_else(not_running)?;
    connection.attach(attach).map_err(failed)?;
    Ok(connection)
}

/// Gives it to a supervisor, and waits until its program runs; `None`: it runs already.
fn launch(
    cx: &Context,
    store: &Store,
    containers: &Containers<'_>,
    record: &Record,
    attach: Attach,
) -> Result<Option<Connection>, CliError> {
    let supervisor =
        StartingSupervisor::call(record.settings.network).map_err(|e| container_error(&e))?;
    let config = session::config(&cx.dirs)?;
    let lease = store.lease().map_err(|e| store_error(&e))?;
    let fetcher = ImageFetcher::new(store, None, PullPolicy::Never, &cx.cancel);
    let held = containers.hold_unless_running(record).map_err(|e| container_error(&e))?;
    let Some(held) = held else { return Ok(None) };
    let how = Start {
        store,
        host: cx.host()?,
        lease: &lease,
        provider: &fetcher,
        network_fallback: config.network_fallback(),
        size: terminal::size(std::io::stdin()).unwrap_or((24, 80)),
        warn: &|text| note(&format!("warning: {text}")),
    };
    let connection =
        begin(&how, containers, held, supervisor, attach).map_err(|e| container_error(&e))?;
    match until_begun(&connection, None)? {
        None => Ok(Some(connection)),
        Some(end) => not_begun(&how, end).map(|()| None),
    }
}

/// `rgraph stop`.
pub fn stop(cx: &Context, args: StopArgs) -> Result<(), CliError> {
    let opts = StopOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    each(&opts.containers, |word| {
        let record = containers.find(word).map_err(|e| container_error(&e))?;
        halt(&containers, &record, &opts)
    })
}

/// `rgraph restart`.
pub fn restart(cx: &Context, args: StopArgs) -> Result<(), CliError> {
    let opts = StopOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let find = |word: &str| containers.find(word).map_err(|e| container_error(&e));
    each(&opts.containers, |word| {
        halt(&containers, &find(word)?, &opts)?;
        again(cx, &store, &containers, &find(word)?)
    })
}

/// Asks it to end, and kills it when it does not. One that does not run is no error.
fn halt(containers: &Containers<'_>, record: &Record, opts: &StopOptions) -> Result<(), CliError> {
    let failed = |e: ContainerError| container_error(&e);
    let Some(supervisor) = containers.connect(record).map_err(failed)? else { return Ok(()) };
    let own = match record.settings.stop_signal.as_str() {
        "" => TERM,
        // What an image says may be nonsense: then as if it said nothing.
        name => signal("STOPSIGNAL", name).unwrap_or(TERM),
    };
    supervisor.signal(opts.signal.unwrap_or(own)).map_err(failed)?;
    if supervisor.end(opts.grace).map_err(failed)? == Waited::Running {
        supervisor.signal(KILL).map_err(failed)?;
        supervisor.end(None).map_err(failed)?;
    }
    Ok(())
}

/// `rgraph kill`.
pub fn kill(cx: &Context, args: KillArgs) -> Result<(), CliError> {
    let number = signal("--signal", &args.signal)?;
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    each(&args.containers, |word| {
        let failed = |e: ContainerError| container_error(&e);
        let record = containers.find(word).map_err(failed)?;
        let supervisor = containers.connect(&record).map_err(failed)?;
        let not_running = || ContainerError::NotRunning(word.to_owned());
        let supervisor = supervisor.ok_or_else(not_running).map_err(failed)?;
        supervisor.signal(number).and_then(|()| supervisor.answer()).map_err(failed)?;
        if number == KILL {
            // Whoever comes next finds it ended; one that hangs in the kernel is not waited for.
            supervisor.end(Some(KILL_WAIT)).map_err(failed)?;
        }
        Ok(())
    })
}

/// How long `kill` waits for the end of what it killed.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// `rgraph wait`.
pub fn wait(cx: &Context, args: &WaitArgs) -> Result<(), CliError> {
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let mut failed = false;
    for word in &args.containers {
        match code(&containers, word) {
            Ok(code) => print(format!("{code}\n").as_bytes())?,
            Err(e) => {
                failed = true;
                note_error(&container_error(&e));
            }
        }
    }
    if failed { Err(CliError::reported(ErrorKind::Failed)) } else { Ok(()) }
}

/// The exit code of a container, when it has one.
fn code(containers: &Containers<'_>, word: &str) -> Result<i32, ContainerError> {
    let record = containers.find(word)?;
    let known = |state| match state {
        State::Exited { code, .. } => code,
        State::Created => 0,
        State::Running { .. } => 128 + KILL,
    };
    let Some(supervisor) = containers.connect(&record)? else { return Ok(known(record.state)) };
    match supervisor.end(None)? {
        Waited::Ended(end) => Ok(end.code),
        Waited::Gone | Waited::Running => match containers.find(&record.id) {
            Ok(record) => Ok(known(record.state)),
            Err(ContainerError::NotFound(_)) => Ok(128 + KILL),
            Err(e) => Err(e),
        },
    }
}

/// `rgraph attach`. Its end is the program's.
pub fn attach(cx: &Context, args: AttachArgs) -> Result<(), CliError> {
    let opts = AttachOptions::new(args)?;
    let forward = Forward::watch(&cx.cancel);
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let failed = |e: ContainerError| container_error(&e);
    let record = containers.find(&opts.container).map_err(failed)?;
    let Some(connection) = containers.connect(&record).map_err(failed)? else {
        return Err(failed(ContainerError::NotRunning(record.short().to_owned()))
            .help(format!("start it first: `rgraph start {}`", record.name)));
    };
    let input = opts.input && record.settings.open_input;
    if input && record.settings.terminal && !cx.terminals.stdin {
        return Err(CliError::failed("the input device is not a TTY")
            .help("add `--no-stdin` when standard input is a pipe or a file"));
    }
    connection.attach(Attach { input, output: true }).map_err(failed)?;
    let terminal = record.settings.terminal;
    let signals = opts.sig_proxy && !terminal;
    let manner = Manner { input, terminal, signals, keys: opts.detach_keys };
    outcome(follow(connection, Some(&containers.folder(&record)), manner, &forward)?)
}
