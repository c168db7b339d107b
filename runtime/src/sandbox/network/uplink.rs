//! The namespace that steps are connected to: what it needs once, and how a step gets its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rgraph_sys::netlink::filter::FilterSocket;
use rgraph_sys::netlink::route::{Link, Pair, Prefix, Route, RouteSocket};
use rgraph_sys::netns::{self, Leftovers};
use rgraph_sys::ns;

use super::passage::{
    forward, make_table, no_filter, no_forwarding, own_firewalls, pass_firewalls,
};
use super::{Facts, NoNetwork};

/// How our links begin; the address of the host's end follows in hex.
pub(super) const OURS: &str = "rgraph";
/// The step's end.
const INSIDE: &str = "eth0";
/// A usual Ethernet's, bytes.
const MTU: u32 = 1500;
/// IPv6 does not work with less.
const LEAST_MTU: u32 = 1280;

/// Ranges to take addresses from; the first that nobody here uses is taken. Away from what home
/// networks, Docker and Kubernetes use.
const POOLS: [Ipv4Addr; 8] = [
    Ipv4Addr::new(10, 213, 128, 0),
    Ipv4Addr::new(10, 87, 64, 0),
    Ipv4Addr::new(172, 29, 200, 0),
    Ipv4Addr::new(192, 168, 208, 0),
    Ipv4Addr::new(10, 171, 32, 0),
    Ipv4Addr::new(172, 22, 104, 0),
    Ipv4Addr::new(10, 6, 216, 0),
    Ipv4Addr::new(192, 168, 144, 0),
];
const POOL_LENGTH: u8 = 21;
/// Ranges of two addresses in a pool.
const PLACES: u32 = 1 << (31 - POOL_LENGTH);
/// For IPv6: a range of private use with `rgraph` in it; the IPv4 address follows.
const POOL6: [u8; 12] = [0xfd, b'r', b'g', b'r', b'a', b'p', b'h', 0, 0, 0, 0, 0];

/// How long a namespace may take to be connected by another program.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often that is looked for.
const TICK: Duration = Duration::from_millis(2);

/// Who else uses the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The host: its settings are changed as little as can be.
    Host,
    /// Nobody: it is this build's own.
    Build,
}

/// A namespace that steps can be connected to.
#[derive(Debug)]
pub(super) struct Uplink {
    home: OwnedFd,
    route: RouteSocket,
    pool: Ipv4Addr,
    mtu: u32,
    ipv6: bool,
    /// Where in the pool to look first.
    next: u32,
}

/// An uplink that works.
pub(super) struct Prepared {
    pub uplink: Uplink,
    /// A network for the first step.
    pub first: Made,
    /// What was changed in the namespace that others may notice.
    pub notes: Vec<String>,
}

/// A network for one step.
#[derive(Debug)]
pub(super) struct Made {
    pub namespace: OwnedFd,
    pub leftovers: Leftovers,
    pub facts: Facts,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> NoNetwork {
    move |e| NoNetwork { cause: format!("{what}: {e}"), help: String::new() }
}

fn no_links(e: io::Error) -> NoNetwork {
    NoNetwork {
        cause: e.to_string(),
        help: "use a kernel with CONFIG_VETH, and give rgraph CAP_NET_ADMIN".into(),
    }
}

/// Waits until the calling process's namespace has a way to everywhere.
pub(super) fn wait_for_route() -> Result<(), NoNetwork> {
    let route = RouteSocket::open().map_err(failed("cannot ask for routes"))?;
    let ticks = PATIENCE.as_millis() / TICK.as_millis();
    for _ in 0..ticks {
        let routes = route.routes().map_err(failed("cannot ask for routes"))?;
        if routes.iter().any(is_default) {
            return Ok(());
        }
        std::thread::sleep(TICK);
    }
    let cause = format!("`pasta` gave no route within {} s", PATIENCE.as_secs());
    Err(NoNetwork { cause, help: String::new() })
}

/// Looks whether [`Uplink::prepare`] would work on this host, changing nothing.
pub(super) fn look() -> Result<(), NoNetwork> {
    let filter = FilterSocket::open().map_err(no_filter)?;
    own_firewalls(&filter)?;
    let now = Surroundings::look()?;
    now.pool().map(drop)
}

/// The links and routes of a namespace, our own left out.
struct Surroundings {
    links: Vec<Link>,
    routes: Vec<Route>,
}

impl Surroundings {
    fn look() -> Result<Self, NoNetwork> {
        let route = RouteSocket::open().map_err(failed("cannot ask for routes"))?;
        let links = route.links().map_err(failed("cannot ask for links"))?;
        let mut routes = route.routes().map_err(failed("cannot ask for routes"))?;
        let ours = |i: &u32| links.iter().any(|l| l.index == *i && l.name.starts_with(OURS));
        routes.retain(|r| r.links.is_empty() || !r.links.iter().all(ours));
        Ok(Self { links, routes })
    }

