//! What is said of images of the store: it goes with them, and follows them when their layers are
//! packed in another way.

use std::collections::BTreeMap;

use rgraph_image::attestation::{
    Attested, IN_TOTO, MAX_STATEMENT, PREDICATE_TYPE, about, readdressed,
};
use rgraph_image::blobs::{BlobError, read_document, read_manifest};
use rgraph_image::manifest::{Descriptor, Document, Index, Manifest};
use rgraph_ir::limits::{MAX_CONFIG, MAX_MANIFEST};
use rgraph_ir::{BlobDigest, ManifestDigest, Reference};
use rgraph_store::{BlobRef, ImageRow, Store, StoreError};

use super::transfer::fetch_blob;
use super::{ImagesError, World};

/// The index that a name means; `None`: it means a manifest.
pub(super) fn index(store: &Store, top: ManifestDigest) -> Result<Option<Index>, ImagesError> {
    let bytes = store.read_blob_verified(&top.into(), MAX_MANIFEST)?;
    let failed = |e| ImagesError::Manifest { digest: top, source: Box::new(e) };
    match Document::parse(&bytes, None).map_err(failed)? {
        Document::Index(index) => Ok(Some(index)),
        Document::Manifest(_) => Ok(None),
    }
}

/// The statements about an image that the index `top` names and the store has, as they are said of
/// the image `now`: the same with its layers packed as they are to go.
pub(super) fn of(
    store: &Store,
    top: ManifestDigest,
    row: &ImageRow,
    now: &Descriptor,
) -> Result<Vec<Attested>, ImagesError> {
    let Some(index) = index(store, top)? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for entry in index.manifests.iter().filter(|e| about(e) == Some(row.manifest)) {
        let Some((manifest, documents)) = read(store, entry)? else { continue };
        let unchanged = now.digest == row.manifest.into();
        out.push(match unchanged {
            true => Attested { entry: entry.clone(), documents },
            false => follow(entry, &manifest, documents, row.manifest, now)?,
        });
    }
    Ok(out)
}

/// Documents by digest.
type Documents = BTreeMap<BlobDigest, Vec<u8>>;

/// An attestation manifest with all it names; `None`: something of it is not here.
fn read(store: &Store, entry: &Descriptor) -> Result<Option<(Manifest, Documents)>, ImagesError> {
    let blob = |digest: &BlobDigest, limit| match store.read_blob_verified(digest, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::NoBlob { .. } | StoreError::BlobDamaged { .. }) => Ok(None),
        Err(e) => Err(ImagesError::Store(e)),
    };
    let Some(bytes) = blob(&entry.digest, MAX_MANIFEST)? else { return Ok(None) };
    let failed = |e| ImagesError::Manifest { digest: entry.digest.into(), source: Box::new(e) };
    let Document::Manifest(m) = Document::parse(&bytes, None).map_err(failed)? else {
        return Ok(None);
    };
    let mut documents = BTreeMap::from([(entry.digest, bytes)]);
    let parts = m.layers.iter().map(|l| (l, MAX_STATEMENT)).chain([(&m.config, MAX_CONFIG)]);
    for (d, limit) in parts {
        let Some(bytes) = blob(&d.digest, limit)? else { return Ok(None) };
        documents.insert(d.digest, bytes);
    }
    Ok(Some((m, documents)))
}

/// The same statements about the image under its new digest.
fn follow(
    entry: &Descriptor,
    manifest: &Manifest,
    mut documents: Documents,
    was: ManifestDigest,
    now: &Descriptor,
) -> Result<Attested, ImagesError> {
    let mut statements = Vec::new();
    for l in manifest.layers.iter().filter(|l| l.media_type == IN_TOTO) {
        let Some(bytes) = documents.remove(&l.digest) else { continue };
        let new = readdressed(&bytes, &was, &now.digest.into()).map_err(|e| {
            ImagesError::Statement { digest: entry.digest.into(), source: Box::new(e) }
        })?;
        let kind = l.annotations.as_ref().and_then(|a| a.get(PREDICATE_TYPE).cloned());
        statements.push((kind.unwrap_or_default(), new.unwrap_or(bytes)));
    }
    Ok(Attested::new(now, statements, manifest.artifact_type.is_some()))
}

