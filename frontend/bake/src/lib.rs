//! Bake files: many builds in one file, in HCL, JSON or as compose services.
//!
//! Text in, resolved targets out: [`load`] reads the files, [`Definition::resolve`] picks targets and
//! applies what the command line overrides. Nothing here touches a file, the environment or a clock:
//! the caller brings texts, a look-up for variables, and the time.
//!
//! A bake file is untrusted. hcl-edit parses it and bounds its nesting; values are made here, under a
//! [`budget`] for each value and for all of them together, so a short file cannot stand for much.
//!
//! Reference: docs/bake-reference.md and bake/ of docker/buildx at commit 461836b.

mod budget;
mod compose;
mod config;
mod csv;
mod entry;
mod env;
mod eval;
mod file;
mod functions;
mod glob;
mod overrides;
mod print;
mod resolve;
mod target;
mod template;
mod types;
mod value;
mod yaml;

use std::sync::Arc;

use rgraph_ir::{Diagnostic, SourceMap};

pub use config::{Definition, Variable};
pub use csv::split as csv_fields;
pub use entry::{Entry, Secret, Ssh};
pub use env::dotenv;
pub use overrides::Overrides;
pub use print::{Listing, print, print_targets, print_variables};
pub use resolve::{Resolved, is_folder};
pub use target::{Group, Target};

/// A file as it was given.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name, which also says what it is: `.hcl`, `.json`, `.yaml`, `.yml`; any other name is tried as
    /// each.
    pub name: String,
    /// Its text.
    pub text: Arc<str>,
}

/// Reads a file by its path.
pub type Read<'a> = dyn Fn(&str) -> Result<Option<Arc<str>>, String> + Sync + 'a;

/// What the files are read with.
pub struct Inputs<'a> {
    /// The value of a variable that the caller sets: a flag, else the environment.
    pub lookup: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// Every variable of the environment that compose files may use.
    pub environment: &'a [(String, String)],
    /// Reads a file that a compose file names, by its path from the working folder; `None`: there is
    /// none. What may not be read is an error, in words for the user.
    pub read: &'a Read<'a>,
    /// `BAKE_LOCAL_PLATFORM`.
    pub local_platform: String,
    /// `BAKE_CMD_CONTEXT`; `cwd://` when nothing was said.
    pub command_context: String,
    /// Paths are from the folder of the file that they stand in, not from the working folder.
    pub relative_paths: bool,
    /// The files come from elsewhere: `cwd://` tells what is here.
    pub is_remote: bool,
    /// Seconds since 1970, for `timestamp()`.
    pub now: i64,
    /// Fills it with random bytes, for `uuidv4()` and `bcrypt()`.
    pub random: &'a Random,
}

/// Where random bytes come from.
pub type Random = dyn Fn(&mut [u8]) -> std::io::Result<()> + Sync;

/// A YAML text as JSON; null when there is nothing in it. For files that are not a person's bake files.
///
/// # Errors
/// What is wrong with it, without its place.
pub fn yaml_value(text: &str) -> Result<serde_json::Value, String> {
    let node = yaml::parse(text, rgraph_ir::FileId(0)).map_err(|e| e.message)?;
    Ok(node.map_or(serde_json::Value::Null, |n| n.to_json()))
}

/// Stack of the thread that evaluates: [`budget::MAX_DEPTH`] levels need less.
const STACK: usize = 64 << 20;

/// Reads all files as one definition: compose files first, then the others, each in the order given.
///
/// The texts are added to `sources`, where the spans of errors point.
pub fn load(
    files: &[File],
    inputs: &Inputs<'_>,
    sources: &mut SourceMap,
) -> Result<Definition, Vec<Diagnostic>> {
    let failed = |e: std::io::Error| {
        let message = format!("no thread to read bake files with: {e}");
        vec![Diagnostic::new(rgraph_ir::Severity::Error, "bake", None, message)]
    };
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || config::load(files, inputs, sources))
            .map_err(failed)?;
        match reader.join() {
            Ok(done) => done.map_err(|e| vec![e.into_diagnostic()]),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
