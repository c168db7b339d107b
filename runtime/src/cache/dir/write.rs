//! A cache folder being written.
//!
//! Files are staged beside their places, synced together, and renamed in the order they came: blobs
//! before the records that name them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rgraph_image::manifest::{Descriptor, Index, OCI_INDEX};
use rgraph_ir::limits::{MAX_CACHE_RECORD, MAX_MANIFEST};
use rgraph_ir::{BlobDigest, CacheKey, Op, Platform, TreeDigest};
use rgraph_store::{BlobRef, Store};

use super::{MAX_CONTENT, Paths, platforms, read_small};
use crate::beside::each_side_by_side;
use crate::cache::artifact::{self, ARTIFACT, EMPTY_BYTES, Form, Found, Listing};
use crate::cache::entry::{BlobFile, Content, Entry, RecordFile};
use crate::cache::export::{Sink, SinkError};

/// From so many files on, one sync of the file system costs less than one for each, though it waits for
/// what everybody else has written.
const MANY: usize = 256;
/// So many files are waited for at the same time.
const SYNCS: usize = 8;
/// A temporary file this much older than a reset is nobody's any more.
const SLOWEST: Duration = Duration::from_secs(24 * 3600);
/// The annotation that names an entry of `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why a cache folder could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the cache folder: `{path}`")]
pub struct CacheDirError {
    path: String,
    #[source]
    source: io::Error,
}

type Result<T> = std::result::Result<T, CacheDirError>;

fn at(path: &Path) -> impl FnOnce(io::Error) -> CacheDirError + '_ {
    move |source| CacheDirError { path: path.display().to_string(), source }
}

/// See the module.
pub struct CacheDirWriter {
    paths: Paths,
    form: Form,
    nonce: String,
    count: u64,
    written: u64,
    staged: Vec<Staged>,
    /// Blobs among them.
    staged_blobs: BTreeSet<BlobDigest>,
    /// Files that say for which platforms this build knows its steps.
    noted: BTreeSet<PathBuf>,
    /// Something changed since the artifact was derived.
    changed: bool,
    /// What is older was there before.
    opened: SystemTime,
}

struct Staged {
    tmp: PathBuf,
    to: PathBuf,
}

impl CacheDirWriter {
    /// Makes the frame of the cache `tag` in `dir`. `nonce` tells this writer's temporary files from
    /// others'.
    ///
    /// # Errors
    /// The folder cannot be made, or a link leads out of it.
    pub fn open(dir: &Path, tag: &str, form: Form, nonce: &str) -> Result<Self> {
        let paths = Paths::new(dir, tag);
        for path in [paths.records(), paths.contents(), paths.ops(), paths.blobs()] {
            fs::create_dir_all(&path).map_err(at(&path))?;
            let below = path.ancestors().take_while(|p| *p != dir);
            for p in below {
                if !fs::symlink_metadata(p).map_err(at(p))?.is_dir() {
                    return Err(at(p)(io::Error::other("it is a link")));
                }
            }
        }
        let mut this = Self {
            paths,
            form,
            nonce: nonce.to_owned(),
            count: 0,
            written: 0,
            staged: Vec::new(),
            staged_blobs: BTreeSet::new(),
            noted: BTreeSet::new(),
            changed: false,
            opened: SystemTime::UNIX_EPOCH,
        };
        // The time as the folder's own file system counts it.
        let probe = this.temporary(&this.paths.records().join("x"));
        File::options().write(true).create_new(true).open(&probe).map_err(at(&probe))?;
        this.opened = fs::metadata(&probe).and_then(|m| m.modified()).map_err(at(&probe))?;
        fs::remove_file(&probe).map_err(at(&probe))?;
        Ok(this)
    }

    /// A name beside `to`, so that the rename never leaves its folder.
    fn temporary(&mut self, to: &Path) -> PathBuf {
        self.count += 1;
        to.with_file_name(format!(".tmp-{}-{}", self.nonce, self.count))
    }

    fn stage(&mut self, to: PathBuf, bytes: &[u8]) -> Result<u64> {
        self.stage_by(to, |f| f.write_all(bytes).map(|()| bytes.len() as u64))
    }

