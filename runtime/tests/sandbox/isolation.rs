//! What a step must not see or do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use rgraph_runtime::sandbox::*;

use crate::image::*;
use crate::userns;

pub fn only_standard_streams_are_open(runner: &Runner) {
    let image = Image::new();
    // 3 is the directory that `ls` reads.
    assert_eq!(output(runner, &image.spec(&["ls", "/proc/self/fd"])), "0\n1\n2\n3\n");
    let links = output(runner, &image.sh("for i in 0 1 2; do readlink /proc/self/fd/$i; done"));
    let links: Vec<_> = links.lines().collect();
    assert_eq!(links[0], "/dev/null");
    assert!(links[1].starts_with("pipe:") && links[2].starts_with("pipe:"), "{links:?}");
}

pub fn status(runner: &Runner, spec: &mut SandboxSpec, fields: &[&str]) -> Vec<String> {
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

pub fn capabilities_and_filter(runner: &Runner) {
    // What the runner ignores or blocks is not the step's affair; SIGPIPE above all.
    let signals = status(runner, &mut Image::new().spec(&[]), &["SigBlk", "SigIgn"]);
    assert_eq!(signals, ["0000000000000000"; 2]);
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
    // The one filter that there is asks for nodes.
    let filters = if userns::is_inside() { "2" } else { "0" };
    assert_eq!((got[2].as_str(), got[6].as_str()), (own, filters));
}

pub fn forbidden_calls(runner: &Runner) {
    for (script, insecure_works) in [
        ("unshare -m true", true),
        ("unshare -n true", true),
        ("mount -t tmpfs x /bin", true),
        ("echo 1 > /proc/sys/kernel/domainname", !userns::is_inside()),
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

pub fn device_nodes_cannot_be_opened(runner: &Runner) {
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
        if userns::is_inside() {
            // A file that stands for it: there is nothing to open.
            assert_eq!((ran.outcome, ran.out.as_str()), (Outcome::Exited(0), "made\n"), "{place}");
            assert!(ran.err.contains("0+0 records out"), "{place}: {}", ran.err);
            continue;
        }
        assert_eq!((ran.outcome, ran.out.as_str()), (Outcome::Exited(1), "made\n"), "{place}");
        assert!(ran.err.contains("ermission denied"), "{place}: {}", ran.err);
    }
    // One that came with an image; a user's images have none.
    let mut mknod = Command::new("mknod");
    mknod.arg(image.at("l/given")).args(["c", "1", "5"]);
    if !userns::is_inside() {
        assert!(mknod.status().unwrap().success());
        assert_ne!(run(runner, &image.sh("head -c 1 /given")).outcome, Outcome::Exited(0));
    }

    let script = "head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; \
                  echo x > /dev/null; wc -c < /dev/null; (echo x > /dev/full) 2>/dev/null || echo full";
    assert_eq!(output(runner, &image.sh(script)), "3\n5\n0\nfull\n");
}

pub fn proc_and_sys_are_covered(runner: &Runner) {
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

pub fn host_mounts_are_hidden(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.spec(&["cat", "/proc/self/mountinfo"]);
    if userns::is_inside() {
        // A user's steps in the host's network have the host's /sys, whose mounts are listed.
        spec.network = Network::None;
    }
    let table = output(runner, &spec);
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

pub fn network_none_has_only_loopback(runner: &Runner) {
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

pub fn own_binary_is_read_only(runner: &Runner) {
    // What a step gets hold of through /proc/self/exe is the runner's view of the binary.
    let exe = fs::File::open(format!("/proc/{}/exe", runner.id())).unwrap();
    let error = exe.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}
