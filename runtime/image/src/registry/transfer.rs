//! Blobs on their way in, the runtime's side: downloaded, counted, hashed, resumed.
//!
//! [`Inner::download`] runs as a task and sends what comes through a bounded channel to a
//! [`super::BlobReader`]; bytes past the declared size never get that far, and [`Piece::End`] is
//! sent only for the right digest.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use rgraph_ir::{BlobDigest, Reference};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::auth::Scope;
use super::client::{Inner, declared_length, malformed};
use super::endpoint::Endpoint;
use super::error::{RegistryError, Result};
use super::reader::BlobDesc;
use super::retry::Backoff;
use super::watch::{Report, TransferEvent};

/// So much new data makes earlier failures forgotten, bytes. Less, and a server could keep us
/// retrying for ever, one byte at a time.
const REAL_PROGRESS: u64 = 1 << 20;
/// Slowest acceptable server: so many bytes in each [`WINDOW`] of waiting for it.
const SLOWEST: u64 = 60 * 1024;
const WINDOW: Duration = Duration::from_secs(60);
/// How long the end of a complete blob is waited for.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The part of a blob that is here already.
#[derive(Clone, Default)]
pub(super) struct Front {
    hash: Sha256,
    /// Bytes.
    pub seen: u64,
}

impl Front {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.seen += bytes.len() as u64;
    }
}

/// What goes through the channel.
pub(super) enum Piece {
    Data(Bytes),
    /// Size and digest are right.
    End,
    Failed(RegistryError),
}

/// For bytes past the declared size.
pub(super) fn too_long(desc: &BlobDesc, from: &str) -> RegistryError {
    let (digest, want) = (desc.digest, desc.size);
    RegistryError::Size { digest, want, got: "more".to_owned(), from: from.to_owned() }
}

