//! Known answers of moby and Go, a slow second implementation to compare with, and hostile
//! patterns.

use proptest::prelude::*;

use super::{Glob, PatternSet, clean, glob_match};
use crate::limits::{MAX_IGNORE_FILE, MAX_PATTERNS};

fn set(list: &[&str]) -> PatternSet {
    PatternSet::new(list).unwrap()
}

#[test]
fn cleans_like_go() {
    for (path, want) in [
        ("", "."),
        (".", "."),
        ("/", "/"),
        ("a//b/./c/", "a/b/c"),
        ("a/../..", ".."),
        ("/..", "/"),
        ("/../a", "/a"),
        ("../../a", "../../a"),
        ("a/..", "."),
    ] {
        assert_eq!(clean(path), want, "{path}");
    }
}

#[test]
fn single_patterns_answer_like_moby() {
    for (pattern, path, want) in [
        ("**", "file", true),
        ("**/", "dir/file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("abc/**", "abc", false),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**file", "dir/myfile", true),
        ("**file*", "myfile", false),
        ("**/file*.txt*", "dir/dir/file.txt", true),
        ("**/**/*.txt", "file.txt", true),
        ("**/**/*.txt2", "dir/file.txt", false),
        ("a**/*.txt", "a/dir/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt**", "a/file.txt", true),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        (".*", "foo", false),
        ("abc.def", "abcZdef", false),
        ("abc?def", "abcZdef", true),
        ("a\\\\", "a\\", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("**/.foo", "bar.foo", false),
        ("a(b)c/def", "a(b)c/xyz", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("dir", "dir/sub/file", true),
        ("dir", "dirx", false),
        ("*", "a/b/c", true),
        ("a?b", "a☺b", true),
        ("**/[[:digit:]]x", "d/7x", true),
        ("[*]", "*", false),
        ("a^*", "a^b", false),
        ("^a*", "ab", true),
        ("a^b", "a^b", true),
        ("\\d*", "7", true),
    ] {
        assert_eq!(set(&[pattern]).matches_or_parent(path), want, "{pattern} on {path}");
    }
    assert!(set(&["a?b"]).matches_or_parent(b"a\xffb"));
}

#[test]
fn the_last_match_wins_and_is_named() {
    let file = b"\xef\xbb\xbf# a comment\r\n\r\n  /docs/ \r\n!docs/README.md\r\n #no\n*.md\n";
    let p = PatternSet::parse(file).unwrap();
    assert_eq!(p.to_strings(), ["docs", "!docs/README.md", "#no", "*.md"]);
    // A blank that the leading or trailing `/` hid is trimmed by the second reading only.
    for (file, passed) in [("/ x", " x"), ("a\t/ /", "a\t/ "), ("!/ x/", "! x")] {
        let p = PatternSet::parse(file.as_bytes()).unwrap();
        assert_eq!(p.to_strings(), [passed]);
        let again = PatternSet::new(p.to_strings()).unwrap();
        for path in ["x", " x", "a", "a\t", "a\t/ "] {
            assert_eq!(
                p.verdict(path).is_some(),
                again.verdict(path).is_some(),
                "{file:?} {path:?}"
            );
        }
    }
    let at = |path: &str| p.verdict(path).map(|v| (v.index, v.line, v.matched));
    assert_eq!(at("docs/x"), Some((0, 3, true)));
    assert_eq!(at("docs/README.md"), Some((1, 4, false)));
    assert_eq!(at("top.md"), Some((3, 6, true)));
    assert_eq!(at("#no"), Some((2, 5, true)));
    assert_eq!(at("src"), None);
    assert_eq!(at("."), None);
}

#[test]
fn bad_lists_are_refused_with_their_line() {
    for (text, line) in [
        ("!", 1),
        ("a\n! \n", 2),
        ("!/", 1),
        ("a\n\n[\n", 3),
        ("[]a]", 1),
        ("[x-]", 1),
        ("[b-a]", 1),
        ("a\\", 1),
        ("\\q", 1),
        ("[[:nope:]x]", 1),
    ] {
        assert_eq!(PatternSet::parse(text.as_bytes()).unwrap_err().line, line, "{text}");
    }
    assert!(PatternSet::parse(b"[[:]]").is_ok());
}

#[test]
fn limits_hold_at_and_past() {
    let many = "a\n".repeat(MAX_PATTERNS);
    assert!(PatternSet::parse(many.as_bytes()).is_ok());
    assert!(PatternSet::parse((many + "b").as_bytes()).is_err());
    assert!(PatternSet::parse(&vec![b'\n'; MAX_IGNORE_FILE]).is_ok());
    assert!(PatternSet::parse(&vec![b'\n'; MAX_IGNORE_FILE + 1]).is_err());
    let line = "a".repeat(crate::limits::MAX_LINE);
    assert!(PatternSet::parse(line.as_bytes()).is_ok());
    assert!(PatternSet::parse((line + "a").as_bytes()).is_err());
}

#[test]
fn glob_answers_like_go() {
    for (pattern, name, want) in [
        ("abc", "abc", Some(true)),
        ("*", "abc", Some(true)),
        ("*c", "abc", Some(true)),
        ("a*", "ab/c", Some(false)),
        ("a*/b", "abc/b", Some(true)),
        ("a*/b", "a/c/b", Some(false)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
        ("ab[^b-d]", "abc", Some(false)),
        ("a\\*b", "ab", Some(false)),
        ("a[^a][^a][^a]b", "a☺b", Some(false)),
        ("[a-ζ]*", "α", Some(true)),
        ("*[a-ζ]", "A", Some(false)),
        ("[\\]a]", "]", Some(true)),
        ("[\\-x]", "-", Some(true)),
        ("[b-a]", "a", Some(false)),
        ("[]a]", "]", None),
        ("[-]", "-", None),
        ("[x-]", "x", None),
        ("[a-b-c]", "a", None),
        ("[", "a", None),
        ("[^bc", "a", None),
        ("a[", "ab", None),
        ("\\", "a", None),
        ("*x", "xxx", Some(true)),
    ] {
        assert_eq!(glob_match(pattern, name).ok(), want, "{pattern} on {name}");
    }
}

#[test]
fn hostile_patterns_stay_linear() {
    // Any of these takes longer than the universe with backtracking.
    let name = "a".repeat(250);
    let deep = "a/".repeat(1000) + "a";
    assert!(!Glob::new(&"*a".repeat(100)).unwrap().matches(name.clone() + "b"));
    assert!(!set(&[&"*a".repeat(100)]).matches_or_parent(name + "b"));
    assert!(set(&[&("**/".repeat(60) + "a")]).matches_or_parent(&deep));
    assert!(!set(&[&("**/".repeat(60) + "b*")]).matches_or_parent(&deep));
    assert!(!set(&[&("**/a".repeat(60) + "b*")]).matches_or_parent(&deep));
}

/// moby's rules by recursion, as slow as they come.
fn slow(p: &[char], s: &[char], start: bool) -> bool {
    const SPECIAL: &[char] = &['*', '?', '[', ']', '\\'];
    let plain = |p: &[char]| !p.iter().any(|c| SPECIAL.contains(c));
    if start {
        match p {
            _ if plain(p) => return p == s,
            ['*', '*', rest @ ..] if plain(rest) => {
                return s.ends_with(rest) || (rest.first() == Some(&'/') && *s == rest[1..]);
            }
            [rest @ .., '*', '*'] if plain(rest) => return s.starts_with(rest),
            _ => {}
        }
    }
    match p {
        [] => s.is_empty(),
        ['*', '*'] | ['*', '*', '/'] => true,
        ['*', '*', rest @ ..] => {
            let rest = if rest[0] == '/' { &rest[1..] } else { rest };
            slow(rest, s, false)
                || (0..s.len()).any(|i| s[i] == '/' && slow(rest, &s[i + 1..], false))
        }
        ['*', rest @ ..] => (0..=s.len())
            .take_while(|i| *i == 0 || s[i - 1] != '/')
            .any(|i| slow(rest, &s[i..], false)),
        ['?', rest @ ..] => s.first().is_some_and(|c| *c != '/') && slow(rest, &s[1..], false),
        ['[', '^', c, ']', rest @ ..] => {
            s.first().is_some_and(|s| s != c) && slow(rest, &s[1..], false)
        }
        ['[', a, b, ']', rest @ ..] => {
            s.first().is_some_and(|s| s == a || s == b) && slow(rest, &s[1..], false)
        }
        ['\\', c, rest @ ..] | [c, rest @ ..] => s.first() == Some(c) && slow(rest, &s[1..], false),
    }
}

/// moby's loop over a list, in its order, with its shortcuts.
fn slow_set(patterns: &[String], path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let mut matched = false;
    for p in patterns {
        let (negated, body) = match p.strip_prefix('!') {
            Some(b) => (true, b),
            None => (false, p.as_str()),
        };
        if negated != matched {
            continue;
        }
        let body: Vec<char> = body.chars().collect();
        let hit = (1..=parts.len()).any(|n| {
            let part: Vec<char> = parts[..n].join("/").chars().collect();
            slow(&body, &part, true)
        });
        if hit {
            matched = !negated;
        }
    }
    matched
}

fn pattern() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "a", "b", "/", "a/", "*", "**", "**/", "?", "[ab]", "[^a]", "\\*", ".",
    ]);
    (any::<bool>(), prop::collection::vec(token, 1..6)).prop_map(|(negated, tokens)| {
        let cleaned = clean(&tokens.concat());
        let body = cleaned.trim_start_matches('/');
        let body = if body.is_empty() { "a" } else { body };
        format!("{}{body}", if negated { "!" } else { "" })
    })
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "ab", "ba", "aa", "*", ".a", "é"]);
    prop::collection::vec(name, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_slow_rules(list in prop::collection::vec(pattern(), 1..5), path in path()) {
        let set = PatternSet::new(&list).unwrap();
        prop_assert_eq!(set.matches_or_parent(&path), slow_set(&list, &path));
    }

    #[test]
    fn nothing_is_free_below_a_pruned_folder(
        list in prop::collection::vec(pattern(), 1..5),
        dir in path(),
        below in path(),
    ) {
        let set = PatternSet::new(&list).unwrap();
        let child = format!("{dir}/{below}");
        if set.matches_or_parent(&dir) && !set.may_free_below(&dir) {
            prop_assert!(set.matches_or_parent(&child));
        }
        if !set.may_match_below(&dir) {
            prop_assert!(!set.matches_or_parent(&child));
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(set) = PatternSet::parse(text.as_bytes()) {
            set.verdict(&bytes);
            set.may_free_below(&bytes);
        }
        let _ = PatternSet::parse(&bytes);
        let _ = glob_match(&text, &bytes);
    }
}
