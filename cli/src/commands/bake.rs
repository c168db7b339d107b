//! `rgraph bake`: the targets of a bake file, as one build.

use std::time::Instant;

use rgraph_bake::Listing;

use super::{Context, build, call, print};
use crate::args::BakeArgs;
use crate::bake;
use crate::options::{BakeMode, BakeOptions, Call};
use crate::report::CliError;
use crate::table::Table;
use crate::units::named_after;

/// Runs the command.
pub fn run(cx: &Context, args: BakeArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let opts = BakeOptions::new(args, &cx.env, cx.terminals)?;
    let all = bake::definition(&opts, &cx.env).map_err(|e| cx.compile_error(e))?;
    match opts.mode {
        BakeMode::Targets { json } => return list(rgraph_bake::print_targets(&all, json)),
        BakeMode::Variables { json } => return list(rgraph_bake::print_variables(&all, json)),
        BakeMode::Print | BakeMode::Build => {}
    }
    let resolved = bake::resolve(&opts, &all, &cx.env)?;
    if opts.mode == BakeMode::Print {
        return print(rgraph_bake::print(&resolved).as_bytes());
    }
    let units = bake::builds(&opts, &resolved, &cx.env, cx.terminals)?;
    let asked = units.iter().filter(|u| u.wanted && u.opts.call != Call::Build);
    if asked.clone().next().is_none() {
        let file = opts.files.first().cloned().unwrap_or_else(bake::first_file);
        let common = named_after(opts.common.clone(), file);
        return build::execute(cx, &common, &units, started);
    }
    // One after the other: each is told in full.
    let mut worst = None;
    for (at, unit) in asked.enumerate() {
        let gap = if at > 0 { "\n" } else { "" };
        print(format!("{gap}{}\n\n", unit.name).as_bytes())?;
        if let Err(e) = call::run(cx, &unit.opts) {
            cx.report(|r| r.error(&e));
            worst = Some(CliError::reported(e.kind));
        }
    }
    worst.map_or(Ok(()), Err)
}

fn list(listing: Listing) -> Result<(), CliError> {
    match listing {
        Listing::Text(text) => print(text.as_bytes()),
        Listing::Rows { head, rows } => {
            let mut table = Table::new(head.iter().copied());
            rows.iter().for_each(|r| table.row(r));
            let mut out = Vec::new();
            table.write(&mut out).map_err(|e| CliError::internal(e.to_string()))?;
            print(&out)
        }
    }
}
