//! Files, contexts and repositories from a server that others wrote: Debian's nginx. What no real
//! server can be made to do is in `urls`.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rgraph_tests::{
    Answer, Case, Image, Kind, Member, Nginx, Repositories, Run, Web, need, tar_of, wait_until,
};

const DAY: u64 = 784_111_777;

fn add(case: &Case, url: &str) {
    case.file("Dockerfile", format!("FROM scratch\nADD {url} /d/\n"));
}

fn text(image: &Image, path: &str) -> String {
    match image.files().get(path).map(|e| e.kind.clone()) {
        Some(Kind::File(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("{path}: {other:?}"),
    }
}

/// Fails unless there is one error, and it says all that.
#[track_caller]
fn one_error(run: Run, texts: &[&str]) {
    let run = run.fails(1, texts);
    let count = run.stderr.lines().filter(|l| l.starts_with("error")).count();
    assert_eq!(count, 1, "{}", run.stderr);
}

/// LANG-67: `ETag` and `Last-Modified` as nginx gives them.
#[test]
fn a_file_is_sent_once() {
    need!(Root, Tool("nginx"));
    // It would pack whatever it may.
    let nginx = Nginx::start("gzip on;\ngzip_min_length 1;\ngzip_types *;", "");
    nginx.file("f.txt", "one\n", DAY);
    let case = Case::new();
    add(&case, &nginx.url("/f.txt?x=y"));
    let first = case.build(&[]).ok();
    assert_eq!(nginx.lines(), ["GET /f.txt?x=y 200 4"]);
    let second = case.build(&[]).ok();
    second.all_cached();
    assert_eq!(nginx.lines(), ["GET /f.txt?x=y 304 0"]);
    assert_eq!(first.image(), second.image());
    case.build(&["--offline"]).ok().all_cached();
    assert!(nginx.lines().is_empty());
    let image = case.image(&[]);
    assert_eq!((text(&image, "d/f.txt"), image.files()["d/f.txt"].mtime), ("one\n".into(), DAY));
    // Other bytes of the same length, changed later.
    nginx.lines();
    nginx.file("f.txt", "two\n", DAY + 60);
    assert_ne!(case.build(&[]).ok().image(), first.image());
    assert_eq!(nginx.lines(), ["GET /f.txt?x=y 200 4"]);
    let image = case.image(&[]);
    assert_eq!(
        (text(&image, "d/f.txt"), image.files()["d/f.txt"].mtime),
        ("two\n".into(), DAY + 60)
    );
    assert_eq!(nginx.lines(), ["GET /f.txt?x=y 304 0"]);
    // And back: the server says again what it said first, and so it is what was built first.
    nginx.file("f.txt", "one\n", DAY);
    assert_eq!(case.build(&[]).ok().image(), first.image());
    assert_eq!(nginx.lines(), ["GET /f.txt?x=y 200 4"]);
}

/// `Last-Modified` alone, as where several servers share a name.
#[test]
fn a_date_is_enough() {
    need!(Root, Tool("nginx"));
    let nginx = Nginx::start("", "etag off;");
    nginx.file("f", "one\n", DAY);
    let case = Case::new();
    add(&case, &nginx.url("/f"));
    case.build(&[]).ok();
    case.build(&[]).ok().all_cached();
    assert_eq!(nginx.lines(), ["GET /f 200 4", "GET /f 304 0"]);
    // An older file is another file: nginx compares dates for equality.
    nginx.file("f", "old\n", DAY - 60);
    assert_eq!(text(&case.image(&[]), "d/f"), "old\n");
    assert_eq!(nginx.lines(), ["GET /f 200 4"]);
}

fn context(f: &[u8]) -> Vec<u8> {
    tar_of(&[Member::File("Dockerfile", b"FROM scratch\nCOPY f /g\n"), Member::File("f", f)])
}

/// CTX-09.
#[test]
fn a_context_is_sent_once() {
    need!(Root, Tool("nginx"));
    let nginx = Nginx::start("", "");
    let tar = context(b"one\n");
    let sent = format!("200 {}", tar.len());
    nginx.file("ctx.tar", &tar, DAY);
    let case = Case::new();
    let url = nginx.url("/ctx.tar");
    let build = || case.rgraph(&["build", "--progress=plain", &url]);
    let first = build().ok();
    assert_eq!(nginx.lines(), [format!("GET /ctx.tar {sent}")]);
    let second = build().ok();
    second.all_cached();
    assert_eq!(first.image(), second.image());
    assert_eq!(nginx.lines(), ["GET /ctx.tar 304 0"]);
    let tar = context(b"two\n");
    nginx.file("ctx.tar", &tar, DAY + 60);
    assert_ne!(build().ok().image(), first.image());
    assert_eq!(nginx.lines(), [format!("GET /ctx.tar {sent}")]);
    let absent = case.rgraph(&["build", &nginx.url("/none.tar")]);
    one_error(absent, &["cannot load the context", "404", "/none.tar"]);
    // A page in place of a tar is taken for a Dockerfile, and is none.
    nginx.file("index.html", "<html>\n", DAY);
    case.rgraph(&["build", &nginx.url("/")]).fails(1, &["error"]);
}

#[test]
fn what_goes_wrong_is_one_error() {
    need!(Root, Tool("nginx"));
    let mut nginx = Nginx::start(
        "",
        "location = /loop { return 302 /loop; }\n\
         location = /here { return 301 /there; }\n\
         location = /there { return 308 /here; }\n\
         location = /moved { return 301 /page; }\n\
         location = /denied { deny all; }\n\
         location = /gone { return 410; }",
    );
    nginx.file("page/index.html", "page\n", DAY);
    nginx.file("bare/f", "", DAY);
    let case = Case::new();
    for (path, texts) in [
        ("/absent", &["404", "/absent"][..]),
        ("/gone", &["410", "/gone"]),
        ("/denied", &["403", "/denied", "HTTP_AUTH_TOKEN_127.0.0.1"]),
        // A folder that has no page.
        ("/bare/", &["403", "/bare/"]),
        ("/loop", &["/loop", "more than 10 redirects"]),
        ("/here", &["/here", "more than 10 redirects"]),
    ] {
        add(&case, &nginx.url(path));
        let run = case.build(&[]).fails(1, &["Dockerfile:2"]);
        one_error(run, texts);
        assert!(nginx.lines().len() <= 11, "{path} was asked for again and again");
    }
    // To another path, from there to the folder's own URL, and from there to its page.
    add(&case, &nginx.url("/moved"));
    assert_eq!(text(&case.image(&[]), "d/moved"), "page\n");
    let want = ["GET /moved 301 ", "GET /page 301 ", "GET /page/ 200 5"];
    let lines = nginx.lines();
    assert!(lines.len() == 3 && lines.iter().zip(want).all(|(l, w)| l.starts_with(w)), "{lines:?}");
    // It went away.
    nginx.stop();
    one_error(case.build(&[]), &["Dockerfile:2", "/moved", "is not reachable"]);
    case.build(&["--offline"]).ok().all_cached();
}

/// A server that has too much to do, and one whose own server breaks off.
#[test]
fn what_may_pass_is_tried_again() {
    need!(Root, Tool("nginx"));
    let whole = "0123456789".repeat(2000);
    let (body, hits) = (whole.clone(), AtomicUsize::new(0));
    let behind = Web::start(move |r| match &r.line[..] {
        "GET /cut" if hits.fetch_add(1, Ordering::SeqCst) == 0 => {
            Answer { cut: Some(15_000), ..Answer::ok(body.clone()) }
        }
        "GET /stream" => Answer { unmeasured: true, ..Answer::ok(body.clone()) },
        _ => Answer::ok(body.clone()),
    });
    let proxy =
        format!("proxy_http_version 1.1; proxy_pass {};", behind.url("").trim_end_matches('/'));
    let nginx = Nginx::start(
        "limit_req_zone $binary_remote_addr zone=few:1m rate=30r/m;",
        &format!(
            "location /few/ {{ limit_req zone=few; }}\n\
             location = /cut {{ {proxy} }}\n\
             location = /stream {{ {proxy} }}"
        ),
    );
    // One request in two seconds: of two at once one is told 503.
    for name in ["few/a", "few/b"] {
        nginx.file(name, name, DAY);
    }
    let case = Case::new();
    case.file(
        "Dockerfile",
        format!("FROM scratch\nADD {} /\nADD {} /\n", nginx.url("/few/a"), nginx.url("/few/b")),
    );
    let image = case.image(&[]);
    assert_eq!((text(&image, "a"), text(&image, "b")), ("few/a".into(), "few/b".into()));
    let lines = nginx.lines();
    let count = |what: &str| lines.iter().filter(|l| l.contains(what)).count();
    assert_eq!(count(" 200 "), 2, "{lines:?}");
    assert!((1..=5).contains(&count(" 503 ")), "{lines:?}");
    // Cut, then whole. It may be another file by then: the second answer is a whole one.
    add(&case, &nginx.url("/cut"));
    assert_eq!(text(&case.image(&[]), "d/cut"), whole);
    assert_eq!(nginx.lines(), ["GET /cut 200 15000", "GET /cut 200 20000"]);
    // In chunks, of no known length.
    add(&case, &nginx.url("/stream"));
    assert_eq!(text(&case.image(&[]), "d/stream"), whole);
    assert_eq!(nginx.lines().len(), 1);
}

/// A process that is ended when the test is.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or(());
    }
}

