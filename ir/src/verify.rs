//! What must hold of every plan before it is run or printed. A violation is a defect of rgraph,
//! never the user's.
//!
//! Kept by construction ([`crate::graph`]): inputs stand before users, equal definitions are one
//! vertex.
//!
//! Checked here, per vertex:
//! - V1 an edge names an output that exists (every op has one, number 0);
//! - V2 an op names only inputs that the vertex has;
//! - V3 every input is named by the op;
//! - V4 a source has no inputs, a merge two or more, a diff two;
//! - V5 a file op has an action, and an action builds on earlier ones only;
//! - V6 a platform stands on steps and images and nowhere else;
//! - V7 a step has arguments, an absolute working directory and variables named once, without `=`;
//! - V8 paths of mounts, selectors and actions are absolute, and no mount covers the root.
//!
//! Per target:
//! - V9 root and layers are vertices of the graph;
//! - V10 the last layer is the root; every layer stands on the one before it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::env::Env;
use crate::graph::{Edge, Graph, Vertex, VertexId};
use crate::op::{ActionRef, ExecOp, FileActionKind, FileOp, InputIndex, MountKind, Op, SourceOp};
use crate::plan::{BuildPlan, Target};

/// Where an invariant does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// At a vertex.
    Vertex(VertexId),
    /// At a target, by position.
    Target(usize),
}

/// One broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where.
    pub place: Place,
    /// Its name in the list at the head of this module: `V1`, ...
    pub rule: &'static str,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Vertex(v) => write!(f, "vertex {}", v.0)?,
            Place::Target(t) => write!(f, "target {t}")?,
        }
        write!(f, " breaks {}: {}", self.rule, self.detail)
    }
}

/// Everything that does not hold of `plan`, in order; empty for a sound one.
pub fn verify(plan: &BuildPlan) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut names = Names::default();
    for (id, v) in plan.graph.iter() {
        let place = Place::Vertex(id);
        let mut fail = |rule, detail: String| found.push(Violation { place, rule, detail });
        vertex(v, &mut names, &mut fail);
    }
    for (i, t) in plan.targets.iter().enumerate() {
        let place = Place::Target(i);
        let mut fail = |rule, detail: String| found.push(Violation { place, rule, detail });
        target(&plan.graph, t, &mut fail);
    }
    found
}

type Fail<'f> = dyn FnMut(&'static str, String) + 'f;

fn vertex<'g>(v: &'g Vertex, names: &mut Names<'g>, fail: &mut Fail<'_>) {
    for e in v.inputs.iter().filter(|e| e.output != 0) {
        fail("V1", format!("input asks for output {} of vertex {}", e.output, e.vertex.0));
    }
    names.inputs.clear();
    names.inputs.resize(v.inputs.len(), false);
    let mut named = Named { seen: &mut names.inputs, fail: &mut *fail };
    match &v.op {
        Op::Source(_) => {}
        Op::Exec(e) => exec_inputs(e, &mut named),
        Op::File(f) => file_inputs(f, &mut named),
        Op::Merge(_) | Op::Diff(_) => named.seen.fill(true),
    }
    let seen = &names.inputs;
    let count = v.inputs.len();
    match &v.op {
        Op::Source(_) if count > 0 => fail("V4", format!("a source has {count} inputs")),
        Op::Merge(_) if count < 2 => fail("V4", format!("a merge has {count} inputs")),
        Op::Diff(_) if count != 2 => fail("V4", format!("a diff has {count} inputs")),
        Op::Source(_) => {}
        _ => {
            for (i, _) in seen.iter().enumerate().filter(|(_, s)| !**s) {
                fail("V3", format!("input {i} is not used"));
            }
        }
    }
    let wants_platform =
        matches!(v.op, Op::Exec(_) | Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_)));
    match (&v.platform, wants_platform) {
        (None, true) => fail("V6", format!("{} without a platform", v.op.kind())),
        (Some(p), false) => fail("V6", format!("{} with platform {p}", v.op.kind())),
        _ => {}
    }
    match &v.op {
        Op::Exec(e) => exec(e, names, fail),
        Op::File(f) => file(f, fail),
        _ => {}
    }
}

