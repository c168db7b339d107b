//! Requests one at a time: connections per kind of trust, redirects by our rules, silence and length
//! bounded, errors sorted. Knows no registry.
//!
//! Redirects are followed here and not by the HTTP library, because each hop may need another kind
//! of trust and must lose the credentials when it leaves the origin.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{
    Body, Certificate, Client, Identity, Method, NoProxy, Proxy, Response, StatusCode, Url,
};
use rgraph_ir::limits::MAX_ERROR_BODY;
use tokio::time::timeout;

use super::config::{HostConfig, RegistryConfig};
use super::endpoint::{follow, host_of, is_loopback, same_origin};
use super::error::{RegistryError, Result, clean};
use super::retry::retry_after;

/// Most redirects of one request.
const MAX_HOPS: usize = 10;

/// Whom a client trusts, and whether it goes through a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    /// Plain HTTP: no roots are loaded, which takes longer than the request.
    Nobody { direct: bool },
    /// The system's roots.
    System,
    /// As set for this host.
    Host { host: String, direct: bool },
}

/// Clients, made when first needed and then shared.
pub(super) struct Http {
    config: RegistryConfig,
    clients: Mutex<HashMap<Trust, Client>>,
    answered: Mutex<HashSet<String>>,
}

impl Http {
    pub(super) fn new(config: RegistryConfig) -> Self {
        // reqwest asks for a process-wide provider; a second install changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { config, clients: Mutex::default(), answered: Mutex::default() }
    }

    pub(super) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// Whether `host` (as in references) ever answered.
    pub(super) fn answered(&self, host: &str) -> bool {
        let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
        self.answered.lock().unwrap_or_else(|e| e.into_inner()).contains(host)
    }

    fn settings(&self, url: &Url) -> Option<(&String, &HostConfig)> {
        let host = url.host_str()?;
        let host = if host == "registry-1.docker.io" { "docker.io" } else { host };
        let find = |key: &str| self.config.hosts.get_key_value(key);
        match url.port() {
            Some(p) => find(&format!("{host}:{p}")),
            None => {
                find(host).or_else(|| find(&format!("{host}:{}", url.port_or_known_default()?)))
            }
        }
    }

    fn client(&self, url: &Url) -> Result<Client> {
        let direct = is_loopback(url);
        let trust = match self.settings(url) {
            _ if url.scheme() == "http" => Trust::Nobody { direct },
            Some((host, s)) if s.insecure || !s.ca.is_empty() || s.client_cert.is_some() => {
                Trust::Host { host: host.clone(), direct }
            }
            _ => Trust::System,
        };
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(c) = clients.get(&trust) {
            return Ok(c.clone());
        }
        let client = self
            .build(&trust)
            .map_err(|why| RegistryError::Settings { host: host_of(url), why })?;
        clients.insert(trust, client.clone());
        Ok(client)
    }

