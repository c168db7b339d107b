//! What is a hit and what is a miss.

use std::fs;
use std::fs::FileTimes;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime};

use rgraph_tests::{Case, Run, need};

#[test]
fn copies_are_keyed_by_content() {
    need!(Root);
    let case = Case::with_base();
    case.file("f", "one\n").file("other", "x\n");
    case.dockerfile("FROM BASE\nCOPY f /f\nRUN cat /f\n");
    case.build(&[]).ok();
    let path = case.context().join("f");
    let touch = |seconds| {
        let t = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let file = fs::File::options().write(true).open(&path).expect("the file");
        file.set_times(FileTimes::new().set_modified(t).set_accessed(t)).expect("times");
    };
    touch(1_000_000_000);
    case.build(&[]).ok().all_cached();
    case.file("other", "another text\n");
    case.build(&[]).ok().all_cached();
    // Same size, same mtime, another content.
    case.file("f", "two\n");
    touch(1_000_000_000);
    let changed = case.build(&[]).ok();
    assert_eq!((changed.step("COPY f"), changed.step("RUN cat")), ("DONE".into(), "DONE".into()));
    assert!(changed.stderr.contains(" two\n"), "the step saw the old file:\n{}", changed.stderr);
    // Back again: the older result is still known.
    case.file("f", "one\n");
    case.build(&[]).ok().all_cached();
    case.mode("f", 0o755);
    assert_eq!(case.build(&[]).ok().step("COPY f"), "DONE");
}

#[test]
fn a_build_that_changes_nothing_writes_nothing_but_its_record() {
    need!(Root);
    let case = Case::with_base();
    // No COPY: what a file hashes to is noted once it is old enough to be trusted.
    case.dockerfile("FROM BASE\nRUN echo one >/f\nRUN cat /f\n");
    let build = || case.build(&["-t", "same:1"]).ok();
    build();
    let look = || {
        let root = case.root();
        let names = fs::read_dir(root.join("refs")).expect("a folder");
        let mut files: Vec<_> = names.map(|e| e.expect("an entry").path()).collect();
        files.extend(["index.db", "index.db-wal"].map(|name| root.join(name)));
        files.sort();
        let stamp = |m: fs::Metadata| (m.ino(), m.len(), m.mtime(), m.mtime_nsec());
        files.into_iter().map(|f| (f.clone(), fs::metadata(f).ok().map(stamp))).collect::<Vec<_>>()
    };
    let before = look();
    assert!(before.len() > 2, "{before:?}");
    for _ in 0..2 {
        build().all_cached();
        assert_eq!(look(), before);
    }
}

#[test]
fn args_and_env_are_part_of_the_key_where_they_are_seen() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo before\nARG A=1\nRUN echo after $A\n");
    case.build(&[]).ok();
    let other = case.build(&["--build-arg", "A=2"]).ok();
    assert_eq!(
        (other.step("echo before"), other.step("echo after")),
        ("CACHED".into(), "DONE".into())
    );
    case.build(&["--build-arg", "A=1"]).ok().all_cached();
    case.dockerfile("FROM BASE\nRUN echo before\nENV E=1\nRUN echo after $E\n");
    case.build(&[]).ok();
    case.dockerfile("FROM BASE\nRUN echo before\nENV E=2\nRUN echo after $E\n");
    let other = case.build(&[]).ok();
    assert_eq!(
        (other.step("echo before"), other.step("echo after")),
        ("CACHED".into(), "DONE".into())
    );
    assert!(other.stderr.contains("why: "), "a miss is explained:\n{}", other.stderr);
}

#[test]
fn no_cache_runs_everything_again() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE AS a\nRUN date +%N > /a\nFROM BASE AS b\nRUN date +%N > /b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n");
    case.build(&[]).ok();
    let again = case.build(&["--no-cache"]).ok();
    assert_eq!(
        (again.step("RUN date +%N > /a"), again.step("RUN date +%N > /b")),
        ("DONE".into(), "DONE".into())
    );
    let one = case.build(&["--no-cache-filter", "b"]).ok();
    assert_eq!(
        (one.step("RUN date +%N > /a"), one.step("RUN date +%N > /b")),
        ("CACHED".into(), "DONE".into())
    );
}

