//! A connection lent from the app's pool, and what its errors mean. It knows no statement of ours. A connection that is
//! given back in the middle of a transaction, or of an answer, is closed instead.

use sessile_engine::store::{StoreError, StoreErrorKind};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Error, PgConnection, PgPool, Postgres};

use super::NAME;
use crate::sql::postgres;

/// A statement with parameters. Its text is ours, and the names in it were checked.
pub(super) fn statement<'q>(text: &str) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(AssertSqlSafe(text))
}

/// A connection that goes back to the pool only when its work is [`done`](Self::done).
pub(super) struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    pub(super) async fn from(pool: &PgPool) -> Result<Self, Failure> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    pub(super) fn get(&mut self) -> Result<&mut PgConnection, Failure> {
        // It is taken by those who take `self` too.
        self.0.as_deref_mut().ok_or_else(|| Failure::Store(crate::sql::closed(NAME)))
    }

    /// Runs statements without parameters, in one exchange.
    pub(super) async fn run(&mut self, text: &str) -> Result<(), Failure> {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(self.get()?).await?;
        Ok(())
    }

    /// Nothing is under way on it.
    pub(super) fn done(mut self) {
        self.0 = None;
    }

    /// Ends the transaction, whatever its state, and gives the connection back.
    pub(super) async fn roll_back(mut self) -> Result<(), Failure> {
        self.run("ROLLBACK").await?;
        self.done();
        Ok(())
    }

    /// Takes it from the pool for good.
    pub(super) fn keep(mut self) -> Option<PgConnection> {
        self.0.take().map(PoolConnection::detach)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// A failure, with the driver's own error while it matters what it was.
#[derive(Debug)]
pub(super) enum Failure {
    Driver(Error),
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Driver(e)
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl Failure {
    fn is(&self, what: impl FnOnce(&str) -> bool) -> bool {
        match self {
            Self::Driver(Error::Database(e)) => e.code().is_some_and(|code| what(&code)),
            Self::Driver(_) | Self::Store(_) => false,
        }
    }

    /// See [`postgres::is_race`].
    pub(super) fn is_race(&self) -> bool {
        self.is(postgres::is_race)
    }

    /// The connection had ended before; for what has not changed anything yet, another may do.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Driver(Error::Io(_))) || self.is(|code| code == postgres::ADMIN_SHUTDOWN)
    }

    pub(super) fn is_missing_table(&self) -> bool {
        self.is(|code| code == postgres::UNDEFINED_TABLE)
    }

    pub(super) fn into_store(self, what: &'static str) -> StoreError {
        match self {
            Self::Store(e) => e,
            Self::Driver(e) => StoreError::new(kind(&e), NAME, what).with_source(Told(e)),
        }
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
