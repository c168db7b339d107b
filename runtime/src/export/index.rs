//! Indexes: several images under one name, or one with what is said of it.

use std::collections::BTreeMap;

use rgraph_image::manifest::{Index, OCI_INDEX};
use rgraph_ir::annotation::{AnnotationPlace, Annotations};
use rgraph_ir::{BlobDigest, ManifestDigest};

use super::image::Whole;
use super::{Built, ExportError, Exporter};

impl Exporter<'_> {
    /// Annotations of an index need one.
    pub(super) fn check_index(
        &self,
        built: &[Built<'_>],
        annotations: &Annotations,
    ) -> Result<(), ExportError> {
        match built {
            [one] if one.said.is_empty() && annotations.need_index() => Err(ExportError::NoIndex),
            _ => Ok(()),
        }
    }

    /// Writes an index into the store: the images, then what is said of them.
    pub(super) fn put_index(
        &self,
        images: &[Whole],
        annotations: &Annotations,
    ) -> Result<(ManifestDigest, Vec<u8>), ExportError> {
        let said = images.iter().filter_map(|w| w.attested.as_ref());
        let parts: Vec<_> = images
            .iter()
            .map(|w| w.image.descriptor())
            .chain(said.map(|a| a.entry.clone()))
            .collect();
        let children: Vec<BlobDigest> = parts.iter().map(|d| d.digest).collect();
        let bytes = Index::new(OCI_INDEX, parts, index_notes(annotations)).to_json();
        let digest = BlobDigest::of(&bytes);
        // Also when it is there: it may have come from somewhere that needed some of its images.
        self.store.link_blobs(&digest, &children)?;
        if !self.store.has_blob(&digest)? {
            self.store.put_blob(&bytes)?;
        }
        let digest = ManifestDigest::from(digest);
        self.told_index(digest, bytes.len() as u64);
        Ok((digest, bytes))
    }

    /// What is said of the build is said of its first output.
    pub(super) fn told_index(&self, digest: ManifestDigest, size: u64) {
        self.index.get_or_init(|| (digest, size));
    }
}

/// Annotations within an index.
pub(super) fn index_notes(annotations: &Annotations) -> Option<BTreeMap<String, String>> {
    Some(annotations.of(AnnotationPlace::Index, None)).filter(|n| !n.is_empty())
}
