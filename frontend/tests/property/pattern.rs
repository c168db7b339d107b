//! PROP-03: any ignore file and any name are answered without panic; a list says of a folder's content
//! what it says of the folder unless a later rule frees it; a name without wildcards matches itself.

use rgraph_ir::pattern::{PatternSet, clean, glob_match};

/// Checks one file of rules and one name.
pub fn holds(rules: &[u8], name: &str) {
    if let Ok(set) = PatternSet::parse(rules) {
        // Lists are asked about cleaned names only.
        let cleaned = clean(name);
        let name = cleaned.trim_start_matches('/');
        let below = format!("{name}/x");
        if set.matches_or_parent(name) && !set.may_free_below(name) {
            assert!(set.matches_or_parent(&below), "{name:?}");
        }
        if !set.may_match_below(name) {
            assert!(!set.matches_or_parent(&below), "{name:?}");
        }
        // A list printed and read again says the same.
        let again = PatternSet::new(set.to_strings()).expect("a read list reads again");
        assert_eq!(set.verdict(name).is_some(), again.verdict(name).is_some(), "{name:?}");
        assert_eq!(set.matches_or_parent(name), again.matches_or_parent(name), "{name:?}");
    }
    if !name.contains(['*', '?', '[', '\\']) {
        assert_eq!(glob_match(name, name), Ok(true));
    }
    let quoted: String = name.chars().flat_map(|c| ['\\', c]).collect();
    assert_eq!(glob_match(&quoted, name), Ok(true), "{name:?}");
}
