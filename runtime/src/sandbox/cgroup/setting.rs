//! What is asked of a control group, and the files that say so to the kernel.

use serde::{Deserialize, Serialize};

/// The group of a step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Where it is made, below the root of each hierarchy; `None`: below the caller's own.
    pub parent: Option<String>,
    /// Its limits.
    pub settings: Vec<Setting>,
}

impl Limits {
    /// True when the step needs no group.
    pub fn is_none(&self) -> bool {
        self.parent.is_none() && self.settings.is_empty()
    }
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// Bytes of memory.
    Memory(u64),
    /// Bytes of swap beside a limit of memory; `None`: as much as there is.
    Swap {
        /// The limit of memory, bytes.
        memory: u64,
        /// Of swap alone, bytes.
        swap: Option<u64>,
        /// Where swap is not counted, this is no error.
        optional: bool,
    },
    /// Weight against other groups; 1024 is usual.
    CpuShares(u64),
    /// Microseconds of processor time in each period; `None`: no limit.
    CpuTime {
        /// In each period.
        quota: Option<u64>,
        /// Microseconds.
        period: u64,
    },
    /// Processors, in the kernel's form: `0-2,4`.
    Cpus(String),
    /// Memory nodes, in the kernel's form.
    Nodes(String),
    /// Processes and threads.
    Processes(u64),
}

/// A part of the kernel that limits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
}

impl Controller {
    pub const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Cpuset, Self::Pids];

    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
        }
    }
}

/// The version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A file of a group and what is written to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub file: &'static str,
    pub value: String,
    /// A group without this file is no error.
    pub optional: bool,
}

impl Setting {
    pub(super) fn controller(&self) -> Controller {
        match self {
            Self::Memory(_) | Self::Swap { .. } => Controller::Memory,
            Self::CpuShares(_) | Self::CpuTime { .. } => Controller::Cpu,
            Self::Cpus(_) | Self::Nodes(_) => Controller::Cpuset,
            Self::Processes(_) => Controller::Pids,
        }
    }

    pub(super) fn entries(&self, version: Version) -> Vec<Entry> {
        let entry = |file, value: String| Entry { file, value, optional: false };
        let unlimited = |n: &Option<u64>, word: &str| n.map_or(word.to_owned(), |n| n.to_string());
        match (version, self) {
            (Version::V1, Self::Memory(n)) => vec![entry("memory.limit_in_bytes", n.to_string())],
            (Version::V2, Self::Memory(n)) => vec![entry("memory.max", n.to_string())],
            // The first version counts both together.
            (Version::V1, Self::Swap { memory, swap, optional }) => {
                let both = swap.map(|s| memory.saturating_add(s).min(i64::MAX as u64));
                let value = unlimited(&both, "-1");
                vec![Entry { file: "memory.memsw.limit_in_bytes", value, optional: *optional }]
            }
            (Version::V2, Self::Swap { swap, optional, .. }) => {
                let value = unlimited(swap, "max");
                vec![Entry { file: "memory.swap.max", value, optional: *optional }]
            }
            (Version::V1, Self::CpuShares(n)) => vec![entry("cpu.shares", n.to_string())],
            (Version::V2, Self::CpuShares(n)) => {
                // 2 to 262144 become 1 to 10000.
                let weight = 1 + (n.clamp(&2, &262_144) - 2) * 9_999 / 262_142;
                vec![entry("cpu.weight", weight.to_string())]
            }
            (Version::V1, Self::CpuTime { quota, period }) => vec![
                entry("cpu.cfs_period_us", period.to_string()),
                entry("cpu.cfs_quota_us", unlimited(quota, "-1")),
            ],
            (Version::V2, Self::CpuTime { quota, period }) => {
                vec![entry("cpu.max", format!("{} {period}", unlimited(quota, "max")))]
            }
            (_, Self::Cpus(list)) => vec![entry("cpuset.cpus", list.clone())],
            (_, Self::Nodes(list)) => vec![entry("cpuset.mems", list.clone())],
            (_, Self::Processes(n)) => vec![entry("pids.max", n.to_string())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written() {
        let text = |s: &Setting, v| {
            let line =
                |e: Entry| format!("{}={}{}", e.file, e.value, if e.optional { "?" } else { "" });
            s.entries(v).into_iter().map(line).collect::<Vec<_>>().join(" ")
        };
        let swap = |swap, optional| Setting::Swap { memory: 100, swap, optional };
        let time = |quota, period| Setting::CpuTime { quota, period };
        for (setting, v1, v2) in [
            (Setting::Memory(100), "memory.limit_in_bytes=100", "memory.max=100"),
            (swap(Some(5), true), "memory.memsw.limit_in_bytes=105?", "memory.swap.max=5?"),
            (swap(None, false), "memory.memsw.limit_in_bytes=-1", "memory.swap.max=max"),
            (Setting::CpuShares(2), "cpu.shares=2", "cpu.weight=1"),
            (Setting::CpuShares(1024), "cpu.shares=1024", "cpu.weight=39"),
            (Setting::CpuShares(262_144), "cpu.shares=262144", "cpu.weight=10000"),
            (time(Some(50), 100), "cpu.cfs_period_us=100 cpu.cfs_quota_us=50", "cpu.max=50 100"),
            (time(None, 9), "cpu.cfs_period_us=9 cpu.cfs_quota_us=-1", "cpu.max=max 9"),
            (Setting::Cpus("0-1".into()), "cpuset.cpus=0-1", "cpuset.cpus=0-1"),
            (Setting::Nodes("0".into()), "cpuset.mems=0", "cpuset.mems=0"),
            (Setting::Processes(7), "pids.max=7", "pids.max=7"),
        ] {
            assert_eq!(text(&setting, Version::V1), v1);
            assert_eq!(text(&setting, Version::V2), v2);
        }
    }
}
