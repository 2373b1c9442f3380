//! A store that fails, hangs, counts and records on demand: for tests of what stands in front of a store. It
//! adds no behaviour of its own; without orders it is the store it wraps. Not covered by semver.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, StoreErrorKind, Watch,
};
use crate::sync::Mutex;
use crate::token::SessionId;

/// `S`, under the orders of a [`FaultHandle`].
#[derive(Debug)]
pub struct FaultStore<S> {
    inner: S,
    handle: FaultHandle,
}

/// Gives orders to a [`FaultStore`] and asks it what happened. Clones share the orders.
#[derive(Debug, Clone, Default)]
pub struct FaultHandle(Arc<Mutex<Orders>>);

/// The operations that can be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultOp {
    /// [`Store::load`].
    Load,
    /// [`Store::commit`].
    Commit,
    /// [`Store::expire`].
    Expire,
    /// [`Store::list`], [`Store::scan`] and [`Store::list_owner`].
    List,
    /// [`Store::close`].
    Close,
    /// [`Store::watch`].
    Watch,
}

const OPS: usize = 6;

#[derive(Debug, Default)]
struct Orders {
    calls: [u64; OPS],
    rules: [Option<Rule>; OPS],
    hanging: [bool; OPS],
    waiting: u64,
    wakers: Vec<Waker>,
    applied_first: bool,
    committed: Vec<Vec<Change>>,
}

/// Calls `from..to` of an operation, counted from 1, fail with `kind`.
#[derive(Debug, Clone, Copy)]
struct Rule {
    from: u64,
    to: u64,
    kind: StoreErrorKind,
}

impl FaultOp {
    fn index(self) -> usize {
        self as usize
    }
}

impl FaultHandle {
    /// Lets the next `n` calls of `op` fail with `kind`, without touching the store.
    pub fn fail_next(&self, op: FaultOp, n: u64, kind: StoreErrorKind) {
        let mut orders = self.0.lock();
        let from = orders.calls[op.index()] + 1;
        orders.rules[op.index()] = Some(Rule { from, to: from.saturating_add(n), kind });
    }

    /// Lets every call of `op` from the `k`th on (counted from 1 since the store was made) fail with `kind`.
    pub fn fail_from(&self, op: FaultOp, k: u64, kind: StoreErrorKind) {
        self.0.lock().rules[op.index()] = Some(Rule { from: k, to: u64::MAX, kind });
    }

    /// Whether a commit that is told to fail is applied all the same: the lost answer of a real store.
    pub fn apply_failing_commits(&self, yes: bool) {
        self.0.lock().applied_first = yes;
    }

    /// Takes back all failures.
    pub fn heal(&self) {
        self.0.lock().rules = [None; OPS];
    }

    /// Makes calls of `op` wait, before they do anything, until [`release`](Self::release).
    pub fn hang(&self, op: FaultOp) {
        self.0.lock().hanging[op.index()] = true;
    }

    /// Ends all hanging.
    pub fn release(&self) {
        let wakers = {
            let mut orders = self.0.lock();
            orders.hanging = [false; OPS];
            std::mem::take(&mut orders.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Number of calls that hang at this moment.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.0.lock().waiting
    }

    /// Number of calls of `op` so far, failed and hanging ones included.
    #[must_use]
    pub fn calls(&self, op: FaultOp) -> u64 {
        self.0.lock().calls[op.index()]
    }

    /// The changes of every commit that the store has applied, in order.
    #[must_use]
    pub fn committed(&self) -> Vec<Vec<Change>> {
        self.0.lock().committed.clone()
    }

    /// As [`committed`](Self::committed), and forgets them.
    #[must_use]
    pub fn take_committed(&self) -> Vec<Vec<Change>> {
        std::mem::take(&mut self.0.lock().committed)
    }

    /// Counts the call, waits while it must hang, and says whether it must fail.
    async fn enter(&self, op: FaultOp) -> Option<StoreErrorKind> {
        let rule = {
            let mut orders = self.0.lock();
            orders.calls[op.index()] += 1;
            let call = orders.calls[op.index()];
            orders.rules[op.index()].filter(|r| r.from <= call && call < r.to).map(|r| r.kind)
        };
        // Counted as waiting until the gate opens or the future is dropped.
        let mut waits = None;
        poll_fn(|cx| {
            let mut orders = self.0.lock();
            if !orders.hanging[op.index()] {
                return Poll::Ready(());
            }
            if waits.is_none() {
                orders.waiting += 1;
                waits = Some(Waiting(self));
            }
            orders.wakers.retain(|w| !w.will_wake(cx.waker()));
            orders.wakers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        rule
    }
}

struct Waiting<'a>(&'a FaultHandle);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.lock().waiting -= 1;
    }
}

impl<S: Store> FaultStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, handle: FaultHandle::default() }
    }

    /// The handle that gives this store its orders.
    #[must_use]
    pub fn handle(&self) -> FaultHandle {
        self.handle.clone()
    }

    /// The wrapped store.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    async fn enter(&self, op: FaultOp) -> Result<(), StoreError> {
        self.handle.enter(op).await.map_or(Ok(()), |kind| Err(self.fault(kind)))
    }

    fn fault(&self, kind: StoreErrorKind) -> StoreError {
        StoreError::new(kind, self.inner.name(), "an injected fault")
    }
}

