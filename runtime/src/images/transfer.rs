//! Images to and from registries, and out into archives.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rgraph_image::archive::write_docker_archive;
use rgraph_image::blobs::Export;
use rgraph_image::manifest::{
    Descriptor, Index, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, PlatformObject,
    layer_compression, layer_media_type,
};
use rgraph_ir::op::ResolveMode;
use rgraph_ir::request::{Compression, Dest, LayerOptions};
use rgraph_ir::{BlobDigest, DiffId, ManifestDigest, Platform, Reference};
use rgraph_store::{BlobRef, ImageRef, ImageRow, Lease, Policy, SnapshotRecord, Store};

use super::{ImagesError, World, manifest, rows, said};
use crate::beside::each_side_by_side;
use crate::export::archive::{ExportBlobs, StoreBlobs, archive_error};
use crate::export::{ExportError, Exporter, NamedLayer};
use crate::fetch::image::ResolvedImage;
use crate::snapshot::{SnapshotError, Snapshots, Unpacking, bring};

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What the name means in the registry: an index, or the manifest itself.
    pub digest: ManifestDigest,
    /// The name meant something else before, or nothing.
    pub newer: bool,
}

/// What a pull is doing with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulling {
    /// It was there.
    Exists,
    /// It is to come.
    Begins,
    /// It is here, and what its digest says.
    Arrived,
}

/// Brings an image into the store with all its layers, unpacked, and names it: as the index that it
/// came with, if it came with one. `told` hears of each layer by its digest: first which are to come, bottom first,
/// then of each when it is here.
pub fn pull(
    w: &World<'_>,
    name: &Reference,
    platform: &Platform,
    told: &(dyn Fn(BlobDigest, Pulling) + Sync),
) -> Result<Pulled, ImagesError> {
    // Held until the name is there.
    let lease = w.store.lease()?;
    let image = w.images.resolve(&name.to_string(), platform, ResolveMode::ForcePull)?;
    let mut here = BTreeSet::new();
    for (_, blob) in &image.layers {
        if w.store.has_blob(&blob.digest)? {
            here.insert(blob.digest);
        }
    }
    // A layer whose folder is there counts as here only with its blob: other tools' tars cannot be
    // made from folders again, and `save` and `push` need their bytes.
    let waiting = Mutex::new(BTreeSet::new());
    for (_, blob) in &image.layers {
        if here.contains(&blob.digest) {
            told(blob.digest, Pulling::Exists);
        } else if guard(&waiting).insert(blob.digest) {
            told(blob.digest, Pulling::Begins);
        }
    }
    let arrived = |digest: BlobDigest| {
        if guard(&waiting).remove(&digest) {
            told(digest, Pulling::Arrived);
        }
    };
    unpack(w, &image, &lease, &arrived)?;
    let mut missing = Vec::new();
    for (_, blob) in &image.layers {
        if !missing.contains(&blob) && !w.store.has_blob(&blob.digest)? {
            missing.push(blob);
        }
    }
    each_side_by_side(&missing, TRANSFERS, &|blob| {
        fetch_blob(w, blob).map(|()| arrived(blob.digest))
    })?;
    let before = w.store.resolve_tag(&name.to_string())?;
    let known = w.store.image_record(&image.manifest)?.is_some();
    keep(w, &image)?;
    if image.top != image.manifest {
        let (said, mut blobs) = said::pull(w, name, image.top, image.manifest)?;
        let mut children = vec![image.manifest.into()];
        children.extend(said);
        w.store.link_blobs(&image.top.into(), &children)?;
        blobs.push(image.top.into());
        blobs.sort();
        blobs.dedup();
        w.store.make_durable(&blobs, &[])?;
    }
    w.store.tag(&name.to_string(), &ImageRef { manifest: image.top })?;
    w.store.put_remote_tag(&name.to_string(), &image.top)?;
    let same = known && before.is_some_and(|t| t.manifest == image.top);
    Ok(Pulled { digest: image.top, newer: !same })
}

fn guard<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many layers are on their way at once.
pub(super) const TRANSFERS: usize = 4;

