//! A store that fails for a while, and one that fails for good.

use std::time::Duration;

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::fault::{FaultOp, FaultStore};
use sessile_engine::store::{Change, MemoryStore, Outcome, RedbStore, Row, Store};
use sessile_engine::{Engine, ErrorKind, Event, Health, StoreErrorKind, Token};

use crate::support::*;

/// Fails a few commits with `kind` (applied all the same if `lost`), changes values meanwhile, and looks at what
/// is stored in the end.
fn is_retried(kind: StoreErrorKind, lost: bool, store: impl Store, again: impl FnOnce() -> Engine) {
    let store = FaultStore::new(store);
    let handle = store.handle();
    let events = Events::default();
    let seen = events.clone();
    let observer = move |e: &Event| seen.0.lock().unwrap().push(e.clone());
    let engine = Engine::builder().observer(observer).open(store).unwrap();
    let old = fresh(&engine, 0);
    let gone = fresh(&engine, -1);
    flush(&engine).unwrap();

    handle.apply_failing_commits(lost);
    handle.fail_next(FaultOp::Commit, ALWAYS, kind);
    begin(&engine, Some(&old)).put("n", &1).unwrap();
    let new = fresh(&engine, 10);
    let error = flush(&engine).unwrap_err();
    assert_eq!(error.store_error().unwrap().kind(), kind);
    assert!(error.is_temporary());
    soon("health says so", || match engine.health() {
        Health::Full { .. } => kind == StoreErrorKind::Full,
        Health::Degraded { .. } => kind != StoreErrorKind::Full,
        _ => false,
    });
    // Changes while it fails, each of them in a try of its own.
    for i in 2..5 {
        begin(&engine, Some(&old)).put("n", &i).unwrap();
        begin(&engine, Some(&new)).put("n", &(10 * i)).unwrap();
        flush(&engine).unwrap_err();
    }
    begin(&engine, Some(&gone)).destroy().unwrap();
    flush(&engine).unwrap_err();
    assert_eq!((n(&engine, &old), n(&engine, &new), n(&engine, &gone)), (Some(4), Some(40), None));

    handle.heal();
    settle(&engine);
    soon("health is restored", || engine.health() == Health::Ok);
    soon("both events, once each", || events.store() == "-+");
    let stats = block_on(engine.stats());
    assert!(stats.commit_failures >= 4);
    assert_eq!((stats.stored, stats.dirty), (Some(2), 0));
    // No conflict goes on being written.
    let calls = handle.calls(FaultOp::Commit);
    flush(&engine).unwrap();
    flush(&engine).unwrap();
    assert_eq!(handle.calls(FaultOp::Commit), calls);

    close(&engine).unwrap();
    assert_eq!(events.store(), "-+");
    drop(engine);
    let engine = again();
    assert_eq!((n(&engine, &old), n(&engine, &new), n(&engine, &gone)), (Some(4), Some(40), None));
    assert_eq!(block_on(engine.stats()).stored, Some(2));
}

#[test]
fn a_failing_commit_is_retried_until_it_works() {
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Full] {
        for lost in [false, true] {
            let rows = MemoryStore::new();
            is_retried(kind, lost, rows.clone(), || reopen(&rows));
        }
    }
}

#[test]
fn a_failing_commit_is_retried_until_it_works_on_redb() {
    for lost in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sessions");
        let store = RedbStore::open(&path).unwrap();
        is_retried(StoreErrorKind::Unavailable, lost, store, || Engine::builder().open_redb(&path).unwrap());
    }
}

#[test]
fn a_new_session_whose_commit_failed_does_not_exist() {
    for lost in [false, true] {
        let (engine, handle, _, rows) = open(power_loss());
        let kept = fresh(&engine, 1);
        handle.apply_failing_commits(lost);
        handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Unavailable);
        let session = begin(&engine, None);
        session.put("n", &2).unwrap();
        assert_store_failed(&commit(&session).unwrap_err(), "memory");
        assert!(session.is_revoked());
        assert_eq!(session.get::<i64>("n").unwrap(), None);
        // Asked for durability by hand at the other level: the same.
        let session = begin(&engine, None);
        session.put("n", &3).unwrap();
        block_on(session.sync()).unwrap();
        assert_store_failed(&commit(&session).unwrap_err(), "memory");
        handle.heal();
        settle(&engine);
        assert_eq!(ids(&rows), [kept.id()], "no orphan");
        let later = fresh(&engine, 4);
        assert_eq!((n(&engine, &kept), n(&engine, &later)), (Some(1), Some(4)));
    }
}

