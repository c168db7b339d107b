//! Images of several platforms, and what others make of them.

use std::path::Path;
use std::process::Command;

use rgraph_tests::{Access, BASE, Case, Registry, need};
use serde_json::Value;

pub(crate) const BOTH: &str = "--platform=linux/amd64,linux/arm64";

/// Runs a program; its stdout.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect("it is installed");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}:\n{err}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Pushes a base whose only file tells its platform.
pub(crate) fn push_base(registry: &Registry) -> String {
    let name = registry.name("base:1");
    let case = Case::new();
    case.file("amd64", "").file("arm64", "");
    case.file("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /base-$TARGETARCH\n");
    case.build(&[BOTH, "--push", "-t", &name]).ok();
    name
}

/// A case whose image has a file of a stage that runs on this machine.
fn case(base: &str) -> Case {
    let case = Case::with_base();
    case.file("f", "f\n").dockerfile(&format!(
        "FROM --platform=$BUILDPLATFORM BASE AS native\nRUN echo made > /made\n\
         FROM {base}\nCOPY --from=native /made /bin/busybox /\nCOPY f /\n\
         CMD [\"/busybox\", \"cat\", \"/made\"]\n"
    ));
    case
}

fn inspect(name: &str) -> (String, Value) {
    let raw =
        run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]);
    let json = serde_json::from_str(&raw).expect("JSON");
    (rgraph_tests::digest(raw.as_bytes()), json)
}

/// The platform and digest of each image of an index.
fn images(index: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let entries = index["manifests"].as_array().expect("an index").iter();
    entries.map(|m| (text(&m["platform"]["architecture"]), text(&m["digest"]))).collect()
}

/// The config of each image of an index, which the registry has by its digest.
pub(crate) fn config_of(name: &str) -> Vec<(String, Value)> {
    let repository = name.strip_suffix(":1").expect("a tag");
    let of = |digest: &str| run_skopeo_config(&format!("docker://{repository}@{digest}"));
    images(&inspect(name).1).into_iter().map(|(arch, digest)| (arch, of(&digest))).collect()
}

/// What others make of an index in a registry: skopeo copies all of it, byte for byte, into a layout and
/// from there back; buildah takes each image by platform and by digest, and `look` sees its files.
pub(crate) fn taken_by_others(
    case: &Case,
    registry: &Registry,
    name: &str,
    look: impl Fn(&str, &Path),
) {
    let (digest, index) = inspect(name);
    let repository = name.strip_suffix(":1").expect("a tag");
    let layout = format!("oci:{}:1", case.out("layout").display());
    let other = registry.name("copied:1");
    let copy = |from: &str, to: &str| {
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let how = ["copy", "-q", "--all", "--preserve-digests"];
        run("skopeo", &[&how[..], &tls, &[from, to]].concat());
    };
    copy(&format!("docker://{name}"), &layout);
    copy(&layout, &format!("docker://{other}"));
    assert_eq!(inspect(&other).0, digest);
    let (root, state) = (case.out("b").display().to_string(), case.out("r").display().to_string());
    let buildah = |args: &[&str]| {
        let own = ["--root", &root, "--runroot", &state, "--storage-driver", "vfs"];
        run("buildah", &[&own, args].concat())
    };
    let arch_of = |id: &str| {
        buildah(&["inspect", "--type", "image", "--format", "{{.OCIv1.Architecture}}", id])
    };
    for (arch, digest) in images(&index) {
        let pull = ["pull", "-q", "--tls-verify=false"];
        let id = buildah(&[&pull[..], &["--arch", &arch, &format!("docker://{name}")]].concat());
        assert_eq!(arch_of(&id), arch);
        let by_digest = format!("docker://{repository}@{digest}");
        assert_eq!(buildah(&[&pull[..], &["--arch", &arch, &by_digest]].concat()), id);
        let container = buildah(&["from", "--arch", &arch, &id]);
        look(&arch, Path::new(&buildah(&["mount", &container])));
        buildah(&["umount", &container]);
        buildah(&["rm", &container]);
    }
    buildah(&["rmi", "-a", "-f"]);
}

