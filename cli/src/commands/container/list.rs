//! `rgraph ps`.

use rgraph_runtime::container::{Containers, Record, State, changed_bytes};
use rgraph_store::Store;

use super::filter::Filters;
use super::{Context, container_error, inspect, ports, print, word};
use crate::args::PsArgs;
use crate::commands::note;
use crate::listing::Listing;
use crate::options::PsOptions;
use crate::report::CliError;
use crate::session;
use crate::table;

/// The fields of a row, as Docker names them.
const FIELDS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("CreatedAt", "CREATED AT"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];
/// How many of them a table shows, without and with sizes.
const SHOWN: usize = 7;

/// Runs the command.
pub fn list(cx: &Context, args: PsArgs) -> Result<(), CliError> {
    let opts = PsOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let now = jiff::Timestamp::now().as_second();
    let filters = Filters::new(&store, &opts, now)?;
    let found = Containers::new(&store).list_with_damaged();
    let (mut all, damaged) = found.map_err(|e| container_error(&e))?;
    for e in damaged {
        note(&format!("warning: {}", rgraph_runtime::report(&e)));
    }
    let every = opts.all || opts.last.is_some() || filters.all_states();
    all.retain(|r| every || matches!(r.state, State::Running { .. }));
    all.retain(|r| filters.keep(&store, r));
    // Newest first.
    all.truncate(opts.last.unwrap_or(usize::MAX));
    if opts.quiet {
        let id = |r: &Record| if opts.no_trunc { r.id.clone() } else { r.short().to_owned() };
        return print(all.iter().map(|r| id(r) + "\n").collect::<String>().as_bytes());
    }
    let mut listing = Listing::new(FIELDS);
    for r in &all {
        listing.row(row(&store, r, &opts, now)?);
    }
    let shown = if opts.size { SHOWN + 1 } else { SHOWN };
    let columns: Vec<&str> = FIELDS[..shown].iter().map(|(name, _)| *name).collect();
    print(&listing.draw(&opts.format, &columns)?)
}

fn row(
    store: &Store,
    r: &Record,
    opts: &PsOptions,
    now: i64,
) -> Result<[String; FIELDS.len()], CliError> {
    let cut = |text: String, most| {
        if opts.no_trunc { text } else { table::ellipsis(&text, most) }
    };
    let size = match opts.size {
        true => size(store, r)?,
        false => String::new(),
    };
    let labels = inspect::labels(store, r);
    let labels: Vec<String> =
        labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    let mounts: Vec<String> = inspect::mount_names(r).map(|m| cut(m, 15)).collect();
    Ok([
        if opts.no_trunc { r.id.clone() } else { r.short().to_owned() },
        r.image.name.clone(),
        format!("\"{}\"", cut(r.settings.args.join(" "), 20)),
        table::created(Some(r.created), now),
        status(r.state, now),
        ports::shown(store, r),
        r.name.clone(),
        size,
        word(r.state).to_owned(),
        inspect::time(r.created),
        labels.join(","),
        mounts.join(","),
        inspect::volume_count(r).to_string(),
        inspect::network(r).to_owned(),
    ])
}

/// `12B (virtual 4.2MB)`.
fn size(store: &Store, r: &Record) -> Result<String, CliError> {
    let containers = Containers::new(store);
    let own = changed_bytes(&containers.folder(r)).map_err(|e| container_error(&e))?;
    let below = containers.image(r).map_or(0, |row| row.size);
    Ok(format!("{} (virtual {})", table::size(own), table::size(own + below)))
}

fn status(state: State, now: i64) -> String {
    let age = |then: i64| table::age(u64::try_from(now.saturating_sub(then)).unwrap_or(0));
    match state {
        State::Created => "Created".to_owned(),
        State::Running { since, .. } => format!("Up {}", age(since)),
        State::Exited { code, at } => format!("Exited ({code}) {} ago", age(at)),
    }
}
