//! The engine's inside: it ties cache, wheel, queue, store and clock together. Loading, publishing, ending and
//! moving sessions happen here; what a session contains, and when a response may leave, does not.

mod aliases;
mod follow;
mod health;
mod lifetime;
mod room;
mod sealing;

use std::sync::Arc;

use self::aliases::{Aliases, Table};
use self::follow::latest_use;
use self::health::Condition;
use self::sealing::row_head;
use crate::cache::{Cache, Entry, EntryRef, Phase, Seen};
use crate::clock::EngineClock;
use crate::config::{Config, Release};
use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
use crate::journal::Journaled;
use crate::observer::{Event, Observer, notify};
use crate::owner::{Gates, Moving};
use crate::record::{Record, Times};
use crate::shared::Shared;
use crate::stats::{Counters, Stats};
use crate::store::DynStore;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};
use crate::token::SessionId;
use crate::watch::Watches;
use crate::wheel::Wheel;
use crate::writer::{Pacer, Queue, Reseal, closed};

/// Everything that all handles of one engine share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) clock: EngineClock,
    pub(crate) cache: Cache,
    pub(crate) wheel: Mutex<Wheel>,
    pub(crate) queue: Queue,
    pub(crate) aliases: Aliases,
    /// Items in the wheel.
    pub(crate) wheel_len: AtomicUsize,
    pub(crate) store: Option<Arc<dyn DynStore>>,
    /// The same store, if it has a journal.
    pub(crate) journal: Option<Arc<Journaled>>,
    /// What an engine among others over the same store has beside.
    pub(crate) shared: Option<Shared>,
    /// What a response that carries a write waits for.
    pub(crate) release: Release,
    pub(crate) counters: Counters,
    /// Targets of renewals under way.
    pub(crate) moving: Moving,
    /// Logins under a limit of sessions per owner, one of an owner at a time.
    pub(crate) gates: Gates,
    pub(crate) watches: Watches,
    pub(crate) reseal: Reseal,
    pub(crate) pacer: Pacer,
    observer: Option<Arc<dyn Observer>>,
    condition: Condition,
    /// Engine time of the next sweep of expired rows.
    next_sweep: AtomicU64,
}

/// What became of a session that was to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It is in service.
    InService,
    /// Its id is taken.
    Taken,
    /// It expired before its response head was produced.
    Over,
}

/// Tries of a load that keeps being overtaken by removals of the same stripe.
const LOAD_TRIES: usize = 64;

impl Core {
    /// Rows stay this long after they expired; see `keep_house`.
    pub(crate) const SWEEP_GRACE_MS: u64 = 60_000;
    /// Rows removed per sweep, and how often it sweeps when there was nothing left to remove.
    pub(crate) const SWEEP_ROWS: usize = 1024;
    const SWEEP_EVERY_MS: u64 = 10_000;
    /// Items of the wheel handled before the writer looks at the queue again.
    pub(crate) const WHEEL_SLICE: usize = 4096;

    pub(crate) fn new(
        config: Config,
        clock: EngineClock,
        store: Option<Arc<dyn DynStore>>,
        journal: Option<Arc<Journaled>>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let now = clock.now_ms();
        let shared = store.as_ref().map(|store| store.capabilities()).filter(|can| !can.exclusive);
        Self {
            shared: shared.map(|can| Shared::new(config.staleness_ms, can.watch)),
            release: if store.is_some() { config.release(journal.is_some()) } else { Release::AtOnce },
            journal,
            config,
            clock,
            cache: Cache::new(),
            wheel: Mutex::new(Wheel::new(now / 1000)),
            queue: Queue::new(),
            aliases: Aliases::new(),
            wheel_len: AtomicUsize::new(0),
            store,
            counters: Counters::default(),
            moving: Moving::default(),
            gates: Gates::new(),
            watches: Watches::new(),
            reseal: Reseal::default(),
            pacer: Pacer::default(),
            observer,
            condition: Condition::default(),
            next_sweep: AtomicU64::new(now),
        }
    }

    /// The queue, if there is a store to write to.
    pub(crate) fn dirty_queue(&self) -> Option<&Queue> {
        self.store.as_ref().map(|_| &self.queue)
    }

