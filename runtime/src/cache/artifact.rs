//! A whole cache as an OCI artifact: one list that names batches of entries and the layers they
//! speak of, so that registries keep them and tools that copy images copy a cache.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use rgraph_image::layer::{Compressor, decompress_layer};
use rgraph_image::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST, layer_compression,
    layer_media_type,
};
use rgraph_ir::limits::{MAX_CACHE_BATCH_PLAIN, MAX_CACHE_BATCHES, MAX_CACHE_BLOBS};
use rgraph_ir::request::Compression;
use rgraph_ir::{BlobDigest, CacheKey};
use serde::{Deserialize, Serialize};

use super::entry::{BlobFile, Entry};
use super::hints::Hints;

/// What the artifact is.
pub const ARTIFACT: &str = "application/vnd.rgraph.cache.v1";
/// A batch of entries: JSON under zstd.
pub const ENTRIES: &str = "application/vnd.rgraph.cache.entries.v1+json.zstd";
/// The config of an artifact that has none.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The bytes of [`EMPTY`].
pub const EMPTY_BYTES: &[u8] = b"{}";
/// The annotation that says which batches are in others now.
const ABSORBED: &str = "vnd.rgraph.cache.v1.absorbed";
/// BuildKit's caches.
const BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";

/// How the list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// An image manifest; false: an index, as older registries took caches.
    pub image_manifest: bool,
    /// OCI's media types; false: Docker's.
    pub oci: bool,
}

/// What an artifact names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Batches of entries, oldest first.
    pub batches: Vec<BlobFile>,
    /// Layers.
    pub blobs: BTreeMap<BlobDigest, BlobFile>,
    /// Batches whose entries are in others now.
    pub absorbed: BTreeSet<BlobDigest>,
}

/// What was found where a cache was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A cache.
    Listing(Listing),
    /// A cache of BuildKit's.
    BuildKit,
    /// An image: its config may hold a cache.
    Image {
        /// Its config.
        config: Box<Descriptor>,
        /// Its layers, bottom first.
        layers: Vec<Descriptor>,
    },
    /// Several images.
    Images(Vec<Descriptor>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: i64,
    #[serde(default)]
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Listing {
    /// The document and its media type.
    pub fn to_json(&self, form: Form) -> (Vec<u8>, &'static str) {
        let layer_type = |b: &BlobFile| {
            let how = layer_compression(&b.media_type);
            let named = how.and_then(|h| layer_media_type(h, form.oci));
            named.unwrap_or(&b.media_type).to_owned()
        };
        let batches = self.batches.iter().map(|b| Descriptor::new(ENTRIES, b.digest, b.size));
        let blobs = self.blobs.values();
        let blobs = blobs.map(|b| Descriptor::new(&layer_type(b), b.digest, b.size));
        let all: Vec<Descriptor> = batches.chain(blobs).collect();
        let media_type = match (form.image_manifest, form.oci) {
            (true, true) => OCI_MANIFEST,
            (true, false) => DOCKER_MANIFEST,
            (false, true) => OCI_INDEX,
            (false, false) => DOCKER_INDEX,
        };
        let empty = Descriptor::new(EMPTY, BlobDigest::of(EMPTY_BYTES), EMPTY_BYTES.len() as u64);
        let (config, layers, manifests) = match form.image_manifest {
            true => (Some(empty), Some(all), None),
            false => (None, None, Some(all)),
        };
        let doc = Document {
            schema_version: 2,
            media_type: media_type.to_owned(),
            artifact_type: form.oci.then(|| ARTIFACT.to_owned()),
            config,
            layers,
            manifests,
            annotations: self.annotations(),
        };
        (serde_json::to_vec(&doc).expect("strings and digests always serialise"), media_type)
    }
}

impl Listing {
    /// Whether a batch's entries are in it.
    pub fn has(&self, batch: &BlobDigest) -> bool {
        self.absorbed.contains(batch) || self.batches.iter().any(|b| b.digest == *batch)
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let all: Vec<String> = self.absorbed.iter().map(ToString::to_string).collect();
        let absorbed = (!all.is_empty()).then(|| (ABSORBED.to_owned(), all.join(" ")));
        absorbed.into_iter().collect()
    }
}

impl Found {
    /// Reads a manifest or index.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let doc: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let all = doc.layers.iter().chain(&doc.manifests).flatten();
        let config_type = doc.config.as_ref().map_or("", |c| c.media_type.as_str());
        if config_type == BUILDKIT || all.clone().any(|d| d.media_type == BUILDKIT) {
            return Ok(Self::BuildKit);
        }
        let ours = doc.artifact_type.as_deref() == Some(ARTIFACT)
            || all.clone().any(|d| d.media_type == ENTRIES);
        if ours {
            let mut out = Listing::default();
            let absorbed = doc.annotations.get(ABSORBED).map_or("", String::as_str);
            out.absorbed = absorbed.split(' ').filter_map(|d| d.parse().ok()).collect();
            for d in all {
                let blob =
                    BlobFile { media_type: d.media_type.clone(), digest: d.digest, size: d.size };
                if d.media_type == ENTRIES {
                    out.batches.push(blob);
                } else if layer_compression(&d.media_type).is_some() {
                    out.blobs.insert(d.digest, blob);
                }
            }
            if out.batches.len() > MAX_CACHE_BATCHES || out.blobs.len() > MAX_CACHE_BLOBS {
                return Err("it lists more than a cache may have".to_owned());
            }
            return Ok(Self::Listing(out));
        }
        match (doc.config, doc.layers, doc.manifests) {
            (Some(config), Some(layers), None) => {
                Ok(Self::Image { config: Box::new(config), layers })
            }
            (None, None, Some(images)) => Ok(Self::Images(images)),
            _ => Err("it is neither an image nor an index".to_owned()),
        }
    }
}

