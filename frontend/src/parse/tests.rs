use rgraph_ir::limits::MAX_LINE;

use super::{Parsed, parse};
use crate::ast::{CmdForm, Kind};
use crate::testkit::{said, source};

fn read(text: &str) -> Parsed {
    parse(&source(text))
}

/// Keyword and text of every instruction of the last stage.
fn lines(text: &str) -> Vec<String> {
    let p = read(text);
    assert!(p.is_ok(), "{:?}", said(text, &p.diags));
    p.ast
        .stages
        .last()
        .map(|s| s.instructions.iter().map(|i| i.text.to_string()).collect())
        .unwrap()
}

#[test]
fn lines_are_joined() {
    for (text, want) in [
        ("FROM a\nRUN x \\\n  y\n", vec!["RUN x   y"]),
        ("FROM a\r\nRUN x \\\r\n  y\r\n", vec!["RUN x   y"]),
        ("\u{feff}FROM a\nRUN x \\ \t\n# c\n\n  y", vec!["RUN x   y"]),
        ("FROM a\nRUN x \\\\\nRUN y\n", vec!["RUN x \\\\", "RUN y"]),
        ("# escape=`\nFROM a\nRUN x `\n y \\\n", vec!["RUN x  y \\"]),
        ("#!/x\n# escape=`\nFROM a\nRUN x `\n", vec!["RUN x `"]),
        ("FROM a\n  run x # no comment\n", vec!["run x # no comment"]),
        ("FROM a\nRUN x \\\n", vec!["RUN x"]),
    ] {
        assert_eq!(lines(text), want, "{text:?}");
    }
}

/// A file of several batches, halves of which a second thread reads, is what its parts are.
#[test]
fn large_files_are_read_in_order() {
    let mut text = "FROM a\n".to_owned();
    let mut want = Vec::new();
    for n in 0..super::BATCH * 2 + super::SHARED {
        let (line, body) = match n % 3 {
            0 => (format!("RUN <<E{n}"), format!("body {n}\nE{n}\n")),
            1 => (format!("RUN x \\\n  {n}"), String::new()),
            _ => (format!("ENV A={n}"), String::new()),
        };
        want.push((line.replace("\\\n", ""), body.lines().next().map(str::to_owned)));
        text.push_str(&format!("{line}\n{body}"));
    }
    let p = read(&text);
    assert!(p.is_ok(), "{:?}", said(&text, &p.diags));
    let got: Vec<_> = p.ast.stages[0]
        .instructions
        .iter()
        .map(|i| {
            let heredoc = match &i.kind {
                Kind::Run(run) => run.heredocs.first(),
                _ => None,
            };
            (i.text.to_string(), heredoc.map(|h| h.body.trim_end().to_owned()))
        })
        .collect();
    assert_eq!(got, want);
    let starts: Vec<u32> = p.ast.stages[0].instructions.iter().map(|i| i.span.start).collect();
    assert!(starts.is_sorted());

    // Faults in every part are told, in file order.
    let bad: String = (0..super::BATCH * 2).map(|n| format!("NO{n} x\n")).collect();
    let p = read(&format!("FROM a\n{bad}"));
    assert_eq!(p.diags.len(), super::BATCH * 2);
    assert!(p.diags.iter().map(|d| d.span().unwrap().start).is_sorted());
    assert!(p.diags[super::BATCH].message.contains(&format!("NO{}", super::BATCH)));
}

#[test]
fn directives() {
    let p = read("# Syntax = docker/dockerfile:1\n# check=skip=all\n# x=y\n# escape=`\nFROM a\n");
    assert_eq!(p.ast.directives.syntax.unwrap().text, "docker/dockerfile:1");
    assert_eq!(p.ast.directives.check.unwrap().text, "skip=all");
    assert_eq!(p.ast.escape, '\\');
    for (text, check) in [
        ("  # escape=`\n# check=skip=all\nFROM a\n", None),
        ("\t# check=skip=all\nFROM a\n", None),
        ("#!x\n# check=A\n# check=B\nFROM a\n", Some("A")),
        ("#!x\n# escape=`\n# check=A\nFROM a\n", Some("A")),
    ] {
        let p = read(text);
        assert!(p.is_ok(), "{text}");
        assert_eq!(p.ast.directives.check.map(|w| w.text).as_deref(), check, "{text}");
    }
    for (text, want) in [
        ("# escape=`\n# escape=`\nFROM a\n", "2: only one escape parser directive can be used"),
        ("# escape=x\nFROM a\n", "1: invalid escape token 'x' does not match ` or \\"),
    ] {
        assert_eq!(said(text, &read(text).diags), [want], "{text}");
    }
}

