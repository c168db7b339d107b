//! `rgraph build`.

use std::sync::atomic::AtomicU32;
use std::time::Instant;

use rgraph_ir::request::{Dest, OutputSpec};
use rgraph_ir::{Diagnostic, SourceMap};
use rgraph_runtime::LocalBackend;
use rgraph_runtime::fetch::image::{ImageFetcher, Lock};
use rgraph_runtime::host::Host;
use rgraph_solver::backend::{Backend, BuildError, BuildOutcome};
use rgraph_solver::{SolveError, Step, TaskError};

use super::graph::policy;
use super::{Context, call, note, print, prune};
use crate::args::BuildArgs;
use crate::options::{BuildOptions, Call, Config, ProgressMode, Pull};
use crate::output::write_whole;
use crate::pipeline::{Answers, CompileError, Compiled, compile, request};
use crate::progress::{Progress, Settings, Summary, write_summary};
use crate::report::{CliError, ErrorKind, FailedStep};
use crate::{session, sources};

/// Rules about layers: what they find is shown in full.
const LAYER_RULES: [&str; 2] = ["ChainedRun", "TooManyLayers"];

/// Runs the command.
pub fn run(cx: &Context, args: BuildArgs) -> Result<(), CliError> {
    let started = Instant::now();
    let opts = BuildOptions::new(args, &cx.env, cx.terminals)?;
    for w in &opts.warnings {
        cx.report(|r| r.warning(w));
    }
    if opts.call != Call::Build {
        return call::run(cx, &opts);
    }
    let config = Config::load(cx.dirs.config.as_deref())
        .map_err(|e| CliError::failed(rgraph_runtime::report(&e)))?;
    let host = Host::probe().map_err(|e| CliError::failed(e.to_string()))?;
    let lock = sources::obeyed(opts.locked.as_deref())?;
    let store = session::open_store(cx.root())?;
    let registry = session::registries(&cx.env, &opts.insecure_registries);
    let network = (!opts.offline && opts.pull != Pull::Never).then_some(&registry);
    let progress =
        Progress::new(&Settings::for_build(&opts, cx.style.colours), Box::new(std::io::stderr()));
    let images = ImageFetcher::new(&store, network, policy(opts.pull), &cx.cancel)
        .locked(lock.as_ref().map(Lock::Obey))
        .telling(|e| progress.message(&format!("registry: {e}")))
        .warning(|text| progress.message(&format!("warning: {text}")));
    let next_step = AtomicU32::new(0);
    let answers = Answers::Images { images: &images, sink: &progress, next_step: &next_step };
    let compiled = compile(&opts, &answers).map_err(|e| {
        progress.close();
        cx.compile_error(e)
    })?;
    if let Some(lock) = &lock {
        let errors = sources::unlocked(&compiled.plan, lock);
        if !errors.is_empty() {
            progress.close();
            return Err(cx.compile_error(CompileError::Text(errors, compiled.sources)));
        }
    }
    loud(cx, &progress, &compiled);
    let backend =
        LocalBackend { store: &store, host: &host, images: &images, next_step: &next_step };
    let outcome = backend.build(&request(&opts, &compiled), &progress, &cx.cancel);
    progress.close();
    let quiet = opts.progress == ProgressMode::Quiet;
    if !quiet {
        cx.report(|r| r.warnings(&compiled.warnings, &compiled.sources));
    }
    let outcome = outcome.map_err(|e| failure(cx, e, &progress, &compiled))?;
    finish(&opts, &outcome, started, &progress, &compiled, quiet)?;
    collect(cx, &store, &config, quiet);
    Ok(())
}

/// Brings the cache back within its bounds. The build is done and told; this may be interrupted, and
/// a failure is a warning.
fn collect(cx: &Context, store: &rgraph_store::Store, config: &Config, quiet: bool) {
    let stop = || cx.cancel.is_cancelled();
    let done = store.disk().and_then(|disk| match config.gc(&disk) {
        Some(policy) => store.gc_if_needed(&policy, &stop),
        None => Ok(None),
    });
    match done {
        Ok(Some(r)) if r != rgraph_store::Report::default() && !quiet => {
            let bytes = crate::table::size(r.bytes);
            note(&format!("gc: removed {}: {bytes}", prune::words(&r)));
        }
        Ok(_) => {}
        Err(e) => note(&format!(
            "warning: automatic gc: {}",
            crate::report::chain_text(&session::store_error(&e))
        )),
    }
}

