//! What happens to a container that was made before, and programs run in one.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rgraph_tests::{BASE, Case, OwnGroups, Screen, mounts_below, need, setting, wait_until};

use crate::detached::{detached, first, is_there, kill, status, supervisor, text};

/// Ends on TERM with 5, on USR1 with 6; says when it is ready.
const POLITE: &str = "trap 'echo term; exit 5' TERM; trap 'echo usr1; exit 6' USR1; echo up; \
                      while :; do sleep 0.05; done";

/// Waits until its log holds this.
fn logged(case: &Case, name: &str, what: &str) {
    let there = || case.rgraph(&["logs", name]).ok().text().contains(what);
    assert!(wait_until(Duration::from_secs(20), there), "no `{what}` in the log of {name}");
}

#[test]
fn it_is_stopped_as_its_image_says_and_started_again() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nSTOPSIGNAL SIGUSR1\n");
    case.build(&["-t", "polite"]).ok();
    let args = ["run", "-d", "--network=none", "--name", "usr", "polite", "sh", "-c", POLITE];
    case.rgraph(&args).ok();
    logged(&case, "usr", "up");
    assert_eq!(text(&case, &["stop", "usr"]), "usr\n");
    assert_eq!(text(&case, &["wait", "usr"]), "6\n");
    assert!(status(&case, "usr").starts_with("exited|Exited (6) "), "{}", status(&case, "usr"));
    // Nothing to do is no error.
    assert_eq!(text(&case, &["stop", "usr"]), "usr\n");
    case.rgraph(&["kill", "usr"]).fails(1, &["is not running"]);
    case.rgraph(&["stop", "nobody", "usr"]).fails(1, &["no such container: nobody"]);

    // What it changed is still there.
    detached(&case, &["--name", "again"], &format!("echo x >> /count; wc -l < /count; {POLITE}"));
    logged(&case, "again", "up");
    assert_eq!(text(&case, &["stop", "-s", "TERM", "again"]), "again\n");
    assert_eq!(text(&case, &["start", "again"]), "again\n");
    assert_eq!(text(&case, &["start", "again"]), "again\n");
    logged(&case, "again", "2\nup");
    assert_eq!(text(&case, &["restart", "-t", "20", "again"]), "again\n");
    logged(&case, "again", "term\n3\nup");
    assert_eq!(text(&case, &["kill", "-s", "SIGUSR1", "again"]), "again\n");
    assert_eq!(text(&case, &["wait", "again"]), "6\n");

    // One that does not listen is killed when its time is over.
    detached(&case, &["--name", "deaf"], "echo up; while :; do sleep 1; done");
    logged(&case, "deaf", "up");
    let started = Instant::now();
    assert_eq!(text(&case, &["stop", "-t", "1", "deaf"]), "deaf\n");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(text(&case, &["wait", "deaf"]), "137\n");
    for (args, said) in [
        (&["stop", "-t", "-2", "deaf"][..], "expected seconds"),
        (&["kill", "-s", "NOPE", "deaf"], "expected the name of a signal"),
    ] {
        case.rgraph(args).fails(2, &[said]);
    }
}

#[test]
fn waiting_hears_of_the_end() {
    need!(Root);
    let case = Case::with_base();
    // Long enough for the one that waits to come.
    let script = "while [ ! -e /go ]; do sleep 0.05; done; sleep 2; exit 7";
    detached(&case, &["--rm", "--name", "one"], script);
    let wait = case.start(&["wait", "one"]);
    case.rgraph(&["exec", "one", "touch", "/go"]).ok();
    let wait = wait.finish().ok();
    assert_eq!(wait.text(), "7\n");
    let id = detached(&case, &["--name", "two"], "sleep 1000");
    let wait = case.start(&["wait", "two"]);
    let keeper = supervisor(&case, &id);
    std::thread::sleep(Duration::from_millis(300));
    kill(keeper);
    assert_eq!(wait.finish().ok().text(), "137\n");
    // And it can be started right away, whatever still dies.
    case.rgraph(&["start", "two"]).ok();
    assert!(status(&case, "two").starts_with("running|"));
}

