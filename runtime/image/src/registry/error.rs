//! What can go wrong between us and a registry. Everything a server said that ends up in a text is
//! cut and freed of control bytes first (see [`clean`]).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rgraph_ir::BlobDigest;

/// Shorthand of this module.
pub type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Why a request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection: refused, no route, no such name, no answer in time.
    #[error("{host} is not reachable: {cause}")]
    Unreachable {
        /// `host[:port]`.
        host: String,
        /// The innermost cause.
        cause: String,
        /// Nobody listens there, or there is no such name; waiting only helps when somebody
        /// answered a moment ago.
        refused: bool,
    },
    /// The TLS handshake failed.
    #[error("no trusted connection to {host}: {cause}")]
    Tls {
        /// `host[:port]`.
        host: String,
        /// The innermost cause.
        cause: String,
    },
    /// The connection ended in the middle of a request or answer.
    #[error("connection to {host} broke: {cause}")]
    Broken {
        /// `host[:port]`.
        host: String,
        /// The innermost cause.
        cause: String,
    },
    /// What came is no HTTP: the head of an answer, or the frame of its body, cannot be read.
    #[error("{host} does not answer in HTTP: {cause}")]
    NotHttp {
        /// `host[:port]`.
        host: String,
        /// The innermost cause.
        cause: String,
    },
    /// The connection stayed open, but nothing or next to nothing came.
    #[error("{host} was silent for {seconds} s")]
    Silent {
        /// `host[:port]`.
        host: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// HTTP 401 or 403 after everything we have was offered.
    #[error("access to {what} denied{}: {detail}", if *.with_login { "" } else { " (no credentials for this registry)" })]
    Denied {
        /// The repository or registry.
        what: String,
        /// Whether credentials were sent.
        with_login: bool,
        /// What the server said.
        detail: String,
    },
    /// HTTP 404.
    #[error("{what} not found{}", if .detail.is_empty() { String::new() } else { format!(": {}", .detail) })]
    NotFound {
        /// Manifest, blob or repository.
        what: String,
        /// What the server said.
        detail: String,
    },
    /// Any other answer that is not the expected one.
    #[error("unexpected status {status} from {host} for {what}{}", if .detail.is_empty() { String::new() } else { format!(": {}", .detail) })]
    Status {
        /// `host[:port]`.
        host: String,
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the server said.
        detail: String,
        /// How long the server asked us to wait.
        retry_after: Option<Duration>,
    },
    /// The bytes are not those that were asked for.
    #[error("digest mismatch: want {want}, got {got}, from {from}")]
    Digest {
        /// What was asked for.
        want: BlobDigest,
        /// What came.
        got: BlobDigest,
        /// The URL's host and repository.
        from: String,
    },
    /// A blob is longer or shorter than its descriptor says.
    #[error("size mismatch of {digest}: want {want} bytes, got {got}, from {from}")]
    Size {
        /// Which blob.
        digest: BlobDigest,
        /// As declared, bytes.
        want: u64,
        /// `17`, `more`, `at least 20`.
        got: String,
        /// The URL's host and repository.
        from: String,
    },
    /// An answer is longer than any honest one.
    #[error("{what} from {host} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Which answer.
        what: String,
        /// `host[:port]`.
        host: String,
        /// Bytes.
        limit: u64,
    },
    /// The registry names a token service that gets nothing from us.
    #[error("realm `{realm}` refused: {why}")]
    Realm {
        /// As the registry wrote it.
        realm: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// A redirect or upload location that is not followed.
    #[error("redirect from {from} to `{to}` refused: {why}")]
    Redirect {
        /// `host[:port]`.
        from: String,
        /// Where it points.
        to: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The server does not speak the protocol.
    #[error("malformed answer from {host}: {why}")]
    Malformed {
        /// `host[:port]`.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// Credentials are configured but cannot be read.
    #[error("credentials for {host} from `{}`: {why}", .path.display())]
    Credentials {
        /// `host[:port]`.
        host: String,
        /// The config file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The settings for a host cannot be used.
    #[error("registry settings for {host}: {why}")]
    Settings {
        /// `host[:port]`.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// Reading what is to be pushed, or writing what was pulled, failed.
    #[error("{what}")]
    Local {
        /// Which step.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("canceled")]
    Cancelled,
}

impl RegistryError {
    /// Whether the same request may succeed a little later. `answered`: this host gave an answer
    /// before, so a refused connection is a restart and not a wrong address.
    pub(super) fn is_transient(&self, answered: bool) -> bool {
        match self {
            Self::Unreachable { refused, .. } => answered || !refused,
            // That of a server in trouble, now and then; see `Backoff` for how often.
            Self::Broken { .. } | Self::Silent { .. } | Self::NotHttp { .. } => true,
            Self::Status { status, .. } => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 520..=524)
            }
            _ => false,
        }
    }

    /// Takes the error out of an [`io::Error`] made by [`super::BlobReader`], anything else becomes
    /// [`RegistryError::Local`].
    pub fn from_io(e: io::Error) -> Self {
        match e.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::Local { what: "reading a blob", source },
        }
    }
}

impl From<RegistryError> for io::Error {
    fn from(e: RegistryError) -> Self {
        let kind = match &e {
            RegistryError::Digest { .. } | RegistryError::Size { .. } => io::ErrorKind::InvalidData,
            RegistryError::NotFound { .. } => io::ErrorKind::NotFound,
            RegistryError::Denied { .. } => io::ErrorKind::PermissionDenied,
            // Not `Interrupted`: std's read loops would simply try again.
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, e)
    }
}

/// Longest piece of a server's own words in a message, characters.
const MAX_WORDS: usize = 300;

/// A server's words, fit for a terminal: one line, no control bytes, cut.
pub(super) fn clean(text: &str) -> String {
    let mut out: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() || is_bidi(c) { ' ' } else { c })
        .take(MAX_WORDS)
        .collect::<String>()
        .trim_end()
        .to_owned();
    if text.trim().chars().nth(MAX_WORDS).is_some() {
        out.push('…');
    }
    out
}

/// Characters that turn the direction of text and so can make a message read as another.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_server_are_harmless() {
        assert_eq!(clean(" a\x1b[31mb\r\nc\u{202e} "), "a [31mb  c");
        assert_eq!(clean(&"x".repeat(1000)).chars().count(), MAX_WORDS + 1);
    }

    #[test]
    fn what_is_tried_again() {
        let status = |status| RegistryError::Status {
            host: "h".into(),
            what: "w".into(),
            status,
            detail: String::new(),
            retry_after: None,
        };
        for (code, again) in [
            (400, false),
            (401, false),
            (404, false),
            (416, false),
            (429, true),
            (500, true),
            (501, false),
            (503, true),
        ] {
            assert_eq!(status(code).is_transient(true), again, "{code}");
        }
        let refused =
            RegistryError::Unreachable { host: "h".into(), cause: "c".into(), refused: true };
        assert!(!refused.is_transient(false));
        assert!(refused.is_transient(true));
        assert!(!RegistryError::Cancelled.is_transient(true));
    }

    #[test]
    fn survives_the_way_through_io() {
        let e = RegistryError::from_io(io::Error::from(RegistryError::Cancelled));
        assert!(matches!(e, RegistryError::Cancelled));
        let e = RegistryError::from_io(io::Error::other("disk"));
        assert!(matches!(e, RegistryError::Local { .. }));
    }
}
