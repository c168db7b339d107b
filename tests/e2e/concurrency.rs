//! Several rgraph processes on one state root.

use std::time::Duration;

use rgraph_tests::{Case, has_process, need, wait_until};
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
