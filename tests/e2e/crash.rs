//! Ends that nobody planned: nothing stays behind, and the next build is right.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rgraph_tests::{Case, Image, has_process, mounts_below, need, wait_until};
use rustix::process::Signal;

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
        "FROM BASE\nRUN echo first > /first\nRUN echo > /half; sleep {marker} & echo begun; sleep {marker} | cat\n"
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