/// Brings all layers of an image into the store, where builds find them under the name asked for, and
/// the name stays what it is. Gives how many were new.
pub fn fetch(w: &World<'_>, name: &str, image: &ResolvedImage) -> Result<usize, ImagesError> {
    let _lease = w.store.lease()?;
    let mut missing = Vec::new();
    for (_, blob) in &image.layers {
        if !w.store.has_blob(&blob.digest)? && !missing.contains(&blob) {
            missing.push(blob);
        }
    }
    each_side_by_side(&missing, TRANSFERS, &|blob| fetch_blob(w, blob))?;
    let manifest = image.manifest.into();
    let layers: Vec<BlobDigest> = image.layers.iter().map(|(_, b)| b.digest).collect();
    w.store.link_blobs(&manifest, &layers)?;
    let mut all = layers;
    all.extend([manifest, image.config_digest.into(), image.top.into()]);
    all.sort();
    all.dedup();
    w.store.make_durable(&all, &[])?;
    // A name that only a lock file gives this meaning keeps its own.
    let means = match w.store.remote_tag(name)? {
        Some(top) => Some(top),
        None => w.store.resolve_tag(name)?.map(|t| t.manifest),
    };
    let held = match means {
        Some(top) if top != image.top => image.reference.to_string(),
        _ => name.to_owned(),
    };
    w.store.put_remote_tag(&held, &image.top)?;
    Ok(missing.len())
}

/// Gives every layer of an image its folder, while its bytes come. `arrived` hears of those whose
/// blobs came with that.
fn unpack(
    w: &World<'_>,
    image: &ResolvedImage,
    lease: &Lease,
    arrived: &(dyn Fn(BlobDigest) + Sync),
) -> Result<(), ImagesError> {
    if image.layers.is_empty() {
        return Ok(());
    }
    let top = w.images.snapshot(image, w.store)?;
    let cancelled = || w.cancel.is_cancelled();
    let done = |made: &SnapshotRecord| {
        let mine = |(diff_id, _): &&(DiffId, BlobRef)| {
            made.layer.as_ref().is_some_and(|l| l.diff_id == *diff_id)
        };
        for (_, blob) in image.layers.iter().filter(mine) {
            // An error here is one below too.
            if w.store.has_blob(&blob.digest).unwrap_or(false) {
                arrived(blob.digest);
            }
        }
    };
    let watch = Unpacking { cx: None, cancelled: &cancelled, done: &done };
    match Snapshots::new(w.store, w.host, w.images, lease).unpacked(top, &watch) {
        Ok(_) => Ok(()),
        Err(SnapshotError::Cancelled) => Err(ImagesError::Cancelled),
        Err(e) => Err(ImagesError::Unpack(e)),
    }
}

pub(super) fn fetch_blob(w: &World<'_>, blob: &BlobRef) -> Result<(), ImagesError> {
    w.check()?;
    let cancelled = || w.cancel.is_cancelled();
    let failed = |source| ImagesError::Layer { digest: blob.digest, source };
    let got = bring(w.store, w.images, blob, &cancelled, |from| {
        let read = std::io::copy(from, &mut std::io::sink());
        read.map_err(|e| SnapshotError::Read { blob: blob.digest, source: e.into() })
    });
    match got {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(failed("nobody knows where it is".into())),
        Err(SnapshotError::Cancelled) => Err(ImagesError::Cancelled),
        Err(SnapshotError::Read { source, .. }) => Err(failed(source)),
        Err(e) => Err(failed(e.into())),
    }
}

/// Makes the store know an image whose blobs it has, durably.
fn keep(w: &World<'_>, image: &ResolvedImage) -> Result<(), ImagesError> {
    let config =
        w.store.read_blob_verified(&image.config_digest.into(), rgraph_ir::limits::MAX_CONFIG)?;
    let created = rgraph_image::config::ImageConfigFile::from_json(&config)
        .map_err(|source| ImagesError::Config { digest: image.config_digest, source })?
        .created;
    let snapshot = match image.layers.is_empty() {
        true => None,
        false => Some(w.images.snapshot(image, w.store)?),
    };
    let mut children: Vec<BlobDigest> = vec![image.config_digest.into()];
    children.extend(image.layers.iter().map(|(_, b)| b.digest));
    w.store.put_image(&ImageRow {
        manifest: image.manifest,
        config: image.config_digest,
        platform: image.config.platform.to_string(),
        size: image.layers.iter().map(|(_, b)| b.size).sum(),
        created,
        layers: image.layers.iter().map(|(d, _)| *d).collect(),
        snapshot,
    })?;
    w.store.link_blobs(&image.manifest.into(), &children)?;
    children.push(image.manifest.into());
    children.sort();
    children.dedup();
    Ok(w.store.make_durable(&children, &[])?)
}

