//! Every input that the fuzz targets of `middleware/fuzz` have collected, through the same functions, without a fuzzer.
//! A target's inputs are in `middleware/fuzz/corpus`, in the directory of its name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure is what a target reports by panicking"
)]

mod cookies;

use std::fs;
use std::path::Path;

#[test]
fn cookies_are_read_as_the_rules_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/cookies");
    let mut inputs = 0;
    for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        let input = fs::read(&path).unwrap();
        let done = std::panic::catch_unwind(|| cookies::run(&input));
        assert!(done.is_ok(), "{} failed", path.display());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", dir.display());
}
