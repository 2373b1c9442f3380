//! The default store: one redb file. It owns the file, its lock and its failure policy; what is in the tables
//! is `tables.rs`, what makes the file ours `format.rs`, how it is opened `open.rs`.
//!
//! Failure policy. redb may panic on a corrupted page, so every call into it is caught. redb refuses all work
//! after any failed I/O, so the store then opens the file once more behind a gate that lets no write through:
//! reads go on. After a failed write or sync that leaves the file's content unknown, after a panic in a write
//! and after damage met in a write, that is final until the file is opened anew (*latched*). When only space
//! was lacking or a read failed, the last commit is known to be intact, and the next write reopens the file.

mod backend;
mod format;
mod open;
mod tables;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTableMetadata, StorageBackend, WriteTransaction};

use self::backend::Failed;
use self::format::{Key, OWNERS, SESSIONS};
use self::open::{For, Opened};
use super::memory::check_rows;
use super::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, StoreErrorKind, row,
};
use crate::journal;
use crate::place::{Place, patiently};
use crate::sync::{AtomicU8, Ordering, RwLock};
use crate::token::SessionId;

const NAME: &str = "redb";
const DEFAULT_CACHE: usize = 64 << 20;
const MAX_ROW_BYTES: usize = 256 << 20;

/// Writes pass.
const WRITABLE: u8 = 0;
/// The last commit is intact; the next write reopens the file first.
const REOPEN: u8 = 1;
/// Writes are refused until the file is opened anew by another store.
const LATCHED: u8 = 2;

/// A store in one [redb](https://docs.rs/redb) file: the default.
///
/// The file is created with mode 0600 and locked while the store is open. The last component of its path must
/// not be a symbolic link. A file that is not one of ours, or of a newer format, is refused and stays
/// untouched.
///
/// # Durability
/// Every commit is one redb transaction that has been synced when it returns: it survives a crash of the
/// process and a loss of power.
///
/// # Errors
/// A write to a file that was moved, deleted or replaced at its path is refused ([`StoreErrorKind::Moved`]).
/// After that, and after an I/O error on a write or a sync, the store refuses writes ([`StoreErrorKind::ReadOnly`]) and goes on
/// reading; what the file then holds is the last acknowledged commit or the whole one that failed. After
/// [`StoreErrorKind::Full`] nothing was applied, and the commit can be tried again.
pub struct RedbStore {
    path: PathBuf,
    /// Where the file must be for a write to make sense.
    place: Place,
    cache: usize,
    state: RwLock<State>,
    health: AtomicU8,
}

struct State {
    /// None after [`Store::close`].
    base: Option<Arc<dyn StorageBackend>>,
    /// None if the file could not be opened again after a failure.
    opened: Option<Opened>,
}

/// How a call into redb ended.
enum Failure {
    Redb(redb::Error),
    Panicked,
}

