//! Entries that are read all at once, at the first question: a cache artifact in a registry or in a
//! folder, or the keys in an image's config.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::OnceLock;

use rgraph_ir::{BlobDigest, CacheKey, DiffId, ManifestDigest, Op, Platform, TreeDigest};
use rgraph_store::BlobRef;

use super::artifact;
use super::entry::{Content, RecordFile};
use super::hints::Hints;
use super::import::Entries;

/// What was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// Results by key.
    pub records: BTreeMap<CacheKey, RecordFile>,
    /// What was seen of results, by key and selector.
    pub contents: BTreeMap<(CacheKey, TreeDigest), Content>,
    /// Blobs of layers that records name without.
    pub blobs: BTreeMap<DiffId, BlobRef>,
    /// For which platforms steps are known.
    pub platforms: Hints,
    /// Why it has no entries, when only its hints are of use.
    pub problem: Option<String>,
    /// Images for other platforms, which know more of that.
    pub others: Vec<ManifestDigest>,
}

impl Loaded {
    /// Reads batches, oldest first.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn unpack(batches: &[Vec<u8>]) -> Result<Self, String> {
        let (mut all, mut out) = (BTreeMap::new(), Self::default());
        for b in batches {
            let batch = artifact::unpack(b)?;
            artifact::add(&mut all, batch.entries);
            out.platforms.extend(batch.platforms);
        }
        for (key, e) in all {
            for selector in e.contents.keys() {
                if let Some(c) = e.content(*selector) {
                    out.contents.insert((key, *selector), c.clone());
                }
            }
            out.records.insert(key, e.record);
        }
        Ok(out)
    }

    /// Takes what another one has besides.
    pub fn extend(&mut self, more: Self) {
        self.records.extend(more.records);
        self.contents.extend(more.contents);
        self.blobs.extend(more.blobs);
        self.platforms.extend(more.platforms);
    }
}

type Load<'a> = Box<dyn Fn() -> Result<Loaded, String> + Sync + Send + 'a>;
type OpenBlob<'a> =
    Box<dyn Fn(&BlobRef) -> Result<Option<Box<dyn Read + Send + 'a>>, String> + Sync + Send + 'a>;

type Hint<'a> = Box<dyn Fn(&[ManifestDigest]) -> Hints + Sync + Send + 'a>;

/// See the module.
pub struct Bundle<'a> {
    name: String,
    load: Load<'a>,
    loaded: OnceLock<Result<Loaded, String>>,
    open: OpenBlob<'a>,
    hint: Hint<'a>,
    hints: OnceLock<Hints>,
    /// Whether opening a blob costs next to nothing.
    near: bool,
}

impl<'a> Bundle<'a> {
    /// The entries that `load` gives; it is called once, when a key is asked for. Blobs come from
    /// `open`; far ones are believed to be there until they are opened.
    pub fn new(name: String, load: Load<'a>, open: OpenBlob<'a>, near: bool) -> Self {
        let hint: Hint<'a> = Box::new(|_| Hints::default());
        Self { name, load, loaded: OnceLock::new(), open, hint, hints: OnceLock::new(), near }
    }

    /// Asks `hint` about [`Loaded::others`], once, when a step is to be explained.
    pub fn hinting(self, hint: Hint<'a>) -> Self {
        Self { hint, ..self }
    }

    fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get_or_init(&self.load).as_ref().ok()
    }
}

impl Entries for Bundle<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn problem(&self) -> Option<String> {
        let why = match self.loaded.get()? {
            Ok(loaded) => loaded.problem.as_ref()?,
            Err(why) => why,
        };
        Some(format!("cache `{}`: {why}: nothing is imported from it", self.name))
    }

    fn record(&self, key: CacheKey) -> Result<Option<RecordFile>, String> {
        Ok(self.loaded().and_then(|l| l.records.get(&key)).cloned())
    }

    fn content(&self, key: CacheKey, selector: TreeDigest) -> Result<Option<Content>, String> {
        Ok(self.loaded().and_then(|l| l.contents.get(&(key, selector))).cloned())
    }

    fn platforms(&self, op: &Op, own: Option<&Platform>) -> Vec<String> {
        let Some(loaded) = self.loaded() else { return Vec::new() };
        let all = self.hints.get_or_init(|| {
            let mut all = loaded.platforms.clone();
            if !loaded.others.is_empty() {
                all.extend((self.hint)(&loaded.others));
            }
            all
        });
        all.others(op, own)
    }

    fn blob_of(&self, layer: DiffId) -> Option<BlobRef> {
        self.loaded()?.blobs.get(&layer).cloned()
    }

    fn has_blob(&self, blob: &BlobRef) -> Result<bool, String> {
        if self.near { Ok((self.open)(blob)?.is_some()) } else { Ok(true) }
    }

    fn open_blob(&self, blob: &BlobRef) -> Result<Option<Box<dyn Read + Send + '_>>, String> {
        Ok((self.open)(blob)?.map(|r| r as Box<dyn Read + Send + '_>))
    }
}

/// Bytes that are what their digest says.
///
/// # Errors
/// They are not.
pub fn verified(bytes: Vec<u8>, digest: &BlobDigest) -> Result<Vec<u8>, String> {
    match BlobDigest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(format!("{} is not what its digest says", digest.short())),
    }
}
