//! Graphviz: one cluster per stage, one box per vertex, arrows from input to user.
//!
//! Solid arrows carry a root file system, dashed ones content that is copied or mounted, dotted
//! ones what a cache mount starts with. The boxes that become layers of an image are drawn bold and
//! say which layer.

use std::fmt::Write as _;

use super::Style;
use super::view::{View, lines};
use crate::graph::VertexId;
use crate::op::{Op, SourceOp};
use crate::plan::{BuildPlan, Target};
use crate::span::SourceMap;

/// The plan in the DOT language.
pub fn dot(plan: &BuildPlan, map: &SourceMap, style: &Style) -> String {
    let view = View::new(plan, map);
    let mut d = Dot { view: &view, style, out: String::new() };
    d.head();
    for (n, (stage, ids)) in view.stages().into_iter().enumerate() {
        d.stage(n, stage, &ids);
    }
    for (t, target) in plan.targets.iter().enumerate() {
        d.target(t, target);
    }
    for id in &view.order {
        d.edges(*id);
    }
    d.out.push_str("}\n");
    d.out
}

struct Dot<'a> {
    view: &'a View<'a>,
    style: &'a Style,
    out: String,
}

/// Shape, fill and border of a kind of op.
fn look(op: &Op) -> (&'static str, &'static str, &'static str) {
    match op {
        Op::Source(SourceOp::Image(_) | SourceOp::OciLayout(_)) => {
            ("cylinder", "#d6e6f5", "#2b6ca3")
        }
        Op::Source(SourceOp::Local(_)) => ("folder", "#fdf0c8", "#a67c00"),
        Op::Source(SourceOp::Http(_)) => ("note", "#e8e0f5", "#6b4fa0"),
        Op::Source(SourceOp::Git(_)) => ("tab", "#e8e0f5", "#6b4fa0"),
        Op::Exec(_) => ("box", "#dff0dc", "#3d7a37"),
        Op::File(_) => ("component", "#f1f2f4", "#5b6472"),
        // Trapezia would say it better, but grow far beyond their text.
        Op::Merge(_) => ("box, peripheries=2", "#fbe2d4", "#b05a2a"),
        Op::Diff(_) => ("cds", "#fbe2d4", "#b05a2a"),
    }
}

const WIDTH: usize = 44;

impl Dot<'_> {
    fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.out, "{:indent$}{text}", "", indent = indent * 2);
    }

    fn head(&mut self) {
        let dir = if self.style.left_to_right { "LR" } else { "TB" };
        self.line(0, "digraph rgraph {");
        self.line(
            1,
            &format!(
                "graph [rankdir={dir}, fontname=\"Helvetica,Arial,sans-serif\", fontsize=12, \
                 nodesep=0.35, ranksep=0.45, bgcolor=\"white\"];"
            ),
        );
        if let Some(title) = &self.style.title {
            let title = html(&lines(title, 80, self.style.max_text));
            self.line(1, &format!("label=<<b>{title}</b>>; labelloc=t;"));
        }
        self.line(
            1,
            "node [fontname=\"Helvetica,Arial,sans-serif\", fontsize=11, style=filled, \
             margin=\"0.14,0.08\"];",
        );
        self.line(
            1,
            "edge [fontname=\"Helvetica,Arial,sans-serif\", fontsize=9, color=\"#5b6472\", \
             fontcolor=\"#5b6472\", arrowsize=0.7];",
        );
    }

    fn stage(&mut self, n: usize, stage: Option<&str>, ids: &[VertexId]) {
        let indent = match stage {
            None => 1,
            Some(stage) => {
                self.line(1, &format!("subgraph cluster_{n} {{"));
                let name = html(&lines(stage, WIDTH, self.style.max_text));
                self.line(2, &format!("label=<<b>{name}</b>>; labeljust=l;"));
                self.line(2, "style=\"rounded,filled\"; color=\"#c9ced6\"; fillcolor=\"#fafbfc\";");
                2
            }
        };
        for id in ids {
            self.vertex(indent, *id);
        }
        if stage.is_some() {
            self.line(1, "}");
        }
    }

    fn vertex(&mut self, indent: usize, id: VertexId) {
        let v = self.view.vertex(id);
        let (shape, fill, border) = look(&v.op);
        let text = flush_left(&lines(&self.view.text(id), WIDTH, self.style.max_text));
        let mut small = Vec::new();
        small.extend(self.view.place(id));
        small.extend(v.platform.as_ref().map(ToString::to_string));
        small.extend(self.layer_text(id));
        if v.meta.ignore_cache {
            small.push("no cache".to_owned());
        }
        small.extend(v.meta.ttl.map(|t| format!("ttl {t}")));
        let cached = self.style.cached.get(&id).copied();
        small.extend(cached.map(|hit| if hit { "cached" } else { "to run" }.to_owned()));
        let mut label = text;
        if !small.is_empty() {
            let small = escape(&small.join(" \u{b7} "));
            let _ = write!(
                label,
                "<font point-size=\"9\" color=\"#5b6472\">{small}<br align=\"left\"/></font>"
            );
        }
        let width = if self.view.layers(id).is_empty() { "1" } else { "2" };
        let round = match (&v.op, cached) {
            (Op::Exec(_), Some(true)) => ", style=\"rounded,filled,dashed\"",
            (Op::Exec(_), _) => ", style=\"rounded,filled\"",
            (_, Some(true)) => ", style=\"filled,dashed\"",
            _ => "",
        };
        let name = self.name(id);
        self.line(
            indent,
            &format!(
                "{name} [shape={shape}, fillcolor=\"{fill}\", color=\"{border}\", \
                 penwidth={width}{round}, label=<{label}>];"
            ),
        );
    }

    /// `layer 4`, with the target when there are several.
    fn layer_text(&self, id: VertexId) -> Option<String> {
        let layers = self.view.layers(id);
        let first = layers.first()?;
        if layers.iter().all(|l| l.number == first.number) {
            return Some(format!("layer {}", first.number));
        }
        let each = layers.iter().map(|l| format!("{} of image {}", l.number, l.target + 1));
        Some(format!("layer {}", each.collect::<Vec<_>>().join(", ")))
    }

    fn target(&mut self, t: usize, target: &Target) {
        let title = if self.view.plan.targets.len() > 1 {
            format!("image {}: {}", t + 1, target.stage)
        } else {
            format!("image: {}", target.stage)
        };
        let title = html(&lines(&title, WIDTH, self.style.max_text));
        let count = target.layer_count();
        let layers = if count == 1 { "layer" } else { "layers" };
        let small = escape(&format!("{} \u{b7} {count} {layers}", target.platform));
        self.line(
            1,
            &format!(
                "image{t} [shape=box3d, fillcolor=\"#25313f\", color=\"#101820\", \
                 fontcolor=\"white\", label=<<b>{title}</b><br/>\
                 <font point-size=\"9\">{small}</font>>];"
            ),
        );
        if let Some(root) = target.root {
            let name = self.name(root.vertex);
            self.line(1, &format!("{name} -> image{t} [penwidth=2, color=\"#25313f\"];"));
        }
    }

    fn edges(&mut self, id: VertexId) {
        let to = self.name(id);
        for u in self.view.uses(id) {
            let from = self.name(u.edge.vertex);
            let line = match u.role {
                "root" => "style=solid",
                "content" => "style=dashed",
                _ => "style=dotted",
            };
            let mut attrs = line.to_owned();
            if !u.what.is_empty() {
                // Blanks keep the text off the line.
                let label = html(&lines(&u.what, 40, 96));
                let _ = write!(attrs, ", label=<&#160;{label}&#160;>");
            }
            self.line(1, &format!("{from} -> {to} [{attrs}];"));
        }
    }

    fn name(&self, id: VertexId) -> String {
        self.view.number(id).map_or_else(|| "none".to_owned(), |n| format!("v{n}"))
    }
}

