//! Blobs and manifests on their way out. Idempotent: what the registry has is not sent, and a push
//! that broke off is simply done again (ROB-15). Order is the caller's: blobs, then manifests, then
//! the tag.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Body, Method, Response, StatusCode, Url};
use rgraph_ir::{BlobDigest, ManifestDigest, Reference};
use tokio::sync::mpsc;

use super::auth::Scope;
use super::client::{Inner, ManifestRef, RegistryClient, content_digest};
use super::endpoint::{Endpoint, host_of, same_origin};
use super::error::{RegistryError, Result};
use super::http::location;
use super::reader::BlobDesc;
use super::retry::Backoff;
use super::watch::{Report as _, TransferEvent, Watch};

/// Bytes per piece between the source and the connection, and pieces in between.
const PIECE: usize = 128 << 10;
const PIECES: usize = 8;
/// A registry may move a large blob about before it answers.
const COMMIT_WAIT: Duration = Duration::from_secs(300);

/// How a blob got into the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Exists,
    /// Taken from another repository of the same registry.
    Mounted,
    /// Sent.
    Uploaded,
}

/// Opens the bytes of a blob from an offset.
type Source<'a> = &'a dyn Fn(u64) -> io::Result<Box<dyn Read + Send>>;

/// An upload in progress.
struct Session {
    url: Url,
    /// Bytes the registry has.
    offset: u64,
}

/// Where and as what an upload is done.
struct Upload<'a> {
    ep: Endpoint,
    scope: Scope,
    desc: BlobDesc,
    source: Source<'a>,
    mount_from: Option<&'a str>,
    watch: &'a Watch<'a>,
}

impl RegistryClient {
    /// Brings a blob into the repository of `r`: nothing is sent when it is there or can be mounted
    /// from `mount_from`, a repository of the same registry. `source` opens the bytes at an offset
    /// and may be called several times.
    pub fn push_blob(
        &self,
        r: &Reference,
        desc: &BlobDesc,
        source: impl Fn(u64) -> io::Result<Box<dyn Read + Send>>,
        mount_from: Option<&str>,
        watch: &Watch<'_>,
    ) -> Result<Pushed> {
        let ep = Endpoint::origin(self.inner.config(), r);
        let mount_from = mount_from.filter(|m| *m != ep.repository);
        let scope = Scope::push(&ep.repository, mount_from);
        let source: Source<'_> = &source;
        let upload = Upload { ep, scope, desc: *desc, source, mount_from, watch };
        self.run(watch, self.inner.push_blob(&upload))
    }

    /// Stores a manifest or index under the tag of `r`, or by digest alone when it has none. All it
    /// names must be there.
    pub fn push_manifest(
        &self,
        r: &Reference,
        media_type: &str,
        bytes: &[u8],
        watch: &Watch<'_>,
    ) -> Result<ManifestDigest> {
        let digest = ManifestDigest::of(bytes);
        let ep = Endpoint::origin(self.inner.config(), r);
        if let Some(want) = r.digest
            && want != digest
        {
            let (want, got) = (BlobDigest::from(want), BlobDigest::from(digest));
            return Err(RegistryError::Digest { want, got, from: "this build".to_owned() });
        }
        let which = match &r.tag {
            Some(t) => ManifestRef::Tag(t),
            None => ManifestRef::Digest(digest),
        };
        self.run(watch, async {
            let put = async || self.inner.put_manifest(&ep, which, media_type, bytes, digest).await;
            self.inner.patiently(&ep, watch, put).await
        })?;
        Ok(digest)
    }
}

impl Inner {
    async fn push_blob(&self, up: &Upload<'_>) -> Result<Pushed> {
        let mut backoff = Backoff::new(&self.config().retry);
        let mut session = None;
        let mut renewed = false;
        loop {
            let error = match self.push_once(up, &mut session).await {
                Ok(pushed) => {
                    let digest = up.desc.digest;
                    match (pushed, up.mount_from) {
                        (Pushed::Exists, _) => up.watch.event(TransferEvent::Exists { digest }),
                        (Pushed::Mounted, Some(from)) => {
                            up.watch
                                .event(TransferEvent::Mounted { digest, from: from.to_owned() });
                        }
                        _ => {}
                    }
                    (up.watch.progress)(up.desc.size, up.desc.size);
                    return Ok(pushed);
                }
                Err(e) => e,
            };
            // A token may end in the middle of a long upload; HEAD gets a new one.
            if matches!(error, RegistryError::Denied { .. }) && session.is_some() && !renewed {
                renewed = true;
                session = None;
                continue;
            }
            backoff.wait(error, self.http.answered(&up.ep.host), up.watch).await?;
        }
    }

