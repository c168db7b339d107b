//! Tries to get out of a step: system calls, files of the kernel, device nodes, other processes.
//! Each is refused as under Docker's default profile. The tries are in `escape.c`.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;

use rgraph_runtime::sandbox::*;

use crate::image::*;

/// What a kernel says that lacks the thing altogether.
const LACKS: &str = "ENOENT ENOSYS";

/// The tries, and what the kernel may say to root in a step; that it lacks the thing it may always.
const WANTED: &[(&str, &[&str])] = &[
    (
        // Not in the profile, or only with rights that a step has not.
        "EPERM",
        &[
            "mount",
            "mount_proc",
            "mount_bind",
            "remount_rw",
            "umount_mask",
            "umount_proc",
            "pivot_root",
            "fsopen",
            "fspick",
            "fsconfig",
            "fsmount",
            "open_tree",
            "move_mount",
            "mount_setattr",
            "unshare_user",
            "unshare_mnt",
            "unshare_net",
            "unshare_pid",
            "unshare_ipc",
            "unshare_uts",
            "unshare_cgroup",
            "unshare_time",
            "clone_user",
            "clone_mnt",
            "clone_net",
            "clone_pid",
            "clone_cgroup",
            "setns_mnt",
            "setns_net",
            "uid_map",
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "perf_event_open",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "kexec_file_load",
            "reboot",
            "syslog",
            "swapon",
            "swapoff",
            "acct",
            "ioperm",
            "iopl",
            "open_by_handle_at",
            "userfaultfd",
            "fanotify_init",
            "quotactl",
            "io_uring_setup",
            "io_uring_register",
            "settimeofday",
            "clock_settime",
            "sethostname",
            "setdomainname",
            "vhangup",
            "personality",
            "mbind",
            "move_pages",
            "lookup_dcookie",
            "uselib",
            "sysfs",
            "ustat",
            "pidfd_getfd",
            "kcmp",
            "i386_mount",
            "x32_getpid",
            "socket_alg",
            "socket_vsock",
            "iptables",
            "link_up",
            "capset",
            "ambient",
            "sys_admin_bound",
            "rlimit",
            "realtime",
            "immutable",
            "trusted_xattr",
            "freeze",
            "kmsg",
        ],
    ),
    // glibc then takes clone, whose flags can be looked at.
    ("ENOSYS", &["clone3_user"]),
    (
        "EROFS",
        &[
            "core_pattern",
            "modprobe_path",
            "drop_caches",
            "binfmt_misc",
            "ns_last_pid",
            "sysctl_chmod",
            "sysrq",
            "irq",
            "uevent_helper",
            "power_state",
            "cpu_online",
            "cgroup_mkdir",
            "cgroup_procs",
            "release_agent",
        ],
    ),
    ("ENODATA EACCES", &["kcore", "keys", "timer_list", "sched_debug"]),
    ("EACCES EPERM EBUSY EXDEV", &["unmask"]),
    ("ENOENT", &["dev_kmsg", "dev_mem", "dev_fuse", "dev_tun", "firmware", "root_of_parent"]),
    // It has no terminal.
    ("ENXIO", &["tty"]),
    ("ETXTBSY", &["rewrite_exe"]),
    ("EACCES", &["oom_score", "nice"]),
    (
        // Made, as in Docker, but not opened.
        "EACCES EPERM",
        &[
            "node_zero",
            "node_mem",
            "node_kmsg",
            "node_fuse",
            "node_disk",
            "node_loop",
            "loop_control",
        ],
    ),
    // Up to its own root and no further.
    ("EXDEV", &["chroot_up"]),
    ("ECONNREFUSED", &["abstract_socket"]),
    ("ESRCH EPERM", &["kill_host", "ptrace_others"]),
];

/// The tries, compiled into the image. `None`: no compiler here.
fn image() -> Option<Image> {
    let image = Image::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandbox/escape.c");
    let built = Command::new("cc")
        .args(["-static", "-O1", "-w", "-o"])
        .arg(image.at("l/bin/escape"))
        .arg(source)
        .output();
    match built {
        Ok(built) if built.status.success() => {
            for d in ["tmp", "proc", "sys", "dev"] {
                fs::create_dir_all(image.at("l").join(d)).unwrap();
            }
            Some(image)
        }
        other => {
            println!(
                "\n*** SKIPPED, NOT TESTED: escapes, for `cc -static` cannot: {other:?} ***\n"
            );
            None
        }
    }
}

fn said(ran: &Ran) -> BTreeMap<String, String> {
    assert_eq!(ran.outcome, Outcome::Exited(0), "{}{}", ran.out, ran.err);
    let pair = |l: &str| l.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    ran.out.lines().filter_map(pair).collect()
}

