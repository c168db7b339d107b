//! A description, taken apart into what is compared with what.

use std::collections::BTreeMap;

use super::Fields;
use super::tables::LISTS;

/// A description, sorted into what is compared with what.
#[derive(Default)]
pub(super) struct Sorted<'a> {
    pub args: Vec<&'a str>,
    pub env: Vec<(&'a str, &'a str)>,
    pub platform: BTreeMap<&'a str, &'a str>,
    pub values: BTreeMap<&'a str, String>,
    pub lists: BTreeMap<usize, Vec<Member<'a>>>,
}

/// One member of a list: its fields; a list within it is one value.
#[derive(Default, Clone, PartialEq, Eq)]
pub(super) struct Member<'a>(pub Vec<(&'a str, String)>);

impl<'a> Member<'a> {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    fn put(&mut self, name: &'a str, value: &str) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, v)) => {
                v.push_str(", ");
                v.push_str(value);
            }
            None => self.0.push((name, value.to_owned())),
        }
    }
}

/// `name[3].rest` without the number.
fn numbered(path: &str) -> Option<(&str, &str)> {
    let (name, rest) = path.split_once('[')?;
    let (_, rest) = rest.split_once(']')?;
    Some((name, rest.strip_prefix('.').unwrap_or(rest)))
}

impl<'a> Sorted<'a> {
    pub fn of(fields: &'a Fields) -> Self {
        let mut s = Self::default();
        let mut last: Option<(usize, &str)> = None;
        for (path, value) in fields {
            if path.starts_with("exec.args[") {
                s.args.push(value);
            } else if let Some(name) = path.strip_prefix("exec.env.") {
                s.env.push((name, value));
            } else if let Some(name) = path.strip_prefix("platform.") {
                s.platform.insert(name, value);
            } else if path == "exec.root" {
                // Which input: what it is is told by whoever knows the inputs.
            } else if let Some((at, number, field)) = member(path) {
                let members = s.lists.entry(at).or_default();
                let starts = match number {
                    Some(n) => last != Some((at, n)),
                    None => members.last().is_none_or(|m| m.get(field).is_some()),
                };
                if starts {
                    members.push(Member::default());
                }
                last = number.map(|n| (at, n));
                if let Some(m) = members.last_mut() {
                    m.put(field, value);
                }
            } else {
                let name = numbered(path).map_or(path.as_str(), |(name, _)| name);
                let all = s.values.entry(name).or_default();
                if !all.is_empty() {
                    all.push_str(", ");
                }
                all.push_str(value);
            }
        }
        s
    }

    pub fn list(&self, at: usize) -> &[Member<'a>] {
        self.lists.get(&at).map_or(&[], Vec::as_slice)
    }
}

/// Which list a path belongs to, the member's number where it has one, and the field.
fn member(path: &str) -> Option<(usize, Option<&str>, &str)> {
    LISTS.iter().enumerate().find_map(|(at, list)| {
        let rest = path.strip_prefix(list.path)?;
        if list.flat {
            return Some((at, None, rest.strip_prefix('.')?));
        }
        let (number, field) = rest.strip_prefix('[')?.split_once("].")?;
        // A list within the member: `copy.exclude[0]`.
        let field = field.split_once('[').map_or(field, |(name, _)| name);
        Some((at, Some(number), field))
    })
}
