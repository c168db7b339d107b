//! Layers get their folders: several at a time, each in one pass over its bytes, which come from the
//! store or from outside meanwhile.
//!
//! A layer is placed as if those below were there: what depends on them waits for them
//! ([`Below::Later`]). A folder becomes a snapshot when both digests are right and all below have
//! become snapshots. Layers are begun bottom first, and one waits only for those below it, so there
//! is always one that goes on.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rgraph_image::layer::{Below, LayerError, UnpackOptions, unpack_blob};
use rgraph_image::tar::TarError;
use rgraph_ir::{DiffId, SnapshotId};
use rgraph_solver::{EventKind, Stream, TaskCx};
use rgraph_store::{BlobRef, LayerInfo, Prepared, SnapshotRecord, StoreError};

use super::{SnapshotError, Snapshots, bring, lost_or};
use crate::beside::side_by_side;
use crate::cache::flight::waiting;

/// Layers that are unpacked at once. Each takes some 4 MiB.
const AT_ONCE: usize = 4;
/// How often progress is told, bytes.
const PROGRESS_STEP: u64 = 4 << 20;

/// Who looks on.
pub(crate) struct Unpacking<'a> {
    /// Whose events tell of progress.
    pub cx: Option<&'a TaskCx<'a>>,
    /// Asked often.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Hears of each layer that got its folder now.
    pub done: &'a (dyn Fn(&SnapshotRecord) + Sync),
}

/// The folders of a stack, bottom first.
struct Stack<'a> {
    layers: &'a [SnapshotRecord],
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    dirs: Vec<Option<PathBuf>>,
    /// The first failure; what fails after it does so because of it.
    failed: Option<SnapshotError>,
}

impl Stack<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folders below layer `n`, top first, when all are there.
    fn below(&self, n: usize) -> io::Result<Vec<PathBuf>> {
        let mut state = self.state();
        loop {
            if state.failed.is_some() {
                return Err(io::Error::other("one of them could not be unpacked"));
            }
            let dirs: Option<Vec<PathBuf>> = state.dirs[..n].iter().rev().cloned().collect();
            if let Some(dirs) = dirs {
                return Ok(dirs);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finished(&self, n: usize, made: Result<PathBuf, SnapshotError>) {
        let mut state = self.state();
        match made {
            Ok(dir) => state.dirs[n] = Some(dir),
            Err(e) => {
                state.failed.get_or_insert(e);
            }
        }
        self.changed.notify_all();
    }
}

/// A layer whose thread panics has failed: others may wait for it.
struct IfPanics<'s, 'a>(&'s Stack<'a>, usize);

impl Drop for IfPanics<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(stack, n) = *self;
            stack.finished(n, Err(SnapshotError::Lost(stack.layers[n].id)));
        }
    }
}

