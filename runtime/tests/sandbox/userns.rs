//! Tests that need a user namespace, so that what they set up is their own: this program again,
//! as root of one, with the name of the test's other half.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};

use rgraph_runtime::sandbox::Runner;

/// Somebody who is no user of the machine, and the ids that are given to nobody else.
const USER: u32 = 64_000;
const MAP: &str = "0 64000 1\n1 3000000 65535\n";

/// What cannot be the same for a user, or is tested as one already.
const ROOTS: [&str; 6] = [
    "userns::",
    "pasta::",
    "machines::",
    "soak::",
    "lifecycle::nothing_outlives",
    "escape::tries_are",
];

/// All that holds for root's steps, in a namespace of a user who is not root.
pub fn what_holds_for_root_holds_for_a_user(_: &Runner) {
    let user = format!("setpriv --reuid {USER} --regid {USER} --clear-groups");
    if let Some(why) = no_namespace(&user) {
        println!("\n*** SKIPPED, NOT TESTED: steps of a user who is not root: {why} ***\n");
        return;
    }
    // The user may not reach this program where it is.
    let dir = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir.path(), open).unwrap();
    let (own, program) = (std::env::current_exe().unwrap(), dir.path().join("sandbox"));
    std::fs::hard_link(&own, &program)
        .or_else(|_| std::fs::copy(&own, &program).map(drop))
        .unwrap();
    let script = format!(
        "exec {user} unshare --user --mount sh -ec 'echo ready; read go; exec {} {FLAG} all'",
        program.display()
    );
    let mut build = Command::new("sh");
    build.args(["-ec", &script]).env("TMPDIR", dir.path());
    let said = mapped(build, MAP);
    println!("{said}");
    assert!(said.lines().filter(|l| l.starts_with("test ")).count() > 20, "{said}");
}

/// Why this machine gives a user no namespace, by the words of its own tools.
fn no_namespace(user: &str) -> Option<String> {
    let script = format!("exec {user} unshare --user --mount true");
    let ran = Command::new("sh").args(["-ec", &script]).output().unwrap();
    let words = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    (!ran.status.success()).then_some(words)
}

/// The other half of the test above.
pub fn all() -> ExitCode {
    let tests = crate::TESTS.iter().filter(|(name, _)| !ROOTS.iter().any(|r| name.starts_with(r)));
    crate::run_tests(tests)
}

/// True in a user namespace of a test's.
pub fn is_inside() -> bool {
    std::env::args().any(|a| a == FLAG)
}

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
    let mut build = Command::new("unshare");
    build.args(["--net", "sh", "-ec", &script]).arg(std::env::current_exe().unwrap());
    mapped(build, "0 0 65536")
}

/// Runs a command that says `ready` in its namespace, and goes on with a line when that has ids. Gives what it
/// printed.
#[track_caller]
fn mapped(mut build: Command, ids: &str) -> String {
    build.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut build = build.spawn().unwrap();
    let mut ready = [0; 6];
    build.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", build.id()), ids).unwrap();
    }
    build.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let ran = build.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    said
}
