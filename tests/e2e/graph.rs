//! `rgraph graph`: stable text that other tools read, without a step run.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rgraph_tests::{Case, fixture, need};

fn graph(case: &Case, format: &str) -> Vec<u8> {
    let context = fixture("quickstart").display().to_string();
    case.rgraph(&["graph", "--offline", "--format", format, &context]).ok().stdout
}

#[test]
fn formats_are_stable_and_offline_needs_nothing() {
    let case = Case::new();
    for format in ["dot", "json", "llb", "mermaid"] {
        let first = graph(&case, format);
        assert!(!first.is_empty(), "{format}");
        assert_eq!(first, graph(&Case::new(), format), "{format}");
    }
    assert!(!case.root().exists(), "graph --offline made a state root");
}

#[test]
fn graphviz_renders_the_dot() {
    need!(Tool("dot"));
    let mut dot = Command::new("dot")
        .arg("-Tsvg")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dot starts");
    let text = graph(&Case::new(), "dot");
    dot.stdin.take().expect("piped").write_all(&text).expect("dot reads");
    let out = dot.wait_with_output().expect("dot ends");
    let warnings = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && warnings.is_empty(), "{warnings}");
    let svg = String::from_utf8_lossy(&out.stdout);
    for part in ["letters", "numbers", "<svg", "COPY"] {
        assert!(svg.contains(part), "no {part}");
    }
    assert!(!svg.contains("nobody asked"), "a stage that is not needed is drawn");
}

#[test]
fn json_holds_the_vertices_that_are_needed() {
    let json: serde_json::Value =
        serde_json::from_slice(&graph(&Case::new(), "json")).expect("JSON");
    let text = json.to_string();
    assert!(json["version"].is_number() || json["format"].is_number(), "no version in {text:.200}");
    let vertices = json["vertices"].as_array().expect("vertices");
    // The base, WORKDIR, two RUN, one COPY for them; three COPY into the result; the context.
    assert_eq!(vertices.len(), 9, "{vertices:#?}");
    assert!(!text.contains("nobody asked"), "a stage that is not needed is there");
}

#[test]
fn equal_steps_are_one_vertex() {
    let case = Case::new();
    case.file("Dockerfile", "FROM busybox AS a\nRUN echo same\nFROM busybox AS b\nRUN echo same\nFROM scratch\nCOPY --from=a /bin/x /a\nCOPY --from=b /bin/x /b\n");
    let run = case.rgraph(&["graph", "--offline", "--format=json", "context"]).ok();
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
    let vertices = json["vertices"].as_array().expect("vertices");
    let runs = vertices.iter().filter(|v| v.to_string().contains("echo same")).count();
    assert_eq!(runs, 1, "{vertices:#?}");
}

#[test]
fn the_cache_is_asked_and_nothing_runs() {
    need!(Root);
    let case = Case::with_base();
    case.file("f", "one\n");
    case.dockerfile("FROM BASE\nRUN echo before > /a\nCOPY f /f\nRUN cat /f > /b\n");
    let cached = || {
        let run = case.rgraph(&["graph", "--cached", "--format=json", "context"]).ok();
        let json: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
        let vertices = json["vertices"].as_array().expect("vertices").clone();
        let steps = vertices.iter().filter(|v| v["line"].as_u64() > Some(1));
        steps.map(|v| (v["line"].as_u64().expect("a line"), v["cached"].clone())).collect()
    };
    let all = |a: bool, b: bool, c: bool| vec![(2, a.into()), (3, b.into()), (4, c.into())];
    let before: Vec<(u64, serde_json::Value)> = cached();
    assert_eq!(before, all(false, false, false));
    assert_eq!(cached(), before, "looking left something behind");
    case.build(&[]).ok();
    assert_eq!(cached(), all(true, true, true));
    case.file("f", "two\n");
    assert_eq!(cached(), all(true, false, false));
    let dot = case.rgraph(&["graph", "--cached", "context"]).ok();
    let dot = String::from_utf8_lossy(&dot.stdout).into_owned();
    assert_eq!((dot.matches("cached<").count(), dot.matches("to run<").count()), (1, 2), "{dot}");
}

#[test]
fn the_metadata_file_holds_the_image_config() {
    let case = Case::new();
    case.file("Dockerfile", "FROM scratch\nENV A=b\nCMD [\"x\"]\n");
    let file = case.out("meta.json").display().to_string();
    case.rgraph(&["graph", "--offline", "--metadata-file", &file, "context"]).ok();
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
    let config = &meta["containerimage.config"];
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["x"]));
    assert_eq!(config["history"].as_array().map(Vec::len), Some(2));

    // Each of several targets has its own, of equal platforms too.
    case.file("Dockerfile", "FROM scratch AS a\nENV A=1\nFROM scratch AS b\nENV B=1\n");
    let graph = ["graph", "--offline", "--metadata-file", &file, "--target=a", "--target=b"];
    case.rgraph(&[&graph[..], &["context"]].concat()).ok();
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).expect("the file")).expect("JSON");
    for (name, own) in [("a", "A=1"), ("b", "B=1")] {
        let env = &meta[name]["containerimage.config"]["config"]["Env"];
        assert!(env.as_array().is_some_and(|e| e.iter().any(|v| v == own)), "{meta}");
    }
}
