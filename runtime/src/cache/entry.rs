//! What a shared cache says about one key, wherever it is kept: a record, and digests of what other
//! steps saw of the result. Untrusted when it comes from outside.

use std::collections::BTreeMap;

use rgraph_image::manifest::layer_compression;
use rgraph_ir::{BlobDigest, CacheKey, ChainId, DiffId, TreeDigest, limits};
use rgraph_store::BlobRef;
use serde::{Deserialize, Serialize};

use super::sign::{Signer, Trust};

/// Version of the format.
const VERSION: u32 = 1;

/// One result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFile {
    version: u32,
    /// The key it is the result of.
    pub key: CacheKey,
    /// The key that stands for its tree.
    pub canonical: CacheKey,
    /// The whole stack, bottom first.
    pub layers: Vec<LayerFile>,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// When it was made, seconds since 1970; 0: nobody knows.
    #[serde(default)]
    pub created: i64,
    /// Over all the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// One layer of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFile {
    /// Of the plain tar.
    pub diff_id: DiffId,
    /// The blob; `None`: the bytes are not part of the cache (`mode=min`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobFile>,
}

/// A blob, as manifests name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobFile {
    /// Media type.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Its digest.
    pub digest: BlobDigest,
    /// Bytes.
    pub size: u64,
}

impl From<&BlobRef> for BlobFile {
    fn from(b: &BlobRef) -> Self {
        Self { digest: b.digest, size: b.size, media_type: b.media_type.clone() }
    }
}

impl From<&BlobFile> for BlobRef {
    fn from(b: &BlobFile) -> Self {
        Self { digest: b.digest, size: b.size, media_type: b.media_type.clone() }
    }
}

/// What a selected part of a result is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its digest.
    pub digest: TreeDigest,
    /// The stack of layers that was looked at: a key may come to mean another one.
    pub of: ChainId,
    /// Over all the rest, the key and the selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl RecordFile {
    /// A record of a result.
    pub fn new(
        key: CacheKey,
        canonical: CacheKey,
        layers: Vec<LayerFile>,
        (description, created): (&str, i64),
        signer: Option<&Signer>,
    ) -> Self {
        let (version, description) = (VERSION, description.to_owned());
        let signature = None;
        let mut r = Self { version, key, canonical, layers, description, created, signature };
        r.signature = signer.map(|s| s.sign(&r.message()));
        r
    }

    /// A record whose signature, if any, was made elsewhere. It is to be checked.
    pub fn with_signature(self, signature: Option<String>) -> Self {
        Self { signature, ..self }
    }

    /// Its signature, if it has one.
    pub fn signature(&self) -> Option<&String> {
        self.signature.as_ref()
    }

    /// Its bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and digests always serialise")
    }

    fn message(&self) -> Vec<u8> {
        let mut out = b"rgraph cache record\n".to_vec();
        out.extend(Self { signature: None, ..self.clone() }.to_json());
        out
    }

    /// Whether it may be believed for `key`.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, key: CacheKey, trust: &Trust) -> Result<(), String> {
        if self.version != VERSION || self.key != key {
            return Err("it is about another key or of another version".to_owned());
        }
        if self.layers.is_empty() || self.layers.len() > limits::MAX_LAYERS {
            return Err("its number of layers is out of range".to_owned());
        }
        let types = self.blobs().map(|b| &b.media_type);
        if let Some(t) = types.into_iter().find(|t| layer_compression(t).is_none()) {
            let short: String = t.chars().filter(|c| !c.is_control()).take(100).collect();
            return Err(format!("`{short}` is no type of a layer"));
        }
        Ok(trust.check(&self.message(), self.signature.as_deref())?)
    }

    /// Names its stack of layers.
    pub fn chain(&self) -> Option<ChainId> {
        let mut ids = self.layers.iter().map(|l| l.diff_id);
        let base = ChainId::base(ids.next()?);
        Some(ids.fold(base, ChainId::with))
    }

    /// The blobs it names.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobFile> {
        self.layers.iter().filter_map(|l| l.blob.as_ref())
    }

    /// Whether `self` has nothing to tell that `old` does not.
    pub fn adds_nothing_to(&self, old: &Self) -> bool {
        old.version == self.version
            && old.key == self.key
            && old.canonical == self.canonical
            && old.chain() == self.chain()
            && old.blobs().count() >= self.blobs().count()
            && old.created >= self.created
            // Signed anew only by who signs.
            && (self.signature.is_none() || self.signature == old.signature)
    }
}

impl Content {
    /// What was seen of the result of `key`.
    pub fn new(
        key: CacheKey,
        selector: TreeDigest,
        digest: TreeDigest,
        of: ChainId,
        signer: Option<&Signer>,
    ) -> Self {
        let mut c = Self { digest, of, signature: None };
        c.signature = signer.map(|s| s.sign(&c.message(key, selector)));
        c
    }

    fn message(&self, key: CacheKey, selector: TreeDigest) -> Vec<u8> {
        format!("rgraph cache content\n{key} {selector} {} {}\n", self.digest, self.of).into_bytes()
    }

    /// Whether it may be believed.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        key: CacheKey,
        selector: TreeDigest,
        trust: &Trust,
    ) -> Result<(), &'static str> {
        trust.check(&self.message(key, selector), self.signature.as_deref())
    }

    /// One line: digest, chain ID, signature.
    pub fn to_line(&self) -> String {
        match &self.signature {
            Some(s) => format!("{} {} {s}\n", self.digest, self.of),
            None => format!("{} {}\n", self.digest, self.of),
        }
    }

    /// Reads the line.
    pub fn from_line(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        let mut words = text.split(' ');
        let (digest, of) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let signature = words.next().map(str::to_owned);
        words.next().is_none().then_some(Self { digest, of, signature })
    }
}