#[test]
fn logs_follow_and_show_the_end() {
    need!(Root);
    let case = Case::with_base();
    let script = "for i in 1 2 3 4 5; do echo line $i; done; while [ ! -e /go ]; do sleep 0.05; \
                  done; echo last; printf open";
    detached(&case, &["--name", "one"], script);
    logged(&case, "one", "line 5");
    assert_eq!(text(&case, &["logs", "--tail", "2", "one"]), "line 4\nline 5\n");
    assert_eq!(text(&case, &["logs", "-n", "0", "one"]), "");
    assert_eq!(text(&case, &["logs", "--since", "1h", "-n", "1", "one"]), "line 5\n");
    assert_eq!(text(&case, &["logs", "--until", "1h", "one"]), "");
    let stamped = text(&case, &["logs", "-t", "-n", "1", "one"]);
    let (time, line) = stamped.split_once(' ').expect("a time");
    assert!(line == "line 5\n" && time.ends_with('Z') && time.len() == 30, "{stamped}");
    let follow = case.start(&["logs", "-f", "--tail=1", "one"]);
    std::thread::sleep(Duration::from_millis(200));
    case.rgraph(&["exec", "one", "touch", "/go"]).ok();
    assert_eq!(follow.finish().ok().text(), "line 5\nlast\nopen");
    assert_eq!(text(&case, &["logs", "-f", "-n", "1", "one"]), "open");
    case.rgraph(&["logs", "-f", "nothing"]).fails(1, &["no such container: nothing"]);
}

/// More is printed than two files of a log hold: its end is there, whole.
#[test]
fn a_long_log_loses_its_beginning_alone() {
    need!(Root);
    let case = Case::with_base();
    // 45 MB.
    let id = detached(&case, &["--name", "long"], "seq 1 5700000; echo err >&2; exec sleep 1000");
    let ended = || text(&case, &["logs", "-n", "2", "long"]).contains("5700000");
    assert!(wait_until(Duration::from_secs(120), ended), "it does not come to its end");
    let folder = case.root().join("containers").join(&id);
    for name in ["log", "log.1"] {
        let length = fs::metadata(folder.join(name)).expect("a log").len();
        assert!(length < 18 << 20, "{name} has {length} bytes");
    }
    let run = case.rgraph(&["logs", "long"]).ok();
    assert_eq!(run.stderr, "err\n");
    // What came first may be a part of a line.
    let mut lines = run.text().lines().skip(1).map(|l| l.parse::<u32>().expect("a number"));
    let first = lines.next().expect("a line");
    let mut last = first;
    for n in lines {
        assert_eq!(n, last + 1);
        last = n;
    }
    assert_eq!(last, 5_700_000);
    assert!(last - first > 1_900_000, "only {} lines are left", last - first);
    text(&case, &["rm", "-f", "long"]);
}

