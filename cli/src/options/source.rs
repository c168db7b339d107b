//! Secrets and agents: what flags read from or point to. Files are read at once, so that a
//! missing one is refused before anything runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rgraph_ir::limits::MAX_SECRET;
use rgraph_ir::request::{Secret, SshSource};
use rgraph_runtime::ssh::SigningKey;

use super::csv;
use super::error::{OptionsError, did_you_mean};
use crate::args::Environment;

/// Reads every `--secret`.
pub fn secrets(
    lines: &[String],
    env: &Environment,
) -> Result<BTreeMap<String, Secret>, OptionsError> {
    lines.iter().map(|l| secret(l, env)).collect()
}

fn secret(line: &str, env: &Environment) -> Result<(String, Secret), OptionsError> {
    const FLAG: &str = "--secret";
    let bad = |why: String| OptionsError::value(FLAG, line, why);
    let (mut id, mut kind, mut src, mut var) = (None, None, None, None);
    for (key, value) in csv::pairs(line).map_err(bad)? {
        let slot = match key.as_str() {
            "id" => &mut id,
            "type" => &mut kind,
            "src" | "source" => &mut src,
            "env" => &mut var,
            k => {
                let known = ["id", "type", "src", "source", "env"];
                return Err(bad(format!("unknown key `{k}`")).with_help(did_you_mean(k, &known)));
            }
        };
        *slot = Some(value.ok_or_else(|| bad(format!("`{key}` has no value")))?);
    }
    match kind.as_deref() {
        None | Some("file") => {}
        Some("env") => var = var.or_else(|| src.take()),
        Some(k) => {
            let help = did_you_mean(k, &["file", "env"]);
            return Err(bad(format!("unknown type `{k}`")).with_help(help));
        }
    }
    if src.is_some() && var.is_some() {
        return Err(bad("`src` and `env` exclude each other".to_owned()));
    }
    let id = match id.filter(|i| !i.is_empty()) {
        Some(id) => id,
        None => {
            let from = src.as_deref().map(Path::new).and_then(Path::file_name);
            from.map(|n| n.to_string_lossy().into_owned())
                .or_else(|| var.clone())
                .ok_or_else(|| bad("`id` is missing".to_owned()))?
        }
    };
    // `id=X` alone: the variable X, else the file X, as buildx does.
    if src.is_none() && var.is_none() {
        match (kind.as_deref(), env.var(&id)) {
            (Some("env"), _) | (None, Some(_)) => var = Some(id.clone()),
            _ => src = Some(id.clone()),
        }
    }
    let bytes = match (src, var) {
        (Some(path), _) => read_secret(&id, Path::new(&path))?,
        (None, Some(name)) => match env.var(&name) {
            Some(v) => v.as_bytes().to_vec(),
            None => {
                return Err(OptionsError::Missing {
                    what: format!("secret `{id}`: the variable `{name}` is not set"),
                    help: Some("set it, or give a file with `src=FILE`".to_owned()),
                });
            }
        },
        (None, None) => unreachable!("one of the two was chosen above"),
    };
    if bytes.len() as u64 > MAX_SECRET {
        return Err(too_large(&id));
    }
    Ok((id, Secret::new(bytes)))
}

fn too_large(id: &str) -> OptionsError {
    let what = format!("secret `{id}` is larger than {} KiB", MAX_SECRET / 1024);
    OptionsError::Missing { what, help: None }
}

