//! The state of one request behind its session handles, and the ways past its lock: a request that only
//! reads, or writes to the session it came with, never takes it. It knows nothing of what the state means to
//! clients.
//!
//! # Invariants
//! - While [`MOVED`] is unset the handle stands for the entry it began with, whether or not the lock was
//!   taken. The flag is set before a lock under which that changed is released, and never unset.
//! - [`HEAD_SENT`] is set by one operation on the flags, so exactly one commit is the first. Whoever took the
//!   lock before it has set [`OPENED`] on the same flags, and that commit looks under the lock; whoever takes
//!   it later sees that the head is out.

use std::ops::{Deref, DerefMut};

use super::Claim;
use crate::cache::{EntryRef, Seen};
use crate::record::Record;
use crate::sync::{AtomicU8, Mutex, MutexGuard, Ordering};
use crate::token::Token;
use crate::writer::Lifetime;

/// The lock has been taken: the state may say anything.
const OPENED: u8 = 1;
/// The handle no longer stands for the entry it began with.
const MOVED: u8 = 2;
/// Something was written without the lock, and the state has not been told yet.
const MODIFIED: u8 = 4;
/// The response head is out.
const HEAD_SENT: u8 = 8;

#[derive(Default)]
pub(super) struct Slot {
    pub(super) entry: Option<EntryRef>,
    /// The token that the client holds or will be given.
    pub(super) token: Option<Token>,
    /// The response head is out: nothing can be delivered to the client any more.
    pub(super) head_sent: bool,
    pub(super) modified: bool,
    pub(super) destroyed: bool,
    pub(super) renew: Option<Lifetime>,
    /// The commit must wait until what this request did is durable, whatever the level.
    pub(super) must_wait: bool,
    /// The session that the client presented has ended, and the store may not know it yet.
    pub(super) ending: bool,
    /// The client holds a cookie that should be removed.
    pub(super) remove: bool,
    /// The client's copy of the token must be told of a later deadline or another persistence.
    pub(super) reissue: bool,
    /// This request chose the deadline: a renewal leaves it alone.
    pub(super) deadline_set: bool,
    /// Data of other sessions that this one was given: theirs to have back until the commit.
    pub(super) claims: Vec<Claim>,
    /// This request's renewal is being carried out: an entry that ends as renewed may live on as its own.
    pub(super) renewing: bool,
    /// The token of the next renewal, drawn early because the application asked for it (`handover`).
    pub(super) next: Option<Box<Token>>,
    /// The application delivers the token itself (`handover`).
    pub(super) handed: bool,
    /// The handle stands in for a session that could not be loaded (`stand_in`).
    pub(super) not_loaded: bool,
    /// The presented token's record was quarantined (`stand_in`).
    pub(super) damaged: bool,
}

/// What a commit finds when it closes the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// An earlier commit did.
    Already,
    /// Nothing was done that the client must hear of.
    Plain {
        /// Something was written.
        modified: bool,
    },
    /// The state has to be looked at.
    Look,
}

/// A [`Slot`], its lock and the ways past it.
pub(super) struct SlotCell {
    first: Option<EntryRef>,
    /// What `first` held when the handle began. It is kept until the handle is dropped, so a handle that lives on
    /// holds one record at most that nobody else may need.
    seen: Option<Seen>,
    flags: AtomicU8,
    slot: Mutex<Slot>,
}

impl SlotCell {
    pub(super) fn new(first: Option<EntryRef>, seen: Option<Seen>, token: Option<Token>) -> Self {
        let slot = Slot { token, ..Slot::default() };
        Self { first, seen, flags: AtomicU8::new(0), slot: Mutex::new(slot) }
    }

    /// Starts over for another request.
    #[cfg(not(feature = "shuttle"))]
    #[inline]
    pub(super) fn reset(&mut self, first: Option<EntryRef>, seen: Option<Seen>, token: Option<Token>) {
        self.first = first;
        self.seen = seen;
        *self.flags.get_mut() = 0;
        self.slot.get_mut().token = token;
    }

    /// Empties it.
    #[cfg(not(feature = "shuttle"))]
    #[inline]
    pub(super) fn clear(&mut self) {
        let slot = self.slot.get_mut();
        // A state that was never opened holds a token at most.
        if *self.flags.get_mut() & OPENED == 0 {
            slot.token = None;
        } else {
            *slot = Slot::default();
        }
        self.seen = None;
        self.first = None;
    }

    /// The entry, without the lock. `None` if only the lock can tell.
    #[inline]
    pub(super) fn unmoved(&self) -> Option<Option<&EntryRef>> {
        (self.flags.load(Ordering::Acquire) & MOVED == 0).then_some(self.first.as_ref())
    }

    /// The record, without any lock. `None` says nothing.
    #[inline]
    pub(super) fn current(&self, now: u64) -> Option<&Record> {
        let (first, seen) = (self.first.as_ref()?, self.seen.as_ref()?);
        if self.flags.load(Ordering::Acquire) & MOVED != 0 {
            return None;
        }
        first.still(seen, now)
    }

    /// Notes a write to the entry of [`unmoved`](Self::unmoved).
    #[inline]
    pub(super) fn note_modified(&self) {
        if self.flags.load(Ordering::Relaxed) & MODIFIED == 0 {
            self.flags.fetch_or(MODIFIED, Ordering::AcqRel);
        }
    }

    /// Whether nothing was done but reading, or `writing` past the lock. Nobody else has it, so there is nothing to
    /// race with.
    #[inline]
    pub(super) fn is_plain(&mut self, writing: bool) -> bool {
        let ignored = if writing { MODIFIED } else { 0 };
        self.flags.load(Ordering::Relaxed) & !ignored == 0
    }

    /// Notes that the response head is out.
    #[inline]
    pub(super) fn close(&self) -> Closing {
        let before = self.flags.fetch_or(HEAD_SENT, Ordering::AcqRel);
        if before & HEAD_SENT != 0 {
            Closing::Already
        } else if before & (OPENED | MOVED) == 0 {
            Closing::Plain { modified: before & MODIFIED != 0 }
        } else {
            Closing::Look
        }
    }

    /// Takes the lock.
    pub(super) fn lock(&self) -> SlotGuard<'_> {
        let mut slot = self.slot.lock();
        let flags = self.flags.fetch_or(OPENED, Ordering::AcqRel);
        if flags & OPENED == 0 {
            slot.entry.clone_from(&self.first);
        }
        if flags & MODIFIED != 0 {
            self.flags.fetch_and(!MODIFIED, Ordering::AcqRel);
            slot.modified = true;
        }
        slot.head_sent |= flags & HEAD_SENT != 0;
        SlotGuard { cell: self, slot }
    }
}

/// The state, locked.
pub(super) struct SlotGuard<'a> {
    cell: &'a SlotCell,
    slot: MutexGuard<'a, Slot>,
}

impl Deref for SlotGuard<'_> {
    type Target = Slot;
    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl DerefMut for SlotGuard<'_> {
    fn deref_mut(&mut self) -> &mut Slot {
        &mut self.slot
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        let same = match (&self.slot.entry, &self.cell.first) {
            (Some(now), Some(first)) => now.is(first),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.cell.flags.fetch_or(MOVED, Ordering::AcqRel);
        }
    }
}
