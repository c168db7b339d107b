//! Which server speaks for a repository, by which URL, and which URLs may be followed from there.

use std::net::IpAddr;

use reqwest::Url;
use rgraph_ir::Reference;

use super::config::{HostConfig, RegistryConfig};
use super::error::{RegistryError, Result};

/// One place to ask: a registry or a mirror of it, and the repository's name there.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// `host[:port]` as in references; settings and credentials are found by it.
    pub host: String,
    /// The repository, with the mirror's prefix. Empty for questions to the registry itself.
    pub repository: String,
    /// A mirror's failure is not the end.
    pub mirror: bool,
    /// How it is spoken to.
    pub scheme: Scheme,
}

/// How a host is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    /// HTTPS with any certificate, plain HTTP where there is no TLS: to be found out.
    Either,
}

impl Endpoint {
    /// The registry of `r` itself.
    pub(super) fn origin(config: &RegistryConfig, r: &Reference) -> Self {
        Self {
            host: r.registry.clone(),
            repository: r.repository.clone(),
            mirror: false,
            scheme: scheme(config, &r.registry),
        }
    }

    /// Where to pull `r` from, in order: mirrors, then the registry.
    pub(super) fn for_pull(config: &RegistryConfig, r: &Reference) -> Vec<Self> {
        let mirrors = config.hosts.get(&r.registry).map_or(&[][..], |h| &h.mirrors);
        let mut all: Vec<_> = mirrors
            .iter()
            .map(|m| Self {
                host: m.host.clone(),
                repository: match m.prefix.as_str() {
                    "" => r.repository.clone(),
                    p => format!("{p}/{}", r.repository),
                },
                mirror: true,
                scheme: if m.http { Scheme::Http } else { scheme(config, &m.host) },
            })
            .collect();
        all.push(Self::origin(config, r));
        all
    }

    /// A registry as such, for its catalogue.
    pub(super) fn registry(config: &RegistryConfig, host: &str) -> Self {
        Self {
            host: host.to_owned(),
            repository: String::new(),
            mirror: false,
            scheme: scheme(config, host),
        }
    }

    /// `https://host/v2/`.
    pub(super) fn base(&self, tls: bool) -> Result<Url> {
        // Docker Hub's registry answers under another name than its images carry.
        let host = if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host };
        let scheme = if tls { "https" } else { "http" };
        Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|e| RegistryError::Settings {
            host: self.host.clone(),
            why: format!("not a host name: {e}"),
        })
    }

    /// For messages: `host/repository`.
    pub(super) fn name(&self) -> String {
        match self.repository.as_str() {
            "" => self.host.clone(),
            repo => format!("{}/{repo}", self.host),
        }
    }
}

fn scheme(config: &RegistryConfig, host: &str) -> Scheme {
    let default = HostConfig::default();
    let set = config.hosts.get(host).unwrap_or(&default);
    let local =
        Url::parse(&format!("http://{host}/")).is_ok_and(|u| is_loopback(&u)) && set.ca.is_empty();
    match set.http {
        Some(true) => Scheme::Http,
        Some(false) => Scheme::Https,
        None if local => Scheme::Http,
        None if set.insecure => Scheme::Either,
        None => Scheme::Https,
    }
}

/// The address written in a URL, when it is one.
fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.parse::<IpAddr>().ok().map(|a| a.to_canonical())
}

/// `localhost`, `127.0.0.0/8`, `[::1]`.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost") || address(url).is_some_and(|a| a.is_loopback())
}

/// Addresses where clouds serve secrets to the machine that asks.
pub(super) fn is_link_local(url: &Url) -> bool {
    match address(url) {
        Some(IpAddr::V4(a)) => a.is_link_local() || a.is_unspecified(),
        Some(IpAddr::V6(a)) => a.is_unicast_link_local() || a.is_unspecified(),
        None => false,
    }
}

/// Scheme, host and port are all the same: credentials for one are credentials for the other.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// `host[:port]` of a URL, for messages.
pub(super) fn host_of(url: &Url) -> String {
    match (url.host_str().unwrap_or(""), url.port()) {
        (h, Some(p)) => format!("{h}:{p}"),
        (h, None) => h.to_owned(),
    }
}

