//! Compose files to one project: variables put in, paths made relative to the working folder, what
//! they include and extend brought in.
//!
//! Reference: 14-include.md and 05-services.md (`extends`, `env_file`) of compose-spec/compose-spec.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use rgraph_ir::SourceMap;
use rgraph_ir::limits::MAX_BAKE_FILES;

use super::merge::merge;
use crate::Inputs;
use crate::budget::{Budget, Error, Result};
use crate::env::{dotenv, interpolate};
use crate::resolve::{clean, folder_of, is_folder};
use crate::yaml::{self, Node, Tag, What};

/// Longest chain of files that include each other, and of services that extend each other.
const MAX_CHAIN: usize = 64;
/// The parts of a service that say something about its build.
const OF_SERVICE: &[&str] = &["build", "env_file", "environment", "extends", "image"];

/// Looks a variable up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What all files say together.
#[derive(Debug, Default)]
pub struct Project {
    /// In the order of the files.
    pub services: Vec<(Rc<str>, Node)>,
    /// By name.
    pub secrets: Vec<(Rc<str>, Node)>,
}

/// A file whose variables and paths are settled.
struct Document {
    name: String,
    project: Project,
}

/// Reads what files name.
pub struct Loader<'a> {
    inputs: &'a Inputs<'a>,
    sources: &'a mut SourceMap,
    budget: &'a Budget,
    files: usize,
}

impl<'a> Loader<'a> {
    pub fn new(inputs: &'a Inputs<'a>, sources: &'a mut SourceMap, budget: &'a Budget) -> Self {
        Self { inputs, sources, budget, files: 0 }
    }

    /// The project of these files, a later one on top of an earlier one. `base`: where their paths
    /// begin, from the working folder.
    pub fn project(
        &mut self,
        files: Vec<(String, Node)>,
        base: &str,
        lookup: Lookup<'_>,
    ) -> Result<Project> {
        self.merged(files, base, lookup, &mut Vec::new())
    }

    fn merged(
        &mut self,
        files: Vec<(String, Node)>,
        base: &str,
        lookup: Lookup<'_>,
        including: &mut Vec<String>,
    ) -> Result<Project> {
        let mut out = Project::default();
        for (name, node) in files {
            let included = self.included(&name, &node, base, lookup, including)?;
            let mut own = self.settled(&node, base, lookup)?;
            let services = std::mem::take(&mut own.services);
            own.services = put(included.services, &services, self.budget)?;
            own.secrets = put(included.secrets, &own.secrets, self.budget)?;
            let document = Document { name, project: own };
            let mut done = Project::default();
            for (service, _) in &document.project.services {
                let node = self.service(&document, service, lookup, &mut Vec::new())?;
                done.services.push((service.clone(), node));
            }
            out.services = put(out.services, &done.services, self.budget)?;
            out.secrets = put(out.secrets, &document.project.secrets, self.budget)?;
        }
        Ok(out)
    }

    /// A file that another one names; its place in the list of texts too.
    fn open(&mut self, path: &str, by: &Node) -> Result<Node> {
        self.files += 1;
        if self.files > MAX_BAKE_FILES {
            return Err(Error::limit(format!("more than {MAX_BAKE_FILES} files are included")));
        }
        let text = self.text(path, by)?;
        let text = text.ok_or_else(|| by.error(format!("there is no file `{path}`")))?;
        let file = self.sources.add(path, text.clone());
        let empty = || Error::new("the compose file is empty").at(file, Some(0..1));
        yaml::parse(&text, file)?.ok_or_else(empty)
    }

    fn text(&self, path: &str, by: &Node) -> Result<Option<Arc<str>>> {
        let text = (self.inputs.read)(path).map_err(|why| by.error(why))?;
        if let Some(text) = &text {
            self.budget.value(text.len())?;
        }
        Ok(text)
    }

