//! Who may write a cache: signed entries, and many writers at once.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rgraph_tests::{Case, need, setting};

use crate::cache_folder::{blob, files, from, json, records, to};

#[test]
fn only_signed_entries_count_where_a_key_is_given() {
    need!(Root, Tool("openssl"));
    let case = Case::with_base();
    case.file("f", "text\n");
    case.dockerfile(
        "FROM BASE AS a\nCOPY f /f\nRUN cat /f > /g\nFROM BASE\nCOPY --from=a /g /g\nRUN cat /g\n",
    );
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(case.dir()).output();
        let out = out.expect("openssl runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    for name in ["key", "other"] {
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", name]);
        openssl(&["pkey", "-in", name, "-pubout", "-out", &format!("{name}.pub")]);
    }
    let file = |name: &str| case.out(name).display().to_string();
    let (signed, plain) = (case.out("signed"), case.out("plain"));
    case.build(&["--cache-to", &to(&signed, &format!(",mode=max,sign-key={}", file("key")))]).ok();
    case.build(&["--cache-to", &to(&plain, ",mode=max")]).ok();
    let key = format!(",key={}", file("key.pub"));
    let other = format!(",key={}", file("other.pub"));
    let build =
        |cache: &Path, more: &str| case.fresh().build(&["--cache-from", &from(cache, more)]);
    build(&signed, &key).ok().all_cached();
    build(&signed, &format!("{other}{key}")).ok().all_cached();
    build(&signed, "").ok().all_cached();
    for (cache, more, why) in [
        (&plain, &key, "it is not signed"),
        (&signed, &other, "not signed with a key that is trusted"),
    ] {
        let run = build(cache, more).ok();
        assert_eq!(run.step("RUN cat /g"), "DONE");
        assert!(run.stderr.contains("cache entry ") && run.stderr.contains(why), "{}", run.stderr);
    }
    // A record that was changed, and a digest that was.
    for (dir, step) in [("records", "RUN cat /f"), ("content", "COPY --from=a")] {
        let copy = case.out(&format!("changed-{dir}"));
        let args = [signed.as_os_str(), copy.as_os_str()];
        assert!(Command::new("cp").arg("-a").args(args).status().expect("cp").success());
        for path in files(&copy.join("rgraph/v1").join(dir)) {
            let text = fs::read_to_string(&path).expect("text");
            let text = match dir {
                "records" => text.replacen("\"description\":\"", "\"description\":\"x", 1),
                _ => format!("blake3:{}{}", "0".repeat(64), &text[71..]),
            };
            fs::write(&path, text).expect("a file");
        }
        // The digest is had from the result itself, whose record is good.
        let want = if dir == "records" { "DONE" } else { "CACHED" };
        let run = build(&copy, &key).ok();
        assert_eq!(run.step(step), want);
        assert!(run.stderr.contains("not signed with a key that is trusted"), "{}", run.stderr);
    }
}

/// Renames are all that writers use, so at every moment a reader sees whole files only, and every
/// blob that a record or the index names. `RGRAPH_CACHE_SECONDS` makes it longer.
#[test]
fn many_writers_and_a_reader_of_one_cache() {
    need!(Root);
    const WRITERS: usize = 8;
    let home = Case::new();
    let cache = home.out("cache");
    let cases: Vec<Case> = (0..WRITERS).map(|_| Case::with_base()).collect();
    let text = |n: usize, round: usize| {
        format!(
            "FROM BASE AS a\nRUN echo shared > /s\nRUN echo {n} {round} > /n\n\
             FROM BASE\nCOPY --from=a /n /n\nRUN cat /n\n"
        )
    };
    let (least, lasts) = (2, Duration::from_secs(setting("RGRAPH_CACHE_SECONDS", 0)));
    let began = Instant::now();
    let (over, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rounds: Vec<usize> = std::thread::scope(|s| {
        let (cache, over, looks) = (&cache, &over, &looks);
        s.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                look(cache);
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let writers: Vec<_> = cases
            .iter()
            .enumerate()
            .map(|(n, case)| {
                s.spawn(move || {
                    let mut round = 0;
                    while round < least || began.elapsed() < lasts {
                        case.dockerfile(&text(n, round));
                        case.build(&["--cache-to", &to(cache, ",mode=max")]).ok();
                        round += 1;
                    }
                    round
                })
            })
            .collect();
        let ends: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        ends.into_iter().map(|e| e.unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    });
    let looks = looks.load(Ordering::Relaxed);
    eprintln!("{WRITERS} writers, {rounds:?} builds, {looks} looks at all of the folder");
    assert!(looks > 10, "the reader hardly looked");
    let reader = Case::with_base();
    for (n, rounds) in rounds.into_iter().enumerate() {
        for round in 0..rounds {
            reader.dockerfile(&text(n, round));
            let run = reader.build(&["--cache-from", &from(&cache, "")]).ok();
            run.all_cached();
            assert!(!run.stderr.contains("rejected"), "{}", run.stderr);
        }
    }
    // Whoever comes next brings the index up to date.
    cases[0].build(&["--cache-to", &to(&cache, ",tag=other")]).ok();
    let left: Vec<_> = files(&cache.join("rgraph/v1/records"))
        .into_iter()
        .chain(files(&cache.join("blobs/sha256")))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Everything a reader may rely on.
fn look(cache: &Path) {
    for path in records(cache) {
        let record = json(&path);
        for layer in record["layers"].as_array().expect("layers") {
            if let Some(b) = layer.get("blob") {
                let size = fs::metadata(blob(cache, &b["digest"])).expect("its blob").len();
                assert_eq!(Some(size), b["size"].as_u64());
            }
        }
    }
    for path in files(&cache.join("rgraph/v1/content")) {
        if !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
            let text = fs::read_to_string(&path).expect("text");
            assert!(text.ends_with('\n') && text.starts_with("blake3:"), "{text:?}");
        }
    }
    if cache.join("index.json").exists() {
        for m in json(&cache.join("index.json"))["manifests"].as_array().expect("manifests") {
            let list = json(&blob(cache, &m["digest"]));
            for l in list["layers"].as_array().expect("layers") {
                assert!(blob(cache, &l["digest"]).is_file(), "{l}");
            }
        }
    }
}
