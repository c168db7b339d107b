//! All processes of a container standing still.
//!
//! By signals, not by a control group: containers without limits have none. SIGSTOP cannot be refused,
//! and from outside its process namespace process 1 heeds it too.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rgraph_sys::spawn::PidFd;

use super::super::processes::{all, is_in, namespace};

const STOP: i32 = 19;
const CONT: i32 = 18;
/// How long processes may take to stand still; one that waits for a disk does not at once.
const MOST: Duration = Duration::from_secs(5);

/// They go on when this is dropped.
pub(super) struct Paused {
    /// Those that went before, parents mostly before their children.
    stopped: Vec<(i32, PidFd)>,
}

impl Paused {
    /// Stops the process and all others of its process namespace.
    ///
    /// # Errors
    /// They could not be seen or did not stop; they go on then.
    pub fn new(first: &PidFd) -> io::Result<Self> {
        let number = first.number().ok_or(io::ErrorKind::NotFound)?;
        let namespace = namespace(number)?;
        let mut paused = Self { stopped: Vec::new() };
        let give_up = Instant::now() + MOST;
        // Until a whole look finds nothing new: what still runs may make others.
        loop {
            let new = paused.stop_new(&namespace)?;
            let still = paused.stopped.iter().all(|(pid, _)| !runs(*pid));
            if !new && still {
                return Ok(paused);
            }
            if Instant::now() > give_up {
                return Err(io::Error::other("its processes do not stop"));
            }
            if !still {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn stop_new(&mut self, namespace_of_it: &Path) -> io::Result<bool> {
        let mut new = false;
        for pid in all()? {
            let is_of_it = || is_in(pid, namespace_of_it);
            // One that stands still already is somebody else's doing, and stays so.
            if self.stopped.iter().any(|(p, _)| *p == pid) || !is_of_it() || !runs(pid) {
                continue;
            }
            // By handle, and looked at again: the number may be another's by now.
            let process = match PidFd::open(pid) {
                Ok(process) => process,
                // It has ended.
                Err(_) if !runs(pid) => continue,
                Err(e) => return Err(e),
            };
            if is_of_it() {
                process.send(STOP)?;
                self.stopped.push((pid, process));
                new = true;
            }
        }
        Ok(new)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Children first: a parent that looks finds them running.
        for (_, process) in self.stopped.iter().rev() {
            // One that was killed meanwhile needs nothing.
            process.send(CONT).unwrap_or(());
        }
    }
}

/// It neither stands still nor has ended.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|s| !matches!(s, 'T' | 't' | 'Z' | 'X'))
}
