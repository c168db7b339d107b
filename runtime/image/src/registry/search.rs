//! Logins tried out, and searches.
//!
//! There is no search in the distribution API: Docker Hub and some registries answer the older
//! `GET /v1/search`, others list all their repositories ([`RegistryClient::catalog`]).

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};
use rgraph_ir::limits::MAX_MANIFEST;
use serde::Deserialize;

use super::auth::Scope;
use super::client::{RegistryClient, malformed};
use super::endpoint::Endpoint;
use super::error::Result;
use super::watch::Watch;

/// A repository that a registry offers for a word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct SearchHit {
    /// Its name there.
    pub name: String,
    /// What its owner says.
    pub description: String,
    /// How many like it.
    #[serde(rename = "star_count")]
    pub stars: u64,
    /// It is one of Docker's own.
    #[serde(rename = "is_official")]
    pub official: bool,
    /// It is built by the registry.
    #[serde(rename = "is_automated")]
    pub automated: bool,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    results: Vec<SearchHit>,
}

impl RegistryClient {
    /// Asks a registry (`host[:port]`) for its root with the configured credentials.
    ///
    /// # Errors
    /// It does not let them in, or is none.
    pub fn check_login(&self, registry: &str, watch: &Watch<'_>) -> Result<()> {
        let ep = Endpoint::registry(self.inner.config(), registry);
        self.run(watch, async {
            let ask = async || {
                let url = self.inner.base(&ep).await?;
                let headers = HeaderMap::new();
                let r =
                    self.inner.request(&ep, &Scope::nothing(), Method::GET, &url, &headers).await?;
                match r.status() {
                    StatusCode::OK => Ok(()),
                    _ => Err(self.inner.refusal(&ep, r, &ep.host).await),
                }
            };
            self.inner.patiently(&ep, watch, ask).await
        })
    }

    /// What a registry finds for a word, at most `most` of it; `None` when it has no search.
    pub fn search(
        &self,
        registry: &str,
        term: &str,
        most: usize,
        watch: &Watch<'_>,
    ) -> Result<Option<Vec<SearchHit>>> {
        // The old index of Docker Hub stands under a name of its own.
        let host = if registry == "docker.io" { "index.docker.io" } else { registry };
        let ep = Endpoint::registry(self.inner.config(), host);
        self.run(watch, async {
            let ask = async || {
                let mut url: Url = self.inner.base(&ep).await?;
                url.set_path("/v1/search");
                url.query_pairs_mut().append_pair("q", term).append_pair("n", &most.to_string());
                let headers = HeaderMap::new();
                let r =
                    self.inner.request(&ep, &Scope::nothing(), Method::GET, &url, &headers).await?;
                match r.status() {
                    StatusCode::OK => {}
                    StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
                    _ => {
                        let what = format!("search for `{}`", super::error::clean(term));
                        return Err(self.inner.refusal(&ep, r, &what).await);
                    }
                }
                let bad = malformed(&r, "no list of results");
                let body = self.inner.http.body(r, MAX_MANIFEST, "search").await?;
                let mut page: Page = serde_json::from_slice(&body).map_err(|_| bad)?;
                page.results.truncate(most);
                Ok(Some(page.results))
            };
            self.inner.patiently(&ep, watch, ask).await
        })
    }
}
