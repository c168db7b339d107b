//! Names for containers that were given none: an adjective and a noun.

const ADJECTIVES: [&str; 32] = [
    "agile", "amber", "brave", "bright", "calm", "clever", "cosmic", "curious", "deft", "eager",
    "fair", "fleet", "gentle", "glad", "golden", "happy", "humble", "jolly", "keen", "kind",
    "lively", "lucid", "merry", "nimble", "patient", "proud", "quiet", "quick", "sharp", "silver",
    "steady", "witty",
];
const NOUNS: [&str; 32] = [
    "badger", "beaver", "bison", "crane", "curlew", "dolphin", "falcon", "finch", "fox", "gecko",
    "hare", "heron", "ibex", "jackdaw", "kestrel", "lark", "lynx", "marten", "newt", "osprey",
    "otter", "owl", "panda", "plover", "puffin", "raven", "robin", "seal", "stoat", "swift",
    "tern", "wren",
];

/// A name that is not taken; the same random bytes and names give the same one.
pub(super) fn free(random: &[u8; 32], taken: impl Fn(&str) -> bool) -> String {
    let pick = |list: &[&'static str; 32], n: usize| list[usize::from(random[n]) % 32];
    let plain = |n: usize| format!("{}_{}", pick(&ADJECTIVES, n), pick(&NOUNS, n + 1));
    if let Some(name) = (0..30).step_by(2).map(plain).find(|n| !taken(n)) {
        return name;
    }
    // Many containers: a number makes it one of its own.
    (0u32..).map(|n| format!("{}{n}", plain(0))).find(|n| !taken(n)).unwrap_or_else(|| plain(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_is_not_given_again() {
        let random = [7; 32];
        let first = free(&random, |_| false);
        assert!(first.split_once('_').is_some_and(|(a, n)| !a.is_empty() && !n.is_empty()));
        let second = free(&random, |n| n == first);
        assert_ne!(first, second);
        assert!(second.starts_with(&first));
    }
}
