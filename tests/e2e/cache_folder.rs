//! A cache in a folder: kept as steps end, with its attributes, by several writers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rgraph_tests::{Case, Image, need, wait_until};
use rustix::process::Signal;

pub(crate) fn to(cache: &Path, more: &str) -> String {
    format!("type=local,dest={}{more}", cache.display())
}

pub(crate) fn from(cache: &Path, more: &str) -> String {
    format!("type=local,src={}{more}", cache.display())
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).map(|d| d.flatten().map(|e| e.path()).collect::<Vec<_>>());
    let mut all = entries.unwrap_or_default();
    all.sort();
    all
}

pub(crate) fn records(cache: &Path) -> Vec<PathBuf> {
    let mut all = files(&cache.join("rgraph/v1/records"));
    all.retain(|p| p.extension().is_some_and(|e| e == "json"));
    all
}

pub(crate) fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

pub(crate) fn blob(cache: &Path, digest: &serde_json::Value) -> PathBuf {
    let digest = digest.as_str().expect("a digest");
    cache.join("blobs/sha256").join(digest.strip_prefix("sha256:").expect("sha256"))
}

#[test]
fn a_failed_build_loses_nothing_that_was_finished() {
    need!(Root);
    for mode in ["min", "max"] {
        let case = Case::with_base();
        case.dockerfile(
            "FROM BASE\nRUN echo one > /one\nRUN cat /one /one > /two\nRUN cat /two && false\n",
        );
        let cache = case.out("cache");
        case.build(&["--cache-to", &to(&cache, &format!(",mode={mode}"))]).fails(1, &["exit code"]);
        let again = case.fresh().build(&["--cache-from", &from(&cache, "")]).fails(1, &[]);
        assert_eq!(again.step("RUN echo one"), "CACHED", "{mode}");
        assert_eq!(again.step("RUN cat /one"), "CACHED", "{mode}");
        assert_eq!(again.step("RUN cat /two"), "ERROR", "{mode}");
    }
}

#[test]
fn a_killed_build_loses_nothing_that_was_finished() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE AS a\nRUN echo one > /one\nFROM a\nRUN sleep 321\n");
    let cache = case.out("cache");
    let running = case.start(&case.build_args(&["--cache-to", &to(&cache, "")]));
    let there = wait_until(Duration::from_secs(20), || {
        records(&cache).iter().any(|r| fs::read_to_string(r).expect("whole").contains("RUN echo"))
    });
    assert!(there, "no record while the build runs:\n{}", running.said());
    running.signal(Signal::KILL);
    running.finish();
    let path = case.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    let other = case.fresh();
    let args = ["--cache-from", &from(&cache, ""), "--target", "a", "-o", &out];
    other.build(&args).ok().all_cached();
    assert_eq!(Image::from_archive(&path).read("one"), "one\n");
}

