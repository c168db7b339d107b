//! What a container's processes are, and what they use: `top`, `stats`.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use rgraph_tests::{BASE, Case, Ids, SUBIDS, need, wait_until};
use serde_json::Value;

use crate::detached::{detached, first, text};

/// Root's case, and a user's.
fn cases() -> [Case; 2] {
    let user = Case::new().of_user(Ids::Range);
    user.import_base(BASE);
    [Case::with_base(), user]
}

#[test]
fn processes_are_told_as_docker_tells_them() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"), Tool("ps"));
    for case in cases() {
        let id = detached(&case, &["--name", "one"], "sleep 1001 & sleep 1002 & wait");
        let pid = first(&case, &id);
        let lines = |args: &[&str]| -> Vec<Vec<String>> {
            let all = text(&case, args);
            all.lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect()
        };
        let both = || lines(&["top", "one"]).len() == 4;
        assert!(wait_until(Duration::from_secs(10), both), "{:?}", lines(&["top", "one"]));
        let all = lines(&["top", "one"]);
        assert_eq!(all[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        // Numbers are the host's.
        assert_eq!((all[1][1].as_str(), &all[2][2]), (pid.to_string().as_str(), &all[1][1]));
        assert_eq!(all[1][7..], ["sh", "-c", "sleep", "1001", "&", "sleep", "1002", "&", "wait"]);
        let own = if case.root().join("../user").exists() { "plain" } else { "root" };
        assert!(all[1..].iter().all(|l| l[0] == own && l[5] == "?"), "{all:?}");
        let mut asleep: Vec<&str> = all[2..].iter().map(|l| l[8].as_str()).collect();
        asleep.sort_unstable();
        assert_eq!(asleep, ["1001", "1002"]);
        assert_eq!(lines(&["container", "top", "one", "-ef"]), all);
        // Options are those of the host's ps.
        let some = lines(&["top", "one", "-o", "pid,args"]);
        assert_eq!((&some[0][..2], some.len()), (&["PID".to_owned(), "COMMAND".to_owned()][..], 4));
        assert_eq!(some[1][0], pid.to_string());
        for (args, said) in [
            (&["top", "one", "-o", "user"][..], "no column `PID`"),
            (&["top", "one", "--nonsense"], "`ps` refuses the options"),
            (&["top", "two"], "no such container: two"),
        ] {
            case.rgraph(args).fails(1, &[said]);
        }
        // A terminal has a name, another user a number.
        case.rgraph(&["exec", "-dt", "-u", "app", "one", "sleep", "1003"]).ok();
        let found = || lines(&["top", "one"]).into_iter().find(|l| l.contains(&"1003".to_owned()));
        assert!(wait_until(Duration::from_secs(10), || found().is_some()));
        let line = found().expect("just seen");
        let uid = if own == "root" { 1234 } else { SUBIDS.0 + 1234 - 1 };
        assert_eq!((&line[0], line[5].as_str()), (&uid.to_string(), "pts/0"));
        case.rgraph(&["kill", "one"]).ok();
        case.rgraph(&["top", "one"]).fails(1, &["is not running"]);
    }
}

#[test]
fn use_is_told_as_docker_tells_it() {
    need!(Root, Tool("newuidmap"), Tool("setpriv"));
    for case in cases() {
        let script = "x=$(head -c 30000000 /dev/zero | tr '\\0' a); echo up; while :; do :; done";
        detached(&case, &["--name", "busy"], script);
        detached(&case, &["--name", "idle"], "exec sleep 1000");
        case.rgraph(&["run", "--name", "over", "--network=none", BASE, "true"]).ok();
        let up = || text(&case, &["logs", "busy"]).contains("up");
        assert!(wait_until(Duration::from_secs(30), up));
        let table = text(&case, &["stats", "--no-stream"]);
        let heading = table.lines().next().expect("a heading");
        let columns = [
            "CONTAINER ID",
            "NAME",
            "CPU %",
            "MEM USAGE / LIMIT",
            "MEM %",
            "NET I/O",
            "BLOCK I/O",
            "PIDS",
        ];
        assert_eq!(heading.split("   ").map(str::trim).filter(|c| !c.is_empty()).count(), 8);
        assert!(columns.iter().all(|c| heading.contains(c)), "{heading}");
        assert_eq!(table.lines().count(), 3, "{table}");
        let all = text(&case, &["container", "stats", "-a", "--no-stream", "--format", "json"]);
        let all: Vec<Value> =
            all.lines().map(|l| serde_json::from_str(l).expect("an object")).collect();
        let field = |name: &str, field: &str| -> String {
            let row = all.iter().find(|r| r["Name"] == name).expect("a row");
            row[field].as_str().expect("text").to_owned()
        };
        let percent = |name: &str, f: &str| -> f64 {
            field(name, f).trim_end_matches('%').parse().expect("a number")
        };
        assert!(percent("busy", "CPUPerc") > 1.0, "{all:?}");
        assert!(percent("idle", "CPUPerc") < 1.0, "{all:?}");
        let used = field("busy", "MemUsage");
        let (used, limit) = used.split_once(" / ").expect("two");
        let mib: f64 = used.trim_end_matches("MiB").parse().expect("so much");
        assert!(mib > 28.0 && limit.ends_with('B'), "{used} {limit}");
        assert!(percent("busy", "MemPerc") > 0.0);
        assert_eq!((field("idle", "PIDs"), field("over", "PIDs")), ("1".into(), "0".into()));
        assert_eq!(field("over", "MemUsage"), "0B / 0B");
        assert_eq!(field("idle", "NetIO"), "0B / 0B");
        let one = text(&case, &["stats", "--no-stream", "--format", "{{.Container}}", "idle"]);
        assert_eq!(one, "idle\n");
        case.rgraph(&["stats", "--no-stream", "nobody"]).fails(1, &["no such container: nobody"]);
        case.rgraph(&["stats", "--format", "{{.Nope}}"]).fails(2, &["Nope"]);
        // Without an end until it is told to stop.
        let mut command = case.command(&["stats", "--format", "{{.Name}}", "idle"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let told = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(told.take(2).map_while(Result::ok).collect::<Vec<_>>(), ["idle", "idle"]);
        child.kill().and_then(|()| child.wait()).expect("our child");
    }
}
