//! The properties that the fuzz targets in `fuzz/` look at for hours, on generated texts for seconds.

#[path = "property/expand.rs"]
mod expand_property;
#[path = "property/parser.rs"]
mod parser_property;
#[path = "property/pattern.rs"]
mod pattern_property;
#[path = "property/reference.rs"]
mod reference_property;

use std::collections::BTreeMap;

use proptest::prelude::*;
use rgraph_frontend::expand::{Lookup, Mode, expand};

fn dockerfile() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM a\n",
        "FROM a AS b\n",
        "RUN x\n",
        "RUN <<E\n",
        "E\n",
        "COPY <<\"F\" /\n",
        "F\n",
        "ENV A=1 \\\n",
        " B='2 3'\n",
        "# c\n",
        "\n",
        "  ",
        "\t",
        "ARG V=$A\n",
        "CMD [\"a\", \"b\"]\n",
        "RUN [\\\n",
        "\\\n",
        "`\n",
        "# escape=`\n",
        "ONBUILD RUN y\n",
        "LABEL a b\n",
        "é",
        "\r\n",
        "\0",
        "USER u\n",
        "<<",
        "\"",
        "\u{feff}",
        "run --mount=type=ssh z\n",
        "# check=skip=all\n",
        "EXPOSE 1\n",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|p| p.concat())
}

/// A word made of parts whose meaning is known.
#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Single(String),
    Double(Vec<Part>),
    Escaped(char),
    Var(&'static str),
    /// `${v:-w}` and its like.
    Or(&'static str, &'static str, Vec<Part>),
    /// `${v#p}` and its like.
    Trim(&'static str, &'static str, String),
    /// `${v/p/r}`, or with `//`.
    Replace(&'static str, bool, String, &'static str),
    /// `${v?}` of a variable that is set.
    Must(&'static str),
}

const VALUES: [(&str, &str); 4] = [("A", "one"), ("E", ""), ("P", "/a/b/a.b.c"), ("S", "x y")];

struct Env(BTreeMap<&'static str, &'static str>);

impl Lookup for Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).copied()
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["A", "E", "P", "S", "NONE"])
}

fn part() -> impl Strategy<Value = Part> {
    let trims = prop::sample::select(vec!["#", "##", "%", "%%"]);
    let leaf = prop_oneof![
        "[a-z. ]{1,4}".prop_map(Part::Text),
        "[a-z$\" ]{0,4}".prop_map(Part::Single),
        prop::sample::select(vec!['$', '\'', '"', '\\', 'x']).prop_map(Part::Escaped),
        name().prop_map(Part::Var),
        (name(), trims, "[ab./*?]{0,4}").prop_map(|(n, o, p)| Part::Trim(n, o, p)),
        (name(), any::<bool>(), "[ab./*?]{1,4}", prop::sample::select(vec!["", "-", "ab"]))
            .prop_map(|(n, all, p, r)| Part::Replace(n, all, p, r)),
        prop::sample::select(vec!["A?", "E?", "P:?"]).prop_map(Part::Must),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let ops = prop::sample::select(vec![":-", "-", ":+", "+"]);
        let list = || prop::collection::vec(inner.clone(), 0..3);
        prop_oneof![
            list().prop_map(|l| Part::Double(l.into_iter().filter(fits_quotes).collect())),
            (name(), ops, list()).prop_map(|(n, o, l)| Part::Or(n, o, l)),
        ]
    })
}

/// Within double quotes quotes are text, and only some characters can be escaped.
fn fits_quotes(p: &Part) -> bool {
    !matches!(p, Part::Single(_) | Part::Double(_) | Part::Escaped('\'' | 'x'))
}

fn written(parts: &[Part]) -> String {
    let one = |p: &Part| match p {
        Part::Text(t) => t.clone(),
        Part::Single(t) => format!("'{t}'"),
        Part::Double(l) => format!("\"{}\"", written(l)),
        Part::Escaped(c) => format!("\\{c}"),
        Part::Var(n) => format!("${{{n}}}"),
        Part::Or(n, op, l) => format!("${{{n}{op}{}}}", written(l)),
        Part::Trim(n, op, p) => format!("${{{n}{op}{p}}}"),
        Part::Replace(n, all, p, r) => {
            let op = if *all { "//" } else { "/" };
            format!("${{{n}{op}{}/{r}}}", p.replace('/', "\\/"))
        }
        Part::Must(n) => format!("${{{n}}}"),
    };
    parts.iter().map(one).collect()
}

fn meant(parts: &[Part], env: &Env) -> String {
    let one = |p: &Part| match p {
        Part::Text(t) | Part::Single(t) => t.clone(),
        Part::Double(l) => meant(l, env),
        Part::Escaped(c) => c.to_string(),
        Part::Var(n) => env.get(n).unwrap_or_default().to_owned(),
        Part::Or(n, op, l) => {
            let value = env.get(n).filter(|v| !(op.starts_with(':') && v.is_empty()));
            match (value, op.ends_with('-')) {
                (Some(v), true) => v.to_owned(),
                (None, false) => String::new(),
                _ => meant(l, env),
            }
        }
        Part::Trim(n, op, p) => trimmed(env.get(n).unwrap_or_default(), op, p),
        Part::Replace(n, all, p, r) => replaced(env.get(n).unwrap_or_default(), p, r, *all),
        Part::Must(n) => env.get(n.trim_end_matches([':', '?'])).unwrap_or_default().to_owned(),
    };
    parts.iter().map(one).collect()
}

