//! A cache folder being read.

use std::io::Read;
use std::path::Path;

use rgraph_ir::limits::{MAX_CACHE_BATCH, MAX_CACHE_RECORD, MAX_MANIFEST};
use rgraph_ir::{CacheKey, ManifestDigest, Op, Platform, TreeDigest};
use rgraph_store::BlobRef;

use super::{LATEST, MAX_CONTENT, Paths, open_regular, platforms, read_small};
use crate::cache::artifact::Found;
use crate::cache::bundle::{Bundle, Loaded, verified};
use crate::cache::entry::{Content, RecordFile};
use crate::cache::import::Entries;

/// The entries of a folder as they are now.
pub struct DirEntries {
    paths: Paths,
}

impl DirEntries {
    /// The cache `tag` of the folder `dir`; a missing one gives misses.
    pub fn new(dir: &Path, tag: &str) -> Self {
        Self { paths: Paths::new(dir, tag) }
    }
}

impl Entries for DirEntries {
    fn name(&self) -> String {
        self.paths.dir.display().to_string()
    }

    fn problem(&self) -> Option<String> {
        let dir = self.paths.dir.display();
        if !self.paths.dir.is_dir() {
            return Some(format!("cache folder `{dir}` is not there: nothing is imported from it"));
        }
        if self.paths.records().is_dir() {
            return None;
        }
        Some(match self.paths.tag.as_str() {
            LATEST => format!("`{dir}` holds no cache of rgraph: nothing is imported from it"),
            tag => format!("`{dir}` holds no cache `{tag}`: nothing is imported from it"),
        })
    }

    fn record(&self, key: CacheKey) -> Result<Option<RecordFile>, String> {
        let bytes =
            read_small(&self.paths.record(key), MAX_CACHE_RECORD).map_err(|e| e.to_string())?;
        let Some(bytes) = bytes else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| e.to_string())
    }

    fn content(&self, key: CacheKey, selector: TreeDigest) -> Result<Option<Content>, String> {
        let path = self.paths.content(key, selector);
        let Some(bytes) = read_small(&path, MAX_CONTENT).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let content = Content::from_line(&bytes).ok_or("it is no digest")?;
        // Another writer may have brought another tree for the key since.
        let of = self.record(key)?.and_then(|r| r.chain());
        Ok(Some(content).filter(|c| Some(c.of) == of))
    }

    fn platforms(&self, op: &Op, own: Option<&Platform>) -> Vec<String> {
        platforms::noted(&self.paths.ops(), op, own)
    }

    fn has_blob(&self, blob: &BlobRef) -> Result<bool, String> {
        self.open_blob(blob).map(|b| b.is_some())
    }

    fn open_blob(&self, blob: &BlobRef) -> Result<Option<Box<dyn Read + Send + '_>>, String> {
        open_blob(&self.paths, blob)
    }
}

fn open_blob(
    paths: &Paths,
    blob: &BlobRef,
) -> Result<Option<Box<dyn Read + Send + 'static>>, String> {
    match open_regular(&paths.blob(&blob.digest)).map_err(|e| e.to_string())? {
        Some((file, size)) if size == blob.size => Ok(Some(Box::new(file))),
        Some((_, size)) => Err(format!("{size} bytes instead of {}", blob.size)),
        None => Ok(None),
    }
}

/// The cache of a folder as it was when its artifact had this manifest.
pub fn open_artifact(dir: &Path, digest: ManifestDigest) -> Bundle<'static> {
    let (at, blobs) = (Paths::new(dir, LATEST), Paths::new(dir, LATEST));
    let name = format!("{}@{digest}", dir.display());
    let load = move || {
        let read = |d: &rgraph_ir::BlobDigest, max| {
            let found = read_small(&at.blob(d), max).map_err(|e| e.to_string())?;
            verified(found.ok_or("it is not there")?, d)
        };
        let bytes = read(&digest.into(), MAX_MANIFEST)?;
        let Found::Listing(list) = Found::parse(&bytes)? else {
            return Err("it is no cache of rgraph".to_owned());
        };
        list.batches.iter().map(|b| read(&b.digest, MAX_CACHE_BATCH)).collect()
    };
    Bundle::new(
        name,
        Box::new(move || load().and_then(|b: Vec<_>| Loaded::unpack(&b))),
        Box::new(move |b| open_blob(&blobs, b)),
        true,
    )
}
