//! The whole way of a build in one screen: load, parse, lower until no fact is missing, verify,
//! hand over to a backend, report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rgraph_frontend::ast::{Dockerfile, Kind};
use rgraph_frontend::{Facts, LowerOptions, Lowered, Lowering, NoCache, Query, lower, parse};
use rgraph_ir::request::BuildRequest;
use rgraph_ir::{BuildPlan, Diagnostic, FileId, Severity, SourceMap};
use rgraph_runtime::fetch::image::ImageFetcher;
use rgraph_runtime::fetch::source::Sources;
use rgraph_runtime::{SystemClock, report};
use rgraph_solver::Clock;
use rgraph_solver::event::{Event, EventKind, EventSink, Step};

use crate::context::{Brought, bring};
use crate::load::{Loaded, load};
use crate::options::{BuildOptions, ContextSpec, FileSpec, Pull, host_platform};
use crate::report::CliError;

/// A Dockerfile turned into a plan.
pub struct Compiled {
    /// The plan.
    pub plan: Arc<BuildPlan>,
    /// The texts.
    pub sources: SourceMap,
    /// Which of them is the Dockerfile.
    pub dockerfile: FileId,
    /// What lint and lowering found.
    pub warnings: Vec<Diagnostic>,
    /// Folders by name.
    pub contexts: BTreeMap<String, rgraph_ir::request::LocalContext>,
    /// Which Dockerfile and target, to find what was built here before.
    pub place: String,
    /// The context, when it is no folder of the caller. Goes when all goes.
    pub brought: Option<Brought>,
    /// What the plan was made of. Goes when all goes: to take a large tree apart costs time.
    pub ast: Dockerfile,
}

/// Why there is no plan.
pub enum CompileError {
    /// Before any text was read.
    Cli(CliError),
    /// In the text.
    Text(Vec<Diagnostic>, SourceMap),
}

impl From<CliError> for CompileError {
    fn from(e: CliError) -> Self {
        Self::Cli(e)
    }
}

/// Who answers questions about base images.
pub enum Answers<'a> {
    /// Nobody: stubs.
    Stubs,
    /// The store, then registries.
    Images {
        /// Who.
        images: &'a ImageFetcher<'a>,
        /// URLs and repositories.
        sources: &'a Sources<'a>,
        /// Where questions are shown.
        sink: &'a dyn EventSink,
        /// Numbers for their progress lines.
        next_step: &'a AtomicU32,
    },
}

/// From this many bytes on it is worth asking for the memory of a plan beforehand.
const LARGE_TEXT: usize = 64 << 10;
/// What a plan takes per byte of its text, about, and the most that is asked for.
const HEAP_PER_BYTE: usize = 120;
const MAX_HEAP: usize = 256 << 20;

/// Text to plan. With `warnings` false nobody reads them, and most are not looked for.
pub fn compile(
    opts: &BuildOptions,
    answers: &Answers<'_>,
    warnings: bool,
) -> Result<Compiled, CompileError> {
    let brought = bring_shown(opts, answers)?;
    let loaded = load(opts, brought.as_ref()).map_err(|e| CliError::failed(report(&e)))?;
    let file = loaded.sources.file(loaded.dockerfile).clone();
    if file.text.len() >= LARGE_TEXT {
        rgraph_sys::memory::expect(MAX_HEAP.min(file.text.len() * HEAP_PER_BYTE));
    }
    let parsed = parse(&file);
    let (mut found, mut noticed): (Vec<_>, Vec<_>) =
        parsed.diags.into_iter().partition(|d| d.severity == Severity::Error);
    if !found.is_empty() {
        return Err(CompileError::Text(found, loaded.sources));
    }
    known_stages(&opts.no_cache_filter, &parsed.ast)?;
    let options = LowerOptions { warnings, ..lower_options(opts, &loaded) };
    let mut facts = match answers {
        Answers::Stubs => Facts::offline(),
        Answers::Images { .. } => Facts::new(),
    };
    let lowered: Lowered = loop {
        match lower(&parsed.ast, &options, &facts) {
            Ok(Lowering::Done(done)) => break done,
            Ok(Lowering::Missing(queries)) => {
                answer(&queries.into_iter().collect::<Vec<_>>(), answers, &mut facts)?
            }
            Err(diags) => {
                found.extend(diags);
                return Err(CompileError::Text(found, loaded.sources));
            }
        }
    };
    let broken = rgraph_ir::verify::verify(&lowered.plan);
    if let Some(v) = broken.first() {
        return Err(CliError::internal(format!("the plan breaks an invariant: {v}")).into());
    }
    noticed.extend(lowered.warnings);
    Ok(Compiled {
        plan: Arc::new(lowered.plan),
        dockerfile: loaded.dockerfile,
        sources: loaded.sources,
        warnings: noticed,
        contexts: loaded.contexts,
        place: place(opts),
        brought,
        ast: parsed.ast,
    })
}

