//! The newest states of a generation, before they are filed in its index. It is a small table that stays in the
//! processor's cache: to note a state in it waits for no memory, while a look into the index of a million does so
//! several times. It decides who files, and in which order; how, is the index's.
//!
//! A request notes the row it has appended here. Whoever makes the journal durable files what has come since. When the
//! table is full, a request files its own state, as if there were no table.
//!
//! Lock order: `filing`, then `noted`, then `leaving`, then a shard of the index.
//!
//! Invariants
//! - A state that is here is newer than what the index has of its session.
//! - A state in `noted` is newer than one in `leaving`.

use hashbrown::HashTable;

use super::index::{Item, State, hash};
use crate::sync::{AtomicUsize, Mutex, Ordering, RwLock};
use crate::token::SessionId;

/// So many states are noted and not filed, at most, but for those of sessions whose older state is just being filed.
const LIMIT: usize = if cfg!(any(test, feature = "shuttle")) { 2 } else { 16 << 10 };
/// Memory of both tables when they are full.
pub(super) const FRESH_BYTES: usize = 2 * 2 * LIMIT * (size_of::<Item>() + 1);

#[derive(Default)]
pub(super) struct Fresh {
    noted: Mutex<HashTable<Item>>,
    /// What is being filed.
    leaving: RwLock<HashTable<Item>>,
    /// One files at a time.
    filing: Mutex<()>,
    /// States in both tables, or more. Zero only when there is none.
    count: AtomicUsize,
}

impl Fresh {
    /// States that may not have been filed.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Notes the newest state of a session. When there is no room, it is filed with `file`.
    pub(super) fn note(&self, item: Item, file: impl FnOnce(Item)) {
        let mut noted = self.noted.lock();
        let is_its = |other: &Item| other.id == item.id;
        if let Some(before) = noted.find_mut(hash(&item.id), is_its) {
            *before = item;
            return;
        }
        if noted.len() >= LIMIT && self.leaving.read().find(hash(&item.id), is_its).is_none() {
            // Under the lock, so that a state that comes after this one is filed after it.
            file(item);
            return;
        }
        noted.insert_unique(hash(&item.id), item, |item| hash(&item.id));
        self.count.fetch_add(1, Ordering::Release);
    }

    /// The state of `id`, if it may not have been filed.
    pub(super) fn get(&self, id: &SessionId) -> Option<State> {
        if self.len() == 0 {
            return None;
        }
        let is_its = |item: &Item| item.id == *id;
        let noted = self.noted.lock();
        // The lock is held until both have been seen: what leaves one is in the other.
        let found = noted.find(hash(id), is_its).map(|item| item.state);
        found.or_else(|| self.leaving.read().find(hash(id), is_its).map(|item| item.state))
    }

    /// Files, with `file`, all that was noted before. Returns when that is done, whoever does it.
    pub(super) fn settle(&self, file: impl Fn(Item)) {
        if self.len() == 0 {
            return;
        }
        let _one = self.filing.lock();
        {
            let mut noted = self.noted.lock();
            std::mem::swap(&mut *noted, &mut *self.leaving.write());
        }
        self.leaving.read().iter().for_each(|item| file(*item));
        let noted = self.noted.lock();
        let mut leaving = self.leaving.write();
        leaving.clear();
        self.count.store(noted.len(), Ordering::Release);
    }
}
