//! A cache within an image: its config says which keys its own layers are the results of, and what
//! was seen of other results on the way. No bytes are added to the image but these.

use std::collections::{BTreeMap, BTreeSet};

use rgraph_ir::limits::MAX_INLINE_KEYS;
use rgraph_ir::{CacheKey, ChainId, DiffId, Graph, Target, TreeDigest, VertexId};
use rgraph_store::{BlobRef, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bundle::Loaded;
use super::entry::{Content, LayerFile, RecordFile};
use super::export::Contents;
use super::hints::step;
use super::sign::Signer;

/// The field of the image's config.
pub const FIELD: &str = "rgraph.cache.v1";
/// BuildKit's field for the same.
pub const BUILDKIT_FIELD: &str = "moby.buildkit.cache.v0";

#[derive(Serialize, Deserialize)]
struct Keys {
    results: Vec<ResultKeys>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    contents: Vec<ContentKeys>,
    /// What the results' steps do, whatever they run on; only explanations read that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<TreeDigest>,
}

#[derive(Serialize, Deserialize)]
struct ResultKeys {
    key: CacheKey,
    canonical: CacheKey,
    /// How many of the image's layers it consists of.
    layers: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ContentKeys {
    key: CacheKey,
    selector: TreeDigest,
    digest: TreeDigest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// What a build knows for its images' configs.
pub struct InlineCache {
    /// Key and canonical key.
    keys: BTreeMap<VertexId, (CacheKey, CacheKey)>,
    contents: BTreeSet<(CacheKey, TreeDigest, TreeDigest)>,
    steps: BTreeMap<VertexId, TreeDigest>,
    signer: Option<Signer>,
}

/// The whole stack.
fn chain(layers: &[DiffId]) -> Option<ChainId> {
    let base = ChainId::base(*layers.first()?);
    Some(layers[1..].iter().fold(base, |c, d| c.with(*d)))
}

fn record(key: CacheKey, canonical: CacheKey, layers: &[DiffId], s: Option<&Signer>) -> RecordFile {
    let layers = layers.iter().map(|d| LayerFile { diff_id: *d, blob: None });
    // Without a time: the image would differ with it.
    RecordFile::new(key, canonical, layers.collect(), ("", 0), s)
}

impl InlineCache {
    /// What the build with these keys saw.
    ///
    /// # Errors
    /// The store's.
    pub fn new(
        store: &Store,
        graph: &Graph,
        keys: &BTreeMap<VertexId, CacheKey>,
        seen: &Contents,
        signer: Option<Signer>,
    ) -> Result<Self, StoreError> {
        let mut both = BTreeMap::new();
        let mut contents: BTreeSet<_> = seen.iter().map(|((k, s), d)| (*k, *s, *d)).collect();
        for (v, key) in keys {
            let canonical = store.canonical(key)?.unwrap_or(*key);
            both.insert(*v, (*key, canonical));
            // Whoever reads this knows the key first.
            let under = |k: CacheKey| seen.range((k, TreeDigest::from_bytes([0; 32]))..);
            let of = under(canonical).take_while(|((k, _), _)| *k == canonical);
            contents.extend(of.map(|((_, s), d)| (*key, *s, *d)));
        }
        let steps = keys.keys().map(|v| (*v, step(&graph.vertex(*v).op))).collect();
        Ok(Self { keys: both, contents, steps, signer })
    }

    /// The field for an image with these layers, bottom first.
    pub fn of(&self, target: &Target, layers: &[DiffId]) -> (String, Value) {
        let signer = self.signer.as_ref();
        let layers_of = || target.history.iter().filter_map(|h| h.layer);
        let steps = layers_of().filter_map(|e| self.steps.get(&e.vertex).copied()).collect();
        let made = target.history.iter().filter_map(|h| h.layer).zip(target.base.layers + 1..);
        let result = |(edge, n): (rgraph_ir::Edge, usize)| {
            let (key, canonical) = *self.keys.get(&edge.vertex)?;
            let r = record(key, canonical, layers.get(..n)?, signer);
            Some(ResultKeys { key, canonical, layers: n, signature: r.signature().cloned() })
        };
        let results: Vec<_> = made.filter_map(result).collect();
        let content = |(key, selector, digest): &(CacheKey, TreeDigest, TreeDigest)| {
            let c = Content::new(*key, *selector, *digest, chain(layers)?, signer);
            let (key, selector, digest) = (*key, *selector, *digest);
            Some(ContentKeys { key, selector, digest, signature: c.signature })
        };
        let contents = self.contents.iter().filter_map(content).collect();
        let keys = Keys { results, contents, steps };
        let value = serde_json::to_value(keys).expect("strings and digests always serialise");
        (FIELD.to_owned(), value)
    }
}

/// Reads the field of an image with these layers, bottom first.
///
/// # Errors
/// What is wrong with it.
pub fn read(field: &Value, layers: &[(DiffId, BlobRef)], platform: &str) -> Result<Loaded, String> {
    let keys = Keys::deserialize(field).map_err(|e| e.to_string())?;
    let longest = keys.results.len().max(keys.contents.len()).max(keys.steps.len());
    if longest > MAX_INLINE_KEYS {
        return Err("it has more keys than a cache may have".to_owned());
    }
    let diff_ids: Vec<DiffId> = layers.iter().map(|(d, _)| *d).collect();
    let mut out = Loaded { blobs: layers.iter().cloned().collect(), ..Loaded::default() };
    keys.steps.iter().for_each(|s| out.platforms.note(*s, platform));
    for r in keys.results {
        let stack = diff_ids.get(..r.layers).ok_or("it counts more layers than there are")?;
        let rec = record(r.key, r.canonical, stack, None).with_signature(r.signature);
        out.records.insert(r.key, rec);
    }
    if let Some(of) = chain(&diff_ids) {
        for c in keys.contents {
            let content = Content { digest: c.digest, of, signature: c.signature };
            out.contents.insert((c.key, c.selector), content);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_ir::BlobDigest;
    use serde_json::json;

    fn layers(n: u8) -> Vec<(DiffId, BlobRef)> {
        let one = |n: u8| {
            let media_type = rgraph_image::manifest::OCI_LAYER_GZIP.to_owned();
            (DiffId::of(&[n]), BlobRef { digest: BlobDigest::of(&[n]), size: 1, media_type })
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn results_are_the_lowest_layers_of_the_image() {
        let (key, sel) = (CacheKey::of(b"k"), TreeDigest::of(b"s"));
        let field = json!({
            "results": [{"key": key, "canonical": key, "layers": 2}],
            "contents": [{"key": key, "selector": sel, "digest": sel}],
        });
        let read = read(&field, &layers(3), "linux/arm64").unwrap();
        let got: Vec<_> = read.records[&key].layers.iter().map(|l| l.diff_id).collect();
        assert_eq!(got, [DiffId::of(&[0]), DiffId::of(&[1])]);
        assert_eq!(read.contents[&(key, sel)].digest, sel);
        assert_eq!(read.blobs.len(), 3);
    }

    #[test]
    fn what_is_no_cache_is_refused() {
        let key = CacheKey::of(b"k");
        let result = json!({"key": key, "canonical": key, "layers": 1});
        let many = |n: usize| json!({"results": vec![&result; n]});
        assert!(read(&many(MAX_INLINE_KEYS), &layers(1), "").is_ok());
        for field in [
            json!(null),
            json!([]),
            json!({"results": 3}),
            json!({"results": [{"key": "x", "canonical": key, "layers": 1}]}),
            json!({"results": [{"key": key, "canonical": key, "layers": -1}]}),
            json!({"results": [{"key": key, "canonical": key, "layers": 4}]}),
            many(MAX_INLINE_KEYS + 1),
        ] {
            let short: String = field.to_string().chars().take(80).collect();
            assert!(read(&field, &layers(3), "").is_err(), "{short}");
        }
    }
}
