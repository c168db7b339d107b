//! From names to real paths, strictly below a root.
//!
//! Links are resolved here by text, as if the root were `/`; what is opened is always a path of
//! which no component is a link. The real path is what ignore rules are asked about, so that a link
//! is no way around them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rgraph_ir::pattern::{Glob, PatternSet};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags, openat, openat2,
    readlinkat, statx,
};
use rustix::io::Errno;

use super::ContextError;
use super::stat_cache::Stamp;
use super::walk::Kind;

/// Most links on one way, as in the kernel.
const MAX_LINKS: usize = 40;

/// What `statx` is asked for.
pub(super) const WANT: StatxFlags = StatxFlags::BASIC_STATS;

/// A tree below a directory handle.
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    pub ignore: Option<&'a PatternSet>,
    ways: Mutex<Ways>,
}

/// What was passed on the way to what was found.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Links that were followed and folders whose names were matched: no entries, yet another one
    /// in their place leads elsewhere.
    pub passed: BTreeSet<Stamp>,
    /// Folders that were gone through, by their real paths; the root has the empty one.
    pub folders: BTreeMap<Vec<u8>, Stamp>,
}

/// A real path and what is there.
pub(super) struct Found {
    /// Relative to the root, no link on the way; empty: the root.
    pub real: Vec<u8>,
    pub stat: Statx,
}

/// What is at a path, and the text of the link when it is one.
type Look = (Statx, Option<Vec<u8>>);

/// Appends a component.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// True for the answers that mean "not there".
pub(super) fn is_absent(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG)
}

