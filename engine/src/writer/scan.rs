//! The integrity scan: reads every stored row and checks its seal before somebody needs it. It owns its place in the store,
//! its pace and its numbers; it changes no row but a damaged one, which is written anew from memory if its session is
//! there, and else taken out of service as if it had just been asked for.
//!
//! Off by default: damage is found when a row is read in any case, and costs one user a login. A pass reads the whole
//! file through the caches of the operating system. It is for who keeps backups, and wants to know while there is still
//! one from before.

use super::DynStore;
use crate::core::Core;
use crate::engine::Engine;
use crate::error::{Result, StoreError, StoreErrorKind};
use crate::observer::Event;
use crate::store::guarded;
use crate::sync::{Duration, Mutex};
use crate::token::SessionId;

/// Rows looked at in one turn: what they take of memory and time is that of a small batch.
const ROWS: usize = 128;
/// Pause between turns. A million rows take about half an hour.
const PAUSE_MS: u64 = 250;
/// Bytes read in a second at most, whatever the size of rows.
const BYTES_PER_SECOND: u64 = 4 << 20;
/// Pause after the store failed.
const FAILURE_PAUSE_MS: u64 = 5_000;

/// What a pass over the stored sessions found; see [`Engine::scan`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scan {
    /// Rows looked at.
    pub checked: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Damaged rows that were quarantined: each is a session that is lost.
    pub quarantined: u64,
    /// Damaged rows of sessions that were in memory, and are written anew from there.
    pub mended: u64,
    /// Rows that no key of the engine opens. They are left as they are.
    pub unopened: u64,
}

impl Scan {
    fn add(&mut self, other: Self) {
        self.checked += other.checked;
        self.bytes += other.bytes;
        self.quarantined += other.quarantined;
        self.mended += other.mended;
        self.unopened += other.unopened;
    }
}

/// Where the background pass is.
#[derive(Default)]
pub(crate) struct Pacer(Mutex<State>);

#[derive(Default)]
struct State {
    /// Engine time of the next turn, in ms; `None` before the first look.
    next: Option<u64>,
    /// The last row of the previous turn, within a pass.
    after: Option<SessionId>,
    found: Scan,
}

impl Core {
    /// How long the writer may sleep, if a pass goes on by then.
    pub(crate) fn scan_nap(&self) -> Option<Duration> {
        self.config.scan_every_ms?;
        self.pacer.0.lock().after.is_some().then_some(Duration::from_millis(PAUSE_MS))
    }

    /// A turn of the pass, if one is due. Called by the writer only.
    pub(crate) fn scan_some(&self, store: &dyn DynStore, now: u64) {
        let Some(every) = self.config.scan_every_ms.filter(|_| store.capabilities().list) else { return };
        let after = {
            let mut state = self.pacer.0.lock();
            let next = *state.next.get_or_insert(now.saturating_add(every));
            if now < next {
                return;
            }
            state.after
        };
        let turn = self.scan_turn(store, after);
        let mut state = self.pacer.0.lock();
        match turn {
            Ok((found, last)) => {
                state.found.add(found);
                state.after = last;
                let pause = match last {
                    Some(_) => PAUSE_MS.max(found.bytes * 1000 / BYTES_PER_SECOND),
                    None => every,
                };
                state.next = Some(now.saturating_add(pause));
                if last.is_none() {
                    let found = std::mem::take(&mut state.found);
                    drop(state);
                    self.scan_ended(&found);
                }
            }
            Err(error) => {
                state.next = Some(now.saturating_add(FAILURE_PAUSE_MS));
                drop(state);
                self.counters.scan_failures.add(1);
                tracing::error!(target: "sessile", %error, "the stored sessions could not be checked; it will be tried again");
            }
        }
    }

    fn scan_ended(&self, found: &Scan) {
        self.counters.scans.add(1);
        let &Scan { checked, bytes, quarantined, mended, unopened } = found;
        if quarantined + mended == 0 {
            tracing::info!(target: "sessile", checked, bytes, unopened, "all stored sessions are intact");
        } else {
            tracing::error!(
                target: "sessile", checked, bytes, unopened, quarantined, mended,
                "stored sessions were damaged: look at the disk"
            );
        }
    }

