//! What a container uses: of the machine's processors and memory, of its network, of disks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::processes::{Process, found, read, ticks};
use super::{ContainerError, Record, State, at};
use crate::sandbox::{Setting, memory_of};

/// What a container has used until now, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Processor time of all its processes, and of those that were waited for.
    pub cpu: Duration,
    /// Memory, bytes: what its control group holds, or else its processes together, each page shared by
    /// several counted once.
    pub memory: u64,
    /// What it may have of memory, bytes: its limit, or all that the machine has.
    pub memory_limit: u64,
    /// Bytes that came by its network; with the host's: nothing.
    pub received: u64,
    /// Bytes that went by its network.
    pub sent: u64,
    /// Bytes from disks.
    pub read: u64,
    /// Bytes to disks.
    pub written: u64,
    /// Its processes and threads.
    pub threads: u64,
}

/// What a container uses now.
///
/// # Errors
/// As [`processes`].
pub fn usage(record: &Record) -> Result<Usage, ContainerError> {
    let all = found(record, read)?;
    let State::Running { pid, .. } = record.state else { return Ok(Usage::default()) };
    let mut out = Usage { memory_limit: limit(record)?, ..Usage::default() };
    let mut used: u64 = 0;
    for Process { used: own, used_by_ended, threads, .. } in &all {
        used = used.saturating_add(*own).saturating_add(*used_by_ended);
        out.threads += threads;
    }
    out.cpu = Duration::from_millis(used.saturating_mul(1000) / ticks());
    out.memory = memory_of(pid).unwrap_or_else(|| all.iter().map(|p| held(p.pid)).sum());
    for p in &all {
        let io = text(p.pid, "io");
        out.read += field(&io, "read_bytes:").unwrap_or(0);
        out.written += field(&io, "write_bytes:").unwrap_or(0);
    }
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if network(&pid.to_string()) != network("self") {
        (out.received, out.sent) = traffic(&text(pid, "net/dev"));
    }
    Ok(out)
}

fn text(pid: i32, name: &str) -> String {
    // One that has just ended uses nothing.
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// The first number behind a word at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Memory of a process, bytes; its part of pages that it shares.
fn held(pid: i32) -> u64 {
    field(&text(pid, "smaps_rollup"), "Pss:").unwrap_or(0) * 1024
}

fn limit(record: &Record) -> Result<u64, ContainerError> {
    let path = Path::new("/proc/meminfo");
    let all = fs::read_to_string(path).map_err(at("read", path))?;
    let all = field(&all, "MemTotal:").unwrap_or(0) * 1024;
    let own = record.settings.limits.settings.iter().find_map(|s| match s {
        Setting::Memory(bytes) => Some(*bytes),
        _ => None,
    });
    Ok(own.map_or(all, |own| own.min(all)))
}

/// Bytes in and out of all interfaces but loopback, of `/proc/PID/net/dev`.
fn traffic(text: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters.split_whitespace().flat_map(str::parse).collect();
        sum.0 += counters.first().copied().unwrap_or(0);
        sum.1 += counters.get(8).copied().unwrap_or(0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces() {
        let text = "Inter-|   Receive                    |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes ...\n    \
                    lo: 500 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0\n  \
                    eth0: 1200 9 0 0 0 0 0 0 34 7 0 0 0 0 0 0\n  eth1:1 0 0 0 0 0 0 0 2 0\n";
        assert_eq!(traffic(text), (1201, 36));
        assert_eq!(traffic(""), (0, 0));
    }

    #[test]
    fn fields() {
        let text = "Rss:  900 kB\nPss:   12 kB\nPss_Dirty: 3 kB\n";
        assert_eq!(field(text, "Pss:"), Some(12));
        assert_eq!(field(text, "Swap:"), None);
        assert!(held(std::process::id().cast_signed()) > 0);
    }
}
