//! What this host lets us do, found out by doing it.

use std::path::Path;

use crate::mount;
use crate::seccomp;

/// What the host can do for a sandbox. Differences between root and user, old and new kernels live
/// in this value and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCaps {
    /// Overlay mounts work on the directory that was tried; otherwise why not.
    pub overlay: Result<(), String>,
    /// System calls can be filtered and the filter knows this machine.
    pub seccomp: bool,
}

/// Asks and tries. `scratch` is an existing directory on the file system where layers will be;
/// two folders are made in it and removed again. `userxattr`: as in a user namespace.
pub fn probe(scratch: &Path, userxattr: bool) -> HostCaps {
    HostCaps {
        overlay: try_overlay(scratch, userxattr),
        seccomp: seccomp::Arch::native().is_some() && has_seccomp(),
    }
}

fn try_overlay(scratch: &Path, userxattr: bool) -> Result<(), String> {
    let base = scratch.join(format!("probe-{}", std::process::id()));
    let dirs = ["l", "u", "w"].map(|d| base.join(d));
    let tried = dirs
        .iter()
        .try_for_each(std::fs::create_dir_all)
        .map_err(|e| format!("cannot make {}: {e}", base.display()))
        .and_then(|()| {
            let [lower, upper, work] = &dirs;
            mount::overlay(&mount::OverlaySpec {
                lowers: std::slice::from_ref(lower),
                upper: Some((upper, work)),
                volatile: true,
                userxattr,
            })
            .map(drop)
            .map_err(|e| format!("{e}: {}", e.source))
        });
    // The mount is gone with its descriptor. What is left after a failed removal is empty.
    let _ = std::fs::remove_dir_all(&base);
    tried
}

fn has_seccomp() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
        .is_ok_and(|actions| actions.split_whitespace().any(|a| a == "errno"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let caps = probe(dir.path(), false);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        if rustix::process::geteuid().is_root() {
            assert_eq!(caps.overlay, Ok(()));
        }
    }
}
