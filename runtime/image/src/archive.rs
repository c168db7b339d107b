//! Images in one tar file: Docker's archive (`docker save`) written, that and OCI layouts read.
//!
//! A written Docker archive is an OCI layout with `manifest.json` and `repositories` beside it, so
//! that both old and new readers take it. Reading indexes the tar once and then reads blobs in
//! place.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rgraph_ir::limits::{MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST};
use rgraph_ir::{BlobDigest, Reference};
use serde::{Deserialize, Serialize};

use crate::blobs::{BlobSource, Export};
use crate::config::ImageConfigFile;
use crate::hash::HashWriter;
use crate::json;
use crate::layer::Format;
use crate::layout::{ArchiveError, Found, blob_path, found, parse_index, write_tar};
use crate::manifest::{
    Descriptor, Document, Manifest, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
    OCI_MANIFEST,
};
use crate::tar::{Kind, TarReader, show};

/// Most members of an archive of images: 100 images of 1000 blobs.
const MAX_MEMBERS: usize = 100_000;
/// Most images in one archive.
const MAX_IMAGES: usize = 1000;

/// An entry of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes images as one tar that `docker load` takes; the bytes written. Layers are written as they
/// are: pack them uncompressed for readers from before 2016. The format knows no index: of several
/// platforms under one name, readers that know nothing else see the first under it.
pub fn write_docker_archive(
    images: &[Export],
    blobs: &dyn BlobSource,
    out: &mut dyn Write,
) -> Result<u64, ArchiveError> {
    let mut entries = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let mut names = &image.names[..];
        for manifest in manifests(image)? {
            entries.push(entry(&manifest, names, &mut repositories));
            names = &[];
        }
    }
    let files = [
        ("manifest.json", json::compact(&entries)),
        ("repositories", json::compact(&repositories)),
    ];
    write_tar(images, blobs, &files, out)
}

/// The manifests of an export, through its indexes.
fn manifests(image: &Export) -> Result<Vec<Manifest>, ArchiveError> {
    let mut out = Vec::new();
    let mut todo = vec![&image.root.digest];
    let mut indexes = Vec::new();
    while let Some(digest) = todo.pop() {
        let bytes = image.documents.get(digest).map_or(&[][..], Vec::as_slice);
        match Document::parse(bytes, None).map_err(ArchiveError::Index)? {
            Document::Manifest(m) => out.push(m),
            Document::Index(index) => indexes.push(index),
        }
        if todo.is_empty()
            && let Some(index) = indexes.pop()
        {
            let below = index.manifests.iter().rev().filter(|m| !m.is_attestation());
            todo = below
                .filter_map(|m| image.documents.get_key_value(&m.digest))
                .map(|(d, _)| d)
                .collect();
        }
    }
    Ok(out)
}

fn entry(
    manifest: &Manifest,
    names: &[Reference],
    repositories: &mut BTreeMap<String, BTreeMap<String, String>>,
) -> DockerEntry {
    for name in names {
        let tag = name.tag.clone().unwrap_or_else(|| "latest".into());
        if let Some(top) = manifest.layers.last() {
            let tags = repositories.entry(name.familiar_name()).or_default();
            tags.insert(tag, top.digest.hex());
        }
    }
    let tags = names.iter().filter(|n| n.tag.is_some());
    DockerEntry {
        config: blob_path(&manifest.config.digest),
        repo_tags: Some(tags.map(|n| Reference { digest: None, ..n.clone() }.familiar()).collect()),
        layers: manifest.layers.iter().map(|l| blob_path(&l.digest)).collect(),
    }
}

/// Where a member's content lies.
type Place = (u64, u64);

/// Images in a tar file that can be read at any place.
#[derive(Debug)]
pub struct ArchiveFile {
    file: File,
    images: Vec<Found>,
    blobs: HashMap<BlobDigest, Place>,
    made: BTreeMap<BlobDigest, Vec<u8>>,
}

