//! Base images: resolved to a manifest without the network where the store knows the name, their
//! layers registered lazily and fetched when something must run on them.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};

use rgraph_image::config::{self, ConfigError};
use rgraph_image::manifest::{Document, Manifest, ManifestError};
use rgraph_image::registry::{
    BlobDesc, ManifestRef, Pushed, RegistryClient, RegistryError, TransferEvent, Watch,
};
use rgraph_ir::image_config::{BaseHistory, BaseImage, ImageConfig};
use rgraph_ir::op::ResolveMode;
use rgraph_ir::{
    BlobDigest, ChainId, ConfigDigest, DiffId, ManifestDigest, Platform, Reference, SnapshotId,
    limits,
};
use rgraph_solver::CancelToken;
use rgraph_store::{BlobRef, LayerInfo, NewSnapshot, Store, StoreError};

use super::registry::LazyRegistry;
use crate::snapshot::LayerProvider;

/// When a registry is asked what a tag means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// When the store does not know the name.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Always, but a registry that does not answer is no error when the store knows the name.
    Newer,
    /// Never.
    Never,
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
    #[error(
        "`{reference}` is not in the store, and the network is not used (--offline, --pull=never)"
    )]
    Offline {
        /// The image.
        reference: String,
    },
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

/// An image of one platform, known down to its layers.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Its name as asked for, normalised, with the digest found.
    pub reference: Reference,
    /// Its manifest.
    pub manifest: ManifestDigest,
    /// Its config.
    pub config_digest: ConfigDigest,
    /// The settings.
    pub config: ImageConfig,
    /// Oldest first.
    pub history: Vec<BaseHistory>,
    /// Bottom first.
    pub layers: Vec<(DiffId, BlobRef)>,
}

impl ResolvedImage {
    /// What its file system is, whatever it is called.
    pub fn pin(&self) -> String {
        match self.chain() {
            Some(c) => format!("chain {c}"),
            None => "empty".to_owned(),
        }
    }

    /// Names its stack of layers.
    pub fn chain(&self) -> Option<ChainId> {
        let mut ids = self.layers.iter().map(|(d, _)| *d);
        let base = ChainId::base(ids.next()?);
        Some(ids.fold(base, ChainId::with))
    }

    /// As lowering wants it.
    pub fn base_image(&self) -> BaseImage {
        BaseImage {
            reference: self.reference.to_string(),
            config: self.config.clone(),
            layers: self.layers.len(),
            history: self.history.clone(),
        }
    }
}

/// Resolves and fetches images for one build.
pub struct ImageFetcher<'a> {
    store: &'a Store,
    registry: Option<&'a LazyRegistry>,
    policy: PullPolicy,
    cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    on_event: Box<dyn Fn(&TransferEvent) + Send + Sync + 'a>,
    known: Mutex<HashMap<(String, Platform), Arc<ResolvedImage>>>,
    origins: Mutex<HashMap<BlobDigest, Reference>>,
}

impl<'a> ImageFetcher<'a> {
    /// Without a registry nothing leaves this machine.
    pub fn new(
        store: &'a Store,
        registry: Option<&'a LazyRegistry>,
        policy: PullPolicy,
        cancel: &CancelToken,
    ) -> Self {
        let cancel = cancel.clone();
        let cancelled = Box::new(move || cancel.is_cancelled());
        Self {
            store,
            registry,
            policy,
            cancelled,
            on_event: Box::new(|_| {}),
            known: Mutex::default(),
            origins: Mutex::default(),
        }
    }

    /// Tells `on_event` of retries and resumed transfers.
    pub fn telling(self, on_event: impl Fn(&TransferEvent) + Send + Sync + 'a) -> Self {
        Self { on_event: Box::new(on_event), ..self }
    }

