//! Files by URL.
//!
//! The content is a blob of the store; beside it stands what the server said of it, so that the next
//! build asks whether it changed (RFC 9110, 13) instead of for the file. With a checksum nothing is
//! asked once the content is here.

use std::io::{self, Read as _, Write as _};
use std::sync::PoisonError;

use rgraph_image::registry::{FileHead, FileRequest, FileSink, RegistryError, Watch, shown_url};
use rgraph_ir::BlobDigest;
use rgraph_ir::op::HttpSource;
use rgraph_store::{BlobWriter, Expect, Store};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384, Sha512};

use super::error::Closed;
use super::image::PullPolicy;
use super::source::{SourceError, Sources, Want, cell};

/// A file that is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlContent {
    /// Of the bytes.
    pub digest: BlobDigest,
    /// `Last-Modified`, an HTTP date.
    pub last_modified: Option<String>,
    etag: Option<String>,
    /// `Last-Modified` names the content too: the file was not written to in the second in which it
    /// was sent.
    settled: bool,
}

impl UrlContent {
    /// The time of the file, seconds since 1970; a server that says none means 0, as in BuildKit.
    pub fn mtime(&self) -> i64 {
        self.time().unwrap_or(0)
    }

    /// The time that the server says, seconds since 1970.
    pub fn time(&self) -> Option<i64> {
        self.last_modified.as_deref().and_then(http_date)
    }
}

/// Bytes so far, and in all (0: unknown).
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

