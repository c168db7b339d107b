//! Images of the store to a registry: blobs side by side, then manifests, then what has the name.

use std::collections::{BTreeMap, BTreeSet};

use rgraph_image::attestation::Attested;
use rgraph_image::manifest::{Descriptor, Document, Index, OCI_INDEX, PlatformObject};
use rgraph_ir::{BlobDigest, DiffId, ManifestDigest, Platform, Reference, limits};
use rgraph_store::ImageRow;

use super::transfer::{PlainLayers, TRANSFERS, chosen, remember_origins, repacked};
use super::{ImagesError, World, rows, said};
use crate::beside::each_side_by_side;
use crate::fetch::push::Arrival;

/// What a push is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushing {
    /// A layer is to go.
    Begins(DiffId),
    /// A layer got there.
    Layer(DiffId, Arrival),
    /// Only the images of these platforms are here: the index that the name means is left out.
    Partly(Vec<String>),
    /// What the index says of the images is not here: it is left out.
    Unsaid,
    /// The manifest or index, and its bytes: the last.
    Done(ManifestDigest, u64),
}

/// A manifest that is ready to go, with the blobs below it.
struct Ready {
    root: Descriptor,
    bytes: Vec<u8>,
    layers: Vec<(Descriptor, DiffId)>,
    config: (BlobDigest, u64),
    /// What is said of it.
    said: Vec<Attested>,
}

/// Sends the image `top` to a registry as `name`. What is there is not sent, and what another
/// repository of it has is taken from that. `told` hears of layers in any order.
pub fn push(
    w: &World<'_>,
    name: &Reference,
    top: ManifestDigest,
    platform: Option<&Platform>,
    plain: PlainLayers,
    told: &(dyn Fn(Pushing) + Sync),
) -> Result<(), ImagesError> {
    let failed = |source| ImagesError::Push { name: name.familiar(), source };
    let full = name.to_string();
    w.exporting(|e| {
        let all = chosen(w.store, &full, top, platform)?;
        let index = if platform.is_none() { kept_index(w, top, &all)? } else { None };
        let mut ready = Vec::new();
        for row in &all {
            // Bases that no step read may still be where they came from.
            remember_origins(w, row)?;
            let (mut root, bytes, layers) = repacked(w, e, row, plain)?;
            root.platform = row.platform.parse().ok().map(|p| PlatformObject::of(&p));
            let size = w.store.open_blob(&row.config.into())?.map_or(0, |(_, n)| n);
            let layers = layers.into_iter().zip(row.layers.iter().copied()).collect();
            let said = match platform {
                None => said::of(w.store, top, row, &root)?,
                Some(_) => Vec::new(),
            };
            said.iter().try_for_each(|s| said::put(w.store, s))?;
            ready.push(Ready { root, bytes, layers, config: (row.config.into(), size), said });
        }
        let elsewhere = elsewhere(w, name)?;
        send_blobs(w, name, &ready, &elsewhere, told)?;
        let send = |bytes: &[u8], media_type: &str, tag: bool| {
            w.images.push(&full, &[], bytes, media_type, tag, &|_, _, _| ()).map_err(failed)
        };
        let unchanged = ready.iter().zip(&all).all(|(r, row)| r.root.digest == row.manifest.into());
        match &index {
            Some(Kept::Part) => {
                told(Pushing::Partly(all.iter().map(|r| r.platform.clone()).collect()));
            }
            Some(Kept::Unsaid) => told(Pushing::Unsaid),
            Some(Kept::Whole(..)) | None => {}
        }
        let (bytes, media_type) = match (index, &ready[..]) {
            (Some(Kept::Whole(bytes, index)), _) if unchanged => {
                send_manifests(&ready, send)?;
                (bytes, index.media_type)
            }
            (_, [one]) if one.said.is_empty() => (one.bytes.clone(), one.root.media_type.clone()),
            (kept, several) => {
                send_manifests(several, send)?;
                let notes = match kept {
                    Some(Kept::Whole(_, index)) => index.annotations,
                    _ => None,
                };
                let said = several.iter().flat_map(|r| &r.said).map(|a| a.entry.clone());
                let parts = several.iter().map(|r| r.root.clone()).chain(said).collect();
                (Index::new(OCI_INDEX, parts, notes).to_json(), OCI_INDEX.to_owned())
            }
        };
        send(&bytes, &media_type, true)?;
        told(Pushing::Done(ManifestDigest::of(&bytes), bytes.len() as u64));
        Ok(())
    })
}