    fn build(&self, trust: &Trust) -> Result<Client, String> {
        let mut b = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(&self.config.user_agent)
            .connect_timeout(self.config.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(8)
            // Per HTTP/2 connection as good as no limit, per stream a small one: readers that wait
            // for each other must not starve because one of them fills the common window.
            .http2_initial_stream_window_size(2 << 20)
            .http2_initial_connection_window_size(1 << 30)
            .no_proxy();
        let direct = match trust {
            Trust::Nobody { direct } | Trust::Host { direct, .. } => *direct,
            Trust::System => false,
        };
        if !direct {
            let p = &self.config.proxies;
            let except = || p.no_proxy.as_deref().and_then(NoProxy::from_string);
            let bad = |e: reqwest::Error| format!("proxy: {}", deepest(&e));
            if let Some(url) = &p.http {
                b = b.proxy(Proxy::http(url).map_err(bad)?.no_proxy(except()));
            }
            if let Some(url) = &p.https {
                b = b.proxy(Proxy::https(url).map_err(bad)?.no_proxy(except()));
            }
        }
        match trust {
            Trust::Nobody { .. } => b = b.tls_certs_only([]),
            Trust::System => {}
            Trust::Host { host, .. } => {
                let s = self.config.hosts.get(host).cloned().unwrap_or_default();
                if s.insecure {
                    b = b.tls_danger_accept_invalid_certs(true);
                }
                let read = |path: &std::path::Path| {
                    std::fs::read(path).map_err(|e| format!("`{}`: {e}", path.display()))
                };
                for path in &s.ca {
                    let named = |e: &dyn std::fmt::Display| format!("`{}`: {e}", path.display());
                    let certs = Certificate::from_pem_bundle(&read(path)?)
                        .map_err(|e| named(&deepest(&e)))?;
                    if certs.is_empty() {
                        return Err(named(&"no certificate in it"));
                    }
                    b = b.tls_certs_merge(certs);
                }
                if let Some(path) = &s.client_cert {
                    let id = Identity::from_pem(&read(path)?)
                        .map_err(|e| format!("`{}`: {}", path.display(), deepest(&e)))?;
                    b = b.identity(id);
                }
            }
        }
        b.build().map_err(|e| deepest(&e))
    }

    /// Sends one request and waits at most `wait` for the head of the answer.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        auth: Option<&HeaderValue>,
        body: Option<Body>,
        wait: Duration,
    ) -> Result<Response> {
        if let Some(a) = auth {
            headers.insert(AUTHORIZATION, a.clone());
        }
        let mut request = self.client(url)?.request(method, url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let host = host_of(url);
        let response = timeout(wait, request.send())
            .await
            .map_err(|_| RegistryError::Silent { host: host.clone(), seconds: wait.as_secs() })?
            .map_err(|e| sort(&host, &e))?;
        let mut answered = self.answered.lock().unwrap_or_else(|e| e.into_inner());
        if !answered.contains(&host) {
            answered.insert(host);
        }
        Ok(response)
    }

    /// Sends a request without a body and follows redirects. `auth` stays behind as soon as the
    /// origin changes, and does not come back.
    pub(super) async fn follow(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        auth: Option<&HeaderValue>,
    ) -> Result<Response> {
        let mut auth = auth;
        let mut at = url.clone();
        for _ in 0..=MAX_HOPS {
            let wait = self.config.idle_timeout;
            let r = self.send(method.clone(), &at, headers.clone(), auth, None, wait).await?;
            if !is_redirect(r.status()) {
                return Ok(r);
            }
            let next = location(&r)?;
            if !same_origin(&at, &next) {
                auth = None;
            }
            at = next;
        }
        Err(RegistryError::Redirect {
            from: host_of(url),
            to: clean(at.as_str()),
            why: "more than 10 redirects",
        })
    }

    /// The next bytes of an answer; `None` at its end.
    pub(super) async fn chunk(&self, r: &mut Response) -> Result<Option<bytes::Bytes>> {
        let host = host_of(r.url());
        let wait = self.config.idle_timeout;
        match timeout(wait, r.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(e)) => Err(sort(&host, &e)),
            Err(_) => Err(RegistryError::Silent { host, seconds: wait.as_secs() }),
        }
    }

    /// A whole answer, counted while it comes: what `Content-Length` says does not matter.
    pub(super) async fn body(&self, mut r: Response, limit: u64, what: &str) -> Result<Vec<u8>> {
        let host = host_of(r.url());
        // Drop by drop would get past the limit on silence.
        let all = self.config.idle_timeout * 4;
        let read = async {
            let mut out = Vec::new();
            while let Some(chunk) = self.chunk(&mut r).await? {
                if (out.len() + chunk.len()) as u64 > limit {
                    let what = what.to_owned();
                    return Err(RegistryError::TooLarge { what, host: host.clone(), limit });
                }
                out.extend_from_slice(&chunk);
            }
            Ok(out)
        };
        match timeout(all, read).await {
            Ok(out) => out,
            Err(_) => Err(RegistryError::Silent { host, seconds: all.as_secs() }),
        }
    }

    /// Makes an error of an answer that is not the wanted one. `login`: credentials were sent.
    pub(super) async fn refusal(&self, r: Response, what: &str, login: bool) -> RegistryError {
        let host = host_of(r.url());
        let status = r.status();
        let retry_after = retry_after(r.headers());
        let body = self.error_body(r).await;
        let detail = words(&body);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
                what: what.to_owned(),
                with_login: login,
                detail: if detail.is_empty() { status.to_string() } else { detail },
            },
            StatusCode::NOT_FOUND => RegistryError::NotFound { what: what.to_owned(), detail },
            _ => RegistryError::Status {
                host,
                what: what.to_owned(),
                status: status.as_u16(),
                detail,
                retry_after,
            },
        }
    }

    /// The first bytes of an error's body; whatever goes wrong, the status says more.
    async fn error_body(&self, mut r: Response) -> Vec<u8> {
        let mut out = Vec::new();
        let read = async {
            while let Ok(Some(chunk)) = self.chunk(&mut r).await {
                let room = MAX_ERROR_BODY as usize - out.len();
                out.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if out.len() as u64 == MAX_ERROR_BODY {
                    break;
                }
            }
        };
        let _ = timeout(Duration::from_secs(5).min(self.config.idle_timeout), read).await;
        out
    }
}