#[test]
fn a_program_joins_all_of_a_container() {
    need!(Root);
    let case = Case::with_base();
    detached(&case, &["--name", "one", "-e", "A=1", "-e", "B=1", "-w", "/tmp"], "sleep 1000");
    let exec = |flags: &[&str], script: &str| {
        let args = [&["exec"], flags, &["one", "sh", "-c", script]].concat();
        case.rgraph(&args)
    };
    let ok = |flags: &[&str], script: &str| exec(flags, script).ok().text().to_owned();
    // Its first process and this one are the same to the kernel.
    let same = "for p in 1 self; do cd /proc/$p; for n in cgroup ipc mnt net pid uts user; do \
                readlink ns/$n; done; grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' status; \
                cat cgroup; readlink root; done";
    let both = ok(&[], same);
    let lines: Vec<&str> = both.lines().collect();
    let (a, b) = lines.split_at(lines.len() / 2);
    assert_eq!(a, b);
    assert!(a.contains(&"Seccomp:\t2") && a.contains(&"CapBnd:\t00000000a80425fb"), "{a:?}");
    // The last one is the folder itself.
    assert_eq!(ok(&[], "exec ls /proc/self/fd"), "0\n1\n2\n3\n");
    assert_eq!(ok(&[], "mount -t tmpfs x /mnt 2>/dev/null || echo refused"), "refused\n");
    assert_eq!(ok(&[], "unshare -U true 2>/dev/null || echo refused"), "refused\n");

    assert_eq!(ok(&["-e", "B=2"], "echo $A $B $HOSTNAME; pwd"), {
        let id = text(&case, &["ps", "-q"]);
        format!("1 2 {}\n/tmp\n", id.trim())
    });
    assert_eq!(ok(&["-u", "app", "-w", "/etc"], "id -u; id -g; pwd"), "1234\n1235\n/etc\n");
    assert_eq!(exec(&[], "echo out; echo err >&2; exit 7").fails(7, &["err\n"]).text(), "out\n");
    for (words, code, said) in [
        (&["one", "/nowhere"][..], 127, "no such file"),
        (&["one", "nowhere"], 127, "not found in $PATH"),
        (&["one", "/etc"], 126, "cannot run"),
        (&["-u", "nobody7", "one", "true"], 125, "no such user"),
        (&["-w", "/nowhere", "one", "true"], 125, "working directory"),
        (&["two", "true"], 1, "no such container: two"),
        (&["one", "sh", "-c", "kill -9 $$"], 137, ""),
    ] {
        case.rgraph(&[&["exec"], words].concat()).fails(code, &[said]);
    }
    // In the background, and with input.
    case.rgraph(&["exec", "-d", "one", "sh", "-c", "echo hidden; sleep 0.2; echo > /made"]).ok();
    let made = || exec(&[], "test -e /made").code == 0;
    assert!(wait_until(Duration::from_secs(10), made));
    let bytes: Vec<u8> =
        (0..10 << 20u32).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let run = case.rgraph_reading(&["exec", "-i", "one", "cat"], &bytes).ok();
    assert!(run.stdout == bytes, "{} bytes came back", run.stdout.len());
    assert_eq!(text(&case, &["logs", "one"]), "", "what was run in it is not its log");

    // It ends with the container.
    let run = case.start(&["exec", "one", "sleep", "1000"]);
    std::thread::sleep(Duration::from_millis(300));
    case.rgraph(&["kill", "one"]).ok();
    assert_eq!(run.finish().code, 137);
    case.rgraph(&["exec", "one", "true"]).fails(1, &["is not running"]);
}

#[test]
fn a_terminal_is_left_and_found_again() {
    need!(Root);
    let case = Case::with_base();
    let mut screen =
        Screen::start(&case, &["run", "-it", "--network=none", "--name", "term", BASE, "sh"]);
    screen.keys(b"echo a$((1+1))b\n");
    screen.until("a2b");
    screen.keys(b"\x10\x11");
    screen.until("read escape sequence");
    assert_eq!(screen.code(), 0);
    assert!(status(&case, "term").starts_with("running|"), "{}", status(&case, "term"));

    let mut screen = Screen::start(&case, &["attach", "--detach-keys=ctrl-x,q", "term"]);
    screen.keys(b"echo c$((2+2))d; stty size\n");
    screen.until("c4d");
    screen.until("41 107");
    screen.keys(b"\x18q");
    assert_eq!(screen.code(), 0);

    // A program in it has a terminal of its own.
    let mut screen = Screen::start(&case, &["exec", "-it", "term", "sh"]);
    screen.keys(b"tty; stty size; exit 4\n");
    screen.until("/dev/pts/1");
    screen.until("41 107");
    assert_eq!(screen.code(), 4);

    let mut screen = Screen::start(&case, &["attach", "term"]);
    screen.keys(b"exit 3\n");
    assert_eq!(screen.code(), 3);
    case.rgraph(&["attach", "term"]).fails(1, &["is not running", "rgraph start"]);
    let mut screen = Screen::start(&case, &["start", "-ai", "term"]);
    screen.keys(b"echo e$((3+3))f; exit 2\n");
    screen.until("e6f");
    assert_eq!(screen.code(), 2);
}

