//! Limits of all processes of a step together.

use rgraph_ir::request::{CpuTime, MemoryLimit, Processes, Resources, SwapLimit};

use super::error::OptionsError;
use super::size::parse_size;
use crate::args::ResourceArgs;

/// Docker's least, bytes: with less no program starts.
const LEAST_MEMORY: u64 = 6 << 20;
/// The usual period of processor time, and its bounds in the kernel, microseconds.
const PERIOD: u64 = 100_000;
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The least share of a period, microseconds.
const LEAST_QUOTA: u64 = 1_000;

/// Reads `--memory` and what belongs to it; `--resource NAME=VALUE` is another way to write them.
pub fn resources(raw: &ResourceArgs) -> Result<Resources, OptionsError> {
    let mut raw = raw.clone();
    for line in std::mem::take(&mut raw.resource) {
        for field in fields(&line) {
            let bad = |why: &str| OptionsError::value("--resource", &line, why);
            let (name, value) = field.split_once('=').ok_or_else(|| bad("expected NAME=VALUE"))?;
            let slot = match name {
                "memory" => &mut raw.memory,
                "memory-swap" => &mut raw.memory_swap,
                "cpu-shares" => &mut raw.cpu_shares,
                "cpu-period" => &mut raw.cpu_period,
                "cpu-quota" => &mut raw.cpu_quota,
                "cpuset-cpus" => &mut raw.cpuset_cpus,
                "cpuset-mems" => &mut raw.cpuset_mems,
                _ => return Err(OptionsError::word("--resource", name, "resource", &NAMES)),
            };
            *slot = Some(value.to_owned());
        }
    }
    let number = |flag: &'static str, text: &Option<String>| -> Result<Option<i64>, OptionsError> {
        let bad = |t: &str| OptionsError::value(flag, t, "expected a whole number");
        text.as_deref().map(|t| t.parse().map_err(|_| bad(t))).transpose()
    };
    let list = |flag: &'static str, text: &Option<String>| match text.as_deref() {
        None | Some("") => Ok(None),
        Some(t) if is_list(t) => Ok(Some(t.to_owned())),
        Some(t) => Err(OptionsError::value(flag, t, "expected numbers and ranges: 0-2,4")),
    };
    Ok(Resources {
        memory: memory(&raw)?,
        // 0 is what Docker writes for "the default", here and below.
        cpu_shares: match number("--cpu-shares", &raw.cpu_shares)? {
            None | Some(0) => None,
            Some(n @ 2..=262_144) => Some(n.unsigned_abs()),
            Some(n) => {
                let n = n.to_string();
                return Err(OptionsError::value("--cpu-shares", &n, "expected 2 to 262144"));
            }
        },
        cpu_time: cpu_time(
            raw.cpus.as_deref(),
            number("--cpu-quota", &raw.cpu_quota)?,
            number("--cpu-period", &raw.cpu_period)?,
        )?,
        cpuset_cpus: list("--cpuset-cpus", &raw.cpuset_cpus)?,
        cpuset_mems: list("--cpuset-mems", &raw.cpuset_mems)?,
        pids: match number("--pids-limit", &raw.pids_limit)? {
            None => Processes::Usual,
            Some(-1 | 0) => Processes::Unlimited,
            Some(n @ 1..) => Processes::AtMost(n.unsigned_abs()),
            Some(n) => {
                let why = "expected a number, or -1 for no limit";
                return Err(OptionsError::value("--pids-limit", &n.to_string(), why));
            }
        },
    })
}

const NAMES: [&str; 7] = [
    "memory",
    "memory-swap",
    "cpu-shares",
    "cpu-period",
    "cpu-quota",
    "cpuset-cpus",
    "cpuset-mems",
];

/// Splits at commas, but `cpuset-cpus=0,2` stays whole: a part without a name belongs to the last.
fn fields(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for part in line.split(',') {
        match out.last_mut() {
            Some(last) if !part.contains('=') => {
                last.push(',');
                last.push_str(part);
            }
            _ => out.push(part.to_owned()),
        }
    }
    out
}

fn memory(raw: &ResourceArgs) -> Result<Option<MemoryLimit>, OptionsError> {
    let size = |flag: &'static str, text: &str| {
        parse_size(text).map_err(|why| OptionsError::value(flag, text, why))
    };
    let bytes = match raw.memory.as_deref() {
        None => None,
        Some(text) => match size("--memory", text)? {
            0 => None,
            n if n < LEAST_MEMORY => {
                return Err(OptionsError::value("--memory", text, "the least is 6m"));
            }
            n => Some(n),
        },
    };
    let swap = match raw.memory_swap.as_deref() {
        None | Some("" | "0") => SwapLimit::Usual,
        Some("-1") => SwapLimit::Unlimited,
        Some(text) => {
            let total = size("--memory-swap", text)?;
            let bad = |why| OptionsError::value("--memory-swap", text, why);
            let bytes = bytes.ok_or_else(|| bad("it needs --memory"))?;
            let beside = total.checked_sub(bytes);
            let why = "it counts memory and swap together, so it is not below --memory";
            SwapLimit::Bytes(beside.ok_or_else(|| bad(why))?)
        }
    };
    match (bytes, swap) {
        (None, SwapLimit::Unlimited) => {
            Err(OptionsError::value("--memory-swap", "-1", "it needs --memory"))
        }
        (bytes, swap) => Ok(bytes.map(|bytes| MemoryLimit { bytes, swap })),
    }
}

