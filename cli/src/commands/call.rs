//! `rgraph build --check` and `--call`: what a Dockerfile says about itself. No step runs and nothing is
//! fetched; base images are stubs.
//!
//! Text and JSON have the forms of `docker buildx build --call`: the fields are those of BuildKit's
//! subrequests. Fields of our own are added to findings (`severity`, `help`, `range` with columns) and
//! to errors (`errors`: all of them), for editors.

use std::fmt::Write as _;

use rgraph_frontend::outline::{Arg, Need, Outline, Target};
use rgraph_frontend::{Facts, Lowering, lower, outline, parse, targets};
use rgraph_ir::{Diagnostic, Severity, SourceFile, SourceMap, Span};
use serde_json::{Map, Value, json};

use super::{Context, print};
use crate::load::{FolderNames, load};
use crate::options::{BuildOptions, Call};
use crate::pipeline::{CompileError, lower_options};
use crate::progress::sanitize::harmless;
use crate::report::{CliError, ErrorKind};

/// What was asked for, in the form it was asked for.
pub enum Said {
    /// For people.
    Text(String),
    /// One document.
    Json(Value),
}

impl Said {
    /// Writes it to stdout.
    pub fn print(&self) -> Result<(), CliError> {
        match self {
            Self::Text(text) => print(text.as_bytes()),
            Self::Json(value) => print(&document(value)),
        }
    }
}

/// What a Dockerfile says, and how the command ends once that is told.
pub struct Answer {
    /// Nothing of it is written yet.
    pub said: Said,
    /// An error where something was found.
    pub end: Result<(), CliError>,
}

/// Runs what `opts.call` names.
pub fn run(cx: &Context, opts: &BuildOptions) -> Result<(), CliError> {
    let Answer { said, end } = ask(cx, opts)?;
    said.print()?;
    end
}

/// Finds out what `opts.call` names.
pub fn ask(cx: &Context, opts: &BuildOptions) -> Result<Answer, CliError> {
    let brought = crate::context::bring(opts, None)?;
    let mut sources = SourceMap::default();
    let loaded = load(opts, brought.as_ref(), &mut sources, &mut FolderNames::default())
        .map_err(|e| CliError::failed(rgraph_runtime::report(&e)))?;
    let file = sources.file(loaded.dockerfile).clone();
    let mut options = lower_options(opts, &loaded);
    let parsed = parse(&file);
    let (errors, mut warnings): (Vec<_>, Vec<_>) =
        parsed.diags.into_iter().partition(|d| d.severity == Severity::Error);
    let failed = |errors| cx.compile_error(CompileError::Text(errors, sources.clone()));
    match opts.call {
        Call::Build => Err(CliError::internal("a build is no call")),
        Call::Check { json } => {
            // Without a target every stage is looked at.
            options.all_stages = options.target.is_none();
            let mut errors = errors;
            if errors.is_empty() {
                match lower(&parsed.ast, &options, &Facts::offline()) {
                    Ok(Lowering::Done(done)) => warnings.extend(done.warnings),
                    Ok(Lowering::Missing(_)) => {
                        return Err(CliError::internal("stubs did not answer everything"));
                    }
                    Err(e) => errors.extend(e),
                }
            }
            let (bad, broken) = (!warnings.is_empty() || !errors.is_empty(), !errors.is_empty());
            let said = match json {
                true => Said::Json(check_json(&file, &warnings, &errors)),
                false => Said::Text(check_text(&warnings, broken, &sources)),
            };
            let end = match bad {
                _ if broken && !json => Err(failed(errors)),
                true => Err(CliError::reported(ErrorKind::Failed)),
                false => Ok(()),
            };
            Ok(Answer { said, end })
        }
        _ if !errors.is_empty() => Err(failed(errors)),
        Call::Outline { json } => {
            let found = outline(&parsed.ast, &options).map_err(failed)?;
            let said = match json {
                true => Said::Json(outline_json(&file, &found)),
                false => Said::Text(outline_text(&found)),
            };
            Ok(Answer { said, end: Ok(()) })
        }
        Call::Targets { json } => {
            let list = targets(&parsed.ast);
            let said = match json {
                true => Said::Json(targets_json(&file, &list)),
                false => Said::Text(targets_text(&list)),
            };
            Ok(Answer { said, end: Ok(()) })
        }
    }
}

