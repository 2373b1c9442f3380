//! A second embedded store: one sled directory. It owns the directory, its lock and its failure policy; what a
//! commit does is `tables.rs`, what makes the directory ours `format.rs`, how it is opened `open.rs`.
//!
//! A commit is planned against the tree, then applied as one batch on one tree, which sled writes behind one
//! manifest: recovery takes the whole batch or stops before it. Then the log is flushed, and synced through a handle
//! of our own, because sled's `flush` does not reach the disk on Linux.
//!
//! Failure policy. sled may panic on damage, so every call into it is caught. Whatever fails in a write latches the
//! store: it reads on, as far as sled does, and writes no more until the directory is opened anew. A batch that failed half way stays in
//! sled's memory, and dropping the database would write the half out; so such a database is never dropped, and its
//! directory stays locked until the process ends. What cannot be contained: threads of sled's own that panic (they
//! are shared by all sled databases of the process, which then refuse or wait for ever), and what it prints.

mod format;
mod open;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use sled::{Batch, Tree};

use self::format::{Key, STATE_KEY, State};
use self::open::Opened;
use self::tables::Plan;
use super::memory::check_rows;
use super::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, StoreErrorKind, row,
};
use crate::journal;
use crate::place::{Place, patiently};
use crate::sync::{AtomicU8, Mutex, Ordering, RwLock};
use crate::token::SessionId;

const NAME: &str = "sled";
const DEFAULT_CACHE: usize = 64 << 20;
const MAX_ROW_BYTES: usize = 32 << 20;
/// Space that must be free before a commit, besides what its rows take: sled writes segments of 512 KiB, pages again that
/// hold other rows, and now and then a snapshot.
const SPARE_BYTES: u64 = 8 << 20;
/// How often a flush looks whether it waits in vain.
const LOOK: Duration = Duration::from_millis(100);

/// Writes pass.
const WRITABLE: u8 = 0;
/// Writes are refused until the directory is opened anew.
const LATCHED: u8 = 1;
/// As `LATCHED`, and sled's memory may hold a part of a batch.
const TORN: u8 = 2;

/// A store in one [sled](https://docs.rs/sled/0.34.7) directory: an alternative to redb, not recommended.
///
/// sled 0.34.7 is frozen since 2021, with open reports of corruption; `docs/stores.md` says more.
///
/// The directory is created with mode 0700 and locked while the store is open. The last component of its path must
/// not be a symbolic link. A directory that is not one of ours, or of a newer format, is refused and stays
/// untouched. An empty one is used.
///
/// # Durability
/// Every commit is one batch that has been synced when it returns: it survives a crash of the process and a loss of
/// power. Reads may see a commit that is not synced yet.
///
/// # Errors
/// A write to a directory that was moved, deleted or replaced at its path is refused ([`StoreErrorKind::Moved`]).
/// After that, and after any failure of a write, the store refuses writes ([`StoreErrorKind::ReadOnly`]) and goes on reading; after an
/// I/O error within sled, rows beside those of the failed commit may be unreadable ([`Io`](StoreErrorKind::Io)). What the
/// directory then holds is the last acknowledged commit with none, all, or a part of the one that failed; a lack of
/// space that sled meets is no exception. So a commit is refused with [`Full`](StoreErrorKind::Full) while less than
/// 8 MiB and four times its rows are free, and can be tried again. A damaged row is [`Corrupt`](StoreErrorKind::Corrupt) and never a wrong row, but damage to
/// sled's log can bring back an older state of a row, a deleted one included: sled then skips what it cannot read.
///
/// # Panics
/// None of ours. sled's panics are caught, but those of its background threads are not: a commit may then wait for
/// ever, and no other sled database of the process can be opened.
pub struct SledStore {
    path: PathBuf,
    /// Where the directory must be for a write to make sense.
    place: Place,
    /// One commit at a time. Locked before `state`.
    writer: Mutex<()>,
    /// Locked for writing while a batch is applied, so that a read of several entries sees one commit or none of it.
    state: RwLock<Option<Opened>>,
    health: AtomicU8,
}

/// How a call into sled ended.
enum Failure {
    Sled(sled::Error),
    Panicked,
}

/// Calls into sled.
fn caught<T>(f: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(Failure::Sled),
        Err(_) => Err(Failure::Panicked),
    }
}

