//! Image references, strict: distribution's grammar (`reference.go` of the distribution project) and
//! Docker's familiar names. No transport prefixes; a tag is never a path.

use std::fmt;
use std::str::FromStr;

use crate::digest::ManifestDigest;

/// A parsed, normalised reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`, ...
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    /// `None` only when a digest is given without a tag.
    pub tag: Option<String>,
    /// What it is pinned to.
    pub digest: Option<ManifestDigest>,
}

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceError {
    /// The text, cut.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid reference format: `{}`: {}", self.text, self.why)
    }
}

impl std::error::Error for ReferenceError {}

/// Longest repository in bytes, without the registry.
const MAX_REPOSITORY: usize = 255;

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Reads `[registry/]repository[:tag][@sha256:...]`; the tag defaults to `latest` when there is
    /// no digest either.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let err = |why| ReferenceError { text: text.chars().take(128).collect(), why };
        if text.is_empty() {
            return Err(err("it is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, d)) => {
                let d = d.parse().map_err(|_| err("the digest is not sha256 and 64 hex digits"))?;
                (rest, Some(d))
            }
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return Err(err(
                "a tag has up to 128 letters, digits, `_`, `.`, `-` and does not start with `.` or `-`",
            ));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if is_host(host) => (host, rest.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        if name.bytes().any(|b| b.is_ascii_uppercase())
            && repository.bytes().any(|b| b.is_ascii_uppercase())
        {
            return Err(err("repository name must be lowercase"));
        }
        // What is no host may be a folder of a repository without one: it is printed the same.
        if !valid_host(registry) && !valid_component(registry) {
            return Err(err("the registry is not a host name with an optional port"));
        }
        if repository.is_empty() || !repository.split('/').all(valid_component) {
            return Err(err(
                "a repository is made of lower-case letters and digits, separated by `.`, `_`, `__`, `-` or `/`",
            ));
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(err("64 hex digits are an image id, not a name"));
        }
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        let bare = !valid_host(registry);
        if repository.len() + if bare { registry.len() + 1 } else { 0 } > MAX_REPOSITORY {
            return Err(err("the repository is longer than 255 bytes"));
        }
        let tag = match (tag, &digest) {
            (Some(t), _) => Some(t.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

fn is_host(s: &str) -> bool {
    s == "localhost" || s.contains(['.', ':']) || s.bytes().any(|b| b.is_ascii_uppercase())
}

fn valid_host(s: &str) -> bool {
    let (host, port) = if let Some(v6) = s.strip_prefix('[') {
        let Some((addr, rest)) = v6.split_once(']') else { return false };
        if addr.is_empty()
            || !addr.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        {
            return false;
        }
        return rest.is_empty() || rest.strip_prefix(':').is_some_and(valid_port);
    } else {
        match s.split_once(':') {
            Some((h, p)) => (h, Some(p)),
            None => (s, None),
        }
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(valid_port)
}

fn valid_port(p: &str) -> bool {
    !p.is_empty() && p.len() <= 5 && p.parse::<u16>().is_ok()
}

fn valid_component(c: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = c.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    let mut i = 0;
    while i < bytes.len() {
        if alnum(bytes[i]) {
            i += 1;
            continue;
        }
        let sep = bytes[i..].iter().take_while(|b| !alnum(**b)).count();
        let s = &c[i..i + sep];
        if !(s == "." || s == "_" || s == "__" || s.bytes().all(|b| b == b'-')) {
            return false;
        }
        i += sep;
    }
    true
}

fn valid_tag(t: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    t.len() <= 128
        && t.bytes().next().is_some_and(word)
        && t.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

impl Reference {
    /// Registry and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// As Docker prints it: without `docker.io/library/`, with tag and digest as given.
    pub fn familiar(&self) -> String {
        let mut s = self.familiar_name();
        if let Some(t) = &self.tag {
            s.push(':');
            s.push_str(t);
        }
        if let Some(d) = &self.digest {
            s.push_str(&format!("@{d}"));
        }
        s
    }

    /// The name alone as Docker prints it: `busybox`, `user/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        match (self.registry.as_str(), self.repository.strip_prefix("library/")) {
            ("docker.io", Some(short)) if !short.contains('/') => short.to_owned(),
            ("docker.io", _) => self.repository.clone(),
            _ => self.name(),
        }
    }
}

impl fmt::Display for Reference {
    /// Fully written out: `docker.io/library/busybox:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(t) = &self.tag {
            write!(f, ":{t}")?;
        }
        if let Some(d) = &self.digest {
            write!(f, "@{d}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints() {
        let d = "a".repeat(64);
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("user/app:v2", "docker.io/user/app:v2", "user/app:v2"),
            ("index.docker.io/x", "docker.io/library/x:latest", "x:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b:latest"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("[::1]:5000/a:t", "[::1]:5000/a:t", "[::1]:5000/a:t"),
            ("r.io/a__b/c-d.e:1.0_x", "r.io/a__b/c-d.e:1.0_x", "r.io/a__b/c-d.e:1.0_x"),
            ("a_b.c/d", "a_b.c/d:latest", "a_b.c/d:latest"),
            (&format!("{d}:t"), &format!("docker.io/library/{d}:t"), &format!("{d}:t")),
            (
                &format!("x@sha256:{d}"),
                &format!("docker.io/library/x@sha256:{d}"),
                &format!("x@sha256:{d}"),
            ),
            (
                &format!("x:t@sha256:{d}"),
                &format!("docker.io/library/x:t@sha256:{d}"),
                &format!("x:t@sha256:{d}"),
            ),
        ] {
            let r: Reference = text.parse().unwrap();
            assert_eq!(r.to_string(), full);
            assert_eq!(r.familiar(), familiar);
            assert_eq!(full.parse::<Reference>().unwrap(), r);
        }
    }

    #[test]
    fn refuses() {
        let hex = "a".repeat(64);
        let long = "a/".repeat(130) + "a";
        for bad in [
            "",
            ":",
            "@",
            "a:",
            "a@",
            "A",
            "docker://a",
            "oci:a/b",
            "../a",
            "a/../b",
            "a_b.c:80/d",
            "a_B.c/d",
            &"x".repeat(248),
            "/a",
            "a/",
            "a//b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a:.x",
            "a:-x",
            "a:x/y",
            "a b",
            "a\nb",
            "a@sha256:zz",
            "h:99999/a",
            "é",
            &hex,
            &long,
            "http://x/y",
            "a:b:c",
            "UPPER.io/Repo",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
