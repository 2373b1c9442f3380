//! No space: what is served, what is refused, what the engine says of it, and that it comes back by itself with all that
//! it accepted.

use pollster::block_on;
use sessile_engine::store::MemoryStore;
use sessile_engine::store::fault::{FaultOp, FaultStore};
use sessile_engine::{Durability, Engine, ErrorKind, Health, StoreErrorKind, WhenFull};

use super::support::*;

fn is_full(engine: &Engine) -> bool {
    matches!(engine.health(), Health::Full { .. })
}

fn fail(handle: &sessile_engine::store::fault::FaultHandle) {
    handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Full);
}

#[test]
fn a_full_store_keeps_what_is_written_in_memory_and_takes_it_later() {
    let (engine, handle, events, rows) = open(power_loss());
    let token = fresh(&engine, 1);
    let ended = fresh(&engine, 2);
    fail(&handle);
    let session = begin(&engine, Some(&token));
    session.put("n", &2).unwrap();
    let error = commit(&session).unwrap_err();
    assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Full);
    assert!(error.is_temporary());
    assert_eq!(error.http_status(), 503);
    soon("its health says that there is no space", || is_full(&engine));
    assert!(engine.health().to_string().starts_with("full: "), "{}", engine.health());
    // Read, changed and ended in memory.
    assert_eq!(n(&engine, &token), Some(2));
    begin(&engine, Some(&token)).put("n", &3).unwrap();
    let session = begin(&engine, Some(&ended));
    session.destroy().unwrap();
    commit(&session).unwrap_err();
    assert_eq!(n(&engine, &ended), None);

    handle.heal();
    soon("it finds the space by itself", || engine.health() == Health::Ok);
    soon("all of it is stored", || block_on(engine.stats()).dirty == 0);
    assert_eq!(events.store(), "-+");
    drop(engine);
    let engine = reopen(&rows);
    assert_eq!((n(&engine, &token), n(&engine, &ended)), (Some(3), None));
}

#[test]
fn writes_are_refused_while_there_is_no_space_if_the_engine_is_told_so() {
    for level in [Durability::eventual(), Durability::PowerLoss] {
        let (engine, handle, _, rows) = open(Engine::builder().durability(level).when_full(WhenFull::Refuse));
        let token = fresh(&engine, 1);
        flush(&engine).unwrap();
        fail(&handle);
        begin(&engine, Some(&token)).put("n", &2).unwrap();
        flush(&engine).unwrap_err();
        soon("its health says that there is no space", || is_full(&engine));
        let session = begin(&engine, Some(&token));
        let error = session.put("n", &3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Store);
        assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Full);
        assert!(error.is_temporary());
        assert_eq!(begin(&engine, None).put("n", &4).unwrap_err().kind(), ErrorKind::Store, "no new session");
        assert_eq!(n(&engine, &token), Some(2), "what was accepted before is served");
        let other = begin(&engine, Some(&token));
        other.destroy().unwrap();
        assert!(session.is_revoked(), "a session can be ended at any time");

        handle.heal();
        soon("it finds the space by itself", || engine.health() == Health::Ok);
        let later = fresh(&engine, 5);
        flush(&engine).unwrap();
        assert_eq!(ids(&rows), [later.id()]);
    }
}

/// Nothing waits to be written, so only a look of its own can tell.
#[test]
fn it_recovers_with_nothing_to_write() {
    for policy in [WhenFull::Keep, WhenFull::Refuse] {
        let (engine, handle, _, rows) = open(power_loss().when_full(policy));
        fail(&handle);
        let session = begin(&engine, None);
        session.put("n", &1).unwrap();
        commit(&session).unwrap_err();
        assert!(session.is_revoked(), "a session that nobody was told of does not exist");
        soon("its health says that there is no space", || is_full(&engine));
        soon("it has nothing left that could succeed", || handle.calls(FaultOp::Commit) > 4);
        handle.heal();
        soon("it finds the space by itself", || engine.health() == Health::Ok);
        assert_eq!(ids(&rows), []);
        fresh(&engine, 2);
    }
}

/// A journal in front: the store is out of space, writes go on and are durable.
#[test]
fn a_full_store_behind_a_journal_refuses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rows = MemoryStore::default();
    let store = FaultStore::new(rows.clone());
    let faults = store.handle();
    let engine =
        Engine::builder().when_full(WhenFull::Refuse).journal(dir.path().join("j")).open(store).unwrap();
    fail(&faults);
    let token = fresh(&engine, 1);
    let error = block_on(engine.checkpoint()).unwrap_err();
    assert_eq!(error.store_error().unwrap().kind(), StoreErrorKind::Full);
    soon("its health says that there is no space", || is_full(&engine));
    begin(&engine, Some(&token)).put("n", &2).unwrap();
    flush(&engine).unwrap();
    assert!(is_full(&engine), "the store has not got it yet");
    faults.heal();
    soon("it hands on by itself", || engine.health() == Health::Ok && rows.len() == 1);
    drop(engine);
    assert_eq!(n(&reopen(&rows), &token), Some(2));
}

/// What ends only with a restart is not hidden by what passes.
#[test]
fn a_full_disk_does_not_hide_a_broken_file() {
    let (engine, handle, _, _) = open(Engine::builder());
    let token = fresh(&engine, 1);
    handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Io);
    begin(&engine, Some(&token)).put("n", &2).unwrap();
    flush(&engine).unwrap_err();
    soon("read-only", || matches!(engine.health(), Health::ReadOnly { .. }));
    fail(&handle);
    flush(&engine).unwrap_err();
    handle.heal();
    flush(&engine).unwrap_err();
    assert!(matches!(engine.health(), Health::ReadOnly { .. }));
    let calls = handle.calls(FaultOp::Commit);
    assert_eq!(begin(&engine, Some(&token)).put("n", &3).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(handle.calls(FaultOp::Commit), calls, "a file in an unknown state is not asked again");
}
