//! Sessions in MongoDB, for several machines. It owns documents, requests and connections; it never looks into a record.

mod builder;
mod change;
mod doc;
mod error;
mod renew;
mod shared;
mod watch;

use std::fmt;
use std::sync::Arc;

use mongodb::Database;
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, StoreErrorKind, Watch,
};

pub use self::builder::Builder;
use self::shared::Shared;
use crate::driver::Driver;

const NAME: &str = "mongodb";

/// A store in MongoDB 4.4 or newer: a replica set, or a single server.
///
/// Several engines may be open over the same collection. Every change is a change of one document, which the server makes
/// in one step, at the version that it was decided on. A renewal needs two documents; it is made in steps of which one
/// decides, so that no transaction is needed and a single server will do: there is no moment at which a session has two
/// ids or none.
///
/// # Collections
/// `sessile_sessions` is the name that was set.
///
/// | collection | `_id` | holds |
/// |---|---|---|
/// | `sessile_sessions` | 32 bytes | a row: `version`, `due` (ms since 1970), `owner`, `record`; `from` while it is to become a renewed session's |
/// | | 32 bytes | `to`: where a session has moved to; for a moment |
/// | | `tick/…` | what a watch writes, to see that it is told |
/// | `sessile_sessions_meta` | `layout` | `version` of this layout |
/// | | `mark/00` to `mark/15` | the latest time; the highest counts |
/// | `sessile_sessions_quarantine` | 32 bytes | a damaged document that was put aside, with `quarantined_at` |
///
/// There are indexes on `due` and on `owner`. A number beyond 63 bits is negative.
///
/// # Cancel safety
/// Each call runs on a thread of the store. A caller that is dropped leaves the call to its end.
///
/// # Durability
/// A change that was answered is in the journals of a majority (`w: "majority"`, `j: true`), whatever the URL says of it.
/// It is sent once: the driver's own retries are off.
///
/// # Complexity
/// A load is one exchange. A commit is one exchange for all rows that it adds, one for all that it removes, and one for
/// each that it changes, of which up to 8 are under way at once; a renewal takes four, one after the other.
///
/// # Examples
/// ```no_run
/// use sessile_engine::Engine;
/// use sessile_stores::mongodb::MongoStore;
///
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = MongoStore::builder("mongodb://app:secret@10.0.0.1,10.0.0.2,10.0.0.3/shop?replicaSet=rs0");
/// builder.migrate().await?;
/// let engine = Engine::builder().open(builder.open().await?)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct MongoStore {
    driver: Driver,
    shared: Arc<Shared>,
}

impl MongoStore {
    /// Settings for the server that `url` names, as `mongodb://user:password@host,host/database?replicaSet=name`. Without
    /// a database, `sessile` is taken. Nothing is connected yet.
    ///
    /// What the URL says of `retryWrites`, `journal=true`, `w=majority` and `wtimeoutMS` changes nothing. Anything weaker
    /// than a majority's journals, a read preference other than `primary`, and a read concern other than `majority` or
    /// `linearizable` is refused. With `readConcernLevel=linearizable` a session is loaded only if the primary proves that
    /// it still is one, which a single server cannot.
    ///
    /// `mongodb+srv://` needs the driver's feature `dns-resolver`, which the app switches on itself. TLS (`tls=true`) trusts
    /// the authorities that the driver brings along, or those in the file that `tlsCAFile` names.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::of_url(url.into())
    }

    /// Settings for a database that the app is connected to. Its client must outlive the store; the runtime that the
    /// client was made on must, too. Concerns and the read preference are the store's own. If the client retries writes,
    /// the server makes each of them once all the same.
    pub fn from_database(database: Database) -> Builder {
        Builder::of_database(database)
    }

    /// Runs a call to its end or its deadline, whether or not the caller waits for it.
    async fn run<T: Send + 'static, F>(&self, call: impl FnOnce(Arc<Shared>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        if self.shared.is_closed() {
            return Err(error::closed());
        }
        // The driver's futures are large, and the engine's are not to be.
        self.driver.run(Box::pin(call(Arc::clone(&self.shared)))).await
    }
}

impl Store for MongoStore {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Without a replica set, a server does not tell of changes.
    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = false;
        can.watch = self.shared.tells;
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
        doc::check(changes)?;
        let changes = changes.to_vec();
        self.run(move |shared| change::commit(shared, now, changes)).await
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

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        if !self.shared.tells {
            return Err(error::own(StoreErrorKind::Unsupported, "only a replica set tells of changes"));
        }
        let armed = self.run(watch::arm).await?;
        let (watch, pump) = armed.split(self.shared.closed.subscribe());
        self.driver.spawn(pump);
        Ok(watch)
    }

    /// # Complexity
    /// O(rows), on the server.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.run(|shared| async move { shared.count().await.map(Some) }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        let was_closed = self.shared.closed.send_replace(true);
        if self.shared.owns_client && !was_closed {
            // It waits for the calls that are under way; nobody has to wait for that.
            let client = self.shared.client.clone();
            self.driver.spawn(async move { client.shutdown().await });
        }
        Ok(())
    }
}

impl fmt::Debug for MongoStore {
    /// Without the address: it may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoStore").field("closed", &self.shared.is_closed()).finish_non_exhaustive()
    }
}
