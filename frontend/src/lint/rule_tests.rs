use rgraph_ir::limits::MAX_LAYERS;
use rgraph_ir::pattern::PatternSet;

use crate::testkit::{lowered, said, warned};
use crate::{IgnoreFile, LowerOptions};

fn rules(text: &str) -> Vec<String> {
    warned(text, &LowerOptions::default())
}

#[test]
fn buildkits_rules() {
    for (text, want) in [
        ("FROM a AS B\n", vec!["1: StageNameCasing"]),
        ("FROM a as b\n", vec!["1: FromAsCasing"]),
        ("from a AS b\nrun x\n", vec!["1: FromAsCasing"]),
        // Told once, where the instruction ends.
        ("FROM a\nRUN x \\\n\n  y\n", vec!["4: NoEmptyContinuation"]),
        ("FROM a\nRUN x \\\n\n  y \\\n\n\n# c\n", vec!["7: NoEmptyContinuation"]),
        ("FROM a\nrun x\nCMD [\"x\"]\n", vec!["2: ConsistentInstructionCasing"]),
        ("FROM a AS b\nFROM a AS b\n", vec!["2: DuplicateStageName"]),
        ("FROM a AS scratch\n", vec!["1: ReservedStageName"]),
        ("FROM a\nCMD x\n", vec!["2: JSONArgsRecommended"]),
        ("FROM a\nSHELL [\"s\"]\nCMD x\n", vec![]),
        ("FROM a\nMAINTAINER m\n", vec!["2: MaintainerDeprecated"]),
        ("FROM a$X\n", vec!["1: UndefinedArgInFrom"]),
        ("ARG X\nFROM a$X\n", vec![]),
        ("FROM a\nWORKDIR x\nWORKDIR y\n", vec!["2: WorkdirRelativePath"]),
        ("FROM a\nENV A=$B\n", vec!["2: UndefinedVar"]),
        ("FROM a\nENV A=1 \\\n  C=$B\n", vec!["2: UndefinedVar"]),
        ("FROM a\nENV A=$BUILDKIT_SBOM_SCAN_STAGE\n", vec![]),
        ("FROM a\nENV A=$BUILDKIT_SBOM_SCAN_STAGEX\n", vec!["2: UndefinedVar"]),
        // Once per word.
        ("FROM a\nENV A=$B$B C=$B\n", vec!["2: UndefinedVar", "2: UndefinedVar"]),
        ("FROM a\nARG B\nENV A=$B\n", vec![]),
        ("FROM a\nCMD [\"x\"]\nCMD [\"y\"]\n", vec!["2: MultipleInstructionsDisallowed"]),
        (
            "FROM a\nENV A b\nLABEL c d\n",
            vec!["2: LegacyKeyValueFormat", "3: LegacyKeyValueFormat"],
        ),
        ("FROM --platform=$TARGETPLATFORM a\n", vec!["1: RedundantTargetPlatform"]),
        ("FROM --platform=linux/arm64 a\n", vec!["1: FromPlatformFlagConstDisallowed"]),
        ("FROM --platform=linux/arm64 a AS arm64\n", vec![]),
        ("FROM a\nENV MY_TOKEN=x PUBLIC_KEY=y\n", vec!["2: SecretsUsedInArgOrEnv"]),
        ("ARG X\nFROM scratch AS b\nFROM ${X:-a} AS c\n", vec![]),
        ("FROM a\nEXPOSE 80/TCP 1:2\n", vec!["2: ExposeInvalidFormat", "2: ExposeProtoCasing"]),
        ("# x y\nFROM a AS b\n", vec![]),
        ("# check=experimental=all\n# x y\nFROM a AS b\n", vec!["3: InvalidDefinitionDescription"]),
        ("# check=skip=all\nFROM a AS B\n", vec![]),
        ("# check=skip=StageNameCasing\nFROM a AS B\nCMD x\n", vec!["3: JSONArgsRecommended"]),
        ("FROM a\n# check=skip=JSONArgsRecommended\nCMD x\n", vec![]),
        // An indented comment says nothing to a rule.
        ("FROM a\n  # check=skip=JSONArgsRecommended\nCMD x\n", vec!["3: JSONArgsRecommended"]),
    ] {
        let mut got = rules(text);
        got.sort();
        assert_eq!(got, want, "{text}");
    }
}

#[test]
fn cache_comments() {
    for (text, want) in [
        ("FROM a\n# cache=ttl=24h\nRUN x\n", vec![]),
        ("FROM a\n# cache=ttl=1d\nCOPY x y\n", vec![]),
        ("FROM a\n# cache=ttl=1d\n\nRUN x\n", vec![]),
        ("# syntax=docker/dockerfile:1\n# cache=ttl=1d\nFROM a\n", vec!["3: CacheComment"]),
        ("FROM a\n# cache=ttl=24h\nENV A=b\n", vec!["3: CacheComment"]),
        ("FROM a\n# cache=ttl=soon\nRUN x\n", vec!["3: CacheComment"]),
        ("FROM a\n# cache=warm\nENV A=b\n", vec![]),
        // Steps that are to be made again apart are no chain.
        ("FROM a\nRUN x\n# cache=ttl=1h\nRUN y\nRUN z\n", vec![]),
        ("FROM a\n# cache=ttl=soon\n# check=skip=CacheComment\nRUN x\n", vec![]),
        // A comment to BuildKit, so nothing that ends its build.
        ("# check=error=true\nFROM a\n# cache=ttl=soon\nRUN x\n", vec!["4: CacheComment"]),
    ] {
        assert_eq!(rules(text), want, "{text}");
    }
}

