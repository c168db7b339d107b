//! Strings.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use rgraph_ir::limits::MAX_BAKE_VALUE;

use super::collections::texts;
use super::{MANY, Row, format};
use crate::budget::{Error, Result};
use crate::eval::Eval;
use crate::value::Value;

pub(super) const TABLE: &[Row] = &[
    ("basename", 1, 1, |a, cx| {
        let path = a[0].to_text()?;
        let base = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        text(if base.is_empty() { if path.is_empty() { "." } else { "/" } } else { base }, cx)
    }),
    ("bytesslice", 3, 3, |a, cx| {
        let (t, from, length) = (a[0].to_text()?, a[1].to_index()?, a[2].to_index()?);
        let part = from.checked_add(length).and_then(|to| t.get(from..to));
        text(part.ok_or_else(|| Error::new("the text has no such part"))?, cx)
    }),
    ("byteslen", 1, 1, |a, _| Ok(Value::int(a[0].to_text()?.len()))),
    ("chomp", 1, 1, |a, cx| text(a[0].to_text()?.trim_end_matches(['\n', '\r']), cx)),
    ("dirname", 1, 1, |a, cx| {
        let path = a[0].to_text()?;
        let dir = path.rsplit_once('/').map_or(".", |(dir, _)| dir.trim_end_matches('/'));
        text(if dir.is_empty() { "/" } else { dir }, cx)
    }),
    ("format", 1, MANY, |a, cx| text(&format::format(&a[0].to_text()?, &a[1..])?, cx)),
    ("formatlist", 1, MANY, format::list),
    ("homedir", 0, 0, |_, cx| text(&cx.globals.home().unwrap_or_default(), cx)),
    ("indent", 2, 2, |a, cx| {
        let (spaces, t) = (a[0].to_index()?, a[1].to_text()?);
        let lines = t.matches('\n').count();
        cx.budget().value(spaces.saturating_mul(lines).saturating_add(t.len()))?;
        text(
            &t.replace('\n', &format!("\n{}", " ".repeat(if lines == 0 { 0 } else { spaces }))),
            cx,
        )
    }),
    ("join", 2, MANY, |a, cx| {
        let between = a[0].to_text()?;
        let mut parts = Vec::new();
        for list in &a[1..] {
            for item in list.to_list()?.iter() {
                parts.push(item.to_text()?);
            }
        }
        let size = parts.iter().map(|p| p.len() + between.len()).sum();
        cx.budget().value(size)?;
        text(&parts.join(&*between), cx)
    }),
    ("lower", 1, 1, |a, cx| text(&a[0].to_text()?.to_lowercase(), cx)),
    ("regex", 2, 2, |a, cx| {
        let (pattern, t) = (Pattern::new(&a[0], cx)?, a[1].to_text()?);
        pattern.looks(t.len(), cx)?;
        match pattern.regex.captures(&t) {
            Some(found) => captured(&pattern.regex, &found, cx),
            None => Err(Error::new("the pattern does not match")),
        }
    }),
    ("regex_replace", 3, 3, |a, cx| {
        let (t, pattern, by) = (a[0].to_text()?, Pattern::new(&a[1], cx)?, a[2].to_text()?);
        pattern.looks(t.len(), cx)?;
        let mut out = String::new();
        let mut last = 0;
        for found in pattern.regex.captures_iter(&t) {
            let Some(whole) = found.get(0) else { continue };
            pattern.found(whole.end() - last, t.len() - whole.end(), cx)?;
            // Each `$n` stands for at most the match.
            let most = by.len() + by.matches('$').count() * whole.len();
            if out.len() + most > 2 * MAX_BAKE_VALUE {
                return Err(Error::limit(format!(
                    "the result would be larger than {MAX_BAKE_VALUE} bytes"
                )));
            }
            out.push_str(&t[last..whole.start()]);
            found.expand(&by, &mut out);
            last = whole.end();
        }
        out.push_str(&t[last..]);
        text(&out, cx)
    }),
    ("regexall", 2, 2, |a, cx| {
        let (pattern, t) = (Pattern::new(&a[0], cx)?, a[1].to_text()?);
        pattern.looks(t.len(), cx)?;
        let mut last = 0;
        let all = pattern.regex.captures_iter(&t).map(|found| {
            let end = found.get(0).map_or(last, |m| m.end());
            pattern.found(end - last, t.len() - end, cx)?;
            last = end;
            captured(&pattern.regex, &found, cx)
        });
        Value::list(all.collect::<Result<_>>()?, cx.budget())
    }),
    ("replace", 3, 3, |a, cx| {
        let (t, from, to) = (a[0].to_text()?, a[1].to_text()?, a[2].to_text()?);
        let found = t.matches(&*from).count();
        cx.budget().value(found.saturating_mul(to.len()).saturating_add(t.len()))?;
        text(&t.replace(&*from, &to), cx)
    }),
    ("reverse", 1, 1, |a, cx| text(&a[0].to_text()?.chars().rev().collect::<String>(), cx)),
    ("sanitize", 1, 1, |a, cx| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let t = a[0].to_text()?;
        text(&t.chars().map(|c| if fine(c) { c } else { '_' }).collect::<String>(), cx)
    }),
    ("split", 2, 2, |a, cx| {
        let (between, t) = (a[0].to_text()?, a[1].to_text()?);
        let parts: Vec<String> = match between.is_empty() {
            true => t.chars().map(String::from).collect(),
            false => t.split(&*between).map(str::to_owned).collect(),
        };
        texts(parts, cx)
    }),
    ("strlen", 1, 1, |a, _| Ok(Value::int(a[0].to_text()?.chars().count()))),
    ("substr", 3, 3, |a, cx| {
        let t: Vec<char> = a[0].to_text()?.chars().collect();
        let whole = |v: &Value| {
            v.to_number()?.whole().ok_or_else(|| Error::new("a whole number is needed"))
        };
        let (from, length) = (whole(&a[1])?, whole(&a[2])?);
        let from = match usize::try_from(from) {
            Ok(n) => n.min(t.len()),
            Err(_) => t.len().saturating_sub(from.unsigned_abs() as usize),
        };
        let to = match usize::try_from(length) {
            Ok(n) => from.saturating_add(n).min(t.len()),
            Err(_) => t.len(),
        };
        text(&t[from..to].iter().collect::<String>(), cx)
    }),
    ("title", 1, 1, |a, cx| {
        let mut start = true;
        let t = a[0].to_text()?;
        let mut out = String::with_capacity(t.len());
        for c in t.chars() {
            match start {
                true => out.extend(c.to_uppercase()),
                false => out.push(c),
            }
            start = !c.is_alphanumeric() && c != '_' && c != '\'';
        }
        text(&out, cx)
    }),
    ("trim", 2, 2, |a, cx| {
        let (t, set) = (a[0].to_text()?, a[1].to_text()?);
        cx.budget().steps(t.len().saturating_mul(set.len()) / 16)?;
        text(t.trim_matches(|c| set.contains(c)), cx)
    }),
    ("trimprefix", 2, 2, |a, cx| {
        let (t, prefix) = (a[0].to_text()?, a[1].to_text()?);
        text(t.strip_prefix(&*prefix).unwrap_or(&t), cx)
    }),
    ("trimspace", 1, 1, |a, cx| text(a[0].to_text()?.trim(), cx)),
    ("trimsuffix", 2, 2, |a, cx| {
        let (t, suffix) = (a[0].to_text()?, a[1].to_text()?);
        text(t.strip_suffix(&*suffix).unwrap_or(&t), cx)
    }),
    ("upper", 1, 1, |a, cx| text(&a[0].to_text()?.to_uppercase(), cx)),
];

