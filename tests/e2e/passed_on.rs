//! What other tools lose or spoil: settings that OCI has no place for, bases that nobody reads, names
//! that mean deletions.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use rgraph_tests::{Access, BASE, Case, Registry, need, tar_of};

/// A base with all that Docker's configs have and OCI's specification does not.
fn with_settings() -> Case {
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\n\
         SHELL [\"/bin/ash\", \"-ec\"]\n\
         HEALTHCHECK --interval=5s --timeout=3s --start-period=1s --retries=4 CMD test -e /ok\n\
         ONBUILD RUN echo triggered > /t\n\
         ONBUILD ENV TRIGGERED=yes\n",
    );
    case
}

fn settings(config: &serde_json::Value) -> serde_json::Value {
    let c = &config["config"];
    serde_json::json!([c["Shell"], c["Healthcheck"], c["OnBuild"]])
}

#[test]
fn oci_configs_keep_what_docker_adds() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let case = with_settings();
    let want = serde_json::json!([
        ["/bin/ash", "-ec"],
        {
            "Test": ["CMD-SHELL", "test -e /ok"],
            "Interval": 5_000_000_000_u64,
            "Timeout": 3_000_000_000_u64,
            "StartPeriod": 1_000_000_000,
            "Retries": 4,
        },
        ["RUN echo triggered > /t", "ENV TRIGGERED=yes"],
    ]);
    let built = case.image(&[]);
    assert_eq!(built.manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    assert_eq!(settings(&built.config), want);
    // Through the store, a registry and an archive: the same config to the byte, so the same id.
    let name = registry.name("settings:1");
    case.build(&["-t", &name]).ok();
    case.rgraph(&["push", &name]).ok();
    let file = case.out("saved.tar").display().to_string();
    case.rgraph(&["save", "-o", &file, &name]).ok();
    let id =
        |case: &Case| case.rgraph(&["images", "-q", "--no-trunc", &name]).ok().text().to_owned();
    let (pulled, loaded) = (Case::new(), Case::new());
    pulled.rgraph(&["pull", &name]).ok();
    loaded.rgraph(&["load", "-i", &file]).ok();
    for other in [pulled, loaded] {
        assert_eq!(id(&other), id(&case));
        let shown = |format: &str| {
            other.rgraph(&["inspect", "-f", format, &name]).ok().text().trim().to_owned()
        };
        assert_eq!(shown("{{.Config.Shell}}"), "[/bin/ash -ec]");
        assert_eq!(shown("{{.Config.Healthcheck.Retries}}"), "4");
        // A build on it: the triggers run once and are gone, the rest is taken over.
        other.dockerfile(&format!("FROM {name}\nRUN echo $TRIGGERED > /seen\n"));
        let above = other.image(&[]);
        assert_eq!((above.read("t"), above.read("seen")), ("triggered\n".into(), "yes\n".into()));
        let got = settings(&above.config);
        assert_eq!((&got[0], &got[1]), (&want[0], &want[1]));
        assert!(got[2].as_array().is_none_or(Vec::is_empty), "{got}");
    }
}

#[test]
fn a_base_that_no_step_needs_is_not_pulled_for_a_push() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let base = registry.name("base:1");
    let maker = Case::new();
    maker.import_base(BASE);
    maker.rgraph(&["tag", BASE, &base]).ok();
    maker.rgraph(&["push", &base]).ok();
    let blobs = |case: &Case| -> u64 {
        let files = case.state();
        files.iter().filter(|(name, _)| name.starts_with("blobs/")).map(|(_, size)| size).sum()
    };
    let layer = fs::metadata(registry.blob_file(&layer_of(&registry, &maker, &base)));
    let layer = layer.expect("a layer").len();
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {base}\nENV A=1\nLABEL b=2\nCMD [\"x\"]\n"));
    let digest = layer_of(&registry, &maker, &base);
    let (built, kept) = (registry.name("built:1"), registry.name("kept:1"));
    let before = registry.requests().len();
    // As the output of a build, and from the store.
    case.build(&["--push", "-t", &built]).ok();
    case.build(&["-t", &kept]).ok();
    let run = case.rgraph(&["push", &kept]).ok();
    assert!(run.stderr.contains(": Mounted from "), "{}", run.stderr);
    let requests = registry.requests().split_off(before);
    let read =
        |requests: &[String]| requests.iter().any(|r| r.starts_with("GET ") && r.contains(&digest));
    assert!(!read(&requests), "{requests:#?}");
    assert!(blobs(&case) < layer);
    // They are there, and whole.
    for name in [&built, &kept] {
        let other = Case::new();
        other.file("Dockerfile", format!("FROM {name}\nRUN /bin/true\n"));
        other.build(&[]).ok();
    }
    // A registry that has to be sent it gets it.
    let elsewhere = Registry::start(Access::Open);
    let name = elsewhere.name("far:1");
    case.build(&["--push", "-t", &name]).ok();
    assert_eq!(fs::metadata(elsewhere.blob_file(&digest)).expect("a layer").len(), layer);
    let other = Case::new();
    other.rgraph(&["pull", &name]).ok();
}

