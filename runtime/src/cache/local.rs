//! Results in the local store.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, MutexGuard};

use rgraph_image::layer::Owners;
use rgraph_ir::fields::{FieldVisitor, KeyHasher, Value};
use rgraph_ir::op::Selector;
use rgraph_ir::{CacheKey, Op, Platform, SnapshotId, TreeDigest};
use rgraph_solver::explain::{Elsewhere, FileChanges, FileFate, PastBuild};
use rgraph_solver::key::{InputKey, KeyRecipe, Slot};
use rgraph_solver::{CacheError, Hit, Origin, Query, Record, ResultCache, Timestamp, Tree};
use rgraph_store::{ResultRow, Store, StoreError};

use super::files::FileLists;
use super::flight::Flight;
use super::wire::{recipe_from_bytes, recipe_to_bytes, selector_digest};
use crate::builds::Journal;
use crate::context;

/// Most places of a Dockerfile that are looked through.
const MOST_SLOTS: u32 = 10_000;

/// See the module.
pub struct LocalCache<'a> {
    store: &'a Store,
    build: Option<InBuild<'a>>,
    /// Results that this build has put others in the place of, by their canonical keys.
    replaced: Mutex<HashMap<CacheKey, SnapshotId>>,
}

/// What a build knows beside its store.
#[derive(Clone, Copy)]
pub struct InBuild<'a> {
    /// Its steps.
    pub flight: &'a Flight<'a>,
    /// Which files it has read.
    pub files: &'a FileLists<'a>,
    /// What was built here before.
    pub journal: &'a Journal<'a>,
    /// Where the owners of files are kept.
    pub owners: Owners,
    /// Numbers for steps that are no vertex.
    pub next_step: &'a AtomicU32,
}

impl<'a> LocalCache<'a> {
    /// The results of `store`.
    pub fn new(store: &'a Store) -> Self {
        Self { store, build: None, replaced: Mutex::default() }
    }

    /// As [`Self::new`], for a build.
    pub fn of_build(store: &'a Store, build: InBuild<'a>) -> Self {
        Self { build: Some(build), ..Self::new(store) }
    }

    fn owners(&self) -> Owners {
        self.build.as_ref().map_or(Owners::Kernel, |build| build.owners)
    }

    /// Digest of what a step itself changed; costs a walk of the layer only. `None`: not on disk, or
    /// unreadable.
    fn layer_of(
        &self,
        top: SnapshotId,
    ) -> Result<Option<(TreeDigest, Option<SnapshotId>)>, StoreError> {
        let Some(rec) = self.store.snapshot(top)? else { return Ok(None) };
        let Some(dir) = rec.dir else { return Ok(None) };
        let Ok(fd) = File::open(&dir) else { return Ok(None) };
        let digest = context::layer_digest(fd.as_fd(), self.owners()).ok();
        Ok(digest.map(|d| (d, rec.parent)))
    }

    /// Compares trees within this store: the layer, and the very snapshot it lies on. Keys would not
    /// do for what lies below: what a key stands for may have changed since the earlier step ran.
    fn tree_of(&self, top: SnapshotId) -> Result<Option<TreeDigest>, StoreError> {
        let Some((layer, parent)) = self.layer_of(top)? else { return Ok(None) };
        let mut h = KeyHasher::new("tree");
        let v: &mut dyn FieldVisitor = &mut h;
        v.value("layer", Value::Digest(layer.as_bytes()));
        v.value("on", Value::Int(parent.map_or(-1, |p| i64::try_from(p.0).unwrap_or(i64::MAX))));
        Ok(Some(TreeDigest::from_bytes(h.finish())))
    }

