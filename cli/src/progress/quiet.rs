//! `--progress quiet`: nothing, until a failure is reported.

use rgraph_solver::event::{Event, Timestamp};

use super::{Book, Entered, View};

/// Draws nothing.
pub struct Quiet;

impl View for Quiet {
    fn event(&mut self, _: &Book, _: &Event, _: &Entered, _: &mut String) {}

    fn message(&mut self, _: &str, _: &mut String) {}

    fn close(&mut self, _: &Book, _: Timestamp, _: &mut String) {}
}
