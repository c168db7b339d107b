//! Texts made to hurt: each ends with an error that names the line, or with the right plan. No test looks
//! at a clock; what is quadratic or recursive here does not end, or ends the process.

use rgraph_frontend::{Facts, IgnoreFile, LowerOptions, Lowered, Lowering, lower, outline, parse};
use rgraph_ir::limits::{MAX_DOCKERFILE, MAX_LINE, MAX_STAGES};
use rgraph_ir::op::Op;
use rgraph_ir::pattern::PatternSet;
use rgraph_ir::span::{FileId, SourceFile};
use rgraph_ir::{Diagnostic, verify};

fn compile(src: &SourceFile, opts: &LowerOptions) -> Result<Lowered, Vec<Diagnostic>> {
    let parsed = parse(src);
    if !parsed.is_ok() {
        return Err(parsed.diags);
    }
    // The second reader of a tree must not be the weaker one.
    drop(outline(&parsed.ast, opts));
    match lower(&parsed.ast, opts, &Facts::offline())? {
        Lowering::Done(done) => {
            assert!(verify::verify(&done.plan).is_empty());
            Ok(done)
        }
        Lowering::Missing(_) => panic!("stubs answer everything"),
    }
}

/// `LINE: MESSAGE` of the first error.
fn error(text: &str, opts: &LowerOptions) -> String {
    let src = SourceFile::new(FileId(0), "Dockerfile", text);
    match compile(&src, opts) {
        Ok(_) => "no error".to_owned(),
        Err(d) => {
            let span = d[0].span().unwrap_or_else(|| panic!("no place: {}", d[0].message));
            format!("{}: {}", src.line_col(span.start).line, d[0].message)
        }
    }
}

fn built(text: &str, opts: &LowerOptions) -> Lowered {
    let src = SourceFile::new(FileId(0), "Dockerfile", text);
    compile(&src, opts).unwrap_or_else(|d| panic!("{}", d[0].message))
}

/// The script of the last step.
fn script(done: &Lowered) -> String {
    let mut steps = done.plan.graph.iter().filter_map(|(_, v)| match &v.op {
        Op::Exec(e) => e.args.last().cloned(),
        _ => None,
    });
    steps.next_back().unwrap_or_default()
}

fn laughs(keyword: &str) -> String {
    let mut s = format!("FROM scratch\n{keyword} A0=0123456789\n");
    for i in 1..60 {
        s.push_str(&format!("{keyword} A{i}={}\n", format!("${{A{}}}", i - 1).repeat(10)));
    }
    s
}

fn numbered(head: &str, n: usize, line: impl Fn(usize) -> String) -> String {
    let mut s = head.to_owned();
    (0..n).for_each(|i| s.push_str(&line(i)));
    s
}

#[test]
fn bombs_are_errors_with_a_line() {
    let set_again = |i: usize| format!("ENV V{}={i}\nRUN true\n", i % 3000);
    for (name, text, line, said) in [
        ("laughs in ARG", laughs("ARG"), 8, "longer than"),
        ("laughs in ENV", laughs("ENV"), 8, "longer than"),
        (
            "laughs above FROM",
            laughs("ARG").replacen("FROM scratch\n", "", 1) + "FROM scratch\n",
            7,
            "longer than",
        ),
        (
            "a variable doubles itself",
            numbered("FROM scratch\nENV A=aaaaaaaa\n", 100, |_| "ENV A=$A$A\n".to_owned()),
            20,
            "longer than",
        ),
        (
            "history of large values",
            numbered(&laughs("ENV").lines().take(6).collect::<Vec<_>>().join("\n"), 3000, |i| {
                format!("\nENV B{i}=$A3$A3$A3$A3$A3$A3$A3$A3$A3$A3")
            }),
            0,
            "",
        ),
        (
            "substitutions in one another",
            format!("FROM scratch\nENV A={}\n", "${B:-\\\n".repeat(50_000)),
            2,
            "nested more than",
        ),
        (
            "substitutions in one another, on one line",
            format!("FROM scratch\n\nENV A={}{}\n", "${B:-".repeat(50_000), "}".repeat(50_000)),
            3,
            "max allowed size",
        ),
        (
            "replacements over a long value",
            format!(
                "FROM scratch\nARG a={}\nENV b=${{a//{}/x}}\n",
                "a".repeat(30_000),
                "*a".repeat(10_000)
            ),
            3,
            "too long for its value",
        ),
        ("stages", "FROM scratch\n".repeat(100_000), MAX_STAGES + 1, "more than 20000 stages"),
        (
            "a file of one line",
            format!("FROM scratch\nRUN {}\n", "a".repeat(30 << 20)),
            1,
            "larger",
        ),
        (
            "a line",
            format!("FROM scratch\n\nRUN {}\n", "a".repeat(MAX_DOCKERFILE / 2)),
            3,
            "max allowed size",
        ),
        ("one byte too many", format!("FROM {}", "a".repeat(MAX_LINE - 4)), 1, "max allowed size"),
        ("variables set again", numbered("FROM scratch\n", 6000, set_again), 0, ""),
        ("ports", format!("FROM scratch\nEXPOSE {}\n", "1-65535 \\\n".repeat(100_000)), 2, "ports"),
        (
            "a heredoc without its end",
            format!("FROM a\nRUN <<E\n{}", "x\n".repeat(300_000)),
            2,
            "unterminated",
        ),
        ("triggers in triggers", format!("FROM a\n{}RUN x\n", "ONBUILD ".repeat(8_000)), 2, ""),
        (
            "stages that need each other",
            "FROM a AS x\nCOPY --from=y / /\nFROM a AS y\nCOPY --from=x / /\n".to_owned(),
            0,
            "circular",
        ),
        (
            "unknown words",
            "Q".repeat(60_000) + "\n" + &"QQ\n".repeat(20_000),
            1,
            "unknown instruction",
        ),
        (
            "mounts from as many images",
            format!(
                "FROM a\nRUN {}x\n",
                (0..60_000)
                    .map(|i| format!("--mount=from=i{i},target=/{i} \\\n"))
                    .collect::<String>()
            ),
            2,
            "mounts",
        ),
    ] {
        let got = error(&text, &LowerOptions::default());
        let (at, message) = got.split_once(": ").unwrap_or(("", &got));
        assert!(message.contains(said) && !at.is_empty(), "{name}: {got}");
        assert!(line == 0 || at == line.to_string(), "{name}: {got}");
    }
}

