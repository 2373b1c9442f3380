//! Taking a session's data for a merge into another session, so that it can be given back. The merge itself is
//! `session/merge.rs`.
//!
//! A claimed entry has no record, so everyone who holds it sees it gone; it stays in the map and off the queue,
//! so no load brings its row back and no writer deletes it. It is then settled (deleted, as if destroyed) or
//! given back, as a new entry in its place. A logout meanwhile wins: then there is nothing to give back.
//!
//! Before it is settled its row may be *buried*: deleted, while the data can still be given back. `REPLACE` of a claimed
//! entry says so.

use super::{DIRTY, Entry, EntryRef, IN_FLIGHT, Phase, QUEUED, RENEWING, REPLACE, STORED};
use crate::cache::Cache;
use crate::record::Record;
use crate::writer::Queue;

/// What came of [`EntryRef::claim`].
pub(crate) enum Claimed {
    /// The data.
    Taken(Record),
    /// It is being renewed, or has changes that its row has not: look again after a flush.
    Busy,
    /// It is gone, or due.
    Gone,
}

impl EntryRef {
    /// Takes the record of a session in service. Unless `dirty` is allowed, only if the store has it as it is,
    /// so that a crash before the merge is stored loses nothing.
    pub(crate) fn claim(&self, now: u64, dirty: bool) -> Claimed {
        let mut slot = self.change();
        let flags = self.flags();
        match &*slot {
            Some(record) if now < self.expiry(record) && self.phase() == Phase::Live => {}
            _ => return Claimed::Gone,
        }
        if flags & RENEWING != 0 || (!dirty && flags & (DIRTY | IN_FLIGHT) != 0) {
            return Claimed::Busy;
        }
        let Some(record) = slot.take() else { return Claimed::Gone };
        self.set_flags(flags & !REPLACE);
        self.set_phase(Phase::Merging);
        Claimed::Taken(record)
    }

    /// The claimed data is stored in its new place, so its row here is to be deleted. What comes then may still fail,
    /// and the data be given back: that writes the row anew.
    pub(crate) fn bury_claim(&self, queue: Option<&Queue>) {
        let _slot = self.change();
        if self.phase() == Phase::Merging {
            self.set_flags(self.flags() | REPLACE);
            self.enqueue(queue);
        }
    }

    /// The claimed data has found its place for good: the row will be deleted, if it has not been. `None` if somebody
    /// ended it before, else whether there may be a row.
    pub(crate) fn settle_claim(&self, queue: Option<&Queue>) -> Option<bool> {
        let _slot = self.change();
        if self.phase() != Phase::Merging {
            return None;
        }
        self.set_phase(Phase::Destroyed);
        let has_row = self.flags() & (STORED | QUEUED | IN_FLIGHT) != 0;
        if has_row {
            self.enqueue(queue);
        }
        Some(has_row)
    }

    /// The claimed data has found no place: a new entry with it takes this one's. `None` if somebody ended it
    /// before.
    pub(crate) fn give_claim_back(
        &self,
        cache: &Cache,
        queue: Option<&Queue>,
        record: Record,
    ) -> Option<EntryRef> {
        // Held until the new entry is in the map: a logout comes before and ends this one, or after and finds
        // that one.
        let _slot = self.change();
        if self.phase() != Phase::Merging {
            return None;
        }
        let clean = self.flags() & (DIRTY | IN_FLIGHT | QUEUED | STORED | REPLACE) == STORED;
        let flags = match queue {
            None => DIRTY,
            Some(_) if clean => STORED,
            Some(_) => DIRTY | QUEUED | STORED | REPLACE,
        };
        let bytes = record.byte_len();
        let new = Entry::make(*self.id(), Some(record), Phase::Live, flags);
        new.touch(self.last_seen());
        self.set_phase(Phase::Renewed);
        if !cache.replace(self, &new, bytes) {
            return None;
        }
        if let Some(queue) = queue.filter(|_| !clean) {
            queue.push_dirty(new.clone());
        }
        Some(new)
    }

    /// Ends a claimed session for good. The caller holds the write lock and has found no record.
    pub(super) fn end_claimed(&self, queue: Option<&Queue>, reason: Phase) {
        if self.phase() == Phase::Merging && reason != Phase::Expired {
            self.set_phase(reason);
            self.enqueue(queue);
        }
    }
}
