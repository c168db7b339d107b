//! Ports of `EXPOSE`: `[ip:][host:]PORT[-PORT][/PROTO]`.

use std::net::IpAddr;

/// One word of `EXPOSE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    first: u16,
    last: u16,
    /// As written; empty: tcp.
    pub proto: String,
    /// It names an address or a host port too.
    pub mapped: bool,
}

impl Port {
    /// `80/tcp` for every port.
    pub fn list(&self) -> Vec<String> {
        let proto = self.proto.to_lowercase();
        (self.first..=self.last).map(|p| format!("{p}/{proto}")).collect()
    }
}

/// Reads one word.
pub(super) fn parse(text: &str) -> Result<Port, String> {
    let mut parts = text.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let (host, ip) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (range, proto) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(format!("invalid port: \"{text}\": no port specified"));
    }
    let proto = match proto.to_lowercase().as_str() {
        "" => "tcp",
        "tcp" | "udp" | "sctp" => proto,
        _ => return Err(format!("invalid port: \"{text}\": invalid proto: {proto}")),
    };
    let bare = ip.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) =
        self::range(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if !host.is_empty() {
        let (a, b) = self::range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if b - a != last - first && last != first {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {range} and {host}"
            ));
        }
    }
    let mapped = !ip.is_empty() || !host.is_empty();
    Ok(Port { first, last, proto: proto.to_owned(), mapped })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (a, b) = text.split_once('-').unwrap_or((text, text));
    let (a, b) = (a.parse().ok()?, b.parse().ok()?);
    (a <= b).then_some((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, want) in [
            ("80", "80/tcp"),
            ("53/UDP", "53/udp"),
            ("80-82", "80/tcp 81/tcp 82/tcp"),
            ("127.0.0.1:8080:80", "80/tcp"),
            ("[::1]:8080:80/sctp", "80/sctp"),
        ] {
            assert_eq!(parse(text).unwrap().list().join(" "), want, "{text}");
        }
        for bad in ["", "x", "65536", "82-80", "80/foo", "/tcp", "1:2-3:4-9", "zz:1:2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
