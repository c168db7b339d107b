//! A plan as text for other programs: Graphviz, Mermaid, JSON. Only what some target needs appears,
//! in a stable order, so that two outputs can be compared line by line.

pub mod dot;
pub mod json;
pub mod mermaid;

mod view;

use std::collections::BTreeMap;

use crate::graph::VertexId;

pub use dot::dot;
pub use json::{Json, json};
pub use mermaid::mermaid;

/// Choices for drawings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style {
    /// Stands above the drawing.
    pub title: Option<String>,
    /// What a cache said of a vertex: `true`, it has it. Vertices that are not in here show nothing.
    pub cached: BTreeMap<VertexId, bool>,
    /// Stages side by side instead of one below the other.
    pub left_to_right: bool,
    /// Longest text of one box, in characters; longer ones are cut.
    pub max_text: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self { title: None, cached: BTreeMap::new(), left_to_right: false, max_text: 160 }
    }
}
