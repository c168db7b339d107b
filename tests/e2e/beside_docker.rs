//! The same command lines through Debian's Docker engine and through rgraph, on the same images: what
//! stands on stdout, the exit code, and what an error is about (CMD-01 to CMD-11). What differs on
//! purpose is in `docs/docker.md`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use rgraph_tests::{Access, Case, Docker, Registry, Run, base_tar, need, shout};

/// How the two are to be alike.
#[derive(Debug, Clone, Copy)]
enum Alike {
    /// Both succeed with the same text. Sizes are left out: Docker counts files, rgraph blobs. So is the
    /// order of names of one image: Docker has none.
    Out,
    /// Both fail with 1 and the same stdout; both errors say this, in small letters or large ones.
    Fails(&'static str),
    /// Wrong use: whichever code Docker has for it, rgraph's is 2. Both errors say this.
    Refused(&'static str),
    /// Differs on purpose: Docker's code and words, rgraph's code and words.
    Differs(i32, &'static str, i32, &'static str),
}

use Alike::{Differs, Fails, Out, Refused};

/// `ID` is the image `app`, `REG` a registry, `LOCKED` one that wants a login, `DEAD` none.
const LINES: &[(&str, Alike)] = &[
    ("images", Out),
    ("images -a", Out),
    ("images --no-trunc", Out),
    ("images -q", Out),
    ("images -q --no-trunc", Out),
    ("image ls", Out),
    ("image list -q", Out),
    ("images app", Out),
    ("images app:1", Out),
    ("images app:nope", Out),
    ("images nobody", Out),
    ("images team/*", Out),
    ("images -f reference=*/app", Out),
    ("images --filter reference=app:*", Out),
    ("images -f dangling=true", Out),
    ("images -f dangling=false -q", Out),
    ("images -f label=role=web", Out),
    ("images -f label=role", Out),
    ("images -f label=none", Out),
    ("images -f before=app:1", Out),
    ("images -f since=base:1", Out),
    ("images --format {{.ID}}:_{{.Repository}}", Out),
    ("images --format table_{{.ID}}\\t{{.Tag}}\\t{{.CreatedSince}}", Out),
    ("images --format {{.CreatedAt}} app:1", Out),
    ("images -f before=nope", Fails("no such image: nope")),
    ("images -f colour=red", Refused("filter")),
    ("images -f dangling", Refused("filter")),
    ("images -f dangling=maybe", Refused("dangling=")),
    ("images --format {{.Nope}}", Refused(".nope")),
    ("images --format {{.ID", Refused("template")),
    ("images --nope", Refused("--nope")),
    ("images a b", Refused("usage")),
    ("tag app:1 t:1", Out),
    ("tag ID t:2", Out),
    ("tag sha256:ID t:3", Out),
    ("images t", Out),
    ("tag nobody x", Fails("no such image: nobody")),
    ("tag app:1 UPPER:1", Refused("must be lowercase")),
    ("tag app:1 a_b", Refused("invalid reference format")),
    ("tag app:1 app:-bad", Refused("invalid reference format")),
    ("tag app:1", Refused("usage")),
    ("inspect --format {{.Id}} app:1", Out),
    ("inspect -f {{.Config.Labels.role}} app:1", Out),
    ("inspect -f {{json_.Config.Cmd}} ID", Out),
    ("inspect -f {{.RepoTags}} other:1", Out),
    ("inspect -f {{.Config.Env}} app:1", Out),
    ("inspect -f {{.Os}}/{{.Architecture}} app:1", Out),
    ("inspect -f {{.RootFS.Layers}} app:1", Out),
    ("inspect -f {{range_.Config.Cmd}}{{.}},{{end}} app:1", Out),
    ("inspect -f {{index_.RepoTags_0}} other:1", Out),
    ("inspect -f {{.Created}} app:1", Out),
    ("inspect --type image -f {{len_.RootFS.Layers}} app:1 other:1", Out),
    ("image inspect -f {{.Id}} app:1", Out),
    ("inspect nobody", Fails("no such object: nobody")),
    ("inspect -f {{.Id}} nobody app:1", Fails("no such object: nobody")),
    ("image inspect nobody", Fails("no such image: nobody")),
    ("inspect --type image nobody", Fails("no such image: nobody")),
    ("inspect -f {{.Id app:1", Refused("template")),
    ("inspect --type nope app:1", Refused("nope")),
    ("inspect", Refused("usage")),
    ("history app:1", Out),
    ("history --no-trunc app:1", Out),
    ("history -q app:1", Out),
    ("history -q --no-trunc ID", Out),
    ("history --format {{.CreatedBy}} app:1", Out),
    ("history --format table_{{.ID}}\\t{{.Comment}} app:1", Out),
    ("image history -q app:1", Out),
    ("history nobody", Fails("no such image: nobody")),
    ("history UPPER", Refused("must be lowercase")),
    ("history", Refused("usage")),
    ("save nobody", Fails("no such image: nobody")),
    ("save -o x.tar app:1 nobody", Fails("no such image: nobody")),
    ("save -o /nonexistent/x.tar app:1", Fails("no such file or directory")),
    ("save -o x.tar UPPER", Refused("must be lowercase")),
    ("save -o x.tar", Refused("usage")),
    ("load -i names.tar", Out),
    ("load -q -i names.tar", Out),
    ("image load -i names.tar", Out),
    ("load -i /nonexistent.tar", Fails("no such file or directory")),
    ("load -i word", Fails("")),
    ("load -i base.tar", Fails("")),
    ("import /nonexistent.tar", Fails("no such file or directory")),
    ("import word", Fails("")),
    ("import base.tar UPPER:1", Refused("must be lowercase")),
    ("import", Refused("usage")),
    ("push -q REG/app:1", Out),
    ("pull -q REG/app:1", Out),
    ("push nobody:1", Fails("an image does not exist locally with the tag: nobody")),
    ("push REG/app:2", Fails("tag does not exist: ")),
    ("push -a REG/none", Fails("an image does not exist locally with the tag: ")),
    ("push -a REG/app:1", Refused("all-tags")),
    ("push UPPER", Refused("must be lowercase")),
    ("push", Refused("usage")),
    ("push LOCKED/app:1", Fails("credentials")),
    ("pull DEAD/x:1", Fails("connection refused")),
    ("pull REG/nothing:1", Fails("manifest unknown")),
    ("pull -a REG/none", Fails("repository name not known to registry")),
    ("pull LOCKED/x:1", Fails("credentials")),
    ("pull -a app:1", Refused("all-tags")),
    ("pull UPPER", Refused("must be lowercase")),
    ("pull", Refused("usage")),
    ("login -u tester -p wrong LOCKED", Fails("unauthorized")),
    ("login -u tester -p x DEAD", Fails("connection refused")),
    ("login LOCKED", Fails("cannot")),
    ("login --password-stdin", Refused("--username")),
    ("login -u tester -p secret LOCKED", Out),
    ("push -q LOCKED/app:1", Out),
    ("pull -q LOCKED/app:1", Out),
    ("logout LOCKED", Out),
    ("pull -q LOCKED/app:1", Fails("credentials")),
    ("logout a b", Refused("usage")),
    ("search REG/app", Differs(1, "404", 0, "catalog")),
    ("search --limit 101 REG/x", Refused("101")),
    ("search -f nope=1 REG/x", Refused("filter")),
    ("search", Refused("usage")),
    ("images --digests other:1", Differs(0, "<none>", 0, "sha256:")),
    ("logout LOCKED", Differs(0, "Removing login credentials", 0, "Not logged in")),
    ("image", Differs(0, "Usage", 2, "Usage")),
    // Of images alone: a container's id may begin so too.
    ("image inspect SHARED", Differs(1, "No such image", 1, "is ambiguous")),
    ("rmi SHARED", Differs(1, "No such image", 1, "is ambiguous")),
    ("rmi nobody", Fails("no such image: nobody")),
    ("image rm nobody", Fails("no such image: nobody")),
    ("rmi UPPER", Refused("must be lowercase")),
    ("rmi", Refused("usage")),
    ("rmi ID", Fails("(must be forced) - image is referenced in multiple repositories")),
    ("rmi used:1", Fails("conflict: unable to")),
    ("rmi -f USED", Fails("(cannot be forced) - image is being used by running container")),
    ("rmi t:1 nobody t:2", Fails("no such image: nobody")),
    ("rmi t:3", Out),
    ("image rm team/app:2", Out),
    ("images", Out),
];

/// Images of the same ids and times in both.
struct Both {
    case: Case,
    docker: Docker,
}

/// Seconds since 1970 of an image's time: years ago, so that no clock shows.
const YEARS: [&str; 5] = ["1420070400", "1451606400", "1483228800", "1514764800", "1546300800"];

impl Both {
    fn new(docker: Docker, registry: &Registry, locked: &Registry) -> Self {
        let both = Self { case: Case::new(), docker };
        let case = &both.case;
        fs::write(case.out("base.tar"), base_tar()).expect("a file");
        fs::write(case.out("word"), "word").expect("a file");
        case.file("base.tar", base_tar());
        let build = |n: usize, text: &str, names: &[&str]| {
            case.dockerfile(text);
            let names = names.iter().flat_map(|n| ["-t", n]);
            let args: Vec<&str> = names.chain(["--network=none"]).collect();
            let mut command = case.command(&case.build_args(&args));
            command.env("SOURCE_DATE_EPOCH", YEARS[n]);
            assert!(command.output().expect("rgraph").status.success(), "{text}");
        };
        build(0, "FROM scratch\nADD base.tar /\nCMD [\"sh\"]\n", &["base:1"]);
        let app =
            "FROM base:1\nRUN echo a > /a\nENV A=1\nLABEL role=web\nCMD [\"sh\", \"-c\", \"ls\"]\n";
        let names = [registry.name("app:1"), locked.name("app:1")];
        build(1, app, &["app:1", "team/app:2", &names[0], &names[1]]);
        build(2, "FROM base:1\nRUN echo b > /b\nLABEL role=db\n", &["other:1"]);
        build(3, "FROM base:1\nRUN echo c > /c\n", &["used:1"]);
        build(4, "FROM base:1\nRUN echo d > /d\n", &[]);
        let nameless = case.rgraph(&["images", "-q", "-f", "dangling=true"]).ok();
        let all = ["base:1", "app:1", "team/app:2", &names[0], &names[1], "other:1", "used:1"];
        let save = |file: &str, images: &[&str]| {
            case.rgraph(&[&["save", "-o", file], images].concat()).ok();
        };
        save("names.tar", &all[..2]);
        save("all.tar", &[&all[..], &[nameless.text().trim()]].concat());
        both.docker(&["load", "-i", "all.tar"]).ok();
        both
    }

    fn docker(&self, args: &[&str]) -> Run {
        self.docker.output_in(self.case.dir(), args)
    }

    /// Enough further images that two of them begin with the same digit, which this gives.
    fn crowd(&self) -> String {
        let case = &self.case;
        let mut names = Vec::new();
        for n in 0..17 {
            case.dockerfile(&format!("FROM scratch\nLABEL n={n}\n"));
            names.push(format!("crowd:{n}"));
            case.build(&["-t", &names[n]]).ok();
        }
        let mut args = vec!["save", "-o", "crowd.tar"];
        args.extend(names.iter().map(String::as_str));
        case.rgraph(&args).ok();
        self.docker(&["load", "-i", "crowd.tar"]).ok();
        let ids = case.rgraph(&["images", "-q", "--no-trunc"]).ok();
        let ids: BTreeSet<&str> = ids.text().lines().map(|l| &l["sha256:".len()..]).collect();
        let first: Vec<&str> = ids.iter().map(|id| &id[..1]).collect();
        first.windows(2).find(|w| w[0] == w[1]).expect("17 of 16").concat()[..1].to_owned()
    }
}

/// Without sizes; names of one image in order.
fn plain(text: &str, args: &[&str]) -> Vec<String> {
    let is_size = |w: &str| {
        let number = w.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &w[number.len()..];
        ["B", "kB", "MB"].contains(&unit) && number.parse::<f64>().is_ok()
    };
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let mut out = String::new();
            let mut rest = line;
            while !rest.is_empty() {
                let word = rest.find(' ').unwrap_or(rest.len());
                let end = word + rest[word..].len() - rest[word..].trim_start_matches(' ').len();
                out += if is_size(&rest[..word]) { "SIZE " } else { &rest[..end] };
                rest = &rest[end..];
            }
            out
        })
        .collect();
    if args.iter().any(|a| ["images", "ls", "list"].contains(a)) {
        lines.sort();
    }
    lines
}

