//! Items of lists that are maps or lines of CSV: caches, outputs, attestations, secrets, agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::budget::{Budget, Error, Result};
use crate::csv;
use crate::value::{Value, cut};

/// A cache, output or attestation: fields by name, `type` among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry(pub BTreeMap<String, String>);

/// What an [`Entry`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Cache,
    Output,
    Attest,
}

impl Entry {
    /// Its `type`.
    pub fn kind(&self) -> &str {
        self.0.get("type").map(String::as_str).unwrap_or_default()
    }

    /// The line that flags of a build take.
    pub fn line(&self) -> String {
        // A registry alone is written as its reference.
        if let ("registry", Some(r), 2) = (self.kind(), self.0.get("ref"), self.0.len()) {
            return r.clone();
        }
        let first = self.0.get_key_value("type").into_iter();
        let rest = self.0.iter().filter(|(k, _)| *k != "type");
        let fields: Vec<String> = first.chain(rest).map(|(k, v)| format!("{k}={v}")).collect();
        csv::join(fields.iter().map(String::as_str))
    }

    pub(crate) fn of_type(kind: &str) -> Self {
        Self(BTreeMap::from([("type".to_owned(), kind.to_owned())]))
    }

    /// Reads a line. One of caches may hold several references.
    pub(crate) fn read(line: &str, kind: Kind) -> Result<Vec<Self>> {
        let bad = |why: String| Error::new(format!("`{}`: {why}", cut(line)));
        let fields = csv::split(line, ',').map_err(bad)?;
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        match kind {
            Kind::Cache if !line.contains('=') => {
                let of =
                    |f: &String| Self(BTreeMap::from([pair("type", "registry"), pair("ref", f)]));
                return Ok(fields.iter().map(of).collect());
            }
            Kind::Output
                if fields.len() == 1 && fields[0] == line && !line.starts_with("type=") =>
            {
                let kind = if line == "-" { "tar" } else { "local" };
                return Ok(vec![Self(BTreeMap::from([pair("type", kind), pair("dest", line)]))]);
            }
            _ => {}
        }
        let mut out = BTreeMap::new();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(bad(format!("`{field}` is no key=value")));
            };
            out.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
        Self(out).checked(line).map(|e| vec![e])
    }

    /// Reads a line or an object.
    pub(crate) fn of_value(value: &Value, kind: Kind) -> Result<Vec<Self>> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::String(s) if s.is_empty() => Ok(Vec::new()),
            Value::String(s) => Self::read(s, kind),
            Value::Object(o) => {
                let mut out = BTreeMap::new();
                for (k, v) in o.iter().filter(|(_, v)| **v != Value::Null) {
                    out.insert(k.to_string(), v.to_text().map_err(|e| e.about(k))?.to_string());
                }
                Self(out).checked("the item").map(|e| vec![e])
            }
            other => {
                Err(Error::new(format!("expected a string or an object, not a {}", other.kind())))
            }
        }
    }

    fn checked(self, what: &str) -> Result<Self> {
        match self.kind() {
            "" => Err(Error::new(format!("`type` is missing in `{}`", cut(what)))),
            _ => Ok(self),
        }
    }
}

/// An attribute as expressions see it: items that may be lines of CSV are objects.
pub(crate) fn as_objects(attr: &str, value: Value, budget: &Budget) -> Result<Value> {
    type Fields = Vec<(&'static str, String)>;
    let kind = match attr {
        "cache-from" | "cache-to" => Some(Kind::Cache),
        "output" => Some(Kind::Output),
        "attest" => Some(Kind::Attest),
        "secret" | "ssh" => None,
        _ => return Ok(value),
    };
    let Value::List(list) = &value else { return Ok(value) };
    let object =
        |fields: Vec<(Arc<str>, Value)>| Value::object(fields.into_iter().collect(), budget);
    let texts = |fields: Fields| {
        let given = fields.into_iter().filter(|(_, v)| !v.is_empty());
        object(given.map(|(k, v)| Ok((k.into(), Value::text(v, budget)?))).collect::<Result<_>>()?)
    };
    let mut out = Vec::new();
    for item in list.iter() {
        let Value::String(line) = item else {
            out.push(item.clone());
            continue;
        };
        match (kind, attr) {
            (Some(kind), _) => {
                for Entry(fields) in Entry::of_value(item, kind)? {
                    let fields = fields.into_iter();
                    let fields = fields.map(|(k, v)| Ok((k.into(), Value::text(v, budget)?)));
                    out.push(object(fields.collect::<Result<_>>()?)?);
                }
            }
            (None, "secret") => {
                let Secret { id, src, env } = Secret::read(line)?;
                out.push(texts(vec![("id", id), ("src", src), ("env", env)])?);
            }
            (None, _) => {
                let ssh = Ssh::read(line);
                let paths = ssh.paths.into_iter().map(|p| Value::text(p, budget));
                let paths = Value::list(paths.collect::<Result<_>>()?, budget)?;
                let id = Value::text(ssh.id, budget)?;
                out.push(object(vec![("id".into(), id), ("paths".into(), paths)])?);
            }
        }
    }
    Value::list(out, budget)
}

/// A secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Secret {
    /// Its name.
    pub id: String,
    /// The file it is in; empty: none.
    pub src: String,
    /// The variable it is in; empty: none.
    pub env: String,
}

