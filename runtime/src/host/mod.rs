//! What this host allows, decided once at start. Nothing above this asks who is root.
//!
//! A user who is not root moves into a user namespace, where all that follows is as for root: ids,
//! mounts, namespaces of steps. What is left of the difference is in [`Host`].

mod claim;
mod snapshotter;
mod subid;

use rgraph_image::layer::Owners;
use rgraph_sys::caps::{self, Cap};
use rgraph_sys::userns::{self, EnterError, IdMap};
use rgraph_sys::{ns, spawn};

pub use claim::ClaimError;
pub use snapshotter::{Choice, Decided, Lack, Snapshotter};
use subid::Ids;
pub use subid::NoRanges;

/// One value for the differences between root, rootless and restricted hosts.
#[derive(Debug, Clone)]
pub struct Host {
    /// Overlay marks live in `user.overlay.*` (inside a user namespace).
    pub userxattr: bool,
    /// Where the owners of files are kept.
    pub owners: Owners,
    /// How this process came to its rights.
    pub level: Level,
    /// How layers are laid over each other.
    pub choice: Choice,
}

/// How this process came to the rights that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Level {
    /// Root of the machine.
    Root,
    /// Root of a user namespace that was there before.
    Namespace,
    /// An own user namespace with this many users (and groups) beside the own.
    FullMap {
        /// The smaller of both numbers.
        ids: u32,
    },
    /// An own user namespace in which there is nobody but this user, as root.
    SingleId {
        /// Why.
        why: NoRanges,
    },
}

/// Descriptors that a build has open beside its tasks: index, locks, helpers, an output.
const OWN_FILES: u64 = 32;
/// What a task has open at once: pipes, its process, locks, trees.
const FILES_OF_A_TASK: u64 = 12;

impl Host {
    /// How many tasks may be at work at once, so that the limit of open files is not reached.
    pub fn tasks_at_once() -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let left = limit.unwrap_or(u64::MAX).saturating_sub(OWN_FILES) / FILES_OF_A_TASK;
        usize::try_from(left).unwrap_or(usize::MAX).max(1)
    }

    /// Root of the machine.
    pub(crate) fn root() -> Self {
        let (owners, choice) = (Owners::Kernel, Choice::default());
        Self { userxattr: false, owners, level: Level::Root, choice }
    }

    /// Gets the rights that building needs: those of root, or those of a user namespace, into
    /// which this process then moves. Call before any other thread exists.
    ///
    /// # Errors
    /// [`HostError`]; this process may then be in a namespace already and should end.
    pub fn enter() -> Result<Self, HostError> {
        let first = userns::is_first().map_err(HostError::Look)?;
        let admin = caps::effective().is_ok_and(|set| set.has(Cap::SYS_ADMIN));
        if rustix::process::geteuid().is_root() && admin {
            if first {
                return Ok(Self::root());
            }
            // The mounts may still be those of somebody with more rights.
            spawn::remember_binary()
                .and_then(|()| ns::unshare_mounts())
                .map_err(HostError::Mounts)?;
            return Ok(Self { userxattr: true, level: Level::Namespace, ..Self::root() });
        }
        let (map, level) = match Ids::look() {
            Ids::Ranges { map, ids } => (map, Level::FullMap { ids }),
            Ids::Single(why) => (IdMap::Single, Level::SingleId { why }),
        };
        userns::enter(&map)?;
        // A guard of the kernel (AppArmor) may let the namespace be made and take the rights in it.
        if !caps::effective().is_ok_and(|set| set.has(Cap::SYS_ADMIN)) {
            return Err(HostError::NoRights);
        }
        let owners = match level {
            Level::SingleId { .. } => Owners::Recorded,
            Level::Root | Level::Namespace | Level::FullMap { .. } => Owners::Kernel,
        };
        Ok(Self { userxattr: true, owners, level, choice: Choice::default() })
    }
}

/// Why nothing can run here.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// `/proc` is not there.
    #[error("cannot see in which user namespace this is")]
    Look(#[source] std::io::Error),
    /// No mount namespace within a user namespace.
    #[error("cannot make a mount namespace")]
    Mounts(#[source] std::io::Error),
    /// No user namespace.
    #[error("building without root needs a user namespace, and there is none")]
    Enter(#[from] EnterError),
    /// One without rights.
    #[error("building without root needs a user namespace, and the one it got gives no rights")]
    NoRights,
}

impl HostError {
    /// What to do, if something is known to help.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Look(_) | Self::Mounts(_) => None,
            Self::Enter(EnterError::Helper { .. }) => Some(
                "correct the lines of this user in /etc/subuid and /etc/subgid, and see that \
                 newuidmap and newgidmap may do their work (`ls -l` shows `s` in their mode)",
            ),
            Self::Enter(_) => Some(
                "as root: `sysctl -w user.max_user_namespaces=15000`, on Debian also \
                 `sysctl -w kernel.unprivileged_userns_clone=1`; in a container its system call \
                 filter has to allow it (`--security-opt seccomp=unconfined`) and leave /proc uncovered \
                 (docker: `--security-opt systempaths=unconfined`, podman: `--security-opt unmask=ALL`)",
            ),
            Self::NoRights => Some(
                "as root: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or an \
                 AppArmor profile for rgraph that allows `userns`",
            ),
        }
    }
}
