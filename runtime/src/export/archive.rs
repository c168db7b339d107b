//! Outputs that are one archive: OCI layouts and Docker archives.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use rgraph_image::archive::write_docker_archive;
use rgraph_image::blobs::{BlobError, BlobSource, CopyError, Export, promised};
use rgraph_image::layer::{LayerError, hashed};
use rgraph_image::layout::{ArchiveError, write_oci_archive, write_oci_layout};
use rgraph_image::manifest::{Descriptor, OCI_INDEX};
use rgraph_image::{CopyFault, copy_beside};
use rgraph_ir::annotation::AnnotationPlace;
use rgraph_ir::request::{ArchiveOutput, Compression, Dest, LayerOptions};
use rgraph_ir::{BlobDigest, DiffId, Reference};
use rgraph_solver::backend::BuiltImage;
use rgraph_store::Store;

use super::image::Whole;
use super::index::index_notes;
use super::layers::is_virtual;
use super::{Built, ExportError, Exporter, NamedLayer};

fn open<'s>(store: &'s Store, digest: &BlobDigest) -> io::Result<Box<dyn Read + Send + 's>> {
    let reader = store.open_blob_verified(digest).map_err(io::Error::other)?;
    Ok(Box::new(reader.ok_or(io::ErrorKind::NotFound)?))
}

/// The blobs of the store, checked while they are read.
pub(crate) struct StoreBlobs<'a>(pub(crate) &'a Store);

impl BlobSource for StoreBlobs<'_> {
    fn open(&self, digest: &BlobDigest) -> io::Result<Box<dyn Read + Send + '_>> {
        open(self.0, digest)
    }

    fn size(&self, digest: &BlobDigest) -> io::Result<u64> {
        match self.0.open_blob(digest).map_err(io::Error::other)? {
            Some((_, size)) => Ok(size),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// What is read is checked already.
    fn write(&self, d: &Descriptor, out: &mut dyn Write) -> Result<(), CopyError> {
        let read = |source| BlobError::Io { digest: d.digest, source };
        let reader = self.0.open_blob_verified(&d.digest).map_err(|e| read(io::Error::other(e)))?;
        let mut reader = reader.ok_or_else(|| read(io::ErrorKind::NotFound.into()))?;
        let size = reader.size();
        promised(d, d.digest, size).map_err(read)?;
        match copy_beside(&mut reader, size, out) {
            Ok(_) => Ok(()),
            Err(CopyFault::Read(e)) => Err(read(e).into()),
            Err(CopyFault::Write(e)) => Err(CopyError::Write(e)),
        }
    }
}

/// What an archive takes its blobs from: the store, and for plain layers made here their folders, so
/// that their bytes are written once.
pub(crate) struct ExportBlobs<'e, 'a> {
    exporter: &'e Exporter<'a>,
    plain: BTreeMap<BlobDigest, NamedLayer>,
    /// Why the bytes of a layer are not to be had: somebody may know a remedy.
    cause: Mutex<Option<ExportError>>,
}

impl<'e, 'a> ExportBlobs<'e, 'a> {
    /// With the layers that may be in no blob.
    pub(crate) fn new<'l>(
        exporter: &'e Exporter<'a>,
        layers: impl IntoIterator<Item = &'l NamedLayer>,
    ) -> Self {
        let plain = layers.into_iter().filter(|l| is_virtual(l) && !l.outside);
        let plain = plain.map(|l| (l.blob.digest, l.clone())).collect();
        Self { exporter, plain, cause: Mutex::new(None) }
    }

    /// Why an archive could not be written to `dest`.
    pub(crate) fn failed(&self, dest: &Dest, e: ArchiveError) -> ExportError {
        if self.exporter.cancel.is_cancelled() {
            return ExportError::Cancelled;
        }
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner).take();
        cause.unwrap_or_else(|| archive_error(dest, e))
    }

    fn lost(&self, d: &Descriptor, cause: ExportError) -> CopyError {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        let source = io::Error::other("the layer could not be read");
        BlobError::Io { digest: d.digest, source }.into()
    }
}

/// Passes on as many bytes as were promised and swallows what comes after them: a folder that grew is told
/// by its digest, as any other change is, and not by an archive that has no room for it.
struct Front<'o> {
    out: &'o mut dyn Write,
    left: u64,
}

