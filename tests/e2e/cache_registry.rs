//! Caches in a registry: artifacts of our own, and keys in an image's config.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rgraph_tests::{Access, Case, Image, Registry, need, wait_until};
use rustix::process::Signal;
use serde_json::Value;

const STEPS: &str = "FROM BASE AS a\nCOPY f /f\nRUN cat /f /f > /g\nFROM BASE\nCOPY --from=a /g /g\nRUN echo end > /end\n";

fn case() -> Case {
    let case = Case::with_base();
    case.file("f", "text\n");
    case.dockerfile(STEPS);
    case
}

fn to(name: &str, more: &str) -> String {
    format!("type=registry,ref={name}{more}")
}

/// Builds into an archive and checks the files.
fn right(case: &Case, args: &[&str]) -> rgraph_tests::Run {
    let path = case.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    let mut all = vec!["-o", &out];
    all.extend(args);
    let run = case.build(&all).ok();
    let image = Image::from_archive(&path);
    assert_eq!((image.read("g"), image.read("end")), ("text\ntext\n".into(), "end\n".into()));
    run
}

fn curl(args: &[&str]) -> Vec<u8> {
    let out = Command::new("curl").args(["-sSf"]).args(args).output().expect("curl runs");
    assert!(out.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

fn manifest(registry: &Registry, name: &str, tag: &str) -> Value {
    let url = format!("http://{}/v2/{name}/manifests/{tag}", registry.host());
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json, \
        application/vnd.oci.image.index.v1+json, \
        application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.docker.distribution.manifest.list.v2+json";
    serde_json::from_slice(&curl(&["-H", accept, &url])).expect("JSON")
}

/// Uploads a blob; gives its digest.
fn put_blob(registry: &Registry, dir: &Path, name: &str, bytes: &[u8]) -> String {
    let file = dir.join("upload");
    fs::write(&file, bytes).expect("a file");
    let out = Command::new("sha256sum").arg(&file).output().expect("sha256sum runs");
    let digest = format!("sha256:{}", &String::from_utf8_lossy(&out.stdout)[..64]);
    let url = format!("http://{}/v2/{name}/blobs/uploads/", registry.host());
    let head = String::from_utf8(curl(&["-X", "POST", "-D", "-", &url])).expect("text");
    let place = head.lines().find_map(|l| l.strip_prefix("Location: ")).expect("a place").trim();
    let place = format!("{place}&digest={digest}");
    let data = format!("@{}", file.display());
    let kind = "Content-Type: application/octet-stream";
    curl(&["-X", "PUT", "-H", kind, "--data-binary", &data, &place]);
    digest
}

#[test]
fn a_registry_cache_serves_a_fresh_root() {
    need!(Root, Tool("docker-registry"), Tool("curl"));
    let registry = Registry::start(Access::Open);
    for (n, more) in [
        "",
        ",mode=max",
        ",mode=max,compression=gzip",
        ",image-manifest=false",
        ",oci-mediatypes=false",
        ",oci-mediatypes=false,image-manifest=false",
    ]
    .iter()
    .enumerate()
    {
        let name = registry.name(&format!("cache{n}:main"));
        let maker = case();
        maker.build(&["--cache-to", &to(&name, more)]).ok();
        let from = if n == 0 { name.clone() } else { to(&name, "") };
        right(&case(), &["--cache-from", &from]).all_cached();
        let list = manifest(&registry, &format!("cache{n}"), "main");
        let field = if more.contains("image-manifest=false") { "manifests" } else { "layers" };
        assert!(list[field].is_array(), "{more}: {list}");
        let docker = list["mediaType"].as_str().expect("text").contains("docker");
        assert_eq!(docker, more.contains("oci-mediatypes=false"), "{list}");
    }
}

#[test]
fn only_what_is_needed_is_fetched() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:1");
    case().build(&["--cache-to", &to(&name, ",mode=max")]).ok();
    let user = case();
    let layers = |case: &Case| {
        let state = case.state();
        state.keys().filter(|k| k.starts_with("blobs/")).count()
    };
    let before = layers(&user);
    user.build(&["--cache-from", &name, "-o", "type=cacheonly"]).ok().all_cached();
    assert_eq!(layers(&user), before, "keys alone make no blob needed");
    // Warm, the registry is not needed at all.
    drop(registry);
    user.build(&["--cache-from", &name, "-o", "type=cacheonly"]).ok().all_cached();
}

#[test]
fn a_blob_that_is_gone_has_its_step_run() {
    need!(Root, Tool("docker-registry"), Tool("curl"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:1");
    case().build(&["--cache-to", &to(&name, ",mode=max")]).ok();
    let list = manifest(&registry, "cache", "1");
    let mut gone = 0;
    for l in list["layers"].as_array().expect("layers") {
        if l["mediaType"].as_str().expect("text").contains("layer.v1") {
            fs::remove_file(registry.blob_file(l["digest"].as_str().expect("text")))
                .expect("a blob");
            gone += 1;
        }
    }
    assert!(gone > 2, "{list}");
    let user = case();
    let run = right(&user, &["--cache-from", &name]);
    assert!(run.stderr.contains("cache entry ") && run.stderr.contains(" rejected: "));
    // Whoever writes next mends it.
    user.build(&["--cache-to", &to(&name, ",mode=max")]).ok();
    right(&case(), &["--cache-from", &name]).all_cached();
}

#[test]
fn a_hostile_registry_is_not_believed() {
    need!(Root, Tool("docker-registry"), Tool("curl"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:1");
    case().build(&["--cache-to", &to(&name, ",mode=max")]).ok();
    let list = manifest(&registry, "cache", "1");
    let files: Vec<_> = list["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|l| {
            let kind = l["mediaType"].as_str().expect("text").to_owned();
            (kind, registry.blob_file(l["digest"].as_str().expect("text")))
        })
        .collect();
    let good: Vec<_> = files.iter().map(|(_, f)| fs::read(f).expect("a blob")).collect();
    for part in ["layer.v1", "entries.v1"] {
        for cut in [false, true] {
            for ((_, file), good) in files.iter().zip(&good).filter(|((k, _), _)| k.contains(part))
            {
                let mut bytes = good.clone();
                let at = bytes.len() / 2;
                bytes[at] ^= 0x40;
                bytes.truncate(if cut { at } else { bytes.len() });
                fs::write(file, bytes).expect("a blob");
            }
            let run = right(&case(), &["--cache-from", &name]);
            let told = run.stderr.contains(" rejected: ") || run.stderr.contains("nothing is imp");
            assert!(told, "{part} {cut}:\n{}", run.stderr);
            for ((_, file), good) in files.iter().zip(&good) {
                fs::write(file, good).expect("a blob");
            }
        }
    }
    // Another kind of document under the name.
    for (n, text) in [
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"artifactType":"application/vnd.rgraph.cache.v1"}"#,
    ]
    .iter()
    .enumerate()
    {
        let url = format!("http://{}/v2/cache/manifests/odd{n}", registry.host());
        let kind = "Content-Type: application/vnd.oci.image.index.v1+json";
        curl(&["-X", "PUT", "-H", kind, "--data-binary", text, &url]);
        let run = right(&case(), &["--cache-from", &registry.name(&format!("cache:odd{n}"))]);
        assert_eq!(run.step("RUN cat"), "DONE");
    }
}

#[test]
fn writers_of_one_reference_are_merged() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:shared");
    let cases: Vec<Case> = (0..4)
        .map(|n| {
            let case = Case::with_base();
            case.dockerfile(&format!("FROM BASE\nRUN echo branch {n} > /n\n"));
            case
        })
        .collect();
    let all_there = |round: &str| {
        for c in &cases {
            let run = c.fresh().build(&["--cache-from", &name]).ok();
            assert_eq!(run.step("RUN echo branch"), "CACHED", "{round}");
        }
    };
    for c in &cases {
        c.build(&["--cache-to", &to(&name, "")]).ok();
    }
    all_there("one after the other");
    for c in &cases {
        let text = fs::read_to_string(c.context().join("Dockerfile")).expect("text");
        c.file("Dockerfile", text.replace("echo branch", "echo branch of"));
    }
    let running: Vec<_> =
        cases.iter().map(|c| c.start(&c.build_args(&["--cache-to", &to(&name, "")]))).collect();
    for r in running {
        r.finish().ok();
    }
    all_there("at once");
    // Two platforms.
    let case = Case::new();
    case.file("f", "text\n");
    case.file("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n");
    for p in ["linux/amd64", "linux/arm64"] {
        case.build(&["--platform", p, "--cache-to", &to(&name, "")]).ok();
    }
    for p in ["linux/amd64", "linux/arm64"] {
        let fresh = Case::new();
        fresh.file("f", "text\n");
        fresh.file("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n");
        fresh.build(&["--platform", p, "--cache-from", &name]).ok().all_cached();
    }
    all_there("after platforms");
    cases[0].build(&["--cache-to", &to(&name, ",reset=true")]).ok();
    assert_eq!(cases[1].fresh().build(&["--cache-from", &name]).ok().step("RUN echo"), "DONE");
}

#[test]
fn many_batches_are_made_one() {
    need!(Root, Tool("docker-registry"), Tool("curl"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:1");
    let case = Case::with_base();
    let mut most = 0;
    for n in 0..20 {
        case.dockerfile(&format!("FROM BASE\nRUN echo {n} > /n\n"));
        case.build(&["--cache-to", &to(&name, ""), "-o", "type=cacheonly"]).ok();
        let list = manifest(&registry, "cache", "1");
        let kind = |l: &&Value| l["mediaType"].as_str().expect("text").contains("entries");
        let batches = list["layers"].as_array().expect("layers").iter().filter(kind).count();
        assert!(batches <= 16, "{batches} batches");
        most = most.max(batches);
    }
    assert!(most > 10, "each build added to one batch: nothing was made one");
    for n in [0, 9, 19] {
        case.dockerfile(&format!("FROM BASE\nRUN echo {n} > /n\n"));
        case.fresh().build(&["--cache-from", &name]).ok().all_cached();
    }
}

#[test]
fn a_killed_or_failed_build_has_pushed_what_was_finished() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:1");
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE AS a\nRUN echo one > /one\nFROM a\nRUN sleep 322\n");
    let running = maker.start(&maker.build_args(&["--cache-to", &to(&name, "")]));
    let url = format!("http://{}/v2/cache/tags/list", registry.host());
    let there = wait_until(Duration::from_secs(20), || {
        let out = Command::new("curl").args(["-sf", &url]).output().expect("curl runs");
        String::from_utf8_lossy(&out.stdout).contains("\"1\"")
    });
    assert!(there, "nothing is pushed while the build runs:\n{}", running.said());
    running.signal(Signal::KILL);
    running.finish();
    let user = maker.fresh();
    user.build(&["--cache-from", &name, "--target", "a"]).ok().all_cached();

    let name = registry.name("cache:2");
    maker.dockerfile("FROM BASE\nRUN echo two > /two\nRUN false\n");
    maker.build(&["--cache-to", &to(&name, "")]).fails(1, &[]);
    user.dockerfile("FROM BASE\nRUN echo two > /two\nRUN false\n");
    let run = user.build(&["--cache-from", &name]).fails(1, &[]);
    assert_eq!(run.step("RUN echo two"), "CACHED");
}

#[test]
fn a_registry_that_does_not_answer() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Password);
    let (denied, nothing) = (registry.name("cache:1"), "127.0.0.1:1/cache:1");
    for name in [&denied, nothing] {
        let user = case();
        let run = right(&user, &["--cache-from", name]);
        assert!(run.stderr.contains("nothing is imported from it"), "{}", run.stderr);
        let path = user.out("image.tar");
        fs::remove_file(&path).expect("a file");
        let out = format!("type=oci,dest={}", path.display());
        user.build(&["--cache-to", &to(name, ""), "-o", &out])
            .fails(1, &["a cache is not", "cannot write the cache"]);
        assert_eq!(Image::from_archive(&path).read("end"), "end\n");
        let run = user.build(&["--cache-to", &to(name, ",ignore-error=true")]).ok();
        assert!(run.stderr.contains("cannot write the cache"), "{}", run.stderr);
    }
}

#[test]
fn an_image_carries_its_own_cache() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("team/app:1");
    let maker = case();
    let push = ["--push", "-t", &name, "--cache-to", "type=inline"];
    let first = maker.build(&push).ok().image();
    assert_eq!(maker.build(&push).ok().image(), first, "an unchanged build gives the same id");
    let keys = || {
        let out = Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--config", "--raw"])
            .arg(format!("docker://{name}"))
            .output()
            .expect("skopeo runs");
        let config: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        config["rgraph.cache.v1"].clone()
    };
    let made = keys();
    assert_eq!(made["results"].as_array().map(Vec::len), Some(2), "{made}");
    // No step runs elsewhere, and none of the other stage either.
    let user = case();
    let run = right(&user, &["--cache-from", &name]);
    run.all_cached();
    user.build(&push).ok();
    assert_eq!(keys(), made, "other keys from what was imported");
    right(&case(), &["--cache-from", &to(&name, "")]).all_cached();
    // What changed runs, upon what did not.
    let user = case();
    user.dockerfile(&STEPS.replace("echo end", "echo END"));
    let run = user.build(&["--cache-from", &name]).ok();
    assert_eq!(
        (run.step("COPY --from=a"), run.step("RUN echo END")),
        ("CACHED".into(), "DONE".into())
    );
    // An image without keys is no cache.
    let plain = registry.name("team/plain:1");
    maker.build(&["--push", "-t", &plain]).ok();
    let run = case().build(&["--cache-from", &plain]).ok();
    assert!(run.stderr.contains("the image has no cache in it"), "{}", run.stderr);
}

