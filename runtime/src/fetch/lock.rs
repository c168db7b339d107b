//! The lock file: what the sources of a build mean, written down. Text in, text out; the form is
//! described in docs/lock.md.
//!
//! Whoever may write to the repository may have written it, so it is read as untrusted text: what
//! does not fit is an error with its line.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use rgraph_ir::{BlobDigest, ManifestDigest, Platform, Reference};

/// The form that is written and read.
const VERSION: &str = "1";
const HEAD: &str = "\
# What the sources of this build mean. Written by `rgraph lock`, obeyed by `rgraph build --locked`.
# Each line: the kind of source, its name, its digest; of an image also each platform's manifest.
";

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}:{line}: {why}")]
pub struct LockError {
    /// The file.
    pub name: String,
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// What an image means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedImage {
    /// Where it stands; 0: not in a file yet.
    pub line: usize,
    /// What the name means: an index, or a manifest.
    pub digest: ManifestDigest,
    /// The manifest of each platform.
    pub platforms: BTreeMap<Platform, ManifestDigest>,
}

/// What any other source means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked<T> {
    /// Where it stands; 0: not in a file yet.
    pub line: usize,
    /// What it means.
    pub what: T,
}

/// A full commit id of a git repository: 40 or 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit(String);

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Commit {
    /// Reads a full id.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (hex && matches!(text.len(), 40 | 64)).then(|| Self(text.to_owned()))
    }
}

/// See the module. Sources by kind, each kind by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockFile {
    name: String,
    images: BTreeMap<String, LockedImage>,
    urls: BTreeMap<String, Locked<BlobDigest>>,
    repositories: BTreeMap<String, Locked<Commit>>,
}

impl LockFile {
    /// A file without lines. `name` is what messages call it.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn parse(name: &str, text: &str) -> Result<Self, LockError> {
        let mut file = Self::new(name);
        let mut versioned = false;
        for (n, line) in text.lines().enumerate() {
            let n = n + 1;
            let err = |why: String| LockError { name: name.to_owned(), line: n, why };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match (versioned, words.as_slice()) {
                (false, ["version", VERSION]) => versioned = true,
                (false, ["version", other]) => {
                    let why = format!("version {} is not one this rgraph reads", shown(other));
                    return Err(err(why));
                }
                (false, _) => {
                    return Err(err(format!("expected `version {VERSION}` before any source")));
                }
                (true, words) => file.source(n, words).map_err(err)?,
            }
        }
        match versioned {
            true => Ok(file),
            false => {
                let why = format!("`version {VERSION}` is missing: this is no lock file");
                Err(LockError { name: name.to_owned(), line: 1, why })
            }
        }
    }

    fn source(&mut self, line: usize, words: &[&str]) -> Result<(), String> {
        let twice = |name: &str| format!("`{}` has a line already", shown(name));
        match words {
            ["image", name, digest, platforms @ ..] => {
                let known = name.parse::<Reference>().is_ok_and(|r| r.to_string() == **name);
                if !known {
                    return Err(format!("`{}` is no full image reference", shown(name)));
                }
                let digest = digest.parse().map_err(|e| format!("{e}"))?;
                let mut image = LockedImage { line, digest, platforms: BTreeMap::new() };
                for word in platforms {
                    let (platform, digest) = word
                        .rsplit_once('=')
                        .ok_or_else(|| format!("`{}` is not PLATFORM=DIGEST", shown(word)))?;
                    let platform: Platform = platform.parse().map_err(|e| format!("{e}"))?;
                    let digest = digest.parse().map_err(|e| format!("{e}"))?;
                    if image.platforms.insert(platform, digest).is_some() {
                        return Err(format!("the platform of `{}` stands twice", shown(word)));
                    }
                }
                put(&mut self.images, name, image).map_err(|()| twice(name))
            }
            ["http", url, digest] => {
                let what = digest.parse().map_err(|e| format!("{e}"))?;
                put(&mut self.urls, url, Locked { line, what }).map_err(|()| twice(url))
            }
            ["git", repository, commit] => {
                let what = commit
                    .strip_prefix("commit:")
                    .and_then(Commit::parse)
                    .ok_or_else(|| format!("`{}` is not commit:ID", shown(commit)))?;
                put(&mut self.repositories, repository, Locked { line, what })
                    .map_err(|()| twice(repository))
            }
            ["image" | "http" | "git", ..] => Err("words are missing or too many".to_owned()),
            [kind, ..] => {
                Err(format!("unknown kind of source `{}`: image, http or git", shown(kind)))
            }
            [] => Ok(()),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line of an image.
    pub fn image(&self, name: &str) -> Option<&LockedImage> {
        self.images.get(name)
    }

    /// The line of a URL.
    pub fn url(&self, url: &str) -> Option<&Locked<BlobDigest>> {
        self.urls.get(url)
    }

    /// The line of a repository.
    pub fn repository(&self, name: &str) -> Option<&Locked<Commit>> {
        self.repositories.get(name)
    }

    /// Adds an image's platform.
    pub fn add_image(
        &mut self,
        name: String,
        digest: ManifestDigest,
        platform: Platform,
        manifest: ManifestDigest,
    ) {
        let new = || LockedImage { line: 0, digest, platforms: BTreeMap::new() };
        self.images.entry(name).or_insert_with(new).platforms.insert(platform, manifest);
    }

    /// Adds a URL.
    pub fn add_url(&mut self, url: String, what: BlobDigest) {
        self.urls.insert(url, Locked { line: 0, what });
    }

    /// Adds a repository.
    pub fn add_repository(&mut self, name: String, what: Commit) {
        self.repositories.insert(name, Locked { line: 0, what });
    }

    /// How many sources.
    pub fn len(&self) -> usize {
        self.images.len() + self.urls.len() + self.repositories.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has to change in this file to be `now`, a sentence each, in file order.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut out = Vec::new();
        compare(&self.name, &self.images, &now.images, &mut out);
        compare(&self.name, &self.urls, &now.urls, &mut out);
        compare(&self.name, &self.repositories, &now.repositories, &mut out);
        out
    }
}

impl fmt::Display for LockFile {
    /// The text of the file: equal sources, equal bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HEAD}version {VERSION}\n\n")?;
        for (name, image) in &self.images {
            writeln!(f, "image {name} {}", image.meaning())?;
        }
        for (url, to) in &self.urls {
            writeln!(f, "http {url} {}", to.meaning())?;
        }
        for (repository, to) in &self.repositories {
            writeln!(f, "git {repository} {}", to.meaning())?;
        }
        Ok(())
    }
}