impl RedbStore {
    /// Opens the file at `path`, or creates it.
    ///
    /// # Errors
    /// [`Locked`](StoreErrorKind::Locked) if it is open already, here or in another process, and still is a second later;
    /// [`Foreign`](StoreErrorKind::Foreign) and [`NewerFormat`](StoreErrorKind::NewerFormat) if it is not
    /// ours to read; [`Corrupt`](StoreErrorKind::Corrupt) if it is damaged; [`Config`](StoreErrorKind::Config)
    /// if its directory is missing, the path is a link, a directory or out of reach, or a journal beside it holds
    /// newer states;
    /// [`Io`](StoreErrorKind::Io) and [`Full`](StoreErrorKind::Full) as the operating system says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with_cache(path, DEFAULT_CACHE)
    }

    /// As [`open`](Self::open), with a page cache of `bytes` instead of 64 MiB.
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
        patiently(|| Self::try_open(path, bytes))
    }

    fn try_open(path: &Path, bytes: usize) -> Result<Self, StoreError> {
        let (file, created) = open::file(path)?;
        let place = Place::new().with(path, &file).map_err(|e| {
            StoreError::new(StoreErrorKind::Io, NAME, format!("cannot look at {}", path.display()))
                .with_source(e)
        })?;
        let mut store = Self::on_backend(open::backend(file)?, path, bytes)?;
        store.place = place;
        if created {
            open::sync_directory(path)?;
        }
        Ok(store)
    }

    /// Opens what `base` holds. `path` is for messages.
    pub(crate) fn on_backend(
        base: Arc<dyn StorageBackend>,
        path: &Path,
        cache: usize,
    ) -> Result<Self, StoreError> {
        let opened = open::database(&base, cache, For::First)
            .map_err(|e| StoreError::new(e.kind(), NAME, format!("{}", path.display())).with_source(e))?;
        Ok(Self {
            path: path.to_owned(),
            place: Place::new(),
            cache,
            state: RwLock::new(State { base: Some(base), opened: Some(opened) }),
            health: AtomicU8::new(WRITABLE),
        })
    }

    fn error(&self, kind: StoreErrorKind, what: &str) -> StoreError {
        StoreError::new(kind, NAME, format!("{what} ({})", self.path.display()))
    }

    fn closed(&self) -> StoreError {
        self.error(StoreErrorKind::Closed, "the store was closed")
    }

    /// Runs `f` on the open database. The outer error is ours: there is no database for this.
    fn call<T>(
        &self,
        writes: bool,
        f: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<Result<T, Failure>, StoreError> {
        let state = self.state.read();
        let Some(opened) = &state.opened else {
            return Err(match &state.base {
                None => self.closed(),
                Some(_) => {
                    self.error(StoreErrorKind::Io, "the file could not be opened again after a failure")
                }
            });
        };
        // Another write may have failed since this one asked whether it may write.
        if writes && !opened.writable {
            return Err(self.error(StoreErrorKind::ReadOnly, "an earlier write failed"));
        }
        Ok(match catch_unwind(AssertUnwindSafe(|| f(&opened.db))) {
            Ok(result) => result.map_err(Failure::Redb),
            Err(_) => Err(Failure::Panicked),
        })
    }

    fn read<T>(&self, f: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let failure = match self.call(false, &f)? {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        // redb refuses everything after a failed read. A panic leaves its locks poisoned.
        let broken = match &failure {
            Failure::Panicked => true,
            Failure::Redb(e) => matches!(
                e,
                redb::Error::Io(_)
                    | redb::Error::Backend(_)
                    | redb::Error::PreviousIo
                    | redb::Error::LockPoisoned(_)
            ),
        };
        if broken {
            self.fall_back(REOPEN);
        }
        // This call may only have met what another one broke.
        if matches!(&failure, Failure::Redb(redb::Error::PreviousIo | redb::Error::LockPoisoned(_)))
            && let Ok(value) = self.call(false, &f)?
        {
            return Ok(value);
        }
        Err(self.describe("reading failed", failure))
    }

    fn describe(&self, what: &str, failure: Failure) -> StoreError {
        match failure {
            Failure::Redb(e) => store_error(&format!("{what} ({})", self.path.display()), e),
            Failure::Panicked => panicked(&format!("{what} ({})", self.path.display())),
        }
    }

    /// One durable transaction.
    fn write<T>(&self, f: impl Fn(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.ready_to_write()?;
        let run = |db: &Database| {
            let mut tx = db.begin_write()?;
            // Always, not now and then: what counts is the very last commit before a crash. With it a file
            // of a million rows opens in milliseconds, without in seconds; it costs a commit of one row
            // another 0.4 ms and a large batch nothing. It also implies a two-phase commit, which does not
            // lean on a checksum that stored values could be made to match.
            tx.set_quick_repair(true);
            let value = f(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        let failure = match self.call(true, run)? {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        let only_space = match &failure {
            Failure::Panicked => false,
            Failure::Redb(_) => {
                self.state.read().opened.as_ref().is_some_and(|o| o.gate.failed() == Failed::Space)
            }
        };
        if matches!(&failure, Failure::Redb(redb::Error::ValueTooLarge(_))) {
            return Err(self.describe("writing failed", failure));
        }
        self.fall_back(if only_space { REOPEN } else { LATCHED });
        if only_space {
            return Err(self.error(StoreErrorKind::Full, "no space is left for the file"));
        }
        let mut error = self.describe("writing failed; the store is read-only from now on", failure);
        if error.kind() == StoreErrorKind::Full {
            // A sync or a header write that lacked space: unlike a page, that leaves the content unknown.
            error = self.error(StoreErrorKind::Io, "a commit may be half on disk").with_source(error);
        }
        tracing::error!(store = NAME, path = %self.path.display(), error = %error, "the session file is read-only");
        Err(error)
    }

    fn ready_to_write(&self) -> Result<(), StoreError> {
        let health = self.health.load(Ordering::Acquire);
        if health != LATCHED
            && let Err(error) = self.place.check(NAME)
        {
            // For good: a file that comes back may be a copy, and not the newest.
            self.health.store(LATCHED, Ordering::Release);
            return Err(error);
        }
        match health {
            WRITABLE => Ok(()),
            REOPEN => self.reopen_for_writing(),
            _ if self.state.read().base.is_none() => Err(self.closed()),
            _ => Err(self.error(StoreErrorKind::ReadOnly, "an earlier write failed; open the file anew")),
        }
    }

    fn reopen_for_writing(&self) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if self.health.load(Ordering::Acquire) != REOPEN {
            return Ok(());
        }
        let Some(base) = state.base.clone() else { return Err(self.closed()) };
        discard(state.opened.take());
        match open::database(&base, self.cache, For::Writing) {
            Ok(opened) => {
                state.opened = Some(opened);
                self.health.store(WRITABLE, Ordering::Release);
                Ok(())
            }
            Err(e) => {
                state.opened = open::database(&base, self.cache, For::Reading).ok();
                if e.kind() != StoreErrorKind::Full {
                    self.health.store(LATCHED, Ordering::Release);
                }
                Err(e)
            }
        }
    }

    /// Replaces the database by a view that no write passes, and remembers why.
    fn fall_back(&self, health: u8) {
        let mut state = self.state.write();
        let Some(base) = state.base.clone() else { return };
        let before = self.health.load(Ordering::Acquire);
        let failed = state.opened.as_ref().map_or(Failed::Nothing, |o| o.gate.failed());
        let health = if failed == Failed::Unknown { LATCHED } else { health.max(before) };
        self.health.store(health, Ordering::Release);
        discard(state.opened.take());
        state.opened = match open::database(&base, self.cache, For::Reading) {
            Ok(opened) => Some(opened),
            Err(e) => {
                tracing::error!(store = NAME, path = %self.path.display(), error = %e, "the session file cannot be read");
                None
            }
        };
    }

    fn shut(&self) -> Result<(), StoreError> {
        let mut state = self.state.write();
        if self.place.process.is_fork() {
            // Letting go would write to the file, and unlock it for the process that has it.
            let _never_dropped =
                (ManuallyDrop::new(state.base.take()), ManuallyDrop::new(state.opened.take()));
            return Ok(());
        }
        if state.base.take().is_none() {
            return Ok(());
        }
        let Some(Opened { db, gate, .. }) = state.opened.take() else { return Ok(()) };
        let result = catch_unwind(AssertUnwindSafe(|| db.close()));
        gate.kill();
        match result {
            _ if self.health.load(Ordering::Acquire) != WRITABLE => Ok(()),
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.describe("closing failed", Failure::Redb(e.into()))),
            Err(_) => Err(self.describe("closing failed", Failure::Panicked)),
        }
    }
}

/// Drops a database that must not touch its file any more.
fn discard(opened: Option<Opened>) {
    let Some(Opened { db, gate, .. }) = opened else { return };
    gate.kill();
    if catch_unwind(AssertUnwindSafe(move || drop(db))).is_err() {
        tracing::debug!(store = NAME, "redb panicked while a broken database was dropped");
    }
}

fn panicked(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, NAME, format!("{what}: the file's structure is damaged"))
}

/// Maps redb's errors to ours.
fn store_error(what: &str, e: redb::Error) -> StoreError {
    let kind = match &e {
        redb::Error::Io(io) => match io.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
            // redb's word for a file without its magic number.
            io::ErrorKind::InvalidData => StoreErrorKind::Foreign,
            _ => StoreErrorKind::Io,
        },
        redb::Error::Backend(_) | redb::Error::Unsupported => StoreErrorKind::Io,
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => StoreErrorKind::Locked,
        redb::Error::UpgradeRequired(_) => StoreErrorKind::Foreign,
        redb::Error::PreviousIo => StoreErrorKind::Io,
        redb::Error::DatabaseClosed => StoreErrorKind::Closed,
        redb::Error::ValueTooLarge(_) => StoreErrorKind::TooLarge,
        _ => StoreErrorKind::Corrupt,
    };
    StoreError::new(kind, NAME, what.to_owned()).with_source(e)
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        if let Err(e) = self.shut() {
            tracing::warn!(store = NAME, path = %self.path.display(), error = %e, "closing the session file failed");
        }
    }
}

