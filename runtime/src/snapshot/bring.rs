//! A blob from outside, used while it comes: whoever wants its bytes reads them, and a copy goes into
//! the store, where it gets its name when all of it was right.

use std::io::{self, Read, Write as _};

use rgraph_store::{BlobInfo, BlobRef, Incoming, Store};

use super::{LayerProvider, SnapshotError};

/// Brings `blob` from one of `provider`'s places and gives its bytes to `consume`, from the first one
/// for each place that is tried. `None`: nobody has it. When `consume` fails, so does the blob: then
/// nothing is kept, but for what a broken transfer brought, from where the next one goes on.
pub(crate) fn bring<T>(
    store: &Store,
    provider: &dyn LayerProvider,
    blob: &BlobRef,
    cancelled: &(dyn Fn() -> bool + Sync),
    mut consume: impl FnMut(&mut (dyn Read + Send)) -> Result<T, SnapshotError>,
) -> Result<Option<T>, SnapshotError> {
    let mut resumable = true;
    loop {
        let copy = store.download(&blob.digest)?;
        let front = copy.front()?.filter(|_| resumable);
        let resumed = front.is_some();
        let read = |source| SnapshotError::Read { blob: blob.digest, source };
        let Some(from) = provider.open(blob, front).map_err(read)? else { return Ok(None) };
        let mut arriving = Arriving { from, copy, transfer: Transfer::Going };
        let got = consume(&mut arriving).and_then(|v| {
            // The promise is checked at the end, so that has to be seen.
            let end = io::copy(&mut arriving, &mut io::sink());
            end.map(|_| v).map_err(|e| read(e.into()))
        });
        let Arriving { copy, transfer, .. } = arriving;
        let e = match got {
            Ok(v) => {
                copy.commit(BlobInfo { digest: blob.digest, size: blob.size })?;
                return Ok(Some(v));
            }
            Err(e) => e,
        };
        if cancelled() {
            return Err(SnapshotError::Cancelled);
        }
        // Not this blob's fault: a layer below is missing.
        if let SnapshotError::Lost(_) = e {
            return Err(e);
        }
        // Nor is it the giver's that this machine cannot keep it.
        if transfer == Transfer::NotKept || is_full(&e) {
            copy.discard();
            return Err(e);
        }
        if transfer != Transfer::Broken {
            copy.discard();
            // Perhaps what was kept is wrong: nothing tells. Of a wrong diff ID it is known that the
            // blob was right, and a full disk says nothing of it.
            if resumed && matches!(e, SnapshotError::Unpack { .. } | SnapshotError::Read { .. }) {
                resumable = false;
                continue;
            }
        }
        if !provider.distrust(blob, &crate::worker::report(&e)) {
            return Err(e);
        }
    }
}

/// True when there is no room for it here.
fn is_full(e: &SnapshotError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(e) = next {
        let kind = e.downcast_ref::<io::Error>().map(io::Error::kind);
        if let Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) = kind {
            return true;
        }
        next = e.source();
    }
    false
}

/// How far a transfer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transfer {
    /// It did not fail.
    Going,
    /// It broke off.
    Broken,
    /// Its bytes are not those that were promised.
    Wrong,
    /// The copy of it cannot be written.
    NotKept,
}

/// Copies what is read.
struct Arriving<'a, 's> {
    from: Box<dyn Read + Send + 'a>,
    copy: Incoming<'s>,
    transfer: Transfer,
}

impl Read for Arriving<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf).inspect_err(|e| {
            self.transfer = match e.kind() {
                io::ErrorKind::InvalidData => Transfer::Wrong,
                _ => Transfer::Broken,
            };
        })?;
        self.copy.write_all(&buf[..n]).inspect_err(|_| self.transfer = Transfer::NotKept)?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rgraph_image::layer::LayerError;
    use rgraph_ir::BlobDigest;
    use rgraph_store::{OpenOptions, Part};

    use super::*;

    /// Has the blob, and is always believed to have another one.
    #[derive(Default)]
    struct Giver {
        distrusted: AtomicUsize,
    }

    impl LayerProvider for Giver {
        fn open(
            &self,
            _: &BlobRef,
            _: Option<Part>,
        ) -> Result<Option<Box<dyn Read + Send + '_>>, Box<dyn std::error::Error + Send + Sync>>
        {
            Ok(Some(Box::new(&b"bytes"[..])))
        }

        fn distrust(&self, _: &BlobRef, _: &str) -> bool {
            self.distrusted.fetch_add(1, Ordering::SeqCst) < 2
        }
    }

    #[test]
    fn a_full_disk_is_not_the_givers_fault() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path(), OpenOptions::default()).unwrap();
        let digest = BlobDigest::of(b"bytes");
        let blob = BlobRef { digest, size: 5, media_type: String::new() };
        for (kind, distrusted) in [
            (io::ErrorKind::StorageFull, 0),
            (io::ErrorKind::QuotaExceeded, 0),
            (io::ErrorKind::InvalidData, 3),
        ] {
            let giver = Giver::default();
            let full = || LayerError::Write(io::Error::from(kind));
            let got = bring(&store, &giver, &blob, &|| false, |_| -> Result<(), _> {
                Err(SnapshotError::Unpack { blob: digest, source: full() })
            });
            assert!(matches!(got, Err(SnapshotError::Unpack { .. })), "{kind:?}");
            assert_eq!(giver.distrusted.load(Ordering::SeqCst), distrusted, "{kind:?}");
        }
    }
}