impl ArchiveFile {
    /// Indexes an OCI or Docker archive. A compressed one has to be unpacked first.
    pub fn open(file: File) -> Result<Self, ArchiveError> {
        let read_err =
            |source| ArchiveError::File { what: "read", path: "the archive".into(), source };
        let mut start = [0; 10];
        let n = file.read_at(&mut start, 0).map_err(read_err)?;
        if Format::of(&start[..n]) != Format::Plain {
            return Err(ArchiveError::Form("it is compressed".into()));
        }
        let mut members: HashMap<Vec<u8>, Place> = HashMap::new();
        // From its start, wherever the caller left the file's position.
        let left = file.metadata().map_err(read_err)?.len();
        let mut tar = TarReader::new(Section { file: &file, offset: 0, left });
        while let Some(m) = tar.next_member()? {
            // Links, devices and pipes are no content; what refers to them is not found.
            if m.kind != Kind::File {
                continue;
            }
            let path = m.path.strip_prefix(b"./").unwrap_or(&m.path).to_vec();
            let name = show(&path);
            if members.insert(path, (tar.content_offset(), m.size)).is_some() {
                return Err(ArchiveError::Form(format!("`{name}` is there twice")));
            }
            if members.len() > MAX_MEMBERS {
                return Err(ArchiveError::Form(format!("it has over {MAX_MEMBERS} members")));
            }
        }
        let mut out =
            Self { file, images: Vec::new(), blobs: HashMap::new(), made: BTreeMap::new() };
        for (path, place) in &members {
            let digest = path
                .strip_prefix(b"blobs/sha256/")
                .and_then(|h| std::str::from_utf8(h).ok())
                .and_then(|h| BlobDigest::from_hex(h).ok());
            if let Some(digest) = digest {
                out.blobs.insert(digest, *place);
            }
        }
        match (members.get(&b"index.json"[..]), members.get(&b"manifest.json"[..])) {
            (Some(index), docker) => {
                out.images = found(parse_index(&out.small(*index, MAX_MANIFEST)?)?);
                if let Some(docker) = docker {
                    out.docker_names(*docker)?;
                }
            }
            (None, Some(docker)) => out.docker(*docker, &members)?,
            (None, None) => {
                return Err(ArchiveError::Form(
                    "it has neither `index.json` nor `manifest.json`".into(),
                ));
            }
        }
        Ok(out)
    }

    /// The images it lists.
    pub fn images(&self) -> &[Found] {
        &self.images
    }

    fn entries(&self, place: Place) -> Result<Vec<DockerEntry>, ArchiveError> {
        let bytes = self.small(place, MAX_MANIFEST)?;
        let entries: Vec<DockerEntry> = json::read(&bytes, MAX_MANIFEST)
            .map_err(|e| ArchiveError::Form(format!("bad `manifest.json`: {e}")))?;
        if entries.len() > MAX_IMAGES {
            return Err(ArchiveError::Form(format!("it has over {MAX_IMAGES} images")));
        }
        Ok(entries)
    }

    /// `docker save` writes tags into `manifest.json` only in some versions.
    fn docker_names(&mut self, place: Place) -> Result<(), ArchiveError> {
        for entry in self.entries(place)? {
            let config = entry.config.strip_prefix("blobs/sha256/");
            let Some(config) = config.and_then(|h| BlobDigest::from_hex(h).ok()) else { continue };
            let mut found = None;
            for (i, image) in self.images.iter().enumerate() {
                let Ok((_, Document::Manifest(m))) = crate::blobs::read_manifest(self, &image.root)
                else {
                    continue;
                };
                if m.config.digest == config {
                    found = Some(i);
                    break;
                }
            }
            let Some(i) = found else { continue };
            for name in names(entry.repo_tags)? {
                if !self.images[i].names.contains(&name) {
                    self.images[i].names.push(name);
                }
            }
        }
        Ok(())
    }