impl<'a> Tree<'a> {
    pub fn new(root: BorrowedFd<'a>, ignore: Option<&'a PatternSet>) -> Self {
        Self { root, ignore, ways: Mutex::default() }
    }

    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, stat: &Statx) {
        self.ways().passed.insert(Stamp::of(stat));
    }

    /// Goes through a folder below the root.
    fn enter(&self, real: &[u8], stat: &Statx) -> Result<(), ContextError> {
        let mut ways = self.ways();
        if ways.folders.is_empty() {
            let root = statx(self.root, "", AtFlags::EMPTY_PATH, WANT);
            let root = root.map_err(|e| ContextError::read(b"", e))?;
            ways.folders.insert(Vec::new(), Stamp::of(&root));
        }
        if !ways.folders.contains_key(real) {
            ways.folders.insert(real.to_vec(), Stamp::of(stat));
        }
        Ok(())
    }

    /// What was passed on the way to what was found.
    pub fn into_ways(self) -> Ways {
        self.ways.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a real path. A link anywhere on it (it changed since) is `ELOOP`.
    pub fn open(&self, real: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let path: &[u8] = if real.is_empty() { b"." } else { real };
        match openat2(self.root, path, flags, Mode::empty(), how) {
            // An old kernel, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => self.open_stepwise(path, flags),
            other => other,
        }
    }

    fn open_stepwise(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut dir: Option<OwnedFd> = None;
        let mut parts = path.split(|b| *b == b'/').peekable();
        while let Some(part) = parts.next() {
            let here = dir.as_ref().map_or(self.root, |d| d.as_fd());
            if parts.peek().is_none() {
                return openat(here, part, flags, Mode::empty());
            }
            let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = Some(openat(here, part, step, Mode::empty())?);
        }
        Err(Errno::NOENT)
    }

    /// What is at a real path, and the text of the link when it is one.
    fn look(&self, real: &[u8]) -> Result<Option<Look>, ContextError> {
        let look = || -> Result<Look, Errno> {
            let fd = self.open(real, OFlags::PATH)?;
            let stat = statx(&fd, "", AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW, WANT)?;
            let link = match Kind::of(&stat) {
                Kind::Symlink => Some(readlinkat(&fd, "", Vec::new())?.into_bytes()),
                _ => None,
            };
            Ok((stat, link))
        };
        match look() {
            Ok(found) => Ok(Some(found)),
            Err(e) if is_absent(e) => Ok(None),
            Err(e) => Err(ContextError::read(real, e)),
        }
    }

    /// The real path of `path`; `None` when nothing is there. A link at its end is followed when
    /// `follow`.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Option<Found>, ContextError> {
        let split = |p: &[u8]| -> Vec<Vec<u8>> {
            p.split(|b| *b == b'/')
                .filter(|c| !matches!(*c, b"" | b"."))
                .map(<[u8]>::to_vec)
                .rev()
                .collect()
        };
        let mut todo = split(path);
        let mut real: Vec<u8> = Vec::new();
        let mut last = None;
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                let end = real.iter().rposition(|b| *b == b'/').unwrap_or(0);
                real.truncate(end);
                last = None;
                continue;
            }
            let here = join(&real, &part);
            let Some((stat, link)) = self.look(&here)? else { return Ok(None) };
            match link {
                Some(target) if follow || !todo.is_empty() => {
                    links += 1;
                    self.pass(&stat);
                    // A link that ignore rules hide leads nowhere.
                    let hidden = self.ignore.is_some_and(|i| i.matches_or_parent(&here));
                    if links > MAX_LINKS || hidden {
                        return Ok(None);
                    }
                    if target.first() == Some(&b'/') {
                        real.clear();
                    }
                    last = None;
                    todo.extend(split(&target));
                }
                _ => {
                    if !todo.is_empty() {
                        if Kind::of(&stat) != Kind::Dir {
                            return Ok(None);
                        }
                        self.enter(&here, &stat)?;
                    }
                    real = here;
                    last = Some(stat);
                }
            }
        }
        let stat = match last {
            Some(stat) => stat,
            None => match self.look(&real)? {
                Some((stat, _)) => stat,
                None => return Ok(None),
            },
        };
        Ok(Some(Found { real, stat }))
    }

    /// The paths that match `pattern`, sorted, links in them not resolved.
    pub fn matches(&self, pattern: &str) -> Result<Vec<Vec<u8>>, ContextError> {
        let mut parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
        parts.dedup_by(|a, b| *a == "**" && *b == "**");
        let mut found: BTreeSet<Vec<u8>> = BTreeSet::from([Vec::new()]);
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let glob = if part.contains(['*', '?', '[', '\\']) {
                let bad = |source| ContextError::Pattern { path: pattern.to_owned(), source };
                Some(Glob::new(part).map_err(bad)?)
            } else {
                None
            };
            let mut next = BTreeSet::new();
            for dir in &found {
                match &glob {
                    None => {
                        next.insert(join(dir, part.as_bytes()));
                    }
                    Some(_) if *part == "**" && !last => self.folders_below(dir, &mut next)?,
                    Some(glob) => {
                        let names = self.names(dir)?;
                        let fit = names.iter().filter(|(n, _)| glob.matches(n));
                        next.extend(fit.map(|(n, _)| join(dir, n)));
                    }
                }
            }
            found = next;
        }
        Ok(found.into_iter().collect())
    }

    /// Names in the folder `path` leads to; none when it is no folder.
    fn names(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileType)>, ContextError> {
        match self.resolve(path, true)? {
            Some(f) if Kind::of(&f.stat) == Kind::Dir && !self.hides_all(&f.real) => {
                self.pass(&f.stat);
                let dir = self.open(&f.real, OFlags::RDONLY | OFlags::DIRECTORY);
                let names = dir.and_then(|dir| names(&dir));
                names.map_err(|e| ContextError::read(&f.real, e))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// True when ignore rules hide the folder and all that is in it.
    fn hides_all(&self, real: &[u8]) -> bool {
        self.ignore.is_some_and(|i| i.matches_or_parent(real) && !i.may_free_below(real))
    }

    /// `dir` itself and every folder below it that no link is needed for.
    fn folders_below(&self, dir: &[u8], out: &mut BTreeSet<Vec<u8>>) -> Result<(), ContextError> {
        let mut todo = vec![dir.to_vec()];
        while let Some(dir) = todo.pop() {
            for (name, kind) in self.names(&dir)? {
                let child = join(&dir, &name);
                let is_dir = match kind {
                    FileType::Directory => true,
                    // Some file systems do not say it in the listing.
                    FileType::Unknown => {
                        self.resolve(&child, false)?.is_some_and(|f| Kind::of(&f.stat) == Kind::Dir)
                    }
                    _ => false,
                };
                if is_dir {
                    todo.push(child);
                }
            }
            out.insert(dir);
        }
        Ok(())
    }
}

/// The names in a folder, sorted, with what the listing says of their types.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut buf = Vec::with_capacity(32 * 1024);
    let mut raw = RawDir::new(dir, buf.spare_capacity_mut());
    let mut out = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            out.push((name.to_vec(), entry.file_type()));
        }
    }
    out.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_for_old_kernels_opens_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/c"), "").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let tree = Tree::new(root.as_fd(), None);
        let base = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, flags, want) in [
            (".", OFlags::RDONLY, true),
            ("a/b/c", OFlags::RDONLY, true),
            ("a/b/c", OFlags::PATH, true),
            ("link", OFlags::PATH, true),
            ("link", OFlags::RDONLY, false),
            ("link/b/c", OFlags::RDONLY, false),
            ("a/none", OFlags::RDONLY, false),
        ] {
            let path = path.as_bytes();
            assert_eq!(tree.open(path, flags).is_ok(), want, "openat2 {path:?}");
            let stepwise = tree.open_stepwise(path, flags | base);
            assert_eq!(stepwise.is_ok(), want, "stepwise {path:?}");
            if let Err(e) = stepwise {
                assert!(is_absent(e), "{e}");
            }
        }
    }
}