#[test]
fn error_true_ends_the_build() {
    let text = "# check=error=true\nFROM a\nCMD x\n";
    let e = lowered(text, &LowerOptions::default()).unwrap_err();
    assert_eq!(said(text, &e), ["1: lint violation found for rules: JSONArgsRecommended"]);
    // Our own rules do not end what BuildKit builds.
    let own = "# check=error=true\nFROM a\nRUN a\nRUN b\nRUN c\n";
    assert_eq!(rules(own), ["3: ChainedRun"]);
    let wrong = "# check=foo=1\nFROM a\n";
    assert!(lowered(wrong, &LowerOptions::default()).is_err());
}

#[test]
fn unread_warnings_are_not_looked_for() {
    let unread = LowerOptions { warnings: false, ..LowerOptions::default() };
    assert_eq!(warned("FROM a AS B\nRUN a\nRUN b\nRUN c\nCMD x\n", &unread), [""; 0]);
    // What ends the build does.
    let text = "# check=error=true\nFROM a\nCMD x\n";
    let e = lowered(text, &unread).unwrap_err();
    assert_eq!(said(text, &e), ["1: lint violation found for rules: JSONArgsRecommended"]);
    let long = format!("FROM a\n{}", "RUN x\n".repeat(128));
    assert!(lowered(&long, &unread).is_err());
}

#[test]
fn the_callers_check_replaces_the_files() {
    let given = |v: &str| LowerOptions {
        build_args: [("BUILDKIT_DOCKERFILE_CHECK".to_owned(), v.to_owned())].into(),
        ..LowerOptions::default()
    };
    let file = |check: &str| format!("# check={check}\nFROM a AS B\nCMD x\n");
    let (text, both) = (file("skip=all"), vec!["2: StageNameCasing", "3: JSONArgsRecommended"]);
    assert_eq!(warned(&text, &given("")), both);
    assert_eq!(warned(&text, &given("skip=StageNameCasing")), both[1..]);
    assert_eq!(warned(&file("error=true"), &given("error=false")), both);
    assert_eq!(warned(&file("error=maybe"), &given("skip=all")), Vec::<String>::new());
    // What stands above an instruction still counts.
    let above = "FROM a AS B\n# check=skip=JSONArgsRecommended\nCMD x\n";
    assert_eq!(warned(above, &given("error=false")), ["1: StageNameCasing"]);
    let e = lowered(&text, &given("error=true")).unwrap_err();
    let said_now = "lint violation found for rules: JSONArgsRecommended, StageNameCasing";
    assert_eq!(said(&text, &e), [said_now]);
    let e = lowered(&text, &given("eror=true")).unwrap_err();
    let wrong = "build arg BUILDKIT_DOCKERFILE_CHECK: invalid check option \"eror\"";
    assert_eq!(said(&text, &e), [wrong]);
}

#[test]
fn of_all_stages_only_what_is_built_runs_triggers() {
    let opts = LowerOptions { all_stages: true, ..LowerOptions::default() };
    let text = "FROM a AS b\nONBUILD WORKDIR w\nFROM b AS c\nFROM b\n";
    assert_eq!(warned(text, &opts), ["4: WorkdirRelativePath"]);
}

#[test]
fn ignored_sources() {
    let opts = |p: &[&str]| LowerOptions {
        ignore: IgnoreFile { rules: PatternSet::new(p).unwrap(), ..IgnoreFile::default() },
        ..LowerOptions::default()
    };
    let text = "FROM a\nCOPY src/x y /\n";
    assert_eq!(warned(text, &opts(&["src"])), ["2: CopyIgnoredFile"]);
    let found = lowered(text, &opts(&["docs", "src"])).unwrap().warnings;
    assert_eq!(found[0].help.as_deref(), Some("line 2 of .dockerignore says `src`"));
    assert!(warned(text, &opts(&["src", "!src/x"])).is_empty());
    assert!(warned("FROM a\nCOPY --from=a src /\n", &opts(&["src"])).is_empty());
    // To a rule a source with a leading `/` lies in a folder without a name.
    for (rule, want) in [("src", 0), ("*", 1), ("**/src", 1), ("src/**", 0), ("s*", 0), ("**", 1)] {
        assert_eq!(warned("FROM a\nCOPY /src /\n", &opts(&[rule])).len(), want, "{rule}");
    }
}

