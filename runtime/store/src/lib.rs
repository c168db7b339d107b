//! The store: content-addressed blobs, snapshots and the index over them, below one state root.
//!
//! It knows bytes, not builds: keys, recipes and platforms are opaque here. Several processes use
//! one store at once and none of them is a daemon.
//!
//! Invariants:
//! - Objects are immutable. A name appears by `rename` of something complete, then its row.
//! - No step syncs. [`Store::make_durable`] and [`Store::tag`] are the only places that do.
//! - A row of the running boot is trusted; one of another boot that was never made durable is
//!   checked at its first use, and what fails is a miss, never an error.
//! - Lock order: the connection's mutex, the gc lock (shared), a write transaction. Whoever makes
//!   an object holds the gc lock from the rename to the row, so that gc, which holds it
//!   exclusively, sees no half of either.
//! - Nothing is removed that a live [`Lease`] made or looked up.
//!
//! Reading order: [`layout`] (what lies where), [`store`] (opening), [`blob`], [`download`], `outgoing`, [`snapshot`], [`layer`],
//! [`result`], [`image`], [`mounts`], [`lease`], [`durable`], [`gc`], [`usage`], [`check`].

pub mod error;
pub mod layout;
pub mod lock;

mod index;
mod rebuild;
mod record;
mod tree;

pub mod blob;
pub mod check;
pub mod download;
pub mod durable;
pub mod entry;
pub mod filter;
pub mod first;
pub mod gc;
pub mod image;
pub mod layer;
pub mod lease;
pub mod mounts;
mod outgoing;
pub mod result;
pub mod snapshot;
pub mod stat;
pub mod store;
pub mod usage;

pub use blob::{BlobInfo, BlobWriter, Expect, VerifyReader};
pub use check::{CheckReport, Finding, Kind as FindingKind};
pub use download::{Incoming, Part};
pub use entry::{Entry, Kind};
pub use error::{Result, StoreError};
pub use filter::{Filter, FilterError};
pub use gc::{Amount, Disk, Limits, Policy, Report, Rule};
pub use image::{ImageRef, ImageRow, TagRow};
pub use layer::{BlobRef, LayerInfo};
pub use lease::Lease;
pub use lock::{KeyLock, StepLock, Wait};
pub use result::ResultRow;
pub use snapshot::{NewSnapshot, Prepared, SnapshotRecord};
pub use stat::StatKey;
pub use store::{OpenOptions, Store};
pub use usage::{DiskUsage, Share};
