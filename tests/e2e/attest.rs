//! What is said of results: beside images, among files, through registries and archives.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use rgraph_tests::{
    Access, Answer, Case, Docker, Member, Parts, Registry, Web, digest, need, tar_of,
};
use serde_json::{Value, json};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

fn blob(layout: &Path, of: &Value) -> Value {
    let digest = of["digest"].as_str().expect("a digest").replace(':', "/");
    json(&layout.join("blobs").join(digest))
}

fn tool(program: &str, args: &[&str]) -> std::process::Output {
    Command::new(program).args(args).output().expect("it runs")
}

#[track_caller]
fn ok(program: &str, args: &[&str]) -> Vec<u8> {
    let out = tool(program, args);
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// The images of an index, and the statements about each by predicate type. Checks that each is
/// about its image, by every digest that says so.
fn statements(layout: &Path, index: &Value) -> BTreeMap<String, BTreeMap<String, Value>> {
    let entries = index["manifests"].as_array().expect("entries");
    let mut out = BTreeMap::new();
    for e in entries {
        let platform = &e["platform"];
        if platform["os"] != "unknown" {
            let name = format!("{}/{}", platform["os"], platform["architecture"]).replace('"', "");
            out.insert(e["digest"].as_str().expect("a digest").to_owned(), (name, BTreeMap::new()));
        }
    }
    for e in entries.iter().filter(|e| e["platform"]["os"] == "unknown") {
        assert_eq!(e["platform"]["architecture"], "unknown");
        assert_eq!(e["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        let about = e["annotations"]["vnd.docker.reference.digest"].as_str().expect("a digest");
        let (_, said) = out.get_mut(about).expect("an image of the index");
        let manifest = blob(layout, e);
        for l in manifest["layers"].as_array().expect("layers") {
            assert_eq!(l["mediaType"], "application/vnd.in-toto+json");
            let statement = blob(layout, l);
            assert_eq!(statement["predicateType"], l["annotations"]["in-toto.io/predicate-type"]);
            for s in statement["subject"].as_array().expect("subjects") {
                assert_eq!(format!("sha256:{}", s["digest"]["sha256"].as_str().unwrap()), about);
            }
            let kind = statement["predicateType"].as_str().expect("a type").to_owned();
            said.insert(kind, statement);
        }
    }
    out.into_values().collect()
}

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";

fn case() -> Case {
    let case = Case::with_base();
    case.file(
        "status",
        "Package: zlib1g\nVersion: 1:1.3\nArchitecture: amd64\nStatus: install ok installed\n\n",
    )
    .file("installed", "P:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\n")
    .dockerfile(
        "FROM BASE\nARG GREETING\nCOPY status /var/lib/dpkg/status\n\
             COPY installed /lib/apk/db/installed\n\
             RUN --mount=type=secret,id=pw echo $GREETING > /hi\n",
    );
    case
}

#[test]
fn an_image_goes_with_what_is_said_of_it() {
    need!(Root, Tool("skopeo"), Tool("umoci"));
    let case = case();
    std::fs::write(case.out("pw"), "hunter2hunter2").expect("a file");
    let dir = case.out("layout");
    let output = format!("type=oci,tar=false,dest={}", dir.display());
    let facts = case.out("facts.json");
    let secret = format!("id=pw,src={}", case.out("pw").display());
    let run = case
        .build(&[
            "--provenance",
            "--sbom",
            "--build-arg=GREETING=hello",
            "--build-arg=HTTP_PROXY=http://u:proxyword@p.invalid",
            "--network=none",
            &format!("--secret={secret}"),
            "-t",
            "said:1",
            "-o",
            &output,
            "--metadata-file",
            &facts.display().to_string(),
        ])
        .ok();
    let root = json(&dir.join("index.json"))["manifests"][0].clone();
    let said = &statements(&dir, &blob(&dir, &root))["linux/amd64"];
    assert_eq!(said.keys().map(String::as_str).collect::<Vec<_>>(), [PROVENANCE, SPDX]);
    let p = &said[PROVENANCE]["predicate"];
    let request = &p["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:GREETING"], "hello");
    assert_eq!(request["secrets"][0]["id"], "pw");
    assert_eq!(p["buildDefinition"]["externalParameters"]["configSource"]["path"], "Dockerfile");
    let steps = p["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"].clone();
    assert_eq!(steps.as_array().map(Vec::len), Some(6), "{steps:#}");
    let base = &p["buildDefinition"]["resolvedDependencies"][0];
    assert_eq!(base["uri"], "pkg:docker/busybox@test?platform=linux%2Famd64");
    assert_eq!(base["digest"]["sha256"].as_str().map(str::len), Some(64));
    let meta = &p["runDetails"]["metadata"];
    assert!(meta["startedOn"].as_str() < meta["finishedOn"].as_str(), "{meta}");
    assert_eq!(meta["buildkit_completeness"]["request"], true);
    assert_eq!(meta["buildkit_completeness"]["resolvedDependencies"], false, "a folder of ours");
    assert_eq!(meta["buildkit_metadata"]["source"]["infos"][0]["filename"], "Dockerfile");
    // The package list.
    let packages = said[SPDX]["predicate"]["packages"].as_array().expect("packages");
    let named: Vec<_> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(named, ["said:1", "musl", "zlib1g"]);
    // Nothing of the secret, the proxy's password or this machine's folders.
    let all = serde_json::to_string(said).expect("JSON") + &json(&facts).to_string();
    for word in ["hunter2", "proxyword", &case.dir().display().to_string()] {
        assert!(!all.contains(word), "`{word}` in {all}");
    }
    let facts = json(&facts);
    assert_eq!(facts["buildx.build.provenance"], *p);
    assert_eq!(facts["containerimage.digest"], root["digest"]);
    assert_eq!(facts["containerimage.descriptor"]["digest"], root["digest"]);
    assert_eq!(facts["containerimage.config.digest"], run.image());
    assert_eq!(facts["buildx.build.ref"], meta["invocationId"]);
    // Other tools take the image, and copy all of it.
    let (from, to) = (format!("oci:{}:1", dir.display()), case.out("copy"));
    ok("skopeo", &["inspect", &from]);
    ok("skopeo", &["copy", "-q", "--all", &from, &format!("oci:{}:1", to.display())]);
    let copied = blob(&to, &json(&to.join("index.json"))["manifests"][0]);
    assert_eq!(statements(&to, &copied)["linux/amd64"].len(), 2);
    // umoci knows no index.
    let alone = format!("{}:1", case.out("alone").display());
    ok("skopeo", &["copy", "-q", &from, &format!("oci:{alone}")]);
    ok("umoci", &["stat", "--image", &alone]);
}

#[test]
fn little_is_said_when_little_is_asked() {
    need!(Root);
    let case = case();
    std::fs::write(case.out("pw"), "x").expect("a file");
    let secret = format!("--secret=id=pw,src={}", case.out("pw").display());
    let build = |spec: &str| {
        let dir = case.out(&spec.replace([',', '=', '.'], "_"));
        let output = format!("type=oci,tar=false,dest={}", dir.display());
        let args = [spec, "--build-arg=GREETING=hello", &secret, "-o", &output];
        case.build(&args).ok();
        let index = blob(&dir, &json(&dir.join("index.json"))["manifests"][0]);
        statements(&dir, &index)["linux/amd64"].clone()
    };
    let said = build("--provenance=mode=min");
    let text = serde_json::to_string(&said).expect("JSON");
    assert!(!text.contains("hello") && !text.contains("\"pw\""), "{text}");
    let p = &said[PROVENANCE]["predicate"];
    assert_eq!(p["runDetails"]["metadata"]["buildkit_completeness"]["request"], false);
    assert!(p["buildDefinition"]["internalParameters"]["buildConfig"].is_null());
    let said = build("--attest=type=provenance,version=v0.2,builder-id=https://b.example");
    let p = &said["https://slsa.dev/provenance/v0.2"]["predicate"];
    assert_eq!(p["builder"]["id"], "https://b.example");
    assert_eq!(p["materials"].as_array().map(Vec::len), Some(1));
    assert!(p["buildConfig"]["llbDefinition"].is_array());
}

#[test]
fn statements_stay_with_an_image_on_its_ways() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"));
    let registry = Registry::start(Access::Open);
    let case = case();
    let (pushed, kept) = (registry.name("a:1"), registry.name("b:1"));
    let flags = ["--provenance", "--sbom", "--platform=linux/amd64,linux/arm64"];
    case.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY installed /lib/apk/db/installed\nCOPY status /$TARGETARCH\n");
    case.build(&[&flags[..], &["--push", "-t", &pushed]].concat()).ok();
    case.build(&[&flags[..], &["-t", &kept]].concat()).ok();
    case.rgraph(&["push", &kept]).ok();
    let copied = |name: &str| {
        let dir = case.out(&name.replace([':', '/'], "_"));
        let to = format!("oci:{}:1", dir.display());
        let from = format!("docker://{name}");
        ok(
            "skopeo",
            &["copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to],
        );
        statements(&dir, &blob(&dir, &json(&dir.join("index.json"))["manifests"][0]))
    };
    for name in [&pushed, &kept] {
        let said = copied(name);
        assert_eq!(said.keys().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
        assert!(said.values().all(|s| s.len() == 2), "{said:?}");
    }
    // A pull takes the image with what is said of it; statements are no platform of it.
    let other = Case::new();
    other.rgraph(&["pull", &pushed]).ok();
    let platforms = other.rgraph(&["images", "-a", "--format", "{{.Platform}}"]).ok();
    assert_eq!(platforms.text(), "linux/amd64\n");
    other.rgraph(&["pull", "--platform=linux/arm64", &pushed]).ok();
    let kinds = "{{range .Attestations}}{{.PredicateType}} {{end}}";
    let shown = other.rgraph(&["inspect", "--format", kinds, &pushed]).ok();
    assert_eq!(shown.text().split_whitespace().count(), 2, "{}", shown.text());
    assert!(shown.text().contains("https://slsa.dev/provenance/v1"), "{}", shown.text());
    other.rgraph(&["prune", "-f"]).ok();
    let again = registry.name("c:1");
    other.rgraph(&["tag", &pushed, &again]).ok();
    other.rgraph(&["push", &again]).ok();
    assert_eq!(copied(&again), copied(&pushed));
    other
        .rgraph(&["pull", "--platform=linux/s390x", &pushed])
        .fails(1, &["no image for linux/s390x"]);
    // Through an archive, whose layers are packed in another way, and into another registry name.
    let file = case.out("both.tar").display().to_string();
    case.rgraph(&["save", "-o", &file, &kept]).ok();
    let other = Case::new();
    other.rgraph(&["load", "-i", &file]).ok();
    other.rgraph(&["inspect", &kept]).ok();
    let again = registry.name("d:1");
    other.rgraph(&["tag", &kept, &again]).ok();
    other.rgraph(&["prune", "-f"]).ok();
    other.rgraph(&["push", &again]).ok();
    let said = copied(&again);
    assert!(said.len() == 2 && said.values().all(|s| s.len() == 2), "{said:?}");
    other.rgraph(&["rmi", &kept, &again]).ok();
    other.rgraph(&["store", "check"]).ok();
    assert_eq!(other.rgraph(&["images", "-aq"]).ok().text(), "");
}

/// An index with one image and an entry about it.
fn index_of(parts: &Parts, entry: &Value) -> Vec<u8> {
    let manifest = parts.manifest.to_string().into_bytes();
    let image = json!({
        "mediaType": parts.media_type, "digest": digest(&manifest), "size": manifest.len(),
        "platform": {"os": "linux", "architecture": "amd64"},
    });
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [image, entry]});
    index.to_string().into_bytes()
}

#[test]
fn what_a_registry_does_not_have_or_says_wrongly_is_not_kept() {
    need!(Root);
    let parts = Parts::new(&[tar_of(&[Member::File("a", b"a")])]);
    let statement = |size: usize, blob: &str| {
        let empty = digest(b"{}");
        let (config, layer) = ("application/vnd.oci.empty.v1+json", "application/vnd.in-toto+json");
        json!({
            "schemaVersion": 2, "mediaType": parts.media_type,
            "config": {"mediaType": config, "digest": empty, "size": 2},
            "layers": [{"mediaType": layer, "digest": blob, "size": size}],
        })
        .to_string()
        .into_bytes()
    };
    // (the manifest of statements, whether it is there, whether the pull succeeds)
    let good = statement(4, &digest(b"said"));
    for (manifest, there, ok, kept) in [
        (good.clone(), true, true, true),
        (good.clone(), false, true, false),
        (statement(1 << 40, &digest(b"said")), true, true, false),
        (statement(5, &digest(b"said")), true, false, false),
        (statement(4, &digest(b"other")), true, false, false),
    ] {
        let image = parts.manifest.to_string();
        let entry = json!({
            "mediaType": parts.media_type, "digest": digest(&manifest), "size": manifest.len(),
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": digest(image.as_bytes()),
            },
        });
        let (index, asked) = (index_of(&parts, &entry), digest(&manifest));
        let kind = "Content-Type: application/vnd.oci.image.index.v1+json";
        let inner = parts.clone();
        let web = Web::start(move |q| {
            let path = q.line.split(' ').nth(1).unwrap_or_default();
            let last = path.rsplit('/').next().unwrap_or_default();
            match last {
                "1" => Answer::ok(index.clone()).header(kind),
                _ if last == asked && there => inner.manifest_answer(manifest.clone()),
                _ if last == asked => Answer::status(404),
                _ if last == digest(b"said") => Answer::ok("said"),
                _ if last == digest(b"other") => Answer::ok("said"),
                _ if last == digest(b"{}") => Answer::ok("{}"),
                _ => inner.answer(q),
            }
        });
        let case = Case::new();
        let name = format!("{}/x:1", web.host());
        let run = case.rgraph(&["pull", &name]);
        if !ok {
            run.fails(1, &["mismatch"]);
            continue;
        }
        run.ok();
        let shown = case.rgraph(&["inspect", "--format", "{{json .Attestations}}", &name]).ok();
        assert_eq!(shown.text().contains("Digest"), kept, "{}", shown.text());
        case.rgraph(&["store", "check"]).ok();
    }
}

