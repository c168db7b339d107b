//! Images: put together from a target and its layers, kept in the store, pushed.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use rgraph_image::assemble::{AssembleOptions, Image, Layer, assemble};
use rgraph_image::attestation::Attested;
use rgraph_image::manifest::OCI_INDEX;
use rgraph_ir::annotation::{AnnotationPlace, Annotations};
use rgraph_ir::image_config::BaseHistory;
use rgraph_ir::request::{Export, ImageOutput, LayerOptions};
use rgraph_ir::{BlobDigest, DiffId, ManifestDigest, Reference, SnapshotId, Target};
use rgraph_solver::CancelToken;
use rgraph_solver::backend::BuiltImage;
use rgraph_store::{ImageRef, ImageRow};

use super::layers::is_virtual;
use super::{Built, ExportError, Exporter, NamedLayer};
use crate::fetch::image::ImageFetcher;
use crate::snapshot::Snapshots;

/// Most bytes of a base's times that are kept.
const MAX_TIMES: usize = 64 << 10;

/// An image with everything its documents name.
pub(super) struct Whole {
    /// Its documents.
    pub image: Image,
    /// Its layers, bottom first.
    pub layers: Vec<NamedLayer>,
    /// What is told of it.
    pub built: BuiltImage,
    /// What is said of it, beside it in an index.
    pub attested: Option<Attested>,
}

