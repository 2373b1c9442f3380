//! The journal: an append-only log in front of a store. It makes a change durable by one sequential write, answers for
//! what is in it, and hands it on to the store in large, sorted, rare checkpoints. It knows rows, not sessions.
//!
//! ```text
//! commit ── frame.rs ── log.rs ──► segments (disk.rs)      recover.rs: segments ──► index at a start
//!                         │
//!                     index.rs ──► load, list, owners      checkpoint.rs: frozen index ──► store
//! ```
//!
//! The newest state of a session is in the current generation of the index, else in the frozen one, else in the
//! store. A checkpoint freezes the current generation, writes it into the store in the order of its ids,
//! makes it durable that this is done, and drops it with its segments. A crash in between writes some of it once
//! more, which changes nothing.

mod checkpoint;
#[cfg(test)]
mod corruption_tests;
#[cfg(test)]
mod crash_tests;
mod disk;
#[cfg(test)]
mod fault_tests;
mod frame;
#[cfg(test)]
mod frame_tests;
mod index;
mod log;
mod recover;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use self::checkpoint::Checkpoints;
use self::disk::{Directory, Disk};
use self::index::{Generation, Place, State, owner_hash, shard_of};
use self::log::{Generations, Log, SEGMENT_BYTES, Start};
pub use self::recover::Recovery;
use crate::error::{StoreError, StoreErrorKind};
use crate::store::memory::check_rows;
use crate::store::{Capabilities, Change, DynStore, Expired, Listed, Outcome, Row, Store, row};
use crate::sync::Mutex;
use crate::token::SessionId;

const NAME: &str = "journal";

/// When a checkpoint is due, and when writers wait for one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) segment_bytes: u64,
    /// Bytes of frames in a generation that make a checkpoint due.
    pub(crate) bytes: u64,
    /// Sessions in a generation that make a checkpoint due. Twice as many, or twice the bytes, and writers wait.
    pub(crate) items: usize,
}

impl Sizes {
    /// What fits into `memory` bytes of index. Two generations are in memory while one is drained.
    pub(crate) fn within(memory: usize) -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            bytes: 256 << 20,
            items: (memory / 3 / index::ITEM_BYTES).max(1024),
        }
    }
}

/// A store with a journal in front of it.
///
/// # Durability
/// [`commit`](Store::commit) returns when its changes are in the journal and synced: they survive a crash of the process
/// and a loss of power, whether or not the store has them yet. The store must be
/// [exclusive](Capabilities::exclusive): nobody else may change its rows.
///
/// # Errors
/// An I/O error on a write or a sync of the journal ends all writing until it is opened anew. Lack of space does not:
/// the write leaves nothing behind and can be tried again. When the store behind the journal fails, commits go on
/// until the journal is full (twice the size at which a checkpoint is due), then they wait and fail as the store does.
pub(crate) struct Journaled {
    inner: Arc<dyn DynStore>,
    log: Arc<Log>,
    checkpoints: Arc<Checkpoints>,
    /// Held from the check of a change until it is in the log, by commits that must check.
    checking: Mutex<()>,
    recovery: Recovery,
    closed: crate::sync::AtomicBool,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Where the newest state of a session is.
enum Found {
    Row(Place, Arc<Generation>),
    Gone,
    /// In the store, if anywhere.
    Unknown,
}

impl Journaled {
    /// Opens the journal in the directory `path`, which is created if it does not exist, in front of `inner`.
    ///
    /// What a crash left in it is served at once and handed on to the store in the background.
    pub(crate) fn open(path: &Path, inner: Arc<dyn DynStore>, memory: usize) -> Result<Self, StoreError> {
        let journaled = Self::on_disk(Box::new(Directory::open(path)?), inner, Sizes::within(memory))?;
        journaled.run_in_background()?;
        Ok(journaled)
    }

