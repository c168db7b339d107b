//! Lists and objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{MANY, Row, bool};
use crate::budget::{Error, Result};
use crate::eval::Eval;
use crate::value::{Number, Value};

pub(super) const TABLE: &[Row] = &[
    ("chunklist", 2, 2, |a, cx| {
        let (list, size) = (a[0].to_list()?, a[1].to_index()?);
        let size = if size == 0 { list.len().max(1) } else { size };
        let chunks = list.chunks(size).map(|c| Value::list(c.to_vec(), cx.budget()));
        Value::list(chunks.collect::<Result<_>>()?, cx.budget())
    }),
    ("coalesce", 1, MANY, |a, _| {
        let found = a.iter().find(|v| **v != Value::Null);
        found.cloned().ok_or_else(|| Error::new("all values are null"))
    }),
    ("coalescelist", 1, MANY, |a, _| {
        let found = a.iter().find(|v| matches!(v, Value::List(l) if !l.is_empty()));
        found.cloned().ok_or_else(|| Error::new("all lists are empty"))
    }),
    ("compact", 1, 1, |a, cx| {
        let list = a[0].to_list()?;
        let is_empty = |v: &&Value| matches!(v, Value::String(s) if s.is_empty());
        let kept = list.iter().filter(|v| **v != Value::Null && !is_empty(v));
        Value::list(kept.cloned().collect(), cx.budget())
    }),
    ("concat", 1, MANY, |a, cx| {
        let mut out = Vec::new();
        for list in a {
            out.extend(list.to_list()?.iter().cloned());
        }
        Value::list(out, cx.budget())
    }),
    ("contains", 2, 2, |a, _| bool(a[0].to_list()?.contains(&a[1]))),
    ("distinct", 1, 1, |a, cx| {
        let mut seen = BTreeSet::new();
        let list = a[0].to_list()?;
        let kept = list.iter().filter(|v| seen.insert(*v)).cloned().collect();
        Value::list(kept, cx.budget())
    }),
    ("element", 2, 2, |a, _| {
        let (list, at) = (a[0].to_list()?, a[1].to_index()?);
        match list.len() {
            0 => Err(Error::new("the list is empty")),
            n => Ok(list[at % n].clone()),
        }
    }),
    ("flatten", 1, 1, |a, cx| {
        let mut out = Vec::new();
        flatten(&a[0], &mut out)?;
        Value::list(out, cx.budget())
    }),
    ("hasindex", 2, 2, |a, _| bool(index(&a[0], &a[1]).is_ok())),
    ("index", 2, 2, |a, _| index(&a[0], &a[1])),
    ("indexof", 2, 2, |a, _| {
        let at = a[0].to_list()?.iter().position(|v| *v == a[1]);
        at.map(Value::int).ok_or_else(|| Error::new("the list has no such item"))
    }),
    ("keys", 1, 1, |a, cx| {
        let keys = a[0].to_object()?.keys().map(|k| Value::String(k.clone())).collect();
        Value::list(keys, cx.budget())
    }),
    ("length", 1, 1, |a, _| match &a[0] {
        Value::List(l) => Ok(Value::int(l.len())),
        Value::Object(o) => Ok(Value::int(o.len())),
        other => Err(Error::new(format!("a {} has no length; strlen is of strings", other.kind()))),
    }),
    ("lookup", 2, 3, |a, _| {
        let (object, key) = (a[0].to_object()?, a[1].to_text()?);
        match (object.get(&key), a.get(2)) {
            (Some(v), _) | (None, Some(v)) => Ok(v.clone()),
            (None, None) => Err(Error::new(format!("the object has no key `{key}`"))),
        }
    }),
    ("merge", 1, MANY, |a, cx| {
        let mut out = BTreeMap::new();
        for object in a.iter().filter(|v| **v != Value::Null) {
            out.extend(object.to_object()?.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        Value::object(out, cx.budget())
    }),
    ("range", 1, 3, range),
    ("reverselist", 1, 1, |a, cx| {
        Value::list(a[0].to_list()?.iter().rev().cloned().collect(), cx.budget())
    }),
    ("sethaselement", 2, 2, |a, _| bool(a[0].to_list()?.contains(&a[1]))),
    ("setintersection", 1, MANY, |a, cx| sets(a, cx, |x, y| x.intersection(y).cloned().collect())),
    ("setproduct", 1, MANY, product),
    ("setsubtract", 2, 2, |a, cx| sets(a, cx, |x, y| x.difference(y).cloned().collect())),
    ("setsymmetricdifference", 1, MANY, |a, cx| {
        sets(a, cx, |x, y| x.symmetric_difference(y).cloned().collect())
    }),
    ("setunion", 1, MANY, |a, cx| sets(a, cx, |x, y| x.union(y).cloned().collect())),
    ("slice", 2, 3, |a, cx| {
        let (list, from) = (a[0].to_list()?, a[1].to_index()?);
        let to = a.get(2).map_or(Ok(list.len()), Value::to_index)?;
        let part = list.get(from..to).ok_or_else(|| Error::new("the list has no such items"))?;
        Value::list(part.to_vec(), cx.budget())
    }),
    ("sort", 1, 1, |a, cx| {
        let list = a[0].to_list()?;
        let mut texts = list.iter().map(Value::to_text).collect::<Result<Vec<_>>>()?;
        texts.sort();
        Value::list(texts.into_iter().map(Value::String).collect(), cx.budget())
    }),
    ("values", 1, 1, |a, cx| {
        Value::list(a[0].to_object()?.values().cloned().collect(), cx.budget())
    }),
    ("zipmap", 2, 2, |a, cx| {
        let (keys, values) = (a[0].to_list()?, a[1].to_list()?);
        if keys.len() != values.len() {
            return Err(Error::new("there are not as many values as keys"));
        }
        let pairs = keys.iter().zip(values.iter()).map(|(k, v)| Ok((k.to_text()?, v.clone())));
        Value::object(pairs.collect::<Result<_>>()?, cx.budget())
    }),
];

/// `value[key]`.
pub fn index(value: &Value, key: &Value) -> Result<Value> {
    match value {
        Value::List(list) => {
            let at = key.to_index()?;
            list.get(at).cloned().ok_or_else(|| {
                Error::new(format!("the list has {} items, and no item {at}", list.len()))
            })
        }
        Value::Object(object) => {
            let key = key.to_text()?;
            let found = object.get(&key).cloned();
            found.ok_or_else(|| Error::new(format!("the object has no key `{key}`")))
        }
        other => Err(Error::new(format!("a {} has no items", other.kind()))),
    }
}

/// Lists in lists, written out: what is shared counts as often as it stands there.
fn flatten(value: &Value, out: &mut Vec<Value>) -> Result<()> {
    match value {
        Value::List(list) => list.iter().try_for_each(|v| flatten(v, out)),
        other => {
            out.push(other.clone());
            Ok(())
        }
    }
}

fn sets(
    args: &[Value],
    cx: &Eval<'_>,
    with: fn(&BTreeSet<Value>, &BTreeSet<Value>) -> BTreeSet<Value>,
) -> Result<Value> {
    let set = |v: &Value| Ok::<BTreeSet<Value>, Box<Error>>(v.to_list()?.iter().cloned().collect());
    let mut all = set(&args[0])?;
    for other in &args[1..] {
        cx.budget().steps(all.len())?;
        all = with(&all, &set(other)?);
    }
    Value::list(all.into_iter().collect(), cx.budget())
}

fn product(args: &[Value], cx: &Eval<'_>) -> Result<Value> {
    let lists = args.iter().map(Value::to_list).collect::<Result<Vec<_>>>()?;
    let count = lists.iter().fold(1usize, |n, l| n.saturating_mul(l.len()));
    cx.budget().value(count.saturating_mul(16 * (1 + lists.len())))?;
    if count == 0 {
        // The lists before the empty one may be long.
        return Value::list(Vec::new(), cx.budget());
    }
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for list in &lists {
        let longer = |row: &Vec<Value>| {
            list.iter()
                .map(|v| row.iter().cloned().chain([v.clone()]).collect())
                .collect::<Vec<_>>()
        };
        rows = rows.iter().flat_map(longer).collect();
    }
    let rows = rows.into_iter().map(|r| Value::list(r, cx.budget()));
    Value::list(rows.collect::<Result<_>>()?, cx.budget())
}

fn range(args: &[Value], cx: &Eval<'_>) -> Result<Value> {
    let numbers = args.iter().map(Value::to_number).collect::<Result<Vec<_>>>()?;
    let (from, to, step) = match numbers[..] {
        [to] => (0.0, to.float(), if to.float() < 0.0 { -1.0 } else { 1.0 }),
        [from, to] => {
            let (from, to) = (from.float(), to.float());
            (from, to, if to < from { -1.0 } else { 1.0 })
        }
        [from, to, step] => (from.float(), to.float(), step.float()),
        _ => return Err(Error::new("it takes 1 to 3 numbers")),
    };
    if step == 0.0 || (to - from) * step < 0.0 {
        return Err(Error::new("the step does not lead from the start to the end"));
    }
    let count = ((to - from) / step).ceil();
    // More than any value may hold; the cast is exact below.
    if !(0.0..=1e9).contains(&count) {
        return Err(Error::limit("the range has more items than a value may have"));
    }
    cx.budget().value(count as usize * 16)?;
    let items = (0..count as usize).map(|i| Value::Number(Number::from(from + step * i as f64)));
    Value::list(items.collect(), cx.budget())
}

/// A list of texts.
pub(super) fn texts(items: Vec<String>, cx: &Eval<'_>) -> Result<Value> {
    let items = items.into_iter().map(|s| Value::text(Arc::from(s), cx.budget()));
    Value::list(items.collect::<Result<_>>()?, cx.budget())
}
