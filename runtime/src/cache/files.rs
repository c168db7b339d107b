//! The lists of files that explain misses: in memory while a build runs, beside the store for later
//! ones.
//!
//! A list is written when a step that was keyed by it is recorded, on the thread that records: a
//! cached build writes none. Writing is a temporary name and a rename, no sync; a list that is lost
//! or damaged makes a line shorter. The folder holds the newest [`MOST_LISTS`] and [`MOST_BYTES`].

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rgraph_ir::op::Selector;
use rgraph_ir::pattern::PatternSet;
use rgraph_ir::{SnapshotId, TreeDigest};
use rgraph_solver::explain::FileChanges;
use rgraph_store::{SnapshotRecord, Store};

use super::wire::selector_digest;
use crate::context::{self, FileList, MAX_FILES, Scan};

/// Most lists that are kept.
const MOST_LISTS: usize = 2000;
/// Most bytes of all of them.
const MOST_BYTES: u64 = 64 << 20;

/// Most layers of a snapshot that are looked at.
const MOST_LAYERS: usize = 8;

/// See [`FileLists::are_many`].
const MANY: usize = 8;

/// What a list is of: a digest of a selection.
type Id = [u8; 32];

fn id(sel: &Selector, digest: TreeDigest) -> Id {
    let mut h = blake3::Hasher::new();
    h.update(&selector_digest(sel)).update(digest.as_bytes());
    *h.finalize().as_bytes()
}

struct Seen {
    scan: Scan,
    rules: Option<Arc<PatternSet>>,
}

impl Seen {
    fn list(&self) -> FileList {
        let rules = self.rules.as_ref().map(|r| r.patterns().iter().map(ToString::to_string));
        FileList::of(&self.scan, &rules.into_iter().flatten().collect::<Vec<_>>())
    }
}

#[derive(Default)]
struct InMemory {
    scans: HashMap<Id, Arc<Seen>>,
    files: usize,
}

/// See the module.
pub struct FileLists<'a> {
    store: &'a Store,
    seen: Mutex<InMemory>,
    written: AtomicU64,
}

impl<'a> FileLists<'a> {
    /// The lists of `store`.
    pub fn new(store: &'a Store) -> Self {
        Self { store, seen: Mutex::default(), written: AtomicU64::new(0) }
    }

    fn seen(&self) -> MutexGuard<'_, InMemory> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes what a digest was just made of. Nothing is done with it until a step misses.
    pub fn saw(
        &self,
        sel: &Selector,
        digest: TreeDigest,
        scan: Scan,
        rules: Option<Arc<PatternSet>>,
    ) {
        let mut seen = self.seen();
        let files = seen.files + scan.len();
        if files <= MAX_FILES {
            seen.files = files;
            seen.scans.insert(id(sel, digest), Arc::new(Seen { scan, rules }));
        }
    }

    fn path(&self, id: &Id) -> PathBuf {
        let name = blake3::Hash::from_bytes(*id).to_hex();
        self.store.layout().file_lists().join(name.as_str())
    }

    fn list(&self, id: &Id) -> Option<FileList> {
        let seen = self.seen().scans.get(id).cloned();
        match seen {
            Some(seen) => Some(seen.list()),
            None => FileList::from_bytes(&std::fs::read(self.path(id)).ok()?),
        }
    }

    /// What differs between two selections with these digests.
    pub fn changed(&self, sel: &Selector, old: TreeDigest, new: TreeDigest) -> Option<FileChanges> {
        let (old, new) = (self.list(&id(sel, old))?, self.list(&id(sel, new))?);
        Some(new.changes_since(&old))
    }

    /// Whether so many files were just seen that it is worth to ask which of them did not change.
    pub fn are_many(&self, sel: &Selector, digest: TreeDigest) -> bool {
        self.seen().scans.get(&id(sel, digest)).is_some_and(|s| s.scan.len() >= MANY)
    }

    /// The paths of regular files that two selections with these digests have in common, whose bytes and
    /// extended attributes are the same. `None`: a list is gone.
    pub fn in_common(
        &self,
        sel: &Selector,
        old: TreeDigest,
        new: TreeDigest,
    ) -> Option<HashSet<Vec<u8>>> {
        let (old, new) = (self.list(&id(sel, old))?, self.list(&id(sel, new))?);
        Some(new.files_in_common(&old))
    }

