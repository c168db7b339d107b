//! Commands on containers.

mod attach;
mod commit;
mod copy;
mod exec;
mod filter;
pub mod inspect;
mod keep;
mod keys;
mod life;
mod list;
mod logs;
mod ports;
mod run;
mod stats;
mod top;

use rgraph_runtime::container::{ContainerError, Containers, State, changes};
use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::snapshot::Snapshots;

use super::{Context, note, note_error, print};
use crate::args::{DiffArgs, RmArgs};
use crate::progress::sanitize::harmless;
use crate::report::{CliError, ErrorKind};
use crate::session::{self, store_error};

pub use commit::commit;
pub use copy::{copy, export};
pub use exec::exec;
pub use keep::{agreed, prune, remove_stopped, rename};
pub use life::{attach, kill, restart, start, stop, wait};
pub use list::list;
pub use logs::logs;
pub use ports::port;
pub use run::run;
pub use stats::stats;
pub use top::top;

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
    let all = changes(&upper, below.as_deref(), host.userxattr).map_err(failed)?;
    let line = |(path, change): (&std::path::PathBuf, &rgraph_runtime::container::Change)| {
        format!("{} {}\n", change.letter(), harmless(&path.to_string_lossy()))
    };
    print(all.iter().map(line).collect::<String>().as_bytes())
}
