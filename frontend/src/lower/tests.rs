use std::collections::{BTreeMap, BTreeSet};

use rgraph_ir::image_config::{BaseHistory, BaseImage, ImageConfig};
use rgraph_ir::op::{ActionRef, ExecOp, InputIndex, Op, ResolveMode};
use rgraph_ir::{Platform, Severity};

use super::{Lowering, lower};
use crate::facts::TimeOf;
use crate::testkit::{drawn, lowered, said, source};
use crate::{Facts, LowerOptions, NamedContext, NoCache, Query, parse};

fn graph(text: &str) -> Vec<String> {
    graph_with(text, &LowerOptions::default())
}

fn graph_with(text: &str, opts: &LowerOptions) -> Vec<String> {
    match lowered(text, opts) {
        Ok(done) => drawn(&done.plan),
        Err(e) => panic!("{:?}\n{text}", said(text, &e)),
    }
}

fn errors(text: &str) -> Vec<String> {
    match lowered(text, &LowerOptions::default()) {
        Ok(_) => panic!("accepted\n{text}"),
        Err(e) => said(text, &e),
    }
}

fn execs(text: &str, opts: &LowerOptions) -> Vec<ExecOp> {
    let done = lowered(text, opts).unwrap_or_else(|e| panic!("{:?}", said(text, &e)));
    let ops = done.plan.graph.iter().filter_map(|(_, v)| match &v.op {
        Op::Exec(e) => Some(rgraph_ir::op::ExecOp::clone(e)),
        _ => None,
    });
    ops.collect()
}

#[test]
fn graphs() {
    for (text, want) in [
        (
            "FROM a\nWORKDIR /w\nCOPY x y/ d/\nRUN make\n",
            vec![
                "0 local context x,y <- []",
                "1 image docker.io/library/a:latest linux/amd64 <- []",
                "2 mkdir /w <- [1]",
                "3 copy /x /w/d/; copy /y /w/d/ <- [2 0]",
                "4 exec \"make\" <- [3]",
            ],
        ),
        (
            "FROM a AS b\nRUN x\nFROM scratch\nCOPY --from=B /o /\n",
            vec![
                "0 image docker.io/library/a:latest linux/amd64 <- []",
                "1 exec \"x\" <- [0]",
                "2 copy /o / <- [1]",
            ],
        ),
        // Stages that nothing needs are not there.
        (
            "FROM a AS b\nRUN x\nFROM c\nRUN y\n",
            vec!["0 image docker.io/library/c:latest linux/amd64 <- []", "1 exec \"y\" <- [0]"],
        ),
        (
            "FROM a\nCOPY --link x /\nCOPY --link --chmod=644 y /\n",
            vec![
                "0 local context x,y <- []",
                "1 image docker.io/library/a:latest linux/amd64 <- []",
                "2 copy /x / <- [0]",
                "3 merge <- [1 2]",
                "4 copy /y / <- [3 0]",
            ],
        ),
        (
            "FROM a\nWORKDIR /w\nRUN --mount=type=cache,target=c --mount=type=secret,id=s --mount=from=b,source=/p,target=/q true\n",
            vec![
                "0 image docker.io/library/a:latest linux/amd64 <- []",
                "1 image docker.io/library/b:latest linux/amd64 <- []",
                "2 mkdir /w <- [0]",
                "3 exec \"true\" /w/c=cache /c /run/secrets/s=secret s /q=bind /p <- [2 1]",
            ],
        ),
        (
            "FROM a\nCOPY <<E <<-'F' /d/\nx $A\nE\n\ty $A\nF\n",
            vec![
                "0 image docker.io/library/a:latest linux/amd64 <- []",
                "1 mkfile /E \"x \\n\" <- []",
                "2 mkfile /F \"y $A\\n\" <- []",
                "3 copy /E /d/; copy /F /d/ <- [0 1 2]",
            ],
        ),
        (
            "FROM a\nRUN <<E\n#!/bin/x\nhi\nE\nRUN <<E\nhi\nE\nRUN cat <<E\nhi\nE\n",
            vec![
                "0 image docker.io/library/a:latest linux/amd64 <- []",
                "1 mkfile /E \"#!/bin/x\\nhi\\n\" <- []",
                "2 exec \"/dev/pipes/E\" /dev/pipes/=bind / <- [0 1]",
                "3 exec \"hi\\n\" <- [2]",
                "4 exec \"cat <<E\\nhi\\nE\" <- [3]",
            ],
        ),
        (
            "FROM a\nADD https://h/x.tar.gz https://h/r.git#v1 y /\n",
            vec![
                "0 local context y <- []",
                "1 image docker.io/library/a:latest linux/amd64 <- []",
                "2 http https://h/x.tar.gz <- []",
                "3 git h/r.git <- []",
                "4 copy /x.tar.gz /; copy / /; copy /y / <- [1 2 3 0]",
            ],
        ),
        (
            "FROM a AS b\nONBUILD COPY --from=c /x /\nFROM d AS c\nFROM b\nRUN y\n",
            vec![
                "0 image docker.io/library/a:latest linux/amd64 <- []",
                "1 image docker.io/library/d:latest linux/amd64 <- []",
                "2 copy /x / <- [0 1]",
                "3 exec \"y\" <- [2]",
            ],
        ),
        ("FROM scratch\nCMD [\"x\"]\n", vec![]),
        // The variant of an image stays as it is written.
        (
            "FROM --platform=linux/arm a\n",
            vec!["0 image docker.io/library/a:latest linux/arm <- []"],
        ),
        (
            "FROM --platform=linux/arm64/v8 a\n",
            vec!["0 image docker.io/library/a:latest linux/arm64/v8 <- []"],
        ),
    ] {
        assert_eq!(graph(text), want, "{text}");
    }
}

