//! Stages and what they need of each other, before anything is lowered.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use rgraph_ir::{Diagnostic, Platform, Span};

use super::base::SCRATCH;
use super::draft::Ref;
use super::names::Counter;
use super::state::StageState;
use crate::ast::{Instruction, Kind, Stage};
use crate::expand::{Mode, Nothing, expand, is_plain};
use crate::options::NamedContext;

/// A stage, or an image that only a `--from` names.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// `None`: only a `--from` names it.
    pub stage: Option<&'a Stage>,
    /// As messages call it.
    pub label: Arc<str>,
    /// The base, expanded.
    pub base_name: String,
    /// Where the base is named.
    pub span: Span,
    /// `FROM --platform`.
    pub platform: Option<Arc<Platform>>,
    /// A stage of this file it stands on.
    pub base: Option<usize>,
    /// A `--build-context` that replaces the whole stage, with its name.
    pub named: Option<(String, &'a NamedContext)>,
    /// Its base takes its place (`--build-context NAME=target:STAGE`): it has no commands.
    pub replaced: bool,
    /// What it copies and mounts from, and where.
    pub deps: Vec<(usize, Span)>,
    pub commands: Vec<Command<'a>>,
    /// Its set of paths others read from it (only folders care).
    pub paths: usize,
    pub counter: Counter,
    pub ignore_cache: bool,
    /// Triggers found in the base image's config.
    pub triggers: Vec<String>,
    pub onbuild_done: bool,
    pub resolved: bool,
    /// Its result may be used.
    pub dispatched: bool,
    pub state: Option<Box<StageState>>,
    /// Its result.
    pub root: Option<Ref>,
}

impl Node<'_> {
    /// `FROM scratch`.
    pub fn is_on_nothing(&self) -> bool {
        self.base.is_none() && self.named.is_none() && self.base_name == SCRATCH
    }
}

/// An instruction with the stages it reads.
#[derive(Debug)]
pub(super) struct Command<'a> {
    pub instruction: Written<'a>,
    pub sources: Sources,
    pub onbuild: bool,
}

/// An instruction of the file, or of a trigger.
#[derive(Debug)]
pub(super) enum Written<'a> {
    File(&'a Instruction),
    Trigger(Box<Instruction>),
}

impl Deref for Written<'_> {
    type Target = Instruction;

    fn deref(&self) -> &Instruction {
        match self {
            Self::File(i) => i,
            Self::Trigger(i) => i,
        }
    }
}

/// The nodes that an instruction reads.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// `COPY --from`.
    pub copy: Option<usize>,
    /// `RUN`: one per mount.
    pub mounts: Vec<Option<usize>>,
}

impl Sources {
    fn iter(&self) -> impl Iterator<Item = usize> {
        self.copy.into_iter().chain(self.mounts.iter().copied().flatten())
    }
}

