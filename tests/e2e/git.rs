//! `ADD` of repositories: over smart and dumb HTTP, by `git`'s own protocol and by ssh.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rgraph_tests::{Answer, Case, Entry, Kind, Repositories, Request, Web, need, wait_until};

fn add(case: &Case, flags: &str, url: &str) {
    case.file("Dockerfile", format!("FROM scratch\nADD {flags} {url} /\n"));
}

fn files(case: &Case) -> BTreeMap<String, Entry> {
    case.image(&[]).files()
}

fn text(files: &BTreeMap<String, Entry>, path: &str) -> String {
    match files.get(path).map(|e| &e.kind) {
        Some(Kind::File(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        other => panic!("{path}: {other:?} among {:?}", files.keys()),
    }
}

/// Requests that carry objects.
fn transfers(web: &Web) -> usize {
    let bodies = web.requests();
    bodies.iter().filter(|r| r.body.windows(13).any(|w| w == b"command=fetch")).count()
}

fn sample(r: &Repositories) -> [String; 2] {
    r.file("a", "f", "one\n").file("a", "sub/deep/x", "x\n").file("a", "run.sh", "#!\n");
    r.git("a", &["add", "-A"]);
    r.git("a", &["update-index", "--chmod=+x", "run.sh"]);
    std::os::unix::fs::symlink("f", r.at("a").join("link")).expect("a link");
    Command::new("chmod").arg("755").arg(r.at("a").join("run.sh")).status().expect("chmod");
    let one = r.commit("a", "one");
    r.git("a", &["tag", "-a", "v1", "-m", "one"]);
    r.git("a", &["tag", "light"]);
    r.git("a", &["branch", "old"]);
    r.file("a", "f", "two\n");
    let two = r.commit("a", "two");
    [one, two]
}

/// CTX-08, LANG-69.
#[test]
fn branches_tags_commits_and_folders() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    let [one, two] = sample(&r);
    let web = r.serve(None);
    let url = web.url("/a.git");
    let case = Case::new();
    for (end, want) in [
        (String::new(), "two\n"),
        ("#main".into(), "two\n"),
        ("#v1".into(), "one\n"),
        ("#light".into(), "one\n"),
        ("#refs/heads/old".into(), "one\n"),
        (format!("#{one}"), "one\n"),
        (format!("#{}", &one[..9]), "one\n"),
        ("?branch=old".into(), "one\n"),
        ("?tag=v1".into(), "one\n"),
        (format!("?ref=main&checksum={two}"), "two\n"),
        (format!("?ref=main&commit={}", &two[..12]), "two\n"),
    ] {
        add(&case, "", &format!("{url}{end}"));
        let files = files(&case);
        assert_eq!(text(&files, "f"), want, "{end}");
        let (f, run) = (&files["f"], &files["run.sh"]);
        assert_eq!((f.mode, f.owner, f.mtime), (0o644, (0, 0), 1_000_000_000), "{end}");
        assert_eq!((run.mode, files["sub"].mode), (0o755, 0o755), "{end}");
        assert_eq!(files["link"].kind, Kind::Symlink("f".into()), "{end}");
        assert!(!files.contains_key(".git"), "{end}");
    }
    for end in ["#v1:sub/deep", "?ref=v1&subdir=sub/deep", "#:sub/./deep"] {
        add(&case, "", &format!("{url}{end}"));
        let files = files(&case);
        let paths: Vec<_> = files.keys().filter(|p| !p.is_empty()).collect();
        assert_eq!(paths, ["x"], "{end}");
    }
    case.file("Dockerfile", format!("FROM scratch\nADD --exclude=sub --chown=7 {url} /d/\n"));
    let files = files(&case);
    assert!(!files.contains_key("d/sub") && files["d/f"].owner == (7, 7), "{:?}", files.keys());
}

#[test]
fn what_did_not_move_is_not_fetched_again() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    let [one, _] = sample(&r);
    let web = r.serve(None);
    let case = Case::new();
    add(&case, "", &web.url("/a.git#main"));
    let first = case.build(&[]).ok().image();
    assert!(transfers(&web) > 0);
    let again = case.build(&[]).ok();
    again.all_cached();
    assert_eq!((again.image(), transfers(&web)), (first.clone(), 0));
    case.build(&["--offline"]).ok().all_cached();
    assert!(web.requests().is_empty());
    // A new commit, then a branch that was forced back.
    r.file("a", "f", "three\n");
    r.commit("a", "three");
    let files = files(&case);
    assert_eq!(text(&files, "f"), "three\n");
    r.git("a", &["reset", "-q", "--hard", &one]);
    r.git("a", &["commit", "-q", "--amend", "-m", "other"]);
    assert_eq!(text(&self::files(&case), "f"), "one\n");
    // A whole commit says all: nothing is asked.
    add(&case, "", &web.url(&format!("/a.git#{one}")));
    case.build(&[]).ok();
    web.requests();
    case.build(&[]).ok().all_cached();
    assert!(web.requests().is_empty());
    let other = Case::new();
    add(&other, "", &web.url("/a.git"));
    other.build(&["--offline"]).fails(1, &["Dockerfile:2", "is not in the store", "rgraph fetch"]);
}