    /// What a file includes, all of it together.
    fn included(
        &mut self,
        name: &str,
        node: &Node,
        base: &str,
        lookup: Lookup<'_>,
        including: &mut Vec<String>,
    ) -> Result<Project> {
        let mut out = Project::default();
        let Some(list) = node.get("include") else { return Ok(out) };
        if including.iter().any(|n| n == name) || including.len() >= MAX_CHAIN {
            let chain = [&including[..], &[name.to_owned()]].concat().join(" -> ");
            return Err(list.error(format!("files include each other in a circle: {chain}")));
        }
        including.push(name.to_owned());
        for item in list.list()? {
            let item = self.interpolated(item, lookup)?;
            let texts = |key: &str| match item.get(key) {
                Some(node) => texts_of(node),
                None => Ok(Vec::new()),
            };
            let paths = match &item.what {
                What::Map(_) => texts("path")?,
                _ => vec![item.text()?.to_owned()],
            };
            let at = |path: &str| {
                if !is_folder(path) {
                    return Err(item.error("only files of this folder can be included"));
                }
                Ok(join(base, path))
            };
            let paths = paths.iter().map(|p| at(p)).collect::<Result<Vec<_>>>()?;
            let Some(first) = paths.first() else {
                return Err(item.error("an `include` needs a `path`"));
            };
            let folder = match item.get("project_directory") {
                Some(node) => at(node.text()?)?,
                None => folder_of(first),
            };
            let mut files = Vec::new();
            for path in paths {
                let node = self.open(&path, &item)?;
                files.push((path, node));
            }
            let mut inner: BTreeMap<String, String> = BTreeMap::new();
            let env = texts("env_file")?;
            match &env[..] {
                [] => {
                    let own = self.variables(&join(&folder, ".env"), &item, lookup)?;
                    inner.extend(own.unwrap_or_default());
                }
                files => {
                    for f in files {
                        let known = |n: &str| inner.get(n).cloned().or_else(|| lookup(n));
                        let more = self.variables(&at(f)?, &item, &known)?;
                        let missing = || item.error(format!("there is no file `{f}`"));
                        let more = more.ok_or_else(missing)?;
                        inner.extend(more);
                    }
                }
            }
            // What is outside counts more.
            let known = |n: &str| lookup(n).or_else(|| inner.get(n).cloned());
            let project = self.merged(files, &folder, &known, including)?;
            out.services = put(out.services, &project.services, self.budget)?;
            out.secrets = put(out.secrets, &project.secrets, self.budget)?;
        }
        including.pop();
        Ok(out)
    }

    /// The variables of a file; `None`: there is no such file.
    fn variables(
        &self,
        path: &str,
        by: &Node,
        lookup: Lookup<'_>,
    ) -> Result<Option<BTreeMap<String, String>>> {
        let Some(text) = self.text(path, by)? else { return Ok(None) };
        dotenv(&text, lookup).map(Some).map_err(|why| by.error(format!("`{path}`: {why}")))
    }

    /// A service with what it extends.
    fn service(
        &mut self,
        document: &Document,
        name: &str,
        lookup: Lookup<'_>,
        chain: &mut Vec<String>,
    ) -> Result<Node> {
        let services = &document.project.services;
        let Some((_, own)) = services.iter().find(|(k, _)| **k == *name) else {
            return Err(Error::new(format!("there is no service `{name}` in `{}`", document.name)));
        };
        let Some(extends) = own.get("extends") else { return Ok(own.clone()) };
        let link = format!("{name} ({})", document.name);
        if chain.contains(&link) || chain.len() >= MAX_CHAIN {
            let chain = [&chain[..], &[link]].concat().join(" -> ");
            return Err(extends.error(format!("services extend each other in a circle: {chain}")));
        }
        chain.push(link);
        let (of, file) = match &extends.what {
            What::Map(_) => {
                let missing = || extends.error("`extends` needs a `service`");
                let service = extends.get("service").ok_or_else(missing)?.text()?;
                (service, extends.get("file").map(Node::text).transpose()?)
            }
            _ => (extends.text()?, None),
        };
        let at = |e: Box<Error>| e.at(extends.file, Some(extends.at..extends.at + 1));
        let below = match file {
            None => self.service(document, of, lookup, chain).map_err(at)?,
            Some(path) => {
                let folder = folder_of(path);
                let node = self.open(path, extends)?;
                let project = self.settled(&node, &folder, lookup)?;
                let other = Document { name: path.to_owned(), project };
                self.service(&other, of, lookup, chain).map_err(at)?
            }
        };
        chain.pop();
        merge(&without(&below, "extends"), &without(own, "extends"), self.budget)
    }

