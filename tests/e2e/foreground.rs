//! What goes between a person and a program in a container: signals, sizes, keys, bytes. As root and as a
//! user, in `run` and in `exec`.

use std::fs;
use std::time::Duration;

use rgraph_tests::{BASE, Case, Ids, Screen, need, wait_until};
use rustix::process::Signal;

use crate::detached::{detached, status, text};

/// Root's case, and a user's.
fn cases() -> [Case; 2] {
    let user = Case::new().of_user(Ids::Range);
    user.import_base(BASE);
    [Case::with_base(), user]
}

/// Says each signal's name as it comes; ends on the last.
const HEARS: &str = "for s in HUP INT QUIT USR1 USR2 ALRM WINCH CONT; do trap \"echo got $s >&2\" $s; \
                     done; trap 'echo got TERM >&2; exit 5' TERM; echo ready >&2; \
                     while :; do sleep 0.02; done";

const SIGNALS: [(Signal, &str); 8] = [
    (Signal::HUP, "HUP"),
    (Signal::INT, "INT"),
    (Signal::QUIT, "QUIT"),
    (Signal::USR1, "USR1"),
    (Signal::USR2, "USR2"),
    (Signal::ALARM, "ALRM"),
    (Signal::WINCH, "WINCH"),
    (Signal::CONT, "CONT"),
];

#[test]
fn signals_to_the_command_are_the_programs() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for case in cases() {
        for init in [&[][..], &["--init"]] {
            let args = [&["run", "--rm", "--network=none"], init, &[BASE, "sh", "-c", HEARS]];
            let mut run = case.start(&args.concat());
            run.wait_for("ready");
            for (signal, name) in SIGNALS {
                run.signal(signal);
                run.wait_for(&format!("got {name}\n"));
            }
            run.signal(Signal::TERM);
            let run = run.finish();
            assert!(run.code == 5 && run.stderr.ends_with("got TERM\n"), "{}", run.stderr);
        }
        // In front of one that runs already, and of one that is started again.
        let ticks = HEARS.replace("do sleep", "do echo tick >&2; sleep");
        detached(&case, &["--name=one"], &ticks);
        for words in [&["attach", "one"][..], &["start", "-a", "one"]] {
            let mut run = case.start(words);
            run.wait_for("tick");
            run.signal(Signal::USR1);
            run.wait_for("got USR1");
            run.signal(Signal::TERM);
            assert_eq!(run.finish().code, 5, "{words:?}");
        }
        text(&case, &["rm", "one"]);
    }
}

#[test]
fn signals_that_are_not_passed_on_end_the_command_alone() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for case in cases() {
        let proxy = "--sig-proxy=false";
        let args = ["run", "--network=none", "--name=one", proxy, BASE, "sh", "-c", HEARS];
        let mut run = case.start(&args);
        run.wait_for("ready");
        run.signal(Signal::TERM);
        let run = run.finish();
        assert!(run.code == 143 && !run.stderr.contains("got"), "{}: {}", run.code, run.stderr);
        assert!(status(&case, "one").starts_with("running|"), "{}", status(&case, "one"));
        // What is run in it is nobody's child here.
        let mut run = case.start(&["exec", "one", "sh", "-c", "echo up >&2; sleep 1000"]);
        run.wait_for("up");
        run.signal(Signal::INT);
        assert_eq!(run.finish().code, 130);
        assert!(status(&case, "one").starts_with("running|"), "{}", status(&case, "one"));
        text(&case, &["rm", "-f", "one"]);
    }
}

