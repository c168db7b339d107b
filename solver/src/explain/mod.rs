//! Why a vertex had to run: what differs between its recipe and the one that stood at its place in
//! the last build.
//!
//! The words come from the key's own description ([`rgraph_ir::op::words`]), the files from lists that
//! caches keep beside content digests ([`ResultCache::changed_files`]), the place from the steps of
//! the last build ([`ResultCache::last_build`]). Whatever is not known makes the line shorter, never
//! wrong. Nothing here runs for a step that a cache answers.

mod files;
mod past;
mod reason;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use rgraph_ir::fields::FieldList;
use rgraph_ir::op::words::{FieldChange, changes};
use rgraph_ir::op::{FileActionKind, Selector, SourceOp};
use rgraph_ir::pattern::PatternSet;
use rgraph_ir::{CacheKey, Graph, Op, TreeDigest, Ttl, Vertex, VertexId};

pub use files::{FileChange, FileChanges, FileFate};
pub use past::{PastBuild, PastStep};
pub use reason::{Elsewhere, MissReason, Who};

use crate::key::{InputKey, KeyRecipe};
use crate::ports::{ResultCache, Tree};
use past::{Before, Past};

/// What is asked: why this vertex runs.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The vertex.
    pub vertex: VertexId,
    /// The parts of its key.
    pub recipe: &'a KeyRecipe,
    /// Of each input: its tree, and what it means, if a source.
    pub inputs: &'a [(Tree, Option<String>)],
    /// There is a result, and it has outlived this.
    pub expired: Option<Ttl>,
}

/// Explains the vertices of one solve.
pub struct Explainer<'a> {
    graph: &'a Graph,
    cache: &'a dyn ResultCache,
    place: &'a str,
    /// Names of build arguments.
    args: &'a BTreeSet<String>,
    past: OnceLock<Past>,
}

impl<'a> Explainer<'a> {
    /// An explainer for `graph`, built at `place`. Asks nothing yet.
    pub fn new(
        graph: &'a Graph,
        cache: &'a dyn ResultCache,
        place: &'a str,
        args: &'a BTreeSet<String>,
    ) -> Self {
        Self { graph, cache, place, args, past: OnceLock::new() }
    }

    fn past(&self) -> &Past {
        self.past.get_or_init(|| Past::new(self.cache.last_build(), self.graph, self.place))
    }

    /// The reasons, most telling first; never none.
    pub fn explain(&self, q: &Question<'_>) -> Vec<MissReason> {
        let vertex = self.graph.vertex(q.vertex);
        if let Some(ttl) = q.expired {
            return vec![MissReason::Expired { ttl }];
        }
        if vertex.meta.ignore_cache {
            return vec![MissReason::NoCache];
        }
        let before = self.past().before(q.vertex);
        let old = match before {
            // The second half of a copy with `--link`, which its first half tells of.
            Before::New if matches!(vertex.op, Op::Merge(_)) => {
                return vec![MissReason::Link { set: true }];
            }
            Before::New => return vec![MissReason::NewStep],
            Before::Step(step) if step.key == q.recipe.key() => return vec![MissReason::Evicted],
            Before::Step(step) => self.cache.recipe(step.key).ok().flatten(),
            Before::Unknown => None,
        };
        let old = match old {
            Some(old) => old,
            // Older builds may know the place.
            None => match self.cache.last_recipe(self.past().slot(q.vertex)).ok().flatten() {
                Some(old) => old,
                None if matches!(before, Before::Step(_)) => return vec![MissReason::Forgotten],
                None => {
                    let (slot, platform) = (self.past().slot(q.vertex), vertex.platform.as_deref());
                    let elsewhere = self.cache.elsewhere(slot, &vertex.op, platform);
                    return vec![MissReason::NeverBuilt { elsewhere }];
                }
            },
        };
        let mut reasons = Vec::new();
        self.fields(q, &old, before, &mut reasons);
        let told = !reasons.is_empty();
        self.inputs(q, &old, told, &mut reasons);
        if reasons.is_empty() {
            let gone = old.key() == q.recipe.key();
            reasons.push(if gone { MissReason::Evicted } else { MissReason::Inputs });
        }
        reasons
    }

