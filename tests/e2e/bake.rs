//! `rgraph bake`, and several `--target` of one build: many builds, one graph.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use rgraph_tests::{Access, Answer, Case, Image, Registry, Repositories, Run, Web, need};

fn with(files: &[(&str, &str)]) -> Case {
    let case = Case::with_base();
    write(&case, files);
    case
}

fn write(case: &Case, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = case.out(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text.replace("BASE", rgraph_tests::BASE)).expect("a file");
    }
}

fn bake(case: &Case, args: &[&str]) -> Run {
    let mut all = vec!["bake", "--progress=plain"];
    all.extend(args);
    case.rgraph(&all)
}

const LINKED: &str = r#"
variable "WORD" { default = "hello" }
group "default" { targets = ["app", "tool"] }
target "base" {
  context = "base"
  args = { WORD = WORD }
  labels = { of = "base" }
}
target "tool" {
  context = "tool"
  contexts = { lib = "target:base" }
  output = ["type=oci,dest=tool.tar"]
}
target "app" {
  context = "app"
  dockerfile-inline = <<EOT
FROM lib AS own
RUN echo app >> /word
FROM own
COPY --from=tools /made /made
COPY mine /mine
EOT
  contexts = { lib = "target:base", tools = "target:tool" }
  output = ["type=oci,dest=app.tar"]
  tags = ["app:1"]
}
"#;

fn linked() -> Case {
    with(&[
        ("docker-bake.hcl", LINKED),
        (
            "base/Dockerfile",
            "FROM BASE\nARG WORD\nENV KEPT=$WORD\nRUN echo $WORD > /word; cat /proc/sys/kernel/random/uuid > /id\nCOPY own /from-base\n",
        ),
        ("base/own", "base's\n"),
        ("tool/Dockerfile", "FROM lib\nCOPY own /from-tool\nRUN cat /id /from-tool > /made\n"),
        ("tool/own", "tool's\n"),
        ("app/mine", "app's\n"),
    ])
}

#[test]
fn targets_stand_on_each_other() {
    need!(Root);
    let case = linked();
    let run = bake(&case, &["--metadata-file=m.json"]).ok();
    let shared = run.steps().keys().filter(|s| s.contains("> /word; cat")).count();
    assert_eq!(shared, 1, "{}", run.stderr);
    assert_eq!(run.step("[base 2/3]"), "DONE");
    let (app, tool) =
        (Image::from_archive(&case.out("app.tar")), Image::from_archive(&case.out("tool.tar")));
    assert_eq!(app.read("word"), "hello\napp\n");
    assert_eq!((app.read("from-base"), app.read("mine")), ("base's\n".into(), "app's\n".into()));
    // The two contexts are both called `context`, and are two folders.
    assert_eq!(tool.read("from-tool"), "tool's\n");
    let id = app.read("id");
    assert_eq!(app.read("made"), format!("{id}tool's\n"));
    assert_eq!(tool.read("id"), id, "the base was built twice");
    // The settings of what it stands on hold.
    let config = &app.config["config"];
    assert!(config["Env"].to_string().contains("KEPT=hello"), "{config}");
    assert_eq!(config["Labels"]["of"], "base");
    let facts: serde_json::Value =
        serde_json::from_slice(&fs::read(case.out("m.json")).expect("facts")).expect("JSON");
    assert_eq!(facts["app"]["image.name"], "docker.io/library/app:1");
    assert!(facts["tool"]["containerimage.digest"].is_string() && facts["base"].is_null());
    bake(&case, &[]).ok().all_cached();

    // Set from outside: by variable, by the environment, by attribute.
    bake(&case, &["--var", "WORD=other", "app"]).ok();
    assert_eq!(Image::from_archive(&case.out("app.tar")).read("word"), "other\napp\n");
    bake(&case, &["--set", "base.args.WORD=third", "--set", "*.output=type=cacheonly"]).ok();
    bake(&case, &["--set", "base.args.WORD=third", "app"]).ok().all_cached();
    assert_eq!(Image::from_archive(&case.out("app.tar")).read("word"), "third\napp\n");
}

