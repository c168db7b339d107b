//! The graph as JSON, for programs. [`JSON_VERSION`] changes when the meaning of a member changes or
//! one goes away; new members may appear at any time.
//!
//! ```json
//! {"version": 3,
//!  "targets": [
//!   {"stage": "app", "platform": "linux/amd64", "root": 5, "layers": 4,
//!    "base": {"reference": null, "layers": 0},
//!    "history": [{"created_by": "...", "layer": 5, "file": "Dockerfile", "line": 7}]}],
//!  "environments": [
//!   {"id": 0, "parent": null, "name": "PATH", "value": "/bin"}],
//!  "vertices": [
//!   {"id": 0, "kind": "image", "name": "...", "stage": "build", "platform": "linux/amd64",
//!    "file": "Dockerfile", "line": 1, "ignore_cache": false, "cached": null,
//!    "layers": [{"target": 0, "number": 4}],
//!    "inputs": [{"vertex": 0, "output": 0, "role": "root", "what": ""}],
//!    "environment": null, "op": {"source.image": "..."}}]}
//! ```
//!
//! Every target, environment and vertex has a line of its own, so that two outputs can be compared.
//! `id`s are positions in their lists, inputs before users. An environment is its parent's variables
//! and one more at the end: steps share what they have in common. `environment` names the one of a
//! step; `null`: no variables, or no step. `op` has one member per other field of the op, named by its
//! path, all values as text. `role` is `root` (counts by key), `content` (by what is read of it) or
//! `seed` (not at all). `cached` is `true` or `false` where a cache was asked.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::Style;
use super::view::View;
use crate::env::{Env, EnvId};
use crate::fields::{FieldPath, FieldVisitor, KeyFields, Value, push_number};
use crate::graph::VertexId;
use crate::op::Op;
use crate::plan::{BuildPlan, Target};
use crate::platform::Platform;
use crate::span::{FileId, SourceMap, Span};

/// Version of the form.
pub const JSON_VERSION: u32 = 3;

/// How much text is gathered before it is handed on, bytes.
const PIECE: usize = 64 << 10;

/// The plan as JSON with a line end, piece by piece, since it is larger than the plan.
pub fn json(plan: &BuildPlan, map: &SourceMap, style: &Style, take: &mut dyn FnMut(&str)) {
    let json = Json::new(plan, map, style);
    let environments = json.environments();
    json.head(&environments, take);
    json.vertices(&environments, 0..json.len(), take);
    json.tail(take);
}

/// The same in parts, for callers that have several threads: head, vertices, tail. Of `style` only what
/// a cache said counts.
pub struct Json<'a> {
    view: View<'a>,
    style: &'a Style,
}

/// Every environment that a step has or shares, with its number.
pub struct Environments<'a> {
    /// Parents first.
    list: Vec<&'a Env>,
    numbers: HashMap<EnvId, usize, RandomState>,
}

impl<'a> Json<'a> {
    /// A plan, ready to be written.
    pub fn new(plan: &'a BuildPlan, map: &'a SourceMap, style: &'a Style) -> Self {
        Self { view: View::new(plan, map), style }
    }