    /// Whether two images' layers give the same tree, times aside. Layer by layer: an image that was
    /// built again has as many as before.
    fn same_stack(&self, old: SnapshotId, new: SnapshotId) -> Result<bool, StoreError> {
        let (old, new) = (self.store.chain(old)?, self.store.chain(new)?);
        if old.len() != new.len() {
            return Ok(false);
        }
        for (o, n) in old.iter().zip(&new).filter(|(o, n)| o.id != n.id) {
            let (Some(o), Some(n)) = (&o.dir, &n.dir) else { return Ok(false) };
            let (Ok(o), Ok(n)) = (File::open(o), File::open(n)) else { return Ok(false) };
            if !context::same_layer(o.as_fd(), n.as_fd(), self.owners()).unwrap_or(false) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A key for a tree that came under a key of an earlier one. It is made of what other machines
    /// see too, since caches carry it to them; what cannot be told apart gets a key of its own.
    fn new_canonical(&self, rec: &Record<'_>) -> Result<CacheKey, StoreError> {
        let mut h = KeyHasher::new("again");
        let v: &mut dyn FieldVisitor = &mut h;
        v.value("key", Value::Digest(rec.key.as_bytes()));
        let layer = match rec.outputs {
            [one] => self.layer_of(*one)?,
            _ => None,
        };
        match layer {
            Some((layer, _)) => v.value("layer", Value::Digest(layer.as_bytes())),
            None => {
                v.value("time", Value::Str(&jiff::Timestamp::now().as_nanosecond().to_string()))
            }
        }
        for i in &rec.recipe.inputs {
            if let InputKey::Chain(k) = i {
                v.value("on", Value::Digest(self.canonical(*k).as_bytes()));
            }
        }
        Ok(CacheKey::from_bytes(h.finish()))
    }

    /// An earlier result with the tree of `rec`: of its own key, of the place in the last build, or
    /// the last one that was recorded there. Trees are hashed only where there is an earlier result.
    fn earlier(
        &self,
        rec: &Record<'_>,
        own: Option<&ResultRow>,
    ) -> Result<(Option<TreeDigest>, Option<ResultRow>), StoreError> {
        let [top] = rec.outputs else { return Ok((None, None)) };
        let before = self.build.and_then(|b| b.journal.key_at(rec.slot));
        let before = match before {
            Some(key) => self.store.known_result(&key)?,
            None => None,
        };
        let last = self.store.last_in_slot(&rec.slot.0)?;
        let mut tree = None;
        let mut seen: Vec<CacheKey> = Vec::new();
        for old in own.into_iter().chain(before.as_ref()).chain(last.as_ref()) {
            if seen.contains(&old.key) {
                continue;
            }
            seen.push(old.key);
            let [old_top] = old.outputs[..] else { continue };
            // Hashing a large layer costs as much as making it.
            if rec.shows_content && self.other_files(rec.recipe, old) {
                continue;
            }
            if rec.recipe.pin.is_some() {
                if old_top != *top && self.same_stack(old_top, *top).unwrap_or(false) {
                    return Ok((None, Some(old.clone())));
                }
                continue;
            }
            let old_tree = match old.tree {
                Some(t) => Some(t),
                None if self.store.snapshot(old_top)?.is_some() => {
                    let tree = self.tree_of(old_top)?;
                    if let Some(t) = &tree {
                        // Compared once, it will be compared again.
                        self.store.set_result_tree(old, t)?;
                    }
                    tree
                }
                None => None,
            };
            if old_tree.is_none() {
                continue;
            }
            if tree.is_none() {
                tree = self.tree_of(*top)?;
            }
            if tree == old_tree {
                return Ok((tree, Some(old.clone())));
            }
        }
        Ok((tree, None))
    }

    /// True when the two looked at the same place and saw other files there. (What else a digest
    /// holds, such as the mode of the folder itself, may not show in a copy.)
    fn other_files(&self, new: &KeyRecipe, old: &ResultRow) -> bool {
        let (Some(build), Some(old)) = (self.build, recipe_from_bytes(&old.recipe)) else {
            return false;
        };
        let shows = |fate: &FileFate| {
            matches!(fate, FileFate::Changed | FileFate::New | FileFate::Gone | FileFate::Link(..))
        };
        new.inputs.iter().zip(&old.inputs).any(|pair| match pair {
            (InputKey::Content(sel, new), InputKey::Content(old_sel, old)) if sel == old_sel => {
                let changes = build.files.changed(sel, *old, *new);
                changes.is_some_and(|c| c.files.iter().any(|f| shows(&f.fate)))
            }
            _ => false,
        })
    }

    fn replaced(&self) -> MutexGuard<'_, HashMap<CacheKey, SnapshotId>> {
        self.replaced.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn remember(&self, rec: &Record<'_>) -> Result<Option<CacheKey>, StoreError> {
        let own = self.store.known_result(&rec.key)?;
        if let Some(own) = own.as_ref().filter(|o| o.outputs == rec.outputs) {
            // Another process ran the step meanwhile, and this one took its result.
            return Ok(Some(own.canonical));
        }
        if let Some(own) = &own
            && let [top] = own.outputs[..]
        {
            self.replaced().insert(own.canonical, top);
        }
        // Digests without a result come from an imported cache: they are about its tree.
        let stood = own.is_some() || !self.store.contents_of(&rec.key)?.is_empty();
        // A pin says what the tree is: nothing else can come under it.
        let stood = stood && rec.recipe.pin.is_none();
        let (tree, equal) = self.earlier(rec, own.as_ref())?;
        let mut row = ResultRow {
            key: rec.key,
            canonical: rec.key,
            op: rec.recipe.op,
            outputs: rec.outputs.to_vec(),
            recipe: recipe_to_bytes(rec.recipe),
            slot: rec.slot.0.clone(),
            tree,
            created: rec.at.seconds(),
            took: self.build.and_then(|b| b.flight.took(rec.key)),
        };
        let canonical = match equal {
            Some(old) => {
                if self.store.chain(old.outputs[0]).is_ok() {
                    // The earlier layers stand for the new ones from now on.
                    row.outputs = old.outputs;
                }
                Some(old.canonical)
            }
            None if stood => {
                let k = self.new_canonical(rec)?;
                // Under its own name too, and first: the place belongs to the key that a later build
                // asks for.
                self.store.put_result(&ResultRow { key: k, canonical: k, ..row.clone() })?;
                Some(k)
            }
            None => None,
        };
        row.canonical = canonical.unwrap_or(rec.key);
        if stood && own.is_none_or(|o| o.canonical != row.canonical) {
            self.store.forget_contents(&rec.key)?;
        }
        self.store.put_result(&row)?;
        Ok(canonical)
    }
}

fn cache(e: StoreError) -> CacheError {
    CacheError(Box::new(e))
}

impl ResultCache for LocalCache<'_> {
    fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        let row = self.store.result(&q.key).map_err(cache)?;
        if let (None, Some(b)) = (&row, self.build) {
            b.flight.missing(q.key);
        }
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
        self.store.canonical(&key).ok().flatten().unwrap_or(key)
    }

