//! What is told of containers, and their names: `ps`, `inspect`, `rename`, `container prune`.

use std::time::Duration;

use rgraph_tests::{BASE, Case, need, wait_until};
use rustix::process::Signal;
use serde_json::Value;

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

#[test]
fn lists_are_filtered_and_cut() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nLABEL tier=web\nRUN echo x > /x\n");
    case.build(&["-t", "app:1"]).ok();
    let run = |name: &str, image: &str, script: &str, code: i32| {
        let run =
            case.rgraph(&["run", "--name", name, "--network=none", image, "sh", "-c", script]);
        assert_eq!(run.code, code, "{}", run.stderr);
    };
    run("old", BASE, "exit 3", 3);
    run("middle", "app:1", "head -c 5000 /dev/zero > /five", 0);
    run("new", BASE, "true", 0);
    let names = |args: &[&str]| -> Vec<String> {
        let all = [&["ps", "--format", "{{.Names}}"][..], args].concat();
        text(&case, &all).lines().map(str::to_owned).collect()
    };
    assert_eq!(names(&[]), [""; 0]);
    for (args, want) in [
        (&["-a"][..], &["new", "middle", "old"][..]),
        (&["-l"], &["new"]),
        (&["-n", "2"], &["new", "middle"]),
        (&["-n", "-1"], &[]),
        (&["-a", "-f", "exited=3"], &["old"]),
        (&["-a", "-f", "exited=3", "-f", "exited=0"], &["new", "middle", "old"]),
        (&["-f", "status=exited", "-f", "name=^m"], &["middle"]),
        (&["-f", "status=running"], &[]),
        (&["-a", "-f", "label=tier=web"], &["middle"]),
        (&["-a", "-f", "label=tier=db"], &[]),
        (&["-a", "-f", "ancestor=app:1"], &["middle"]),
        (&["-a", "-f", &format!("ancestor={BASE}")], &["new", "middle", "old"]),
        (&["-a", "-f", "before=middle"], &["old"]),
        (&["-a", "-f", "since=middle"], &["new"]),
        (&["-a", "-f", "network=none", "-f", "name=new"], &["new"]),
        (&["-a", "-f", "network=host"], &[]),
        (&["-a", "-f", "until=1h"], &[]),
    ] {
        assert_eq!(names(args), want, "{args:?}");
    }
    for (args, code, said) in [
        (&["ps", "-f", "nam=x"][..], 2, "did you mean `name`?"),
        (&["ps", "-f", "status=gone"], 2, "expected one of"),
        (&["ps", "-f", "before=nobody"], 1, "no such container: nobody"),
    ] {
        case.rgraph(args).fails(code, &[said]);
    }
    let sizes = text(&case, &["ps", "-as", "--filter", "name=middle"]);
    assert!(sizes.contains("SIZE") && sizes.contains("5kB (virtual "), "{sizes}");
    let full = text(&case, &["ps", "-a", "--no-trunc", "--filter", "name=middle"]);
    assert!(full.contains("\"sh -c head -c 5000 /dev/zero > /five\""), "{full}");
    let id = text(&case, &["ps", "-qa", "--no-trunc", "-f", "name=old"]);
    assert_eq!(names(&["-a", "-f", &format!("id={}", &id[..10])]), ["old"]);
    // The grouped forms.
    assert_eq!(text(&case, &["container", "ls", "-aq"]).lines().count(), 3);
    assert_eq!(text(&case, &["container", "rm", "old"]), "old\n");
    case.rgraph(&["container", "run", "--nope"]).fails(125, &["--nope"]);
}