impl Write for Front<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let most = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(data.len());
        }
        let n = self.out.write(&data[..most])?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl BlobSource for ExportBlobs<'_, '_> {
    fn open(&self, digest: &BlobDigest) -> io::Result<Box<dyn Read + Send + '_>> {
        open(self.exporter.store, digest)
    }

    fn size(&self, digest: &BlobDigest) -> io::Result<u64> {
        StoreBlobs(self.exporter.store).size(digest)
    }

    fn write(&self, d: &Descriptor, out: &mut dyn Write) -> Result<(), CopyError> {
        let store = StoreBlobs(self.exporter.store);
        // One with other times than its folder has is in the store: it was packed.
        let read = |e| BlobError::Io { digest: d.digest, source: io::Error::other(e) };
        let packed = self.exporter.store.has_blob(&d.digest).map_err(read)?;
        let Some(layer) = self.plain.get(&d.digest).filter(|_| !packed) else {
            return store.write(d, out);
        };
        let tar = |to: &mut dyn Write| self.exporter.plain_tar(layer, to);
        match hashed(tar, &mut Front { out, left: d.size }) {
            Ok(((), got, size)) if promised(d, got, size).is_ok() => Ok(()),
            Ok(((), got, _)) => {
                let is = DiffId::from_bytes(*got.as_bytes());
                Err(self.lost(d, ExportError::Changed { was: layer.diff_id, is }))
            }
            Err(ExportError::Layer(LayerError::Write(e))) => Err(CopyError::Write(e)),
            Err(e) => Err(self.lost(d, e)),
        }
    }
}

impl Exporter<'_> {
    /// An OCI layout as one tar, or as a folder.
    pub(super) fn oci(
        &self,
        built: &[Built<'_>],
        o: &ArchiveOutput,
    ) -> Result<Vec<BuiltImage>, ExportError> {
        let wholes = self.packed_images(built, &o.layers, o)?;
        let exports = vec![self.export(&wholes, o)?];
        let source = ExportBlobs::new(self, wholes.iter().flat_map(|w| &w.layers));
        match (&o.dest, o.tar) {
            (Dest::Path(dir), false) => {
                write_oci_layout(&exports, &source, dir).map_err(|e| source.failed(&o.dest, e))?;
            }
            _ => self.write_output(&o.dest, &mut |out| {
                write_oci_archive(&exports, &source, out)
                    .map(drop)
                    .map_err(|e| source.failed(&o.dest, e))
            })?,
        }
        Ok(wholes.into_iter().map(|w| w.built).collect())
    }

    /// The images as they stand in an archive: one, or an index.
    fn export(&self, wholes: &[Whole], o: &ArchiveOutput) -> Result<Export, ExportError> {
        let names = self.references(&o.names, &o.dest)?;
        if let [Whole { image, attested: None, .. }] = wholes {
            return Ok(Export::image(image, names));
        }
        let images: Vec<_> = wholes.iter().map(|w| w.image.clone()).collect();
        let said: Vec<_> = wholes.iter().filter_map(|w| w.attested.as_ref()).collect();
        let notes = index_notes(&o.annotations);
        let mut all = Export::index(&images, &said, OCI_INDEX, notes, names);
        let notes = o.annotations.of(AnnotationPlace::IndexDescriptor, None);
        all.root.annotations = Some(notes).filter(|n| !n.is_empty());
        self.told_index(all.root.digest.into(), all.root.size);
        Ok(all)
    }

    /// A Docker archive: `docker load` takes it, layers plain. Of several platforms it has the index
    /// that newer engines read; older ones take the first.
    pub(super) fn docker(
        &self,
        built: &[Built<'_>],
        o: &ArchiveOutput,
    ) -> Result<Vec<BuiltImage>, ExportError> {
        let layers = LayerOptions {
            compression: Compression::Uncompressed,
            force: true,
            ..o.layers.clone()
        };
        let wholes = self.packed_images(built, &layers, o)?;
        let exports = vec![self.export(&wholes, o)?];
        let source = ExportBlobs::new(self, wholes.iter().flat_map(|w| &w.layers));
        self.write_output(&o.dest, &mut |out: &mut dyn Write| {
            write_docker_archive(&exports, &source, out)
                .map(drop)
                .map_err(|e| source.failed(&o.dest, e))
        })?;
        Ok(wholes.into_iter().map(|w| w.built).collect())
    }

    fn references(&self, own: &[String], dest: &Dest) -> Result<Vec<Reference>, ExportError> {
        let parse = |n: &String| n.parse::<Reference>().map_err(|e| archive_error(dest, e));
        self.names(own).iter().map(parse).collect()
    }

    fn packed_images(
        &self,
        built: &[Built<'_>],
        opts: &LayerOptions,
        o: &ArchiveOutput,
    ) -> Result<Vec<Whole>, ExportError> {
        self.check_index(built, &o.annotations)?;
        let mut wholes = Vec::new();
        for b in built {
            let layers = match opts.compression {
                Compression::Uncompressed => self.plain_layers(b.top, opts)?,
                _ => self.packed_layers(b.top, opts)?,
            };
            let mut whole = self.whole(b, layers, opts, &o.annotations)?;
            whole.attested = self.attested(b, &whole, self.names(&o.names), o.artifact);
            self.put_documents(&whole)?;
            wholes.push(whole);
        }
        Ok(wholes)
    }
}

pub(crate) fn archive_error(
    dest: &Dest,
    e: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ExportError {
    let path = match dest {
        Dest::Path(p) => p.display().to_string(),
        Dest::Stdout => "-".to_owned(),
    };
    ExportError::Archive { path, source: e.into() }
}
