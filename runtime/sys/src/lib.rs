//! What rgraph asks of the Linux kernel, as thin safe functions.
//!
//! The only crate with `unsafe`: every block says why it is sound. Nothing here knows builds,
//! images or Dockerfiles; types of `rustix`, `nix` and `libc` stay inside.

#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod caps;
pub mod channel;
pub mod datagram;
pub mod file;
pub mod init;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod ns;
pub mod other;
pub mod seccomp;
pub mod spawn;
pub mod terminal;
pub mod tree;
pub mod userns;
pub mod wait;