/// Tries every cut: the shortest or the longest that matches goes. All characters are ASCII.
fn trimmed(value: &str, op: &str, pattern: &str) -> String {
    // `${v##...}` asks for the longest; a pattern may itself begin with the second sign.
    let front = op.starts_with('#');
    let mut cuts: Vec<usize> = (0..=value.len()).collect();
    if (op.len() == 2) == front {
        cuts.reverse();
    }
    let hit = |cut: &usize| {
        let (a, b) = value.split_at(*cut);
        naive(pattern.as_bytes(), if front { a } else { b }.as_bytes())
    };
    match cuts.into_iter().find(hit) {
        Some(cut) if front => value[cut..].to_owned(),
        Some(cut) => value[..cut].to_owned(),
        None => value.to_owned(),
    }
}

/// From the left, each time the longest piece that matches; nothing is no match behind a match.
fn replaced(value: &str, pattern: &str, with: &str, all: bool) -> String {
    let (mut out, mut at, mut after_match) = (String::new(), 0, false);
    while at <= value.len() {
        let ends = (at..=value.len()).rev();
        let end = ends.into_iter().find(|e| naive(pattern.as_bytes(), &value.as_bytes()[at..*e]));
        let Some(end) = end.filter(|e| *e > at || !after_match) else {
            out.push_str(value.get(at..at + 1).unwrap_or_default());
            (at, after_match) = (at + 1, false);
            continue;
        };
        out.push_str(with);
        if end == at {
            out.push_str(value.get(at..at + 1).unwrap_or_default());
        }
        (after_match, at) = (end > at, end.max(at + 1));
        if !all {
            out.push_str(value.get(at..).unwrap_or_default());
            break;
        }
    }
    out
}

/// What an ignore file says of a path, folder by folder: the last rule that matches the path or a
/// folder above it decides.
fn hidden(rules: &[(bool, Vec<&str>)], path: &[&str]) -> bool {
    let hit = |p: &[&str]| (1..=path.len()).any(|n| along(p, &path[..n]));
    rules.iter().rfind(|(_, p)| hit(p)).is_some_and(|(free, _)| !free)
}

/// `**` is any number of folders, and at the end at least one name.
fn along(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((&"**", [])), rest) => rest.is_some(),
        (Some((&"**", rest)), _) => (0..=path.len()).any(|n| along(rest, &path[n..])),
        (Some((p, rest)), Some((name, below))) => {
            naive(p.as_bytes(), name.as_bytes()) && along(rest, below)
        }
        (Some(_), None) => false,
    }
}

/// `*` and `?`, by going back.
fn naive(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|i| naive(rest, &text[i..])),
        Some((b'?', rest)) => !text.is_empty() && naive(rest, &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && naive(rest, &text[1..]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parser(text in dockerfile(), noise in "\\PC{0,30}") {
        parser_property::holds(&text);
        parser_property::holds(&noise);
        parser_property::holds(&format!("FROM a\nRUN {noise}\n{text}"));
    }

    #[test]
    fn words(word in "\\PC{0,20}", shell in "[ab$\\\\'\"{}:+#%/*?< `-]{0,20}", value in "[a-c*/ ]{0,8}") {
        expand_property::holds(&word, &value);
        expand_property::holds(&shell, &value);
    }

    #[test]
    fn words_mean_what_a_naive_reading_says(parts in prop::collection::vec(part(), 0..5)) {
        let env = Env(VALUES.into_iter().collect());
        let word = written(&parts);
        let got = expand(&word, &env, Mode::plain('\\')).map(|e| e.text);
        prop_assert_eq!(got, Ok(meant(&parts, &env)), "{}", word);
    }

    #[test]
    fn patterns(rules in "([ab*?!/#\\[\\]^\\\\ -]{0,8}\n){0,4}", name in "[ab/.*\\[\\]é-]{1,10}") {
        pattern_property::holds(rules.as_bytes(), &name);
    }

    #[test]
    fn ignore_files_mean_what_a_naive_reading_says(
        rules in prop::collection::vec(
            (any::<bool>(), prop::sample::select(vec!["", "/", "./", " "]),
             prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "?", "**", "a*", "*b"]), 1..4),
             prop::sample::select(vec!["", "/", " "])),
            0..5,
        ),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "c.d", "abb"]), 1..5),
    ) {
        let line = |(free, before, parts, after): &(bool, &str, Vec<&str>, &str)| {
            format!("{}{before}{}{after}\n", if *free { "!" } else { "" }, parts.join("/"))
        };
        let file: String = rules.iter().map(line).collect();
        let rules: Vec<(bool, Vec<&str>)> = rules.into_iter().map(|r| (r.0, r.2)).collect();
        let set = rgraph_ir::pattern::PatternSet::parse(file.as_bytes()).expect("rules");
        let name = path.join("/");
        prop_assert_eq!(set.matches_or_parent(&name), hidden(&rules, &path), "{} of {:?}", name, file);
    }

    #[test]
    fn references(near in "[aA0.:/@_-]{0,16}", known in "([a-z0-9]{1,3}[./:_-]{0,2}){1,5}(:[a-zA-Z0-9._-]{1,4})?") {
        reference_property::holds(&near);
        reference_property::holds(&known);
        reference_property::holds(&format!("{known}@sha256:{}", "0f".repeat(32)));
    }
}
