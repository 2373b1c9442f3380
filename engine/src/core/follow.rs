//! Finding sessions off the beaten track: without noting a use, and where an entry went that a handle still
//! holds. Slow paths only: a session that is cached and in service is found without any of this.

use super::Core;
use crate::cache::{Edited, EntryRef, Phase, Read, revoked};
use crate::config::Config;
use crate::ending::Ending;
use crate::error::Result;
use crate::observer::Event;
use crate::record::{Meta, Record};
use crate::token::SessionId;

/// Rotations within one grace that a holder of the first token is led through.
const HOPS: usize = 16;

impl Core {
    /// The session of `id`, cached or stored, without noting a use of it.
    pub(crate) async fn find_untouched(&self, id: &SessionId, now: u64) -> Result<Option<EntryRef>> {
        match self.find_cached_untouched(id, now) {
            Some(found) => Ok(found.and_then(|entry| self.in_service(entry, now))),
            None => self.load(id, false).await,
        }
    }

    /// As [`find_cached`](Self::find_cached), without noting a use.
    pub(crate) fn find_cached_untouched(&self, id: &SessionId, now: u64) -> Option<Option<EntryRef>> {
        match self.cache.get(id) {
            Some(entry) if self.is_stale(&entry, now) => None,
            // The entry itself, so that its holder sees an end of the arrangement too.
            Some(entry) => Some(self.in_service(entry.clone(), now).map(|_| entry)),
            None => match self.aliases.find(id, now) {
                Some(gone) => Some(self.successor(&gone, now).map(|_| gone)),
                None if self.store.is_none() => Some(None),
                None => None,
            },
        }
    }

    /// The outcome of a load: `entry` if it is in service, its use noted with `touch`.
    pub(super) fn found(&self, entry: EntryRef, now: u64, touch: bool) -> Option<EntryRef> {
        if touch { self.use_entry(entry, now) } else { self.in_service(entry, now) }
    }

    /// Notes a use of the session that `gone` stood for. Returns `gone` itself, so that its holder sees an end of
    /// the arrangement too.
    pub(super) fn use_followed(&self, gone: EntryRef, now: u64) -> Option<EntryRef> {
        let entry = self.successor(&gone, now)?;
        let seen = entry.check(now)?;
        self.note_use(&entry, &seen, now);
        Some(gone)
    }

    /// As [`EntryRef::edit`], on the entry that took this one's place if it is gone. That one is returned too.
    pub(crate) fn edit_wherever<R>(
        &self,
        entry: &EntryRef,
        now: u64,
        expected: Option<&Record>,
        edit: impl FnOnce(&EntryRef, &Record, Meta) -> Result<(Option<Record>, R)>,
    ) -> Result<(Edited<R>, Option<EntryRef>)> {
        let mut edit = Some(edit);
        let mut next: Option<EntryRef> = None;
        loop {
            let entry = next.as_ref().unwrap_or(entry);
            let done = entry.edit(self.follow(), now, expected, |record, meta| match edit.take() {
                Some(edit) => edit(entry, record, meta),
                None => Err(revoked()),
            });
            match done {
                // It was not called, so the entry was gone before: where did it go?
                Err(error) if error.is_revoked() && edit.is_some() => match self.successor(entry, now) {
                    Some(successor) => next = Some(successor),
                    None => return Err(error),
                },
                Err(error) => return Err(error),
                Ok(edited) => return Ok((edited, next)),
            }
        }
    }

    /// The record of a session whose entry is gone or due.
    pub(crate) fn record_elsewhere(&self, entry: &EntryRef, now: u64) -> Option<Record> {
        match self.in_service(entry.clone(), now)?.read(now) {
            Read::Live(record) => Some(record),
            Read::Due | Read::Gone => None,
        }
    }

