//! Runs vertices on this machine: a `match` over ops, and what ops share.
//!
//! One worker serves one build. It holds the build's lease, its runner process, and what it learnt
//! about images and folders; results live in the store.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rgraph_ir::op::{ExecOp, InputIndex, Keying, Selector, SourceOp};
use rgraph_ir::pattern::PatternSet;
use rgraph_ir::request::BuildRequest;
use rgraph_ir::{Op, Platform, SnapshotId, TreeDigest, VertexId};
use rgraph_solver::{Pin, Stream, Task, TaskCx, TaskError, Timestamp, Tree, Worker};
use rgraph_store::{Lease, ResultRow, Store, StoreError};

use crate::builds::Journal;
use crate::cache::files::FileLists;
use crate::cache::flight::{Flight, waiting};
use crate::cache::local::InBuild;
use crate::cache::wire::selector_digest;
use crate::context::{self, Moment, Scan};
use crate::fetch::image::ImageFetcher;
use crate::fetch::source::Sources;
use crate::host::Host;
use crate::ops;
use crate::ops::network::NetworkError;
use crate::ops::services::Services;
use crate::sandbox::{Network, Runner};
use crate::snapshot::{LayerInProgress, LayerProvider, Mounted, SnapshotError, Snapshots};

/// What a selection of a live folder was, and when.
type Seen = (TreeDigest, Moment);

/// The longest rest of a folder before it is copied from.
const MAX_REST: Duration = Duration::from_secs(2);

/// A folder of the caller, as this build sees it.
pub struct ContextTree {
    /// Where it lies, for errors.
    pub path: PathBuf,
    root: OwnedFd,
    ignore: Option<Arc<PatternSet>>,
}

/// A tree opened for reading.
pub struct ReadTree {
    /// Its root.
    pub root: Mounted,
    /// What is hidden in it.
    pub ignore: Option<Arc<PatternSet>>,
    /// Files count as root's.
    pub as_root: bool,
}

/// See the module.
pub struct LocalWorker<'a> {
    /// The store.
    pub store: &'a Store,
    /// What the host allows.
    pub host: &'a Host,
    /// The request being built.
    pub request: &'a BuildRequest,
    /// Images and their layers.
    pub images: &'a ImageFetcher<'a>,
    /// URLs and repositories.
    pub sources: &'a Sources<'a>,
    /// Snapshots of the store.
    pub snapshots: Snapshots<'a>,
    lease: &'a Lease,
    flight: &'a Flight<'a>,
    /// What files digests were made of.
    pub files: &'a FileLists<'a>,
    /// What the last build of this place was.
    pub journal: &'a Journal<'a>,
    /// What selections of live folders were when they entered a key, and when that was.
    looked: Mutex<HashMap<(u32, [u8; 32]), Seen>>,
    contexts: Mutex<Vec<Arc<ContextTree>>>,
    by_vertex_source: Mutex<HashMap<String, u32>>,
    runner: OnceLock<Result<Runner, String>>,
    mount_points: OnceLock<Option<PathBuf>>,
    /// Containers beside steps.
    pub services: Services<'a>,
    /// It was told that layers are laid over each other in a slow way.
    slow: OnceLock<()>,
    /// What steps get that say nothing about their network.
    pub network: OnceLock<Result<Network, NetworkError>>,
}

impl<'a> LocalWorker<'a> {
    /// A worker for one build.
    pub fn new(
        store: &'a Store,
        host: &'a Host,
        request: &'a BuildRequest,
        sources: &'a Sources<'a>,
        provider: &'a dyn LayerProvider,
        lease: &'a Lease,
        build: InBuild<'a>,
    ) -> Self {
        let InBuild { flight, files, journal, next_step, .. } = build;
        Self {
            store,
            host,
            request,
            images: sources.images(),
            sources,
            snapshots: Snapshots::new(store, host, provider, lease),
            lease,
            flight,
            files,
            journal,
            looked: Mutex::default(),
            contexts: Mutex::default(),
            by_vertex_source: Mutex::default(),
            runner: OnceLock::new(),
            mount_points: OnceLock::new(),
            services: Services::new(next_step),
            slow: OnceLock::new(),
            network: OnceLock::new(),
        }
    }

