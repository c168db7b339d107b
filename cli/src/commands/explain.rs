//! `rgraph explain`, `rgraph builds`: what was built, and why its steps ran.

use std::fmt::Write as _;

use rgraph_runtime::builds::{BuildRecord, BuildStatus, Builds, StepRecord, StepStatus};
use rgraph_store::Store;

use super::{Context, print};
use crate::args::{BuildsArgs, ExplainArgs};
use crate::options::Format;
use crate::progress::sanitize::harmless;
use crate::report::CliError;
use crate::session;
use crate::table::{self, Table};

/// Runs `explain`.
pub fn run(cx: &Context, args: ExplainArgs) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let store = session::open_store(cx.root())?;
    let (mut build, step) = choose(&store, args.build, args.step)?;
    let steps: Vec<(usize, StepRecord)> =
        std::mem::take(&mut build.steps).into_iter().enumerate().map(|(i, s)| (i + 1, s)).collect();
    let steps = match step {
        Some(wanted) => vec![find(&build, &steps, &wanted)?.clone()],
        None => steps,
    };
    print(
        match format {
            Format::Json => json(&build, &steps),
            Format::Table => text(&build, &steps),
        }
        .as_bytes(),
    )
}

/// The build that is meant, and the word that names a step. A single word that is no build's id
/// names a step of the newest build.
pub(super) fn choose(
    store: &Store,
    build: Option<String>,
    step: Option<String>,
) -> Result<(BuildRecord, Option<String>), CliError> {
    let builds = Builds::new(store);
    let newest = || {
        let newest = builds.list().next();
        newest.ok_or_else(|| CliError::failed("nothing was built with this state root yet"))
    };
    let Some(word) = build else { return Ok((newest()?, step)) };
    let list = "`rgraph builds` lists what is known";
    match (&builds.find(&word)[..], step) {
        ([one], step) => Ok((one.clone(), step)),
        ([], step) if word == "latest" => Ok((newest()?, step)),
        ([], None) => Ok((newest()?, Some(word))),
        ([], Some(_)) => Err(CliError::failed(format!("no build `{word}` is known")).help(list)),
        (several, _) => {
            let text = format!("{} builds begin with `{word}`", several.len());
            Err(CliError::failed(text).help(list))
        }
    }
}

/// A step by its number in the list, by its number in the Dockerfile (`build 2/4`), or by a part of
/// its line.
pub(super) fn find<'s>(
    build: &BuildRecord,
    steps: &'s [(usize, StepRecord)],
    wanted: &str,
) -> Result<&'s (usize, StepRecord), CliError> {
    if let Ok(n) = wanted.trim_start_matches('#').parse::<usize>() {
        return steps.iter().find(|(i, _)| *i == n).ok_or_else(|| {
            CliError::failed(format!("build {} has {} steps, no step {n}", build.id, steps.len()))
        });
    }
    let mut hits = steps.iter().filter(|(_, s)| s.name.contains(wanted));
    match (hits.next(), hits.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(CliError::failed(format!("build {} has no step `{wanted}`", build.id))
            .help("a step is named by its number in `rgraph explain`, or by a part of its line")),
        (Some((a, _)), Some((b, _))) => Err(CliError::failed(format!(
            "`{wanted}` may be step {a} or {b} of build {}",
            build.id
        ))),
    }
}

fn status(s: BuildStatus) -> &'static str {
    match s {
        BuildStatus::Done => "done",
        BuildStatus::Failed => "failed",
        BuildStatus::Canceled => "canceled",
    }
}

fn text(build: &BuildRecord, steps: &[(usize, StepRecord)]) -> String {
    let mut out = format!("build {}  {}", build.id, build.started);
    let took = table::duration(build.millis * 1_000_000);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "  {} in {took}", status(build.status));
    let _ = write!(out, "{}", harmless(&build.dockerfile));
    if let Some(target) = &build.target {
        let _ = write!(out, ", target {}", harmless(target));
    }
    out.push('\n');
    if let Some(error) = &build.error {
        let _ = writeln!(out, "error: {}", harmless(error));
    }
    let width = steps.iter().map(|(i, _)| i.to_string().len()).max().unwrap_or(1);
    for (i, s) in steps {
        let took = table::duration(s.millis * 1_000_000);
        let how = match s.status {
            StepStatus::Cached => "cached".to_owned(),
            StepStatus::Ran => format!("ran {took}"),
            StepStatus::Failed => format!("failed after {took}"),
            StepStatus::Canceled => "canceled".to_owned(),
        };
        let line = s.line.map(|l| format!(", line {l}")).unwrap_or_default();
        let _ = writeln!(out, "{i:>width$}  {}  ({how}{line})", harmless(&s.name));
        for why in &s.why {
            let _ =
                writeln!(out, "{:width$}    why: {}", "", harmless(&why.text).replace('\n', " "));
            // The line has named the first three.
            for file in why.files.iter().skip(3) {
                let _ =
                    writeln!(out, "{:width$}         {}", "", harmless(file).replace('\n', " "));
            }
            if why.more_files > 0 {
                let _ = writeln!(out, "{:width$}         and {} more", "", why.more_files);
            }
        }
    }
    out
}

fn json(build: &BuildRecord, steps: &[(usize, StepRecord)]) -> String {
    let value = |v| serde_json::to_value(v).expect("strings and numbers only");
    let mut object = value(build);
    let steps = steps.iter().map(|(i, s)| {
        let mut step = serde_json::to_value(s).expect("strings and numbers only");
        step["step"] = (*i).into();
        step
    });
    object["steps"] = steps.collect();
    format!("{object}\n")
}

/// Runs `builds`.
pub fn list(cx: &Context, args: BuildsArgs) -> Result<(), CliError> {
    let format = Format::parse(args.format.as_deref())?;
    let store = session::open_store(cx.root())?;
    let now = jiff::Timestamp::now().as_second();
    let mut out = Vec::new();
    let mut table =
        Table::new(["BUILD", "STARTED", "STATUS", "TIME", "RAN", "CACHED", "DOCKERFILE"]);
    for b in Builds::new(&store).list() {
        if args.quiet {
            out.extend(format!("{}\n", b.id).into_bytes());
            continue;
        }
        let count = |s| b.steps.iter().filter(|step| step.status == s).count();
        let (ran, cached) = (count(StepStatus::Ran), count(StepStatus::Cached));
        if format == Format::Json {
            let line = serde_json::json!({
                "id": b.id, "started": b.started, "status": status(b.status), "millis": b.millis,
                "ran": ran, "cached": cached, "dockerfile": b.dockerfile, "target": b.target,
                "tags": b.tags, "image": b.image,
            });
            out.extend(format!("{line}\n").into_bytes());
            continue;
        }
        let started = b.started.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
        let target = b.target.as_ref().map(|t| format!(" ({t})")).unwrap_or_default();
        table.row([
            b.id.clone(),
            table::created(started, now),
            status(b.status).to_owned(),
            table::duration(b.millis * 1_000_000),
            ran.to_string(),
            cached.to_string(),
            format!("{}{target}", b.dockerfile),
        ]);
    }
    if !args.quiet && format == Format::Table {
        table.write(&mut out).map_err(|e| CliError::failed("cannot write the table").because(e))?;
    }
    print(&out)
}
