//! Steps in real sandboxes, with busybox as the whole image.
//!
//! Its own `main`: the sandbox starts this very program again as its runner, which must happen
//! before there is a second thread. `cargo test -p rgraph-runtime --test sandbox [FILTER]`;
//! `-- measure` prints what a step costs instead.

#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rgraph_runtime::sandbox::*;
use rgraph_solver::cancel::CancelToken;
use rgraph_sys::{channel, mount};

type Test = (&'static str, fn(&Runner));

const TESTS: &[Test] = &[
    ("exit_codes", exit_codes),
    ("streams_are_apart_and_complete", streams_are_apart_and_complete),
    ("programs_that_cannot_run", programs_that_cannot_run),
    ("only_standard_streams_are_open", only_standard_streams_are_open),
    ("capabilities_and_filter", capabilities_and_filter),
    ("forbidden_calls", forbidden_calls),
    ("device_nodes_cannot_be_opened", device_nodes_cannot_be_opened),
    ("proc_and_sys_are_covered", proc_and_sys_are_covered),
    ("host_mounts_are_hidden", host_mounts_are_hidden),
    ("network_none_has_only_loopback", network_none_has_only_loopback),
    ("names", names),
    ("users", users),
    ("hostile_passwd", hostile_passwd),
    ("environment_is_exactly_what_was_given", environment_is_exactly_what_was_given),
    ("working_directory", working_directory),
    ("limits", limits),
    ("mounts", mounts),
    ("reserved_targets", reserved_targets),
    ("hostile_mount_points", hostile_mount_points),
    ("upper_holds_only_what_the_step_did", upper_holds_only_what_the_step_did),
    ("mount_points_leave_no_trace", mount_points_leave_no_trace),
    ("cancel_kills_at_once_without_handler", cancel_kills_at_once_without_handler),
    ("cancel_lets_a_handler_finish", cancel_lets_a_handler_finish),
    ("cancel_kills_after_the_grace_period", cancel_kills_after_the_grace_period),
    ("dropping_kills", dropping_kills),
    ("steps_run_at_once", steps_run_at_once),
    ("large_environment", large_environment),
    ("own_binary_is_read_only", own_binary_is_read_only),
    ("nothing_outlives_a_killed_build", nothing_outlives_a_killed_build),
];

fn main() -> ExitCode {
    runner_main_if_asked();
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    match args.first().map(String::as_str) {
        Some("hold") => return hold(Path::new(&args[1])),
        Some("measure") => return measure(),
        _ => {}
    }
    let chosen = TESTS.iter().filter(|(name, _)| args.iter().all(|a| name.contains(a.as_str())));
    if !is_root() {
        println!("\n*** SKIPPED, NOT TESTED: {} sandbox tests need root ***\n", chosen.count());
        return ExitCode::SUCCESS;
    }
    let runner = Runner::start().expect("the runner starts");
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&runner)));
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// An image with nothing but busybox, and room for changes.
struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        for d in ["l/bin", "u", "w"] {
            fs::create_dir_all(image.at(d)).unwrap();
        }
        for d in ["l", "u"] {
            fs::set_permissions(image.at(d), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let busybox = image.at("l/bin/busybox");
        fs::hard_link("/bin/busybox", &busybox)
            .or_else(|_| fs::copy("/bin/busybox", &busybox).map(drop))
            .expect("busybox is needed at /bin/busybox");
        for applet in [
            "sh", "true", "false", "cat", "ls", "id", "sleep", "mount", "env", "echo", "mkdir",
            "touch", "rm", "stat", "grep", "unshare", "hostname", "seq", "readlink", "head", "dd",
            "chmod", "mknod", "ln", "mv", "find", "wc", "nc",
        ] {
            symlink("busybox", image.at("l/bin").join(applet)).unwrap();
        }
        image
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at("l").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn spec(&self, args: &[&str]) -> SandboxSpec {
        let rootfs = Rootfs {
            lowers: vec![self.at("l")],
            upper: self.at("u"),
            work: self.at("w"),
            userxattr: false,
        };
        let mut spec = SandboxSpec::new(rootfs, args.iter().map(|a| (*a).to_owned()).collect());
        spec.env = vec!["PATH=/bin".into()];
        spec
    }

    fn sh(&self, script: &str) -> SandboxSpec {
        self.spec(&["sh", "-c", script])
    }

    /// Everything in the upper, sorted.
    fn changes(&self) -> Vec<String> {
        fn walk(dir: &Path, base: &Path, out: &mut Vec<String>) {
            for e in fs::read_dir(dir).unwrap() {
                let path = e.unwrap().path();
                out.push(path.strip_prefix(base).unwrap().display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, base, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.at("u"), &self.at("u"), &mut out);
        out.sort();
        out
    }
}

struct Ran {
    outcome: Outcome,
    cancelled: bool,
    out: String,
    err: String,
}

fn follow(running: Running, cancel: &CancelToken) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = running
        .wait(cancel, &mut |stream, bytes| match stream {
            Stream::Stdout => out.extend_from_slice(bytes),
            Stream::Stderr => err.extend_from_slice(bytes),
        })
        .unwrap();
    let text = |b| String::from_utf8(b).unwrap();
    Ran { outcome: end.outcome, cancelled: end.cancelled, out: text(out), err: text(err) }
}

/// Starts the step with a work directory of its own: the kernel refuses one that was used for a
/// volatile overlay before.
fn launch(runner: &Runner, spec: &SandboxSpec, fds: Vec<OwnedFd>) -> Running {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut spec = spec.clone();
    spec.rootfs.work.push(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir(&spec.rootfs.work).unwrap();
    runner.launch(&spec, fds).unwrap()
}

fn run_with(runner: &Runner, spec: &SandboxSpec, fds: Vec<OwnedFd>) -> Ran {
    follow(launch(runner, spec, fds), &CancelToken::new())
}

fn run(runner: &Runner, spec: &SandboxSpec) -> Ran {
    run_with(runner, spec, Vec::new())
}

/// What the step prints, when it succeeds.
#[track_caller]
fn output(runner: &Runner, spec: &SandboxSpec) -> String {
    let ran = run(runner, spec);
    assert_eq!(ran.outcome, Outcome::Exited(0), "{}{}", ran.out, ran.err);
    ran.out
}

/// The text of why the step did not begin.
#[track_caller]
fn refusal(runner: &Runner, spec: &SandboxSpec) -> String {
    let ran = run(runner, spec);
    match ran.outcome {
        Outcome::NotStarted(e) => e.to_string(),
        other => panic!("{other:?}: {}{}", ran.out, ran.err),
    }
}

fn exit_codes(runner: &Runner) {
    for (args, want) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["/bin/true"], 0),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137),
    ] {
        let image = Image::new();
        assert_eq!(run(runner, &image.spec(args)).outcome, Outcome::Exited(want), "{args:?}");
    }
    let image = Image::new();
    let mut scratch = image.spec(&["/bin/busybox", "true"]);
    scratch.rootfs.lowers.clear();
    fs::create_dir(image.at("u/bin")).unwrap();
    fs::copy("/bin/busybox", image.at("u/bin/busybox")).unwrap();
    assert_eq!(run(runner, &scratch).outcome, Outcome::Exited(0), "a root without layers");
}

