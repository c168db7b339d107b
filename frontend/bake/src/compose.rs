//! Compose files: each service with a `build` is a target.

mod merge;
mod project;

use std::collections::BTreeMap;

use rgraph_ir::limits::MAX_BAKE_TARGETS;
use rgraph_ir::{FileId, SourceMap};

use self::project::Loader;
pub use self::project::join;
use crate::Inputs;
use crate::budget::{Budget, Error, Result};
use crate::config::{Definition, check_name};
use crate::entry::{Entry, Kind, Secret, Ssh};
use crate::resolve::{folder_of, is_folder};
use crate::target::{Group, Target, append, by_name, unique};
use crate::yaml::{self, Node, What};

/// Reads a file if it is one: by its name, else by what it holds.
pub fn read(name: &str, text: &str, file: FileId) -> Result<Option<Node>> {
    let lower = name.to_ascii_lowercase();
    let by_name = lower.ends_with(".yml") || lower.ends_with(".yaml");
    if lower.ends_with(".json") || lower.ends_with(".hcl") {
        return Ok(None);
    }
    match yaml::parse(text, file) {
        Err(e) if by_name => Err(e),
        Ok(None) if by_name => Err(Error::new("the compose file is empty").at(file, Some(0..1))),
        Ok(Some(node)) if by_name || node.get("services").is_some() => Ok(Some(node)),
        _ => Ok(None),
    }
}

/// The targets of all compose files; the services of a later one add to equal ones of an earlier.
pub fn definition(
    documents: Vec<(String, Node)>,
    inputs: &Inputs<'_>,
    sources: &mut SourceMap,
    budget: &Budget,
) -> Result<Definition> {
    let mut out = Definition::default();
    let Some((first, _)) = documents.first() else { return Ok(out) };
    let base = match inputs.relative_paths {
        true if is_folder(first) => folder_of(first),
        _ => String::new(),
    };
    let environment: BTreeMap<&str, &str> =
        inputs.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let lookup = |name: &str| {
        let known = (inputs.lookup)(name);
        let known = known.or_else(|| environment.get(name).map(|v| (*v).to_owned()));
        known.or_else(|| (name == PROJECT_NAME).then(|| "bake".to_owned()))
    };
    let project = Loader::new(inputs, sources, budget).project(documents, &base, &lookup)?;
    let reader = Reader { lookup: &lookup, read: inputs.read, budget };
    let secrets: BTreeMap<String, Node> =
        project.secrets.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    if project.services.len() > MAX_BAKE_TARGETS {
        return Err(Error::limit(format!("there are more than {MAX_BAKE_TARGETS} services")));
    }
    for (name, service) in project.services {
        let target = name.replace('.', "_");
        check_name(&target).map_err(|e| place(e, &service))?;
        let image = service.get("image");
        let Some(build) = service.get("build") else {
            if image.is_none() {
                return Err(
                    service.error(format!("service `{name}` has no `image` and no `build`"))
                );
            }
            continue;
        };
        let mut t = reader.target(target, build, &service, &secrets)?;
        if t.tags.as_ref().is_none_or(Vec::is_empty)
            && let Some(image) = image
        {
            t.tags = Some(vec![reader.text(image)?]);
        }
        if t.context.is_none() && !base.is_empty() {
            t.context = Some(base.clone());
        }
        budget.value(t.weight())?;
        out.targets.push(t);
    }
    let targets = out.targets.iter().map(|t| t.name.clone()).collect();
    out.groups.push(Group { name: "default".to_owned(), targets, ..Group::default() });
    Ok(out)
}

/// What compose calls all services together.
const PROJECT_NAME: &str = "COMPOSE_PROJECT_NAME";

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    read: &'a crate::Read<'a>,
    budget: &'a Budget,
}

/// Keys of `build` that say nothing about the image, or that buildx takes no notice of either.
const NO_MATTER: &[&str] = &["isolation", "privileged"];