/// A line of a lock file after its name.
trait Meaning {
    fn line(&self) -> usize;
    fn meaning(&self) -> String;
}

impl Meaning for LockedImage {
    fn line(&self) -> usize {
        self.line
    }

    fn meaning(&self) -> String {
        let all = self.platforms.iter().map(|(p, m)| format!(" {p}={m}"));
        self.digest.to_string() + &all.collect::<String>()
    }
}

impl Meaning for Locked<BlobDigest> {
    fn line(&self) -> usize {
        self.line
    }

    fn meaning(&self) -> String {
        self.what.to_string()
    }
}

impl Meaning for Locked<Commit> {
    fn line(&self) -> usize {
        self.line
    }

    fn meaning(&self) -> String {
        format!("commit:{}", self.what.0)
    }
}

fn compare<T: Meaning>(
    file: &str,
    old: &BTreeMap<String, T>,
    now: &BTreeMap<String, T>,
    out: &mut Vec<String>,
) {
    for (name, is) in now {
        match old.get(name) {
            None => out.push(format!("`{name}` has no line")),
            Some(was) if was.meaning() != is.meaning() => {
                let (line, was, is) = (was.line(), was.meaning(), is.meaning());
                out.push(format!("{file}:{line}: `{name}` is {was}, now {is}"));
            }
            Some(_) => {}
        }
    }
    for (name, was) in old.iter().filter(|(name, _)| !now.contains_key(*name)) {
        out.push(format!("{file}:{}: `{name}` is no source of this build", was.line()));
    }
}

fn put<T>(map: &mut BTreeMap<String, T>, name: &str, value: T) -> Result<(), ()> {
    match map.entry(name.to_owned()) {
        Entry::Vacant(v) => {
            v.insert(value);
            Ok(())
        }
        Entry::Occupied(_) => Err(()),
    }
}

