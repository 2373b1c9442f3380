//! Sessions in Redis or Valkey, for one engine or several. It owns keys, scripts and connections; it never looks into
//! a record.

mod address;
mod cluster;
mod config;
mod error;
mod lease;
mod link;
mod row;
mod rows;
mod scripts;
mod sentinel;
mod shared;
mod watch;

use std::fmt;
use std::sync::Arc;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};
use tokio::sync::watch as signal;

use self::address::Address;
pub use self::config::Builder;
use self::rows::Rows;
use crate::driver::Driver;
use crate::keyed;

const NAME: &str = "redis";
const MAX_ROW_BYTES: usize = 16 << 20;

/// A store on a Redis server (6.2 or later) or a Valkey server, on the primary that sentinels name, or in a cluster.
///
/// Several engines may be open over the same rows. Each change is made in one step by a script on the server, and all
/// changes of a commit are sent in one round trip. It reconnects by itself; until then calls fail as
/// [`Unavailable`](sessile_engine::StoreErrorKind::Unavailable), each within its deadline.
///
/// # Keys
/// `sessile:` is the prefix that was set.
///
/// | key | holds |
/// |---|---|
/// | `sessile:s:{id}` | one row, id in hexadecimal; the server removes it 5 minutes after it was due |
/// | `sessile:q:{id}` | a damaged row, put aside for 30 days |
/// | `sessile:x` | sorted set: ids by the time they are due |
/// | `sessile:i` | sorted set: ids in order, unless [`listing`](Builder::listing) is off |
/// | `sessile:o:{hash}` | sorted set: ids of one owner, by the SHA-1 of its name. The rows decide: it is a hint |
/// | `sessile:meta` | layout, latest time, only writer |
/// | `sessile:lease` | the only writer's lease |
///
/// In a cluster, rows are in 256 buckets with indexes of their own, and each name goes on with the bucket's tag, which puts
/// all its keys into one slot: `sessile:s:{7f-12}:id`, `sessile:x:{7f-12}` and so on. There is no lease; `sessile:p:{tag}`
/// holds the ids of renewed sessions whose rows are in the bucket where they began. `docs/stores.md` says what a cluster
/// gives and what it does not.
///
/// A server that may evict keys (`maxmemory-policy` other than `noeviction`) may end any session, and may lose an
/// index. Set `noeviction`: then a full server refuses changes as [`Full`](sessile_engine::StoreErrorKind::Full).
///
/// # Durability
/// What the server has: with `appendfsync everysec` the last second may be lost with the machine, and an acknowledged
/// change may be lost in a failover to a replica, by sentinels or in a cluster. That may bring an ended session back.
///
/// # Cancel safety
/// Each call runs on a thread of the store. A caller that is dropped leaves the call to its end.
///
/// # Examples
/// ```no_run
/// use sessile_engine::Engine;
/// use sessile_stores::redis::RedisStore;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::builder("redis://:password@redis.internal:6379/0")
///     .prefix("shop:")
///     .exclusive()
///     .connect()?;
/// let engine = Engine::builder().open(store)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct RedisStore {
    driver: Driver,
    rows: Arc<Rows>,
    prefix: String,
    listing: bool,
    exclusive: bool,
    /// Ends the watches.
    closed: signal::Sender<bool>,
}

