//! PROP-03: any ignore file is read. The name stands behind a NUL.
#![no_main]

#[path = "../../frontend/tests/property/pattern.rs"]
mod property;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (rules, name) = text.split_once('\0').unwrap_or((text, "a/b"));
    property::holds(rules.as_bytes(), name);
});
