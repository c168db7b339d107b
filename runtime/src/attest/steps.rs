//! The steps of one target as a provenance tells them: BuildKit's `llbDefinition`, its ops in the
//! words of its protocol buffers (`solver/pb/ops.proto`).

use std::collections::{BTreeMap, BTreeSet};

use rgraph_image::registry::shown_url;
use rgraph_ir::op::{
    ActionRef, ExecOp, FileActionKind, FileOp, InputIndex, MountKind, NetworkMode, SecurityMode,
    SourceOp,
};
use rgraph_ir::{Edge, Graph, Op, SourceFile, Vertex, VertexId};
use serde_json::{Map, Value, json};

/// What a target needs, inputs first.
pub fn needed(graph: &Graph, root: Option<Edge>) -> BTreeSet<VertexId> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<VertexId> = root.into_iter().map(|e| e.vertex).collect();
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            todo.extend(graph.vertex(id).inputs.iter().map(|e| e.vertex));
        }
    }
    seen
}

/// The steps in order, each with its number as its name; the last is the result.
pub fn definition(graph: &Graph, needed: &BTreeSet<VertexId>, root: Option<Edge>) -> Vec<Value> {
    let number: BTreeMap<VertexId, usize> =
        needed.iter().enumerate().map(|(n, id)| (*id, n)).collect();
    let name = |e: &Edge| format!("step{}:{}", number[&e.vertex], e.output);
    let mut out: Vec<Value> = needed
        .iter()
        .enumerate()
        .map(|(n, id)| {
            let v = graph.vertex(*id);
            let mut step = json!({"id": format!("step{n}"), "op": op(v)});
            if !v.inputs.is_empty() {
                step["inputs"] = v.inputs.iter().map(name).collect::<Vec<_>>().into();
            }
            step
        })
        .collect();
    if let Some(root) = root {
        out.push(json!({
            "id": format!("step{}", needed.len()),
            "op": {"Op": null},
            "inputs": [name(&root)],
        }));
    }
    out
}

/// Where in the Dockerfile each step stands, by its name.
pub fn locations(
    graph: &Graph,
    needed: &BTreeSet<VertexId>,
    source: &SourceFile,
) -> Map<String, Value> {
    let mut out = Map::new();
    for (n, id) in needed.iter().enumerate() {
        let Some(span) = graph.vertex(*id).meta.span.filter(|s| s.file == source.id) else {
            continue;
        };
        let line = |at: u32| json!({"line": source.line_col(at).line});
        let range = json!({"start": line(span.start), "end": line(span.end)});
        out.insert(format!("step{n}"), json!({"locations": [{"ranges": [range]}]}));
    }
    out
}

fn op(v: &Vertex) -> Value {
    let what = match &v.op {
        Op::Source(s) => json!({"source": source(s)}),
        Op::Exec(e) => json!({"exec": exec(e)}),
        Op::File(f) => json!({"file": file(f, v.inputs.len())}),
        Op::Merge(_) => {
            let inputs: Vec<_> = (0..v.inputs.len()).map(|i| json!({"input": i})).collect();
            json!({"merge": {"inputs": inputs}})
        }
        Op::Diff(_) => json!({"diff": {"lower": {"input": 0}, "upper": {"input": 1}}}),
    };
    let mut out = json!({"Op": what});
    if let Some(p) = &v.platform {
        let mut platform = json!({"Architecture": p.architecture, "OS": p.os});
        if !p.variant.is_empty() {
            platform["Variant"] = p.variant.clone().into();
        }
        out["platform"] = platform;
    }
    out
}

/// Its identifier and attributes, without a login and without a path of this machine.
fn source(s: &SourceOp) -> Value {
    let mut attrs = BTreeMap::new();
    let identifier = match s {
        SourceOp::Image(i) => format!("docker-image://{}", i.reference),
        SourceOp::Local(l) => format!("local://{}", l.name),
        SourceOp::Http(h) => {
            if let Some(sum) = &h.checksum {
                attrs.insert("http.checksum", sum.clone());
            }
            shown_url(&h.url)
        }
        SourceOp::Git(g) => {
            attrs.insert("git.fullurl", shown_url(&g.full_url));
            let reference = g.reference.as_deref().unwrap_or("");
            match &g.subdir {
                Some(dir) => format!("git://{}#{reference}:{dir}", g.remote),
                None if reference.is_empty() => format!("git://{}", g.remote),
                None => format!("git://{}#{reference}", g.remote),
            }
        }
        SourceOp::OciLayout(o) => match o.reference.rsplit_once('@') {
            Some((_, digest)) => format!("oci-layout://layout@{digest}"),
            None => "oci-layout://layout".to_owned(),
        },
    };
    match attrs.is_empty() {
        true => json!({"identifier": identifier}),
        false => json!({"identifier": identifier, "attrs": attrs}),
    }
}

