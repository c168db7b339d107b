//! What went wrong, for people: diagnostics with their source, failed steps, error chains, and the
//! exit code of each kind of end. Only `drawing` knows miette.
//!
//! Everything is written to the writer it is given (stderr). Foreign text is made harmless.

mod drawing;

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rgraph_ir::{Diagnostic, Severity, SourceMap, Span};

use crate::options::OptionsError;
use crate::progress::sanitize::harmless;

/// Findings drawn with their source; of more than these nobody reads the rest.
const MOST_DRAWN: usize = 50;
/// Findings listed by a line each.
const MOST_LISTED: usize = 200;

/// How a command ended, apart from well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A step, a Dockerfile, a registry, a disk, something not found: 1.
    Failed,
    /// Wrong use of the command line: 2. Nothing was read or written.
    Usage,
    /// A defect of rgraph: 70.
    Internal,
    /// Ended by SIGINT, after clean-up: 130.
    Interrupted,
    /// Ended by SIGTERM, after clean-up: 143.
    Terminated,
    /// The code of a container's process, or why there is none: 125 to 127.
    Process(u8),
}

impl ErrorKind {
    /// The documented exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Internal => 70,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Process(code) => code,
        }
    }
}

/// The error of a command.
#[derive(Debug)]
pub struct CliError {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// What went wrong: lower case, no full stop. Empty when it has been reported already.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Why.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl CliError {
    /// A failure (exit code 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, message: message.into(), help: None, source: None }
    }

    /// Wrong use (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Usage, ..Self::failed(message) }
    }

    /// A broken invariant (exit code 70).
    pub fn internal(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Internal, ..Self::failed(message) }
    }

    /// A failure that has been drawn already: only the exit code is left.
    pub fn reported(kind: ErrorKind) -> Self {
        Self { kind, ..Self::failed("") }
    }

    /// A name of the contract that nobody wrote yet (exit code 1).
    pub fn not_yet(what: impl fmt::Display) -> Self {
        Self::failed(format!("{what} is not supported yet"))
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds why.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for CliError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<OptionsError> for CliError {
    fn from(e: OptionsError) -> Self {
        let kind = if e.is_usage() { ErrorKind::Usage } else { ErrorKind::Failed };
        let help = e.help().map(str::to_owned);
        Self { kind, message: e.to_string(), help, source: StdError::source(&e).map(copy) }
    }
}

/// An error chain as text, for errors that only lend their source.
fn copy(e: &(dyn StdError + 'static)) -> Box<dyn StdError + Send + Sync> {
    chain_text(e).into()
}

/// What a failed step leaves behind.
#[derive(Debug, Clone, Default)]
pub struct FailedStep<'a> {
    /// Its progress line.
    pub name: &'a str,
    /// The instruction.
    pub span: Option<Span>,
    /// Its last lines, harmless already.
    pub tail: &'a [String],
    /// What to do.
    pub help: Option<&'a str>,
}

/// How to draw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Colours may be used.
    pub colours: bool,
    /// Warnings and causes in full.
    pub debug: bool,
}

/// Draws reports on a writer. Errors of the writer are given back; most callers can only drop them.
pub struct Reporter<'a> {
    out: &'a mut dyn Write,
    style: Style,
}

impl<'a> Reporter<'a> {
    /// Draws on `out`.
    pub fn new(out: &'a mut dyn Write, style: Style) -> Self {
        Self { out, style }
    }

    /// Draws findings one after the other, each with `NAME:LINE` in its text.
    pub fn diagnostics(&mut self, all: &[Diagnostic], map: &SourceMap) -> io::Result<()> {
        for d in all.iter().take(MOST_DRAWN) {
            self.draw(d, map)?;
        }
        self.rest(all.len(), MOST_DRAWN)
    }

    fn rest(&mut self, all: usize, shown: usize) -> io::Result<()> {
        if all > shown { writeln!(self.out, "and {} more", all - shown) } else { Ok(()) }
    }

    /// Warnings after a build: one line each, or drawn in full with `--debug`.
    pub fn warnings(&mut self, all: &[Diagnostic], map: &SourceMap) -> io::Result<()> {
        let count = match all.len() {
            0 => return Ok(()),
            1 => "1 warning found".to_owned(),
            n => format!("{n} warnings found"),
        };
        if self.style.debug {
            writeln!(self.out, "\n{count}:")?;
            return self.diagnostics(all, map);
        }
        writeln!(self.out, "\n{count} (use --debug to expand):")?;
        for d in all.iter().take(MOST_LISTED) {
            let at = d.span().map(|s| format!(" ({})", harmless(&map.locate(s))));
            let message = harmless(&d.message).replace('\n', " ");
            writeln!(self.out, " - {}: {message}{}", d.code, at.unwrap_or_default())?;
        }
        self.rest(all.len(), MOST_LISTED)
    }