    /// Checks up to [`ROWS`] rows behind `after`. The second value is the last of them; `None` at the end of the store.
    fn scan_turn(
        &self,
        store: &dyn DynStore,
        after: Option<SessionId>,
    ) -> Result<(Scan, Option<SessionId>), StoreError> {
        let page = guarded(store.name(), || pollster::block_on(store.scan(after, ROWS)))?;
        let mut found = Scan::default();
        for listed in &page.rows {
            found.checked += 1;
            found.bytes += listed.row.bytes.len() as u64;
            match self.try_open(&listed.id, &listed.row) {
                Ok(_) => {}
                Err(error) if error.is_key() => found.unopened += 1,
                Err(_) => self.found_damaged(store, &listed.id, &mut found)?,
            }
        }
        for id in &page.damaged {
            found.checked += 1;
            self.found_damaged(store, id, &mut found)?;
        }
        self.counters.scanned.add(found.checked);
        Ok((found, page.last))
    }

    /// A row did not pass. It is looked at once more: it may have been replaced or removed meanwhile.
    fn found_damaged(
        &self,
        store: &dyn DynStore,
        id: &SessionId,
        found: &mut Scan,
    ) -> Result<(), StoreError> {
        let reason = match guarded(store.name(), || pollster::block_on(store.load(id))) {
            Ok(None) => return Ok(()),
            Ok(Some(row)) => match self.try_open(id, &row) {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            },
            Err(error) if error.kind() == StoreErrorKind::Corrupt => error.to_string(),
            Err(error) => return Err(error),
        };
        match self.cache.get(id) {
            Some(entry) if entry.write_again(&self.queue) => {
                found.mended += 1;
                self.counters.mended.add(1);
                tracing::warn!(target: "sessile", reason, "a stored session was damaged; it is written anew from memory");
                self.notify(|| Event::Mended { id: *id, reason });
            }
            // Its row is about to be deleted.
            Some(_) => {}
            None => {
                found.quarantined += 1;
                let _ = self.quarantine(id, &reason);
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Reads every stored session once, now and as fast as the store allows, and checks its seal. A damaged one is written
    /// anew if it is in memory, and else quarantined, as it would be when somebody asks for it; the observer is told of
    /// either. Blocks the calling thread for as long as reading takes; sessions are served meanwhile.
    /// [`Builder::integrity_scan`](crate::Builder::integrity_scan) does the same in the background.
    ///
    /// Nothing is read from an engine in memory.
    ///
    /// # Errors
    /// The store's error; [`StoreErrorKind::Unsupported`] if it cannot list; [`StoreErrorKind::Corrupt`] if not a row but
    /// its file's structure is damaged. What was found until then is dealt with.
    ///
    /// # Cancel safety
    /// Dropping the future before it is polled changes nothing; later it has run.
    ///
    /// # Complexity
    /// O(stored bytes).
    ///
    /// # Examples
    /// ```
    /// # pollster::block_on(async {
    /// # use sessile_engine::{Engine, store::MemoryStore};
    /// # let engine = Engine::builder().open(MemoryStore::default())?;
    /// let found = engine.scan().await?;
    /// if found.quarantined > 0 {
    ///     // Look at the disk, and keep the backup from before.
    /// }
    /// # Ok::<(), sessile_engine::Error>(()) }).unwrap();
    /// ```
    pub async fn scan(&self) -> Result<Scan> {
        let core = self.core();
        if core.is_closed() {
            return Err(super::closed());
        }
        let mut found = Scan::default();
        let Some(store) = &core.store else { return Ok(found) };
        let mut after = None;
        loop {
            let (turn, last) = core.scan_turn(store.as_ref(), after)?;
            found.add(turn);
            if last.is_none() {
                break;
            }
            after = last;
        }
        core.scan_ended(&found);
        Ok(found)
    }
}