#[test]
fn command_lines_of_docker() {
    need!(Root, Tool("docker"), Tool("dockerd"), Tool("docker-registry"));
    let docker = match Docker::start() {
        Ok(d) => d,
        Err(why) => return shout(&why),
    };
    let (registry, locked) = (Registry::start(Access::Open), Registry::start(Access::Password));
    let mut dead = Registry::start(Access::Open);
    dead.stop();
    let both = Both::new(docker, &registry, &locked);
    let id = |name: &str| both.case.rgraph(&["images", "-q", name]).ok().text().trim().to_owned();
    let (app, used) = (id("app:1"), id("used:1"));
    let shared = both.crowd();
    let sleeps = ["run", "-d", "--network=none", "used:1", "sleep", "1000"];
    both.docker(&sleeps).ok();
    both.case.rgraph(&sleeps).ok();
    // Rows of one image stand together, the newest first.
    let ids = |run: Run| {
        let mut ids: Vec<String> = run.ok().text().lines().map(str::to_owned).collect();
        ids.dedup();
        ids.truncate(4);
        ids
    };
    let order = ["images", "-q", "-f", "before=crowd:0"];
    assert_eq!(ids(both.case.rgraph(&order)), ids(both.docker(&order)));
    let mut wrong = String::new();
    for (line, alike) in LINES {
        let words: Vec<String> = line
            .split(' ')
            .map(|w| match w {
                "ID" => app.clone(),
                "USED" => used.clone(),
                "SHARED" => shared.clone(),
                // A blank within a word.
                w => w
                    .replace("sha256:ID", &format!("sha256:{app}"))
                    .replace("REG", &registry.host())
                    .replace("LOCKED", &locked.host())
                    .replace("DEAD", &dead.host())
                    .replace('_', " "),
            })
            .collect();
        let args: Vec<&str> = words.iter().map(String::as_str).collect();
        let (theirs, ours) = (both.docker(&args), both.case.rgraph(&args));
        let same = || plain(theirs.text(), &args) == plain(ours.text(), &args);
        let holds = |run: &Run, part: &str| {
            let all = format!("{}{}", run.text(), run.stderr).to_lowercase();
            all.contains(&part.to_lowercase())
        };
        // Progress is on stderr here.
        let quiet = ["push", "pull"].contains(&args[0]) && !args.contains(&"-q");
        let ok = match *alike {
            Out => (theirs.code, ours.code) == (0, 0) && same(),
            Fails(part) => {
                (theirs.code, ours.code) == (1, 1)
                    && (quiet || same())
                    && holds(&theirs, part)
                    && holds(&ours, part)
            }
            Refused(part) => {
                theirs.code != 0
                    && ours.code == 2
                    && ours.stdout.is_empty()
                    && holds(&theirs, part)
                    && holds(&ours, part)
            }
            Differs(code, part, own, word) => {
                (theirs.code, ours.code) == (code, own)
                    && holds(&theirs, part)
                    && holds(&ours, word)
            }
        };
        if !ok {
            let show = |run: &Run| format!("{}\n{}{}", run.code, run.text(), run.stderr);
            wrong += &format!(
                "\n# {line}: {alike:?}\n-- docker {}\n-- rgraph {}\n",
                show(&theirs),
                show(&ours)
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // The container that used the image.
    let containers = both.docker(&["ps", "-q"]).ok();
    both.docker(&["rm", "-f", containers.text().trim()]).ok();
}

/// The same image from this machine and from a registry has two manifests: its id stands for both.
#[test]
fn an_id_stands_for_every_manifest_of_its_image() {
    need!(Root, Tool("docker-registry"), Tool("skopeo"));
    let registry = Registry::start(Access::Open);
    let case = Case::with_base();
    let (name, there) = (registry.name("app:1"), registry.name("copy:1"));
    case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    case.build(&["-t", &name]).ok();
    case.rgraph(&["push", &name]).ok();
    let copied = Command::new("skopeo")
        .args(["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"])
        .args(["--format=v2s2", &format!("docker://{name}"), &format!("docker://{there}")])
        .status();
    assert!(copied.expect("skopeo").success());
    // Docker's form has another config type, but the same config and so the same id.
    case.rgraph(&["pull", &there]).ok();
    let id = |name: &str| case.rgraph(&["images", "-q", name]).ok().text().trim().to_owned();
    assert_eq!(id(&name), id(&there));
    let digests = case.rgraph(&["images", "--format", "{{.Digest}}", "127.0.0.1:*/*"]).ok();
    assert_eq!(digests.text().lines().collect::<BTreeSet<_>>().len(), 2, "{}", digests.text());
    let id = id(&name);
    case.rgraph(&["rmi", &id]).fails(1, &["must be forced"]);
    let gone = case.rgraph(&["rmi", "-f", &id]).ok();
    assert_eq!(gone.text().matches("Untagged: ").count(), 2, "{}", gone.text());
    assert_eq!(gone.text().matches(&format!("Deleted: sha256:{id}")).count(), 1, "{}", gone.text());
    case.rgraph(&["inspect", &id]).fails(1, &["no such object"]);
}
