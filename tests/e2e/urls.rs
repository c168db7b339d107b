//! `ADD` of files by URL, against a server on loopback that does what servers do.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use rgraph_tests::{Answer, Case, Kind, Request, Web, need};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const DATE_SECONDS: u64 = 784_111_777;

fn sha256(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("f");
    fs::write(&path, bytes).expect("a file");
    let out = std::process::Command::new("sha256sum").arg(path).output().expect("sha256sum runs");
    String::from_utf8_lossy(&out.stdout)[..64].to_owned()
}

fn add(case: &Case, url: &str) {
    case.file("Dockerfile", format!("FROM scratch\nADD {url} /d/\n"));
}

/// With an ETag, and 304 for whoever has it.
fn tagged(r: &Request, tag: &str, body: &str) -> Answer {
    let a = if r.header("if-none-match") == tag { Answer::status(304) } else { Answer::ok(body) };
    a.header(format!("ETag: {tag}"))
}

/// LANG-67.
#[test]
fn a_file_has_name_mode_owner_and_time() {
    need!(Root);
    let web = Web::start(|_| Answer::ok("text\n").header(format!("Last-Modified: {DATE}")));
    let case = Case::new();
    case.file(
        "Dockerfile",
        format!(
            "FROM scratch\nADD {} /d/\nADD {} /new\nADD --chmod=755 --chown=3:4 {} /set\n",
            web.url("/a/file.txt?x=y"),
            web.url("/b"),
            web.url("/c"),
        ),
    );
    let image = case.image(&[]);
    let files = image.files();
    for (path, mode, owner) in
        [("d/file.txt", 0o600, (0, 0)), ("new", 0o600, (0, 0)), ("set", 0o755, (3, 4))]
    {
        let f = &files[path];
        assert_eq!(f.kind, Kind::File(b"text\n".to_vec()), "{path}");
        assert_eq!((f.mode, f.owner, f.mtime), (mode, owner, DATE_SECONDS), "{path}");
    }
}

#[test]
fn what_did_not_change_is_not_sent_again() {
    need!(Root);
    let turn = std::sync::Arc::new(AtomicUsize::new(0));
    let now = turn.clone();
    let web = Web::start(move |r| match now.load(Ordering::SeqCst) {
        0 => tagged(r, "\"one\"", "one\n"),
        // Another ETag for the same bytes, then other bytes.
        1 => tagged(r, "\"uno\"", "one\n"),
        _ => tagged(r, "\"two\"", "two\n"),
    });
    let case = Case::new();
    add(&case, &web.url("/f"));
    let first = case.build(&[]).ok();
    assert_eq!(web.requests().len(), 1);
    let second = case.build(&[]).ok();
    second.all_cached();
    let asked = web.requests();
    assert_eq!((asked.len(), asked[0].header("if-none-match")), (1, "\"one\""));
    assert_eq!(first.image(), second.image());
    for args in [&["--offline"][..], &["--pull=never"]] {
        case.build(args).ok().all_cached();
        assert!(web.requests().is_empty(), "{args:?} asked");
    }
    turn.store(1, Ordering::SeqCst);
    assert_eq!(case.build(&[]).ok().image(), first.image());
    turn.store(2, Ordering::SeqCst);
    let third = case.build(&[]).ok();
    assert_ne!(third.image(), first.image());
    let files = case.image(&[]).files();
    assert_eq!(files["d/f"].kind, Kind::File(b"two\n".to_vec()));
}

#[test]
fn a_date_is_enough_to_ask_with() {
    need!(Root);
    let web = Web::start(|r| {
        let a = match r.header("if-modified-since") {
            DATE => Answer::status(304),
            _ => Answer::ok("x"),
        };
        a.header(format!("Last-Modified: {DATE}")).header("Date: Mon, 07 Nov 1994 08:49:37 GMT")
    });
    let case = Case::new();
    add(&case, &web.url("/f"));
    case.build(&[]).ok();
    web.requests();
    case.build(&[]).ok().all_cached();
    assert_eq!(web.requests()[0].header("if-modified-since"), DATE);
}

/// LANG-68, SECU-29.
#[test]
fn checksums() {
    need!(Root);
    let web = Web::start(|_| Answer::ok("text\n"));
    let case = Case::new();
    let right = sha256(b"text\n");
    let file = |sum: &str| {
        let url = web.url("/f");
        case.file("Dockerfile", format!("FROM scratch\nADD --checksum={sum} {url} /f\n"));
    };
    let wrong = format!("sha256:{}", "0".repeat(64));
    file(&wrong);
    let got = format!("sha256:{right}");
    case.build(&[]).fails(1, &["Dockerfile:2", "checksum mismatch", &wrong, &got]);
    file(&got);
    case.build(&[]).ok();
    web.requests();
    case.build(&[]).ok().all_cached();
    assert!(web.requests().is_empty(), "a file whose content is known was asked for");
    file(&format!("sha512:{}", "0".repeat(128)));
    case.build(&[]).fails(1, &["checksum mismatch", "got sha512:"]);
}

