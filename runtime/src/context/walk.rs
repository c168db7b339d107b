//! One pass over a folder: names, types and attributes; no content is read.
//!
//! Order: depth first, names sorted by bytes. Each folder is opened by its name below the handle of
//! its parent, so a folder that is swapped for a link during the walk is not followed.
//!
//! A walk that turns out long is ended by several threads: what is left of each folder on the way
//! is cut into runs of names, and what they give is put together in order.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rayon::prelude::*;
use rgraph_image::layer::{Owners, means_deleted};
use rgraph_ir::limits::MAX_TAR_PATH;
use rgraph_ir::pattern::PatternSet;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, fgetxattr, flistxattr, openat, readlinkat, statx,
};
use rustix::io::Errno;

use super::ContextError;
use super::resolve::{Found, Tree, WANT, is_absent, join, names};
use super::stat_cache::{FileDigest, Stamp};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    pub(super) fn of(stat: &Statx) -> Self {
        match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            _ => Self::File,
        }
    }
}

/// One entry of a walk.
#[derive(Debug)]
pub(super) struct Entry {
    /// Real path below the root.
    pub path: Vec<u8>,
    /// Where in `path` the part below the selected folder begins; its length for the folder itself.
    pub below: usize,
    pub kind: Kind,
    /// Permission bits, 07777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Size and times, to recognise a file.
    pub stamp: Stamp,
    pub content: Content,
    /// The real path of the first name that this walk found of the same file.
    pub twin: Option<Box<[u8]>>,
}

impl Entry {
    /// Equal in all that counts of a layer, as far as both are known.
    pub fn is_like(&self, other: &Self) -> bool {
        let size = |e: &Self| if e.kind == Kind::File { e.stamp.size } else { 0 };
        let mode = |e: &Self| if e.kind == Kind::Symlink { 0 } else { e.mode };
        (&self.path, self.kind, mode(self), self.uid, self.gid, &self.content, &self.twin)
            == (
                &other.path,
                other.kind,
                mode(other),
                other.uid,
                other.gid,
                &other.content,
                &other.twin,
            )
            && size(self) == size(other)
    }
}

/// What an entry holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing of its own: pipes and sockets.
    None,
    /// A folder's extended attributes, encoded.
    Dir(Vec<u8>),
    /// Where a link points to.
    Link(Vec<u8>),
    /// A device's number.
    Device(u32, u32),
    /// A file that is not hashed yet.
    Unread,
    /// A file that went away between the walk and the reading.
    Gone,
    /// A file's bytes and extended attributes.
    File(FileDigest),
}

/// Which entries count.
#[derive(Default)]
pub(super) struct Filter<'a> {
    /// Asked about real paths below the root.
    pub ignore: Option<&'a PatternSet>,
    /// Asked about paths below the selected one; empty: all.
    pub include: PatternSet,
    /// Asked about paths below the selected one.
    pub exclude: PatternSet,
    /// The tree is an overlay's upper folder: its marks of opaque folders count.
    pub overlay: bool,
    /// Where owners are kept. Of files and folders a record is among the attributes.
    pub owners: Owners,
    /// The walk ends when it has found more.
    pub most: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Keep {
    No,
    /// A folder that counts when something below it does.
    IfUsed,
    Yes,
}

impl Filter<'_> {
    fn keep(&self, real: &[u8], below: &[u8], dir: bool) -> Keep {
        let hidden = |set: &PatternSet, path: &[u8]| {
            if !set.matches_or_parent(path) {
                Keep::Yes
            } else if dir && set.may_free_below(path) {
                Keep::IfUsed
            } else {
                Keep::No
            }
        };
        let mut keep = self.ignore.map_or(Keep::Yes, |set| hidden(set, real));
        if keep != Keep::No && !self.exclude.is_empty() && !below.is_empty() {
            keep = keep.min(hidden(&self.exclude, below));
        }
        if keep != Keep::No && !self.include.is_empty() && !self.include.matches_or_parent(below) {
            let may = dir && self.include.may_match_below(below);
            keep = keep.min(if may { Keep::IfUsed } else { Keep::No });
        }
        keep
    }
}

