//! Programs for another machine, run by qemu. It is registered in binfmt_misc in a user namespace that ends
//! with the command, so the machine itself stays as it is.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The machine that is emulated, as platforms call it.
pub const FOREIGN: &str = "arm64";
/// Who does so.
pub const EMULATOR: &str = "qemu-aarch64-static";

/// All ids of the machine, for the namespace to have them too.
const IDS: &str = "root:0:65536\n";

/// Name, kind, offset, and the head of such a program with the bits of it that count (the kernel's
/// Documentation/admin-guide/binfmt-misc.rst; elf(5)): 64 bits, little endian, a program or a library, `EM_AARCH64`.
/// `F`: qemu is opened now, for images do not have it. `P`: programs hear by what name they were called.
const HEAD: &str = concat!(
    r":rgraph-test:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
);

const SCRIPT: &str = r#"set -e
mount --bind "$1" /etc/subuid
mount --bind "$1" /etc/subgid
head=$2
shift 2
exec unshare --user --map-users=0,0,65536 --map-groups=0,0,65536 --mount sh -ec '
  mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
  printf "%s%s:PF" "$0" "$(command -v "$1")" > /proc/sys/fs/binfmt_misc/register
  shift
  exec "$@"' "$head" "$@"
"#;

/// The command, with [`EMULATOR`] for programs of [`FOREIGN`]. Needs root, that, `newuidmap`; a folder
/// of the test.
pub fn emulated(dir: &Path, inner: &Command) -> Command {
    let ids = dir.join("emulator-ids");
    fs::write(&ids, IDS).expect("a file");
    let mut c = Command::new("unshare");
    c.args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(ids)
        .args([HEAD, EMULATOR])
        .arg(inner.get_program())
        .args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => c.env(name, value),
            None => c.env_remove(name),
        };
    }
    c.current_dir(inner.get_current_dir().unwrap_or(dir));
    c
}
