//! Sessions in MySQL or MariaDB, for several machines. It owns the pool and the tables; which change is made, and when,
//! it never decides. It tells of no changes: engines ask for versions instead.
//!
//! # Tables
//! `migrate` makes them, or you run what `schema_sql` gives. For the table `s` they are `s` (sessions), `s_quarantine`
//! (damaged sessions) and `s_marks` (version of the tables, high-water mark).
//!
//! # Connections
//! `require_ssl=true` in the URL asks for TLS (feature `tls-rustls`), by the certificates that the system trusts. Where
//! no provider of rustls was chosen for the process, ring is. For another authority, bring a pool of your own.
//!
//! # Complexity
//! A commit is two exchanges with the server and one wait for its disk, unless its rows fill more than a packet.

mod builder;
mod client;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::FromValue;
use mysql_async::{Error, Pool};
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError,
};

pub use self::builder::Builder;
use self::client::{Lent, is_race, is_stale, store_error};
use self::text::Texts;
use crate::driver::Driver;
use crate::sql::plan::{Key, keys, plan};
use crate::sql::{self, Listing, Raw};

const NAME: &str = "mysql";
/// Nothing is counted: the deadline of the call ends it.
const PAUSE: Duration = Duration::from_millis(2);

/// A [`Store`] in MySQL 8 or newer, or MariaDB 10.6 or newer, with InnoDB.
///
/// # Cancel safety
/// A call that is dropped goes on by itself, to its end or its deadline. A connection whose transaction or answer is
/// incomplete is closed and never lent again.
///
/// # Durability
/// A commit that returned is as durable as the server's `innodb_flush_log_at_trx_commit` makes it.
///
/// # Examples
/// ```no_run
/// # async fn open() -> Result<(), sessile_engine::StoreError> {
/// use sessile_stores::mysql::MysqlStore;
///
/// let builder = MysqlStore::builder("mysql://app:secret@db.internal/app");
/// builder.migrate().await?;
/// let store = builder.open().await?;
/// # Ok(())
/// # }
/// ```
pub struct MysqlStore {
    shared: Arc<Shared>,
    driver: Driver,
}

struct Shared {
    pool: Pool,
    owns_pool: bool,
    texts: Texts,
    max_row_bytes: usize,
    closed: AtomicBool,
}

impl fmt::Debug for MysqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlStore")
            .field("closed", &self.shared.closed.load(Ordering::Acquire))
            .finish_non_exhaustive()
    }
}

/// A column, or an error that does not carry the row.
fn column<T: FromValue>(row: &mysql_async::Row, at: usize) -> Result<T, Error> {
    row.get_opt(at)
        .and_then(Result::ok)
        .ok_or_else(|| Error::Other("a column is missing, or of another type".into()))
}

fn raw(row: &mysql_async::Row) -> Result<Raw, Error> {
    Ok(Raw {
        id: column(row, 0)?,
        version: column(row, 1)?,
        expires_at: column(row, 2)?,
        owner: column(row, 3)?,
        bytes: column(row, 4)?,
    })
}

/// Runs one query that changes nothing. A connection that the server has ended is replaced once.
async fn read(pool: &Pool, text: &str) -> Result<Vec<mysql_async::Row>, Error> {
    let mut fresh = false;
    loop {
        let mut conn = Lent::from(pool).await?;
        match conn.run(text.to_owned()).await {
            Ok(rows) => {
                conn.done();
                return Ok(rows);
            }
            Err(e) if is_stale(&e) && !fresh => fresh = true,
            Err(e) => return Err(e),
        }
    }
}

async fn raws(pool: &Pool, text: &str) -> Result<Vec<Raw>, Error> {
    read(pool, text).await?.iter().map(raw).collect()
}

async fn number(pool: &Pool, text: &str) -> Result<Option<u64>, Error> {
    read(pool, text).await?.first().map(|row| column(row, 0)).transpose()
}

/// Gives a connection back after a transaction that lost a race.
async fn give_up(mut conn: Lent) {
    if conn.run("ROLLBACK".into()).await.is_ok() {
        conn.done();
    }
    tokio::time::sleep(PAUSE).await;
}

