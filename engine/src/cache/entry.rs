//! One cached session: its record, its life-cycle phase and what the store knows of it.
//! It does not know the map it lives in, the clock or the store.
//!
//! Lock order: an entry's lock, then the queue's. The `QUEUED` flag and the push it stands for happen under the
//! entry's lock, so whoever sees the flag may rely on the queue: otherwise a second writer could ask for a
//! flush between the two and be told that there is nothing to write.
//!
//! Invariants
//! - `phase` and `flags` are written only under the write lock of `record`, so whoever holds that lock (for
//!   reading or writing) sees all three agree. Without the lock they are hints.
//! - `record` is `None` exactly when the phase is one of the gone ones. Phases only move forward:
//!   unpublished, live, gone. An entry never comes back: that is promise P3.
//! - The version in the record is the version the store will have once the record is written: it rises with
//!   the first change after a pick-up by the writer, not with every change.

mod claim;
mod owned;
mod renewal;
mod seen;
mod shared;
mod write;

use std::ops::Deref;

pub(crate) use self::claim::Claimed;
pub(crate) use self::seen::Seen;
pub(crate) use self::shared::{Answer, Rebased};
pub(crate) use self::write::{Amend, Pick, WriteMode};
use super::Grown;
use crate::error::{Error, ErrorKind, Result};
use crate::observer::ExpiredBy;
use crate::owner::Follow;
use crate::record::{Meta, Record, Times};
use crate::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, RwLock};
use crate::token::SessionId;
use crate::writer::Queue;

/// Shared ownership of an entry. The map holds one count; every handle and queue slot holds another.
#[derive(Clone)]
pub(crate) struct EntryRef(triomphe::Arc<Entry>);

impl Deref for EntryRef {
    type Target = Entry;
    #[inline]
    fn deref(&self) -> &Entry {
        &self.0
    }
}

impl EntryRef {
    pub(crate) fn is(&self, other: &Self) -> bool {
        triomphe::Arc::ptr_eq(&self.0, &other.0)
    }

    /// Where it is.
    #[inline]
    pub(super) fn address(&self) -> *const Entry {
        triomphe::Arc::as_ptr(&self.0)
    }

    /// Whether anybody holds it beside the map and the caller.
    pub(crate) fn is_held(&self) -> bool {
        triomphe::Arc::count(&self.0) > 2
    }

    /// Whether this is the only count.
    pub(crate) fn is_unshared(&self) -> bool {
        triomphe::Arc::count(&self.0) == 1
    }
}

/// Where an entry is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Created by a request whose response head is not out yet; in no map, in no store.
    Unpublished = 0,
    /// In service.
    Live = 1,
    /// Destroyed by its own user.
    Destroyed = 2,
    /// Re-keyed: its data lives on under another id.
    Renewed = 3,
    /// Its deadline or idle timeout has passed.
    Expired = 4,
    /// Revoked by id.
    Revoked = 5,
    /// Its data was taken for a merge that has not been settled: `cache/entry/claim.rs`.
    Merging = 6,
}

impl Phase {
    fn from_u8(v: u8) -> Self {
        match v {
            0 => Self::Unpublished,
            1 => Self::Live,
            2 => Self::Destroyed,
            3 => Self::Renewed,
            4 => Self::Expired,
            6 => Self::Merging,
            _ => Self::Revoked,
        }
    }

    pub(crate) fn is_gone(self) -> bool {
        !matches!(self, Self::Unpublished | Self::Live)
    }
}

/// The record differs from what the writer last picked up.
const DIRTY: u8 = 1;
/// The writer is committing a state of this entry.
const IN_FLIGHT: u8 = 2;
/// The entry is in the dirty queue.
const QUEUED: u8 = 4;
/// The store has a row under this id.
const STORED: u8 = 8;
/// A renewal has been picked up; until it is resolved nothing else of this entry is written.
const RENEWING: u8 = 16;
/// The store's row is not what we believe it to be: replace it outright.
const REPLACE: u8 = 32;
/// Somebody may wait for the session to change or end; see [`Watches`](crate::watch::Watches).
const WATCHED: u8 = 64;

