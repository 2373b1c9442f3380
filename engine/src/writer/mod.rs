//! The one thread that writes: it drains the dirty queue, commits batches, retries, and keeps house (wheel,
//! expired rows). It never runs inside a request and never decides what a session contains.
//!
//! Order within a batch: renewals first, so that an entry being re-keyed is held back; then entries, each with
//! its newest state (a session changed a hundred times in a window is one row); then deletions and
//! quarantines of bare ids. A failed batch is queued again whole: nothing is lost that memory still holds. Rows are
//! made for one batch at a time, so that a long queue does not exist twice.

mod queue;
mod renewal;
mod reseal;
mod scan;
mod shared;

use std::sync::Arc;

pub(crate) use self::queue::{Queue, Settled, Work, closed};
use self::renewal::TakeResult;
pub(crate) use self::renewal::{Lifetime, Renewal, RenewalWait};
pub use self::reseal::Rekeying;
pub(crate) use self::reseal::Reseal;
pub(crate) use self::scan::Pacer;
pub use self::scan::Scan;
use self::shared::Lost;
use crate::cache::{Amend, EntryRef, Phase, Pick, WriteMode};
use crate::core::Core;
use crate::error::{Error, ErrorKind, StoreError, StoreErrorKind};
use crate::record::Record;
use crate::store::{Change, DynStore, Outcome, guarded};
use crate::sync::{Duration, Ordering};
use crate::token::SessionId;

/// Changes per transaction: long enough to share its cost, short enough that a waiter behind it waits little.
const BATCH: usize = 2048;
/// How long the writer sleeps when nothing happens: the grain of background expiry.
const IDLE: Duration = Duration::from_secs(1);
/// Retry pauses after failures: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// Attempts at the last flush of a closing engine.
const CLOSING_TRIES: u32 = 5;

/// What a change of a batch was made for.
enum Item {
    /// With what was picked up and [`Near::notices`](crate::shared::Near::notices), over a shared store.
    Write(EntryRef, Option<(Record, u32)>),
    /// The first half of a replacement, whose second half is an [`Item::Write`] or an [`Item::Renewal`].
    Half,
    Tombstone(EntryRef),
    Renewal(Arc<Renewal>),
    Delete(SessionId),
    Quarantine(SessionId),
}

/// A batch being put together.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    items: Vec<Item>,
    held: Work,
    /// A record could not be sealed: nothing of the batch is to be written now.
    failure: Option<StoreError>,
}

/// What writing one epoch's work has come to.
#[derive(Default)]
struct SoFar {
    /// Something had to be held back.
    held: bool,
    /// Something must be written once more.
    repeat: bool,
    failure: Option<StoreError>,
}

impl Batch {
    fn push(&mut self, change: Change, item: Item) {
        self.changes.push(change);
        self.items.push(item);
    }
}

/// The writer thread's loop. Returns when the engine is closed.
pub(crate) fn run(core: &Core) {
    let mut failures = 0_u32;
    // How long the writer was away: what it finds waiting may have waited that long already.
    let mut away = Duration::ZERO;
    loop {
        let (work, epoch, closing) = core.queue.wait(core.nap(), core.config.window(), away);
        let started = core.clock.now_ms();
        let ok = core.write_out(work, epoch);
        core.keep_house();
        away = Duration::from_millis(core.clock.now_ms().saturating_sub(started));
        let settled = ok && core.queue.pending() == 0;
        // While closing, what is held back for a renewal that nobody completes counts as a failure too: there
        // is nothing else to wait for.
        failures = if settled || (ok && !closing) { 0 } else { failures + 1 };
        if closing {
            if settled || failures >= CLOSING_TRIES || core.is_latched() {
                return;
            }
            pause(FIRST_PAUSE);
        } else if !ok {
            core.queue.pause(FIRST_PAUSE.saturating_mul(1 << failures.min(7)).min(LAST_PAUSE));
        }
    }
}

impl Core {
    /// How long the writer may sleep when there is nothing to write.
    fn nap(&self) -> Duration {
        [self.reseal_nap(), self.scan_nap()].into_iter().flatten().min().unwrap_or(IDLE)
    }
}