#[test]
fn what_cannot_be_had_is_one_clear_error() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    let [one, two] = sample(&r);
    let web = r.serve(None);
    let url = web.url("/a.git");
    let case = Case::new();
    for (flags, end, texts) in [
        ("", "#none".to_owned(), &["no branch, tag or commit `none`"][..]),
        ("", "#abc1234".into(), &["no branch, tag or commit `abc1234`"]),
        ("", format!("#{}", "0".repeat(40)), &["a.git"]),
        ("", "#main:none".into(), &["`none` is not a folder"]),
        ("", "#main:link".into(), &["`link` is not a folder"]),
        ("", "#main:f".into(), &["`f` is not a folder"]),
        ("", "#--upload-pack=x".into(), &["cannot be a branch"]),
        ("", "#-x".into(), &["cannot be a branch"]),
        ("", format!("?ref=main&checksum={one}"), &["checksum mismatch", &one, &two]),
    ] {
        add(&case, flags, &format!("{url}{end}"));
        case.build(&[]).fails(1, texts).fails(1, &["Dockerfile:2"]);
    }
    add(&case, &format!("--checksum={}", &one[..10]), &format!("{url}#main"));
    case.build(&[]).fails(1, &["checksum mismatch", &one[..10], &two]);
    add(&case, "", &web.url("/absent.git"));
    case.build(&[]).fails(1, &["Dockerfile:2", "absent.git", "not found"]);
    add(&case, "", "http://127.0.0.1:1/a.git");
    case.build(&[]).fails(1, &["Dockerfile:2", "127.0.0.1"]);
}

/// Servers that fail, in the ways they do: what may pass is asked for again, the rest is one error.
#[test]
fn servers_that_fail() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    sample(&r);
    let is_pack = |r: &Request| r.body.windows(13).any(|w| w == b"command=fetch");
    let cut = |answer: Answer| Answer { cut: Some(answer.body.len() / 2), ..answer };
    for (what, error) in [
        ("500 once", None),
        ("500 once for the pack", None),
        ("cut once", None),
        ("500", Some("returned error: 500")),
        ("cut", Some("git fetch: ")),
        ("loop", Some("redirects")),
        ("404", Some("not found")),
        ("file", Some("Protocol \"file\" not supported")),
    ] {
        let (packs, hits) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let web = r.serve_through(move |r, answer| {
            let pack = is_pack(r).then(|| packs.fetch_add(1, Ordering::SeqCst));
            match (what, hits.fetch_add(1, Ordering::SeqCst), pack) {
                ("500 once", 0, _) | ("500 once for the pack", _, Some(0)) | ("500", ..) => {
                    Answer::status(500)
                }
                ("cut once", _, Some(0)) | ("cut", _, Some(_)) => cut(answer()),
                ("404", ..) => Answer::status(404),
                ("loop", ..) => Answer::status(302)
                    .header(format!("Location: {}", r.line.trim_start_matches("GET "))),
                ("file", ..) => Answer::status(302).header("Location: file:///etc/info/refs"),
                _ => answer(),
            }
        });
        let case = Case::new();
        add(&case, "", &web.url("/a.git#main"));
        let run = case.build(&[]);
        let asked = web.requests();
        let Some(error) = error else {
            run.ok();
            case.build(&[]).ok().all_cached();
            assert_eq!(transfers(&web), 0, "{what}");
            assert_eq!(text(&files(&case), "f"), "two\n", "{what}");
            continue;
        };
        let run = run.fails(1, &["Dockerfile:2", "a.git", error]);
        let errors = run.stderr.lines().filter(|l| l.starts_with("error")).count();
        assert_eq!(errors, 1, "{what}: {}", run.stderr);
        // One question for the refs and two before each pack; `git` follows 20 redirects.
        let most = if what == "loop" { 21 } else { 11 };
        assert!(asked.len() <= most, "{what}: asked {} times", asked.len());
        let packs = asked.iter().filter(|r| is_pack(r)).count();
        assert_eq!(packs, if what == "cut" { 3 } else { 0 }, "{what}");
        // Nothing half is left that a later build would take.
        assert!(case.build(&["--offline"]).code == 1, "{what}");
    }
}

