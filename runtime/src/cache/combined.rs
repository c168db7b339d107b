//! The local store first, then imported caches in order. What an import answers is written to the
//! local store, so that it is asked once. What becomes known is told to a listener: results go to
//! other caches as soon as they are there.

use rgraph_ir::op::Selector;
use rgraph_ir::{CacheKey, Op, Platform, TreeDigest, VertexId};
use rgraph_solver::explain::{Elsewhere, FileChanges, PastBuild};
use rgraph_solver::key::{KeyRecipe, Slot};
use rgraph_solver::{CacheError, Hit, Query, Record, ResultCache, Timestamp, Tree};

use super::import::Import;
use super::local::LocalCache;

/// Hears what a build finds out, from several threads.
pub trait Listener: Sync {
    /// A result is known: it was found or made.
    fn result(&self, vertex: VertexId, key: CacheKey);

    /// What a part of the result of a key is.
    fn content(&self, key: CacheKey, sel: &Selector, digest: TreeDigest);
}

/// Nobody listens.
impl Listener for () {
    fn result(&self, _: VertexId, _: CacheKey) {}
    fn content(&self, _: CacheKey, _: &Selector, _: TreeDigest) {}
}

/// Both hear everything.
impl<A: Listener, B: Listener> Listener for (&A, &B) {
    fn result(&self, vertex: VertexId, key: CacheKey) {
        self.0.result(vertex, key);
        self.1.result(vertex, key);
    }

    fn content(&self, key: CacheKey, sel: &Selector, digest: TreeDigest) {
        self.0.content(key, sel, digest);
        self.1.content(key, sel, digest);
    }
}

/// See the module.
pub struct CombinedCache<'a> {
    local: LocalCache<'a>,
    imports: &'a [Import<'a>],
    listener: &'a dyn Listener,
}

impl<'a> CombinedCache<'a> {
    /// Asks `local`, then each of `imports`; tells `listener`.
    pub fn new(
        local: LocalCache<'a>,
        imports: &'a [Import<'a>],
        listener: &'a dyn Listener,
    ) -> Self {
        Self { local, imports, listener }
    }

    fn find(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        if let Some(hit) = self.local.lookup(q)? {
            return Ok(Some(hit));
        }
        for import in self.imports {
            if let Some(hit) = import.lookup(q)? {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }
}

impl ResultCache for CombinedCache<'_> {
    fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        let found = self.find(q)?;
        if found.is_some() {
            self.listener.result(q.vertex, q.key);
        }
        Ok(found)
    }

    fn content(&self, key: CacheKey, sel: &Selector) -> Result<Option<TreeDigest>, CacheError> {
        let mut found = self.local.content(key, sel)?;
        if found.is_none() {
            found = self.imports.iter().find_map(|i| i.content(key, sel));
            if let Some(d) = found {
                self.local.record_content(key, sel, d)?;
            }
        }
        if let Some(d) = found {
            self.listener.content(key, sel, d);
        }
        Ok(found)
    }

    fn record_content(
        &self,
        key: CacheKey,
        sel: &Selector,
        digest: TreeDigest,
    ) -> Result<(), CacheError> {
        self.local.record_content(key, sel, digest)?;
        self.listener.content(key, sel, digest);
        Ok(())
    }

    fn canonical(&self, key: CacheKey) -> CacheKey {
        self.local.canonical(key)
    }

    fn at_once(&self, work: &mut dyn FnMut()) {
        self.local.at_once(work);
    }

    fn created(&self, q: &Query<'_>) -> Result<Option<Timestamp>, CacheError> {
        if let Some(at) = self.local.created(q)? {
            return Ok(Some(at));
        }
        Ok(self.imports.iter().find_map(|i| i.created(q.key)))
    }

    fn last_recipe(&self, slot: &Slot) -> Result<Option<KeyRecipe>, CacheError> {
        self.local.last_recipe(slot)
    }

    fn recipe(&self, key: CacheKey) -> Result<Option<KeyRecipe>, CacheError> {
        self.local.recipe(key)
    }

    fn last_build(&self) -> PastBuild {
        self.local.last_build()
    }

    fn remember_build(&self, build: PastBuild) {
        self.local.remember_build(build);
    }

    fn changed_files(
        &self,
        sel: &Selector,
        old: TreeDigest,
        new: TreeDigest,
    ) -> Option<FileChanges> {
        self.local.changed_files(sel, old, new)
    }

    fn changed_tree(&self, old: CacheKey, new: Tree) -> Option<FileChanges> {
        self.local.changed_tree(old, new)
    }

    fn elsewhere(&self, slot: &Slot, op: &Op, platform: Option<&Platform>) -> Vec<Elsewhere> {
        let imports = self.imports.iter().flat_map(|i| i.elsewhere(op, platform));
        self.local.elsewhere(slot, op, platform).into_iter().chain(imports).collect()
    }

    fn record(&self, rec: &Record<'_>) -> Result<Option<CacheKey>, CacheError> {
        let canonical = self.local.record(rec)?;
        self.listener.result(rec.vertex, rec.key);
        Ok(canonical)
    }
}