/// PLAT-01, PLAT-06: pushed, kept, run, and pushed once more.
#[test]
fn others_take_an_index() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"), Tool("buildah"));
    let registry = Registry::start(Access::Open);
    let base = push_base(&registry);
    let case = case(&base);
    let name = registry.name("multi:1");
    let note = "--annotation=index:org.example.made=here";
    let first = case.build(&[BOTH, note, "--push", "-t", &name]).ok();
    // What is the same for both ran once; what is not, for each.
    assert_eq!(first.step("RUN echo made"), "DONE");
    let copies: Vec<String> =
        first.steps().into_keys().filter(|n| n.contains("COPY f /")).collect();
    assert_eq!(copies.len(), 2, "{copies:?}");
    let (digest, index) = inspect(&name);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let list = images(&index);
    assert_eq!(list.iter().map(|(a, _)| a.as_str()).collect::<Vec<_>>(), ["amd64", "arm64"]);
    for (arch, config) in config_of(&name) {
        assert_eq!(config["architecture"], *arch);
        let layers = config["rootfs"]["diff_ids"].as_array().expect("layers").len();
        assert_eq!(layers, 3, "one of the base and two of ours");
    }
    taken_by_others(&case, &registry, &name, |arch, root| {
        let mut files: Vec<String> = std::fs::read_dir(root)
            .expect("its files")
            .map(|e| e.expect("a file").file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, [&format!("base-{arch}")[..], "busybox", "f", "made"]);
    });
    // Kept here it is the same index, runs, and is pushed later.
    let kept = registry.name("kept:1");
    case.build(&[BOTH, note, "-t", &kept]).ok().all_cached();
    if list[0].0 == host_arch() {
        let out = case.rgraph(&["run", "--rm", "--network=none", &kept]).ok();
        assert_eq!(out.text(), "made\n");
    }
    case.rgraph(&["push", &kept]).ok();
    let (again, kept) = inspect(&kept);
    assert_eq!(kept, index);
    assert_eq!(again, digest);
}

fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// PLAT-03.
#[test]
fn a_base_says_which_platforms_it_has() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let base = push_base(&registry);
    let case = case(&base);
    for platforms in ["--platform=linux/s390x", "--platform=linux/amd64,linux/s390x"] {
        let texts =
            ["Dockerfile:3", "no image for linux/s390x", "there are: linux/amd64, linux/arm64"];
        let run = case.build(&[platforms, "-o", "type=cacheonly"]).fails(1, &texts);
        let errors = run.stderr.lines().filter(|l| l.starts_with("error")).count();
        assert_eq!(errors, 1, "{}", run.stderr);
    }
    // An image that is no index is taken with a warning, whatever it is for.
    let single = registry.name("single:1");
    case.rgraph(&["tag", BASE, &single]).ok();
    case.rgraph(&["push", &single]).ok();
    let other = Case::new();
    other.file("f", "").file("Dockerfile", format!("FROM {single}\nCOPY f /\n"));
    let want = if host_arch() == "arm64" { "linux/s390x" } else { "linux/arm64" };
    let run = other.build(&["--platform", want, "-o", "type=cacheonly"]).ok();
    let host = format!("was pulled with platform \"linux/{}\", expected \"{want}\"", host_arch());
    assert!(run.stderr.contains(&host), "{}", run.stderr);
}

/// Pushes an image of one file for these platforms.
fn push_for(registry: &Registry, name: &str, platforms: &str) -> String {
    let name = registry.name(name);
    let case = Case::new();
    case.file("f", name.as_bytes()).file("Dockerfile", "FROM scratch\nCOPY f /\n");
    case.build(&["--platform", platforms, "--push", "-t", &name]).ok();
    name
}

