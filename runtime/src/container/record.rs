//! What is known of a container.

use rgraph_ir::SnapshotId;
use serde::{Deserialize, Serialize};

use super::{Bound, Settings};

/// The image a container was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// As it was asked for.
    pub name: String,
    /// Its id, hex.
    pub config: String,
    /// Its manifest, hex.
    pub manifest: String,
    /// Its root file system; `None`: it has no files.
    pub snapshot: Option<u64>,
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Never started.
    Created,
    /// It has a process.
    Running {
        /// The number of its first process.
        pid: i32,
        /// When that began, in the kernel's ticks: with it the number is nobody else's.
        #[serde(default)]
        born: u64,
        /// Seconds since 1970.
        since: i64,
    },
    /// It has ended.
    Exited {
        /// Exit code; 137 when it was killed together with its supervisor.
        code: i32,
        /// Seconds since 1970.
        at: i64,
    },
}

/// All that is known of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hex digits.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// Seconds since 1970.
    pub created: i64,
    /// And nanoseconds: which of two came first.
    #[serde(default)]
    pub nanos: u32,
    /// Its image.
    pub image: Origin,
    /// What runs in it.
    pub settings: Settings,
    /// How far it has come.
    pub state: State,
    /// Its ports on the host, since it was started last.
    #[serde(default)]
    pub bound: Vec<Bound>,
    /// It goes when it ends.
    pub remove: bool,
}

impl Record {
    /// The first twelve digits of its id.
    pub fn short(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The root file system of its image.
    pub fn base(&self) -> Option<SnapshotId> {
        self.image.snapshot.map(SnapshotId)
    }
}

/// What a new container is to be.
#[derive(Debug, Clone)]
pub struct New {
    /// Its name; `None`: one is found.
    pub name: Option<String>,
    /// How the image was asked for.
    pub image: String,
    /// What runs in it.
    pub settings: Settings,
    /// It goes when it ends.
    pub remove: bool,
}