#[test]
fn forms() {
    let p = read("FROM a\nRUN echo [x]\nRUN [\"a\", \"b\"]\nRUN [ -f x ]\n");
    let forms: Vec<CmdForm> = p.ast.stages[0]
        .instructions
        .iter()
        .filter_map(|i| match &i.kind {
            Kind::Run(r) => Some(r.cmd.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(
        forms,
        [
            CmdForm::Shell(vec!["echo [x]".into()]),
            CmdForm::Exec(vec!["a".into(), "b".into()]),
            CmdForm::Shell(vec!["[ -f x ]".into()]),
        ]
    );
    let p = read("FROM a\nSHELL [\"s\"]\u{c}\u{a0}\n");
    assert!(p.is_ok(), "{:?}", p.diags);
}

#[test]
fn pairs_and_words() {
    let text =
        "FROM a\nENV A=1 B=\"x y\" C=a\\ b D='$E'\nENV old  style value\nLABEL a=\"b\\\"c\"\n";
    let p = read(text);
    let pairs: Vec<(String, String)> = p.ast.stages[0]
        .instructions
        .iter()
        .flat_map(|i| match &i.kind {
            Kind::Env(p) | Kind::Label(p) => {
                p.iter().map(|p| (p.key.text.to_string(), p.value.text.to_string())).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    let want = [
        ("A", "1"),
        ("B", "\"x y\""),
        ("C", "a\\ b"),
        ("D", "'$E'"),
        ("old", "style value"),
        ("a", "\"b\\\"c\""),
    ];
    assert_eq!(pairs, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn the_span_of_an_instruction_covers_its_heredocs() {
    let text = "FROM a\nRUN <<E\nx\nE\nRUN y\n";
    let p = read(text);
    let span = p.ast.stages[0].instructions[0].span;
    assert_eq!(&text[span.start as usize..span.end as usize], "RUN <<E\nx\nE");
    let open = "FROM a\nRUN x \\\n# c\n\n";
    let span = read(open).ast.stages[0].instructions[0].span;
    assert_eq!(&open[span.start as usize..span.end as usize], "RUN x \\\n# c\n\n");
    let Kind::Run(r) = &p.ast.stages[0].instructions[0].kind else { panic!("a RUN") };
    assert_eq!((r.heredocs[0].body.as_str(), r.only_heredoc), ("x\n", true));
}

#[test]
fn a_line_has_a_longest_length() {
    let ok = format!("FROM a\nRUN {}\n", "x".repeat(MAX_LINE - 5));
    assert!(read(&ok).is_ok());
    let long = format!("FROM a\nRUN {}\n", "x".repeat(MAX_LINE - 4));
    assert!(said(&long, &read(&long).diags)[0].starts_with("2: dockerfile line greater than"));
}

#[test]
fn the_form_of_a_trigger_is_looked_at() {
    for (trigger, ok) in [
        ("ENV A=b", true),
        ("ENV A b", true),
        ("ENV =b", true),
        ("ENV", true),
        ("COPY x", true),
        ("ENV A", false),
        ("label a=b c", false),
        ("CMD [1]", false),
        ("HEALTHCHECK --retries=1 CMD [1]", false),
        ("HEALTHCHECK CMD [\"x\"]", true),
    ] {
        let p = read(&format!("FROM a\nONBUILD {trigger}\n"));
        assert_eq!(p.is_ok(), ok, "{trigger}: {:?}", p.diags);
    }
}

#[test]
fn a_trigger_is_kept_as_written() {
    for (line, want) in [
        ("ONBUILD \t RUN  x ", "RUN  x "),
        ("ONBUILD\u{b}RUN x", "\u{b}RUN x"),
        ("ONBUILD COPY <<E /\nx\nE", "COPY <<E /\nx\nE"),
    ] {
        let p = read(&format!("FROM a\n{line}\n"));
        let Kind::Onbuild(word) = &p.ast.stages[0].instructions[0].kind else { panic!("{line}") };
        assert_eq!(word.text, want, "{line}");
    }
}

#[test]
fn several_faults_in_one_run() {
    let text = "FROM\nFROM a b\nSHELL x y\nHEALTHCHECK FOO\nHEALTHCHECK --interval=1 CMD x\nVOLUME []\nONBUILD FROM x\nMAINTAINER\nCOPY x <<E\nE\n";
    let p = read(text);
    let lines: Vec<String> =
        said(text, &p.diags).iter().map(|s| s.split(':').next().unwrap_or("").to_owned()).collect();
    assert_eq!(lines, ["1", "2", "3", "4", "5", "6", "7", "8", "9"], "{:?}", said(text, &p.diags));
}
