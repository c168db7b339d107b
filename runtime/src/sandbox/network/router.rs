//! The process that makes networks for steps, and the runner's side of it.
//!
//! It is a process of its own because making a network namespace means entering it, and without
//! root there is no way back into the host's. It lives as long as the runner.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use rgraph_sys::netns::{self, Leftovers};
use rgraph_sys::spawn::{self, PidFd};
use rgraph_sys::{channel, ns, wait};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::pasta::Pasta;
use super::uplink::{self, Prepared, Uplink};
use super::{Anchor, Facts, NoNetwork, Place};
use crate::sandbox::error::InitError;

/// What the router is asked.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// A namespace.
    Make,
    /// A way between two of them, which come with this; their addresses.
    Link(Ipv4Addr, Ipv4Addr),
}

/// Most namespaces that wait for a step.
const MOST_FREE: usize = 16;

/// What the router says of itself.
#[derive(Debug, Serialize, Deserialize)]
enum Hello {
    /// It is in a namespace without a way out, which comes with this, and waits for one.
    Stranded,
    /// It can make networks; what it had to change on the host for that.
    Ready(Vec<String>),
    /// It cannot.
    Unable(NoNetwork),
}

/// What a router is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Purpose {
    /// To make networks for steps.
    Steps,
    /// To see whether it could. What it makes leads nowhere.
    Probe,
}

/// A router that runs, and namespaces that no step uses now.
#[derive(Debug)]
pub(in crate::sandbox) struct Router {
    socket: OwnedFd,
    process: PidFd,
    /// Ends with this.
    pasta: Option<Pasta>,
    free: Vec<Place>,
    /// One was asked for that has not come yet.
    asked: bool,
}

