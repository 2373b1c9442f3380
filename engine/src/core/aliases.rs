//! Old ids of rotated sessions, while their grace lasts. In memory only, bounded, and consulted only when an id
//! or an entry is gone.
//!
//! An alias leads to the entry that its session went on as, and is worth nothing once that entry is gone, unless
//! it was rotated itself. So whatever ends a session ends its aliases with it, and so does a renewal, which
//! leaves none.
//!
//! Lock order: a handle's slot, then the aliases, then an entry.

use std::collections::{HashMap, VecDeque};

use crate::cache::{Entry, EntryRef};
use crate::sync::{AtomicUsize, Mutex, MutexGuard, Ordering};
use crate::token::SessionId;

/// Aliases kept at most, about 10 MiB. Beyond it the oldest go early: a grace that is shorter, never longer.
const MOST: usize = 1 << 16;

pub(crate) struct Aliases {
    table: Mutex<Table>,
    /// Of the table, so that most lookups need no lock.
    len: AtomicUsize,
}

#[derive(Default)]
pub(crate) struct Table {
    by_id: HashMap<SessionId, Alias>,
    /// In the order of their ends, as all have the same grace.
    order: VecDeque<(u64, SessionId)>,
}

struct Alias {
    entry: EntryRef,
    until: u64,
}

impl Table {
    /// Lets `old` lead to `entry` until `until`. Returns the alias that had to go early for it.
    #[must_use]
    pub(crate) fn add(&mut self, old: SessionId, entry: EntryRef, until: u64) -> Option<SessionId> {
        let early = (self.order.len() >= MOST).then(|| self.order.pop_front()).flatten().map(|(_, id)| id);
        if let Some(id) = &early {
            self.by_id.remove(id);
        }
        self.by_id.insert(old, Alias { entry, until });
        self.order.push_back((until, old));
        early
    }
}

impl Aliases {
    pub(crate) fn new() -> Self {
        Self { table: Mutex::new(Table::default()), len: AtomicUsize::new(0) }
    }

    /// The table, for whoever is about to move a session: nobody finds the old entry gone and no alias yet.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Notes what was added under the lock. Its caller adds before it takes the old id out of the cache.
    pub(crate) fn count(&self, table: &Table) {
        self.len.store(table.order.len(), Ordering::Release);
    }

    /// Where `old` leads at `now`.
    pub(crate) fn target(&self, old: &SessionId, now: u64) -> Option<EntryRef> {
        // Under the lock: somebody may be at work on it who has not counted yet.
        let table = self.table.lock();
        table.by_id.get(old).filter(|alias| now < alias.until).map(|alias| alias.entry.clone())
    }

    /// An entry for a request that presents the old id: gone, as that id is, and leading on.
    pub(crate) fn find(&self, old: &SessionId, now: u64) -> Option<EntryRef> {
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.target(old, now).map(|_| Entry::alias(*old))
    }

    /// Forgets those whose grace is over, and returns their ids.
    pub(crate) fn purge(&self, now: u64) -> Vec<SessionId> {
        if self.len.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut over = Vec::new();
        let mut table = self.table.lock();
        while let Some((until, id)) = table.order.front().copied()
            && until <= now
        {
            table.order.pop_front();
            over.push((id, table.by_id.remove(&id)));
        }
        self.count(&table);
        drop(table);
        over.into_iter().map(|(id, _)| id).collect()
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_alias_goes_early_and_is_named() {
        let id = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
            SessionId::from_bytes(bytes)
        };
        let mut table = Table::default();
        let target = Entry::alias(id(usize::MAX));
        for n in 0..MOST {
            assert_eq!(table.add(id(n), target.clone(), 1), None);
        }
        assert_eq!(table.add(id(MOST), target.clone(), 1), Some(id(0)));
        assert_eq!((table.by_id.len(), table.order.len()), (MOST, MOST));
    }
}
