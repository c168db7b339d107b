//! Blobs on their way in: streamed, counted, hashed, resumed.
//!
//! A task of the runtime downloads and hashes; a bounded channel carries the bytes to a
//! [`BlobReader`] on the caller's thread, which may decompress and unpack meanwhile. A slow caller
//! slows the download; a dropped reader ends it.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use rgraph_ir::{BlobDigest, Reference};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::auth::Scope;
use super::client::{Inner, RegistryClient, declared_length, malformed};
use super::endpoint::Endpoint;
use super::error::{RegistryError, Result};
use super::retry::Backoff;
use super::watch::{Report, TransferEvent, Watch};

/// Pieces between the download and its reader; a piece is what came in one read, 8 to 400 KiB.
const PIECES: usize = 32;
/// So much new data makes earlier failures forgotten, bytes. Less, and a server could keep us
/// retrying for ever, one byte at a time.
const REAL_PROGRESS: u64 = 1 << 20;
/// Slowest acceptable server: so many bytes in each [`WINDOW`] of waiting for it.
const SLOWEST: u64 = 60 * 1024;
const WINDOW: Duration = Duration::from_secs(60);
/// How long the end of a complete blob is waited for.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What a descriptor says about a blob; both are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobDesc {
    /// Of the bytes as they lie in the registry.
    pub digest: BlobDigest,
    /// Bytes.
    pub size: u64,
}

/// The part of a blob that is here already.
#[derive(Clone, Default)]
struct Front {
    hash: Sha256,
    seen: u64,
}

impl Front {
    fn push(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.seen += bytes.len() as u64;
    }
}

enum Piece {
    Data(Bytes),
    /// Size and digest are right.
    End,
    Failed(RegistryError),
}

impl Piece {
    fn open(self) -> Result<Option<Bytes>> {
        match self {
            Self::Data(bytes) => Ok(Some(bytes)),
            Self::End => Ok(None),
            Self::Failed(e) => Err(e),
        }
    }
}

/// Events of a download go to its reader, which calls the caller's [`Watch`] on its own thread.
struct Mailbox(mpsc::UnboundedSender<TransferEvent>);

impl Report for Mailbox {
    fn event(&self, event: TransferEvent) {
        // Nobody listens any more: then nobody wants to know.
        let _ = self.0.send(event);
    }
}

/// A blob being read. Gives its end (`Ok(0)`) only when size and digest are those of the
/// descriptor; before that, bytes are unchecked. Errors are [`RegistryError`]s in an
/// [`io::Error`], see [`RegistryError::from_io`].
pub struct BlobReader<'a> {
    client: RegistryClient,
    reference: Reference,
    desc: BlobDesc,
    watch: Watch<'a>,
    state: State,
    ready: Bytes,
    delivered: u64,
}

enum State {
    /// Bytes from an earlier, interrupted download.
    Front {
        source: Box<dyn Read + Send>,
        front: Front,
    },
    Net(Net),
    Done,
    Failed,
}

struct Net {
    pieces: mpsc::Receiver<Piece>,
    events: mpsc::UnboundedReceiver<TransferEvent>,
    task: JoinHandle<()>,
}

impl Drop for Net {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RegistryClient {
    /// Opens a blob, mirrors first. Returns when the first bytes are here, so a missing blob or a
    /// denied access is an error of this call.
    pub fn open_blob<'a>(
        &self,
        r: &Reference,
        desc: &BlobDesc,
        watch: Watch<'a>,
    ) -> Result<BlobReader<'a>> {
        let mut reader = self.reader(r, desc, watch, State::Done);
        reader.state = State::Net(reader.connect(Front::default()));
        reader.ready = reader.next_piece()?.unwrap_or_default();
        Ok(reader)
    }

    /// As [`Self::open_blob`], after an interrupted download: `front` gives the bytes kept from it.
    /// They are read, hashed and delivered first, then the rest is asked for by Range. When the
    /// digest is wrong in the end, drop `front` and start again: nothing tells which part is bad.
    pub fn resume_blob<'a>(
        &self,
        r: &Reference,
        desc: &BlobDesc,
        front: Box<dyn Read + Send>,
        watch: Watch<'a>,
    ) -> BlobReader<'a> {
        self.reader(r, desc, watch, State::Front { source: front, front: Front::default() })
    }

    /// Downloads a blob into `sink`, mirrors first. When this fails, `sink` holds unchecked bytes.
    pub fn blob(
        &self,
        r: &Reference,
        desc: &BlobDesc,
        sink: &mut dyn Write,
        watch: &Watch<'_>,
    ) -> Result<()> {
        let mut reader = self.open_blob(r, desc, *watch)?;
        while let Some(piece) = reader.next_piece()? {
            sink.write_all(&piece)
                .map_err(|source| RegistryError::Local { what: "writing a blob", source })?;
        }
        Ok(())
    }

    /// A small blob in memory, such as an image config; refused at once when its descriptor says
    /// more than `limit` bytes.
    pub fn blob_bytes(
        &self,
        r: &Reference,
        desc: &BlobDesc,
        limit: u64,
        watch: &Watch<'_>,
    ) -> Result<Vec<u8>> {
        if desc.size > limit {
            let (what, host) = (format!("blob {}", desc.digest), r.registry.clone());
            return Err(RegistryError::TooLarge { what, host, limit });
        }
        let mut out = Vec::new();
        self.blob(r, desc, &mut out, watch)?;
        Ok(out)
    }

    /// Whether the registry of `r` (no mirror) has this blob in this repository.
    pub fn blob_exists(&self, r: &Reference, desc: &BlobDesc, watch: &Watch<'_>) -> Result<bool> {
        let ep = Endpoint::origin(self.inner.config(), r);
        let scope = Scope::pull(&ep.repository);
        let ask = async || self.inner.blob_exists(&ep, &scope, desc).await;
        self.run(watch, self.inner.patiently(&ep, watch, ask))
    }

    fn reader<'a>(
        &self,
        r: &Reference,
        desc: &BlobDesc,
        watch: Watch<'a>,
        state: State,
    ) -> BlobReader<'a> {
        let (client, reference) = (self.clone(), r.clone());
        let ready = Bytes::new();
        BlobReader { client, reference, desc: *desc, watch, state, ready, delivered: 0 }
    }
}

