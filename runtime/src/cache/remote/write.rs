//! A cache in a registry being written.
//!
//! A registry has no lock and no condition on a push, so writers say what they are about to add
//! ([`Pending`]), read the list, add to it, look whether the tag still means what they read, and push.
//! Afterwards they look whether the list has all that anybody said, and go on until it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rgraph_ir::limits::{MAX_CACHE_BATCH, MAX_CACHE_BATCHES};
use rgraph_ir::{BlobDigest, CacheKey, ManifestDigest, Op, Platform, TreeDigest};
use rgraph_store::{BlobRef, Store};

use crate::beside::each_side_by_side;
use crate::cache::artifact::{self, Batch, EMPTY_BYTES, ENTRIES, Form, Found, Listing};
use crate::cache::entry::{BlobFile, Content, Entry, RecordFile};
use crate::cache::export::{Sink, SinkError};
use crate::cache::hints::{Hints, step};
use crate::fetch::push::Arrival;
use crate::fetch::repository::{Repository, RepositoryError};

use super::pending::Pending;

/// Blobs asked for or sent at once.
const WIDTH: usize = 4;
/// From so many batches on, they are made one.
const MANY_BATCHES: usize = MAX_CACHE_BATCHES / 4;
/// Most tries against other writers.
const TRIES: u32 = 64;
/// Longest time between two of them, ms.
const MOST_WAIT: u32 = 300;
/// How long a writer that met others looks after what it wrote.
const LINGER: Duration = Duration::from_millis(500);

