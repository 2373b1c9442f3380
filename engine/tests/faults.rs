//! What the engine does when its store fails, hangs or holds damaged rows, seen from outside. No test's outcome
//! depends on how long something takes: whatever is waited for has a bound that only a hang exceeds.
#![cfg(all(feature = "conformance", feature = "redb"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::pin::pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use pollster::block_on;
use sessile_engine::clock::ManualClock;
use sessile_engine::store::fault::{FaultHandle, FaultOp, FaultStore};
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, MemoryStore, Outcome, RedbStore, Row, Store,
};
use sessile_engine::{
    Builder, Delivery, Durability, Engine, Error, ErrorKind, Event, Health, Result, Session, SessionId,
    StoreError, StoreErrorKind, Token,
};

const START_MS: u64 = 1_800_000_000_000;
const ALWAYS: u64 = u64::MAX;
/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(30);

// ---- helpers ----

#[expect(clippy::disallowed_methods, reason = "a bound in real time on what must not hang")]
fn real_now() -> Instant {
    Instant::now()
}

fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = real_now();
    while !holds() {
        assert!(real_now().duration_since(start) < BOUND, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `f` on a thread of its own; `None` if it hangs.
fn try_within<T: Send + 'static>(bound: Duration, f: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || tx.send(f()));
    rx.recv_timeout(bound).ok()
}

fn within<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    try_within(BOUND, f).unwrap_or_else(|| panic!("it hangs or panicked: {what}"))
}

/// Polls `future` up to `times` and drops it.
fn poll_and_drop<F: Future>(future: F, times: u32) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..times {
        if let Poll::Ready(out) = future.as_mut().poll(&mut cx) {
            return Some(out);
        }
    }
    None
}

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn commit(session: &Session) -> Result<Delivery> {
    let session = session.clone();
    within("a commit", move || block_on(session.commit()))
}

