//! File system states: a stack of overlay upper directories, each one layer.
//!
//! A snapshot is committed by a rename and never written again. One that is known only by its layer
//! (pulled images, imported caches) gets its directory when something has to read it.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rgraph_image::layer::{UnpackOptions, unpack_blob};
use rgraph_ir::{BlobDigest, DiffId, SnapshotId};
use rgraph_solver::{EventKind, Stream, TaskCx, TaskError};
use rgraph_store::{BlobRef, Lease, NewSnapshot, Prepared, SnapshotRecord, Store, StoreError};
use rgraph_sys::mount::{MountError, OverlaySpec, overlay};

use crate::cache::flight::waiting;
use crate::host::Host;

/// Why a snapshot could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel.
    #[error("cannot mount snapshot {id}")]
    Mount {
        /// Which; 0 for a new one.
        id: SnapshotId,
        /// Why.
        #[source]
        source: MountError,
    },
    /// A layer's bytes are nowhere to be had: its source has to give them again.
    #[error("snapshot {0} is gone")]
    Lost(SnapshotId),
    /// A layer could not be unpacked.
    #[error("cannot unpack layer {blob}")]
    Unpack {
        /// The blob.
        blob: BlobDigest,
        /// Why.
        #[source]
        source: rgraph_image::layer::LayerError,
    },
    /// A layer's bytes could not be read.
    #[error("cannot read layer {blob}")]
    Read {
        /// The blob.
        blob: BlobDigest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer unpacks to other bytes than its image says.
    #[error("layer {blob} has diff ID {got}, the image config says {want}")]
    DiffId {
        /// The blob.
        blob: BlobDigest,
        /// What the config says.
        want: DiffId,
        /// What the bytes are.
        got: DiffId,
    },
    /// The root of a new layer could not be given the owner and mode of the one below.
    #[error("cannot set up the root of a layer")]
    Root {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The build is to stop.
    #[error("canceled")]
    Cancelled,
}

impl SnapshotError {
    /// As the solver wants it.
    pub fn into_task(self) -> TaskError {
        match self {
            Self::Lost(id) => TaskError::Lost(id),
            Self::Cancelled => TaskError::Cancelled,
            e => TaskError::failed(e),
        }
    }
}

/// Gives the bytes of layers that the store lacks.
pub trait LayerProvider: Sync {
    /// Opens a blob somewhere outside; `None`: nobody here knows it. The reader fails at its end
    /// when the bytes are not what the digest says.
    fn open(
        &self,
        blob: &BlobRef,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, Box<dyn std::error::Error + Send + Sync>>;

    /// Is told that what [`Self::open`] gave was not the layer. True: whoever gave it is not asked
    /// for it again, and asking again may find another one.
    fn distrust(&self, _blob: &BlobRef, _why: &str) -> bool {
        false
    }
}

/// The snapshots of a store.
pub struct Snapshots<'a> {
    store: &'a Store,
    host: &'a Host,
    provider: &'a dyn LayerProvider,
    lease: &'a Lease,
}

impl<'a> Snapshots<'a> {
    /// A view of the store's snapshots; layers that are missing come from `provider`.
    pub fn new(
        store: &'a Store,
        host: &'a Host,
        provider: &'a dyn LayerProvider,
        lease: &'a Lease,
    ) -> Self {
        Self { store, host, provider, lease }
    }

    /// The directories of `id`, top first, all on disk.
    pub fn lowers(
        &self,
        id: SnapshotId,
        cx: Option<&TaskCx<'_>>,
    ) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for rec in self.store.chain(id).map_err(|e| lost_or(e, id))? {
            let dir = match rec.dir {
                Some(d) => d,
                None => self.materialise(&rec, &dirs, cx).map_err(|e| match e {
                    // Whoever asked knows the whole by its top.
                    SnapshotError::Lost(_) => SnapshotError::Lost(id),
                    e => e,
                })?,
            };
            dirs.insert(0, dir);
        }
        Ok(dirs)
    }

    /// A detached read-only mount of `id`.
    pub fn mount_read_only(
        &self,
        id: SnapshotId,
        cx: Option<&TaskCx<'_>>,
    ) -> Result<OwnedFd, SnapshotError> {
        let lowers = self.lowers(id, cx)?;
        overlay(&OverlaySpec {
            lowers: &lowers,
            upper: None,
            volatile: false,
            userxattr: self.host.userxattr,
        })
        .map_err(|source| SnapshotError::Mount { id, source })
    }

    /// Starts a layer on `base`.
    pub fn begin(
        &self,
        base: Option<SnapshotId>,
        cx: &TaskCx<'_>,
    ) -> Result<LayerInProgress<'_>, SnapshotError> {
        let lowers = match base {
            Some(id) => self.lowers(id, Some(cx))?,
            None => Vec::new(),
        };
        let prepared = self.store.prepare(self.lease)?;
        // The merged root shows the upper's own mode and owner.
        if let Some(top) = lowers.first() {
            copy_root_attributes(top, prepared.fs())
                .map_err(|source| SnapshotError::Root { source: source.into() })?;
        }
        Ok(LayerInProgress { store: self.store, host: self.host, base, lowers, prepared })
    }

    /// Unpacks a lazy layer, once on this machine.
    fn materialise(
        &self,
        rec: &SnapshotRecord,
        lowers: &[PathBuf],
        cx: Option<&TaskCx<'_>>,
    ) -> Result<PathBuf, SnapshotError> {
        let layer = rec.layer.as_ref().ok_or(SnapshotError::Lost(rec.id))?;
        let lock = self.store.key_lock(&format!("snapshot-{}", rec.id), &mut |wait| {
            if let (Some(cx), true) = (cx, wait.first) {
                let what = format!("it unpacks layer {}", layer.diff_id);
                cx.log(Stream::Stderr, waiting(&what, wait).as_bytes());
            }
            cx.is_none_or(|cx| !cx.cancel.is_cancelled())
        });
        let _lock = match lock {
            Err(StoreError::Cancelled) => return Err(SnapshotError::Cancelled),
            lock => lock?,
        };
        if let Some(SnapshotRecord { dir: Some(dir), .. }) = self.store.snapshot(rec.id)? {
            return Ok(dir);
        }
        let mut blobs = self.store.layer_blobs(&layer.diff_id)?;
        blobs.extend(layer.blob.clone());
        for blob in &blobs {
            let Some((file, _)) = self.store.open_blob(&blob.digest)? else { continue };
            let prepared = self.store.prepare(self.lease)?;
            match self.unpack(blob, layer.diff_id, Box::new(file), None, &prepared, lowers, cx) {
                Ok(()) => return self.finish(rec.id, prepared),
                Err(_) if stopped(cx) => return Err(SnapshotError::Cancelled),
                // Damaged since it was checked: it is forgotten and had from elsewhere.
                Err(_) if !self.is_whole(&blob.digest)? => {}
                Err(e) => return Err(e),
            }
        }
        for blob in &blobs {
            loop {
                let from = self
                    .provider
                    .open(blob)
                    .map_err(|source| SnapshotError::Read { blob: blob.digest, source })?;
                let Some(reader) = from else { break };
                let keep = self.store.blob_writer()?;
                let prepared = self.store.prepare(self.lease)?;
                let got =
                    self.unpack(blob, layer.diff_id, reader, Some(keep), &prepared, lowers, cx);
                match got {
                    Ok(()) => return self.finish(rec.id, prepared),
                    Err(_) if stopped(cx) => return Err(SnapshotError::Cancelled),
                    Err(e) if self.provider.distrust(blob, &crate::worker::report(&e)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Err(SnapshotError::Lost(rec.id))
    }

    /// Reads a blob to its end; one that is damaged is forgotten.
    fn is_whole(&self, digest: &BlobDigest) -> Result<bool, SnapshotError> {
        let Some(mut reader) = self.store.open_blob_verified(digest)? else { return Ok(false) };
        Ok(std::io::copy(&mut reader, &mut std::io::sink()).is_ok())
    }

    fn finish(&self, id: SnapshotId, prepared: Prepared) -> Result<PathBuf, SnapshotError> {
        self.store.materialise(id, prepared)?;
        match self.store.snapshot(id)? {
            Some(SnapshotRecord { dir: Some(dir), .. }) => Ok(dir),
            _ => Err(SnapshotError::Lost(id)),
        }
    }

    /// One pass: read, keep, hash, decompress, hash, unpack.
    #[expect(
        clippy::too_many_arguments,
        reason = "one pass over the bytes, all its ends are named"
    )]
    fn unpack(
        &self,
        blob: &BlobRef,
        want: DiffId,
        reader: Box<dyn Read + Send + '_>,
        mut keep: Option<rgraph_store::BlobWriter<'_>>,
        prepared: &Prepared,
        lowers: &[PathBuf],
        cx: Option<&TaskCx<'_>>,
    ) -> Result<(), SnapshotError> {
        let mut counted =
            Counted { inner: reader, keep: keep.as_mut(), seen: 0, told: 0, blob, cx };
        let opts = UnpackOptions {
            lowers: Some(lowers),
            userxattr: self.host.userxattr,
            ..UnpackOptions::default()
        };
        // Also what stands behind the compressed stream: it counts for the blob's digest.
        let (_, got) = unpack_blob(&mut counted, prepared.fs(), &opts)
            .map_err(|source| SnapshotError::Unpack { blob: blob.digest, source })?;
        drop(counted);
        if got != want {
            return Err(SnapshotError::DiffId { blob: blob.digest, want, got });
        }
        if let Some(keep) = keep {
            keep.commit(rgraph_store::Expect { digest: Some(blob.digest), size: Some(blob.size) })?;
        }
        Ok(())
    }
}

fn stopped(cx: Option<&TaskCx<'_>>) -> bool {
    cx.is_some_and(|cx| cx.cancel.is_cancelled())
}

fn lost_or(e: StoreError, id: SnapshotId) -> SnapshotError {
    match e {
        StoreError::NoSnapshot { .. } => SnapshotError::Lost(id),
        e => SnapshotError::Store(e),
    }
}

/// Gives the new root directory the mode and owner of the one below.
fn copy_root_attributes(from: &std::path::Path, to: &std::path::Path) -> rustix::io::Result<()> {
    let st = rustix::fs::stat(from)?;
    let flags =
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let dir = rustix::fs::open(to, flags, rustix::fs::Mode::empty())?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(st.st_uid), rustix::fs::Gid::from_raw(st.st_gid));
    rustix::fs::fchown(&dir, Some(uid), Some(gid))?;
    rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(st.st_mode & 0o7777))
}

