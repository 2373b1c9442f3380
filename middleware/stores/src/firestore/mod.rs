//! Sessions in Firestore, for several machines. It owns documents, commits and tokens; it never looks into a record.

mod builder;
mod doc;
mod error;
mod link;
mod plan;
mod shared;
mod token;

use std::fmt;
use std::sync::Arc;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError,
};

pub use self::builder::Builder;
use self::shared::Shared;
pub use self::token::AccessToken;
use crate::driver::Driver;
use crate::keyed;

const NAME: &str = "firestore";

/// A store in Google's Firestore, in native mode, or in its emulator.
///
/// Several engines may be open over the same collection. A commit reads the documents that it is about, decides, and
/// sends all writes in one request, each with the time at which its document was last changed (or that there must be
/// none). The service makes all of them or none, so of two commits that change one row one is made, and the other looks
/// again; a renewal removes one document and adds another in one step. No transaction is opened: what orders commits is
/// the service's `commit`, and no lock is left behind when a client goes away.
///
/// # Documents
/// `sessile_sessions` is the name that was set; ids are in hexadecimal.
///
/// | document | holds |
/// |---|---|
/// | `sessile_sessions/{id}` | a row: `version`, `due` (ms since 1970, 20 digits), `owner`, `record`, `ttl` |
/// | `sessile_sessions_meta/layout` | `version` of this layout |
/// | `sessile_sessions_meta/mark-00` to `mark-31` | `time`: the latest time, less 2⁶³; the highest counts |
/// | `sessile_sessions_quarantine/{id}` | a damaged document that was put aside, with `quarantined_at` |
///
/// A `version` beyond 63 bits is negative. `ttl` is five minutes after `due`, for a TTL policy of the database: the store does
/// not read it, and is right with such a policy and without. No query needs an index that Firestore does not make by itself.
///
/// # Limits
/// A document has 1 MiB at most, so a row has 1020 KiB. A larger commit than fits into a request is made in several, each of
/// them in one step. Firestore indexes the first 1,500 bytes of `record` too, unless it is told not to: `docs/stores.md` has
/// the commands for that.
///
/// # Cancel safety
/// Each call runs on a thread of the store. A caller that is dropped leaves the call to its end. A call that ends at its
/// deadline takes its connection along.
///
/// # Durability
/// A change that was answered is kept by the service, in all zones of its region. A commit is sent once: if its answer is
/// lost, it was made or not.
///
/// # Complexity
/// A load is one exchange; a commit is one if it only adds rows, and two if not. Each row that is read or written is paid
/// for, and so is the high-water mark, which is written with every commit.
///
/// # Examples
/// ```no_run
/// use sessile_engine::Engine;
/// use sessile_stores::firestore::FirestoreStore;
///
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// // With the service account of the machine.
/// let builder = FirestoreStore::builder("firestore://my-project");
/// builder.migrate().await?;
/// let engine = Engine::builder().open(builder.open().await?)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct FirestoreStore {
    driver: Driver,
    shared: Arc<Shared>,
}

impl FirestoreStore {
    /// Settings for a store at `url`: `firestore://PROJECT/DATABASE?collection=NAME&emulator=HOST:PORT`, of which only the
    /// project is needed; without a database, `(default)` is taken. A wrong one is reported by [`Builder::open`].
    pub fn builder(url: &str) -> Builder {
        Builder::of_url(url)
    }

    /// Runs a call to its end or its deadline, whether or not the caller waits for it.
    async fn run<T: Send + 'static, F>(&self, call: impl FnOnce(Arc<Shared>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        if self.shared.link.is_closed() {
            return Err(error::closed());
        }
        // The client's futures are large, and the engine's are not to be.
        self.driver.run(Box::pin(call(Arc::clone(&self.shared)))).await
    }
}

impl Store for FirestoreStore {
    fn name(&self) -> &'static str {
        NAME
    }

    /// It tells of no changes: the service does so over gRPC only.
    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = false;
        can.max_row_bytes = doc::MAX_ROW_BYTES;
        can
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.run(|shared| async move { shared.high_water().await }).await
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let id = *id;
        self.run(move |shared| async move { shared.load(&id).await }).await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        keyed::value::check(NAME, doc::MAX_ROW_BYTES, changes)?;
        let changes = changes.to_vec();
        self.run(move |shared| async move { shared.commit(now, changes).await }).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.run(move |shared| async move { shared.expire(now, high_water, limit).await }).await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.run(move |shared| async move { Ok(shared.page(after, limit, false).await?.rows) }).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        self.run(move |shared| async move {
            let page = shared.page(after, limit, true).await?;
            Ok(Scanned::of(page.rows, page.damaged, limit))
        })
        .await
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let owner = owner.to_owned();
        self.run(move |shared| async move { shared.list_owner(&owner).await }).await
    }

    /// # Complexity
    /// O(rows), in the service, which charges one read for a thousand of them.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.run(|shared| async move { shared.count().await.map(Some) }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.link.close();
        Ok(())
    }
}

impl fmt::Debug for FirestoreStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirestoreStore")
            .field("closed", &self.shared.link.is_closed())
            .finish_non_exhaustive()
    }
}
