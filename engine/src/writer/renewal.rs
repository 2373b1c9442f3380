//! Moving a session to a new id so that there is never a moment without a valid row, and so that nothing
//! changes for anybody until the response that carries the new token is on its way (promise P4).
//!
//! 1. The request queues a [`Renewal`] and waits. The old token works.
//! 2. The writer takes the record as it is and has the store re-key it. The old token still works, from memory;
//!    changes made now are held back.
//! 3. The waiting future, when it is next polled, swaps the entries in memory and is ready: the old token is
//!    dead, for every handle, and changes made since step 2 move along.
//!
//! If the future is dropped before step 3 (the client went away, the handler's layer timed out) the session goes
//! on under its old id, and the store is told to move the row back. A crash between a re-key that
//! nobody waits for and that correction costs the user a login; it never brings a session back.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::cache::EntryRef;
use crate::core::Core;
use crate::error::{Error, Result, StoreError};
use crate::record::Record;
use crate::store::{Change, Row};
use crate::sync::Mutex;
use crate::token::SessionId;

/// What a renewal does to the absolute deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// It starts anew: `renew`.
    Restart,
    /// It stays, because the request chose it.
    Keep,
    /// It stays, and the old token goes on working for a while: `rotate`.
    Rotate,
}

/// A session on its way to a new id.
pub(crate) struct Renewal {
    pub(crate) old: EntryRef,
    pub(crate) new_id: SessionId,
    lifetime: Lifetime,
    state: Mutex<State>,
}

enum State {
    /// Waiting for the writer.
    Queued(Option<Waker>),
    /// The writer is having the store re-key this.
    Taken(Moving, Option<Waker>),
    /// The store has re-keyed this; the future must swap the entries.
    Stored(Moving),
    /// It failed; the old id goes on.
    Failed(Error),
    /// The future was dropped while the writer was at work.
    Abandoned,
    /// Nothing is left to do.
    Over,
}

/// A record, and as what the store has it under the new id.
struct Moving {
    record: Record,
    moved: Record,
}

/// What the writer should do with a queued renewal.
pub(crate) enum TakeResult {
    /// Commit this change, after the deletion of a row under the old id if the store may have one that nobody knows of.
    Change { clear: Option<SessionId>, change: Change },
    /// Another renewal of the same session is under way.
    Hold,
    /// Nothing.
    Skip,
}

impl Renewal {
    pub(crate) fn new(old: EntryRef, new_id: SessionId, lifetime: Lifetime) -> Self {
        Self { old, new_id, lifetime, state: Mutex::new(State::Queued(None)) }
    }

    /// The record as it is stored under the new id.
    fn moved(&self, core: &Core, record: &Record, now: u64, version: u64) -> Record {
        let mut meta = record.meta();
        meta.version = version;
        // A rotation happens by itself, also in a request that is no use of the session.
        meta.last_seen = match self.lifetime {
            Lifetime::Rotate => meta.last_seen.max(self.old.last_seen()),
            Lifetime::Restart | Lifetime::Keep => now,
        };
        meta.issued_at = now;
        if self.lifetime == Lifetime::Restart {
            meta.deadline = now.saturating_add(core.config.lifetime_ms);
        }
        record.with_meta(&meta)
    }

    /// The writer takes the renewal up.
    pub(crate) fn take(&self, core: &Core, now: u64) -> TakeResult {
        let mut state = self.state.lock();
        let State::Queued(waker) = &mut *state else { return TakeResult::Skip };
        let near = core.shared.as_ref().map(|shared| &shared.near);
        if near.is_some_and(|near| near.where_strayed(self.old.id()).is_some()) {
            // The row must come home first.
            return TakeResult::Hold;
        }
        let waker = waker.take();
        match self.old.take_for_renewal(now) {
            Ok(Some(taken)) => {
                let moved = self.moved(core, &taken.record, now, 1);
                let row: Row = match core.row(&self.new_id, &moved) {
                    Ok(row) => row,
                    Err(error) => {
                        self.abort(core);
                        *state = State::Failed(error.into());
                        drop(state);
                        wake(waker);
                        return TakeResult::Skip;
                    }
                };
                core.moving.begin(self.new_id, self.old.clone());
                *state = State::Taken(Moving { record: taken.record, moved }, waker);
                let old = *self.old.id();
                if taken.stored {
                    // Others may have changed it. What is not known to be stored is no version that they could have.
                    let expected = near.map(|near| near.base(&old).map_or(0, |base| base.version()));
                    TakeResult::Change {
                        clear: None,
                        change: Change::Rekey { from: old, expected, to: self.new_id, row },
                    }
                } else {
                    // The answer to an earlier commit may have been lost, and its row be there.
                    TakeResult::Change { clear: Some(old), change: Change::Insert { id: self.new_id, row } }
                }
            }
            Ok(None) => {
                *state = State::Queued(waker);
                TakeResult::Hold
            }
            Err(error) => {
                *state = State::Failed(error);
                drop(state);
                wake(waker);
                TakeResult::Skip
            }
        }
    }

