//! The dirty queue: what waits for the writer, and who waits for what. It owns epochs and waiters; it does
//! not know what a change is and calls no store.
//!
//! Everything pushed belongs to the open epoch. The writer drains the queue whole, which closes the epoch,
//! and settles it once all of it is committed or has failed. A waiter names the epoch it needs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::renewal::Renewal;
use crate::cache::EntryRef;
use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
use crate::sync::{Condvar, Duration, Mutex, wait_for};
use crate::token::SessionId;

/// Entries above which the writer does not wait for the window to end.
const CROWD: usize = 4096;

/// What the writer takes in one go.
#[derive(Default)]
pub(crate) struct Work {
    /// Entries with changes, each at most once.
    pub(crate) dirty: Vec<EntryRef>,
    /// Ids to delete that have no entry.
    pub(crate) deletes: Vec<SessionId>,
    /// Damaged rows to take out of service.
    pub(crate) quarantines: Vec<SessionId>,
    /// Sessions to move to a new id.
    pub(crate) renewals: Vec<Arc<Renewal>>,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.dirty.is_empty()
            && self.deletes.is_empty()
            && self.quarantines.is_empty()
            && self.renewals.is_empty()
    }

    /// Takes what comes first: all renewals, then up to `entries` entries, and with the last of them the bare ids.
    pub(crate) fn take(&mut self, entries: usize) -> Self {
        let rest = self.dirty.len().saturating_sub(entries);
        let mut taken = Self {
            dirty: self.dirty.split_off(rest),
            renewals: std::mem::take(&mut self.renewals),
            ..Self::default()
        };
        if rest == 0 {
            taken.deletes = std::mem::take(&mut self.deletes);
            taken.quarantines = std::mem::take(&mut self.quarantines);
        }
        taken
    }
}

struct State {
    work: Work,
    /// Somebody waits: do not wait for the window to end.
    urgent: bool,
    closing: bool,
    /// The store takes no more writes; waiters are answered with this at once.
    latched: Option<StoreError>,
    /// There is no writer any more: nobody may wait.
    shut: bool,
    /// The epoch that pushes belong to now.
    open: u64,
    /// The latest epoch that is over.
    settled: u64,
    waiters: Vec<Arc<Waiter>>,
}

/// One waiting request.
struct Waiter {
    cell: Mutex<Cell>,
}

struct Cell {
    /// The epoch waited for; postponed if the writer had to hold something of it back.
    epoch: u64,
    outcome: Option<Result<(), StoreError>>,
    waker: Option<Waker>,
}

/// The queue.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

