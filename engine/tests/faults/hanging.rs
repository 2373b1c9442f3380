//! Commits that hang, futures that are dropped, answers that are lost.

use std::sync::{Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::fault::FaultOp;
use sessile_engine::store::{Capabilities, Change, Expired, Listed, MemoryStore, Outcome, Row, Store};
use sessile_engine::{
    Builder, Delivery, Engine, Event, Merged, Result, SessionId, StoreError, StoreErrorKind, Token,
};

use crate::support::*;

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

#[test]
fn a_merge_waits_for_a_renewal_that_another_request_has_to_carry_out() {
    let (engine, handle, _, _) = open(Engine::builder());
    let theirs = fresh(&engine, 1);
    flush(&engine).unwrap();
    let _ = handle.take_committed();
    let renewing = begin(&engine, Some(&theirs));
    renewing.renew().unwrap();
    handle.hang(FaultOp::Commit);
    let mut cx = Context::from_waker(Waker::noop());
    let mut renewal = Box::pin(renewing.commit());
    assert!(renewal.as_mut().poll(&mut cx).is_pending());
    soon("the writer hangs", || handle.waiting() == 1);
    handle.release();
    let rekeyed = |c: &Vec<Change>| c.iter().any(|c| matches!(c, Change::Rekey { .. }));
    soon("it is re-keyed", || handle.committed().iter().any(rekeyed));
    // Nothing is left to be written; the swap is the renewing request's to make.
    let session = begin(&engine, None);
    let mut merging = Box::pin(session.merge(&theirs));
    for _ in 0..8 {
        assert!(merging.as_mut().poll(&mut cx).is_pending(), "it lets the other request run");
    }
    assert!(matches!(block_on(renewal).unwrap(), Delivery::Issue(_)));
    assert_eq!(block_on(merging).unwrap(), Merged::Absent, "the old token is dead");
}

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
        let _ = poll_and_drop(engine.destroy_session(&tokens[i].id()), k);
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
