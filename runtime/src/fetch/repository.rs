//! One repository of a registry, for what is no image: manifests of any kind, small blobs.

use std::io::Read;

use rgraph_image::registry::{BlobDesc, ManifestBytes, ManifestRef, RegistryClient, RegistryError};
use rgraph_ir::{BlobDigest, ManifestDigest, Reference};
use rgraph_store::BlobRef;

use super::image::ImageFetcher;
use super::push::Arrival;

/// Longest tag, by the distribution specification.
const MAX_TAG: usize = 128;

/// Why a repository did not answer.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Nobody may be asked.
    #[error("the network is not used (--offline, --pull=never)")]
    Offline,
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A blob could not be sent.
    #[error("cannot push {blob}")]
    Push {
        /// Which.
        blob: BlobDigest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RepositoryError {
    /// What was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::NotFound { .. }))
    }

    /// The registry did not take what it was given, for its content.
    pub fn is_refused(&self) -> bool {
        matches!(
            self,
            Self::Registry(
                RegistryError::Status { status: 400..=499, .. } | RegistryError::NotFound { .. }
            )
        )
    }
}

type Result<T> = std::result::Result<T, RepositoryError>;

/// See the module.
#[derive(Clone)]
pub struct Repository<'a> {
    images: &'a ImageFetcher<'a>,
    reference: Reference,
}

impl<'a> Repository<'a> {
    /// The repository of `reference`, and what its tag or digest names.
    pub fn new(images: &'a ImageFetcher<'a>, reference: Reference) -> Self {
        Self { images, reference }
    }

    /// Its name as people write it.
    pub fn name(&self) -> String {
        self.reference.familiar()
    }

    /// The same repository under the tag with `suffix` after a dot; `None` when no tag is named. A tag
    /// that would get too long is named by its hash.
    pub fn beside(&self, suffix: &str) -> Option<Self> {
        let tag = self.reference.tag.as_ref().filter(|_| self.reference.digest.is_none())?;
        let mut tag = format!("{tag}.{suffix}");
        if tag.len() > MAX_TAG {
            let hash = BlobDigest::of(tag.as_bytes());
            tag = format!("{}.{suffix}", hash.short());
        }
        Some(Self { reference: Reference { tag: Some(tag), ..self.reference.clone() }, ..*self })
    }

    fn client(&self) -> Result<&'a RegistryClient> {
        Ok(self.images.registry.ok_or(RepositoryError::Offline)?.get()?)
    }

    /// What the reference names.
    pub fn manifest(&self) -> Result<ManifestBytes> {
        let which = ManifestRef::of(&self.reference);
        Ok(self.client()?.manifest(&self.reference, which, &self.images.watch())?)
    }

    /// A manifest of the repository.
    pub fn manifest_of(&self, digest: ManifestDigest) -> Result<ManifestBytes> {
        let which = ManifestRef::Digest(digest);
        Ok(self.client()?.manifest(&self.reference, which, &self.images.watch())?)
    }

    /// What the reference names now; `None`: nothing.
    pub fn resolve(&self) -> Result<Option<ManifestDigest>> {
        match self.client()?.resolve(&self.reference, &self.images.watch()) {
            Ok(found) => Ok(Some(found.digest)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// A small blob.
    pub fn blob(&self, digest: BlobDigest, size: u64, limit: u64) -> Result<Vec<u8>> {
        let desc = BlobDesc { digest, size };
        Ok(self.client()?.blob_bytes(&self.reference, &desc, limit, &self.images.watch())?)
    }

    /// Opens a blob. The reader fails at its end when the bytes are not what the digest says.
    pub fn open(&self, blob: &BlobRef) -> Result<Box<dyn Read + Send + 'a>> {
        let desc = BlobDesc { digest: blob.digest, size: blob.size };
        Ok(Box::new(self.client()?.open_blob(&self.reference, &desc, self.images.watch())?))
    }

    /// Whether a blob is there.
    pub fn has(&self, blob: &BlobRef) -> Result<bool> {
        let desc = BlobDesc { digest: blob.digest, size: blob.size };
        Ok(self.client()?.blob_exists(&self.reference, &desc, &self.images.watch())?)
    }

    /// Brings a blob of the store there, unless it is.
    pub fn push(&self, blob: &BlobRef) -> Result<Arrival> {
        let (digest, size) = (blob.digest, blob.size);
        self.images
            .push_blob(&self.reference, digest, size, None, &|_, _| ())
            .map_err(|source| RepositoryError::Push { blob: digest, source })
    }

    /// Brings bytes there.
    pub fn push_bytes(&self, bytes: &[u8]) -> Result<BlobDigest> {
        let desc = BlobDesc { digest: BlobDigest::of(bytes), size: bytes.len() as u64 };
        let open = |offset: u64| -> std::io::Result<Box<dyn Read + Send>> {
            let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Ok(Box::new(std::io::Cursor::new(bytes[at..].to_vec())))
        };
        self.client()?.push_blob(&self.reference, &desc, open, None, &self.images.watch())?;
        Ok(desc.digest)
    }

    /// Gives the reference's tag a new meaning. All that is named must be there.
    pub fn push_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<ManifestDigest> {
        let watch = self.images.watch();
        Ok(self.client()?.push_manifest(&self.reference, media_type, bytes, &watch)?)
    }
}
