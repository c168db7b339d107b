//! When registries are asked, what a lock file makes of their answers, and builds without them.

use std::fs;

use rgraph_tests::{Access, Case, Registry, Run, need};

/// Pushes an image in which `/version` holds `text`; gives its name.
fn push(registry: &Registry, name: &str, text: &str) -> String {
    let case = Case::with_base();
    case.dockerfile(&format!("FROM BASE\nRUN echo {text} > /version\n"));
    let name = registry.name(name);
    case.build(&["--push", "-t", &name]).ok();
    name
}

/// Pushes an image of two platforms, without a step.
fn push_index(registry: &Registry, name: &str, text: &str) -> String {
    let case = Case::new();
    case.file("version", text).file("Dockerfile", "FROM scratch\nCOPY version /\n");
    let name = registry.name(name);
    case.build(&["--platform", "linux/amd64,linux/arm64", "--push", "-t", &name]).ok();
    name
}

/// What a name means in its registry.
fn digest(name: &str) -> String {
    let run = Case::new().rgraph(&["pull", name]).ok();
    let line = run.text().lines().find_map(|l| l.strip_prefix("Digest: ").map(str::to_owned));
    line.expect("a digest")
}

fn locking(case: &Case, args: &[&str]) -> Run {
    let context = case.context().display().to_string();
    let mut all = vec!["lock"];
    all.extend(args);
    all.push(&context);
    case.rgraph(&all)
}

fn lock_text(case: &Case) -> String {
    fs::read_to_string(case.context().join("rgraph.lock")).expect("a lock file")
}

#[test]
fn pull_policies() {
    need!(Root, Tool("docker-registry"));
    let mut registry = Registry::start(Access::Open);
    let name = push(&registry, "base:1", "one");
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}\nRUN echo saw $(cat /version)\n"));
    assert!(case.build(&[]).ok().stderr.contains(" saw one\n"));
    push(&registry, "base:1", "two");
    for args in [&[][..], &["--pull=missing"], &["--pull=never"], &["--offline"]] {
        let before = registry.requests();
        case.build(args).ok().all_cached();
        assert_eq!(registry.requests(), before, "{args:?} asked");
    }
    assert!(case.build(&["--pull=newer"]).ok().stderr.contains(" saw two\n"));
    // What the registry said last is what the name means from now on.
    case.build(&[]).ok().all_cached();
    push(&registry, "base:1", "three");
    assert!(case.build(&["--pull"]).ok().stderr.contains(" saw three\n"));
    let before = registry.requests().len();
    case.build(&["--pull"]).ok().all_cached();
    let asked = registry.requests().split_off(before);
    assert!(asked.iter().all(|r| r.starts_with("HEAD ") || r == "GET /v2/"), "{asked:?}");

    registry.stop();
    for args in [&[][..], &["--pull=missing"], &["--pull=never"], &["--offline"]] {
        case.build(args).ok().all_cached();
    }
    case.build(&["--pull"]).fails(1, &["Dockerfile:1", "base:1", "not reachable"]);
    let text = "FROM NAME\nRUN echo saw $(cat /version)\nRUN --mount=from=OTHER,target=/m cat /m/version\n";
    case.file("Dockerfile", text.replace("NAME", &name).replace("OTHER", &name));
    let newer = case.build(&["--pull=newer"]).ok();
    let warned = newer.stderr.matches("warning: cannot ask whether").count();
    assert_eq!(warned, 1, "{}", newer.stderr);
    assert!(newer.stderr.contains("base:1` is newer"), "{}", newer.stderr);
}