    /// The writer's commit ended.
    pub(crate) fn resolve(&self, core: &Core, result: Result<()>) {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Taken(record, waker) => {
                *state = match result {
                    Ok(()) => State::Stored(record),
                    Err(error) => {
                        // The answer may be lost and the re-key done: the old row is written anew.
                        self.give_up(core);
                        State::Failed(error)
                    }
                };
                drop(state);
                wake(waker);
            }
            State::Abandoned => {
                drop(state);
                self.give_up(core);
            }
            other => *state = other,
        }
    }

    /// The store takes no more writes.
    pub(crate) fn refuse(&self, error: Error) {
        let mut state = self.state.lock();
        if let State::Queued(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Failed(error);
            drop(state);
            wake(waker);
        }
    }

    /// The store has no row under the old id, though it was believed to: queues the renewal again, as one of a session that
    /// is in memory only. `false` if nobody waits for it any more.
    pub(crate) fn try_again(&self, core: &Core) -> bool {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Taken(_, waker) => {
                if core.shared.is_some() {
                    self.old.let_go_of_renewal();
                    core.moving.end(&self.new_id);
                } else {
                    self.old.abort_renewal(&core.queue);
                }
                *state = State::Queued(waker);
                true
            }
            other => {
                *state = other;
                false
            }
        }
    }

    /// The writer's commit failed with `error`.
    pub(crate) fn failed(&self, core: &Core, error: &StoreError) {
        // Among others nothing is written anew that may have been deleted, so it matters what became of it.
        let done = match (&core.shared, &core.store) {
            (Some(_), Some(store)) => {
                matches!(pollster::block_on(core.ask(store.as_ref(), &self.new_id)), Ok(Some(_)))
            }
            _ => false,
        };
        self.resolve(core, if done { Ok(()) } else { Err(error.clone().into()) });
    }

    /// The store has no such session any more, so nor have we.
    pub(crate) fn ended_elsewhere(&self, core: &Core) {
        let waker = match std::mem::replace(&mut *self.state.lock(), State::Failed(crate::cache::revoked())) {
            State::Taken(_, waker) | State::Queued(waker) => waker,
            _ => None,
        };
        core.moving.end(&self.new_id);
        core.ended_elsewhere(&self.old);
        wake(waker);
    }

    fn abort(&self, core: &Core) {
        if core.shared.is_some() {
            self.old.abort_renewal_among_others(&core.queue);
        } else {
            self.old.abort_renewal(&core.queue);
        }
    }

    /// The session goes on under its old id.
    fn give_up(&self, core: &Core) {
        if let Some(shared) = &core.shared {
            // The next commit of the entry fetches the row back, if it was moved.
            shared.near.strayed(self.old.id(), self.new_id);
            core.moving.give_up(&self.new_id);
            self.abort(core);
            core.queue.nudge();
            return;
        }
        self.abort(core);
        self.delete_new_row(core);
    }

    /// A failed commit may have reached the disk all the same; deleting is idempotent.
    fn delete_new_row(&self, core: &Core) {
        core.moving.give_up(&self.new_id);
        core.queue.push_delete(self.new_id);
        core.queue.nudge();
    }

    /// Swaps the entries in memory.
    fn finish(&self, core: &Core, stored: Option<&Moving>) -> Result<EntryRef> {
        let now = core.clock.now_ms();
        if let (Some(shared), Some(stored)) = (&core.shared, stored) {
            let near = &shared.near;
            near.learn(&self.new_id, &stored.moved, now, near.notices(&self.new_id));
        }
        let grace = self.lifetime == Lifetime::Rotate && core.config.life.grace_ms > 0;
        // Before the old entry is gone, so that whoever finds it gone finds the alias.
        let aliases = grace.then(|| core.aliases.lock());
        let swapped = self.old.finish_renewal(|newest| {
            let changed = stored.is_some_and(|s| !s.record.ptr_eq(&newest));
            let record = self.moved(core, &newest, now, if changed { 2 } else { 1 });
            core.succeed(&self.old, newest.owner(), self.new_id, record, stored.is_some(), changed)
        });
        match swapped {
            Ok((entry, bytes)) => {
                core.moved(&self.old, bytes, &entry, aliases);
                Ok(entry)
            }
            Err(error) => {
                drop(aliases);
                // Destroyed in the meantime: logout wins, and the row under the new id must go.
                if stored.is_some() {
                    self.delete_new_row(core);
                }
                Err(error)
            }
        }
    }

    /// Renews at once, for an engine without a store.
    pub(crate) fn run_in_memory(&self, core: &Core) -> Result<EntryRef> {
        self.finish(core, None)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Waits for a renewal and completes it.
///
/// # Cancel safety
/// Dropping it before it is ready leaves the session under its old id.
pub(crate) struct RenewalWait {
    core: Arc<Core>,
    renewal: Arc<Renewal>,
}

impl RenewalWait {
    pub(crate) fn start(core: Arc<Core>, renewal: Renewal) -> Self {
        let renewal = Arc::new(renewal);
        core.queue.push_renewal(renewal.clone());
        Self { core, renewal }
    }
}

impl Future for RenewalWait {
    type Output = Result<EntryRef>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.renewal.state.lock();
        match &mut *state {
            State::Queued(waker) | State::Taken(_, waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => {
                let result = match std::mem::replace(&mut *state, State::Over) {
                    State::Stored(record) => {
                        drop(state);
                        self.renewal.finish(&self.core, Some(&record))
                    }
                    State::Failed(error) => Err(error),
                    _ => Err(crate::cache::revoked()),
                };
                self.core.queue.nudge();
                Poll::Ready(result)
            }
        }
    }
}

impl Drop for RenewalWait {
    fn drop(&mut self) {
        let mut state = self.renewal.state.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Taken(..) => *state = State::Abandoned,
            State::Stored(_) => {
                drop(state);
                self.renewal.give_up(&self.core);
            }
            _ => {}
        }
    }
}