/// Lines of an HTML-like label; never empty, which Graphviz refuses.
fn html(lines: &[String]) -> String {
    if lines.is_empty() {
        return " ".to_owned();
    }
    lines.iter().map(|l| escape(l)).collect::<Vec<_>>().join("<br/>")
}

/// Lines of a box, flush left: there the break belongs to the line it ends.
fn flush_left(lines: &[String]) -> String {
    lines.iter().map(|l| escape(l) + "<br align=\"left\"/>").collect()
}

/// Text inside an HTML-like label. What XML 1.0 does not allow becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '[' => out.push_str("&#91;"),
            ']' => out.push_str("&#93;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Kit;

    #[test]
    fn draws_what_is_needed_with_places_layers_and_stages() {
        let kit = Kit::two_stages();
        let text = dot(&kit.plan, &kit.map, &Style::default());
        for want in [
            "subgraph cluster_1 {",
            "label=<<b>build</b>>",
            "label=<<b>stage-1</b>>",
            "shape=cylinder",
            "Dockerfile:3 \u{b7} linux/amd64",
            "Dockerfile:6 \u{b7} layer 4",
            "echo &quot;&lt;&amp;&gt;&quot;",
            "v3 -> v4 [style=dashed, label=<&#160;/out/app&#160;>];",
            "v1 -> v2 [style=dashed];",
            "v5 -> image0",
            "image: stage-1",
            "5 layers",
        ] {
            assert!(text.contains(want), "{want} in\n{text}");
        }
        assert!(!text.contains("unused"));
        assert_eq!(text, dot(&kit.plan, &kit.map, &Style::default()));
    }

    #[test]
    fn says_what_the_cache_said() {
        let kit = Kit::two_stages();
        let cached = [(VertexId(0), true), (VertexId(3), false)].into();
        let style = Style { cached, title: Some("a < b".to_owned()), ..Style::default() };
        let text = dot(&kit.plan, &kit.map, &style);
        assert_eq!(text.matches("cached<").count(), 1);
        assert_eq!(text.matches("to run<").count(), 1);
        assert!(text.contains("label=<<b>a &lt; b</b>>"));
    }

    #[test]
    fn hostile_names_stay_inside_their_label() {
        let mut kit = Kit::two_stages();
        kit.plan.targets[0].stage = "x>];evil\u{0}\u{1b}\u{ffff}<b>".to_owned();
        let text = dot(&kit.plan, &kit.map, &Style::default());
        assert!(text.contains("image: x&gt;&#93;;evil \u{fffd}&lt;b&gt;"), "{text}");
    }
}
