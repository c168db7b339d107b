//! A snapshot as one plain folder: its layers copied over each other, where nobody lays them over each
//! other without copying.
//!
//! Whoever works in it changes it, and what was changed then moves into the upper folder of a new layer,
//! in overlayfs's form ([`Flat::changes_into`]). A file counts as untouched while it has the inode, the
//! time of birth and the time of change that it had when it was copied: whatever is done to a file changes
//! one of them. So that also holds for what is done at once, the copy is handed out only after the
//! kernel's clock of file times has gone on.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rgraph_image::layer::{is_whiteout, make_whiteout};
use rgraph_store::Prepared;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    XattrFlags,
};

use crate::tree::exact::{copy_exactly, drop_overlays_xattrs, give_attributes, times};
use crate::tree::lay::{Files, Lay};
use crate::tree::{TreeError, open_dir, remove};

/// A plain folder with all files of a snapshot.
pub(crate) struct Flat {
    folder: Prepared,
    userxattr: bool,
    /// What it was when it was handed out. Empty for one that is only read.
    seen: Folder,
}

/// A folder as it was.
#[derive(Default)]
struct Folder(HashMap<OsString, Seen>);

impl Folder {
    fn last_change(&self) -> (i64, u32) {
        let of = |seen: &Seen| {
            let inside = seen.inside.as_ref().map_or((0, 0), Self::last_change);
            inside.max(seen.stamp.changed)
        };
        self.0.values().map(of).max().unwrap_or_default()
    }
}

struct Seen {
    stamp: Stamp,
    /// What was in it, of a folder.
    inside: Option<Folder>,
}

/// What no change of a file leaves as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    born: (i64, u32),
    changed: (i64, u32),
}

