//! For which platforms steps are known, wherever that is kept. It only completes the line `not built
//! here before`: nobody signs it, and what is missing or too many does no harm.

use std::collections::{BTreeMap, BTreeSet};

use rgraph_ir::{Op, Platform, TreeDigest};
use rgraph_solver::key::op_digest;
use serde::{Deserialize, Serialize};

/// Most platforms that are named.
const MOST: usize = 8;

/// What a step does, whatever it runs on.
pub fn step(op: &Op) -> TreeDigest {
    TreeDigest::from_bytes(op_digest(op, None))
}

/// Platforms by [`step`]. The names are a stranger's until they are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hints(BTreeMap<TreeDigest, BTreeSet<String>>);

impl Hints {
    /// Notes that a step is known for a platform.
    pub fn note(&mut self, step: TreeDigest, platform: &str) {
        self.0.entry(step).or_default().insert(platform.to_owned());
    }

    /// Takes what others say besides.
    pub fn extend(&mut self, more: Self) {
        for (step, platforms) in more.0 {
            self.0.entry(step).or_default().extend(platforms);
        }
    }

    /// How many steps it is about.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The platforms other than `own` that a step is known for.
    pub fn others(&self, op: &Op, own: Option<&Platform>) -> Vec<String> {
        named(self.0.get(&step(op)).into_iter().flatten().map(String::as_str), own)
    }
}

/// Of some names those that are platforms other than `own`, sorted.
pub fn named<'n>(names: impl Iterator<Item = &'n str>, own: Option<&Platform>) -> Vec<String> {
    let platforms = names.take(MOST).filter_map(|n| n.parse::<Platform>().ok());
    let mut out: Vec<String> =
        platforms.filter(|p| Some(p) != own).map(|p| p.to_string()).collect();
    out.sort_unstable();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgraph_ir::op::{DiffOp, MergeOp};

    #[test]
    fn other_platforms_are_named_and_nonsense_is_not() {
        let (op, other) = (Op::Merge(MergeOp {}), Op::Diff(DiffOp {}));
        let own = Platform::new("linux", "amd64");
        let mut hints = Hints::default();
        for text in ["linux/amd64", "linux/arm64", "linux/arm/v7", "\u{1b}[2J", "linux/arm64"] {
            hints.note(step(&op), text);
        }
        let mut more = Hints::default();
        more.note(step(&op), "linux/s390x");
        hints.extend(more);
        assert_eq!(hints.others(&op, Some(&own)), ["linux/arm/v7", "linux/arm64", "linux/s390x"]);
        assert!(hints.others(&other, None).is_empty());
        let text = serde_json::to_string(&hints).unwrap();
        assert_eq!(serde_json::from_str::<Hints>(&text).unwrap(), hints);
    }
}