fn input(i: Option<InputIndex>) -> i64 {
    i.map_or(-1, |i| i64::from(i.0))
}

fn exec(e: &ExecOp) -> Value {
    let mut meta = json!({"args": e.args, "env": e.env.to_strings(), "cwd": e.cwd});
    if !e.user.is_empty() {
        meta["user"] = e.user.clone().into();
    }
    let mut mounts = vec![json!({"input": input(e.root), "dest": "/", "output": 0})];
    for m in &e.mounts {
        let mut mount = json!({"input": -1, "dest": m.dest, "output": -1});
        match &m.kind {
            MountKind::Bind { from, selector, readonly } => {
                mount["input"] = input(*from).into();
                mount["selector"] = selector.clone().into();
                mount["readonly"] = (*readonly).into();
            }
            MountKind::Cache(c) => {
                mount["input"] = input(c.from).into();
                mount["mountType"] = 3.into();
                mount["cacheOpt"] = json!({"ID": c.id});
            }
            MountKind::Tmpfs { .. } => mount["mountType"] = 4.into(),
            MountKind::Secret(s) => {
                mount["mountType"] = 1.into();
                mount["secretOpt"] = json!({"ID": s.id, "optional": !s.required});
            }
            MountKind::Ssh(s) => {
                mount["mountType"] = 2.into();
                mount["SSHOpt"] = json!({"ID": s.id, "optional": !s.required});
            }
        }
        mounts.push(mount);
    }
    let mut out = json!({"meta": meta, "mounts": mounts});
    match e.network {
        NetworkMode::Default => {}
        NetworkMode::Host => out["network"] = 1.into(),
        NetworkMode::None => out["network"] = 2.into(),
    }
    if e.security == SecurityMode::Insecure {
        out["security"] = 1.into();
    }
    if !e.services.is_empty() {
        // No part of LLB; what was set for one may be a password of its own.
        let one = |s: &rgraph_ir::op::Service| json!({"name": s.name, "input": s.root.0});
        out["services"] = e.services.iter().map(one).collect::<Vec<_>>().into();
    }
    if !e.secret_env.is_empty() {
        let one = |s: &rgraph_ir::op::SecretEnv| json!({"ID": s.id, "name": s.name, "optional": !s.required});
        out["secretenv"] = e.secret_env.iter().map(one).collect::<Vec<_>>().into();
    }
    out
}

fn file(f: &FileOp, inputs: usize) -> Value {
    let number = |r: ActionRef| match r {
        ActionRef::Scratch => -1,
        ActionRef::Input(i) => i64::from(i.0),
        ActionRef::Action(k) => inputs as i64 + i64::from(k),
    };
    let last = f.actions.len().saturating_sub(1);
    let actions = f.actions.iter().enumerate().map(|(n, a)| {
        let mut from = ActionRef::Scratch;
        let what = match &a.kind {
            FileActionKind::Copy(c) => {
                from = c.from;
                json!({"copy": {
                    "src": c.src, "dest": c.dest, "attemptUnpackDockerCompatibility": c.attempt_unpack,
                    "includePatterns": c.include_patterns, "excludePatterns": c.exclude_patterns,
                }})
            }
            FileActionKind::Mkfile(m) => json!({"mkfile": {"path": m.path, "mode": m.mode}}),
            FileActionKind::Mkdir(m) => json!({"mkdir": {"path": m.path, "mode": m.mode}}),
            FileActionKind::Rm(r) => json!({"rm": {"path": r.path}}),
            FileActionKind::Symlink(s) => {
                json!({"symlink": {"oldpath": s.target, "newpath": s.path}})
            }
        };
        json!({
            "input": number(a.base),
            "secondaryInput": number(from),
            "output": if n == last { 0 } else { -1 },
            "Action": what,
        })
    });
    json!({"actions": actions.collect::<Vec<_>>()})
}
