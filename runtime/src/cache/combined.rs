//! The local store first, then imported caches in order. What an import answers is written to the
//! local store, so that it is asked once.

use rgraph_ir::op::Selector;
use rgraph_ir::{CacheKey, TreeDigest};
use rgraph_solver::key::{KeyRecipe, Slot};
use rgraph_solver::{CacheError, Hit, Query, Record, ResultCache, Timestamp};

use super::dir::CacheDirReader;
use super::local::LocalCache;

/// See the module.
pub struct CombinedCache<'a> {
    local: LocalCache<'a>,
    imports: &'a [CacheDirReader<'a>],
}

impl<'a> CombinedCache<'a> {
    /// Asks `local`, then each of `imports`.
    pub fn new(local: LocalCache<'a>, imports: &'a [CacheDirReader<'a>]) -> Self {
        Self { local, imports }
    }
}

impl ResultCache for CombinedCache<'_> {
    fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
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

    fn content(&self, key: CacheKey, sel: &Selector) -> Result<Option<TreeDigest>, CacheError> {
        if let Some(d) = self.local.content(key, sel)? {
            return Ok(Some(d));
        }
        for import in self.imports {
            if let Some(d) = import.content(key, sel)? {
                self.local.record_content(key, sel, d)?;
                return Ok(Some(d));
            }
        }
        Ok(None)
    }

    fn record_content(
        &self,
        key: CacheKey,
        sel: &Selector,
        digest: TreeDigest,
    ) -> Result<(), CacheError> {
        self.local.record_content(key, sel, digest)
    }

    fn canonical(&self, key: CacheKey) -> CacheKey {
        self.local.canonical(key)
    }

    fn created(&self, q: &Query<'_>) -> Result<Option<Timestamp>, CacheError> {
        if let Some(at) = self.local.created(q)? {
            return Ok(Some(at));
        }
        for import in self.imports {
            if let Some(at) = import.created(q)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn last_recipe(&self, slot: &Slot) -> Result<Option<KeyRecipe>, CacheError> {
        self.local.last_recipe(slot)
    }

    fn record(&self, rec: &Record<'_>) -> Result<Option<CacheKey>, CacheError> {
        self.local.record(rec)
    }
}
