//! Git URLs as sources: `https://host/repo.git#ref:dir?key=value`, `git@host:repo`, `ssh://`, `git://`.

use rgraph_ir::op::GitSource;

use super::path;
use super::url::Url;
use crate::parse::value::boolean;

/// What follows is a repository to a checksum, and a path to all else.
const GITHUB: &str = "github.com/";

/// What a text names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct GitRef {
    /// To fetch, without fragment and query.
    pub remote: String,
    host: String,
    path: String,
    ssh: bool,
    pub reference: String,
    pub subdir: String,
    pub checksum: String,
    pub keep_git_dir: Option<bool>,
    pub submodules: Option<bool>,
    pub mtime: Option<String>,
    pub fetch_by_commit: bool,
}

/// Reads `text`; `Ok(None)`: not a git URL, `Err`: one with a wrong query.
pub(super) fn parse(text: &str) -> Result<Option<GitRef>, String> {
    if text.starts_with("./") || text.starts_with("../") {
        return Ok(None);
    }
    if text.starts_with(GITHUB) {
        // A path, but its query must be one of a repository.
        if let Some(url) = Url::parse(&format!("https://{text}")) {
            GitRef::default().at(&url.fragment).query(&url.query)?;
        }
        return Ok(None);
    }
    let Some(url) = split(text) else { return Ok(None) };
    if url.http && !url.git.path.ends_with(".git") {
        return Ok(None);
    }
    let mut git = url.git.at(&url.fragment);
    git.query(&url.query)?;
    Ok(Some(git))
}

/// A repository that is a context: with its folder, checksum and times. `Ok(None)`: no git URL.
///
/// # Errors
/// What is wrong with its query.
pub fn git_source(text: &str) -> Result<Option<GitSource>, String> {
    let Some(written) = split(text) else { return Ok(None) };
    let mut g = written.git.at(&written.fragment);
    g.query(&written.query)?;
    let mut source = g.source(g.keep_git_dir == Some(true), &g.checksum);
    source.mtime = g.mtime.clone();
    Ok(Some(source))
}

/// True for what a checksum may be of; a wrong query is told elsewhere.
pub(super) fn is_repository(text: &str) -> bool {
    !matches!(parse(text), Ok(None))
        || text.starts_with(GITHUB) && Url::parse(&format!("https://{text}")).is_some()
}

/// True for `http://` and `https://` that are no repository.
pub(super) fn is_http(text: &str) -> bool {
    (text.starts_with("http://") || text.starts_with("https://"))
        && !matches!(parse(text), Ok(Some(_)))
}

/// A URL with what of it is no part of the repository's name.
struct Written {
    http: bool,
    git: GitRef,
    query: String,
    fragment: String,
}

