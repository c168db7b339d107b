//! Layers of an image laid over each other into one, on top of the base.
//!
//! The one layer is in overlayfs's form like any other. Its files are further names of the earlier
//! layers' files, which are never written again, so nothing is copied. A mark that deletes something
//! stays only where the base has that.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rgraph_ir::request::{OutputSpec, Squash};
use rgraph_ir::{HistoryEntry, SnapshotId, Target, VertexId};
use rgraph_solver::{TaskCx, TaskError};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};

use super::{ExportError, Exporter};
use crate::ops::file::remove;
use crate::snapshot::SnapshotError;
use crate::tree::copy::copy_all_xattrs;
use crate::tree::{TreeError, open_dir};

/// A target whose layers are as they are to be.
pub(super) struct Squashed<'a> {
    pub target: Cow<'a, Target>,
    pub top: Option<SnapshotId>,
    /// When its newest layer was made, before it was laid together: seconds since 1970.
    pub created: Option<i64>,
}

impl Exporter<'_> {
    /// Lays the layers of a target together as far as that was asked for.
    pub(super) fn squashed<'t>(
        &self,
        target: &'t Target,
        top: Option<SnapshotId>,
    ) -> Result<Squashed<'t>, ExportError> {
        let same = Squashed { target: Cow::Borrowed(target), top, created: None };
        let is_image = |o: &OutputSpec| {
            !matches!(o, OutputSpec::Local { .. } | OutputSpec::Tar { .. } | OutputSpec::CacheOnly)
        };
        let outputs = &self.export.outputs;
        let wanted = outputs.is_empty() || outputs.iter().any(is_image);
        let (Some(top), true) = (top, wanted) else { return Ok(same) };
        let below = match self.export.squash {
            Squash::No => return Ok(same),
            Squash::Own => target.base.layers,
            Squash::All => 0,
        };
        let chain = self.store.chain(top)?;
        let layers = chain.len().saturating_sub(below);
        let (true, Some(root)) = (layers > 1, target.root) else { return Ok(same) };
        let base = below.checked_sub(1).and_then(|n| chain.get(n)).map(|r| r.id);
        let made = self.lay(base, top, layers, root.vertex)?;
        self.say(&format!("made one layer of {layers}"));
        let mut target = target.clone();
        for h in &mut target.history {
            h.layer = None;
        }
        if self.export.squash == Squash::All {
            target.base.layers = 0;
            for h in &mut target.base.history {
                h.empty_layer = true;
            }
        }
        target.history.push(HistoryEntry {
            created_by: String::new(),
            comment: format!("merge of {layers} layers").into(),
            author: None,
            layer: Some(root),
            span: None,
        });
        let created = chain.iter().map(|r| r.created).max();
        Ok(Squashed { target: Cow::Owned(target), top: Some(made), created })
    }

    /// The topmost `layers` layers of `top` as one on `base`.
    fn lay(
        &self,
        base: Option<SnapshotId>,
        top: SnapshotId,
        layers: usize,
        vertex: VertexId,
    ) -> Result<SnapshotId, ExportError> {
        let failed = |e: TaskError| match e {
            TaskError::Lost(id) => SnapshotError::Lost(id).into(),
            TaskError::Cancelled => ExportError::Cancelled,
            e => ExportError::Squash(crate::worker::report(&e)),
        };
        let cx = TaskCx { vertex, cancel: self.cancel, sink: &(), clock: self.clock };
        let below = match base {
            Some(id) => Some(self.snapshots.mount_read_only(id, None)?),
            None => None,
        };
        let made = self.snapshots.begin(base, &cx)?;
        let to = open(made.prepared.fs())?;
        let lay = Lay { exporter: self, userxattr: self.host.userxattr };
        let dirs = self.snapshots.lowers(top, None)?;
        for dir in dirs.iter().take(layers).rev() {
            let from = open(dir)?;
            lay.level(&from, &to, below.as_ref(), "")?;
            let stat = rustix::fs::fstat(&from).map_err(TreeError::io("look at", "/"))?;
            lay.attributes(&from, &to, &stat, "/")?;
        }
        drop((below, to));
        made.commit("layers in one").map_err(failed)
    }
}

fn open(dir: &Path) -> Result<OwnedFd, TreeError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).map_err(TreeError::io("open", "layer"))
}

struct Lay<'a> {
    exporter: &'a Exporter<'a>,
    userxattr: bool,
}

