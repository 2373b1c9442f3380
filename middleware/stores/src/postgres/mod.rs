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

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::Pool;
use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, Watch,
};
use tokio_postgres::types::ToSql;

pub use self::builder::Builder;
use self::client::{Failure, Lent};
use crate::driver::Driver;
use crate::sql::postgres::text::Texts;
use crate::sql::postgres::watch::Polled;
use crate::sql::{self, Listing, MAX_ROW_BYTES, Raw, unsigned};

const NAME: &str = "postgres";

/// A [`Store`] in PostgreSQL 13 or newer.
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
pub struct PostgresStore {
    shared: Arc<Shared>,
    driver: Driver,
}

struct Shared {
    pool: Pool,
    owns_pool: bool,
    texts: Texts,
    closed: AtomicBool,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("closed", &self.shared.closed.load(Ordering::Acquire))
            .finish_non_exhaustive()
    }
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

    /// Runs `call` on the store's own thread, if the store is open.
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

/// The columns from `at` on; without an id if there is none.
fn raw(row: &tokio_postgres::Row, at: usize) -> Result<Raw, tokio_postgres::Error> {
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
    let rows = read(&shared.pool, &shared.texts.list, &[&after, &limit]).await?;
    Ok(rows.iter().map(|row| raw(row, 1)).collect::<Result<_, _>>()?)
}

impl Store for PostgresStore {
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
            for row in read(&shared.pool, &shared.texts.mark, &[]).await? {
                mark = mark.max(unsigned(row.try_get(0)?));
            }
            Ok(mark)
        })
        .await
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Row>, StoreError> {
        let id = *id;
        self.call("a session could not be loaded", move |shared| async move {
            let rows = read(&shared.pool, &shared.texts.load, &[&id.as_bytes().as_slice()]).await?;
            let Some(row) = rows.first() else { return Ok(None) };
            raw(row, 0)?.row().map(Some).ok_or_else(|| sql::damaged(NAME, &id).into())
        })
        .await
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        sql::check_rows(NAME, MAX_ROW_BYTES, changes)?;
        let changes = changes.to_vec();
        self.call("changes could not be committed", move |shared| async move {
            commit::commit(&shared.pool, &shared.texts, now, &changes).await
        })
        .await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, StoreError> {
        self.call("expired sessions could not be removed", move |shared| async move {
            commit::expire(&shared.pool, &shared.texts, now, high_water, limit).await
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
            let rows = read(&shared.pool, &shared.texts.list_owner, &[&owner]).await?;
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
            let rows = read(&shared.pool, &shared.texts.count, &[]).await?;
            Ok(rows.first().map(|row| row.try_get(0).map(unsigned)).transpose()?)
        })
        .await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shared.closed.store(true, Ordering::Release);
        if self.shared.owns_pool {
            self.shared.pool.close();
        }
        Ok(())
    }
}
