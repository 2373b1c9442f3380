//! The renewal side of an entry: a record is taken for a renewal, then the entry ends in favour of another one, or
//! goes on. The steps in between are `writer/renewal.rs`.

use super::{DIRTY, Entry, EntryRef, Phase, RENEWING, REPLACE, STORED, revoked};
use crate::error::Result;
use crate::record::Record;
use crate::writer::Queue;

/// A record taken for a renewal.
pub(crate) struct Taken {
    pub(crate) record: Record,
    pub(crate) stored: bool,
}

impl Entry {
    /// Picks the record up for a renewal. `Ok(None)` if another renewal is under way.
    pub(crate) fn take_for_renewal(&self, now: u64) -> Result<Option<Taken>> {
        let slot = self.change();
        let Some(record) = &*slot else { return Err(revoked()) };
        if now >= self.expiry(record) {
            return Err(revoked());
        }
        let flags = self.flags();
        if flags & RENEWING != 0 {
            return Ok(None);
        }
        self.set_flags(flags | RENEWING);
        Ok(Some(Taken { record: record.clone(), stored: flags & STORED != 0 }))
    }

    /// Ends this entry in favour of the one that `successor` makes of the newest record, and returns that one
    /// and the bytes freed. Everyone who still holds this entry is revoked.
    ///
    /// `successor` puts the new entry into the map while this one is still locked, so there is no moment at
    /// which neither of the two can be found.
    pub(crate) fn finish_renewal(
        &self,
        successor: impl FnOnce(Record) -> EntryRef,
    ) -> Result<(EntryRef, usize)> {
        let mut slot = self.change();
        let Some(record) = slot.take() else { return Err(revoked()) };
        self.set_phase(Phase::Renewed);
        self.set_flags(self.flags() & !(RENEWING | DIRTY));
        let bytes = record.byte_len();
        Ok((successor(record), bytes))
    }
}

impl Entry {
    /// The renewal has not been tried yet, after all.
    pub(crate) fn let_go_of_renewal(&self) {
        let _slot = self.change();
        self.set_flags(self.flags() & !RENEWING);
    }
}

impl EntryRef {
    /// As [`abort_renewal`](Self::abort_renewal) over a store that others write to: the row may be under either id and is
    /// not to be made anew. It is written once more, as a version of its own.
    pub(crate) fn abort_renewal_among_others(&self, queue: &Queue) {
        let mut slot = self.change();
        let flags = self.flags() & !RENEWING;
        self.set_flags(flags);
        let Some(record) = slot.as_ref() else { return };
        if flags & (DIRTY | STORED) == STORED {
            let mut meta = record.meta();
            meta.version += 1;
            let new = record.with_meta(&meta);
            *slot = Some(new);
        }
        self.set_flags(flags | DIRTY);
        self.enqueue(Some(queue));
    }

    /// Gives the renewal up: the session goes on under this id. The store may have moved the row already, so
    /// it is inserted again.
    pub(crate) fn abort_renewal(&self, queue: &Queue) {
        let _slot = self.change();
        self.set_flags(self.flags() & !(RENEWING | STORED | REPLACE) | DIRTY);
        self.enqueue(Some(queue));
    }
}
