//! From a name to an image: the lock file, the store, the registry.

use rgraph_image::config;
use rgraph_image::manifest::{Descriptor, Document, Manifest, ManifestError};
use rgraph_image::registry::{BlobDesc, ManifestRef, RegistryClient, RegistryError};
use rgraph_ir::{BlobDigest, ConfigDigest, ManifestDigest, Platform, Reference, limits};
use rgraph_store::{BlobRef, StoreError};

use super::error::{Closed, FetchError, LockConflict, LockProblem};
use super::image::{ImageFetcher, Lock, PullPolicy, ResolvedImage, guard};
use super::lock::{LockFile, LockedImage};
use super::registry::LazyRegistry;

/// What a name means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Top {
    digest: ManifestDigest,
    /// The registry said so in this build.
    asked: bool,
}

impl<'a> ImageFetcher<'a> {
    pub(super) fn find(
        &self,
        r: &Reference,
        platform: &Platform,
        policy: PullPolicy,
    ) -> Result<ResolvedImage, FetchError> {
        let obeyed = self.obeyed(r, platform)?;
        let top = self.top(r, policy)?;
        let image = match self.read(r, top.digest, platform, None)? {
            Some(image) => image,
            None => self.bring(r, top, platform, policy)?,
        };
        if let Some((file, line, locked)) = obeyed
            && image.manifest != locked
        {
            let (platform, found) = (platform.clone(), image.manifest);
            let problem = LockProblem::Differs { platform, locked, found };
            return Err(conflict(file, line.line, r, problem));
        }
        // Last, so that a name never means something whose documents are not here.
        if top.asked || image.top != top.digest {
            self.store.put_remote_tag(&r.to_string(), &image.top)?;
        }
        Ok(image)
    }

    /// The document that a name stands for.
    pub(super) fn document_of(
        &self,
        r: &Reference,
        policy: PullPolicy,
    ) -> Result<Document, FetchError> {
        let top = self.top(r, policy)?.digest;
        if let Some((document, _)) = self.manifest(r, top, None)? {
            return Ok(document);
        }
        let document = self.manifest(r, top, Some(self.client(r)?))?;
        // A client gives a document or an error.
        let none = || FetchError::NoRegistry { reference: r.familiar() };
        document.map(|(document, _)| document).ok_or_else(none)
    }

    /// The line that has to be obeyed, and the manifest that it gives the platform.
    fn obeyed(
        &self,
        r: &Reference,
        platform: &Platform,
    ) -> Result<Option<(&'a LockFile, &'a LockedImage, ManifestDigest)>, FetchError> {
        let Some(Lock::Obey(file)) = self.lock else { return Ok(None) };
        let unknown = || conflict(file, 0, r, LockProblem::Unknown);
        let line = file.image(&r.to_string()).ok_or_else(unknown)?;
        let unknown = || conflict(file, line.line, r, LockProblem::Platform(platform.clone()));
        let manifest = line.platforms.get(platform).ok_or_else(unknown)?;
        Ok(Some((file, line, *manifest)))
    }

    /// What the lock file says that a name means.
    fn line(&self, r: &Reference) -> Option<(&'a LockFile, &'a LockedImage)> {
        let (Lock::Obey(file) | Lock::Prefer(file)) = self.lock?;
        Some((file, file.image(&r.to_string())?))
    }

    /// What a name means, found out once.
    fn top(&self, r: &Reference, policy: PullPolicy) -> Result<Top, FetchError> {
        if let Some(digest) = r.digest {
            return Ok(Top { digest, asked: false });
        }
        let cell = guard(&self.tops).entry((r.to_string(), policy)).or_default().clone();
        let mut cell = guard(&cell);
        let top = match *cell {
            Some(top) => top,
            None => self.look_up(r, policy)?,
        };
        *cell = Some(top);
        Ok(top)
    }

