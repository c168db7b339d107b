//! The network of a step: the host's, one of its own with a way out, or loopback alone.
//!
//! ```text
//! runner ── socket ──→ router (a copy of the runner) ── in the uplink's namespace
//!    │                    │  makes a namespace, a pair of links, addresses, a route
//!    │ ←─── namespace ────┘
//!    └─ clone3 ──→ child ── setns ──→ step:  eth0 ─── rgraph0ad58003 ─── masquerade ─── the world
//! ```
//! The uplink is the host's own namespace where this process has rights in it, and otherwise one
//! that the program `pasta` connects; all else is the same ([`uplink`]). There is no bridge: each
//! step has a range of two addresses, the other one being the host's end of its pair of links. So
//! steps cannot reach each other, and what is left after a build is one table of the packet filter,
//! which names links that are not there.
//!
//! A service and a step that may reach it are connected by a pair of links of their own, with the two
//! addresses that they have anyway, so each step has its ports to itself and sees the service at the
//! same address. The filter knows nothing of it.
//!
//! Nothing is counted or locked between builds: the name of a pair is its address, and the kernel
//! makes each name once; the table is made in one transaction, or was made already. Links and
//! addresses go when the namespace goes, whoever is killed. A namespace is used again by the next
//! step when nothing of the last one is left in it.

mod files;
mod passage;
mod pasta;
mod router;
mod uplink;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use rgraph_sys::netns::{self, Leftovers};
use rgraph_sys::ns;
use serde::{Deserialize, Serialize};

use super::error::InitError;
use super::spec::{Network, SandboxSpec};

pub(super) use files::{hosts, resolv_conf};
pub(super) use pasta::Pasta;
pub(super) use router::{Purpose, Router};

/// Why there is no private network here, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{cause}")]
pub struct NoNetwork {
    /// In one line.
    pub cause: String,
    /// What to install or to allow; empty: not known.
    pub help: String,
}

/// A network namespace with a way out, for one step at a time.
#[derive(Debug)]
pub(super) struct Place {
    namespace: OwnedFd,
    leftovers: Leftovers,
    /// What a step in it is told.
    pub facts: Facts,
}

/// What a step is told of its private network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Its address.
    pub own: Ipv4Addr,
    /// Where the host answers: `host-gateway`.
    pub host: Option<IpAddr>,
    /// Who answers for names instead of the host's name servers.
    pub resolver: Option<IpAddr>,
    /// IPv6 leads out too.
    pub ipv6: bool,
    /// Who else is there, by name.
    pub near: Vec<(String, Ipv4Addr)>,
}

/// A network that others can be connected to while somebody is in it.
#[derive(Debug)]
pub(super) struct Anchor {
    namespace: OwnedFd,
    address: Ipv4Addr,
}

impl Place {
    /// What others need to be connected to this one.
    pub fn anchor(&self) -> std::io::Result<Anchor> {
        Ok(Anchor { namespace: self.namespace.try_clone()?, address: self.facts.own })
    }
}

/// Whether a child with this network is born into a namespace of its own for it.
pub(super) fn own(network: Network) -> bool {
    network == Network::None
}

/// Called in the child, before anything is mounted: `/sys` shows the network of who mounts it.
pub(super) fn enter(place: Option<&Place>) -> Result<(), InitError> {
    match place {
        Some(place) => netns::enter(&place.namespace).map_err(InitError::at("enter the network")),
        None => Ok(()),
    }
}

/// Called in the child.
pub(super) fn configure(network: Network) -> Result<(), InitError> {
    match network {
        Network::Host | Network::Private => Ok(()),
        Network::None => ns::loopback_up().map_err(InitError::at("switch on loopback")),
    }
}

/// The host name of the step.
pub(super) fn hostname(spec: &SandboxSpec) -> &str {
    if spec.hostname.is_empty() { SandboxSpec::HOSTNAME } else { &spec.hostname }
}
