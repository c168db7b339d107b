//! Debian's Docker engine, started by hand: folders, socket and pid file of its own, no bridge, no
//! rules of a firewall.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Run;

/// A dockerd; dropping it ends it.
pub struct Docker {
    child: Child,
    dir: TempDir,
}

impl Docker {
    /// Starts one; `Err`: why it does not run here.
    pub fn start() -> Result<Self, String> {
        // Its socket's path may have 108 bytes.
        let dir = tempfile::Builder::new().prefix("rgraph-docker-").tempdir_in("/tmp");
        let dir = dir.expect("a folder");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let log = fs::File::create(at("log")).expect("a file");
        let child = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("pid"), "-H", &format!("unix://{}", at("sock"))])
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--config-file"])
            .arg(empty_config(dir.path()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .map_err(|e| format!("dockerd does not start: {e}"))?;
        let mut docker = Self { child, dir };
        let up = crate::wait_until(Duration::from_secs(60), || {
            docker.child.try_wait().is_ok_and(|s| s.is_some()) || docker.try_run(&["info"]).is_ok()
        });
        if up && docker.child.try_wait().is_ok_and(|s| s.is_none()) {
            return Ok(docker);
        }
        let log = fs::read_to_string(docker.dir.path().join("log")).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(3).collect();
        Err(format!("dockerd does not run here: {}", last.join(" / ")))
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut client = Command::new("docker");
        client
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_CONFIG", self.dir.path().join("client"))
            .env("DOCKER_BUILDKIT", "0")
            .arg("-H")
            .arg(format!("unix://{}", self.dir.path().join("sock").display()))
            .args(args)
            .stdin(Stdio::null());
        client
    }

    /// Runs the client in a folder, for what it comes to.
    pub fn output_in(&self, dir: &Path, args: &[&str]) -> Run {
        let out = self.client(args).current_dir(dir).output().expect("docker is installed");
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        Run::new(out.status, out.stdout, stderr)
    }

    /// Runs the client; stdout, or stderr of a failure.
    pub fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let out = self.client(args).output().map_err(|e| e.to_string())?;
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    /// Runs the client, which has to succeed.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap_or_else(|e| panic!("docker {args:?}: {e}"))
    }
}

fn empty_config(dir: &Path) -> String {
    let path = dir.join("daemon.json");
    fs::write(&path, "{}").expect("a file");
    path.display().to_string()
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends its own containerd, and unmounts.
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap_or(());
        let ended = crate::wait_until(Duration::from_secs(30), || {
            self.child.try_wait().is_ok_and(|s| s.is_some())
        });
        if !ended {
            self.child.kill().and_then(|()| self.child.wait()).map(drop).unwrap_or(());
        }
        for point in crate::mounts_below(self.dir.path()) {
            let Some(path) = point.split(' ').nth(1) else { continue };
            Command::new("umount").args(["-l", path]).status().map(drop).unwrap_or(());
        }
    }
}