#[test]
fn servers_that_fail() {
    need!(Root);
    let hits = AtomicUsize::new(0);
    let web = Web::start(move |r| {
        let n = hits.fetch_add(1, Ordering::SeqCst);
        match &r.line[..] {
            "GET /absent" => Answer::status(404),
            "GET /secret" => Answer::status(403),
            "GET /once" if n == 0 => Answer::status(500),
            "GET /loop" => Answer::status(302).header("Location: /loop"),
            "GET /file" => Answer::status(302).header("Location: file:///etc/passwd"),
            "GET /ftp" => Answer::status(301).header("Location: ftp://127.0.0.1/x"),
            "GET /there" => Answer::status(307).header("Location: /here?a"),
            _ => Answer::ok("whole\n"),
        }
    });
    let case = Case::new();
    add(&case, &web.url("/once"));
    case.build(&[]).ok();
    for (path, texts) in [
        ("/absent", &["404", "/absent"][..]),
        ("/secret", &["403", "HTTP_AUTH_TOKEN_127.0.0.1"]),
        ("/loop", &["more than 10 redirects"]),
        ("/file", &["only http and https are followed"]),
        ("/ftp", &["only http and https are followed"]),
        ("/%2e%2e", &["cannot be the name of a file"]),
    ] {
        add(&case, &web.url(path));
        case.build(&[]).fails(1, texts).fails(1, &["Dockerfile:2"]);
    }
    add(&case, &web.url("/there"));
    let files = case.image(&[]).files();
    assert_eq!(files["d/there"].kind, Kind::File(b"whole\n".to_vec()));

    let cut = AtomicUsize::new(0);
    let web = Web::start(move |_| match cut.fetch_add(1, Ordering::SeqCst) {
        0 => Answer { cut: Some(3), ..Answer::ok("whole\n") },
        _ => Answer::ok("whole\n"),
    });
    add(&case, &web.url("/cut"));
    let files = case.image(&[]).files();
    assert_eq!(files["d/cut"].kind, Kind::File(b"whole\n".to_vec()));
    // Nobody listens there.
    add(&case, "http://127.0.0.1:1/f");
    case.build(&[]).fails(1, &["Dockerfile:2", "127.0.0.1:1 is not reachable"]);
}

/// A header that names another file does not count: the name stands in the Dockerfile.
#[test]
fn names_are_those_of_the_url() {
    need!(Root);
    let web = Web::start(|_| {
        Answer::ok("x").header("Content-Disposition: attachment; filename=\"../../evil\"")
    });
    let case = Case::new();
    case.file(
        "Dockerfile",
        format!("FROM scratch\nADD {} /d/\nADD {} /e/\n", web.url("/a%20b"), web.url("")),
    );
    let image = case.image(&[]);
    let files = image.files();
    let names: Vec<_> = files.keys().map(String::as_str).filter(|p| p.contains('/')).collect();
    assert_eq!(names, ["d/a b", "e/__unnamed__"]);
}

/// LANG-70.
#[test]
fn secrets_go_to_their_host_alone() {
    need!(Root);
    let other = Web::start(|_| Answer::ok("x"));
    let to = other.url("/x");
    let web = Web::start(move |r| match &r.line[..] {
        "GET /away" => Answer::status(302).header(format!("Location: {to}")),
        "GET /stay" => Answer::status(302).header("Location: /f"),
        _ => Answer::ok("y"),
    });
    let case = Case::new();
    let secret = case.out("secret");
    fs::write(&secret, "t0ken\n").expect("a file");
    let src = secret.display();
    let port = web.url("/");
    let host = port.trim_start_matches("http://").trim_end_matches('/');
    for (id, want) in [
        (format!("HTTP_AUTH_TOKEN_{host}"), "Bearer t0ken"),
        ("HTTP_AUTH_TOKEN_127.0.0.1".to_owned(), "Bearer t0ken"),
        ("HTTP_AUTH_HEADER_127.0.0.1".to_owned(), "t0ken"),
    ] {
        add(&case, &web.url("/stay"));
        let flag = format!("id={id},src={src}");
        let run = case.build(&["--no-cache", "--secret", &flag]).ok();
        let asked = web.requests();
        assert!(asked.iter().all(|r| r.header("authorization") == want), "{asked:?}");
        assert!(!run.stderr.contains("t0ken"), "{}", run.stderr);
        add(&case, &web.url("/away"));
        case.build(&["--no-cache", "--secret", &flag]).ok();
        assert_eq!(web.requests()[0].header("authorization"), want);
        assert!(other.requests().iter().all(|r| r.header("authorization").is_empty()));
    }
    add(&case, &web.url("/f").replace("//", "//us%65r:pass@"));
    let run = case.build(&["--no-cache"]).ok();
    assert_eq!(web.requests()[0].header("authorization"), "Basic dXNlcjpwYXNz");
    assert!(!run.stderr.contains("downloading http://us"), "{}", run.stderr);
}

