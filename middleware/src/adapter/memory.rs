//! What the adapter remembers of recent requests, bounded: what each of them has saved, and what became of ended sessions. Nothing here is needed for long, and forgetting is safe: a forgotten fate only
//! means that a new session takes less along.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sessile_engine::SessionId;

use super::record::Saved;

/// Entries kept of each kind.
const KEPT: usize = 16_384;

/// What became of a session that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was deleted, by so many callers. Two if somebody found it gone for another reason.
    Ended {
        /// How many.
        deletions: u32,
    },
    /// A new session took its data along.
    Moved(SessionId),
}

#[derive(Default)]
pub(super) struct Memory {
    loads: AtomicU64,
    saved: Mutex<Recent<u64, Saved>>,
    fates: Mutex<Recent<SessionId, Fate>>,
}

impl Memory {
    /// A number for a load.
    pub(super) fn next_load(&self) -> u64 {
        self.loads.fetch_add(1, Ordering::Relaxed)
    }

    /// What was saved under the load with this number.
    pub(super) fn saved(&self, load: u64) -> Saved {
        lock(&self.saved).map.get(&load).cloned().unwrap_or_default()
    }

    /// Notes that this was.
    pub(super) fn save(&self, load: u64, saved: Saved) {
        if !saved.is_empty() {
            lock(&self.saved).entry(load).extend(saved);
        }
    }

    pub(super) fn fate(&self, session: &SessionId) -> Option<Fate> {
        lock(&self.fates).map.get(session).copied()
    }

    /// Notes a deletion, and whether it was the one that ended the session.
    pub(super) fn deleted(&self, session: &SessionId, ended_it: bool) {
        let mut fates = lock(&self.fates);
        let fate = fates.entry(*session);
        if let Fate::Ended { deletions } = fate {
            *deletions = deletions.saturating_add(if ended_it || *deletions > 0 { 1 } else { 2 });
        }
    }

    /// Notes that `to` took along the data of `session`.
    pub(super) fn moved(&self, session: &SessionId, to: SessionId) {
        let mut fates = lock(&self.fates);
        // The latest counts; several exist only if requests cycled the same session at once.
        *fates.entry(*session) = Fate::Moved(to);
    }
}

impl Default for Fate {
    fn default() -> Self {
        Self::Ended { deletions: 0 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, and what they guard is whole after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A map that forgets its oldest entries.
struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, V: Default> Recent<K, V> {
    fn entry(&mut self, key: K) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.order.len() >= KEPT
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key);
        }
        self.map.entry(key).or_default()
    }
}