/// A page of rows from `from` on, in order. Damaged rows are left out, or named in `damaged`, where they count for the
/// limit; keys out of order mean a damaged tree.
fn page(
    db: &Database,
    from: Bound<&Key>,
    limit: usize,
    mut damaged: Option<&mut Vec<SessionId>>,
) -> Result<Vec<Listed>, redb::Error> {
    let sessions = db.begin_read()?.open_table(SESSIONS)?;
    let mut rows = Vec::new();
    let mut last: Option<Key> = None;
    if limit == 0 {
        return Ok(rows);
    }
    for entry in sessions.range::<&Key>((from, Bound::Unbounded))? {
        let (id, raw) = entry?;
        let id = *id.value();
        if last.is_some_and(|last| last >= id) {
            return Err(redb::Error::Corrupted("rows are out of order".into()));
        }
        last = Some(id);
        match (row::decode(&id, raw.value()), &mut damaged) {
            (Ok(row), _) => rows.push(Listed { id: SessionId::from_bytes(id), row: row.to_row() }),
            (Err(row::Damaged), Some(damaged)) => damaged.push(SessionId::from_bytes(id)),
            (Err(row::Damaged), None) => {}
        }
        if rows.len() + damaged.as_ref().map_or(0, |damaged| damaged.len()) == limit {
            break;
        }
    }
    Ok(rows)
}

