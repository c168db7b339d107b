//! A cache in a folder that several machines may share.
//!
//! The folder is an OCI layout (`oci-layout`, `index.json`, `blobs/sha256/`). The truth is one small
//! file per key beside it, `rgraph/v1/records/KEY.json`, and one per content digest,
//! `rgraph/v1/content/KEY-SELECTOR`. Every file is written under a temporary name and renamed, so
//! that writers need no lock and readers see whole files only; `index.json` is derived from the
//! records and may lag behind.
//!
//! What is read is untrusted: sizes are bounded, links are not followed, digests are checked when the
//! bytes are used, and whatever does not fit is a miss.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rgraph_image::manifest::layer_compression;
use rgraph_ir::op::Selector;
use rgraph_ir::{BlobDigest, CacheKey, DiffId, TreeDigest, limits};
use rgraph_solver::key::{KeyRecipe, Slot};
use rgraph_solver::{CacheError, Hit, Origin, Query, Record, ResultCache, Timestamp};
use rgraph_store::{BlobRef, LayerInfo, NewSnapshot, ResultRow, Store};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::wire::{recipe_to_bytes, selector_digest};

const RECORDS: &str = "rgraph/v1/records";
const CONTENT: &str = "rgraph/v1/content";
const BLOBS: &str = "blobs/sha256";
/// Largest record, bytes: 127 layers need some 40 KiB.
const MAX_RECORD: u64 = 1 << 20;

/// Why a cache folder could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the cache folder: `{path}`")]
pub struct CacheDirError {
    path: String,
    #[source]
    source: std::io::Error,
}

#[derive(Serialize, Deserialize)]
struct RecordFile {
    version: u32,
    key: CacheKey,
    canonical: CacheKey,
    /// Bottom first; none: the result is empty.
    layers: Vec<LayerFile>,
    #[serde(default)]
    description: String,
    /// Seconds since 1970; 0: nobody knows.
    #[serde(default)]
    created: i64,
}

/// One layer of a result, as a cache folder names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFile {
    /// Of the plain tar.
    pub diff_id: DiffId,
    /// The blob; `None`: the bytes are not part of this cache (`mode=min`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobFile>,
}

/// A blob of a cache folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobFile {
    /// Its digest.
    pub digest: BlobDigest,
    /// Bytes.
    pub size: u64,
    /// Media type.
    #[serde(rename = "mediaType")]
    pub media_type: String,
}

impl From<&BlobRef> for BlobFile {
    fn from(b: &BlobRef) -> Self {
        Self { digest: b.digest, size: b.size, media_type: b.media_type.clone() }
    }
}

/// Reads a regular file of at most `max` bytes without following a link at its name.
fn read_small(path: &Path, max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let Some((file, size)) = open_regular(path)? else { return Ok(None) };
    if size > max {
        return Err(std::io::Error::other("too large"));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn open_regular(path: &Path) -> std::io::Result<Option<(File, u64)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let file = File::from(fd);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    Ok(Some((file, meta.len())))
}

/// A cache folder being read.
pub struct CacheDirReader<'a> {
    dir: PathBuf,
    store: &'a Store,
    /// Told once each: what was rejected and why.
    rejected: Mutex<Vec<String>>,
    /// Blobs whose bytes were not what their digest says.
    bad: Mutex<BTreeSet<BlobDigest>>,
}

impl<'a> CacheDirReader<'a> {
    /// The folder `dir`; a missing one gives misses.
    pub fn new(dir: PathBuf, store: &'a Store) -> Self {
        Self { dir, store, rejected: Mutex::default(), bad: Mutex::default() }
    }

    /// What is wrong with the folder as a whole: a warning for the user.
    pub fn problem(&self) -> Option<String> {
        if !self.dir.is_dir() {
            return Some(format!(
                "cache folder `{}` is not there: nothing is imported from it",
                self.dir.display()
            ));
        }
        if !self.dir.join(RECORDS).is_dir() {
            return Some(format!(
                "`{}` holds no cache of rgraph: nothing is imported from it",
                self.dir.display()
            ));
        }
        None
    }

