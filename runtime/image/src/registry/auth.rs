//! Who we are: `WWW-Authenticate` challenges, Basic, and Bearer tokens from a token service
//! (distribution's "Token Authentication Specification").
//!
//! Invariants: credentials are looked up by the host of the [`Endpoint`] and sent to that host, or
//! to the token service it names if [`realm`] accepts it; a token is sent to the registry that
//! asked for it and nowhere else. Nothing is sent before the registry asks for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Body, Method, Response, Url};
use rgraph_ir::limits::MAX_TOKEN_ANSWER;
use serde::Deserialize;
use tokio::time::Instant;

use super::credentials::Credential;
use super::endpoint::{Endpoint, host_of, is_link_local};
use super::error::{RegistryError, Result, clean};
use super::http::Http;

/// Longest wait for a credential helper, which may ask its user something.
const HELPER_TIMEOUT: Duration = Duration::from_secs(120);

/// What a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Scope(Vec<String>);

impl Scope {
    pub(super) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    /// Push, and when mounting also pull from another repository.
    pub(super) fn push(repository: &str, from: Option<&str>) -> Self {
        let mut all = vec![format!("repository:{repository}:pull,push")];
        all.extend(from.map(|f| format!("repository:{f}:pull")));
        Self(all)
    }

    /// Only to be let in.
    pub(super) fn nothing() -> Self {
        Self(Vec::new())
    }

    pub(super) fn catalog() -> Self {
        Self(vec!["registry:catalog:*".to_owned()])
    }
}

/// How a registry wants to be told who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

