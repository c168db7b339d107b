//! `rgraph prune`: what nothing needs goes.

use std::collections::BTreeSet;

use rgraph_ir::Reference;
use rgraph_runtime::container::Containers;
use rgraph_runtime::images;
use rgraph_runtime::volumes::Volumes;
use rgraph_store::{Policy, Report, Rule, Store};

use super::{Context, container, note, print, volume};
use crate::args::{ContainerPruneArgs, PruneArgs, SystemPruneArgs};
use crate::options::{ContainerPruneOptions, LabelFilter, PruneOptions, VolumePruneOptions};
use crate::report::CliError;
use crate::session::{self, store_error};
use crate::table;

/// Runs the command.
pub fn run(cx: &Context, args: PruneArgs) -> Result<(), CliError> {
    let opts = PruneOptions::new(args, cx.terminals)?;
    let cache = if opts.images_only { "" } else { " and the build cache that nothing needs" };
    let what = format!("This removes {}{cache}.", goes(opts.all));
    if opts.ask && !container::agreed(&what)? {
        return Ok(());
    }
    let store = session::open_store(cx.root())?;
    let report = collect(cx, &store, &opts)?;
    let (what, all) = match opts.dry_run {
        true => ("reclaimable", opts.all && !store.tags().map_err(|e| store_error(&e))?.is_empty()),
        false => ("reclaimed", false),
    };
    if all {
        note("images with a name, which `--all` removes, are not counted by `--dry-run`");
    }
    print(format!("Total {what} space: {}\n", table::size(report.bytes)).as_bytes())?;
    if cx.cancel.is_cancelled() { Err(CliError::failed("canceled")) } else { Ok(()) }
}

/// `system prune`: stopped containers, and what nothing needs then.
pub fn all(cx: &Context, args: SystemPruneArgs) -> Result<(), CliError> {
    let SystemPruneArgs { force, all, volumes, filter } = args;
    let prune = PruneArgs { force, all, filter: filter.clone(), ..PruneArgs::default() };
    let opts = PruneOptions::new(prune, cx.terminals)?;
    let of_containers = ContainerPruneArgs { force, filter };
    let of_containers = ContainerPruneOptions::new(of_containers, cx.terminals)?;
    let more = if volumes { " and volumes without a name" } else { "" };
    let what = format!(
        "This removes all stopped containers{more}, {} and the build cache that nothing needs.",
        goes(all)
    );
    if opts.ask && !container::agreed(&what)? {
        return Ok(());
    }
    let store = session::open_store(cx.root())?;
    let (mut text, mut freed) = container::remove_stopped(&store, &of_containers)?;
    if volumes {
        let unused = VolumePruneOptions { all: false, ask: false, labels: LabelFilter::default() };
        let (more, bytes) = volume::remove_unused(&Volumes::new(&store), &unused)?;
        text += &more;
        freed += bytes;
    }
    print(text.as_bytes())?;
    freed += collect(cx, &store, &opts)?.bytes;
    print(format!("Total reclaimed space: {}\n", table::size(freed)).as_bytes())?;
    if cx.cancel.is_cancelled() { Err(CliError::failed("canceled")) } else { Ok(()) }
}

/// Removes what the options say, or counts it.
fn collect(cx: &Context, store: &Store, opts: &PruneOptions) -> Result<Report, CliError> {
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    if opts.all && !opts.dry_run {
        untag_all(store, opts.unused_for)?;
    }
    let disk = store.disk().map_err(failed)?;
    let policy = Policy {
        // A filter of records is not about images.
        untagged: opts.filter.is_empty().then(|| opts.unused_for.unwrap_or(0)),
        cache: match opts.images_only {
            true => Vec::new(),
            false => vec![Rule {
                filter: opts.filter.clone(),
                unused_for: opts.unused_for,
                limits: opts.bounds.of(&disk),
            }],
        },
        dry_run: opts.dry_run,
    };
    let report = store.gc_until(&policy, &|| cx.cancel.is_cancelled()).map_err(failed)?;
    if opts.verbose {
        let verb = if opts.dry_run { "would remove" } else { "removed" };
        note(&format!("{verb} {}", words(&report)));
    }
    Ok(report)
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

fn goes(all: bool) -> &'static str {
    if all { "all images without a container" } else { "images without a name" }
}
