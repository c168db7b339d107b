//! Links, addresses, routes and packet filter rules, by talking to the kernel's netlink directly.
//!
//! No program is needed for it, and a message costs microseconds. A socket belongs to the network
//! namespace in which it was opened, whatever its process enters later. [`route`] speaks of links
//! and addresses, [`filter`] of nf_tables; here is what both share: messages, attributes, answers.

pub mod filter;
pub mod route;

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Room for one answer; the kernel fills up to 32 KiB at once.
const BUFFER: usize = 32 << 10;
/// Header of a message.
const HEADER: usize = 16;
/// Header of an attribute.
const ATTR: usize = 4;
/// Both are padded to this.
const ALIGN: usize = 4;
/// An attribute that holds attributes.
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// The bits of an attribute's type that are its number.
const TYPE_MASK: u16 = 0x3fff;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCL: u16 = libc::NLM_F_EXCL as u16;

/// A message being written. Its header is completed when it is sent.
struct Message(Vec<u8>);

impl Message {
    /// `fixed` is what stands between header and attributes.
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self(bytes)
    }

    fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.open(kind);
        let start = self.0.len() - ATTR;
        self.0.extend_from_slice(value);
        self.close(start);
        self
    }

    fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// As nf_tables wants its numbers.
    fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        self.open(kind | NESTED);
        let start = self.0.len() - ATTR;
        let mut all = inside(self);
        all.close(start);
        all
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn open(&mut self, kind: u16) {
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
    }

    /// Writes the length of the attribute at `start`; nothing here comes near 64 KiB.
    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A message of the kernel.
struct Answer<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// Cuts what was received into messages; what is cut off is left out.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let whole = bytes.get(..length).filter(|w| w.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        let (kind, sequence) = (u16_at(whole, 4)?, u32_at(whole, 8)?);
        Some(Answer { kind, sequence, body: &whole[HEADER..] })
    })
}

/// Attributes by number.
fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(ATTR..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn attr(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attrs(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    sequence: Cell<u32>,
}

impl Socket {
    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self { fd, sequence: Cell::new(1) })
    }

    fn next(&self) -> u32 {
        let n = self.sequence.get();
        self.sequence.set(n.wrapping_add(1));
        n
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.fd, bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Receives until `each` has said `Some`.
    fn receive<T>(
        &self,
        mut each: impl FnMut(Answer<'_>) -> Option<io::Result<T>>,
    ) -> io::Result<T> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let got = || rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty());
            let (got, _) = rustix::io::retry_on_intr(got)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for answer in answers(&buffer[..got]) {
                if let Some(end) = each(answer) {
                    return end;
                }
            }
        }
    }

    /// Sends one message and waits for its acknowledgement.
    fn request(&self, message: Message) -> io::Result<()> {
        let sequence = self.next();
        let mut bytes = message.finish(sequence);
        let flags = u16_at(&bytes, 6).unwrap_or(0) | ACK;
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.send(&bytes)?;
        self.receive(|a| (a.sequence == sequence).then(|| acknowledged(&a)).flatten())
    }

    /// Sends one message and hands everything that is answered to `each`.
    fn dump(&self, message: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let sequence = self.next();
        self.send(&message.finish(sequence))?;
        self.receive(|a| {
            if a.sequence != sequence {
                return None;
            }
            match i32::from(a.kind) {
                libc::NLMSG_DONE => Some(Ok(())),
                libc::NLMSG_ERROR => acknowledged(&a),
                _ => {
                    each(a.body);
                    None
                }
            }
        })
    }
}

/// `None`: this is no acknowledgement.
fn acknowledged(answer: &Answer<'_>) -> Option<io::Result<()>> {
    if i32::from(answer.kind) != libc::NLMSG_ERROR {
        return None;
    }
    match u32_at(answer.body, 0).unwrap_or(0).cast_signed() {
        0 => Some(Ok(())),
        code => Some(Err(io::Error::from_raw_os_error(code.wrapping_neg()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_and_nested() {
        let bytes = Message::new(16, CREATE, &[1, 2, 3, 4])
            .attr(3, b"abc")
            .nest(18, |m| m.u32(1, 7))
            .finish(9);
        assert_eq!(bytes.len(), 16 + 4 + 8 + 4 + 8);
        let all: Vec<_> = answers(&bytes).collect();
        assert_eq!((all.len(), all[0].kind, all[0].sequence), (1, 16, 9));
        let body = &all[0].body[4..];
        assert_eq!(attr(body, 3), Some(&b"abc"[..]));
        assert_eq!(attr(attr(body, 18).unwrap(), 1).and_then(|v| u32_at(v, 0)), Some(7));
    }

    #[test]
    fn cut_answers_end_the_list() {
        let whole = Message::new(2, 0, &[0; 4]).u32(1, 1).finish(1);
        for length in 0..whole.len() {
            assert_eq!(answers(&whole[..length]).count(), 0, "{length}");
            assert_eq!(attrs(&whole[20..][..length.min(7)]).count(), 0, "{length}");
        }
        // A length of nothing must not be read for ever.
        assert_eq!(answers(&[0; 64]).count(), 0);
        assert_eq!(attrs(&[0; 64]).count(), 0);
    }
}
