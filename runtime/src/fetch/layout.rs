//! Images in an OCI layout of the caller, as bases: what a build needs of one is copied into the store
//! when it is named, so that from there on it is an image like any other.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rgraph_image::blobs::{open_verified, read_document};
use rgraph_image::layout::LayoutDir;
use rgraph_image::manifest::{Descriptor, Document};
use rgraph_ir::limits::{MAX_CONFIG, MAX_MANIFEST};
use rgraph_ir::{BlobDigest, DigestError, ManifestDigest, Platform, Reference};
use rgraph_store::Expect;

use super::error::FetchError;
use super::image::{ImageFetcher, ResolvedImage, guard};

/// Which image of which layout: `FOLDER[:TAG][@DIGEST]`.
pub(super) struct Place<'a> {
    pub(super) folder: &'a str,
    pub(super) tag: Option<&'a str>,
    pub(super) digest: Option<BlobDigest>,
}

impl<'a> Place<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, DigestError> {
        let (rest, digest) = match text.rsplit_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (folder, tag) = match rest.rsplit_once(':') {
            Some((folder, tag)) if !tag.contains('/') => (folder, Some(tag)),
            _ => (rest, None),
        };
        Ok(Self { folder, tag, digest })
    }
}

impl ImageFetcher<'_> {
    /// The image that `reference` (`FOLDER[:TAG][@DIGEST]`) names for a platform; `context` is what the
    /// build calls it.
    pub fn resolve_layout(
        &self,
        context: &str,
        reference: &str,
        platform: &Platform,
    ) -> Result<Arc<ResolvedImage>, FetchError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| FetchError::Layout {
            reference: reference.to_owned(),
            source,
        };
        let place = Place::parse(reference).map_err(|e| failed(e.into()))?;
        let layout = LayoutDir::open(Path::new(place.folder)).map_err(|e| failed(e.into()))?;
        let top = layout.find(place.tag, place.digest).map_err(|e| failed(e.into()))?;
        let read = |d: &Descriptor| -> Result<(Vec<u8>, Document), FetchError> {
            let bytes = read_document(&layout, d, MAX_MANIFEST).map_err(|e| failed(e.into()))?;
            let kind = Some(d.media_type.as_str()).filter(|k| !k.is_empty());
            let document = Document::parse(&bytes, kind).map_err(|e| failed(e.into()))?;
            self.store.put_blob(&bytes)?;
            Ok((bytes, document))
        };
        let (manifest, m) = match read(&top)?.1 {
            Document::Manifest(m) => (top.digest, m),
            Document::Index(index) => {
                let entry = index.choose(platform).map_err(|e| failed(e.into()))?;
                match read(entry)?.1 {
                    Document::Manifest(m) => (entry.digest, m),
                    Document::Index(_) => return Err(failed("an index within an index".into())),
                }
            }
        };
        let config = read_document(&layout, &m.config, MAX_CONFIG).map_err(|e| failed(e.into()))?;
        self.store.put_blob(&config)?;
        self.store.link_blobs(&manifest, &[m.config.digest])?;
        for layer in &m.layers {
            if self.store.has_blob(&layer.digest)? {
                continue;
            }
            let mut from = open_verified(&layout, layer).map_err(|e| failed(e.into()))?;
            let mut to = self.store.blob_writer()?;
            let mut buf = vec![0; 256 << 10];
            let mut copied = || -> io::Result<()> {
                loop {
                    match from.read(&mut buf)? {
                        0 => return Ok(()),
                        n => to.write_all(&buf[..n])?,
                    }
                }
            };
            copied().map_err(|e| failed(e.into()))?;
            to.commit(Expect { digest: Some(layer.digest), size: Some(layer.size) })?;
        }
        let name: Reference = match context.parse() {
            Ok(r) => r,
            Err(_) => "layout".parse()?,
        };
        let image = self.assemble(
            &name,
            ManifestDigest::from(top.digest),
            ManifestDigest::from(manifest),
            &m,
            &config,
        )?;
        let image = Arc::new(image);
        guard(&self.layouts).insert(image.manifest, image.clone());
        Ok(image)
    }

    /// The image of a layout that was resolved before, by its pinned reference.
    pub fn layout(&self, reference: &str) -> Result<Arc<ResolvedImage>, FetchError> {
        let digest = reference.rsplit_once('@').and_then(|(_, d)| d.parse().ok());
        digest
            .and_then(|d: ManifestDigest| guard(&self.layouts).get(&d).cloned())
            .ok_or_else(|| FetchError::NoRegistry { reference: reference.to_owned() })
    }
}