/// A word of the file as a message holds it.
fn shown(word: &str) -> String {
    word.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> ManifestDigest {
        ManifestDigest::from_bytes([n; 32])
    }

    fn full() -> LockFile {
        let mut f = LockFile::new("l");
        let (amd, arm) = (Platform::linux_amd64(), Platform::new("linux", "arm64"));
        f.add_image("localhost:5000/x/y:1".into(), digest(3), amd.clone(), digest(3));
        f.add_image("docker.io/library/debian:12".into(), digest(1), arm, digest(4));
        f.add_image("docker.io/library/debian:12".into(), digest(1), amd, digest(2));
        f.add_url("https://example.com/a.tgz".into(), BlobDigest::from_bytes([5; 32]));
        let commit = Commit::parse(&"a".repeat(40)).unwrap();
        f.add_repository("https://example.com/a.git#v1".into(), commit);
        f
    }

    #[test]
    fn reads_what_it_writes() {
        let text = full().to_string();
        let read = LockFile::parse("l", &text).unwrap();
        assert_eq!(read.to_string(), text);
        let debian = read.image("docker.io/library/debian:12").unwrap();
        assert_eq!((debian.line, debian.digest, debian.platforms.len()), (5, digest(1), 2));
        assert_eq!(read.url("https://example.com/a.tgz").unwrap().line, 7);
        assert_eq!(read.repository("https://example.com/a.git#v1").unwrap().line, 8);
        assert_eq!((read.len(), read.differences(&full())), (4, vec![]));
        // One line each, whatever the order they came in.
        assert!(text.contains(&format!("linux/amd64={} linux/arm64={}\n", digest(2), digest(4))));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let sha = digest(1);
        let source = |line: String| format!("# c\nversion 1\n\n{line}\n");
        for (text, line, why) in [
            (String::new(), 1, "is missing"),
            ("# only\n".into(), 1, "is missing"),
            ("version 2\n".into(), 1, "version 2 is not one"),
            (format!("image a {sha}\n"), 1, "before any source"),
            (source("image".into()), 4, "missing or too many"),
            (source("version 1".into()), 4, "unknown kind of source `version`"),
            (source("container a b".into()), 4, "unknown kind of source `container`"),
            (source("image a:1 sha256:12".into()), 4, "no full image reference"),
            (source("image docker.io/library/a:1 sha256:12".into()), 4, "64 hex digits"),
            (source("image docker.io/library/a:1 md5:12".into()), 4, "must be `sha256`"),
            (source(format!("image docker.io/library/a:1 {sha} x")), 4, "not PLATFORM=DIGEST"),
            (source(format!("image docker.io/library/a:1 {sha} a/b/c/d={sha}")), 4, "platform"),
            (
                source(format!(
                    "image docker.io/library/a:1 {sha} linux/amd64={sha} linux/amd64={sha}"
                )),
                4,
                "stands twice",
            ),
            (
                source(format!("http https://a/b {sha}\nhttp https://a/b {sha}")),
                5,
                "has a line already",
            ),
            (source(format!("http https://a/b c {sha}")), 4, "missing or too many"),
            (source("git https://a/b.git commit:abc".into()), 4, "not commit:ID"),
            (source(format!("git https://a/b.git {}", "a".repeat(40))), 4, "not commit:ID"),
            (source(format!("\u{1b}[31m{} x", "y".repeat(1000))), 4, "\u{fffd}[31my"),
        ] {
            let e = LockFile::parse("l", &text).unwrap_err();
            assert_eq!(e.line, line, "{text:?}: {e}");
            assert!(e.why.contains(why), "{text:?}: {e}");
            assert!(e.why.len() < 200, "{e}");
        }
    }

    #[test]
    fn tells_what_moved() {
        let old = LockFile::parse("l", &full().to_string()).unwrap();
        let mut now = LockFile::new("l");
        let amd = Platform::linux_amd64();
        now.add_image("localhost:5000/x/y:1".into(), digest(9), amd.clone(), digest(9));
        now.add_image("docker.io/library/new:1".into(), digest(1), amd, digest(1));
        let said = old.differences(&now);
        assert_eq!(said.len(), 5, "{said:?}");
        assert_eq!(said[0], "`docker.io/library/new:1` has no line");
        assert!(said[1].starts_with("l:6: `localhost:5000/x/y:1` is sha256:0303"), "{said:?}");
        assert_eq!(said[2], "l:5: `docker.io/library/debian:12` is no source of this build");
        assert!(said[3].starts_with("l:7: ") && said[4].starts_with("l:8: "), "{said:?}");
    }
}
