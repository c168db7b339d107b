//! Layers of an image laid over each other into one, on top of the base.
//!
//! The one layer is in overlayfs's form like any other. Its files are further names of the earlier
//! layers' files, which are never written again, so nothing is copied. A mark that deletes something
//! stays only where the base has that.

use std::borrow::Cow;

use rgraph_ir::request::{OutputSpec, Squash};
use rgraph_ir::{HistoryEntry, SnapshotId, Target, VertexId};
use rgraph_solver::{TaskCx, TaskError};
use rustix::fs::{Mode, OFlags};

use super::{ExportError, Exporter};
use crate::snapshot::SnapshotError;
use crate::tree::TreeError;
use crate::tree::lay::{Files, Lay};

/// A target whose layers are as they are to be.
pub(super) struct Squashed<'a> {
    pub target: Cow<'a, Target>,
    pub top: Option<SnapshotId>,
    /// When its newest layer was made, before it was laid together: seconds since 1970.
    pub created: Option<i64>,
}

impl Exporter<'_> {
    /// Lays the layers of a target together as far as that was asked for.
    pub(super) fn squashed<'t>(
        &self,
        target: &'t Target,
        top: Option<SnapshotId>,
    ) -> Result<Squashed<'t>, ExportError> {
        let same = Squashed { target: Cow::Borrowed(target), top, created: None };
        let is_image = |o: &OutputSpec| {
            !matches!(o, OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly)
        };
        let outputs = &self.export.outputs;
        let wanted = outputs.is_empty() || outputs.iter().any(is_image);
        let (Some(top), true) = (top, wanted) else { return Ok(same) };
        let below = match self.export.squash {
            Squash::No => return Ok(same),
            Squash::Own => target.base.layers,
            Squash::All => 0,
        };
        let chain = self.store.chain(top)?;
        let layers = chain.len().saturating_sub(below);
        let (true, Some(root)) = (layers > 1, target.root) else { return Ok(same) };
        let base = below.checked_sub(1).and_then(|n| chain.get(n)).map(|r| r.id);
        let made = self.lay(base, top, layers, root.vertex)?;
        self.say(&format!("made one layer of {layers}"));
        let mut target = target.clone();
        for h in &mut target.history {
            h.layer = None;
        }
        if self.export.squash == Squash::All {
            target.base.layers = 0;
            for h in &mut target.base.history {
                h.empty_layer = true;
            }
        }
        target.history.push(HistoryEntry {
            created_by: String::new(),
            comment: format!("merge of {layers} layers").into(),
            author: None,
            layer: Some(root),
            span: None,
        });
        let created = chain.iter().map(|r| r.created).max();
        Ok(Squashed { target: Cow::Owned(target), top: Some(made), created })
    }

    /// The topmost `layers` layers of `top` as one on `base`.
    fn lay(
        &self,
        base: Option<SnapshotId>,
        top: SnapshotId,
        layers: usize,
        vertex: VertexId,
    ) -> Result<SnapshotId, ExportError> {
        let failed = |e: TaskError| match e {
            TaskError::Lost(id) => SnapshotError::Lost(id).into(),
            TaskError::Cancelled => ExportError::Cancelled,
            e => ExportError::Squash(crate::worker::report(&e)),
        };
        let cx = TaskCx { vertex, cancel: self.cancel, sink: &(), clock: self.clock };
        let below = match base {
            Some(id) => Some(self.snapshots.mount_read_only(id, None)?),
            None => None,
        };
        let made = self.snapshots.begin(base, &cx)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let to = rustix::fs::open(made.prepared.fs(), flags, Mode::empty())
            .map_err(TreeError::io("open", "layer"))?;
        let cancelled = || self.cancel.is_cancelled();
        let userxattr = self.host.userxattr;
        let lay = Lay { files: Files::Linked, userxattr, cancelled: &cancelled };
        for dir in self.snapshots.lowers(top, None)?.iter().take(layers).rev() {
            lay.layer(dir, &to, below.as_deref()).map_err(|e| match e {
                TreeError::Cancelled => ExportError::Cancelled,
                e => e.into(),
            })?;
        }
        drop((below, to));
        made.commit("layers in one").map_err(failed)
    }
}