#[test]
fn steps_in_a_row() {
    for (text, want) in [
        ("RUN a\n", vec![]),
        ("RUN a\nRUN b\n", vec![]),
        ("RUN a\nRUN b\nRUN c\n", vec!["2: ChainedRun"]),
        ("RUN a\nRUN b\nRUN c\nRUN d\nRUN e\nRUN f\n", vec!["2: ChainedRun"]),
        ("RUN a\nCOPY x /\nRUN b\n", vec![]),
        ("RUN a\nRUN b\nCOPY x /\nRUN c\nRUN d\n", vec![]),
        ("RUN apt-get update\nRUN rm -rf /var/lib/apt/lists/*\n", vec!["2: ChainedRun"]),
        ("RUN rm -rf /x\nRUN b\n", vec![]),
        ("RUN a\nUSER u\nRUN b\nUSER v\nRUN c\n", vec![]),
        ("RUN a\nENV A=b\nRUN b\nRUN c\n", vec![]),
        ("RUN a\nRUN [\"b\"]\nRUN c\n", vec![]),
        ("RUN <<E\na\nE\nRUN b\nRUN c\n", vec![]),
    ] {
        let text = format!("FROM a\n{text}");
        assert_eq!(rules(&text), want, "{text}");
    }
    // Only the target's own chain counts.
    assert!(
        rules("FROM a AS b\nRUN a\nRUN b\nRUN c\nFROM scratch\nCOPY --from=b / /\n").is_empty()
    );

    let text = "FROM a\nRUN --mount=type=cache,target=/c one\nRUN two || three\nRUN rm x;\n";
    let done = lowered(text, &LowerOptions::default()).unwrap();
    let w = &done.warnings[0];
    assert_eq!(w.labels.len(), 3);
    assert!(w.message.contains("3 layers"), "{}", w.message);
    assert_eq!(
        w.help.as_deref(),
        Some(
            "write them as one:\nRUN --mount=type=cache,target=/c \\\n    one && \\\n    (two || three) && \\\n    rm x"
        )
    );
}

#[test]
fn merged_steps_mean_the_same() {
    let help = |text: &str| {
        let done = lowered(&format!("FROM a\n{text}"), &LowerOptions::default()).unwrap();
        done.warnings[0].help.clone().unwrap()
    };
    let text = help("RUN cd /x && make\nRUN sleep 1 &\nRUN a && b-set\n");
    assert!(
        text.ends_with("RUN (cd /x && make) && \\\n    (sleep 1 &) && \\\n    a && b-set"),
        "{text}"
    );
    // A comment would hide all that follows it.
    assert!(help("RUN a # c\nRUN b\nRUN c\n").contains("with `&&` between"));
}

#[test]
fn what_the_caller_gave_in_vain() {
    let args = |list: &[&str]| LowerOptions {
        build_args: list.iter().map(|k| ((*k).to_owned(), "v".to_owned())).collect(),
        ..LowerOptions::default()
    };
    let text = "ARG G\nFROM a AS b\nARG VERSION\nFROM a\n";
    let used = ["G", "VERSION", "http_proxy", "NO_PROXY", "TARGETARCH", "BUILDKIT_INLINE_CACHE"];
    assert!(warned(text, &args(&used)).is_empty());
    let done = lowered(text, &args(&["VERSON", "X"])).unwrap();
    let w = &done.warnings[0];
    assert_eq!(w.message, "One or more build-args [VERSON X] were not consumed");
    assert_eq!(w.help.as_deref(), Some("did you mean `VERSION`?"));
}

#[test]
fn another_frontend_is_named() {
    for (syntax, want) in [
        ("docker/dockerfile:1", 0),
        ("docker.io/docker/dockerfile:1.7-labs", 0),
        ("docker/dockerfile-upstream:master", 0),
        ("docker/dockerfile@sha256:0", 0),
        ("example.com/my/frontend", 1),
    ] {
        let text = format!("# syntax={syntax}\nFROM a\n");
        assert_eq!(rules(&text).len(), want, "{syntax}");
    }
}

#[test]
fn layers_are_counted() {
    // The stub of a base image has one layer.
    let file = |n: usize| {
        (0..n).fold("FROM a\n".to_owned(), |t, i| t + &format!("COPY f{i} /\nLABEL l=m\n"))
    };
    let opts = LowerOptions::default();
    assert!(warned(&file(123), &opts).is_empty());
    assert_eq!(warned(&file(124), &opts), ["248: TooManyLayers"]);
    assert_eq!(warned(&file(126), &opts), ["252: TooManyLayers"]);
    let text = file(127);
    let e = lowered(&text, &opts).unwrap_err();
    assert_eq!(e.len(), 1);
    // 126 lines of two fit beside the base: number 128 is made by the 127th COPY.
    assert!(said(&text, &e)[0].starts_with("254: the image would have 128 layers (1 of the base"));
    assert!(e[0].help.as_ref().unwrap().contains("lines 2 to 254"), "{:?}", e[0].help);
    let free = LowerOptions { max_layers: usize::MAX, ..LowerOptions::default() };
    assert!(lowered(&text, &free).is_ok());
    assert_eq!(MAX_LAYERS, 127);
}
