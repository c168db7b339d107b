//! [`RegistryClient`]: the blocking face, requests with the right `Authorization`, and manifests.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use rgraph_ir::limits::MAX_MANIFEST;
use rgraph_ir::{BlobDigest, ManifestDigest, Reference};
use tokio::runtime::Handle;

use super::auth::{Auth, Scope};
use super::config::RegistryConfig;
use super::endpoint::{Endpoint, Scheme, host_of, same_origin};
use super::error::{RegistryError, Result, clean};
use super::http::Http;
use super::retry::Backoff;
use super::watch::{Report, TransferEvent, Watch};

/// The manifests and indexes we can read. Docker's schema 1 is left out on purpose.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Longest media type that is believed, bytes (RFC 6838 allows 127 for each half).
const MAX_MEDIA_TYPE: usize = 255;

/// How often [`Watch::cancelled`] is asked while nothing else happens.
const TICK: Duration = Duration::from_millis(50);

/// Talks to registries. Cheap to clone; clones share connections and tokens.
///
/// Every method blocks and must be called from a plain thread, not from a task of the runtime.
#[derive(Clone)]
pub struct RegistryClient {
    pub(super) inner: Arc<Inner>,
    pub(super) handle: Handle,
}

/// What all clones share.
pub(super) struct Inner {
    pub http: Http,
    pub auth: Auth,
    /// Whether a host that may be spoken to either way speaks TLS.
    schemes: Mutex<HashMap<String, bool>>,
    /// Mirrors that gave wrong bytes: a second try of the caller goes past them.
    liars: Mutex<HashSet<String>>,
}

/// What a reference means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Of the manifest or index.
    pub digest: ManifestDigest,
    /// As the server says; to be compared with the document.
    pub media_type: String,
    /// Bytes.
    pub size: u64,
}

/// A manifest or index as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestBytes {
    /// Untouched: the digest is over these.
    pub bytes: Vec<u8>,
    /// `Content-Type`, without parameters; empty when the server gave none.
    pub media_type: String,
    /// Of `bytes`, computed here.
    pub digest: ManifestDigest,
}

/// Names a manifest within a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestRef<'a> {
    /// Whatever the tag means now.
    Tag(&'a str),
    /// These bytes only.
    Digest(ManifestDigest),
}

impl<'a> ManifestRef<'a> {
    /// What `r` asks for: its digest, else its tag.
    pub fn of(r: &'a Reference) -> Self {
        match (&r.digest, &r.tag) {
            (Some(d), _) => Self::Digest(*d),
            (None, Some(t)) => Self::Tag(t),
            (None, None) => Self::Tag("latest"),
        }
    }
}

impl std::fmt::Display for ManifestRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(t) => f.write_str(t),
            Self::Digest(d) => write!(f, "{d}"),
        }
    }
}

impl RegistryClient {
    /// A client on a runtime with at least one worker thread and with I/O and time enabled. Opens
    /// no connection.
    pub fn new(handle: Handle, config: RegistryConfig) -> Self {
        let http = Http::new(config);
        let inner = Inner {
            http,
            auth: Auth::default(),
            schemes: Mutex::default(),
            liars: Mutex::default(),
        };
        Self { inner: Arc::new(inner), handle }
    }

    /// What `r` means now, mirrors first. By HEAD, by GET where HEAD does not say it.
    pub fn resolve(&self, r: &Reference, watch: &Watch<'_>) -> Result<Resolved> {
        let which = ManifestRef::of(r);
        self.run(
            watch,
            self.inner.anywhere(r, watch, async |ep| self.inner.resolve(ep, which).await),
        )
    }

    /// The bytes of a manifest or index, at most [`MAX_MANIFEST`], mirrors first. Checked when asked
    /// for by digest.
    pub fn manifest(
        &self,
        r: &Reference,
        which: ManifestRef<'_>,
        watch: &Watch<'_>,
    ) -> Result<ManifestBytes> {
        let get = async |ep: &Endpoint| self.inner.manifest(ep, which).await;
        self.run(watch, self.inner.anywhere(r, watch, get))
    }

