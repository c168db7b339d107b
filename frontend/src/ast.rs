//! The Dockerfile as a tree of what was written: nothing is expanded, looked up or defaulted here.

use std::sync::Arc;

use compact_str::CompactString;
use rgraph_ir::Span;
use rgraph_ir::span::{FileId, SourceFile};

/// A whole file.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// Which file.
    pub file: FileId,
    /// The escape character: `\` or `` ` ``.
    pub escape: char,
    /// What the directives above the first instruction say.
    pub directives: Directives,
    /// `ARG` lines above the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// In file order.
    pub stages: Vec<Stage>,
    /// Where instructions end that are continued over empty lines.
    pub empty_continuations: Vec<Span>,
    /// The text, for line numbers in advice.
    pub source: SourceFile,
}

impl Dockerfile {
    /// The line, from 1, on which `span` starts.
    pub fn line(&self, span: Span) -> u32 {
        self.source.line_col(span.start).line
    }
}

/// `# key=value` lines at the top.
#[derive(Debug, Clone, Default)]
pub struct Directives {
    /// `# syntax=`.
    pub syntax: Option<Word>,
    /// `# check=`.
    pub check: Option<Word>,
}

/// A text with its place. Not expanded: see [`crate::expand`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// As written, continuation lines joined. Nearly every word is short enough to need no heap.
    pub text: CompactString,
    /// Where.
    pub span: Span,
}

/// `FROM` and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The keyword as written (`FROM`, `from`).
    pub keyword: Word,
    /// The base as written.
    pub base: Word,
    /// `as`, as written.
    pub as_keyword: Option<Word>,
    /// The name as written.
    pub name_written: Option<Word>,
    /// The name in lower case.
    pub name: Option<String>,
    /// `--platform=`.
    pub platform: Option<Word>,
    /// The whole line.
    pub text: String,
    /// The `FROM` line.
    pub span: Span,
    /// Comment lines directly above.
    pub comments: Vec<String>,
    /// In order.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// The keyword as written.
    pub keyword: Word,
    /// What it says.
    pub kind: Kind,
    /// The logical line, trimmed, without heredoc bodies.
    pub text: Arc<str>,
    /// All lines, heredoc bodies included.
    pub span: Span,
    /// Comment lines directly above.
    pub comments: Vec<String>,
}

/// What an instruction says.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `RUN`.
    Run(Box<Run>),
    /// `COPY`.
    Copy(Box<Copy>),
    /// `ADD`.
    Add(Box<Copy>),
    /// `ENV`.
    Env(Vec<Pair>),
    /// `ARG`.
    Arg(Vec<ArgDef>),
    /// `LABEL`.
    Label(Vec<Pair>),
    /// `WORKDIR`.
    Workdir(Word),
    /// `USER`.
    User(Word),
    /// `EXPOSE`.
    Expose(Vec<Word>),
    /// `VOLUME`.
    Volume(Vec<Word>),
    /// `CMD`.
    Cmd(CmdForm),
    /// `ENTRYPOINT`.
    Entrypoint(CmdForm),
    /// `SHELL`.
    Shell(Vec<String>),
    /// `STOPSIGNAL`.
    StopSignal(Word),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `MAINTAINER`.
    Maintainer(Word),
    /// `ONBUILD`: the instruction's text with its heredoc bodies.
    Onbuild(Word),
}

/// Shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CmdForm {
    /// A text for the shell; empty when nothing follows the keyword.
    Shell(Vec<String>),
    /// A JSON list.
    Exec(Vec<String>),
}

/// `K=V`, or the old `K V`.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Left.
    pub key: Word,
    /// Right.
    pub value: Word,
    /// Written without `=`.
    pub legacy: bool,
}

/// `NAME[=DEFAULT]`.
#[derive(Debug, Clone)]
pub struct ArgDef {
    /// Left.
    pub key: Word,
    /// Right.
    pub value: Option<Word>,
}

/// A heredoc with its body.
#[derive(Debug, Clone)]
pub struct Heredoc {
    /// The delimiter, quotes removed.
    pub name: String,
    /// The body as written, line ends included.
    pub body: String,
    /// `<<-`: leading tabs go.
    pub chomp: bool,
    /// The delimiter has no quotes.
    pub expand: bool,
}

impl Heredoc {
    /// The body, without leading tabs when `<<-` says so.
    pub fn content(&self) -> String {
        if !self.chomp {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|l| l.trim_start_matches('\t')).collect()
    }
}

/// `RUN`.
#[derive(Debug, Clone)]
pub struct Run {
    /// The command.
    pub cmd: CmdForm,
    /// Bodies in order.
    pub heredocs: Vec<Heredoc>,
    /// The command is nothing but a heredoc.
    pub only_heredoc: bool,
    /// `--mount` in order.
    pub mounts: Vec<MountSpec>,
    /// `--network`.
    pub network: rgraph_ir::op::NetworkMode,
    /// `--security`.
    pub security: rgraph_ir::op::SecurityMode,
    /// `--device` in order.
    pub devices: Vec<(rgraph_ir::op::Device, Span)>,
}

/// `--mount=...`, split but not expanded.
#[derive(Debug, Clone)]
pub struct MountSpec {
    /// In order.
    pub fields: Vec<MountField>,
    /// `from=`, which takes no variables.
    pub from: Option<Word>,
    /// `--mount=...` as written.
    pub written: String,
    /// The whole flag.
    pub span: Span,
}

/// `key[=value]` of a mount.
#[derive(Debug, Clone)]
pub struct MountField {
    /// Lower case.
    pub key: String,
    /// After `=`.
    pub value: Option<String>,
    /// As written.
    pub text: String,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Paths and URLs in order.
    pub sources: Vec<Word>,
    /// Inline files in order.
    pub files: Vec<Heredoc>,
    /// Where to.
    pub dest: Word,
    /// `--from`.
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude` in order.
    pub exclude: Vec<String>,
    /// `--checksum`.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// As in the image config.
    pub health: rgraph_ir::image_config::Healthcheck,
}

impl Instruction {
    /// The keyword in upper case.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Run(_) => "RUN",
            Kind::Copy(_) => "COPY",
            Kind::Add(_) => "ADD",
            Kind::Env(_) => "ENV",
            Kind::Arg(_) => "ARG",
            Kind::Label(_) => "LABEL",
            Kind::Workdir(_) => "WORKDIR",
            Kind::User(_) => "USER",
            Kind::Expose(_) => "EXPOSE",
            Kind::Volume(_) => "VOLUME",
            Kind::Cmd(_) => "CMD",
            Kind::Entrypoint(_) => "ENTRYPOINT",
            Kind::Shell(_) => "SHELL",
            Kind::StopSignal(_) => "STOPSIGNAL",
            Kind::Healthcheck(_) => "HEALTHCHECK",
            Kind::Maintainer(_) => "MAINTAINER",
            Kind::Onbuild(_) => "ONBUILD",
        }
    }
}