    /// The process that starts containers; the first RUN starts it.
    pub fn runner(&self) -> Result<&Runner, TaskError> {
        let started = self.runner.get_or_init(|| Runner::start().map_err(|e| report(&e)));
        started.as_ref().map_err(|e| TaskError::failed(e.clone()))
    }

    /// The mount points of every step, to lie below its layers: creating them in each step's
    /// upper and removing them afterwards costs more than the rest of a small step's files.
    /// `None`: the step makes its own.
    pub fn mount_points(&self) -> Option<PathBuf> {
        let make = || {
            self.store
                .fixed_tree("mount-points", self.lease, crate::sandbox::fill_mount_points)
                .inspect_err(|e| tracing::debug!(error = %e, "no shared mount points"))
                .ok()
        };
        self.mount_points.get_or_init(make).clone()
    }

    /// The store's lease of this build.
    pub fn lease(&self) -> &Lease {
        self.lease
    }

    /// Starts a new layer on `base`.
    pub fn begin_layer(
        &self,
        base: Option<SnapshotId>,
        cx: &TaskCx<'_>,
    ) -> Result<LayerInProgress<'_>, TaskError> {
        let decided = base.map(|_| self.snapshots.decided());
        if let Some(decided) = decided.filter(|d| !d.lacks.is_empty()) {
            // Once: a build may take many times as long by it.
            self.slow.get_or_init(|| cx.warn(format!("{decided}")));
        }
        self.snapshots.begin(base, cx).map_err(SnapshotError::into_task)
    }

    /// The snapshot of a tree; a live folder becomes one.
    pub fn as_snapshot(&self, tree: Tree, cx: &TaskCx<'_>) -> Result<SnapshotId, TaskError> {
        match tree {
            Tree::Snapshot(id) => Ok(id),
            Tree::Context(_) => {
                let from = self.read_tree(tree, cx)?;
                let layer = self.begin_layer(None, cx)?;
                let root = layer.mount(cx)?;
                let source = crate::tree::copy::Source {
                    root: from.root.as_fd(),
                    ignore: from.ignore.as_deref(),
                    as_root: true,
                };
                let cancelled = || cx.cancel.is_cancelled();
                let opts = crate::tree::copy::CopyOptions::contents(self.host.owners, &cancelled);
                crate::tree::copy::copy(&source, "/", root.as_fd(), "/", &opts)
                    .map_err(TaskError::failed)?;
                drop(root);
                layer.commit("context")
            }
        }
    }

    /// Opens a tree for reading.
    pub fn read_tree(&self, tree: Tree, cx: &TaskCx<'_>) -> Result<ReadTree, TaskError> {
        match tree {
            Tree::Snapshot(id) => {
                let root = self
                    .snapshots
                    .mount_read_only(id, Some(cx))
                    .map_err(SnapshotError::into_task)?;
                Ok(ReadTree { root, ignore: None, as_root: false })
            }
            Tree::Context(n) => {
                let c = self.context(n);
                let root = c.root.try_clone().map_err(TaskError::failed)?.into();
                Ok(ReadTree { root, ignore: c.ignore.clone(), as_root: true })
            }
        }
    }

    /// Runs a program, unless another process just did.
    fn exec(&self, op: &ExecOp, task: &Task<'_>, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
        let waited = self.flight.begin(task.key, &mut |wait| {
            if wait.first {
                cx.log(Stream::Stderr, waiting("it runs this step", wait).as_bytes());
            }
            !cx.cancel.is_cancelled()
        });
        let waited = match waited {
            Err(StoreError::Cancelled) => return Err(TaskError::Cancelled),
            other => other.map_err(TaskError::failed)?,
        };
        // Another process may have begun and ended it since the store was asked.
        if (waited || self.flight.was_missing(task.key))
            && !task.meta.ignore_cache
            && let Some(row) = self.store.result(&task.key).map_err(TaskError::failed)?
            && !self.is_too_old(&row, task, cx)
        {
            return Ok(row.outputs.into_iter().map(Tree::Snapshot).collect());
        }
        let run = || {
            // Live folders become snapshots first, so that whether they held still is known before
            // the program takes its time.
            let mut inputs = task.inputs.to_vec();
            for (n, tree) in inputs.iter_mut().enumerate() {
                if matches!(tree, Tree::Context(_)) && self.is_keyed(task, n) {
                    self.let_rest(task, n, *tree, cx);
                    let live =
                        std::mem::replace(tree, Tree::Snapshot(self.as_snapshot(*tree, cx)?));
                    self.settle(task, n, live, cx)?;
                }
            }
            ops::exec::run(self, op, &Task { inputs: &inputs, ..*task }, cx)
        };
        let result = run();
        if result.is_err() {
            self.flight.end(task.key);
        }
        result
    }

    /// The process that was waited for may have left nothing but what was there before.
    fn is_too_old(&self, row: &ResultRow, task: &Task<'_>, cx: &TaskCx<'_>) -> bool {
        let ttl = task.meta.ttl.into_iter().chain(self.request.cache_ttl).min();
        let age = Timestamp::from_seconds(row.created).age(cx.clock.now());
        ttl.is_some_and(|ttl| ttl.is_over(age))
    }

    fn is_keyed(&self, task: &Task<'_>, input: usize) -> bool {
        task.op.keying(InputIndex(input as u32)) != Keying::Ignored
    }

    /// What of a live folder is in the key of a task, and what it was then.
    fn looked_at(
        &self,
        task: &Task<'_>,
        input: usize,
        tree: Tree,
    ) -> Option<(Selector, Option<Seen>)> {
        let Tree::Context(n) = tree else { return None };
        let sel = match task.op.keying(InputIndex(input as u32)) {
            Keying::Ignored => return None,
            Keying::Chain => Selector::all(),
            Keying::Content(sel) => sel,
        };
        let id = (n, selector_digest(&sel));
        let before = self.looked.lock().unwrap_or_else(|e| e.into_inner()).get(&id).cloned();
        Some((sel, before))
    }

    /// What of a live folder is in the key of a task, by digest.
    pub fn digest_in_key(&self, task: &Task<'_>, input: usize) -> Option<(Selector, TreeDigest)> {
        let (sel, seen) = self.looked_at(task, input, task.inputs[input])?;
        Some((sel, seen?.0))
    }

    /// Lets a live folder that was written to a moment ago rest before it is copied from, so that
    /// [`Self::settle`] sees a change that is taken back meanwhile.
    fn let_rest(&self, task: &Task<'_>, input: usize, tree: Tree, cx: &TaskCx<'_>) {
        let Some((_, Some((_, moment)))) = self.looked_at(task, input, tree) else { return };
        let now = i64::try_from(cx.clock.now().0).unwrap_or(i64::MAX);
        let left = u64::try_from(moment.settles_at().saturating_sub(now)).unwrap_or(0);
        let left = Duration::from_nanos(left);
        // Longer than any clock's tick: times of the future, which waiting does not reach.
        if left <= MAX_REST {
            std::thread::sleep(left);
        }
    }

    /// Looks again at what of a live folder is in the key of a task that has read it by now. When it
    /// changed, its result must not be remembered under the key.
    fn settle(
        &self,
        task: &Task<'_>,
        input: usize,
        tree: Tree,
        cx: &TaskCx<'_>,
    ) -> Result<(), TaskError> {
        let Some((sel, before)) = self.looked_at(task, input, tree) else { return Ok(()) };
        let same = |(digest, moment): Seen| {
            self.look(tree, &sel, cx)
                .is_ok_and(|(s, _)| s.digest() == digest && moment.lasted_until(&s.moment()))
        };
        if before.is_some_and(same) {
            return Ok(());
        }
        self.flight.unsettle(task.key);
        cx.warn("files changed while they were read: this step will run again in the next build");
        Ok(())
    }

    /// What is selected of a tree, and the ignore rules in force.
    fn look(
        &self,
        of: Tree,
        sel: &Selector,
        cx: &TaskCx<'_>,
    ) -> Result<(Scan, Option<Arc<PatternSet>>), TaskError> {
        let tree = self.read_tree(of, cx)?;
        let mut sel = sel.clone();
        if tree.as_root {
            // Whoever owns the caller's files, the copy is root's.
            sel.owner = false;
        }
        let cache = crate::cache::stat::StoreStatCache::new(self.store);
        let cache: Option<&dyn context::StatCache> = if tree.as_root { Some(&cache) } else { None };
        let ignore = tree.ignore.as_deref();
        let owners = self.host.owners;
        let scan = context::scan(tree.root.as_fd(), &sel, ignore, cache, owners)
            .map_err(TaskError::failed)?;
        Ok((scan, tree.ignore))
    }

    /// Where a context lies on the host.
    pub fn context(&self, n: u32) -> Arc<ContextTree> {
        self.contexts.lock().unwrap_or_else(|e| e.into_inner())[n as usize].clone()
    }

    /// The folder behind a local source.
    pub fn live(&self, l: &rgraph_ir::op::LocalSource) -> Result<Tree, TaskError> {
        self.open_context(l).map(Tree::Context)
    }

    /// Opens the folder behind a local source, once per build.
    fn open_context(&self, l: &rgraph_ir::op::LocalSource) -> Result<u32, TaskError> {
        let id = format!("{}\0{}", l.name, l.exclude.join("\n"));
        let mut known = self.by_vertex_source.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(n) = known.get(&id) {
            return Ok(*n);
        }
        let Some(at) = self.request.contexts.get(&l.name) else {
            return Err(TaskError::failed(format!(
                "no folder was given for the context `{}`",
                l.name
            )));
        };
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::DIRECTORY
            | rustix::fs::OFlags::CLOEXEC;
        let root = rustix::fs::open(&at.path, flags, rustix::fs::Mode::empty()).map_err(|e| {
            TaskError::failed(format!("cannot open the context `{}`: {e}", at.path.display()))
        })?;
        let ignore = if l.exclude.is_empty() {
            None
        } else {
            let set = PatternSet::new(&l.exclude)
                .map_err(|e| TaskError::failed(format!("the ignore file of `{}`: {e}", l.name)))?;
            Some(Arc::new(set))
        };
        let mut all = self.contexts.lock().unwrap_or_else(|e| e.into_inner());
        all.push(Arc::new(ContextTree { path: at.path.clone(), root, ignore }));
        let n = all.len() as u32 - 1;
        known.insert(id, n);
        Ok(n)
    }
}

