//! Results by key: the local store, folders shared between machines, and the order they are asked
//! in.

pub mod combined;
pub mod dir;
pub mod export;
pub mod flight;
pub mod local;
pub mod stat;
pub(crate) mod wire;
