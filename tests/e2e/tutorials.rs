//! The tutorials that people learn containers from, line by line: `docker` replaced by `rgraph`, the
//! public registry by one of our own. On busybox always, as root and as a user; with
//! `RGRAPH_TUTORIALS_DEBIAN=1` on a Debian that `mmdebstrap` makes, with its nginx. That takes minutes and
//! Debian's mirror; the Debian is kept in the target folder.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use rgraph_tests::{
    Access, Case, Entry, Ids, Registry, Run, Screen, base_tar, need, setting, shout, wait_until,
};

use crate::debian::debian;
use crate::ports::{fetch, free_port};

/// A Dockerfile's instructions that add a web server to `debian`, and where its first page is.
struct Site {
    setup: &'static str,
    page: &'static str,
}

const BUSYBOX: Site = Site {
    setup: "RUN mkdir -p /www && echo welcome > /www/index.html\nEXPOSE 80\n\
            CMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n",
    page: "/www/index.html",
};
const NGINX: Site = Site {
    setup: "RUN apt-get update && apt-get install -y --no-install-recommends nginx && \
            echo welcome > /var/www/html/index.html\nEXPOSE 80\n\
            CMD [\"nginx\", \"-g\", \"daemon off;\"]\n",
    page: "/var/www/html/index.html",
};

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::thread::scope(|s| {
        s.spawn(move || stdin.write_all(bytes).expect("it reads"));
        let mut out = Vec::new();
        child.stdout.take().expect("a pipe").read_to_end(&mut out).expect("it writes");
        assert!(child.wait().expect("our child").success());
        out
    })
}

/// Runs a command at a terminal on which this is typed; what is on the screen in the end.
fn typed(case: &Case, args: &[&str], keys: &str) -> String {
    let mut screen = Screen::start(case, args);
    screen.keys(keys.as_bytes());
    let (code, seen) = screen.finish();
    assert_eq!(code, 0, "{seen}");
    seen
}

/// The row of `images` of this name and tag.
fn row(case: &Case, repository: &str, tag: &str) -> Option<String> {
    let all = text(case, &["images"]);
    let is = |l: &&str| l.split_whitespace().take(2).eq([repository, tag]);
    all.lines().find(is).map(str::to_owned)
}

/// Makes images by hand and by a file, names them, shares them, takes them away.
fn images_by_hand_and_by_file(case: &Case, registry: &Registry) {
    let repository = registry.name("ouruser/sinatra");
    let name = |tag: &str| format!("{repository}:{tag}");

    // docker run -t -i training/sinatra /bin/bash; root@...:/# gem install json; exit
    let args = ["run", "-t", "-i", "--name", "work", "debian", "/bin/sh"];
    let seen = typed(case, &args, "echo gem > /json && cat /json\nexit\n");
    assert!(seen.contains("gem"), "{seen}");
    let id = text(case, &["ps", "-l", "-q"]).trim().to_owned();
    assert_eq!(id.len(), 12);
    // docker commit -m="Added json gem" -a="Kate Smith" 0b2616b0e5a8 ouruser/sinatra:v2
    let v2 = name("v2");
    let args = ["commit", "-m=Added json gem", "-a=Kate Smith", &id, &v2];
    let committed = text(case, &args);
    assert!(committed.starts_with("sha256:"), "{committed}");
    assert!(row(case, &repository, "v2").is_some());
    let history = text(case, &["history", "--no-trunc", &v2]);
    let newest = history.lines().nth(1).expect("a line");
    assert!(newest.contains("/bin/sh") && newest.contains("Added json gem"), "{history}");
    let author = text(case, &["inspect", "-f", "{{.Author}}", &v2]);
    assert_eq!(author, "Kate Smith\n");
    // docker run -t -i ouruser/sinatra:v2 /bin/bash
    let seen = typed(case, &["run", "--rm", "-t", "-i", &v2, "/bin/sh"], "cat /json; exit\n");
    assert!(seen.contains("gem"), "{seen}");
    assert!(text(case, &["diff", "work"]).contains("A /json\n"));
    text(case, &["rm", "work"]);

    // docker build -t="ouruser/sinatra:v3" .
    case.dockerfile(
        "# This is a comment\nFROM debian:latest\nMAINTAINER Kate Smith <ksmith@example.com>\n\
         RUN echo apt-get update\nRUN echo gem > /json\n",
    );
    let (flag, context) = (format!("-t={}", name("v3")), case.context().display().to_string());
    let built = case.rgraph(&["build", "--progress=legacy", &flag, &context]).ok();
    let said = built.stderr;
    for line in [
        "Step 1/4 : FROM debian:latest\n ---> ",
        "Step 2/4 : MAINTAINER Kate Smith <ksmith@example.com>\n ---> ",
        "Step 3/4 : RUN echo apt-get update\n ---> Running in ",
        "\napt-get update\nRemoving intermediate container ",
        "\nSuccessfully built ",
    ] {
        assert!(said.contains(line), "no `{line}` in:\n{said}");
    }
    assert!(said.ends_with(&format!("\nSuccessfully tagged {}\n", name("v3"))), "{said}");

    // docker tag 5db5f8471261 ouruser/sinatra:devel; docker images ouruser/sinatra
    let id = text(case, &["images", "-q", &name("v3")]).trim().to_owned();
    text(case, &["tag", &id, &name("devel")]);
    let listed = text(case, &["images", &repository]);
    assert_eq!(listed.matches(&id).count(), 2, "{listed}");

    // docker push ouruser/sinatra:devel; docker rmi; docker pull
    case.rgraph(&["push", &name("devel")]).ok();
    let removed = text(case, &["rmi", &name("devel")]);
    assert_eq!(removed, format!("Untagged: {}\n", name("devel")));
    let removed = text(case, &["rmi", &name("v3")]);
    assert!(
        removed.starts_with(&format!("Untagged: {}\nDeleted: sha256:", name("v3"))),
        "{removed}"
    );
    let pulled = case.rgraph(&["pull", &name("devel")]).ok();
    assert!(pulled.text().contains(&name("devel")), "{}", pulled.text());
    let again = text(case, &["images", "-q", &name("devel")]);
    assert_eq!(again.trim(), id, "another image came back");
    assert_eq!(text(case, &["run", "--rm", &name("devel"), "cat", "/json"]), "gem\n");
}

