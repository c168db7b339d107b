//! `run -p`: ports of a container on the host.

use std::net::IpAddr;

use rgraph_runtime::container::{Protocol, Publish};

use super::error::OptionsError;

/// Most ports of one range.
const MOST: usize = 1000;

/// Reads `[[IP:]HOST:]PORT[/PROTOCOL]`; ports may be ranges of the same length.
pub fn publish(line: &str) -> Result<Vec<Publish>, OptionsError> {
    let wrong = |why: &str| OptionsError::value("--publish", line, why);
    let (rest, protocol) = line.split_once('/').unwrap_or((line, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => {
            return Err(OptionsError::Unsupported("`run --publish` with sctp".to_owned()));
        }
        _ => return Err(wrong("the protocol must be `tcp` or `udp`")),
    };
    let (rest, inner) = match rest.rsplit_once(':') {
        Some((rest, inner)) => (Some(rest), inner),
        None => (None, rest),
    };
    let (ip, outer) = match rest {
        None => (None, ""),
        Some(rest) => match rest.rsplit_once(':') {
            // `[::1]:80` has colons of its own.
            Some((ip, outer)) if !outer.ends_with(']') => (Some(ip), outer),
            _ if rest.contains(['.', '[']) => return Err(wrong("expected IP:HOST:PORT")),
            _ => (None, rest),
        },
    };
    let ip = match ip {
        None | Some("") => None,
        Some(ip) => {
            let bare = ip.strip_prefix('[').and_then(|i| i.strip_suffix(']')).unwrap_or(ip);
            let ip: IpAddr = bare.parse().map_err(|_| wrong("the address is none"))?;
            (!ip.is_unspecified() || ip.is_ipv6()).then_some(ip)
        }
    };
    let range = |text: &str| -> Result<Vec<u16>, OptionsError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |t: &str| match t.parse::<u16>() {
            Ok(n @ 1..) => Ok(n),
            _ => Err(wrong("expected ports from 1 to 65535")),
        };
        let all: Vec<u16> = (port(first)?..=port(last)?).collect();
        if all.is_empty() || all.len() > MOST {
            return Err(wrong("the range of ports is empty or too long"));
        }
        Ok(all)
    };
    let inner = range(inner)?;
    let outer = match outer {
        "" | "0" => vec![0; inner.len()],
        text => range(text)?,
    };
    if outer.len() != inner.len() {
        return Err(wrong("the two ranges of ports are not of the same length"));
    }
    Ok(outer
        .into_iter()
        .zip(inner)
        .map(|(host, container)| Publish { ip, host, container, protocol })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let p = |ip: Option<&str>, host, container| Publish {
            ip: ip.map(|i| i.parse().unwrap()),
            host,
            container,
            protocol: Protocol::Tcp,
        };
        let udp = |p: Publish| Publish { protocol: Protocol::Udp, ..p };
        for (line, want) in [
            ("80", vec![p(None, 0, 80)]),
            ("8080:80", vec![p(None, 8080, 80)]),
            ("8080:80/tcp", vec![p(None, 8080, 80)]),
            ("53:53/udp", vec![udp(p(None, 53, 53))]),
            ("127.0.0.1::53/UDP", vec![udp(p(Some("127.0.0.1"), 0, 53))]),
            ("0.0.0.0:8080:80", vec![p(None, 8080, 80)]),
            ("127.0.0.1::80", vec![p(Some("127.0.0.1"), 0, 80)]),
            ("127.0.0.1:81:80", vec![p(Some("127.0.0.1"), 81, 80)]),
            ("[::1]:81:80", vec![p(Some("::1"), 81, 80)]),
            ("81-82:1-2", vec![p(None, 81, 1), p(None, 82, 2)]),
        ] {
            assert_eq!(publish(line).unwrap(), want, "{line}");
        }
        for (line, part) in [
            ("80:80/sctp", "not supported yet"),
            ("80:80/x", "protocol"),
            ("", "expected ports"),
            ("0", "expected ports"),
            ("80:70000", "expected ports"),
            ("1-2:80", "same length"),
            ("9-8", "range"),
            ("1.2.3:80:80", "address"),
            ("127.0.0.1:80", "IP:HOST:PORT"),
        ] {
            let e = publish(line).unwrap_err().to_string();
            assert!(e.contains(part), "{line}: {e}");
        }
    }
}