impl Sources<'_> {
    /// What a file is, whatever it is called elsewhere: its name, its content and its time. With a
    /// checksum the time is left out, as it is not known before the file is here.
    pub fn url_pin(&self, h: &HttpSource, progress: Progress<'_>) -> Result<String, SourceError> {
        let name = file_name(h)?;
        if let Some(sum) = &h.checksum {
            return Ok(format!("file {name} {sum}"));
        }
        let want = self.locked_url(&h.url)?;
        if let Want::Locked(_, _, digest) = &want {
            return Ok(format!("file {name} {digest}"));
        }
        let content = self.content(&h.url, &want, progress)?;
        Ok(format!("file {name} {} {}", content.digest, content.mtime()))
    }

    /// What a file is, for a lock file.
    pub fn url_digest(&self, h: &HttpSource) -> Result<BlobDigest, SourceError> {
        if let Some(digest) = h.checksum.as_deref().and_then(|c| c.parse().ok()) {
            return Ok(digest);
        }
        let asks = matches!(self.images.policy, PullPolicy::Always | PullPolicy::Newer);
        match self.locked_url(&h.url)? {
            Want::Preferred(digest) if !asks => Ok(digest),
            _ => Ok(self.content(&h.url, &Want::Any, &|_, _| {})?.digest),
        }
    }

    /// Brings a file into the store.
    pub fn url(&self, h: &HttpSource, progress: Progress<'_>) -> Result<UrlContent, SourceError> {
        let want = match h.checksum.as_deref() {
            Some(sum) => Want::Pinned(sum),
            None => self.locked_url(&h.url)?,
        };
        self.content(&h.url, &want, progress)
    }

    /// Opens a file that was brought.
    pub fn open(&self, content: &UrlContent) -> Result<std::fs::File, SourceError> {
        let gone = || SourceError::Read(io::ErrorKind::NotFound.into());
        Ok(self.store().open_blob(&content.digest)?.ok_or_else(gone)?.0)
    }

    fn locked_url(&self, url: &str) -> Result<Want<'_, BlobDigest>, SourceError> {
        self.locked(&shown_url(url), |file| file.url(url).map(|l| (l.line, l.what)))
    }

    fn content(
        &self,
        url: &str,
        want: &Want<'_, BlobDigest>,
        progress: Progress<'_>,
    ) -> Result<UrlContent, SourceError> {
        let cell = cell(&self.urls, url);
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        let content = match cell.take() {
            Some(content) => content,
            None => self.look_up(url, want, progress)?,
        };
        *cell = Some(content.clone());
        match self.is(&content, want)? {
            None => Ok(content),
            Some(got) => Err(want.mismatch(&shown_url(url), got)),
        }
    }

    fn look_up(
        &self,
        url: &str,
        want: &Want<'_, BlobDigest>,
        progress: Progress<'_>,
    ) -> Result<UrlContent, SourceError> {
        let store = self.store();
        let known = match self.recall::<UrlContent>(&record_name(url))? {
            Some(known) if store.has_blob(&known.digest)? => Some(known),
            _ => None,
        };
        if let Some(known) = &known
            && !matches!(want, Want::Any | Want::Preferred(_))
            && self.is(known, want)?.is_none()
        {
            return Ok(known.clone());
        }
        let registry = match (self.images.open_registry(), known.clone()) {
            (Ok(registry), _) => registry,
            (Err(_), Some(known)) => return Ok(known),
            (Err(closed), None) => return self.without_network(url, want, closed),
        };
        let failed = |e: RegistryError| refused(url, e);
        let client = registry.get().map_err(failed)?;
        let secret = self.url_secret(url);
        let usable = known.as_ref();
        let request = FileRequest {
            url,
            authorization: secret.as_deref(),
            etag: usable.and_then(|k| k.etag.as_deref()),
            modified: usable.filter(|k| k.settled).and_then(|k| k.last_modified.as_deref()),
        };
        let mut keep = Keep { store, writer: None };
        let watch = Watch { progress, ..self.images.watch() };
        let head = match (client.file(&request, &mut keep, &watch), known) {
            (Ok(Some(head)), _) => head,
            // Without a condition there is no such answer.
            (Ok(None), Some(known)) => return Ok(known),
            (Ok(None), None) => FileHead::default(),
            (Err(e), Some(known)) if self.may_stand_in(&e) => {
                (self.images.on_warning)(&format!(
                    "cannot ask whether `{}` changed, so what is here is used: {e}",
                    shown_url(url)
                ));
                return Ok(known);
            }
            (Err(e), _) => return Err(failed(e)),
        };
        let writer = match keep.writer {
            Some(writer) => writer,
            None => store.blob_writer()?,
        };
        let digest = writer.commit(Expect::default())?.digest;
        let content = UrlContent {
            digest,
            settled: is_settled(&head),
            etag: head.etag,
            last_modified: head.last_modified,
        };
        self.remember(&record_name(url), &content, &[digest])?;
        Ok(content)
    }

    /// Nobody may be asked, and the URL was never: content that is known by its digest will do.
    fn without_network(
        &self,
        url: &str,
        want: &Want<'_, BlobDigest>,
        closed: Closed,
    ) -> Result<UrlContent, SourceError> {
        let digest = match want {
            Want::Any => None,
            Want::Pinned(sum) => sum.parse().ok(),
            Want::Locked(_, _, digest) | Want::Preferred(digest) => Some(*digest),
        };
        match digest {
            Some(digest) if self.store().has_blob(&digest)? => {
                Ok(UrlContent { digest, last_modified: None, etag: None, settled: false })
            }
            _ => Err(SourceError::Absent { name: shown_url(url), closed }),
        }
    }

    fn may_stand_in(&self, e: &RegistryError) -> bool {
        self.images.policy == PullPolicy::Newer
            && !(self.images.cancelled)()
            && !matches!(e, RegistryError::Local { .. })
    }

    /// `Some(what it is)`: not what is wanted.
    fn is(
        &self,
        content: &UrlContent,
        want: &Want<'_, BlobDigest>,
    ) -> Result<Option<String>, SourceError> {
        let digest = content.digest;
        let got = match want {
            Want::Any | Want::Preferred(_) => return Ok(None),
            Want::Locked(_, _, locked) if *locked == digest => return Ok(None),
            Want::Locked(..) => digest.to_string(),
            Want::Pinned(sum) => match sum.split_once(':') {
                Some(("sha384", _)) => format!("sha384:{}", self.hash::<Sha384>(content)?),
                Some(("sha512", _)) => format!("sha512:{}", self.hash::<Sha512>(content)?),
                _ => digest.to_string(),
            },
        };
        Ok(match want {
            Want::Pinned(sum) if **sum == *got => None,
            _ => Some(got),
        })
    }

    fn hash<D: Digest>(&self, content: &UrlContent) -> Result<String, SourceError> {
        let mut file = self.open(content)?;
        let mut hasher = D::new();
        let mut buf = vec![0; 128 << 10];
        loop {
            match file.read(&mut buf).map_err(SourceError::Read)? {
                0 => break,
                n => hasher.update(&buf[..n]),
            }
        }
        Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The secret for a URL's host, as `Authorization`: `HTTP_AUTH_HEADER_host` whole,
    /// `HTTP_AUTH_TOKEN_host` as a bearer token.
    fn url_secret(&self, url: &str) -> Option<Vec<u8>> {
        let find = |prefix: &str| {
            host_names(url)
                .into_iter()
                .find_map(|host| self.secrets.get(&format!("{prefix}{host}")))
        };
        let trimmed = |s: &[u8]| s.trim_ascii().to_vec();
        find("HTTP_AUTH_HEADER_").map(|s| trimmed(s.expose())).or_else(|| {
            find("HTTP_AUTH_TOKEN_").map(|s| [b"Bearer ", s.expose().trim_ascii()].concat())
        })
    }
}

