//! The person's side of rgraph: what was typed, what is shown.
//!
//! Reading order: [`args`] (raw flags and the environment), [`options`] (typed, every error of the
//! command line), [`bake`] (many builds of one file), [`mod@context`], [`load`], [`units`],
//! [`mod@platforms`], [`pipeline`], [`mod@script`] and [`sources`] (the way of a build), [`commands`],
//! [`progress`] (readers of the event stream), [`journal`] (what is kept of it), [`report`]
//! (diagnostics, failures, exit codes), [`table`] (columns, sizes, times). `main.rs` is the program.

pub mod args;
pub mod options;

pub mod asked;
pub mod bake;
pub mod context;
pub mod load;
pub mod pipeline;
pub mod platforms;
pub mod script;
pub mod sources;
pub mod units;

pub mod commands;
pub mod output;
pub mod session;

pub mod journal;
pub mod listing;
pub mod progress;
pub mod report;
pub mod table;
pub mod template;
