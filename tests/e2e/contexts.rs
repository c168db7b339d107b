//! Contexts from everywhere: tars and Dockerfiles on stdin and by URL, repositories, OCI layouts.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use rgraph_tests::{Answer, Case, Ids, Image, Kind, Member, Repositories, Run, Web, need};

const DOCKERFILE: &str = "FROM scratch\nCOPY . /\n";

/// A tar with these files.
pub(crate) fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, text.as_bytes()).expect("a member");
    }
    tar.into_inner().expect("a tar")
}

fn with_stdin(case: &Case, input: &[u8], args: &[&str]) -> Run {
    let mut all = vec!["build"];
    all.extend(args);
    let mut child = case
        .command(&all)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rgraph starts");
    // One that is refused is not read to its end.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let out = child.wait_with_output().expect("it ends");
    Run {
        code: out.status.code().unwrap_or(-1),
        stdout: out.stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Builds to an archive and reads that.
fn paths(case: &Case, input: &[u8], args: &[&str]) -> Vec<String> {
    let path = case.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    let mut all = vec!["-o", &out];
    all.extend(args);
    with_stdin(case, input, &all).ok();
    let files = Image::from_archive(&path).files();
    files.iter().filter(|(_, e)| e.kind != Kind::Dir).map(|(p, _)| p.clone()).collect()
}

/// CTX-01.
#[test]
fn a_tar_on_stdin_in_every_compression() {
    need!(Root);
    let case = Case::new();
    let tar = tar_of(&[
        ("Dockerfile", DOCKERFILE),
        ("sub/f", "f\n"),
        ("hidden", "h\n"),
        (".dockerignore", "hidden\nDockerfile\n.dockerignore\n"),
        ("other/My.Dockerfile", "FROM scratch\nCOPY sub/f /other\n"),
    ]);
    let want = ["other/My.Dockerfile", "sub/f"];
    assert_eq!(paths(&case, &tar, &["-"]), want);
    for tool in ["gzip", "bzip2", "xz", "zstd"] {
        let file = case.out("x.tar");
        fs::write(&file, &tar).expect("a file");
        let packed = std::process::Command::new(tool).args(["-c", "-q"]).arg(&file).output();
        let Ok(packed) = packed else {
            rgraph_tests::shout(&format!("{tool} is not installed"));
            continue;
        };
        assert_eq!(paths(&case, &packed.stdout, &["-"]), want, "{tool}");
        // The same files, whatever they came in.
        with_stdin(&case, &packed.stdout, &["-"]).ok().all_cached();
    }
    assert_eq!(paths(&case, &tar, &["-f", "other/My.Dockerfile", "-"]), ["other"]);
    with_stdin(&case, &tar, &["-f", "none", "-"]).fails(1, &["no Dockerfile: `none`"]);
    with_stdin(&case, &tar_of(&[("x", "")]), &["-"]).fails(1, &["no Dockerfile: `Dockerfile`"]);
    assert!(case.state().keys().all(|k| !k.ends_with("/hidden")), "a context stayed");
}

#[test]
fn a_dockerfile_on_stdin() {
    need!(Root);
    let case = Case::new();
    let text = "FROM scratch\nCOPY <<EOF /f\nx\nEOF\n";
    assert_eq!(paths(&case, text.as_bytes(), &["-"]), ["f"]);
    with_stdin(&case, b"FROM scratch\nCOPY f /\n", &["-"])
        .fails(1, &["Dockerfile:2", "`/f` not found"]);
    with_stdin(&case, text.as_bytes(), &["-f", "x", "-"]).fails(1, &["--file"]);
    with_stdin(&case, b"", &["-"]).fails(1, &["Dockerfile"]);
    // With a context, and asked about only.
    case.file("g", "g\n");
    let context = case.context().display().to_string();
    assert_eq!(paths(&case, b"FROM scratch\nCOPY g /\n", &["-f", "-", &context]), ["g"]);
    with_stdin(&case, b"FROM scratch\nRUN x\n", &["--check", "-"]).ok();
}

/// CTX-04, CTX-01: links and odd members of a tar.
#[test]
fn a_tar_stays_in_its_folder() {
    need!(Root);
    let case = Case::new();
    let mut tar = tar::Builder::new(tar_of(&[]));
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut header, "out", "/etc").expect("a member");
    let mut header = tar::Header::new_gnu();
    header.set_size(13);
    header.set_mode(0o644);
    tar.append_data(&mut header, "Dockerfile", &b"FROM scratch\n"[..]).expect("a member");
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.as_gnu_mut().expect("gnu").name[..11].copy_from_slice(b"../../evil\0");
    header.set_cksum();
    tar.append(&header, &b""[..]).expect("a member");
    let tar = tar.into_inner().expect("a tar");
    let _ = with_stdin(&case, &tar[1024..], &["-"]);
    assert!(!case.dir().join("evil").exists() && !case.root().join("evil").exists());
    let plain = tar_of(&[("Dockerfile", "FROM scratch\nCOPY out/passwd /\n")]);
    with_stdin(&case, &plain, &["-"]).fails(1, &["not found"]);
}

#[test]
fn by_url() {
    need!(Root);
    let tar = tar_of(&[("Dockerfile", DOCKERFILE), ("f", "f\n")]);
    let web = Web::start(move |r| match (&r.line[..], r.header("if-none-match")) {
        (_, "\"x\"") => Answer::status(304),
        ("GET /ctx.tar", _) => Answer::ok(tar.clone()).header("ETag: \"x\""),
        ("GET /Dockerfile", _) => Answer::ok("FROM scratch\nCOPY <<EOF /here\nx\nEOF\n"),
        _ => Answer::status(404),
    });
    let case = Case::new();
    let url = web.url("/ctx.tar");
    assert_eq!(paths(&case, b"", &[&url]), ["Dockerfile", "f"]);
    with_stdin(&case, b"", &[&url]).ok().all_cached();
    with_stdin(&case, b"", &["--offline", &url]).ok().all_cached();
    assert_eq!(web.lines().len(), 2);
    assert_eq!(paths(&case, b"", &[&web.url("/Dockerfile")]), ["here"]);
    assert_eq!(paths(&case, b"FROM scratch\nCOPY f /g\n", &["-f", "-", &url]), ["g"]);
    with_stdin(&case, b"", &[&web.url("/none")]).fails(1, &["cannot load the context", "404"]);
    // As a named context, the file itself.
    let named = format!("c={url}");
    let text = b"FROM scratch\nCOPY --from=c context /c.tar\n";
    assert_eq!(paths(&case, text, &["--build-context", &named, "-"]), ["c.tar"]);
}

#[test]
fn by_git() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    r.file("a", "Dockerfile", DOCKERFILE).file("a", "f", "f\n").file(
        "a",
        ".dockerignore",
        "Dockerfile\n.dockerignore\n",
    );
    r.file("a", "sub/Dockerfile", DOCKERFILE).file("a", "sub/g", "g\n");
    r.commit("a", "x");
    let web = r.serve(None);
    let case = Case::new();
    let url = web.url("/a.git");
    assert_eq!(paths(&case, b"", &[&url]), ["f", "sub/Dockerfile", "sub/g"]);
    with_stdin(&case, b"", &[&url]).ok().all_cached();
    with_stdin(&case, b"", &["--offline", &url]).ok().all_cached();
    assert_eq!(paths(&case, b"", &[&format!("{url}#main:sub")]), ["Dockerfile", "g"]);
    assert_eq!(paths(&case, b"", &[&format!("{url}?branch=main&subdir=sub")]), ["Dockerfile", "g"]);
    assert_eq!(
        paths(&case, b"", &["-f", "sub/Dockerfile", &url]),
        ["f", "sub/Dockerfile", "sub/g"]
    );
    with_stdin(&case, b"", &[&format!("{url}#none")])
        .fails(1, &["cannot load the context", "none"]);
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    let all = paths(&case, b"", &[keep[0], keep[1], &url]);
    assert!(all.contains(&".git/HEAD".to_owned()), "{all:?}");
    let named = format!("c={url}#main:sub");
    let text = b"FROM scratch\nCOPY --from=c g /\n";
    assert_eq!(paths(&case, text, &["--build-context", &named, "-"]), ["g"]);
    // The lock file knows it.
    let lock = case.rgraph(&["lock", "-o", "-", &url]).ok();
    assert!(lock.text().contains(&format!("git {url} commit:")), "{}", lock.text());
}