impl Lay<'_> {
    /// Lays what is in `from` over what is in `to`. `below`: what the base shows there.
    fn level(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        below: Option<&OwnedFd>,
        shown: &str,
    ) -> Result<(), ExportError> {
        let mut names: Vec<OsString> = Vec::new();
        for e in Dir::read_from(from).map_err(TreeError::io("read", shown))? {
            let e = e.map_err(TreeError::io("read", shown))?;
            let n = e.file_name().to_bytes();
            if n != b"." && n != b".." {
                names.push(OsStr::from_bytes(n).to_owned());
            }
        }
        for name in names {
            self.exporter.check()?;
            let path = format!("{shown}/{}", name.to_string_lossy());
            let look = |dir: &OwnedFd| rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = look(from).map_err(TreeError::io("look at", &path))?;
            let old = look(to).ok();
            let under = below.and_then(|b| look(b).ok());
            if kind(&stat) == FileType::Directory {
                self.folder(from, to, below, &name, &path, old.as_ref(), under.as_ref())?;
                continue;
            }
            if old.is_some() {
                remove(to, &name, &path)?;
            }
            if !is_whiteout(&stat) || under.is_some() {
                rustix::fs::linkat(from, &name, to, &name, AtFlags::empty())
                    .map_err(TreeError::io("link", &path))?;
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "three views of one name")]
    fn folder(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        below: Option<&OwnedFd>,
        name: &OsStr,
        path: &str,
        old: Option<&Stat>,
        under: Option<&Stat>,
    ) -> Result<(), ExportError> {
        let a = open_dir(from, name).map_err(TreeError::io("open", path))?;
        let is_dir = |s: Option<&Stat>| s.is_some_and(|s| kind(s) == FileType::Directory);
        let joins = is_dir(old) && !self.is_opaque(&a);
        // What was in the way hid what the base has, and goes on hiding it.
        let mut hides = self.is_opaque(&a) || (old.is_some() && !is_dir(old));
        if !joins {
            if old.is_some() {
                remove(to, name, path)?;
            }
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))
                .map_err(TreeError::io("make folder", path))?;
        }
        let b = open_dir(to, name).map_err(TreeError::io("open", path))?;
        hides |= joins && self.is_opaque(&b);
        let seen = match below.filter(|_| !hides && is_dir(under)) {
            Some(below) => Some(open_dir(below, name).map_err(TreeError::io("open", path))?),
            None => None,
        };
        self.level(&a, &b, seen.as_ref(), path)?;
        let stat = rustix::fs::fstat(&a).map_err(TreeError::io("look at", path))?;
        self.attributes(&a, &b, &stat, path)?;
        let mark = self.opaque();
        if hides && is_dir(under) {
            rustix::fs::fsetxattr(&b, mark, b"y", XattrFlags::empty())
                .map_err(TreeError::io("mark", path))?;
            let t = times(&stat);
            rustix::fs::futimens(&b, &t).map_err(TreeError::io("set times of", path))?;
        } else if self.is_opaque(&b) {
            rustix::fs::fremovexattr(&b, mark).map_err(TreeError::io("mark", path))?;
        }
        Ok(())
    }

    /// Gives `to` what `from` has beside its content, and nothing else.
    fn attributes(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        stat: &Stat,
        path: &str,
    ) -> Result<(), ExportError> {
        let (uid, gid) =
            (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(to, Some(uid), Some(gid)).map_err(TreeError::io("chown", path))?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(TreeError::io("chmod", path))?;
        let mut names = vec![0u8; 64 << 10];
        let n = rustix::fs::flistxattr(to, &mut names[..]).unwrap_or(0);
        for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let overlay =
                name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
            // Those of the host's own stay: they cannot be taken away, nor are they of the layer.
            if !overlay && !name.starts_with(b"security.selinux") {
                rustix::fs::fremovexattr(to, OsStr::from_bytes(name))
                    .map_err(TreeError::io("remove attributes of", path))?;
            }
        }
        copy_all_xattrs(from, to).map_err(TreeError::io("copy attributes of", path))?;
        rustix::fs::futimens(to, &times(stat)).map_err(TreeError::io("set times of", path))?;
        Ok(())
    }

    fn opaque(&self) -> &'static str {
        if self.userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" }
    }

    fn is_opaque(&self, dir: impl AsFd) -> bool {
        let mut value = [0u8; 2];
        matches!(rustix::fs::fgetxattr(dir, self.opaque(), &mut value[..]), Ok(1) if value[0] == b'y')
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A device without a number: overlayfs's mark of a deletion.
fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn times(stat: &Stat) -> Timestamps {
    let t = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: t, last_modification: t }
}
