//! Base images: resolved to a manifest without the network where the store knows the name, their
//! layers registered lazily and fetched when something must run on them.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rgraph_image::registry::{BlobDesc, TransferEvent, Watch};
use rgraph_ir::image_config::{BaseHistory, BaseImage, ImageConfig};
use rgraph_ir::op::ResolveMode;
use rgraph_ir::{
    BlobDigest, ChainId, ConfigDigest, DiffId, ManifestDigest, Platform, Reference, SnapshotId,
};
use rgraph_solver::CancelToken;
use rgraph_store::{BlobRef, LayerInfo, NewSnapshot, Part, Store};

pub use super::error::FetchError;
use super::lock::LockFile;
use super::registry::LazyRegistry;
use super::resolve::Top;
use crate::snapshot::LayerProvider;

/// When a registry is asked what a tag means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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

/// How the lines of a lock file are used.
#[derive(Debug, Clone, Copy)]
pub enum Lock<'a> {
    /// A source means what its line says; one without a line is an error.
    Obey(&'a LockFile),
    /// A source with a line means what that says, unless its registry is asked anyway.
    Prefer(&'a LockFile),
}

/// An image of one platform, known down to its layers.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Its name as asked for, normalised, with the digest found.
    pub reference: Reference,
    /// What the name means: an index with this image in it, or its manifest.
    pub top: ManifestDigest,
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

type ByName<T = Arc<ResolvedImage>> = HashMap<(String, Platform), T>;

/// Found out once; who asks meanwhile waits.
type TopCell = Arc<Mutex<Option<Top>>>;

pub(super) fn guard<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves and fetches images for one build. Each name is looked up once, so that all platforms
/// come from one index.
pub struct ImageFetcher<'a> {
    pub(super) store: &'a Store,
    pub(super) registry: Option<&'a LazyRegistry>,
    pub(super) policy: PullPolicy,
    pub(super) lock: Option<Lock<'a>>,
    pub(super) cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    pub(super) on_event: Box<dyn Fn(&TransferEvent) + Send + Sync + 'a>,
    pub(super) on_warning: Box<dyn Fn(&str) + Send + Sync + 'a>,
    pub(super) tops: Mutex<HashMap<(String, PullPolicy), TopCell>>,
    known: Mutex<ByName<HashMap<PullPolicy, Arc<ResolvedImage>>>>,
    /// The same by the name with its digest, which is what lowering writes into the graph.
    pinned: Mutex<ByName>,
    /// Registries that did not answer, and were warned of.
    pub(super) silent: Mutex<HashSet<String>>,
    /// Images of OCI layouts.
    pub(super) layouts: Mutex<HashMap<ManifestDigest, Arc<ResolvedImage>>>,
    pub(super) origins: Arc<Mutex<HashMap<BlobDigest, Reference>>>,
    /// The repository of a registry that a blob was brought to.
    pub(super) sent: Mutex<HashMap<(String, BlobDigest), String>>,
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
            lock: None,
            cancelled,
            on_event: Box::new(|_| {}),
            on_warning: Box::new(|_| {}),
            tops: Mutex::default(),
            known: Mutex::default(),
            pinned: Mutex::default(),
            silent: Mutex::default(),
            layouts: Mutex::default(),
            origins: Arc::default(),
            sent: Mutex::default(),
        }
    }

    /// With the lines of a lock file.
    pub fn locked(self, lock: Option<Lock<'a>>) -> Self {
        Self { lock, ..self }
    }

    /// Tells `on_warning` of registries that do not answer where the store can stand in.
    pub fn warning(self, on_warning: impl Fn(&str) + Send + Sync + 'a) -> Self {
        Self { on_warning: Box::new(on_warning), ..self }
    }

    /// Tells `on_event` of retries and resumed transfers.
    pub fn telling(self, on_event: impl Fn(&TransferEvent) + Send + Sync + 'a) -> Self {
        Self { on_event: Box::new(on_event), ..self }
    }

    /// The same with a wish to stop of its own, for what goes on beside the steps. It knows where
    /// blobs come from; names it resolves itself.
    pub fn beside<'b>(&'b self, cancel: &CancelToken) -> ImageFetcher<'b> {
        let fetcher = ImageFetcher::new(self.store, self.registry, self.policy, cancel);
        let told = |e: &TransferEvent| match e {
            TransferEvent::Exists { .. } | TransferEvent::Mounted { .. } => {}
            e => (self.on_event)(e),
        };
        ImageFetcher { origins: self.origins.clone(), ..fetcher.telling(told) }
    }

    pub(super) fn watch(&self) -> Watch<'_> {
        Watch { cancelled: &self.cancelled, on_event: &self.on_event, ..Watch::QUIET }
    }

    pub(super) fn policy_of(&self, mode: ResolveMode) -> PullPolicy {
        match mode {
            ResolveMode::ForcePull => PullPolicy::Always,
            ResolveMode::PreferLocal => PullPolicy::Missing,
            ResolveMode::Default => self.policy,
        }
    }

    /// What `reference` means for `platform`.
    pub fn resolve(
        &self,
        reference: &str,
        platform: &Platform,
        mode: ResolveMode,
    ) -> Result<Arc<ResolvedImage>, FetchError> {
        // An op carries the platform as it was written.
        let platform = &platform.clone().normalize();
        let id = (reference.to_owned(), platform.clone());
        // Of two targets one may ask for what a name means now, and the other not.
        let policy = self.policy_of(mode);
        if let Some(found) = self.known(&id, |p| p == policy) {
            return Ok(found);
        }
        let parsed: Reference = reference.parse()?;
        let image = Arc::new(self.find(&parsed, platform, policy)?);
        {
            let mut origins = guard(&self.origins);
            for (_, blob) in &image.layers {
                origins.insert(blob.digest, parsed.clone());
            }
        }
        guard(&self.known).entry(id).or_default().insert(policy, image.clone());
        let pinned = (image.reference.to_string(), platform.clone());
        guard(&self.pinned).insert(pinned, image.clone());
        Ok(image)
    }

    fn known(
        &self,
        id: &(String, Platform),
        asked: impl Fn(PullPolicy) -> bool,
    ) -> Option<Arc<ResolvedImage>> {
        let known = guard(&self.known);
        let mut found = known.get(id).into_iter().flatten().filter(|(policy, _)| asked(**policy));
        let found = found.next().map(|(_, image)| image.clone());
        found.or_else(|| guard(&self.pinned).get(id).cloned())
    }

    /// Whether [`Self::resolve`] has been asked for this image before, and found it.
    pub fn is_resolved(&self, reference: &str, platform: &Platform) -> bool {
        self.known(&(reference.to_owned(), platform.clone().normalize()), |_| true).is_some()
    }

    /// Every image asked for so far: its name as asked, the platform, and what was found.
    pub fn resolved(&self) -> Vec<(String, Platform, Arc<ResolvedImage>)> {
        let known = guard(&self.known);
        let mut all: Vec<_> = known
            .iter()
            .flat_map(|((n, p), found)| found.values().map(|i| (n.clone(), p.clone(), i.clone())))
            .collect();
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all
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

impl LayerProvider for ImageFetcher<'_> {
    fn open(
        &self,
        blob: &BlobRef,
        front: Option<Part>,
    ) -> Result<Option<Box<dyn Read + Send + '_>>, Box<dyn std::error::Error + Send + Sync>> {
        let origin = guard(&self.origins).get(&blob.digest).cloned();
        let Some(r) = origin else { return Ok(None) };
        let registry = self.open_registry().map_err(|closed| FetchError::AbsentLayer {
            digest: blob.digest,
            reference: r.familiar(),
            closed,
        })?;
        let desc = BlobDesc { digest: blob.digest, size: blob.size };
        let client = registry.get()?;
        Ok(Some(match front {
            Some(front) => Box::new(client.resume_blob(&r, &desc, Box::new(front), self.watch())),
            None => Box::new(client.open_blob(&r, &desc, self.watch())?),
        }))
    }
}