    fn pool(&self) -> Result<Ipv4Addr, NoNetwork> {
        free_pool(&self.routes).ok_or_else(|| NoNetwork {
            cause: "every range of addresses for steps is in use here".into(),
            help: String::new(),
        })
    }
}

impl Uplink {
    /// Makes the calling process's namespace one that steps can be connected to.
    pub fn prepare(owner: Owner) -> Result<Prepared, NoNetwork> {
        let home = netns::current().map_err(failed("cannot open the network namespace"))?;
        let route = RouteSocket::open().map_err(failed("cannot ask for routes"))?;
        let surroundings = Surroundings::look()?;
        let pool = surroundings.pool()?;
        let Surroundings { links, routes } = surroundings;
        let filter = FilterSocket::open().map_err(no_filter)?;
        make_table(&filter, owner)?;
        let mut uplink = Self {
            home,
            route,
            pool,
            mtu: mtu(&links, &routes),
            ipv6: ipv6(owner, &routes),
            next: std::process::id().wrapping_mul(0x9e37_79b1) % PLACES,
        };
        // Before anything of the host is changed.
        let first = uplink.make().map_err(no_links)?;
        let notes = match owner {
            Owner::Host => {
                pass_firewalls(&filter)?;
                forward(&filter, &uplinks(&links, &routes))?
            }
            Owner::Build => {
                netns::set("ipv4/ip_forward", "1").map_err(no_forwarding)?;
                Vec::new()
            }
        };
        Ok(Prepared { uplink, first, notes })
    }

    /// Makes a network for one step.
    ///
    /// # Errors
    /// The kernel's, with what was wanted of it.
    pub fn make(&mut self) -> io::Result<Made> {
        netns::enter_new().map_err(at("make a network namespace"))?;
        let made = Self::inside();
        netns::enter(&self.home).map_err(at("go back to the host's network"))?;
        let (namespace, leftovers, inside) = made?;
        let (host, step) = self.connect(&namespace)?;
        self.address(&inside, host, step)?;
        let facts = Facts {
            own: step,
            host: Some(host.into()),
            resolver: None,
            ipv6: self.ipv6,
            near: vec![],
        };
        Ok(Made { namespace, leftovers, facts })
    }

    /// Makes a way between two networks that [`Self::make`] gave, for nothing but the two addresses.
    /// It goes when either of them goes.
    ///
    /// # Errors
    /// The kernel's, with what was wanted of it.
    pub fn link(&self, one: (&OwnedFd, Ipv4Addr), other: (&OwnedFd, Ipv4Addr)) -> io::Result<()> {
        // Each end is called after the address behind it, which is one end's alone.
        let (name, peer) = (link_name(other.1), link_name(one.1));
        let there = self.socket_in(other.0)?;
        let here = self.socket_in(one.0)?;
        let pair = Pair { name: &name, peer: &peer, peer_in: other.0.as_fd(), mtu: self.mtu };
        here.add_pair(&pair).map_err(at("make a pair of links"))?;
        for (socket, name, own, behind) in
            [(&here, &name, one.1, other.1), (&there, &peer, other.1, one.1)]
        {
            let index = socket.index(name)?;
            // A kernel without IPv6 has nothing to switch off.
            let _ = socket.no_own_ipv6(index);
            // A namespace begins with the host's settings: on a router, steps that have a service in
            // common would reach each other through it.
            socket.make_dead_end(index).map_err(at("close a link to packets of others"))?;
            socket.set_up(index).map_err(at("switch on a link"))?;
            socket.add_peer(index, own, behind).map_err(at("give a link an address"))?;
        }
        Ok(())
    }

