//! Tests that need a user namespace, so that what they set up is their own: this program again,
//! as root of one, with the name of the test's other half.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// The first word that the other half is started with.
pub const FLAG: &str = "--in-user-namespace";

/// Runs the other half; `setup` is what a shell does before, in a network namespace of its own.
/// Gives what it printed.
#[track_caller]
pub fn run(setup: &str, half: &str) -> String {
    let script = format!(
        "{setup} exec unshare --user --mount \
         sh -ec 'echo ready; read go; exec \"$0\" {FLAG} {half}' \"$0\""
    );
    let mut build = Command::new("unshare")
        .args(["--net", "sh", "-ec", &script])
        .arg(std::env::current_exe().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    build.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", build.id()), "0 0 65536").unwrap();
    }
    build.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let ran = build.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    said
}