/// Layers that were never fetched say in their record which image they are of.
pub(super) fn remember_origins(w: &World<'_>, row: &ImageRow) -> Result<(), ImagesError> {
    for rec in super::chain(w.store, row.snapshot)? {
        let from = origin(&rec);
        if let (Some(from), Some(blob)) = (from, rec.layer.and_then(|l| l.blob)) {
            w.images.remember(blob.digest, from);
        }
    }
    Ok(())
}

/// The image of a registry that a layer is from, by its record.
fn origin(rec: &SnapshotRecord) -> Option<Reference> {
    rec.description.strip_prefix("layer of ")?.parse().ok()
}

/// What becomes of plain layers on their way to a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlainLayers {
    /// Those of a registry go as they came: they have the same digest everywhere, and are sent nowhere
    /// twice. Others go as gzip.
    #[default]
    AsTheyCame,
    /// They go as gzip, wherever they came from.
    Compressed,
    /// They go as they are.
    AsTheyAre,
}

/// An image with its layers as they go to a registry: the same config, so the same id. Layers that are
/// compressed stay what they are.
pub(super) fn repacked(
    w: &World<'_>,
    e: &Exporter<'_>,
    row: &ImageRow,
    plain: PlainLayers,
) -> Result<(Descriptor, Vec<u8>, Vec<Descriptor>), ImagesError> {
    let (m, bytes) = manifest(w.store, row)?;
    let is_plain = |media_type: &str| {
        layer_compression(media_type).is_none_or(|c| c == Compression::Uncompressed)
    };
    let stays: Vec<bool> = match plain {
        PlainLayers::AsTheyAre => vec![true; m.layers.len()],
        PlainLayers::Compressed => vec![false; m.layers.len()],
        PlainLayers::AsTheyCame => {
            super::chain(w.store, row.snapshot)?.iter().map(|r| origin(r).is_some()).collect()
        }
    };
    let stays = |n: usize| stays.get(n).is_some_and(|s| *s);
    let mut ready = true;
    for (n, l) in m.layers.iter().enumerate() {
        let fits = stays(n) || !is_plain(&l.media_type);
        ready = ready && fits && (w.store.has_blob(&l.digest)? || w.images.has_origin(&l.digest));
    }
    if ready {
        let root = Descriptor::new(&m.media_type, row.manifest.into(), bytes.len() as u64);
        return Ok((root, bytes, m.layers));
    }
    remember_origins(w, row)?;
    let compression = match plain {
        PlainLayers::AsTheyCame | PlainLayers::Compressed => Compression::Gzip,
        PlainLayers::AsTheyAre => Compression::Uncompressed,
    };
    let opts = LayerOptions { compression, ..LayerOptions::default() };
    if let Some(top) = row.snapshot {
        e.pack_unknown(top, &opts)?;
    }
    let mut layers = Vec::new();
    for (n, layer) in e.named_layers(row.snapshot)?.into_iter().enumerate() {
        w.check()?;
        // What came in an archive is mostly plain.
        let force = is_plain(&layer.blob.media_type);
        let compression = match force && layer.outside && stays(n) {
            true => Compression::Uncompressed,
            false => opts.compression,
        };
        let blob = e.sendable(&layer, &LayerOptions { compression, force, ..opts.clone() })?;
        layers.push(NamedLayer { blob, ..layer });
    }
    with_layers(w, row, m, &layers)
}

/// An image with its layers plain: its manifest, and the layers, of which some are folders.
fn plain(
    w: &World<'_>,
    e: &Exporter<'_>,
    row: &ImageRow,
) -> Result<(Descriptor, Vec<NamedLayer>), ImagesError> {
    let (m, bytes) = manifest(w.store, row)?;
    remember_origins(w, row)?;
    let compression = Compression::Uncompressed;
    let opts = LayerOptions { compression, force: true, ..LayerOptions::default() };
    let layers = e.plain_layers(row.snapshot, &opts)?;
    let as_it_is = m.layers.iter().map(|l| l.digest).eq(layers.iter().map(|l| l.blob.digest));
    let root = match as_it_is {
        true => Descriptor::new(&m.media_type, row.manifest.into(), bytes.len() as u64),
        false => with_layers(w, row, m, &layers)?.0,
    };
    Ok((root, layers))
}

