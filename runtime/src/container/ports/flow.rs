//! Datagrams of one sender to a port, and their answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use rgraph_sys::datagram::{self, Received};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Datagrams that are taken at once before others get their turn.
const TURN: usize = 32;

/// Who sends, and by which way the answer has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// The port, by its place among all.
    pub door: usize,
    pub address: SocketAddr,
    /// The host's address that was asked.
    pub asked: Option<IpAddr>,
}

/// A sender, and a socket in the container that stands for it.
pub(super) struct Flow {
    pub sender: Sender,
    inner: OwnedFd,
    /// When something went either way.
    pub last: Instant,
}

impl Flow {
    /// A new sender to a port of the container.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn open(sender: Sender, port: u16, now: Instant) -> rustix::io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let inner = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
        rustix::net::connect(&inner, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Ok(Self { sender, inner, last: now })
    }

    /// Readable when the container answers.
    pub fn inner(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Passes a datagram in. One that cannot be is lost, as datagrams are.
    pub fn pass_in(&mut self, bytes: &[u8], now: Instant) {
        self.last = now;
        // An answer to an earlier one ("nobody listens there") is told of once, and then it is free.
        for _ in 0..2 {
            match rustix::net::send(&self.inner, bytes, SendFlags::NOSIGNAL) {
                Err(Errno::CONNREFUSED) => {}
                _ => return,
            }
        }
    }

    /// Passes answers out.
    pub fn pass_out(&mut self, outer: &OwnedFd, buffer: &mut [u8], now: Instant) {
        for _ in 0..TURN {
            // Nothing more, or nobody listens there.
            let Ok((n, _)) = rustix::net::recv(&self.inner, &mut *buffer, RecvFlags::empty())
            else {
                return;
            };
            self.last = now;
            let bytes = &buffer[..n.min(buffer.len())];
            // What cannot be sent is lost.
            datagram::send(outer, bytes, self.sender.address, self.sender.asked).unwrap_or(());
        }
    }
}

/// The datagrams that came to a port, for one turn.
pub(super) fn take(outer: &OwnedFd, buffer: &mut [u8], mut each: impl FnMut(Received, &[u8])) {
    for _ in 0..TURN {
        match datagram::receive(outer, buffer) {
            Ok(got) => each(got, &buffer[..got.length.min(buffer.len())]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            // Told of an answer that nobody took: others come after it.
            Err(_) => {}
        }
    }
}
