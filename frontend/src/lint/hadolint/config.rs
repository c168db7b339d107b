//! Rules about `USER`, `ENV` and `LABEL`.

use std::collections::{HashMap, HashSet};

use super::view::{View, names_in};
use super::{Finding, Report, rules};
use crate::ast::{Kind, Pair};

/// DL3002, DL3044, DL3048, DL3066.
pub(super) fn check(stages: &[View<'_>], report: &mut Report<'_>) {
    // Names that a stage, or one below it, sets; a child takes its parent's set when it is the last.
    let mut known: Vec<HashSet<&str>> = Vec::with_capacity(stages.len());
    let mut children = vec![0usize; stages.len()];
    stages.iter().filter_map(|v| v.parent).for_each(|p| children[p] += 1);
    for view in stages {
        let mut names = match view.parent {
            None => HashSet::new(),
            Some(p) => {
                children[p] -= 1;
                if children[p] == 0 { std::mem::take(&mut known[p]) } else { known[p].clone() }
            }
        };
        let mut last_user = None;
        for step in view.steps.iter().filter(|s| !s.onbuild) {
            let finding = match &step.at.kind {
                Kind::User(user) => {
                    last_user = Some((step, user));
                    by_name(&user.text)
                }
                Kind::Arg(defs) => {
                    names.extend(defs.iter().map(|d| d.key.text.as_str()));
                    None
                }
                Kind::Env(pairs) => {
                    let f = refers_to_itself(pairs, &names, report.ast.escape);
                    names.extend(pairs.iter().map(|p| p.key.text.as_str()));
                    f
                }
                Kind::Label(pairs) => label(pairs),
                _ => None,
            };
            if let Some(f) = finding {
                report.step(view, step.at, f);
            }
        }
        if let Some((step, user)) = last_user.filter(|(_, u)| is_root(&u.text)) {
            let message = format!("the last `USER` of this stage is `{}`", user.text);
            let help = "end the stage with a `USER` that is not root";
            report.step(view, step.at, Finding::new(&rules::DL3002, message, help).at(&user.text));
        }
        known.push(names);
    }
}

fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), Some("root" | "0"))
}

fn by_name(user: &str) -> Option<Finding> {
    let name = user.split(':').next().unwrap_or(user);
    if name.contains('$') || name.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let message = format!(
        "`{name}` is a name, and who runs the image may need a number to know the user is not root"
    );
    Some(Finding::new(&rules::DL3066, message, "write the user's number").at(name))
}

fn refers_to_itself(pairs: &[Pair], known: &HashSet<&str>, escape: char) -> Option<Finding> {
    if pairs.len() < 2 {
        return None;
    }
    let mut set: HashMap<&str, usize> = HashMap::new();
    pairs.iter().for_each(|p| *set.entry(p.key.text.as_str()).or_default() += 1);
    for pair in pairs {
        let used = names_in(&pair.value.text, escape);
        let own = pair.key.text.as_str();
        // A value may use what its own name stood for before.
        let here = |n: &str| set.get(n).copied().unwrap_or(0) > usize::from(n == own);
        let hit = used.iter().find(|n| here(n) && !known.contains(n.as_str()));
        if let Some(name) = hit {
            let message = format!(
                "`{own}` uses `{name}`, which this `ENV` sets: the value from before it is taken"
            );
            let help = format!("set `{name}` in an `ENV` of its own above");
            return Some(Finding::new(&rules::DL3044, message, help).at(own));
        }
    }
    None
}

fn label(pairs: &[Pair]) -> Option<Finding> {
    const RESERVED: [&str; 3] = ["com.docker.", "io.docker.", "org.dockerproject."];
    let why = |key: &str| {
        if let Some(r) = RESERVED.iter().find(|r| key.starts_with(*r)) {
            return Some(format!("names under `{r}` are Docker's own"));
        }
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_/".contains(&b);
        if !key.bytes().all(legal) {
            return Some(
                "only a-z, 0-9 and `.`, `-`, `_`, `/` may stand in a label's name".to_owned(),
            );
        }
        if !key.starts_with(|c: char| c.is_ascii_lowercase())
            || !key.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        {
            return Some(
                "a label's name begins with a letter and ends with a letter or digit".to_owned(),
            );
        }
        let twice = key.contains("..") || key.contains("--");
        twice.then(|| "two `.` or `-` in a row".to_owned())
    };
    pairs.iter().find_map(|p| {
        let key = p.key.text.trim_matches(['"', '\'']);
        let why = (!key.contains('$')).then(|| why(key)).flatten()?;
        let message = format!("label `{key}` has a name that tools may refuse");
        Some(Finding::new(&rules::DL3048, message, why).at(key))
    })
}