fn check_text(warnings: &[Diagnostic], broken: bool, map: &SourceMap) -> String {
    let mut out = match warnings.len() {
        0 if broken => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        n => format!("Check complete, {n} warnings have been found!\n"),
    };
    for d in warnings {
        let link = d.url.map(|u| format!(" - {u}")).unwrap_or_default();
        out.push_str(&format!("\nWARNING: {}{link}\n{}\n", d.code, harmless(&d.message)));
        if let Some(help) = &d.help {
            out.push_str(&format!("help: {}\n", harmless(help)));
        }
        if let Some(span) = d.span() {
            excerpt(map.file(span.file), span, &mut out);
        }
    }
    out
}

/// The lines a span covers, marked, with two lines (four about a single one) shared out around them.
fn excerpt(file: &SourceFile, span: Span, out: &mut String) {
    let (first, last) = lines(file, span);
    let total = file.line_col(u32::MAX).line;
    let around = if first == last { 4 } else { 2 };
    let (mut from, mut to, mut tries) = (first, last, 0);
    while tries < around {
        if from > 1 {
            from -= 1;
            tries += 1;
        }
        if to < total {
            to += 1;
            tries += 1;
        }
        tries += 1;
    }
    const RULE: &str = "--------------------\n";
    // A string takes everything.
    writeln!(out, "{}:{first}", harmless(&file.name)).unwrap_or(());
    out.push_str(RULE);
    for n in from..=to {
        let mark = if (first..=last).contains(&n) { ">>>" } else { "   " };
        writeln!(out, " {n:>3} | {mark} {}", harmless(file.line(n))).unwrap_or(());
    }
    out.push_str(RULE);
}

/// First and last line of a span, from 1.
fn lines(file: &SourceFile, span: Span) -> (u32, u32) {
    let first = file.line_col(span.start).line;
    (first, file.line_col(span.end.saturating_sub(1).max(span.start)).line)
}

fn outline_text(o: &Outline) -> String {
    let mut out = String::new();
    if o.name.is_some() || o.description.is_some() {
        let name = o.name.as_deref().unwrap_or("(default)");
        let mut rows = vec![vec!["TARGET:", name]];
        rows.extend(o.description.as_deref().map(|d| vec!["DESCRIPTION:", d]));
        out.push_str(&columns(&rows, 1));
        out.push('\n');
    }
    if !o.args.is_empty() {
        let text = |t: &'_ Option<String>| t.clone().unwrap_or_default();
        let cells: Vec<[String; 3]> =
            o.args.iter().map(|a| [a.name.clone(), text(&a.value), text(&a.description)]).collect();
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(cells.iter().map(|r| r.iter().map(String::as_str).collect()));
        out.push_str(&columns(&rows, 3));
        out.push('\n');
    }
    for (heading, list) in [("SECRET", &o.secrets), ("SSH", &o.ssh)] {
        if list.is_empty() {
            continue;
        }
        let mut rows = vec![vec![heading, "REQUIRED"]];
        let needed = |n: &Need| if n.required { "true" } else { "" };
        rows.extend(list.iter().map(|n| vec![n.id.as_str(), needed(n)]));
        out.push_str(&columns(&rows, 3));
        out.push('\n');
    }
    if !o.caches.is_empty() {
        let mut rows = vec![vec!["CACHE"]];
        rows.extend(o.caches.iter().map(|n| vec![n.id.as_str()]));
        out.push_str(&columns(&rows, 3));
        out.push('\n');
    }
    out
}

fn targets_text(list: &[Target]) -> String {
    let name = |t: &Target| match (&t.name, t.default) {
        (None, true) => "(default)".to_owned(),
        (Some(n), true) => format!("{n} (default)"),
        (n, false) => n.clone().unwrap_or_default(),
    };
    let cells: Vec<[String; 2]> =
        list.iter().map(|t| [name(t), t.description.clone().unwrap_or_default()]).collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(cells.iter().map(|r| r.iter().map(String::as_str).collect()));
    columns(&rows, 1)
}

/// Columns as wide as their widest cell and `gap`; the last one is not filled up.
fn columns(rows: &[Vec<&str>], gap: usize) -> String {
    let shown: Vec<Vec<String>> = rows
        .iter()
        .map(|r| r.iter().map(|c| harmless(c).replace(['\n', '\t'], " ")).collect())
        .collect();
    let count = shown.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| shown.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max())
        .map(Option::unwrap_or_default)
        .collect();
    let mut out = String::new();
    for row in &shown {
        for (i, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if i + 1 < row.len() {
                let fill = widths[i] - cell.chars().count() + gap;
                out.extend(std::iter::repeat_n(' ', fill));
            }
        }
        out.push('\n');
    }
    out
}

