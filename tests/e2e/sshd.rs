//! Repositories over ssh, from OpenSSH's own server.

use std::fs;
use std::path::Path;
use std::process::Command;

use rgraph_tests::{
    Case, Ids, Image, Kind, Repositories, Run, Sshd, make_key, need, setting, shout,
};

struct World {
    sshd: Sshd,
    repositories: Repositories,
    case: Case,
}

impl World {
    /// With a home in which nothing is known yet.
    fn new() -> Self {
        let (sshd, r) = (Sshd::start(), Repositories::new());
        r.file("a", "f", "one\n").file("a", "sub/Dockerfile", "FROM scratch\nCOPY g /\n");
        r.file("a", "sub/g", "g\n").commit("a", "one");
        r.git("a", &["tag", "-a", "v1", "-m", "one"]);
        r.file("a", "f", "two\n").commit("a", "two");
        let mut case = Case::new();
        let home = case.out("home");
        fs::create_dir_all(home.join(".ssh")).expect("a folder");
        case.env("HOME", &home.display().to_string());
        Self { sshd, repositories: r, case }
    }

    fn url(&self) -> String {
        self.sshd.url(&self.repositories.at("a"))
    }

    fn knows(&self, line: &str) {
        fs::write(self.case.out("home/.ssh/known_hosts"), line).expect("a file");
    }

    fn agent(&self) -> String {
        format!("--ssh=default={}", self.sshd.agent().display())
    }

    fn add(&self, end: &str) {
        self.case.file("Dockerfile", format!("FROM scratch\nADD {}{end} /\n", self.url()));
    }
}

/// An agent serves the user who started it, and nobody else.
fn other_user() -> bool {
    let other = setting("RGRAPH_ROOTLESS", 0) != 0;
    if other {
        shout("the agent is root's");
    }
    other
}

