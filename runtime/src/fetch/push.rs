//! The way out: blobs and manifests to a registry, and what it lists.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rgraph_image::registry::{BlobDesc, Pushed, TransferEvent, Watch};
use rgraph_ir::{BlobDigest, Reference};
use rgraph_store::BlobRef;

use super::error::FetchError;
use super::image::{ImageFetcher, guard};
use crate::snapshot::{SnapshotError, bring};

/// How a blob got into a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// It was there.
    Exists,
    /// Taken from this repository of the same registry.
    Mounted(String),
    /// Sent.
    Uploaded,
}

impl ImageFetcher<'_> {
    /// Says where a blob comes from that no image resolved by this fetcher names.
    pub fn remember(&self, blob: BlobDigest, from: Reference) {
        guard(&self.origins).entry(blob).or_insert(from);
    }

    /// Whether an image of a registry has this blob, by what was resolved or remembered.
    pub fn has_origin(&self, blob: &BlobDigest) -> bool {
        guard(&self.origins).contains_key(blob)
    }

    /// Brings one blob to the repository of `r`, unless it is there. It is asked to be taken from a
    /// repository of the same registry where one is known to have it: that which it came from, or was
    /// pushed to before, or `maybe`. Only if it has to be sent and the store lacks it, it is fetched from
    /// where it came from.
    pub fn push_blob(
        &self,
        r: &Reference,
        digest: BlobDigest,
        size: u64,
        maybe: Option<&str>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Arrival, Box<dyn std::error::Error + Send + Sync>> {
        let absent = AtomicBool::new(false);
        let first = self.send_blob(r, digest, size, maybe, progress, &absent);
        if first.is_ok() || !absent.load(Ordering::Relaxed) {
            return first;
        }
        let blob = BlobRef { digest, size, media_type: String::new() };
        let brought = bring(self.store, self, &blob, &self.cancelled, |from| {
            let read = std::io::copy(from, &mut std::io::sink());
            read.map_err(|e| SnapshotError::Read { blob: digest, source: e.into() })
        })?;
        match brought {
            Some(_) => self.send_blob(r, digest, size, maybe, progress, &absent),
            None => first,
        }
    }

    /// Notes in `absent` that the store would have had to give the blob and does not have it.
    fn send_blob(
        &self,
        r: &Reference,
        digest: BlobDigest,
        size: u64,
        maybe: Option<&str>,
        progress: &(dyn Fn(u64, u64) + Sync),
        absent: &AtomicBool,
    ) -> Result<Arrival, Box<dyn std::error::Error + Send + Sync>> {
        let registry = self
            .registry
            .ok_or_else(|| FetchError::NoRegistry { reference: r.familiar() })?
            .get()?;
        let mounted = Mutex::new(None);
        let on_event = |e: &TransferEvent| {
            if let TransferEvent::Mounted { from, .. } = e {
                *guard(&mounted) = Some(from.clone());
            }
            (self.on_event)(e);
        };
        let watch = Watch { progress, on_event: &on_event, ..self.watch() };
        let place = (r.registry.clone(), digest);
        let origin = guard(&self.origins).get(&digest).cloned();
        let mount_from = origin
            .filter(|o| o.registry == r.registry)
            .map(|o| o.repository)
            .or_else(|| guard(&self.sent).get(&place).cloned())
            .or_else(|| maybe.map(str::to_owned));
        let open = |offset: u64| -> std::io::Result<Box<dyn Read + Send>> {
            use std::io::Seek as _;
            let found = self.store.open_blob(&digest).map_err(std::io::Error::other)?;
            let (mut file, _) = found.ok_or_else(|| {
                absent.store(true, Ordering::Relaxed);
                std::io::Error::other(format!("blob {digest} is not in the store"))
            })?;
            file.seek(std::io::SeekFrom::Start(offset))?;
            Ok(Box::new(file))
        };
        let desc = BlobDesc { digest, size };
        let how = registry.push_blob(r, &desc, open, mount_from.as_deref(), &watch)?;
        guard(&self.sent).entry(place).or_insert_with(|| r.repository.clone());
        Ok(match how {
            Pushed::Exists => Arrival::Exists,
            Pushed::Uploaded => Arrival::Uploaded,
            Pushed::Mounted => Arrival::Mounted(guard(&mounted).take().unwrap_or_default()),
        })
    }

    /// The tags of the repository of `r`.
    pub fn remote_tags(&self, r: &Reference) -> Result<Vec<String>, FetchError> {
        // No tag was asked for.
        let reference = || r.familiar_name();
        let failed = |e| FetchError::Registry { reference: reference(), source: Box::new(e) };
        let offline = || FetchError::NoRegistry { reference: reference() };
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
            self.push_blob(&r, *digest, *size, None, &told)?;
        }
        if !tag {
            r.tag = None;
            r.digest = None;
        }
        registry.push_manifest(&r, media_type, manifest, &self.watch())?;
        Ok(())
    }
}
