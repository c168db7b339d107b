//! When to try again, and after how long: exponential pauses with jitter, or what the server asked
//! for, and never without end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::error::{RegistryError, Result};
use super::watch::{Report, TransferEvent};

/// How often and how patiently a request is repeated.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Most retries of one request (0: none).
    pub retries: u32,
    /// First pause; each further one is twice as long.
    pub base: Duration,
    /// Longest pause of our own choice.
    pub max_delay: Duration,
    /// Longest pause a server may ask for; when it wants more, the request fails at once.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 5,
            base: Duration::from_millis(500),
            max_delay: Duration::from_secs(15),
            max_retry_after: Duration::from_secs(120),
        }
    }
}

/// The retries of one request.
pub(super) struct Backoff<'a> {
    policy: &'a RetryPolicy,
    used: u32,
    /// An answer could not be read before.
    garbled: bool,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, used: 0, garbled: false }
    }

    /// Real progress was made: what failed before no longer counts.
    pub(super) fn reset(&mut self) {
        self.used = 0;
    }

    /// Reports and waits, or gives the error back when it is final.
    pub(super) async fn wait(
        &mut self,
        error: RegistryError,
        answered: bool,
        report: &dyn Report,
    ) -> Result<()> {
        let Some(delay) = self.next(&error, answered) else { return Err(error) };
        report.event(TransferEvent::Retry {
            number: self.used,
            of: self.policy.retries,
            delay,
            cause: error.to_string(),
        });
        tokio::time::sleep(delay).await;
        Ok(())
    }

    fn next(&mut self, error: &RegistryError, answered: bool) -> Option<Duration> {
        if self.used >= self.policy.retries || !error.is_transient(answered) {
            return None;
        }
        // An address that never answered is more likely wrong than busy.
        if matches!(error, RegistryError::Unreachable { .. }) && !answered && self.used > 0 {
            return None;
        }
        // What is no HTTP may be a proxy's bad moment, once. More often it is another kind of server.
        if matches!(error, RegistryError::NotHttp { .. })
            && std::mem::replace(&mut self.garbled, true)
        {
            return None;
        }
        let asked = match error {
            RegistryError::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        if asked.is_some_and(|d| d > self.policy.max_retry_after) {
            return None;
        }
        let own =
            self.policy.base.saturating_mul(1 << self.used.min(16)).min(self.policy.max_delay);
        self.used += 1;
        Some(match asked {
            // Jitter only upwards: coming back early is what 429 forbids.
            Some(d) => d + self.policy.base.mul_f64(jitter() * 0.5),
            None => own.mul_f64(0.5 + jitter()),
        })
    }
}

/// A number in 0..1, so that many builders do not come back in step. The standard library's hash
/// seeds are random enough for that.
fn jitter() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// `Retry-After` as a pause: seconds, or a date seen from the answer's own `Date`, so that our
/// clock does not matter (RFC 9110, 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let instant = |s: &str| jiff::fmt::rfc2822::parse(s).ok().map(|z| z.timestamp().as_second());
    let now = instant(headers.get(DATE)?.to_str().ok()?)?;
    u64::try_from(instant(text)?.saturating_sub(now)).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(retry_after: Option<u64>) -> RegistryError {
        RegistryError::Status {
            host: "h".into(),
            what: "w".into(),
            status: 429,
            detail: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn pauses_grow_and_end() {
        let policy = RetryPolicy { retries: 3, ..RetryPolicy::default() };
        let mut b = Backoff::new(&policy);
        for want in [500u64, 1000, 2000] {
            let got = b.next(&status(None), true).unwrap().as_millis() as u64;
            assert!((want / 2..=want * 3 / 2).contains(&got), "{got} for {want}");
        }
        assert!(b.next(&status(None), true).is_none());
        b.reset();
        assert!(b.next(&status(None), true).is_some());
    }

    #[test]
    fn the_server_may_ask_for_more_but_not_for_everything() {
        let policy = RetryPolicy::default();
        let mut b = Backoff::new(&policy);
        let d = b.next(&status(Some(7)), true).unwrap();
        assert!(d >= Duration::from_secs(7) && d < Duration::from_secs(8));
        assert!(b.next(&status(Some(3600)), true).is_none());
    }

    #[test]
    fn an_address_that_never_answered_gets_one_more_try() {
        let error =
            |refused| RegistryError::Unreachable { host: "h".into(), cause: "c".into(), refused };
        let policy = RetryPolicy::default();
        for (refused, answered, tries) in
            [(true, false, 0), (false, false, 1), (true, true, 5), (false, true, 5)]
        {
            let mut b = Backoff::new(&policy);
            let got = (0..10).filter(|_| b.next(&error(refused), answered).is_some()).count();
            assert_eq!(got, tries, "{refused} {answered}");
        }
    }

    #[test]
    fn what_is_no_http_gets_one_more_try_in_all() {
        let error = RegistryError::NotHttp { host: "h".into(), cause: "c".into() };
        let policy = RetryPolicy { retries: 9, ..RetryPolicy::default() };
        let mut b = Backoff::new(&policy);
        assert!(b.next(&status(None), true).is_some());
        assert!(b.next(&error, true).is_some());
        assert!(b.next(&status(None), true).is_some());
        assert!(b.next(&error, true).is_none());
        // Real progress does not make such a server one to be waited for.
        b.reset();
        assert!(b.next(&error, true).is_none());
    }

    #[test]
    fn reads_retry_after() {
        let headers = |pairs: &[(reqwest::header::HeaderName, &str)]| {
            let mut h = HeaderMap::new();
            for (k, v) in pairs {
                h.insert(k.clone(), v.parse().unwrap());
            }
            retry_after(&h).map(|d| d.as_secs())
        };
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let later = "Sun, 06 Nov 1994 08:49:49 GMT";
        assert_eq!(headers(&[(RETRY_AFTER, "3")]), Some(3));
        assert_eq!(headers(&[(RETRY_AFTER, later), (DATE, date)]), Some(12));
        assert_eq!(headers(&[(RETRY_AFTER, date), (DATE, later)]), None);
        assert_eq!(headers(&[(RETRY_AFTER, later)]), None);
        assert_eq!(headers(&[(RETRY_AFTER, "soon")]), None);
        assert_eq!(headers(&[]), None);
    }
}
