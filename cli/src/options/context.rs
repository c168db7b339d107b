//! Where a build's files come from.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use rgraph_ir::{Platform, Reference};

use super::error::OptionsError;
use super::format::Format;
use crate::args::ContextLsArgs;

/// The context operand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSpec {
    /// A folder.
    Folder(PathBuf),
    /// `-`: a tar or a Dockerfile.
    Stdin,
    /// A git repository, as written.
    Git(String),
    /// A file over HTTP: a tar or a Dockerfile.
    Http(String),
}

impl ContextSpec {
    /// Reads the operand. A folder that exists wins over every other reading.
    pub fn parse(word: &OsStr) -> Result<Self, OptionsError> {
        if word.is_empty() {
            return Err(
                OptionsError::value("CONTEXT", "", "it is empty").with_help("`.` is this folder")
            );
        }
        if word == "-" {
            return Ok(Self::Stdin);
        }
        let Some(text) = word.to_str() else { return Ok(Self::Folder(word.into())) };
        if is_git(text) && !PathBuf::from(text).is_dir() {
            Ok(Self::Git(text.to_owned()))
        } else if is_http(text) {
            Ok(Self::Http(text.to_owned()))
        } else {
            Ok(Self::Folder(text.into()))
        }
    }
}

/// The Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSpec {
    /// `Dockerfile` in the context.
    Default,
    /// A file, relative to the working folder.
    Path(PathBuf),
    /// `-f -`.
    Stdin,
    /// Its text: a bake file has it.
    Inline(String),
}

impl FileSpec {
    pub(super) fn parse(path: Option<PathBuf>) -> Result<Self, OptionsError> {
        match path {
            None => Ok(Self::Default),
            Some(p) if p == OsStr::new("-") => Ok(Self::Stdin),
            Some(p) if p.as_os_str().is_empty() => {
                Err(OptionsError::value("--file", "", "it is empty"))
            }
            Some(p) => Ok(Self::Path(p)),
        }
    }
}

/// `context ls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextLsOptions {
    /// The context.
    pub folder: PathBuf,
    /// The Dockerfile, for its ignore file.
    pub file: FileSpec,
    /// How it is written.
    pub format: Format,
}

impl ContextLsOptions {
    /// The one conversion.
    pub fn new(raw: ContextLsArgs) -> Result<Self, OptionsError> {
        let folder = match ContextSpec::parse(raw.context.as_os_str())? {
            ContextSpec::Folder(folder) => folder,
            _ => {
                let why = "only a folder is listed";
                let text = raw.context.display().to_string();
                return Err(OptionsError::value("CONTEXT", &text, why));
            }
        };
        let format = Format::parse(raw.format.as_deref())?;
        Ok(Self { folder, file: FileSpec::parse(raw.file)?, format })
    }
}

/// One `--build-context`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A folder.
    Folder(PathBuf),
    /// `docker-image://REF`: the reference as written.
    Image(String),
    /// `oci-layout://DIR[:TAG][@DIGEST]`.
    OciLayout {
        /// The layout's folder.
        dir: PathBuf,
        /// Which image in it.
        tag: Option<String>,
        /// Which image in it.
        digest: Option<String>,
    },
    /// A file over HTTP.
    Http(String),
    /// A git repository.
    Git(String),
    /// `target:STAGE`: a stage of the same file.
    Target(String),
    /// The result of another build of the same command.
    Build(String),
}

/// Reads `--build-context NAME=VALUE`.
pub fn named(line: &str) -> Result<(String, NamedContext), OptionsError> {
    let bad = |why: &str| {
        OptionsError::value("--build-context", line, why).with_help("`--build-context NAME=VALUE`")
    };
    let (name, value) = line.split_once('=').ok_or_else(|| bad("expected NAME=VALUE"))?;
    let Some(name) = context_name(name) else {
        return Err(bad("the name is none of a stage or an image, and could stand in no `FROM`"));
    };
    if value.is_empty() {
        return Err(bad("the value is missing"));
    }
    let context = if let Some(r) = value.strip_prefix("docker-image://") {
        if r.is_empty() {
            return Err(bad("the image is missing"));
        }
        NamedContext::Image(r.to_owned())
    } else if let Some(rest) = value.strip_prefix("oci-layout://") {
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, d)) => (rest, Some(d.to_owned())),
            None => (rest, None),
        };
        let (dir, tag) = match rest.rsplit_once(':') {
            Some((dir, tag)) if !tag.contains('/') => (dir, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if dir.is_empty() || tag.as_deref() == Some("") || digest.as_deref() == Some("") {
            return Err(bad("expected oci-layout://FOLDER[:TAG][@DIGEST]"));
        }
        NamedContext::OciLayout { dir: dir.into(), tag, digest }
    } else if let Some(stage) = value.strip_prefix("target:") {
        if stage.is_empty() {
            return Err(bad("the stage is missing"));
        }
        NamedContext::Target(stage.to_owned())
    } else if is_git(value) && !PathBuf::from(value).is_dir() {
        NamedContext::Git(value.to_owned())
    } else if is_http(value) {
        NamedContext::Http(value.to_owned())
    } else if let Some((scheme, _)) = value.split_once("://") {
        return Err(bad(&format!("unknown form `{scheme}://`")).with_help(
            super::error::did_you_mean(scheme, &["docker-image", "oci-layout", "https", "git"]),
        ));
    } else {
        NamedContext::Folder(OsString::from(value).into())
    };
    Ok((name, context))
}