    async fn push_once(&self, up: &Upload<'_>, session: &mut Option<Session>) -> Result<Pushed> {
        let desc = &up.desc;
        if let Some(old) = session.take() {
            *session = self.progress(up, &old).await;
        }
        if session.is_none() {
            if self.blob_exists(&up.ep, &up.scope, desc).await? {
                return Ok(Pushed::Exists);
            }
            match self.begin(up).await? {
                None => return Ok(Pushed::Mounted),
                some => *session = some,
            }
        }
        let Some(current) = session.as_mut() else { return Ok(Pushed::Mounted) };
        let with_digest = |url: &Url| {
            let mut url = url.clone();
            url.query_pairs_mut().append_pair("digest", &desc.digest.to_string());
            url
        };
        let what = format!("upload of {} to {}", desc.digest, up.ep.name());
        let resumable = desc.size > self.config().single_request_push;
        let last = if resumable {
            if current.offset < desc.size {
                let r = self.send_part(up, Method::PATCH, &current.url, current.offset).await?;
                if !matches!(r.status(), StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
                    return Err(self.refusal(&up.ep, r, &what).await);
                }
                current.url = location(&r)?;
                current.offset = desc.size;
            }
            self.send_part(up, Method::PUT, &with_digest(&current.url), desc.size).await?
        } else {
            self.send_part(up, Method::PUT, &with_digest(&current.url), 0).await?
        };
        if !matches!(last.status(), StatusCode::CREATED | StatusCode::NO_CONTENT) {
            return Err(self.refusal(&up.ep, last, &what).await);
        }
        Ok(Pushed::Uploaded)
    }

    /// Opens an upload, or has the blob mounted (`None`).
    async fn begin(&self, up: &Upload<'_>) -> Result<Option<Session>> {
        let mut url = self.url(&up.ep, "blobs/uploads/").await?;
        if let Some(from) = up.mount_from {
            url.query_pairs_mut()
                .append_pair("mount", &up.desc.digest.to_string())
                .append_pair("from", from);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let r = self.request(&up.ep, &up.scope, Method::POST, &url, &headers).await?;
        match r.status() {
            StatusCode::CREATED if up.mount_from.is_some() => Ok(None),
            StatusCode::ACCEPTED => Ok(Some(Session { url: location(&r)?, offset: 0 })),
            _ => Err(self.refusal(&up.ep, r, &format!("upload to {}", up.ep.name())).await),
        }
    }

    /// How far a broken upload got; `None` when the registry no longer knows it, or when it was one
    /// that cannot be resumed.
    async fn progress(&self, up: &Upload<'_>, old: &Session) -> Option<Session> {
        if up.desc.size <= self.config().single_request_push {
            return None;
        }
        let auth = self.upload_auth(up, &old.url).await.ok()?;
        let headers = HeaderMap::new();
        let r = self.http.follow(&Method::GET, &old.url, &headers, auth.as_ref()).await.ok()?;
        if r.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let offset = uploaded(r.headers().get(RANGE)?.to_str().ok()?)?;
        if offset > up.desc.size {
            return None;
        }
        let url = location(&r).unwrap_or_else(|_| old.url.clone());
        let digest = up.desc.digest;
        up.watch.event(TransferEvent::Resuming { digest, at: offset });
        Some(Session { url, offset })
    }

    /// The token for an upload URL: none when the registry sends us to another host.
    async fn upload_auth(&self, up: &Upload<'_>, url: &Url) -> Result<Option<HeaderValue>> {
        let base = self.base(&up.ep).await?;
        if !same_origin(&base, url) {
            return Ok(None);
        }
        self.auth.header(&self.http, &up.ep, &base, &up.scope).await
    }

    /// Sends the blob from `offset` to its end in one request. The source is read on the caller's
    /// thread, between two pieces.
    async fn send_part(
        &self,
        up: &Upload<'_>,
        method: Method,
        url: &Url,
        offset: u64,
    ) -> Result<Response> {
        let total = up.desc.size;
        let local = |source| RegistryError::Local { what: "reading a blob to push", source };
        let auth = self.upload_auth(up, url).await?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(total - offset));
        if offset > 0 && offset < total {
            let range = format!("{offset}-{}", total - 1);
            let range = HeaderValue::from_str(&range).map_err(|e| local(io::Error::other(e)))?;
            headers.insert(CONTENT_RANGE, range);
        }
        if offset == total {
            return self.http.send(method, url, headers, auth.as_ref(), None, COMMIT_WAIT).await;
        }
        let (pieces, receiver) = mpsc::channel(PIECES);
        let body = Body::wrap_stream(Pieces(receiver));
        let mut source = (up.source)(offset).map_err(local)?;
        // The wait for the answer starts when the last byte is gone; until then `reserve` watches.
        let request =
            self.http.send(method, url, headers, auth.as_ref(), Some(body), Duration::MAX);
        let mut request = std::pin::pin!(request);
        let mut sent = offset;
        while sent < total {
            let idle = self.config().idle_timeout;
            let permit = tokio::select! {
                biased;
                early = &mut request => return early,
                permit = tokio::time::timeout(idle, pieces.reserve()) => permit,
            };
            let Ok(permit) = permit else {
                return Err(RegistryError::Silent { host: host_of(url), seconds: idle.as_secs() });
            };
            let Ok(permit) = permit else { break };
            let want = PIECE.min(usize::try_from(total - sent).unwrap_or(PIECE));
            let mut piece = vec![0; want];
            source.read_exact(&mut piece).map_err(local)?;
            permit.send(Ok(piece.into()));
            sent += want as u64;
            (up.watch.progress)(sent, total);
        }
        drop(pieces);
        match tokio::time::timeout(COMMIT_WAIT, request).await {
            Ok(r) => r,
            Err(_) => {
                Err(RegistryError::Silent { host: host_of(url), seconds: COMMIT_WAIT.as_secs() })
            }
        }
    }