#[test]
fn several_platforms_carry_their_caches() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("multi:1");
    let text = "FROM scratch AS a\nCOPY f /f\nFROM scratch\nARG TARGETARCH\nCOPY --from=a /f /$TARGETARCH\n";
    let case = || {
        let case = Case::new();
        case.file("f", "text\n").file("Dockerfile", text);
        case
    };
    let platforms = "--platform=linux/amd64,linux/arm64";
    case().build(&[platforms, "--push", "-t", &name, "--cache-to", "type=inline"]).ok();
    case().build(&[platforms, "--cache-from", &name]).ok().all_cached();
    case().build(&["--platform=linux/arm64", "--cache-from", &name]).ok().all_cached();
    let run = case().build(&["--platform=linux/s390x", "--cache-from", &name]).ok();
    assert!(run.stderr.contains("no image is for a platform"), "{}", run.stderr);
}

#[test]
fn signed_entries_in_a_registry() {
    need!(Root, Tool("docker-registry"), Tool("openssl"));
    let registry = Registry::start(Access::Open);
    let maker = case();
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(maker.dir()).output();
        assert!(out.expect("openssl runs").status.success());
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "key"]);
    openssl(&["pkey", "-in", "key", "-pubout", "-out", "key.pub"]);
    let sign = format!("sign-key={}", maker.out("key").display());
    let key = format!(",key={}", maker.out("key.pub").display());
    let (signed, plain, image) =
        (registry.name("cache:signed"), registry.name("cache:plain"), registry.name("image:1"));
    maker.build(&["--cache-to", &to(&signed, &format!(",{sign}"))]).ok();
    maker.build(&["--cache-to", &to(&plain, "")]).ok();
    maker.build(&["--push", "-t", &image, "--cache-to", &format!("type=inline,{sign}")]).ok();
    right(&case(), &["--cache-from", &to(&signed, &key)]).all_cached();
    right(&case(), &["--cache-from", &to(&image, &key)]).all_cached();
    let run = right(&case(), &["--cache-from", &to(&plain, &key)]);
    assert_eq!(run.step("RUN cat"), "DONE");
    assert!(run.stderr.contains("rejected: it is not signed"), "{}", run.stderr);
}