#[test]
fn the_git_folder_is_kept_when_asked() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    let [_, two] = sample(&r);
    let web = r.serve(None);
    let case = Case::new();
    for (flags, end) in
        [("--keep-git-dir=true", ""), ("", "?keep-git-dir"), ("--keep-git-dir", "#main")]
    {
        add(&case, flags, &web.url(&format!("/a.git{end}")));
        let out = case.out("tree");
        let dest = format!("type=local,dest={}", out.display());
        case.build(&["-o", &dest]).ok();
        let git = |args: &[&str]| {
            let all = ["-c", "safe.directory=*"].iter().chain(args);
            let out = Command::new("git").args(all).current_dir(&out).output().expect("git runs");
            String::from_utf8_lossy(&out.stdout).trim().to_owned()
        };
        assert_eq!(git(&["rev-parse", "HEAD"]), two, "{flags} {end}");
        assert_eq!(git(&["status", "--porcelain"]), "", "{flags} {end}");
        assert_eq!(git(&["remote", "get-url", "origin"]), web.url("/a.git"));
        assert_eq!(git(&["rev-list", "--count", "HEAD"]), "1");
        fs::remove_dir_all(&out).expect("gone");
    }
}

#[test]
fn submodules() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    sample(&r);
    r.file("inner", "i", "i\n").commit("inner", "i");
    r.file("outer", "o", "o\n");
    let add_module = |name: &str, url: &str, path: &str, of: &str| {
        let id = r.git(of, &["rev-parse", "HEAD"]);
        let text = fs::read_to_string(r.at(name).join(".gitmodules")).unwrap_or_default();
        let text = format!("{text}[submodule \"{path}\"]\n\tpath = {path}\n\turl = {url}\n");
        r.file(name, ".gitmodules", &text);
        r.git(name, &["add", ".gitmodules"]);
        r.git(name, &["update-index", "--add", "--cacheinfo", &format!("160000,{id},{path}")]);
        fs::create_dir_all(r.at(name).join(path)).expect("a folder");
        r.git(name, &["commit", "-q", "-m", "m"]);
    };
    r.commit("outer", "o");
    add_module("outer", "../inner.git", "mods/in", "inner");
    add_module("a", "../outer.git", "out", "outer");
    let web = r.serve(None);
    let case = Case::new();
    add(&case, "", &web.url("/a.git"));
    let all = files(&case);
    assert_eq!((text(&all, "out/o"), text(&all, "out/mods/in/i")), ("o\n".into(), "i\n".into()));
    assert_eq!(all["out/mods/in/i"].mode, 0o644);
    web.requests();
    case.build(&[]).ok().all_cached();
    assert_eq!(transfers(&web), 0);
    add(&case, "", &web.url("/a.git?submodules=false"));
    assert!(!files(&case).contains_key("out/o"));
    // With the repository itself beside them.
    add(&case, "--keep-git-dir=true", &web.url("/a.git"));
    let all = files(&case);
    assert_eq!((text(&all, "out/o"), text(&all, "out/mods/in/i")), ("o\n".into(), "i\n".into()));
    assert!(all.contains_key(".git/HEAD"), "{:?}", all.keys());
    // What is not fetched from is refused, whatever it is called.
    for url in ["ext::sh -c touch% /tmp/x", "file:///etc", "/etc", "--upload-pack=x", "../../../x"]
    {
        r.git("a", &["reset", "-q", "--hard", "v1"]);
        add_module("a", url, "evil", "inner");
        add(&case, "", &web.url("/a.git"));
        case.build(&[]).fails(1, &["Dockerfile:2", "submodule `evil`"]);
    }
}

/// SECU-28: nothing of a repository is run.
#[test]
fn a_repository_runs_nothing() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    let mark = r.dir().join("mark");
    let touch = format!("touch {}", mark.display());
    r.file("a", ".gitattributes", "* filter=x diff=x merge=x\n").file("a", "f", "x\n");
    r.file("a", "hooks/post-checkout", &format!("#!/bin/sh\n{touch}\n"));
    r.file(
        "a",
        ".gitmodules",
        &format!("[submodule \"s\"]\n\tpath = s\n\turl = ./s\n\tupdate = !{touch}\n"),
    );
    r.commit("a", "x");
    let mut case = Case::new();
    let config = case.out("gitconfig");
    fs::write(
        &config,
        format!("[filter \"x\"]\n\tsmudge = {touch}\n[core]\n\tfsmonitor = {touch}\n"),
    )
    .expect("a file");
    case.env("GIT_CONFIG_GLOBAL", &config.display().to_string());
    case.env("GIT_SSH_COMMAND", &touch).env("GIT_EXEC_PATH", "/nonexistent");
    let web = r.serve(None);
    add(&case, "", &web.url("/a.git"));
    case.build(&[]).ok();
    assert!(!mark.exists(), "something was run");
}

