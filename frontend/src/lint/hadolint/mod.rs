//! What hadolint looks for and BuildKit does not, under hadolint's ids; off until asked for with
//! `# check=experimental=DL3008` or, for all, `experimental=hadolint`.
//!
//! What is looked for follows hadolint's rules; texts and code are our own. Rules that BuildKit has
//! too, or that are errors here, are left out: docs/errors.md lists them. Nothing here runs while no
//! rule is asked for.

mod caches;
mod command;
mod config;
mod copies;
mod images;
mod packages;
pub(super) mod pragma;
mod programs;
mod prompts;
pub(super) mod rules;
mod shell;
mod split;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeSet;

use rgraph_ir::Span;

use super::rules::Rule;
use super::{Check, Lint};
use crate::ast::{Dockerfile, Instruction, Stage};
use view::View;

/// Runs them when the file, the caller or a comment asks for one.
pub(crate) fn check(ast: &Dockerfile, lint: &mut Lint) {
    if !lint.check.asks_for_hadolint() && !comment_asks(ast) {
        return;
    }
    let stages = view::stages(ast);
    let mut report = Report { ast, ignored: pragma::global(ast), lint };
    images::check(&stages, &mut report);
    copies::check(&stages, &mut report);
    config::check(&stages, &mut report);
    for view in &stages {
        for step in view.steps.iter().filter(|s| s.run().is_some()) {
            let mut found = Vec::new();
            programs::check(step, &mut found);
            packages::check(step, &mut found);
            prompts::check(step, &mut found);
            caches::check(view, step, &mut found);
            for f in found {
                report.step(view, step.at, f);
            }
        }
    }
    programs::downloads(&stages, &mut report);
    caches::pip(&stages, &mut report);
}

/// A comment above an instruction turns a rule on for it.
fn comment_asks(ast: &Dockerfile) -> bool {
    // Cheaper than the walk, and nearly always the end.
    if !ast.source.text.contains("experimental") {
        return false;
    }
    let above = ast.stages.iter().flat_map(|s| {
        std::iter::once(&s.comments).chain(s.instructions.iter().map(|i| &i.comments))
    });
    above.filter_map(|c| Check::above(c)).any(|c| c.asks_for_hadolint())
}

/// What a rule has to say about a step.
struct Finding {
    rule: &'static Rule,
    /// The word it is about; empty: the whole instruction.
    word: String,
    message: String,
    help: String,
}

impl Finding {
    fn new(rule: &'static Rule, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { rule, word: String::new(), message: message.into(), help: help.into() }
    }

    fn at(mut self, word: &str) -> Self {
        word.clone_into(&mut self.word);
        self
    }
}

/// Where findings go.
struct Report<'a> {
    ast: &'a Dockerfile,
    ignored: BTreeSet<String>,
    lint: &'a mut Lint,
}

impl Report<'_> {
    fn step(&mut self, view: &View<'_>, at: &Instruction, f: Finding) {
        self.say(view.stage, at.span, &at.comments, f);
    }

    fn from(&mut self, view: &View<'_>, f: Finding) {
        self.say(view.stage, view.stage.span, &view.stage.comments, f);
    }

    fn say(&mut self, stage: &Stage, span: Span, comments: &[String], f: Finding) {
        let id = f.rule.id;
        if self.ignored.contains(id) || pragma::stage_ignores(&stage.comments, id) {
            return;
        }
        let place = self.place(span, &f.word);
        self.lint.advise(f.rule, place, comments, f.message, f.help);
    }

    /// The word, when it stands only once in the instruction; else the instruction.
    fn place(&self, span: Span, word: &str) -> Span {
        let part = |c: char| c.is_alphanumeric() || "_-.+".contains(c);
        let text = self.ast.source.text.get(span.start as usize..span.end as usize);
        let Some(text) = text.filter(|_| !word.is_empty()) else { return span };
        let mut hits = text.match_indices(word).map(|(at, _)| at).filter(|at| {
            !text[..*at].ends_with(part) && !text[*at + word.len()..].starts_with(part)
        });
        match (hits.next(), hits.next()) {
            (Some(at), None) => {
                let start = span.start + at as u32;
                Span { start, end: start + word.len() as u32, ..span }
            }
            _ => span,
        }
    }
}

/// `a, b and c`, at most five of them.
fn list(words: &[&str]) -> String {
    let shown = &words[..words.len().min(5)];
    let quoted: Vec<String> = shown.iter().map(|w| format!("`{w}`")).collect();
    match (words.len() - shown.len(), quoted.as_slice()) {
        (0, [one]) => one.clone(),
        (0, [first @ .., last]) => format!("{} and {last}", first.join(", ")),
        (0, []) => String::new(),
        (n, some) => format!("{} and {n} more", some.join(", ")),
    }
}
