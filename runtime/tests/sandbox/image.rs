//! An image of busybox alone, and running steps on it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rgraph_image::layer::Owners;
use rgraph_runtime::sandbox::*;
use rgraph_solver::cancel::CancelToken;

/// An image with nothing but busybox, and room for changes.
pub struct Image(pub tempfile::TempDir);

impl Image {
    pub fn new() -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        for d in ["l/bin", "u", "w"] {
            fs::create_dir_all(image.at(d)).unwrap();
        }
        for d in ["l", "u"] {
            fs::set_permissions(image.at(d), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let busybox = image.at("l/bin/busybox");
        fs::hard_link("/bin/busybox", &busybox)
            .or_else(|_| fs::copy("/bin/busybox", &busybox).map(drop))
            .expect("busybox is needed at /bin/busybox");
        for applet in [
            "sh", "true", "false", "cat", "ls", "id", "sleep", "mount", "env", "echo", "mkdir",
            "touch", "rm", "stat", "grep", "unshare", "hostname", "seq", "readlink", "head", "dd",
            "chmod", "mknod", "ln", "mv", "find", "wc", "nc",
        ] {
            symlink("busybox", image.at("l/bin").join(applet)).unwrap();
        }
        image
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn file(&self, path: &str, text: &str) {
        let path = self.at("l").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn spec(&self, args: &[&str]) -> SandboxSpec {
        let rootfs = Rootfs {
            lowers: vec![self.at("l")],
            upper: self.at("u"),
            work: self.at("w"),
            union: Union::Kernel,
            userxattr: crate::userns::is_inside(),
            owners: Owners::Kernel,
            below: None,
        };
        let mut spec = SandboxSpec::new(rootfs, args.iter().map(|a| (*a).to_owned()).collect());
        spec.env = vec!["PATH=/bin".into()];
        spec
    }

    pub fn sh(&self, script: &str) -> SandboxSpec {
        self.spec(&["sh", "-c", script])
    }

    /// Everything in the upper, sorted.
    pub fn changes(&self) -> Vec<String> {
        fn walk(dir: &Path, base: &Path, out: &mut Vec<String>) {
            for e in fs::read_dir(dir).unwrap() {
                let path = e.unwrap().path();
                out.push(path.strip_prefix(base).unwrap().display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, base, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.at("u"), &self.at("u"), &mut out);
        out.sort();
        out
    }
}

pub struct Ran {
    pub outcome: Outcome,
    pub cancelled: bool,
    pub out: String,
    pub err: String,
}

pub fn follow(running: Running, cancel: &CancelToken) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let end = running
        .wait(cancel, None, &mut |stream, bytes| match stream {
            Stream::Stdout => out.extend_from_slice(bytes),
            Stream::Stderr => err.extend_from_slice(bytes),
        })
        .unwrap();
    let text = |b| String::from_utf8(b).unwrap();
    Ran {
        outcome: end.outcome,
        cancelled: end.stopped == Some(Stopped::Cancelled),
        out: text(out),
        err: text(err),
    }
}

/// Starts the step with a work directory of its own: the kernel refuses one that was used for a
/// volatile overlay before.
pub fn launch(runner: &Runner, spec: &SandboxSpec, fds: Vec<OwnedFd>) -> Running {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut spec = spec.clone();
    spec.rootfs.work.push(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    fs::create_dir(&spec.rootfs.work).unwrap();
    runner.launch(&spec, fds).unwrap()
}

pub fn run_with(runner: &Runner, spec: &SandboxSpec, fds: Vec<OwnedFd>) -> Ran {
    follow(launch(runner, spec, fds), &CancelToken::new())
}

pub fn run(runner: &Runner, spec: &SandboxSpec) -> Ran {
    run_with(runner, spec, Vec::new())
}

/// What the step prints, when it succeeds.
#[track_caller]
pub fn output(runner: &Runner, spec: &SandboxSpec) -> String {
    let ran = run(runner, spec);
    assert_eq!(ran.outcome, Outcome::Exited(0), "{}{}", ran.out, ran.err);
    ran.out
}

/// The text of why the step did not begin.
#[track_caller]
pub fn refusal(runner: &Runner, spec: &SandboxSpec) -> String {
    let ran = run(runner, spec);
    match ran.outcome {
        Outcome::NotStarted(e) => e.to_string(),
        other => panic!("{other:?}: {}{}", ran.out, ran.err),
    }
}

pub fn bind(source: MountSource, selector: &str, readonly: bool) -> SandboxMountKind {
    SandboxMountKind::Bind { source, selector: selector.into(), readonly }
}

pub fn at(dest: &str, kind: SandboxMountKind) -> SandboxMount {
    SandboxMount { dest: dest.into(), kind }
}

/// Asks until it is so. Gives up after a time that only a broken machine needs.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes whose arguments contain `mark`.
pub fn processes(mark: &str) -> usize {
    let numeric = |e: &fs::DirEntry| e.file_name().to_string_lossy().parse::<u32>().is_ok();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(numeric)
        .filter_map(|e| fs::read(e.path().join("cmdline")).ok())
        .filter(|c| String::from_utf8_lossy(c).contains(mark))
        .count()
}
