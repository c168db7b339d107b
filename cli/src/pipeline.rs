//! The whole way of a build in one screen: load, parse, lower until no fact is missing, verify,
//! hand over to a backend, report.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rgraph_frontend::ast::{Dockerfile, Kind};
use rgraph_frontend::{Facts, LowerOptions, Lowering, NoCache, Query, TimeOf, lower, parse};
use rgraph_ir::image_config::BaseImage;
use rgraph_ir::op::HttpSource;
use rgraph_ir::request::{BuildRequest, Export};
use rgraph_ir::{BuildPlan, Diagnostic, FileId, Severity, SourceMap};
use rgraph_runtime::fetch::image::ImageFetcher;
use rgraph_runtime::fetch::source::Sources;
use rgraph_runtime::{SystemClock, report};
use rgraph_solver::Clock;
use rgraph_solver::event::{Event, EventKind, EventSink, Step};

use crate::context::{Brought, bring};
use crate::load::{FolderNames, Loaded, load};
use crate::options::{
    BuildOptions, ContextSpec, FileSpec, NamedContext, Platforms, Pull, host_platform,
};
use crate::platforms;
use crate::report::CliError;
use crate::units::{self, Unit};

/// Dockerfiles turned into a plan.
pub struct Compiled {
    /// The plan.
    pub plan: Arc<BuildPlan>,
    /// What is made of its targets.
    pub exports: Vec<Export>,
    /// The texts.
    pub sources: SourceMap,
    /// What lint and lowering found.
    pub warnings: Vec<Diagnostic>,
    /// Folders by name.
    pub contexts: BTreeMap<String, rgraph_ir::request::LocalContext>,
    /// Which Dockerfile and target, to find what was built here before.
    pub place: String,
    /// What the plan was made of. Goes when all goes: to take a large tree apart costs time.
    pub origins: Vec<Origin>,
    /// Of each unit, which of them it was made of.
    of_unit: Vec<usize>,
    /// Names of build arguments that the caller gives.
    given: BTreeSet<String>,
}

impl Compiled {
    /// What the unit in this place was made of.
    pub fn origin(&self, unit: usize) -> &Origin {
        &self.origins[self.of_unit[unit]]
    }
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

impl Answers<'_> {
    fn sources(&self) -> Option<&Sources<'_>> {
        match self {
            Self::Stubs => None,
            Self::Images { sources, .. } => Some(sources),
        }
    }
}

const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Whether the time may be that of the context: to find it out costs more than most of a cached build.
fn asks_for_a_time(opts: &BuildOptions, ast: &Dockerfile) -> bool {
    match opts.build_args.get(EPOCH) {
        Some(given) => given == "context",
        None => ast.global_args.iter().any(|i| i.text.contains(EPOCH)),
    }
}

/// From this many bytes on it is worth asking for the memory of a plan beforehand.
const LARGE_TEXT: usize = 64 << 10;
/// What a plan takes per byte of its text, about, and the most that is asked for.
const HEAP_PER_BYTE: usize = 120;
const MAX_HEAP: usize = 256 << 20;

/// A Dockerfile with its context, read once for all units that build from it.
pub struct Origin {
    /// The context, when it is no folder of the caller. Goes when this goes.
    pub brought: Option<Brought>,
    /// What was found.
    pub loaded: Loaded,
    /// The Dockerfile.
    pub ast: Dockerfile,
}