/// The context, with a line of progress when it is not a folder.
fn bring_shown(opts: &BuildOptions, answers: &Answers<'_>) -> Result<Option<Brought>, CliError> {
    let Answers::Images { sources, sink, next_step, .. } = answers else {
        return bring(opts, None);
    };
    if let ContextSpec::Folder(_) = opts.context {
        return Ok(None);
    }
    let step = Step::Other(next_step.fetch_add(1, Ordering::Relaxed));
    let emit = |kind| sink.emit(Event { at: SystemClock.now(), step, kind });
    emit(EventKind::Announced { name: "[internal] load build context".to_owned() });
    emit(EventKind::Started);
    let brought = bring(opts, Some(sources));
    emit(match &brought {
        Ok(_) => EventKind::Finished,
        Err(e) => EventKind::Failed { message: e.message.clone() },
    });
    brought
}

/// A filter that names no stage would do nothing, in silence.
fn known_stages(filter: &[String], ast: &Dockerfile) -> Result<(), CliError> {
    let names: Vec<&str> = ast.stages.iter().filter_map(|s| s.name.as_deref()).collect();
    for wanted in filter {
        let number = wanted.parse::<usize>().is_ok_and(|n| n < ast.stages.len());
        if !number && !names.iter().any(|n| n.eq_ignore_ascii_case(wanted)) {
            let e = CliError::failed(format!("--no-cache-filter: no stage is called `{wanted}`"));
            return Err(match rgraph_ir::near::nearest(wanted, names) {
                Some(near) => e.help(format!("did you mean `{near}`?")),
                None => e,
            });
        }
    }
    Ok(())
}

/// Where this build takes place: a Dockerfile and a target. Builds of one place explain each other.
pub fn place(opts: &BuildOptions) -> String {
    format!("{}\0{}", dockerfile(opts).display(), opts.target.as_deref().unwrap_or(""))
}

/// The Dockerfile's absolute path; of one that came in by a pipe, `-` in the context.
pub fn dockerfile(opts: &BuildOptions) -> PathBuf {
    let folder = match &opts.context {
        ContextSpec::Folder(p) => p.as_path(),
        ContextSpec::Stdin => Path::new("-"),
        ContextSpec::Http(url) | ContextSpec::Git(url) => {
            let url = PathBuf::from(rgraph_image::registry::shown_url(url));
            return match &opts.file {
                FileSpec::Path(p) => url.join(p),
                FileSpec::Default => url.join("Dockerfile"),
                FileSpec::Stdin | FileSpec::Inline(_) => url.join("-"),
            };
        }
    };
    let file = match &opts.file {
        FileSpec::Path(p) => p.clone(),
        FileSpec::Default => folder.join("Dockerfile"),
        FileSpec::Stdin | FileSpec::Inline(_) => folder.join("-"),
    };
    std::path::absolute(&file).unwrap_or(file)
}

/// Names that `ARG` declares or the caller gives, but for those that `ENV` sets: steps see the
/// latter's value.
fn arg_names(opts: &BuildOptions, ast: &Dockerfile) -> BTreeSet<String> {
    let of_stages = ast.stages.iter().flat_map(|s| &s.instructions);
    let mut names: BTreeSet<String> = opts.build_args.keys().cloned().collect();
    for i in ast.global_args.iter().chain(of_stages.clone()) {
        if let Kind::Arg(defs) = &i.kind {
            names.extend(defs.iter().map(|d| d.key.text.to_string()));
        }
    }
    for i in of_stages {
        if let Kind::Env(pairs) = &i.kind {
            for p in pairs {
                names.remove(p.key.text.as_str());
            }
        }
    }
    names
}

