//! The way out: blobs and manifests to a registry, and what it lists.

use std::io::Read;

use rgraph_image::registry::{BlobDesc, Pushed, Watch};
use rgraph_ir::{BlobDigest, Reference};

use super::error::FetchError;
use super::image::{ImageFetcher, guard};

impl ImageFetcher<'_> {
    /// Says where a blob comes from that no image resolved by this fetcher names.
    pub fn remember(&self, blob: BlobDigest, from: Reference) {
        guard(&self.origins).entry(blob).or_insert(from);
    }

    /// Brings one blob of the store to the repository of `r`, unless it is there.
    pub fn push_blob(
        &self,
        r: &Reference,
        digest: BlobDigest,
        size: u64,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Pushed, Box<dyn std::error::Error + Send + Sync>> {
        let registry = self
            .registry
            .ok_or_else(|| FetchError::NoRegistry { reference: r.familiar() })?
            .get()?;
        let watch = Watch { progress, ..self.watch() };
        let origin = guard(&self.origins).get(&digest).cloned();
        let mount_from = origin.filter(|o| o.registry == r.registry).map(|o| o.repository);
        let open = |offset: u64| -> std::io::Result<Box<dyn Read + Send>> {
            use std::io::Seek as _;
            let found = self.store.open_blob(&digest).map_err(std::io::Error::other)?;
            let (mut file, _) = found.ok_or_else(|| {
                std::io::Error::other(format!("blob {digest} is not in the store"))
            })?;
            file.seek(std::io::SeekFrom::Start(offset))?;
            Ok(Box::new(file))
        };
        let desc = BlobDesc { digest, size };
        Ok(registry.push_blob(r, &desc, open, mount_from.as_deref(), &watch)?)
    }

    /// The tags of the repository of `r`.
    pub fn remote_tags(&self, r: &Reference) -> Result<Vec<String>, FetchError> {
        let failed = |e| FetchError::Registry { reference: r.familiar(), source: Box::new(e) };
        let offline = || FetchError::NoRegistry { reference: r.familiar() };
        let registry = self.registry.ok_or_else(offline)?.get().map_err(failed)?;
        registry.tags(r, &self.watch()).map_err(failed)
    }

    /// Brings blobs of the store and a manifest that names them to a registry: blobs first, those it
    /// has are not sent. `tag`: under the name's tag, else by digest only.
    pub fn push(
        &self,
        name: &str,
        blobs: &[(BlobDigest, u64)],
        manifest: &[u8],
        media_type: &str,
        tag: bool,
        progress: &(dyn Fn(BlobDigest, u64, u64) + Sync),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut r: Reference = name.parse()?;
        let registry = self
            .registry
            .ok_or_else(|| FetchError::NoRegistry { reference: r.familiar() })?
            .get()?;
        for (digest, size) in blobs {
            let told = |done, all| progress(*digest, done, all);
            self.push_blob(&r, *digest, *size, &told)?;
        }
        if !tag {
            r.tag = None;
            r.digest = None;
        }
        registry.push_manifest(&r, media_type, manifest, &self.watch())?;
        Ok(())
    }
}
