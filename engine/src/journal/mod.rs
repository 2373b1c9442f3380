//! The journal: an append-only log in front of a store. It makes a change durable by one sequential write, answers for
//! what is in it, and hands it on to the store in large, sorted, rare checkpoints. It knows rows, not sessions.
//!
//! ```text
//! commit ── frame.rs ── log.rs ──► segments (disk.rs)      recover.rs: segments ──► index at a start
//!                         │
//!            fresh.rs, index.rs ──► load, list, owners      checkpoint.rs: frozen index ──► store
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
mod fresh;
#[cfg(test)]
mod fresh_tests;
mod index;
mod log;
mod recover;
#[cfg(test)]
mod sim;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;

use self::checkpoint::Checkpoints;
use self::disk::Directory;
pub(crate) use self::disk::Disk;
#[cfg(all(test, feature = "shuttle"))]
pub(crate) use self::disk::Segment;
use self::index::{Generation, Place};
use self::log::{Log, Put, SEGMENT_BYTES, Start};
pub use self::recover::Recovery;
use crate::error::{StoreError, StoreErrorKind};
use crate::store::{Change, DynStore, Row, Store, row};
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
    /// Bytes of memory for rows on their way into the store. The more, the fewer of its pages are written twice.
    pub(crate) chunk: usize,
}

impl Sizes {
    /// What fits into `memory` bytes. Two generations of the index are in memory while one is drained.
    pub(crate) fn within(memory: usize) -> Self {
        // The tables in front of the indices are large beside a small index, and then never full.
        let share = memory / 4;
        Self {
            segment_bytes: SEGMENT_BYTES,
            bytes: 256 << 20,
            items: ((share - fresh::FRESH_BYTES.min(share / 2)) / index::ITEM_BYTES).max(1024),
            chunk: (memory / 4).saturating_sub(2 << 20).clamp(256 << 10, 32 << 20),
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
    recovery: Recovery,
    closed: crate::sync::AtomicBool,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Where the journal of an embedded store at `path` is, unless it was put elsewhere.
#[cfg(any(feature = "redb", feature = "sled"))]
pub(crate) fn beside(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".journal");
    name.into()
}

/// Refuses to have the `store` at `path` used alone while the journal beside it knows more.
#[cfg(any(feature = "redb", feature = "sled"))]
pub(crate) fn check_not_ahead(store: &'static str, path: &Path) -> Result<(), StoreError> {
    let journal = beside(path);
    if !Directory::has_segments(&journal) {
        return Ok(());
    }
    let message = format!(
        "{} holds newer states of the sessions in {}; open both with `Builder::open_{store}`",
        journal.display(),
        path.display()
    );
    Err(StoreError::new(StoreErrorKind::Config, store, message))
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
            remove: found.remove,
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
            recovery: report,
            closed: crate::sync::AtomicBool::new(false),
            thread: std::sync::Mutex::new(None),
        })
    }

    fn run_in_background(&self) -> Result<(), StoreError> {
        let checkpoints = Arc::clone(&self.checkpoints);
        checkpoints.set_running(true);
        let spawned =
            std::thread::Builder::new().name("sessile-journal".into()).spawn(move || checkpoints.run());
        let thread = spawned.map_err(|e| {
            self.checkpoints.set_running(false);
            StoreError::new(StoreErrorKind::Unavailable, NAME, "the checkpoint thread could not be started")
                .with_source(e)
        })?;
        *self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// What was found at the start.
    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    // ---- the engine's way: it alone decides what the rows are, so nothing is checked ----

    /// Appends `changes` and syncs, also what was appended before. With changes it waits if the journal is full.
    pub(crate) fn write(&self, now: u64, changes: &[Change]) -> Result<(), StoreError> {
        self.log.note_time(now);
        if !changes.is_empty() {
            self.checkpoints.wait_for_room()?;
        }
        self.log.append(changes)?;
        let synced = self.log.sync();
        self.checkpoints.look();
        synced
    }

    /// Sets the row of `id`: it survives a crash of the process when this returns, and a loss of power after the next
    /// [`write`](Self::write). `Ok(false)` if the journal is full, and nothing was done.
    ///
    /// The row is `head` and what `record` appends. That is encoded once, in the buffer that is written, and before any
    /// lock of the journal is taken.
    pub(crate) fn put_now(
        &self,
        now: u64,
        id: &SessionId,
        head: &row::Head<'_>,
        record: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        self.log.note_time(now);
        Put::encode(id, head, record)?.append_to(&self.log, &self.checkpoints.full())
    }

    /// As [`put_now`](Self::put_now) of a row.
    #[cfg(test)]
    fn put_row_now(&self, now: u64, id: &SessionId, row: &Row) -> Result<bool, StoreError> {
        let head =
            row::Head { version: row.version, expires_at: row.expires_at, owner: row.owner.as_deref() };
        self.put_now(now, id, &head, |out| {
            out.extend_from_slice(&row.bytes);
            Ok(())
        })
    }

    /// Writes what changes nothing and syncs it, to find out whether that works.
    pub(crate) fn try_writing(&self, now: u64) -> Result<(), StoreError> {
        self.log.note_time(now);
        self.log.try_writing()
    }

    /// Whether the journal is still where it was opened.
    pub(crate) fn check_place(&self) -> Result<(), StoreError> {
        self.log.check_place()
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

    /// Whether the store behind the journal failed at the last checkpoint.
    pub(crate) fn in_trouble(&self) -> bool {
        self.checkpoints.in_trouble()
    }

    /// That the store has begun to fail, or works again, since this was last asked.
    pub(crate) fn news(&self) -> Option<Result<(), StoreError>> {
        self.checkpoints.news()
    }

    /// Brings all that is in the journal into the store.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        self.checkpoints.run_now()
    }

    fn join(&self) {
        if self.log.process.is_fork() {
            // It has no such thread, and whoever waited for it would wait for ever.
            return;
        }
        self.checkpoints.stop();
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(target: "sessile", "the journal's thread panicked");
        }
    }
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

impl Drop for Journaled {
    fn drop(&mut self) {
        if !self.closed.load(crate::sync::Ordering::Acquire)
            && let Err(error) = pollster::block_on(Store::close(self))
        {
            tracing::warn!(target: "sessile", %error, "closing the journal failed");
        }
    }
}
