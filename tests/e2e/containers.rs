//! Containers in the foreground: what runs, what is kept of it, what it changed.

use std::fs;

use rgraph_tests::{BASE, Case, Screen, need};
use rustix::process::Signal;

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

#[test]
fn streams_and_exit_codes_are_the_programs() {
    need!(Root);
    let case = Case::with_base();
    // Where steps have no network of their own, that is said on stderr.
    let quiet = ["run", "--rm", "--network=none", BASE, "sh", "-c"];
    let run = case.rgraph(&[&quiet[..], &["echo out; echo err >&2; exit 7"]].concat());
    assert_eq!((run.code, run.text(), run.stderr.as_str()), (7, "out\n", "err\n"));
    for (words, code, said) in [
        (&["true"][..], 0, ""),
        (&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        (&["/nowhere"], 127, "no such file"),
        (&["/etc"], 126, "cannot run"),
    ] {
        let args = [&["run", "--rm", BASE], words].concat();
        let run = case.rgraph(&args);
        assert_eq!(run.code, code, "{words:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{words:?}: {}", run.stderr);
    }
    for (args, said) in [
        (&["run", "--nope", BASE][..], "--nope"),
        (&["run", "-m", "1m", BASE], "the least is 6m"),
        (&["run", "--network=none", "localhost:1/none:1"], "localhost:1"),
    ] {
        case.rgraph(args).fails(125, &[said]);
    }
    assert_eq!(text(&case, &["ps", "-a", "-q"]), "", "--rm, and what was refused, left something");
}

#[test]
fn ten_megabytes_go_in_and_out() {
    need!(Root);
    let case = Case::with_base();
    let bytes: Vec<u8> =
        (0..10 << 20u32).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let run = case.rgraph_reading(&["run", "--rm", "-i", BASE, "cat"], &bytes).ok();
    assert!(run.stdout == bytes, "{} bytes came back", run.stdout.len());
    // Without `-i` there is nothing to read.
    let run = case.rgraph_reading(&["run", "--rm", BASE, "cat"], b"x").ok();
    assert_eq!(run.text(), "");
}

#[test]
fn settings_of_image_and_line() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\nENV A=image B=image\nWORKDIR /w\nUSER 7:8\nENTRYPOINT [\"echo\"]\nCMD [\"cmd\"]\n",
    );
    case.build(&["-t", "app"]).ok();
    case.file("vars", "# none\nC=file\n").file("data", "from the host\n");
    let vars = case.context().join("vars").display().to_string();
    let data = format!("{}:/data", case.context().display());
    let file = format!("{}:/one:ro", case.context().join("data").display());
    let sh = |flags: &[&str], script: &str| {
        let args = [&["run", "--rm", "--entrypoint", "sh"], flags, &["app", "-c", script]].concat();
        text(&case, &args)
    };
    assert_eq!(text(&case, &["run", "--rm", "app"]), "cmd\n");
    assert_eq!(text(&case, &["run", "--rm", "app", "a", "-t"]), "a -t\n");
    assert_eq!(sh(&["-e", "B=line", "--env-file", &vars], "echo $A $B $C"), "image line file\n");
    assert_eq!(sh(&[], "pwd; id -u; id -g"), "/w\n7\n8\n");
    assert_eq!(sh(&["-w", "/x", "-u", "0", "-h", "me"], "pwd; id -u; hostname"), "/x\n0\nme\n");
    assert_eq!(sh(&["-v", &data, "-v", &file], "cat /data/data /one"), "from the host\n".repeat(2));
    assert_eq!(sh(&["-u", "0", "-v", &file], "echo x > /one || echo refused"), "refused\n");
    assert_eq!(sh(&["--network", "none"], "cat /proc/net/dev | wc -l"), "3\n");
    let limits = ["--ulimit=nofile=64:128", "--ulimit", "core=0", "--shm-size=1m"];
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c; df -k /dev/shm | awk 'END { print $2 }'";
    assert_eq!(sh(&limits, script), "64\n128\n0\n1024\n");
    let hosts = ["--add-host", "db:10.0.0.9", "--add-host=six=[::1]", "--network=none"];
    let last = "10.0.0.9\tdb\n::1\tsix\n";
    assert_eq!(sh(&hosts, "tail -n 2 /etc/hosts"), last);
    // They are the container's: another process in it has them too, and so has another start.
    let kept = [&["run", "-d", "--name=kept", "--entrypoint=sleep"][..], &limits, &hosts].concat();
    case.rgraph(&[&kept[..], &["app", "1000"]].concat()).ok();
    let exec = ["exec", "kept", "sh", "-c", "ulimit -Sn; tail -n 2 /etc/hosts"];
    assert_eq!(text(&case, &exec), format!("64\n{last}"));
    case.rgraph(&["kill", "kept"]).ok();
    case.rgraph(&["wait", "kept"]).ok();
    case.rgraph(&["start", "kept"]).ok();
    assert_eq!(text(&case, &exec), format!("64\n{last}"));
    let all = "{{.HostConfig.ExtraHosts}} {{.HostConfig.ShmSize}} {{json .HostConfig.Ulimits}}";
    let inspected = text(&case, &["inspect", "--format", all, "kept"]);
    assert!(inspected.starts_with("[db:10.0.0.9 six:::1] 1048576 [{"), "{inspected}");
}