    /// As [`open`](Self::open) on any disk, without a thread: checkpoints happen when they are asked for.
    pub(crate) fn on_disk(
        disk: Box<dyn Disk>,
        inner: Arc<dyn DynStore>,
        sizes: Sizes,
    ) -> Result<Self, StoreError> {
        let found = recover::recover(&*disk)?;
        let report = found.report;
        if report.damaged > 0 {
            tracing::error!(
                target: "sessile", gaps = report.damaged, segments = ?found.damaged,
                "the journal is damaged: changes that were durable are lost; the damaged segments are kept"
            );
        }
        if report.changes > 0 || report.torn_bytes > 0 {
            tracing::info!(
                target: "sessile", changes = report.changes, bytes = report.bytes, torn = report.torn_bytes,
                "sessions were recovered from the journal"
            );
        }
        let frozen = (!found.generation.segments().is_empty()).then(|| Arc::new(found.generation));
        let start = Start {
            journal: found.journal,
            number: found.number,
            base: found.end,
            oldest: found.oldest,
            now: found.now,
            synced: found.synced,
            frozen,
        };
        let log =
            Log::start(disk, start, sizes.segment_bytes).map_err(|e| failed("cannot begin a segment", e))?;
        let log = Arc::new(log);
        let checkpoints =
            Arc::new(Checkpoints::new(Arc::clone(&log), Arc::clone(&inner), sizes, found.damaged));
        Ok(Self {
            inner,
            log,
            checkpoints,
            checking: Mutex::new(()),
            recovery: report,
            closed: crate::sync::AtomicBool::new(false),
            thread: std::sync::Mutex::new(None),
        })
    }

    fn run_in_background(&self) -> Result<(), StoreError> {
        let checkpoints = Arc::clone(&self.checkpoints);
        let spawned =
            std::thread::Builder::new().name("sessile-journal".into()).spawn(move || checkpoints.run());
        let thread = spawned.map_err(|e| {
            StoreError::new(StoreErrorKind::Unavailable, NAME, "the checkpoint thread could not be started")
                .with_source(e)
        })?;
        *self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Whether `path` holds a journal with segments, so that a store must not be used without it.
    pub(crate) fn is_in_use(path: &Path) -> bool {
        Directory::has_segments(path)
    }

    /// What was found at the start.
    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    // ---- the engine's way: it alone decides what the rows are, so nothing is checked ----

    /// Appends `changes` and syncs, also what was appended before. Waits if the journal is full.
    pub(crate) fn write(&self, now: u64, changes: &[Change]) -> Result<(), StoreError> {
        self.log.note_time(now);
        self.checkpoints.wait_for_room()?;
        self.log.append(changes)?;
        let synced = self.log.sync();
        self.checkpoints.look();
        synced
    }

    /// Sets the row of `id`: it survives a crash of the process when this returns, and a loss of power after the next
    /// [`write`](Self::write). `Ok(false)` if the journal is full, and nothing was done.
    pub(crate) fn put_now(&self, now: u64, id: &SessionId, row: &Row) -> Result<bool, StoreError> {
        if self.checkpoints.is_full() {
            return Ok(false);
        }
        self.log.note_time(now);
        self.log.append_put(id, row)?;
        Ok(true)
    }

    /// Housekeeping, about once a second: a checkpoint of what has been in the journal for long, and then the removal of
    /// rows that expired before `due`.
    pub(crate) fn keep_house(&self, now: u64, due: u64) {
        self.log.note_time(now);
        self.checkpoints.tick(now, due);
    }

    /// Rows removed as expired since this was last asked.
    pub(crate) fn take_expired(&self) -> u64 {
        self.checkpoints.take_expired()
    }

    /// How the last checkpoint failed, if it did.
    pub(crate) fn trouble(&self) -> Option<StoreError> {
        self.checkpoints.trouble()
    }

    /// Brings all that is in the journal into the store.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        self.checkpoints.run_now()
    }

    // ---- reading ----

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(crate::sync::Ordering::Acquire) {
            return Err(StoreError::new(StoreErrorKind::Closed, NAME, "the store was closed"));
        }
        Ok(())
    }

    fn find(&self, generations: &Generations, id: &SessionId) -> Found {
        let in_frozen = || generations.frozen.as_ref().and_then(|g| Some((g.get(id)?, g)));
        match generations.current.get(id).map(|s| (s, &generations.current)).or_else(in_frozen) {
            Some((State::Row(place), generation)) => Found::Row(place, Arc::clone(generation)),
            Some((State::Deleted | State::Quarantined, _)) => Found::Gone,
            None => Found::Unknown,
        }
    }

    /// The row of `id` in the journal. `Ok(None)` if only the store knows.
    fn look(&self, generations: &Generations, id: &SessionId) -> Result<Option<Option<Row>>, StoreError> {
        match self.find(generations, id) {
            Found::Row(place, generation) => read(&generation, id, place).map(|row| Some(Some(row))),
            Found::Gone => Ok(Some(None)),
            Found::Unknown => Ok(None),
        }
    }

