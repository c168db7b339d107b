//! Builds of a user who is not root: the same images, the same walls, nothing left behind.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rgraph_tests::{Case, Ids, SUBIDS, USER, has_process, mounts_below, need, shout, wait_until};
use rustix::process::Signal;

/// Owners, modes, links, whiteouts, opaque folders, devices, a step's user.
const STEPS: &str = "FROM BASE
COPY --chown=app:apps d /d
COPY --chmod=4711 --chown=7:65535 f /f
RUN mkdir -p /a/b /tmp/x && echo 1 > /a/b/1 && echo 2 > /a/2 && ln /a/2 /a/b/3 && ln -s b /a/l
RUN chown -R 1000:1001 /a/b && chown 65535:3 /a/2 && chmod 6750 /a/2 && mkfifo /a/p
RUN rm -r /a/b && mkdir /a/b && echo new > /a/b/new && rm /a/l && echo over > /d/x/y
RUN umask 027 && mkdir /n && cd /n && mknod c c 1 3 && mknod -m 604 b b 7 1 && chown app b && ln c l
RUN mv /n/b /n/moved && chmod 600 /n/c
USER app
WORKDIR /tmp/w
RUN id > /tmp/id && touch /tmp/w/mine
";

fn case(ids: Option<Ids>) -> Case {
    let case = Case::new();
    let case = match ids {
        Some(ids) => case.of_user(ids),
        None => case,
    };
    case.import_base(rgraph_tests::BASE);
    case
}

fn image(case: &Case, dockerfile: &str) -> rgraph_tests::Image {
    case.file("d/x/y", "y").file("f", "f").dockerfile(dockerfile);
    let path = case.out("i.tar").display().to_string();
    let out = format!("type=oci,dest={path},rewrite-timestamp=true");
    case.build(&["--build-arg", "SOURCE_DATE_EPOCH=1600000000", "-o", &out]).ok();
    rgraph_tests::Image::from_archive(path.as_ref())
}

#[test]
fn the_same_layers_as_roots() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    let root = image(&case(None), STEPS);
    for ids in [Ids::Range, Ids::One] {
        let user = image(&case(Some(ids)), STEPS);
        for (n, (want, got)) in root.layers.iter().zip(&user.layers).enumerate() {
            assert_eq!(got.0, want.0, "{ids:?}: layer {n}");
        }
        assert_eq!(user.config["rootfs"], root.config["rootfs"]);
        assert_eq!(user.config["config"], root.config["config"]);
    }
}

#[test]
fn nodes_are_made_as_the_kernel_would_make_them() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for ids in [None, Some(Ids::Range), Some(Ids::One)] {
        let case = case(ids);
        case.dockerfile(
            "FROM BASE AS a
RUN mkdir -m 755 /d && cd /d && mknod c c 1 3 && ! mknod c c 1 3 2>/dev/null
RUN ! mknod /no/c c 1 3 && ! mknod /w c 0 0 && ln -s /d /s && mknod /s/via c 1 5
RUN cd /d && mknod ../../../up b 7 7 && test -e /up && cp -a /d/via /d/copy
USER app
RUN ! mknod /tmp/c c 1 3
FROM BASE
COPY --from=a /d/c /up /x/
",
        );
        case.build(&["--network", "none"]).ok();
    }
}

/// Ids beyond those that the user has; with one id they are recorded, and any will do.
#[test]
fn ids_that_the_user_has_not() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("tar"));
    for ids in [Ids::Range, Ids::One] {
        let case = case(Some(ids));
        case.file("f", "f");
        let made = Command::new("tar")
            .args(["--numeric-owner", "--owner=70000", "--group=70001", "-cf"])
            .arg(case.context().join("high.tar"))
            .args(["-C".as_ref(), case.context().as_os_str(), "f".as_ref()])
            .status();
        assert!(made.expect("tar").success());
        for (line, seen) in [
            ("COPY --chown=70000:70001 f /f", "70000:70001"),
            ("ADD high.tar /", "70000:70001"),
            ("USER 70000:70001\nRUN touch /tmp/f\nUSER 0\nRUN mv /tmp/f /f", "70000:70001"),
        ] {
            case.dockerfile(&format!("FROM BASE\n{line}\nRUN stat -c owner=%u:%g /f\n"));
            let run = case.build(&["--network", "none", "--no-cache"]);
            match ids {
                Ids::One => assert!(run.ok().stderr.contains(&format!("owner={seen}")), "{line}"),
                Ids::Range => drop(run.fails(1, &["Dockerfile:", "/etc/subuid", "no number in"])),
            }
        }
    }
}

