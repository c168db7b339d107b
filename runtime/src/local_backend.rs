//! Builds on this machine: the solver over a local worker, then the outputs, with other caches written
//! beside.

mod caches;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel, sync_channel};
use std::time::{Duration, Instant};

use rgraph_ir::op::{NetworkMode, SecurityMode, SourceOp};
use rgraph_ir::request::{BuildRequest, CacheTo, Dest, Export, OutputSpec};
use rgraph_ir::{CacheKey, Op, VertexId, cdi};
use rgraph_solver::backend::{Backend, BuildError, BuildOutcome, Exported};
use rgraph_solver::drive::solve;
use rgraph_solver::event::{Event, EventKind, EventSink, Step, Timestamp};
use rgraph_solver::policy::Policy;
use rgraph_solver::{
    CancelToken, Clock, Ports, Solution, SolveError, TaskCx, TaskError, Tree, look,
};
use rgraph_store::{Lease, Store};

use crate::beside::side_by_side;
use crate::builds::Journal;
use crate::cache::combined::CombinedCache;
use crate::cache::export::{Feed, QUEUE};
use crate::cache::files::FileLists;
use crate::cache::flight::Flight;
use crate::cache::import::Import;
use crate::cache::inline::InlineCache;
use crate::cache::local::{InBuild, LocalCache};
use crate::cache::sign::Signer;
use crate::export::ahead::Ahead;
use crate::export::{ExportError, Exporter, real_place};
use crate::fetch::Providers;
use crate::fetch::image::ImageFetcher;
use crate::fetch::source::Sources;
use crate::host::Host;
use crate::snapshot::Snapshots;
use crate::worker::LocalWorker;

/// See the module.
pub struct LocalBackend<'a> {
    /// The store.
    pub store: &'a Store,
    /// What the host allows.
    pub host: &'a Host,
    /// Images and registries.
    pub images: &'a ImageFetcher<'a>,
    /// URLs and repositories.
    pub sources: &'a Sources<'a>,
    /// Numbers for steps that are no vertex; shared with whoever announces others.
    pub next_step: &'a AtomicU32,
    /// What was built here before, and what of this build is told to the next.
    pub journal: &'a Journal<'a>,
}

/// The system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let ns = jiff::Timestamp::now().as_nanosecond();
        Timestamp(u64::try_from(ns).unwrap_or(0))
    }
}

impl Backend for LocalBackend<'_> {
    fn build(
        &self,
        request: &BuildRequest,
        sink: &dyn EventSink,
        cancel: &CancelToken,
    ) -> Result<BuildOutcome, BuildError> {
        check_entitlements(request)?;
        let lease = self.store.lease().map_err(setup)?;
        // What is written to other caches goes on for a while after the wish to stop.
        let patient = CancelToken::new();
        let beside = self.images.beside(&patient);
        let imports: Vec<Import<'_>> =
            request.cache_from.iter().map(|c| self.import(c, request)).collect();
        let stores = caches::stores(request);
        // Room is made at once for all that fits in.
        let (jobs, hears) = sync_channel(if stores.is_empty() { 0 } else { QUEUE });
        let inline = request.cache_to.iter().any(|c| matches!(c, CacheTo::Inline { .. }));
        let feed = Feed::new((!stores.is_empty()).then_some(jobs), inline);
        let build = Build { backend: self, request, sink, cancel, lease: &lease };
        std::thread::scope(|scope| {
            // Also when something panics here: the scope waits for the writer, and it for this.
            let _ending = Ending(&feed);
            let (over, is_over) = channel();
            let writer = (!stores.is_empty()).then(|| {
                let (build, stores, imports) = (&build, &stores, &imports);
                let (beside, patient) = (&beside, &patient);
                scope.spawn(move || {
                    let done = build.write_caches(stores, imports, beside, patient, &hears);
                    // Whoever started this waits, unless it gave up.
                    over.send(()).unwrap_or(());
                    done
                })
            });
            let built = build.run(&imports, &feed);
            feed.end(built.as_ref().ok().map(|(_, keys)| keys.clone()));
            let Some(writer) = writer else { return Ok(built?.0) };
            let mut since = None;
            while let Err(RecvTimeoutError::Timeout) = is_over.recv_timeout(TICK) {
                if cancel.is_cancelled() && since.get_or_insert_with(Instant::now).elapsed() > GRACE
                {
                    patient.cancel();
                }
            }
            let caches = writer.join().unwrap_or_else(|_| {
                Err(ExportError::Cache("internal error: the writer of caches panicked".into()))
            });
            build.warn_of(&imports);
            let outcome = built?.0;
            match caches {
                Ok(()) => Ok(outcome),
                Err(_) if cancel.is_cancelled() => Err(cancelled()),
                Err(e) => Err(BuildError::Cache(Box::new(e))),
            }
        })
    }
}

