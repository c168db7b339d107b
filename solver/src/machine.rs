//! The solver: a pure state machine over the graph. It owns no thread, clock or file; [`crate::drive`]
//! carries out its actions and brings the answers back, [`crate::fake`] does so in random order.
//!
//! Flow of a vertex: key (from the inputs' canonical keys and content digests, without results
//! where the cache remembers enough) → canonical key → probe → on a miss the inputs' results → key
//! again, and one more probe if it changed (early cutoff) → run → record.
//!
//! Invariants:
//! 1. Every action but [`Action::Emit`] and [`Action::StopTasks`] gets exactly one answer;
//!    `outstanding` counts them. Nothing outstanding and not over is an internal error, not a hang.
//! 2. A vertex runs only when all its inputs are `Done`, and not while another one of its key works.
//! 3. `Following` edges and input edges together never form a cycle: checked when one is made,
//!    against all inputs, whether done or not, because a done one can be lost. Who is at work waits
//!    for nobody and may always be followed; its followers are sent on when it goes back to waiting.
//! 4. What a vertex waits for is worked out anew from the nodes' states at each wake-up
//!    (`advance`), so a wake-up too many does no harm. Whoever changes a key, a content digest or a
//!    result wakes the users.
//! 5. A digest that a cache remembers is believed only while the key is known to stand for the same
//!    tree (`Node::unproven`, `Node::epoch`).
//! 6. A vertex that ignores the cache runs once a build; whoever is keyed by it waits for that
//!    (`Node::tainted`), and is probed only if its key can be trusted (`Node::rebuilt`). One whose
//!    result has outlived its time is such a vertex, which is found out before it is named.
//! 7. After the first failure nothing is started; what finishes is still recorded.
//!
//! Longer than other files because these rules hold for one state and are read together.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rgraph_ir::op::{Keying, Selector};
use rgraph_ir::{CacheKey, Edge, Graph, SnapshotId, TreeDigest, Ttl, VertexId};

use crate::event::{Event, EventKind, Step, Timestamp};
use crate::explain::{MissReason, PastStep};
use crate::key::{InputKey, KeyRecipe, Slot, output_key};
use crate::outcome::{Solution, SolveError};
use crate::policy::Policy;
use crate::ports::{CacheError, Hit, Origin, Pin, TaskError, Tree};
pub use crate::state::ContentId;
use crate::state::{Age, Content, ContentState, MAX_HEALS, Node, Phase, nodes};

/// What the machine wants done. Each but the last two is answered by the [`Input`] beside it.
#[derive(Debug)]
#[allow(missing_docs)] // fields are those of the port that is called
pub enum Action {
    /// [`crate::Worker::pin`]; [`Input::Pinned`].
    Pin { vertex: VertexId },
    /// [`crate::ResultCache::created`]; [`Input::Created`].
    Created { vertex: VertexId, key: CacheKey, recipe: Arc<KeyRecipe> },
    /// [`crate::ResultCache::canonical`]; [`Input::Canonical`].
    Canonical { vertex: VertexId, key: CacheKey },
    /// [`crate::ResultCache::content`]; [`Input::KnownContent`].
    KnownContent { content: ContentId, key: CacheKey, selector: Arc<Selector> },
    /// [`crate::ResultCache::lookup`]; [`Input::Probed`].
    Probe { vertex: VertexId, key: CacheKey, recipe: Arc<KeyRecipe> },
    /// [`crate::Worker::digest`]; [`Input::Digested`].
    Digest { content: ContentId, vertex: VertexId, tree: Tree, selector: Arc<Selector> },
    /// [`crate::ResultCache::record_content`]; [`Input::ContentRecorded`].
    RecordContent { content: ContentId, key: CacheKey, selector: Arc<Selector>, digest: TreeDigest },
    /// [`crate::explain::Explainer::explain`]; [`Input::Explained`].
    Explain {
        vertex: VertexId,
        recipe: Arc<KeyRecipe>,
        inputs: Vec<(Tree, Option<String>)>,
        expired: Option<Ttl>,
    },
    /// [`crate::Worker::run`]; [`Input::Ran`]. `key` is `None` for a live source.
    Run { vertex: VertexId, key: Option<CacheKey>, inputs: Vec<Tree> },
    /// [`crate::ResultCache::record`]; [`Input::Recorded`].
    Record {
        vertex: VertexId,
        key: CacheKey,
        recipe: Arc<KeyRecipe>,
        slot: Slot,
        outputs: Vec<SnapshotId>,
    },
    /// To the sink; no answer.
    Emit(Event),
    /// Cancel all tasks, which still answer; no answer of its own.
    StopTasks,
}

