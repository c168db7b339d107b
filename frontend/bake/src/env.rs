//! Variables in compose files, and the `.env` file they may come from.

use std::collections::BTreeMap;

use rgraph_ir::limits::{MAX_BAKE_BYTES, MAX_BAKE_VALUE, MAX_NESTING};

use crate::budget::{Error, Result};

/// Puts variables into a text: `$NAME`, `${NAME}`, with `:-`, `-`, `:+`, `+`, `:?`, `?` after the name;
/// `$$` is `$`.
pub fn interpolate(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let mut out = String::new();
    expand(text, lookup, 0, &mut out)?;
    Ok(out)
}

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
    out: &mut String,
) -> Result<()> {
    if depth > MAX_NESTING {
        return Err(Error::limit(format!(
            "variables are nested over more than {MAX_NESTING} levels"
        )));
    }
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after)
                .ok_or_else(|| Error::new("a `${` is not closed").help("`$$` stands for `$`"))?;
            braced(&after[..end], lookup, depth, out)?;
            rest = &after[end + 1..];
        } else {
            let end = name_end(rest);
            if end == 0 {
                // `$(`, `$1`: nobody's variable.
                out.push('$');
            } else {
                out.push_str(&lookup(&rest[..end]).unwrap_or_default());
            }
            rest = &rest[end..];
        }
        if out.len() > MAX_BAKE_VALUE {
            return Err(Error::limit(format!(
                "a value would be larger than {MAX_BAKE_VALUE} bytes"
            )));
        }
    }
    out.push_str(rest);
    Ok(())
}

fn name_end(text: &str) -> usize {
    let fine = |(i, c): (usize, char)| {
        c == '_' || c.is_ascii_alphabetic() || (i > 0 && c.is_ascii_digit())
    };
    text.char_indices().find(|ic| !fine(*ic)).map_or(text.len(), |(i, _)| i)
}

/// Where the `}` is that belongs to the `{` before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut last = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if last == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        last = c;
    }
    None
}

fn braced(
    inner: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
    out: &mut String,
) -> Result<()> {
    let (name, how) = inner.split_at(name_end(inner));
    if name.is_empty() {
        return Err(Error::new(format!("`${{{}}}` has no name", crate::value::cut(inner))));
    }
    let value = lookup(name);
    // With a colon, an empty value counts as none.
    let (mark, value) = match how.strip_prefix(':') {
        Some(mark) => (mark, value.filter(|v| !v.is_empty())),
        None => (how, value),
    };
    let mut marks = mark.chars();
    match (marks.next(), value) {
        (None, value) if how.is_empty() => out.push_str(&value.unwrap_or_default()),
        (Some('-'), Some(value)) | (Some('?'), Some(value)) => out.push_str(&value),
        (Some('-'), None) => expand(marks.as_str(), lookup, depth + 1, out)?,
        (Some('+'), Some(_)) => expand(marks.as_str(), lookup, depth + 1, out)?,
        (Some('+'), None) => {}
        (Some('?'), None) => {
            let why = match marks.as_str() {
                "" => "it is not set",
                why => why,
            };
            return Err(Error::new(format!("variable `{name}`: {why}")));
        }
        _ => return Err(Error::new(format!("`${{{}}}` is no variable", crate::value::cut(inner)))),
    }
    Ok(())
}

/// Reads a file of `NAME=VALUE` lines as they stand there.
pub fn raw(text: &str) -> BTreeMap<String, String> {
    let pair = |l: &str| l.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.to_owned()));
    text.lines().filter(|l| !l.starts_with('#')).filter_map(pair).collect()
}

/// Reads a `.env` file: `NAME=VALUE` lines, comments, quotes. Values in double quotes and without quotes
/// may name variables that stand above or in `known`.
///
/// # Errors
/// The line that is none, in words for the user.
pub fn dotenv(
    text: &str,
    known: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<BTreeMap<String, String>, String> {
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    let mut bytes = 0;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why: &str| format!("line {}: {why}", at + 1);
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            // A name alone is what it is outside.
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || name_end(name) != name.len() {
            return Err(bad("expected NAME=VALUE"));
        }
        let value = match value.chars().next() {
            Some(q @ ('\'' | '"')) => {
                let inner = &value[1..];
                let end = inner.find(q).ok_or_else(|| bad("a quote is not closed"))?;
                (&inner[..end], q == '"')
            }
            _ => (value.split(" #").next().unwrap_or_default().trim_end(), true),
        };
        let text = match value {
            (text, true) => {
                let lookup = |n: &str| out.get(n).cloned().or_else(|| known(n));
                interpolate(text, &lookup).map_err(|e| bad(&e.message))?
            }
            (text, false) => text.to_owned(),
        };
        bytes += (name.len() + text.len()) as u64;
        if bytes > MAX_BAKE_BYTES {
            return Err(bad(&format!("all values are larger than {MAX_BAKE_BYTES} bytes")));
        }
        out.insert(name.to_owned(), text);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "E" => Some(String::new()),
            _ => None,
        };
        for (text, want) in [
            ("x$A", Some("x1")),
            ("$A.$B", Some("1.")),
            ("${A}", Some("1")),
            ("${B:-d}", Some("d")),
            ("${E:-d}${E-d}", Some("d")),
            ("${B:-${A}x}", Some("1x")),
            ("${A:+y}${B+y}", Some("y")),
            ("$$A", Some("$A")),
            ("${B:?no b}", None),
            ("$(A) $1 $- $", Some("$(A) $1 $- $")),
            ("${B:-$(A)}", Some("$(A)")),
            ("${", None),
            ("${}", None),
            ("${1}", None),
        ] {
            assert_eq!(interpolate(text, &lookup).ok().as_deref(), want, "{text}");
        }
        let deep = "${B:-".repeat(100) + &"}".repeat(100);
        assert!(interpolate(&deep, &lookup).unwrap_err().is_limit);
        let file = "# c\nexport X=1\nY=\"$X $A\" \nZ='$X'\nW=a # c\n";
        let got = dotenv(file, &lookup).expect("it reads");
        let want = [("W", "a"), ("X", "1"), ("Y", "1 1"), ("Z", "$X")];
        assert_eq!(got, want.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(dotenv("A B=1", &lookup), Err("line 1: expected NAME=VALUE".to_owned()));
    }
}
