//! The edge of the solver: what it asks of the world. Implementations live in `rgraph-runtime`;
//! [`crate::fake`] has scripted ones.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use rgraph_ir::op::{Selector, SourceOp};
use rgraph_ir::{CacheKey, Op, Platform, SnapshotId, TreeDigest, Ttl, VertexId, VertexMeta};

use crate::cancel::CancelToken;
use crate::event::{Event, EventKind, EventSink, Step, Stream, Timestamp};
use crate::explain::{Elsewhere, FileChanges, PastBuild};
use crate::key::{KeyRecipe, Slot};

/// What a mutable source means now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pin {
    /// Something immutable: a chain ID of layers, a commit, a checksum. Two sources with one pin
    /// are one tree whatever they are called; the key is made of the pin alone.
    Fixed(String),
    /// A folder of the caller that may differ at every look. It is never looked up or recorded;
    /// whoever uses it, even as a root, is keyed by its content.
    Live,
}

/// A result of a vertex: something that can be an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tree {
    /// A state in the store.
    Snapshot(SnapshotId),
    /// A live folder; the number is the worker's own.
    Context(u32),
}

/// Which width limits a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Containers.
    Exec,
    /// Transfers.
    Fetch,
    /// Hashing and copying.
    Cpu,
}

/// Work to do: one vertex on its inputs.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// Which vertex.
    pub vertex: VertexId,
    /// What to do.
    pub op: &'a Op,
    /// For which platform.
    pub platform: Option<&'a Platform>,
    /// For people; no part of the result.
    pub meta: &'a VertexMeta,
    /// One tree per input of the vertex, in order.
    pub inputs: &'a [Tree],
    /// The key its result will be recorded under.
    pub key: CacheKey,
}

/// What a task may use besides its inputs.
pub struct TaskCx<'a> {
    /// Which vertex events are about.
    pub vertex: VertexId,
    /// Poll it, or register with [`CancelToken::on_cancel`].
    pub cancel: &'a CancelToken,
    /// Where events go.
    pub sink: &'a dyn EventSink,
    /// For event times.
    pub clock: &'a dyn Clock,
}

impl TaskCx<'_> {
    /// Emits an event about this task's vertex.
    pub fn emit(&self, kind: EventKind) {
        let step = Step::Vertex(self.vertex);
        self.sink.emit(Event { at: self.clock.now(), step, kind });
    }

    /// Emits output of the step.
    pub fn log(&self, stream: Stream, data: &[u8]) {
        self.emit(EventKind::Log { stream, data: data.to_vec() });
    }

    /// Emits a warning.
    pub fn warn(&self, text: impl Into<String>) {
        self.emit(EventKind::Warning { text: text.into() });
    }

    /// `Err(Cancelled)` once the build is to stop.
    pub fn check(&self) -> Result<(), TaskError> {
        if self.cancel.is_cancelled() { Err(TaskError::Cancelled) } else { Ok(()) }
    }
}

/// Why a task gave no result.
#[derive(Debug)]
pub enum TaskError {
    /// The process ended with a code other than 0.
    Exit {
        /// The code.
        code: i32,
        /// `out of memory`, when that is known to be the cause.
        why: Option<String>,
    },
    /// The process was killed.
    Signal {
        /// The signal's number.
        signal: i32,
        /// `killed by the memory limit`, when that is known.
        why: Option<String>,
    },
    /// It was not done in time and was ended.
    TimedOut {
        /// How long it could take.
        limit: Duration,
    },
    /// An input is gone from the store or damaged: its vertex has to give it again.
    Lost(SnapshotId),
    /// The build is to stop.
    Cancelled,
    /// Anything else.
    Failed(Box<dyn StdError + Send + Sync>),
}

impl TaskError {
    /// Wraps any error.
    pub fn failed(e: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed(e.into())
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { code, why: Some(why) } => write!(f, "{why} (exit code: {code})"),
            Self::Exit { code, why: None } => write!(f, "exit code: {code}"),
            Self::Signal { signal, why: Some(why) } => {
                write!(f, "{why} (signal {signal}, exit code: {})", 128 + signal)
            }
            Self::Signal { signal, why: None } => {
                write!(f, "killed by signal {signal} (exit code: {})", 128 + signal)
            }
            Self::TimedOut { limit } => {
                write!(f, "not done after {}, and ended (--timeout)", Ttl::seconds(limit.as_secs()))
            }
            Self::Lost(id) => write!(f, "snapshot {id} is gone"),
            Self::Cancelled => f.write_str("canceled"),
            Self::Failed(e) => write!(f, "{e}"),
        }
    }
}

impl StdError for TaskError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Failed(e) => e.source(),
            _ => None,
        }
    }
}

/// Does the work. Called from many threads at once; every call blocks until done.
pub trait Worker: Sync {
    /// What a source means now. Cheap where possible: an image whose tag the store knows needs no
    /// network.
    fn pin(
        &self,
        op: &SourceOp,
        platform: Option<&Platform>,
        cx: &TaskCx<'_>,
    ) -> Result<Pin, TaskError>;

    /// Whether [`Self::pin`] answers at once, without a file or a server: then it is called where it is
    /// asked, and no thread is started for it.
    fn is_pin_known(&self, _op: &SourceOp, _platform: Option<&Platform>) -> bool {
        false
    }

