//! `rgraph du`, `rgraph system df`: what the store takes on disk.

use rgraph_store::Policy;

use super::{Context, print};
use crate::args::DfArgs;
use crate::options::{DfOptions, Format};
use crate::report::CliError;
use crate::session::{self, store_error};
use crate::table::{self, Table};

struct Line {
    kind: &'static str,
    total: u64,
    active: u64,
    size: u64,
    reclaimable: u64,
}

/// Runs the command.
pub fn run(cx: &Context, args: DfArgs) -> Result<(), CliError> {
    let opts = DfOptions::new(args)?;
    let store = session::open_store(cx.root())?;
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    let du = store.du().map_err(failed)?;
    let count = |results, untagged| {
        let policy = Policy { results, untagged, dry_run: true, ..Policy::default() };
        store.gc(&policy).map_err(failed)
    };
    let garbage = count(false, false)?;
    let cache = count(true, false)?;
    let all = count(true, true)?;
    let disk = du.blob_bytes + du.snapshot_bytes;
    // What only results need is cache; what images share with it is theirs.
    let cached = cache.bytes.saturating_sub(garbage.bytes);
    let lines = [
        Line {
            kind: "Images",
            total: du.images,
            active: du.images.saturating_sub(all.images),
            size: disk.saturating_sub(cache.bytes),
            reclaimable: all.bytes.saturating_sub(cache.bytes),
        },
        Line { kind: "Containers", total: 0, active: 0, size: 0, reclaimable: 0 },
        Line { kind: "Local Volumes", total: 0, active: 0, size: 0, reclaimable: 0 },
        Line {
            kind: "Build Cache",
            total: du.results,
            active: du.results.saturating_sub(cache.results),
            size: cached,
            reclaimable: cached,
        },
        Line {
            kind: "Cache Mounts",
            total: u64::from(du.cache_mount_bytes > 0),
            active: 0,
            size: du.cache_mount_bytes,
            reclaimable: 0,
        },
        Line {
            kind: "Left-overs",
            total: garbage.blobs + garbage.snapshots,
            active: 0,
            size: garbage.bytes,
            reclaimable: garbage.bytes,
        },
    ];
    let mut out = Vec::new();
    if opts.format == Format::Json {
        for l in &lines {
            let line = serde_json::json!({
                "Type": l.kind, "TotalCount": l.total, "Active": l.active, "Size": l.size,
                "Reclaimable": l.reclaimable,
            });
            out.extend(format!("{line}\n").into_bytes());
        }
        return print(&out);
    }
    let mut text = Table::new(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for l in &lines {
        let reclaimable = match l.size {
            0 => table::size(0),
            n => format!("{} ({}%)", table::size(l.reclaimable), l.reclaimable * 100 / n),
        };
        let (total, active) = (l.total.to_string(), l.active.to_string());
        text.row([l.kind.to_owned(), total, active, table::size(l.size), reclaimable]);
    }
    let unwritten = |e: std::io::Error| CliError::failed("cannot write the table").because(e);
    text.write(&mut out).map_err(unwritten)?;
    if opts.verbose {
        let mut more = Table::new(["OBJECTS", "COUNT", "SIZE"]);
        more.row(["Blobs".to_owned(), du.blobs.to_string(), table::size(du.blob_bytes)]);
        more.row([
            "Snapshots".to_owned(),
            du.snapshots.to_string(),
            table::size(du.snapshot_bytes),
        ]);
        out.push(b'\n');
        more.write(&mut out).map_err(unwritten)?;
    }
    print(&out)
}
