//! Volumes: filled from the image, shared, removed with their container or kept.

use std::fs;

use rgraph_tests::{BASE, Case, need};
use serde_json::Value;

fn text(case: &Case, args: &[&str]) -> String {
    case.rgraph(args).ok().text().to_owned()
}

fn sh(case: &Case, flags: &[&str], image: &str, script: &str) -> String {
    let args = [&["run", "--network=none"], flags, &[image, "sh", "-c", script]].concat();
    text(case, &args)
}

fn volumes(case: &Case) -> Vec<String> {
    text(case, &["volume", "ls", "-q"]).lines().map(str::to_owned).collect()
}

/// An image with a volume that has files of others in it.
fn with_volume() -> Case {
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\nRUN mkdir -p /var/db/sub && echo of-the-image > /var/db/sub/f && \
         chown -R 7:8 /var/db && chmod 1770 /var/db\nVOLUME /var/db /empty\n",
    );
    case.build(&["-t", "db:1"]).ok();
    case
}

#[test]
fn volumes_of_an_image_are_filled_and_go_with_their_container() {
    need!(Root);
    let case = with_volume();
    let script = "cat /var/db/sub/f; stat -c '%a %u %g' /var/db; echo more > /var/db/more";
    assert_eq!(sh(&case, &["--name", "one"], "db:1", script), "of-the-image\n1770 7 8\n");
    let all = volumes(&case);
    assert!(all.len() == 2 && all.iter().all(|v| v.len() == 64), "{all:?}");
    // They are no part of what the container changed.
    let diff = text(&case, &["diff", "one"]);
    assert!(!diff.contains("/var/db"), "{diff}");
    let told: Value = serde_json::from_str(&text(&case, &["inspect", "one"])).expect("JSON");
    let mounts = told[0]["Mounts"].as_array().expect("mounts");
    let mount = mounts.iter().find(|m| m["Destination"] == "/var/db").expect("the volume");
    assert_eq!((&mount["Type"], &mount["RW"]), (&"volume".into(), &true.into()));
    let name = mount["Name"].as_str().expect("a name");
    assert_eq!(
        text(&case, &["ps", "-a", "-f", &format!("volume={name}"), "--format={{.Names}}"]),
        "one\n"
    );
    let out = case.out("more");
    case.rgraph(&[
        "cp",
        "one:/var/db/more",
        &out.parent().expect("a folder").display().to_string(),
    ]);
    case.rgraph(&["volume", "rm", name]).fails(1, &["in use by container one"]);
    // Without -v they stay, and `prune` takes them.
    sh(&case, &["--name", "two"], "db:1", "true");
    text(&case, &["rm", "-v", "two"]);
    assert_eq!(volumes(&case), all);
    text(&case, &["rm", "one"]);
    assert_eq!(volumes(&case), all);
    let pruned = text(&case, &["volume", "prune", "-f"]);
    assert!(pruned.starts_with("Deleted Volumes:\n") && pruned.contains(name), "{pruned}");
    assert_eq!(volumes(&case), [""; 0]);
    // --rm takes those without a name along, and no other.
    sh(&case, &["--rm", "-v", "kept:/var/db"], "db:1", "echo x > /empty/x");
    assert_eq!(volumes(&case), ["kept"]);
    assert_eq!(fs::read_dir(case.root().join("volumes")).expect("a folder").count(), 1);
}

