//! What the store takes, how it is kept small, checked and mended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rgraph_tests::{Case, Kind, need};

/// What `du` says of a folder.
fn du(path: &Path) -> u64 {
    let out = Command::new("du").args(["-s", "--block-size=1"]).arg(path).output().expect("du");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn usage(case: &Case) -> serde_json::Value {
    let run = case.rgraph(&["du", "-v", "--format", "json"]).ok();
    serde_json::from_str(run.text()).expect("JSON")
}

fn line(v: &serde_json::Value, kind: &str, field: &str) -> u64 {
    let lines = v["Usage"].as_array().expect("lines");
    let line = lines.iter().find(|l| l["Type"] == kind).expect("the line");
    line[field].as_u64().expect("a number")
}

fn records<'v>(v: &'v serde_json::Value, kind: &str) -> Vec<&'v serde_json::Value> {
    v["Records"].as_array().expect("records").iter().filter(|r| r["Type"] == kind).collect()
}

#[track_caller]
fn within_one_percent(a: u64, b: u64) {
    assert!(a.abs_diff(b) * 100 <= b, "{a} and {b}");
}

#[test]
fn usage_is_what_the_disk_says() {
    need!(Root);
    let case = Case::with_base();
    for (n, size) in [(1, 300), (2, 700), (3, 1500)] {
        case.file("f", format!("{n}\n"));
        case.dockerfile(&format!(
            "FROM BASE\nRUN dd if=/dev/urandom of=/big bs=1k count={size} 2>/dev/null; ln /big /link\n\
             COPY f /f\nRUN --mount=type=cache,target=/c,id=c{n} dd if=/dev/zero of=/c/{n} bs=1k count=200 2>/dev/null\n"
        ));
        let to: &[&str] = if n == 3 { &["-t", "app"] } else { &["-o", "type=cacheonly"] };
        case.build(to).ok();
        let v = usage(&case);
        within_one_percent(v["TotalSize"].as_u64().expect("a number"), du(&case.root()));
        let sum: u64 =
            v["Usage"].as_array().expect("lines").iter().filter_map(|l| l["Size"].as_u64()).sum();
        assert_eq!(Some(sum), v["TotalSize"].as_u64(), "the lines are all of it: {v}");
        assert_eq!(line(&v, "Cache Mounts", "TotalCount"), n);
    }
    // The base is one layer, the layers of the two older builds are cache.
    let v = usage(&case);
    let shared = records(&v, "regular").iter().filter(|r| r["Shared"] == true).count();
    assert_eq!(shared, 4, "{v}");
    assert!(line(&v, "Build Cache", "Size") >= 1000 << 10, "{v}");
    let text = case.rgraph(&["du", "-v", "--filter", "type=exec.cachemount"]).ok();
    assert!(text.text().contains("c1") && !text.text().contains("RUN dd"), "{}", text.text());
    // Docker's other names for it.
    for words in [&["system", "df"][..], &["builder", "du"], &["buildx", "du"]] {
        let text = case.rgraph(words).ok().text().to_owned();
        assert!(text.starts_with("TYPE") && text.contains("\nTotal"), "{text}");
    }
}

#[test]
fn pruned_bytes_are_those_of_the_disk() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN dd if=/dev/urandom of=/a bs=1M count=3 2>/dev/null\nRUN dd if=/dev/urandom of=/b bs=1M count=5 2>/dev/null\n");
    case.build(&["-o", "type=cacheonly"]).ok();
    case.rgraph(&["du"]).ok();
    let before = du(&case.root());
    let dry = case.rgraph(&["prune", "--dry-run"]).ok();
    let run = case.rgraph(&["prune", "-f"]).ok();
    assert_eq!(
        dry.text().trim_end().replace("reclaimable", "reclaimed"),
        run.text().lines().last().expect("a line")
    );
    let freed = before - du(&case.root());
    assert!((8 << 20..9 << 20).contains(&freed), "{freed}");
    assert!(run.text().contains("Total reclaimed space: 8."), "{}", run.text());
    case.build(&["-o", "type=cacheonly"]).ok();
    // Bounds: the cheap one goes, or none.
    case.rgraph(&["prune", "-f", "--max-used-space", "100mb"]).ok();
    case.build(&["-o", "type=cacheonly"]).ok().all_cached();
    case.rgraph(&["prune", "-f", "--max-used-space", "4mb"]).ok();
    assert!(line(&usage(&case), "Build Cache", "Size") <= 4 << 20);
    let again = case.build(&["-o", "type=cacheonly"]).ok();
    assert_eq!(again.step("of=/a"), "CACHED", "a leaf goes first");
    case.rgraph(&["prune", "-f", "--keep-storage=100mb"]).ok();
    case.rgraph(&["prune", "-f", "--filter", "until=1h"]).ok();
    case.build(&["-o", "type=cacheonly"]).ok().all_cached();
    case.rgraph(&["prune", "-f", "--filter", "description~=of=/b"]).ok();
    let again = case.build(&["-o", "type=cacheonly"]).ok();
    assert_eq!((again.step("of=/a"), again.step("of=/b")), ("CACHED".into(), "DONE".into()));
    case.rgraph(&["prune", "-f", "--filter", "label=x"]).fails(2, &["unknown filter `label`"]);
    case.rgraph(&["prune", "-f", "--max-used-space", "x"]).fails(2, &["--max-used-space"]);
}

