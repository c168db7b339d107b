//! A token service, as registries have beside them: it knows `tester` with the password `secret`, and
//! signs what it grants (distribution's token specification).

use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tempfile::TempDir;

use crate::{Answer, Request, Web};

/// `tester:secret`
const LOGIN: &str = "Basic dGVzdGVyOnNlY3JldA==";
/// What the registry and the service call each other.
const SERVICE: &str = "rgraph-test";

/// The service; it ends with the test program.
pub struct Tokens {
    web: Web,
    dir: Arc<TempDir>,
}

impl Tokens {
    /// Makes a key and starts the service.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("rgraph-token-").tempdir().expect("a folder");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9"])
            .args(["-subj", "/CN=tokens", "-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(dir.path())
            .stderr(Stdio::null())
            .status()
            .expect("openssl runs");
        assert!(made.success(), "no key");
        let dir = Arc::new(dir);
        let keys = dir.clone();
        let web = Web::start(move |q| answer(keys.path(), q));
        Self { web, dir }
    }

    /// The part of the registry's settings that sends its clients here.
    pub(crate) fn settings(&self) -> String {
        let cert: PathBuf = self.dir.path().join("cert.pem");
        format!(
            "auth:\n  token:\n    realm: {}\n    service: {SERVICE}\n    issuer: {SERVICE}\n    rootcertbundle: {}\n",
            self.web.url("/token"),
            cert.display()
        )
    }

    /// What was asked since the last time.
    pub fn requests(&self) -> Vec<Request> {
        self.web.requests()
    }
}

fn answer(keys: &Path, q: &Request) -> Answer {
    if !q.header("authorization").is_empty() && q.header("authorization") != LOGIN {
        return Answer::status(401);
    }
    let known = q.header("authorization") == LOGIN;
    let query = q.line.split_once('?').map_or("", |(_, q)| q).replace("%3A", ":");
    let query = query.replace("%2F", "/").replace("%2C", ",");
    let mut access = Vec::new();
    for scope in query.split('&').filter_map(|p| p.strip_prefix("scope=")) {
        for scope in scope.split(['+', ' ']) {
            let parts: Vec<&str> = scope.rsplitn(2, ':').collect();
            let [actions, rest] = parts[..] else { continue };
            let Some((kind, name)) = rest.split_once(':') else { continue };
            // Everybody may pull what is public; the rest is for who is known.
            let allowed = |a: &&str| known || (*a == "pull" && name.starts_with("public/"));
            let actions: Vec<&str> = actions.split(',').filter(allowed).collect();
            access.push(json!({"type": kind, "name": name, "actions": actions}));
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let cert = fs::read_to_string(keys.join("cert.pem")).expect("the certificate");
    let cert: String = cert.lines().filter(|l| !l.starts_with('-')).collect();
    let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [cert]});
    let claims = json!({
        "iss": SERVICE, "aud": SERVICE, "sub": if known { "tester" } else { "" },
        "iat": now - 10, "nbf": now - 10, "exp": now + 300, "jti": format!("{now}"),
        "access": access,
    });
    let signed = format!("{}.{}", part(keys, &head.to_string()), part(keys, &claims.to_string()));
    let sign = "openssl dgst -sha256 -sign key.pem | openssl base64 -A";
    let token = format!("{signed}.{}", url_safe(&filter(keys, sign, &signed)));
    Answer::ok(json!({"token": token, "access_token": token, "expires_in": 300}).to_string())
        .header("Content-Type: application/json")
}

fn part(keys: &Path, text: &str) -> String {
    url_safe(&filter(keys, "openssl base64 -A", text))
}

fn url_safe(text: &str) -> String {
    text.trim().replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned()
}

/// What a line of shell makes of a text.
fn filter(keys: &Path, line: &str, text: &str) -> String {
    // Requests come side by side.
    let mut input = tempfile::tempfile_in(keys).expect("a file");
    input.write_all(text.as_bytes()).and_then(|()| input.rewind()).expect("a file");
    let out = Command::new("/bin/sh").args(["-c", line]).current_dir(keys).stdin(input).output();
    let out = out.expect("a shell");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}
