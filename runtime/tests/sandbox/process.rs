//! The step's process: program, streams, user, environment, working directory, limits.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rgraph_runtime::sandbox::*;
use rgraph_tests::need;

use crate::image::*;

pub fn exit_codes(runner: &Runner) {
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

pub fn streams_are_apart_and_complete(runner: &Runner) {
    let image = Image::new();
    let ran = run(runner, &image.sh("echo one; echo two >&2; echo three"));
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("one\nthree\n", "two\n"));
    let ran = run(runner, &image.sh("seq 1 300000; seq 1 300000 >&2"));
    let want: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(ran.out == want && ran.err == want, "{} {}", ran.out.len(), ran.err.len());
}

pub fn programs_that_cannot_run(runner: &Runner) {
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

pub fn names(runner: &Runner) {
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

pub fn users(runner: &Runner) {
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

pub fn hostile_passwd(runner: &Runner) {
    let host = tempfile::NamedTempFile::new().unwrap();
    fs::write(host.path(), "app:x:7:7::/:\n").unwrap();
    type Trap<'a> = (&'a str, &'a dyn Fn(&Path));
    let traps: [Trap<'_>; 5] = [
        ("absolute link to the host", &|p| symlink(host.path(), p).unwrap()),
        ("relative link to the host", &|p| {
            let up = "../".repeat(20);
            symlink(format!("{up}{}", host.path().display()), p).unwrap();
        }),
        ("pipe", &|p| assert!(Command::new("mkfifo").arg(p).status().unwrap().success())),
        ("device", &|p| {
            let made = Command::new("mknod").arg(p).args(["c", "1", "5"]).status();
            // A user's image has none; then there is no such file.
            assert!(made.unwrap().success() || crate::userns::is_inside());
        }),
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

/// There is no `no_new_privs`: a program of root's makes its caller root, as `sudo` and `ping` need.
pub fn setuid_programs_work(runner: &Runner) {
    let image = Image::new();
    let source = image.at("who.c");
    fs::write(&source, "int main(void) { setuid(0); return getuid() * 10 + geteuid(); }\n")
        .unwrap();
    let program = image.at("l/bin/who");
    let built =
        Command::new("cc").args(["-static", "-w", "-o"]).arg(&program).arg(&source).status();
    if !built.is_ok_and(|s| s.success()) {
        println!("\n*** SKIPPED, NOT TESTED: setuid programs: `cc -static` does not work ***\n");
        return;
    }
    let mut spec = image.spec(&["/bin/who"]);
    spec.user = "7".into();
    assert_eq!(run(runner, &spec).outcome, Outcome::Exited(77));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(run(runner, &spec).outcome, Outcome::Exited(0));
    spec.no_new_privileges = true;
    assert_eq!(run(runner, &spec).outcome, Outcome::Exited(77));
}

pub fn environment_is_exactly_what_was_given(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.spec(&["env"]);
    spec.env.push("A=line\nB=fake".into());
    assert_eq!(output(runner, &spec), "PATH=/bin\nA=line\nB=fake\nHOME=/root\n");
}

pub fn working_directory(runner: &Runner) {
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

pub fn limits(runner: &Runner) {
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

/// Since Linux 6.14 a process namespace has a `pid_max` of its own.
pub fn processes_are_counted(runner: &Runner) {
    need!(Kernel((6, 14)));
    let host = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let image = Image::new();
    let mut spec = image.sh("cat /proc/sys/kernel/pid_max");
    spec.processes = Some(400);
    assert_eq!(output(runner, &spec), "401\n");
    let bomb = "i=0; while [ $i -lt 600 ]; do sleep 1000 & i=$((i+1)); done; echo all";
    let bomb = |processes| {
        let mut spec = image.sh(bomb);
        spec.processes = processes;
        run(runner, &spec)
    };
    let ran = bomb(Some(400));
    assert_ne!(ran.outcome, Outcome::Exited(0), "{}", ran.out);
    assert!(ran.err.contains("fork"), "{}", ran.err);
    let ran = bomb(None);
    assert_eq!((ran.outcome, ran.out.as_str()), (Outcome::Exited(0), "all\n"), "{}", ran.err);
    // Neither the machine nor the next step is any different.
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").unwrap(), host);
    assert_eq!(output(runner, &image.sh("cat /proc/sys/kernel/pid_max")), "4194304\n");
}

pub fn large_environment(runner: &Runner) {
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
