//! A base that was made again elsewhere, and holds what it held but for times, is the one that was.

use std::time::Duration;

use rgraph_tests::{Access, Case, Image, Registry, Run, need};
use serde_json::Value;

/// Builds the base in a root of its own, in another second than the one before, and pushes it.
fn push_base(name: &str, text: &str, flags: &[&str]) -> String {
    let case = Case::with_base();
    std::thread::sleep(Duration::from_millis(1100));
    case.file("f", "copied\n").dockerfile(text);
    case.build(&[&["-t", name, "--push"], flags].concat()).ok();
    let image = case.image(&[]);
    format!("{} {}", image.config["created"], image.config["rootfs"])
}

/// The steps that ran, the bases left out.
fn ran(run: &Run) -> Vec<String> {
    let steps = run.steps().into_iter().filter(|(name, _)| !name.contains("] FROM "));
    steps.filter(|(_, end)| end != "CACHED").map(|(name, _)| name).collect()
}

fn layers(image: &Image) -> Vec<Value> {
    image.config["rootfs"]["diff_ids"].as_array().expect("diff IDs").clone()
}

const BASE_TEXT: &str = "FROM BASE\nRUN mkdir /d && echo b > /d/f && ln /d/f /d/g && ln -s f /d/l\n\
     ENV X=1\nCOPY f /f\nRUN rm /f && rmdir /tmp && mkdir -m 1777 /tmp\n";

#[test]
fn nothing_runs_on_an_equal_base() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let (name, other) = (registry.name("made/base:1"), registry.name("made/other:1"));
    let first = push_base(&name, BASE_TEXT, &[]);
    let case = Case::with_base();
    case.dockerfile(&format!(
        "FROM {name}\nRUN cat /d/f > /1\nRUN cat /1 > /2\nCOPY --from={name} /d /e\nRUN ls /e\n"
    ));
    let before = case.build(&["--pull"]).ok();
    assert_eq!(ran(&before).len(), 4, "{}", before.stderr);
    let layers_before = layers(&case.image(&[]));
    // Other times, thus other layers.
    let second = push_base(&name, BASE_TEXT, &[]);
    assert_ne!(first, second);
    let again = case.build(&["--pull"]).ok();
    assert_eq!(ran(&again), Vec::<String>::new(), "{}", again.stderr);
    assert_eq!(again.image(), before.image());
    assert_eq!(layers(&case.image(&[])), layers_before);
    // From then on it is known: nothing is pulled or compared.
    let known = case.build(&[]).ok();
    known.all_cached();
    assert_eq!(known.image(), before.image());
    // A third one, told of by another Dockerfile's text too.
    push_base(&name, &BASE_TEXT.replace("echo b", "echo  b"), &[]);
    let third = case.build(&["--pull"]).ok();
    assert_eq!(ran(&third), Vec::<String>::new(), "{}", third.stderr);
    assert_eq!(layers(&case.image(&[])), layers_before);
    assert_ne!(third.image(), before.image(), "the text of the base's step is part of its history");
    // Another name of an equal base.
    push_base(&other, BASE_TEXT, &[]);
    case.dockerfile(&format!("FROM {other}\nRUN cat /d/f > /1\nRUN cat /1 > /2\n"));
    let renamed = case.build(&[]).ok();
    assert_eq!(ran(&renamed), Vec::<String>::new(), "{}", renamed.stderr);
}

#[test]
fn an_equal_base_of_other_settings_keeps_its_layers() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("made/base:1");
    push_base(&name, BASE_TEXT, &[]);
    let case = Case::new();
    case.dockerfile(&format!("FROM {name}\nRUN cat /d/f > /1\n"));
    let before = case.image(&["--pull"]);
    // A label enters no step; a variable enters all of them.
    push_base(&name, &format!("{BASE_TEXT}LABEL a=b\n"), &[]);
    let run = case.build(&["--pull"]).ok();
    assert_eq!(ran(&run), Vec::<String>::new(), "{}", run.stderr);
    let labelled = case.image(&[]);
    assert_eq!(layers(&labelled), layers(&before));
    assert_eq!(labelled.config["config"]["Labels"]["a"], "b");
    push_base(&name, &BASE_TEXT.replace("X=1", "X=2"), &[]);
    assert_eq!(ran(&case.build(&["--pull"]).ok()).len(), 1);
}

#[test]
fn a_base_of_other_files_is_another_one() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("made/base:1");
    push_base(&name, BASE_TEXT, &[]);
    let case = Case::new();
    case.dockerfile(&format!("FROM {name}\nRUN cat /d/f > /1\n"));
    case.build(&["--pull"]).ok();
    for (what, old, new) in [
        ("content", "echo b", "echo c"),
        ("mode", "-m 1777", "-m 777"),
        ("hard link", "ln /d/f /d/g", "cp /d/f /d/g"),
        ("link", "ln -s f", "ln -s g"),
        ("owner", "rm /f", "rm /f && chown 5:6 /d/f"),
    ] {
        assert!(BASE_TEXT.contains(old));
        push_base(&name, &BASE_TEXT.replace(old, new), &[]);
        let run = case.build(&["--pull"]).ok();
        assert_eq!(ran(&run).len(), 1, "{what}: {}", run.stderr);
        let fresh = Case::new();
        fresh.dockerfile(&format!("FROM {name}\nRUN cat /d/f > /1\n"));
        let want = fresh.image(&[]);
        let got = case.image(&[]);
        assert_eq!(layers(&got)[..4], layers(&want)[..4], "{what}");
    }
}

/// The same layers, and other times in the base's history.
#[test]
fn times_of_settings_do_not_change_an_image() {
    need!(Root, Tool("docker-registry"));
    let registry = Registry::start(Access::Open);
    let name = registry.name("made/base:1");
    let text = "FROM BASE\nENV X=1\nRUN true\n";
    push_base(&name, text, &[]);
    let case = Case::new();
    case.dockerfile(&format!("FROM {name}\nRUN echo $X > /1\n"));
    let before = case.build(&["--pull"]).ok();
    push_base(&name, text, &[]);
    for flags in [&["--pull"][..], &[]] {
        let again = case.build(flags).ok();
        assert_eq!(ran(&again), Vec::<String>::new(), "{}", again.stderr);
        assert_eq!(again.image(), before.image());
    }
}