/// The manifest `m` with other forms of its layers.
fn with_layers(
    w: &World<'_>,
    row: &ImageRow,
    m: Manifest,
    layers: &[NamedLayer],
) -> Result<(Descriptor, Vec<u8>, Vec<Descriptor>), ImagesError> {
    if layers.len() != row.layers.len() {
        return Err(ExportError::NotASnapshot.into());
    }
    let layers: Vec<Descriptor> = layers
        .iter()
        .map(|l| {
            let how = layer_compression(&l.blob.media_type);
            let own = how.and_then(|c| layer_media_type(c, true)).unwrap_or(&l.blob.media_type);
            Descriptor::new(own, l.blob.digest, l.blob.size)
        })
        .collect();
    let config = Descriptor::new(OCI_CONFIG, m.config.digest, m.config.size);
    let bytes = Manifest::new(OCI_MANIFEST, config, layers.clone(), m.annotations).to_json();
    let digest = w.store.put_blob(&bytes)?.digest;
    Ok((Descriptor::new(OCI_MANIFEST, digest, bytes.len() as u64), bytes, layers))
}

/// The images of `top`, or the one of `platform`.
pub(super) fn chosen(
    store: &Store,
    name: &str,
    top: ManifestDigest,
    platform: Option<&Platform>,
) -> Result<Vec<ImageRow>, ImagesError> {
    let mut all = rows(store, top)?;
    if all.len() > 1
        && let Some(index) = said::index(store, top)?
    {
        let place = |r: &ImageRow| {
            index.manifests.iter().position(|m| m.digest == BlobDigest::from(r.manifest))
        };
        all.sort_by_key(place);
    }
    if let Some(p) = platform {
        all.retain(|r| r.platform == p.to_string());
        if all.is_empty() {
            let (name, platform) = (name.to_owned(), p.to_string());
            return Err(ImagesError::Platform { name, platform });
        }
    }
    Ok(all)
}

/// Writes images as one tar: a Docker archive and an OCI layout at once, layers plain. Each image
/// comes with its names.
pub fn save(
    w: &World<'_>,
    images: &[(ManifestDigest, Vec<Reference>)],
    platform: Option<&Platform>,
    dest: &Dest,
) -> Result<(), ImagesError> {
    let packed = w.exporting(|e| {
        let source = StoreBlobs(w.store);
        let (mut exports, mut layers) = (Vec::new(), Vec::new());
        for (top, names) in images {
            let (mut parts, mut beside) = (Vec::new(), Vec::new());
            for row in chosen(w.store, &top.to_string(), *top, platform)? {
                w.check()?;
                let (mut root, own) = plain(w, e, &row)?;
                root.platform = row.platform.parse().ok().map(|p| PlatformObject::of(&p));
                for said in said::of(w.store, *top, &row, &root)? {
                    said::put(w.store, &said)?;
                    beside.push(said.entry);
                }
                parts.push(root);
                layers.extend(own);
            }
            parts.extend(beside);
            let root = match parts.len() {
                1 => parts.swap_remove(0),
                // One name for all of them.
                _ => {
                    let kept = if platform.is_none() { said::index(w.store, *top)? } else { None };
                    let notes = kept.and_then(|index| index.annotations);
                    let bytes = Index::new(OCI_INDEX, parts, notes).to_json();
                    let digest = w.store.put_blob(&bytes)?.digest;
                    Descriptor::new(OCI_INDEX, digest, bytes.len() as u64)
                }
            };
            let export = Export::stored(root, names.clone(), &source)
                .map_err(|err| archive_error(dest, err))?;
            exports.push(export);
        }
        let source = ExportBlobs::new(e, &layers);
        e.write_output(dest, &mut |out| {
            write_docker_archive(&exports, &source, out)
                .map(drop)
                .map_err(|err| source.failed(dest, err))
        })?;
        Ok(layers.iter().any(|l| l.outside))
    })?;
    if !packed {
        return Ok(());
    }
    // The tars of layers whose blobs give them again. The archive is written, whatever comes of it.
    if let Err(e) = w.store.gc(&Policy::default()) {
        tracing::debug!(error = %e, "copies of layers stay in the store");
    }
    Ok(())
}
