//! A connection lent from the pool, and what its errors mean. It knows no statement but the settings of a new connection.
//! A connection that is given back in the middle of a call is closed instead.

use std::fmt;
use std::time::Duration;

use deadpool::managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult};
use sessile_engine::store::{StoreError, StoreErrorKind};
use tiberius::error::Error;
use tiberius::{AuthMethod, Client, Config, EncryptionLevel, Row, ToSql};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt as _};

use super::NAME;
use super::address::{Address, Encryption};
use super::text::settings;
use crate::sql;

/// A connection to the server, encrypted or not.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for T {}
pub(super) type Wire = Box<dyn Duplex>;

type Conn = Client<Compat<Wire>>;

/// Makes the pool's connections.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) address: Address,
    pub(super) deadline: Duration,
}

pub(super) type Connected = Pool<Connections>;

impl Connections {
    async fn connect(&self, host: &str, port: u16) -> Result<Conn, Failure> {
        let tcp = TcpStream::connect((host, port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let wire = self.protected(tcp, host).await?;
        let mut config = Config::new();
        config.host(host);
        config.port(port);
        if let Some(database) = &self.address.database {
            config.database(database);
        }
        config.application_name("sessile");
        config.authentication(AuthMethod::sql_server(&self.address.user, &self.address.password));
        // Not the driver's business: see `tls`.
        config.encryption(EncryptionLevel::NotSupported);
        config.handshake_timeout(Some(self.deadline));
        Ok(Box::pin(Client::connect(config, wire.compat_write())).await?)
    }

    #[cfg(feature = "tls-rustls")]
    async fn protected(&self, tcp: TcpStream, host: &str) -> Result<Wire, StoreError> {
        match self.address.encryption {
            Encryption::Off => Ok(Box::new(tcp)),
            Encryption::On => Box::pin(super::tls::inside(tcp, host)).await,
            Encryption::Strict => Box::pin(super::tls::around(tcp, host)).await,
        }
    }

    #[cfg(not(feature = "tls-rustls"))]
    async fn protected(&self, tcp: TcpStream, _: &str) -> Result<Wire, StoreError> {
        match self.address.encryption {
            Encryption::Off => Ok(Box::new(tcp)),
            Encryption::On | Encryption::Strict => Err(StoreError::new(
                StoreErrorKind::Config,
                NAME,
                "encryption needs the feature `tls-rustls`; `encrypt=false` in the URL does without",
            )),
        }
    }
}

impl Manager for Connections {
    type Type = Conn;
    type Error = Failure;

    async fn create(&self) -> Result<Conn, Failure> {
        let address = &self.address;
        let mut conn = match self.connect(&address.host, address.port).await {
            // The gateway of a cloud names the server behind it.
            Err(Failure::Driver(Error::Routing { host, port })) => self.connect(&host, port).await?,
            other => other?,
        };
        let wait = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX).clamp(1, 3_600_000);
        batch(&mut conn, &settings(wait)).await?;
        Ok(conn)
    }

    async fn recycle(&self, _: &mut Conn, _: &Metrics) -> RecycleResult<Failure> {
        // Who lends it notices, and whoever is not done with it has closed it.
        Ok::<_, RecycleError<Failure>>(())
    }
}

fn unreachable(e: std::io::Error) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, NAME, "the server cannot be reached").with_source(e)
}

/// A connection that goes back to the pool only when its work is [`done`](Self::done).
pub(super) struct Lent(Option<Object<Connections>>);

impl Lent {
    pub(super) async fn from(pool: &Connected) -> Result<Self, Failure> {
        Ok(Self(Some(pool.get().await.map_err(|e| {
            match e {
                PoolError::Backend(e) => e,
                PoolError::Closed => Failure::Store(sql::closed(NAME)),
                other => Failure::Store(
                    StoreError::new(StoreErrorKind::Unavailable, NAME, "no connection")
                        .with_source(Told::of(&other)),
                ),
            }
        })?)))
    }

