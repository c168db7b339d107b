//! Many steps in a row leave nothing: descriptors, mounts, groups, namespaces, memory, files.
//! `RGRAPH_SOAK_STEPS` makes it longer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rgraph_runtime::sandbox::*;
use rgraph_solver::cancel::CancelToken;

use crate::image::*;

/// What may not grow.
fn now(runner: &Runner, image: &Image) -> BTreeMap<String, usize> {
    let entries = |p: &Path| fs::read_dir(p).map_or(0, |d| d.count());
    let lines = |p: &str| fs::read_to_string(p).map_or(0, |t| t.lines().count());
    let mut out = BTreeMap::new();
    let mut family = vec![std::process::id().to_string(), runner.id().to_string()];
    let children = format!("/proc/{0}/task/{0}/children", runner.id());
    let children = fs::read_to_string(children).unwrap_or_default();
    family.extend(children.split_whitespace().map(str::to_owned));
    for (n, pid) in family.iter().enumerate() {
        out.insert(
            format!("descriptors of process {n}"),
            entries(Path::new(&format!("/proc/{pid}/fd"))),
        );
        out.insert(format!("mounts of process {n}"), lines(&format!("/proc/{pid}/mountinfo")));
    }
    out.insert("processes of the runner".into(), family.len());
    out.insert("groups".into(), groups(Path::new("/sys/fs/cgroup"), runner.id()));
    out.insert("files of the image".into(), entries(&image.at("l")) + entries(&image.at("l/bin")));
    out.insert("changes".into(), image.changes().len());
    out
}

/// Groups that a runner made.
fn groups(dir: &Path, runner: i32) -> usize {
    let prefix = format!("{runner}-");
    let dirs = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = dirs.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let own = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with(&prefix);
    dirs.map(|e| usize::from(own(&e)) + groups(&e.path(), runner)).sum()
}

/// Resident memory of the runner, KiB.
fn memory(runner: &Runner) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", runner.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

fn step(runner: &Runner, image: &Image, n: usize, network: bool) {
    let mut spec = image.sh("echo out; echo err >&2; echo x > /tmpfs/x; sleep 0 & exit 3");
    spec.mounts = vec![
        at("/tmpfs", SandboxMountKind::Tmpfs { size: 0 }),
        at("/deep/er/file", bind(MountSource::Path(image.at("l/bin")), "/busybox", true)),
    ];
    spec.network = match n % 3 {
        0 if network => Network::Private,
        1 => Network::None,
        _ => Network::Host,
    };
    if n.is_multiple_of(5) {
        spec.limits.settings = vec![Setting::Processes(50)];
    }
    if n.is_multiple_of(7) {
        // Killed wherever it is; its changes are nobody's.
        let image = Image::new();
        let (cancel, killed) = (CancelToken::new(), image.sh("sleep 100"));
        spec.rootfs = killed.rootfs;
        cancel.cancel();
        follow(launch(runner, &spec, vec![]), &cancel);
        return;
    }
    let ran = run(runner, &spec);
    assert_eq!((ran.outcome, ran.out.as_str()), (Outcome::Exited(3), "out\n"), "{}", ran.err);
}

/// A network that is free for the next step is two descriptors, and there may be one or none.
fn grown(before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>) -> bool {
    let slack = |what: &str| if what.starts_with("descriptors") { 4 } else { 0 };
    before.len() != after.len() || after.iter().any(|(what, n)| *n > before[what] + slack(what))
}

#[expect(clippy::disallowed_methods, reason = "how whoever starts it says how long it runs")]
pub fn many_steps_leave_nothing(_: &Runner) {
    let steps = std::env::var("RGRAPH_SOAK_STEPS").map_or(150, |n| n.parse().expect("a number"));
    // One of its own: the other tests' are no part of this.
    let runner = Runner::start().unwrap();
    let network = runner.connect().unwrap().is_ok();
    if probe_groups().is_err() {
        println!("\n*** SKIPPED, NOT TESTED: no control groups for the long run ***\n");
        return;
    }
    let image = Image::new();
    let warm = 60;
    for n in 0..warm {
        step(&runner, &image, n, network);
    }
    let (before, least) = (now(&runner, &image), memory(&runner));
    let start = Instant::now();
    for n in warm..warm + steps {
        step(&runner, &image, n, network);
    }
    println!("{steps} steps in {:?}, {:?} each", start.elapsed(), start.elapsed() / steps as u32);
    // The kernel takes links and namespaces away when it has time.
    let soon = Instant::now() + Duration::from_secs(20);
    while grown(&before, &now(&runner, &image)) && Instant::now() < soon {
        std::thread::sleep(Duration::from_millis(20));
    }
    let after = now(&runner, &image);
    assert!(!grown(&before, &after), "from {before:#?} to {after:#?}");
    let most = memory(&runner);
    assert!(most <= least + 1024, "the runner grew from {least} to {most} KiB");
}

/// Page faults of this process.
fn faults() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// Whoever starts the runner and its steps may hold any amount of memory: none of it is copied, nor prepared for
/// being copied, which the next write to each page would tell.
pub fn a_large_caller_costs_nothing(_: &Runner) {
    const SIZE: usize = 1 << 30;
    const PAGE: usize = 4096;
    let touch = |memory: &mut [u8]| memory.iter_mut().step_by(PAGE).for_each(|b| *b += 1);
    let image = Image::new();
    let steps = |runner: &Runner| {
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(run(runner, &image.spec(&["true"])).outcome, Outcome::Exited(0));
        }
        start.elapsed() / 20
    };
    let small = steps(&Runner::start().unwrap());
    let mut memory = vec![1u8; SIZE];
    touch(&mut memory);
    let runner = Runner::start().unwrap();
    let large = steps(&runner);
    let before = faults();
    touch(&mut memory);
    let touched = faults() - before;
    println!("a step: {small:?}, and {large:?} beside 1 GiB");
    assert!(touched < 100, "{touched} faults");
    assert_eq!(std::hint::black_box(memory)[SIZE - PAGE], 3);
}