/// `--call`: with names above text; JSON is one document, whatever the number of targets.
#[test]
fn what_is_asked_of_targets() {
    let case = linked();
    let text = bake(&case, &["--call=targets", "base"]).ok();
    assert!(text.text().starts_with("base\n\nTARGET"), "{}", text.text());
    let json = |run: Run| -> serde_json::Value {
        serde_json::from_str(run.text()).unwrap_or_else(|e| panic!("{e}: {}", run.text()))
    };
    let one = json(bake(&case, &["--call=targets,format=json", "base"]).ok());
    assert_eq!(one["targets"][0]["base"], rgraph_tests::BASE, "{one}");
    let all = json(bake(&case, &["--call=outline,format=json"]).ok());
    assert!(all["app"]["sources"].is_array() && all["tool"]["sources"].is_array(), "{all}");
    assert_eq!(all.as_object().map(serde_json::Map::len), Some(2), "{all}");
    // A finding is the exit code, and is told beside what has none.
    write(&case, &[("tool/Dockerfile", "FROM lib AS Up\nCOPY own /from-tool\n")]);
    let found = bake(&case, &["--call=check,format=json"]);
    assert_eq!(found.code, 1, "{}", found.stderr);
    let found = json(found);
    assert!(found["tool"]["warnings"][0].is_object() && found["app"].is_object(), "{found}");
}

#[test]
fn a_failing_target_is_named() {
    need!(Root);
    let case = linked();
    write(&case, &[("tool/Dockerfile", "FROM lib\nRUN exit 7\n")]);
    bake(&case, &[]).fails(1, &["[tool 1/1] RUN exit 7", "exit code: 7", "Dockerfile:2"]);
    write(&case, &[("tool/Dockerfile", "FROM nothing-such AS x\nFRM lib\n")]);
    bake(&case, &[]).fails(1, &["FRM"]);
    write(&case, &[("tool/Dockerfile", "FROM lib\nCOPY gone /\n")]);
    bake(&case, &[]).fails(1, &["`/gone` not found"]);
    bake(&case, &["ap"]).fails(1, &["no target `ap`", "did you mean `app`?"]);
    bake(&case, &["-f", "none.hcl"]).fails(1, &["no bake file `none.hcl`"]);
    bake(&case, &["--set", "app.nope=1"]).fails(2, &["unknown key `nope`"]);
    let twice = "target \"m\" {\n name = \"m-${lower(v)}\"\n matrix = { v = [\"a\", \"A\"] }\n}\n";
    write(&case, &[("twice.hcl", twice)]);
    bake(&case, &["-f", "twice.hcl"]).fails(1, &["twice.hcl:1", "the name `m-a` twice"]);
}

/// Steps that are shared run once, whatever the number of targets, and targets do not wait for each
/// other: each ends when all twenty have begun.
#[test]
fn twenty_targets_share_a_base() {
    need!(Root);
    let mut hcl = String::from(
        "target \"base\" {\n dockerfile-inline = <<E\nFROM BASE\nRUN cat /proc/sys/kernel/random/uuid > /id\nE\n}\n\
         group \"default\" { targets = [for n in range(20) : \"t${n}\"] }\n",
    );
    for n in 0..20 {
        write!(
            hcl,
            "target \"t{n}\" {{\n contexts = {{ base = \"target:base\" }}\n output = [\"out/{n}\"]\n dockerfile-inline = <<E\n\
             FROM base AS made\nRUN --mount=type=cache,target=/all echo {n} > /own; touch /all/{n}; \
             timeout 100 sh -c 'until test $(ls /all | wc -l) = 20; do sleep 0.1; done'\n\
             FROM scratch\nCOPY --from=made /id /own /\nE\n}}\n"
        )
        .expect("a String");
    }
    let case = with(&[("docker-bake.hcl", &hcl)]);
    let run = bake(&case, &["--jobs=20"]).ok();
    let ran = |what: &str| run.steps().keys().filter(|s| s.contains(what)).count();
    assert_eq!((ran("kernel/random"), ran("touch /all")), (1, 20), "{}", run.stderr);
    let mut ids = BTreeSet::new();
    for n in 0..20 {
        let read = |f: &str| fs::read_to_string(case.out(&format!("out/{n}/{f}"))).expect("a file");
        ids.insert(read("id"));
        assert_eq!(read("own"), format!("{n}\n"));
    }
    assert_eq!(ids.len(), 1);
    bake(&case, &["--jobs=20"]).ok().all_cached();
}

