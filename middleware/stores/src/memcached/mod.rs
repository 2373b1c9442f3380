//! Sessions in memcached, for several machines: a volatile tier. It owns items and connections; it never looks into a
//! record.

mod commit;
mod config;
mod error;
mod item;
mod link;
mod renew;
mod shared;

use std::fmt;
use std::sync::Arc;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Store, StoreError, StoreErrorKind,
};

pub use self::config::Builder;
use self::shared::Shared;
use crate::driver::Driver;
use crate::keyed;

const NAME: &str = "memcached";
/// A server takes items of 1 MiB by default, key and head included.
const MAX_ROW_BYTES: usize = (1 << 20) - (1 << 12);

/// A store in memcached 1.6 or newer, one server or several.
///
/// **Sessions here are volatile.** The server keeps nothing on a disk, and evicts items when it needs their room: any
/// session may end at any time, after a restart all of them have. What such a session holds is lost; whoever has its token
/// is logged out. Take it where that is no harm, or where it is what you want.
///
/// Several engines may be open over the same servers. Every change is a change of one item, which the server makes in one
/// step if the item still is what was seen (`gets` and `cas`, in the form of the meta commands). A renewal needs two items;
/// it is made in steps of which one decides, so that there is no moment at which a session has two ids.
///
/// # Ended sessions stay ended
/// - No change but a creation writes where nothing is, and updates compare with what they have seen. So an eviction ends a
///   session and never brings one back.
/// - A session that was ended or renewed leaves a *tombstone* for 10 minutes under its old id: a creation that was sent
///   before, and is still on its way over a connection that broke, finds it and adds nothing.
/// - A server may evict a tombstone too. Within these 10 minutes such a creation, of a session that was ended in the
///   meantime, would then come through. Tombstones are of the smallest size, which a server evicts by their own kind.
/// - *The list of servers must be the same in all engines.* Where a session is, follows from the list and the id. A server
///   that is taken off the list takes its sessions with it; if it comes back, it has to be empty (`flush_all`, or a
///   restart), because what was ended elsewhere in the meantime is not ended there. A server that fails is not replaced
///   by another: its sessions are unavailable until it is back.
///
/// # Keys
/// `sessile` is the prefix that was set, `1` this layout.
///
/// | key | holds |
/// |---|---|
/// | `sessile/1/s/{id}` | one row; or where it has moved, for a moment; or a tombstone. The id is in hexadecimal |
/// | `sessile/1/q/{id}` | a damaged row, put aside for 30 days |
/// | `sessile/1/mark` | on each server, the latest time |
/// | `sessile/1/probe` | on each server, for a minute, what tried it out |
///
/// # Limits
/// - There are no indexes: no listing, no count, and nothing tells of changes. An engine believes its cache for
///   `max_staleness`. No sessions by owner: `sessions_of` fails, a limit per owner is refused, and `destroy_all` ends the
///   sessions that the engine has in memory, then fails, as it cannot find the others.
/// - There is no sweep: the server ends rows 5 minutes after they were due. It counts times to 2038; a row that is due
///   later, in more than 30 days, stays until its room is needed. Engines go by the session's own end in any case.
/// - A row has 1020 KiB at most, if the server allows items of 1 MiB as by default (`-I`).
/// - With `-M` the server evicts nothing, and refuses what it has no room for
///   ([`Full`](sessile_engine::store::StoreErrorKind::Full)); a session whose update was refused is gone.
/// - The client knows neither TLS nor passwords nor IPv6: the servers belong into a network of their own.
///
/// # Cancel safety
/// Each call runs on a thread of the store. A caller that is dropped leaves the call to its end. A connection on which an
/// answer is outstanding is closed, not used again.
///
/// # Durability
/// None. A change that was answered is in the memory of one server.
///
/// # Complexity
/// A load is one exchange. A creation is one, an update or an end two, a renewal about eight; eight changes of a commit are
/// under way at once, beside two exchanges for the mark.
///
/// # Examples
/// ```no_run
/// use sessile_engine::Engine;
/// use sessile_stores::memcached::MemcachedStore;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemcachedStore::builder("memcached://10.0.0.1,10.0.0.2:11211/shop").connect()?;
/// let engine = Engine::builder().open(store)?;
/// # let _ = engine;
/// # Ok(())
/// # }
/// ```
pub struct MemcachedStore {
    driver: Driver,
    shared: Arc<Shared>,
}

impl MemcachedStore {
    /// Connects with the default settings. See [`builder`](Self::builder) for addresses.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect()
    }

    /// Settings for a store at `url`: `memcached://host:port,host:port/prefix`, with all servers, in any order. The port is
    /// 11211 if none is given. A wrong one is reported by [`Builder::connect`].
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
        self.driver.run(Box::pin(call(Arc::clone(&self.shared)))).await
    }
}

impl Store for MemcachedStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = false;
        can.durable = false;
        can.list = false;
        can.by_owner = false;
        can.sweeps = false;
        can.max_row_bytes = MAX_ROW_BYTES;
        can.ttl_grain_ms = (item::SLACK_S + 1) * 1000;
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
        let changes = changes.to_vec();
        self.run(move |shared| commit::commit(shared, now, changes)).await
    }

    /// Raises the mark. The server ends what is due by itself.
    async fn expire(&self, _now: u64, high_water: u64, _limit: usize) -> Result<Expired, StoreError> {
        self.run(move |shared| async move { shared.raise(0, high_water).await }).await?;
        Ok(Expired::default())
    }

    async fn list(&self, _after: Option<SessionId>, _limit: usize) -> Result<Vec<Listed>, StoreError> {
        Err(error::own(StoreErrorKind::Unsupported, "it has no list of its sessions"))
    }

    async fn list_owner(&self, _owner: &str) -> Result<Vec<Listed>, StoreError> {
        Err(error::own(StoreErrorKind::Unsupported, "it has no list of an owner's sessions"))
    }

    async fn count(&self) -> Result<Option<u64>, StoreError> {
        if self.shared.link.is_closed() {
            return Err(error::closed());
        }
        Ok(None)
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.link.close();
        Ok(())
    }
}

impl fmt::Debug for MemcachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedStore")
            .field("closed", &self.shared.link.is_closed())
            .finish_non_exhaustive()
    }
}