#[test]
fn everything_is_told_as_json() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nENV A=1\nENTRYPOINT [\"sh\", \"-c\"]\nLABEL a=b\nWORKDIR /w\n");
    case.build(&["-t", "app:1"]).ok();
    let bind = format!("{}:/data:ro", case.context().display());
    let flags = ["-v", &bind, "-e", "B=2", "-u", "7", "--name", "told", "--network=none"];
    let args = [&["run"][..], &flags, &["app:1", "echo said; exit 4"]].concat();
    case.rgraph(&args).fails(4, &[]);
    let all: Value = serde_json::from_str(&text(&case, &["inspect", "told"])).expect("JSON");
    let c = &all[0];
    let id = text(&case, &["ps", "-aq", "--no-trunc"]).trim().to_owned();
    assert_eq!((&c["Id"], &c["Name"]), (&id.as_str().into(), &"/told".into()));
    assert_eq!((&c["Path"], &c["Args"][1]), (&"sh".into(), &"echo said; exit 4".into()));
    assert_eq!(c["State"]["Status"], "exited");
    assert_eq!((&c["State"]["Running"], &c["State"]["ExitCode"]), (&false.into(), &4.into()));
    assert!(c["State"]["FinishedAt"].as_str().is_some_and(|t| t.starts_with("20")), "{c}");
    let image = text(&case, &["inspect", "--type=image", "-f", "{{.Id}}", "app:1"]);
    assert_eq!(c["Image"], image.trim());
    let config = &c["Config"];
    assert_eq!(config["Entrypoint"], serde_json::json!(["sh", "-c"]));
    assert_eq!(config["Cmd"], serde_json::json!(["echo said; exit 4"]));
    let env = config["Env"].as_array().expect("variables");
    assert!(env.contains(&"A=1".into()) && env.contains(&"B=2".into()), "{env:?}");
    assert_eq!((&config["User"], &config["WorkingDir"]), (&"7".into(), &"/w".into()));
    assert_eq!(config["Labels"]["a"], "b");
    let mount = &c["Mounts"][0];
    assert_eq!((&mount["Type"], &mount["RW"]), (&"bind".into(), &false.into()));
    assert_eq!(mount["Destination"], "/data");
    assert_eq!(c["HostConfig"]["NetworkMode"], "none");
    let f = |format: &str| text(&case, &["inspect", "-s", "-f", format, "told"]);
    assert_eq!(f("{{.State.ExitCode}} {{json .Config.Cmd}}"), "4 [\"echo said; exit 4\"]\n");
    assert!(f("{{.SizeRootFs}}").trim().parse::<u64>().is_ok_and(|n| n > 100_000));

    for (args, said) in [
        (&["inspect", "nobody"][..], "no such object: nobody"),
        (&["inspect", "--type=container", "app:1"], "no such container: app:1"),
        (&["container", "inspect", "app:1"], "no such container: app:1"),
        (&["inspect", "--type=image", "told"], "no such image: told"),
    ] {
        let run = case.rgraph(args).fails(1, &[said]);
        assert_eq!(run.text(), "[]\n", "{args:?}");
    }
}