impl Inner {
    /// HEAD of a blob. A blob of another length than declared is not the one.
    pub(super) async fn blob_exists(
        &self,
        ep: &Endpoint,
        scope: &Scope,
        desc: &BlobDesc,
    ) -> Result<bool> {
        let url = self.url(ep, &format!("blobs/{}", desc.digest)).await?;
        let r = self.request(ep, scope, Method::HEAD, &url, &HeaderMap::new()).await?;
        match r.status() {
            StatusCode::OK => Ok(declared_length(&r).is_none_or(|n| n == desc.size)),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refusal(ep, r, &format!("blob {}@{}", ep.name(), desc.digest)).await),
        }
    }

    /// Sends the rest of a blob into `out`, over retries and mirrors; `Ok` means it was right.
    pub(super) async fn download(
        &self,
        r: &Reference,
        desc: &BlobDesc,
        mut front: Front,
        out: &mpsc::Sender<Piece>,
        report: &(dyn Report + Sync),
    ) -> Result<()> {
        let mut used = Vec::new();
        'places: for ep in self.places(r) {
            let mut backoff = Backoff::new(&self.config().retry);
            let mut ranges = true;
            let mut mark = front.seen;
            used.push(ep.clone());
            while front.seen < desc.size || desc.size == 0 {
                let error = match self.fetch(&ep, desc, &mut front, ranges, out).await {
                    Ok(()) => break,
                    Err(e) => e,
                };
                if front.seen >= mark.saturating_add(REAL_PROGRESS) {
                    mark = front.seen;
                    backoff.reset();
                }
                if matches!(error, RegistryError::Status { status: 416, .. }) && ranges {
                    ranges = false;
                    continue;
                }
                let cause = error.to_string();
                if let Err(e) = backoff.wait(error, self.http.answered(&ep.host), report).await {
                    if !ep.mirror || matches!(e, RegistryError::Cancelled) {
                        return Err(e);
                    }
                    report.event(TransferEvent::MirrorFailed { mirror: ep.host, cause });
                    continue 'places;
                }
                if front.seen > 0 {
                    let (digest, at) = (desc.digest, front.seen);
                    report.event(TransferEvent::Resuming { digest, at });
                }
            }
            break;
        }
        let got = BlobDigest::from_bytes(front.hash.finalize().into());
        if got != desc.digest {
            used.iter().for_each(|ep| self.distrust(ep));
            let from = match used.iter().map(Endpoint::name).collect::<Vec<_>>() {
                none if none.is_empty() => "what was kept".to_owned(),
                names => names.join(" and "),
            };
            return Err(RegistryError::Digest { want: desc.digest, got, from });
        }
        Ok(())
    }

    /// One request for what is missing. Whatever came is in `front` and was sent, also on errors.
    async fn fetch(
        &self,
        ep: &Endpoint,
        desc: &BlobDesc,
        front: &mut Front,
        ranges: bool,
        out: &mpsc::Sender<Piece>,
    ) -> Result<()> {
        let what = format!("blob {}@{}", ep.name(), desc.digest);
        let url = self.url(ep, &format!("blobs/{}", desc.digest)).await?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if front.seen > 0 && ranges {
            let range = HeaderValue::from_str(&format!("bytes={}-", front.seen)).map_err(|e| {
                RegistryError::Settings { host: ep.host.clone(), why: e.to_string() }
            })?;
            headers.insert(RANGE, range);
        }
        let scope = Scope::pull(&ep.repository);
        let mut r = self.request(ep, &scope, Method::GET, &url, &headers).await?;
        let start = match r.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT if front.seen > 0 && ranges => match range_start(&r) {
                Some(at) if at == front.seen => at,
                _ => return Err(malformed(&r, "another range than the one asked for")),
            },
            _ => return Err(self.refusal(ep, r, &what).await),
        };
        if let Some(length) = declared_length(&r)
            && start.checked_add(length) != Some(desc.size)
        {
            let (digest, want) = (desc.digest, desc.size);
            let got = start.saturating_add(length).to_string();
            return Err(RegistryError::Size { digest, want, got, from: ep.name() });
        }
        self.stream(ep, desc, front, start, &mut r, out).await
    }

    async fn stream(
        &self,
        ep: &Endpoint,
        desc: &BlobDesc,
        front: &mut Front,
        start: u64,
        r: &mut Response,
        out: &mpsc::Sender<Piece>,
    ) -> Result<()> {
        // A server without ranges sends from the start again: what is here is passed over.
        let mut skip = front.seen - start;
        let mut pace = Pace::default();
        while front.seen < desc.size {
            let asked = Instant::now();
            let Some(mut chunk) = self.http.chunk(r).await? else {
                let host = ep.host.clone();
                let cause = format!("the body ended at {} of {} bytes", front.seen, desc.size);
                return Err(RegistryError::Broken { host, cause });
            };
            if !pace.keeps_up(asked.elapsed(), chunk.len()) {
                let (host, seconds) = (ep.host.clone(), WINDOW.as_secs());
                return Err(RegistryError::Silent { host, seconds });
            }
            let over = skip.min(chunk.len() as u64);
            skip -= over;
            let _ = chunk.split_to(over as usize);
            if chunk.len() as u64 > desc.size - front.seen {
                return Err(too_long(desc, &ep.name()));
            }
            if chunk.is_empty() {
                continue;
            }
            front.push(&chunk);
            if out.send(Piece::Data(chunk)).await.is_err() {
                return Err(RegistryError::Cancelled);
            }
        }
        // All there; only one more byte could still make it wrong.
        match tokio::time::timeout(LAST_WORD, r.chunk()).await {
            Ok(Ok(Some(more))) if !more.is_empty() => Err(too_long(desc, &ep.name())),
            _ => Ok(()),
        }
    }
}

/// Where a 206 says it starts: `bytes 5-9/10`.
fn range_start(r: &Response) -> Option<u64> {
    let text = r.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes")?.trim_start().split_once('-')?.0.parse().ok()
}

/// Watches that a server that is never silent is not too slow either. Only time spent waiting for
/// it counts, not the time a slow reader takes.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn keeps_up(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < WINDOW {
            return true;
        }
        let ok = self.bytes >= SLOWEST;
        *self = Self::default();
        ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_servers_are_noticed_and_slow_readers_are_not() {
        let mut p = Pace::default();
        for _ in 0..59 {
            assert!(p.keeps_up(Duration::from_secs(1), 1));
        }
        assert!(!p.keeps_up(Duration::from_secs(1), 1));
        let mut p = Pace::default();
        for _ in 0..600 {
            assert!(p.keeps_up(Duration::from_secs(1), 2048));
        }
        for _ in 0..100_000 {
            assert!(p.keeps_up(Duration::ZERO, 1));
        }
    }
}