#[test]
fn a_step_can_have_a_time_to_live() {
    need!(Root);
    let case = Case::with_base();
    let text = "FROM BASE\nRUN echo below\n# cache=ttl=TIME\nRUN cat /proc/sys/kernel/random/uuid > /now\nRUN echo above\n";
    case.dockerfile(&text.replace("TIME", "24h"));
    case.build(&[]).ok();
    case.build(&[]).ok().all_cached();
    // The comment is no part of what is built.
    case.dockerfile(&text.replace("TIME", "0s"));
    let over = case.build(&[]).ok();
    let ends = |r: &Run| ["below", "uuid", "above"].map(|s| r.step(s));
    assert_eq!(ends(&over), ["CACHED", "DONE", "DONE"], "{}", over.stderr);
    assert!(over.stderr.contains("why: older than 0s (ttl)"), "{}", over.stderr);
    case.dockerfile(&text.replace("TIME", "7d"));
    case.build(&[]).ok().all_cached();
    case.build(&["--cache-ttl", "7d"]).ok().all_cached();
    let all = case.build(&["--cache-ttl=0"]).ok();
    assert_eq!(ends(&all), ["DONE", "DONE", "DONE"], "{}", all.stderr);
    case.build(&["--cache-ttl", "soon"]).fails(2, &["--cache-ttl", "soon", "24h"]);
    // A shared cache says how old its results are.
    let cache = case.out("cache").display().to_string();
    case.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]).ok();
    let fresh = Case::with_base();
    let from = format!("type=local,src={cache}");
    for (time, want) in [("24h", ["CACHED"; 3]), ("0s", ["CACHED", "DONE", "DONE"])] {
        fresh.dockerfile(&text.replace("TIME", time));
        let run = fresh.build(&["--cache-from", &from]).ok();
        assert_eq!(ends(&run), want, "{time}:\n{}", run.stderr);
    }
    case.dockerfile("FROM BASE\n# cache=ttl=soon\nRUN true\n# cache=ttl=1h\nENV A=b\n");
    let check = case.build(&["--check"]);
    assert_eq!((check.code, check.text().matches("CacheComment").count()), (1, 2));
}

#[test]
fn stages_without_cache() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE AS One\nRUN date +%N > /a\nFROM BASE AS two\nRUN date +%N > /b\n\
         FROM BASE\nRUN date +%N > /c\nCOPY --from=one /a /\nCOPY --from=two /b /\n",
    );
    case.build(&[]).ok();
    for (args, want) in [
        (&["--no-cache-filter=ONE"][..], ["DONE", "CACHED", "CACHED"]),
        (&["--no-cache-filter", "one,Two"], ["DONE", "DONE", "CACHED"]),
        (&["--no-cache-filter", "two", "--no-cache-filter", "2"], ["CACHED", "DONE", "DONE"]),
    ] {
        let run = case.build(args).ok();
        assert_eq!(
            ["> /a", "> /b", "> /c"].map(|s| run.step(s)),
            want,
            "{args:?}:\n{}",
            run.stderr
        );
    }
    case.build(&["--no-cache-filter", "tow"]).fails(1, &["no stage is called `tow`", "`two`"]);
}

/// A step that gives the tree it gave before lets what follows be a hit.
#[test]
fn an_equal_result_cuts_the_rebuild_off() {
    need!(Root);
    let case = Case::with_base();
    case.file("f", "1\n");
    case.dockerfile("FROM BASE AS a\nCOPY f /f\nRUN wc -l < /f > /n\nFROM BASE\nCOPY --from=a /n /n\nRUN cat /n\n");
    case.build(&[]).ok();
    case.file("f", "2\n");
    let run = case.build(&[]).ok();
    assert_eq!(run.step("RUN wc"), "DONE");
    assert_eq!(
        (run.step("COPY --from=a"), run.step("RUN cat")),
        ("CACHED".into(), "CACHED".into())
    );
}

/// The steps that ran; looking up a base is none.
fn ran(run: &Run) -> Vec<String> {
    let steps = run.steps().into_iter().filter(|(name, _)| !name.contains("] FROM "));
    steps.filter(|(_, end)| end != "CACHED").map(|(name, _)| name).collect()
}

fn chain(first: &str) -> String {
    let rest: String = (2..=10).map(|n| format!("RUN cat /1 > /{n}; echo {n} >> /{n}\n")).collect();
    format!("FROM BASE\nRUN {first}\n{rest}")
}

