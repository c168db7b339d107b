//! OpenSSH's server on a free port of this machine, a key that it lets in, and an agent with that.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A server and an agent; dropping it ends both.
pub struct Sshd {
    server: Child,
    agent: Child,
    dir: TempDir,
    port: u16,
}

impl Sshd {
    /// Starts both. Needs root, `sshd`, `ssh-keygen`, `ssh-agent`.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("rgraph-sshd-").tempdir().expect("a folder");
        for name in ["host", "other", "key"] {
            make_key(&dir.path().join(name), &["-t", "ed25519"], "");
        }
        make_key(&dir.path().join("rsa"), &["-t", "rsa", "-b", "2048"], "");
        make_key(&dir.path().join("ecdsa"), &["-t", "ecdsa", "-b", "384"], "");
        let socket = dir.path().join("agent");
        let mut agent = quiet(Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket));
        let up = crate::wait_until(Duration::from_secs(10), || socket.exists());
        if !up {
            end(&mut agent);
            panic!("ssh-agent does not start");
        }
        run(Command::new("ssh-add").arg(dir.path().join("key")).env("SSH_AUTH_SOCK", &socket));
        for _ in 0..10 {
            if let Some((server, port)) = Self::try_start(dir.path()) {
                return Self { server, agent, dir, port };
            }
        }
        end(&mut agent);
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("sshd does not start:\n{log}");
    }

    fn try_start(dir: &Path) -> Option<(Child, u16)> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {} {} {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
            at("host"),
            at("key.pub"),
            at("rsa.pub"),
            at("ecdsa.pub"),
        );
        fs::write(dir.join("sshd_config"), config).ok()?;
        let log = fs::File::create(dir.join("log")).ok()?;
        // It wants a folder that the machine's own start makes: one that nobody else sees will do.
        let script = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && \
                      exec \"$(command -v sshd)\" -D -e -f \"$0\"";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(dir.join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .ok()?;
        let up = crate::wait_until(Duration::from_secs(10), || {
            child.try_wait().is_ok_and(|s| s.is_some())
                || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        // Another process may have taken the port in between: then it is not ours that answers.
        if up && child.try_wait().is_ok_and(|s| s.is_none()) {
            return Some((child, port));
        }
        end(&mut child);
        None
    }

    /// The agent's socket.
    pub fn agent(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// The file of the key that is let in.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    /// Keys of other kinds that are let in.
    pub fn more_keys(&self) -> [PathBuf; 2] {
        ["rsa", "ecdsa"].map(|name| self.dir.path().join(name))
    }

    /// A URL of a path of this machine.
    pub fn url(&self, path: &Path) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, path.display())
    }

    /// The line of its host key, for `known_hosts`.
    pub fn known_host(&self) -> String {
        self.line("host.pub")
    }

    /// As [`Self::known_host`], with a key that it does not have.
    pub fn other_host(&self) -> String {
        self.line("other.pub")
    }

    fn line(&self, file: &str) -> String {
        let key = fs::read_to_string(self.dir.path().join(file)).expect("a key");
        format!("[127.0.0.1]:{} {key}", self.port)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        end(&mut self.server);
        end(&mut self.agent);
    }
}

/// Makes a key; the public one lies beside it. Needs `ssh-keygen`.
pub fn make_key(path: &Path, kind: &[&str], passphrase: &str) {
    run(Command::new("ssh-keygen")
        .args(kind)
        .args(["-q", "-N", passphrase, "-C", "test", "-f"])
        .arg(path));
}

fn quiet(c: &mut Command) -> Child {
    let c = c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    c.spawn().expect("it is installed")
}

#[track_caller]
fn run(c: &mut Command) {
    let out = c.stdin(Stdio::null()).output().expect("it is installed");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn end(child: &mut Child) {
    child.kill().and_then(|()| child.wait()).map(drop).unwrap_or(());
}
