//! `rgraph build`.

use std::sync::atomic::AtomicU32;
use std::time::Instant;

use base64::Engine as _;
use rgraph_image::manifest::OCI_INDEX;
use rgraph_ir::request::{Dest, Export, OutputSpec};
use rgraph_ir::{Diagnostic, Op, SourceMap, Ttl};
use rgraph_runtime::LocalBackend;
use rgraph_runtime::builds::{BuildRecord, BuildStatus, Journal};
use rgraph_runtime::fetch::image::{ImageFetcher, Lock};
use rgraph_runtime::fetch::source::Sources;
use rgraph_runtime::logs::BuildLogs;
use rgraph_solver::backend::{Backend, BuildError, BuildOutcome, Exported};
use rgraph_solver::{SolveError, Step, TaskError};

use super::graph::policy;
use super::{Context, call, context, note, print, prune};
use crate::args::BuildArgs;
use crate::asked::asked;
use crate::journal::{Ending, Span, record};
use crate::options::{BuildOptions, Call, Config, ContextSpec, ProgressMode, Pull, devices};
use crate::output::write_whole;
use crate::pipeline::{Answers, CompileError, Compiled, compile, request};
use crate::progress::{Progress, Recorder, Settings, Summary, write_classic, write_summary};
use crate::report::{CliError, ErrorKind, FailedStep};
use crate::script::script;
use crate::session::Alarm;
use crate::units::{self, Unit};
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
    let units = Unit::of(&opts);
    execute(cx, &opts, &units, started)
}

/// Builds units as one. `common`: what was said for all of them.
pub fn execute(
    cx: &Context,
    common: &BuildOptions,
    units: &[Unit],
    started: Instant,
) -> Result<(), CliError> {
    if common.progress == ProgressMode::Legacy && units.len() > 1 {
        return Err(CliError::usage("`--progress=legacy` shows one target only")
            .help("the form has no place for a second one: use `--progress=plain`"));
    }
    let begun = jiff::Timestamp::now();
    let opts = &units::together(common, units)?;
    let alarm = Alarm::set(opts.timeouts.build, &cx.cancel);
    let config = session::config(&cx.dirs)?;
    let host = cx.host()?;
    let lock = sources::obeyed(opts.locked.as_deref())?;
    let store = session::open_store(cx.root())?;
    let registry = session::registries(&cx.env, &config, &opts.insecure_registries);
    let network = (!opts.offline && opts.pull != Pull::Never).then_some(&registry);
    let journal = Journal::new(&store, &units::place(opts, units));
    let logs = BuildLogs::new(&store, journal.id(), config.log_size());
    let mut settings = Settings::for_build(opts, cx.style.colours);
    settings.log_hint = Some(format!("rgraph logs {}", journal.id()));
    let progress = Progress::new(&settings, Box::new(std::io::stderr()));
    let recorder = Recorder::new(&progress, logs.clone(), settings.secrets.clone());
    let images = ImageFetcher::new(&store, network, policy(opts.pull), &cx.cancel)
        .locked(lock.as_ref().map(Lock::Obey))
        .telling(|e| progress.message(&format!("registry: {e}")))
        .warning(|text| progress.message(&format!("warning: {text}")));
    let agents = session::Agents::start(&store, &opts.ssh)?;
    let ssh = session::ssh_access(&cx.env, agents.sources());
    let remote = Sources::new(&images, &opts.secrets, ssh);
    let next_step = AtomicU32::new(0);
    let answers = Answers::Images {
        images: &images,
        sources: &remote,
        sink: &progress,
        next_step: &next_step,
    };
    let span = |started: Instant| Span {
        started: begun.to_string(),
        millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    let compiled = compile(opts, units, &answers, true).and_then(|c| match &lock {
        Some(lock) => match sources::unlocked(&c, lock) {
            errors if errors.is_empty() => Ok(c),
            errors => Err(CompileError::Text(errors, c.sources)),
        },
        None => Ok(c),
    });
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(e) => {
            progress.close();
            let end = Ending { status: status(cx, false), error: Some(told(&e)), image: None };
            keep(journal, record(opts, None, &progress, &logs, span(started), end));
            return Err(if alarm.rang() { late(opts) } else { cx.compile_error(e) });
        }
    };
    if opts.progress == ProgressMode::Legacy {
        if let ContextSpec::Folder(folder) = &opts.context {
            let (files, bytes) = context::seen(folder, &opts.file)?;
            let bytes = crate::table::size(bytes);
            progress.message(&format!("Build context of {files} files, {bytes}"));
        }
        progress.script(script(&compiled.origin(0).ast, &compiled.plan));
    }
    loud(cx, &progress, &compiled);
    let backend = LocalBackend {
        store: &store,
        host,
        images: &images,
        sources: &remote,
        next_step: &next_step,
        journal: &journal,
    };
    let mut request = request(opts, &compiled);
    request.ssh = agents.sources().clone();
    request.network_fallback = config.network_fallback();
    if request.plan.graph.iter().any(|(_, v)| matches!(&v.op, Op::Exec(e) if !e.devices.is_empty()))
    {
        let dirs = match opts.cdi_spec_dirs.is_empty() {
            true => config.cdi_spec_dirs(),
            false => opts.cdi_spec_dirs.clone(),
        };
        let mut warn = |text: String| progress.message(&format!("warning: {text}"));
        request.devices = devices(&dirs, &mut warn);
    }
    let wanted = units.iter().enumerate().filter(|(_, u)| u.wanted);
    for (export, (at, unit)) in request.exports.iter_mut().zip(wanted) {
        if export.attest.provenance.is_some() {
            let (origin, begun) = (compiled.origin(at), begun.to_string());
            export.asked =
                asked(&unit.opts, origin, &compiled.sources, &remote, journal.id(), &begun);
        }
    }
    let outcome = backend.build(&request, &recorder, &cx.cancel);
    progress.close();
    let end = Ending {
        status: status(cx, outcome.is_ok()),
        error: outcome.as_ref().err().map(cause),
        image: outcome.as_ref().ok().and_then(|o| o.results.first().and_then(image)),
    };
    let span = span(started);
    let quiet = opts.progress == ProgressMode::Quiet;
    if !quiet {
        cx.report(|r| r.warnings(&compiled.warnings, &compiled.sources));
    }
    let result = match outcome {
        Ok(outcome) => write_id(cx, opts, &outcome).and_then(|()| {
            finish(opts, &outcome, started, &progress, &compiled, journal.id(), quiet)
        }),
        Err(_) if alarm.rang() => Err(late(opts)),
        Err(e) => Err(failure(cx, e, &progress, &compiled)),
    };
    keep(journal, record(opts, Some(&compiled), &progress, &logs, span, end));
    result?;
    collect(cx, &store, &config, quiet);
    Ok(())
}

