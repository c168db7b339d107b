//! `rgraph fetch`: the sources of a build into the store, so that it can be built without a network.

use std::sync::atomic::AtomicU32;

use rgraph_runtime::fetch::image::{ImageFetcher, Lock};
use rgraph_runtime::fetch::source::Sources;
use rgraph_runtime::images::{self, World};

use super::graph::policy;
use super::{Context, images_error, note};
use crate::args::FetchArgs;
use crate::options::{FetchOptions, ProgressMode};
use crate::pipeline::{Answers, CompileError, compile};
use crate::progress::{Progress, Settings};
use crate::report::CliError;
use crate::units::Unit;
use crate::{session, sources};

/// Runs the command.
pub fn run(cx: &Context, args: FetchArgs) -> Result<(), CliError> {
    let opts = FetchOptions::new(args, &cx.env, cx.terminals)?.build;
    for w in &opts.warnings {
        cx.report(|r| r.warning(w));
    }
    let host = cx.host()?;
    let lock = sources::obeyed(opts.locked.as_deref())?;
    let store = session::open_store(cx.root())?;
    let registry =
        session::registries(&cx.env, &session::config(&cx.dirs)?, &opts.insecure_registries);
    let progress =
        Progress::new(&Settings::for_build(&opts, cx.style.colours), Box::new(std::io::stderr()));
    let fetcher = ImageFetcher::new(&store, Some(&registry), policy(opts.pull), &cx.cancel)
        .locked(lock.as_ref().map(Lock::Obey))
        .telling(|e| progress.message(&format!("registry: {e}")))
        .warning(|text| progress.message(&format!("warning: {text}")));
    let agents = session::Agents::start(&store, &opts.ssh)?;
    let ssh = session::ssh_access(&cx.env, agents.sources());
    let remote = Sources::new(&fetcher, &opts.secrets, ssh);
    let next_step = AtomicU32::new(0);
    let answers = Answers::Images {
        images: &fetcher,
        sources: &remote,
        sink: &progress,
        next_step: &next_step,
    };
    let compiled = compile(&opts, &Unit::of(&opts), &answers, false);
    let compiled = compiled.map_err(|e| {
        progress.close();
        cx.compile_error(e)
    })?;
    let (fetched, errors) = sources::fetch(&compiled, &remote);
    progress.close();
    if !errors.is_empty() {
        return Err(cx.compile_error(CompileError::Text(errors, compiled.sources)));
    }
    let world = World { store: &store, host, images: &fetcher, cancel: &cx.cancel };
    if opts.progress != ProgressMode::Quiet {
        fetched.iter().for_each(|line| note(line));
    }
    for (name, platform, image) in fetcher.resolved() {
        let new = images::fetch(&world, &name, &image).map_err(|e| images_error(&e))?;
        if opts.progress != ProgressMode::Quiet {
            let shown = image.reference.familiar();
            let all = image.layers.len();
            note(&format!("{shown} for {platform}: {all} layers, {new} fetched"));
        }
    }
    Ok(())
}
