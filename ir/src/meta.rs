//! What a vertex carries for people and for the scheduler, and what must never enter a key. If
//! something here could change a result it belongs in the op.

use std::sync::Arc;

use crate::span::Span;
use crate::ttl::Ttl;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VertexMeta {
    /// The progress line without its number: `[build 2/4] RUN make`.
    pub name: String,
    /// The Dockerfile instruction's text, for LLB's `com.docker.dockerfile.v1.command`.
    pub command: Option<Arc<str>>,
    /// Where it comes from in the Dockerfile; of several places the first. `None`: no line says it.
    pub span: Option<Span>,
    /// The stage it belongs to.
    pub stage: Option<Arc<str>>,
    /// Which of several builds in one graph it is of (a target of a bake file); of several the first.
    pub unit: Option<Arc<str>>,
    /// The cache is not asked (`--no-cache`, `--no-cache-filter`).
    pub ignore_cache: bool,
    /// How long its result is good for.
    pub ttl: Option<Ttl>,
    /// Shown inside another vertex's line.
    pub progress_group: Option<Arc<str>>,
    /// Kernel limits asked for on the command line.
    pub resources: Option<Box<LinuxResources>>,
}

/// Limits of the control group a step runs in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinuxResources {
    /// Bytes of memory; 0: unlimited.
    pub memory: i64,
    /// Bytes of memory and swap; 0: unlimited.
    pub memory_swap: i64,
    /// Relative weight.
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in each period.
    pub cpu_quota: i64,
    /// CPUs, kernel list form.
    pub cpuset_cpus: String,
    /// Memory nodes, kernel list form.
    pub cpuset_mems: String,
}