/// The session has an owner, and is accounted as such. Stays as it was when the session ends.
const OWNED: u8 = 128;

/// A cached session.
pub(crate) struct Entry {
    id: SessionId,
    record: RwLock<Option<Record>>,
    /// Engine time in ms of the latest use.
    last_seen: AtomicU64,
    /// The wheel tick this entry is filed under, in its low 32 bits; an item of another tick is stale.
    armed: AtomicU32,
    phase: AtomicU8,
    flags: AtomicU8,
    /// How often the record was replaced: `cache/entry/seen.rs`.
    edits: AtomicU16,
}

/// What [`Entry::read`] found.
pub(crate) enum Read<R = Record> {
    /// The current record, or what was wanted of it.
    Live(R),
    /// The deadline or idle timeout has passed, but the entry does not know it yet.
    Due,
    /// The session is gone.
    Gone,
}

/// What came of [`Entry::edit`].
pub(crate) enum Edited<R> {
    /// Nothing changed.
    Kept(R),
    /// The record was replaced.
    Replaced {
        /// The edit's own result.
        value: R,
        /// For the budget.
        grown: Grown,
        /// The record that was replaced, to be dropped outside the lock.
        _old: Record,
    },
    /// The record was not the expected one.
    Conflict,
}

impl Entry {
    /// An entry that only its creator can see.
    pub(crate) fn unpublished(id: SessionId, record: Record) -> EntryRef {
        Self::make(id, Some(record), Phase::Unpublished, 0)
    }

    /// An entry just read from the store.
    pub(crate) fn loaded(id: SessionId, record: Record) -> EntryRef {
        Self::make(id, Some(record), Phase::Live, STORED)
    }

    /// The entry a renewal creates. `dirty` says that the record is newer than the row already stored.
    /// If so it has been marked as queued, and the caller must push it before anyone can see it.
    pub(crate) fn renewed(id: SessionId, record: Record, stored: bool, dirty: bool) -> EntryRef {
        let stored = if stored { STORED } else { 0 };
        let dirty = if dirty { DIRTY | QUEUED } else { 0 };
        Self::make(id, Some(record), Phase::Live, stored | dirty)
    }

    /// A tombstone for a session that is revoked while it is not cached, marked as queued as above.
    pub(crate) fn tombstone(id: SessionId) -> EntryRef {
        Self::make(id, None, Phase::Revoked, QUEUED | STORED)
    }

    /// An entry for the old id of a rotated session: gone, and in no map.
    pub(crate) fn alias(id: SessionId) -> EntryRef {
        Self::make(id, None, Phase::Renewed, 0)
    }

    fn make(id: SessionId, record: Option<Record>, phase: Phase, flags: u8) -> EntryRef {
        let last_seen = record.as_ref().map_or(0, Record::last_seen);
        // What has no record is no newcomer that others must be protected from.
        let owned = if record.as_ref().is_none_or(Record::has_owner) { OWNED } else { 0 };
        EntryRef(triomphe::Arc::new(Self {
            id,
            record: RwLock::new(record),
            last_seen: AtomicU64::new(last_seen),
            armed: AtomicU32::new(0),
            phase: AtomicU8::new(phase as u8),
            flags: AtomicU8::new(flags | owned),
            edits: AtomicU16::new(0),
        }))
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.id
    }