/// Reads, keeps a copy, tells about progress, stops when the build stops.
struct Counted<'a, 's, 'c> {
    inner: Box<dyn Read + Send + 'a>,
    keep: Option<&'a mut rgraph_store::BlobWriter<'s>>,
    seen: u64,
    told: u64,
    blob: &'a BlobRef,
    cx: Option<&'a TaskCx<'c>>,
}

/// How often progress is told, bytes.
const PROGRESS_STEP: u64 = 4 << 20;

impl Read for Counted<'_, '_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Some(keep) = &mut self.keep {
            std::io::Write::write_all(*keep, &buf[..n])?;
        }
        self.seen += n as u64;
        if let Some(cx) = self.cx {
            if cx.cancel.is_cancelled() {
                return Err(std::io::Error::other("canceled"));
            }
            if self.seen >= self.told + PROGRESS_STEP || (n == 0 && self.told < self.seen) {
                self.told = self.seen;
                cx.emit(EventKind::Progress {
                    id: self.blob.digest.to_string(),
                    action: if self.keep.is_some() { "pulling" } else { "unpacking" },
                    current: self.seen,
                    total: self.blob.size,
                });
            }
        }
        Ok(n)
    }
}

/// A layer being written. Dropped without [`Self::commit`], it leaves nothing.
pub struct LayerInProgress<'a> {
    store: &'a Store,
    host: &'a Host,
    base: Option<SnapshotId>,
    /// What it stands on, top first.
    pub lowers: Vec<PathBuf>,
    /// Where it is written.
    pub prepared: Prepared,
}

impl LayerInProgress<'_> {
    /// A detached, writable mount of base and layer.
    pub fn mount(&self) -> Result<OwnedFd, TaskError> {
        let upper = Some((self.prepared.fs(), self.prepared.work()));
        let spec = OverlaySpec {
            lowers: &self.lowers,
            upper,
            volatile: true,
            userxattr: self.host.userxattr,
        };
        overlay(&spec)
            .map_err(|source| SnapshotError::Mount { id: SnapshotId(0), source }.into_task())
    }

    /// Makes it a snapshot. Every mount of it must be closed.
    pub fn commit(self, description: &str) -> Result<SnapshotId, TaskError> {
        let new =
            NewSnapshot { parent: self.base, layer: None, description: description.to_owned() };
        self.store
            .commit(self.prepared, new)
            .map_err(|e| TaskError::failed(SnapshotError::Store(e)))
    }
}