    /// Ids and states of the journal behind `after`, in order, at least `limit` of them if there are that many.
    fn ids_after(&self, generations: &Generations, after: Option<SessionId>, limit: usize) -> Vec<SessionId> {
        let mut ids: Vec<SessionId> = Vec::new();
        let mut shard = after.as_ref().map_or(0, shard_of);
        while ids.len() < limit {
            let Some(mut items) = generations.current.shard_in_order(shard) else { break };
            if let Some(frozen) = &generations.frozen {
                items.extend(frozen.shard_in_order(shard).unwrap_or_default());
                items.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
                items.dedup_by(|a, b| a.0 == b.0);
            }
            ids.extend(
                items
                    .into_iter()
                    .map(|(id, _)| id)
                    .filter(|id| after.is_none_or(|after| id.as_bytes() > after.as_bytes())),
            );
            shard += 1;
        }
        ids
    }

    // ---- commits that must check ----

    /// What becomes of each change, given the rows that are there and the changes before it.
    async fn outcomes(&self, changes: &[Change]) -> Result<(Vec<Outcome>, Vec<Change>), StoreError> {
        let generations = self.log.generations();
        let mut versions: HashMap<SessionId, Option<u64>> = HashMap::new();
        for change in changes {
            for id in ids_of(change) {
                if versions.contains_key(&id) {
                    continue;
                }
                let row = match self.look(&generations, &id) {
                    Ok(Some(row)) => Ok(row),
                    Ok(None) => self.inner.load(&id).await,
                    Err(e) => Err(e),
                };
                let version = match row {
                    Ok(row) => row.map(|r| r.version),
                    // Present for an insert, missing for an update, as in every store: no version is this one.
                    Err(e) if e.kind() == StoreErrorKind::Corrupt => Some(u64::MAX),
                    Err(e) => return Err(e),
                };
                versions.insert(id, version);
            }
        }
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut accepted = Vec::with_capacity(changes.len());
        for change in changes {
            let at = |id: &SessionId| versions.get(id).copied().flatten();
            let outcome = match change {
                Change::Insert { id, .. } if at(id).is_some() => Outcome::Exists,
                Change::Update { id, expected, .. } => match at(id) {
                    None | Some(u64::MAX) => Outcome::Missing,
                    Some(found) if found != *expected => Outcome::Conflict { found },
                    Some(_) => Outcome::Done,
                },
                Change::Rekey { to, .. } if at(to).is_some() => Outcome::Exists,
                Change::Rekey { from, .. } if matches!(at(from), None | Some(u64::MAX)) => Outcome::Missing,
                _ => Outcome::Done,
            };
            if outcome == Outcome::Done {
                match change {
                    Change::Insert { id, row } | Change::Update { id, row, .. } | Change::Put { id, row } => {
                        versions.insert(*id, Some(row.version));
                    }
                    Change::Delete { id } | Change::Quarantine { id } => {
                        versions.insert(*id, None);
                    }
                    Change::Rekey { from, to, row } => {
                        versions.insert(*from, None);
                        versions.insert(*to, Some(row.version));
                    }
                }
                accepted.push(change.clone());
            }
            outcomes.push(outcome);
        }
        Ok((outcomes, accepted))
    }

    fn join(&self) {
        self.checkpoints.stop();
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(target: "sessile", "the journal's thread panicked");
        }
    }
}

fn ids_of(change: &Change) -> impl Iterator<Item = SessionId> {
    let (a, b) = match change {
        Change::Insert { id, .. }
        | Change::Update { id, .. }
        | Change::Put { id, .. }
        | Change::Delete { id }
        | Change::Quarantine { id } => (*id, None),
        Change::Rekey { from, to, .. } => (*from, Some(*to)),
    };
    std::iter::once(a).chain(b)
}

/// Reads the row of `id` at `place`.
fn read(generation: &Generation, id: &SessionId, place: Place) -> Result<Row, StoreError> {
    let corrupt = |what: &'static str| StoreError::new(StoreErrorKind::Corrupt, NAME, what);
    let file = generation.file(place.segment).ok_or_else(|| corrupt("a segment is missing"))?;
    let mut bytes = vec![0; place.len as usize];
    file.read_at(u64::from(place.at), &mut bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => corrupt("a segment is cut short"),
        _ => failed("cannot read a row", e),
    })?;
    match row::decode(id.as_bytes(), &bytes) {
        Ok(row) => Ok(row.to_row()),
        Err(row::Damaged) => Err(corrupt("a row is damaged")),
    }
}

/// An I/O error as a store's.
fn failed(what: &str, e: io::Error) -> StoreError {
    let kind = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            StoreErrorKind::Config
        }
        _ => StoreErrorKind::Io,
    };
    StoreError::new(kind, NAME, what.to_owned()).with_source(e)
}

