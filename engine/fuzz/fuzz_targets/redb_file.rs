//! Any bytes may lie where the store expects its file: opening and reading it gives an error or rows, never a
//! panic.
#![no_main]

#[path = "../../tests/corpus/redb_file.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