/// Texts to one plan. `common`: what holds for all units. With `warnings` false nobody reads them, and
/// most are not looked for.
pub fn compile(
    common: &BuildOptions,
    units: &[Unit],
    answers: &Answers<'_>,
    warnings: bool,
) -> Result<Compiled, CompileError> {
    let (mut sources, mut names) = (SourceMap::default(), FolderNames::default());
    let (mut noticed, mut origins, mut of_unit) = (Vec::new(), Vec::<Origin>::new(), Vec::new());
    for (at, unit) in units.iter().enumerate() {
        let same = (0..at).find(|other| units[*other].same_source(unit));
        if let Some(other) = same {
            of_unit.push(of_unit[other]);
            continue;
        }
        of_unit.push(origins.len());
        let brought = bring_shown(&unit.opts, answers)?;
        let loaded = load(&unit.opts, brought.as_ref(), &mut sources, &mut names)
            .map_err(|e| CliError::failed(report(&e)))
            .map_err(|e| about(unit, e))?;
        let file = sources.file(loaded.dockerfile).clone();
        if file.text.len() >= LARGE_TEXT {
            rgraph_sys::memory::expect(MAX_HEAP.min(file.text.len() * HEAP_PER_BYTE));
        }
        let parsed = parse(&file);
        let (errors, found): (Vec<_>, Vec<_>) =
            parsed.diags.into_iter().partition(|d| d.severity == Severity::Error);
        if !errors.is_empty() {
            return Err(CompileError::Text(errors, sources));
        }
        noticed.extend(found);
        origins.push(Origin { brought, loaded, ast: parsed.ast });
    }
    let origin = |at: usize| &origins[of_unit[at]];
    for (at, unit) in units.iter().enumerate() {
        let known = |flag, wanted: &[String]| {
            known_stages(flag, wanted, &origin(at).ast).map_err(|e| about(unit, e))
        };
        known("--no-cache-filter", &unit.opts.no_cache_filter)?;
        unit.opts.services.iter().try_for_each(|s| known("--service", &s.stages))?;
    }
    let mut facts = match answers {
        Answers::Stubs => Facts::offline(),
        Answers::Images { .. } => Facts::new(),
    };
    let mut of_bases = Vec::new();
    for (at, unit) in units.iter().enumerate() {
        let found = all_platforms(unit, origin(at), answers).map_err(|e| about(unit, e))?;
        of_bases.push(found.map(|f| {
            noticed.extend(f.notice());
            f.platforms
        }));
    }
    let mut plans: Vec<Option<Arc<BuildPlan>>> = vec![None; units.len()];
    let mut epochs = vec![None; units.len()];
    while plans.iter().any(Option::is_none) {
        let (mut missing, mut errors) = (BTreeSet::new(), Vec::new());
        let before = plans.iter().flatten().count();
        for (at, unit) in units.iter().enumerate() {
            if plans[at].is_some() {
                continue;
            }
            // What it stands on comes first.
            let Some(linked) = links(&unit.opts, units, &plans)? else { continue };
            let Origin { loaded, ast, brought } = origin(at);
            let context_time = match brought {
                Some(brought) if asks_for_a_time(&unit.opts, ast) => {
                    let time = brought.time(answers.sources());
                    time.map_err(|why| about(unit, CliError::failed(format!("{EPOCH}: {why}"))))?
                }
                _ => None,
            };
            let options = lower_options(&unit.opts, loaded);
            let mut options = LowerOptions { warnings, context_time, ..options };
            options.build_contexts.extend(linked);
            if let Some(all) = &of_bases[at] {
                options.platforms.clone_from(all);
            }
            match lower(ast, &options, &facts) {
                Ok(Lowering::Done(done)) => {
                    noticed.extend(done.warnings);
                    epochs[at] = done.epoch;
                    let mut plan = done.plan;
                    if units.len() > 1 {
                        let name: Arc<str> = unit.name.as_str().into();
                        plan.graph.rename(|meta| {
                            // What it takes from another unit is that one's.
                            meta.unit.get_or_insert_with(|| name.clone());
                        });
                    }
                    if origins.len() > 1 {
                        name_steps(&mut plan, &unit.name, loaded.dockerfile);
                    }
                    plans[at] = Some(Arc::new(plan));
                }
                Ok(Lowering::Missing(queries)) => missing.extend(queries),
                Err(diags) => errors.extend(diags),
            }
        }
        if !errors.is_empty() {
            return Err(CompileError::Text(unique(errors), sources));
        }
        if !missing.is_empty() {
            answer(&missing.into_iter().collect::<Vec<_>>(), answers, &mut facts)?;
        } else if plans.iter().flatten().count() == before {
            return Err(CliError::internal("builds wait for each other").into());
        }
    }
    let plans: Vec<Arc<BuildPlan>> = plans.into_iter().flatten().collect();
    let wanted = || units.iter().zip(&plans).zip(&epochs).filter(|((u, _), _)| u.wanted);
    let (mut exports, mut from) = (Vec::new(), 0);
    for ((unit, plan), epoch) in wanted() {
        let targets = from..from + plan.targets.len();
        from = targets.end;
        exports.push(export(unit, targets, *epoch));
    }
    let plan = match &plans[..] {
        [one] => one.clone(),
        _ => Arc::new(BuildPlan::join(wanted().map(|((_, plan), _)| &**plan))),
    };
    let broken = rgraph_ir::verify::verify(&plan);
    if let Some(v) = broken.first() {
        return Err(CliError::internal(format!("the plan breaks an invariant: {v}")).into());
    }
    let contexts = origins.iter_mut().flat_map(|o| std::mem::take(&mut o.loaded.contexts));
    let contexts = contexts.collect();
    Ok(Compiled {
        plan,
        exports,
        sources,
        warnings: unique(noticed),
        contexts,
        place: units::place(common, units),
        origins,
        of_unit,
        given: units.iter().flat_map(|u| u.opts.build_args.keys().cloned()).collect(),
    })
}

