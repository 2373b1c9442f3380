//! A connection lent from the pool, and what its errors mean. It knows no statement. A connection that is given back in
//! the middle of a transaction, or of an answer, is closed instead.

use std::fmt;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, DriverError, Error, Pool, Row};
use sessile_engine::store::{StoreError, StoreErrorKind};

use super::NAME;

/// How long a connection may take to end. An answer that never comes must not keep its place in the pool.
const FAREWELL: Duration = Duration::from_millis(250);

/// A connection that goes back to the pool only when its work is [`done`](Self::done).
pub(super) struct Lent(Option<Conn>);

impl Lent {
    pub(super) async fn from(pool: &Pool) -> Result<Self, Error> {
        Ok(Self(Some(pool.get_conn().await?)))
    }

    /// Nothing is under way on it.
    pub(super) fn done(mut self) {
        self.0 = None;
    }

    /// Runs statements; the rows of the last one.
    pub(super) async fn run(&mut self, text: String) -> Result<Vec<Row>, Error> {
        let Some(conn) = &mut self.0 else { return Err(DriverError::ConnectionClosed.into()) };
        let mut result = conn.query_iter(text).await?;
        let mut rows = result.collect().await?;
        while !result.is_empty() {
            rows = result.collect().await?;
        }
        result.drop_result().await?;
        Ok(rows)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The pool would take it back, with whatever answer is still to come.
        if let (Some(conn), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(FAREWELL, conn.disconnect()));
        }
    }
}

fn code(e: &Error) -> Option<u16> {
    match e {
        Error::Server(e) => Some(e.code),
        _ => None,
    }
}

/// Others were in the way: a deadlock, or a key that was not there when the rows were locked.
pub(super) fn is_race(e: &Error) -> bool {
    matches!(code(e), Some(1213 | 1020 | 1062))
}

/// The connection had ended before; for what has not changed anything yet, another may do.
pub(super) fn is_stale(e: &Error) -> bool {
    matches!(e, Error::Io(_) | Error::Driver(DriverError::ConnectionClosed)) || code(e) == Some(1053)
}

pub(super) fn is_missing_table(e: &Error) -> bool {
    code(e) == Some(1146)
}

/// What the driver says, without the rows and packets that its errors carry.
#[derive(Debug)]
struct Told(String);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Told {}

pub(super) fn store_error(what: &'static str, e: &Error) -> StoreError {
    StoreError::new(kind(e), NAME, what).with_source(Told(e.to_string()))
}

fn kind(e: &Error) -> StoreErrorKind {
    match e {
        Error::Server(e) => of_code(e.code),
        Error::Url(_) => StoreErrorKind::Config,
        Error::Driver(e) => match e {
            DriverError::PacketTooLarge => StoreErrorKind::TooLarge,
            DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled
            | DriverError::NoClientSslFlagFromServer
            | DriverError::NoKeyFound => StoreErrorKind::Config,
            _ => StoreErrorKind::Unavailable,
        },
        _ => StoreErrorKind::Unavailable,
    }
}

fn of_code(code: u16) -> StoreErrorKind {
    match code {
        1021 | 1114 => StoreErrorKind::Full,
        1153 | 1301 => StoreErrorKind::TooLarge,
        1034 | 1194 | 1195 | 1712 => StoreErrorKind::Corrupt,
        // The user, the database, a right, a table, a column, the statement itself, a binary log of statements.
        1044 | 1045 | 1049 | 1054 | 1064 | 1142 | 1143 | 1146 | 1227 | 1251 | 1364 | 1406 | 1665 | 1698 => {
            StoreErrorKind::Config
        }
        _ => StoreErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (code, kind) in [
            (1114, StoreErrorKind::Full),
            (1021, StoreErrorKind::Full),
            (1040, StoreErrorKind::Unavailable),
            (1053, StoreErrorKind::Unavailable),
            (1205, StoreErrorKind::Unavailable),
            (1213, StoreErrorKind::Unavailable),
            (1290, StoreErrorKind::Unavailable),
            (1045, StoreErrorKind::Config),
            (1049, StoreErrorKind::Config),
            (1146, StoreErrorKind::Config),
            (1665, StoreErrorKind::Config),
            (1153, StoreErrorKind::TooLarge),
            (1712, StoreErrorKind::Corrupt),
        ] {
            assert_eq!(of_code(code), kind, "{code}");
        }
    }
}
