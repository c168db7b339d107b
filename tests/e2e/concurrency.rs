//! Several rgraph processes on one state root.

use std::time::Duration;

use rgraph_tests::{Case, Member, Parts, Web, has_process, need, noise, tar_of, wait_until};
use rustix::process::Signal;

#[test]
fn equal_builds_at_once_give_one_image() {
    need!(Root);
    let case = Case::with_base();
    case.file("f", "f\n");
    case.dockerfile("FROM BASE AS a\nCOPY f /f\nRUN sleep 0.2; date +%s%N > /when\nFROM BASE\nCOPY --from=a /when /when\nRUN cat /when\n");
    let running: Vec<_> = (0..8).map(|_| case.start(&case.build_args(&["-t", "same"]))).collect();
    let mut ids: Vec<_> = running.into_iter().map(|r| r.finish().ok().image()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1, "each step was run by one of them");
    case.build(&[]).ok().all_cached();
}

#[test]
fn different_builds_at_once() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nARG N\nRUN echo shared > /s\nRUN echo $N > /n\n");
    let running: Vec<_> = (0..6)
        .map(|i| {
            let out = format!("type=oci,dest={}", case.out(&format!("{i}.tar")).display());
            case.start(&case.build_args(&["--build-arg", &format!("N={i}"), "-o", &out]))
        })
        .collect();
    for r in running {
        r.finish().ok();
    }
    for i in 0..6 {
        let image = rgraph_tests::Image::from_archive(&case.out(&format!("{i}.tar")));
        assert_eq!((image.read("s"), image.read("n")), ("shared\n".into(), format!("{i}\n")));
    }
}

/// A builder that was stopped while it runs a step keeps it: the next one says whom it waits for,
/// and goes on when that one is continued, killed, or stopped for good.
#[test]
fn a_stopped_holder_is_waited_for() {
    need!(Root);
    for end in [Signal::CONT, Signal::KILL, Signal::TERM] {
        let case = Case::with_base();
        case.dockerfile("FROM BASE\nRUN echo begun; sleep 1; date +%s%N > /when\nRUN cat /when\n");
        let mut holder = case.start(&case.build_args(&["-t", "app"]));
        holder.wait_for(" begun\n");
        holder.signal(Signal::STOP);
        let mut next = case.start(&case.build_args(&["-t", "app"]));
        next.wait_for(&format!("waiting for process {}: it runs this step", holder.pid()));
        // The step itself is over long before; its holder has not said so.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!next.said().contains("built in"), "robbed:\n{}", next.said());
        holder.signal(end);
        if end == Signal::TERM {
            holder.signal(Signal::CONT);
        }
        let first = holder.finish();
        let next = next.finish().ok();
        match end {
            Signal::CONT => assert_eq!(first.ok().image(), next.image()),
            Signal::KILL => assert_eq!(first.code, 137),
            _ => assert!([0, 143].contains(&first.code), "{}", first.stderr),
        }
        case.build(&[]).ok().all_cached();
        let root = case.root().display().to_string();
        assert!(wait_until(Duration::from_secs(5), || !has_process(&root)), "a helper lives on");
    }
}

/// A builder that waits for another one's step may go: that one is none the wiser.
#[test]
fn a_waiter_that_gives_up_takes_nothing_along() {
    need!(Root);
    for (end, code) in [(Signal::INT, 130), (Signal::KILL, 137)] {
        let case = Case::with_base();
        case.dockerfile("FROM BASE\nRUN echo begun; sleep 1; date +%s%N > /when\nRUN cat /when\n");
        let mut holder = case.start(&case.build_args(&["-t", "app"]));
        holder.wait_for(" begun\n");
        let mut waiter = case.start(&case.build_args(&["-t", "app"]));
        waiter.wait_for(&format!("waiting for process {}: it runs this step", holder.pid()));
        waiter.signal(end);
        assert_eq!(waiter.finish().code, code);
        let made = holder.finish().ok().image();
        assert_eq!(case.build(&["-t", "app"]).ok().all_cached().image(), made);
    }
}

/// ROB-09: however many builders want a base, its layer is sent once.
#[test]
fn many_builders_pull_a_base_once() {
    need!(Root);
    let parts = Parts::new(&[tar_of(&[Member::File("noise", &noise(6_000_000))])]);
    let layer = parts.layer(0);
    let web = Web::start(move |q| parts.answer(q));
    let case = Case::new();
    case.file("f", "f\n");
    case.file("Dockerfile", format!("FROM {}/app:1\nCOPY f /f\n", web.host()));
    let running: Vec<_> = (0..8).map(|_| case.start(&case.build_args(&[]))).collect();
    let mut ids: Vec<_> = running.into_iter().map(|r| r.finish().ok().image()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let sent = web.requests().into_iter().filter(|q| q.line.ends_with(&layer)).count();
    assert_eq!(sent, 1, "the layer was sent {sent} times");
}

/// ROB-08: those that fail do so alone.
#[test]
fn a_step_that_fails_fails_its_builders_only() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\nARG N\nRUN echo shared > /s\nRUN sleep 0.2; exit $N\nRUN echo made > /m\n",
    );
    let codes = ["7", "0", "7", "0", "7", "0"];
    let start = |n: &&str| case.start(&case.build_args(&["--build-arg", &format!("N={n}")]));
    let running: Vec<_> = codes.iter().map(start).collect();
    for (n, run) in codes.iter().zip(running) {
        match *n {
            "0" => drop(run.finish().ok()),
            _ => drop(run.finish().fails(1, &["exit code: 7"])),
        }
    }
    case.build(&["--build-arg", "N=0"]).ok().all_cached();
    // A failure is remembered by nobody.
    case.build(&["--build-arg", "N=7"]).fails(1, &["exit code: 7"]);
}
