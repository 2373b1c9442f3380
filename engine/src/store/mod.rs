//! The seam behind the engine: the [`Store`] trait and its contract. It knows ids, versions, expiry times,
//! owners and opaque bytes; it never sees a token and never chooses an encoding.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod convert;
#[cfg(any(test, feature = "conformance"))]
pub mod fault;
pub(crate) mod memory;
#[cfg(feature = "redb")]
mod redb;
pub(crate) mod row;
#[cfg(feature = "sled")]
mod sled;
mod watch;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

pub use self::memory::MemoryStore;
#[cfg(feature = "redb")]
pub use self::redb::RedbStore;
#[cfg(feature = "sled")]
pub use self::sled::SledStore;
pub use self::watch::{Notice, Watch};
pub use crate::error::{StoreError, StoreErrorKind};
use crate::token::SessionId;

/// One stored session.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Number of the committed state, from 1; each update raises it, except one that brings the same state in other
    /// bytes (sealed with another key).
    pub version: u64,
    /// When the row may be removed, in ms since the Unix epoch. The engine sets it no earlier than the
    /// session's own expiry, and checks the session's own expiry on every access.
    pub expires_at: u64,
    /// The owner to index the session under, at most 255 bytes.
    pub owner: Option<Box<str>>,
    /// The sealed record. Opaque; authenticated by the engine, not by the store. With a
    /// [`Keyring`](crate::Keyring) the seal binds `version`: a store gives back the one it was given.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("version", &self.version)
            .field("expires_at", &self.expires_at)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// One change of a [`Store::commit`].
#[derive(Debug, Clone)]
pub enum Change {
    /// Adds a row that must not exist. [`Outcome::Exists`] if it does; the existing row stays untouched.
    Insert {
        /// The new row's key.
        id: SessionId,
        /// The new row.
        row: Row,
    },
    /// Replaces the row if its version is `expected`. [`Outcome::Missing`] if there is none (an update never
    /// brings a row back), [`Outcome::Conflict`] if its version is another.
    Update {
        /// The row's key.
        id: SessionId,
        /// The version the row must have now.
        expected: u64,
        /// The row's new content, with its new version.
        row: Row,
    },
    /// Sets the row, whatever is there: an older state, a damaged row, or nothing. Always [`Outcome::Done`].
    ///
    /// Only who alone decides what the rows are can say so: a journal that writes its newest states back, once or
    /// again, into an [exclusive](Capabilities::exclusive) store.
    Put {
        /// The row's key.
        id: SessionId,
        /// The row.
        row: Row,
    },
    /// Removes the row if there is one. Always [`Outcome::Done`].
    Delete {
        /// The row's key.
        id: SessionId,
    },
    /// Moves a session to a new key in one step: `from` is removed and `to` inserted. Nothing is done, and
    /// [`Outcome::Exists`] returned, if `to` exists; [`Outcome::Missing`] if `from` does not;
    /// [`Outcome::Conflict`] if its version is not the one expected.
    Rekey {
        /// The old key.
        from: SessionId,
        /// The version that the row must have now. `None`, from who alone decides what the rows are: whatever it has.
        expected: Option<u64>,
        /// The new key.
        to: SessionId,
        /// The row to store under the new key.
        row: Row,
    },
    /// Takes a damaged row out of service: it is no longer loaded or listed, but its bytes are kept for the
    /// operator where the store can do that. Always [`Outcome::Done`].
    Quarantine {
        /// The damaged row's key.
        id: SessionId,
    },
}

/// What became of one [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It was applied.
    Done,
    /// There already is a row of that key.
    Exists,
    /// There is no row of that key.
    Missing,
    /// The row has another version.
    Conflict {
        /// The version found.
        found: u64,
    },
}

/// What [`Store::expire`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Rows removed.
    pub removed: u64,
    /// Whether more rows were due than `limit` allowed.
    pub more: bool,
}

/// A row in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The row's key.
    pub id: SessionId,
    /// The row.
    pub row: Row,
}

/// A page of a [`Store::scan`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanned {
    /// The rows that can be read.
    pub rows: Vec<Listed>,
    /// The keys of those that are damaged.
    pub damaged: Vec<SessionId>,
    /// The last key that was looked at; `None` if there is nothing behind it.
    pub last: Option<SessionId>,
}

impl Scanned {
    /// What a scan for `limit` rows found.
    #[must_use]
    pub fn of(rows: Vec<Listed>, damaged: Vec<SessionId>, limit: usize) -> Self {
        let ends = [rows.last().map(|listed| listed.id), damaged.last().copied()];
        let last = ends.into_iter().flatten().max_by_key(|id| *id.as_bytes());
        let is_full = rows.len() + damaged.len() >= limit;
        Self { rows, damaged, last: last.filter(|_| is_full) }
    }
}