#[test]
fn platforms_share_what_is_equal() {
    let text = "FROM --platform=$BUILDPLATFORM go AS b\nARG X\nRUN gen\nFROM a\nCOPY --from=b /o /\nRUN y\n";
    let platforms = ["linux/amd64", "linux/arm64"].map(|p| p.parse().unwrap()).to_vec();
    let opts = LowerOptions { platforms, ..LowerOptions::default() };
    let done = lowered(text, &opts).unwrap();
    assert_eq!(done.plan.targets.len(), 2);
    let names: Vec<&str> = done.plan.graph.iter().map(|(_, v)| v.meta.name.as_str()).collect();
    assert_eq!(names.iter().filter(|n| n.contains("RUN gen")).count(), 1, "{names:?}");
    assert!(names.contains(&"[linux/arm64 stage-1 3/3] RUN y"), "{names:?}");
    assert_eq!(done.plan.targets[1].config.platform.to_string(), "linux/arm64");
}

#[test]
fn environment_of_steps() {
    let args = |list: &[(&str, &str)]| LowerOptions {
        build_args: list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..LowerOptions::default()
    };
    let env = |text: &str, opts: &LowerOptions| {
        let last = execs(text, opts).pop().unwrap();
        last.env.to_strings().into_iter().filter(|e| !e.starts_with("PATH=")).collect::<Vec<_>>()
    };
    for (text, given, want) in [
        ("FROM a\nENV A=1\nENV A=2 B=$A\nRUN x", &[][..], &["A=2", "B=1"][..]),
        ("FROM a\nENV A=1\nARG A=2\nRUN x", &[], &["A=2"]),
        ("ARG G=1\nFROM a\nARG G\nARG H\nARG I=\nRUN x", &[], &["G=1", "I="]),
        ("ARG G=1\nFROM a\nARG G=2\nRUN x", &[], &["G=2"]),
        ("ARG G=1\nFROM a\nARG G=2\nRUN x", &[("G", "3")], &["G=3"]),
        ("FROM a\nARG TARGETARCH\nRUN x", &[], &["TARGETARCH=amd64"]),
        ("FROM a\nRUN x", &[("HTTP_PROXY", "p")], &[]),
        ("FROM a AS b\nARG X=1\nENV A=2\nFROM b\nRUN x", &[], &["X=1", "A=2"]),
        ("FROM a AS b\nENV A=1\nARG A=2\nFROM b\nRUN x", &[], &["A=1"]),
        ("FROM a\nRUN --mount=type=ssh x", &[], &["SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"]),
    ] {
        assert_eq!(env(text, &args(given)), want, "{text}");
    }
    let e = execs("FROM a\nRUN x", &args(&[("HTTP_PROXY", "p"), ("http_proxy", "q")]));
    assert_eq!(e[0].proxy_env.as_ref().unwrap().http, "q");
}