/// Does something in the running container, as one types at `exec -it`.
fn inside(case: &Case, container: &str, site: &Site, page: &str) {
    let script = format!("echo '{page}' > {}", site.page);
    let run: Run = case.rgraph(&["exec", container, "sh", "-c", &script]);
    if run.code == 1 && run.stderr.contains("not supported yet") {
        shout("`exec` is not there: the page is copied into the container");
        case.file("page", format!("{page}\n"));
        let from = case.context().join("page").display().to_string();
        case.rgraph(&["cp", &from, &format!("{container}:{}", site.page)]).ok();
        return;
    }
    run.ok();
    let seen = typed(case, &["exec", "-it", container, "sh"], "ls /proc/1/exe; exit\n");
    assert!(seen.contains("/proc/1/exe"), "{seen}");
}

/// A web server: run, changed while it runs, committed, run again, built from a file.
fn web_server(case: &Case, site: &Site) {
    case.dockerfile(&format!("FROM debian\n{}", site.setup));
    case.build(&["-t", "nginx"]).ok();
    // docker run --name webserver -d -p 80:80 nginx
    let port = free_port();
    let map = format!("{port}:80");
    let run = case.rgraph(&["run", "--name", "webserver", "-d", "-p", &map, "nginx"]).ok();
    if run.stderr.contains("ports are not published") {
        text(case, &["rm", "-f", "webserver"]);
        return shout("containers have no network of their own here");
    }
    let id = run.text().trim().to_owned();
    assert_eq!(id.len(), 64, "{id}");
    let shows = |port: u16, what: &str| {
        let there = || fetch(port, "/").contains(what);
        assert!(wait_until(Duration::from_secs(30), there), "no `{what}` at {port}");
    };
    shows(port, "welcome");
    let listed = text(case, &["ps", "--filter", "name=webserver"]);
    assert!(listed.contains(&format!("0.0.0.0:{port}->80/tcp")), "{listed}");
    // docker exec -it webserver bash; echo '<h1>Hello, Docker!</h1>' > ...
    inside(case, "webserver", site, "<h1>Hello, Docker!</h1>");
    shows(port, "Hello, Docker!");
    // docker diff webserver
    let diff = text(case, &["diff", "webserver"]);
    assert!(diff.lines().any(|l| l == format!("C {}", site.page)), "{diff}");
    // docker commit --author "..." --message "..." webserver nginx:v2
    let author = "Tao Wang <twang@example.com>";
    let args =
        ["commit", "--author", author, "--message", "changed the page", "webserver", "nginx:v2"];
    text(case, &args);
    assert!(row(case, "nginx", "v2").is_some() && row(case, "nginx", "latest").is_some());
    assert!(text(case, &["history", "nginx:v2"]).contains("changed the page"));
    // docker run --name web2 -d -p 81:80 nginx:v2
    let second = free_port();
    text(case, &["run", "--name", "web2", "-d", "-p", &format!("{second}:80"), "nginx:v2"]);
    shows(second, "Hello, Docker!");
    // FROM nginx; RUN echo '<h1>Hello, Docker!</h1>' > ...; docker build -t nginx:v3 .
    case.dockerfile(&format!("FROM nginx\nRUN echo '<h1>from a file</h1>' > {}\n", site.page));
    case.build(&["-t", "nginx:v3"]).ok();
    let third = free_port();
    text(case, &["run", "--name", "web3", "-d", "-p", &format!("{third}:80"), "nginx:v3"]);
    shows(third, "from a file");
    shows(port, "Hello, Docker!");
    case.rgraph(&["rmi", "nginx:v3"]).fails(1, &["is being used by running container"]);
    for name in ["webserver", "web2", "web3"] {
        assert_eq!(text(case, &["rm", "-f", name]), format!("{name}\n"));
    }
    assert_eq!(text(case, &["ps", "-aq"]), "");
}

