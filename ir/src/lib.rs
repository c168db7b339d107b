//! The nouns of rgraph: digests, spans, platforms, ops, the graph, the build plan.
//!
//! Everything here is a value. No file, socket, clock, environment or thread is touched, and no
//! type of this crate is a storage format: on-disk and wire structs live beside their readers.
//!
//! Reading order: [`digest`] and [`span`] (names for things), [`op`] (what to do), [`graph`] (what
//! depends on what), [`plan`] (what was asked for).

pub mod annotation;
pub mod attest;
pub mod cdi;
pub mod digest;
pub mod fields;

pub mod diag;
pub mod limits;
pub mod near;
pub mod pattern;
pub mod platform;
pub mod span;

pub mod env;
pub mod op;

pub mod graph;
pub mod meta;
pub mod ttl;

pub mod image_config;
pub mod plan;
pub mod reference;
pub mod request;

pub mod analysis;
pub mod render;
pub mod verify;

#[cfg(test)]
mod testkit;

pub use diag::{Diagnostic, Label, Severity};
pub use digest::{
    BlobDigest, CacheKey, ChainId, ConfigDigest, DiffId, DigestError, ManifestDigest, SnapshotId,
    TreeDigest,
};
pub use env::Env;
pub use graph::{Edge, Graph, GraphBuilder, Vertex, VertexId};
pub use meta::VertexMeta;
pub use op::{InputIndex, Op};
pub use plan::{BuildPlan, HistoryEntry, Target};
pub use platform::Platform;
pub use reference::Reference;
pub use span::{FileId, SourceFile, SourceMap, Span};
pub use ttl::Ttl;