    fn socket_in(&self, namespace: &OwnedFd) -> io::Result<RouteSocket> {
        netns::enter(namespace).map_err(at("enter a step's network"))?;
        let socket = RouteSocket::open();
        netns::enter(&self.home).map_err(at("go back to the host's network"))?;
        socket
    }

    /// What has to be done in the new namespace.
    fn inside() -> io::Result<(OwnedFd, Leftovers, RouteSocket)> {
        ns::loopback_up().map_err(at("switch on loopback"))?;
        Ok((netns::current()?, Leftovers::open()?, RouteSocket::open()?))
    }

    /// Makes the pair of links: its two addresses are those whose name nobody has.
    fn connect(&mut self, namespace: &OwnedFd) -> io::Result<(Ipv4Addr, Ipv4Addr)> {
        for _ in 0..PLACES {
            let host = Ipv4Addr::from_bits(self.pool.to_bits() + 2 * self.next);
            self.next = (self.next + 1) % PLACES;
            let name = link_name(host);
            let pair =
                Pair { name: &name, peer: INSIDE, peer_in: namespace.as_fd(), mtu: self.mtu };
            match self.route.add_pair(&pair) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                done => {
                    done.map_err(at("make a pair of links"))?;
                    return Ok((host, Ipv4Addr::from_bits(host.to_bits() + 1)));
                }
            }
        }
        Err(io::Error::other(format!("{PLACES} steps have a network already")))
    }

    fn address(&self, inside: &RouteSocket, host: Ipv4Addr, step: Ipv4Addr) -> io::Result<()> {
        let (route, outer) = (&self.route, self.route.index(&link_name(host))?);
        let inner = inside.index(INSIDE)?;
        route.make_gateway(outer).map_err(at("let packets of a step pass"))?;
        // A kernel without IPv6 has nothing to switch off.
        let _ = route.no_own_ipv6(outer);
        let _ = inside.no_own_ipv6(inner);
        inside.make_dead_end(inner).map_err(at("close the step's link to packets of others"))?;
        inside.set_up(inner).map_err(at("switch on the step's link"))?;
        let mut ends = vec![(IpAddr::from(host), IpAddr::from(step), 31)];
        if self.ipv6 {
            ends.push((v6(host).into(), v6(step).into(), 127));
        }
        for (host, step, length) in ends {
            route
                .add_address(outer, Prefix { address: host, length })
                .map_err(at("give the host's end an address"))?;
            inside
                .add_address(inner, Prefix { address: step, length })
                .map_err(at("give the step's end an address"))?;
            inside.add_default_route(inner, host).map_err(at("give the step a route"))?;
        }
        Ok(())
    }
}

fn at(what: &'static str) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("cannot {what}: {e}"))
}

fn link_name(host: Ipv4Addr) -> String {
    format!("{OURS}{:08x}", host.to_bits())
}

fn v6(address: Ipv4Addr) -> Ipv6Addr {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&POOL6);
    bytes[12..].copy_from_slice(&address.octets());
    bytes.into()
}

fn is_default(route: &Route) -> bool {
    route.to.length == 0 && !route.local && !route.links.is_empty()
}

fn free_pool(routes: &[Route]) -> Option<Ipv4Addr> {
    POOLS.into_iter().find(|p| {
        let pool = Prefix::from((*p, POOL_LENGTH));
        routes.iter().filter(|r| r.to.length > 0).all(|r| !r.to.overlaps(&pool))
    })
}