type TokenSlot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// What is known about the registries of this process.
#[derive(Default)]
pub(super) struct Auth {
    challenges: Mutex<HashMap<String, Challenge>>,
    tokens: Mutex<HashMap<(String, Scope), TokenSlot>>,
    credentials: Mutex<HashMap<String, Option<Credential>>>,
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl Auth {
    /// The `Authorization` for a request to `ep`, as far as it is known what `ep` wants.
    pub(super) async fn header(
        &self,
        http: &Http,
        ep: &Endpoint,
        base: &Url,
        scope: &Scope,
    ) -> Result<Option<HeaderValue>> {
        let known = lock(&self.challenges).get(&origin(base)).cloned();
        match known {
            None => Ok(None),
            Some(c) => self.respond(http, ep, base, scope, &c, None).await,
        }
    }

    /// The `Authorization` that answers a 401 of `ep` itself; `None` when there is nothing (more)
    /// to offer. `used` was sent and refused.
    pub(super) async fn answer(
        &self,
        http: &Http,
        ep: &Endpoint,
        base: &Url,
        scope: &Scope,
        response: &Response,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let texts: Vec<_> = headers.iter().filter_map(|v| v.to_str().ok()).collect();
        let Some(challenge) = parse(&texts) else { return Ok(None) };
        lock(&self.challenges).insert(origin(base), challenge.clone());
        self.respond(http, ep, base, scope, &challenge, used).await
    }

    /// Whether there are credentials for this host among those looked up so far.
    pub(super) fn has_login(&self, ep: &Endpoint) -> bool {
        matches!(lock(&self.credentials).get(&ep.host), Some(Some(_)))
    }

    async fn respond(
        &self,
        http: &Http,
        ep: &Endpoint,
        base: &Url,
        scope: &Scope,
        challenge: &Challenge,
        used: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>> {
        let (realm_text, service) = match challenge {
            Challenge::Basic => {
                return Ok(match self.credential(http, ep).await? {
                    Some(Credential::Basic { user, password }) => {
                        Some(basic(&user, &password)).filter(|h| Some(h) != used)
                    }
                    _ => None,
                });
            }
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let slot = {
            let key = (format!("{} {}", origin(base), ep.host), scope.clone());
            lock(&self.tokens).entry(key).or_default().clone()
        };
        // Held over the request: whoever comes second finds the token.
        let mut slot = slot.lock().await;
        if let Some(t) = &*slot
            && t.until > Instant::now()
            && Some(&t.header) != used
        {
            return Ok(Some(t.header.clone()));
        }
        let url = realm(realm_text, base)?;
        let credential = self.credential(http, ep).await?;
        let token = fetch(http, ep, url, service.as_deref(), scope, credential.as_ref()).await?;
        Ok(Some(slot.insert(token).header.clone()))
    }

    async fn credential(&self, http: &Http, ep: &Endpoint) -> Result<Option<Credential>> {
        if let Some(c) = lock(&self.credentials).get(&ep.host) {
            return Ok(c.clone());
        }
        let store = http.config().credentials.clone();
        let host = ep.host.clone();
        let lookup = tokio::task::spawn_blocking(move || store.lookup(&host));
        let failed = |why: &str| RegistryError::Settings { host: ep.host.clone(), why: why.into() };
        let found = tokio::time::timeout(HELPER_TIMEOUT, lookup)
            .await
            .map_err(|_| failed("the credential helper gave no answer"))?
            .map_err(|_| failed("looking for credentials failed"))??;
        lock(&self.credentials).insert(ep.host.clone(), found.clone());
        Ok(found)
    }
}

fn origin(base: &Url) -> String {
    format!("{}://{}", base.scheme(), host_of(base))
}

/// `Basic` with its value marked, so that no log shows it.
pub(super) fn basic(user: &str, password: &str) -> HeaderValue {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        .unwrap_or_else(|| HeaderValue::from_static(""))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut v = HeaderValue::from_str(text).ok()?;
    v.set_sensitive(true);
    Some(v)
}

/// Whether the token service named by the registry at `base` may be asked: HTTPS, or plain HTTP on
/// the registry's own host when the registry itself is spoken to in plain HTTP.
fn realm(text: &str, base: &Url) -> Result<Url> {
    let refuse = |why| RegistryError::Realm { realm: clean(text), why };
    let url = Url::parse(text).map_err(|_| refuse("it is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("it carries a login"));
    }
    if is_link_local(&url) {
        return Err(refuse("it is a link-local address"));
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if base.scheme() == "http" && url.host_str() == base.host_str() => Ok(url),
        "http" if base.scheme() == "http" => {
            Err(refuse("a token service in plain HTTP must be on the registry's own host"))
        }
        _ => Err(refuse("a token service must use HTTPS")),
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn fetch(
    http: &Http,
    ep: &Endpoint,
    realm: Url,
    service: Option<&str>,
    scope: &Scope,
    credential: Option<&Credential>,
) -> Result<Token> {
    let what = format!("{} (token from {})", ep.name(), host_of(&realm));
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let response = if let Some(Credential::IdentityToken(refresh)) = credential {
        let scopes = scope.0.join(" ");
        let mut form = Url::parse("form:/").map_err(|e| malformed(&realm, &e.to_string()))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", service.unwrap_or(""))
            .append_pair("client_id", "rgraph")
            .append_pair("scope", &scopes)
            .append_pair("refresh_token", refresh);
        let body = form.query().unwrap_or("").to_owned();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, kind);
        let wait = http.config().idle_timeout;
        http.send(Method::POST, &realm, headers, None, Some(Body::from(body)), wait).await?
    } else {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(s) = service {
                query.append_pair("service", s);
            }
            for s in &scope.0 {
                query.append_pair("scope", s);
            }
            if let Some(Credential::Basic { user, .. }) = credential {
                query.append_pair("account", user);
            }
        }
        let auth = match credential {
            Some(Credential::Basic { user, password }) => Some(basic(user, password)),
            _ => None,
        };
        http.follow(&Method::GET, &url, &headers, auth.as_ref()).await?
    };
    if !response.status().is_success() {
        return Err(http.refusal(response, &what, credential.is_some()).await);
    }
    let body = http.body(response, MAX_TOKEN_ANSWER, "token answer").await?;
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| malformed(&realm, "the token is not JSON"))?;
    let token = answer
        .token
        .filter(|t| !t.is_empty())
        .or(answer.access_token)
        .ok_or_else(|| malformed(&realm, "no token in the answer"))?;
    let header = secret(&format!("Bearer {token}"))
        .ok_or_else(|| malformed(&realm, "the token has control bytes"))?;
    // The specification's default and least is 60 s; leave before the end.
    let life = answer.expires_in.unwrap_or(60).clamp(60, 3600);
    Ok(Token { header, until: Instant::now() + Duration::from_secs(life * 9 / 10) })
}

fn malformed(url: &Url, why: &str) -> RegistryError {
    RegistryError::Malformed { host: host_of(url), why: why.to_owned() }
}

/// Reads challenges (RFC 9110, 11.6.1); Bearer is preferred over Basic, others are skipped.
fn parse(headers: &[&str]) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        let mut rest = header.trim();
        while !rest.is_empty() {
            let end = rest.find([' ', ',']).unwrap_or(rest.len());
            let scheme = &rest[..end];
            rest = rest[end..].trim_start_matches([' ', ',', '\t']);
            let mut params = HashMap::new();
            while let Some((key, value, after)) = param(rest) {
                params.insert(key.to_ascii_lowercase(), value);
                rest = after;
            }
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = params.remove("realm")
            {
                return Some(Challenge::Bearer { realm, service: params.remove("service") });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// `key=value` or `key="value"` at the start of `text`, and what follows the comma after it.
fn param(text: &str) -> Option<(&str, String, &str)> {
    let (key, rest) = text.split_once('=')?;
    let key = key.trim_end();
    if key.is_empty() || key.contains([' ', ',', '"']) {
        return None;
    }
    let rest = rest.trim_start();
    let (value, after) = if let Some(quoted) = rest.strip_prefix('"') {
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        loop {
            match chars.next()? {
                (i, '"') => break (value, &quoted[i + 1..]),
                (_, '\\') => value.push(chars.next()?.1),
                (_, c) => value.push(c),
            }
        }
    } else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        (rest[..end].to_owned(), &rest[end..])
    };
    Some((key, value, after.trim_start_matches([' ', ',', '\t'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_challenges() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        for (headers, want) in [
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#][..],
                bearer("https://a/t", Some("s")),
            ),
            (&[r#"bearer  service=s , realm=https://a/t"#], bearer("https://a/t", Some("s"))),
            (&[r#"Basic realm="x""#], Some(Challenge::Basic)),
            (&["Basic"], Some(Challenge::Basic)),
            (&[r#"Basic realm="x", Bearer realm="r""#], bearer("r", None)),
            (&[r#"Basic realm="x""#, r#"Bearer realm="r""#], bearer("r", None)),
            (&[r#"Bearer realm="a\"b""#], bearer("a\"b", None)),
            (&[r#"Bearer realm="open"#], None),
            (&["Bearer"], None),
            (&["Negotiate"], None),
            (&["=,=,\"", ""], None),
            (&[], None),
        ] {
            assert_eq!(parse(headers), want, "{headers:?}");
        }
    }

    #[test]
    fn realms() {
        for (base, text, ok) in [
            ("https://r.example/v2/", "https://auth.example/token", true),
            ("https://r.example/v2/", "http://r.example/token", false),
            ("https://r.example/v2/", "ftp://r.example/token", false),
            ("https://r.example/v2/", "/token", false),
            ("https://r.example/v2/", "https://u:p@auth.example/", false),
            ("https://r.example/v2/", "https://169.254.169.254/", false),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token", true),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.2:5000/token", false),
            ("http://localhost:5000/v2/", "http://127.0.0.1:5000/token", false),
            ("http://127.0.0.1:5000/v2/", "http://169.254.169.254/", false),
            ("http://127.0.0.1:5000/v2/", "https://auth.example/token", true),
        ] {
            let got = realm(text, &Url::parse(base).unwrap());
            assert_eq!(got.is_ok(), ok, "{text}");
            if let Err(e) = got {
                assert!(e.to_string().starts_with("realm `"), "{e}");
            }
        }
    }
}
