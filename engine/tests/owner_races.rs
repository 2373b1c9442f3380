//! What happens to a session between the moments at which listing and ending by owner look at memory and at the
//! store, one interleaving at a time.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pollster::block_on;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, MemoryStore, Outcome, Row, Store, StoreError,
};
use sessile_engine::{Commit, Delivery, Engine, Session, SessionId, Token};

/// A store whose `list_owner` stops before and after it reads, as often as the test says, and whose commits can be held.
struct Stopping {
    rows: MemoryStore,
    gate: Gate,
}

#[derive(Clone, Default)]
struct Gate(Arc<Mutex<(bool, u32)>>, Arc<Mutex<()>>);

impl Gate {
    /// From now on listings stop.
    fn shut(&self) {
        *self.0.lock().unwrap() = (true, 0);
    }

    /// Lets the listing go past one stop.
    fn one(&self) {
        self.0.lock().unwrap().1 += 1;
    }

    async fn stop(&self) {
        poll_fn(|_| {
            let mut state = self.0.lock().unwrap();
            match *state {
                (true, 0) => Poll::Pending,
                (true, _) => {
                    state.1 -= 1;
                    Poll::Ready(())
                }
                (false, _) => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl Store for Stopping {
    fn name(&self) -> &'static str {
        "stopping"
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
        drop(self.gate.1.lock().unwrap());
        self.rows.commit(now, changes).await
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.rows.expire(now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.rows.list(after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.gate.stop().await;
        let rows = self.rows.list_owner(owner).await;
        self.gate.stop().await;
        rows
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.rows.count().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.rows.close().await
    }
}

fn begin(engine: &Engine, token: Option<&Token>) -> Session {
    block_on(engine.session(token)).unwrap()
}

fn issued(session: &Session) -> Token {
    match block_on(session.commit()).unwrap() {
        Delivery::Issue(issue) => issue.token,
        other => panic!("expected a token, got {other:?}"),
    }
}

fn alive(engine: &Engine, token: &Token) -> bool {
    begin(engine, Some(token)).id().is_some()
}

fn of(engine: &Engine, owner: &str) -> Vec<SessionId> {
    block_on(engine.sessions_of(owner)).unwrap().into_iter().map(|s| s.id).collect()
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// A session of "a" that is stored and not cached, in an engine whose listings stop.
fn on_disk() -> (Engine, Gate, MemoryStore, Token) {
    let (rows, gate) = (MemoryStore::default(), Gate::default());
    let before = Engine::builder().open(rows.clone()).unwrap();
    let session = begin(&before, None);
    session.set_owner(Some("a")).unwrap();
    let token = issued(&session);
    block_on(before.close()).unwrap();
    let store = Stopping { rows: rows.clone(), gate: gate.clone() };
    let engine = Engine::builder().max_record_bytes(1024).memory_limit(1024).open(store).unwrap();
    (engine, gate, rows, token)
}

/// Renews the session up to the moment at which the store has re-keyed it and memory has not swapped it.
fn half_renewed(session: &Session, gate: &Gate, rows: &MemoryStore) -> Pin<Box<Commit>> {
    let id = session.id().unwrap();
    session.renew().unwrap();
    let mut commit = Box::pin(session.commit());
    let held = gate.1.lock().unwrap();
    assert!(poll(&mut commit).is_pending());
    drop(held);
    while block_on(rows.load(&id)).unwrap().is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    commit
}

/// Brings other sessions in until this one is evicted.
fn evict(engine: &Engine) {
    let evicted = |n: u64| block_on(engine.stats()).evicted > n;
    let n = block_on(engine.stats()).evicted;
    while !evicted(n) {
        block_on(engine.flush()).unwrap();
        let session = begin(engine, None);
        session.put("n", &0).unwrap();
        issued(&session);
    }
}

#[test]
fn a_renewal_that_is_stored_but_not_delivered_is_one_session() {
    let (engine, gate, rows, token) = on_disk();
    let session = begin(&engine, Some(&token));
    let commit = half_renewed(&session, &gate, &rows);
    assert_eq!(of(&engine, "a"), [token.id()], "under its old id, once");
    let page = block_on(engine.iterate(None, 10)).unwrap();
    assert_eq!(page.sessions.iter().map(|(info, _)| info.id).collect::<Vec<_>>(), [token.id()]);
    let new = block_on(rows.list(None, 10)).unwrap()[0].id;
    assert_ne!(new, token.id());
    assert!(block_on(engine.open(&new)).unwrap().is_none(), "nobody has its new token yet");

    // Ending it deletes the row under either id, although nobody goes on with the renewal.
    assert_eq!(block_on(engine.destroy_all("a", None)).unwrap(), 1);
    assert_eq!(rows.len(), 0);
    drop(commit);
    block_on(engine.flush()).unwrap();
    assert_eq!((rows.len(), alive(&engine, &token)), (0, false));
}

#[test]
fn a_session_that_is_renewed_after_its_row_was_read_is_followed() {
    for end in [false, true] {
        let (engine, gate, rows, token) = on_disk();
        gate.shut();
        let caller = engine.clone();
        let mut call = Box::pin(async move {
            if end { caller.destroy_all("a", None).await } else { Ok(of_now(&caller, "a").await.len()) }
        });
        gate.one();
        assert!(poll(&mut call).is_pending(), "the row has been read");
        let session = begin(&engine, Some(&token));
        session.renew().unwrap();
        let new = issued(&session);
        drop(session);
        gate.one();
        assert_eq!(block_on(call).unwrap(), 1);
        assert_eq!(alive(&engine, &new), !end);
        assert_eq!(rows.len(), usize::from(!end));
    }
}

async fn of_now(engine: &Engine, owner: &str) -> Vec<SessionId> {
    engine.sessions_of(owner).await.unwrap().into_iter().map(|s| s.id).collect()
}

#[test]
fn a_row_that_was_read_is_not_believed_after_the_session_was_given_away_and_evicted() {
    for end in [false, true] {
        let (engine, gate, rows, token) = on_disk();
        gate.shut();
        let caller = engine.clone();
        let mut call = Box::pin(async move {
            if end { caller.destroy_all("a", None).await } else { Ok(of_now(&caller, "a").await.len()) }
        });
        gate.one();
        assert!(poll(&mut call).is_pending(), "the row has been read");
        begin(&engine, Some(&token)).set_owner(Some("b")).unwrap();
        block_on(engine.flush()).unwrap();
        evict(&engine);
        gate.one();
        assert_eq!(block_on(call).unwrap(), 0, "it is somebody else's");
        assert!(alive(&engine, &token));
        assert!(block_on(rows.load(&token.id())).unwrap().is_some());
    }
}

#[test]
fn a_renewal_that_is_undone_while_its_row_is_read_hides_nothing() {
    for end in [false, true] {
        let (engine, gate, rows, token) = on_disk();
        gate.shut();
        let caller = engine.clone();
        let mut call = Box::pin(async move {
            if end {
                caller.destroy_all("a", None).await.map(|n| vec![n; n])
            } else {
                Ok(of_now(&caller, "a").await.into_iter().map(|id| usize::from(id.as_bytes()[0])).collect())
            }
        });
        assert!(poll(&mut call).is_pending(), "memory has been asked: nothing is cached");
        let session = begin(&engine, Some(&token));
        let commit = half_renewed(&session, &gate, &rows);
        gate.one();
        assert!(poll(&mut call).is_pending(), "the row was read under the new id");
        drop(commit);
        block_on(engine.flush()).unwrap();
        assert!(block_on(rows.load(&token.id())).unwrap().is_some(), "it is under the old one again");
        // As many stops as another try may need.
        (0..3).for_each(|_| gate.one());
        let found = block_on(call).unwrap();
        if end {
            assert_eq!(found.len(), 1);
            assert!(!alive(&engine, &token));
            block_on(engine.flush()).unwrap();
            assert_eq!(rows.len(), 0);
        } else {
            assert_eq!(found, [usize::from(token.id().as_bytes()[0])]);
        }
    }
}
