//! Links, addresses and routes of one network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{ACK, CREATE, DUMP, EXCL, Message, Socket, attr, attrs, text_of, u32_at};

const INET: u8 = libc::AF_INET as u8;
const INET6: u8 = libc::AF_INET6 as u8;
/// The peer of a `veth`, in its link's own data.
const VETH_INFO_PEER: u16 = 1;
/// Settings of IPv4 in a link's description, and two of them.
const IFLA_INET_CONF: u16 = 1;
const CONF_FORWARDING: u16 = 1;
const CONF_RP_FILTER: u16 = 8;
/// How a link gets its own IPv6 address, and: not at all.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// How many leading bits its addresses share.
    pub length: u8,
}

impl Prefix {
    /// True when an address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let bits = |a: IpAddr| match a {
            IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
            IpAddr::V6(a) => a.to_bits(),
        };
        let shared = u32::from(self.length.min(other.length));
        let differ = bits(self.address) ^ bits(other.address);
        self.address.is_ipv4() == other.address.is_ipv4() && differ.leading_zeros() >= shared
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest packet, bytes.
    pub mtu: u32,
}

/// A way to some addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; a length of 0 is everywhere.
    pub to: Prefix,
    /// Over which links.
    pub links: Vec<u32>,
    /// It is for addresses of this machine itself, and broadcasts.
    pub local: bool,
}

/// Two connected links in two namespaces, to be made.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Name of the end in this namespace.
    pub name: &'a str,
    /// Name of the other.
    pub peer: &'a str,
    /// Where the other end shall be.
    pub peer_in: BorrowedFd<'a>,
    /// Largest packet, bytes.
    pub mtu: u32,
}

/// A socket for questions and wishes about one namespace.
#[derive(Debug)]
pub struct RouteSocket(Socket);

impl RouteSocket {
    /// For the namespace of the calling thread.
    ///
    /// # Errors
    /// The error of `socket(2)`.
    pub fn open() -> io::Result<Self> {
        Socket::open(None).map(Self)
    }