/// Links by which this namespace reaches others.
fn uplinks<'a>(links: &'a [Link], routes: &[Route]) -> Vec<&'a str> {
    let has_route = |l: &Link| {
        let over = |r: &Route| r.links.contains(&l.index) && r.to.address.is_ipv4() && !r.local;
        routes.iter().any(over)
    };
    links.iter().filter(|l| l.name != "lo" && has_route(l)).map(|l| l.name.as_str()).collect()
}

/// The smallest of the links that lead everywhere: what fits there fits on the way.
fn mtu(links: &[Link], routes: &[Route]) -> u32 {
    let used = |l: &&Link| routes.iter().any(|r| is_default(r) && r.links.contains(&l.index));
    let least = links.iter().filter(used).map(|l| l.mtu).min();
    least.unwrap_or(MTU).clamp(LEAST_MTU, u16::MAX.into())
}

/// Whether steps get IPv6: there is a way out by it, and packets go on. On a host it is not
/// switched on for them: with it the host would no longer listen to its routers.
fn ipv6(owner: Owner, routes: &[Route]) -> bool {
    const ALL: &str = "ipv6/conf/all/forwarding";
    let leads_out = routes.iter().any(|r| is_default(r) && r.to.address.is_ipv6());
    leads_out
        && match owner {
            Owner::Host => netns::get(ALL).is_ok_and(|v| v == "1"),
            Owner::Build => netns::set(ALL, "1").is_ok(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, length: u8, link: u32, local: bool) -> Route {
        let to = Prefix { address: to.parse().unwrap(), length };
        Route { to, links: vec![link], local }
    }

    #[test]
    fn the_first_range_that_nobody_uses() {
        for (used, want) in [
            (vec![], Some(0)),
            (vec![("0.0.0.0", 0)], Some(0)),
            (vec![("10.213.130.7", 32)], Some(1)),
            (vec![("10.0.0.0", 8)], Some(2)),
            (vec![("10.0.0.0", 8), ("172.16.0.0", 12)], Some(3)),
            (vec![("10.0.0.0", 8), ("172.16.0.0", 12), ("192.168.0.0", 16)], None),
            (vec![("fd00::", 8)], Some(0)),
        ] {
            let routes: Vec<Route> = used.iter().map(|(a, l)| route(a, *l, 2, false)).collect();
            assert_eq!(free_pool(&routes), want.map(|n: usize| POOLS[n]), "{used:?}");
        }
    }

    #[test]
    fn ranges_begin_where_their_length_says() {
        for pool in POOLS {
            assert_eq!(pool.to_bits() % (2 * PLACES), 0, "{pool}");
            assert!(pool.is_private(), "{pool}");
        }
    }

    #[test]
    fn links_that_lead_out() {
        let link = |index, name: &str, mtu| Link { index, name: name.into(), mtu };
        let links = [
            link(1, "lo", 65536),
            link(2, "eth0", 1400),
            link(3, "wg0", 1420),
            link(4, "idle", 1500),
            link(5, "eth1", 9000),
        ];
        let routes = [
            route("127.0.0.0", 8, 1, false),
            route("0.0.0.0", 0, 2, false),
            route("10.1.0.0", 16, 3, false),
            route("10.2.0.1", 32, 4, true),
            route("::", 0, 5, false),
        ];
        assert_eq!(uplinks(&links, &routes), ["eth0", "wg0"]);
        assert_eq!(mtu(&links, &routes), 1400);
        assert_eq!(mtu(&links, &routes[2..]), 9000);
        assert_eq!(mtu(&links, &[]), 1500);
    }

    #[test]
    fn names_hold_the_address() {
        let name = link_name(Ipv4Addr::new(10, 213, 128, 2));
        assert_eq!(name, "rgraph0ad58002");
        assert!(name.len() < 16, "longer than the kernel's names");
        assert_eq!(v6(Ipv4Addr::new(10, 213, 128, 2)).to_string(), "fd72:6772:6170:6800::ad5:8002");
    }
}
