//! Other people's tools: what we make is taken by them, what they make by us (REG-01, REG-02, OUT-01,
//! OUT-02).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use rgraph_tests::{Access, Case, Docker, Registry, Tokens, need, shout};
use serde_json::json;

/// Runs a program; its stdout.
#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect("it is installed");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}:\n{err}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// What is easily lost on the way: deletions, a folder made anew, links, owners, a mode.
const DOCKERFILE: &str = "FROM BASE\n\
    RUN mkdir -p /d/sub /anew && echo 1 > /d/one && echo 2 > /d/sub/two && echo old > /anew/old\n\
    RUN rm /d/one && rm -r /anew && mkdir /anew && echo new > /anew/new && \
        ln /d/sub/two /d/again && ln -s again /d/link && echo own > /d/own && \
        chown 12:34 /d/own && chmod 4750 /d/own\n\
    ENV GREETS=yes\n\
    WORKDIR /d\n\
    CMD [\"/bin/sh\", \"-c\", \"find /d /anew | sort; stat -c '%a %u:%g %h' own again; readlink link; echo $GREETS\"]\n";

/// What its command says.
const SAYS: &str = "/anew\n/anew/new\n/d\n/d/again\n/d/link\n/d/own\n/d/sub\n/d/sub/two\n4750 12:34 1\n644 0:0 2\nagain\nyes";

fn made(name: &str) -> Case {
    let case = Case::with_base();
    case.dockerfile(DOCKERFILE);
    case.build(&["-t", name]).ok();
    case
}

fn id(case: &Case, name: &str) -> String {
    case.rgraph(&["images", "-q", "--no-trunc", name]).ok().text().trim().to_owned()
}

