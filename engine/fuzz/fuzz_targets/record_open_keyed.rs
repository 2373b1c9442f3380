//! Stored bytes under keys are hostile too: `Record::open_with` refuses them, or gives a record that comes out of a
//! second seal and open the same. The first byte of the input says whether the rest is a whole sealed record, or what
//! follows a right header with the id of a key at hand; or a change that is made to a record that opens.
#![no_main]

#[path = "../../tests/corpus/record_open_keyed.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target::run(input));
