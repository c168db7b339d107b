//! What all renderers show: the needed vertices, renumbered without gaps, with their places, layers
//! and the meaning of their inputs in words.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::analysis::{self, MadeLayer};
use crate::graph::{Edge, Vertex, VertexId};
use crate::op::{FileActionKind, InputIndex, MountKind, Op, Role, SourceOp};
use crate::plan::BuildPlan;
use crate::span::SourceMap;

/// A plan, ready to be drawn.
pub(super) struct View<'a> {
    pub plan: &'a BuildPlan,
    pub map: &'a SourceMap,
    /// Needed vertices, inputs first; the position is the number shown.
    pub order: Vec<VertexId>,
    /// By id; `None` of those that are not needed.
    numbers: Vec<Option<usize>>,
    layers: Vec<MadeLayer>,
}

/// How an input is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    /// The input.
    pub edge: Edge,
    /// `root`, `content` or `seed`: by key, by content, not at all.
    pub role: &'static str,
    /// What of it, and where it is mounted: `/src`, `/out/app → /mnt`; empty: all.
    pub what: String,
}

/// Most paths named at one edge.
const MAX_PATHS: usize = 3;

impl<'a> View<'a> {
    pub fn new(plan: &'a BuildPlan, map: &'a SourceMap) -> Self {
        let order = analysis::reachable(plan);
        let mut numbers = vec![None; plan.graph.len()];
        for (n, id) in order.iter().enumerate() {
            numbers[id.at()] = Some(n);
        }
        Self { plan, map, order, numbers, layers: analysis::layers(plan) }
    }

    pub fn vertex(&self, id: VertexId) -> &'a Vertex {
        self.plan.graph.vertex(id)
    }

    /// The number shown for a vertex that is needed.
    pub fn number(&self, id: VertexId) -> Option<usize> {
        self.numbers[id.at()]
    }

    /// `Dockerfile:7`, for the first line that asked for the vertex.
    pub fn place(&self, id: VertexId) -> Option<String> {
        self.vertex(id).meta.span.map(|s| self.map.locate(s))
    }

    /// Layers the vertex makes.
    pub fn layers(&self, id: VertexId) -> &[MadeLayer] {
        let from = self.layers.partition_point(|l| l.vertex < id);
        let count = self.layers[from..].iter().take_while(|l| l.vertex == id).count();
        &self.layers[from..from + count]
    }

    /// Stages in order of their first vertex, each with its vertices; `None` first holds what
    /// belongs to no stage.
    pub fn stages(&self) -> Vec<(Option<&'a str>, Vec<VertexId>)> {
        let mut out: Vec<(Option<&str>, Vec<VertexId>)> = vec![(None, Vec::new())];
        let mut at: HashMap<&str, usize> = HashMap::new();
        for id in &self.order {
            let slot = match self.vertex(*id).meta.stage.as_deref() {
                None => 0,
                Some(stage) => *at.entry(stage).or_insert_with(|| {
                    out.push((Some(stage), Vec::new()));
                    out.len() - 1
                }),
            };
            out[slot].1.push(*id);
        }
        out
    }

    /// What a box says: the progress line without its number in brackets, else what the op is.
    pub fn text(&self, id: VertexId) -> String {
        let v = self.vertex(id);
        let name = v.meta.name.trim();
        let name = match name.strip_prefix('[').and_then(|n| n.split_once(']')) {
            Some((_, rest)) if !rest.trim().is_empty() => rest.trim(),
            _ => name,
        };
        if name.is_empty() { describe(&v.op) } else { name.to_owned() }
    }

    /// One use per input, in order.
    pub fn uses(&self, id: VertexId) -> impl Iterator<Item = Use> {
        let v = self.vertex(id);
        v.inputs.iter().enumerate().map(|(i, edge)| {
            let at = InputIndex(i as u32);
            let mut what = What::default();
            let role = match v.op.role(at) {
                Role::Chain => "root",
                Role::Ignored if names_of(&v.op, at).next().is_some() => "service",
                Role::Ignored => "seed",
                Role::Content => {
                    v.op.paths_read(at, &mut |path| what.name("", path));
                    what.end();
                    "content"
                }
            };
            mounts_of(&v.op, at).for_each(|dest| what.name("\u{2192} ", dest));
            names_of(&v.op, at).for_each(|name| what.name("", name));
            what.end();
            Use { edge: *edge, role, what: what.text }
        })
    }
}