fn streams_are_apart_and_complete(runner: &Runner) {
    let image = Image::new();
    let ran = run(runner, &image.sh("echo one; echo two >&2; echo three"));
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("one\nthree\n", "two\n"));
    let ran = run(runner, &image.sh("seq 1 300000; seq 1 300000 >&2"));
    let want: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(ran.out == want && ran.err == want, "{} {}", ran.out.len(), ran.err.len());
}

fn programs_that_cannot_run(runner: &Runner) {
    let image = Image::new();
    image.file("plain", "not executable");
    image.file("bin/badscript", "#!/no/such/interpreter\n");
    image.file("bin/garbage", "\u{1}\u{2}\u{3}");
    for f in ["bin/badscript", "bin/garbage"] {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(image.at("l").join(f), mode).unwrap();
    }
    for (program, code, text) in [
        ("nothing", 127, "cannot run `nothing`: executable file not found in $PATH"),
        ("/no/thing", 127, "cannot run `/no/thing`: no such file or directory"),
        ("/bin/sh/x", 127, "no such file or directory"),
        ("badscript", 127, "it exists, but the interpreter or loader it names does not"),
        ("/plain", 126, "cannot run `/plain`: permission denied"),
        ("/bin", 126, "permission denied"),
        ("garbage", 126, "exec format error"),
    ] {
        let outcome = run(runner, &image.spec(&[program])).outcome;
        assert_eq!(outcome.code(), Some(code), "{program}: {outcome:?}");
        let Outcome::NotStarted(e) = outcome else { panic!("{program}: {outcome:?}") };
        assert!(e.to_string().contains(text), "{program}: {e}");
    }
    assert_eq!(refusal(runner, &image.spec(&[])), "no program given");
    assert_eq!(refusal(runner, &image.spec(&["echo", "a\0b"])), "an argument contains a NUL byte");
    assert_eq!(image.changes(), [""; 0]);
}

