//! Steps that take too long, and steps that are worth another try.

use std::time::{Duration, Instant};

use rgraph_tests::{Case, has_process, need};

#[test]
fn a_step_that_takes_too_long_is_ended_with_all_it_started() {
    need!(Root);
    let case = Case::with_base();
    let sleep = format!("sleep 30{}", std::process::id());
    // The second one hears the request to end, and does not obey.
    for step in [
        format!("{sleep} & {sleep}"),
        format!("trap '' TERM; {sleep} & while true; do sleep 0.1; done"),
    ] {
        case.dockerfile(&format!("FROM BASE\nRUN {step}\n"));
        let begun = Instant::now();
        let run = case.build(&["--timeout", "1s"]);
        let run = run.fails(1, &["not done after 1s", "--timeout", "Dockerfile:2"]);
        assert!(!run.stderr.contains("canceled"), "{}", run.stderr);
        // A second, and the ten that a step has to end by itself.
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(!has_process(&sleep), "{step}");
    }
    case.dockerfile("FROM BASE\nRUN sleep 0.1\n");
    case.build(&["--timeout", "1h"]).ok();
}

#[test]
fn a_build_that_takes_too_long_keeps_what_is_done() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN echo a > /a\nRUN sleep 60\n");
    let late = ["--timeout", "build=2s", "--timeout", "1h"];
    case.build(&late).fails(1, &["the build was not done after 2s", "--timeout"]);
    case.dockerfile("FROM BASE\nRUN echo a > /a\n");
    case.build(&[]).ok().all_cached();
}

#[test]
fn a_failed_step_is_tried_again_on_a_clean_layer() {
    need!(Root);
    let case = Case::with_base();
    // The cache mount outlives a try, the layer does not.
    let step = "RUN --mount=type=cache,target=/c echo x >> /c/n; echo x >> /left; \
                test $(wc -l < /c/n) -ge 3\n";
    case.dockerfile(&format!("FROM BASE\n{step}"));
    case.build(&["--retry", "1"]).fails(1, &["exit code: 1", "trying again", "1 of 1"]);
    let out = format!("type=oci,dest={}", case.out("i.tar").display());
    case.build(&["--retry", "5", "-o", &out]).ok();
    let image = rgraph_tests::Image::from_archive(&case.out("i.tar"));
    assert_eq!(image.read("left"), "x\n");
    // What cannot be run at all is not tried twice.
    case.dockerfile("FROM BASE\nRUN [\"/no/such/program\"]\n");
    let run = case.build(&["--retry", "3"]).fails(1, &["/no/such/program"]);
    assert!(!run.stderr.contains("trying again"), "{}", run.stderr);
}