fn text(image: &Image, path: &str) -> String {
    match image.files().get(path).map(|e| e.kind.clone()) {
        Some(Kind::File(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        other => panic!("{path}: {other:?}"),
    }
}

/// CTX-08.
#[test]
fn repositories_and_contexts() {
    need!(Root, Tool("git"), Tool("sshd"), Tool("ssh-agent"));
    if other_user() {
        return;
    }
    let w = World::new();
    w.knows(&w.sshd.known_host());
    let (case, agent) = (&w.case, &w.agent()[..]);
    for (end, path, want) in [("", "f", "two\n"), ("#v1", "f", "one\n"), ("#main:sub", "g", "g\n")]
    {
        w.add(end);
        assert_eq!(text(&case.image(&[agent]), path), want, "{end}");
        case.build(&[agent]).ok().all_cached();
    }
    // The agent that the variable names.
    let mut c = case.command(&case.build_args(&["--ssh=default"]));
    let out = c.env("SSH_AUTH_SOCK", w.sshd.agent()).output().expect("rgraph starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let context = format!("{}#main:sub", w.url());
    let build = || case.rgraph(&["build", "--progress=plain", agent, &context]);
    let first = build().ok();
    build().ok().all_cached();
    w.repositories.file("a", "sub/g", "other\n").commit("a", "three");
    assert_ne!(build().ok().image(), first.image());
    // What is here needs neither server nor key.
    case.rgraph(&["build", "--progress=plain", "--offline", &context]).ok().all_cached();
    // A submodule beside it.
    w.repositories.file("inner", "i", "i\n");
    let id = w.repositories.commit("inner", "i");
    let modules = "[submodule \"in\"]\n\tpath = in\n\turl = ../inner.git\n";
    w.repositories.file("a", ".gitmodules", modules);
    let link = format!("160000,{id},in");
    w.repositories.git("a", &["add", ".gitmodules"]);
    w.repositories.git("a", &["update-index", "--add", "--cacheinfo", &link]);
    w.repositories.git("a", &["commit", "-q", "-m", "four"]);
    w.add("");
    assert_eq!(text(&case.image(&[agent]), "in/i"), "i\n");
}

/// SECU: whom one talks to is known, or nothing is said.
#[test]
fn who_is_not_known_is_not_talked_to() {
    need!(Root, Tool("git"), Tool("sshd"), Tool("ssh-agent"));
    if other_user() {
        return;
    }
    let w = World::new();
    let (case, agent) = (&w.case, &w.agent()[..]);
    w.add("");
    let fails = |args: &[&str], texts: &[&str]| {
        let run = case.build(args).fails(1, texts).fails(1, &["Dockerfile:2"]);
        let errors = run.stderr.lines().filter(|l| l.starts_with("error")).count();
        assert_eq!(errors, 1, "{}", run.stderr);
        run
    };
    let unknown = ["Host key verification failed", "its host key is not in known_hosts"];
    fails(&[agent], &unknown);
    assert!(!case.out("home/.ssh/known_hosts").exists(), "a host became known by itself");
    w.knows("");
    fails(&[agent], &unknown);
    let context = case.rgraph(&["build", agent, &w.url()]);
    context.fails(1, &["cannot load the context", unknown[0], unknown[1]]);
    // Known by another key: somebody else may be answering, and to trust that is no advice.
    w.knows(&w.sshd.other_host());
    let run =
        fails(&[agent], &["Host key verification failed", "another host key than known_hosts"]);
    assert!(!run.stderr.contains("ssh-keyscan"), "{}", run.stderr);
    // Known, and one does not say who one is.
    w.knows(&w.sshd.known_host());
    fails(&[], &["Permission denied", "--ssh default"]);
    // A key that is not let in, in a file.
    let stranger = case.out("stranger");
    make_key(&stranger, &["-t", "ed25519"], "");
    fails(&[&format!("--ssh=default={}", stranger.display())], &["Permission denied"]);
    fails(&["--offline"], &["is not in the store"]);
    // There is none of that name.
    let absent = w.sshd.url(&w.repositories.dir().join("none.git"));
    case.file("Dockerfile", format!("FROM scratch\nADD {absent} /\n"));
    fails(&[agent], &["none.git"]);
}

/// Definitions of a private repository: with the agent or the key that the environment names. Their contexts
/// and Dockerfiles come the same way, from the same commit; what targets fetch themselves needs a grant.
#[test]
fn private_definitions() {
    need!(Root, Tool("git"), Tool("sshd"), Tool("ssh-agent"));
    if other_user() {
        return;
    }
    let w = World::new();
    let (case, url) = (&w.case, w.url());
    let hcl = "group \"default\" { targets = [\"top\", \"sub\"] }\n\
         target \"top\" {\n dockerfile-inline = \"FROM scratch\\nCOPY f /\"\n output = [\"out/top\"]\n}\n\
         target \"sub\" {\n context = \"sub\"\n output = [\"out/sub\"]\n}\n";
    w.repositories.file("a", "docker-bake.hcl", hcl).commit("a", "three");
    let bake = |vars: &[(&str, &Path)], args: &[&str]| {
        let mut c = case.command(&[&["bake", "--progress=plain", &url], args].concat());
        let out = c.env_remove("SSH_AUTH_SOCK").envs(vars.iter().copied()).output();
        let out = out.expect("rgraph starts");
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!stderr.contains("PRIVATE"), "{stderr}");
        Run { code: out.status.code().unwrap_or(-1), stdout: out.stdout, stderr }
    };
    let (agent, key) = (w.sshd.agent(), w.sshd.key());
    // Nobody is known yet, and nothing is asked.
    bake(&[("BUILDX_BAKE_GIT_SSH", &agent)], &["--print"])
        .fails(1, &["its host key is not in known_hosts"]);
    w.knows(&w.sshd.known_host());
    bake(&[], &["--print"]).fails(1, &["Permission denied", "BUILDX_BAKE_GIT_SSH"]);
    for vars in [
        [("BUILDX_BAKE_GIT_SSH", &*agent)],
        [("SSH_AUTH_SOCK", &agent)],
        [("BUILDX_BAKE_GIT_SSH", &key)],
    ] {
        let printed = bake(&vars, &["--print"]).ok();
        let json: serde_json::Value = serde_json::from_str(printed.text()).expect("JSON");
        assert_eq!(json["target"]["sub"]["context"], format!("{url}#:sub"));
        bake(&vars, &[]).ok();
        let read = |f: &str| fs::read_to_string(case.out("out").join(f)).expect("a file");
        assert_eq!((read("top/f"), read("sub/g")), ("two\n".into(), "g\n".into()));
    }
    // What is here needs neither.
    bake(&[], &["--offline"]).ok().all_cached();
    // A step with the agent is no part of what was granted.
    let hcl =
        "target \"default\" {\n ssh = [\"default\"]\n dockerfile-inline = \"FROM scratch\"\n}\n";
    w.repositories.file("a", "docker-bake.hcl", hcl).commit("a", "four");
    bake(&[("SSH_AUTH_SOCK", &agent)], &[]).fails(1, &["--allow ssh"]);
}

/// Keys in files need no agent of the caller's.
#[test]
fn repositories_with_keys_from_files() {
    need!(Root, Tool("git"), Tool("sshd"), Tool("ssh-agent"));
    if other_user() {
        return;
    }
    let w = World::new();
    w.knows(&w.sshd.known_host());
    let [rsa, ecdsa] = w.sshd.more_keys();
    for (key, end) in [(w.sshd.key(), "#v1"), (rsa, "#main"), (ecdsa, "#main:sub")] {
        w.add(end);
        let key = format!("--ssh=default={}", key.display());
        w.case.build(&["--no-cache", &key]).ok();
        // What is kept of the repository is none of the next key's doing.
        fs::remove_dir_all(w.case.root()).expect("a state root");
    }
}

/// Copies a program of this machine and what it is linked with below a folder.
fn copy_program(program: &str, to: &Path) {
    let out = Command::new("ldd").arg(program).output().expect("ldd starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|w| w.starts_with('/'));
    for path in libraries.chain([program]) {
        let to = to.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("below")).expect("folders");
        fs::copy(path, to).expect("a file");
    }
}

/// With RSA `ssh-add -T` of this version asks for SHA-1, which is refused; a server that asks for more is
/// in the test above.
#[test]
fn steps_use_keys_from_files_and_do_not_see_them() {
    need!(
        Root,
        Tool("ssh-add"),
        Tool("ssh-keygen"),
        Tool("ldd"),
        Tool("newuidmap"),
        Tool("setpriv")
    );
    for user in [false, true] {
        let case = Case::new();
        let case = if user { case.of_user(Ids::Range) } else { case };
        case.import_base(rgraph_tests::BASE);
        copy_program("/usr/bin/ssh-add", &case.context().join("root"));
        let kinds: [(&str, &[&str]); 4] = [
            ("ed25519", &["-t", "ed25519"]),
            ("rsa", &["-t", "rsa", "-b", "3072"]),
            ("p256", &["-t", "ecdsa", "-b", "256"]),
            ("p384", &["-t", "ecdsa", "-b", "384"]),
        ];
        let at = |name: &str| case.out(name).display().to_string();
        let mut prints = String::new();
        for (name, kind) in kinds {
            make_key(&case.out(name), kind, "");
            fs::copy(at(name) + ".pub", case.context().join(format!("root/{name}.pub")))
                .expect("a copy");
            let out = Command::new("ssh-keygen").arg("-lf").arg(at(name)).output();
            prints += &String::from_utf8_lossy(&out.expect("ssh-keygen starts").stdout);
        }
        case.file("root/prints", &prints).dockerfile(
            "FROM BASE
COPY root /
RUN --mount=type=ssh ssh-add -l > /tmp/list && sort /tmp/list > /tmp/a && sort prints > /tmp/b && \\
    cmp /tmp/a /tmp/b
RUN --mount=type=ssh for k in ed25519 p256 p384; do ssh-add -T $k.pub || exit 1; done && ! ssh-add -T rsa.pub
RUN --mount=type=ssh,id=one test $(ssh-add -l | wc -l) = 1 && ! ssh-add -T rsa.pub && ! ssh-add -D
RUN ! env | grep SSH
",
        );
        let all = kinds.map(|(name, _)| at(name)).join(",");
        let (all, one) = (format!("--ssh=default={all}"), format!("--ssh=one={}", at("p256")));
        let run = case.build(&["--network=none", &all, &one]).ok();
        assert!(!run.stderr.contains("PRIVATE"), "{}", run.stderr);

        // What cannot be used is told before anything runs.
        make_key(&case.out("locked"), &["-t", "ed25519"], "a phrase");
        make_key(&case.out("p521"), &["-t", "ecdsa", "-b", "521"], "");
        make_key(&case.out("old"), &["-t", "rsa", "-b", "2048", "-m", "PEM"], "");
        for (file, said) in [
            ("locked", "protected by a passphrase: add it to an agent"),
            ("p521", "keys of the kind ecdsa-sha2-nistp521 are not supported"),
            ("old", "`ssh-keygen -p -f KEY`"),
            ("rsa.pub", "no private key"),
            ("none", "cannot read"),
        ] {
            let ssh = format!("--ssh=default={},{}", at("p256"), at(file));
            case.build(&[&ssh]).fails(1, &[said, file]);
        }
    }
}
