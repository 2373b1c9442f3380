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
use std::time::Duration;

use mysql_async::prelude::FromValue;
use mysql_async::{Error, Pool};
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};

pub use self::builder::Builder;
use self::client::{Lent, is_race, is_stale, store_error};
use self::text::Texts;
use crate::driver::Driver;
use crate::sql::Raw;
use crate::sql::plan::{Key, keys, plan};
use crate::sql::server::{Server, Tables, is_store};

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
pub struct MysqlStore(Tables<Mysql>);

is_store!(MysqlStore);

struct Mysql {
    pool: Pool,
    owns_pool: bool,
    texts: Texts,
    max_row_bytes: usize,
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
async fn commit(mysql: &Mysql, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Error> {
    let (wanted, mut fresh) = (keys(changes), false);
    loop {
        let mut conn = Lent::from(&mysql.pool).await?;
        let locked = match conn.run(mysql.texts.lock(&wanted)).await {
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
        for packet in mysql.texts.write(&plan, now, mysql.max_row_bytes) {
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

async fn expire(mysql: &Mysql, now: u64, high_water: u64, limit: usize) -> Result<Expired, Error> {
    let mut fresh = false;
    loop {
        let mut conn = Lent::from(&mysql.pool).await?;
        let attempt = async {
            let due = conn.run(mysql.texts.due(now, limit)).await?;
            let mut due = due.iter().map(|row| column(row, 0)).collect::<Result<Vec<Vec<u8>>, _>>()?;
            let more = due.len() > limit;
            due.truncate(limit);
            conn.run(mysql.texts.gone(&due, high_water)).await?;
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
}

impl Server for Mysql {
    const NAME: &'static str = NAME;

    type Failure = Error;

    fn error(what: &'static str, failure: Error) -> StoreError {
        store_error(what, &failure)
    }

    fn max_row_bytes(&self) -> usize {
        self.max_row_bytes
    }

    async fn mark(&self) -> Result<Option<u64>, Error> {
        number(&self.pool, &self.texts.mark()).await
    }

    async fn load(&self, id: &Key) -> Result<Option<Raw>, Error> {
        Ok(raws(&self.pool, &self.texts.load(id)).await?.pop())
    }

    async fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Raw>, Error> {
        raws(&self.pool, &self.texts.list(after, limit)).await
    }

    async fn of_owner(&self, owner: &str) -> Result<Vec<Raw>, Error> {
        raws(&self.pool, &self.texts.list_owner(owner.as_bytes())).await
    }

    async fn count(&self) -> Result<Option<u64>, Error> {
        number(&self.pool, &self.texts.count()).await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Error> {
        commit(self, now, changes).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, Error> {
        expire(self, now, high_water, limit).await
    }

    fn end(&self, driver: &Driver) {
        if self.owns_pool {
            // It waits for the calls that are under way; nobody has to wait for that.
            let pool = self.pool.clone();
            driver.spawn(async move { drop(pool.disconnect().await) });
        }
    }
}
