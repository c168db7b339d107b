//! What a container takes beyond its image.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{ContainerError, at};

/// Bytes of the files that a container made or changed, by its folder; each file once, whatever its
/// names. Links in it are not followed.
///
/// # Errors
/// A folder cannot be read. What goes meanwhile does not count.
pub fn changed_bytes(folder: &Path) -> Result<u64, ContainerError> {
    bytes_below(&folder.join("fs"))
}

/// Bytes of the files below a folder.
///
/// # Errors
/// As [`changed_bytes`].
pub fn bytes_below(top: &Path) -> Result<u64, ContainerError> {
    sum(top, &|meta| if meta.is_dir() { 0 } else { meta.size() })
}

/// What a folder takes on disk, with all that is in it.
///
/// # Errors
/// As [`changed_bytes`].
pub fn blocks_below(top: &Path) -> Result<u64, ContainerError> {
    sum(top, &|meta| meta.blocks() * 512)
}

fn sum(top: &Path, of: &dyn Fn(&Metadata) -> u64) -> Result<u64, ContainerError> {
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let (mut sum, mut seen) = (0, HashSet::new());
    let mut todo: Vec<PathBuf> = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if gone(&e) => continue,
            entries => entries.map_err(at("read", &dir))?,
        };
        for entry in entries {
            let path = entry.map_err(at("read", &dir))?.path();
            let meta = match std::fs::symlink_metadata(&path) {
                Err(e) if gone(&e) => continue,
                meta => meta.map_err(at("look at", &path))?,
            };
            if meta.is_dir() {
                todo.push(path);
                sum += of(&meta);
            } else if meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino())) {
                sum += of(&meta);
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let fs = dir.path().join("fs");
        std::fs::create_dir_all(fs.join("a/b")).unwrap();
        assert_eq!(changed_bytes(dir.path()).unwrap(), 0);
        std::fs::write(fs.join("a/one"), [0; 1000]).unwrap();
        std::fs::hard_link(fs.join("a/one"), fs.join("a/b/same")).unwrap();
        std::os::unix::fs::symlink("/usr", fs.join("a/usr")).unwrap();
        assert_eq!(changed_bytes(dir.path()).unwrap(), 1004);
    }
}