/// Writes the record, last of all: whoever waits for the build has what it wants.
fn keep(journal: Journal<'_>, record: BuildRecord) {
    if let Err(e) = journal.end(record) {
        tracing::debug!(error = %e, "no record of this build");
    }
}

/// The whole build took too long.
fn late(opts: &BuildOptions) -> CliError {
    let limit = opts.timeouts.build.unwrap_or_default();
    let limit = Ttl::seconds(limit.as_secs());
    CliError::failed(format!("the build was not done after {limit}, and was canceled (--timeout)"))
        .help("what was finished is in the cache: the next build goes on from there")
}

fn status(cx: &Context, ok: bool) -> BuildStatus {
    match ok {
        true => BuildStatus::Done,
        false if cx.cancel.is_cancelled() => BuildStatus::Canceled,
        false => BuildStatus::Failed,
    }
}

/// Why there is no result, in one line. Which step failed is told by the steps.
fn cause(e: &BuildError) -> String {
    match e {
        BuildError::Solve(e) => rgraph_runtime::report(&e.cause),
        e => rgraph_runtime::report(e),
    }
}

/// Why there was no plan, in one line.
fn told(e: &CompileError) -> String {
    match e {
        CompileError::Cli(e) => e.message.clone(),
        CompileError::Text(diags, sources) => {
            let Some(d) = diags.first() else { return String::new() };
            let at = d
                .labels
                .first()
                .map(|l| format!("{}: ", sources.locate(l.span)))
                .unwrap_or_default();
            format!("{at}{}", d.message)
        }
    }
}