#[test]
fn a_program_that_a_signal_ended_has_its_code() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for case in cases() {
        // Process 1 is spared what it does not handle, so ours is in its place.
        for (signal, code) in [("TERM", 143), ("INT", 130), ("KILL", 137), ("USR2", 140)] {
            let id = detached(&case, &["--init"], "exec sleep 1000");
            text(&case, &["kill", "-s", signal, &id]);
            assert_eq!(text(&case, &["wait", &id]), format!("{code}\n"), "{signal}");
            let again = ["exec", &id, "true"];
            case.rgraph(&again).fails(1, &["is not running"]);
            text(&case, &["rm", &id]);
        }
        let id = detached(&case, &[], "exec sleep 1000");
        for (signal, code) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
            let kill = format!("kill -{signal} $$");
            case.rgraph(&["exec", &id, "sh", "-c", &kill]).fails(code, &[]);
            let run = ["run", "--rm", "--init", "--network=none", BASE, "sh", "-c", &kill];
            case.rgraph(&run).fails(code, &[]);
        }
        for (words, code) in [(&["/nowhere"][..], 127), (&["/etc"], 126), (&["true"], 0)] {
            assert_eq!(case.rgraph(&[&["exec", &id], words].concat()).code, code, "{words:?}");
            let run = [&["run", "--rm", "--network=none", BASE], words].concat();
            assert_eq!(case.rgraph(&run).code, code, "{words:?}");
        }
        let lost = ["run", "--rm", "--network=none", "-u", "nobody7", BASE, "true"];
        case.rgraph(&lost).fails(125, &["no such user"]);
        text(&case, &["rm", "-f", &id]);
        assert_eq!(text(&case, &["ps", "-aq"]), "");
    }
}

#[test]
fn a_new_size_reaches_the_program() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("setsid"));
    let script = "tty; stty size; trap 'stty size; exit 4' WINCH; echo ready; \
                  while :; do sleep 0.02; done";
    for case in cases() {
        detached(&case, &["--name=one"], "sleep 1000");
        for words in [
            &["run", "--rm", "-it", "--network=none", BASE][..],
            &["run", "--rm", "-t", "--network=none", BASE],
            &["exec", "-it", "one"],
            &["exec", "-t", "one"],
        ] {
            let mut screen = Screen::start(&case, &[words, &["sh", "-c", script]].concat());
            screen.until("/dev/pts/0");
            screen.until("41 107");
            screen.until("ready");
            screen.resize(33, 99);
            screen.until("33 99");
            assert_eq!(screen.code(), 4, "{words:?}");
        }
        text(&case, &["rm", "-f", "one"]);
    }
}

/// At a terminal too: whoever closes it ends what ran there.
#[test]
fn signals_come_through_a_terminal() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("setsid"));
    for case in cases() {
        let run = ["run", "-it", "--network=none", "--name=one", BASE, "sh", "-c"];
        let mut screen = Screen::start(&case, &[&run[..], &[HEARS]].concat());
        screen.until("ready");
        screen.signal(Signal::USR1);
        screen.until("got USR1");
        screen.keys(b"\x03");
        screen.until("got INT");
        screen.keys(b"\x1c");
        screen.until("got QUIT");
        screen.signal(Signal::TERM);
        screen.until("got TERM");
        assert_eq!(screen.code(), 5);
        assert!(status(&case, "one").starts_with("exited|Exited (5) "));
        text(&case, &["rm", "one"]);
        // The terminal goes, as when its window is closed.
        let script = "trap 'exit 7' HUP; echo ready; while :; do sleep 0.02; done";
        let mut screen = Screen::start(&case, &[&run[..], &[script]].concat());
        screen.until("ready");
        assert_eq!(screen.close(), 7);
        text(&case, &["rm", "one"]);
        // To the first process of a container that is nothing when it does not ask for it: it goes on.
        for more in [&[][..], &["--sig-proxy=false"]] {
            let script = "echo rea''dy; while :; do sleep 0.02; done";
            let mut screen =
                Screen::start(&case, &[&run[..2], more, &run[2..], &[script]].concat());
            screen.until("ready");
            assert_eq!(screen.close(), 129, "{more:?}");
            assert!(status(&case, "one").starts_with("running|"));
            text(&case, &["rm", "-f", "one"]);
        }
    }
}