    fn stage_by(
        &mut self,
        to: PathBuf,
        write: impl FnOnce(&mut File) -> io::Result<u64>,
    ) -> Result<u64> {
        let tmp = self.temporary(&to);
        let file = File::options().write(true).create_new(true).open(&tmp);
        let n = file.and_then(|mut f| write(&mut f)).map_err(|e| {
            // Whatever is left of it would never be found again.
            fs::remove_file(&tmp).unwrap_or(());
            at(&to)(e)
        })?;
        self.staged.push(Staged { tmp, to });
        Ok(n)
    }

    /// Gives everything staged its name.
    fn flush(&mut self) -> Result<()> {
        let staged = std::mem::take(&mut self.staged);
        self.staged_blobs.clear();
        let done = self.place(&staged);
        if done.is_err() {
            for s in &staged {
                fs::remove_file(&s.tmp).unwrap_or(());
            }
        }
        done
    }

    fn place(&mut self, staged: &[Staged]) -> Result<()> {
        if staged.len() >= MANY {
            let dir = File::open(&self.paths.dir).map_err(at(&self.paths.dir))?;
            rustix::fs::syncfs(dir).map_err(|e| at(&self.paths.dir)(e.into()))?;
        } else {
            // The disk begins with all of them before the first is waited for.
            for s in staged {
                let file = File::open(&s.tmp).map_err(at(&s.to))?;
                rgraph_sys::file::start_writing(file.as_fd(), 0, 0);
            }
            // Those that are waited for at the same time share the journal's commits.
            let sync =
                |s: &Staged| File::open(&s.tmp).and_then(|f| f.sync_data()).map_err(at(&s.to));
            if each_side_by_side(staged, SYNCS, &sync).is_err() {
                // With few descriptors, one after the other.
                staged.iter().try_for_each(sync)?;
            }
        }
        for s in staged {
            fs::rename(&s.tmp, &s.to).map_err(at(&s.to))?;
        }
        self.changed |= !staged.is_empty();
        Ok(())
    }

    fn is_there(&self, digest: &BlobDigest, size: u64) -> bool {
        self.staged_blobs.contains(digest)
            || fs::symlink_metadata(self.paths.blob(digest))
                .is_ok_and(|m| m.is_file() && m.len() == size)
    }

    fn stage_bytes(&mut self, bytes: &[u8]) -> Result<BlobDigest> {
        let digest = BlobDigest::of(bytes);
        if !self.is_there(&digest, bytes.len() as u64) {
            self.stage(self.paths.blob(&digest), bytes)?;
            self.staged_blobs.insert(digest);
        }
        Ok(digest)
    }

