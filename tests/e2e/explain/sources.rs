//! Changes of what comes from elsewhere: named contexts, URLs, repositories, other images.

use std::fs;
use std::sync::{Arc, Mutex};

use rgraph_tests::{Answer, Repositories, Web, need};

use super::world::{World, nothing};

/// A folder beside the context.
fn folder(w: &World, name: &str, files: &[(&str, &str)]) {
    let dir = w.case.out(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("a folder");
    }
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("below it")).expect("folders");
        fs::write(path, text).expect("a file");
    }
}

#[test]
fn named_contexts() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nCOPY --from=lib . /lib\nRUN --mount=type=bind,from=lib,target=/l true\n",
        &["f=1"],
        &["--build-context", "lib=lib", "--build-context", "rest=lib"],
    );
    let w = &world;
    folder(w, "lib", &[("a", "1"), ("d/b", "1")]);
    folder(w, "same", &[("a", "1"), ("d/b", "1")]);
    folder(w, "other", &[("a", "2"), ("d/b", "1")]);
    let back = |w: &World| folder(w, "lib", &[("a", "1"), ("d/b", "1")]);
    w.check(&[
        ("nothing", &nothing, &[], &[]),
        ("a file of the main context", &|w| w.put("f=2"), &[], &[]),
        ("the same files elsewhere", &nothing, &["--build-context", "lib=same"], &[]),
        (
            "other files elsewhere",
            &nothing,
            &["--build-context", "lib=other"],
            &[
                "stage-0 2: context lib: a changed",
                "stage-0 3: step 2 above gave other files: lib/a; context lib: a changed",
            ],
        ),
        (
            "another name of the same folder",
            &|w| w.edit("COPY --from=lib", "COPY --from=rest"),
            &[],
            &[],
        ),
    ]);
    w.reset();
    folder(w, "lib", &[("a", "1"), ("d/b", "1"), ("n", "1")]);
    w.case.build(&["--build-context", "lib=lib"]).ok();
    assert_eq!(
        w.why(),
        [
            "stage-0 2: context lib: n is new",
            "stage-0 3: step 2 above gave other files: lib/n (new); context lib: n is new",
        ]
    );
    back(w);
    w.check(&[("an image", &nothing, &["--build-context", "lib=docker-image://busybox:test"], &[
        "stage-0 2: --build-context lib: set to busybox:test",
        "stage-0 3: step 2 above gave other files: lib/a (gone), lib/bin (new), lib/d (gone) and 2 more; --build-context lib: set to busybox:test",
    ])]);
}

#[test]
fn urls() {
    need!(Root);
    let text = Arc::new(Mutex::new("one".to_owned()));
    let now = text.clone();
    let web = Web::start(move |_| Answer::ok(now.lock().expect("not poisoned").clone()));
    let world = World::new("FROM BASE\nADD @ /f\nRUN cat /f\n", &[], &[]);
    let (url, other) = (web.url("/f"), web.url("/g"));
    let set = |text: &str| world.case.dockerfile(&text.replace('@', &url)).build(&[]).ok();
    let again = || {
        *text.lock().expect("not poisoned") = "one".to_owned();
        set("FROM BASE\nADD @ /f\nRUN cat /f\n");
        set("FROM BASE\nADD @ /f\nRUN cat /f\n").all_cached();
    };
    let check = |dockerfile: &str, want: &[String]| {
        set(dockerfile);
        assert_eq!(world.why(), want, "{dockerfile}");
        again();
    };
    again();
    *text.lock().expect("not poisoned") = "two".to_owned();
    set("FROM BASE\nADD @ /f\nRUN cat /f\n");
    let why = world.why();
    assert_eq!(why.len(), 2, "{why:?}");
    assert!(why[0].starts_with(&format!("2: {url} moved ")), "{why:?}");
    assert_eq!(why[1], "3: step 2 above gave other files: f");
    again();
    check(
        &format!("FROM BASE\nADD {other} /f\nRUN cat /f\n"),
        &[format!("2: URL: {url} to {other}")],
    );
    check(
        "FROM BASE\nADD --chmod=755 @ /f\nRUN cat /f\n",
        &[
            "2: --chmod: set to 755".to_owned(),
            "3: step 2 above gave other files: f (mode 600 to 755)".to_owned(),
        ],
    );
    check(
        "FROM BASE\nADD --checksum=sha256:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed @ /f\nRUN cat /f\n",
        &[],
    );
}

