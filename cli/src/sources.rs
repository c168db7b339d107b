//! The lock file on disk, and the sources of a plan that are no images: URLs and repositories.

use std::path::Path;

use rgraph_image::registry::shown_url;
use rgraph_ir::op::{GitSource, HttpSource, SourceOp};
use rgraph_ir::{BlobDigest, Diagnostic, Op, Span};
use rgraph_runtime::fetch::git::lock_name;
use rgraph_runtime::fetch::lock::{Commit, LockFile};
use rgraph_runtime::fetch::source::Sources;

use crate::context::Origin;
use crate::load;
use crate::pipeline::Compiled;
use crate::report::CliError;

/// A file by URL or a repository that a plan needs.
struct Source<'a> {
    op: Remote<'a>,
    /// What it is called in a lock file.
    name: String,
    /// What it means, as far as the Dockerfile itself says.
    pinned: Pinned,
    /// The instruction.
    span: Option<Span>,
}

#[derive(Clone, Copy)]
enum Remote<'a> {
    Url(&'a HttpSource),
    Repository(&'a GitSource),
}

/// What a Dockerfile says about a source of its own.
enum Pinned {
    /// A URL and its content.
    Url(BlobDigest),
    /// A repository and its commit.
    Commit(Commit),
    /// Only who serves it knows.
    No,
}

/// Those of a plan, in the order of the graph.
fn of(c: &Compiled) -> Vec<Source<'_>> {
    let plan = &c.plan;
    let reachable = rgraph_ir::analysis::reachable(plan);
    let contexts = c.origins.iter().filter_map(|o| o.brought.as_ref()).filter_map(|b| {
        let (op, (name, pinned)) = match &b.origin {
            Origin::Stdin => return None,
            Origin::Url(h) => (Remote::Url(h), url(h)),
            Origin::Repository(g) => (Remote::Repository(g), repository(g)),
        };
        Some(Source { op, name, pinned, span: None })
    });
    let vertices = reachable.iter().map(|id| plan.graph.vertex(*id));
    let steps = vertices.filter_map(|v| {
        let (op, (name, pinned)) = match &v.op {
            Op::Source(SourceOp::Http(h)) => (Remote::Url(h), url(h)),
            Op::Source(SourceOp::Git(g)) => (Remote::Repository(g), repository(g)),
            _ => return None,
        };
        Some(Source { op, name, pinned, span: v.meta.span })
    });
    contexts.chain(steps).collect()
}

fn url(h: &HttpSource) -> (String, Pinned) {
    let digest = h.checksum.as_deref().and_then(|c| c.parse().ok());
    (h.url.clone(), digest.map_or(Pinned::No, Pinned::Url))
}

fn repository(g: &GitSource) -> (String, Pinned) {
    // A branch may be called like a commit, but not while the commit is asked for too.
    let commit = g.checksum.as_deref().and_then(Commit::parse);
    (lock_name(g), commit.map_or(Pinned::No, Pinned::Commit))
}

/// Adds what the sources of a plan mean; what cannot be found out is an error each.
pub fn lock(c: &Compiled, remote: &Sources<'_>, file: &mut LockFile) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    for source in of(c) {
        match (&source.pinned, source.op) {
            (Pinned::Commit(commit), _) => file.add_repository(source.name, commit.clone()),
            (_, Remote::Url(h)) => match remote.url_digest(h) {
                Ok(digest) => file.add_url(source.name, digest),
                Err(e) => errors.push(diagnostic(&source, rgraph_runtime::report(&e))),
            },
            (_, Remote::Repository(g)) => match remote.git_locked(g) {
                Ok(commit) => file.add_repository(source.name, commit),
                Err(e) => errors.push(diagnostic(&source, rgraph_runtime::report(&e))),
            },
        }
    }
    errors
}

/// Where the Dockerfile pins what the lock file says otherwise, or says nothing of.
pub fn unlocked(c: &Compiled, file: &LockFile) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    for source in of(c) {
        let line = match (&source.pinned, source.op) {
            (Pinned::Url(digest), _) => file.url(&source.name).map(|l| (l.line, l.what == *digest)),
            (Pinned::Commit(commit), _) => {
                file.repository(&source.name).map(|l| (l.line, l.what == *commit))
            }
            (Pinned::No, Remote::Url(_)) => file.url(&source.name).map(|l| (l.line, true)),
            (Pinned::No, Remote::Repository(_)) => {
                file.repository(&source.name).map(|l| (l.line, true))
            }
        };
        let (name, file) = (&source.name, file.name());
        let message = match line {
            Some((_, true)) => continue,
            Some((line, false)) => {
                format!("{file}:{line}: `{name}` is something else there than here")
            }
            None => format!("`{file}` has no line for `{name}`"),
        };
        let d = diagnostic(&source, message);
        errors.push(d.help("`rgraph lock` with the flags of this build writes it"));
    }
    errors
}

/// Brings the sources of a plan into the store: a line about each, and what went wrong.
pub fn fetch(c: &Compiled, remote: &Sources<'_>) -> (Vec<String>, Vec<Diagnostic>) {
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    for source in of(c) {
        match source.op {
            Remote::Url(h) => match remote.url(h, &|_, _| {}) {
                Ok(content) => {
                    lines.push(format!("{}: {}", shown_url(&source.name), content.digest));
                }
                Err(e) => errors.push(diagnostic(&source, rgraph_runtime::report(&e))),
            },
            Remote::Repository(g) => match remote.git_fetch(g) {
                Ok(commit) => lines.push(format!("{}: commit {commit}", source.name)),
                Err(e) => errors.push(diagnostic(&source, rgraph_runtime::report(&e))),
            },
        }
    }
    (lines, errors)
}

fn diagnostic(source: &Source<'_>, message: String) -> Diagnostic {
    Diagnostic::new(rgraph_ir::Severity::Error, "lock", source.span, message)
}

/// Reads a lock file. `None`: there is none.
pub fn read(path: &Path) -> Result<Option<LockFile>, CliError> {
    let text = load::lock_text(path).map_err(|e| CliError::failed(rgraph_runtime::report(&e)))?;
    let Some(text) = text else { return Ok(None) };
    let name = path.display().to_string();
    LockFile::parse(&name, &text).map(Some).map_err(|e| {
        CliError::failed(e.to_string()).help("remove the file, and `rgraph lock` writes a new one")
    })
}

/// Reads the lock file that a build is to obey.
pub fn obeyed(path: Option<&Path>) -> Result<Option<LockFile>, CliError> {
    let Some(path) = path else { return Ok(None) };
    read(path)?.map(Some).ok_or_else(|| {
        CliError::failed(format!("--locked: there is no lock file `{}`", path.display()))
            .help("`rgraph lock` with the flags of this build writes it")
    })
}