    /// All links.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        let mut out = Vec::new();
        self.0.dump(Message::new(libc::RTM_GETLINK, DUMP, &link(0, 0)), |body| {
            out.extend(read_link(body));
        })?;
        Ok(out)
    }

    /// The number of a link.
    ///
    /// # Errors
    /// The kernel's; `ENODEV`: there is none of this name.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let mut found = None;
        let ask = Message::new(libc::RTM_GETLINK, ACK, &link(0, 0)).text(libc::IFLA_IFNAME, name);
        self.0.dump(ask, |body| found = read_link(body))?;
        found.map(|l| l.index).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// All routes of all tables, both families.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(&self) -> io::Result<Vec<Route>> {
        let mut out = Vec::new();
        for family in [INET, INET6] {
            let ask = Message::new(libc::RTM_GETROUTE, DUMP, &route(family, 0, 0));
            // The family of a kernel without IPv6.
            match self.0.dump(ask, |body| out.extend(read_route(body))) {
                Err(e) if family == INET6 => drop(e),
                asked => asked?,
            }
        }
        Ok(out)
    }

    /// Makes two connected links, the one here switched on. They go when either namespace goes.
    ///
    /// # Errors
    /// The kernel's; `AlreadyExists`: the name is in use.
    pub fn add_pair(&self, pair: &Pair<'_>) -> io::Result<()> {
        let up = libc::IFF_UP as u32;
        self.0.request(
            Message::new(libc::RTM_NEWLINK, CREATE | EXCL, &link(0, up))
                .text(libc::IFLA_IFNAME, pair.name)
                .u32(libc::IFLA_MTU, pair.mtu)
                .nest(libc::IFLA_LINKINFO, |m| {
                    m.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |m| {
                        m.nest(VETH_INFO_PEER, |m| {
                            m.raw(&link(0, 0))
                                .text(libc::IFLA_IFNAME, pair.peer)
                                .u32(libc::IFLA_MTU, pair.mtu)
                                .u32(libc::IFLA_NET_NS_FD, pair.peer_in.as_raw_fd().cast_unsigned())
                        })
                    })
                }),
        )
    }

    /// Lets IPv4 packets that come in by a link go on, but only those whose sender is behind that
    /// link, and gives the link no IPv6 address of its own accord.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_gateway(&self, index: u32) -> io::Result<()> {
        self.configure(index, &[(CONF_FORWARDING, 1), (CONF_RP_FILTER, 1)])
    }

    /// Lets no IPv4 packet that comes in by a link go on, whatever the host's default is, and takes
    /// only those whose sender is behind that link.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_dead_end(&self, index: u32) -> io::Result<()> {
        self.configure(index, &[(CONF_FORWARDING, 0), (CONF_RP_FILTER, 1)])
    }

    fn configure(&self, index: u32, values: &[(u16, u32)]) -> io::Result<()> {
        let set = |m: Message| values.iter().fold(m, |m, (name, value)| m.u32(*name, *value));
        self.0.request(
            Message::new(libc::RTM_NEWLINK, 0, &link(index, 0))
                .nest(libc::IFLA_AF_SPEC, |m| m.nest(INET.into(), |m| m.nest(IFLA_INET_CONF, set))),
        )
    }

    /// As [`Self::make_gateway`] says of IPv6; `EAFNOSUPPORT` where there is no IPv6.
    ///
    /// # Errors
    /// The kernel's.
    pub fn no_own_ipv6(&self, index: u32) -> io::Result<()> {
        self.0.request(
            Message::new(libc::RTM_NEWLINK, 0, &link(index, 0)).nest(libc::IFLA_AF_SPEC, |m| {
                m.nest(INET6.into(), |m| m.attr(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]))
            }),
        )
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&self, index: u32) -> io::Result<()> {
        self.0.request(Message::new(libc::RTM_NEWLINK, 0, &link(index, libc::IFF_UP as u32)))
    }

    /// Gives a link an address, usable at once.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&self, index: u32, address: Prefix) -> io::Result<()> {
        self.put_address(index, address.address, address)
    }

    /// Gives a link an address, and says that behind it there is but one other.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_peer(&self, index: u32, own: Ipv4Addr, peer: Ipv4Addr) -> io::Result<()> {
        self.put_address(index, own.into(), Prefix::from((peer, 32)))
    }

    fn put_address(&self, index: u32, own: IpAddr, behind: Prefix) -> io::Result<()> {
        let (family, bytes) = octets(own);
        let flags = if family == INET6 { libc::IFA_F_NODAD as u8 } else { 0 };
        let mut fixed = vec![family, behind.length, flags, 0];
        fixed.extend_from_slice(&index.to_ne_bytes());
        self.0.request(
            Message::new(libc::RTM_NEWADDR, CREATE | EXCL, &fixed)
                .attr(libc::IFA_LOCAL, &bytes)
                .attr(libc::IFA_ADDRESS, &octets(behind.address).1),
        )
    }

    /// Sends everything that has no other way to `via`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_default_route(&self, index: u32, via: IpAddr) -> io::Result<()> {
        let (family, bytes) = octets(via);
        let fixed = route(family, libc::RTPROT_STATIC, libc::RTN_UNICAST);
        self.0.request(
            Message::new(libc::RTM_NEWROUTE, CREATE | EXCL, &fixed)
                .u32(libc::RTA_OIF, index)
                .attr(libc::RTA_GATEWAY, &bytes),
        )
    }
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(a) => (INET, a.octets().to_vec()),
        IpAddr::V6(a) => (INET6, a.octets().to_vec()),
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, up: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&up.to_ne_bytes());
    out[12..16].copy_from_slice(&up.to_ne_bytes());
    out
}

/// `struct rtmsg`, for a default route in the main table.
fn route(family: u8, protocol: u8, kind: u8) -> [u8; 12] {
    [family, 0, 0, 0, libc::RT_TABLE_MAIN, protocol, libc::RT_SCOPE_UNIVERSE, kind, 0, 0, 0, 0]
}

