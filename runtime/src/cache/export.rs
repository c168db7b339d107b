//! Writes what a build finds out to other caches, in the background and as soon as it is known: the
//! records of every vertex, and blobs of the result's layers (`mode=min`) or of every step's
//! (`mode=max`). A build that fails or is killed loses nothing that was finished.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::time::Duration;

use rgraph_image::manifest::layer_compression;
use rgraph_ir::op::Selector;
use rgraph_ir::request::CacheStore;
use rgraph_ir::{BuildPlan, CacheKey, ChainId, Op, Platform, SnapshotId, TreeDigest, VertexId};
use rgraph_solver::CancelToken;
use rgraph_store::{BlobRef, Store, StoreError};

use super::combined::Listener;
use super::entry::{BlobFile, Content, LayerFile, RecordFile};
use super::import::Import;
use super::sign::Signer;
use super::wire::selector_digest;
use crate::export::ahead::makers;
use crate::export::{ExportError, Exporter, NamedLayer};

/// So long nothing new comes before what is there is published.
const QUIET: Duration = Duration::from_millis(300);
/// Most results between the build and the writer; a build that is further ahead waits.
pub const QUEUE: usize = 1024;

/// A place for entries and blobs.
pub trait Sink {
    /// Names the cache.
    fn name(&self) -> String;

    /// Finds out about several blobs at once, where asking takes time.
    ///
    /// # Errors
    /// The cache's.
    fn look(&mut self, _blobs: &[BlobRef]) -> Result<(), SinkError> {
        Ok(())
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// The cache's.
    fn has_blob(&mut self, blob: &BlobRef) -> Result<bool, SinkError>;

    /// Brings blobs of the store there.
    ///
    /// # Errors
    /// The cache's or the store's.
    fn put_blobs(&mut self, blobs: &[BlobRef], store: &Store) -> Result<(), SinkError>;

    /// Adds a record whose blobs are there, unless the cache knows as much.
    ///
    /// # Errors
    /// The cache's.
    fn put_record(&mut self, record: RecordFile) -> Result<(), SinkError>;

    /// Adds what a part of a result is.
    ///
    /// # Errors
    /// The cache's.
    fn put_content(
        &mut self,
        key: CacheKey,
        selector: TreeDigest,
        content: Content,
    ) -> Result<(), SinkError>;

    /// Says that a result of a step is there for a platform; only explanations read that.
    fn note_platform(&mut self, _op: &Op, _platform: &Platform) {}

    /// What was put is to survive the end of this process, where that costs little.
    ///
    /// # Errors
    /// The cache's.
    fn settle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// The same, whatever it costs.
    ///
    /// # Errors
    /// The cache's.
    fn publish(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// The build is over. `only`: everything else that was there before goes.
    ///
    /// # Errors
    /// The cache's.
    fn finish(&mut self, only: Option<&BTreeSet<CacheKey>>) -> Result<(), SinkError>;

    /// Bytes of blobs that were new.
    fn written(&self) -> u64;
}

/// Why a cache did not take something.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The cache's own reasons.
    #[error(transparent)]
    Target(Box<dyn std::error::Error + Send + Sync>),
    /// What was to be written cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SinkError> for ExportError {
    fn from(e: SinkError) -> Self {
        match e {
            SinkError::Target(e) => Self::Cache(e),
            SinkError::Store(e) => Self::Store(e),
        }
    }
}

/// What the writer hears.
pub enum Job {
    /// A result is in the store.
    Result(VertexId, CacheKey),
    /// What a part of a result is.
    Content(CacheKey, TreeDigest, TreeDigest),
    /// The outputs are written. Everything is to be, and what is gone is to be told.
    Settle(BTreeMap<VertexId, CacheKey>, Sender<Vec<SnapshotId>>),
    /// The build is over. With all keys: it succeeded.
    End(Option<BTreeMap<VertexId, CacheKey>>),
}

/// Digests by key and selector.
pub type Contents = BTreeMap<(CacheKey, TreeDigest), TreeDigest>;

/// Hears for a writer, and keeps what inline caches need.
pub struct Feed {
    jobs: Option<SyncSender<Job>>,
    seen: Option<Mutex<Contents>>,
}

impl Feed {
    /// `jobs` leads to a writer. With `inline` digests are kept for [`Self::contents`].
    pub fn new(jobs: Option<SyncSender<Job>>, inline: bool) -> Self {
        Self { jobs, seen: inline.then(Mutex::default) }
    }

