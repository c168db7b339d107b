//! For which platforms a cache folder knows a step: one empty file per step and platform,
//! `ops/STEP/PLATFORM` beside the records, where STEP names what the step does whatever it runs on. It
//! only completes the line `not built here before`, so nothing is synced and a file that is missing or
//! too many does no harm.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rgraph_ir::{Op, Platform, TreeDigest};
use rgraph_solver::key::op_digest;

/// Most platforms that are named.
const MOST: usize = 8;

fn folder(ops: &Path, op: &Op) -> PathBuf {
    ops.join(TreeDigest::from_bytes(op_digest(op, None)).hex())
}

/// The file that says that `op` is known for `platform`.
pub(super) fn path(ops: &Path, op: &Op, platform: &Platform) -> PathBuf {
    folder(ops, op).join(platform.to_string().replace('/', "_"))
}

/// Makes such a file, unless it is there.
pub(super) fn note(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    match fs::create_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    if !fs::symlink_metadata(folder)?.is_dir() {
        return Err(io::Error::other("it is a link"));
    }
    match File::options().write(true).create_new(true).open(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// The platforms other than `own` that were noted for `op`. The names are a stranger's.
pub(super) fn noted(ops: &Path, op: &Op, own: Option<&Platform>) -> Vec<String> {
    let Ok(files) = fs::read_dir(folder(ops, op)) else { return Vec::new() };
    let read = |e: fs::DirEntry| -> Option<Platform> {
        e.file_name().to_str()?.replace('_', "/").parse().ok()
    };
    let mut names: Vec<String> = files
        .flatten()
        .take(MOST)
        .filter_map(read)
        .filter(|p| Some(p) != own)
        .map(|p| p.to_string())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_ir::op::MergeOp;

    #[test]
    fn other_platforms_are_named_and_nonsense_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let op = Op::Merge(MergeOp {});
        let amd64 = Platform::new("linux", "amd64");
        assert!(noted(dir.path(), &op, None).is_empty());
        for text in ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm64"] {
            note(&path(dir.path(), &op, &text.parse().unwrap())).unwrap();
        }
        fs::write(folder(dir.path(), &op).join("not a platform at all"), "").unwrap();
        assert_eq!(noted(dir.path(), &op, Some(&amd64)), ["linux/arm/v7", "linux/arm64"]);
    }
}
