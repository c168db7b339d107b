//! Images out of an archive.

use std::fs::File;
use std::io::{self, Read, Write};

use rgraph_image::archive::ArchiveFile;
use rgraph_image::attestation::about;
use rgraph_image::blobs::{open_verified, read_manifest};
use rgraph_image::config::ImageConfigFile;
use rgraph_image::layer::decompress;
use rgraph_image::manifest::{Descriptor, Document, Manifest};
use rgraph_ir::limits::MAX_CONFIG;
use rgraph_ir::{ConfigDigest, ManifestDigest, Platform, Reference, SnapshotId};
use rgraph_store::{BlobRef, Expect, ImageRef, ImageRow, LayerInfo, NewSnapshot, Store};

use super::{ImagesError, said};

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its names.
    pub names: Vec<Reference>,
    /// Its id, when it is one image.
    pub config: Option<ConfigDigest>,
    /// Its manifest or index.
    pub manifest: ManifestDigest,
}

/// Reads a Docker archive or an OCI layout in a tar, plain or compressed, into the store. Images
/// are named once all of the archive was read.
pub fn load(
    store: &Store,
    from: &mut dyn Read,
    platform: Option<&Platform>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Loaded>, ImagesError> {
    let _lease = store.lease()?;
    let archive = ArchiveFile::open(spool(store, from, cancelled)?).map_err(archive_error)?;
    let mut out = Vec::new();
    for found in archive.images() {
        let mut one =
            Loader { store, archive: &archive, platform, cancelled, rows: Vec::new(), said: false };
        one.document(&found.root, 0)?;
        let manifest = ManifestDigest::from(found.root.digest);
        match one.rows.is_empty() {
            true => return Err(ImagesError::Empty(manifest)),
            false => out.push(Loaded {
                names: found.names.clone(),
                config: match &one.rows[..] {
                    [row] => Some(row.config),
                    _ => None,
                },
                // One platform of an index is an image of its own, unless something is said of it there.
                manifest: match &one.rows[..] {
                    [row] if !one.said => row.manifest,
                    _ => manifest,
                },
            }),
        }
    }
    for l in &out {
        for name in &l.names {
            store.tag(&name.to_string(), &ImageRef { manifest: l.manifest })?;
        }
    }
    Ok(out)
}

fn archive_error(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ImagesError {
    ImagesError::Archive(e.into())
}

/// The plain archive as a file without a name: its index is at its end in some forms.
fn spool(
    store: &Store,
    from: &mut dyn Read,
    cancelled: &dyn Fn() -> bool,
) -> Result<File, ImagesError> {
    let path = store.layout().tmp().join(format!("load-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let mut file = file.map_err(archive_error)?;
    std::fs::remove_file(&path).map_err(archive_error)?;
    let mut plain = decompress(from).map_err(archive_error)?;
    let mut buf = vec![0u8; 256 << 10];
    loop {
        if cancelled() {
            return Err(ImagesError::Cancelled);
        }
        match plain.read(&mut buf).map_err(archive_error)? {
            0 => return Ok(file),
            n => file.write_all(&buf[..n]).map_err(archive_error)?,
        }
    }
}

struct Loader<'a> {
    store: &'a Store,
    archive: &'a ArchiveFile,
    platform: Option<&'a Platform>,
    cancelled: &'a dyn Fn() -> bool,
    rows: Vec<ImageRow>,
    /// Statements about them are here.
    said: bool,
}

impl Loader<'_> {
    /// Indexes are seldom nested; three levels are more than anybody writes.
    const DEEPEST: usize = 3;

    fn document(&mut self, d: &Descriptor, depth: usize) -> Result<(), ImagesError> {
        if d.is_attestation() {
            return Ok(());
        }
        let (bytes, document) = match read_manifest(self.archive, d) {
            // `docker save` of one platform of an index leaves the others out.
            Err(rgraph_image::blobs::BlobError::Io { source, .. })
                if depth > 0 && source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(());
            }
            r => r.map_err(archive_error)?,
        };
        match document {
            Document::Manifest(m) => self.image(d, &bytes, &m),
            Document::Index(_) if depth >= Self::DEEPEST => {
                Err(archive_error(format!("index {} is nested too deeply", d.digest)))
            }
            Document::Index(index) => {
                let before = self.rows.len();
                for m in &index.manifests {
                    self.document(m, depth + 1)?;
                }
                self.store.put_blob(&bytes)?;
                let mut children: Vec<_> =
                    self.rows[before..].iter().map(|r| r.manifest.into()).collect();
                let mut durable = vec![d.digest];
                for m in &index.manifests {
                    let here = about(m).is_some_and(|of| children.contains(&of.into()));
                    if here && let Some(blobs) = said::bring(self.store, self.archive, m)? {
                        self.said = true;
                        children.push(m.digest);
                        durable.extend(blobs);
                    }
                }
                self.store.link_blobs(&d.digest, &children)?;
                durable.sort();
                durable.dedup();
                Ok(self.store.make_durable(&durable, &[])?)
            }
        }
    }

    fn image(&mut self, d: &Descriptor, bytes: &[u8], m: &Manifest) -> Result<(), ImagesError> {
        let config = rgraph_image::blobs::read_document(self.archive, &m.config, MAX_CONFIG)
            .map_err(archive_error)?;
        let file = ImageConfigFile::from_json(&config).map_err(archive_error)?;
        let diff_ids = file.rootfs.diff_ids.clone();
        if diff_ids.len() != m.layers.len() {
            return Err(archive_error(format!(
                "image {} has {} layers and {} diff IDs",
                m.config.digest,
                m.layers.len(),
                diff_ids.len()
            )));
        }
        let created = file.created.clone();
        let platform = file.into_ir().platform;
        if self.platform.is_some_and(|p| *p != platform) {
            return Ok(());
        }
        let mut blobs = vec![d.digest, m.config.digest];
        let mut parent: Option<SnapshotId> = None;
        for (l, diff_id) in m.layers.iter().zip(&diff_ids) {
            if !self.store.has_blob(&l.digest)? {
                self.layer(l)?;
            }
            blobs.push(l.digest);
            let blob = BlobRef { digest: l.digest, size: l.size, media_type: l.media_type.clone() };
            let layer = LayerInfo { diff_id: *diff_id, tar_size: None, blob: Some(blob) };
            let description = format!("layer of loaded image {}", m.config.digest);
            parent = Some(self.store.add_lazy(NewSnapshot {
                parent,
                layer: Some(layer),
                description,
            })?);
        }
        self.store.put_blob(&config)?;
        self.store.put_blob(bytes)?;
        let row = ImageRow {
            manifest: d.digest.into(),
            config: m.config.digest.into(),
            platform: platform.to_string(),
            size: m.layers.iter().map(|l| l.size).sum(),
            created,
            layers: diff_ids,
            snapshot: parent,
        };
        self.store.put_image(&row)?;
        self.store.link_blobs(&d.digest, &blobs[1..])?;
        blobs.sort();
        blobs.dedup();
        self.store.make_durable(&blobs, &[])?;
        self.rows.push(row);
        Ok(())
    }

    fn layer(&self, l: &Descriptor) -> Result<(), ImagesError> {
        let mut from = open_verified(self.archive, l).map_err(archive_error)?;
        let mut keep = self.store.blob_writer()?.limit(l.size);
        let mut buf = vec![0u8; 256 << 10];
        loop {
            if (self.cancelled)() {
                return Err(ImagesError::Cancelled);
            }
            match from.read(&mut buf).map_err(archive_error)? {
                0 => break,
                n => keep.write_all(&buf[..n]).map_err(archive_error)?,
            }
        }
        keep.commit(Expect { digest: Some(l.digest), size: Some(l.size) })?;
        Ok(())
    }
}