#[test]
fn repositories() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    r.file("a", "f", "one\n").file("a", "sub/x", "x\n");
    r.commit("a", "one");
    r.git("a", &["branch", "same"]);
    let web = r.serve(None);
    let url = web.url("/a.git");
    let world = World::new("FROM BASE\nADD @ /d/\nRUN true\n", &[], &[]);
    let set = |text: &str| {
        world.case.dockerfile(&text.replace('@', &url)).build(&[]).ok();
        world.why()
    };
    let first = "FROM BASE\nADD @#main /d/\nRUN true\n";
    set(first);
    assert_eq!(set(first), [""; 0]);
    // The same commit by another name.
    assert_eq!(set("FROM BASE\nADD @#same /d/\nRUN true\n"), [""; 0]);
    set(first);
    assert_eq!(
        set("FROM BASE\nADD @#main:sub /d/\nRUN true\n"),
        [
            "2: folder of the repository: set to sub",
            "3: step 2 above gave other files: d/f (gone), d/sub (gone), d/x (new)",
        ]
    );
    assert_eq!(set(first), [""; 0]);
    assert_eq!(
        set("FROM BASE\nADD --keep-git-dir @#main /d/\nRUN true\n")[0],
        "2: --keep-git-dir: false to true"
    );
    set(first);
    r.file("a", "f", "two\n");
    let commit = r.commit("a", "two");
    let why = set(first);
    assert_eq!(why.len(), 2, "{why:?}");
    let shown = url.trim_start_matches("http://");
    let (start, end) = (format!("2: {shown}#main moved "), format!(" to {}", &commit[..12]));
    assert!(why[0].starts_with(&start) && why[0].ends_with(&end), "{why:?}");
    assert_eq!(why[1], "3: step 2 above gave other files: d/f");
    // A commit of other files only, where a part is taken.
    let part = "FROM BASE\nADD @#main:sub /d/\nRUN true\n";
    set(part);
    r.file("a", "f", "three\n");
    r.commit("a", "three");
    let why = set(part);
    assert!(why.len() <= 1, "{why:?}");
    set(first);
    // A branch of other files.
    r.git("a", &["checkout", "-q", "-b", "other"]);
    r.file("a", "f", "four\n");
    r.commit("a", "four");
    let why = set("FROM BASE\nADD @#other /d/\nRUN true\n");
    assert_eq!(why, ["2: git ref: main to other", "3: step 2 above gave other files: d/f"]);
}

/// The image below says more than files.
#[test]
fn what_a_base_says() {
    need!(Root);
    let world = World::new("FROM base:1\nRUN echo a > /tmp/a\nRUN echo b > /tmp/b\n", &[], &[]);
    let case = &world.case;
    let make = |name: &str, text: &str| {
        let other = case.context();
        let keep = fs::read(other.join("Dockerfile")).unwrap_or_default();
        case.dockerfile(&format!("FROM BASE\nENV E=1\n{text}"));
        case.build(&["-t", name]).ok();
        fs::write(other.join("Dockerfile"), keep).expect("a file");
    };
    let tag = |image: &str| drop(case.rgraph(&["tag", image, "base:1"]).ok());
    for (name, text) in [
        ("first:1", ""),
        ("label:1", "LABEL a=b\nCMD [\"x\"]\nEXPOSE 1\n"),
        ("env:1", "ENV E=2\n"),
        ("more:1", "ENV F=2\n"),
        ("user:1", "USER app\n"),
        ("folder:1", "WORKDIR /tmp\n"),
        ("shell:1", "SHELL [\"/bin/sh\", \"-ec\"]\n"),
        ("files:1", "RUN echo 1 > /etc/n\n"),
        ("both:1", "ENV E=2\nRUN echo 1 > /etc/n\n"),
        ("trigger:1", "ONBUILD ENV G=1\n"),
    ] {
        make(name, text);
    }
    tag("first:1");
    for (image, want) in [
        ("label:1", &[][..]),
        ("env:1", &["2: ENV E: 1 to 2", "3: ENV E: 1 to 2"]),
        ("more:1", &["2: ENV F: set to 2", "3: ENV F: set to 2"]),
        (
            "user:1",
            &[
                "2: USER: root to app",
                "3: USER: root to app; step 2 above gave other files: tmp/a (owner 0:0 to 1234:1235)",
            ],
        ),
        // An empty layer more.
        (
            "folder:1",
            &[
                "2: WORKDIR: / to /tmp; base base:1 moved",
                "3: WORKDIR: / to /tmp; step 2 above gave another result",
            ],
        ),
        (
            "shell:1",
            &["2: SHELL: `/bin/sh -c` to `/bin/sh -ec`", "3: SHELL: `/bin/sh -c` to `/bin/sh -ec`"],
        ),
        ("files:1", &["2: base base:1 moved", "3: step 2 above gave other files: etc/n (new)"]),
        (
            "both:1",
            &[
                "2: ENV E: 1 to 2; base base:1 moved",
                "3: ENV E: 1 to 2; step 2 above gave other files: etc/n (new)",
            ],
        ),
        ("trigger:1", &["2: ENV G: set to 1", "3: ENV G: set to 1"]),
    ] {
        tag("first:1");
        world.reset();
        world.case.build(&[]).ok().all_cached();
        tag(image);
        case.build(&[]).ok();
        let cut = |line: String| match line.split_once(" moved ") {
            Some((before, _)) => format!("{before} moved"),
            None => line,
        };
        let why: Vec<String> = world.why().into_iter().map(cut).collect();
        assert_eq!(why, want, "{image}");
    }
}