/// The same files by tar, by git and in a folder are the same steps. `RGRAPH_CONTEXT_FILES=50000` is
/// the size that was asked for.
#[test]
fn all_ways_have_the_same_digests() {
    need!(Root, Tool("git"));
    let case = Case::new();
    let r = Repositories::new();
    let files: Vec<(String, String)> = (0..rgraph_tests::setting("RGRAPH_CONTEXT_FILES", 300))
        .map(|n| (format!("d{}/e{}/f{n}", n % 7, n % 211), format!("{n}\n")))
        .collect();
    let mut list = vec![("Dockerfile", "FROM scratch\nCOPY . /all\n")];
    list.extend(files.iter().map(|(p, t)| (p.as_str(), t.as_str())));
    for (path, text) in &list {
        r.file("a", path, text);
        case.file(path, text);
    }
    r.commit("a", "x");
    let web = r.serve(None);
    let tar = tar_of(&list);
    let url = web.url("/a.git");
    let digest = |run: Run, way: &str| {
        let name = format!("{way}.json");
        let text = fs::read_to_string(case.out(&name)).expect("facts");
        let facts: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        (facts["containerimage.config.digest"].clone(), run)
    };
    // Each way is the first once, in a store of its own.
    let by_folder = || digest(case.build(&["--metadata-file=folder.json"]).ok(), "folder").0;
    let by_tar = || {
        let run = with_stdin(&case, &tar, &["--metadata-file=tar.json", "-"]).ok();
        run.all_cached();
        digest(run, "tar").0
    };
    let by_git = || {
        let run = with_stdin(&case, b"", &["--metadata-file=git.json", &url]).ok();
        run.all_cached();
        digest(run, "git").0
    };
    let first = by_folder();
    assert_eq!((by_tar(), by_git()), (first.clone(), first));
}

