//! OCI image layouts (image-spec, image-layout.md): written to a folder or as a tar, read from a
//! folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rgraph_ir::limits::MAX_MANIFEST;
use rgraph_ir::{BlobDigest, Reference};

use crate::blobs::{BlobError, BlobSource, CopyError, Export};
use crate::layer::fs as sys;
use crate::manifest::{Descriptor, Document, Index, ManifestError, OCI_INDEX};
use crate::tar::{Kind, Member, TarError, TarWriter};

/// containerd's annotation for a whole name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// OCI's annotation for a tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// OCI's annotation for a time.
pub const CREATED: &str = "org.opencontainers.image.created";

const LAYOUT_FILE: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Why a layout or archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A blob of it.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The target cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// A file of it cannot be written or read.
    #[error("cannot {what} `{path}`")]
    File {
        /// The operation.
        what: &'static str,
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is a damaged tar.
    #[error("cannot read the archive")]
    Tar(#[from] TarError),
    /// `index.json` cannot be used.
    #[error("cannot use `index.json`")]
    Index(#[source] ManifestError),
    /// It is not an image, or a hostile one.
    #[error("not an image archive: {0}")]
    Form(String),
}

/// An image found in a layout or archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its manifest or index.
    pub root: Descriptor,
    /// Its names.
    pub names: Vec<Reference>,
}

enum Content<'a> {
    Folder,
    Bytes(&'a [u8], u32),
    Blob(&'a Descriptor),
}

/// Writes images as one tar with an OCI layout; the bytes written.
pub fn write_oci_archive(
    images: &[Export],
    blobs: &dyn BlobSource,
    out: &mut dyn Write,
) -> Result<u64, ArchiveError> {
    write_tar(images, blobs, &[], out)
}

/// Writes the tar with further `files` at its top.
pub(crate) fn write_tar(
    images: &[Export],
    blobs: &dyn BlobSource,
    files: &[(&str, Vec<u8>)],
    out: &mut dyn Write,
) -> Result<u64, ArchiveError> {
    let index = index(images).to_json_line();
    let mut members: BTreeMap<String, Content<'_>> = BTreeMap::new();
    members.insert("oci-layout".into(), Content::Bytes(LAYOUT_FILE, 0o444));
    members.insert("index.json".into(), Content::Bytes(&index, 0o644));
    members.insert("blobs/".into(), Content::Folder);
    members.insert("blobs/sha256/".into(), Content::Folder);
    for (name, bytes) in files {
        members.insert((*name).into(), Content::Bytes(bytes, 0o644));
    }
    for image in images {
        for (digest, l) in &image.layers {
            members.insert(blob_path(digest), Content::Blob(l));
        }
        for (digest, bytes) in &image.documents {
            members.insert(blob_path(digest), Content::Bytes(bytes, 0o444));
        }
    }
    let mut tar = TarWriter::new(out);
    for (path, content) in &members {
        let mut m = Member::new(path.clone().into_bytes(), Kind::File);
        match content {
            Content::Folder => {
                m.kind = Kind::Dir;
                m.mode = 0o755;
                tar.begin(&m).map_err(ArchiveError::Write)?;
            }
            Content::Bytes(bytes, mode) => {
                m.mode = *mode;
                m.size = bytes.len() as u64;
                tar.member(&m, bytes).map_err(ArchiveError::Write)?;
            }
            Content::Blob(d) => {
                m.mode = 0o444;
                m.size = d.size;
                tar.begin(&m).map_err(ArchiveError::Write)?;
                blobs.write(d, &mut tar.content())?;
            }
        }
    }
    tar.finish().map_err(ArchiveError::Write)
}

impl From<CopyError> for ArchiveError {
    fn from(e: CopyError) -> Self {
        match e {
            CopyError::Blob(e) => Self::Blob(e),
            CopyError::Write(e) => Self::Write(e),
        }
    }
}

pub(crate) fn blob_path(digest: &BlobDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// One entry per name, as containerd's exporter makes them.
fn index(images: &[Export]) -> Index {
    let mut entries = Vec::new();
    for image in images {
        let entry = |name: Option<&Reference>| {
            let mut d = image.root.clone();
            let mut notes = d.annotations.take().unwrap_or_default();
            if let Some(name) = name {
                notes.insert(IMAGE_NAME.into(), name.to_string());
                if let Some(tag) = &name.tag {
                    notes.insert(REF_NAME.into(), tag.clone());
                }
            }
            if let Some(created) = &image.created {
                notes.insert(CREATED.into(), created.clone());
            }
            d.annotations = Some(notes).filter(|n| !n.is_empty());
            d
        };
        entries.extend(image.names.iter().map(|n| entry(Some(n))));
        if image.names.is_empty() {
            entries.push(entry(None));
        }
    }
    Index::new(OCI_INDEX, entries, None)
}

/// Writes images into the folder `dir`, which is made when it is not there. A layout that is there
/// already keeps its other images: an entry of the same name is replaced.
pub fn write_oci_layout(
    images: &[Export],
    blobs: &dyn BlobSource,
    dir: &Path,
) -> Result<(), ArchiveError> {
    let file = |what: &'static str, path: &Path| {
        let path = path.display().to_string();
        move |source| ArchiveError::File { what, path, source }
    };
    let blob_dir = dir.join("blobs/sha256");
    fs::create_dir_all(&blob_dir).map_err(file("make", &blob_dir))?;
    let mut index = index(images);
    let index_path = dir.join("index.json");
    match fs::symlink_metadata(&index_path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(file("read", &index_path)(e)),
        Ok(_) => {
            let old = read_index(&LayoutDir::open(dir)?)?;
            let new: BTreeSet<_> = index.manifests.iter().map(key).collect();
            let kept = old.manifests.into_iter().filter(|d| !new.contains(&key(d)));
            index.manifests = kept.chain(index.manifests.clone()).collect();
        }
    }
    for image in images {
        for (digest, bytes) in &image.documents {
            let path = dir.join(blob_path(digest));
            put(&path, |f| f.write_all(bytes)).map_err(file("write", &path))?;
        }
        for (digest, d) in &image.layers {
            let path = dir.join(blob_path(digest));
            let there = fs::symlink_metadata(&path);
            if there.is_ok_and(|m| m.is_file() && m.len() == d.size) {
                continue;
            }
            let mut failed = Ok(());
            put(&path, |f| {
                failed = blobs.write(d, f).map_err(ArchiveError::from);
                if failed.is_ok() { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
            })
            .or_else(|e| {
                std::mem::replace(&mut failed, Ok(())).and(Err(file("write", &path)(e)))
            })?;
        }
    }
    let path = dir.join("oci-layout");
    put(&path, |f| f.write_all(LAYOUT_FILE)).map_err(file("write", &path))?;
    // Last: what it names is there by now.
    put(&index_path, |f| f.write_all(&index.to_json_line())).map_err(file("write", &index_path))
}

/// What makes two entries of an index the same one.
fn key(d: &Descriptor) -> (Option<String>, Option<String>) {
    let note = |k: &str| d.annotations.as_ref().and_then(|a| a.get(k).cloned());
    match note(IMAGE_NAME).or_else(|| note(REF_NAME)) {
        Some(name) => (Some(name), None),
        None => (None, Some(d.digest.to_string())),
    }
}

/// Makes a file whole or not at all.
fn put(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    // One of each call: several threads may write into one folder.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{n}.tmp", std::process::id()));
    let tmp = PathBuf::from(name);
    // Left over from an earlier process of the same number, or planted.
    let _ = fs::remove_file(&tmp);
    let made = File::options()
        .write(true)
        .create_new(true)
        .open(&tmp)
        .and_then(|mut f| write(&mut f))
        .and_then(|()| fs::rename(&tmp, path));
    if made.is_err() {
        let _ = fs::remove_file(&tmp);
    }
    made
}

/// A layout in a folder. Blobs are plain files in it: links and pipes are refused.
#[derive(Debug)]
pub struct LayoutDir {
    dir: OwnedFd,
}

impl LayoutDir {
    /// Opens the folder and checks that it is a layout.
    pub fn open(dir: &Path) -> Result<Self, ArchiveError> {
        let path = dir.display().to_string();
        let dir = sys::open_root(dir).map_err(|source| ArchiveError::File {
            what: "open",
            path,
            source,
        })?;
        let layout = Self { dir };
        let text = layout.small("oci-layout")?;
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            image_layout_version: String,
        }
        let version: Version = crate::json::read(&text, MAX_MANIFEST)
            .map_err(|e| ArchiveError::Form(format!("bad `oci-layout`: {e}")))?;
        if !version.image_layout_version.starts_with("1.") {
            return Err(ArchiveError::Form("`oci-layout` has an unknown version".into()));
        }
        Ok(layout)
    }

    /// The images it lists.
    pub fn images(&self) -> Result<Vec<Found>, ArchiveError> {
        Ok(found(read_index(self)?))
    }

    /// One image: by the digest of its manifest or index, by its tag, or the only one. Of several the
    /// one that is called `latest` is taken.
    pub fn find(
        &self,
        tag: Option<&str>,
        digest: Option<BlobDigest>,
    ) -> Result<Descriptor, ArchiveError> {
        let all: Vec<Descriptor> =
            read_index(self)?.manifests.into_iter().filter(|d| !d.is_attestation()).collect();
        if let Some(digest) = digest {
            if let Some(d) = all.iter().find(|d| d.digest == digest) {
                return Ok(d.clone());
            }
            // One of the platforms of an index, say.
            let size = self.size(&digest).map_err(|source| ArchiveError::File {
                what: "open",
                path: blob_path(&digest),
                source,
            })?;
            return Ok(Descriptor::new("", digest, size));
        }
        let tag_of = |d: &Descriptor| {
            let notes = d.annotations.as_ref()?;
            let name = notes.get(REF_NAME).or_else(|| notes.get(IMAGE_NAME))?;
            let tail = name.rsplit('/').next().unwrap_or(name);
            Some(tail.rsplit_once(':').map_or(tail, |(_, tag)| tag).to_owned())
        };
        let wanted = match (tag, &all[..]) {
            (None, [only]) => return Ok(only.clone()),
            (tag, _) => tag.unwrap_or("latest"),
        };
        all.iter().find(|d| tag_of(d).as_deref() == Some(wanted)).cloned().ok_or_else(|| {
            let tags: Vec<String> = all.iter().filter_map(tag_of).collect();
            ArchiveError::Form(format!(
                "no image in it has the tag `{wanted}`; it has: {}",
                if tags.is_empty() { "none with a tag".to_owned() } else { tags.join(", ") }
            ))
        })
    }

    fn file(&self, path: &str) -> io::Result<(File, u64)> {
        let fd = sys::read_beneath(self.dir.as_fd(), path.as_bytes())?;
        let meta = sys::stat(&fd)?;
        if meta.kind != Some(Kind::File) {
            let why = format!("`{path}` is not a plain file");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok((File::from(fd), meta.size))
    }

    fn small(&self, path: &str) -> Result<Vec<u8>, ArchiveError> {
        let err = |source| ArchiveError::File { what: "read", path: path.into(), source };
        let (file, _) = self.file(path).map_err(err)?;
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(err)?;
        Ok(bytes)
    }
}

impl BlobSource for LayoutDir {
    fn open(&self, digest: &BlobDigest) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.file(&blob_path(digest))?.0))
    }

    fn size(&self, digest: &BlobDigest) -> io::Result<u64> {
        Ok(self.file(&blob_path(digest))?.1)
    }
}

