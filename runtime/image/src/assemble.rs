//! A target and its layers to an image: config and manifest, consistent with each other.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rgraph_ir::image_config::BaseHistory;
use rgraph_ir::limits::MAX_LAYERS;
use rgraph_ir::request::Compression;
use rgraph_ir::{BlobDigest, ConfigDigest, DiffId, ManifestDigest, Platform, Target};

use crate::config;
use crate::manifest::{
    self, Descriptor, Manifest, PlatformObject, layer_compression, layer_media_type,
};

/// A layer that was packed or pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Of its tar.
    pub diff_id: DiffId,
    /// Of its blob.
    pub blob: BlobDigest,
    /// Of its blob, bytes.
    pub size: u64,
    /// Of its blob, OCI's or Docker's.
    pub media_type: String,
}

/// How an image is put together.
#[derive(Debug, Clone)]
pub struct AssembleOptions {
    /// Now.
    pub created: SystemTime,
    /// Seconds since 1970 that replace "now" (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
    /// OCI media types; false: Docker's.
    pub oci_media_types: bool,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of what names the manifest.
    pub descriptor: BTreeMap<String, String>,
    /// It tells how it was made, line by line.
    pub history: bool,
    /// Further fields of the config.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// An image whose layers are elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The config's bytes.
    pub config: Vec<u8>,
    /// Of the config; Docker's image id.
    pub config_digest: ConfigDigest,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Of the manifest.
    pub manifest_digest: ManifestDigest,
    /// Of the manifest.
    pub media_type: &'static str,
    /// Layer blobs, bottom first, as the manifest names them.
    pub layers: Vec<Descriptor>,
    /// What it runs on.
    pub platform: Platform,
    /// RFC 3339.
    pub created: Option<String>,
    /// Of what names it.
    pub annotations: BTreeMap<String, String>,
}

/// Why an image cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// More than overlayfs and Docker take.
    #[error("the image would have {got} layers, {MAX_LAYERS} are possible")]
    TooManyLayers {
        /// How many.
        got: usize,
    },
    /// The plan and the result disagree.
    #[error("the plan has {want} layers, {got} were made")]
    LayerCount {
        /// Planned.
        want: usize,
        /// Given.
        got: usize,
    },
    /// A blob that is no layer.
    #[error("`{0}` is no media type of a layer")]
    MediaType(String),
    /// A combination that does not exist.
    #[error("a zstd layer has no Docker media type: use OCI media types or gzip")]
    DockerZstd,
    /// A time that cannot be written.
    #[error("the creation time is out of range")]
    Time,
}

/// Puts an image together from all its layers, bottom first, the base's included.
pub fn assemble(
    target: &Target,
    layers: &[Layer],
    opts: &AssembleOptions,
) -> Result<Image, AssembleError> {
    let want = target.layer_count();
    if want > MAX_LAYERS || layers.len() > MAX_LAYERS {
        return Err(AssembleError::TooManyLayers { got: want.max(layers.len()) });
    }
    if want != layers.len() {
        return Err(AssembleError::LayerCount { want, got: layers.len() });
    }
    let now = match opts.epoch {
        Some(secs) => jiff::Timestamp::from_second(secs),
        None => jiff::Timestamp::try_from(opts.created),
    }
    .map_err(|_| AssembleError::Time)?
    .to_string();
    let mut history = base_history(&target.base.history, target.base.layers);
    history.extend(target.history.iter().map(|h| BaseHistory {
        created: Some(now.clone()),
        created_by: Some(h.created_by.clone()),
        author: h.author.clone(),
        comment: Some(h.comment.to_string()),
        empty_layer: h.layer.is_none(),
    }));
    // An image without steps of its own is as old as its base.
    let created = history.iter().rev().find_map(|h| h.created.clone()).or(Some(now));
    if !opts.history {
        history.clear();
    }
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id).collect();
    let mut config =
        config::ImageConfigFile::new(&target.config, &history, &diff_ids, created.as_deref());
    config.extra.extend(opts.config.clone());
    let config = config.to_json();
    let config_digest = ConfigDigest::of(&config);

    let oci = opts.oci_media_types;
    let layers = layers.iter().map(|l| descriptor(l, oci)).collect::<Result<Vec<_>, _>>()?;
    let (media_type, config_type) = if oci {
        (manifest::OCI_MANIFEST, manifest::OCI_CONFIG)
    } else {
        (manifest::DOCKER_MANIFEST, manifest::DOCKER_CONFIG)
    };
    let annotations = Some(opts.annotations.clone()).filter(|a| !a.is_empty());
    let config_desc = Descriptor::new(config_type, config_digest.into(), config.len() as u64);
    let bytes = Manifest::new(media_type, config_desc, layers.clone(), annotations).to_json();
    Ok(Image {
        config,
        config_digest,
        manifest_digest: ManifestDigest::of(&bytes),
        manifest: bytes,
        media_type,
        layers,
        platform: target.config.platform.clone(),
        created,
        annotations: opts.descriptor.clone(),
    })
}

