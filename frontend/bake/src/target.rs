//! Targets and groups: read from attributes, merged, made tidy.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::budget::{Error, Result};
use crate::entry::{Entry, Kind, Secret, Ssh};
use crate::value::Value;

/// Targets that are built together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// Targets and other groups.
    pub targets: Vec<String>,
}

/// One build. `None` is "not said": what it stands on decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// Targets it takes attributes from; empty once they are taken.
    pub inherits: Vec<String>,
    /// `[TYPE:]KEY=VALUE`.
    pub annotations: Option<Vec<String>>,
    /// Attestations.
    pub attest: Option<Vec<Entry>>,
    /// The context.
    pub context: Option<String>,
    /// Named contexts.
    pub contexts: BTreeMap<String, String>,
    /// The Dockerfile, from the context.
    pub dockerfile: Option<String>,
    /// Its text, instead.
    pub dockerfile_inline: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Names of the image.
    pub tags: Option<Vec<String>>,
    /// Caches to read.
    pub cache_from: Option<Vec<Entry>>,
    /// Caches to write.
    pub cache_to: Option<Vec<Entry>>,
    /// The stage.
    pub target: Option<String>,
    /// Secrets.
    pub secrets: Option<Vec<Secret>>,
    /// Agents.
    pub ssh: Option<Vec<Ssh>>,
    /// Platforms.
    pub platforms: Option<Vec<String>>,
    /// Outputs.
    pub outputs: Option<Vec<Entry>>,
    /// Bases are asked for again.
    pub pull: Option<bool>,
    /// No cache is asked.
    pub no_cache: Option<bool>,
    /// Network of steps.
    pub network: Option<String>,
    /// Stages for which no cache is asked.
    pub no_cache_filter: Option<Vec<String>>,
    /// Size of `/dev/shm`.
    pub shm_size: Option<String>,
    /// Limits.
    pub ulimits: Option<Vec<String>>,
    /// Limits of steps by name.
    pub resources: BTreeMap<String, String>,
    /// What is asked of the Dockerfile.
    pub call: Option<String>,
    /// What it needs beyond a plain step.
    pub entitlements: Option<Vec<String>>,
    /// Lines of `/etc/hosts`.
    pub extra_hosts: BTreeMap<String, String>,
    /// The context when none is said; `None`: the working folder.
    pub(crate) default_context: Option<String>,
    /// It is here because another target's context is its result.
    pub linked: bool,
}

/// Names of limits, those that are numbers last.
pub(crate) const RESOURCES: [&str; 7] = [
    "memory",
    "memory-swap",
    "cpuset-cpus",
    "cpuset-mems",
    "cpu-shares",
    "cpu-period",
    "cpu-quota",
];
/// From here on [`RESOURCES`] are numbers.
pub(crate) const RESOURCE_NUMBERS: usize = 4;

/// All attributes, for hints.
pub(crate) const ATTRIBUTES: &[&str] = &[
    "annotations",
    "args",
    "attest",
    "cache-from",
    "cache-to",
    "call",
    "context",
    "contexts",
    "description",
    "dockerfile",
    "dockerfile-inline",
    "entitlements",
    "extra-hosts",
    "inherits",
    "labels",
    "matrix",
    "name",
    "network",
    "no-cache",
    "no-cache-filter",
    "output",
    "platforms",
    "policy",
    "pull",
    "resources",
    "secret",
    "shm-size",
    "ssh",
    "tags",
    "target",
    "ulimits",
];

impl Target {
    /// Sets an attribute to the value that was written.
    pub(crate) fn set(&mut self, attr: &str, value: &Value) -> Result<()> {
        match attr {
            "annotations" => self.annotations = texts(value)?,
            "args" => self.args = map(value)?,
            "attest" => self.attest = entries(value, Kind::Attest)?,
            "cache-from" => self.cache_from = entries(value, Kind::Cache)?,
            "cache-to" => self.cache_to = entries(value, Kind::Cache)?,
            "call" => self.call = text(value)?,
            "context" => self.context = text(value)?,
            "contexts" => self.contexts = map(value)?,
            "description" => self.description = text(value)?.unwrap_or_default(),
            "dockerfile" => self.dockerfile = text(value)?,
            "dockerfile-inline" => self.dockerfile_inline = text(value)?,
            "entitlements" => self.entitlements = texts(value)?,
            "extra-hosts" => self.extra_hosts = map(value)?,
            "inherits" => self.inherits = texts(value)?.unwrap_or_default(),
            "labels" => self.labels = map(value)?,
            "network" => self.network = text(value)?,
            "no-cache" => self.no_cache = switch(value)?,
            "no-cache-filter" => self.no_cache_filter = texts(value)?,
            "output" => self.outputs = entries(value, Kind::Output)?,
            "platforms" => self.platforms = texts(value)?,
            "policy" if *value == Value::Null => {}
            "policy" => return Err(Error::new("policies are not supported yet")),
            "pull" => self.pull = switch(value)?,
            "resources" => {
                for (k, v) in map(value)? {
                    self.set_resource(&k, v)?;
                }
            }
            "secret" => {
                self.secrets = each(value, |v| Ok(Secret::of_value(v)?.into_iter().collect()))?;
            }
            "shm-size" => self.shm_size = text(value)?,
            "ssh" => self.ssh = each(value, |v| Ok(Ssh::of_value(v)?.into_iter().collect()))?,
            "tags" => self.tags = texts(value)?,
            "target" => self.target = text(value)?,
            "ulimits" => self.ulimits = texts(value)?,
            _ => return Err(Error::new("there is no such attribute")),
        }
        Ok(())
    }