fn cpu_time(
    cpus: Option<&str>,
    quota: Option<i64>,
    period: Option<i64>,
) -> Result<Option<CpuTime>, OptionsError> {
    let period = match period {
        None | Some(0) => None,
        Some(n) => {
            let fits = u64::try_from(n).ok().filter(|n| PERIODS.contains(n));
            let why = "expected 1000 to 1000000 microseconds";
            Some(fits.ok_or_else(|| OptionsError::value("--cpu-period", &n.to_string(), why))?)
        }
    };
    let quota = match quota {
        None | Some(0 | -1) => None,
        Some(n) => {
            let fits = u64::try_from(n).ok().filter(|n| *n >= LEAST_QUOTA);
            let why = "expected at least 1000 microseconds, or -1 for no limit";
            Some(fits.ok_or_else(|| OptionsError::value("--cpu-quota", &n.to_string(), why))?)
        }
    };
    let Some(text) = cpus else {
        let given = quota.is_some() || period.is_some();
        return Ok(given.then_some(CpuTime { quota, period: period.unwrap_or(PERIOD) }));
    };
    let bad = |why: &str| OptionsError::value("--cpus", text, why);
    if quota.is_some() || period.is_some() {
        return Err(bad("--cpu-quota and --cpu-period say the same in another way: give one"));
    }
    let number: f64 = text.parse().map_err(|_| bad("expected a number such as 1.5"))?;
    if number == 0.0 {
        return Ok(None);
    }
    if !(0.01..=100_000.0).contains(&number) {
        return Err(bad("expected at least 0.01"));
    }
    // In range, so the float fits.
    Ok(Some(CpuTime { quota: Some((number * PERIOD as f64).round() as u64), period: PERIOD }))
}

/// `0-2,4`.
fn is_list(text: &str) -> bool {
    let number = |t: &str| t.parse::<u32>().ok();
    text.split(',').all(|part| match part.split_once('-') {
        Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
        None => number(part).is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(words: &[(&str, &str)]) -> ResourceArgs {
        let mut raw = ResourceArgs::default();
        for (name, value) in words {
            let value = (*value).to_owned();
            match *name {
                "memory" => raw.memory = Some(value),
                "memory-swap" => raw.memory_swap = Some(value),
                "cpus" => raw.cpus = Some(value),
                "cpu-shares" => raw.cpu_shares = Some(value),
                "cpu-period" => raw.cpu_period = Some(value),
                "cpu-quota" => raw.cpu_quota = Some(value),
                "cpuset-cpus" => raw.cpuset_cpus = Some(value),
                "cpuset-mems" => raw.cpuset_mems = Some(value),
                "pids-limit" => raw.pids_limit = Some(value),
                _ => raw.resource.push(value),
            }
        }
        raw
    }

    #[test]
    fn values() {
        let none = Resources::default;
        let memory =
            |bytes, swap| Resources { memory: Some(MemoryLimit { bytes, swap }), ..none() };
        let time =
            |quota, period| Resources { cpu_time: Some(CpuTime { quota, period }), ..none() };
        let m = 1 << 20;
        for (words, want) in [
            (&[][..], none()),
            (&[("memory", "64m")], memory(64 * m, SwapLimit::Usual)),
            (&[("memory", "0")], none()),
            (&[("memory", "64m"), ("memory-swap", "64m")], memory(64 * m, SwapLimit::Bytes(0))),
            (&[("memory", "64m"), ("memory-swap", "-1")], memory(64 * m, SwapLimit::Unlimited)),
            (&[("cpus", "1.5")], time(Some(150_000), PERIOD)),
            (&[("cpus", "0")], none()),
            (&[("cpu-quota", "5000")], time(Some(5_000), PERIOD)),
            (&[("cpu-quota", "-1"), ("cpu-period", "2000")], time(None, 2_000)),
            (&[("cpu-shares", "512")], Resources { cpu_shares: Some(512), ..none() }),
            (&[("pids-limit", "-1")], Resources { pids: Processes::Unlimited, ..none() }),
            (&[("pids-limit", "100")], Resources { pids: Processes::AtMost(100), ..none() }),
            (
                &[("resource", "memory=6m,cpuset-cpus=0,2-3,cpu-shares=7")],
                Resources {
                    cpuset_cpus: Some("0,2-3".into()),
                    cpu_shares: Some(7),
                    ..memory(6 * m, SwapLimit::Usual)
                },
            ),
        ] {
            assert_eq!(resources(&raw(words)).unwrap(), want, "{words:?}");
        }
    }

    #[test]
    fn refusals() {
        for words in [
            &[("memory", "lots")][..],
            &[("memory", "5m")],
            &[("memory-swap", "1g")],
            &[("memory-swap", "-1")],
            &[("memory", "64m"), ("memory-swap", "32m")],
            &[("cpus", "many")],
            &[("cpus", "-1")],
            &[("cpus", "NaN")],
            &[("cpus", "1"), ("cpu-quota", "5000")],
            &[("cpu-period", "1")],
            &[("cpu-quota", "1")],
            &[("cpu-shares", "1")],
            &[("cpuset-cpus", "0-")],
            &[("cpuset-cpus", "3-1")],
            &[("cpuset-mems", "../x")],
            &[("pids-limit", "-2")],
            &[("resource", "memory")],
            &[("resource", "memroy=1g")],
        ] {
            let e = resources(&raw(words)).unwrap_err();
            assert!(e.is_usage(), "{words:?}: {e}");
        }
    }
}