/// A batch of entries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    version: u32,
    /// Results and what was seen of them.
    pub entries: Vec<Entry>,
    /// For which platforms steps are known.
    #[serde(default, skip_serializing_if = "Hints::is_empty")]
    pub platforms: Hints,
}

/// Packs entries; the same entries give the same bytes.
pub fn pack<'e>(entries: impl Iterator<Item = &'e Entry>, platforms: Hints) -> Vec<u8> {
    let entries = entries.cloned().collect();
    let plain = serde_json::to_vec(&Batch { version: 1, entries, platforms });
    let plain = plain.expect("strings and digests always serialise");
    let pack = || -> std::io::Result<Vec<u8>> {
        let mut out = Compressor::new(Vec::new(), Compression::Zstd, None)?;
        out.write_all(&plain)?;
        out.finish()
    };
    pack().expect("memory takes all that is written")
}

/// Packs any number of entries into as many batches as that takes.
pub fn pack_all<'e>(entries: impl Iterator<Item = &'e Entry>, platforms: &Hints) -> Vec<Vec<u8>> {
    // The first one has the platforms, some names a step.
    let mut platforms = platforms.clone();
    let (mut out, mut some, mut bytes) = (Vec::new(), Vec::new(), 256 * platforms.len());
    for e in entries {
        // What a layer and a digest come to, at most.
        bytes += 512 * (2 + e.record.layers.len() + e.contents.len());
        some.push(e);
        if bytes > MAX_CACHE_BATCH_PLAIN as usize / 2 {
            out.push(pack(some.drain(..), std::mem::take(&mut platforms)));
            bytes = 0;
        }
    }
    if !some.is_empty() || out.is_empty() {
        out.push(pack(some.into_iter(), platforms));
    }
    out
}

/// Reads a batch. Its entries are still to be checked.
///
/// # Errors
/// What is wrong with it.
pub fn unpack(bytes: &[u8]) -> Result<Batch, String> {
    unpack_within(bytes, MAX_CACHE_BATCH_PLAIN)
}

fn unpack_within(bytes: &[u8], max: u64) -> Result<Batch, String> {
    let mut plain = Vec::new();
    let read = decompress_layer(bytes).and_then(|r| r.take(max + 1).read_to_end(&mut plain));
    read.map_err(|e| e.to_string())?;
    if plain.len() as u64 > max {
        return Err(format!("it is larger than {max} bytes"));
    }
    let batch: Batch = serde_json::from_slice(&plain).map_err(|e| e.to_string())?;
    match batch.version {
        1 => Ok(batch),
        v => Err(format!("it has the version {v}")),
    }
}