/// Writes sled's log out, up to what has been applied.
///
/// sled's own `flush` can wait for ever: one of the ways in which its threads meet an I/O error notes it without
/// waking who waits. So a thread of sled's does the waiting, and this one looks for the note now and then.
fn flush(db: &sled::Db) -> Result<(), sled::Error> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut flushed = pin!(db.flush_async());
    loop {
        if let Poll::Ready(result) = flushed.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result.map(drop);
        }
        db.context.global_error()?;
        std::thread::park_timeout(LOOK);
    }
}

/// Maps sled's errors to ours.
fn describe(path: &Path, what: &str, failure: Failure) -> StoreError {
    let what = format!("{what} ({})", path.display());
    match failure {
        Failure::Sled(e @ sled::Error::Io(_)) => {
            StoreError::new(StoreErrorKind::Io, NAME, what).with_source(e)
        }
        Failure::Sled(e) => StoreError::new(StoreErrorKind::Corrupt, NAME, what).with_source(e),
        Failure::Panicked => {
            StoreError::new(StoreErrorKind::Corrupt, NAME, format!("{what}: sled panicked on damage"))
        }
    }
}

impl SledStore {
    /// Opens the directory at `path`, or creates it.
    ///
    /// # Errors
    /// [`Locked`](StoreErrorKind::Locked) if it is open already, here or in another process, and still is a second later;
    /// [`Foreign`](StoreErrorKind::Foreign) and [`NewerFormat`](StoreErrorKind::NewerFormat) if it is not
    /// ours to read; [`Corrupt`](StoreErrorKind::Corrupt) if it is damaged; [`Config`](StoreErrorKind::Config)
    /// if its parent is missing or the path is a link, a file or out of reach; [`Io`](StoreErrorKind::Io) and
    /// [`Full`](StoreErrorKind::Full) as the operating system says.
    ///
    /// # Complexity
    /// O(size of the directory): sled reads the log that was written since the last opening.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with_cache(path, DEFAULT_CACHE)
    }

    /// As [`open`](Self::open), with a page cache of `bytes` (at least 1 MiB) instead of 64 MiB. sled counts
    /// the entries on its pages, not what holds them: it uses a multiple of it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with_cache(path: impl AsRef<Path>, bytes: usize) -> Result<Self, StoreError> {
        let path = path.as_ref();
        journal::check_not_ahead(NAME, path)?;
        Self::open_behind_journal(path, bytes)
    }

    /// As [`open_with_cache`](Self::open_with_cache), for who opens the journal too.
    pub(crate) fn open_behind_journal(path: &Path, bytes: usize) -> Result<Self, StoreError> {
        let opened = patiently(|| open::open(path, bytes))?;
        let place = opened.place(path).map_err(|e| {
            StoreError::new(StoreErrorKind::Io, NAME, format!("cannot look at {}", path.display()))
                .with_source(e)
        })?;
        Ok(Self {
            path: path.to_owned(),
            place,
            writer: Mutex::new(()),
            state: RwLock::new(Some(opened)),
            health: AtomicU8::new(WRITABLE),
        })
    }

    fn error(&self, kind: StoreErrorKind, what: &str) -> StoreError {
        StoreError::new(kind, NAME, format!("{what} ({})", self.path.display()))
    }

    fn closed(&self) -> StoreError {
        self.error(StoreErrorKind::Closed, "the store was closed")
    }

    fn read<T>(&self, f: impl FnOnce(&Tree) -> Result<T, sled::Error>) -> Result<T, StoreError> {
        let state = self.state.read();
        let opened = state.as_ref().ok_or_else(|| self.closed())?;
        caught(|| f(&opened.db)).map_err(|e| describe(&self.path, "reading failed", e))
    }

    /// One durable batch, which also raises the high-water mark.
    fn write<T>(
        &self,
        high_water: u64,
        bytes: u64,
        plan: impl FnOnce(&mut Plan<'_>) -> Result<T, sled::Error>,
    ) -> Result<T, StoreError> {
        let _one_at_a_time = self.writer.lock();
        let planned = {
            let state = self.state.read();
            let opened = state.as_ref().ok_or_else(|| self.closed())?;
            if self.health.load(Ordering::Acquire) != WRITABLE {
                return Err(
                    self.error(StoreErrorKind::ReadOnly, "an earlier write failed; open the directory anew")
                );
            }
            // For good: a directory that comes back may be a copy, and not the newest.
            self.place.check(NAME).inspect_err(|_| {
                self.health.fetch_max(LATCHED, Ordering::AcqRel);
            })?;
            self.check_space(bytes)?;
            caught(|| {
                let mut changes = Plan::begin(&opened.db)?;
                let value = plan(&mut changes)?;
                Ok((value, changes.finish(high_water)))
            })
        };
        let (value, batch) = planned.map_err(|e| self.latch(LATCHED, e))?;
        if let Some(batch) = batch {
            self.apply(batch)?;
        }
        Ok(value)
    }

    /// Refuses a commit that a full disk could cut short, while nothing has been done yet: sled itself does not come
    /// back from that. Somebody else may take the space meanwhile, so this is no promise.
    fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        #[cfg(unix)]
        {
            let wanted = bytes.saturating_mul(4).saturating_add(SPARE_BYTES);
            let free = rustix::fs::statvfs(&self.path).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
            // Where nobody can tell, sled will.
            if let Ok(free) = free
                && free < wanted
            {
                let what = format!("{free} bytes are free, and a commit may need {wanted}");
                return Err(self.error(StoreErrorKind::Full, &what));
            }
        }
        #[cfg(not(unix))]
        let _ = bytes;
        Ok(())
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let applied = {
            let state = self.state.write();
            let opened = state.as_ref().ok_or_else(|| self.closed())?;
            caught(|| opened.db.apply_batch(batch))
        };
        applied.map_err(|e| self.latch(TORN, e))?;
        let state = self.state.read();
        let opened = state.as_ref().ok_or_else(|| self.closed())?;
        caught(|| flush(&opened.db)).map_err(|e| self.latch(TORN, e))?;
        opened.log.sync_data().map_err(|e| self.latch(LATCHED, Failure::Sled(e.into())))
    }

    fn latch(&self, health: u8, failure: Failure) -> StoreError {
        self.health.fetch_max(health, Ordering::AcqRel);
        let error = describe(&self.path, "writing failed; the store is read-only from now on", failure);
        tracing::error!(store = NAME, path = %self.path.display(), error = %error, "the session directory is read-only");
        error
    }

    fn shut(&self) -> Result<(), StoreError> {
        let _no_commit = self.writer.lock();
        let Some(opened) = self.state.write().take() else { return Ok(()) };
        let health = self.health.load(Ordering::Acquire);
        // Dropping it would write; in a fork, to the log of another process.
        if health == TORN || self.place.process.is_fork() {
            let _never_dropped = ManuallyDrop::new(opened);
            return Ok(());
        }
        // Every commit has been synced; this only lets go.
        match caught(|| {
            drop(opened);
            Ok(())
        }) {
            Err(e) if health == WRITABLE => Err(describe(&self.path, "closing failed", e)),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if let Err(e) = self.shut() {
            tracing::warn!(store = NAME, path = %self.path.display(), error = %e, "closing the session directory failed");
        }
    }
}