/// From so many entries on, more than one thread is worth its start.
const LONG: usize = 4096;
/// Most names of a folder that one thread takes at a time.
const RUN: usize = 32;
/// Into how many runs a folder is cut at least, when it has so many names.
const RUNS: usize = 16;

/// A folder that is being walked.
struct Frame {
    /// Given up with the last name, so that a deep chain needs few handles.
    dir: Option<Arc<OwnedFd>>,
    path: Vec<u8>,
    names: std::vec::IntoIter<(Vec<u8>, FileType)>,
    /// Its own entry, when it goes if nothing is found below it.
    if_used: Option<usize>,
}

/// What a walk has found so far.
#[derive(Default)]
struct Seen {
    entries: Vec<Entry>,
    /// Where the files with several names are.
    linked: Vec<usize>,
}

impl Seen {
    fn push(&mut self, e: Entry, stat: &Statx) {
        // Other kinds are copied one by one, whatever names they share.
        if e.kind == Kind::File && stat.stx_nlink > 1 {
            self.linked.push(self.entries.len());
        }
        self.entries.push(e);
    }

    /// Adds what comes behind it.
    fn append(&mut self, later: Self) {
        let at = self.entries.len();
        self.linked.extend(later.linked.iter().map(|n| at + n));
        self.entries.extend(later.entries);
    }

    /// The entries, each further name of a file with the first one.
    fn finish(mut self) -> Vec<Entry> {
        let mut first: HashMap<(u64, u64), usize> = HashMap::new();
        for at in self.linked {
            let Stamp { dev, ino, .. } = self.entries[at].stamp;
            let first = *first.entry((dev, ino)).or_insert(at);
            if first != at {
                self.entries[at].twin = Some(self.entries[first].path.clone().into());
            }
        }
        self.entries
    }
}

/// The entries at and below `top`, the top one first; empty when all of it is filtered out. `name`
/// is what patterns call a `top` that is no folder.
pub(super) fn walk(
    tree: &Tree<'_>,
    top: Found,
    name: &[u8],
    filter: &Filter<'_>,
) -> Result<Vec<Entry>, ContextError> {
    let Found { real, stat } = top;
    let kind = Kind::of(&stat);
    let mut out = Seen::default();
    let below = if kind == Kind::Dir { real.len() } else { real.len() - last_name(&real).len() };
    let asked: &[u8] = if kind == Kind::Dir { b"" } else { name };
    let keep = filter.keep(&real, asked, kind == Kind::Dir);
    if keep == Keep::No {
        return Ok(out.entries);
    }
    if kind != Kind::Dir {
        let content = match kind {
            Kind::Symlink => {
                let fd = tree.open(&real, OFlags::PATH);
                let link = fd.and_then(|fd| readlinkat(&fd, "", Vec::new()));
                Content::Link(link.map_err(|e| ContextError::read(&real, e))?.into_bytes())
            }
            kind => leaf(kind, &stat),
        };
        let mut only = entry(real, below, kind, &stat, content);
        if kind != Kind::File && filter.owners == Owners::Recorded {
            let fd = tree.open(&only.path, OFlags::PATH | OFlags::NOFOLLOW);
            let owner = fd
                .map_err(|e| ContextError::read(&only.path, e))
                .map(|fd| filter.owners.recorded(&fd).ok().flatten())?;
            (only.uid, only.gid) = owner.unwrap_or((only.uid, only.gid));
        }
        out.entries.push(only);
        return Ok(out.entries);
    }
    let dir = tree
        .open(&real, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|e| ContextError::read(&real, e))?;
    // Below the folder begins after its name and a slash, but the root has neither.
    let below = if real.is_empty() { 0 } else { real.len() + 1 };
    let mut stack = vec![enter(&mut out, dir, real, below, &stat, keep, filter.overlay)?];
    // Several threads would not know when there is enough.
    let long = if filter.most == usize::MAX { LONG } else { usize::MAX };
    go_on(&mut stack, &mut out, below, filter, long.min(filter.most))?;
    if filter.most == usize::MAX {
        finish(stack, &mut out, below, filter)?;
    }
    Ok(out.finish())
}

