//! The person's side of rgraph: what was typed, what is shown.
//!
//! Reading order: [`args`] (raw flags and the environment), [`options`] (typed, every error of the
//! command line), [`progress`] (readers of the event stream), [`report`] (diagnostics, failures,
//! exit codes), [`table`] (columns, sizes, times). `main.rs` is the program.

pub mod args;
pub mod options;
pub mod progress;
pub mod report;
pub mod table;