fn repository() -> Repositories {
    let r = Repositories::new();
    r.file("a", "f", "one\n").file("a", "sub/Dockerfile", "FROM scratch\nCOPY g /\n");
    r.file("a", "sub/g", "g\n").commit("a", "one");
    r.git("a", &["tag", "-a", "v1", "-m", "one"]);
    r.file("a", "f", "two\n").commit("a", "two");
    r
}

/// As `ADD` and as context.
fn takes_a_repository(nginx: &Nginx, r: &Repositories) {
    let case = Case::new();
    let url = nginx.url("/a.git");
    for (end, want) in [("", "two\n"), ("#v1", "one\n")] {
        add(&case, &format!("{url}{end}"));
        assert_eq!(text(&case.image(&[]), "d/f"), want, "{end}");
    }
    case.build(&[]).ok().all_cached();
    let context = format!("{url}#main:sub");
    let build = || case.rgraph(&["build", "--progress=plain", &context]).ok();
    let first = build();
    build().all_cached();
    r.file("a", "sub/g", "other\n").commit("a", "three");
    assert_ne!(build().image(), first.image());
    add(&case, &nginx.url("/none.git"));
    one_error(case.build(&[]), &["Dockerfile:2", "none.git"]);
}

/// `git update-server-info` and a server of files.
#[test]
fn a_repository_of_files() {
    need!(Root, Tool("git"), Tool("nginx"));
    let r = repository();
    let nginx = Nginx::start(
        "",
        &format!("location ~ ^/a.git/(.*)$ {{ alias {}/.git/$1; }}", r.at("a").display()),
    );
    takes_a_repository(&nginx, &r);
    let lines = nginx.lines();
    assert!(lines.iter().any(|l| l.contains("/objects/")), "{lines:?}");
}

