//! Control groups: what a step may use, and what it came to.
//!
//! A step without limits gets no group: it stays in the one of whoever runs the build, and costs
//! nothing more. A step with limits gets one group in each hierarchy that has a controller it
//! needs ([`tree`]), below a folder of ours in the group of this process, so that limits of the
//! caller count as well:
//!
//! ```text
//! /sys/fs/cgroup/memory/CALLER/rgraph/RUNNER-BEGAN-N     (version 1: one tree per controller)
//! /sys/fs/cgroup/CALLER-OR-ABOVE/rgraph/RUNNER-BEGAN-N   (version 2: one tree)
//! ```
//! The names say which runner made them and when it began, so what a killed one left is known and
//! removed by the next. Groups are counted by nobody and locked by nobody.

mod group;
mod setting;
mod tree;
mod usage;

pub use group::Hit;
pub(crate) use group::sweep_after as sweep_groups;
pub(super) use group::{Group, Groups, enter};
pub use setting::{Limits, Setting};
pub use tree::{NoGroups, probe};
pub(crate) use usage::memory_of;
