//! The lines of a Dockerfile that a plan stands for, for views that go by lines.

use std::collections::{BTreeSet, HashMap};

use rgraph_frontend::ast::{Dockerfile, Kind, Stage};
use rgraph_ir::{BuildPlan, Span, VertexId};

use crate::progress::ScriptLine;

/// The lines of the stages that are built, in the order of the file.
pub fn script(ast: &Dockerfile, plan: &BuildPlan) -> Vec<ScriptLine> {
    let mut by_span: HashMap<Span, Vec<VertexId>> = HashMap::new();
    for (id, vertex) in plan.graph.iter() {
        if let Some(span) = vertex.meta.span {
            by_span.entry(span).or_default().push(id);
        }
    }
    let of = |span: Span| by_span.get(&span).cloned().unwrap_or_default();
    let wanted = wanted(ast, plan, &by_span);
    let plain = |text: &str| ScriptLine { text: text.to_owned(), ..ScriptLine::default() };
    let mut lines: Vec<ScriptLine> = ast.global_args.iter().map(|i| plain(&i.text)).collect();
    // By base, the first line that stands on it; by stage, its last.
    let (mut bases, mut ends) = (HashMap::new(), HashMap::new());
    for (at, stage) in ast.stages.iter().enumerate() {
        if !wanted.contains(&at) {
            continue;
        }
        let vertices = of(stage.span);
        let base = stage.base.text.as_str();
        let stands_on = ends.get(&base.to_ascii_lowercase()).or(bases.get(base)).copied();
        bases.entry(base).or_insert(lines.len());
        let text = plain(stage.text.trim());
        lines.push(ScriptLine { from: true, stands_on, vertices, ..text });
        lines.extend(stage.instructions.iter().map(|i| ScriptLine {
            run: matches!(i.kind, Kind::Run(_)),
            vertices: of(i.span),
            ..plain(&i.text)
        }));
        ends.extend(stage.name.clone().map(|n| (n, lines.len() - 1)));
    }
    lines
}

/// Stages that are targets or do something, and what these stand on.
fn wanted(
    ast: &Dockerfile,
    plan: &BuildPlan,
    by_span: &HashMap<Span, Vec<VertexId>>,
) -> BTreeSet<usize> {
    let named = |name: &str| {
        let same = |s: &Stage| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name));
        ast.stages.iter().rposition(same).or_else(|| name.parse().ok())
    };
    let mut wanted: BTreeSet<usize> = plan.targets.iter().filter_map(|t| named(&t.stage)).collect();
    for (at, stage) in ast.stages.iter().enumerate() {
        let spans = stage.instructions.iter().map(|i| i.span).chain([stage.span]);
        if spans.into_iter().any(|s| by_span.contains_key(&s)) {
            wanted.insert(at);
        }
    }
    for at in (0..ast.stages.len()).rev().filter(|at| wanted.contains(at)).collect::<Vec<_>>() {
        let base = &ast.stages[at].base.text;
        let below = ast.stages[..at]
            .iter()
            .rposition(|s| s.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(base)));
        wanted.extend(below);
    }
    wanted
}