    /// Runs a vertex; gives its outputs, the main one first.
    fn run(&self, task: &Task<'_>, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError>;

    /// Digest of the selected part of a tree. A selected path that does not exist is part of the
    /// digest, not an error: the op itself reports it better.
    fn digest(&self, of: Tree, sel: &Selector, cx: &TaskCx<'_>) -> Result<TreeDigest, TaskError>;

    /// Which lane a vertex's run belongs to.
    fn lane(&self, op: &Op) -> Lane {
        match op {
            Op::Source(_) => Lane::Fetch,
            Op::Exec(_) => Lane::Exec,
            Op::File(_) | Op::Merge(_) | Op::Diff(_) => Lane::Cpu,
        }
    }
}

/// Which cache answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The local store.
    Local,
    /// An imported cache, by name.
    Imported(String),
}

/// A question to a cache.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Which vertex asks.
    pub vertex: VertexId,
    /// The key.
    pub key: CacheKey,
    /// Its parts, for caches that key otherwise.
    pub recipe: &'a KeyRecipe,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The result, the main output first. Snapshots may be lazy: known by layers, not yet on disk.
    pub outputs: Vec<SnapshotId>,
    /// The key the same tree was first seen under.
    pub canonical: CacheKey,
    /// Who answered.
    pub origin: Origin,
}

/// A result to remember.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Which vertex.
    pub vertex: VertexId,
    /// Its key.
    pub key: CacheKey,
    /// Its parts.
    pub recipe: &'a KeyRecipe,
    /// [`Op::shows_content`] of the op.
    pub shows_content: bool,
    /// The place in the Dockerfile.
    pub slot: &'a Slot,
    /// The result, the main output first.
    pub outputs: &'a [SnapshotId],
    /// When it was made.
    pub at: Timestamp,
}

/// A cache failed to answer or to remember: a warning and a miss, never the end of a build.
#[derive(Debug)]
pub struct CacheError(pub Box<dyn StdError + Send + Sync>);

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl StdError for CacheError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Results by key. Called from many threads at once.
pub trait ResultCache: Sync {
    /// The result of a key.
    fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError>;

    /// The digest of a selected part of the result of `key`, when it was ever computed.
    fn content(&self, key: CacheKey, sel: &Selector) -> Result<Option<TreeDigest>, CacheError>;

    /// Remembers such a digest.
    fn record_content(
        &self,
        key: CacheKey,
        sel: &Selector,
        digest: TreeDigest,
    ) -> Result<(), CacheError>;

    /// The key under which the result of `key` was first seen; `key` itself when unknown. Local and
    /// cheap.
    fn canonical(&self, key: CacheKey) -> CacheKey;

    /// Calls `work` once. What it asks [`Self::canonical`] from this thread may be answered as of now;
    /// it does nothing that waits.
    fn at_once(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// When the result that a lookup would give was made; 0: there is one, and nobody knows. Only asked
    /// where results have a time to live.
    fn created(&self, q: &Query<'_>) -> Result<Option<Timestamp>, CacheError>;

    /// The recipe of the last result at a place, to explain a miss. Only asked on a miss, and only
    /// where [`Self::last_build`] does not know the place.
    fn last_recipe(&self, slot: &Slot) -> Result<Option<KeyRecipe>, CacheError>;

    /// The recipe recorded under a key. Only asked on a miss.
    fn recipe(&self, _key: CacheKey) -> Result<Option<KeyRecipe>, CacheError> {
        Ok(None)
    }

    /// The last build of this place. Asked at most once a solve, at its first miss.
    fn last_build(&self) -> PastBuild {
        PastBuild::default()
    }

    /// Is told once, at the end of a solve that failed or did not, which steps have results: what
    /// [`Self::last_build`] gives in a later one.
    fn remember_build(&self, _build: PastBuild) {}

    /// What differs between two trees with these digests of `sel`, as far as it was kept.
    fn changed_files(
        &self,
        _sel: &Selector,
        _old: TreeDigest,
        _new: TreeDigest,
    ) -> Option<FileChanges> {
        None
    }

    /// What differs between the result of `old` and `new`, where that can be told at once.
    fn changed_tree(&self, _old: CacheKey, _new: Tree) -> Option<FileChanges> {
        None
    }

    /// For which other platforms a step that was never built here is known.
    fn elsewhere(&self, _slot: &Slot, _op: &Op, _platform: Option<&Platform>) -> Vec<Elsewhere> {
        Vec::new()
    }

    /// Remembers a result. `Some(k)`: an earlier key `k` gave an equal tree, and stands for this
    /// one from now on (`k` may be the key itself). The outputs of a lookup of `k` are then taken
    /// instead, when its hit says that `k` is still canonical.
    ///
    /// Where the key stood for another tree until now (a step that ignored the cache), what was
    /// remembered for its users is outdated: drop its content digests, and give a new canonical key
    /// made from the key and the tree, which later calls of [`Self::canonical`] and hits give too.
    fn record(&self, rec: &Record<'_>) -> Result<Option<CacheKey>, CacheError>;
}

/// The time.
pub trait Clock: Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Everything the solver reaches outside through.
pub struct Ports<'a> {
    /// Does the work.
    pub worker: &'a dyn Worker,
    /// Remembers results.
    pub cache: &'a dyn ResultCache,
    /// Tells the time.
    pub clock: &'a dyn Clock,
}
