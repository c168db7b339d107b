//! The graph: ops and what they depend on.
//!
//! Invariants, kept by construction: an input exists before its user, so ids are a topological
//! order and no cycle can be written; two equal definitions are one vertex; nothing is removed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::meta::VertexMeta;
use crate::op::Op;
use crate::platform::Platform;

/// A vertex of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(pub u32);

impl VertexId {
    /// As an index.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// One output of a vertex, as the input of another. Output 0 is the main result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Who makes it.
    pub vertex: VertexId,
    /// Which of its outputs.
    pub output: u32,
}

impl Edge {
    /// The main result of `vertex`.
    pub fn main(vertex: VertexId) -> Self {
        Self { vertex, output: 0 }
    }
}

/// An op with its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// What to do.
    pub op: Op,
    /// On what; ops name these by position.
    pub inputs: Vec<Edge>,
    /// For which platform; `None` where the result is the same on all (files, folders, URLs).
    pub platform: Option<Arc<Platform>>,
    /// For people.
    pub meta: VertexMeta,
}

/// A finished graph.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    vertices: Vec<Vertex>,
}

impl Graph {
    /// The vertex of an id this graph gave.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        &self.vertices[id.at()]
    }

    /// All vertices in topological order, inputs first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (VertexId, &Vertex)> {
        self.vertices.iter().enumerate().map(|(i, v)| (VertexId(i as u32), v))
    }

    /// How many vertices.
    pub fn len(&self) -> usize {
        self.vertices.len()
    }

    /// True without vertices.
    pub fn is_empty(&self) -> bool {
        self.vertices.is_empty()
    }

    /// Changes what vertices carry for people: names and places enter no key.
    pub fn rename(&mut self, change: impl Fn(&mut VertexMeta)) {
        self.vertices.iter_mut().for_each(|v| change(&mut v.meta));
    }

    /// For every vertex, who uses it (each user once), by position.
    pub fn users(&self) -> Vec<Vec<VertexId>> {
        let mut users: Vec<Vec<VertexId>> = vec![Vec::new(); self.vertices.len()];
        for (id, v) in self.iter() {
            for e in &v.inputs {
                let list = &mut users[e.vertex.at()];
                if list.last() != Some(&id) {
                    list.push(id);
                }
            }
        }
        users
    }
}

/// Builds a graph from the bottom up.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: Graph,
    /// Vertices by the hash of their definition, or by the next free number above it. The hash has a
    /// key of its own in each process.
    known: HashMap<u64, VertexId, RandomState>,
    hasher: RandomState,
}

impl GraphBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for `n` more vertices.
    pub fn reserve(&mut self, n: usize) {
        self.graph.vertices.reserve(n);
        self.known.reserve(n);
    }

    /// Adds a vertex, or gives the one with an equal definition: op, inputs and platform. A merged
    /// vertex keeps the first one's name and place; it ignores the cache when any of them does, and has the
    /// shortest time to live.
    ///
    /// # Panics
    /// When an input was not made by this builder: a defect of the caller.
    pub fn add(
        &mut self,
        op: Op,
        inputs: Vec<Edge>,
        platform: Option<Arc<Platform>>,
        meta: VertexMeta,
    ) -> VertexId {
        let next = VertexId(self.graph.vertices.len() as u32);
        assert!(inputs.iter().all(|e| e.vertex < next), "an input of another graph");
        let mut slot = self.hasher.hash_one((&op, &inputs, &platform));
        loop {
            let id = match self.known.entry(slot) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(free) => {
                    free.insert(next);
                    self.graph.vertices.push(Vertex { op, inputs, platform, meta });
                    return next;
                }
            };
            let old = &mut self.graph.vertices[id.at()];
            if old.inputs == inputs && old.op == op && old.platform == platform {
                merge(&mut old.meta, meta);
                return id;
            }
            slot = slot.wrapping_add(1);
        }
    }

    /// The vertex of an id this builder gave.
    pub fn vertex(&self, id: VertexId) -> &Vertex {
        self.graph.vertex(id)
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }
}

fn merge(old: &mut VertexMeta, new: VertexMeta) {
    old.ignore_cache |= new.ignore_cache;
    old.ttl = old.ttl.into_iter().chain(new.ttl).min();
    old.span = old.span.or(new.span);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ttl;
    use crate::op::{ImageSource, ResolveMode, SourceOp};

    fn image(name: &str) -> Op {
        let reference = name.to_owned();
        Op::Source(SourceOp::Image(ImageSource { reference, resolve: ResolveMode::Default }))
    }

    #[test]
    fn equal_definitions_are_one_vertex() {
        let mut g = GraphBuilder::new();
        let meta = VertexMeta::default;
        let a = g.add(image("a"), vec![], None, meta());
        let (short, long) = (Some(Ttl::seconds(1)), Some(Ttl::seconds(2)));
        let strict = VertexMeta { ignore_cache: true, ttl: long, ..meta() };
        let a2 = g.add(image("a"), vec![], None, strict);
        g.add(image("a"), vec![], None, VertexMeta { ttl: short, ..meta() });
        let b = g.add(image("b"), vec![], None, meta());
        let p = g.add(image("a"), vec![], Some(Arc::new(Platform::linux_amd64())), meta());
        assert_eq!(a, a2);
        assert!(g.vertex(a).meta.ignore_cache);
        assert_eq!(g.vertex(a).meta.ttl, short);
        assert_ne!(a, b);
        assert_ne!(a, p);
        let m = Op::Merge(crate::op::MergeOp {});
        let ab = g.add(m.clone(), vec![Edge::main(a), Edge::main(b)], None, meta());
        let ba = g.add(m, vec![Edge::main(b), Edge::main(a)], None, meta());
        assert_ne!(ab, ba);
        let g = g.finish();
        assert_eq!(g.users()[a.at()], [ab, ba]);
        assert!(g.iter().all(|(id, v)| v.inputs.iter().all(|e| e.vertex < id)));
    }
}