impl Router {
    /// Starts it. Gives also what was changed on the host.
    pub fn start(purpose: Purpose) -> Result<(Self, Vec<String>), NoNetwork> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |e: std::io::Error| NoNetwork {
                cause: format!("{what}: {e}"),
                help: String::new(),
            }
        };
        let (socket, theirs) = channel::pair().map_err(failed("no socket"))?;
        let process = spawn::copy_self(|| serve(&theirs, purpose))
            .map_err(failed("no process for the network"))?;
        drop(theirs);
        let mut router = Self { socket, process, pasta: None, free: Vec::new(), asked: false };
        match router.hello()? {
            (Hello::Stranded, Some(namespace)) => router.pasta = Some(Pasta::start(namespace)?),
            (Hello::Stranded, None) => return Err(died()),
            (Hello::Ready(notes), _) => return Ok((router, notes)),
            (Hello::Unable(why), _) => return Err(why),
        }
        match router.hello()?.0 {
            Hello::Ready(notes) => Ok((router, notes)),
            Hello::Unable(why) => {
                Err(router.pasta.as_ref().and_then(Pasta::failure).unwrap_or(why))
            }
            Hello::Stranded => Err(died()),
        }
    }

    /// Whether a network can be had, changing nothing; how, in words.
    pub fn probe() -> Result<String, NoNetwork> {
        let (mut router, _) = Self::start(Purpose::Probe)?;
        router.take().map_err(|e| NoNetwork { cause: e.to_string(), help: String::new() })?;
        Ok(match router.pasta {
            Some(_) => "steps have their own, connected by `pasta`".into(),
            None => "steps have their own, with addresses translated by nf_tables".into(),
        })
    }

    fn hello(&self) -> Result<(Hello, Option<OwnedFd>), NoNetwork> {
        let mut fds = vec![self.socket.as_fd()];
        fds.extend(self.pasta.as_ref().map(AsFd::as_fd));
        while let Ok(ready) = wait::readable(&fds, None) {
            if ready[0] {
                let (word, fds) = hear(&self.socket).ok_or_else(died)?;
                return Ok((word, fds.into_iter().next()));
            }
            if let Some(why) = self.pasta.as_ref().and_then(Pasta::failure) {
                return Err(why);
            }
        }
        Err(died())
    }

    /// A network for one step.
    pub fn take(&mut self) -> Result<Place, InitError> {
        if let Some(place) = self.free.pop() {
            return Ok(place);
        }
        self.ask();
        self.receive()
    }

    /// Connects a network that was taken to another, which is known in it by `name` from then on.
    pub fn link(&mut self, place: &mut Place, to: &Anchor, name: &str) -> Result<(), InitError> {
        if self.asked {
            let early = self.receive()?;
            self.free.push(early);
        }
        let ask = Ask::Link(place.facts.own, to.address);
        if !tell(&self.socket, &ask, &[place.namespace.as_fd(), to.namespace.as_fd()]) {
            return Err(gone());
        }
        hear::<Result<(), InitError>>(&self.socket).ok_or_else(gone)?.0?;
        place.facts.near.push((name.to_owned(), to.address));
        Ok(())
    }

    /// No further network is wanted. What has to stay for those that were taken: the kernel does the
    /// rest.
    pub fn end(mut self) -> Option<Pasta> {
        self.pasta.take()
    }

    /// The step has ended. `trusted`: it could not change the network, so the next may use it too.
    pub fn give_back(&mut self, place: Place, trusted: bool) {
        if trusted && place.facts.near.is_empty() && place.leftovers.none() {
            if self.free.len() < MOST_FREE {
                self.free.push(place);
            }
            return;
        }
        // The next step will want one: it is made while nobody waits for it.
        if self.free.is_empty() {
            self.ask();
        }
    }

    fn ask(&mut self) {
        if !self.asked {
            // One that is gone shows when its answer is missing.
            self.asked = tell(&self.socket, &Ask::Make, &[]);
        }
    }

    fn receive(&mut self) -> Result<Place, InitError> {
        self.asked = false;
        let (facts, fds) = hear::<Result<Facts, InitError>>(&self.socket).ok_or_else(gone)?;
        let facts = facts?;
        let mut fds = fds.into_iter();
        let (Some(namespace), Some(leftovers)) = (fds.next(), fds.next()) else {
            return Err(gone());
        };
        let leftovers = Leftovers::from_fd(leftovers);
        let resolver = self.pasta.as_ref().map(Pasta::resolver);
        let host = self.pasta.as_ref().map_or(facts.host, Pasta::host);
        Ok(Place { namespace, leftovers, facts: Facts { host, resolver, ..facts } })
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

fn gone() -> InitError {
    let reason = "the process that makes them is gone".into();
    InitError::Setup { step: "make a network".into(), reason }
}

fn died() -> NoNetwork {
    NoNetwork { cause: "the process that makes networks died".into(), help: String::new() }
}

fn hear<T: DeserializeOwned>(socket: &OwnedFd) -> Option<(T, Vec<OwnedFd>)> {
    let (bytes, fds) = channel::receive(socket).ok()??;
    Some((serde_json::from_slice(&bytes).ok()?, fds))
}

fn tell(socket: &OwnedFd, word: &impl Serialize, fds: &[std::os::fd::BorrowedFd<'_>]) -> bool {
    serde_json::to_vec(word).is_ok_and(|bytes| channel::send(socket, &bytes, fds).is_ok())
}

/// The router's life.
fn serve(socket: &OwnedFd, purpose: Purpose) -> i32 {
    if ns::die_with_parent().is_err() {
        return 1;
    }
    let (mut uplink, mut first) = match connect(socket, purpose) {
        Ok(Prepared { uplink, first, notes }) => {
            if !tell(socket, &Hello::Ready(notes), &[]) {
                return 1;
            }
            (uplink, Some(first))
        }
        Err(why) => return i32::from(!tell(socket, &Hello::Unable(why), &[])),
    };
    while let Some((ask, fds)) = hear(socket) {
        let told = match ask {
            Ask::Make => match first.take().map_or_else(|| uplink.make(), Ok) {
                Ok(made) => {
                    let facts: Result<_, InitError> = Ok(made.facts);
                    tell(socket, &facts, &[made.namespace.as_fd(), made.leftovers.as_fd()])
                }
                Err(e) => tell(socket, &Err::<Facts, _>(InitError::at("make a network")(e)), &[]),
            },
            Ask::Link(one, other) => {
                let [first, second] = &fds[..] else { return 1 };
                let linked = uplink.link((first, one), (second, other));
                tell(socket, &linked.map_err(InitError::at("connect two networks")), &[])
            }
        };
        if !told {
            return 1;
        }
    }
    0
}

fn connect(socket: &OwnedFd, purpose: Purpose) -> Result<Prepared, NoNetwork> {
    let look = |e: std::io::Error| NoNetwork {
        cause: format!("cannot look at the network namespace: {e}"),
        help: String::new(),
    };
    let own = netns::current().and_then(netns::is_own).map_err(look)?;
    if own && purpose == Purpose::Steps {
        return Uplink::prepare(uplink::Owner::Host);
    }
    if own {
        // As far as can be seen without changing anything, and the rest where it harms nobody.
        uplink::look()?;
    }
    netns::enter_new().and_then(|()| ns::loopback_up()).map_err(|e| NoNetwork {
        cause: format!("cannot make a network namespace: {e}"),
        help: String::new(),
    })?;
    if !own {
        let namespace = netns::current().map_err(look)?;
        if !tell(socket, &Hello::Stranded, &[namespace.as_fd()]) {
            return Err(died());
        }
        uplink::wait_for_route()?;
    }
    Uplink::prepare(uplink::Owner::Build)
}
