//! Sessions in etcd, for several machines. It owns keys, transactions and connections; it never looks into a record.

mod config;
mod error;
mod link;
mod plan;
mod row;
mod shared;
#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
#[allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
mod support;
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

const NAME: &str = "etcd";
/// A server takes requests of 1.5 MiB (`--max-request-bytes`, by default).
const MAX_ROW_BYTES: usize = 1 << 20;

/// A store in an etcd cluster (3.4 or later), or a single server.
///
/// Several engines may be open over the same rows. Each change is made in one transaction that compares the revisions of
/// the rows it was decided on: of two that change one row, one succeeds and the other looks again. Reads are
/// linearizable. One server is asked at a time; when it fails, the next one is, and a change is sent again only if
/// nobody can have taken it.
///
/// # Keys
/// `sessile` is the prefix that was set.
///
/// | key | holds |
/// |---|---|
/// | `sessile/s/{id}` | one row; the 32 bytes of its id |
/// | `sessile/e/{time}{id}` | nothing: rows by the time they are due, 8 bytes in the order of numbers |
/// | `sessile/o/{owner}/{id}` | nothing: rows of an owner, whose name is in hexadecimal |
/// | `sessile/q/{id}` | a damaged row, put aside for 30 days by a lease |
/// | `sessile/t` | nothing: written by each change, for the watch |
/// | `sessile/mark` | the latest time |
/// | `sessile/layout` | version of the layout, and a name of these rows |
///
/// Rows have no leases: one for each session is more work for a cluster than a key, and an app that lives removes what
/// is due. Rows of an app that is gone for good stay until somebody removes the prefix.
///
/// # Limits
/// A row has 1 MiB at most. A transaction has 128 operations and 1.5 MiB at most, the defaults of the server
/// (`--max-txn-ops`, `--max-request-bytes`): a larger commit is made in several, each of them in one step. All keys
/// are in the memory of each server, and the data must fit its quota (`--quota-backend-bytes`, 2 GiB by default); when it
/// is full, changes fail as [`Full`](sessile_engine::store::StoreErrorKind::Full). Each update leaves an old revision behind: set
/// `--auto-compaction-retention`.
///
/// # Cancel safety
/// Each call runs on a thread of the store. A caller that is dropped leaves the call to its end.
///
/// # Durability
/// A change that was answered is on the disks of a majority.
///
/// # Complexity
/// Two exchanges with the server for each transaction of a commit, one for a load.
///
/// # Examples
/// ```no_run
/// use sessile_engine::Engine;
/// use sessile_stores::etcd::EtcdStore;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = EtcdStore::builder("etcd://app:secret@10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/shop").connect()?;
/// let engine = Engine::builder().open(store)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct EtcdStore {
    driver: Driver,
    shared: Arc<Shared>,
}

impl EtcdStore {
    /// Connects with the default settings. See [`builder`](Self::builder) for addresses.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect()
    }

    /// Settings for a store at `url`: `etcd://user:password@host:port,host:port/prefix`, of which only one host is
    /// needed; `etcds://…` for TLS (with the feature `tls-rustls`). A wrong one is reported by [`Builder::connect`].
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

impl Store for EtcdStore {
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

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.run(move |shared| async move { Ok(shared.page(after, limit, false).await?.0) }).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        self.run(move |shared| async move {
            let (rows, damaged) = shared.page(after, limit, true).await?;
            Ok(Scanned::of(rows, damaged, limit))
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

    /// # Complexity
    /// O(rows), on the server, over keys in its memory.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.run(|shared| async move { shared.count().await.map(Some) }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.shared.link.is_closed() {
            return Ok(());
        }
        self.shared.closed.send_replace(true);
        let shared = Arc::clone(&self.shared);
        self.driver
            .run(Box::pin(async move {
                shared.link.close().await;
                Ok(())
            }))
            .await
    }
}

impl fmt::Debug for EtcdStore {
    /// Without the address: it may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("closed", &self.shared.link.is_closed()).finish_non_exhaustive()
    }
}