/// CTX-02.
#[test]
fn oci_layouts_as_bases() {
    need!(Root);
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE\nRUN echo made > /made\nENV GREETS=yes\n");
    let layout = maker.out("layout");
    let dest = format!("type=oci,tar=false,dest={},name=x/y:v1", layout.display());
    maker.build(&["-o", &dest]).ok();
    let index = fs::read_to_string(layout.join("index.json")).expect("an index");
    let digest = index.split("\"digest\":\"").nth(1).expect("a digest")[..71].to_owned();
    let case = Case::new();
    case.file("Dockerfile", "FROM base\nRUN cat /made; echo $GREETS\n");
    for end in [String::new(), ":v1".into(), format!("@{digest}"), format!(":v1@{digest}")] {
        let flag = format!("base=oci-layout://{}{end}", layout.display());
        let run = case.build(&["--no-cache", "--build-context", &flag]).ok();
        assert!(run.stderr.contains(" made\n") && run.stderr.contains(" yes\n"), "{}", run.stderr);
        case.build(&["--build-context", &flag]).ok().all_cached();
    }
    let flag = |end: &str| format!("base=oci-layout://{}{end}", layout.display());
    case.build(&["--build-context", &flag(":none")]).fails(1, &["Dockerfile:1", "`none`", "v1"]);
    case.build(&["--build-context", &flag("/none")]).fails(1, &["Dockerfile:1", "OCI layout"]);
    // A blob that is not what it is called.
    let blobs = layout.join("blobs/sha256");
    let largest = fs::read_dir(&blobs)
        .expect("blobs")
        .flatten()
        .max_by_key(|e| e.metadata().expect("it").len());
    fs::write(largest.expect("a blob").path(), "x").expect("a file");
    let other = Case::new();
    other.file("Dockerfile", "FROM base\nRUN true\n");
    other.build(&["--build-context", &flag("")]).fails(1, &["Dockerfile:1", "OCI layout"]);
}

/// CTX-03: a Dockerfile that lies elsewhere brings its own ignore file along.
#[test]
fn the_ignore_file_of_a_dockerfile_elsewhere() {
    need!(Root);
    let case = Case::new();
    case.file("a", "").file("b", "").file(".dockerignore", "a\n");
    fs::write(case.out("Other.Dockerfile"), DOCKERFILE).expect("a file");
    let file = case.out("Other.Dockerfile").display().to_string();
    let seen = || {
        let files = case.image(&["-f", &file]).files();
        let names = files.into_iter().filter(|(_, e)| e.kind != Kind::Dir).map(|(p, _)| p);
        names.collect::<Vec<_>>()
    };
    assert_eq!(seen(), [".dockerignore", "b"]);
    fs::write(case.out("Other.Dockerfile.dockerignore"), "b\n.dockerignore\n").expect("a file");
    assert_eq!(seen(), ["a"]);
}

/// CTX-02.
#[test]
fn stages_that_stand_on_themselves() {
    let case = Case::new();
    case.file(
        "Dockerfile",
        "FROM scratch AS one\nCOPY --from=two /f /\nFROM one AS two\nCOPY Dockerfile /f\n",
    );
    case.build(&["--build-context", "two=target:one"]).fails(1, &["Dockerfile:", "one"]);
    case.build(&["--build-context", "one=target:one"]).fails(1, &["one"]);
    case.build(&["--build-context", "one=target:tow"]).fails(1, &["tow"]);
}

