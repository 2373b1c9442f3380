//! Sessions in Microsoft SQL Server or Azure SQL, for several machines. It owns the pool and the tables; which change is
//! made, and when, it never decides. It tells of no changes: engines ask for versions instead.
//!
//! Nobody has run it against SQL Server yet. Its tests use a double, which speaks the protocol and keeps the rows in
//! SQLite: what it shows and what it cannot is in `docs/stores.md`.
//!
//! # Tables
//! `migrate` makes them, or you run what `schema_sql` gives. For the table `s` they are `s` (sessions), `s_quarantine`
//! (damaged sessions) and `s_marks` (version of the tables, high-water mark).
//!
//! # Connections
//! `mssql://user:password@host:port/database`, with a user of SQL Server's own. Connections are encrypted (feature
//! `tls-rustls`), by the certificates that the system trusts; `?encrypt=strict` asks for TDS 8, `?encrypt=false` sends
//! everything, the password included, in the clear.
//!
//! # Complexity
//! A commit is two exchanges with the server, of any number of rows: it reads their versions, and writes what follows in
//! one transaction if they are still the same. Nothing is locked between the two.

mod address;
mod builder;
mod client;
mod commit;
mod text;
#[cfg(feature = "tls-rustls")]
mod tls;

use std::time::Duration;

use sessile_engine::SessionId;
use sessile_engine::store::{
    Capabilities, Change, Expired, Listed, Outcome, Row, Scanned, Store, StoreError, StoreErrorKind, Watch,
};
use tiberius::{FromSql, ToSql};

pub use self::builder::Builder;
use self::client::{Connected, Failure, Lent};
use self::text::Texts;
use crate::driver::Driver;
use crate::sql::plan::Key;
use crate::sql::server::{Server, Tables, is_store};
use crate::sql::{Raw, unsigned};

const NAME: &str = "mssql";
/// Nothing is counted: the deadline of the call ends it.
const PAUSE: Duration = Duration::from_millis(2);

/// A [`Store`] in SQL Server 2016 or newer, or Azure SQL.
///
/// # Cancel safety
/// A call that is dropped goes on by itself, to its end or its deadline. A connection whose answer is incomplete is closed
/// and never lent again; no transaction outlives its exchange.
///
/// # Durability
/// A commit that returned is on the server's disk, unless the database has `DELAYED_DURABILITY = FORCED`.
///
/// # Examples
/// ```no_run
/// # async fn open() -> Result<(), sessile_engine::StoreError> {
/// use sessile_stores::mssql::MssqlStore;
///
/// let builder = MssqlStore::builder("mssql://app:secret@db.internal/app");
/// builder.migrate().await?;
/// let store = builder.open().await?;
/// # Ok(())
/// # }
/// ```
pub struct MssqlStore(Tables<Mssql>);

is_store!(MssqlStore);

struct Mssql {
    pool: Connected,
    texts: Texts,
}

fn column<'a, T: FromSql<'a>>(row: &'a tiberius::Row, at: usize) -> Result<Option<T>, Failure> {
    if at >= row.len() {
        return Err(other_columns());
    }
    row.try_get(at).map_err(|_| other_columns())
}

fn wanted<'a, T: FromSql<'a>>(row: &'a tiberius::Row, at: usize) -> Result<T, Failure> {
    column(row, at)?.ok_or_else(other_columns)
}

/// It does not carry the row.
fn other_columns() -> Failure {
    StoreError::new(StoreErrorKind::Config, NAME, "a column is missing, or of another type").into()
}

fn raw(row: &tiberius::Row) -> Result<Raw, Failure> {
    Ok(Raw {
        id: wanted::<&[u8]>(row, 0)?.to_vec(),
        version: unsigned(wanted(row, 1)?),
        expires_at: unsigned(wanted(row, 2)?),
        owner: column::<&[u8]>(row, 3)?.map(<[u8]>::to_vec),
        bytes: wanted::<&[u8]>(row, 4)?.to_vec(),
    })
}

/// Runs one query that changes nothing. If the server has ended the connection, all that wait in the pool are suspected
/// and closed, and a new one is asked.
async fn read(pool: &Connected, text: &str, params: &[&dyn ToSql]) -> Result<Vec<tiberius::Row>, Failure> {
    let mut fresh = false;
    loop {
        let mut conn = Lent::from(pool).await?;
        match conn.run(text, params).await {
            Ok(rows) => {
                conn.done();
                return Ok(rows);
            }
            Err(e) if e.is_stale() && !fresh => {
                fresh = true;
                pool.retain(|_, _| false);
            }
            Err(e) if e.is_race() => tokio::time::sleep(PAUSE).await,
            Err(e) => return Err(e),
        }
    }
}

async fn raws(pool: &Connected, text: &str, params: &[&dyn ToSql]) -> Result<Vec<Raw>, Failure> {
    read(pool, text, params).await?.iter().map(raw).collect()
}

async fn number(pool: &Connected, text: &str) -> Result<Option<i64>, Failure> {
    read(pool, text, &[]).await?.first().map(|row| wanted(row, 0)).transpose()
}

/// A number of rows as the parameter of a `TOP`.
fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl MssqlStore {
    /// Settings for the server that `url` names, as `mssql://user:password@host:port/database`. Nothing is connected yet.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::of_url(url.into())
    }
}

impl Server for Mssql {
    const NAME: &'static str = NAME;

    type Failure = Failure;

    fn error(what: &'static str, failure: Failure) -> StoreError {
        failure.into_store(what)
    }

    async fn mark(&self) -> Result<Option<u64>, Failure> {
        Ok(number(&self.pool, &self.texts.mark).await?.map(unsigned))
    }

    async fn load(&self, id: &Key) -> Result<Option<Raw>, Failure> {
        Ok(raws(&self.pool, &self.texts.load, &[&id.as_slice()]).await?.pop())
    }

    async fn page(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Raw>, Failure> {
        let limit = rows(limit);
        match after {
            None => raws(&self.pool, &self.texts.first, &[&limit]).await,
            Some(after) => raws(&self.pool, &self.texts.next, &[&after, &limit]).await,
        }
    }

    async fn of_owner(&self, owner: &str) -> Result<Vec<Raw>, Failure> {
        raws(&self.pool, &self.texts.list_owner, &[&owner.as_bytes()]).await
    }

    async fn count(&self) -> Result<Option<u64>, Failure> {
        Ok(number(&self.pool, &self.texts.count).await?.map(unsigned))
    }

    async fn commit(&self, now: u64, changes: &[Change]) -> Result<Vec<Outcome>, Failure> {
        commit::commit(self, now, changes).await
    }

    async fn expire(&self, now: u64, high_water: u64, limit: usize) -> Result<Expired, Failure> {
        commit::expire(self, now, high_water, limit).await
    }

    fn end(&self, _: &Driver) {
        self.pool.close();
    }
}
