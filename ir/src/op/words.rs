//! What a description says in a Dockerfile's words: the third reader of [`KeyFields`], beside the
//! hash and the list. It compares two lists of one kind of op and names each difference by the
//! instruction, flag or option that a person wrote.
//!
//! Invariant: every path that the ops can emit has its words here; the test walks all of them. A
//! path that has none (an old record) is told by itself.
//!
//! [`KeyFields`]: crate::fields::KeyFields

mod sorted;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use sorted::{Member, Sorted};
use tables::{ACTION, DERIVED, LAYOUTS, LISTS, List, MEMBERS, MOUNT, SERVICES, VALUES};

/// `path = value`, as [`crate::fields::FieldList`] gives them.
pub type Fields = [(String, String)];

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldChange {
    /// Program and arguments.
    Args {
        /// Last time.
        old: Vec<String>,
        /// Now.
        new: Vec<String>,
    },
    /// A variable.
    Env {
        /// Its name.
        name: String,
        /// Last time; `None`: not set.
        old: Option<String>,
        /// Now; `None`: not set.
        new: Option<String>,
    },
    /// The same variables in another order.
    EnvOrder,
    /// One value.
    Value {
        /// What it is called: `WORKDIR`, `--chown`.
        words: String,
        /// Last time; `None`: not set.
        old: Option<String>,
        /// Now; `None`: not set.
        new: Option<String>,
    },
    /// The image of a service means something else.
    Service {
        /// The service.
        name: String,
        /// Last time.
        old: String,
        /// Now.
        new: String,
    },
    /// A mount, host, limit, source came or went.
    Member {
        /// What it is called: `--mount=type=cache,target=/c`.
        words: String,
        /// It is new; else it is gone.
        added: bool,
    },
    /// The same members in another order.
    MemberOrder {
        /// What they are: `--mount`.
        words: &'static str,
    },
    /// What is written starts from nothing (`--link`, or nothing below), or no longer.
    Base {
        /// It does now.
        empty: bool,
    },
    /// Only which input is which.
    Wiring,
}

fn words_in(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(n, _)| *n == name).map(|(_, w)| *w)
}

/// The differences, in the order of the description.
pub fn changes(old: &Fields, new: &Fields) -> Vec<FieldChange> {
    if old == new {
        return Vec::new();
    }
    let (o, n) = (Sorted::of(old), Sorted::of(new));
    let mut out = Vec::new();
    if o.args != n.args {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        out.push(FieldChange::Args { old: owned(&o.args), new: owned(&n.args) });
    }
    env(&o.env, &n.env, &mut out);
    let platform = |p: &BTreeMap<&str, &str>| {
        let part = |name| p.get(name).copied().filter(|v| !v.is_empty());
        let parts = ["os", "architecture", "variant", "os_version"].into_iter().filter_map(part);
        (!p.is_empty()).then(|| parts.collect::<Vec<_>>().join("/"))
    };
    value("platform", platform(&o.platform), platform(&n.platform), &mut out);
    for path in o.values.keys().chain(n.values.keys()).collect::<BTreeSet<_>>() {
        let (mut was, mut is) = (o.values.get(path).cloned(), n.values.get(path).cloned());
        if *path == "exec.user" {
            (was, is) = (was.filter(|u| !u.is_empty()), is.filter(|u| !u.is_empty()));
            // Without USER it is root, who then has no further groups.
            let root = |u: &Option<String>, other| u.is_none() && other != Some("root");
            let (from_root, to_root) = (root(&was, is.as_deref()), root(&is, was.as_deref()));
            was = was.or_else(|| from_root.then(|| "root".into()));
            is = is.or_else(|| to_root.then(|| "root".into()));
        }
        let words = words_in(&VALUES, path).or_else(|| words_in(&LAYOUTS, path)).unwrap_or(path);
        value(words, was, is, &mut out);
    }
    for (at, list) in LISTS.iter().enumerate() {
        members(list, o.list(at), n.list(at), &mut out);
    }
    if out.is_empty() {
        out.push(FieldChange::Wiring);
    }
    out
}

fn value(words: &str, old: Option<String>, new: Option<String>, out: &mut Vec<FieldChange>) {
    if old != new {
        out.push(FieldChange::Value { words: words.to_owned(), old, new });
    }
}