/// Pretty JSON. Control characters that JSON lets stand are escaped: it may go to a terminal.
fn document(value: &Value) -> Vec<u8> {
    let text = serde_json::to_string_pretty(value).expect("always serialises");
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            // A string takes everything; control characters are of the first plane.
            write!(out, "\\u{:04x}", u32::from(c)).unwrap_or(());
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    out.into_bytes()
}

/// An object of the fields that are there.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let there = fields.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?)));
    Value::Object(there.collect::<Map<_, _>>())
}

/// A place as BuildKit writes it: one range per line.
fn location(file: &SourceFile, span: Span) -> Value {
    let (first, last) = lines(file, span);
    let range = |n: u32| json!({"start": {"line": n}, "end": {"line": n}});
    json!({"ranges": (first..=last).map(range).collect::<Vec<_>>()})
}

/// A place for editors: line and column from 1, the end excluded.
fn range(file: &SourceFile, span: Span) -> Value {
    let at = |n: u32| {
        let p = file.line_col(n);
        json!({"line": p.line, "column": p.col})
    };
    json!({"start": at(span.start), "end": at(span.end)})
}

fn check_json(file: &SourceFile, warnings: &[Diagnostic], errors: &[Diagnostic]) -> Value {
    let place = |d: &Diagnostic| d.span().filter(|s| s.file == file.id);
    let severity = |d: &Diagnostic| match d.severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let warning = |d: &Diagnostic| {
        // BuildKit's way to say "nowhere in the text".
        let nowhere = || json!({"sourceIndex": -1});
        object([
            ("ruleName", Some(d.code.into())),
            ("url", d.url.map(Value::from)),
            ("detail", Some(d.message.as_str().into())),
            ("location", Some(place(d).map_or_else(nowhere, |s| location(file, s)))),
            ("severity", Some(severity(d).into())),
            ("help", d.help.as_deref().map(Value::from)),
            ("range", place(d).map(|s| range(file, s))),
        ])
    };
    let error = |d: &Diagnostic| {
        object([
            ("code", Some(d.code.into())),
            ("message", Some(d.message.as_str().into())),
            ("location", Some(place(d).map_or_else(|| json!({}), |s| location(file, s)))),
            ("severity", Some(severity(d).into())),
            ("help", d.help.as_deref().map(Value::from)),
            ("range", place(d).map(|s| range(file, s))),
        ])
    };
    let source = json!({
        "filename": file.name,
        "language": "Dockerfile",
        "data": base64(file.text.as_bytes()),
    });
    let all = (!errors.is_empty()).then(|| errors.iter().map(error).collect::<Vec<_>>().into());
    object([
        ("warnings", Some(warnings.iter().map(warning).collect::<Vec<_>>().into())),
        ("sources", Some(json!([source]))),
        ("buildError", errors.first().map(error)),
        ("errors", all),
    ])
}

fn outline_json(file: &SourceFile, o: &Outline) -> Value {
    let at = |span| Some(location(file, span));
    let text = |t: &Option<String>| t.as_deref().filter(|t| !t.is_empty()).map(Value::from);
    let list = |l: Vec<Value>| (!l.is_empty()).then(|| Value::from(l));
    let arg = |a: &Arg| {
        object([
            ("name", Some(a.name.as_str().into())),
            ("description", text(&a.description)),
            ("value", text(&a.value)),
            ("location", at(a.span)),
        ])
    };
    let need = |n: &Need| {
        object([
            ("name", Some(n.id.as_str().into())),
            ("required", n.required.then_some(true.into())),
            ("location", at(n.span)),
        ])
    };
    let cache = |n: &Need| object([("ID", Some(n.id.as_str().into())), ("location", at(n.span))]);
    object([
        ("name", text(&o.name)),
        ("description", text(&o.description)),
        ("args", list(o.args.iter().map(arg).collect())),
        ("secrets", list(o.secrets.iter().map(need).collect())),
        ("ssh", list(o.ssh.iter().map(need).collect())),
        ("cache", list(o.caches.iter().map(cache).collect())),
        ("sources", Some(json!([base64(file.text.as_bytes())]))),
    ])
}