impl Worker for LocalWorker<'_> {
    fn pin(
        &self,
        op: &SourceOp,
        platform: Option<&Platform>,
        cx: &TaskCx<'_>,
    ) -> Result<Pin, TaskError> {
        match op {
            SourceOp::Local(_) => Ok(Pin::Live),
            SourceOp::Image(i) => {
                let platform = platform.unwrap_or(&self.request.host_platform);
                let image = self
                    .images
                    .resolve(&i.reference, platform, i.resolve)
                    .map_err(TaskError::failed)?;
                Ok(Pin::Fixed(image.pin()))
            }
            SourceOp::Http(h) => {
                let pin = self.sources.url_pin(h, &ops::source::downloading(cx, &h.url));
                pin.map(Pin::Fixed).map_err(TaskError::failed)
            }
            SourceOp::Git(g) => self.sources.git_pin(g).map(Pin::Fixed).map_err(TaskError::failed),
            SourceOp::OciLayout(o) => {
                let image = self.images.layout(&o.reference).map_err(TaskError::failed)?;
                Ok(Pin::Fixed(image.pin()))
            }
        }
    }

    fn is_pin_known(&self, op: &SourceOp, platform: Option<&Platform>) -> bool {
        match op {
            SourceOp::Local(_) => true,
            SourceOp::Image(i) => {
                let platform = platform.unwrap_or(&self.request.host_platform);
                self.images.is_resolved(&i.reference, platform)
            }
            SourceOp::Http(_) | SourceOp::Git(_) | SourceOp::OciLayout(_) => false,
        }
    }

    fn run(&self, task: &Task<'_>, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
        cx.check()?;
        let began = cx.clock.now();
        let trees = self.run_op(task, cx)?;
        let ns = cx.clock.now().0.saturating_sub(began.0);
        self.flight.ran_for(task.key, Duration::from_nanos(ns));
        Ok(trees)
    }

    fn digest(&self, of: Tree, sel: &Selector, cx: &TaskCx<'_>) -> Result<TreeDigest, TaskError> {
        let (scan, rules) = self.look(of, sel, cx)?;
        let digest = scan.digest();
        if let Tree::Context(n) = of {
            let id = (n, selector_digest(sel));
            let seen = (digest, scan.moment());
            self.looked.lock().unwrap_or_else(|e| e.into_inner()).insert(id, seen);
        }
        self.files.saw(sel, digest, scan, rules);
        Ok(digest)
    }
}

