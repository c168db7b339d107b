//! A service: a container that runs beside a process, which reaches it by name.

use std::time::Duration;

use crate::fields::{FieldVisitor, KeyFields};
use crate::op::InputIndex;

/// A container beside a process. What it is stands in the process's key by digest; where its files come
/// from does not count as an input, for it is fetched only when something runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The host name by which the process reaches it.
    pub name: String,
    /// Its root file system.
    pub root: InputIndex,
    /// The digest of its image; without one (a graph that asked nobody) the image's name.
    pub image: String,
    /// Variables that the caller set, `KEY=VALUE`.
    pub set: Vec<String>,
    /// The settings of the image, with what the caller set.
    pub run: ServiceRun,
}

/// How the container of a service is started. All of it follows from the image and what the caller set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceRun {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The whole environment, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `USER` as written; empty: root.
    pub user: String,
    /// It is ready when it listens on all of them.
    pub ports: Vec<Port>,
    /// How long that may take.
    pub patience: Duration,
}

/// A port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Which protocol.
    pub protocol: Protocol,
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Port {
    /// Reads `5432`, `5432/tcp`, `53/udp`; `None`: another protocol, or no port.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let number = number.parse().ok().filter(|n| *n > 0)?;
        Some(Self { number, protocol })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl KeyFields for Service {
    fn visit(&self, v: &mut dyn FieldVisitor) {
        let Self {
            name,
            root: _, // named by `image`
            image,
            set,
            run: _, // follows from `image` and `set`; when it counts as ready changes no result
        } = self;
        v.str("name", name);
        v.str("image", image);
        v.strs("set", set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, want) in [
            ("80", Some("80/tcp")),
            ("5432/tcp", Some("5432/tcp")),
            ("53/udp", Some("53/udp")),
            ("0", None),
            ("70000", None),
            ("9/sctp", None),
            ("", None),
            ("80-90", None),
        ] {
            assert_eq!(Port::parse(text).map(|p| p.to_string()).as_deref(), want, "{text}");
        }
    }
}
