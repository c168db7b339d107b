//! `rgraph du`, `rgraph system df`: what the store takes on disk.

use rgraph_runtime::container::{Containers, State, blocks_below};
use rgraph_runtime::volumes::Volumes;
use rgraph_store::{DiskUsage, Entry, OpenOptions, Share, Store, StoreError};

use super::{Context, print};
use crate::args::DfArgs;
use crate::options::{DfOptions, Format};
use crate::report::CliError;
use crate::session::store_error;
use crate::table::{self, Table};

/// Runs the command.
pub fn run(cx: &Context, args: DfArgs) -> Result<(), CliError> {
    let opts = DfOptions::new(args)?;
    let failed = |e: StoreError| store_error(&e);
    // On a read-only medium too.
    let store = match Store::open(cx.root(), OpenOptions::default()) {
        Err(StoreError::ReadOnly { .. }) => {
            let read_only = OpenOptions { read_only: true, ..OpenOptions::default() };
            Store::open(cx.root(), read_only).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    let du = store.du().map_err(failed)?;
    let now = jiff::Timestamp::now().as_second();
    let idle = |e: &Entry| {
        let since = now.saturating_sub(e.used.unwrap_or(e.created));
        u64::try_from(since).unwrap_or(0)
    };
    let mut records: Vec<&Entry> = du
        .entries
        .iter()
        .filter(|e| opts.filter.matches(e) && opts.unused_for.is_none_or(|s| idle(e) >= s))
        .collect();
    records.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let lines = lines(&du, &shares(&store)?);
    if opts.format == Format::Json {
        return print(json(&du, &lines, opts.verbose.then_some(&records)).as_bytes());
    }
    let mut text = Table::new(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for (kind, s) in &lines {
        let reclaimable = match s.bytes {
            0 => table::size(0),
            n => format!("{} ({}%)", table::size(s.reclaimable), s.reclaimable * 100 / n),
        };
        let (total, active) = (s.count.to_string(), s.active.to_string());
        text.row([(*kind).to_owned(), total, active, table::size(s.bytes), reclaimable]);
    }
    text.row(["Total".to_owned(), String::new(), String::new(), table::size(du.total)]);
    let mut out = Vec::new();
    let unwritten = |e: std::io::Error| CliError::failed("cannot write the table").because(e);
    text.write(&mut out).map_err(unwritten)?;
    if opts.verbose {
        out.push(b'\n');
        listing(&records, now).write(&mut out).map_err(unwritten)?;
        let sum = |f: &dyn Fn(&&&Entry) -> bool| {
            table::size(records.iter().filter(f).map(|e| e.size).sum())
        };
        let sums = format!(
            "\nShared:\t\t{}\nPrivate:\t{}\nReclaimable:\t{}\nTotal:\t\t{}\n",
            sum(&|e| e.shared),
            sum(&|e| !e.shared),
            sum(&|e| e.reclaimable),
            sum(&|_| true),
        );
        out.extend(sums.into_bytes());
    }
    print(&out)
}

/// What the store does not know of itself.
struct Own {
    containers: Share,
    volumes: Share,
}

/// How many containers and volumes there are, how many are in use, and what the others take.
fn shares(store: &Store) -> Result<Own, CliError> {
    let (mut containers, mut volumes) = (Share::default(), Share::default());
    let all = Containers::new(store);
    let failed = |e: &dyn std::error::Error| CliError::failed(rgraph_runtime::report(e));
    for r in all.list().map_err(|e| failed(&e))? {
        containers.count += 1;
        match r.state {
            State::Running { .. } => containers.active += 1,
            _ => {
                containers.reclaimable += blocks_below(&all.folder(&r)).map_err(|e| failed(&e))?;
            }
        }
    }
    let kept = Volumes::new(store);
    for v in kept.list().map_err(|e| failed(&e))? {
        volumes.count += 1;
        match kept.users(&v.name).map_err(|e| failed(&e))?.is_empty() {
            false => volumes.active += 1,
            true => {
                volumes.reclaimable += blocks_below(&kept.data(&v.name)).map_err(|e| failed(&e))?;
            }
        }
    }
    Ok(Own { containers, volumes })
}

/// Docker's lines, then those that only this store has.
fn lines(du: &DiskUsage, own: &Own) -> Vec<(&'static str, Share)> {
    let none = Share::default();
    let rest: u64 = du.rest.values().sum();
    let named = |n: &str| du.rest.get(n).copied().unwrap_or(0);
    let bytes = |bytes| Share { bytes, ..none };
    // The folders around them cannot go.
    let with = |share: Share, bytes: u64| Share {
        bytes,
        reclaimable: share.reclaimable.min(bytes),
        ..share
    };
    let known = ["index", "containers", "volumes"].map(named).iter().sum::<u64>();
    // What is kept to tell later how builds went.
    let logs = named("logs") + named("builds") + named("file-lists");
    vec![
        ("Images", du.images),
        ("Containers", with(own.containers, named("containers"))),
        ("Local Volumes", with(own.volumes, named("volumes"))),
        ("Build Cache", du.cache),
        ("Cache Mounts", du.mounts),
        ("Left-overs", du.leftovers),
        ("Index", bytes(named("index"))),
        ("Logs", bytes(logs)),
        ("Other", bytes(rest.saturating_sub(known + logs))),
    ]
}

fn listing(records: &[&Entry], now: i64) -> Table {
    let ago = |t: Option<i64>| table::created(t, now);
    let yes = |b: bool| if b { "true" } else { "false" }.to_owned();
    let mut text = Table::new([
        "ID",
        "TYPE",
        "SIZE",
        "CREATED",
        "LAST USED",
        "SHARED",
        "RECLAIMABLE",
        "DESCRIPTION",
    ]);
    for e in records {
        text.row([
            e.id.clone(),
            e.kind.to_string(),
            table::size(e.size),
            ago(Some(e.created)),
            ago(e.used),
            yes(e.shared),
            yes(e.reclaimable),
            e.description.clone(),
        ]);
    }
    text
}

fn line_json(kind: &str, s: &Share) -> serde_json::Value {
    serde_json::json!({
        "Type": kind, "TotalCount": s.count, "Active": s.active, "Size": s.bytes,
        "Reclaimable": s.reclaimable,
    })
}

/// One object a line, as Docker writes it; with the records one object for all.
fn json(du: &DiskUsage, lines: &[(&str, Share)], records: Option<&Vec<&Entry>>) -> String {
    let all: Vec<_> = lines.iter().map(|(kind, s)| line_json(kind, s)).collect();
    match records {
        None => all.iter().map(|l| format!("{l}\n")).collect(),
        Some(records) => {
            let records: Vec<_> = records.iter().map(|e| record_json(e)).collect();
            let v = serde_json::json!({
                "Usage": all, "Records": records, "Rest": du.rest, "TotalSize": du.total,
            });
            format!("{v}\n")
        }
    }
}

/// A record in BuildKit's words.
pub fn record_json(e: &Entry) -> serde_json::Value {
    let time = |t: i64| jiff::Timestamp::from_second(t).map(|t| t.to_string()).ok();
    serde_json::json!({
        "ID": e.id, "Type": e.kind.to_string(), "Size": e.size, "CreatedAt": time(e.created),
        "LastUsedAt": e.used.and_then(time), "Shared": e.shared, "InUse": e.in_use,
        "Reclaimable": e.reclaimable, "Parents": e.parents, "Description": e.description,
    })
}
