//! Reads an OCI archive without rgraph's own code.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// What a tar member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(Vec<u8>),
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink(String),
    /// A further name for a file.
    Hardlink(String),
    /// A device, a FIFO.
    Other,
}

/// One member of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Without `./` and the last slash; the root is empty.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Seconds.
    pub mtime: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// A layer in the order of its tar.
#[derive(Debug, Clone, Default)]
pub struct Layer(pub Vec<Entry>);

impl Layer {
    /// The paths of all members, sorted.
    pub fn paths(&self) -> Vec<&str> {
        let mut out: Vec<_> = self.0.iter().map(|e| &e.path[..]).collect();
        out.sort_unstable();
        out
    }

    /// One member.
    #[track_caller]
    pub fn get(&self, path: &str) -> &Entry {
        let found = self.0.iter().find(|e| e.path == path);
        found.unwrap_or_else(|| panic!("no `{path}` among {:?}", self.paths()))
    }
}

/// An image out of an archive.
#[derive(Debug)]
pub struct Image {
    /// Its config.
    pub config: Value,
    /// Its manifest.
    pub manifest: Value,
    /// Bottom first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Reads `-o type=oci`.
    #[track_caller]
    pub fn from_archive(path: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(std::fs::File::open(path).expect("the archive"));
        for e in tar.entries().expect("a tar") {
            let mut e = e.expect("a member");
            let name = e.path().expect("a path").display().to_string();
            let mut bytes = Vec::new();
            e.read_to_end(&mut bytes).expect("its bytes");
            files.insert(name, bytes);
        }
        let json = |name: &str| -> Value {
            let bytes = files.get(name).unwrap_or_else(|| panic!("no {name}"));
            serde_json::from_slice(bytes).expect("JSON")
        };
        let blob = |d: &Value| {
            format!("blobs/{}", d["digest"].as_str().expect("a digest").replace(':', "/"))
        };
        let manifest = json(&blob(&json("index.json")["manifests"][0]));
        let config = json(&blob(&manifest["config"]));
        let layers = manifest["layers"].as_array().expect("layers");
        let layers = layers.iter().map(|l| unpack_tar(&files[&blob(l)])).collect();
        Self { config, manifest, layers }
    }

    /// The newest layer.
    #[track_caller]
    pub fn top(&self) -> &Layer {
        self.layers.last().expect("an image with layers")
    }

    /// The file system: layers laid over each other.
    pub fn files(&self) -> BTreeMap<String, Entry> {
        let mut out: BTreeMap<String, Entry> = BTreeMap::new();
        for layer in &self.layers {
            // What a layer takes away lies below it, whatever the order of its tar.
            for e in &layer.0 {
                let (dir, name) = e.path.rsplit_once('/').unwrap_or(("", &e.path));
                let Some(gone) = name.strip_prefix(".wh.") else { continue };
                let at = |n: &str| if dir.is_empty() { n.to_owned() } else { format!("{dir}/{n}") };
                match gone {
                    ".wh..opq" => out.retain(|p, _| !p.starts_with(&at(""))),
                    gone => {
                        let gone = at(gone);
                        let below = format!("{gone}/");
                        out.retain(|p, _| *p != gone && !p.starts_with(&below));
                    }
                }
            }
            for e in layer.0.iter().filter(|e| !e.path.contains(".wh.")) {
                out.insert(e.path.clone(), e.clone());
            }
        }
        out
    }

    /// The text of a file.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        match self.files().get(path).map(|e| e.kind.clone()) {
            Some(Kind::File(bytes)) => String::from_utf8(bytes).expect("text"),
            Some(other) => panic!("{path} is {other:?}"),
            None => panic!("no {path} among {:?}", self.files().keys().collect::<Vec<_>>()),
        }
    }
}

/// Reads a tar, plain, with gzip or with zstd.
#[track_caller]
pub fn unpack_tar(bytes: &[u8]) -> Layer {
    let mut plain = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        plain = zstd::decode_all(bytes).expect("zstd");
    } else {
        plain.extend_from_slice(bytes);
    }
    let mut out = Vec::new();
    let mut tar = tar::Archive::new(&plain[..]);
    for e in tar.entries().expect("a tar") {
        let mut e = e.expect("a member");
        let mut xattrs = BTreeMap::new();
        if let Some(pax) = e.pax_extensions().expect("pax") {
            for x in pax {
                let x = x.expect("pax");
                if let Some(name) = x.key().expect("text").strip_prefix("SCHILY.xattr.") {
                    xattrs.insert(name.to_owned(), x.value_bytes().to_vec());
                }
            }
        }
        let link = |e: &tar::Entry<'_, _>| {
            e.link_name().expect("a link").expect("a link").display().to_string()
        };
        let kind = match e.header().entry_type() {
            tar::EntryType::Directory => Kind::Dir,
            tar::EntryType::Symlink => Kind::Symlink(link(&e)),
            tar::EntryType::Link => Kind::Hardlink(link(&e)),
            tar::EntryType::Regular => {
                let mut bytes = Vec::new();
                e.read_to_end(&mut bytes).expect("its bytes");
                Kind::File(bytes)
            }
            _ => Kind::Other,
        };
        let path = String::from_utf8_lossy(&e.path_bytes()).into_owned();
        let h = e.header();
        out.push(Entry {
            path: path.trim_start_matches("./").trim_matches('/').to_owned(),
            kind,
            mode: h.mode().expect("a mode") & 0o7777,
            owner: (h.uid().expect("an owner"), h.gid().expect("a group")),
            mtime: h.mtime().expect("a time"),
            xattrs,
        });
    }
    Layer(out)
}