    /// The entries of this tag, as the folder has them.
    fn entries(&self) -> Result<BTreeMap<CacheKey, Entry>> {
        let mut all = BTreeMap::new();
        for path in listed(&self.paths.records())? {
            // What others are still writing has no name yet.
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let Ok(Some(bytes)) = read_small(&path, MAX_CACHE_RECORD) else { continue };
            let Ok(record) = serde_json::from_slice::<RecordFile>(&bytes) else { continue };
            all.insert(record.key, Entry { record, contents: BTreeMap::new() });
        }
        for path in listed(&self.paths.contents())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((key, selector)) = name.split_once('-') else { continue };
            let (Ok(key), Ok(sel)) = (CacheKey::from_hex(key), TreeDigest::from_hex(selector))
            else {
                continue;
            };
            let Ok(Some(bytes)) = read_small(&path, MAX_CONTENT) else { continue };
            if let (Some(e), Some(c)) = (all.get_mut(&key), Content::from_line(&bytes))
                && Some(c.of) == e.record.chain()
            {
                e.contents.insert(sel, c);
            }
        }
        Ok(all)
    }

    /// Derives the artifact from the entries and names it in `index.json`.
    fn derive(&mut self) -> Result<()> {
        let entries = self.entries()?;
        let mut listing = Listing::default();
        for blob in entries.values().flat_map(|e| e.record.blobs()) {
            if self.is_there(&blob.digest, blob.size) {
                listing.blobs.insert(blob.digest, blob.clone());
            }
        }
        for bytes in artifact::pack_all(entries.values(), &platforms::all(&self.paths.ops())) {
            let (digest, size) = (self.stage_bytes(&bytes)?, bytes.len() as u64);
            let media_type = artifact::ENTRIES.to_owned();
            listing.batches.push(BlobFile { media_type, digest, size });
        }
        self.stage_bytes(EMPTY_BYTES)?;
        let (manifest, media_type) = listing.to_json(self.form);
        let digest = self.stage_bytes(&manifest)?;
        let mut own = Descriptor::new(media_type, digest, manifest.len() as u64);
        own.artifact_type = Some(ARTIFACT.to_owned());
        own.annotations = Some([(REF_NAME.to_owned(), self.paths.tag.clone())].into());
        // Other tags stay as they are; what is no index is written anew.
        let mut all = self.index();
        all.retain(|d| tag_of(d) != Some(&self.paths.tag));
        all.push(own);
        all.sort_by(|a, b| tag_of(a).cmp(&tag_of(b)));
        let index = Index::new(OCI_INDEX, all, None).to_json_line();
        let path = self.paths.dir.join("index.json");
        if read_small(&path, MAX_MANIFEST).ok().flatten().as_deref() != Some(&index) {
            self.stage(path, &index)?;
        }
        let path = self.paths.dir.join("oci-layout");
        if !path.exists() {
            self.stage(path, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        self.flush()?;
        self.changed = false;
        Ok(())
    }

    /// The caches that `index.json` names.
    fn index(&self) -> Vec<Descriptor> {
        #[derive(serde::Deserialize)]
        struct Names {
            manifests: Vec<Descriptor>,
        }
        let bytes = read_small(&self.paths.dir.join("index.json"), MAX_MANIFEST).ok().flatten();
        let names = bytes.and_then(|b| serde_json::from_slice::<Names>(&b).ok());
        let mut all = names.map(|n| n.manifests).unwrap_or_default();
        all.retain(|d| tag_of(d).is_some());
        all
    }

    /// Removes what was there before this writer and is not about `keep`, then blobs that nobody
    /// names any more.
    fn reset(&mut self, keep: &BTreeSet<CacheKey>) -> Result<()> {
        for dir in [self.paths.records(), self.paths.contents()] {
            for path in listed(&dir)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let key = name.get(..64).and_then(|k| CacheKey::from_hex(k).ok());
                if key.is_none_or(|k| !keep.contains(&k)) {
                    self.remove_old(&path)?;
                }
            }
        }
        let is_folder = |p: &PathBuf| fs::symlink_metadata(p).is_ok_and(|m| m.is_dir());
        for folder in listed(&self.paths.ops())?.into_iter().filter(is_folder) {
            for path in listed(&folder)?.iter().filter(|p| !self.noted.contains(*p)) {
                self.remove_old(path)?;
            }
        }
        self.changed = true;
        self.derive()?;
        let mut named = BTreeSet::new();
        for d in self.index() {
            named.insert(d.digest);
            let bytes = read_small(&self.paths.blob(&d.digest), MAX_MANIFEST).ok().flatten();
            if let Some(Ok(Found::Listing(l))) = bytes.map(|b| Found::parse(&b)) {
                named.extend(l.batches.iter().map(|b| b.digest));
                named.extend(l.blobs.keys());
            }
        }
        named.insert(BlobDigest::of(EMPTY_BYTES));
        // Other tags' records may be ahead of what their artifact names.
        let mut tags = vec![Paths::new(&self.paths.dir, super::LATEST)];
        for dir in listed(&self.paths.tags())? {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tags.push(Paths::new(&self.paths.dir, &name));
        }
        for tag in tags {
            for path in listed(&tag.records())? {
                let Ok(Some(bytes)) = read_small(&path, MAX_CACHE_RECORD) else { continue };
                let Ok(r) = serde_json::from_slice::<RecordFile>(&bytes) else { continue };
                named.extend(r.blobs().map(|b| b.digest));
            }
        }
        for path in listed(&self.paths.blobs())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if BlobDigest::from_hex(&name).map_or(true, |d| !named.contains(&d)) {
                self.remove_old(&path)?;
            }
        }
        Ok(())
    }

    fn remove_old(&self, path: &Path) -> Result<()> {
        // A file without its name yet may be somebody's who is slow.
        let nameless = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let grace = if nameless { SLOWEST } else { Duration::ZERO };
        let old = match fs::symlink_metadata(path) {
            Ok(m) => m.is_file() && m.modified().is_ok_and(|t| t + grace < self.opened),
            Err(_) => false,
        };
        match old.then(|| fs::remove_file(path)) {
            // Another writer was faster.
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => Err(at(path)(e)),
            _ => Ok(()),
        }
    }
}

