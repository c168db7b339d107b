//! What lets the packets of steps through: a table of the packet filter, other people's firewalls,
//! the kernel's own passing on.

use std::io;

use rgraph_sys::netlink::filter::{
    self, Chain, ChainName, FilterSocket, Hook, Match, Name, Rule, Verdict,
};
use rgraph_sys::netns;

use super::NoNetwork;
use super::uplink::{OURS, Owner};

/// The table of the packet filter. Another name when its rules change.
const TABLE: &str = "rgraph";
/// Its chain for what comes in by links that were closed before.
const NEIGHBOURS: &str = "neighbours";

pub(super) fn no_filter(e: io::Error) -> NoNetwork {
    let (cause, help) = match e.kind() {
        io::ErrorKind::PermissionDenied => {
            ("no right to set up a network (CAP_NET_ADMIN)", "give rgraph that right")
        }
        _ => (
            "the kernel's packet filter nf_tables is missing",
            "use a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ and CONFIG_VETH",
        ),
    };
    NoNetwork { cause: format!("{cause}: {e}"), help: help.into() }
}

pub(super) fn no_forwarding(e: io::Error) -> NoNetwork {
    NoNetwork {
        cause: format!("packets are not passed on, and that cannot be changed: {e}"),
        help: "set net.ipv4.ip_forward to 1".into(),
    }
}

/// All that steps send gets the address of the link by which it leaves; nobody else may begin to
/// talk to a step, another step neither.
///
/// In a namespace of ours a packet that belongs to no connection is not answered either. `pasta` of 2023
/// sends one without any flag now and then, for a connection whose other end is far; its address is not
/// translated back, so it would be this namespace that answers, with an end of that connection.
pub(super) fn make_table(filter: &FilterSocket, owner: Owner) -> Result<(), NoNetwork> {
    if filter.has_table(filter::INET, TABLE).map_err(no_filter)? {
        return Ok(());
    }
    let (from, to) = (Match::Input(Name::Begins(OURS)), Match::Output(Name::Begins(OURS)));
    let input = Chain {
        name: "input",
        hook: Hook::Input,
        nat: false,
        rules: &[(&[Match::Invalid], Verdict::Drop)],
    };
    let chains = [
        Chain {
            name: "forward",
            hook: Hook::Forward,
            nat: false,
            rules: &[(&[from, to], Verdict::Drop), (&[to, Match::NewConnection], Verdict::Drop)],
        },
        Chain { name: NEIGHBOURS, hook: Hook::Forward, nat: false, rules: &[] },
        Chain {
            name: "postrouting",
            hook: Hook::Postrouting,
            nat: true,
            rules: &[(&[from, Match::OutputNot(Name::Begins(OURS))], Verdict::Masquerade)],
        },
    ];
    let own = (owner == Owner::Build).then_some(input);
    let chains: Vec<_> = chains.into_iter().chain(own).collect();
    filter.add_table(filter::INET, TABLE, &chains).map_err(no_filter)
}

/// Firewalls that drop what they do not know, those made with `iptables` (Docker's, ufw's).
///
/// # Errors
/// When there is another, which is not ours to change.
pub(super) fn own_firewalls(filter: &FilterSocket) -> Result<Vec<ChainName>, NoNetwork> {
    let chains = filter.dropping_forward_chains().map_err(no_filter)?;
    for chain in chains.iter().filter(|c| c.family != filter::IPV6) {
        if !is_iptables(chain) {
            return Err(NoNetwork {
                cause: format!(
                    "the firewall's chain `{}` of table `{}` drops forwarded packets",
                    chain.name, chain.table
                ),
                help: format!("accept there what comes from or goes to links `{OURS}*`"),
            });
        }
    }
    Ok(chains.into_iter().filter(is_iptables).collect())
}

/// Tells firewalls of our links, as Docker tells them of its own. Our own table still drops what
/// must not come in.
pub(super) fn pass_firewalls(filter: &FilterSocket) -> Result<(), NoNetwork> {
    for chain in &own_firewalls(filter)? {
        let failed = |e| NoNetwork {
            cause: format!("the firewall drops forwarded packets, and that cannot be changed: {e}"),
            help: format!("accept there what comes from or goes to links `{OURS}*`"),
        };
        if filter.count(chain, OURS).map_err(failed)? > 0 {
            continue;
        }
        let name = Name::Begins(OURS);
        let rules: [Rule<'_>; 2] =
            [(&[Match::Output(name)], Verdict::Accept), (&[Match::Input(name)], Verdict::Accept)];
        filter.prepend(chain, OURS, &rules).map_err(failed)?;
    }
    Ok(())
}

fn is_iptables(chain: &ChainName) -> bool {
    chain.table == "filter" && chain.name == "FORWARD"
}

/// Lets packets that come in by the uplinks go on to steps, and nowhere else if they did not before.
pub(super) fn forward(filter: &FilterSocket, uplinks: &[&str]) -> Result<Vec<String>, NoNetwork> {
    let neighbours =
        ChainName { family: filter::INET, table: TABLE.into(), name: NEIGHBOURS.into() };
    if netns::get("ipv4/ip_forward").is_ok_and(|v| v == "1") {
        // Somebody made this host a router since we kept it from being one.
        if filter.count(&neighbours, OURS).map_err(no_filter)? > 0 {
            filter.clear(&neighbours).map_err(no_filter)?;
        }
        return Ok(Vec::new());
    }
    let setting = |link: &str| format!("ipv4/conf/{link}/forwarding");
    let off = |l: &&&str| netns::get(&setting(l)).is_ok_and(|v| v == "0");
    let off: Vec<&str> = uplinks.iter().filter(off).copied().collect();
    if off.is_empty() {
        return Ok(Vec::new());
    }
    let ways = off.iter().flat_map(|from| uplinks.iter().map(move |to| (from, to)));
    let ways: Vec<_> = ways
        .map(|(from, to)| [Match::Input(Name::Is(from)), Match::Output(Name::Is(to))])
        .collect();
    let rules: Vec<Rule<'_>> = ways.iter().map(|w| (&w[..], Verdict::Drop)).collect();
    filter.prepend(&neighbours, OURS, &rules).map_err(no_filter)?;
    for link in &off {
        netns::set(&setting(link), "1").map_err(no_forwarding)?;
    }
    Ok(vec![format!(
        "steps have a network of their own: packets that come in by {} are now passed on to it \
         (net.ipv4.conf.*.forwarding)",
        off.join(", ")
    )])
}