#[test]
fn owners_are_looked_up_before_the_first_copy() {
    for (flags, want) in [
        ("--chown=u:g", ActionRef::Input(InputIndex(0))),
        ("--link --chown=u:g", ActionRef::Scratch),
    ] {
        let text = format!("FROM a\nCOPY {flags} x y /d/\n");
        let done = lowered(&text, &LowerOptions::default()).unwrap();
        let lookups: Vec<ActionRef> = done
            .plan
            .graph
            .iter()
            .filter_map(|(_, v)| match &v.op {
                Op::File(f) => Some(f.actions.iter().filter_map(|a| a.kind.owner())),
                _ => None,
            })
            .flatten()
            .map(|o| o.lookup)
            .collect();
        assert_eq!(lookups, [want, want], "{text}");
    }
}

#[test]
fn history_is_buildkits() {
    let text = "FROM a\nARG V=1\nENV A=b\nRUN make\nCMD x y\nENTRYPOINT [\"e\"]\nEXPOSE 81 80/udp\n\
        VOLUME /a /b\nHEALTHCHECK --interval=90s CMD true\nWORKDIR w\nUSER u\nCOPY --chown=u a b /c/\n";
    let done = lowered(text, &LowerOptions::default()).unwrap();
    let t = &done.plan.targets[0];
    let said: Vec<(&str, bool)> =
        t.history.iter().map(|h| (h.created_by.as_str(), h.layer.is_some())).collect();
    assert_eq!(
        said,
        [
            ("ARG V=1", false),
            ("ENV A=b", false),
            ("RUN |1 V=1 /bin/sh -c make # buildkit", true),
            ("CMD [\"/bin/sh\" \"-c\" \"x y\"]", false),
            ("ENTRYPOINT [\"e\"]", false),
            ("EXPOSE [80/udp 81/tcp]", false),
            ("VOLUME [/a /b]", false),
            (
                "HEALTHCHECK {Test:[CMD-SHELL true] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
                false
            ),
            ("WORKDIR /w", true),
            ("USER u", false),
            ("COPY --chown=u a b /c/ # buildkit", true),
        ]
    );
    assert_eq!(t.layer_count(), 4);
    assert_eq!(t.config.config.cmd.as_ref().unwrap().len(), 3);
    assert_eq!(t.config.config.user, "u");
}

