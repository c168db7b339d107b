//! A cache from outside, as one of the caches a build asks. It is untrusted: what does not fit is
//! rejected with a warning, and its step runs.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rgraph_ir::op::Selector;
use rgraph_ir::request::PublicKey;
use rgraph_ir::{BlobDigest, CacheKey, DiffId, Op, Platform, TreeDigest};
use rgraph_solver::explain::Elsewhere;
use rgraph_solver::{CacheError, Hit, Origin, Query, Timestamp};
use rgraph_store::{BlobRef, LayerInfo, NewSnapshot, ResultRow, Store};

use super::entry::{Content, LayerFile, RecordFile};
use super::sign::Trust;
use super::wire::{recipe_to_bytes, selector_digest};

/// Most warnings of one cache.
const MAX_WARNINGS: usize = 100;

/// Where entries and blobs of a cache come from. An `Err` is why something is not taken.
pub trait Entries: Sync {
    /// Names the cache.
    fn name(&self) -> String;

    /// What is wrong with the cache as a whole, as far as that is known.
    fn problem(&self) -> Option<String>;

    /// The record of a key, unchecked.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn record(&self, key: CacheKey) -> Result<Option<RecordFile>, String>;

    /// The digest of a part of the result of a key, unchecked.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn content(&self, key: CacheKey, selector: TreeDigest) -> Result<Option<Content>, String>;

    /// For which platforms other than `own` a step is known, whatever it runs on.
    fn platforms(&self, _op: &Op, _own: Option<&Platform>) -> Vec<String> {
        Vec::new()
    }

    /// The blob of a layer that a record names without one.
    fn blob_of(&self, _layer: DiffId) -> Option<BlobRef> {
        None
    }

    /// Whether a blob that a record names is there, as far as that costs next to nothing.
    ///
    /// # Errors
    /// It is there and is none.
    fn has_blob(&self, blob: &BlobRef) -> Result<bool, String>;

    /// Opens a blob. Its bytes are the reader's to check.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn open_blob(&self, blob: &BlobRef) -> Result<Option<Box<dyn Read + Send + '_>>, String>;
}

/// See the module.
pub struct Import<'a> {
    entries: Box<dyn Entries + 'a>,
    store: &'a Store,
    trust: Trust,
    /// To be told, each once.
    warnings: Mutex<Warnings>,
    /// Blobs that were not what a record says.
    bad: Mutex<BTreeSet<BlobDigest>>,
}

#[derive(Default)]
struct Warnings {
    told: BTreeSet<String>,
    new: Vec<String>,
}

