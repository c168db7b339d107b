//! Runs one step of a build apart from the host.
//!
//! ```text
//! op thread ── launch ──→ Runner ── socket ──→ runner process ── clone3 ──→ child: init ── exec ──→ step
//!                            ↑                     │ (one per build, one thread)
//!                          Running ←── pidfd, end ─┘
//! ```
//! A threaded process cannot fork and a big one forks slowly, so the build starts its own binary a
//! second time ([`Runner`]); that process has one thread and a few megabytes, and copies itself for
//! each step. Several steps may run at once. Whoever dies takes the rest along: without the build
//! the runner kills all steps, and a [`Running`] that is dropped kills its own.
//!
//! Invariants: nothing is mounted anywhere but in the step's own mount namespace; every mount
//! target is opened by handle below the step's root; what was created as a mount point only is
//! gone from the upper directory when [`Running::wait`] returns.

pub(crate) mod bench;
mod cgroup;
mod error;
mod init;
mod kernelfs;
mod launch;
mod listen;
mod machine;
mod mounts;
mod network;
mod nodes;
mod owners;
mod rootfs;
pub(crate) mod runner;
mod spec;
pub(crate) mod user;

pub use cgroup::{Hit, Limits, NoGroups, Setting, probe as probe_groups};
pub(crate) use cgroup::{memory_of, sweep_groups};
pub use error::{InitError, SandboxError};
pub(crate) use launch::{Connecting, Starting};
pub use launch::{Finished, Outcome, Runner, Running, Stopped, Stream};
pub use listen::{Listening, listening};
pub use network::NoNetwork;
pub use rootfs::fill_mount_points;
pub use runner::runner_main_if_asked;
pub use spec::{
    Dns, ExtraHost, HostDevice, Input, MountSource, Network, Rootfs, SandboxMount,
    SandboxMountKind, SandboxSpec, Security, Ulimit, Union,
};
