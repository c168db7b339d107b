//! `rgraph store check`: is everything the store names there and whole?

use rgraph_runtime::fetch::image::{ImageFetcher, PullPolicy};
use rgraph_runtime::images::{self, World};
use rgraph_store::{CheckReport, Finding, FindingKind, OpenOptions, Store, StoreError};

use super::{Context, images_error, note, print};
use crate::args::CheckArgs;
use crate::options::{CheckOptions, Format};
use crate::report::{CliError, ErrorKind, chain_text};
use crate::session::store_error;

/// Runs the command.
pub fn run(cx: &Context, args: CheckArgs) -> Result<(), CliError> {
    let opts = CheckOptions::new(args)?;
    let mut report = CheckReport::default();
    let store = look(cx, &opts, &mut report)?;
    let mut unknown = 0;
    if opts.read_data {
        unknown = read_layers(cx, &store, opts.repair, &mut report)?;
    }
    let left = report.left();
    let repaired = report.findings.iter().filter(|f| f.repaired).count();
    let text = if opts.format == Format::Json {
        let lines: Vec<String> = report.findings.iter().map(Finding::to_string).collect();
        let v = serde_json::json!({
            "problems": lines, "repaired": repaired, "left": left, "blobs": report.blobs,
            "snapshots": report.snapshots, "unverified": unknown,
        });
        format!("{v}\n")
    } else {
        let found: String = report.findings.iter().map(|f| format!("{f}\n")).collect();
        let unreferenced =
            report.findings.iter().filter(|f| f.kind == FindingKind::Unreferenced).count();
        let damage = match report.findings.len() - unreferenced {
            0 => "no damage found".to_owned(),
            n => format!("{n} problems found, {} repaired", n - left),
        };
        let more = match (unreferenced, opts.repair) {
            (0, _) => String::new(),
            (n, true) => format!(", {n} unreferenced removed"),
            (n, false) => format!(", {n} unreferenced (`rgraph prune` removes them)"),
        };
        let unknown = match unknown {
            0 => String::new(),
            n => format!("{n} snapshots were never packed: nothing says what is in them\n"),
        };
        let count = format!("{} blobs, {} snapshots", report.blobs, report.snapshots);
        format!("{found}{unknown}{count}: {damage}{more}\n")
    };
    print(text.as_bytes())?;
    match (left, opts.repair) {
        (0, _) => Ok(()),
        (_, true) => Err(CliError::failed(format!("{left} problems are left"))),
        (_, false) => Err(CliError::failed("the store is damaged")
            .help("`rgraph store check --repair` drops or makes again what is damaged")),
    }
}

fn look(cx: &Context, opts: &CheckOptions, report: &mut CheckReport) -> Result<Store, CliError> {
    let checked = Store::open(cx.root(), OpenOptions::default()).and_then(|store| {
        *report = store.check(opts.read_data, opts.repair)?;
        Ok(store)
    });
    match checked {
        Err(e @ StoreError::IndexDamaged { .. }) if opts.repair => {
            note(&format!("the index cannot be read ({}): making it again", chain_text(&e)));
            let (store, made) =
                Store::rebuild(cx.root(), OpenOptions::default()).map_err(|e| store_error(&e))?;
            *report = made;
            Ok(store)
        }
        other => other.map_err(|e| CliError { kind: ErrorKind::Failed, ..store_error(&e) }),
    }
}

/// Packs every layer again whose digest is known. Gives the number of those whose is not.
fn read_layers(
    cx: &Context,
    store: &Store,
    repair: bool,
    report: &mut CheckReport,
) -> Result<u64, CliError> {
    let host = cx.host()?;
    let fetcher = ImageFetcher::new(store, None, PullPolicy::Missing, &cx.cancel);
    let world = World { store, host, images: &fetcher, cancel: &cx.cancel };
    let read = images::read_layers(&world).map_err(|e| images_error(&e))?;
    let again = repair && !read.damaged.is_empty();
    for id in read.damaged {
        if repair {
            store.forget_snapshot(id).map_err(|e| store_error(&e))?;
        }
        let object = format!("snapshot {id}");
        report.findings.push(Finding { object, kind: FindingKind::Damaged, repaired: repair });
    }
    if again {
        // What stood on those layers.
        let more = store.check(false, true).map_err(|e| store_error(&e))?;
        report.findings.extend(more.findings);
    }
    Ok(read.unknown)
}