fn is_redirect(s: StatusCode) -> bool {
    matches!(s.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The `Location` of an answer, resolved and checked.
pub(super) fn location(r: &Response) -> Result<Url> {
    let text = r.headers().get(LOCATION).and_then(|v| v.to_str().ok()).ok_or_else(|| {
        RegistryError::Malformed { host: host_of(r.url()), why: "no `Location` header".into() }
    })?;
    follow(r.url(), text)
}

/// What an error body says: distribution's `errors` list, OAuth's fields, or short plain text.
fn words(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else {
        let text = String::from_utf8_lossy(body);
        let html = text.trim_start().starts_with('<');
        return if html || body.len() > 1024 { String::new() } else { clean(&text) };
    };
    let first = &json["errors"][0];
    let text = |v: &serde_json::Value| v.as_str().unwrap_or("").to_owned();
    let (code, message) = (text(&first["code"]), text(&first["message"]));
    let parts = [
        code,
        message,
        text(&json["error"]),
        text(&json["error_description"]),
        text(&json["details"]),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|p| !p.is_empty()).take(2).collect();
    clean(&parts.join(": "))
}

/// The innermost message of a chain, without the errno that Rust adds.
fn deepest(e: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = e;
    while let Some(next) = last.source() {
        last = next;
    }
    let text = last.to_string();
    let text = text.split(" (os error").next().unwrap_or("");
    let mut chars = text.chars();
    let lower = chars.next().map(|c| c.to_lowercase().collect::<String>()).unwrap_or_default();
    clean(&(lower + chars.as_str()))
}

/// An `io::Error` made of another error leaves that one out of its chain.
fn holds_tls(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| {
        inner.is::<rustls::Error>() || inner.downcast_ref::<io::Error>().is_some_and(holds_tls)
    })
}

/// Sorts a transport error by what a user can do about it.
fn sort(host: &str, e: &reqwest::Error) -> RegistryError {
    let host = host.to_owned();
    let mut io_kind = None;
    let mut tls = false;
    let mut garbled = false;
    let mut at = e.source();
    while let Some(inner) = at {
        tls |= inner.is::<rustls::Error>();
        garbled |= inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            io_kind = Some(io.kind());
            tls |= holds_tls(io);
        }
        at = inner.source();
    }
    let cause = deepest(e);
    if tls {
        return RegistryError::Tls { host, cause };
    }
    if e.is_connect() {
        let unknown = e.is_dns() && !cause.contains("emporary");
        let refused = unknown || io_kind == Some(io::ErrorKind::ConnectionRefused);
        let cause = if e.is_timeout() { "no answer in time".to_owned() } else { cause };
        return RegistryError::Unreachable { host, cause, refused };
    }
    if e.is_builder() {
        return RegistryError::Settings { host, why: cause };
    }
    // The lengths of chunks are told by hyper in this way; a cut body is `UnexpectedEof`.
    let framing = [io::ErrorKind::InvalidInput, io::ErrorKind::InvalidData];
    if garbled || io_kind.is_some_and(|kind| framing.contains(&kind)) {
        return RegistryError::NotHttp { host, cause };
    }
    RegistryError::Broken { host, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_become_one_line() {
        for (body, want) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
                "MANIFEST_UNKNOWN: manifest unknown",
            ),
            (r#"{"error":"invalid_grant","error_description":"no"}"#, "invalid_grant: no"),
            (r#"{"errors":[]}"#, ""),
            ("{", "{"),
            ("too many\nrequests", "too many requests"),
            ("<html>bad gateway", ""),
            ("", ""),
        ] {
            assert_eq!(words(body.as_bytes()), want, "{body}");
        }
    }

    #[test]
    fn settings_are_found_by_host_and_port() {
        let mut config = RegistryConfig::default();
        for h in ["docker.io", "a.example", "b.example:443", "c.example:5000"] {
            config.hosts.entry(h.into()).or_default();
        }
        let http = Http::new(config);
        for (url, want) in [
            ("https://registry-1.docker.io/v2/", Some("docker.io")),
            ("https://a.example/", Some("a.example")),
            ("https://a.example:5000/", None),
            ("https://b.example/", Some("b.example:443")),
            ("https://c.example:5000/", Some("c.example:5000")),
            ("https://c.example/", None),
        ] {
            let got = http.settings(&Url::parse(url).unwrap()).map(|(k, _)| k.as_str());
            assert_eq!(got, want, "{url}");
        }
    }
}