#[test]
fn compose_services_are_built() {
    need!(Root);
    let case = with(&[
        (
            "compose.yaml",
            "services:\n  web:\n    image: web:${TAG:-none}\n    build:\n      context: web\n      args: [WHAT]\n      \
             x-bake:\n        output: [\"type=docker\", \"type=local,dest=out\"]\n  db: {image: other}\n",
        ),
        (".env", "TAG=7\nWHAT=it\n"),
        (
            "web/Dockerfile",
            "FROM BASE AS a\nARG WHAT\nRUN echo $WHAT > /what\nFROM scratch\nCOPY --from=a /what /\n",
        ),
    ]);
    let printed = bake(&case, &["--print"]).ok();
    let printed: serde_json::Value = serde_json::from_str(printed.text()).expect("JSON");
    assert_eq!(printed["target"]["web"]["tags"][0], "web:7");
    assert_eq!(printed["group"]["default"]["targets"], serde_json::json!(["web"]));
    bake(&case, &[]).ok();
    assert_eq!(fs::read_to_string(case.out("out/what")).expect("a file"), "it\n");
    assert!(case.rgraph(&["images"]).ok().text().contains("web"));
    let listed = bake(&case, &["--list=targets"]).ok();
    assert!(listed.text().lines().any(|l| l.starts_with("web")), "{}", listed.text());
}

/// The file grants itself nothing.
#[test]
fn a_bake_file_is_not_trusted() {
    need!(Root);
    let case = with(&[("in/Dockerfile", "FROM BASE\nRUN --network=host true\n"), ("secret", "s")]);
    let try_one = |attrs: &str, args: &[&str]| {
        let hcl = format!("target \"default\" {{\n context = \"in\"\n {attrs}\n}}\n");
        write(&case, &[("docker-bake.hcl", &hcl)]);
        bake(&case, args)
    };
    let outside = "which is outside of this folder";
    try_one("contexts = { etc = \"/etc\" }", &[])
        .fails(1, &["reads `/etc`", outside, "--allow fs.read=/etc"]);
    try_one("contexts = { up = \"in/../..\" }", &[]).fails(1, &[outside]);
    try_one("secret = [\"id=x,src=/etc/passwd\"]", &[]).fails(1, &["reads `/etc/passwd`"]);
    try_one("output = [\"/tmp/x/y\"]", &[]).fails(1, &["writes `/tmp/x/y`", "--allow fs.write="]);
    try_one("output = [\"type=oci,dest=../x.tar\"]", &[]).fails(1, &["writes `../x.tar`"]);
    // What is in one result may lead the next one anywhere.
    let below = "output = [\"type=local,dest=o\", \"type=tar,dest=o/x/keys\"]";
    try_one(below, &[]).fails(1, &["o/x/keys", "which a result fills"]);
    let below = "output = [\"type=local,dest=o\"]\n cache-to = [\"type=local,dest=o/c\"]";
    try_one(below, &[]).fails(1, &["o/c", "which a result fills"]);
    try_one("cache-to = [\"type=local,dest=/tmp/x\"]", &[]).fails(1, &["writes `/tmp/x`"]);
    try_one("dockerfile = \"/etc/passwd\"", &[]).fails(1, &["reads `/etc/passwd`"]);
    try_one("ssh = [\"default\"]", &[]).fails(1, &["uses your ssh agent", "--allow ssh"]);
    try_one("network = \"host\"", &[]).fails(1, &["wants network.host", "--allow network.host"]);
    try_one("entitlements = [\"security.insecure\"]", &[]).fails(1, &["wants security.insecure"]);
    try_one("", &[]).fails(1, &["needs --allow network.host"]);
    std::os::unix::fs::symlink("/etc", case.out("link")).expect("a link");
    try_one("contexts = { l = \"link\" }", &[]).fails(1, &[outside]);
    // The caller's own word is enough.
    let granted = ["--allow", "network.host", "--allow", "fs.read=/etc"];
    try_one("contexts = { etc = \"/etc\" }", &granted).ok();
    let set = ["--allow", "network.host", "--set", "*.contexts.etc=/etc"];
    try_one("", &set).ok();
}