/// What the bases of a unit are for, when that decides what it is built for.
fn all_platforms(
    unit: &Unit,
    origin: &Origin,
    answers: &Answers<'_>,
) -> Result<Option<platforms::Found>, CliError> {
    if unit.opts.platforms != Platforms::OfBases {
        return Ok(None);
    }
    let Answers::Images { images, .. } = answers else {
        return Err(CliError::failed("--all-platforms asks the bases, and nothing is asked here")
            .help("name the platforms with `--platform`"));
    };
    let options = lower_options(&unit.opts, &origin.loaded);
    platforms::of_bases(&origin.ast, &options, images).map(Some)
}

fn about(unit: &Unit, e: CliError) -> CliError {
    match unit.name.is_empty() {
        true => e,
        false => CliError { message: format!("target `{}`: {}", unit.name, e.message), ..e },
    }
}

/// `epoch`: what the Dockerfile or a source says, where the caller says nothing.
fn export(unit: &Unit, targets: Range<usize>, epoch: Option<i64>) -> Export {
    Export {
        name: unit.name.clone(),
        targets,
        outputs: unit.opts.outputs.clone(),
        tags: unit.opts.tags.clone(),
        source_date_epoch: unit.opts.source_date_epoch.or(epoch),
        squash: unit.opts.squash,
        omit_history: unit.opts.omit_history,
        attest: unit.opts.attest.clone(),
        asked: Default::default(),
    }
}

/// The contexts of a unit that are results of others; `None`: one of them is not known yet.
fn links(
    opts: &BuildOptions,
    units: &[Unit],
    plans: &[Option<Arc<BuildPlan>>],
) -> Result<Option<Vec<(String, rgraph_frontend::NamedContext)>>, CliError> {
    let mut out = Vec::new();
    for (name, context) in &opts.build_contexts {
        let NamedContext::Build(other) = context else { continue };
        let Some(at) = units.iter().position(|u| u.name == *other) else {
            return Err(CliError::internal(format!("the target `{other}` is not built")));
        };
        match &plans[at] {
            None => return Ok(None),
            Some(plan) => {
                let linked = rgraph_frontend::Linked(plan.clone());
                out.push((name.clone(), rgraph_frontend::NamedContext::Result(linked)));
            }
        }
    }
    Ok(Some(out))
}

/// Puts the unit's name into the lines of its own steps: those of another unit have it already.
fn name_steps(plan: &mut BuildPlan, name: &str, file: FileId) {
    plan.graph.rename(|meta| {
        let own = match meta.span {
            Some(span) => span.file == file,
            None => meta.name.starts_with("[internal]") || meta.name.starts_with("[context "),
        };
        if let (true, Some(rest)) = (own, meta.name.strip_prefix('[')) {
            meta.name = format!("[{name} {rest}");
        }
    });
}