#[test]
fn an_image_with_statements_is_a_base_and_runs() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo made > /made\n");
    let name = registry.name("base:1");
    let run = case.build(&["--provenance", "--sbom", "-t", &name]).ok();
    // The image is the one it is without.
    assert_eq!(case.build(&[]).ok().image(), run.image());
    assert_eq!(
        case.rgraph(&["run", "--rm", "--network=none", &name, "cat", "/made"]).ok().text(),
        "made\n"
    );
    case.rgraph(&["push", &name]).ok();
    for case in [case, Case::new()] {
        case.file("Dockerfile", format!("FROM {name}\nRUN cat /made > /again\n"));
        let image = case.image(&["--pull"]);
        assert_eq!(image.read("again"), "made\n");
    }
}

#[test]
fn files_come_with_files_that_tell_of_them() {
    need!(Root);
    let case = case();
    std::fs::write(case.out("pw"), "x").expect("a file");
    let secret = format!("--secret=id=pw,src={}", case.out("pw").display());
    let out = case.out("files");
    let output = format!("type=local,dest={}", out.display());
    let flags = ["--provenance", "--sbom", &secret];
    case.build(&[&flags[..], &["-o", &output]].concat()).ok();
    let statement = json(&out.join("provenance.json"));
    assert_eq!(statement["predicateType"], PROVENANCE);
    let subjects = statement["subject"].as_array().expect("subjects");
    let of = |name: &str| subjects.iter().find(|s| s["name"] == name).expect("a file");
    // printf '\n' | sha256sum
    let newline = "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b";
    assert_eq!(of("hi")["digest"]["sha256"], newline);
    of("bin/busybox");
    assert!(subjects.iter().all(|s| s["name"] != "provenance.json"));
    let sbom = json(&out.join("sbom.spdx.json"));
    assert_eq!(sbom["predicate"]["spdxVersion"], "SPDX-2.3");
    // Times are the epoch's where there is one.
    let dated = case.out("dated");
    let output = format!("type=local,dest={}", dated.display());
    case.build(&["--build-arg=SOURCE_DATE_EPOCH=1000000000", &secret, "-o", &output]).ok();
    let time = |p: &str| std::os::unix::fs::MetadataExt::mtime(&dated.join(p).metadata().unwrap());
    assert_eq!(
        (time("hi"), time("bin/busybox"), time("etc")),
        (1_000_000_000, 1_000_000_000, 1_000_000_000)
    );
    // Again, over them.
    case.build(&[&flags[..], &["-o", &output]].concat()).ok();
    // As a tar, under other names; only beside images.
    let tar = case.out("files.tar");
    let output = format!("type=tar,dest={},attestation-prefix=about-", tar.display());
    let spec = "--provenance=inline-only=true";
    case.build(&[spec, "--sbom", &secret, "-o", &output]).ok();
    let layer = rgraph_tests::unpack_tar(&std::fs::read(&tar).expect("a tar"));
    let paths = layer.paths();
    assert!(paths.contains(&"about-sbom.spdx.json") && paths.contains(&"bin/busybox"), "{paths:?}");
    assert!(!paths.iter().any(|p| p.contains("provenance")), "{paths:?}");
    // A file of the result is not replaced.
    case.file("provenance.json", "mine").dockerfile("FROM scratch\nCOPY provenance.json /\n");
    let output = format!("type=local,dest={}", case.out("other").display());
    case.build(&["--provenance", "-o", &output]).fails(1, &["is a file of the result"]);
    // Several platforms: a folder for each.
    case.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY status /$TARGETARCH\n");
    let tar = case.out("both.tar");
    let output = format!("type=tar,dest={}", tar.display());
    case.build(&["--sbom", "--platform=linux/amd64,linux/arm64", "-o", &output]).ok();
    let layer = rgraph_tests::unpack_tar(&std::fs::read(&tar).expect("a tar"));
    let want = [
        "linux_amd64",
        "linux_amd64/amd64",
        "linux_amd64/sbom.spdx.json",
        "linux_arm64",
        "linux_arm64/arm64",
        "linux_arm64/sbom.spdx.json",
    ];
    assert_eq!(layer.paths(), want);
}