    /// How many vertices there are to write.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.view.order.len()
    }

    /// Numbers the environments.
    pub fn environments(&self) -> Environments<'a> {
        let (mut list, mut numbers) = (Vec::new(), HashMap::<_, _, RandomState>::default());
        let mut new: Vec<(EnvId, &Env)> = Vec::new();
        for id in &self.view.order {
            let Op::Exec(e) = &self.view.vertex(*id).op else { continue };
            let mut next = Some(&e.env);
            while let Some((env, id)) = next.and_then(|e| Some((e, e.id()?)))
                && !numbers.contains_key(&id)
            {
                new.push((id, env));
                next = env.parent();
            }
            for (id, env) in new.drain(..).rev() {
                numbers.insert(id, list.len());
                list.push(env);
            }
        }
        Environments { list, numbers }
    }

    /// Everything before the first vertex.
    pub fn head(&self, environments: &Environments<'_>, take: &mut dyn FnMut(&str)) {
        let view = &self.view;
        let mut w = Writer::new(take);
        w.open(None, '{');
        w.number("version", u64::from(JSON_VERSION));
        w.line(" ");
        w.open(Some("targets"), '[');
        for t in &view.plan.targets {
            w.line("  ");
            target(&mut w, view, t);
        }
        w.close(']');
        w.line(" ");
        environments.write(&mut w);
        w.line(" ");
        w.open(Some("vertices"), '[');
        w.end();
    }

    /// Some of the vertices; all of them, in order, make the list.
    pub fn vertices(
        &self,
        environments: &Environments<'_>,
        range: Range<usize>,
        take: &mut dyn FnMut(&str),
    ) {
        let mut w = Writer::new(take);
        w.more = range.start > 0;
        let mut path = FieldPath::default();
        for n in range {
            let id = self.view.order[n];
            w.line("  ");
            vertex(&mut w, &self.view, self.style, &environments.numbers, &mut path, n, id);
        }
        w.end();
    }

    /// Everything behind the last vertex.
    pub fn tail(&self, take: &mut dyn FnMut(&str)) {
        take("]}\n");
    }
}

impl Environments<'_> {
    fn write(&self, w: &mut Writer<'_>) {
        w.open(Some("environments"), '[');
        for (number, env) in self.list.iter().enumerate() {
            let Some((name, value)) = env.last() else { continue };
            w.line("  ");
            w.open(None, '{');
            w.number("id", number as u64);
            let parent = env.parent().and_then(Env::id).and_then(|p| self.numbers.get(&p));
            w.optional("parent", parent.copied());
            w.string("name", name);
            w.string("value", value);
            w.close('}');
        }
        w.close(']');
    }
}

fn target(w: &mut Writer<'_>, view: &View<'_>, t: &Target) {
    w.open(None, '{');
    w.string("stage", &t.stage);
    w.string("platform", &t.platform.to_string());
    w.optional("root", t.root.and_then(|r| view.number(r.vertex)));
    w.number("layers", t.layer_count() as u64);
    w.open(Some("base"), '{');
    match &t.base.reference {
        Some(r) => w.string("reference", r),
        None => w.raw("reference", "null"),
    }
    w.number("layers", t.base.layers as u64);
    w.close('}');
    w.open(Some("history"), '[');
    for h in &t.history {
        w.open(None, '{');
        w.string("created_by", &h.created_by);
        w.optional("layer", h.layer.and_then(|l| view.number(l.vertex)));
        w.place(view.map, h.span);
        w.close('}');
    }
    w.close(']');
    w.close('}');
}

fn vertex(
    w: &mut Writer<'_>,
    view: &View<'_>,
    style: &Style,
    environments: &HashMap<EnvId, usize, RandomState>,
    path: &mut FieldPath,
    n: usize,
    id: VertexId,
) {
    let v = view.vertex(id);
    w.open(None, '{');
    w.number("id", n as u64);
    w.word("kind", v.op.kind());
    w.string("name", &v.meta.name);
    match &v.meta.stage {
        Some(s) => w.string("stage", s),
        None => w.raw("stage", "null"),
    }
    match &v.platform {
        Some(p) => w.platform(p),
        None => w.raw("platform", "null"),
    }
    w.place(view.map, v.meta.span);
    w.raw("ignore_cache", if v.meta.ignore_cache { "true" } else { "false" });
    w.raw(
        "cached",
        match style.cached.get(&id) {
            Some(true) => "true",
            Some(false) => "false",
            None => "null",
        },
    );
    w.open(Some("layers"), '[');
    for layer in view.layers(id) {
        w.open(None, '{');
        w.number("target", layer.target as u64);
        w.number("number", layer.number as u64);
        w.close('}');
    }
    w.close(']');
    w.open(Some("inputs"), '[');
    for u in view.uses(id) {
        w.open(None, '{');
        w.optional("vertex", view.number(u.edge.vertex));
        w.number("output", u64::from(u.edge.output));
        w.word("role", u.role);
        w.string("what", &u.what);
        w.close('}');
    }
    w.close(']');
    let environment = match &v.op {
        Op::Exec(e) => e.env.id().and_then(|id| environments.get(&id)).copied(),
        _ => None,
    };
    w.optional("environment", environment);
    w.open(Some("op"), '{');
    v.op.visit(&mut Members { w, path });
    w.close('}');
    w.close('}');
}

