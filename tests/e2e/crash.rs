//! Ends that nobody planned: nothing stays behind, and the next build is right.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rgraph_tests::{Access, Case, Entry, Image, Kind, Registry};
use rgraph_tests::{has_process, mounts_below, need, setting, wait_until};
use rustix::process::Signal;

use crate::soundness::random::Random;

/// How long the last process of a step may outlive its builder.
const SOON: Duration = Duration::from_secs(5);

/// Seconds that no other step sleeps: what finds it in `/proc`.
fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{:03}", 10_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
fn nothing_left(case: &Case, marker: &str) {
    let gone = wait_until(SOON, || !has_process(&format!("sleep\0{marker}")));
    assert!(gone, "a process of the step lives on");
    let root = case.root();
    assert!(wait_until(SOON, || !has_process(&root.display().to_string())), "a helper lives on");
    assert_eq!(mounts_below(&root), Vec::<String>::new());
}

fn sleeping(case: &Case, marker: &str) -> rgraph_tests::Background {
    // In the background of its shell, and once more behind a pipe: no easy prey.
    case.dockerfile(&format!(
        "FROM BASE\nRUN echo first > /first\nRUN echo > /half; sleep {marker} & echo be''gun; sleep {marker} | cat\n"
    ));
    let mut run = case.start(&case.build_args(&["-t", "app"]));
    run.wait_for(" begun");
    assert!(wait_until(SOON, || has_process(&format!("sleep\0{marker}"))), "the step runs");
    run
}

#[track_caller]
fn next_is_right(case: &Case) {
    case.dockerfile("FROM BASE\nRUN echo first > /first\nRUN ls / > /list\n");
    let path = case.out("after.tar");
    let run = case.build(&["-o", &format!("type=oci,dest={}", path.display())]).ok();
    assert_eq!(run.step("echo first"), "CACHED");
    let list = Image::from_archive(&path).read("list");
    assert!(list.contains("first\n") && !list.contains("half"), "{list}");
}

#[test]
fn kill_in_a_step() {
    need!(Root);
    let (case, marker) = (Case::with_base(), marker());
    let run = sleeping(&case, &marker);
    run.signal(Signal::KILL);
    assert_eq!(run.finish().code, 137);
    nothing_left(&case, &marker);
    next_is_right(&case);
}

#[test]
fn interrupt_and_terminate_in_a_step() {
    need!(Root);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (case, marker) = (Case::with_base(), marker());
        let run = sleeping(&case, &marker);
        run.signal(signal);
        let run = run.finish();
        assert_eq!(run.code, code, "{}", run.stderr);
        nothing_left(&case, &marker);
        assert_eq!(
            case.rgraph(&["images", "-q"]).ok().text().lines().count(),
            1,
            "an image was made"
        );
        next_is_right(&case);
    }
}

#[test]
fn a_second_interrupt_ends_at_once() {
    need!(Root);
    let (case, marker) = (Case::with_base(), marker());
    let run = sleeping(&case, &marker);
    run.signal(Signal::INT);
    run.signal(Signal::INT);
    assert_eq!(run.finish().code, 130);
    nothing_left(&case, &marker);
}

/// Killed at several moments of writing its archive: the file is the old one or the new one.
#[test]
fn kill_in_an_export() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN dd if=/dev/urandom of=/big bs=1M count=48 2>/dev/null && echo one > /which\n");
    let path = case.out("image.tar");
    let out = format!("type=oci,dest={}", path.display());
    std::fs::write(&path, "the older file").expect("a file");
    let mut killed = 0;
    for pause in [0, 20, 60, 150, 300] {
        let mut run = case.start(&case.build_args(&["-o", &out]));
        run.wait_for("] exporting\n".trim_start_matches("] "));
        std::thread::sleep(Duration::from_millis(pause));
        run.signal(Signal::KILL);
        killed += u32::from(run.finish().code == 137);
        let now = std::fs::read(&path).expect("the file stays");
        if now != b"the older file" {
            assert_eq!(Image::from_archive(&path).read("which"), "one\n");
        }
        assert_eq!(mounts_below(&case.root()), Vec::<String>::new());
    }
    assert!(killed > 0, "every export was over before it was killed");
    let run = case.build(&["-o", &out]).ok();
    run.all_cached();
    let image = Image::from_archive(&path);
    assert_eq!(image.read("which"), "one\n");
    let left: Vec<_> = std::fs::read_dir(case.dir())
        .expect("our folder")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !["root", "context", "docker", "image.tar"].contains(&&n[..]))
        .collect();
    eprintln!("left beside the output by killed exports: {left:?}");
}

/// All of an image's files but their times.
fn files(archive: &std::path::Path) -> BTreeMap<String, Entry> {
    let files = Image::from_archive(archive).files().into_iter();
    files.map(|(path, e)| (path, Entry { mtime: 0, ..e })).collect()
}

