//! What a step reads of a tree, as a digest: folders of the caller (contexts) and snapshots alike.
//!
//! Place in the flow: the solver asks for a digest of a [`Selector`]; the answer is the part of the
//! key that stands for the files. One [`scan`] finds and hashes; [`Scan::digest`] is the key's part,
//! [`Scan::entries`] says afterwards which files made it.
//!
//! Invariants:
//! - Only what the selector names is looked at, and what an ignore file hides is neither read nor
//!   hashed, whatever link leads to it.
//! - No path leaves the root: names are resolved here, one by one, and opened with `openat2` below
//!   the root without following any link.
//! - Content is hashed from one open handle whose size and times are compared before and after.
//!   FIFOs, sockets and devices are never opened.
//! - Times do not count. What is not there is part of the digest. Which names below one selected path
//!   are hard links of one file counts, as a copy keeps that; a name elsewhere does not.

mod digest;
mod layers;
mod list;
mod moment;
mod resolve;
mod stat_cache;
mod walk;

use std::io;
use std::os::fd::BorrowedFd;

use rgraph_image::layer::Owners;
use rgraph_ir::TreeDigest;
use rgraph_ir::op::{SelectedPath, Selector};
use rgraph_ir::pattern::{PatternError, PatternSet};

use resolve::{Tree, Ways};
use walk::{Entry, Filter, walk};

pub use layers::layers_changed;
pub use list::{FileList, MAX_FILES};
pub use moment::Moment;
pub use stat_cache::{FileDigest, MemoryStatCache, Stamp, StatCache, StatCacheError};
pub use walk::Kind;

/// Why a tree could not be read. A path that does not exist is no error.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The system refused.
    #[error("cannot read `/{path}`")]
    Read {
        /// Below the root, without the leading slash.
        path: String,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A selector holds a bad pattern.
    #[error("cannot select `{path}`")]
    Pattern {
        /// The selected path.
        path: String,
        /// What is wrong.
        #[source]
        source: PatternError,
    },
    /// Over [`rgraph_ir::limits::MAX_TAR_PATH`].
    #[error("path of {len} bytes is over the limit of {max}: `/{start}...`", max = rgraph_ir::limits::MAX_TAR_PATH)]
    TooLong {
        /// Bytes.
        len: usize,
        /// How it begins.
        start: String,
    },
}

impl ContextError {
    fn read(path: &[u8], e: rustix::io::Errno) -> Self {
        Self::Read { path: String::from_utf8_lossy(path).into_owned(), source: e.into() }
    }
}

/// What was found and hashed.
#[derive(Debug)]
pub struct Scan {
    /// One per selected path.
    parts: Vec<Vec<Pick>>,
    owner: bool,
    mode: bool,
    /// What was passed on the way to it.
    ways: Ways,
}

/// One thing that a selected path picked, with all below it.
#[derive(Debug)]
struct Pick {
    /// The path that was asked for, or that a wildcard found.
    at: Vec<u8>,
    /// The name, where it counts.
    name: Option<Vec<u8>>,
    entries: Vec<Entry>,
}

/// One file, folder or link of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// Where it really is, absolute within the tree. A byte that is no UTF-8 stays as it is.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file, else 0.
    pub size: u64,
    /// Names all of it that counts, but for its place.
    pub digest: TreeDigest,
}

impl Scan {
    /// How many files, folders and links were found.
    pub fn len(&self) -> usize {
        self.parts.iter().flatten().map(|p| p.entries.len()).sum()
    }

