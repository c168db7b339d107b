//! A command at a terminal, as a person has it in front of them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Case;

/// A command whose three streams are a terminal, which is its controlling one: keys like `^C` and a new
/// size are signals to it.
pub struct Screen {
    child: Child,
    ours: File,
    seen: String,
}

impl Screen {
    /// Starts it at a terminal of 41 rows and 107 columns. Needs `setsid`.
    pub fn start(case: &Case, args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal");
        let theirs = ioctl_tiocgptpeer(&ours, flags).expect("its other end");
        resize(&ours, 41, 107);
        let inner = case.command(args);
        // It leads no group, so that it becomes the command and makes none.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(inner.get_current_dir().unwrap_or(case.dir()));
        let end = || Stdio::from(theirs.try_clone().expect("a handle"));
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("starts");
        Self { child, ours: File::from(ours), seen: String::new() }
    }

    /// Types.
    pub fn keys(&mut self, keys: &[u8]) {
        self.ours.write_all(keys).expect("typed");
    }

    /// Reads until this was shown, after what was shown before; gives what is on the way to it.
    #[track_caller]
    pub fn until(&mut self, what: &str) -> String {
        let started = Instant::now();
        let mut buf = [0; 4096];
        while !self.seen.contains(what) {
            assert!(started.elapsed() < Duration::from_secs(60), "no `{what}`: {}", self.seen);
            // The end of a terminal is an error.
            let n = self.ours.read(&mut buf).unwrap_or(0);
            assert!(n > 0 || self.seen.contains(what), "the end, and no `{what}`: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        let end = self.seen.find(what).expect("just found") + what.len();
        self.seen.drain(..end).collect()
    }

    /// Makes the terminal another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.ours, rows, columns);
    }

    /// Sends a signal to the command alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Takes the terminal away, as when its window is closed, and waits for the end; gives the exit code.
    pub fn close(mut self) -> i32 {
        self.ours = File::open("/dev/null").expect("it is there");
        self.child.wait().expect("our child").code().expect("an exit code")
    }

    /// Waits for the end; gives the exit code, and what was shown until then.
    pub fn finish(mut self) -> (i32, String) {
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = self.ours.read(&mut buf) {
            self.seen.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        let code = self.child.wait().expect("our child").code().expect("an exit code");
        (code, std::mem::take(&mut self.seen))
    }

    /// Waits for the end; gives the exit code.
    pub fn code(self) -> i32 {
        self.finish().0
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have been waited for.
        self.child.kill().unwrap_or(());
        self.child.wait().map(drop).unwrap_or(());
    }
}

fn resize(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a size");
}