/// Each finding once, in the order found.
fn unique(found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut seen = HashSet::new();
    let key = |d: &Diagnostic| (d.code, d.message.clone(), d.span());
    // Within one text the same is said as often as there is a reason.
    match found.iter().filter_map(Diagnostic::span).map(|s| s.file).collect::<HashSet<_>>().len() {
        0 | 1 => found,
        _ => found.into_iter().filter(|d| seen.insert(key(d))).collect(),
    }
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

/// A flag that names no stage would do nothing, in silence.
fn known_stages(flag: &str, filter: &[String], ast: &Dockerfile) -> Result<(), CliError> {
    let names: Vec<&str> = ast.stages.iter().filter_map(|s| s.name.as_deref()).collect();
    for wanted in filter {
        let number = wanted.parse::<usize>().is_ok_and(|n| n < ast.stages.len());
        if !number && !names.iter().any(|n| n.eq_ignore_ascii_case(wanted)) {
            let e = CliError::failed(format!("{flag}: no stage is called `{wanted}`"));
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
fn arg_names(c: &Compiled) -> BTreeSet<String> {
    let of_stages = c.origins.iter().flat_map(|o| &o.ast.stages).flat_map(|s| &s.instructions);
    let mut names = c.given.clone();
    for i in c.origins.iter().flat_map(|o| &o.ast.global_args).chain(of_stages.clone()) {
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
        platforms: opts.platforms.listed().to_vec(),
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
        services: opts.services.clone(),
        build_contexts: loaded.named.clone(),
        folders: loaded.folders.clone(),
        ignore: loaded.ignore.clone(),
        pull: opts.pull == Pull::Always,
        source_date_epoch: opts.source_date_epoch,
        max_layers: opts.max_layers,
        ..LowerOptions::default()
    }
}

enum Answer {
    Image(Box<BaseImage>),
    Time(Option<i64>),
}

/// When a source was last changed.
fn time(sources: &Sources<'_>, of: &TimeOf) -> Result<Option<i64>, String> {
    match of {
        TimeOf::Url(url) => {
            let (filename, checksum) = ("file".to_owned(), None);
            let source = HttpSource { url: url.clone(), filename, checksum };
            sources.url(&source, &|_, _| {}).map(|c| c.time()).map_err(|e| report(&e))
        }
        TimeOf::Repository(url) => {
            let source = rgraph_frontend::git_source(url)?;
            let source = source.ok_or_else(|| format!("`{url}` is no repository's URL"))?;
            sources.git_time(&source).map(Some).map_err(|e| report(&e))
        }
    }
}

/// Answers all questions of one round at once.
fn answer(queries: &[Query], answers: &Answers<'_>, facts: &mut Facts) -> Result<(), CliError> {
    let Answers::Images { images, sources, sink, next_step } = answers else {
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
                    Ok(Answer::Image(Box::new(image.base_image())))
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
            .map(|image| Answer::Image(Box::new(image.base_image())))
            .map_err(|e| report(&e)),
        Query::Time(of) => time(sources, of).map(Answer::Time),
    };
    let mut insert = |query: Query, answer: Result<Answer, String>| match (query, answer) {
        (Query::Time(of), Ok(Answer::Time(time))) => facts.insert_time(of, Ok(time)),
        (Query::Time(of), Err(why)) => facts.insert_time(of, Err(why)),
        (query, Ok(Answer::Image(image))) => facts.insert(query, Ok(*image)),
        (query, Err(why)) => facts.insert(query, Err(why)),
        (_, Ok(_)) => {}
    };
    if let [only] = queries {
        // The usual case, and usually answered by the store: not worth a thread.
        insert(only.clone(), ask(only));
        return Ok(());
    }
    let results: Vec<_> = std::thread::scope(|s| {
        let threads: Vec<_> = queries.iter().map(|q| s.spawn(|| (q.clone(), ask(q)))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for r in results {
        let (query, result) =
            r.map_err(|_| CliError::internal("a look-up of an image panicked"))?;
        insert(query, result);
    }
    Ok(())
}

/// The request of a build. `common`: what all units together are given.
pub fn request(common: &BuildOptions, compiled: &Compiled) -> BuildRequest {
    BuildRequest {
        plan: compiled.plan.clone(),
        contexts: compiled.contexts.clone(),
        exports: compiled.exports.clone(),
        cache_from: common.cache_from.clone(),
        cache_to: common.cache_to.clone(),
        cache_ttl: common.cache_ttl,
        secrets: common.secrets.clone(),
        ssh: Default::default(),
        allow: common.allow.clone(),
        devices: Default::default(),
        network_fallback: Default::default(),
        jobs: common.jobs,
        step_timeout: common.timeouts.step,
        retries: common.retries,
        shm_size: common.shm_size,
        resources: common.resources.clone(),
        host_platform: host_platform(),
        place: compiled.place.clone(),
        args: arg_names(compiled),
    }
}
