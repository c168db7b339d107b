//! Manifests, indexes and descriptors (image-spec, manifest.md, image-index.md, descriptor.md;
//! distribution, "Image Manifest V 2, Schema 2").
//!
//! Reading is strict: a document is a manifest or an index, never both, and says the same thing as
//! the header it came with (CVE-2021-41190).

use std::collections::BTreeMap;

use rgraph_ir::limits::{MAX_LAYERS, MAX_MANIFEST};
use rgraph_ir::request::Compression;
use rgraph_ir::{BlobDigest, Platform};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{self, JsonError};

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, plain tar.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, plain tar.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd; written by some tools, in no specification.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// Most entries of an index.
const MAX_ENTRIES: usize = 10_000;

/// Why a manifest or index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("bad manifest")]
    Json(#[from] JsonError),
    /// Docker's first format.
    #[error(
        "the image has a schema 1 manifest, a format that was given up in 2017: push it again with a current tool"
    )]
    Schema1,
    /// A version that does not exist.
    #[error("the manifest has the schema version {0}, 2 is the only one")]
    Version(i64),
    /// It claims to be two things.
    #[error("the manifest is ambiguous: {0}")]
    Ambiguous(String),
    /// It is something else.
    #[error("the media type `{0}` is neither an image manifest nor an index")]
    MediaType(String),
    /// There is too much of something.
    #[error("the manifest has {got} {what}, {limit} are allowed")]
    Limit {
        /// What.
        what: &'static str,
        /// How many.
        got: usize,
        /// The most.
        limit: usize,
    },
    /// None of the index's images runs there.
    #[error("no image for {want}, there are: {}", if .have.is_empty() { "none".to_owned() } else { .have.join(", ") })]
    NoPlatform {
        /// Asked for.
        want: Platform,
        /// What the index lists.
        have: Vec<String>,
    },
}

/// Names a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
    /// Other places to find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Its content in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What an image of an index runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformObject>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// `platform` of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PlatformObject {
    /// GOARCH.
    #[serde(default)]
    pub architecture: String,
    /// GOOS.
    #[serde(default)]
    pub os: String,
    /// Windows build number.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the os it needs.
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// `v7`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An image: its config and layers, bottom first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: i64,
    /// [`OCI_MANIFEST`] or [`DOCKER_MANIFEST`].
    pub media_type: String,
    /// What an artifact is; `None` for an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config blob.
    pub config: Descriptor,
    /// The layer blobs.
    pub layers: Vec<Descriptor>,
    /// What this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Several images.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: i64,
    /// [`OCI_INDEX`] or [`DOCKER_INDEX`].
    pub media_type: String,
    /// What an artifact is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The images.
    pub manifests: Vec<Descriptor>,
    /// What this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What a manifest request may answer with.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one is read per image, and taken apart at once")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
    // Schema 1, whatever is in them.
    fs_layers: Option<Value>,
    signatures: Option<Value>,
}

/// True for the types of what names layers, and so is none.
fn is_document(media_type: &str) -> bool {
    matches!(
        media_type,
        OCI_INDEX | DOCKER_INDEX | OCI_MANIFEST | DOCKER_MANIFEST | OCI_CONFIG | DOCKER_CONFIG
    )
}

impl Document {
    /// Checks what an index says of a document: it has one type and one size.
    pub fn check(&self, entry: &Descriptor, size: u64) -> Result<(), ManifestError> {
        let own = match self {
            Self::Manifest(m) => &m.media_type,
            Self::Index(i) => &i.media_type,
        };
        let ambiguous = |why: String| Err(ManifestError::Ambiguous(why));
        if !entry.media_type.is_empty() && entry.media_type != *own {
            let said = cut(&entry.media_type);
            return ambiguous(format!("its index says `{said}`, it is a `{}`", cut(own)));
        }
        if entry.size != size {
            let said = entry.size;
            return ambiguous(format!("its index says that it has {said} bytes, it has {size}"));
        }
        Ok(())
    }

