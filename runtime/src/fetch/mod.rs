//! Sources: what a name means now, and its bytes.

pub mod error;
pub mod git;
pub mod http;
pub mod image;
pub mod lock;
pub mod registry;
pub mod repository;
pub mod source;

mod layout;
mod platforms;
pub mod push;
mod resolve;

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use rgraph_ir::BlobDigest;
use rgraph_store::{BlobRef, Part};

use crate::cache::import::Import;
use crate::snapshot::LayerProvider;

/// Everybody who may have a layer's bytes: imported caches first, they are near, then registries.
pub struct Providers<'a> {
    imports: &'a [Import<'a>],
    images: &'a image::ImageFetcher<'a>,
    /// Which import gave a thread a blob.
    givers: Mutex<HashMap<(ThreadId, BlobDigest), usize>>,
}

impl<'a> Providers<'a> {
    /// Asks `imports` in order, then the registries of `images`.
    pub fn new(imports: &'a [Import<'a>], images: &'a image::ImageFetcher<'a>) -> Self {
        Self { imports, images, givers: Mutex::default() }
    }
}

impl LayerProvider for Providers<'_> {
    fn open(
        &self,
        blob: &BlobRef,
        front: Option<Part>,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, Box<dyn std::error::Error + Send + Sync>> {
        let id = (thread::current().id(), blob.digest);
        self.givers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        for (n, import) in self.imports.iter().enumerate() {
            if let Some(file) = import.open_blob(blob) {
                self.givers.lock().unwrap_or_else(PoisonError::into_inner).insert(id, n);
                return Ok(Some(file));
            }
        }
        self.images.open(blob, front)
    }

    fn distrust(&self, blob: &BlobRef, why: &str) -> bool {
        let id = (thread::current().id(), blob.digest);
        let giver = self.givers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let giver = giver.and_then(|n| self.imports.get(n));
        giver.inspect(|i| i.distrust(blob, why)).is_some()
    }
}
