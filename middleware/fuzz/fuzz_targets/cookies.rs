//! `Cookie` lines are hostile; see `tests/corpus/cookies.rs`.
#![no_main]

#[path = "../../tests/corpus/cookies.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