/// PLAT-05.
#[test]
fn all_platforms_are_those_of_every_base() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"));
    let registry = Registry::start(Access::Open);
    let two = push_for(&registry, "two:1", "linux/arm/v7,linux/arm64,linux/amd64");
    let three = push_for(&registry, "three:1", "linux/s390x,linux/amd64,linux/arm64");
    let lone = push_for(&registry, "lone:1", "linux/s390x");
    let case = Case::with_base();
    let built = |text: &str| {
        case.dockerfile(text);
        let name = registry.name("built:1");
        let run = case.build(&["--all-platforms", "--push", "-t", &name]).ok();
        let (_, json) = inspect(&name);
        let of_one = || {
            let at = format!("docker://{name}");
            let config = run_skopeo_config(&at);
            vec![config["architecture"].as_str().expect("it").to_owned()]
        };
        let all = match json["manifests"].is_array() {
            true => images(&json).into_iter().map(|(arch, _)| arch).collect(),
            false => of_one(),
        };
        (all, run.stderr)
    };
    // What runs here in any case is not asked, and has one platform only.
    let native = "FROM --platform=$BUILDPLATFORM BASE AS native\nRUN echo made > /made\n";
    let text =
        format!("{native}FROM {two}\nCOPY --from={three} /f /g\nCOPY --from=native /made /\n");
    assert_eq!(built(&text).0, ["amd64", "arm64"]);
    // A base that is named after the platform; `of-s390x` is nothing.
    let text = format!(
        "FROM {two} AS of-amd64\nFROM {three} AS of-arm64\nARG TARGETARCH\nFROM of-$TARGETARCH\nCOPY --from={three} /f /g\n"
    );
    let (all, said) = built(&format!("ARG TARGETARCH\n{text}"));
    assert_eq!(all, ["amd64", "arm64"]);
    assert!(said.contains("not built for linux/s390x"), "{said}");
    let (all, said) = built("FROM scratch\nCOPY Dockerfile /\n");
    assert_eq!(all, [host_arch()]);
    assert!(said.contains("there is no base to ask"), "{said}");
    case.dockerfile(&format!("FROM {lone}\nCOPY --from={two} /f /g\n"));
    let texts = ["no platform is one of all bases", "lone:1` is for linux/s390x", "`--platform`"];
    case.build(&["--all-platforms"]).fails(1, &texts);
    case.build(&["--all-platforms", "--platform=linux/amd64"]).fails(2, &["exclude each other"]);
    // Statements beside the images are no platforms.
    let said = registry.name("said:1");
    case.dockerfile(&format!("FROM {two}\nCOPY Dockerfile /\n"));
    let flags = ["--platform=linux/arm64,linux/amd64", "--provenance", "--push", "-t", &said];
    case.build(&flags).ok();
    assert_eq!(inspect(&said).1["manifests"].as_array().expect("an index").len(), 4);
    assert_eq!(built(&format!("FROM {said}\nCOPY Dockerfile /d\n")).0, ["amd64", "arm64"]);
}

fn run_skopeo_config(at: &str) -> Value {
    let config = run("skopeo", &["inspect", "--config", "--tls-verify=false", at]);
    serde_json::from_str(&config).expect("JSON")
}

/// PLAT-02: variants of one architecture are platforms of their own.
#[test]
fn variants() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("variants:1");
    let made = Case::new();
    let text = "FROM scratch\nARG TARGETPLATFORM\nCOPY <<EOF /for\n$TARGETPLATFORM\nEOF\n";
    made.file("Dockerfile", text);
    let all = "linux/amd64,linux/amd64/v2,linux/arm/v6,linux/arm/v7";
    made.build(&["--platform", all, "--push", "-t", &name]).ok();
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}\nCOPY Dockerfile /\n"));
    for (asked, got) in [
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("linux/amd64/v3", "linux/amd64/v2"),
        ("linux/amd64", "linux/amd64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
    ] {
        let image = case.image(&["--platform", asked]);
        assert_eq!(image.read("for"), format!("{got}\n"), "{asked}");
    }
    case.build(&["--platform", "linux/arm/v5"]).fails(1, &["linux/arm/v5", "linux/arm/v6"]);
}
