//! Why a source cannot be had.

use std::fmt;

use rgraph_image::config::ConfigError;
use rgraph_image::manifest::ManifestError;
use rgraph_image::registry::RegistryError;
use rgraph_ir::{BlobDigest, ManifestDigest, Platform};
use rgraph_store::StoreError;

/// Why no registry may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The caller wants no network.
    Offline,
    /// [`PullPolicy::Never`].
    Never,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offline => {
                "--offline uses no network: `rgraph fetch` with the flags of this build brings it"
            }
            Self::Never => {
                "--pull=never asks no registry: `rgraph pull` or a build without that flag brings it"
            }
        })
    }
}

/// Why an image could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name is none.
    #[error(transparent)]
    Reference(#[from] rgraph_ir::reference::ReferenceError),
    /// The registry.
    #[error("cannot resolve `{reference}`")]
    Registry {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<RegistryError>,
    },
    /// Not in the store, and nobody may be asked.
    #[error("`{reference}` is not in the store, and {closed}")]
    Absent {
        /// The image.
        reference: String,
        /// Why nobody may be asked.
        closed: Closed,
    },
    /// An OCI layout of the caller.
    #[error("cannot use the OCI layout `{reference}`")]
    Layout {
        /// As given.
        reference: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A layer is not in the store, and nobody may be asked.
    #[error("layer {digest} of `{reference}` is not in the store, and {closed}")]
    AbsentLayer {
        /// The layer's blob.
        digest: BlobDigest,
        /// The image.
        reference: String,
        /// Why nobody may be asked.
        closed: Closed,
    },
    /// A registry has to be told or asked something, and none may be.
    #[error("registries are not used here: `{reference}`")]
    NoRegistry {
        /// The image.
        reference: String,
    },
    /// The lock file says otherwise.
    #[error(transparent)]
    Lock(#[from] Box<LockConflict>),
    /// A manifest that is none, or lacks the platform.
    #[error("image `{reference}`")]
    Manifest {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: Box<ManifestError>,
    },
    /// A config that is none.
    #[error("config of image `{reference}`")]
    Config {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: ConfigError,
    },
    /// Layers and diff IDs do not pair up.
    #[error("image `{reference}` has {layers} layers and {diff_ids} diff IDs")]
    Layers {
        /// The image.
        reference: String,
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a lock file says of an image does not do.
#[derive(Debug)]
pub struct LockConflict {
    /// The lock file.
    pub file: String,
    /// The image's line; 0: it has none.
    pub line: usize,
    /// The image.
    pub reference: String,
    /// What is the matter.
    pub problem: LockProblem,
}

/// See [`LockConflict`].
#[derive(Debug)]
pub enum LockProblem {
    /// There is no line.
    Unknown,
    /// The line does not say what the image is for this platform.
    Platform(Platform),
    /// The registry says something else.
    Moved {
        /// In the file.
        locked: ManifestDigest,
        /// In the registry.
        now: ManifestDigest,
    },
    /// The registry does not have it.
    Gone {
        /// In the file.
        locked: ManifestDigest,
        /// What the registry said.
        source: Box<RegistryError>,
    },
    /// The image has another manifest for the platform.
    Differs {
        /// Asked for.
        platform: Platform,
        /// In the file.
        locked: ManifestDigest,
        /// In the image.
        found: ManifestDigest,
    },
}

impl fmt::Display for LockConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, reference, problem } = self;
        if let LockProblem::Unknown = problem {
            return write!(
                f,
                "`{file}` has no line for `{reference}`: `rgraph lock` with the flags of this build adds it"
            );
        }
        write!(f, "{file}:{line}: ")?;
        match problem {
            LockProblem::Unknown => Ok(()),
            LockProblem::Platform(p) => write!(
                f,
                "`{reference}` is not locked for {p}: `rgraph lock --platform ...` with every platform adds it"
            ),
            LockProblem::Moved { locked, now } => write!(
                f,
                "`{reference}` moved: it is {locked} there and {now} in the registry. `rgraph lock --pull` takes the new one"
            ),
            LockProblem::Gone { locked, .. } => write!(
                f,
                "`{reference}` is locked to {locked}, which is gone from its registry. `rgraph lock --pull` takes what the name means now"
            ),
            LockProblem::Differs { platform, locked, found } => write!(
                f,
                "for {platform} the line says {locked}, but `{reference}` has {found}. `rgraph lock` writes it anew"
            ),
        }
    }
}

impl std::error::Error for LockConflict {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            LockProblem::Gone { source, .. } => Some(source),
            _ => None,
        }
    }
}
