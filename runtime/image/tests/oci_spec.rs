//! What we write, read by the reference types of the OCI image specification.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use oci_spec::image::{Arch, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use rgraph_image::assemble::{AssembleOptions, Image, Layer, assemble};
use rgraph_image::manifest::{Index, OCI_INDEX, OCI_LAYER_GZIP};
use rgraph_ir::image_config::ImageConfig;
use rgraph_ir::plan::{HistoryEntry, TargetBase};
use rgraph_ir::{BlobDigest, DiffId, Edge, Platform, Target, VertexId};

fn image() -> Image {
    let mut config = ImageConfig::empty(Platform::new("linux", "arm"));
    config.author = Some("somebody <some@body>".to_owned());
    config.config.env =
        vec![("PATH".into(), "/bin".into()), ("Q".into(), "a \"b\" <c> & \u{2028}".into())];
    config.config.cmd = Some(vec!["sh".into(), "-c".into(), "echo $Q".into()]);
    config.config.exposed_ports.insert("80/tcp".into());
    config.config.volumes.insert("/data".into());
    config.config.labels.insert("k".into(), "v".into());
    config.config.working_dir = "/w".into();
    config.config.user = "1000:1000".into();
    config.config.stop_signal = Some("SIGINT".into());
    let history = [("RUN x", true), ("ENV Q=..", false), ("COPY a b", true)];
    let target = Target {
        stage: "0".into(),
        platform: config.platform.clone(),
        root: Some(Edge::main(VertexId(0))),
        history: history
            .iter()
            .map(|(text, layer)| HistoryEntry {
                created_by: (*text).to_owned(),
                comment: "buildkit.dockerfile.v0".into(),
                author: None,
                layer: layer.then(|| Edge::main(VertexId(0))),
                span: None,
            })
            .collect(),
        config,
        base: TargetBase::default(),
    };
    let layers: Vec<_> = [b"a", b"b"]
        .iter()
        .map(|b| Layer {
            diff_id: DiffId::of(*b),
            blob: BlobDigest::of(*b),
            size: 1,
            media_type: OCI_LAYER_GZIP.to_owned(),
        })
        .collect();
    let options = AssembleOptions {
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        epoch: None,
        oci_media_types: true,
        annotations: BTreeMap::from([("org.opencontainers.image.title".into(), "t".into())]),
        descriptor: BTreeMap::new(),
        config: BTreeMap::new(),
        history: true,
    };
    assemble(&target, &layers, &options).unwrap()
}

#[test]
fn a_config_says_the_same_to_the_reference() {
    let image = image();
    let c = ImageConfiguration::from_reader(&image.config[..]).unwrap();
    assert_eq!((c.architecture(), c.os()), (&Arch::ARM, &Os::Linux));
    assert_eq!(c.author().as_deref(), Some("somebody <some@body>"));
    assert_eq!(c.created().as_deref(), Some("2023-11-14T22:13:20Z"));
    let inner = c.config().as_ref().unwrap();
    let env = inner.env().as_ref().unwrap();
    assert_eq!(env[..], ["PATH=/bin".to_owned(), "Q=a \"b\" <c> & \u{2028}".to_owned()]);
    assert_eq!(inner.cmd().as_ref().unwrap().len(), 3);
    assert_eq!(inner.exposed_ports().as_ref().unwrap()[..], ["80/tcp".to_owned()]);
    assert_eq!(inner.volumes().as_ref().unwrap()[..], ["/data".to_owned()]);
    assert_eq!(inner.working_dir().as_deref(), Some("/w"));
    assert_eq!(inner.user().as_deref(), Some("1000:1000"));
    assert_eq!(inner.stop_signal().as_deref(), Some("SIGINT"));
    let want = [DiffId::of(b"a").to_string(), DiffId::of(b"b").to_string()];
    assert_eq!(c.rootfs().diff_ids()[..], want);
    let empty: Vec<_> =
        c.history().as_ref().unwrap().iter().map(|h| h.empty_layer().unwrap_or(false)).collect();
    assert_eq!(empty, [false, true, false]);
}

#[test]
fn a_manifest_and_an_index_say_the_same_to_the_reference() {
    let image = image();
    let m = ImageManifest::from_reader(&image.manifest[..]).unwrap();
    assert_eq!(m.schema_version(), 2);
    assert_eq!(m.config().media_type(), &MediaType::ImageConfig);
    assert_eq!(m.config().digest().to_string(), image.config_digest.to_string());
    assert_eq!(m.config().size(), image.config.len() as u64);
    let layers: Vec<_> = m.layers().iter().map(|l| l.digest().to_string()).collect();
    assert_eq!(layers, [BlobDigest::of(b"a").to_string(), BlobDigest::of(b"b").to_string()]);
    assert!(m.layers().iter().all(|l| l.media_type() == &MediaType::ImageLayerGzip));
    assert_eq!(m.annotations().as_ref().unwrap()["org.opencontainers.image.title"], "t");

    let index = Index::new(OCI_INDEX, vec![image.descriptor()], None).to_json();
    let i = ImageIndex::from_reader(&index[..]).unwrap();
    let entry = &i.manifests()[0];
    assert_eq!(entry.digest().to_string(), image.manifest_digest.to_string());
    let platform = entry.platform().as_ref().unwrap();
    assert_eq!((platform.architecture(), platform.variant().as_deref()), (&Arch::ARM, Some("v7")));
}