/// How often a wish to stop is looked for while caches are written.
const TICK: Duration = Duration::from_millis(50);
/// How long writing caches goes on after it, as long as a step may take to end.
const GRACE: Duration = Duration::from_secs(10);

struct Ending<'a>(&'a Feed);

/// Ends what is packed beside a solve, also when that panics: at once, or when all that was heard of is
/// done.
struct StopsPacking<'a> {
    ahead: &'a Ahead<'a>,
    stop: Option<&'a CancelToken>,
}

impl Drop for StopsPacking<'_> {
    fn drop(&mut self) {
        if let Some(stop) = self.stop {
            stop.cancel();
        }
        self.ahead.end();
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// Exports at once: each packs on all processors, but waits for disks and registries.
const EXPORTS: usize = 4;

fn share_a_folder(exports: &[Export]) -> bool {
    let folders = exports.iter().flat_map(|e| &e.outputs).filter_map(folder);
    let mut all: Vec<PathBuf> = folders.map(real_place).collect();
    all.sort_unstable();
    // Sorted, a folder stands directly before what is below it.
    all.windows(2).any(|pair| pair[1].starts_with(&pair[0]))
}

fn folder(output: &OutputSpec) -> Option<&Path> {
    match output {
        OutputSpec::Local { dest, .. } => Some(dest),
        _ => None,
    }
}

/// True when a second time would be written behind the first.
fn is_final(export: &Export) -> bool {
    export.outputs.iter().any(|o| match o {
        OutputSpec::Oci(a) | OutputSpec::Docker(a) => a.dest == Dest::Stdout,
        OutputSpec::Tar { dest, .. } => *dest == Dest::Stdout,
        OutputSpec::Local { .. }
        | OutputSpec::Image(_)
        | OutputSpec::Registry(_)
        | OutputSpec::CacheOnly => false,
    })
}

fn setup(e: rgraph_store::StoreError) -> BuildError {
    BuildError::Setup(Box::new(e))
}

fn cancelled() -> BuildError {
    BuildError::Solve(SolveError { vertex: None, cause: TaskError::Cancelled })
}

/// One build in progress.
struct Build<'a> {
    backend: &'a LocalBackend<'a>,
    request: &'a BuildRequest,
    sink: &'a dyn EventSink,
    cancel: &'a CancelToken,
    lease: &'a Lease,
}