/// How the writer's work on an epoch ended.
pub(crate) enum Settled {
    /// All of it is in the store.
    Committed,
    /// Some of it had to be held back; its waiters wait for the next epoch.
    Postponed,
    /// It failed; it has been queued again, but nobody needs to wait for that.
    Failed(StoreError),
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                work: Work::default(),
                urgent: false,
                closing: false,
                latched: None,
                shut: false,
                open: 1,
                settled: 0,
                waiters: Vec::new(),
            }),
            wake: Condvar::new(),
        }
    }

    fn push(&self, urgent: bool, add: impl FnOnce(&mut Work)) {
        let wake = {
            let mut state = self.state.lock();
            let was_empty = state.work.is_empty();
            add(&mut state.work);
            let more_urgent = urgent && !state.urgent;
            state.urgent |= urgent;
            was_empty || more_urgent || state.work.dirty.len() == CROWD
        };
        if wake {
            self.wake.notify_one();
        }
    }

    /// Queues an entry whose `QUEUED` flag the caller has just set.
    pub(crate) fn push_dirty(&self, entry: EntryRef) {
        self.push(false, |w| w.dirty.push(entry));
    }

    pub(crate) fn push_delete(&self, id: SessionId) {
        self.push(false, |w| w.deletes.push(id));
    }

    /// Queues a quarantine once; `false` if it is queued already.
    pub(crate) fn push_quarantine(&self, id: SessionId) -> bool {
        let mut new = false;
        self.push(false, |w| {
            new = !w.quarantines.contains(&id);
            if new {
                w.quarantines.push(id);
            }
        });
        new
    }

    pub(crate) fn push_renewal(&self, renewal: Arc<Renewal>) {
        self.push(true, |w| w.renewals.push(renewal));
    }

    /// Makes the writer look again at what it holds back.
    pub(crate) fn nudge(&self) {
        self.state.lock().urgent = true;
        self.wake.notify_one();
    }

    /// Entries waiting.
    pub(crate) fn dirty(&self) -> usize {
        self.state.lock().work.dirty.len()
    }

    /// A future that is done when everything queued until now is in the store, and a hurry for the writer.
    pub(crate) fn flush(&self) -> FlushWait {
        let waiter = {
            let mut state = self.state.lock();
            let idle = state.work.is_empty();
            let epoch = if idle { state.open - 1 } else { state.open };
            let outcome = match &state.latched {
                Some(error) if !idle => Some(Err(error.clone())),
                _ if state.settled >= epoch => Some(Ok(())),
                _ if state.shut => Some(Err(shut_error())),
                _ => None,
            };
            let done = outcome.is_some();
            let waiter = Arc::new(Waiter { cell: Mutex::new(Cell { epoch, outcome, waker: None }) });
            if !done {
                state.waiters.push(waiter.clone());
                state.urgent = true;
            }
            waiter
        };
        self.wake.notify_one();
        FlushWait { waiter }
    }

    /// Asks the writer to write everything out and stop.
    pub(crate) fn close(&self) {
        self.state.lock().closing = true;
        self.wake.notify_one();
    }

    /// Ends all waiting, now and later: the writer is gone.
    pub(crate) fn shut(&self) {
        let waiters = {
            let mut state = self.state.lock();
            state.shut = true;
            std::mem::take(&mut state.waiters)
        };
        for waiter in waiters {
            let waker = {
                let mut cell = waiter.cell.lock();
                cell.outcome = Some(Err(shut_error()));
                cell.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Whatever is not in the store yet.
    pub(crate) fn pending(&self) -> usize {
        let state = self.state.lock();
        let work = &state.work;
        work.dirty.len() + work.deletes.len() + work.quarantines.len() + work.renewals.len()
    }

    /// The error that latched the queue.
    pub(crate) fn latched(&self) -> Option<StoreError> {
        self.state.lock().latched.clone()
    }

    /// Refuses all further waiting: the store takes no more writes.
    pub(crate) fn latch(&self, error: &StoreError) {
        self.state.lock().latched = Some(error.clone());
    }

    // ---- the writer's side ----

    /// Waits for work: up to `idle` for the first of it, then up to `window` for company, less the time the
    /// writer was `away` if work was there when it came back. So nothing waits longer than a window for its
    /// commit to begin, unless the commit before takes longer than that. Returns the work, its epoch, and
    /// whether the engine is closing.
    pub(crate) fn wait(&self, idle: Duration, window: Duration, away: Duration) -> (Work, u64, bool) {
        let mut state = self.state.lock();
        let window = if state.work.is_empty() { window } else { window.saturating_sub(away) };
        if state.work.is_empty() && !state.closing {
            wait_for(&self.wake, &mut state, idle);
        }
        if !state.work.is_empty() && !state.urgent && !state.closing && state.work.dirty.len() < CROWD {
            wait_for(&self.wake, &mut state, window);
        }
        Self::drain_locked(&mut state)
    }

    /// Sleeps for `pause` after a failure, unless the engine is closing.
    pub(crate) fn pause(&self, pause: Duration) {
        let mut state = self.state.lock();
        if !state.closing {
            wait_for(&self.wake, &mut state, pause);
        }
    }

    /// Takes all work without waiting.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn drain(&self) -> (Work, u64, bool) {
        Self::drain_locked(&mut self.state.lock())
    }

    fn drain_locked(state: &mut State) -> (Work, u64, bool) {
        let work = std::mem::take(&mut state.work);
        let epoch = state.open;
        state.urgent = false;
        state.open += 1;
        (work, epoch, state.closing)
    }

    /// Queues `work` again, ahead of nothing and nobody: order between entries does not matter.
    pub(crate) fn put_back(&self, work: Work) {
        let mut state = self.state.lock();
        state.work.dirty.extend(work.dirty);
        state.work.deletes.extend(work.deletes);
        state.work.quarantines.extend(work.quarantines);
        state.work.renewals.extend(work.renewals);
    }

    /// Ends `epoch` and tells everyone who waited for it.
    pub(crate) fn settle(&self, epoch: u64, how: &Settled) {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            state.settled = state.settled.max(epoch);
            let open = state.open;
            state.waiters.retain(|waiter| {
                let mut cell = waiter.cell.lock();
                if cell.epoch > epoch {
                    return true;
                }
                let outcome = match how {
                    Settled::Committed => Ok(()),
                    Settled::Failed(error) => Err(error.clone()),
                    Settled::Postponed => {
                        // Woken by the resolution of what is held back, not by spinning.
                        cell.epoch = open;
                        return true;
                    }
                };
                cell.outcome = Some(outcome);
                wakers.extend(cell.waker.take());
                false
            });
        }
        for waker in wakers {
            waker.wake();
        }
    }
}

/// Waits until what was queued when it was made is in the store.
///
/// # Cancel safety
/// Dropping it stops the waiting, not the writing.
pub(crate) struct FlushWait {
    waiter: Arc<Waiter>,
}

impl Future for FlushWait {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut cell = self.waiter.cell.lock();
        match &cell.outcome {
            Some(Ok(())) => Poll::Ready(Ok(())),
            Some(Err(error)) => Poll::Ready(Err(error.clone().into())),
            None => {
                match &mut cell.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

fn shut_error() -> StoreError {
    StoreError::new(StoreErrorKind::Closed, "session", "the engine was closed")
}

/// The error of an operation on an engine that was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the session engine was closed")
}