fn read_index(layout: &LayoutDir) -> Result<Index, ArchiveError> {
    parse_index(&layout.small("index.json")?)
}

/// Reads the bytes of an `index.json`.
pub(crate) fn parse_index(bytes: &[u8]) -> Result<Index, ArchiveError> {
    match Document::parse(bytes, None).map_err(ArchiveError::Index)? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err(ArchiveError::Form("`index.json` is no index".into())),
    }
}

/// The images of an `index.json`, those of several names once.
pub(crate) fn found(index: Index) -> Vec<Found> {
    let mut out: Vec<Found> = Vec::new();
    for mut d in index.manifests.into_iter().filter(|d| !d.is_attestation()) {
        let notes = d.annotations.take().unwrap_or_default();
        // OCI's annotation may be a tag alone, which is no name.
        let name = notes
            .get(IMAGE_NAME)
            .or_else(|| notes.get(REF_NAME).filter(|r| r.contains([':', '/'])))
            .and_then(|n| n.parse::<Reference>().ok());
        match out.iter_mut().find(|f| f.root.digest == d.digest) {
            Some(f) => f.names.extend(name),
            None => out.push(Found { root: d, names: name.into_iter().collect() }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_write_one_file_do_not_disturb_each_other() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("index.json");
        std::thread::scope(|s| {
            for n in 0..8u8 {
                let path = &path;
                s.spawn(move || {
                    for _ in 0..200 {
                        put(path, |f| f.write_all(&[n; 64])).unwrap();
                    }
                });
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 64 && bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 1, "something is left");
    }
}
