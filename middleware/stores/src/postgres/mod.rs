//! Sessions in PostgreSQL, for several machines. It owns the pool, the tables and the watch; which change is made, and
//! when, it never decides.
//!
//! # Tables
//! `migrate` makes them, or you run what `schema_sql` gives. For the table `s` they are `s` (sessions), `s_quarantine`
//! (damaged sessions), `s_marks` (version of the tables, high-water mark) and `s_changes` (ids of what changed in the
//! last minutes, for the watch). Whoever changes sessions by hand tells no engine: restart them, or wait until their
//! caches have expired.
//!
//! # Complexity
//! A commit is two exchanges with the server and one wait for its disk, whatever the number of changes.

mod builder;
mod client;
mod commit;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use deadpool_postgres::Pool;
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};
use tokio_postgres::types::ToSql;

pub use self::builder::Builder;
use self::client::{Failure, Lent};
use crate::driver::Driver;
use crate::sql::plan::Key;
use crate::sql::postgres::text::Texts;
use crate::sql::postgres::watch::Polled;
use crate::sql::server::{Server, Tables, is_store, unwatched};
use crate::sql::{Raw, unsigned};

const NAME: &str = "postgres";
/// Before a transaction is tried again that others were in the way of. Tries are not counted: the deadline of the call
/// ends them.
const PAUSE: Duration = Duration::from_millis(2);

/// A [`Store`] in PostgreSQL 13 or newer, or in CockroachDB (see [`Builder::cockroachdb`]).
///
/// # Cancel safety
/// A call that is dropped goes on by itself, to its end or its deadline. A connection whose transaction or answer is
/// incomplete is closed and never lent again.
///
/// # Durability
/// A commit that returned is as durable as the server's `synchronous_commit` makes it.
///
/// # Examples
/// ```no_run
/// # async fn open() -> Result<(), sessile_engine::StoreError> {
/// use sessile_stores::postgres::PostgresStore;
///
/// let builder = PostgresStore::builder("postgres://app:secret@db.internal/app");
/// builder.migrate().await?;
/// let store = builder.open().await?;
/// # Ok(())
/// # }
/// ```
pub struct PostgresStore(Tables<Postgres>);

is_store!(PostgresStore);

struct Postgres {
    pool: Pool,
    owns_pool: bool,
    texts: Texts,
}

impl PostgresStore {
    /// Settings for the server that `url` names, as `postgres://` or as `key=value` pairs. Nothing is connected yet.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::of_url(url.into())
    }

    /// Settings for a pool that the app has already. Its connections must not be shared in the middle of a transaction:
    /// a pooler between must keep a connection to one server for a transaction, and know prepared statements.
    pub fn from_pool(pool: Pool) -> Builder {
        Builder::of_pool(pool)
    }
}

/// Runs one query that changes nothing. A connection that the server has ended is replaced once.
async fn read(
    pool: &Pool,
    text: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, Failure> {
    let mut fresh = false;
    loop {
        let client = Lent::from(pool).await?;
        let query = async {
            let statement = client.prepare_cached(text).await?;
            client.query(&statement, parameters).await
        };
        match query.await.map_err(Failure::from) {
            Ok(rows) => {
                client.done();
                return Ok(rows);
            }
            Err(e) if e.is_stale() && !fresh => fresh = true,
            Err(e) if e.is_race() => {
                client.done();
                tokio::time::sleep(PAUSE).await;
            }
            Err(e) => {
                // An answer has come to its end also when it is an error.
                if !e.is_stale() {
                    client.done();
                }
                return Err(e);
            }
        }
    }
}

fn raw(row: &tokio_postgres::Row) -> Result<Raw, tokio_postgres::Error> {
    Ok(Raw::of((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?)))
}

fn raws(rows: &[tokio_postgres::Row]) -> Result<Vec<Raw>, Failure> {
    Ok(rows.iter().map(raw).collect::<Result<_, _>>()?)
}

fn number(rows: &[tokio_postgres::Row]) -> Result<Option<u64>, Failure> {
    Ok(rows.first().map(|row| row.try_get(0).map(unsigned)).transpose()?)
}

impl Server for Postgres {
    const NAME: &'static str = NAME;

    type Failure = Failure;

    fn watches(&self) -> bool {
        self.texts.changes.is_some()
    }

    fn error(what: &'static str, failure: Failure) -> StoreError {
        failure.into_store(what)
    }

    async fn mark(&self) -> Result<Option<u64>, Failure> {
        // There are several, so that commits do not wait for each other; the highest counts.
        let rows = read(&self.pool, &self.texts.mark, &[]).await?;
        let marks = rows.iter().map(|row| row.try_get::<_, i64>(0).map(unsigned));
        Ok(marks.collect::<Result<Vec<_>, _>>()?.into_iter().max())
    }

    async fn load(&self, id: &Key) -> Result<Option<Raw>, Failure> {
        let rows = read(&self.pool, &self.texts.load, &[&id.as_slice()]).await?;
        Ok(rows.first().map(raw).transpose()?)
    }

    async fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Raw>, Failure> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        raws(&read(&self.pool, &self.texts.list, &[&after.unwrap_or_default(), &limit]).await?)
    }

    async fn of_owner(&self, owner: &str) -> Result<Vec<Raw>, Failure> {
        raws(&read(&self.pool, &self.texts.list_owner, &[&owner.as_bytes()]).await?)
    }

    async fn count(&self) -> Result<Option<u64>, Failure> {
        number(&read(&self.pool, &self.texts.count, &[]).await?)
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Failure> {
        commit::commit(&self.pool, &self.texts, now, changes).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, Failure> {
        commit::expire(&self.pool, &self.texts, now, high_water, limit).await
    }

    async fn watch(
        self: Arc<Self>,
        driver: Driver,
        closed: Arc<AtomicBool>,
    ) -> Result<Box<dyn Watch>, StoreError> {
        let Some(changes) = &self.texts.changes else {
            return Err(unwatched(NAME));
        };
        let opened = watch::Source::open(&self.pool, changes, closed).await;
        let (source, first) = opened.map_err(|e| e.into_store("changes could not be watched"))?;
        Ok(Box::new(Polled::new(driver, source, first)))
    }

    fn end(&self, _: &Driver) {
        if self.owns_pool {
            self.pool.close();
        }
    }
}
