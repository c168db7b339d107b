//! Why a step ran, as it is told on the screen and by `rgraph explain`.

mod builds;
mod files;
mod instructions;
mod settings;
mod sources;
mod world;

use rgraph_tests::{Access, BASE, Case, Registry, need};
use world::{World, nothing};

/// The first of these names the second's image from now on.
fn tag(case: &Case, image: &str, name: &str) {
    case.rgraph(&["tag", image, name]).ok();
}

#[test]
fn bases_that_move() {
    need!(Root);
    let world = World::new("FROM BASE\nRUN echo a\nCOPY --from=tool:1 /etc/tool /tool\n", &[], &[]);
    let case = &world.case;
    tag(case, BASE, "first:1");
    for (name, text) in [("second:1", "2"), ("tool:1", "3"), ("tool:2", "4"), ("third:1", "5")] {
        case.dockerfile(&format!("FROM BASE\nRUN mkdir -p /etc && echo {text} > /etc/tool\n"));
        case.build(&["-t", name]).ok();
    }
    tag(case, "tool:1", "tool:first");
    let moved = |name: &str, line: &str| {
        let (start, rest) = line.split_once(" moved ").expect("a line about a base");
        assert_eq!(start, format!("base {name}"));
        let (old, new) =
            rest.split_once(';').unwrap_or((rest, "")).0.split_once(" to ").expect("pins");
        assert!(old != new && old.len() == 12 && new.len() == 12, "{line}");
    };
    // The image it stands on.
    world.reset();
    tag(case, "second:1", BASE);
    case.build(&[]).ok();
    let why = world.why();
    assert_eq!(why.len(), 2, "{why:?}");
    moved("busybox:test", why[0].strip_prefix("stage-0 2: ").expect("the first step"));
    assert_eq!(why[1], "stage-0 3: step 2 above gave other files: etc/tool (new)");
    tag(case, "first:1", BASE);
    // The image it copies from.
    world.reset();
    tag(case, "tool:2", "tool:1");
    case.build(&[]).ok();
    let why = world.why();
    assert_eq!(why.len(), 1, "{why:?}");
    moved("tool:1", why[0].strip_prefix("stage-0 3: ").expect("the copy"));
    tag(case, "tool:first", "tool:1");
    // Another image.
    world.check(&[(
        "another base",
        &|w| w.edit("BASE", "third:1"),
        &[],
        &[
            "stage-0 2: base: busybox:test to third:1",
            "stage-0 3: step 2 above gave other files: etc/tool (new)",
        ],
    )]);
}

#[test]
fn what_was_removed_is_told_as_such() {
    need!(Root);
    let world = World::new("FROM BASE\nRUN echo a > /a\n", &[], &[]);
    world.reset();
    world.case.rgraph(&["prune", "-f"]).ok();
    world.case.build(&[]).ok();
    assert_eq!(world.why(), ["2: built before, but the result is gone"]);
    // Another file, another place.
    world.case.file("Other", format!("FROM {BASE}\nRUN echo b > /b\n"));
    let other = world.path("Other").display().to_string();
    world.case.build(&["-f", &other]).ok();
    assert_eq!(world.why(), ["2: not built here before"]);
}

