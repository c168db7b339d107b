//! The last build of this place, and which of its steps is which of the present ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rgraph_ir::{CacheKey, Graph, VertexId};

use crate::key::{Slot, op_digest};
use crate::state::slots;

/// A step of an earlier build that had a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastStep {
    /// Where it stood.
    pub slot: Slot,
    /// Digest of its description and platform.
    pub op: [u8; 32],
    /// Its key.
    pub key: CacheKey,
    /// What its users were keyed by.
    pub canonical: CacheKey,
    /// Its progress line.
    pub name: String,
}

/// A build, as far as it explains a later one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PastBuild {
    /// The steps that had results.
    pub steps: Vec<PastStep>,
    /// Names of its build arguments.
    pub args: BTreeSet<String>,
}

/// What a present step was in the last build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before<'a> {
    /// This step.
    Step(&'a PastStep),
    /// It was not there, though others of its stage were.
    New,
    /// Nothing is known of its stage.
    Unknown,
}

/// See the module.
pub(super) struct Past {
    steps: Vec<PastStep>,
    pub(super) args: BTreeSet<String>,
    /// Of each vertex, the past step that it is.
    of: Vec<Option<usize>>,
    /// Vertices whose stage was there.
    known: Vec<bool>,
    by_canonical: HashMap<CacheKey, usize>,
    slots: Vec<Slot>,
}

/// A slot without its number, and the number.
fn split(slot: &Slot) -> (&str, u32) {
    let (group, n) = slot.0.rsplit_once('#').unwrap_or((&slot.0, ""));
    (group, n.parse().unwrap_or(0))
}

/// The stage and platform of a slot's group: all but the op's kind.
fn stage(group: &str) -> &str {
    group.rsplit_once('/').map_or(group, |(stage, _)| stage)
}

/// Of a stage without a name, what comes before its number, and the number.
fn unnamed(stage: &str) -> Option<(&str, u32)> {
    let (before, name) = stage.rsplit_once('/')?;
    let number = name.split_once(':')?.1.strip_prefix("stage-")?.parse().ok()?;
    Some((before, number))
}

/// A stage that comes or goes changes the numbers of those after it that have no name: as long as
/// there are as many as before, each is taken for the one at its place among them.
fn renumber(steps: &mut [PastStep], slots: &[Slot]) {
    fn numbers<'s>(slots: impl Iterator<Item = &'s Slot>) -> BTreeMap<String, BTreeSet<u32>> {
        let mut all: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for slot in slots {
            if let Some((before, n)) = unnamed(stage(split(slot).0)) {
                all.entry(before.to_owned()).or_default().insert(n);
            }
        }
        all
    }
    let (old, new) = (numbers(steps.iter().map(|s| &s.slot)), numbers(slots.iter()));
    for step in steps {
        let (group, at) = split(&step.slot);
        let Some((before, n)) = unnamed(stage(group)) else { continue };
        let (Some(o), Some(n_all)) = (old.get(before), new.get(before)) else { continue };
        let place = o.iter().position(|x| *x == n);
        let Some(now) = place.and_then(|p| n_all.iter().nth(p)) else { continue };
        if o.len() == n_all.len() && *now != n {
            let (kind, name) = (group.rsplit('/').next().unwrap_or(""), format!("stage-{now}"));
            step.slot = Slot(format!("{before}/{}:{name}/{kind}#{at}", name.len()));
        }
    }
}

impl Past {
    /// Finds the steps of the last build in `graph`: equal descriptions first, in order; what is left
    /// between two of them is paired in order, and is the same instruction edited.
    pub(super) fn new(last: PastBuild, graph: &Graph, place: &str) -> Self {
        let PastBuild { mut steps, args } = last;
        let slots = slots(graph, place);
        renumber(&mut steps, &slots);
        let mut old: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, s) in steps.iter().enumerate() {
            old.entry(split(&s.slot).0).or_default().push(i);
        }
        for list in old.values_mut() {
            list.sort_by_key(|i| split(&steps[*i].slot).1);
        }
        let mut new: BTreeMap<&str, Vec<VertexId>> = BTreeMap::new();
        for (id, _) in graph.iter() {
            new.entry(split(&slots[id.at()]).0).or_default().push(id);
        }
        let mut of = vec![None; graph.len()];
        let mut known = vec![false; graph.len()];
        let stages: Vec<&str> = old.keys().map(|g| stage(g)).collect();
        for (group, vertices) in &new {
            let there = stages.contains(&stage(group));
            for v in vertices {
                known[v.at()] = there;
            }
            let Some(old) = old.get(group) else { continue };
            align(&steps, old, graph, vertices, &mut of);
        }
        let by_canonical = steps.iter().enumerate().map(|(i, s)| (s.canonical, i)).collect();
        Self { steps, args, of, known, by_canonical, slots }
    }

    pub(super) fn before(&self, v: VertexId) -> Before<'_> {
        match (self.of[v.at()], self.known[v.at()]) {
            (Some(i), _) => Before::Step(&self.steps[i]),
            (None, true) => Before::New,
            (None, false) => Before::Unknown,
        }
    }

    pub(super) fn slot(&self, v: VertexId) -> &Slot {
        &self.slots[v.at()]
    }

    /// The step whose result an old key stood for.
    pub(super) fn by_key(&self, canonical: CacheKey) -> Option<&PastStep> {
        self.by_canonical.get(&canonical).map(|i| &self.steps[*i])
    }

    /// Whether a past step is still there.
    pub(super) fn is_present(&self, step: &PastStep) -> bool {
        self.of.iter().flatten().any(|i| self.steps[*i].slot == step.slot)
    }
}

/// Pairs one stage's steps of one kind.
fn align(
    steps: &[PastStep],
    old: &[usize],
    graph: &Graph,
    new: &[VertexId],
    of: &mut [Option<usize>],
) {
    let ops: Vec<[u8; 32]> = new
        .iter()
        .map(|v| {
            let v = graph.vertex(*v);
            op_digest(&v.op, v.platform.as_deref())
        })
        .collect();
    // Positions in `old` of those that are found again.
    let mut at: Vec<Option<usize>> = vec![None; new.len()];
    let mut used = vec![false; old.len()];
    for (i, op) in ops.iter().enumerate() {
        let fits = |o: &usize| !used[*o] && steps[old[*o]].op == *op;
        // The one at the same place, so that of several equal ones none changes its place.
        let found = Some(i).filter(|i| *i < old.len()).filter(fits);
        let found = found.or_else(|| (0..old.len()).find(fits));
        if let Some(o) = found {
            used[o] = true;
            at[i] = Some(o);
        }
    }
    let mut i = 0;
    while i < new.len() {
        if at[i].is_some() {
            i += 1;
            continue;
        }
        let end = (i..new.len()).find(|j| at[*j].is_some()).unwrap_or(new.len());
        let from = i.checked_sub(1).and_then(|b| at[b]).map_or(0, |o| o + 1);
        let to = at.get(end).copied().flatten().unwrap_or(old.len());
        let mut free = (from..to).filter(|o| !used[*o]).collect::<Vec<_>>().into_iter();
        for slot in &mut at[i..end] {
            *slot = free.next();
        }
        i = end;
    }
    for (v, o) in new.iter().zip(at) {
        of[v.at()] = o.map(|o| old[o]);
    }
}