#[test]
fn the_first_of_ten_steps_edited_without_effect() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(&chain("echo 1 > /1"));
    let before = case.image(&[]);
    for first in ["echo 1   > /1", "echo 2 > /1; echo 1 > /1", "printf '1\\n' > /1"] {
        case.dockerfile(&chain(first));
        let run = case.build(&[]).ok();
        assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
        assert_eq!(case.image(&[]).config["rootfs"], before.config["rootfs"], "{first}");
    }
    // With an effect, all of them run.
    case.dockerfile(&chain("echo 3 > /1"));
    assert_eq!(ran(&case.build(&[]).ok()).len(), 10);
}

/// Bases and stages that were made again and hold what they held: nothing on them runs, and the
/// layers are those that were.
#[test]
fn equal_bases_and_stages_are_one() {
    need!(Root);
    let case = Case::with_base();
    let users = "RUN cat /made > /1\nRUN cat /1 > /2\n";
    let stages =
        |made: &str, base: &str| format!("FROM {base} AS made\nRUN {made}\nFROM made\n{users}");
    // Stages.
    case.dockerfile(&stages("echo m > /made", "BASE"));
    let first = case.build(&[]).ok();
    case.dockerfile(&stages("echo m  >  /made", "BASE"));
    let again = case.build(&[]).ok();
    assert_eq!(ran(&again).len(), 1, "{}", again.stderr);
    let image = |r: &Run| r.image();
    // The text of the step is part of the image's history.
    assert_ne!(image(&first), image(&again));
    // Times of images count whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(image(&case.build(&["--no-cache-filter", "made"]).ok()), image(&again));
    assert_eq!(image(&case.build(&["--no-cache"]).ok()), image(&again));
    assert_eq!(image(&case.build(&[]).ok()), image(&again));
    // Another name of the base, the same image.
    case.rgraph(&["tag", rgraph_tests::BASE, "busybox:other"]).ok();
    case.dockerfile(&stages("echo m  >  /made", "busybox:other"));
    let other = case.build(&[]).ok();
    other.all_cached();
    assert_eq!(image(&other), image(&again));
    // A base built again: without cache it is the same one, with another text of its step it has the
    // same layers.
    let mut bases = Vec::new();
    let mut layers = Vec::new();
    for (n, (text, flags)) in
        [("echo b > /made", &[][..]), ("echo b > /made", &["--no-cache"]), ("echo  b > /made", &[])]
            .into_iter()
            .enumerate()
    {
        let name = format!("made:{n}");
        case.dockerfile(&format!("FROM BASE\nRUN {text}\n"));
        bases.push(case.build(&[&["-t", &name], flags].concat()).ok().image());
        case.dockerfile(&format!("FROM {name}\n{users}"));
        let run = case.build(&[]).ok();
        assert_eq!(ran(&run).len(), if n == 0 { 2 } else { 0 }, "{}", run.stderr);
        layers.push(case.image(&[]).config["rootfs"].clone());
    }
    assert_eq!(bases[0], bases[1]);
    assert_eq!((&layers[0], &layers[0]), (&layers[1], &layers[2]));
}

#[test]
fn an_unchanged_file_of_a_rebuilt_stage() {
    need!(Root);
    let case = Case::with_base();
    let text = "FROM BASE AS made\nCOPY f /f\nRUN cat /f > /same; echo same > /same; mkdir /dir; cp /f /other\n\
        FROM BASE\nCOPY --from=made /same /a\nCOPY --from=made /sam* /dir /d/\n\
        RUN --mount=type=bind,from=made,source=/same,target=/m cat /m /a > /b\nRUN cat /b > /c\n";
    case.file("f", "1\n").dockerfile(text);
    let first = case.build(&[]).ok();
    for n in 2..5 {
        case.file("f", format!("{n}\n"));
        let run = case.build(&[]).ok();
        assert_eq!(ran(&run).len(), 2, "{}", run.stderr);
        assert!(ran(&run).iter().all(|s| s.starts_with("[made")), "{}", run.stderr);
        assert_eq!(run.image(), first.image());
    }
}

const STEPS: &str = "FROM BASE AS a\nCOPY f /f\nRUN cat /f /f > /g\nFROM BASE\nCOPY --from=a /g /g\nRUN echo end > /end\n";

