//! Types of variables, and values made to fit them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hcl_edit::expr::{Expression, FuncCall, ObjectKey};

use crate::budget::{Budget, Error, Result};
use crate::csv;
use crate::value::{Number, Value, cut};

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Any,
    String,
    Number,
    Bool,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Tuple(Vec<Type>),
    /// Attributes, and whether each may be missing.
    Object(BTreeMap<Arc<str>, (Type, bool)>),
}

const NOT_A_TYPE: &str = "a type is string, number, bool, any, list(T), set(T), map(T), tuple([T, ...]) or object({k = T})";

impl Type {
    /// Reads a type as it is written.
    pub fn read(e: &Expression) -> Result<Self> {
        match e {
            Expression::Variable(name) => Ok(match name.value().as_str() {
                "any" => Self::Any,
                "string" => Self::String,
                "number" => Self::Number,
                "bool" => Self::Bool,
                _ => return Err(Error::new(NOT_A_TYPE)),
            }),
            Expression::FuncCall(call) => Self::constructed(call),
            Expression::Parenthesis(p) => Self::read(p.inner()),
            _ => Err(Error::new(NOT_A_TYPE)),
        }
    }

    fn constructed(call: &FuncCall) -> Result<Self> {
        let [arg] = call.args.iter().collect::<Vec<_>>()[..] else {
            return Err(Error::new(NOT_A_TYPE));
        };
        let item = || Self::read(arg).map(Box::new);
        match (call.name.name.value().as_str(), arg) {
            ("list", _) => Ok(Self::List(item()?)),
            ("set", _) => Ok(Self::Set(item()?)),
            ("map", _) => Ok(Self::Map(item()?)),
            ("tuple", Expression::Array(a)) => {
                Ok(Self::Tuple(a.iter().map(Self::read).collect::<Result<_>>()?))
            }
            ("object", Expression::Object(o)) => {
                let mut attrs = BTreeMap::new();
                for (key, value) in o {
                    let name = match key {
                        ObjectKey::Ident(i) => i.as_str().to_owned(),
                        ObjectKey::Expression(Expression::Variable(v)) => v.value().to_string(),
                        ObjectKey::Expression(Expression::String(s)) => s.value().clone(),
                        ObjectKey::Expression(_) => return Err(Error::new(NOT_A_TYPE)),
                    };
                    attrs.insert(name.into(), Self::maybe(value.expr())?);
                }
                Ok(Self::Object(attrs))
            }
            _ => Err(Error::new(NOT_A_TYPE)),
        }
    }

    fn maybe(e: &Expression) -> Result<(Self, bool)> {
        match e {
            Expression::FuncCall(c) if c.name.name.value().as_str() == "optional" => {
                match c.args.get(0) {
                    Some(inner) => Ok((Self::read(inner)?, true)),
                    None => Err(Error::new(NOT_A_TYPE)),
                }
            }
            e => Ok((Self::read(e)?, false)),
        }
    }

    /// As lists of variables call it.
    pub fn name(&self) -> String {
        match self {
            Self::Any => "any type".to_owned(),
            Self::String => "string".to_owned(),
            Self::Number => "number".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::List(t) => format!("list of {}", t.name()),
            Self::Set(t) => format!("set of {}", t.name()),
            Self::Map(t) => format!("map of {}", t.name()),
            Self::Tuple(_) => "tuple".to_owned(),
            Self::Object(_) => "object".to_owned(),
        }
    }

