//! What is mounted for a step, where it may be, and what is left of it: nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rgraph_runtime::sandbox::*;
use rgraph_sys::{channel, mount};

use crate::image::*;

pub fn mounts(runner: &Runner) {
    let image = Image::new();
    for (path, text) in [("a/x/f", "fa"), ("a/g", "ga"), ("b/x/f", "fb"), ("b/x/h", "hb")] {
        let path = image.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    symlink("/x/f", image.at("a/link")).unwrap();
    symlink("../../../../etc", image.at("a/out")).unwrap();
    let host = |p: &str| MountSource::Path(image.at(p));
    let both = MountSource::Overlay {
        lowers: vec![image.at("a"), image.at("b")],
        upper: None,
        userxattr: false,
    };
    let detached = mount::clone_path(&image.at("b"), false).unwrap();
    let secret = channel::parcel(b"sesame").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(image.at("sock")).unwrap();
    let mut spec =
        image.sh("cat /tree/x/f /one /through /both/f /both/h /fd/x/h /inner/deep/g; echo; \
         cat /run/secrets/s; stat -c ' %a %u %g' /run/secrets/s; \
         grep -c ' /mem tmpfs.*size=1024k' /proc/mounts; \
         echo new > /rw/made; echo new > /mem/made; \
         for f in /tree/x/f /run/secrets/s; do (echo bad > $f) 2>/dev/null && echo wrote $f; done; \
         stat -c %F /ssh; grep -c ' /dev/shm .*size=8k' /proc/mounts; exit 0");
    spec.mounts = vec![
        at("/inner/deep", bind(host("a"), "/", true)),
        at("/inner", SandboxMountKind::Tmpfs { size: 0 }),
        at("/tree", bind(host("a"), "/", true)),
        at("/one", bind(host("a"), "x/f", true)),
        at("/through", bind(host("a"), "/link", true)),
        at("/both", bind(both, "/x", true)),
        at("/fd", bind(MountSource::Fd(0), "/", true)),
        at("/rw", bind(host("b"), "", false)),
        at("/mem", SandboxMountKind::Tmpfs { size: 1 << 20 }),
        at("/run/secrets/s", SandboxMountKind::File { data: 1, mode: 0o440, uid: 5, gid: 6 }),
        at("/ssh", SandboxMountKind::Socket { source: image.at("sock") }),
        at("/dev/shm", SandboxMountKind::Tmpfs { size: 8192 }),
    ];
    let ran = run_with(runner, &spec, vec![detached, secret]);
    assert_eq!(
        ran.out, "fafafafahbhbga\nsesame 440 5 6\n1\nsocket\n1\n",
        "{:?} {}",
        ran.outcome, ran.err
    );
    assert_eq!(fs::read_to_string(image.at("b/made")).unwrap(), "new\n");
    assert_eq!(image.changes(), [""; 0], "mount points are gone");
    drop(socket);

    let mut spec = image.sh("ls /m");
    spec.mounts = vec![at("/m", bind(host("a"), "/out", true))];
    assert_eq!(
        refusal(runner, &spec),
        "cannot mount on `/m`: `/out` does not exist in the source",
        "a link out of the tree stays in the tree"
    );
    spec.mounts = vec![at("/m", bind(MountSource::Fd(0), "/", true))];
    assert!(refusal(runner, &spec).contains("no open file"));
}

pub fn reserved_targets(runner: &Runner) {
    let image = Image::new();
    for (link, target) in [("p", "/proc"), ("d", "dev"), ("r", "/"), ("s", "bin/../sys/kernel")] {
        symlink(target, image.at("l").join(link)).unwrap();
    }
    let kinds = [
        SandboxMountKind::Tmpfs { size: 0 },
        bind(MountSource::Path(image.at("l/bin")), "/", true),
    ];
    for dest in [
        "/",
        "/proc",
        "/proc/self",
        "/proc/sys/kernel",
        "/sys",
        "/sys/fs",
        "/dev",
        "/dev/null",
        "/dev/pts",
        "/bin/../proc",
        "/p",
        "/p/self",
        "/p/new",
        "/d",
        "/d/pts/x",
        "/d/new",
        "/r",
        "/s",
        "/s/x",
    ] {
        for kind in &kinds {
            let mut spec = image.sh("true");
            spec.mounts = vec![at(dest, kind.clone())];
            let text = refusal(runner, &spec);
            assert_eq!(text, format!("cannot mount on `{dest}`: target is reserved"));
        }
    }
    assert_eq!(image.changes(), [""; 0]);
}

pub fn hostile_mount_points(runner: &Runner) {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("f"), "host").unwrap();
    for place in ["proc", "sys", "dev"] {
        for target in ["/etc", "..", "/proc/self", host.path().to_str().unwrap()] {
            let image = Image::new();
            fs::create_dir(image.at("l/etc")).unwrap();
            symlink(target, image.at("l").join(place)).unwrap();
            let text = refusal(runner, &image.sh("true"));
            assert!(text.contains("is not a directory"), "{place} -> {target}: {text}");
        }
    }
    // The name files follow links, but within the root and not into what is reserved.
    for (target, reserved) in [
        ("/dev/null", true),
        ("/proc/self/status", true),
        ("/proc/self/fd/3", true),
        ("../../../../../../../..", true),
        (host.path().join("f").to_str().unwrap(), false),
    ] {
        for (file, holds) in [("hosts", "localhost"), ("resolv.conf", "nameserver 192.0.2.1")] {
            let image = Image::new();
            fs::create_dir(image.at("l/etc")).unwrap();
            symlink(target, image.at("l/etc").join(file)).unwrap();
            let mut spec = image.spec(&["cat", &format!("/etc/{file}")]);
            spec.dns.nameservers = vec!["192.0.2.1".into()];
            let ran = run(runner, &spec);
            match ran.outcome {
                Outcome::NotStarted(_) => assert!(reserved, "{target}: {:?}", ran.outcome),
                Outcome::Exited(0) => assert!(!reserved && ran.out.contains(holds), "{target}"),
                other => panic!("{target}: {other:?}"),
            }
            assert_eq!(fs::read_to_string(host.path().join("f")).unwrap(), "host");
        }
    }
}