/// CTX-07.
#[test]
fn what_a_context_holds() {
    let case = Case::new();
    case.file("big/deep/blob", vec![0; 3 << 20])
        .file("small", "x")
        .file("node_modules/a/b", "12345");
    case.file("keep/a.log", "1234").file("keep/b.log", "1");
    case.file(".dockerignore", "# rules\nnode_modules\n*/*.log\n!keep/b.log\n");
    let context = case.context().display().to_string();
    let run = case.rgraph(&["context", "ls", &context]).ok();
    let text = run.text();
    for part in ["big/deep/blob", ".dockerignore:2: node_modules", ".dockerignore:3: */*.log"] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
    assert!(!text.contains("big/deep/\n") && !text.contains("a.log"), "{text}");
    let help = "help: the line `big/deep/blob` at the end of .dockerignore leaves out 99 %";
    assert!(run.stderr.contains(help), "{}", run.stderr);
    let json = case.rgraph(&["context", "ls", "--format", "json", &context]).ok();
    let json: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    assert_eq!(json["files"], 4, "{json}");
    assert_eq!(json["largest"][0]["bytes"], 3 << 20);
    let hidden: Vec<_> =
        json["hidden"].as_array().expect("a list").iter().map(|h| h["bytes"].clone()).collect();
    assert_eq!(hidden, [5, 4]);
    assert_eq!(json["proposed"], serde_json::json!({"line": "big/deep/blob", "percent": 99}));
    // What is proposed does what it says.
    case.file(".dockerignore", "node_modules\n*/*.log\nbig/deep/blob\n");
    let json = case.rgraph(&["context", "ls", "--format", "json", &context]).ok();
    let json: serde_json::Value = serde_json::from_str(json.text()).expect("JSON");
    assert_eq!(
        (&json["files"], &json["proposed"]),
        (&2.into(), &serde_json::Value::Null),
        "{json}"
    );
    let rule = &json["hidden"][2];
    assert_eq!(
        (&rule["line"], &rule["rule"], &rule["bytes"]),
        (&3.into(), &"big/deep/blob".into(), &(3 << 20).into())
    );
    // The Dockerfile's own ignore file wins.
    case.file("Dockerfile.dockerignore", "big\n");
    let own = case.rgraph(&["context", "ls", &context]).ok();
    assert!(own.text().contains("Dockerfile.dockerignore:1: big"), "{}", own.text());
    case.rgraph(&["context", "ls", "/nonexistent"]).fails(1, &["/nonexistent"]);
    case.rgraph(&["context", "ls", "-"]).fails(2, &["only a folder"]);
}

/// A folder that only others may open is passed over when it is hidden; what a build fails on is an error.
#[test]
fn a_hidden_folder_that_cannot_be_opened() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    let case = Case::new().of_user(Ids::One);
    // Root's: what is the user's own a build opens whatever its mode says.
    let dir = tempfile::tempdir().expect("a folder");
    let (context, closed) = (dir.path().display().to_string(), dir.path().join("closed"));
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("a file");
    fs::create_dir(&closed).expect("a folder");
    write("closed/f", "f");
    write("Dockerfile", DOCKERFILE);
    mode(dir.path(), 0o755).expect("our folder");
    mode(&closed, 0o700).expect("our folder");
    for (rules, code) in
        [("closed\n", 0), ("", 1), ("closed\n!closed/f\n", 1), ("closed\n!other\n", 0)]
    {
        write(".dockerignore", rules);
        let run = case.rgraph(&["context", "ls", &context]);
        assert_eq!(run.code, code, "{rules:?}: {}", run.stderr);
        assert_eq!(run.stderr.contains("closed`"), code == 1, "{rules:?}: {}", run.stderr);
        let build = case.rgraph(&["build", &context]);
        match code {
            0 => drop(build.ok()),
            _ => drop(build.fails(1, &["closed`"])),
        }
    }
}

