//! What this host allows, decided once at start. Nothing above this asks who is root.

/// One value for the differences between root, rootless and restricted hosts.
#[derive(Debug, Clone)]
pub struct Host {
    /// Overlay marks live in `user.overlay.*` (inside a user namespace).
    pub userxattr: bool,
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

    /// Root with all rights: what there is today. Anything less is refused by name.
    pub fn probe() -> Result<Self, HostError> {
        if rustix::process::geteuid().is_root() {
            Ok(Self { userxattr: false })
        } else {
            Err(HostError::Rootless)
        }
    }
}

/// Why nothing can run here.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Not root.
    #[error("building without root is not supported yet: run rgraph as root")]
    Rootless,
}