fn only_standard_streams_are_open(runner: &Runner) {
    let image = Image::new();
    // 3 is the directory that `ls` reads.
    assert_eq!(output(runner, &image.spec(&["ls", "/proc/self/fd"])), "0\n1\n2\n3\n");
    let links = output(runner, &image.sh("for i in 0 1 2; do readlink /proc/self/fd/$i; done"));
    let links: Vec<_> = links.lines().collect();
    assert_eq!(links[0], "/dev/null");
    assert!(links[1].starts_with("pipe:") && links[2].starts_with("pipe:"), "{links:?}");
}

fn status(runner: &Runner, spec: &mut SandboxSpec, fields: &[&str]) -> Vec<String> {
    spec.args = vec!["cat".into(), "/proc/self/status".into()];
    let text = output(runner, spec);
    fields
        .iter()
        .map(|f| {
            let line = text.lines().find_map(|l| l.strip_prefix(&format!("{f}:")));
            line.unwrap_or_else(|| panic!("no {f}")).trim().to_owned()
        })
        .collect()
}

fn capabilities_and_filter(runner: &Runner) {
    let fields = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let (full, none) = ("00000000a80425fb", "0000000000000000");
    let image = Image::new();
    let mut spec = image.spec(&[]);
    assert_eq!(status(runner, &mut spec, &fields), [none, full, full, full, none, "0", "2"]);
    spec.user = "1000:1000".into();
    assert_eq!(status(runner, &mut spec, &fields), [none, none, none, full, none, "0", "2"]);
    spec.no_new_privileges = true;
    assert_eq!(status(runner, &mut spec, &fields)[5], "1");

    let mut spec = image.spec(&[]);
    spec.security = Security::Insecure;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap().trim();
    let got = status(runner, &mut spec, &fields);
    assert_eq!((got[2].as_str(), got[6].as_str()), (own, "0"));
}

fn forbidden_calls(runner: &Runner) {
    for (script, insecure_works) in [
        ("unshare -m true", true),
        ("unshare -n true", true),
        ("mount -t tmpfs x /bin", true),
        ("echo 1 > /proc/sys/kernel/domainname", true),
        ("echo x > /sys/kernel/uevent_helper", false),
        ("echo h > /proc/sysrq-trigger", false),
        ("mkdir /sys/fs/cgroup/x", false),
    ] {
        let image = Image::new();
        let ran = run(runner, &image.sh(script));
        assert_ne!(ran.outcome, Outcome::Exited(0), "{script}");
        if insecure_works {
            let mut spec = image.sh(script);
            spec.security = Security::Insecure;
            let ran = run(runner, &spec);
            assert_eq!(ran.outcome, Outcome::Exited(0), "{script}: {}", ran.err);
        }
    }
}

fn device_nodes_cannot_be_opened(runner: &Runner) {
    let image = Image::new();
    // Major 1 minor 5 is /dev/zero: harmless, and readable for whoever can open it.
    for place in ["/", "/dev/", "/dev/shm/", "/mnt/", "/bind/"] {
        let script = format!("mknod {place}z c 1 5 && echo made && dd if={place}z bs=1 count=1");
        let mut spec = image.sh(&script);
        spec.mounts = vec![
            at("/mnt", SandboxMountKind::Tmpfs { size: 0 }),
            at("/bind", bind(MountSource::Path(image.at("l/bin")), "/", false)),
        ];
        let ran = run(runner, &spec);
        assert_eq!((ran.outcome, ran.out.as_str()), (Outcome::Exited(1), "made\n"), "{place}");
        assert!(ran.err.contains("ermission denied"), "{place}: {}", ran.err);
    }
    // One that came with an image.
    assert!(
        Command::new("mknod")
            .arg(image.at("l/given"))
            .args(["c", "1", "5"])
            .status()
            .unwrap()
            .success()
    );
    assert_ne!(run(runner, &image.sh("head -c 1 /given")).outcome, Outcome::Exited(0));

    let script = "head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; \
                  echo x > /dev/null; wc -c < /dev/null; (echo x > /dev/full) 2>/dev/null || echo full";
    assert_eq!(output(runner, &image.sh(script)), "3\n5\n0\nfull\n");
}

