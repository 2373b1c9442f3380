//! Checkpoints: when one is due, and carrying a frozen generation into the store. It writes nothing into the log but
//! the note that a generation is done.

use std::sync::Arc;

use super::index::{Generation, State};
use super::log::{Full, Log};
use super::{NAME, Sizes, read};
use crate::error::{StoreError, StoreErrorKind};
use crate::store::{Change, DynStore, guarded};
use crate::sync::{AtomicU64, Condvar, Duration, Mutex, Ordering, wait_for};
use crate::token::SessionId;

/// Memory of a change on its way into the store, besides its row's bytes.
const CHANGE_BYTES: usize = size_of::<Change>() + 32;
/// What has been in the journal for this long is due, however little it is.
const AGE_MS: u64 = 60_000;
/// Rows that expired are removed this many at a time, and at most this often after one checkpoint.
const SWEEP_ROWS: usize = 4096;
const SWEEPS: usize = 64;
/// Pauses of the thread: without anything to do, and after a failure.
const IDLE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// Carries generations into the store, one at a time.
pub(super) struct Checkpoints {
    log: Arc<Log>,
    inner: Arc<dyn DynStore>,
    sizes: Sizes,
    /// Held while a generation is carried.
    carrying: Mutex<Carrying>,
    asked: Mutex<Asked>,
    wake: Condvar,
    /// The thread has finished a round, or ends.
    done: Condvar,
    expired: AtomicU64,
}

struct Carrying {
    /// Segments whose bytes are to be kept, of the generation that was found at the start.
    damaged: Vec<u32>,
}

/// What the thread is asked for.
#[derive(Default)]
struct Asked {
    due: bool,
    stop: bool,
    /// The thread is there.
    running: bool,
    /// Rounds it has finished.
    rounds: u64,
    /// Engine time at which the journal was first seen with something in it.
    since: Option<u64>,
    /// Rows that expired before the first time are to be removed; the second is engine time.
    sweep: Option<(u64, u64)>,
    trouble: Option<StoreError>,
    /// Whether `trouble` has come or gone since it was last told.
    news: bool,
    /// The thread has failed and will try again after a pause.
    retries: bool,
}

impl Checkpoints {
    pub(super) fn new(log: Arc<Log>, inner: Arc<dyn DynStore>, sizes: Sizes, damaged: Vec<u32>) -> Self {
        let due = log.generations().frozen.is_some();
        Self {
            log,
            inner,
            sizes,
            carrying: Mutex::new(Carrying { damaged }),
            asked: Mutex::new(Asked { due, ..Asked::default() }),
            wake: Condvar::new(),
            done: Condvar::new(),
            expired: AtomicU64::new(0),
        }
    }

    /// Asks for a checkpoint if the journal has become large.
    pub(super) fn look(&self) {
        let (bytes, items) = self.log.size();
        if bytes < self.sizes.bytes && items < self.sizes.items {
            return;
        }
        let mut asked = self.asked.lock();
        if !asked.due {
            asked.due = true;
            drop(asked);
            self.wake.notify_one();
        }
    }

    /// The size of a generation at which writers wait.
    pub(super) fn full(&self) -> Full {
        Full { bytes: 2 * self.sizes.bytes, items: 2 * self.sizes.items }
    }

    fn is_full(&self) -> bool {
        let (bytes, items) = self.log.size();
        self.full().is_reached(bytes, items)
    }

    /// Waits until the journal has room: the store is slower than those who write.
    ///
    /// The thread makes it, and not the caller, so that the pages that the store keeps in memory are one thread's:
    /// an allocator that keeps memory by thread would keep them twice.
    pub(super) fn wait_for_room(&self) -> Result<(), StoreError> {
        let mut waited = false;
        while self.is_full() {
            let mut asked = self.asked.lock();
            if !asked.running {
                drop(asked);
                self.run_now()?;
                continue;
            }
            if let Some(error) = asked.trouble.as_ref().filter(|_| waited) {
                return Err(error.clone());
            }
            asked.due = true;
            self.wake.notify_one();
            let round = asked.rounds;
            while asked.running && asked.rounds == round {
                wait_for(&self.done, &mut asked, IDLE);
            }
            waited = true;
        }
        Ok(())
    }

    pub(super) fn tick(&self, now: u64, due: u64) {
        let empty = {
            let generations = self.log.generations();
            generations.current.is_empty() && generations.frozen.is_none()
        };
        self.look();
        let mut asked = self.asked.lock();
        if asked.trouble.is_some() && !asked.retries && !asked.due {
            // It failed for somebody who asked for a checkpoint and does not try again.
            asked.due = true;
            self.wake.notify_one();
        }
        let since = *asked.since.get_or_insert(now);
        if now.saturating_sub(since) < AGE_MS {
            return;
        }
        asked.since = Some(now);
        asked.sweep = Some((due, now));
        asked.due |= !empty;
        drop(asked);
        self.wake.notify_one();
    }

    pub(super) fn take_expired(&self) -> u64 {
        self.expired.swap(0, Ordering::Relaxed)
    }

    /// Whether the last checkpoint failed.
    pub(super) fn in_trouble(&self) -> bool {
        self.asked.lock().trouble.is_some()
    }