#[cfg(not(feature = "shuttle"))]
fn pause(d: Duration) {
    std::thread::sleep(d);
}

#[cfg(feature = "shuttle")]
fn pause(_: Duration) {
    shuttle::thread::yield_now();
}

impl Core {
    /// Writes `work` out and settles its epoch. Returns whether all of it could be written.
    pub(crate) fn write_out(&self, work: Work, epoch: u64) -> bool {
        let Some(store) = &self.store else {
            self.queue.settle(epoch, &Settled::Committed);
            return true;
        };
        if work.is_empty() {
            self.queue.settle(epoch, &Settled::Committed);
            self.look_whether_it_works(store.as_ref());
            return true;
        }
        if let Some(error) = self.queue.latched() {
            return self.refuse(work, epoch, error);
        }
        let now = self.clock.now_ms();
        let mut work = work;
        let mut so_far = SoFar::default();
        loop {
            let slice = work.take(BATCH);
            let is_last = work.is_empty();
            self.write_slice(store.as_ref(), now, slice, is_last, &mut so_far);
            if is_last || so_far.failure.is_some() {
                break;
            }
        }
        // What a failure left untouched.
        self.queue.put_back(work);
        let SoFar { held, repeat, failure } = so_far;
        let how = match failure {
            Some(error) => {
                self.commit_failed(&error);
                Settled::Failed(error)
            }
            None => {
                self.store_works();
                if held || repeat { Settled::Postponed } else { Settled::Committed }
            }
        };
        let ok = !matches!(how, Settled::Failed(_));
        self.queue.settle(epoch, &how);
        if repeat && ok {
            self.queue.nudge();
        }
        ok
    }

