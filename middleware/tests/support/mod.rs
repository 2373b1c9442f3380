//! A memory store that can be broken, slowed and damaged, and that outlives the engines opened over it.

#![allow(dead_code, reason = "not every test file needs all of it")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use sessile::SessionId;
use sessile::engine::store::{
    Capabilities, Change, Expired, Listed, MemoryStore, Outcome, Row, Store, StoreError, StoreErrorKind,
};

#[derive(Clone)]
pub(crate) struct Fragile {
    inner: Arc<MemoryStore>,
    switches: Arc<Switches>,
}

#[derive(Default)]
struct Switches {
    broken: AtomicBool,
    down: AtomicBool,
    damaged: AtomicBool,
}

impl Fragile {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(MemoryStore::new()), switches: Arc::default() }
    }

    /// Every operation fails for good.
    pub(crate) fn break_down(&self, on: bool) {
        self.switches.broken.store(on, Ordering::SeqCst);
    }

    /// Every operation fails for now.
    pub(crate) fn take_down(&self, on: bool) {
        self.switches.down.store(on, Ordering::SeqCst);
    }

    /// Whatever is read is damaged.
    pub(crate) fn damage(&self, on: bool) {
        self.switches.damaged.store(on, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.switches.broken.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Io, "fragile", "disk on fire"));
        }
        if self.switches.down.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "fragile", "gone for lunch"));
        }
        Ok(())
    }
}

/// Not ready at the first poll.
struct Yield(bool);

impl Future for Yield {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Store for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        self.inner.high_water().await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        Yield(false).await;
        self.check()?;
        let mut row = self.inner.load(id).await?;
        if self.switches.damaged.load(Ordering::SeqCst)
            && let Some(row) = &mut row
        {
            row.bytes.reverse();
        }
        Ok(row)
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.check()?;
        self.inner.commit(now, changes).await
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.inner.expire(now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.inner.list_owner(owner).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.inner.count().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