#[test]
fn logins_are_secrets() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    sample(&r);
    // x-access-token:t0ken
    let web = r.serve(Some("Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="));
    let case = Case::new();
    add(&case, "", &web.url("/a.git"));
    case.build(&[]).fails(1, &["Dockerfile:2", "a.git", "GIT_AUTH_TOKEN.127.0.0.1"]);
    let secret = case.out("secret");
    fs::write(&secret, "t0ken\n").expect("a file");
    let header = case.out("header");
    fs::write(&header, "Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=").expect("a file");
    for (id, file) in [
        ("GIT_AUTH_TOKEN", &secret),
        ("GIT_AUTH_TOKEN.127.0.0.1", &secret),
        ("GIT_AUTH_HEADER", &header),
    ] {
        let flag = format!("id={id},src={}", file.display());
        let run = case.build(&["--no-cache", "--secret", &flag, "--progress=plain"]).ok();
        assert!(!run.stderr.contains("t0ken") && !run.stderr.contains("eC1hY"), "{}", run.stderr);
    }
    let flag = format!("id=GIT_AUTH_TOKEN.other,src={}", secret.display());
    case.build(&["--no-cache", "--secret", &flag]).fails(1, &["Dockerfile:2"]);
    let login = web.url("/a.git").replace("//", "//x-access-token:t0ken@");
    add(&case, "--keep-git-dir", &login);
    case.build(&["--no-cache"]).ok();
    let kept =
        Command::new("grep").args(["-rl", "t0ken"]).arg(case.root().join("cache-mounts")).output();
    assert_eq!(kept.expect("grep runs").stdout, b"", "a login was kept");
}

#[test]
fn dumb_servers_and_the_git_protocol() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    let [one, _] = sample(&r);
    let web = r.serve_files();
    let case = Case::new();
    for (end, want) in
        [("", "two\n".to_owned()), ("#v1", "one\n".into()), (&format!("#{one}"), "one\n".into())]
    {
        add(&case, "", &web.url(&format!("/a.git{end}")));
        let files = files(&case);
        assert_eq!(text(&files, "f"), want, "{end}");
    }
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    // The program itself: `git daemon` would outlive the `git` that is ended here.
    let programs = Command::new("git").arg("--exec-path").output().expect("git runs").stdout;
    let daemon = format!("{}/git-daemon", String::from_utf8_lossy(&programs).trim());
    let mut daemon = Command::new(daemon)
        .args(["--export-all", "--listen=127.0.0.1", "--reuseaddr"])
        .arg(format!("--port={port}"))
        .arg(format!("--base-path={}", r.dir().display()))
        .envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory")])
        .env("GIT_CONFIG_VALUE_0", "*")
        .stderr(Stdio::null())
        .spawn()
        .expect("git daemon starts");
    let up = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    assert!(wait_until(Duration::from_secs(10), up));
    add(&case, "", &format!("git://127.0.0.1:{port}/a.git"));
    let run = case.build(&["--no-cache"]);
    daemon.kill().and_then(|()| daemon.wait()).expect("it ends");
    run.ok();
}

#[test]
fn locked_and_fetched() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    let [_, two] = sample(&r);
    let web = r.serve(None);
    let case = Case::new();
    add(&case, "", &web.url("/a.git#main"));
    let context = case.context().display().to_string();
    case.rgraph(&["lock", &context]).ok();
    let lock = fs::read_to_string(case.context().join("rgraph.lock")).expect("a lock file");
    assert!(lock.contains(&format!("git {}#main commit:{two}\n", web.url("/a.git"))), "{lock}");
    r.file("a", "f", "three\n");
    let three = r.commit("a", "three");
    let fresh = Case::new();
    for file in ["Dockerfile", "rgraph.lock"] {
        fs::copy(case.context().join(file), fresh.context().join(file)).expect("a copy");
    }
    let there = fresh.context().display().to_string();
    fresh.rgraph(&["fetch", "--locked", &there]).ok();
    web.requests();
    fresh.build(&["--locked", "--offline"]).ok();
    let path = fresh.out("image.tar");
    fresh.build(&["--locked", "-o", &format!("type=oci,dest={}", path.display())]).ok();
    assert!(web.requests().is_empty(), "a locked repository was asked");
    assert_eq!(rgraph_tests::Image::from_archive(&path).read("f"), "two\n");
    case.rgraph(&["lock", "--check", &context]).fails(1, &["rgraph.lock:5", &two, &three]);
    case.rgraph(&["lock", "--pull", &context]).ok();
    assert_eq!(text(&files(&case), "f"), "three\n");
}
