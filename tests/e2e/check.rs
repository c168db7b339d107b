//! `--check`: optional rules and who turns them on.

use rgraph_tests::Case;
use serde_json::Value;

fn rules(case: &Case, args: &[&str]) -> Vec<String> {
    let all = [&["--call", "check,format=json"], args].concat();
    let run = case.build(&all);
    let v: Value =
        serde_json::from_str(run.text()).unwrap_or_else(|e| panic!("{e}: {}", run.text()));
    let list = v["warnings"].as_array().cloned().unwrap_or_default();
    assert_eq!(run.code, i32::from(!list.is_empty()));
    list.iter().map(|w| w["ruleName"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn hadolints_rules_are_off_until_asked_for() {
    let case = Case::new();
    let body = "FROM scratch\nRUN sudo apt-get install -y curl\n";
    case.file("Dockerfile", body);
    let check = case.build(&["--check"]).ok();
    assert!(check.text().contains("no warnings"), "{}", check.text());

    case.file("Dockerfile", format!("# check=experimental=hadolint\n{body}"));
    let check = case.build(&["--check"]).fails(1, &[]);
    for part in [
        "3 warnings",
        "WARNING: DL3008 - https://github.com/hadolint/hadolint/wiki/DL3008\nno version of `curl`",
        "help: write `curl=<version>`",
        "Dockerfile:3",
        "DL3004",
        "DL3015",
    ] {
        assert!(check.text().contains(part), "no {part} in:\n{}", check.text());
    }
    let mut all = rules(&case, &[]);
    all.sort();
    assert_eq!(all, ["DL3004", "DL3008", "DL3015"]);
}

#[test]
fn the_command_line_takes_the_files_place() {
    let case = Case::new();
    case.file(
        "Dockerfile",
        "# check=experimental=DL3004\nFROM scratch\nRUN sudo apt-get install -y curl\n",
    );
    assert_eq!(rules(&case, &[]), ["DL3004"]);
    let with = |v: &str| {
        let arg = format!("BUILDKIT_DOCKERFILE_CHECK={v}");
        rules(&case, &["--build-arg", &arg])
    };
    assert_eq!(with("experimental=DL3008"), ["DL3008"]);
    assert!(with("").is_empty());
    assert!(with("skip=all").is_empty());
    let arg = "BUILDKIT_DOCKERFILE_CHECK=experimental=DL3008;error=true";
    case.build(&["--build-arg", arg]).fails(1, &["lint violation found for rules: DL3008"]);
}
