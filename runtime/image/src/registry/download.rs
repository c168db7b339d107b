//! Files by URL, outside of any registry: one GET with conditions, tried again where that may help.
//!
//! A file has no digest to be checked against here and may differ at the next request, so a download
//! that broke off starts again from its first byte. Its length is checked when the server says it.

use std::io;

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, DATE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::basic;
use super::client::{Inner, RegistryClient, declared_length};
use super::endpoint::host_of;
use super::error::{RegistryError, Result, clean};
use super::retry::{Backoff, retry_after};
use super::watch::Watch;

/// Longest validator (an `ETag`, a date) that is kept, bytes.
const MAX_VALIDATOR: usize = 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileRequest<'a> {
    /// `http://` or `https://`. A login in it is sent to that host alone.
    pub url: &'a str,
    /// `Authorization`, for the host of the URL alone.
    pub authorization: Option<&'a [u8]>,
    /// The `ETag` of what is here.
    pub etag: Option<&'a str>,
    /// The `Last-Modified` of what is here; not sent beside an `ETag`.
    pub modified: Option<&'a str>,
}

/// What a server says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileHead {
    /// Names this content.
    pub etag: Option<String>,
    /// HTTP date.
    pub last_modified: Option<String>,
    /// The answer's own time, HTTP date.
    pub date: Option<String>,
    /// Bytes.
    pub length: Option<u64>,
}

/// Where a file goes.
pub trait FileSink {
    /// The first byte comes next, whatever came before.
    fn begin(&mut self, head: &FileHead) -> io::Result<()>;

    /// More bytes.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl RegistryClient {
    /// Brings a file into `sink`. `None`: what is here is what is there (HTTP 304), and `sink` was
    /// not called.
    pub fn file(
        &self,
        request: &FileRequest<'_>,
        sink: &mut dyn FileSink,
        watch: &Watch<'_>,
    ) -> Result<Option<FileHead>> {
        let (url, login) = parse(request.url)?;
        let (headers, auth) = headers(request)?;
        let auth = auth.or(login);
        self.run(watch, async {
            let mut backoff = Backoff::new(&self.inner.config().retry);
            loop {
                match self.inner.file(&url, &headers, auth.as_ref(), sink, watch).await {
                    Ok(head) => return Ok(head),
                    Err(e) => {
                        let answered = self.inner.http.answered(&host_of(&url));
                        backoff.wait(e, answered, watch).await?;
                    }
                }
            }
        })
    }
}

impl Inner {
    async fn file(
        &self,
        url: &Url,
        headers: &HeaderMap,
        auth: Option<&HeaderValue>,
        sink: &mut dyn FileSink,
        watch: &Watch<'_>,
    ) -> Result<Option<FileHead>> {
        let mut response = self.http.follow(&Method::GET, url, headers, auth).await?;
        let asked = headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE);
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if asked => return Ok(None),
            status => {
                return Err(RegistryError::Status {
                    host: host_of(response.url()),
                    what: shown(url),
                    status: status.as_u16(),
                    detail: status.canonical_reason().unwrap_or("").to_lowercase(),
                    retry_after: retry_after(response.headers()),
                });
            }
        }
        let head = head(&response);
        let local = |source| RegistryError::Local { what: "writing a download", source };
        sink.begin(&head).map_err(local)?;
        let mut seen = 0u64;
        while let Some(chunk) = self.http.chunk(&mut response).await? {
            seen += chunk.len() as u64;
            sink.data(&chunk).map_err(local)?;
            (watch.progress)(seen, head.length.unwrap_or(0));
        }
        if let Some(want) = head.length.filter(|want| *want != seen) {
            let cause = format!("{seen} of {want} bytes came");
            return Err(RegistryError::Broken { host: host_of(response.url()), cause });
        }
        Ok(Some(head))
    }
}

