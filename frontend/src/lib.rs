//! Dockerfiles: text to tree to plan. Pure: no file, socket, clock or environment is touched.
//!
//! ```text
//! SourceFile --parse--> ast::Dockerfile --lower(+Facts)--> Lowered { plan, warnings }
//! ```
//! [`parse`] never fails: faults are diagnostics. [`lower`] is run until no fact is missing.
//! What a Dockerfile means is BuildKit's reading of it (commit 73ed682 of moby/buildkit).

pub mod ast;
pub mod expand;
pub mod facts;
pub mod options;
pub mod outline;

mod directive;
mod lex;
mod lint;
mod lower;
mod parse;
#[cfg(test)]
mod testkit;

pub use facts::{Facts, Query, TimeOf};
pub use lower::{Lowered, Lowering, git_source, lower};
pub use options::{IgnoreFile, Linked, LowerOptions, NamedContext, NoCache, ServiceOption};
pub use outline::{Outline, outline, targets};
pub use parse::{INSTRUCTIONS, Parsed, parse};
