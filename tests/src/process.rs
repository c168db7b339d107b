//! Builds in the background, and what ended ones must not leave.

use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Run;

/// A running rgraph, killed when dropped.
pub struct Background {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<()>>,
    said: Arc<Mutex<Vec<u8>>>,
    ended: bool,
}

impl Background {
    pub(crate) fn new(mut child: Child) -> Self {
        let mut out = child.stdout.take().expect("piped");
        let mut err = child.stderr.take().expect("piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let into = said.clone();
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            out.read_to_end(&mut bytes).expect("reading a pipe");
            bytes
        });
        let stderr = std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = err.read(&mut buf) {
                into.lock().expect("no panic").extend_from_slice(&buf[..n]);
            }
        });
        Self { child, stdout: Some(stdout), stderr: Some(stderr), said, ended: false }
    }

    /// What it wrote to stderr so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("no panic")).into_owned()
    }

    /// Waits until stderr holds `text`; panics when the process ends before.
    pub fn wait_for(&mut self, text: &str) {
        let started = Instant::now();
        while !self.said().contains(text) {
            if let Some(status) = self.child.try_wait().expect("our child") {
                assert!(
                    self.said().contains(text),
                    "ended ({status}) before `{text}`:\n{}",
                    self.said()
                );
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no `{text}`:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("our child takes signals");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Run {
        let status = self.child.wait().expect("our child");
        self.ended = true;
        let stdout = self.stdout.take().map(|t| t.join().expect("no panic")).unwrap_or_default();
        if let Some(t) = self.stderr.take() {
            t.join().expect("no panic");
        }
        Run::new(status, stdout, self.said())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended by itself.
            self.child.kill().unwrap_or(());
            self.child.wait().map(drop).unwrap_or(());
        }
    }
}

/// True while a process has `marker` in its command line.
pub fn has_process(marker: &str) -> bool {
    let Ok(dir) = std::fs::read_dir("/proc") else { return false };
    dir.flatten().any(|e| {
        let line = std::fs::read(e.path().join("cmdline")).unwrap_or_default();
        let own = e.file_name().to_string_lossy() == std::process::id().to_string();
        !own && line.windows(marker.len()).any(|w| w == marker.as_bytes())
    })
}

/// The mount points at or below a folder, in this namespace.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let dir = dir.display().to_string();
    text.lines().filter(|l| l.contains(&dir)).map(str::to_owned).collect()
}

/// Asks until the answer is yes or the time is over.
pub fn wait_until(most: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() > most {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