fn descriptor(layer: &Layer, oci: bool) -> Result<Descriptor, AssembleError> {
    let how = layer_compression(&layer.media_type)
        .ok_or_else(|| AssembleError::MediaType(layer.media_type.chars().take(100).collect()))?;
    let media_type = layer_media_type(how, oci).ok_or(AssembleError::DockerZstd)?;
    debug_assert!(oci || how != Compression::Zstd);
    Ok(Descriptor::new(media_type, layer.blob, layer.size))
}

/// The base's history with exactly `layers` entries that made one: images of other tools miss some
/// or have too many, and everything above would then stand at the wrong layer.
fn base_history(history: &[BaseHistory], layers: usize) -> Vec<BaseHistory> {
    let mut out = history.to_vec();
    let mut seen = 0;
    for h in &mut out {
        if !h.empty_layer {
            seen += 1;
            h.empty_layer = seen > layers;
        }
    }
    let created = out.iter().rev().find_map(|h| h.created.clone());
    out.extend((seen..layers).map(|_| BaseHistory {
        created: created.clone(),
        comment: Some("buildkit.exporter.image.v0".to_owned()),
        ..BaseHistory::default()
    }));
    out
}

impl Image {
    /// Names the manifest, with the platform.
    pub fn descriptor(&self) -> Descriptor {
        let digest = self.manifest_digest.into();
        let mut d = Descriptor::new(self.media_type, digest, self.manifest.len() as u64);
        d.platform = Some(PlatformObject::of(&self.platform));
        d.annotations = Some(self.annotations.clone()).filter(|a| !a.is_empty());
        d
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_ir::image_config::ImageConfig;
    use rgraph_ir::plan::{HistoryEntry, TargetBase};
    use rgraph_ir::{Edge, VertexId};
    use std::time::Duration;

    fn layer(n: usize) -> Layer {
        let n = n.to_string();
        Layer {
            diff_id: DiffId::of(n.as_bytes()),
            blob: BlobDigest::of(n.as_bytes()),
            size: 1,
            media_type: manifest::OCI_LAYER_GZIP.to_owned(),
        }
    }

    fn target(base: TargetBase, own: &[bool]) -> Target {
        let edge = Edge { vertex: VertexId(0), output: 0 };
        let history = own.iter().map(|layer| HistoryEntry {
            created_by: "RUN x".into(),
            comment: "buildkit.dockerfile.v0".into(),
            author: None,
            layer: layer.then_some(edge),
            span: None,
        });
        Target {
            stage: "0".into(),
            platform: Platform::linux_amd64(),
            root: Some(edge),
            config: ImageConfig::empty(Platform::linux_amd64()),
            history: history.collect(),
            base,
        }
    }

    fn options() -> AssembleOptions {
        AssembleOptions {
            created: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250),
            epoch: None,
            oci_media_types: true,
            annotations: BTreeMap::new(),
            descriptor: BTreeMap::new(),
            history: true,
            config: BTreeMap::new(),
        }
    }

    fn entry(created: &str, empty: bool) -> BaseHistory {
        BaseHistory { created: Some(created.into()), empty_layer: empty, ..BaseHistory::default() }
    }

