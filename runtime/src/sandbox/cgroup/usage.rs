//! What the group of a process uses.

use std::fs;
use std::path::Path;

use super::group::number;
use super::setting::{Controller, Version};
use super::tree::{Hierarchies, OURS};

/// Bytes of memory that the group of a step holds, without files that can go at any time; `None`: the
/// process has no group of its own that counts memory.
pub(crate) fn memory_of(pid: i32) -> Option<u64> {
    let trees = Hierarchies::of(pid);
    let tree = trees.0.iter().find(|h| h.controllers.contains(&Controller::Memory))?;
    // Any other group is shared with whoever started it.
    let own = tree.own.parent().is_some_and(|p| p.file_name().is_some_and(|n| n == OURS));
    own.then(|| read(&tree.mount.join(&tree.own), tree.version)).flatten()
}

fn read(group: &Path, version: Version) -> Option<u64> {
    let (all, files) = match version {
        Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
        Version::V2 => ("memory.current", "inactive_file"),
    };
    let text = |name| fs::read_to_string(group.join(name)).ok();
    let all: u64 = text(all)?.trim().parse().ok()?;
    let files = number(&text("memory.stat").unwrap_or_default(), files).unwrap_or(0);
    Some(all.saturating_sub(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_can_go_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(read(dir.path(), Version::V2), None);
        put("memory.current", "5000\n");
        assert_eq!(read(dir.path(), Version::V2), Some(5000));
        put("memory.stat", "anon 1\ninactive_file 2000\ntotal_inactive_file 3000\n");
        assert_eq!(read(dir.path(), Version::V2), Some(3000));
        put("memory.usage_in_bytes", "1000\n");
        assert_eq!(read(dir.path(), Version::V1), Some(0));
    }

    #[test]
    fn a_process_of_somebody_else_has_no_group_of_its_own() {
        assert_eq!(memory_of(std::process::id().cast_signed()), None);
    }
}
