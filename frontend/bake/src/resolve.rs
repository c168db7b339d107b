//! From names on the command line to the targets that are built: groups, inheritance, overrides, links.

use std::collections::{BTreeMap, BTreeSet};

use rgraph_ir::Diagnostic;
use rgraph_ir::near::nearest;

use crate::budget::{Budget, Error, Result};
use crate::config::Definition;
use crate::entry::Entry;
use crate::glob;
use crate::overrides::{self, Override, Overrides};
use crate::target::{Group, Target, append, unique};

/// Longest chain of groups in groups, of targets that inherit, of targets that need targets.
const MAX_CHAIN: usize = 200;

/// What is to be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The groups on the way, by name; `default` holds what was asked for.
    pub groups: BTreeMap<String, Group>,
    /// The targets by name, with those that others need.
    pub targets: BTreeMap<String, Target>,
}

impl Resolved {
    /// The targets, those that others need before them.
    pub fn in_order(&self) -> Vec<&Target> {
        let mut done = BTreeSet::new();
        let mut out = Vec::new();
        for t in self.targets.values() {
            self.place(t, &mut done, &mut out);
        }
        out
    }

    // Chains are bounded: `link` looked at all of them.
    fn place<'a>(&'a self, t: &'a Target, done: &mut BTreeSet<&'a str>, out: &mut Vec<&'a Target>) {
        if !done.insert(&t.name) {
            return;
        }
        for needed in links(t) {
            if let Some(t) = self.targets.get(needed) {
                self.place(t, done, out);
            }
        }
        out.push(t);
    }
}

/// The targets whose results are contexts of this.
pub(crate) fn links(t: &Target) -> impl Iterator<Item = &str> {
    t.contexts.values().filter_map(|v| v.strip_prefix("target:"))
}

impl Definition {
    /// The targets that names and patterns stand for; no name: `default`.
    ///
    /// # Errors
    /// What is not there, or needs itself.
    pub fn resolve(
        &self,
        names: &[String],
        overrides: &Overrides,
    ) -> std::result::Result<Resolved, Diagnostic> {
        let work = || {
            let of_target = overrides.by_target(self)?;
            let resolver = Resolver {
                all: self,
                overrides: of_target,
                budget: Budget::default(),
                groups: self.groups.iter().rev().map(|g| (g.name.as_str(), g)).collect(),
                targets: self.targets.iter().map(|t| (t.name.as_str(), t)).collect(),
            };
            resolver.run(names)
        };
        work().map_err(|e| e.into_diagnostic())
    }
}

struct Resolver<'a> {
    all: &'a Definition,
    overrides: BTreeMap<String, Vec<&'a Override>>,
    budget: Budget,
    groups: BTreeMap<&'a str, &'a Group>,
    targets: BTreeMap<&'a str, &'a Target>,
}

/// What a walk has seen.
#[derive(Default)]
struct Walk {
    path: Vec<String>,
    done: BTreeSet<String>,
}

impl Walk {
    /// Steps onto a name; false: it was there before.
    fn enter(&mut self, name: &str, what: &str) -> Result<bool> {
        if self.path.iter().any(|p| p == name) {
            let from = self.path.iter().position(|p| p == name).unwrap_or(0);
            let circle = [&self.path[from..], &[name.to_owned()]].concat();
            return Err(Error::new(format!("{what} in a circle: {}", circle.join(" -> "))));
        }
        if self.done.contains(name) {
            return Ok(false);
        }
        if self.path.len() >= MAX_CHAIN {
            return Err(Error::limit(format!("{what} over more than {MAX_CHAIN} levels")));
        }
        self.path.push(name.to_owned());
        Ok(true)
    }

    fn leave(&mut self) {
        self.done.extend(self.path.pop());
    }
}

impl<'a> Resolver<'a> {
    fn run(&self, names: &[String]) -> Result<Resolved> {
        let default = ["default".to_owned()];
        let names = if names.is_empty() { &default[..] } else { names };
        let mut asked = Vec::new();
        for name in names {
            // Services of compose files may have dots in their names.
            self.matching(&name.replace('.', "_"), &mut asked)?;
        }
        let mut out = Resolved::default();
        let mut resolved = BTreeMap::new();
        let mut walk = Walk::default();
        let mut wanted = Vec::new();
        for name in &asked {
            self.expand(name, &mut walk, &mut wanted, &mut out)?;
        }
        for name in wanted {
            let t = self.target(&name, &mut Walk::default(), &mut resolved)?;
            out.targets.insert(name, self.finished(t)?);
        }
        for name in asked {
            if name == "default" && out.groups.contains_key("default") {
                continue;
            }
            let group = out.groups.entry("default".to_owned()).or_default();
            group.name = "default".to_owned();
            group.targets.push(name);
        }
        if let Some(default) = out.groups.get_mut("default") {
            default.targets =
                default.targets.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        }
        let mut walk = Walk::default();
        for name in out.targets.keys().cloned().collect::<Vec<_>>() {
            self.link(&name, &mut walk, &mut resolved, &mut out)?;
        }
        Ok(out)
    }

    fn matching(&self, pattern: &str, out: &mut Vec<String>) -> Result<()> {
        let mut add = |name: &str| {
            if !out.iter().any(|n| n == name) {
                out.push(name.to_owned());
            }
        };
        if !pattern.contains(['*', '?', '[', ']']) {
            add(pattern);
            return Ok(());
        }
        let groups = self.all.groups.iter().map(|g| &g.name);
        let mut any = false;
        for name in groups.chain(self.all.targets.iter().map(|t| &t.name)) {
            self.budget.steps(1 + name.len() * pattern.len() / 16)?;
            if glob::matches(pattern, name) == Some(true) {
                any = true;
                add(name);
            }
        }
        match any {
            true => Ok(()),
            false => Err(Error::new(format!("no target matches `{pattern}`"))),
        }
    }

