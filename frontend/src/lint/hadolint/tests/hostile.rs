//! Texts made to hurt the reader of shell text. No test looks at a clock: what is quadratic or calls
//! itself does not end, or ends the process.

use proptest::prelude::*;
use rgraph_ir::Diagnostic;

use crate::lint::Lint;
use crate::lint::hadolint::shell::Script;
use crate::parse;
use crate::testkit::source;

fn names(text: &str) -> Vec<String> {
    Script::of_text(text).commands().map(|c| c.name().to_owned()).collect()
}

fn looked_at(text: &str) -> Vec<Diagnostic> {
    let ast = parse(&source(text)).ast;
    let mut lint = Lint::new(ast.directives.check.as_ref(), None).unwrap();
    crate::lint::optional_rules(&ast, &mut lint);
    lint.warnings
}

#[test]
fn commands_are_found() {
    for (text, want) in [
        ("a b; c & d && e || f | g\nh", "a c d e f g h"),
        ("A=1 B='x y' a b", "a"),
        ("a 'b; c' \"d; e\" f\\;g", "a"),
        ("if a; then b; elif c; then d; else e; fi", "a b c d e"),
        ("while a; do b; done; until c; do d; done < f", "a b c d"),
        ("for x in a b; do c; done", "c"),
        ("for ((i=0; i<3; i++)); do c; done", "c"),
        ("case $x in a|b) c;; (d) e;& *) f;; esac; g", "c e f g"),
        ("$(case x in a) b;; esac) c; d", "b $() d"),
        ("f() { a; }; function g { b; }; f", "a b f"),
        ("a $(b `c` $(d)) \"$(e)\" ${f:-$(g)} ${h}", "c d b e g a"),
        ("a <(b) >(c | d)", "b c d a"),
        ("a=(b c) d", "d"),
        ("rm !(a|b) && c", "rm c"),
        ("a > b 2>&1 >> c < d &> e && f", "a f"),
        ("a <<E; b\nc\nE\nd", "a b d"),
        ("a <<-'E' | b\n\tc\n\tE\nd <<< x", "a b d"),
        ("bash -s <<E\na\nE\nb", "bash a b"),
        ("sh -ec 'a; b' && bash -o pipefail -c \"c\"", "sh a b bash c"),
        ("eval \"a; b\"", "eval a b"),
        ("sudo -u x env A=1 nice -n 5 timeout -k 1 5 a -b", "sudo env nice timeout a"),
        ("command -v a && exec b; time -p c; ! d", "command exec b time c d"),
        ("[[ a && ( b || c ) ]] && d", "[[ d"),
        ("echo $((1 + (2 | 3))) && a # b; c", "echo a"),
        ("a \\\n b\n# c\nd#e", "a d#e"),
        ("/usr/bin/apt-get x", "apt-get"),
        ("$'a\\'b' c; é d", "a'b é"),
    ] {
        assert_eq!(names(text).join(" "), want, "{text}");
    }
    assert!(!Script::of_text("a || b").pipes && Script::of_text("$(a | b)").pipes);
}

#[test]
fn deep_and_long_texts_end() {
    const N: usize = 100_000;
    for open in [
        "(",
        "$(",
        "`",
        "${",
        "((",
        "$((",
        "\"$(",
        "case x in a) ",
        "if ",
        "{ ",
        "<(",
        "a=(",
        "[[ ",
        "sudo ",
        "env A=b ",
        "sh -c ",
        "bash -c '",
        "eval ",
        "<<A ",
        "<<A\n",
        "a | ",
        "a;",
        "!",
        "\\",
        "$'",
        "'",
        "\"",
        "${a:-\"",
        ";;",
        "esac ",
        "case x in ",
        ")",
        "}",
        "a(",
        "é",
        "sudo -u ",
    ] {
        drop(Script::of_text(&open.repeat(N)));
    }
    let nested = format!("{}a{}; b", "( ".repeat(50), ")".repeat(50));
    assert_eq!(names(&nested), ["a", "b"]);
    let both = format!("{}a{}", "$(".repeat(N), ")".repeat(N));
    assert!(names(&both).len() <= 201);
}

#[test]
fn a_step_of_many_commands_gives_one_finding_per_rule() {
    let many = "apt-get install x || sudo pip install y; cd z | wget u\n".repeat(10_000);
    let text = format!("# check=experimental=hadolint\nFROM a:1\nRUN <<E\n{many}E\n");
    let n = looked_at(&text).len();
    assert!((5..20).contains(&n), "{n}");
}

/// Every command that runs another holds all words up to the end, and no rule may look at them all.
#[test]
fn commands_that_run_commands_end() {
    let chain = "sudo \\\n".repeat(100_000);
    let text = format!("# check=experimental=hadolint\nFROM a:1\nRUN <<E\n{chain} x\nE\n");
    assert_eq!(looked_at(&text).len(), 1);
}

#[test]
fn many_steps_and_stages_end() {
    let mut text = "# check=experimental=hadolint\nFROM a:1 AS s0\nENV V0=1\n".to_owned();
    for i in 1..3000 {
        text += &format!(
            "FROM s{} AS s{i}\nENV V{i}=1 W{i}=$V{i}\nCOPY x{i}.tar /\nRUN tar xf x{i}.tar\n",
            i - 1
        );
    }
    assert!(looked_at(&text).len() > 5000);
}

proptest! {
    #[test]
    fn any_text_is_read(text in "(\\PC|[\n\t ()$`'\"{}<>|&;#\\\\=a-c]|case x in |esac|<<E|sh -c |\\[\\[ ){0,60}") {
        let script = Script::of_text(&text);
        // No word comes from nowhere: substitutions add four bytes, nested scripts at most the text again.
        let words: usize = script.commands().map(|c| c.name().len()).sum();
        prop_assert!(words <= 16 * (text.len() + 4));
    }
}