/// What a store can do and where its limits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Nobody but this engine changes the rows while it is open (a locked file, or memory).
    pub exclusive: bool,
    /// A commit that returned survives a crash of the process.
    pub durable: bool,
    /// [`Change::Rekey`] is atomic for everyone who looks, and across a crash.
    pub atomic_rekey: bool,
    /// [`Store::list`] works.
    pub list: bool,
    /// [`Store::list_owner`] works.
    pub by_owner: bool,
    /// [`Store::watch`] works.
    pub watch: bool,
    /// [`Store::expire`] removes what is due. A store that cannot find due rows removes none, and they end by themselves
    /// some time after they are due.
    pub sweeps: bool,
    /// Largest row in bytes.
    pub max_row_bytes: usize,
    /// Grain of `expires_at` in ms: a row may outlive it by this much.
    pub ttl_grain_ms: u64,
}

impl Capabilities {
    /// The capabilities of a store that does everything, exclusively, without limits.
    #[must_use]
    pub const fn full() -> Self {
        Self {
            exclusive: true,
            durable: true,
            atomic_rekey: true,
            list: true,
            by_owner: true,
            watch: false,
            sweeps: true,
            max_row_bytes: usize::MAX,
            ttl_grain_ms: 1,
        }
    }
}

/// Where sessions are kept for good. The engine's cache stands in front of it.
///
/// # Contract
/// - `Insert` never overwrites, `Update` never resurrects, `Delete` is idempotent, versions make updates
///   compare-and-set. [`conformance`](crate::store) proves it for any implementation.
/// - Changes of one `commit` take effect in order. An exclusive store applies all or none of them.
/// - A row that was quarantined, deleted or removed by `expire` is absent for every method.
/// - Times are passed in; a store reads no clock.
///
/// - The futures are polled by threads of the engine too, on which no async runtime runs: a store whose driver needs
///   one brings its own.
/// - A store that is not exclusive makes each change in one step; what is not applied yet when `commit` fails may be
///   applied or not.
///
/// # Cancel safety
/// The engine drives `commit` and `expire` from a thread of its own and never drops them half way. `load`,
/// `list` and `list_owner` run inside requests and may be dropped at any await; so may the `commit` of a store that
/// is not exclusive, whose changes then are applied or not.
pub trait Store: Send + Sync + 'static {
    /// A short constant name for errors, logs and metrics, e.g. `"redb"`.
    fn name(&self) -> &'static str;

    /// What this store can do.
    fn capabilities(&self) -> Capabilities;

    /// Engine time of the latest commit or expiry run, in ms since the Unix epoch, or 0: a floor for engine
    /// time after a restart.
    fn high_water(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Reads one row. Expired rows may be returned; the engine checks.
    ///
    /// # Errors
    /// Any failure to find out whether the row exists. "Absent" is `Ok(None)`, never an error.
    fn load(&self, id: &SessionId) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send;

    /// Applies `changes` in order and returns one outcome each. `now` (engine time in ms) becomes part of the
    /// high-water mark.
    ///
    /// # Errors
    /// On `Err` an exclusive store has applied nothing, or says [`StoreErrorKind::Io`] if it cannot know.
    ///
    /// # Durability
    /// When it returns, the changes survive what [`Capabilities::durable`] says.
    fn commit(
        &self,
        now: u64,
        changes: &[Change],
    ) -> impl Future<Output = Result<Vec<Outcome>, StoreError>> + Send;

    /// Removes up to `limit` rows with `expires_at <= now`, the longest due first, without scanning the rest; none
    /// without the `sweeps` capability. Also raises the high-water mark to `high_water`.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    fn expire(
        &self,
        now: u64,
        high_water: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Expired, StoreError>> + Send;

    /// Up to `limit` rows in the order of their ids, starting behind `after`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unsupported`] without the `list` capability, else any read failure.
    fn list(
        &self,
        after: Option<SessionId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Listed>, StoreError>> + Send;

    /// As [`list`](Self::list), for a check of all that is stored: it names damaged rows too, which a listing leaves out.
    /// Both count for `limit`. A store that cannot have any, or cannot tell, needs no implementation.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    fn scan(
        &self,
        after: Option<SessionId>,
        limit: usize,
    ) -> impl Future<Output = Result<Scanned, StoreError>> + Send {
        async move { Ok(Scanned::of(self.list(after, limit).await?, Vec::new(), limit)) }
    }

    /// All rows of one owner.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unsupported`] without the `by_owner` capability, else any read failure.
    ///
    /// # Complexity
    /// O(rows of that owner).
    fn list_owner(&self, owner: &str) -> impl Future<Output = Result<Vec<Listed>, StoreError>> + Send;

    /// The changes that anybody makes from now on: for a store that is not exclusive.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unsupported`] without the `watch` capability, else any failure to listen.
    fn watch(&self) -> impl Future<Output = Result<Box<dyn Watch>, StoreError>> + Send {
        async {
            Err(StoreError::new(StoreErrorKind::Unsupported, self.name(), "it does not tell of changes"))
        }
    }

    /// Number of rows, if the store can tell cheaply.
    fn count(&self) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send;

    /// Releases files and connections. Later calls fail with [`StoreErrorKind::Closed`]. Idempotent.
    ///
    /// # Errors
    /// A failure to make earlier commits durable.
    fn close(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A handle to a store that others read as well, such as [`convert::copy`] while an engine serves. The engine
/// must stay the only one that writes.
impl<S: Store> Store for Arc<S> {
    fn name(&self) -> &'static str {
        Store::name(&**self)
    }
    fn capabilities(&self) -> Capabilities {
        Store::capabilities(&**self)
    }
    async fn high_water(&self) -> Result<u64, StoreError> {
        Store::high_water(&**self).await
    }
    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        Store::load(&**self, id).await
    }
    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        Store::commit(&**self, now, changes).await
    }
    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        Store::expire(&**self, now, high_water, limit).await
    }
    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        Store::list(&**self, after, limit).await
    }
    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        Store::scan(&**self, after, limit).await
    }
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        Store::list_owner(&**self, owner).await
    }
    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        Store::watch(&**self).await
    }
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        Store::count(&**self).await
    }
    async fn close(&self) -> Result<(), StoreError> {
        Store::close(&**self).await
    }
}

