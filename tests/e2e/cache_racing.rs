//! Writers of one cache in a registry at the same moment: nobody's batch is lost, though nobody
//! writes afterwards.

use rgraph_tests::{Access, Case, Gate, Registry, need, setting};

fn to(name: &str) -> String {
    format!("type=registry,ref={name}")
}

fn case(text: &str) -> Case {
    let case = Case::with_base();
    case.dockerfile(&format!("FROM BASE\nRUN echo {text} > /n\n"));
    case
}

/// The worst moment: a writer has looked, and its push waits until another one has come, looked,
/// pushed, looked again and gone.
#[test]
fn a_push_that_comes_late_takes_nothing_away() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:main");
    case("zero").build(&["--cache-to", &to(&name)]).ok();
    for (n, request) in ["PUT /v2/cache/manifests/main ", "PUT /v2/cache/manifests/main.rgraph-"]
        .into_iter()
        .enumerate()
    {
        let gate = Gate::before(&registry.host(), request);
        let (early, late) = (case(&format!("early {n}")), case(&format!("late {n}")));
        let slow = late.start(&late.build_args(&["--cache-to", &to(&gate.name("cache:main"))]));
        gate.wait();
        early.build(&["--cache-to", &to(&name)]).ok();
        gate.open();
        slow.finish().ok();
        for text in ["zero", &format!("early {n}"), &format!("late {n}")] {
            case(text).build(&["--cache-from", &name]).ok().all_cached();
        }
    }
}

/// The same to a writer whose entries made all batches one.
#[test]
fn making_one_of_many_batches_takes_nothing_away() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("cache:main");
    for n in 0..15 {
        case(&format!("old {n}")).build(&["--cache-to", &to(&name), "-o", "type=cacheonly"]).ok();
    }
    let gate = Gate::before(&registry.host(), "PUT /v2/cache/manifests/main ");
    let (early, late) = (case("early"), case("late"));
    let slow = late.start(&late.build_args(&["--cache-to", &to(&gate.name("cache:main"))]));
    gate.wait();
    early.build(&["--cache-to", &to(&name)]).ok();
    gate.open();
    slow.finish().ok();
    case("next").build(&["--cache-to", &to(&name)]).ok();
    for text in ["old 0", "old 14", "early", "late", "next"] {
        case(text).build(&["--cache-from", &name]).ok().all_cached();
    }
}

/// `RGRAPH_RACE_ROUNDS` makes it longer.
#[test]
fn many_writers_at_once_lose_nothing() {
    need!(Root, Tool("docker-registry"));
    const WRITERS: usize = 8;
    let registry = Registry::start(Access::Open);
    let rounds = setting("RGRAPH_RACE_ROUNDS", 2).min(20);
    for round in 0..rounds {
        let name = registry.name(&format!("cache{round}:main"));
        let cases: Vec<Case> = (0..WRITERS).map(|n| case(&format!("{round} {n}"))).collect();
        let start = |c: &Case| c.start(&c.build_args(&["--cache-to", &to(&name)]));
        let running: Vec<_> = cases.iter().map(start).collect();
        for r in running {
            r.finish().ok();
        }
        for n in 0..WRITERS {
            case(&format!("{round} {n}")).build(&["--cache-from", &name]).ok().all_cached();
        }
    }
}
