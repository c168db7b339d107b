//! Capabilities: their names, sets of them, and taking them away from this process.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

macro_rules! caps {
    ($($name:ident = $nr:literal),* $(,)?) => {
        /// One capability, by its kernel name without `CAP_`.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Cap {
            $(#[doc = concat!("`CAP_", stringify!($name), "`")] $name = $nr),*
        }

        impl Cap {
            /// All of them, by number.
            pub const ALL: &[Cap] = &[$(Cap::$name),*];

            /// `CHOWN`, ...
            pub const fn name(self) -> &'static str {
                match self { $(Cap::$name => stringify!($name)),* }
            }
        }
    };
}

caps! {
    CHOWN = 0,
    DAC_OVERRIDE = 1,
    DAC_READ_SEARCH = 2,
    FOWNER = 3,
    FSETID = 4,
    KILL = 5,
    SETGID = 6,
    SETUID = 7,
    SETPCAP = 8,
    LINUX_IMMUTABLE = 9,
    NET_BIND_SERVICE = 10,
    NET_BROADCAST = 11,
    NET_ADMIN = 12,
    NET_RAW = 13,
    IPC_LOCK = 14,
    IPC_OWNER = 15,
    SYS_MODULE = 16,
    SYS_RAWIO = 17,
    SYS_CHROOT = 18,
    SYS_PTRACE = 19,
    SYS_PACCT = 20,
    SYS_ADMIN = 21,
    SYS_BOOT = 22,
    SYS_NICE = 23,
    SYS_RESOURCE = 24,
    SYS_TIME = 25,
    SYS_TTY_CONFIG = 26,
    MKNOD = 27,
    LEASE = 28,
    AUDIT_WRITE = 29,
    AUDIT_CONTROL = 30,
    SETFCAP = 31,
    MAC_OVERRIDE = 32,
    MAC_ADMIN = 33,
    SYSLOG = 34,
    WAKE_ALARM = 35,
    BLOCK_SUSPEND = 36,
    AUDIT_READ = 37,
    PERFMON = 38,
    BPF = 39,
    CHECKPOINT_RESTORE = 40,
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapSet(u64);

impl CapSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// What Docker gives to a container: 14 capabilities, mask `a80425fb`.
    pub const DOCKER: Self = Self::of(&[
        Cap::CHOWN,
        Cap::DAC_OVERRIDE,
        Cap::FSETID,
        Cap::FOWNER,
        Cap::MKNOD,
        Cap::NET_RAW,
        Cap::SETGID,
        Cap::SETUID,
        Cap::SETFCAP,
        Cap::SETPCAP,
        Cap::NET_BIND_SERVICE,
        Cap::SYS_CHROOT,
        Cap::KILL,
        Cap::AUDIT_WRITE,
    ]);

    /// The set of these.
    pub const fn of(caps: &[Cap]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < caps.len() {
            bits |= 1 << caps[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// From what the kernel prints in `/proc/self/status`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As the kernel prints it in `/proc/self/status`.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What is in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// These and one more.
    pub const fn with(self, cap: Cap) -> Self {
        Self(self.0 | 1 << cap as u8)
    }

    /// True when `cap` is in it.
    pub const fn has(self, cap: Cap) -> bool {
        self.0 & (1 << cap as u8) != 0
    }
}

/// What this process may do now.
///
/// # Errors
/// The error of `capget(2)`.
pub fn effective() -> io::Result<CapSet> {
    Ok(CapSet(rustix::thread::capabilities(None)?.effective.bits()))
}

/// Takes everything but `keep` out of the bounding set, for good and for all children.
/// Needs `CAP_SETPCAP`.
///
/// # Errors
/// The error of `prctl(2)`.
pub fn bound(keep: CapSet) -> io::Result<()> {
    // Newer kernels may know capabilities that this list does not; they must go too.
    for nr in 0..64u32 {
        let bit = 1u64 << nr;
        if keep.0 & bit != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
            bit,
        )) {
            Ok(()) => {}
            // The kernel's last capability was passed.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Empties the ambient set and makes `set`, as far as it is held, the effective and permitted
/// one; the inheritable set becomes empty.
///
/// # Errors
/// The error of `capset(2)`.
pub fn limit(set: CapSet) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let held = rustix::thread::capabilities(None)?.permitted;
    let set = CapabilitySet::from_bits_retain(set.0) & held;
    let sets =
        CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Makes `set`, as far as it is held, the effective one; what is held stays, for [`use_all`].
///
/// # Errors
/// The error of `capset(2)`.
pub fn use_only(set: CapSet) -> io::Result<()> {
    let permitted = rustix::thread::capabilities(None)?.permitted;
    let effective = CapabilitySet::from_bits_retain(set.0) & permitted;
    let inheritable = CapabilitySet::empty();
    Ok(rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective, permitted, inheritable },
    )?)
}

/// Makes all that is held effective.
///
/// # Errors
/// The error of `capset(2)`.
pub fn use_all() -> io::Result<()> {
    use_only(CapSet(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docker_set_has_the_known_mask() {
        assert_eq!(CapSet::DOCKER.bits(), 0xa804_25fb);
        assert!(CapSet::DOCKER.has(Cap::SYS_CHROOT) && !CapSet::DOCKER.has(Cap::SYS_ADMIN));
    }

    #[test]
    fn numbers_follow_the_list() {
        for (i, cap) in Cap::ALL.iter().enumerate() {
            assert_eq!(*cap as usize, i, "{}", cap.name());
        }
    }
}
