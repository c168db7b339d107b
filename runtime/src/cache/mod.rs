//! Results by key: the local store, caches shared between machines (folders, registries, images),
//! and the order they are asked in.

pub mod artifact;
pub mod bundle;
pub mod combined;
pub mod dir;
pub mod entry;
pub mod export;
pub mod files;
pub mod flight;
pub mod hints;
pub mod import;
pub mod inline;
pub mod local;
pub mod remote;
pub mod sign;
pub mod stat;
pub(crate) mod wire;