pub fn every_try_is_refused(runner: &Runner) {
    let Some(image) = image() else { return };
    let tries: usize = WANTED.iter().map(|(_, names)| names.len()).sum();
    assert!(tries >= 60, "{tries}");
    // Somebody listens outside.
    let name = SocketAddr::from_abstract_name("rgraph-escape").unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    let mut wrong = Vec::new();
    for (user, network) in
        [("", Network::None), ("1000:1000", Network::None), ("", Network::Private)]
    {
        let mut spec = image.spec(&["escape"]);
        spec.user = user.into();
        spec.network = network;
        if network == Network::Private
            && let Err(why) = runner.connect().unwrap()
        {
            println!("\n*** SKIPPED, NOT TESTED: escapes in a private network: {why} ***\n");
            continue;
        }
        let said = said(&run(runner, &spec));
        assert_eq!(said.len(), tries, "{said:?}");
        for (want, names) in WANTED {
            for name in *names {
                let got = said.get(*name).map_or("nothing", String::as_str);
                let may = |list: &str| list.split(' ').any(|w| w == got);
                // Who is not root is refused earlier, for whatever reason.
                let refused = !user.is_empty() && got != "ok" && got != "nothing";
                if !may(want) && !may(LACKS) && !refused {
                    wrong.push(format!("{name} as `{user}` in {network:?}: {got}, not {want}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Control: the tries themselves work where they may.
pub fn tries_are_true(runner: &Runner) {
    let Some(image) = image() else { return };
    let mut spec = image.spec(&["escape"]);
    spec.security = Security::Insecure;
    spec.network = Network::None;
    let said = said(&run(runner, &spec));
    for name in [
        "mount",
        "mount_bind",
        "fsopen",
        "fspick",
        "open_tree",
        "unshare_user",
        "unshare_mnt",
        "clone_user",
        "clone_pid",
        "clone3_user",
        "setns_net",
        "keyctl",
        "add_key",
        "personality",
        "ustat",
        "sysfs",
        "kcmp",
        "i386_mount",
        "sethostname",
        "link_up",
        "sys_admin_bound",
        "node_zero",
        "realtime",
        "nice",
        "core_pattern",
        "umount_proc",
    ] {
        // Some are then refused for what they ask for.
        assert!(["ok", "EINVAL"].contains(&said[name].as_str()), "{name}: {}", said[name]);
    }
}

pub fn nothing_outlives_a_step(runner: &Runner) {
    let mark = format!("6{}", std::process::id());
    let image = Image::new();
    let script = format!(
        "sleep {mark} & (setsid sh -c 'trap \"\" TERM HUP INT; sleep {mark}' &) ; \
         (sleep {mark} </dev/null >/dev/null 2>&1 &); exit 0"
    );
    let mut spec = image.sh(&script);
    std::os::unix::fs::symlink("busybox", image.at("l/bin/setsid")).unwrap();
    spec.env.push("HOME=/".into());
    assert_eq!(run(runner, &spec).outcome, Outcome::Exited(0));
    assert_eq!(processes(&mark), 0, "at the moment its end is told");
}

/// The parent of a mount point becomes a link to the host while the step runs: what is then taken
/// away is the step's.
pub fn swapped_parents_of_mount_points(runner: &Runner) {
    let host = tempfile::tempdir().unwrap();
    for path in ["d/m", "s"] {
        fs::create_dir_all(host.path().join(path)).unwrap();
    }
    for path in ["d/m/kept", "s/m"] {
        fs::write(host.path().join(path), "kept").unwrap();
    }
    let decoy = host.path().display();
    let kinds: [fn(&Image) -> SandboxMountKind; 3] = [
        |_| SandboxMountKind::Tmpfs { size: 0 },
        |image| bind(MountSource::Path(image.at("l/bin")), "/", true),
        |image| bind(MountSource::Path(image.at("l/bin")), "/busybox", true),
    ];
    for kind in kinds {
        for target in ["d", "s"] {
            let image = Image::new();
            let mut spec = image.sh(&format!(
                "mv /a/b /moved && ln -s {decoy}/{target} /a/b; mv /a /other; ln -s {decoy} /a"
            ));
            spec.mounts = vec![at("/a/b/m", kind(&image))];
            let ran = run(runner, &spec);
            assert_eq!(ran.outcome, Outcome::Exited(0), "{}", ran.err);
            for path in ["d/m/kept", "s/m"] {
                let text = fs::read_to_string(host.path().join(path));
                assert_eq!(text.expect("it is still there"), "kept");
            }
        }
    }
}
