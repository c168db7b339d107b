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

/// A logical line while it is read.
pub(crate) struct Line<'a> {
    pub text: &'a str,
    pub places: &'a Places,
    pub span: Span,
    pub escape: char,
}

impl Line<'_> {
    /// A word that stands at `start..end` of the line.
    fn word(&self, text: String, start: usize, end: usize) -> Word {
        Word { text, span: self.places.span(start, end) }
    }
}

/// Keyword, flags and arguments of a line.
pub(crate) struct Head<'a> {
    line: &'a Line<'a>,
    keyword: Word,
    upper: String,
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
                items.iter().map(|s| self.line.word(s.clone(), at, end)).collect()
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
    while let Some(logical) = lines.logical() {
        any = true;
        let escape = lines.escape;
        let mut read = |name: &str, chomp| {
            lines.heredoc(name, chomp).map(|(body, end)| (body.to_owned(), end))
        };
        match statement(&logical, escape, &mut read, &mut diags) {
            Some(Statement::From(stage)) => ast.stages.push(*stage),
            Some(Statement::Other(i)) => match (ast.stages.last_mut(), &i.kind) {
                (Some(stage), _) => stage.instructions.push(*i),
                (None, Kind::Arg(_)) => ast.global_args.push(*i),
                (None, _) => diags.push(
                    Diagnostic::error("no-stage", i.span, "no build stage in current context")
                        .help("only `ARG` may stand before the first `FROM`"),
                ),
            },
            None => {}
        }
        if ast.stages.len() > MAX_STAGES {
            let message = format!("more than {MAX_STAGES} stages");
            diags.push(Diagnostic::error("too-many-stages", logical.span, message));
            break;
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
    let escape = lines.escape;
    let mut diags = Vec::new();
    let mut read =
        |name: &str, chomp| lines.heredoc(name, chomp).map(|(body, _)| (body.to_owned(), 0));
    let statement = statement(&logical, escape, &mut read, &mut diags);
    diags.append(&mut lines.diags);
    if lines.logical().is_some() {
        diags.extend(single());
    }
    for d in &mut diags {
        d.labels.iter_mut().for_each(|l| l.span = at);
    }
    match statement {
        Some(Statement::Other(i)) if diags.is_empty() => Ok(*i),
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
    Other(Box<Instruction>),
}

type ReadHeredoc<'a> = dyn FnMut(&str, bool) -> Option<(String, usize)> + 'a;

fn head<'a>(line: &'a Line<'a>, start: usize) -> Head<'a> {
    let text = line.text;
    let start = start + (text[start..].len() - text[start..].trim_start().len());
    let stop = text.trim_end().len().max(start);
    let end = text[start..stop].find(words::is_blank).map_or(stop, |i| start + i);
    let keyword = line.word(text[start..end].to_owned(), start, end);
    let (flags, at) = flags::split(line, end);
    let at = at + (text[at..].len() - text[at..].trim_start().len());
    let upper = keyword.text.to_ascii_uppercase();
    let json = if text[at..].starts_with('[') {
        json::list(text[at..].trim_end())
    } else {
        json::List::No
    };
    Head { line, keyword, upper, flags, at, json }
}

fn statement(
    logical: &Logical,
    escape: char,
    read: &mut ReadHeredoc<'_>,
    diags: &mut Vec<Diagnostic>,
) -> Option<Statement> {
    let mut line =
        Line { text: &logical.text, places: &logical.places, span: logical.span, escape };
    let heredocs = heredocs(&line, read, diags)?;
    if let Some(end) = heredocs.end {
        line.span.end = line.span.end.max(end as u32);
    }
    let head = head(&line, 0);
    let errors = diags.len();
    let kind = match head.upper.as_str() {
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
    Some(Statement::Other(Box::new(Instruction {
        kind: kind?,
        text: line.text.trim().into(),
        span: line.span,
        comments: logical.comments.clone(),
        keyword: head.keyword,
    })))
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
fn heredocs(
    line: &Line<'_>,
    read: &mut ReadHeredoc<'_>,
    diags: &mut Vec<Diagnostic>,
) -> Option<Bodies> {
    let mut out = Bodies::default();
    if !line.text.contains("<<") {
        return Some(out);
    }
    let outer = head(line, 0);
    let inner = if outer.upper == "ONBUILD" { head(line, outer.at) } else { outer };
    if !matches!(inner.upper.as_str(), "RUN" | "COPY" | "ADD") || inner.json != json::List::No {
        return Some(out);
    }
    for o in heredoc::openings(line.text) {
        let Some((body, end)) = read(&o.name, o.chomp) else {
            diags.push(
                Diagnostic::error("unterminated-heredoc", line.span, "unterminated heredoc")
                    .help(format!("no line is `{}`", o.name)),
            );
            return None;
        };
        out.end = Some(end);
        out.list.push(Heredoc { name: o.name, body, chomp: o.chomp, expand: o.expand });
    }
    Some(out)
}