fn split(text: &str) -> Option<Written> {
    if let Some((proto, _)) = text.split_once("://")
        && !proto.is_empty()
        && proto.bytes().all(|b| b.is_ascii_alphanumeric())
    {
        let url = Url::parse(text)?;
        if !matches!(url.scheme.as_str(), "http" | "https" | "ssh" | "git") {
            return None;
        }
        let git = GitRef {
            remote: url.remote,
            host: url.host,
            path: url.path,
            ssh: url.scheme == "ssh",
            ..GitRef::default()
        };
        let http = url.scheme.starts_with("http");
        return Some(Written { http, git, query: url.query, fragment: url.fragment });
    }
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let word = |s: &str, extra: &str| {
        !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    if !word(user, "-_") || !word(host, "-.") {
        return None;
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (p, query) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.contains('\n') || pairs(query).any(|p| p.is_none()) {
        return None;
    }
    let git = GitRef {
        remote: format!("{user}@{host}:{p}"),
        host: host.to_owned(),
        path: p.to_owned(),
        ssh: true,
        ..GitRef::default()
    };
    Some(Written { http: false, git, query: query.to_owned(), fragment: fragment.to_owned() })
}

/// Percent-decoding; `None` when a `%` is not followed by two hex digits or the result is no text.
fn decode(s: &str) -> Option<String> {
    if !s.contains('%') {
        return Some(s.to_owned());
    }
    let mut out = Vec::with_capacity(s.len());
    let mut rest = s.as_bytes();
    while let Some((b, tail)) = rest.split_first() {
        rest = tail;
        if *b != b'%' {
            out.push(*b);
            continue;
        }
        let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
        if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        out.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(out).ok()
}

impl GitRef {
    /// With the `ref:folder` of a fragment.
    fn at(mut self, fragment: &str) -> Self {
        let (reference, dir) = fragment.split_once(':').unwrap_or((fragment, ""));
        self.reference = reference.to_owned();
        self.subdir = path::join("/", dir)[1..].to_owned();
        self
    }

    fn query(&mut self, query: &str) -> Result<(), String> {
        let (mut tag, mut branch) = (None, None);
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in pairs(query).flatten() {
            if seen.contains(&key) {
                return Err(format!("query \"{key}\" has multiple values"));
            }
            seen.push(key.clone());
            let switch = matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
            if value.is_empty() && !switch {
                return Err(format!("query \"{key}\" has no value"));
            }
            let yes = || match value.as_str() {
                "" => Ok(true),
                v => boolean(v).ok_or_else(|| format!("invalid {key} value: \"{v}\"")),
            };
            match key.as_str() {
                "ref" => set("ref", &mut self.reference, value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "subdir" => set("subdir", &mut self.subdir, value)?,
                "checksum" | "commit" => self.checksum = value,
                "keep-git-dir" => self.keep_git_dir = Some(yes()?),
                "submodules" => self.submodules = Some(yes()?),
                "fetch-by-commit" => self.fetch_by_commit = yes()?,
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => {
                    self.mtime = Some(value);
                }
                "mtime" => {
                    return Err(format!(
                        "invalid mtime value: \"{value}\" (must be \"checkout\" or \"commit\")"
                    ));
                }
                _ => return Err(format!("unexpected query \"{key}\"")),
            }
        }
        let full = |prefix: &str, v: String| {
            if v.starts_with(prefix) { v } else { format!("{prefix}{v}") }
        };
        if branch.is_some() && tag.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        if let Some(t) = tag {
            set("ref", &mut self.reference, full("refs/tags/", t))?;
        }
        if let Some(b) = branch {
            set("ref", &mut self.reference, full("refs/heads/", b))?;
        }
        Ok(())
    }

    /// The op that fetches it.
    pub fn source(&self, keep_git_dir: bool, checksum: &str) -> GitSource {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        GitSource {
            remote: format!("{}{}", self.host, path::join("/", &self.path)),
            full_url: self.remote.clone(),
            reference: some(&self.reference),
            subdir: some(&self.subdir),
            keep_git_dir,
            checksum: some(checksum),
            skip_submodules: self.submodules == Some(false),
            fetch_by_commit: self.fetch_by_commit,
            ssh: self.ssh,
            mtime: None,
        }
    }
}

/// The pairs of a query; `None` for one that is none.
fn pairs(query: &str) -> impl Iterator<Item = Option<(String, String)>> {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plus = |s: &str| decode(&s.replace('+', " "));
        if pair.contains(';') { None } else { Some((plus(key)?, plus(value)?)) }
    })
}

fn set(what: &str, slot: &mut String, value: String) -> Result<(), String> {
    if !slot.is_empty() && *slot != value {
        return Err(format!("{what} conflicts: \"{slot}\" vs \"{value}\""));
    }
    *slot = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_git() {
        for (text, remote) in [
            ("https://github.com/a/b.git", Some("github.com/a/b.git")),
            ("https://u:p@github.com/a/b.git#v1:x/../y", Some("github.com/a/b.git")),
            ("git@github.com:a/b.git", Some("github.com/a/b.git")),
            ("git://h/a", Some("h/a")),
            ("ssh://git@h:22/a", Some("h:22/a")),
            ("https://h/a.tar.gz", None),
            ("github.com/a/b", None),
            ("./a@b:c", None),
            ("a/b", None),
            ("ftp://h/a.git", None),
        ] {
            let got = parse(text).unwrap().map(|g| g.source(false, "").remote);
            assert_eq!(got.as_deref(), remote, "{text}");
        }
        let g = parse("https://h/b.git#v1:x/../y").unwrap().unwrap();
        assert_eq!((g.reference.as_str(), g.subdir.as_str()), ("v1", "y"));
        let g = parse("https://h/b.git?tag=v1&keep-git-dir&submodules=0").unwrap().unwrap();
        assert_eq!(g.reference, "refs/tags/v1");
        assert_eq!((g.keep_git_dir, g.submodules), (Some(true), Some(false)));
        for bad in ["?x=1", "?ref=a&ref=b", "?tag=a&branch=b", "?mtime=x", "?ref="] {
            assert!(parse(&format!("https://h/b.git{bad}")).is_err(), "{bad}");
        }
        assert!(is_http("https://h/a.tar.gz") && !is_http("https://h/a.git"));
        assert!(parse("github.com/a/b?ref=x#:y").is_ok() && parse("github.com/a?b").is_err());
        assert!(is_repository("github.com/a/b") && !is_repository("a/b"));
    }
}
