//! Merge: the layers of every further input on top of the first.
//!
//! A layer's directory belongs to one parent, so the upper inputs' directories are made again by
//! hard links: no bytes move, and a layer is never written once committed, so a shared inode is
//! safe.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rgraph_ir::SnapshotId;
use rgraph_solver::{Task, TaskCx, TaskError, Tree};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};

use crate::tree::{TreeError, open_dir};
use crate::worker::LocalWorker;

/// Runs a merge.
pub fn run(w: &LocalWorker<'_>, task: &Task<'_>, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
    let mut top: Option<SnapshotId> = None;
    for (n, input) in task.inputs.iter().enumerate() {
        let id = w.as_snapshot(*input, cx)?;
        if n == 0 {
            top = Some(id);
            continue;
        }
        let mut dirs =
            w.snapshots.lowers(id, Some(cx)).map_err(crate::snapshot::SnapshotError::into_task)?;
        dirs.reverse();
        for dir in dirs {
            cx.check()?;
            let layer = w.begin_layer(top, cx)?;
            farm(&dir, layer.prepared.fs()).map_err(TaskError::failed)?;
            top = Some(layer.commit(&task.meta.name)?);
        }
    }
    top.map(|id| vec![Tree::Snapshot(id)]).ok_or_else(|| TaskError::failed("a merge of nothing"))
}

/// Makes `from` again in the empty directory `to`, files as hard links.
fn farm(from: &Path, to: &Path) -> Result<(), TreeError> {
    let open = |p: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(p, flags, Mode::empty()).map_err(TreeError::io("open", "layer"))
    };
    level(&open(from)?, &open(to)?, "")
}

fn level(from: &OwnedFd, to: &OwnedFd, shown: &str) -> Result<(), TreeError> {
    let mut names: Vec<OsString> = Vec::new();
    for e in rustix::fs::Dir::read_from(from).map_err(TreeError::io("read", shown))? {
        let e = e.map_err(TreeError::io("read", shown))?;
        let n = e.file_name().to_bytes();
        if n != b"." && n != b".." {
            names.push(OsStr::from_bytes(n).to_owned());
        }
    }
    for name in names {
        let path = format!("{shown}/{}", name.to_string_lossy());
        let st = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(TreeError::io("look at", &path))?;
        if FileType::from_raw_mode(st.st_mode) != FileType::Directory {
            rustix::fs::linkat(from, &name, to, &name, AtFlags::empty())
                .map_err(TreeError::io("link", &path))?;
            continue;
        }
        rustix::fs::mkdirat(to, &name, Mode::from_raw_mode(0o700))
            .map_err(TreeError::io("make folder", &path))?;
        let (a, b) = (
            open_dir(from, &name).map_err(TreeError::io("open", &path))?,
            open_dir(to, &name).map_err(TreeError::io("open", &path))?,
        );
        level(&a, &b, &path)?;
        let (uid, gid) =
            (rustix::fs::Uid::from_raw(st.st_uid), rustix::fs::Gid::from_raw(st.st_gid));
        rustix::fs::fchown(&b, Some(uid), Some(gid)).map_err(TreeError::io("chown", &path))?;
        rustix::fs::fchmod(&b, Mode::from_raw_mode(st.st_mode & 0o7777))
            .map_err(TreeError::io("chmod", &path))?;
        crate::tree::copy::copy_all_xattrs(&a, &b)
            .map_err(TreeError::io("copy attributes of", &path))?;
        let t = Timespec { tv_sec: st.st_mtime, tv_nsec: st.st_mtime_nsec as _ };
        rustix::fs::futimens(&b, &Timestamps { last_access: t, last_modification: t })
            .map_err(TreeError::io("set times of", &path))?;
    }
    Ok(())
}
