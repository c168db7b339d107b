//! `--set PATTERN.KEY=VALUE`.

use std::collections::BTreeMap;

use rgraph_ir::near::nearest;

use crate::budget::{Error, Result};
use crate::config::Definition;
use crate::entry::{Entry, Kind, Secret, Ssh};
use crate::glob;
use crate::target::{Target, append, by_name, unique_entries};

/// What replaces or adds to attributes of targets, in the order given.
#[derive(Debug, Clone, Default)]
pub struct Overrides(Vec<Override>);

#[derive(Debug, Clone)]
pub(crate) struct Override {
    pattern: String,
    key: String,
    /// What follows the key: a name in a map.
    name: Option<String>,
    append: bool,
    value: String,
    line: String,
}

/// Keys whose values are lists.
const LISTS: &[&str] = &[
    "annotations",
    "attest",
    "cache-from",
    "cache-to",
    "entitlements",
    "no-cache-filter",
    "output",
    "platform",
    "secrets",
    "ssh",
    "tags",
    "ulimits",
];
/// Keys that need a name after them.
const MAPS: &[&str] = &["args", "contexts", "extra-hosts", "labels", "resources", "secret"];
/// All other keys.
const PLAIN: &[&str] = &[
    "call",
    "context",
    "dockerfile",
    "load",
    "network",
    "no-cache",
    "pull",
    "push",
    "shm-size",
    "target",
];

impl Overrides {
    /// Reads lines of the command line. `lookup`: the environment, for an argument without a value.
    ///
    /// # Errors
    /// A line that is no override, in words for the user.
    pub fn parse(
        lines: &[String],
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> std::result::Result<Self, String> {
        let mut out = Vec::new();
        for line in lines {
            let (left, value) = match line.split_once('=') {
                Some((left, value)) => (left, Some(value.to_owned())),
                None => (line.as_str(), None),
            };
            let (left, append) = match left.strip_suffix('+') {
                Some(left) => (left, true),
                None => (left, false),
            };
            let mut parts = left.splitn(3, '.');
            let (pattern, key) = match (parts.next(), parts.next()) {
                (Some(p), Some(k)) if !p.is_empty() && !k.is_empty() => {
                    (p.to_owned(), k.to_owned())
                }
                _ => return Err(format!("`{line}`: expected TARGET.KEY=VALUE")),
            };
            let name = parts.next().filter(|n| !n.is_empty()).map(str::to_owned);
            let known = || LISTS.iter().chain(MAPS).chain(PLAIN);
            if !known().any(|k| *k == key) {
                let near = nearest(&key, known().copied());
                let near = near.map(|n| format!(": did you mean `{n}`?")).unwrap_or_default();
                return Err(format!("`{line}`: unknown key `{key}`{near}"));
            }
            let is_map = MAPS.contains(&key.as_str());
            match (is_map, &name) {
                (true, None) => {
                    return Err(format!("`{line}`: `{key}` needs a name, `{key}.NAME=VALUE`"));
                }
                (false, Some(_)) => return Err(format!("`{line}`: `{key}` has no names")),
                _ => {}
            }
            if append && !LISTS.contains(&key.as_str()) {
                return Err(format!("`{line}`: `+=` is for lists, and `{key}` is none"));
            }
            let value = match (value, key.as_str(), &name) {
                (Some(v), ..) => v,
                (None, "args", Some(name)) => match lookup(name) {
                    Some(v) => v,
                    None => continue,
                },
                (None, ..) => return Err(format!("`{line}`: expected TARGET.KEY=VALUE")),
            };
            out.push(Override { pattern, key, name, append, value, line: line.clone() });
        }
        Ok(Self(out))
    }

    /// The paths that are given here: those that may be read, and those that may be written. They are
    /// the caller's own word. Words that are no paths are among them.
    pub fn paths(&self) -> (Vec<String>, Vec<String>) {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for o in &self.0 {
            let all = match o.key.as_str() {
                "output" | "cache-to" => &mut write,
                "cache-from" | "context" | "contexts" | "dockerfile" | "secret" | "secrets"
                | "ssh" => &mut read,
                _ => continue,
            };
            for word in o.value.split([',', '=']).filter(|w| !w.is_empty()) {
                all.push(word.strip_prefix("cwd://").unwrap_or(word).to_owned());
            }
        }
        (read, write)
    }

    /// An agent is given here.
    pub fn gives_agent(&self) -> bool {
        self.0.iter().any(|o| o.key == "ssh")
    }

    /// The overrides of each target.
    pub(crate) fn by_target(&self, all: &Definition) -> Result<BTreeMap<String, Vec<&Override>>> {
        let mut out: BTreeMap<String, Vec<&Override>> = BTreeMap::new();
        for o in &self.0 {
            let exact = all.targets.iter().any(|t| t.name == o.pattern);
            let mut any = false;
            for t in &all.targets {
                let holds = match exact {
                    true => t.name == o.pattern,
                    false => glob::matches(&o.pattern, &t.name)
                        .ok_or_else(|| Error::new(format!("--set {}: bad pattern", o.line)))?,
                };
                if holds {
                    any = true;
                    out.entry(t.name.clone()).or_default().push(o);
                }
            }
            if !any {
                let e = Error::new(format!("--set {}: no target matches `{}`", o.line, o.pattern));
                return Err(
                    match nearest(&o.pattern, all.targets.iter().map(|t| t.name.as_str())) {
                        Some(near) => e.help(format!("did you mean `{near}`?")),
                        None => e,
                    },
                );
            }
        }
        Ok(out)
    }
}

pub(crate) type OfTarget<'a> = [&'a Override];

