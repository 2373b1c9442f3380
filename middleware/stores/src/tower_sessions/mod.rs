//! Sessions in a store of [tower-sessions](https://docs.rs/tower-sessions), whichever: who has one keeps it and gets the API
//! of sessile. It owns the order of changes; what a record is made of and how the store is called, its parts know.

mod entry;
mod records;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Store, StoreError, StoreErrorKind,
};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use self::entry::State;
use self::records::{Data, Entry, Records};
use crate::driver::Driver;
use crate::keyed;

const NAME: &str = "tower-sessions";
const MAX_ROW_BYTES: usize = 16 << 20;
/// The latest time is stored when it has moved by this much, and when the store is closed.
const MARK_MS: u64 = 1000;

/// A store over any `SessionStore` of tower-sessions 0.14 or 0.15: its memory store, moka, SQLx, Redis, or your own.
///
/// # One user
/// **It is for one engine alone, on one node.** The trait of tower-sessions saves a whole record or nothing: it has no
/// compare-and-set, so of two nodes that change one session at the same time one would lose its change, and one could bring
/// back what the other had ended. Nothing in the trait could hold a lock, so *nothing stops you* from opening a second
/// engine over the same records: do not. For several nodes take a store of sessile, which may be on the same server.
///
/// Within the engine everything holds as over any store with one user: updates are exact, an end is final, because memory
/// decides and the store follows.
///
/// Nor may a `SessionManagerLayer` of tower-sessions serve the same records: it takes the id of a record for a secret, and
/// here it is made of the [`SessionId`], which is none.
///
/// # What it cannot do
/// - No listing, no count, no news of changes. No sessions by owner: `sessions_of` fails, a limit per owner is refused, and
///   `destroy_all` ends the sessions that the engine has in memory, then fails, as it cannot find the others.
/// - A renewal is two steps, the new record first. A crash in between leaves both: the old token, which goes on working as
///   if nothing had been renewed, and a record whose token nobody has.
/// - A commit that fails may have been made in part. The engine writes it again.
/// - It removes nothing that is due. The store under it does: run its deletion task (`continuously_delete_expired`) as you
///   did before. A record is due 5 minutes after its row, the year 9999 at the latest.
/// - If the store loses or evicts a record (moka with a capacity does), a session that is in the engine's memory is written
///   again, and one that is not has ended.
///
/// # Records
/// The id is FNV-1a of 128 bits over the session's id; the data are `sessile.id`, the session's id in hexadecimal, and
/// `sessile.row`, the sealed row in base64. One more has `sessile.time`, the latest time. Sessions that tower-sessions made are
/// not taken over, and stay until they are due.
///
/// # Cancel safety
/// Each call is a task. A caller that is dropped leaves the call to its end.
///
/// # Durability
/// That of the store. The latest time, a floor for clocks after a restart, may be one second old after a crash.
///
/// # Complexity
/// A load is one call of the store. A change is one more than it writes: it is looked up first.
///
/// # Examples
/// ```no_run
/// # #[cfg(feature = "tower-sessions-store-0_15")]
/// # async fn open<S: tower_sessions_core_0_15::SessionStore>(store: S) -> Result<(), Box<dyn std::error::Error>> {
/// use sessile_engine::Engine;
/// use sessile_stores::tower_sessions::TowerStore;
///
/// let store = TowerStore::v0_15(store).open()?;
/// let engine = Engine::builder().open(store)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct TowerStore {
    driver: Driver,
    shared: Arc<Shared>,
}

/// Settings of a [`TowerStore`].
#[must_use = "nothing is opened before `open`"]
pub struct Builder {
    records: Arc<dyn Records>,
    deadline: Duration,
}

/// What the calls share, which go on when their callers have gone.
struct Shared {
    records: Arc<dyn Records>,
    /// One commit at a time; the latest time that is stored.
    turn: Mutex<u64>,
    /// The latest time.
    time: AtomicU64,
    closed: AtomicBool,
}

fn own(kind: StoreErrorKind, what: impl Into<std::borrow::Cow<'static, str>>) -> StoreError {
    StoreError::new(kind, NAME, what)
}

impl TowerStore {
    /// Settings for a store of tower-sessions 0.14.
    #[cfg(feature = "tower-sessions-store-0_14")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tower-sessions-store-0_14")))]
    pub fn v0_14(store: impl tower_sessions_core_0_14::SessionStore) -> Builder {
        Builder::of(Arc::new(records::v0_14::Of(store)))
    }