/// `SOURCE_DATE_EPOCH` of a name: a repository's commit, a file's date, else nothing.
#[test]
fn the_time_of_a_context() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    r.file("a", "Dockerfile", "FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL at=$SOURCE_DATE_EPOCH\n");
    r.commit("a", "one");
    let repository = r.serve(None);
    let committed = r.git("a", &["log", "-1", "--format=%ct"]).trim().to_owned();
    let dockerfile = Member::File("Dockerfile", b"FROM scratch\nCOPY Dockerfile /\n");
    let tar = rgraph_tests::tar_of(&[dockerfile]);
    let piped = tar.clone();
    let web = Web::start(move |q| match q.line.as_str() {
        "GET /dated.tar" => {
            Answer::ok(tar.clone()).header("Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT")
        }
        _ => Answer::ok(tar.clone()),
    });
    let case = Case::new();
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=context";
    let created = |name: &str| {
        let time = case.rgraph(&["inspect", "--format", "{{.Created}}", name]).ok();
        let args = ["-u", "+%s", "-d", time.text().trim()];
        let seconds = std::process::Command::new("date").args(args).output().expect("date runs");
        String::from_utf8_lossy(&seconds.stdout).trim().to_owned()
    };
    let url = |name: &str| web.url(name);
    case.rgraph(&["build", "-t", "git", epoch, &repository.url("/a.git")]).ok();
    assert_eq!(created("git"), committed);
    let label = case.rgraph(&["inspect", "--format", "{{index .Config.Labels \"at\"}}", "git"]);
    assert_eq!(label.ok().text().trim(), committed);
    case.rgraph(&["build", "-t", "dated", epoch, &url("/dated.tar")]).ok();
    assert_eq!(created("dated"), "1445412480");
    // The newest file in it; what `tar_of` makes has one time.
    case.rgraph(&["build", "-t", "undated", epoch, &url("/undated.tar")]).ok();
    assert_eq!(created("undated"), "1700000000");
    with_stdin(&case, &piped, &["-t", "piped", epoch, "-"]).ok();
    assert_eq!(created("piped"), "1700000000");
    // A folder has none.
    case.dockerfile("FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL at=\"[$SOURCE_DATE_EPOCH]\"\n");
    case.build(&["-t", "folder", epoch]).ok();
    let label = case.rgraph(&["inspect", "--format", "{{index .Config.Labels \"at\"}}", "folder"]);
    assert_eq!(label.ok().text().trim(), "[]");
    // A stage, a named context, and what the file itself says.
    let stage =
        format!("FROM scratch AS source\nADD {} /\nFROM scratch\nLABEL a=b\n", url("/dated.tar"));
    case.dockerfile(&stage);
    case.build(&["-t", "stage", "--build-arg=SOURCE_DATE_EPOCH=source"]).ok();
    assert_eq!(created("stage"), "1445412480");
    case.dockerfile("ARG SOURCE_DATE_EPOCH=there\nFROM scratch\nLABEL a=b\n");
    let named = format!("there={}", repository.url("/a.git"));
    case.build(&["-t", "named", "--build-context", &named]).ok();
    assert_eq!(created("named"), committed);
    case.dockerfile("ARG SOURCE_DATE_EPOCH=1000000000\nFROM scratch\nLABEL a=b\n");
    case.build(&["-t", "plain"]).ok();
    assert_eq!(created("plain"), "1000000000");
    case.build(&["--build-arg=SOURCE_DATE_EPOCH=nowhere"])
        .fails(1, &["invalid SOURCE_DATE_EPOCH: nowhere"]);
}

/// What a context of its own holds is a layer when something stands on it, or nothing does.
#[test]
fn contexts_of_their_own_are_bases() {
    need!(Root);
    let case = Case::with_base();
    let dir = case.out("basis");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/f"), "basis\n").unwrap();
    case.file("g", "g\n");
    let named = format!("docker.io/library/basis:latest={}", dir.display());
    for (n, text) in [
        "FROM basis\n",
        "FROM basis\nCOPY g /g\n",
        "FROM basis\nCOPY --from=BASE /bin /bin\nRUN echo x > /x\n",
        "FROM BASE AS basis\nRUN false\nFROM basis AS end\nCOPY g /g\n",
    ]
    .iter()
    .enumerate()
    {
        case.dockerfile(text);
        let out = case.out(&format!("i{n}.tar"));
        let dest = format!("type=oci,dest={}", out.display());
        case.build(&["--build-context", &named, "-o", &dest]).ok();
        let image = Image::from_archive(&out);
        assert_eq!(image.read("sub/f"), "basis\n", "{text}");
        assert_eq!(
            image.layers.len(),
            text.matches("COPY").count() + text.matches("RUN e").count() + 1
        );
        case.build(&["--build-context", &named, "-t", "made"]).ok();
        let tree = case.out(&format!("t{n}"));
        let dest = format!("type=local,dest={}", tree.display());
        case.build(&["--build-context", &named, "-o", &dest]).ok();
        assert_eq!(std::fs::read_to_string(tree.join("sub/f")).unwrap(), "basis\n", "{text}");
    }
}
