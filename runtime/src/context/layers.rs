//! What differs between two stacks of layers, from the layers in which they differ.
//!
//! Only what the two do not share is walked, sizes tell most changes, and no more is read than
//! [`MOST_BYTES`]: this explains a miss and must cost less than the step that follows.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use rgraph_solver::explain::{FileChanges, FileFate};
use rustix::fs::OFlags;

use super::resolve::Tree;
use super::walk::{Content, Entry, Filter, Kind, walk};
use super::{ContextError, digest, list};

/// Most files of a layer that are looked at.
const MOST_FILES: usize = 4096;
/// Most bytes that are read to tell files of one size apart.
const MOST_BYTES: u64 = 8 << 20;

/// A layer, opened.
type Dir = std::fs::File;

/// What lies at a path of a stack, and in which of its layers.
type View = BTreeMap<Vec<u8>, (usize, Entry)>;

/// What differs from the stack `old` to `new`, both bottom first. `shared` opens what both lie on, and
/// is asked only for a path that one of them alone has. `None`: too much to look at here.
pub fn layers_changed(
    shared: &dyn Fn() -> Option<Vec<Dir>>,
    old: &[Dir],
    new: &[Dir],
) -> Result<Option<FileChanges>, ContextError> {
    let (Some(mut o), Some(mut n)) = (view(old)?, view(new)?) else { return Ok(None) };
    tell_apart((old, &mut o), (new, &mut n))?;
    let mut out = FileChanges::default();
    let mut opened: Option<Vec<Dir>> = None;
    // The folder that came or went last: what is in it says nothing more.
    let mut whole: Option<Vec<u8>> = None;
    let mut paths: Vec<&Vec<u8>> =
        o.keys().chain(n.keys().filter(|p| !o.contains_key(*p))).collect();
    paths.sort_unstable_by(|a, b| list::by_walk(a, b));
    for path in paths {
        let there = |v: &View| v.get(path).is_some_and(|(_, e)| !is_whiteout(e));
        let fate = match (o.get(path), n.get(path)) {
            (Some((_, was)), Some((_, is))) if there(&o) && there(&n) => {
                differences(path, was, is, &mut out);
                if was.kind != is.kind {
                    whole = Some(path.clone());
                }
                continue;
            }
            (was, is) => {
                let layers = match opened.take() {
                    Some(layers) => layers,
                    None => match shared() {
                        Some(layers) => layers,
                        None => return Ok(None),
                    },
                };
                let below = below(&layers, path)?;
                opened = Some(layers);
                let was = if was.is_some() { there(&o) } else { below };
                let is = if is.is_some() { there(&n) } else { below };
                let folder = [o.get(path), n.get(path)].into_iter().flatten();
                let folder = folder.into_iter().any(|(_, e)| e.kind == Kind::Dir);
                match (was, is) {
                    (false, true) => FileFate::New,
                    (true, false) => FileFate::Gone,
                    // A folder stands in a layer for what is in it.
                    (true, true) if !folder => FileFate::Changed,
                    _ => continue,
                }
            }
        };
        let inside =
            |dir: &Vec<u8>| path.strip_prefix(&dir[..]).is_some_and(|r| r.starts_with(b"/"));
        if whole.as_ref().is_some_and(inside) {
            continue;
        }
        whole = Some(path.clone());
        out.push(path, fate);
    }
    Ok(Some(out))
}

/// Overlayfs's mark for a name that is gone.
fn is_whiteout(e: &Entry) -> bool {
    e.content == Content::Device(0, 0) && e.kind == Kind::CharDevice
}

