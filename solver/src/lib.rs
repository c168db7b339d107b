//! What to run, in which order, and why: a pure state machine over the graph, and the ports it
//! reaches the world through. No file, socket or clock is touched here; the only threads are those
//! of [`drive`].

pub mod backend;
pub mod cancel;
pub mod drive;
pub mod event;
pub mod explain;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(test)]
mod fake_tests;
pub mod key;
pub mod look;
pub mod machine;
pub mod outcome;
pub mod policy;
pub mod ports;
mod state;

pub use cancel::CancelToken;
pub use drive::{solve, solve_edges};
pub use event::{Event, EventKind, EventSink, Step, Stream, Timestamp};
pub use explain::{MissReason, PastStep};
pub use look::{LookError, look};
pub use outcome::{Solution, SolveError};
pub use policy::Policy;
pub use ports::{
    CacheError, Clock, Hit, Lane, Origin, Pin, Ports, Query, Record, ResultCache, Task, TaskCx,
    TaskError, Tree, Worker,
};
