//! Passes on what comes to the ports of a container: one process with one thread.
//!
//! It has bounds of its own. Nobody is cut off for saying nothing, unless all places are taken and
//! another waits for one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rgraph_sys::datagram;
use rgraph_sys::spawn::{self, PidFd};
use rgraph_sys::wait::{self, For};
use rgraph_sys::{netns, ns};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::flow::{self, Flow, Sender};
use super::link::Link;
use super::{Bound, Protocol};

/// Connections at the same time; more have to wait.
const MOST_LINKS: usize = 400;
/// Senders of datagrams at the same time; the one that was silent the longest makes room.
const MOST_FLOWS: usize = 256;
/// Files that this process has open beside those of connections.
const OWN_FILES: usize = 16;
/// A connection that was silent for so long makes room when another waits.
const SILENT: Duration = Duration::from_secs(60);
/// So long the answers of the container find back to a sender of datagrams (docker-proxy has the same).
const REMEMBERED: Duration = Duration::from_secs(90);
/// How long nobody is taken after this process had no room.
const PAUSE: Duration = Duration::from_millis(100);

/// The process. It ends with this value, and with its parent.
pub(in super::super) struct Proxy(PidFd);

impl Proxy {
    /// Starts it; `pid` is a process in the network that the ports lead to.
    ///
    /// # Errors
    /// That network cannot be opened, or there is no process.
    pub fn start(pid: i32, bound: &[Bound], sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let network = OwnedFd::from(File::open(format!("/proc/{pid}/ns/net"))?);
        let bound = bound.to_vec();
        let mut files = sockets;
        files.push(network);
        // Not the lock of the container among others, which must be free when it has ended.
        spawn::copy_with_files(files, move |mut kept| {
            let Some(network) = kept.pop() else { return 1 };
            let ready = ns::die_with_parent().and_then(|()| netns::enter(&network));
            drop(network);
            match ready.and_then(|()| Serving::new(kept, &bound)) {
                Ok(serving) => serving.run(),
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

/// A port of the host.
struct Door {
    socket: OwnedFd,
    protocol: Protocol,
    /// In the container.
    port: u16,
}

struct Serving {
    doors: Vec<Door>,
    links: Vec<Link>,
    flows: Vec<Flow>,
    most_links: usize,
    /// Until then nobody is taken: this process had no room.
    pause: Option<Instant>,
    buffer: Vec<u8>,
}

/// What has something to do.
#[derive(Clone, Copy)]
enum Source {
    Door(usize),
    Link(usize, usize),
    Flow(usize),
}

/// How many connections there may be with so many files: as many as the hard limit allows.
fn room() -> usize {
    let Rlimit { maximum, current } = getrlimit(Resource::Nofile);
    // Where it cannot be raised, less have to do.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let files = if raised { maximum } else { current };
    let files = files.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    files.saturating_sub(MOST_FLOWS + OWN_FILES) / 2
}

impl Serving {
    fn new(sockets: Vec<OwnedFd>, bound: &[Bound]) -> io::Result<Self> {
        let mut doors = Vec::with_capacity(bound.len());
        for (socket, b) in sockets.into_iter().zip(bound) {
            if b.protocol == Protocol::Udp {
                datagram::tell_address(&socket, b.host.is_ipv6())?;
            }
            doors.push(Door { socket, protocol: b.protocol, port: b.container });
        }
        let most_links = MOST_LINKS.min(room().saturating_sub(doors.len())).max(1);
        let udp = doors.iter().any(|d| d.protocol == Protocol::Udp);
        let buffer = vec![0; if udp { datagram::MOST } else { 0 }];
        Ok(Self { doors, links: Vec::new(), flows: Vec::new(), most_links, pause: None, buffer })
    }

    fn run(mut self) -> i32 {
        loop {
            let now = Instant::now();
            self.pause.take_if(|until| *until <= now);
            self.flows.retain(|f| now < f.last + REMEMBERED);
            let (sources, asked): (Vec<Source>, Vec<_>) = self.asked(now).into_iter().unzip();
            let timeout = self.next_look(now).map(|at| at.saturating_duration_since(now));
            let Ok(ready) = wait::poll(asked, timeout) else { return 1 };
            let ready: Vec<Source> =
                sources.into_iter().zip(ready).filter_map(|(s, r)| r.then_some(s)).collect();
            self.serve(&ready, Instant::now());
        }
    }

    /// What is waited for.
    fn asked(&self, now: Instant) -> Vec<(Source, (BorrowedFd<'_>, For))> {
        let takes = self.pause.is_none() && self.has_room(now);
        let mut asked = Vec::new();
        for (at, door) in self.doors.iter().enumerate() {
            if takes || door.protocol == Protocol::Udp {
                asked.push((Source::Door(at), (door.socket.as_fd(), For::Reading)));
            }
        }
        for (at, link) in self.links.iter().enumerate() {
            let ways = (0..2).filter_map(|way| Some((Source::Link(at, way), link.awaits(way)?)));
            asked.extend(ways);
        }
        let flows = self.flows.iter().enumerate();
        asked.extend(flows.map(|(at, f)| (Source::Flow(at), (f.inner(), For::Reading))));
        asked
    }

    /// A place is free, or one that has been silent can be had.
    fn has_room(&self, now: Instant) -> bool {
        self.links.len() < self.most_links || self.links.iter().any(|l| l.last + SILENT <= now)
    }

    /// When there may be something to do though nothing happens.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let full = !self.has_room(now);
        let room = self.links.iter().filter(|_| full).map(|l| l.last + SILENT).min();
        let forget = self.flows.iter().map(|f| f.last + REMEMBERED).min();
        [self.pause, room, forget].into_iter().flatten().min()
    }

    fn serve(&mut self, ready: &[Source], now: Instant) {
        let mut over = Vec::new();
        for source in ready {
            match *source {
                // One that fails is given up in both directions.
                Source::Link(at, way) => {
                    let link = &mut self.links[at];
                    if link.step(way, now).is_err() || link.is_over() {
                        over.push(at);
                    }
                }
                Source::Flow(at) => {
                    let flow = &mut self.flows[at];
                    let outer = &self.doors[flow.sender.door].socket;
                    flow.pass_out(outer, &mut self.buffer, now);
                }
                Source::Door(_) => {}
            }
        }
        over.dedup();
        for at in over.into_iter().rev() {
            self.links.remove(at);
        }
        for source in ready {
            if let Source::Door(at) = *source {
                match self.doors[at].protocol {
                    Protocol::Tcp => self.admit(at, now),
                    Protocol::Udp => self.take(at, now),
                }
            }
        }
    }

    /// Somebody came: the container is called.
    fn admit(&mut self, door: usize, now: Instant) {
        if self.links.len() >= self.most_links {
            let oldest = self.links.iter().enumerate().min_by_key(|(_, l)| l.last);
            match oldest {
                Some((at, l)) if l.last + SILENT <= now => drop(self.links.remove(at)),
                _ => return,
            }
        }
        let Door { socket, port, .. } = &self.doors[door];
        match Link::accept(socket, *port, now) {
            Ok(link) => self.links.extend(link),
            // Who waits goes on waiting, and this process does not ask all the time.
            Err(_) => self.pause = Some(now + PAUSE),
        }
    }

    /// Datagrams came.
    fn take(&mut self, door: usize, now: Instant) {
        let Self { doors, flows, buffer, .. } = self;
        let Door { socket, port, .. } = &doors[door];
        flow::take(socket, buffer, |got, bytes| {
            let sender = Sender { door, address: got.from, asked: got.to };
            let at = flows.iter().position(|f| f.sender == sender).or_else(|| {
                if flows.len() >= MOST_FLOWS {
                    let oldest = flows.iter().enumerate().min_by_key(|(_, f)| f.last);
                    oldest.map(|(at, _)| at).map(|at| flows.swap_remove(at));
                }
                // Without room it is lost, as datagrams are.
                flows.push(Flow::open(sender, *port, now).ok()?);
                Some(flows.len() - 1)
            });
            if let Some(at) = at {
                flows[at].pass_in(bytes, now);
            }
        });
    }
}