    /// Settings for a store of tower-sessions 0.15.
    #[cfg(feature = "tower-sessions-store-0_15")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tower-sessions-store-0_15")))]
    pub fn v0_15(store: impl tower_sessions_core_0_15::SessionStore) -> Builder {
        Builder::of(Arc::new(records::v0_15::Of(store)))
    }

    async fn run<T: Send + 'static, F>(&self, call: impl FnOnce(Arc<Shared>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.check_open()?;
        self.driver.run(Box::pin(call(Arc::clone(&self.shared)))).await
    }

    fn check_open(&self) -> Result<(), StoreError> {
        match self.shared.closed.load(Ordering::Acquire) {
            true => Err(own(StoreErrorKind::Closed, "the store was closed")),
            false => Ok(()),
        }
    }
}

impl Builder {
    fn of(records: Arc<dyn Records>) -> Self {
        Self { records, deadline: Duration::from_secs(5) }
    }

    /// How long a call may take before it fails as [`Unavailable`](StoreErrorKind::Unavailable). 5 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Opens the store. On a runtime of tokio its calls run there, as the connections of the store under it belong to that
    /// runtime, which must have several threads and outlive the engine. Without one it has a thread of its own, which is
    /// enough for a store in memory. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// [`StoreErrorKind::Config`] on a runtime with one thread: it stands still whenever something waits for the store
    /// there.
    pub fn open(self) -> Result<TowerStore, StoreError> {
        let driver = match Handle::try_current() {
            Ok(_) => Driver::beside(NAME, self.deadline)?,
            Err(_) => Driver::start(NAME, self.deadline)?,
        };
        let shared = Shared {
            records: self.records,
            turn: Mutex::default(),
            time: AtomicU64::default(),
            closed: AtomicBool::default(),
        };
        Ok(TowerStore { driver, shared: Arc::new(shared) })
    }
}

impl Shared {
    async fn look(&self, id: &SessionId) -> Result<Option<State>, StoreError> {
        Ok(self.records.load(entry::key(id)).await?.map(|data| entry::state(id, &data)))
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        match self.look(id).await? {
            None => Ok(None),
            Some(State::Row(row)) => Ok(Some(row)),
            Some(State::Damaged) => {
                Err(own(StoreErrorKind::Corrupt, format!("the record of {id:?} is damaged")))
            }
        }
    }

    /// Adds what was not there when somebody looked; `false` if it is there all the same.
    async fn create(&self, new: Entry) -> Result<bool, StoreError> {
        let wanted = new.id;
        let given = self.records.create(new).await?;
        if given != wanted {
            // The store has kept it under an id that nobody asks for.
            self.records.delete(given).await?;
        }
        Ok(given == wanted)
    }

