//! File system states: a stack of overlay upper directories, each one layer.
//!
//! A snapshot is committed by a rename and never written again. One that is known only by its layer
//! (images of registries, imported caches) gets its directory when something has to read it
//! (`snapshot/unpack.rs`), while its bytes come (`snapshot/bring.rs`).

mod bring;
mod flat;
pub mod fuse;
mod stack;
mod unpack;

use std::collections::HashMap;
use std::io::Read;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rgraph_image::layer::{MergedLayers, Owners};
use rgraph_ir::{BlobDigest, DiffId, SnapshotId};
use rgraph_solver::{TaskCx, TaskError};
use rgraph_store::{BlobRef, Lease, NewSnapshot, Part, Prepared, Store, StoreError};
use rgraph_sys::mount::{self, MountError, OverlaySpec, overlay};

use crate::host::{Decided, Host, Snapshotter};
use crate::sandbox::{MountSource, Rootfs, Union};
use crate::tree::TreeError;
use flat::Flat;
use fuse::{FuseError, FuseMount, Layers};
use stack::Link;

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
    /// The program that stands in for overlayfs.
    #[error("cannot mount layers by fuse-overlayfs")]
    Fuse(#[from] FuseError),
    /// A copy of layers, or what was changed in one.
    #[error("cannot copy layers")]
    Copy(#[source] TreeError),
    /// A layer below could not be looked through.
    #[error("cannot look through the layers below")]
    Look(#[source] std::io::Error),
    /// What the program wrote.
    #[error("cannot look at the layers below")]
    Below(#[source] rgraph_image::layer::LayerError),
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
    /// Copies that are read, as long as this is.
    copies: Mutex<HashMap<SnapshotId, Arc<Flat>>>,
    /// What was asked for or made, as long as this is.
    stacks: Mutex<HashMap<SnapshotId, Arc<Link>>>,
}

impl From<TreeError> for SnapshotError {
    fn from(e: TreeError) -> Self {
        match e {
            TreeError::Cancelled => Self::Cancelled,
            e => Self::Copy(e),
        }
    }
}

/// A detached read-only mount of a snapshot, and what it needs to be there.
pub struct Mounted {
    mount: OwnedFd,
    _behind: Behind,
}

/// What a mount stands on beside the layers.
enum Behind {
    Nothing,
    Program { _mount: FuseMount },
    Copy { _flat: Arc<Flat> },
}

/// A folder that needs nothing else.
impl From<OwnedFd> for Mounted {
    fn from(mount: OwnedFd) -> Self {
        Self { mount, _behind: Behind::Nothing }
    }
}

impl Deref for Mounted {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.mount
    }
}

impl AsFd for Mounted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl<'a> Snapshots<'a> {
    /// A view of the store's snapshots; layers that are missing come from `provider`.
    pub fn new(
        store: &'a Store,
        host: &'a Host,
        provider: &'a dyn LayerProvider,
        lease: &'a Lease,
    ) -> Self {
        let (copies, stacks) = Default::default();
        Self { store, host, provider, lease, copies, stacks }
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
    ) -> Result<Mounted, SnapshotError> {
        let lowers = self.stacked(id, cx)?;
        let at = |source| SnapshotError::Mount { id, source };
        // One folder needs nobody to lay it over others.
        let alone = lowers.len() == 1;
        match self.decided().snapshotter {
            Snapshotter::FuseOverlayfs if !alone => {
                let program = FuseMount::start(&Layers { lowers: &lowers, upper: None })?;
                let mount = program.mount_again().map_err(at)?;
                Ok(Mounted { mount, _behind: Behind::Program { _mount: program } })
            }
            Snapshotter::Native if !alone => {
                let flat = self.copy(id, &lowers, cx)?;
                let mount = mount::read_only(flat.path()).map_err(at)?;
                Ok(Mounted { mount, _behind: Behind::Copy { _flat: flat } })
            }
            _ => {
                let mount = overlay(&OverlaySpec {
                    lowers: &lowers,
                    upper: None,
                    volatile: false,
                    userxattr: self.host.userxattr,
                })
                .map_err(at)?;
                Ok(mount.into())
            }
        }
    }

    /// How layers are laid over each other here.
    pub fn decided(&self) -> &Decided {
        self.host.snapshotter(|| self.store.prepare(self.lease))
    }

    /// Who lays these folders over each other for somebody who writes.
    fn for_writing(&self, lowers: &[PathBuf]) -> Result<Snapshotter, SnapshotError> {
        Ok(match self.decided().snapshotter {
            Snapshotter::FuseOverlayfs
                if fuse::has_several_names(lowers).map_err(SnapshotError::Look)? =>
            {
                Snapshotter::Native
            }
            other => other,
        })
    }

    /// A copy of a snapshot to be read; made once.
    fn copy(
        &self,
        id: SnapshotId,
        lowers: &[PathBuf],
        cx: Option<&TaskCx<'_>>,
    ) -> Result<Arc<Flat>, SnapshotError> {
        let known = || {
            let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            copies.get(&id).cloned()
        };
        if let Some(flat) = known() {
            return Ok(flat);
        }
        let cancelled = || cx.is_some_and(|cx| cx.cancel.is_cancelled());
        let folder = self.store.prepare(self.lease)?;
        let flat = Flat::read_only(folder, lowers, self.host.userxattr, &cancelled)?;
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(copies.entry(id).or_insert_with(|| Arc::new(flat)).clone())
    }

    /// A snapshot as a source of mounts in a step, and what has to live as long as the step; read-only,
    /// or what is written goes nowhere. `None`: an empty folder. `fds`: what goes with the step.
    pub(crate) fn source(
        &self,
        id: Option<SnapshotId>,
        write: bool,
        cx: &TaskCx<'_>,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(MountSource, Vec<Scratch>), SnapshotError> {
        let lowers = match id {
            Some(id) => self.stacked(id, Some(cx))?,
            None => Vec::new(),
        };
        let userxattr = self.host.userxattr;
        let snapshotter = match (lowers.len(), write) {
            (0, _) | (1, false) => Snapshotter::Overlayfs,
            (_, false) => self.decided().snapshotter,
            (_, true) => self.for_writing(&lowers)?,
        };
        let cancelled = || cx.cancel.is_cancelled();
        Ok(match (snapshotter, id) {
            (Snapshotter::Native, Some(id)) if !write => {
                let flat = self.copy(id, &lowers, Some(cx))?;
                (MountSource::Path(flat.path().to_owned()), vec![Scratch::Copy { _flat: flat }])
            }
            (Snapshotter::Native, _) => {
                let folder = self.store.prepare(self.lease)?;
                let flat = Arc::new(Flat::to_work_in(folder, &lowers, userxattr, &cancelled)?);
                (MountSource::Path(flat.path().to_owned()), vec![Scratch::Copy { _flat: flat }])
            }
            (snapshotter, _) => {
                let mut held = Vec::new();
                let scratch = match write || lowers.is_empty() {
                    true => Some(self.store.prepare(self.lease)?),
                    false => None,
                };
                let dirs = scratch.as_ref().map(|p| (p.fs().to_owned(), p.work().to_owned()));
                let source = match snapshotter {
                    Snapshotter::FuseOverlayfs => {
                        let upper = dirs.as_ref().map(|(u, w)| (u.as_path(), w.as_path()));
                        let program = FuseMount::start(&Layers { lowers: &lowers, upper })?;
                        let mount = program
                            .mount_again()
                            .map_err(|source| SnapshotError::Mount { id: SnapshotId(0), source })?;
                        fds.push(mount);
                        held.push(Scratch::Program { _mount: program });
                        MountSource::Fd(fds.len() - 1)
                    }
                    _ => MountSource::Overlay { lowers, upper: dirs, userxattr },
                };
                held.extend(scratch.map(|p| Scratch::Folder { _prepared: p }));
                (source, held)
            }
        })
    }

    /// Starts a layer on `base`.
    pub fn begin(
        &self,
        base: Option<SnapshotId>,
        cx: &TaskCx<'_>,
    ) -> Result<LayerInProgress<'_>, SnapshotError> {
        let lowers = match base {
            Some(id) => self.stacked(id, Some(cx))?,
            None => Vec::new(),
        };
        let prepared = self.store.prepare(self.lease)?;
        // The merged root shows the upper's own mode and owner.
        if let Some(top) = lowers.first() {
            copy_root_attributes(top, prepared.fs(), self.host.owners)
                .map_err(|source| SnapshotError::Root { source })?;
        }
        Ok(LayerInProgress { snapshots: self, base, lowers, prepared, view: OnceLock::new() })
    }
}

/// What lives as long as a step that looks at it.
pub(crate) enum Scratch {
    /// A folder.
    Folder {
        /// Gone with this.
        _prepared: Prepared,
    },
    /// A mount.
    Program {
        /// Gone with this.
        _mount: FuseMount,
    },
    /// A copy.
    Copy {
        /// Gone with this and all others who look at it.
        _flat: Arc<Flat>,
    },
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
    snapshots: &'a Snapshots<'a>,
    base: Option<SnapshotId>,
    /// What it stands on and shows something, top first.
    pub lowers: Vec<PathBuf>,
    /// Where it is written.
    pub prepared: Prepared,
    /// Base and layer as one, where it is not the kernel that makes it.
    view: OnceLock<View>,
}

enum View {
    Program(FuseMount),
    Copy(Flat),
}

impl LayerInProgress<'_> {
    /// Makes one tree of base and layer, with `below` below both. `None`: the kernel does, when it is
    /// mounted.
    fn view(&self, below: Option<&Path>, cx: &TaskCx<'_>) -> Result<Option<&View>, SnapshotError> {
        if let Some(view) = self.view.get() {
            return Ok(Some(view));
        }
        if self.lowers.is_empty() {
            // There is one tree already.
            return Ok(None);
        }
        let snapshotter = self.snapshots.for_writing(&self.lowers)?;
        let mut lowers = self.lowers.clone();
        lowers.extend(below.map(Path::to_owned));
        let view = match snapshotter {
            Snapshotter::Overlayfs => return Ok(None),
            Snapshotter::FuseOverlayfs => {
                let upper = Some((self.prepared.fs(), self.prepared.work()));
                View::Program(FuseMount::start(&Layers { lowers: &lowers, upper })?)
            }
            Snapshotter::Native => {
                let Snapshots { store, host, lease, .. } = self.snapshots;
                let cancelled = || cx.cancel.is_cancelled();
                let folder = store.prepare(lease)?;
                View::Copy(Flat::to_work_in(folder, &lowers, host.userxattr, &cancelled)?)
            }
        };
        Ok(Some(self.view.get_or_init(|| view)))
    }

    /// A detached, writable mount of base and layer.
    pub fn mount(&self, cx: &TaskCx<'_>) -> Result<OwnedFd, TaskError> {
        let mounted = match self.view(None, cx).map_err(SnapshotError::into_task)? {
            Some(View::Program(program)) => program.mount_again(),
            Some(View::Copy(flat)) => mount::clone_path(flat.path(), false),
            None => overlay(&OverlaySpec {
                lowers: &self.lowers,
                upper: Some((self.prepared.fs(), self.prepared.work())),
                volatile: true,
                userxattr: self.snapshots.host.userxattr,
            }),
        };
        mounted.map_err(|source| SnapshotError::Mount { id: SnapshotId(0), source }.into_task())
    }

    /// Base and layer as the root of a step, with `below` below both. `fds`: what goes with the step.
    pub fn rootfs(
        &self,
        below: Option<PathBuf>,
        cx: &TaskCx<'_>,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<Rootfs, SnapshotError> {
        let host = self.snapshots.host;
        let rootfs = Rootfs {
            lowers: self.lowers.clone(),
            upper: self.prepared.fs().to_owned(),
            work: self.prepared.work().to_owned(),
            union: Union::Kernel,
            userxattr: host.userxattr,
            owners: host.owners,
            below: below.clone(),
        };
        Ok(match self.view(below.as_deref(), cx)? {
            None => rootfs,
            Some(View::Program(program)) => {
                let id = SnapshotId(0);
                let at = |source| SnapshotError::Mount { id, source };
                fds.push(program.mount_again().map_err(at)?);
                Rootfs { union: Union::Mounted(fds.len() - 1), ..rootfs }
            }
            // A plain folder: it needs no mount of its own.
            Some(View::Copy(flat)) => {
                Rootfs { lowers: Vec::new(), upper: flat.path().to_owned(), below: None, ..rootfs }
            }
        })
    }

    /// Whether files that are put into the upper folder behind the mount's back become part of the layer.
    pub fn is_written_directly(&self) -> bool {
        self.lowers.is_empty() || self.snapshots.decided().snapshotter == Snapshotter::Overlayfs
    }

    /// It becomes no snapshot: what has to live as long as somebody works in it.
    pub(crate) fn into_scratch(self) -> Vec<Scratch> {
        let mut held = Vec::new();
        held.extend(self.view.into_inner().map(|view| match view {
            View::Program(program) => Scratch::Program { _mount: program },
            View::Copy(flat) => Scratch::Copy { _flat: Arc::new(flat) },
        }));
        held.push(Scratch::Folder { _prepared: self.prepared });
        held
    }

    /// Makes it a snapshot. Every mount of it must be closed.
    pub fn commit(self, description: &str) -> Result<SnapshotId, TaskError> {
        let Self { snapshots, base, lowers, prepared, view } = self;
        let userxattr = snapshots.host.userxattr;
        match view.into_inner() {
            None => {}
            Some(View::Program(program)) => {
                settle(program, &prepared, &lowers, userxattr).map_err(SnapshotError::into_task)?
            }
            Some(View::Copy(flat)) => {
                flat.changes_into(prepared.fs()).map_err(|e| SnapshotError::from(e).into_task())?
            }
        }
        let new = NewSnapshot { parent: base, layer: None, description: description.to_owned() };
        let id = snapshots
            .store
            .commit(prepared, new)
            .map_err(|e| TaskError::failed(SnapshotError::Store(e)))?;
        snapshots.made(id, base);
        Ok(id)
    }
}

/// What the program wrote, as overlayfs would have.
fn settle(
    program: FuseMount,
    prepared: &Prepared,
    lowers: &[PathBuf],
    userxattr: bool,
) -> Result<(), SnapshotError> {
    program.end()?;
    let below = MergedLayers::open(lowers, userxattr).map_err(SnapshotError::Below)?;
    Ok(fuse::to_overlayfs_form(prepared.fs(), &below, userxattr)?)
}
