//! Several rgraph processes on one state root.

use rgraph_tests::{Case, need};

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