/// The options of lowering.
pub fn lower_options(opts: &BuildOptions, loaded: &Loaded) -> LowerOptions {
    LowerOptions {
        target: opts.target.clone(),
        platforms: opts.platforms.clone(),
        build_platform: host_platform(),
        build_args: opts.build_args.clone(),
        labels: opts.labels.clone(),
        inherit_labels: opts.inherit_labels,
        no_cache: match (opts.no_cache, opts.no_cache_filter.is_empty()) {
            (true, _) => NoCache::All,
            (false, true) => NoCache::None,
            (false, false) => NoCache::Stages(opts.no_cache_filter.clone()),
        },
        network: opts.network.unwrap_or_default(),
        add_hosts: opts.add_hosts.clone(),
        ulimits: opts.ulimits.clone(),
        shm_size: opts.shm_size,
        cgroup_parent: opts.cgroup_parent.clone(),
        build_contexts: loaded.named.clone(),
        ignore: loaded.ignore.clone(),
        pull: opts.pull == Pull::Always,
        source_date_epoch: opts.source_date_epoch,
        max_layers: opts.max_layers,
        ..LowerOptions::default()
    }
}

/// Answers all questions of one round at once.
fn answer(queries: &[Query], answers: &Answers<'_>, facts: &mut Facts) -> Result<(), CliError> {
    let Answers::Images { images, sink, next_step, .. } = answers else {
        return Err(CliError::internal("lowering asked although every answer is a stub"));
    };
    let ask = |q: &Query| match q {
        Query::ImageConfig { reference, platform, mode } => {
            let step = Step::Other(next_step.fetch_add(1, Ordering::Relaxed));
            let emit = |kind| sink.emit(Event { at: SystemClock.now(), step, kind });
            let name = reference.trim_start_matches("docker.io/library/");
            emit(EventKind::Announced { name: format!("[internal] load metadata for {name}") });
            emit(EventKind::Started);
            match images.resolve(reference, platform, *mode) {
                Ok(image) => {
                    emit(EventKind::Finished);
                    Ok(image.base_image())
                }
                Err(e) => {
                    let message = report(&e);
                    emit(EventKind::Failed { message: message.clone() });
                    Err(message)
                }
            }
        }
        Query::OciLayoutConfig { context, reference, platform } => images
            .resolve_layout(context, reference, platform)
            .map(|image| image.base_image())
            .map_err(|e| report(&e)),
    };
    if let [only] = queries {
        // The usual case, and usually answered by the store: not worth a thread.
        facts.insert(only.clone(), ask(only));
        return Ok(());
    }
    let results: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> = queries.iter().map(|q| s.spawn(|| (q.clone(), ask(q)))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for r in results {
        let (query, result) =
            r.map_err(|_| CliError::internal("a look-up of an image panicked"))?;
        facts.insert(query, result);
    }
    Ok(())
}

/// The request of a build.
pub fn request(opts: &BuildOptions, compiled: &Compiled) -> BuildRequest {
    BuildRequest {
        plan: compiled.plan.clone(),
        contexts: compiled.contexts.clone(),
        outputs: opts.outputs.clone(),
        tags: opts.tags.clone(),
        cache_from: opts.cache_from.clone(),
        cache_to: opts.cache_to.clone(),
        cache_ttl: opts.cache_ttl,
        secrets: opts.secrets.clone(),
        ssh: opts.ssh.clone(),
        allow: opts.allow.clone(),
        network_fallback: Default::default(),
        jobs: opts.jobs,
        step_timeout: opts.timeouts.step,
        retries: opts.retries,
        source_date_epoch: opts.source_date_epoch,
        shm_size: opts.shm_size,
        resources: opts.resources.clone(),
        host_platform: host_platform(),
        place: compiled.place.clone(),
        args: arg_names(opts, &compiled.ast),
        squash: opts.squash,
        omit_history: opts.omit_history,
        attest: opts.attest.clone(),
        asked: Default::default(),
    }
}
