//! Compose files on top of each other: maps key by key, lists one after the other, anything else by
//! the later. `!reset` takes a value away, `!override` keeps the earlier one out.
//!
//! Reference: 13-merge.md of compose-spec/compose-spec.

use std::rc::Rc;

use crate::budget::{Budget, Result};
use crate::yaml::{Node, Tag, What};

/// Keys of a build or service that are pairs, written as a map or as a list.
const PAIRS: &[&str] =
    &["additional_contexts", "args", "environment", "extra_hosts", "labels", "ssh"];

/// `later` on top of `first`.
pub fn merge(first: &Node, later: &Node, budget: &Budget) -> Result<Node> {
    merge_at("", first, later, budget)
}

fn merge_at(key: &str, first: &Node, later: &Node, budget: &Budget) -> Result<Node> {
    // What is merged often must not grow for nothing.
    budget.value(16 * (first.count() + later.count()))?;
    if later.tag == Tag::Override {
        return Ok(later.clone());
    }
    if PAIRS.contains(&key) {
        return maps(&pairs(first)?, &pairs(later)?, budget);
    }
    if key == "build" {
        return maps(&build(first), &build(later), budget);
    }
    match (&first.what, &later.what) {
        (What::Map(_), What::Map(_)) => maps(first, later, budget),
        (What::List(a), What::List(b)) => {
            let all = a.iter().chain(b.iter()).cloned().collect();
            Ok(later.with(What::List(Rc::new(all))))
        }
        _ if later.is_null() => Ok(first.clone()),
        _ => Ok(later.clone()),
    }
}

fn maps(first: &Node, later: &Node, budget: &Budget) -> Result<Node> {
    let mut out: Vec<(Rc<str>, Node)> = first.map()?.to_vec();
    for (key, node) in later.map()? {
        let known = out.iter().rposition(|(k, _)| k == key);
        match (node.tag, known) {
            (Tag::Reset, Some(at)) => drop(out.remove(at)),
            (Tag::Reset, None) => {}
            (_, Some(at)) => out[at].1 = merge_at(key, &out[at].1, node, budget)?,
            (_, None) => out.push((key.clone(), node.clone())),
        }
    }
    Ok(later.with(What::Map(Rc::new(out))))
}

/// A build that is a folder alone is its context.
fn build(node: &Node) -> Node {
    match &node.what {
        What::Scalar(..) if !node.is_null() => {
            node.with(What::Map(Rc::new(vec![("context".into(), node.clone())])))
        }
        _ => node.clone(),
    }
}

fn pairs(node: &Node) -> Result<Node> {
    let What::List(items) = &node.what else { return Ok(node.clone()) };
    let mut out: Vec<(Rc<str>, Node)> = Vec::new();
    for item in items.iter() {
        let text = item.text()?;
        let (key, value) = match text.split_once(['=', ':']) {
            Some((key, value)) => (key, item.with(What::Scalar(value.into(), false))),
            None => (text, item.with(What::Scalar("".into(), true))),
        };
        out.push((key.into(), value));
    }
    Ok(node.with(What::Map(Rc::new(out))))
}
