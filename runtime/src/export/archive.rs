//! Outputs that are one archive: OCI layouts and Docker archives.

use std::io::{self, Read, Write};

use rgraph_image::archive::write_docker_archive;
use rgraph_image::blobs::{BlobSource, Export};
use rgraph_image::layout::{write_oci_archive, write_oci_layout};
use rgraph_image::manifest::OCI_INDEX;
use rgraph_ir::annotation::AnnotationPlace;
use rgraph_ir::request::{ArchiveOutput, Compression, Dest, LayerOptions};
use rgraph_ir::{BlobDigest, Reference};
use rgraph_solver::backend::BuiltImage;
use rgraph_store::Store;

use super::image::Whole;
use super::{Built, ExportError, Exporter};

/// The blobs of the store, checked while they are read.
pub(crate) struct StoreBlobs<'a>(pub(crate) &'a Store);

impl BlobSource for StoreBlobs<'_> {
    fn open(&self, digest: &BlobDigest) -> io::Result<Box<dyn Read + Send + '_>> {
        match self.0.open_blob_verified(digest).map_err(io::Error::other)? {
            Some(reader) => Ok(Box::new(reader)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn size(&self, digest: &BlobDigest) -> io::Result<u64> {
        match self.0.open_blob(digest).map_err(io::Error::other)? {
            Some((_, size)) => Ok(size),
            None => Err(io::ErrorKind::NotFound.into()),
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
        let names = self.references(&o.names, &o.dest)?;
        let exports = match &wholes[..] {
            [one] => vec![Export::image(&one.image, names)],
            several => {
                let images: Vec<_> = several.iter().map(|w| w.image.clone()).collect();
                let notes = o.annotations.of(AnnotationPlace::Index, None);
                let notes = Some(notes).filter(|n| !n.is_empty());
                let mut all = Export::index(&images, OCI_INDEX, notes, names);
                let notes = o.annotations.of(AnnotationPlace::IndexDescriptor, None);
                all.root.annotations = Some(notes).filter(|n| !n.is_empty());
                vec![all]
            }
        };
        let source = StoreBlobs(self.store);
        match (&o.dest, o.tar) {
            (Dest::Path(dir), false) => {
                write_oci_layout(&exports, &source, dir).map_err(|e| archive_error(&o.dest, e))?;
            }
            _ => self.write_output(&o.dest, &mut |out| {
                write_oci_archive(&exports, &source, out)
                    .map(drop)
                    .map_err(|e| archive_error(&o.dest, e))
            })?,
        }
        Ok(wholes.into_iter().map(|w| w.built).collect())
    }

    /// A Docker archive: `docker load` takes it, layers plain.
    pub(super) fn docker(
        &self,
        built: &[Built<'_>],
        o: &ArchiveOutput,
    ) -> Result<Vec<BuiltImage>, ExportError> {
        if built.len() > 1 {
            return Err(ExportError::Unsupported("`type=docker` of several platforms".to_owned()));
        }
        let layers = LayerOptions {
            compression: Compression::Uncompressed,
            force: true,
            ..o.layers.clone()
        };
        let wholes = self.packed_images(built, &layers, o)?;
        let names = self.references(&o.names, &o.dest)?;
        let exports: Vec<_> =
            wholes.iter().map(|w| Export::image(&w.image, names.clone())).collect();
        let source = StoreBlobs(self.store);
        self.write_output(&o.dest, &mut |out: &mut dyn Write| {
            write_docker_archive(&exports, &source, out)
                .map(drop)
                .map_err(|e| archive_error(&o.dest, e))
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
        if built.len() == 1 && o.annotations.need_index() {
            return Err(ExportError::NoIndex);
        }
        let mut wholes = Vec::new();
        for b in built {
            let layers = self.packed_layers(b.top, opts)?;
            let whole = self.whole(b, layers, opts, &o.annotations)?;
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
