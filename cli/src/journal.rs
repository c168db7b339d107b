//! The record of a build: what the screen showed, for `rgraph explain`.

use rgraph_ir::VertexId;
use rgraph_runtime::builds::{BuildRecord, BuildStatus, StepRecord, StepStatus};
use rgraph_runtime::logs::BuildLogs;
use rgraph_solver::Step;

use crate::options::BuildOptions;
use crate::pipeline::{Compiled, dockerfile};
use crate::progress::{Progress, StepInfo, StepState};

/// How a build ended.
pub struct Ending {
    /// How.
    pub status: BuildStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// The image's or index's digest.
    pub image: Option<String>,
}

/// When a build began, and how long it took.
pub struct Span {
    /// RFC 3339.
    pub started: String,
    /// Milliseconds.
    pub millis: u64,
}

/// Puts the record together; without a plan there are no steps.
pub fn record(
    opts: &BuildOptions,
    compiled: Option<&Compiled>,
    progress: &Progress,
    logs: &BuildLogs,
    span: Span,
    end: Ending,
) -> BuildRecord {
    let mut steps: Vec<(VertexId, StepRecord)> = Vec::new();
    if let Some(compiled) = compiled {
        let logs = logs.steps();
        progress.each(|step, info| {
            let Step::Vertex(v) = step else { return };
            // Also `[TARGET internal]`, of several.
            let place = info.name.split(']').next().unwrap_or_default();
            if !place.ends_with("internal") {
                let log = logs.contains(&v.0).then_some(v.0);
                steps.push((v, StepRecord { log, ..step_record(v, info, compiled) }));
            }
        });
    }
    // As in the Dockerfile, whatever the order in which they ended.
    steps.sort_unstable_by_key(|(v, _)| *v);
    BuildRecord {
        id: String::new(),
        started: span.started,
        millis: span.millis,
        dockerfile: dockerfile(opts).display().to_string(),
        target: targets(opts),
        args: Default::default(),
        tags: opts.tags.clone(),
        status: end.status,
        error: end.error,
        image: end.image,
        steps: steps.into_iter().map(|(_, s)| s).collect(),
    }
}

/// What `--target` names.
fn targets(opts: &BuildOptions) -> Option<String> {
    let all: Vec<&str> = opts.target.iter().chain(&opts.more_targets).map(String::as_str).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn step_record(v: VertexId, info: &StepInfo, compiled: &Compiled) -> StepRecord {
    let span = compiled.plan.graph.vertex(v).meta.span;
    let line = span.map(|s| compiled.sources.file(s.file).line_col(s.start).line);
    let worked = info.ended.map_or(0, |end| info.elapsed(end));
    StepRecord {
        name: info.name.clone(),
        line,
        status: match info.state {
            StepState::Cached => StepStatus::Cached,
            StepState::Done => StepStatus::Ran,
            StepState::Failed => StepStatus::Failed,
            StepState::Cancelled | StepState::Waiting | StepState::Running => StepStatus::Canceled,
        },
        millis: worked / 1_000_000,
        why: info.reasons.iter().map(Into::into).collect(),
        log: None,
    }
}
