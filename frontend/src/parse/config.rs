//! Instructions that set something: `ENV`, `ARG`, `LABEL`, `CMD`, `HEALTHCHECK`, ...

use rgraph_ir::Diagnostic;
use rgraph_ir::image_config;

use super::flags::Takes;
use super::{Head, json, unknown, value, words};
use crate::ast::{ArgDef, CmdForm, Healthcheck, Heredoc, Kind, Pair, Word};

pub(super) fn parse(
    head: &Head<'_>,
    heredocs: Vec<Heredoc>,
    diags: &mut Vec<Diagnostic>,
) -> Option<Kind> {
    let name = &*head.upper;
    match name {
        // These two do not look at flags at all.
        "ARG" => return arg(head, diags),
        "STOPSIGNAL" => return one(head, diags).map(Kind::StopSignal),
        "HEALTHCHECK" => return healthcheck(head, diags),
        "ENV" | "LABEL" | "WORKDIR" | "USER" | "EXPOSE" | "VOLUME" | "CMD" | "ENTRYPOINT"
        | "SHELL" | "MAINTAINER" | "ONBUILD" => {}
        _ => {
            diags.push(unknown(head));
            return None;
        }
    }
    head.flags(&[], diags);
    match name {
        "ENV" => pairs(head, diags).map(Kind::Env),
        "LABEL" => pairs(head, diags).map(Kind::Label),
        "WORKDIR" => one(head, diags).map(Kind::Workdir),
        "USER" => one(head, diags).map(Kind::User),
        "MAINTAINER" => one(head, diags).map(Kind::Maintainer),
        "CMD" => command(head, diags).map(Kind::Cmd),
        "ENTRYPOINT" => command(head, diags).map(Kind::Entrypoint),
        "EXPOSE" => {
            let mut ports = words::plain(head.line, head.at);
            if ports.is_empty() {
                diags.push(at_least_one(head));
                return None;
            }
            ports.sort_by(|a, b| a.text.cmp(&b.text));
            Some(Kind::Expose(ports))
        }
        "VOLUME" => volume(head, diags),
        "SHELL" => shell(head, diags),
        _ => onbuild(head, heredocs, diags),
    }
}

fn at_least_one(head: &Head<'_>) -> Diagnostic {
    head.error("missing-argument", format!("{} requires at least one argument", head.upper))
}

/// A list with other things than strings.
pub(super) fn mixed(head: &Head<'_>) -> Diagnostic {
    head.error(
        "json-not-strings",
        "when using JSON array syntax, arrays must be comprised of strings only",
    )
    .help("put every element in double quotes")
}

fn one(head: &Head<'_>, diags: &mut Vec<Diagnostic>) -> Option<Word> {
    let args = head.args();
    if args.is_empty() {
        diags.push(
            head.error("missing-argument", format!("{} requires exactly one argument", head.upper)),
        );
        return None;
    }
    Some(head.line.word(args, head.at, head.at + args.len()))
}

/// Shell or exec form.
pub(super) fn command(head: &Head<'_>, diags: &mut Vec<Diagnostic>) -> Option<CmdForm> {
    match &head.json {
        json::List::Strings(items) => Some(CmdForm::Exec(items.clone())),
        json::List::Mixed => {
            diags.push(mixed(head));
            None
        }
        json::List::No if head.args().is_empty() => Some(CmdForm::Shell(Vec::new())),
        json::List::No => Some(CmdForm::Shell(vec![head.args().to_owned()])),
    }
}