#[test]
fn what_is_absent_is_named() {
    need!(Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {}\n", registry.name("base:1")));
    let never = case.build(&["--pull=never"]);
    never.fails(1, &["Dockerfile:1", "base:1` is not in the store", "--pull=never", "rgraph pull"]);
    let offline = case.build(&["--offline"]);
    offline.fails(1, &["Dockerfile:1", "is not in the store", "--offline", "rgraph fetch"]);
    assert_eq!(registry.requests(), Vec::<String>::new());
    for pull in ["--pull", "--pull=newer", "--push"] {
        case.build(&["--offline", pull, "-t", "x"]).fails(2, &["--offline", "give one of them"]);
    }
    let context = case.context().display().to_string();
    case.rgraph(&["fetch", "--offline", &context]).fails(2, &["rgraph fetch"]);
}

/// A base whose name is known and whose layers are not.
#[test]
fn a_layer_that_is_absent_is_named() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = push(&registry, "base:1", "one");
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}\nENV A=b\n"));
    case.build(&[]).ok();
    case.file("Dockerfile", format!("FROM {name}\nRUN true\n"));
    case.build(&["--offline"])
        .fails(1, &["Dockerfile:2", "layer sha256:", "base:1", "rgraph fetch"]);
    case.build(&["--pull=never"]).fails(1, &["layer sha256:", "--pull=never"]);
    case.build(&[]).ok();
}

#[test]
fn a_digest_is_never_asked_for_again() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = push_index(&registry, "base:1", "one");
    let digest = digest(&name);
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}@{digest}\nCOPY Dockerfile /d\n"));
    case.build(&["--platform", "linux/arm64"]).ok();
    let before = registry.requests();
    for args in [&[][..], &["--pull"], &["--pull=newer"], &["--no-cache"]] {
        let mut all = vec!["--platform", "linux/arm64", "-o", "type=cacheonly"];
        all.extend(args);
        case.build(&all).ok();
        assert_eq!(registry.requests(), before, "{args:?} asked");
    }
}

/// CACHE-07.
#[test]
fn a_base_that_moved_redoes_what_stands_on_it() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = push(&registry, "base:1", "one");
    let case = Case::new();
    case.file("f", "text\n");
    case.file(
        "Dockerfile",
        format!(
            "FROM {name}\nCOPY f /plain\nCOPY --link f /linked\nWORKDIR /w\nRUN cat /version\n"
        ),
    );
    case.build(&[]).ok();
    push(&registry, "base:1", "two");
    case.build(&[]).ok().all_cached();
    let run = case.build(&["--pull"]).ok();
    for step in ["COPY f /plain", "WORKDIR /w", "RUN cat"] {
        assert_eq!(run.step(step), "DONE", "{step}:\n{}", run.stderr);
    }
    assert_eq!(run.step("] COPY --link f /linked"), "CACHED", "{}", run.stderr);
    assert!(run.stderr.contains(" two\n"), "{}", run.stderr);
    case.build(&["--pull"]).ok().all_cached();
}

#[test]
fn a_build_that_changes_nothing_opens_no_socket() {
    need!(Root, Tool("docker-registry"), Tool("strace"));
    let mut registry = Registry::start(Access::Open);
    let name = push(&registry, "base:1", "one");
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}\nCOPY . /c\nRUN cat /version\n"));
    case.build(&["-t", "app"]).ok();
    registry.stop();
    let log = case.out("calls");
    let trace = |args: &[&str]| {
        let rgraph = case.command(&case.build_args(args));
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=socket,connect", "-o"]).arg(&log);
        strace.arg(rgraph.get_program()).args(rgraph.get_args());
        for (key, value) in rgraph.get_envs() {
            match value {
                Some(value) => strace.env(key, value),
                None => strace.env_remove(key),
            };
        }
        let out = strace.current_dir(case.dir()).output().expect("strace runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        fs::read_to_string(&log).expect("a log")
    };
    assert_eq!(trace(&["-t", "app"]), "");
    assert_eq!(trace(&["-t", "app", "--offline"]), "");
}

