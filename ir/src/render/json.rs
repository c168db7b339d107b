//! The graph as JSON, for programs. [`JSON_VERSION`] changes when the meaning of a member changes or
//! one goes away; new members may appear at any time.
//!
//! ```json
//! {
//!   "version": 1,
//!   "targets": [{"stage": "app", "platform": "linux/amd64", "root": 5, "layers": 4,
//!     "base": {"reference": null, "layers": 0},
//!     "history": [{"created_by": "...", "layer": 5, "file": "Dockerfile", "line": 7}]}],
//!   "vertices": [{"id": 0, "kind": "image", "name": "...", "stage": "build",
//!     "platform": "linux/amd64", "file": "Dockerfile", "line": 1, "digest": "blake3:...",
//!     "ignore_cache": false, "layers": [{"target": 0, "number": 4}],
//!     "inputs": [{"vertex": 0, "output": 0, "role": "root", "what": ""}],
//!     "op": {"source.image": "..."}}]
//! }
//! ```
//!
//! `id`s are positions in `vertices`, inputs before users. `op` has one member per field of the op,
//! named by its path, all values as text. `role` is `root` (counts by key), `content` (by what is
//! read of it) or `seed` (not at all).

use std::fmt::Write as _;

use super::view::View;
use crate::fields::{FieldList, KeyFields};
use crate::graph::VertexId;
use crate::plan::{BuildPlan, Target};
use crate::span::{SourceMap, Span};

/// Version of the form.
pub const JSON_VERSION: u32 = 1;

/// The plan as JSON, indented, with a line end.
pub fn json(plan: &BuildPlan, map: &SourceMap) -> String {
    let view = View::new(plan, map);
    let mut w = Writer::default();
    w.open(None, '{');
    w.number("version", u64::from(JSON_VERSION));
    w.open(Some("targets"), '[');
    for t in &plan.targets {
        target(&mut w, &view, t);
    }
    w.close(']');
    w.open(Some("vertices"), '[');
    for (n, id) in view.order.iter().enumerate() {
        vertex(&mut w, &view, n, *id);
    }
    w.close(']');
    w.close('}');
    w.out.push('\n');
    w.out
}

fn target(w: &mut Writer, view: &View<'_>, t: &Target) {
    w.open(None, '{');
    w.string("stage", &t.stage);
    w.string("platform", &t.platform.to_string());
    w.optional("root", t.root.and_then(|r| view.number(r.vertex)));
    w.number("layers", t.layer_count() as u64);
    w.open(Some("base"), '{');
    match &t.base.reference {
        Some(r) => w.string("reference", r),
        None => w.raw(Some("reference"), "null"),
    }
    w.number("layers", t.base.layers as u64);
    w.close('}');
    w.open(Some("history"), '[');
    for h in &t.history {
        w.open(None, '{');
        w.string("created_by", &h.created_by);
        w.optional("layer", h.layer.and_then(|l| view.number(l.vertex)));
        place(w, view.map, h.span);
        w.close('}');
    }
    w.close(']');
    w.close('}');
}

fn vertex(w: &mut Writer, view: &View<'_>, n: usize, id: VertexId) {
    let v = view.vertex(id);
    w.open(None, '{');
    w.number("id", n as u64);
    w.string("kind", v.op.kind());
    w.string("name", &v.meta.name);
    match &v.meta.stage {
        Some(s) => w.string("stage", s),
        None => w.raw(Some("stage"), "null"),
    }
    match &v.platform {
        Some(p) => w.string("platform", &p.to_string()),
        None => w.raw(Some("platform"), "null"),
    }
    place(w, view.map, v.meta.spans.first().copied());
    w.string("digest", &v.op_digest().to_string());
    w.raw(Some("ignore_cache"), if v.meta.ignore_cache { "true" } else { "false" });
    w.open(Some("layers"), '[');
    for (target, number) in view.layers(id) {
        w.open(None, '{');
        w.number("target", *target as u64);
        w.number("number", *number as u64);
        w.close('}');
    }
    w.close(']');
    w.open(Some("inputs"), '[');
    for u in view.uses(id) {
        w.open(None, '{');
        w.optional("vertex", view.number(u.edge.vertex));
        w.number("output", u64::from(u.edge.output));
        w.string("role", u.role);
        w.string("what", &u.what);
        w.close('}');
    }
    w.close(']');
    w.open(Some("op"), '{');
    let mut fields = FieldList::default();
    v.op.visit(&mut fields);
    for (path, value) in &fields.fields {
        w.string(path, value);
    }
    w.close('}');
    w.close('}');
}

