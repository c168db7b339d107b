//! What this host allows, decided once at start. Nothing above this asks who is root.

/// One value for the differences between root, rootless and restricted hosts.
#[derive(Debug, Clone)]
pub struct Host {
    /// Overlay marks live in `user.overlay.*` (inside a user namespace).
    pub userxattr: bool,
}

impl Host {
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
