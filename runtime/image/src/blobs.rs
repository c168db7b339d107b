//! Blobs by digest, wherever they are kept, and the set of blobs that makes up an image to write.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use rgraph_ir::limits::{MAX_CONFIG, MAX_MANIFEST};
use rgraph_ir::{BlobDigest, Reference};

use crate::assemble::Image;
use crate::attestation::Attested;
use crate::hash::{Mismatch, VerifyReader};
use crate::layer::{LayerError, hashed};
use crate::manifest::{Descriptor, Document, Index, ManifestError};

/// Deepest nesting of an index in an index.
const MAX_INDEX_DEPTH: usize = 3;

/// Where blobs are. What it gives may be anything: readers check it against the descriptor.
pub trait BlobSource: Sync {
    /// The bytes of a blob; `NotFound` when it is not there.
    fn open(&self, digest: &BlobDigest) -> io::Result<Box<dyn Read + Send + '_>>;

    /// Their number.
    fn size(&self, digest: &BlobDigest) -> io::Result<u64>;

    /// Writes the bytes of a blob and checks them. After an error `out` has a part of them.
    fn write(&self, d: &Descriptor, out: &mut dyn Write) -> Result<(), CopyError> {
        let read = |source| BlobError::Io { digest: d.digest, source };
        let mut blob = self.open(&d.digest).map_err(read)?;
        let copy = |to: &mut dyn Write| -> Result<u64, CopyError> {
            let mut buf = vec![0; 256 << 10];
            let mut seen = 0u64;
            loop {
                let n = match blob.read(&mut buf) {
                    Ok(0) => return Ok(seen),
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(read(e).into()),
                };
                seen += n as u64;
                if seen > d.size {
                    return Ok(seen);
                }
                to.write_all(&buf[..n])?;
            }
        };
        let (seen, got, _) = hashed(copy, out)?;
        promised(d, got, seen).map_err(|e| read(e).into())
    }
}

/// Whether what was found is what a descriptor promises.
pub fn promised(d: &Descriptor, got: BlobDigest, size: u64) -> io::Result<()> {
    let bad = if size != d.size {
        Mismatch::Size { digest: d.digest, want: d.size, got: size }
    } else if got != d.digest {
        Mismatch::Digest { want: d.digest, got }
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, bad))
}

/// Why a blob could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Its target.
    #[error("cannot write a blob")]
    Write(#[from] io::Error),
}

impl From<LayerError> for CopyError {
    fn from(e: LayerError) -> Self {
        match e {
            LayerError::Write(e) => Self::Write(e),
            e => Self::Write(io::Error::other(e)),
        }
    }
}

/// Why a blob cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It cannot be read, or a [`Mismatch`](crate::Mismatch) was found while reading.
    #[error("cannot read blob {digest}")]
    Io {
        /// Which.
        digest: BlobDigest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document over its limit.
    #[error("blob {digest} claims {got} bytes, {limit} are allowed for a document")]
    TooLarge {
        /// Which.
        digest: BlobDigest,
        /// Claimed.
        got: u64,
        /// Allowed.
        limit: u64,
    },
    /// A document that cannot be used.
    #[error("cannot use blob {digest}")]
    Document {
        /// Which.
        digest: BlobDigest,
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// Indexes in indexes without end.
    #[error("index {0} is nested too deeply")]
    Depth(BlobDigest),
}

/// A reader that fails unless it gives what `d` says.
pub fn open_verified<'a>(
    blobs: &'a dyn BlobSource,
    d: &Descriptor,
) -> Result<VerifyReader<Box<dyn Read + Send + 'a>>, BlobError> {
    let inner =
        blobs.open(&d.digest).map_err(|source| BlobError::Io { digest: d.digest, source })?;
    Ok(VerifyReader::new(inner, d.digest, d.size))
}

/// Reads a config or manifest and checks it.
pub fn read_document(
    blobs: &dyn BlobSource,
    d: &Descriptor,
    limit: u64,
) -> Result<Vec<u8>, BlobError> {
    if d.size > limit {
        return Err(BlobError::TooLarge { digest: d.digest, got: d.size, limit });
    }
    let mut bytes = Vec::new();
    open_verified(blobs, d)?
        .read_to_end(&mut bytes)
        .map_err(|source| BlobError::Io { digest: d.digest, source })?;
    Ok(bytes)
}

