//! The `git` program, run such that neither the caller's settings nor a repository decide what it
//! does: no config of the machine, no hooks, no helpers, no prompts, and only four protocols.
//!
//! Logins are given in the environment, never in an argument, which every user of the machine reads.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// Most of what `git` says on stdout that is kept, bytes.
const MAX_STDOUT: u64 = 64 << 20;
/// Most of its last words that are kept, bytes.
const MAX_STDERR: usize = 2 << 10;
/// How often a wish to stop is looked for.
const TICK: Duration = Duration::from_millis(20);

/// How often a remote is asked that may answer later.
const TRIES: u32 = 3;
/// How long is waited before the second time; before each later one twice as long.
const PAUSE: Duration = Duration::from_millis(500);

/// Why `git` gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no such program.
    #[error("`git` is not installed: it fetches repositories")]
    Absent,
    /// It could not be run.
    #[error("cannot run `git`")]
    Run(#[source] io::Error),
    /// It ended with an error.
    #[error("git {what}: {words}")]
    Failed {
        /// Which command of it.
        what: String,
        /// Its last words.
        words: String,
    },
    /// It said more than a repository can have to say.
    #[error("git {what}: the answer is larger than {} MiB", MAX_STDOUT >> 20)]
    TooLarge {
        /// Which command of it.
        what: String,
    },
    /// The build is to stop.
    #[error("canceled")]
    Cancelled,
}

impl GitError {
    /// True when the same remote need not be asked for the same in another way: the build is to stop, or the
    /// server was asked often enough while it could not answer.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Failed { words, .. } => may_pass(words),
            Self::Absent | Self::Run(_) | Self::TooLarge { .. } => false,
        }
    }
}

/// How `ssh` gets on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshAccess {
    /// The agent's socket.
    pub agent: Option<PathBuf>,
    /// Files with the keys of known hosts.
    pub known_hosts: Vec<PathBuf>,
}

/// One way to run `git`.
pub struct Git<'a> {
    /// The repository.
    pub dir: &'a Path,
    /// A login: the `http.*.extraHeader` of a URL.
    pub header: Option<(&'a str, &'a str)>,
    /// For remotes by ssh.
    pub ssh: &'a SshAccess,
    /// The folder that files are checked out to, and the index of that.
    pub work: Option<(&'a Path, &'a Path)>,
    /// `file://` too, for a repository of our own.
    pub local: bool,
    /// Asked several times a second.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Git<'_> {
    /// Runs a command; gives its stdout.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>, GitError> {
        let what = args.first().map_or("", |a| a.as_ref().to_str().unwrap_or("")).to_owned();
        let mut child = self.command(args).spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => GitError::Absent,
            _ => GitError::Run(e),
        })?;
        let ended = self.wait(&mut child);
        let (status, out, err) = match ended {
            Ok(ended) => ended,
            Err(e) => {
                stop(&mut child);
                return Err(e);
            }
        };
        if out.len() as u64 > MAX_STDOUT {
            return Err(GitError::TooLarge { what });
        }
        if status.success() {
            return Ok(out);
        }
        Err(GitError::Failed { what, words: last_words(&err) })
    }

    /// As [`Self::run`], with a remote: again when its server could not answer now, or broke off.
    pub fn run_remote<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>, GitError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            match self.run(args) {
                Err(GitError::Failed { words, .. }) if may_pass(&words) => {}
                done => return done,
            }
            for _ in 0..pause.as_millis() / TICK.as_millis() {
                if (self.cancelled)() {
                    return Err(GitError::Cancelled);
                }
                std::thread::sleep(TICK);
            }
            pause *= 2;
        }
        self.run(args)
    }

    fn wait(
        &self,
        child: &mut Child,
    ) -> Result<(std::process::ExitStatus, Vec<u8>, Vec<u8>), GitError> {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            let out = std::thread::Builder::new().spawn_scoped(scope, move || {
                let mut kept = Vec::new();
                if let Some(stdout) = stdout {
                    stdout.take(MAX_STDOUT + 1).read_to_end(&mut kept)?;
                }
                Ok(kept)
            });
            let err = std::thread::Builder::new()
                .spawn_scoped(scope, move || stderr.map(tail).unwrap_or_default());
            let (out, err) = match (out, err) {
                (Ok(out), Ok(err)) => (out, err),
                (Err(e), _) | (_, Err(e)) => {
                    // Whichever reader there is ends with it.
                    stop(child);
                    return Err(GitError::Run(e));
                }
            };
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break status,
                    Ok(None) if (self.cancelled)() => {
                        // Its pipes end with it, and so do the readers.
                        stop(child);
                        return Err(GitError::Cancelled);
                    }
                    Ok(None) => std::thread::sleep(TICK),
                    Err(e) => {
                        stop(child);
                        return Err(GitError::Run(e));
                    }
                }
            };
            let lost = || io::Error::other("a reader of its output ended");
            let out: io::Result<Vec<u8>> = out.join().unwrap_or_else(|_| Err(lost()));
            let err = err.join().map_err(|_| GitError::Run(lost()))?;
            Ok((status, out.map_err(GitError::Run)?, err))
        })
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut c = Command::new("git");
        c.env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(self.dir)
            .process_group(0);
        for (name, value) in [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_PROTOCOL_FROM_USER", "0"),
            ("GIT_ALLOW_PROTOCOL", if self.local { "file" } else { "https:http:ssh:git" }),
        ] {
            c.env(name, value);
        }
        // `.netrc` is looked for there.
        c.env("HOME", self.dir).env("GIT_DIR", self.dir).env("GIT_SSH_COMMAND", ssh(self.ssh));
        if let Some((tree, index)) = self.work {
            c.env("GIT_WORK_TREE", tree).env("GIT_INDEX_FILE", index).current_dir(tree);
        }
        let mut config: Vec<(String, &str)> = [
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("core.attributesFile", "/dev/null"),
            ("core.autocrlf", "false"),
            ("core.symlinks", "true"),
            ("core.fileMode", "true"),
            ("core.logAllRefUpdates", "false"),
            ("core.protectHFS", "true"),
            ("core.protectNTFS", "true"),
            ("credential.helper", ""),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("submodule.recurse", "false"),
            ("fetch.recurseSubmodules", "false"),
            ("fetch.writeCommitGraph", "false"),
            ("safe.directory", "*"),
            ("uploadpack.allowAnySHA1InWant", "true"),
            ("http.lowSpeedLimit", "1024"),
            ("http.lowSpeedTime", "60"),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        if let Some((url, header)) = self.header {
            // `git` would send it to wherever it is redirected.
            config.push(("http.followRedirects".to_owned(), "false"));
            config.push((format!("http.{url}.extraHeader"), header));
        }
        c.env("GIT_CONFIG_COUNT", config.len().to_string());
        for (n, (key, value)) in config.iter().enumerate() {
            c.env(format!("GIT_CONFIG_KEY_{n}"), key);
            c.env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        c.args(args);
        c
    }
}