#[test]
fn named_volumes_are_shared_and_kept() {
    need!(Root);
    let case = with_volume();
    assert_eq!(text(&case, &["volume", "create", "--label", "a=b", "mine"]), "mine\n");
    let script = "cat /var/db/sub/f; echo first > /var/db/first";
    assert_eq!(sh(&case, &["--rm", "-v", "mine:/var/db"], "db:1", script), "of-the-image\n");
    // What is in it stays, whatever the image has.
    let script = "ls /d; cat /d/first; touch /d/x 2>/dev/null || echo refused";
    let seen = sh(&case, &["--rm", "-v", "mine:/d:ro"], BASE, script);
    assert_eq!(seen, "first\nsub\nfirst\nrefused\n");
    let seen = sh(&case, &["--rm", "--mount", "type=volume,src=mine,dst=/d"], BASE, "ls /d");
    assert_eq!(seen, "first\nsub\n");
    let nocopy = ["--rm", "--mount", "src=bare,dst=/var/db,volume-nocopy"];
    assert_eq!(sh(&case, &nocopy, "db:1", "ls -A /var/db"), "");
    assert_eq!(text(&case, &["volume", "ls", "-q", "-f", "label=a=b"]), "mine\n");
    let table = text(&case, &["volume", "ls"]);
    assert!(
        table.starts_with("DRIVER    VOLUME NAME\nlocal     bare\nlocal     mine\n"),
        "{table}"
    );
    let told: Value = serde_json::from_str(&text(&case, &["volume", "inspect", "mine"])).unwrap();
    assert_eq!((&told[0]["Name"], &told[0]["Labels"]["a"]), (&"mine".into(), &"b".into()));
    let at = told[0]["Mountpoint"].as_str().expect("a path");
    assert_eq!(fs::read_to_string(format!("{at}/first")).expect("a file"), "first\n");
    // Files go in and out of it while no container runs.
    sh(&case, &["--name", "holder", "-v", "mine:/d"], BASE, "true");
    case.file("put", "put\n");
    let put = case.context().join("put").display().to_string();
    case.rgraph(&["cp", &put, "holder:/d/put"]).ok();
    assert_eq!(fs::read_to_string(format!("{at}/put")).expect("a file"), "put\n");
    let tar = case.rgraph(&["cp", "holder:/d/first", "-"]).ok().stdout;
    assert!(tar.windows(6).any(|w| w == b"first\n"));
    text(&case, &["rm", "-v", "holder"]);
    assert_eq!(text(&case, &["volume", "prune", "-f"]), "Total reclaimed space: 0B\n");
    assert_eq!(text(&case, &["volume", "rm", "mine"]), "mine\n");
    let pruned = text(&case, &["volume", "prune", "-fa"]);
    assert!(pruned.contains("bare\n"), "{pruned}");
    for (args, code, said) in [
        (&["volume", "rm", "none"][..], 1, "no such volume: none"),
        (&["volume", "inspect", "none"], 1, "no such volume: none"),
        (&["volume", "create", "a/b"], 2, "only [a-zA-Z0-9]"),
        (&["volume", "create", "-d", "nfs", "x"], 1, "not supported yet"),
        (&["volume", "prune"], 1, "--force"),
        (&["run", "-v", "/a", "--tmpfs", "/a", BASE], 125, "duplicate mount point"),
    ] {
        case.rgraph(args).fails(code, &[said]);
    }
    case.rgraph(&["volume", "rm", "-f", "none"]).ok();
}

#[test]
fn memory_and_folders_by_mount() {
    need!(Root);
    let case = Case::with_base();
    case.file("data/f", "host\n");
    let folder = case.context().join("data").display().to_string();
    let mount = format!("type=bind,source={folder},target=/b,readonly");
    let script = "cat /b/f; touch /b/x 2>/dev/null || echo refused; grep -c ' /t tmpfs' /proc/mounts; \
                  dd if=/dev/zero of=/t/big bs=1k count=200 2>/dev/null || echo full";
    let seen =
        sh(&case, &["--name", "mem", "--mount", &mount, "--tmpfs", "/t:size=64k"], BASE, script);
    assert_eq!(seen, "host\nrefused\n1\nfull\n");
    assert!(!text(&case, &["diff", "mem"]).contains("/t/big"));
    let du: Vec<Value> = text(&case, &["system", "df", "--format", "json"])
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    let line = |kind: &str| du.iter().find(|l| l["Type"] == kind).expect("a line").clone();
    let containers = line("Containers");
    assert_eq!((&containers["TotalCount"], &containers["Active"]), (&1.into(), &0.into()));
    let bytes = |what: &str| containers[what].as_u64().expect("a number");
    // But for the folder that they all lie in.
    assert!(
        bytes("Reclaimable") > 0 && bytes("Size") - bytes("Reclaimable") < 20_000,
        "{containers}"
    );
    sh(&case, &["--rm", "-v", "five:/v"], BASE, "head -c 5000000 /dev/zero > /v/five");
    let du = text(&case, &["system", "df"]);
    let row = du.lines().find(|l| l.starts_with("Local Volumes")).expect("a row").to_owned();
    assert!(row.contains(" 1 ") && row.contains("5.0"), "{row}");
}

#[test]
fn an_image_in_use_loses_its_names_by_force_only() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nENV A=old B=/b\nRUN echo x > /x\n");
    case.build(&["-t", "app:1"]).ok();
    case.rgraph(&["run", "--name", "user", "app:1", "sh", "-c", "echo y > /y"]).ok();
    case.rgraph(&["rmi", "app:1"]).fails(1, &["must be forced", "stopped container"]);
    assert_eq!(text(&case, &["rmi", "-f", "app:1"]), "Untagged: app:1\n");
    // The container is whole all the same. What `-c` names is the image's.
    let change = ["commit", "-c", "ENV C=$A:${B}/c D=$NONE", "-c", "WORKDIR $B", "user", "new:1"];
    text(&case, &change);
    let format = "{{range .Config.Env}}{{.}} {{end}}{{.Config.WorkingDir}}";
    let told = text(&case, &["inspect", "-f", format, "new:1"]);
    assert!(told.contains("A=old ") && told.contains("C=old:/b/c "), "{told}");
    assert!(told.contains("D= ") && told.ends_with(" /b\n"), "{told}");
    assert_eq!(text(&case, &["run", "--rm", "new:1", "cat", "/x", "/y"]), "x\ny\n");
}
