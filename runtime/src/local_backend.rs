//! Builds on this machine: the solver over a local worker, then the outputs, then the caches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use rgraph_ir::op::{NetworkMode, SecurityMode, SourceOp};
use rgraph_ir::request::{BuildRequest, CacheSpec};
use rgraph_ir::{Op, VertexId};
use rgraph_solver::backend::{Backend, BuildError, BuildOutcome, BuiltImage};
use rgraph_solver::drive::solve;
use rgraph_solver::event::{Event, EventKind, EventSink, Step, Timestamp};
use rgraph_solver::policy::Policy;
use rgraph_solver::{CancelToken, Clock, Ports, Solution, SolveError, TaskCx, Tree, look};
use rgraph_store::Store;

use crate::cache::combined::CombinedCache;
use crate::cache::dir::CacheDirReader;
use crate::cache::export::export_cache;
use crate::cache::flight::Flight;
use crate::cache::local::LocalCache;
use crate::export::{ExportError, Exporter};
use crate::fetch::Providers;
use crate::fetch::image::ImageFetcher;
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
    /// Numbers for steps that are no vertex; shared with whoever announces others.
    pub next_step: &'a AtomicU32,
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
        let setup = |e: rgraph_store::StoreError| BuildError::Setup(Box::new(e));
        let lease = self.store.lease().map_err(setup)?;
        let imports = imports(request, self.store);
        let providers = Providers { images: self.images, dirs: &imports };
        let flight = Flight::new(self.store);
        let worker = LocalWorker::new(
            self.store,
            self.host,
            request,
            self.images,
            &providers,
            &lease,
            &flight,
        );
        let cache = CombinedCache::new(LocalCache::of_build(self.store, &flight), &imports);
        let clock = SystemClock;
        for import in &imports {
            if let Some(text) = import.problem() {
                self.other(sink, &clock, "importing cache", |emit| {
                    emit(EventKind::Warning { text })
                });
            }
        }
        let ports = Ports { worker: &worker, cache: &cache, clock: &clock };
        check_sources(request, &worker, &clock, cancel)?;
        let mut policy = Policy {
            exec: request.jobs.unwrap_or(Policy::default().exec),
            place: request.place.clone(),
            args: request.args.clone(),
            ttl: request.cache_ttl,
            ..Policy::default()
        };
        let mut warned = 0;
        let mut warn_of_rejected = || {
            let rejected: Vec<String> =
                imports.iter().flat_map(CacheDirReader::rejected).skip(warned).collect();
            warned += rejected.len();
            if !rejected.is_empty() {
                self.other(sink, &clock, "importing cache", |emit| {
                    for text in rejected {
                        emit(EventKind::Warning { text });
                    }
                });
            }
        };
        let snapshots = Snapshots::new(self.store, self.host, &providers, &lease);
        let mut attempts = 0;
        let (images, index, solution) = loop {
            let solved = solve(&request.plan, &ports, &policy, cancel, sink);
            warn_of_rejected();
            let solution = solved?;
            let step = Step::Other(self.next_step.fetch_add(1, Ordering::Relaxed));
            let exporter = Exporter {
                store: self.store,
                host: self.host,
                snapshots: &snapshots,
                provider: &providers,
                images: self.images,
                request,
                sink,
                clock: &clock,
                cancel,
                step,
                index: Default::default(),
            };
            let emit = |kind| sink.emit(Event { at: clock.now(), step, kind });
            emit(EventKind::Announced { name: "exporting".to_owned() });
            emit(EventKind::Started);
            match export(&exporter, request, &solution) {
                Ok(images) => {
                    emit(EventKind::Finished);
                    break (images, exporter.index.get().copied(), solution);
                }
                Err(_) if cancel.is_cancelled() => {
                    emit(EventKind::Cancelled);
                    return Err(BuildError::Solve(rgraph_solver::SolveError {
                        vertex: None,
                        cause: rgraph_solver::TaskError::Cancelled,
                    }));
                }
                // A hit whose layers turn out to be gone or damaged is no hit: what it stands for is
                // built again.
                Err(e) if e.is_loss() && attempts < 2 => {
                    attempts += 1;
                    let text = format!("{}: building it again", crate::worker::report(&e));
                    emit(EventKind::Warning { text });
                    emit(EventKind::Finished);
                    warn_of_rejected();
                    policy.lost.extend(solution.trees.values().filter_map(|t| match t {
                        Tree::Snapshot(id) => Some(*id),
                        Tree::Context(_) => None,
                    }));
                }
                Err(e) => {
                    emit(EventKind::Failed { message: crate::worker::report(&e) });
                    return Err(BuildError::Export(Box::new(e)));
                }
            }
        };
        warn_of_rejected();
        self.store.flush_uses(&lease).map_err(setup)?;
        Ok(BuildOutcome { images, index, cached: solution.cached, ran: solution.ran })
    }
}

/// The caches to read.
fn imports<'a>(request: &BuildRequest, store: &'a Store) -> Vec<CacheDirReader<'a>> {
    let open = |CacheSpec::Local { dir, .. }: &CacheSpec| CacheDirReader::new(dir.clone(), store);
    request.cache_from.iter().map(open).collect()
}

/// Every output, then the caches.
fn export(
    exporter: &Exporter<'_>,
    request: &BuildRequest,
    solution: &Solution,
) -> Result<Vec<BuiltImage>, ExportError> {
    let images = exporter.run(&request.plan, solution)?;
    for CacheSpec::Local { dir, max } in &request.cache_to {
        export_cache(exporter, dir, *max, &request.plan, solution)?;
    }
    Ok(images)
}

impl LocalBackend<'_> {
    /// What the store and the request's caches hold of a plan; nothing runs
    /// ([`rgraph_solver::look`]).
    pub fn look(
        &self,
        request: &BuildRequest,
        cancel: &CancelToken,
    ) -> Result<BTreeMap<VertexId, bool>, BuildError> {
        let setup = |e: rgraph_store::StoreError| BuildError::Setup(Box::new(e));
        let lease = self.store.lease().map_err(setup)?;
        let imports = imports(request, self.store);
        let providers = Providers { images: self.images, dirs: &imports };
        let flight = Flight::new(self.store);
        let worker = LocalWorker::new(
            self.store,
            self.host,
            request,
            self.images,
            &providers,
            &lease,
            &flight,
        );
        let cache = CombinedCache::new(LocalCache::new(self.store), &imports);
        let ports = Ports { worker: &worker, cache: &cache, clock: &SystemClock };
        let wanted = rgraph_ir::analysis::reachable(&request.plan);
        let policy = Policy { ttl: request.cache_ttl, ..Policy::default() };
        look(&request.plan.graph, &wanted, &ports, &policy, cancel, &())
            .map_err(|e| BuildError::Setup(Box::new(e)))
    }

    /// A step that is no vertex.
    fn other(
        &self,
        sink: &dyn EventSink,
        clock: &dyn Clock,
        name: &str,
        body: impl FnOnce(&mut dyn FnMut(EventKind)),
    ) {
        let step = Step::Other(self.next_step.fetch_add(1, Ordering::Relaxed));
        let mut emit = |kind| sink.emit(Event { at: clock.now(), step, kind });
        emit(EventKind::Announced { name: name.to_owned() });
        emit(EventKind::Started);
        body(&mut emit);
        emit(EventKind::Finished);
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
        if let Some(d) = op.devices.first() {
            let granted = request
                .allow
                .devices
                .as_ref()
                .is_some_and(|names| names.is_empty() || names.contains(&d.name));
            if !granted {
                return Err(refused("device"));
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
        span: meta.spans.first().copied(),
    }
}