struct Named<'a, 'f> {
    seen: &'a mut [bool],
    fail: &'a mut Fail<'f>,
}

impl Named<'_, '_> {
    fn input(&mut self, i: InputIndex) {
        match self.seen.get_mut(i.at()) {
            Some(seen) => *seen = true,
            None => (self.fail)("V2", format!("the op names input {}", i.0)),
        }
    }

    fn action(&mut self, r: ActionRef, at: usize) {
        match r {
            ActionRef::Scratch => {}
            ActionRef::Input(i) => self.input(i),
            ActionRef::Action(k) if (k as usize) < at => {}
            ActionRef::Action(k) => (self.fail)("V5", format!("action {at} builds on action {k}")),
        }
    }
}

fn exec_inputs(e: &ExecOp, named: &mut Named<'_, '_>) {
    let mounts = e.mounts.iter().filter_map(|m| match &m.kind {
        MountKind::Bind { from, .. } => *from,
        MountKind::Cache(c) => c.from,
        MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => None,
    });
    let services = e.services.iter().map(|s| s.root);
    e.root.into_iter().chain(mounts).chain(services).for_each(|i| named.input(i));
}

fn file_inputs(f: &FileOp, named: &mut Named<'_, '_>) {
    for (at, a) in f.actions.iter().enumerate() {
        named.action(a.base, at);
        if let FileActionKind::Copy(c) = &a.kind {
            named.action(c.from, at);
        }
        if let Some(o) = a.kind.owner() {
            named.action(o.lookup, at);
        }
    }
}

fn absolute(what: &str, path: &str, fail: &mut Fail<'_>) {
    if !path.starts_with('/') {
        fail("V8", format!("{what} `{path}` is not absolute"));
    }
}

/// The variables of the step looked at last. Steps share their environments' past, so that only what
/// differs is looked at: else a thousand steps after a thousand `ENV`s were a million looks.
#[derive(Default)]
struct Names<'g> {
    /// What names the list up to each variable, and the key unless it stood there before.
    list: Vec<([u8; 32], Option<&'g str>)>,
    seen: HashSet<&'g str, RandomState>,
    /// What the step has that the last one had not, the last one first; empty between steps.
    new: Vec<(usize, [u8; 32], &'g Arc<str>)>,
    /// Which inputs of the vertex its op names.
    inputs: Vec<bool>,
}

impl<'g> Names<'g> {
    fn check(&mut self, env: &'g Env, fail: &mut Fail<'_>) {
        let known = |len: usize, digest: &[u8; 32]| {
            self.list.get(len - 1).is_some_and(|(d, _)| d == digest)
        };
        self.new.clear();
        self.new.extend(env.back().take_while(|(len, digest, _)| !known(*len, digest)));
        for (_, key) in self.list.drain(env.len() - self.new.len()..) {
            if let Some(key) = key {
                self.seen.remove(key);
            }
        }
        for (_, digest, key) in self.new.drain(..).rev() {
            // An empty name is odd but possible: `ENV $X=1` without X.
            if key.contains('=') {
                fail("V7", format!("variable named `{key}`"));
            }
            let first = self.seen.insert(key);
            if !first {
                fail("V7", format!("variable `{key}` stands twice"));
            }
            self.list.push((digest, first.then_some(&**key)));
        }
    }
}

fn exec<'g>(e: &'g ExecOp, names: &mut Names<'g>, fail: &mut Fail<'_>) {
    if e.args.is_empty() {
        fail("V7", "no arguments".to_owned());
    }
    if !e.cwd.starts_with('/') {
        fail("V7", format!("working directory `{}` is not absolute", e.cwd));
    }
    names.check(&e.env, fail);
    for m in &e.mounts {
        // A secret's or socket's path is taken from the root, whether it says so or not.
        if !matches!(m.kind, MountKind::Secret(_) | MountKind::Ssh(_)) {
            absolute("mount", &m.dest, fail);
        }
        if m.dest.bytes().all(|b| b == b'/') {
            fail("V8", "a mount covers the root".to_owned());
        }
        match &m.kind {
            MountKind::Bind { selector, .. } => absolute("selector", selector, fail),
            MountKind::Cache(c) => absolute("selector", &c.selector, fail),
            MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => {}
        }
    }
}

