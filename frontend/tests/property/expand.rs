//! PROP-02: any word expands without panic to a result of limited size; a word without special
//! characters is itself; what was quoted on purpose comes out as it was.

use rgraph_frontend::expand::{Lookup, Mode, Nothing, expand, is_plain};
use rgraph_ir::limits::MAX_EXPANSION;

/// Every variable has this value.
struct All<'a>(&'a str);

impl Lookup for All<'_> {
    fn get(&self, _: &str) -> Option<&str> {
        Some(self.0)
    }
}

/// Checks one word with one value for all variables.
pub fn holds(word: &str, value: &str) {
    for escape in ['\\', '`'] {
        let plain = Mode::plain(escape);
        for mode in
            [plain, Mode::body(), Mode::display(escape), Mode { raw_escapes: true, ..plain }]
        {
            for env in [&All(value) as &dyn Lookup, &Nothing] {
                let Ok(done) = expand(word, env, mode) else { continue };
                assert!(done.text.len() <= MAX_EXPANSION + word.len(), "{word:?}");
                assert!(done.words.iter().all(|w| !w.is_empty()), "{word:?}");
            }
        }
        if is_plain(word, escape) {
            let done = expand(word, &All(value), plain).expect("nothing to expand");
            // Only `<<` eats blanks that are not of its line.
            assert_eq!(done.text, word);
        }
        // Every character escaped stands for itself.
        let quoted: String = word.chars().flat_map(|c| [escape, c]).collect();
        let done = expand(&quoted, &All(value), plain).expect("escapes only");
        assert_eq!(done.text, word);
        assert!(done.matched.is_empty() && done.unmatched.is_empty());
    }
}
