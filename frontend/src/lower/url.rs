//! URLs as Go's `net/url` reads and prints them (RFC 3986 with its exceptions): repositories and
//! downloads are named by the printed form.

use std::net::Ipv6Addr;

/// A URL with an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    /// Lower case.
    pub scheme: String,
    /// Host and port, decoded.
    pub host: String,
    /// Decoded.
    pub path: String,
    /// As written, without the `?`.
    pub query: String,
    /// Decoded.
    pub fragment: String,
    /// All but query and fragment, printed anew.
    pub remote: String,
}

/// Where a character stands decides whether it is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Zone,
    Path,
    User,
    Fragment,
}

impl Url {
    /// Reads `scheme://[user@]host[/path][?query][#fragment]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        if text.bytes().any(|b| b.is_ascii_control()) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let mut letters = scheme.bytes();
        if !letters.next()?.is_ascii_alphabetic()
            || !letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        // A `?` with nothing behind it is printed again.
        let lone = rest.ends_with('?') && rest.matches('?').count() == 1;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, raw) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user_info(user)?), host),
            None => (None, authority),
        };
        let host = read_host(host, scheme.starts_with("http"))?;
        let path = decoded(raw, Part::Path)?;
        let mut remote = format!("{scheme}:");
        if !host.is_empty() || !path.is_empty() || user.is_some() {
            remote.push_str("//");
        }
        if let Some(user) = user {
            remote.push_str(&user);
            remote.push('@');
        }
        escape(&host, Part::Host, &mut remote);
        if raw.bytes().all(stands_in_path) {
            remote.push_str(raw);
        } else {
            escape(&path, Part::Path, &mut remote);
        }
        if lone {
            remote.push('?');
        }
        let fragment = decoded(fragment, Part::Fragment)?;
        Some(Self { scheme, host, path, query: query.to_owned(), fragment, remote })
    }
}

/// Name and password, printed anew.
fn user_info(text: &str) -> Option<String> {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    if !text.bytes().all(valid) {
        return None;
    }
    let (name, password) = match text.split_once(':') {
        Some((n, p)) => (n, Some(p)),
        None => (text, None),
    };
    let mut out = String::new();
    escape(&decoded(name, Part::User)?, Part::User, &mut out);
    if let Some(p) = password {
        out.push(':');
        escape(&decoded(p, Part::User)?, Part::User, &mut out);
    }
    Some(out)
}

/// `strict`: one colon at most.
fn read_host(text: &str, strict: bool) -> Option<String> {
    let port = |p: &str| match p.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
        None => p.is_empty(),
    };
    match text.rfind('[') {
        Some(0) => {
            let (address, after) = text[1..].rsplit_once(']')?;
            if !port(after) {
                return None;
            }
            let (address, zone) = match address.find("%25") {
                Some(i) => address.split_at(i),
                None => (address, ""),
            };
            let address = decoded(address, Part::Host)?;
            let zone = decoded(zone, Part::Zone)?;
            address.parse::<Ipv6Addr>().ok().filter(|_| zone != "%")?;
            Some(format!("[{address}{zone}]{after}"))
        }
        Some(_) => None,
        None => match if strict { text.split_once(':') } else { text.rsplit_once(':') } {
            Some((_, p)) if !p.bytes().all(|b| b.is_ascii_digit()) => None,
            _ => decoded(text, Part::Host),
        },
    }
}

/// What need not be escaped in a path that is printed as it was written.
fn stands_in_path(b: u8) -> bool {
    b"[]%".contains(&b) || b"!'()*".contains(&b) || !escaped(b, Part::Path)
}

fn escaped(b: u8, part: Part) -> bool {
    match b {
        b'-' | b'_' | b'.' | b'~' => false,
        b if b.is_ascii_alphanumeric() => false,
        b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'<' | b'>' | b'"'
            if matches!(part, Part::Host | Part::Zone) =>
        {
            false
        }
        b'$' | b'&' | b'+' | b',' | b':' | b';' | b'=' => part == Part::User && b == b':',
        b'/' | b'?' | b'@' => match part {
            Part::Path => b == b'?',
            Part::Fragment => false,
            Part::Host | Part::Zone | Part::User => true,
        },
        b'!' | b'(' | b')' | b'*' => part != Part::Fragment,
        _ => true,
    }
}

fn escape(text: &str, part: Part, out: &mut String) {
    for b in text.bytes() {
        match escaped(b, part) {
            true => out.push_str(&format!("%{b:02X}")),
            false => out.push(b.into()),
        }
    }
}

/// Undoes `%XX`; `None` for what is none, and for results that are no text.
fn decoded(text: &str, part: Part) -> Option<String> {
    let host = matches!(part, Part::Host | Part::Zone);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b != b'%' {
            if host && b.is_ascii() && escaped(b, part) {
                return None;
            }
            out.push(b);
            continue;
        }
        let hex = tail.get(..2).filter(|h| h.iter().all(u8::is_ascii_hexdigit))?;
        let value = u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
        // In a host only what is no ASCII may be written so, and the `%` itself.
        let allowed = match part {
            Part::Host => value >= 0x80 || hex == b"25",
            Part::Zone => hex == b"25" || value == b' ' || !escaped(value, Part::Host),
            _ => true,
        };
        if !allowed {
            return None;
        }
        out.push(value);
        rest = &tail[2..];
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_anew() {
        for (text, want) in [
            ("https://h/a/b.git#v1", "https://h/a/b.git"),
            ("HTTPS://H/a?x=1", "https://H/a"),
            ("https://h/a.git?", "https://h/a.git?"),
            ("https://h/a?b?", "https://h/a"),
            ("https://u:p@h:80/a", "https://u:p@h:80/a"),
            ("ssh://u:p@q@h/a", "ssh://u:p%40q@h/a"),
            ("https://h/a b|é", "https://h/a%20b%7C%C3%A9"),
            ("https://h/a%20b[c]", "https://h/a%20b[c]"),
            ("https://h/%7E(x)!", "https://h/%7E(x)!"),
            ("https://h%C3%A9/a", "https://h%C3%A9/a"),
            ("https://[::1]:8/a", "https://[::1]:8/a"),
            ("git://a:1:2/a", "git://a:1:2/a"),
            ("https://", "https:"),
        ] {
            assert_eq!(Url::parse(text).unwrap().remote, want, "{text}");
        }
        for bad in [
            "h/a",
            "1h://a",
            "https://h:x/a",
            "https://a:1:2/a",
            "https://a[b]/",
            "https://[::1/a",
            "https://[1.2.3.4]/",
            "https://h%41/a",
            "https://h^/a",
            "https://u%zz@h/a",
            "https://u^@h/a",
            "https://h/%zz",
            "https://h/a#%zz",
            "https://h/a\u{7f}",
        ] {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
        let url = Url::parse("https://h%C3%A9/a%2Fb?q=%41#%41").unwrap();
        assert_eq!((url.host.as_str(), url.path.as_str()), ("hé", "/a/b"));
        assert_eq!((url.query.as_str(), url.fragment.as_str()), ("q=%41", "A"));
    }
}
