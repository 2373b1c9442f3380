//! The writer's side of an entry: picking it up from the dirty queue, and what came of that. It talks to no store.

use super::{DIRTY, Entry, EntryRef, IN_FLIGHT, Phase, QUEUED, RENEWING, REPLACE, STORED};
use crate::error::StoreError;
use crate::record::Record;
use crate::writer::Queue;

/// How the writer must store a picked-up record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteMode {
    Insert,
    Update,
    Replace,
}

/// What the writer must do for a queued entry.
pub(crate) enum Pick {
    /// Nothing (any more).
    Skip,
    /// Wait: a renewal of it is unresolved. The entry counts as queued again.
    Hold,
    /// Store this record.
    Write(Record, WriteMode),
    /// Delete the row.
    Delete,
}

/// What a commit told about the store's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amend {
    /// Nothing new: the commit failed as a whole.
    Nothing,
    /// There is no row.
    RowMissing,
    /// There is a row, but not the one we expected.
    RowUnknown,
}

impl Entry {
    /// Takes the entry off the dirty queue.
    pub(crate) fn pick(&self) -> Pick {
        let slot = self.change();
        let flags = self.flags();
        if let Some(record) = &*slot {
            if flags & RENEWING != 0 {
                return Pick::Hold;
            }
            if flags & DIRTY == 0 {
                self.set_flags(flags & !QUEUED);
                return Pick::Skip;
            }
            let mode = match flags & (STORED | REPLACE) {
                0 => WriteMode::Insert,
                STORED => WriteMode::Update,
                _ => WriteMode::Replace,
            };
            self.set_flags(flags & !(QUEUED | DIRTY) | IN_FLIGHT);
            return Pick::Write(record.clone(), mode);
        }
        if self.phase() == Phase::Renewed || (self.phase() == Phase::Merging && flags & REPLACE == 0) {
            self.set_flags(flags & !QUEUED);
            return Pick::Skip;
        }
        self.set_flags(flags & !QUEUED | IN_FLIGHT);
        Pick::Delete
    }

    /// Writes the record with `put`, which is engine code, unless it has been written already. `Ok(false)` if it cannot be
    /// written now: the session is gone, the writer is at work on it, or `put` says so.
    ///
    /// `put` runs under the entry's lock, so that states are written in their order. The entry stays in the queue,
    /// where the writer will find it clean.
    pub(crate) fn write_now(
        &self,
        put: impl FnOnce(&Record) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let slot = self.change();
        let Some(record) = &*slot else { return Ok(false) };
        let flags = self.flags();
        if flags & (RENEWING | IN_FLIGHT) != 0 || self.phase() != Phase::Live {
            return Ok(false);
        }
        if flags & DIRTY == 0 {
            return Ok(true);
        }
        if !put(record)? {
            return Ok(false);
        }
        self.set_flags(self.flags() & !(DIRTY | REPLACE) | STORED);
        Ok(true)
    }

    /// The picked-up record is in the store.
    pub(crate) fn written(&self) {
        let _slot = self.change();
        self.set_flags(self.flags() & !(IN_FLIGHT | REPLACE) | STORED);
    }

    /// The row is deleted. Returns whether the entry is to stay, as a merge may yet give its data back.
    pub(crate) fn deleted(&self) -> bool {
        let _slot = self.change();
        self.set_flags(self.flags() & !(IN_FLIGHT | STORED));
        self.phase() == Phase::Merging
    }

    /// The pick-up did not reach the store. Returns whether the caller must queue the entry again.
    /// `amend` corrects what we believed about the store's row.
    pub(crate) fn not_written(&self, amend: Amend) -> bool {
        let mut slot = self.change();
        let mut flags = self.flags() & !IN_FLIGHT;
        match amend {
            Amend::Nothing => {}
            Amend::RowMissing => flags &= !(STORED | REPLACE),
            Amend::RowUnknown => flags |= REPLACE,
        }
        if let Some(record) = &*slot
            && flags & DIRTY != 0
        {
            // A change after the pick-up raised the version past one that was never stored.
            let mut meta = record.meta();
            meta.version = meta.version.saturating_sub(1).max(1);
            *slot = Some(record.with_meta(&meta));
        }
        let enqueue = flags & QUEUED == 0;
        self.set_flags(flags | DIRTY | QUEUED);
        enqueue
    }
}

impl EntryRef {
    /// The store's row is damaged: queues the entry so that it is written anew, whatever is there. `false` if the session
    /// is not in service.
    pub(crate) fn write_again(&self, queue: &Queue) -> bool {
        let slot = self.change();
        if slot.is_none() || self.phase() != Phase::Live {
            return false;
        }
        let flags = self.flags();
        self.set_flags(flags | DIRTY | REPLACE | QUEUED);
        if flags & QUEUED == 0 {
            queue.push_dirty(self.clone());
        }
        true
    }
}