    /// Commits a slice of the work. With the last one, everything that the writer has looked at is durable.
    fn write_slice(&self, store: &dyn DynStore, now: u64, slice: Work, is_last: bool, so_far: &mut SoFar) {
        let batch = self.batch(slice, now);
        so_far.held |= !batch.held.is_empty();
        self.queue.put_back(batch.held);
        let mut changes = batch.changes;
        let mut items = batch.items;
        let mut again = Work::default();
        let mut failure = batch.failure;
        if changes.is_empty() && is_last && failure.is_none() {
            // What was written past the queue waits to be synced.
            failure = self.journal.as_ref().and_then(|journal| journal.write(now, &[]).err());
        }
        while !changes.is_empty() {
            let take = batch_end(&items);
            let rest = (changes.split_off(take), items.split_off(take));
            if failure.is_none() {
                let began = self.clock.now_ms();
                match self.commit(store, now, &changes) {
                    Ok(outcomes) => {
                        self.counters.commits.add(1);
                        self.counters.committed_changes.add(changes.len() as u64);
                        let mut lost = Lost::default();
                        for (item, outcome) in items.drain(..).zip(outcomes) {
                            so_far.repeat |= match &self.shared {
                                None => self.applied(item, outcome, &mut again),
                                Some(shared) => {
                                    self.applied_among_others(shared, began, item, outcome, &mut lost)
                                }
                            };
                        }
                        failure = self.settle_lost(store, lost, &mut again);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = &failure {
                for item in items.drain(..) {
                    self.not_applied(item, error, &mut again);
                }
            }
            (changes, items) = rest;
        }
        self.queue.put_back(again);
        so_far.failure = failure;
    }

    /// Keeps `work` without writing it: the store's file is in an unknown state.
    fn refuse(&self, mut work: Work, epoch: u64, error: StoreError) -> bool {
        for renewal in work.renewals.drain(..) {
            renewal.refuse(error.clone().into());
        }
        self.queue.put_back(work);
        self.queue.settle(epoch, &Settled::Failed(error));
        false
    }

    /// Turns queued work into changes.
    fn batch(&self, work: Work, now: u64) -> Batch {
        let mut batch = Batch::default();
        for renewal in work.renewals {
            match renewal.take(self, now) {
                TakeResult::Change { clear, change } => {
                    if let Some(id) = clear {
                        batch.push(Change::Delete { id }, Item::Half);
                    }
                    batch.push(change, Item::Renewal(renewal));
                }
                TakeResult::Hold => batch.held.renewals.push(renewal),
                TakeResult::Skip => {}
            }
        }
        for entry in work.dirty {
            let id = *entry.id();
            match entry.pick() {
                Pick::Skip => {}
                Pick::Hold => batch.held.dirty.push(entry),
                Pick::Delete => batch.push(Change::Delete { id }, Item::Tombstone(entry)),
                Pick::Write(record, mode) => {
                    let row = match self.row(&id, &record) {
                        Ok(row) => row,
                        Err(error) => {
                            if entry.not_written(Amend::Nothing) {
                                batch.held.dirty.push(entry);
                            }
                            batch.failure = Some(error);
                            continue;
                        }
                    };
                    let picked = self.shared.as_ref().map(|shared| (record, shared.near.notices(&id)));
                    if let Some(from) = self.shared.as_ref().and_then(|shared| shared.near.where_strayed(&id))
                    {
                        let change = Change::Rekey { from, expected: Some(1), to: id, row };
                        batch.push(change, Item::Write(entry, picked));
                        continue;
                    }
                    match mode {
                        WriteMode::Insert => {
                            batch.push(Change::Insert { id, row }, Item::Write(entry, picked))
                        }
                        WriteMode::Update => {
                            let expected = row.version.saturating_sub(1);
                            batch.push(Change::Update { id, expected, row }, Item::Write(entry, picked));
                        }
                        WriteMode::Replace => {
                            batch.push(Change::Delete { id }, Item::Half);
                            batch.push(Change::Insert { id, row }, Item::Write(entry, picked));
                        }
                    }
                }
            }
        }
        for id in work.deletes {
            batch.push(Change::Delete { id }, Item::Delete(id));
        }
        for id in work.quarantines {
            // Its row has been replaced since.
            if self.cache.get(&id).is_some_and(|entry| entry.phase() == Phase::Live) {
                continue;
            }
            batch.push(Change::Quarantine { id }, Item::Quarantine(id));
        }
        batch
    }

    /// Commits one batch.
    fn commit(&self, store: &dyn DynStore, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        match &self.journal {
            // It takes what memory says for the truth.
            Some(journal) => journal.write(now, changes).map(|()| vec![Outcome::Done; changes.len()]),
            None => commit(store, now, changes),
        }
    }

    /// One change of a committed batch. Returns whether it must be made again.
    fn applied(&self, item: Item, outcome: Outcome, again: &mut Work) -> bool {
        match item {
            Item::Write(entry, _) => match outcome {
                Outcome::Done => entry.written(),
                // The store is ours alone, so memory is the truth and the row is to follow it. A missing row was
                // removed as expired or quarantined; one that exists was left by a commit that failed half way.
                Outcome::Missing | Outcome::Exists | Outcome::Conflict { .. } => {
                    let amend =
                        if outcome == Outcome::Missing { Amend::RowMissing } else { Amend::RowUnknown };
                    tracing::warn!(target: "sessile", ?outcome, "a stored row was not as expected; writing it anew");
                    if entry.not_written(amend) {
                        again.dirty.push(entry);
                    }
                    return true;
                }
            },
            Item::Tombstone(entry) => {
                if !entry.deleted() {
                    self.cache.remove(&entry);
                }
            }
            Item::Renewal(renewal) => match outcome {
                Outcome::Done => renewal.resolve(self, Ok(())),
                // The row was removed as expired, before what keeps the session alive was written: memory is the truth.
                Outcome::Missing if renewal.try_again(self) => {
                    again.renewals.push(renewal);
                    return true;
                }
                _ => renewal.resolve(
                    self,
                    Err(Error::new(
                        ErrorKind::Store,
                        format!("the store refused to re-key the session: {outcome:?}"),
                    )),
                ),
            },
            Item::Delete(id) => {
                // First, so that the row is not believed by anyone who does not see the target any more.
                self.cache.note_removal(&id);
                self.moving.end(&id);
            }
            Item::Half | Item::Quarantine(_) => {}
        }
        false
    }

    /// One change of a batch that failed.
    fn not_applied(&self, item: Item, error: &StoreError, again: &mut Work) {
        match item {
            Item::Write(entry, _) => {
                if entry.not_written(Amend::Nothing) {
                    again.dirty.push(entry);
                }
            }
            Item::Tombstone(entry) => {
                if entry.not_written(Amend::Nothing) {
                    again.dirty.push(entry);
                }
            }
            Item::Renewal(renewal) => renewal.failed(self, error),
            Item::Delete(id) => again.deletes.push(id),
            Item::Quarantine(id) => again.quarantines.push(id),
            Item::Half => {}
        }
    }

    /// Background work that is due about once a second.
    pub(crate) fn keep_house(&self) {
        let now = self.clock.now_ms();
        self.turn_wheel(now);
        for id in self.aliases.purge(now) {
            self.watches.wake_id(&id);
        }
        if self.is_latched() {
            return;
        }
        let Some(store) = &self.store else { return };
        self.reseal_some(store.as_ref(), now);
        self.scan_some(store.as_ref(), now);
        // Rows are removed a while after they expired: by then every touch or extension that was made in time has
        // been written, and a clock that was set wrongly has probably been set right.
        let due = now.saturating_sub(Self::SWEEP_GRACE_MS);
        if let Some(journal) = &self.journal {
            self.counters.expired_rows.add(journal.take_expired());
            if let Err(error) = journal.check_place() {
                self.commit_failed(&error);
                return;
            }
            // Before it is asked to try again, so that nobody misses that it failed.
            match journal.news() {
                Some(Err(error)) => self.checkpoint_failed(&error),
                Some(Ok(())) => self.checkpoints_work(),
                None => {}
            }
            journal.keep_house(now, due);
            return;
        }
        if !self.sweep_is_due(now) {
            return;
        }
        let swept = guarded(store.name(), || pollster::block_on(store.expire(due, now, Self::SWEEP_ROWS)));
        match swept {
            Ok(expired) => {
                self.counters.expired_rows.add(expired.removed);
                self.sweep_again(now, expired.more);
            }
            Err(error) => {
                tracing::warn!(target: "sessile", %error, "removing expired rows failed; it will be tried again");
                if !error.kind().is_temporary() {
                    self.commit_failed(&error);
                }
            }
        }
    }

    /// Handles up to a slice of the wheel's due items.
    pub(crate) fn turn_wheel(&self, now: u64) {
        let mut due = Vec::new();
        let more = {
            let mut wheel = self.wheel.lock();
            let more = wheel.advance(now / 1000, Self::WHEEL_SLICE, &mut due);
            self.wheel_len.store(wheel.len(), Ordering::Relaxed);
            more
        };
        for item in due {
            #[expect(clippy::cast_possible_truncation, reason = "entries keep the low 32 bits of their tick")]
            let Some(entry) = self.cache.get_by_bucket(item.hash, item.tick as u32) else { continue };
            match entry.expires_at() {
                None => {}
                Some(at) if now >= at && self.asks_before_expiry(&entry) => {}
                Some(at) if now >= at => self.expire(&entry, now),
                Some(at) => self.arm(&entry, at),
            }
        }
        if more {
            self.queue.nudge();
        }
    }
}

/// Where a batch ends: at the limit, but never between the halves of a replacement.
fn batch_end(items: &[Item]) -> usize {
    if items.len() <= BATCH {
        return items.len();
    }
    if matches!(items[BATCH - 1], Item::Half) { BATCH - 1 } else { BATCH }
}

/// Commits one batch; an exclusive store must answer for every change.
fn commit(store: &dyn DynStore, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
    let outcomes = guarded(store.name(), || pollster::block_on(store.commit(now, changes)))?;
    if outcomes.len() == changes.len() {
        Ok(outcomes)
    } else {
        Err(StoreError::new(
            StoreErrorKind::Io,
            store.name(),
            format!("it answered {} outcomes to {} changes", outcomes.len(), changes.len()),
        ))
    }
}

impl Phase {
    /// The event's name in traces.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Unpublished => "unpublished",
            Self::Live => "live",
            Self::Destroyed => "destroyed",
            Self::Renewed => "renewed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Merging => "merging",
        }
    }
}