/// Adds entries to a map, each merged with what is known of its key.
pub fn add(to: &mut BTreeMap<CacheKey, Entry>, entries: Vec<Entry>) {
    for e in entries {
        match to.entry(e.record.key) {
            std::collections::btree_map::Entry::Occupied(mut old) => old.get_mut().merge(e),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(e);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{LayerFile, RecordFile};
    use rgraph_image::manifest::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
    use rgraph_ir::DiffId;

    fn blob(text: &str, media_type: &str) -> BlobFile {
        BlobFile {
            digest: BlobDigest::of(text.as_bytes()),
            size: 1,
            media_type: media_type.to_owned(),
        }
    }

    #[test]
    fn a_list_reads_back_in_every_form() {
        let layers = [blob("a", OCI_LAYER_ZSTD), blob("b", OCI_LAYER_GZIP)];
        let listing = Listing {
            batches: vec![blob("r2", ENTRIES), blob("r1", ENTRIES)],
            blobs: layers.iter().map(|b| (b.digest, b.clone())).collect(),
            absorbed: [BlobDigest::of(b"x"), BlobDigest::of(b"y")].into(),
        };
        for (image_manifest, oci) in [(true, true), (true, false), (false, true), (false, false)] {
            let (bytes, media_type) = listing.to_json(Form { image_manifest, oci });
            assert_eq!(media_type.contains("docker"), !oci);
            let Found::Listing(got) = Found::parse(&bytes).unwrap() else { panic!("another kind") };
            assert_eq!((&got.batches, &got.absorbed), (&listing.batches, &listing.absorbed));
            assert!(got.blobs.keys().eq(listing.blobs.keys()));
        }
    }

    #[test]
    fn other_documents_are_told_apart() {
        let d =
            |t: &str| serde_json::to_value(Descriptor::new(t, BlobDigest::of(b"x"), 1)).unwrap();
        let image = serde_json::json!({"schemaVersion": 2, "config": d(OCI_CONFIG),
            "layers": [d(OCI_LAYER_GZIP)]});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [d(OCI_MANIFEST)]});
        let theirs = serde_json::json!({"schemaVersion": 2, "config": d(BUILDKIT),
            "layers": [d(OCI_LAYER_GZIP)]});
        let theirs_too =
            serde_json::json!({"schemaVersion": 2, "manifests": [d(OCI_LAYER_GZIP), d(BUILDKIT)]});
        let parse = |v: &serde_json::Value| Found::parse(v.to_string().as_bytes());
        assert!(matches!(parse(&image), Ok(Found::Image { .. })));
        assert!(matches!(parse(&index), Ok(Found::Images(_))));
        assert_eq!(parse(&theirs), Ok(Found::BuildKit));
        assert_eq!(parse(&theirs_too), Ok(Found::BuildKit));
        for text in ["", "{}", "[]", "{\"schemaVersion\":2}", "{\"schemaVersion\":2,\"layers\":3}"]
        {
            assert!(Found::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn batches_read_back_and_damage_is_found() {
        let key = CacheKey::of(b"k");
        let layers = vec![LayerFile { diff_id: DiffId::of(b"l"), blob: None }];
        let e = Entry {
            record: RecordFile::new(key, key, layers, ("RUN x", 1), None),
            contents: BTreeMap::new(),
        };
        let mut hints = Hints::default();
        hints.note(rgraph_ir::TreeDigest::of(b"step"), "linux/arm64");
        let bytes = pack([&e].into_iter(), hints.clone());
        assert_eq!(bytes, pack([&e].into_iter(), hints.clone()));
        let batch = unpack(&bytes).unwrap();
        assert_eq!((batch.entries, batch.platforms), (vec![e], hints));
        for bad in [&bytes[..bytes.len() / 2], b"", b"{}", br#"{"version":2,"entries":[]}"#] {
            assert!(unpack(bad).is_err(), "{bad:?}");
        }
        let none = br#"{"version":1,"entries":[]}"#;
        assert!(unpack(none).unwrap().entries.is_empty());
        assert!(unpack_within(none, none.len() as u64).is_ok());
        assert!(unpack_within(none, none.len() as u64 - 1).is_err());
    }

    #[test]
    fn a_list_has_its_limits() {
        let many = |batches: usize, blobs: usize| {
            let listing = Listing {
                batches: (0..batches).map(|n| blob(&n.to_string(), ENTRIES)).collect(),
                blobs: (0..blobs)
                    .map(|n| blob(&n.to_string(), OCI_LAYER_ZSTD))
                    .map(|b| (b.digest, b))
                    .collect(),
                ..Listing::default()
            };
            let form = Form { image_manifest: true, oci: true };
            Found::parse(&listing.to_json(form).0)
        };
        assert!(many(MAX_CACHE_BATCHES, MAX_CACHE_BLOBS).is_ok());
        assert!(many(MAX_CACHE_BATCHES + 1, 1).is_err());
        assert!(many(1, MAX_CACHE_BLOBS + 1).is_err());
    }
}