    /// Reads a manifest or index. `header`: the media type it was announced with, if any; general
    /// ones such as `application/json` say nothing.
    pub fn parse(bytes: &[u8], header: Option<&str>) -> Result<Self, ManifestError> {
        let header = header
            .map(|h| h.split(';').next().unwrap_or(h).trim())
            .filter(|h| !h.is_empty() && !is_general(h));
        if header.is_some_and(|h| h.starts_with("application/vnd.docker.distribution.manifest.v1"))
        {
            return Err(ManifestError::Schema1);
        }
        json::check(bytes, MAX_MANIFEST)?;
        // Schema 1 has other types in fields of the same names, so it is told first.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            schema_version: Option<i64>,
        }
        let version: Version = json::read(bytes, MAX_MANIFEST)?;
        match version.schema_version {
            Some(1) => return Err(ManifestError::Schema1),
            Some(2) => {}
            other => return Err(ManifestError::Version(other.unwrap_or(0))),
        }
        let raw: Raw = json::read(bytes, MAX_MANIFEST)?;
        let ambiguous = |why: String| Err(ManifestError::Ambiguous(why));
        if raw.fs_layers.is_some() || raw.signatures.is_some() {
            return ambiguous("it has fields of schema 1 and of schema 2".to_owned());
        }
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return ambiguous("it has `manifests` and `layers` or `config`".to_owned());
        }
        if let (Some(h), Some(b)) = (header, &raw.media_type)
            && h != b
        {
            return ambiguous(format!("its header says `{h}`, its body says `{}`", cut(b)));
        }
        let said = raw.media_type.as_deref().or(header);
        let index = match said {
            Some(OCI_INDEX | DOCKER_INDEX) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            Some(other) => return Err(ManifestError::MediaType(cut(other))),
            None => raw.manifests.is_some(),
        };
        let media_type = said.unwrap_or(if index { OCI_INDEX } else { OCI_MANIFEST }).to_owned();
        let (artifact_type, subject, annotations) =
            (raw.artifact_type, raw.subject, raw.annotations);
        match (index, raw.manifests, raw.config, raw.layers) {
            (true, Some(manifests), _, _) => {
                limit("entries", manifests.len(), MAX_ENTRIES)?;
                Ok(Self::Index(Index {
                    schema_version: 2,
                    media_type,
                    artifact_type,
                    manifests,
                    subject,
                    annotations,
                }))
            }
            (false, None, Some(config), Some(layers)) => {
                limit("layers", layers.len(), MAX_LAYERS)?;
                let document = |l: &&Descriptor| is_document(&l.media_type);
                if let Some(l) = layers.iter().find(document) {
                    return ambiguous(format!("one of its layers is a `{}`", l.media_type));
                }
                Ok(Self::Manifest(Manifest {
                    schema_version: 2,
                    media_type,
                    artifact_type,
                    config,
                    layers,
                    subject,
                    annotations,
                }))
            }
            _ => ambiguous(format!("it is said to be `{media_type}` and lacks the fields of one")),
        }
    }
}

fn limit(what: &'static str, got: usize, limit: usize) -> Result<(), ManifestError> {
    if got > limit { Err(ManifestError::Limit { what, got, limit }) } else { Ok(()) }
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn is_general(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "application/octet-stream")
        || media_type.starts_with("text/")
}

impl Descriptor {
    /// A descriptor with nothing optional.
    pub fn new(media_type: &str, digest: BlobDigest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: None,
            annotations: None,
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// True for entries of an index that are about another entry (`unknown/unknown`).
    pub fn is_attestation(&self) -> bool {
        self.platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown")
            || self
                .annotations
                .as_ref()
                .is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
    }
}

impl Manifest {
    /// A manifest of these blobs.
    pub fn new(
        media_type: &str,
        config: Descriptor,
        layers: Vec<Descriptor>,
        annotations: Option<BTreeMap<String, String>>,
    ) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations,
        }
    }

    /// Its bytes, indented as BuildKit's.
    pub fn to_json(&self) -> Vec<u8> {
        json::pretty(self)
    }
}

