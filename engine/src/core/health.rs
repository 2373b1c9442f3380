//! How the engine is: whether its store works, whether writes are accepted, and what brings it back by itself. It decides
//! who is told; it writes nothing but an empty commit, to find out whether writing works again.
//!
//! | what failed | health | writes | ends |
//! |---|---|---|---|
//! | a commit, for a while | `Degraded` | kept in memory, retried | with the first that works |
//! | a commit, for lack of space | `Full` | kept, or refused ([`WhenFull`]), retried | with the first that works |
//! | a commit, and what the file holds is not known | `ReadOnly` | refused | never |
//! | a checkpoint behind a journal | as above | go on, unless it is `ReadOnly` | with the first that works |

use super::Core;
use crate::config::WhenFull;
use crate::error::{Error, ErrorKind, Result, StoreError, StoreErrorKind};
use crate::observer::Event;
use crate::stats::Health;
use crate::store::{DynStore, guarded};
use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Mutex, Ordering};
use crate::writer::closed;

/// Writes pass.
const OPEN: u8 = 0;
/// There is no space, and the engine was told to refuse writes then.
const REFUSING: u8 = 1;
/// The store takes no more writes.
const LATCHED: u8 = 2;

/// Pause between two looks at a store that failed, in ms.
const LOOK_MS: u64 = 1_000;

/// The state behind [`Health`].
pub(super) struct Condition {
    health: Mutex<Health>,
    /// One load on the way of every write.
    writes: AtomicU8,
    closed: AtomicBool,
    /// A commit has failed since the last one that worked.
    failing: AtomicBool,
    /// Why writes are refused while they are `REFUSING`.
    no_space: Mutex<Option<StoreError>>,
    /// Engine time of the next look.
    next_look: AtomicU64,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            health: Mutex::new(Health::Ok),
            writes: AtomicU8::new(OPEN),
            closed: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            no_space: Mutex::new(None),
            next_look: AtomicU64::new(0),
        }
    }
}

/// Whether an error of this kind leaves the file in a state that nobody knows, or takes it away.
fn is_fatal(kind: StoreErrorKind) -> bool {
    matches!(
        kind,
        StoreErrorKind::Io
            | StoreErrorKind::Corrupt
            | StoreErrorKind::ReadOnly
            | StoreErrorKind::Closed
            | StoreErrorKind::Moved
            | StoreErrorKind::Locked
    )
}

impl Core {
    pub(crate) fn is_latched(&self) -> bool {
        self.condition.writes.load(Ordering::Acquire) == LATCHED
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.condition.closed.load(Ordering::Acquire)
    }

    pub(crate) fn set_closed(&self) {
        self.condition.closed.store(true, Ordering::Release);
        *self.condition.health.lock() = Health::Closed;
        self.watches.wake_all();
    }

    /// Whether a write may be accepted now.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_closed() {
            return Err(closed());
        }
        match self.condition.writes.load(Ordering::Acquire) {
            OPEN => Ok(()),
            REFUSING => match &*self.condition.no_space.lock() {
                Some(error) => Err(error.clone().into()),
                // It has just been found again.
                None => Ok(()),
            },
            _ => Err(Error::new(ErrorKind::ReadOnly, format!("sessions are read-only: {}", self.health()))),
        }
    }

    /// Notes a failed commit; an error that leaves the file in an unknown state latches the engine read-only.
    pub(crate) fn commit_failed(&self, error: &StoreError) {
        self.condition.failing.store(true, Ordering::Release);
        self.note_failure(error);
        if error.kind() == StoreErrorKind::Full && self.config.when_full == WhenFull::Refuse {
            *self.condition.no_space.lock() = Some(error.clone());
            let _ =
                self.condition.writes.compare_exchange(OPEN, REFUSING, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Notes that a journal could not be handed on. What is written goes into the journal all the same, while it
    /// has room.
    pub(crate) fn checkpoint_failed(&self, error: &StoreError) {
        self.note_failure(error);
    }

    fn note_failure(&self, error: &StoreError) {
        self.counters.commit_failures.add(1);
        let fatal = is_fatal(error.kind());
        let mut health = self.condition.health.lock();
        let was_ok = *health == Health::Ok;
        let text = error.to_string();
        let now = match error.kind() {
            _ if fatal => Health::ReadOnly { error: text.clone() },
            StoreErrorKind::Full => Health::Full { error: text.clone() },
            _ => Health::Degraded { error: text.clone() },
        };
        // What ends with a restart only is not hidden by what passes.
        if fatal || !matches!(*health, Health::ReadOnly { .. } | Health::Closed) {
            *health = now;
        }
        drop(health);
        if fatal {
            self.condition.writes.store(LATCHED, Ordering::Release);
            self.queue.latch(error);
        }
        tracing::error!(target: "sessile", %error, fatal, "writing sessions failed");
        if was_ok {
            self.notify(|| Event::StoreDown { error: text });
        }
    }

    /// A commit has worked.
    pub(crate) fn store_works(&self) {
        self.condition.failing.store(false, Ordering::Release);
        if self.condition.writes.load(Ordering::Acquire) == REFUSING {
            let _ =
                self.condition.writes.compare_exchange(REFUSING, OPEN, Ordering::AcqRel, Ordering::Acquire);
            *self.condition.no_space.lock() = None;
        }
        // What the journal takes does not say that the store behind it works.
        if self.journal.as_ref().is_some_and(|journal| journal.in_trouble()) {
            return;
        }
        self.is_well();
    }

    /// A checkpoint has worked.
    pub(crate) fn checkpoints_work(&self) {
        // The store says nothing about the journal.
        if !self.condition.failing.load(Ordering::Acquire) {
            self.is_well();
        }
    }

    fn is_well(&self) {
        let mut health = self.condition.health.lock();
        if matches!(*health, Health::Degraded { .. } | Health::Full { .. }) {
            *health = Health::Ok;
            drop(health);
            tracing::info!(target: "sessile", "the session store works again");
            self.notify(|| Event::StoreUp);
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.condition.health.lock().clone()
    }

    /// Whether only a try can tell how the store is.
    fn is_in_doubt(&self) -> bool {
        match self.condition.writes.load(Ordering::Acquire) {
            LATCHED => false,
            REFUSING => true,
            _ => {
                self.condition.failing.load(Ordering::Acquire)
                    || (matches!(self.health(), Health::Degraded { .. } | Health::Full { .. })
                        && !self.journal.as_ref().is_some_and(|journal| journal.in_trouble()))
            }
        }
    }

    /// With nothing to write, tries whether the store that failed works again: else nobody would find out that it does,
    /// above all not while writes are refused. Called by the writer only.
    pub(crate) fn look_whether_it_works(&self, store: &dyn DynStore) {
        if !self.is_in_doubt() {
            return;
        }
        let now = self.clock.now_ms();
        if now < self.condition.next_look.load(Ordering::Relaxed) {
            return;
        }
        self.condition.next_look.store(now.saturating_add(LOOK_MS), Ordering::Relaxed);
        let tried = match &self.journal {
            Some(journal) => journal.try_writing(now),
            None => guarded(store.name(), || pollster::block_on(store.commit(now, &[]))).map(drop),
        };
        match tried {
            Ok(()) => self.store_works(),
            Err(error) if is_fatal(error.kind()) => self.commit_failed(&error),
            Err(_) => {}
        }
    }
}
