//! Bad input: what, where, what to do; the right exit code; nothing written.

use rgraph_tests::{Case, need};

/// The store knows no image and no result but the base's.
#[track_caller]
fn nothing_was_built(case: &Case) {
    let rows = case.rgraph(&["images", "-q"]).ok();
    assert_eq!(rows.text().lines().count(), 1, "an image was made");
}

#[test]
fn mistakes_in_the_file_name_line_and_neighbour() {
    need!(Root);
    let rows: &[(&str, &[&str])] = &[
        ("FROM BASE\nRUN true\nCPOY a b\n", &["Dockerfile:3", "CPOY", "COPY"]),
        ("FORM BASE\n", &["Dockerfile:1", "FORM", "FROM"]),
        ("FROM BASE\nCOPY --form=x a b\n", &["Dockerfile:2", "--form", "--from"]),
        ("FROM BASE\nRUN --mont=type=cache,target=/x true\n", &["Dockerfile:2", "--mont", "mount"]),
        ("FROM BASE\n\nCOPY \\\n  hallo.txt /\n", &["Dockerfile:3", "hallo.txt", "hello.txt"]),
        ("FROM BASE\nADD hello.tx /\n", &["Dockerfile:2", "hello.tx", "hello.txt"]),
        ("FROM BASE\nCOPY srcc/a.c /\n", &["Dockerfile:2", "/srcc/a.c", "`/src/a.c`"]),
        ("FROM BASE\nCOPY hello.txt\n", &["Dockerfile:2", "COPY"]),
        ("RUN true\n", &["Dockerfile:1", "FROM"]),
        ("", &["Dockerfile"]),
        ("FROM BASE\nENV A\n", &["Dockerfile:2", "ENV"]),
        (
            "FROM BASE\nRUN --mount=type=chache,target=/c true\n",
            &["Dockerfile:2", "chache", "cache"],
        ),
        ("FROM BASE\nEXPOSE 99999\n", &["Dockerfile:2", "99999"]),
        ("FROM BASE\nENV A=${B\n", &["Dockerfile:2"]),
        ("FROM ${NONE}\n", &["Dockerfile:1"]),
    ];
    let case = Case::with_base();
    case.file("hello.txt", "hello\n").file("src/a.c", "");
    for (text, want) in rows {
        case.dockerfile(text);
        let run = case.build(&["-t", "never"]);
        let shown = run.stderr.clone();
        assert_eq!(run.code, 1, "{text:?}:\n{shown}");
        for w in *want {
            assert!(shown.contains(w), "{text:?}: no `{w}` in:\n{shown}");
        }
        nothing_was_built(&case);
    }
}

#[test]
fn a_file_that_is_too_large_names_the_line_where_it_gets_so() {
    let case = Case::new();
    case.file("Dockerfile", format!("FROM scratch\nRUN {}\n", "a".repeat(17 << 20)));
    let run = case.rgraph(&["graph", "--offline", "context"]);
    run.fails(1, &["Dockerfile:2: the file is larger than"]);
}

#[test]
fn a_wildcard_that_matches_nothing_is_warned_about() {
    need!(Root);
    let case = Case::with_base();
    case.file("hello.txt", "hello\n");
    case.dockerfile("FROM BASE\nCOPY hell* none*.txt /d/\nRUN ls /d\n");
    let run = case.build(&[]).ok();
    assert!(run.stderr.contains("`/none*.txt` matches nothing"), "{}", run.stderr);
    assert!(!run.stderr.contains("`/hell*`"), "{}", run.stderr);
}

#[test]
fn an_unknown_stage_names_the_nearest() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE AS builder\nRUN true\nFROM BASE\nCOPY --from=biulder a b\n");
    case.build(&["--pull=never"]).fails(1, &["Dockerfile:4", "biulder", "`builder`"]);
    case.dockerfile("FROM BASE AS builder\nRUN true\n");
    case.build(&["--target", "bulder"]).fails(1, &["bulder", "builder"]);
    case.build(&["--no-cache-filter", "bulder"]).fails(1, &["bulder", "builder"]);
}

