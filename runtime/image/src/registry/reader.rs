//! Blobs on their way in, the caller's side: a [`Read`] over a download that goes on meanwhile.
//!
//! The reader's thread may decompress and unpack while a task of the runtime downloads and hashes
//! ([`super::transfer`]). A slow reader slows the download; a dropped one ends it.

use std::io::{self, Read, Write};

use bytes::Bytes;
use rgraph_ir::{BlobDigest, Reference};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::auth::Scope;
use super::client::RegistryClient;
use super::endpoint::Endpoint;
use super::error::{RegistryError, Result};
use super::transfer::{Front, Piece, too_long};
use super::watch::{Report, TransferEvent, Watch};

/// Pieces between the download and its reader; a piece is what came in one read, 8 to 400 KiB.
const PIECES: usize = 2;

/// What a descriptor says about a blob; both are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobDesc {
    /// Of the bytes as they lie in the registry.
    pub digest: BlobDigest,
    /// Bytes.
    pub size: u64,
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