fn targets_json(file: &SourceFile, list: &[Target]) -> Value {
    let target = |t: &Target| {
        object([
            ("name", t.name.as_deref().map(Value::from)),
            ("default", t.default.then_some(true.into())),
            ("description", t.description.as_deref().map(Value::from)),
            ("base", Some(t.base.as_str().into())),
            ("platform", t.platform.as_deref().map(Value::from)),
            ("location", Some(location(file, t.span))),
        ])
    };
    json!({
        "targets": list.iter().map(target).collect::<Vec<_>>(),
        "sources": [base64(file.text.as_bytes())],
    })
}

/// RFC 4648, with padding: how Go's JSON writes bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            out.push(if i <= group.len() {
                DIGITS[(bits >> (18 - 6 * i) & 63) as usize] as char
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> (SourceMap, Vec<Diagnostic>) {
        let mut map = SourceMap::default();
        let id = map.add("Dockerfile", text);
        let parsed = parse(map.file(id));
        let opts = rgraph_frontend::LowerOptions::default();
        let Ok(Lowering::Done(done)) = lower(&parsed.ast, &opts, &Facts::offline()) else {
            panic!("does not lower: {text}")
        };
        (map, done.warnings)
    }

    #[test]
    fn a_warning_as_text() {
        let (map, warnings) = checked("FROM scratch AS Up\nENV A=1\nENV B=2\nENV C=3\nENV D=4\n");
        assert_eq!(
            check_text(&warnings, false, &map),
            "Check complete, 1 warning has been found!

WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
Stage name 'Up' should be lowercase
Dockerfile:1
--------------------
   1 | >>> FROM scratch AS Up
   2 |     ENV A=1
   3 |     ENV B=2
--------------------
"
        );
        let (map, none) = checked("FROM scratch AS up\n");
        assert_eq!(check_text(&none, false, &map), "Check complete, no warnings found.\n");
    }

    #[test]
    fn findings_as_json() {
        let (map, warnings) = checked("FROM scratch AS Up\n");
        let file = map.file(warnings[0].span().unwrap().file);
        let error = Diagnostic::error("x", warnings[0].span().unwrap(), "bad\u{9b}\u{1b}");
        let v = check_json(file, &warnings, &[error]);
        assert_eq!(v["warnings"][0]["ruleName"], "StageNameCasing");
        assert_eq!(v["warnings"][0]["location"]["ranges"][0]["start"]["line"], 1);
        assert_eq!(v["warnings"][0]["range"]["start"]["line"], 1);
        assert_eq!(v["sources"][0]["data"], "RlJPTSBzY3JhdGNoIEFTIFVwCg==");
        assert_eq!(v["buildError"]["message"], v["errors"][0]["message"]);
        let text = String::from_utf8(document(&v)).unwrap();
        assert!(!text.contains(['\u{9b}', '\u{1b}']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), v);
    }

    #[test]
    fn outlines_and_targets() {
        let mut map = SourceMap::default();
        let id = map.add(
            "Dockerfile",
            "# V is the version\nARG V=1\n# a builds\nFROM img:$V AS a\n\
             RUN --mount=type=secret,id=s,required --mount=type=cache,target=/c \\\n  make\nFROM a\n",
        );
        let file = map.file(id);
        let ast = parse(file).ast;
        let o = outline(&ast, &rgraph_frontend::LowerOptions::default()).unwrap();
        assert_eq!(
            outline_text(&o),
            "BUILD ARG   VALUE   DESCRIPTION\nV           1       is the version\n\n\
             SECRET   REQUIRED\ns        true\n\nCACHE\n/c\n\n"
        );
        let v = outline_json(file, &o);
        assert_eq!(v["args"][0]["value"], "1");
        assert_eq!(v["secrets"][0]["location"]["ranges"][1]["start"]["line"], 6);
        assert_eq!(v["cache"][0]["ID"], "/c");
        assert_eq!(v.get("ssh"), None);
        let list = targets(&ast);
        assert_eq!(targets_text(&list), "TARGET    DESCRIPTION\na         builds\n(default) \n");
        let v = targets_json(file, &list);
        assert_eq!(v["targets"][1]["default"], true);
        assert_eq!(v["targets"][1].get("name"), None);
        assert_eq!(v["targets"][0]["base"], "img:$V");
    }

    #[test]
    fn base64_of_all_remainders() {
        for (bytes, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), want);
        }
    }
}