impl Index {
    /// An index of these images.
    pub fn new(
        media_type: &str,
        manifests: Vec<Descriptor>,
        annotations: Option<BTreeMap<String, String>>,
    ) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type.to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations,
        }
    }

    /// Its bytes, indented as BuildKit's.
    pub fn to_json(&self) -> Vec<u8> {
        json::pretty(self)
    }

    /// Its bytes on one line, as `index.json` has them.
    pub fn to_json_line(&self) -> Vec<u8> {
        json::compact(self)
    }

    /// The image that fits `want` best: the same platform, else the nearest variant that runs
    /// there, else one of a narrower architecture (386 on amd64, arm on arm64). A lone entry
    /// without a platform fits everything.
    pub fn choose(&self, want: &Platform) -> Result<&Descriptor, ManifestError> {
        let want = want.clone().normalize();
        let images = || self.manifests.iter().filter(|d| !d.is_attestation());
        let version = |p: &Platform| p.variant.trim_start_matches('v').parse().unwrap_or(0i64);
        let best = images()
            .filter_map(|d| Some((d, d.platform.as_ref()?.to_ir())))
            .filter(|(_, p)| p.runs_on(&want))
            .filter(|(_, p)| {
                want.os_version.is_empty()
                    || p.os_version.is_empty()
                    || p.os_version == want.os_version
            })
            .enumerate()
            .max_by_key(|(i, (_, p))| {
                let same_arch = p.architecture == want.architecture;
                // Without a wish the lowest variant runs in most places, with one the highest
                // that still runs is the best.
                let near =
                    if same_arch && want.variant.is_empty() { -version(p) } else { version(p) };
                (same_arch, p.variant == want.variant, near, std::cmp::Reverse(*i))
            });
        if let Some((_, (d, _))) = best {
            return Ok(d);
        }
        let mut all = images();
        if let (Some(only), None) = (all.next(), all.next())
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let have = images()
            .filter_map(|d| Some(cut(&d.platform.as_ref()?.to_ir().to_string())))
            .take(100)
            .collect();
        Err(ManifestError::NoPlatform { want, have })
    }
}

impl PlatformObject {
    /// Normalised.
    pub fn to_ir(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().unwrap_or_default(),
            os_version: self.os_version.clone().unwrap_or_default(),
        }
        .normalize()
    }

    /// As descriptors have it.
    pub fn of(p: &Platform) -> Self {
        let some = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
        Self {
            architecture: p.architecture.clone(),
            os: p.os.clone(),
            os_version: some(&p.os_version),
            os_features: None,
            variant: some(&p.variant),
        }
    }
}

/// How a layer of this media type is compressed; `None`: it is no layer.
pub fn layer_compression(media_type: &str) -> Option<Compression> {
    // Layers that may not be pushed everywhere differ in their names only.
    let plain = media_type
        .replace("layer.nondistributable.", "layer.")
        .replace("rootfs.foreign.diff", "rootfs.diff");
    match plain.as_str() {
        OCI_LAYER | DOCKER_LAYER => Some(Compression::Uncompressed),
        OCI_LAYER_GZIP | DOCKER_LAYER_GZIP => Some(Compression::Gzip),
        OCI_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Some(Compression::Zstd),
        _ => None,
    }
}