#[test]
fn a_lock_file_holds_every_base() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let two = push_index(&registry, "two:1", "one");
    let one = push(&registry, "one:1", "one");
    let top = digest(&two);
    let case = Case::new();
    case.file(
        "Dockerfile",
        format!(
            "FROM nowhere.invalid/unused:1 AS unused\nFROM {two} AS a\nFROM ctx AS b\n\
             COPY --from=a /version /a\nCOPY --from={one} /version /b\n\
             ADD --checksum=sha256:{hex} https://example.com/f /f\n",
            hex = "ab".repeat(32)
        ),
    );
    let flags = [
        "--platform",
        "linux/arm64,linux/amd64",
        "--build-context",
        &format!("ctx=docker-image://{two}@{top}"),
    ];
    locking(&case, &flags).ok();
    let text = lock_text(&case);
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert_eq!((lines[0], lines[1]), ("version 1", ""));
    assert!(lines[2].starts_with(&format!("image {one} sha256:")), "{text}");
    assert!(lines[3].starts_with(&format!("image {two} {top} linux/amd64=sha256:")), "{text}");
    assert!(lines[3].contains(" linux/arm64=sha256:"), "{text}");
    assert!(lines[4].starts_with(&format!("image {two}@{top} {top} linux/amd64=")), "{text}");
    assert_eq!(lines[5], format!("http https://example.com/f sha256:{}", "ab".repeat(32)));
    // The same sources, the same bytes; to stdout too.
    locking(&case, &flags).ok();
    assert_eq!(lock_text(&case), text);
    let mut out = vec!["-o", "-"];
    out.extend(flags);
    assert_eq!(locking(&case, &out).ok().text(), text);
    // A URL that cannot be had cannot be locked.
    case.file("Dockerfile", format!("FROM {one}\nADD http://127.0.0.1:1/f /f\n"));
    let refused = locking(&case, &[]);
    refused.fails(1, &["Dockerfile:2", "http://127.0.0.1:1/f", "not reachable"]);
    assert_eq!(lock_text(&case), text, "a lock file that was refused was written");
}

#[test]
fn a_locked_build_takes_what_the_lock_file_says() {
    need!(Root, Tool("docker-registry"));
    let mut registry = Registry::start(Access::Open);
    let name = push(&registry, "base:1", "one");
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}\nRUN echo saw $(cat /version)\n"));
    case.build(&["--locked"]).fails(1, &["no lock file", "rgraph.lock", "rgraph lock"]);
    locking(&case, &[]).ok();
    let first = lock_text(&case);
    locking(&case, &["--check"]).ok();
    push(&registry, "base:1", "two");

    // The tag moved: the lock file does not, and a fresh root gets what it says.
    let fresh = Case::new();
    for file in ["Dockerfile", "rgraph.lock"] {
        fs::copy(case.context().join(file), fresh.context().join(file)).expect("a copy");
    }
    let run = fresh.build(&["--locked"]).ok();
    assert!(run.stderr.contains(" saw one\n"), "{}", run.stderr);
    let tag = name.rsplit_once(':').expect("a tag").1;
    let asked =
        registry.requests().iter().filter(|r| r.ends_with(&format!("/manifests/{tag}"))).count();
    fresh.build(&["--locked"]).ok().all_cached();
    locking(&case, &[]).ok();
    assert_eq!(lock_text(&case), first, "a lock moved by itself");
    let now =
        registry.requests().iter().filter(|r| r.ends_with(&format!("/manifests/{tag}"))).count();
    assert_eq!(asked, now, "the tag was asked for");
    // It does not stick to builds that are not locked.
    assert!(fresh.build(&[]).ok().stderr.contains(" saw two\n"));

    // Who asks is told.
    locking(&case, &["--check"])
        .fails(1, &["rgraph.lock:5", "base:1", ", now sha256:", "out of date"]);
    let moved = case.build(&["--locked", "--pull"]);
    moved.fails(1, &["Dockerfile:1", "rgraph.lock:5", "moved", "rgraph lock --pull"]);
    let said = locking(&case, &["--pull"]).ok().stderr;
    assert!(said.contains("base:1` is sha256:"), "{said}");
    assert_ne!(lock_text(&case), first);
    assert!(case.build(&["--locked", "--pull"]).ok().stderr.contains(" saw two\n"));

    registry.stop();
    case.build(&["--locked"]).ok().all_cached();
    case.build(&["--locked", "--offline"]).ok().all_cached();
    case.build(&["--locked", "--pull=newer"]).ok().all_cached();
}