#[test]
fn several_may_stand_in_front_of_one() {
    need!(Root);
    let case = Case::with_base();
    let script =
        "read x; echo got $x; while [ ! -e /go ]; do sleep 0.05; done; echo end >&2; exit 3";
    detached(&case, &["-i", "--name", "one"], script);
    let silent = case.start(&["attach", "--no-stdin", "one"]);
    std::thread::sleep(Duration::from_millis(300));
    let typing = case.rgraph_reading(&["exec", "-i", "one", "cat"], b"through\n").ok();
    assert_eq!(typing.text(), "through\n");
    // The end of one's input is not that of the program's, which was started without any.
    let mut typing = case.command(&["attach", "one"]);
    let mut typing = typing.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    typing.stdin.take().expect("piped").write_all(b"hello\n").expect("written");
    logged(&case, "one", "got hello");
    assert!(status(&case, "one").starts_with("running|"));
    case.rgraph(&["exec", "one", "touch", "/go"]).ok();
    assert_eq!(typing.wait().expect("our child").code(), Some(3));
    let silent = silent.finish();
    assert_eq!((silent.code, silent.text()), (3, "got hello\n"));
    assert_eq!(silent.stderr, "end\n");
}

#[test]
fn process_one_waits_for_orphans_and_passes_signals_on() {
    need!(Root);
    let case = Case::with_base();
    // A subshell that ends before its child leaves an orphan, which soon ends too.
    let script = "(sleep 0.1 & ) ; sleep 0.5; ps -o pid,stat,comm | grep -c ' Z' ; echo up; \
                  trap 'echo term; exit 5' TERM; while :; do sleep 0.05; done";
    let id = detached(&case, &["--init", "--name", "init"], script);
    logged(&case, "init", "up");
    assert_eq!(text(&case, &["logs", "init"]), "0\nup\n");
    let status = text(&case, &["exec", "init", "sh", "-c", "grep -E '^(Cap|Secc)' /proc/1/status"]);
    assert!(
        status.contains("CapEff:\t00000000a80425fb") && status.contains("Seccomp:\t2"),
        "{status}"
    );
    let open = fs::read_dir(format!("/proc/{}/fd", first(&case, &id))).expect("it runs").count();
    assert_eq!(open, 3, "process 1 has more open than its streams");
    let inside =
        text(&case, &["exec", "init", "sh", "-c", "cat /proc/1/exe >/dev/null || echo no"]);
    assert_eq!(inside, "no\n", "the program of process 1 can be read");
    assert_eq!(text(&case, &["stop", "init"]), "init\n");
    assert_eq!(text(&case, &["wait", "init"]), "5\n");
    let run = |words: &[&str]| {
        case.rgraph(&[&["run", "--rm", "--init", "--network=none", BASE], words].concat())
    };
    assert_eq!(run(&["sh", "-c", "echo $$; exit 7"]).fails(7, &[]).text(), "2\n");
    run(&["/nowhere"]).fails(127, &["no such file"]);
    run(&["sh", "-c", "kill -9 $$"]).fails(137, &[]);
    let mut screen =
        Screen::start(&case, &["run", "--rm", "-it", "--init", "--network=none", BASE, "sh"]);
    screen.keys(b"trap 'echo t$((1+1))t' INT; echo r$((2+2))y\n");
    screen.until("r4y");
    screen.keys(b"\x03");
    screen.until("t2t");
    screen.keys(b"exit 3\n");
    assert_eq!(screen.code(), 3);
}