    /// A step that failed: its last output, the instruction, the cause.
    pub fn failed_step(
        &mut self,
        step: &FailedStep<'_>,
        cause: &(dyn StdError + 'static),
        map: &SourceMap,
    ) -> io::Result<()> {
        let name = harmless(step.name);
        if !step.tail.is_empty() {
            writeln!(self.out, "------\n > {name}:")?;
            for line in step.tail {
                writeln!(self.out, "{line}")?;
            }
            writeln!(self.out, "------")?;
        }
        let mut d = Diagnostic::new(
            Severity::Error,
            "step-failed",
            step.span,
            format!("{name} failed: {}", chain_text(cause)),
        );
        d.help = step.help.map(str::to_owned);
        self.draw(&d, map)
    }

    /// An error that is about no text: one line, causes joined by colons (one per line with
    /// `--debug`), then what to do.
    pub fn error(&mut self, e: &CliError) -> io::Result<()> {
        if e.message.is_empty() {
            return Ok(());
        }
        let tag = self.paint(
            "\x1b[31m",
            if e.kind == ErrorKind::Internal { "internal error" } else { "error" },
        );
        if self.style.debug {
            writeln!(self.out, "{tag}: {}", harmless(&e.message))?;
            for cause in causes(e) {
                writeln!(self.out, "  caused by: {}", harmless(&cause))?;
            }
        } else {
            writeln!(self.out, "{tag}: {}", harmless(&chain_text(e)))?;
        }
        if let Some(help) = e.help.clone().or_else(|| remedy(&chain_text(e))) {
            let tag = self.paint("\x1b[36m", "help");
            writeln!(self.out, "{tag}: {}", harmless(&help))?;
        }
        if e.kind == ErrorKind::Internal {
            writeln!(self.out, "{PLEASE_REPORT}")?;
        }
        Ok(())
    }

    /// Something the user should know.
    pub fn warning(&mut self, text: &str) -> io::Result<()> {
        let tag = self.paint("\x1b[33m", "warning");
        writeln!(self.out, "{tag}: {}", harmless(text))
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.style.colours { format!("{colour}{text}\x1b[0m") } else { text.to_owned() }
    }

    fn draw(&mut self, d: &Diagnostic, map: &SourceMap) -> io::Result<()> {
        let helped = match &d.help {
            None => remedy(&d.message).map(|help| Diagnostic { help: Some(help), ..d.clone() }),
            Some(_) => None,
        };
        let d = helped.as_ref().unwrap_or(d);
        writeln!(self.out, "{}", drawing::draw(d, map, self.style.colours)?)
    }
}

/// What a defect of rgraph ends with.
const PLEASE_REPORT: &str =
    "this is a defect of rgraph: please report it with this line and the command that led here";

/// The causes of an error, outermost first, without those that its text holds already.
fn causes(e: &(dyn StdError + 'static)) -> Vec<String> {
    let mut shown = e.to_string();
    let mut out = Vec::new();
    let mut next = e.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !text.is_empty() && !shown.contains(&text) {
            out.push(text.clone());
            shown = text;
        }
        next = cause.source();
    }
    out
}

/// An error and its causes in one sentence: `pulling x: connecting: connection refused`.
pub fn chain_text(e: &(dyn StdError + 'static)) -> String {
    std::iter::once(e.to_string()).chain(causes(e)).collect::<Vec<_>>().join(": ")
}

/// What to do about a cause that lies in the machine. By its text: causes come from everywhere, and
/// from other processes as text.
pub fn remedy(chain: &str) -> Option<String> {
    let known: [(&[&str], &str); 6] = [
        (&["oo many open files"], FEW_FILES),
        (&["cannot mount proc:"], NO_PROC),
        (&["cannot change the root: cannot pivot"], NO_PIVOT),
        (&["cannot chown", "Invalid argument"], NO_ID),
        (&["cannot set the owner of", "Invalid argument"], NO_ID),
        (&["cannot give standard streams to user", "Invalid argument"], NO_ID),
    ];
    let fits = |texts: &&[&str]| texts.iter().all(|t| chain.contains(t));
    known.iter().find(|(texts, _)| fits(texts)).map(|(_, help)| (*help).to_owned())
}

const FEW_FILES: &str =
    "raise the limit of open files (`ulimit -n`), or run fewer steps at once (`--jobs`)";
/// The kernel's word for an id that a user namespace lacks is that the argument is not valid.
const NO_ID: &str = "the user or group has no number in the user namespace that this builds in: give this user more \
    ids in /etc/subuid and /etc/subgid (`rgraph doctor` says how many there are), or build as root";
/// What to do where steps can have no `/proc` of their own: the kernel gives a user namespace none while parts
/// of the one around it are covered.
const NO_PROC: &str = "in a container that covers parts of /proc: start it with \
    `--security-opt systempaths=unconfined` (docker) or `--security-opt unmask=ALL` (podman)";
const NO_PIVOT: &str = "in a container whose system call filter forbids it: start it with \
    `--security-opt seccomp=unconfined`, and where AppArmor confines it `--security-opt apparmor=unconfined`";

/// Says whether a thread has panicked since [`install_panic_hook`].
#[derive(Debug, Clone)]
pub struct PanicFlag(Arc<AtomicBool>);

impl PanicFlag {
    /// True when a defect showed: the exit code is 70, whatever else happened.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// From now on a panic of any thread prints one line that asks for a report, the first one only,
/// and unwinds as before. `main` catches it and ends with 70.
pub fn install_panic_hook() -> PanicFlag {
    let flag = PanicFlag(Arc::default());
    let seen = flag.clone();
    std::panic::set_hook(Box::new(move |info| {
        if !seen.0.swap(true, Ordering::SeqCst) {
            let line = panic_line(info.payload(), info.location());
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }));
    flag
}

fn panic_line(
    payload: &(dyn std::any::Any + Send),
    at: Option<&std::panic::Location<'_>>,
) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown");
    let at = at.map(|l| format!(" ({}:{})", l.file(), l.line())).unwrap_or_default();
    let text = harmless(text).replace('\n', " ");
    format!("internal error: {text}{at}: {PLEASE_REPORT}\n")
}

#[cfg(test)]
mod tests;
