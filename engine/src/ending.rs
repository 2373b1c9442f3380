//! How sessions end: by their user, by time, or by somebody else, cached or not. It counts and tells every end and
//! wakes who waits for it; it decides none.

use crate::cache::{Entry, EntryRef, Phase};
use crate::core::Core;
use crate::observer::{Event, RevokedBy};
use crate::record::Record;
use crate::token::SessionId;

/// How a session ends, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Destroyed,
    Expired,
    Revoked(RevokedBy),
}

impl Ending {
    fn phase(self) -> Phase {
        match self {
            Self::Destroyed => Phase::Destroyed,
            Self::Expired => Phase::Expired,
            Self::Revoked(_) => Phase::Revoked,
        }
    }
}

/// A session in service that nobody was told of yet: it is ended unless it is kept.
pub(crate) struct Orphan<'a> {
    core: &'a Core,
    entry: Option<EntryRef>,
}

impl<'a> Orphan<'a> {
    pub(crate) fn new(core: &'a Core, entry: EntryRef) -> Self {
        Self { core, entry: Some(entry) }
    }

    /// Its token is on its way.
    pub(crate) fn keep(mut self) {
        self.entry = None;
    }
}

impl Drop for Orphan<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.core.end(&entry, Ending::Revoked(RevokedBy::Undelivered));
        }
    }
}

impl Core {
    /// Ends a session; every handle sees it before this returns. Also one that was never published, of which only
    /// its own request knows.
    pub(crate) fn end(&self, entry: &EntryRef, ending: Ending) -> bool {
        self.end_if(entry, ending, |_| true)
    }

    /// As [`end`](Self::end), but only if `really` says so of its record.
    pub(crate) fn end_if(
        &self,
        entry: &EntryRef,
        ending: Ending,
        really: impl FnOnce(&Record) -> bool,
    ) -> bool {
        let bytes = entry.revoke(self.follow(), ending.phase(), really);
        if let Some(bytes) = bytes {
            self.ended(entry, bytes, ending);
        }
        self.watches.wake(entry);
        bytes.is_some()
    }

    /// Ends a session whose time has come.
    pub(crate) fn expire(&self, entry: &EntryRef, now: u64) {
        if self.shared.is_some() {
            return self.expired_among_others(entry, now);
        }
        if let Some((bytes, by)) = entry.expire(self.follow(), now) {
            self.ended(entry, bytes, Ending::Expired);
            self.notify(|| Event::Expired { id: *entry.id(), by });
            self.watches.wake(entry);
        }
    }

    fn ended(&self, entry: &EntryRef, bytes: usize, ending: Ending) {
        self.cache.freed(entry, bytes);
        // Where a renewal that came to nothing may have left the row.
        if let Some(to) = self.shared.as_ref().and_then(|shared| shared.near.where_strayed(entry.id())) {
            self.queue.push_delete(to);
        }
        if self.store.is_none() {
            self.cache.remove(entry);
        } else if entry.is_renewing() {
            // Its row may be, or come to be, under the new id. Whoever waits for the renewal may take long to
            // find out that it has failed; the deletion must not.
            for to in self.moving.targets(entry) {
                self.moving.give_up(&to);
                self.queue.push_delete(to);
            }
        }
        let id = *entry.id();
        tracing::debug!(target: "sessile", reason = ending.phase().describe(), "a session ended");
        match ending {
            Ending::Destroyed => {
                self.counters.destroyed.add(1);
                self.notify(|| Event::Destroyed { id });
            }
            // The caller tells the observer why.
            Ending::Expired => self.counters.expired.add(1),
            Ending::Revoked(by) => self.revoked(&id, by),
        }
    }

    /// Counts and tells a revocation.
    pub(crate) fn revoked(&self, id: &SessionId, by: RevokedBy) {
        self.counters.revoked.add(1);
        self.notify(|| Event::Revoked { id: *id, by });
    }

    /// Revokes a session by id, cached or not.
    pub(crate) fn revoke(&self, id: &SessionId) {
        loop {
            let now = self.clock.now_ms();
            if let Some(entry) = self.cache.get(id).or_else(|| self.aliases.find(id, now)) {
                self.end_wherever(entry, Ending::Revoked(RevokedBy::Id));
                return;
            }
            if self.store.is_none() || self.bury(id, None, RevokedBy::Id) {
                return;
            }
        }
    }

    /// Puts a tombstone where nothing is cached, so that the row is deleted. With `seen`, only if the removal
    /// counter of the id has not moved since: then what was read from the store is still true. `false` if
    /// something is cached or has been.
    pub(crate) fn bury(&self, id: &SessionId, seen: Option<u32>, by: RevokedBy) -> bool {
        let tombstone = Entry::tombstone(*id);
        let placed = match seen {
            Some(seen) => matches!(self.cache.insert_loaded(&tombstone, seen), Ok(true)),
            None => self.cache.insert(&tombstone, 0).is_ok(),
        };
        if placed {
            self.queue.push_dirty(tombstone);
            self.revoked(id, by);
        }
        placed
    }
}
