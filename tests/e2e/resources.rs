//! Limits of steps by control groups: kept, named when they are hit, gone with the step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rgraph_tests::{Case, Ids, Run, need, wait_until};
use rustix::process::Signal;

/// Longer than the kernel takes to end a step.
const SOON: Duration = Duration::from_secs(20);

/// Groups below any mounted tree whose path holds `part`.
fn groups(part: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, part: &str, out: &mut Vec<PathBuf>) {
        for e in fs::read_dir(dir).into_iter().flatten().flatten() {
            if e.file_type().is_ok_and(|t| t.is_dir()) {
                if e.path().display().to_string().contains(part) {
                    out.push(e.path());
                }
                walk(&e.path(), part, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), part, &mut out);
    out
}

/// A case, unless this machine has no control groups.
fn case() -> Option<Case> {
    let case = Case::with_base();
    let doctor = case.rgraph(&["doctor"]).ok();
    let line = doctor.text().lines().find(|l| l.starts_with("cgroups")).expect("a line").to_owned();
    let limits = line.split("limits on").nth(1).unwrap_or_default();
    let all = ["memory", "cpu", "cpuset", "pids"];
    if line.contains(" ok ") && all.iter().all(|l| limits.split(&[',', ' ']).any(|w| w == *l)) {
        return Some(case);
    }
    rgraph_tests::shout(&format!("limits, for this machine has not all control groups: {line}"));
    None
}

#[test]
fn the_limit_that_a_step_ran_into_is_named() {
    need!(Root);
    let Some(case) = case() else { return };
    let bomb = "RUN for i in $(seq 40); do sleep 3 & done; wait";
    let memory = "RUN dd if=/dev/zero of=/dev/null bs=200M count=1";
    let inner = "RUN sh -c 'dd if=/dev/zero of=/dev/null bs=200M count=1; exit 7'";
    // The first process of a namespace does not hear signals from within.
    let killed = "RUN sh -c 'kill -9 $$'; exit $?";
    let all: &[&str] = &["--memory", "32m", "--pids-limit", "20"];
    let out_of = "out of ";
    for (step, args, said, not) in [
        (
            memory,
            all,
            &["out of memory: the limit is 32m (--memory)", "exit code: 137"][..],
            "times",
        ),
        (memory, &["--resource", "memory=32m"], &["the limit is 32m (--memory)"], "times"),
        (inner, all, &["out of memory: the limit is 32m (--memory) (exit code: 7)"], "times"),
        (bomb, all, &["out of processes: the limit is 20 (--pids-limit) (exit code:"], "memory"),
        (killed, all, &["exit code: 137"], out_of),
        ("RUN exit 137", all, &["exit code: 137"], out_of),
        ("RUN sleep 60", &["--memory", "32m", "--timeout", "1s"], &["--timeout"], out_of),
    ] {
        case.dockerfile(&format!("FROM BASE\n{step}\n"));
        let run = case.build(args).fails(1, said);
        assert!(!run.stderr.contains(not), "{step}: {}", run.stderr);
    }
    // The step got over it.
    case.dockerfile(&format!("FROM BASE\n{memory} || true\n"));
    let run = case.build(all).ok();
    assert!(run.stderr.contains("out of memory: the limit is 32m"), "{}", run.stderr);
    // A limit changes no key.
    case.build(&["--memory", "64m"]).ok().all_cached();
}

#[test]
fn a_step_has_a_group_of_its_own_while_it_runs() {
    need!(Root);
    let Some(case) = case() else { return };
    let parent = format!("rgraph-test-{}/deep", std::process::id());
    case.dockerfile(
        "FROM BASE\nRUN echo \"be\"gun; cat /proc/self/cgroup | tee /groups; sleep 2\n",
    );
    let args = [
        "--cgroup-parent",
        &format!("/{parent}"),
        "--memory=64m",
        "--memory-swap=64m",
        "--cpus=0.5",
        "--cpu-shares=512",
        "--cpuset-cpus=0",
        "--pids-limit=77",
    ];
    let mut build = case.start(&case.build_args(&args));
    build.wait_for(" begun");
    let made = groups(&format!("{parent}/rgraph/"));
    assert!(!made.is_empty(), "no group");
    let read = |names: &[&str]| {
        let files = names.iter().flat_map(|n| made.iter().map(move |g| g.join(n)));
        let text = files.filter_map(|f| fs::read_to_string(f).ok()).next();
        text.unwrap_or_else(|| panic!("no {names:?} in {made:?}")).trim().to_owned()
    };
    assert_eq!(read(&["memory.limit_in_bytes", "memory.max"]), (64 << 20).to_string());
    assert!(["50000", "50000 100000"].contains(&&*read(&["cpu.cfs_quota_us", "cpu.max"])));
    assert_eq!(read(&["cpuset.cpus"]), "0");
    assert_eq!(read(&["pids.max"]), "77");
    build.finish().ok();
    assert_eq!(groups(&format!("rgraph-test-{}", std::process::id())), Vec::<PathBuf>::new());
    let image = case.image(&args);
    let text = image.read("groups");
    let limited = |l: &&str| ["memory", "pids", "cpuset", "cpu"].iter().any(|c| l.contains(c));
    assert!(text.lines().filter(limited).all(|l| l.ends_with(":/")), "{text}");
}

#[test]
fn killed_builds_leave_no_groups() {
    need!(Root);
    let Some(case) = case() else { return };
    case.dockerfile("FROM BASE\nARG N\nRUN echo \"be\"gun $N; sleep 1000\n");
    let begin = |n: &str| {
        let args = case.build_args(&["--pids-limit=50", "--build-arg", n]);
        let mut build = case.start(&args);
        build.wait_for(" begun");
        let threads = fs::read_dir(format!("/proc/{}/task", build.pid())).expect("it runs");
        let children: String = threads
            .filter_map(|t| fs::read_to_string(t.ok()?.path().join("children")).ok())
            .collect();
        let runner = children.split_whitespace().find(|c| {
            fs::read(format!("/proc/{c}/cmdline")).is_ok_and(|c| c.starts_with(b"rgraph-runner"))
        });
        (build, runner.expect("a runner").to_owned())
    };
    let (build, runner) = begin("N=1");
    let own = format!("/rgraph/{runner}-");
    assert!(!groups(&own).is_empty(), "no group");
    build.signal(Signal::KILL);
    assert!(wait_until(SOON, || groups(&own).is_empty()), "{:?}", groups(&own));

    let (build, runner) = begin("N=2");
    let own = format!("/rgraph/{runner}-");
    let pid = rustix::process::Pid::from_raw(runner.parse().expect("a number")).expect("one");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
    build.finish().fails(1, &["the sandbox runner died"]);
    assert!(!groups(&own).is_empty(), "nothing to sweep");
    // Any later build that runs a step.
    case.dockerfile("FROM BASE\nRUN true\n");
    case.build(&[]).ok();
    assert_eq!(groups(&own), Vec::<PathBuf>::new());
}

#[test]
fn without_control_groups_limits_are_an_error() {
    need!(Root);
    let mut case = Case::with_base();
    case.env("HOME", "/nonexistent");
    case.dockerfile("FROM BASE\nRUN true\n");
    let run = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let inner = case.command(&args);
        let mut c = Command::new("unshare");
        c.args(["--mount", "sh", "-c", "umount -R /sys/fs/cgroup && exec \"$@\"", "sh"])
            .arg(inner.get_program())
            .args(inner.get_args())
            .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdin(Stdio::null());
        let ended = c.output().expect("unshare starts");
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        Run { code: ended.status.code().unwrap_or(-1), stdout: ended.stdout, stderr }
    };
    let build = |more: &[&str]| {
        let args = case.build_args(more);
        run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let said = ["the step cannot have the limits", "this host has no control groups"];
    build(&["--memory", "64m"]).fails(1, &said);
    build(&["--cgroup-parent", "/x"]).fails(1, &said);
    build(&[]).ok();
    let doctor = run(&["doctor"]).ok();
    let line = doctor.text().lines().find(|l| l.starts_with("cgroups")).expect("a line").to_owned();
    assert!(line.contains("missing") && line.contains("no control groups"), "{line}");
    let bad = case.build(&["--no-cache", "--cgroup-parent", "../x"]);
    bad.fails(1, &["`../x` is no control group"]);
}

/// Who asks for no limit has one that is far away, as root and as a user, and may have none. Since Linux 6.14
/// a process namespace can have one.
#[test]
fn processes_are_limited_by_themselves() {
    need!(Root, Kernel((6, 14)), Tool("newuidmap"), Tool("setpriv"));
    let host = fs::read_to_string("/proc/sys/kernel/pid_max").expect("a file of /proc");
    for ids in [None, Some(Ids::Range), Some(Ids::One)] {
        let case = match ids {
            Some(ids) => Case::new().of_user(ids),
            None => Case::new(),
        };
        case.import_base(rgraph_tests::BASE);
        case.dockerfile("FROM BASE\nRUN echo most=$(cat /proc/sys/kernel/pid_max)\n");
        let args = ["--network", "none", "--no-cache"];
        let usual = case.build(&args).ok();
        let none = case.build(&[&args[..], &["--pids-limit", "-1"]].concat()).ok();
        assert!(none.stderr.contains("most=4194304"), "{ids:?}: {}", none.stderr);
        assert!(usual.stderr.contains("most=4097"), "{ids:?}: {}", usual.stderr);
        case.dockerfile(
            "FROM BASE AS bomb\n\
             RUN (i=0; while [ $i -lt 5000 ]; do sleep 1000 & i=$((i+1)); done; echo al''l) \
             || echo stop''ped\n\
             FROM BASE AS other\nRUN i=0; while [ $i -lt 100 ]; do true | cat; i=$((i+1)); done\n\
             FROM BASE\nCOPY --from=bomb /etc/passwd /a\nCOPY --from=other /etc/passwd /b\n",
        );
        let run = case.build(&args).ok();
        let said = |text: &str| run.stderr.lines().any(|l| l.ends_with(text));
        assert!(said(" stopped") && !said(" all"), "{ids:?}: {}", run.stderr);
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/pid_max").expect("it was there"), host);
}
