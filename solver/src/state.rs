//! What the machine knows about each vertex and each content digest.

use std::collections::HashMap;
use std::sync::Arc;

use rgraph_ir::op::{InputIndex, Keying, Selector, SourceOp};
use rgraph_ir::{CacheKey, Edge, Graph, Op, TreeDigest, Ttl, Vertex, VertexId};

use crate::event::Timestamp;
use crate::key::{InputKey, KeyRecipe, Slot, fields, op_digest, pin_digest};
use crate::policy::Policy;
use crate::ports::{Origin, Tree};

/// How often one vertex's result may be lost before the build gives up.
pub(crate) const MAX_HEALS: u32 = 3;

/// Where a vertex is. Only `Idle`, `Keyed`, `NeedInputs` and `Following` wait for other vertices;
/// `Pinning`, `Dating`, `Naming`, `Probing`, `Explaining`, `Running`, `Recording` and `Adopting` each wait for
/// exactly one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not asked for, or parts of its key are unknown.
    Idle,
    /// A source is asked what it means.
    Pinning,
    /// The key is known; when its result was made is asked. `ready`: all inputs are done.
    Dating { ready: bool },
    /// The key is known; its canonical key is asked.
    Naming,
    /// The key is known, or it is a live source.
    Keyed,
    /// A cache is asked for the result.
    Probing,
    /// Another vertex works on the same key.
    Following(VertexId),
    /// No cache has it: the inputs' results are needed.
    NeedInputs,
    /// About to run; why is asked.
    Explaining,
    /// At work.
    Running,
    /// The result is being remembered.
    Recording,
    /// It gave an earlier tree; the earlier result is asked.
    Adopting,
    /// It has a result.
    Done,
}

/// Whether a result may be used at its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// It may, or nobody asks.
    Good,
    /// It has outlived this.
    Over(Ttl),
    /// The vertex's own time to live counts, and there is no result to tell the age of. Users may have
    /// results that were made on it at any time.
    Gone,
}

/// One vertex.
pub(crate) struct Node<'g> {
    pub vertex: &'g Vertex,
    pub phase: Phase,
    pub want_key: bool,
    pub want_result: bool,
    /// It, or what it is keyed by, ignores the cache: its key needs the inputs' results.
    pub tainted: bool,
    /// How long its result is good for.
    pub ttl: Option<Ttl>,
    /// The last of its own keys whose result's age was asked for.
    pub dated: Option<CacheKey>,
    /// What came of that.
    pub age: Age,
    /// How many outputs are used.
    pub need_outputs: usize,
    pub slot: Slot,
    pub pin: Option<String>,
    pub live: bool,
    op: Option<[u8; 32]>,
    pub inputs: Vec<InputKey>,
    /// From the latest input keys.
    pub key: Option<CacheKey>,
    /// What users are keyed by.
    pub canonical: Option<CacheKey>,
    /// The last of its own keys that a cache was asked for.
    pub probed: Option<CacheKey>,
    /// The key of the latest probe: its own, or the canonical one.
    pub asked: Option<CacheKey>,
    /// A second probe under the canonical key is due.
    pub alias: Option<CacheKey>,
    pub explained: bool,
    pub outputs: Vec<Tree>,
    pub ran_with: Vec<Tree>,
    /// It ran in this build.
    pub fresh: bool,
    /// It ran although a result may have been known, and gave a tree not seen before: what caches
    /// hold for users of its key is outdated.
    pub rebuilt: bool,
    /// It ran and no cache vouches that its key still stands for the same tree, so remembered content
    /// digests are not believed.
    pub unproven: bool,
    /// Counts the times that what its key stands for may have changed.
    pub epoch: u32,
    pub heals: u32,
    pub followers: Vec<VertexId>,
    pub announced: bool,
    pub shown: bool,
    pub origin: Option<Origin>,
}

impl<'g> Node<'g> {
    pub fn is_source(&self) -> bool {
        matches!(self.vertex.op, Op::Source(_))
    }

