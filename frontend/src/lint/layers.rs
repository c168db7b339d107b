//! Layers: how many an image gets, and steps in a row that could be one.

use rgraph_ir::graph::GraphBuilder;
use rgraph_ir::limits::{MAX_LAYERS, WARN_LAYERS};
use rgraph_ir::op::{ExecOp, Op};
use rgraph_ir::{Diagnostic, Edge, HistoryEntry, Span, Target};

use super::{Lint, rules};
use crate::ast::{CmdForm, Dockerfile, Instruction, Kind, Run};
use crate::directive;

/// From this many plain steps in a row on a warning.
const CHAIN: usize = 3;

/// Of a longer row no step is named and no merged form is written: nobody could read it, and no image
/// can have it.
const NAMED: usize = MAX_LAYERS;

/// The instruction of a place in history. Stages and instructions stand in the order of their spans.
fn at_span(ast: &Dockerfile, span: Span) -> Option<&Instruction> {
    let stage = ast.stages.partition_point(|s| s.span.start <= span.start).checked_sub(1)?;
    let list = &ast.stages[stage].instructions;
    let at = list.partition_point(|i| i.span.start < span.start);
    list.get(at).filter(|i| i.span == span)
}

/// One step of a row.
struct Link<'a> {
    span: Span,
    instruction: &'a Instruction,
    run: &'a Run,
    /// The command without its shell.
    script: &'a str,
}

/// Warns about every row of `RUN`s in the target's history that could be one `RUN`: three or more,
/// or two where the later one deletes what an earlier one wrote.
pub(crate) fn chained_runs(
    target: &Target,
    graph: &GraphBuilder,
    ast: &Dockerfile,
    lint: &mut Lint,
) {
    let exec = |entry: &HistoryEntry| {
        let edge = entry.layer?;
        match &graph.vertex(edge.vertex).op {
            Op::Exec(op) => Some((edge, &**op)),
            _ => None,
        }
    };
    if !target.history.windows(2).any(|w| w.iter().all(|entry| exec(entry).is_some())) {
        return;
    }
    let mut row: Vec<Link<'_>> = Vec::new();
    let mut before: Option<(Edge, &ExecOp)> = None;
    for entry in &target.history {
        let link = entry.span.and_then(|s| at_span(ast, s)).and_then(plain);
        let (Some(link), Some((edge, op))) = (link, exec(entry)) else {
            report(&row, lint);
            row.clear();
            before = None;
            continue;
        };
        if before.is_some_and(|(_, b)| !same_room(b, op)) {
            report(&row, lint);
            row.clear();
        }
        row.push(link);
        before = Some((edge, op));
    }
    report(&row, lint);
}

/// A shell-form step without heredoc or other peculiarities.
fn plain(i: &Instruction) -> Option<Link<'_>> {
    let Kind::Run(run) = &i.kind else { return None };
    let CmdForm::Shell(text) = &run.cmd else { return None };
    let [script] = text.as_slice() else { return None };
    // A time to live is one step's own.
    let timed = directive::ttl(&i.comments).is_some();
    if timed || !run.heredocs.is_empty() || !run.devices.is_empty() {
        return None;
    }
    Some(Link { span: i.span, instruction: i, run, script })
}

/// Both run with the same rights, user, folder and variables.
fn same_room(a: &ExecOp, b: &ExecOp) -> bool {
    a.cwd == b.cwd
        && a.user == b.user
        && a.env == b.env
        && a.network == b.network
        && a.security == b.security
        && a.args.first() == b.args.first()
}

fn cleans_up(script: &str) -> bool {
    script.split(['&', ';', '|', '\n']).any(|c| {
        let c = c.trim();
        let c = c.strip_prefix("sudo ").unwrap_or(c);
        c.starts_with("rm ")
            || ["apt-get clean", "apt clean", "yum clean", "dnf clean", "apk cache clean"]
                .iter()
                .any(|s| c.starts_with(s))
            || ["pip cache purge", "npm cache clean"].iter().any(|s| c.starts_with(s))
    })
}

