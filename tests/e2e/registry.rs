//! A real registry: pulled from, pushed to, mistrusted.

use std::fs;
use std::process::Command;

use rgraph_tests::{Access, Case, Registry, need};

/// Pushes an image with two layers, gives its name.
fn pushed(registry: &Registry, name: &str) -> String {
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo pushed > /pushed\nENV GREETS=yes\n");
    let name = registry.name(name);
    case.build(&["--push", "-t", &name]).ok();
    name
}

#[test]
fn pushed_by_one_root_pulled_by_another() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"));
    let registry = Registry::start(Access::Open);
    let name = pushed(&registry, "team/app:1");
    let out = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--config", &format!("docker://{name}")])
        .output()
        .expect("skopeo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let config: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let case = Case::new();
        case.file("Dockerfile", format!("FROM {name}\nRUN cat /pushed; echo $GREETS\n"));
        let run = case.build(&[]).ok();
        assert!(
            run.stderr.contains(" pushed\n") && run.stderr.contains(" yes\n"),
            "{}",
            run.stderr
        );
        ids.push(run.image());
        // Known by now: the registry is not needed for the same build again.
        case.build(&["--pull=never"]).ok().all_cached();
        case.build(&["--pull"]).ok().all_cached();
    }
    assert_eq!(ids.len(), 2);
}

#[test]
fn pushed_by_skopeo() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"));
    let registry = Registry::start(Access::Open);
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE\nRUN echo made > /made\n");
    maker.image(&[]);
    let name = registry.name("copied:1");
    for format in ["oci", "v2s2"] {
        let out = Command::new("skopeo")
            .args(["copy", "-q", "--dest-tls-verify=false", "--format", format])
            .arg(format!("oci-archive:{}", maker.out("image.tar").display()))
            .arg(format!("docker://{name}"))
            .output()
            .expect("skopeo runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let case = Case::new();
        case.file("Dockerfile", format!("FROM {name}\nRUN cat /made\n"));
        let run = case.build(&[]).ok();
        assert!(run.stderr.contains(" made\n"), "{format}:\n{}", run.stderr);
    }
}

#[test]
fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = pushed(&registry, "app:1");
    let maker = Case::new();
    maker.file("Dockerfile", format!("FROM {name}\n"));
    let manifest = maker.image(&[]).manifest;
    let layers = manifest["layers"].as_array().expect("layers");
    let digest = layers.last().expect("two").clone()["digest"].as_str().expect("text").to_owned();
    let file = registry.blob_file(&digest);
    let good = fs::read(&file).expect("the blob");
    let mut bad = good.clone();
    // In the trailer: gzip's own check is not what finds it.
    let last = bad.len() / 2;
    bad[last] ^= 1;
    fs::write(&file, &bad).expect("the blob");
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}\nRUN cat /pushed\n"));
    let run = case.build(&[]).fails(1, &[&digest]);
    assert!(run.stdout.is_empty());
    fs::write(&file, &good[..good.len() - 5]).expect("the blob");
    case.build(&[]).fails(1, &[&digest]);
    // Mended, the same root goes on: nothing wrong was kept.
    fs::write(&file, &good).expect("the blob");
    case.build(&[]).ok();
}

#[test]
fn credentials_come_from_the_docker_config() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Password);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo private > /p\n");
    let name = registry.name("private:1");
    let refused = case.build(&["--push", "-t", &name]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let login = |text: &str| {
        // base64 of `tester:secret` and of `tester:wrong`
        let auth = if text == "secret" { "dGVzdGVyOnNlY3JldA==" } else { "dGVzdGVyOndyb25n" };
        let json = serde_json::json!({"auths": {registry.host(): {"auth": auth}}});
        json.to_string()
    };
    fs::write(case.dir().join("docker/config.json"), login("wrong")).expect("a file");
    let refused = case.build(&["--push", "-t", &name]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(
        !refused.stderr.contains("wrong") && !refused.stderr.contains("dGVz"),
        "{}",
        refused.stderr
    );
    fs::write(case.dir().join("docker/config.json"), login("secret")).expect("a file");
    case.build(&["--push", "-t", &name]).ok();

    let second = Case::new();
    second.file("Dockerfile", format!("FROM {name}\nRUN cat /p\n"));
    second.build(&[]).fails(1, &["Dockerfile:1"]);
    fs::write(second.dir().join("docker/config.json"), login("secret")).expect("a file");
    assert!(second.build(&[]).ok().stderr.contains(" private\n"));
}

#[test]
fn a_name_that_the_registry_lacks() {
    need!(Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {}\n", registry.name("nothing:1")));
    case.build(&[]).fails(1, &["Dockerfile:1", "nothing:1"]);
}

/// What the config file says of registries, in every command that talks to one.
#[test]
fn the_config_file_says_how_registries_are_reached() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE\nRUN echo mirrored > /m\n");
    maker.build(&["--push", "-t", &registry.name("library/made:1")]).ok();
    let with = |text: &str| {
        let mut case = Case::new();
        let path = case.out("config.toml");
        std::fs::write(&path, text).expect("a file");
        case.env("RGRAPH_CONFIG", &path.display().to_string());
        case.dockerfile("FROM made:1\nRUN cat /m\n");
        case
    };
    let host = registry.host();
    let mirror = with(&format!("[registry.'docker.io']\nmirrors = ['http://{host}']\n"));
    assert!(mirror.build(&["--pull"]).ok().stderr.contains("mirrored"));
    mirror.rgraph(&["pull", "made:1"]).ok();
    // TLS is asked for where this machine would be spoken to in plain HTTP.
    let tls = with(&format!("[registry.'{host}']\nhttp = false\n"));
    let name = registry.name("library/made:1");
    tls.rgraph(&["pull", &name]).fails(1, &[]);
    tls.rgraph(&["pull", "--insecure-registry", &host, &name]).ok();
    let wrong = with("[gc]\nenabled = true\n[registri.'x:1']\n");
    for args in [&["pull", "made:1"][..], &["build", "."]] {
        wrong.rgraph(args).fails(1, &["config.toml", "line 3", "did you mean `registry`?"]);
    }
}