#[test]
fn a_result_that_is_too_old_says_so_and_nothing_else_does() {
    need!(Root);
    let world = World::new(
        "FROM BASE\nRUN true\n# cache=ttl=24h\nRUN cat /proc/sys/kernel/random/uuid > /now\n\
         # cache=ttl=7d\nRUN echo same > /same\nRUN echo above\n",
        &[],
        &[],
    );
    world.check(&[
        ("nothing", &nothing, &[], &[]),
        ("still good", &|w| w.edit("24h", "12h"), &[], &[]),
        (
            "other files",
            &|w| w.edit("24h", "0s"),
            &[],
            &[
                "3: older than 0s (ttl)",
                "4: step 3 above gave other files: now",
                "5: step 4 above gave other files: now",
            ],
        ),
        ("the same files", &|w| w.edit("7d", "0s"), &[], &["4: older than 0s (ttl)"]),
        (
            "the command too",
            &|w| w.edit("24h\nRUN cat", "0s\nRUN  head -n 9"),
            &[],
            &[
                "3: command: `cat /proc/sys/kernel/random/uuid > /now` to \
             `head -n 9 /proc/sys/kernel/random/uuid > /now`",
                "4: step 3 above gave other files: now",
                "5: step 4 above gave other files: now",
            ],
        ),
        (
            "of all",
            &nothing,
            &["--cache-ttl=0"],
            &[
                "2: older than 0s (ttl)",
                "3: older than 0s (ttl)",
                "4: step 3 above gave other files: now",
                "5: step 4 above gave other files: now",
            ],
        ),
    ]);
    let json = world.case.rgraph(&["explain", "--format=json"]).ok();
    assert!(json.text().contains(r#""cause":"expired""#), "{}", json.text());
}

/// Records and lists are on the disk, and stay when the cache goes.
#[test]
fn the_store_knows_what_explains() {
    need!(Root);
    let world = World::new("FROM BASE\nCOPY src /src\n", &["src/a=1"], &[]);
    world.reset();
    let kept = || -> Vec<String> {
        let ours = |n: &String| n.starts_with("builds/") || n.starts_with("file-lists/");
        world.case.state().into_keys().filter(ours).collect()
    };
    let before = kept();
    assert_eq!(before.len(), 2, "{before:?}");
    let usage = world.case.rgraph(&["du", "-v", "--format=json"]).ok();
    let usage: serde_json::Value = serde_json::from_str(usage.text()).expect("JSON");
    let lines = usage["Usage"].as_array().expect("lines");
    let sizes = |l: &serde_json::Value| l["Size"].as_u64().expect("a number");
    let logs = lines.iter().find(|l| l["Type"] == "Logs").map(sizes).expect("the line");
    let rest = |name: &str| usage["Rest"][name].as_u64().expect("a number");
    assert!(rest("builds") >= 4096 && rest("file-lists") >= 4096, "{usage}");
    assert_eq!(logs, rest("logs") + rest("builds") + rest("file-lists"));
    assert_eq!(Some(lines.iter().map(sizes).sum()), usage["TotalSize"].as_u64());
    let check = world.case.rgraph(&["store", "check", "--repair"]).ok();
    assert!(!check.text().contains("builds") && !check.text().contains("file-lists"));
    world.case.rgraph(&["prune", "-f", "-a"]).ok();
    assert_eq!(kept(), before);
}

#[test]
fn an_imported_cache_of_another_platform_is_named() {
    need!(Root);
    let (theirs, ours) = (Case::with_base(), Case::with_base());
    let cache = theirs.out("cache").display().to_string();
    for case in [&theirs, &ours] {
        case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    }
    let to = format!("type=local,dest={cache}");
    theirs.build(&["--platform=linux/386", "--cache-to", &to]).ok();
    let why = format!("why: not built here before; the cache of {cache} has it for linux/386\n");
    let from = format!("type=local,src={cache}");
    let run = ours.build(&["--cache-from", &from]).ok();
    assert!(run.stderr.contains(&why), "{}", run.stderr);
    // What the cache no longer has is not told of.
    theirs.dockerfile("FROM BASE\nRUN echo b > /b\n");
    theirs.build(&["--platform=linux/386", "--cache-to", &format!("{to},reset=true")]).ok();
    for (command, why) in
        [("echo a > /a", "why: not built here before\n".to_owned()), ("echo b > /b", why)]
    {
        let fresh = ours.fresh();
        fresh.dockerfile(&format!("FROM BASE\nRUN {command}\n"));
        let run = fresh.build(&["--cache-from", &from]).ok();
        assert!(run.stderr.contains(&why), "{command}: {}", run.stderr);
    }
}

/// As from a folder: an artifact, an image of another platform, an index without one's own.
#[test]
fn a_cache_in_a_registry_names_other_platforms() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let (theirs, ours) = (Case::with_base(), Case::with_base());
    for case in [&theirs, &ours] {
        case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    }
    let names = ["cache:1", "image:1", "index:1"].map(|n| registry.name(n));
    let to = format!("type=registry,ref={}", names[0]);
    theirs.build(&["--platform=linux/386", "--cache-to", &to]).ok();
    let image = |n: &str, platforms: &str| {
        let inline = ["--cache-to", "type=inline", "--push", "-t", n, "--platform", platforms];
        theirs.build(&inline).ok();
    };
    image(&names[1], "linux/386");
    image(&names[2], "linux/386,linux/arm/v7");
    for (n, name) in names.iter().enumerate() {
        let fresh = ours.fresh();
        let run = fresh.build(&["--cache-from", name]).ok();
        let second = if n == 2 {
            format!(", the cache of {name} has it for linux/arm/v7")
        } else {
            String::new()
        };
        let first = format!("not built here before; the cache of {name} has it for linux/386");
        assert!(
            run.stderr.contains(&format!("why: {}\n", first.clone() + &second)),
            "{}",
            run.stderr
        );
        // Of a step that it does not have, nothing is told.
        fresh.dockerfile("FROM BASE\nRUN echo other > /a\n");
        let other = fresh.fresh();
        let run = other.build(&["--cache-from", name]).ok();
        assert!(run.stderr.contains("why: not built here before\n"), "{}", run.stderr);
    }
}

#[test]
fn a_failed_build_is_explained_and_does_not_hide_the_one_before() {
    need!(Root);
    let world = World::new("FROM BASE\nRUN echo a > /a\nRUN echo b\n", &[], &[]);
    world.reset();
    world.edit("echo b", "exit 3");
    world.case.build(&[]).fails(1, &["why: command: `echo b` to `exit 3`"]);
    let text = world.case.rgraph(&["explain"]).ok();
    for part in [
        "  failed in ",
        "error: exit code: 3\n",
        "[2/3] RUN echo a > /a  (cached, line 2)",
        "[3/3] RUN exit 3  (failed after ",
        "why: command: `echo b` to `exit 3`\n",
    ] {
        assert!(text.text().contains(part), "no `{part}` in:\n{}", text.text());
    }
    world.edit("echo b", "echo c");
    world.case.build(&[]).ok();
    assert_eq!(world.why(), ["3: command: `echo b` to `echo c`"]);
    world.case.dockerfile("FROM BASE\nRUNN x\n");
    world.case.build(&[]).fails(1, &[]);
    let text = world.case.rgraph(&["explain"]).ok();
    assert!(text.text().contains("error: ") && text.text().contains("RUNN"), "{}", text.text());
}

#[test]
fn builds_and_steps_are_asked_for_by_name() {
    need!(Root);
    let world = World::new("FROM BASE AS one\nRUN echo a\nRUN echo b\n", &[], &[]);
    world.case.rgraph(&["explain"]).fails(1, &["nothing was built"]);
    world.reset();
    world.case.build(&[]).ok().all_cached();
    let rgraph = |args: &[&str]| world.case.rgraph(args);
    let ids = rgraph(&["builds", "-q"]).ok();
    let ids: Vec<&str> = ids.text().lines().collect();
    assert_eq!(ids.len(), 2);
    let (cached, ran) = (rgraph(&["explain"]).ok(), rgraph(&["explain", ids[1]]).ok());
    assert_eq!(cached.text().matches("(cached").count(), 3);
    assert_eq!(ran.text().matches("why: not built here before").count(), 2);
    assert_eq!(rgraph(&["explain", "latest"]).ok().text(), cached.text());
    let one = rgraph(&["explain", &ids[1][..7], "echo b"]).ok();
    assert!(one.text().contains("echo b") && !one.text().contains("echo a"), "{}", one.text());
    assert_eq!(rgraph(&["explain", ids[1], "3"]).ok().text(), one.text());
    // A word that is no build is a step of the newest.
    assert!(rgraph(&["explain", "echo b"]).ok().text().contains("(cached"));
    rgraph(&["explain", ids[1], "9"]).fails(1, &["no step 9"]);
    rgraph(&["explain", ids[1], "RUN"]).fails(1, &["may be step 2 or 3"]);
    rgraph(&["explain", ids[1], "nothing"]).fails(1, &["has no step `nothing`"]);
    rgraph(&["explain", "zz", "1"]).fails(1, &["no build `zz` is known", "rgraph builds"]);
    rgraph(&["explain", "--format=xml"]).fails(2, &["xml"]);
    let json = rgraph(&["builds", "--format=json"]).ok();
    let first: serde_json::Value =
        serde_json::from_str(json.text().lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["id"], &first["cached"]), (&ids[0].into(), &3.into()));
    let table = rgraph(&["builds"]).ok();
    assert!(table.text().starts_with("BUILD") && table.text().lines().count() == 3);
}