fn token_of(delivery: Delivery) -> Token {
    match delivery {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

/// A published session with `n`.
fn fresh(engine: &Engine, n: i64) -> Token {
    let session = begin(engine, None);
    session.put("n", &n).unwrap();
    token_of(commit(&session).unwrap())
}

fn n(engine: &Engine, token: &Token) -> Option<i64> {
    begin(engine, Some(token)).get("n").unwrap()
}

fn flush(engine: &Engine) -> Result<()> {
    let engine = engine.clone();
    within("a flush", move || block_on(engine.flush()))
}

fn close(engine: &Engine) -> Result<()> {
    let engine = engine.clone();
    within("closing", move || block_on(engine.close()))
}

/// Waits until a healed store has everything.
fn settle(engine: &Engine) {
    soon("the healed store gets everything", || flush(engine).is_ok());
}

/// The ids in the store.
fn ids(rows: &MemoryStore) -> Vec<SessionId> {
    block_on(rows.list(None, usize::MAX)).unwrap().into_iter().map(|l| l.id).collect()
}

fn assert_store_failed(error: &Error, store: &str) {
    assert_eq!(error.kind(), ErrorKind::Store);
    assert_eq!(error.store_error().unwrap().store(), store);
    let source = std::error::Error::source(error).unwrap().to_string();
    assert!(source.contains(store), "names the store: {source}");
}

#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Event>>>);

impl Events {
    fn of(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.0.lock().unwrap().iter().filter(|e| wanted(e)).cloned().collect()
    }

    /// `-` for a store that went down, `+` for one that came up.
    fn store(&self) -> String {
        let of = |e: &Event| match e {
            Event::StoreDown { .. } => Some('-'),
            Event::StoreUp => Some('+'),
            _ => None,
        };
        self.0.lock().unwrap().iter().filter_map(of).collect()
    }
}

/// An engine over `rows` behind a store that fails on demand.
fn open_over(builder: Builder, rows: &MemoryStore) -> (Engine, FaultHandle, Events) {
    let store = FaultStore::new(rows.clone());
    let handle = store.handle();
    let events = Events::default();
    let seen = events.clone();
    let observer = move |e: &Event| seen.0.lock().unwrap().push(e.clone());
    (builder.observer(observer).open(store).unwrap(), handle, events)
}

fn open(builder: Builder) -> (Engine, FaultHandle, Events, MemoryStore) {
    let rows = MemoryStore::new();
    let (engine, handle, events) = open_over(builder, &rows);
    (engine, handle, events, rows)
}

fn power_loss() -> Builder {
    Engine::builder().durability(Durability::PowerLoss)
}

/// What a restart finds.
fn reopen(rows: &MemoryStore) -> Engine {
    Engine::builder().open(rows.clone()).unwrap()
}

// ---- temporary failures ----

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
    soon("health says so", || matches!(engine.health(), Health::Degraded { .. }));
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
        assert_store_failed(&within("revoke", move || block_on(asks.revoke(&id))).unwrap_err(), "memory");
        assert_eq!((n(&engine, &token), n(&engine, &by_id)), (None, None));
        assert_eq!(ids(&rows).len(), 2, "the rows are still there, and do not bring them back");
        handle.heal();
        settle(&engine);
        assert_eq!(ids(&rows), []);
        assert_eq!((n(&engine, &token), n(&engine, &by_id)), (None, None));
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
    let revoked = try_within(bound, move || block_on(asks.revoke(&other.id())).is_ok());
    assert_eq!(
        (committed, flushed, revoked),
        (Some(false), Some(false), Some(false)),
        "commit, flush, revoke (None: hangs)"
    );
}

// ---- errors that are there to stay ----

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

// ---- damaged rows ----

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

// ---- hanging ----

#[test]
fn puts_go_on_while_a_commit_hangs() {
    let (engine, handle, _, rows) = open(Engine::builder());
    let token = fresh(&engine, 0);
    flush(&engine).unwrap();
    handle.hang(FaultOp::Commit);
    begin(&engine, Some(&token)).put("n", &1).unwrap();
    soon("the writer hangs", || handle.waiting() == 1);
    let tokens: Vec<Token> = (0..100).map(|i| fresh(&engine, i)).collect();
    for i in 0..1000 {
        begin(&engine, Some(&token)).put("n", &i).unwrap();
    }
    assert_eq!(handle.waiting(), 1, "all of it while the commit hung");
    handle.release();
    flush(&engine).unwrap();
    close(&engine).unwrap();
    let engine = reopen(&rows);
    assert_eq!(n(&engine, &token), Some(999));
    assert!((0..).zip(&tokens).all(|(i, t)| n(&engine, t) == Some(i)));
}

#[test]
fn p4_a_renewal_can_be_dropped_at_any_time() {
    // Whether the writer has the renewal, and whether the future has seen that it is stored.
    for (hang_before, released) in [(true, false), (true, true), (false, false)] {
        let (engine, handle, _, rows) = open(Engine::builder());
        let old = fresh(&engine, 1);
        flush(&engine).unwrap();
        let _ = handle.take_committed();
        let session = begin(&engine, Some(&old));
        session.renew().unwrap();
        if !hang_before {
            // The writer is busy with something else: the renewal stays in the queue.
            handle.hang(FaultOp::Commit);
            fresh(&engine, 2);
            soon("the writer hangs", || handle.waiting() == 1);
        } else {
            handle.hang(FaultOp::Commit);
        }
        let mut future = Box::pin(session.commit());
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        soon("the writer hangs", || handle.waiting() == 1);
        begin(&engine, Some(&old)).put("n", &3).unwrap();
        if released {
            handle.release();
            let rekeyed = |c: &Vec<Change>| c.iter().any(|c| matches!(c, Change::Rekey { .. }));
            soon("it is re-keyed", || handle.committed().iter().any(rekeyed));
        }
        assert_eq!(n(&engine, &old), Some(3));
        drop(future);
        assert_eq!(n(&engine, &old), Some(3));
        handle.release();
        let rest = usize::from(!hang_before);
        soon("only the old row is left", || {
            flush(&engine).is_ok() && ids(&rows).contains(&old.id()) && ids(&rows).len() == 1 + rest
        });
        assert_eq!(n(&engine, &old), Some(3));
        begin(&engine, Some(&old)).put("n", &4).unwrap();
        close(&engine).unwrap();
        assert_eq!(n(&reopen(&rows), &old), Some(4));
        assert_eq!(ids(&rows).len(), 1 + rest);
    }
}

#[test]
fn a_dropped_commit_of_a_new_session_leaves_none() {
    let (engine, handle, events, rows) = open(power_loss());
    handle.hang(FaultOp::Commit);
    let session = begin(&engine, None);
    session.put("n", &1).unwrap();
    let mut future = Box::pin(session.commit());
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    soon("the writer hangs", || handle.waiting() == 1);
    drop(future);
    assert!(session.is_revoked());
    handle.release();
    settle(&engine);
    assert_eq!(ids(&rows), []);
    let stats = block_on(engine.stats());
    assert_eq!((stats.cached, stats.memory_bytes, stats.stored, stats.dirty), (0, 0, Some(0), 0));
    assert_eq!(events.of(|e| matches!(e, Event::Revoked { .. })).len(), 1);
}

#[test]
fn a_commit_that_was_never_polled_leaves_no_session() {
    for builder in [Engine::builder(), power_loss()] {
        let (engine, _, _, rows) = open(builder);
        let session = begin(&engine, None);
        session.put("n", &1).unwrap();
        drop(session.commit());
        drop(session);
        flush(&engine).unwrap();
        assert_eq!((block_on(engine.stats()).cached, rows.len()), (0, 0));
    }
}

#[test]
fn new_sessions_wait_for_room_and_none_is_lost() {
    let limit = 16 << 10;
    let (engine, handle, _, rows) = open(Engine::builder().max_record_bytes(2048).memory_limit(limit));
    handle.hang(FaultOp::Commit);
    let mut tokens = Vec::new();
    let mut waiting = Vec::new();
    for i in 0..100_i64 {
        let session = begin(&engine, None);
        session.put("n", &i).unwrap();
        session.put("fill", &"x".repeat(1000)).unwrap();
        let mut future = Box::pin(session.commit());
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => tokens.push((i, token_of(done.unwrap()))),
            Poll::Pending => waiting.push((i, future)),
        }
    }
    assert!(waiting.len() > 50, "only {} waited", waiting.len());
    assert!(block_on(engine.stats()).memory_bytes < 2 * limit as u64);
    // One that is given up is not left behind.
    drop(waiting.pop());
    handle.release();
    for (i, future) in waiting {
        let done = within("room", move || block_on(future)).unwrap();
        tokens.push((i, token_of(done)));
    }
    flush(&engine).unwrap();
    assert_eq!(tokens.len(), 99);
    assert!(tokens.iter().all(|(i, t)| n(&engine, t) == Some(*i)));
    let stats = block_on(engine.stats());
    assert_eq!((stats.created, stats.stored), (99, Some(99)));
    assert!(stats.evicted > 0);
    close(&engine).unwrap();
    let engine = reopen(&rows);
    assert!(tokens.iter().all(|(i, t)| n(&engine, t) == Some(*i)));
}