#[test]
fn keys_leave_a_program_that_goes_on() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("setsid"));
    for case in cases() {
        let run = ["run", "-it", "--network=none", "--name"];
        for (name, flags, keys) in [
            ("usual", &[][..], &b"\x10\x11"[..]),
            ("own", &["--detach-keys=ctrl-x,a,ctrl-c"], b"\x18a\x03"),
        ] {
            let args = [&run[..], &[name], flags, &[BASE, "sh"]].concat();
            let mut screen = Screen::start(&case, &args);
            // Half of them is for the program.
            screen.keys(&keys[..1]);
            screen.keys(b"echo u$((1+1))p\n");
            screen.until("u2p");
            screen.keys(keys);
            screen.until("read escape sequence");
            assert_eq!(screen.code(), 0, "{name}");
            assert!(status(&case, name).starts_with("running|"), "{}", status(&case, name));
            // From a program in it one goes too, and it goes on.
            let script =
                "trap '' HUP; echo in; n=0; while [ ! -e /go ]; do sleep 0.02; done; echo > /seen";
            let exec = [&["exec", "-it"], flags, &[name, "sh", "-c", script]].concat();
            let mut screen = Screen::start(&case, &exec);
            screen.until("in");
            screen.keys(keys);
            screen.until("read escape sequence");
            assert_eq!(screen.code(), 0, "{name}");
            text(&case, &["exec", name, "touch", "/go"]);
            let seen = || case.rgraph(&["exec", name, "test", "-e", "/seen"]).code == 0;
            assert!(wait_until(Duration::from_secs(20), seen), "it did not go on");
            text(&case, &["rm", "-f", name]);
        }
        case.rgraph(&["run", "--detach-keys=ctrl-", BASE]).fails(125, &["ctrl-"]);
    }
}

#[test]
fn ten_megabytes_come_back_and_the_end_of_input_is_told() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    let bytes: Vec<u8> =
        (0..10 << 20u32).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for case in cases() {
        detached(&case, &["--name=one"], "sleep 1000");
        for words in [&["run", "--rm", "-i", "--network=none", BASE][..], &["exec", "-i", "one"]] {
            let run = case.rgraph_reading(&[words, &["cat"]].concat(), &bytes).ok();
            assert!(run.stdout == bytes, "{words:?}: {} bytes came back", run.stdout.len());
            // Both streams at once, and what comes after the end.
            let script = "tee /dev/stderr | wc -c; echo end";
            let run = case.rgraph_reading(&[words, &["sh", "-c", script]].concat(), b"a\nb\n").ok();
            assert_eq!((run.text(), run.stderr.as_str()), ("4\nend\n", "a\nb\n"));
            // Whoever does not read all of it ends all the same.
            let run = case.rgraph_reading(&[words, &["head", "-c", "3"]].concat(), &bytes).ok();
            assert!(run.stdout == bytes[..3], "{words:?}");
        }
        text(&case, &["rm", "-f", "one"]);
    }
}

/// The number of the process's children that have ended and were not waited for.
fn zombies(parent: i32) -> usize {
    let all = fs::read_dir("/proc").expect("it is mounted").flatten();
    let is = |stat: String| {
        let fields = stat.rsplit_once(") ").map(|(_, f)| f.to_owned()).unwrap_or_default();
        fields.starts_with(&format!("Z {parent} "))
    };
    all.filter(|e| fs::read_to_string(e.path().join("stat")).is_ok_and(is)).count()
}

/// Who has ended is waited for: programs that were run in it by the supervisor, orphans by process 1.
#[test]
fn no_zombie_stays() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for case in cases() {
        for init in [&[][..], &["--init"]] {
            // A shell waits for orphans, a sleeping process does not.
            let script =
                if init.is_empty() { "while :; do sleep 0.02; done" } else { "exec sleep 1000" };
            let id = detached(&case, init, script);
            let (first, keeper) =
                (crate::detached::first(&case, &id), crate::detached::supervisor(&case, &id));
            for _ in 0..5 {
                text(&case, &["exec", &id, "sh", "-c", "(sleep 0.05 &); (true &); true"]);
                case.rgraph(&["exec", "-d", &id, "sh", "-c", "(sleep 0.05 &)"]).ok();
                case.rgraph(&["exec", &id, "/nowhere"]).fails(127, &[]);
            }
            let none = || zombies(first) + zombies(keeper) == 0;
            assert!(
                wait_until(Duration::from_secs(20), none),
                "{init:?}: {} below process 1, {} below the supervisor",
                zombies(first),
                zombies(keeper)
            );
            text(&case, &["rm", "-f", &id]);
        }
    }
}