    /// True when nothing was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Finds what `sel` picks below `root` and hashes it.
///
/// `ignore` holds the rules of an ignore file, relative to `root`. `cache` spares reading files
/// whose stamp is known. For a live folder of the caller, whose files count as root's, give a
/// selector without `owner`.
///
/// A wildcard is matched component by component with Go's `filepath.Match`; a component `**` stands
/// for any number of folders.
pub fn scan(
    root: BorrowedFd<'_>,
    sel: &Selector,
    ignore: Option<&PatternSet>,
    cache: Option<&dyn StatCache>,
    owners: Owners,
) -> Result<Scan, ContextError> {
    scan_with(root, sel, ignore, cache, (false, owners))
}

/// The digest of an overlay's upper folder, or of a layer kept in that form: all of it, with the
/// marks that say a folder hides what is below it. Two layers with equal ones do the same to
/// whatever they lie on.
pub fn layer_digest(root: BorrowedFd<'_>, owners: Owners) -> Result<TreeDigest, ContextError> {
    Ok(scan_with(root, &Selector::all(), None, None, (true, owners))?.digest())
}

/// Whether two layers do the same to whatever they lie on: [`layer_digest`]s of both would be equal.
/// Files are read only when all else is.
pub fn same_layer(
    a: BorrowedFd<'_>,
    b: BorrowedFd<'_>,
    owners: Owners,
) -> Result<bool, ContextError> {
    let found = |root| -> Result<_, ContextError> {
        let tree = Tree::new(root, None);
        let all = Selector::all();
        let mut entries = Vec::new();
        for path in &all.paths {
            entries
                .extend(select(&tree, path, (true, owners))?.into_iter().flat_map(|p| p.entries));
        }
        Ok((tree, entries))
    };
    let ((tree_a, mut a), (tree_b, mut b)) = (found(a)?, found(b)?);
    let same =
        |a: &[Entry], b: &[Entry]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_like(b));
    if !same(&a, &b) {
        return Ok(false);
    }
    digest::hash_files(&tree_a, a.iter_mut(), None)?;
    digest::hash_files(&tree_b, b.iter_mut(), None)?;
    Ok(same(&a, &b))
}

fn scan_with(
    root: BorrowedFd<'_>,
    sel: &Selector,
    ignore: Option<&PatternSet>,
    cache: Option<&dyn StatCache>,
    kind: (bool, Owners),
) -> Result<Scan, ContextError> {
    let tree = Tree::new(root, ignore);
    let mut parts = Vec::with_capacity(sel.paths.len());
    for path in &sel.paths {
        parts.push(select(&tree, path, kind)?);
    }
    let entries = parts.iter_mut().flatten().flat_map(|p: &mut Pick| &mut p.entries);
    digest::hash_files(&tree, entries, cache)?;
    Ok(Scan { parts, owner: sel.owner, mode: sel.mode, ways: tree.into_ways() })
}

/// The digest of what `sel` picks; see [`scan`].
pub fn digest(
    root: BorrowedFd<'_>,
    sel: &Selector,
    ignore: Option<&PatternSet>,
    cache: Option<&dyn StatCache>,
) -> Result<TreeDigest, ContextError> {
    Ok(scan(root, sel, ignore, cache, Owners::Kernel)?.digest())
}

/// What `sel` picks, in the order of the digest; see [`scan`].
pub fn list(
    root: BorrowedFd<'_>,
    sel: &Selector,
    ignore: Option<&PatternSet>,
    cache: Option<&dyn StatCache>,
) -> Result<Vec<ListedEntry>, ContextError> {
    Ok(scan(root, sel, ignore, cache, Owners::Kernel)?.entries())
}

/// The kind of tree: an overlay's upper folder or not, and where owners are kept.
fn select(
    tree: &Tree<'_>,
    sel: &SelectedPath,
    (overlay, owners): (bool, Owners),
) -> Result<Vec<Pick>, ContextError> {
    let SelectedPath { path, wildcard, follow, name, include, exclude } = sel;
    let compile = |list: &[String]| {
        PatternSet::new(list).map_err(|source| ContextError::Pattern { path: path.clone(), source })
    };
    let filter = Filter {
        ignore: tree.ignore,
        include: compile(include)?,
        exclude: compile(exclude)?,
        overlay,
        owners,
        most: usize::MAX,
    };
    let named: Vec<Vec<u8>> = if *wildcard {
        tree.matches(path)?
    } else {
        vec![path.trim_matches('/').as_bytes().to_vec()]
    };
    let mut picks = Vec::new();
    for named in named {
        let Some(found) = tree.resolve(&named, *follow)? else { continue };
        let base = named.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let entries = walk(tree, found, base, &filter)?;
        if !entries.is_empty() {
            // Of several matches, each keeps its name wherever it goes.
            let name = (*name || *wildcard).then(|| base.to_vec());
            picks.push(Pick { at: named.clone(), name, entries });
        }
    }
    Ok(picks)
}

#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod tests;
