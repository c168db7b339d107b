//! Repositories: a bare copy of each in the store, fetched into with `git`, and trees checked out of
//! it.
//!
//! A repository is hostile: nothing of it is run (`command`), its submodules are looked up here and
//! fetched as repositories of their own (`checkout`), and paths in it are opened without following
//! links. What a branch means is asked for in every build; its commit is fetched once.

mod checkout;
mod command;
mod remote;

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use base64::Engine as _;
use rgraph_image::registry::decoded;
use rgraph_ir::op::GitSource;
use rgraph_store::{KeyLock, StoreError};

pub use checkout::CheckoutError;
use command::Git;
pub use command::{GitError, SshAccess};
pub(super) use remote::Found;
use remote::{Remote, find, is_commit, is_name, is_short_commit};

use super::http::host_names;
use super::image::PullPolicy;
use super::lock::Commit;
use super::source::{SourceError, Sources, Want, cell};

/// A repository that can be fetched from.
struct Repository<'a> {
    remote: Remote,
    dir: PathBuf,
    header: Option<String>,
    ssh: &'a SshAccess,
    cancelled: &'a (dyn Fn() -> bool + Sync),
    _lock: KeyLock,
}

impl Repository<'_> {
    fn git(&self) -> Git<'_> {
        Git {
            dir: &self.dir,
            header: self.header.as_deref().map(|h| (self.remote.url.as_str(), h)),
            ssh: self.ssh,
            work: None,
            local: false,
            cancelled: self.cancelled,
        }
    }

    fn has(&self, commit: &str) -> bool {
        let name = format!("{commit}^{{commit}}");
        self.git().run(&["cat-file", "-e", &name]).is_ok()
    }

    /// Brings a commit here. Whole histories come only where less is not served.
    fn fetch(&self, found: &Found) -> Result<(), GitError> {
        let commit = found.commit.as_str();
        if self.has(commit) {
            return Ok(());
        }
        let url = self.remote.url.as_str();
        let common = ["fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"];
        let fetch = |more: &[&str], refs: &[String]| {
            let mut args: Vec<&str> = common.to_vec();
            args.extend(more);
            args.extend(["--", url]);
            args.extend(refs.iter().map(String::as_str));
            self.git().run_remote(&args)
        };
        let keep = format!("refs/rgraph/{commit}");
        let one = match &found.full {
            Some(full) => format!("+{full}:{keep}"),
            None => format!("+{commit}:{keep}"),
        };
        let mut last = match fetch(&["--depth=1"], std::slice::from_ref(&one)) {
            Ok(_) if self.has(commit) => return Ok(()),
            Ok(_) => None,
            Err(e) if e.is_final() => return Err(e),
            Err(e) => Some(e),
        };
        // Dumb servers send no part of a history, and old ones no commit by its id.
        let shallow = self.dir.join("shallow").exists();
        let depth: &[&str] = if shallow { &["--unshallow"] } else { &[] };
        let all = ["+refs/heads/*:refs/rgraph/heads/*", "+refs/tags/*:refs/rgraph/tags/*"];
        let all = all.map(str::to_owned);
        for refs in [std::slice::from_ref(&one), &all[..]] {
            if let (true, None) = (refs.len() == 1, &found.full) {
                continue;
            }
            match fetch(depth, refs) {
                Ok(_) if self.has(commit) => {
                    self.git().run(&["update-ref", &keep, commit])?;
                    return Ok(());
                }
                Ok(_) => {}
                Err(e) if e.is_final() => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| GitError::Failed {
            what: "fetch".to_owned(),
            words: format!("the repository has no commit {commit}, or its branch moved meanwhile"),
        }))
    }

    /// The commit that begins like this, in all that the remote has.
    fn unshorten(&self, short: &str) -> Result<Option<String>, GitError> {
        let shallow = self.dir.join("shallow").exists();
        let mut args = vec!["fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"];
        args.extend(shallow.then_some("--unshallow"));
        args.extend(["--", &self.remote.url, "+refs/heads/*:refs/rgraph/heads/*"]);
        args.push("+refs/tags/*:refs/rgraph/tags/*");
        self.git().run_remote(&args)?;
        let name = format!("{short}^{{commit}}");
        match self.git().run(&["rev-parse", "--verify", "--quiet", &name]) {
            Ok(out) => {
                let id = String::from_utf8_lossy(&out).trim().to_owned();
                Ok(is_commit(&id).then_some(id))
            }
            Err(GitError::Failed { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl Sources<'_> {
    /// What a repository's tree is, whatever it is called.
    pub fn git_pin(&self, g: &GitSource) -> Result<String, SourceError> {
        let commit = self.git_commit(g)?;
        let mut pin = format!("commit {commit}");
        if g.keep_git_dir && g.subdir.is_none() {
            // The remote and the branch are written into it.
            pin.push_str(&format!(" with {} {:?}", g.full_url, g.reference));
        }
        if let Some(dir) = &g.subdir {
            pin.push_str(&format!(" at {dir}"));
        }
        if g.skip_submodules {
            pin.push_str(" alone");
        }
        Ok(pin)
    }

    /// The commit of a source, for a lock file.
    pub fn git_locked(&self, g: &GitSource) -> Result<Commit, SourceError> {
        let asks = matches!(self.images.policy, PullPolicy::Always | PullPolicy::Newer);
        let id = match self.git_want(g)? {
            Want::Preferred(commit) if !asks => return Ok(commit),
            _ => self.found(g)?.commit,
        };
        Commit::parse(&id).ok_or_else(|| {
            failed(
                g,
                GitError::Failed {
                    what: "ls-remote".to_owned(),
                    words: "the answer is no commit".to_owned(),
                },
            )
        })
    }

    /// The commit of a source, checked.
    pub fn git_commit(&self, g: &GitSource) -> Result<String, SourceError> {
        if let Want::Locked(_, _, commit) = self.git_want(g)? {
            return Ok(commit.to_string());
        }
        let found = self.found(g)?;
        if let Some(sum) = &g.checksum
            && !found.commit.starts_with(sum.as_str())
            && found.tag.as_deref().is_none_or(|t| !t.starts_with(sum.as_str()))
        {
            let (name, want) = (shown(g), sum.clone());
            return Err(SourceError::Checksum { name, want, got: found.commit });
        }
        Ok(found.commit)
    }

    /// Brings a source into the store.
    pub fn git_fetch(&self, g: &GitSource) -> Result<String, SourceError> {
        let found = self.git_found(g)?;
        let repository = self.repository(&parse(g)?, g)?;
        self.bring(&repository, g, &found)?;
        Ok(found.commit)
    }

    /// Writes a source's files into an empty folder, with root as their owner, mode 0644 or 0755 and
    /// the time of the commit.
    pub fn git_tree(&self, g: &GitSource, to: &Path) -> Result<(), SourceError> {
        let found = self.git_found(g)?;
        let repository = self.repository(&parse(g)?, g)?;
        self.bring(&repository, g, &found)?;
        self.check_out(repository, g, &found, to)
    }

    /// When the commit of a source was made: the committer's word, seconds since 1970.
    pub fn git_time(&self, g: &GitSource) -> Result<i64, SourceError> {
        let found = self.git_found(g)?;
        let repository = self.repository(&parse(g)?, g)?;
        self.bring(&repository, g, &found)?;
        let args = ["show", "--no-patch", "--format=%ct", &found.commit, "--"];
        let answer = repository.git().run(&args).map_err(|e| failed(g, e))?;
        String::from_utf8_lossy(&answer).trim().parse().map_err(|_| {
            let words = format!("commit {} has no time", found.commit);
            failed(g, GitError::Failed { what: "show".to_owned(), words })
        })
    }

    /// What the Dockerfile and the lock file together say.
    fn git_found(&self, g: &GitSource) -> Result<Found, SourceError> {
        let commit = self.git_commit(g)?;
        match self.git_want(g)? {
            Want::Locked(..) => Ok(Found { full: None, commit, tag: None }),
            _ => self.found(g),
        }
    }

    fn git_want(&self, g: &GitSource) -> Result<Want<'_, Commit>, SourceError> {
        if let Some(commit) = g.checksum.as_deref().filter(|c| is_commit(c))
            && g.fetch_by_commit
        {
            return Ok(Commit::parse(commit).map_or(Want::Any, Want::Preferred));
        }
        if g.reference.as_deref().is_some_and(is_commit) {
            return Ok(Want::Any);
        }
        let name = lock_name(g);
        self.locked(&name, |f| f.repository(&name).map(|l| (l.line, l.what.clone())))
    }

    /// What the name of a source means now, found out once.
    fn found(&self, g: &GitSource) -> Result<Found, SourceError> {
        let reference = g.reference.as_deref().unwrap_or("");
        let by_id = |id: &str| Found { full: None, commit: id.to_owned(), tag: None };
        match &g.checksum {
            Some(sum) if g.fetch_by_commit && is_commit(sum) => return Ok(by_id(sum)),
            _ if is_commit(reference) => return Ok(by_id(reference)),
            _ => {}
        }
        if !reference.is_empty() && !is_name(reference) {
            return Err(SourceError::GitName { name: shown(g), reference: reference.to_owned() });
        }
        let record = format!("git {}", lock_name(g));
        let cell = cell(&self.repositories, &record);
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*cell {
            return Ok(found.clone());
        }
        let known = self.recall::<Found>(&record)?;
        let found = match (self.images.open_registry(), known) {
            (Err(_), Some(known)) => known,
            (Err(closed), None) => return Err(SourceError::Absent { name: shown(g), closed }),
            (Ok(_), known) => match (self.ask(g, reference), known) {
                (Ok(found), _) => {
                    self.remember(&record, &found, &[])?;
                    found
                }
                (
                    Err(SourceError::Git { source: GitError::Failed { words, .. }, .. }),
                    Some(known),
                ) if self.images.policy == PullPolicy::Newer => {
                    (self.images.on_warning)(&format!(
                        "cannot ask what `{}` is now, so what is here is used: {words}",
                        shown(g)
                    ));
                    known
                }
                (Err(e), _) => return Err(e),
            },
        };
        *cell = Some(found.clone());
        Ok(found)
    }

    /// Asks the remote.
    fn ask(&self, g: &GitSource, reference: &str) -> Result<Found, SourceError> {
        let repository = self.repository(&parse(g)?, g)?;
        let url = repository.remote.url.clone();
        let mut args = vec!["ls-remote".to_owned(), "--".to_owned(), url];
        match reference {
            "" => args.push("HEAD".to_owned()),
            name => args.extend([name.to_owned(), format!("{name}^{{}}")]),
        }
        let answer = repository.git().run_remote(&args).map_err(|e| failed(g, e))?;
        if let Some(found) = find(&String::from_utf8_lossy(&answer), reference) {
            return Ok(found);
        }
        if is_short_commit(reference)
            && let Some(commit) = repository.unshorten(reference).map_err(|e| failed(g, e))?
        {
            return Ok(Found { full: None, commit, tag: None });
        }
        Err(SourceError::NoRef {
            name: shown(g),
            reference: if reference.is_empty() { "HEAD" } else { reference }.to_owned(),
        })
    }

    fn bring(
        &self,
        repository: &Repository<'_>,
        g: &GitSource,
        found: &Found,
    ) -> Result<(), SourceError> {
        match self.images.open_registry() {
            Ok(_) => repository.fetch(found).map_err(|e| failed(g, e)),
            Err(_) if repository.has(&found.commit) => Ok(()),
            Err(closed) => Err(SourceError::Absent { name: shown(g), closed }),
        }
    }

    /// The bare copy of a remote, made when there is none, and nobody else's as long as it is held.
    fn repository(&self, remote: &Remote, g: &GitSource) -> Result<Repository<'_>, SourceError> {
        let cancelled: &(dyn Fn() -> bool + Sync) = &self.images.cancelled;
        let lock = self.store().key_lock(&format!("git {}", remote.url), &mut |_| !cancelled());
        let lock = match lock {
            Err(StoreError::Cancelled) => return Err(failed(g, GitError::Cancelled)),
            lock => lock?,
        };
        // No step can name it: ids of steps have a slash before anything else.
        let dir = self.store().cache_mount(&format!("git repository\0{}", remote.url))?;
        let top = Remote::parse(&g.full_url).is_ok_and(|r| r.url == remote.url);
        let repository = Repository {
            header: self.git_secret(remote, top),
            remote: remote.clone(),
            dir,
            ssh: &self.ssh,
            cancelled,
            _lock: lock,
        };
        if !repository.dir.join("HEAD").exists() {
            let args = ["init", "--quiet", "--bare", "--template=", "--initial-branch=main"];
            repository.git().run(&args).map_err(|e| failed(g, e))?;
        }
        // Left by a process that was killed: whoever holds the lock is the only one here.
        for left in ["shallow.lock", "packed-refs.lock", "HEAD.lock", "config.lock"] {
            // Mostly there is none.
            let _ = std::fs::remove_file(repository.dir.join(left));
        }
        Ok(repository)
    }

    /// `Authorization` for a remote: a secret of its host, one for the repository that was named, or
    /// the login in its URL.
    fn git_secret(&self, remote: &Remote, top: bool) -> Option<String> {
        if !remote.is_http() {
            return None;
        }
        let basic = |login: &str| {
            let login = base64::engine::general_purpose::STANDARD.encode(login);
            format!("Authorization: Basic {login}")
        };
        let hosts = host_names(&remote.url).into_iter().map(|h| format!(".{h}"));
        for suffix in hosts.chain(top.then(String::new)) {
            let get = |name: &str| {
                let secret = self.secrets.get(&format!("{name}{suffix}"))?;
                Some(String::from_utf8_lossy(secret.expose().trim_ascii()).into_owned())
            };
            if let Some(header) = get("GIT_AUTH_HEADER") {
                return Some(format!("Authorization: {header}"));
            }
            if let Some(token) = get("GIT_AUTH_TOKEN") {
                return Some(basic(&format!("x-access-token:{token}")));
            }
        }
        remote.login.as_deref().map(|login| {
            let login = if login.contains(':') { login.to_owned() } else { format!("{login}:") };
            basic(&decoded(&login))
        })
    }
}

/// What a source is called in a lock file.
pub fn lock_name(g: &GitSource) -> String {
    let url = Remote::parse(&g.full_url).map_or_else(|_| g.full_url.clone(), |r| r.url);
    match &g.reference {
        Some(r) => format!("{url}#{r}"),
        None => url,
    }
}

fn shown(g: &GitSource) -> String {
    let url = Remote::parse(&g.full_url).map_or_else(|_| g.remote.clone(), |r| r.shown());
    match &g.reference {
        Some(r) => format!("{url}#{r}"),
        None => url,
    }
}

fn parse(g: &GitSource) -> Result<Remote, SourceError> {
    Remote::parse(&g.full_url)
        .map_err(|why| SourceError::GitUrl { name: g.remote.clone(), why: why.to_owned() })
}

fn failed(g: &GitSource, source: GitError) -> SourceError {
    let mut hint = String::new();
    if let GitError::Failed { words, .. } = &source {
        let host = host_names(&g.full_url).pop().unwrap_or_default();
        let asks = ["could not read Username", "401", "403", "terminal prompts disabled"];
        if g.ssh {
            if words.contains("has changed and you have requested strict checking") {
                // No advice to trust it: somebody else may be answering.
                hint = " (it has another host key than known_hosts says)".to_owned();
            } else if words.contains("Host key verification failed") {
                hint = " (its host key is not in known_hosts: `ssh-keyscan` shows it)".to_owned();
            } else if words.contains("Permission denied") {
                hint = " (`--ssh default` gives it the keys of your agent)".to_owned();
            }
        } else if asks.iter().any(|a| words.contains(a)) {
            hint = format!(" (`--secret id=GIT_AUTH_TOKEN.{host},...` gives a token for it)");
        }
    }
    SourceError::Git { name: shown(g), hint, source }
}