    /// Entries that were rejected so far.
    pub fn rejected(&self) -> Vec<String> {
        self.rejected.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn reject<T>(&self, what: &str, why: impl std::fmt::Display) -> Option<T> {
        let mut list = self.rejected.lock().unwrap_or_else(|e| e.into_inner());
        if list.len() < 100 {
            list.push(format!("cache entry {what} rejected: {why}"));
        }
        None
    }

    /// Is told that a blob of the folder is not what a record says it is.
    pub fn distrust(&self, blob: &BlobRef, why: &str) {
        if self.bad.lock().unwrap_or_else(|e| e.into_inner()).insert(blob.digest) {
            self.reject::<()>(&blob.digest.short(), why);
        }
    }

    /// Opens a blob of the folder. Its bytes are the reader's to check.
    pub fn open_blob(&self, blob: &BlobRef) -> Option<File> {
        if self.bad.lock().unwrap_or_else(|e| e.into_inner()).contains(&blob.digest) {
            return None;
        }
        let path = self.dir.join(BLOBS).join(blob.digest.hex());
        match open_regular(&path) {
            Ok(Some((file, size))) if size == blob.size => Some(file),
            Ok(Some((_, size))) => {
                self.reject(&blob.digest.short(), format!("{size} bytes instead of {}", blob.size))
            }
            Ok(None) => None,
            Err(e) => self.reject(&blob.digest.short(), e),
        }
    }

    fn record_of(&self, key: CacheKey) -> Option<RecordFile> {
        let path = self.dir.join(RECORDS).join(format!("{}.json", key.hex()));
        let bytes = match read_small(&path, MAX_RECORD) {
            Ok(b) => b?,
            Err(e) => return self.reject(&key.short(), e),
        };
        let rec: RecordFile = match serde_json::from_slice(&bytes) {
            Ok(r) => r,
            Err(e) => return self.reject(&key.short(), e),
        };
        if rec.version != 1 || rec.key != key {
            return self.reject(&key.short(), "it is about another key or of another version");
        }
        if rec.layers.is_empty() || rec.layers.len() > limits::MAX_LAYERS {
            return self.reject(&key.short(), "its number of layers is out of range");
        }
        let types = rec.layers.iter().filter_map(|l| l.blob.as_ref()).map(|b| &b.media_type);
        if let Some(t) = types.into_iter().find(|t| layer_compression(t).is_none()) {
            return self.reject(&key.short(), format!("`{t}` is no type of a layer"));
        }
        Some(rec)
    }
}

impl ResultCache for CacheDirReader<'_> {
    fn lookup(&self, q: &Query<'_>) -> Result<Option<Hit>, CacheError> {
        let Some(rec) = self.record_of(q.key) else { return Ok(None) };
        let failed = |e| CacheError(Box::new(e));
        // Keys first: a hit is good only when every layer can be had later.
        for l in &rec.layers {
            let mut here = false;
            for b in self.store.layer_blobs(&l.diff_id).map_err(failed)? {
                here = here || self.store.has_blob(&b.digest).map_err(failed)?;
            }
            let there = l.blob.as_ref().is_some_and(|b| {
                let blob =
                    BlobRef { digest: b.digest, size: b.size, media_type: b.media_type.clone() };
                self.open_blob(&blob).is_some()
            });
            if !here && !there {
                return Ok(None);
            }
        }
        let mut parent = None;
        for l in &rec.layers {
            let blob = l.blob.as_ref().map(|b| BlobRef {
                digest: b.digest,
                size: b.size,
                media_type: b.media_type.clone(),
            });
            let layer = LayerInfo { diff_id: l.diff_id, tar_size: None, blob };
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
        let origin = Origin::Imported(self.dir.display().to_string());
        Ok(Some(Hit { outputs, canonical: rec.canonical, origin }))
    }

    fn content(&self, key: CacheKey, sel: &Selector) -> Result<Option<TreeDigest>, CacheError> {
        let name = format!("{}-{}", key.hex(), TreeDigest::from_bytes(selector_digest(sel)).hex());
        match read_small(&self.dir.join(CONTENT).join(name), 256) {
            Ok(Some(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                Ok(text.trim().parse().ok().or_else(|| self.reject(&key.short(), "not a digest")))
            }
            Ok(None) => Ok(None),
            Err(e) => Ok(self.reject(&key.short(), e)),
        }
    }

    fn record_content(&self, _: CacheKey, _: &Selector, _: TreeDigest) -> Result<(), CacheError> {
        Ok(())
    }

    fn canonical(&self, key: CacheKey) -> CacheKey {
        key
    }

    fn created(&self, q: &Query<'_>) -> Result<Option<Timestamp>, CacheError> {
        Ok(self.record_of(q.key).map(|rec| Timestamp::from_seconds(rec.created)))
    }

    fn last_recipe(&self, _: &Slot) -> Result<Option<KeyRecipe>, CacheError> {
        Ok(None)
    }

    fn record(&self, _: &Record<'_>) -> Result<Option<CacheKey>, CacheError> {
        Ok(None)
    }
}

/// A cache folder being written.
pub struct CacheDirWriter {
    dir: PathBuf,
    /// Bytes of blobs that were new.
    pub written: u64,
    nonce: String,
    count: u64,
}

impl CacheDirWriter {
    /// Makes the folder's frame. `nonce` tells this writer's temporary files from others'.
    pub fn open(dir: &Path, nonce: &str) -> Result<Self, CacheDirError> {
        let this = Self { dir: dir.to_owned(), written: 0, nonce: nonce.to_owned(), count: 0 };
        for sub in [RECORDS, CONTENT, BLOBS] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path)
                .map_err(|source| CacheDirError { path: path.display().to_string(), source })?;
        }
        Ok(this)
    }