impl Store for Journaled {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        Capabilities {
            durable: true,
            atomic_rekey: true,
            max_row_bytes: inner.max_row_bytes.min(frame::MAX_ROW - 512),
            ..inner
        }
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.check_open()?;
        Ok(self.inner.high_water().await?.max(self.log.now()))
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        self.check_open()?;
        match self.look(&self.log.generations(), id)? {
            Some(row) => Ok(row),
            None => self.inner.load(id).await,
        }
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        self.check_open()?;
        check_rows(NAME, Store::capabilities(self).max_row_bytes, changes)?;
        let _checking = self.checking.lock();
        // Blocking, so that the lock is held over no await: embedded stores answer at once.
        let (outcomes, accepted) = pollster::block_on(self.outcomes(changes))?;
        self.write(now, &accepted)?;
        Ok(outcomes)
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.check_open()?;
        self.log.note_time(high_water);
        // The store's own index of times decides, so it must know the newest rows.
        self.checkpoint()?;
        self.inner.expire(now, high_water, limit).await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.check_open()?;
        let mut rows: Vec<Listed> = Vec::new();
        let mut after = after;
        loop {
            let generations = self.log.generations();
            let wanted = limit - rows.len();
            let stored = self.inner.list(after, wanted).await?;
            // Up to where both are known.
            let to = if stored.len() < wanted { None } else { stored.last().map(|l| l.id) };
            let within = |id: &SessionId| to.is_none_or(|to| id.as_bytes() <= to.as_bytes());
            let ids = self.ids_after(&generations, after, wanted);
            let known = ids.last().copied().filter(|_| ids.len() >= wanted);
            let to_known = |id: &SessionId| known.is_none_or(|k| id.as_bytes() <= k.as_bytes());
            let mut page: Vec<Listed> = stored
                .into_iter()
                .filter(|l| matches!(self.find(&generations, &l.id), Found::Unknown))
                .collect();
            for id in ids.iter().filter(|id| within(id)) {
                match self.look(&generations, id) {
                    Ok(Some(Some(row))) => page.push(Listed { id: *id, row }),
                    Ok(_) => {}
                    Err(e) if e.kind() == StoreErrorKind::Corrupt => {}
                    Err(e) => return Err(e),
                }
            }
            page.retain(|l| to_known(&l.id));
            page.sort_unstable_by(|a, b| a.id.as_bytes().cmp(b.id.as_bytes()));
            rows.extend(page.into_iter().take(wanted));
            // Where the next round begins: everything up to there has been looked at.
            let next = match (to, known) {
                (None, None) => return Ok(rows),
                (Some(a), Some(b)) => {
                    if a.as_bytes() < b.as_bytes() {
                        a
                    } else {
                        b
                    }
                }
                (Some(a), None) | (None, Some(a)) => a,
            };
            if rows.len() >= limit {
                return Ok(rows);
            }
            after = Some(next);
        }
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.check_open()?;
        let generations = self.log.generations();
        let mut rows: Vec<Listed> = self.inner.list_owner(owner).await?;
        rows.retain(|l| matches!(self.find(&generations, &l.id), Found::Unknown));
        let hash = owner_hash(Some(owner));
        let mut ids = generations.current.of_owner(hash);
        ids.extend(generations.frozen.iter().flat_map(|g| g.of_owner(hash)));
        ids.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        ids.dedup();
        for id in ids {
            match self.look(&generations, &id) {
                Ok(Some(Some(row))) if row.owner.as_deref() == Some(owner) => rows.push(Listed { id, row }),
                Ok(_) => {}
                Err(e) if e.kind() == StoreErrorKind::Corrupt => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rows)
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.check_open()?;
        let generations = self.log.generations();
        if generations.current.is_empty() && generations.frozen.as_ref().is_none_or(|g| g.is_empty()) {
            return self.inner.count().await;
        }
        // Whether the store has a row of each id in the journal is not known without asking it for every one.
        Ok(None)
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.closed.swap(true, crate::sync::Ordering::AcqRel) {
            return Ok(());
        }
        self.join();
        // What cannot be handed on now is handed on by the next start.
        let handed_on = match self.log.broken() {
            None => self.checkpoint(),
            Some(_) => Ok(()),
        };
        let ended = match &handed_on {
            Ok(()) => self.log.end(),
            Err(_) => self.log.sync(),
        };
        self.log.stop();
        if let Err(error) = &handed_on {
            tracing::warn!(target: "sessile", %error, "sessions stay in the journal until the next start");
        }
        let closed = self.inner.close().await;
        ended.and(closed)
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        if !self.closed.load(crate::sync::Ordering::Acquire)
            && let Err(error) = pollster::block_on(Store::close(self))
        {
            tracing::warn!(target: "sessile", %error, "closing the journal failed");
        }
    }
}
