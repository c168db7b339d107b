//! A real registry on a free port of this machine.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::Tokens;

/// Who may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// `tester` with the password `secret`.
    Password,
}

/// A certificate for this machine's own addresses, and who signed it.
#[derive(Debug)]
pub struct Certificate {
    dir: TempDir,
}

impl Certificate {
    /// Makes both with openssl.
    pub fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("rgraph-tls-").tempdir().expect("a folder");
        let openssl = |args: &[&str]| {
            let out = Command::new("openssl").args(args).current_dir(dir.path()).output();
            let out = out.expect("openssl runs");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let ca = ["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "9", "-subj", "/CN=ca"];
        openssl(&[&["req"], &key[..], &ca].concat());
        let request = ["-keyout", "key.pem", "-out", "req.pem", "-subj", "/CN=localhost"];
        openssl(&[&["req"], &key[..], &request].concat());
        let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
        fs::write(dir.path().join("names"), names).expect("a file");
        openssl(&[
            "x509",
            "-req",
            "-in",
            "req.pem",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "9",
            "-extfile",
            "names",
            "-out",
            "cert.pem",
        ]);
        Self { dir }
    }

    /// The file of the one who signed.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

/// `tester:secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "tester:$2y$05$AuvP4eSjFcUTBFkGM/PLResJtGA.snmwcUSA99D4tOElt1J0ZvKwO\n";

/// A docker-registry process; dropping it ends it.
pub struct Registry {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Registry {
    /// Starts one.
    pub fn start(access: Access) -> Self {
        Self::launch(access, None, None)
    }

    /// Starts one whose clients have to get a token first.
    pub fn start_with_tokens(tokens: &Tokens) -> Self {
        Self::launch(Access::Open, None, Some(tokens))
    }

    /// Starts one that speaks TLS.
    pub fn start_tls(access: Access, with: &Certificate) -> Self {
        Self::launch(access, Some(with), None)
    }

    fn launch(access: Access, tls: Option<&Certificate>, tokens: Option<&Tokens>) -> Self {
        let dir = tempfile::Builder::new().prefix("rgraph-registry-").tempdir().expect("a folder");
        for _ in 0..10 {
            if let Some((child, port)) = Self::try_start(dir.path(), access, tls, tokens) {
                return Self { child, dir, port };
            }
        }
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        panic!("docker-registry does not start:\n{log}");
    }

    fn try_start(
        dir: &Path,
        access: Access,
        tls: Option<&Certificate>,
        tokens: Option<&Tokens>,
    ) -> Option<(Child, u16)> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.join("data").display()
        );
        if let Some(Certificate { dir }) = tls {
            let file = |name| dir.path().join(name).display().to_string();
            let (cert, key) = (file("cert.pem"), file("key.pem"));
            config += &format!("  tls:\n    certificate: {cert}\n    key: {key}\n");
        }
        if access == Access::Password {
            let file = dir.join("htpasswd");
            fs::write(&file, HTPASSWD).ok()?;
            config +=
                &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display());
        }
        config += &tokens.map(Tokens::settings).unwrap_or_default();
        fs::write(dir.join("config.yml"), config).ok()?;
        let log = fs::File::create(dir.join("log")).ok()?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().ok()?)
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
        child.kill().and_then(|()| child.wait()).map(drop).unwrap_or(());
        None
    }

    /// Ends it; its port stays its own as far as this test goes: nobody answers there.
    pub fn stop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).unwrap_or(());
    }

    /// The requests so far, `METHOD PATH` each.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let request = |line: &str| {
            let mut words = line.split('"').nth(1)?.split(' ');
            let (method, path) = (words.next()?, words.next()?);
            path.starts_with("/v2/").then(|| format!("{method} {path}"))
        };
        log.lines().filter_map(request).collect()
    }

    /// `127.0.0.1:PORT/name`.
    pub fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The file in which it keeps a blob.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("sha256");
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