/// The URL without its login, and that as a header: a redirect within the host must not repeat it in
/// the URL.
fn parse(text: &str) -> Result<(Url, Option<HeaderValue>)> {
    let bad = |why: String| RegistryError::Settings { host: shown_url(text), why };
    let mut url = Url::parse(text).map_err(|e| bad(format!("not a URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("only http and https are fetched".to_owned()));
    }
    if url.username().is_empty() && url.password().is_none() {
        return Ok((url, None));
    }
    let login = basic(&decoded(url.username()), &decoded(url.password().unwrap_or("")));
    // Both fail for URLs without a host, which `http` has none of.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok((url, Some(login)))
}

/// Percent-decoding of a login; what is none stays.
pub fn decoded(text: &str) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((b, tail)) = rest.split_first() {
        match (b, hex(tail.first()), hex(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                out.push(*b);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A URL as messages hold it: without its login.
pub fn shown_url(text: &str) -> String {
    Url::parse(text).map_or_else(|_| clean(text), |url| shown(&url))
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail for URLs without a host, which have no login either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    clean(url.as_str())
}

/// Headers that go to every host, and the one that does not.
fn headers(request: &FileRequest<'_>) -> Result<(HeaderMap, Option<HeaderValue>)> {
    let mut map = HeaderMap::new();
    map.insert(ACCEPT, HeaderValue::from_static("*/*"));
    // The bytes are wanted as they are kept there.
    map.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let condition = match (request.etag, request.modified) {
        (Some(etag), _) => Some((IF_NONE_MATCH, etag)),
        (None, Some(date)) => Some((IF_MODIFIED_SINCE, date)),
        (None, None) => None,
    };
    if let Some((name, value)) = condition
        && let Ok(value) = HeaderValue::from_str(value)
    {
        map.insert(name, value);
    }
    let auth = match request.authorization {
        None => None,
        Some(bytes) => {
            let mut value = HeaderValue::from_bytes(bytes).map_err(|_| RegistryError::Settings {
                host: shown_url(request.url),
                why: format!("the secret for {AUTHORIZATION} is no header: it has a line break or other control characters"),
            })?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    Ok((map, auth))
}

fn head(r: &Response) -> FileHead {
    let text = |name: HeaderName| {
        let value = r.headers().get(name)?.to_str().ok()?.trim();
        (!value.is_empty() && value.len() <= MAX_VALIDATOR).then(|| value.to_owned())
    };
    FileHead {
        etag: text(ETAG),
        last_modified: text(LAST_MODIFIED),
        date: text(DATE),
        length: declared_length(r),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_no_login() {
        for (url, want) in [
            ("http://u:p@h/a?b", "http://h/a?b"),
            ("https://token@h:1/", "https://h:1/"),
            ("no url\n", "no url"),
        ] {
            assert_eq!(shown_url(url), want);
        }
    }

    #[test]
    fn one_condition_and_a_clean_login() {
        let ask =
            |etag, modified| FileRequest { url: "http://h/", etag, modified, ..Default::default() };
        for (etag, modified, want) in [
            (None, None, None),
            (Some("\"x\""), None, Some(IF_NONE_MATCH)),
            (Some("\"x\""), Some("d"), Some(IF_NONE_MATCH)),
            (None, Some("d"), Some(IF_MODIFIED_SINCE)),
            (Some("a\nb"), None, None),
        ] {
            let (map, _) = headers(&ask(etag, modified)).unwrap();
            let sent = [IF_NONE_MATCH, IF_MODIFIED_SINCE].into_iter().find(|n| map.contains_key(n));
            assert_eq!(sent, want, "{etag:?} {modified:?}");
        }
        let with = |bytes| FileRequest { authorization: Some(bytes), ..ask(None, None) };
        assert!(headers(&with(b"Bearer x")).unwrap().1.unwrap().is_sensitive());
        let e = headers(&with(b"Bearer x\nEvil: y")).unwrap_err().to_string();
        assert!(!e.contains("Bearer") && e.contains("no header"), "{e}");
        assert!(parse("file:///etc/passwd").is_err() && parse("/etc").is_err());
        let (url, login) = parse("http://u%40x:p%zz@h/a").unwrap();
        assert_eq!(url.as_str(), "http://h/a");
        assert_eq!(login.unwrap().to_str().unwrap(), "Basic dUB4OnAleno=");
    }
}
