//! What commands do with whole images of the store: look into them, remove, bring in and send out.
//!
//! An image is a row of the store (`ImageRow`) whose config and manifest are blobs; a name may mean
//! an index of several such rows. Layers of an image built here are directories until bytes of them
//! are asked for.

mod load;
mod push;
mod said;
mod transfer;
mod verify;

use std::collections::BTreeSet;

use rgraph_image::config::{ConfigError, ImageConfigFile};
use rgraph_image::manifest::{Document, Manifest, ManifestError};
use rgraph_ir::request::Export;
use rgraph_ir::{BlobDigest, ChainId, ConfigDigest, ManifestDigest, Reference, SnapshotId, limits};
use rgraph_solver::CancelToken;
use rgraph_store::{ImageRow, Policy, Store, StoreError};

use crate::export::{ExportError, Exporter};
use crate::fetch::image::{FetchError, ImageFetcher};
use crate::host::Host;
use crate::snapshot::{SnapshotError, Snapshots};

pub use crate::fetch::push::Arrival;
pub use load::{Loaded, load};
pub use push::{Pushing, push};
pub use said::{Statement, statements};
pub use transfer::{PlainLayers, Pulled, Pulling, fetch, pull, save};
pub use verify::{ReadLayers, read_layers};

/// Why an image could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name or a registry.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Layers or an archive could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The manifest in the store is none.
    #[error("manifest {digest}")]
    Manifest {
        /// Which.
        digest: ManifestDigest,
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// A statement about an image is none.
    #[error("statements {digest}")]
    Statement {
        /// The manifest that names it.
        digest: ManifestDigest,
        /// Why.
        #[source]
        source: Box<rgraph_image::JsonError>,
    },
    /// The config in the store is none.
    #[error("config {digest}")]
    Config {
        /// Which.
        digest: ConfigDigest,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// Layers could not be brought here and unpacked.
    #[error(transparent)]
    Unpack(SnapshotError),
    /// A layer could not be brought here.
    #[error("cannot pull layer {digest}")]
    Layer {
        /// Which.
        digest: BlobDigest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A push failed.
    #[error("cannot push `{name}`")]
    Push {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An archive of images is none.
    #[error("cannot read the archive")]
    Archive(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The name means an index none of whose images is in the store.
    #[error("no image of the store is named by {0}")]
    Empty(ManifestDigest),
    /// The platform is not among the images.
    #[error("the store has no image of `{name}` for {platform}")]
    Platform {
        /// The name.
        name: String,
        /// The platform.
        platform: String,
    },
    /// Stopped.
    #[error("canceled")]
    Cancelled,
}

impl ImagesError {
    /// True when the store lost or damaged what it had: its source can give it again.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Export(e) if e.is_loss())
    }
}

/// The world of a command on images.
pub struct World<'a> {
    /// The store.
    pub store: &'a Store,
    /// What the host allows.
    pub host: &'a Host,
    /// Registries.
    pub images: &'a ImageFetcher<'a>,
    /// Polled often.
    pub cancel: &'a CancelToken,
}

impl World<'_> {
    /// Calls `f` with an exporter that belongs to no build.
    fn exporting<T>(
        &self,
        f: impl FnOnce(&Exporter<'_>) -> Result<T, ImagesError>,
    ) -> Result<T, ImagesError> {
        let lease = self.store.lease()?;
        let snapshots = Snapshots::new(self.store, self.host, self.images, &lease);
        f(&Exporter::quiet(&snapshots, self.images, &Export::default(), self.cancel))
    }

    fn check(&self) -> Result<(), ImagesError> {
        if self.cancel.is_cancelled() { Err(ImagesError::Cancelled) } else { Ok(()) }
    }
}

/// The images that a manifest or index of the store means.
pub fn rows(store: &Store, top: ManifestDigest) -> Result<Vec<ImageRow>, ImagesError> {
    if let Some(row) = store.image_record(&top)? {
        return Ok(vec![row]);
    }
    let mut out = Vec::new();
    for child in store.linked_blobs(&top.into())? {
        out.extend(store.image_record(&ManifestDigest::from(child))?);
    }
    if out.is_empty() { Err(ImagesError::Empty(top)) } else { Ok(out) }
}

/// The config document of an image.
pub fn config(store: &Store, row: &ImageRow) -> Result<ImageConfigFile, ImagesError> {
    let bytes = store.read_blob_verified(&row.config.into(), limits::MAX_CONFIG)?;
    ImageConfigFile::from_json(&bytes)
        .map_err(|source| ImagesError::Config { digest: row.config, source })
}

/// The history of an image as one that lies on it takes it over, oldest first.
pub fn base_history(
    store: &Store,
    row: &ImageRow,
) -> Result<Vec<rgraph_ir::image_config::BaseHistory>, ImagesError> {
    let bytes = store.read_blob_verified(&row.config.into(), limits::MAX_CONFIG)?;
    let read = rgraph_image::config::from_json(&bytes);
    let failed = |source| ImagesError::Config { digest: row.config, source };
    read.map(|(_, history, _)| history).map_err(failed)
}

/// The manifest of an image and its bytes.
pub fn manifest(store: &Store, row: &ImageRow) -> Result<(Manifest, Vec<u8>), ImagesError> {
    let bytes = store.read_blob_verified(&row.manifest.into(), limits::MAX_MANIFEST)?;
    let failed = |e| ImagesError::Manifest { digest: row.manifest, source: Box::new(e) };
    match Document::parse(&bytes, None).map_err(failed)? {
        Document::Manifest(m) => Ok((m, bytes)),
        Document::Index(_) => {
            Err(failed(ManifestError::MediaType("an index where a manifest was recorded".into())))
        }
    }
}

/// One line of an image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// RFC 3339.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// Bytes of its layer; 0 without one.
    pub size: u64,
    /// Words of its maker.
    pub comment: String,
}

/// The history of an image, newest first. Sizes are of plain layers where the store knows them.
pub fn history(store: &Store, row: &ImageRow) -> Result<Vec<HistoryRow>, ImagesError> {
    let config = config(store, row)?;
    let sizes = layer_sizes(store, row)?;
    let mut sizes = sizes.into_iter();
    let mut out: Vec<HistoryRow> = config
        .history
        .into_iter()
        .map(|h| HistoryRow {
            created: h.created,
            created_by: h.created_by.unwrap_or_default(),
            size: if h.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
            comment: h.comment.unwrap_or_default(),
        })
        .collect();
    // Layers that the history does not mention.
    out.extend(sizes.map(|size| HistoryRow {
        created: None,
        created_by: String::new(),
        size,
        comment: String::new(),
    }));
    out.reverse();
    Ok(out)
}

fn layer_sizes(store: &Store, row: &ImageRow) -> Result<Vec<u64>, ImagesError> {
    let mut sizes: Vec<u64> = manifest(store, row)?.0.layers.iter().map(|l| l.size).collect();
    for (size, rec) in sizes.iter_mut().zip(chain(store, row.snapshot)?) {
        if let Some(plain) = rec.layer.and_then(|l| l.tar_size) {
            *size = plain;
        }
    }
    Ok(sizes)
}

fn chain(
    store: &Store,
    top: Option<SnapshotId>,
) -> Result<Vec<rgraph_store::SnapshotRecord>, ImagesError> {
    match top {
        Some(id) if store.snapshot(id)?.is_some() => Ok(store.chain(id)?),
        _ => Ok(Vec::new()),
    }
}

/// Chain IDs of layers, bottom first.
pub fn chain_ids(row: &ImageRow) -> Vec<ChainId> {
    let mut out: Vec<ChainId> = Vec::with_capacity(row.layers.len());
    for diff in &row.layers {
        out.push(out.last().map_or_else(|| ChainId::base(*diff), |c| c.with(*diff)));
    }
    out
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone, as people write them.
    pub untagged: Vec<String>,
    /// Configs, then chains of layers that nothing needs any more, top first.
    pub deleted: Vec<String>,
}

/// Takes names from the image `top`: `names`, all full. Without any name left the image goes, and
/// with it, unless `prune` is false, the layers that nothing else needs, the build cache included.
pub fn remove(
    store: &Store,
    top: ManifestDigest,
    names: &[String],
    prune: bool,
) -> Result<Removed, ImagesError> {
    let mut out = Removed::default();
    for name in names {
        if store.untag(name)? {
            out.untagged
                .push(name.parse::<Reference>().map_or_else(|_| name.clone(), |r| r.familiar()));
        }
    }
    let tags = store.tags()?;
    if tags.iter().any(|t| t.manifest == top) {
        return Ok(out);
    }
    let all = match rows(store, top) {
        Err(ImagesError::Empty(_)) => Vec::new(),
        r => r?,
    };
    // An image can be named by itself and by an index.
    let mut needed: BTreeSet<ManifestDigest> = BTreeSet::new();
    for t in &tags {
        needed.insert(t.manifest);
        needed
            .extend(store.linked_blobs(&t.manifest.into())?.into_iter().map(ManifestDigest::from));
    }
    let mut layers = Vec::new();
    for row in all.iter().filter(|r| !needed.contains(&r.manifest)) {
        let ids = chain_ids(row);
        let records = chain(store, row.snapshot)?;
        layers.extend(records.iter().map(|r| r.id).zip(ids).rev());
        if store.forget_image(&row.manifest)? {
            out.deleted.push(row.config.to_string());
        }
    }
    if !prune {
        return Ok(out);
    }
    store.gc(&Policy::default())?;
    let mut told = BTreeSet::new();
    for (snapshot, id) in layers {
        if told.insert(snapshot) && store.snapshot(snapshot)?.is_none() {
            out.deleted.push(id.to_string());
        }
    }
    Ok(out)
}
