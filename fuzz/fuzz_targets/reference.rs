//! PROP-06: any text is a reference or none.
#![no_main]

#[path = "../../frontend/tests/property/reference.rs"]
mod property;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| property::holds(text));
