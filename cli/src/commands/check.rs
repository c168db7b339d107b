//! `rgraph store check`: is everything the store names there and whole?

use rgraph_store::{CheckReport, OpenOptions, Store};

use super::{Context, note, print};
use crate::args::CheckArgs;
use crate::options::{CheckOptions, Format};
use crate::report::{CliError, ErrorKind, chain_text};
use crate::session::store_error;

/// Runs the command.
pub fn run(cx: &Context, args: CheckArgs) -> Result<(), CliError> {
    let opts = CheckOptions::new(args)?;
    let report = look(cx, &opts)?;
    let left = report.problems.len().saturating_sub(report.repaired);
    let text = if opts.format == Format::Json {
        let v = serde_json::json!({
            "problems": report.problems, "repaired": report.repaired, "left": left,
            "blobs": report.blobs, "snapshots": report.snapshots,
        });
        format!("{v}\n")
    } else {
        let found: String = report.problems.iter().map(|p| format!("{p}\n")).collect();
        let end = match report.problems.len() {
            0 => "no damage found".to_owned(),
            n => format!("{n} problems found, {} repaired", report.repaired),
        };
        format!("{found}{} blobs, {} snapshots: {end}\n", report.blobs, report.snapshots)
    };
    print(text.as_bytes())?;
    match (left, opts.repair) {
        (0, _) => Ok(()),
        (_, true) => Err(CliError::failed(format!("{left} problems are left"))),
        (_, false) => Err(CliError::failed("the store is damaged")
            .help("`rgraph store check --repair` drops or makes again what is damaged")),
    }
}

fn look(cx: &Context, opts: &CheckOptions) -> Result<CheckReport, CliError> {
    let failed = |e: rgraph_store::StoreError| store_error(&e);
    match Store::open(cx.root(), OpenOptions::default()) {
        Ok(store) => match store.check(opts.read_data, opts.repair) {
            Err(e) if opts.repair => rebuilt(cx, store, &e),
            r => r.map_err(failed),
        },
        Err(e @ rgraph_store::StoreError::IndexDamaged { .. }) if opts.repair => {
            note(&format!("the index cannot be read ({}): making it again", chain_text(&e)));
            Store::rebuild(cx.root(), OpenOptions::default()).map(|(_, r)| r).map_err(failed)
        }
        Err(e) => Err(CliError { kind: ErrorKind::Failed, ..store_error(&e) }),
    }
}

fn rebuilt(
    cx: &Context,
    store: Store,
    e: &rgraph_store::StoreError,
) -> Result<CheckReport, CliError> {
    drop(store);
    note(&format!("the index cannot be read ({}): making it again", chain_text(e)));
    let made = Store::rebuild(cx.root(), OpenOptions::default());
    made.map(|(_, r)| r).map_err(|e| store_error(&e))
}
