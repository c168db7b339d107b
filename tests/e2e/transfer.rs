//! Images between stores, registries and archives: nothing lost on the way, nothing sent twice.

use std::collections::BTreeSet;

use rgraph_tests::{Access, BASE, Case, Registry, need};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

/// `Digest: ...` of a pull, or the digest of the last line of a push.
fn digest(run: &rgraph_tests::Run) -> String {
    let words: Vec<&str> = run.text().split_whitespace().collect();
    let at = words.iter().position(|w| w.eq_ignore_ascii_case("digest:")).expect("a digest");
    words[at + 1].to_owned()
}

/// Two platforms under one name, pushed.
fn two_platforms(registry: &Registry) -> (Case, String) {
    let case = Case::new();
    case.file("f", "x").dockerfile("FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n");
    let name = registry.name("multi:1");
    case.build(&["--platform=linux/amd64,linux/arm64", "-t", &name]).ok();
    (case, name)
}

#[test]
fn an_image_keeps_the_index_it_came_with() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let (maker, name) = two_platforms(&registry);
    let index = digest(&maker.rgraph(&["push", &name]).ok());
    let case = Case::new();
    let run = case.rgraph(&["pull", &name]).ok();
    assert_eq!(digest(&run), index);
    assert!(run.text().contains("Status: Downloaded newer image for"), "{}", run.text());
    let said: Vec<&str> =
        run.stderr.lines().filter_map(|l| l.split_once(": ").map(|(_, what)| what)).collect();
    let want = ["Pulling from multi", "Pulling fs layer", "Download complete", "Pull complete"];
    assert_eq!(said, want);
    let short = run.stderr.lines().nth(2).and_then(|l| l.split(':').next()).expect("a line");
    assert_eq!(short.len(), 12);
    assert!(case.rgraph(&["pull", &name]).ok().text().contains("Image is up to date"));
    let known = text(&case, &["images", "--digests", "--format", "{{.Digest}}"]);
    assert_eq!(known.trim(), index);
    // Under another name: one platform is here, so that goes alone, and it is said.
    let other = registry.name("other:1");
    case.rgraph(&["tag", &name, &other]).ok();
    let run = case.rgraph(&["push", &other]).ok();
    assert!(run.stderr.contains("Only linux/amd64 is here"), "{}", run.stderr);
    assert_ne!(digest(&run), index);
    // The other platform joins it; now the index goes as it came.
    let run = case.rgraph(&["pull", "--platform=linux/arm64", &name]).ok();
    assert!(run.text().contains("Downloaded newer image"), "{}", run.text());
    assert_eq!(text(&case, &["images", "-aq", &name]).lines().count(), 2);
    assert_eq!(digest(&case.rgraph(&["push", &other]).ok()), index);
    // Removed with all that belongs to it.
    case.rgraph(&["rmi", &name, &other]).ok();
    assert_eq!(text(&case, &["images", "-aq"]), "");
    case.rgraph(&["store", "check"]).ok();
}

#[test]
fn several_platforms_pass_through_an_archive() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let (maker, name) = two_platforms(&registry);
    let file = maker.out("both.tar").display().to_string();
    maker.rgraph(&["save", "-o", &file, &name]).ok();
    let case = Case::new();
    assert_eq!(text(&case, &["load", "-i", &file]), format!("Loaded image: {name}\n"));
    assert_eq!(text(&case, &["images", "-aq"]).lines().count(), 2);
    let platforms = |case: &Case| text(case, &["images", "-a", "--format", "{{.Platform}}"]);
    assert_eq!(platforms(&case), platforms(&maker));
    case.rgraph(&["push", &name]).ok();
    // And of one of them.
    let file = maker.out("one.tar").display().to_string();
    maker.rgraph(&["save", "--platform=linux/arm64", "-o", &file, &name]).ok();
    let case = Case::new();
    case.rgraph(&["load", "-i", &file]).ok();
    assert_eq!(platforms(&case), "linux/arm64\n");
}

#[test]
fn what_came_in_an_archive_goes_compressed() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE\nRUN echo a > /a\n");
    maker.build(&["-t", "x:1"]).ok();
    let file = maker.out("x.tar").display().to_string();
    maker.rgraph(&["save", "-o", &file, "x:1"]).ok();
    let case = Case::new();
    case.rgraph(&["load", "-i", &file]).ok();
    let (packed, plain) = (registry.name("packed:1"), registry.name("plain:1"));
    case.rgraph(&["tag", "x:1", &packed]).ok();
    case.rgraph(&["tag", "x:1", &plain]).ok();
    let pushed = digest(&case.rgraph(&["push", &packed]).ok());
    assert_eq!(layer_types(&registry, &pushed), vec![format!("{TAR}+gzip"); 2]);
    // Again: the same, and nothing goes over.
    let before = registry.requests().len();
    let run = case.rgraph(&["push", &packed]).ok();
    assert_eq!(digest(&run), pushed);
    assert_eq!(run.stderr.matches(": Layer already exists").count(), 2, "{}", run.stderr);
    let again = registry.requests().split_off(before);
    assert!(!again.iter().any(|r| r.starts_with("POST ")), "{again:?}");
    // Only when asked to they go as they are.
    let as_is = digest(&case.rgraph(&["push", "--disable-compression", &plain]).ok());
    assert_eq!(layer_types(&registry, &as_is), vec![TAR; 2]);
    // Either is the same image.
    let id = text(&maker, &["images", "-q", "--no-trunc", "x:1"]);
    for name in [&packed, &plain] {
        let other = Case::new();
        other.rgraph(&["pull", name]).ok();
        assert_eq!(text(&other, &["images", "-q", "--no-trunc", name]), id);
    }
}