/// Bytes of the rows that `changes` bring.
fn bytes_of(changes: &[Change]) -> u64 {
    let row = |change: &Change| match change {
        Change::Insert { row, .. }
        | Change::Update { row, .. }
        | Change::Put { row, .. }
        | Change::Rekey { row, .. } => row.bytes.len() as u64,
        Change::Delete { .. } | Change::Quarantine { .. } => 0,
    };
    changes.iter().map(row).sum()
}

/// What sled gave is not what it was given.
fn disorder() -> sled::Error {
    sled::Error::ReportableBug("entries are out of order".into())
}

/// A page of rows behind `after`, in order. Damaged rows are left out, or named in `damaged`, where they count for the
/// limit; keys out of order mean a damaged tree.
fn page(
    tree: &Tree,
    after: Option<&Key>,
    limit: usize,
    mut damaged: Option<&mut Vec<SessionId>>,
) -> Result<Vec<Listed>, sled::Error> {
    let mut rows = Vec::new();
    if limit == 0 {
        return Ok(rows);
    }
    let first = after.map_or(format::row_key(&[0; 32], 0), |id| format::row_key(id, u16::MAX));
    let mut last: Option<Key> = None;
    // The row whose pieces are being read, and the number of the next one.
    let mut open: Option<(Key, Vec<u8>, u16)> = None;
    for entry in tree.range(&first[..]..format::BEHIND_ROWS) {
        let (key, value) = entry?;
        let Some((id, piece)) = format::read_row_key(&key) else { continue };
        if Some(&id) == after {
            continue;
        }
        if last.is_some_and(|last| last > id) {
            return Err(disorder());
        }
        last = Some(id);
        match &mut open {
            Some((open_id, raw, next)) if *open_id == id => {
                if *next == piece {
                    raw.extend_from_slice(&value);
                    *next = next.saturating_add(1);
                }
                continue;
            }
            _ => {}
        }
        tell(open.take(), &mut rows, &mut damaged);
        if rows.len() + damaged.as_ref().map_or(0, |damaged| damaged.len()) == limit {
            return Ok(rows);
        }
        // A row without its beginning is none to be read, and one to be named.
        if piece == 0 || damaged.is_some() {
            open = Some((id, value.to_vec(), piece.saturating_add(1)));
        }
    }
    tell(open, &mut rows, &mut damaged);
    Ok(rows)
}

