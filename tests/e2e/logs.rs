//! What steps print: kept whole, streams apart, without secrets, shown by `rgraph logs`.

use rgraph_tests::{Case, need};

#[test]
fn logs_are_whole_and_streams_apart() {
    need!(Root);
    let case = Case::with_base();
    case.dockerfile(
        "FROM BASE\n\
         RUN echo out; echo err >&2; printf '\\033]0;title\\007'\n\
         RUN seq 400000\n\
         RUN true\n",
    );
    let run = case.build(&["--progress=plain"]).ok();
    let note =
        run.stderr.lines().find_map(|l| l.split_once("[output clipped at 2 MiB; all of it: "));
    let hint = note.expect("a note").1;
    let words: Vec<&str> = hint.split(['\'']).collect();
    let [command, step, "]"] = words[..] else { panic!("{hint}") };
    let build = command.trim().strip_prefix("rgraph logs ").expect(hint);
    assert_eq!(step, "[3/4]");
    let all: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(case.rgraph(&["logs", build, step]).ok().text(), all);
    let run = case.rgraph(&["logs", build, "2/4"]).ok();
    assert_eq!((run.text(), run.stderr.as_str()), ("out\n\u{1b}]0;title\u{7}", "err\n"));
    let run = case.rgraph(&["logs", "latest", "4/4"]).ok();
    assert_eq!((run.text(), run.stderr.as_str()), ("", "the step printed nothing\n"));
    let run = case.rgraph(&["logs"]).ok();
    assert!(run.text().starts_with("out\n") && run.text().ends_with("400000\n"));
    assert!(run.stderr.contains("==> 3: [3/4] RUN seq 400000 <==\n"), "{}", run.stderr);
    case.rgraph(&["logs", "ffffffff", "1"]).fails(1, &["no build `ffffffff` is known"]);
    // A cached build printed nothing; the one before still has its logs. `du` counts them.
    case.build(&[]).ok().all_cached();
    let run = case.rgraph(&["logs", "latest", "2/4"]).ok();
    assert!(run.stderr.contains("its result was in the cache"), "{}", run.stderr);
    assert_eq!(case.rgraph(&["logs", build, step]).ok().stdout.len(), all.len());
    let du = case.rgraph(&["du"]).ok();
    let line = du.text().lines().find(|l| l.starts_with("Logs")).expect("a line").to_owned();
    assert!(line.contains("MB"), "{line}");
}

#[test]
fn a_failed_step_is_kept_and_secrets_are_not() {
    need!(Root);
    let case = Case::with_base();
    case.file("token", "hunter2secret\n");
    let secret = format!("id=t,src={}", case.context().join("token").display());
    case.dockerfile(
        "FROM BASE\n\
         RUN --mount=type=secret,id=t printf 'a hunter2'; cat /run/secrets/t; cut -c1-5 /run/secrets/t; \\\n\
         cut -c6- /run/secrets/t; cat /run/secrets/t >&2; exit 3\n",
    );
    case.build(&["--secret", &secret]).fails(1, &["exit code: 3"]);
    let run = case.rgraph(&["logs", "latest", "2/2"]).ok();
    assert_eq!(run.text(), "a hunter2***\nhunte\nr2secret\n");
    assert_eq!(run.stderr, "***\n");
    let logs = case.root().join("logs");
    let build = std::fs::read_dir(logs).expect("logs").next().expect("one").expect("one").path();
    for file in std::fs::read_dir(build).expect("a folder") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("a log");
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2secret"));
    }
}

#[test]
fn a_log_ends_where_the_config_says() {
    need!(Root);
    let mut case = Case::with_base();
    let config = case.out("config.toml");
    std::fs::write(&config, "[logs]\nmax-size = \"10k\"\n").expect("a file");
    case.env("RGRAPH_CONFIG", &config.display().to_string());
    case.dockerfile("FROM BASE\nRUN seq 10000\n");
    let run = case.build(&["--progress=plain"]).ok();
    assert_eq!(run.stderr.matches("the log of this step is full").count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains(" 10000\n"), "{}", run.stderr);
    let run = case.rgraph(&["logs", "latest", "2/2"]).ok();
    assert_eq!(run.stdout.len(), 10 << 10);
    assert!(run.stderr.contains("the log was cut here"), "{}", run.stderr);
}