    pub(crate) fn set_resource(&mut self, name: &str, value: String) -> Result<()> {
        match RESOURCES.iter().position(|r| *r == name) {
            None => Err(Error::new(format!("`{name}` is no resource"))
                .help(format!("known: {}", RESOURCES.join(", ")))),
            Some(at) if at >= RESOURCE_NUMBERS && value.parse::<i64>().is_err() => {
                Err(Error::new(format!("`{name}` is a whole number, not `{value}`")))
            }
            Some(_) => {
                self.resources.insert(name.to_owned(), value);
                Ok(())
            }
        }
    }

    /// Takes over what `later` says: it counts more.
    pub(crate) fn merge(&mut self, later: &Self) {
        let l = later.clone();
        let over = |old: &mut Option<String>, new: Option<String>| {
            if new.is_some() {
                *old = new;
            }
        };
        over(&mut self.context, l.context);
        over(&mut self.dockerfile, l.dockerfile);
        over(&mut self.dockerfile_inline, l.dockerfile_inline);
        over(&mut self.target, l.target);
        over(&mut self.call, l.call);
        over(&mut self.network, l.network);
        over(&mut self.shm_size, l.shm_size);
        self.args.extend(l.args);
        self.contexts.extend(l.contexts);
        self.labels.extend(l.labels);
        self.extra_hosts.extend(l.extra_hosts);
        self.resources.extend(l.resources);
        self.tags = l.tags.or(self.tags.take());
        self.platforms = l.platforms.or(self.platforms.take());
        self.cache_to = l.cache_to.or(self.cache_to.take());
        self.outputs = l.outputs.or(self.outputs.take());
        self.pull = l.pull.or(self.pull);
        self.no_cache = l.no_cache.or(self.no_cache);
        append(&mut self.annotations, l.annotations);
        append(&mut self.attest, l.attest);
        append(&mut self.secrets, l.secrets);
        append(&mut self.ssh, l.ssh);
        append(&mut self.cache_from, l.cache_from);
        append(&mut self.no_cache_filter, l.no_cache_filter);
        append(&mut self.ulimits, l.ulimits);
        append(&mut self.entitlements, l.entitlements);
        if !l.description.is_empty() {
            self.description = l.description;
        }
        self.inherits.extend(l.inherits);
        self.default_context = l.default_context.or(self.default_context.take());
        // As often as it is merged, nothing grows beyond what differs.
        self.tidy_lists();
    }

    fn tidy_lists(&mut self) {
        by_name(&mut self.attest, |e| e.kind().to_owned());
        by_name(&mut self.secrets, |s| s.id.clone());
        by_name(&mut self.ssh, |s| s.id.clone());
        unique_entries(&mut self.cache_from);
        for list in [
            &mut self.annotations,
            &mut self.no_cache_filter,
            &mut self.ulimits,
            &mut self.entitlements,
        ] {
            unique(list);
        }
    }

    /// Removes what says nothing or says it twice.
    pub(crate) fn tidy(&mut self) {
        self.tidy_lists();
        unique(&mut self.tags);
        unique(&mut self.platforms);
        unique_entries(&mut self.cache_to);
        unique_entries(&mut self.outputs);
        for list in [&mut self.attest, &mut self.cache_from, &mut self.cache_to, &mut self.outputs]
        {
            if list.as_ref().is_some_and(Vec::is_empty) {
                *list = None;
            }
        }
        if self.network.as_deref() == Some("host") {
            append(&mut self.entitlements, Some(vec!["network.host".to_owned()]));
            unique(&mut self.entitlements);
        }
        self.contexts.retain(|_, v| !v.is_empty());
    }

