//! What the caller decides: settings per registry, proxies, credentials, patience. Read from flags,
//! files and environment elsewhere; nothing here looks at the surroundings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::credentials::CredentialStore;
use super::retry::RetryPolicy;

/// Settings of a [`super::RegistryClient`].
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// By `host[:port]` as it stands in references (`docker.io`, `registry.example:5000`).
    pub hosts: BTreeMap<String, HostConfig>,
    /// Names and passwords.
    pub credentials: CredentialStore,
    /// Sent with each request.
    pub user_agent: String,
    /// How to leave this network.
    pub proxies: Proxies,
    /// Retries.
    pub retry: RetryPolicy,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence within an answer or before it.
    pub idle_timeout: Duration,
    /// Blobs up to this size are pushed in one request, larger ones so that a broken upload can be
    /// resumed. Bytes.
    pub single_request_push: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            credentials: CredentialStore::default(),
            user_agent: concat!("rgraph/", env!("CARGO_PKG_VERSION")).to_owned(),
            proxies: Proxies::default(),
            retry: RetryPolicy::default(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            single_request_push: 16 << 20,
        }
    }
}

impl RegistryConfig {
    /// Marks a host as `--insecure-registry` does, whatever was said of TLS before.
    pub fn allow_insecure(&mut self, host: &str) {
        let host = self.hosts.entry(host.to_owned()).or_default();
        host.insecure = true;
        host.http = host.http.filter(|http| *http);
    }
}

/// Settings of one registry or mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// `Some(true)`: plain HTTP. `Some(false)`: HTTPS even on this machine. `None`: HTTPS, but
    /// plain HTTP for `localhost`, `127.0.0.0/8` and `[::1]`.
    pub http: Option<bool>,
    /// Any certificate is taken; a host that speaks no TLS is spoken to in plain HTTP.
    pub insecure: bool,
    /// PEM files with certificates to trust besides the system's.
    pub ca: Vec<PathBuf>,
    /// PEM file with our own certificate and its key.
    pub client_cert: Option<PathBuf>,
    /// Asked first, in order, for everything that is pulled.
    pub mirrors: Vec<Mirror>,
}

/// Another place that has the same images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// `host[:port]`; its settings are those in [`RegistryConfig::hosts`].
    pub host: String,
    /// Put before the repository, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Plain HTTP was asked for in the mirror's own text.
    pub http: bool,
}

impl Mirror {
    /// Reads `[http[s]://]HOST[:PORT][/PREFIX]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (http, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => (false, text),
        };
        let rest = rest.trim_end_matches('/');
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // Borrow the strict grammar of references: a host and path that it takes can do no harm in
        // a URL.
        let probe = if prefix.is_empty() { "x" } else { prefix };
        let r: rgraph_ir::Reference = format!("{host}/{probe}").parse().ok()?;
        let same = r.registry == host && r.tag.as_deref() == Some("latest") && r.digest.is_none();
        (same && !prefix.contains(':')).then(|| Self {
            host: host.to_owned(),
            prefix: prefix.to_owned(),
            http,
        })
    }
}

/// Proxies by the scheme of the request. Loopback addresses are never sent through one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http` URLs (`HTTP_PROXY`).
    pub http: Option<String>,
    /// For `https` URLs (`HTTPS_PROXY`).
    pub https: Option<String>,
    /// Comma list of names, addresses and networks to reach directly (`NO_PROXY`).
    pub no_proxy: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mirrors() {
        for (text, want) in [
            ("mirror.example", Some(("mirror.example", "", false))),
            ("http://m.example:5000/", Some(("m.example:5000", "", true))),
            ("https://m.example/proxy/hub", Some(("m.example", "proxy/hub", false))),
            ("localhost:5000/a", Some(("localhost:5000", "a", false))),
            ("", None),
            ("nodots", None),
            ("ftp://m.example", None),
            ("m.example/../x", None),
            ("m.example/a:b", None),
            ("u:p@m.example", None),
            ("m.example/a?b", None),
        ] {
            let got = Mirror::parse(text);
            let got = got.as_ref().map(|m| (m.host.as_str(), m.prefix.as_str(), m.http));
            assert_eq!(got, want, "{text}");
        }
    }
}