/// Answers to actions, and the outside's wish to stop.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Input {
    Pinned {
        vertex: VertexId,
        result: Result<Pin, TaskError>,
    },
    Created {
        vertex: VertexId,
        result: Result<Option<Timestamp>, CacheError>,
    },
    Canonical {
        vertex: VertexId,
        key: CacheKey,
    },
    KnownContent {
        content: ContentId,
        result: Result<Option<TreeDigest>, CacheError>,
    },
    Probed {
        vertex: VertexId,
        result: Result<Option<Hit>, CacheError>,
    },
    Digested {
        content: ContentId,
        result: Result<TreeDigest, TaskError>,
    },
    ContentRecorded {
        content: ContentId,
        result: Result<(), CacheError>,
    },
    Explained {
        vertex: VertexId,
        reasons: Vec<MissReason>,
    },
    Ran {
        vertex: VertexId,
        result: Result<Vec<Tree>, TaskError>,
    },
    Recorded {
        vertex: VertexId,
        result: Result<Option<CacheKey>, CacheError>,
    },
    /// The build is to stop; answers nothing and may come at any time.
    Cancel,
}

/// See the module.
pub struct Machine<'g> {
    pub(crate) nodes: Vec<Node<'g>>,
    users: Vec<Vec<VertexId>>,
    targets: Vec<Edge>,
    contents: Vec<Content>,
    content_ids: HashMap<(Edge, Selector), ContentId>,
    /// Who works, worked or waits on a key in this build.
    owner: HashMap<CacheKey, VertexId>,
    lost: HashSet<SnapshotId>,
    dirty: VecDeque<VertexId>,
    out: Vec<Action>,
    outstanding: usize,
    /// Answers outstanding that may still turn into hits; while there are any, steps implied by a
    /// hit are not shown yet.
    asking: usize,
    unshown: Vec<VertexId>,
    failure: Option<SolveError>,
    explains: bool,
    cached: usize,
    ran: usize,
    now: Timestamp,
}

impl<'g> Machine<'g> {
    /// A machine that is to make `targets`, and its first actions.
    pub fn new(graph: &'g Graph, targets: &[Edge], policy: &Policy) -> (Self, Vec<Action>) {
        let mut m = Self {
            nodes: nodes(graph, targets, policy),
            users: graph.users(),
            targets: targets.to_vec(),
            contents: Vec::new(),
            content_ids: HashMap::new(),
            owner: HashMap::new(),
            lost: policy.lost.iter().copied().collect(),
            dirty: VecDeque::new(),
            out: Vec::new(),
            outstanding: 0,
            asking: 0,
            unshown: Vec::new(),
            failure: None,
            explains: policy.explain,
            cached: 0,
            ran: 0,
            now: Timestamp::default(),
        };
        for e in targets {
            m.want_result(e.vertex);
        }
        m.settle();
        let out = std::mem::take(&mut m.out);
        (m, out)
    }

    /// Takes one answer; gives what to do next.
    pub fn on(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        self.now = now;
        if !matches!(input, Input::Cancel) {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        match input {
            Input::Pinned { vertex, result } => self.pinned(vertex, result),
            Input::Created { vertex, result } => self.dated(vertex, result),
            Input::Canonical { vertex, key } => {
                self.asking -= 1;
                let n = &mut self.nodes[vertex.at()];
                n.canonical = Some(key);
                n.alias = (n.key != Some(key)).then_some(key);
                n.phase = Phase::Keyed;
                self.wake(vertex);
            }
            Input::KnownContent { content, result } => self.known_content(content, result),
            Input::Probed { vertex, result } => self.probed(vertex, result),
            Input::Digested { content, result } => self.digested(content, result),
            Input::ContentRecorded { content, result } => {
                if let Err(e) = result {
                    self.warn(self.contents[content.0 as usize].edge.vertex, &e);
                }
            }
            Input::Explained { vertex, reasons } => self.explained(vertex, reasons),
            Input::Ran { vertex, result } => self.ran(vertex, result),
            Input::Recorded { vertex, result } => self.recorded(vertex, result),
            Input::Cancel => self.fail(None, TaskError::Cancelled),
        }
        self.settle();
        std::mem::take(&mut self.out)
    }

    /// True when nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.outstanding == 0 && (self.failure.is_some() || self.is_solved())
    }