#[test]
fn large_but_right_texts_are_built() {
    let none = LowerOptions { max_layers: usize::MAX, ..LowerOptions::default() };
    let continued = format!("FROM scratch\nRUN echo \\\n{}b\n", "a \\\n".repeat(300_000));
    assert_eq!(script(&built(&continued, &none)).len(), "echo ".len() + 2 * 300_000 + 1);

    let gaps = format!("FROM scratch\nRUN echo \\\n{}b\n", "\n".repeat(300_000));
    assert_eq!(script(&built(&gaps, &none)), "echo b");

    let brackets = format!("FROM scratch\nRUN {}\n", "[\\\n".repeat(100_000));
    assert_eq!(script(&built(&brackets, &none)), "[".repeat(100_000));

    let braces = format!("FROM scratch\nRUN [{}\n", "{\"a\":[".repeat(9_000));
    assert!(script(&built(&braces, &none)).starts_with("[{\"a\":["));

    let sources: String = (0..50_000).map(|i| format!("s{i} \\\n")).collect();
    let done = built(&format!("FROM scratch\nCOPY {sources}/d/\n"), &none);
    assert_eq!(done.plan.targets[0].history.len(), 1);

    let labels: String = (0..50_000).map(|i| format!("l{i}=v \\\n")).collect();
    let done = built(&format!("FROM scratch\nLABEL {sources}last=1\n", sources = labels), &none);
    assert_eq!(done.plan.targets[0].config.config.labels.len(), 50_001);

    let chain = numbered("FROM scratch AS s0\n", 5_000, |i| format!("FROM s{i} AS s{}\n", i + 1));
    assert_eq!(built(&chain, &none).plan.targets[0].stage, "s5000");

    let long = "a".repeat(MAX_LINE - "RUN ".len());
    assert_eq!(script(&built(&format!("FROM scratch\nRUN {long}"), &none)), long);
}

#[test]
fn odd_bytes_are_text_or_an_error() {
    let opts = LowerOptions::default();
    for (text, want) in [
        ("\u{feff}FROM scratch\nRUN a\n", "a"),
        ("FROM scratch\r\nRUN a \\\r\n b\r\n", "a  b"),
        // A carriage return that ends no line is a character like others.
        ("FROM scratch\nRUN a\rb\n", "a\rb"),
        ("FROM scratch\nRUN a\0b\n", "a\0b"),
        ("FROM scratch\n# \0\u{202e}\u{1b}[2J\nRUN a\n", "a"),
        ("FROM scratch\nRUN echo \u{202e}gnp.exe\n", "echo \u{202e}gnp.exe"),
        ("FROM scratch\nRUN \u{85}a\n", "\u{85}a"),
        ("FROM scratch\nRUN <<E\na\rb\nE\n", "a\rb\n"),
    ] {
        let done = built(text, &opts);
        let got = script(&done);
        // A blank of Unicode in front of a command may count as one.
        assert!(got == want || got == want.trim_start(), "{text:?}: {got:?}");
    }
    for (text, line, said) in [
        ("F\0R\0O\0M\0 \0a\0\n\0", 1, "unknown instruction"),
        ("FROM scratch\n\u{202e}RUN a\n", 2, "unknown instruction"),
        ("FROM scratch\n\0\n", 2, "unknown instruction"),
        ("FROM scratch\rRUN a", 1, ""),
        ("FROM a\u{202e}b\n", 1, ""),
        ("FROM a\0b\n", 1, ""),
        ("FROM scratch AS a\u{0}\n", 1, "invalid name"),
        ("\u{feff}\u{feff}FROM scratch\n", 1, "unknown instruction"),
        ("", 1, "empty"),
        ("\0", 1, "unknown instruction"),
    ] {
        let got = error(text, &opts);
        assert!(got.starts_with(&format!("{line}: ")) && got.contains(said), "{text:?}: {got}");
    }
}

#[test]
fn patterns_do_not_blow_up() {
    let stars = |n: usize| format!("{}b", "*a".repeat(n));
    let deep = format!("{}x", "**/".repeat(60));
    let mut list = vec![stars(100), deep.clone()];
    list.extend((0..300).map(|i| format!("**/d{i}/*/*.o")));
    let rules = PatternSet::new(&list).expect("patterns");
    let ignore = IgnoreFile { rules, ..IgnoreFile::default() };
    let opts = LowerOptions { ignore, max_layers: usize::MAX, ..LowerOptions::default() };
    let long = "a".repeat(2_000);
    let mut text = format!("FROM scratch\nCOPY {long} {}/y /z/\n", "d/".repeat(200));
    (0..100).for_each(|i| text.push_str(&format!("COPY src/d{i}/a/b.o /o/\n")));
    text.push_str(&format!("COPY --exclude={} --exclude={deep} {} /p/\n", stars(100), stars(100)));
    let done = built(&text, &opts);
    // The hundred below ignored names, and the one that is written like its own pattern.
    let told = done.warnings.iter().filter(|d| d.code == "CopyIgnoredFile").count();
    assert_eq!(told, 101);
}