fn proc_and_sys_are_covered(runner: &Runner) {
    let image = Image::new();
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"] {
        let here = Path::new(path).exists();
        let text = run(runner, &image.sh(&format!("cat {path} | wc -c")));
        assert_eq!(text.out.trim(), "0", "{path}, on the host: {here}");
    }
    for path in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
        let ran = run(runner, &image.sh(&format!("ls -A {path} 2>/dev/null")));
        assert_eq!(ran.out, "", "{path}");
    }
    let pids = output(runner, &image.sh("echo /proc/[0-9]*"));
    assert_eq!(pids, "/proc/1\n");
}

fn host_mounts_are_hidden(runner: &Runner) {
    let image = Image::new();
    let table = output(runner, &image.spec(&["cat", "/proc/self/mountinfo"]));
    let allowed = ["/", "/proc", "/sys", "/dev", "/etc/resolv.conf", "/etc/hosts"];
    let mut seen = BTreeSet::new();
    for line in table.lines() {
        let mut fields = line.split(' ').skip(4);
        let place = fields.next().unwrap().to_owned();
        let below = ["/proc/", "/sys/", "/dev/"].iter().any(|p| place.starts_with(p));
        assert!(allowed.contains(&place.as_str()) || below, "{line}");
        assert!(!line.contains(" ext4 ") && !line.contains(" cgroup"), "{line}");
        assert!(seen.insert(place), "mounted twice: {line}");
    }
    assert_eq!(
        output(runner, &image.spec(&["ls", "/"])),
        output(runner, &image.spec(&["ls", "/.."]))
    );
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(image.0.path().to_str().unwrap()), "the host sees a mount: {host}");
}

fn network_none_has_only_loopback(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.sh("cat /proc/net/dev");
    let devices = |text: &str| -> Vec<String> {
        text.lines().filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned())).collect()
    };
    let host = devices(&fs::read_to_string("/proc/net/dev").unwrap());
    assert_eq!(devices(&output(runner, &spec)), host);
    spec.network = Network::None;
    assert_eq!(devices(&output(runner, &spec)), ["lo"]);

    // It is on: somebody who listens there can be reached.
    let script = "nc -l -p 7777 -e echo heard & while ! nc 127.0.0.1 7777 </dev/null; do :; done";
    let mut spec = image.sh(script);
    spec.network = Network::None;
    assert_eq!(output(runner, &spec), "heard\n");

    // The host's loopback is another one.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut spec = image.sh(&format!("nc -w 2 127.0.0.1 {port} </dev/null"));
    spec.network = Network::None;
    let ran = run(runner, &spec);
    assert_ne!(ran.outcome, Outcome::Exited(0));
    assert!(ran.err.contains("refused"), "{}", ran.err);
}

fn names(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.sh("hostname; cat /etc/hosts; cat /etc/resolv.conf");
    assert!(
        output(runner, &spec)
            .starts_with("buildkitsandbox\n127.0.0.1\tlocalhost buildkitsandbox\n")
    );
    spec.hostname = "box".into();
    spec.extra_hosts = vec![ExtraHost { host: "db".into(), ip: "10.9.8.7".into() }];
    spec.dns.nameservers = vec!["192.0.2.1".into()];
    let text = output(runner, &spec);
    assert!(text.starts_with("box\n127.0.0.1\tlocalhost box\n"), "{text}");
    assert!(text.contains("10.9.8.7\tdb\nnameserver 192.0.2.1\n"), "{text}");
    let ran = run(runner, &image.sh("echo x >> /etc/hosts"));
    assert_ne!(ran.outcome, Outcome::Exited(0), "the file is not the image's to change");

    // An image that has them keeps its own in the layer.
    image.file("etc/hosts", "mine\n");
    image.file("etc/resolv.conf", "mine\n");
    assert!(
        !output(runner, &image.spec(&["cat", "/etc/hosts", "/etc/resolv.conf"])).contains("mine")
    );
    assert_eq!(image.changes(), [""; 0]);

    // A link to something that is not there yet, as systemd images have it.
    let image = Image::new();
    fs::create_dir(image.at("l/etc")).unwrap();
    symlink("../run/systemd/stub.conf", image.at("l/etc/resolv.conf")).unwrap();
    let text = output(runner, &image.spec(&["cat", "/run/systemd/stub.conf", "/etc/resolv.conf"]));
    assert!(text.contains("nameserver"), "{text}");
    assert_eq!(image.changes(), [""; 0]);
}

