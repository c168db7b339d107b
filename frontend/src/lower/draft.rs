//! The graph while it is made. Which paths of a folder are read is known only at the end, so vertices
//! name folders by [`Ref::Local`] until [`Draft::finish`] puts everything the target reaches into the
//! final graph.

use std::collections::BTreeSet;
use std::sync::Arc;

use rgraph_ir::graph::GraphBuilder;
use rgraph_ir::op::{LocalSource, Op, SourceOp};
use rgraph_ir::{Edge, Platform, VertexId, VertexMeta};

/// The main result of a vertex that is not in the final graph yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ref {
    Vertex(u32),
    Local(u32),
}

/// A folder of the caller.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub name: String,
    /// Which set of paths is read.
    pub paths: usize,
    pub exclude: Vec<String>,
    pub hint: String,
    pub display: String,
}

#[derive(Debug)]
struct Vertex {
    op: Op,
    inputs: Vec<Ref>,
    platform: Option<Arc<Platform>>,
    meta: VertexMeta,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Draft {
    vertices: Vec<Vertex>,
    locals: Vec<Local>,
    /// What is read of folders, by set.
    pub paths: Vec<Paths>,
}

/// What is read of a folder.
#[derive(Debug)]
pub(super) enum Paths {
    All,
    /// Absolute cleaned paths; none of them: all.
    Some(BTreeSet<String>),
}

impl Paths {
    pub fn add_all(&mut self) {
        *self = Self::All;
    }

    pub fn add(&mut self, path: impl FnOnce() -> String) {
        let Self::Some(paths) = self else { return };
        let path = path();
        if path == "/" {
            self.add_all();
        } else {
            paths.insert(path);
        }
    }

    /// Relative and sorted; `None` when the whole folder is read.
    fn follow(&self) -> Option<Vec<String>> {
        let Self::Some(paths) = self else { return None };
        let mut list: Vec<String> =
            paths.iter().map(|p| p.trim_start_matches('/').to_owned()).collect();
        list.sort();
        Some(list).filter(|l| !l.is_empty())
    }
}

impl Draft {
    pub fn add(
        &mut self,
        op: Op,
        inputs: Vec<Ref>,
        platform: Option<Arc<Platform>>,
        meta: VertexMeta,
    ) -> Ref {
        self.vertices.push(Vertex { op, inputs, platform, meta });
        Ref::Vertex(self.vertices.len() as u32 - 1)
    }

    /// Makes room for `n` more vertices.
    pub fn reserve(&mut self, n: usize) {
        self.vertices.reserve(n);
    }

    pub fn local(&mut self, local: Local) -> Ref {
        self.locals.push(local);
        Ref::Local(self.locals.len() as u32 - 1)
    }

    pub fn path_set(&mut self) -> usize {
        self.paths.push(Paths::Some(BTreeSet::new()));
        self.paths.len() - 1
    }

    /// Adds what `roots` reach, inputs first, and says where each went.
    pub fn finish(self, roots: &[Ref], graph: &mut GraphBuilder) -> Placed {
        let mut wanted = vec![false; self.vertices.len()];
        let mut wanted_local = vec![false; self.locals.len()];
        let mut mark = |r: &Ref, wanted: &mut Vec<bool>| match r {
            Ref::Vertex(i) => wanted[*i as usize] = true,
            Ref::Local(i) => wanted_local[*i as usize] = true,
        };
        roots.iter().for_each(|r| mark(r, &mut wanted));
        // Inputs come before their users, so one pass from the end reaches everything.
        for i in (0..self.vertices.len()).rev() {
            if wanted[i] {
                self.vertices[i].inputs.iter().for_each(|r| mark(r, &mut wanted));
            }
        }
        graph.reserve(wanted.iter().filter(|w| **w).count());
        let mut at = Placed {
            vertices: vec![None; self.vertices.len()],
            locals: vec![None; self.locals.len()],
        };
        for (i, local) in self.locals.into_iter().enumerate() {
            if !wanted_local[i] {
                continue;
            }
            let op = Op::Source(SourceOp::Local(Box::new(LocalSource {
                follow_paths: self.paths[local.paths].follow(),
                name: local.name,
                include: Vec::new(),
                exclude: local.exclude,
                shared_key_hint: Some(local.hint),
            })));
            let meta = VertexMeta { name: local.display, ..VertexMeta::default() };
            at.locals[i] = Some(graph.add(op, Vec::new(), None, meta));
        }
        for (i, v) in self.vertices.into_iter().enumerate() {
            if !wanted[i] {
                continue;
            }
            let inputs = v.inputs.into_iter().filter_map(|r| at.edge(r)).collect();
            at.vertices[i] = Some(graph.add(v.op, inputs, v.platform, v.meta));
        }
        at
    }
}

/// Where drafted vertices went.
pub(super) struct Placed {
    vertices: Vec<Option<VertexId>>,
    locals: Vec<Option<VertexId>>,
}

impl Placed {
    /// The edge in the final graph; there is one for everything below a root.
    pub fn edge(&self, r: Ref) -> Option<Edge> {
        let id = match r {
            Ref::Vertex(i) => self.vertices[i as usize],
            Ref::Local(i) => self.locals[i as usize],
        };
        id.map(Edge::main)
    }
}

/// Collects the inputs of one vertex; equal edges are one input.
#[derive(Debug, Default)]
pub(super) struct Inputs(pub Vec<Ref>);

impl Inputs {
    pub fn index(&mut self, r: Ref) -> rgraph_ir::InputIndex {
        let at = self.0.iter().position(|x| *x == r).unwrap_or_else(|| {
            self.0.push(r);
            self.0.len() - 1
        });
        rgraph_ir::InputIndex(at as u32)
    }
}
