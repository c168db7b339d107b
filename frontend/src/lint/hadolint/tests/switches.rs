//! What turns the rules on and off.

use crate::LowerOptions;
use crate::testkit::{lowered, said, warned};

fn rules(text: &str) -> Vec<String> {
    warned(text, &LowerOptions::default())
}

#[test]
fn off_until_asked_for() {
    let body = "FROM a\nCOPY x y z\n";
    let (three, none): (Vec<&str>, Vec<&str>) =
        (vec!["2: DL3006", "3: DL3021", "3: DL3045"], vec![]);
    for (head, want) in [
        ("# nothing", none.clone()),
        ("# check=experimental=hadolint", three.clone()),
        ("# check=experimental=DL3021", vec!["3: DL3021"]),
        ("# check=experimental=DL3006, DL3021", vec!["2: DL3006"]),
        ("# check=experimental=DL3006,DL3021", vec!["2: DL3006", "3: DL3021"]),
        // BuildKit's own, which are none here.
        ("# check=experimental=all", none.clone()),
        ("# check=experimental=hadolint;skip=DL3021", vec!["2: DL3006", "3: DL3045"]),
        ("# check=experimental=hadolint;skip=hadolint", none.clone()),
        ("# check=experimental=hadolint;skip=all", three.clone()),
        ("# hadolint global ignore=DL3006,DL3045", none),
    ] {
        let mut got = rules(&format!("{head}\n{body}"));
        got.sort();
        assert_eq!(got, want, "{head}");
    }
}

#[test]
fn comments_above_an_instruction() {
    for (above, head, want) in [
        ("check=skip=DL3021", "hadolint", vec!["4: DL3045"]),
        ("check=skip=all", "hadolint", vec![]),
        ("check=skip=hadolint", "hadolint", vec![]),
        ("hadolint ignore=DL3021,DL3045", "hadolint", vec![]),
        ("hadolint ignore=DL3045", "hadolint", vec!["4: DL3021"]),
        ("check=experimental=DL3021", "X", vec!["4: DL3021"]),
        ("check=experimental=hadolint;skip=DL3021", "X", vec!["4: DL3045"]),
        ("check=skip=all;experimental=DL3021", "hadolint", vec!["4: DL3021"]),
    ] {
        let text = format!("# check=experimental={head}\nFROM a:1\n# {above}\nCOPY x y z\n");
        let mut got = rules(&text);
        got.sort();
        assert_eq!(got, want, "{above}");
    }
    let text = "# check=experimental=hadolint\n# x\n\n# hadolint global ignore=DL3021\n\
                # hadolint stage ignore=DL3045,DL3006\nFROM a\nCOPY x y z\nFROM b\nCOPY x z\n";
    let mut got = rules(text);
    got.sort();
    assert_eq!(got, ["8: DL3006", "9: DL3045"]);
}

#[test]
fn rules_that_were_asked_for_are_counted() {
    let text = "# check=experimental=DL3021;error=true\nFROM a\nCOPY x y z\n";
    let e = lowered(text, &LowerOptions::default()).unwrap_err();
    assert_eq!(said(text, &e), ["1: lint violation found for rules: DL3021"]);
    let ignored =
        "# check=experimental=DL3021;error=true\nFROM a\n# hadolint ignore=DL3021\nCOPY x y z\n";
    assert!(rules(ignored).is_empty());
}

#[test]
fn the_command_line_asks_too() {
    let opts = LowerOptions {
        build_args: [("BUILDKIT_DOCKERFILE_CHECK".to_owned(), "experimental=DL3006".to_owned())]
            .into(),
        ..LowerOptions::default()
    };
    assert_eq!(warned("# check=experimental=DL3021\nFROM a\nCOPY x y z\n", &opts), ["2: DL3006"]);
}

/// What docs/errors.md says is found by other means.
#[test]
fn what_hadolint_finds_and_others_do() {
    for (id, text, want) in [
        ("DL3000", "FROM a\nWORKDIR x\n", "WorkdirRelativePath"),
        (
            "DL3012",
            "FROM a\nHEALTHCHECK CMD x\nHEALTHCHECK CMD y\n",
            "MultipleInstructionsDisallowed",
        ),
        ("DL3024", "FROM a AS b\nFROM c AS b\n", "DuplicateStageName"),
        ("DL3025", "FROM a\nCMD x\n", "JSONArgsRecommended"),
        ("DL3029", "FROM --platform=linux/arm64 a\n", "FromPlatformFlagConstDisallowed"),
        ("DL3059", "FROM a\nRUN x\nRUN y\nRUN z\n", "ChainedRun"),
        ("DL3063", "FROM a AS scratch\n", "ReservedStageName"),
        ("DL3064", "FROM a\nENV MY_TOKEN=x\n", "SecretsUsedInArgOrEnv"),
        ("DL3065", "FROM --platform=$TARGETPLATFORM a\n", "RedundantTargetPlatform"),
        ("DL4000", "FROM a\nMAINTAINER x\n", "MaintainerDeprecated"),
        ("DL4003", "FROM a\nCMD [\"x\"]\nCMD [\"y\"]\n", "MultipleInstructionsDisallowed"),
        (
            "DL4004",
            "FROM a\nENTRYPOINT [\"x\"]\nENTRYPOINT [\"y\"]\n",
            "MultipleInstructionsDisallowed",
        ),
    ] {
        assert!(rules(text).iter().any(|w| w.ends_with(want)), "{id}: {:?}", rules(text));
    }
    for (id, text, code) in [
        ("DL3011", "FROM a\nEXPOSE 65536\n", "expose"),
        ("DL3023", "FROM a AS b\nCOPY --from=b x /\n", "circular-dependency"),
        ("DL3043", "FROM a\nONBUILD FROM b\n", "onbuild-trigger"),
        ("DL3061", "RUN x\nFROM a\n", "no-stage"),
    ] {
        match lowered(text, &LowerOptions::default()) {
            Ok(_) => panic!("{id} is no error"),
            Err(e) => assert_eq!(e[0].code, code, "{id}"),
        }
    }
}
