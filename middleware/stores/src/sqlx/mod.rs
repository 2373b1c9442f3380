//! Sessions in PostgreSQL, over the pool of an app that uses `SQLx` or `SeaORM`. It owns the tables and the watch; the
//! connections are the app's, and which change is made, and when, it never decides.
//!
//! The tables are those of `postgres::PostgresStore`, and engines over either may share them. Prefer that one if you
//! have the choice: it sends the statements of a commit at once, where `SQLx` waits for the answer to each.

mod builder;
mod commit;
mod connection;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgPool, Postgres, Row as _};

pub use self::builder::Builder;
use self::connection::{Failure, Lent, statement};
use crate::driver::Driver;
use crate::sql::plan::Key;
use crate::sql::postgres::text::Texts;
use crate::sql::postgres::watch::Polled;
use crate::sql::server::{Server, Tables, is_store, unwatched};
use crate::sql::{Raw, unsigned};

const NAME: &str = "sqlx-postgres";

/// A [`Store`] in PostgreSQL 13 or newer, over an `sqlx::PgPool`.
///
/// # Cancel safety
/// A call that is dropped goes on by itself, to its end or its deadline. A connection whose transaction or answer is
/// incomplete is closed and never given back.
///
/// # Durability
/// A commit that returned is as durable as the server's `synchronous_commit` makes it.
///
/// # Complexity
/// A commit is five exchanges with the server or some more, and one wait for its disk, whatever the number of changes.
///
/// # Examples
/// `SeaORM` has such a pool too: `database.get_postgres_connection_pool()`.
/// ```no_run
/// # async fn open() -> Result<(), Box<dyn std::error::Error>> {
/// use sessile_stores::sqlx::SqlxPostgresStore;
///
/// let pool = sqlx::PgPool::connect("postgres://app:secret@db.internal/app").await?;
/// let builder = SqlxPostgresStore::from_pool(pool.clone());
/// builder.migrate().await?;
/// let store = builder.open().await?;
/// # Ok(())
/// # }
/// ```
pub struct SqlxPostgresStore(Tables<Pooled>);

is_store!(SqlxPostgresStore);

struct Pooled {
    pool: PgPool,
    texts: Texts,
    /// Begins a transaction with limits of its own: the connection's are the app's.
    begin: String,
}

impl SqlxPostgresStore {
    /// Settings for the app's pool, on a tokio runtime with several threads that outlives the engine. It needs a connection more than the app and the engine use at once: the watch keeps
    /// one. A pooler between must keep a connection to one server for a transaction, and know prepared statements.
    pub fn from_pool(pool: PgPool) -> Builder {
        Builder::of(pool)
    }
}

/// Runs a query that changes nothing. A connection that the server has ended is replaced once.
async fn read<'q>(
    pool: &PgPool,
    query: impl Fn() -> Query<'q, Postgres, PgArguments>,
) -> Result<Vec<PgRow>, Failure> {
    let mut fresh = false;
    loop {
        let mut lent = Lent::from(pool).await?;
        let answer = query().fetch_all(lent.get()?).await;
        match answer.map_err(Failure::from) {
            Ok(rows) => {
                lent.done();
                return Ok(rows);
            }
            Err(e) if e.is_stale() && !fresh => fresh = true,
            Err(e) => {
                // An answer has come to its end also when it is an error.
                if matches!(e, Failure::Driver(sqlx::Error::Database(_))) && !e.is_stale() {
                    lent.done();
                }
                return Err(e);
            }
        }
    }
}

/// The columns from `at` on; without an id if there is none.
fn raw(row: &PgRow, at: usize) -> Result<Raw, sqlx::Error> {
    Ok(Raw {
        id: if at == 0 { Vec::new() } else { row.try_get(0)? },
        version: unsigned(row.try_get(at)?),
        expires_at: unsigned(row.try_get(at + 1)?),
        owner: row.try_get(at + 2)?,
        bytes: row.try_get(at + 3)?,
    })
}

fn raws(rows: &[PgRow]) -> Result<Vec<Raw>, Failure> {
    Ok(rows.iter().map(|row| raw(row, 1)).collect::<Result<_, _>>()?)
}

fn number(rows: &[PgRow]) -> Result<Option<u64>, Failure> {
    Ok(rows.first().map(|row| row.try_get(0).map(unsigned)).transpose()?)
}

impl Server for Pooled {
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
        let rows = read(&self.pool, || statement(&self.texts.mark)).await?;
        let marks = rows.iter().map(|row| row.try_get::<i64, _>(0).map(unsigned));
        Ok(marks.collect::<Result<Vec<_>, _>>()?.into_iter().max())
    }

    async fn load(&self, id: &Key) -> Result<Option<Raw>, Failure> {
        let rows = read(&self.pool, || statement(&self.texts.load).bind(id.to_vec())).await?;
        Ok(rows.first().map(|row| raw(row, 0)).transpose()?)
    }

    async fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Raw>, Failure> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let after = after.unwrap_or_default();
        raws(&read(&self.pool, || statement(&self.texts.list).bind(after.to_vec()).bind(limit)).await?)
    }

    async fn of_owner(&self, owner: &str) -> Result<Vec<Raw>, Failure> {
        let wanted = || statement(&self.texts.list_owner).bind(owner.as_bytes().to_vec());
        raws(&read(&self.pool, wanted).await?)
    }

    async fn count(&self) -> Result<Option<u64>, Failure> {
        number(&read(&self.pool, || statement(&self.texts.count)).await?)
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Failure> {
        commit::commit(self, now, changes).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, Failure> {
        commit::expire(self, now, high_water, limit).await
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

    /// The pool is the app's.
    fn end(&self, _: &Driver) {}
}
