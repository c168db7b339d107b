//! `rgraph prune`: what nothing needs goes.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};

use rgraph_ir::Reference;
use rgraph_runtime::container::Containers;
use rgraph_runtime::images;
use rgraph_store::{Policy, Report, Rule, Store};

use super::{Context, note, print};
use crate::args::PruneArgs;
use crate::options::PruneOptions;
use crate::report::CliError;
use crate::session::{self, store_error};
use crate::table;

/// Runs the command.
pub fn run(cx: &Context, args: PruneArgs) -> Result<(), CliError> {
    let opts = PruneOptions::new(args, cx.terminals)?;
    if opts.ask && !agreed(opts.all)? {
        return Ok(());
    }
    let store = session::open_store(cx.root())?;
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    if opts.all && !opts.dry_run {
        untag_all(&store, opts.unused_for)?;
    }
    let disk = store.disk().map_err(failed)?;
    let policy = Policy {
        // A filter of records is not about images.
        untagged: opts.filter.is_empty().then(|| opts.unused_for.unwrap_or(0)),
        cache: vec![Rule {
            filter: opts.filter.clone(),
            unused_for: opts.unused_for,
            limits: opts.bounds.of(&disk),
        }],
        dry_run: opts.dry_run,
    };
    let report = store.gc_until(&policy, &|| cx.cancel.is_cancelled()).map_err(failed)?;
    if opts.verbose {
        let verb = if opts.dry_run { "would remove" } else { "removed" };
        note(&format!("{verb} {}", words(&report)));
    }
    let (what, all) = match opts.dry_run {
        true => ("reclaimable", opts.all && !store.tags().map_err(failed)?.is_empty()),
        false => ("reclaimed", false),
    };
    if all {
        note("images with a name, which `--all` removes, are not counted by `--dry-run`");
    }
    print(format!("Total {what} space: {}\n", table::size(report.bytes)).as_bytes())?;
    if cx.cancel.is_cancelled() { Err(CliError::failed("canceled")) } else { Ok(()) }
}

/// What went, counted.
pub fn words(r: &Report) -> String {
    let Report { results, images, snapshots, blobs, mounts, bytes: _ } = r;
    format!(
        "{results} cache records, {images} images, {snapshots} snapshots, {blobs} blobs, {mounts} \
         cache mounts"
    )
}

/// Takes every name away, or those given so many seconds ago: the images go with what only they
/// needed.
fn untag_all(store: &Store, older: Option<u64>) -> Result<(), CliError> {
    let now = jiff::Timestamp::now().as_second();
    let used = in_use(store)?;
    for t in store.tags().map_err(|e| store_error(&e))? {
        if used.contains(&t.name) {
            continue;
        }
        let age = u64::try_from(now.saturating_sub(t.updated)).unwrap_or(0);
        if older.is_some_and(|least| age < least) {
            continue;
        }
        store.untag(&t.name).map_err(|e| store_error(&e))?;
        let name = t.name.parse::<Reference>().map_or(t.name, |r| r.familiar());
        print(format!("Untagged: {name}\n").as_bytes())?;
    }
    Ok(())
}

/// Names of images that containers were made of.
fn in_use(store: &Store) -> Result<BTreeSet<String>, CliError> {
    let containers = Containers::new(store);
    let mut out = BTreeSet::new();
    for t in store.tags().map_err(|e| store_error(&e))? {
        let mut all = vec![t.manifest];
        // A name whose images are gone keeps nothing.
        all.extend(images::rows(store, t.manifest).iter().flatten().map(|r| r.manifest));
        let users = containers.using(&all).map_err(|e| CliError::failed(e.to_string()))?;
        if !users.is_empty() {
            out.insert(t.name);
        }
    }
    Ok(out)
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
