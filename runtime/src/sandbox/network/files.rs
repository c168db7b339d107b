//! `/etc/hosts` and `/etc/resolv.conf` of a step.

use std::fmt::Write;
use std::net::IpAddr;

use super::Facts;
use crate::sandbox::spec::{Dns, ExtraHost, Network};

/// Used when the host's only name servers cannot be reached from the step.
const PUBLIC_NAMESERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// The host's file.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where the servers stand when [`RESOLV_CONF`] names a resolver on the host's loopback only:
/// systemd-resolved's, NetworkManager's.
const BEHIND_LOOPBACK: [&str; 2] =
    ["/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];
/// The address that stands for the host.
const HOST_GATEWAY: &str = "host-gateway";

/// `/etc/hosts` of a step. Where the host cannot be reached its names are left out.
pub(in crate::sandbox) fn hosts(
    hostname: &str,
    extra: &[ExtraHost],
    network: Network,
    facts: Option<&Facts>,
) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let host = match network {
        Network::Host => Some(IpAddr::from([127, 0, 0, 1])),
        Network::Private => facts.and_then(|f| f.host),
        Network::None => None,
    };
    for (name, ip) in facts.iter().flat_map(|f| &f.near) {
        let _ = writeln!(text, "{ip}\t{name}");
    }
    for ExtraHost { host: name, ip } in extra {
        let _ = match (ip.as_str(), host) {
            (HOST_GATEWAY, Some(host)) => writeln!(text, "{host}\t{name}"),
            (HOST_GATEWAY, None) => Ok(()),
            (ip, _) => writeln!(text, "{ip}\t{name}"),
        };
    }
    text
}

/// `/etc/resolv.conf` of a step, from what the build asks for and the host's files, which `read`
/// gives (empty: not there).
pub(in crate::sandbox) fn resolv_conf<E>(
    network: Network,
    facts: Option<&Facts>,
    dns: &Dns,
    read: impl Fn(&str) -> Result<String, E>,
) -> Result<String, E> {
    let host = read(RESOLV_CONF)?;
    let mut servers: Vec<String> = dns.nameservers.clone();
    if servers.is_empty() {
        servers = match (network, facts.and_then(|f| f.resolver)) {
            (Network::Host, _) => values(&host, "nameserver"),
            (_, Some(resolver)) => vec![resolver.to_string()],
            (_, None) => reachable(&host, facts, read)?,
        };
    }
    let or_host = |list: &[String], key| match list {
        [] => values(&host, key),
        list => list.to_vec(),
    };
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (key, list) in [("search", &dns.search), ("options", &dns.options)] {
        let list = or_host(list, key);
        if !list.is_empty() {
            let _ = writeln!(text, "{key} {}", list.join(" "));
        }
    }
    Ok(text)
}