#[test]
fn a_write_whose_commit_failed_stays_and_is_stored_later() {
    let (engine, handle, _, rows) = open(power_loss());
    let token = fresh(&engine, 1);
    handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Full);
    let session = begin(&engine, Some(&token));
    session.put("n", &2).unwrap();
    let asks = session.clone();
    assert_store_failed(&within("sync", move || block_on(asks.sync())).unwrap_err(), "memory");
    assert_store_failed(&commit(&session).unwrap_err(), "memory");
    assert_eq!(n(&engine, &token), Some(2));
    handle.heal();
    settle(&engine);
    close(&engine).unwrap();
    assert_eq!(n(&reopen(&rows), &token), Some(2));
}

#[test]
fn a_queue_of_several_batches_survives_the_failure_of_any() {
    for failing in 1..4 {
        let (engine, handle, _, rows) = open(Engine::builder());
        // Nothing is written before all of it is there.
        handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Unavailable);
        let tokens: Vec<_> = (0..5_000).map(|i| fresh(&engine, i)).collect();
        flush(&engine).unwrap_err();
        handle.heal();
        handle.fail_from(
            FaultOp::Commit,
            handle.calls(FaultOp::Commit) + failing,
            StoreErrorKind::Unavailable,
        );
        let _ = flush(&engine);
        assert!(rows.len() <= 5_000);
        handle.heal();
        settle(&engine);
        assert_eq!((rows.len(), block_on(engine.stats()).dirty), (5_000, 0), "commit {failing} failed");
        close(&engine).unwrap();
        let engine = reopen(&rows);
        for (i, token) in tokens.iter().enumerate().step_by(97) {
            assert_eq!(n(&engine, token), Some(i as i64));
        }
    }
}

#[test]
fn a_session_destroyed_while_the_store_fails_is_dead_at_once() {
    for builder in [Engine::builder(), power_loss()] {
        let (engine, handle, _, rows) = open(builder);
        let token = fresh(&engine, 1);
        let by_id = fresh(&engine, 2);
        flush(&engine).unwrap();
        handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Unavailable);
        let other = begin(&engine, Some(&token));
        let session = begin(&engine, Some(&token));
        session.destroy().unwrap();
        assert!(other.is_revoked());
        assert_store_failed(&commit(&session).unwrap_err(), "memory");
        let (asks, id) = (engine.clone(), by_id.id());
        assert_store_failed(
            &within("revoke", move || block_on(asks.destroy_session(&id))).unwrap_err(),
            "memory",
        );
        assert_eq!((n(&engine, &token), n(&engine, &by_id)), (None, None));
        assert_eq!(ids(&rows).len(), 2, "the rows are still there, and do not bring them back");
        handle.heal();
        settle(&engine);
        assert_eq!(ids(&rows), []);
        assert_eq!((n(&engine, &token), n(&engine, &by_id)), (None, None));
    }
}

/// Who is told that the logout failed and tries again must not be told that all is well.
#[test]
fn a_logout_that_is_repeated_waits_for_its_deletion_as_the_first_did() {
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Io] {
        let (engine, handle, _, rows) = open(Engine::builder());
        let token = fresh(&engine, 1);
        flush(&engine).unwrap();
        handle.fail_next(FaultOp::Commit, ALWAYS, kind);
        for _ in 0..3 {
            let session = begin(&engine, Some(&token));
            session.destroy().unwrap();
            assert_store_failed(&commit(&session).unwrap_err(), "memory");
        }
        assert_eq!(ids(&rows).len(), 1);
        handle.heal();
        if kind == StoreErrorKind::Unavailable {
            let session = begin(&engine, Some(&token));
            session.destroy().unwrap();
            soon("it is deleted", || commit(&session).is_ok() && ids(&rows).is_empty());
        }
    }
}

