//! `rgraph rename` and `rgraph container prune`.

use std::io::{BufRead as _, Write as _};

use rgraph_runtime::container::{ContainerError, Containers, State, changed_bytes};
use rgraph_store::Store;

use super::{Context, container_error, inspect, print};
use crate::args::{ContainerPruneArgs, RenameArgs};
use crate::options::{ContainerPruneOptions, container_name};
use crate::progress::sanitize::harmless;
use crate::report::CliError;
use crate::{session, table};

/// `rgraph rename`.
pub fn rename(cx: &Context, args: &RenameArgs) -> Result<(), CliError> {
    container_name("NEW_NAME", &args.name)?;
    let store = session::open_store(cx.root())?;
    let containers = Containers::new(&store);
    let record = containers.find(&args.container).map_err(|e| container_error(&e))?;
    containers.rename(&record, &args.name).map_err(|e| container_error(&e))
}

/// `rgraph container prune`: those that do not run go.
pub fn prune(cx: &Context, args: ContainerPruneArgs) -> Result<(), CliError> {
    let opts = ContainerPruneOptions::new(args, cx.terminals)?;
    if opts.ask && !agreed("This removes all stopped containers.")? {
        return Ok(());
    }
    let store = session::open_store(cx.root())?;
    let (text, freed) = remove_stopped(&store, &opts)?;
    print(format!("{text}Total reclaimed space: {}\n", table::size(freed)).as_bytes())
}

/// Removes the containers that do not run; tells of them, and how many bytes they had.
pub fn remove_stopped(
    store: &Store,
    opts: &ContainerPruneOptions,
) -> Result<(String, u64), CliError> {
    let containers = Containers::new(store);
    let now = jiff::Timestamp::now().as_second();
    let failed = |e: ContainerError| container_error(&e);
    let (mut text, mut freed) = (String::new(), 0);
    for record in containers.list().map_err(failed)? {
        let age = u64::try_from(now.saturating_sub(record.created)).unwrap_or(0);
        let old = opts.older_than.is_none_or(|least| age >= least);
        let labels = inspect::labels(store, &record);
        if matches!(record.state, State::Running { .. }) || !old || !opts.labels.keep(&labels) {
            continue;
        }
        let (id, bytes) = (record.id.clone(), changed_bytes(&containers.folder(&record)));
        match containers.hold(&record).and_then(|held| containers.remove(held)) {
            Ok(()) => {
                text.push_str(&format!("{id}\n"));
                freed += bytes.unwrap_or(0);
            }
            // Somebody started or removed it meanwhile.
            Err(ContainerError::Running(_) | ContainerError::NotFound(_)) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    if !text.is_empty() {
        text = format!("Deleted Containers:\n{text}\n");
    }
    Ok((text, freed))
}

/// Asks a person.
pub fn agreed(what: &str) -> Result<bool, CliError> {
    let failed = |e: std::io::Error| CliError::failed("cannot ask").because(e);
    let mut err = std::io::stderr().lock();
    write!(err, "{}\nContinue? [y/N] ", harmless(what))
        .and_then(|()| err.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