fn values(text: &str, key: &str) -> Vec<String> {
    text.lines()
        .filter_map(|l| l.trim().strip_prefix(key).filter(|r| r.starts_with([' ', '\t'])))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

/// The host's servers but for those that only the host can ask.
fn reachable<E>(
    host: &str,
    facts: Option<&Facts>,
    read: impl Fn(&str) -> Result<String, E>,
) -> Result<Vec<String>, E> {
    let ipv6 = facts.is_none_or(|f| f.ipv6);
    let can_ask = |server: &String| match server.parse::<IpAddr>() {
        Ok(ip) => !ip.is_loopback() && (ipv6 || ip.is_ipv4()),
        // An address of one link, which the step does not have.
        Err(_) => false,
    };
    let of = |text: &str| -> Vec<String> {
        values(text, "nameserver").into_iter().filter(can_ask).collect()
    };
    let mut servers = of(host);
    for path in BEHIND_LOOPBACK {
        if servers.is_empty() {
            servers = of(&read(path)?);
        }
    }
    if servers.is_empty() {
        servers = PUBLIC_NAMESERVERS.map(str::to_owned).to_vec();
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const HOST: Network = Network::Host;
    const NONE: Network = Network::None;
    const PRIVATE: Network = Network::Private;

    fn facts(resolver: Option<&str>, ipv6: bool) -> Facts {
        let host = Some("10.9.9.8".parse().unwrap());
        let resolver = resolver.map(|r| r.parse().unwrap());
        Facts { own: [10, 9, 9, 9].into(), host, resolver, ipv6, near: vec![] }
    }

    #[test]
    fn resolv_conf_takes_what_is_given_and_the_rest_from_the_host() {
        let host = "# x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch a b\noptions edns0\n";
        let only_local = "nameserver ::1\nnameservers 1.2.3.4\n";
        let six = "nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver 9.9.9.9\n";
        let own = Dns { nameservers: vec!["1.1.1.1".into()], ..Dns::default() };
        let search = Dns { search: vec!["z".into()], ..Dns::default() };
        let none = Dns::default();
        let (plain, pasta, with6) =
            (facts(None, false), facts(Some("169.254.1.1"), false), facts(None, true));
        let public = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";
        for (network, facts, dns, host, want) in [
            (
                HOST,
                None,
                &none,
                host,
                "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch a b\noptions edns0\n",
            ),
            (NONE, None, &none, host, "nameserver 10.0.0.1\nsearch a b\noptions edns0\n"),
            (NONE, None, &none, only_local, public),
            (HOST, None, &own, host, "nameserver 1.1.1.1\nsearch a b\noptions edns0\n"),
            (HOST, None, &search, only_local, "nameserver ::1\nsearch z\n"),
            (PRIVATE, Some(&plain), &none, only_local, public),
            (PRIVATE, Some(&plain), &own, only_local, "nameserver 1.1.1.1\n"),
            (PRIVATE, Some(&plain), &none, six, "nameserver 9.9.9.9\n"),
            (PRIVATE, Some(&with6), &none, six, "nameserver 2001:db8::1\nnameserver 9.9.9.9\n"),
            (
                PRIVATE,
                Some(&pasta),
                &search,
                host,
                "nameserver 169.254.1.1\nsearch z\noptions edns0\n",
            ),
        ] {
            let read = |path: &str| -> Result<String, Infallible> {
                Ok(if path == RESOLV_CONF { host.to_owned() } else { String::new() })
            };
            assert_eq!(resolv_conf(network, facts, dns, read), Ok(want.to_owned()));
        }
    }

    #[test]
    fn servers_behind_a_resolver_on_loopback() {
        for (behind, want) in [
            ("/run/systemd/resolve/resolv.conf", "nameserver 10.7.7.7\n"),
            ("/run/NetworkManager/no-stub-resolv.conf", "nameserver 10.7.7.7\n"),
            ("/elsewhere", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ] {
            let read = |path: &str| -> Result<String, Infallible> {
                Ok(match path {
                    RESOLV_CONF => "nameserver 127.0.0.53\n".to_owned(),
                    path if path == behind => "nameserver 10.7.7.7\n".to_owned(),
                    _ => String::new(),
                })
            };
            let text = resolv_conf(PRIVATE, Some(&facts(None, false)), &Dns::default(), read);
            assert_eq!(text, Ok(want.to_owned()), "{behind}");
        }
    }

    #[test]
    fn hosts_ends_with_the_extra_names() {
        let extra = |ip: &str| [ExtraHost { host: "db".into(), ip: ip.into() }];
        let (plain, none) = (facts(None, false), None);
        let near =
            Facts { near: vec![("cache".into(), [10, 9, 9, 7].into())], ..facts(None, false) };
        for (network, facts, ip, want) in [
            (HOST, none, "10.1.1.1", "10.1.1.1\tdb\n"),
            (HOST, none, HOST_GATEWAY, "127.0.0.1\tdb\n"),
            (NONE, none, HOST_GATEWAY, ""),
            (PRIVATE, Some(&plain), HOST_GATEWAY, "10.9.9.8\tdb\n"),
            (PRIVATE, Some(&plain), "fd00::1", "fd00::1\tdb\n"),
            (PRIVATE, Some(&near), "10.1.1.1", "10.9.9.7\tcache\n10.1.1.1\tdb\n"),
        ] {
            let begin = "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n";
            assert_eq!(hosts("box", &extra(ip), network, facts), format!("{begin}{want}"));
        }
    }
}
