//! A store whose every operation is pending as often as it is told, and whose commits stop when they are told; and polling
//! by hand. It knows nothing of what an operation is for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use sessile_engine::store::{Capabilities, Change, Expired, Listed, MemoryStore, Outcome, Row, Store};
use sessile_engine::{Result, SessionId, StoreError};

/// Nothing here takes this long unless it hangs.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "a bound in real time on what must not hang")]
pub(crate) fn real_now() -> Instant {
    Instant::now()
}

pub(crate) fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = real_now();
    while !holds() {
        assert!(real_now().duration_since(start) < BOUND, "never happened: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Stops the writer at a commit.
#[derive(Default)]
struct Gate {
    /// Commits that may still pass; `None` for all.
    left: Option<u32>,
    waiting: bool,
}

/// Orders for a [`Slow`] store. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    pending: Arc<AtomicU32>,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

impl Orders {
    /// Every operation is pending `n` times from now on.
    pub(crate) fn pending(&self, n: u32) {
        self.pending.store(n, Ordering::SeqCst);
    }

    /// The commit after the next `n` waits.
    pub(crate) fn stop_after(&self, n: u32) {
        self.gate.0.lock().unwrap().left = Some(n);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.gate.0.lock().unwrap().waiting
    }

    /// Lets all commits pass.
    pub(crate) fn release(&self) {
        self.gate.0.lock().unwrap().left = None;
        self.gate.1.notify_all();
    }

    async fn enter(&self) {
        let mut left = self.pending.load(Ordering::SeqCst);
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn pass(&self) {
        let mut gate = self.gate.0.lock().unwrap();
        while gate.left == Some(0) {
            gate.waiting = true;
            gate = self.gate.1.wait(gate).unwrap();
        }
        gate.waiting = false;
        if let Some(left) = &mut gate.left {
            *left -= 1;
        }
    }
}

/// Rows in memory, slowly.
pub(crate) struct Slow {
    pub(crate) rows: MemoryStore,
    pub(crate) orders: Orders,
}

impl Store for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }
    fn capabilities(&self) -> Capabilities {
        self.rows.capabilities()
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        self.rows.high_water().await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        self.orders.enter().await;
        self.rows.load(id).await
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.orders.pass();
        self.orders.enter().await;
        self.rows.commit(now, changes).await
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.rows.expire(now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.orders.enter().await;
        self.rows.list(after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.orders.enter().await;
        self.rows.list_owner(owner).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.orders.enter().await;
        self.rows.count().await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.rows.close().await
    }
}

/// Whether somebody was woken.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// When a future is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// After so many polls; with `woken`, not before it would be polled again.
    Polls { n: u32, woken: bool },
    /// When the writer has made so many commits of it, and stands at the next.
    Commits(u32),
}

/// Polls `future` as often as `cut` says, each time when it was woken, and drops it. Its output, if it got that far.
pub(crate) fn cut<T>(
    mut future: Pin<Box<dyn Future<Output = T> + '_>>,
    cut: Cut,
    orders: &Orders,
) -> Option<T> {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut cx = Context::from_waker(&waker);
    match cut {
        Cut::Polls { n, woken } => {
            for poll in 0..n {
                if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
                    return Some(done);
                }
                if woken || poll + 1 < n {
                    soon("a wake-up", || alarm.0.swap(false, Ordering::SeqCst));
                }
            }
            None
        }
        Cut::Commits(n) => {
            orders.stop_after(n);
            loop {
                if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
                    orders.release();
                    return Some(done);
                }
                let mut woken = false;
                soon("a wake-up or a commit that stands", || {
                    woken = alarm.0.swap(false, Ordering::SeqCst);
                    woken || orders.is_stopped()
                });
                if !woken && !alarm.0.load(Ordering::SeqCst) {
                    // The writer stands, and who it woke before has been polled.
                    return None;
                }
            }
        }
    }
}