fn report(row: &[Link<'_>], lint: &mut Lint) {
    let Some(first) = row.first() else { return };
    let cleanup = row.iter().skip(1).find(|l| cleans_up(l.script));
    if row.len() < CHAIN && cleanup.is_none() {
        return;
    }
    let message = match cleanup {
        Some(_) => format!(
            "{} consecutive RUN instructions make {0} layers; what a later one deletes stays in the earlier layer",
            row.len()
        ),
        None => format!("{} consecutive RUN instructions make {0} layers", row.len()),
    };
    lint.warn(&rules::CHAINED_RUN, first.span, &first.instruction.comments, message);
    let Some(d) = lint.warnings.last_mut().filter(|d| d.code == rules::CHAINED_RUN.id) else {
        return;
    };
    if d.span() != Some(first.span) || d.help.is_some() {
        return;
    }
    if row.len() > NAMED {
        d.help = Some("write them as a few, with `&&` between the commands".to_owned());
        return;
    }
    for link in &row[1..] {
        let text = match cleanup {
            Some(c) if std::ptr::eq(c, link) => "deletes files that earlier layers keep",
            _ => "",
        };
        d.labels.push(rgraph_ir::Label { span: link.span, text: text.to_owned() });
    }
    d.help = Some(match merged(row) {
        Some(text) => format!("write them as one:\n{text}"),
        None => "write them as one RUN, with `&&` between the commands".to_owned(),
    });
}

/// All steps as one instruction; `None` when their texts cannot simply be put together.
fn merged(row: &[Link<'_>]) -> Option<String> {
    let comment = |s: &str| s.starts_with('#') || s.contains(" #") || s.contains("\t#");
    if row.iter().any(|l| comment(l.script) || l.script.contains("<<")) {
        return None;
    }
    let mut flags: Vec<&str> = Vec::new();
    for link in row {
        for m in link.run.mounts.iter().map(|m| m.written.as_str()) {
            if !flags.contains(&m) {
                flags.push(m);
            }
        }
    }
    let mut out = "RUN ".to_owned();
    for f in flags {
        out.push_str(f);
        out.push_str(" \\\n    ");
    }
    let scripts: Vec<String> = row
        .iter()
        .map(|l| {
            let s = l.script.trim().trim_end_matches(';').trim_end();
            if stands_alone(s) { s.to_owned() } else { format!("({s})") }
        })
        .collect();
    Some(out + &scripts.join(" && \\\n    "))
}

/// False for what would change the commands behind it: `a || b`, jobs, a folder or option that stays.
fn stands_alone(script: &str) -> bool {
    const STAYS: [&str; 13] = [
        "cd", "pushd", "export", "set", "unset", "umask", "alias", "source", "trap", "exit",
        "exec", "shopt", "ulimit",
    ];
    let word = |c: char| !c.is_alphanumeric() && c != '_' && c != '-' && c != '/';
    !script.contains("||")
        && !script.replace("&&", "").contains('&')
        && !script.contains(". ")
        && !script.split(word).any(|w| STAYS.contains(&w))
}

/// An error when the image gets more layers than can be used, a warning close to that.
pub(crate) fn limit(
    target: &Target,
    ast: &Dockerfile,
    max: usize,
    lint: &mut Lint,
) -> Option<Diagnostic> {
    let count = target.layer_count();
    if count < WARN_LAYERS || count <= max && lint.is_idle() {
        return None;
    }
    let base = target.base.layers;
    let made: Vec<Span> =
        target.history.iter().filter(|h| h.layer.is_some()).filter_map(|h| h.span).collect();
    // The first instruction whose layer is over the limit; with a base over it, the `FROM` line.
    let crossing = max.checked_sub(base).and_then(|n| made.get(n).copied());
    let at = if count > max { crossing.or(target.base.span) } else { made.last().copied() };
    let at = at.or(target.base.span).or_else(|| ast.stages.last().map(|s| s.span))?;
    let counted = format!(
        "{count} layers ({base} of the base image, {} of this file)",
        target.history.iter().filter(|h| h.layer.is_some()).count()
    );
    let help = merge_help(target, ast, count);
    if count > max {
        let message = format!(
            "the image would have {counted}, and {max} is the most that can be mounted; this line makes number {}",
            max.saturating_add(1).max(base)
        );
        return Some(Diagnostic::error("too-many-layers", at, message).help(help));
    }
    let message = format!(
        "the image has {counted}; Docker runs images of fewer than {WARN_LAYERS} layers only, and {MAX_LAYERS} is the most of all"
    );
    lint.warn(&rules::TOO_MANY_LAYERS, at, &[], message);
    if let Some(d) = lint.warnings.last_mut().filter(|d| d.code == rules::TOO_MANY_LAYERS.id) {
        d.help = Some(help);
    }
    None
}

/// Rows of the same instruction, longest first, as what to merge.
fn merge_help(target: &Target, ast: &Dockerfile, count: usize) -> String {
    let mut rows: Vec<(&'static str, Vec<Span>)> = Vec::new();
    for h in target.history.iter().filter(|h| h.layer.is_some()) {
        let Some(i) = h.span.and_then(|s| at_span(ast, s)) else { continue };
        let name = i.name();
        match rows.last_mut() {
            Some((last, spans)) if *last == name => spans.push(i.span),
            _ => rows.push((name, vec![i.span])),
        }
    }
    rows.retain(|(name, spans)| spans.len() > 1 && *name != "WORKDIR");
    rows.sort_by_key(|(_, spans)| std::cmp::Reverse(spans.len()));
    let over = count.saturating_sub(WARN_LAYERS - 1);
    if rows.is_empty() {
        return format!(
            "remove {over} layers: merge RUN instructions with `&&`, or copy the result into a new stage with one COPY --from"
        );
    }
    let line = |s: &Span| ast.line(*s);
    let list: Vec<String> = rows
        .iter()
        .take(5)
        .map(|(name, spans)| {
            let how = if *name == "RUN" { " with `&&`" } else { "" };
            format!(
                "merge the {} {name} instructions of lines {} to {}{how}: {} layers less",
                spans.len(),
                line(&spans[0]),
                line(&spans[spans.len() - 1]),
                spans.len() - 1
            )
        })
        .collect();
    format!("at least {over} layers must go:\n{}", list.join("\n"))
}