/// A cached build leaves its record and nothing else.
#[test]
fn a_cached_build_writes_one_small_file() {
    need!(Root);
    let world = World::new("FROM BASE\nCOPY src /src\nRUN true\n", &["src/a=1"], &[]);
    world.reset();
    // Only then a file's stamp is trusted, and written down once.
    std::thread::sleep(std::time::Duration::from_millis(100));
    world.case.build(&[]).ok().all_cached();
    let lists = |state: &std::collections::BTreeMap<String, u64>| {
        state.keys().filter(|n| n.starts_with("file-lists/")).count()
    };
    let before = world.case.state();
    assert_eq!(lists(&before), 1, "the list of what was copied");
    world.case.build(&[]).ok().all_cached();
    let mut after = world.case.state();
    after.retain(|name, size| before.get(name) != Some(size));
    assert_eq!(after.len(), 1, "{after:?}");
    assert!(after.iter().all(|(n, size)| n.starts_with("builds/") && *size < 4096), "{after:?}");
}

#[test]
fn a_build_of_several_targets_names_them_all() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE AS a\nRUN echo a\nFROM BASE AS b\nRUN echo b\n");
    case.build(&["--network=none", "--target=b", "--target=a"]).ok();
    let text = case.rgraph(&["explain"]).ok();
    assert!(text.text().contains("Dockerfile, target b, a\n"), "{}", text.text());
}