    /// Actions that wait for their answer.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The steps that have results, those below a hit included: what explains the next build.
    pub fn steps(&self) -> Vec<PastStep> {
        let known = self.nodes.iter().filter(|n| n.is_done() || n.shown);
        let step = |n: &Node<'g>| {
            let key = n.key?;
            Some(PastStep {
                slot: n.slot.clone(),
                op: n.description(),
                key,
                canonical: n.canonical.unwrap_or(key),
                name: n.vertex.meta.name.clone(),
            })
        };
        known.filter_map(step).collect()
    }

    /// How it ended; an internal error when it is not over.
    pub fn finish(self) -> Result<Solution, SolveError> {
        if let Some(e) = self.failure {
            return Err(e);
        }
        let mut trees = BTreeMap::new();
        for e in &self.targets {
            match self.nodes[e.vertex.at()].outputs.get(e.output as usize) {
                Some(t) if self.nodes[e.vertex.at()].is_done() => trees.insert(*e, *t),
                _ => return Err(internal(Some(e.vertex), "asked for a result before the end")),
            };
        }
        let keyed = self.nodes.iter().enumerate();
        let keys = keyed.filter_map(|(i, n)| Some((VertexId(i as u32), n.key?))).collect();
        Ok(Solution { trees, keys, cached: self.cached, ran: self.ran })
    }

    fn is_solved(&self) -> bool {
        self.targets.iter().all(|e| self.nodes[e.vertex.at()].is_done())
    }

    fn settle(&mut self) {
        while self.failure.is_none() {
            let Some(v) = self.dirty.pop_front() else { break };
            self.advance(v);
        }
        if self.failure.is_none() {
            let solved = self.is_solved();
            if self.outstanding == 0 && !solved {
                let stuck = self.targets.iter().find(|e| !self.nodes[e.vertex.at()].is_done());
                let stuck = stuck.map(|e| e.vertex);
                self.failure = Some(internal(stuck, "nothing left to wait for"));
            } else if self.asking == 0 || solved {
                self.show_cached();
            }
        }
    }

    fn ask(&mut self, action: Action) {
        self.outstanding += 1;
        self.out.push(action);
    }

    /// The vertex and its users look at their state again.
    fn wake(&mut self, v: VertexId) {
        self.dirty.push_back(v);
        self.dirty.extend(&self.users[v.at()]);
    }

    fn want_key(&mut self, v: VertexId) {
        if !std::mem::replace(&mut self.nodes[v.at()].want_key, true) {
            self.dirty.push_back(v);
        }
    }

    fn want_result(&mut self, v: VertexId) {
        if !std::mem::replace(&mut self.nodes[v.at()].want_result, true) {
            self.dirty.push_back(v);
        }
    }

    /// Moves a vertex as far as its surroundings allow.
    fn advance(&mut self, v: VertexId) {
        let n = &self.nodes[v.at()];
        match n.phase {
            Phase::Idle if n.want_key || n.want_result => {
                if n.is_source() {
                    self.nodes[v.at()].phase = Phase::Pinning;
                    self.asking += 1;
                    self.ask(Action::Pin { vertex: v });
                } else if let Some(inputs) = self.input_keys(v) {
                    self.name(v, inputs);
                }
            }
            Phase::Keyed if n.want_result => self.claim(v, false),
            Phase::NeedInputs => {
                let vertex = n.vertex;
                let mut ready = true;
                for e in &vertex.inputs {
                    self.want_result(e.vertex);
                    ready &= self.nodes[e.vertex.at()].is_done();
                }
                if !ready {
                    return;
                }
                if !self.nodes[v.at()].is_source() {
                    let Some(inputs) = self.input_keys(v) else { return };
                    self.nodes[v.at()].set_inputs(inputs);
                }
                if self.nodes[v.at()].undated() {
                    return self.date(v, true);
                }
                self.claim(v, true);
            }
            _ => {}
        }
    }

    fn name(&mut self, v: VertexId, inputs: Vec<InputKey>) {
        let n = &mut self.nodes[v.at()];
        let key = n.set_inputs(inputs);
        if n.undated() {
            return self.date(v, false);
        }
        n.phase = Phase::Naming;
        self.asking += 1;
        self.ask(Action::Canonical { vertex: v, key });
    }

    /// Asks how old the result of the present key is. Before the key is named: whoever is keyed by a
    /// vertex has to know first whether that will run.
    fn date(&mut self, v: VertexId, ready: bool) {
        let n = &mut self.nodes[v.at()];
        let Some(key) = n.key else { return self.broken(v, "a date without a key") };
        n.phase = Phase::Dating { ready };
        let recipe = n.recipe();
        self.asking += 1;
        self.ask(Action::Created { vertex: v, key, recipe });
    }

    fn dated(&mut self, v: VertexId, result: Result<Option<Timestamp>, CacheError>) {
        self.asking -= 1;
        let created = result.unwrap_or_else(|e| {
            self.warn(v, &e);
            None
        });
        let now = self.now;
        let n = &mut self.nodes[v.at()];
        n.judge(created, now);
        n.phase = match n.phase {
            Phase::Dating { ready: true } => Phase::NeedInputs,
            _ => Phase::Idle,
        };
        if n.age != Age::Good {
            self.taint(v);
        }
        self.dirty.push_back(v);
    }

    /// Whoever is keyed by `v` waits for its result.
    fn taint(&mut self, v: VertexId) {
        let mut todo = vec![v];
        while let Some(v) = todo.pop() {
            if std::mem::replace(&mut self.nodes[v.at()].tainted, true) {
                continue;
            }
            for u in &self.users[v.at()] {
                let user = &self.nodes[u.at()];
                let inputs = user.vertex.inputs.iter().enumerate();
                let keyed = inputs
                    .filter(|(_, e)| e.vertex == v)
                    .any(|(i, _)| !matches!(user.keying(i), Keying::Ignored));
                if keyed {
                    todo.push(*u);
                }
            }
        }
    }

    /// How the inputs enter the key, or `None` while something is unknown, which is then asked for.
    fn input_keys(&mut self, v: VertexId) -> Option<Vec<InputKey>> {
        let vertex = self.nodes[v.at()].vertex;
        let mut keys = Vec::with_capacity(vertex.inputs.len());
        for (i, &e) in vertex.inputs.iter().enumerate() {
            let keying = self.nodes[v.at()].keying(i);
            let from = &self.nodes[e.vertex.at()];
            let key = match keying {
                Keying::Ignored => Some(InputKey::Ignored),
                _ if from.tainted && !from.is_done() => {
                    self.want_result(e.vertex);
                    None
                }
                Keying::Chain if from.live => self.content(e, Selector::all()),
                Keying::Chain => {
                    let key = from.canonical;
                    if key.is_none() {
                        self.want_key(e.vertex);
                    }
                    key.map(|k| InputKey::Chain(output_key(k, e.output)))
                }
                Keying::Content(sel) => self.content(e, sel),
            };
            // The others are asked for all the same, so that they are worked on side by side.
            keys.push(key);
        }
        keys.into_iter().collect()
    }

    fn content(&mut self, edge: Edge, selector: Selector) -> Option<InputKey> {
        let id = match self.content_ids.get(&(edge, selector.clone())) {
            Some(&id) => id,
            None => {
                let id = ContentId(self.contents.len() as u32);
                self.content_ids.insert((edge, selector.clone()), id);
                self.contents.push(Content {
                    edge,
                    selector: Arc::new(selector),
                    state: ContentState::Unasked,
                    epoch: 0,
                    tree: None,
                    key: None,
                });
                id
            }
        };
        let from = &self.nodes[edge.vertex.at()];
        let c = &mut self.contents[id.0 as usize];
        let busy = matches!(c.state, ContentState::Asking | ContentState::Digesting);
        if c.epoch != from.epoch && !busy {
            c.state = ContentState::Unasked;
            c.epoch = from.epoch;
        }
        match c.state {
            ContentState::Known(d) => return Some(InputKey::Content((*c.selector).clone(), d)),
            ContentState::Asking | ContentState::Digesting => return None,
            ContentState::Unasked if !from.live && !from.unproven => {
                let Some(key) = from.canonical else {
                    self.want_key(edge.vertex);
                    return None;
                };
                c.state = ContentState::Asking;
                let selector = c.selector.clone();
                self.asking += 1;
                self.ask(Action::KnownContent {
                    content: id,
                    key: output_key(key, edge.output),
                    selector,
                });
            }
            ContentState::Unasked | ContentState::Unknown if from.is_done() => {
                let tree = from.outputs[edge.output as usize];
                c.state = ContentState::Digesting;
                c.tree = Some(tree);
                c.key = from.canonical.map(|k| output_key(k, edge.output));
                let selector = c.selector.clone();
                self.announce(edge.vertex);
                self.ask(Action::Digest { content: id, vertex: edge.vertex, tree, selector });
            }
            ContentState::Unasked | ContentState::Unknown => self.want_result(edge.vertex),
        }
        None
    }

    /// True when no cache may answer for the vertex's present key.
    fn must_run(&self, v: VertexId) -> bool {
        let n = &self.nodes[v.at()];
        n.ignores_cache()
            || n.vertex
                .inputs
                .iter()
                .zip(&n.inputs)
                .any(|(e, k)| matches!(k, InputKey::Chain(_)) && self.nodes[e.vertex.at()].rebuilt)
    }

    /// The vertex wants a result for its key: takes it from an equal vertex, follows one, asks the
    /// caches, or goes on to its inputs and then to work. `ready`: all inputs are done.
    fn claim(&mut self, v: VertexId, ready: bool) {
        let n = &self.nodes[v.at()];
        let Some(key) = n.key else {
            if n.live {
                self.start(v)
            } else {
                self.broken(v, "work without a key")
            }
            return;
        };
        let must_run = self.must_run(v);
        if let Some(&o) = self.owner.get(&key)
            && o != v
        {
            let other = &self.nodes[o.at()];
            let runs = matches!(
                other.phase,
                Phase::Explaining | Phase::Running | Phase::Recording | Phase::Adopting
            );
            let fresh = runs || other.fresh || other.ignores_cache();
            let enough = other.need_outputs >= self.nodes[v.at()].need_outputs
                || other.outputs.len() >= self.nodes[v.at()].need_outputs;
            if enough && (!must_run || fresh) {
                if other.is_done() {
                    self.take(v, o);
                    return;
                }
                if other.at_work() || !self.waits_for(o, v) {
                    self.nodes[v.at()].phase = Phase::Following(o);
                    self.nodes[o.at()].followers.push(v);
                    return;
                }
            }
        }
        self.owner.insert(key, v);
        let n = &mut self.nodes[v.at()];
        if !must_run && n.probes() && n.probed != Some(key) {
            self.probe(v, key);
        } else if ready {
            self.start(v);
        } else {
            n.phase = Phase::NeedInputs;
            self.dirty.push_back(v);
        }
    }

    fn probe(&mut self, v: VertexId, key: CacheKey) {
        let n = &mut self.nodes[v.at()];
        n.probed = n.key;
        n.asked = Some(key);
        n.phase = Phase::Probing;
        let recipe = n.recipe();
        self.asking += 1;
        self.ask(Action::Probe { vertex: v, key, recipe });
    }

    /// True when `a` may ever have to wait for `b`.
    fn waits_for(&self, a: VertexId, b: VertexId) -> bool {
        let mut seen = HashSet::from([a]);
        let mut todo = vec![a];
        while let Some(x) = todo.pop() {
            if x == b {
                return true;
            }
            let n = &self.nodes[x.at()];
            let follows = if let Phase::Following(o) = n.phase { Some(o) } else { None };
            for y in n.vertex.inputs.iter().map(|e| e.vertex).chain(follows) {
                if seen.insert(y) {
                    todo.push(y);
                }
            }
        }
        false
    }

    /// All inputs are there and no cache has the result: explains, then runs.
    fn start(&mut self, v: VertexId) {
        let vertex = self.nodes[v.at()].vertex;
        let tree = |e: &Edge| self.nodes[e.vertex.at()].outputs.get(e.output as usize).copied();
        let Some(inputs) = vertex.inputs.iter().map(tree).collect::<Option<Vec<_>>>() else {
            return self.broken(v, "an input has no result");
        };
        let n = &self.nodes[v.at()];
        if self.explains && !n.is_source() && !n.explained {
            let pin = |e: &Edge| self.nodes[e.vertex.at()].pin.clone();
            let inputs = inputs.into_iter().zip(vertex.inputs.iter().map(pin)).collect();
            let n = &mut self.nodes[v.at()];
            n.phase = Phase::Explaining;
            let recipe = n.recipe();
            let expired = if let Age::Over(ttl) = n.age { Some(ttl) } else { None };
            self.ask(Action::Explain { vertex: v, recipe, inputs, expired });
            return;
        }
        let n = &mut self.nodes[v.at()];
        n.phase = Phase::Running;
        let key = n.key;
        self.nodes[v.at()].ran_with.clone_from(&inputs);
        self.show_cached();
        self.emit_key(v);
        self.emit(v, EventKind::Started);
        self.ask(Action::Run { vertex: v, key, inputs });
    }

    fn pinned(&mut self, v: VertexId, result: Result<Pin, TaskError>) {
        self.asking -= 1;
        match result {
            Err(e) => self.fail(Some(v), e),
            Ok(Pin::Live) => {
                let n = &mut self.nodes[v.at()];
                n.live = true;
                n.phase = Phase::Keyed;
                self.wake(v);
            }
            Ok(Pin::Fixed(what)) => {
                self.nodes[v.at()].pin = Some(what.clone());
                self.emit(v, EventKind::Pinned { what });
                self.name(v, Vec::new());
            }
        }
    }

    fn known_content(&mut self, id: ContentId, result: Result<Option<TreeDigest>, CacheError>) {
        self.asking -= 1;
        let v = self.contents[id.0 as usize].edge.vertex;
        let known = result.unwrap_or_else(|e| {
            self.warn(v, &e);
            None
        });
        let state = known.map_or(ContentState::Unknown, ContentState::Known);
        self.contents[id.0 as usize].state = state;
        self.wake(v);
    }

    fn digested(&mut self, id: ContentId, result: Result<TreeDigest, TaskError>) {
        let c = &mut self.contents[id.0 as usize];
        let (v, tree) = (c.edge.vertex, c.tree);
        match result {
            Ok(digest) => {
                c.state = ContentState::Known(digest);
                let (key, selector) = (c.key, c.selector.clone());
                // Under a key that has come to mean another tree since, it would be a lie.
                if let Some(key) = key
                    && c.epoch == self.nodes[v.at()].epoch
                {
                    self.ask(Action::RecordContent { content: id, key, selector, digest });
                }
                self.wake(v);
            }
            Err(TaskError::Lost(s)) => {
                c.state = ContentState::Unknown;
                let held = self.nodes[v.at()].outputs.get(c.edge.output as usize).copied() == tree;
                self.lose(v, s, if held { vec![v] } else { Vec::new() });
                self.wake(v);
            }
            Err(e) => self.fail(Some(v), e),
        }
    }

    fn probed(&mut self, v: VertexId, result: Result<Option<Hit>, CacheError>) {
        self.asking -= 1;
        let hit = result.unwrap_or_else(|e| {
            self.warn(v, &e);
            None
        });
        let n = &mut self.nodes[v.at()];
        let own = n.phase != Phase::Adopting && n.asked == n.key;
        let hit = hit.filter(|h| {
            h.outputs.len() >= n.need_outputs
                && !h.outputs.iter().any(|s| self.lost.contains(s))
                // A key that stood for this tree may have come to mean another one since.
                && (own || n.asked == Some(h.canonical))
        });
        match (hit, n.phase) {
            (Some(h), Phase::Adopting) => {
                n.outputs = h.outputs.into_iter().map(Tree::Snapshot).collect();
                self.canonical(v, h.canonical);
                self.done(v);
            }
            (None, Phase::Adopting) => self.done(v),
            (Some(h), _) => {
                n.outputs = h.outputs.into_iter().map(Tree::Snapshot).collect();
                n.origin = Some(h.origin);
                n.unproven = false;
                n.rebuilt = false;
                self.canonical(v, h.canonical);
                self.unshown.push(v);
                self.done(v);
            }
            (None, _) => match n.alias.take() {
                Some(alias) if self.failure.is_none() => self.probe(v, alias),
                _ => {
                    n.phase = Phase::NeedInputs;
                    self.dirty.push_back(v);
                    self.release(v);
                }
            },
        }
    }

    fn explained(&mut self, v: VertexId, reasons: Vec<MissReason>) {
        self.emit(v, EventKind::Missed { reasons });
        let n = &mut self.nodes[v.at()];
        n.explained = true;
        // An input may have been lost meanwhile.
        n.phase = Phase::NeedInputs;
        self.dirty.push_back(v);
    }

    fn ran(&mut self, v: VertexId, result: Result<Vec<Tree>, TaskError>) {
        match result {
            Ok(outputs) if outputs.len() < self.nodes[v.at()].need_outputs => {
                self.broken(v, "a task gave too few results");
            }
            Ok(outputs) => {
                self.ran += 1;
                let n = &mut self.nodes[v.at()];
                let snapshots = |t: &Tree| match t {
                    Tree::Snapshot(s) => Some(*s),
                    Tree::Context(_) => None,
                };
                let ids: Option<Vec<SnapshotId>> = outputs.iter().map(snapshots).collect();
                n.outputs = outputs;
                n.fresh = true;
                match (n.key, ids) {
                    (Some(key), Some(outputs)) => {
                        n.phase = Phase::Recording;
                        let (recipe, slot) = (n.recipe(), n.slot.clone());
                        for s in &outputs {
                            self.lost.remove(s);
                        }
                        self.ask(Action::Record { vertex: v, key, recipe, slot, outputs });
                    }
                    _ => self.done(v),
                }
            }
            Err(_) if self.failure.is_some() => self.emit(v, EventKind::Cancelled),
            Err(TaskError::Lost(s)) => {
                let n = &self.nodes[v.at()];
                // Whether the inputs are still the ones it ran with.
                let now = n.vertex.inputs.iter().map(|e| {
                    let from = &self.nodes[e.vertex.at()];
                    from.outputs.get(e.output as usize).filter(|_| from.is_done()).copied()
                });
                let same = now.eq(n.ran_with.iter().map(|t| Some(*t)));
                let inputs = n.vertex.inputs.iter().map(|e| e.vertex);
                let suspects = if same { inputs.collect() } else { Vec::new() };
                if same && n.vertex.inputs.is_empty() {
                    return self.fail(Some(v), TaskError::Lost(s));
                }
                self.nodes[v.at()].phase = Phase::NeedInputs;
                self.dirty.push_back(v);
                self.lose(v, s, suspects);
                self.release(v);
            }
            Err(e) => self.fail(Some(v), e),
        }
    }

    fn recorded(&mut self, v: VertexId, result: Result<Option<CacheKey>, CacheError>) {
        let earlier = result.unwrap_or_else(|e| {
            self.warn(v, &e);
            None
        });
        let must_run = self.must_run(v);
        let n = &mut self.nodes[v.at()];
        let Some(key) = n.key else { return self.broken(v, "a record without a key") };
        n.unproven = earlier.is_none() && !n.is_source();
        n.rebuilt = earlier.is_none() && must_run;
        if n.unproven {
            n.epoch += 1;
        }
        self.canonical(v, earlier.unwrap_or(key));
        match earlier {
            Some(earlier) if self.failure.is_none() => {
                // The earlier result has the earlier times, so layers above stay what they were.
                let n = &mut self.nodes[v.at()];
                n.phase = Phase::Adopting;
                n.asked = Some(earlier);
                let recipe = n.recipe();
                self.asking += 1;
                self.ask(Action::Probe { vertex: v, key: earlier, recipe });
            }
            _ => self.done(v),
        }
    }

    fn canonical(&mut self, v: VertexId, key: CacheKey) {
        let n = &mut self.nodes[v.at()];
        if n.canonical.replace(key) != Some(key) {
            n.epoch += 1;
        }
    }

    /// The result of an equal vertex, with all that is known about it.
    fn take(&mut self, v: VertexId, from: VertexId) {
        let o = &self.nodes[from.at()];
        let (outputs, canonical) = (o.outputs.clone(), o.canonical);
        let (unproven, rebuilt, fresh) = (o.unproven, o.rebuilt, o.fresh);
        let n = &mut self.nodes[v.at()];
        n.outputs = outputs;
        n.unproven = unproven;
        n.rebuilt = rebuilt;
        n.fresh = fresh;
        n.origin = Some(Origin::Local);
        if unproven {
            n.epoch += 1;
        }
        if let Some(key) = canonical {
            self.canonical(v, key);
        }
        self.unshown.push(v);
        self.done(v);
    }

    fn done(&mut self, v: VertexId) {
        let n = &mut self.nodes[v.at()];
        n.phase = Phase::Done;
        if n.origin.is_none() {
            n.shown = true;
            self.emit_key(v);
            self.emit(v, EventKind::Finished);
        }
        self.release(v);
        self.wake(v);
    }

    /// Followers decide anew: they take the result, follow on, or go their own way.
    fn release(&mut self, v: VertexId) {
        for f in std::mem::take(&mut self.nodes[v.at()].followers) {
            let n = &mut self.nodes[f.at()];
            if n.phase == Phase::Following(v) {
                n.phase = Phase::Keyed;
                self.dirty.push_back(f);
            }
        }
    }

    /// Sends whoever holds snapshot `s` back to work; where nobody does (it was below what they
    /// hold), the `suspects`.
    fn lose(&mut self, reporter: VertexId, s: SnapshotId, suspects: Vec<VertexId>) {
        self.lost.insert(s);
        let all = self.nodes.iter().enumerate();
        let holders = all.filter(|(_, n)| n.is_done() && n.outputs.contains(&Tree::Snapshot(s)));
        let mut losers: Vec<VertexId> = holders.map(|(i, _)| VertexId(i as u32)).collect();
        if losers.is_empty() {
            losers = suspects;
            for u in &losers {
                for t in &self.nodes[u.at()].outputs {
                    if let Tree::Snapshot(s) = t {
                        self.lost.insert(*s);
                    }
                }
            }
        }
        for u in losers {
            let n = &mut self.nodes[u.at()];
            if !n.is_done() || n.live {
                continue;
            }
            n.heals += 1;
            if n.heals > MAX_HEALS {
                return self.fail(Some(reporter), TaskError::Lost(s));
            }
            n.outputs.clear();
            n.phase = Phase::Keyed;
            n.probed = None;
            n.origin = None;
            n.fresh = false;
            n.want_result = true;
            self.wake(u);
        }
    }

    fn fail(&mut self, v: Option<VertexId>, cause: TaskError) {
        if self.failure.is_some() {
            return;
        }
        // A task sees the outside's wish before this machine does.
        let vertex = if matches!(cause, TaskError::Cancelled) { None } else { v };
        if let Some(v) = v {
            let kind = match vertex {
                Some(_) => EventKind::Failed { message: cause.to_string() },
                None => EventKind::Cancelled,
            };
            self.show_cached();
            self.emit(v, kind);
        }
        self.failure = Some(SolveError { vertex, cause });
        self.out.push(Action::StopTasks);
    }

    fn broken(&mut self, v: VertexId, what: &str) {
        let SolveError { cause, .. } = internal(Some(v), what);
        self.fail(Some(v), cause);
    }

    fn warn(&mut self, v: VertexId, e: &CacheError) {
        self.emit(v, EventKind::Warning { text: format!("cache: {e}") });
    }

    /// Before anything else is told of a vertex, by this machine or by who works for it.
    fn announce(&mut self, v: VertexId) {
        let (at, step) = (self.now, Step::Vertex(v));
        let n = &mut self.nodes[v.at()];
        if !std::mem::replace(&mut n.announced, true) {
            let name = n.vertex.meta.name.clone();
            self.out.push(Action::Emit(Event { at, step, kind: EventKind::Announced { name } }));
        }
    }

    fn emit(&mut self, v: VertexId, kind: EventKind) {
        let (at, step) = (self.now, Step::Vertex(v));
        self.announce(v);
        self.out.push(Action::Emit(Event { at, step, kind }));
    }

    fn emit_key(&mut self, v: VertexId) {
        if let Some(key) = self.nodes[v.at()].key {
            self.emit(v, EventKind::Keyed { key });
        }
    }

    /// Shows the hits so far, and below them what they made needless, inputs first.
    fn show_cached(&mut self) {
        let mut origins: BTreeMap<VertexId, Origin> = BTreeMap::new();
        let mut todo = Vec::new();
        for v in std::mem::take(&mut self.unshown) {
            if let Some(o) = self.nodes[v.at()].origin.clone() {
                todo.push((v, o));
            }
        }
        while let Some((v, origin)) = todo.pop() {
            if std::mem::replace(&mut self.nodes[v.at()].shown, true) {
                continue;
            }
            for e in &self.nodes[v.at()].vertex.inputs {
                let below = &self.nodes[e.vertex.at()];
                if !below.shown && !below.want_result {
                    todo.push((e.vertex, origin.clone()));
                }
            }
            origins.insert(v, origin);
        }
        for (v, origin) in origins {
            self.cached += 1;
            self.emit_key(v);
            self.emit(v, EventKind::Cached { origin });
        }
    }
}

fn internal(vertex: Option<VertexId>, what: &str) -> SolveError {
    SolveError { vertex, cause: TaskError::failed(format!("internal error: {what}")) }
}