/// Applies `changes`, again and again while others are in the way.
async fn commit(shared: &Shared, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Error> {
    let (wanted, mut fresh) = (keys(changes), false);
    loop {
        let mut conn = Lent::from(&shared.pool).await?;
        let locked = match conn.run(shared.texts.lock(&wanted)).await {
            // Nothing has been changed, so another connection may do it.
            Err(e) if is_stale(&e) && !fresh => {
                fresh = true;
                continue;
            }
            Err(e) if is_race(&e) => {
                give_up(conn).await;
                continue;
            }
            other => other?,
        };
        let mut stored = BTreeMap::new();
        for row in &locked {
            if let Ok(id) = Key::try_from(column::<Vec<u8>>(row, 0)?) {
                stored.insert(id, column(row, 1)?);
            }
        }
        let plan = plan(&stored, changes);
        let mut lost = None;
        for packet in shared.texts.write(&plan, now, shared.max_row_bytes) {
            if let Err(e) = conn.run(packet).await {
                lost = Some(e);
                break;
            }
        }
        match lost {
            None => {
                conn.done();
                return Ok(plan.outcomes);
            }
            Some(e) if is_race(&e) => give_up(conn).await,
            Some(e) => return Err(e),
        }
    }
}

async fn expire(shared: &Shared, now: u64, high_water: u64, limit: usize) -> Result<Expired, Error> {
    let mut fresh = false;
    loop {
        let mut conn = Lent::from(&shared.pool).await?;
        let attempt = async {
            let due = conn.run(shared.texts.due(now, limit)).await?;
            let mut due = due.iter().map(|row| column(row, 0)).collect::<Result<Vec<Vec<u8>>, _>>()?;
            let more = due.len() > limit;
            due.truncate(limit);
            conn.run(shared.texts.gone(&due, high_water)).await?;
            Ok::<_, Error>(Expired { removed: due.len() as u64, more })
        };
        match attempt.await {
            Ok(expired) => {
                conn.done();
                return Ok(expired);
            }
            Err(e) if is_stale(&e) && !fresh => fresh = true,
            Err(e) if is_race(&e) => give_up(conn).await,
            Err(e) => return Err(e),
        }
    }
}

impl MysqlStore {
    /// Settings for the server that `url` names, as `mysql://user:password@host/database`, or `mariadb://`. Nothing is connected yet.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::of_url(url.into())
    }

    /// Settings for a pool that the app has already. Its connections need `autocommit`, and should not wait for locks
    /// for much longer than the deadline (`innodb_lock_wait_timeout`).
    pub fn from_pool(pool: Pool) -> Builder {
        Builder::of_pool(pool)
    }

    /// Runs `call` on the store's own thread, if the store is open.
    async fn call<T, F>(
        &self,
        what: &'static str,
        call: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(sql::closed(NAME));
        }
        let call = call(Arc::clone(&self.shared));
        self.driver.run(async move { call.await.map_err(|e| store_error(what, &e)) }).await
    }
}

impl Store for MysqlStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::full();
        can.exclusive = false;
        can.max_row_bytes = self.shared.max_row_bytes;
        can
    }

    async fn high_water(&self) -> Result<u64, StoreError> {
        let mark = self
            .call("the high-water mark could not be read", |shared| async move {
                number(&shared.pool, &shared.texts.mark()).await
            })
            .await?;
        Ok(mark.unwrap_or(0))
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let key = *id.as_bytes();
        let mut rows = self
            .call("a session could not be loaded", move |shared| async move {
                raws(&shared.pool, &shared.texts.load(&key)).await
            })
            .await?;
        let Some(raw) = rows.pop() else { return Ok(None) };
        raw.row().map(Some).ok_or_else(|| sql::damaged(NAME, id))
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        sql::check_rows(NAME, self.shared.max_row_bytes, changes)?;
        let changes = changes.to_vec();
        self.call("changes could not be committed", move |shared| async move {
            commit(&shared, now, &changes).await
        })
        .await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.call("expired sessions could not be removed", move |shared| async move {
            expire(&shared, now, high_water, limit).await
        })
        .await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.call("sessions could not be listed", move |shared| async move {
            let mut listing = Listing::new(after, limit);
            loop {
                let text = shared.texts.list(listing.after.as_deref(), listing.wanted());
                if !listing.take(raws(&shared.pool, &text).await?) {
                    return Ok(listing.rows());
                }
            }
        })
        .await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        let page = self
            .call("sessions could not be listed", move |shared| async move {
                let after = after.map(|id| *id.as_bytes());
                let text = shared.texts.list(after.as_ref().map(<[u8; 32]>::as_slice), limit);
                raws(&shared.pool, &text).await
            })
            .await?;
        Ok(sql::scanned(page, limit))
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let owner = owner.as_bytes().to_vec();
        let rows = self
            .call("an owner's sessions could not be listed", move |shared| async move {
                raws(&shared.pool, &shared.texts.list_owner(&owner)).await
            })
            .await?;
        Ok(sql::sort(rows).0)
    }

    /// # Complexity
    /// O(rows), on the server.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.call("sessions could not be counted", |shared| async move {
            number(&shared.pool, &shared.texts.count()).await
        })
        .await
    }

    async fn close(&self) -> Result<(), StoreError> {
        let was_closed = self.shared.closed.swap(true, Ordering::AcqRel);
        if self.shared.owns_pool && !was_closed {
            // It waits for the calls that are under way; nobody has to wait for that.
            let pool = self.shared.pool.clone();
            self.driver.spawn(async move { drop(pool.disconnect().await) });
        }
        Ok(())
    }
}
