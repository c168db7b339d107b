//! PROP-01: any text parses.
#![no_main]

#[path = "../../frontend/tests/property/parser.rs"]
mod property;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| property::holds(text));