    /// What differs in the instruction itself.
    fn fields(
        &self,
        q: &Question<'_>,
        old: &KeyRecipe,
        before: Before<'_>,
        out: &mut Vec<MissReason>,
    ) {
        let command = self.graph.vertex(q.vertex).meta.command.as_deref().unwrap_or_default();
        let all = changes(&old.fields, &q.recipe.fields);
        let agent = all.iter().any(|c| {
            matches!(c, FieldChange::Member { words, .. } if words.starts_with("--mount=type=ssh"))
        });
        for change in all {
            out.push(match change {
                FieldChange::Args { old, new } => args(&old, &new, command),
                // Set for the agent's socket, by nobody else.
                FieldChange::Env { name, .. } if agent && name == "SSH_AUTH_SOCK" => continue,
                FieldChange::Env { name, old, new } => {
                    // Of one that is gone, only the last build knows.
                    let args = if new.is_some() { self.args } else { &self.past().args };
                    MissReason::Env { arg: args.contains(&name), name, old, new }
                }
                FieldChange::EnvOrder => MissReason::EnvOrder,
                FieldChange::Value { words, old, new } => {
                    let url = (words == "source").then(|| self.url(q)).flatten();
                    url.unwrap_or(MissReason::Field { words, old, new })
                }
                FieldChange::Service { name, old, new } => MissReason::Service { name, old, new },
                FieldChange::Member { words, added } => MissReason::Member { words, added },
                FieldChange::MemberOrder { words } => MissReason::Order { words: words.to_owned() },
                FieldChange::Base { .. } => {
                    let was = match before {
                        Before::Step(step) => step.name.contains(" --link"),
                        _ => continue,
                    };
                    let is = command.contains(" --link");
                    if was == is {
                        continue; // what it stands on is told with the inputs
                    }
                    MissReason::Link { set: is }
                }
                FieldChange::Wiring => continue,
            });
        }
    }

    /// What differs in what it stands on and reads. `told`: the instruction itself differs, which is
    /// why inputs may be other ones.
    fn inputs(&self, q: &Question<'_>, old: &KeyRecipe, told: bool, out: &mut Vec<MissReason>) {
        let same = old.inputs.len() == q.recipe.inputs.len();
        let mut before: Vec<Option<&InputKey>> = old.inputs.iter().map(Some).collect();
        for (i, now) in q.recipe.inputs.iter().enumerate() {
            // Of another number of inputs, those are compared that are keyed alike.
            let was = if same {
                before[i].take()
            } else {
                let alike = |o: &Option<&InputKey>| match (o, now) {
                    (Some(InputKey::Chain(_)), InputKey::Chain(_)) => true,
                    (Some(InputKey::Content(o, _)), InputKey::Content(n, _)) => o == n,
                    _ => false,
                };
                before.iter().position(alike).and_then(|at| before[at].take())
            };
            match was {
                Some(was) if was == now => {}
                Some(was) => out.extend(self.input(q, i, now, was, told)),
                None if told => {}
                None => out.push(match self.past().before(self.input_vertex(q, i)) {
                    Before::New => MissReason::Inserted { who: self.who(q, i) },
                    _ => MissReason::Inputs,
                }),
            }
        }
        if same || told {
            return;
        }
        for gone in before.into_iter().flatten() {
            if let InputKey::Chain(k) = gone
                && let Some(step) = self.past().by_key(*k)
            {
                out.push(MissReason::Removed { name: step.name.clone() });
            }
        }
    }

    fn input_vertex(&self, q: &Question<'_>, i: usize) -> VertexId {
        self.graph.vertex(q.vertex).inputs[i].vertex
    }

    fn input(
        &self,
        q: &Question<'_>,
        i: usize,
        now: &InputKey,
        was: &InputKey,
        told: bool,
    ) -> Option<MissReason> {
        match (now, was) {
            (InputKey::Content(sel, new), InputKey::Content(old_sel, old)) if sel == old_sel => {
                Some(self.content(q, i, sel, *old, *new))
            }
            (InputKey::Chain(_), InputKey::Chain(old)) => Some(self.chain(q, i, *old)),
            // The selector is made from the op, whose own change is told already.
            _ if told => None,
            _ => Some(MissReason::Inputs),
        }
    }

