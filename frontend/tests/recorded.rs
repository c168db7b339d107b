//! Words, ignore files and references of our own, and what BuildKit, moby's pattern matcher and
//! distribution's grammar said of them (`fixtures/recorded`).

use std::collections::BTreeMap;

use rgraph_frontend::expand::{Lookup, Mode, expand};
use rgraph_ir::Reference;
use rgraph_ir::pattern::PatternSet;

struct Env(BTreeMap<String, String>);

impl Lookup for Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The rows behind the head, split at tabs, escapes undone; and the head's lines.
fn rows(table: &str) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let (head, body) = table.split_once("\n---\n").expect("a head and a body");
    let read = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|l| l.split('\t').map(plain).collect()).collect()
    };
    (read(head), read(body))
}

fn plain(field: &str) -> String {
    let mut out = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                other => other.expect("something behind `\\`"),
            },
            c => c,
        });
    }
    out
}

#[test]
fn words_expand_as_recorded() {
    let (head, body) = rows(include_str!("../../fixtures/recorded/expand.tsv"));
    let envs: Vec<Env> = head
        .iter()
        .filter(|l| l[0] == "#env")
        .map(|l| Env(l[2..].chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect()))
        .collect();
    for row in &body {
        let [word, escape, flags, env, result, words, unset] = row.as_slice() else {
            panic!("seven fields: {row:?}")
        };
        let mode = Mode {
            raw_quotes: flags.contains('q'),
            raw_escapes: flags.contains('e'),
            ignore_quotes: flags.contains('s'),
            keep_unset: flags.contains('u'),
            split: true,
            ..Mode::plain(escape.chars().next().expect("an escape character"))
        };
        let env = &envs[env.parse::<usize>().expect("a number")];
        match (expand(word, env, mode), result.strip_prefix('=')) {
            (Ok(e), Some(text)) => {
                assert_eq!(e.text, text, "{row:?}");
                let split = |s: &str, at| s.split(at).filter(|w| !w.is_empty()).count();
                assert_eq!(e.words.join("\u{1f}"), *words, "{row:?}");
                assert_eq!(e.words.len(), split(words, '\u{1f}'), "{row:?}");
                let names: Vec<&str> = e.unmatched.iter().map(String::as_str).collect();
                assert_eq!(names.join(" "), *unset, "{row:?}");
            }
            (Err(_), None) => {}
            (got, _) => panic!("{row:?}: {got:?}"),
        }
    }
    assert!(body.len() > 2_000);
}

#[test]
fn ignore_files_hide_what_is_recorded() {
    let (_, body) = rows(include_str!("../../fixtures/recorded/ignore.tsv"));
    for row in &body {
        let (file, hidden, paths) = (&row[0], &row[1], &row[2..]);
        match PatternSet::parse(file.as_bytes()) {
            Err(_) => assert_eq!(hidden, "!", "{row:?}"),
            Ok(set) => {
                let digit = |p: &String| if set.matches_or_parent(p) { '1' } else { '0' };
                assert_eq!(paths.iter().map(digit).collect::<String>(), *hidden, "{row:?}");
            }
        }
    }
    assert!(body.len() > 800);
}

#[test]
fn references_read_as_recorded() {
    let (_, body) = rows(include_str!("../../fixtures/recorded/reference.tsv"));
    for row in &body {
        let [text, full] = row.as_slice() else { panic!("two fields: {row:?}") };
        let got = text.parse::<Reference>().map_or("!".to_owned(), |r| r.to_string());
        assert_eq!(got, *full, "{row:?}");
    }
    assert!(body.len() > 1_000);
}