#[test]
fn hostile_package_databases_change_nothing_but_the_list() {
    need!(Root);
    let case = Case::with_base();
    case.file("junk", vec![0xffu8; 3 << 20]).dockerfile(
        "FROM BASE\nCOPY junk /var/lib/dpkg/status\nCOPY junk /var/lib/rpm/rpmdb.sqlite\n\
         RUN mkdir -p /lib/apk/db && ln -s /../../../../etc/shadow /lib/apk/db/installed\n",
    );
    let dir = case.out("layout");
    let output = format!("type=oci,tar=false,dest={}", dir.display());
    let run = case.build(&["--network=none", "--sbom", "-o", &output]).ok();
    assert!(run.stderr.contains("rpmdb.sqlite`: it is no SQLite file"), "{}", run.stderr);
    let index = blob(&dir, &json(&dir.join("index.json"))["manifests"][0]);
    let said = &statements(&dir, &index)["linux/amd64"][SPDX]["predicate"];
    assert_eq!(said["packages"].as_array().map(Vec::len), Some(1));
    assert!(said["creationInfo"]["comment"].as_str().is_some_and(|c| c.contains("not read")));
}

#[test]
fn the_archive_is_one_that_docker_reads() {
    need!(Root, Tool("skopeo"));
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo made > /made\n");
    let file = case.out("d.tar");
    let output = format!("type=docker,dest={}", file.display());
    case.build(&["--network=none", "--provenance", "-t", "said:1", "-o", &output]).ok();
    // skopeo reads it with the rules of `docker load`.
    let from = format!("docker-archive:{}", file.display());
    let config: Value =
        serde_json::from_slice(&ok("skopeo", &["inspect", "--config", &from])).expect("JSON");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    let other = Case::new();
    other.rgraph(&["load", "-i", &file.display().to_string()]).ok();
    let run = other.rgraph(&["run", "--rm", "--network=none", "said:1", "cat", "/made"]).ok();
    assert_eq!(run.text(), "made\n");
}