fn place(w: &mut Writer, map: &SourceMap, span: Option<Span>) {
    match span {
        Some(s) => {
            let file = map.file(s.file);
            w.string("file", &file.name);
            w.number("line", u64::from(file.line_col(s.start).line));
        }
        None => {
            w.raw(Some("file"), "null");
            w.raw(Some("line"), "null");
        }
    }
}

/// Writes members one per line.
#[derive(Default)]
struct Writer {
    out: String,
    depth: usize,
    /// Something stands before in the innermost list or object.
    more: bool,
}

impl Writer {
    fn start(&mut self, name: Option<&str>) {
        if self.more {
            self.out.push(',');
        }
        if self.depth > 0 {
            let _ = write!(self.out, "\n{:w$}", "", w = self.depth * 2);
        }
        if let Some(name) = name {
            quote(&mut self.out, name);
            self.out.push_str(": ");
        }
        self.more = true;
    }

    fn raw(&mut self, name: Option<&str>, value: &str) {
        self.start(name);
        self.out.push_str(value);
    }

    fn string(&mut self, name: &str, value: &str) {
        self.start(Some(name));
        quote(&mut self.out, value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.raw(Some(name), &value.to_string());
    }

    fn optional(&mut self, name: &str, value: Option<usize>) {
        match value {
            Some(n) => self.number(name, n as u64),
            None => self.raw(Some(name), "null"),
        }
    }

    fn open(&mut self, name: Option<&str>, bracket: char) {
        self.start(name);
        self.out.push(bracket);
        self.depth += 1;
        self.more = false;
    }

    fn close(&mut self, bracket: char) {
        self.depth -= 1;
        if self.more {
            let _ = write!(self.out, "\n{:w$}", "", w = self.depth * 2);
        }
        self.out.push(bracket);
        self.more = true;
    }
}

/// A JSON string (RFC 8259, section 7).
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Kit;

    #[test]
    fn is_json_with_every_needed_vertex() {
        let kit = Kit::two_stages();
        let text = json(&kit.plan, &kit.map);
        let v: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(v["version"], 1);
        assert_eq!(v["targets"][0]["root"], 5);
        assert_eq!(v["targets"][0]["layers"], 5);
        assert_eq!(v["targets"][0]["history"][1]["layer"], serde_json::Value::Null);
        let vertices = v["vertices"].as_array().unwrap();
        assert_eq!(vertices.len(), 6);
        for (n, v) in vertices.iter().enumerate() {
            assert_eq!(v["id"], n);
            for i in v["inputs"].as_array().unwrap() {
                assert!(i["vertex"].as_u64().unwrap() < n as u64);
            }
        }
        assert_eq!(vertices[3]["line"], 3);
        assert_eq!(vertices[3]["op"]["exec.args[2]"], "go build -o /out/app ./...");
        assert_eq!(vertices[4]["inputs"][0]["what"], "/out/app");
        assert_eq!(vertices[4]["layers"][0]["number"], 4);
        assert_eq!(vertices[1]["stage"], serde_json::Value::Null);
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        quote(&mut out, "a\"\\\n\u{0}\u{7f}é");
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), "a\"\\\n\u{0}\u{7f}é");
    }
}
