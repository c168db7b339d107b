//! How a solve ends.

use std::collections::BTreeMap;

use rgraph_ir::{CacheKey, Edge, VertexId};

use crate::ports::{TaskError, Tree};

/// Every target's result.
#[derive(Debug, Clone, Default)]
pub struct Solution {
    /// Trees of the edges that were asked for.
    pub trees: BTreeMap<Edge, Tree>,
    /// Keys of every vertex that has one.
    pub keys: BTreeMap<VertexId, CacheKey>,
    /// How many vertices a cache answered.
    pub cached: usize,
    /// How many ran.
    pub ran: usize,
}

/// The first failure; what was running beside it has been stopped.
#[derive(Debug)]
pub struct SolveError {
    /// The vertex that failed; `None` when the build was cancelled from outside.
    pub vertex: Option<VertexId>,
    /// Why.
    pub cause: TaskError,
}

impl std::fmt::Display for SolveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.vertex {
            Some(v) => write!(f, "vertex {} failed", v.0),
            None => f.write_str("canceled"),
        }
    }
}

impl std::error::Error for SolveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
