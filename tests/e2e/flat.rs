//! A step costs what it costs, however much is in the store.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use rgraph_tests::{BASE, Case, need, setting, shout};

/// Calls that a build of one step makes, with all its processes, by name; without those that wait, whose number is
/// chance.
fn calls(case: &Case, step: &str) -> BTreeMap<String, u64> {
    case.dockerfile(&format!("FROM BASE\nRUN echo {step} > /f\n"));
    let table = case.out("calls");
    let context = case.context().display().to_string();
    let build = case.command(&["build", "--progress", "quiet", "--network", "none", &context]);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-c", "-o"]).arg(&table).arg(build.get_program()).args(build.get_args());
    for (name, value) in build.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    let ran = traced.current_dir(case.dir()).stdin(Stdio::null()).output().expect("strace");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let table = fs::read_to_string(table).expect("a table");
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.last()?.to_string(), words.get(3)?.parse().ok()?))
    };
    // Those that threads wait with; and pages of the index, of which a large store has more.
    let chance = ["futex", "poll", "ppoll", "sched_yield", "restart_syscall", "pread64", "total"];
    let mut calls: BTreeMap<String, u64> = table.lines().filter_map(row).collect();
    calls.retain(|name, _| !chance.contains(&name.as_str()));
    calls
}

/// `RGRAPH_SNAPSHOTS` says how many.
#[test]
fn a_step_makes_the_same_calls_in_a_large_store() {
    need!(Root, Tool("strace"));
    let case = Case::with_base();
    case.file("f", "f");
    if Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .status()
        .map_or(true, |s| !s.success())
    {
        return shout("calls of a step: nothing can be traced here");
    }
    calls(&case, "warm");
    let before = calls(&case, "small");
    let stages = setting("RGRAPH_SNAPSHOTS", 500).div_ceil(100);
    let layers: String = (0..100).map(|n| format!("COPY f /{n}\n")).collect();
    let names = (0..stages).map(|n| format!("FROM scratch AS s{n}\nCOPY f /s{n}\n{layers}"));
    let copies = (0..stages).map(|n| format!("COPY --from=s{n} /0 /{n}\n"));
    let last = copies.take(100).collect::<String>();
    case.file("Dockerfile", format!("{}FROM {BASE}\n{last}", names.collect::<String>()));
    case.build(&["--network", "none"]).ok();
    let after = calls(&case, "large");
    let sum = |calls: &BTreeMap<String, u64>| calls.values().sum::<u64>();
    eprintln!("{} calls, and {} beside {} snapshots", sum(&before), sum(&after), stages * 101);
    // Nothing is looked at once for each snapshot.
    assert!(sum(&after) < sum(&before) * 11 / 10, "{before:?}\n{after:?}");
}
