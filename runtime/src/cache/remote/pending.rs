//! What writers of one cache are about to add, said beside it before they touch it.
//!
//! A registry replaces what a tag means, whatever it meant: a writer that read the cache's list before
//! another one added to it takes that away again, and the other one may be gone by then. So each
//! writer first puts the names of its batches under one of a few tags beside the cache's, and
//! after each push of the list looks at all of them: what is named there and missing in the list is
//! brought back. A tag holds the newest [`KEPT`] batches that came to it, those of writers that are
//! gone included; nothing is ever removed otherwise.
//!
//! Whoever comes last sees everybody: for the list to lose a batch, its writer must have looked for it
//! there and left before the push that takes it away, hence it was named before that push, and whoever
//! pushed looks at the names afterwards. Readers look at the list alone.
//!
//! Two writers may name their batches under one tag within a request of each other, and the names of
//! the first are gone. So each looks whether its own are still there after the push, and one that met
//! others stays a while after its last push and looks again. A writer whose request takes longer than
//! that on its way, to the tag of one that has left, while a third one pushes an older list, can still
//! take an entry away: without a condition on a push no number of tags excludes it. What is lost then
//! is a hit.

use std::collections::{BTreeMap, BTreeSet};

use rgraph_ir::BlobDigest;

use crate::beside::side_by_side;
use crate::cache::artifact::{Form, Found, Listing};
use crate::cache::entry::BlobFile;
use crate::fetch::repository::{Repository, RepositoryError};

/// Tags beside the cache's.
const SLOTS: usize = 8;
/// Batches under one of them.
const KEPT: usize = 32;

/// See the module.
pub(super) struct Pending<'a> {
    slots: Vec<Repository<'a>>,
    form: Form,
    /// The tag of this writer.
    own: usize,
}

/// What is named under each tag; `None`: nothing, or no names.
type Named = Vec<Option<Listing>>;

impl<'a> Pending<'a> {
    /// The tags beside the one that `repo` names; `None` when it names a digest.
    pub fn beside(repo: &Repository<'a>, form: Form) -> Option<Self> {
        let slot = |n| repo.beside(&format!("rgraph-{n}"));
        let slots = (0..SLOTS).map(slot).collect::<Option<_>>()?;
        let now = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() as usize / 1000;
        let own = now.wrapping_add(std::process::id() as usize) % SLOTS;
        Some(Self { slots, form, own })
    }

    fn read(&self) -> Result<Named, RepositoryError> {
        let one = |repo: &Repository<'_>| match repo.manifest() {
            Ok(m) => Ok(match Found::parse(&m.bytes) {
                Ok(Found::Listing(l)) => Some(l),
                _ => None,
            }),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        };
        side_by_side(&self.slots, SLOTS, &one).into_iter().collect()
    }

    /// All batches that are named.
    pub fn all(&self) -> Result<BTreeMap<BlobDigest, BlobFile>, RepositoryError> {
        let batches = self.read()?.into_iter().flatten().flat_map(|l| l.batches);
        Ok(batches.map(|b| (b.digest, b)).collect())
    }

    /// Goes on to another tag.
    pub fn turn(&mut self) {
        self.own = (self.own + 1) % SLOTS;
    }

    /// Names batches, in the place of `earlier` ones, under one of the tags.
    pub fn name(
        &self,
        batches: &[BlobFile],
        earlier: &BTreeSet<BlobDigest>,
    ) -> Result<(), RepositoryError> {
        let slot = &self.slots[self.own];
        let mut list = match slot.manifest() {
            Ok(m) => match Found::parse(&m.bytes) {
                Ok(Found::Listing(l)) => l,
                _ => Listing::default(),
            },
            Err(e) if e.is_not_found() => Listing::default(),
            Err(e) => return Err(e),
        };
        let own = |d: &BlobDigest| earlier.contains(d) || batches.iter().any(|b| b.digest == *d);
        list.batches.retain(|b| !own(&b.digest));
        list.batches.extend_from_slice(batches);
        let over = list.batches.len().saturating_sub(KEPT.max(batches.len()));
        list.batches.drain(..over);
        match self.put(slot, list) {
            // It names what the registry has lost.
            Err(e) if e.is_refused() => self.put(slot, only(batches)),
            put => put,
        }
    }

    /// Forgets all names but those of `batches`.
    pub fn reset(&self, batches: &[BlobFile]) -> Result<(), RepositoryError> {
        for (slot, named) in self.slots.iter().zip(self.read()?) {
            if named.is_some() {
                self.put(slot, only(batches))?;
            }
        }
        Ok(())
    }

    fn put(&self, slot: &Repository<'_>, list: Listing) -> Result<(), RepositoryError> {
        let (bytes, media_type) = list.to_json(self.form);
        slot.push_manifest(media_type, &bytes).map(drop)
    }
}

fn only(batches: &[BlobFile]) -> Listing {
    Listing { batches: batches.to_vec(), ..Listing::default() }
}