#[test]
fn waiting_for_room_ends_with_an_error_if_the_store_fails() {
    let (engine, handle, _, rows) = open(Engine::builder().max_record_bytes(2048).memory_limit(8 << 10));
    handle.fail_next(FaultOp::Commit, ALWAYS, StoreErrorKind::Unavailable);
    let mut made = 0;
    let error = loop {
        let session = begin(&engine, None);
        session.put("fill", &"x".repeat(1000)).unwrap();
        match commit(&session) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 100, "the memory limit is not kept");
    };
    assert_store_failed(&error, "memory");
    handle.heal();
    settle(&engine);
    assert_eq!(ids(&rows).len(), made);
    fresh(&engine, 1);
}

/// A renewal that is stored but whose future is not polled, as when `close` blocks the only thread, must not
/// keep the engine from closing.
#[test]
fn closing_does_not_wait_for_a_renewal_that_nobody_polls() {
    let (engine, handle, _, rows) = open(Engine::builder());
    let old = fresh(&engine, 1);
    flush(&engine).unwrap();
    let session = begin(&engine, Some(&old));
    session.renew().unwrap();
    // Held up until the future has been polled: a fast writer could answer within the very first poll.
    handle.hang(FaultOp::Commit);
    let mut future = Box::pin(session.commit());
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    handle.release();
    let rekeyed = |c: &Vec<Change>| c.iter().any(|c| matches!(c, Change::Rekey { .. }));
    soon("it is re-keyed", || handle.committed().iter().any(rekeyed));
    begin(&engine, Some(&old)).put("n", &2).unwrap();
    let asks = engine.clone();
    let closed = try_within(Duration::from_secs(10), move || block_on(asks.close()).is_ok());
    drop(future);
    assert!(closed.is_some(), "close() hangs");
    assert_eq!(ids(&rows).len(), 1);
}