#[test]
fn on_busybox() {
    need!(Root, Tool("docker-registry"), Tool("gzip"));
    let case = Case::new();
    // cat rootfs.tar.gz | docker import - name:tag
    let imported = case.rgraph_reading(&["import", "-", "debian:latest"], &gzip(base_tar())).ok();
    assert!(imported.text().starts_with("sha256:"));
    images_by_hand_and_by_file(&case, &Registry::start(Access::Open));
    web_server(&case, &BUSYBOX);
}

#[test]
fn on_a_users_busybox() {
    need!(Root, Tool("docker-registry"), Tool("gzip"), Tool("newuidmap"), Tool("setpriv"));
    let case = Case::new().of_user(Ids::Range);
    if !case.open_tun() {
        shout("ports of a user's containers: there is no /dev/net/tun");
    }
    case.rgraph_reading(&["import", "-", "debian:latest"], &gzip(base_tar())).ok();
    images_by_hand_and_by_file(&case, &Registry::start(Access::Open));
    web_server(&case, &BUSYBOX);
}

#[test]
fn on_debian() {
    need!(Root, Tool("docker-registry"), Tool("mmdebstrap"));
    on_debian_in(Case::new);
}

/// The packages come through `pasta`, as the page does.
#[test]
fn on_a_users_debian() {
    need!(Root, Tool("docker-registry"), Tool("mmdebstrap"), Tool("pasta"));
    need!(Tool("newuidmap"), Tool("setpriv"));
    on_debian_in(|| {
        let case = Case::new().of_user(Ids::Range);
        if !case.open_tun() {
            shout("ports of a user's containers: there is no /dev/net/tun");
        }
        case
    });
}

fn on_debian_in(case: impl FnOnce() -> Case) {
    if setting("RGRAPH_TUTORIALS_DEBIAN", 0) == 0 {
        return shout("RGRAPH_TUTORIALS_DEBIAN=1 makes a Debian for it");
    }
    let case = case();
    // cat rootfs.tar.gz | docker import - name:tag
    case.rgraph_reading(&["import", "-", "debian:latest"], &debian("amd64")).ok();
    images_by_hand_and_by_file(&case, &Registry::start(Access::Open));
    web_server(&case, &NGINX);
}

/// Packages whose scripts make users, give files away and ask who they are: the same files of the same owners, whether
/// root builds, a user with ranges of ids, or one with a single id (ROOT-02).
#[test]
fn packages_install_for_everybody_on_debian() {
    need!(Root, Tool("mmdebstrap"), Tool("newuidmap"), Tool("setpriv"));
    if setting("RGRAPH_TUTORIALS_DEBIAN", 0) == 0 {
        return shout("RGRAPH_TUTORIALS_DEBIAN=1 makes a Debian for it");
    }
    let mut roots = None;
    for ids in [None, Some(Ids::Range), Some(Ids::One)] {
        let case = match ids {
            Some(ids) => Case::new().of_user(ids),
            None => Case::new(),
        };
        case.rgraph_reading(&["import", "-", "debian:latest"], &debian("amd64")).ok();
        case.file(
            "Dockerfile",
            "FROM debian:latest\n\
             RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y ruby \\\n\
             && test $(ruby -e 'puts 6*7') = 42\n\
             RUN useradd -m app && install -o app -g www-data -m 2750 -d /srv/app \\\n\
             && su app -c 'touch /srv/app/mine && test $(id -un) = app'\n",
        );
        let image = case.image(&["--network", "host", "--progress", "plain"]);
        let layers = image.layers.iter().skip(1).map(|l| {
            // What they hold is time and chance in some: logs, caches.
            let kind = |e: &Entry| std::mem::discriminant(&e.kind);
            let entry = |e: &Entry| (e.path.clone(), (kind(e), e.mode, e.owner, e.xattrs.clone()));
            l.0.iter().map(entry).collect::<BTreeMap<_, _>>()
        });
        let layers: Vec<_> = layers.collect();
        assert!(layers[0].len() > 1000, "{ids:?}: {} files", layers[0].len());
        let roots = roots.get_or_insert_with(|| layers.clone());
        assert_eq!(layers.len(), roots.len(), "{ids:?}");
        for (want, got) in roots.iter().zip(&layers) {
            let odd: Vec<_> = got.iter().filter(|(p, e)| want.get(*p) != Some(e)).collect();
            let gone: Vec<_> = want.keys().filter(|p| !got.contains_key(*p)).collect();
            assert!(odd.is_empty() && gone.is_empty(), "{ids:?}: {odd:?} {gone:?}");
        }
    }
}