    /// Images are not looked up: the worker knows them by pin itself, and giving one again is cheap.
    pub fn probes(&self) -> bool {
        !matches!(self.vertex.op, Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_)))
    }

    /// A source's pin names one tree for ever, so only other vertices can ignore the cache.
    pub fn ignores_cache(&self) -> bool {
        (self.vertex.meta.ignore_cache || self.age != Age::Good) && !self.is_source()
    }

    /// Takes the time of the present key's result; `None`: there is none.
    pub fn judge(&mut self, created: Option<Timestamp>, now: Timestamp) {
        self.dated = self.key;
        self.age = match (created, self.ttl) {
            (Some(created), Some(ttl)) if ttl.is_over(created.age(now)) => Age::Over(ttl),
            (None, _) if self.vertex.meta.ttl.is_some() => Age::Gone,
            _ => Age::Good,
        };
    }

    /// Whether the age of the result is to be asked for before anybody is keyed by it.
    pub fn undated(&self) -> bool {
        self.ttl.is_some() && !self.vertex.meta.ignore_cache && self.dated != self.key
    }

    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// It is past all waiting for other vertices.
    pub fn at_work(&self) -> bool {
        use Phase::*;
        matches!(self.phase, Probing | Explaining | Running | Recording | Adopting)
    }

    pub fn keying(&self, at: usize) -> Keying {
        self.vertex.op.keying(InputIndex(at as u32))
    }

    /// The recipe without `fields`, which the key does not need.
    fn bare_recipe(&mut self) -> KeyRecipe {
        let vertex = self.vertex;
        let pin = self.pin.as_deref();
        let op = *self.op.get_or_insert_with(|| match pin {
            Some(pin) => pin_digest(vertex.op.kind(), pin),
            None => op_digest(&vertex.op, vertex.platform.as_deref()),
        });
        KeyRecipe {
            fields: Vec::new(),
            op,
            pin: self.pin.clone(),
            inputs: std::mem::take(&mut self.inputs),
        }
    }

    /// Digest of what it does and where, whatever it means now.
    pub fn description(&self) -> [u8; 32] {
        match self.op {
            Some(op) if self.pin.is_none() => op,
            _ => op_digest(&self.vertex.op, self.vertex.platform.as_deref()),
        }
    }

    /// Takes new input keys; gives the key.
    pub fn set_inputs(&mut self, inputs: Vec<InputKey>) -> CacheKey {
        self.inputs = inputs;
        let recipe = self.bare_recipe();
        let key = recipe.key();
        self.inputs = recipe.inputs;
        self.key = Some(key);
        key
    }

    /// The recipe of the present key in full.
    pub fn recipe(&mut self) -> Arc<KeyRecipe> {
        let mut recipe = self.bare_recipe();
        self.inputs.clone_from(&recipe.inputs);
        recipe.fields = fields(&self.vertex.op, self.vertex.platform.as_deref());
        Arc::new(recipe)
    }
}

/// Names a content digest within one solve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId(pub(crate) u32);

/// How far a content digest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentState {
    /// Nothing done, or outdated.
    Unasked,
    /// The cache is asked.
    Asking,
    /// The cache does not know: the tree is needed.
    Unknown,
    /// The tree is read.
    Digesting,
    /// Known.
    Known(TreeDigest),
}

/// The digest of a selected part of an edge.
pub(crate) struct Content {
    pub edge: Edge,
    pub selector: Arc<Selector>,
    pub state: ContentState,
    /// [`Node::epoch`] that `state` is about.
    pub epoch: u32,
    /// What is or was read.
    pub tree: Option<Tree>,
    /// The edge's key when reading began, to remember the digest under.
    pub key: Option<CacheKey>,
}

/// The place of each vertex.
pub(crate) fn slots(graph: &Graph, place: &str) -> Vec<Slot> {
    let mut ordinals: HashMap<String, u32> = HashMap::new();
    let slot = |vertex: &Vertex| {
        let platform = vertex.platform.as_ref().map_or_else(String::new, ToString::to_string);
        let stage = vertex.meta.stage.as_deref().unwrap_or("");
        let unit = vertex.meta.unit.as_deref();
        let unit = unit.map_or_else(String::new, |u| format!("+{}:{u}", u.len()));
        // Lengths keep two places apart whatever the names hold.
        let base = format!(
            "{}:{place}{unit}/{platform}/{}:{stage}/{}",
            place.len(),
            stage.len(),
            vertex.op.kind()
        );
        let n = ordinals.entry(base.clone()).or_default();
        *n += 1;
        Slot(format!("{base}#{n}"))
    };
    graph.iter().map(|(_, v)| v).map(slot).collect()
}

/// Fresh nodes for a graph.
pub(crate) fn nodes<'g>(graph: &'g Graph, targets: &[Edge], policy: &Policy) -> Vec<Node<'g>> {
    let mut nodes: Vec<Node<'g>> = Vec::with_capacity(graph.len());
    for ((_, vertex), slot) in graph.iter().zip(slots(graph, &policy.place)) {
        let mut node = Node {
            vertex,
            phase: Phase::Idle,
            want_key: false,
            want_result: false,
            tainted: false,
            // A source's pin names one tree for ever.
            ttl: match vertex.op {
                Op::Source(_) => None,
                _ => vertex.meta.ttl.into_iter().chain(policy.ttl).min(),
            },
            dated: None,
            age: Age::Good,
            need_outputs: 1,
            slot,
            pin: None,
            live: false,
            op: None,
            inputs: Vec::new(),
            key: None,
            canonical: None,
            probed: None,
            asked: None,
            alias: None,
            explained: false,
            outputs: Vec::new(),
            ran_with: Vec::new(),
            fresh: false,
            rebuilt: false,
            unproven: false,
            epoch: 0,
            heals: 0,
            followers: Vec::new(),
            announced: false,
            shown: false,
            origin: None,
        };
        node.tainted = node.ignores_cache()
            || vertex.inputs.iter().enumerate().any(|(i, e)| {
                nodes[e.vertex.at()].tainted && !matches!(node.keying(i), Keying::Ignored)
            });
        nodes.push(node);
        for e in &vertex.inputs {
            let from = &mut nodes[e.vertex.at()];
            from.need_outputs = from.need_outputs.max(e.output as usize + 1);
        }
    }
    for e in targets {
        let n = &mut nodes[e.vertex.at()];
        n.need_outputs = n.need_outputs.max(e.output as usize + 1);
    }
    nodes
}