// ---- durability ----

/// A store whose every commit reports that it was called and waits for its order.
struct Ordered {
    rows: MemoryStore,
    entered: Mutex<mpsc::Sender<()>>,
    orders: Mutex<mpsc::Receiver<bool>>,
}

impl Store for Ordered {
    fn name(&self) -> &'static str {
        "ordered"
    }
    fn capabilities(&self) -> Capabilities {
        self.rows.capabilities()
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        self.rows.high_water().await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        self.rows.load(id).await
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        let _ = self.entered.lock().unwrap().send(());
        let answered = self.orders.lock().unwrap().recv().unwrap_or(true);
        let outcomes = self.rows.commit(now, changes).await?;
        if answered {
            return Ok(outcomes);
        }
        Err(StoreError::new(StoreErrorKind::Unavailable, "ordered", "the answer was lost"))
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.rows.expire(now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.rows.list(after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.rows.list_owner(owner).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.rows.count().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.rows.close().await
    }
}

/// A write that met a row it did not expect is written anew; until then nobody may be told that it is stored,
/// not even if the session has been changed again in the meantime.
#[test]
fn sync_waits_for_a_write_that_must_be_repeated() {
    let (entered, has_entered) = mpsc::channel();
    let (order, orders) = mpsc::channel();
    let rows = MemoryStore::new();
    let store = Ordered { rows: rows.clone(), entered: Mutex::new(entered), orders: Mutex::new(orders) };
    let engine = Engine::builder().open(store).unwrap();
    let next = || has_entered.recv_timeout(BOUND).unwrap();
    order.send(true).unwrap();
    let token = fresh(&engine, 0);
    flush(&engine).unwrap();
    next();

    let session = begin(&engine, Some(&token));
    session.put("n", &1).unwrap();
    next();
    session.put("n", &2).unwrap();
    let mut sync = Box::pin(session.sync());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(sync.as_mut().poll(&mut cx).is_pending());
    order.send(false).unwrap(); // 1 is stored, and nobody knows
    next(); // the writer has 2, which will not find the row as it should be
    session.put("n", &3).unwrap();
    order.send(true).unwrap();
    next(); // that commit is settled, and 2 was not stored by it
    let told = sync.as_mut().poll(&mut cx);
    let stored = block_on(rows.load(&token.id())).unwrap().unwrap().version;
    for _ in 0..8 {
        order.send(true).unwrap();
    }
    assert!(told.is_pending(), "sync() is done ({told:?}), but the store still has version {stored}");
    assert!(
        within("sync", {
            let session = session.clone();
            move || block_on(session.sync())
        })
        .is_ok()
    );
    drop(sync);
    close(&engine).unwrap();
    assert_eq!(n(&reopen(&rows), &token), Some(3));
}

// ---- dropped futures ----

/// Polls every future the engine gives out `k` times, drops it, and checks all sessions against a model.
fn drop_everything(builder: Builder, k: u32, hang: bool) {
    let rows = MemoryStore::new();
    let (engine, _, _) = open_over(Engine::builder(), &rows);
    let tokens: Vec<Token> = (0..6).map(|i| fresh(&engine, i)).collect();
    close(&engine).unwrap();
    drop(engine);

    let (engine, handle, _) = open_over(builder, &rows);
    let mut live: Vec<(Token, i64)> = tokens.iter().cloned().zip(0..).collect();
    let mut dead = Vec::new();
    if hang {
        handle.hang(FaultOp::Load);
    }
    // session(): a load.
    let _ = poll_and_drop(engine.session(Some(&tokens[0])), k);
    assert_eq!(handle.waiting(), 0);
    handle.release();
    if hang {
        handle.hang(FaultOp::Commit);
    }
    // commit() of a write; the write stands.
    let session = begin(&engine, Some(&tokens[1]));
    session.put("n", &100).unwrap();
    live[1].1 = 100;
    let _ = poll_and_drop(session.commit(), k);
    // commit() of a renewal: it happened or it did not.
    let session = begin(&engine, Some(&tokens[2]));
    session.renew().unwrap();
    if let Some(done) = poll_and_drop(session.commit(), k) {
        live[2].0 = token_of(done.unwrap());
        dead.push(tokens[2].clone());
    }
    // commit() of a new session.
    let session = begin(&engine, None);
    session.put("n", &7).unwrap();
    let told = poll_and_drop(session.commit(), k);
    if let Some(done) = told {
        live.push((token_of(done.unwrap()), 7));
    }
    // A commit that waits for nothing publishes when it is called, not when it is polled;
    // `a_commit_that_was_never_polled_leaves_no_session` is about that.
    let untold = usize::from(k == 0 && !session.is_new());
    let _ = poll_and_drop(begin(&engine, Some(&tokens[1])).sync(), k);
    let _ = poll_and_drop(engine.flush(), k);
    let _ = poll_and_drop(engine.stats(), k);
    // commit() of a destruction; it stands.
    let session = begin(&engine, Some(&tokens[3]));
    session.destroy().unwrap();
    let _ = poll_and_drop(session.commit(), k);
    dead.push(tokens[3].clone());
    // revoke(), from the first poll on, cached or not.
    let _ = begin(&engine, Some(&tokens[4]));
    for i in [4, 5] {
        let _ = poll_and_drop(engine.revoke(&tokens[i].id()), k);
        if k > 0 {
            dead.push(tokens[i].clone());
        }
    }
    live.retain(|(t, _)| !dead.iter().any(|d| d.id() == t.id()));

    let check = |engine: &Engine| {
        for (token, value) in &live {
            assert_eq!(n(engine, token), Some(*value), "k = {k}, hang = {hang}");
        }
        for token in &dead {
            assert_eq!(n(engine, token), None, "k = {k}, hang = {hang}");
        }
    };
    check(&engine);
    drop(session);
    handle.release();
    let count = live.len() + untold;
    soon("rows and sessions agree", || {
        flush(&engine).is_ok() && {
            let s = block_on(engine.stats());
            s.stored == Some(count as u64) && s.dirty == 0 && s.cached <= count as u64
        }
    });
    check(&engine);
    close(&engine).unwrap();
    drop(engine);
    assert_eq!(ids(&rows).len(), count);
    check(&reopen(&rows));
}

#[test]
fn dropped_futures_leave_a_sound_state() {
    for k in 0..=3 {
        for hang in [false, true] {
            drop_everything(Engine::builder(), k, hang);
            drop_everything(power_loss(), k, hang);
        }
    }
}

// ---- expired rows ----

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