#[test]
fn p4_a_renewal_that_failed_leaves_the_old_token_working() {
    for builder in [Engine::builder(), power_loss()] {
        let (engine, handle, _, rows) = open(builder);
        let old = fresh(&engine, 1);
        flush(&engine).unwrap();
        handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Unavailable);
        for i in 2..4 {
            let session = begin(&engine, Some(&old));
            session.put("n", &i).unwrap();
            session.renew().unwrap();
            assert_store_failed(&commit(&session).unwrap_err(), "memory");
            assert!(!session.is_revoked());
            assert_eq!(n(&engine, &old), Some(i));
        }
        handle.heal();
        settle(&engine);
        assert_eq!(ids(&rows), [old.id()]);
        let session = begin(&engine, Some(&old));
        session.renew().unwrap();
        let new = token_of(commit(&session).unwrap());
        assert_eq!((n(&engine, &old), n(&engine, &new)), (None, Some(3)));
        close(&engine).unwrap();
        let engine = reopen(&rows);
        assert_eq!((n(&engine, &old), n(&engine, &new)), (None, Some(3)));
    }
}

#[test]
fn p4_a_renewal_whose_answer_was_lost_leaves_the_session_stored_under_the_old_token() {
    let (engine, handle, _, rows) = open(Engine::builder());
    let old = fresh(&engine, 1);
    flush(&engine).unwrap();
    handle.apply_failing_commits(true);
    handle.fail_next(FaultOp::Commit, 1, StoreErrorKind::Unavailable);
    let session = begin(&engine, Some(&old));
    session.renew().unwrap();
    commit(&session).unwrap_err();
    assert_eq!(n(&engine, &old), Some(1));
    drop(session);
    settle(&engine);
    close(&engine).unwrap();
    assert_eq!(ids(&rows), [old.id()], "the row is moved back");
    assert_eq!(n(&reopen(&rows), &old), Some(1), "and survives a restart");
}

#[test]
fn p4_a_session_whose_row_nobody_knows_of_is_moved_all_the_same() {
    for renew in [true, false] {
        let (engine, handle, _, rows) = open(Engine::builder());
        handle.apply_failing_commits(true);
        handle.fail_next(FaultOp::Commit, 1, StoreErrorKind::Full);
        let old = fresh(&engine, 1);
        flush(&engine).unwrap_err();
        assert_eq!(ids(&rows), [old.id()], "its answer was lost");
        let session = begin(&engine, Some(&old));
        if renew { session.renew() } else { block_on(session.login("ann")) }.unwrap();
        let new = token_of(commit(&session).unwrap());
        settle(&engine);
        assert_eq!(ids(&rows), [new.id()]);
        close(&engine).unwrap();
        let engine = reopen(&rows);
        assert_eq!((n(&engine, &old), n(&engine, &new)), (None, Some(1)));
    }
}

/// A row is removed as expired when what keeps its session alive was not written in time, say over a suspend.
#[test]
fn p4_a_session_whose_row_was_removed_is_moved_all_the_same() {
    let (engine, _, _, rows) = open(Engine::builder());
    let old = fresh(&engine, 1);
    flush(&engine).unwrap();
    let gone = Change::Delete { id: old.id() };
    block_on(rows.commit(START_MS, &[gone])).unwrap();
    let session = begin(&engine, Some(&old));
    session.renew().unwrap();
    let new = token_of(commit(&session).unwrap());
    settle(&engine);
    assert_eq!(ids(&rows), [new.id()]);
    assert_eq!((n(&engine, &old), n(&engine, &new)), (None, Some(1)));
}

#[test]
fn closing_while_the_store_fails_says_so() {
    let (engine, handle, _, rows) = open(Engine::builder());
    let token = fresh(&engine, 1);
    flush(&engine).unwrap();
    handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Unavailable);
    let session = begin(&engine, Some(&token));
    session.put("n", &2).unwrap();
    let error = close(&engine).unwrap_err();
    assert!(error.to_string().contains("could not be written"), "{error}");
    assert_eq!(engine.health(), Health::Closed);
    assert_eq!(session.put("n", &3).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(session.get::<i64>("n").unwrap(), Some(2));
    assert_eq!(n(&reopen(&rows), &token), Some(1));
}