impl Snapshots<'_> {
    /// The directories of `id`, top first; those that are missing are made.
    pub(crate) fn unpacked(
        &self,
        id: SnapshotId,
        w: &Unpacking<'_>,
    ) -> Result<Vec<PathBuf>, SnapshotError> {
        let layers = self.store.chain(id).map_err(|e| lost_or(e, id))?;
        let dirs: Vec<Option<PathBuf>> = layers.iter().map(|r| r.dir.clone()).collect();
        let missing: Vec<usize> = (0..dirs.len()).filter(|n| dirs[*n].is_none()).collect();
        let state = Mutex::new(State { dirs, failed: None });
        let stack = Stack { layers: &layers, state, changed: Condvar::new() };
        // In this order, hence what a layer waits for is always on its way.
        side_by_side(&missing, AT_ONCE, &|n| {
            if stack.state().failed.is_none() {
                let _told = IfPanics(&stack, *n);
                stack.finished(*n, self.materialise(&stack, *n, w));
            }
        });
        let State { dirs, failed } =
            stack.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failed {
            None => {}
            // Whoever asked knows the whole by its top.
            Some(SnapshotError::Lost(_)) => return Err(SnapshotError::Lost(id)),
            Some(e) => return Err(e),
        }
        let dirs: Option<Vec<PathBuf>> = dirs.into_iter().rev().collect();
        dirs.ok_or(SnapshotError::Lost(id))
    }

    /// Unpacks layer `n`, once on this machine.
    fn materialise(
        &self,
        stack: &Stack<'_>,
        n: usize,
        w: &Unpacking<'_>,
    ) -> Result<PathBuf, SnapshotError> {
        let rec = &stack.layers[n];
        let layer = rec.layer.as_ref().ok_or(SnapshotError::Lost(rec.id))?;
        let lock = self.store.key_lock(&format!("snapshot-{}", rec.id), &mut |wait| {
            if let (Some(cx), true) = (w.cx, wait.first) {
                let what = format!("it unpacks layer {}", layer.diff_id);
                cx.log(Stream::Stderr, waiting(&what, wait).as_bytes());
            }
            !(w.cancelled)()
        });
        let _lock = match lock {
            Err(StoreError::Cancelled) => return Err(SnapshotError::Cancelled),
            lock => lock?,
        };
        if let Some(SnapshotRecord { dir: Some(dir), .. }) = self.store.snapshot(rec.id)? {
            return Ok(dir);
        }
        // The same layer further down is on its way already.
        let same = |r: &SnapshotRecord| r.layer.as_ref().map(|l| l.diff_id) == Some(layer.diff_id);
        if stack.layers[..n].iter().any(same) {
            stack.below(n).map_err(below_failed(rec.id))?;
        }
        let prepared = self.any_form(stack, n, layer, w)?;
        // Its parent's folder comes first: a stack on disk has no holes.
        stack.below(n).map_err(below_failed(rec.id))?;
        self.store.materialise(rec.id, prepared)?;
        match self.store.snapshot(rec.id)? {
            Some(made @ SnapshotRecord { dir: Some(_), .. }) => {
                (w.done)(&made);
                made.dir.ok_or(SnapshotError::Lost(rec.id))
            }
            _ => Err(SnapshotError::Lost(rec.id)),
        }
    }

    /// Unpacks a layer from whichever of its forms can be had.
    fn any_form(
        &self,
        stack: &Stack<'_>,
        n: usize,
        layer: &LayerInfo,
        w: &Unpacking<'_>,
    ) -> Result<Prepared, SnapshotError> {
        let mut blobs = self.store.layer_blobs(&layer.diff_id)?;
        blobs.extend(layer.blob.clone().filter(|b| !blobs.contains(b)));
        let mut bad = None;
        let mut refuse = |blob: &BlobRef, e: SnapshotError| -> Result<(), SnapshotError> {
            // Some image says that these bytes are this layer, and that is wrong of it. Another form
            // may be right.
            if let SnapshotError::DiffId { .. } = e {
                self.store.drop_layer_blob(&layer.diff_id, &blob.digest)?;
                bad = Some(e);
                return Ok(());
            }
            Err(e)
        };
        for blob in &blobs {
            let Some((mut file, _)) = self.store.open_blob(&blob.digest)? else { continue };
            match self.unpack(stack, n, blob, layer.diff_id, &mut file, "unpacking", w) {
                Ok(prepared) => return Ok(prepared),
                Err(_) if (w.cancelled)() => return Err(SnapshotError::Cancelled),
                // Damaged since it was checked: it is forgotten and had from elsewhere.
                Err(_) if !self.is_whole(blob)? => {}
                Err(e) => refuse(blob, e)?,
            }
        }
        for blob in &blobs {
            let made = bring(self.store, self.provider, blob, w.cancelled, |from| {
                self.unpack(stack, n, blob, layer.diff_id, from, "pulling", w)
            });
            match made {
                Ok(Some(prepared)) => return Ok(prepared),
                Ok(None) => {}
                Err(e) => refuse(blob, e)?,
            }
        }
        Err(bad.unwrap_or(SnapshotError::Lost(stack.layers[n].id)))
    }

    /// Reads a blob to its end; one that is damaged is forgotten.
    fn is_whole(&self, blob: &BlobRef) -> Result<bool, SnapshotError> {
        let Some(mut reader) = self.store.open_blob_verified(&blob.digest)? else {
            return Ok(false);
        };
        Ok(io::copy(&mut reader, &mut io::sink()).is_ok())
    }

    /// One pass: read, decompress, hash, unpack.
    #[expect(
        clippy::too_many_arguments,
        reason = "one pass over the bytes, all its ends are named"
    )]
    fn unpack(
        &self,
        stack: &Stack<'_>,
        n: usize,
        blob: &BlobRef,
        want: DiffId,
        from: &mut (dyn Read + Send),
        action: &'static str,
        w: &Unpacking<'_>,
    ) -> Result<Prepared, SnapshotError> {
        let prepared = self.store.prepare(self.lease)?;
        let below = || stack.below(n);
        let opts = UnpackOptions {
            below: Below::Later(&below),
            userxattr: self.host.userxattr,
            owners: self.host.owners,
            ..UnpackOptions::default()
        };
        let told = Told { from, seen: 0, told: 0, blob, action, w };
        // Also what stands behind the compressed stream: it counts for the blob's digest.
        let (_, got) = unpack_blob(told, prepared.fs(), &opts).map_err(|source| match source {
            LayerError::Below(_) => SnapshotError::Lost(stack.layers[n].id),
            e if is_full(&e) => StoreError::NoSpace { root: self.store.root().to_owned() }.into(),
            source => SnapshotError::Unpack { blob: blob.digest, source },
        })?;
        if got != want {
            return Err(SnapshotError::DiffId { blob: blob.digest, want, got });
        }
        Ok(prepared)
    }
}

/// Whether there was no room for a layer, or for its blob, which is written while it is read.
fn is_full(e: &LayerError) -> bool {
    match e {
        LayerError::Io { source: e, .. } | LayerError::Tar(TarError::Io(e)) => {
            matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        _ => false,
    }
}

/// Never told: the layer below that failed is.
fn below_failed(id: SnapshotId) -> impl Fn(io::Error) -> SnapshotError {
    move |_| SnapshotError::Lost(id)
}

/// Tells about progress, stops when the build stops.
struct Told<'a> {
    from: &'a mut (dyn Read + Send),
    seen: u64,
    told: u64,
    blob: &'a BlobRef,
    action: &'static str,
    w: &'a Unpacking<'a>,
}

impl Read for Told<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        self.seen += n as u64;
        if (self.w.cancelled)() {
            return Err(io::Error::other("canceled"));
        }
        if let Some(cx) = self.w.cx
            && (self.seen >= self.told + PROGRESS_STEP || (n == 0 && self.told < self.seen))
        {
            self.told = self.seen;
            cx.emit(EventKind::Progress {
                id: self.blob.digest.to_string(),
                action: self.action,
                current: self.seen,
                total: self.blob.size,
            });
        }
        Ok(n)
    }
}
