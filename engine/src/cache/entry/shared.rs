//! An entry over a store that others write to: what they stored is taken over, under what has been changed here and not
//! been stored. It talks to no store.

use super::{DIRTY, Entry, EntryRef, IN_FLIGHT, OWNED, Phase, RENEWING, STORED};
use crate::cache::Grown;
use crate::error::Result;
use crate::owner::Follow;
use crate::record::Record;
use crate::shared::Near;

/// What the store said, and when it was asked.
pub(crate) struct Answer<'a> {
    pub(crate) stored: &'a Record,
    /// Engine time in ms before it was asked, or 0 if that is not known.
    pub(crate) asked_at: u64,
    /// [`Near::notices`] before it was asked.
    pub(crate) notices: u32,
}

/// What came of [`EntryRef::rebase`].
pub(crate) enum Rebased {
    /// The session is gone.
    Gone,
    /// The writer is about to learn more.
    Busy,
    /// Nothing new.
    Same,
    /// The record was replaced.
    Changed {
        /// For the budget.
        grown: Grown,
        /// The record that was replaced, to be dropped outside the lock.
        _old: Record,
    },
}

impl Entry {
    /// Whether the store has a row of it, as far as is known: a hint without the lock.
    pub(crate) fn is_stored(&self) -> bool {
        self.flags() & STORED != 0
    }

    /// As [`written`](Self::written), with what was picked up and is the stored state now.
    pub(crate) fn written_as(&self, near: &Near, picked: &Record, at: u64, notices: u32) {
        let _slot = self.change();
        near.stored(&self.id, picked, at, notices);
        self.set_flags(self.flags() & !IN_FLIGHT | STORED);
    }
}

impl EntryRef {
    /// Takes over what is stored. What was changed here since the last stored state that was known stays changed, and
    /// dirty.
    ///
    /// # Errors
    /// Both together are too large for a record.
    pub(crate) fn rebase(&self, follow: Follow<'_>, near: &Near, answer: &Answer<'_>) -> Result<Rebased> {
        let Answer { stored, asked_at, notices } = *answer;
        let mut slot = self.change();
        let Some(record) = slot.as_ref().filter(|_| self.phase() == Phase::Live) else {
            return Ok(Rebased::Gone);
        };
        let flags = self.flags();
        if flags & (IN_FLIGHT | RENEWING) != 0 {
            return Ok(Rebased::Busy);
        }
        let dirty = flags & DIRTY != 0;
        let base = near.base(&self.id).or_else(|| (!dirty).then(|| record.clone()));
        if let Some(base) = &base
            && stored.version() <= base.version()
        {
            // An older state than the known one was read before that one was stored.
            if stored.version() == base.version() {
                near.learn(&self.id, base, asked_at, notices);
            }
            return Ok(Rebased::Same);
        }
        let new = if dirty { Record::rebased(base.as_ref(), record, stored)? } else { stored.clone() };
        near.learn(&self.id, stored, asked_at, notices);
        self.touch(stored.last_seen());
        let owned = new.has_owner();
        let change = Some([(record.byte_len(), flags & OWNED != 0), (new.byte_len(), owned)]);
        let grown = Grown { change, hash: self.id.bucket() };
        if !new.same_owner(record) {
            follow.owners.change(&self.id, record.owner(), new.owner());
        }
        let flags = if owned { flags | OWNED } else { flags & !OWNED };
        self.set_flags(flags | STORED);
        match slot.replace(new) {
            Some(old) => Ok(Rebased::Changed { grown, _old: old }),
            None => Ok(Rebased::Gone),
        }
    }
}