fn of_owner(db: &Database, owner: &str) -> Result<Vec<Listed>, redb::Error> {
    let tx = db.begin_read()?;
    let (owners, sessions) = (tx.open_table(OWNERS)?, tx.open_table(SESSIONS)?);
    let mut rows = Vec::new();
    let mut last: Option<Key> = None;
    for entry in owners.range((owner, &[0; 32])..=(owner, &[0xFF; 32]))? {
        let (key, _) = entry?;
        let (_, id) = key.value();
        if last.is_some_and(|last| last >= *id) {
            return Err(redb::Error::Corrupted("owner entries are out of order".into()));
        }
        last = Some(*id);
        let Some(raw) = sessions.get(id)? else { continue };
        // The row decides: an entry can outlive a row that was damaged when it was removed.
        if let Ok(row) = row::decode(id, raw.value())
            && row.owner == Some(owner)
        {
            rows.push(Listed { id: SessionId::from_bytes(*id), row: row.to_row() });
        }
    }
    Ok(rows)
}

impl Store for RedbStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { max_row_bytes: MAX_ROW_BYTES, ..Capabilities::full() }
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.read(format::high_water)
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let key = id.as_bytes();
        let read = self.read(|db| {
            let sessions = db.begin_read()?.open_table(SESSIONS)?;
            Ok(sessions.get(key)?.map(|raw| row::decode(key, raw.value()).map(row::RowRef::to_row)))
        })?;
        read.transpose().map_err(|row::Damaged| {
            self.error(StoreErrorKind::Corrupt, &format!("the row of {id:?} is damaged"))
        })
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        check_rows(NAME, MAX_ROW_BYTES, changes)?;
        self.write(|tx| {
            let outcomes = tables::apply(tx, changes)?;
            format::raise_high_water(tx, now)?;
            Ok(outcomes)
        })
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.write(|tx| {
            let expired = tables::expire(tx, now, limit)?;
            format::raise_high_water(tx, high_water)?;
            Ok(expired)
        })
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let from = after.as_ref().map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_bytes()));
        self.read(|db| page(db, from, limit, None))
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        let from = after.as_ref().map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_bytes()));
        self.read(|db| {
            let mut damaged = Vec::new();
            let rows = page(db, from, limit, Some(&mut damaged))?;
            Ok(Scanned::of(rows, damaged, limit))
        })
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        self.read(|db| of_owner(db, owner))
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.read(|db| Ok(Some(db.begin_read()?.open_table(SESSIONS)?.len()?)))
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shut()
    }
}