/// See the module.
pub struct RemoteWriter<'a> {
    repo: Repository<'a>,
    form: Form,
    /// `None`: this registry takes no other tags.
    pending: Option<Pending<'a>>,
    /// Of this build.
    entries: BTreeMap<CacheKey, Entry>,
    /// For which platforms its steps are known.
    platforms: Hints,
    /// Whether the registry has a blob.
    known: BTreeMap<BlobDigest, bool>,
    /// Batches of this writer: the next ones take their place.
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
        let (entries, platforms, known, own, gone) = Default::default();
        let pending = Pending::beside(&repo, form);
        Self { repo, form, pending, entries, platforms, known, own, gone, written: 0 }
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
        let out = Mutex::new(Vec::new());
        each_side_by_side(blobs, WIDTH, &|b| {
            let done = one(&self.repo, b)?;
            out.lock().unwrap_or_else(|e| e.into_inner()).push((b.digest, done));
            Ok(())
        })
        .map_err(|e| self.err(e))?;
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

    /// The list with this build's entries in it (`mine`: their batches) and those of `others` that
    /// were named, and the batches that are new.
    fn merged(
        &mut self,
        mut list: Listing,
        mine: &[Vec<u8>],
        others: &BTreeMap<BlobDigest, BlobFile>,
    ) -> Result<(Listing, Vec<Vec<u8>>), RemoteError> {
        list.batches.retain(|b| !self.own.contains(&b.digest) && !self.gone.contains(&b.digest));
        list.blobs.retain(|d, _| !self.gone.contains(d));
        for b in others.values() {
            if self.own.contains(&b.digest) || list.has(&b.digest) {
                continue;
            }
            match self.batch(b)? {
                Some(batch) => {
                    list.blobs.extend(blobs_of(batch.entries.iter()));
                    list.batches.push(b.clone());
                }
                None => drop(self.gone.insert(b.digest)),
            }
        }
        let mut new = mine.to_vec();
        if list.batches.len() >= MANY_BATCHES {
            let (mut all, mut platforms) = (BTreeMap::new(), self.platforms.clone());
            // Those who named them need not bring them back.
            list.absorbed.retain(|d| others.contains_key(d));
            list.absorbed.extend(mine.iter().map(|b| BlobDigest::of(b)));
            for b in std::mem::take(&mut list.batches) {
                list.absorbed.insert(b.digest);
                let Batch { entries, platforms: more, .. } = self.batch(&b)?.unwrap_or_default();
                artifact::add(&mut all, entries);
                platforms.extend(more);
            }
            artifact::add(&mut all, self.entries.values().cloned().collect());
            new = artifact::pack_all(all.values(), &platforms);
            list.blobs.clear();
            list.blobs.extend(blobs_of(all.values()));
        } else {
            list.blobs.extend(blobs_of(self.entries.values()));
        }
        for bytes in &new {
            let b = file_of(bytes);
            if list.batches.iter().all(|known| known.digest != b.digest) {
                list.batches.push(b);
            }
        }
        Ok((list, new))
    }

    /// A batch; `None`: it is gone, or no batch, which is of no use to anybody.
    fn batch(&self, b: &BlobFile) -> Result<Option<Batch>, RemoteError> {
        if self.gone.contains(&b.digest) {
            return Ok(None);
        }
        match self.repo.blob(b.digest, b.size, MAX_CACHE_BATCH) {
            Err(e) if e.is_not_found() => Ok(None),
            bytes => {
                let bytes = bytes.map_err(|e| self.err(e))?;
                Ok(artifact::unpack(&bytes).ok())
            }
        }
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
        let mine = artifact::pack_all(self.entries.values(), &self.platforms);
        let files: Vec<BlobFile> = mine.iter().map(|b| file_of(b)).collect();
        if !replace && self.current()?.is_some_and(|(_, l)| files.iter().all(|b| l.has(&b.digest)))
        {
            return Ok(());
        }
        for b in mine.iter().map(Vec::as_slice).chain([EMPTY_BYTES]) {
            self.repo.push_bytes(b).map_err(|e| self.err(e))?;
        }
        let mut named = self.name(&files, replace)?;
        self.own.extend(files.iter().map(|b| b.digest));
        let mut replace = replace;
        // Whether others wrote since this writer last waited for them.
        let mut met = false;
        for n in 0..TRIES {
            if n > 1 {
                // Somebody else is at it: not in step with them.
                let jitter = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() % 97;
                let wait = (20 * n).min(MOST_WAIT) + jitter;
                std::thread::sleep(Duration::from_millis(wait.into()));
            }
            let current = self.current()?;
            let was = current.as_ref().map(|(digest, _)| *digest);
            let list = current.map(|(_, list)| list).filter(|_| !replace).unwrap_or_default();
            let brought: Vec<BlobDigest> = named.keys().filter(|d| !list.has(d)).copied().collect();
            let (list, new) = self.merged(list, &mine, &named)?;
            met |= brought.iter().any(|d| !self.own.contains(d) && !self.gone.contains(d));
            let (bytes, media_type) = list.to_json(self.form);
            if was != Some(ManifestDigest::of(&bytes)) {
                for b in new.iter().filter(|b| !mine.contains(b)) {
                    self.repo.push_bytes(b).map_err(|e| self.err(e))?;
                }
                if self.repo.resolve().map_err(|e| self.err(e))? != was {
                    met = true;
                    continue;
                }
                match self.repo.push_manifest(media_type, &bytes) {
                    // A registry takes no list of what it does not have.
                    Err(e) if e.is_refused() && self.find_gone(&list)? => {
                        tracing::debug!(error = %e, "the cache lost blobs");
                        continue;
                    }
                    pushed => pushed.map_err(|e| self.err(e))?,
                };
                // From now on others are merged with.
                replace = false;
            }
            // What is named is asked for first: whoever names later than that reads the list later.
            let still = self.named()?;
            let hidden = files.iter().any(|b| !still.contains_key(&b.digest));
            named.extend(still);
            if self.pending.is_some() && hidden {
                // Another one used the same tag at the same time.
                met = true;
                if let Some(p) = &mut self.pending {
                    p.turn();
                }
                named.extend(self.name(&files, false)?);
                continue;
            }
            let Some((_, now)) = self.current()? else { continue };
            let is_there = |d: &BlobDigest| now.has(d) || self.gone.contains(d);
            let others = named.keys().filter(|d| !self.own.contains(d));
            if !files.iter().map(|b| &b.digest).chain(others).all(is_there) {
                met = true;
            } else if !std::mem::take(&mut met) {
                return Ok(());
            } else {
                std::thread::sleep(LINGER);
            }
        }
        Err(RemoteError::Busy(self.repo.name()))
    }

    /// Says which batches are about to be added; gives what everybody said.
    fn name(
        &mut self,
        files: &[BlobFile],
        reset: bool,
    ) -> Result<BTreeMap<BlobDigest, BlobFile>, RemoteError> {
        let Some(p) = &self.pending else { return Ok(BTreeMap::new()) };
        let named = match reset {
            true => p.reset(files),
            false => Ok(()),
        };
        match named.and_then(|()| p.name(files, &self.own)) {
            Ok(()) => self.named(),
            Err(e) if e.is_refused() => {
                // Then two writers at the same moment may still hide one another.
                tracing::debug!(error = %e, "no tags beside the cache's");
                self.pending = None;
                Ok(BTreeMap::new())
            }
            Err(e) => Err(self.err(e)),
        }
    }

    fn named(&self) -> Result<BTreeMap<BlobDigest, BlobFile>, RemoteError> {
        self.pending.as_ref().map_or(Ok(BTreeMap::new()), Pending::all).map_err(|e| self.err(e))
    }
}

/// A batch as lists name it.
fn file_of(bytes: &[u8]) -> BlobFile {
    let (digest, size) = (BlobDigest::of(bytes), bytes.len() as u64);
    BlobFile { media_type: ENTRIES.to_owned(), digest, size }
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
            if repo.push(b)? == Arrival::Uploaded {
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

    fn note_platform(&mut self, op: &Op, platform: &Platform) {
        self.platforms.note(step(op), &platform.to_string());
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
