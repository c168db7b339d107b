//! `rgraph bake`: the targets of a bake file, as one build.

use rgraph_bake::Listing;

use super::{Context, print};
use crate::args::BakeArgs;
use crate::bake;
use crate::options::{BakeMode, BakeOptions};
use crate::report::CliError;
use crate::table::Table;

/// Runs the command.
pub fn run(cx: &Context, args: BakeArgs) -> Result<(), CliError> {
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
    bake::builds(&opts, &all, &resolved, &cx.env, cx.terminals)?;
    Err(CliError::not_yet("`rgraph bake` without `--print` or `--list`"))
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