impl BlobReader<'_> {
    fn connect(&self, front: Front) -> Net {
        let (to_reader, pieces) = mpsc::channel(PIECES);
        let (mailbox, events) = mpsc::unbounded_channel();
        let (inner, r, desc) = (self.client.inner.clone(), self.reference.clone(), self.desc);
        let task = self.client.handle.spawn(async move {
            let mailbox = Mailbox(mailbox);
            let last = match inner.download(&r, &desc, front, &to_reader, &mailbox).await {
                Ok(()) => Piece::End,
                Err(e) => Piece::Failed(e),
            };
            let _ = to_reader.send(last).await;
        });
        Net { pieces, events, task }
    }

    /// The next bytes, without copying; `None` at the checked end.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if !self.ready.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ready)));
        }
        let out = self.advance();
        match &out {
            Ok(Some(piece)) => {
                self.delivered += piece.len() as u64;
                (self.watch.progress)(self.delivered, self.desc.size);
            }
            Ok(None) => self.state = State::Done,
            Err(_) => self.state = State::Failed,
        }
        out
    }

    fn advance(&mut self) -> Result<Option<Bytes>> {
        let desc = self.desc;
        match &mut self.state {
            State::Front { source, front } => {
                let mut buf = vec![0; 64 << 10];
                let n = loop {
                    match source.read(&mut buf) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        other => break other,
                    }
                };
                let what = "reading an interrupted download";
                let n = n.map_err(|source| RegistryError::Local { what, source })?;
                if n > 0 {
                    front.push(&buf[..n]);
                    buf.truncate(n);
                    if front.seen > desc.size {
                        return Err(too_long(&desc, "the part kept on disk"));
                    }
                    if (self.watch.cancelled)() {
                        return Err(RegistryError::Cancelled);
                    }
                    return Ok(Some(buf.into()));
                }
                let front = std::mem::take(front);
                if front.seen > 0 && front.seen < desc.size {
                    let (digest, at) = (desc.digest, front.seen);
                    (self.watch.on_event)(&TransferEvent::Resuming { digest, at });
                }
                self.state = State::Net(self.connect(front));
                self.advance()
            }
            State::Net(net) => {
                let on_event = self.watch.on_event;
                // The usual case on a fast network, without a timer.
                if !(self.watch.cancelled)()
                    && net.events.is_empty()
                    && let Ok(piece) = net.pieces.try_recv()
                {
                    return piece.open();
                }
                let next = async {
                    loop {
                        tokio::select! {
                            biased;
                            Some(event) = net.events.recv() => on_event(&event),
                            // A task that ended without a word: the runtime is going down.
                            piece = net.pieces.recv() =>
                                return piece.ok_or(RegistryError::Cancelled)?.open(),
                        }
                    }
                };
                self.client.run(&self.watch, next)
            }
            State::Done => Ok(None),
            State::Failed => Err(RegistryError::Local {
                what: "reading on after an error",
                source: io::ErrorKind::Other.into(),
            }),
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if self.ready.is_empty() {
            match self.next_piece()? {
                Some(piece) => self.ready = piece,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.ready.len());
        buf[..n].copy_from_slice(&self.ready.split_to(n));
        Ok(n)
    }
}

fn too_long(desc: &BlobDesc, from: &str) -> RegistryError {
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
    async fn download(
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

/// Keeps [`Arc<Inner>`] usable from the task.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Inner>>();
    fn moves<T: Send>() {}
    moves::<BlobReader<'static>>();
};

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