    fn at_once(&self, work: &mut dyn FnMut()) {
        self.store.at_once(work);
    }

    fn created(&self, q: &Query<'_>) -> Result<Option<Timestamp>, CacheError> {
        let created = self.store.created(&q.key).map_err(cache)?;
        if let (None, Some(b)) = (created, self.build) {
            b.flight.missing(q.key);
        }
        Ok(created.map(Timestamp::from_seconds))
    }

    fn last_recipe(&self, slot: &Slot) -> Result<Option<KeyRecipe>, CacheError> {
        let row = self.store.last_in_slot(&slot.0).map_err(cache)?;
        Ok(row.and_then(|r| recipe_from_bytes(&r.recipe)))
    }

    fn recipe(&self, key: CacheKey) -> Result<Option<KeyRecipe>, CacheError> {
        let row = self.store.known_result(&key).map_err(cache)?;
        Ok(row.and_then(|r| recipe_from_bytes(&r.recipe)))
    }

    fn last_build(&self) -> PastBuild {
        self.build.map(|b| b.journal.last().clone()).unwrap_or_default()
    }

    fn remember_build(&self, build: PastBuild) {
        if let Some(b) = self.build {
            b.journal.remember(build);
        }
    }

    fn changed_files(
        &self,
        sel: &Selector,
        old: TreeDigest,
        new: TreeDigest,
    ) -> Option<FileChanges> {
        self.build?.files.changed(sel, old, new)
    }

    fn changed_tree(&self, old: CacheKey, new: Tree) -> Option<FileChanges> {
        let Tree::Snapshot(new) = new else { return None };
        let replaced = self.replaced().get(&old).copied();
        let old = match replaced {
            Some(old) => old,
            None => match self.store.known_result(&old).ok()??.outputs[..] {
                [old] => old,
                _ => return None,
            },
        };
        self.build?.files.snapshots(old, new)
    }

    fn elsewhere(&self, slot: &Slot, _: &Op, platform: Option<&Platform>) -> Vec<Elsewhere> {
        // PLACE/PLATFORM/STAGE AND STEP
        let platform = platform.map_or_else(String::new, ToString::to_string);
        let Some((place, step)) = slot.0.split_once(&format!("/{platform}/")) else {
            return Vec::new();
        };
        let (place, step) = (format!("{place}/"), format!("/{step}"));
        let slots = self.store.slots_below(&place, MOST_SLOTS).unwrap_or_default();
        let other = |s: &String| {
            let platform = s.strip_prefix(&place)?.strip_suffix(&step)?;
            Some(Elsewhere { cache: None, platform: platform.to_owned() })
        };
        slots.iter().filter_map(other).collect()
    }

