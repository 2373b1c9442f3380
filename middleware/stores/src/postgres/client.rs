//! A connection lent from the pool, and what its errors mean. It knows no statement. A connection that is given back in
//! the middle of a transaction, or of an answer, is closed instead.

use std::error::Error as _;
use std::ops::Deref;

use deadpool_postgres::{Object, Pool, PoolError};
use sessile_engine::store::{StoreError, StoreErrorKind};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::NAME;
use crate::sql::postgres;

/// A connection that goes back to the pool only when its work is [`done`](Self::done).
pub(super) struct Lent(Option<Object>);

impl Lent {
    pub(super) async fn from(pool: &Pool) -> Result<Self, Failure> {
        Ok(Self(Some(pool.get().await.map_err(|e| match e {
            PoolError::Backend(e) => Failure::Driver(e),
            PoolError::PostCreateHook(deadpool_postgres::HookError::Backend(e)) => Failure::Driver(e),
            PoolError::Closed => Failure::Store(crate::sql::closed(NAME)),
            other => Failure::Store(
                StoreError::new(StoreErrorKind::Unavailable, NAME, "no connection").with_source(other),
            ),
        })?)))
    }

    /// Nothing is under way on it.
    pub(super) fn done(mut self) {
        self.0 = None;
    }

    /// Ends its transaction, of which all answers have been read, and gives it back.
    pub(super) async fn roll_back(self) -> Result<(), Failure> {
        self.batch_execute("ROLLBACK").await?;
        self.done();
        Ok(())
    }

    /// Takes it from the pool for good.
    pub(super) fn keep(mut self) -> Option<deadpool_postgres::ClientWrapper> {
        self.0.take().map(Object::take)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
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
    fn code(&self) -> Option<&str> {
        match self {
            Self::Driver(e) => e.code().map(SqlState::code),
            Self::Store(_) => None,
        }
    }

    /// See [`postgres::is_race`].
    pub(super) fn is_race(&self) -> bool {
        self.code().is_some_and(postgres::is_race)
    }

    /// The connection had ended before; for what has not changed anything yet, another may do.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Self::Driver(e) => {
                e.is_closed() || io(e) || e.code().is_some_and(|code| code.code() == postgres::ADMIN_SHUTDOWN)
            }
            Self::Store(_) => false,
        }
    }

    pub(super) fn is_missing_table(&self) -> bool {
        self.code() == Some(postgres::UNDEFINED_TABLE)
    }

    pub(super) fn into_store(self, what: &'static str) -> StoreError {
        match self {
            Self::Store(e) => e,
            Self::Driver(e) => StoreError::new(kind(&e), NAME, what).with_source(Told(e)),
        }
    }
}

fn io(e: &Error) -> bool {
    e.source().is_some_and(|source| source.is::<std::io::Error>())
}

fn kind(e: &Error) -> StoreErrorKind {
    let Some(code) = e.code() else {
        // Without a code it is the connection, or its set-up.
        return if e.is_closed() || io(e) { StoreErrorKind::Unavailable } else { of_setup(e) };
    };
    postgres::kind_of(code.code())
}

fn of_setup(e: &Error) -> StoreErrorKind {
    let text = e.to_string();
    if text.starts_with("authentication") || text.starts_with("invalid") {
        StoreErrorKind::Config
    } else {
        StoreErrorKind::Unavailable
    }
}

/// The driver's error with all that it says: by itself it names only the step that failed. The detail of a message may
/// hold a row's values, and is left out.
struct Told(Error);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(db) = self.0.as_db_error() {
            return write!(f, "{} ({})", db.message(), db.code().code());
        }
        write!(f, "{}", self.0)?;
        match self.0.source() {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Told {}

impl Deref for Lent {
    type Target = deadpool_postgres::ClientWrapper;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Some(object) => object,
            // `done` and `keep` take the value: nobody can look any more.
            None => unreachable!("a connection that was given back"),
        }
    }
}
