//! Stored bytes are hostile: `Record::open` refuses them or gives a record that can be read whole and that
//! comes out of a second seal and open the same. The first byte of the input says whether the rest is a whole
//! sealed record, or a body that gets a right header and tag, so that the checks behind the tag are reached too.
#![no_main]

#[path = "../../tests/corpus/record_open.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
