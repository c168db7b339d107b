//! Cancelling, dying, and steps side by side.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rgraph_image::layer::Owners;
use rgraph_runtime::sandbox::*;
use rgraph_solver::cancel::CancelToken;

use crate::image::*;

pub fn cancel_kills_at_once_without_handler(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.spec(&["sleep", "100000"]);
    spec.grace = Duration::from_secs(100_000);
    let cancel = CancelToken::new();
    let running = launch(runner, &spec, vec![]);
    cancel.cancel();
    let ran = follow(running, &cancel);
    assert_eq!((ran.outcome, ran.cancelled), (Outcome::Signalled(9), true));
}

/// Follows a step until it has said `ready`, then cancels.
pub fn cancel_when_ready(runner: &Runner, spec: &SandboxSpec) -> (Finished, String) {
    let cancel = CancelToken::new();
    let mut out = String::new();
    let end = launch(runner, spec, vec![])
        .wait(&cancel, None, &mut |_, bytes| {
            out.push_str(std::str::from_utf8(bytes).unwrap());
            if out.contains("ready\n") {
                cancel.cancel();
            }
        })
        .unwrap();
    (end, out)
}

pub fn cancel_lets_a_handler_finish(runner: &Runner) {
    let image = Image::new();
    let mut spec =
        image.sh("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    spec.grace = Duration::from_secs(100_000);
    let (end, out) = cancel_when_ready(runner, &spec);
    assert_eq!(
        end,
        Finished { outcome: Outcome::Exited(5), hit: None, stopped: Some(Stopped::Cancelled) }
    );
    assert_eq!(out, "ready\nbye\n");
}

pub fn cancel_kills_after_the_grace_period(runner: &Runner) {
    let image = Image::new();
    let mut spec = image.sh("trap 'echo no' TERM; echo ready; while :; do sleep 0.01; done");
    spec.grace = Duration::from_millis(50);
    let (end, out) = cancel_when_ready(runner, &spec);
    assert_eq!(
        end,
        Finished { outcome: Outcome::Signalled(9), hit: None, stopped: Some(Stopped::Cancelled) }
    );
    assert_eq!(out, "ready\nno\n");
}

pub fn dropping_kills(runner: &Runner) {
    let image = Image::new();
    let mark = format!("4{}", std::process::id());
    let running = launch(runner, &image.sh(&format!("sleep {mark} & sleep {mark}")), vec![]);
    eventually("the step's start", || processes(&mark) >= 2);
    drop(running);
    eventually("the step's end", || processes(&mark) == 0);
}

pub fn steps_run_at_once(runner: &Runner) {
    // Each waits for a file that the next one makes: one after the other they would never end.
    let shared = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let shared = shared.path().to_owned();
            scope.spawn(move || {
                let image = Image::new();
                let next = (i + 1) % 4;
                let script = format!(
                    "echo > /s/{i}; while ! test -e /s/{next}; do sleep 0.01; done; echo {i}"
                );
                let mut spec = image.sh(&script);
                spec.mounts = vec![at("/s", bind(MountSource::Path(shared), "/", false))];
                assert_eq!(output(runner, &spec), format!("{i}\n"));
                for _ in 0..5 {
                    let image = Image::new();
                    assert_eq!(run(runner, &image.sh("exit 3")).outcome, Outcome::Exited(3));
                }
            });
        }
    });
}

/// A build that starts a step, says so and then does nothing.
pub fn hold(dir: &Path) -> ExitCode {
    let runner = Runner::start().unwrap();
    let rootfs = Rootfs {
        lowers: vec![dir.join("l")],
        upper: dir.join("u"),
        work: dir.join("w"),
        union: Union::Kernel,
        userxattr: false,
        owners: Owners::Kernel,
        below: None,
    };
    let mark = fs::read_to_string(dir.join("mark")).unwrap();
    let args = ["/bin/sh", "-c", &format!("sleep {mark} & trap '' TERM HUP; sleep {mark}")];
    let mut spec = SandboxSpec::new(rootfs, args.map(str::to_owned).to_vec());
    spec.env = vec!["PATH=/bin".into()];
    let running = runner.launch(&spec, vec![]).unwrap();
    println!("{}", runner.id());
    std::io::stdout().flush().unwrap();
    let _ = running.wait(&CancelToken::new(), None, &mut |_, _| {});
    ExitCode::SUCCESS
}

pub fn nothing_outlives_a_killed_build(_: &Runner) {
    let image = Image::new();
    let mark = format!("5{}", std::process::id());
    fs::write(image.at("mark"), &mark).unwrap();
    let mut build = Command::new(std::env::current_exe().unwrap())
        .arg("hold")
        .arg(image.0.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(build.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let runner = PathBuf::from(format!("/proc/{}", line.trim()));
    eventually("the step's start", || processes(&mark) >= 2);
    assert!(runner.exists());
    build.kill().unwrap();
    build.wait().unwrap();
    eventually("the step's end", || processes(&mark) == 0);
    // Nobody waits for the runner any more but the system's first process.
    let state = || fs::read_to_string(runner.join("stat")).unwrap_or_default();
    eventually("the runner's end", || !runner.exists() || state().contains(") Z "));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(image.0.path().to_str().unwrap()), "a mount is left");
}