#[test]
fn buildkit_s_caches_are_named_as_such() {
    need!(Root, Tool("docker-registry"), Tool("curl"));
    let registry = Registry::start(Access::Open);
    let scratch = Case::new();
    let config = br#"{"layers":[],"records":[{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}]}"#;
    let digest = put_blob(&registry, scratch.dir(), "bk", config);
    let layer = put_blob(&registry, scratch.dir(), "bk", b"layer");
    let cacheconfig = serde_json::json!({
        "mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": digest,
        "size": config.len(),
    });
    let layer = serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 5,
    });
    let image = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": cacheconfig, "layers": [layer],
    });
    let with_field = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"moby.buildkit.cache.v0":"W10="}"#;
    let digest = put_blob(&registry, scratch.dir(), "bk", with_field);
    let inline = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest,
            "size": with_field.len()},
        "layers": [],
    });
    for (tag, body) in [("manifest", image), ("inline", inline)] {
        let url = format!("http://{}/v2/bk/manifests/{tag}", registry.host());
        let kind = format!("Content-Type: {}", body["mediaType"].as_str().expect("text"));
        curl(&["-X", "PUT", "-H", &kind, "--data-binary", &body.to_string(), &url]);
        let run = right(&case(), &["--cache-from", &registry.name(&format!("bk:{tag}"))]);
        let told = run.stderr.matches("BuildKit's, whose keys cannot be matched").count();
        assert_eq!(told, 1, "{tag}:\n{}", run.stderr);
    }
}
