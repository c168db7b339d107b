//! Layers of a snapshot: diff IDs, and blobs where an output wants bytes.

use std::io::{self, Read, Write};

use rayon::prelude::*;
use rgraph_image::layer::{
    LayerError, LayerSource, LayerWriteOptions, decompress_layer, hashed, pack, write_layer,
};
use rgraph_image::manifest::{layer_compression, layer_media_type};
use rgraph_image::tar::TarError;
use rgraph_ir::request::LayerOptions;
use rgraph_ir::{BlobDigest, DiffId, SnapshotId};
use rgraph_solver::event::EventKind;
use rgraph_store::{BlobInfo, BlobRef, KeyLock, LayerInfo, SnapshotRecord, StoreError};

use super::{ExportError, Exporter, NamedLayer};
use crate::snapshot::{SnapshotError, bring};

/// Media type of a plain layer tar.
pub(super) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Tells about what is read, stops when the build stops.
struct Fetching<'a, 'r> {
    exporter: &'a Exporter<'a>,
    blob: &'a BlobRef,
    from: &'r mut (dyn Read + Send),
    done: u64,
}

impl Read for Fetching<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.exporter.check().map_err(io::Error::other)?;
        let n = self.from.read(buf)?;
        self.done += n as u64;
        if n > 0 {
            self.exporter.emit(EventKind::Progress {
                id: self.blob.digest.to_string(),
                action: "pulling",
                current: self.done,
                total: self.blob.size,
            });
        }
        Ok(n)
    }
}

