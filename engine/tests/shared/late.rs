//! A session whose row is away and home again while a read of it is on its way.

use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pollster::block_on;
use sessile_engine::SessionId;
use sessile_engine::store::fault::{FaultOp, FaultStore};
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, MemoryStore, Outcome, Row, Store, StoreError,
};

use crate::support::{begin, fresh, get, soon, strict};

/// Answers the read it is told to with what it saw when it was asked, when it is told to; the second move of a row waits
/// until that read has seen the row gone.
#[derive(Default)]
struct Order {
    moves: AtomicUsize,
    armed: AtomicBool,
    seen: AtomicBool,
    answer: AtomicBool,
}

struct Late(MemoryStore, Arc<Order>);

impl Store for Late {
    fn name(&self) -> &'static str {
        "late"
    }
    fn capabilities(&self) -> Capabilities {
        let mut can = self.0.capabilities();
        can.exclusive = false;
        can.watch = false;
        can
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        self.0.high_water().await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let row = self.0.load(id).await;
        if self.1.armed.swap(false, Ordering::SeqCst) {
            assert!(matches!(row, Ok(None)), "the row is away");
            self.1.seen.store(true, Ordering::SeqCst);
            soon("the answer is let go", || self.1.answer.load(Ordering::SeqCst));
        }
        row
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        let moves = changes.iter().any(|change| matches!(change, Change::Rekey { .. }));
        if moves && self.1.moves.load(Ordering::SeqCst) == 1 {
            soon("the read has seen the row gone", || self.1.seen.load(Ordering::SeqCst));
        }
        let outcomes = self.0.commit(now, changes).await;
        self.1.moves.fetch_add(usize::from(moves), Ordering::SeqCst);
        outcomes
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.0.expire(now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.0.list(after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.0.list_owner(owner).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.0.count().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}

#[test]
fn a_read_that_fell_between_a_renewal_and_its_undoing_ends_nothing() {
    let (rows, order) = (MemoryStore::new(), Arc::new(Order::default()));
    let store = FaultStore::new(Late(rows.clone(), order.clone()));
    let orders = store.handle();
    let engine = strict().open(store).unwrap();
    let token = fresh(&engine);
    let renewing = begin(&engine, &token);
    renewing.renew().unwrap();
    orders.hang(FaultOp::Commit);
    let mut response = Box::pin(renewing.commit());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(response.as_mut().poll(&mut cx).is_pending());
    soon("the writer is at it", || orders.waiting() > 0);
    drop(response);
    orders.release();
    soon("the row is away", || order.moves.load(Ordering::SeqCst) == 1);
    order.armed.store(true, Ordering::SeqCst);
    let reader = {
        let (engine, token) = (engine.clone(), token.clone());
        std::thread::spawn(move || get(&engine, &token, "k"))
    };
    soon("the row is home", || order.moves.load(Ordering::SeqCst) == 2);
    block_on(engine.flush()).unwrap();
    order.answer.store(true, Ordering::SeqCst);
    assert_eq!(reader.join().unwrap(), Some(0));
    assert_eq!(get(&engine, &token, "k"), Some(0), "it lives on");
    assert_eq!(rows.len(), 1);
}