    /// `entry`, or the entry that took its place, if it is in service. Notes no use.
    pub(crate) fn in_service(&self, entry: EntryRef, now: u64) -> Option<EntryRef> {
        if entry.check(now).is_some() {
            return Some(entry);
        }
        if entry.phase() == Phase::Renewed {
            return self.successor(&entry, now);
        }
        if !entry.phase().is_gone() && !self.asks_before_expiry(&entry) {
            self.expire(&entry, now);
        }
        None
    }

    /// As [`in_service`](Self::in_service), but leaves one that is due to others: it tells the observer of
    /// nothing, and so may be called under a handle's lock.
    pub(crate) fn in_service_quietly(&self, entry: EntryRef, now: u64) -> Option<EntryRef> {
        if entry.check(now).is_some() { Some(entry) } else { self.successor(&entry, now) }
    }

    /// As [`in_service_quietly`](Self::in_service_quietly), if the session still has the id of `entry`: another entry
    /// stands for it after a merge that came to nothing, but its token is the same.
    pub(crate) fn under_its_id(&self, entry: &EntryRef, now: u64) -> Option<EntryRef> {
        self.in_service_quietly(entry.clone(), now).filter(|found| found.id() == entry.id())
    }

    /// The record of the session that `entry` stands for, as quietly.
    pub(crate) fn record_quietly(&self, entry: EntryRef, now: u64) -> Option<Record> {
        match self.in_service_quietly(entry, now)?.read(now) {
            Read::Live(record) => Some(record),
            Read::Due | Read::Gone => None,
        }
    }

    /// Ends the session that `entry` stands for, wherever it went. If it moves on meanwhile, it is caught up
    /// with. One that a merge has taken is ended where it is, so that the merge has nothing to give back.
    pub(crate) fn end_wherever(&self, entry: EntryRef, ending: Ending) {
        let now = self.clock.now_ms();
        let mut entry = entry;
        while !self.end(&entry, ending) {
            match self.next_after(&entry, now) {
                Some(next) => entry = next,
                None => return,
            }
        }
    }

    /// The entry that took the place of `gone`, in service or not.
    fn next_after(&self, gone: &EntryRef, now: u64) -> Option<EntryRef> {
        if gone.phase() != Phase::Renewed {
            return None;
        }
        // Another entry under the same id was given back after a merge that came to nothing; otherwise it
        // was rotated, or renewed and leads nowhere.
        let same_id = self.cache.get(gone.id()).filter(|e| !e.is(gone));
        same_id.or_else(|| self.aliases.target(gone.id(), now))
    }

    /// The entry that took the place of `gone` and is in service. Takes no lock that a handle's may not precede,
    /// and tells nobody anything.
    pub(crate) fn successor(&self, gone: &EntryRef, now: u64) -> Option<EntryRef> {
        let mut at = gone.clone();
        for _ in 0..HOPS {
            let next = self.next_after(&at, now)?;
            if next.check(now).is_some() {
                return Some(next);
            }
            at = next;
        }
        None
    }

    /// A merged session's end: its data lives on elsewhere.
    pub(crate) fn claim_settled(&self, entry: &EntryRef, has_row: bool) {
        if self.store.is_none() || !has_row {
            self.cache.remove(entry);
        }
        self.counters.destroyed.add(1);
        self.notify(|| Event::Destroyed { id: *entry.id() });
    }

    /// A claimed session that was ended by somebody else while it was claimed.
    pub(crate) fn forget_claimed(&self, entry: &EntryRef) {
        if self.store.is_none() {
            self.cache.remove(entry);
        }
    }
}

/// When a session that was just read from the store may have been used last: uses are written down every touch
/// interval only, so it may be that much later than its record says.
pub(super) fn latest_use(entry: &EntryRef, now: u64) -> u64 {
    let Read::Live(record) = entry.read(0) else { return 0 };
    match record.idle_timeout_ms() {
        0 => record.last_seen(),
        idle => record.last_seen().saturating_add(Config::touch_interval(idle)).min(now),
    }
}
