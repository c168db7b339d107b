//! Logical lines to the tree. Never fails: what is wrong becomes a diagnostic and the instruction is
//! left out, so that one run shows every fault.

mod config;
mod copy;
mod flags;
mod from;
mod heredoc;
mod json;
mod run;
#[cfg(test)]
mod tests;
pub(crate) mod value;
mod words;

use std::borrow::Cow;

use compact_str::CompactString;
use rgraph_ir::limits::{MAX_DOCKERFILE, MAX_STAGES};
use rgraph_ir::near::nearest;
use rgraph_ir::span::{FileId, SourceFile};
use rgraph_ir::{Diagnostic, Span};

use crate::ast::{Directives, Dockerfile, Heredoc, Instruction, Kind, Stage, Word};
use crate::lex::{Lines, Logical, Places};

/// A tree and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// As much as could be read.
    pub ast: Dockerfile,
    /// In file order. With an error among them the tree is incomplete and must not be lowered.
    pub diags: Vec<Diagnostic>,
}

impl Parsed {
    /// True when `ast` may be lowered.
    pub fn is_ok(&self) -> bool {
        !self.diags.iter().any(|d| d.severity == rgraph_ir::Severity::Error)
    }
}

/// Every instruction's name.
pub const INSTRUCTIONS: [&str; 18] = [
    "FROM",
    "RUN",
    "COPY",
    "ADD",
    "ENV",
    "ARG",
    "WORKDIR",
    "USER",
    "LABEL",
    "EXPOSE",
    "VOLUME",
    "CMD",
    "ENTRYPOINT",
    "SHELL",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "MAINTAINER",
    "ONBUILD",
];

/// How many logical lines are read in one go.
const BATCH: usize = 4096;

/// From so many on, a second thread reads half of a batch: starting it costs what some hundred lines do.
const SHARED: usize = 2048;

/// What a line takes as a tree, bytes, about.
const HEAP_PER_LINE: usize = 1024;

/// A logical line while it is read.
pub(crate) struct Line<'a> {
    pub text: &'a str,
    pub places: &'a Places,
    pub span: Span,
    pub escape: char,
}

impl Line<'_> {
    /// A word that stands at `start..end` of the line.
    fn word(&self, text: impl Into<CompactString>, start: usize, end: usize) -> Word {
        Word { text: text.into(), span: self.places.span(start, end) }
    }
}

/// Keyword, flags and arguments of a line.
pub(crate) struct Head<'a> {
    line: &'a Line<'a>,
    keyword: Word,
    /// In upper case.
    upper: Cow<'static, str>,
    flags: Vec<flags::RawFlag>,
    /// Where the arguments start.
    at: usize,
    /// What the arguments are as JSON.
    json: json::List,
}

impl Head<'_> {
    /// The arguments as one text.
    fn args(&self) -> &str {
        self.line.text[self.at..].trim()
    }

    fn error(&self, code: &'static str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, self.line.span, message)
    }

    /// Reads the flags by a table.
    fn flags(
        &self,
        table: &[(&'static str, flags::Takes)],
        diags: &mut Vec<Diagnostic>,
    ) -> flags::Flags {
        flags::Flags::read(&self.flags, table, diags)
    }

    /// The list form when it is JSON, else words at blanks.
    fn list(&self) -> Vec<Word> {
        match &self.json {
            json::List::Strings(items) => {
                let at = self.at;
                let end = self.line.text.trim_end().len().max(at);
                items.iter().map(|s| self.line.word(s.as_str(), at, end)).collect()
            }
            _ => words::plain(self.line, self.at),
        }
    }
}

/// Reads a file.
pub fn parse(src: &SourceFile) -> Parsed {
    let mut lines = Lines::new(src);
    let mut ast = Dockerfile {
        file: src.id,
        escape: '\\',
        directives: Directives::default(),
        global_args: Vec::new(),
        stages: Vec::new(),
        empty_continuations: Vec::new(),
        source: src.clone(),
    };
    let mut diags = Vec::new();
    if src.text.len() > MAX_DOCKERFILE {
        let message = format!("the Dockerfile is larger than {MAX_DOCKERFILE} bytes");
        diags.push(Diagnostic::error("too-large", lines.span(0, 0), message));
        return Parsed { ast, diags };
    }
    let mut any = false;
    'file: loop {
        let batch: Vec<Unread<'_>> =
            std::iter::from_fn(|| Unread::next(&mut lines, &mut diags)).take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        any = true;
        for Read { statement, span, diags: found } in read(batch) {
            diags.extend(found);
            match statement {
                Some(Statement::From(stage)) => ast.stages.push(*stage),
                Some(Statement::Other(i)) => match (ast.stages.last_mut(), &i.kind) {
                    (Some(stage), _) => stage.instructions.push(i),
                    (None, Kind::Arg(_)) => ast.global_args.push(i),
                    (None, _) => diags.push(
                        Diagnostic::error("no-stage", i.span, "no build stage in current context")
                            .help("only `ARG` may stand before the first `FROM`"),
                    ),
                },
                None => {}
            }
            if ast.stages.len() > MAX_STAGES {
                let message = format!("more than {MAX_STAGES} stages");
                diags.push(Diagnostic::error("too-many-stages", span, message));
                break 'file;
            }
        }
    }
    ast.escape = lines.escape;
    for d in std::mem::take(&mut lines.found) {
        match d.key {
            "syntax" => ast.directives.syntax = Some(d.value),
            "check" => ast.directives.check = Some(d.value),
            _ => {}
        }
    }
    ast.empty_continuations = std::mem::take(&mut lines.empty_continuations);
    diags.append(&mut lines.diags);
    if diags.is_empty() && ast.stages.is_empty() {
        // The last line: so far it was read.
        let text = src.text.strip_suffix('\n').unwrap_or(&src.text);
        let start = text.rfind('\n').map_or(0, |i| i + 1);
        let message = match (src.text.is_empty(), any) {
            (true, _) => "the Dockerfile cannot be empty",
            (false, false) => "file with no instructions",
            (false, true) => "dockerfile contains no stages to build",
        };
        let at = lines.span(start, text.len());
        diags.push(
            Diagnostic::error("no-instructions", at, message)
                .help("a Dockerfile starts with `FROM`, for example `FROM alpine`"),
        );
    }
    diags.sort_by_key(|d| d.span().map_or(0, |s| s.start));
    Parsed { ast, diags }
}

