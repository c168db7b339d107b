//! File system states: a stack of overlay upper directories, each one layer.
//!
//! A snapshot is committed by a rename and never written again. One that is known only by its layer
//! (images of registries, imported caches) gets its directory when something has to read it
//! (`snapshot/unpack.rs`), while its bytes come (`snapshot/bring.rs`).

mod bring;
mod unpack;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rgraph_image::layer::Owners;
use rgraph_ir::{BlobDigest, DiffId, SnapshotId};
use rgraph_solver::{TaskCx, TaskError};
use rgraph_store::{BlobRef, Lease, NewSnapshot, Part, Prepared, Store, StoreError};
use rgraph_sys::mount::{MountError, OverlaySpec, overlay};

use crate::host::Host;

pub(crate) use bring::bring;
pub(crate) use unpack::Unpacking;

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
    /// Opens a blob somewhere outside; `None`: nobody here knows it. The reader gives all of it from
    /// the first byte, and fails at its end with the kind `InvalidData` when size or digest are not
    /// those of `blob`. `front`: what an earlier try brought, which need not be asked for again.
    fn open(
        &self,
        blob: &BlobRef,
        front: Option<Part>,
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

    /// Where they are.
    pub(crate) fn store(&self) -> &'a Store {
        self.store
    }

    /// The host they are mounted on.
    pub(crate) fn host(&self) -> &'a Host {
        self.host
    }

    /// The directories of `id`, top first, all on disk.
    pub fn lowers(
        &self,
        id: SnapshotId,
        cx: Option<&TaskCx<'_>>,
    ) -> Result<Vec<PathBuf>, SnapshotError> {
        let cancelled = || cx.is_some_and(|cx| cx.cancel.is_cancelled());
        self.unpacked(id, &Unpacking { cx, cancelled: &cancelled, done: &|_| {} })
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
            copy_root_attributes(top, prepared.fs(), self.host.owners)
                .map_err(|source| SnapshotError::Root { source })?;
        }
        Ok(LayerInProgress { store: self.store, host: self.host, base, lowers, prepared })
    }
}

fn lost_or(e: StoreError, id: SnapshotId) -> SnapshotError {
    match e {
        StoreError::NoSnapshot { .. } => SnapshotError::Lost(id),
        e => SnapshotError::Store(e),
    }
}

/// Gives the new root directory the mode and owner of the one below.
pub(crate) fn copy_root_attributes(
    from: &std::path::Path,
    to: &std::path::Path,
    owners: Owners,
) -> std::io::Result<()> {
    let flags =
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let open = |path| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    let (from, to) = (open(from)?, open(to)?);
    let st = rustix::fs::fstat(&from)?;
    let (uid, gid) = owners.recorded(&from)?.unwrap_or((st.st_uid, st.st_gid));
    owners.give(&to, uid, gid)?;
    Ok(rustix::fs::fchmod(&to, rustix::fs::Mode::from_raw_mode(st.st_mode & 0o7777))?)
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
