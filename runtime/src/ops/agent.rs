//! An ssh agent for one step: a socket of the step's own, passed on to the caller's agent, so that
//! owner and mode are what the mount asks for and the host's socket itself is never in the sandbox.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rgraph_image::layer::Owners;
use rustix::fs::{AtFlags, Mode, OFlags};

/// A socket that serves until dropped.
pub struct AgentProxy {
    /// Where it is.
    pub path: PathBuf,
    stop: Arc<AtomicBool>,
    door: PathBuf,
    thread: Option<JoinHandle<()>>,
    _dir: OwnedFd,
}

/// Connections that one step may have open at once.
const MAX_CONNECTIONS: usize = 64;

impl AgentProxy {
    /// Makes a socket called `name` in the private folder `dir`, passed on to the one at `agent`.
    pub fn start(
        dir: &Path,
        name: &str,
        agent: &Path,
        (uid, gid): (u32, u32),
        mode: u32,
        owners: Owners,
    ) -> io::Result<Self> {
        let fd = rustix::fs::open(
            dir,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // A socket's address has 108 bytes and a state root may be long: bind relative to the folder.
        let door = PathBuf::from(format!("/proc/self/fd/{}/{name}", fd.as_raw_fd()));
        let listener = UnixListener::bind(&door)?;
        owners.give_at(&fd, name, uid, gid)?;
        rustix::fs::chmodat(&fd, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, agent) = (stop.clone(), agent.to_owned());
        let thread = std::thread::Builder::new()
            .name("rgraph-ssh".to_owned())
            .spawn(move || serve(&listener, &agent, &flag))?;
        Ok(Self { path: dir.join(name), stop, door, thread: Some(thread), _dir: fd })
    }
}

impl Drop for AgentProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes `accept`; when this fails the thread has ended already.
        drop(UnixStream::connect(&self.door));
        if let Some(t) = self.thread.take() {
            drop(t.join());
        }
    }
}

fn serve(listener: &UnixListener, agent: &Path, stop: &AtomicBool) {
    let open = Arc::new(());
    for client in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        if Arc::strong_count(&open) > MAX_CONNECTIONS {
            continue;
        }
        // An agent that is gone shows as a closed connection, as it does without a sandbox.
        let Ok(server) = UnixStream::connect(agent) else { continue };
        let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { continue };
        for (from, to) in [(client, server), (server2, client2)] {
            let held = open.clone();
            let pass = move || {
                let (mut from, mut to) = (from, to);
                // Either side may close at any time; the other is told.
                io::copy(&mut from, &mut to).map(drop).unwrap_or(());
                to.shutdown(std::net::Shutdown::Both).unwrap_or(());
                drop(held);
            };
            if std::thread::Builder::new().name("rgraph-ssh".to_owned()).spawn(pass).is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn passes_on_both_ways_with_its_own_mode() {
        let tmp = tempfile::tempdir().unwrap();
        let agent = tmp.path().join("agent");
        let listener = UnixListener::bind(&agent).unwrap();
        let echo = std::thread::spawn(move || {
            let (mut s, _) = listener.accept().unwrap();
            let mut b = [0; 4];
            s.read_exact(&mut b).unwrap();
            s.write_all(&b).unwrap();
        });
        let me = rustix::process::geteuid().as_raw();
        let proxy = AgentProxy::start(
            tmp.path(),
            "own",
            &agent,
            (me, rustix::process::getegid().as_raw()),
            0o600,
            Owners::Kernel,
        )
        .unwrap();
        assert_eq!(std::fs::metadata(&proxy.path).unwrap().mode() & 0o777, 0o600);
        let mut c = UnixStream::connect(&proxy.path).unwrap();
        c.write_all(b"ping").unwrap();
        let mut b = [0; 4];
        c.read_exact(&mut b).unwrap();
        assert_eq!(&b, b"ping");
        echo.join().unwrap();
        drop(proxy);
    }
}
