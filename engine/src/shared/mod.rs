//! One engine among several over the same store: what it believes of its cache and for how long, how its changes meet those
//! of others, and how it learns of theirs. An engine over a store of its own has none of this.
//!
//! - The store is the truth. Every commit is a compare-and-set; what lost to another engine is put onto what that one
//!   stored, key by key ([`Record::rebased`](crate::record::Record::rebased)), and committed again.
//! - Nothing but a creation makes a row. A session whose row is gone has ended, for every handle here.
//! - A cached session is believed for as long as [`Shared::is_stale`] says; then it is read again by whoever needs it.
//! - Nobody's clock ends a session here before the store was asked: others may have used it meanwhile.

mod follow;
mod near;
mod reconcile;

use std::collections::VecDeque;

pub(crate) use self::follow::start;
pub(crate) use self::near::Near;
use crate::cache::{EntryRef, Phase};
use crate::error::{StoreError, StoreErrorKind};
use crate::sync::{AtomicU32, AtomicU64, Condvar, Duration, Mutex, Ordering, wait_for};
use crate::token::SessionId;

/// How long a session is believed at most while the store tells of changes, in ms: a belt for what no notice came of.
const LONGEST_BELIEF_MS: u64 = 30_000;
/// A watch that has said nothing for so long is not believed any more, in ms.
const SILENCE_MS: u64 = 2_000;
/// Failed reads in a row after which the store is not asked for a while.
const BREAKS_AT: u32 = 5;
/// That while, in ms: then one read tries.
const BROKEN_MS: u64 = 500;
/// Commits of one session that may lose to others before those who wait are told.
pub(crate) const MOST_CONFLICTS: u32 = 64;

/// The state of an engine among others.
pub(crate) struct Shared {
    pub(crate) near: Near,
    /// How old what is served may be, in ms.
    staleness_ms: u64,
    /// Whether the store tells of changes.
    watches: bool,
    /// Engine time of the latest sign that it would tell, or 0.
    heard_at: AtomicU64,
    /// Sessions to be read again in the background.
    doubtful: Mutex<VecDeque<SessionId>>,
    wake: Condvar,
    failed_reads: AtomicU32,
    /// Engine time until which no read is tried.
    broken_until: AtomicU64,
}

impl Shared {
    pub(crate) fn new(staleness_ms: u64, watches: bool) -> Self {
        Self {
            near: Near::new(),
            staleness_ms,
            watches,
            heard_at: AtomicU64::new(0),
            doubtful: Mutex::new(VecDeque::new()),
            wake: Condvar::new(),
            failed_reads: AtomicU32::new(0),
            broken_until: AtomicU64::new(0),
        }
    }

    /// For how long after it was read a session is believed, in ms.
    fn belief_ms(&self, now: u64) -> u64 {
        if !self.watches {
            return self.staleness_ms;
        }
        let heard = self.heard_at.load(Ordering::SeqCst);
        let silent = now.saturating_sub(heard);
        if heard != 0 && silent <= SILENCE_MS.min(self.staleness_ms) { LONGEST_BELIEF_MS } else { 0 }
    }

    /// Whether the store must be asked before `entry` is used at `now`.
    pub(crate) fn is_stale(&self, entry: &EntryRef, now: u64) -> bool {
        // Gone stays gone, and nobody else knows of what is not stored yet.
        if entry.phase() != Phase::Live || !entry.is_stored() {
            return false;
        }
        match self.near.seen_at(entry.id()) {
            Some(at) => now.saturating_sub(at) >= self.belief_ms(now) || entry.check(now).is_none(),
            None => true,
        }
    }

    /// The watch has said something at `now`.
    pub(crate) fn hear(&self, now: u64) {
        self.heard_at.store(now.max(1), Ordering::SeqCst);
    }

    /// The watch is gone: nothing is believed until there is another.
    pub(crate) fn deafen(&self, now: u64) {
        self.heard_at.store(0, Ordering::SeqCst);
        self.near.doubt_all(now);
    }

    /// Has `id` read again in the background.
    pub(crate) fn look_after(&self, id: SessionId) {
        self.doubtful.lock().push_back(id);
        self.wake.notify_one();
    }

    /// Waits up to `pause` for sessions to read again.
    fn to_look_after(&self, pause: Duration) -> Vec<SessionId> {
        let mut ids = self.doubtful.lock();
        if ids.is_empty() {
            wait_for(&self.wake, &mut ids, pause);
        }
        let mut ids: Vec<_> = ids.drain(..).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Fails at once while the store is taken to be down, so that no request waits for it in vain.
    pub(crate) fn check_reachable(&self, store: &'static str, now: u64) -> Result<(), StoreError> {
        if self.failed_reads.load(Ordering::Relaxed) < BREAKS_AT {
            return Ok(());
        }
        let until = self.broken_until.load(Ordering::Relaxed);
        let next = now.saturating_add(BROKEN_MS);
        if now >= until
            && self.broken_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            return Ok(());
        }
        Err(StoreError::new(
            StoreErrorKind::Unavailable,
            store,
            "it is not asked: the last reads have failed",
        ))
    }

    /// Notes how a read went.
    pub(crate) fn note_read(&self, worked: bool, now: u64) {
        if worked {
            if self.failed_reads.load(Ordering::Relaxed) != 0 {
                self.failed_reads.store(0, Ordering::Relaxed);
            }
        } else if self.failed_reads.fetch_add(1, Ordering::Relaxed) + 1 == BREAKS_AT {
            self.broken_until.store(now.saturating_add(BROKEN_MS), Ordering::Relaxed);
        }
    }
}