    /// What it weighs, in bytes, about.
    pub(crate) fn weight(&self) -> usize {
        let maps = [&self.contexts, &self.args, &self.labels, &self.extra_hosts, &self.resources];
        let lists = [
            &self.annotations,
            &self.tags,
            &self.platforms,
            &self.no_cache_filter,
            &self.ulimits,
            &self.entitlements,
        ];
        let texts = [&self.context, &self.dockerfile, &self.dockerfile_inline, &self.target];
        let entries = [&self.attest, &self.cache_from, &self.cache_to, &self.outputs];
        let pairs = |m: &BTreeMap<String, String>| {
            m.iter().map(|(k, v)| 48 + k.len() + v.len()).sum::<usize>()
        };
        let lines = |l: &[String]| l.iter().map(|t| 24 + t.len()).sum::<usize>();
        512 + maps.into_iter().map(pairs).sum::<usize>()
            + lists.into_iter().flatten().map(|l| lines(l)).sum::<usize>()
            + texts.into_iter().flatten().map(String::len).sum::<usize>()
            + entries.into_iter().flatten().flatten().map(|e| pairs(&e.0)).sum::<usize>()
            + self.secrets.iter().flatten().map(|s| 72 + s.src.len() + s.id.len()).sum::<usize>()
            + self.ssh.iter().flatten().map(|s| 48 + lines(&s.paths)).sum::<usize>()
            + lines(&self.inherits)
            + self.name.len()
            + self.description.len()
    }
}

pub(crate) fn append<T>(old: &mut Option<Vec<T>>, new: Option<Vec<T>>) {
    match (old.as_mut(), new) {
        (Some(old), Some(new)) => old.extend(new),
        (None, Some(new)) => *old = Some(new),
        (_, None) => {}
    }
}

/// The first of equal words stays, empty ones go.
pub(crate) fn unique(list: &mut Option<Vec<String>>) {
    let mut seen = HashSet::new();
    if let Some(list) = list {
        list.retain(|w| !w.is_empty() && seen.insert(w.clone()));
    }
}

/// Equal entries become one, in the order that buildx gives them: the last item moves to where a
/// repeated one stood.
pub(crate) fn unique_entries(list: &mut Option<Vec<Entry>>) {
    let Some(list) = list else { return };
    let mut seen = HashSet::new();
    if list.iter().all(|e| seen.insert(&e.0)) {
        return;
    }
    for at in (0..list.len().saturating_sub(1)).rev() {
        if let Some(twin) = (at + 1..list.len()).find(|j| list[*j] == list[at]) {
            list.swap_remove(twin);
        }
    }
}

/// The last item of a name counts, in the place of the first.
pub(crate) fn by_name<T>(list: &mut Option<Vec<T>>, name: impl Fn(&T) -> String) {
    let Some(items) = list.take() else { return };
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut out: Vec<T> = Vec::new();
    for item in items {
        match places.get(&name(&item)) {
            Some(at) => out[*at] = item,
            None => {
                places.insert(name(&item), out.len());
                out.push(item);
            }
        }
    }
    *list = Some(out);
}

fn text(value: &Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        v => v.to_text().map(|t| Some(t.to_string())),
    }
}

fn switch(value: &Value) -> Result<Option<bool>> {
    match value {
        Value::Null => Ok(None),
        v => v.to_bool().map(Some),
    }
}

fn each<T>(value: &Value, read: impl Fn(&Value) -> Result<Vec<T>>) -> Result<Option<Vec<T>>> {
    if *value == Value::Null {
        return Ok(None);
    }
    let mut out = Vec::new();
    for (at, item) in value.to_list()?.iter().enumerate() {
        out.extend(read(item).map_err(|e| e.about(&format!("item {}", at + 1)))?);
    }
    Ok(Some(out))
}

pub(crate) fn texts(value: &Value) -> Result<Option<Vec<String>>> {
    each(value, |v| Ok(text(v)?.into_iter().collect()))
}

fn entries(value: &Value, kind: Kind) -> Result<Option<Vec<Entry>>> {
    each(value, |v| Entry::of_value(v, kind))
}

/// Texts by name; what is null is left out.
fn map(value: &Value) -> Result<BTreeMap<String, String>> {
    if *value == Value::Null {
        return Ok(BTreeMap::new());
    }
    let mut out = BTreeMap::new();
    for (k, v) in value.to_object()?.iter() {
        if let Some(v) = text(v).map_err(|e| e.about(k))? {
            out.insert(k.to_string(), v);
        }
    }
    Ok(out)
}