/// Applies what is set for one target; what pushes or loads comes last, so that it sees all outputs.
pub(crate) fn apply(target: &mut Target, overrides: &OfTarget<'_>) -> Result<()> {
    let is_last = |o: &&&Override| matches!(o.key.as_str(), "push" | "load");
    // The values of one list are one list; whether it replaces is said by the last.
    let mut lists: Vec<(&str, bool, Vec<&str>)> = Vec::new();
    for o in overrides.iter().filter(|o| LISTS.contains(&o.key.as_str())) {
        match lists.iter_mut().find(|(k, ..)| *k == o.key) {
            Some((_, append, values)) => {
                *append = o.append;
                values.push(&o.value);
            }
            None => lists.push((&o.key, o.append, vec![&o.value])),
        }
    }
    for (key, append, values) in lists {
        set_list(target, key, append, &values).map_err(|e| e.about(&format!("--set {key}")))?;
    }
    let rest = || overrides.iter().filter(|o| !LISTS.contains(&o.key.as_str()));
    for o in rest().filter(|o| !is_last(o)).chain(rest().filter(is_last)) {
        set_one(target, o).map_err(|e| e.about(&format!("--set {}", o.line)))?;
    }
    Ok(())
}

fn set_list(t: &mut Target, key: &str, more: bool, values: &[&str]) -> Result<()> {
    let words = || Some(values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
    let entries = |kind: Kind| {
        let mut out = Vec::new();
        for v in values.iter().filter(|v| !v.is_empty()) {
            out.extend(Entry::read(v, kind)?);
        }
        Ok::<_, Box<Error>>(Some(out))
    };
    fn put<T>(old: &mut Option<Vec<T>>, more: bool, new: Option<Vec<T>>) {
        match more {
            true => append(old, new),
            false => *old = new,
        }
    }
    match key {
        "annotations" => append(&mut t.annotations, words()),
        "entitlements" => append(&mut t.entitlements, words()),
        "attest" => {
            append(&mut t.attest, entries(Kind::Attest)?);
            by_name(&mut t.attest, |e| e.kind().to_owned());
        }
        "cache-from" => {
            put(&mut t.cache_from, more, entries(Kind::Cache)?);
            unique_entries(&mut t.cache_from);
        }
        "cache-to" => put(&mut t.cache_to, more, entries(Kind::Cache)?),
        "output" => put(&mut t.outputs, more, entries(Kind::Output)?),
        "no-cache-filter" => put(&mut t.no_cache_filter, more, words()),
        "platform" => put(&mut t.platforms, more, words()),
        "tags" => put(&mut t.tags, more, words()),
        "ulimits" => put(&mut t.ulimits, more, words()),
        "secrets" => {
            let new = values.iter().filter(|v| !v.is_empty()).map(|v| Secret::read(v));
            put(&mut t.secrets, more, Some(new.collect::<Result<_>>()?));
            by_name(&mut t.secrets, |s| s.id.clone());
        }
        _ => {
            let new = values.iter().filter(|v| !v.is_empty()).map(|v| Ssh::read(v)).collect();
            put(&mut t.ssh, more, Some(new));
            by_name(&mut t.ssh, |s| s.id.clone());
        }
    }
    Ok(())
}

fn set_one(t: &mut Target, o: &Override) -> Result<()> {
    let value = || o.value.clone();
    let name = || o.name.clone().unwrap_or_default();
    let switch = || match o.value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::new("`true` or `false` is needed")),
    };
    match o.key.as_str() {
        "args" => drop(t.args.insert(name(), value())),
        "contexts" => drop(t.contexts.insert(name(), value())),
        "extra-hosts" => drop(t.extra_hosts.insert(name(), value())),
        "labels" => drop(t.labels.insert(name(), value())),
        "resources" => t.set_resource(&name(), value())?,
        "secret" => {
            let new = Secret::read(&o.value)?;
            let id = name();
            let known = t.secrets.iter_mut().flatten().find(|s| s.id == id);
            let known =
                known.ok_or_else(|| Error::new(format!("the target has no secret `{id}`")))?;
            if !new.id.is_empty() && new.id != id {
                return Err(Error::new(format!("the value is about the secret `{}`", new.id)));
            }
            *known = Secret { id, ..new };
        }
        "call" => t.call = Some(value()),
        "context" => t.context = Some(value()),
        "dockerfile" => t.dockerfile = Some(value()),
        "network" => t.network = Some(value()),
        "shm-size" => t.shm_size = Some(value()),
        "target" => t.target = Some(value()),
        "no-cache" => t.no_cache = Some(switch()?),
        "pull" => t.pull = Some(switch()?),
        "load" => {
            if switch()? {
                load(&mut t.outputs);
            }
        }
        _ => push(&mut t.outputs, switch()?),
    }
    Ok(())
}

/// Pushes what is pushed, or keeps anything from being pushed.
fn push(outputs: &mut Option<Vec<Entry>>, on: bool) {
    let list = outputs.get_or_insert_default();
    if !on {
        list.retain(|e| e.kind() != "registry");
    }
    for e in list.iter_mut().filter(|e| e.kind() == "image") {
        e.0.insert("push".to_owned(), on.to_string());
    }
    if on && list.iter().all(|e| e.kind() == "docker") {
        let mut image = Entry::of_type("image");
        image.0.insert("push".to_owned(), "true".to_owned());
        list.push(image);
    }
}

/// Loads images beside what else is made of them.
fn load(outputs: &mut Option<Vec<Entry>>) {
    let list = outputs.get_or_insert_default();
    let is_loaded = |e: &Entry| e.kind() == "docker" && !e.0.contains_key("dest");
    let is_image = |e: &Entry| matches!(e.kind(), "docker" | "image" | "registry" | "oci");
    if list.iter().any(is_loaded) || !list.iter().all(is_image) {
        return;
    }
    list.push(Entry::of_type("docker"));
}
