//! A token has one spelling: whatever `Token::parse` accepts, `encode` gives back byte for byte. The same for
//! session ids.
#![no_main]

#[path = "../../tests/corpus/token.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