    /// Some stores save only what is there, and others create only what is not.
    async fn set(&self, new: Entry, exists: bool) -> Result<(), StoreError> {
        if !exists && self.create(Entry { data: new.data.clone(), ..new }).await? {
            return Ok(());
        }
        self.records.save(new).await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        let mut stored = self.turn.lock().await;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            outcomes.push(self.make(change).await?);
        }
        self.raise(&mut stored, now, MARK_MS).await?;
        Ok(outcomes)
    }

    async fn make(&self, change: &Change) -> Result<Outcome, StoreError> {
        match change {
            Change::Insert { id, row } => self.insert(id, row).await,
            Change::Update { id, expected, row } => match self.look(id).await? {
                Some(State::Row(found)) if found.version == *expected => {
                    self.records.save(entry::of_row(id, row)).await?;
                    Ok(Outcome::Done)
                }
                Some(State::Row(found)) => Ok(Outcome::Conflict { found: found.version }),
                Some(State::Damaged) | None => Ok(Outcome::Missing),
            },
            Change::Put { id, row } => {
                let exists = self.look(id).await?.is_some();
                self.set(entry::of_row(id, row), exists).await?;
                Ok(Outcome::Done)
            }
            Change::Delete { id } => {
                self.records.delete(entry::key(id)).await?;
                Ok(Outcome::Done)
            }
            Change::Rekey { from, expected, to, row } => self.rekey(from, *expected, to, row).await,
            Change::Quarantine { id } => self.quarantine(id).await,
        }
    }

    async fn insert(&self, id: &SessionId, row: &Row) -> Result<Outcome, StoreError> {
        if self.look(id).await?.is_some() || !self.create(entry::of_row(id, row)).await? {
            return Ok(Outcome::Exists);
        }
        Ok(Outcome::Done)
    }

    /// The new record first: a crash in between costs nobody a session.
    async fn rekey(
        &self,
        from: &SessionId,
        expected: Option<u64>,
        to: &SessionId,
        row: &Row,
    ) -> Result<Outcome, StoreError> {
        if self.look(to).await?.is_some() {
            return Ok(Outcome::Exists);
        }
        match self.look(from).await? {
            Some(State::Row(found)) if expected.is_some_and(|expected| expected != found.version) => {
                return Ok(Outcome::Conflict { found: found.version });
            }
            Some(State::Row(_)) => {}
            Some(State::Damaged) | None => return Ok(Outcome::Missing),
        }
        if !self.create(entry::of_row(to, row)).await? {
            return Ok(Outcome::Exists);
        }
        self.records.delete(entry::key(from)).await?;
        Ok(Outcome::Done)
    }

    async fn quarantine(&self, id: &SessionId) -> Result<Outcome, StoreError> {
        // What cannot even be loaded cannot be kept.
        let found: Option<Data> = match self.records.load(entry::key(id)).await {
            Err(e) if e.kind() == StoreErrorKind::Corrupt => None,
            found => found?,
        };
        if let Some(data) = found {
            let exists = self.records.load(entry::aside(id)).await?.is_some();
            self.set(entry::of_damaged(id, data), exists).await?;
        }
        self.records.delete(entry::key(id)).await?;
        Ok(Outcome::Done)
    }

    async fn stored_time(&self) -> Result<Option<u64>, StoreError> {
        // A damaged one counts as 0: it is a floor for clocks that went backward.
        Ok(self.records.load(entry::mark()).await?.map(|data| entry::time(&data).unwrap_or(0)))
    }

    /// Notes the time, and stores it if it is `by` later than the one that is stored.
    async fn raise(&self, stored: &mut u64, time: u64, by: u64) -> Result<(), StoreError> {
        let time = self.time.fetch_max(time, Ordering::AcqRel).max(time);
        if time == *stored || time.saturating_sub(*stored) < by {
            return Ok(());
        }
        let there = self.stored_time().await?;
        if there.is_none_or(|there| there < time) {
            self.set(entry::of_mark(time), there.is_some()).await?;
        }
        *stored = there.unwrap_or(0).max(time);
        Ok(())
    }
}

impl Store for TowerStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.atomic_rekey = false;
        can.list = false;
        can.by_owner = false;
        can.sweeps = false;
        can.max_row_bytes = MAX_ROW_BYTES;
        can.ttl_grain_ms = entry::SLACK_MS + 1000;
        can
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.run(|shared| async move {
            let stored = shared.stored_time().await?.unwrap_or(0);
            Ok(stored.max(shared.time.load(Ordering::Acquire)))
        })
        .await
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let id = *id;
        self.run(move |shared| async move { shared.load(&id).await }).await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        keyed::value::check(NAME, MAX_ROW_BYTES, changes)?;
        let changes = changes.to_vec();
        self.run(move |shared| async move { shared.commit(now, &changes).await }).await
    }

    /// Notes the time. The store under it ends what is due.
    async fn expire(&self, _now: u64, high_water: u64, _limit: usize) -> Result<Expired, StoreError> {
        self.run(move |shared| async move {
            let mut stored = shared.turn.lock().await;
            shared.raise(&mut stored, high_water, MARK_MS).await
        })
        .await?;
        Ok(Expired::default())
    }

    async fn list(&self, _after: Option<SessionId>, _limit: usize) -> Result<Vec<Listed>, StoreError> {
        Err(own(StoreErrorKind::Unsupported, "a store of tower-sessions has no list of its sessions"))
    }

    async fn list_owner(&self, _owner: &str) -> Result<Vec<Listed>, StoreError> {
        Err(own(StoreErrorKind::Unsupported, "a store of tower-sessions knows no owners"))
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.check_open().map(|()| None)
    }

    /// Stores the latest time. The store under it stays as it is: it is the app's.
    async fn close(&self) -> Result<(), StoreError> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        self.driver
            .run(Box::pin(async move {
                let mut stored = shared.turn.lock().await;
                shared.raise(&mut stored, 0, 0).await
            }))
            .await
    }
}

impl fmt::Debug for TowerStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerStore")
            .field("closed", &self.shared.closed.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