fn guard<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Import<'a> {
    /// A cache whose hits go into `store`. With keys only entries they signed count.
    pub fn new(entries: Box<dyn Entries + 'a>, store: &'a Store, keys: &[PublicKey]) -> Self {
        let (warnings, bad) = (Mutex::default(), Mutex::default());
        Self { entries, store, trust: Trust::new(keys), warnings, bad }
    }

    /// Warnings since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        if let Some(problem) = self.entries.problem() {
            self.warn(problem);
        }
        std::mem::take(&mut guard(&self.warnings).new)
    }

    fn warn(&self, text: String) {
        let mut w = guard(&self.warnings);
        if w.told.len() < MAX_WARNINGS && w.told.insert(text.clone()) {
            w.new.push(text);
        }
    }

    fn reject<T>(&self, what: &str, why: impl std::fmt::Display) -> Option<T> {
        self.warn(format!("cache entry {what} rejected: {why}"));
        None
    }

    /// Is told that a blob is not what a record says it is.
    pub fn distrust(&self, blob: &BlobRef, why: &str) {
        if guard(&self.bad).insert(blob.digest) {
            self.reject::<()>(&blob.digest.short(), why);
        }
    }

    /// Whether a blob turned out to be another one, or to be gone.
    pub fn is_bad(&self, blob: &BlobDigest) -> bool {
        guard(&self.bad).contains(blob)
    }

    /// Opens a blob. Its bytes are the reader's to check.
    pub fn open_blob(&self, blob: &BlobRef) -> Option<Box<dyn Read + Send + '_>> {
        if self.is_bad(&blob.digest) {
            return None;
        }
        match self.entries.open_blob(blob) {
            Ok(found) => found,
            Err(why) => {
                self.distrust(blob, &why);
                None
            }
        }
    }

    fn has_blob(&self, blob: &BlobRef) -> bool {
        if self.is_bad(&blob.digest) {
            return false;
        }
        let found = self.entries.has_blob(blob);
        found.unwrap_or_else(|why| {
            self.distrust(blob, &why);
            false
        })
    }

    fn record(&self, key: CacheKey) -> Option<RecordFile> {
        let found = match self.entries.record(key) {
            Ok(found) => found?,
            Err(why) => return self.reject(&key.short(), why),
        };
        match found.check(key, &self.trust) {
            Ok(()) => Some(found),
            Err(why) => self.reject(&key.short(), why),
        }
    }

    /// The result of a key. What is found is noted in the store: its layers by name, bytes later.
    ///
    /// # Errors
    /// The store's.
    pub fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        let Some(rec) = self.record(q.key) else { return Ok(None) };
        let failed = |e| CacheError(Box::new(e));
        let blob_of = |l: &LayerFile| match &l.blob {
            Some(b) => Some(BlobRef::from(b)),
            None => self.entries.blob_of(l.diff_id),
        };
        let layers: Vec<_> = rec.layers.iter().map(|l| (l.diff_id, blob_of(l))).collect();
        // Keys first: a hit is good only when every layer can be had later.
        for (diff_id, blob) in &layers {
            let mut here = false;
            for b in self.store.layer_blobs(diff_id).map_err(failed)? {
                here = here || self.store.has_blob(&b.digest).map_err(failed)?;
            }
            if !here && !blob.as_ref().is_some_and(|b| self.has_blob(b)) {
                return Ok(None);
            }
        }
        let mut parent = None;
        for (diff_id, blob) in layers {
            let layer = LayerInfo { diff_id, tar_size: None, blob };
            let new =
                NewSnapshot { parent, layer: Some(layer), description: rec.description.clone() };
            parent = Some(self.store.add_lazy(new).map_err(failed)?);
        }
        let outputs: Vec<_> = parent.into_iter().collect();
        self.store
            .put_result(&ResultRow {
                key: rec.key,
                canonical: rec.canonical,
                op: q.recipe.op,
                outputs: outputs.clone(),
                recipe: recipe_to_bytes(q.recipe),
                slot: String::new(),
                tree: None,
                created: rec.created,
                took: None,
            })
            .map_err(failed)?;
        let origin = Origin::Imported(self.entries.name());
        Ok(Some(Hit { outputs, canonical: rec.canonical, origin }))
    }

    /// When the result of a key was made; 0: nobody knows.
    pub fn created(&self, key: CacheKey) -> Option<Timestamp> {
        self.record(key).map(|r| Timestamp::from_seconds(r.created))
    }

    /// For which other platforms a step that was never built here is known. Nobody signs that, so with
    /// keys nothing is believed.
    pub fn elsewhere(&self, op: &Op, platform: Option<&Platform>) -> Vec<Elsewhere> {
        if !self.trust.is_blind() {
            return Vec::new();
        }
        let one = |platform| Elsewhere { cache: Some(self.entries.name()), platform };
        self.entries.platforms(op, platform).into_iter().map(one).collect()
    }

    /// What a part of the result of a key is.
    pub fn content(&self, key: CacheKey, sel: &Selector) -> Option<TreeDigest> {
        let selector = TreeDigest::from_bytes(selector_digest(sel));
        let found = match self.entries.content(key, selector) {
            Ok(found) => found?,
            Err(why) => return self.reject(&key.short(), why),
        };
        match found.check(key, selector, &self.trust) {
            Ok(()) => Some(found.digest),
            Err(why) => self.reject(&key.short(), why),
        }
    }
}