/// A row whose pieces have been read, into `rows` or `damaged`.
fn tell(row: Option<(Key, Vec<u8>, u16)>, rows: &mut Vec<Listed>, damaged: &mut Option<&mut Vec<SessionId>>) {
    let Some((id, raw, _)) = row else { return };
    match (listed(&id, &raw), damaged) {
        (Some(listed), _) => rows.push(listed),
        (None, Some(damaged)) => damaged.push(SessionId::from_bytes(id)),
        (None, None) => {}
    }
}

fn listed(id: &Key, raw: &[u8]) -> Option<Listed> {
    let row = row::decode(id, raw).ok()?;
    Some(Listed { id: SessionId::from_bytes(*id), row: row.to_row() })
}

fn of_owner(tree: &Tree, owner: &str) -> Result<Vec<Listed>, sled::Error> {
    let prefix = format::owner_prefix(owner);
    let mut rows = Vec::new();
    let mut last: Option<Key> = None;
    for entry in tree.scan_prefix(&prefix) {
        let (key, _) = entry?;
        let Some(id) = key.strip_prefix(&*prefix).and_then(|id| Key::try_from(id).ok()) else { continue };
        if last.is_some_and(|last| last >= id) {
            return Err(disorder());
        }
        last = Some(id);
        let Some(raw) = tables::raw(tree, &id)? else { continue };
        // The row decides: an entry can outlive a row that was damaged when it was removed.
        rows.extend(listed(&id, &raw).filter(|listed| listed.row.owner.as_deref() == Some(owner)));
    }
    Ok(rows)
}

impl Store for SledStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { max_row_bytes: MAX_ROW_BYTES, ..Capabilities::full() }
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.read(|tree| Ok(State::read(tree.get(STATE_KEY)?.as_deref()).high_water))
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let Some(raw) = self.read(|tree| tables::raw(tree, id.as_bytes()))? else { return Ok(None) };
        match row::decode(id.as_bytes(), &raw) {
            Ok(row) => Ok(Some(row.to_row())),
            // Half of a row that a failed batch was replacing: not known, rather than damaged.
            Err(row::Damaged) if self.health.load(Ordering::Acquire) == TORN => {
                Err(self.error(StoreErrorKind::Io, &format!("the row of {id:?} was being replaced")))
            }
            Err(row::Damaged) => {
                Err(self.error(StoreErrorKind::Corrupt, &format!("the row of {id:?} is damaged")))
            }
        }
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        check_rows(NAME, MAX_ROW_BYTES, changes)?;
        self.write(now, bytes_of(changes), |plan| plan.apply(changes))
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.write(high_water, 0, |plan| plan.expire(now, limit))
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.read(|tree| page(tree, after.as_ref().map(SessionId::as_bytes), limit, None))
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        self.read(|tree| {
            let mut damaged = Vec::new();
            let rows = page(tree, after.as_ref().map(SessionId::as_bytes), limit, Some(&mut damaged))?;
            Ok(Scanned::of(rows, damaged, limit))
        })
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.read(|tree| of_owner(tree, owner))
    }

    /// None after damage that took the number with it. What sled itself has lost is not subtracted.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.read(|tree| Ok(State::read(tree.get(STATE_KEY)?.as_deref()).rows))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shut()
    }
}