    pub(crate) fn notify(&self, event: impl FnOnce() -> Event) {
        notify(self.observer.as_deref(), event);
    }

    // ---- loading ----

    /// Looks `id` up in the cache. `None` means that only the store knows. With the entry comes what it holds, unless
    /// that is elsewhere.
    pub(crate) fn find_cached(&self, id: &SessionId, now: u64) -> Option<Option<(EntryRef, Option<Seen>)>> {
        match self.cache.get(id) {
            Some(entry) if self.is_stale(&entry, now) => None,
            Some(entry) => Some(match entry.see(now) {
                Some(seen) => {
                    self.note_use(&entry, &seen.times, now);
                    Some((entry, Some(seen)))
                }
                None => self.use_entry(entry, now).map(|entry| (entry, None)),
            }),
            None => match self.aliases.find(id, now) {
                Some(gone) => Some(self.use_followed(gone, now).map(|gone| (gone, None))),
                None if self.store.is_none() => Some(None),
                None => None,
            },
        }
    }

    /// The entry of `id` if it is cached and in service, with what it holds, and its use noted.
    #[inline]
    pub(crate) fn find_live(&self, id: &SessionId, now: u64) -> Option<(EntryRef, Seen)> {
        let entry = self.cache.get(id)?;
        let seen = entry.see(now)?;
        if self.is_stale(&entry, now) {
            return None;
        }
        self.note_use(&entry, &seen.times, now);
        Some((entry, seen))
    }

    /// Notes a use of `entry`, in the record too if the one there is older than the store may believe.
    #[inline]
    pub(crate) fn note_use(&self, entry: &EntryRef, times: &Times, now: u64) {
        entry.touch(now);
        let (noted, idle) = (times.last_seen, times.idle_timeout);
        if idle != 0 && now.saturating_sub(noted) >= Config::touch_interval(idle) {
            self.note_touch(entry, now);
        }
    }

    /// Notes a use of `entry`, or that it is over.
    fn use_entry(&self, entry: EntryRef, now: u64) -> Option<EntryRef> {
        let Some(seen) = entry.check(now) else {
            if entry.phase() == Phase::Renewed {
                return self.use_followed(entry, now);
            }
            if !entry.phase().is_gone() {
                self.expire(&entry, now);
            }
            return None;
        };
        self.note_use(&entry, &seen, now);
        Some(entry)
    }

    /// Writes the latest use into the record, so that the store learns of it.
    fn note_touch(&self, entry: &EntryRef, now: u64) {
        if self.is_latched() {
            return;
        }
        // It fails only if the session ended meanwhile.
        let _ = entry.edit(self.follow(), now, None, |record, meta| {
            if now.saturating_sub(record.last_seen()) < Config::touch_interval(record.idle_timeout_ms()) {
                return Ok((None, ()));
            }
            Ok((Some(record.with_meta(&meta)), ()))
        });
    }

    /// Reads `id` from the store into the cache, and notes a use of it with `touch`. A damaged row is
    /// quarantined, and an [`ErrorKind::Corrupt`].
    pub(crate) async fn load(&self, id: &SessionId, touch: bool) -> Result<Option<EntryRef>> {
        let Some(entry) = self.fetch(id, touch).await? else { return Ok(None) };
        Ok(self.found(entry, self.clock.now_ms(), touch))
    }

