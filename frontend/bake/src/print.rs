//! What `--print` and `--list` write: buildx's JSON, key for key.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::{Definition, Variable};
use crate::entry::Entry;
use crate::resolve::Resolved;
use crate::target::{Group, RESOURCE_NUMBERS, RESOURCES, Target};

/// JSON whose keys keep their order.
enum Json {
    Text(String),
    /// Written as it is: a number or a truth value.
    Raw(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn texts(list: &[String]) -> Self {
        Self::List(list.iter().map(|t| Self::Text(t.clone())).collect())
    }

    fn write(&self, depth: usize, out: &mut String) {
        let (open, items, close): (char, Vec<(Option<&str>, &Self)>, char) = match self {
            Self::Text(t) => return quote(t, out),
            Self::Raw(t) => return out.push_str(t),
            Self::List(l) => ('[', l.iter().map(|v| (None, v)).collect(), ']'),
            Self::Object(o) => ('{', o.iter().map(|(k, v)| (Some(k.as_str()), v)).collect(), '}'),
        };
        out.push(open);
        for (at, (key, value)) in items.iter().enumerate() {
            out.push_str(if at > 0 { ",\n" } else { "\n" });
            out.push_str(&"  ".repeat(depth + 1));
            if let Some(key) = key {
                quote(key, out);
                out.push_str(": ");
            }
            value.write(depth + 1, out);
        }
        if !items.is_empty() {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
        out.push(close);
    }

    fn finish(self) -> String {
        let mut out = String::new();
        self.write(0, &mut out);
        out.push('\n');
        out
    }
}

/// A string as Go's encoder writes it: safe within HTML.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // A String takes all that is written.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `--print`: the groups and the targets, resolved.
pub fn print(resolved: &Resolved) -> String {
    let mut top = Vec::new();
    if !resolved.groups.is_empty() {
        let groups = resolved.groups.iter().map(|(k, g)| (k.clone(), group(g)));
        top.push(("group".to_owned(), Json::Object(groups.collect())));
    }
    let targets = resolved.targets.iter().map(|(k, t)| (k.clone(), target(t)));
    top.push(("target".to_owned(), Json::Object(targets.collect())));
    Json::Object(top).finish()
}

fn group(g: &Group) -> Json {
    let mut out = Fields::default();
    out.word("description", Some(&g.description).filter(|d| !d.is_empty()));
    out.0.push(("targets".to_owned(), Json::texts(&g.targets)));
    Json::Object(out.0)
}

#[derive(Default)]
struct Fields(Vec<(String, Json)>);

impl Fields {
    fn word(&mut self, key: &str, value: Option<&String>) {
        self.0.extend(value.map(|v| (key.to_owned(), Json::Text(v.clone()))));
    }

    fn switch(&mut self, key: &str, value: Option<bool>) {
        self.0.extend(value.map(|v| (key.to_owned(), Json::Raw(v.to_string()))));
    }

    fn words(&mut self, key: &str, value: &Option<Vec<String>>) {
        let given = value.iter().filter(|l| !l.is_empty());
        self.0.extend(given.map(|l| (key.to_owned(), Json::texts(l))));
    }

    fn map(&mut self, key: &str, map: &BTreeMap<String, String>, value: fn(&str) -> String) {
        if !map.is_empty() {
            let pairs = map.iter().map(|(k, v)| (k.clone(), Json::Text(value(v))));
            self.0.push((key.to_owned(), Json::Object(pairs.collect())));
        }
    }

    fn list(&mut self, key: &str, items: Vec<Json>) {
        if !items.is_empty() {
            self.0.push((key.to_owned(), Json::List(items)));
        }
    }
}

/// What would be a template when it is read again.
fn escaped(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

fn entry(e: &Entry) -> Json {
    let pairs = e.0.iter().map(|(k, v)| (k.clone(), Json::Text(v.clone())));
    Json::Object(pairs.collect())
}

fn attest(e: &Entry) -> Json {
    let is_on = |v: &str| matches!(v, "1" | "t" | "T" | "true" | "TRUE" | "True");
    let pairs = e.0.iter().filter_map(|(k, v)| match k.as_str() {
        "disabled" => is_on(v).then(|| (k.clone(), Json::Raw("true".to_owned()))),
        _ => Some((k.clone(), Json::Text(v.clone()))),
    });
    Json::Object(pairs.collect())
}

fn target(t: &Target) -> Json {
    let mut out = Fields::default();
    let as_is = |v: &str| v.to_owned();
    let entries = |l: &Option<Vec<Entry>>| l.iter().flatten().map(entry).collect::<Vec<_>>();
    out.word("description", Some(&t.description).filter(|d| !d.is_empty()));
    let annotations = t.annotations.iter().flatten().map(|a| Json::Text(escaped(a)));
    out.list("annotations", annotations.collect());
    out.list("attest", t.attest.iter().flatten().map(attest).collect());
    out.word("context", t.context.as_ref());
    out.map("contexts", &t.contexts, as_is);
    out.word("dockerfile", t.dockerfile.as_ref());
    out.word("dockerfile-inline", t.dockerfile_inline.as_deref().map(escaped).as_ref());
    out.map("args", &t.args, escaped);
    out.map("labels", &t.labels, escaped);
    out.words("tags", &t.tags);
    out.list("cache-from", entries(&t.cache_from));
    out.list("cache-to", entries(&t.cache_to));
    out.word("target", t.target.as_ref());
    let secrets = t.secrets.iter().flatten().map(|s| {
        let mut out = Fields::default();
        for (key, value) in [("id", &s.id), ("src", &s.src), ("env", &s.env)] {
            out.word(key, Some(value).filter(|v| !v.is_empty()));
        }
        Json::Object(out.0)
    });
    out.list("secret", secrets.collect());
    let ssh = t.ssh.iter().flatten().map(|s| {
        let mut out = Fields::default();
        out.word("id", Some(&s.id).filter(|v| !v.is_empty()));
        out.words("paths", &Some(s.paths.clone()));
        Json::Object(out.0)
    });
    out.list("ssh", ssh.collect());
    out.words("platforms", &t.platforms);
    out.list("output", entries(&t.outputs));
    out.switch("pull", t.pull);
    out.switch("no-cache", t.no_cache);
    out.word("network", t.network.as_ref());
    out.words("no-cache-filter", &t.no_cache_filter);
    out.word("shm-size", t.shm_size.as_ref());
    out.words("ulimits", &t.ulimits);
    if !t.resources.is_empty() {
        out.0.push(("resources".to_owned(), resources(&t.resources)));
    }
    out.word("call", t.call.as_ref());
    out.words("entitlements", &t.entitlements);
    out.map("extra-hosts", &t.extra_hosts, escaped);
    Json::Object(out.0)
}

fn resources(map: &BTreeMap<String, String>) -> Json {
    // Memory, processors, sets: not the order in which they are told apart.
    let order = [0, 1, 4, 5, 6, 2, 3].map(|at| (at, RESOURCES[at]));
    let pairs = order.into_iter().filter_map(|(at, name)| {
        let value = map.get(name)?.clone();
        let value = if at >= RESOURCE_NUMBERS { Json::Raw(value) } else { Json::Text(value) };
        Some((name.to_owned(), value))
    });
    Json::Object(pairs.collect())
}

/// `--list=targets`: all that can be built, but for names that start with `_`. As JSON, or rows of name
/// and description.
pub fn print_targets(all: &Definition, json: bool) -> Listing {
    let mut rows: Vec<(String, String, bool)> =
        all.targets.iter().map(|t| (t.name.clone(), t.description.clone(), false)).collect();
    for g in &all.groups {
        let mut targets = g.targets.clone();
        targets.sort();
        let targets = targets.join(", ");
        let text = match (g.description.is_empty(), targets.is_empty()) {
            (true, _) => targets,
            (false, true) => g.description.clone(),
            (false, false) => format!("{} ({targets})", g.description),
        };
        rows.push((g.name.clone(), text, true));
    }
    rows.retain(|(name, ..)| !name.starts_with('_'));
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if !json {
        let rows = rows.into_iter().map(|(name, text, _)| vec![name, text]).collect();
        return Listing::Rows { head: &["TARGET", "DESCRIPTION"], rows };
    }
    let list = rows.into_iter().map(|(name, text, is_group)| {
        let mut out = Fields::default();
        out.word("name", Some(&name));
        out.word("description", Some(&text).filter(|t| !t.is_empty()));
        out.switch("group", is_group.then_some(true));
        Json::Object(out.0)
    });
    Listing::Text(Json::List(list.collect()).finish())
}

/// `--list=variables`.
pub fn print_variables(all: &Definition, json: bool) -> Listing {
    let all: &[Variable] = &all.variables;
    if !json {
        let row = |v: &Variable| {
            let value = v.value.clone().unwrap_or_else(|| "<null>".to_owned());
            vec![v.name.clone(), v.kind.clone(), value, v.description.clone()]
        };
        let rows = all.iter().map(row).collect();
        return Listing::Rows { head: &["VARIABLE", "TYPE", "VALUE", "DESCRIPTION"], rows };
    }
    let list = all.iter().map(|v| {
        let mut out = Fields::default();
        out.word("name", Some(&v.name));
        out.word("description", Some(&v.description).filter(|t| !t.is_empty()));
        out.word("type", Some(&v.kind).filter(|t| !t.is_empty()));
        out.word("value", v.value.as_ref());
        Json::Object(out.0)
    });
    Listing::Text(Json::List(list.collect()).finish())
}

/// A list, for people or programs.
pub enum Listing {
    /// To be set as a table.
    Rows {
        /// Heads of the columns.
        head: &'static [&'static str],
        /// A cell for each column.
        rows: Vec<Vec<String>>,
    },
    /// JSON.
    Text(String),
}
