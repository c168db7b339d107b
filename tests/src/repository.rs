//! Git repositories on disk, and servers for them on loopback.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{Answer, Request, Web};

/// Repositories in a folder of their own.
pub struct Repositories {
    dir: TempDir,
}

impl Default for Repositories {
    fn default() -> Self {
        Self::new()
    }
}

impl Repositories {
    /// None yet.
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("rgraph-git-").tempdir().expect("a folder") }
    }

    /// Where they lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A repository `NAME.git`, made when there is none.
    pub fn at(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.git"));
        if !path.exists() {
            fs::create_dir(&path).expect("a folder");
            self.git(name, &["init", "-q", "-b", "main"]);
        }
        path
    }

    /// Runs `git` in one; gives its stdout without the last line end.
    #[track_caller]
    pub fn git(&self, name: &str, args: &[&str]) -> String {
        let out = Command::new("git")
            .args(args)
            .current_dir(self.dir.path().join(format!("{name}.git")))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs(["AUTHOR", "COMMITTER"].map(|w| (format!("GIT_{w}_NAME"), "t")))
            .envs(["AUTHOR", "COMMITTER"].map(|w| (format!("GIT_{w}_EMAIL"), "t@t")))
            .envs(["AUTHOR", "COMMITTER"].map(|w| (format!("GIT_{w}_DATE"), "@1000000000 +0000")))
            .output()
            .expect("git runs");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    /// Writes a file.
    pub fn file(&self, name: &str, path: &str, text: &str) -> &Self {
        let path = self.at(name).join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
        self
    }

    /// Commits all that is there; gives the commit.
    pub fn commit(&self, name: &str, message: &str) -> String {
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "-q", "--allow-empty", "-m", message]);
        self.git(name, &["update-server-info"]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    /// Serves them over HTTP as `git` itself does. A login, when it is given, is needed.
    pub fn serve(&self, login: Option<&str>) -> Web {
        let login = login.map(str::to_owned);
        self.serve_through(move |r, answer| match &login {
            Some(login) if r.header("authorization") != login => {
                Answer::status(401).header("WWW-Authenticate: Basic realm=\"x\"")
            }
            _ => answer(),
        })
    }

    /// Serves them as `git` itself does, through something that may give another answer.
    pub fn serve_through(
        &self,
        front: impl Fn(&Request, &dyn Fn() -> Answer) -> Answer + Send + Sync + 'static,
    ) -> Web {
        let root = self.dir.path().to_owned();
        Web::start(move |r| front(r, &|| backend(&root, r)))
    }

    /// Serves the files alone.
    pub fn serve_files(&self) -> Web {
        let root = self.dir.path().to_owned();
        Web::start(move |r| {
            let path = r.line.split([' ', '?']).nth(1).unwrap_or("/");
            let path = path.trim_start_matches('/').replacen(".git/", ".git/.git/", 1);
            fs::read(root.join(path)).map_or(Answer::status(404), Answer::ok)
        })
    }
}

/// One request by CGI (RFC 3875).
fn backend(root: &Path, r: &Request) -> Answer {
    let (method, target) = r.line.split_once(' ').unwrap_or(("GET", "/"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("CONTENT_TYPE", r.header("content-type"))
        .env("CONTENT_LENGTH", r.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", r.header("content-encoding"))
        .env("GIT_PROTOCOL", r.header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git http-backend runs");
    // It may not want to read all of it.
    let _ = child.stdin.take().expect("a pipe").write_all(&r.body);
    let out = child.wait_with_output().expect("its answer").stdout;
    let end = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(out.len());
    let head = String::from_utf8_lossy(&out[..end]).into_owned();
    let status = head.lines().find_map(|l| l.strip_prefix("Status: ")?.get(..3)?.parse().ok());
    let mut answer = Answer::ok(out.get(end + 4..).unwrap_or_default());
    answer.status = status.unwrap_or(200);
    answer.headers =
        head.lines().filter(|l| !l.starts_with("Status:")).map(str::to_owned).collect();
    answer
}