/// Warnings about layers are what this builder is for: they are drawn in full, with the form to
/// write, before the build.
fn loud(cx: &Context, progress: &Progress, compiled: &Compiled) {
    let about_layers: Vec<Diagnostic> =
        compiled.warnings.iter().filter(|d| LAYER_RULES.contains(&d.code)).cloned().collect();
    if about_layers.is_empty() || cx.style.debug {
        return;
    }
    let mut text = Vec::new();
    let style = crate::report::Style { colours: false, ..cx.style };
    let drawn = crate::report::Reporter::new(&mut text, style)
        .diagnostics(&about_layers, &compiled.sources);
    if drawn.is_ok() {
        progress.message(String::from_utf8_lossy(&text).trim_end());
    }
}

fn failure(cx: &Context, e: BuildError, progress: &Progress, c: &Compiled) -> CliError {
    let sources: &SourceMap = &c.sources;
    match e {
        BuildError::Solve(
            SolveError { vertex: None, .. } | SolveError { cause: TaskError::Cancelled, .. },
        ) => CliError::failed("canceled"),
        BuildError::Solve(SolveError { vertex: Some(v), cause }) => {
            let vertex = c.plan.graph.vertex(v);
            let tail = progress.tail(Step::Vertex(v));
            let step = FailedStep {
                name: &vertex.meta.name,
                span: vertex.meta.spans.first().copied(),
                tail: &tail,
                help: None,
            };
            cx.report(|r| r.failed_step(&step, &cause, sources));
            CliError::reported(ErrorKind::Failed)
        }
        BuildError::Entitlement { what, name, span } => {
            let mut d = Diagnostic::new(
                rgraph_ir::Severity::Error,
                "needs-entitlement",
                span,
                format!("{what} needs --allow {name}"),
            );
            d.help = Some(format!("add `--allow {name}` if you trust this Dockerfile with it"));
            cx.report(|r| r.diagnostics(&[d], sources));
            CliError::reported(ErrorKind::Failed)
        }
        BuildError::Export(e) => CliError::failed("cannot write the output").because(e),
        BuildError::Cache(e) => {
            CliError::failed("the result is written, but a cache is not").because(e)
        }
        BuildError::Setup(e) => CliError::failed("cannot build here").because(e),
    }
}

fn finish(
    opts: &BuildOptions,
    outcome: &BuildOutcome,
    started: Instant,
    progress: &Progress,
    compiled: &Compiled,
    quiet: bool,
) -> Result<(), CliError> {
    let id = match (&outcome.index, &outcome.images[..]) {
        (Some((index, _)), _) => Some(index.to_string()),
        (None, [one, ..]) => Some(one.config.to_string()),
        (None, []) => None,
    };
    if let Some(path) = &opts.metadata_file {
        write_whole(path, &metadata(opts, outcome))?;
    }
    if let (Some(path), Some(id)) = (&opts.iidfile, &id) {
        write_whole(path, id.as_bytes())?;
    }
    if quiet {
        return match id {
            Some(id) => print(format!("{id}\n").as_bytes()),
            None => Ok(()),
        };
    }
    let summary = Summary {
        elapsed: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        counts: progress.counts(),
        image: id,
        names: opts.tags.clone(),
        files: files(&opts.outputs),
        warnings: compiled.warnings.len(),
    };
    let mut err = std::io::stderr().lock();
    // A closed stderr is nobody's loss.
    write_summary(&summary, &mut err).unwrap_or(());
    Ok(())
}

fn files(outputs: &[OutputSpec]) -> Vec<String> {
    let path = |d: &Dest| match d {
        Dest::Path(p) => Some(p.display().to_string()),
        Dest::Stdout => None,
    };
    outputs
        .iter()
        .filter_map(|o| match o {
            OutputSpec::Oci(a) | OutputSpec::Docker(a) => path(&a.dest),
            OutputSpec::Tar { dest } => path(dest),
            OutputSpec::Local { dest } => Some(dest.display().to_string()),
            OutputSpec::Image(_) | OutputSpec::Registry(_) | OutputSpec::CacheOnly => None,
        })
        .collect()
}

/// The keys buildx writes.
fn metadata(opts: &BuildOptions, outcome: &BuildOutcome) -> Vec<u8> {
    let mut out = serde_json::Map::new();
    if let Some(i) = outcome.images.first() {
        out.insert("containerimage.config.digest".into(), i.config.to_string().into());
        out.insert("containerimage.digest".into(), i.manifest.to_string().into());
        out.insert(
            "containerimage.descriptor".into(),
            serde_json::json!({
                "mediaType": i.media_type,
                "digest": i.manifest.to_string(),
                "size": i.size,
                "platform": {"os": i.platform.os, "architecture": i.platform.architecture},
            }),
        );
    }
    if !opts.tags.is_empty() {
        out.insert("image.name".into(), opts.tags.join(",").into());
    }
    let mut bytes = serde_json::to_vec_pretty(&out).expect("always serialises");
    bytes.push(b'\n');
    bytes
}
