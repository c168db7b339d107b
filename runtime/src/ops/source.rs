//! Sources that are no images, as trees.

use std::ffi::OsStr;
use std::fs::File;
use std::io;

use rgraph_image::registry::shown_url;
use rgraph_ir::op::{GitSource, HttpSource};
use rgraph_solver::{EventKind, TaskCx, TaskError, Tree};
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};

use crate::fetch::http::file_name;
use crate::tree::TreeError;
use crate::worker::LocalWorker;

/// Tells how far a download is.
pub fn downloading(cx: &TaskCx<'_>, url: &str) -> impl Fn(u64, u64) + Sync {
    let id = shown_url(url);
    move |current, total| {
        cx.emit(EventKind::Progress { id: id.clone(), action: "downloading", current, total });
    }
}

/// A tree of one file, root's, mode 0600, with the time that the server says.
pub fn url(w: &LocalWorker<'_>, h: &HttpSource, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
    let content = w.sources.url(h, &downloading(cx, &h.url)).map_err(TaskError::failed)?;
    let name = OsStr::new(file_name(h).map_err(TaskError::failed)?);
    let mut blob = w.sources.open(&content).map_err(TaskError::failed)?;
    let layer = w.begin_layer(None, cx)?;
    let mut write = || -> Result<(), TreeError> {
        let at = |what| TreeError::io(what, &h.filename);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir =
            rustix::fs::open(layer.prepared.fs(), flags, Mode::empty()).map_err(at("open"))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.map_err(at("create"))?);
        io::copy(&mut blob, &mut file).map_err(TreeError::std("write", &h.filename))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).map_err(at("chmod"))?;
        let t = Timespec { tv_sec: content.mtime(), tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: t, last_modification: t })
            .map_err(at("set times of"))
    };
    write().map_err(TaskError::failed)?;
    Ok(vec![Tree::Snapshot(layer.commit(&shown_url(&h.url))?)])
}

/// The files of a commit.
pub fn git(w: &LocalWorker<'_>, g: &GitSource, cx: &TaskCx<'_>) -> Result<Vec<Tree>, TaskError> {
    let layer = w.begin_layer(None, cx)?;
    w.sources.git_tree(g, layer.prepared.fs()).map_err(TaskError::failed)?;
    Ok(vec![Tree::Snapshot(layer.commit(&g.remote)?)])
}
