//! `rgraph lock`: what the sources of a build mean, into a file.

use std::sync::atomic::AtomicU32;

use rgraph_runtime::fetch::image::{ImageFetcher, Lock};
use rgraph_runtime::fetch::lock::LockFile;
use rgraph_runtime::fetch::source::Sources;

use super::graph::policy;
use super::{Context, note, print};
use crate::args::LockArgs;
use crate::options::{LockDest, LockOptions, ProgressMode, Pull};
use crate::output::write_whole;
use crate::pipeline::{Answers, CompileError, compile};
use crate::progress::{Progress, Settings};
use crate::report::CliError;
use crate::units::Unit;
use crate::{session, sources};

/// Runs the command.
pub fn run(cx: &Context, args: LockArgs) -> Result<(), CliError> {
    let opts = LockOptions::new(args, &cx.env, cx.terminals)?;
    let build = &opts.build;
    for w in &build.warnings {
        cx.report(|r| r.warning(w));
    }
    let old = match &opts.dest {
        LockDest::File(path) => sources::read(path)?,
        LockDest::Stdout => None,
    };
    // Lines stay as they are until a registry is to be asked again.
    let kept = old.as_ref().filter(|_| !opts.check).map(Lock::Prefer);
    let store = session::open_store(cx.root())?;
    let registry =
        session::registries(&cx.env, &session::config(&cx.dirs)?, &build.insecure_registries);
    let network = (!build.offline && build.pull != Pull::Never).then_some(&registry);
    let progress =
        Progress::new(&Settings::for_build(build, cx.style.colours), Box::new(std::io::stderr()));
    let images = ImageFetcher::new(&store, network, policy(build.pull), &cx.cancel)
        .locked(kept)
        .telling(|e| progress.message(&format!("registry: {e}")))
        .warning(|text| progress.message(&format!("warning: {text}")));
    let agents = session::Agents::start(&store, &build.ssh)?;
    let ssh = session::ssh_access(&cx.env, agents.sources());
    let remote = Sources::new(&images, &build.secrets, ssh);
    let next_step = AtomicU32::new(0);
    let answers = Answers::Images {
        images: &images,
        sources: &remote,
        sink: &progress,
        next_step: &next_step,
    };
    let compiled = compile(build, &Unit::of(build), &answers, false);
    let compiled = compiled.map_err(|e| {
        progress.close();
        cx.compile_error(e)
    })?;
    let name = match &opts.dest {
        LockDest::File(path) => path.display().to_string(),
        LockDest::Stdout => "-".to_owned(),
    };
    let mut now = LockFile::new(&name);
    for (name, platform, image) in images.resolved() {
        now.add_image(name, image.top, platform, image.manifest);
    }
    let errors = sources::lock(&compiled, &remote, &mut now);
    progress.close();
    if !errors.is_empty() {
        return Err(cx.compile_error(CompileError::Text(errors, compiled.sources)));
    }
    match (&opts.dest, opts.check) {
        (LockDest::Stdout, _) => print(now.to_string().as_bytes()),
        (LockDest::File(_), true) => check(&name, old.as_ref(), &now),
        (LockDest::File(path), false) => {
            write_whole(path, now.to_string().as_bytes())?;
            if build.progress != ProgressMode::Quiet {
                for line in old.iter().flat_map(|old| old.differences(&now)) {
                    note(&line);
                }
                note(&format!("{name}: {} {}", now.len(), noun(now.len())));
            }
            Ok(())
        }
    }
}

fn check(name: &str, old: Option<&LockFile>, now: &LockFile) -> Result<(), CliError> {
    let Some(old) = old else {
        return Err(CliError::failed(format!("there is no lock file `{name}`"))
            .help("`rgraph lock` without `--check` writes it"));
    };
    let differences = old.differences(now);
    if differences.is_empty() {
        note(&format!("{name} is up to date: {} {}", now.len(), noun(now.len())));
        return Ok(());
    }
    for line in &differences {
        note(line);
    }
    Err(CliError::failed(format!("{name} is out of date"))
        .help("`rgraph lock --pull` takes what the sources mean now"))
}

fn noun(n: usize) -> &'static str {
    if n == 1 { "source" } else { "sources" }
}
