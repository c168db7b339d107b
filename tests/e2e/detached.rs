//! Containers in the background: found again, and told the truth about whoever is killed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rgraph_tests::{BASE, Case, need, wait_until};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

/// Starts one without a network; gives its id.
pub(crate) fn detached(case: &Case, flags: &[&str], script: &str) -> String {
    let args = [&["run", "-d", "--network=none"], flags, &[BASE, "sh", "-c", script]].concat();
    let id = text(case, &args).trim().to_owned();
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    id
}

pub(crate) fn record(case: &Case, id: &str) -> serde_json::Value {
    let path = case.root().join("containers").join(id).join("record.json");
    serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON")
}

/// The number of its first process.
pub(crate) fn first(case: &Case, id: &str) -> i32 {
    let pid = record(case, id)["state"]["Running"]["pid"].as_i64().expect("it runs");
    i32::try_from(pid).expect("a process id")
}

pub(crate) fn field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a field");
    line.trim_start_matches(':').trim().to_owned()
}

pub(crate) fn supervisor(case: &Case, id: &str) -> i32 {
    field(first(case, id), "PPid").parse().expect("a process id")
}

pub(crate) fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL).expect("it runs");
}

pub(crate) fn is_there(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

pub(crate) fn status(case: &Case, name: &str) -> String {
    let all = text(case, &["ps", "-a", "--format", "{{.Names}}|{{.State}}|{{.Status}}"]);
    let line = all.lines().find_map(|l| l.strip_prefix(&format!("{name}|"))).map(str::to_owned);
    line.unwrap_or_default()
}

#[test]
fn it_goes_on_by_itself_and_is_found() {
    need!(Root);
    let case = Case::with_base();
    let id = detached(&case, &["--name", "one"], "echo out; echo err >&2; sleep 60");
    assert_eq!(text(&case, &["ps", "-q", "--no-trunc"]).trim(), id);
    assert!(status(&case, "one").starts_with("running|Up "), "{}", status(&case, "one"));
    let logged = || {
        let run = case.rgraph(&["logs", "one"]).ok();
        (run.text().to_owned(), run.stderr)
    };
    let all = ("out\n".to_owned(), "err\n".to_owned());
    assert!(wait_until(Duration::from_secs(10), || logged() == all), "{:?}", logged());

    // Of whoever started it, it has nothing.
    let keeper = supervisor(&case, &id);
    let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    assert_eq!((fields[3], fields[4]), (keeper.to_string().as_str(), "0"), "session, terminal");
    assert_eq!(fs::read_link(format!("/proc/{keeper}/cwd")).expect("a link"), Path::new("/"));
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{keeper}/fd/{fd}")).expect("a link");
        assert_eq!(target, Path::new("/dev/null"));
    }
    // What nobody can take back. The program's own code, of which a release build maps 7 MB here, is the page
    // cache's, and shared: the first supervisor has a Pss of 5.3 MB by it, each of twelve 0.7 MB.
    let kib: u32 = field(keeper, "RssAnon").trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 3 << 10, "the supervisor has {kib} KiB of its own");

    case.rgraph(&["rm", "one"]).fails(1, &["is running"]);
    case.rgraph(&["rm", "-f", "one"]).ok();
    assert!(!is_there(keeper) || wait_until(Duration::from_secs(5), || !is_there(keeper)));
    assert_eq!(fs::read_dir(case.root().join("containers")).expect("a folder").count(), 0);
}

#[test]
fn what_cannot_be_started_says_so() {
    need!(Root);
    let case = Case::with_base();
    case.rgraph(&["run", "-d", "--network=none", BASE, "/nowhere"]).fails(127, &["no such file"]);
    case.rgraph(&["run", "-d", "--network=none", BASE, "/etc"]).fails(126, &["cannot run"]);
    case.rgraph(&["run", "-d", "--network=none", "-u", "nobody7", BASE, "true"])
        .fails(125, &["no such user"]);
    let id = detached(&case, &["--rm"], "exit 3");
    let folder = case.root().join("containers").join(id);
    assert!(wait_until(Duration::from_secs(10), || !folder.exists()), "--rm left it");
}

#[test]
fn whoever_is_killed_ps_tells_the_truth() {
    need!(Root);
    let case = Case::with_base();
    // Its supervisor: all that is in it dies too.
    let id = detached(&case, &["--name", "c-a"], "sleep 1000 & sleep 1000");
    let (pid, keeper) = (first(&case, &id), supervisor(&case, &id));
    kill(keeper);
    assert!(wait_until(Duration::from_secs(10), || !is_there(pid)));
    assert!(status(&case, "c-a").starts_with("exited|Exited (137) "), "{}", status(&case, "c-a"));
    assert_eq!(text(&case, &["ps", "-q"]), "");
    case.rgraph(&["rm", "c-a"]).ok();

    // Its first process.
    let id = detached(&case, &["--name", "c-b"], "sleep 1000 & sleep 1000");
    let keeper = supervisor(&case, &id);
    kill(first(&case, &id));
    let ended = || status(&case, "c-b").starts_with("exited|Exited (137) ");
    assert!(wait_until(Duration::from_secs(10), ended), "{}", status(&case, "c-b"));
    assert!(wait_until(Duration::from_secs(10), || !is_there(keeper)));
    case.rgraph(&["rm", "c-b"]).ok();

    // The rgraph in front of it: the container is none of its.
    let script = "echo up >&2; sleep 1000";
    let args = ["run", "--network=none", "--name", "c-c", BASE, "sh", "-c", script];
    let mut run = case.start(&args);
    run.wait_for("up");
    run.signal(Signal::KILL);
    assert_eq!(run.finish().code, 137);
    assert!(status(&case, "c-c").starts_with("running|"), "{}", status(&case, "c-c"));
    case.rgraph(&["rm", "-f", "c-c"]).ok();

    // One that was to go by itself goes with the next start.
    let id = detached(&case, &["--rm", "--name", "c-d"], "sleep 1000");
    kill(supervisor(&case, &id));
    let ended = || status(&case, "c-d").starts_with("exited|");
    assert!(wait_until(Duration::from_secs(10), ended), "{}", status(&case, "c-d"));
    detached(&case, &["--name", "c-d"], "sleep 1000");
    assert!(status(&case, "c-d").starts_with("running|"), "{}", status(&case, "c-d"));
    case.rgraph(&["rm", "-f", "c-d"]).ok();
}
