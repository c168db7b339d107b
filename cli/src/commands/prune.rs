//! `rgraph prune`: what nothing needs goes.

use std::io::{BufRead, Write};

use rgraph_ir::Reference;
use rgraph_store::{Policy, Store};

use super::{Context, note, print};
use crate::args::PruneArgs;
use crate::options::PruneOptions;
use crate::report::CliError;
use crate::session::{self, store_error};
use crate::table;

/// Runs the command.
pub fn run(cx: &Context, args: PruneArgs) -> Result<(), CliError> {
    let opts = PruneOptions::new(args, cx.terminals)?;
    let mut unused_for = None;
    for (name, value) in &opts.filters {
        match name.as_str() {
            "until" | "unused-for" => unused_for = Some(seconds(value)?),
            other => return Err(CliError::not_yet(format!("`--filter {other}=` of prune"))),
        }
    }
    if opts.all && unused_for.is_some() {
        return Err(CliError::not_yet("`--all` with `--filter until=`"));
    }
    if opts.ask && !agreed(opts.all)? {
        return Ok(());
    }
    let store = session::open_store(cx.root())?;
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    if opts.all {
        untag_all(&store)?;
    }
    let policy = Policy {
        results: true,
        untagged: true,
        unused_for,
        keep_bytes: keep(&store, &opts)?,
        dry_run: false,
    };
    let report = store.gc(&policy).map_err(failed)?;
    if opts.verbose {
        note(&format!(
            "removed {} cache records, {} images, {} snapshots, {} blobs",
            report.results, report.images, report.snapshots, report.blobs
        ));
    }
    print(format!("Total reclaimed space: {}\n", table::size(report.bytes)).as_bytes())
}

/// Takes every name away: the images go with what only they needed.
fn untag_all(store: &Store) -> Result<(), CliError> {
    for t in store.tags().map_err(|e| store_error(&e))? {
        store.untag(&t.name).map_err(|e| store_error(&e))?;
        let name = t.name.parse::<Reference>().map_or(t.name, |r| r.familiar());
        print(format!("Untagged: {name}\n").as_bytes())?;
    }
    Ok(())
}

/// Bytes of the cache that may stay: the least that any limit allows, but what is reserved stays.
fn keep(store: &Store, opts: &PruneOptions) -> Result<Option<u64>, CliError> {
    let mut keep = opts.max_used;
    if let Some(want) = opts.min_free {
        let free = rustix::fs::statvfs(store.root())
            .map(|s| s.f_bavail.saturating_mul(s.f_frsize))
            .map_err(|e| CliError::failed("cannot ask for the free space").because(e))?;
        let used = store.du().map_err(|e| store_error(&e))?.reclaimable_bytes;
        let may = used.saturating_sub(want.saturating_sub(free));
        keep = Some(keep.map_or(may, |k| k.min(may)));
    }
    Ok(match (keep, opts.reserved) {
        (Some(k), Some(r)) => Some(k.max(r)),
        (k, r) => k.or(r),
    })
}

/// `24h`, `10m`, `1h30m`, `90`: how long something was not used.
fn seconds(text: &str) -> Result<u64, CliError> {
    let wrong =
        || CliError::usage(format!("`{text}` is not a duration")).help("such as `24h` or `1h30m`");
    let (mut sum, mut number) = (0u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let n: u64 = number.parse().map_err(|_| wrong())?;
        sum = n.checked_mul(unit).and_then(|n| sum.checked_add(n)).ok_or_else(wrong)?;
        number.clear();
    }
    match (number.is_empty(), text.is_empty()) {
        (true, false) => Ok(sum),
        (false, _) if sum == 0 => number.parse().map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

fn agreed(all: bool) -> Result<bool, CliError> {
    let images = if all { "all images without a container" } else { "images without a name" };
    let failed = |e: std::io::Error| CliError::failed("cannot ask").because(e);
    let mut err = std::io::stderr().lock();
    write!(err, "This removes {images} and the build cache that nothing needs.\nContinue? [y/N] ")
        .and_then(|()| err.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [("24h", 86_400), ("1h30m", 5400), ("90", 90), ("2d", 172_800)] {
            assert_eq!(seconds(text).unwrap(), want, "{text}");
        }
        for text in ["", "h", "1x", "1h5", "99999999999999999999h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