/// How a host may be called in the id of a secret: with its port, and without.
pub(super) fn host_names(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let mut names = vec![host.to_owned()];
    if let Some((name, port)) = host.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        names.push(name.to_owned());
    }
    names
}

fn refused(url: &str, source: RegistryError) -> SourceError {
    let host = host_names(url).pop().unwrap_or_default();
    let hint = match &source {
        RegistryError::Status { status: 401 | 403, .. } => {
            format!(" (`--secret id=HTTP_AUTH_TOKEN_{host},...` gives a token for it)")
        }
        _ => String::new(),
    };
    SourceError::Url { url: shown_url(url), hint, source: Box::new(source) }
}

fn record_name(url: &str) -> String {
    format!("url {url}")
}

/// One name, whatever the URL's path decodes to.
pub fn file_name(h: &HttpSource) -> Result<&str, SourceError> {
    let name = h.filename.as_str();
    let bad = matches!(name, "" | "." | "..") || name.contains(['/', '\0']) || name.len() > 255;
    if bad { Err(SourceError::FileName(shown_url(name))) } else { Ok(name) }
}

/// An HTTP date in seconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|z| z.timestamp().as_second())
}

fn is_settled(head: &FileHead) -> bool {
    let date = |t: &Option<String>| t.as_deref().and_then(http_date);
    matches!((date(&head.last_modified), date(&head.date)), (Some(m), Some(now)) if now > m + 1)
}

/// A download on its way into the store.
struct Keep<'a> {
    store: &'a Store,
    writer: Option<BlobWriter<'a>>,
}

impl FileSink for Keep<'_> {
    fn begin(&mut self, _head: &FileHead) -> io::Result<()> {
        self.writer = Some(self.store.blob_writer().map_err(io::Error::other)?);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), |w| w.write_all(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_secrets() {
        for (url, want) in [
            ("https://h.example/a:b", &["h.example"][..]),
            ("http://u:p@127.0.0.1:80/x", &["127.0.0.1:80", "127.0.0.1"]),
            ("http://[::1]:80?x", &["[::1]:80", "[::1]"]),
        ] {
            assert_eq!(host_names(url), want, "{url}");
        }
    }

    #[test]
    fn names_are_one_component() {
        let name = |n: &str| {
            let h = HttpSource { url: "http://h/".into(), filename: n.into(), checksum: None };
            file_name(&h).is_ok()
        };
        assert!(name("a.tgz") && name("..a") && name("__unnamed__"));
        for bad in ["", ".", "..", "a/b", "../a", "/a", "a\0"] {
            assert!(!name(bad), "{bad}");
        }
    }

    #[test]
    fn a_date_names_a_content_only_when_it_is_old() {
        let head = |modified: &str, date: &str| FileHead {
            last_modified: Some(modified.into()),
            date: Some(date.into()),
            ..FileHead::default()
        };
        let (t0, t1, t2) = (
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:38 GMT",
            "Sun, 06 Nov 1994 08:49:39 GMT",
        );
        assert!(is_settled(&head(t0, t2)));
        assert!(!is_settled(&head(t0, t1)) && !is_settled(&head(t0, t0)));
        assert!(!is_settled(&head(t0, "x")) && !is_settled(&FileHead::default()));
        assert_eq!(http_date(t0), Some(784_111_777));
    }
}
