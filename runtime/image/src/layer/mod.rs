//! Layers: an overlay upper folder as a tar, a tar as an overlay upper folder, and the compressed
//! forms in between (image-spec, layer.md; kernel, filesystems/overlayfs.rst).

mod device;
pub(crate) mod fs;
mod overlay;
pub mod owner;
mod put;
mod resolve;
mod whiteout;

mod read;
mod write;

mod add;

mod compress;
mod pack;

pub use crate::layer::add::{ArchiveOptions, is_archive, unpack_archive};
pub use crate::layer::compress::{
    Compressor, Format, GZIP_LEVEL, ZSTD_LEVEL, decompress, decompress_layer,
};
pub use crate::layer::device::{DEVICE_ATTRIBUTE, device_note};
pub use crate::layer::fs::chmod_at;
pub use crate::layer::overlay::{MergedLayers, shows_nothing};
pub use crate::layer::owner::Owners;
pub use crate::layer::pack::{Packed, hashed, mismatch, pack, repack, unpack_blob};
pub use crate::layer::read::{Below, UnpackOptions, UnpackStats, unpack_layer};
pub use crate::layer::whiteout::{is_whiteout, make_whiteout, means_deleted};
pub use crate::layer::write::{
    LayerSource, LayerStats, LayerWriteOptions, Part, write_entry, write_layer, write_parts,
};

use std::io;

use crate::tar::{TarError, show};

/// Why a layer or archive could not be written or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A file operation failed.
    #[error("cannot {what} `{path}`")]
    Io {
        /// The operation.
        what: &'static str,
        /// Below the layer's root.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The layer's bytes could not be written.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// The archive is damaged, hostile or not supported.
    #[error("cannot unpack the archive")]
    Tar(#[from] TarError),
    /// A member asks for what is not allowed.
    #[error("member `{path}` is refused: {why}")]
    Refused {
        /// Its name.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A file changed while it was read.
    #[error("`{0}` changed while it was read")]
    Changed(String),
    /// The upper holds a form of overlayfs that needs its lowers to be read.
    #[error("`{path}` has the overlay attribute `{attribute}`, which this store never makes")]
    Overlay {
        /// Below the layer's root.
        path: String,
        /// The attribute.
        attribute: &'static str,
    },
    /// The layers below, which are unpacked at the same time, did not come.
    #[error("the layers below it are not at hand")]
    Below(#[source] io::Error),
}

impl LayerError {
    pub(crate) fn io(what: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Self {
        let path = show(path);
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn refused(path: &[u8], why: impl Into<String>) -> Self {
        Self::Refused { path: show(path), why: why.into() }
    }
}

/// Marks of an OCI layer (image-spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself.
pub(crate) const AUFS: &[u8] = b".wh..wh.";