/// Writes a description as members named by their paths.
struct Members<'w, 't> {
    w: &'w mut Writer<'t>,
    path: &'w mut FieldPath,
}

impl FieldVisitor for Members<'_, '_> {
    fn value(&mut self, name: &str, value: Value<'_>) {
        // Only an environment is described by its digest here, and it has a number.
        if matches!(value, Value::None | Value::Digest(_)) {
            return self.path.skip(name);
        }
        let w = &mut *self.w;
        w.start(None);
        w.out.push('"');
        self.path.write(name, &mut w.out);
        w.out.push_str("\":");
        match value {
            Value::Int(n) if n >= 0 => {
                w.out.push('"');
                push_number(&mut w.out, n as u64);
                w.out.push('"');
            }
            Value::Bool(b) => w.out.push_str(if b { "\"true\"" } else { "\"false\"" }),
            Value::Str(text) => quote(&mut w.out, text),
            value => quote(&mut w.out, &value.text().unwrap_or_default()),
        }
    }
    fn open(&mut self, name: &str, _len: usize) {
        self.path.enter(name);
    }
    fn close(&mut self) {
        self.path.leave();
    }
    /// The environment is named by its number.
    fn prefers_digests(&self) -> bool {
        true
    }
}

struct Writer<'t> {
    out: String,
    /// Takes the pieces.
    take: &'t mut dyn FnMut(&str),
    /// Something stands before in the innermost list or object.
    more: bool,
    /// The next member starts a line with this.
    indent: Option<&'static str>,
    /// The platform that was written last, and its text: most vertices have the same one.
    platform: Option<(Arc<Platform>, String)>,
    /// The line that was written last, of whatever file.
    last_line: u32,
    /// The file that was written last, and its name as a JSON string: nearly all have the same one.
    file: Option<(FileId, String)>,
}

impl<'t> Writer<'t> {
    fn new(take: &'t mut dyn FnMut(&str)) -> Self {
        Self {
            out: String::with_capacity(PIECE * 2),
            take,
            more: false,
            indent: None,
            platform: None,
            last_line: 0,
            file: None,
        }
    }

    fn platform(&mut self, p: &Arc<Platform>) {
        let text = match self.platform.take() {
            Some((last, text)) if Arc::ptr_eq(&last, p) => text,
            _ => p.to_string(),
        };
        self.string("platform", &text);
        self.platform = Some((p.clone(), text));
    }

    fn place(&mut self, map: &SourceMap, span: Option<Span>) {
        match span {
            Some(s) => {
                let file = map.file(s.file);
                let name = match self.file.take() {
                    Some((last, name)) if last == s.file => name,
                    _ => {
                        let mut name = String::new();
                        quote(&mut name, &file.name);
                        name
                    }
                };
                self.raw("file", &name);
                self.file = Some((s.file, name));
                self.last_line = file.line_near(s.start, self.last_line);
                self.number("line", u64::from(self.last_line));
            }
            None => {
                self.raw("file", "null");
                self.raw("line", "null");
            }
        }
    }

    /// Hands on what is left.
    fn end(self) {
        (self.take)(&self.out);
    }

    /// The next member stands on a line of its own.
    fn line(&mut self, indent: &'static str) {
        self.indent = Some(indent);
        if self.out.len() >= PIECE {
            (self.take)(&self.out);
            self.out.clear();
        }
    }

