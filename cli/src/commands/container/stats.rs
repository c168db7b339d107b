//! `rgraph stats`: what containers use.

use std::time::{Duration, Instant};

use rgraph_runtime::container::{ContainerError, Containers, Record, State, Usage, usage};
use rgraph_store::Store;

use super::{Context, container_error, print};
use crate::args::StatsArgs;
use crate::listing::Listing;
use crate::options::{Layout, StatsOptions};
use crate::report::CliError;
use crate::{session, table};

/// The fields of a row, as Docker names them.
const FIELDS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
    ("Container", "CONTAINER"),
];
/// How many of them a table shows.
const SHOWN: usize = 8;
/// Between two looks: what they differ in is what is used in that time.
const PAUSE: Duration = Duration::from_secs(1);
/// Moves to the corner of a terminal and clears it.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// Runs the command.
pub fn stats(cx: &Context, args: StatsArgs) -> Result<(), CliError> {
    let opts = StatsOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let mut before = look(&store, &opts)?;
    loop {
        std::thread::sleep(PAUSE);
        let now = look(&store, &opts)?;
        let mut listing = Listing::new(FIELDS);
        for seen in &now {
            let earlier = before.iter().find(|b| b.record.id == seen.record.id);
            listing.row(row(seen, earlier, &opts));
        }
        let columns: Vec<&str> = FIELDS[..SHOWN].iter().map(|(name, _)| *name).collect();
        let drawn = listing.draw(&opts.format, &columns)?;
        if opts.once {
            return print(&drawn);
        }
        if cx.terminals.stdout && opts.format == Layout::Table {
            print(CLEAR)?;
        }
        print(&drawn)?;
        before = now;
    }
}

/// A container at one moment.
struct Seen {
    /// As it was asked for.
    word: String,
    record: Record,
    at: Instant,
    /// `None`: it does not run.
    usage: Option<Usage>,
}

fn look(store: &Store, opts: &StatsOptions) -> Result<Vec<Seen>, CliError> {
    let containers = Containers::new(store);
    let failed = |e: ContainerError| container_error(&e);
    let records: Vec<(String, Record)> = if opts.containers.is_empty() {
        let mut all = containers.list().map_err(failed)?;
        all.retain(|r| opts.all || matches!(r.state, State::Running { .. }));
        all.into_iter().map(|r| (r.id.clone(), r)).collect()
    } else {
        let find = |word: &String| Ok((word.clone(), containers.find(word).map_err(failed)?));
        opts.containers.iter().map(find).collect::<Result<_, CliError>>()?
    };
    let mut seen = Vec::new();
    for (word, record) in records {
        let usage = match usage(&record) {
            Ok(usage) => Some(usage),
            // It has ended.
            Err(ContainerError::NotRunning(_)) => None,
            Err(e) => return Err(failed(e)),
        };
        seen.push(Seen { word, record, at: Instant::now(), usage });
    }
    Ok(seen)
}

fn row(now: &Seen, before: Option<&Seen>, opts: &StatsOptions) -> [String; FIELDS.len()] {
    let used = now.usage.unwrap_or_default();
    let earlier = before.and_then(|b| Some((b.at, b.usage?.cpu)));
    let busy = earlier.map_or(0.0, |(at, cpu)| {
        let passed = now.at.duration_since(at).as_secs_f64();
        used.cpu.saturating_sub(cpu).as_secs_f64() / passed.max(0.001) * 100.0
    });
    let part = match used.memory_limit {
        0 => 0.0,
        limit => used.memory as f64 / limit as f64 * 100.0,
    };
    let pair = |a: u64, b: u64, form: fn(u64) -> String| format!("{} / {}", form(a), form(b));
    let id = if opts.no_trunc { now.record.id.clone() } else { now.record.short().to_owned() };
    let by_id = now.word == now.record.id;
    [
        id.clone(),
        now.record.name.clone(),
        format!("{busy:.2}%"),
        pair(used.memory, used.memory_limit, table::size_binary),
        format!("{part:.2}%"),
        pair(used.received, used.sent, table::size),
        pair(used.read, used.written, table::size),
        used.threads.to_string(),
        if by_id { id } else { now.word.clone() },
    ]
}