impl Secret {
    /// The line that `--secret` takes.
    pub fn line(&self) -> String {
        let fields = [("id", &self.id), ("src", &self.src), ("env", &self.env)];
        let given = fields.iter().filter(|(_, v)| !v.is_empty());
        let fields: Vec<String> = given.map(|(k, v)| format!("{k}={v}")).collect();
        csv::join(fields.iter().map(String::as_str))
    }

    pub(crate) fn read(line: &str) -> Result<Self> {
        let bad = |why: String| Error::new(format!("secret `{}`: {why}", cut(line)));
        let mut out = Self::default();
        let mut is_env = false;
        for field in csv::split(line, ',').map_err(bad)? {
            let Some((key, value)) = field.split_once('=') else {
                return Err(bad(format!("`{field}` is no key=value")));
            };
            match (key.to_ascii_lowercase().as_str(), value) {
                ("type", "env" | "file") => is_env = value == "env",
                ("type", other) => return Err(bad(format!("unknown type `{other}`"))),
                ("id", v) => out.id = v.to_owned(),
                ("src" | "source", v) => out.src = v.to_owned(),
                ("env", v) => out.env = v.to_owned(),
                (other, _) => return Err(bad(format!("unknown key `{other}`"))),
            }
        }
        if is_env && out.env.is_empty() {
            out.env = std::mem::take(&mut out.src);
        }
        Ok(out)
    }

    pub(crate) fn of_value(value: &Value) -> Result<Option<Self>> {
        match value {
            Value::Null => Ok(None),
            Value::String(s) if s.is_empty() => Ok(None),
            Value::String(s) => Self::read(s).map(Some),
            Value::Object(o) => {
                let field = |name: &str| match o.get(name) {
                    None | Some(Value::Null) => Ok(String::new()),
                    Some(v) => v.to_text().map(|t| t.to_string()).map_err(|e| e.about(name)),
                };
                Ok(Some(Self { id: field("id")?, src: field("src")?, env: field("env")? }))
            }
            other => {
                Err(Error::new(format!("expected a string or an object, not a {}", other.kind())))
            }
        }
    }
}

/// An agent or keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ssh {
    /// Its name.
    pub id: String,
    /// Its socket, or keys; empty: the caller's agent.
    pub paths: Vec<String>,
}

impl Ssh {
    /// The line that `--ssh` takes.
    pub fn line(&self) -> String {
        match self.paths.is_empty() {
            true => self.id.clone(),
            false => format!("{}={}", self.id, self.paths.join(",")),
        }
    }

    pub(crate) fn read(line: &str) -> Self {
        match line.split_once('=') {
            None => Self { id: line.to_owned(), paths: Vec::new() },
            Some((id, paths)) => {
                let paths = paths.split(',').map(str::to_owned).collect();
                Self { id: id.to_owned(), paths }
            }
        }
    }

    pub(crate) fn of_value(value: &Value) -> Result<Option<Self>> {
        match value {
            Value::Null => Ok(None),
            Value::String(s) if s.is_empty() => Ok(None),
            Value::String(s) => Ok(Some(Self::read(s))),
            Value::Object(o) => {
                let id = o.get("id").map_or(Ok("".into()), Value::to_text)?.to_string();
                let paths = match o.get("paths") {
                    None | Some(Value::Null) => Vec::new(),
                    Some(list) => {
                        let list = list.to_list()?;
                        let texts = list.iter().map(|p| p.to_text().map(|t| t.to_string()));
                        texts.collect::<Result<_>>()?
                    }
                };
                Ok(Some(Self { id, paths }))
            }
            other => {
                Err(Error::new(format!("expected a string or an object, not a {}", other.kind())))
            }
        }
    }
}