/// The media type of a layer; `None`: Docker's types have no zstd.
pub fn layer_media_type(how: Compression, oci: bool) -> Option<&'static str> {
    Some(match (how, oci) {
        (Compression::Uncompressed, true) => OCI_LAYER,
        (Compression::Uncompressed, false) => DOCKER_LAYER,
        (Compression::Gzip, true) => OCI_LAYER_GZIP,
        (Compression::Gzip, false) => DOCKER_LAYER_GZIP,
        (Compression::Zstd, true) => OCI_LAYER_ZSTD,
        (Compression::Zstd, false) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desc(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":3}}"#, "a".repeat(64))
    }

    fn manifest(extra: &str) -> String {
        let (c, l) = (desc(OCI_CONFIG), desc(OCI_LAYER_GZIP));
        format!(r#"{{"schemaVersion":2,"config":{c},"layers":[{l}]{extra}}}"#)
    }

    fn index(platforms: &[&str]) -> Index {
        let manifests = platforms
            .iter()
            .enumerate()
            .map(|(i, p)| {
                let mut d = Descriptor::new(OCI_MANIFEST, BlobDigest::of(&[i as u8]), 1);
                if *p == "unknown/unknown" {
                    let unknown = || "unknown".to_owned();
                    d.platform = Some(PlatformObject {
                        os: unknown(),
                        architecture: unknown(),
                        ..PlatformObject::default()
                    });
                } else if !p.is_empty() {
                    d.platform = Some(PlatformObject::of(&p.parse().unwrap()));
                }
                d
            })
            .collect();
        Index::new(OCI_INDEX, manifests, None)
    }

    #[test]
    fn documents_are_told_apart() {
        for (text, header, ok) in [
            (manifest(""), None, true),
            (manifest(""), Some(OCI_MANIFEST), true),
            (manifest(""), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"), true),
            (manifest(""), Some("text/plain"), true),
            (manifest(""), Some(OCI_INDEX), false),
            (manifest(r#","mediaType":"application/vnd.oci.image.index.v1+json""#), None, false),
            (manifest(&format!(r#","mediaType":"{OCI_MANIFEST}""#)), Some(DOCKER_MANIFEST), false),
            (manifest(r#","mediaType":"text/html""#), None, false),
            (manifest(r#","manifests":[]"#), None, false),
            (manifest(r#","fsLayers":[]"#), None, false),
            (manifest("").replace("\"schemaVersion\":2", "\"schemaVersion\":3"), None, false),
            (manifest("").replace("\"schemaVersion\":2,", ""), None, false),
            (manifest("").replace("\"size\":3", "\"size\":-1"), None, false),
            (manifest("").replace("\"size\":3", "\"size\":1e3"), None, false),
            (manifest("").replace("sha256:a", "sha256:/"), None, false),
            (manifest("").replace("\"layers\"", "\"leyers\""), None, false),
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), None, true),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.into(), None, false),
            (r#"{"schemaVersion":2,"manifests":null,"layers":null}"#.into(), None, false),
            ("[".repeat(200_000), None, false),
            ("null".into(), None, false),
            (String::new(), None, false),
        ] {
            let got = Document::parse(text.as_bytes(), header);
            assert_eq!(got.is_ok(), ok, "{} {header:?}: {got:?}", &text[..text.len().min(200)]);
        }
    }

    #[test]
    fn schema_1_is_named() {
        let text = r#"{"schemaVersion":1,"name":"x","fsLayers":[{"blobSum":"x"}],"history":[]}"#;
        for (text, header) in [
            (text, None),
            (text, Some("application/vnd.docker.distribution.manifest.v1+prettyjws")),
        ] {
            let e = Document::parse(text.as_bytes(), header).unwrap_err();
            assert!(matches!(e, ManifestError::Schema1), "{e}");
        }
    }

    #[test]
    fn layers_are_counted() {
        let with = |n: usize| {
            let l = vec![desc(OCI_LAYER); n].join(",");
            format!(r#"{{"schemaVersion":2,"config":{},"layers":[{l}]}}"#, desc(OCI_CONFIG))
        };
        assert!(Document::parse(with(MAX_LAYERS).as_bytes(), None).is_ok());
        assert!(Document::parse(with(MAX_LAYERS + 1).as_bytes(), None).is_err());
    }

    #[test]
    fn platforms_are_chosen() {
        for (have, want, choice) in [
            (&["linux/arm64", "linux/amd64"][..], "linux/amd64", Some(1)),
            (&["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", Some(1)),
            (&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some(1)),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/386"], "linux/amd64", Some(0)),
            (&["linux/386", "linux/amd64"], "linux/amd64", Some(1)),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm64", Some(1)),
            (&["linux/amd64/v3", "linux/amd64/v2"], "linux/amd64/v3", Some(0)),
            (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some(1)),
            (&["unknown/unknown"], "linux/amd64", None),
            (&["unknown/unknown", "linux/amd64"], "linux/amd64", Some(1)),
            (&["windows/amd64"], "linux/amd64", None),
            (&[""], "linux/amd64", Some(0)),
            (&["", ""], "linux/amd64", None),
            (&[], "linux/amd64", None),
        ] {
            let index = index(have);
            let got = index.choose(&want.parse().unwrap()).ok();
            let want_digest = choice.map(|i: u8| BlobDigest::of(&[i]));
            assert_eq!(got.map(|d| d.digest), want_digest, "{have:?} for {want}");
        }
        let e = index(&["linux/arm64", "unknown/unknown"])
            .choose(&Platform::linux_amd64())
            .unwrap_err();
        assert_eq!(e.to_string(), "no image for linux/amd64, there are: linux/arm64");
    }

    #[test]
    fn what_was_written_is_read() {
        let m = Manifest::new(
            OCI_MANIFEST,
            Descriptor::new(OCI_CONFIG, BlobDigest::of(b"c"), 1),
            vec![Descriptor::new(OCI_LAYER_ZSTD, BlobDigest::of(b"l"), u64::MAX >> 1)],
            Some([("a".to_owned(), "b".to_owned())].into()),
        );
        let bytes = m.to_json();
        assert!(bytes.starts_with(b"{\n  \"schemaVersion\": 2,\n  \"mediaType\""));
        assert_eq!(Document::parse(&bytes, None).unwrap(), Document::Manifest(m));
    }
}
