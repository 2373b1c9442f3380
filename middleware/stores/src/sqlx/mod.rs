//! Sessions in PostgreSQL, over the pool of an app that uses `SQLx` or `SeaORM`. It owns the tables and the watch; the
//! connections are the app's, and which change is made, and when, it never decides.
//!
//! The tables are those of `postgres::PostgresStore`, and engines over either may share them. Prefer that one if you
//! have the choice: it sends the statements of a commit at once, where `SQLx` waits for the answer to each.

mod builder;
mod commit;
mod connection;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
use crate::sql::postgres::text::Texts;
use crate::sql::postgres::watch::Polled;
use crate::sql::{self, Listing, MAX_ROW_BYTES, Raw, unsigned};

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
pub struct SqlxPostgresStore {
    shared: Arc<Shared>,
    driver: Driver,
}

struct Shared {
    pool: PgPool,
    texts: Texts,
    /// Begins a transaction with limits of its own: the connection's are the app's.
    begin: String,
    closed: AtomicBool,
}

impl fmt::Debug for SqlxPostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxPostgresStore")
            .field("closed", &self.shared.closed.load(Ordering::Acquire))
            .finish_non_exhaustive()
    }
}

impl SqlxPostgresStore {
    /// Settings for the app's pool, on a tokio runtime with several threads that outlives the engine. It needs a connection more than the app and the engine use at once: the watch keeps
    /// one. A pooler between must keep a connection to one server for a transaction, and know prepared statements.
    pub fn from_pool(pool: PgPool) -> Builder {
        Builder::of(pool)
    }

    /// Runs `call` on the pool's runtime, if the store is open.
    async fn call<T, F>(
        &self,
        what: &'static str,
        call: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(sql::closed(NAME));
        }
        let call = call(Arc::clone(&self.shared));
        self.driver.run(async move { call.await.map_err(|e| e.into_store(what)) }).await
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

async fn page(shared: &Shared, after: Option<&[u8]>, limit: usize) -> Result<Vec<Raw>, Failure> {
    let after = after.unwrap_or_default();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = read(&shared.pool, || statement(&shared.texts.list).bind(after.to_vec()).bind(limit)).await?;
    Ok(rows.iter().map(|row| raw(row, 1)).collect::<Result<_, _>>()?)
}

impl Store for SqlxPostgresStore {
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
        self.call("the high-water mark could not be read", |shared| async move {
            let mut mark = 0;
            for row in read(&shared.pool, || statement(&shared.texts.mark)).await? {
                mark = mark.max(unsigned(row.try_get(0)?));
            }
            Ok(mark)
        })
        .await
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let id = *id;
        self.call("a session could not be loaded", move |shared| async move {
            let wanted = || statement(&shared.texts.load).bind(id.as_bytes().to_vec());
            let rows = read(&shared.pool, wanted).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            raw(row, 0)?.row().map(Some).ok_or_else(|| sql::damaged(NAME, &id).into())
        })
        .await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        sql::check_rows(NAME, MAX_ROW_BYTES, changes)?;
        let changes = changes.to_vec();
        self.call("changes could not be committed", move |shared| async move {
            commit::commit(&shared, now, &changes).await
        })
        .await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.call("expired sessions could not be removed", move |shared| async move {
            commit::expire(&shared, now, high_water, limit).await
        })
        .await
    }

    async fn list(&self, after: Option<SessionId>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.call("sessions could not be listed", move |shared| async move {
            let mut listing = Listing::new(after, limit);
            while listing.take(page(&shared, listing.after.as_deref(), listing.wanted()).await?) {}
            Ok(listing.rows())
        })
        .await
    }

    async fn scan(&self, after: Option<SessionId>, limit: usize) -> Result<Scanned, StoreError> {
        self.call("sessions could not be listed", move |shared| async move {
            let after = after.map(|id| *id.as_bytes());
            Ok(sql::scanned(page(&shared, after.as_ref().map(<[u8; 32]>::as_slice), limit).await?, limit))
        })
        .await
    }

    async fn list_owner(&self, owner: &str) -> Result<Vec<Listed>, StoreError> {
        let owner = owner.as_bytes().to_vec();
        self.call("an owner's sessions could not be listed", move |shared| async move {
            let rows = read(&shared.pool, || statement(&shared.texts.list_owner).bind(owner.clone())).await?;
            Ok(sql::sort(rows.iter().map(|row| raw(row, 1)).collect::<Result<_, _>>()?).0)
        })
        .await
    }

    async fn watch(&self) -> Result<Box<dyn Watch>, StoreError> {
        let (source, first) = self
            .call("changes could not be watched", |shared| async move { watch::Source::open(shared).await })
            .await?;
        Ok(Box::new(Polled::new(self.driver.clone(), source, first)))
    }

    /// # Complexity
    /// O(rows), on the server.
    async fn count(&self) -> Result<Option<u64>, StoreError> {
        self.call("sessions could not be counted", |shared| async move {
            let rows = read(&shared.pool, || statement(&shared.texts.count)).await?;
            Ok(rows.first().map(|row| row.try_get(0).map(unsigned)).transpose()?)
        })
        .await
    }

    async fn close(&self) -> Result<(), StoreError> {
        // The pool is the app's.
        self.shared.closed.store(true, Ordering::Release);
        Ok(())
    }
}
