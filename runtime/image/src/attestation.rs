//! Statements about an image, kept beside it in its index: the form of BuildKit's attestation
//! manifests (docs/attestations/attestation-storage.md of moby/buildkit) around in-toto statements
//! (in-toto/attestation, spec/v1/statement.md).

use std::collections::BTreeMap;

use rgraph_ir::{BlobDigest, ManifestDigest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::json::{self, JsonError};
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_MANIFEST, PlatformObject};

/// Media type of a statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// What a statement says, on its layer.
pub const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// What an entry of an index is.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Which entry of the index it is about.
pub const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// The value of [`REFERENCE_TYPE`].
pub const ATTESTATION: &str = "attestation-manifest";
/// What an attestation manifest is as an artifact.
pub const ARTIFACT_TYPE: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Media type of a document that says nothing.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Largest statement that is read, bytes. BuildKit takes as much.
pub const MAX_STATEMENT: u64 = 40 << 20;

const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A package URL, or a path.
    pub name: String,
    /// Digests by algorithm, in hex.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// Something with a sha256.
    pub fn sha256(name: impl Into<String>, digest: &BlobDigest) -> Self {
        Self { name: name.into(), digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]) }
    }
}

/// Something said of subjects.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// A URI.
    pub predicate_type: String,
    /// What is said.
    pub predicate: Value,
}

#[derive(Serialize)]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'a str,
    #[serde(rename = "predicateType")]
    predicate_type: &'a str,
    subject: &'a [Subject],
    predicate: &'a Value,
}

impl Claim {
    /// The whole statement on one line.
    pub fn statement(&self, subject: &[Subject]) -> Vec<u8> {
        json::compact(&self.said_of(subject))
    }

    /// The whole statement, indented.
    pub fn statement_pretty(&self, subject: &[Subject]) -> Vec<u8> {
        json::pretty(&self.said_of(subject))
    }

    fn said_of<'a>(&'a self, subject: &'a [Subject]) -> Statement<'a> {
        Statement {
            kind: STATEMENT,
            predicate_type: &self.predicate_type,
            subject,
            predicate: &self.predicate,
        }
    }
}

/// An attestation manifest with all it names.
#[derive(Debug, Clone, PartialEq)]
pub struct Attested {
    /// As an index names it.
    pub entry: Descriptor,
    /// Manifest, config and statements.
    pub documents: BTreeMap<BlobDigest, Vec<u8>>,
}

impl Attested {
    /// A manifest of statements about the image `of`. `artifact`: in the form of OCI's artifacts,
    /// which readers from before 2024 do not take for an image.
    pub fn new(of: &Descriptor, statements: Vec<(String, Vec<u8>)>, artifact: bool) -> Self {
        let mut documents = BTreeMap::new();
        let mut layers = Vec::new();
        for (predicate_type, bytes) in statements {
            let digest = BlobDigest::of(&bytes);
            let mut d = Descriptor::new(IN_TOTO, digest, bytes.len() as u64);
            d.annotations = Some(BTreeMap::from([(PREDICATE_TYPE.to_owned(), predicate_type)]));
            layers.push(d);
            documents.insert(digest, bytes);
        }
        let diff_ids: Vec<_> = layers.iter().map(|l| l.digest).collect();
        let (config, media_type) = match artifact {
            true => (b"{}".to_vec(), EMPTY),
            false => (
                json::compact(&json!({
                    "architecture": "unknown",
                    "os": "unknown",
                    "config": {},
                    "rootfs": {"type": "layers", "diff_ids": diff_ids},
                })),
                OCI_CONFIG,
            ),
        };
        let digest = BlobDigest::of(&config);
        let mut config_of = Descriptor::new(media_type, digest, config.len() as u64);
        documents.insert(digest, config);
        if artifact {
            config_of.data = Some("e30=".to_owned());
        }
        let mut manifest = Manifest::new(OCI_MANIFEST, config_of, layers, None);
        if artifact {
            manifest.artifact_type = Some(ARTIFACT_TYPE.to_owned());
            manifest.subject = Some(Descriptor::new(&of.media_type, of.digest, of.size));
        }
        let bytes = manifest.to_json();
        let digest = BlobDigest::of(&bytes);
        let mut entry = Descriptor::new(OCI_MANIFEST, digest, bytes.len() as u64);
        documents.insert(digest, bytes);
        entry.platform = Some(PlatformObject {
            architecture: "unknown".to_owned(),
            os: "unknown".to_owned(),
            ..PlatformObject::default()
        });
        entry.annotations = Some(BTreeMap::from([
            (REFERENCE_DIGEST.to_owned(), of.digest.to_string()),
            (REFERENCE_TYPE.to_owned(), ATTESTATION.to_owned()),
        ]));
        Self { entry, documents }
    }