fn env(old: &[(&str, &str)], new: &[(&str, &str)], out: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    let (o, n): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (old.iter().copied().collect(), new.iter().copied().collect());
    let before = out.len();
    for name in o.keys().chain(n.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (o.get(name), n.get(name));
        if was != is {
            let owned = |v: Option<&&str>| v.map(|v| (*v).to_owned());
            out.push(FieldChange::Env {
                name: (*name).to_owned(),
                old: owned(was),
                new: owned(is),
            });
        }
    }
    if out.len() == before {
        out.push(FieldChange::EnvOrder);
    }
}

/// What a member is called, and by what it is found again.
fn title(list: &List, m: &Member<'_>) -> String {
    let get = |name| m.get(name).unwrap_or_default();
    match list.path {
        "exec.mounts" => {
            let kinds = ["cache", "tmpfs", "secret", "ssh"];
            let kind = kinds.into_iter().find(|k| m.get(k).is_some()).unwrap_or("bind");
            format!("--mount=type={kind},target={}", get("dest"))
        }
        "exec.secret_env" => format!("--mount=type=secret,env={}", get("name")),
        "exec.extra_hosts" => format!("--add-host {}", get("host")),
        "file.actions" => {
            let (kind, path) = action(m);
            match kind {
                "copy" => format!("source {path}"),
                "mkfile" => format!("file {path}"),
                "mkdir" => format!("folder {path}"),
                "rm" => format!("removal of {path}"),
                _ => format!("link {path}"),
            }
        }
        _ => format!("{} {}", list.words, get("name")),
    }
}

/// What a file action does, and to which path.
fn action<'m>(m: &'m Member<'_>) -> (&'m str, &'m str) {
    let of = |(name, value): &'m (&str, String)| {
        let (kind, field) = name.split_once('.')?;
        matches!(field, "src" | "path").then_some((kind, value.as_str()))
    };
    m.0.iter().find_map(of).unwrap_or(("", ""))
}

