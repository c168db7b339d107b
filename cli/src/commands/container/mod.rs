//! Commands on containers.

mod attach;
mod commit;
mod copy;
mod filter;
pub mod inspect;
mod keep;
mod keys;
mod list;
mod ports;
mod run;

use rgraph_runtime::container::{ContainerError, Containers, State, changes, log};
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::sandbox::Stream;
use rgraph_runtime::snapshot::Snapshots;
use rgraph_store::Store;

use super::{Context, note, note_error, print};
use crate::args::{DiffArgs, RmArgs};
use crate::progress::sanitize::harmless;
use crate::report::{CliError, ErrorKind};
use crate::session::{self, store_error};

pub use commit::commit;
pub use copy::{copy, export};
pub use keep::{agreed, prune, rename};
pub use list::list;
pub use ports::port;
pub use run::run;

/// How far a container is, in Docker's word.
fn word(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running { .. } => "running",
        State::Exited { .. } => "exited",
    }
}

/// An error of a container, with its causes.
fn container_error(e: &ContainerError) -> CliError {
    let e: &dyn std::error::Error = e;
    CliError {
        source: e.source().map(|s| rgraph_runtime::report(s).into()),
        ..CliError::failed(e.to_string())
    }
}

/// `rgraph rm`: one that cannot go does not stop the rest.
pub fn remove(cx: &Context, args: &RmArgs) -> Result<(), CliError> {
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let remove = |word: &str| {
        let record = containers.find(word)?;
        if !args.force {
            let held = containers.hold(&record)?;
            return if args.volumes {
                containers.remove_all(held)
            } else {
                containers.remove(held)
            };
        }
        match containers.seize(&record)? {
            Some(held) if args.volumes => containers.remove_all(held),
            Some(held) => containers.remove(held),
            None => Ok(()),
        }
    };
    let mut failed = false;
    for word in &args.containers {
        match remove(word) {
            Ok(()) => print(format!("{}\n", harmless(word)).as_bytes())?,
            // As in Docker: what is to be gone by force may be gone already.
            Err(e) => {
                failed |= !(args.force && matches!(e, ContainerError::NotFound(_)));
                note_error(&container_error(&e));
            }
        }
    }
    if failed { Err(CliError::reported(ErrorKind::Failed)) } else { Ok(()) }
}

/// Shows what a container printed, each stream where it went; false: nothing is called so.
pub fn logs(store: &Store, name: &str) -> Result<bool, CliError> {
    let containers = Containers::new(store);
    let record = match containers.find(name) {
        Err(ContainerError::NotFound(_)) => return Ok(false),
        found => found.map_err(|e| container_error(&e))?,
    };
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let mut show = |stream, _time: i64, text: &[u8]| {
        let to: &mut dyn std::io::Write = match stream {
            Stream::Stdout => &mut out,
            Stream::Stderr => &mut err,
        };
        to.write_all(text)?;
        to.flush()
    };
    match log::read(&containers.folder(&record), &mut show) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
        r => r.map(|()| true).map_err(|e| CliError::failed("cannot show the log").because(e)),
    }
}

/// `rgraph diff`.
pub fn diff(cx: &Context, args: &DiffArgs) -> Result<(), CliError> {
    let store = session::open_store(cx.root())?;
    let host = cx.host()?;
    let containers = Containers::new(&store);
    let failed = |e: ContainerError| container_error(&e);
    let record = containers.find(&args.container).map_err(failed)?;
    let lease = store.lease().map_err(|e| store_error(&e))?;
    let fetcher = ImageFetcher::new(&store, None, PullPolicy::Never, &cx.cancel);
    let snapshots = Snapshots::new(&store, host, &fetcher, &lease);
    let below = match record.base() {
        Some(id) => Some(snapshots.mount_read_only(id, None).map_err(|e| failed(e.into()))?),
        None => None,
    };
    let upper = containers.folder(&record).join("fs");
    let all = changes(&upper, below.as_ref(), host.userxattr).map_err(failed)?;
    let line = |(path, change): (&std::path::PathBuf, &rgraph_runtime::container::Change)| {
        format!("{} {}\n", change.letter(), harmless(&path.to_string_lossy()))
    };
    print(all.iter().map(line).collect::<String>().as_bytes())
}