/// Ends a process and all that it started. What cannot be ended is gone already.
fn stop(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}

/// The command of `ssh`: keys of the agent alone, hosts that are known alone, no question.
fn ssh(access: &SshAccess) -> String {
    let mut c = "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes \
        -o PasswordAuthentication=no -o IdentityFile=none -o ForwardAgent=no \
        -o ConnectTimeout=30 -o GlobalKnownHostsFile=/etc/ssh/ssh_known_hosts"
        .to_owned();
    let option = |name: &str, values: &[&Path]| {
        let values: Vec<_> = values.iter().map(|v| format!("\"{}\"", v.display())).collect();
        format!(" -o '{name}={}'", values.join(" ").replace('\'', "'\\''"))
    };
    match &access.agent {
        Some(socket) => c.push_str(&option("IdentityAgent", &[socket])),
        None => c.push_str(" -o IdentityAgent=none"),
    }
    let mut files: Vec<&Path> = access.known_hosts.iter().map(PathBuf::as_path).collect();
    if files.is_empty() {
        files.push(Path::new("/dev/null"));
    }
    c.push_str(&option("UserKnownHostsFile", &files));
    c
}

/// The end of what comes.
fn tail(mut from: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        kept.extend_from_slice(&buf[..n]);
        let over = kept.len().saturating_sub(MAX_STDERR);
        kept.drain(..over);
    }
    kept
}

/// Whether the same may be answered later: what is an error of the server (RFC 9110, section 15.6), too many
/// requests, and an answer without its end.
fn may_pass(words: &str) -> bool {
    const STATUS: &str = "The requested URL returned error: ";
    let mut codes = words.match_indices(STATUS).map(|(at, _)| &words[at + STATUS.len()..]);
    let ends = [
        "transfer closed with",
        "unexpected disconnect",
        "early EOF",
        "Empty reply",
        "Connection reset",
    ];
    codes.any(|c| c.starts_with('5') || c.starts_with("429") || c.starts_with("408"))
        || ends.iter().any(|e| words.contains(e))
}

/// What `git` says after every failure of a remote.
const ADVICE: [&str; 2] =
    ["Please make sure you have the correct access rights", "and the repository exists."];

/// What matters of it, in one line: without hints, advice and progress.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().flat_map(|l| l.rsplit('\r').next()).map(str::trim);
    let lines: Vec<&str> = lines
        .filter(|l| !l.is_empty() && !l.starts_with("hint:") && !l.starts_with("warning:"))
        .filter(|l| !ADVICE.contains(l))
        .collect();
    let from = lines.len().saturating_sub(4);
    let joined = lines[from..].join("; ");
    joined.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_again() {
        for (words, again) in [
            ("fatal: unable to access 'http://h/': The requested URL returned error: 503", true),
            ("error: RPC failed; HTTP 429 curl 22 The requested URL returned error: 429", true),
            (
                "fatal: the requested URL returned error: The requested URL returned error: 404",
                false,
            ),
            (
                "fetch-pack: unexpected disconnect while reading sideband packet; fatal: early EOF",
                true,
            ),
            ("fatal: repository 'http://h/' not found", false),
            ("fatal: Authentication failed", false),
        ] {
            assert_eq!(may_pass(words), again, "{words}");
        }
    }

    #[test]
    fn words_are_one_line() {
        let said = b"Cloning\rfatal: no\n\nhint: x\nerror: \x1b[1mbad\n";
        assert_eq!(last_words(said), "fatal: no; error:  [1mbad");
        let said = b"1\n2\nfatal: x\n\nPlease make sure you have the correct access rights\n\
            and the repository exists.\n";
        assert_eq!(last_words(said), "1; 2; fatal: x");
    }

    #[test]
    fn ssh_knows_only_what_it_is_given() {
        let none = ssh(&SshAccess::default());
        assert!(none.contains(" -o IdentityAgent=none "), "{none}");
        assert!(none.ends_with("'UserKnownHostsFile=\"/dev/null\"'"), "{none}");
        let some = SshAccess {
            agent: Some("/run/a gent'".into()),
            known_hosts: vec!["/h/.ssh/known_hosts".into()],
        };
        let some = ssh(&some);
        assert!(some.contains(r#"'IdentityAgent="/run/a gent'\''"'"#), "{some}");
        assert!(some.ends_with("'UserKnownHostsFile=\"/h/.ssh/known_hosts\"'"), "{some}");
    }
}
