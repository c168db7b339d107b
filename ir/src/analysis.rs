//! Questions about a graph as a whole. petgraph stays inside this file.

use petgraph::Direction;
use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, EdgeRef, Reversed};

use crate::graph::{Graph, VertexId};
use crate::op::{InputIndex, Keying, Op, SourceOp};
use crate::plan::BuildPlan;

/// Edges go from an input to its user and carry the input's position.
fn digraph(graph: &Graph) -> DiGraph<VertexId, InputIndex, u32> {
    let mut g = DiGraph::with_capacity(graph.len(), graph.len());
    for (id, _) in graph.iter() {
        g.add_node(id);
    }
    for (id, v) in graph.iter() {
        for (i, e) in v.inputs.iter().enumerate() {
            g.add_edge(node(e.vertex), node(id), InputIndex(i as u32));
        }
    }
    g
}

fn node(id: VertexId) -> NodeIndex<u32> {
    NodeIndex::new(id.at())
}

/// The vertices that some target needs, inputs first.
pub fn reachable(plan: &BuildPlan) -> Vec<VertexId> {
    let g = digraph(&plan.graph);
    let up = Reversed(&g);
    let mut dfs = Dfs::empty(up);
    for root in plan.targets.iter().filter_map(|t| t.root) {
        dfs.stack.push(node(root.vertex));
    }
    let mut out = Vec::new();
    while let Some(n) = dfs.next(up) {
        out.push(g[n]);
    }
    // Ids are a topological order (see the graph's invariants).
    out.sort_unstable();
    out
}

/// For every vertex, how many layers this plan adds up to and with it, along the file systems that
/// ops change: a source has 0, a step or copy one more than what it stands on, a merge the sum of
/// its parts.
pub fn layer_depth(graph: &Graph) -> Vec<u32> {
    let mut depth: Vec<u32> = Vec::with_capacity(graph.len());
    for (_, v) in graph.iter() {
        let below = |i: InputIndex| v.inputs.get(i.at()).map_or(0, |e| depth[e.vertex.at()]);
        let d = match &v.op {
            Op::Source(_) => 0,
            Op::Exec(_) | Op::File(_) => {
                let base = (0..v.inputs.len() as u32)
                    .map(InputIndex)
                    .find(|i| v.op.keying(*i) == Keying::Chain);
                base.map_or(0, below) + 1
            }
            Op::Merge(_) => (0..v.inputs.len() as u32)
                .map(|i| below(InputIndex(i)))
                .fold(0, u32::saturating_add),
            Op::Diff(_) => below(InputIndex(1)).saturating_sub(below(InputIndex(0))),
        };
        depth.push(d);
    }
    depth
}

/// A layer that a vertex makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MadeLayer {
    /// Who makes it.
    pub vertex: VertexId,
    /// The target's position in the plan.
    pub target: usize,
    /// The layer's number in the image, from 1, the base's layers counted first.
    pub number: usize,
}

/// All layers that vertices make, by vertex.
pub fn layers(plan: &BuildPlan) -> Vec<MadeLayer> {
    let mut out = Vec::new();
    for (target, t) in plan.targets.iter().enumerate() {
        let made = t.history.iter().filter_map(|h| h.layer);
        out.extend(made.enumerate().map(|(n, edge)| MadeLayer {
            vertex: edge.vertex,
            target,
            number: t.base.layers + n + 1,
        }));
    }
    out.sort();
    out
}

/// The chain of vertices, inputs first, that no number of workers can shorten: the one with the
/// greatest sum of `weight` among those that end in a target. Of equal ones, the one with the
/// smaller ids.
pub fn critical_path(plan: &BuildPlan, weight: impl Fn(VertexId) -> u64) -> Vec<VertexId> {
    let g = digraph(&plan.graph);
    let Ok(order) = toposort(&g, None) else {
        return Vec::new(); // not a DAG: cannot be built, see the graph's invariants
    };
    let mut cost = vec![0u64; plan.graph.len()];
    let mut from: Vec<Option<VertexId>> = vec![None; plan.graph.len()];
    for n in order {
        let best = g
            .edges_directed(n, Direction::Incoming)
            .map(|e| g[e.source()])
            .max_by_key(|id| (cost[id.at()], std::cmp::Reverse(*id)));
        let id = g[n];
        from[id.at()] = best;
        cost[id.at()] = best.map_or(0, |b| cost[b.at()]).saturating_add(weight(id));
    }
    let ends = plan.targets.iter().filter_map(|t| t.root).map(|e| e.vertex);
    let end = ends.max_by_key(|id| (cost[id.at()], std::cmp::Reverse(*id)));
    let mut path: Vec<_> = std::iter::successors(end, |id| from[id.at()]).collect();
    path.reverse();
    path
}

/// The folders of the caller that some target reads.
pub fn local_sources(plan: &BuildPlan) -> Vec<&str> {
    let mut names: Vec<&str> = reachable(plan)
        .into_iter()
        .filter_map(|id| match &plan.graph.vertex(id).op {
            Op::Source(SourceOp::Local(l)) => Some(l.name.as_str()),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Kit, ids};

    #[test]
    fn knows_what_is_needed_and_how_deep() {
        let kit = Kit::two_stages();
        let plan = &kit.plan;
        // image, context, go build, other (not needed), copy out, final run
        assert_eq!(ids(&reachable(plan)), [0, 1, 2, 3, 5, 6]);
        assert_eq!(layer_depth(&plan.graph), [0, 0, 1, 2, 3, 1, 2]);
        let layers = layers(plan);
        let made = |vertex, number| MadeLayer { vertex: VertexId(vertex), target: 0, number };
        assert!(layers.contains(&made(5, 4)) && layers.contains(&made(6, 5)));
        assert!(layers.is_sorted());
        assert_eq!(local_sources(plan), ["context"]);
    }

    #[test]
    fn critical_path_follows_the_weights() {
        let kit = Kit::two_stages();
        let equal = critical_path(&kit.plan, |_| 1);
        assert_eq!(ids(&equal), [0, 2, 3, 5, 6]);
        let context_is_slow = critical_path(&kit.plan, |id| if id.0 == 1 { 100 } else { 1 });
        assert_eq!(ids(&context_is_slow), [1, 2, 3, 5, 6]);
        // The slow vertex that no target needs is not on it.
        let unneeded = critical_path(&kit.plan, |id| if id.0 == 4 { 100 } else { 1 });
        assert_eq!(ids(&unneeded), [0, 2, 3, 5, 6]);
        assert!(critical_path(&BuildPlan::default(), |_| 1).is_empty());
    }
}
