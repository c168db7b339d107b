//! Which platforms an image is for.

use std::path::Path;

use rgraph_image::blobs::read_document;
use rgraph_image::config;
use rgraph_image::layout::LayoutDir;
use rgraph_image::manifest::{Document, Index};
use rgraph_image::registry::RegistryError;
use rgraph_ir::limits::{MAX_CONFIG, MAX_MANIFEST};
use rgraph_ir::op::ResolveMode;
use rgraph_ir::{Platform, Reference};

use super::error::FetchError;
use super::image::ImageFetcher;
use super::layout::Place;

impl ImageFetcher<'_> {
    /// The platforms of an image in the order of its index, each once; of an image that is no index,
    /// that of its config. Statements about images are no platforms.
    pub fn platforms(
        &self,
        reference: &str,
        mode: ResolveMode,
    ) -> Result<Vec<Platform>, FetchError> {
        let r: Reference = reference.parse()?;
        match self.document_of(&r, self.policy_of(mode))? {
            Document::Index(index) => Ok(of_index(&index)),
            Document::Manifest(_) => {
                // There is nothing to choose from.
                let image = self.resolve(reference, &Platform::linux_amd64(), mode)?;
                Ok(vec![image.config.platform.clone().normalize()])
            }
        }
    }

    /// The same of an image in an OCI layout (`FOLDER[:TAG][@DIGEST]`).
    pub fn layout_platforms(&self, reference: &str) -> Result<Vec<Platform>, FetchError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| FetchError::Layout {
            reference: reference.to_owned(),
            source,
        };
        let place = Place::parse(reference).map_err(|e| failed(e.into()))?;
        let layout = LayoutDir::open(Path::new(place.folder)).map_err(|e| failed(e.into()))?;
        let top = layout.find(place.tag, place.digest).map_err(|e| failed(e.into()))?;
        let bytes = read_document(&layout, &top, MAX_MANIFEST).map_err(|e| failed(e.into()))?;
        let kind = Some(top.media_type.as_str()).filter(|k| !k.is_empty());
        match Document::parse(&bytes, kind).map_err(|e| failed(e.into()))? {
            Document::Index(index) => Ok(of_index(&index)),
            Document::Manifest(m) => {
                let bytes =
                    read_document(&layout, &m.config, MAX_CONFIG).map_err(|e| failed(e.into()))?;
                let (config, ..) = config::from_json(&bytes).map_err(|e| failed(e.into()))?;
                Ok(vec![config.platform.normalize()])
            }
        }
    }
}

impl FetchError {
    /// True when whoever would have the image says that there is none, or tells nothing of it.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Registry { source, .. }
            if matches!(**source, RegistryError::NotFound { .. } | RegistryError::Denied { .. }))
    }
}

fn of_index(index: &Index) -> Vec<Platform> {
    let mut out: Vec<Platform> = Vec::new();
    for d in index.manifests.iter().filter(|d| !d.is_attestation()) {
        let Some(p) = d.platform.as_ref().map(|p| p.to_ir()) else { continue };
        // Builds of one system differ in their version, and are one platform to whoever builds.
        let p = Platform { os_version: String::new(), ..p };
        if !out.contains(&p) {
            out.push(p);
        }
    }
    out
}