/// The number of the build whose files stand for all others'.
const MODEL: u64 = 999_999_999_999;

/// A file of the build [`MODEL`] as the build `n` has it.
fn numbered(e: &Entry, n: u64) -> Entry {
    let kind = match &e.kind {
        Kind::File(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Kind::File(text.replace(&MODEL.to_string(), &n.to_string()).into_bytes()),
            Err(_) => e.kind.clone(),
        },
        kind => kind.clone(),
    };
    Entry { kind, ..e.clone() }
}

/// Pull, COPY, RUN, both exports and the cache, killed at random moments of them: in new roots and in
/// one that is killed again and again. `RGRAPH_KILLS` (kills that hit a running build) and
/// `RGRAPH_KILLS_SEED` change the run.
#[test]
fn kill_anywhere() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("base:1");
    let maker = Case::with_base();
    maker.dockerfile("FROM BASE\nRUN dd if=/dev/urandom of=/big bs=1M count=4 2>/dev/null\n");
    maker.build(&["--push", "-t", &name]).ok();
    let mut r = Random(setting("RGRAPH_KILLS_SEED", 1));
    let (home, marker) = (Case::new(), marker());
    let cache = home.out("cache").display().to_string();
    let start = |case: &Case, n: u64| {
        for f in 0..30 {
            case.file(&format!("d/{f}"), format!("{f} of {n}\n").repeat(300));
        }
        case.file(
            "Dockerfile",
            format!(
                "FROM {name} AS a\nCOPY d /d\nRUN cat /d/* > /a; sleep 0.05; : {marker}\n\
                 FROM {name}\nRUN for i in 1 2 3 4 5 6 7 8 9; do mkdir /$i; echo {n} > /$i/f; done\n\
                 COPY --from=a /a /a\nRUN rm /big; cp -r /d /e 2>/dev/null; cat /a > /b\n"
            ),
        );
        let out = format!("type=oci,dest={}", case.out("image.tar").display());
        let to = format!("type=local,dest={cache},mode=max");
        case.start(&case.build_args(&[
            "-t",
            "app",
            "-o",
            &out,
            "-o",
            "type=image",
            "--cache-to",
            &to,
        ]))
    };
    let began = Instant::now();
    let model = Case::new();
    start(&model, MODEL).finish().ok();
    let mut whole = usize::try_from(began.elapsed().as_micros()).expect("short");
    let model = files(&model.out("image.tar"));
    // What a build of its own would give, without one: the number stands in its files alone.
    let clean = |n: u64| -> BTreeMap<String, Entry> {
        let files = model.iter().map(|(path, e)| (path.clone(), numbered(e, n)));
        files.collect()
    };
    let one = Case::new();
    start(&one, 7).finish().ok();
    assert!(files(&one.out("image.tar")) == clean(7), "the model is another one");
    drop(one);
    let mut old = Case::new();
    let wanted = setting("RGRAPH_KILLS", 8);
    let (mut killed, mut n) = (0, 0);
    while killed < wanted {
        n += 1;
        assert!(n <= 50 * wanted, "every build is over before it is killed");
        if r.chance(2) {
            old = Case::new();
        }
        let run = start(&old, n);
        let pause = Duration::from_micros(r.below(whole * 11 / 10) as u64);
        std::thread::sleep(pause);
        run.signal(Signal::KILL);
        let was_killed = run.finish().code == 137;
        nothing_left(&old, &marker);
        let at = format!("kill {n}, after {pause:?} of {whole} us");
        // Most builds have a part in the cache, and the machine is not always as busy: the moments stay
        // within a build's length.
        whole = if was_killed { whole * 21 / 20 } else { whole * 9 / 10 };
        let archive = old.out("image.tar");
        if archive.exists() {
            assert!(files(&archive).contains_key("b"), "{at}: half an archive");
        }
        let check = old.rgraph(&["store", "check", "--read-data"]);
        assert_eq!(check.code, 0, "{at}: {}{}", check.text(), check.stderr);
        if !was_killed {
            continue;
        }
        killed += 1;
        // Another root takes what the cache got, this one goes on.
        let reader = Case::new();
        let from = format!("type=local,src={cache}");
        let context = old.context().display().to_string();
        let dest = reader.out("image.tar");
        let out = format!("type=oci,dest={}", dest.display());
        reader.rgraph(&["build", "--cache-from", &from, "-o", &out, &context]).ok();
        start(&old, n).finish().ok();
        let want = clean(n);
        assert!(files(&archive) == want, "{at}: the next build is another one");
        assert!(files(&dest) == want, "{at}: the cache gave another one");
        let check = old.rgraph(&["store", "check", "--read-data"]).ok();
        assert!(check.text().contains("no damage found"), "{at}: {}", check.text());
    }
    eprintln!("{killed} builds killed before their end, {} were over", n - killed);
}