    /// `name` is one of ours: letters, digits, dots and brackets. Inlined, here and below: most names are
    /// constants, and a copy of known length needs no call.
    #[inline(always)]
    fn start(&mut self, name: Option<&str>) {
        if self.more {
            self.out.push(',');
        }
        if let Some(indent) = self.indent.take() {
            self.out.push('\n');
            self.out.push_str(indent);
        }
        if let Some(name) = name {
            self.out.push('"');
            self.out.push_str(name);
            self.out.push_str("\":");
        }
        self.more = true;
    }

    #[inline(always)]
    fn raw(&mut self, name: &str, value: &str) {
        self.start(Some(name));
        self.out.push_str(value);
    }

    /// A text of ours: nothing in it is to be escaped.
    #[inline(always)]
    fn word(&mut self, name: &str, value: &'static str) {
        self.start(Some(name));
        self.out.push('"');
        self.out.push_str(value);
        self.out.push('"');
    }

    #[inline(always)]
    fn string(&mut self, name: &str, value: &str) {
        self.start(Some(name));
        quote(&mut self.out, value);
    }

    #[inline(always)]
    fn number(&mut self, name: &str, value: u64) {
        self.start(Some(name));
        push_number(&mut self.out, value);
    }

    #[inline(always)]
    fn optional(&mut self, name: &str, value: Option<usize>) {
        match value {
            Some(n) => self.number(name, n as u64),
            None => self.raw(name, "null"),
        }
    }

    fn open(&mut self, name: Option<&str>, bracket: char) {
        self.start(name);
        self.out.push(bracket);
        self.more = false;
    }

    fn close(&mut self, bracket: char) {
        self.indent = None;
        self.out.push(bracket);
        self.more = true;
    }
}

/// True when nothing is to be escaped, nor can be: all of it is ASCII.
fn is_plain(text: &[u8]) -> bool {
    // Eight at a time, and those left over at the end once more with what stands before them.
    let (words, rest) = text.as_chunks::<8>();
    if words.iter().any(|w| holds_special(u64::from_le_bytes(*w))) {
        return false;
    }
    match (rest, text.last_chunk::<8>()) {
        ([], _) => true,
        (_, Some(last)) => !holds_special(u64::from_le_bytes(*last)),
        (short, None) => {
            let mut word = *b"xxxxxxxx";
            for (to, from) in word.iter_mut().zip(short) {
                *to = *from;
            }
            !holds_special(u64::from_le_bytes(word))
        }
    }
}

/// True when one of eight bytes is a control character, a quote, a backslash, DEL, or no ASCII.
fn holds_special(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let all = |b: u8| ONES * u64::from(b);
    // Of ASCII, what is below `n` has its highest bit set after `- n`. Only what is special itself
    // borrows from the byte above it.
    let below = |word: u64, n: u8| word.wrapping_sub(all(n));
    let is = |b: u8| below(word ^ all(b), 1);
    let found = word | below(word, b' ') | is(b'"') | is(b'\\') | word.wrapping_add(ONES);
    found & all(0x80) != 0
}

/// A JSON string (RFC 8259, section 7).
fn quote(out: &mut String, text: &str) {
    out.push('"');
    if is_plain(text.as_bytes()) {
        out.push_str(text);
        out.push('"');
        return;
    }
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        if !(c.is_control() || matches!(c, '"' | '\\')) {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + c.len_utf8();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Kit;

    #[test]
    fn is_json_with_every_needed_vertex() {
        let kit = Kit::two_stages();
        let mut text = String::new();
        json(&kit.plan, &kit.map, &Style::default(), &mut |piece| text.push_str(piece));
        let v: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(v["version"], 3);
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
        // At every length, wherever it stands.
        for (len, special) in
            (1..40).flat_map(|n| ['"', '\\', '\n', '\u{7f}', '\u{85}', 'é'].map(|c| (n, c)))
        {
            for at in 0..len {
                let text: String = (0..len).map(|n| if n == at { special } else { 'x' }).collect();
                let mut out = String::new();
                quote(&mut out, &text);
                assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
                assert!(special == 'é' || out.len() > text.len() + 2, "{out}");
            }
        }
    }
}
