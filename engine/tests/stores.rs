//! The conformance suite on the stores of this crate, one report line a case.
#![cfg(all(feature = "conformance", feature = "redb"))]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use pollster::block_on;
use sessile_engine::store::conformance::{Subject, cases};
use sessile_engine::store::{MemoryStore, RedbStore};

/// Runs every case and names all that failed.
fn conforms(make: impl Fn() -> Subject) {
    let failed: Vec<&str> = cases()
        .iter()
        .filter(|case| catch_unwind(AssertUnwindSafe(|| block_on(case.run(make())))).is_err())
        .map(|case| case.name())
        .collect();
    assert!(failed.is_empty(), "failed cases: {failed:?}");
    assert!(cases().len() >= 60);
}

#[test]
fn the_memory_store_conforms() {
    conforms(|| {
        let store = MemoryStore::new();
        let same_rows = store.clone();
        Subject::new(store).reopened_by(move || Box::pin(std::future::ready(Subject::new(same_rows.clone()))))
    });
}

fn redb_subject(path: PathBuf) -> Subject {
    let store = RedbStore::open(&path).unwrap();
    Subject::new(store)
        .reopened_by(move || Box::pin(std::future::ready(Subject::new(RedbStore::open(&path).unwrap()))))
}

#[test]
fn the_redb_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let files = std::cell::Cell::new(0);
    conforms(|| {
        files.set(files.get() + 1);
        redb_subject(dir.path().join(format!("{}.redb", files.get())))
    });
}
