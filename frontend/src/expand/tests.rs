use super::*;
use std::collections::HashMap;

struct Map(HashMap<&'static str, &'static str>);
impl Lookup for Map {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).copied()
    }
}

fn env() -> Map {
    Map(HashMap::from([
        ("A", "one"),
        ("E", ""),
        ("P", "/a/b/c.tar.gz"),
        ("S", "x y"),
        ("B", "a*b"),
    ]))
}

#[test]
fn results_are_buildkits() {
    for (word, want) in [
        ("$A", "one"),
        ("${A}b", "oneb"),
        ("$A_", ""),
        ("a$", "a$"),
        (r"\$A", "$A"),
        ("'$A'", "$A"),
        (r#""$A'""#, "one'"),
        (r#""\"\x""#, r#""\x"#),
        ("${N:-w$A}", "wone"),
        ("${E:-w}", "w"),
        ("${E-w}", ""),
        ("${A:+w}", "w"),
        ("${E:+w}", ""),
        ("${E+w}", "w"),
        ("${A?m}", "one"),
        ("${P#/*/}", "b/c.tar.gz"),
        ("${P##*/}", "c.tar.gz"),
        ("${P%.*}", "/a/b/c.tar"),
        ("${P%%.*}", "/a/b/c"),
        ("${P%x}", "/a/b/c.tar.gz"),
        ("${P/a/X}", "/X/b/c.tar.gz"),
        ("${P//a/X}", "/X/b/c.tXr.gz"),
        (r"${P//\//-}", "-a-b-c.tar.gz"),
        (r"${B#a\*}", "b"),
        ("${N}", ""),
        ("a\\", "a"),
        ("$1x", "x"),
        ("<<A", "<<A"),
    ] {
        let got = expand(word, &env(), Mode::plain('\\'));
        assert_eq!(got.map(|e| e.text), Ok(want.to_owned()), "{word}");
    }
}

#[test]
fn errors_name_the_fault() {
    for (word, want) in [
        ("'a", "matching single-quote"),
        ("\"a", "matching double-quote"),
        ("${A", "missing '}'"),
        ("${}", "bad substitution"),
        ("${A:#x}", "unsupported modifier (:#)"),
        ("${A!}", "unsupported modifier (!)"),
        ("${N:?no N}", "N: no N"),
        ("${E:?}", "E: is not allowed to be empty"),
        ("${A/x}", "missing '/' in ${}"),
        (r"${A#\q}", "invalid escape"),
    ] {
        let e = expand(word, &env(), Mode::plain('\\')).unwrap_err();
        assert!(e.to_string().contains(want), "{word}: {e}");
    }
}

#[test]
fn what_is_not_set_stays_as_written() {
    let shown = |s| expand(s, &env(), Mode { keep_unset: true, ..Mode::plain('\\') });
    for (word, want) in
        [("${N:=x}", Some("${N:=x}")), ("${A:=x}", None), ("${N=x}", None), ("${N:#x}", None)]
    {
        assert_eq!(shown(word).ok().map(|e| e.text).as_deref(), want, "{word}");
    }
}

#[test]
fn words_split_outside_quotes_only() {
    let words = |s| expand(s, &env(), Mode::plain('\\').split()).unwrap().words;
    assert_eq!(words("$S 'a b' c\\ d"), ["x", "y", "a b", "c d"]);
    assert_eq!(words("a << EOF b"), ["a", "<< EOF", "b"]);
    assert_eq!(words("'' x"), ["x"]);
    // What stands in front of a substitution with a word of its own is no part of a word.
    assert_eq!(words("a${N:-b}c d"), ["bc", "d"]);
    assert_eq!(words("a ${P%.*}"), ["a", "/a/b/c.tar"]);
    assert_eq!(words("a${E+}"), [""; 0]);
    assert_eq!(words("a$N"), ["a"]);
}

#[test]
fn hostile_words_end() {
    let deep = "${A:-".repeat(10_000);
    assert!(expand(&deep, &Nothing, Mode::plain('\\')).is_err());
    let long = "x".repeat(MAX_EXPANSION / 2 + 1);
    struct Long(String);
    impl Lookup for Long {
        fn get(&self, _: &str) -> Option<&str> {
            Some(&self.0)
        }
    }
    assert!(expand("$A", &Long(long.clone()), Mode::plain('\\')).is_ok());
    assert!(expand("$A$A", &Long(long), Mode::plain('\\')).is_err());
}