#[test]
fn a_lock_file_that_does_not_fit_is_refused() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = push_index(&registry, "base:1", "one");
    let case = Case::new();
    case.file("Dockerfile", format!("FROM {name}\nCOPY Dockerfile /\n"));
    let amd = ["--platform", "linux/amd64"];
    locking(&case, &amd).ok();
    let text = lock_text(&case);
    let build = |args: &[&str]| {
        let mut all = vec!["--locked", "-o", "type=cacheonly"];
        all.extend(args);
        case.build(&all)
    };
    build(&amd).ok();
    build(&["--platform", "linux/arm64"])
        .fails(1, &["Dockerfile:1", "rgraph.lock:5", "not locked for linux/arm64"]);
    let other = case.out("other.Dockerfile");
    fs::write(&other, "FROM busybox:1\n").expect("a file");
    let other = other.display().to_string();
    build(&["-f", &other, "--locked=context/rgraph.lock"])
        .fails(1, &["other.Dockerfile:1", "context/rgraph.lock", "has no line for `busybox:1`"]);

    // Digests nobody has, and one that is of another platform.
    let words: Vec<&str> = text.lines().last().expect("a line").split(' ').collect();
    let (top, manifest) = (words[2], words[3].split_once('=').expect("a platform").1);
    let nobody = format!("sha256:{}", "0".repeat(64));
    case.file("rgraph.lock", text.replace(top, &nobody));
    build(&amd).fails(1, &["Dockerfile:1", "rgraph.lock:5", "is gone from its registry", &nobody]);
    case.file("rgraph.lock", text.replace(manifest, &nobody));
    build(&amd).fails(1, &["Dockerfile:1", "rgraph.lock:5", "for linux/amd64 the line says"]);

    for (text, why) in [
        ("version 9\n".to_owned(), "rgraph.lock:1: version 9"),
        ("version 1\nimage \u{1b}[2J\n".to_owned(), "rgraph.lock:2: "),
        ("\0\0\0".to_owned(), "rgraph.lock:1: "),
        ("#".repeat((1 << 20) + 1), "larger than"),
    ] {
        case.file("rgraph.lock", text);
        let run = build(&amd).fails(1, &[why]);
        assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
    }
    // What cannot be read is nothing to go on from.
    case.file("rgraph.lock", "version 9\n");
    let context = case.context().display().to_string();
    case.rgraph(&["lock", &context]).fails(1, &["version 9", "remove the file, and `rgraph lock`"]);
    fs::remove_file(case.context().join("rgraph.lock")).expect("a file");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        case.context().join("rgraph.lock"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("a pipe");
    build(&amd).fails(1, &["not a regular file"]);
}

#[test]
fn what_was_fetched_builds_without_a_network() {
    need!(Root, Tool("docker-registry"));
    let mut registry = Registry::start(Access::Open);
    let base = push(&registry, "base:1", "one");
    let tools = push(&registry, "tools:1", "tools");
    let data = push_index(&registry, "data:1", "data\n");
    let case = Case::new();
    case.file(
        "Dockerfile",
        format!(
            "FROM {base}\nRUN --mount=from={tools},target=/t cat /version /t/version > /all\n\
             COPY --from={data} /version /data\n"
        ),
    );
    let context = case.context().display().to_string();
    let run = case.rgraph(&["fetch", &context]).ok();
    assert_eq!(run.stderr.matches(" fetched\n").count(), 3, "{}", run.stderr);
    assert!(run.stdout.is_empty());
    let asked = registry.requests();
    let again = case.rgraph(&["fetch", &context]).ok();
    assert_eq!(again.stderr.matches(", 0 fetched\n").count(), 3, "{}", again.stderr);
    assert_eq!(registry.requests(), asked, "asked again");
    registry.stop();
    let path = case.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    case.build(&["--offline", "-o", &out]).ok();
    let image = rgraph_tests::Image::from_archive(&path);
    assert_eq!((image.read("all"), image.read("data")), ("one\ntools\n".into(), "data\n".into()));
    // `fetch` names no image.
    assert_eq!(case.rgraph(&["images", "-q"]).ok().text(), "");
    case.file("Dockerfile", "FROM scratch\nADD http://127.0.0.1:1/f /f\n");
    case.rgraph(&["fetch", &context]).fails(1, &["Dockerfile:2", "not reachable"]);
}