impl Build<'_> {
    /// Solves and writes the outputs; gives the keys too.
    fn run(
        &self,
        imports: &[Import<'_>],
        feed: &Feed,
    ) -> Result<(BuildOutcome, BTreeMap<VertexId, CacheKey>), BuildError> {
        let LocalBackend { store, host, images, sources, next_step, journal } = *self.backend;
        let Self { request, sink, cancel, lease, .. } = *self;
        let providers = Providers::new(imports, images);
        let (flight, files) = (Flight::new(store), FileLists::new(store));
        let owners = host.owners;
        let known = InBuild { flight: &flight, files: &files, journal, owners, next_step };
        let worker = LocalWorker::new(store, host, request, sources, &providers, lease, known);
        let ahead = Ahead::new(request);
        let heard = (feed, &ahead);
        let cache = CombinedCache::new(LocalCache::of_build(store, known), imports, &heard);
        let clock = SystemClock;
        let warn = || self.warn_of(imports);
        warn();
        let ports = Ports { worker: &worker, cache: &cache, clock: &clock };
        check_sources(request, &worker, &clock, cancel)?;
        let (usual, most) = (Policy::default(), Host::tasks_at_once());
        let mut policy = Policy {
            exec: request.jobs.unwrap_or(usual.exec).min(most),
            fetch: usual.fetch.min(most),
            cpu: usual.cpu.min(most),
            place: request.place.clone(),
            args: request.args.clone(),
            ttl: request.cache_ttl,
            ..usual
        };
        let snapshots = Snapshots::new(store, host, &providers, lease);
        let mut attempts = 0;
        let lose = |solution: &Solution, policy: &mut Policy| {
            policy.lost.extend(solution.trees.values().filter_map(|t| match t {
                Tree::Snapshot(id) => Some(*id),
                Tree::Context(_) => None,
            }));
        };
        let (results, solution) = loop {
            let solve = || {
                worker.services.during(sink, || solve(&request.plan, &ports, &policy, cancel, sink))
            };
            let solved = match ahead.is_needed() {
                true => self.packing_beside(&ahead, &snapshots, &providers, solve),
                false => solve(),
            };
            warn();
            files.tidy();
            let mut solution = solved?;
            self.as_layers(&worker, &mut solution)?;
            let inline = self.inline(&solution, feed)?;
            let retry = attempts < 2;
            let one = |export: &Export| {
                let exporter = Exporter {
                    provider: &providers,
                    sink,
                    step: Step::Other(next_step.fetch_add(1, Ordering::Relaxed)),
                    inline: inline.as_ref(),
                    sources: Some(sources),
                    ..Exporter::quiet(&snapshots, images, export, cancel)
                };
                self.export(&exporter, &solution, retry)
            };
            // What several put into one folder is there in the order in which they were asked for.
            let most = if share_a_folder(&request.exports) { 1 } else { EXPORTS };
            let done = side_by_side(&request.exports, most, &one);
            let written = |(e, done): (&Export, &Result<_, _>)| done.is_ok() && is_final(e);
            let last = attempts >= 2 || request.exports.iter().zip(&done).any(written);
            if done.iter().all(Result::is_ok) {
                let results = done.into_iter().flatten().collect();
                let lost = feed.settle(&solution.keys, cancel);
                if lost.is_empty() || last || cancel.is_cancelled() {
                    break (results, solution);
                }
                // A cache is to have what the store only knows of.
                attempts += 1;
                policy.lost.extend(lost);
                lose(&solution, &mut policy);
                continue;
            }
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            let errors = done.into_iter().filter_map(Result::err);
            let (losses, mut others): (Vec<_>, Vec<_>) = errors.partition(|e| !last && e.is_loss());
            if let Some(e) = others.drain(..).next() {
                return Err(BuildError::Export(Box::new(e)));
            }
            // A hit whose layers turn out to be gone or damaged is no hit: what it stands for is built
            // again.
            debug_assert!(!losses.is_empty());
            attempts += 1;
            warn();
            lose(&solution, &mut policy);
        };
        warn();
        store.flush_uses(lease).map_err(setup)?;
        let (cached, ran) = (solution.cached, solution.ran);
        Ok((BuildOutcome { results, cached, ran }, solution.keys))
    }

    /// Makes a layer of each target that is a folder of the caller and nothing else.
    fn as_layers(
        &self,
        worker: &LocalWorker<'_>,
        solution: &mut Solution,
    ) -> Result<(), BuildError> {
        for edge in self.request.plan.targets.iter().filter_map(|t| t.root) {
            let Some(Tree::Context(_)) = solution.trees.get(&edge) else { continue };
            let vertex = edge.vertex;
            let cx = TaskCx { vertex, cancel: self.cancel, sink: self.sink, clock: &SystemClock };
            let made = worker.as_snapshot(solution.trees[&edge], &cx);
            let made = made
                .map_err(|cause| BuildError::Solve(SolveError { vertex: Some(vertex), cause }))?;
            solution.trees.insert(edge, Tree::Snapshot(made));
        }
        Ok(())
    }

    /// Solves, and packs layers beside as soon as they are there. When this returns nothing is being
    /// packed any more: what a build that failed had begun is thrown away.
    fn packing_beside(
        &self,
        ahead: &Ahead<'_>,
        snapshots: &Snapshots<'_>,
        providers: &Providers<'_>,
        solve: impl FnOnce() -> Result<Solution, SolveError>,
    ) -> Result<Solution, SolveError> {
        let stop = CancelToken::new();
        let with_the_build = stop.clone();
        let _stops = self.cancel.on_cancel(move || with_the_build.cancel());
        let results = ahead.listen();
        std::thread::scope(|scope| {
            let (images, stop) = (self.backend.images, &stop);
            let exporter = move |export| Exporter {
                provider: providers,
                ..Exporter::quiet(snapshots, images, export, stop)
            };
            scope.spawn(move || ahead.run(&results, exporter));
            let mut ending = StopsPacking { ahead, stop: Some(stop) };
            let solved = solve();
            if solved.is_ok() {
                // What was heard by now is packed: an output takes it.
                ending.stop = None;
            }
            solved
        })
    }

    /// Makes one export, and tells of it. `retry`: what is lost is built again.
    fn export(
        &self,
        exporter: &Exporter<'_>,
        solution: &Solution,
        retry: bool,
    ) -> Result<Exported, ExportError> {
        let (step, name) = (exporter.step, exporter.export.name.clone());
        let emit = |kind| self.sink.emit(Event { at: SystemClock.now(), step, kind });
        let shown = match name.is_empty() {
            true => "exporting".to_owned(),
            false => format!("[{name}] exporting"),
        };
        emit(EventKind::Announced { name: shown });
        emit(EventKind::Started);
        let done = exporter.run(&self.request.plan, &self.request.host_platform, solution);
        emit(match &done {
            Ok(_) => EventKind::Finished,
            Err(_) if self.cancel.is_cancelled() => EventKind::Cancelled,
            Err(e) if retry && e.is_loss() => {
                let text = format!("{}: building it again", crate::worker::report(e));
                emit(EventKind::Warning { text });
                EventKind::Finished
            }
            Err(e) => EventKind::Failed { message: crate::worker::report(e) },
        });
        let images = done?;
        let index = exporter.index.get().copied();
        let provenance = exporter.provenance.get().cloned().unwrap_or_default();
        Ok(Exported { name, images, index, provenance })
    }

    /// What the configs of the images say of their keys, when that was asked for.
    fn inline(&self, solution: &Solution, feed: &Feed) -> Result<Option<InlineCache>, BuildError> {
        let asked = self.request.cache_to.iter().find_map(|c| match c {
            CacheTo::Inline { sign } => Some(sign.as_ref().map(Signer::new)),
            CacheTo::Store(_) => None,
        });
        let Some(signer) = asked else { return Ok(None) };
        let (store, keys) = (self.backend.store, &solution.keys);
        InlineCache::new(store, &self.request.plan.graph, keys, &feed.contents(), signer)
            .map(Some)
            .map_err(setup)
    }

    /// Tells what imported caches found wrong since the last time.
    fn warn_of(&self, imports: &[Import<'_>]) {
        let new: Vec<String> = imports.iter().flat_map(Import::take_warnings).collect();
        if new.is_empty() {
            return;
        }
        let step = Step::Other(self.backend.next_step.fetch_add(1, Ordering::Relaxed));
        let emit = |kind| self.sink.emit(Event { at: SystemClock.now(), step, kind });
        emit(EventKind::Announced { name: "importing cache".to_owned() });
        emit(EventKind::Started);
        for text in new {
            emit(EventKind::Warning { text });
        }
        emit(EventKind::Finished);
    }
}

impl LocalBackend<'_> {
    /// What the store and the request's caches hold of a plan; nothing runs
    /// ([`rgraph_solver::look`]).
    pub fn look(
        &self,
        request: &BuildRequest,
        cancel: &CancelToken,
    ) -> Result<BTreeMap<VertexId, bool>, BuildError> {
        let lease = self.store.lease().map_err(setup)?;
        let imports: Vec<Import<'_>> =
            request.cache_from.iter().map(|c| self.import(c, request)).collect();
        let providers = Providers::new(&imports, self.images);
        let (flight, files) = (Flight::new(self.store), FileLists::new(self.store));
        let (journal, owners, next_step) = (self.journal, self.host.owners, self.next_step);
        let known = InBuild { flight: &flight, files: &files, journal, owners, next_step };
        let worker = LocalWorker::new(
            self.store,
            self.host,
            request,
            self.sources,
            &providers,
            &lease,
            known,
        );
        let cache = CombinedCache::new(LocalCache::new(self.store), &imports, &());
        let ports = Ports { worker: &worker, cache: &cache, clock: &SystemClock };
        let wanted = rgraph_ir::analysis::reachable(&request.plan);
        let policy = Policy { ttl: request.cache_ttl, ..Policy::default() };
        look(&request.plan.graph, &wanted, &ports, &policy, cancel, &())
            .map_err(|e| BuildError::Setup(Box::new(e)))
    }
}

