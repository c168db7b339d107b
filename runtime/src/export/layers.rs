//! Layers of a snapshot: diff IDs, and blobs where an output wants bytes.

use std::io::{self, Read, Write};

use rgraph_image::layer::{
    LayerError, LayerSource, LayerWriteOptions, decompress_layer, pack, write_layer,
};
use rgraph_image::manifest::{layer_compression, layer_media_type};
use rgraph_ir::request::LayerOptions;
use rgraph_ir::{BlobDigest, DiffId, SnapshotId};
use rgraph_solver::event::EventKind;
use rgraph_store::{BlobRef, Expect, LayerInfo, SnapshotRecord};
use sha2::{Digest, Sha256};

use super::{ExportError, Exporter, NamedLayer};

/// Media type of a plain layer tar.
pub(super) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Counts and hashes what is written.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Exporter<'_> {
    /// The stack of `top`, bottom first, each with its diff ID; the blob is the plain tar, made on
    /// demand, unless the layer came from outside as something else.
    pub(crate) fn named_layers(
        &self,
        top: Option<SnapshotId>,
    ) -> Result<Vec<NamedLayer>, ExportError> {
        let Some(top) = top else { return Ok(Vec::new()) };
        let chain = self.store.chain(top)?;
        let mut out = Vec::with_capacity(chain.len());
        let mut lowers = Vec::new();
        for rec in &chain {
            self.check()?;
            let (diff_id, size, blob) = match &rec.layer {
                Some(LayerInfo { diff_id, tar_size: Some(size), blob }) => {
                    (*diff_id, *size, blob.clone())
                }
                Some(LayerInfo { diff_id, tar_size: None, blob: Some(b) }) => {
                    (*diff_id, b.size, Some(b.clone()))
                }
                _ => {
                    let (diff_id, size) = self.measure(rec, &lowers)?;
                    let layer = LayerInfo { diff_id, tar_size: Some(size), blob: None };
                    self.store.set_layer(rec.id, layer)?;
                    (diff_id, size, None)
                }
            };
            let blob = blob.unwrap_or(BlobRef {
                digest: diff_id.into(),
                size,
                media_type: TAR.to_owned(),
            });
            out.push(NamedLayer { snapshot: rec.id, diff_id, blob, created: rec.created });
            if let Some(dir) = &rec.dir {
                lowers.insert(0, dir.clone());
            }
        }
        Ok(out)
    }

    fn write_options(&self, clamp: bool) -> LayerWriteOptions {
        LayerWriteOptions {
            clamp_mtime: if clamp { self.request.source_date_epoch } else { None },
            userxattr: self.host.userxattr,
        }
    }

    /// Writes the plain tar of a layer that is on disk.
    fn write_tar(
        &self,
        rec: &SnapshotRecord,
        lowers: &[std::path::PathBuf],
        clamp: bool,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let Some(upper) = &rec.dir else {
            return Err(crate::snapshot::SnapshotError::Lost(rec.id).into());
        };
        let source = LayerSource { upper, lowers };
        write_layer(&source, &self.write_options(clamp), out)?;
        Ok(())
    }

    fn measure(
        &self,
        rec: &SnapshotRecord,
        lowers: &[std::path::PathBuf],
    ) -> Result<(DiffId, u64), ExportError> {
        let mut out = Hashing { inner: io::sink(), hasher: Sha256::new(), bytes: 0 };
        // Every directory below must be at hand to tell what changed.
        let full;
        let lowers = match rec.parent {
            Some(parent)
                if lowers.is_empty()
                    || self.store.chain(parent)?.iter().any(|r| r.dir.is_none()) =>
            {
                full = self.snapshots.lowers(parent, None)?;
                &full[..]
            }
            _ => lowers,
        };
        self.write_tar(rec, lowers, false, &mut out)?;
        Ok((DiffId::from_bytes(out.hasher.finalize().into()), out.bytes))
    }

    /// The stack of `top` with a blob for every layer, packed as asked, bytes in the store.
    pub(super) fn packed_layers(
        &self,
        top: Option<SnapshotId>,
        opts: &LayerOptions,
    ) -> Result<Vec<NamedLayer>, ExportError> {
        let clamp = opts.rewrite_timestamp && self.request.source_date_epoch.is_some();
        let mut out = Vec::new();
        if clamp {
            let Some(top) = top else { return Ok(out) };
            for rec in self.store.chain(top)? {
                self.check()?;
                let foreign = rec.layer.as_ref().is_some_and(|l| l.blob.is_some());
                let named =
                    if foreign { self.foreign(&rec, opts)? } else { self.clamped(&rec, opts)? };
                out.push(named);
            }
            return Ok(out);
        }
        for layer in self.named_layers(top)? {
            self.check()?;
            let blob = self.packed(&layer, opts)?;
            out.push(NamedLayer { blob, ..layer });
        }
        Ok(out)
    }

    fn foreign(
        &self,
        rec: &SnapshotRecord,
        opts: &LayerOptions,
    ) -> Result<NamedLayer, ExportError> {
        let layer = rec.layer.as_ref().ok_or(crate::snapshot::SnapshotError::Lost(rec.id))?;
        let blob = layer.blob.clone().ok_or(ExportError::NoBlob(layer.diff_id))?;
        let named =
            NamedLayer { snapshot: rec.id, diff_id: layer.diff_id, blob, created: rec.created };
        let blob = self.packed(&named, opts)?;
        Ok(NamedLayer { blob, ..named })
    }

    /// A layer with its times cut at the epoch is another layer: diff ID and blob of its own, kept
    /// beside the snapshot's.
    fn clamped(
        &self,
        rec: &SnapshotRecord,
        opts: &LayerOptions,
    ) -> Result<NamedLayer, ExportError> {
        let lowers = match rec.parent {
            Some(p) => self.snapshots.lowers(p, None)?,
            None => Vec::new(),
        };
        let mut rec_on_disk = rec.clone();
        if rec_on_disk.dir.is_none() {
            rec_on_disk.dir = self.snapshots.lowers(rec.id, None)?.into_iter().next();
        }
        let (diff_id, blob) =
            self.pack(&|out| self.write_tar(&rec_on_disk, &lowers, true, out), opts)?;
        self.store.add_layer_blob(&diff_id, &blob)?;
        Ok(NamedLayer { snapshot: rec.id, diff_id, blob, created: rec.created })
    }

    /// A blob of the layer in the form asked for. What came from outside keeps its form unless
    /// `force` is given.
    pub(crate) fn packed(
        &self,
        layer: &NamedLayer,
        opts: &LayerOptions,
    ) -> Result<BlobRef, ExportError> {
        let known = self.store.layer_blobs(&layer.diff_id)?;
        let wanted = |b: &BlobRef| layer_compression(&b.media_type) == Some(opts.compression);
        let from_outside = layer.blob.media_type != TAR;
        let candidates = known.iter().chain(std::iter::once(&layer.blob));
        for blob in candidates.filter(|b| wanted(b) || (from_outside && !opts.force)) {
            if self.store.has_blob(&blob.digest)? {
                return Ok(blob.clone());
            }
            if self.fetch(blob)? {
                return Ok(blob.clone());
            }
        }
        let (diff_id, blob) = self.pack(&|out| self.plain_tar(layer, out), opts)?;
        if diff_id != layer.diff_id {
            return Err(ExportError::NoBlob(layer.diff_id));
        }
        self.store.add_layer_blob(&diff_id, &blob)?;
        Ok(blob)
    }

    /// Brings a blob that is known but not here. False: nobody has it.
    fn fetch(&self, blob: &BlobRef) -> Result<bool, ExportError> {
        let read = |source| crate::snapshot::SnapshotError::Read { blob: blob.digest, source };
        let Some(mut from) = self.provider.open(blob).map_err(read)? else { return Ok(false) };
        let mut keep = self.store.blob_writer()?;
        let mut done = 0;
        let mut buf = vec![0u8; 256 << 10];
        loop {
            self.check()?;
            let n = from.read(&mut buf).map_err(|e| read(e.into()))?;
            if n == 0 {
                break;
            }
            keep.write_all(&buf[..n]).map_err(|e| read(e.into()))?;
            done += n as u64;
            self.emit(EventKind::Progress {
                id: blob.digest.to_string(),
                action: "pulling",
                current: done,
                total: blob.size,
            });
        }
        keep.commit(Expect { digest: Some(blob.digest), size: Some(blob.size) })?;
        Ok(true)
    }

    /// Writes the plain tar of a layer: from its directory, or from a blob in another form.
    pub(super) fn plain_tar(
        &self,
        layer: &NamedLayer,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let rec = self
            .store
            .snapshot(layer.snapshot)?
            .ok_or(crate::snapshot::SnapshotError::Lost(layer.snapshot))?;
        // What came from outside is not written again from its directory: tars of other tools
        // differ in their details, and the diff ID names the bytes.
        let ours = rec.layer.as_ref().is_none_or(|l| l.blob.is_none());
        if ours && rec.dir.is_some() {
            let lowers = match rec.parent {
                Some(p) => self.snapshots.lowers(p, None)?,
                None => Vec::new(),
            };
            return self.write_tar(&rec, &lowers, false, out);
        }
        let mut known = self.store.layer_blobs(&layer.diff_id)?;
        known.push(layer.blob.clone());
        for blob in known {
            if !self.store.has_blob(&blob.digest)? && !self.fetch(&blob)? {
                continue;
            }
            let Some((file, _)) = self.store.open_blob(&blob.digest)? else { continue };
            let read = |e: io::Error| crate::snapshot::SnapshotError::Read {
                blob: blob.digest,
                source: e.into(),
            };
            let mut plain = decompress_layer(file).map_err(read)?;
            io::copy(&mut plain, out).map_err(read)?;
            return Ok(());
        }
        Err(ExportError::NoBlob(layer.diff_id))
    }

    /// Packs a tar into the store: tar, diff ID, compression and blob digest in one pass.
    fn pack(
        &self,
        tar: &(dyn Fn(&mut dyn Write) -> Result<(), ExportError> + Sync),
        opts: &LayerOptions,
    ) -> Result<(DiffId, BlobRef), ExportError> {
        let mut blob = self.store.blob_writer()?;
        let source = |out: &mut dyn Write| match tar(out) {
            Err(ExportError::Layer(e)) => Err(e),
            r => r.map_err(|e| LayerError::Write(io::Error::other(e))),
        };
        let ((), packed) = pack(source, opts.compression, opts.level, &mut blob)?;
        let info = blob.commit(Expect { digest: Some(packed.blob), size: Some(packed.size) })?;
        // Blobs are kept under OCI's types; a manifest with Docker's names them in its own way.
        let media_type = layer_media_type(opts.compression, true).unwrap_or(TAR);
        Ok((
            packed.diff_id,
            BlobRef { digest: info.digest, size: info.size, media_type: media_type.to_owned() },
        ))
    }
}

/// True when the blob of a layer is its plain tar and may not exist as a file.
pub(super) fn is_virtual(layer: &NamedLayer) -> bool {
    layer.blob.media_type == TAR && layer.blob.digest == BlobDigest::from(layer.diff_id)
}
