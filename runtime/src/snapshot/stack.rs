//! What is mounted for a snapshot: the folders of its layers, without those that change nothing.
//!
//! The kernel pays for every folder at every mount and at every look-up of a name, and a Dockerfile
//! may have a hundred steps that write no file.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};

use rgraph_image::layer::shows_nothing;
use rgraph_ir::SnapshotId;
use rgraph_solver::TaskCx;

use super::{SnapshotError, Snapshots};

/// A folder on those below it.
#[derive(Debug)]
pub(super) struct Link {
    dir: PathBuf,
    /// `None`: it is the lowest.
    below: Option<Arc<Link>>,
    /// Whether it changes what is seen; looked at when it is first mounted.
    shows: OnceLock<bool>,
}

impl Link {
    fn new(dir: PathBuf, below: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { dir, below, shows: OnceLock::new() })
    }

    fn shows(&self, snapshots: &Snapshots<'_>) -> bool {
        let Some(below) = &self.below else { return true };
        // What cannot be looked at fails where it is used, with its name.
        let look = || !shows_nothing(&self.dir, &below.dir, snapshots.host.owners).unwrap_or(false);
        *self.shows.get_or_init(look)
    }
}

/// As a chain can be longer than a thread's stack.
impl Drop for Link {
    fn drop(&mut self) {
        let mut next = self.below.take();
        while let Some(link) = next {
            next = Arc::into_inner(link).and_then(|mut link| link.below.take());
        }
    }
}

impl Snapshots<'_> {
    fn stacks(&self) -> MutexGuard<'_, HashMap<SnapshotId, Arc<Link>>> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directories of `id` that show something, top first, all on disk; at least one.
    pub(crate) fn stacked(
        &self,
        id: SnapshotId,
        cx: Option<&TaskCx<'_>>,
    ) -> Result<Vec<PathBuf>, SnapshotError> {
        if let Some(top) = self.linked(id)? {
            let shown = self.shown(&top);
            if shown.iter().all(|dir| dir.symlink_metadata().is_ok()) {
                return Ok(shown);
            }
        }
        let dirs = self.lowers(id, cx)?.into_iter().rev();
        let Some(top) = dirs.fold(None, |below, dir| Some(Link::new(dir, below))) else {
            return Ok(Vec::new());
        };
        let shown = self.shown(&top);
        self.stacks().insert(id, top);
        Ok(shown)
    }

    /// The links of `id`, of which those that are not known yet are looked up. `None`: some folder is
    /// not on disk, or nobody knows whether it can be trusted.
    fn linked(&self, id: SnapshotId) -> Result<Option<Arc<Link>>, SnapshotError> {
        let known = self.stacks().get(&id).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let known = |id| self.stacks().contains_key(&id);
        let Some(new) = self.store.intact_above(id, &known)? else { return Ok(None) };
        let mut stacks = self.stacks();
        let below = new.last().and_then(|r| r.parent);
        let mut top = below.and_then(|id| stacks.get(&id).cloned());
        for r in new.into_iter().rev() {
            let Some(dir) = r.dir else { return Ok(None) };
            top = Some(stacks.entry(r.id).or_insert_with(|| Link::new(dir, top)).clone());
        }
        Ok(top)
    }

    fn shown(&self, top: &Link) -> Vec<PathBuf> {
        let links = std::iter::successors(Some(top), |link| link.below.as_deref());
        links.filter(|link| link.shows(self)).map(|link| link.dir.clone()).collect()
    }

    /// Remembers a layer that was made on `base`.
    pub(super) fn made(&self, id: SnapshotId, base: Option<SnapshotId>) {
        let dir = self.store.layout().snapshot(id).join("fs");
        let mut stacks = self.stacks();
        let below = match base {
            Some(base) => match stacks.get(&base) {
                Some(link) => Some(link.clone()),
                None => return,
            },
            None => None,
        };
        stacks.insert(id, Link::new(dir, below));
    }
}