#[test]
fn prune_beside_builds_takes_nothing_of_theirs() {
    need!(Root);
    let case = Case::with_base();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let pruning = s.spawn(|| {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                case.rgraph(&["prune", "-f"]).ok();
                rounds += 1;
            }
            rounds
        });
        let builds: Vec<_> = (0..3)
            .map(|b| {
                let case = &case;
                s.spawn(move || {
                    for n in 0..4 {
                        let context = case.dir().join(format!("context {b} {n}"));
                        fs::create_dir(&context).expect("a folder");
                        let text = format!(
                            "FROM {base}\nRUN echo {b} > /one; sleep 0.1\nRUN cat /one > /two; sleep 0.1\n\
                             RUN --mount=type=cache,target=/c echo {n} > /c/x && sleep 0.1 && cat /c/x /two > /three\n\
                             FROM scratch\nCOPY --from=0 /one /two /three /\n",
                            base = rgraph_tests::BASE
                        );
                        fs::write(context.join("Dockerfile"), text).expect("a file");
                        let out = context.join("out");
                        let dest = format!("type=local,dest={}", out.display());
                        let context = context.display().to_string();
                        case.rgraph(&["build", "-o", &dest, &context]).ok();
                        let two = fs::read_to_string(out.join("two")).expect("the output");
                        assert_eq!(two, format!("{b}\n"));
                    }
                })
            })
            .collect();
        for b in builds {
            b.join().expect("every build is right");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(pruning.join().expect("every prune works") > 3);
    });
    let check = case.rgraph(&["store", "check", "--read-data"]);
    assert!(check.text().contains("no damage found"), "{}", check.text());
}

#[test]
fn a_build_cleans_up_after_itself() {
    need!(Root);
    let mut case = Case::with_base();
    let config = case.dir().join("config.toml");
    fs::write(&config, "[gc]\nmax-used-space = '6mb'\n").expect("a file");
    let config = config.display().to_string();
    case.env("RGRAPH_CONFIG", &config);
    // What a named image needs is not the cache's.
    case.dockerfile("FROM BASE\nRUN dd if=/dev/urandom of=/kept bs=1M count=8 2>/dev/null\n");
    case.build(&["-t", "kept"]).ok();
    for n in 0..5 {
        case.dockerfile(&format!(
            "FROM BASE\nRUN dd if=/dev/urandom of=/{n} bs=1M count=2 2>/dev/null\n"
        ));
        let run = case.build(&["-o", "type=cacheonly"]).ok();
        assert_eq!(run.stderr.contains("\ngc: removed"), n >= 2, "{n}: {}", run.stderr);
        let v = usage(&case);
        let cache = line(&v, "Build Cache", "Size") + line(&v, "Cache Mounts", "Size");
        assert!(cache <= 6 << 20, "{n}: {v}");
    }
    // Nothing changed, nothing is looked at: the state stays as it is.
    let state = case.state_but_builds();
    case.build(&["-o", "type=cacheonly"]).ok().all_cached();
    assert_eq!(case.state_but_builds(), state);
    case.dockerfile("FROM BASE\nRUN dd if=/dev/urandom of=/kept bs=1M count=8 2>/dev/null\n");
    case.build(&["-t", "kept"]).ok().all_cached();
    fs::write(&config, "[gc]\nmax-usd-space = '6mb'\n").expect("a file");
    case.build(&[]).fails(1, &["config.toml", "line 2", "max-usd-space"]);
    fs::write(&config, "[gc]\nenabled = false\nmax-used-space = 1\n").expect("a file");
    case.dockerfile("FROM BASE\nRUN echo > /new\n");
    assert!(!case.build(&[]).ok().stderr.contains("gc: removed"));
}