    /// All digests of this build so far.
    pub fn contents(&self) -> Contents {
        let seen = self.seen.as_ref().map(|s| s.lock().unwrap_or_else(|e| e.into_inner()));
        seen.map(|s| s.clone()).unwrap_or_default()
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // A writer that ended needs nothing more; its own end says why.
            jobs.send(job).unwrap_or(());
        }
    }

    /// Has everything written, and waits for the results whose layers nobody has any more.
    pub fn settle(
        &self,
        keys: &BTreeMap<VertexId, CacheKey>,
        cancel: &CancelToken,
    ) -> Vec<SnapshotId> {
        let (reply, lost) = channel();
        if self.jobs.is_none() {
            return Vec::new();
        }
        self.send(Job::Settle(keys.clone(), reply));
        loop {
            match lost.recv_timeout(QUIET) {
                Err(RecvTimeoutError::Timeout) if !cancel.is_cancelled() => {}
                lost => return lost.unwrap_or_default(),
            }
        }
    }

    /// Tells that the build is over; what comes later is not heard.
    pub fn end(&self, keys: Option<BTreeMap<VertexId, CacheKey>>) {
        self.send(Job::End(keys));
    }
}

impl Listener for Feed {
    fn result(&self, vertex: VertexId, key: CacheKey) {
        self.send(Job::Result(vertex, key));
    }

    fn content(&self, key: CacheKey, sel: &Selector, digest: TreeDigest) {
        let selector = TreeDigest::from_bytes(selector_digest(sel));
        if let Some(seen) = &self.seen {
            let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
            seen.insert((key, selector), digest);
        }
        self.send(Job::Content(key, selector, digest));
    }
}

/// A result as a target has it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Done {
    canonical: CacheKey,
    top: SnapshotId,
    chain: ChainId,
    blobs: bool,
    created: i64,
}

/// One cache being written.
pub struct Target<'a> {
    spec: &'a CacheStore,
    sink: Box<dyn Sink + Send + 'a>,
    signer: Option<Signer>,
    done: HashMap<CacheKey, Done>,
    dirty: bool,
    failure: Option<ExportError>,
}

impl<'a> Target<'a> {
    /// A cache that takes what `sink` is given.
    pub fn new(spec: &'a CacheStore, sink: Box<dyn Sink + Send + 'a>) -> Self {
        let signer = spec.sign.as_ref().map(Signer::new);
        Self { spec, sink, signer, done: HashMap::new(), dirty: false, failure: None }
    }
}

/// How one cache fared.
pub struct Written {
    /// Names it.
    pub name: String,
    /// Bytes of blobs that were new; or why it failed, and whether that matters.
    pub result: Result<u64, (ExportError, bool)>,
}

/// See the module.
pub struct CacheWriter<'a> {
    plan: &'a BuildPlan,
    imports: &'a [Import<'a>],
    targets: Vec<Target<'a>>,
    /// Whose layers the images are made of.
    makers: BTreeSet<VertexId>,
    seen: BTreeMap<VertexId, CacheKey>,
    /// What was left at the end has begun to be written.
    ending: bool,
}

/// A result about to be written.
struct Part {
    vertex: VertexId,
    name: String,
    key: CacheKey,
    canonical: CacheKey,
    top: SnapshotId,
    layers: Vec<NamedLayer>,
    blobs: bool,
    created: i64,
}

