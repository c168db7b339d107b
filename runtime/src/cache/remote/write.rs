//! A cache in a registry being written.
//!
//! A registry has no lock and no condition on a push, so writers read the list, add to it, look
//! whether the tag still means what they read, and push; afterwards they look again. Between the
//! look and the push lies one request: who pushes within it is overwritten, and notices at its own
//! second look unless it was over by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rgraph_image::registry::Pushed;
use rgraph_ir::limits::{MAX_CACHE_BATCH, MAX_CACHE_BATCHES};
use rgraph_ir::{BlobDigest, CacheKey, ManifestDigest, TreeDigest};
use rgraph_store::{BlobRef, Store};

use crate::cache::artifact::{self, EMPTY_BYTES, ENTRIES, Form, Found, Listing};
use crate::cache::entry::{BlobFile, Content, Entry, RecordFile};
use crate::cache::export::{Sink, SinkError};
use crate::fetch::repository::{Repository, RepositoryError};

/// Blobs asked for or sent at once.
const WIDTH: usize = 4;
/// From so many batches on, they are made one.
const MANY_BATCHES: usize = MAX_CACHE_BATCHES / 4;
/// Most tries against other writers.
const TRIES: u32 = 16;

/// See the module.
pub struct RemoteWriter<'a> {
    repo: Repository<'a>,
    form: Form,
    /// Of this build.
    entries: BTreeMap<CacheKey, Entry>,
    /// Whether the registry has a blob.
    known: BTreeMap<BlobDigest, bool>,
    /// Batches this writer published: the next ones take their place.
    own: BTreeSet<BlobDigest>,
    /// Blobs that the list named and the registry has lost.
    gone: BTreeSet<BlobDigest>,
    written: u64,
}

/// Why the cache of a registry was not written.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The registry.
    #[error("cannot write the cache `{name}`")]
    Repository {
        /// The cache.
        name: String,
        /// Why.
        #[source]
        source: RepositoryError,
    },
    /// Other writers were always faster.
    #[error("cannot write the cache `{0}`: others write it all the time")]
    Busy(String),
}

impl From<RemoteError> for SinkError {
    fn from(e: RemoteError) -> Self {
        Self::Target(Box::new(e))
    }
}

impl<'a> RemoteWriter<'a> {
    /// A writer of the cache that a reference's tag names.
    pub fn new(repo: Repository<'a>, form: Form) -> Self {
        let (entries, known, own, gone) = Default::default();
        Self { repo, form, entries, known, own, gone, written: 0 }
    }

    fn err(&self, source: RepositoryError) -> RemoteError {
        RemoteError::Repository { name: self.repo.name(), source }
    }

    /// Does one thing for each of several blobs, some at a time.
    fn all<T: Send>(
        &self,
        blobs: &[BlobRef],
        one: impl Fn(&Repository<'a>, &BlobRef) -> Result<T, RepositoryError> + Sync,
    ) -> Result<Vec<(BlobDigest, T)>, RemoteError> {
        let (next, out) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || -> Result<(), RepositoryError> {
            while let Some(b) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = one(&self.repo, b).inspect_err(|_| {
                    // The others need not go on.
                    next.store(blobs.len(), Ordering::Relaxed);
                })?;
                out.lock().unwrap_or_else(|e| e.into_inner()).push((b.digest, done));
            }
            Ok(())
        };
        let ends: Vec<_> = std::thread::scope(|s| {
            let more: Vec<_> = (1..WIDTH.min(blobs.len())).map(|_| s.spawn(work)).collect();
            let own = work();
            let joined =
                more.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
            std::iter::once(own).chain(joined).collect()
        });
        ends.into_iter().collect::<Result<(), _>>().map_err(|e| self.err(e))?;
        Ok(out.into_inner().unwrap_or_else(|e| e.into_inner()))
    }