/// In the order of the file, whatever they have in common.
#[test]
fn targets_may_fill_one_folder() {
    need!(Root);
    let names = ["a", "b", "c", "d"];
    let mut hcl = format!("group \"default\" {{ targets = {names:?} }}\n");
    for n in names {
        let _ = write!(
            hcl,
            "target \"{n}\" {{\n context = \"in\"\n args = {{ N = \"{n}\" }}\n \
             output = [\"type=local,dest=out\"]\n}}\n"
        );
    }
    let text = "FROM BASE AS made\nARG N\nRUN mkdir -p /o/d && echo $N >/o/last && \
                echo $N >/o/d/$N && ln -s last /o/link\nFROM scratch\nCOPY --from=made /o /\n";
    let case = with(&[("docker-bake.hcl", &hcl), ("in/Dockerfile", text)]);
    for _ in 0..3 {
        bake(&case, &[]).ok();
        let said = |name: &str| fs::read_to_string(case.out("out").join(name)).expect("a file");
        assert_eq!(said("last"), "d\n");
        names.iter().for_each(|n| assert_eq!(said(&format!("d/{n}")), format!("{n}\n")));
    }
}

/// What stands for too much ends in an error, soon and small.
#[test]
fn a_bomb_is_refused() {
    need!(Root);
    let case = Case::new();
    let mut hcl = String::from("variable \"a0\" { default = \"ab\" }\n");
    for n in 1..=40 {
        writeln!(hcl, "variable \"a{n}\" {{ default = \"${{a{0}}}${{a{0}}}\" }}", n - 1)
            .expect("a String");
    }
    hcl += "target \"default\" { args = { x = a40 } }\n";
    write(&case, &[("docker-bake.hcl", &hcl)]);
    for args in [&["--print"][..], &["--list=variables"], &[]] {
        let started = Instant::now();
        let inner = case.command(&[&["bake"], args].concat());
        let mut limited = std::process::Command::new("/bin/sh");
        limited
            .args(["-c", "ulimit -v 900000 && exec \"$0\" \"$@\""])
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .current_dir(case.dir());
        let out = limited.output().expect("it runs");
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(text.contains("docker-bake.hcl:") && text.contains("larger than"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn what_cannot_be_one_graph_is_told() {
    need!(Root);
    let case = with(&[
        ("s1", "one"),
        ("s2", "two"),
        (
            "docker-bake.hcl",
            "group \"default\" { targets = [\"a\", \"b\"] }\n\
             target \"a\" {\n dockerfile-inline = \"FROM BASE\"\n secret = [\"id=s,src=s1\"]\n}\n\
             target \"b\" {\n dockerfile-inline = \"FROM BASE\"\n secret = [\"id=s,src=s2\"]\n}\n",
        ),
    ]);
    bake(&case, &[]).fails(1, &["different secrets `s`"]);
    bake(&case, &["--set", "b.secret.s=src=s1", "--set", "*.output=type=oci,dest=x.tar"])
        .fails(1, &["both write to x.tar"]);
    // However the place is spelt.
    std::os::unix::fs::symlink(".", case.out("here")).expect("a link");
    let (a, b) = ("a.output=type=oci,dest=./here/x.tar", "b.output=type=oci,dest=x.tar");
    bake(&case, &["--set", "b.secret.s=src=s1", "--set", a, "--set", b])
        .fails(1, &["both write to x.tar"]);
    bake(&case, &["--set", "b.secret.s=src=s1"]).ok();
}

#[test]
fn targets_are_checked() {
    need!(Root);
    let case = with(&[(
        "docker-bake.hcl",
        "group \"default\" { targets = [\"a\", \"b\"] }\n\
             target \"a\" { dockerfile-inline = \"FROM BASE\\nRUN true\\n\" }\n\
             target \"b\" { dockerfile-inline = \"from BASE as X\\nRUN true\\n\" }\n",
    )]);
    let run = bake(&case, &["--check"]).fails(1, &[]);
    let text = run.text();
    assert!(
        text.contains("a\n") && text.contains("b\n") && text.contains("StageNameCasing"),
        "{text}"
    );
}

#[test]
fn several_targets_of_one_file() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE AS base\nRUN cat /proc/sys/kernel/random/uuid > /id\n\
         FROM base AS one\nRUN echo 1 > /own\n\
         FROM base AS two\nRUN echo 2 > /own\n\
         FROM base AS unused\nRUN exit 1\n",
    );
    let out = case.out("out").display().to_string();
    let run = case.build(&["--target=one", "--target=two", "-o", &out]).ok();
    assert_eq!(run.steps().keys().filter(|s| s.contains("kernel/random")).count(), 1);
    let read = |f: &str| fs::read_to_string(case.out(&format!("out/{f}"))).expect("a file");
    assert_eq!((read("one/own"), read("two/own")), ("1\n".into(), "2\n".into()));
    assert_eq!(read("one/id"), read("two/id"));

    let run = case.build(&["--target=one", "--target=two", "-t", "a:1", "-t", "b:1", "-q"]).ok();
    let ids: Vec<&str> = run.text().lines().collect();
    assert_eq!(ids.len(), 2);
    let of = |name: &str| {
        case.rgraph(&["inspect", "--format", "{{.Id}}", name]).ok().text().trim().to_owned()
    };
    assert_eq!((of("a:1"), of("b:1")), (ids[0].to_owned(), ids[1].to_owned()));

    let both = ["--target=one", "--target=two"];
    let refused = |more: &[&str], text: &str| {
        case.build(&[&both[..], more].concat()).fails(2, &[text]);
    };
    refused(&["-t", "a"], "as many `-t`");
    refused(&["-o", "type=oci,dest=x.tar"], "do not fit into one archive");
    refused(&["--iidfile", "x"], "`--iidfile` is for one target");
    refused(&["--target=one"], "given twice");
    case.build(&["--target=one", "--target=tow"]).fails(1, &["tow"]);
}

/// Two targets of one Dockerfile, whose stages have one name: a new step is new in both, and nothing else
/// is said of any.
#[test]
fn a_step_more_is_told_in_each_target() {
    need!(Root);
    let text = "FROM BASE\nARG N\nRUN echo $N\nRUN echo last $N\n";
    let case = with(&[
        (
            "docker-bake.hcl",
            "group \"default\" { targets = [\"a\", \"b\"] }\n\
          target \"a\" { args = { N = 1 } }\ntarget \"b\" { args = { N = 2 } }\n",
        ),
        ("Dockerfile", text),
    ]);
    bake(&case, &[]).ok();
    write(
        &case,
        &[("Dockerfile", &text.replace("RUN echo last", "RUN echo more $N\nRUN echo last"))],
    );
    bake(&case, &[]).ok();
    let explained = case.rgraph(&["explain", "--format=json"]).ok();
    let build: serde_json::Value = serde_json::from_slice(&explained.stdout).expect("JSON");
    let mut said: Vec<(String, String)> = Vec::new();
    for step in build["steps"].as_array().expect("steps") {
        let name = step["name"].as_str().expect("a name").to_owned();
        for why in step["why"].as_array().into_iter().flatten() {
            said.push((name.clone(), why["text"].as_str().expect("a text").to_owned()));
        }
    }
    said.sort();
    let line = |step: &str, why: &str| (step.to_owned(), why.to_owned());
    assert_eq!(
        said,
        [
            line("[3/4] RUN echo more 1", "this step is new"),
            line("[3/4] RUN echo more 2", "this step is new"),
            line("[4/4] RUN echo last 1", "step 3 above is new"),
            line("[4/4] RUN echo last 2", "step 3 above is new"),
        ]
    );
}

/// Runs with variables of the environment.
fn bake_with(case: &Case, vars: &[(&str, &str)], args: &[&str]) -> Run {
    let mut all = vec!["bake", "--progress=plain"];
    all.extend(args);
    let out = case.command(&all).envs(vars.iter().copied()).output().expect("it runs");
    Run {
        code: out.status.code().unwrap_or(-1),
        stdout: out.stdout,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

fn printed(run: &Run) -> serde_json::Value {
    serde_json::from_str(run.text()).expect("JSON")
}

const ELSEWHERE: &str = "group \"default\" { targets = [\"top\", \"sub\", \"here\"] }\n\
     target \"top\" { output = [\"out/top\"] }\n\
     target \"sub\" {\n context = \"sub\"\n contexts = { up = \".\" }\n output = [\"out/sub\"]\n}\n\
     target \"here\" {\n context = BAKE_CMD_CONTEXT\n dockerfile-inline = \"FROM scratch\\nCOPY mine /\"\n output = [\"out/here\"]\n}\n";

/// The definition, its Dockerfiles and its contexts are there; what is `cwd://` is here.
#[test]
fn a_definition_of_a_repository() {
    need!(Root, Tool("git"));
    let r = Repositories::new();
    r.file("a", "docker-bake.hcl", ELSEWHERE)
        .file("a", "Dockerfile", "FROM scratch\nCOPY f /\n")
        .file("a", "f", "theirs\n")
        .file("a", "sub/Dockerfile", "FROM scratch\nCOPY g /\nCOPY --from=up f /of-up\n")
        .file("a", "sub/g", "g\n")
        .file("a", "other.hcl", "target \"default\" { tags = [\"other\"] }\n");
    r.commit("a", "x");
    let web = r.serve(None);
    let case = with(&[
        ("mine", "mine\n"),
        ("f", "ours\n"),
        ("own.hcl", "target \"top\" { tags = [\"own\"] }\n"),
    ]);
    let url = web.url("/a.git");
    let json = printed(&bake(&case, &[&url, "--print"]).ok());
    let context = |t: &str| json["target"][t]["context"].as_str().expect("a context").to_owned();
    assert_eq!(
        (context("top"), context("sub"), context("here")),
        (url.clone(), format!("{url}#:sub"), ".".to_owned())
    );
    bake(&case, &[&url]).ok();
    let read = |f: &str| fs::read_to_string(case.out("out").join(f)).expect("a file");
    assert_eq!((read("top/f"), read("here/mine")), ("theirs\n".into(), "mine\n".into()));
    assert_eq!((read("sub/g"), read("sub/of-up")), ("g\n".into(), "theirs\n".into()));
    bake(&case, &[&url]).ok().all_cached();
    // Files of both places, and another file of theirs.
    let json = printed(
        &bake(&case, &[&url, "-f", "docker-bake.hcl", "-f", "cwd://own.hcl", "--print"]).ok(),
    );
    assert_eq!(json["target"]["top"]["tags"], serde_json::json!(["own"]));
    let json = printed(&bake(&case, &[&url, "-f", "other.hcl", "--print"]).ok());
    assert_eq!(json["target"]["default"]["tags"], serde_json::json!(["other"]));
    bake(&case, &[&url, "-f", "none.hcl"]).fails(1, &["no bake file `none.hcl`"]);
    bake(&case, &[&format!("{url}#none")]).fails(1, &["none"]);
    // Another context of the command, and a link that leads out.
    let json = printed(&bake(&case, &[&url, "https://h.invalid/x.git", "here", "--print"]).ok());
    assert_eq!(json["target"]["here"]["context"], "https://h.invalid/x.git");
    r.file("b", "Dockerfile", "FROM scratch\n");
    std::os::unix::fs::symlink("/etc/hostname", r.at("b").join("docker-bake.hcl")).expect("a link");
    r.commit("b", "x");
    bake(&case, &[&web.url("/b.git")]).fails(1, &["no bake file there"]);
}

#[test]
fn a_definition_by_url() {
    need!(Root);
    let archive = crate::contexts::tar_of(&[
        ("docker-bake.hcl", ELSEWHERE),
        ("Dockerfile", "FROM scratch\nCOPY f /\n"),
        ("f", "theirs\n"),
        ("sub/Dockerfile", "FROM scratch\nCOPY g /\nCOPY --from=up f /of-up\n"),
        ("sub/g", "g\n"),
    ]);
    let lone = "target \"default\" {\n dockerfile-inline = \"FROM scratch\\nCOPY f /\"\n output = [\"out/lone\"]\n}\n\
                target \"etc\" { context = \"/etc\" }\n";
    let web = Web::start(move |r| match &r.line[..] {
        "GET /all.tar" => Answer::ok(archive.clone()),
        "GET /docker-bake.hcl" => Answer::ok(lone),
        _ => Answer::status(404),
    });
    let case = with(&[("mine", "mine\n"), ("f", "ours\n")]);
    bake(&case, &[&web.url("/all.tar")]).ok();
    let read = |f: &str| fs::read_to_string(case.out("out").join(f)).expect("a file");
    assert_eq!((read("top/f"), read("here/mine")), ("theirs\n".into(), "mine\n".into()));
    assert_eq!((read("sub/g"), read("sub/of-up")), ("g\n".into(), "theirs\n".into()));
    // A file alone is about this folder, and is granted no more than one of this folder.
    bake(&case, &[&web.url("/docker-bake.hcl")]).ok();
    assert_eq!(read("lone/f"), "ours\n");
    bake(&case, &[&web.url("/docker-bake.hcl"), "etc"])
        .fails(1, &["reads `/etc`", "--allow fs.read"]);
    bake(&case, &[&web.url("/none")]).fails(1, &["404"]);
    bake(&case, &["--offline", &web.url("/other.hcl")]).fails(1, &["cannot load"]);
}

/// Files that the environment names, and paths from the folder of a file.
#[test]
fn the_environment_of_bake() {
    let case = with(&[
        ("a.hcl", "target \"default\" { tags = [\"a\"] }\n"),
        ("b.hcl", "target \"default\" { args = { b = 1 } }\n"),
        (
            "sub/c.hcl",
            "target \"default\" { contexts = { x = \"../x\" } }\ntarget \"d\" { context = target.default.context }\ntarget \"e\" { context = \"k\" }\n",
        ),
        ("sub/compose.yml", "services:\n  s:\n    build:\n      context: ./w\n"),
    ]);
    let json = |vars: &[(&str, &str)], args: &[&str]| {
        let args = [&["--print"][..], args].concat();
        printed(&bake_with(&case, vars, &args).ok())["target"].clone()
    };
    let got = json(&[("BUILDX_BAKE_FILE", "a.hcl:b.hcl")], &[]);
    assert_eq!(
        (&got["default"]["tags"][0], &got["default"]["args"]["b"]),
        (&"a".into(), &"1".into())
    );
    let at = [("BUILDX_BAKE_FILE", "a.hcl@b.hcl"), ("BUILDX_BAKE_PATH_SEPARATOR", "@")];
    assert_eq!(json(&at, &[]), got);
    // A flag wins.
    assert!(json(&at, &["-f", "a.hcl"])["default"]["args"].is_null());
    let relative = ("BUILDX_BAKE_FILE_RELATIVE_PATHS", "1");
    let here = json(&[], &["-f", "sub/c.hcl", "default", "e"]);
    assert_eq!((&here["e"]["context"], &here["default"]["context"]), (&"k".into(), &".".into()));
    let there = json(&[relative], &["-f", "sub/c.hcl", "default", "d", "e"]);
    assert_eq!(
        (&there["e"]["context"], &there["default"]["context"]),
        (&"sub/k".into(), &"sub".into())
    );
    assert_eq!(there["default"]["contexts"]["x"], "x");
    assert_eq!(json(&[relative], &["-f", "sub/compose.yml"])["s"]["context"], "sub/w");
    assert_eq!(json(&[], &["-f", "sub/compose.yml"])["s"]["context"], "w");
    bake_with(&case, &[("BUILDX_BAKE_FILE_RELATIVE_PATHS", "maybe")], &["--print"])
        .fails(2, &["BUILDX_BAKE_FILE_RELATIVE_PATHS"]);
}

#[test]
fn statements_of_targets() {
    need!(Root);
    let case = with(&[(
        "docker-bake.hcl",
        "group \"default\" { targets = [\"a\", \"b\"] }\n\
         target \"a\" {\n dockerfile-inline = \"FROM BASE\"\n attest = [\"type=provenance,mode=min\"]\n output = [\"type=oci,tar=false,dest=a\"]\n}\n\
         target \"b\" {\n dockerfile-inline = \"FROM BASE\"\n output = [\"type=oci,tar=false,dest=b\"]\n}\n",
    )]);
    let statements = |name: &str| {
        let blobs = fs::read_dir(case.out(name).join("blobs/sha256")).expect("blobs");
        let said = blobs.flatten().filter_map(|b| fs::read_to_string(b.path()).ok());
        let mut kinds: Vec<&str> = said
            .filter(|t| t.contains("in-toto.io/Statement"))
            .map(|t| if t.contains("spdx") { "sbom" } else { "provenance" })
            .collect();
        kinds.sort_unstable();
        kinds
    };
    let clean = || ["a", "b"].map(|n| drop(fs::remove_dir_all(case.out(n))));
    bake(&case, &[]).ok();
    assert_eq!((statements("a"), statements("b")), (vec!["provenance"], vec![]));
    clean();
    bake(&case, &["--provenance=false", "--sbom"]).ok();
    assert_eq!((statements("a"), statements("b")), (vec!["sbom"], vec!["sbom"]));
    clean();
    bake(&case, &["--set", "b.attest=type=provenance,mode=max"]).ok();
    assert_eq!((statements("a"), statements("b")), (vec!["provenance"], vec!["provenance"]));
    bake(&case, &["--provenance=mode=huge"]).fails(1, &["mode"]);
}

/// What a compose file names is held to the same folders as everything else.
#[test]
fn compose_files_name_others() {
    let case = with(&[
        (
            "compose.yaml",
            "include: [inc/compose.yml]\nservices:\n  web:\n    extends: {file: base/b.yml, service: b}\n    build: {args: {B: own}}\n",
        ),
        (
            "inc/compose.yml",
            "services:\n  inc:\n    build: {context: ./c, tags: [\"i:${T:-none}\"]}\n",
        ),
        ("inc/.env", "T=of-inc\n"),
        (
            "base/b.yml",
            "services:\n  b:\n    env_file: e.env\n    build: {context: ./x, args: [A, B=base]}\n",
        ),
        ("base/e.env", "A=of-file\n"),
    ]);
    let json = printed(&bake(&case, &["--print"]).ok())["target"].clone();
    assert_eq!(
        (&json["web"]["context"], &json["inc"]["context"]),
        (&"base/x".into(), &"inc/c".into())
    );
    assert_eq!(
        (&json["web"]["args"]["A"], &json["web"]["args"]["B"]),
        (&"of-file".into(), &"own".into())
    );
    assert_eq!(json["inc"]["tags"][0], "i:of-inc");
    for (text, what) in [
        ("include: [/etc/hostname]\nservices: {a: {build: .}}\n", "reads `/etc/hostname`"),
        ("services: {a: {build: {args: [X]}, env_file: /etc/hostname}}\n", "reads `/etc/hostname`"),
        ("services: {a: {extends: {file: ../../x.yml, service: q}}}\n", "outside of this folder"),
        ("include: [compose.yaml]\nservices: {a: {build: .}}\n", "in a circle"),
        ("services: {a: {extends: b, image: x}, b: {extends: a}}\n", "in a circle"),
        ("services: {a: {extends: {file: none.yml, service: q}}}\n", "no file `none.yml`"),
        ("services: {a: {env_file: none.env, build: .}}\n", "no file `none.env`"),
        ("services: {a: {environment: [X=1]}}\n", "no `image` and no `build`"),
    ] {
        write(&case, &[("compose.yaml", text)]);
        bake(&case, &["--print"]).fails(1, &[what]);
    }
}

/// One target may ask for what a name means now while another one takes what is there.
#[test]
fn targets_pull_for_themselves() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("moved:1");
    let push = |text: &str| {
        let case = Case::with_base();
        case.dockerfile(&format!("FROM BASE\nRUN echo {text} > /is\n"));
        case.build(&["-o", &format!("type=registry,name={name}")]).ok();
    };
    push("old");
    let target = |n: &str, more: &str| {
        format!(
            "target \"{n}\" {{\n dockerfile-inline = \"FROM {name}\\nRUN echo {n} is $(cat /is)\"\n{more}}}\n"
        )
    };
    let file = target("a", " pull = true\n") + &target("b", "");
    let case = with(&[("docker-bake.hcl", &file)]);
    let said = |args: &[&str]| bake(&case, &[&["--no-cache"], args].concat()).ok().stderr.clone();
    assert!(said(&["b"]).contains("b is old"));
    push("new");
    for order in [["b", "a"], ["a", "b"]] {
        let said = said(&order);
        assert!(said.contains("a is new"), "{order:?}\n{said}");
    }
}
