//! A connection that came to a port, and the one into the container that it leads to.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rgraph_sys::wait::For;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};

/// Bytes on their way in one direction.
const BUFFER: usize = 16 << 10;
/// After so long without a word the kernel asks whether the other side is still there, and so often.
const ASK_AFTER: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_secs(15);
const ASK_TIMES: u32 = 4;

/// What goes in one direction.
struct Way {
    bytes: Vec<u8>,
    /// So many of them have been passed on.
    done: usize,
    /// The sender has said all.
    ended: bool,
    /// And the receiver knows.
    told: bool,
}

impl Way {
    fn new() -> Self {
        // Most of those that are open say nothing: memory comes with the first bytes.
        Self { bytes: Vec::new(), done: 0, ended: false, told: false }
    }

    fn is_empty(&self) -> bool {
        self.done == self.bytes.len()
    }

    /// Takes what there is to take.
    fn fill(&mut self, from: &OwnedFd) -> rustix::io::Result<()> {
        self.bytes.resize(BUFFER, 0);
        self.done = 0;
        let got = rustix::net::recv(from, &mut self.bytes[..], RecvFlags::empty());
        let n = match got {
            Ok((n, _)) => n,
            Err(Errno::AGAIN | Errno::INTR) => {
                self.bytes.clear();
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.bytes.truncate(n);
        self.ended = n == 0;
        Ok(())
    }

    /// Passes on what can be passed on.
    fn pour(&mut self, to: &OwnedFd) -> rustix::io::Result<()> {
        match rustix::net::send(to, &self.bytes[self.done..], SendFlags::NOSIGNAL) {
            Ok(n) => self.done += n,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// One who came, and the container.
pub(super) struct Link {
    outer: OwnedFd,
    inner: OwnedFd,
    /// From outside to inside, and back.
    ways: [Way; 2],
    /// When something went either way.
    pub last: Instant,
}

impl Link {
    /// Takes whoever waits at a port. `None`: nobody does any more, or the container does not take it.
    ///
    /// # Errors
    /// This process has no room for it: it may be tried again.
    pub fn accept(listener: &OwnedFd, port: u16, now: Instant) -> rustix::io::Result<Option<Self>> {
        let full = |e: Errno| match e {
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Err(e),
            _ => Ok(None),
        };
        // First ours: who waits is not taken and dropped.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let inner =
            match rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None) {
                Err(e) => return full(e),
                Ok(inner) => inner,
            };
        let outer = match rustix::net::accept_with(listener, flags) {
            Err(e) => return full(e),
            Ok(outer) => outer,
        };
        let prepared = sockopt::set_tcp_nodelay(&outer, true)
            .and_then(|()| sockopt::set_tcp_nodelay(&inner, true))
            .and_then(|()| sockopt::set_socket_keepalive(&outer, true))
            .and_then(|()| sockopt::set_tcp_keepidle(&outer, ASK_AFTER))
            .and_then(|()| sockopt::set_tcp_keepintvl(&outer, ASK_EVERY))
            .and_then(|()| sockopt::set_tcp_keepcnt(&outer, ASK_TIMES));
        if prepared.is_err() {
            return Ok(None);
        }
        match rustix::net::connect(&inner, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return Ok(None),
        }
        Ok(Some(Self { outer, inner, ways: [Way::new(), Way::new()], last: now }))
    }

    fn ends(&self, way: usize) -> (&OwnedFd, &OwnedFd) {
        if way == 0 { (&self.outer, &self.inner) } else { (&self.inner, &self.outer) }
    }

    /// What is waited for in a direction; `None`: it is over.
    pub fn awaits(&self, way: usize) -> Option<(BorrowedFd<'_>, For)> {
        let (from, to) = self.ends(way);
        match &self.ways[way] {
            w if !w.is_empty() => Some((to.as_fd(), For::Writing)),
            w if !w.ended => Some((from.as_fd(), For::Reading)),
            _ => None,
        }
    }

    /// Moves what can be moved in a direction.
    ///
    /// # Errors
    /// Either side is gone: the other direction is over too.
    pub fn step(&mut self, way: usize, now: Instant) -> rustix::io::Result<()> {
        self.last = now;
        let (from, to) =
            if way == 0 { (&self.outer, &self.inner) } else { (&self.inner, &self.outer) };
        let w = &mut self.ways[way];
        if w.is_empty() && !w.ended {
            w.fill(from)?;
        }
        if !w.is_empty() {
            w.pour(to)?;
        }
        if w.is_empty() && w.ended && !w.told {
            w.told = true;
            rustix::net::shutdown(to, Shutdown::Write)?;
        }
        Ok(())
    }

    /// Both have said all.
    pub fn is_over(&self) -> bool {
        self.ways.iter().all(|w| w.told)
    }
}
