//! What was asked for: a graph and the images to make of it.

use std::borrow::Cow;

use crate::graph::{Edge, Graph, GraphBuilder};
use crate::image_config::{BaseHistory, ImageConfig};
use crate::platform::Platform;
use crate::span::Span;

/// A graph and its targets.
#[derive(Debug, Clone, Default)]
pub struct BuildPlan {
    /// All vertices of all targets.
    pub graph: Graph,
    /// What to make, one per target and platform.
    pub targets: Vec<Target>,
}

impl BuildPlan {
    /// Several plans as one: equal vertices are one vertex, targets stand in the order of the plans.
    pub fn join<'a>(plans: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut graph, mut targets) = (GraphBuilder::new(), Vec::new());
        for plan in plans {
            graph.reserve(plan.graph.len());
            let mut at = Vec::with_capacity(plan.graph.len());
            for (_, v) in plan.graph.iter() {
                let moved = |e: &Edge| Edge { vertex: at[e.vertex.at()], output: e.output };
                let inputs = v.inputs.iter().map(moved).collect();
                at.push(graph.add(v.op.clone(), inputs, v.platform.clone(), v.meta.clone()));
            }
            let moved = |e: Edge| Edge { vertex: at[e.vertex.at()], output: e.output };
            targets.extend(plan.targets.iter().cloned().map(|mut t| {
                t.root = t.root.map(moved);
                for h in &mut t.history {
                    h.layer = h.layer.map(moved);
                }
                t
            }));
        }
        Self { graph: graph.finish(), targets }
    }
}

/// One image to make.
#[derive(Debug, Clone)]
pub struct Target {
    /// The stage's name, or its number as text.
    pub stage: String,
    /// What it runs on.
    pub platform: Platform,
    /// Its root file system; `None`: empty.
    pub root: Option<Edge>,
    /// Its settings.
    pub config: ImageConfig,
    /// Everything above the base, oldest first.
    pub history: Vec<HistoryEntry>,
    /// The base's own history and layer count; layers of the result are these and one per
    /// non-empty entry of `history`.
    pub base: TargetBase,
}

/// What the target stands on.
#[derive(Debug, Clone, Default)]
pub struct TargetBase {
    /// `None`: scratch.
    pub reference: Option<String>,
    /// Layers of the base image.
    pub layers: usize,
    /// History of the base image, oldest first.
    pub history: Vec<BaseHistory>,
    /// The `FROM` line.
    pub span: Option<Span>,
}

/// One line of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// As BuildKit writes it: `RUN /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// `buildkit.dockerfile.v0`.
    pub comment: Cow<'static, str>,
    /// `MAINTAINER` in force.
    pub author: Option<String>,
    /// The vertex whose layer this is; `None`: it made none.
    pub layer: Option<Edge>,
    /// The instruction.
    pub span: Option<Span>,
}

impl Target {
    /// Layers the image will have, base included.
    pub fn layer_count(&self) -> usize {
        self.base.layers + self.history.iter().filter(|h| h.layer.is_some()).count()
    }
}
