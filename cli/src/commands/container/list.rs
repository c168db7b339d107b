//! `rgraph ps`.

use rgraph_runtime::container::{Containers, Record, State};

use super::{Context, container_error, print};
use crate::args::PsArgs;
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
    ("State", "STATE"),
];

/// Runs the command.
pub fn list(cx: &Context, args: PsArgs) -> Result<(), CliError> {
    let opts = PsOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let mut all = Containers::new(&store).list().map_err(|e| container_error(&e))?;
    all.retain(|r| opts.all || matches!(r.state, State::Running { .. }));
    let id = |r: &Record| if opts.no_trunc { r.id.clone() } else { r.short().to_owned() };
    if opts.quiet {
        return print(all.iter().map(|r| id(r) + "\n").collect::<String>().as_bytes());
    }
    let now = jiff::Timestamp::now().as_second();
    let mut listing = Listing::new(FIELDS);
    for r in &all {
        let command = r.settings.args.join(" ");
        let command = if opts.no_trunc { command } else { table::ellipsis(&command, 20) };
        listing.row([
            id(r),
            r.image.name.clone(),
            format!("\"{command}\""),
            table::created(Some(r.created), now),
            status(r.state, now),
            String::new(),
            r.name.clone(),
            word(r.state).to_owned(),
        ]);
    }
    let columns: Vec<&str> = FIELDS[..7].iter().map(|(name, _)| *name).collect();
    print(&listing.draw(&opts.format, &columns)?)
}

fn word(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Running { .. } => "running",
        State::Exited { .. } => "exited",
    }
}

fn status(state: State, now: i64) -> String {
    let age = |then: i64| table::age(u64::try_from(now.saturating_sub(then)).unwrap_or(0));
    match state {
        State::Created => "Created".to_owned(),
        State::Running { since, .. } => format!("Up {}", age(since)),
        State::Exited { code, at } => format!("Exited ({code}) {} ago", age(at)),
    }
}