#[test]
fn blobs_have_the_form_that_was_asked_for() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo text > /file\n");
    for (more, magic, media_type) in [
        ("", &[0x28, 0xb5, 0x2f, 0xfd][..], "application/vnd.oci.image.layer.v1.tar+zstd"),
        (
            ",compression=gzip,compression-level=9",
            &[0x1f, 0x8b],
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        (",compression=uncompressed", b"", "application/vnd.oci.image.layer.v1.tar"),
        (
            ",oci-mediatypes=false",
            &[0x1f, 0x8b],
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
        (
            ",image-manifest=false,compression=gzip",
            &[0x1f, 0x8b],
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
    ] {
        let cache = case.out(&format!("cache{}", more.replace([',', '='], "-")));
        case.build(&["--cache-to", &to(&cache, more)]).ok();
        let index = json(&cache.join("index.json"));
        let own = &index["manifests"][0];
        assert_eq!(own["artifactType"], "application/vnd.rgraph.cache.v1");
        assert_eq!(own["annotations"]["org.opencontainers.image.ref.name"], "latest");
        let list = json(&blob(&cache, &own["digest"]));
        assert_eq!(list["mediaType"], own["mediaType"], "{more}");
        let field = if more.contains("image-manifest=false") { "manifests" } else { "layers" };
        let all = list[field].as_array().unwrap_or_else(|| panic!("{more}: no {field}: {list}"));
        let layers: Vec<_> = all.iter().filter(|l| l["mediaType"] == media_type).collect();
        assert!(!layers.is_empty(), "{more}: {list}");
        let found = layers.iter().any(|l| {
            let bytes = fs::read(blob(&cache, &l["digest"])).expect("the blob");
            bytes.starts_with(magic) && (!magic.is_empty() || bytes[257..].starts_with(b"ustar"))
        });
        assert!(found, "{more}: no layer starts as it should");
        case.fresh().build(&["--cache-from", &from(&cache, "")]).ok().all_cached();
    }
}

/// What other outputs and caches packed before does not matter for layers that are made here.
#[test]
fn an_image_beside_a_cache_has_its_own_compression() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo text > /file\n");
    let kinds = |args: &[&str]| {
        let layers = case.image(args).manifest["layers"].clone();
        let kind = |l: &serde_json::Value| l["mediaType"].as_str().expect("text").to_owned();
        layers.as_array().expect("layers").iter().map(kind).collect::<BTreeSet<String>>()
    };
    let gzip = BTreeSet::from(["application/vnd.oci.image.layer.v1.tar+gzip".to_owned()]);
    let to = to(&case.out("cache"), ",mode=max");
    for _ in 0..2 {
        assert_eq!(kinds(&["--cache-to", &to]), gzip);
    }
    let out = format!("type=oci,rewrite-timestamp=true,dest={}", case.out("i.tar").display());
    case.build(&["-o", &out, "--build-arg", "SOURCE_DATE_EPOCH=1000000000"]).ok();
    let image = Image::from_archive(&case.out("i.tar"));
    assert_eq!(image.files()["file"].mtime, 1_000_000_000, "a packed layer is not rewritten");
}

#[test]
fn forced_compression_packs_foreign_layers_again() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo text > /file\n");
    let zstd = case.out("zstd");
    case.build(&["--cache-to", &to(&zstd, "")]).ok();
    let kinds = |cache: &Path| {
        let index = json(&cache.join("index.json"));
        let list = json(&blob(cache, &index["manifests"][0]["digest"]));
        let all = list["layers"].as_array().expect("layers").clone();
        let kind = |l: &serde_json::Value| l["mediaType"].as_str().expect("text").to_owned();
        let layer = |k: &String| k.contains("layer.v1");
        all.iter().map(kind).filter(layer).collect::<BTreeSet<String>>()
    };
    // Layers that came as zstd stay so unless told otherwise.
    let second = case.fresh();
    let (kept, forced) = (case.out("kept"), case.out("forced"));
    let args = ["--cache-from", &from(&zstd, ""), "--cache-to", &to(&kept, ",compression=gzip")];
    second.build(&args).ok().all_cached();
    assert!(kinds(&kept).iter().any(|k| k.ends_with("zstd")), "{:?}", kinds(&kept));
    let more = ",compression=gzip,force-compression=true";
    let args = ["--cache-from", &from(&zstd, ""), "--cache-to", &to(&forced, more)];
    case.fresh().build(&args).ok().all_cached();
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned();
    assert_eq!(kinds(&forced), BTreeSet::from([gzip]));
}

#[test]
fn tags_are_caches_of_their_own_and_digests_are_states_of_one() {
    need!(Root);
    let case = Case::with_base();
    let cache = case.out("cache");
    let state = |tag: &str| {
        let index = json(&cache.join("index.json"));
        let all = index["manifests"].as_array().expect("manifests").clone();
        let named =
            |d: &&serde_json::Value| d["annotations"]["org.opencontainers.image.ref.name"] == tag;
        let own = all.iter().find(named).unwrap_or_else(|| panic!("no {tag}: {index}"));
        own["digest"].as_str().expect("text").to_owned()
    };
    case.dockerfile("FROM BASE\nRUN echo one > /one\n");
    case.build(&["--cache-to", &to(&cache, ",tag=one")]).ok();
    let one = case.fresh();
    let first = state("one");
    case.dockerfile("FROM BASE\nRUN echo two > /two\n");
    case.build(&["--cache-to", &to(&cache, ",tag=two"), "--cache-to", &to(&cache, ",tag=one")])
        .ok();
    let two = case.fresh();
    assert_ne!(state("one"), first);
    assert_ne!(state("one"), state("two"));

    let ran = |case: &Case, more: &str| {
        case.fresh().build(&["--cache-from", &from(&cache, more)]).ok().step("RUN echo")
    };
    assert_eq!(ran(&one, ",tag=one"), "CACHED");
    assert_eq!(ran(&two, ",tag=one"), "CACHED");
    assert_eq!(ran(&one, ",tag=two"), "DONE");
    assert_eq!(ran(&one, ""), "DONE");
    assert_eq!(ran(&one, &format!(",digest={first}")), "CACHED");
    assert_eq!(ran(&two, &format!(",digest={first}")), "DONE");
    let none = one.fresh().build(&["--cache-from", &from(&cache, ",tag=three")]).ok();
    assert!(none.stderr.contains("holds no cache `three`"), "{}", none.stderr);
    let none = format!("sha256:{}", "0".repeat(64));
    let none = one.fresh().build(&["--cache-from", &from(&cache, &format!(",digest={none}"))]);
    assert!(none.ok().stderr.contains("it is not there: nothing is imported"));
}