    fn look_up(&self, r: &Reference, policy: PullPolicy) -> Result<Top, FetchError> {
        let line = self.line(r);
        let known = match line {
            Some((_, line)) => Some(line.digest),
            None => self.local_digest(r)?,
        };
        let asks = matches!(policy, PullPolicy::Always | PullPolicy::Newer);
        if let Some(digest) = known
            && !asks
        {
            return Ok(Top { digest, asked: false });
        }
        let digest = match (self.ask(r, known.is_some()), known) {
            (Ok(now), _) => now,
            (Err(FetchError::Registry { source, .. }), Some(digest))
                if policy == PullPolicy::Newer && !(self.cancelled)() =>
            {
                self.stand_in(r, &source);
                return Ok(Top { digest, asked: false });
            }
            (Err(e), _) => return Err(e),
        };
        if let (Some(Lock::Obey(file)), Some((_, line))) = (self.lock, line)
            && line.digest != digest
        {
            let problem = LockProblem::Moved { locked: line.digest, now: digest };
            return Err(conflict(file, line.line, r, problem));
        }
        Ok(Top { digest, asked: true })
    }

    /// Warns, once a registry, that what the store has stands in for its answer.
    fn stand_in(&self, r: &Reference, why: &RegistryError) {
        if guard(&self.silent).insert(r.registry.clone()) {
            let text = format!(
                "cannot ask whether `{}` is newer in its registry, so what is here is used: {why}",
                r.familiar()
            );
            (self.on_warning)(&text);
        }
    }

    /// The digest a tag has here: what its registry said last, else what it was given here.
    fn local_digest(&self, r: &Reference) -> Result<Option<ManifestDigest>, FetchError> {
        let name = r.to_string();
        match self.store.remote_tag(&name)? {
            Some(digest) => Ok(Some(digest)),
            None => Ok(self.store.resolve_tag(&name)?.map(|t| t.manifest)),
        }
    }

