//! Hosts that give little or lie: few descriptors, clocks that are wrong.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rgraph_tests::{Access, Case, Image, Registry, need};

/// With many steps at once, with a registry, and with a context of many folders.
#[test]
fn few_descriptors() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("base:1");
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE\nRUN echo pushed > /pushed\n");
    maker.build(&["--push", "-t", &name]).ok();
    let stages: String =
        (0..6).map(|n| format!("FROM {name} AS s{n}\nCOPY d /d\nRUN echo {n} > /{n}\n")).collect();
    let copies: String = (0..6).map(|n| format!("COPY --from=s{n} /{n} /pushed /d/\n")).collect();
    let dockerfile = format!("{stages}FROM {name}\n{copies}RUN cat /d/? > /all\n");
    let mut worked = Vec::new();
    for most in [64, 48, 32, 24, 16, 10] {
        let case = Case::new();
        case.file("Dockerfile", &dockerfile);
        for n in 0..20 {
            case.file(&format!("d/{n}x/{n}/{n}/f"), "f");
        }
        let path = case.out("image.tar");
        let out = format!("type=oci,dest={}", path.display());
        let cache = format!("type=local,dest={},mode=max", case.out("cache").display());
        let args = case.build_args(&["-o", &out, "--cache-to", &cache]);
        let run = case.rgraph_with_files(most, &args);
        if run.code == 0 {
            assert_eq!(Image::from_archive(&path).read("all").lines().count(), 6, "{most}");
            worked.push(most);
        } else {
            run.fails(1, &["oo many open files", "ulimit -n"]);
            assert!(!path.exists(), "{most}");
        }
        // What was done with few is right with enough.
        let all = case.rgraph(&args).ok();
        assert_eq!(Image::from_archive(&path).read("all").lines().count(), 6, "{}", all.stderr);
        let check = case.rgraph(&["store", "check", "--read-data"]).ok();
        assert!(check.text().contains("no damage found"), "{most}: {}", check.text());
    }
    eprintln!("built with at most {worked:?} descriptors");
    assert!(worked.contains(&64), "64 are not enough");
}

/// A year as a time of files; the years are those of programs that subtract or overflow.
fn year(n: i64) -> SystemTime {
    let seconds = Duration::from_secs((n - 1970).unsigned_abs() * 31_556_952);
    if n < 1970 { SystemTime::UNIX_EPOCH - seconds } else { SystemTime::UNIX_EPOCH + seconds }
}

/// Dates all files; of a state root those that are the store's own, not the content of layers.
fn date_all(dir: &Path, time: SystemTime) {
    for e in fs::read_dir(dir).expect("a folder").flatten() {
        let Ok(meta) = fs::symlink_metadata(e.path()) else { continue };
        if e.file_name() == "fs" {
            continue;
        }
        if meta.is_dir() {
            date_all(&e.path(), time);
        }
        if meta.is_dir() || meta.is_file() {
            let Ok(file) = fs::File::open(e.path()) else { continue };
            file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time))
                .expect("times");
        }
    }
}

#[test]
fn times_of_files_may_lie() {
    need!(Root);
    for n in [1969, 1970, 2100] {
        let case = Case::with_base();
        case.file("d/f", "one\n").file("d/g", "g\n");
        case.dockerfile("FROM BASE\nCOPY d /d\nRUN cat /d/f > /f\n");
        date_all(&case.context(), year(n));
        assert_eq!(case.image(&["-t", "app"]).read("f"), "one\n", "{n}");
        // Those of the store's own files, its locks, logs and index too.
        date_all(&case.root(), year(n));
        case.build(&["-t", "app"]).ok().all_cached();
        case.file("d/f", "two\n");
        date_all(&case.context(), year(n));
        assert_eq!(case.image(&[]).read("f"), "two\n", "{n}");
        case.file("d/f", "one\n");
        date_all(&case.context(), year(n));
        case.build(&["-t", "app"]).ok().all_cached();
        let check = case.rgraph(&["store", "check", "--read-data"]).ok();
        assert!(check.text().contains("no damage found"), "{n}: {}", check.text());
    }
}

/// What a live build uses is kept whatever its files' times say, and what is not used goes.
#[test]
fn times_of_files_keep_and_free_nothing() {
    need!(Root);
    for n in [1969, 2100] {
        let case = Case::with_base();
        case.dockerfile(
            "FROM BASE\nRUN echo one > /one\nRUN echo begun; sleep 1; cat /one > /two\nRUN cat /two /one > /all\n",
        );
        let path = case.out("image.tar");
        let out = format!("type=oci,dest={}", path.display());
        let mut running = case.start(&case.build_args(&["-o", &out]));
        running.wait_for(" begun\n");
        date_all(&case.root(), year(n));
        case.rgraph(&["prune", "-af"]).ok();
        running.finish().ok();
        assert_eq!(Image::from_archive(&path).read("all"), "one\none\n");
        date_all(&case.root(), year(n));
        let pruned = case.rgraph(&["prune", "-af"]).ok();
        assert!(!pruned.text().contains("reclaimed space: 0 B"), "{n}: {}", pruned.text());
        let check = case.rgraph(&["store", "check", "--read-data"]).ok();
        assert!(check.text().contains("no damage found"), "{n}: {}", check.text());
    }
}
