//! Names and passwords from Docker's `config.json` (`auths`, `credsStore`, `credHelpers`), found by
//! the registry they are for and by nothing else.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError as Cause, DockerCredential};
use serde_json::Value;

use super::error::{RegistryError, Result, clean};

/// Largest config file, bytes.
const MAX_FILE: u64 = 4 << 20;

/// A secret that opens one registry. `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Name and password.
    Basic {
        /// Login name.
        user: String,
        /// Password or personal token.
        password: String,
    },
    /// OAuth2 refresh token, shown to the token service only.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { .. } => f.write_str("Basic(***)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(***)"),
        }
    }
}

/// Where credentials are looked for, in order.
#[derive(Debug, Clone, Default)]
pub struct CredentialStore {
    /// `host[:port]` as in references, and what opens it. Wins over the files.
    pub fixed: Vec<(String, Credential)>,
    /// Docker config files; one that does not exist is skipped.
    pub files: Vec<PathBuf>,
}

impl CredentialStore {
    /// What opens `registry` (`host[:port]` as in references). Blocks: it reads files and may run a
    /// helper. Errors when something is configured for this registry and cannot be read.
    pub fn lookup(&self, registry: &str) -> Result<Option<Credential>> {
        if let Some((_, c)) = self.fixed.iter().find(|(host, _)| host == registry) {
            return Ok(Some(c.clone()));
        }
        for path in &self.files {
            let err = |why| RegistryError::Credentials {
                host: registry.to_owned(),
                path: path.clone(),
                why,
            };
            let Some(config) = read(path).map_err(err)? else { continue };
            for server in spellings(registry) {
                if let Some(c) = from_config(&config, &server).map_err(err)? {
                    return Ok(Some(c));
                }
            }
        }
        Ok(None)
    }
}

/// The names a registry goes by in a config file, the usual one first.
pub(super) fn spellings(registry: &str) -> Vec<String> {
    match registry {
        "docker.io" => ["https://index.docker.io/v1/", "index.docker.io", "docker.io"]
            .map(str::to_owned)
            .into(),
        other => vec![other.to_owned()],
    }
}

pub(super) fn read(path: &PathBuf) -> Result<Option<Value>, String> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let mut config: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if !config.is_object() {
        return Err("not a JSON object".to_owned());
    }
    // `"auth": ""` and `"credsStore": ""` mean "none" to Docker, but are errors to the crate.
    if let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) {
        for entry in auths.values_mut().filter_map(Value::as_object_mut) {
            entry.retain(|_, v| v.as_str() != Some(""));
        }
    }
    if let Some(all) = config.as_object_mut() {
        all.retain(|k, v| k != "credsStore" || v.as_str() != Some(""));
    }
    Ok(Some(config))
}

fn from_config(config: &Value, server: &str) -> Result<Option<Credential>, String> {
    let text = config.to_string();
    match docker_credential::get_credential_from_reader(text.as_bytes(), server) {
        // Docker's own client sends nothing for an entry without a name.
        Ok(DockerCredential::UsernamePassword(user, _)) if user.is_empty() => Ok(None),
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Credential::Basic { user, password }))
        }
        Ok(DockerCredential::IdentityToken(t)) => Ok(Some(Credential::IdentityToken(t))),
        Err(Cause::NoCredentialConfigured) => Ok(None),
        Err(Cause::HelperFailure { stdout, stderr, .. })
            if [&stdout, &stderr].iter().any(|s| s.contains("credentials not found")) =>
        {
            Ok(None)
        }
        Err(Cause::HelperFailure { helper, stdout, stderr }) => {
            let said = if stderr.trim().is_empty() { stdout } else { stderr };
            Err(format!("`{helper}` failed: {}", clean(&said)))
        }
        Err(Cause::HelperCommunicationError) => {
            Err(format!("the credential helper for {server} cannot be run"))
        }
        Err(Cause::MalformedHelperResponse) => {
            Err(format!("the credential helper for {server} gave no valid answer"))
        }
        Err(Cause::CredentialDecodingError) => Err(format!("`auth` of {server} is not base64")),
        Err(Cause::CredentialMismatchError) => {
            Err(format!("`auth` of {server} contradicts `username` and `password`"))
        }
        Err(_) => Err("not in the form of a Docker config file".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(json: &str, registry: &str) -> Result<Option<Credential>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        let missing = dir.path().join("missing.json");
        CredentialStore { fixed: Vec::new(), files: vec![missing, path] }.lookup(registry)
    }

    #[test]
    fn finds_by_registry_only() {
        // dTpw = u:p
        let json = r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpw"},
            "localhost:5000":{"auth":"dTpw"},
            "https://r.example/v2/":{"auth":"dTpw"},
            "empty.example":{"auth":""},
            "token.example":{"auth":"dTpw","identitytoken":"t"}}}"#;
        let basic = Some(Credential::Basic { user: "u".into(), password: "p".into() });
        for (registry, want) in [
            ("docker.io", basic.clone()),
            ("localhost:5000", basic.clone()),
            ("r.example", basic),
            ("token.example", Some(Credential::IdentityToken("t".into()))),
            ("empty.example", None),
            ("localhost:5001", None),
            ("localhost", None),
            ("evil.r.example", None),
            ("r.example.evil", None),
        ] {
            assert_eq!(lookup(json, registry).unwrap(), want, "{registry}");
        }
    }

    #[test]
    fn damage_is_named() {
        for (json, part) in [
            ("[]", "not a JSON object"),
            ("{", "EOF"),
            (r#"{"auths":{"r.example":{"auth":"%%"}}}"#, "not base64"),
            (r#"{"credHelpers":{"r.example":"none-such-helper"}}"#, "cannot be run"),
        ] {
            let e = lookup(json, "r.example").unwrap_err().to_string();
            assert!(e.contains(part) && e.contains("config.json"), "{e}");
        }
        assert_eq!(lookup(r#"{"credsStore":""}"#, "r.example").unwrap(), None);
    }

    #[test]
    fn debug_keeps_secrets() {
        let c = Credential::Basic { user: "u".into(), password: "hunter2".into() };
        assert!(!format!("{c:?}").contains("hunter2"));
    }
}