fn file(f: &FileOp, fail: &mut Fail<'_>) {
    if f.actions.is_empty() {
        fail("V5", "no action".to_owned());
    }
    for a in &f.actions {
        match &a.kind {
            FileActionKind::Copy(c) => {
                absolute("source", &c.src, fail);
                absolute("destination", &c.dest, fail);
            }
            FileActionKind::Mkfile(a) => absolute("file", &a.path, fail),
            FileActionKind::Mkdir(a) => absolute("folder", &a.path, fail),
            FileActionKind::Rm(a) => absolute("path", &a.path, fail),
            FileActionKind::Symlink(a) => absolute("link", &a.path, fail),
        }
    }
}

fn target(graph: &Graph, t: &Target, fail: &mut Fail<'_>) {
    let layers: Vec<Edge> = t.history.iter().filter_map(|h| h.layer).collect();
    let mut sound = true;
    for e in t.root.iter().chain(&layers) {
        if e.vertex.at() >= graph.len() || e.output != 0 {
            fail("V9", format!("output {} of vertex {} does not exist", e.output, e.vertex.0));
            sound = false;
        }
    }
    if !sound {
        return;
    }
    if let Some(last) = layers.last()
        && Some(*last) != t.root
    {
        fail("V10", format!("the last layer is of vertex {}, not the root", last.vertex.0));
    }
    if !in_order(graph, &layers) {
        fail("V10", "a layer does not stand on the one before it".to_owned());
    }
}