fn send_manifests(
    ready: &[Ready],
    send: impl Fn(&[u8], &str, bool) -> Result<(), ImagesError>,
) -> Result<(), ImagesError> {
    for r in ready {
        send(&r.bytes, &r.root.media_type, false)?;
        for a in &r.said {
            send(&a.documents[&a.entry.digest], &a.entry.media_type, false)?;
        }
    }
    Ok(())
}

/// An index that an image came with.
enum Kept {
    /// All its images are here: its bytes, and what they say.
    Whole(Vec<u8>, Box<Index>),
    /// Some are not.
    Part,
    /// All images are, but not what is said of them.
    Unsaid,
}

/// The index that a name means; `None`: it means a manifest, or an index made here.
fn kept_index(
    w: &World<'_>,
    top: ManifestDigest,
    here: &[ImageRow],
) -> Result<Option<Kept>, ImagesError> {
    if here.iter().any(|r| r.manifest == top) {
        return Ok(None);
    }
    let bytes = w.store.read_blob_verified(&top.into(), limits::MAX_MANIFEST)?;
    let failed = |e| ImagesError::Manifest { digest: top, source: Box::new(e) };
    let Document::Index(index) = Document::parse(&bytes, None).map_err(failed)? else {
        return Ok(None);
    };
    let (said, images): (Vec<_>, Vec<_>) = index.manifests.iter().partition(|m| m.is_attestation());
    if !images.iter().all(|m| here.iter().any(|r| m.digest == r.manifest.into())) {
        return Ok(Some(Kept::Part));
    }
    for m in said {
        if !w.store.has_blob(&m.digest)? {
            return Ok(Some(Kept::Unsaid));
        }
    }
    Ok(Some(Kept::Whole(bytes, Box::new(index))))
}

/// Repositories of one registry that may have a layer or a config.
#[derive(Default)]
struct Elsewhere {
    layers: BTreeMap<DiffId, String>,
    configs: BTreeMap<BlobDigest, String>,
}

/// What names of the store say that the registry of `name` has. A guess costs nothing when it is
/// wrong: the registry then wants the bytes.
fn elsewhere(w: &World<'_>, name: &Reference) -> Result<Elsewhere, ImagesError> {
    let mut out = Elsewhere::default();
    for tag in w.store.tags()? {
        let Ok(other) = tag.name.parse::<Reference>() else { continue };
        if other.registry != name.registry || other.repository == name.repository {
            continue;
        }
        let images = match rows(w.store, tag.manifest) {
            Err(ImagesError::Empty(_)) => continue,
            r => r?,
        };
        for image in images {
            let config = BlobDigest::from(image.config);
            out.configs.entry(config).or_insert_with(|| other.repository.clone());
            for layer in image.layers {
                out.layers.entry(layer).or_insert_with(|| other.repository.clone());
            }
        }
    }
    Ok(out)
}

/// Layers and configs, each once.
fn send_blobs(
    w: &World<'_>,
    name: &Reference,
    ready: &[Ready],
    elsewhere: &Elsewhere,
    told: &(dyn Fn(Pushing) + Sync),
) -> Result<(), ImagesError> {
    let failed = |source| ImagesError::Push { name: name.familiar(), source };
    let mut seen = BTreeSet::new();
    let mut blobs = Vec::new();
    for r in ready {
        for (l, diff_id) in &r.layers {
            if seen.insert(l.digest) {
                let maybe = elsewhere.layers.get(diff_id).map(String::as_str);
                told(Pushing::Begins(*diff_id));
                blobs.push((l.digest, l.size, maybe, Some(*diff_id)));
            }
        }
        for a in &r.said {
            for digest in a.children() {
                if seen.insert(digest) {
                    blobs.push((digest, a.documents[&digest].len() as u64, None, None));
                }
            }
        }
        if seen.insert(r.config.0) {
            let maybe = elsewhere.configs.get(&r.config.0).map(String::as_str);
            blobs.push((r.config.0, r.config.1, maybe, None));
        }
    }
    each_side_by_side(&blobs, TRANSFERS, &|&(digest, size, maybe, layer)| {
        w.check()?;
        let how = w.images.push_blob(name, digest, size, maybe, &|_, _| ()).map_err(failed)?;
        if let Some(layer) = layer {
            told(Pushing::Layer(layer, how));
        }
        Ok(())
    })
}