/// Lists of names, the first few of each.
#[derive(Default)]
struct What {
    text: String,
    /// How many names the list that is open has, equal neighbours once.
    names: usize,
    /// Where the last of them starts in `text`.
    at: usize,
    /// The last one, when it is not in `text`.
    last: String,
}

impl What {
    fn name(&mut self, before: &str, name: &str) {
        let last = match self.names {
            0 => None,
            1..=MAX_PATHS => self.text.get(self.at..),
            _ => Some(self.last.as_str()),
        };
        if name == "/" && before.is_empty() || last == Some(name) {
            return;
        }
        self.names += 1;
        if self.names <= MAX_PATHS {
            self.text.reserve(1 + before.len() + name.len());
            self.space();
            self.text.push_str(before);
            self.at = self.text.len();
            self.text.push_str(name);
        } else {
            name.clone_into(&mut self.last);
        }
    }

    fn end(&mut self) {
        let more = self.names.saturating_sub(MAX_PATHS);
        if more > 0 {
            self.space();
            let _ = write!(self.text, "+{more}");
        }
        self.names = 0;
    }

    fn space(&mut self) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
    }
}

fn short_list(mut list: Vec<String>) -> Vec<String> {
    list.dedup();
    if list.len() > MAX_PATHS {
        let more = list.len() - MAX_PATHS;
        list.truncate(MAX_PATHS);
        list.push(format!("+{more}"));
    }
    list
}

fn mounts_of(op: &Op, at: InputIndex) -> impl Iterator<Item = &str> {
    let mounts = match op {
        Op::Exec(e) => &e.mounts[..],
        _ => &[],
    };
    let is_it = move |m: &&crate::op::Mount| match &m.kind {
        MountKind::Bind { from, .. } => *from == Some(at),
        MountKind::Cache(c) => c.from == Some(at),
        MountKind::Tmpfs { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => false,
    };
    mounts.iter().filter(is_it).map(|m| &*m.dest)
}

/// What the services are called whose root an input is.
fn names_of(op: &Op, at: InputIndex) -> impl Iterator<Item = &str> {
    let services = match op {
        Op::Exec(e) => &e.services[..],
        _ => &[],
    };
    services.iter().filter(move |s| s.root == at).map(|s| &*s.name)
}

/// What an op is, for vertices without a name.
fn describe(op: &Op) -> String {
    match op {
        Op::Source(SourceOp::Image(s)) => format!("FROM {}", s.reference),
        Op::Source(SourceOp::Local(s)) => format!("local {}", s.name),
        Op::Source(SourceOp::Http(s)) => s.url.clone(),
        Op::Source(SourceOp::Git(s)) => s.full_url.clone(),
        Op::Source(SourceOp::OciLayout(s)) => format!("FROM {}", s.reference),
        Op::Exec(e) => e.args.join(" "),
        Op::File(f) => {
            let words = f.actions.iter().map(|a| match &a.kind {
                FileActionKind::Copy(c) => format!("copy {} {}", c.src, c.dest),
                FileActionKind::Mkfile(a) => format!("mkfile {}", a.path),
                FileActionKind::Mkdir(a) => format!("mkdir {}", a.path),
                FileActionKind::Rm(a) => format!("rm {}", a.path),
                FileActionKind::Symlink(a) => format!("symlink {} {}", a.target, a.path),
            });
            short_list(words.collect()).join(", ")
        }
        Op::Merge(_) => "merge".to_owned(),
        Op::Diff(_) => "diff".to_owned(),
    }
}

/// Cuts to `max` characters and breaks into lines of about `width`; control characters and line
/// ends become blanks.
pub(super) fn lines(text: &str, width: usize, max: usize) -> Vec<String> {
    let mut flat = String::new();
    let mut count = 0;
    for c in text.chars() {
        if count == max {
            flat.push('\u{2026}');
            break;
        }
        let c = if c.is_control() { ' ' } else { c };
        if c == ' ' && flat.ends_with(' ') {
            continue;
        }
        flat.push(c);
        count += 1;
    }
    let mut out = vec![String::new()];
    for word in flat.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = out.last_mut().expect("never empty");
            let used = line.chars().count();
            let room = width.saturating_sub(used + usize::from(used > 0));
            if word.len() <= room {
                if used > 0 {
                    line.push(' ');
                }
                line.extend(word.iter());
                break;
            }
            if used == 0 {
                line.extend(word.drain(..width.min(word.len())));
            }
            out.push(String::new());
        }
    }
    out.retain(|l| !l.trim().is_empty());
    out
}
