//! For which platforms a cache folder knows a step: one empty file per step and platform,
//! `ops/STEP/PLATFORM` beside the records, where STEP names what the step does whatever it runs on. It
//! only completes the line `not built here before`, so nothing is synced and a file that is missing or
//! too many does no harm.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rgraph_ir::{Op, Platform, TreeDigest};

use crate::cache::hints::{Hints, named, step};

fn folder(ops: &Path, op: &Op) -> PathBuf {
    ops.join(step(op).hex())
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
    named(names(&folder(ops, op)).iter().map(String::as_str), own)
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|e| Some(e.file_name().to_str()?.replace('_', "/"))).collect()
}

/// All that was noted.
pub(super) fn all(ops: &Path) -> Hints {
    let mut out = Hints::default();
    for folder in fs::read_dir(ops).into_iter().flatten().flatten() {
        let step = folder.file_name().to_str().and_then(|n| TreeDigest::from_hex(n).ok());
        if let Some(step) = step {
            names(&folder.path()).iter().for_each(|n| out.note(step, n));
        }
    }
    out
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
        fs::create_dir(dir.path().join("no digest")).unwrap();
        assert_eq!(all(dir.path()).others(&op, Some(&amd64)), ["linux/arm/v7", "linux/arm64"]);
    }
}