#[test]
fn names_change_and_what_has_ended_goes() {
    need!(Root);
    let case = Case::with_base();
    let script = "echo up >&2; trap 'exit 6' TERM; while :; do sleep 0.05; done";
    let mut run = case.start(&["run", "--name", "one", BASE, "sh", "-c", script]);
    run.wait_for("up");
    case.rgraph(&["run", "--name", "two", BASE, "true"]).ok();
    case.rgraph(&["rename", "one", "two"]).fails(1, &["already in use by container"]);
    case.rgraph(&["rename", "one", "-x"]).fails(2, &[]);
    case.rgraph(&["rename", "nobody", "three"]).fails(1, &["no such container: nobody"]);
    assert_eq!(text(&case, &["rename", "one", "three"]), "");
    let list = || text(&case, &["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(list(), "two exited\nthree running\n");
    case.rgraph(&["container", "prune"]).fails(1, &["add `--force`"]);
    assert!(
        text(&case, &["container", "prune", "-f", "--filter", "until=1h"]).starts_with("Total")
    );
    let pruned = text(&case, &["container", "prune", "-f"]);
    assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
    assert!(pruned.ends_with("\n\nTotal reclaimed space: 0B\n"), "{pruned}");
    assert_eq!(list(), "three running\n");
    // The name stays, though whoever keeps the container began with another.
    run.signal(Signal::TERM);
    assert_eq!(run.finish().code, 6);
    assert!(wait_until(Duration::from_secs(10), || list() == "three exited\n"), "{}", list());
    case.rgraph(&["run", "--name", "one", BASE, "true"]).ok();
    case.rgraph(&["run", "--name", "three", BASE, "true"]).fails(125, &["already in use"]);
    case.rgraph(&["rm", "three"]).ok();
}

/// A loss of power may cut a record: the other containers are there as before.
#[test]
fn a_damaged_record_hides_no_other_container() {
    need!(Root);
    let case = Case::with_base();
    for name in ["cut", "whole"] {
        case.rgraph(&["run", "--name", name, "--network=none", BASE, "true"]).ok();
    }
    let id = text(&case, &["ps", "-aq", "--no-trunc", "-f", "name=cut"]);
    let folder = case.root().join("containers").join(id.trim());
    std::fs::write(folder.join("record.json"), "").unwrap();
    let ps = case.rgraph(&["ps", "-a", "--format", "{{.Names}}"]).ok();
    assert_eq!(ps.stdout, b"whole\n");
    assert!(ps.stderr.contains("is damaged") && ps.stderr.contains(id.trim()), "{}", ps.stderr);
    case.rgraph(&["rm", "whole"]).ok();
    case.rgraph(&["run", "--rm", "--name", "next", "--network=none", BASE, "true"]).ok();
    case.rgraph(&["rm", &id[..12]]).fails(1, &["is damaged", "containers/"]);
    std::fs::remove_dir_all(&folder).unwrap();
    let ps = case.rgraph(&["ps", "-a"]).ok();
    assert_eq!(ps.stderr, "");
}

/// `image prune` leaves the build cache, `system prune` takes what nobody uses any more.
#[test]
fn images_and_all_are_pruned() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    case.build(&["-t", "a:1"]).ok();
    case.dockerfile("FROM BASE\nRUN echo b > /b\n");
    case.build(&["-t", "a:1"]).ok();
    case.rgraph(&["run", "--name", "done", "--network=none", "-v", "/data", BASE, "true"]).ok();
    let count = |args: &[&str]| text(&case, args).lines().count();
    assert_eq!(count(&["images", "-q", "-f", "dangling=true"]), 1);
    case.rgraph(&["image", "prune"]).fails(1, &["--force"]);
    case.rgraph(&["image", "prune", "-f"]).ok();
    assert_eq!(count(&["images", "-q", "-f", "dangling=true"]), 0);
    case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    case.build(&[]).ok().all_cached();
    case.rgraph(&["system", "prune"]).fails(1, &["--force"]);
    let run = case.rgraph(&["system", "prune", "-f", "--volumes"]).ok();
    let lines: Vec<&str> = run.text().lines().filter(|l| l.contains(' ')).collect();
    assert!(lines[0].starts_with("Deleted Containers"), "{lines:?}");
    assert!(lines[1].starts_with("Deleted Volumes"), "{lines:?}");
    assert!(lines[2].starts_with("Total reclaimed space: "), "{lines:?}");
    assert_eq!((lines.len(), count(&["ps", "-aq"]), count(&["volume", "ls", "-q"])), (3, 0, 0));
    case.build(&[]).ok();
    assert_eq!(count(&["images", "-q", "a:1"]), 1);
    case.rgraph(&["system", "prune", "-af"]).ok();
    assert_eq!(count(&["images", "-q"]), 0);
}

#[test]
fn versions_are_written_as_asked() {
    need!(Root);
    let case = Case::new();
    let version = env!("CARGO_PKG_VERSION");
    for (format, want) in [
        ("text", format!("rgraph {version}\n")),
        ("{{.Version}}", format!("{version}\n")),
        ("{{.Client.Version}} {{.Client.Os}}", format!("{version} linux\n")),
    ] {
        assert_eq!(text(&case, &["version", "--format", format]), want);
    }
    let json: Value = serde_json::from_str(&text(&case, &["version", "-f", "json"])).unwrap();
    assert_eq!(json["Version"], version);
    case.rgraph(&["version", "--format", "{{.Vers}}"]).fails(2, &["Vers"]);
}