#[test]
fn what_a_container_changed_is_shown_and_committed() {
    need!(Root);
    let case = Case::with_base();
    let script = "echo new > /new; mkdir /d; echo in > /d/in; rm -r /etc; mkdir /etc; \
                  echo 1 > /etc/mine; echo said";
    case.rgraph(&["run", "--name", "c1", "-v", "/usr:/mnt/usr", BASE, "sh", "-c", script]).ok();
    let diff = text(&case, &["diff", "c1"]);
    for line in ["A /d", "A /d/in", "A /etc/mine", "A /new", "C /etc", "D /etc/passwd"] {
        assert!(diff.lines().any(|l| l == line), "no `{line}`:\n{diff}");
    }
    assert!(!diff.contains("/mnt/usr/") && !diff.contains("/proc"), "{diff}");
    let mut sorted: Vec<&str> = diff.lines().collect();
    sorted.sort_by_key(|l| &l[2..]);
    assert_eq!(sorted, diff.lines().collect::<Vec<_>>());
    assert_eq!(text(&case, &["logs", "c1"]), "said\n");

    let args =
        ["commit", "-a", "me", "-m", "by hand", "-c", "CMD [\"cat\", \"/new\"]", "c1", "mine:1"];
    let id = text(&case, &args);
    assert!(id.starts_with("sha256:") && id.trim().len() == 71, "{id}");
    assert_eq!(text(&case, &["run", "--rm", "mine:1"]), "new\n");
    assert!(!text(&case, &["run", "--rm", "mine:1", "ls", "/etc"]).contains("passwd"));
    let count = |image: &str| -> usize {
        let layers = text(&case, &["inspect", "--format", "{{json .RootFS.Layers}}", image]);
        layers.matches("sha256:").count()
    };
    assert_eq!(count("mine:1"), count(BASE) + 1);
    let inspect = text(&case, &["inspect", "--format", "{{.Author}}|{{.Comment}}", "mine:1"]);
    assert_eq!(inspect, "me|by hand\n");
}

#[test]
fn parents_are_changed_and_mounts_are_not() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN mkdir -p /a/b/c /a/empty && touch /a/b/c/f /a/gone\n");
    case.build(&["-t", "deep"]).ok();
    let folder = format!("{}:/new/place", case.context().display());
    let script = "echo 1 > /a/b/c/f; rm /a/gone; echo 1 > /new/place/f; echo 1 > /vol/f; \
                  echo 1 > /mem/f; echo 1 > /dev/shm/f; cat /etc/hosts /etc/resolv.conf > /dev/null";
    let args = ["run", "--name=one", "-v", &folder, "-v", "/vol", "--tmpfs=/mem", "deep", "sh"];
    case.rgraph(&[&args[..], &["-c", script]].concat()).ok();
    assert_eq!(text(&case, &["diff", "one"]), "C /a\nC /a/b\nC /a/b/c\nC /a/b/c/f\nD /a/gone\n");
    // That is what a commit holds, and no more.
    text(&case, &["commit", "one", "new:1"]);
    let script = "cat /a/b/c/f; test -e /a/gone || echo gone; ls -d /new /vol /mem 2>/dev/null";
    let seen = case.rgraph(&["run", "--rm", "new:1", "sh", "-c", script]);
    assert_eq!(seen.text(), "1\ngone\n");
    text(&case, &["rm", "-v", "one"]);
}