impl<'a> CacheWriter<'a> {
    /// A writer of what the build of `plan` gives.
    pub fn new(plan: &'a BuildPlan, imports: &'a [Import<'a>], targets: Vec<Target<'a>>) -> Self {
        let makers = makers(plan, 0..plan.targets.len());
        Self { plan, imports, targets, makers, seen: BTreeMap::new(), ending: false }
    }

    /// Works until the build is over, `quiet` until then and `loud` at the end.
    pub fn run(
        mut self,
        jobs: &Receiver<Job>,
        quiet: &Exporter<'_>,
        loud: &Exporter<'_>,
    ) -> Vec<Written> {
        let keys = loop {
            let first = match self.targets.iter().any(|t| t.dirty) {
                true => match jobs.recv_timeout(QUIET) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.each(|t, _| {
                            t.dirty = false;
                            Ok(t.sink.publish()?)
                        });
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break None,
                },
                false => match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => break None,
                },
            };
            let (todo, end) = gather(first, jobs);
            self.take(&todo, quiet);
            match end {
                Some(Job::End(keys)) => break keys,
                Some(Job::Settle(keys, reply)) => {
                    let lost = self.settle(&keys, loud);
                    // Whoever asked may have given up.
                    reply.send(lost).unwrap_or(());
                }
                _ => {}
            }
        };
        self.begin(loud);
        let all: Vec<_> = keys.as_ref().unwrap_or(&self.seen).clone().into_iter().collect();
        self.each(|t, w| {
            w.write(t, &all, true, loud)?;
            // Only a build that succeeded knows all that is still of use.
            let only: BTreeSet<CacheKey> = t.done.keys().copied().collect();
            let reset = t.spec.reset && keys.is_some();
            Ok(t.sink.finish(reset.then_some(&only))?)
        });
        let written = |t: Target<'_>| {
            let (name, bytes) = (t.sink.name(), t.sink.written());
            let result = t.failure.map_or(Ok(bytes), |e| Err((e, t.spec.ignore_error)));
            Written { name, result }
        };
        self.targets.into_iter().map(written).collect()
    }

    fn begin(&mut self, loud: &Exporter<'_>) {
        if !std::mem::replace(&mut self.ending, true) {
            loud.begin_caches();
        }
    }

    /// Writes all results; gives those whose layers nobody has any more.
    fn settle(
        &mut self,
        keys: &BTreeMap<VertexId, CacheKey>,
        loud: &Exporter<'_>,
    ) -> Vec<SnapshotId> {
        self.begin(loud);
        let all: Vec<_> = keys.iter().map(|(v, k)| (*v, *k)).collect();
        let mut lost = Vec::new();
        self.each(|t, w| {
            lost.extend(w.write(t, &all, true, loud)?);
            Ok(t.sink.settle()?)
        });
        lost
    }

    /// Does something for every target that did not fail so far.
    fn each(&mut self, mut f: impl FnMut(&mut Target<'a>, &Self) -> Result<(), ExportError>) {
        let mut targets = std::mem::take(&mut self.targets);
        for t in targets.iter_mut().filter(|t| t.failure.is_none()) {
            t.failure = f(t, self).err();
        }
        self.targets = targets;
    }

    fn take(&mut self, jobs: &[Job], exporter: &Exporter<'_>) {
        let results = |j: &Job| match j {
            Job::Result(v, k) => Some((*v, *k)),
            _ => None,
        };
        let results: Vec<_> = jobs.iter().filter_map(results).collect();
        self.seen.extend(results.iter().copied());
        self.each(|t, w| {
            w.write(t, &results, false, exporter)?;
            for job in jobs {
                // Of results that come later, digests come with them.
                if let Job::Content(key, selector, digest) = job
                    && let Some(done) = t.done.get(key)
                {
                    let signer = t.signer.as_ref();
                    let c = Content::new(*key, *selector, *digest, done.chain, signer);
                    t.sink.put_content(*key, *selector, c)?;
                    t.dirty = true;
                }
            }
            Ok(t.sink.settle()?)
        });
    }

    /// Brings results to a target. Before the end only those with blobs: without, nobody can use
    /// them yet, and naming their layers would take time from the steps. Gives the results whose
    /// layers nobody has any more.
    fn write(
        &self,
        t: &mut Target<'a>,
        results: &[(VertexId, CacheKey)],
        end: bool,
        exporter: &Exporter<'_>,
    ) -> Result<Vec<SnapshotId>, ExportError> {
        let mut parts = Vec::new();
        for (vertex, key) in results {
            exporter.check()?;
            let blobs = t.spec.max || self.makers.contains(vertex);
            if !blobs && !end {
                continue;
            }
            if let Some(part) = self.part(t, *vertex, *key, blobs, exporter)? {
                parts.push(part);
            }
        }
        // Of a hundred steps each names the layers of all below it.
        let mut layers: BTreeMap<SnapshotId, (&NamedLayer, Vec<BlobRef>)> = BTreeMap::new();
        for l in parts.iter().filter(|p| p.blobs).flat_map(|p| &p.layers) {
            if let std::collections::btree_map::Entry::Vacant(new) = layers.entry(l.snapshot) {
                new.insert((l, candidates_of(t.spec, l, exporter.store)?));
            }
        }
        let mut candidates: Vec<BlobRef> =
            layers.values().flat_map(|(_, known)| known).cloned().collect();
        candidates.sort_by_key(|b| b.digest);
        candidates.dedup();
        t.sink.look(&candidates)?;
        let mut chosen: HashMap<SnapshotId, Option<BlobRef>> = HashMap::new();
        let mut missing: BTreeMap<_, BlobRef> = BTreeMap::new();
        for (snapshot, (l, known)) in layers {
            let (blob, there) = self.blob(t, l, known, exporter)?;
            if let Some(b) = blob.as_ref().filter(|_| !there) {
                missing.insert(b.digest, b.clone());
            }
            chosen.insert(snapshot, blob);
        }
        let missing: Vec<BlobRef> = missing.into_values().collect();
        if !missing.is_empty() {
            t.sink.put_blobs(&missing, exporter.store)?;
            t.dirty = true;
        }
        let mut lost = Vec::new();
        for p in parts {
            let layer = |l: &NamedLayer| {
                let blob = chosen.get(&l.snapshot).filter(|_| p.blobs).cloned().flatten();
                LayerFile { diff_id: l.diff_id, blob: blob.as_ref().map(BlobFile::from) }
            };
            let layers: Vec<LayerFile> = p.layers.iter().map(layer).collect();
            let mut chain = None;
            for key in BTreeSet::from([p.key, p.canonical]) {
                let signer = t.signer.as_ref();
                let r =
                    RecordFile::new(key, p.canonical, layers.clone(), (&p.name, p.created), signer);
                chain = r.chain();
                t.sink.put_record(r)?;
            }
            let vertex = self.plan.graph.vertex(p.vertex);
            if let Some(platform) = vertex.platform.as_deref() {
                t.sink.note_platform(&vertex.op, platform);
            }
            t.dirty = true;
            if p.blobs && layers.iter().any(|l| l.blob.is_none()) {
                // Not done: it may be made again.
                lost.push(p.top);
                continue;
            }
            let Some(chain) = chain else { continue };
            let Part { canonical, top, blobs, created, .. } = p;
            let done = Done { canonical, top, chain, blobs, created };
            t.done.insert(p.key, done);
            t.done.insert(p.canonical, done);
        }
        for (_, key) in results {
            self.contents(t, *key, exporter.store)?;
        }
        Ok(lost)
    }

    /// What is to be written of a result; `None`: it is there, or there is none.
    fn part(
        &self,
        t: &Target<'a>,
        vertex: VertexId,
        key: CacheKey,
        blobs: bool,
        exporter: &Exporter<'_>,
    ) -> Result<Option<Part>, ExportError> {
        let Some(row) = exporter.store.result(&key)? else { return Ok(None) };
        let (canonical, Some(top)) = (row.canonical, row.outputs.first().copied()) else {
            return Ok(None);
        };
        let known = t.done.get(&key);
        if known.is_some_and(|d| {
            (d.canonical, d.top, d.created) == (canonical, top, row.created) && d.blobs >= blobs
        }) {
            return Ok(None);
        }
        let packed = if blobs { exporter.pack_unknown(top, &t.spec.layers) } else { Ok(()) };
        let layers = match packed.and_then(|()| exporter.named_layers(Some(top))) {
            // Gone since: whoever needs it has it made again, and it comes a second time.
            Err(e) if e.is_loss() => return Ok(None),
            layers => layers?,
        };
        let name = self.plan.graph.vertex(vertex).meta.name.clone();
        let created = row.created;
        Ok(Some(Part { vertex, name, key, canonical, top, layers, blobs, created }))
    }

    /// The blob of a layer in a form that will do, of those `known` or a new one, and whether the target
    /// has it. `None`: nobody has its bytes any more.
    fn blob(
        &self,
        t: &mut Target<'a>,
        layer: &NamedLayer,
        known: Vec<BlobRef>,
        exporter: &Exporter<'_>,
    ) -> Result<(Option<BlobRef>, bool), ExportError> {
        exporter.check()?;
        let bad = |b: &BlobRef| self.imports.iter().any(|i| i.is_bad(&b.digest));
        for b in known {
            if !bad(&b) && t.sink.has_blob(&b)? {
                return Ok((Some(b), true));
            }
        }
        let blob = match exporter.packed(layer, &t.spec.layers) {
            Err(e) if e.is_loss() => return Ok((None, false)),
            blob => blob?,
        };
        let there = !bad(&blob) && t.sink.has_blob(&blob)?;
        Ok((Some(blob), there))
    }

    /// Digests of a result under both its keys: whoever reads the cache may know only one.
    fn contents(
        &self,
        t: &mut Target<'a>,
        key: CacheKey,
        store: &Store,
    ) -> Result<(), ExportError> {
        let Some(done) = t.done.get(&key).copied() else { return Ok(()) };
        let mut all = store.contents_of(&done.canonical)?;
        if key != done.canonical {
            all.extend(store.contents_of(&key)?);
        }
        for (selector, digest) in all {
            let selector = TreeDigest::from_bytes(selector);
            for k in BTreeSet::from([key, done.canonical]) {
                let c = Content::new(k, selector, digest, done.chain, t.signer.as_ref());
                t.sink.put_content(k, selector, c)?;
            }
        }
        Ok(())
    }
}