#[test]
fn errors_come_all_at_once_with_their_lines() {
    for (text, want) in [
        (
            "FROM a\nRUNN x\nCOPY a\nENV\n",
            vec![
                "2: unknown instruction: RUNN (did you mean RUN?)",
                "3: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
                "4: ENV requires at least one argument",
            ],
        ),
        (
            "FROM a\nCOPY --chmodd=1 x /\nRUN --mount=typ=tmpfs y\n",
            vec!["2: unknown flag: --chmodd (did you mean chmod?)"],
        ),
        (
            "FROM a\nRUN --mount=typ=tmpfs y\nCOPY --chmod=9 x /\nEXPOSE x\n",
            vec![
                "2: unexpected key 'typ' in 'typ=tmpfs'",
                "3: invalid chmod parameter: '9'. it should be octal string and between 0 and 07777",
                "4: invalid containerPort: x",
            ],
        ),
        (
            "FROM a\nRUN --mount=target=// x\nRUN --mount=type=ssh,target=/ x\n",
            vec!["2: invalid mount target \"//\"", "3: invalid mount target \"/\""],
        ),
        ("ARG X\nFROM $X\n", vec!["2: base name ($X) should not be blank"]),
        (
            "FROM a AS x\nCOPY --from=y /a /\nFROM b AS y\nCOPY --from=x /a /\n",
            vec!["2: circular dependency detected on stage: x"],
        ),
        (
            "FROM a AS x\nCOPY --from=x /a /\nCOPY --from=x /b /\n",
            vec!["3: circular dependency detected on stage: x"],
        ),
        (
            "FROM a AS x\nCOPY --from=y /a /\nFROM b AS y\nFROM x\n",
            vec![
                "2: cannot copy from stage \"y\", it needs to be defined before current stage \"x\"",
            ],
        ),
        (
            "FROM a\nCOPY --from=$X /a /\n",
            vec![
                "2: variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            ],
        ),
        ("FROM a\nRUN <<E\nx\n", vec!["2: unterminated heredoc"]),
        (
            "FROM a\nCMD [\"a\", 1]\n",
            vec!["2: when using JSON array syntax, arrays must be comprised of strings only"],
        ),
        ("RUN x\n", vec!["1: no build stage in current context"]),
        ("", vec!["1: the Dockerfile cannot be empty"]),
        ("# x\n", vec!["1: file with no instructions"]),
        ("# x\n\n  \n", vec!["3: file with no instructions"]),
        ("FROM a\nRUN []\n", vec!["2: RUN has no command: the list is empty"]),
        (
            "ARG SOURCE_DATE_EPOCH=s\nFROM scratch AS s\nCOPY a /\nFROM a\n",
            vec![
                "2: SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction",
            ],
        ),
        ("ARG SOURCE_DATE_EPOCH=x\nFROM a\n", vec!["1: invalid SOURCE_DATE_EPOCH: x"]),
        ("FROM --platform=$NO a\n", vec!["1: empty platform value from expression $NO"]),
    ] {
        assert_eq!(errors(text), want, "{text}");
    }
}

#[test]
fn near_names_are_offered() {
    for (text, target, want) in [
        ("FORM a\n", None, "did you mean `FROM`?"),
        ("FROM a\nRUN --mount=type=cahe,target=/c x\n", None, "did you mean `cache`?"),
        ("FROM a\nRUN --mount=tpye=cache x\n", None, "did you mean `type`?"),
        ("FROM a\nRUN --netwrok=none x\n", None, "did you mean `--network`?"),
        ("FROM a AS build\n", Some("biuld"), "did you mean `build`?"),
        // A number is no name.
        ("FROM a\n", Some("0"), "no stage has a name"),
        ("FROM a AS Base\nFROM BASE\n", None, "did you mean the stage `base`?"),
        ("ARG IMAGE=a\nFROM $IMAEG\n", None, "`IMAEG` is not set; did you mean `IMAGE`?"),
    ] {
        let opts = LowerOptions { target: target.map(str::to_owned), ..LowerOptions::default() };
        let e = lowered(text, &opts).unwrap_err();
        assert_eq!(e[0].help.as_deref(), Some(want), "{text}");
        assert_eq!(e[0].severity, Severity::Error);
    }
}

#[test]
fn the_place_is_the_offending_text() {
    for (text, want) in [
        ("FROM a\nCOPY --chmdo=1 \\\n  x /\n", "--chmdo=1"),
        ("FROM a\nRUN \\\n  --mount=type=foo x\n", "--mount=type=foo"),
        ("FROM a\nENV A=${B:?x} \\\n  C=d\n", "A=${B:?x}"),
        ("FROM a\nADD --checksum=x \\\n y /\n", "--checksum=x"),
        ("FROM a AS 1x\n", "1x"),
        ("FROM a:b:c\n", "a:b:c"),
    ] {
        let e = lowered(text, &LowerOptions::default()).unwrap_err();
        let span = e[0].span().unwrap();
        assert_eq!(&text[span.start as usize..span.end as usize], want, "{text}");
    }
}

#[test]
fn all_bases_are_asked_for_in_one_round() {
    let text = "FROM a AS x\nFROM --platform=linux/arm64 b AS y\nFROM unused AS z\nFROM x\nCOPY --from=y /a /\nRUN --mount=from=c,target=/c x\n";
    let ast = parse(&source(text)).ast;
    let mut facts = Facts::new();
    let Ok(Lowering::Missing(missing)) = lower(&ast, &LowerOptions::default(), &facts) else {
        panic!("nothing is known yet");
    };
    let query = |name: &str, platform: &str| Query::ImageConfig {
        reference: format!("docker.io/library/{name}:latest"),
        platform: platform.parse().unwrap(),
        mode: ResolveMode::Default,
    };
    let all = [query("a", "linux/amd64"), query("b", "linux/arm64"), query("c", "linux/amd64")];
    assert_eq!(missing, BTreeSet::from(all.clone()));

    let mut config = ImageConfig::empty(Platform::linux_amd64());
    config.config.env = vec![("PATH".to_owned(), "/p".to_owned())];
    config.config.on_build = vec!["RUN --mount=from=d,target=/d hook".to_owned()];
    config.config.working_dir = "/base".to_owned();
    for q in all {
        let image = BaseImage {
            reference: "pinned@sha256:1".to_owned(),
            config: config.clone(),
            layers: 3,
            history: vec![BaseHistory::default(); 3],
        };
        facts.insert(q, Ok(image));
    }
    // The triggers name a further image: one more round.
    let Ok(Lowering::Missing(missing)) = lower(&ast, &LowerOptions::default(), &facts) else {
        panic!("the trigger's image is not known");
    };
    assert_eq!(missing, BTreeSet::from([query("d", "linux/amd64")]));
    facts.insert(query("d", "linux/amd64"), Err("no such image".to_owned()));
    let e = lower(&ast, &LowerOptions::default(), &facts).unwrap_err();
    assert!(e[0].message.contains("no such image"), "{e:?}");
    let empty = BaseImage {
        reference: "d".to_owned(),
        config: ImageConfig::empty(Platform::linux_amd64()),
        layers: 0,
        history: Vec::new(),
    };
    facts.insert(query("d", "linux/amd64"), Ok(empty));
    let Ok(Lowering::Done(done)) = lower(&ast, &LowerOptions::default(), &facts) else {
        panic!("all is known");
    };
    let t = &done.plan.targets[0];
    assert_eq!((t.base.layers, t.layer_count()), (3, 6));
    assert!(t.config.config.on_build.is_empty());
    // An image without layers is nothing: no vertex, a mount of nothing.
    assert!(done.plan.graph.iter().all(|(_, v)| !matches!(&v.op,
        Op::Source(rgraph_ir::op::SourceOp::Image(i)) if i.reference == "d")));
}

#[test]
fn named_contexts_replace_stages_and_images() {
    let contexts = [
        ("alpine", NamedContext::Local { ignore_patterns: vec!["x".to_owned()] }),
        ("b", NamedContext::Image { reference: "other:1".to_owned() }),
        ("h", NamedContext::Http { url: "https://h/x.tar".to_owned() }),
    ];
    let opts = LowerOptions {
        build_contexts: contexts.map(|(k, v)| (k.to_owned(), v)).into(),
        ..LowerOptions::default()
    };
    let text = "FROM zzz AS b\nRUN dropped\nFROM scratch\nCOPY --from=alpine /a /q/../b /\nCOPY --from=b /c /\nCOPY --from=h context /\n";
    assert_eq!(
        graph_with(text, &opts),
        [
            "0 local alpine a,b <- []",
            "1 image docker.io/library/other:1 linux/amd64 <- []",
            "2 http https://h/x.tar <- []",
            "3 copy /a /; copy /b / <- [0]",
            "4 copy /c / <- [3 1]",
            "5 copy /context / <- [4 2]",
        ]
    );
    let digest = "0f".repeat(32);
    let layout = NamedContext::OciLayout { reference: format!("x/y:t@sha256:{digest}") };
    let opts = LowerOptions {
        build_contexts: [("b:1".to_owned(), layout)].into(),
        ..LowerOptions::default()
    };
    let done = lowered("FROM b:1\n", &opts).unwrap();
    assert_eq!(drawn(&done.plan), [format!("0 oci docker.io/library/b:1@sha256:{digest} <- []")]);
    assert!(done.plan.graph.iter().any(|(_, v)| matches!(&v.op,
        Op::Source(rgraph_ir::op::SourceOp::OciLayout(o)) if o.store == "x/y")));
}

#[test]
fn a_stage_stands_in_for_a_named_context() {
    let opts = LowerOptions {
        build_contexts: ["a", "b"]
            .map(|name| (name.to_owned(), NamedContext::Target { name: "T".to_owned() }))
            .into(),
        ..LowerOptions::default()
    };
    let stage = "FROM z AS t\nENV A=1\nRUN x\nONBUILD RUN trigger\n";
    for (text, want) in [
        // As a base, with its settings and triggers; as a source; in the place of a stage.
        ("FROM a\nRUN y\n", "exec \"y\" <- [2]"),
        ("FROM q AS b\nRUN dropped\nFROM scratch\nCOPY --from=b /f /\n", "copy /f / <- [1]"),
        ("FROM scratch\nCOPY --from=a /f /\n", "copy /f / <- [1]"),
        ("FROM q\nRUN --mount=from=b,target=/m z\n", "/m"),
    ] {
        let text = format!("{stage}{text}");
        let done =
            lowered(&text, &opts).unwrap_or_else(|e| panic!("{text}: {:?}", said(&text, &e)));
        let lines = drawn(&done.plan);
        let last = lines.last().unwrap();
        assert!(last.contains(want), "{text}: {lines:#?}");
    }
    // Only stages above can be meant, so that no circle can be written.
    for text in ["FROM a\nFROM z AS t\n", "FROM a AS t\n", "FROM z AS tt\nFROM a\n"] {
        let all = LowerOptions { all_stages: true, ..opts.clone() };
        let e = lowered(text, &all).unwrap_err();
        assert!(e[0].message.ends_with("no stage above is called `T`"), "{text}: {e:?}");
    }
}

#[test]
fn options_reach_the_steps() {
    let opts = LowerOptions {
        no_cache: NoCache::Stages(vec!["B".to_owned()]),
        shm_size: Some(7),
        hostname: Some("h".to_owned()),
        source_date_epoch: Some(5),
        ..LowerOptions::default()
    };
    let text = "FROM a AS x\nRUN one\nFROM x AS b\nWORKDIR /w\nRUN two\n";
    let done = lowered(text, &opts).unwrap();
    let ignoring: Vec<&str> = done
        .plan
        .graph
        .iter()
        .filter(|(_, v)| v.meta.ignore_cache)
        .map(|(_, v)| v.meta.name.as_str())
        .collect();
    assert_eq!(ignoring, ["[b 2/2] RUN two"]);
    let e = execs(text, &opts);
    assert_eq!(e[0].mounts[0].dest, "/dev/shm");
    assert_eq!(e[0].hostname.as_deref(), Some("h"));
    assert!(drawn(&done.plan).iter().any(|l| l.contains("mkdir /w")));
    assert!(done.plan.graph.iter().any(|(_, v)| matches!(&v.op, Op::File(f)
        if matches!(&f.actions[0].kind, rgraph_ir::op::FileActionKind::Mkdir(m)
            if m.timestamp == Some(5_000_000_000)))));
}

#[test]
fn stages_without_cache_by_name_and_number() {
    let text = "FROM a AS One\nRUN 1\nFROM a\nRUN 2\nFROM a AS three\nRUN 3\n\
        FROM scratch\nCOPY --from=one / /\nCOPY --from=1 / /\nCOPY --from=three / /\n";
    for (list, want) in [
        (vec!["ONE"], vec!["RUN 1"]),
        (vec!["1"], vec!["RUN 2"]),
        (vec!["0", "Three"], vec!["RUN 1", "RUN 3"]),
        (vec!["3"], vec!["COPY --from=one / /", "COPY --from=1 / /", "COPY --from=three / /"]),
    ] {
        let stages = NoCache::Stages(list.iter().map(|s| (*s).to_owned()).collect());
        let opts = LowerOptions { no_cache: stages, ..LowerOptions::default() };
        let done = lowered(text, &opts).unwrap();
        let all = done.plan.graph.iter().filter(|(_, v)| v.meta.ignore_cache);
        let mut got: Vec<&str> =
            all.map(|(_, v)| v.meta.name.split("] ").nth(1).unwrap()).collect();
        got.sort_unstable();
        let mut want = want;
        want.sort_unstable();
        assert_eq!(got, want, "{list:?}");
    }
}

#[test]
fn a_comment_gives_a_step_a_time_to_live() {
    let text = "FROM a\n# cache=ttl=24h\nRUN x\n# cache=ttl=1h\nCOPY --link y /\nRUN z\n\
        # cache=ttl=bad\nRUN w\n";
    let done = lowered(text, &LowerOptions::default()).unwrap();
    let ttls: Vec<String> = done
        .plan
        .graph
        .iter()
        .filter_map(|(_, v)| Some(format!("{} {}", v.op.kind(), v.meta.ttl?)))
        .collect();
    assert_eq!(ttls, ["exec 24h", "file 1h", "merge 1h"]);
    // The same graph, and the same keys, as without.
    let plain = lowered(&text.replace("# cache=", "# "), &LowerOptions::default()).unwrap();
    assert_eq!(drawn(&done.plan), drawn(&plain.plan));
    let definitions = |p: &rgraph_ir::BuildPlan| -> Vec<_> {
        p.graph.iter().map(|(_, v)| (v.op.clone(), v.inputs.clone(), v.platform.clone())).collect()
    };
    assert_eq!(definitions(&done.plan), definitions(&plain.plan));
}

#[test]
fn a_time_from_elsewhere_is_asked_for() {
    let text = "ARG SOURCE_DATE_EPOCH=s\nFROM scratch AS s\nARG U=https://h/x\nADD $U /\nFROM scratch\nWORKDIR /w\n";
    let done = lowered(text, &LowerOptions::default()).unwrap();
    assert_eq!(drawn(&done.plan), ["0 mkdir /w <- []"]);
    assert_eq!(done.epoch, None);
    let url = || TimeOf::Url("https://h/x".into());
    let repository = || TimeOf::Repository("https://h/x.git#main".into());
    let named = |name: &str, value| LowerOptions {
        build_args: BTreeMap::from([("SOURCE_DATE_EPOCH".to_owned(), name.to_owned())]),
        build_contexts: BTreeMap::from([("c".to_owned(), value)]),
        context_time: Some(9),
        ..LowerOptions::default()
    };
    let git = NamedContext::Git { url: "https://h/x.git#main".into() };
    let http = NamedContext::Http { url: "https://h/x".into() };
    let folder = NamedContext::Local { ignore_patterns: Vec::new() };
    let plain = "FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL a=${SOURCE_DATE_EPOCH:-none}\n";
    for (text, opts, of, label) in [
        (text, LowerOptions::default(), Some(url()), None),
        (plain, named("c", git), Some(repository()), Some("7")),
        (plain, named("c", http), Some(url()), Some("7")),
        (plain, named("c", folder.clone()), None, Some("none")),
        (plain, named("context", folder), None, Some("9")),
    ] {
        let ast = parse(&source(text)).ast;
        let mut facts = Facts::new();
        if let Some(of) = &of {
            let asked = lower(&ast, &opts, &facts).unwrap();
            let Lowering::Missing(asked) = asked else { panic!("nothing is asked") };
            assert_eq!(asked.into_iter().collect::<Vec<_>>(), [Query::Time(of.clone())]);
            facts.insert_time(of.clone(), Err("gone".into()));
            let e = lower(&ast, &opts, &facts).unwrap_err();
            assert!(e[0].message.contains("cannot be found out: gone"), "{e:?}");
            facts.insert_time(of.clone(), Ok(Some(7)));
        }
        let Lowering::Done(done) = lower(&ast, &opts, &facts).unwrap() else { panic!("missing") };
        let want = if of.is_some() { Some(7) } else { label.and_then(|l| l.parse().ok()) };
        assert_eq!(done.epoch, want);
        let labels = &done.plan.targets[0].config.config.labels;
        assert_eq!(labels.get("a").map(String::as_str), label);
    }
}

#[test]
fn a_base_named_after_a_time_waits_for_it() {
    let text = "ARG SOURCE_DATE_EPOCH=s\nFROM scratch AS s\nADD https://h/x /\n\
                FROM a:v${SOURCE_DATE_EPOCH:?needed}\n";
    let (ast, mut facts) = (parse(&source(text)).ast, Facts::new());
    let asked = |facts: &Facts| match lower(&ast, &LowerOptions::default(), facts) {
        Ok(Lowering::Missing(asked)) => asked.into_iter().collect::<Vec<_>>(),
        other => panic!("nothing is asked: {other:?}"),
    };
    let time = TimeOf::Url("https://h/x".into());
    assert_eq!(asked(&facts), [Query::Time(time.clone())]);
    facts.insert_time(time, Ok(Some(7)));
    let [Query::ImageConfig { reference, .. }] = &asked(&facts)[..] else { panic!("no image") };
    assert_eq!(reference, "docker.io/library/a:v7");
}

#[test]
fn hostile_sizes_end_with_an_error() {
    let mut args = "FROM a\n".to_owned();
    (0..5_000).for_each(|i| args.push_str(&format!("ARG K{i}=v\n")));
    (0..5_000).for_each(|i| args.push_str(&format!("RUN x{i}\n")));
    assert!(errors(&args)[0].contains("history"));

    let mut reset = "FROM a\n".to_owned();
    (0..3_000).for_each(|i| reset.push_str(&format!("ENV K{i}=v\n")));
    (0..3_000).for_each(|i| reset.push_str(&format!("ENV K{i}=w\nRUN x{i}\n")));
    assert!(errors(&reset)[0].contains("set again"));

    let mut chain = "FROM a AS s0\n".to_owned();
    (1..20_000).for_each(|i| {
        chain.push_str(&format!("FROM scratch AS s{i}\nCOPY --from=s{} / /\n", i - 1));
    });
    assert!(lowered(&chain, &LowerOptions::default()).is_ok());
}