/// Two roots with the very same base image.
fn two() -> (Case, Case, String) {
    let (first, second) = (Case::new(), Case::with_base());
    for case in [&first, &second] {
        case.file("f", "text\n");
        case.dockerfile(STEPS);
    }
    first.import_base(rgraph_tests::BASE);
    let cache = first.out("cache").display().to_string();
    (first, second, cache)
}

#[test]
fn a_local_cache_serves_a_fresh_root() {
    need!(Root);
    for mode in ["min", "max"] {
        let (first, second, cache) = two();
        first.build(&["--cache-to", &format!("type=local,dest={cache},mode={mode}")]).ok();
        let from = format!("type=local,src={cache}");
        let path = second.out("image.tar");
        let out = format!("type=oci,dest={}", path.display());
        let run = second.build(&["--cache-from", &from, "-o", &out]).ok();
        run.all_cached();
        let image = rgraph_tests::Image::from_archive(&path);
        assert_eq!((image.read("g"), image.read("end")), ("text\ntext\n".into(), "end\n".into()));
    }
}

#[test]
fn a_missing_or_damaged_cache_is_a_warning() {
    need!(Root);
    let (first, second, cache) = two();
    let from = format!("type=local,src={cache}");
    let run = second.build(&["--cache-from", &from]).ok();
    assert!(
        run.stderr.contains("is not there: nothing is imported"),
        "no word of it:\n{}",
        run.stderr
    );
    first.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]).ok();
    // Every blob flipped, every record cut.
    let mut todo = vec![std::path::PathBuf::from(&cache)];
    let mut damaged = 0;
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(dir).expect("a folder").flatten() {
            let path = e.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let mut bytes = fs::read(&path).expect("a file");
            if path.to_string_lossy().contains("blobs") {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
            } else {
                bytes.truncate(bytes.len() / 2);
            }
            fs::write(&path, bytes).expect("a file");
            damaged += 1;
        }
    }
    assert!(damaged > 4, "{damaged} files");
    let third = Case::with_base();
    third.file("f", "text\n");
    third.dockerfile(STEPS);
    let path = third.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    third.build(&["--cache-from", &from, "-o", &out]).ok();
    assert_eq!(rgraph_tests::Image::from_archive(&path).read("g"), "text\ntext\n");
}

/// Records that are whole while the blobs they name are not: found out when they are read.
#[test]
fn a_cache_whose_blobs_lie_is_not_believed() {
    need!(Root);
    let (first, second, cache) = two();
    first.build(&["--cache-to", &format!("type=local,dest={cache},mode=max")]).ok();
    for e in fs::read_dir(format!("{cache}/blobs/sha256")).expect("blobs").flatten() {
        let mut bytes = fs::read(e.path()).expect("a blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        fs::write(e.path(), bytes).expect("a blob");
    }
    let path = second.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    second.build(&["--cache-from", &format!("type=local,src={cache}"), "-o", &out]).ok();
    assert_eq!(rgraph_tests::Image::from_archive(&path).read("g"), "text\ntext\n");
}

#[test]
fn two_writers_of_one_cache() {
    need!(Root);
    let cache_home = Case::new();
    let cache = cache_home.out("cache").display().to_string();
    let cases: Vec<Case> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let case = Case::with_base();
            case.dockerfile(&format!("FROM BASE\nRUN echo {name} > /name\nRUN sleep 0.1\n"));
            case
        })
        .collect();
    let to = format!("type=local,dest={cache},mode=max");
    let running: Vec<_> =
        cases.iter().map(|c| c.start(&c.build_args(&["--cache-to", &to]))).collect();
    for r in running {
        r.finish().ok();
    }
    for (case, name) in cases.iter().zip(["one", "two"]) {
        let fresh = Case::with_base();
        fs::copy(case.context().join("Dockerfile"), fresh.context().join("Dockerfile"))
            .expect("a copy");
        let path = fresh.out("image.tar");
        let out = format!("type=oci,dest={}", path.display());
        let run =
            fresh.build(&["--cache-from", &format!("type=local,src={cache}"), "-o", &out]).ok();
        run.all_cached();
        assert_eq!(rgraph_tests::Image::from_archive(&path).read("name"), format!("{name}\n"));
    }
}
