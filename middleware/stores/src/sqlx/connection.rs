//! A pool and a connection of `SQLx`'s, and what its errors mean. It knows no statement of ours.

use std::borrow::Cow;

use sessile_engine::store::{StoreError, StoreErrorKind};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, AssertSqlSafe, Error, FromRow, PgConnection, PgPool, Postgres};

use super::NAME;
use crate::sql::postgres::pooled::{Connection, Meaning, Pool, Value};
use crate::sql::postgres::watch::News;
use crate::sql::{Raw, postgres};

impl Pool for PgPool {
    const NAME: &'static str = NAME;

    type Error = Error;
    type Connection = PgConnection;
    type Lent = PoolConnection<Postgres>;

    async fn lend(&self) -> Result<PoolConnection<Postgres>, Error> {
        self.acquire().await
    }

    fn detach(lent: PoolConnection<Postgres>) -> PgConnection {
        lent.detach()
    }
}

fn arguments(with: &[Value<'_>]) -> Result<PgArguments, Error> {
    let mut arguments = PgArguments::default();
    for value in with {
        match *value {
            Value::Number(n) => arguments.add(n),
            Value::Bytes(bytes) => arguments.add(bytes),
            Value::Text(text) => arguments.add(text),
            Value::Numbers(numbers) => arguments.add(numbers),
            Value::List(list) => arguments.add(list),
            Value::Options(options) => arguments.add(options),
        }
        .map_err(Error::Encode)?;
    }
    Ok(arguments)
}

/// The rows of a statement, whose text is ours: the names in it were checked.
async fn rows<T>(connection: &mut PgConnection, text: &str, with: &[Value<'_>]) -> Result<Vec<T>, Error>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    sqlx::query_as_with(AssertSqlSafe(text), arguments(with)?).fetch_all(connection).await
}

impl Connection for PgConnection {
    type Error = Error;

    async fn run(&mut self, text: &str) -> Result<(), Error> {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(self).await?;
        Ok(())
    }

    async fn execute(&mut self, text: &str, with: &[Value<'_>]) -> Result<(), Error> {
        sqlx::query_with(AssertSqlSafe(text), arguments(with)?).execute(self).await?;
        Ok(())
    }

    async fn sessions(&mut self, text: &str, with: &[Value<'_>]) -> Result<Vec<Raw>, Error> {
        Ok(rows(self, text, with).await?.into_iter().map(Raw::of).collect())
    }

    async fn versions(&mut self, text: &str, with: &[Value<'_>]) -> Result<Vec<(Vec<u8>, i64)>, Error> {
        rows(self, text, with).await
    }

    async fn numbers(&mut self, text: &str) -> Result<Vec<i64>, Error> {
        Ok(rows(self, text, &[]).await?.into_iter().map(|(n,)| n).collect())
    }

    async fn pair(&mut self, text: &str, with: &[Value<'_>]) -> Result<(i64, i64), Error> {
        rows(self, text, with).await?.pop().ok_or(Error::RowNotFound)
    }

    async fn news(&mut self, text: &str, with: &[Value<'_>]) -> Result<Vec<News>, Error> {
        rows(self, text, with).await
    }
}

fn code(e: &Error) -> Option<Cow<'_, str>> {
    match e {
        Error::Database(e) => e.code(),
        _ => None,
    }
}

impl Meaning for Error {
    fn is_race(&self) -> bool {
        code(self).is_some_and(|code| postgres::is_race(&code))
    }

    fn is_stale(&self) -> bool {
        matches!(self, Error::Io(_)) || code(self).is_some_and(|code| code == postgres::ADMIN_SHUTDOWN)
    }

    fn is_answer(&self) -> bool {
        matches!(self, Error::Database(_))
    }

    fn into_store(self, what: &'static str) -> StoreError {
        StoreError::new(kind(&self), NAME, what).with_source(Told(self))
    }
}

fn kind(e: &Error) -> StoreErrorKind {
    match e {
        Error::Database(e) => e.code().map_or(StoreErrorKind::Unavailable, |code| postgres::kind_of(&code)),
        Error::PoolClosed => StoreErrorKind::Closed,
        Error::Configuration(_) | Error::Tls(_) => StoreErrorKind::Config,
        // Columns of other types than ours.
        Error::ColumnDecode { .. } | Error::ColumnNotFound(_) | Error::ColumnIndexOutOfBounds { .. } => {
            StoreErrorKind::Config
        }
        _ => StoreErrorKind::Unavailable,
    }
}

/// The driver's error with what it says. The detail of a message may hold a row's values, and is left out.
struct Told(Error);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Error::Database(e) => write!(f, "{} ({})", e.message(), e.code().unwrap_or_default()),
            Error::Configuration(_) => f.write_str("its configuration is wrong"),
            e => write!(f, "{e}"),
        }
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Told {}
