//! Sources: what a name means now, and its bytes.

pub mod error;
pub mod image;
pub mod lock;
pub mod registry;

mod push;
mod resolve;

use std::io::Read;

use rgraph_store::BlobRef;

use crate::cache::dir::CacheDirReader;
use crate::snapshot::LayerProvider;

/// Everybody who may have a layer's bytes: imported caches first, they are near, then registries.
pub struct Providers<'a> {
    /// Imported caches.
    pub dirs: &'a [CacheDirReader<'a>],
    /// Registries.
    pub images: &'a image::ImageFetcher<'a>,
}

impl LayerProvider for Providers<'_> {
    fn open(
        &self,
        blob: &BlobRef,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, Box<dyn std::error::Error + Send + Sync>> {
        for dir in self.dirs {
            if let Some(file) = dir.open_blob(blob) {
                return Ok(Some(Box::new(file)));
            }
        }
        self.images.open(blob)
    }

    fn distrust(&self, blob: &BlobRef, why: &str) -> bool {
        // The first that has it is the one that gave it.
        let giver = self.dirs.iter().find(|d| d.open_blob(blob).is_some());
        giver.inspect(|d| d.distrust(blob, why)).is_some()
    }
}