/// Walks until all is found, or more than `most` entries.
fn go_on(
    stack: &mut Vec<Frame>,
    out: &mut Seen,
    below: usize,
    filter: &Filter<'_>,
    most: usize,
) -> Result<(), ContextError> {
    while let Some(frame) = stack.last_mut()
        && out.entries.len() <= most
    {
        let Some((name, _)) = frame.names.next() else {
            let frame = stack.pop();
            leave(frame, out);
            continue;
        };
        if let Some(inner) = visit(frame, &name, below, filter, out)? {
            stack.push(inner);
        }
    }
    Ok(())
}

/// Takes a folder's entry back when it counts only with something below it.
fn leave(frame: Option<Frame>, out: &mut Seen) {
    if let Some(entry) = frame.and_then(|f| f.if_used)
        && out.entries.len() == entry + 1
    {
        out.entries.pop();
    }
}

/// Walks what is left of a walk on all processors.
fn finish(
    mut stack: Vec<Frame>,
    out: &mut Seen,
    below: usize,
    filter: &Filter<'_>,
) -> Result<(), ContextError> {
    while let Some(mut frame) = stack.pop() {
        let names = std::mem::take(&mut frame.names);
        let run = (names.len() / RUNS).clamp(1, RUN);
        let runs = names.as_slice().par_chunks(run).map(|names| {
            let names = Vec::from(names).into_iter();
            let (dir, path) = (frame.dir.clone(), frame.path.clone());
            let mut found = Seen::default();
            let mut stack = vec![Frame { dir, path, names, if_used: None }];
            go_on(&mut stack, &mut found, below, filter, usize::MAX).map(|()| found)
        });
        let runs: Vec<Result<Seen, ContextError>> = runs.collect();
        for found in runs {
            out.append(found?);
        }
        leave(Some(frame), out);
    }
    Ok(())
}

/// Looks at one name of a folder: adds its entry, and gives a frame when it is a folder.
fn visit(
    frame: &mut Frame,
    name: &[u8],
    below: usize,
    filter: &Filter<'_>,
    out: &mut Seen,
) -> Result<Option<Frame>, ContextError> {
    let path = join(&frame.path, name);
    if path.len() > MAX_TAR_PATH {
        let start = String::from_utf8_lossy(&path[..64]).into_owned();
        return Err(ContextError::TooLong { len: path.len(), start });
    }
    let dir = frame.dir.as_ref().expect("given up only with the last name");
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = match statx(dir, name, flags, WANT) {
        Ok(stat) => stat,
        Err(e) if is_absent(e) => return Ok(None), // gone since the folder was read
        Err(e) => return Err(ContextError::read(&path, e)),
    };
    let kind = match Kind::of(&stat) {
        // The other form of overlayfs's mark.
        Kind::Socket if filter.overlay && means_deleted(stat.stx_mode.into(), 0) => {
            Kind::CharDevice
        }
        kind => kind,
    };
    let keep = filter.keep(&path, &path[below..], kind == Kind::Dir);
    if keep == Keep::No {
        return Ok(None);
    }
    match kind {
        Kind::Dir => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = match openat(dir, name, flags, Mode::empty()) {
                Ok(inner) => inner,
                Err(e) if is_absent(e) => return Ok(None),
                Err(e) => return Err(ContextError::read(&path, e)),
            };
            if frame.names.len() == 0 {
                frame.dir = None;
            }
            return enter(out, inner, path, below, &stat, keep, filter.overlay).map(Some);
        }
        Kind::Symlink => match readlinkat(dir, name, Vec::new()) {
            Ok(link) => {
                let content = Content::Link(link.into_bytes());
                let owned = recorded(dir, name, filter);
                out.push(owned(entry(path, below, kind, &stat, content)), &stat);
            }
            Err(Errno::NOENT | Errno::INVAL) => {}
            Err(e) => return Err(ContextError::read(&path, e)),
        },
        Kind::File => out.push(entry(path, below, kind, &stat, Content::Unread), &stat),
        kind => {
            let owned = recorded(dir, name, filter);
            out.push(owned(entry(path, below, kind, &stat, leaf(kind, &stat))), &stat);
        }
    }
    Ok(None)
}

