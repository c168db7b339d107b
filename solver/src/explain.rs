//! Why a vertex had to run: the difference between its recipe and the last one at its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rgraph_ir::op::SourceOp;
use rgraph_ir::{Op, Ttl};

use crate::key::{InputKey, KeyRecipe};

/// One reason; its text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MissReason {
    /// Nothing was recorded at this place.
    NeverBuilt,
    /// The cache was not to be asked.
    NoCache,
    /// The result has outlived its time.
    Expired {
        /// How long it was good for.
        ttl: Ttl,
    },
    /// Built like this before, but the result is gone.
    Evicted,
    /// The command differs.
    Command {
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// A variable differs.
    Env {
        /// A build argument, not an `ENV`.
        arg: bool,
        /// Its name.
        name: String,
        /// Last time; `None`: not set.
        old: Option<String>,
        /// Now; `None`: not set.
        new: Option<String>,
    },
    /// A source means something else now.
    BaseMoved {
        /// What it is called.
        name: String,
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// What is read of an input differs.
    Files {
        /// Which paths are looked at.
        paths: Vec<String>,
        /// Whose.
        input: String,
    },
    /// An input is another result.
    InputRebuilt {
        /// The input's name.
        input: String,
    },
    /// Another number or kind of inputs.
    Inputs,
    /// Any other field of the op.
    Field {
        /// Its path.
        path: String,
        /// Last time; `None`: absent.
        old: Option<String>,
        /// Now; `None`: absent.
        new: Option<String>,
    },
}

/// Where an input comes from.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    /// Its vertex's name.
    pub name: &'a str,
    /// Its vertex's op.
    pub op: &'a Op,
    /// What it means, if a source.
    pub pin: Option<&'a str>,
    /// What it meant the last time.
    pub old_pin: Option<&'a str>,
}

