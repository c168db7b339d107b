//! Ports of a container on the host.
//!
//! Whoever starts a container binds the sockets, so that a busy port is told before anything runs, and
//! hands them over with the charge. A copy of the supervisor goes into the container's network with
//! them: what it accepts came to the host, what it connects is in the container. So nothing of the
//! host's network is changed, and a user can do it. The copy dies with the supervisor.

mod flow;
mod link;
mod proxy;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

pub(super) use proxy::Proxy;

/// What is spoken at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Address of the host; `None`: all.
    pub ip: Option<IpAddr>,
    /// Port of the host; 0: a free one.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
    /// Of both.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A port that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// On the host.
    pub host: SocketAddr,
    /// Port in the container.
    pub container: u16,
    /// Of both.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody has it.
    #[error("port {0} of the host is already in use: choose another, or end who has it")]
    Busy(SocketAddr),
    /// It is kept for root.
    #[error(
        "port {0} of the host cannot be opened by this user: choose one from 1024 on, or lower \
         net.ipv4.ip_unprivileged_port_start"
    )]
    Low(SocketAddr),
    /// The address is none of the host's.
    #[error("{0} is no address of this host")]
    NoAddress(IpAddr),
    /// Anything else.
    #[error("cannot open port {0}")]
    Other(SocketAddr, #[source] io::Error),
}

/// Those who may wait to be accepted.
const BACKLOG: i32 = 128;

/// Opens every port asked for; in the order of the sockets, what each is.
///
/// # Errors
/// [`PortError`]; none is open then.
pub fn bind(all: &[Publish]) -> Result<(Vec<Bound>, Vec<OwnedFd>), PortError> {
    let (mut bound, mut sockets) = (Vec::new(), Vec::new());
    for p in all {
        let mut add = |ip: IpAddr, port: u16| -> Result<u16, PortError> {
            let (host, socket) = listen(SocketAddr::new(ip, port), p.protocol)?;
            bound.push(Bound { host, container: p.container, protocol: p.protocol });
            sockets.push(socket);
            Ok(host.port())
        };
        match p.ip {
            Some(ip) => drop(add(ip, p.host)?),
            None => {
                let port = add(Ipv4Addr::UNSPECIFIED.into(), p.host)?;
                match add(Ipv6Addr::UNSPECIFIED.into(), port) {
                    Ok(_) => {}
                    // A host without IPv6, or one where somebody else has the port there.
                    Err(PortError::Busy(_)) if p.host != 0 => {
                        return Err(PortError::Busy(SocketAddr::new(
                            Ipv6Addr::UNSPECIFIED.into(),
                            port,
                        )));
                    }
                    Err(e) => tracing::debug!(error = %e, "a port has no IPv6"),
                }
            }
        }
    }
    Ok((bound, sockets))
}

fn listen(at: SocketAddr, protocol: Protocol) -> Result<(SocketAddr, OwnedFd), PortError> {
    let open = || -> rustix::io::Result<(OwnedFd, SocketAddr)> {
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = match protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        };
        let socket = rustix::net::socket_with(family, kind, flags, None)?;
        if at.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        if protocol == Protocol::Tcp {
            // A port that was just left may be taken again; one that is listened on may not. Datagrams
            // would be shared.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        rustix::net::bind(&socket, &at)?;
        if protocol == Protocol::Tcp {
            rustix::net::listen(&socket, BACKLOG)?;
        }
        let got = rustix::net::getsockname(&socket)?;
        let got = SocketAddr::try_from(got).unwrap_or(at);
        Ok((socket, got))
    };
    match open() {
        Ok((socket, got)) => Ok((got, socket)),
        Err(Errno::ADDRINUSE) => Err(PortError::Busy(at)),
        Err(Errno::ACCESS | Errno::PERM) => Err(PortError::Low(at)),
        Err(Errno::ADDRNOTAVAIL) if !at.ip().is_unspecified() => Err(PortError::NoAddress(at.ip())),
        Err(e) => Err(PortError::Other(at, e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, host: u16, protocol: Protocol) -> Publish {
        Publish { ip: Some(ip.parse().unwrap()), host, container: 80, protocol }
    }

    #[test]
    fn a_busy_port_is_told() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (bound, sockets) = bind(&[port("127.0.0.1", 0, protocol)]).unwrap();
            assert_eq!((bound.len(), sockets.len(), bound[0].container), (1, 1, 80));
            let taken = bound[0].host.port();
            let again = bind(&[port("127.0.0.1", taken, protocol)]);
            assert!(matches!(again, Err(PortError::Busy(_))));
            drop(sockets);
            bind(&[port("127.0.0.1", taken, protocol)]).unwrap();
            let elsewhere = bind(&[port("192.0.2.1", 0, protocol)]);
            assert!(matches!(elsewhere, Err(PortError::NoAddress(_))));
        }
    }

    #[test]
    fn a_port_of_an_older_record_is_tcp() {
        let old: Bound = serde_json::from_str(r#"{"host":"127.0.0.1:8","container":80}"#).unwrap();
        assert_eq!(old.protocol.to_string(), "tcp");
    }
}
