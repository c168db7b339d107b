//! The functions of templates: Go's and Docker's.

use std::cmp::Ordering;

use serde_json::Value;

use super::eval::{kind, truth};
use super::parse::{TemplateError, fail};
use super::print::text;

/// Widest field of `printf` and most blanks of `pad`.
const WIDEST: usize = 1000;

/// Calls a function.
pub(super) fn call(name: &str, args: Vec<Value>) -> Result<Value, TemplateError> {
    let want = match name {
        "json" | "len" | "lower" | "upper" | "title" | "not" => 1..=1,
        "join" | "split" | "truncate" => 2..=2,
        "pad" => 3..=3,
        "eq" => 2..=usize::MAX,
        "ne" | "lt" | "le" | "gt" | "ge" => 2..=2,
        "slice" => 1..=3,
        "index" | "and" | "or" | "printf" => 1..=usize::MAX,
        "print" | "println" => 0..=usize::MAX,
        _ => return fail(format!("function `{name}` is not known")),
    };
    if !want.contains(&args.len()) {
        let (n, s) = (want.start(), if *want.start() == 1 { "" } else { "s" });
        return fail(format!("`{name}` takes {n} argument{s}, {} given", args.len()));
    }
    let one = || args.first().cloned().unwrap_or(Value::Null);
    let compared = |want: &[Ordering]| -> Result<Value, TemplateError> {
        let order = compare(&args[0], &args[1])?;
        Ok(want.contains(&order).into())
    };
    Ok(match name {
        "json" => one().to_string().into(),
        "lower" => text(&args[0]).to_lowercase().into(),
        "upper" => text(&args[0]).to_uppercase().into(),
        "title" => title(&text(&args[0])).into(),
        "not" => (!truth(&args[0])).into(),
        "len" => match &args[0] {
            Value::String(s) => s.len().into(),
            Value::Array(a) => a.len().into(),
            Value::Object(o) => o.len().into(),
            Value::Null => 0.into(),
            other => return fail(format!("`len` of {}", kind(other))),
        },
        "join" => {
            let Value::Array(all) = &args[0] else { return fail("`join` takes a list first") };
            all.iter().map(text).collect::<Vec<_>>().join(&text(&args[1])).into()
        }
        "split" => {
            let by = text(&args[1]);
            let from = text(&args[0]);
            let parts: Vec<Value> = match by.is_empty() {
                true => from.chars().map(|c| c.to_string().into()).collect(),
                false => from.split(&by).map(Value::from).collect(),
            };
            parts.into()
        }
        "truncate" => text(&args[0]).chars().take(count(&args[1])?).collect::<String>().into(),
        "pad" => {
            let blank = |v: &Value| Ok::<_, TemplateError>(" ".repeat(count(v)?.min(WIDEST)));
            match text(&args[0]) {
                empty if empty.is_empty() => empty.into(),
                t => format!("{}{t}{}", blank(&args[1])?, blank(&args[2])?).into(),
            }
        }
        "and" => args.iter().find(|v| !truth(v)).or(args.last()).cloned().unwrap_or(Value::Null),
        "or" => args.iter().find(|v| truth(v)).or(args.last()).cloned().unwrap_or(Value::Null),
        "eq" => args[1..].iter().any(|v| equal(&args[0], v)).into(),
        "ne" => (!equal(&args[0], &args[1])).into(),
        "lt" => compared(&[Ordering::Less])?,
        "le" => compared(&[Ordering::Less, Ordering::Equal])?,
        "gt" => compared(&[Ordering::Greater])?,
        "ge" => compared(&[Ordering::Greater, Ordering::Equal])?,
        "index" => index(args)?,
        "slice" => slice(&args)?,
        "print" => args.iter().map(text).collect::<String>().into(),
        "println" => (args.iter().map(text).collect::<Vec<_>>().join(" ") + "\n").into(),
        _ => printf(&text(&args[0]), &args[1..])?.into(),
    })
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(x), Some(y)) => x == y,
        _ => a == b,
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, TemplateError> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Number(_), Value::Number(_)) => a
            .as_f64()
            .zip(b.as_f64())
            .and_then(|(a, b)| a.partial_cmp(&b))
            .map_or_else(|| fail("numbers that have no order"), Ok),
        _ => fail(format!("{} and {} have no order", kind(a), kind(b))),
    }
}

fn count(v: &Value) -> Result<usize, TemplateError> {
    match v.as_u64().and_then(|n| usize::try_from(n).ok()) {
        Some(n) => Ok(n),
        None => fail(format!("`{}` is no count", text(v))),
    }
}

fn title(t: &str) -> String {
    let mut chars = t.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().collect::<String>() + chars.as_str())
}

fn index(args: Vec<Value>) -> Result<Value, TemplateError> {
    let mut all = args.into_iter();
    let mut at = all.next().unwrap_or(Value::Null);
    for key in all {
        at = match at {
            // Go gives the zero value of the map's elements, which are texts.
            Value::Object(mut o) => o.remove(&text(&key)).unwrap_or_else(|| "".into()),
            Value::Null => "".into(),
            Value::Array(mut a) => match count(&key)? {
                i if i < a.len() => a.swap_remove(i),
                i => return fail(format!("index {i} is out of range: there are {}", a.len())),
            },
            other => return fail(format!("`index` of {}", kind(&other))),
        };
    }
    Ok(at)
}

fn slice(args: &[Value]) -> Result<Value, TemplateError> {
    let from = args.get(1).map(count).transpose()?.unwrap_or(0);
    let to = args.get(2).map(count).transpose()?;
    let bad = || TemplateError("`slice` is out of range".to_owned());
    match &args[0] {
        Value::String(s) => {
            let part = s.get(from..to.unwrap_or(s.len())).ok_or_else(bad)?;
            Ok(part.into())
        }
        Value::Array(a) => {
            let part = a.get(from..to.unwrap_or(a.len())).ok_or_else(bad)?;
            Ok(part.to_vec().into())
        }
        other => fail(format!("`slice` of {}", kind(other))),
    }
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, `%%`, with width, `-` and precision.
fn printf(format: &str, args: &[Value]) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = String::new();
        while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '.')) {
            spec.push(c);
        }
        let verb = chars.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let Some(v) = args.next() else { return fail("`printf` has too few arguments") };
        let mut shown = match verb {
            Some('s' | 'v' | 'd' | 't') => text(v),
            Some('q') => format!("{:?}", text(v)),
            _ => return fail(format!("`printf` with `%{}`", verb.unwrap_or(' '))),
        };
        let left = spec.starts_with('-');
        let spec = spec.trim_start_matches('-');
        let (width, most) = spec.split_once('.').unwrap_or((spec, ""));
        if let Ok(n) = most.parse::<usize>() {
            shown = shown.chars().take(n).collect();
        }
        let width = width.parse::<usize>().unwrap_or(0).min(WIDEST);
        let fill = " ".repeat(width.saturating_sub(shown.chars().count()));
        out.push_str(&if left { shown + &fill } else { fill + &shown });
    }
    Ok(out)
}