/// Reads the one instruction of an `ONBUILD` trigger; every place in it is `at`.
pub(crate) fn parse_trigger(text: &str, at: Span) -> Result<Instruction, Vec<Diagnostic>> {
    let src = SourceFile::new(FileId(u32::MAX), "ONBUILD", text);
    let mut lines = Lines::new(&src);
    let single = || {
        vec![Diagnostic::error(
            "onbuild-trigger",
            at,
            "onbuild trigger should be a single expression",
        )]
    };
    let Some(mut logical) = lines.logical() else { return Err(single()) };
    logical.places = Places::Fixed(at);
    logical.span = at;
    let mut diags = Vec::new();
    let mut unread = Unread::of(logical, &mut lines, &mut diags);
    if let Some(heredocs) = &mut unread.heredocs {
        // Where they end in the trigger is no place of the file.
        heredocs.end = None;
    }
    let Read { statement, diags: found, .. } = unread.read();
    diags.extend(found);
    diags.append(&mut lines.diags);
    if lines.logical().is_some() {
        diags.extend(single());
    }
    for d in &mut diags {
        d.labels.iter_mut().for_each(|l| l.span = at);
    }
    match statement {
        Some(Statement::Other(i)) if diags.is_empty() => Ok(i),
        Some(Statement::From(_)) => Err(vec![Diagnostic::error(
            "onbuild-trigger",
            at,
            "FROM isn't allowed as an ONBUILD trigger",
        )]),
        _ => Err(diags),
    }
}

enum Statement {
    From(Box<Stage>),
    Other(Instruction),
}

/// A logical line with what follows it, cut out of the file and not yet looked at.
struct Unread<'a> {
    logical: Logical<'a>,
    escape: char,
    /// `None`: one of them has no end, so the line is left out.
    heredocs: Option<Bodies>,
}

/// What was read of an [`Unread`].
struct Read {
    statement: Option<Statement>,
    span: Span,
    diags: Vec<Diagnostic>,
}

impl<'a> Unread<'a> {
    fn next(lines: &mut Lines<'a>, diags: &mut Vec<Diagnostic>) -> Option<Self> {
        let logical = lines.logical()?;
        Some(Self::of(logical, lines, diags))
    }

    /// `lines` stands behind `logical`.
    fn of(logical: Logical<'a>, lines: &mut Lines<'a>, diags: &mut Vec<Diagnostic>) -> Self {
        let escape = lines.escape;
        let heredocs = heredocs(&line(&logical, escape), lines, diags);
        Self { logical, escape, heredocs }
    }

    fn read(self) -> Read {
        let Self { logical, escape, heredocs } = self;
        let span = logical.span;
        let mut diags = Vec::new();
        let statement = heredocs.and_then(|h| statement(logical, escape, h, &mut diags));
        Read { statement, span, diags }
    }
}