pub fn mount_points_below_the_layers_leave_the_upper_alone(runner: &Runner) {
    let image = Image::new();
    image.file("srv/old", "x");
    fs::create_dir(image.at("m")).unwrap();
    fill_mount_points(&image.at("m")).unwrap();
    let with = |script: &str| {
        let mut spec = image.sh(script);
        spec.rootfs.below = Some(image.at("m"));
        spec
    };
    let script = "grep -q localhost /etc/hosts && ls /proc/self >/dev/null && ls /dev/null";
    assert_eq!(output(runner, &with(script)), "/dev/null\n");
    assert_eq!(image.changes(), [""; 0]);

    // A mount in a folder that only the mount points have: what is copied up for it goes again.
    let mut spec = with("true");
    spec.mounts = vec![at("/etc/more", SandboxMountKind::Tmpfs { size: 0 })];
    output(runner, &spec);
    assert_eq!(image.changes(), [""; 0]);

    output(runner, &with("echo y > /etc/new; rm /srv/old"));
    assert_eq!(image.changes(), ["etc", "etc/new", "srv", "srv/old"]);
    assert_eq!(fs::read_dir(image.at("m/etc")).unwrap().count(), 2, "they do not change");
}

pub fn upper_holds_only_what_the_step_did(runner: &Runner) {
    let image = Image::new();
    image.file("etc/old", "x");
    image.file("var/log/a", "x");
    assert_eq!(output(runner, &image.spec(&["true"])), "");
    assert_eq!(image.changes(), [""; 0]);
    output(runner, &image.sh("echo y > /etc/new; rm /var/log/a; mkdir -p /srv/x"));
    assert_eq!(image.changes(), ["etc", "etc/new", "srv", "srv/x", "var", "var/log", "var/log/a"]);
    assert_eq!(fs::read_to_string(image.at("u/etc/new")).unwrap(), "y\n");
    assert_eq!(fs::metadata(image.at("u/var/log/a")).unwrap().rdev(), 0, "a whiteout");
}

pub fn mount_points_leave_no_trace(runner: &Runner) {
    let image = Image::new();
    image.file("etc/old", "x");
    image.file("opt/deep/er/f", "x");
    let stamp = |p: &str| {
        let m = fs::metadata(image.at(p)).unwrap();
        (m.mtime(), m.mtime_nsec())
    };
    let before = stamp("u");
    let mut spec = image.sh("true");
    spec.mounts = vec![
        at("/opt/deep/er/mnt", SandboxMountKind::Tmpfs { size: 0 }),
        at("/a/b/c", SandboxMountKind::Tmpfs { size: 0 }),
    ];
    output(runner, &spec);
    assert_eq!(image.changes(), [""; 0]);
    assert_eq!(stamp("u"), before, "the root's time");

    // A step that works beside its mount points keeps its own changes and times.
    spec.args[2] =
        "echo > /opt/deep/own; touch -d @1000 /opt/deep; echo > /a/b/own; mkdir -p /etc/x".into();
    output(runner, &spec);
    let changes = image.changes();
    assert_eq!(changes, ["a", "a/b", "a/b/own", "etc", "etc/x", "opt", "opt/deep", "opt/deep/own"]);
    assert_eq!(stamp("u/opt/deep").0, 1000);
}
