//! `rgraph graph`: the plan, written out, with what caches hold of it if asked. Runs no step.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;

use rgraph_ir::image_config::BaseHistory;
use rgraph_ir::render::{self, Json};
use rgraph_ir::request::Export;
use rgraph_ir::{BuildPlan, SourceMap, Target, VertexId};
use rgraph_runtime::LocalBackend;
use rgraph_runtime::builds::Journal;
use rgraph_runtime::fetch::image::{ImageFetcher, Lock, PullPolicy};
use rgraph_runtime::fetch::source::Sources;

use super::{Context, print};
use crate::args::{GraphArgs, GraphFormat};
use crate::options::{GraphOptions, Pull};
use crate::output::write_whole;
use crate::pipeline::{Answers, Compiled, compile, request};
use crate::report::CliError;
use crate::units::Unit;
use crate::{session, sources};

/// Runs the command.
pub fn run(cx: &Context, args: GraphArgs) -> Result<(), CliError> {
    let opts = GraphOptions::new(args, &cx.env, cx.terminals)?;
    let (mut compiled, cached) = if opts.build.offline && !opts.cached {
        let compiled = compile(&opts.build, &Unit::of(&opts.build), &Answers::Stubs, false);
        (compiled.map_err(|e| cx.compile_error(e))?, BTreeMap::new())
    } else {
        with_store(cx, &opts)?
    };
    if let Some(path) = &opts.build.metadata_file {
        write_whole(path, &metadata(&compiled))?;
    }
    let style = render::Style { cached, ..render::Style::default() };
    draw(&compiled, opts.format, &style)?;
    compiled.origins.iter_mut().for_each(|o| drop(o.brought.take()));
    // Taking a large plan apart, piece by piece, would be a tenth of the whole time, and the process
    // ends here.
    std::mem::forget(compiled);
    Ok(())
}

/// The policy behind `--pull`.
pub fn policy(pull: Pull) -> PullPolicy {
    match pull {
        Pull::Always => PullPolicy::Always,
        Pull::Missing => PullPolicy::Missing,
        Pull::Newer => PullPolicy::Newer,
        Pull::Never => PullPolicy::Never,
    }
}

/// The plan by what the store and registries know of its bases, and what caches hold of it, when
/// that is asked for.
fn with_store(
    cx: &Context,
    opts: &GraphOptions,
) -> Result<(Compiled, BTreeMap<VertexId, bool>), CliError> {
    let build = &opts.build;
    let lock = sources::obeyed(build.locked.as_deref())?;
    let store = session::open_store(cx.root())?;
    let registry =
        session::registries(&cx.env, &session::config(&cx.dirs)?, &build.insecure_registries);
    let network = (!build.offline).then_some(&registry);
    let images = ImageFetcher::new(&store, network, policy(build.pull), &cx.cancel)
        .locked(lock.as_ref().map(Lock::Obey))
        .warning(|text| cx.report(|r| r.warning(text)));
    let agents = session::Agents::start(&store, &build.ssh)?;
    let ssh = session::ssh_access(&cx.env, agents.sources());
    let remote = Sources::new(&images, &build.secrets, ssh);
    let next_step = AtomicU32::new(0);
    let answers =
        Answers::Images { images: &images, sources: &remote, sink: &(), next_step: &next_step };
    let compiled =
        compile(build, &Unit::of(build), &answers, false).map_err(|e| cx.compile_error(e))?;
    if !opts.cached {
        return Ok((compiled, BTreeMap::new()));
    }
    let host = cx.host()?;
    let journal = Journal::new(&store, &compiled.place);
    let backend = LocalBackend {
        store: &store,
        host,
        images: &images,
        sources: &remote,
        next_step: &next_step,
        journal: &journal,
    };
    let cached = backend
        .look(&request(build, &compiled), &cx.cancel)
        .map_err(|e| CliError::failed("cannot ask the cache").because(e))?;
    Ok((compiled, cached))
}

/// Writes the plan to stdout.
fn draw(c: &Compiled, format: GraphFormat, style: &render::Style) -> Result<(), CliError> {
    let (plan, map): (&BuildPlan, &SourceMap) = (&c.plan, &c.sources);
    match format {
        GraphFormat::Dot => print(render::dot(plan, map, style).as_bytes()),
        GraphFormat::Mermaid => print(render::mermaid(plan, map, style).as_bytes()),
        GraphFormat::Json => json(&Json::new(plan, map, style)),
        GraphFormat::Llb => match &plan.targets[..] {
            [one] => print(&rgraph_llb::encode(&plan.graph, one.root).bytes),
            _ => Err(CliError::not_yet("`--format llb` of several platforms or targets")),
        },
        GraphFormat::Svg => print(&svg(render::dot(plan, map, style).as_bytes())?),
    }
}