/// Reads a batch, in order.
fn read(mut batch: Vec<Unread<'_>>) -> impl Iterator<Item = Read> {
    let all = |batch: Vec<Unread<'_>>| batch.into_iter().map(Unread::read).collect::<Vec<_>>();
    if batch.len() < SHARED {
        return all(batch).into_iter().chain(Vec::new());
    }
    let rest = batch.split_off(batch.len() / 2);
    std::thread::scope(|scope| {
        let rest = scope.spawn(|| {
            // A thread's heap grows by a page at a time, unless it was large once.
            drop(Vec::<u8>::with_capacity(rest.len() * HEAP_PER_LINE));
            all(rest)
        });
        let first = all(batch);
        let rest = rest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        first.into_iter().chain(rest)
    })
}

fn line<'l>(logical: &'l Logical<'_>, escape: char) -> Line<'l> {
    Line { text: &logical.text, places: &logical.places, span: logical.span, escape }
}

fn head<'a>(line: &'a Line<'a>, start: usize) -> Head<'a> {
    let text = line.text;
    let start = start + (text[start..].len() - text[start..].trim_start().len());
    let stop = text.trim_end().len().max(start);
    let end = text[start..stop].find(words::is_blank).map_or(stop, |i| start + i);
    let keyword = line.word(&text[start..end], start, end);
    let (flags, at) = flags::split(line, end);
    let at = at + (text[at..].len() - text[at..].trim_start().len());
    let upper = match INSTRUCTIONS.iter().find(|i| i.eq_ignore_ascii_case(&keyword.text)) {
        Some(known) => Cow::Borrowed(*known),
        None => Cow::Owned(keyword.text.as_str().to_ascii_uppercase()),
    };
    let json = if text[at..].starts_with('[') {
        json::list(text[at..].trim_end())
    } else {
        json::List::No
    };
    Head { line, keyword, upper, flags, at, json }
}

fn statement(
    logical: Logical<'_>,
    escape: char,
    heredocs: Bodies,
    diags: &mut Vec<Diagnostic>,
) -> Option<Statement> {
    let mut line = line(&logical, escape);
    if let Some(end) = heredocs.end {
        line.span.end = line.span.end.max(end as u32);
    }
    let head = head(&line, 0);
    let errors = diags.len();
    let kind = match &*head.upper {
        "FROM" => {
            let stage = from::parse(&head, &logical.comments, diags)?;
            return Some(Statement::From(Box::new(stage)));
        }
        "RUN" => run::parse(&head, heredocs.list, diags),
        "COPY" | "ADD" => copy::parse(&head, heredocs.list, diags),
        _ => config::parse(&head, heredocs.list, diags),
    };
    if diags.len() > errors {
        return None;
    }
    Some(Statement::Other(Instruction {
        kind: kind?,
        text: line.text.trim().into(),
        span: line.span,
        keyword: head.keyword,
        comments: logical.comments,
    }))
}

fn unknown(head: &Head<'_>) -> Diagnostic {
    let mut message = format!("unknown instruction: {}", head.keyword.text);
    let near = nearest(&head.keyword.text, INSTRUCTIONS);
    if let Some(near) = near {
        message.push_str(&format!(" (did you mean {near}?)"));
    }
    let d = Diagnostic::error("unknown-instruction", head.keyword.span, message);
    match near {
        Some(near) => d.help(format!("did you mean `{near}`?")),
        None => d,
    }
}

#[derive(Default)]
struct Bodies {
    list: Vec<Heredoc>,
    end: Option<usize>,
}

/// Reads the bodies that follow a line. `None`: one has no end.
fn heredocs(line: &Line<'_>, lines: &mut Lines<'_>, diags: &mut Vec<Diagnostic>) -> Option<Bodies> {
    let mut out = Bodies::default();
    if !line.text.contains("<<") {
        return Some(out);
    }
    let outer = head(line, 0);
    let inner = if outer.upper == "ONBUILD" { head(line, outer.at) } else { outer };
    if !matches!(&*inner.upper, "RUN" | "COPY" | "ADD") || inner.json != json::List::No {
        return Some(out);
    }
    for o in heredoc::openings(line.text) {
        let Some((body, end)) = lines.heredoc(&o.name, o.chomp) else {
            diags.push(
                Diagnostic::error("unterminated-heredoc", line.span, "unterminated heredoc")
                    .help(format!("no line is `{}`", o.name)),
            );
            return None;
        };
        out.end = Some(end);
        out.list.push(Heredoc {
            name: o.name,
            body: body.to_owned(),
            chomp: o.chomp,
            expand: o.expand,
        });
    }
    Some(out)
}