impl<S: Store> Store for FaultStore<S> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.inner.high_water().await
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        self.enter(FaultOp::Load).await?;
        self.inner.load(id).await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        let fault = self.handle.enter(FaultOp::Commit).await;
        if let Some(kind) = fault
            && !self.handle.0.lock().applied_first
        {
            return Err(self.fault(kind));
        }
        let outcomes = self.inner.commit(now, changes).await?;
        self.handle.0.lock().committed.push(changes.to_vec());
        fault.map_or(Ok(outcomes), |kind| Err(self.fault(kind)))
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.enter(FaultOp::Expire).await?;
        self.inner.expire(now, high_water, limit).await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.enter(FaultOp::List).await?;
        self.inner.list(after, limit).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        self.enter(FaultOp::List).await?;
        self.inner.scan(after, limit).await
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.enter(FaultOp::List).await?;
        self.inner.list_owner(owner).await
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        self.enter(FaultOp::Watch).await?;
        self.inner.watch().await
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.inner.count().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.enter(FaultOp::Close).await?;
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use pollster::block_on;

    use super::*;
    use crate::store::MemoryStore;

    fn delete() -> [Change; 1] {
        [Change::Delete { id: SessionId::from_bytes([1; 32]) }]
    }

    #[test]
    fn orders_are_followed_and_counted() {
        let store = FaultStore::new(MemoryStore::new());
        let handle = store.handle();
        handle.fail_next(FaultOp::Commit, 2, StoreErrorKind::Full);
        for _ in 0..2 {
            assert_eq!(block_on(store.commit(1, &delete())).unwrap_err().kind(), StoreErrorKind::Full);
        }
        assert!(block_on(store.commit(1, &delete())).is_ok());
        handle.fail_from(FaultOp::Commit, 5, StoreErrorKind::Io);
        assert!(block_on(store.commit(1, &delete())).is_ok());
        assert_eq!(block_on(store.commit(1, &delete())).unwrap_err().kind(), StoreErrorKind::Io);
        handle.apply_failing_commits(true);
        assert!(block_on(store.commit(1, &delete())).is_err());
        handle.heal();
        assert_eq!((handle.calls(FaultOp::Commit), handle.committed().len()), (6, 3));
    }

    #[test]
    fn hanging_ends_with_release_and_with_a_drop() {
        let store = FaultStore::new(MemoryStore::new());
        let handle = store.handle();
        handle.hang(FaultOp::Commit);
        let changes = delete();
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut dropped = pin!(store.commit(1, &changes));
            assert!(dropped.as_mut().poll(&mut cx).is_pending());
            assert_eq!(handle.waiting(), 1);
        }
        assert_eq!(handle.waiting(), 0);
        let mut commit = pin!(store.commit(1, &changes));
        assert!(commit.as_mut().poll(&mut cx).is_pending());
        handle.release();
        assert!(commit.as_mut().poll(&mut cx).is_ready());
        assert_eq!((handle.waiting(), handle.committed().len()), (0, 1));
    }
}
