//! From a commit to files, submodules included.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rgraph_ir::op::GitSource;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};

use super::command::{Git, GitError};
use super::remote::{Found, Remote, is_commit};
use super::{Repository, failed, shown};
use crate::fetch::source::{SourceError, Sources};

/// Deepest nesting of submodules.
const MAX_DEPTH: usize = 16;
/// Most submodules of one commit.
const MAX_SUBMODULES: usize = 1000;

/// Why a commit's files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// No such folder in the commit, or it is something else.
    #[error("`{0}` is not a folder in it")]
    NoFolder(String),
    /// A submodule without a usable entry in `.gitmodules`.
    #[error("submodule `{path}`: {why}")]
    Submodule {
        /// Where it lies.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The system refused.
    #[error("cannot {what} `{path}`")]
    Io {
        /// What was done.
        what: &'static str,
        /// Below the root of the tree.
        path: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl CheckoutError {
    fn io(what: &'static str, path: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |e| Self::Io { what, path, source: e.into() }
    }
}

impl Sources<'_> {
    /// The repository is let go before others are waited for.
    pub(super) fn check_out(
        &self,
        repository: Repository<'_>,
        g: &GitSource,
        found: &Found,
        to: &Path,
    ) -> Result<(), SourceError> {
        let wrong = |source| SourceError::Checkout { name: shown(g), source };
        let subdir = g.subdir.as_deref().map(|s| s.trim_matches('/')).filter(|s| !s.is_empty());
        let work = Work { sources: self, g, to };
        let time = work.files(&repository, &found.commit, subdir, to)?;
        let links = match g.skip_submodules {
            true => Vec::new(),
            false => work.links(&repository, &found.commit, subdir)?,
        };
        let remote = repository.remote.clone();
        if g.keep_git_dir && subdir.is_none() {
            work.git_dir(&repository, found)?;
        }
        drop(repository);
        work.submodules(&remote, links, to, 0)?;
        settle(to, time).map_err(wrong)
    }
}

/// A submodule.
struct Link {
    /// Where it goes, below the root of the tree.
    below: String,
    remote: Remote,
    commit: String,
}

/// One checkout.
struct Work<'a> {
    sources: &'a Sources<'a>,
    g: &'a GitSource,
    to: &'a Path,
}