    /// What counts of a file: variables put in, paths from the working folder.
    fn settled(&self, node: &Node, base: &str, lookup: Lookup<'_>) -> Result<Project> {
        let mut out = Project::default();
        for (key, list) in [("services", &mut out.services), ("secrets", &mut out.secrets)] {
            let Some(all) = node.get(key) else { continue };
            for (name, one) in all.map()? {
                let kept = match (key, &one.what) {
                    ("services", What::Map(m)) => {
                        let of = |(k, _): &&(Rc<str>, Node)| OF_SERVICE.contains(&&**k);
                        one.with(What::Map(Rc::new(m.iter().filter(of).cloned().collect())))
                    }
                    _ => one.clone(),
                };
                let settled = rebased(&self.interpolated(&kept, lookup)?, key, base, &|| {
                    (self.inputs.lookup)("HOME")
                });
                list.push((name.clone(), settled));
            }
        }
        Ok(out)
    }

    fn interpolated(&self, node: &Node, lookup: Lookup<'_>) -> Result<Node> {
        let what = match &node.what {
            What::Scalar(text, _) if text.contains('$') => {
                let text = interpolate(text, lookup)
                    .map_err(|e| e.at(node.file, Some(node.at..node.at + 1)))?;
                self.budget.value(text.len())?;
                What::Scalar(text.into(), false)
            }
            What::Scalar(..) => return Ok(node.clone()),
            What::List(l) => {
                let items = l.iter().map(|n| self.interpolated(n, lookup));
                What::List(Rc::new(items.collect::<Result<_>>()?))
            }
            What::Map(m) => {
                let items = m.iter().map(|(k, n)| Ok((k.clone(), self.interpolated(n, lookup)?)));
                What::Map(Rc::new(items.collect::<Result<_>>()?))
            }
        };
        self.budget.steps(1)?;
        Ok(node.with(what))
    }
}

/// Entries on top of others of equal names.
fn put(
    mut first: Vec<(Rc<str>, Node)>,
    later: &[(Rc<str>, Node)],
    budget: &Budget,
) -> Result<Vec<(Rc<str>, Node)>> {
    for (name, node) in later {
        match first.iter_mut().find(|(k, _)| k == name) {
            Some((_, known)) if node.tag != Tag::Reset => *known = merge(known, node, budget)?,
            Some(_) => first.retain(|(k, _)| k != name),
            None => first.push((name.clone(), node.clone())),
        }
    }
    Ok(first)
}

fn without(node: &Node, key: &str) -> Node {
    match &node.what {
        What::Map(m) => {
            let kept = m.iter().filter(|(k, _)| **k != *key).cloned().collect();
            node.with(What::Map(Rc::new(kept)))
        }
        _ => node.clone(),
    }
}

fn texts_of(node: &Node) -> Result<Vec<String>> {
    match &node.what {
        What::List(l) => l.iter().map(|n| n.text().map(str::to_owned)).collect(),
        _ => Ok(vec![node.text()?.to_owned()]),
    }
}

/// A path of a file whose paths begin in `base`.
pub fn join(base: &str, path: &str) -> String {
    match base {
        "" | "." => clean(path),
        _ if path.starts_with('/') => path.to_owned(),
        _ => clean(&format!("{base}/{path}")),
    }
}