    fn watch(&self) -> Watch<'_> {
        Watch { cancelled: &self.cancelled, on_event: &self.on_event, ..Watch::QUIET }
    }

    /// What `reference` means for `platform`.
    pub fn resolve(
        &self,
        reference: &str,
        platform: &Platform,
        mode: ResolveMode,
    ) -> Result<Arc<ResolvedImage>, FetchError> {
        let id = (reference.to_owned(), platform.clone());
        if let Some(found) = self.known.lock().unwrap_or_else(|e| e.into_inner()).get(&id) {
            return Ok(found.clone());
        }
        let parsed: Reference = reference.parse()?;
        let policy = match mode {
            ResolveMode::ForcePull => PullPolicy::Always,
            ResolveMode::PreferLocal => PullPolicy::Missing,
            ResolveMode::Default => self.policy,
        };
        let image = Arc::new(self.find(&parsed, platform, policy)?);
        {
            let mut origins = self.origins.lock().unwrap_or_else(|e| e.into_inner());
            for (_, blob) in &image.layers {
                origins.insert(blob.digest, parsed.clone());
            }
        }
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        known.insert(id, image.clone());
        // The name with its digest is what lowering writes into the graph.
        known.insert((image.reference.to_string(), platform.clone()), image.clone());
        Ok(image)
    }

    fn find(
        &self,
        r: &Reference,
        platform: &Platform,
        policy: PullPolicy,
    ) -> Result<ResolvedImage, FetchError> {
        let local = match r.digest {
            Some(d) => Some(d),
            None => self.local_digest(r, platform)?,
        };
        let ask = match policy {
            _ if r.digest.is_some() => false,
            PullPolicy::Always | PullPolicy::Newer => true,
            PullPolicy::Missing | PullPolicy::Never => false,
        };
        if !ask
            && let Some(digest) = local
            && let Some(image) = self.load(r, digest, platform)?
        {
            return Ok(image);
        }
        let Some(registry) = self.registry.filter(|_| policy != PullPolicy::Never) else {
            return Err(FetchError::Offline { reference: r.familiar() });
        };
        let registry = registry
            .get()
            .map_err(|e| FetchError::Registry { reference: r.familiar(), source: Box::new(e) })?;
        match self.ask(registry, r, platform) {
            Err(FetchError::Registry { .. }) if policy == PullPolicy::Newer && local.is_some() => {
                let digest = local.expect("checked");
                self.load(r, digest, platform)?
                    .ok_or(FetchError::Offline { reference: r.familiar() })
            }
            other => other,
        }
    }

    /// The digest a tag has in the store: an image of this machine, or the last pull.
    fn local_digest(
        &self,
        r: &Reference,
        platform: &Platform,
    ) -> Result<Option<ManifestDigest>, FetchError> {
        let name = r.to_string();
        if let Some(tag) = self.store.resolve_tag(&name)? {
            return Ok(Some(tag.manifest));
        }
        Ok(self.store.remote_tag(&name, &platform.to_string())?)
    }

    /// A document of the store; one that is missing or damaged has to be asked for again.
    fn document(&self, digest: &BlobDigest, max: u64) -> Result<Option<Vec<u8>>, FetchError> {
        match self.store.read_blob_verified(digest, max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NoBlob { .. } | StoreError::BlobDamaged { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Loads an image whose documents the store has.
    fn load(
        &self,
        r: &Reference,
        digest: ManifestDigest,
        platform: &Platform,
    ) -> Result<Option<ResolvedImage>, FetchError> {
        let Some(bytes) = self.document(&digest.into(), limits::MAX_MANIFEST)? else {
            return Ok(None);
        };
        let document = |e| FetchError::Manifest { reference: r.familiar(), source: Box::new(e) };
        let (digest, m) = match Document::parse(&bytes, None).map_err(document)? {
            Document::Manifest(m) => (digest, m),
            Document::Index(index) => {
                let entry = index.choose(platform).map_err(document)?;
                let inner = ManifestDigest::from(entry.digest);
                let Some(bytes) = self.document(&entry.digest, limits::MAX_MANIFEST)? else {
                    return Ok(None);
                };
                match Document::parse(&bytes, None).map_err(document)? {
                    Document::Manifest(m) => (inner, m),
                    Document::Index(_) => {
                        return Err(document(ManifestError::MediaType(
                            "an index within an index".to_owned(),
                        )));
                    }
                }
            }
        };
        let Some(config) = self.document(&m.config.digest, limits::MAX_CONFIG)? else {
            return Ok(None);
        };
        self.assemble(r, digest, &m, &config).map(Some)
    }

    /// Asks the registry and keeps the documents.
    fn ask(
        &self,
        registry: &RegistryClient,
        r: &Reference,
        platform: &Platform,
    ) -> Result<ResolvedImage, FetchError> {
        let failed = |e| FetchError::Registry { reference: r.familiar(), source: Box::new(e) };
        let document = |e| FetchError::Manifest { reference: r.familiar(), source: Box::new(e) };
        let watch = self.watch();
        let top = registry.manifest(r, ManifestRef::of(r), &watch).map_err(failed)?;
        let (digest, bytes) = match Document::parse(&top.bytes, Some(&top.media_type))
            .map_err(document)?
        {
            Document::Manifest(_) => (top.digest, top.bytes),
            Document::Index(index) => {
                let entry = index.choose(platform).map_err(document)?;
                let wanted = ManifestDigest::from(entry.digest);
                self.store.put_blob(&top.bytes)?;
                if r.digest.is_none() {
                    // The index is remembered too, so that other platforms of the name need no
                    // second question.
                    self.store.put_remote_tag(
                        &r.to_string(),
                        &platform.to_string(),
                        &top.digest,
                    )?;
                }
                let inner =
                    registry.manifest(r, ManifestRef::Digest(wanted), &watch).map_err(failed)?;
                (wanted, inner.bytes)
            }
        };
        let Document::Manifest(m) = Document::parse(&bytes, None).map_err(document)? else {
            return Err(document(ManifestError::MediaType("an index within an index".to_owned())));
        };
        let desc = BlobDesc { digest: m.config.digest, size: m.config.size };
        let config = registry.blob_bytes(r, &desc, limits::MAX_CONFIG, &watch).map_err(failed)?;
        let image = self.assemble(r, digest, &m, &config)?;
        self.store.put_blob(&config)?;
        self.store.put_blob(&bytes)?;
        if r.digest.is_none()
            && self.store.remote_tag(&r.to_string(), &platform.to_string())? != Some(digest)
        {
            self.store.put_remote_tag(&r.to_string(), &platform.to_string(), &digest)?;
        }
        Ok(image)
    }

    fn assemble(
        &self,
        r: &Reference,
        manifest: ManifestDigest,
        m: &Manifest,
        config: &[u8],
    ) -> Result<ResolvedImage, FetchError> {
        let (config, history, diff_ids) = config::from_json(config)
            .map_err(|source| FetchError::Config { reference: r.familiar(), source })?;
        if diff_ids.len() != m.layers.len() {
            return Err(FetchError::Layers {
                reference: r.familiar(),
                layers: m.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let layers = diff_ids
            .iter()
            .zip(&m.layers)
            .map(|(d, l)| {
                (*d, BlobRef { digest: l.digest, size: l.size, media_type: l.media_type.clone() })
            })
            .collect();
        let reference = Reference { digest: Some(manifest), ..r.clone() };
        Ok(ResolvedImage {
            reference,
            manifest,
            config_digest: ConfigDigest::from(m.config.digest),
            config,
            history,
            layers,
        })
    }

    /// The snapshot of an image: known by its layers, on disk only when something reads it.
    pub fn snapshot(&self, image: &ResolvedImage, store: &Store) -> Result<SnapshotId, FetchError> {
        let mut parent = None;
        for (diff_id, blob) in &image.layers {
            let layer = LayerInfo { diff_id: *diff_id, tar_size: None, blob: Some(blob.clone()) };
            let description = format!("layer of {}", image.reference.familiar());
            parent =
                Some(store.add_lazy(NewSnapshot { parent, layer: Some(layer), description })?);
        }
        parent.ok_or_else(|| FetchError::Layers {
            reference: image.reference.familiar(),
            layers: 0,
            diff_ids: 0,
        })
    }
}

impl ImageFetcher<'_> {
    /// Says where a blob comes from that no image resolved by this fetcher names.
    pub fn remember(&self, blob: BlobDigest, from: Reference) {
        self.origins.lock().unwrap_or_else(|e| e.into_inner()).entry(blob).or_insert(from);
    }

    /// Brings one blob of the store to the repository of `r`, unless it is there.
    pub fn push_blob(
        &self,
        r: &Reference,
        digest: BlobDigest,
        size: u64,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Pushed, Box<dyn std::error::Error + Send + Sync>> {
        let registry =
            self.registry.ok_or_else(|| FetchError::Offline { reference: r.familiar() })?.get()?;
        let watch = Watch { progress, ..self.watch() };
        let origin = self.origins.lock().unwrap_or_else(|e| e.into_inner()).get(&digest).cloned();
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

    /// What a name means in its registry now: the index of a name with several platforms.
    pub fn remote_digest(&self, r: &Reference) -> Result<ManifestDigest, FetchError> {
        let failed = |e| FetchError::Registry { reference: r.familiar(), source: Box::new(e) };
        let offline = || FetchError::Offline { reference: r.familiar() };
        let registry = self.registry.ok_or_else(offline)?.get().map_err(failed)?;
        Ok(registry.resolve(r, &self.watch()).map_err(failed)?.digest)
    }

    /// The tags of the repository of `r`.
    pub fn remote_tags(&self, r: &Reference) -> Result<Vec<String>, FetchError> {
        let failed = |e| FetchError::Registry { reference: r.familiar(), source: Box::new(e) };
        let offline = || FetchError::Offline { reference: r.familiar() };
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
        let registry =
            self.registry.ok_or_else(|| FetchError::Offline { reference: r.familiar() })?.get()?;
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

impl LayerProvider for ImageFetcher<'_> {
    fn open(
        &self,
        blob: &BlobRef,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, Box<dyn std::error::Error + Send + Sync>> {
        let origin =
            self.origins.lock().unwrap_or_else(|e| e.into_inner()).get(&blob.digest).cloned();
        match (origin, self.registry) {
            (Some(r), Some(registry)) => {
                let desc = BlobDesc { digest: blob.digest, size: blob.size };
                Ok(Some(Box::new(registry.get()?.open_blob(&r, &desc, self.watch())?)))
            }
            _ => Ok(None),
        }
    }
}