    /// The value as one of this type.
    pub fn convert(&self, value: &Value, budget: &Budget) -> Result<Value> {
        let wrong = || Error::new(format!("expected a {}, found a {}", self.name(), value.kind()));
        let items = |t: &Self, l: &[Value]| {
            l.iter().map(|v| t.convert(v, budget)).collect::<Result<Vec<_>>>()
        };
        budget.steps(1)?;
        match (self, value) {
            (_, Value::Null) => Ok(Value::Null),
            (Self::Any, v) => Ok(v.clone()),
            (Self::String, v) => Ok(Value::String(v.to_text().map_err(|_| wrong())?)),
            (Self::Number, v) => v.to_number().map(Value::Number),
            (Self::Bool, v) => v.to_bool().map(Value::Bool),
            (Self::List(t), Value::List(l)) => Value::list(items(t, l)?, budget),
            (Self::Set(t), Value::List(l)) => {
                let set: BTreeSet<Value> = items(t, l)?.into_iter().collect();
                Value::list(set.into_iter().collect(), budget)
            }
            (Self::Tuple(ts), Value::List(l)) if ts.len() == l.len() => {
                let items = ts.iter().zip(l.iter()).map(|(t, v)| t.convert(v, budget));
                Value::list(items.collect::<Result<_>>()?, budget)
            }
            (Self::Map(t), Value::Object(o)) => {
                let items = o.iter().map(|(k, v)| Ok((k.clone(), t.convert(v, budget)?)));
                Value::object(items.collect::<Result<_>>()?, budget)
            }
            (Self::Object(attrs), Value::Object(o)) => {
                let mut out = BTreeMap::new();
                for (name, (t, optional)) in attrs {
                    match o.get(name) {
                        Some(v) => out.insert(name.clone(), t.convert(v, budget)?),
                        None if *optional => out.insert(name.clone(), Value::Null),
                        None => {
                            return Err(Error::new(format!("the attribute `{name}` is missing")));
                        }
                    };
                }
                Value::object(out, budget)
            }
            _ => Err(wrong()),
        }
    }

    fn is_primitive(&self) -> bool {
        matches!(self, Self::String | Self::Number | Self::Bool)
    }

    /// Reads what the environment holds: a plain word, or CSV for lists and maps of words.
    pub fn of_text(&self, text: &str, budget: &Budget) -> Result<Value> {
        let unsupported = || {
            Error::new(format!("a {} cannot be given as text", self.name()))
                .help("give it as JSON in the variable with `_JSON` after its name")
        };
        let each = |t: &Self| {
            if !t.is_primitive() {
                return Err(unsupported());
            }
            fields(text)?.iter().map(|f| t.of_text(f, budget)).collect::<Result<Vec<_>>>()
        };
        match self {
            Self::String | Self::Any => Value::text(text, budget),
            Self::Bool => match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
                _ => Err(Error::new(format!("`{}` is no bool", cut(text)))),
            },
            Self::Number => Number::parse(text)
                .map(Value::Number)
                .ok_or_else(|| Error::new(format!("`{}` is no number", cut(text)))),
            Self::List(t) => Value::list(each(t)?, budget),
            Self::Set(t) => {
                let set: BTreeSet<Value> = each(t)?.into_iter().collect();
                Value::list(set.into_iter().collect(), budget)
            }
            Self::Tuple(ts) => {
                let words = fields(text)?;
                if words.len() != ts.len() {
                    let message = format!("{} items are needed, not {}", ts.len(), words.len());
                    return Err(Error::new(message));
                }
                let items = ts.iter().zip(&words).map(|(t, w)| match t.is_primitive() {
                    true => t.of_text(w, budget),
                    false => Err(unsupported()),
                });
                Value::list(items.collect::<Result<_>>()?, budget)
            }
            Self::Map(t) if t.is_primitive() => {
                let mut out = BTreeMap::new();
                for field in fields(text)? {
                    let pair = csv::split(&field, ':').map_err(Error::new)?;
                    let [key, value] = &pair[..] else {
                        return Err(Error::new(format!("`{}` is no key:value", cut(&field))));
                    };
                    out.insert(Arc::from(key.as_str()), t.of_text(value, budget)?);
                }
                Value::object(out, budget)
            }
            Self::Map(_) | Self::Object(_) => Err(unsupported()),
        }
    }
}

fn fields(text: &str) -> Result<Vec<String>> {
    csv::split(text, ',').map_err(Error::new)
}