/// Reads a manifest or index.
pub fn read_manifest(
    blobs: &dyn BlobSource,
    d: &Descriptor,
) -> Result<(Vec<u8>, Document), BlobError> {
    let bytes = read_document(blobs, d, MAX_MANIFEST)?;
    let document = Document::parse(&bytes, Some(&d.media_type))
        .map_err(|e| BlobError::Document { digest: d.digest, source: Box::new(e) })?;
    Ok((bytes, document))
}

/// An image, or an index of several, with everything it needs, to be written somewhere.
#[derive(Debug, Clone)]
pub struct Export {
    /// The manifest or index.
    pub root: Descriptor,
    /// Its names.
    pub names: Vec<Reference>,
    /// RFC 3339, for `org.opencontainers.image.created`.
    pub created: Option<String>,
    /// Manifests, indexes and configs.
    pub documents: BTreeMap<BlobDigest, Vec<u8>>,
    /// Layers, to be found in a [`BlobSource`].
    pub layers: BTreeMap<BlobDigest, Descriptor>,
}

impl Export {
    /// One image.
    pub fn image(image: &Image, names: Vec<Reference>) -> Self {
        let mut out = Self {
            root: image.descriptor(),
            names,
            created: image.created.clone(),
            documents: BTreeMap::new(),
            layers: BTreeMap::new(),
        };
        out.add(image);
        out
    }

    /// Images under one index, with what is said of them.
    pub fn index(
        images: &[Image],
        said: &[&Attested],
        media_type: &str,
        annotations: Option<BTreeMap<String, String>>,
        names: Vec<Reference>,
    ) -> Self {
        let manifests = images.iter().map(Image::descriptor);
        let manifests = manifests.chain(said.iter().map(|a| a.entry.clone())).collect();
        let bytes = Index::new(media_type, manifests, annotations).to_json();
        let digest = BlobDigest::of(&bytes);
        let mut out = Self {
            root: Descriptor::new(media_type, digest, bytes.len() as u64),
            names,
            created: images.iter().filter_map(|i| i.created.clone()).max(),
            documents: [(digest, bytes)].into(),
            layers: BTreeMap::new(),
        };
        for image in images {
            out.add(image);
        }
        for a in said {
            out.documents.extend(a.documents.clone());
        }
        out
    }

    /// An image or index that is all in `blobs`. Documents are read and checked here, layers when
    /// they are written.
    pub fn stored(
        root: Descriptor,
        names: Vec<Reference>,
        blobs: &dyn BlobSource,
    ) -> Result<Self, BlobError> {
        let mut out = Self {
            root: root.clone(),
            names,
            created: None,
            documents: BTreeMap::new(),
            layers: BTreeMap::new(),
        };
        out.walk(&root, blobs, 0)?;
        Ok(out)
    }

    fn walk(
        &mut self,
        d: &Descriptor,
        blobs: &dyn BlobSource,
        depth: usize,
    ) -> Result<(), BlobError> {
        if depth > MAX_INDEX_DEPTH {
            return Err(BlobError::Depth(d.digest));
        }
        if self.documents.contains_key(&d.digest) {
            return Ok(());
        }
        let (bytes, document) = read_manifest(blobs, d)?;
        self.documents.insert(d.digest, bytes);
        match document {
            Document::Index(index) => {
                for m in &index.manifests {
                    self.walk(m, blobs, depth + 1)?;
                }
            }
            Document::Manifest(m) => {
                let config = read_document(blobs, &m.config, MAX_CONFIG)?;
                self.documents.insert(m.config.digest, config);
                self.layers.extend(m.layers.into_iter().map(|l| (l.digest, l)));
            }
        }
        Ok(())
    }

    fn add(&mut self, image: &Image) {
        self.documents.insert(image.config_digest.into(), image.config.clone());
        self.documents.insert(image.manifest_digest.into(), image.manifest.clone());
        self.layers.extend(image.layers.iter().map(|l| (l.digest, l.clone())));
    }
}