#[test]
fn dockers_engine_takes_images_with_statements() {
    need!(Root, Tool("dockerd"), Tool("docker"), Tool("docker-registry"));
    let engine = match Docker::start() {
        Ok(engine) => engine,
        Err(why) => return rgraph_tests::shout(&why),
    };
    let docker = |args: &[&str]| engine.run(args);
    let made = |name: &str| docker(&["run", "--rm", "--network=none", name, "cat", "/made"]);
    let registry = Registry::start(Access::Open);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo made > /made\nRUN echo more > /more\n");
    let flags = ["--network=none", "--provenance", "--sbom"];
    let file = case.out("d.tar").display().to_string();
    // As an archive, squashed; as what `save` writes; from a registry.
    let output = format!("type=docker,dest={file}");
    let run = case.build(&[&flags[..], &["--squash", "-t", "said:1", "-o", &output]].concat()).ok();
    docker(&["load", "-i", &file]);
    assert_eq!(made("said:1"), "made");
    assert_eq!(docker(&["images", "-q", "--no-trunc", "said:1"]), run.image());
    let name = registry.name("said:2");
    case.build(&[&flags[..], &["-t", &name]].concat()).ok();
    case.rgraph(&["save", "-o", &file, &name]).ok();
    docker(&["load", "-i", &file]);
    assert_eq!(made(&name), "made");
    docker(&["rmi", &name]);
    case.rgraph(&["push", &name]).ok();
    docker(&["pull", "-q", &name]);
    assert_eq!(made(&name), "made");
    // What the engine pushes is the image alone.
    docker(&["push", "-q", &name]);
    let other = Case::new();
    other.rgraph(&["pull", &name]).ok();
    let run = other.rgraph(&["run", "--rm", "--network=none", &name, "cat", "/more"]).ok();
    assert_eq!(run.text(), "more\n");
}