/// Builds on an image of this case's store and runs what it says.
#[track_caller]
fn assert_works(case: &Case, name: &str) {
    case.file(
        "Dockerfile",
        format!("FROM {name}\nRUN find /d /anew | sort > /said; stat -c '%a %u:%g %h' own again >> /said; readlink link >> /said; echo $GREETS >> /said\n"),
    );
    let image = case.image(&["--pull=never"]);
    assert_eq!(image.read("said").trim(), SAYS);
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

#[test]
fn docker() {
    need!(Root, Tool("docker"), Tool("dockerd"), Tool("docker-registry"));
    let docker = match Docker::start() {
        Ok(d) => d,
        Err(why) => return shout(&why),
    };
    let registry = Registry::start(Access::Open);
    let says = |name: &str| docker.run(&["run", "--rm", "--network=none", name]);
    // Saved, loaded there, run, and the same image.
    let name = registry.name("team/made:1");
    let case = made(&name);
    let file = text(case.out("saved.tar"));
    case.rgraph(&["save", "-o", &file, &name]).ok();
    assert!(docker.run(&["load", "-i", &file]).contains(&format!("Loaded image: {name}")));
    assert_eq!(docker.run(&["inspect", "--format", "{{.Id}}", &name]), id(&case, &name));
    assert_eq!(says(&name), SAYS);
    // As the output of a build, under another name.
    let other = registry.name("team/output:1");
    let file = text(case.out("output.tar"));
    case.build(&["-t", &other, "-o", &format!("type=docker,dest={file}")]).ok();
    docker.run(&["load", "-i", &file]);
    assert_eq!(says(&other), SAYS);
    // Pushed from there, pulled here.
    docker.run(&["push", &name]);
    let puller = Case::new();
    puller.rgraph(&["pull", &name]).ok();
    assert_eq!(id(&puller, &name), id(&case, &name));
    assert_works(&puller, &name);
    // Pushed here, pulled there.
    docker.run(&["rmi", "-f", &name, &other]);
    let ours = registry.name("team/ours:1");
    case.rgraph(&["tag", &name, &ours]).ok();
    case.rgraph(&["push", &ours]).ok();
    docker.run(&["pull", &ours]);
    assert_eq!(says(&ours), SAYS);
    assert_eq!(docker.run(&["inspect", "--format", "{{.Id}}", &ours]), id(&case, &name));
    // Saved there, loaded here.
    let theirs = text(case.out("theirs.tar"));
    docker.run(&["save", "-o", &theirs, &ours]);
    let loader = Case::new();
    loader.rgraph(&["load", "-i", &theirs]).ok();
    assert_eq!(id(&loader, &ours), id(&case, &name));
    assert_works(&loader, &ours);
    // Built there, on ours, with layers of its own making.
    let context = case.out("context-of-docker");
    fs::create_dir(&context).expect("a folder");
    let dockerfile = format!(
        "FROM {ours}\nRUN rm /anew/new && rm -r /d/sub && mkdir /d/sub && echo theirs > /d/sub/theirs\n"
    );
    fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    let built = registry.name("team/theirs:1");
    docker.run(&["build", "-q", "--network=none", "-t", &built, &text(&context)]);
    docker.run(&["push", &built]);
    docker.run(&["save", "-o", &theirs, &built]);
    let reader = Case::new();
    reader.rgraph(&["pull", &built]).ok();
    let pulled = id(&reader, &built);
    reader.file("Dockerfile", format!("FROM {built}\nRUN find /d /anew | sort > /said\n"));
    let want = "/anew\n/d\n/d/again\n/d/link\n/d/own\n/d/sub\n/d/sub/theirs\n";
    assert_eq!(reader.image(&[]).read("said"), want);
    let loader = Case::new();
    loader.rgraph(&["load", "-i", &theirs]).ok();
    assert_eq!(id(&loader, &built), pulled);
    loader.file("Dockerfile", format!("FROM {built}\nRUN find /d /anew | sort > /said\n"));
    assert_eq!(loader.image(&["--pull=never"]).read("said"), want);
}

#[test]
fn buildah() {
    need!(Root, Tool("buildah"), Tool("runc"), Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("team/made:1");
    let case = made(&name);
    case.rgraph(&["push", &name]).ok();
    let (root, state) = (text(case.out("buildah")), text(case.out("buildah-run")));
    let buildah = |args: &[&str]| {
        let own = ["--root", &root, "--runroot", &state, "--storage-driver", "vfs"];
        run("buildah", &[&own, args].concat())
    };
    let container = buildah(&["from", "--tls-verify=false", &format!("docker://{name}")]);
    // The step that it runs on ours says what ours says.
    let script =
        "find /d /anew | sort; stat -c '%a %u:%g %h' own again; readlink link; echo $GREETS";
    let isolated = ["run", "--isolation", "chroot", &container, "--", "/bin/sh", "-c"];
    // Hard links do not survive its copying of layers.
    let said = buildah(&[&isolated[..], &[script]].concat());
    assert_eq!(said.replace("644 0:0 1", "644 0:0 2"), SAYS);
    buildah(&[&isolated[..], &["rm /anew/new && echo theirs > /d/theirs"]].concat());
    for format in ["oci", "docker"] {
        let theirs = registry.name(&format!("team/{format}:1"));
        buildah(&["commit", "-q", "--format", format, &container, &theirs]);
        buildah(&["push", "-q", "--tls-verify=false", &theirs, &format!("docker://{theirs}")]);
        let puller = Case::new();
        puller.rgraph(&["pull", &theirs]).ok();
        puller.file("Dockerfile", format!("FROM {theirs}\nRUN find /d /anew | sort > /said\n"));
        let want = "/anew\n/d\n/d/again\n/d/link\n/d/own\n/d/sub\n/d/sub/two\n/d/theirs\n";
        assert_eq!(puller.image(&[]).read("said"), want, "{format}");
    }
    buildah(&["rm", &container]);
    // Our archives, read there.
    let archive = text(case.out("o.tar"));
    case.rgraph(&["save", "-o", &archive, &name]).ok();
    for kind in ["docker-archive", "oci-archive"] {
        let container = buildah(&["from", &format!("{kind}:{archive}")]);
        buildah(&["rm", &container]);
    }
    buildah(&["rmi", "-a", "-f"]);
}

#[test]
fn umoci() {
    need!(Root, Tool("umoci"));
    let case = made("made:1");
    let layout = case.out("layout");
    let to = format!("type=oci,tar=false,dest={}", layout.display());
    case.build(&["-t", "made:1", "-o", &to]).ok();
    let image = format!("{}:1", layout.display());
    assert_eq!(run("umoci", &["ls", "--layout", &text(&layout)]), "1");
    // Nothing in it that no name needs, and nothing is missed: its collector reads all the way.
    let blobs = || -> BTreeSet<String> {
        let dir = fs::read_dir(layout.join("blobs/sha256")).expect("blobs").flatten();
        dir.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let before = blobs();
    run("umoci", &["gc", "--layout", &text(&layout)]);
    assert_eq!(blobs(), before);
    for name in before {
        let bytes = fs::read(layout.join("blobs/sha256").join(&name)).expect("a blob");
        assert_eq!(rgraph_tests::digest(&bytes), format!("sha256:{name}"));
    }
    let stat = run("umoci", &["stat", "--json", "--image", &image]);
    let stat: serde_json::Value = serde_json::from_str(&stat).expect("JSON");
    let layers = stat["history"].as_array().expect("a history");
    assert_eq!(layers.iter().filter(|h| h["layer"].is_object()).count(), 4);
    let bundle = case.out("bundle");
    run("umoci", &["unpack", "--image", &image, &text(&bundle)]);
    let root = bundle.join("rootfs");
    assert!(!root.join("d/one").exists() && !root.join("anew/old").exists());
    assert_eq!(fs::read(root.join("d/again")).expect("a file"), b"2\n");
    // Changed there, packed there, read here.
    fs::remove_file(root.join("anew/new")).expect("a file");
    fs::write(root.join("d/theirs"), "theirs").expect("a file");
    let theirs = format!("{}:2", layout.display());
    run("umoci", &["repack", "--image", &theirs, &text(&bundle)]);
    case.file("Dockerfile", "FROM base\nRUN find /d /anew | sort > /said\n");
    let image = case.image(&[&format!("--build-context=base=oci-layout://{theirs}")]);
    let want = "/anew\n/d\n/d/again\n/d/link\n/d/own\n/d/sub\n/d/sub/two\n/d/theirs\n";
    assert_eq!(image.read("said"), want);
}

#[test]
fn skopeo_in_all_directions() {
    need!(Root, Tool("skopeo"), Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("team/made:1");
    let case = made(&name);
    case.rgraph(&["push", &name]).ok();
    let at = |file: &str| text(case.out(file));
    case.rgraph(&["save", "-o", &at("saved.tar"), &name]).ok();
    for (how, file) in [("gzip", "gzip.tar"), ("zstd", "zstd.tar"), ("uncompressed", "plain.tar")] {
        let to = format!("type=oci,compression={how},force-compression=true,dest={}", at(file));
        case.build(&["-t", &name, "-o", &to]).ok();
    }
    case.build(&["-t", &name, "-o", &format!("type=oci,tar=false,dest={}", at("layout"))]).ok();
    let ours = [
        format!("docker://{name}"),
        format!("docker-archive:{}", at("saved.tar")),
        format!("oci-archive:{}", at("saved.tar")),
        format!("oci-archive:{}", at("gzip.tar")),
        format!("oci-archive:{}", at("zstd.tar")),
        format!("oci-archive:{}", at("plain.tar")),
        format!("oci:{}:1", at("layout")),
    ];
    let copy = |from: &str, to: &str| {
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        run("skopeo", &[&["copy", "-q"], &tls[..], &[from, to]].concat());
    };
    for (n, from) in ours.iter().enumerate() {
        let theirs = registry.name(&format!("copied{n}:1"));
        // To a registry, and as each kind of archive.
        copy(from, &format!("docker://{theirs}"));
        let puller = Case::new();
        puller.rgraph(&["pull", &theirs]).ok();
        assert_works(&puller, &theirs);
        // An old archive cannot hold zstd.
        if from.ends_with("zstd.tar") {
            continue;
        }
        for kind in ["docker-archive", "oci-archive"] {
            let file = at(&format!("{kind}{n}.tar"));
            copy(from, &format!("{kind}:{file}:{theirs}"));
            let loader = Case::new();
            loader.rgraph(&["load", "-i", &file]).ok();
            assert_works(&loader, &theirs);
        }
    }
    // A layout of theirs, as the base of a build.
    copy(&ours[0], &format!("oci:{}:x", at("theirs")));
    let user = Case::new();
    user.file("Dockerfile", "FROM base\nRUN find /d /anew | sort > /said\n");
    let flag = format!("--build-context=base=oci-layout://{}:x", at("theirs"));
    assert!(user.image(&[&flag]).read("said").starts_with("/anew\n/anew/new\n"));
}

#[test]
fn a_registry_with_a_token_service() {
    need!(Root, Tool("docker-registry"), Tool("openssl"));
    let tokens = Tokens::start();
    let registry = Registry::start_with_tokens(&tokens);
    let case = Case::with_base();
    let name = registry.name("team/app:1");
    case.rgraph(&["tag", rgraph_tests::BASE, &name]).ok();
    case.rgraph(&["push", &name]).fails(1, &["denied"]);
    let login = |case: &Case| {
        let json = json!({"auths": {registry.host(): {"auth": "dGVzdGVyOnNlY3JldA=="}}});
        fs::write(case.dir().join("docker/config.json"), json.to_string()).expect("a file");
    };
    tokens.requests();
    login(&case);
    let run = case.rgraph(&["push", &name]).ok();
    assert!(run.stderr.contains(": Pushed"), "{}", run.stderr);
    let asked = tokens.requests();
    assert!(!asked.is_empty());
    // One token serves all blobs of a push.
    assert!(asked.len() <= 4, "{} tokens", asked.len());
    let other = Case::new();
    other.rgraph(&["pull", &name]).fails(1, &["denied"]);
    login(&other);
    other.rgraph(&["pull", &name]).ok();
    // What everybody may read.
    let public = registry.name("public/app:1");
    case.rgraph(&["tag", &name, &public]).ok();
    case.rgraph(&["push", &public]).ok();
    Case::new().rgraph(&["pull", &public]).ok();
}