fn users(runner: &Runner) {
    let image = Image::new();
    image.file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n");
    image.file("etc/group", "app:x:1001:\nwheel:x:10:app\n");
    let show = "id -u; id -g; id -G; echo $HOME; echo hi > /dev/stderr";
    for (user, want) in [
        ("", "0\n0\n0\n/root\n"),
        ("app", "1000\n1001\n1001 10\n/home/app\n"),
        ("app:wheel", "1000\n10\n10\n/home/app\n"),
        ("1000:5", "1000\n5\n5\n/home/app\n"),
        ("77", "77\n0\n0\n/\n"),
    ] {
        let mut spec = image.sh(show);
        spec.user = user.into();
        let ran = run(runner, &spec);
        assert_eq!((ran.out.as_str(), ran.err.as_str()), (want, "hi\n"), "{user}");
    }
    let mut spec = image.sh(show);
    spec.env.push("HOME=/mine".into());
    assert!(output(runner, &spec).ends_with("/mine\n"));
    for (user, want) in [
        ("nobody", "no such user in image: `nobody`"),
        ("app:none", "no such group in image: `none`"),
    ] {
        let mut spec = image.sh("true");
        spec.user = user.into();
        assert_eq!(refusal(runner, &spec), want);
    }
}

fn hostile_passwd(runner: &Runner) {
    let host = tempfile::NamedTempFile::new().unwrap();
    fs::write(host.path(), "app:x:7:7::/:\n").unwrap();
    type Trap<'a> = (&'a str, &'a dyn Fn(&Path));
    let traps: [Trap<'_>; 4] = [
        ("absolute link to the host", &|p| symlink(host.path(), p).unwrap()),
        ("relative link to the host", &|p| {
            let up = "../".repeat(20);
            symlink(format!("{up}{}", host.path().display()), p).unwrap();
        }),
        ("pipe", &|p| assert!(Command::new("mkfifo").arg(p).status().unwrap().success())),
        ("huge", &|p| fs::File::create(p).unwrap().set_len(8 << 30).unwrap()),
    ];
    for (what, make) in traps {
        let image = Image::new();
        fs::create_dir(image.at("l/etc")).unwrap();
        make(&image.at("l/etc/passwd"));
        let mut spec = image.sh("true");
        spec.user = "app".into();
        let text = refusal(runner, &spec);
        assert!(text.starts_with("no such user in image"), "{what}: {text}");
        spec.user = String::new();
        assert_eq!(run(runner, &spec).outcome, Outcome::Exited(0), "{what}, as root");
    }
}

fn environment_is_exactly_what_was_given(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.spec(&["env"]);
    spec.env.push("A=line\nB=fake".into());
    assert_eq!(output(runner, &spec), "PATH=/bin\nA=line\nB=fake\nHOME=/root\n");
}

fn working_directory(runner: &Runner) {
    let image = Image::new();
    for (cwd, want) in [("/", "/\n"), ("", "/\n"), ("/bin", "/bin\n"), ("/new/deep", "/new/deep\n")]
    {
        let mut spec = image.sh("pwd -P");
        spec.cwd = cwd.into();
        assert_eq!(output(runner, &spec), want, "{cwd}");
    }
    assert_eq!(image.changes(), ["new", "new/deep"]);
    symlink("/proc/self/fd/7", image.at("l/seven")).unwrap();
    for cwd in (3..13).map(|n| format!("/proc/self/fd/{n}")).chain([
        "/seven".into(),
        "/proc/self/cwd".into(),
        "/proc/1/root".into(),
        "/proc/self/fd/4/../../..".into(),
    ]) {
        let mut spec = image.spec(&["ls", "../../.."]);
        spec.cwd = cwd.clone();
        let text = refusal(runner, &spec);
        assert_eq!(text, format!("cwd outside the container: `{cwd}`"));
    }
}