impl Exporter<'_> {
    /// Puts an image together.
    pub(super) fn whole(
        &self,
        b: &Built<'_>,
        layers: Vec<NamedLayer>,
        opts: &LayerOptions,
        annotations: &Annotations,
    ) -> Result<Whole, ExportError> {
        let parts: Vec<Layer> = layers
            .iter()
            .map(|l| Layer {
                diff_id: l.diff_id,
                blob: l.blob.digest,
                size: l.blob.size,
                media_type: l.blob.media_type.clone(),
            })
            .collect();
        let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id).collect();
        let target = self.on_first_base(b.target, &diff_ids)?;
        let platform = Some(&b.target.platform);
        let image = assemble(
            &target,
            &parts,
            &AssembleOptions {
                // What an image is does not depend on when it is looked at: it is as old as its
                // newest layer, so that an unchanged rebuild gives the same image id.
                created: since_1970(b.created.unwrap_or_else(|| newest(&layers))),
                epoch: self.export.source_date_epoch,
                oci_media_types: opts.oci_media_types,
                annotations: annotations.of(AnnotationPlace::Manifest, platform),
                descriptor: annotations.of(AnnotationPlace::ManifestDescriptor, platform),
                history: !self.export.omit_history,
                config: self.inline.map(|i| i.of(b.target, &diff_ids)).into_iter().collect(),
            },
        )?;
        let built = BuiltImage {
            platform: b.target.platform.clone(),
            config: image.config_digest,
            manifest: image.manifest_digest,
            media_type: image.media_type.to_owned(),
            size: image.manifest.len() as u64,
            layers: layers.len(),
        };
        Ok(Whole { image, layers, built, attested: None })
    }

    /// The target with the times that its base's history had when these layers were first a base with
    /// this history: one that was built again and gave equal files (whose earlier layers stand in
    /// its place) or equal layers does not change the image.
    fn on_first_base<'t>(
        &self,
        target: &'t Target,
        diff_ids: &[DiffId],
    ) -> Result<Cow<'t, Target>, ExportError> {
        let base = &target.base;
        let Some(below) = diff_ids.get(..base.layers).filter(|_| base.reference.is_some()) else {
            return Ok(Cow::Borrowed(target));
        };
        let what = |h: &BaseHistory| {
            (h.created_by.clone(), h.author.clone(), h.comment.clone(), h.empty_layer)
        };
        let timeless: Vec<_> = base.history.iter().map(what).collect();
        let layers: Vec<String> = below.iter().map(ToString::to_string).collect();
        let times: Vec<_> = base.history.iter().map(|h| h.created.as_deref()).collect();
        let text = |t: serde_json::Result<String>| t.unwrap_or_default();
        let name = text(serde_json::to_string(&(layers, timeless)));
        let times = text(serde_json::to_string(&times));
        if times.len() > MAX_TIMES {
            return Ok(Cow::Borrowed(target));
        }
        let name = format!("base {}", BlobDigest::of(name.as_bytes()));
        let first = self.store.first(&name, &times)?;
        let first: Vec<Option<String>> = serde_json::from_str(&first).unwrap_or_default();
        if first.len() != base.history.len() {
            return Ok(Cow::Borrowed(target));
        }
        let mut target = target.clone();
        for (h, created) in target.base.history.iter_mut().zip(first) {
            h.created = created;
        }
        Ok(Cow::Owned(target))
    }

    /// Keeps the images in the local store under every name. Layers stay directories: nothing is
    /// packed.
    pub(super) fn keep(
        &self,
        built: &[Built<'_>],
        o: &ImageOutput,
    ) -> Result<Vec<BuiltImage>, ExportError> {
        self.check_index(built, &o.annotations)?;
        if o.push {
            return self.push(built, o);
        }
        let mut out = Vec::new();
        for b in built {
            let layers = self.named_layers(b.top)?;
            let mut whole = self.whole(b, layers, &o.layers, &o.annotations)?;
            whole.attested = self.attested(b, &whole, self.names(&o.names), o.artifact);
            self.put(&whole, b.top)?;
            out.push(whole);
        }
        if o.layers.rewrite_timestamp && self.export.source_date_epoch.is_some() {
            let text = "files of an image in the store keep their times: they are cut at \
                        SOURCE_DATE_EPOCH in archives, and where the build pushes";
            self.emit(rgraph_solver::EventKind::Warning { text: text.to_owned() });
        }
        let names = self.names(&o.names);
        let top = match &out[..] {
            [one] if one.attested.is_none() => one.built.manifest,
            all => self.put_index(all, &o.annotations)?.0,
        };
        // An image without a name is only a result in the cache: a power loss may take it.
        if !names.is_empty() {
            self.make_durable(&out, Some(top))?;
        }
        for name in names {
            self.store.tag(name, &ImageRef { manifest: top })?;
            self.say(&format!("naming to {name}"));
            if o.canonical
                && let Ok(r) = name.parse::<Reference>()
            {
                let name = Reference { tag: None, digest: Some(top), ..r }.to_string();
                self.store.tag(&name, &ImageRef { manifest: top })?;
                self.say(&format!("naming to {name}"));
            }
        }
        if let (Some(prefix), true) = (&o.dangling_prefix, names.is_empty()) {
            let name = format!("{prefix}@{top}");
            let name = name.parse::<Reference>().map_or(name, |r| r.to_string());
            self.make_durable(&out, Some(top))?;
            self.store.tag(&name, &ImageRef { manifest: top })?;
            self.say(&format!("naming to {name}"));
        }
        Ok(out.into_iter().map(|w| w.built).collect())
    }

    /// Writes config and manifest into the store, unless they are there.
    pub(super) fn put_documents(&self, w: &Whole) -> Result<(), ExportError> {
        let docs = [
            (w.built.config.into(), &w.image.config),
            (w.built.manifest.into(), &w.image.manifest),
        ];
        let said = w.attested.iter().flat_map(|a| &a.documents).map(|(d, bytes)| (*d, bytes));
        for (digest, bytes) in docs.into_iter().chain(said) {
            if !self.store.has_blob(&digest)? {
                self.store.put_blob(bytes)?;
            }
        }
        Ok(())
    }

    /// Makes the store know an image.
    pub(super) fn put(&self, w: &Whole, top: Option<SnapshotId>) -> Result<(), ExportError> {
        self.put_documents(w)?;
        let manifest = w.built.manifest;
        // Linked before anything says that it is there, and whatever the store knew before: what
        // came another way may have come without its links.
        let mut children = vec![BlobDigest::from(w.built.config)];
        children.extend(w.layers.iter().filter(|l| !is_virtual(l)).map(|l| l.blob.digest));
        self.store.link_blobs(&manifest.into(), &children)?;
        if let Some(a) = &w.attested {
            self.store.link_blobs(&a.entry.digest, &a.children())?;
        }
        // Also of one that is known: what it stood on may have been lost, and made again elsewhere.
        self.store.put_image(&ImageRow {
            manifest,
            config: w.built.config,
            platform: w.built.platform.to_string(),
            size: w.layers.iter().map(|l| l.blob.size).sum(),
            created: w.image.created.clone(),
            layers: w.layers.iter().map(|l| l.diff_id).collect(),
            snapshot: top,
        })?;
        Ok(())
    }

    /// The commit point of an image in the store.
    fn make_durable(
        &self,
        images: &[Whole],
        top: Option<ManifestDigest>,
    ) -> Result<(), ExportError> {
        let mut blobs: Vec<BlobDigest> = top.map(BlobDigest::from).into_iter().collect();
        let mut snapshots = Vec::new();
        for w in images {
            blobs.push(w.built.config.into());
            blobs.push(w.built.manifest.into());
            blobs.extend(w.attested.iter().flat_map(|a| a.documents.keys()));
            for l in &w.layers {
                if is_virtual(l) {
                    snapshots.push(l.snapshot);
                } else if self.store.has_blob(&l.blob.digest)? {
                    blobs.push(l.blob.digest);
                }
            }
        }
        blobs.sort();
        blobs.dedup();
        Ok(self.store.make_durable(&blobs, &snapshots)?)
    }

    /// Pushes the images under every name: layers first, the manifest last.
    pub(super) fn push(
        &self,
        built: &[Built<'_>],
        o: &ImageOutput,
    ) -> Result<Vec<BuiltImage>, ExportError> {
        self.check_index(built, &o.annotations)?;
        let names = self.names(&o.names);
        if names.is_empty() {
            return Err(ExportError::Unsupported(
                "a push without a name (-t, or name=)".to_owned(),
            ));
        }
        let mut wholes = Vec::new();
        for b in built {
            let layers = self.sendable_layers(b.top, &o.layers)?;
            let mut whole = self.whole(b, layers, &o.layers, &o.annotations)?;
            whole.attested = self.attested(b, &whole, names, o.artifact);
            self.put(&whole, b.top)?;
            wholes.push(whole);
        }
        let index = match &wholes[..] {
            [one] if one.attested.is_none() => None,
            all => Some(self.put_index(all, &o.annotations)?),
        };
        for name in names {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| ExportError::Push {
                name: name.clone(),
                source,
            };
            for w in &wholes {
                let blobs: Vec<_> = w
                    .layers
                    .iter()
                    .map(|l| (l.blob.digest, l.blob.size))
                    .chain([(w.built.config.into(), w.image.config.len() as u64)])
                    .collect();
                let tag = index.is_none() && !o.by_digest;
                self.images
                    .push(
                        name,
                        &blobs,
                        &w.image.manifest,
                        w.image.media_type,
                        tag,
                        &|id, done, all| {
                            self.emit(rgraph_solver::EventKind::Progress {
                                id: id.to_string(),
                                action: "pushing",
                                current: done,
                                total: all,
                            });
                        },
                    )
                    .map_err(failed)?;
                if let Some(a) = &w.attested {
                    let size = |d: &BlobDigest| a.documents[d].len() as u64;
                    let blobs: Vec<_> = a.children().into_iter().map(|d| (d, size(&d))).collect();
                    let bytes = &a.documents[&a.entry.digest];
                    let quiet = &|_, _, _| ();
                    self.images
                        .push(name, &blobs, bytes, &a.entry.media_type, false, quiet)
                        .map_err(failed)?;
                }
            }
            if let Some((_, bytes)) = &index {
                self.images
                    .push(name, &[], bytes, OCI_INDEX, !o.by_digest, &|_, _, _| ())
                    .map_err(failed)?;
            }
            self.say(&format!("pushed {name}"));
        }
        Ok(wholes.into_iter().map(|w| w.built).collect())
    }
}

/// Keeps an image whose top layer was made by no build, but just now, in the local store.
pub(crate) fn keep_new(
    snapshots: &Snapshots<'_>,
    images: &ImageFetcher<'_>,
    target: &Target,
    top: SnapshotId,
    names: Vec<String>,
    cancel: &CancelToken,
) -> Result<BuiltImage, ExportError> {
    let export = Export { tags: names, ..Export::default() };
    let exporter = Exporter::quiet(snapshots, images, &export, cancel);
    let built = Built { target, top: Some(top), created: None, said: Vec::new() };
    let kept = exporter.keep(&[built], &ImageOutput::default())?;
    kept.into_iter().next().ok_or(ExportError::NotASnapshot)
}

/// When the newest layer was made, seconds since 1970; 0 for an image without layers.
fn newest(layers: &[NamedLayer]) -> i64 {
    layers.iter().map(|l| l.created).max().unwrap_or(0)
}

fn since_1970(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