/// Root who may not pass over modes makes nodes that it may not write to.
const WEAK: &str = r#"
#include <linux/capability.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
int main(void) {
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct caps[2] = { { 1 << CAP_MKNOD, 1 << CAP_MKNOD, 0 } };
    if (syscall(SYS_capset, &head, caps)) return perror("capset"), 1;
    umask(022);
    if (mknod("/d/r", S_IFCHR | 0464, makedev(1, 3))) return perror("r"), 1;
    umask(0377);
    if (mknod("/d/n", S_IFBLK | 0666, makedev(7, 1))) return perror("n"), 1;
    return 0;
}
"#;

#[test]
fn a_node_need_not_be_writable() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("gcc"));
    for ids in [None, Some(Ids::Range), Some(Ids::One)] {
        let case = case(ids);
        let source = case.out("weak.c");
        fs::write(&source, WEAK).expect("a file");
        let built = Command::new("gcc")
            .args(["-static", "-w", "-o"])
            .arg(case.context().join("weak"))
            .arg(&source)
            .status();
        assert!(built.expect("gcc").success());
        let path = case.out("i.tar").display().to_string();
        case.dockerfile("FROM BASE\nCOPY --chmod=755 weak /weak\nRUN mkdir /d && /weak\n");
        case.build(&["--network", "none", "-o", &format!("type=oci,dest={path}")]).ok();
        let image = rgraph_tests::Image::from_archive(path.as_ref());
        let layer = image.layers.last().expect("of the step");
        assert_eq!((layer.get("d/r").mode, layer.get("d/n").mode), (0o444, 0o400), "{ids:?}");
    }
}

/// Opening a file in a folder waits until this ends.
const HOLD: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/fanotify.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int fan = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);
    struct fanotify_event_metadata event;
    if (fan < 0 || fanotify_mark(fan, FAN_MARK_ADD, FAN_OPEN_PERM | FAN_EVENT_ON_CHILD, AT_FDCWD, argv[1]))
        return perror("fanotify"), 1;
    puts("ready"), fflush(stdout);
    if (read(fan, &event, sizeof event) < 0) return perror("read"), 1;
    puts("held"), fflush(stdout);
    return getchar() != EOF;
}
"#;

/// A file system that takes its time over one step's node takes none of another step's.
#[test]
fn a_node_that_is_slow_to_make_holds_up_its_own_step_alone() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("gcc"));
    let tools = Case::new();
    let (source, hold) = (tools.out("hold.c"), tools.out("hold"));
    fs::write(&source, HOLD).expect("a file");
    let built = Command::new("gcc").arg("-w").arg("-o").arg(&hold).arg(&source).status();
    assert!(built.expect("gcc").success());
    for ids in [Ids::Range, Ids::One] {
        let case = case(Some(ids));
        let args = ["--network", "none", "--no-cache"];
        let slow = "--mount=type=cache,id=slow,target=/c";
        let turn = "--mount=type=cache,id=turn,target=/t";
        case.dockerfile(&format!("FROM BASE\nRUN {slow} {turn} touch /c/slow-one /t/turn-one\n"));
        case.build(&args).ok();
        let dir = |name| find(&case.root(), name).expect("it was made");
        let (slow_dir, turn_dir) = (dir("slow-one"), dir("turn-one"));
        let mut held = Command::new(&hold)
            .arg(slow_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("just built");
        let mut lines = BufReader::new(held.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().and_then(Result::ok);
        if line().as_deref() != Some("ready") {
            held.wait().expect("our child");
            return shout("a slow file: the kernel holds no `open` up (fanotify)");
        }
        case.dockerfile(&format!(
            "FROM BASE AS slow\nRUN {slow} mknod /c/node c 1 3 && echo slow-en''ded\n\
             FROM BASE AS quick\nRUN {turn} until test -e /t/go; do sleep 0.02; done; touch /went\n\
             RUN mknod /quick c 1 5 && echo quick-en''ded\n\
             FROM BASE\nCOPY --from=slow /etc/passwd /a\nCOPY --from=quick /went /b\n"
        ));
        let mut build = case.start(&case.build_args(&args));
        assert_eq!(line().as_deref(), Some("held"), "{}", build.said());
        fs::write(turn_dir.join("go"), "").expect("a file");
        build.wait_for(" quick-ended");
        assert!(!build.said().contains(" slow-ended"), "{}", build.said());
        drop(held.stdin.take());
        assert!(held.wait().expect("our child").success());
        build.finish().ok();
    }
}

/// The folder in `dir` or below that holds `name`.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir).ok()?.flatten().collect();
    if entries.iter().any(|e| e.file_name() == name) {
        return Some(dir.to_owned());
    }
    let is_dir = |e: &&fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    entries.iter().filter(is_dir).find_map(|e| find(&e.path(), name))
}

