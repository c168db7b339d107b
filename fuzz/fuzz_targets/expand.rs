//! PROP-02: any word expands. The value of all variables stands behind a NUL.
#![no_main]

#[path = "../../frontend/tests/property/expand.rs"]
mod property;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (word, value) = text.split_once('\0').unwrap_or((text, "a/b"));
    property::holds(word, value);
});
