//! Any bytes may lie where the journal expects its segments; see `tests/corpus/journal.rs`.
#![no_main]

#[path = "../../tests/corpus/journal.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