fn members(list: &List, old: &[Member<'_>], new: &[Member<'_>], out: &mut Vec<FieldChange>) {
    if old == new {
        return;
    }
    let before = out.len();
    let titles = |all: &[Member<'_>]| all.iter().map(|m| title(list, m)).collect::<Vec<_>>();
    let (old_titles, new_titles) = (titles(old), titles(new));
    let mut left: Vec<usize> = (0..old.len()).collect();
    let mut fresh = Vec::new();
    let mut pairs = Vec::new();
    for (i, t) in new_titles.iter().enumerate() {
        match left.iter().position(|o| old_titles[*o] == *t) {
            Some(at) => pairs.push((left.remove(at), i)),
            None => fresh.push(i),
        }
    }
    let is_files = list.path == "file.actions";
    if is_files
        && left.len() == fresh.len()
        && left.iter().zip(&fresh).all(|(o, n)| action(&old[*o]).0 == action(&new[*n]).0)
    {
        // The same copy of something else.
        pairs.extend(left.drain(..).zip(fresh.drain(..)));
        pairs.sort_unstable_by_key(|(_, n)| *n);
    }
    for (o, n) in &pairs {
        let alone = old.len() == 1 || is_files && old[*o] != new[*n];
        let prefix = if is_files && alone { "" } else { &new_titles[*n] };
        fields(list, prefix, &old[*o], &new[*n], out);
    }
    for o in left {
        out.push(FieldChange::Member { words: old_titles[o].clone(), added: false });
    }
    for n in fresh {
        out.push(FieldChange::Member { words: new_titles[n].clone(), added: true });
    }
    let moved = pairs.windows(2).any(|p| p[0].0 > p[1].0);
    if out.len() == before && moved {
        out.push(FieldChange::MemberOrder { words: list.words });
    }
}

/// The differences of one member.
fn fields(
    list: &List,
    prefix: &str,
    old: &Member<'_>,
    new: &Member<'_>,
    out: &mut Vec<FieldChange>,
) {
    let before = out.len();
    let mut derived = Vec::new();
    let mut done = BTreeSet::new();
    let names = old.0.iter().chain(&new.0).map(|(n, _)| *n);
    for name in names {
        let (o, n) = (old.get(name), new.get(name));
        let leaf = leaf(list, name);
        if o == n || !done.insert(leaf) {
            continue;
        }
        let (o, n) = match leaf {
            // `--parents` takes its sources as patterns below one folder.
            "src" if same_leaf(list, old, "include") != same_leaf(list, new, "include") => continue,
            // The namespace comes first, and nearly always is none.
            "cache" if namespace(o) == namespace(n) => (outside(o), outside(n)),
            "base.input" | "base.action" => {
                if name == "base.input"
                    && (old.get("base.action"), new.get("base.action")) == (None, None)
                {
                    out.push(FieldChange::Base { empty: n.is_none() });
                }
                continue;
            }
            // A cache starts from a folder made for it when it has an owner or mode of its own.
            "selector" | "from" if new.get("cache").is_some() => {
                let made = |m: &Member<'_>| m.get("selector") == Some("/cache");
                if leaf == "selector" && !made(old) && !made(new) {
                    (o.map(str::to_owned), n.map(str::to_owned))
                } else if leaf == "selector" || o.is_some() != n.is_some() {
                    let words = format!("{prefix} from, source, uid, gid or mode");
                    value_once(words, out);
                    continue;
                } else {
                    continue;
                }
            }
            "image" if list.path == SERVICES => {
                let text = |v: Option<&str>| v.unwrap_or_default().to_owned();
                let name = text(new.get("name"));
                out.push(FieldChange::Service { name, old: text(o), new: text(n) });
                continue;
            }
            // Which input is which follows from what is read.
            "bind" | "from" => continue,
            "owner" => (owner(list, old), owner(list, new)),
            "mode" => (octal(o), octal(n)),
            _ => (o.map(str::to_owned), n.map(str::to_owned)),
        };
        if o == n {
            continue;
        }
        let table: &[(&str, &str)] = match list.path {
            "exec.mounts" => &MOUNT,
            "file.actions" => &ACTION,
            _ => &MEMBERS,
        };
        let word = Some("WORKDIR").filter(|_| name == "mkdir.path");
        let word = word
            .or_else(|| words_in(table, leaf))
            .or_else(|| words_in(&MEMBERS, leaf))
            .unwrap_or(name);
        let word = if prefix.is_empty() { word.to_owned() } else { format!("{prefix} {word}") };
        let change = FieldChange::Value { words: word, old: o, new: n };
        if out.contains(&change) {
            continue; // said of another source of the same copy
        }
        if DERIVED.contains(&leaf) && list.path == "file.actions" {
            derived.push(change);
        } else {
            out.push(change);
        }
    }
    if out.len() == before {
        out.append(&mut derived);
    }
}

/// Something differs that has no short value.
fn value_once(words: String, out: &mut Vec<FieldChange>) {
    let change = FieldChange::Value { words, old: None, new: None };
    if !out.contains(&change) {
        out.push(change);
    }
}

/// The value of the field with this own name.
fn same_leaf<'m>(list: &List, m: &'m Member<'_>, wanted: &str) -> Option<&'m str> {
    m.0.iter().find(|(n, _)| leaf(list, n) == wanted).map(|(_, v)| v.as_str())
}

/// Of `NAMESPACE/ID`, the first part.
fn namespace(id: Option<&str>) -> Option<&str> {
    id.and_then(|id| id.split_once('/')).map(|(ns, _)| ns)
}

/// Of `NAMESPACE/ID`, the second part.
fn outside(id: Option<&str>) -> Option<String> {
    id.map(|id| id.split_once('/').map_or(id, |(_, id)| id).to_owned())
}

/// A field's own name: of a file action without the action's.
fn leaf<'n>(list: &List, name: &'n str) -> &'n str {
    if list.path != "file.actions" {
        return name;
    }
    match name.split_once('.') {
        Some(("base", _)) | None => name,
        Some((_, rest)) => match rest.split_once('.') {
            Some((first, _)) => first,
            None => rest,
        },
    }
}

/// `user:group` of an action.
fn owner(list: &List, m: &Member<'_>) -> Option<String> {
    debug_assert_eq!(list.path, "file.actions");
    let kind = action(m).0;
    let part = |name: &str| m.get(&format!("{kind}.owner.{name}"));
    match (part("user"), part("group")) {
        (None, None) => None,
        (user, None) => user.map(str::to_owned),
        (user, group) => Some(format!("{}:{}", user.unwrap_or("0"), group.unwrap_or_default())),
    }
}

/// Permission bits as people write them; a symbolic mode stays.
fn octal(v: Option<&str>) -> Option<String> {
    v.map(|v| v.parse::<u32>().map_or_else(|_| v.to_owned(), |n| format!("{n:o}")))
}

#[cfg(test)]
mod tests;