/// A context's name as it is looked for: an image's in short (`docker.io/library/busybox:latest` and
/// `busybox` are one), and `NAME::PLATFORM` for the steps of one platform.
pub fn context_name(text: &str) -> Option<String> {
    let (name, platform) = match text.split_once("::") {
        Some((name, platform)) => (name, Some(platform.parse::<Platform>().ok()?.normalize())),
        None => (text, None),
    };
    let name = name.parse::<Reference>().ok()?.familiar();
    let name = name.strip_suffix(":latest").unwrap_or(&name);
    Some(match platform {
        Some(platform) => format!("{name}::{platform}"),
        None => name.to_owned(),
    })
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The forms that docker takes for a git repository: a `git` or `ssh` URL, `user@host:path`, a URL
/// over HTTP whose path ends in `.git`, and `github.com/...`.
fn is_git(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or(text);
    text.starts_with("git://")
        || text.starts_with("ssh://")
        || text.starts_with("git@")
        || text.starts_with("github.com/")
        || is_http(text) && path.ends_with(".git")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands() {
        let git = |s: &str| Some(ContextSpec::Git(s.to_owned()));
        for (word, want) in [
            (".", Some(ContextSpec::Folder(".".into()))),
            ("-", Some(ContextSpec::Stdin)),
            ("", None),
            ("http://h/x.tar", Some(ContextSpec::Http("http://h/x.tar".into()))),
            ("https://h/x.git#v1:sub", git("https://h/x.git#v1:sub")),
            ("git@h:u/x.git", git("git@h:u/x.git")),
            ("github.com/u/x", git("github.com/u/x")),
            ("x.git", Some(ContextSpec::Folder("x.git".into()))),
        ] {
            assert_eq!(ContextSpec::parse(OsStr::new(word)).ok(), want, "{word}");
        }
    }

    #[test]
    fn names() {
        let layout = |dir: &str, tag: Option<&str>, digest: Option<&str>| NamedContext::OciLayout {
            dir: dir.into(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        };
        for (line, want) in [
            ("a=dir", Some(("a", NamedContext::Folder("dir".into())))),
            ("a=b=c", Some(("a", NamedContext::Folder("b=c".into())))),
            ("busybox=docker-image://x:1", Some(("busybox", NamedContext::Image("x:1".into())))),
            ("a=oci-layout:///d", Some(("a", layout("/d", None, None)))),
            ("a=oci-layout://d:t@sha256:x", Some(("a", layout("d", Some("t"), Some("sha256:x"))))),
            ("a=target:s", Some(("a", NamedContext::Target("s".into())))),
            ("a=https://h/f.tgz", Some(("a", NamedContext::Http("https://h/f.tgz".into())))),
            ("a=git://h/f", Some(("a", NamedContext::Git("git://h/f".into())))),
            ("docker.io/library/a:latest=d", Some(("a", NamedContext::Folder("d".into())))),
            ("library/a:1=d", Some(("a:1", NamedContext::Folder("d".into())))),
            ("h:5/a=d", Some(("h:5/a", NamedContext::Folder("d".into())))),
            ("a::linux/arm64/v8=d", Some(("a::linux/arm64", NamedContext::Folder("d".into())))),
            ("a::?=d", None),
            ("X=d", None),
            ("a b=d", None),
            ("a", None),
            ("=d", None),
            ("a=", None),
            ("a=docker-imag://x", None),
            ("a=docker-image://", None),
            ("a=oci-layout://", None),
            ("a=target:", None),
        ] {
            let got = named(line).ok();
            assert_eq!(got, want.map(|(n, c)| (n.to_owned(), c)), "{line}");
        }
    }
}