/// Waiting for a writer that is gone must end.
#[test]
fn nothing_waits_for_a_closed_engine() {
    let (engine, _, _, _) = open(Engine::builder());
    let token = fresh(&engine, 1);
    let other = fresh(&engine, 2);
    let session = begin(&engine, Some(&token));
    close(&engine).unwrap();
    session.destroy().unwrap();
    let asks = session.clone();
    let bound = Duration::from_secs(5);
    let committed = try_within(bound, move || block_on(asks.commit()).is_ok());
    let asks = engine.clone();
    let flushed = try_within(bound, move || block_on(asks.flush()).is_ok());
    let asks = engine.clone();
    let revoked = try_within(bound, move || block_on(asks.destroy_session(&other.id())).is_ok());
    assert_eq!(
        (committed, flushed, revoked),
        (Some(false), Some(false), Some(false)),
        "commit, flush, revoke (None: hangs)"
    );
}

#[test]
fn an_io_error_makes_the_engine_read_only() {
    let (engine, handle, events, rows) = open(Engine::builder());
    let token = fresh(&engine, 1);
    let doomed = fresh(&engine, 5);
    flush(&engine).unwrap();
    handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Io);
    let session = begin(&engine, Some(&token));
    session.put("n", &2).unwrap();
    flush(&engine).unwrap_err();
    soon("health says so", || matches!(engine.health(), Health::ReadOnly { .. }));
    assert!(engine.health().to_string().contains("memory"), "names the store");
    soon("it is told", || events.store() == "-");

    assert_eq!(n(&engine, &token), Some(2), "memory is served");
    for result in [
        session.put("n", &3),
        session.update("n", |_: Option<i64>| 3).map(drop),
        session.remove("n").map(drop),
        session.pop::<i64>("n").map(drop),
        session.clear(),
        session.set_owner(Some("x")),
        session.renew(),
        begin(&engine, None).put("n", &3),
    ] {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    assert_eq!(n(&engine, &token), Some(2));
    // Logging out works in memory, and says that it may not last.
    let session = begin(&engine, Some(&doomed));
    session.destroy().unwrap();
    assert!(commit(&session).is_err());
    assert_eq!(n(&engine, &doomed), None);
    let asks = begin(&engine, Some(&token));
    assert!(within("sync", move || block_on(asks.sync())).is_err());
    let error = close(&engine).unwrap_err();
    assert!(error.to_string().contains("could not be written"), "{error}");
    assert_eq!(n(&reopen(&rows), &token), Some(1));
    assert_eq!(events.store(), "-");
}

/// `StoreErrorKind::Io`: "nothing is written to it any more until it has been reopened and checked".
#[test]
fn nothing_is_written_after_an_io_error() {
    let (engine, handle, _, _) = open(Engine::builder());
    let token = fresh(&engine, 1);
    flush(&engine).unwrap();
    handle.fail_next(FaultOp::Commit, 1, StoreErrorKind::Io);
    begin(&engine, Some(&token)).put("n", &2).unwrap();
    flush(&engine).unwrap_err();
    soon("health says so", || matches!(engine.health(), Health::ReadOnly { .. }));
    let calls = handle.calls(FaultOp::Commit);
    let closed = close(&engine);
    assert_eq!(handle.calls(FaultOp::Commit), calls, "the store is left alone");
    assert!(closed.is_err(), "and closing says that a change is missing");
}

#[test]
fn a_failing_load_is_an_error_and_never_an_empty_session() {
    let rows = MemoryStore::new();
    let (engine, _, _) = open_over(Engine::builder(), &rows);
    let token = fresh(&engine, 1);
    close(&engine).unwrap();
    let (engine, handle, _) = open_over(Engine::builder(), &rows);
    for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Full] {
        handle.fail_next(FaultOp::Load, 2, kind);
        for _ in 0..2 {
            let error = block_on(engine.session(Some(&token))).unwrap_err();
            assert_store_failed(&error, "memory");
            assert_eq!(error.store_error().unwrap().kind(), kind);
        }
    }
    handle.fail_next(FaultOp::Load, 1, StoreErrorKind::Io);
    assert!(block_on(engine.session(Some(&token))).is_err());
    handle.heal();
    assert_eq!(n(&engine, &token), Some(1));
    // A cached session needs no store.
    handle.fail_next(FaultOp::Load, ALWAYS, StoreErrorKind::Unavailable);
    assert_eq!(n(&engine, &token), Some(1));
    begin(&engine, None).put("n", &1).unwrap();
}