impl<'a> super::Cx<'a> {
    pub(super) fn new_node(
        &mut self,
        stage: Option<&'a Stage>,
        base: String,
        span: Span,
    ) -> Node<'a> {
        Node {
            stage,
            label: Arc::default(),
            base_name: base,
            span,
            platform: None,
            base: None,
            named: None,
            replaced: false,
            deps: Vec::new(),
            commands: Vec::new(),
            paths: self.draft.path_set(),
            counter: Counter::default(),
            ignore_cache: false,
            triggers: Vec::new(),
            onbuild_done: false,
            resolved: false,
            dispatched: false,
            state: None,
            root: None,
        }
    }

    /// Adds a node; a base that is a stage declared before is linked.
    pub(super) fn add_node(&mut self, mut node: Node<'a>, link: bool) -> usize {
        let at = self.nodes.len();
        node.label = match node.stage.and_then(|s| s.name.as_deref()) {
            Some(name) => name.into(),
            None => format!("stage-{at}").into(),
        };
        node.counter.stage = node.label.clone();
        if link && let Some(&base) = self.by_name.get(&node.base_name) {
            node.base = Some(base);
            node.paths = self.nodes[base].paths;
        }
        if let Some(name) = node.stage.and_then(|s| s.name.clone()) {
            self.by_name.insert(name, at);
        }
        self.nodes.push(node);
        at
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        match self.by_name.get(name) {
            Some(at) => Some(*at),
            None => self.by_name.get(&name.to_lowercase()).copied(),
        }
    }

    /// The stage `--target` names.
    pub(super) fn target(&mut self) -> Option<usize> {
        let Some(name) = &self.opts.target else {
            return self.ast.stages.len().checked_sub(1);
        };
        let found = self.find(name);
        if found.is_none() {
            let mut d = Diagnostic::new(
                rgraph_ir::Severity::Error,
                "target",
                None,
                format!("target stage \"{name}\" could not be found"),
            );
            let names = self.stage_names();
            d.help = match rgraph_ir::near::nearest(name, names.iter().copied()) {
                Some(near) => Some(format!("did you mean `{near}`?")),
                None if names.is_empty() => Some("no stage has a name".to_owned()),
                None => Some(format!("the stages are {}", names.join(", "))),
            };
            self.diags.push(d);
        }
        found
    }

    pub(super) fn stage_names(&self) -> Vec<&'a str> {
        self.ast.stages.iter().filter_map(|s| s.name.as_deref()).collect()
    }

    /// Reads `--from` and mounts of every stage. Images they name become nodes.
    pub(super) fn link_commands(&mut self) {
        let steps = self.ast.stages.iter().map(|s| s.instructions.len() + 1).sum();
        self.draft.reserve(steps);
        for at in 0..self.ast.stages.len() {
            let stage = &self.ast.stages[at];
            if self.nodes[at].replaced {
                self.nodes[at].onbuild_done = true;
                continue;
            }
            let mut commands = Vec::with_capacity(stage.instructions.len());
            for i in &stage.instructions {
                let sources = self.sources(at, i);
                commands.push(Command { instruction: Written::File(i), sources, onbuild: false });
            }
            self.nodes[at].commands = commands;
        }
    }

    /// The nodes an instruction reads; they become dependencies of `at`.
    pub(super) fn sources(&mut self, at: usize, i: &Instruction) -> Sources {
        let mut out = Sources::default();
        match &i.kind {
            Kind::Copy(c) => {
                let Some(from) = &c.from else { return out };
                let plain = is_plain(&from.text, self.ast.escape)
                    || expand(&from.text, &Nothing, Mode::plain(self.ast.escape))
                        .is_ok_and(|e| e.text == from.text);
                if !plain {
                    self.diags.push(
                        Diagnostic::error(
                            "from-variable",
                            from.span,
                            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
                        )
                        .help(format!("add a stage `FROM {} AS name` and write `--from=name`", from.text)),
                    );
                    return out;
                }
                let found = match from.text.parse::<i64>() {
                    Ok(n) => match usize::try_from(n).ok().filter(|n| *n < self.nodes.len()) {
                        Some(n) => n,
                        None => {
                            self.diags.push(Diagnostic::error(
                                "stage-index",
                                from.span,
                                format!("invalid stage index {n}"),
                            ));
                            return out;
                        }
                    },
                    Err(_) => self.stage_or_image(&from.text, i.span),
                };
                out.copy = Some(found);
            }
            Kind::Run(r) => {
                for m in &r.mounts {
                    out.mounts.push(match m.from.as_ref().filter(|f| !f.text.is_empty()) {
                        Some(from) => Some(self.stage_or_image(&from.text, i.span)),
                        // Without `from` BuildKit looks up `scratch`, which a stage may be called.
                        None => {
                            self.extra_nodes = true;
                            self.by_name.get("scratch").copied()
                        }
                    });
                }
            }
            _ => {}
        }
        for source in out.iter() {
            self.nodes[at].deps.push((source, i.span));
        }
        out
    }

    fn stage_or_image(&mut self, name: &str, span: Span) -> usize {
        if let Some(found) = self.find(name) {
            return found;
        }
        if let Some(target) = self.target_context(name, &self.platform) {
            return target;
        }
        self.extra_nodes = true;
        let node = self.new_node(None, name.to_owned(), span);
        self.add_node(node, false)
    }

    /// A stage that, over others, copies from itself is an error.
    pub(super) fn check_cycles(&mut self) {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        for start in 0..self.nodes.len() {
            if marks[start] != Mark::New {
                continue;
            }
            // (node, next dependency to look at); a stack instead of recursion.
            let mut path: Vec<(usize, usize)> = vec![(start, 0)];
            marks[start] = Mark::Open;
            while let Some((at, next)) = path.last_mut() {
                let Some((dep, _)) = self.nodes[*at].deps.get(*next).copied() else {
                    marks[*at] = Mark::Done;
                    path.pop();
                    continue;
                };
                *next += 1;
                match marks[dep] {
                    Mark::Done => {}
                    Mark::New => {
                        marks[dep] = Mark::Open;
                        path.push((dep, 0));
                    }
                    Mark::Open => {
                        let from = path.iter().position(|(n, _)| *n == dep).unwrap_or(0);
                        let mut d = Diagnostic::new(
                            rgraph_ir::Severity::Error,
                            "circular-dependency",
                            None,
                            format!(
                                "circular dependency detected on stage: {}",
                                self.nodes[dep].label
                            ),
                        );
                        for (n, next) in &path[from..] {
                            let deps = &self.nodes[*n].deps;
                            let to = deps[next - 1].0;
                            // The last of the instructions that need it is told.
                            let last = deps.iter().rfind(|(d, _)| *d == to);
                            let span = last.map_or(deps[next - 1].1, |(_, s)| *s);
                            let label = format!(
                                "`{}` needs `{}`",
                                self.nodes[*n].label, self.nodes[to].label
                            );
                            d = d.label(span, label);
                        }
                        self.diags.push(d);
                        return;
                    }
                }
            }
        }
    }

    /// What is lowered: what `target` needs, itself included, or everything.
    pub(super) fn reachable(&self, target: usize) -> Vec<bool> {
        if self.opts.all_stages {
            return vec![true; self.nodes.len()];
        }
        self.needed(target)
    }

    fn needed(&self, target: usize) -> Vec<bool> {
        let mut seen = vec![false; self.nodes.len()];
        let mut todo = vec![target];
        seen[target] = true;
        while let Some(at) = todo.pop() {
            let node = &self.nodes[at];
            for next in node.base.into_iter().chain(node.deps.iter().map(|(d, _)| *d)) {
                if !seen[next] {
                    seen[next] = true;
                    todo.push(next);
                }
            }
        }
        seen
    }

    /// Puts triggers in front of the stages that inherit them. True when there is something new to
    /// resolve. Stages that `target` does not need are looked at without them.
    pub(super) fn run_onbuild(&mut self, target: usize) -> bool {
        let mut new = false;
        for (at, needed) in self.needed(target).into_iter().enumerate() {
            if !needed {
                continue;
            }
            let mut triggers = std::mem::take(&mut self.nodes[at].triggers);
            if let Some(base) = self.nodes[at].base
                && !self.nodes[at].onbuild_done
            {
                self.nodes[at].onbuild_done = true;
                for c in &self.nodes[base].commands {
                    if let Kind::Onbuild(text) = &c.instruction.kind {
                        triggers.push(text.text.to_string());
                    }
                }
            }
            if triggers.is_empty() {
                continue;
            }
            let span = self.nodes[at].span;
            let mut commands = Vec::new();
            for t in triggers {
                match crate::parse::parse_trigger(&t, span) {
                    Ok(i) => {
                        let sources = self.sources(at, &i);
                        new |= sources.copy.is_some() || !sources.mounts.is_empty();
                        commands.push(Command {
                            instruction: Written::Trigger(Box::new(i)),
                            sources,
                            onbuild: true,
                        });
                    }
                    Err(diags) => {
                        let told: BTreeSet<String> =
                            diags.iter().map(|d| d.message.clone()).collect();
                        for message in told {
                            self.diags.push(
                                Diagnostic::error("onbuild", span, message)
                                    .help(format!("the base image says `ONBUILD {t}`")),
                            );
                        }
                    }
                }
            }
            let node = &mut self.nodes[at];
            node.counter.total += commands.len();
            commands.append(&mut node.commands);
            node.commands = commands;
        }
        new
    }
}
