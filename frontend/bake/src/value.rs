//! Values of expressions. Parts are shared, and each value knows what it weighs written out, so that
//! sharing hides nothing from the [`Budget`].

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::budget::{Budget, Error, Result};

/// Deepest nesting of lists and objects.
const MAX_VALUE_DEPTH: u32 = 64;
/// What any value weighs beside its text.
const UNIT: usize = 16;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(Arc<str>),
    /// A list, tuple or set.
    List(List),
    /// An object or map.
    Object(Object),
}

/// Shared items with their weight.
#[derive(Debug, Clone)]
pub struct Shared<T> {
    items: Arc<T>,
    weight: usize,
    depth: u32,
}

pub type List = Shared<Vec<Value>>;
pub type Object = Shared<BTreeMap<Arc<str>, Value>>;

impl<T> std::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.items
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.items, &other.items) || self.items == other.items
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Ord> PartialOrd for Shared<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> Ord for Shared<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        match Arc::ptr_eq(&self.items, &other.items) {
            true => Ordering::Equal,
            false => self.items.cmp(&other.items),
        }
    }
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<Arc<str>>, budget: &Budget) -> Result<Self> {
        let text = text.into();
        budget.value(UNIT + text.len())?;
        Ok(Self::String(text))
    }

    /// A list.
    pub fn list(items: Vec<Self>, budget: &Budget) -> Result<Self> {
        let weight = UNIT + items.iter().map(Self::weight).sum::<usize>();
        let depth = deeper(items.iter())?;
        budget.value(weight)?;
        Ok(Self::List(Shared { items: Arc::new(items), weight, depth }))
    }

    /// An object.
    pub fn object(items: BTreeMap<Arc<str>, Self>, budget: &Budget) -> Result<Self> {
        let weight = UNIT + items.iter().map(|(k, v)| k.len() + v.weight()).sum::<usize>();
        let depth = deeper(items.values())?;
        budget.value(weight)?;
        Ok(Self::Object(Shared { items: Arc::new(items), weight, depth }))
    }

    /// A whole number.
    pub fn int(n: usize) -> Self {
        Self::Number(Number::from(n as f64))
    }

    /// What it weighs written out, in bytes, about.
    pub fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => UNIT,
            Self::String(s) => UNIT + s.len(),
            Self::List(l) => l.weight,
            Self::Object(o) => o.weight,
        }
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(l) => l.depth,
            Self::Object(o) => o.depth,
            _ => 0,
        }
    }

    /// As errors call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Object(_) => "object",
        }
    }

    fn not_a(&self, what: &str) -> Box<Error> {
        Error::new(format!("expected a {what}, found a {}", self.kind()))
    }

    /// A text, or what converts to one.
    pub fn to_text(&self) -> Result<Arc<str>> {
        match self {
            Self::String(s) => Ok(s.clone()),
            Self::Bool(b) => Ok(b.to_string().into()),
            Self::Number(n) => Ok(n.to_string().into()),
            Self::Null => Err(Error::new("the value is null where a string is needed")),
            other => Err(other.not_a("string")),
        }
    }

    /// A number, or a text that is one.
    pub fn to_number(&self) -> Result<Number> {
        match self {
            Self::Number(n) => Ok(*n),
            Self::String(s) => Number::parse(s)
                .ok_or_else(|| Error::new(format!("a number is needed, and `{}` is none", cut(s)))),
            Self::Null => Err(Error::new("the value is null where a number is needed")),
            other => Err(other.not_a("number")),
        }
    }

    /// A truth value, or a text that is one.
    pub fn to_bool(&self) -> Result<bool> {
        match self {
            Self::Bool(b) => Ok(*b),
            Self::String(s) => match &**s {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                s => Err(Error::new(format!("`true` or `false` is needed, found `{}`", cut(s)))),
            },
            Self::Null => Err(Error::new("the value is null where a bool is needed")),
            other => Err(other.not_a("bool")),
        }
    }

    /// A whole number, not negative.
    pub fn to_index(&self) -> Result<usize> {
        let n = self.to_number()?;
        let i = n.whole().and_then(|n| usize::try_from(n).ok());
        i.ok_or_else(|| Error::new(format!("a whole number from 0 on is needed, found {n}")))
    }

    /// The items of a list.
    pub fn to_list(&self) -> Result<List> {
        match self {
            Self::List(l) => Ok(l.clone()),
            other => Err(other.not_a("list")),
        }
    }

    /// The items of an object.
    pub fn to_object(&self) -> Result<Object> {
        match self {
            Self::Object(o) => Ok(o.clone()),
            other => Err(other.not_a("object")),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Number(n) => n.to_json(),
            Self::String(s) => s.to_string().into(),
            Self::List(l) => l.iter().map(Self::to_json).collect(),
            Self::Object(o) => {
                let pairs = o.iter().map(|(k, v)| (k.to_string(), v.to_json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }

    /// From JSON.
    pub fn from_json(json: &serde_json::Value, budget: &Budget) -> Result<Self> {
        Ok(match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => Self::Number(Number::of_json(n)),
            serde_json::Value::String(s) => Self::text(s.as_str(), budget)?,
            serde_json::Value::Array(a) => {
                let items = a.iter().map(|v| Self::from_json(v, budget)).collect::<Result<_>>()?;
                Self::list(items, budget)?
            }
            serde_json::Value::Object(o) => {
                let items =
                    o.iter().map(|(k, v)| Ok((k.as_str().into(), Self::from_json(v, budget)?)));
                Self::object(items.collect::<Result<_>>()?, budget)?
            }
        })
    }
}

fn deeper<'a>(items: impl Iterator<Item = &'a Value>) -> Result<u32> {
    let depth = 1 + items.map(Value::depth).max().unwrap_or(0);
    match depth > MAX_VALUE_DEPTH {
        true => {
            Err(Error::limit(format!("a value is nested over more than {MAX_VALUE_DEPTH} levels")))
        }
        false => Ok(depth),
    }
}

/// The start of a text, for messages.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// A number: whole ones are exact up to 64 bits.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    Whole(i64),
    Float(f64),
}

