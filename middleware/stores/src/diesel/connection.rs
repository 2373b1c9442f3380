//! A pool and a connection of `diesel-async`'s, and what their errors mean. It knows no statement of ours.

use std::marker::PhantomData;

use diesel::deserialize::{self, FromSqlRow, QueryableByName};
use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::result::{ConnectionError, DatabaseErrorKind, Error as QueryError};
use diesel::row::NamedRow;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text};
use diesel_async::pooled_connection::PoolError as Refusal;
use diesel_async::pooled_connection::deadpool::{Object, Pool as Deadpool, PoolError};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;
use crate::sql::Raw;
use crate::sql::postgres::pooled::{Connection, Meaning, Pool, Value};
use crate::sql::postgres::watch::News;

impl Pool for Deadpool<AsyncPgConnection> {
    const NAME: &'static str = NAME;

    type Error = Error;
    type Connection = AsyncPgConnection;
    type Lent = Object<AsyncPgConnection>;

    async fn lend(&self) -> Result<Object<AsyncPgConnection>, Error> {
        self.get().await.map_err(|e| match e {
            PoolError::Backend(Refusal::QueryError(e)) => Error::Query(e),
            PoolError::Backend(Refusal::ConnectionError(e)) => Error::Connection(e),
            e => Error::Pool(e),
        })
    }

    fn detach(lent: Object<AsyncPgConnection>) -> AsyncPgConnection {
        Object::take(lent)
    }
}

/// A statement, whose text is ours: the names in it were checked.
fn statement<'a>(text: &str, with: &'a [Value<'a>]) -> BoxedSqlQuery<'a, Pg, SqlQuery> {
    with.iter().fold(diesel::sql_query(text).into_boxed(), |statement, value| match *value {
        Value::Number(n) => statement.bind::<BigInt, _>(n),
        Value::Bytes(bytes) => statement.bind::<Binary, _>(bytes),
        Value::Text(text) => statement.bind::<Text, _>(text),
        Value::Numbers(numbers) => statement.bind::<Array<BigInt>, _>(numbers),
        Value::List(list) => statement.bind::<Array<Binary>, _>(list),
        Value::Options(options) => statement.bind::<Array<Nullable<Binary>>, _>(options),
    })
}

/// The columns of a row by their places: not all of ours have names.
struct Columns<Sql, T>(T, PhantomData<Sql>);

impl<Sql, T: FromSqlRow<Sql, Pg>> QueryableByName<Pg> for Columns<Sql, T> {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        Ok(Self(T::build_from_row(row)?, PhantomData))
    }
}

/// The rows of a statement, whose columns are of the types `Sql`.
async fn rows<Sql, T>(
    connection: &mut AsyncPgConnection,
    text: &str,
    with: &[Value<'_>],
) -> Result<Vec<T>, Error>
where
    Sql: Send + 'static,
    T: FromSqlRow<Sql, Pg> + Send + 'static,
{
    let rows: Vec<Columns<Sql, T>> = statement(text, with).load(connection).await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}

impl Connection for AsyncPgConnection {
    type Error = Error;

    async fn run(&mut self, text: &str) -> Result<(), Error> {
        Ok(self.batch_execute(text).await?)
    }

    async fn execute(&mut self, text: &str, with: &[Value<'_>]) -> Result<(), Error> {
        statement(text, with).execute(self).await?;
        Ok(())
    }

    async fn sessions(&mut self, text: &str, with: &[Value<'_>]) -> Result<Vec<Raw>, Error> {
        type Sql = (Binary, BigInt, BigInt, Nullable<Binary>, Binary);
        Ok(rows::<Sql, _>(self, text, with).await?.into_iter().map(Raw::of).collect())
    }

    async fn versions(&mut self, text: &str, with: &[Value<'_>]) -> Result<Vec<(Vec<u8>, i64)>, Error> {
        rows::<(Binary, BigInt), _>(self, text, with).await
    }

    async fn numbers(&mut self, text: &str) -> Result<Vec<i64>, Error> {
        rows::<BigInt, _>(self, text, &[]).await
    }

    async fn pair(&mut self, text: &str, with: &[Value<'_>]) -> Result<(i64, i64), Error> {
        let answer = rows::<(BigInt, BigInt), _>(self, text, with).await?;
        answer.into_iter().next().ok_or(Error::Query(QueryError::NotFound))
    }

    async fn news(&mut self, text: &str, with: &[Value<'_>]) -> Result<Vec<News>, Error> {
        rows::<(Text, BigInt, Nullable<Binary>), _>(self, text, with).await
    }
}

/// A failure of a statement, of a new connection, or of the pool.
pub(crate) enum Error {
    Query(QueryError),
    Connection(ConnectionError),
    Pool(PoolError),
}

impl From<QueryError> for Error {
    fn from(e: QueryError) -> Self {
        Self::Query(e)
    }
}

impl Error {
    fn of_server(&self) -> Option<(&DatabaseErrorKind, &str)> {
        match self {
            Self::Query(QueryError::DatabaseError(kind, e)) => Some((kind, e.message())),
            _ => None,
        }
    }
}

impl Meaning for Error {
    /// A deadlock has no kind of its own in Diesel. In another language than English it is an error like others: ours lock
    /// their rows in one order, so it is with a statement that is not ours.
    fn is_race(&self) -> bool {
        self.of_server().is_some_and(|(kind, message)| match kind {
            DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::UniqueViolation => true,
            _ => message == "deadlock detected",
        })
    }

    /// A connection that the server has ended by an order tells so once, without a kind, and then cannot send.
    fn is_stale(&self) -> bool {
        self.of_server().is_some_and(|(kind, message)| match kind {
            DatabaseErrorKind::UnableToSendCommand | DatabaseErrorKind::ClosedConnection => true,
            _ => message.starts_with("terminating connection"),
        })
    }

    fn is_answer(&self) -> bool {
        self.of_server().is_some() && !self.is_stale()
    }

    fn into_store(self, what: &'static str) -> StoreError {
        StoreError::new(kind(&self), NAME, what).with_source(Told(self))
    }
}

fn kind(e: &Error) -> StoreErrorKind {
    match e {
        Error::Query(QueryError::DatabaseError(kind, _)) => match kind {
            DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::RestrictViolation
            | DatabaseErrorKind::ExclusionViolation => StoreErrorKind::Config,
            _ => StoreErrorKind::Unavailable,
        },
        // Columns of other types than ours.
        Error::Query(QueryError::DeserializationError(_)) => StoreErrorKind::Config,
        Error::Connection(ConnectionError::InvalidConnectionUrl(_)) => StoreErrorKind::Config,
        Error::Pool(PoolError::Closed) => StoreErrorKind::Closed,
        Error::Query(_) | Error::Connection(_) | Error::Pool(_) => StoreErrorKind::Unavailable,
    }
}

/// The error with what it says. The detail of a message may hold a row's values, and is left out; a URL holds a password.
struct Told(Error);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Error::Query(e) => write!(f, "{e}"),
            Error::Connection(ConnectionError::InvalidConnectionUrl(_)) => {
                f.write_str("its URL cannot be read")
            }
            Error::Connection(e) => write!(f, "{e}"),
            Error::Pool(e) => write!(f, "{e}"),
        }
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Told {}