    #[test]
    fn history_and_layers_agree_whatever_the_base_says() {
        let t = "2020-01-01T00:00:00Z";
        for (base, layers) in [
            (vec![], 0),
            (vec![entry(t, false), entry(t, true)], 1),
            (vec![], 3),
            (vec![entry(t, false), entry(t, false), entry(t, false)], 1),
            (vec![entry(t, true)], 2),
        ] {
            let base = TargetBase { layers, history: base, ..TargetBase::default() };
            let target = target(base, &[true, false, true]);
            let all: Vec<_> = (0..layers + 2).map(layer).collect();
            let image = assemble(&target, &all, &options()).unwrap();
            let (_, history, diff_ids) = config::from_json(&image.config).unwrap();
            assert_eq!(history.iter().filter(|h| !h.empty_layer).count(), layers + 2);
            assert_eq!(diff_ids, all.iter().map(|l| l.diff_id).collect::<Vec<_>>());
            let own: Vec<_> = history[history.len() - 3..].iter().map(|h| h.empty_layer).collect();
            assert_eq!(own, [false, true, false]);
        }
    }

    #[test]
    fn times_are_now_or_the_epoch_and_the_base_keeps_its_own() {
        let t = "2020-01-01T00:00:00Z";
        let base =
            TargetBase { layers: 1, history: vec![entry(t, false)], ..TargetBase::default() };
        let all = [layer(0), layer(1)];
        for (epoch, want) in [(None, "2023-11-14T22:13:20.25Z"), (Some(0), "1970-01-01T00:00:00Z")]
        {
            let opts = AssembleOptions { epoch, ..options() };
            let image = assemble(&target(base.clone(), &[true]), &all, &opts).unwrap();
            let (_, history, _) = config::from_json(&image.config).unwrap();
            let got: Vec<_> = history.into_iter().map(|h| h.created.unwrap()).collect();
            assert_eq!(got, [t, want]);
            assert_eq!(image.created.as_deref(), Some(want));
        }
        let only_base = assemble(&target(base, &[]), &all[..1], &options()).unwrap();
        assert_eq!(only_base.created.as_deref(), Some(t));
    }

    #[test]
    fn without_a_history_only_the_time_is_left_of_it() {
        let t = "2020-01-01T00:00:00Z";
        let base =
            TargetBase { layers: 1, history: vec![entry(t, false)], ..TargetBase::default() };
        let opts = AssembleOptions { history: false, ..options() };
        let image = assemble(&target(base, &[]), &[layer(0)], &opts).unwrap();
        let (_, history, diff_ids) = config::from_json(&image.config).unwrap();
        assert_eq!((history.len(), diff_ids.len()), (0, 1));
        assert_eq!(image.created.as_deref(), Some(t));
    }

    #[test]
    fn the_limit_of_layers_holds() {
        let base = |layers| TargetBase { layers, ..TargetBase::default() };
        let all: Vec<_> = (0..=MAX_LAYERS).map(layer).collect();
        let make = |b, n| assemble(&target(base(b), &[true]), &all[..n], &options());
        assert!(make(MAX_LAYERS - 1, MAX_LAYERS).is_ok());
        assert_eq!(
            make(MAX_LAYERS, MAX_LAYERS + 1).unwrap_err(),
            AssembleError::TooManyLayers { got: MAX_LAYERS + 1 }
        );
        assert_eq!(make(1, 3).unwrap_err(), AssembleError::LayerCount { want: 2, got: 3 });
    }

    #[test]
    fn media_types_follow_the_wish() {
        let make = |media_type: &str, oci| {
            let l = Layer { media_type: media_type.into(), ..layer(0) };
            let opts = AssembleOptions { oci_media_types: oci, ..options() };
            let base = TargetBase { layers: 1, ..TargetBase::default() };
            assemble(&target(base, &[]), &[l], &opts).map(|i| i.layers[0].media_type.clone())
        };
        use manifest::*;
        assert_eq!(make(OCI_LAYER_GZIP, false).unwrap(), DOCKER_LAYER_GZIP);
        assert_eq!(make(DOCKER_LAYER, true).unwrap(), OCI_LAYER);
        assert_eq!(make(OCI_LAYER_ZSTD, true).unwrap(), OCI_LAYER_ZSTD);
        assert_eq!(make(OCI_LAYER_ZSTD, false).unwrap_err(), AssembleError::DockerZstd);
        assert!(make("text/plain", true).is_err());
    }
}