/// Where `location`, given by the server at `from`, leads to, when that may be followed: HTTP only,
/// never from HTTPS to plain HTTP, never to link-local addresses.
pub(super) fn follow(from: &Url, location: &str) -> Result<Url> {
    let refuse = |why| RegistryError::Redirect {
        from: host_of(from),
        to: super::error::clean(location),
        why,
    };
    let to = from.join(location).map_err(|_| refuse("it is not a URL"))?;
    if !matches!(to.scheme(), "http" | "https") {
        return Err(refuse("only http and https are followed"));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err(refuse("it leaves HTTPS for plain HTTP"));
    }
    if is_link_local(&to) && !same_origin(from, &to) {
        return Err(refuse("it is a link-local address"));
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err(refuse("it carries a login"));
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::super::config::Mirror;
    use super::*;

    #[test]
    fn local_is_plain_and_the_rest_is_not() {
        let mut config = RegistryConfig::default();
        config.allow_insecure("old.example");
        config.allow_insecure("localhost:1");
        config.hosts.entry("tls.localhost:1".into()).or_default();
        config.hosts.entry("127.0.0.9:1".into()).or_default().ca = vec!["x.pem".into()];
        config.hosts.entry("localhost:2".into()).or_default().http = Some(false);
        config.hosts.entry("plain.example".into()).or_default().http = Some(true);
        for (host, want) in [
            ("localhost", Scheme::Http),
            ("localhost:5000", Scheme::Http),
            ("127.0.0.1:5000", Scheme::Http),
            ("127.9.9.9", Scheme::Http),
            ("[::1]:5000", Scheme::Http),
            ("localhost:1", Scheme::Http),
            ("localhost:2", Scheme::Https),
            ("127.0.0.9:1", Scheme::Https),
            ("128.0.0.1", Scheme::Https),
            ("localhost.example", Scheme::Https),
            ("docker.io", Scheme::Https),
            ("old.example", Scheme::Either),
            ("plain.example", Scheme::Http),
        ] {
            assert_eq!(scheme(&config, host), want, "{host}");
        }
    }

    #[test]
    fn mirrors_come_first() {
        let mut config = RegistryConfig::default();
        let mirror = Mirror::parse("http://m.example/hub").unwrap();
        config.hosts.entry("docker.io".into()).or_default().mirrors = vec![mirror];
        let all = Endpoint::for_pull(&config, &"busybox".parse().unwrap());
        let names: Vec<_> = all.iter().map(Endpoint::name).collect();
        assert_eq!(names, ["m.example/hub/library/busybox", "docker.io/library/busybox"]);
        assert_eq!(all[0].base(false).unwrap().as_str(), "http://m.example/v2/");
        assert_eq!(all[1].base(true).unwrap().as_str(), "https://registry-1.docker.io/v2/");
    }

    #[test]
    fn follows_only_where_it_is_safe() {
        for (from, location, want) in [
            ("https://a/v2/", "/x?y", Some("https://a/x?y")),
            ("https://a/v2/", "https://b/x", Some("https://b/x")),
            ("http://a/v2/", "https://b/x", Some("https://b/x")),
            ("http://127.0.0.1:1/", "http://127.0.0.2:1/x", Some("http://127.0.0.2:1/x")),
            ("https://a/v2/", "http://a/x", None),
            ("https://a/v2/", "file:///etc/passwd", None),
            ("http://a/v2/", "http://169.254.169.254/latest", None),
            ("http://a/v2/", "http://2852039166/latest", None),
            ("http://a/v2/", "http://[fe80::1]/", None),
            ("http://a/v2/", "http://[::ffff:169.254.169.254]/", None),
            ("http://a/v2/", "http://u:p@b/", None),
            ("http://a/v2/", "http://", None),
        ] {
            let got = follow(&Url::parse(from).unwrap(), location).ok();
            assert_eq!(got.as_ref().map(Url::as_str), want, "{location}");
        }
    }

    #[test]
    fn origins() {
        let u = |s| Url::parse(s).unwrap();
        assert!(same_origin(&u("https://a/x"), &u("https://A:443/y")));
        assert!(!same_origin(&u("https://a/"), &u("http://a/")));
        assert!(!same_origin(&u("http://127.0.0.1:1/"), &u("http://127.0.0.1:2/")));
        assert!(!same_origin(&u("http://127.0.0.1:1/"), &u("http://127.0.0.2:1/")));
    }
}