    /// What is read of an input differs.
    fn content(
        &self,
        q: &Question<'_>,
        i: usize,
        sel: &Selector,
        old: TreeDigest,
        new: TreeDigest,
    ) -> MissReason {
        let from = self.graph.vertex(self.input_vertex(q, i));
        let changes = self.cache.changed_files(sel, old, new).filter(|c| !c.is_empty());
        let whose = match &from.op {
            Op::Source(SourceOp::Local(l)) if l.name == "context" => None,
            Op::Source(SourceOp::Local(l)) => Some(format!("context {}", l.name)),
            Op::File(f)
                if f.actions.iter().all(|a| matches!(a.kind, FileActionKind::Mkfile(_))) =>
            {
                Some("heredoc".to_owned())
            }
            op => {
                let source = || match op {
                    Op::Source(s) => self.source(q, i).or_else(|| self.context_is(q, s)),
                    _ => None,
                };
                return (self.another_source(q, i).or_else(source))
                    .unwrap_or(MissReason::Rebuilt { who: self.who(q, i), changes });
            }
        };
        match changes {
            Some(changes) => MissReason::Files { whose, changes },
            None => MissReason::Content {
                paths: sel.paths.iter().map(|p| p.path.clone()).collect(),
                input: whose.unwrap_or_else(|| "the context".to_owned()),
            },
        }
    }

    /// Where input `i` comes from by `--from=` or `from=`, when that is what was edited.
    fn another_source(&self, q: &Question<'_>, i: usize) -> Option<MissReason> {
        let Before::Step(step) = self.past().before(q.vertex) else { return None };
        let (old, new) = (froms(&step.name), froms(&self.graph.vertex(q.vertex).meta.name));
        let edited = old.iter().zip(&new).position(|(o, n)| o != n)?;
        let from = self.graph.vertex(self.input_vertex(q, i));
        let kept = |name: &str| new.iter().zip(&old).any(|(n, o)| n == o && *n == name);
        let is_kept = match &from.op {
            Op::Source(s) => kept(&source_name(s)),
            _ => from.meta.stage.as_deref().is_some_and(kept),
        };
        (old.len() == new.len() && !is_kept).then(|| MissReason::Field {
            words: "from".to_owned(),
            old: Some(old[edited].to_owned()),
            new: Some(new[edited].to_owned()),
        })
    }

    /// Another URL that an `ADD` names: the name of its file follows from it.
    fn url(&self, q: &Question<'_>) -> Option<MissReason> {
        let vertex = self.graph.vertex(q.vertex);
        let is_http = |i: &usize| {
            let op = &self.graph.vertex(self.input_vertex(q, *i)).op;
            matches!(op, Op::Source(SourceOp::Http(_)))
        };
        let urls = (0..vertex.inputs.len()).filter(is_http);
        urls.filter_map(|i| self.source(q, i)).find(|r| matches!(r, MissReason::Field { .. }))
    }

    /// A source that is what it was, under a name that stood for something else.
    fn context_is(&self, q: &Question<'_>, now: &SourceOp) -> Option<MissReason> {
        let is = source_name(now);
        let mut names = froms(&self.graph.vertex(q.vertex).meta.name);
        names.retain(|n| *n != is && !self.is_stage(n));
        match names[..] {
            [name] => Some(MissReason::Field {
                words: format!("--build-context {name}"),
                old: None,
                new: Some(is),
            }),
            _ => None,
        }
    }

    /// Whether some step of the graph is of a stage of this name, as its line says.
    fn is_stage(&self, name: &str) -> bool {
        let of_it = |v: &Vertex| {
            let head = v.meta.name.strip_prefix('[').and_then(|n| n.split_once(']'));
            let words: Vec<&str> = head.map_or_else(Vec::new, |(h, _)| h.split(' ').collect());
            words.windows(2).any(|w| w[0] == name && w[1].contains('/'))
        };
        self.graph.iter().any(|(_, v)| of_it(v))
    }