    /// Runs a future on this thread until done or cancelled. Dropping it ends what it does.
    pub(super) fn run<T>(
        &self,
        watch: &Watch<'_>,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.handle.block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                if (watch.cancelled)() {
                    return Err(RegistryError::Cancelled);
                }
                if let Ok(out) = tokio::time::timeout(TICK, &mut future).await {
                    return out;
                }
            }
        })
    }
}

impl Inner {
    pub(super) fn config(&self) -> &RegistryConfig {
        self.http.config()
    }

    /// Where to pull `r` from, in order.
    pub(super) fn places(&self, r: &Reference) -> Vec<Endpoint> {
        let liars = self.liars.lock().unwrap_or_else(|e| e.into_inner());
        let mut all = Endpoint::for_pull(self.config(), r);
        all.retain(|ep| !ep.mirror || !liars.contains(&ep.host));
        all
    }

    /// Asks a mirror that gave wrong bytes no more.
    pub(super) fn distrust(&self, ep: &Endpoint) {
        if ep.mirror {
            self.liars.lock().unwrap_or_else(|e| e.into_inner()).insert(ep.host.clone());
        }
    }

    /// Tries `op` with retries at each place `r` may be pulled from.
    pub(super) async fn anywhere<T>(
        &self,
        r: &Reference,
        report: &dyn Report,
        op: impl AsyncFn(&Endpoint) -> Result<T>,
    ) -> Result<T> {
        let mut last = None;
        for ep in self.places(r) {
            match self.patiently(&ep, report, async || op(&ep).await).await {
                Err(e) if ep.mirror => {
                    if matches!(e, RegistryError::Digest { .. }) {
                        self.distrust(&ep);
                    }
                    let cause = e.to_string();
                    report.event(TransferEvent::MirrorFailed { mirror: ep.host, cause });
                    last = Some(e);
                }
                done => return done,
            }
        }
        Err(last.unwrap_or(RegistryError::Cancelled))
    }

    /// Tries `op` until it succeeds, fails for good, or the retries are used up.
    pub(super) async fn patiently<T>(
        &self,
        ep: &Endpoint,
        report: &dyn Report,
        op: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        let mut backoff = Backoff::new(&self.config().retry);
        loop {
            match op().await {
                Ok(v) => return Ok(v),
                Err(e) => backoff.wait(e, self.http.answered(&ep.host), report).await?,
            }
        }
    }

    /// `http[s]://host/v2/` of an endpoint. For a host that was declared insecure it is tried out,
    /// once, whether it speaks TLS.
    pub(super) async fn base(&self, ep: &Endpoint) -> Result<Url> {
        match ep.scheme {
            Scheme::Http => return ep.base(false),
            Scheme::Https => return ep.base(true),
            Scheme::Either => {}
        }
        let schemes = || self.schemes.lock().unwrap_or_else(|e| e.into_inner());
        let known = schemes().get(&ep.host).copied();
        if let Some(tls) = known {
            return ep.base(tls);
        }
        let url = ep.base(true)?;
        let wait = self.config().idle_timeout;
        let tls = match self.http.send(Method::GET, &url, HeaderMap::new(), None, None, wait).await
        {
            Ok(_) => true,
            Err(RegistryError::Tls { .. } | RegistryError::Broken { .. }) => false,
            Err(RegistryError::Unreachable { .. } | RegistryError::NotHttp { .. }) => false,
            Err(e) => return Err(e),
        };
        if !tls {
            // Only an answer in plain HTTP proves anything; else the TLS attempt is repeated.
            let url = ep.base(false)?;
            self.http.send(Method::GET, &url, HeaderMap::new(), None, None, wait).await?;
        }
        schemes().insert(ep.host.clone(), tls);
        ep.base(tls)
    }

    /// The URL of something in the endpoint's repository.
    pub(super) async fn url(&self, ep: &Endpoint, path: &str) -> Result<Url> {
        let base = self.base(ep).await?;
        let full = match ep.repository.as_str() {
            "" => path.to_owned(),
            repo => format!("{repo}/{path}"),
        };
        // Not `join` with the bare text: a repository could look like a scheme to it.
        base.join(&format!("./{full}")).map_err(|e| RegistryError::Settings {
            host: ep.host.clone(),
            why: format!("not a URL: {e}"),
        })
    }

