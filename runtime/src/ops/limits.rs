//! The limits of a step, from what the caller asks for to what the sandbox is told.

use rgraph_ir::request::{MemoryLimit, Processes, Resources, SwapLimit};
use rgraph_ir::{limits, op};

use crate::sandbox::{ExtraHost, Hit, Limits, Setting, Ulimit};

/// What the sandbox is told.
pub fn of_step(resources: &Resources, parent: Option<&str>) -> Limits {
    let Resources { memory, cpu_shares, cpu_time, cpuset_cpus, cpuset_mems, pids } = resources;
    let mut settings = Vec::new();
    if let Some(MemoryLimit { bytes, swap }) = *memory {
        let (swap, optional) = match swap {
            SwapLimit::Usual => (Some(bytes), true),
            SwapLimit::Bytes(n) => (Some(n), false),
            SwapLimit::Unlimited => (None, true),
        };
        // In this order: the kernel keeps the sum at or above the limit of memory.
        settings.push(Setting::Memory(bytes));
        settings.push(Setting::Swap { memory: bytes, swap, optional });
    }
    settings.extend(cpu_shares.map(Setting::CpuShares));
    settings.extend(cpu_time.map(|t| Setting::CpuTime { quota: t.quota, period: t.period }));
    settings.extend(cpuset_cpus.clone().map(Setting::Cpus));
    settings.extend(cpuset_mems.clone().map(Setting::Nodes));
    if let Processes::AtMost(n) = *pids {
        settings.push(Setting::Processes(n));
    }
    Limits { parent: parent.map(str::to_owned), settings }
}

/// What a step may have of processes without a control group that counts them.
pub fn processes(resources: &Resources) -> Option<u32> {
    (resources.pids == Processes::Usual).then_some(limits::STEP_PROCESSES)
}

/// Limits of each process, for the sandbox.
pub fn of_each(ulimits: &[op::Ulimit]) -> Vec<Ulimit> {
    let one = |u: &op::Ulimit| Ulimit { name: u.name.clone(), soft: u.soft, hard: u.hard };
    ulimits.iter().map(one).collect()
}

/// Lines of `/etc/hosts`, for the sandbox.
pub fn hosts(lines: &[op::HostIp]) -> Vec<ExtraHost> {
    lines.iter().map(|h| ExtraHost { host: h.host.clone(), ip: h.ip.clone() }).collect()
}

/// Says what a step ran into, with the limit and its flag.
pub fn words(hit: Hit, resources: &Resources) -> String {
    match (hit, resources.memory, resources.pids) {
        (Hit::Memory, Some(limit), _) => {
            format!("out of memory: the limit is {} (--memory)", size(limit.bytes))
        }
        (Hit::Memory, None, _) => "out of memory: the limit is that of --cgroup-parent".to_owned(),
        (Hit::Processes, _, Processes::AtMost(n)) => {
            format!("out of processes: the limit is {n} (--pids-limit)")
        }
        (Hit::Processes, _, Processes::Usual | Processes::Unlimited) => {
            "out of processes: the limit is that of --cgroup-parent".to_owned()
        }
    }
}

/// Bytes as the flag takes them, when that is shorter.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "g"), (20, "m"), (10, "k")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_the_limit_and_the_flag() {
        let limit = |bytes| Some(MemoryLimit { bytes, swap: SwapLimit::Usual });
        let (usual, four) = (Processes::Usual, Processes::AtMost(4));
        for (hit, memory, pids, want) in [
            (Hit::Memory, limit(64 << 20), usual, "out of memory: the limit is 64m (--memory)"),
            (
                Hit::Memory,
                limit(7_000_001),
                usual,
                "out of memory: the limit is 7000001 bytes (--memory)",
            ),
            (Hit::Memory, None, four, "out of memory: the limit is that of --cgroup-parent"),
            (Hit::Processes, None, four, "out of processes: the limit is 4 (--pids-limit)"),
            (
                Hit::Processes,
                limit(1 << 30),
                usual,
                "out of processes: the limit is that of --cgroup-parent",
            ),
        ] {
            assert_eq!(words(hit, &Resources { memory, pids, ..Resources::default() }), want);
        }
        assert!(of_step(&Resources::default(), None).is_none());
        let of = |pids| Resources { pids, ..Resources::default() };
        assert_eq!(processes(&of(usual)), Some(4096));
        assert_eq!(processes(&of(Processes::Unlimited)), None);
        assert_eq!((processes(&of(four)), of_step(&of(four), None).is_none()), (None, false));
        assert!(!of_step(&Resources::default(), Some("/p")).is_none());
    }
}
