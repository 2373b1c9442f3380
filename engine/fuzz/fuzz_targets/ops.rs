//! The engine against its model: an input is a setup and a list of operations, four bytes each; see `tests/model`.
#![no_main]
#![allow(dead_code, reason = "not all of the test is used")]

#[path = "../../tests/model/acts.rs"]
mod acts;
#[path = "../../tests/model/commit.rs"]
mod commit;
#[path = "../../tests/model/life.rs"]
mod life;
#[path = "../../tests/model/model.rs"]
mod model;
#[path = "../../tests/model/ops.rs"]
mod ops;
#[path = "../../tests/model/run.rs"]
mod run;
#[path = "../../tests/model/whole.rs"]
mod whole;
#[path = "../../tests/model/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (setup, ops) = ops::parse(input);
    if let Err(what) = run::run(setup, &ops) {
        panic!("{setup:?}\n{ops:#?}\n{what}");
    }
});
