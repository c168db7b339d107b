//! A user who is not root, for the commands of a test. The machine has no such user: its files about
//! users are covered for the command alone, in a mount namespace that ends with it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

/// Who that is; no login of the machine.
pub const USER: u32 = 64_000;
/// The ids that the user may give away: this many, from this one on.
pub const SUBIDS: (u32, u32) = (3_000_000, 65_536);

/// What the user has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// A range of others' ids.
    Range,
    /// The own one.
    One,
}

/// Makes the user's folder below the case's, which the user gets.
pub(crate) fn prepare(dir: &Path) {
    let home = dir.join("user");
    let write = |name: &str, text: &str| fs::write(home.join(name), text).expect("a file");
    fs::create_dir(&home).expect("a folder");
    write("passwd", &format!("root:x:0:0::/root:/bin/sh\nplain:x:{USER}:{USER}::/:/bin/sh\n"));
    write("group", &format!("root:x:0:\nplain:x:{USER}:\n"));
    // What the program is shown as: its own place may be closed to the user.
    write("rgraph", "");
    for path in [dir.to_owned(), dir.join("context"), dir.join("docker"), home] {
        chown(path, Some(USER), Some(USER)).expect("root gives away");
    }
}

/// What the user has from now on.
pub(crate) fn give_ids(dir: &Path, ids: Ids) {
    let range = match ids {
        Ids::Range => format!("plain:{}:{}\n", SUBIDS.0, SUBIDS.1),
        Ids::One => String::new(),
    };
    for name in ["subuid", "subgid"] {
        fs::write(dir.join("user").join(name), &range).expect("a file");
    }
}

/// A device of the machine that a user may be given, by the name of its node in the user's folder.
struct Device {
    node: &'static str,
    path: &'static str,
    numbers: [&'static str; 2],
}

const TUN: Device = Device { node: "tun", path: "/dev/net/tun", numbers: ["10", "200"] };
const FUSE: Device = Device { node: "fuse", path: "/dev/fuse", numbers: ["10", "229"] };

impl Device {
    fn open(&self, dir: &Path) -> bool {
        let node = dir.join("user").join(self.node);
        let made = Path::new(self.path).exists()
            && Command::new("mknod")
                .args(["-m", "666"])
                .arg(&node)
                .arg("c")
                .args(self.numbers)
                .status()
                .is_ok_and(|s| s.success());
        made && fs::OpenOptions::new().read(true).write(true).open(&node).is_ok()
    }
}

/// Opens `/dev/net/tun` to the user; false: the machine has none.
pub(crate) fn open_tun(dir: &Path) -> bool {
    TUN.open(dir)
}

/// Opens `/dev/fuse` to the user; false: the machine has none.
pub(crate) fn open_fuse(dir: &Path) -> bool {
    FUSE.open(dir)
}

/// Gives the user all that the test has made so far; the state root is the user's own anyway.
fn give(dir: &Path) {
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = e.path();
        // What goes meanwhile is a running command's own.
        std::os::unix::fs::lchown(&path, Some(USER), Some(USER)).unwrap_or(());
        if e.file_type().is_ok_and(|t| t.is_dir()) {
            give(&path);
        }
    }
}

/// The command, run by the user.
pub(crate) fn wrap(dir: &Path, inner: &Command) -> Command {
    let home = dir.join("user");
    for e in fs::read_dir(dir).expect("the case's folder").flatten() {
        if !["root", "user"].iter().any(|own| e.file_name() == *own) {
            give(&e.path());
            std::os::unix::fs::lchown(e.path(), Some(USER), Some(USER)).unwrap_or(());
        }
    }
    let mut mounts = String::from("set -e; cd /; ");
    for name in ["passwd", "group", "subuid", "subgid"] {
        mounts += &format!("mount --bind {0}/{name} /etc/{name}; ", home.display());
    }
    for device in [TUN, FUSE].iter().filter(|d| home.join(d.node).exists()) {
        let (node, path) = (device.node, device.path);
        mounts += &format!("mount --bind {}/{node} {path}; ", home.display());
    }
    let program = inner.get_program().display();
    mounts += &format!("mount --bind {program} {}/rgraph; cd \"$OLDPWD\"; ", home.display());
    let mut c = Command::new("unshare");
    c.args(["--mount", "sh", "-c"])
        .arg(format!("{mounts} exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\""))
        .arg("sh")
        .arg(home.join("rgraph"))
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => c.env(name, value),
            None => c.env_remove(name),
        };
    }
    c.env_remove("XDG_RUNTIME_DIR").env_remove("XDG_DATA_HOME").env("HOME", &home);
    c.current_dir(inner.get_current_dir().unwrap_or(dir));
    c
}