#[test]
fn it_stands_still_while_it_is_committed() {
    need!(Root);
    let case = Case::with_base();
    // Large, so that the copy takes a while.
    let script = "head -c 60000000 /dev/urandom > /bulk; echo up; n=0; while :; do n=$((n+1)); \
                  echo $n > /a; done";
    let id = detached(&case, &["--name", "busy"], script);
    logged(&case, "busy", "up");
    let pid = first(&case, &id);
    let stands =
        || fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs").contains(") T ");
    let commit = case.start(&["commit", "busy", "still:1"]);
    assert!(wait_until(Duration::from_secs(20), stands), "it was not made to stand still");
    commit.finish().ok();
    case.rgraph(&["run", "--rm", "--network=none", "still:1", "ls", "/a"]).ok();
    // It goes on, whatever became of who made it stand still.
    let now = || text(&case, &["exec", "busy", "cat", "/a"]);
    let before = now();
    assert!(wait_until(Duration::from_secs(10), || now() != before), "it stands still");
    let run = case.start(&["commit", "busy", "still:2"]);
    assert!(wait_until(Duration::from_secs(20), stands), "it was not made to stand still");
    run.signal(rustix::process::Signal::KILL);
    run.finish();
    assert!(wait_until(Duration::from_secs(10), || !stands()), "it stands still");
    let before = now();
    assert!(wait_until(Duration::from_secs(10), || now() != before), "it stands still");
    // Nobody holds the file still: a copy of it may be refused as cut.
    let unpaused = || case.rgraph(&["commit", "--no-pause", "busy"]).code == 0;
    assert!(wait_until(Duration::from_secs(10), unpaused), "it cannot be committed");
}

#[test]
fn limits_are_kept_and_named() {
    need!(Root);
    let case = Case::with_base();
    let doctor = case.rgraph(&["doctor"]).ok();
    let line = doctor.text().lines().find(|l| l.starts_with("cgroups")).expect("a line").to_owned();
    let bomb = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let args = ["run", "--rm", "--network=none", "-m", "32m", BASE, "sh", "-c", bomb];
    if !line.contains(" ok ") {
        case.rgraph(&args).fails(125, &["limits"]);
        rgraph_tests::shout(&format!("limits, for this machine has no control groups: {line}"));
        return;
    }
    case.rgraph(&[
        "run",
        "--rm",
        "--network=none",
        "-m",
        "32m",
        BASE,
        "sh",
        "-c",
        &format!("exec {bomb}"),
    ])
    .fails(137, &["out of memory"]);
    let groups = OwnGroups::new();
    let flags = ["--name", "few", "--pids-limit", "20", "--cpus", "0.5", &groups.flag()];
    detached(&case, &flags, "exec sleep 1000");
    assert!(!groups.all().is_empty());
    // What joins it counts as well.
    let fork = "for i in $(seq 40); do sleep 3 & done; wait";
    let run = case.rgraph(&["exec", "few", "sh", "-c", fork]);
    assert!(run.stderr.contains("can't fork"), "{}", run.stderr);
    case.rgraph(&["rm", "-f", "few"]).ok();
    assert!(wait_until(Duration::from_secs(10), || groups.all().is_empty()), "a group is left");
}

#[test]
fn fifty_at_once() {
    need!(Root);
    let case = Case::with_base();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let start = |_| scope.spawn(|| detached(&case, &[], "echo up; exec sleep 1000"));
        let all: Vec<_> = (0..50).map(start).collect();
        all.into_iter().map(|t| t.join().expect("started")).collect()
    });
    assert_eq!(text(&case, &["ps", "-q"]).lines().count(), 50);
    let keepers: Vec<i32> = ids.iter().map(|id| supervisor(&case, id)).collect();
    let firsts: Vec<i32> = ids.iter().map(|id| first(&case, id)).collect();
    let args: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    case.rgraph(&args).ok();
    assert_eq!(text(&case, &["ps", "-aq"]), "");
    let gone = || !keepers.iter().chain(&firsts).any(|pid| is_there(*pid));
    assert!(wait_until(Duration::from_secs(10), gone), "processes are left");
}