/// Passes writes on until the build is to stop.
struct Stoppable<'a> {
    exporter: &'a Exporter<'a>,
    out: &'a mut dyn Write,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.exporter.check().map_err(io::Error::other)?;
        self.out.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
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
        let known = |rec: &SnapshotRecord| match &rec.layer {
            // Made here: it can be written in any form, whichever ones it was packed in already.
            Some(LayerInfo { diff_id, tar_size: Some(size), .. }) => Some((*diff_id, *size, None)),
            Some(LayerInfo { diff_id, tar_size: None, blob: Some(b) }) => {
                Some((*diff_id, b.size, Some(b.clone())))
            }
            _ => None,
        };
        let unknown: Vec<usize> =
            (0..chain.len()).filter(|i| known(&chain[*i]).is_none()).collect();
        let measured = self.measure_all(&chain, &unknown)?;
        let mut measured = measured.into_iter();
        let mut out = Vec::with_capacity(chain.len());
        for rec in &chain {
            let Some((diff_id, size, blob)) = known(rec).or_else(|| measured.next()) else {
                return Err(crate::snapshot::SnapshotError::Lost(rec.id).into());
            };
            let outside = blob.is_some();
            let blob = blob.unwrap_or(BlobRef {
                digest: diff_id.into(),
                size,
                media_type: TAR.to_owned(),
            });
            let (snapshot, created) = (rec.id, rec.created);
            out.push(NamedLayer { snapshot, diff_id, blob, outside, created });
        }
        Ok(out)
    }

    /// Diff IDs and sizes of the layers `which` of a chain, in order; on all processors, as each is
    /// a tar to be hashed. They are remembered.
    fn measure_all(
        &self,
        chain: &[SnapshotRecord],
        which: &[usize],
    ) -> Result<Vec<(DiffId, u64, Option<BlobRef>)>, ExportError> {
        let Some(last) = which.last() else { return Ok(Vec::new()) };
        // Every directory below must be at hand to tell what changed; bottom first. What is not
        // there yet may come from a registry, so not on a thread of rayon's.
        let dirs: Option<Vec<_>> = chain[..*last].iter().map(|r| r.dir.clone()).collect();
        let dirs = match (dirs, chain[*last].parent) {
            (None, Some(parent)) => {
                self.snapshots.lowers(parent, None)?.into_iter().rev().collect()
            }
            (dirs, _) => dirs.unwrap_or_default(),
        };
        let one = |i: &usize| {
            self.check()?;
            self.measure(&chain[*i], &dirs[..*i])
        };
        let found: Vec<(DiffId, u64)> = match which {
            [only] => vec![one(only)?],
            several => several.par_iter().map(one).collect::<Result<_, ExportError>>()?,
        };
        let layers: Vec<(SnapshotId, LayerInfo)> = which
            .iter()
            .zip(&found)
            .map(|(i, (diff_id, size))| {
                let layer = LayerInfo { diff_id: *diff_id, tar_size: Some(*size), blob: None };
                (chain[*i].id, layer)
            })
            .collect();
        self.store.set_layers(&layers)?;
        Ok(found.into_iter().map(|(d, n)| (d, n, None)).collect())
    }

    fn write_options(&self, clamp: bool) -> LayerWriteOptions {
        LayerWriteOptions {
            clamp_mtime: if clamp { self.export.source_date_epoch } else { None },
            mtime: None,
            userxattr: self.host.userxattr,
            owners: self.host.owners,
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
            return Err(SnapshotError::Lost(rec.id).into());
        };
        let source = LayerSource { upper, lowers };
        let mut out = Stoppable { exporter: self, out };
        write_layer(&source, &self.write_options(clamp), &mut out)?;
        Ok(())
    }

    /// Diff ID and size of a layer that lies on `below`, bottom first.
    fn measure(
        &self,
        rec: &SnapshotRecord,
        below: &[std::path::PathBuf],
    ) -> Result<(DiffId, u64), ExportError> {
        let lowers: Vec<_> = below.iter().rev().cloned().collect();
        let tar = |out: &mut dyn Write| self.write_tar(rec, &lowers, false, out);
        let ((), digest, size) = hashed::<_, ExportError>(tar, &mut io::sink())?;
        Ok((DiffId::from_bytes(*digest.as_bytes()), size))
    }

    /// Whether the folder on top of a chain still gives the tar it gave when it was first packed.
    /// `None`: it never was, or a folder below is not at hand.
    pub(crate) fn still_itself(
        &self,
        chain: &[SnapshotRecord],
    ) -> Result<Option<bool>, ExportError> {
        let Some((top, below)) = chain.split_last() else { return Ok(None) };
        let Some(LayerInfo { diff_id, tar_size: Some(size), .. }) = &top.layer else {
            return Ok(None);
        };
        let dirs: Option<Vec<_>> = below.iter().map(|r| r.dir.clone()).collect();
        let Some(dirs) = dirs.filter(|_| top.dir.is_some()) else { return Ok(None) };
        match self.measure(top, &dirs) {
            Ok(found) => Ok(Some(found == (*diff_id, *size))),
            Err(e) => {
                self.check()?;
                tracing::debug!(snapshot = top.id.0, error = %e, "a layer cannot be packed");
                Ok(Some(false))
            }
        }
    }

    /// The stack of `top` with a blob for every layer, packed as asked, bytes in the store.
    pub(crate) fn packed_layers(
        &self,
        top: Option<SnapshotId>,
        opts: &LayerOptions,
    ) -> Result<Vec<NamedLayer>, ExportError> {
        self.layers_by(top, opts, &|layer| self.packed(layer, opts))
    }

    /// As [`Self::packed_layers`], but what came from a registry in a form that will do may still be there
    /// alone: a push may find it where it goes.
    pub(super) fn sendable_layers(
        &self,
        top: Option<SnapshotId>,
        opts: &LayerOptions,
    ) -> Result<Vec<NamedLayer>, ExportError> {
        self.layers_by(top, opts, &|layer| self.sendable(layer, opts))
    }

    fn layers_by(
        &self,
        top: Option<SnapshotId>,
        opts: &LayerOptions,
        packed: &dyn Fn(&NamedLayer) -> Result<BlobRef, ExportError>,
    ) -> Result<Vec<NamedLayer>, ExportError> {
        let clamp = opts.rewrite_timestamp && self.export.source_date_epoch.is_some();
        let mut out = Vec::new();
        if clamp {
            let Some(top) = top else { return Ok(out) };
            for rec in self.store.chain(top)? {
                self.check()?;
                let foreign = rec.layer.as_ref().is_some_and(|l| l.tar_size.is_none());
                let named =
                    if foreign { self.foreign(&rec, packed)? } else { self.clamped(&rec, opts)? };
                out.push(named);
            }
            return Ok(out);
        }
        if let Some(top) = top {
            self.pack_unknown(top, opts)?;
        }
        for layer in self.named_layers(top)? {
            self.check()?;
            let blob = packed(&layer)?;
            out.push(NamedLayer { blob, ..layer });
        }
        Ok(out)
    }

    /// The stack of `top` with the plain tar of every layer. Of layers made here that is no blob of the
    /// store: their folders give the bytes when they are written out ([`super::archive::ExportBlobs`]).
    pub(crate) fn plain_layers(
        &self,
        top: Option<SnapshotId>,
        opts: &LayerOptions,
    ) -> Result<Vec<NamedLayer>, ExportError> {
        if opts.rewrite_timestamp && self.export.source_date_epoch.is_some() {
            return self.packed_layers(top, opts);
        }
        let mut out = Vec::new();
        for layer in self.named_layers(top)? {
            self.check()?;
            let blob = if layer.outside { self.packed(&layer, opts)? } else { layer.blob.clone() };
            out.push(NamedLayer { blob, ..layer });
        }
        Ok(out)
    }

    /// Packs the layers of which nothing is known yet: their diff IDs come out of the same pass.
    pub(crate) fn pack_unknown(
        &self,
        top: SnapshotId,
        opts: &LayerOptions,
    ) -> Result<(), ExportError> {
        let chain = self.store.chain(top)?;
        for (i, rec) in chain.iter().enumerate() {
            if rec.layer.is_some() || rec.dir.is_none() {
                continue;
            }
            let _one = self.packing(rec.id)?;
            if self.store.snapshot(rec.id)?.is_none_or(|now| now.layer.is_some()) {
                continue;
            }
            let below: Option<Vec<_>> = chain[..i].iter().rev().map(|r| r.dir.clone()).collect();
            let lowers = match (below, rec.parent) {
                (None, Some(parent)) => self.snapshots.lowers(parent, None)?,
                (below, _) => below.unwrap_or_default(),
            };
            let (diff_id, size, blob) =
                self.pack(&|out| self.write_tar(rec, &lowers, false, out), opts)?;
            let layer = LayerInfo { diff_id, tar_size: Some(size), blob: None };
            self.store.set_layer(rec.id, layer)?;
            self.store.add_layer_blob(&diff_id, &blob)?;
        }
        Ok(())
    }

    /// Packs the layers of a stack that were made here and are not packed as asked yet. Nothing is
    /// fetched for it: a stack that is not all on disk is left as it is.
    pub(crate) fn pack_made(
        &self,
        top: SnapshotId,
        opts: &LayerOptions,
    ) -> Result<(), ExportError> {
        if self.store.chain(top)?.iter().any(|rec| rec.dir.is_none()) {
            return Ok(());
        }
        self.pack_unknown(top, opts)?;
        for layer in self.named_layers(Some(top))?.iter().filter(|l| !l.outside) {
            self.check()?;
            self.packed(layer, opts)?;
        }
        Ok(())
    }

    /// One at a time packs a layer, here or in another process: whoever comes second finds what the
    /// first has made.
    fn packing(&self, layer: SnapshotId) -> Result<KeyLock, ExportError> {
        self.check()?;
        let name = format!("pack-{layer}");
        match self.store.key_lock(&name, &mut |_| !self.cancel.is_cancelled()) {
            Err(StoreError::Cancelled) => Err(ExportError::Cancelled),
            lock => Ok(lock?),
        }
    }

    fn foreign(
        &self,
        rec: &SnapshotRecord,
        packed: &dyn Fn(&NamedLayer) -> Result<BlobRef, ExportError>,
    ) -> Result<NamedLayer, ExportError> {
        let layer = rec.layer.as_ref().ok_or(SnapshotError::Lost(rec.id))?;
        let blob = layer.blob.clone().ok_or(ExportError::NoBlob(layer.diff_id))?;
        let named = NamedLayer {
            snapshot: rec.id,
            diff_id: layer.diff_id,
            blob,
            outside: true,
            created: rec.created,
        };
        let blob = packed(&named)?;
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
        let (diff_id, _, blob) =
            self.pack(&|out| self.write_tar(&rec_on_disk, &lowers, true, out), opts)?;
        self.store.add_layer_blob(&diff_id, &blob)?;
        let (snapshot, created) = (rec.id, rec.created);
        Ok(NamedLayer { snapshot, diff_id, blob, outside: false, created })
    }

    /// A blob of the layer in the form asked for. What came from outside keeps its form unless
    /// `force` is given.
    pub(crate) fn packed(
        &self,
        layer: &NamedLayer,
        opts: &LayerOptions,
    ) -> Result<BlobRef, ExportError> {
        if let Some(blob) = self.known_form(layer, opts)? {
            return Ok(blob);
        }
        let _one = self.packing(layer.snapshot)?;
        if let Some(blob) = self.known_form(layer, opts)? {
            return Ok(blob);
        }
        let (mut diff_id, _, mut blob) = self.pack(&|out| self.plain_tar(layer, out), opts)?;
        if diff_id != layer.diff_id
            && !self.store.has_blob(&layer.blob.digest)?
            && self.fetch(&layer.blob, layer.diff_id)?
        {
            // The folder is of another tool's tar: only its own bytes will do.
            (diff_id, _, blob) = self.pack(&|out| self.plain_tar(layer, out), opts)?;
        }
        if diff_id != layer.diff_id {
            // Its folder or its blob is not what it was when it was named.
            return Err(ExportError::Changed { was: layer.diff_id, is: diff_id });
        }
        self.store.add_layer_blob(&diff_id, &blob)?;
        Ok(blob)
    }

    /// As [`Self::packed`], for a registry: what another one has in a form that will do is not brought
    /// here for it.
    pub(crate) fn sendable(
        &self,
        layer: &NamedLayer,
        opts: &LayerOptions,
    ) -> Result<BlobRef, ExportError> {
        let forms = self.forms(layer, opts)?;
        for blob in &forms {
            if self.store.has_blob(&blob.digest)? {
                return Ok(blob.clone());
            }
        }
        match forms.into_iter().find(|b| layer.outside && self.images.has_origin(&b.digest)) {
            Some(elsewhere) => Ok(elsewhere),
            None => self.packed(layer, opts),
        }
    }

    /// A form of a layer that will do and is here, or was brought.
    fn known_form(
        &self,
        layer: &NamedLayer,
        opts: &LayerOptions,
    ) -> Result<Option<BlobRef>, ExportError> {
        for blob in self.forms(layer, opts)? {
            if self.store.has_blob(&blob.digest)? {
                return Ok(Some(blob));
            }
            // A plain tar is written from the folder before anybody is asked for it: of an image
            // made here there is no other.
            if !is_plain(&blob, layer.diff_id) && self.fetch(&blob, layer.diff_id)? {
                return Ok(Some(blob));
            }
        }
        Ok(None)
    }

    /// The known forms of a layer that will do, here or not.
    fn forms(&self, layer: &NamedLayer, opts: &LayerOptions) -> Result<Vec<BlobRef>, ExportError> {
        let mut forms = self.store.layer_blobs(&layer.diff_id)?;
        forms.push(layer.blob.clone());
        forms.retain(|b| {
            layer_compression(&b.media_type) == Some(opts.compression)
                || (layer.outside && !opts.force)
        });
        Ok(forms)
    }

    /// Brings a blob that is known but not here, and checks that it is the layer it is said to be.
    /// False: nobody has it.
    fn fetch(&self, blob: &BlobRef, want: DiffId) -> Result<bool, ExportError> {
        let read = |e: io::Error| SnapshotError::Read { blob: blob.digest, source: e.into() };
        let cancelled = || self.cancel.is_cancelled();
        let got = bring(self.store, self.provider, blob, &cancelled, |from| {
            let mut fetching = Fetching { exporter: self, blob, from, done: 0 };
            let content = |out: &mut dyn Write| -> Result<(), LayerError> {
                let broken = |e| LayerError::Tar(TarError::Io(e));
                let mut content = decompress_layer(&mut fetching).map_err(broken)?;
                io::copy(&mut content, out).map(drop).map_err(broken)
            };
            let ((), digest, _) = hashed(content, &mut io::sink())
                .map_err(|source| SnapshotError::Unpack { blob: blob.digest, source })?;
            // Whatever stands behind the compressed stream counts for the blob's digest.
            io::copy(&mut fetching, &mut io::sink()).map_err(read)?;
            let got = DiffId::from_bytes(*digest.as_bytes());
            if got != want {
                return Err(SnapshotError::DiffId { blob: blob.digest, want, got });
            }
            Ok(())
        });
        match got {
            Err(SnapshotError::Cancelled) => Err(ExportError::Cancelled),
            got => Ok(got?.is_some()),
        }
    }

    /// Writes the plain tar of a layer: from its directory, or from a blob in another form.
    pub(super) fn plain_tar(
        &self,
        layer: &NamedLayer,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let rec =
            self.store.snapshot(layer.snapshot)?.ok_or(SnapshotError::Lost(layer.snapshot))?;
        let mut known = self.store.layer_blobs(&layer.diff_id)?;
        known.push(layer.blob.clone());
        let from_folder = |out: &mut dyn Write| {
            let lowers = match rec.parent {
                Some(p) => self.snapshots.lowers(p, None)?,
                None => Vec::new(),
            };
            self.write_tar(&rec, &lowers, false, out)
        };
        // What came from outside is not written again from its directory: tars of other tools
        // differ in their details, and the diff ID names the bytes.
        if !layer.outside && rec.dir.is_some() {
            return from_folder(out);
        }
        for blob in known {
            // The plain tar of what was made here is nowhere else.
            let nowhere = !layer.outside && is_plain(&blob, layer.diff_id);
            if nowhere
                || !self.store.has_blob(&blob.digest)? && !self.fetch(&blob, layer.diff_id)?
            {
                continue;
            }
            let Some(file) = self.store.open_blob_verified(&blob.digest)? else { continue };
            let read = |e: io::Error| SnapshotError::Read { blob: blob.digest, source: e.into() };
            let mut plain = decompress_layer(file).map_err(read)?;
            io::copy(&mut plain, out).map_err(read)?;
            return Ok(());
        }
        if rec.dir.is_some() {
            // Whoever asked compares the diff ID.
            return from_folder(out);
        }
        Err(ExportError::NoBlob(layer.diff_id))
    }

    /// Packs a tar into the store: tar, diff ID with size, compression and blob digest in one pass.
    fn pack(
        &self,
        tar: &(dyn Fn(&mut dyn Write) -> Result<(), ExportError> + Sync),
        opts: &LayerOptions,
    ) -> Result<(DiffId, u64, BlobRef), ExportError> {
        let mut blob = self.store.incoming()?;
        let cause = std::sync::Mutex::new(None);
        let source = |out: &mut dyn Write| match tar(out) {
            Err(ExportError::Layer(e)) => Err(e),
            r => r.map_err(|e| {
                // Told below as what it is: somebody may know a remedy.
                *cause.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                LayerError::Write(io::Error::other("the layer could not be read"))
            }),
        };
        let done = pack(source, opts.compression, opts.level, &mut blob);
        if let Some(e) = cause.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(e);
        }
        let ((), packed) = done?;
        let info = blob.commit(BlobInfo { digest: packed.blob, size: packed.size })?;
        // Blobs are kept under OCI's types; a manifest with Docker's names them in its own way.
        let media_type = layer_media_type(opts.compression, true).unwrap_or(TAR);
        Ok((
            packed.diff_id,
            packed.diff_size,
            BlobRef { digest: info.digest, size: info.size, media_type: media_type.to_owned() },
        ))
    }
}

/// True when the blob of a layer is its plain tar and may not exist as a file.
pub(super) fn is_virtual(layer: &NamedLayer) -> bool {
    is_plain(&layer.blob, layer.diff_id)
}

fn is_plain(blob: &BlobRef, diff_id: DiffId) -> bool {
    blob.digest == BlobDigest::from(diff_id)
}