/// `git http-backend` by FastCGI, as administrators set it up.
#[test]
fn a_repository_by_git_itself() {
    need!(Root, Tool("git"), Tool("nginx"), Tool("fcgiwrap"));
    let r = repository();
    let socket = r.dir().join("fcgi");
    let wrap = Command::new("fcgiwrap")
        .arg("-s")
        .arg(format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _wrap = Ends(wrap.expect("fcgiwrap starts"));
    assert!(wait_until(Duration::from_secs(10), || socket.exists()));
    let programs = Command::new("git").arg("--exec-path").output().expect("git runs").stdout;
    let programs = String::from_utf8_lossy(&programs).trim().to_owned();
    let params: String = [
        ("SCRIPT_FILENAME", format!("{programs}/git-http-backend")),
        ("GIT_PROJECT_ROOT", r.dir().display().to_string()),
        ("GIT_HTTP_EXPORT_ALL", "1".into()),
        ("GIT_PROTOCOL", "$http_git_protocol".into()),
        ("GIT_CONFIG_COUNT", "1".into()),
        ("GIT_CONFIG_KEY_0", "safe.directory".into()),
        ("GIT_CONFIG_VALUE_0", "*".into()),
        ("PATH_INFO", "$uri".into()),
        ("QUERY_STRING", "$query_string".into()),
        ("REQUEST_METHOD", "$request_method".into()),
        ("CONTENT_TYPE", "$content_type".into()),
        ("CONTENT_LENGTH", "$content_length".into()),
    ]
    .map(|(name, value)| format!("fastcgi_param {name} \"{value}\";\n"))
    .concat();
    let pass = format!("fastcgi_pass unix:{};\n{params}", socket.display());
    let nginx = Nginx::start("", &format!("location ~ \\.git/ {{\n{pass}}}"));
    takes_a_repository(&nginx, &r);
    let lines = nginx.lines();
    assert!(lines.iter().any(|l| l.starts_with("POST /a.git/git-upload-pack 200")), "{lines:?}");
    fs::remove_file(&socket).expect("the socket");
}
