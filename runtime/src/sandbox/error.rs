//! What can go wrong: before the step runs in its surroundings ([`InitError`], told by the child)
//! and around it ([`SandboxError`]).

use std::error::Error;
use std::io;

use serde::{Deserialize, Serialize};

use super::cgroup::NoGroups;

/// Why a step did not begin. Travels from the child, so causes are text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum InitError {
    /// There is no such program.
    #[error("cannot run `{program}`: {reason}")]
    NotFound {
        /// As written.
        program: String,
        /// What is missing.
        reason: String,
    },
    /// The program is there but cannot be run.
    #[error("cannot run `{program}`: {reason}")]
    NotExecutable {
        /// As written.
        program: String,
        /// Why.
        reason: String,
    },
    /// Nothing to run.
    #[error("no program given")]
    NoProgram,
    /// An argument or variable that no program can be given.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// Which.
        what: String,
    },
    /// `USER` names nobody.
    #[error("no such user in image: `{user}`")]
    NoSuchUser {
        /// The user part.
        user: String,
    },
    /// The group of `USER` does not exist.
    #[error("no such group in image: `{group}`")]
    NoSuchGroup {
        /// The group part.
        group: String,
    },
    /// `/etc/passwd` or `/etc/group` cannot be used.
    #[error("no such user in image: cannot read `{path}`: {reason}")]
    UserFile {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// A mount that would cover what keeps the step apart.
    #[error("cannot mount on `{dest}`: target is reserved")]
    ReservedTarget {
        /// As written.
        dest: String,
    },
    /// What is to be bound does not exist.
    #[error("cannot mount on `{dest}`: `{selector}` does not exist in the source")]
    NoSuchSource {
        /// Target.
        dest: String,
        /// Path in the source.
        selector: String,
    },
    /// The working directory leads out.
    #[error("cwd outside the container: `{cwd}`")]
    CwdOutside {
        /// As written.
        cwd: String,
    },
    /// Not a resource limit.
    #[error("unknown resource limit `{name}`")]
    UnknownLimit {
        /// As written.
        name: String,
    },
    /// Limits are asked for, and there are no control groups to keep them.
    #[error("the step cannot have the limits that were asked for: {reason}")]
    NoLimits {
        /// Why, and what helps.
        reason: String,
    },
    /// Its layers could not be laid over each other.
    #[error("cannot mount the root: {reason}")]
    NoRoot {
        /// Cause, with its causes.
        reason: String,
    },
    /// Any other step of the preparation.
    #[error("cannot {step}: {reason}")]
    Setup {
        /// Verb phrase.
        step: String,
        /// Cause, with its causes.
        reason: String,
    },
}

impl InitError {
    /// The exit code a shell would give: 127 not found, 126 not executable; `None`: no fault of
    /// the command.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::NotFound { .. } => Some(127),
            Self::NotExecutable { .. } => Some(126),
            _ => None,
        }
    }

    /// For `map_err`.
    #[expect(clippy::needless_pass_by_value)]
    pub(super) fn no_limits(why: NoGroups) -> Self {
        Self::NoLimits { reason: why.to_string() }
    }

    /// For `map_err`.
    pub(super) fn no_root<E: Error>(why: E) -> Self {
        Self::NoRoot { reason: chain(&why) }
    }

    /// For `map_err`: names the step.
    pub(crate) fn at<E: Error>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |e| Self::Setup { step: step.into(), reason: chain(&e) }
    }
}

/// An error and its causes in one line.
fn chain(e: &dyn Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Why a step could not be started or followed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The runner process did not start.
    #[error("cannot start the sandbox runner")]
    StartRunner(#[source] io::Error),
    /// The runner could not separate itself from the host.
    #[error("the sandbox runner cannot prepare itself: {0}")]
    PrepareRunner(String),
    /// The step's description cannot be sent.
    #[error("cannot describe the step to the sandbox runner")]
    Encode(#[source] serde_json::Error),
    /// The step cannot be handed over.
    #[error("cannot {0}")]
    Talk(&'static str, #[source] io::Error),
    /// The runner is gone; its steps are dead.
    #[error("the sandbox runner died")]
    RunnerDied,
    /// The step's process could not be made.
    #[error(transparent)]
    Init(#[from] InitError),
}
