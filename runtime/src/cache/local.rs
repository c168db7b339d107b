//! Results in the local store.

use rgraph_ir::fields::{FieldVisitor, KeyHasher, Value};
use rgraph_ir::op::Selector;
use rgraph_ir::{CacheKey, SnapshotId, TreeDigest};
use rgraph_solver::key::{InputKey, KeyRecipe, Slot};
use rgraph_solver::{CacheError, Hit, Origin, Query, Record, ResultCache};
use rgraph_store::{ResultRow, Store, StoreError};

use super::wire::{recipe_from_bytes, recipe_to_bytes, selector_digest};
use crate::context;

/// See the module.
pub struct LocalCache<'a> {
    store: &'a Store,
}

impl<'a> LocalCache<'a> {
    /// The results of `store`.
    pub fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// The digest of what a step itself changed, on top of what it stood on: two steps with equal
    /// ones have equal trees. Costs a walk of the layer only.
    fn tree_of(
        &self,
        recipe: &KeyRecipe,
        top: SnapshotId,
    ) -> Result<Option<TreeDigest>, StoreError> {
        let Some(rec) = self.store.snapshot(top)? else { return Ok(None) };
        let Some(dir) = rec.dir else { return Ok(None) };
        let Ok(fd) = std::fs::File::open(&dir) else { return Ok(None) };
        let Ok(layer) = context::layer_digest(std::os::fd::AsFd::as_fd(&fd)) else {
            return Ok(None);
        };
        let mut h = KeyHasher::new("tree");
        let v: &mut dyn FieldVisitor = &mut h;
        v.value("layer", Value::Digest(layer.as_bytes()));
        let mut chained = false;
        for i in &recipe.inputs {
            if let InputKey::Chain(k) = i {
                v.value("on", Value::Digest(self.canonical(*k).as_bytes()));
                chained = true;
            }
        }
        // Without a base whose key says what lies below, the layer has to be all there is.
        if !chained && rec.parent.is_some() {
            return Ok(None);
        }
        Ok(Some(TreeDigest::from_bytes(h.finish())))
    }

    fn early_cutoff(
        &self,
        rec: &Record<'_>,
    ) -> Result<(Option<TreeDigest>, Option<CacheKey>), StoreError> {
        let Some(old) = self.store.last_in_slot(&rec.slot.0)? else { return Ok((None, None)) };
        let (Some(new_top), Some(old_top)) = (rec.outputs.first(), old.outputs.first()) else {
            return Ok((None, None));
        };
        if old.key == rec.key || self.store.snapshot(*old_top)?.is_none() {
            return Ok((None, None));
        }
        let Some(new_tree) = self.tree_of(rec.recipe, *new_top)? else { return Ok((None, None)) };
        let old_tree = match old.tree {
            Some(t) => Some(t),
            None => match recipe_from_bytes(&old.recipe) {
                Some(r) => self.tree_of(&r, *old_top)?,
                None => None,
            },
        };
        let canonical = (old_tree == Some(new_tree)).then_some(old.canonical);
        Ok((Some(new_tree), canonical))
    }
}

fn cache(e: StoreError) -> CacheError {
    CacheError(Box::new(e))
}

impl ResultCache for LocalCache<'_> {
    fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        let row = self.store.result(&q.key).map_err(cache)?;
        Ok(row.map(|r| Hit { outputs: r.outputs, canonical: r.canonical, origin: Origin::Local }))
    }

    fn content(&self, key: CacheKey, sel: &Selector) -> Result<Option<TreeDigest>, CacheError> {
        self.store.content(&key, &selector_digest(sel)).map_err(cache)
    }

    fn record_content(
        &self,
        key: CacheKey,
        sel: &Selector,
        digest: TreeDigest,
    ) -> Result<(), CacheError> {
        self.store.put_content(&key, &selector_digest(sel), &digest).map_err(cache)
    }

    fn canonical(&self, key: CacheKey) -> CacheKey {
        match self.store.result(&key) {
            Ok(Some(r)) => r.canonical,
            _ => key,
        }
    }

    fn last_recipe(&self, slot: &Slot) -> Result<Option<KeyRecipe>, CacheError> {
        let row = self.store.last_in_slot(&slot.0).map_err(cache)?;
        Ok(row.and_then(|r| recipe_from_bytes(&r.recipe)))
    }

    fn record(&self, rec: &Record<'_>) -> Result<Option<CacheKey>, CacheError> {
        let (tree, earlier) = self.early_cutoff(rec).map_err(cache)?;
        let outputs = match earlier {
            // The earlier layers stand for the new ones from now on.
            Some(k) => match self.store.result(&k).map_err(cache)? {
                Some(row) => row.outputs,
                None => rec.outputs.to_vec(),
            },
            None => rec.outputs.to_vec(),
        };
        self.store
            .put_result(&ResultRow {
                key: rec.key,
                canonical: earlier.unwrap_or(rec.key),
                op: rec.recipe.op,
                outputs,
                recipe: recipe_to_bytes(rec.recipe),
                slot: rec.slot.0.clone(),
                tree,
            })
            .map_err(cache)?;
        Ok(earlier)
    }
}