/// Keeps statements in the store, each with what it names.
pub(super) fn put(store: &Store, said: &Attested) -> Result<(), ImagesError> {
    store.link_blobs(&said.entry.digest, &said.children())?;
    for (digest, bytes) in &said.documents {
        if !store.has_blob(digest)? {
            store.put_blob(bytes)?;
        }
    }
    Ok(())
}

/// A statement about an image, as its manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// A URI: what kind of statement it is.
    pub predicate_type: String,
    /// Of the statement.
    pub digest: BlobDigest,
    /// Bytes.
    pub size: u64,
}

/// What is said of an image that a name means, as far as the store has it.
pub fn statements(
    store: &Store,
    top: ManifestDigest,
    row: &ImageRow,
) -> Result<Vec<Statement>, ImagesError> {
    let Some(index) = index(store, top)? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for entry in index.manifests.iter().filter(|e| about(e) == Some(row.manifest)) {
        let Some((manifest, _)) = read(store, entry)? else { continue };
        out.extend(manifest.layers.into_iter().map(|l| Statement {
            predicate_type:
                l.annotations.and_then(|a| a.get(PREDICATE_TYPE).cloned()).unwrap_or_default(),
            digest: l.digest,
            size: l.size,
        }));
    }
    Ok(out)
}

/// Most entries of an index that are brought for one image.
const MAX_ENTRIES: usize = 16;

/// Brings what the index `top` of `name` says of an image from the registry. What is not to be had there,
/// or is larger than statements are, is left out. Gives the entries that are here now, and their blobs.
pub(super) fn pull(
    w: &World<'_>,
    name: &Reference,
    top: ManifestDigest,
    image: ManifestDigest,
) -> Result<(Vec<BlobDigest>, Vec<BlobDigest>), ImagesError> {
    let (mut entries, mut blobs) = (Vec::new(), Vec::new());
    let Some(index) = index(w.store, top)? else { return Ok((entries, blobs)) };
    let of_image = |e: &&Descriptor| about(e) == Some(image);
    for entry in index.manifests.iter().filter(of_image).take(MAX_ENTRIES) {
        w.check()?;
        let Some(m) = w.images.manifest_of(name, entry)? else { continue };
        let limit = |d: &Descriptor| if *d == m.config { MAX_CONFIG } else { MAX_STATEMENT };
        let parts: Vec<&Descriptor> = m.layers.iter().chain([&m.config]).collect();
        if parts.len() > MAX_ENTRIES || parts.iter().any(|d| d.size > limit(d)) {
            continue;
        }
        for d in &parts {
            if !w.store.has_blob(&d.digest)? {
                w.images.remember(d.digest, name.clone());
                let (digest, size) = (d.digest, d.size);
                fetch_blob(w, &BlobRef { digest, size, media_type: d.media_type.clone() })?;
            }
        }
        let children: Vec<BlobDigest> = parts.iter().map(|d| d.digest).collect();
        w.store.link_blobs(&entry.digest, &children)?;
        entries.push(entry.digest);
        blobs.extend(children);
    }
    blobs.extend(entries.iter().copied());
    Ok((entries, blobs))
}

/// Brings the statements of an archive about an image into the store; `None`: they are not in it.
pub(super) fn bring(
    store: &Store,
    from: &rgraph_image::archive::ArchiveFile,
    entry: &Descriptor,
) -> Result<Option<Vec<BlobDigest>>, ImagesError> {
    let failed = |e: BlobError| ImagesError::Archive(e.into());
    let (bytes, manifest) = match read_manifest(from, entry) {
        Err(BlobError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
        Ok((bytes, Document::Manifest(m))) => (bytes, m),
        Ok((_, Document::Index(_))) => return Ok(None),
    };
    let config = read_document(from, &manifest.config, MAX_CONFIG).map_err(failed)?;
    let mut documents = BTreeMap::from([(entry.digest, bytes), (manifest.config.digest, config)]);
    for l in &manifest.layers {
        documents.insert(l.digest, read_document(from, l, MAX_STATEMENT).map_err(failed)?);
    }
    let said = Attested { entry: entry.clone(), documents };
    put(store, &said)?;
    Ok(Some(said.documents.into_keys().collect()))
}
