//! What the cached sessions take of the byte budget, and how much of it is taken by sessions without owner. It
//! counts; what happens when a limit is exceeded is decided in `core/room.rs`.
//!
//! Sessions without owner are told apart because anybody can make as many as he likes: nothing they take may
//! cost a session with an owner its place.

use super::evict::Ring;
use super::{Cache, ENTRY_OVERHEAD, EntryRef, Place, place_of};
use crate::owner::MEMBER_BYTES;
use crate::sync::{AtomicUsize, Ordering};

/// How an edit changed what an entry takes. Nothing for an entry that is not in service yet.
#[derive(Default)]
pub(crate) struct Grown {
    /// Size of the record, and whether it had an owner: before and after.
    pub(in crate::cache) change: Option<[(usize, bool); 2]>,
    /// The hash of the entry.
    pub(in crate::cache) hash: u64,
}

/// The counters. They are moved after what they count, not together with it: while threads race they may be off
/// by what is under way.
#[derive(Default)]
pub(super) struct Usage {
    all: AtomicUsize,
    anonymous: AtomicUsize,
}

impl Usage {
    pub(super) fn add(&self, bytes: usize, owned: bool) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
        if !owned {
            self.anonymous.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn sub(&self, bytes: usize, owned: bool) {
        self.all.fetch_sub(bytes, Ordering::Relaxed);
        if !owned {
            self.anonymous.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Below zero for a moment, when a loss was booked before the gain.
fn read(counter: &AtomicUsize) -> usize {
    let n = counter.load(Ordering::Relaxed);
    if n > isize::MAX.unsigned_abs() { 0 } else { n }
}

impl Cache {
    /// Bytes in use, by the formula of the module's documentation.
    pub(crate) fn used(&self) -> usize {
        read(&self.usage.all) + self.owners.len() * MEMBER_BYTES
    }

    /// Bytes in use by sessions without owner.
    pub(crate) fn anonymous(&self) -> usize {
        read(&self.usage.anonymous)
    }

    /// Books what an edit of an entry changed.
    pub(crate) fn resize(&self, grown: Grown) {
        let Some([(old, was_owned), (new, owned)]) = grown.change else { return };
        if was_owned == owned {
            // Most edits change no size, and the counters are every thread's.
            if new == old {
                return;
            }
            if new > old {
                self.usage.add(new - old, owned);
            } else {
                self.usage.sub(old - new, owned);
            }
            return;
        }
        self.usage.add(new + ENTRY_OVERHEAD, owned);
        self.usage.sub(old + ENTRY_OVERHEAD, was_owned);
        if !owned {
            let shard = self.shard(grown.hash);
            let map = shard.map.write();
            shard.ring.lock().push(place_of(grown.hash), &map);
        }
    }

    /// Books the record of an entry that was inserted without it.
    pub(crate) fn filled(&self, entry: &EntryRef, bytes: usize) {
        self.usage.add(bytes, entry.is_owned());
    }

    /// Books the loss of a record whose entry stays on as a tombstone.
    pub(crate) fn freed(&self, entry: &EntryRef, bytes: usize) {
        self.usage.sub(bytes, entry.is_owned());
    }
}

impl Ring {
    /// Notes a session without owner. `map` is its shard's, to forget those that have left it.
    pub(super) fn push(&mut self, place: Place, map: &hashbrown::HashTable<EntryRef>) {
        if self.0.len() > 2 * map.len() + 64 {
            self.0.retain(|&place| Self::find(map, place).is_some());
            self.0.shrink_to(2 * map.len() + 64);
        }
        self.0.push_back(place);
    }
}