fn enter(
    out: &mut Seen,
    dir: OwnedFd,
    path: Vec<u8>,
    below: usize,
    stat: &Statx,
    keep: Keep,
    overlay: bool,
) -> Result<Frame, ContextError> {
    let read = xattrs(&dir, overlay).and_then(|attrs| Ok((attrs, names(&dir)?)));
    let (xattrs, names) = read.map_err(|e| ContextError::read(&path, e))?;
    let at = out.entries.len();
    out.push(entry(path.clone(), below, Kind::Dir, stat, Content::Dir(xattrs)), stat);
    let if_used = (keep == Keep::IfUsed).then_some(at);
    Ok(Frame { dir: Some(Arc::new(dir)), path, names: names.into_iter(), if_used })
}

fn entry(path: Vec<u8>, below: usize, kind: Kind, stat: &Statx, content: Content) -> Entry {
    Entry {
        below: below.min(path.len()),
        path,
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        stamp: Stamp::of(stat),
        content,
        twin: None,
    }
}

/// Puts the recorded owner of `name` in `dir` into an entry. One that cannot be read any more counts
/// as it is.
fn recorded(
    dir: &OwnedFd,
    name: &[u8],
    filter: &Filter<'_>,
) -> impl FnOnce(Entry) -> Entry + use<> {
    let owner = filter.owners.recorded_at(dir, name).ok().flatten();
    move |mut e| {
        (e.uid, e.gid) = owner.unwrap_or((e.uid, e.gid));
        e
    }
}

fn leaf(kind: Kind, stat: &Statx) -> Content {
    match kind {
        Kind::File => Content::Unread,
        Kind::CharDevice | Kind::BlockDevice => {
            Content::Device(stat.stx_rdev_major, stat.stx_rdev_minor)
        }
        _ => Content::None,
    }
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// The extended attributes that a copy carries, sorted, encoded with lengths: `security.capability`
/// and `user.*`, but not what overlayfs keeps there for itself, unless
/// `overlay` asks for its marks of opaque folders.
pub(super) fn xattrs(fd: &OwnedFd, overlay: bool) -> Result<Vec<u8>, Errno> {
    let mut list = vec![0u8; 512];
    let len = loop {
        match flistxattr(fd, &mut list[..]) {
            Ok(len) => break len,
            Err(Errno::RANGE) if list.len() < 64 * 1024 => list.resize(list.len() * 8, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    };
    let mut keys: Vec<&[u8]> = list[..len]
        .split(|b| *b == 0)
        .filter(|k| {
            *k == b"security.capability"
                || (k.starts_with(b"user.") && !k.starts_with(b"user.overlay."))
                || (overlay && matches!(*k, b"user.overlay.opaque" | b"trusted.overlay.opaque"))
        })
        .collect();
    keys.sort_unstable();
    let mut out = Vec::new();
    for key in keys {
        // The kernel's limit for one value.
        let mut value = vec![0u8; 64 * 1024];
        let len = match fgetxattr(fd, key, &mut value[..]) {
            Ok(len) => len,
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e),
        };
        for part in [key, &value[..len]] {
            out.extend((part.len() as u64).to_le_bytes());
            out.extend(part);
        }
    }
    Ok(out)
}