#[test]
fn names_listing_and_removal() {
    need!(Root);
    let case = Case::with_base();
    case.rgraph(&["run", "--name", "one", BASE, "sh", "-c", "exit 3"]).fails(3, &[]);
    let id = text(&case, &["ps", "-aq", "--no-trunc"]).trim().to_owned();
    assert_eq!(id.len(), 64);
    case.rgraph(&["run", "--name", "one", BASE, "true"])
        .fails(125, &["\"/one\" is already in use by container", &id]);
    case.rgraph(&["run", BASE, "true"]).ok();
    let names = text(&case, &["ps", "-a", "--format", "{{.Names}}|{{.Status}}"]);
    assert!(names.lines().any(|l| l.starts_with("one|Exited (3) ")), "{names}");
    assert!(names.lines().any(|l| l.contains('_') && l.contains("|Exited (0) ")), "{names}");
    let table = text(&case, &["ps", "-a"]);
    assert!(table.starts_with("CONTAINER ID   IMAGE"), "{table}");

    // Its image stays as long as it is there.
    case.rgraph(&["rmi", BASE]).fails(1, &["conflict: unable to delete", "stopped container"]);
    case.rgraph(&["prune", "-af"]).ok();
    case.rgraph(&["commit", "one", "kept"]).ok();
    case.rgraph(&["run", "--rm", "kept", "true"]).ok();

    assert_eq!(text(&case, &["rm", "one"]), "one\n");
    case.rgraph(&["rm", "one"]).fails(1, &["no such container: one"]);
    case.rgraph(&["rm", "-f", "one"]).ok();
    for id in text(&case, &["ps", "-aq"]).lines() {
        case.rgraph(&["rm", id]).ok();
    }
    assert_eq!(fs::read_dir(case.root().join("containers")).expect("a folder").count(), 0);
    case.rgraph(&["rmi", BASE]).ok();
}

#[test]
fn signals_reach_it_and_ps_tells_the_truth() {
    need!(Root);
    let case = Case::with_base();
    let script = "trap 'echo got >&2; exit 5' TERM; echo ready >&2; while :; do sleep 0.05; done";
    let mut run = case.start(&["run", "--name", "sig", BASE, "sh", "-c", script]);
    run.wait_for("ready");
    assert_eq!(text(&case, &["ps", "--format", "{{.Names}}|{{.State}}"]), "sig|running\n");
    case.rgraph(&["rm", "sig"]).fails(1, &["is running", "--force"]);
    run.signal(Signal::TERM);
    let run = run.finish();
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("got"));

    // By force, from beside it.
    let mut run =
        case.start(&["run", "--rm", "--name", "force", BASE, "sh", "-c", "echo up >&2; sleep 60"]);
    run.wait_for("up");
    assert_eq!(text(&case, &["rm", "-f", "force"]), "force\n");
    assert_eq!(run.finish().code, 137);
    assert_eq!(text(&case, &["ps", "-a", "--format", "{{.Names}}"]), "sig\n");
}

#[test]
fn a_terminal_is_one_and_typing_arrives() {
    need!(Root);
    let case = Case::with_base();
    let mut screen = Screen::start(&case, &["run", "-it", "--name", "term", BASE, "sh"]);
    screen.keys(b"tty; stty size; echo x > /typed; exit 4\n");
    let (code, seen) = screen.finish();
    assert_eq!(code, 4, "{seen}");
    assert!(seen.contains("/dev/pts/0") && seen.contains("41 107"), "{seen}");
    assert!(text(&case, &["diff", "term"]).contains("A /typed"));
}