#[test]
fn what_a_registry_had_plain_stays_plain() {
    need!(Root, Tool("docker-registry"));
    let (registry, another) = (Registry::start(Access::Open), Registry::start(Access::Open));
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE\nRUN echo a > /a\n");
    let first = registry.name("first:1");
    maker.build(&["-t", &first]).ok();
    let plain = digest(&maker.rgraph(&["push", "--disable-compression", &first]).ok());
    let case = Case::new();
    case.rgraph(&["pull", &first]).ok();
    // To another repository, and to another registry: the same blobs, so the same manifest.
    for (name, how) in
        [(registry.name("second:1"), "Mounted from first"), (another.name("x:1"), "Pushed")]
    {
        case.rgraph(&["tag", &first, &name]).ok();
        let run = case.rgraph(&["push", &name]).ok();
        assert_eq!(digest(&run), plain, "{name}");
        assert_eq!(run.stderr.matches(&format!(": {how}")).count(), 2, "{}", run.stderr);
    }
    // Below layers made here too, on disk or not.
    let above = another.name("above:1");
    for puller in [case, Case::new()] {
        puller.dockerfile(&format!("FROM {first}\nRUN echo b > /b\n"));
        puller.build(&["-t", &above]).ok();
        let run = puller.rgraph(&["push", &above]).ok();
        assert_eq!(layer_types(&another, &digest(&run)), [TAR, TAR, &format!("{TAR}+gzip")]);
    }
    // Unless it is asked for.
    let case = Case::new();
    case.rgraph(&["pull", &first]).ok();
    let forced = digest(&case.rgraph(&["push", "--force-compression", &first]).ok());
    assert_eq!(layer_types(&registry, &forced), vec![format!("{TAR}+gzip"); 2]);
    // That it is known in another form by now changes nothing.
    case.rgraph(&["tag", &first, &above]).ok();
    assert_eq!(digest(&case.rgraph(&["push", &above]).ok()), plain);
    case.rgraph(&["push", "--force-compression", "--disable-compression", &first])
        .fails(2, &["exclude each other"]);
}

/// Media types of the layers of a manifest in a registry.
fn layer_types(registry: &Registry, digest: &str) -> Vec<String> {
    let bytes = std::fs::read(registry.blob_file(digest)).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let layers = manifest["layers"].as_array().expect("layers").clone();
    layers.iter().map(|l| l["mediaType"].as_str().expect("a type").to_owned()).collect()
}

#[test]
fn nothing_is_sent_twice() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    let (one, two) = (registry.name("team/one:1"), registry.name("team/two:1"));
    case.build(&["-t", &one, "-t", &two]).ok();
    let run = case.rgraph(&["push", &one]).ok();
    assert_eq!(run.stderr.matches(": Pushed").count(), 2, "{}", run.stderr);
    assert!(run.stderr.contains("The push refers to repository ["), "{}", run.stderr);
    // Lines are about layers by their diff IDs, as in Docker.
    let template = "{{json .RootFS.Layers}}";
    let layers = text(&case, &["inspect", "--format", template, &one]);
    let layers: Vec<String> = serde_json::from_str(layers.trim()).expect("JSON");
    for layer in &layers {
        let line = format!("{}: Pushed\n", &layer["sha256:".len()..][..12]);
        assert!(run.stderr.contains(&line), "no `{line}` in {}", run.stderr);
    }
    let last = run.text().trim().to_owned();
    assert!(last.starts_with("1: digest: sha256:") && last.contains(" size: "), "{last}");
    // Another repository of the registry: mounted.
    let run = case.rgraph(&["push", &two]).ok();
    assert_eq!(run.stderr.matches(": Mounted from team/one").count(), 2, "{}", run.stderr);
    // Again: all there.
    let run = case.rgraph(&["push", &two]).ok();
    assert_eq!(run.stderr.matches(": Layer already exists").count(), 2, "{}", run.stderr);
    // No bytes went over twice: two layers and a config.
    let requests = registry.requests();
    let sent = |r: &&String| r.starts_with("PUT ") && r.contains("/blobs/uploads/");
    let uploads: BTreeSet<_> = requests.iter().filter(sent).collect();
    assert_eq!(uploads.len(), 3, "{uploads:?}");
    // All tags of a repository.
    let three = registry.name("team/one:3");
    case.rgraph(&["tag", &one, &three]).ok();
    let run = case.rgraph(&["push", "-a", &registry.name("team/one")]).ok();
    assert_eq!(run.text().lines().count(), 2, "{}", run.text());
    let nobody = registry.name("team/nobody");
    let run = Case::new().rgraph(&["pull", "-aq", &nobody]).fails(1, &[&nobody]);
    assert!(!run.stderr.contains(":latest"), "{}", run.stderr);
    let run = Case::new().rgraph(&["pull", "-aq", &registry.name("team/one")]).ok();
    assert_eq!(run.text().lines().count(), 2, "{}", run.text());
    case.rgraph(&["push", &registry.name("team/none")]).fails(1, &["does not exist locally"]);
    let run = case.rgraph(&["push", "-q", &one]).ok();
    assert_eq!((run.text(), run.stderr.as_str()), (&*format!("{one}\n"), ""));
}