impl Stamp {
    fn of(stat: &Statx) -> Self {
        Self {
            inode: stat.stx_ino,
            // 0 where the file system does not keep it.
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }

    fn same_file(&self, other: &Self) -> bool {
        (self.inode, self.born) == (other.inode, other.born)
    }
}

impl Flat {
    /// Copies layers, top first, over each other into `folder`, which is empty.
    pub(crate) fn read_only(
        folder: Prepared,
        lowers: &[PathBuf],
        userxattr: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self, TreeError> {
        Self::copy(folder, lowers, &Lay { files: Files::Copied, userxattr, cancelled })
    }

    fn copy(folder: Prepared, lowers: &[PathBuf], lay: &Lay<'_>) -> Result<Self, TreeError> {
        let to = open(folder.fs())?;
        for dir in lowers.iter().rev() {
            lay.layer(dir, &to, None)?;
        }
        Ok(Self { folder, userxattr: lay.userxattr, seen: Folder::default() })
    }

    /// As [`Self::read_only`], to be worked in.
    pub(crate) fn to_work_in(
        folder: Prepared,
        lowers: &[PathBuf],
        userxattr: bool,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Self, TreeError> {
        let lay = Lay { files: Files::Apart, userxattr, cancelled };
        let mut flat = Self::copy(folder, lowers, &lay)?;
        flat.seen = look(&open(flat.path())?, Path::new(""))?;
        flat.wait_for_the_clock()?;
        Ok(flat)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.fs()
    }

    /// Waits until what is changed gets a later time than all files have. Before Linux 6.13 the clock that
    /// file times come from goes on a few hundred times a second only.
    fn wait_for_the_clock(&self) -> Result<(), TreeError> {
        let last = self.seen.last_change();
        let other = open(self.folder.work())?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        loop {
            let times = Timestamps { last_access: now, last_modification: now };
            rustix::fs::futimens(&other, &times).map_err(TreeError::io("set times of", "work"))?;
            let stat = stat(&other, "work")?;
            if (stat.st_ctime, stat.st_ctime_nsec as u32) > last {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Moves what was changed into the empty folder `upper`, on the same file system.
    pub(crate) fn changes_into(self, upper: &Path) -> Result<(), TreeError> {
        let (from, to) = (open(self.path())?, open(upper)?);
        let stat = stat(&from, "/")?;
        let plan = plan(&self.seen, &from, Path::new(""))?;
        self.carry_out(&plan, &from, &to, Path::new(""))?;
        give_attributes(&from, &to, &stat, "/")
    }

    fn carry_out(
        &self,
        plan: &Plan,
        from: &OwnedFd,
        to: &OwnedFd,
        place: &Path,
    ) -> Result<(), TreeError> {
        for (name, over) in &plan.moved {
            let path = place.join(name);
            let shown = path.to_string_lossy();
            rustix::fs::renameat(from, name, to, name).map_err(TreeError::io("move", &*shown))?;
            let kept = clean(to, name, &path)?;
            if *over && kept.is_none() {
                make_whiteout(to, name.as_os_str()).map_err(TreeError::std("delete", &*shown))?;
            }
            if *over && kept == Some(FileType::Directory) {
                let dir = open_dir(to, name).map_err(TreeError::io("open", &*shown))?;
                let mark =
                    if self.userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
                rustix::fs::fsetxattr(&dir, mark, b"y", XattrFlags::empty())
                    .map_err(TreeError::io("mark", &*shown))?;
            }
        }
        for name in &plan.gone {
            let path = place.join(name);
            make_whiteout(to, name.as_os_str())
                .map_err(TreeError::std("delete", path.as_os_str()))?;
        }
        for (name, inner) in &plan.inside {
            let path = place.join(name);
            let shown = path.to_string_lossy();
            let a = open_dir(from, name).map_err(TreeError::io("open", &*shown))?;
            let stat = stat(&a, &shown)?;
            copy_exactly(from, name, &stat, to, &shown)?;
            let b = open_dir(to, name).map_err(TreeError::io("open", &*shown))?;
            self.carry_out(inner, &a, &b, &path)?;
            give_attributes(&a, &b, &stat, &shown)?;
        }
        Ok(())
    }
}

fn open(dir: &Path) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map_err(TreeError::io("open", "layer"))
}

fn stat(fd: &OwnedFd, shown: &str) -> Result<Stat, TreeError> {
    rustix::fs::fstat(fd).map_err(TreeError::io("look at", shown))
}

/// Everything in a folder, with its kind and stamp.
fn entries(
    dir: &OwnedFd,
    place: &Path,
) -> Result<impl Iterator<Item = Result<(OsString, FileType, Stamp), TreeError>>, TreeError> {
    let names = rgraph_sys::tree::names(dir).map_err(TreeError::std("read", place.as_os_str()))?;
    let dir = dir.as_fd();
    Ok(names.into_iter().map(move |name| {
        let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(dir, &name, AtFlags::SYMLINK_NOFOLLOW, want)
            .map_err(TreeError::io("look at", place.join(&name).as_os_str()))?;
        Ok((name, FileType::from_raw_mode(stat.stx_mode.into()), Stamp::of(&stat)))
    }))
}

fn look(dir: &OwnedFd, place: &Path) -> Result<Folder, TreeError> {
    let mut out = HashMap::new();
    for entry in entries(dir, place)? {
        let (name, kind, stamp) = entry?;
        let inside = match kind {
            FileType::Directory => {
                let path = place.join(&name);
                let inner =
                    open_dir(dir, &name).map_err(TreeError::io("open", path.as_os_str()))?;
                Some(look(&inner, &path)?)
            }
            _ => None,
        };
        out.insert(name, Seen { stamp, inside });
    }
    Ok(Folder(out))
}

/// What to do for the changes of one folder.
#[derive(Default)]
struct Plan {
    /// Names that are new; true where something else of that name was.
    moved: Vec<(OsString, bool)>,
    /// Names that are gone.
    gone: Vec<OsString>,
    /// Folders that are still there, and changed or with changes in them.
    inside: Vec<(OsString, Plan)>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.gone.is_empty() && self.inside.is_empty()
    }
}

fn plan(seen: &Folder, dir: &OwnedFd, place: &Path) -> Result<Plan, TreeError> {
    let mut out = Plan::default();
    let mut there = 0;
    for entry in entries(dir, place)? {
        let (name, kind, stamp) = entry?;
        let Some(was) = seen.0.get(&name) else {
            out.moved.push((name, false));
            continue;
        };
        there += 1;
        match &was.inside {
            Some(inside) if kind == FileType::Directory && was.stamp.same_file(&stamp) => {
                let path = place.join(&name);
                let inner =
                    open_dir(dir, &name).map_err(TreeError::io("open", path.as_os_str()))?;
                let changes = plan(inside, &inner, &path)?;
                if was.stamp != stamp || !changes.is_empty() {
                    out.inside.push((name, changes));
                }
            }
            _ if was.stamp == stamp => {}
            _ => out.moved.push((name, true)),
        }
    }
    if there < seen.0.len() {
        let look = |name: &&OsString| {
            rustix::fs::statat(dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW).is_err()
        };
        out.gone = seen.0.keys().filter(look).cloned().collect();
    }
    Ok(out)
}

/// Takes what would mean something to overlayfs out of what was made in a plain folder, and sockets, which
/// mean nothing without who listens. `None`: nothing is left of it.
fn clean(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<FileType>, TreeError> {
    let shown = path.to_string_lossy();
    let handle = rgraph_sys::tree::entry(parent, name, rgraph_sys::tree::As::Handle)
        .map_err(TreeError::std("open", &*shown))?;
    let stat = stat(&handle, &shown)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Socket || is_whiteout(&stat) {
        remove(parent, name, &shown)?;
        return Ok(None);
    }
    drop_overlays_xattrs(&handle, &shown)?;
    if kind != FileType::Directory {
        return Ok(Some(kind));
    }
    let dir = open_dir(parent, name).map_err(TreeError::io("open", &*shown))?;
    for inner in rgraph_sys::tree::names(&dir).map_err(TreeError::std("read", &*shown))? {
        clean(&dir, &inner, &path.join(&inner))?;
    }
    rustix::fs::futimens(&dir, &times(&stat)).map_err(TreeError::io("set times of", &*shown))?;
    Ok(Some(kind))
}