fn read_link(body: &[u8]) -> Option<Link> {
    let inside = body.get(16..)?;
    Some(Link {
        index: u32_at(body, 4)?,
        name: text_of(attr(inside, libc::IFLA_IFNAME)?),
        mtu: attr(inside, libc::IFLA_MTU).and_then(|v| u32_at(v, 0)).unwrap_or(0),
    })
}

fn read_route(body: &[u8]) -> Option<Route> {
    let (family, length, kind) = (*body.first()?, *body.get(1)?, *body.get(7)?);
    let inside = body.get(12..)?;
    let to = attr(inside, libc::RTA_DST);
    let address = match family {
        INET => IpAddr::from(to.map_or(Some([0; 4]), |v| v.try_into().ok())?),
        INET6 => IpAddr::from(to.map_or(Some([0; 16]), |v| v.try_into().ok())?),
        _ => return None,
    };
    let mut links = Vec::new();
    for (kind, value) in attrs(inside) {
        match kind {
            libc::RTA_OIF => links.extend(u32_at(value, 0)),
            libc::RTA_MULTIPATH => links.extend(hops(value)),
            _ => {}
        }
    }
    let local = kind != libc::RTN_UNICAST;
    Some(Route { to: Prefix { address, length }, links, local })
}

/// The links of a route over several: a list of `struct rtnexthop`, each with attributes.
fn hops(mut bytes: &[u8]) -> Vec<u32> {
    let mut out = Vec::new();
    while let (Some(length), Some(index)) = (super::u16_at(bytes, 0), u32_at(bytes, 4)) {
        out.push(index);
        let length = usize::from(length).next_multiple_of(super::ALIGN).max(8);
        bytes = bytes.get(length..).unwrap_or(&[]);
    }
    out
}

impl From<(Ipv4Addr, u8)> for Prefix {
    fn from((address, length): (Ipv4Addr, u8)) -> Self {
        Self { address: address.into(), length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges() {
        let p = |text: &str| {
            let (a, l) = text.split_once('/').unwrap();
            Prefix { address: a.parse().unwrap(), length: l.parse().unwrap() }
        };
        for (a, b, want) in [
            ("10.0.0.0/8", "10.9.0.0/16", true),
            ("10.9.0.0/16", "10.0.0.0/8", true),
            ("10.9.0.0/21", "10.9.8.0/21", false),
            ("10.9.0.0/21", "10.9.7.255/32", true),
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("::/0", "10.0.0.0/8", false),
            ("fd00::/8", "fd72:6772::/32", true),
            ("fd72::/16", "fd73::/16", false),
        ] {
            assert_eq!(p(a).overlaps(&p(b)), want, "{a} {b}");
        }
    }

    #[test]
    fn loopback_is_seen() {
        let socket = RouteSocket::open().unwrap();
        let links = socket.links().unwrap();
        let lo = links.iter().find(|l| l.name == "lo").expect("lo");
        assert_eq!(socket.index("lo").unwrap(), lo.index);
        let missing = socket.index("no-such-link").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
        // The socket still answers in step after an error.
        assert_eq!(socket.index("lo").unwrap(), lo.index);
        let routes = socket.routes().unwrap();
        let loopback = Prefix::from((Ipv4Addr::new(127, 0, 0, 1), 32));
        assert!(routes.iter().any(|r| r.local && r.to == loopback), "{routes:?}");
    }

    #[test]
    fn routes_over_several_links() {
        let mut hop = vec![16, 0, 0, 0];
        hop.extend_from_slice(&7u32.to_ne_bytes());
        hop.extend_from_slice(&[8, 0, 5, 0, 10, 0, 0, 1]);
        let mut two = hop.clone();
        hop[4] = 8;
        two.extend_from_slice(&hop);
        assert_eq!(hops(&two), [7, 8]);
        assert_eq!(hops(&[0; 20]), [0, 0]);
        assert_eq!(hops(&two[..5]), []);
    }
}