impl Work<'_> {
    fn wrong(&self, source: CheckoutError) -> SourceError {
        SourceError::Checkout { name: shown(self.g), source }
    }

    /// Writes the files of a commit or a folder of it; gives the commit's time, seconds.
    fn files(
        &self,
        repository: &Repository<'_>,
        commit: &str,
        subdir: Option<&str>,
        to: &Path,
    ) -> Result<i64, SourceError> {
        let git = repository.git();
        let git_failed = |e| failed(self.g, e);
        let time = git
            .run(&["show", "-s", "--no-show-signature", "--format=%ct", commit])
            .map_err(git_failed)?;
        let time = String::from_utf8_lossy(&time).trim().parse().unwrap_or(0);
        let tree = match subdir {
            None => format!("{commit}^{{tree}}"),
            Some(dir) => format!("{commit}:{dir}"),
        };
        match git.run(&["cat-file", "-t", &tree]) {
            Ok(kind) if kind.trim_ascii() == b"tree" => {}
            Err(GitError::Cancelled) => return Err(git_failed(GitError::Cancelled)),
            _ => {
                let dir = subdir.unwrap_or("/").to_owned();
                return Err(self.wrong(CheckoutError::NoFolder(dir)));
            }
        }
        let index = repository.dir.join("index.rgraph");
        // Left by a process that was killed.
        let _ = std::fs::remove_file(&index);
        let _ = std::fs::remove_file(repository.dir.join("index.rgraph.lock"));
        let git = Git { work: Some((to, &index)), ..git };
        git.run(&["read-tree", "--empty"]).map_err(git_failed)?;
        git.run(&["read-tree", &tree]).map_err(git_failed)?;
        git.run(&["checkout-index", "--all", "--quiet"]).map_err(git_failed)?;
        let _ = std::fs::remove_file(&index);
        Ok(time)
    }

    /// The submodules below `subdir` of a commit.
    fn links(
        &self,
        repository: &Repository<'_>,
        commit: &str,
        subdir: Option<&str>,
    ) -> Result<Vec<Link>, SourceError> {
        let git = repository.git();
        let mut args = vec!["ls-tree", "-r", "-z", "--full-tree", commit];
        if let Some(dir) = subdir {
            args.extend(["--", dir]);
        }
        let list = git.run(&args).map_err(|e| failed(self.g, e))?;
        let links: Vec<(String, String)> = list
            .split(|b| *b == 0)
            .filter_map(|line| {
                let line = std::str::from_utf8(line).ok()?;
                let (meta, path) = line.split_once('\t')?;
                let id = meta.strip_prefix("160000 commit ")?.trim();
                Some((path.to_owned(), id.to_owned()))
            })
            .collect();
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let bad = |path: &str, why: &str| {
            self.wrong(CheckoutError::Submodule { path: path.to_owned(), why: why.to_owned() })
        };
        if links.len() > MAX_SUBMODULES {
            return Err(bad(&links[0].0, "there are more than 1000 of them"));
        }
        let urls = urls(&git, commit).map_err(|e| failed(self.g, e))?;
        let mut out = Vec::new();
        for (path, id) in links {
            // A link without an entry is an empty folder, as for `git`.
            let Some(url) = urls.get(&path) else { continue };
            let below = match subdir {
                Some(dir) => path.strip_prefix(dir).and_then(|p| p.strip_prefix('/')),
                None => Some(path.as_str()),
            };
            let Some(below) = below.filter(|_| is_commit(&id)) else {
                return Err(bad(&path, "it is no commit below the folder"));
            };
            let remote = repository.remote.join(url).map_err(|why| bad(&path, why))?;
            out.push(Link { below: below.to_owned(), remote, commit: id });
        }
        Ok(out)
    }

    /// Fetches and writes them, and theirs.
    fn submodules(
        &self,
        of: &Remote,
        links: Vec<Link>,
        to: &Path,
        depth: usize,
    ) -> Result<(), SourceError> {
        if links.is_empty() {
            return Ok(());
        }
        let root = open(to).map_err(|e| self.wrong(e))?;
        for Link { below, remote, commit } in links {
            if depth >= MAX_DEPTH {
                let why = format!("it is the {MAX_DEPTH}th within another, from {}", of.shown());
                return Err(self.wrong(CheckoutError::Submodule { path: below, why }));
            }
            let place = self.folder(&root, &below, to).map_err(|e| self.wrong(e))?;
            let repository = self.sources.repository(&remote, self.g)?;
            let found = Found { full: None, commit, tag: None };
            self.sources.bring(&repository, self.g, &found)?;
            self.files(&repository, &found.commit, None, &place)?;
            let links = self.links(&repository, &found.commit, None)?;
            drop(repository);
            self.submodules(&remote, links, &place, depth + 1)?;
        }
        Ok(())
    }

    /// The folder of a submodule, which nothing but real folders leads to.
    fn folder(&self, root: &OwnedFd, below: &str, to: &Path) -> Result<PathBuf, CheckoutError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, below, flags, Mode::empty(), how)
            .map_err(CheckoutError::io("open", below))?;
        Ok(to.join(below))
    }

    /// A `.git` with this commit alone.
    fn git_dir(&self, repository: &Repository<'_>, found: &Found) -> Result<(), SourceError> {
        let git_failed = |e| failed(self.g, e);
        let commit = found.commit.as_str();
        let dir = self.to.join(".git");
        std::fs::create_dir(&dir).map_err(|source| {
            self.wrong(CheckoutError::Io { what: "create", path: ".git".to_owned(), source })
        })?;
        let git = Git { dir: &dir, header: None, local: true, ..repository.git() };
        let args = ["init", "--quiet", "--bare", "--template=", "--initial-branch=master"];
        git.run(&args).map_err(git_failed)?;
        let own = format!("file://{}", repository.dir.display());
        let tag = found.full.as_deref().filter(|f| f.starts_with("refs/tags/"));
        let to = match tag {
            Some(tag) => format!("+{}:{tag}", found.tag.as_deref().unwrap_or(commit)),
            None => format!("+{commit}:refs/rgraph"),
        };
        let fetch = ["fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head", "--"];
        let fetch: Vec<&str> = fetch.into_iter().chain([own.as_str(), to.as_str()]).collect();
        git.run(&fetch).map_err(git_failed)?;
        let shown = repository.remote.shown();
        for args in [
            &["update-ref", "--no-deref", "HEAD", commit][..],
            &["config", "core.bare", "false"],
            &["config", "remote.origin.url", &shown],
            &["config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"],
        ] {
            git.run(args).map_err(git_failed)?;
        }
        if tag.is_none() {
            git.run(&["update-ref", "-d", "refs/rgraph"]).map_err(git_failed)?;
        }
        let index = dir.join("index");
        let git = Git { work: Some((self.to, &index)), ..git };
        git.run(&["read-tree", commit]).map_err(git_failed)?;
        // It says whether files differ; here it only fills in their times.
        match git.run(&["update-index", "-q", "--refresh"]) {
            Ok(_) | Err(GitError::Failed { .. }) => Ok(()),
            Err(e) => Err(git_failed(e)),
        }
    }
}