/// A record with the digests that go with it, by selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The result.
    pub record: RecordFile,
    /// What was seen of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contents: BTreeMap<TreeDigest, Content>,
}

impl Entry {
    /// The digest under a selector, when it is about the tree of the record.
    pub fn content(&self, selector: TreeDigest) -> Option<&Content> {
        let of = self.record.chain();
        self.contents.get(&selector).filter(|c| Some(c.of) == of)
    }

    /// Brings a newer entry of the same key in: of one tree both count, else the newer one.
    pub fn merge(&mut self, newer: Self) {
        if self.record.chain() != newer.record.chain() {
            *self = newer;
            return;
        }
        for (selector, c) in newer.contents {
            let known = self.contents.get(&selector);
            // As a record: signed anew only by who signs.
            if known.is_none_or(|k| k.digest != c.digest || k.of != c.of || c.signature.is_some()) {
                self.contents.insert(selector, c);
            }
        }
        if !newer.record.adds_nothing_to(&self.record) {
            self.record = newer.record;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_ir::request::{PublicKey, Secret};

    fn layer(n: u8, blob: bool) -> LayerFile {
        let blob = blob.then(|| BlobFile {
            digest: BlobDigest::of(&[n]),
            size: 1,
            media_type: rgraph_image::manifest::OCI_LAYER_ZSTD.to_owned(),
        });
        LayerFile { diff_id: DiffId::of(&[n]), blob }
    }

    fn record(layers: &[(u8, bool)], signer: Option<&Signer>) -> RecordFile {
        let key = CacheKey::of(b"k");
        let layers = layers.iter().map(|(n, b)| layer(*n, *b)).collect();
        RecordFile::new(key, key, layers, ("RUN x", 1), signer)
    }

    fn entry(layers: &[(u8, bool)], contents: &[u8]) -> Entry {
        let record = record(layers, None);
        let of = record.chain().unwrap();
        let one = |n: &u8| {
            let (sel, d) = (TreeDigest::of(&[*n]), TreeDigest::of(&[*n, 1]));
            (sel, Content::new(record.key, sel, d, of, None))
        };
        Entry { contents: contents.iter().map(one).collect(), record }
    }

    #[test]
    fn entries_of_one_tree_merge_and_another_tree_replaces() {
        let full = &[(1, true), (2, true)][..];
        let bare = &[(1, false), (2, false)][..];
        for (old, new, want) in [
            (entry(full, &[1]), entry(bare, &[2]), entry(full, &[1, 2])),
            (entry(bare, &[1]), entry(full, &[]), entry(full, &[1])),
            (entry(full, &[1]), entry(&[(3, false)], &[2]), entry(&[(3, false)], &[2])),
        ] {
            let mut got = old.clone();
            got.merge(new);
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_digest_of_another_tree_is_none() {
        let mut e = entry(&[(1, true)], &[1]);
        let sel = TreeDigest::of(&[1]);
        assert!(e.content(sel).is_some());
        e.record = record(&[(2, true)], None);
        assert!(e.content(sel).is_none());
    }

    #[test]
    fn what_is_signed_cannot_be_changed() {
        let seed = Secret::new(vec![5; 32]);
        let signer = Signer::new(&seed);
        let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(seed.expose()).unwrap();
        let public: &[u8] = ring::signature::KeyPair::public_key(&pair).as_ref();
        let trust = Trust::new(&[PublicKey(public.try_into().unwrap())]);
        let good = record(&[(1, true)], Some(&signer));
        let back: RecordFile = serde_json::from_slice(&good.to_json()).unwrap();
        assert_eq!(back.check(good.key, &trust), Ok(()));
        let mut bad = good.clone();
        bad.layers[0] = layer(2, true);
        assert!(bad.check(good.key, &trust).is_err());
        let mut bad = good.clone();
        bad.canonical = CacheKey::of(b"other");
        assert!(bad.check(good.key, &trust).is_err());
        assert!(record(&[(1, true)], None).check(good.key, &trust).is_err());
        assert!(record(&[(1, true)], None).check(good.key, &Trust::default()).is_ok());

        let (sel, d) = (TreeDigest::of(b"s"), TreeDigest::of(b"d"));
        let c = Content::new(good.key, sel, d, good.chain().unwrap(), Some(&signer));
        let back = Content::from_line(c.to_line().as_bytes()).unwrap();
        assert_eq!(back.check(good.key, sel, &trust), Ok(()));
        assert!(back.check(CacheKey::of(b"other"), sel, &trust).is_err());
        assert!(Content { digest: sel, ..back }.check(good.key, sel, &trust).is_err());
    }

    #[test]
    fn records_out_of_bounds_are_refused() {
        let key = CacheKey::of(b"k");
        let many: Vec<_> = (0..=limits::MAX_LAYERS).map(|n| (n as u8, false)).collect();
        let mut odd = record(&[(1, true)], None);
        odd.layers[0].blob.as_mut().unwrap().media_type = "text/html\n".into();
        for (r, k, good) in [
            (record(&[(1, true)], None), key, true),
            (record(&[(1, true)], None), CacheKey::of(b"other"), false),
            (record(&[], None), key, false),
            (record(&many[1..], None), key, true),
            (record(&many, None), key, false),
            (odd, key, false),
            (RecordFile { version: 2, ..record(&[(1, true)], None) }, key, false),
        ] {
            assert_eq!(r.check(k, &Trust::default()).is_ok(), good, "{r:?}");
        }
        for line in ["", "blake3:00\n", "x y\n", &format!("{} \n", TreeDigest::of(b""))] {
            assert_eq!(Content::from_line(line.as_bytes()), None, "{line:?}");
        }
    }
}
