//! Nodes over a value to text.

use serde_json::Value;

use super::functions;
use super::parse::{Node, Pipe, TemplateError, Term, fail};
use super::print::print;

/// A value on its way, and whether there is one: a field that a map lacks is `<no value>`, not
/// `<nil>`.
#[derive(Debug, Clone)]
enum Found {
    Value(Value),
    Absent,
}

impl Found {
    fn into_value(self) -> Value {
        match self {
            Self::Value(v) => v,
            Self::Absent => Value::Null,
        }
    }
}

struct Scope<'a> {
    root: &'a Value,
    vars: Vec<(String, Value)>,
}

/// Renders nodes with `root` as `.` and `$`.
pub(super) fn render(nodes: &[Node], root: &Value) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut scope = Scope { root, vars: Vec::new() };
    scope.block(nodes, root, &mut out)?;
    Ok(out)
}

/// Go's notion of an empty value.
pub(super) fn truth(v: &Value) -> bool {
    match v {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

impl Scope<'_> {
    fn block(
        &mut self,
        nodes: &[Node],
        dot: &Value,
        out: &mut String,
    ) -> Result<(), TemplateError> {
        let outer = self.vars.len();
        for node in nodes {
            self.node(node, dot, out)?;
        }
        self.vars.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value, out: &mut String) -> Result<(), TemplateError> {
        match node {
            Node::Text(t) => out.push_str(t),
            Node::Print(p) => match (self.pipe(p, dot)?, typed_nil(p)) {
                (Found::Value(Value::Null) | Found::Absent, Some(nil)) => out.push_str(nil),
                (Found::Value(v), _) => print(&v, out),
                (Found::Absent, None) => out.push_str("<no value>"),
            },
            Node::Set(name, p) => {
                let value = self.pipe(p, dot)?.into_value();
                match self.vars.iter_mut().rev().find(|(n, _)| n == name) {
                    Some((_, v)) => *v = value,
                    None => self.vars.push((name.clone(), value)),
                }
            }
            Node::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if truth(&self.pipe(condition, dot)?.into_value()) {
                        return self.block(body, dot, out);
                    }
                }
                self.block(otherwise, dot, out)?;
            }
            Node::With(var, p, body, otherwise) => {
                let value = self.pipe(p, dot)?.into_value();
                if !truth(&value) {
                    return self.block(otherwise, dot, out);
                }
                self.bound([(var, value.clone())], body, &value, out)?;
            }
            Node::Range(index, item, over, body, otherwise) => {
                let all: Vec<(Value, Value)> = match self.pipe(over, dot)?.into_value() {
                    Value::Array(a) => {
                        a.into_iter().enumerate().map(|(i, v)| (Value::from(i), v)).collect()
                    }
                    Value::Object(o) => {
                        let mut all: Vec<_> =
                            o.into_iter().map(|(k, v)| (Value::from(k), v)).collect();
                        all.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
                        all
                    }
                    Value::Null => Vec::new(),
                    other => return fail(format!("`range` cannot go over {}", kind(&other))),
                };
                if all.is_empty() {
                    return self.block(otherwise, dot, out);
                }
                for (i, v) in all {
                    self.bound([(index, i), (item, v.clone())], body, &v, out)?;
                }
            }
        }
        Ok(())
    }

    /// A block with variables of its own.
    fn bound<const N: usize>(
        &mut self,
        vars: [(&Option<String>, Value); N],
        body: &[Node],
        dot: &Value,
        out: &mut String,
    ) -> Result<(), TemplateError> {
        let outer = self.vars.len();
        for (name, value) in vars {
            self.vars.extend(name.clone().map(|n| (n, value)));
        }
        let done = self.block(body, dot, out);
        self.vars.truncate(outer);
        done
    }

    fn pipe(&mut self, p: &Pipe, dot: &Value) -> Result<Found, TemplateError> {
        let mut before: Option<Found> = None;
        for command in &p.0 {
            let (first, rest) = command.split_first().unwrap_or((&Term::Literal(Value::Null), &[]));
            let found = match first {
                Term::Function(name) => {
                    let mut args = Vec::with_capacity(rest.len() + 1);
                    for term in rest {
                        args.push(self.term(term, dot)?.into_value());
                    }
                    args.extend(before.map(Found::into_value));
                    Found::Value(functions::call(name, args)?)
                }
                _ if !rest.is_empty() || before.is_some() => {
                    return fail("what is no function takes no arguments");
                }
                term => self.term(term, dot)?,
            };
            before = Some(found);
        }
        Ok(before.unwrap_or(Found::Absent))
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Result<Found, TemplateError> {
        match term {
            Term::Field(names) => {
                // A field of the thing itself is a name that can be misspelt; what lies deeper is
                // there or not.
                if let Some(first) = names.first()
                    && std::ptr::eq(dot, self.root)
                    && dot.as_object().is_some_and(|o| !o.contains_key(first))
                {
                    return fail(unknown(first, dot));
                }
                walk(dot, names)
            }
            Term::Var(name, names) if name.is_empty() => walk(self.root, names),
            Term::Var(name, names) => match self.vars.iter().rev().find(|(n, _)| n == name) {
                Some((_, v)) => walk(v, names),
                None => fail(format!("variable `${name}` is not set")),
            },
            Term::Literal(v) => Ok(Found::Value(v.clone())),
            Term::Function(name) => functions::call(name, Vec::new()).map(Found::Value),
            Term::Group(p, names) => {
                let value = self.pipe(p, dot)?.into_value();
                walk(&value, names)
            }
        }
    }
}

/// What Go prints of the fields that are lists and maps there when they are nothing.
fn typed_nil(p: &Pipe) -> Option<&'static str> {
    let [command] = &p.0[..] else { return None };
    let [Term::Field(names) | Term::Var(_, names)] = &command[..] else { return None };
    match names.last()?.as_str() {
        "Cmd" | "Entrypoint" | "Env" | "OnBuild" | "Shell" | "RepoTags" | "RepoDigests" => {
            Some("[]")
        }
        "Labels" | "Volumes" | "ExposedPorts" => Some("map[]"),
        _ => None,
    }
}

fn unknown(name: &str, of: &Value) -> String {
    let known: Vec<&str> = of.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    let near = rgraph_ir::near::nearest(name, known.iter().copied());
    match near {
        Some(near) => format!("`.{name}`: there is no such field: did you mean `.{near}`?"),
        None => format!("`.{name}`: there is no such field; there are: {}", known.join(", ")),
    }
}

fn walk(from: &Value, names: &[String]) -> Result<Found, TemplateError> {
    let mut at = from;
    for name in names {
        match at {
            Value::Object(o) => match o.get(name) {
                Some(v) => at = v,
                None => return Ok(Found::Absent),
            },
            Value::Null => return Ok(Found::Absent),
            other => return fail(format!("`.{name}`: {} has no fields", kind(other))),
        }
    }
    Ok(Found::Value(at.clone()))
}

/// What a value is, in words.
pub(super) fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