/// A boxed future of the erased store.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`Store`] with its futures boxed, so that the engine is not generic over it. The boxes are paid on misses
/// and per batch, never on a hit. Implemented for every [`Store`].
pub trait DynStore: Send + Sync + 'static {
    /// See [`Store::name`].
    fn name(&self) -> &'static str;
    /// See [`Store::capabilities`].
    fn capabilities(&self) -> Capabilities;
    /// See [`Store::high_water`].
    fn high_water(&self) -> BoxFuture<'_, Result<u64, StoreError>>;
    /// See [`Store::load`].
    fn load<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Option<Row>, StoreError>>;
    /// See [`Store::commit`].
    fn commit<'a>(
        &'a self,
        now: u64,
        changes: &'a [Change],
    ) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>>;
    /// See [`Store::expire`].
    fn expire(&self, now: u64, high_water: u64, limit: usize) -> BoxFuture<'_, Result<Expired, StoreError>>;
    /// See [`Store::list`].
    fn list(&self, after: Option<SessionId>, limit: usize) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>>;
    /// See [`Store::scan`].
    fn scan(&self, after: Option<SessionId>, limit: usize) -> BoxFuture<'_, Result<Scanned, StoreError>>;
    /// See [`Store::list_owner`].
    fn list_owner<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>>;
    /// See [`Store::watch`].
    fn watch(&self) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>>;
    /// See [`Store::count`].
    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, StoreError>>;
    /// See [`Store::close`].
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

impl<S: Store> DynStore for S {
    fn name(&self) -> &'static str {
        Store::name(self)
    }
    fn capabilities(&self) -> Capabilities {
        Store::capabilities(self)
    }
    fn high_water(&self) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(Store::high_water(self))
    }
    fn load<'a>(&'a self, id: &'a SessionId) -> BoxFuture<'a, Result<Option<Row>, StoreError>> {
        Box::pin(Store::load(self, id))
    }
    fn commit<'a>(
        &'a self,
        now: u64,
        changes: &'a [Change],
    ) -> BoxFuture<'a, Result<Vec<Outcome>, StoreError>> {
        Box::pin(Store::commit(self, now, changes))
    }
    fn expire(&self, now: u64, high_water: u64, limit: usize) -> BoxFuture<'_, Result<Expired, StoreError>> {
        Box::pin(Store::expire(self, now, high_water, limit))
    }
    fn list(&self, after: Option<SessionId>, limit: usize) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        Box::pin(Store::list(self, after, limit))
    }
    fn scan(&self, after: Option<SessionId>, limit: usize) -> BoxFuture<'_, Result<Scanned, StoreError>> {
        Box::pin(Store::scan(self, after, limit))
    }
    fn list_owner<'a>(&'a self, owner: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, StoreError>> {
        Box::pin(Store::list_owner(self, owner))
    }
    fn watch(&self) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(Store::watch(self))
    }
    fn count(&self) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(Store::count(self))
    }
    fn close(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(Store::close(self))
    }
}

/// Runs a store call; a panic in it is an error like any other, and leaves what it did unknown.
pub(crate) fn guarded<T>(
    name: &'static str,
    call: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Io, name, "it panicked")))
}