    /// Sends a request without a body, follows redirects, and answers one 401 of the registry
    /// itself. Any status but 401 comes back as it is.
    pub(super) async fn request(
        &self,
        ep: &Endpoint,
        scope: &Scope,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let base = self.base(ep).await?;
        let header = self.auth.header(&self.http, ep, &base, scope).await?;
        let first = self.http.follow(&method, url, headers, header.as_ref()).await?;
        // A 401 from somewhere else is no question to us.
        if first.status() != StatusCode::UNAUTHORIZED || !same_origin(first.url(), &base) {
            return Ok(first);
        }
        let auth = &self.auth;
        let answer = auth.answer(&self.http, ep, &base, scope, &first, header.as_ref()).await?;
        let Some(answer) = answer else {
            return Err(self.refusal(ep, first, &ep.name()).await);
        };
        let second = self.http.follow(&method, url, headers, Some(&answer)).await?;
        if second.status() == StatusCode::UNAUTHORIZED {
            return Err(self.refusal(ep, second, &ep.name()).await);
        }
        Ok(second)
    }

    /// Makes an error of an answer that is not the wanted one.
    pub(super) async fn refusal(&self, ep: &Endpoint, r: Response, what: &str) -> RegistryError {
        self.http.refusal(r, what, self.auth.has_login(ep)).await
    }

    async fn resolve(&self, ep: &Endpoint, which: ManifestRef<'_>) -> Result<Resolved> {
        let url = self.url(ep, &format!("manifests/{which}")).await?;
        let scope = Scope::pull(&ep.repository);
        let r = self.request(ep, &scope, Method::HEAD, &url, &accept()).await?;
        let status = r.status();
        if status.is_success()
            && let Some(digest) = content_digest(&r)
            && let Some(size) = declared_length(&r)
            && size <= MAX_MANIFEST
            && let media_type = media_type(&r)
            && !media_type.is_empty()
            && !matches!(which, ManifestRef::Digest(want) if want != digest)
        {
            return Ok(Resolved { digest, media_type, size });
        }
        // Answers to HEAD say neither why nor, in some registries, the digest: GET does.
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.refusal(ep, r, &format!("manifest {}:{which}", ep.name())).await);
        }
        let m = self.manifest(ep, which).await?;
        Ok(Resolved { digest: m.digest, media_type: m.media_type, size: m.bytes.len() as u64 })
    }

    async fn manifest(&self, ep: &Endpoint, which: ManifestRef<'_>) -> Result<ManifestBytes> {
        let sep = if matches!(which, ManifestRef::Digest(_)) { '@' } else { ':' };
        let what = format!("manifest {}{sep}{which}", ep.name());
        let url = self.url(ep, &format!("manifests/{which}")).await?;
        let scope = Scope::pull(&ep.repository);
        let r = self.request(ep, &scope, Method::GET, &url, &accept()).await?;
        if r.status() != StatusCode::OK {
            return Err(self.refusal(ep, r, &what).await);
        }
        let media_type = media_type(&r);
        let bytes = self.http.body(r, MAX_MANIFEST, &what).await?;
        let digest = ManifestDigest::of(&bytes);
        if let ManifestRef::Digest(want) = which
            && want != digest
        {
            let (want, got) = (BlobDigest::from(want), BlobDigest::from(digest));
            return Err(RegistryError::Digest { want, got, from: ep.name() });
        }
        Ok(ManifestBytes { bytes, media_type, digest })
    }
}

fn accept() -> HeaderMap {
    let mut h = HeaderMap::new();
    h.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
    h
}

/// `Docker-Content-Digest`, when it is a digest of our kind.
pub(super) fn content_digest(r: &Response) -> Option<ManifestDigest> {
    r.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// `Content-Length` as sent; reqwest's own count is that of the (empty) body for HEAD.
pub(super) fn declared_length(r: &Response) -> Option<u64> {
    r.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn media_type(r: &Response) -> String {
    let text = r.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let text = clean(text.split(';').next().unwrap_or("").trim());
    if text.len() > MAX_MEDIA_TYPE { String::new() } else { text.to_ascii_lowercase() }
}

/// For errors about a response's form.
pub(super) fn malformed(r: &Response, why: impl Into<String>) -> RegistryError {
    RegistryError::Malformed { host: host_of(r.url()), why: why.into() }
}