#[test]
fn a_reset_leaves_what_this_build_used() {
    need!(Root);
    let case = Case::with_base();
    let cache = case.out("cache");
    case.dockerfile("FROM BASE\nRUN echo old > /old\n");
    case.build(&["--cache-to", &to(&cache, "")]).ok();
    let old = case.fresh();
    case.build(&["--cache-to", &to(&cache, ",tag=other")]).ok();
    std::thread::sleep(Duration::from_millis(20));
    case.dockerfile("FROM BASE\nRUN echo new > /new\n");
    // A build that fails cannot know what is of use.
    case.dockerfile("FROM BASE\nRUN echo new > /new\nRUN false\n");
    case.build(&["--cache-to", &to(&cache, ",reset")]).fails(1, &[]);
    let ran = |case: &Case, more: &str| {
        case.fresh().build(&["--cache-from", &from(&cache, more)]).ok().step("RUN echo")
    };
    assert_eq!(ran(&old, ""), "CACHED");
    case.dockerfile("FROM BASE\nRUN echo new > /new\n");
    case.build(&["--cache-to", &to(&cache, ",reset=true")]).ok();
    assert_eq!(ran(&old, ""), "DONE");
    assert_eq!(ran(&case, ""), "CACHED");
    // Another tag is another cache, its blobs included.
    assert_eq!(ran(&old, ",tag=other"), "CACHED");
    case.build(&["--cache-to", &to(&cache, ",tag=other,reset=true")]).ok();
    let index = json(&cache.join("index.json"));
    let mut named = BTreeSet::new();
    for m in index["manifests"].as_array().expect("manifests") {
        named.insert(blob(&cache, &m["digest"]));
        let list = json(&blob(&cache, &m["digest"]));
        named.insert(blob(&cache, &list["config"]["digest"]));
        named.extend(
            list["layers"].as_array().expect("list").iter().map(|l| blob(&cache, &l["digest"])),
        );
    }
    let there: BTreeSet<_> = files(&cache.join("blobs/sha256")).into_iter().collect();
    assert_eq!(there, named, "blobs that nobody names");
}

#[test]
fn a_second_build_writes_only_what_is_new() {
    need!(Root);
    let case = Case::with_base();
    let cache = case.out("cache");
    let build = |case: &Case| {
        let run = case.build(&["--cache-to", &to(&cache, ",mode=max")]).ok();
        let line = run.stderr.lines().find(|l| l.contains("exported the cache")).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("nothing is told:\n{}", run.stderr));
        let words: Vec<&str> = line.split(' ').collect();
        let at = words.iter().position(|w| *w == "bytes").expect("bytes");
        words[at - 1].parse::<u64>().expect("a number")
    };
    case.dockerfile("FROM BASE\nRUN echo one > /one\n");
    let all = build(&case);
    assert!(all > 100_000, "the base is in it: {all}");
    let before = files(&cache.join("blobs/sha256"));
    let index = fs::read(cache.join("index.json")).expect("a file");
    assert_eq!(build(&case), 0);
    assert_eq!(files(&cache.join("blobs/sha256")), before);
    assert_eq!(fs::read(cache.join("index.json")).expect("a file"), index);
    case.dockerfile("FROM BASE\nRUN echo one > /one\nRUN echo two > /two\n");
    let more = build(&case);
    assert!(more > 0 && more < 2_000, "{more}");
}