fn read_secret(id: &str, path: &Path) -> Result<Vec<u8>, OptionsError> {
    let failed = |source| OptionsError::Read {
        flag: format!("secret `{id}`"),
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Where keys for ssh are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshOption {
    /// In an agent.
    Agent(SshSource),
    /// In files, which were read.
    Keys(KeyFiles),
}

/// Keys that were read from files.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    files: Vec<PathBuf>,
    /// Them.
    pub keys: Arc<[SigningKey]>,
}

impl PartialEq for KeyFiles {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl Eq for KeyFiles {}

/// Most keys of one `--ssh`: servers end a talk after a few that they do not know.
const MAX_KEYS: usize = 32;
/// Largest key file, bytes.
const MAX_KEY: u64 = 64 << 10;

/// Reads every `--ssh`.
pub fn agents(
    lines: &[String],
    env: &Environment,
) -> Result<BTreeMap<String, SshOption>, OptionsError> {
    lines.iter().map(|l| agent(l, env)).collect()
}

fn agent(line: &str, env: &Environment) -> Result<(String, SshOption), OptionsError> {
    let (id, paths) = match line.split_once('=') {
        Some((id, paths)) => (id, Some(paths)),
        None => (line, None),
    };
    if id.is_empty() {
        return Err(OptionsError::value("--ssh", line, "the id is missing")
            .with_help("`--ssh default`, `--ssh ID=SOCKET` or `--ssh ID=KEY[,KEY]`"));
    }
    let missing =
        |what: String, help: &str| OptionsError::Missing { what, help: Some(help.into()) };
    let socket = match paths {
        None | Some("") => env.ssh_auth_sock.clone().ok_or_else(|| {
            missing(
                format!("ssh agent `{id}`: `SSH_AUTH_SOCK` is not set"),
                "start an agent, or give `--ssh ID=SOCKET` or `--ssh ID=KEY`",
            )
        })?,
        Some(paths) if paths.contains(',') => return keys(id, paths.split(',')),
        Some(path) => PathBuf::from(path),
    };
    let kind = std::fs::metadata(&socket)
        .map_err(|source| OptionsError::Read {
            flag: format!("ssh agent `{id}`"),
            path: socket.clone(),
            source,
        })?
        .file_type();
    if kind.is_socket() {
        Ok((id.to_owned(), SshOption::Agent(SshSource { socket })))
    } else if kind.is_file() {
        keys(id, paths.into_iter())
    } else {
        let what = format!("ssh agent `{id}`: `{}` is no socket and no file", socket.display());
        Err(missing(what, "give the agent's socket, or a key"))
    }
}

/// Reads key files.
fn keys<'a>(
    id: &str,
    paths: impl Iterator<Item = &'a str>,
) -> Result<(String, SshOption), OptionsError> {
    let mut files: Vec<PathBuf> = Vec::new();
    for path in paths.map(PathBuf::from) {
        if !files.contains(&path) {
            files.push(path);
        }
    }
    if files.len() > MAX_KEYS {
        let what = format!("ssh agent `{id}`: more than {MAX_KEYS} keys");
        return Err(OptionsError::Missing { what, help: None });
    }
    let keys = files.iter().map(|f| key(id, f)).collect::<Result<Vec<_>, _>>()?;
    Ok((id.to_owned(), SshOption::Keys(KeyFiles { files, keys: keys.into() })))
}

fn key(id: &str, path: &Path) -> Result<SigningKey, OptionsError> {
    let failed = |source| OptionsError::Read {
        flag: format!("ssh agent `{id}`"),
        path: path.to_owned(),
        source,
    };
    let what = |why: &str| format!("ssh agent `{id}`: `{}`: {why}", path.display());
    let file = File::open(path).map_err(failed)?;
    // Not a pipe or a device, which may have no end.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(OptionsError::Missing { what: what("this is no key file"), help: None });
    }
    let mut bytes = Vec::new();
    file.take(MAX_KEY).read_to_end(&mut bytes).map_err(failed)?;
    SigningKey::read(&bytes)
        .map_err(|e| OptionsError::Missing { what: what(&e.to_string()), help: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        Environment::from_vars(pairs.iter().map(|(k, v)| (k.into(), v.into())))
    }

    #[test]
    fn secrets_are_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tok");
        std::fs::write(&file, "from-file").unwrap();
        let f = file.to_str().unwrap();
        let env = env(&[("TOK", "from-env"), ("EMPTY", "")]);
        for (line, id, want) in [
            (format!("id=a,src={f}"), "a", "from-file"),
            (format!("id=a,source={f},type=file"), "a", "from-file"),
            (format!("src={f}"), "tok", "from-file"),
            (format!("id={f}"), f, "from-file"),
            ("id=a,env=TOK".to_owned(), "a", "from-env"),
            ("id=a,type=env,src=TOK".to_owned(), "a", "from-env"),
            ("id=TOK".to_owned(), "TOK", "from-env"),
            ("id=EMPTY".to_owned(), "EMPTY", ""),
        ] {
            let (got, secret) = secret(&line, &env).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert_eq!((got.as_str(), secret.expose()), (id, want.as_bytes()), "{line}");
        }
        for (line, usage) in [
            ("id=a,src=/nonexistent/x", false),
            ("id=a,env=NOPE", false),
            ("id=a,src=/,", true),
            ("id=a,sorce=/x", true),
            ("id=a,src=x,env=y", true),
            ("id=a,type=vault", true),
            ("", true),
        ] {
            let e = secret(line, &env).unwrap_err();
            assert_eq!(e.is_usage(), usage, "{line}: {e}");
        }
    }

    #[test]
    fn the_secret_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s");
        let line = format!("id=a,src={}", file.display());
        std::fs::write(&file, vec![b'x'; MAX_SECRET as usize]).unwrap();
        assert!(secret(&line, &env(&[])).is_ok());
        std::fs::write(&file, vec![b'x'; MAX_SECRET as usize + 1]).unwrap();
        assert!(secret(&line, &env(&[])).unwrap_err().to_string().contains("500 KiB"));
    }

    #[test]
    fn agents_are_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let sock = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&sock).unwrap();
        let path = sock.to_str().unwrap();
        let with = env(&[("SSH_AUTH_SOCK", path)]);
        let want = SshOption::Agent(SshSource { socket: sock.clone() });
        assert_eq!(agent("default", &with).unwrap(), ("default".into(), want.clone()));
        assert_eq!(agent(&format!("x={path}"), &env(&[])).unwrap(), ("x".into(), want));
        std::fs::write(dir.path().join("key"), "k").unwrap();
        for line in ["default", "x=/nonexistent", "=a", &format!("x={path}.d,b")] {
            assert!(agent(line, &env(&[])).is_err(), "{line}");
        }
        let key = format!("x={}", dir.path().join("key").display());
        assert!(agent(&key, &with).unwrap_err().to_string().contains("no private key"));
    }
}
