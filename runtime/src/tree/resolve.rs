//! Paths in a tree, resolved one component at a time.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rgraph_image::layer::Owners;
use rustix::fs::{AtFlags, FileType, Mode, Stat, Timestamps};
use rustix::io::Errno;

use super::{TreeError, open_dir};

/// Links followed in one path before it is called a loop (Linux: 40).
const MAX_LINKS: usize = 40;

/// A place in a tree: a name in a directory that is held open.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub parent: OwnedFd,
    /// The name in it; `.` when the path led to the directory itself.
    pub name: OsString,
    /// What stands there; `None`: nothing.
    pub stat: Option<Stat>,
    /// The way to it without links, `/`-separated, no leading slash; as text, for patterns.
    pub real: String,
    /// The same, byte for byte.
    pub raw: OsString,
}

impl Place {
    /// The type of what stands there.
    pub fn kind(&self) -> Option<FileType> {
        self.stat.map(|s| FileType::from_raw_mode(s.st_mode))
    }

    /// True when a directory stands there.
    pub fn is_dir(&self) -> bool {
        self.kind() == Some(FileType::Directory)
    }

    /// Opens the directory that stands there.
    pub fn open_dir(&self) -> Result<OwnedFd, TreeError> {
        open_dir(&self.parent, &self.name).map_err(TreeError::io("open", &self.real))
    }
}

/// What missing directories are given.
#[derive(Debug, Clone)]
pub struct NewDir {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group; `None`: root.
    pub owner: Option<(u32, u32)>,
    /// Times; `None`: now.
    pub time: Option<Timestamps>,
    /// Where owners are kept.
    pub owners: Owners,
}

/// Finds `path` in the tree at `root`. Links on the way are followed within the tree, the last one
/// only with `follow`. With `make`, missing directories on the way are made (not the last name).
///
/// # Errors
/// [`TreeError::NotFound`] when a directory on the way is missing; a missing last name is no error.
pub fn resolve(
    root: BorrowedFd<'_>,
    path: &OsStr,
    follow: bool,
    make: Option<&NewDir>,
) -> Result<Place, TreeError> {
    let shown = || path.to_string_lossy().into_owned();
    let dup =
        |fd: BorrowedFd<'_>| open_dir(fd, OsStr::new(".")).map_err(TreeError::io("open", shown()));
    let mut todo: VecDeque<OsString> = components(path).collect();
    let mut stack = vec![dup(root)?];
    let mut names: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if stack.len() > 1 {
                stack.pop();
                names.pop();
            }
            continue;
        }
        let here = stack.last().expect("the root stays").as_fd();
        let stat = match rustix::fs::statat(here, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) => Some(s),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(TreeError::io("look at", shown())(e)),
        };
        let last = todo.is_empty();
        match stat.map(|s| FileType::from_raw_mode(s.st_mode)) {
            Some(FileType::Symlink) if !last || follow => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(TreeError::io("follow links of", shown())(Errno::LOOP));
                }
                let target = rustix::fs::readlinkat(here, &name, Vec::new())
                    .map_err(TreeError::io("read link", shown()))?;
                let target = OsStr::from_bytes(target.to_bytes());
                if target.as_bytes().starts_with(b"/") {
                    stack.truncate(1);
                    names.clear();
                }
                for part in components(target).collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front(part);
                }
            }
            Some(FileType::Directory) if !last => {
                let next = open_dir(here, &name).map_err(TreeError::io("open", shown()))?;
                stack.push(next);
                names.push(name);
            }
            Some(_) if !last => return Err(TreeError::io("enter", shown())(Errno::NOTDIR)),
            None if !last => {
                let Some(new) = make else { return Err(TreeError::NotFound { path: shown() }) };
                let next = make_dir(here, &name, new)
                    .map_err(TreeError::io("make folder for", shown()))?;
                stack.push(next);
                names.push(name);
            }
            _ => {
                let parent = stack.pop().expect("the root stays");
                names.push(name.clone());
                return Ok(Place {
                    parent,
                    name,
                    stat,
                    real: join(&names),
                    raw: names.join(OsStr::new("/")),
                });
            }
        }
    }
    let parent = stack.pop().expect("the root stays");
    let stat = rustix::fs::fstat(&parent).map_err(TreeError::io("look at", shown()))?;
    Ok(Place {
        parent,
        name: ".".into(),
        stat: Some(stat),
        real: join(&names),
        raw: names.join(OsStr::new("/")),
    })
}

/// Finds or makes the directory `path` with all its parents.
pub fn make_dirs(root: BorrowedFd<'_>, path: &OsStr, new: &NewDir) -> Result<OwnedFd, TreeError> {
    let place = resolve(root, path, true, Some(new))?;
    match place.kind() {
        Some(FileType::Directory) => place.open_dir(),
        Some(_) => Err(TreeError::io("make folder", path)(Errno::NOTDIR)),
        None => make_dir(place.parent.as_fd(), &place.name, new)
            .map_err(TreeError::io("make folder", path)),
    }
}

/// Makes one directory with exactly the mode asked for.
pub fn make_dir(parent: BorrowedFd<'_>, name: &OsStr, new: &NewDir) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let dir = open_dir(parent, name)?;
    let (uid, gid) = new.owner.unwrap_or((0, 0));
    new.owners.give(&dir, uid, gid).map_err(errno)?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(new.mode & 0o7777))?;
    if let Some(t) = &new.time {
        rustix::fs::futimens(&dir, t)?;
    }
    Ok(dir)
}

/// Sets owner and group of `name` itself, link or not.
pub fn chown(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    (uid, gid): (u32, u32),
    owners: Owners,
) -> rustix::io::Result<()> {
    owners.give_at(dir, name, uid, gid).map_err(errno)
}

pub(super) fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

fn components(path: &OsStr) -> impl Iterator<Item = OsString> {
    path.as_bytes()
        .split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(|c| OsString::from_vec(c.to_vec()))
}

fn join(names: &[OsString]) -> String {
    let parts: Vec<_> = names.iter().map(|n| n.to_string_lossy()).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(tmp.path().join("secret"), "x").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        symlink("../../../../secret", root.join("a/up")).unwrap();
        symlink("/secret", root.join("a/abs")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/a", root.join("dir")).unwrap();
        let fd = std::fs::File::open(&root).unwrap();
        let get = |p: &str, follow| resolve(fd.as_fd(), OsStr::new(p), follow, None);
        for p in ["a/up", "/a/abs", "../secret", "a/../../secret", "dir/abs", "dir/../secret"] {
            let place = get(p, true).unwrap();
            assert_eq!(place.real, "secret", "{p}");
            assert_eq!(place.stat.unwrap().st_size, 6, "{p}");
        }
        assert_eq!(get("a/up", false).unwrap().kind(), Some(FileType::Symlink));
        assert!(get("loop", true).is_err());
        assert!(matches!(get("no/way", true), Err(TreeError::NotFound { .. })));
        assert!(get("a/new", true).unwrap().stat.is_none());
        assert_eq!(get("/", true).unwrap().real, "");
        assert_eq!(get("dir/b/..", true).unwrap().real, "a");
    }
}
