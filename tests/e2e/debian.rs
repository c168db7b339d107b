//! Root file systems of Debian, made with its mirror. That takes minutes, so they are kept beside what is
//! compiled.

use std::fs;
use std::path::Path;
use std::process::Command;

use rgraph_tests::emulated;

/// The release that the tutorials' files stand on.
const RELEASE: &str = "bookworm";

/// The smallest system with `apt-get`, as a gzipped tar. For another architecture than the machine's its
/// programs are emulated. Needs root and `mmdebstrap`.
pub fn debian(arch: &str) -> Vec<u8> {
    kept(&format!("debian-{RELEASE}-{arch}"), arch, &["--variant=minbase"])
}

/// A system with one program, `/bin/busybox`, of which none was run.
pub fn busybox(arch: &str) -> Vec<u8> {
    let what = ["--variant=extract", "--include=busybox-static"];
    kept(&format!("busybox-{RELEASE}-{arch}"), arch, &what)
}

fn kept(name: &str, arch: &str, what: &[&str]) -> Vec<u8> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.tar.gz"));
    if !kept.exists() {
        let new = kept.with_file_name(format!("{name}-{}.tar.gz", std::process::id()));
        let mut c = Command::new("mmdebstrap");
        // A mirror may stand still for longer than its lists are said to be good for. The setting
        // stays in the system that is made.
        c.args(["--mode=root", "--aptopt=Acquire::Check-Valid-Until \"false\""])
            .arg(format!("--architectures={arch}"))
            .args(what)
            .arg(RELEASE)
            .arg(&new);
        let dir = tempfile::tempdir().expect("a folder");
        let native =
            matches!((arch, std::env::consts::ARCH), ("amd64", "x86_64") | ("arm64", "aarch64"));
        if !native && what[0] != "--variant=extract" {
            // It would ask a program that need not be here.
            c.arg("--skip=check/qemu");
            c = emulated(dir.path(), &c);
        }
        let made = c.output().expect("mmdebstrap");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::rename(&new, &kept).expect("the same folder");
    }
    fs::read(&kept).expect("an archive")
}