/// A service or secret with its paths from the working folder.
fn rebased(node: &Node, key: &str, base: &str, home: &dyn Fn() -> Option<String>) -> Node {
    let path = |n: &Node| {
        let What::Scalar(text, _) = &n.what else { return n.clone() };
        let text: &str = text;
        if n.is_null() || !is_folder(text) || text.starts_with('/') {
            return n.clone();
        }
        let new = match (text.strip_prefix("~/"), home()) {
            (Some(rest), Some(home)) => format!("{home}/{rest}"),
            _ => join(base, text),
        };
        n.with(What::Scalar(new.into(), false))
    };
    let under = |n: &Node, what: &dyn Fn(&str, &Node) -> Node| match &n.what {
        What::Map(m) => {
            let items = m.iter().map(|(k, v)| (k.clone(), what(k, v)));
            n.with(What::Map(Rc::new(items.collect())))
        }
        _ => path(n),
    };
    // `NAME=PATH` of lists.
    let named = |n: &Node| match &n.what {
        What::List(l) => {
            let items = l.iter().map(|item| match &item.what {
                What::Scalar(t, _) => match t.split_once('=') {
                    Some((k, v)) => {
                        let value = path(&item.with(What::Scalar(v.into(), false)));
                        let text = format!("{k}={}", value.text().unwrap_or_default());
                        item.with(What::Scalar(text.into(), false))
                    }
                    None => item.clone(),
                },
                _ => item.clone(),
            });
            n.with(What::List(Rc::new(items.collect())))
        }
        _ => under(n, &|_, v| path(v)),
    };
    let env_file = |n: &Node| match &n.what {
        What::List(l) => {
            let item = |i: &Node| under(i, &|k, v| if k == "path" { path(v) } else { v.clone() });
            n.with(What::List(Rc::new(l.iter().map(item).collect())))
        }
        _ => path(n),
    };
    match key {
        "secrets" => under(node, &|k, v| if k == "file" { path(v) } else { v.clone() }),
        _ => match &node.what {
            What::Map(_) => under(node, &|k, v| match k {
                "build" => under(v, &|k, v| match k {
                    "context" => path(v),
                    "additional_contexts" => named(v),
                    _ => v.clone(),
                }),
                "env_file" => env_file(v),
                "extends" => match &v.what {
                    What::Map(_) => under(v, &|k, v| if k == "file" { path(v) } else { v.clone() }),
                    _ => v.clone(),
                },
                _ => v.clone(),
            }),
            _ => node.clone(),
        },
    }
}

/// What a service's `env_file` and `environment` say; the latter counts more.
pub fn environment(
    service: &Node,
    read: &crate::Read<'_>,
    lookup: Lookup<'_>,
) -> Result<BTreeMap<String, Option<String>>> {
    let mut out = BTreeMap::new();
    if let Some(node) = service.get("env_file") {
        let items = match &node.what {
            What::List(l) => l.to_vec(),
            _ => vec![node.clone()],
        };
        for item in &items {
            let (path, required, raw) = match &item.what {
                What::Map(_) => {
                    let missing = || item.error("an `env_file` needs a `path`");
                    let is = |key: &str, value: &str| {
                        item.get(key).is_some_and(|n| n.text().is_ok_and(|t| t == value))
                    };
                    let path = item.get("path").ok_or_else(missing)?.text()?;
                    (path, !is("required", "false"), is("format", "raw"))
                }
                _ => (item.text()?, true, false),
            };
            let text = read(path).map_err(|why| item.error(why))?;
            let text = match (text, required) {
                (Some(text), _) => text,
                (None, false) => continue,
                (None, true) => return Err(item.error(format!("there is no file `{path}`"))),
            };
            let none = |_: &str| None;
            let known: Lookup<'_> = if raw { &none } else { lookup };
            let all = match raw {
                true => crate::env::raw(&text),
                false => {
                    dotenv(&text, known).map_err(|why| item.error(format!("`{path}`: {why}")))?
                }
            };
            out.extend(all.into_iter().map(|(k, v)| (k, Some(v))));
        }
    }
    Ok(out)
}