    /// That checkpoints have begun to fail, or work again, since this was last asked.
    pub(super) fn news(&self) -> Option<Result<(), StoreError>> {
        let mut asked = self.asked.lock();
        std::mem::take(&mut asked.news).then(|| asked.trouble.clone().map_or(Ok(()), Err))
    }

    fn note(&self, result: &Result<(), StoreError>) {
        let mut asked = self.asked.lock();
        let trouble = result.as_ref().err().cloned();
        asked.news |= trouble.is_some() != asked.trouble.is_some();
        asked.trouble = trouble;
    }

    pub(super) fn stop(&self) {
        self.asked.lock().stop = true;
        self.wake.notify_one();
    }

    /// Says that a thread is about to [`run`](Self::run), or that there will be none.
    pub(super) fn set_running(&self, running: bool) {
        self.asked.lock().running = running;
        self.done.notify_all();
    }

    /// The thread: checkpoints and sweeps until it is told to stop.
    pub(super) fn run(&self) {
        struct Ends<'a>(&'a Checkpoints);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.set_running(false);
            }
        }

        let _ends = Ends(self);
        let mut failures = 0_u32;
        loop {
            let sweep = {
                let mut asked = self.asked.lock();
                if !asked.stop && failures > 0 {
                    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(7)).min(LAST_PAUSE);
                    wait_for(&self.wake, &mut asked, pause);
                } else if !asked.stop && !asked.due && asked.sweep.is_none() {
                    wait_for(&self.wake, &mut asked, IDLE);
                }
                if asked.stop {
                    return;
                }
                if !asked.due && asked.sweep.is_none() && failures == 0 {
                    continue;
                }
                asked.due = false;
                asked.sweep.take()
            };
            let result =
                self.run_now().and_then(|()| sweep.map_or(Ok(()), |(due, now)| self.sweep(due, now)));
            failures = match &result {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(target: "sessile", %error, "a checkpoint of the journal failed; it will be tried again");
                    failures.saturating_add(1)
                }
            };
            self.note(&result);
            let mut asked = self.asked.lock();
            asked.retries = failures > 0;
            asked.rounds += 1;
            drop(asked);
            self.done.notify_all();
        }
    }

    /// Carries everything that is in the journal now into the store.
    pub(super) fn run_now(&self) -> Result<(), StoreError> {
        let result = self.carry_all();
        self.note(&result);
        result
    }

    fn carry_all(&self) -> Result<(), StoreError> {
        let mut carrying = self.carrying.lock();
        self.log.check_place()?;
        // What is frozen already, and then what has come since.
        for _ in 0..2 {
            let was_frozen = self.log.generations().frozen.is_some();
            let Some(frozen) = self.log.freeze()? else { return Ok(()) };
            // The store must never be ahead of what the journal holds after a loss of power: older states in the
            // journal would hide a part of the newer ones in the store.
            self.log.sync()?;
            self.carry(&frozen)?;
            self.log.thaw(&carrying.damaged)?;
            carrying.damaged.clear();
            if !was_frozen {
                break;
            }
        }
        Ok(())
    }

    fn carry(&self, generation: &Generation) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        let mut bytes = 0;
        let mut shard = 0;
        while let Some(items) = generation.shard_in_order(shard) {
            for (id, state) in items {
                let change = self.change(generation, id, state)?;
                bytes += CHANGE_BYTES;
                if let Change::Put { row, .. } = &change {
                    bytes += row.bytes.len();
                }
                changes.push(change);
                if bytes >= self.sizes.chunk {
                    self.commit(&changes)?;
                    changes.clear();
                    bytes = 0;
                }
            }
            shard += 1;
        }
        self.commit(&changes)
    }

    fn change(&self, generation: &Generation, id: SessionId, state: State) -> Result<Change, StoreError> {
        Ok(match state {
            State::Deleted => Change::Delete { id },
            State::Quarantined => Change::Quarantine { id },
            State::Row(place) => match read(generation, &id, place) {
                Ok(row) => Change::Put { id, row },
                // Nothing was written, so trying again is safe.
                Err(error) if error.kind() == StoreErrorKind::Io => {
                    let message = "a session in the journal cannot be read now";
                    return Err(
                        StoreError::new(StoreErrorKind::Unavailable, NAME, message).with_source(error)
                    );
                }
                // An older state of it must not come back.
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    tracing::error!(target: "sessile", %id, %error, "a session in the journal is damaged and was quarantined");
                    Change::Quarantine { id }
                }
                Err(error) => return Err(error),
            },
        })
    }

    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let now = self.log.now();
        guarded(self.inner.name(), || pollster::block_on(self.inner.commit(now, changes))).map(drop)
    }

    /// Removes rows of the store that expired before `due`.
    fn sweep(&self, due: u64, now: u64) -> Result<(), StoreError> {
        for _ in 0..SWEEPS {
            let inner = &self.inner;
            let swept = guarded(inner.name(), || pollster::block_on(inner.expire(due, now, SWEEP_ROWS)))?;
            self.expired.fetch_add(swept.removed, Ordering::Relaxed);
            if !swept.more {
                break;
            }
        }
        Ok(())
    }
}