/// The stack's own files, upper ones over lower ones.
fn view(stack: &[Dir]) -> Result<Option<View>, ContextError> {
    let mut view = View::new();
    for (at, dir) in stack.iter().enumerate() {
        let tree = Tree::new(dir.as_fd(), None);
        let Some(root) = tree.resolve(b"", false)? else { return Ok(None) };
        let filter = Filter { overlay: true, most: MOST_FILES, ..Filter::default() };
        let entries = walk(&tree, root, b"", &filter)?;
        if entries.len() > MOST_FILES {
            return Ok(None);
        }
        for e in entries.into_iter().skip(1) {
            if e.kind != Kind::Dir {
                // What was a folder is none any more.
                let ends = |c: u8| [&e.path[..], &[c]].concat();
                let inside: Vec<_> =
                    view.range(ends(b'/')..ends(b'/' + 1)).map(|(p, _)| p.clone()).collect();
                for p in inside {
                    view.remove(&p);
                }
            }
            view.insert(e.path.clone(), (at, e));
        }
    }
    Ok(Some(view))
}

/// Whether the layers below both have something at `path`.
fn below(shared: &[Dir], path: &[u8]) -> Result<bool, ContextError> {
    for dir in shared.iter().rev() {
        let tree = Tree::new(dir.as_fd(), None);
        match tree.open(path, OFlags::PATH) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|e| ContextError::read(path, e))?;
                let device = rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    == rustix::fs::FileType::CharacterDevice;
                return Ok(!(device && stat.st_rdev == 0));
            }
            Err(e) if super::resolve::is_absent(e) => {}
            Err(e) => return Err(ContextError::read(path, e)),
        }
    }
    Ok(false)
}

/// Reads files that are in both and have one size, as far as that is cheap; the rest counts as equal.
fn tell_apart(old: (&[Dir], &mut View), new: (&[Dir], &mut View)) -> Result<(), ContextError> {
    let mut left = MOST_BYTES;
    let mut same = Vec::new();
    for (path, (_, o)) in old.1.iter() {
        let Some((_, n)) = new.1.get(path) else { continue };
        let files = (o.kind, n.kind) == (Kind::File, Kind::File);
        if files && o.stamp.size == n.stamp.size && o.stamp.size <= left {
            left -= o.stamp.size;
            same.push(path.clone());
        }
    }
    for (stack, view) in [old, new] {
        for (at, dir) in stack.iter().enumerate() {
            let tree = Tree::new(dir.as_fd(), None);
            let here = view
                .iter_mut()
                .filter(|(p, (layer, _))| *layer == at && same.binary_search(p).is_ok());
            digest::hash_files(&tree, here.map(|(_, (_, e))| e), None)?;
        }
    }
    Ok(())
}

fn differences(path: &[u8], old: &Entry, new: &Entry, out: &mut FileChanges) {
    if old.kind != new.kind {
        return out.push(path, FileFate::Kind(list::noun_of(old.kind), list::noun_of(new.kind)));
    }
    match (&old.content, &new.content) {
        (Content::Link(was), Content::Link(is)) if was != is => {
            let text = |t: &[u8]| String::from_utf8_lossy(t).into_owned();
            out.push(path, FileFate::Link(text(was), text(is)));
        }
        _ if old.kind == Kind::File && old.stamp.size != new.stamp.size => {
            out.push(path, FileFate::Changed);
        }
        (Content::File(was), Content::File(is)) if was != is => out.push(path, FileFate::Changed),
        (Content::Dir(was), Content::Dir(is)) if was != is => out.push(path, FileFate::Attributes),
        (Content::Device(..), Content::Device(..)) if old.content != new.content => {
            out.push(path, FileFate::Attributes);
        }
        _ => {}
    }
    if old.twin != new.twin {
        let name = |e: &Entry| e.twin.as_ref().map(|t| String::from_utf8_lossy(t).into_owned());
        out.push(path, FileFate::HardLink(name(old), name(new)));
    }
    if old.mode != new.mode && new.kind != Kind::Symlink {
        out.push(path, FileFate::Mode(old.mode, new.mode));
    }
    if (old.uid, old.gid) != (new.uid, new.gid) {
        out.push(path, FileFate::Owner((old.uid, old.gid), (new.uid, new.gid)));
    }
}