#[test]
fn archives_are_unpacked_when_asked() {
    need!(Root);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o640);
    header.set_mtime(5);
    tar.append_data(&mut header, "in/side", &b"x\n"[..]).expect("a member");
    let tar = tar.into_inner().expect("a tar");
    let web = Web::start(move |_| Answer::ok(tar.clone()));
    let case = Case::new();
    let url = web.url("/a.tar");
    case.file("Dockerfile", format!("FROM scratch\nADD {url} /p/\nADD --unpack {url} /u/\n"));
    let files = case.image(&[]).files();
    assert!(files.contains_key("p/a.tar") && !files.contains_key("p/in/side"));
    assert_eq!((files["u/in/side"].mode, files["u/in/side"].mtime), (0o640, 5));
}

#[test]
fn locked_fetched_and_offline() {
    need!(Root);
    let turn = std::sync::Arc::new(AtomicUsize::new(0));
    let now = turn.clone();
    let web = Web::start(move |_| Answer::ok(format!("{}\n", now.load(Ordering::SeqCst))));
    let case = Case::new();
    add(&case, &web.url("/f"));
    let context = case.context().display().to_string();
    case.build(&["--offline"])
        .fails(1, &["Dockerfile:2", "/f` is not in the store", "rgraph fetch"]);
    assert!(web.requests().is_empty());
    case.rgraph(&["lock", &context]).ok();
    let lock = fs::read_to_string(case.context().join("rgraph.lock")).expect("a lock file");
    let line = format!("http {} sha256:{}\n", web.url("/f"), sha256(b"0\n"));
    assert!(lock.contains(&line), "{lock}");
    // Another root: fetched, then built without a network.
    let fresh = Case::new();
    for file in ["Dockerfile", "rgraph.lock"] {
        fs::copy(case.context().join(file), fresh.context().join(file)).expect("a copy");
    }
    let there = fresh.context().display().to_string();
    fresh.rgraph(&["fetch", "--locked", &there]).ok();
    web.requests();
    fresh.build(&["--locked", "--offline"]).ok();
    fresh.build(&["--locked"]).ok().all_cached();
    assert!(web.requests().is_empty(), "a locked file was asked for");
    turn.store(1, Ordering::SeqCst);
    case.build(&["--locked"]).ok();
    case.rgraph(&["lock", &context]).ok();
    assert_eq!(fs::read_to_string(case.context().join("rgraph.lock")).expect("it"), lock);
    case.rgraph(&["lock", "--check", &context]).fails(1, &["rgraph.lock:5", "out of date"]);
    let third = Case::new();
    for file in ["Dockerfile", "rgraph.lock"] {
        fs::copy(case.context().join(file), third.context().join(file)).expect("a copy");
    }
    third.build(&["--locked"]).fails(1, &["Dockerfile:2", "rgraph.lock:5", "moved"]);
    case.rgraph(&["lock", "--pull", &context]).ok();
    case.build(&["--locked"]).ok();
    case.file("rgraph.lock", "version 1\n");
    case.build(&["--locked"]).fails(1, &["Dockerfile:2", "has no line for"]);
}

#[test]
fn an_archive_by_url_becomes_an_image() {
    need!(Root);
    let web = Web::start(|r| match &r.line[..] {
        "GET /base.tar" => Answer::ok(rgraph_tests::base_tar()),
        "GET /text" => Answer::ok("no archive\n"),
        _ => Answer::status(404),
    });
    let case = Case::new();
    let url = web.url("/base.tar");
    let run = case.rgraph(&["import", "-c", "CMD [\"cat\", \"/etc/group\"]", &url, "web:1"]).ok();
    assert!(run.text().starts_with("sha256:"), "{}", run.text());
    let out = case.rgraph(&["run", "--rm", "--network=none", "web:1"]).ok();
    assert!(out.text().starts_with("root:x:0:"), "{}", out.text());
    let comment = case.rgraph(&["history", "--format", "{{.Comment}}", "web:1"]).ok();
    assert_eq!(comment.text().trim(), format!("Imported from {url}"));
    case.rgraph(&["import", &web.url("/none"), "x"]).fails(1, &["cannot import", "404"]);
    case.rgraph(&["import", &web.url("/text"), "x"]).fails(1, &["cannot import"]);
    // A login is not told.
    let with_login = url.replace("http://", "http://user:word@");
    case.rgraph(&["import", &with_login, "web:2"]).ok();
    let told = case.rgraph(&["inspect", "web:2"]).ok();
    assert!(!told.text().contains("word"), "{}", told.text());
}
