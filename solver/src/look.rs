//! What caches hold of a graph, without running anything: for drawings and for the curious.

use std::collections::BTreeMap;

use rgraph_ir::op::{Keying, Selector};
use rgraph_ir::{CacheKey, Graph, Op, TreeDigest, VertexId};

use crate::cancel::CancelToken;
use crate::event::EventSink;
use crate::key::{InputKey, output_key};
use crate::policy::Policy;
use crate::ports::{CacheError, Pin, Ports, Query, Task, TaskCx, TaskError, Tree};
use crate::state::{Node, nodes};

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A source cannot be looked at.
    #[error("{0}")]
    Task(#[from] TaskError),
    /// A cache does not answer.
    #[error("{0}")]
    Cache(#[from] CacheError),
}

/// Of every wanted vertex, sources apart: `true` when a cache has its result. `wanted` holds inputs
/// before their users, as [`rgraph_ir::analysis::reachable`] gives them.
///
/// Folders of the caller are read, images are asked for as a build would. A key that hangs on files
/// of a result that no cache knows cannot be worked out: such a vertex counts as not there, and so do
/// results that are too old and all that is keyed by them.
pub fn look(
    graph: &Graph,
    wanted: &[VertexId],
    ports: &Ports<'_>,
    policy: &Policy,
    cancel: &CancelToken,
    sink: &dyn EventSink,
) -> Result<BTreeMap<VertexId, bool>, LookError> {
    let mut nodes = nodes(graph, &[], policy);
    let mut held = BTreeMap::new();
    for &id in wanted {
        let cx = TaskCx { vertex: id, cancel, sink, clock: ports.clock };
        cx.check()?;
        if nodes[id.at()].is_source() {
            source(&mut nodes[id.at()], ports, &cx)?;
            continue;
        }
        // Below, something may have been found too old.
        let node = &nodes[id.at()];
        let mut inputs = node.vertex.inputs.iter().enumerate();
        let tainted = inputs.any(|(i, e)| {
            nodes[e.vertex.at()].tainted && !matches!(node.keying(i), Keying::Ignored)
        });
        nodes[id.at()].tainted |= tainted;
        let hit = match input_keys(&nodes, id, ports, &cx)? {
            Some(inputs) => step(&mut nodes[id.at()], inputs, ports, &cx)?,
            None => false,
        };
        held.insert(id, hit);
    }
    Ok(held)
}

/// Pins a source; a live one is opened.
fn source(node: &mut Node<'_>, ports: &Ports<'_>, cx: &TaskCx<'_>) -> Result<(), LookError> {
    let vertex = node.vertex;
    let Op::Source(op) = &vertex.op else { return Ok(()) };
    match ports.worker.pin(op, vertex.platform.as_deref(), cx)? {
        Pin::Fixed(pin) => {
            node.pin = Some(pin);
            let key = node.set_inputs(Vec::new());
            node.canonical = Some(ports.cache.canonical(key));
        }
        Pin::Live => {
            node.live = true;
            let key = CacheKey::from_bytes([0; 32]);
            let (op, platform) = (&vertex.op, vertex.platform.as_deref());
            let task =
                Task { vertex: cx.vertex, op, platform, meta: &vertex.meta, inputs: &[], key };
            node.outputs = ports.worker.run(&task, cx)?;
        }
    }
    Ok(())
}

/// Asks for the result of a vertex whose inputs' keys are known.
fn step(
    node: &mut Node<'_>,
    inputs: Vec<InputKey>,
    ports: &Ports<'_>,
    cx: &TaskCx<'_>,
) -> Result<bool, LookError> {
    let key = node.set_inputs(inputs);
    let canonical = ports.cache.canonical(key);
    node.canonical = Some(canonical);
    let recipe = node.recipe();
    if node.undated() {
        let query = Query { vertex: cx.vertex, key, recipe: &recipe };
        node.judge(ports.cache.created(&query)?, ports.clock.now());
        node.tainted |= node.ignores_cache();
    }
    if node.tainted {
        return Ok(false);
    }
    for key in [Some(key), Some(canonical).filter(|k| *k != key)].into_iter().flatten() {
        let query = Query { vertex: cx.vertex, key, recipe: &recipe };
        if ports.cache.lookup(&query)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `None`: one of them cannot be known without running something.
fn input_keys(
    nodes: &[Node<'_>],
    id: VertexId,
    ports: &Ports<'_>,
    cx: &TaskCx<'_>,
) -> Result<Option<Vec<InputKey>>, LookError> {
    let node = &nodes[id.at()];
    let mut keys = Vec::with_capacity(node.vertex.inputs.len());
    for (i, e) in node.vertex.inputs.iter().enumerate() {
        let from = &nodes[e.vertex.at()];
        let own = from.canonical.map(|k| output_key(k, e.output));
        let key = match node.keying(i) {
            Keying::Ignored => Some(InputKey::Ignored),
            Keying::Chain if !from.live => own.map(InputKey::Chain),
            Keying::Chain => content(from, own, Selector::all(), ports, cx)?,
            Keying::Content(selector) => content(from, own, selector, ports, cx)?,
        };
        let Some(key) = key else { return Ok(None) };
        keys.push(key);
    }
    Ok(Some(keys))
}

fn content(
    from: &Node<'_>,
    key: Option<CacheKey>,
    selector: Selector,
    ports: &Ports<'_>,
    cx: &TaskCx<'_>,
) -> Result<Option<InputKey>, LookError> {
    let live = from.outputs.first().copied().filter(|t| matches!(t, Tree::Context(_)));
    let digest: Option<TreeDigest> = match (live, key) {
        (Some(tree), _) => Some(ports.worker.digest(tree, &selector, cx)?),
        (None, Some(key)) => ports.cache.content(key, &selector)?,
        (None, None) => None,
    };
    Ok(digest.map(|d| InputKey::Content(selector, d)))
}