/// Each line is one thing that a step must not be able to do; it prints what it got.
const ATTEMPTS: [&str; 12] = [
    "mount -t tmpfs none /mnt",
    "mount -o remount,rw /proc/sys",
    "umount /proc/kcore",
    "unshare -U true",
    "chroot /proc/1/root true && cat /proc/1/root/../../etc/subuid",
    "echo 1 > /proc/sys/kernel/hostname",
    "echo x > /sys/kernel/profiling",
    "cat /proc/1/environ | grep RGRAPH",
    "hostname other",
    "dd if=/dev/mem of=/dev/null count=1",
    "head -c 1 /proc/kcore | grep .",
    "ls /sys/fs/cgroup | grep .",
];

#[test]
fn the_same_walls_as_roots() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for ids in [None, Some(Ids::Range), Some(Ids::One)] {
        let case = case(ids);
        // The host's network is the harder case: `/sys` is then somebody else's.
        for network in ["none", "host"] {
            let tries: String =
                ATTEMPTS.iter().map(|a| format!("({a}) && echo GOT '{a}'\n")).collect();
            case.file("d/try", &tries).dockerfile(
                "FROM BASE\nCOPY d/try /try\nRUN mkdir /mnt; sh /try || true\n\
                 RUN grep -q 'CapBnd:.00000000a80425fb' /proc/self/status\n\
                 RUN grep -q 'Seccomp:.2' /proc/self/status\n\
                 RUN test \"$(ls /proc/self/fd | tr '\\n' ' ')\" = '0 1 2 3 '\n\
                 RUN echo > /dev/null && test $(head -c 4 /dev/zero | wc -c) = 4\n",
            );
            let run = case.build(&["--network", network, "--no-cache"]).ok();
            assert!(!run.stderr.contains(" GOT "), "{ids:?} {network}: {}", run.stderr);
        }
    }
}

/// All that is on the disk belongs to the user, and goes when the user says so.
#[test]
fn files_of_others_are_the_users_to_remove() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    let case = case(Some(Ids::Range));
    image(&case, STEPS);
    let owners = |case: &Case| -> Vec<u32> {
        let mut owners: Vec<u32> = walkdir(&case.root()).iter().map(|m| m.uid()).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    };
    let range = SUBIDS.0..SUBIDS.0 + SUBIDS.1;
    let before = owners(&case);
    assert!(before.len() > 2, "{before:?}");
    assert!(before.iter().all(|o| *o == USER || range.contains(o)), "{before:?}");
    case.rgraph(&["du"]).ok();
    case.rgraph(&["store", "check", "--read-data"]).ok();
    case.rgraph(&["rmi", rgraph_tests::BASE]).ok();
    case.rgraph(&["prune", "-af"]).ok();
    assert_eq!(owners(&case), [USER]);
}

fn walkdir(dir: &std::path::Path) -> Vec<std::fs::Metadata> {
    let mut out = Vec::new();
    for e in std::fs::read_dir(dir).expect("a folder").flatten() {
        let meta = std::fs::symlink_metadata(e.path()).expect("just listed");
        if meta.is_dir() {
            out.extend(walkdir(&e.path()));
        }
        out.push(meta);
    }
    out
}

#[test]
fn signals_end_it_as_they_end_roots() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    let case = case(Some(Ids::Range));
    for (n, (signal, code)) in
        [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, 137)].into_iter().enumerate()
    {
        let marker = format!("4{}{n}", std::process::id());
        case.dockerfile(&format!("FROM BASE\nRUN sleep {marker} & echo be''gun; sleep {marker}\n"));
        let mut run = case.start(&case.build_args(&[]));
        run.wait_for(" begun");
        run.signal(signal);
        assert_eq!(run.finish().code, code);
        let root = case.root().display().to_string();
        let soon = Duration::from_secs(5);
        assert!(wait_until(soon, || !has_process(&format!("sleep\0{marker}"))), "{signal:?}");
        assert!(wait_until(soon, || !has_process(&root)), "{signal:?}");
        assert_eq!(mounts_below(&case.root()), Vec::<String>::new());
    }
    case.dockerfile("FROM BASE\nRUN exit 3\n");
    case.build(&[]).fails(1, &["exit code: 3"]);
}

/// By `pasta`; the loopback of the host, where something listens, is not the step's.
#[test]
fn steps_have_a_network_of_their_own() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("pasta"));
    let case = case(Some(Ids::Range));
    if !case.open_tun() {
        return shout("/dev/net/tun cannot be opened");
    }
    let host = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = host.local_addr().expect("bound").port();
    let ask = format!("nc -w 2 127.0.0.1 {port} < /dev/null");
    case.dockerfile(&format!(
        "FROM BASE\nRUN ! {ask}\nRUN ip route | grep -q ^default && ip addr show eth0\n\
         RUN --network=host {ask}\n"
    ));
    let answer = std::thread::spawn(move || drop(host.accept()));
    let run = case.build(&["--allow", "network.host"]).ok();
    assert!(!run.stderr.contains("WARN"), "{}", run.stderr);
    answer.join().expect("no panic");
}
