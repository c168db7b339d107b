//! Credentials kept and forgotten in Docker's `config.json`, or by the helper that it names.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credentials::{Credential, read, spellings};
use super::error::clean;

/// Most that a helper may say, bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// Why credentials could not be kept or forgotten.
#[derive(Debug, thiserror::Error)]
#[error("credentials for {host} in `{}`: {why}", .path.display())]
pub struct LoginError {
    /// The registry.
    pub host: String,
    /// The config file.
    pub path: PathBuf,
    /// What went wrong.
    pub why: String,
}

/// Where credentials were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// In the file, readable by its owner.
    File,
    /// With this helper.
    Helper(String),
}

/// A config file of Docker's.
#[derive(Debug, Clone)]
pub struct CredentialFile(PathBuf);

impl CredentialFile {
    /// The file; it need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Keeps what opens `registry` (`host[:port]` as in references). Everything else in the file
    /// stays.
    pub fn store(&self, registry: &str, credential: &Credential) -> Result<Kept, LoginError> {
        let failed = |why| self.error(registry, why);
        let mut config = self.load().map_err(failed)?;
        let server = server(registry);
        let (user, secret) = match credential {
            Credential::Basic { user, password } => (user.as_str(), password.as_str()),
            Credential::IdentityToken(t) => ("<token>", t.as_str()),
        };
        if let Some(helper) = helper(&config, &server) {
            let order = json!({ "ServerURL": server, "Username": user, "Secret": secret });
            call(&helper, "store", &order.to_string()).map_err(failed)?;
            // Docker keeps the name of the server, so that others see there is a login.
            section(&mut config).entry(server).or_insert_with(|| json!({}));
            self.save(&config).map_err(failed)?;
            return Ok(Kept::Helper(helper));
        }
        let entry = match credential {
            Credential::Basic { .. } => {
                json!({ "auth": STANDARD.encode(format!("{user}:{secret}")) })
            }
            Credential::IdentityToken(t) => json!({ "identitytoken": t }),
        };
        section(&mut config).insert(server, entry);
        self.save(&config).map_err(failed)?;
        Ok(Kept::File)
    }

    /// Forgets what opens `registry`. `false`: there was nothing.
    pub fn erase(&self, registry: &str) -> Result<bool, LoginError> {
        let failed = |why| self.error(registry, why);
        let mut config = self.load().map_err(failed)?;
        let mut found = false;
        for server in spellings(registry) {
            let listed = section(&mut config).remove(&server).is_some();
            if let Some(helper) = helper(&config, &server) {
                match call(&helper, "erase", &server) {
                    Ok(()) => found = true,
                    // A helper may not know what the file does not list either.
                    Err(why) if listed => return Err(failed(why)),
                    Err(_) => {}
                }
            }
            found |= listed;
        }
        if found {
            self.save(&config).map_err(failed)?;
        }
        Ok(found)
    }

    fn error(&self, registry: &str, why: String) -> LoginError {
        LoginError { host: registry.to_owned(), path: self.0.clone(), why }
    }

    fn load(&self) -> Result<Map<String, Value>, String> {
        match read(&self.0)? {
            Some(Value::Object(map)) => Ok(map),
            _ => Ok(Map::new()),
        }
    }

    /// Whole under its name or not there, readable by its owner alone.
    fn save(&self, config: &Map<String, Value>) -> Result<(), String> {
        let told = |what: &str, e: io::Error| format!("cannot {what}: {e}");
        // A link keeps being one.
        let path = std::fs::canonicalize(&self.0).unwrap_or_else(|_| self.0.clone());
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir).map_err(|e| told("make the folder", e))?;
        let tmp = dir.join(format!(".config.json.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(config).map_err(|e| e.to_string())?;
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&tmp)
            .and_then(|mut f| f.write_all(&text).and_then(|()| f.sync_all()))
            .and_then(|()| std::fs::rename(&tmp, &path));
        written.map_err(|e| {
            // It holds a secret: gone whatever else failed.
            std::fs::remove_file(&tmp).unwrap_or(());
            told("write it", e)
        })
    }
}

/// The name under which Docker keeps a registry.
fn server(registry: &str) -> String {
    spellings(registry).swap_remove(0)
}

fn section(config: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    if !auths.is_object() {
        *auths = json!({});
    }
    auths.as_object_mut().expect("made one above")
}

/// The helper for a server.
fn helper(config: &Map<String, Value>, server: &str) -> Option<String> {
    let own = config.get("credHelpers").and_then(|h| h.get(server));
    let name = own.or_else(|| config.get("credsStore"))?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Runs `docker-credential-NAME VERB` with a text on its standard input.
fn call(name: &str, verb: &str, input: &str) -> Result<(), String> {
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(format!("`{}` is no name of a credential helper", clean(name)));
    }
    let program = format!("docker-credential-{name}");
    let failed = |e: io::Error| format!("`{program}` cannot be run: {e}");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    let given = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(input.as_bytes()),
        None => Ok(()),
    };
    let mut said = String::new();
    let heard = match child.stdout.take() {
        Some(out) => out.take(MAX_ANSWER).read_to_string(&mut said),
        None => Ok(0),
    };
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(format!("`{program} {verb}` failed: {}", clean(&said)));
    }
    given.and(heard.map(drop)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::credentials::CredentialStore;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn basic(user: &str, password: &str) -> Credential {
        Credential::Basic { user: user.into(), password: password.into() }
    }

    #[test]
    fn keeps_and_forgets_and_leaves_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        let file = CredentialFile::new(path.clone());
        assert!(!file.erase("r.example").unwrap());
        assert!(!path.exists(), "nothing to write");
        assert_eq!(file.store("r.example:5000", &basic("u", "p:x")).unwrap(), Kept::File);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["proxies"] = json!({"default": {"noProxy": "x"}});
        std::fs::write(&path, json.to_string()).unwrap();
        file.store("docker.io", &basic("hub", "q")).unwrap();
        let store = CredentialStore { fixed: Vec::new(), files: vec![path.clone()] };
        assert_eq!(store.lookup("r.example:5000").unwrap(), Some(basic("u", "p:x")));
        assert_eq!(store.lookup("docker.io").unwrap(), Some(basic("hub", "q")));
        assert!(file.erase("docker.io").unwrap() && !file.erase("docker.io").unwrap());
        assert_eq!(store.lookup("docker.io").unwrap(), None);
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["proxies"]["default"]["noProxy"], "x");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn helpers_are_names_on_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for (json, part) in [
            (r#"{"credsStore":"../evil"}"#, "no name of a credential helper"),
            (r#"{"credHelpers":{"r.example":"none-such"}}"#, "cannot be run"),
            ("[]", "not a JSON object"),
        ] {
            std::fs::write(&path, json).unwrap();
            let e = CredentialFile::new(path.clone()).store("r.example", &basic("u", "p"));
            let e = e.unwrap_err().to_string();
            assert!(e.contains(part) && !e.contains("u:p"), "{json}: {e}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), json);
        }
    }
}
