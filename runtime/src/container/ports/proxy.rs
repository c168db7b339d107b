//! Passes on what comes to the ports of a container: one process with one thread.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rgraph_sys::spawn::{self, PidFd};
use rgraph_sys::wait::{self, For};
use rgraph_sys::{netns, ns};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};

use super::Bound;

/// Connections at the same time; more have to wait.
const MOST: usize = 400;
/// Bytes on their way in one direction of a connection.
const BUFFER: usize = 16 << 10;

/// The process. It ends with this value, and with its parent.
pub(in super::super) struct Proxy(PidFd);

impl Proxy {
    /// Starts it; `pid` is a process in the network that the ports lead to.
    ///
    /// # Errors
    /// That network cannot be opened, or there is no process.
    pub fn start(pid: i32, bound: &[Bound], sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let network = OwnedFd::from(File::open(format!("/proc/{pid}/ns/net"))?);
        let ports: Vec<u16> = bound.iter().map(|b| b.container).collect();
        spawn::copy_self(move || {
            let mut kept = sockets;
            kept.push(network);
            // The lock of the container among others, which must be free when it has ended.
            let Ok(mut kept) = spawn::keep_only(kept) else { return 1 };
            let Some(network) = kept.pop() else { return 1 };
            let ready = ns::die_with_parent().and_then(|()| netns::enter(&network));
            drop(network);
            match ready {
                Ok(()) => serve(&kept, &ports),
                Err(_) => 1,
            }
        })
        .map(Self)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // So that the ports are free when this returns. It cannot fail for a child of ours.
        self.0.kill().and_then(|()| self.0.wait().map(drop)).unwrap_or(());
    }
}

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
        Self { bytes: Vec::with_capacity(BUFFER), done: 0, ended: false, told: false }
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
struct Link {
    outer: OwnedFd,
    inner: OwnedFd,
    /// From outside to inside, and back.
    ways: [Way; 2],
}

impl Link {
    fn ends(&self, way: usize) -> (&OwnedFd, &OwnedFd) {
        if way == 0 { (&self.outer, &self.inner) } else { (&self.inner, &self.outer) }
    }

    fn step(&mut self, way: usize) -> rustix::io::Result<()> {
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

    fn is_over(&self) -> bool {
        self.ways.iter().all(|w| w.told)
    }
}

fn serve(listeners: &[OwnedFd], ports: &[u16]) -> i32 {
    let mut links: Vec<Link> = Vec::new();
    loop {
        let open = if links.len() < MOST { listeners } else { &[] };
        let mut asked: Vec<(BorrowedFd<'_>, For)> =
            open.iter().map(|l| (l.as_fd(), For::Reading)).collect();
        // Which way of which link an entry is about.
        let mut about = Vec::new();
        for (at, link) in links.iter().enumerate() {
            for way in 0..2 {
                let (from, to) = link.ends(way);
                let w = &link.ways[way];
                if !w.is_empty() {
                    asked.push((to.as_fd(), For::Writing));
                } else if !w.ended {
                    asked.push((from.as_fd(), For::Reading));
                } else {
                    continue;
                }
                about.push((at, way));
            }
        }
        let Ok(ready) = wait::poll(asked, None) else { return 1 };
        let (came, moved) = ready.split_at(open.len());
        let mut over = Vec::new();
        for ((at, way), _) in about.iter().zip(moved).filter(|(_, ready)| **ready) {
            // One that fails is given up in both directions.
            if links[*at].step(*way).is_err() || links[*at].is_over() {
                over.push(*at);
            }
        }
        over.dedup();
        for at in over.into_iter().rev() {
            links.remove(at);
        }
        for ((listener, port), _) in listeners.iter().zip(ports).zip(came).filter(|(_, c)| **c) {
            links.extend(accept(listener, *port));
        }
    }
}

/// Somebody came: the container is called. `None`: either is gone again.
fn accept(listener: &OwnedFd, port: u16) -> Option<Link> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let outer = rustix::net::accept_with(listener, flags).ok()?;
    let kind = SocketType::STREAM;
    let inner = rustix::net::socket_with(AddressFamily::INET, kind, flags, None).ok()?;
    for socket in [&outer, &inner] {
        sockopt::set_tcp_nodelay(socket, true).ok()?;
    }
    match rustix::net::connect(&inner, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(_) => return None,
    }
    Some(Link { outer, inner, ways: [Way::new(), Way::new()] })
}