fn pairs(head: &Head<'_>, diags: &mut Vec<Diagnostic>) -> Option<Vec<Pair>> {
    let name = &*head.upper;
    let words = words::quoted(head.line, head.at);
    let Some(first) = words.first() else {
        diags.push(at_least_one(head));
        return None;
    };
    let blank = |d: &mut Vec<Diagnostic>, w: &Word| {
        d.push(Diagnostic::error("blank-name", w.span, format!("{name} names can not be blank")));
    };
    if !first.text.contains('=') {
        let args = head.args();
        let Some(cut) = args.find(words::is_blank) else {
            diags.push(
                head.error("missing-argument", format!("{name} must have two arguments"))
                    .help(format!("write `{name} {args}=value`")),
            );
            return None;
        };
        let rest = args[cut..].trim_start_matches(words::is_blank);
        let from = head.at + (args.len() - rest.len());
        return Some(vec![Pair {
            key: head.line.word(&args[..cut], head.at, head.at + cut),
            value: head.line.word(rest, from, head.at + args.len()),
            legacy: true,
        }]);
    }
    let errors = diags.len();
    let mut out = Vec::with_capacity(words.len());
    for word in &words {
        let Some((key, value)) = word.text.split_once('=') else {
            diags.push(Diagnostic::error(
                "missing-equals",
                word.span,
                format!(
                    "Syntax error - can't find = in \"{}\". Must be of the form: name=value",
                    word.text
                ),
            ));
            continue;
        };
        if key.is_empty() {
            blank(diags, word);
            continue;
        }
        let part = |s: &str| Word { text: s.into(), span: word.span };
        out.push(Pair { key: part(key), value: part(value), legacy: false });
    }
    (diags.len() == errors).then_some(out)
}

fn arg(head: &Head<'_>, diags: &mut Vec<Diagnostic>) -> Option<Kind> {
    let words = words::quoted(head.line, head.at);
    if words.is_empty() {
        diags.push(at_least_one(head));
        return None;
    }
    let mut out = Vec::with_capacity(words.len());
    for word in words {
        let part = |s: &str| Word { text: s.into(), span: word.span };
        match word.text.split_once('=') {
            Some(("", _)) => {
                diags.push(Diagnostic::error(
                    "blank-name",
                    word.span,
                    "ARG names can not be blank",
                ));
                return None;
            }
            Some((k, v)) => out.push(ArgDef { key: part(k), value: Some(part(v)) }),
            None => out.push(ArgDef { key: word, value: None }),
        }
    }
    Some(Kind::Arg(out))
}

fn volume(head: &Head<'_>, diags: &mut Vec<Diagnostic>) -> Option<Kind> {
    if head.json == json::List::Mixed {
        diags.push(mixed(head));
        return None;
    }
    let mut list = head.list();
    if list.is_empty() {
        diags.push(at_least_one(head));
        return None;
    }
    for w in &mut list {
        w.text = w.text.trim().into();
        if w.text.is_empty() {
            diags.push(Diagnostic::error(
                "empty-volume",
                w.span,
                "VOLUME specified can not be an empty string",
            ));
            return None;
        }
    }
    Some(Kind::Volume(list))
}

fn shell(head: &Head<'_>, diags: &mut Vec<Diagnostic>) -> Option<Kind> {
    match command(head, diags)? {
        CmdForm::Exec(list) | CmdForm::Shell(list) if list.is_empty() => {
            diags.push(at_least_one(head));
            None
        }
        CmdForm::Exec(list) => Some(Kind::Shell(list)),
        CmdForm::Shell(list) => {
            let words: Vec<String> =
                list[0].split_whitespace().map(|w| format!("\"{w}\"")).collect();
            diags.push(
                head.error(
                    "shell-not-json",
                    format!("SHELL requires the arguments to be in JSON form: {}", list[0]),
                )
                .help(format!("write `SHELL [{}]`", words.join(", "))),
            );
            None
        }
    }
}

fn onbuild(head: &Head<'_>, heredocs: Vec<Heredoc>, diags: &mut Vec<Diagnostic>) -> Option<Kind> {
    let args = head.args();
    if args.is_empty() {
        diags.push(at_least_one(head));
        return None;
    }
    let inner = super::head(head.line, head.at);
    match &*inner.upper {
        "ONBUILD" => {
            diags.push(Diagnostic::error(
                "onbuild-trigger",
                inner.keyword.span,
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            ));
            return None;
        }
        name @ ("MAINTAINER" | "FROM") => {
            diags.push(Diagnostic::error(
                "onbuild-trigger",
                inner.keyword.span,
                format!("{name} isn't allowed as an ONBUILD trigger"),
            ));
            return None;
        }
        "RUN" | "CMD" | "ENTRYPOINT" | "COPY" | "ADD" | "VOLUME" | "SHELL"
            if inner.json == json::List::Mixed =>
        {
            diags.push(mixed(&inner));
            return None;
        }
        "HEALTHCHECK" if json::list(split_first(inner.args()).1) == json::List::Mixed => {
            diags.push(mixed(&inner));
            return None;
        }
        // Of a trigger only the form is looked at before it runs.
        "ENV" | "LABEL" if !words::quoted(head.line, inner.at).is_empty() => {
            let errors = diags.len();
            let mut found = Vec::new();
            pairs(&inner, &mut found);
            diags.extend(found.into_iter().filter(|d| d.code != "blank-name"));
            if diags.len() > errors {
                return None;
            }
        }
        _ => {}
    }
    let start =
        head.keyword.text.len() + (head.line.text.len() - head.line.text.trim_start().len());
    // Go's `\s` is what is cut off: without `\v`, and ASCII alone.
    let blanks = ['\t', '\n', '\u{c}', '\r', ' '];
    let mut text = head.line.text[start..].trim_start_matches(blanks).to_owned();
    for h in &heredocs {
        text.push('\n');
        text.push_str(&h.body);
        text.push_str(&h.name);
    }
    Some(Kind::Onbuild(Word { text: text.into(), span: inner.keyword.span }))
}