    /// The blobs that the manifest names.
    pub fn children(&self) -> Vec<BlobDigest> {
        self.documents.keys().filter(|d| **d != self.entry.digest).copied().collect()
    }
}

/// The digest of the image that an entry of an index is about; `None`: it is no attestation.
pub fn about(entry: &Descriptor) -> Option<ManifestDigest> {
    let notes = entry.annotations.as_ref()?;
    (notes.get(REFERENCE_TYPE)? == ATTESTATION)
        .then(|| notes.get(REFERENCE_DIGEST)?.parse().ok())?
}

/// A statement whose subjects that were `was` are `now`: the same image with its layers packed in
/// another way. `None`: it speaks of something else.
pub fn readdressed(
    statement: &[u8],
    was: &ManifestDigest,
    now: &ManifestDigest,
) -> Result<Option<Vec<u8>>, JsonError> {
    #[derive(Serialize, Deserialize)]
    struct Read {
        #[serde(rename = "_type")]
        kind: String,
        #[serde(rename = "predicateType")]
        predicate_type: String,
        subject: Vec<Subject>,
        predicate: Value,
    }
    let mut read: Read = json::read(statement, MAX_STATEMENT)?;
    let was = BlobDigest::from(*was).hex();
    let mut found = false;
    for digest in read.subject.iter_mut().filter_map(|s| s.digest.get_mut("sha256")) {
        if *digest == was {
            *digest = BlobDigest::from(*now).hex();
            found = true;
        }
    }
    Ok(found.then(|| json::compact(&read)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Document, Index, OCI_INDEX};
    use rgraph_ir::Platform;

    fn image() -> Descriptor {
        let mut d = Descriptor::new(OCI_MANIFEST, BlobDigest::of(b"image"), 5);
        d.platform = Some(PlatformObject::of(&Platform::linux_amd64()));
        d
    }

    fn statement() -> Vec<u8> {
        let claim = Claim { predicate_type: "urn:x".into(), predicate: json!({"b": 1, "a": "<"}) };
        claim.statement(&[Subject::sha256("_", &image().digest)])
    }

    #[test]
    fn the_manifest_is_read_back_and_is_no_platform() {
        for artifact in [false, true] {
            let a = Attested::new(&image(), vec![("urn:x".into(), statement())], artifact);
            let bytes = &a.documents[&a.entry.digest];
            let Document::Manifest(m) = Document::parse(bytes, Some(OCI_MANIFEST)).unwrap() else {
                panic!("not a manifest");
            };
            assert_eq!(m.layers[0].media_type, IN_TOTO);
            assert_eq!(m.layers[0].annotations.as_ref().unwrap()[PREDICATE_TYPE], "urn:x");
            assert!(a.documents.contains_key(&m.config.digest));
            assert_eq!(m.subject.is_some(), artifact);
            assert_eq!(a.children().len(), 2);
            assert_eq!(about(&a.entry), Some(image().digest.into()));
            assert_eq!(about(&image()), None);
            let index = Index::new(OCI_INDEX, vec![a.entry, image()], None);
            assert_eq!(index.choose(&Platform::linux_amd64()).unwrap().digest, image().digest);
            // Nothing but the image, as with a name that has no platform.
            let mut bare = image();
            bare.platform = None;
            let index = Index::new(OCI_INDEX, vec![index.manifests[0].clone(), bare], None);
            assert!(index.choose(&"linux/s390x".parse().unwrap()).is_ok());
        }
    }

    #[test]
    fn a_statement_follows_its_image() {
        let (was, now) = (image().digest.into(), ManifestDigest::of(b"packed"));
        let new = readdressed(&statement(), &was, &now).unwrap().unwrap();
        let text = String::from_utf8(new.clone()).unwrap();
        assert!(
            text.contains(&BlobDigest::from(now).hex()) && !text.contains(&image().digest.hex())
        );
        // What is said stays.
        assert!(text.contains(r#""predicate":{"a":"\u003c","b":1}"#), "{text}");
        assert_eq!(readdressed(&new, &was, &now).unwrap(), None);
        for bad in [&b"{"[..], b"[]", br#"{"_type":1}"#] {
            assert!(readdressed(bad, &was, &now).is_err());
        }
    }
}