/// True when each layer is below the next. One walk down from the last layer: a vertex counts when
/// it is met below the layer that is due after it.
fn in_order(graph: &Graph, layers: &[Edge]) -> bool {
    layers.windows(2).all(|pair| {
        let (below, above) = (pair[0].vertex, pair[1].vertex);
        // Ids are a topological order, so nothing under `below` needs a look.
        let inputs = &graph.vertex(above).inputs;
        if below < above && inputs.iter().any(|e| e.vertex == below) {
            return true;
        }
        let mut seen = HashSet::new();
        let mut stack = vec![above];
        while let Some(id) = stack.pop() {
            if id == below {
                return above != below;
            }
            let inputs = graph.vertex(id).inputs.iter().map(|e| e.vertex);
            stack.extend(inputs.filter(|v| *v >= below && seen.insert(*v)));
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;
    use crate::meta::VertexMeta;
    use crate::op::{DiffOp, MergeOp, Mount};
    use crate::platform::Platform;
    use crate::testkit::{Kit, copy, exec, image};

    #[test]
    fn a_sound_plan_has_nothing_to_say() {
        assert_eq!(verify(&Kit::two_stages().plan), []);
        assert_eq!(verify(&BuildPlan::default()), []);
    }

    fn rules_of(op: Op, inputs: &[u32], platform: bool) -> Vec<&'static str> {
        let mut g = GraphBuilder::new();
        let amd = Some(std::sync::Arc::new(Platform::linux_amd64()));
        for name in ["a", "b"] {
            g.add(image(name), vec![], amd.clone(), VertexMeta::default());
        }
        let inputs = inputs.iter().map(|i| Edge::main(VertexId(*i))).collect();
        g.add(op, inputs, amd.filter(|_| platform), VertexMeta::default());
        let plan = BuildPlan { graph: g.finish(), targets: vec![] };
        verify(&plan).iter().map(|v| v.rule).collect()
    }

    #[test]
    fn finds_what_is_wrong_with_a_vertex() {
        let run = |edit: &dyn Fn(&mut ExecOp)| {
            let mut op = exec("x", Some(0));
            edit(&mut op);
            op.into()
        };
        let bind = |dest: &str, selector: &str| Mount {
            dest: dest.to_owned(),
            kind: MountKind::Bind { from: None, selector: selector.to_owned(), readonly: true },
        };
        let base = ActionRef::Input(InputIndex(0));
        let twice = Env::new().with("A", "1").push_new("A".into(), "2".into());
        let cases: Vec<(Op, &[u32], bool, &[&str])> = vec![
            (run(&|_| {}), &[0], true, &[]),
            (run(&|_| {}), &[], true, &["V2"]),
            (run(&|_| {}), &[0, 1], true, &["V3"]),
            (run(&|_| {}), &[0], false, &["V6"]),
            (image("c"), &[0], true, &["V4"]),
            (image("c"), &[], false, &["V6"]),
            (Op::Merge(MergeOp {}), &[0], false, &["V4"]),
            (Op::Diff(DiffOp {}), &[0], false, &["V4"]),
            (Op::Diff(DiffOp {}), &[0, 1], false, &[]),
            (Op::File(FileOp { actions: vec![] }), &[], false, &["V5"]),
            (copy(ActionRef::Action(0), 0, "/a", "/b"), &[0], false, &["V5"]),
            (copy(base, 1, "/a", "/b"), &[0, 1], true, &["V6"]),
            (copy(base, 1, "a", "b"), &[0, 1], false, &["V8", "V8"]),
            (run(&|e| e.args.clear()), &[0], true, &["V7"]),
            (run(&|e| e.cwd = "w".to_owned()), &[0], true, &["V7"]),
            (run(&|e| e.env = e.env.with("A=B", "")), &[0], true, &["V7"]),
            (run(&|e| e.env = twice.clone()), &[0], true, &["V7"]),
            (run(&|e| e.mounts = vec![bind("a", "/")]), &[0], true, &["V8"]),
            (run(&|e| e.mounts = vec![bind("/a", "")]), &[0], true, &["V8"]),
            (run(&|e| e.mounts = vec![bind("//", "/")]), &[0], true, &["V8"]),
        ];
        for (i, (op, inputs, platform, want)) in cases.into_iter().enumerate() {
            assert_eq!(rules_of(op, inputs, platform), want, "case {i}");
        }
    }

    #[test]
    fn environments_are_checked_by_what_differs() {
        let a = Env::new().with("A", "1").with("B", "2");
        let with = |env: &Env, k: &str| env.push_new(k.into(), "x".into());
        let envs = [
            (a.clone(), vec![]),
            (with(&a, "C"), vec![]),
            // A sibling of the one before; `C` is new again.
            (with(&with(&a, "D"), "C"), vec![]),
            (with(&a, "A"), vec!["V7"]),
            (with(&a, "C"), vec![]),
            (Env::new(), vec![]),
            (with(&with(&Env::new(), "B"), "B"), vec!["V7"]),
        ];
        let mut names = Names::default();
        for (i, (env, want)) in envs.iter().enumerate() {
            let mut got = Vec::new();
            names.check(env, &mut |rule, _| got.push(rule));
            assert_eq!(got, *want, "case {i}");
        }
    }

    #[test]
    fn finds_what_is_wrong_with_a_target() {
        let check = |edit: &dyn Fn(&mut Target)| {
            let mut plan = Kit::two_stages().plan;
            edit(&mut plan.targets[0]);
            verify(&plan).iter().map(|v| (v.place, v.rule)).collect::<Vec<_>>()
        };
        let at = |v| Some(Edge::main(VertexId(v)));
        let out = |v, output| Some(Edge { vertex: VertexId(v), output });
        let t = Place::Target(0);
        assert_eq!(check(&|t| t.root = at(99)), [(t, "V9")]);
        assert_eq!(check(&|t| t.history[0].layer = out(5, 1)), [(t, "V9")]);
        assert_eq!(check(&|t| t.root = at(5)), [(t, "V10")]);
        assert_eq!(check(&|t| t.root = None), [(t, "V10")]);
        assert_eq!(check(&|t| t.history[0].layer = at(4)), [(t, "V10")]);
        assert_eq!(check(&|t| t.history[0].layer = at(6)), [(t, "V10")]);
    }
}