#[test]
fn branches_and_platforms_share_a_cache() {
    need!(Root);
    let case = Case::with_base();
    let cache = case.out("cache");
    case.file("f", "text\n");
    let branches = ["RUN echo main > /branch", "RUN echo topic > /branch"];
    for branch in branches {
        case.dockerfile(&format!("FROM BASE\nCOPY f /f\n{branch}\n"));
        case.build(&["--cache-to", &to(&cache, "")]).ok();
    }
    for branch in branches {
        case.dockerfile(&format!("FROM BASE\nCOPY f /f\n{branch}\n"));
        case.fresh().build(&["--cache-from", &from(&cache, "")]).ok().all_cached();
    }
    case.dockerfile("FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n");
    let platforms = ["linux/amd64", "linux/arm64"];
    for p in platforms {
        case.build(&["--platform", p, "--cache-to", &to(&cache, "")]).ok();
    }
    for p in platforms {
        let args = ["--platform", p, "--cache-from", &from(&cache, "")];
        case.fresh().build(&args).ok().all_cached();
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_told_at_the_end() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo text > /file\n");
    let (bad, good) = (case.out("file"), case.out("good"));
    fs::write(&bad, "no folder").expect("a file");
    let image = case.out("image.tar");
    let out = format!("type=oci,dest={}", image.display());
    // The outputs and the other cache are written all the same.
    let args = ["--cache-to", &to(&bad, ""), "--cache-to", &to(&good, ""), "-o", &out];
    case.build(&args).fails(1, &["a cache is not", "cannot write the cache folder"]);
    assert_eq!(Image::from_archive(&image).read("file"), "text\n");
    case.fresh().build(&["--cache-from", &from(&good, "")]).ok().all_cached();
    let run = case.build(&["--cache-to", &to(&bad, ",ignore-error=true")]).ok();
    assert!(run.stderr.contains("cannot write the cache folder"), "{}", run.stderr);
    // Nothing is written through a link.
    let (linked, elsewhere) = (case.out("linked"), case.out("elsewhere"));
    fs::create_dir_all(linked.join("rgraph")).expect("a folder");
    fs::create_dir_all(&elsewhere).expect("a folder");
    std::os::unix::fs::symlink(&elsewhere, linked.join("rgraph/v1")).expect("a link");
    case.build(&["--cache-to", &to(&linked, "")]).fails(1, &["it is a link"]);
}

#[test]
fn several_caches_are_asked_in_order() {
    need!(Root);
    let case = Case::with_base();
    let (one, two) = (case.out("one"), case.out("two"));
    case.dockerfile("FROM BASE AS a\nRUN echo one > /one\n");
    case.build(&["--cache-to", &to(&one, "")]).ok();
    case.dockerfile("FROM BASE\nRUN echo two > /two\n");
    case.build(&["--cache-to", &to(&two, "")]).ok();
    case.dockerfile(
        "FROM BASE AS a\nRUN echo one > /one\nFROM BASE\nRUN echo two > /two\nCOPY --from=a /one /one\n",
    );
    let nowhere = case.out("nowhere");
    let args =
        [from(&nowhere, ""), from(&one, ""), from(&two, "")].map(|f| format!("--cache-from={f}"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = case.fresh().build(&args).ok();
    assert_eq!(run.step("RUN echo one"), "CACHED");
    assert_eq!(run.step("RUN echo two"), "CACHED");
    assert_eq!(run.step("COPY"), "DONE");
    assert!(run.stderr.contains("nowhere` is not there"), "{}", run.stderr);
}

#[test]
fn a_cancelled_build_loses_nothing_that_was_finished() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE AS a\nRUN echo one > /one\nFROM a\nRUN echo two; sleep 323\n");
    let cache = case.out("cache");
    let mut running = case.start(&case.build_args(&["--cache-to", &to(&cache, ",mode=max")]));
    running.wait_for(" two\n");
    running.signal(Signal::INT);
    running.finish().fails(130, &[]);
    case.fresh().build(&["--cache-from", &from(&cache, ""), "--target", "a"]).ok().all_cached();
    // The artifact is up to date as well.
    assert!(cache.join("index.json").is_file());
}

/// The store knows the layers of an imported cache by name only. Where that cache is gone, another one
/// is not filled with names.
#[test]
fn what_is_known_by_name_only_is_built_for_a_cache() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE AS a\nRUN echo a > /a\nFROM BASE\nCOPY --from=a /a /a\nRUN echo b > /b\n",
    );
    let (one, two) = (case.out("one"), case.out("two"));
    case.build(&["--cache-to", &to(&one, ",mode=max")]).ok();
    let other = case.fresh();
    other.build(&["--cache-from", &from(&one, "")]).ok().all_cached();
    fs::remove_dir_all(&one).expect("a folder");
    other.build(&["--cache-to", &to(&two, ",mode=max")]).ok();
    case.fresh().build(&["--cache-from", &from(&two, "")]).ok().all_cached();
    let bare = |p: &PathBuf| {
        let layers = json(p)["layers"].clone();
        layers.as_array().expect("layers").iter().any(|l| l.get("blob").is_none())
    };
    let bare: Vec<_> = records(&two).into_iter().filter(bare).collect();
    assert!(bare.is_empty(), "records without blobs: {bare:?}");
}
