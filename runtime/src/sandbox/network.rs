//! The network of a step. A private network with a way out will be a third case here.

use std::fmt::Write;
use std::net::IpAddr;

use rgraph_sys::ns;
use rgraph_sys::spawn::Namespaces;

use super::error::InitError;
use super::spec::{Dns, ExtraHost, Network, SandboxSpec};

/// Used when the host's only name servers cannot be reached from the step.
const PUBLIC_NAMESERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// The namespaces that a child with this network needs.
pub(super) fn namespaces(network: Network) -> Namespaces {
    Namespaces { network: network == Network::None }
}

/// Called in the child.
pub(super) fn configure(network: Network) -> Result<(), InitError> {
    match network {
        Network::Host => Ok(()),
        Network::None => ns::loopback_up().map_err(InitError::at("switch on loopback")),
    }
}

/// `/etc/hosts` of a step.
pub(super) fn hosts(hostname: &str, extra: &[ExtraHost]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for ExtraHost { host, ip } in extra {
        let _ = writeln!(text, "{ip}\t{host}");
    }
    text
}

/// `/etc/resolv.conf` of a step, from what the build asks for and the host's file.
pub(super) fn resolv_conf(network: Network, dns: &Dns, host: &str) -> String {
    let values = |key: &str| -> Vec<&str> {
        host.lines()
            .filter_map(|l| l.trim().strip_prefix(key).filter(|r| r.starts_with([' ', '\t'])))
            .flat_map(str::split_whitespace)
            .collect()
    };
    fn given(list: &[String]) -> Vec<&str> {
        list.iter().map(String::as_str).collect()
    }
    let mut servers = given(&dns.nameservers);
    if servers.is_empty() {
        servers = values("nameserver");
        if network != Network::Host {
            // A resolver on the host's loopback is not the step's.
            servers.retain(|s| !is_loopback(s));
            if servers.is_empty() {
                servers = PUBLIC_NAMESERVERS.to_vec();
            }
        }
    }
    let mut search = given(&dns.search);
    if search.is_empty() {
        search = values("search");
    }
    let mut options = given(&dns.options);
    if options.is_empty() {
        options = values("options");
    }
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (key, list) in [("search", search), ("options", options)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{key} {}", list.join(" "));
        }
    }
    text
}

fn is_loopback(server: &str) -> bool {
    server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host name of a step.
pub(super) fn hostname(spec: &SandboxSpec) -> &str {
    if spec.hostname.is_empty() { SandboxSpec::HOSTNAME } else { &spec.hostname }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_takes_what_is_given_and_the_rest_from_the_host() {
        let host = "# x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch a b\noptions edns0\n";
        let only_local = "nameserver ::1\nnameservers 1.2.3.4\n";
        let own = Dns { nameservers: vec!["1.1.1.1".into()], ..Dns::default() };
        let search = Dns { search: vec!["z".into()], ..Dns::default() };
        let none = Dns::default();
        for (network, dns, host, want) in [
            (
                Network::Host,
                &none,
                host,
                "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch a b\noptions edns0\n",
            ),
            (Network::None, &none, host, "nameserver 10.0.0.1\nsearch a b\noptions edns0\n"),
            (Network::None, &none, only_local, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
            (Network::Host, &own, host, "nameserver 1.1.1.1\nsearch a b\noptions edns0\n"),
            (Network::Host, &search, only_local, "nameserver ::1\nsearch z\n"),
        ] {
            assert_eq!(resolv_conf(network, dns, host), want);
        }
    }

    #[test]
    fn hosts_ends_with_the_extra_names() {
        let extra = [ExtraHost { host: "db".into(), ip: "10.1.1.1".into() }];
        assert_eq!(
            hosts("box", &extra),
            "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.1.1\tdb\n"
        );
    }
}
