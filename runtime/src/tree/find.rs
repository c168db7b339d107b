//! What a pattern of a COPY source names.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rgraph_ir::op::has_wildcard;
use rustix::fs::{Dir, FileType};

use super::{TreeError, resolve::resolve};

/// The paths that `pattern` (absolute, Go's `filepath.Match` with `**`) names in the tree, sorted
/// by name within each folder, as BuildKit's copy walks: a folder that matches is not entered. A
/// pattern without wildcards names itself, whether it exists or not.
pub fn matches(root: BorrowedFd<'_>, pattern: &str) -> Result<Vec<String>, TreeError> {
    let parts: Vec<&str> = pattern.split('/').filter(|p| !p.is_empty()).collect();
    let fixed = parts.iter().position(|p| has_wildcard(p)).unwrap_or(parts.len());
    let base = format!("/{}", parts[..fixed].join("/"));
    if fixed == parts.len() {
        return Ok(vec![base]);
    }
    let rest = parts[fixed..].join("/");
    let depth = if rest.contains("**") { usize::MAX } else { parts.len() - fixed };
    let place = match resolve(root, OsStr::new(&base), true, None) {
        Ok(p) if p.is_dir() => p,
        Ok(_) | Err(TreeError::NotFound { .. }) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    walk(place.open_dir()?.as_fd(), "", &rest, depth, &mut found)?;
    let prefix = base.trim_end_matches('/');
    Ok(found.into_iter().map(|p| format!("{prefix}/{p}")).collect())
}

fn walk(
    dir: BorrowedFd<'_>,
    below: &str,
    pattern: &str,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<(), TreeError> {
    for (name, kind) in entries(dir, below)? {
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        let hit = rgraph_ir::pattern::glob_match(pattern, &path)
            .map_err(|e| TreeError::Pattern { pattern: pattern.to_owned(), why: e.to_string() })?;
        if hit {
            found.push(path);
        } else if kind == FileType::Directory && depth > 1 {
            let sub =
                super::open_dir(dir, OsStr::new(&name)).map_err(TreeError::io("open", &path))?;
            walk(sub.as_fd(), &path, pattern, depth - 1, found)?;
        }
    }
    Ok(())
}

/// Names and types in a directory, sorted by bytes. Names that are no UTF-8 cannot be matched by a
/// Dockerfile's text and are left out.
fn entries(dir: BorrowedFd<'_>, shown: &str) -> Result<Vec<(String, FileType)>, TreeError> {
    let mut out = Vec::new();
    for e in Dir::read_from(dir).map_err(TreeError::io("read", shown))? {
        let e = e.map_err(TreeError::io("read", shown))?;
        let Ok(name) = e.file_name().to_str() else { continue };
        if name != "." && name != ".." {
            out.push((name.to_owned(), e.file_type()));
        }
    }
    out.sort_by(|a: &(String, FileType), b| a.0.cmp(&b.0));
    Ok(out)
}