    /// What the tag means now. What is no cache of ours is replaced, as any push would.
    fn current(&self) -> Result<Option<(ManifestDigest, Listing)>, RemoteError> {
        match self.repo.manifest() {
            Ok(m) => Ok(Some(match Found::parse(&m.bytes) {
                Ok(Found::Listing(l)) => (m.digest, l),
                _ => (m.digest, Listing::default()),
            })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(self.err(e)),
        }
    }

    /// The list with this build's entries in it, and the batches that are new.
    fn merged(&self, mut list: Listing) -> Result<(Listing, Vec<Vec<u8>>), RemoteError> {
        list.batches.retain(|b| !self.own.contains(&b.digest) && !self.gone.contains(&b.digest));
        list.blobs.retain(|d, _| !self.gone.contains(d));
        let mut new = Vec::new();
        if list.batches.len() >= MANY_BATCHES {
            let mut all = BTreeMap::new();
            for b in std::mem::take(&mut list.batches) {
                let bytes = match self.repo.blob(b.digest, b.size, MAX_CACHE_BATCH) {
                    Err(e) if e.is_not_found() => continue,
                    bytes => bytes.map_err(|e| self.err(e))?,
                };
                // What is no batch is of no use to anybody.
                artifact::add(&mut all, artifact::unpack(&bytes).unwrap_or_default());
            }
            artifact::add(&mut all, self.entries.values().cloned().collect());
            new.extend(artifact::pack_all(all.values()));
            list.blobs.clear();
            list.blobs.extend(blobs_of(all.values()));
        } else {
            new.extend(artifact::pack_all(self.entries.values()));
            list.blobs.extend(blobs_of(self.entries.values()));
        }
        for bytes in &new {
            let (digest, size) = (BlobDigest::of(bytes), bytes.len() as u64);
            if list.batches.iter().all(|b| b.digest != digest) {
                list.batches.push(BlobFile { media_type: ENTRIES.to_owned(), digest, size });
            }
        }
        Ok((list, new))
    }

    /// Looks which blobs of a list are not there; true: some that were not known to be.
    fn find_gone(&mut self, list: &Listing) -> Result<bool, RemoteError> {
        let all: Vec<BlobRef> =
            list.blobs.values().chain(&list.batches).map(BlobRef::from).collect();
        let found = self.all(&all, |repo, b| repo.has(b))?;
        let before = self.gone.len();
        self.gone.extend(found.iter().filter(|(_, there)| !there).map(|(d, _)| *d));
        Ok(self.gone.len() > before)
    }

    /// Publishes this build's entries beside what is there, or in its place.
    fn put(&mut self, replace: bool) -> Result<(), RemoteError> {
        for n in 0..TRIES {
            if n > 1 {
                // Somebody else is at it: not in step with them.
                let jitter = u64::from(std::process::id() % 7) * 11;
                std::thread::sleep(Duration::from_millis(20 * u64::from(n) + jitter));
            }
            let current = self.current()?;
            let (was, list) = match &current {
                Some((digest, list)) if !replace => (Some(*digest), list.clone()),
                Some((digest, _)) => (Some(*digest), Listing::default()),
                None => (None, Listing::default()),
            };
            let (list, new) = self.merged(list)?;
            let (bytes, media_type) = list.to_json(self.form);
            if was == Some(ManifestDigest::of(&bytes)) {
                return Ok(());
            }
            for b in new.iter().map(Vec::as_slice).chain([EMPTY_BYTES]) {
                self.repo.push_bytes(b).map_err(|e| self.err(e))?;
            }
            if self.repo.resolve().map_err(|e| self.err(e))? != was {
                continue;
            }
            let own = match self.repo.push_manifest(media_type, &bytes) {
                // A registry takes no list of what it does not have.
                Err(e) if e.is_refused() && self.find_gone(&list)? => {
                    tracing::debug!(error = %e, "the cache lost blobs");
                    continue;
                }
                own => own.map_err(|e| self.err(e))?,
            };
            self.own = new.iter().map(|b| BlobDigest::of(b)).collect();
            if self.repo.resolve().map_err(|e| self.err(e))? == Some(own) {
                return Ok(());
            }
        }
        Err(RemoteError::Busy(self.repo.name()))
    }
}

fn blobs_of<'e>(
    entries: impl Iterator<Item = &'e Entry>,
) -> impl Iterator<Item = (BlobDigest, BlobFile)> {
    entries.flat_map(|e| e.record.blobs()).map(|b| (b.digest, b.clone()))
}

impl Sink for RemoteWriter<'_> {
    fn name(&self) -> String {
        self.repo.name()
    }

    fn look(&mut self, blobs: &[BlobRef]) -> Result<(), SinkError> {
        let unknown = |b: &&BlobRef| !self.known.contains_key(&b.digest);
        let unknown: Vec<BlobRef> = blobs.iter().filter(unknown).cloned().collect();
        let found = self.all(&unknown, |repo, b| repo.has(b))?;
        self.known.extend(found);
        Ok(())
    }

    fn has_blob(&mut self, blob: &BlobRef) -> Result<bool, SinkError> {
        self.look(std::slice::from_ref(blob))?;
        Ok(self.known.get(&blob.digest) == Some(&true))
    }

    fn put_blobs(&mut self, blobs: &[BlobRef], _: &Store) -> Result<(), SinkError> {
        let sent = AtomicU64::new(0);
        let pushed = self.all(blobs, |repo, b| {
            if repo.push(b)? == Pushed::Uploaded {
                sent.fetch_add(b.size, Ordering::Relaxed);
            }
            Ok(())
        })?;
        self.written += sent.into_inner();
        self.known.extend(pushed.into_iter().map(|(d, ())| (d, true)));
        Ok(())
    }

    fn put_record(&mut self, record: RecordFile) -> Result<(), SinkError> {
        let e = Entry { record, contents: BTreeMap::new() };
        artifact::add(&mut self.entries, vec![e]);
        Ok(())
    }

    fn put_content(
        &mut self,
        key: CacheKey,
        selector: TreeDigest,
        content: Content,
    ) -> Result<(), SinkError> {
        if let Some(e) = self.entries.get_mut(&key) {
            e.contents.insert(selector, content);
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), SinkError> {
        Ok(self.put(false)?)
    }

    fn finish(&mut self, only: Option<&BTreeSet<CacheKey>>) -> Result<(), SinkError> {
        Ok(self.put(only.is_some())?)
    }

    fn written(&self) -> u64 {
        self.written
    }
}