    /// Writes `rel` whole or not at all. The temporary name lies beside it, so that the rename never
    /// leaves its folder.
    fn put(&mut self, rel: &str, bytes: &[u8]) -> Result<(), CacheDirError> {
        self.put_from(rel, &mut &bytes[..]).map(drop)
    }

    fn put_from(&mut self, rel: &str, from: &mut dyn Read) -> Result<u64, CacheDirError> {
        let path = self.dir.join(rel);
        self.count += 1;
        let tmp = path.with_file_name(format!(".tmp-{}-{}", self.nonce, self.count));
        let write = || -> std::io::Result<u64> {
            let mut f = File::options().write(true).create_new(true).open(&tmp)?;
            let n = std::io::copy(from, &mut f)?;
            f.flush()?;
            f.sync_data()?;
            std::fs::rename(&tmp, &path)?;
            Ok(n)
        };
        let mut write = write;
        write().map_err(|source| {
            // Whatever is left of it would never be found again.
            std::fs::remove_file(&tmp).unwrap_or(());
            CacheDirError { path: path.display().to_string(), source }
        })
    }

    /// True when the folder has the blob, by size.
    pub fn has_blob(&self, digest: &BlobDigest, size: u64) -> bool {
        let path = self.dir.join(BLOBS).join(digest.hex());
        std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == size)
    }

    /// Adds a blob unless it is there.
    pub fn put_blob(
        &mut self,
        digest: &BlobDigest,
        size: u64,
        from: &mut dyn Read,
    ) -> Result<(), CacheDirError> {
        if !self.has_blob(digest, size) {
            self.written += self.put_from(&format!("{BLOBS}/{}", digest.hex()), from)?;
        }
        Ok(())
    }

    /// Writes the record of a key, unless the folder's says the same or more.
    pub fn put_record(
        &mut self,
        key: CacheKey,
        canonical: CacheKey,
        layers: Vec<LayerFile>,
        description: &str,
        created: i64,
    ) -> Result<(), CacheDirError> {
        let rel = format!("{RECORDS}/{}.json", key.hex());
        let old: Option<RecordFile> = read_small(&self.dir.join(&rel), MAX_RECORD)
            .ok()
            .flatten()
            .and_then(|b| serde_json::from_slice(&b).ok());
        let blobs = |l: &[LayerFile]| l.iter().filter(|l| l.blob.is_some()).count();
        let same = |o: &RecordFile| {
            o.canonical == canonical
                && o.layers.iter().map(|l| l.diff_id).eq(layers.iter().map(|l| l.diff_id))
        };
        match old {
            Some(o) if o.version == 1 && o.key == key && same(&o) => {
                let enough = blobs(&o.layers) >= blobs(&layers) && o.created >= created;
                if enough {
                    return Ok(());
                }
            }
            // The key has come to mean another tree: what was said of the old one goes first.
            Some(_) => self.drop_contents(key)?,
            None => {}
        }
        let description = description.to_owned();
        let rec = RecordFile { version: 1, key, canonical, layers, description, created };
        let bytes = serde_json::to_vec(&rec).expect("strings and digests always serialise");
        self.put(&rel, &bytes)
    }

    fn drop_contents(&mut self, key: CacheKey) -> Result<(), CacheDirError> {
        let dir = self.dir.join(CONTENT);
        let failed = |source| CacheDirError { path: dir.display().to_string(), source };
        let prefix = format!("{}-", key.hex());
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_string_lossy().starts_with(&prefix) {
                continue;
            }
            match std::fs::remove_file(entry.path()) {
                // Another writer was faster.
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes a content digest unless it is there.
    pub fn put_content(
        &mut self,
        key: CacheKey,
        selector: [u8; 32],
        digest: TreeDigest,
    ) -> Result<(), CacheDirError> {
        let rel = format!("{CONTENT}/{}-{}", key.hex(), TreeDigest::from_bytes(selector).hex());
        if self.dir.join(&rel).exists() {
            return Ok(());
        }
        self.put(&rel, format!("{digest}\n").as_bytes())
    }

    /// Derives `index.json` from the records: one artifact manifest that names every blob, so that
    /// tools that copy OCI layouts copy the whole cache.
    pub fn finish(&mut self) -> Result<(), CacheDirError> {
        let records = self.dir.join(RECORDS);
        let at = |source| CacheDirError { path: records.display().to_string(), source };
        let mut blobs: BTreeMap<BlobDigest, BlobFile> = BTreeMap::new();
        for entry in std::fs::read_dir(&records).map_err(at)? {
            let path = entry.map_err(at)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let Ok(Some(bytes)) = read_small(&path, MAX_RECORD) else { continue };
            let Ok(rec) = serde_json::from_slice::<RecordFile>(&bytes) else { continue };
            for b in rec.layers.into_iter().filter_map(|l| l.blob) {
                if self.has_blob(&b.digest, b.size) {
                    blobs.insert(b.digest, b);
                }
            }
        }
        let empty = b"{}";
        let empty_digest = BlobDigest::of(empty);
        self.put_blob(&empty_digest, 2, &mut &empty[..])?;
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.rgraph.cache.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty_digest, "size": 2},
            "layers": blobs.values().collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).expect("always serialises");
        let digest = BlobDigest::of(&manifest);
        self.put_blob(&digest, manifest.len() as u64, &mut &manifest[..])?;
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": "application/vnd.rgraph.cache.v1",
                "digest": digest,
                "size": manifest.len(),
            }],
        });
        let index = serde_json::to_vec(&index).expect("always serialises");
        if read_small(&self.dir.join("index.json"), limits::MAX_MANIFEST).ok().flatten().as_deref()
            != Some(&index)
        {
            self.put("index.json", &index)?;
        }
        if !self.dir.join("oci-layout").exists() {
            self.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(())
    }
}
