//! Every input that the fuzz targets of `engine/fuzz` have collected, through the same functions, without a fuzzer. The
//! targets are this test's modules; `ops` is that of the test `model`.
//!
//! A target's inputs are in `engine/fuzz/corpus`, in the directory of its name. An input that once failed stays there.

#![cfg(feature = "redb")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure is what a target reports by panicking"
)]

mod journal;
mod record_open;
mod record_open_keyed;
mod redb_file;
mod token;

use std::fs;
use std::path::Path;

/// Runs every input of `target`.
fn replay(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.unwrap().path();
        let input = fs::read(&path).unwrap();
        let done = std::panic::catch_unwind(|| run(&input));
        assert!(done.is_ok(), "{} failed", path.display());
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", dir.display());
}

#[test]
fn tokens_have_one_spelling() {
    replay("token", token::run);
}

#[test]
fn stored_bytes_are_refused_or_read() {
    replay("record_open", record_open::run);
    replay("record_open_keyed", record_open_keyed::run);
}

#[test]
fn any_file_is_refused_or_read() {
    replay("redb_file", redb_file::run);
}

#[test]
fn any_segments_are_refused_or_recovered() {
    replay("journal", journal::run);
}
