//! A state root keeps the owners of files in one way. What was written with several ids has no
//! records, and where there are several ids nobody looks at records.

use std::io;
use std::path::{Path, PathBuf};

use rgraph_image::layer::Owners;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Host;

/// On a state root in which owners are recorded.
const MARK: &str = "user.rgraph.owners";

/// Why this process must not use a state root.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Records, which nobody would look at.
    #[error("the state root `{0}` was written with one id: its owners are recorded")]
    Recorded(PathBuf),
    /// Files of others.
    #[error("the state root `{0}` was written with several ids, and now there is one")]
    Several(PathBuf),
    /// The mark cannot be looked at or made.
    #[error("the file system of the state root `{root}` keeps no records of owners")]
    NoRecords {
        /// Where.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ClaimError {
    /// What to do.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Recorded(_) => "use another one (`--root DIR`), or remove it (`rm -r`)",
            Self::Several(_) => {
                "use another one (`--root DIR`), or give the ids back (`rgraph doctor` says what is \
                 missing)"
            }
            Self::NoRecords { .. } => {
                "use one on another file system (`--root DIR`), or get ranges of ids (`rgraph doctor` \
                 says how)"
            }
        }
    }
}

impl Host {
    /// Sees that the state root, with its folder of snapshots, keeps owners as this process does. One
    /// that has no snapshots yet will.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(&self, root: &Path, snapshots: &Path) -> Result<(), ClaimError> {
        let failed = |e: Errno| ClaimError::NoRecords { root: root.to_owned(), source: e.into() };
        let marked = match rustix::fs::getxattr(root, MARK, &mut [0; 8]) {
            Ok(_) => true,
            Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT) => false,
            Err(e) => return Err(failed(e)),
        };
        match (self.owners, marked) {
            (Owners::Kernel, false) | (Owners::Recorded, true) => Ok(()),
            (Owners::Kernel, true) => Err(ClaimError::Recorded(root.to_owned())),
            (Owners::Recorded, false) => {
                if std::fs::read_dir(snapshots).is_ok_and(|mut d| d.next().is_some()) {
                    return Err(ClaimError::Several(root.to_owned()));
                }
                rustix::fs::setxattr(root, MARK, b"y", XattrFlags::empty()).map_err(failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Level;

    #[test]
    fn a_state_root_keeps_owners_in_one_way() {
        let host =
            |owners| Host { userxattr: true, owners, level: Level::Namespace, ..Host::root() };
        let (kernel, recorded) = (host(Owners::Kernel), host(Owners::Recorded));
        let dir = tempfile::tempdir().unwrap();
        let snapshots = dir.path().join("snapshots");
        std::fs::create_dir(&snapshots).unwrap();
        kernel.claim(dir.path(), &snapshots).unwrap();
        std::fs::create_dir(snapshots.join("1")).unwrap();
        let several = recorded.claim(dir.path(), &snapshots);
        assert!(matches!(several, Err(ClaimError::Several(_))));
        std::fs::remove_dir(snapshots.join("1")).unwrap();
        recorded.claim(dir.path(), &snapshots).unwrap();
        std::fs::create_dir(snapshots.join("1")).unwrap();
        recorded.claim(dir.path(), &snapshots).unwrap();
        let one = kernel.claim(dir.path(), &snapshots);
        assert!(matches!(one, Err(ClaimError::Recorded(_))));
    }
}
