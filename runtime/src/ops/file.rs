//! File ops: applied to the base tree through an overlay whose upper directory becomes the result's
//! layer. The mount is a descriptor that stands nowhere in the file system and goes with it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rgraph_image::layer::Owners;
use rgraph_ir::op::{
    ActionRef, CopyAction, FileAction, FileActionKind, FileOp, MkdirAction, MkfileAction, Owner,
    OwnerId, RmAction, SymlinkAction,
};
use rgraph_ir::pattern::PatternSet;
use rgraph_solver::{Task, TaskCx, TaskError, Tree};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::earlier;
use crate::sandbox::InitError;
use crate::sandbox::user::look_up;
use crate::tree::copy::{CopyOptions, Source, copy, times};
use crate::tree::earlier::Earlier;
use crate::tree::resolve::{NewDir, Place, chown, make_dir, make_dirs, resolve};
use crate::tree::{TreeError, find, remove};
use crate::worker::{LocalWorker, ReadTree};

/// Why a file op failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A tree could not be read or changed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A COPY source is missing.
    #[error("`{path}` not found{near}")]
    Missing {
        /// The source.
        path: String,
        /// What it may have meant, as the rest of the sentence; empty when nothing is near.
        near: String,
    },
    /// A COPY source is missing, hidden by the ignore file.
    #[error("`{path}` not found: the ignore file excludes it (rule `{rule}`)")]
    Ignored {
        /// The source.
        path: String,
        /// The rule.
        rule: String,
    },
    /// No such user or group in the tree copied onto, or its account files cannot be read.
    #[error(transparent)]
    Owner(#[from] InitError),
    /// An archive could not be unpacked.
    #[error("cannot unpack `{path}`")]
    Unpack {
        /// The source.
        path: String,
        /// Why.
        #[source]
        source: rgraph_image::layer::LayerError,
    },
    /// Several sources onto one name.
    #[error("several sources need a directory as their destination: write `{dest}/`")]
    NeedsFolder {
        /// The destination as written.
        dest: String,
    },
    /// A shape of op that no Dockerfile gives.
    #[error("{0} is not supported yet")]
    Unsupported(&'static str),
}

/// Runs a file op.
pub fn run(
    w: &LocalWorker<'_>,
    op: &FileOp,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
) -> Result<Vec<Tree>, TaskError> {
    let base = match op.actions.first().map(|a| a.base) {
        Some(ActionRef::Input(i)) => Some(w.as_snapshot(task.inputs[i.at()], cx)?),
        _ => None,
    };
    for (n, a) in op.actions.iter().enumerate().skip(1) {
        if a.base != ActionRef::Action(n as u32 - 1) {
            return Err(TaskError::failed(FileError::Unsupported(
                "a file op with several results",
            )));
        }
    }
    let mut earlier = earlier::find(w, op, task, base);
    loop {
        let layer = w.begin_layer(base, cx)?;
        if !layer.is_written_directly() {
            earlier = None;
        }
        let root = layer.mount(cx)?;
        check_one_file(op, root.as_fd()).map_err(TaskError::failed)?;
        for action in &op.actions {
            cx.check()?;
            apply(w, action, earlier.as_ref(), root.as_fd(), task, cx)?;
        }
        drop(root);
        if let Some(e) = earlier.take()
            && let Err(e) = e.make_links(layer.prepared.fs())
        {
            // It was removed meanwhile, or its files have all the names that they can have.
            tracing::debug!(error = %e, "an earlier layer's files cannot be shared");
            continue;
        }
        return Ok(vec![Tree::Snapshot(layer.commit(&task.meta.name)?)]);
    }
}

/// Several sources onto one name that is no folder would replace each other, the last one winning in
/// silence; BuildKit does that against its own documentation, rgraph refuses.
fn check_one_file(op: &FileOp, root: BorrowedFd<'_>) -> Result<(), FileError> {
    let copies = op.actions.iter().filter_map(|a| match &a.kind {
        FileActionKind::Copy(c) => Some(&c.dest),
        _ => None,
    });
    let mut dests = copies.clone();
    let Some(dest) = dests.next() else { return Ok(()) };
    let several = dests.next().is_some();
    if !several
        || dest.ends_with('/')
        || dest.ends_with("/.")
        || copies.into_iter().any(|d| d != dest)
    {
        return Ok(());
    }
    match resolve(root, OsStr::new(dest), true, None) {
        Ok(place) if place.is_dir() => Ok(()),
        Ok(_) | Err(TreeError::NotFound { .. }) => {
            Err(FileError::NeedsFolder { dest: dest.clone() })
        }
        Err(e) => Err(e.into()),
    }
}

fn apply(
    w: &LocalWorker<'_>,
    action: &FileAction,
    earlier: Option<&Earlier>,
    root: BorrowedFd<'_>,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
) -> Result<(), TaskError> {
    let owner = match action.kind.owner() {
        Some(o) => Some(find_owner(w, o, root, task, cx)?),
        None => None,
    };
    let owners = w.host.owners;
    let result = match &action.kind {
        FileActionKind::Copy(c) => return copy_action(w, c, owner, earlier, root, task, cx),
        FileActionKind::Mkdir(a) => mkdir(root, a, owner, owners),
        FileActionKind::Mkfile(a) => mkfile(root, a, owner, owners),
        FileActionKind::Rm(a) => rm(root, a),
        FileActionKind::Symlink(a) => symlink(root, a, owner, owners),
    };
    result.map_err(|e| TaskError::failed(FileError::from(e)))
}

/// Resolves names of `--chown` where the op says: in the tree copied onto, or nowhere.
fn find_owner(
    w: &LocalWorker<'_>,
    o: &Owner,
    root: BorrowedFd<'_>,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
) -> Result<(u32, u32), TaskError> {
    let other: Option<ReadTree>;
    let at = match o.lookup {
        ActionRef::Action(_) => Some(root),
        ActionRef::Input(i) => {
            other = Some(w.read_tree(task.inputs[i.at()], cx)?);
            other.as_ref().map(|t| t.root.as_fd())
        }
        ActionRef::Scratch => None,
    };
    let failed = |e: InitError| TaskError::failed(FileError::Owner(e));
    let (uid, primary) = match &o.user {
        None => (0, None),
        Some(OwnerId::Id(n)) => (*n, None),
        Some(OwnerId::Name(user)) => {
            let at = at.ok_or_else(|| failed(InitError::NoSuchUser { user: user.clone() }))?;
            let who = look_up(at, user).map_err(failed)?;
            (who.uid, Some(who.gid))
        }
    };
    let gid = match &o.group {
        Some(OwnerId::Id(n)) => *n,
        Some(OwnerId::Name(group)) => {
            let at = at.ok_or_else(|| failed(InitError::NoSuchGroup { group: group.clone() }))?;
            look_up(at, &format!("0:{group}")).map_err(failed)?.gid
        }
        None => primary.unwrap_or(uid),
    };
    Ok((uid, gid))
}

fn copy_action(
    w: &LocalWorker<'_>,
    c: &CopyAction,
    owner: Option<(u32, u32)>,
    earlier: Option<&Earlier>,
    root: BorrowedFd<'_>,
    task: &Task<'_>,
    cx: &TaskCx<'_>,
) -> Result<(), TaskError> {
    let from = match c.from {
        ActionRef::Input(i) => w.read_tree(task.inputs[i.at()], cx)?,
        ActionRef::Scratch => {
            return Err(TaskError::failed(TreeError::NotFound { path: c.src.clone() }));
        }
        ActionRef::Action(_) => {
            return Err(TaskError::failed(FileError::Unsupported(
                "a copy out of an earlier action",
            )));
        }
    };
    let source =
        Source { root: from.root.as_fd(), ignore: from.ignore.as_deref(), as_root: from.as_root };
    copy_paths(c, &source, (owner, w.host.owners), earlier, root, cx).map_err(|e| match e {
        FileError::Tree(TreeError::Cancelled) => TaskError::Cancelled,
        FileError::Tree(TreeError::NotFound { path }) => {
            TaskError::failed(explain_missing(path, &source))
        }
        e => TaskError::failed(e),
    })
}

/// A missing source that the ignore file hides says so.
fn explain_missing(path: String, source: &Source<'_>) -> FileError {
    let rel = path.trim_start_matches('/');
    match source.ignore.and_then(|i| i.verdict(rel).map(|v| i.patterns()[v.index].text())) {
        Some(rule) => FileError::Ignored { rule: rule.to_owned(), path },
        None => {
            let near = near_name(&path, source)
                .map_or(String::new(), |n| format!(" (did you mean `{n}`?)"));
            FileError::Missing { path, near }
        }
    }
}

/// Names looked at for a near one.
const MAX_NEAR: usize = 10_000;

/// The path with the first name on it that is not there put right, if a near one is.
fn near_name(path: &str, source: &Source<'_>) -> Option<String> {
    let names: Vec<&str> = path.split('/').filter(|n| !n.is_empty()).collect();
    let mut dir = String::new();
    for (at, name) in names.iter().enumerate() {
        let here = format!("{dir}/{name}");
        let place = resolve(source.root, OsStr::new(&here), true, None);
        if place.is_ok_and(|p| p.stat.is_some() && !source.hides_for_sure(&p.real, p.is_dir())) {
            dir = here;
            continue;
        }
        let near = format!("{dir}/{}", near_entry(&dir, name, source)?);
        let rest = names[at + 1..].iter().map(|n| format!("/{n}")).collect::<String>();
        let whole = format!("{near}{rest}");
        let found = resolve(source.root, OsStr::new(&whole), true, None);
        return Some(if found.is_ok_and(|p| p.stat.is_some()) { whole } else { near });
    }
    None
}

/// A name in `dir` that is near to `name`.
fn near_entry(dir: &str, name: &str, source: &Source<'_>) -> Option<String> {
    let dir = if dir.is_empty() { "/" } else { dir };
    let place = resolve(source.root, OsStr::new(dir), true, None).ok()?;
    let names: Vec<String> = rustix::fs::Dir::read_from(&place.open_dir().ok()?)
        .ok()?
        .take(MAX_NEAR)
        .filter_map(|e| e.ok()?.file_name().to_str().ok().map(str::to_owned))
        .filter(|n| !matches!(n.as_str(), "." | ".."))
        .filter(|n| {
            !source.ignore.is_some_and(|i| i.matches_or_parent(format!("{}/{n}", place.real)))
        })
        .collect();
    rgraph_ir::near::nearest(name, names.iter().map(String::as_str)).map(str::to_owned)
}

/// Looks for the sources of a file op that a folder of the caller must hold, so that a typo is told
/// before any step runs. Patterns are left to the op itself.
pub fn check_sources(
    w: &LocalWorker<'_>,
    op: &FileOp,
    source_of: &dyn Fn(rgraph_ir::op::InputIndex) -> Option<Tree>,
    cx: &TaskCx<'_>,
) -> Result<(), TaskError> {
    for a in &op.actions {
        let FileActionKind::Copy(c) = &a.kind else { continue };
        let ActionRef::Input(i) = c.from else { continue };
        let Some(tree) = source_of(i) else { continue };
        if !c.include_patterns.is_empty()
            || (c.allow_wildcard && rgraph_ir::op::has_wildcard(&c.src))
        {
            continue;
        }
        let from = w.read_tree(tree, cx)?;
        let source = Source {
            root: from.root.as_fd(),
            ignore: from.ignore.as_deref(),
            as_root: from.as_root,
        };
        let place = resolve(source.root, OsStr::new(&c.src), c.follow_symlink, None);
        let gone = matches!(&place, Ok(Place { stat: None, .. }) | Err(TreeError::NotFound { .. }));
        if gone || place.is_ok_and(|p| source.hides_for_sure(&p.real, p.is_dir())) {
            return Err(TaskError::failed(explain_missing(c.src.clone(), &source)));
        }
    }
    Ok(())
}

fn copy_paths(
    c: &CopyAction,
    source: &Source<'_>,
    (owner, owners): (Option<(u32, u32)>, Owners),
    earlier: Option<&Earlier>,
    root: BorrowedFd<'_>,
    cx: &TaskCx<'_>,
) -> Result<(), FileError> {
    let set = |patterns: &[String]| -> Result<Option<PatternSet>, FileError> {
        if patterns.is_empty() {
            return Ok(None);
        }
        PatternSet::new(patterns).map(Some).map_err(|e| {
            FileError::Tree(TreeError::Pattern { pattern: patterns.join(" "), why: e.to_string() })
        })
    };
    let (include, exclude) = (set(&c.include_patterns)?, set(&c.exclude_patterns)?);
    let opts = CopyOptions {
        owner,
        mode: c.mode.as_ref(),
        time: c.timestamp.map(times),
        include: include.as_ref(),
        exclude: exclude.as_ref(),
        dir_contents: c.dir_copy_contents,
        follow: c.follow_symlink,
        no_devices: false,
        earlier,
        owners,
        cancelled: &|| cx.cancel.is_cancelled(),
    };
    for path in &c.required_paths {
        if resolve(source.root, OsStr::new(path), true, None)?.stat.is_none() {
            return Err(TreeError::NotFound { path: path.clone() }.into());
        }
    }
    let sources =
        if c.allow_wildcard { find::matches(source.root, &c.src)? } else { vec![c.src.clone()] };
    // What the ignore file hides is not there: a wildcard does not find it.
    let wild = c.allow_wildcard && rgraph_ir::op::has_wildcard(&c.src);
    let sources: Vec<_> = sources
        .into_iter()
        .filter(|s| {
            let rel = s.trim_start_matches('/');
            !wild
                || !source
                    .ignore
                    .is_some_and(|i| i.matches_or_parent(rel) && !i.may_free_below(rel))
        })
        .collect();
    if sources.is_empty() {
        if !c.allow_empty_wildcard {
            return Err(TreeError::NotFound { path: c.src.clone() }.into());
        }
        cx.warn(format!("`{}` matches nothing: nothing is copied for it", c.src));
    }
    for src in &sources {
        if c.attempt_unpack && unpack(c, src, source, (owner, owners), root)? {
            continue;
        }
        copy(source, src, root, &c.dest, &opts)?;
    }
    Ok(())
}

/// `ADD` of a local archive. False: it is none.
fn unpack(
    c: &CopyAction,
    src: &str,
    source: &Source<'_>,
    (owner, owners): (Option<(u32, u32)>, Owners),
    root: BorrowedFd<'_>,
) -> Result<bool, FileError> {
    let place = resolve(source.root, OsStr::new(src), true, None)?;
    if place.kind() != Some(FileType::RegularFile) {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&place.parent, &place.name, flags, Mode::empty())
        .map_err(TreeError::io("open", src))?;
    let failed = |source| FileError::Unpack { path: src.to_owned(), source };
    let mut file = std::fs::File::from(file);
    if !rgraph_image::layer::is_archive(&mut file) {
        return Ok(false);
    }
    std::io::Seek::rewind(&mut file).map_err(TreeError::std("read", src))?;
    let new = NewDir { mode: 0o755, owner, time: c.timestamp.map(times), owners };
    make_dirs(root, OsStr::new(&c.dest), &new)?;
    let opts = rgraph_image::layer::ArchiveOptions { owner, owners, ..Default::default() };
    rgraph_image::layer::unpack_archive(file, root, c.dest.as_bytes(), &opts).map_err(failed)?;
    Ok(true)
}

fn mkdir(
    root: BorrowedFd<'_>,
    a: &MkdirAction,
    owner: Option<(u32, u32)>,
    owners: Owners,
) -> Result<(), TreeError> {
    let new = NewDir { mode: a.mode & 0o777, owner, time: a.timestamp.map(times), owners };
    if a.make_parents {
        return make_dirs(root, OsStr::new(&a.path), &new).map(drop);
    }
    let place = resolve(root, OsStr::new(&a.path), true, None)?;
    match place.stat {
        Some(_) => Ok(()),
        None => make_dir(place.parent.as_fd(), &place.name, &new)
            .map(drop)
            .map_err(TreeError::io("make folder", &a.path)),
    }
}

fn mkfile(
    root: BorrowedFd<'_>,
    a: &MkfileAction,
    owner: Option<(u32, u32)>,
    owners: Owners,
) -> Result<(), TreeError> {
    let place = resolve(root, OsStr::new(&a.path), true, None)?;
    if place.is_dir() {
        return Err(TreeError::WrongKind { what: "a folder by a file", path: a.path.clone() });
    }
    if place.stat.is_some() {
        rustix::fs::unlinkat(&place.parent, &place.name, AtFlags::empty())
            .map_err(TreeError::io("replace", &a.path))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: OwnedFd =
        rustix::fs::openat(&place.parent, &place.name, flags, Mode::from_raw_mode(0o600))
            .map_err(TreeError::io("create", &a.path))?;
    let mut out = std::fs::File::from(file.try_clone().map_err(TreeError::std("create", &a.path))?);
    std::io::Write::write_all(&mut out, &a.data).map_err(TreeError::std("write", &a.path))?;
    chown(place.parent.as_fd(), &place.name, owner.unwrap_or((0, 0)), owners)
        .map_err(TreeError::io("chown", &a.path))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(a.mode & 0o777))
        .map_err(TreeError::io("chmod", &a.path))?;
    if let Some(t) = a.timestamp {
        rustix::fs::futimens(&file, &times(t)).map_err(TreeError::io("set times of", &a.path))?;
    }
    Ok(())
}

fn rm(root: BorrowedFd<'_>, a: &RmAction) -> Result<(), TreeError> {
    let paths = if a.allow_wildcard { find::matches(root, &a.path)? } else { vec![a.path.clone()] };
    for path in paths {
        match resolve(root, OsStr::new(&path), false, None) {
            Ok(Place { stat: None, .. }) | Err(TreeError::NotFound { .. }) if a.allow_not_found => {
            }
            Ok(Place { stat: None, .. }) => return Err(TreeError::NotFound { path }),
            Ok(place) => remove(&place.parent, &place.name, &path)?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn symlink(
    root: BorrowedFd<'_>,
    a: &SymlinkAction,
    owner: Option<(u32, u32)>,
    owners: Owners,
) -> Result<(), TreeError> {
    let place = resolve(root, OsStr::new(&a.path), false, None)?;
    rustix::fs::symlinkat(a.target.as_str(), &place.parent, &place.name)
        .map_err(TreeError::io("make link", &a.path))?;
    chown(place.parent.as_fd(), &place.name, owner.unwrap_or((0, 0)), owners)
        .map_err(TreeError::io("chown", &a.path))?;
    if let Some(t) = a.timestamp {
        rustix::fs::utimensat(&place.parent, &place.name, &times(t), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(TreeError::io("set times of", &a.path))?;
    }
    Ok(())
}