#[test]
fn a_pushed_image_and_one_that_builds_push_are_the_same() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    let (built, kept) = (registry.name("a:1"), registry.name("b:1"));
    case.build(&["--push", "-t", &built]).ok();
    case.build(&["-t", &kept]).ok();
    case.rgraph(&["push", &kept]).ok();
    let id = |name: &str| {
        let case = Case::new();
        case.rgraph(&["pull", "-q", name]).ok();
        text(&case, &["images", "-q", "--no-trunc"])
    };
    assert_eq!(id(&built), id(&kept));
    // The name asked for is the last line.
    let base = registry.name("base:1");
    case.rgraph(&["tag", BASE, &base]).ok();
    case.rgraph(&["push", &base]).ok();
    let run = Case::new().rgraph(&["pull", &base]).ok();
    assert_eq!(run.text().lines().last(), Some(&*base));
}

#[test]
fn an_index_that_came_in_part_is_kept_whole_when_it_is_built() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let mut maker = Case::new();
    maker.env("SOURCE_DATE_EPOCH", "1700000000");
    // Without layers the index is the same, whether it is kept or sent.
    maker.dockerfile("FROM scratch\nLABEL a=b\n");
    let name = registry.name("multi:1");
    let both = "--platform=linux/amd64,linux/arm64";
    maker.build(&[both, "--push", "-t", &name]).ok();
    let mut case = Case::new();
    case.env("SOURCE_DATE_EPOCH", "1700000000").dockerfile("FROM scratch\nLABEL a=b\n");
    case.rgraph(&["pull", &name]).ok();
    case.build(&[both, "-t", "kept:1"]).ok();
    let digests = text(&case, &["images", "--digests", "--format", "{{.Digest}}"]);
    let digests: BTreeSet<&str> = digests.lines().collect();
    assert_eq!(digests.len(), 1, "one index under both names");
    // What the index names stays with it.
    case.rgraph(&["prune", "-f"]).ok();
    let platforms = text(&case, &["images", "-a", "--format", "{{.Platform}}", "kept:1"]);
    assert_eq!(platforms, "linux/amd64\nlinux/arm64\n");
    case.rgraph(&["push", &registry.name("again:1")]).fails(1, &["does not exist locally"]);
    case.rgraph(&["tag", "kept:1", &registry.name("again:1")]).ok();
    case.rgraph(&["push", &registry.name("again:1")]).ok();
}

/// A name with a digest gives no tag, and an image of another platform than the one asked for is none.
#[test]
fn pulls_give_what_was_asked_for() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("asked:v1");
    let case = Case::with_base();
    case.rgraph(&["tag", BASE, &name]).ok();
    case.rgraph(&["push", "-q", &name]).ok();
    case.rgraph(&["rmi", &name]).ok();
    let other = Case::new();
    let refused = ["pull", "--platform", "linux/s390x", &name];
    other.rgraph(&refused).fails(1, &["does not match", "linux/s390x", "linux/amd64"]);
    assert_eq!(other.rgraph(&["images", "-aq"]).ok().text(), "");
    other.rgraph(&["pull", "-q", "--platform", "linux/amd64", &name]).ok();
    let found = other.rgraph(&["inspect", "-f", "{{index .RepoDigests 0}}", &name]).ok();
    let digest = found.text().trim().rsplit('@').next().expect("a digest").to_owned();
    let fresh = Case::new();
    fresh.rgraph(&["pull", "-q", &format!("{name}@{digest}")]).ok();
    let row = ["images", "--format", "{{.Tag}}", "--digests"];
    assert_eq!(fresh.rgraph(&row).ok().text(), "<none>\n");
    fresh.rgraph(&["inspect", &name]).fails(1, &[]);
    let tags =
        ["inspect", "-f", "{{json .RepoTags}}", &format!("{}@{digest}", registry.name("asked"))];
    assert_eq!(fresh.rgraph(&tags).ok().text(), "[]\n");
}