impl RedisStore {
    /// Connects with the default settings. See [`builder`](Self::builder) for addresses.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect()
    }

    /// Settings for a store at `url`: `redis://user:password@host:port/database`, `rediss://…` for TLS (with the
    /// feature `tls-rustls`), or `redis+unix:///path/of/the.socket?db=0&pass=password`. A wrong one is reported
    /// by [`Builder::connect`].
    ///
    /// `redis+cluster://user:password@host:port,host:port` names some nodes of a cluster, and
    /// `redis+sentinel://user:password@host:port,host:port/name` the sentinels of a primary, whose own user and password are
    /// `?sentinel_user=…&sentinel_password=…`; `rediss+…` for TLS. Only primaries are asked, never replicas.
    pub fn builder(url: &str) -> Builder {
        Builder::of_url(url)
    }

    /// Settings for a store that connects as `client` does, but always with RESP3: for certificates of one's own and
    /// whatever else an address cannot say.
    pub fn builder_with(client: ::redis::Client) -> Builder {
        Builder::of_client(client)
    }

    /// Settings for a store in the cluster of `nodes`, some of its nodes: as [`builder_with`](Self::builder_with). The
    /// other nodes are reached as the first of these is, but for the address.
    pub fn builder_with_cluster(nodes: impl IntoIterator<Item = ::redis::Client>) -> Builder {
        Builder::of_cluster(nodes.into_iter().collect())
    }

    /// Settings for a store on the primary that `sentinels` know by `name`: as [`builder_with`](Self::builder_with). It is
    /// reached as `primary` is, but for the address.
    pub fn builder_with_sentinels(
        sentinels: impl IntoIterator<Item = ::redis::Client>,
        name: &str,
        primary: ::redis::Client,
    ) -> Builder {
        Builder::of_sentinels(sentinels.into_iter().collect(), name, primary)
    }

    fn new(settings: &Builder, address: Address, driver: Driver) -> Result<Self, StoreError> {
        Ok(Self {
            driver,
            rows: Arc::new(Rows::new(settings, address)?),
            prefix: settings.prefix.clone(),
            listing: settings.listing,
            exclusive: settings.lease.is_some(),
            closed: signal::Sender::new(false),
        })
    }

    /// Checks what is stored, and becomes the only writer if that was wanted.
    async fn opened(self) -> Result<Self, StoreError> {
        self.run(|rows| async move { rows.open().await }).await?;
        if let Rows::One(shared) = &*self.rows
            && let Some(lease) = &shared.lease
        {
            let time = std::time::Duration::from_millis(lease.ms());
            self.driver.spawn(lease::renew(Arc::downgrade(shared), time));
        }
        Ok(self)
    }

    /// Runs a call to its end or its deadline, whether or not the caller waits for it.
    async fn run<T: Send + 'static, F>(&self, call: impl FnOnce(Arc<Rows>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        if self.rows.is_closed() {
            return Err(error::closed());
        }
        self.driver.run(call(Arc::clone(&self.rows))).await
    }
}

impl Store for RedisStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = self.exclusive;
        can.list = self.listing;
        can.watch = true;
        can.max_row_bytes = MAX_ROW_BYTES;
        can
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        self.run(|rows| async move { rows.high_water().await }).await
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let id = *id;
        self.run(|rows| async move { rows.load(&id).await }).await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        keyed::value::check(NAME, MAX_ROW_BYTES, changes)?;
        let changes = changes.to_vec();
        self.run(|rows| async move { rows.commit(now, &changes).await }).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.run(|rows| async move { rows.expire(now, high_water, limit).await }).await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.run(|rows| async move { Ok(rows.page(after, limit, false).await?.0) }).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        self.run(|all| async move {
            let (rows, damaged) = all.page(after, limit, true).await?;
            Ok(Scanned::of(rows, damaged, limit))
        })
        .await
    }

    /// # Complexity
    /// One script for all rows of the owner; the server does nothing else meanwhile.
    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let owner = owner.to_owned();
        self.run(|rows| async move { rows.list_owner(&owner).await }).await
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        let prefix = self.prefix.clone();
        let armed = self.run(|rows| async move { watch::arm(rows, prefix).await }).await?;
        let (watch, pump) = armed.split(self.closed.subscribe());
        self.driver.spawn(pump);
        Ok(watch)
    }

    /// Rows that the server removed by itself count until the next [`expire`](Store::expire) meets them.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.run(|rows| async move { rows.count().await.map(Some) }).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        if !self.rows.close() {
            return Ok(());
        }
        self.closed.send_replace(true);
        let rows = Arc::clone(&self.rows);
        if let Err(e) = self.driver.run(async move { rows.leave().await }).await {
            tracing::warn!(store = NAME, error = %e, "the server was not told of the end");
        }
        Ok(())
    }
}

impl fmt::Debug for RedisStore {
    /// Without the address: it may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .field("listing", &self.listing)
            .field("exclusive", &self.exclusive)
            .finish_non_exhaustive()
    }
}