pub(super) fn text(t: &str, cx: &Eval<'_>) -> Result<Value> {
    Value::text(Arc::from(t), cx.budget())
}

/// A pattern with the bytes that it comes to: it cannot go back, so looking for it takes time by the length
/// of the text, times that at worst.
struct Pattern {
    regex: Regex,
    size: usize,
}

/// Sizes that are tried, bytes. Larger patterns are refused.
const SIZES: [usize; 4] = [8 << 10, 32 << 10, 128 << 10, 512 << 10];

impl Pattern {
    fn new(pattern: &Value, cx: &Eval<'_>) -> Result<Self> {
        const LENGTH: usize = 4 << 10;
        let pattern = pattern.to_text()?;
        if pattern.len() > LENGTH {
            return Err(Error::limit(format!("a pattern is longer than {LENGTH} bytes")));
        }
        for size in SIZES {
            // What compiling may cost, whatever comes of it.
            cx.budget().steps(100 + pattern.len() * 16 + size / 64)?;
            let made = RegexBuilder::new(&pattern)
                .size_limit(size)
                .dfa_size_limit(1 << 20)
                .nest_limit(50)
                .build();
            match made {
                Ok(regex) => return Ok(Self { regex, size }),
                Err(regex::Error::CompiledTooBig(_)) => {}
                Err(e) => return Err(Error::new(format!("the pattern is none: {e}"))),
            }
        }
        Err(Error::limit(format!(
            "the pattern comes to more than {} bytes, repetitions written out",
            SIZES[SIZES.len() - 1]
        )))
    }

    /// Pays for one look at so much text.
    fn looks(&self, text: usize, cx: &Eval<'_>) -> Result<()> {
        cx.budget().steps(1 + text.saturating_mul(self.size) / STEP)
    }

    /// Pays for one match more: what it went past, and a part of the rest, at which it may have looked too.
    fn found(&self, past: usize, rest: usize, cx: &Eval<'_>) -> Result<()> {
        self.looks(past + rest / 64, cx)
    }
}

/// Bytes of text times bytes of a pattern that are one step.
const STEP: usize = 8 << 10;

/// What a pattern found: the text, the groups, or the groups by name.
fn captured(pattern: &Regex, found: &regex::Captures<'_>, cx: &Eval<'_>) -> Result<Value> {
    let group = |m: Option<regex::Match<'_>>| match m {
        Some(m) => text(m.as_str(), cx),
        None => Ok(Value::Null),
    };
    let names: Vec<Option<&str>> = pattern.capture_names().skip(1).collect();
    if names.is_empty() {
        return group(found.get(0));
    }
    if names.iter().any(Option::is_some) {
        let named = names.iter().flatten().map(|n| Ok((Arc::from(*n), group(found.name(n))?)));
        return Value::object(named.collect::<Result<_>>()?, cx.budget());
    }
    let groups = found.iter().skip(1).map(group).collect::<Result<_>>()?;
    Value::list(groups, cx.budget())
}
