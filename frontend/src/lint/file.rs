//! Rules that look at the tree alone.

use std::collections::HashSet;

use rgraph_ir::near::nearest;

use super::{Lint, rules};
use crate::ast::{Dockerfile, Instruction, Kind, Stage, Word};
use crate::directive;

/// Runs them all.
pub(crate) fn check(ast: &Dockerfile, lint: &mut Lint) {
    for stage in &ast.stages {
        from_line(stage, lint);
        cache_comment("FROM", false, stage.span, &stage.comments, lint);
    }
    names(ast, lint);
    syntax(ast, lint);
    casing(ast, lint);
    for i in instructions(ast) {
        let makes_files =
            matches!(i.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_));
        cache_comment(i.name(), makes_files, i.span, &i.comments, lint);
        match &i.kind {
            Kind::Maintainer(_) => lint.warn(
                &rules::MAINTAINER_DEPRECATED,
                i.span,
                &i.comments,
                "Maintainer instruction is deprecated in favor of using label",
            ),
            Kind::Arg(args) => {
                let keys: Vec<&str> = args.iter().map(|a| a.key.text.as_str()).collect();
                description("ARG", &keys, i.span, &i.comments, lint);
            }
            _ => {}
        }
    }
}

fn instructions(ast: &Dockerfile) -> impl Iterator<Item = &Instruction> {
    ast.global_args.iter().chain(ast.stages.iter().flat_map(|s| &s.instructions))
}

fn is_lower(s: &str) -> bool {
    s.chars().all(|c| c.is_ascii_lowercase() || c.to_lowercase().eq([c]))
}

fn is_upper(s: &str) -> bool {
    s.chars().all(|c| c.is_ascii_uppercase() || c.to_uppercase().eq([c]))
}

fn from_line(stage: &Stage, lint: &mut Lint) {
    let (span, comments) = (stage.span, stage.comments.as_slice());
    let Some(name) = &stage.name_written else { return };
    if !is_lower(&name.text) {
        let message = format!("Stage name '{}' should be lowercase", name.text);
        lint.warn(&rules::STAGE_NAME_CASING, span, comments, message);
    }
    if let Some(word) = &stage.as_keyword {
        let from = &stage.keyword.text;
        let fits = if is_lower(from) {
            is_lower(&word.text)
        } else if is_upper(from) {
            is_upper(&word.text)
        } else {
            true
        };
        if !fits {
            let message = format!("'{}' and '{from}' keywords' casing do not match", word.text);
            lint.warn(&rules::FROM_AS_CASING, span, comments, message);
        }
    }
    if let Some(name) = &stage.name {
        description("FROM", &[name], span, comments, lint);
    }
}

fn names(ast: &Dockerfile, lint: &mut Lint) {
    let mut seen = HashSet::new();
    for stage in &ast.stages {
        let Some(name) = &stage.name else { continue };
        if matches!(name.as_str(), "scratch" | "context") {
            let message =
                format!("Stage name should not use the same name as reserved stage \"{name}\"");
            lint.warn(&rules::RESERVED_STAGE_NAME, stage.span, &[], message);
        }
        if !seen.insert(name) {
            let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
            lint.warn(&rules::DUPLICATE_STAGE_NAME, stage.span, &[], message);
        }
    }
}

/// The file is read as a Dockerfile whatever `# syntax=` says.
fn syntax(ast: &Dockerfile, lint: &mut Lint) {
    let Some(word) = &ast.directives.syntax else { return };
    let image = word.text.split(' ').next().unwrap_or_default();
    let name = image.strip_prefix("docker.io/").unwrap_or(image);
    let ours = ["docker/dockerfile", "docker/dockerfile-upstream"]
        .iter()
        .any(|n| name.strip_prefix(n).is_some_and(|r| r.is_empty() || r.starts_with([':', '@'])));
    if !ours {
        let message = format!("frontend `{image}` is not used: the file is read as a Dockerfile");
        lint.warn(&rules::FOREIGN_SYNTAX, word.span, &[], message);
    }
}

/// Build args that mean something without an `ARG` line.
const AUTOMATIC: [&str; 12] = [
    "SOURCE_DATE_EPOCH",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// Build args nobody asked for, as one warning without a place.
pub(crate) fn unconsumed<'a>(
    ast: &Dockerfile,
    given: impl Iterator<Item = &'a str>,
    lint: &mut Lint,
) {
    let declared: HashSet<&str> = instructions(ast)
        .filter_map(|i| match &i.kind {
            Kind::Arg(args) => Some(args.iter().map(|a| a.key.text.as_str())),
            _ => None,
        })
        .flatten()
        .collect();
    let known = |k: &str| {
        declared.contains(k)
            || AUTOMATIC.contains(&k)
            || k.starts_with("BUILDKIT_")
            || k.to_ascii_lowercase()
                .strip_suffix("_proxy")
                .is_some_and(|p| matches!(p, "http" | "https" | "ftp" | "no" | "all"))
    };
    let unknown: Vec<&str> = given.filter(|k| !known(k)).collect();
    let near = unknown.iter().find_map(|k| nearest(k, declared.iter().copied()));
    if unknown.is_empty() {
        return;
    }
    let message = format!("One or more build-args [{}] were not consumed", unknown.join(" "));
    let help = near.map(|n| format!("did you mean `{n}`?"));
    lint.general(&rules::UNCONSUMED_BUILD_ARGS, message, help);
}

/// The keyword's case must be that of most.
fn casing(ast: &Dockerfile, lint: &mut Lint) {
    let stages = ast.stages.iter();
    let keywords: Vec<(&Word, rgraph_ir::Span)> = stages
        .flat_map(|s| {
            std::iter::once((&s.keyword, s.span))
                .chain(s.instructions.iter().map(|i| (&i.keyword, i.span)))
        })
        .collect();
    let lower = keywords.iter().filter(|(w, _)| is_lower(&w.text)).count();
    let upper = keywords.iter().filter(|(w, _)| !is_lower(&w.text) && is_upper(&w.text)).count();
    for (word, span) in keywords {
        let (fits, right) = if lower > upper {
            (is_lower(&word.text), "lowercase")
        } else {
            (is_upper(&word.text), "uppercase")
        };
        if !fits {
            let message = format!(
                "Command '{}' should match the case of the command majority ({right})",
                word.text
            );
            lint.warn(&rules::CONSISTENT_INSTRUCTION_CASING, span, &[], message);
        }
    }
}

/// A comment that means to set a time to live and does not.
fn cache_comment(
    instruction: &str,
    makes_files: bool,
    span: rgraph_ir::Span,
    comments: &[String],
    lint: &mut Lint,
) {
    let message = match directive::ttl(comments) {
        None => return,
        Some(Err(e)) => format!("`# cache=ttl=` above {instruction} is not understood: {e}"),
        Some(Ok(_)) if !makes_files => format!(
            "`# cache=ttl=` has no effect above {instruction}, which makes no files: put it above RUN, COPY or ADD"
        ),
        Some(Ok(_)) => return,
    };
    lint.warn(&rules::CACHE_COMMENT, span, comments, message);
}

fn description(
    instruction: &str,
    keys: &[&str],
    span: rgraph_ir::Span,
    comments: &[String],
    lint: &mut Lint,
) {
    let (Some(last), Some(first)) = (comments.last(), keys.first()) else { return };
    if keys.contains(&last.split(' ').next().unwrap_or_default()) {
        return;
    }
    let example = if keys.len() > 1 { "<arg_key>" } else { first };
    let message =
        format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    lint.warn(&rules::INVALID_DEFINITION_DESCRIPTION, span, comments, message);
}
