//! Reading past an entry's lock: a reader keeps the record that it saw, and asks one number whether that is still the
//! entry's. It knows no handle, and changes nothing but the number.
//!
//! # Invariants
//! - The number of edits changes under the write lock, before the record does: [`Change`] sees to that, and is the
//!   only way to the lock. So whoever finds the number that he noted has the record that was current when he asked;
//!   whoever finds another takes the lock, and there waits for the change.
//! - The number only rises, and ends at [`MANY`], where it tells nothing any more and every reader takes the lock. So
//!   it never comes round to a number that somebody noted.

use std::ops::{Deref, DerefMut};

use super::Entry;
use crate::record::{Record, Times};
use crate::sync::{Ordering, RwLockWriteGuard};

/// More edits are not counted.
const MANY: u16 = u16::MAX;
/// No number of edits.
const UNKNOWN: u32 = u32::MAX;

/// What a reader saw of an entry.
pub(crate) struct Seen {
    record: Record,
    pub(crate) times: Times,
    /// How often the record had been replaced, or [`UNKNOWN`].
    edits: u32,
}

impl Entry {
    /// The current record, to be kept, if the session is in service at `now`.
    #[inline]
    pub(crate) fn see(&self, now: u64) -> Option<Seen> {
        let slot = self.record.read();
        let record = slot.as_ref()?;
        record.touch_lines();
        let times = record.times();
        if now >= self.expiry_of(&times) {
            return None;
        }
        let edits = self.edits.load(Ordering::Relaxed);
        let edits = if edits == MANY { UNKNOWN } else { edits.into() };
        Some(Seen { record: record.clone(), times, edits })
    }

    /// The record of `seen`, if it is this entry's current one and the session is in service at `now`. `None` says
    /// nothing: the lock has to be taken.
    #[inline]
    pub(crate) fn still<'a>(&self, seen: &'a Seen, now: u64) -> Option<&'a Record> {
        // In one order with all other edits: of two handles that each change a session and then read the other's, one
        // must see the other's change.
        let same = u32::from(self.edits.load(Ordering::SeqCst)) == seen.edits;
        (same && now < self.expiry_of(&seen.times)).then_some(&seen.record)
    }

    /// Takes the write lock.
    #[inline]
    pub(super) fn change(&self) -> Change<'_> {
        Change { entry: self, slot: self.record.write(), counted: false }
    }
}

/// The write lock, held.
pub(super) struct Change<'a> {
    entry: &'a Entry,
    slot: RwLockWriteGuard<'a, Option<Record>>,
    counted: bool,
}

impl Deref for Change<'_> {
    type Target = Option<Record>;
    #[inline]
    fn deref(&self) -> &Option<Record> {
        &self.slot
    }
}

impl DerefMut for Change<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Option<Record> {
        if !self.counted {
            self.counted = true;
            let edits = self.entry.edits.load(Ordering::Relaxed).saturating_add(1);
            self.entry.edits.store(edits, Ordering::SeqCst);
        }
        &mut self.slot
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::cache::EntryRef;
    use crate::record::Meta;
    use crate::token::SessionId;

    fn meta() -> Meta {
        Meta { idle_timeout: None, ..crate::record::tests::meta() }
    }

    fn entry() -> EntryRef {
        Entry::loaded(SessionId::from_bytes([7; 32]), Record::empty(&meta()))
    }

    #[test]
    fn what_was_seen_holds_until_the_record_is_replaced_or_its_time_comes() {
        let entry = entry();
        let deadline = meta().deadline;
        let seen = entry.see(deadline - 1).expect("in service");
        assert!(entry.still(&seen, deadline - 1).is_some());
        assert!(entry.still(&seen, deadline).is_none());
        // Looked at under the write lock, but not changed.
        drop(entry.change());
        assert!(entry.still(&seen, deadline - 1).is_some());
        let mut slot = entry.change();
        let record = slot.take();
        assert!(entry.still(&seen, deadline - 1).is_none(), "told before the change is made");
        *slot = record;
        drop(slot);
        assert!(entry.still(&seen, deadline - 1).is_none(), "and for ever");
        let again = entry.see(deadline - 1).expect("in service");
        assert!(entry.still(&again, deadline - 1).is_some());
    }

    #[test]
    fn a_number_that_was_noted_never_comes_round() {
        let entry = entry();
        let now = meta().deadline - 1;
        let seen = entry.see(now).expect("in service");
        for _ in 0..2 * (u32::from(MANY) + 1) {
            let mut slot = entry.change();
            let record = slot.take();
            *slot = record;
            drop(slot);
            assert!(entry.still(&seen, now).is_none());
        }
        let seen = entry.see(now).expect("in service");
        assert!(entry.still(&seen, now).is_none(), "no longer counted, so the lock is taken");
    }
}
