//! What rgraph asks of the Linux kernel, as thin safe functions.
//!
//! The only crate with `unsafe`: every block says why it is sound. Nothing here knows builds,
//! images or Dockerfiles; types of `rustix`, `nix` and `libc` stay inside.

#![allow(unsafe_code)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod mount;
