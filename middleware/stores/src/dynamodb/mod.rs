//! Sessions in Amazon DynamoDB, for several machines. It owns items, conditions and requests; it never looks into a record.

mod builder;
mod change;
mod error;
mod item;
mod link;
mod shared;
mod table;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aws_sdk_dynamodb::Client;
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError,
};

pub use self::builder::Builder;
use self::shared::Shared;
use crate::driver::Driver;
use crate::keyed;

const NAME: &str = "dynamodb";

/// A store in one table of DynamoDB.
///
/// Several engines may be open over the same table. A change is one request with the condition that it was decided on, which
/// the service decides in one step; a renewal is one transaction of two items. All reads, also those of the indexes, are
/// strongly consistent: they see what was answered before. The service tells of no changes, so an engine believes its cache
/// for as long as its `max_staleness` says.
///
/// # Table
/// `sessile_sessions` is the name that was set. Its keys are `shard` and `id`, both texts. Ids are in hexadecimal; their
/// first digit is the shard, so that sessions can be listed in order and found by index with consistent reads.
///
/// | `shard` | `id` | holds |
/// |---|---|---|
/// | `0` to `f` | 64 digits | a row: `version`, `due` (ms since 1970), `owner` (behind a `u`), `record`, `ttl` (s since 1970) |
/// | `mark/0` to `mark/f` | `mark` | `time`: the latest time; the highest counts |
/// | `layout` | `layout` | `version` of this layout |
/// | `quarantine/0` to `quarantine/f` | 64 digits | a damaged item that was put aside, with `quarantined_at` |
///
/// The local indexes `due` and `owner` sort a shard by these attributes and hold keys only.
///
/// `ttl` is a day after a row is due: DynamoDB's own time to live then removes what nobody swept, within days. Nothing
/// relies on it.
///
/// # Limits
/// A row has 390 KiB at most, as an item has 400 KB. DynamoDB keeps each shard together, because it has local indexes: a
/// shard holds 10 GB and takes some 1000 writes of 1 KB and 3000 reads of 4 KB a second, so that all sixteen hold 160 GB and
/// take 16000 writes. What is beyond that is refused until there is room: [`Full`](sessile_engine::StoreErrorKind::Full)
/// or [`Unavailable`](sessile_engine::StoreErrorKind::Unavailable).
///
/// A global table is no place for sessions: two regions may each make a change of one version, and one of them is lost.
///
/// # Cancel safety
/// Each call runs on a thread of the store; over a client that was given, on the runtime of the app. A caller that is dropped
/// leaves the call to its end.
///
/// # Durability
/// A change that was answered is on the disks of several sites of the region. It is sent once: the client's own retries are
/// off, as a conditional change that is sent again would meet itself and be taken for somebody else's. What the service
/// says it has not done, for want of capacity or because of another's transaction, is sent again; and so is a question.
///
/// # Complexity
/// A load is one request. A commit is one for each change, up to 16 of them under way at once, and one for the mark beside
/// them; a renewal costs two items at the price of transactions. A sweep asks each of the 16 shards, a listing of an owner
/// each of them twice.
///
/// # Examples
/// ```no_run
/// use sessile_engine::Engine;
/// use sessile_stores::dynamodb::DynamoStore;
///
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = DynamoStore::builder("dynamodb:///shop_sessions?region=eu-central-1");
/// builder.migrate().await?;
/// let engine = Engine::builder().open(builder.open().await?)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct DynamoStore {
    driver: Driver,
    shared: Arc<Shared>,
}

impl DynamoStore {
    /// Settings for the table that `url` names:
    ///
    /// - `dynamodb:///TABLE?region=REGION`: the service itself, over TLS (with the feature `tls-rustls`).
    /// - `dynamodb://HOST:PORT/TABLE`: a compatible server such as DynamoDB Local, without encryption; `dynamodbs://…` over
    ///   TLS, as for an endpoint of a private network.
    ///
    /// Either may have `KEY:SECRET@` before the host. Of where an app of AWS finds its credentials, the store itself knows
    /// the environment's `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, which are read once. Profiles,
    /// roles of machines and containers, web identities and whatever renews credentials are for
    /// [`from_client`](Self::from_client). A wrong address is reported by [`Builder::open`].
    pub fn builder(url: &str) -> Builder {
        Builder::of_url(url)
    }

    /// Settings for a client of the app, with the app's own credentials, region, endpoint and TLS:
    /// `aws_sdk_dynamodb::Client::new(&aws_config::load_from_env().await)`. The store's copy of it does not retry. To be
    /// opened on the tokio runtime of the client, which needs `rt-multi-thread` and must outlive the store.
    pub fn from_client(client: Client) -> Builder {
        Builder::of_client(client)
    }

    /// Runs a call to its end or its deadline, whether or not the caller waits for it.
    async fn run<T: Send + 'static, F>(&self, call: impl FnOnce(Arc<Shared>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        if self.shared.is_closed.load(Ordering::Acquire) {
            return Err(error::closed());
        }
        // The client's futures are large, and the engine's are not to be.
        self.driver.run(Box::pin(call(Arc::clone(&self.shared)))).await
    }
}

impl Store for DynamoStore {
    fn name(&self) -> &'static str {
        NAME
    }

    /// It does not tell of changes.
    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = false;
        can.max_row_bytes = item::MAX_ROW_BYTES;
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
        keyed::value::check(NAME, item::MAX_ROW_BYTES, changes)?;
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

    /// Not known: DynamoDB counts by reading everything, which is paid for.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.run(|_| async { Ok(None) }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.is_closed.store(true, Ordering::Release);
        Ok(())
    }
}

impl fmt::Debug for DynamoStore {
    /// Without what the client knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_closed = self.shared.is_closed.load(Ordering::Acquire);
        f.debug_struct("DynamoStore").field("closed", &is_closed).finish_non_exhaustive()
    }
}