/// The reasons, most telling first. `inputs` stand for `new.inputs`, `args` are the names of build
/// arguments. `old` is the last recipe at the same place.
pub fn explain(
    new: &KeyRecipe,
    old: Option<&KeyRecipe>,
    inputs: &[From<'_>],
    args: &BTreeSet<String>,
) -> Vec<MissReason> {
    let Some(old) = old else { return vec![MissReason::NeverBuilt] };
    let mut reasons = Vec::new();
    field_reasons(new, old, args, &mut reasons);
    if new.inputs.len() != old.inputs.len() {
        reasons.push(MissReason::Inputs);
    } else {
        for (i, (n, o)) in new.inputs.iter().zip(&old.inputs).enumerate() {
            if n != o {
                reasons.push(input_reason(n, o, inputs.get(i)));
            }
        }
    }
    if reasons.is_empty() {
        reasons.push(MissReason::Evicted);
    }
    reasons
}

fn input_reason(new: &InputKey, old: &InputKey, from: Option<&From<'_>>) -> MissReason {
    let Some(from) = from else { return MissReason::Inputs };
    match (new, old) {
        (InputKey::Content(n, _), InputKey::Content(o, _)) if n == o => MissReason::Files {
            paths: n.paths.iter().map(|p| p.path.clone()).collect(),
            input: from.name.to_owned(),
        },
        (InputKey::Chain(_), InputKey::Chain(_)) => match (from.op, from.old_pin, from.pin) {
            (Op::Source(s), Some(old), Some(new)) if old != new => MissReason::BaseMoved {
                name: source_name(s),
                old: old.to_owned(),
                new: new.to_owned(),
            },
            _ => MissReason::InputRebuilt { input: from.name.to_owned() },
        },
        // The selector is made from the op, whose own change is told already.
        _ => MissReason::Inputs,
    }
}

fn source_name(s: &SourceOp) -> String {
    match s {
        SourceOp::Image(i) => i.reference.clone(),
        SourceOp::Local(l) => l.name.clone(),
        SourceOp::Http(h) => h.url.clone(),
        SourceOp::Git(g) => g.remote.clone(),
        SourceOp::OciLayout(o) => o.reference.clone(),
    }
}

fn field_reasons(
    new: &KeyRecipe,
    old: &KeyRecipe,
    args: &BTreeSet<String>,
    reasons: &mut Vec<MissReason>,
) {
    let map = |r: &KeyRecipe| -> BTreeMap<String, String> { r.fields.iter().cloned().collect() };
    let (n, o) = (map(new), map(old));
    let (is, was) = (command(new), command(old));
    if is != was {
        reasons.push(MissReason::Command { old: was.join(" "), new: is.join(" ") });
    }
    for path in o.keys().chain(n.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (o.get(path), n.get(path));
        if was == is || path.starts_with("exec.args[") {
            continue;
        }
        let (was, is) = (was.cloned(), is.cloned());
        reasons.push(match path.strip_prefix("exec.env.") {
            Some(name) => MissReason::Env {
                arg: args.contains(name),
                name: name.to_owned(),
                old: was,
                new: is,
            },
            None => MissReason::Field { path: path.clone(), old: was, new: is },
        });
    }
    if reasons.is_empty() && new.fields != old.fields {
        let path = "order of the environment".to_owned();
        reasons.push(MissReason::Field { path, old: None, new: None });
    }
}

fn command(r: &KeyRecipe) -> Vec<&str> {
    let args = r.fields.iter().filter(|(p, _)| p.starts_with("exec.args["));
    args.map(|(_, v)| v.as_str()).collect()
}

/// Long values are cut in the middle of nowhere useful, so only their start is shown.
fn short(text: &str) -> String {
    const MOST: usize = 120;
    let text = text.replace('\n', "\\n");
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Digests by their first digits.
fn pin(text: &str) -> String {
    let start = text.rsplit(':').next().unwrap_or(text);
    start.chars().take(12).collect()
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = |f: &mut fmt::Formatter<'_>, old: &Option<String>, new: &Option<String>| match (
            old, new,
        ) {
            (Some(o), Some(n)) => write!(f, "{} to {}", short(o), short(n)),
            (None, Some(n)) => write!(f, "set to {}", short(n)),
            (Some(o), None) => write!(f, "no longer {}", short(o)),
            (None, None) => f.write_str("changed"),
        };
        match self {
            Self::NeverBuilt => f.write_str("not built here before"),
            Self::NoCache => f.write_str("the cache is ignored for this step"),
            Self::Expired { ttl } => write!(f, "older than {ttl} (ttl)"),
            Self::Evicted => f.write_str("built before, but the result is gone"),
            Self::Command { old, new } => {
                write!(f, "command: `{}` to `{}`", short(old), short(new))
            }
            Self::Env { arg, name, old, new } => {
                write!(f, "{} {name}: ", if *arg { "ARG" } else { "ENV" })?;
                change(f, old, new)
            }
            Self::BaseMoved { name, old, new } => {
                write!(f, "base {name} moved {} to {}", pin(old), pin(new))
            }
            Self::Files { paths, input } => {
                write!(f, "{} of {input} changed", short(&paths.join(", ")))
            }
            Self::InputRebuilt { input } => write!(f, "{input} gave another result"),
            Self::Inputs => f.write_str("other inputs"),
            Self::Field { path, old, new } => {
                write!(f, "{path}: ")?;
                change(f, old, new)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rgraph_ir::op::{ImageSource, ResolveMode, Selector};
    use rgraph_ir::{CacheKey, TreeDigest};

    use super::*;

    fn recipe(fields: &[(&str, &str)], inputs: &[InputKey]) -> KeyRecipe {
        let fields = fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        KeyRecipe { fields, op: [0; 32], pin: None, inputs: inputs.to_vec() }
    }

    #[test]
    fn each_cause_has_its_line() {
        let op = Op::Source(SourceOp::Image(ImageSource {
            reference: "debian:bookworm".into(),
            resolve: ResolveMode::Default,
        }));
        let moved = From { name: "FROM", op: &op, pin: Some("c3d4"), old_pin: Some("a1b2") };
        let chain = |s: &str| InputKey::Chain(CacheKey::of(s.as_bytes()));
        let files =
            |s: &str| InputKey::Content(Selector::path("/src"), TreeDigest::of(s.as_bytes()));
        let base = [("exec.args[0]", "make"), ("exec.env.V", "1"), ("exec.cwd", "/")];
        let with = |at: usize, v: &'static str| {
            let mut fields = base;
            fields[at].1 = v;
            recipe(&fields, &[chain("a"), files("a")])
        };
        let same = with(0, "make");
        let mut fewer = same.clone();
        fewer.fields.remove(1);
        let mut reordered = same.clone();
        reordered.fields.swap(1, 2);
        let table = [
            (same.clone(), "built before, but the result is gone"),
            (with(0, "cc"), "command: `make` to `cc`"),
            (with(1, "2"), "ARG V: 1 to 2"),
            (with(2, "/x"), "exec.cwd: / to /x"),
            (fewer, "ARG V: no longer 1"),
            (reordered, "order of the environment: changed"),
            (recipe(&base, &[chain("b"), files("a")]), "base debian:bookworm moved a1b2 to c3d4"),
            (recipe(&base, &[chain("a"), files("b")]), "/src of src changed"),
            (recipe(&base, &[chain("a")]), "other inputs"),
        ];
        let args = BTreeSet::from(["V".to_owned()]);
        let src = From { name: "src", op: &op, pin: None, old_pin: None };
        for (new, want) in &table {
            let got = explain(new, Some(&same), &[moved, src], &args);
            let got: Vec<_> = got.iter().map(ToString::to_string).collect();
            assert_eq!(got, [*want]);
        }
        assert_eq!(explain(&same, None, &[], &args), [MissReason::NeverBuilt]);
        let got = explain(
            &recipe(&base, &[chain("a"), chain("z")]),
            Some(&recipe(&base, &[chain("a"), chain("y")])),
            &[moved, src],
            &BTreeSet::new(),
        );
        assert_eq!(got[0].to_string(), "src gave another result");
    }
}
