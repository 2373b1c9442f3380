//! A journal in front of a store that fails: the engine goes on, says so, and hands on what it accepted when the store
//! works again, also after a restart.

use pollster::block_on;
use sessile_engine::store::fault::{FaultOp, FaultStore};
use sessile_engine::store::{MemoryStore, Store};
use sessile_engine::{Engine, ErrorKind, Health, StoreErrorKind};

use super::support::{ALWAYS, begin, fresh, n, soon};

fn open(dir: &tempfile::TempDir, store: impl Store) -> Engine {
    Engine::builder().journal(dir.path().join("j")).open(store).unwrap()
}

#[test]
fn what_was_accepted_while_the_store_was_down_is_handed_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rows = MemoryStore::default();
    let store = FaultStore::new(rows.clone());
    let faults = store.handle();
    let engine = open(&dir, store);
    faults.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Unavailable);
    let kept = fresh(&engine, 1);
    let ended = fresh(&engine, 1);
    let session = begin(&engine, Some(&ended));
    session.destroy().unwrap();
    block_on(session.commit()).unwrap();
    assert!(block_on(engine.checkpoint()).is_err());
    soon("its health says so", || matches!(engine.health(), Health::Degraded { .. }));
    // Reads and writes go on, and are durable.
    begin(&engine, Some(&kept)).put("n", &2).unwrap();
    block_on(engine.flush()).unwrap();
    block_on(engine.close()).unwrap();
    assert_eq!(rows.len(), 0, "the store had nothing of it");

    let engine = open(&dir, rows.clone());
    assert_eq!(n(&engine, &kept), Some(2));
    assert_eq!(n(&engine, &ended), None);
    block_on(engine.checkpoint()).unwrap();
    assert_eq!(rows.len(), 1);
}

#[test]
fn health_is_well_again_when_the_store_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultStore::new(MemoryStore::default());
    let faults = store.handle();
    let engine = open(&dir, store);
    faults.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    fresh(&engine, 1);
    assert!(block_on(engine.checkpoint()).is_err());
    soon("degraded", || matches!(engine.health(), Health::Degraded { .. }));
    block_on(engine.checkpoint()).unwrap();
    soon("well", || engine.health() == Health::Ok);
}

#[test]
fn a_store_whose_file_is_broken_makes_the_engine_read_only_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rows = MemoryStore::default();
    let store = FaultStore::new(rows.clone());
    let faults = store.handle();
    let engine = open(&dir, store);
    let token = fresh(&engine, 1);
    faults.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Io);
    assert!(block_on(engine.checkpoint()).is_err());
    soon("read-only", || matches!(engine.health(), Health::ReadOnly { .. }));
    assert_eq!(n(&engine, &token), Some(1));
    assert_eq!(begin(&engine, Some(&token)).put("n", &3).unwrap_err().kind(), ErrorKind::ReadOnly);
    drop(engine);
    let engine = open(&dir, rows);
    assert_eq!(n(&engine, &token), Some(1));
}
