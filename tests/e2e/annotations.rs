//! What `--annotation` and the keys of `-o` put into manifests and indexes, and names by digest.

use std::path::Path;

use rgraph_tests::{Access, Case, Registry, need};
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn blob(layout: &Path, of: &Value) -> Value {
    let digest = of["digest"].as_str().expect("a digest").replace(':', "/");
    json(&layout.join("blobs").join(digest))
}

fn case() -> Case {
    let case = Case::new();
    case.file("f", "x").dockerfile("FROM scratch\nCOPY f /\n");
    case
}

#[test]
fn annotations_stand_where_they_are_asked_for() {
    need!(Root);
    let case = case();
    let dir = case.out("layout");
    let keys = "annotation.a=1,annotation-index.i=2,annotation-index-descriptor.id=3,\
                annotation-manifest-descriptor.md=4,annotation[linux/arm64].a=5";
    let output = format!("type=oci,tar=false,dest={},{keys}", dir.display());
    case.build(&[
        "--platform=linux/amd64,linux/arm64",
        "--annotation=index,manifest:both=6",
        "-o",
        &output,
    ])
    .ok();
    let root = json(&dir.join("index.json"))["manifests"][0].clone();
    assert_eq!(root["annotations"]["id"], "3");
    let index = blob(&dir, &root);
    assert_eq!(
        (&index["annotations"]["i"], &index["annotations"]["both"]),
        (&"2".into(), &"6".into())
    );
    for (entry, want) in index["manifests"].as_array().expect("two").iter().zip(["1", "5"]) {
        assert_eq!(entry["annotations"]["md"], "4");
        let manifest = blob(&dir, entry);
        assert_eq!(manifest["annotations"]["a"], want);
        assert_eq!(manifest["annotations"]["both"], "6");
    }
    // Of one platform there is no index.
    case.build(&["--annotation=index:a=b", "-t", "x"]).fails(1, &["need several platforms"]);
    case.build(&["--annotation", "novalue"]).fails(2, &["expected KEY=VALUE"]);
    case.build(&["-o", "type=image,annotation-layer.a=b"]).fails(2, &["types: manifest, index"]);
}

#[test]
fn pushed_and_kept_images_have_them_too() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"));
    let registry = Registry::start(Access::Open);
    let case = case();
    let name = registry.name("app:1");
    let facts = case.out("facts.json");
    let file = facts.display().to_string();
    let output = format!("type=image,name={name},push=true,push-by-digest=true");
    case.build(&["--annotation=a=b", "-o", &output, "--metadata-file", &file]).ok();
    let digest = json(&facts)["containerimage.digest"].as_str().expect("a digest").to_owned();
    let repository = name.trim_end_matches(":1");
    let raw = |reference: &str| {
        std::process::Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")])
            .output()
            .expect("skopeo runs")
    };
    let by_digest = raw(&format!("{repository}@{digest}"));
    let manifest: Value = serde_json::from_slice(&by_digest.stdout).expect("a manifest");
    assert_eq!(manifest["annotations"]["a"], "b");
    assert!(!raw(&name).status.success(), "the tag was not to be set");
    case.build(&["-o", "type=image,name=kept:1,name-canonical=true"]).ok();
    let digests = case.rgraph(&["images", "--format", "{{.Repository}} {{.Tag}}", "kept"]).ok();
    assert_eq!(digests.text(), "kept <none>\nkept 1\n");
}