/// What is named at the end.
fn image(result: &Exported) -> Option<String> {
    match (&result.index, &result.images[..]) {
        (_, []) => None,
        // What is said of an image does not change which one it is.
        (_, [one]) | (None, [one, ..]) => Some(one.config.to_string()),
        (Some((index, _)), _) => Some(index.to_string()),
    }
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
                span: vertex.meta.span,
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

/// The image of a build that has one.
fn only_image(outcome: &BuildOutcome) -> Option<String> {
    match &outcome.results[..] {
        [one] => image(one),
        _ => None,
    }
}

/// Writes `--iidfile`. Where there is no image, no id of an earlier build stays for this one's.
fn write_id(cx: &Context, opts: &BuildOptions, outcome: &BuildOutcome) -> Result<(), CliError> {
    let Some(path) = &opts.iidfile else { return Ok(()) };
    if let Some(id) = only_image(outcome) {
        return write_whole(path, id.as_bytes());
    }
    let shown = path.display();
    if path.symlink_metadata().is_ok_and(|m| m.is_file()) {
        std::fs::remove_file(path)
            .map_err(|e| CliError::failed(format!("cannot remove `{shown}`")).because(e))?;
    }
    let text = format!("`--iidfile {shown}` is not written: the outputs are files, and no image");
    cx.report(|r| r.warning(&text));
    Ok(())
}

fn finish(
    opts: &BuildOptions,
    outcome: &BuildOutcome,
    started: Instant,
    progress: &Progress,
    compiled: &Compiled,
    id_of_build: &str,
    quiet: bool,
) -> Result<(), CliError> {
    let ids: Vec<String> = outcome.results.iter().filter_map(image).collect();
    let id = only_image(outcome);
    if let Some(path) = &opts.metadata_file {
        write_whole(path, &metadata(outcome, compiled, id_of_build))?;
    }
    if quiet {
        return ids.iter().try_for_each(|id| print(format!("{id}\n").as_bytes()));
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
    if opts.progress == ProgressMode::Legacy {
        write_classic(&summary, &mut err).unwrap_or(());
        return Ok(());
    }
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
            OutputSpec::Tar { dest, .. } => path(dest),
            OutputSpec::Local { dest, .. } => Some(dest.display().to_string()),
            OutputSpec::Image(_) | OutputSpec::Registry(_) | OutputSpec::CacheOnly => None,
        })
        .collect()
}

/// The keys buildx writes; of several results, by their names.
fn metadata(outcome: &BuildOutcome, compiled: &Compiled, id_of_build: &str) -> Vec<u8> {
    let facts = |(result, export): (&Exported, &Export)| {
        let mut out = image_facts(result);
        out.insert("buildx.build.ref".into(), id_of_build.into());
        if !export.tags.is_empty() {
            out.insert("image.name".into(), export.tags.join(",").into());
        }
        (result.name.clone(), out)
    };
    let mut all = outcome.results.iter().zip(&compiled.exports).map(facts);
    let mut out = match &compiled.exports[..] {
        [one] if one.name.is_empty() => all.next().map(|(_, facts)| facts).unwrap_or_default(),
        _ => all.map(|(name, facts)| (name, facts.into())).collect(),
    };
    let warnings: Vec<_> =
        compiled.warnings.iter().map(|d| warning(d, &compiled.sources)).collect();
    if !warnings.is_empty() {
        out.insert("buildx.build.warnings".into(), warnings.into());
    }
    let mut bytes = serde_json::to_vec_pretty(&out).expect("always serialises");
    bytes.push(b'\n');
    bytes
}

/// What one export came to.
fn image_facts(result: &Exported) -> serde_json::Map<String, serde_json::Value> {
    let mut out = serde_json::Map::new();
    if let [i] = &result.images[..] {
        out.insert("containerimage.config.digest".into(), i.config.to_string().into());
    }
    let descriptor = match (result.index, result.images.first()) {
        (Some((digest, size)), _) => Some(serde_json::json!({
            "mediaType": OCI_INDEX,
            "digest": digest.to_string(),
            "size": size,
        })),
        (None, Some(i)) => Some(serde_json::json!({
            "mediaType": i.media_type,
            "digest": i.manifest.to_string(),
            "size": i.size,
            "platform": {"os": i.platform.os, "architecture": i.platform.architecture},
        })),
        (None, None) => None,
    };
    if let Some(d) = descriptor {
        out.insert("containerimage.digest".into(), d["digest"].clone());
        out.insert("containerimage.descriptor".into(), d);
    }
    for (platform, text) in &result.provenance {
        let key = match result.provenance.len() {
            1 => "buildx.build.provenance".to_owned(),
            _ => format!("buildx.build.provenance/{platform}"),
        };
        out.insert(key, serde_json::from_str(text).expect("it was written as JSON"));
    }
    out
}

/// A warning in the form of BuildKit's `VertexWarning`, its texts in base64.
fn warning(d: &Diagnostic, sources: &SourceMap) -> serde_json::Value {
    let text = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
    let mut out = serde_json::json!({
        "level": 1,
        "short": text(&format!("{}: {}", d.code, d.message)),
    });
    if let Some(help) = &d.help {
        out["detail"] = vec![text(help)].into();
    }
    if let Some(url) = d.url {
        out["url"] = url.into();
    }
    if let Some(label) = d.labels.first() {
        let file = sources.file(label.span.file);
        let name = file.name.rsplit('/').next().unwrap_or(&file.name);
        let at = |byte| serde_json::json!({"line": file.line_col(byte).line});
        out["sourceInfo"] = serde_json::json!({"filename": name, "language": "Dockerfile"});
        out["range"] =
            serde_json::json!([{"start": at(label.span.start), "end": at(label.span.end)}]);
    }
    out
}