/// How often: `RGRAPH_CONTAINERS`.
#[test]
fn many_starts_leave_nothing() {
    need!(Root);
    let case = Case::with_base();
    let rounds = setting("RGRAPH_CONTAINERS", 15);
    let id = detached(&case, &["--name", "kept"], "sleep 100000");
    let keeper = supervisor(&case, &id);
    let groups = OwnGroups::new();
    // With a limit, where there can be one.
    let doctor = case.rgraph(&["doctor"]).ok();
    let limits = doctor.text().lines().any(|l| l.starts_with("cgroups") && l.contains(" ok "));
    let limits: &[&str] = if limits { &["--pids-limit=50", &groups.flag()] } else { &[] };
    let round = |n: u64| {
        let run = [&["run", "--rm", "--network=none"], limits, &[BASE, "true"]].concat();
        case.rgraph(&run).ok();
        let id = detached(&case, &[], "sleep 1000");
        case.rgraph(&["exec", "kept", "true"]).ok();
        case.rgraph(&["exec", &id, "true"]).ok();
        if n.is_multiple_of(2) {
            kill(first(&case, &id));
        }
        case.rgraph(&["rm", "-f", &id]).ok();
    };
    // What is there when the last command is over may still be going: the least of it counts.
    let look = || {
        let open = || fs::read_dir(format!("/proc/{keeper}/fd")).expect("it runs").count();
        let mounts = || mounts_below(&case.root()).len();
        let settled = || (open(), all_files(&case.root()), mounts(), groups.all().len());
        let mut least = settled();
        let quiet = || {
            let now = settled();
            let same = now == least;
            least = now;
            same
        };
        assert!(wait_until(Duration::from_secs(10), quiet), "it does not settle");
        least
    };
    (0..3).for_each(round);
    let before = look();
    (0..rounds).for_each(round);
    let mut after = look();
    let same = || {
        after = look();
        after == before
    };
    assert!(wait_until(Duration::from_secs(10), same), "{before:?} {after:?}");
}

/// How many files there are, those of locks too; the index's own come and go.
fn all_files(dir: &std::path::Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let own = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with("index.db");
    let count = |e: fs::DirEntry| match e.file_type() {
        Ok(kind) if kind.is_dir() => all_files(&e.path()),
        _ => usize::from(!own(&e)),
    };
    entries.map(count).sum()
}

/// What a program left behind may print for ever: the supervisor does not listen for ever.
#[test]
fn what_floods_a_stream_does_not_hold_the_container_up() {
    need!(Root);
    let case = Case::with_base();
    case.rgraph(&["run", "-d", "--name", "busy", BASE, "sleep", "600"]).ok();
    let run = case.rgraph(&["exec", "busy", "sh", "-c", "yes & yes & yes & sleep 0.2; exit 3"]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    case.rgraph(&["rm", "-f", "busy"]).ok();
}

/// The files of a container that is gone go, also while somebody in front of it takes none of its words.
#[test]
fn a_visitor_who_does_not_listen_keeps_no_files() {
    need!(Root);
    let case = Case::with_base();
    // On a busy machine a log may stand still although everybody listens.
    assert!((0..5).any(|_| keeps_no_files(&case)), "the visitor was never behind");
}

/// False: the visitor was not behind, so the supervisor has ended too.
fn keeps_no_files(case: &Case) -> bool {
    let script = "x=$(printf %01000d 0); while :; do echo $x; done";
    let id = detached(case, &["--rm", "--name", "talks"], script);
    let keeper = supervisor(case, &id);
    let mut attach = case.command(&["attach", "--no-stdin", "talks"]);
    // Nobody reads what it shows.
    attach.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut attach = attach.spawn().expect("starts");
    let folder = case.root().join("containers").join(&id);
    // What is printed waits for it from some time on.
    let (mut before, mut still) = (0, 0);
    let waits = wait_until(Duration::from_secs(60), || {
        let now = fs::metadata(folder.join("log")).map_or(0, |m| m.len());
        still = if now > 0 && now == before { still + 1 } else { 0 };
        before = now;
        still > 20
    });
    assert!(waits, "{before}");
    // No other command comes by, which would delete what lies there.
    kill(first(case, &id));
    let trash = case.root().join("tmp/trash").join(&id);
    let gone = || !folder.exists() && !trash.exists();
    assert!(wait_until(Duration::from_secs(20), gone), "{}", trash.display());
    let was_behind = is_there(keeper);
    attach.kill().and_then(|()| attach.wait()).expect("our child");
    assert!(wait_until(Duration::from_secs(20), || !is_there(keeper)));
    was_behind
}
