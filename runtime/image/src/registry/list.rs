//! Tags of a repository and repositories of a registry, page by page.

use std::collections::HashSet;

use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Response, StatusCode, Url};
use rgraph_ir::Reference;
use rgraph_ir::limits::{MAX_LIST_ENTRIES, MAX_MANIFEST};
use serde_json::Value;

use super::auth::Scope;
use super::client::{Inner, RegistryClient, malformed};
use super::endpoint::{Endpoint, follow, host_of, same_origin};
use super::error::{RegistryError, Result};
use super::watch::Watch;

impl RegistryClient {
    /// The tags of the repository of `r`, in the registry's order.
    pub fn tags(&self, r: &Reference, watch: &Watch<'_>) -> Result<Vec<String>> {
        let ep = Endpoint::origin(self.inner.config(), r);
        let scope = Scope::pull(&ep.repository);
        let good = |tag: &str| format!("x:{tag}").parse::<Reference>().is_ok();
        self.list(&ep, &scope, "tags/list?n=1000", "tags", good, watch)
    }

    /// The repositories of a registry (`host[:port]`), as far as it tells.
    pub fn catalog(&self, registry: &str, watch: &Watch<'_>) -> Result<Vec<String>> {
        let ep = Endpoint::registry(self.inner.config(), registry);
        let good = |name: &str| format!("{registry}/{name}").parse::<Reference>().is_ok();
        self.list(&ep, &Scope::catalog(), "_catalog?n=1000", "repositories", good, watch)
    }

    fn list(
        &self,
        ep: &Endpoint,
        scope: &Scope,
        path: &str,
        field: &str,
        good: impl Fn(&str) -> bool,
        watch: &Watch<'_>,
    ) -> Result<Vec<String>> {
        self.run(watch, async {
            let mut url = self.inner.url(ep, path).await?;
            let mut all = Vec::new();
            let mut pages = HashSet::new();
            loop {
                let page = async || self.inner.page(ep, scope, &url, field).await;
                let (names, next) = self.inner.patiently(ep, watch, page).await?;
                if let Some(bad) = names.iter().find(|n| !good(n)) {
                    let why = format!("`{}` is no valid name", super::error::clean(bad));
                    return Err(RegistryError::Malformed { host: ep.host.clone(), why });
                }
                all.extend(names);
                if all.len() > MAX_LIST_ENTRIES {
                    let (what, host) = (format!("list of {field}"), ep.host.clone());
                    return Err(RegistryError::TooLarge {
                        what,
                        host,
                        limit: MAX_LIST_ENTRIES as u64,
                    });
                }
                match next {
                    // A page that leads to an earlier one would never end.
                    Some(next)
                        if pages.insert(next.clone()) && pages.len() <= MAX_LIST_ENTRIES / 100 =>
                    {
                        url = next
                    }
                    _ => return Ok(all),
                }
            }
        })
    }
}

impl Inner {
    async fn page(
        &self,
        ep: &Endpoint,
        scope: &Scope,
        url: &Url,
        field: &str,
    ) -> Result<(Vec<String>, Option<Url>)> {
        let what = format!("{field} of {}", ep.name());
        let r = self.request(ep, scope, Method::GET, url, &HeaderMap::new()).await?;
        if r.status() != StatusCode::OK {
            return Err(self.refusal(ep, r, &what).await);
        }
        let next = next_page(&r)?;
        let bad = malformed(&r, format!("no list of {field}"));
        let body = self.http.body(r, MAX_MANIFEST, &what).await?;
        let Ok(json) = serde_json::from_slice::<Value>(&body) else { return Err(bad) };
        let names = match &json[field] {
            Value::Null => Vec::new(),
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            _ => return Err(bad),
        };
        Ok((names, next))
    }
}

/// `Link: </v2/...>; rel="next"`, on the same host only.
fn next_page(r: &Response) -> Result<Option<Url>> {
    let text = r.headers().get(LINK).and_then(|v| v.to_str().ok()).unwrap_or("");
    let Some((target, rest)) = text.trim().strip_prefix('<').and_then(|t| t.split_once('>')) else {
        return Ok(None);
    };
    if !rest.contains("next") {
        return Ok(None);
    }
    let next = follow(r.url(), target)?;
    if !same_origin(r.url(), &next) {
        let (from, to) = (host_of(r.url()), super::error::clean(target));
        return Err(RegistryError::Redirect { from, to, why: "a list goes on at its own host" });
    }
    Ok(Some(next))
}