fn tag_of(d: &Descriptor) -> Option<&String> {
    d.annotations.as_ref()?.get(REF_NAME)
}

/// What lies in a folder; nothing when there is none.
fn listed(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(at(dir)(e)),
    };
    entries.map(|e| e.map(|e| e.path()).map_err(at(dir))).collect()
}

impl From<CacheDirError> for SinkError {
    fn from(e: CacheDirError) -> Self {
        Self::Target(Box::new(e))
    }
}

impl Sink for CacheDirWriter {
    fn name(&self) -> String {
        self.paths.dir.display().to_string()
    }

    fn has_blob(&mut self, blob: &BlobRef) -> std::result::Result<bool, SinkError> {
        Ok(self.is_there(&blob.digest, blob.size))
    }

    fn put_blobs(
        &mut self,
        blobs: &[BlobRef],
        store: &Store,
    ) -> std::result::Result<(), SinkError> {
        for b in blobs {
            let from = store.open_blob_verified(&b.digest)?.ok_or_else(|| {
                SinkError::Store(rgraph_store::StoreError::NoBlob { digest: b.digest })
            })?;
            self.written += self.stage_by(self.paths.blob(&b.digest), |f| from.copy_to(f))?;
            self.staged_blobs.insert(b.digest);
        }
        Ok(())
    }

    fn put_record(&mut self, record: RecordFile) -> std::result::Result<(), SinkError> {
        let path = self.paths.record(record.key);
        let old = read_small(&path, MAX_CACHE_RECORD).ok().flatten();
        let old = old.and_then(|b| serde_json::from_slice::<RecordFile>(&b).ok());
        if !old.is_some_and(|o| record.adds_nothing_to(&o)) {
            self.stage(path, &record.to_json())?;
        }
        Ok(())
    }

    fn put_content(
        &mut self,
        key: CacheKey,
        selector: TreeDigest,
        content: Content,
    ) -> std::result::Result<(), SinkError> {
        let path = self.paths.content(key, selector);
        let old = read_small(&path, MAX_CONTENT).ok().flatten();
        let old = old.and_then(|b| Content::from_line(&b));
        let same = |o: Content| {
            (o.digest, o.of) == (content.digest, content.of)
                && (content.signature.is_none() || content.signature == o.signature)
        };
        if !old.is_some_and(same) {
            self.stage(path, content.to_line().as_bytes())?;
        }
        Ok(())
    }

    fn note_platform(&mut self, op: &Op, platform: &Platform) {
        let path = platforms::path(&self.paths.ops(), op, platform);
        if self.noted.insert(path.clone())
            && let Err(e) = platforms::note(&path)
        {
            tracing::debug!(error = %e, "platform of a cached step not noted");
        }
    }

    fn settle(&mut self) -> std::result::Result<(), SinkError> {
        Ok(self.flush()?)
    }

    fn finish(&mut self, only: Option<&BTreeSet<CacheKey>>) -> std::result::Result<(), SinkError> {
        self.flush()?;
        match only {
            Some(keep) => self.reset(keep)?,
            None => {
                let listed = self.index().iter().any(|d| tag_of(d) == Some(&self.paths.tag));
                if self.changed || !listed {
                    self.derive()?;
                }
            }
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        self.written
    }
}

impl Drop for CacheDirWriter {
    fn drop(&mut self) {
        for s in &self.staged {
            fs::remove_file(&s.tmp).unwrap_or(());
        }
    }
}
