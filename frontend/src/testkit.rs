//! Helpers for tests: a text in, lines of text out.

use rgraph_ir::op::{FileActionKind, MountKind, Op, SourceOp};
use rgraph_ir::span::{FileId, SourceFile};
use rgraph_ir::{BuildPlan, Diagnostic, Vertex};

use crate::{Facts, LowerOptions, Lowered, Lowering, lower, parse};

pub(crate) fn source(text: &str) -> SourceFile {
    SourceFile::new(FileId(0), "Dockerfile", text)
}

/// Parses and lowers; base images are stubs.
pub(crate) fn lowered(text: &str, opts: &LowerOptions) -> Result<Lowered, Vec<Diagnostic>> {
    let parsed = parse(&source(text));
    if !parsed.is_ok() {
        return Err(parsed.diags);
    }
    match lower(&parsed.ast, opts, &Facts::offline())? {
        Lowering::Done(done) => {
            let violations = rgraph_ir::verify::verify(&done.plan);
            assert!(violations.is_empty(), "{violations:?}\n{text}");
            Ok(done)
        }
        Lowering::Missing(m) => panic!("offline facts answer everything, not {m:?}"),
    }
}

/// `LINE: message` of every finding.
pub(crate) fn said(text: &str, diags: &[Diagnostic]) -> Vec<String> {
    let src = source(text);
    diags
        .iter()
        .map(|d| match d.span() {
            Some(s) => format!("{}: {}", src.line_col(s.start).line, d.message),
            None => d.message.clone(),
        })
        .collect()
}

/// `LINE: RULE` of every warning.
pub(crate) fn warned(text: &str, opts: &LowerOptions) -> Vec<String> {
    let src = source(text);
    let done = lowered(text, opts).unwrap_or_else(|e| panic!("{:?}\n{text}", said(text, &e)));
    let at = |d: &Diagnostic| d.span().map_or(0, |s| src.line_col(s.start).line);
    done.warnings.iter().map(|d| format!("{}: {}", at(d), d.code)).collect()
}

/// One line per vertex: its number, what it is, its inputs.
pub(crate) fn drawn(plan: &BuildPlan) -> Vec<String> {
    plan.graph
        .iter()
        .map(|(id, v)| {
            let inputs: Vec<String> = v.inputs.iter().map(|e| e.vertex.0.to_string()).collect();
            format!("{} {} <- [{}]", id.0, what(v), inputs.join(" "))
        })
        .collect()
}

fn what(v: &Vertex) -> String {
    match &v.op {
        Op::Source(SourceOp::Image(i)) => {
            let p = v.platform.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("image {} {p}", i.reference)
        }
        Op::Source(SourceOp::Local(l)) => match &l.follow_paths {
            Some(p) => format!("local {} {}", l.name, p.join(",")),
            None => format!("local {}", l.name),
        },
        Op::Source(SourceOp::Http(h)) => format!("http {}", h.url),
        Op::Source(SourceOp::Git(g)) => format!("git {}", g.remote),
        Op::Source(SourceOp::OciLayout(o)) => format!("oci {}", o.reference),
        Op::Exec(e) => {
            let mounts: Vec<String> = e
                .mounts
                .iter()
                .map(|m| {
                    let kind = match &m.kind {
                        MountKind::Bind { selector, .. } => format!("bind {selector}"),
                        MountKind::Cache(c) => format!("cache {}", c.id),
                        MountKind::Tmpfs { size } => format!("tmpfs {size}"),
                        MountKind::Secret(s) => format!("secret {}", s.id),
                        MountKind::Ssh(s) => format!("ssh {}", s.id),
                    };
                    format!(" {}={kind}", m.dest)
                })
                .collect();
            format!("exec {:?}{}", e.args.last().map_or("", String::as_str), mounts.concat())
        }
        Op::File(f) => {
            let actions: Vec<String> = f
                .actions
                .iter()
                .map(|a| match &a.kind {
                    FileActionKind::Copy(c) => format!("copy {} {}", c.src, c.dest),
                    FileActionKind::Mkfile(m) => {
                        format!("mkfile {} {:?}", m.path, String::from_utf8_lossy(&m.data))
                    }
                    FileActionKind::Mkdir(m) => format!("mkdir {}", m.path),
                    FileActionKind::Rm(r) => format!("rm {}", r.path),
                    FileActionKind::Symlink(s) => format!("symlink {}", s.path),
                })
                .collect();
            actions.join("; ")
        }
        Op::Merge(_) => "merge".to_owned(),
        Op::Diff(_) => "diff".to_owned(),
    }
}
