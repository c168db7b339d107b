//! Images that a test puts together byte by byte, and what a registry of them answers.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Answer, Request};

/// One member of a layer: its path, and what it is.
pub enum Member<'a> {
    /// A folder with this mode.
    Dir(&'a str, u32),
    /// A file.
    File(&'a str, &'a [u8]),
    /// A symbolic link to the second.
    Link(&'a str, &'a str),
    /// A further name for the second.
    Hard(&'a str, &'a str),
}

/// A tar of these.
pub fn tar_of(members: &[Member<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for m in members {
        let mut h = tar::Header::new_gnu();
        h.set_mtime(1_700_000_000);
        h.set_uid(0);
        h.set_gid(0);
        h.set_size(0);
        h.set_mode(0o644);
        let (path, bytes): (&str, &[u8]) = match m {
            Member::Dir(path, mode) => {
                h.set_entry_type(tar::EntryType::Directory);
                h.set_mode(*mode);
                (path, &[])
            }
            Member::File(path, bytes) => {
                h.set_size(bytes.len() as u64);
                (path, bytes)
            }
            Member::Link(path, target) | Member::Hard(path, target) => {
                h.set_entry_type(match m {
                    Member::Link(..) => tar::EntryType::Symlink,
                    _ => tar::EntryType::Link,
                });
                h.set_link_name(target).expect("short");
                (path, &[])
            }
        };
        h.set_path(path).expect("short");
        h.set_cksum();
        tar.append(&h, bytes).expect("in memory");
    }
    tar.into_inner().expect("in memory")
}

/// gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    z.write_all(bytes).expect("in memory");
    z.finish().expect("in memory")
}

/// `sha256:...` of bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// Bytes that do not compress, the same at each call.
pub fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// An image whose every part a test may change before it is served.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The config.
    pub config: Value,
    /// The manifest; what it says of config and layers is right at first.
    pub manifest: Value,
    /// Its media type, as the header says.
    pub media_type: String,
    /// Blobs by what they are asked for.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl Parts {
    /// Of plain tars, bottom first; served as gzip.
    pub fn new(layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let packed: Vec<Vec<u8>> = layers.iter().map(|l| gzip(l)).collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
        let layer = |l: &Vec<u8>| {
            let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
            json!({"mediaType": kind, "digest": digest(l), "size": l.len()})
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": {},
            "layers": packed.iter().map(layer).collect::<Vec<_>>(),
        });
        let blobs = packed.into_iter().map(|l| (digest(&l), l)).collect();
        let mut parts = Self { config, manifest, media_type, blobs };
        parts.seal();
        parts
    }

    /// Makes the manifest name the config as it is now.
    pub fn seal(&mut self) -> &mut Self {
        let bytes = self.config.to_string().into_bytes();
        let kind = "application/vnd.oci.image.config.v1+json";
        self.manifest["config"] =
            json!({"mediaType": kind, "digest": digest(&bytes), "size": bytes.len()});
        self.blobs.insert(digest(&bytes), bytes);
        self
    }

    /// The digest of a layer's blob.
    pub fn layer(&self, n: usize) -> String {
        self.manifest["layers"][n]["digest"].as_str().expect("a digest").to_owned()
    }

    /// What a registry answers that has this image under every name and tag.
    pub fn answer(&self, request: &Request) -> Answer {
        let path = request.line.split(' ').nth(1).unwrap_or_default();
        if path == "/v2/" {
            return Answer::ok("{}");
        }
        if path.contains("/manifests/") {
            return self.manifest_answer(self.manifest.to_string().into_bytes());
        }
        let asked = path.rsplit('/').next().unwrap_or_default();
        self.blobs.get(asked).map_or_else(|| Answer::status(404), |blob| serve(request, blob))
    }

    /// A manifest as this image's, whatever it says.
    pub fn manifest_answer(&self, bytes: Vec<u8>) -> Answer {
        let digest = digest(&bytes);
        Answer::ok(bytes)
            .header(format!("Content-Type: {}", self.media_type))
            .header(format!("Docker-Content-Digest: {digest}"))
    }
}

/// A blob, or the part of it that was asked for.
pub fn serve(request: &Request, blob: &[u8]) -> Answer {
    let range = request.header("range").strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
    let from = range.and_then(|r| r.parse::<usize>().ok()).filter(|at| *at < blob.len());
    match from {
        None => Answer::ok(blob),
        Some(at) => Answer { status: 206, ..Answer::ok(&blob[at..]) }.header(format!(
            "Content-Range: bytes {at}-{}/{}",
            blob.len() - 1,
            blob.len()
        )),
    }
}