impl Reader<'_> {
    fn text(&self, node: &Node) -> Result<String> {
        let text = node.text()?;
        self.budget.value(text.len())?;
        Ok(text.to_owned())
    }

    fn switch(&self, node: &Node) -> Result<bool> {
        match self.text(node)?.as_str() {
            "true" | "True" | "TRUE" | "yes" | "on" | "1" => Ok(true),
            "false" | "False" | "FALSE" | "no" | "off" | "0" => Ok(false),
            _ => Err(node.error("`true` or `false` is needed here")),
        }
    }

    /// A list of texts, or one.
    fn texts(&self, node: &Node) -> Result<Vec<String>> {
        match &node.what {
            What::List(l) => l.iter().map(|n| self.text(n)).collect(),
            _ => Ok(vec![self.text(node)?]),
        }
    }

    /// A map, or a list of `NAME=VALUE`; a name alone has no value.
    fn pairs(&self, node: &Node, between: &[char]) -> Result<Vec<(String, Option<String>)>> {
        match &node.what {
            What::List(l) => {
                let pair = |n: &Node| {
                    let text = self.text(n)?;
                    Ok(match text.split_once(between) {
                        Some((k, v)) => (k.to_owned(), Some(v.to_owned())),
                        None => (text, None),
                    })
                };
                l.iter().map(pair).collect()
            }
            _ => {
                let value = |n: &Node| if n.is_null() { Ok(None) } else { self.text(n).map(Some) };
                node.map()?.iter().map(|(k, v)| Ok((k.to_string(), value(v)?))).collect()
            }
        }
    }

    fn named(&self, node: &Node) -> Result<BTreeMap<String, String>> {
        let pairs = self.pairs(node, &['='])?.into_iter();
        Ok(pairs.map(|(k, v)| (k, v.unwrap_or_default())).collect())
    }

    fn entries(&self, node: &Node, kind: Kind) -> Result<Vec<Entry>> {
        let mut out = Vec::new();
        for line in self.texts(node)?.iter().filter(|l| !l.is_empty()) {
            out.extend(Entry::read(line, kind).map_err(|e| place(e, node))?);
        }
        Ok(out)
    }

    fn target(
        &self,
        name: String,
        build: &Node,
        service: &Node,
        secrets: &BTreeMap<String, Node>,
    ) -> Result<Target> {
        let mut t = Target { name, ..Target::default() };
        let mut environment = project::environment(service, self.read, self.lookup)?;
        if let Some(node) = service.get("environment") {
            environment.extend(self.pairs(node, &['='])?);
        }
        if let What::Scalar(..) = build.what {
            t.context = Some(self.text(build)?);
            return Ok(t);
        }
        for (key, node) in build.map()? {
            if !node.is_null() {
                self.set(&mut t, key, node, &environment, secrets)?;
            }
        }
        if let Some(more) = build.get("x-bake") {
            self.extend(&mut t, more)?;
        }
        Ok(t)
    }

    fn set(
        &self,
        t: &mut Target,
        key: &str,
        node: &Node,
        environment: &BTreeMap<String, Option<String>>,
        secrets: &BTreeMap<String, Node>,
    ) -> Result<()> {
        match key {
            "context" => t.context = Some(self.text(node)?),
            "dockerfile" => t.dockerfile = Some(self.text(node)?),
            "dockerfile_inline" => t.dockerfile_inline = Some(self.text(node)?),
            "args" => {
                for (k, v) in self.pairs(node, &['='])? {
                    let outside =
                        || environment.get(&k).cloned().flatten().or_else(|| (self.lookup)(&k));
                    if let Some(v) = v.or_else(outside) {
                        t.args.insert(k, v);
                    }
                }
            }
            "labels" => t.labels = self.named(node)?,
            "additional_contexts" => t.contexts = contexts(self.named(node)?),
            "cache_from" => t.cache_from = Some(self.entries(node, Kind::Cache)?),
            "cache_to" => t.cache_to = Some(self.entries(node, Kind::Cache)?),
            "target" => t.target = Some(self.text(node)?),
            "network" => t.network = Some(self.text(node)?),
            "shm_size" => t.shm_size = Some(self.text(node)?),
            "tags" => t.tags = Some(self.texts(node)?),
            "platforms" => t.platforms = Some(self.texts(node)?),
            "entitlements" => t.entitlements = Some(self.texts(node)?),
            "no_cache" => t.no_cache = self.switch(node)?.then_some(true),
            "pull" => t.pull = self.switch(node)?.then_some(true),
            "extra_hosts" => {
                for (host, address) in self.pairs(node, &['=', ':'])? {
                    t.extra_hosts.insert(host, address.unwrap_or_default());
                }
            }
            "ulimits" => {
                let mut all = Vec::new();
                for (name, limit) in node.map()? {
                    all.push(match &limit.what {
                        What::Map(_) => {
                            let of = |k| limit.get(k).map(|n| self.text(n)).transpose();
                            match (of("soft")?, of("hard")?) {
                                (Some(soft), Some(hard)) => format!("{name}={soft}:{hard}"),
                                _ => return Err(limit.error("`soft` and `hard` are needed here")),
                            }
                        }
                        _ => {
                            let both = self.text(limit)?;
                            format!("{name}={both}:{both}")
                        }
                    });
                }
                t.ulimits = Some(all);
            }
            "ssh" => {
                let pairs = self.pairs(node, &['='])?.into_iter();
                let mut all: Vec<Ssh> =
                    pairs.map(|(id, path)| Ssh { id, paths: path.into_iter().collect() }).collect();
                all.sort_by(|a, b| (&a.id, &a.paths).cmp(&(&b.id, &b.paths)));
                t.ssh = Some(all);
            }
            "secrets" => {
                let all = node.list()?.iter().map(|n| self.secret(n, secrets));
                t.secrets = Some(all.collect::<Result<_>>()?);
            }
            "sbom" | "provenance" => {
                let fields = match self.text(node)?.as_str() {
                    "true" | "1" => format!("type={key}"),
                    "false" | "0" => format!("type={key},disabled=true"),
                    more => format!("type={key},{more}"),
                };
                let entry = Entry::read(&fields, Kind::Attest).map_err(|e| place(e, node))?;
                append(&mut t.attest, Some(entry));
            }
            k if NO_MATTER.contains(&k) || k.starts_with("x-") => {}
            k => return Err(node.error(format!("`{k}` is no key of a build"))),
        }
        Ok(())
    }

    fn secret(&self, node: &Node, secrets: &BTreeMap<String, Node>) -> Result<Secret> {
        let id = match &node.what {
            What::Scalar(..) => self.text(node)?,
            _ => match node.get("source") {
                Some(source) => self.text(source)?,
                None => return Err(node.error("the secret has no `source`")),
            },
        };
        let mut out = Secret { id: id.clone(), ..Secret::default() };
        let Some(definition) = secrets.get(&id) else {
            return Err(node.error(format!("there is no secret `{id}` in the file")));
        };
        for (key, value) in definition.map()? {
            match &**key {
                "file" => out.src = self.text(value)?,
                "environment" => out.env = self.text(value)?,
                "external" if self.switch(value)? => {
                    return Err(
                        value.error(format!("the secret `{id}` is external: it is not known here"))
                    );
                }
                _ => {}
            }
        }
        Ok(out)
    }

    /// What `x-bake` adds.
    fn extend(&self, t: &mut Target, more: &Node) -> Result<()> {
        for (key, node) in more.map()? {
            if node.is_null() {
                continue;
            }
            // One text is words with spaces between them.
            let words = || -> Result<Vec<String>> {
                match &node.what {
                    What::Scalar(..) => {
                        Ok(self.text(node)?.split_whitespace().map(str::to_owned).collect())
                    }
                    _ => self.texts(node),
                }
            };
            let entries = |kind| -> Result<Option<Vec<Entry>>> {
                let mut out = Vec::new();
                for line in words()?.iter().filter(|l| !l.is_empty()) {
                    out.extend(Entry::read(line, kind).map_err(|e| place(e, node))?);
                }
                Ok(Some(out))
            };
            match &**key {
                "tags" => append(&mut t.tags, Some(words()?)),
                "platforms" => append(&mut t.platforms, Some(words()?)),
                "no-cache-filter" => append(&mut t.no_cache_filter, Some(words()?)),
                "cache-from" => append(&mut t.cache_from, entries(Kind::Cache)?),
                "cache-to" => append(&mut t.cache_to, entries(Kind::Cache)?),
                "output" => append(&mut t.outputs, entries(Kind::Output)?),
                "pull" => t.pull = Some(self.switch(node)?),
                "no-cache" => t.no_cache = Some(self.switch(node)?),
                "contexts" => {
                    for (k, v) in contexts(self.named(node)?) {
                        t.contexts.entry(k).or_insert(v);
                    }
                }
                "secret" => {
                    let all = words()?.iter().map(|l| Secret::read(l)).collect::<Result<_>>();
                    append(&mut t.secrets, Some(all.map_err(|e| place(e, node))?));
                    by_name(&mut t.secrets, |s| s.id.clone());
                }
                "ssh" => {
                    append(&mut t.ssh, Some(words()?.iter().map(|l| Ssh::read(l)).collect()));
                    by_name(&mut t.ssh, |s| s.id.clone());
                }
                k => return Err(node.error(format!("`{k}` is no key of `x-bake`"))),
            }
        }
        unique(&mut t.tags);
        unique(&mut t.platforms);
        unique(&mut t.no_cache_filter);
        Ok(())
    }
}

/// A service is the target of its name.
fn contexts(all: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let renamed = |v: String| match v.strip_prefix("service:").or(v.strip_prefix("target:")) {
        Some(name) => format!("target:{}", name.replace('.', "_")),
        None => v,
    };
    all.into_iter().map(|(k, v)| (k, renamed(v))).collect()
}

fn place(e: Box<Error>, node: &Node) -> Box<Error> {
    e.at(node.file, Some(node.at..node.at + 1))
}