/// Path to URL, out of a commit's `.gitmodules`; the file has to be one.
fn urls(git: &Git<'_>, commit: &str) -> Result<BTreeMap<String, String>, GitError> {
    let entry = git.run(&["ls-tree", "-z", "--full-tree", commit, "--", ".gitmodules"])?;
    let entry = String::from_utf8_lossy(&entry).into_owned();
    if !entry.starts_with("100") {
        return Ok(BTreeMap::new());
    }
    let blob = format!("{commit}:.gitmodules");
    let text = git.run(&["config", "--blob", &blob, "--null", "--list"])?;
    let mut paths: BTreeMap<String, String> = BTreeMap::new();
    let mut urls: BTreeMap<String, String> = BTreeMap::new();
    for pair in text.split(|b| *b == 0) {
        let Ok(pair) = std::str::from_utf8(pair) else { continue };
        let Some((key, value)) = pair.split_once('\n') else { continue };
        let Some(key) = key.strip_prefix("submodule.") else { continue };
        if let Some(name) = key.strip_suffix(".path") {
            paths.insert(name.to_owned(), value.to_owned());
        } else if let Some(name) = key.strip_suffix(".url") {
            urls.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(paths.into_iter().filter_map(|(name, path)| Some((path, urls.remove(&name)?))).collect())
}

fn open(path: &Path) -> Result<OwnedFd, CheckoutError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(CheckoutError::io("open", "/"))
}

/// Gives everything its mode, whatever this process' umask is, and the time of the commit.
fn settle(root: &Path, time: i64) -> Result<(), CheckoutError> {
    let t = Timespec { tv_sec: time, tv_nsec: 0 };
    let times = Timestamps { last_access: t, last_modification: t };
    level(&open(root)?, "", &times, true)
}

fn level(dir: &OwnedFd, shown: &str, times: &Timestamps, top: bool) -> Result<(), CheckoutError> {
    let names: Vec<_> = Dir::read_from(dir)
        .map_err(CheckoutError::io("read", shown))?
        .filter_map(|e| e.ok().map(|e| OsStr::from_bytes(e.file_name().to_bytes()).to_owned()))
        .filter(|n| n != "." && n != ".." && !(top && n == ".git"))
        .collect();
    for name in names {
        let path = format!("{shown}/{}", name.to_string_lossy());
        let st = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(CheckoutError::io("look at", &path))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match FileType::from_raw_mode(st.st_mode) {
            FileType::Symlink => {
                rustix::fs::utimensat(dir, &name, times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(CheckoutError::io("set times of", &path))?;
            }
            FileType::Directory => {
                let below =
                    rustix::fs::openat(dir, &name, flags | OFlags::DIRECTORY, Mode::empty())
                        .map_err(CheckoutError::io("open", &path))?;
                level(&below, &path, times, false)?;
            }
            _ => {
                let mode = if st.st_mode & 0o100 == 0 { 0o644 } else { 0o755 };
                let file = rustix::fs::openat(dir, &name, flags, Mode::empty())
                    .map_err(CheckoutError::io("open", &path))?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
                    .map_err(CheckoutError::io("chmod", &path))?;
                rustix::fs::futimens(&file, times)
                    .map_err(CheckoutError::io("set times of", &path))?;
            }
        }
    }
    rustix::fs::fchmod(dir, Mode::from_raw_mode(0o755))
        .map_err(CheckoutError::io("chmod", shown))?;
    rustix::fs::futimens(dir, times).map_err(CheckoutError::io("set times of", shown))
}
