//! How a caller looks on: progress, remarkable events, and the wish to stop. All callbacks run on
//! the thread that called the blocking function, never on a thread of the runtime.

use std::fmt;
use std::time::Duration;

use rgraph_ir::BlobDigest;

/// Something worth a line in the log of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferEvent {
    /// A failed request will be sent again.
    Retry {
        /// This retry, from 1.
        number: u32,
        /// Most retries.
        of: u32,
        /// Pause before it.
        delay: Duration,
        /// Why the last try failed.
        cause: String,
    },
    /// A download goes on where it broke off.
    Resuming {
        /// Which blob.
        digest: BlobDigest,
        /// Bytes already here.
        at: u64,
    },
    /// A mirror failed; the next one or the registry itself is asked.
    MirrorFailed {
        /// `host[:port]`.
        mirror: String,
        /// Why.
        cause: String,
    },
    /// Nothing was sent: the registry has the blob.
    Exists {
        /// Which blob.
        digest: BlobDigest,
    },
    /// Nothing was sent: the registry took the blob from another repository.
    Mounted {
        /// Which blob.
        digest: BlobDigest,
        /// The other repository.
        from: String,
    },
}

impl fmt::Display for TransferEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry { number, of, delay, cause } => {
                write!(f, "retry {number}/{of} in {:.1} s: {cause}", delay.as_secs_f64())
            }
            Self::Resuming { digest, at } => write!(f, "resuming at {at} of {digest}"),
            Self::MirrorFailed { mirror, cause } => write!(f, "mirror {mirror} failed: {cause}"),
            Self::Exists { digest } => write!(f, "{digest} exists"),
            Self::Mounted { digest, from } => write!(f, "{digest} mounted from {from}"),
        }
    }
}

/// The callbacks of one call.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Bytes done and bytes in all, of one blob.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Retries, resumes and the like.
    pub on_event: &'a (dyn Fn(&TransferEvent) + Sync),
    /// Asked several times a second; true makes the call end with
    /// [`super::RegistryError::Cancelled`].
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'static> {
    /// Nobody looks on.
    pub const QUIET: Watch<'static> =
        Watch { progress: &|_, _| {}, on_event: &|_| {}, cancelled: &|| false };
}

/// Where the inner machinery reports to: a [`Watch`], or the channel of a reader.
pub(super) trait Report: Sync {
    /// Takes one event.
    fn event(&self, event: TransferEvent);
}

impl Report for Watch<'_> {
    fn event(&self, event: TransferEvent) {
        (self.on_event)(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_well() {
        let e = TransferEvent::Retry {
            number: 2,
            of: 5,
            delay: Duration::from_millis(1234),
            cause: "connection reset".into(),
        };
        assert_eq!(e.to_string(), "retry 2/5 in 1.2 s: connection reset");
    }
}