    /// The form of before 2024: config and layers by file name, no digests of blobs.
    fn docker(
        &mut self,
        place: Place,
        members: &HashMap<Vec<u8>, Place>,
    ) -> Result<(), ArchiveError> {
        let find = |name: &str| {
            members.get(name.as_bytes()).copied().ok_or_else(|| {
                let name = show(name.as_bytes());
                ArchiveError::Form(format!("`{name}` is named in it and not there as a file"))
            })
        };
        for entry in self.entries(place)? {
            let config = self.small(find(&entry.config)?, MAX_CONFIG)?;
            let parsed = ImageConfigFile::from_json(&config)
                .map_err(|e| ArchiveError::Form(format!("bad config: {e}")))?;
            let (want, got) = (parsed.rootfs.diff_ids.len(), entry.layers.len());
            if want != got || got > MAX_LAYERS {
                return Err(ArchiveError::Form(format!(
                    "its config names {want} layers, `manifest.json` names {got}"
                )));
            }
            let mut layers = Vec::new();
            for name in &entry.layers {
                let place = find(name)?;
                let mut hash = HashWriter::new(io::sink());
                let err = |source| ArchiveError::File { what: "read", path: name.clone(), source };
                io::copy(&mut self.at(place), &mut hash).map_err(err)?;
                let digest = BlobDigest::from_bytes(hash.finish().0);
                let mut start = [0; 10];
                let n = self.at(place).read(&mut start).map_err(err)?;
                let media_type = match Format::of(&start[..n]) {
                    Format::Plain => OCI_LAYER,
                    Format::Gzip => OCI_LAYER_GZIP,
                    Format::Zstd => OCI_LAYER_ZSTD,
                    Format::Bzip2 | Format::Xz => {
                        return Err(ArchiveError::Form("a layer is bzip2 or xz".into()));
                    }
                };
                self.blobs.insert(digest, place);
                layers.push(Descriptor::new(media_type, digest, place.1));
            }
            let digest = BlobDigest::of(&config);
            let config_desc = Descriptor::new(OCI_CONFIG, digest, config.len() as u64);
            self.made.insert(digest, config);
            let manifest = Manifest::new(OCI_MANIFEST, config_desc, layers, None).to_json();
            let digest = BlobDigest::of(&manifest);
            let root = Descriptor::new(OCI_MANIFEST, digest, manifest.len() as u64);
            self.made.insert(digest, manifest);
            self.images.push(Found { root, names: names(entry.repo_tags)? });
        }
        Ok(())
    }

    fn at(&self, (offset, left): Place) -> Section<'_> {
        Section { file: &self.file, offset, left }
    }

    fn small(&self, place: Place, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        if place.1 > limit {
            return Err(ArchiveError::Form(format!(
                "a document has {} bytes, {limit} are allowed",
                place.1
            )));
        }
        let mut bytes = Vec::new();
        self.at(place).read_to_end(&mut bytes).map_err(|source| ArchiveError::File {
            what: "read",
            path: "the archive".into(),
            source,
        })?;
        Ok(bytes)
    }
}

fn names(tags: Option<Vec<String>>) -> Result<Vec<Reference>, ArchiveError> {
    tags.unwrap_or_default()
        .iter()
        .map(|t| t.parse().map_err(|e| ArchiveError::Form(format!("bad name in it: {e}"))))
        .collect()
}

impl BlobSource for ArchiveFile {
    fn open(&self, digest: &BlobDigest) -> io::Result<Box<dyn Read + Send + '_>> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(Box::new(bytes.as_slice()));
        }
        let place = self.blobs.get(digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(self.at(*place)))
    }

    fn size(&self, digest: &BlobDigest) -> io::Result<u64> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(bytes.len() as u64);
        }
        Ok(self.blobs.get(digest).ok_or(io::ErrorKind::NotFound)?.1)
    }
}

/// A part of a file, read without moving the file's own position.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buf[..most], self.offset)?;
        if n == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}
