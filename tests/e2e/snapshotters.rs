//! Where the kernel lays no layers over each other, a program does or they are copied: the layers that
//! come of it are the same.

use rgraph_tests::{Case, Ids, Image, mounts_below, need, shout};

/// Owners, links, deletions, opaque folders, replaced kinds, holes, devices, times of folders, mounts.
const STEPS: &str = "FROM BASE AS a
COPY --chown=app:apps d /d
COPY --chmod=4711 --chown=7:65535 f /f
RUN mkdir -p /a/b /tmp/x /h/i && echo 1 > /a/b/1 && echo 2 > /a/2 && ln -s b /a/l
RUN chown -R 1000:1001 /a/b && chown 65535:3 /a/2 && chmod 750 /a/2 && mkfifo /a/p
RUN rm -r /a/b && mkdir /a/b && echo new > /a/b/new && rm /a/l && echo over > /d/x/y
RUN rm -r /h && echo file > /h && rm /f && mkdir /f && touch /f/in && mv /a /moved && ln -s /d /dl
RUN rm /h && mkdir -p /h/i/j && touch /h/i/k && rm -r /f && mkdir /f && chmod 700 /tmp/x
RUN dd if=/dev/zero of=/hole bs=1 count=1 seek=9000000 2>/dev/null && echo end >> /hole
RUN mkdir /w && cd /w && echo 1 > .dot && echo 2 > x.wh && mkdir .d && touch '.d/a b' /moved/b/new
RUN rm /w/.dot && rm -r /w/.d && mkdir /w/.d && rm /bin/vi /bin/wc && echo over > /bin/vi && chmod 750 /w
RUN ln /moved/2 /w/2 && ln /bin/busybox /w/bb
RUN chown 65535:3 /w/2 && chmod 6750 /moved/2 && rm /w/bb
USER app
WORKDIR /tmp/w
RUN id > /tmp/id && touch /tmp/w/mine
USER root
RUN --mount=type=bind,from=BASE,target=/m,rw touch /m/x /tmp/x/y && test -e /m/bin/sh && rm /m/bin/sh
RUN --mount=type=bind,from=BASE,target=/m test -e /m/bin/sh && ! touch /m/y 2>/dev/null
FROM a
COPY --from=a /moved /d /hole /copied/
RUN --mount=type=cache,target=/c,from=a,source=/d test -e /c/x/y && touch /c/z
RUN find /copied -type f | sort > /list; test $(stat -c %s /copied/hole) = 9000005
";

fn case(ids: Option<Ids>, snapshotter: &str) -> Case {
    let case = Case::new();
    let mut case = match ids {
        Some(ids) => case.of_user(ids),
        None => case,
    };
    case.env("RGRAPH_SNAPSHOTTER", snapshotter);
    case.import_base(rgraph_tests::BASE);
    case
}

fn image(case: &Case) -> Image {
    case.file("d/x/y", "y").file("f", "f").dockerfile(STEPS);
    let path = case.out("i.tar").display().to_string();
    let out = format!("type=oci,dest={path},rewrite-timestamp=true");
    let epoch = "SOURCE_DATE_EPOCH=1600000000";
    case.build(&["--network", "none", "--build-arg", epoch, "-o", &out]).ok();
    Image::from_archive(path.as_ref())
}

fn same(want: &Image, got: &Image, what: &str) {
    for (n, (want, got)) in want.layers.iter().zip(&got.layers).enumerate() {
        assert_eq!(got.0, want.0, "{what}: layer {n}");
    }
    assert_eq!(got.config["rootfs"], want.config["rootfs"], "{what}");
}

/// Also the cache: what one of them built, the others need not.
fn the_same_layers(ids: Option<Ids>, others: &[&str]) {
    let kernel = case(ids, "overlayfs");
    let want = image(&kernel);
    for other in others {
        let case = case(ids, other);
        if *other == "fuse-overlayfs" && ids.is_some() && !case.open_fuse() {
            shout("/dev/fuse cannot be opened to a user");
            continue;
        }
        same(&want, &image(&case), &format!("{other} {ids:?}"));
        let left = case.root().join("work");
        let left = std::fs::read_dir(left).map(|d| d.count()).unwrap_or(0);
        assert_eq!((left, mounts_below(&case.root())), (0, Vec::new()), "{other}");
    }
}

#[test]
fn copies_give_the_same_layers() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for ids in [None, Some(Ids::Range), Some(Ids::One)] {
        the_same_layers(ids, &["native"]);
    }
}

#[test]
fn fuse_overlayfs_gives_the_same_layers() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("fuse-overlayfs"));
    if std::fs::File::open("/dev/fuse").is_err() {
        return shout("/dev/fuse cannot be opened");
    }
    for ids in [None, Some(Ids::Range)] {
        the_same_layers(ids, &["fuse-overlayfs"]);
    }
}

/// A state root on an overlayfs, as in a container without a volume: the kernel refuses another one on it,
/// and nobody can make the devices there that mark deletions.
#[test]
fn a_state_root_on_overlayfs_works_with_copies() {
    need!(Root, Tool("mount"));
    let want = image(&case(None, "overlayfs"));
    let case = Case::new();
    let [lower, upper, work, root] = ["ol", "ou", "ow", "root"].map(|d| case.out(d));
    for dir in [&lower, &upper, &work, &root] {
        std::fs::create_dir_all(dir).expect("a folder");
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let mount = |args: &[&str]| {
        let done = std::process::Command::new(args[0]).args(&args[1..]).status();
        assert!(done.expect("it is installed").success(), "{args:?}");
    };
    let place = root.display().to_string();
    mount(&["mount", "-t", "overlay", "overlay", "-o", &options, &place]);
    let _unmounted = Unmount(&place);
    // Nothing is asked for: it is found out.
    case.import_base(rgraph_tests::BASE);
    let doctor = case.rgraph(&["doctor"]).ok();
    let line = doctor.text().lines().find(|l| l.starts_with("snapshotter")).expect("a line");
    for part in ["missing", "native", "no overlayfs", "--root DIR", "no fuse-overlayfs"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    same(&want, &image(&case), "on overlayfs");
    case.dockerfile("FROM BASE\nRUN true\n");
    let run = case.build(&["--network", "none", "--no-cache"]).ok();
    assert!(run.stderr.contains("native: each step works on a copy"), "{}", run.stderr);
    // Deletions are kept in the store too.
    case.rgraph(&["store", "check", "--read-data"]).ok();
    case.rgraph(&["run", "--rm", rgraph_tests::BASE, "true"])
        .fails(125, &["containers need overlayfs"]);
}

struct Unmount<'a>(&'a str);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        std::process::Command::new("umount").args(["-l", self.0]).status().map(drop).unwrap_or(());
    }
}

#[test]
fn what_is_asked_for_must_exist() {
    let mut case = Case::new();
    case.env("RGRAPH_SNAPSHOTTER", "zfs");
    let said = ["RGRAPH_SNAPSHOTTER", "`zfs` is none of overlayfs, fuse-overlayfs, native"];
    case.rgraph(&["doctor"]).fails(2, &said);
}
