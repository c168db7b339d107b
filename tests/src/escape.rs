//! Tries to get out of a step: system calls, files of the kernel, device nodes, other processes.
//! Each is refused as under Docker's default profile. The tries themselves are a program,
//! `fixtures/escape/tries.c`, which any container can run.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;

use crate::fixture;

/// What a kernel says that lacks the thing altogether.
const LACKS: &str = "ENOENT ENOSYS";

/// The tries, and what the kernel may say to root in a container; that it lacks the thing it may always.
pub const WANTED: &[(&str, &[&str])] = &[
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
        // Made, as in Docker, but not opened; a file that stands for one is none.
        "EACCES EPERM ENXIO",
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

/// What works with `security.insecure`, if not for what it asks for: the tries are true ones.
pub const WORK: &[&str] = &[
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
];

/// Who runs the tries in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Its root, who is root of the machine.
    Root,
    /// Its root, who is a plain user of the machine: the kernel's own files are not even theirs.
    MappedRoot,
    /// A user without rights, who is refused earlier, for whatever reason.
    User,
}

/// How many tries there are.
pub fn count() -> usize {
    WANTED.iter().map(|(_, names)| names.len()).sum()
}

/// Compiles the tries to `program`, which needs no library.
///
/// # Errors
/// Why that cannot be done here: there is no compiler.
pub fn compile(program: &Path) -> Result<(), String> {
    let built = Command::new("cc")
        .args(["-static", "-O1", "-w", "-o"])
        .arg(program)
        .arg(fixture("escape/tries.c"))
        .output();
    match built {
        Ok(built) if built.status.success() => Ok(()),
        Ok(built) => Err(format!("`cc -static`: {}", String::from_utf8_lossy(&built.stderr))),
        Err(e) => Err(format!("`cc`: {e}")),
    }
}

/// Somebody who listens outside, and whom a container must not reach; `None`: another test does already.
pub fn listen() -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name("rgraph-escape").expect("short");
    match UnixListener::bind_addr(&name) {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => None,
        listener => Some(listener.expect("a socket")),
    }
}

/// What the program printed, by try: the name of an error, or `ok`.
pub fn said(printed: &str) -> BTreeMap<&str, &str> {
    printed.lines().filter_map(|l| l.split_once(' ')).collect()
}

/// Whether it is a right that is missing, which may show earlier.
fn may_be_denied(want: &str) -> bool {
    ["EPERM", "EROFS"].contains(&want)
}

/// The tries that came to something else than they may, as lines of text: none if all is well.
pub fn wrong(printed: &str, by: By) -> Vec<String> {
    let said = said(printed);
    let mut wrong = Vec::new();
    for (want, names) in WANTED {
        for name in *names {
            let got = said.get(name).copied().unwrap_or("nothing");
            let may = |list: &str| list.split(' ').any(|w| w == got);
            let refused = match by {
                By::Root => false,
                By::MappedRoot => got == "EACCES" && may_be_denied(want),
                By::User => got != "ok" && got != "nothing",
            };
            if !may(want) && !may(LACKS) && !refused {
                wrong.push(format!("{name}: {got}, not {want}"));
            }
        }
    }
    if said.len() != count() {
        wrong.push(format!("{} tries and not {}", said.len(), count()));
    }
    wrong
}
