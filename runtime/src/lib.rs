//! The world: runs ops in sandboxes, keeps results in the store, fetches sources, writes outputs.
//!
//! Reading order: [`local_backend`] (a whole build), [`worker`] (one vertex), [`ops`], [`snapshot`]
//! and [`tree`] (file system states), [`sandbox`] (a process), [`context`] (the caller's folders),
//! [`fetch`] (sources), [`cache`] (results by key), [`builds`] (what was built), [`attest`] (what is
//! said of a result), [`export`] (outputs),
//! [`container`] (what runs on).

mod beside;
pub mod local_backend;
pub mod logs;

pub mod worker;

pub mod ops;

pub mod snapshot;
pub mod tree;

pub mod context;
pub mod sandbox;
pub mod ssh;

pub mod fetch;

pub mod attest;
pub mod builds;
pub mod cache;
pub mod container;
pub mod export;
pub mod images;
pub mod import;
pub mod volumes;

pub mod host;
mod random;

pub use local_backend::{LocalBackend, SystemClock};
pub use random::random;
pub use worker::report;
