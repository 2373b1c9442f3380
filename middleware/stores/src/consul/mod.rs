//! Sessions in Consul, for several machines. It owns keys, transactions and questions; it never looks into a record.

mod config;
mod error;
mod keys;
mod link;
mod log;
mod plan;
mod shared;
mod watch;

use std::fmt;
use std::sync::Arc;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};

pub use self::config::Builder;
use self::plan::Step;
use self::shared::Shared;
use crate::driver::Driver;
use crate::keyed;

const NAME: &str = "consul";
/// As base64 it fits into a transaction.
const MAX_ROW_BYTES: usize = plan::MOST_BYTES;

/// A store in the keys and values of Consul (1.13 or later), asked by HTTP at one agent or server.
///
/// Several engines may be open over the same rows. Each change is made in one transaction that compares the numbers of the
/// last changes of the rows it was decided on: of two that change one row, one succeeds and the other looks again. Reads
/// are consistent: the leader asks a majority whether it still is one.
///
/// # Keys
/// `sessile` is the prefix that was set; ids, times and owners are in hexadecimal.
///
/// | key | holds |
/// |---|---|
/// | `sessile/s/{first byte of id}/{rest of id}` | one row |
/// | `sessile/e/{17 minutes}/{time}{id}` | nothing: rows by the time they are due |
/// | `sessile/o/u{owner}/{id}` | nothing: rows of an owner |
/// | `sessile/q/{id}` | a damaged row, put aside until somebody removes it |
/// | `sessile/t/lane/{store}-{n}` | the rows that a store has changed most recently, for the watch, and the latest time |
/// | `sessile/t/layout` | version of the layout, and a name of these rows |
///
/// Consul's keys have no time to live: an app that lives removes what is due. Rows of an app that is gone for good stay
/// until somebody removes the prefix.
///
/// # Limits
/// A row has 320 KiB at most: a transaction has 512 KiB at most, in which a record is base64, and 64 operations. A larger
/// commit is made in several, each of them in one step. All keys are in the memory of each server, and Consul's own
/// advice is to keep little in them: this is a store for tens of thousands of sessions, not for millions.
///
/// # Cancel safety
/// Each call runs on a thread of the store. A caller that is dropped leaves the call to its end. A call that ends at its
/// deadline takes its connection along.
///
/// # Durability
/// A change that was answered is on the disks of a majority.
///
/// # Complexity
/// Two exchanges with the server for each transaction of a commit, one for a load. A sweep, and every few pages of a
/// listing, lets the leader walk over the names of all keys of its index.
///
/// # Examples
/// ```no_run
/// use sessile_engine::Engine;
/// use sessile_stores::consul::ConsulStore;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = ConsulStore::builder("consul://127.0.0.1:8500/shop").token("5ca1ab1e").connect()?;
/// let engine = Engine::builder().open(store)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct ConsulStore {
    driver: Driver,
    shared: Arc<Shared>,
}

impl ConsulStore {
    /// Connects with the default settings. See [`builder`](Self::builder) for addresses.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect()
    }

    /// Settings for a store at `url`: `consul://host:port/prefix?token=…`, of which only the host is needed; `consuls://…`
    /// for TLS (with the feature `tls-rustls`). A wrong one is reported by [`Builder::connect`].
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

impl Store for ConsulStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = false;
        can.watch = true;
        can.max_row_bytes = MAX_ROW_BYTES;
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
        keyed::value::check(NAME, MAX_ROW_BYTES, changes)?;
        let steps: Vec<_> = changes.iter().cloned().map(Step::Change).collect();
        self.run(move |shared| async move { shared.commit(now, &steps).await }).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.run(move |shared| async move { shared.expire(now, high_water, limit).await }).await
    }

    /// # Complexity
    /// Each page asks for the names of all keys of the shards, by the first byte of the id, that it is of.
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
        let armed = self.run(watch::arm).await?;
        let (watch, pump) = armed.split(self.shared.closed.subscribe());
        self.driver.spawn(pump);
        Ok(watch)
    }

    /// Not known: Consul counts nothing, and to be sent the names of all keys is not cheap.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.run(|_| async { Ok(None) }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.link.close();
        self.shared.closed.send_replace(true);
        Ok(())
    }
}

impl fmt::Debug for ConsulStore {
    /// Without the address: it may have a token in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulStore").field("closed", &self.shared.link.is_closed()).finish_non_exhaustive()
    }
}