    /// The targets of a name, each once, groups opened.
    fn expand(
        &self,
        name: &str,
        walk: &mut Walk,
        wanted: &mut Vec<String>,
        out: &mut Resolved,
    ) -> Result<()> {
        if !walk.enter(name, "groups hold each other")? {
            return Ok(());
        }
        match self.groups.get(name) {
            None => wanted.push(name.to_owned()),
            Some(group) => {
                out.groups.insert(name.to_owned(), (*group).clone());
                for t in &group.targets {
                    // A matrix may have a target of its own name.
                    if t == name && self.targets.contains_key(name) {
                        wanted.push(name.to_owned());
                        continue;
                    }
                    self.expand(t, walk, wanted, out)?;
                }
            }
        }
        walk.leave();
        Ok(())
    }

    /// A target with what it inherits and what is set for it.
    fn target(
        &self,
        name: &str,
        walk: &mut Walk,
        known: &mut BTreeMap<String, Target>,
    ) -> Result<Target> {
        if let Some(t) = known.get(name) {
            self.budget.value(t.weight())?;
            return Ok(t.clone());
        }
        walk.enter(name, "targets inherit from each other")?;
        let Some(own) = self.targets.get(name) else {
            let e = Error::new(format!("there is no target `{name}`"));
            let all = self.targets.keys().chain(self.groups.keys()).copied();
            return Err(match nearest(name, all) {
                Some(near) => e.help(format!("did you mean `{near}`?")),
                None if name == "default" => {
                    e.help("name the targets to build; `--list=targets` shows them")
                }
                None => e.help("`--list=targets` shows what there is"),
            });
        };
        let mut out = Target::default();
        for parent in &own.inherits {
            let parent = self.target(parent, walk, known)?;
            self.budget.value(parent.weight() + out.weight())?;
            out.merge(&parent);
        }
        out.merge(own);
        out.name = name.to_owned();
        out.inherits.clear();
        if let Some(set) = self.overrides.get(name) {
            overrides::apply(&mut out, set)?;
        }
        out.tidy();
        self.budget.value(out.weight())?;
        walk.path.pop();
        known.insert(name.to_owned(), out.clone());
        Ok(out)
    }

    fn finished(&self, mut t: Target) -> Result<Target> {
        let default = || t.default_context.clone().unwrap_or_else(|| ".".to_owned());
        let context = t.context.clone().unwrap_or_else(default);
        let here = context.strip_prefix("cwd://").filter(|_| !self.all.is_remote);
        t.context = Some(clean(here.unwrap_or(&context)));
        if t.dockerfile.as_deref().unwrap_or_default().is_empty() {
            t.dockerfile = Some("Dockerfile".to_owned());
        }
        self.budget.value(t.weight())?;
        Ok(t)
    }

    /// Brings in the targets that a target's contexts name.
    fn link(
        &self,
        name: &str,
        walk: &mut Walk,
        known: &mut BTreeMap<String, Target>,
        out: &mut Resolved,
    ) -> Result<()> {
        if !walk.enter(name, "targets need each other as contexts")? {
            return Ok(());
        }
        let needed: BTreeSet<String> = links(&out.targets[name]).map(str::to_owned).collect();
        for other in needed {
            if !out.targets.contains_key(&other) {
                let t = self.target(&other, &mut Walk::default(), known)?;
                let mut t = self.finished(t)?;
                t.outputs = Some(vec![Entry::of_type("cacheonly")]);
                t.linked = true;
                out.targets.insert(other.clone(), t);
            }
            self.link(&other, walk, known, out)?;
            let (entitlements, platforms) = {
                let t = &out.targets[&other];
                (t.entitlements.clone(), t.platforms.clone().unwrap_or_default())
            };
            let Some(t) = out.targets.get_mut(name) else { continue };
            append(&mut t.entitlements, entitlements);
            unique(&mut t.entitlements);
            let own = t.platforms.clone().unwrap_or_default();
            if own.len() > 1
                && platforms.len() > 1
                && let Some(p) = own.iter().find(|p| !platforms.contains(p))
            {
                let message =
                    format!("`{name}` needs `{other}` for {p}, which it is not built for");
                return Err(
                    Error::new(message).help(format!("add it to the platforms of `{other}`"))
                );
            }
        }
        walk.leave();
        Ok(())
    }
}

/// False for URLs, repositories, images and other targets.
pub fn is_folder(path: &str) -> bool {
    let schemes = ["git@", "github.com/", "target:", "service:", "docker-image:", "oci-layout:"];
    !path.contains("://") && path != "-" && !schemes.iter().any(|s| path.starts_with(s))
}

/// The folder that a file lies in; empty: the working folder.
pub(crate) fn folder_of(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((folder, _)) => folder.to_owned(),
        None => String::new(),
    }
}

/// A folder's path without what it does not need; what is none stays as it is.
pub(crate) fn clean(path: &str) -> String {
    if !is_folder(path) {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    let is_absolute = path.starts_with('/');
    for part in path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => drop(parts.pop()),
            ("..", None) if is_absolute => {}
            (part, _) => parts.push(part),
        }
    }
    match (is_absolute, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}