    /// Writes the list of a selection that a recorded step is keyed by, where it is not written yet.
    pub fn keep(&self, sel: &Selector, digest: TreeDigest) {
        let id = id(sel, digest);
        let Some(seen) = self.seen().scans.get(&id).cloned() else { return };
        let path = self.path(&id);
        if let Ok(file) = File::options().append(true).open(&path) {
            // It is of use: young again.
            file.set_modified(now()).unwrap_or(());
            return;
        }
        let Some(bytes) = seen.list().to_bytes() else { return };
        match write(&path, &bytes, self.written.fetch_add(1, Ordering::Relaxed)) {
            Ok(()) => {}
            Err(e) => tracing::debug!(error = %e, "list of files not written"),
        }
    }

    /// Removes what is over the bounds, oldest first, when this build has written anything.
    pub fn tidy(&self) {
        if self.written.load(Ordering::Relaxed) == 0 {
            return;
        }
        let Ok(dir) = std::fs::read_dir(self.store.layout().file_lists()) else { return };
        let mut all: Vec<_> = dir
            .flatten()
            .filter_map(|e| {
                let meta = e.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), e.path()))
            })
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let mut bytes = 0;
        for (n, (_, len, path)) in all.iter().enumerate() {
            bytes += len;
            if n >= MOST_LISTS || bytes > MOST_BYTES {
                // Another build may have been faster.
                std::fs::remove_file(path).unwrap_or(());
            }
        }
    }

    /// What differs between two snapshots, by the layers that they do not share. Of two that part more
    /// than [`MOST_LAYERS`] below, only the top layers are compared: the steps in between tell the rest.
    pub fn snapshots(&self, old: SnapshotId, new: SnapshotId) -> Option<FileChanges> {
        let (old, new) = (self.top_of(old)?, self.top_of(new)?);
        let meet = old.iter().enumerate().find_map(|(o, r)| {
            let n = new.iter().position(|n| n.id == r.id)?;
            Some((o, n))
        });
        let whole = |r: &[SnapshotRecord]| r.last().is_some_and(|r| r.parent.is_none());
        let (o, n) = meet.unwrap_or_else(|| match whole(&old) && whole(&new) {
            true => (old.len(), new.len()),
            false => (1, 1),
        });
        let below = new.get(n).map(|r| r.id).or_else(|| new.last()?.parent);
        // Bottom first.
        let open = |records: &mut dyn Iterator<Item = &SnapshotRecord>| -> Option<Vec<File>> {
            records.map(|r| File::open(r.dir.as_ref()?).ok()).collect()
        };
        let old = open(&mut old[..o.min(old.len())].iter().rev())?;
        let new = open(&mut new[..n.min(new.len())].iter().rev())?;
        let below = || match below {
            Some(id) => open(&mut self.store.chain(id).ok()?.iter()),
            None => Some(Vec::new()),
        };
        context::layers_changed(&below, &old, &new).ok().flatten()
    }

    /// A snapshot and what it lies on, top first, some layers deep.
    fn top_of(&self, id: SnapshotId) -> Option<Vec<SnapshotRecord>> {
        let mut out = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next.filter(|_| out.len() <= MOST_LAYERS) {
            let record = self.store.snapshot(id).ok()??;
            next = record.parent;
            out.push(record);
        }
        Some(out)
    }
}

pub(crate) fn now() -> std::time::SystemTime {
    jiff::Timestamp::now().into()
}

/// Writes a file whole or not at all, in a folder that older stores do not have.
pub(crate) fn write(path: &Path, bytes: &[u8], serial: u64) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    let tmp = dir.join(format!(".tmp-{}-{serial}", std::process::id()));
    let create = || File::options().write(true).create_new(true).open(&tmp);
    let made = match create() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
            create()
        }
        made => made,
    };
    let written =
        made.and_then(|mut f| f.write_all(bytes)).and_then(|()| std::fs::rename(&tmp, path));
    if written.is_err() {
        std::fs::remove_file(&tmp).unwrap_or(());
    }
    written
}