/// The digest of the only layer of an image that was pushed.
fn layer_of(registry: &Registry, case: &Case, name: &str) -> String {
    let run = case.rgraph(&["push", name]).ok();
    let text = run.text();
    let digest = text.split_whitespace().find(|w| w.starts_with("sha256:")).expect("a digest");
    let manifest = fs::read(registry.blob_file(digest)).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    manifest["layers"][0]["digest"].as_str().expect("a layer").to_owned()
}

#[test]
fn a_member_whose_name_means_a_deletion_deletes_nothing() {
    need!(Root);
    use rgraph_tests::Member;
    let case = Case::with_base();
    let tar = tar_of(&[Member::File(".wh.keep", b"x"), Member::File("d/.wh..wh..opq", b"y")]);
    case.file("a.tar", &tar);
    // Steps see ordinary files, and nothing is gone.
    case.dockerfile(
        "FROM BASE\n\
         RUN mkdir -p /to/d && echo 1 > /to/keep && echo 2 > /to/d/keep\n\
         ADD a.tar /to/\n\
         RUN cat /to/keep /to/d/keep && ls -a /to /to/d && rm /to/.wh.keep /to/d/.wh..wh..opq\n",
    );
    // A layer has no way to say that such a file is there: its image cannot leave this machine.
    let archive = case.out("x.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let run = case.build(&["-o", &output]).fails(1, &["`.wh.`", "to/"]);
    for part in [" 1\n", " 2\n", ".wh.keep\n", ".wh..wh..opq\n"] {
        assert!(run.stderr.contains(part), "no `{part}` in {}", run.stderr);
    }
    assert!(!archive.exists());
    // As one layer, in which they are gone again, it can.
    let image = case.image(&["--squash"]);
    let paths: BTreeSet<String> = image.files().into_keys().collect();
    assert!(paths.contains("to/keep") && paths.contains("to/d/keep"), "{paths:?}");
    assert!(!paths.iter().any(|p| p.contains(".wh.")), "{paths:?}");
}

#[test]
fn id_and_metadata_are_written_on_success_alone() {
    need!(Root);
    let case = Case::with_base();
    let (id, metadata) = (case.out("id"), case.out("metadata.json"));
    let shown = |p: &std::path::Path| p.display().to_string();
    let (id_file, metadata_file) = (shown(&id), shown(&metadata));
    let files = ["--iidfile", &id_file, "--metadata-file", &metadata_file, "-t", "x:1"];
    case.dockerfile("FROM BASE\nRUN false\n");
    case.build(&files).fails(1, &["RUN false"]);
    assert!(!id.exists() && !metadata.exists());
    case.dockerfile("FROM BASE\nRUN true\n");
    let image = case.build(&files).ok().image();
    assert_eq!(fs::read_to_string(&id).expect("an id"), image);
    let read = || -> serde_json::Value {
        serde_json::from_slice(&fs::read(&metadata).expect("metadata")).expect("JSON")
    };
    let first = read();
    assert_eq!(first["containerimage.config.digest"], *image);
    assert!(first["containerimage.digest"].as_str().is_some_and(|d| d.starts_with("sha256:")));
    // What an earlier build said stays until another one is done.
    case.dockerfile("FROM BASE\nRUN false\n");
    case.build(&files).fails(1, &["RUN false"]);
    assert_eq!((fs::read_to_string(&id).expect("an id"), read()), (image, first));
}

#[test]
fn files_have_no_id_and_an_earlier_one_does_not_stay() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nCOPY . /f\n");
    let id = case.out("id");
    let id_file = id.display().to_string();
    case.build(&["--iidfile", &id_file]).ok();
    assert!(id.exists());
    let dir = case.out("files").display().to_string();
    for more in [vec!["-o", dir.as_str()], vec!["-t", "x:1", "-o", &dir]] {
        let run = case.build(&[&["--iidfile", id_file.as_str()], &more[..]].concat()).ok();
        assert!(run.stderr.contains("--iidfile"), "{}", run.stderr);
        assert!(!id.exists());
    }
}

#[test]
fn a_name_that_is_given_twice_is_saved_once() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nCOPY . /f\n");
    case.build(&["-t", "same:1", "-t", "same:1"]).ok();
    let file = case.out("s.tar");
    case.rgraph(&["save", "-o", &file.display().to_string(), "same:1", "same:1"]).ok();
    let member = |name: &str| -> serde_json::Value {
        let tar = Command::new("tar").arg("xOf").arg(&file).arg(name).output().expect("tar");
        serde_json::from_slice(&tar.stdout).expect("JSON")
    };
    assert_eq!(member("manifest.json")[0]["RepoTags"], serde_json::json!(["same:1"]));
    assert_eq!(member("index.json")["manifests"].as_array().map(Vec::len), Some(1));
}