    async fn put_manifest(
        &self,
        ep: &Endpoint,
        which: ManifestRef<'_>,
        media_type: &str,
        bytes: &[u8],
        digest: ManifestDigest,
    ) -> Result<()> {
        let url = self.url(ep, &format!("manifests/{which}")).await?;
        let base = self.base(ep).await?;
        let scope = Scope::push(&ep.repository, None);
        let what = format!("manifest {}:{which}", ep.name());
        let mut headers = HeaderMap::new();
        let media_type =
            HeaderValue::from_str(media_type).map_err(|_| RegistryError::Settings {
                host: ep.host.clone(),
                why: "the media type is not one".to_owned(),
            })?;
        headers.insert(CONTENT_TYPE, media_type);
        let mut auth = self.auth.header(&self.http, ep, &base, &scope).await?;
        for last in [false, true] {
            let (headers, body) = (headers.clone(), Some(Body::from(bytes.to_vec())));
            let r = self
                .http
                .send(Method::PUT, &url, headers, auth.as_ref(), body, COMMIT_WAIT)
                .await?;
            if r.status() == StatusCode::UNAUTHORIZED && !last {
                let answer =
                    self.auth.answer(&self.http, ep, &base, &scope, &r, auth.as_ref()).await?;
                if answer.is_some() {
                    auth = answer;
                    continue;
                }
            }
            if !r.status().is_success() {
                return Err(self.refusal(ep, r, &what).await);
            }
            if let Some(got) = content_digest(&r)
                && got != digest
            {
                let (want, got) = (BlobDigest::from(digest), BlobDigest::from(got));
                return Err(RegistryError::Digest { want, got, from: ep.name() });
            }
            break;
        }
        Ok(())
    }
}

/// How many bytes `Range: 0-99` says are there. `0-0` is what registries say for none (and for
/// one): sending one byte again is harmless where the range is checked, so it counts as none.
fn uploaded(range: &str) -> Option<u64> {
    let range = range.trim();
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    match (first, last.parse::<u64>().ok()?) {
        ("0", 0) => Some(0),
        ("0", last) => last.checked_add(1),
        _ => None,
    }
}

/// A channel as the body of a request.
struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl futures_core::Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_upload_ranges() {
        for (text, want) in [
            ("0-0", Some(0)),
            ("0-99", Some(100)),
            ("bytes=0-99", Some(100)),
            ("5-99", None),
            ("0-18446744073709551615", None),
            ("", None),
            ("0-x", None),
        ] {
            assert_eq!(uploaded(text), want, "{text}");
        }
    }
}