    /// What it stands on differs.
    fn chain(&self, q: &Question<'_>, i: usize, old: CacheKey) -> MissReason {
        let v = self.input_vertex(q, i);
        if matches!(self.graph.vertex(v).op, Op::Source(_))
            && let Some(moved) = self.source(q, i)
        {
            return moved;
        }
        let past = self.past();
        let (was, now) = (past.by_key(old), past.before(v));
        let rebuilt = || {
            let changes = self.cache.changed_tree(old, q.inputs[i].0);
            MissReason::Rebuilt { who: self.who(q, i), changes: changes.filter(|c| !c.is_empty()) }
        };
        match (was, now) {
            (Some(was), _) if self.are_halves(was, v) => rebuilt(),
            (Some(was), Before::Step(now)) if was.slot != now.slot => {
                if past.is_present(was) {
                    MissReason::Moved { old: was.name.clone(), new: self.who(q, i) }
                } else {
                    MissReason::Removed { name: was.name.clone() }
                }
            }
            (_, Before::New) => MissReason::Inserted { who: self.who(q, i) },
            _ => rebuilt(),
        }
    }

    /// Whether a past step and a vertex are the same instruction, one of them what `COPY --link` lays
    /// on top of the step below.
    fn are_halves(&self, was: &PastStep, v: VertexId) -> bool {
        let vertex = self.graph.vertex(v);
        let place = |name: &str| name.split_once(']').map(|(place, _)| place.to_owned());
        (matches!(vertex.op, Op::Merge(_)) || was.name.contains("] LINK "))
            && place(&was.name).is_some_and(|p| place(&vertex.meta.name) == Some(p))
    }

    /// A source that is another one, or means something else.
    fn source(&self, q: &Question<'_>, i: usize) -> Option<MissReason> {
        let v = self.input_vertex(q, i);
        let vertex = self.graph.vertex(v);
        let Op::Source(op) = &vertex.op else { return None };
        let past = self.past();
        let old = match past.before(v) {
            Before::Step(step) => self.cache.recipe(step.key),
            _ => self.cache.last_recipe(past.slot(v)),
        };
        let old = old.ok().flatten()?;
        let now = FieldList::of("", &vertex.op);
        let edited: Vec<_> = changes(&old.fields, &now)
            .into_iter()
            .filter_map(|c| match c {
                FieldChange::Value { old, new, words } => Some((words, old, new)),
                _ => None,
            })
            .collect();
        let named = edited.iter().find(|(words, ..)| words == "FROM");
        let named = named.and_then(|(_, old, new)| Some((old.as_deref()?, new.as_deref()?)));
        // Recipes of equal images are one, and name the image that was recorded first: how it was
        // called here is in the step's line.
        let named = match (past.before(v), op) {
            (Before::Step(step), SourceOp::Image(now)) => match image_of(&step.name) {
                Some(was) => Some((was, now.reference.as_str())),
                None => named,
            },
            _ => named,
        };
        if let Some((old, new)) = named {
            // A tag's digest stands behind it.
            let split = |r: &str| match r.split_once('@') {
                Some((name, digest)) => (plain(name), Some(digest.to_owned())),
                None => (plain(r), None),
            };
            match (split(old), split(new)) {
                ((o, Some(old)), (n, Some(new))) if o == n && old != new => {
                    return Some(MissReason::BaseMoved { name: n, old, new });
                }
                ((old, _), (new, _)) if old != new => {
                    return Some(MissReason::BaseOther { old, new });
                }
                _ => {}
            }
        }
        let is_image = matches!(op, SourceOp::Image(_) | SourceOp::OciLayout(_));
        let told = |words: &str| !matches!(words, "platform" | "file name");
        let other = edited.into_iter().find(|(words, ..)| told(words));
        if !is_image && let Some((words, old, new)) = other {
            // Another URL, branch or folder of the repository.
            return Some(MissReason::Field { words, old, new });
        }
        match (old.pin, &q.inputs[i].1) {
            (Some(old), Some(new)) if old != *new => {
                let (name, new) = (source_name(op), new.clone());
                Some(if is_image {
                    MissReason::BaseMoved { name, old, new }
                } else {
                    MissReason::SourceMoved { name, old, new }
                })
            }
            _ => None,
        }
    }