    /// The phase: a hint without the lock, except that gone stays gone.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    fn flags(&self) -> u8 {
        self.flags.load(Ordering::Relaxed)
    }

    fn set_flags(&self, flags: u8) {
        self.flags.store(flags, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn last_seen(&self) -> u64 {
        self.last_seen.load(Ordering::Relaxed)
    }

    /// Notes a use at `now`. The count beside it has just been written by the lookup, so the store costs
    /// nothing; two racing touches may leave the earlier of two times that are less than a request apart.
    #[inline]
    pub(crate) fn touch(&self, now: u64) {
        if now > self.last_seen.load(Ordering::Relaxed) {
            self.last_seen.store(now, Ordering::Relaxed);
        }
    }

    pub(crate) fn armed(&self) -> u32 {
        self.armed.load(Ordering::Relaxed)
    }

    pub(crate) fn arm(&self, tick: u32) {
        self.armed.store(tick, Ordering::Relaxed);
    }

    /// When the session in `record` expires, in ms, given its latest use.
    fn expiry(&self, record: &Record) -> u64 {
        self.expiry_of(&record.times())
    }

    #[inline]
    fn expiry_of(&self, times: &Times) -> u64 {
        match times.idle_timeout {
            0 => times.deadline,
            idle => times.deadline.min(self.last_seen().saturating_add(idle)),
        }
    }

    /// When the session expires, in ms; `None` if it is gone.
    pub(crate) fn expires_at(&self) -> Option<u64> {
        self.record.read().as_ref().map(|r| self.expiry(r))
    }

    /// The current record, if the session is in service at `now`.
    #[inline]
    pub(crate) fn read(&self, now: u64) -> Read {
        self.peek(now, Record::clone)
    }

    /// As [`read`](Self::read), for what `look` sees of the record. It runs under the lock, so it is engine code.
    #[inline]
    pub(crate) fn peek<R>(&self, now: u64, look: impl FnOnce(&Record) -> R) -> Read<R> {
        let record = self.record.read();
        match &*record {
            Some(r) if now < self.expiry(r) => Read::Live(look(r)),
            Some(_) => Read::Due,
            None => Read::Gone,
        }
    }

    /// Whether the session is in service at `now`, and the times of its record.
    #[inline]
    pub(crate) fn check(&self, now: u64) -> Option<Times> {
        let record = self.record.read();
        let times = record.as_ref()?.times();
        (now < self.expiry_of(&times)).then_some(times)
    }

    /// Whether nothing would be lost if the map forgot this entry. The caller holds the map's write lock and
    /// the only count, so that nobody can change the answer.
    pub(crate) fn is_clean(&self) -> bool {
        self.phase() == Phase::Live && self.flags() & !(WATCHED | OWNED) == STORED
    }

    /// Whether the session has, or had, an owner: a hint without the lock.
    pub(crate) fn is_owned(&self) -> bool {
        self.flags() & OWNED != 0
    }

    /// Whether a renewal of it has been picked up and not been resolved.
    pub(crate) fn is_renewing(&self) -> bool {
        self.flags() & RENEWING != 0
    }

    /// Whether somebody may wait for it. To be asked after a change or an end of this entry: who was too late
    /// to be seen then sees the change.
    pub(crate) fn is_watched(&self) -> bool {
        self.flags() & WATCHED != 0
    }

    /// Marks the entry as watched.
    pub(crate) fn watch(&self) {
        let _slot = self.change();
        self.set_flags(self.flags() | WATCHED);
    }

    /// Takes the mark away if `nobody` waits, which is asked under the lock that `watch` needs.
    pub(crate) fn unwatch(&self, nobody: impl FnOnce() -> bool) {
        let _slot = self.change();
        if nobody() {
            self.set_flags(self.flags() & !WATCHED);
        }
    }

    /// Bytes of the record, 0 if gone.
    pub(crate) fn record_bytes(&self) -> usize {
        self.record.read().as_ref().map_or(0, Record::byte_len)
    }
}

/// What changes an entry so that the store must follow: these put it on the queue, and so need a count.
impl EntryRef {
    /// Replaces the record under the lock by what `edit` makes of it. With `expected`, only if the record is
    /// still that one. `edit` is engine code: nothing of the user's runs under the lock.
    pub(crate) fn edit<R>(
        &self,
        follow: Follow<'_>,
        now: u64,
        expected: Option<&Record>,
        edit: impl FnOnce(&Record, Meta) -> Result<(Option<Record>, R)>,
    ) -> Result<Edited<R>> {
        let mut slot = self.change();
        let Some(record) = &*slot else { return Err(revoked()) };
        if now >= self.expiry(record) {
            return Err(revoked());
        }
        if expected.is_some_and(|e| !e.ptr_eq(record)) {
            return Ok(Edited::Conflict);
        }
        let flags = self.flags();
        let live = self.phase() == Phase::Live;
        let mut meta = record.meta();
        if live && flags & DIRTY == 0 {
            meta.version += 1;
        }
        meta.last_seen = meta.last_seen.max(self.last_seen());
        let (new, value) = edit(record, meta)?;
        let Some(new) = new else { return Ok(Edited::Kept(value)) };
        // Only sessions in service are booked; publishing books the rest at once.
        let owned = new.has_owner();
        let change = live.then(|| [(record.byte_len(), flags & OWNED != 0), (new.byte_len(), owned)]);
        let grown = Grown { change, hash: self.id.bucket() };
        let flags = if owned { flags | OWNED } else { flags & !OWNED };
        if live && !new.same_owner(record) {
            follow.owners.change(&self.id, record.owner(), new.owner());
        }
        let Some(old) = slot.replace(new) else { return Err(revoked()) };
        if live {
            self.set_flags(flags | DIRTY);
            self.enqueue(follow.queue);
        } else {
            self.set_flags(flags);
        }
        Ok(Edited::Replaced { value, grown, _old: old })
    }

    /// Puts the entry on the queue unless it is there. The caller holds the write lock.
    fn enqueue(&self, queue: Option<&Queue>) {
        let flags = self.flags();
        if flags & QUEUED != 0 {
            return;
        }
        if let Some(queue) = queue {
            self.set_flags(flags | QUEUED);
            queue.push_dirty(self.clone());
        }
    }

    /// Puts the entry into service. Returns its record's size in bytes, or `None` if it has ended already.
    pub(crate) fn publish(&self, follow: Follow<'_>) -> Option<usize> {
        let slot = self.change();
        let record = slot.as_ref()?;
        self.set_phase(Phase::Live);
        self.set_flags(self.flags() & (OWNED | WATCHED) | DIRTY);
        follow.owners.change(&self.id, None, record.owner());
        self.enqueue(follow.queue);
        Some(record.byte_len())
    }

    /// Ends the session for good if `really` says so of its record; every handle sees it at once, and its row will
    /// be deleted. `None` if it had ended before or had never been in service, else the bytes freed.
    pub(crate) fn revoke(
        &self,
        follow: Follow<'_>,
        reason: Phase,
        really: impl FnOnce(&Record) -> bool,
    ) -> Option<usize> {
        debug_assert!(reason.is_gone());
        self.end(follow, reason, really)
    }

    /// As [`revoke`](Self::revoke) with [`Phase::Expired`], but only if the expiry is due at `now`.
    pub(crate) fn expire(&self, follow: Follow<'_>, now: u64) -> Option<(usize, ExpiredBy)> {
        let mut by = ExpiredBy::Idle;
        let bytes = self.end(follow, Phase::Expired, |record| {
            if now >= record.deadline() {
                by = ExpiredBy::Deadline;
            }
            now >= self.expiry(record)
        })?;
        Some((bytes, by))
    }

    fn end(&self, follow: Follow<'_>, reason: Phase, really: impl FnOnce(&Record) -> bool) -> Option<usize> {
        let mut slot = self.change();
        if !slot.as_ref().is_some_and(really) {
            self.end_claimed(follow.queue, reason);
            return None;
        }
        let old = slot.take()?;
        let published = self.phase() == Phase::Live;
        self.set_phase(reason);
        if published {
            follow.owners.change(&self.id, old.owner(), None);
            self.enqueue(follow.queue);
        }
        drop(slot);
        published.then(|| old.byte_len())
    }
}

/// The error of an operation on a session that is gone.
pub(crate) fn revoked() -> Error {
    Error::new(ErrorKind::Revoked, "the session was destroyed, renewed elsewhere, revoked or has expired")
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_72_bytes_with_its_count() {
        // The memory formula in the cache's documentation counts on it.
        assert_eq!(size_of::<Entry>(), 64);
    }
}
