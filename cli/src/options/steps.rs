//! Flags that reach every step: hosts, limits, network, grants.

use std::net::IpAddr;

use rgraph_ir::op::{HostIp, NetworkMode, Ulimit};
use rgraph_ir::request::Entitlements;

use super::error::OptionsError;
use super::parse_size;

/// The address that stands for this machine, resolved when a step is made.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Reads `--add-host HOST:IP` or `HOST=IP`; IPv6 with or without brackets.
pub fn host(text: &str) -> Result<HostIp, OptionsError> {
    let bad = |why: &str| {
        OptionsError::value("--add-host", text, why).with_help("`--add-host NAME:ADDRESS`")
    };
    let cut = if text.contains('=') { '=' } else { ':' };
    let (host, ip) = text.split_once(cut).ok_or_else(|| bad("expected NAME:ADDRESS"))?;
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(bad("this is not a host name"));
    }
    let inner = ip.strip_prefix('[').and_then(|i| i.strip_suffix(']'));
    let ip = if ip == HOST_GATEWAY {
        ip.to_owned()
    } else {
        let addr: IpAddr =
            inner.unwrap_or(ip).parse().map_err(|_| bad("this is not an address"))?;
        if inner.is_some() && addr.is_ipv4() {
            return Err(bad("brackets are for IPv6"));
        }
        addr.to_string()
    };
    Ok(HostIp { host: host.to_owned(), ip })
}

const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Reads `--ulimit TYPE=SOFT[:HARD]`; one number is both, -1 is no limit.
pub fn ulimit(text: &str) -> Result<Ulimit, OptionsError> {
    const FLAG: &str = "--ulimit";
    let bad =
        |why: &str| OptionsError::value(FLAG, text, why).with_help("`--ulimit TYPE=SOFT[:HARD]`");
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("expected TYPE=SOFT[:HARD]"))?;
    if !ULIMITS.contains(&name) {
        return Err(OptionsError::value(FLAG, text, format!("unknown type `{name}`"))
            .with_help(super::error::did_you_mean(name, ULIMITS)));
    }
    let number = |s: &str| {
        s.parse::<i64>().ok().filter(|n| *n >= -1).ok_or_else(|| bad("expected a number or -1"))
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(bad("the soft limit is above the hard one"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// Reads `--shm-size`. `None`: the usual, for which Docker writes 0.
pub fn shm_size(text: &str) -> Result<Option<u64>, OptionsError> {
    let bytes = parse_size(text).map_err(|why| OptionsError::value("--shm-size", text, why))?;
    Ok(Some(bytes).filter(|b| *b > 0))
}

/// Reads `--network`.
pub fn network(text: &str) -> Result<NetworkMode, OptionsError> {
    match text {
        "" | "default" => Ok(NetworkMode::Default),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => Err(OptionsError::word("--network", text, "network", &["default", "none", "host"])),
    }
}

/// Reads every `--allow`, each a comma list.
pub fn entitlements(lines: &[String]) -> Result<Entitlements, OptionsError> {
    let known = ["network.host", "security.insecure", "device", "local.delete"];
    let mut out = Entitlements::default();
    for word in lines.iter().flat_map(|l| l.split(',')).map(str::trim) {
        match word.split_once('=').unwrap_or((word, "")) {
            ("network.host", "") => out.network_host = true,
            ("security.insecure", "") => out.security_insecure = true,
            ("device", "") => out.devices = Some(Vec::new()),
            ("device", name) => match &mut out.devices {
                // All of them already.
                Some(names) if names.is_empty() => {}
                names => names.get_or_insert_default().push(name.to_owned()),
            },
            // Nothing here deletes in a destination, so there is nothing to grant.
            ("local.delete", "") => {}
            _ => return Err(OptionsError::word("--allow", word, "entitlement", &known)),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, want) in [
            ("db:10.0.0.1", Some(("db", "10.0.0.1"))),
            ("db=10.0.0.1", Some(("db", "10.0.0.1"))),
            ("c:2001:db8::1", Some(("c", "2001:db8::1"))),
            ("c=2001:DB8:0::1", Some(("c", "2001:db8::1"))),
            ("c:[::1]", Some(("c", "::1"))),
            ("c=[::1]", Some(("c", "::1"))),
            ("h:host-gateway", Some(("h", "host-gateway"))),
            ("h", None),
            ("h:", None),
            (":1.2.3.4", None),
            ("h:1.2.3", None),
            ("h:[1.2.3.4]", None),
            ("h:[::1", None),
            ("a b:1.2.3.4", None),
            ("a\nb:1.2.3.4", None),
        ] {
            let got = host(text).ok().map(|h| (h.host, h.ip));
            assert_eq!(got, want.map(|(h, i)| (h.to_owned(), i.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn limits() {
        for (text, want) in [
            ("nofile=1024:2048", Some((1024, 2048))),
            ("nproc=64", Some((64, 64))),
            ("core=0:-1", Some((0, -1))),
            ("core=-1", Some((-1, -1))),
            ("core=-1:5", None),
            ("nofile=2:1", None),
            ("nofile", None),
            ("nofile=", None),
            ("nofile=1:2:3", None),
            ("nofil=1", None),
            ("nofile=-2", None),
        ] {
            assert_eq!(ulimit(text).ok().map(|u| (u.soft, u.hard)), want, "{text:?}");
        }
        assert_eq!(ulimit("nofil=1").unwrap_err().help(), Some("did you mean `nofile`?"));
    }

    #[test]
    fn grants() {
        let grant = |words: &[&str]| {
            entitlements(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        };
        let e = grant(&["network.host,security.insecure", "device=a", "device=b"]).unwrap();
        assert!(e.network_host && e.security_insecure);
        assert_eq!(e.devices, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(grant(&["device", "device=a"]).unwrap().devices, Some(vec![]));
        assert_eq!(grant(&[]).unwrap(), Entitlements::default());
        let help = grant(&["network.hots"]).unwrap_err();
        assert_eq!(help.help(), Some("did you mean `network.host`?"));
        assert_eq!(network("hst").unwrap_err().help(), Some("did you mean `host`?"));
    }
}
