//! Mermaid, for Markdown pages: one subgraph per stage, arrows from input to user.

use std::fmt::Write as _;

use super::Style;
use super::view::{View, lines};
use crate::graph::VertexId;
use crate::op::{Op, SourceOp};
use crate::plan::BuildPlan;
use crate::span::SourceMap;

/// The plan as a Mermaid flowchart.
pub fn mermaid(plan: &BuildPlan, map: &SourceMap, style: &Style) -> String {
    let view = View::new(plan, map);
    let mut out = String::new();
    if let Some(title) = &style.title {
        let _ = writeln!(out, "---\ntitle: \"{}\"\n---", escape(&lines(title, 80, style.max_text)));
    }
    let dir = if style.left_to_right { "LR" } else { "TB" };
    let _ = writeln!(out, "flowchart {dir}");
    for (n, (stage, ids)) in view.stages().into_iter().enumerate() {
        if let Some(stage) = stage {
            let name = escape(&lines(stage, 40, style.max_text));
            let _ = writeln!(out, "  subgraph s{n} [\"{name}\"]");
        }
        for id in ids {
            vertex(&mut out, &view, style, id);
        }
        if stage.is_some() {
            out.push_str("  end\n");
        }
    }
    for (t, target) in plan.targets.iter().enumerate() {
        let name = escape(&lines(&target.stage, 40, style.max_text));
        let count = target.layer_count();
        let platform = escape(&[target.platform.to_string()]);
        let _ = writeln!(
            out,
            "  image{t}[[\"image: {name}<br/>{platform} \u{b7} {count} layers\"]]:::image"
        );
        if let Some(n) = target.root.and_then(|r| view.number(r.vertex)) {
            let _ = writeln!(out, "  v{n} ==> image{t}");
        }
    }
    for (to, id) in view.order.iter().enumerate() {
        for u in view.uses(*id) {
            let Some(from) = view.number(u.edge.vertex) else { continue };
            let arrow = if u.role == "root" { "-->" } else { "-.->" };
            let what = escape(&lines(&u.what, 32, 96));
            if what.is_empty() {
                let _ = writeln!(out, "  v{from} {arrow} v{to}");
            } else {
                let _ = writeln!(out, "  v{from} {arrow}|\"{what}\"| v{to}");
            }
        }
    }
    for (class, fill, line) in [
        ("source", "#d6e6f5", "#2b6ca3"),
        ("local", "#fdf0c8", "#a67c00"),
        ("exec", "#dff0dc", "#3d7a37"),
        ("file", "#f1f2f4", "#5b6472"),
        ("image", "#25313f,color:#fff", "#101820"),
    ] {
        let _ = writeln!(out, "  classDef {class} fill:{fill},stroke:{line}");
    }
    out
}

fn vertex(out: &mut String, view: &View<'_>, style: &Style, id: VertexId) {
    let v = view.vertex(id);
    let (open, close, class) = match &v.op {
        Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_)) => ("[(", ")]", "source"),
        Op::Source(SourceOp::Local(_)) => ("[/", "/]", "local"),
        Op::Source(SourceOp::Http(_) | SourceOp::Git(_)) => (">", "]", "source"),
        Op::Exec(_) => ("(", ")", "exec"),
        Op::File(_) => ("[", "]", "file"),
        Op::Merge(_) | Op::Diff(_) => ("{{", "}}", "file"),
    };
    let mut parts = vec![escape(&lines(&view.text(id), 44, style.max_text))];
    let mut small = Vec::new();
    small.extend(view.place(id));
    small.extend(v.platform.as_ref().map(ToString::to_string));
    small.extend(view.layers(id).first().map(|l| format!("layer {}", l.number)));
    small
        .extend(style.cached.get(&id).map(|hit| if *hit { "cached" } else { "to run" }.to_owned()));
    if !small.is_empty() {
        parts.push(escape(&[small.join(" \u{b7} ")]));
    }
    let n = view.number(id).unwrap_or_default();
    let _ = writeln!(out, "    v{n}{open}\"{}\"{close}:::{class}", parts.join("<br/>"));
}

/// Text inside a quoted label. Mermaid reads `#name;` and Markdown there, so all that is no letter,
/// digit or harmless sign is written as a number.
fn escape(lines: &[String]) -> String {
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push_str("<br/>");
        }
        for c in line.chars() {
            if c.is_alphanumeric() || " .,:/-_+=@~\u{b7}\u{2026}\u{2192}".contains(c) {
                out.push(c);
            } else {
                let _ = write!(out, "#{};", c as u32);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Kit;

    #[test]
    fn draws_what_is_needed() {
        let kit = Kit::two_stages();
        let text = mermaid(&kit.plan, &kit.map, &Style::default());
        for want in [
            "flowchart TB\n",
            "subgraph s1 [\"build\"]",
            "v0[(\"FROM golang<br/>Dockerfile:1 \u{b7} linux/amd64\")]:::source",
            "v3 -.->|\"/out/app\"| v4",
            "v4 --> v5",
            "v5 ==> image0",
            "#34;#60;#38;#62;#34;",
        ] {
            assert!(text.contains(want), "{want} in\n{text}");
        }
        assert!(!text.contains("unused"));
    }
}
