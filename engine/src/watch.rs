//! Who waits for which session: wakers, by id. It costs nothing for sessions that nobody waits for: an entry has
//! one flag that says whether to look here. It decides nothing; whoever is woken looks at the session again.
//!
//! # Why no wake-up is lost
//! Who waits enters its waker, then sets the entry's flag under the entry's lock, then looks at the entry, again
//! under its lock. A change or an end happens under that lock, and the flag is read after it. So either the
//! change came first and the look sees it, or the flag was set first and the waker is found. The flag is taken
//! back only under the entry's lock, and only if no waker is entered.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::cache::EntryRef;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::token::SessionId;

const STRIPES: usize = 16;

type Waiting = BTreeMap<SessionId, Vec<(u64, Waker)>>;

/// See the module. Its locks are leaves.
pub(crate) struct Watches {
    stripes: Box<[Mutex<Waiting>]>,
    next: AtomicU64,
}

impl Watches {
    pub(crate) fn new() -> Self {
        Self { stripes: (0..STRIPES).map(|_| Mutex::new(Waiting::new())).collect(), next: AtomicU64::new(0) }
    }

    fn stripe(&self, id: &SessionId) -> &Mutex<Waiting> {
        &self.stripes[usize::from(id.as_bytes()[30]) % STRIPES]
    }

    /// A number that tells one who waits from another.
    /// All sessions that somebody waits for.
    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.stripes.iter().flat_map(|stripe| stripe.lock().keys().copied().collect::<Vec<_>>()).collect()
    }

    pub(crate) fn ticket(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters `waker` for `entry`, in place of an earlier one of the same ticket.
    pub(crate) fn enter(&self, entry: &EntryRef, ticket: u64, waker: &Waker) {
        self.enter_id(entry.id(), ticket, waker);
        entry.watch();
    }

    /// As [`enter`](Self::enter) for an id that no entry has: only [`wake_all`](Self::wake_all) wakes it.
    pub(crate) fn enter_id(&self, id: &SessionId, ticket: u64, waker: &Waker) {
        let waker = waker.clone();
        let mut waiting = self.stripe(id).lock();
        let wakers = waiting.entry(*id).or_default();
        let old = match wakers.iter_mut().find(|(t, _)| *t == ticket) {
            Some((_, old)) => Some(std::mem::replace(old, waker)),
            None => {
                wakers.push((ticket, waker));
                None
            }
        };
        drop(waiting);
        drop(old);
    }

    /// Takes a waker out again.
    pub(crate) fn leave(&self, entry: &EntryRef, ticket: u64) {
        if self.leave_id(entry.id(), ticket) {
            entry.unwatch(|| !self.stripe(entry.id()).lock().contains_key(entry.id()));
        }
    }

    /// As [`leave`](Self::leave) for an id without an entry. Returns whether nobody waits any more.
    pub(crate) fn leave_id(&self, id: &SessionId, ticket: u64) -> bool {
        let mut waiting = self.stripe(id).lock();
        let Some(wakers) = waiting.get_mut(id) else { return true };
        let left = wakers.iter().position(|(t, _)| *t == ticket).map(|i| wakers.swap_remove(i));
        let empty = wakers.is_empty();
        if empty {
            waiting.remove(id);
        }
        drop(waiting);
        drop(left);
        empty
    }

    /// Wakes everyone who waits for `entry`. To be called after it changed or ended, under no lock.
    pub(crate) fn wake(&self, entry: &EntryRef) {
        if !entry.is_watched() {
            return;
        }
        let wakers = self.stripe(entry.id()).lock().remove(entry.id());
        for (_, waker) in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    /// As [`wake`](Self::wake), for an id whose entry the caller does not have.
    pub(crate) fn wake_id(&self, id: &SessionId) {
        let wakers = self.stripe(id).lock().remove(id);
        for (_, waker) in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Wakes everyone.
    pub(crate) fn wake_all(&self) {
        for stripe in &self.stripes {
            let waiting = std::mem::take(&mut *stripe.lock());
            for (_, waker) in waiting.into_values().flatten() {
                waker.wake();
            }
        }
    }

    /// Sessions that somebody waits for.
    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn len(&self) -> usize {
        self.stripes.iter().map(|s| s.lock().len()).sum()
    }
}