/// The first word of `HEALTHCHECK` and what follows it.
fn split_first(args: &str) -> (&str, &str) {
    let cut = args.find(words::is_blank).unwrap_or(args.len());
    (&args[..cut], args[cut..].trim_start())
}

fn healthcheck(head: &Head<'_>, diags: &mut Vec<Diagnostic>) -> Option<Kind> {
    let args = head.args();
    if args.is_empty() {
        diags.push(at_least_one(head));
        return None;
    }
    let (kind, rest) = split_first(args);
    let kind = kind.to_ascii_uppercase();
    let mut health = image_config::Healthcheck::default();
    let list = json::list(rest);
    if list == json::List::Mixed {
        diags.push(mixed(head));
        return None;
    }
    if kind == "NONE" {
        if !rest.is_empty() && list != json::List::Strings(Vec::new()) {
            diags.push(head.error("healthcheck", "HEALTHCHECK NONE takes no arguments"));
            return None;
        }
        health.test = vec![kind];
        return Some(Kind::Healthcheck(Healthcheck { health }));
    }
    let flags = head.flags(
        &[
            ("interval", Takes::One),
            ("timeout", Takes::One),
            ("start-period", Takes::One),
            ("start-interval", Takes::One),
            ("retries", Takes::One),
        ],
        diags,
    );
    if kind != "CMD" {
        diags.push(
            head.error("healthcheck", format!("Unknown type \"{kind}\" in HEALTHCHECK (try CMD)")),
        );
        return None;
    }
    health.test = match list {
        json::List::Strings(list) if !list.is_empty() => {
            std::iter::once(kind).chain(list).collect()
        }
        json::List::No if !rest.is_empty() => vec!["CMD-SHELL".to_owned(), rest.to_owned()],
        _ => {
            diags.push(head.error("healthcheck", "Missing command after HEALTHCHECK CMD"));
            return None;
        }
    };
    let mut interval = |key: &'static str| match flags.filled(key) {
        None => 0,
        Some(w) => match value::duration(&w.text) {
            Some(0) => 0,
            Some(n) if n >= 1_000_000 => n,
            Some(_) => {
                diags.push(Diagnostic::error(
                    "healthcheck",
                    w.span,
                    format!("Interval \"{key}\" cannot be less than 1ms"),
                ));
                0
            }
            None => {
                diags.push(
                    Diagnostic::error(
                        "healthcheck",
                        w.span,
                        format!("invalid duration \"{}\"", w.text),
                    )
                    .help("write a number with a unit, such as `30s` or `1m30s`"),
                );
                0
            }
        },
    };
    health.interval = interval("interval");
    health.timeout = interval("timeout");
    health.start_period = interval("start-period");
    health.start_interval = interval("start-interval");
    if let Some(w) = flags.filled("retries") {
        match w.text.parse::<i32>() {
            Ok(n) if n >= 0 => health.retries = n.into(),
            Ok(n) => diags.push(Diagnostic::error(
                "healthcheck",
                w.span,
                format!("--retries cannot be negative ({n})"),
            )),
            Err(_) => diags.push(Diagnostic::error(
                "healthcheck",
                w.span,
                format!("--retries is not a number: \"{}\"", w.text),
            )),
        }
    }
    Some(Kind::Healthcheck(Healthcheck { health }))
}
