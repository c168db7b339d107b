//! Programs for other machines: run by an emulator that the host has registered, or refused by name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode};

use rgraph_runtime::sandbox::*;

use crate::image::*;
use crate::userns;

/// A program for a machine that nobody has: `e_machine` 0x4242. Nothing else in it matters.
fn program(machine: u16) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0]);
    bytes.extend(machine.to_le_bytes());
    bytes.resize(64, 0);
    bytes
}

fn image(machine: u16) -> Image {
    let image = Image::new();
    let path = image.at("l/bin/foreign");
    fs::write(&path, program(machine)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    image
}

pub fn an_emulator_that_is_missing_is_named(runner: &Runner) {
    // One that is neither of x86 nor of arm.
    let text = refusal(runner, &image(22).spec(&["foreign"]));
    let said = "cannot run `foreign`: it is a program for s390x, and this machine has no emulator";
    assert!(text.starts_with(said) && text.contains("binfmt_misc"), "{text}");
    let text = refusal(runner, &image(0x4242).spec(&["/bin/foreign"]));
    assert!(text.contains("for another kind of machine"), "{text}");
}

pub fn registered_emulators_are_used(_: &Runner) {
    print!("{}", userns::run("", "machines"));
}

/// The other half of the test above. The emulator is busybox, as `echo`: it tells what it was given.
pub fn build() -> ExitCode {
    const PLACE: &str = "/proc/sys/fs/binfmt_misc";
    let mounted = Command::new("mount").args(["-t", "binfmt_misc", "binfmt_misc", PLACE]).output();
    let mounted = mounted.unwrap();
    if !mounted.status.success() {
        let why = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
        println!("\n*** SKIPPED, NOT TESTED: emulators: no binfmt_misc of one's own: {why} ***\n");
        return ExitCode::SUCCESS;
    }
    let outside = tempfile::tempdir().unwrap();
    let emulator = outside.path().join("echo");
    fs::copy("/bin/busybox", &emulator).unwrap();
    let register = |name: &str, flags: &str| {
        let magic: String = program(0x4242)[..20].iter().map(|b| format!("\\x{b:02x}")).collect();
        let line = format!(":{name}:M::{magic}::{}:{flags}", emulator.display());
        fs::write(format!("{PLACE}/register"), line).unwrap();
    };
    register("rgraph-test", "F");
    let runner = Runner::start().unwrap();
    let image = image(0x4242);
    let mut spec = image.spec(&["foreign", "a", "b"]);
    spec.rootfs.userxattr = true;
    assert_eq!(output(&runner, &spec), "/bin/foreign a b\n");
    // Without the flag it is looked for in the image.
    fs::write(format!("{PLACE}/rgraph-test"), "-1").unwrap();
    register("rgraph-test", "");
    let text = refusal(&runner, &spec);
    assert!(text.contains("its emulator is not in the image") && text.contains("flag F"), "{text}");
    ExitCode::SUCCESS
}