    /// Reads `id` from the store into the cache. The entry may be over by the time it is there. Without `touch`
    /// it is not used, and so among the first to be evicted.
    pub(crate) async fn fetch(&self, id: &SessionId, touch: bool) -> Result<Option<EntryRef>> {
        let Some(store) = &self.store else { return Ok(None) };
        self.counters.misses.add(1);
        for _ in 0..LOAD_TRIES {
            if self.is_closed() {
                return Err(closed());
            }
            if self.shared.is_some()
                && let Some(entry) = self.cache.peek(id)
            {
                return Ok(self.read_again(&entry).await?.then_some(entry));
            }
            let seen = self.cache.removals(id);
            let asked =
                self.shared.as_ref().map(|shared| (shared, self.clock.now_ms(), shared.near.notices(id)));
            let row = match self.ask(store.as_ref(), id).await {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(None),
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    return Err(self.quarantine(id, &error.to_string()));
                }
                Err(error) => return Err(error.into()),
            };
            let record = self.open_row(id, &row)?;
            let now = self.clock.now_ms();
            if now >= record.deadline() || now >= stored_idle_end(&record) {
                return Ok(None);
            }
            let asked = asked.map(|asked| (asked, record.clone()));
            let entry = Entry::loaded(*id, record);
            entry.touch(if touch { now } else { latest_use(&entry, now) });
            self.make_room(entry.is_owned()).await?;
            let at = entry.expires_at();
            match self.cache.insert_loaded(&entry, seen) {
                Ok(true) => {
                    if let Some(((shared, asked_at, notices), read)) = &asked {
                        shared.near.learn(id, read, *asked_at, *notices);
                    }
                    if let Some(at) = at {
                        self.arm(&entry, at);
                    }
                    return Ok(Some(entry));
                }
                Ok(false) => {}
                Err(present) => return Ok(Some(present)),
            }
        }
        Err(StoreError::new(
            StoreErrorKind::Unavailable,
            store.name(),
            "the row keeps changing while it is read",
        )
        .into())
    }

    pub(crate) fn quarantine(&self, id: &SessionId, reason: &str) -> Error {
        if self.queue.push_quarantine(*id) {
            self.counters.quarantined.add(1);
            tracing::error!(target: "sessile", reason, "a stored session failed its check and was quarantined");
            self.notify(|| Event::Quarantined { id: *id, reason: reason.to_owned() });
        }
        crate::session::damaged()
    }

    /// Tells the observer of a refusal, if `error` is about a limit.
    pub(crate) fn note_limit(&self, error: &Error, id: Option<&SessionId>) {
        let kind = error.kind();
        if matches!(kind, ErrorKind::Limit | ErrorKind::OutOfMemoryBudget) {
            self.notify(|| Event::LimitHit { id: id.copied(), kind });
        }
    }

    // ---- the life of a session ----

    /// Puts a new session into service.
    pub(crate) fn publish(&self, entry: &EntryRef) -> Published {
        if self.cache.insert(entry, 0).is_err() {
            return Published::Taken;
        }
        let Some(bytes) = entry.publish(self.follow()) else {
            self.cache.remove(entry);
            return Published::Over;
        };
        self.cache.filled(entry, bytes);
        if let Some(at) = entry.expires_at() {
            self.arm(entry, at);
        }
        self.counters.created.add(1);
        Published::InService
    }

    /// Tells the observer of a published session; apart from [`publish`](Self::publish) because that runs
    /// under the handle's lock.
    pub(crate) fn announce(&self, entry: &EntryRef) {
        self.notify(|| Event::Created { id: *entry.id() });
    }

    /// The second half of a renewal, under the lock of `old`: its session goes on as `id` with `record`. From
    /// here on the new entry can be found, and the index of owners and those who walk it know of it.
    pub(crate) fn succeed(
        &self,
        old: &EntryRef,
        old_owner: Option<&str>,
        id: SessionId,
        record: Record,
        stored: bool,
        dirty: bool,
    ) -> EntryRef {
        let size = record.byte_len();
        let entry = Entry::renewed(id, record, stored, dirty);
        if dirty && self.store.is_some() {
            self.queue.push_dirty(entry.clone());
        }
        // A fresh random id of 256 bits is not taken.
        let _ = self.cache.insert(&entry, size);
        entry.succeed(old.id(), old_owner, &self.cache.owners);
        entry
    }

    /// The rest of a renewal: `old` has given up its record of `bytes` bytes, and with `aliases` its id leads to
    /// `entry` for the grace.
    pub(crate) fn moved(
        &self,
        old: &EntryRef,
        bytes: usize,
        entry: &EntryRef,
        aliases: Option<MutexGuard<'_, Table>>,
    ) {
        let early = aliases.and_then(|mut aliases| {
            let until = self.clock.now_ms().saturating_add(self.config.life.grace_ms);
            let early = aliases.add(*old.id(), entry.clone(), until);
            self.aliases.count(&aliases);
            early
        });
        if let Some(id) = early {
            self.watches.wake_id(&id);
        }
        self.moving.end(entry.id());
        if let Some(at) = entry.expires_at() {
            self.arm(entry, at);
        }
        self.cache.freed(old, bytes);
        self.cache.remove(old);
        self.watches.wake(old);
        self.counters.renewed.add(1);
        self.notify(|| Event::Renewed { from: *old.id(), to: *entry.id() });
    }

    /// Files `entry` in the wheel for `at` ms. It may be touched or extended meanwhile: the wheel looks again
    /// when the time has come.
    ///
    /// An evicted or destroyed session leaves its item behind, to be dropped when it fires. Near the byte budget,
    /// where sessions come and go, items are therefore filed a minute ahead at most, and where that is not
    /// enough, seconds: otherwise a busy day would pile up a day of stale items.
    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits tell one filing from another")]
    pub(crate) fn arm(&self, entry: &EntryRef, at: u64) {
        let ahead = if self.is_littered() {
            Some(2_000)
        } else if self.store.is_some() && self.cache.used() > self.config.memory_limit / 8 * 7 {
            Some(64_000)
        } else {
            None
        };
        let at = ahead.map_or(at, |ahead| at.min(self.clock.now_ms().saturating_add(ahead)));
        let tick = at / 1000 + 1;
        entry.arm(tick as u32);
        let mut wheel = self.wheel.lock();
        wheel.insert(entry.id().bucket(), tick);
        self.wheel_len.store(wheel.len(), Ordering::Relaxed);
    }

    /// Puts the newest state of `entry` into the journal, past the queue: what a response waits for at
    /// [`Release::Written`]. `Ok(false)` if only the writer can do it, and a flush must be waited for.
    pub(crate) fn write_now(&self, entry: &EntryRef) -> Result<bool> {
        let Some(journal) = &self.journal else { return Ok(false) };
        let now = self.clock.now_ms();
        let put = |record: &Record| {
            let id = entry.id();
            journal.put_now(now, id, &row_head(record), |out| self.seal_into(id, record, out))
        };
        entry.write_now(put).map_err(|error| {
            self.commit_failed(&error);
            error.into()
        })
    }

    pub(crate) fn sweep_is_due(&self, now: u64) -> bool {
        now >= self.next_sweep.load(Ordering::Relaxed)
    }

    pub(crate) fn sweep_again(&self, now: u64, at_once: bool) {
        let pause = if at_once { 0 } else { Self::SWEEP_EVERY_MS };
        self.next_sweep.store(now.saturating_add(pause), Ordering::Relaxed);
    }

    pub(crate) fn stats(&self, stored: Option<u64>) -> Stats {
        let c = &self.counters;
        Stats {
            cached: self.cache.len() as u64,
            memory_bytes: self.cache.used() as u64,
            anonymous_bytes: self.cache.anonymous() as u64,
            stored,
            dirty: self.queue.dirty() as u64,
            hits: self.cache.hits(),
            misses: c.misses.get(),
            created: c.created.get(),
            renewed: c.renewed.get(),
            destroyed: c.destroyed.get(),
            revoked: c.revoked.get(),
            expired: c.expired.get(),
            expired_rows: c.expired_rows.get(),
            evicted: c.evicted.get(),
            quarantined: c.quarantined.get(),
            unopened: c.unopened.get(),
            commits: c.commits.get(),
            committed_changes: c.committed_changes.get(),
            commit_failures: c.commit_failures.get(),
            scans: c.scans.get(),
            scanned: c.scanned.get(),
            mended: c.mended.get(),
            scan_failures: c.scan_failures.get(),
        }
    }
}

/// When a stored session's idle timeout ends at the latest: uses are written down only every touch interval,
/// so the latest use may be that much later than the record says.
pub(crate) fn stored_idle_end(record: &Record) -> u64 {
    match record.idle_timeout_ms() {
        0 => u64::MAX,
        idle => record.last_seen().saturating_add(idle).saturating_add(Config::touch_interval(idle)),
    }
}