    /// Nothing is under way on it.
    pub(super) fn done(mut self) {
        self.0 = None;
    }

    fn conn(&mut self) -> Result<&mut Conn, Failure> {
        match &mut self.0 {
            Some(conn) => Ok(&mut **conn),
            None => Err(Failure::Store(sql::closed(NAME))),
        }
    }

    /// Runs a statement; the rows of its last result.
    pub(super) async fn run(&mut self, text: &str, params: &[&dyn ToSql]) -> Result<Vec<Row>, Failure> {
        let conn = self.conn()?;
        let results = Box::pin(async { conn.query(text, params).await?.into_results().await }).await?;
        Ok(results.into_iter().next_back().unwrap_or_default())
    }

    /// Runs a batch without parameters, with nothing around it.
    pub(super) async fn batch(&mut self, text: &str) -> Result<(), Failure> {
        batch(self.conn()?, text).await
    }
}

async fn batch(conn: &mut Conn, text: &str) -> Result<(), Failure> {
    Box::pin(async { conn.simple_query(text).await?.into_results().await }).await?;
    Ok(())
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The pool would take it back, with whatever answer is still to come.
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
    fn code(&self) -> Option<u32> {
        match self {
            Self::Driver(e) => e.code(),
            Self::Store(_) => None,
        }
    }

    /// Others were in the way: a deadlock, or a key that was not there when the rows were read. The server has rolled back.
    pub(super) fn is_race(&self) -> bool {
        matches!(self.code(), Some(1205 | 2601 | 2627))
    }

    /// Somebody made the same tables at the same time.
    pub(super) fn is_made(&self) -> bool {
        self.is_race() || self.code() == Some(2714)
    }

    /// The connection had ended before; for what has not changed anything yet, another may do.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Driver(Error::Io { .. }))
    }

    pub(super) fn is_missing_table(&self) -> bool {
        self.code() == Some(208)
    }

    pub(super) fn into_store(self, what: &'static str) -> StoreError {
        match self {
            Self::Store(e) => e,
            Self::Driver(e) => StoreError::new(kind(&e), NAME, what).with_source(Told::of(&e)),
        }
    }
}

/// What an error says, without what else it carries.
#[derive(Debug)]
struct Told(String);

impl Told {
    fn of(e: &impl fmt::Display) -> Self {
        Self(e.to_string())
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Told {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver(e) => e.fmt(f),
            Self::Store(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

fn kind(e: &Error) -> StoreErrorKind {
    match e {
        Error::Server(e) => of_code(e.code()),
        Error::Tls(_) | Error::Conversion(_) => StoreErrorKind::Config,
        _ => StoreErrorKind::Unavailable,
    }
}

fn of_code(code: u32) -> StoreErrorKind {
    match code {
        // No room in a file, in the log, in the quota of a service.
        1101 | 1105 | 9002 | 40544 => StoreErrorKind::Full,
        // A page that is damaged.
        605 | 823..=825 => StoreErrorKind::Corrupt,
        // The statement, a table, a column, a right, a length, a schema, the database, the user, the password.
        102 | 156 | 195 | 207 | 208 | 229 | 230 | 262 | 515 | 916 | 1088 | 2628 | 2760 | 4060 | 8152
        | 18452 | 18456 | 18470 | 18487 | 18488 => StoreErrorKind::Config,
        _ => StoreErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (code, kind) in [
            (9002, StoreErrorKind::Full),
            (1105, StoreErrorKind::Full),
            (824, StoreErrorKind::Corrupt),
            (208, StoreErrorKind::Config),
            (229, StoreErrorKind::Config),
            (4060, StoreErrorKind::Config),
            (18456, StoreErrorKind::Config),
            (1205, StoreErrorKind::Unavailable),
            (1222, StoreErrorKind::Unavailable),
            (40501, StoreErrorKind::Unavailable),
            (40613, StoreErrorKind::Unavailable),
        ] {
            assert_eq!(of_code(code), kind, "{code}");
        }
    }
}
