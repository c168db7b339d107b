//! Layers: 127 are the most, 125 too many for Docker, chained RUN wasteful.

use rgraph_tests::{BASE, Case, fixture, need};

fn runs(n: usize) -> String {
    (1..=n).map(|i| format!("RUN echo {i}\n")).collect()
}

fn copies(n: usize) -> String {
    (1..=n).map(|i| format!("COPY f /{i}\n")).collect()
}

#[test]
fn too_many_layers_are_refused_before_the_first_step() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(&format!("FROM BASE\n{}", runs(130)));
    // The base is layer 1, so the RUN of line 128 makes number 128.
    let run = case.build(&[]).fails(1, &["131 layers", "127", "Dockerfile:128", "merge"]);
    assert!(run.steps().is_empty(), "a step was begun:\n{}", run.stderr);
    case.dockerfile(&format!("FROM BASE\n{}", runs(127)));
    case.build(&[]).fails(1, &["128 layers", "Dockerfile:128"]);
    // Exactly 127 are legal, and a graph may show any number.
    case.file("f", "f\n").file("Dockerfile", format!("FROM scratch\n{}", copies(127)));
    assert_eq!(case.image(&[]).layers.len(), 127);
    case.dockerfile(&format!("FROM BASE\n{}", runs(130)));
    case.rgraph(&["graph", "context"]).ok();
}

#[test]
fn layers_of_the_base_count() {
    need!(Root);
    let case = Case::with_base();
    let steps: String = (1..=9).map(|i| format!("RUN echo {i} > /{i}\n")).collect();
    case.dockerfile(&format!("FROM BASE\n{steps}"));
    case.build(&["-t", "ten:1"]).ok();
    case.dockerfile(&format!("FROM ten:1\n{}", runs(120)));
    // Ten of the base, so the 118th RUN, on line 119, makes number 128.
    let run = case.build(&[]).fails(1, &["130 layers", "10 of the base", "Dockerfile:119"]);
    assert!(run.steps().is_empty(), "a step was begun:\n{}", run.stderr);
}

#[test]
fn the_docker_engines_limit_is_a_warning() {
    need!(Root);
    let case = Case::new();
    case.file("f", "f\n");
    case.file("Dockerfile", format!("FROM scratch\n{}", copies(125)));
    let check = case.build(&["--check"]).fails(1, &[]);
    assert!(
        check.text().contains("TooManyLayers") && check.text().contains("125 layers"),
        "{}",
        check.text()
    );
    case.file("Dockerfile", format!("FROM scratch\n{}", copies(123)));
    case.build(&["--check"]).ok();
}

#[test]
fn six_runs_are_warned_about_and_one_is_not() {
    need!(Root);
    let case = Case::with_base();
    let base = format!("BASE={BASE}");
    let check = |name: &str| {
        let context = fixture(&format!("tutorial/{name}")).display().to_string();
        case.rgraph(&["build", "--check", "--build-arg", &base, &context])
    };
    let bad = check("redis-bad").fails(1, &[]);
    for part in ["ChainedRun", "Dockerfile:7", "6 layers"] {
        assert!(bad.text().contains(part), "no {part} in:\n{}", bad.text());
    }
    let merged: Vec<_> = bad.text().lines().filter(|l| l.trim_end().ends_with("&& \\")).collect();
    assert_eq!(merged.len(), 5, "the merged form:\n{}", bad.text());
    let good = check("redis-good").ok();
    assert!(!good.text().contains("ChainedRun"), "{}", good.text());
}