    /// Registries, when they may be asked.
    pub(super) fn open_registry(&self) -> Result<&'a LazyRegistry, Closed> {
        match (self.policy, self.registry) {
            (PullPolicy::Never, _) => Err(Closed::Never),
            (_, None) => Err(Closed::Offline),
            (_, Some(registry)) => Ok(registry),
        }
    }

    fn client(&self, r: &Reference) -> Result<&'a RegistryClient, FetchError> {
        let registry = self
            .open_registry()
            .map_err(|closed| FetchError::Absent { reference: r.familiar(), closed })?;
        registry.get().map_err(|e| failed(r, e))
    }

    /// Asks the registry what a tag means. `known`: something is here that may still be right, so
    /// the document is not sent along.
    fn ask(&self, r: &Reference, known: bool) -> Result<ManifestDigest, FetchError> {
        let client = self.client(r)?;
        let watch = self.watch();
        if known {
            return Ok(client.resolve(r, &watch).map_err(|e| failed(r, e))?.digest);
        }
        let top = client.manifest(r, ManifestRef::of(r), &watch).map_err(|e| failed(r, e))?;
        Document::parse(&top.bytes, Some(&top.media_type)).map_err(|e| malformed(r, e))?;
        self.store.put_blob(&top.bytes)?;
        Ok(top.digest)
    }

    /// Has the documents sent that are not here.
    fn bring(
        &self,
        r: &Reference,
        top: Top,
        platform: &Platform,
        policy: PullPolicy,
    ) -> Result<ResolvedImage, FetchError> {
        let client = self.client(r)?;
        let brought = match self.read(r, top.digest, platform, Some(client)) {
            Err(FetchError::Registry { source, .. })
                if matches!(*source, RegistryError::NotFound { .. }) =>
            {
                if let (Some(Lock::Obey(_)), Some((file, line))) = (self.lock, self.line(r)) {
                    let problem = LockProblem::Gone { locked: line.digest, source };
                    return Err(conflict(file, line.line, r, problem));
                }
                if r.digest.is_some() || top.asked || policy != PullPolicy::Missing {
                    return Err(failed(r, *source));
                }
                // What the name meant is gone, here and there: it means something else by now.
                let now = self.ask(r, false)?;
                self.read(r, now, platform, Some(client))?
            }
            other => other?,
        };
        // A client gives a document or an error.
        brought.ok_or_else(|| FetchError::NoRegistry { reference: r.familiar() })
    }

    /// A document of the store; one that is missing or damaged has to be asked for again.
    fn document(&self, digest: &BlobDigest, max: u64) -> Result<Option<Vec<u8>>, FetchError> {
        match self.store.read_blob_verified(digest, max) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NoBlob { .. } | StoreError::BlobDamaged { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// A manifest or index: from the store, else from `client`.
    fn manifest(
        &self,
        r: &Reference,
        digest: ManifestDigest,
        client: Option<&RegistryClient>,
    ) -> Result<Option<(Document, u64)>, FetchError> {
        let parse = |bytes: &[u8], media_type| {
            let document = Document::parse(bytes, media_type).map_err(|e| malformed(r, e))?;
            Ok(Some((document, bytes.len() as u64)))
        };
        if let Some(bytes) = self.document(&digest.into(), limits::MAX_MANIFEST)? {
            return parse(&bytes, None);
        }
        let Some(client) = client else { return Ok(None) };
        let got = client
            .manifest(r, ManifestRef::Digest(digest), &self.watch())
            .map_err(|e| failed(r, e))?;
        let document = parse(&got.bytes, Some(&got.media_type))?;
        self.store.put_blob(&got.bytes)?;
        Ok(document)
    }

    /// What an entry of an index names, which is what the index says.
    fn entry(
        &self,
        r: &Reference,
        entry: &Descriptor,
        client: Option<&RegistryClient>,
    ) -> Result<Option<Document>, FetchError> {
        let found = self.manifest(r, entry.digest.into(), client)?;
        let Some((document, size)) = found else { return Ok(None) };
        document.check(entry, size).map_err(|e| malformed(r, e))?;
        Ok(Some(document))
    }

    /// A manifest that an index of `r` names: from the store, else from the registry, and then kept.
    /// `None`: it is neither here nor there, or no manifest.
    pub fn manifest_of(
        &self,
        r: &Reference,
        entry: &Descriptor,
    ) -> Result<Option<Manifest>, FetchError> {
        match self.entry(r, entry, Some(self.client(r)?)) {
            Ok(Some(Document::Manifest(m))) => Ok(Some(m)),
            Ok(Some(Document::Index(_)) | None) => Ok(None),
            Err(FetchError::Registry { source, .. })
                if matches!(*source, RegistryError::NotFound { .. }) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Reads the image that `top` names for a platform: documents of the store, and those of
    /// `client`, which are kept. `None`: some are not here, and there is no client.
    fn read(
        &self,
        r: &Reference,
        top: ManifestDigest,
        platform: &Platform,
        client: Option<&RegistryClient>,
    ) -> Result<Option<ResolvedImage>, FetchError> {
        let Some((document, _)) = self.manifest(r, top, client)? else { return Ok(None) };
        let (digest, m) = match document {
            Document::Manifest(m) => (top, m),
            Document::Index(index) => {
                let entry = index.choose(platform).map_err(|e| malformed(r, e))?;
                let digest = ManifestDigest::from(entry.digest);
                match self.entry(r, entry, client)? {
                    None => return Ok(None),
                    Some(Document::Manifest(m)) => (digest, m),
                    Some(Document::Index(_)) => {
                        let what = "an index within an index".to_owned();
                        return Err(malformed(r, ManifestError::MediaType(what)));
                    }
                }
            }
        };
        let config = match (self.document(&m.config.digest, limits::MAX_CONFIG)?, client) {
            (Some(config), _) => config,
            (None, None) => return Ok(None),
            (None, Some(client)) => {
                let desc = BlobDesc { digest: m.config.digest, size: m.config.size };
                client
                    .blob_bytes(r, &desc, limits::MAX_CONFIG, &self.watch())
                    .map_err(|e| failed(r, e))?
            }
        };
        let image = self.assemble(r, top, digest, &m, &config)?;
        if client.is_some() {
            self.store.put_blob(&config)?;
            if top != digest {
                self.store.link_blobs(&top.into(), &[digest.into()])?;
            }
            self.store.link_blobs(&digest.into(), &[m.config.digest])?;
        }
        Ok(Some(image))
    }

    pub(super) fn assemble(
        &self,
        r: &Reference,
        top: ManifestDigest,
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
            top,
            manifest,
            config_digest: ConfigDigest::from(m.config.digest),
            config,
            history,
            layers,
        })
    }
}

fn failed(r: &Reference, e: RegistryError) -> FetchError {
    FetchError::Registry { reference: r.familiar(), source: Box::new(e) }
}

fn conflict(file: &LockFile, line: usize, r: &Reference, problem: LockProblem) -> FetchError {
    let (file, reference) = (file.name().to_owned(), r.familiar());
    Box::new(LockConflict { file, line, reference, problem }).into()
}

fn malformed(r: &Reference, e: ManifestError) -> FetchError {
    FetchError::Manifest { reference: r.familiar(), source: Box::new(e) }
}
