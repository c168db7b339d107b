//! Notes what stages may be told and need while they are lowered, and puts together what concerns one
//! target. Values are those that lowering computes: nothing is expanded by other rules here.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rgraph_ir::{Diagnostic, Severity, Span};

use super::mounts::Wanted;
use super::state::StageState;
use super::{Cx, Outcome, Step};
use crate::ast::{ArgDef, Dockerfile, Kind};
use crate::facts::Facts;
use crate::options::LowerOptions;
use crate::outline::{Arg, Need, Outline, description};

/// What was noted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// `ARG`s above the first `FROM`, with the names their value was made of.
    globals: BTreeMap<String, (Arg, BTreeSet<String>)>,
    stages: BTreeMap<usize, StageNotes>,
}

#[derive(Debug, Default)]
struct StageNotes {
    /// Declared here, with a value of its own.
    args: BTreeMap<String, Arg>,
    /// Declared here.
    used: BTreeSet<String>,
    /// Read by `FROM`; children use them too.
    from: BTreeSet<String>,
    needs: [BTreeMap<String, Need>; 3],
}

const SECRETS: usize = 0;
const SSH: usize = 1;
const CACHES: usize = 2;

impl Notes {
    /// An `ARG` above the first `FROM`.
    pub fn global(&mut self, arg: Arg, mut deps: BTreeSet<String>) {
        // A value made from the one before is made of what that one was made of.
        if deps.remove(&arg.name)
            && let Some((_, before)) = self.globals.get(&arg.name)
        {
            deps.extend(before.iter().cloned());
        }
        self.globals.insert(arg.name.clone(), (arg, deps));
    }

    /// Names that a `FROM` reads.
    pub fn used(&mut self, stage: usize, names: BTreeSet<String>) {
        self.stages.entry(stage).or_default().from.extend(names);
    }

    /// Another thing takes the stage's place.
    pub fn replaced(&mut self, stage: usize) {
        self.stages.remove(&stage);
    }
}

pub(super) fn global(def: &ArgDef, comments: &[String], value: Option<&str>, span: Span) -> Arg {
    let name = def.key.text.to_string();
    let description = description(comments, &name);
    Arg { description, value: value.map(str::to_owned), span, name }
}

impl Cx<'_> {
    /// Notes what an instruction that was just lowered declares or needs.
    pub(super) fn note(&mut self, st: &StageState, step: &Step<'_>) {
        if self.notes.is_none() {
            return;
        }
        let instruction = step.instruction;
        let span = instruction.span;
        match &instruction.kind {
            Kind::Arg(defs) => {
                let values = &st.build_args[st.build_args.len().saturating_sub(defs.len())..];
                let Some(notes) = &mut self.notes else { return };
                let stage = notes.stages.entry(step.node).or_default();
                for (def, (name, value)) in defs.iter().zip(values) {
                    stage.used.insert(name.to_string());
                    let inherited = def.value.is_none()
                        && !self.build_args.contains_key(name.as_str())
                        && self.globals.has(name);
                    if !inherited {
                        let arg = global(def, &instruction.comments, value.as_deref(), span);
                        stage.args.insert(name.to_string(), arg);
                    }
                }
            }
            Kind::Run(run) => {
                for spec in &run.mounts {
                    // What is wrong with a mount was said when it was lowered.
                    let Ok(Some((kind, id, required))) = self.wanted(st, step, spec) else {
                        continue;
                    };
                    let slot = match kind {
                        Wanted::Secret => SECRETS,
                        Wanted::Ssh => SSH,
                        Wanted::Cache => CACHES,
                    };
                    let Some(notes) = &mut self.notes else { return };
                    notes.stages.entry(step.node).or_default().needs[slot]
                        .entry(id.clone())
                        .or_insert(Need { id, required, span });
                }
            }
            _ => {}
        }
    }

    /// Names that the stage `at` uses: its own, and what its `FROM` and those it stands on read.
    fn names(&self, notes: &Notes, mut at: usize) -> Vec<String> {
        let own = notes.stages.get(&at).map(|s| s.used.clone());
        let mut names = own.unwrap_or_default();
        loop {
            names.extend(notes.stages.get(&at).into_iter().flat_map(|s| s.from.iter().cloned()));
            match self.nodes[at].base {
                Some(base) => at = base,
                None => return names.into_iter().collect(),
            }
        }
    }

    /// What concerns `target`.
    fn collect(&self, notes: &Notes, target: usize) -> Outline {
        let mut args: BTreeMap<String, Arg> = BTreeMap::new();
        let mut needs: [BTreeMap<String, Need>; 3] = Default::default();
        let mut globals_seen = HashSet::new();
        let mut seen = vec![false; self.nodes.len()];
        let mut todo = vec![target];
        while let Some(at) = todo.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let node = &self.nodes[at];
            // The base comes first, then what is copied from: the first to declare something wins.
            todo.extend(node.deps.iter().rev().map(|(d, _)| *d));
            todo.extend(node.base);
            let stage = notes.stages.get(&at);
            for (all, own) in needs.iter_mut().zip(stage.iter().flat_map(|s| &s.needs)) {
                for (id, need) in own {
                    // The first that is met stands for all.
                    all.entry(id.clone()).or_insert_with(|| need.clone());
                }
            }
            let mut names = self.names(notes, at);
            while let Some(name) = names.pop() {
                let arg = match stage.and_then(|s| s.args.get(&name)) {
                    Some(arg) => arg.clone(),
                    None => match notes.globals.get(&name) {
                        Some((arg, deps)) if globals_seen.insert(name.clone()) => {
                            names.extend(deps.iter().cloned());
                            arg.clone()
                        }
                        _ => continue,
                    },
                };
                args.entry(name).or_insert(arg);
            }
        }
        let [secrets, ssh, caches] = needs.map(|list| {
            let mut list: Vec<Need> = list.into_values().collect();
            list.sort_by_key(|n| n.span.start);
            list
        });
        let mut args: Vec<Arg> = args.into_values().collect();
        args.sort_by_key(|a| a.span.start);
        let stage = self.nodes[target].stage;
        let name = stage.and_then(|s| s.name.clone());
        let about = stage.zip(name.as_deref()).and_then(|(s, n)| description(&s.comments, n));
        Outline { name, description: about, args, secrets, ssh, caches }
    }
}

/// See [`crate::outline::outline`].
pub(crate) fn outline(ast: &Dockerfile, opts: &LowerOptions) -> Result<Outline, Vec<Diagnostic>> {
    if ast.stages.is_empty() {
        return Err(vec![super::no_stage()]);
    }
    let facts = Facts::offline();
    let implicit = opts.platforms.is_empty();
    let platform = opts.platforms.first().unwrap_or(&opts.build_platform);
    let mut cx = Cx::new(ast, opts, &facts, platform, implicit).map_err(|d| vec![d])?;
    cx.notes = Some(Notes::default());
    let target = match cx.lower_stages() {
        Ok(Ok(target)) => target,
        Ok(Err(Outcome::Missing(_) | Outcome::Done { .. })) => {
            let message = "stubs did not answer everything: this is a defect of rgraph";
            return Err(vec![Diagnostic::new(Severity::Error, "internal", None, message)]);
        }
        Err(e) => return Err(super::in_order(e)),
    };
    let notes = cx.notes.take().unwrap_or_default();
    Ok(cx.collect(&notes, target))
}