#[test]
fn a_damaged_row_is_quarantined_and_nothing_else_suffers() {
    let rows = MemoryStore::new();
    let (engine, _, _) = open_over(Engine::builder(), &rows);
    let good = fresh(&engine, 1);
    close(&engine).unwrap();
    let good_row = block_on(rows.load(&good.id())).unwrap().unwrap();
    let damaged: Vec<(Token, Row)> = [
        b"garbage".to_vec(),
        Vec::new(),
        vec![0; 4096],
        good_row.bytes.clone(), // another session's record
        good_row.bytes[..good_row.bytes.len() - 1].to_vec(),
    ]
    .into_iter()
    .map(|bytes| (Token::generate().unwrap(), Row { bytes, ..good_row.clone() }))
    .collect();
    let inserts: Vec<Change> =
        damaged.iter().map(|(t, row)| Change::Insert { id: t.id(), row: row.clone() }).collect();
    assert!(block_on(rows.commit(1, &inserts)).unwrap().iter().all(|o| *o == Outcome::Done));

    let (engine, _, events) = open_over(Engine::builder(), &rows);
    let mut made = Vec::new();
    for (token, _) in &damaged {
        let session = begin(&engine, Some(token));
        assert_eq!(session.id(), None);
        assert!(session.keys().is_empty());
        session.put("n", &7).unwrap();
        let new = token_of(commit(&session).unwrap());
        assert_ne!(new.id(), token.id());
        made.push(new);
    }
    assert_eq!(n(&engine, &good), Some(1));
    settle(&engine);
    for (token, _) in &damaged {
        assert_eq!(block_on(rows.load(&token.id())).unwrap(), None);
        assert_eq!(begin(&engine, Some(token)).id(), None);
        let told = events.of(|e| matches!(e, Event::Quarantined { id, .. } if *id == token.id()));
        assert_eq!(told.len(), 1);
    }
    let stats = block_on(engine.stats());
    assert_eq!((stats.quarantined, stats.stored), (5, Some(6)));
    close(&engine).unwrap();
    let engine = reopen(&rows);
    assert_eq!(n(&engine, &good), Some(1));
    assert!(made.iter().all(|t| n(&engine, t) == Some(7)));
}

#[test]
fn expired_rows_that_are_only_on_disk_are_removed() {
    let rows = MemoryStore::new();
    let clock = ManualClock::new(START_MS);
    let lifetime = Duration::from_secs(600);
    let builder = || Engine::builder().clock(clock.clone()).lifetime(lifetime);
    let (engine, _, _) = open_over(builder(), &rows);
    let tokens: Vec<Token> = (0..20).map(|i| fresh(&engine, i)).collect();
    close(&engine).unwrap();
    drop(engine);
    clock.advance(Duration::from_secs(300));

    let (engine, handle, events) = open_over(builder(), &rows);
    let young = fresh(&engine, 77);
    settle(&engine);
    assert_eq!(rows.len(), 21);
    handle.fail_next(FaultOp::Expire, 1, StoreErrorKind::Unavailable);
    clock.advance(Duration::from_secs(300 + 60 + 10));
    soon("the sweep removes them", || {
        let stats = block_on(engine.stats());
        stats.expired_rows == 20 && stats.stored == Some(1)
    });
    assert_eq!(ids(&rows), [young.id()]);
    assert_eq!(n(&engine, &young), Some(77));
    assert!(tokens.iter().all(|t| n(&engine, t).is_none()));
    assert_eq!(engine.health(), Health::Ok);
    assert_eq!(events.store(), "", "a sweep that will be repeated is no outage");
}