#[test]
fn cache_mounts_from_outside() {
    need!(Root);
    let case = Case::with_base();
    let seed = case.dir().join("seed");
    fs::create_dir(&seed).expect("a folder");
    fs::write(seed.join("start"), "seeded\n").expect("a file");
    let seed = seed.display().to_string();
    case.rgraph(&["cache-mount", "seed", "/c", &seed]).ok();
    case.rgraph(&["cache-mount", "seed", "/c", &seed]).fails(1, &["not empty", "--replace"]);
    case.dockerfile("FROM BASE\nRUN --mount=type=cache,target=/c cat /c/start && echo more > /c/more\nRUN --mount=type=cache,target=/d,id=other echo x > /d/x\n");
    let run = case.build(&[]).ok();
    assert!(run.stderr.contains(" seeded\n"), "{}", run.stderr);
    let list = case.rgraph(&["cache-mount", "ls"]).ok().text().to_owned();
    assert!(list.contains("/c ") && list.contains("other "), "{list}");
    case.rgraph(&["cache-mount", "clear", "nothing"]).fails(1, &["no such cache mount"]);
    case.rgraph(&["prune", "-f", "--filter", "type=exec.cachemount,id=other"]).ok();
    let list = case.rgraph(&["cache-mount", "ls"]).ok().text().to_owned();
    assert!(list.contains("/c ") && !list.contains("other"), "{list}");
    case.build(&[]).ok().all_cached();
    // In use: kept, and said.
    case.dockerfile("FROM BASE\nRUN --mount=type=cache,target=/c,sharing=locked echo be''gun; sleep 2; cat /c/more\n");
    let mut build = case.start(&case.build_args(&["-o", "type=cacheonly"]));
    build.wait_for(" begun");
    case.rgraph(&["cache-mount", "clear", "/c"]).fails(1, &["in use"]);
    case.rgraph(&["cache-mount", "seed", "--replace", "/c", &seed]).fails(1, &["in use"]);
    let run = build.finish().ok();
    assert!(run.stderr.contains(" more\n"), "{}", run.stderr);
    case.rgraph(&["cache-mount", "clear", "/c"]).ok();
    assert_eq!(case.rgraph(&["cache-mount", "ls"]).ok().text().lines().count(), 1);
}

/// Files of layers and blobs below the root, the largest of each kind first.
fn content(case: &Case) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo = vec![case.root().join("blobs"), case.root().join("snapshots")];
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(&dir).expect("a folder").flatten() {
            let m = fs::symlink_metadata(e.path()).expect("just listed");
            match m.is_dir() {
                true => todo.push(e.path()),
                false if m.is_file() && m.len() > 0 => out.push(e.path()),
                false => {}
            }
        }
    }
    out.sort();
    out
}

/// One byte of each file flipped: the image that comes out is the right one, or none; the check
/// names the damage, and after its repair the build is right again.
#[test]
fn a_flipped_byte_is_never_shipped() {
    need!(Root);
    let case = Case::new();
    case.file("f", "the content of a file\n");
    case.file("Dockerfile", "FROM scratch\nCOPY f /f\nCOPY Dockerfile /d\nENV A=b\n");
    let out = |name: &str| format!("type=oci,dest={}", case.out(name).display());
    case.build(&["-t", "app", "-o", &out("first.tar"), "-o", "type=image"]).ok();
    let first = rgraph_tests::Image::from_archive(&case.out("first.tar"));
    let count = content(&case).len();
    assert!(count >= 8, "{count}");
    // What was mended has other names.
    for path in (0..count).filter_map(|n| content(&case).into_iter().nth(n)) {
        let bytes = fs::read(&path).expect("a file");
        let name = path.strip_prefix(case.root()).expect("below").display().to_string();
        let mut hurt = bytes.clone();
        let at = hurt.len() / 2;
        hurt[at] ^= 0x20;
        fs::write(&path, &hurt).expect("written");
        let run = case.build(&["-o", &out("second.tar")]);
        if run.code == 0 {
            let second = rgraph_tests::Image::from_archive(&case.out("second.tar"));
            assert_eq!(second.files(), first.files(), "{name} is damaged and was shipped");
        }
        // The build has mended it, or the check finds it.
        let still = fs::read(&path).is_ok_and(|b| b == hurt);
        let check = case.rgraph(&["store", "check", "--read-data"]);
        assert_eq!(check.code, i32::from(still), "{name}: {}{}", check.text(), check.stderr);
        case.rgraph(&["store", "check", "--read-data", "--repair"]).ok();
        let check = case.rgraph(&["store", "check", "--read-data"]).ok();
        assert!(check.text().contains("no damage found"), "{name}: {}", check.text());
        case.build(&["-t", "app", "-o", &out("third.tar"), "-o", "type=image"]).ok();
        let third = rgraph_tests::Image::from_archive(&case.out("third.tar"));
        assert_eq!(third.files(), first.files(), "{name}");
    }
}

