//! Debian's nginx on a free port of this machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;

/// An nginx process that serves a folder; dropping it ends it.
pub struct Nginx {
    child: Child,
    dir: TempDir,
    port: u16,
    /// Lines of the log that [`Self::lines`] has given already.
    given: AtomicUsize,
}

impl Nginx {
    /// Starts one. `http` and `server` are further lines of these blocks of its configuration.
    pub fn start(http: &str, server: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("rgraph-nginx-").tempdir().expect("a folder");
        fs::create_dir(dir.path().join("files")).expect("a folder");
        for _ in 0..10 {
            if let Some((child, port)) = Self::try_start(dir.path(), http, server) {
                return Self { child, dir, port, given: AtomicUsize::new(0) };
            }
        }
        let log = fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
        panic!("nginx does not start:\n{log}");
    }

    fn try_start(dir: &Path, http: &str, server: &str) -> Option<(Child, u16)> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|n| format!("  {n}_temp_path {}/{n};\n", dir.display()))
            .concat();
        let dir_shown = dir.display();
        // One process, so that what is logged is in order, and nothing is left when it is killed.
        let config = format!(
            "daemon off;\nmaster_process off;\npid {dir_shown}/pid;\nerror_log {dir_shown}/error.log;\n\
             events {{}}\n\
             http {{\n{temp}  log_format seen '$request_method $request_uri $status $body_bytes_sent';\n\
             \x20 access_log {dir_shown}/access.log seen;\n{http}\n\
             \x20 server {{\n    listen 127.0.0.1:{port};\n    root {dir_shown}/files;\n\
             \x20   location = /fence {{ return 204; }}\n{server}\n  }}\n}}\n"
        );
        fs::write(dir.join("nginx.conf"), config).ok()?;
        let mut child = Command::new("nginx")
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(dir.join("nginx.conf"))
            .arg("-e")
            .arg(dir.join("error.log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
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

    /// Writes a file that was changed last at `mtime`, seconds since 1970: its `Last-Modified`, and
    /// with its length its `ETag`.
    pub fn file(&self, path: &str, content: impl AsRef<[u8]>, mtime: u64) -> PathBuf {
        let path = self.dir.path().join("files").join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("folders");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
        let file = fs::File::options().write(true).open(&path).expect("a file");
        let time = std::time::UNIX_EPOCH + Duration::from_secs(mtime);
        file.set_modified(time).expect("a time");
        path
    }

    /// A URL of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What its access log says of the requests since the last time: `GET /path 200 5`, the last
    /// being the bytes of the body.
    pub fn lines(&self) -> Vec<String> {
        // A request of our own: when that is logged, all before it are.
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("nginx is up");
        stream.write_all(b"GET /fence HTTP/1.0\r\n\r\n").expect("nginx reads");
        stream.read_to_end(&mut Vec::new()).expect("nginx answers");
        let mut new = Vec::new();
        let logged = crate::wait_until(Duration::from_secs(10), || {
            let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
            let given = self.given.load(Ordering::SeqCst);
            new = log.lines().skip(given).map(str::to_owned).collect();
            new.iter().any(|l| l.starts_with("GET /fence "))
        });
        assert!(logged, "nginx does not log: {new:?}");
        self.given.fetch_add(new.len(), Ordering::SeqCst);
        new.retain(|l| !l.starts_with("GET /fence "));
        new
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}