/// Forms of a layer that are known and will do: as asked for, or as it came from outside.
fn candidates_of(
    spec: &CacheStore,
    layer: &NamedLayer,
    store: &Store,
) -> Result<Vec<BlobRef>, ExportError> {
    let mut all = store.layer_blobs(&layer.diff_id)?;
    all.push(layer.blob.clone());
    let outside = layer.outside && !spec.layers.force;
    all.retain(|b| layer_compression(&b.media_type) == Some(spec.layers.compression) || outside);
    Ok(all)
}

/// `first` and what else waits, up to a job that has to be answered before any other is begun: that
/// one comes apart, and what stands behind it stays in the queue.
fn gather(first: Job, jobs: &Receiver<Job>) -> (Vec<Job>, Option<Job>) {
    let mut todo = Vec::new();
    let mut next = Some(first);
    while let Some(job) = next {
        if matches!(job, Job::Settle(..) | Job::End(_)) {
            return (todo, Some(job));
        }
        todo.push(job);
        next = if todo.len() <= QUEUE { jobs.try_recv().ok() } else { None };
    }
    (todo, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_behind_a_question_is_lost() {
        let (tx, jobs) = channel();
        let (reply, _answers) = channel();
        // A cancelled build may ask and end before the writer comes to either.
        tx.send(Job::Settle(BTreeMap::new(), reply)).unwrap();
        tx.send(Job::End(None)).unwrap();
        let (todo, end) = gather(jobs.recv().unwrap(), &jobs);
        assert!(todo.is_empty() && matches!(end, Some(Job::Settle(..))));
        let (todo, end) = gather(jobs.try_recv().unwrap(), &jobs);
        assert!(todo.is_empty() && matches!(end, Some(Job::End(None))));
    }
}