#[test]
fn wrong_use_of_the_command_line_is_exit_2() {
    let case = Case::new();
    case.file("Dockerfile", "FROM scratch\n");
    let rows: &[(&[&str], &str)] = &[
        (&["build", "--tga", "x", "context"], "--target"),
        (&["biuld", "context"], "build"),
        (&["build"], "CONTEXT"),
        (&["build", "--progress=fancy", "context"], "fancy"),
        (&["build", "-t", "Bad Name", "context"], "Bad Name"),
        (&["build", "-o", "type=oci,dst=x", "context"], "dst"),
        (&["build", "-o", "type=ocy,dest=x", "context"], "ocy"),
        (&["build", "--cache-to", "type=local", "context"], "dest"),
        (&["graph", "--format", "jsn", "context"], "jsn"),
    ];
    for (args, text) in rows {
        let run = case.rgraph(args);
        assert_eq!(run.code, 2, "{args:?}:\n{}", run.stderr);
        assert!(run.stderr.contains(text), "{args:?}: no `{text}` in:\n{}", run.stderr);
        assert!(run.stdout.is_empty(), "{args:?} wrote to stdout");
        assert!(!case.root().exists(), "{args:?} made a state root");
    }
}

#[test]
fn what_is_missing_is_named() {
    let case = Case::new();
    case.build(&[]).fails(1, &["no Dockerfile"]);
    case.file("Dockerfile", "FROM scratch\n");
    case.build(&["-f", "Dockerfle"]).fails(1, &["no Dockerfile", "Dockerfle"]);
    case.rgraph(&["build", "no-such-folder"]).fails(1, &["no-such-folder"]);
    case.build(&["--secret", "id=x,src=no-such-file"]).fails(1, &["no-such-file"]);
    assert!(case.rgraph(&["images", "-q"]).ok().stdout.is_empty());
}

#[test]
fn a_registry_that_is_down_gives_its_last_cause() {
    let case = Case::new();
    // Port 1 of this machine: nobody listens.
    case.file("Dockerfile", "FROM 127.0.0.1:1/image\nRUN true\n");
    let run = case.build(&[]).fails(1, &["Dockerfile:1", "127.0.0.1:1", "connection refused"]);
    let told = run.stderr.lines().filter(|l| l.starts_with("  ×")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "one sentence, not {told:?}");
    assert!(told[0].ends_with("connection refused"), "{}", told[0]);
}

#[test]
fn a_failing_step_is_shown_and_what_ended_before_is_kept() {
    need!(Root);
    let case = Case::with_base();
    let text = |end: &str| {
        format!(
            "FROM BASE AS a\nRUN echo finished > /f\nRUN echo to stdout; echo to stderr >&2; {end}\n\
             FROM BASE AS b\nRUN sleep 987\nFROM BASE\nCOPY --from=a /f /\nCOPY --from=b /bin /x\n"
        )
    };
    case.dockerfile(&text("exit 7"));
    let run = case
        .build(&["-t", "never"])
        .fails(1, &["Dockerfile:3", "exit code: 7", "to stdout", "to stderr"]);
    assert_eq!(run.step("echo finished"), "DONE");
    assert_eq!(run.step("exit 7"), "ERROR");
    assert!(["CANCELED", "RUNNING"].contains(&&run.step("sleep 987")[..]), "{}", run.stderr);
    let tail = run.stderr.split("------").nth(1).expect("the output is shown again");
    assert!(tail.contains("to stdout") && tail.contains("to stderr"), "{tail}");
    nothing_was_built(&case);
    case.dockerfile(&text("exit 8"));
    let again = case.build(&["--target", "a"]).fails(1, &["exit code: 8"]);
    assert_eq!(again.step("echo finished"), "CACHED");
}

#[test]
fn a_steps_own_code_is_not_the_commands() {
    need!(Root);
    let case = Case::with_base();
    for (command, code) in
        [("[\"/no/such\"]", "127"), ("[\"/etc/passwd\"]", "126"), ("exit 143", "143")]
    {
        case.dockerfile(&format!("FROM BASE\nRUN {command}\n"));
        case.build(&[]).fails(1, &["Dockerfile:2", &format!("exit code: {code}")]);
    }
    case.dockerfile("FROM BASE\nRUN sh -c 'kill -9 $$'; exit $?\n");
    case.build(&[]).fails(1, &["Dockerfile:2", "exit code: 137"]);
}

#[test]
fn control_bytes_of_a_step_are_made_visible() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile("FROM BASE\nRUN printf 'a\\033]0;title\\007b\\033[2J\\n'; exit 1\n");
    let run = case.build(&[]).fails(1, &["exit code: 1"]);
    assert!(!run.stderr.bytes().any(|b| b == 0x1b || b == 7), "{:?}", run.stderr);
}
