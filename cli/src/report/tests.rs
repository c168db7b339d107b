//! What is drawn.

use super::*;

fn draw(style: Style, f: impl FnOnce(&mut Reporter<'_>) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    f(&mut Reporter::new(&mut out, style)).unwrap();
    String::from_utf8(out).unwrap()
}

fn source(text: &str) -> (SourceMap, rgraph_ir::FileId) {
    let mut map = SourceMap::default();
    let id = map.add("Dockerfile", text);
    (map, id)
}

fn span(map: &SourceMap, file: rgraph_ir::FileId, what: &str) -> Span {
    let start = map.file(file).text.find(what).unwrap() as u32;
    Span { file, start, end: start + what.len() as u32 }
}

#[test]
fn an_error_with_its_source() {
    let (map, f) = source("FROM busybox\nRUN true\nCOPPY a b\nRUN false\n");
    let d = Diagnostic::error(
        "unknown-instruction",
        span(&map, f, "COPPY"),
        "unknown instruction `COPPY`",
    )
    .help("did you mean `COPY`?");
    insta::assert_snapshot!(draw(Style::default(), |r| r.diagnostics(&[d], &map)), @r##"
    error[unknown-instruction]

      × Dockerfile:3: unknown instruction `COPPY`
       ╭─[Dockerfile:3:1]
     2 │ RUN true
     3 │ COPPY a b
       · ─────
     4 │ RUN false
       ╰────
      help: did you mean `COPY`?
    "##);
}

#[test]
fn several_places_and_hostile_text() {
    let (map, f) = source("FROM a AS x\x1b[2J\nFROM b AS x\n");
    let d =
        Diagnostic::error("duplicate-stage", span(&map, f, "FROM b AS x"), "two stages `x\x1b[2J`")
            .label(span(&map, f, "FROM a AS"), "the first one");
    insta::assert_snapshot!(draw(Style::default(), |r| r.diagnostics(&[d], &map)), @r##"
    error[duplicate-stage]

      × Dockerfile:2: two stages `x^[[2J`
       ╭─[Dockerfile:2:1]
     1 │ FROM a AS x?[2J
       · ────┬────
       ·     ╰── the first one
     2 │ FROM b AS x
       · ───────────
       ╰────
    "##);
}

#[test]
fn of_many_places_a_few_are_drawn() {
    let text: String = (0..40).map(|n| format!("RUN {n:02}\n")).collect();
    let (map, file) = source(&text);
    let line = |n: u32| Span { file, start: n * 7, end: n * 7 + 6 };
    let d = (1..40).fold(Diagnostic::error("x", line(0), "many"), |d, n| {
        d.label(line(n), if n == 20 { "this one" } else { "" })
    });
    let got = draw(Style::default(), |r| r.diagnostics(&[d], &map));
    let underlined = got.matches("· ──").count();
    assert!(underlined < 12 && got.contains("this one"), "{got}");
    assert!(got.contains("RUN 00") && !got.contains("RUN 30"), "{got}");
}

#[test]
fn places_at_the_edges_do_not_break_the_drawing() {
    for (text, start, end) in
        [("", 0, 0), ("FROM é", 6, 7), ("a\n", 2, 2), ("a", 5, 9), ("a\nb", 0, 3)]
    {
        let (map, file) = source(text);
        let d = Diagnostic::error("x", Span { file, start, end }, "message");
        let got = draw(Style::default(), |r| r.diagnostics(&[d], &map));
        assert!(got.contains("Dockerfile:") && got.contains("message"), "{text:?}: {got}");
    }
    let d = Diagnostic::new(Severity::Error, "x", None, "about no text");
    let got = draw(Style::default(), |r| r.diagnostics(&[d], &SourceMap::default()));
    assert!(got.contains("about no text"), "{got}");
}

#[test]
fn line_numbers_hold_far_down_and_floods_are_cut() {
    let text: String = (1..=1000).map(|i| format!("RUN step {i}\n")).collect();
    let (map, f) = source(&text);
    let d = Diagnostic::error("x", span(&map, f, "step 700"), "here")
        .label(span(&map, f, "step 703"), "and here");
    insta::assert_snapshot!(draw(Style::default(), |r| r.diagnostics(std::slice::from_ref(&d), &map)), @r##"
    error[x]

      × Dockerfile:700: here
         ╭─[Dockerfile:700:5]
     699 │ RUN step 699
     700 │ RUN step 700
         ·     ────────
     701 │ RUN step 701
     702 │ RUN step 702
     703 │ RUN step 703
         ·     ────┬───
         ·         ╰── and here
     704 │ RUN step 704
         ╰────
    "##);
    let many = vec![d; 300];
    let got = draw(Style::default(), |r| r.diagnostics(&many, &map));
    assert!(got.ends_with("\nand 250 more\n") && got.matches("error[x]").count() == 50);
    let got = draw(Style::default(), |r| r.warnings(&many, &map));
    assert!(got.ends_with("\nand 100 more\n") && got.starts_with("\n300 warnings found"));
}

#[test]
fn a_message_is_never_wrapped() {
    let (map, f) = source("FROM busybox\n");
    let long = "word ".repeat(60);
    let d = Diagnostic::error("x", span(&map, f, "FROM"), long.trim());
    let got = draw(Style::default(), |r| r.diagnostics(&[d], &map));
    assert!(got.contains(&format!("Dockerfile:1: {}", long.trim())), "{got}");
}

#[test]
fn warnings_are_counted_and_expanded() {
    let (map, f) = source("from busybox\nMAINTAINER me\n");
    let all = [
        Diagnostic::warning(
            "ConsistentInstructionCasing",
            span(&map, f, "from"),
            "`from` is not upper case",
        ),
        Diagnostic::warning("MaintainerDeprecated", span(&map, f, "MAINTAINER"), "use a label"),
    ];
    insta::assert_snapshot!(draw(Style::default(), |r| r.warnings(&all, &map)), @r##"

    2 warnings found (use --debug to expand):
     - ConsistentInstructionCasing: `from` is not upper case (Dockerfile:1)
     - MaintainerDeprecated: use a label (Dockerfile:2)
    "##);
    let full = Style { debug: true, ..Style::default() };
    assert!(draw(full, |r| r.warnings(&all, &map)).contains("╭─[Dockerfile:2:1]"));
    assert_eq!(draw(full, |r| r.warnings(&[], &map)), "");
}

#[test]
fn a_failed_step() {
    let (map, f) = source("FROM busybox\nRUN make \\\n  all\n");
    let step = FailedStep {
        name: "[2/2] RUN make   all",
        span: Some(span(&map, f, "RUN make \\\n  all")),
        tail: &["make: *** no rule".to_owned()],
        help: None,
    };
    let cause = rgraph_solver::ports::TaskError::Exit { code: 127, why: None };
    insta::assert_snapshot!(draw(Style::default(), |r| r.failed_step(&step, &cause, &map)), @r##"
    ------
     > [2/2] RUN make   all:
    make: *** no rule
    ------
    error[step-failed]

      × Dockerfile:2: [2/2] RUN make   all failed: exit code: 127
       ╭─[Dockerfile:2:1]
     1 │ FROM busybox
     2 │ RUN make \
       · ──────────
     3 │   all
       ╰────
    "##);
}

#[derive(Debug)]
struct Level(&'static str, Option<Box<Level>>);

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for Level {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.1.as_deref().map(|e| e as _)
    }
}

#[test]
fn chains_are_printed_once() {
    let deep = Level("connecting", Some(Box::new(Level("connection refused", None))));
    // A level that says its source again does not make it stand twice.
    let e = Level("connecting", Some(Box::new(deep)));
    let e = CliError::failed("pulling busybox").because(e).help("is the registry up?");
    insta::assert_snapshot!(draw(Style::default(), |r| r.error(&e)), @r##"
    error: pulling busybox: connecting: connection refused
    help: is the registry up?
    "##);
    insta::assert_snapshot!(draw(Style { debug: true, ..Style::default() }, |r| r.error(&e)), @r##"
    error: pulling busybox
      caused by: connecting
      caused by: connection refused
    help: is the registry up?
    "##);
    assert_eq!(draw(Style::default(), |r| r.error(&CliError::reported(ErrorKind::Failed))), "");
    let coloured = draw(Style { colours: true, ..Style::default() }, |r| r.error(&e));
    assert!(coloured.starts_with("\x1b[31merror\x1b[0m: pulling"), "{coloured:?}");
}

#[test]
fn exit_codes_of_the_contract() {
    for (kind, code) in [
        (ErrorKind::Failed, 1),
        (ErrorKind::Usage, 2),
        (ErrorKind::Internal, 70),
        (ErrorKind::Interrupted, 130),
        (ErrorKind::Terminated, 143),
    ] {
        assert_eq!(kind.exit_code(), code);
    }
    let e = CliError::from(OptionsError::value("--tag", "X", "bad"));
    assert_eq!(
        (e.kind, e.message.as_str()),
        (ErrorKind::Usage, "invalid value `X` for `--tag`: bad")
    );
    let e = CliError::from(OptionsError::Unsupported("`--squash`".into()));
    assert_eq!(e.kind, ErrorKind::Failed);
    let source = io::Error::from(io::ErrorKind::NotFound);
    let e = OptionsError::Read { flag: "secret `x`".into(), path: "/f".into(), source };
    let text = draw(Style::default(), |r| r.error(&CliError::from(e)));
    assert_eq!(text, "error: secret `x`: cannot read `/f`: entity not found\n");
}

#[test]
fn a_panic_is_one_line_that_asks_for_a_report() {
    for payload in [
        Box::new("broken\ninvariant") as Box<dyn std::any::Any + Send>,
        Box::new("broken invariant".to_owned()),
    ] {
        let line = panic_line(&*payload, None);
        assert!(line.starts_with("internal error: broken invariant: ") && line.contains("report"));
        assert_eq!(line.lines().count(), 1);
    }
}