/// A folder that grew, shrank or was changed since it was measured: a build makes it anew, other commands
/// say what to do.
#[test]
fn a_changed_folder_is_made_again() {
    need!(Root);
    let case = Case::new();
    case.file("f", "the content of a file\n".repeat(1000));
    case.file("Dockerfile", "FROM scratch\nCOPY f /f\nENV A=b\n");
    let archive = case.out("a.tar").display().to_string();
    for form in ["docker", "oci,compression=uncompressed", "oci"] {
        for size in [0, 21_999, 22_001, 200_000] {
            case.build(&["-t", "app"]).ok();
            let layer = |p: &PathBuf| p.components().any(|c| c.as_os_str() == "snapshots");
            let path = content(&case).into_iter().find(layer).expect("the layer's file");
            let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
            file.set_len(size).expect("another length");
            drop(file);
            if form == "docker" {
                let save = case.rgraph(&["save", "-o", &archive, "app"]);
                save.fails(1, &["is damaged", "store check --read-data --repair"]);
                assert!(!case.out("a.tar").exists());
            }
            let output = format!("type={form},dest={archive}");
            let run = case.build(&["-o", &output]).ok();
            assert!(run.stderr.contains("building it again"), "{form} {size}: {}", run.stderr);
            if form != "docker" {
                let image = rgraph_tests::Image::from_archive(&case.out("a.tar"));
                let Kind::File(bytes) = &image.files()["f"].kind else { panic!("no file") };
                assert_eq!(bytes.len(), 22_000, "{form} {size}");
            }
            // The name still means the image on the old folder.
            case.build(&["-t", "app"]).ok();
            case.rgraph(&["save", "-o", &archive, "app"]).ok();
            fs::remove_file(&archive).expect("the archive");
            case.rgraph(&["rmi", "app"]).ok();
            case.rgraph(&["prune", "-a", "-f"]).ok();
        }
    }
}

/// The archive's tars do not stay.
#[test]
fn save_leaves_no_copies_of_layers() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN dd if=/dev/urandom of=/big bs=1M count=4 2>/dev/null\n");
    case.build(&["-t", "app"]).ok();
    let before = du(&case.root().join("blobs"));
    let path = case.out("saved.tar").display().to_string();
    case.rgraph(&["save", "-o", &path, "app"]).ok();
    assert!(fs::metadata(&path).expect("the archive").len() > 4 << 20);
    let after = du(&case.root().join("blobs"));
    assert!(after < before + (1 << 20), "{before} before, {after} after");
}

/// A file system of its own, full to the last byte.
#[test]
fn prune_works_on_a_full_disk() {
    need!(Root);
    let case = Case::new();
    let root = case.root();
    fs::create_dir(&root).expect("a folder");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs"])
        .arg(&root)
        .status()
        .expect("mount");
    assert!(mount.success());
    case.import_base(rgraph_tests::BASE);
    case.dockerfile("FROM BASE\nRUN dd if=/dev/zero of=/a bs=1M count=6 2>/dev/null\nRUN dd if=/dev/zero of=/b bs=1M count=6 2>/dev/null\n");
    case.build(&["-o", "type=cacheonly"]).ok();
    let filler = root.join("logs/filler");
    let mut file = fs::File::create(&filler).expect("a file");
    let mut written = 0;
    while let Ok(n) = std::io::Write::write(&mut file, &[0; 4096]) {
        written += n;
    }
    assert!(written > 0);
    drop(file);
    case.dockerfile("FROM BASE\nRUN dd if=/dev/zero of=/c bs=1M count=1 2>/dev/null\n");
    let full = case.build(&["-o", "type=cacheonly"]);
    assert_eq!(full.code, 1, "{}", full.stderr);
    let run = case.rgraph(&["prune", "-f"]).ok();
    assert!(run.text().contains("Total reclaimed space: 12."), "{}", run.text());
    case.build(&["-o", "type=cacheonly"]).ok();
    assert!(Command::new("umount").arg(&root).status().expect("umount").success());
}