    fn record(&self, rec: &Record<'_>) -> Result<Option<CacheKey>, CacheError> {
        let flight = self.build.map(|b| b.flight);
        let unsettled = flight.is_some_and(|f| f.is_unsettled(rec.key));
        let recorded = if unsettled {
            // A key that nobody asks for, so that what is built on it is found by nobody either.
            let now = jiff::Timestamp::now().as_nanosecond();
            let nobody = format!("{}\0{now}\0{}", rec.key, std::process::id());
            Ok(Some(CacheKey::of(nobody.as_bytes())))
        } else {
            self.remember(rec).map_err(cache)
        };
        if let Some(f) = flight {
            f.end(rec.key);
        }
        if let Some(b) = self.build {
            for input in &rec.recipe.inputs {
                if let InputKey::Content(sel, digest) = input {
                    b.files.keep(sel, *digest);
                }
            }
        }
        recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_ir::VertexId;
    use rgraph_store::{Lease, NewSnapshot, OpenOptions};

    struct Step<'a> {
        store: &'a Store,
        lease: &'a Lease,
    }

    impl Step<'_> {
        /// Runs a "step": a layer with one file on `parent`, recorded under `key`.
        fn run(
            &self,
            key: u8,
            on: &[u8],
            parent: Option<SnapshotId>,
            text: &str,
        ) -> (Option<CacheKey>, SnapshotId) {
            let p = self.store.prepare(self.lease).unwrap();
            std::fs::write(p.fs().join("f"), text).unwrap();
            let new = NewSnapshot { parent, layer: None, description: String::new() };
            let top = self.store.commit(p, new).unwrap();
            let recipe = KeyRecipe {
                fields: Vec::new(),
                op: [9; 32],
                pin: None,
                inputs: on.iter().map(|k| InputKey::Chain(CacheKey::of(&[*k]))).collect(),
            };
            let cache = LocalCache::new(self.store);
            let (slot, key) = (Slot(format!("slot {}", on.len())), CacheKey::of(&[key]));
            let outputs = [top];
            let rec = Record {
                vertex: VertexId(0),
                key,
                recipe: &recipe,
                shows_content: false,
                slot: &slot,
                outputs: &outputs,
                at: Timestamp::default(),
            };
            (cache.record(&rec).unwrap(), top)
        }
    }

    #[test]
    fn a_key_that_comes_to_mean_another_tree_hands_on_a_new_one() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let lease = store.lease().unwrap();
        let step = Step { store: &store, lease: &lease };
        let cache = LocalCache::new(&store);
        let (key, sel) = (CacheKey::of(&[1]), Selector::all());

        let (first, one) = step.run(1, &[], None, "one");
        assert_eq!(first, None);
        cache.record_content(key, &sel, TreeDigest::of(b"one")).unwrap();

        // An equal tree: the key itself, the earlier layers, the digests as they were.
        assert_eq!(step.run(1, &[], None, "one").0, Some(key));
        assert_eq!(store.result(&key).unwrap().unwrap().outputs, [one]);
        assert!(cache.content(key, &sel).unwrap().is_some());

        // Another tree: a new key that is stored too, and no digest of the old tree.
        let (again, two) = step.run(1, &[], None, "two");
        let again = again.unwrap();
        assert_ne!(again, key);
        assert_eq!(cache.canonical(key), again);
        assert_eq!(cache.canonical(again), again);
        assert_eq!(store.result(&again).unwrap().unwrap().outputs, [two]);
        assert_eq!(cache.content(key, &sel).unwrap(), None);

        // Back to it: known under that key.
        assert_eq!(step.run(1, &[], None, "two").0, Some(again));
    }

    #[test]
    fn equal_layers_on_unequal_trees_are_not_equal() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let lease = store.lease().unwrap();
        let step = Step { store: &store, lease: &lease };
        let (_, old_base) = step.run(1, &[], None, "old");
        let (_, old) = step.run(2, &[1], Some(old_base), "same");
        // The base's key stands for another tree now, so its user's key is another one.
        let (_, new_base) = step.run(1, &[], None, "new");
        let (canonical, new) = step.run(3, &[1], Some(new_base), "same");
        assert_eq!(canonical, None, "the new tree taken for the old one");
        assert_ne!(old, new);
        assert_eq!(store.result(&CacheKey::of(&[3])).unwrap().unwrap().outputs, [new]);
        // On the same base they are.
        let (canonical, _) = step.run(4, &[1], Some(new_base), "same");
        assert_eq!(canonical, Some(CacheKey::of(&[3])));
    }

    #[test]
    fn imported_digests_do_not_outlive_a_run() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let lease = store.lease().unwrap();
        let cache = LocalCache::new(&store);
        let (key, sel) = (CacheKey::of(&[1]), Selector::all());
        cache.record_content(key, &sel, TreeDigest::of(b"theirs")).unwrap();
        let (canonical, _) = Step { store: &store, lease: &lease }.run(1, &[], None, "mine");
        assert!(canonical.is_some_and(|k| k != key));
        assert_eq!(cache.content(key, &sel).unwrap(), None);
    }
}
