//! Containers whose commands, supervisors and first processes are killed at random points: `ps` tells the
//! truth, the next command works, and nothing stays behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rgraph_tests::{
    BASE, Case, Ids, OwnGroups, has_process, mounts_below, need, setting, wait_until,
};
use rustix::process::Signal;

use crate::detached::{first, kill, status, supervisor, text};
use crate::soundness::random::Random;

/// How long what was killed may take to die, on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(20);

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Run,
    RunAndRemove,
    Start,
    Stop,
    Restart,
    Remove,
    Exec,
    Supervisor,
    First,
}

const ALL: [Victim; 9] = [
    Victim::Run,
    Victim::RunAndRemove,
    Victim::Start,
    Victim::Stop,
    Victim::Restart,
    Victim::Remove,
    Victim::Exec,
    Victim::Supervisor,
    Victim::First,
];

struct Killing {
    case: Case,
    random: Random,
    /// Seconds that nobody else's container sleeps.
    marker: u32,
    flags: Vec<String>,
    /// The longest that a command has taken.
    whole: Duration,
}

impl Killing {
    fn flags(&self) -> Vec<&str> {
        self.flags.iter().map(String::as_str).collect()
    }

    /// A command that makes a container and sleeps in it.
    fn run(&self, name: &str, more: &[&str]) -> Vec<String> {
        let sleep = format!("sleep {0} & exec sleep {0}", self.marker);
        let mut all = vec!["run", "--name", name];
        all.extend(self.flags());
        all.extend(more);
        all.extend([BASE, "sh", "-c", &sleep]);
        all.into_iter().map(str::to_owned).collect()
    }

    fn detached(&self, name: &str) -> String {
        let run = self.case.rgraph(&self.run(name, &["-d"])).ok();
        run.text().trim().to_owned()
    }

    /// Kills a command at some moment of its life.
    fn killed(&mut self, args: &[impl AsRef<std::ffi::OsStr>]) {
        let most = usize::try_from(self.whole.as_micros()).expect("short");
        let pause = Duration::from_micros(self.random.below(most * 11 / 10) as u64);
        let run = self.case.start(args);
        std::thread::sleep(pause);
        run.signal(Signal::KILL);
        run.finish();
    }

    fn strike(&mut self, victim: Victim, name: &str) {
        let id = match victim {
            Victim::Run | Victim::RunAndRemove => String::new(),
            _ => self.detached(name),
        };
        match victim {
            Victim::Run => self.killed(&self.run(name, &["-d"])),
            Victim::RunAndRemove => self.killed(&self.run(name, &["--rm"])),
            Victim::Start => {
                text(&self.case, &["kill", name]);
                self.killed(&["start", name]);
            }
            Victim::Stop => self.killed(&["stop", "-t", "0", name]),
            Victim::Restart => self.killed(&["restart", "-t", "0", name]),
            Victim::Remove => self.killed(&["rm", "-f", name]),
            Victim::Exec => {
                let sleep = self.marker.to_string();
                self.killed(&["exec", name, "sleep", &sleep]);
            }
            Victim::Supervisor => {
                let keeper = supervisor(&self.case, &id);
                // Somebody talks to it meanwhile.
                let run = self.case.start(&["exec", name, "sh", "-c", "echo x; sleep 0.05"]);
                std::thread::sleep(Duration::from_micros(self.random.below(150_000) as u64));
                kill(keeper);
                run.finish();
            }
            Victim::First => kill(first(&self.case, &id)),
        }
    }