/// Beyond it a float names no single whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl From<f64> for Number {
    fn from(f: f64) -> Self {
        match f.fract() == 0.0 && f.abs() <= EXACT {
            true => Self::Whole(f as i64),
            false => Self::Float(f),
        }
    }
}

impl From<i64> for Number {
    fn from(n: i64) -> Self {
        Self::Whole(n)
    }
}

impl Number {
    /// Reads a number as HCL and JSON write it.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(n) = text.parse::<i64>() {
            return Some(Self::Whole(n));
        }
        let plain =
            text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
        let f: f64 = text.parse().ok().filter(|_| plain)?;
        f.is_finite().then(|| Self::from(f))
    }

    fn of_json(n: &serde_json::Number) -> Self {
        match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Self::Whole(n),
            (None, f) => Self::from(f.unwrap_or(0.0)),
        }
    }

    /// As a float.
    pub fn float(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Float(f) => f,
        }
    }

    /// As a whole number, if it is one.
    pub fn whole(self) -> Option<i64> {
        match self {
            Self::Whole(n) => Some(n),
            Self::Float(_) => None,
        }
    }

    fn to_json(self) -> serde_json::Value {
        match self {
            Self::Whole(n) => n.into(),
            Self::Float(f) => f.into(),
        }
    }

    /// A result of arithmetic.
    pub fn made(f: f64) -> Result<Self> {
        match f.is_finite() {
            true => Ok(Self::from(f)),
            false => Err(Error::new("the result is no finite number")),
        }
    }

    /// Two numbers in one: exact while both are whole and the result fits.
    pub fn with(
        self,
        other: Self,
        whole: fn(i64, i64) -> Option<i64>,
        float: fn(f64, f64) -> f64,
    ) -> Result<Self> {
        if let (Self::Whole(a), Self::Whole(b)) = (self, other)
            && let Some(n) = whole(a, b)
        {
            return Ok(Self::Whole(n));
        }
        Self::made(float(self.float(), other.float()))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(b),
            (a, b) => a.float().total_cmp(&b.float()),
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
        }
    }
}
