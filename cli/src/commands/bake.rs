//! `rgraph bake`: the targets of a bake file, as one build.

use std::time::Instant;

use rgraph_bake::Listing;
use rgraph_image::registry::shown_url;
use rgraph_runtime::fetch::image::ImageFetcher;
use rgraph_runtime::fetch::source::Sources;
use serde_json::Map;

use super::call::{self, Answer, Said};
use super::graph::policy;
use super::{Context, build, print};
use crate::args::BakeArgs;
use crate::bake::{self, Definitions, There};
use crate::context::{self, Origin};
use crate::options::{BakeMode, BakeOptions, BuildOptions, Call, ContextSpec};
use crate::report::CliError;
use crate::session;
use crate::table::Table;
use crate::units::{Unit, named_after};

/// Runs the command.
pub fn run(cx: &Context, args: BakeArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let opts = BakeOptions::new(args, &cx.env, cx.terminals)?;
    let from = match &opts.remote {
        Some(context) => Definitions::There(Box::new(fetch(cx, &opts, context)?)),
        None => Definitions::Here,
    };
    let (all, texts) = bake::definition(&opts, &from, &cx.env).map_err(|e| cx.compile_error(e))?;
    cx.report(|r| r.warnings(&all.warnings, &texts));
    match opts.mode {
        BakeMode::Targets { json } => return list(rgraph_bake::print_targets(&all, json)),
        BakeMode::Variables { json } => return list(rgraph_bake::print_variables(&all, json)),
        BakeMode::Print | BakeMode::Build => {}
    }
    let resolved = bake::resolve(&opts, &all, &cx.env)?;
    if opts.mode == BakeMode::Print {
        return print(rgraph_bake::print(&from.shown(&resolved)).as_bytes());
    }
    let units = bake::builds(&opts, &resolved, &from, &cx.env, cx.terminals)?;
    let asked: Vec<_> = units.iter().filter(|u| u.wanted && u.opts.call != Call::Build).collect();
    if asked.is_empty() {
        let file = opts.files.first().cloned().unwrap_or_else(bake::first_file);
        let common = named_after(opts.common.clone(), file);
        return build::execute(cx, &common, &units, started);
    }
    answer(cx, &asked)
}

/// Tells what was asked of each target, one after the other: as text with the target's name above it. Stdout is
/// one document where all are asked for JSON: that of the one target, or an object of those of several by name.
fn answer(cx: &Context, asked: &[&Unit]) -> Result<(), CliError> {
    let json = asked.iter().all(|u| u.opts.call.is_json());
    let (mut worst, mut documents) = (None, Map::new());
    for (at, unit) in asked.iter().enumerate() {
        if !json {
            let gap = if at > 0 { "\n" } else { "" };
            print(format!("{gap}{}\n\n", unit.name).as_bytes())?;
        }
        let end = call::ask(cx, &unit.opts).and_then(|Answer { said, end }| {
            match said {
                Said::Json(value) if json && asked.len() > 1 => {
                    documents.insert(unit.name.clone(), value);
                }
                said => said.print()?,
            }
            end
        });
        if let Err(e) = end {
            cx.report(|r| r.error(&e));
            worst = Some(CliError::reported(e.kind));
        }
    }
    if json && asked.len() > 1 {
        Said::Json(documents.into()).print()?;
    }
    worst.map_or(Ok(()), Err)
}

/// Brings a definition from elsewhere.
fn fetch(cx: &Context, opts: &BakeOptions, context: &ContextSpec) -> Result<There, CliError> {
    let (ContextSpec::Git(url) | ContextSpec::Http(url)) = context else {
        return Err(CliError::internal("a folder is no URL"));
    };
    let secrets = opts.remote_secrets.clone();
    let common = BuildOptions { context: context.clone(), ..opts.common.clone() };
    let config = session::config(&cx.dirs)?;
    let store = session::open_store(cx.root())?;
    let registry = session::registries(&cx.env, &config, &common.insecure_registries);
    let network = (!common.offline).then_some(&registry);
    let images = ImageFetcher::new(&store, network, policy(common.pull), &cx.cancel);
    let wanted = opts.remote_ssh.iter().map(|a| ("default".to_owned(), a.clone())).collect();
    let agents = session::Agents::start(&store, &wanted)?;
    let ssh = session::ssh_access(&cx.env, agents.sources());
    let sources = Sources::new(&images, &secrets, ssh);
    let brought = context::bring(&common, Some(&sources)).map_err(|e| match (context, &e.help) {
        (ContextSpec::Git(_), None) => e.help(
            "private repositories with bake files: BUILDX_BAKE_GIT_AUTH_TOKEN, or BUILDX_BAKE_GIT_SSH \
             with the socket of an agent or a key",
        ),
        _ => e,
    })?;
    let brought = brought.ok_or_else(|| CliError::internal("a URL is no folder of the caller"))?;
    let commit = match &brought.origin {
        Origin::Repository(g) => {
            sources.git_commit(g).map_err(|e| CliError::failed(rgraph_runtime::report(&e)))?
        }
        _ => String::new(),
    };
    let (url, shown) = (url.clone(), shown_url(url));
    Ok(There { shown, url, brought, commit, secrets })
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