/// Files that COPY and ADD name must be in the caller's folders, before anything runs.
fn check_sources(
    request: &BuildRequest,
    worker: &LocalWorker<'_>,
    clock: &SystemClock,
    cancel: &CancelToken,
) -> Result<(), BuildError> {
    let graph = &request.plan.graph;
    for id in rgraph_ir::analysis::reachable(&request.plan) {
        let vertex = graph.vertex(id);
        let Op::File(op) = &vertex.op else { continue };
        let cx = TaskCx { vertex: id, cancel, sink: &(), clock };
        let failed = |cause| BuildError::Solve(SolveError { vertex: Some(id), cause });
        let mut trees = Vec::new();
        for input in &vertex.inputs {
            trees.push(match &graph.vertex(input.vertex).op {
                Op::Source(SourceOp::Local(l)) => Some(worker.live(l).map_err(failed)?),
                _ => None,
            });
        }
        crate::ops::file::check_sources(worker, op, &|i| trees[i.at()], &cx).map_err(failed)?;
    }
    Ok(())
}

/// What a Dockerfile asks for beyond a plain step needs the caller's word, before anything runs.
fn check_entitlements(request: &BuildRequest) -> Result<(), BuildError> {
    let graph = &request.plan.graph;
    let wanted = rgraph_ir::analysis::reachable(&request.plan);
    for (id, vertex) in graph.iter() {
        let Op::Exec(op) = &vertex.op else { continue };
        if !wanted.contains(&id) {
            continue;
        }
        let refused = |name: &str| refusal(&request.plan, id, name);
        if op.network == NetworkMode::Host && !request.allow.network_host {
            return Err(refused("network.host"));
        }
        if op.security == SecurityMode::Insecure && !request.allow.security_insecure {
            return Err(refused("security.insecure"));
        }
        for d in &op.devices {
            let granted = request.allow.devices.as_ref().is_some_and(|names| {
                names.is_empty() || names.iter().any(|grant| cdi::grants(grant, &d.name))
            });
            if !granted {
                return Err(refused(&format!("device={}", d.name)));
            }
        }
    }
    Ok(())
}

fn refusal(plan: &rgraph_ir::BuildPlan, id: VertexId, name: &str) -> BuildError {
    let meta = &plan.graph.vertex(id).meta;
    BuildError::Entitlement {
        what: format!("`{}`", meta.name),
        name: name.to_owned(),
        span: meta.span,
    }
}