/// How many vertices are written in one go when two threads share the work.
const GO: usize = 256;

/// How long a vertex is as JSON, bytes, about.
const VERTEX_TEXT: usize = 640;

/// Writes the plan as JSON. Of a large one a second thread writes parts too, beginning while this one
/// is at the head: each takes the next part that nobody has.
fn json(json: &Json<'_>) -> Result<(), CliError> {
    let mut done = Ok(());
    let mut out = |piece: &str| {
        if done.is_ok() {
            done = print(piece.as_bytes());
        }
    };
    let environments = json.environments();
    let goes: Vec<Range<usize>> =
        (0..json.len()).step_by(GO).map(|at| at..json.len().min(at + GO)).collect();
    let next = AtomicUsize::new(0);
    let take = || goes.get(next.fetch_add(1, Ordering::Relaxed)).cloned();
    std::thread::scope(|scope| {
        // As many as are written while the head is.
        let (texts, parts) = mpsc::channel::<String>();
        if goes.len() > 1 {
            let (take, environments) = (&take, &environments);
            scope.spawn(move || {
                while let Some(go) = take() {
                    let mut text = String::with_capacity(go.len() * VERTEX_TEXT);
                    json.vertices(environments, go, &mut |piece| text.push_str(piece));
                    if texts.send(text).is_err() {
                        return;
                    }
                }
            });
        } else {
            drop(texts);
        }
        json.head(&environments, &mut out);
        let mut written = 0;
        while let Some(go) = take() {
            // The other thread has what is missing, in order.
            while written < go.start {
                let Ok(text) = parts.recv() else { return };
                out(&text);
                written += GO;
            }
            written = go.end;
            json.vertices(&environments, go, &mut out);
        }
        parts.iter().for_each(|text| out(&text));
    });
    json.tail(&mut out);
    done
}

/// Graphviz draws; without it there is only the text.
fn svg(dot: &[u8]) -> Result<Vec<u8>, CliError> {
    let failed = |e: std::io::Error| {
        CliError::failed("cannot run `dot` of Graphviz")
            .because(e)
            .help("install Graphviz, or use --format dot")
    };
    let mut child = Command::new("dot")
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().ok_or_else(|| CliError::internal("no pipe to `dot`"))?;
    let dot = dot.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&dot));
    let out = child.wait_with_output().map_err(failed)?;
    // A `dot` that ended early has said why with its exit code.
    drop(writer.join());
    if !out.status.success() {
        return Err(CliError::failed("`dot` of Graphviz failed"));
    }
    Ok(out.stdout)
}

/// The configs of the plan's images; of several targets, each under its name.
fn metadata(c: &Compiled) -> Vec<u8> {
    let of = |e: &Export| configs(&c.plan.targets[e.targets.clone()]);
    let out = match &c.exports[..] {
        [one] if one.name.is_empty() => of(one),
        all => all.iter().map(|e| (e.name.clone(), of(e).into())).collect(),
    };
    let mut bytes = serde_json::to_vec_pretty(&out).expect("always serialises");
    bytes.push(b'\n');
    bytes
}

/// `containerimage.config`, one per platform.
fn configs(targets: &[Target]) -> serde_json::Map<String, serde_json::Value> {
    let mut out = serde_json::Map::new();
    for (n, t) in targets.iter().enumerate() {
        let config: serde_json::Value =
            serde_json::from_slice(&config_json(t)).unwrap_or(serde_json::Value::Null);
        if n == 0 {
            out.insert("containerimage.config".to_owned(), config.clone());
        }
        if targets.len() > 1 {
            out.insert(format!("containerimage.config/{}", t.platform), config);
        }
    }
    out
}

/// The config as it will be, but for what only a build knows: layers and times.
fn config_json(t: &Target) -> Vec<u8> {
    let mut history = t.base.history.clone();
    history.extend(t.history.iter().map(|h| BaseHistory {
        created: None,
        created_by: Some(h.created_by.clone()),
        author: h.author.clone(),
        comment: Some(h.comment.to_string()).filter(|c| !c.is_empty()),
        empty_layer: h.layer.is_none(),
    }));
    rgraph_image::config::to_json(&t.config, &history, &[], None)
}