    /// Each container that is said to run takes a program, and no other has a process.
    fn tells_the_truth(&self) -> bool {
        let all = text(&self.case, &["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
        let runs = |line: &str| line.ends_with(" running");
        let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let takes = |line: &&str| self.case.rgraph(&["exec", &name(line), "true"]).code == 0;
        let sleeps = format!("sleep\0{}", self.marker);
        all.lines().filter(|l| runs(l)).all(|l| takes(&l))
            && has_process(&sleeps) == all.lines().any(runs)
    }

    /// The processes of this binary that run, whatever they are.
    fn own_processes(&self) -> Vec<String> {
        let own = |pid: &PathBuf| {
            fs::read_link(pid.join("exe")).is_ok_and(|exe| exe.starts_with(self.case.dir()))
        };
        let all = fs::read_dir("/proc").expect("it is mounted").flatten().map(|e| e.path());
        let line = |pid: PathBuf| fs::read(pid.join("cmdline")).unwrap_or_default();
        all.filter(own).map(|pid| String::from_utf8_lossy(&line(pid)).into_owned()).collect()
    }
}

/// Orphans of a supervisor: programs that connect networks.
fn orphaned_pastas() -> usize {
    let all = fs::read_dir("/proc").expect("it is mounted").flatten();
    let is = |pid: &Path| {
        let status = fs::read_to_string(pid.join("status")).unwrap_or_default();
        let line = fs::read(pid.join("cmdline")).unwrap_or_default();
        status.contains("\nPPid:\t1\n")
            && String::from_utf8_lossy(&line).contains("/tmp/rgraph-netns")
    };
    all.filter(|e| is(&e.path())).count()
}

/// How often: `RGRAPH_KILLS`; which: `RGRAPH_KILLS_SEED`.
fn kill_in(case: Case, cgroups: bool) {
    let case = case.with_own_binary();
    case.import_base(BASE);
    let groups = OwnGroups::new();
    let mut flags = vec!["-p".to_owned(), "127.0.0.1::80".to_owned()];
    if cgroups {
        flags.extend(["--pids-limit=50".into(), groups.flag()]);
    }
    let random = Random(setting("RGRAPH_KILLS_SEED", 1));
    let marker = 20_000_000 + std::process::id();
    let whole = Duration::ZERO;
    let mut k = Killing { case, random, marker, flags, whole };
    // As long as one takes, and what stays of it: the first prepares the network.
    for _ in 0..2 {
        let began = Instant::now();
        k.detached("first");
        k.whole = began.elapsed();
        text(&k.case, &["rm", "-f", "first"]);
    }
    let files = || -> Vec<String> { k.case.state().into_keys().collect() };
    let (before, pastas) = (files(), orphaned_pastas());
    for n in 0..setting("RGRAPH_KILLS", 9) {
        // Each once before any comes again.
        let turn = usize::try_from(n).expect("small");
        let victim = if turn < ALL.len() { ALL[turn] } else { ALL[k.random.below(ALL.len())] };
        let name = format!("k{n}");
        k.strike(victim, &name);
        let at = format!("kill {n} of {victim:?}");
        // Before anything has settled.
        let now = status(&k.case, &name);
        let again = k.random.chance(2);
        if again && !now.is_empty() && victim != Victim::RunAndRemove {
            // One whose end nobody has noticed yet runs already, and then has ended.
            let runs = || {
                let run = k.case.rgraph(&["start", &name]);
                // It may have been removed, by who was killed right after.
                let gone = run.code == 1 && run.stderr.contains("no such container");
                assert!(run.code == 0 || gone, "{at}: {}", run.stderr);
                gone || status(&k.case, &name).starts_with("running|")
            };
            assert!(wait_until(SOON, runs), "{at}: {}", status(&k.case, &name));
        }
        assert!(wait_until(SOON, || k.tells_the_truth()), "{at}: {}", text(&k.case, &["ps", "-a"]));
        case_is_usable(&k, &name, &at);
        let left = || k.own_processes();
        assert!(wait_until(SOON, || left().is_empty()), "{at}: {:?}", left());
        assert!(wait_until(SOON, || groups.all().is_empty()), "{at}: {:?}", groups.all());
        assert_eq!(mounts_below(&k.case.root()), Vec::<String>::new(), "{at}");
    }
    // What a killed one left half made goes with the next.
    k.detached("last");
    text(&k.case, &["rm", "-f", "last"]);
    let folders = fs::read_dir(k.case.root().join("containers")).expect("a folder");
    let folders: Vec<_> = folders.flatten().map(|e| e.file_name()).collect();
    assert!(folders.is_empty(), "{folders:?}");
    let files = || -> Vec<String> { k.case.state().into_keys().collect() };
    assert_eq!(files(), before);
    assert!(wait_until(SOON, || orphaned_pastas() <= pastas), "a pasta lives on");
    let locks = fs::read_dir(k.case.root().join("locks/keys")).expect("a folder").count();
    eprintln!("{locks} files of locks are left by killed holders");
}

/// Its name is free after `rm -f`, and is taken again.
fn case_is_usable(k: &Killing, name: &str, at: &str) {
    let removed = k.case.rgraph(&["rm", "-f", name]);
    assert_eq!(removed.code, 0, "{at}: {}", removed.stderr);
    assert_eq!(status(&k.case, name), "", "{at}");
    let run = k.case.rgraph(&k.run(name, &["-d"]));
    assert_eq!(run.code, 0, "{at}: {}", run.stderr);
    assert!(status(&k.case, name).starts_with("running|"), "{at}");
    let removed = k.case.rgraph(&["rm", "-f", name]);
    assert_eq!(removed.code, 0, "{at}: {}", removed.stderr);
    assert_eq!(text(&k.case, &["ps", "-aq"]), "", "{at}");
}

#[test]
fn whatever_of_roots_is_killed_nothing_stays() {
    need!(Root);
    let case = Case::new();
    let doctor = case.rgraph(&["doctor"]).ok();
    let groups = doctor.text().lines().any(|l| l.starts_with("cgroups") && l.contains(" ok "));
    kill_in(case, groups);
}

#[test]
fn whatever_of_a_users_is_killed_nothing_stays() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    let case = Case::new().of_user(Ids::Range);
    case.open_tun();
    kill_in(case, false);
}