fn limits(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.sh("ulimit -n; ulimit -H -n; ulimit -c; umask");
    let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
    spec.ulimits = vec![limit("nofile", 100, 200), limit("core", 0, 0)];
    assert_eq!(output(runner, &spec), "100\n200\n0\n0022\n");
    spec.ulimits = vec![limit("nonsense", 1, 1)];
    assert_eq!(refusal(runner, &spec), "unknown resource limit `nonsense`");
    let mut spec = image.sh("grep ' /dev/shm ' /proc/mounts");
    spec.shm_size = 4 << 20;
    assert!(output(runner, &spec).contains("size=4096k"));
}

fn bind(source: MountSource, selector: &str, readonly: bool) -> SandboxMountKind {
    SandboxMountKind::Bind { source, selector: selector.into(), readonly }
}

fn at(dest: &str, kind: SandboxMountKind) -> SandboxMount {
    SandboxMount { dest: dest.into(), kind }
}

fn mounts(runner: &Runner) {
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

fn reserved_targets(runner: &Runner) {
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

fn hostile_mount_points(runner: &Runner) {
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
        let image = Image::new();
        fs::create_dir(image.at("l/etc")).unwrap();
        symlink(target, image.at("l/etc/hosts")).unwrap();
        let ran = run(runner, &image.spec(&["cat", "/etc/hosts"]));
        match ran.outcome {
            Outcome::NotStarted(_) => assert!(reserved, "{target}: {:?}", ran.outcome),
            Outcome::Exited(0) => assert!(!reserved && ran.out.contains("localhost"), "{target}"),
            other => panic!("{target}: {other:?}"),
        }
        assert_eq!(fs::read_to_string(host.path().join("f")).unwrap(), "host");
    }
}

fn upper_holds_only_what_the_step_did(runner: &Runner) {
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

fn mount_points_leave_no_trace(runner: &Runner) {
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

fn cancel_kills_at_once_without_handler(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.spec(&["sleep", "100000"]);
    spec.grace = Duration::from_secs(100_000);
    let cancel = CancelToken::new();
    let running = launch(runner, &spec, vec![]);
    cancel.cancel();
    let ran = follow(running, &cancel);
    assert_eq!((ran.outcome, ran.cancelled), (Outcome::Signalled(9), true));
}

/// Follows a step until it has said `ready`, then cancels.
fn cancel_when_ready(runner: &Runner, spec: &SandboxSpec) -> (Finished, String) {
    let cancel = CancelToken::new();
    let mut out = String::new();
    let end = launch(runner, spec, vec![])
        .wait(&cancel, &mut |_, bytes| {
            out.push_str(std::str::from_utf8(bytes).unwrap());
            if out.contains("ready\n") {
                cancel.cancel();
            }
        })
        .unwrap();
    (end, out)
}

fn cancel_lets_a_handler_finish(runner: &Runner) {
    let image = Image::new();
    let mut spec =
        image.sh("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    spec.grace = Duration::from_secs(100_000);
    let (end, out) = cancel_when_ready(runner, &spec);
    assert_eq!(end, Finished { outcome: Outcome::Exited(5), cancelled: true });
    assert_eq!(out, "ready\nbye\n");
}

fn cancel_kills_after_the_grace_period(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.sh("trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done");
    spec.grace = Duration::from_millis(50);
    let (end, out) = cancel_when_ready(runner, &spec);
    assert_eq!(end, Finished { outcome: Outcome::Signalled(9), cancelled: true });
    assert_eq!(out, "ready\nno\n");
}

/// Asks until it is so. Gives up after a time that only a broken machine needs.
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes whose arguments contain `mark`.
fn processes(mark: &str) -> usize {
    let numeric = |e: &fs::DirEntry| e.file_name().to_string_lossy().parse::<u32>().is_ok();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(numeric)
        .filter_map(|e| fs::read(e.path().join("cmdline")).ok())
        .filter(|c| String::from_utf8_lossy(c).contains(mark))
        .count()
}

fn dropping_kills(runner: &Runner) {
    let image = Image::new();
    let mark = format!("4{}", std::process::id());
    let running = launch(runner, &image.sh(&format!("sleep {mark} & sleep {mark}")), vec![]);
    eventually("the step's start", || processes(&mark) >= 2);
    drop(running);
    eventually("the step's end", || processes(&mark) == 0);
}

fn steps_run_at_once(runner: &Runner) {
    // Each waits for a file that the next one makes: one after the other they would never end.
    let shared = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let shared = shared.path().to_owned();
            scope.spawn(move || {
                let image = Image::new();
                let next = (i + 1) % 4;
                let script = format!(
                    "echo > /s/{i}; while ! test -e /s/{next}; do sleep 0.01; done; echo {i}"
                );
                let mut spec = image.sh(&script);
                spec.mounts = vec![at("/s", bind(MountSource::Path(shared), "/", false))];
                assert_eq!(output(runner, &spec), format!("{i}\n"));
                for _ in 0..5 {
                    let image = Image::new();
                    assert_eq!(run(runner, &image.sh("exit 3")).outcome, Outcome::Exited(3));
                }
            });
        }
    });
}

fn large_environment(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.sh("echo ${#BIG1} ${#BIG2} ${#1}");
    spec.env.push(format!("BIG1={}", "x".repeat(100_000)));
    spec.env.push(format!("BIG2={}", "y".repeat(120_000)));
    spec.args.extend(["sh".into(), "z".repeat(110_000)]);
    assert_eq!(output(runner, &spec), "100000 120000 110000\n");
    // One variable may not be longer than the kernel's 128 KiB; that is told, not crashed upon.
    spec.env.push(format!("BIG3={}", "x".repeat(200_000)));
    let outcome = run(runner, &spec).outcome;
    assert_eq!(outcome.code(), Some(126), "{outcome:?}");
}

fn own_binary_is_read_only(runner: &Runner) {
    // What a step gets hold of through /proc/self/exe is the runner's view of the binary.
    let exe = fs::File::open(format!("/proc/{}/exe", runner.id())).unwrap();
    let error = exe.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

/// A build that starts a step, says so and then does nothing.
fn hold(dir: &Path) -> ExitCode {
    let runner = Runner::start().unwrap();
    let rootfs = Rootfs {
        lowers: vec![dir.join("l")],
        upper: dir.join("u"),
        work: dir.join("w"),
        userxattr: false,
    };
    let mark = fs::read_to_string(dir.join("mark")).unwrap();
    let args = ["/bin/sh", "-c", &format!("sleep {mark} & trap '' TERM HUP; sleep {mark}")];
    let mut spec = SandboxSpec::new(rootfs, args.map(str::to_owned).to_vec());
    spec.env = vec!["PATH=/bin".into()];
    let running = runner.launch(&spec, vec![]).unwrap();
    println!("{}", runner.id());
    std::io::stdout().flush().unwrap();
    let _ = running.wait(&CancelToken::new(), &mut |_, _| {});
    ExitCode::SUCCESS
}

fn nothing_outlives_a_killed_build(_: &Runner) {
    let image = Image::new();
    let mark = format!("5{}", std::process::id());
    fs::write(image.at("mark"), &mark).unwrap();
    let mut build = Command::new(std::env::current_exe().unwrap())
        .arg("hold")
        .arg(image.0.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(build.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let runner = PathBuf::from(format!("/proc/{}", line.trim()));
    eventually("the step's start", || processes(&mark) >= 2);
    assert!(runner.exists());
    build.kill().unwrap();
    build.wait().unwrap();
    eventually("the step's end", || processes(&mark) == 0);
    // Nobody waits for the runner any more but the system's first process.
    let state = || fs::read_to_string(runner.join("stat")).unwrap_or_default();
    eventually("the runner's end", || !runner.exists() || state().contains(") Z "));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(image.0.path().to_str().unwrap()), "a mount is left");
}

/// What a step costs: overlay, namespaces, `true`, cleaning up.
fn measure() -> ExitCode {
    let start = Instant::now();
    let runner = Runner::start().unwrap();
    println!("runner started in {:?}", start.elapsed());
    for (what, network, stubs) in [
        ("host network", Network::Host, false),
        ("host network, image without /etc/hosts", Network::Host, true),
        ("network none", Network::None, false),
    ] {
        let mut times = Vec::new();
        for _ in 0..50 {
            let image = Image::new();
            if !stubs {
                for d in ["proc", "sys", "dev"] {
                    fs::create_dir(image.at("l").join(d)).unwrap();
                }
                image.file("etc/hosts", "");
                image.file("etc/resolv.conf", "");
            }
            let mut spec = image.spec(&["/bin/true"]);
            spec.network = network;
            let start = Instant::now();
            assert_eq!(run(&runner, &spec).outcome, Outcome::Exited(0));
            times.push(start.elapsed());
        }
        times.sort();
        println!("{what}: median {:?}, least {:?}, most {:?}", times[25], times[0], times[49]);
    }
    ExitCode::SUCCESS
}