impl LocalWorker<'_> {
    fn is_stood_on(&self, v: VertexId) -> bool {
        let mut all = self.request.plan.graph.iter();
        all.any(|(_, user)| user.inputs.iter().any(|e| e.vertex == v))
    }

    fn run_op(&self, task: &Task<'_>, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
        match task.op {
            Op::Source(SourceOp::Local(l)) => Ok(vec![self.live(l)?]),
            Op::Source(SourceOp::Image(i)) => {
                let platform = task.platform.unwrap_or(&self.request.host_platform);
                let image = self
                    .images
                    .resolve(&i.reference, platform, i.resolve)
                    .map_err(TaskError::failed)?;
                let id = self.images.snapshot(&image, self.store).map_err(TaskError::failed)?;
                if self.journal.stood_on_others(task.key) && self.is_stood_on(task.vertex) {
                    // It will be compared with what was there; steps run on it unless it is the same.
                    self.snapshots.lowers(id, Some(cx)).map_err(SnapshotError::into_task)?;
                }
                Ok(vec![Tree::Snapshot(id)])
            }
            Op::Source(SourceOp::Http(h)) => ops::source::url(self, h, cx),
            Op::Source(SourceOp::Git(g)) => ops::source::git(self, g, cx),
            Op::Source(SourceOp::OciLayout(o)) => {
                let image = self.images.layout(&o.reference).map_err(TaskError::failed)?;
                let id = self.images.snapshot(&image, self.store).map_err(TaskError::failed)?;
                Ok(vec![Tree::Snapshot(id)])
            }
            Op::Exec(op) => self.exec(op, task, cx),
            Op::File(op) => {
                for (n, tree) in task.inputs.iter().enumerate() {
                    self.let_rest(task, n, *tree, cx);
                }
                let trees = ops::file::run(self, op, task, cx)?;
                for (n, tree) in task.inputs.iter().enumerate() {
                    self.settle(task, n, *tree, cx)?;
                }
                Ok(trees)
            }
            Op::Merge(_) => ops::merge::run(self, task, cx),
            Op::Diff(_) => Err(unsupported("a diff of two trees")),
        }
    }
}

fn unsupported(what: &str) -> TaskError {
    TaskError::failed(format!("{what} is not supported yet"))
}

/// An error with all its causes in one line.
pub fn report(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