    /// How an input is called in a line about the vertex.
    fn who(&self, q: &Question<'_>, i: usize) -> Who {
        let own = &self.graph.vertex(q.vertex).meta;
        let meta = &self.graph.vertex(self.input_vertex(q, i)).meta;
        match (&meta.stage, number(&meta.name)) {
            (Some(stage), Some(n)) if own.stage.as_ref() == Some(stage) => {
                if number(&own.name) == Some(n) { Who::Own } else { Who::Step(n) }
            }
            (Some(stage), _) if own.stage.as_ref() != Some(stage) => Who::Stage(stage.to_string()),
            _ => Who::Named(meta.name.clone()),
        }
    }
}

/// What the flags of an instruction name by `--from=` and `from=`.
fn froms(instruction: &str) -> Vec<&str> {
    let flags = instruction.split_whitespace().filter_map(|w| w.strip_prefix("--"));
    let parts = flags.flat_map(|f| f.strip_prefix("mount=").unwrap_or(f).split(','));
    parts.filter_map(|p| p.strip_prefix("from=")).collect()
}

/// The image of `[build 1/4] FROM debian`.
fn image_of(name: &str) -> Option<&str> {
    name.split_once("] FROM ")?.1.split_whitespace().find(|w| !w.starts_with("--"))
}

/// The 2 of `[build 2/4] RUN make`.
fn number(name: &str) -> Option<u32> {
    let (inside, _) = name.strip_prefix('[')?.split_once(']')?;
    let (n, _) = inside.rsplit(' ').next()?.split_once('/')?;
    n.parse().ok()
}

/// An image as it is written in a Dockerfile.
fn plain(reference: &str) -> String {
    let reference = reference.split('@').next().unwrap_or(reference);
    let short = reference.strip_prefix("docker.io/").unwrap_or(reference);
    short.strip_prefix("library/").unwrap_or(short).to_owned()
}

fn source_name(s: &SourceOp) -> String {
    match s {
        SourceOp::Image(i) => plain(&i.reference),
        SourceOp::Local(l) => l.name.clone(),
        SourceOp::Http(h) => h.url.clone(),
        SourceOp::Git(g) => match &g.reference {
            Some(reference) => format!("{}#{reference}", g.remote),
            None => g.remote.clone(),
        },
        SourceOp::OciLayout(o) => o.reference.clone(),
    }
}

/// Program and arguments differ: the shell, or what it is told. `instruction` says which form it is.
fn args(old: &[String], new: &[String], instruction: &str) -> MissReason {
    let listed = instruction.split_whitespace().skip(1).find(|w| !w.starts_with("--"));
    let shell_form = !listed.is_some_and(|w| w.starts_with('['));
    let ends = (old.split_last(), new.split_last());
    if shell_form && let (Some((old_end, old_shell)), Some((new_end, new_shell))) = ends {
        if old_end == new_end {
            return MissReason::Shell { old: old_shell.join(" "), new: new_shell.join(" ") };
        }
        if old_shell == new_shell {
            return MissReason::Command { old: old_end.clone(), new: new_end.clone() };
        }
    }
    MissReason::Command { old: old.join(" "), new: new.join(" ") }
}

/// Turns files that went or came into what an ignore rule did to them.
pub fn judge_rules(changes: &mut FileChanges, old: &[String], new: &[String]) {
    if old == new {
        return;
    }
    let (Ok(old), Ok(new)) = (PatternSet::new(old), PatternSet::new(new)) else { return };
    let hidden = |set: &PatternSet, path: &str| {
        let verdict = set.verdict(path).filter(|v| v.matched)?;
        Some(set.patterns()[verdict.index].to_string())
    };
    for c in &mut changes.files {
        let fate = match c.fate {
            FileFate::Gone if hidden(&old, &c.path).is_none() => {
                hidden(&new, &c.path).map(|rule| FileFate::Hidden { rule })
            }
            FileFate::New if hidden(&new, &c.path).is_none() => {
                hidden(&old, &c.path).map(|rule| FileFate::Shown { rule })
            }
            _ => None,
        };
        if let Some(fate) = fate {
            c.fate = fate;
        }
    }
}

#[cfg(test)]
mod tests;
